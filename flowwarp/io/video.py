"""Video in and out, one frame at a time, so that memory does not grow with length."""

from __future__ import annotations

import gc
import heapq
import logging
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, final

import av
import av.filter
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from torch import Tensor

from flowwarp.errors import InputError, OutputError, none_started
from flowwarp.io._boxes import check_samples
from flowwarp.io.files import (
    IMAGE_EXTENSIONS,
    LEAST_FPS,
    MAX_FRAME_PIXELS,
    atomic_folder,
    atomic_output,
    check_pixels,
    open_input,
)
from flowwarp.io.images import (
    ImageFormat,
    list_frames,
    read_image,
    read_image_with_format,
    write_image,
)

_LOG = logging.getLogger(__name__)

DEFAULT_FPS = Fraction(25)  # for a folder of pictures, which states none
_MOST_FPS = 1_000_000  # a muxer wants small integers
# A GIF counts hundredths of a second in 16 bits. Of one alone, players make a tenth of a second.
LEAST_GIF_FPS, MOST_GIF_FPS = Fraction(1, 655), 50

# Containers that hold pictures themselves. Playlists (HLS, concat) would open other files.
_CONTAINERS = (
    "mov,mp4,avi,matroska,webm,gif,mpeg,mpegts,flv,asf,ogg,h264,hevc,mpegvideo,nut,yuv4mpegpipe"
)
_H264 = (".mp4", ".m4v", ".mov", ".mkv")
_LOOKED_AT = 64  # packets, for a frame that says how a video is to be shown
_AS_STORED = np.array([1, 0, 0, 0, 1], np.int32)  # a display matrix, as far as it turns
_BT709 = 1  # ffmpeg's number for matrix, primaries and transfer alike
_HDR = {16: "PQ", 18: "HLG"}  # its numbers for the transfers that reach beyond a screen's white
# Swscale's flags of exact sums, of colour brought to full width, and of bicubic enlargement: what
# it does by default rounds down, so that a video would be darker each time it is read and written.
_EXACT = 0x40000 | 0x2000 | 0x4
_LIMITED = 1  # luma from 16 to 235, which every player expects
_LONGEST_PIXEL = Fraction(1001)  # width by height, or the reverse: beyond is a broken header
_MOST_TIMED = 3000  # packets whose times are read: two minutes, of large frames some 100 MB


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself before it is decoded.

    Args:
        width: in pixels, upright.
        height: in pixels, upright.
        fps: average frames a second, ``DEFAULT_FPS`` where none is stated. Where it varies, of the
            first 3,000 frames if the file does not count them.
        frames: how many, if the file says so.
        pixel_aspect: the width of a pixel by its height, upright; 1 where none is stated, or
            none that can be.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    pixel_aspect: Fraction = Fraction(1)


def video_info(path: str | Path) -> VideoInfo:
    """Read size, rate and length of a video file, an animated WebP or a folder of pictures.

    Raises:
        InputError: missing, unreadable, without pictures, or of a rate that no video can have.
    """
    if Path(path).is_dir():
        frames = _frames_of(path)
        _, height, width = read_image(frames[0]).shape
        return VideoInfo(width, height, DEFAULT_FPS, len(frames))
    if _is_webp(path):
        with _open_webp(path) as picture:
            picture.load()  # a frame that cannot be decoded is said here
            rate = _believable(path, _webp_rate(path))
            return VideoInfo(*picture.size, rate, getattr(picture, "n_frames", 1))
    with _open(path) as (container, stream):
        try:
            frame = next(container.decode(stream))
        except (av.FFmpegError, StopIteration) as fault:
            raise InputError(path, "holds no frame that can be decoded") from fault
        width, height = frame.width, frame.height
        rate = _gif_rate(path) if container.format.name == "gif" else _rate(stream)
        if not stream.frames:  # a container that counts them divides by their time
            rate = _timed_rate(path, rate)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        if not 1 / _LONGEST_PIXEL <= aspect <= _LONGEST_PIXEL:
            aspect = Fraction(1)
        if _orientation(path).sideways:
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(width, height, _believable(path, rate), stream.frames or None, aspect)


def read_video(path: str | Path) -> Generator[Tensor, None, None]:
    """Read a video file, an animated WebP or a folder of pictures, frame by frame.

    The frames come in the order they are shown, turned upright. Of several streams that is the one
    that players show, not a cover. Where the rate varies the times are lost. HDR (PQ, HLG) is not
    tone-mapped, and what is transparent is taken as opaque; a line of the log warns of either. The
    file is opened when the first frame is asked for.

    Args:
        path: a video file (MP4, MOV, AVI, MKV, WebM, MPEG, GIF, ...), .webp, or a folder.

    Yields:
        (3, H, W) float32 RGB in [0, 1]; all of one size.

    Raises:
        InputError: missing, unreadable or not a video; or, after the frames before it, where the
            file breaks off or the size changes.
    """
    if Path(path).is_dir():
        frames = _read_pictures(path)
    elif _is_webp(path):
        frames = _decode_webp(path)
    else:
        frames = _decode(path)
    size = None
    for number, frame in enumerate(frames, start=1):
        size = size or frame.shape
        if frame.shape != size:
            got, first = (f"{shape[2]}x{shape[1]}" for shape in (frame.shape, size))
            raise InputError(path, f"frame {number} is {got}, the first was {first}")
        yield frame


def salvage_video(path: str | Path) -> Iterator[Tensor | None]:
    """Read what can be read of a video; a frame that is damaged is None in its place.

    Damaged is a frame that the decoder refuses, flags as corrupt, or leaves out because of damage
    before it. One that merely builds on a damaged frame comes as the decoder makes it, which is
    what a player shows until the next key frame. Decoders of HEVC and VP9 notice little.

    Args:
        path: a file, as for :func:`read_video`.

    Yields:
        (3, H, W) float32 RGB in [0, 1], of any size, or None.

    Raises:
        InputError: missing, unreadable or not a video; or, after all frames, where the file breaks
            off or none of them could be decoded.
    """
    yield from _decode_webp(path) if _is_webp(path) else _decode_around_damage(path)


def write_video(
    path: str | Path,
    frames: Iterable[Tensor],
    fps: Fraction | float = 25,
    pixel_aspect: Fraction | float = 1,
) -> int:
    """Write a video as its extension says; it appears whole or not at all.

    ==========================  =================================================================
    .mp4 .m4v .mov .mkv         H.264, yuv420p, BT.709: what every player opens. That layout needs
                                even sizes, so an odd last column or row is repeated once.
    .gif                        256 colours of its own for each frame
    .webp                       animated WebP, lossy at quality 90; equal frames become one
    no extension                a folder of 000000.png, 000001.png, ...
    ==========================  =================================================================

    Args:
        path: where to.
        frames: (3, H, W) float in [0, 1], RGB, all of one size; consumed one at a time.
        fps: frames a second, from 1/1001 to a million, of a GIF 1/655 to 50 (not kept by a folder).
        pixel_aspect: the width of a pixel by its height, from 1/1001 to 1001 (kept by H.264 only).

    Returns:
        How many frames were written.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: no frames, a wrong shape, too few or too many a second, a pixel of no such
            aspect, or an unknown extension.
        OutputError: the file cannot be written, or the folder is not empty.
    """
    kind = Path(path).suffix.lower()
    if kind == "":
        return write_frames(path, ((frame, None) for frame in _one_size(frames)))
    if kind not in (*_H264, ".gif", ".webp"):
        raise ValueError(f"path must end in .mp4, .m4v, .mov, .mkv, .gif, .webp, got {str(path)!r}")
    pictures = (_to_pixels(frame) for frame in _one_size(frames))
    first = next(pictures)
    check_fps(path, fps)
    rate = Fraction(fps).limit_denominator(1001)  # a muxer wants small integers; 30000/1001 stays
    if not 1 / _LONGEST_PIXEL <= pixel_aspect <= _LONGEST_PIXEL:
        raise ValueError(f"pixel_aspect must be from 1/1001 to 1001, got {pixel_aspect}")
    aspect = Fraction(pixel_aspect).limit_denominator(1001)
    with atomic_output(path) as temporary:
        try:
            return _encode(temporary, kind, first, pictures, rate, aspect)
        except av.BlockingIOError as fault:  # of a thread, no fault of the video
            raise none_started("thread", fault) from fault
        except av.FFmpegError as fault:
            raise OutputError(path, f"cannot be encoded ({fault.strerror})") from fault


def check_fps(path: str | Path, fps: Fraction | float) -> None:
    """Check that a video of this name can have so many frames a second.

    Raises:
        ValueError: fewer than one in 1001 s, or more than a million; or it is a GIF, and they are
            fewer than its clock can count, or more than players show: of those they show some for a
            tenth of a second.
    """
    if not fps >= float(LEAST_FPS):  # nor is NaN
        raise ValueError(f"fps must be at least 1/1001 frames a second, got {float(fps):g}")
    if fps > _MOST_FPS:
        raise ValueError(f"fps must be at most {_MOST_FPS:,} frames a second, got {float(fps):g}")
    if Path(path).suffix.lower() == ".gif" and not LEAST_GIF_FPS <= fps <= MOST_GIF_FPS:
        raise ValueError(
            f"a GIF plays from {LEAST_GIF_FPS} to {MOST_GIF_FPS} frames a second, not"
            f" {float(fps):g}: name another kind of file, or another rate"
        )


def write_frames(path: str | Path, frames: Iterable[tuple[Tensor, ImageFormat | None]]) -> int:
    """Write a folder of 000000.png, 000001.png, ...; it appears whole or not at all.

    Args:
        path: a new or an empty folder.
        frames: each as :func:`flowwarp.io.images.write_image` takes it, with what its file shall
            hold; consumed one at a time.

    Returns:
        How many frames were written.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
    """
    count = 0
    with atomic_folder(path) as work:
        for frame, format in frames:
            write_image(work / f"{count:06d}.png", frame, format)
            count += 1
    return count


def _frames_of(folder: str | Path) -> list[Path]:
    frames = list_frames(folder)
    if not frames:
        raise InputError(folder, "is a folder without pictures")
    return frames


def _read_pictures(folder: str | Path) -> Iterator[Tensor]:
    for path in _frames_of(folder):
        image, _ = read_image_with_format(path)
        if (image[3:] < 1).any():
            _warn_of_transparency(folder)
        yield image[:3]


def _is_webp(path: str | Path) -> bool:
    with open_input(path) as (file, _):
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


@contextmanager
def _open(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """Open the video stream that players show, which need not be the first; its size is checked."""
    with open_input(path) as (file, size):
        check_samples(path, file, size)
        try:
            # A file object rather than a name, which ffmpeg would read as a URL ("concat:...").
            container = av.open(file, options={"format_whitelist": _CONTAINERS})
        except (av.FFmpegError, ValueError) as fault:
            if Path(path).suffix.lower() in IMAGE_EXTENSIONS:
                raise InputError(path, "is no video", "give a folder of frames") from fault
            raise InputError(path, "is no video of a known kind, or is cut off") from fault
        with container:
            stream: Any = container.streams.best("video")  # typed as a stream of any kind
            if stream is None:
                raise InputError(path, "holds no video stream")
            if stream.codec_context is None:
                raise InputError(path, "is a video in an unknown codec")
            context = stream.codec_context
            check_pixels(path, context.width, context.height, size, MAX_FRAME_PIXELS)
            # A stream may announce another size later on than the container did.
            context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            stream.thread_type = "AUTO"
            yield container, stream


def _decode(path: str | Path) -> Iterator[Tensor]:
    with _open(path) as (container, stream):
        if transfer := _HDR.get(stream.codec_context.color_trc):
            _warn_of_hdr(path, transfer)
        _look_for_alpha(path, stream)
        orientation = _orientation(path)
        count, end = 0, Fraction(0)
        frames = _whole_frames(container, stream)
        while True:
            try:
                frame = next(frames, None)
            except av.BlockingIOError as fault:  # of a thread, no fault of the video
                raise none_started("thread", fault) from fault
            except av.FFmpegError as fault:
                raise InputError(path, f"breaks off after {count} frames") from fault
            if frame is None:
                break
            count += 1
            if frame.pts is not None and frame.time_base is not None:
                end = frame.pts * frame.time_base + _length(frame, stream)
            yield _to_tensor(path, frame, orientation)
        _check_end(path, container, stream, count, end)


@lru_cache(1)  # a command may read a video twice, to count its frames first
def _warn_of_hdr(path: str | Path, transfer: str) -> None:
    problem = f"is HDR video ({transfer}), and its brightness is taken as it is"
    _LOG.warning("%s", InputError(path, problem, "colours will look pale"))


def _look_for_alpha(path: str | Path, stream: Any) -> None:
    """Warn of a WebM that says it is transparent: ffmpeg's decoders leave that out."""
    if stream.metadata.get("alpha_mode") == "1":
        _warn_of_transparency(path)


@lru_cache(1)
def _warn_of_transparency(path: str | Path) -> None:
    problem = "is transparent in places, and is taken as opaque"
    _LOG.warning("%s", InputError(path, problem, "what was hidden will show"))


def _check_end(path: str | Path, container: Any, stream: Any, count: int, end: Fraction) -> None:
    """Compare the frames there were, and the second at which they ended, with what was promised.

    Raises:
        InputError: there is less.
    """
    if count == 0:
        raise InputError(path, "holds no frame that can be decoded")
    # Cut exactly between two frames nothing is corrupt, there is only less than was promised.
    missing = _promised(container, stream) - end
    if missing > Fraction(3, 2) / _rate(stream) or _lacks_end(container, path):
        raise InputError(path, f"breaks off after {count} frames")
    # ffmpeg makes one frame of all pictures of a GIF that come without a time.
    if container.format.name == "gif" and count < stream.frames:
        problem = f"has {stream.frames} pictures, of which only {count} can be told apart"
        raise InputError(path, problem, "save it anew with a time for each")


def _whole_frames(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt and packet.size:
            # What the decoder still holds is whole; this half of a frame is not.
            yield from stream.codec_context.decode(None)
            raise av.InvalidDataError(0, "packet cut off")
        yield from packet.decode()


def _decode_around_damage(path: str | Path) -> Iterator[Tensor | None]:
    with _open(path) as (container, stream):
        stream.thread_type = "NONE"  # with threads an error is told some packets later
        _look_for_alpha(path, stream)
        orientation = _orientation(path)
        schedule = _Schedule()
        packets = _expected(_packets(container, stream), schedule, _places(container, stream))
        count = good = 0
        length = 1 / _rate(stream)
        breaks_off = False
        packet: Any = ...
        while packet is not None:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet, breaks_off = None, True
            try:
                frames = stream.codec_context.decode(packet)  # None: what it still holds
            except av.FFmpegError:
                frames = []
                schedule.spoil(_time(packet))
            for frame in frames:
                missing, whole = schedule.arrive(frame)
                yield from repeat(None, missing)
                yield _to_tensor(path, frame, orientation) if whole else None
                count, good = count + missing + 1, good + whole
                length = _length(frame, stream)
        missing = schedule.rest()
        yield from repeat(None, missing)
        count += missing
        if breaks_off and good:
            raise InputError(path, f"breaks off after {count} frames")
        end = Fraction(0) if schedule.last is None else schedule.last * stream.time_base
        _check_end(path, container, stream, good and count, end + length)


@final
class _Schedule:
    """Which frames are to come, by the times of their packets, and which are damaged.

    Frames come in the order of time, so one that is passed over will not come. That alone is no
    damage, as a packet may hold nothing to show; it is from an error on, until a key frame comes
    whole.
    """

    def __init__(self) -> None:
        self.last: int | None = None  # the time of the latest frame
        self._due: list[int] = []  # a heap
        self._doubted: set[int] = set()  # damaged if they do not come
        self._spoilt: set[int] = set()  # damaged even if they come
        self._error: int | None = None  # the latest time of an error not yet overcome

    def expect(self, time: int | None) -> None:
        """Note a packet's time."""
        if time is None:
            return
        heapq.heappush(self._due, time)
        if self._error is not None:
            self._doubted.add(time)

    def spoil(self, time: int | None) -> None:
        """Note that the packet of that time is damaged."""
        if time is None:
            time = max(self._due, default=self.last or 0)
        self._doubted.add(time)
        self._spoilt.add(time)
        self._error = time if self._error is None else max(time, self._error)

    def arrive(self, frame: Any) -> tuple[int, bool]:
        """Note a frame; return how many damaged ones it passed over, and whether it is whole."""
        time = frame.pts
        if time is None:  # some AVI files state none
            time = self._due[0] if self._due else 0
        missing = self._pass(time)
        if self._due and self._due[0] == time:
            heapq.heappop(self._due)
        self.last = time
        if frame.is_corrupt:
            self.spoil(time)
        whole = time not in self._spoilt
        if whole and frame.key_frame and (self._error is None or time > self._error):
            self._error = None
        return missing, whole

    def rest(self) -> int:
        """Return how many damaged frames were to come still."""
        return self._pass(None)

    def _pass(self, until: int | None) -> int:
        missing = 0
        while self._due and (until is None or self._due[0] < until):
            time = heapq.heappop(self._due)
            if time in self._doubted:
                missing, self.last = missing + 1, time
        return missing


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield all packets that hold something.

    Raises:
        av.FFmpegError: the last one is cut off.
    """
    half = None
    for packet in container.demux(stream):
        if not packet.size:  # the mark at the end
            continue
        if half is not None:  # more follows, so it is damaged, not cut off
            yield half
        half = packet if packet.is_corrupt else None
        if half is None:
            yield packet
    if half is not None:
        raise av.InvalidDataError(0, "packet cut off")


def _expected(
    packets: Iterator[Any], schedule: _Schedule, places: Mapping[int, int]
) -> Iterator[Any]:
    """Pass packets on, put into the schedule; ``places`` says the times of AVI's."""
    indexed = deque(sorted(places.values()))
    for packet in packets:
        place = places.get(packet.pos)
        if place is not None and packet.pts is not None and packet.dts is not None:
            # The demuxer counts what it finds, and finds no packet whose header is overwritten.
            while indexed and indexed[0] < place:
                lost = indexed.popleft()
                schedule.expect(lost)
                schedule.spoil(lost)
            if indexed and indexed[0] == place:  # a broken file may lead to a packet twice
                indexed.popleft()
            late = place - packet.dts
            packet.pts, packet.dts = packet.pts + late, place
        schedule.expect(_time(packet))
        if packet.is_corrupt:
            schedule.spoil(_time(packet))
        yield packet


def _time(packet: Any) -> int | None:
    if packet is None:
        return None
    time: int | None = packet.dts if packet.pts is None else packet.pts
    return time


def _places(container: Any, stream: Any) -> dict[int, int]:
    """Return the time of the packet at each position of an AVI file, if that has an index."""
    if container.format.name != "avi":
        return {}
    # A position is that after the chunk's header.
    return {entry.pos + 8: entry.timestamp for entry in stream.index_entries}


def _promised(container: Any, stream: Any) -> Fraction:
    """Return the stream's length in seconds as its header states it; 0 if it does not."""
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    # Matroska states the length of the whole, which may be that of the sound.
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration, av.time_base)
    return Fraction(0)


def _lacks_end(container: Any, path: str | Path) -> bool:
    """Return whether a GIF lacks its last byte, a semicolon; ffmpeg does not mind."""
    if container.format.name != "gif":
        return False
    with open_input(path) as (file, size):
        file.seek(max(0, size - 64))
        return not file.read().rstrip(b"\0\r\n").endswith(b";")


def _length(frame: Any, stream: Any) -> Fraction:
    """Return for how many seconds a frame is shown: the last one may be held, a pause at the end.

    Some containers do not state it; then the rate does.
    """
    return Fraction(max(frame.duration * stream.time_base, 1 / _rate(stream)))


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)


def _believable(path: str | Path, rate: Fraction) -> Fraction:
    """Return a rate that a file states.

    Raises:
        InputError: no video can be written with it.
    """
    if not LEAST_FPS <= rate <= _MOST_FPS:
        raise InputError(
            path, f"says it has {float(rate):g} frames a second", "its header is broken"
        )
    return rate


def _timed_rate(path: str | Path, stated: Fraction) -> Fraction:
    """Return the average frames a second by the times of the packets, if it is below the stated.

    Matroska, MPEG and FLV state how fast a clock ran, and a recorder may have passed over most of
    its ticks. Not above: some packets hold half a frame, or nothing to show.
    """
    count = 0
    times = []
    with _open(path) as (container, stream):
        tick = Fraction(stream.time_base)
        with suppress(av.FFmpegError):  # where it breaks off is said when it is decoded
            for packet in islice(container.demux(stream), _MOST_TIMED):
                if not packet.size:  # the mark at the end
                    continue
                count += 1
                if (time := _time(packet)) is not None:
                    times.append(time)
    span = (max(times, default=0) - min(times, default=0)) * tick
    # Times are rounded to ticks, and with a few frames missing the rate is still the stated one.
    if span - (count - 1) / stated <= max(2 * tick, span / 100):
        return stated
    rate = (count - 1) / span
    return rate if rate >= LEAST_FPS else stated  # slower, and the times are broken


def _gif_rate(path: str | Path) -> Fraction:
    """Return the average frames a second of a GIF; ffmpeg's average is of the first few alone."""
    with _open(path) as (container, stream):
        delays = [packet.duration for packet in container.demux(stream) if packet.size]
        return Fraction(len(delays) / (sum(delays) * stream.time_base))


def _webp_rate(path: str | Path) -> Fraction:
    """Return the average frames a second of a WebP; Pillow would decode every frame for that.

    Source: developers.google.com/speed/webp/docs/riff_container, "Animation".
    """
    durations = []  # ms
    with open_input(path) as (file, _):
        file.seek(12)  # after the file's own header
        while len(head := file.read(8)) == 8:
            start, size = file.tell(), int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                durations.append(int.from_bytes(file.read(15)[12:], "little"))
            file.seek(start + size + size % 2)
    return Fraction(1000 * len(durations), sum(durations)) if sum(durations) else DEFAULT_FPS


@dataclass(frozen=True)
class _Orientation:
    """How a video is to be shown, as one of the eight ways to turn and mirror a picture.

    Args:
        sideways: rows become columns; first.
        down: step through the rows, -1 if they are mirrored.
        right: likewise through the columns.
    """

    sideways: bool
    down: int
    right: int


def _orientation(path: str | Path) -> _Orientation:
    """Return the orientation of a video by its first frame, where phones put a display matrix.

    That shows the pixel (x, y) at (a x + c y, b x + d y).
    """
    a, b, c, d = _display_matrix(path)
    gc.collect(1)  # PyAV's side data and its frame hold each other
    sideways = abs(b) > abs(a)
    x, y = (c, b) if sideways else (a, d)
    return _Orientation(sideways, -1 if y < 0 else 1, -1 if x < 0 else 1)


def _display_matrix(path: str | Path) -> tuple[int, int, int, int]:
    """Return a, b, c and d, by a reading of its own: a frame that stays would keep the decoder."""
    with _open(path) as (container, stream), suppress(av.FFmpegError):
        stream.thread_type = "NONE"
        for packet in islice(container.demux(stream), _LOOKED_AT):
            with suppress(av.FFmpegError):  # reading it will say so
                for frame in packet.decode():
                    return _matrix_of(frame)
    return 1, 0, 0, 1


def _matrix_of(frame: Any) -> tuple[int, int, int, int]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX", _AS_STORED)
    except ValueError:  # of a kind that PyAV does not know, such as the EXIF of motion JPEG
        cosine, sine = ((1, 0), (0, -1), (-1, 0), (0, 1))[round(frame.rotation / 90) % 4]
        return cosine, sine, -sine, cosine
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    return a, b, c, d


def _to_tensor(path: str | Path, frame: Any, orientation: _Orientation) -> Tensor:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24", interpolation=_EXACT)
    if orientation.sideways:
        pixels = pixels.swapaxes(0, 1)
    return _from_pixels(path, pixels[:: orientation.down, :: orientation.right])


def _decode_webp(path: str | Path) -> Iterator[Tensor]:
    with _open_webp(path) as picture:
        for frame in ImageSequence.Iterator(picture):
            whole = frame if frame.mode == "RGBA" else frame.convert("RGB")
            yield _from_pixels(path, np.asarray(whole))


@contextmanager
def _open_webp(path: str | Path) -> Iterator[Image.Image]:
    """Open an animated WebP by Pillow; PyAV's ffmpeg only writes them."""
    with open_input(path) as (file, size):
        try:
            with warnings.catch_warnings():  # a large size is refused below, not warned about
                warnings.simplefilter("ignore")
                opened = Image.open(file, formats=("WEBP",))
            with opened as picture:
                check_pixels(path, *picture.size, size, MAX_FRAME_PIXELS)
                yield picture
        except (OSError, ValueError, EOFError, Image.DecompressionBombError) as fault:
            if isinstance(fault, InputError):
                raise
            raise InputError(path, f"is a broken WebP ({fault})") from fault


def _from_pixels(path: str | Path, pixels: NDArray[np.uint8]) -> Tensor:
    if (pixels[..., 3:] < 255).any():
        _warn_of_transparency(path)
    planes = np.array(pixels[..., :3].transpose(2, 0, 1), np.float32, order="C")
    planes /= np.float32(255)
    return torch.from_numpy(planes)


def _to_pixels(frame: Tensor) -> NDArray[np.uint8]:
    steps = torch.nan_to_num(frame.detach().float(), nan=0.0).clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(steps.byte().permute(1, 2, 0).cpu().numpy())


def _one_size(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    size = None
    for number, frame in enumerate(frames, start=1):
        if not isinstance(frame, Tensor) or not frame.is_floating_point():
            got = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
            raise TypeError(f"frame {number} must be a floating-point torch.Tensor, got {got}")
        size = size or frame.shape
        if frame.ndim != 3 or frame.shape[0] != 3 or frame.numel() == 0 or frame.shape != size:
            wanted = "(3, H, W)" if number == 1 else tuple(size)
            raise ValueError(f"frame {number} must be {wanted}, got shape {tuple(frame.shape)}")
        yield frame
    if size is None:
        raise ValueError("frames must not be empty")


def _encode(
    path: Path,
    kind: str,
    first: NDArray[np.uint8],
    rest: Iterator[NDArray[np.uint8]],
    rate: Fraction,
    aspect: Fraction,
) -> int:
    height, width = first.shape[:2]
    # WebP would be shown once, as GIF is not.
    options = {".mp4": {"movflags": "+faststart"}, ".webp": {"loop": "0"}}.get(kind, {})
    with av.open(path, "w", options=options) as container:
        if kind in _H264:
            height, width = height + height % 2, width + width % 2
            stream = container.add_stream("libx264", rate, options={"crf": "17"})
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED
            context.sample_aspect_ratio = aspect
        elif kind == ".gif":
            stream = container.add_stream("gif", rate)
            stream.pix_fmt = "pal8"
        else:
            stream = container.add_stream("libwebp_anim", rate, options={"quality": "90"})
            stream.pix_fmt = "bgra"  # libwebp does its own conversion, to the matrix it wants
        stream.width, stream.height = width, height
        graph = _graph(kind, width, height, rate)
        count = 0
        for pixels in chain([first], rest):
            padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, padding, "edge"), "rgb24")
            frame.pts, frame.time_base = count, 1 / rate
            graph.push(frame)
            container.mux(stream.encode(graph.pull()))
            count += 1
        container.mux(stream.encode(None))
    return count


def _graph(kind: str, width: int, height: int, rate: Fraction) -> Any:
    """Build what makes of RGB what a format holds."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate
    )
    if kind == ".gif":
        made = _best_palettes(graph, source)
    elif kind in _H264:
        # Where nothing is said of it, colour lies at the left of the pixels that share it.
        made = graph.add(
            "scale",
            "out_color_matrix=bt709:out_range=tv:out_chroma_loc=left"
            ":flags=bicubic+accurate_rnd+full_chroma_inp",
        )
        source.link_to(made)
    else:
        made = source
    form = graph.add("format", {".gif": "pal8", ".webp": "bgra"}.get(kind, "yuv420p"))
    sink = graph.add("buffersink")
    made.link_to(form)
    form.link_to(sink)
    graph.configure()
    return graph


def _best_palettes(graph: Any, source: Any) -> Any:
    """Add what finds the best 256 colours of each frame by itself."""
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    return use
