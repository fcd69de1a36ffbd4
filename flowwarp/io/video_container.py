"""What readers of video share: opening files, orientation, timing, and frames as tensors."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.io._boxes import check_samples
from flowwarp.io.file_types import IMAGE_EXTENSIONS
from flowwarp.io.files import open_input
from flowwarp.io.images import list_frames
from flowwarp.io.limits import MAX_FRAME_PIXELS, check_pixels

_LOG = logging.getLogger(__name__)

DEFAULT_FPS = Fraction(25)  # of a folder of pictures, and of a file that states no rate

# Containers that hold the frames themselves. Playlists (HLS, concat) would open other files.
_CONTAINERS = (
    "mov,mp4,avi,matroska,webm,gif,apng,mpeg,mpegts,flv,asf,ogg,h264,hevc,mpegvideo,nut"
    ",yuv4mpegpipe"
)
_ORIENTATION_PACKETS = 64  # packets that are searched for a frame with a display matrix
_IDENTITY = np.array([1, 0, 0, 0, 1], np.int32)  # the first five numbers of a display matrix
# Flags of swscale: SWS_ACCURATE_RND, SWS_FULL_CHR_H_INP and SWS_BICUBIC. Its default rounds down,
# so that a video would become darker each time it is read and written.
_EXACT = 0x40000 | 0x2000 | 0x4


# ------------------------------------------------------------------ opening


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file and yield its container and the video stream that players show.

    Of several streams, players do not always show the first.

    Raises:
        InputError: missing, not a video, in an unknown codec, or larger than the limits.
    """
    with open_input(path) as (file, size):
        check_samples(path, file, size)
        try:
            # A file object rather than a name, which ffmpeg would read as a URL ("concat:...").
            container = av.open(file, options={"format_whitelist": _CONTAINERS})
        except (av.FFmpegError, ValueError) as fault:
            if Path(path).suffix.lower() in IMAGE_EXTENSIONS:
                raise InputError(path, "is not a video", "give a folder of frames") from fault
            raise InputError(path, "is not a video of a known type, or is cut off") from fault
        with container:
            stream: Any = container.streams.best("video")  # typed as a stream of any kind
            if stream is None:
                raise InputError(path, "contains no video stream")
            if stream.codec_context is None:
                raise InputError(path, "is a video in an unknown codec")
            context = stream.codec_context
            check_pixels(path, context.width, context.height, size, MAX_FRAME_PIXELS)
            # A stream may announce a larger size later than the container did.
            context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            stream.thread_type = "AUTO"
            yield container, stream


def list_pictures(folder: str | Path) -> list[Path]:
    """Return the pictures of a folder in order.

    Raises:
        InputError: there are none, or it is not a readable folder.
    """
    frames = list_frames(folder)
    if not frames:
        raise InputError(folder, "is a folder without pictures")
    return frames


def is_webp(path: str | Path) -> bool:
    """Return whether a file begins as a WebP does.

    Raises:
        InputError: it is missing or unreadable.
    """
    with open_input(path) as (file, _):
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


@contextmanager
def open_webp(path: str | Path) -> Iterator[Image.Image]:
    """Open an animated WebP with Pillow: the ffmpeg in PyAV only writes them.

    Raises:
        InputError: missing, broken, or larger than the limits.
    """
    with open_input(path) as (file, size):
        try:
            with warnings.catch_warnings():  # Pillow warns of large sizes; check_pixels refuses
                warnings.simplefilter("ignore")
                opened = Image.open(file, formats=("WEBP",))
            with opened as picture:
                check_pixels(path, *picture.size, size, MAX_FRAME_PIXELS)
                yield picture
        except (OSError, ValueError, EOFError, Image.DecompressionBombError) as fault:
            if isinstance(fault, InputError):
                raise
            raise InputError(path, f"is a broken WebP ({fault})") from fault


def decode_webp(
    path: str | Path, *, alpha: bool = False
) -> Iterator[tuple[Tensor, Fraction, Fraction]]:
    """Yield the frames of a WebP, when each is shown, and for how long, in seconds.

    A frame is (3, H, W) float32 RGB in [0, 1], with ``alpha`` (4, H, W) if it has opacity.

    Raises:
        InputError: missing, broken, or larger than the limits.
    """
    start = Fraction(0)
    with open_webp(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            full = frame if frame.mode == "RGBA" else frame.convert("RGB")
            image = pixels_to_tensor(path, np.asarray(full), alpha=alpha)  # reads the time, too
            seconds = Fraction(int(frame.info.get("duration", 0)), 1000)
            yield image, start, seconds
            start += seconds


def choose_decoder(stream: Any) -> Any:
    """Return a decoder of a stream that decodes its transparency.

    The transparency of VP8 and VP9 lies beside the frames, where only libvpx looks for it.
    """
    context = stream.codec_context
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.name)
    if name is None or stream.metadata.get("alpha_mode") != "1":
        return context
    decoder = av.CodecContext.create(name, "r")
    decoder.extradata = context.extradata
    decoder.options = context.options
    decoder.thread_type = context.thread_type
    return decoder


# ------------------------------------------------------------------ timing


def stated_rate(stream: Any) -> Fraction:
    """Return the frames a second that a stream states, else ``DEFAULT_FPS``."""
    return Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def packet_time(packet: Any) -> int | None:
    """Return a packet's presentation time, else its decoding time, in ticks of its stream."""
    if packet is None:
        return None
    time: int | None = packet.dts if packet.pts is None else packet.pts
    return time


def frame_seconds(frame: Any, stream: Any) -> Fraction:
    """Return for how many seconds a frame is shown: the last may be held longer than the others.

    Where a container does not state it, it follows from the frame rate.
    """
    return Fraction(max(frame.duration * stream.time_base, 1 / stated_rate(stream)))


def check_complete(
    path: str | Path, container: Any, stream: Any, count: int, end: Fraction
) -> None:
    """Compare the number of decoded frames and the time at which they end with the header.

    Args:
        path: names the file in messages.
        container: of PyAV.
        stream: its video stream.
        count: of decoded frames.
        end: of the last one, in seconds.

    Raises:
        InputError: frames are missing at the end.
    """
    if count == 0:
        raise InputError(path, "contains no frame that can be decoded")
    # A file that is cut exactly between two frames is not corrupt, only shorter than it states.
    missing = _stated_seconds(container, stream) - end
    if missing > Fraction(3, 2) / stated_rate(stream) or _is_cut_gif(container, path):
        raise InputError(path, f"breaks off after {count} frames")
    # ffmpeg merges all pictures of a GIF that have no duration into one frame.
    if container.format.name == "gif" and count < stream.frames:
        problem = f"has {stream.frames} pictures, of which only {count} can be distinguished"
        raise InputError(path, problem, "save it again with a duration for each")


def _stated_seconds(container: Any, stream: Any) -> Fraction:
    """Return the stream's length in seconds as its header states it; 0 if it does not."""
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    # Matroska states one length for all streams, which may be that of the sound.
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return Fraction(0)


def _is_cut_gif(container: Any, path: str | Path) -> bool:
    """Return whether a GIF lacks its last byte, a semicolon, which ffmpeg does not check."""
    if container.format.name != "gif":
        return False
    with open_input(path) as (file, size):
        file.seek(max(0, size - 64))
        return not file.read().rstrip(b"\0\r\n").endswith(b";")


# ------------------------------------------------------------------ orientation and pixels


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror a picture.

    Args:
        transposed: rows become columns, before the mirroring.
        down: step through the rows, -1 if they are mirrored.
        right: step through the columns, -1 if they are mirrored.
    """

    transposed: bool
    down: int
    right: int


def read_orientation(path: str | Path) -> Orientation:
    """Return the orientation of a video, from the display matrix of its first frame.

    Phones write one. The pixel (x, y) is shown at (a x + c y, b x + d y).

    Raises:
        InputError: as :func:`open_video`.
    """
    a, b, c, d = _display_matrix(path)
    gc.collect(1)  # PyAV's side data and its frame refer to each other
    transposed = abs(b) > abs(a)
    x, y = (c, b) if transposed else (a, d)
    return Orientation(transposed, -1 if y < 0 else 1, -1 if x < 0 else 1)


def _display_matrix(path: str | Path) -> tuple[int, int, int, int]:
    """Return a, b, c and d; opens the file again, since its frame would keep the decoder alive."""
    with open_video(path) as (container, stream), suppress(av.FFmpegError):
        stream.thread_type = "NONE"
        for packet in islice(container.demux(stream), _ORIENTATION_PACKETS):
            with suppress(av.FFmpegError):  # the same error is raised when the frame is read
                for frame in packet.decode():
                    return _matrix_of(frame)
    return 1, 0, 0, 1


def _matrix_of(frame: Any) -> tuple[int, int, int, int]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX", _IDENTITY)
    except ValueError:  # side data that PyAV does not know, such as the EXIF of motion JPEG
        cosine, sine = ((1, 0), (0, -1), (-1, 0), (0, 1))[round(frame.rotation / 90) % 4]
        return cosine, sine, -sine, cosine
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return a, b, c, d


def frame_to_tensor(
    path: str | Path, frame: Any, orientation: Orientation, *, alpha: bool = False
) -> Tensor:
    """Return a frame of PyAV upright, (3, H, W) float32 RGB in [0, 1].

    With ``alpha`` it is (4, H, W) if the frame has opacity; without, the log warns of it.
    """
    parts = frame.format.components
    form = "rgba" if any(part.is_alpha for part in parts) else "rgb"
    deep = max(part.bits for part in parts) > 8
    form += ("64le" if form == "rgba" else "48le") if deep else ("" if form == "rgba" else "24")
    pixels = frame.to_ndarray(format=form, interpolation=_EXACT)
    if orientation.transposed:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:: orientation.down, :: orientation.right]
    return pixels_to_tensor(path, pixels, alpha=alpha)


def pixels_to_tensor(
    path: str | Path, pixels: NDArray[np.unsignedinteger[Any]], *, alpha: bool = False
) -> Tensor:
    """Return (H, W, 3) or (H, W, 4) of 8 or 16 bits as (C, H, W) float32 in [0, 1].

    Without ``alpha``, C is 3, and the log warns of transparency.
    """
    largest = np.iinfo(pixels.dtype).max
    if not alpha and (pixels[..., 3:] < largest).any():
        warn_of_transparency(path)
    kept = pixels if alpha else pixels[..., :3]
    planes = np.array(kept.transpose(2, 0, 1), np.float32, order="C")  # (C, H, W)
    planes /= np.float32(largest)
    return torch.from_numpy(planes)


def warn_of_alpha(path: str | Path, stream: Any) -> None:
    """Warn of a WebM whose header states transparency, which ffmpeg's decoders ignore."""
    if stream.metadata.get("alpha_mode") == "1":
        warn_of_transparency(path)


@lru_cache(1)  # once a file: a command may read a video twice, to count its frames first
def warn_of_transparency(path: str | Path) -> None:
    """Log a warning that a video is read as opaque."""
    problem = "is transparent in places and is read as opaque"
    _LOG.warning("%s", InputError(path, problem, "hidden colours become visible"))
