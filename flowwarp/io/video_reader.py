"""Videos and folders of pictures, read one frame at a time."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from flowwarp.errors import InputError, none_started
from flowwarp.io.images import (
    read_image_with_format,
)
from flowwarp.io.video_container import (
    check_complete,
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


def read_video(path: str | Path) -> Generator[Tensor, None, None]:
    """Read a video file, an animated WebP or a folder of pictures, frame by frame.

    Memory does not grow with the length of the video. Frames come in display order and upright. Of
    several streams, the one that players show is read, not a cover picture. The times of a variable
    frame rate are not returned. HDR (PQ, HLG) is not tone-mapped, and transparency is ignored; the
    log warns of both. The file is opened when the first frame is requested.

    Args:
        path: a video file (MP4, MOV, AVI, MKV, WebM, MPEG, GIF, ...), .webp, or a folder.

    Yields:
        (3, H, W) float32 RGB in [0, 1]; all of one size.

    Raises:
        InputError: missing, unreadable or not a video; or, after the frames before it, the file
            breaks off or the size changes.
    """
    if Path(path).is_dir():
        frames = _read_pictures(path)
    elif is_webp(path):
        frames = decode_webp(path)
    else:
        frames = _decode(path)
    size = None
    for number, frame in enumerate(frames, start=1):
        size = size or frame.shape
        if frame.shape != size:
            got, first = (f"{shape[2]}x{shape[1]}" for shape in (frame.shape, size))
            raise InputError(path, f"frame {number} is {got}, the first is {first}")
        yield frame


def _read_pictures(folder: str | Path) -> Iterator[Tensor]:
    for path in list_pictures(folder):
        image, _ = read_image_with_format(path)
        if (image[3:] < 1).any():
            warn_of_transparency(folder)
        yield image[:3]


def _decode(path: str | Path) -> Iterator[Tensor]:
    with open_video(path) as (container, stream):
        if transfer := _HDR.get(stream.codec_context.color_trc):
            _warn_of_hdr(path, transfer)
        warn_of_alpha(path, stream)
        orientation = read_orientation(path)
        count, end = 0, Fraction(0)  # frames decoded, and when the last of them ends, in s
        frames = _decode_packets(container, stream)
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
            if frame.pts is not None and frame.time_base is not None:
                end = frame.pts * frame.time_base + frame_seconds(frame, stream)
            yield frame_to_tensor(path, frame, orientation)
        check_complete(path, container, stream, count, end)


@lru_cache(1)  # once a file: a command may read a video twice, to count its frames first
def _warn_of_hdr(path: str | Path, transfer: str) -> None:
    problem = f"is HDR video ({transfer}) and is read without tone mapping"
    _LOG.warning("%s", InputError(path, problem, "colours will look pale"))


def _decode_packets(container: Any, stream: Any) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt and packet.size:
            # The frames that the decoder still buffers are complete; the one in this packet is not.
            yield from stream.codec_context.decode(None)
            raise av.InvalidDataError(0, "packet cut off")
        yield from packet.decode()
