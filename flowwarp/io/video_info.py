"""Size, frame rate and length of a video, read before it is decoded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import av.filter

from flowwarp.errors import InputError
from flowwarp.io.files import open_input
from flowwarp.io.images import (
    read_image,
)
from flowwarp.io.limits import MAX_FPS, MAX_PIXEL_ASPECT, MIN_FPS
from flowwarp.io.video_container import (
    DEFAULT_FPS,
    is_webp,
    list_pictures,
    open_video,
    open_webp,
    packet_time,
    read_orientation,
    stated_rate,
)

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
        frames = list_pictures(path)
        _, height, width = read_image(frames[0]).shape
        return VideoInfo(width, height, DEFAULT_FPS, len(frames))
    if is_webp(path):
        with open_webp(path) as picture:
            picture.load()  # a frame that cannot be decoded is said here
            rate = _believable(path, _webp_rate(path))
            return VideoInfo(*picture.size, rate, getattr(picture, "n_frames", 1))
    with open_video(path) as (container, stream):
        try:
            frame = next(container.decode(stream))
        except (av.FFmpegError, StopIteration) as fault:
            raise InputError(path, "contains no frame that can be decoded") from fault
        width, height = frame.width, frame.height
        rate = _gif_rate(path) if container.format.name == "gif" else stated_rate(stream)
        if not stream.frames:  # a container that counts them divides by their time
            rate = _timed_rate(path, rate)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            aspect = Fraction(1)
        if read_orientation(path).transposed:
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(width, height, _believable(path, rate), stream.frames or None, aspect)


def _believable(path: str | Path, rate: Fraction) -> Fraction:
    """Return a rate that a file states.

    Raises:
        InputError: no video can be written with it.
    """
    if not MIN_FPS <= rate <= MAX_FPS:
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
    with open_video(path) as (container, stream):
        tick = Fraction(stream.time_base)
        with suppress(av.FFmpegError):  # where it breaks off is said when it is decoded
            for packet in islice(container.demux(stream), _MOST_TIMED):
                if not packet.size:  # the mark at the end
                    continue
                count += 1
                if (time := packet_time(packet)) is not None:
                    times.append(time)
    span = (max(times, default=0) - min(times, default=0)) * tick
    # Times are rounded to ticks, and with a few frames missing the rate is still the stated one.
    if span - (count - 1) / stated <= max(2 * tick, span / 100):
        return stated
    rate = (count - 1) / span
    return rate if rate >= MIN_FPS else stated  # slower, and the times are broken


def _gif_rate(path: str | Path) -> Fraction:
    """Return the average frames a second of a GIF; ffmpeg's average is of the first few alone."""
    with open_video(path) as (container, stream):
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
