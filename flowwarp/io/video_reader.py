"""Videos and folders of pictures, read one frame at a time."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
from torch import Tensor

from flowwarp.errors import InputError, none_started
from flowwarp.io.images import (
    read_image_with_format,
)
from flowwarp.io.video_container import (
    DEFAULT_FPS,
    check_complete,
    choose_decoder,
    decode_webp,
    frame_seconds,
    frame_to_tensor,
    is_webp,
    list_pictures,
    open_video,
    read_orientation,
    warn_of_alpha,
    warn_of_transparency,
)

_LOG = logging.getLogger(__name__)
_HDR = {16: "PQ", 18: "HLG"}  # ffmpeg's numbers of the transfer functions of HDR


class TimedFrame(NamedTuple):
    """A frame and when it is shown.

    Attributes:
        image: (3, H, W) float32 RGB in [0, 1], or (4, H, W) with opacity.
        start: by the clock of the file, in seconds.
        seconds: for how long, as far as its packet states it.
    """

    image: Tensor
    start: Fraction
    seconds: Fraction


def read_video(path: str | Path) -> Generator[Tensor, None, None]:
    """Read a video file, an animated WebP or a folder of pictures, frame by frame.

    Memory does not grow with the length of the video. Frames come in display order and upright. Of
    several streams, the one that players show is read, not a cover picture. The times of a variable
    frame rate are not returned. HDR (PQ, HLG) is not tone-mapped, and transparency is ignored; the
    log warns of both. The file is opened when the first frame is requested.
    :func:`flowwarp.io.footage.open_footage` returns times and transparency, too.

    Args:
        path: a video file (MP4, MOV, AVI, MKV, WebM, MPEG, GIF, ...), .webp, or a folder.

    Yields:
        (3, H, W) float32 RGB in [0, 1]; all of one size.

    Raises:
        InputError: missing, unreadable or not a video; or, after the frames before it, the file
            breaks off or the size changes.
    """
    with closing(read_timed(path)) as frames:
        for frame in frames:
            yield frame.image


def read_timed(
    path: str | Path, *, whole: bool = False, files: Sequence[Path] = ()
) -> Generator[TimedFrame, None, None]:
    """Read the frames of :func:`read_video` with their times.

    Args:
        path: as for :func:`read_video`.
        whole: whether to return transparency, and HDR without a warning, since the caller keeps
            both. All frames then have as many channels as the first.
        files: pictures to read; by default those of the folder ``path``.

    Yields:
        Each frame and when it is shown.

    Raises:
        InputError: as :func:`read_video`.
    """
    if files or Path(path).is_dir():
        frames = _read_pictures(path, files or list_pictures(path), whole)
    elif is_webp(path):
        frames = (TimedFrame(*frame) for frame in decode_webp(path, alpha=whole))
    else:
        frames = _decode(path, whole)
    size = None
    for number, frame in enumerate(frames, start=1):
        size = size or frame.image.shape
        if frame.image.shape[1:] != size[1:]:
            got, first = (f"{shape[2]}x{shape[1]}" for shape in (frame.image.shape, size))
            raise InputError(path, f"frame {number} is {got}, the first is {first}")
        yield frame._replace(image=fit_channels(path, frame.image, size[0]))


def fit_channels(path: str | Path, image: Tensor, channels: int) -> Tensor:
    """Return an image (3|4, H, W) with that many channels, 3 or 4; warn of lost transparency."""
    if len(image) < channels:
        return torch.cat([image, torch.ones_like(image[:1])])
    if (image[channels:] < 1).any():
        warn_of_transparency(path)
    return image[:channels]


def _read_pictures(folder: str | Path, files: Sequence[Path], alpha: bool) -> Iterator[TimedFrame]:
    for number, path in enumerate(files):
        image, _ = read_image_with_format(path)
        if not alpha:
            image = fit_channels(folder, image, 3)
        yield TimedFrame(image, number / DEFAULT_FPS, 1 / DEFAULT_FPS)


def _decode(path: str | Path, whole: bool) -> Iterator[TimedFrame]:
    with open_video(path) as (container, stream):
        decoder = choose_decoder(stream) if whole else stream.codec_context
        if not whole:
            if transfer := _HDR.get(stream.codec_context.color_trc):
                _warn_of_hdr(path, transfer)
            warn_of_alpha(path, stream)
        orientation = read_orientation(path)
        count, end = 0, Fraction(0)  # frames decoded, and when the last of them ends, in s
        frames = _decode_packets(container, stream, decoder)
        while True:
            try:
                frame = next(frames, None)
            except av.BlockingIOError as fault:  # no thread can be started; the video is not broken
                raise none_started("thread", fault) from fault
            except av.FFmpegError as fault:
                raise InputError(path, f"breaks off after {count} frames") from fault
            if frame is None:
                break
            count += 1
            start, seconds = end, frame_seconds(frame, stream)
            if frame.pts is not None:
                start = Fraction(frame.pts * stream.time_base)
            end = start + seconds
            if frame.duration:
                seconds = Fraction(frame.duration * stream.time_base)
            yield TimedFrame(frame_to_tensor(path, frame, orientation, alpha=whole), start, seconds)
        check_complete(path, container, stream, count, end)


@lru_cache(1)  # once a file: a command may read a video twice, to count its frames first
def _warn_of_hdr(path: str | Path, transfer: str) -> None:
    problem = f"is HDR video ({transfer}) and is read without tone mapping"
    _LOG.warning("%s", InputError(path, problem, "colours will look pale"))


def _decode_packets(container: Any, stream: Any, decoder: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt and packet.size:
            # The frames that the decoder still buffers are complete; the one in this packet is not.
            yield from decoder.decode(None)
            raise av.InvalidDataError(0, "packet cut off")
        yield from decoder.decode(packet if packet.size else None)
