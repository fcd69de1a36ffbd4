"""Writing of videos and of folders of pictures, one frame at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.errors import OutputError, none_started
from flowwarp.io.atomic import atomic_folder, atomic_output
from flowwarp.io.images import (
    ImageFormat,
    write_image,
)
from flowwarp.io.limits import MAX_FPS, MAX_PIXEL_ASPECT, MIN_FPS

# A GIF states durations as a 16-bit number of 1/100 s. Players show a duration of 1 as 10.
MIN_GIF_FPS, MAX_GIF_FPS = Fraction(1, 655), 50

_H264 = (".mp4", ".m4v", ".mov", ".mkv")
_BT709 = 1  # ffmpeg's number of BT.709, for matrix, primaries and transfer function
_LIMITED = 1  # ffmpeg's number of limited range, luma 16 to 235, which every player expects


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
    .gif                        a palette of 256 colours for each frame
    .webp                       animated WebP, lossy at quality 90; equal frames become one
    no extension                a folder of 000000.png, 000001.png, ...
    ==========================  =================================================================

    Args:
        path: the file or folder to write.
        frames: (3, H, W) float in [0, 1], RGB, all of one size; consumed one at a time.
        fps: frames a second, in [1/1001, 1,000,000], of a GIF in [1/655, 50]; ignored for a folder.
        pixel_aspect: width of a pixel by its height, in [1/1001, 1001]; only H.264 stores it.

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
        return write_frames(path, ((frame, None) for frame in _one_size(frames)))
    if kind not in (*_H264, ".gif", ".webp"):
        raise ValueError(f"path must end in .mp4, .m4v, .mov, .mkv, .gif, .webp, got {str(path)!r}")
    pictures = (_to_pixels(frame) for frame in _one_size(frames))
    first = next(pictures)
    check_fps(path, fps)
    rate = Fraction(fps).limit_denominator(1001)  # muxers need small integers; 30000/1001 is kept
    if not 1 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT:
        raise ValueError(f"pixel_aspect must be from 1/1001 to 1001, got {pixel_aspect}")
    aspect = Fraction(pixel_aspect).limit_denominator(1001)
    with atomic_output(path) as temporary:
        try:
            return _encode(temporary, kind, first, pictures, rate, aspect)
        except av.BlockingIOError as fault:  # no thread can be started; the path is fine
            raise none_started("thread", fault) from fault
        except av.FFmpegError as fault:
            raise OutputError(path, f"cannot be encoded ({fault.strerror})") from fault


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


def _to_pixels(frame: Tensor) -> NDArray[np.uint8]:
    """Return (3, H, W) in [0, 1] as (H, W, 3) in 0 … 255; NaN becomes 0."""
    steps = torch.nan_to_num(frame.detach().float(), nan=0.0).clamp(0, 1).mul(255).round()
    return np.ascontiguousarray(steps.byte().permute(1, 2, 0).cpu().numpy())


def _one_size(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield frames (3, H, W) after checking that they are of one size."""
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
    # Without "loop", a WebP is played once, whereas a GIF is repeated.
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
            stream.pix_fmt = "bgra"  # libwebp converts to its own colour matrix
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
    """Return an ffmpeg filter graph that converts RGB to the pixel format of a file type."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate
    )
    if kind == ".gif":
        made = _best_palettes(graph, source)
    elif kind in _H264:
        # Players assume chroma at the left of the pixels that share it, where none is stated.
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
    """Add filters that find the best 256 colours of each frame."""
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    return use
