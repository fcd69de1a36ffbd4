"""Size, frame rate and length of a video, without decoding more than its first frame."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av

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

# Packets whose times are read for the average rate: two minutes, about 100 MB of large frames.
_TIMED_PACKETS = 3000


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video.

    Args:
        width: in pixels, after it is turned upright.
        height: in pixels, after it is turned upright.
        fps: average frames a second, ``DEFAULT_FPS`` if the file states none. Where the rate varies
            and the file does not state its number of frames, the average of the first 3,000.
        frames: number of frames; None if the file does not state it.
        pixel_aspect: width of a pixel by its height, after the video is turned upright; 1 if the
            file states none or an impossible one.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    pixel_aspect: Fraction = Fraction(1)


def video_info(path: str | Path) -> VideoInfo:
    """Read size, rate and length of a video file, an animated WebP or a folder of pictures.

    Raises:
        InputError: missing, unreadable, without pictures, or of an impossible frame rate.
    """
    if Path(path).is_dir():
        frames = list_pictures(path)
        _, height, width = read_image(frames[0]).shape
        return VideoInfo(width, height, DEFAULT_FPS, len(frames))
    if is_webp(path):
        with open_webp(path) as picture:
            picture.load()  # raises if the first frame cannot be decoded
            rate = _check_rate(path, _webp_rate(path))
            return VideoInfo(*picture.size, rate, getattr(picture, "n_frames", 1))
    with open_video(path) as (container, stream):
        try:
            frame = next(container.decode(stream))
        except (av.FFmpegError, StopIteration) as fault:
            raise InputError(path, "contains no frame that can be decoded") from fault
        width, height = frame.width, frame.height
        rate = _gif_rate(path) if container.format.name == "gif" else stated_rate(stream)
        if not stream.frames:  # else the container has divided the count by the duration
            rate = _timed_rate(path, rate)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            aspect = Fraction(1)
        if read_orientation(path).transposed:
            width, height, aspect = height, width, 1 / aspect
        return VideoInfo(width, height, _check_rate(path, rate), stream.frames or None, aspect)


def estimate_frames(path: str | Path, info: VideoInfo) -> int:
    """Return the number of frames of a video whose properties are known; decodes none.

    It is exact if the file states it. Else it follows from the stated length and the rate or, if
    there is no length (as in a recording of a browser), from the number of packets.

    Raises:
        InputError: missing or unreadable.
    """
    if info.frames is not None:
        return info.frames
    with open_video(path) as (container, stream):
        seconds = Fraction(0)
        if stream.duration:
            seconds = Fraction(stream.duration * stream.time_base)
        elif container.duration:
            seconds = Fraction(container.duration, av.time_base)
        if seconds > 0:
            return max(1, round(seconds * info.fps))
        count = 0
        with suppress(av.FFmpegError):  # decoding reports where the file breaks off
            for packet in container.demux(stream):
                count += packet.size > 0
        return count


def _check_rate(path: str | Path, rate: Fraction) -> Fraction:
    if not MIN_FPS <= rate <= MAX_FPS:
        raise InputError(
            path, f"says it has {float(rate):g} frames a second", "its header is broken"
        )
    return rate


def _timed_rate(path: str | Path, stated: Fraction) -> Fraction:
    """Return the average frames a second from the times of the packets, if it is below the stated.

    Matroska, MPEG and FLV state the rate of a clock, and a recorder may skip most of its ticks. A
    rate above the stated one is wrong: some packets contain half a frame, or none to show.
    """
    count = 0
    times = []  # in ticks
    with open_video(path) as (container, stream):
        tick = Fraction(stream.time_base)
        with suppress(av.FFmpegError):  # decoding reports where the file breaks off
            for packet in islice(container.demux(stream), _TIMED_PACKETS):
                if not packet.size:  # PyAV's end mark
                    continue
                count += 1
                if (time := packet_time(packet)) is not None:
                    times.append(time)
    span = (max(times, default=0) - min(times, default=0)) * tick  # s
    # Times are rounded to ticks, and a few missing frames do not change the rate.
    if span - (count - 1) / stated <= max(2 * tick, span / 100):
        return stated
    rate = (count - 1) / span
    return rate if rate >= MIN_FPS else stated  # below, the times are broken


def _gif_rate(path: str | Path) -> Fraction:
    """Return the average frames a second of a GIF; ffmpeg averages over the first frames only."""
    with open_video(path) as (container, stream):
        delays = [packet.duration for packet in container.demux(stream) if packet.size]
        return Fraction(len(delays) / (sum(delays) * stream.time_base))


def _webp_rate(path: str | Path) -> Fraction:
    """Return the average frames a second of a WebP; Pillow would decode every frame for it.

    Source: developers.google.com/speed/webp/docs/riff_container, "Animation".
    """
    durations = []  # ms
    with open_input(path) as (file, _):
        file.seek(12)  # after "RIFF", the size and "WEBP"
        while len(head := file.read(8)) == 8:
            start, size = file.tell(), int.from_bytes(head[4:], "little")
            if head[:4] == b"ANMF":
                durations.append(int.from_bytes(file.read(15)[12:], "little"))
            file.seek(start + size + size % 2)  # chunks are padded to an even size
    return Fraction(1000 * len(durations), sum(durations)) if sum(durations) else DEFAULT_FPS
