"""Writing of videos and of folders of pictures, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

from torch import Tensor

from flowwarp.io.atomic import atomic_folder
from flowwarp.io.images import (
    ImageFormat,
    write_image,
)
from flowwarp.io.limits import MAX_FPS, MAX_PIXEL_ASPECT, MIN_FPS
from flowwarp.io.video_encoder import FULL, Clock, Encoding, Timed, encode, encoding_to

# A GIF states durations as a 16-bit number of 1/100 s. Players show a duration of 1 as 10.
MIN_GIF_FPS, MAX_GIF_FPS = Fraction(1, 655), 50

_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
_ANIMATIONS = (".gif", ".webp", ".apng")


def write_video(
    path: str | Path,
    frames: Iterable[Tensor],
    fps: Fraction | float = 25,
    pixel_aspect: Fraction | float = 1,
) -> int:
    """Write a video atomically; the extension selects the format.

    ==========================  =================================================================
    .mp4 .m4v .mov .mkv         H.264, yuv420p, BT.709, which every player opens. yuv420p needs
                                even sizes, so an odd last column or row is repeated once.
    .webm                       VP9, yuv420p, BT.709
    .gif                        a palette of 256 colours for each frame
    .webp                       animated WebP, lossy at quality 90; equal frames become one
    .apng                       animated PNG, without loss
    no extension                a folder of 000000.png, 000001.png, ...
    ==========================  =================================================================

    Args:
        path: the file or folder to write.
        frames: (3, H, W) float in [0, 1], RGB, all of one size; consumed one at a time.
        fps: frames a second, in [1/1001, 1,000,000], of a GIF in [1/655, 50]; ignored for a folder.
        pixel_aspect: width of a pixel by its height, in [1/1001, 1001]; animations store none.

    Returns:
        The number of frames.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: no frames, a wrong shape, an unknown extension, or ``fps`` or ``pixel_aspect``
            out of range.
        OutputError: the file cannot be written, or the folder is not empty.
    """
    kind = Path(path).suffix.lower()
    if kind == "":
        return write_frames(path, ((frame, None) for frame in check_frames(frames)))
    if kind not in (*_VIDEOS, *_ANIMATIONS):
        known = ", ".join((*_VIDEOS, *_ANIMATIONS))
        raise ValueError(f"path must end in {known}, got {str(path)!r}")
    pictures = check_frames(frames)
    first = next(pictures)
    check_fps(path, fps)
    rate = Fraction(fps).limit_denominator(1001)  # muxers need small integers; 30000/1001 is kept
    if not 1 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
        raise ValueError(f"pixel_aspect must be from 1/1001 to 1001, got {pixel_aspect}")
    aspect = Fraction(pixel_aspect).limit_denominator(1001) if kind in _VIDEOS else Fraction(1)
    clock = Clock(rate, rate)
    timed = (Timed(image, number, 1) for number, image in enumerate(chain([first], pictures)))
    with encoding_to(path) as temporary:
        return encode(
            temporary, timed, (first.shape[1], first.shape[2]), _encoding(kind), clock, aspect
        )


def check_fps(path: str | Path, fps: Fraction | float) -> None:
    """Check that a video file of this name can have a frame rate.

    Args:
        path: its extension selects the format.
        fps: frames a second.

    Raises:
        ValueError: not in [1/1001, 1,000,000]; or, for a GIF, not in [1/655, 50].
    """
    if not fps >= float(MIN_FPS):  # also true for NaN
        raise ValueError(f"fps must be at least 1/1001 frames a second, got {float(fps):g}")
    if fps > MAX_FPS:
        raise ValueError(f"fps must be at most {MAX_FPS:,} frames a second, got {float(fps):g}")
    if Path(path).suffix.lower() == ".gif" and not MIN_GIF_FPS <= fps <= MAX_GIF_FPS:
        raise ValueError(
            f"a GIF plays from {MIN_GIF_FPS} to {MAX_GIF_FPS} frames a second, not"
            f" {float(fps):g}: name another kind of file, or another rate"
        )


def write_frames(path: str | Path, frames: Iterable[tuple[Tensor, ImageFormat | None]]) -> int:
    """Write a folder of 000000.png, 000001.png, ... atomically.

    Args:
        path: a new or an empty folder.
        frames: images and formats as for :func:`flowwarp.io.images.write_image`; consumed one at a
            time.

    Returns:
        The number of frames.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
    """
    count = 0
    with atomic_folder(path) as work:
        for frame, format in frames:
            write_image(work / f"{count:06d}.png", frame, format)
            count += 1
    return count


def check_frames(frames: Iterable[Tensor], channels: tuple[int, ...] = (3,)) -> Iterator[Tensor]:
    """Yield frames (C, H, W) after checking that they are floating point and of one size.

    Args:
        frames: to check, one at a time.
        channels: the values of C that are allowed; all frames have that of the first.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: no frames, or a wrong shape.
    """
    size = None
    for number, frame in enumerate(frames, start=1):
        if not isinstance(frame, Tensor) or not frame.is_floating_point():
            got = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
            raise TypeError(f"frame {number} must be a floating-point torch.Tensor, got {got}")
        size = size or frame.shape
        wrong = frame.ndim != 3 or frame.shape[0] not in channels or frame.numel() == 0
        if wrong or frame.shape != size:
            known = "|".join(map(str, channels))
            wanted = f"({known}, H, W)" if number == 1 else tuple(size)
            raise ValueError(f"frame {number} must be {wanted}, got shape {tuple(frame.shape)}")
        yield frame
    if size is None:
        raise ValueError("frames must not be empty")


def _encoding(kind: str) -> Encoding:
    """Return the encoding of a file type that every player opens."""
    if kind == ".gif":
        return Encoding("gif", "pal8", range=FULL)
    if kind == ".webp":
        # libwebp converts to its own matrix. Without "loop", it is played once, unlike a GIF.
        options, loop = {"quality": "90"}, {"loop": "0"}
        return Encoding("libwebp_anim", "bgra", options, loop, range=FULL)
    if kind == ".apng":
        return Encoding("apng", "rgb24", {}, {"plays": "0"}, range=FULL)
    if kind == ".webm":
        options = {"crf": "16", "row-mt": "1", "cpu-used": "4"}
        return Encoding("libvpx-vp9", "yuv420p", options)
    start = {"movflags": "+faststart"} if kind == ".mp4" else {}
    return Encoding("libx264", "yuv420p", {"crf": "17"}, start)
