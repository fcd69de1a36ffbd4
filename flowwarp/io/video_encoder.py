"""Encoding of frames into a container: pixels to the layout of a codec, and their times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, final

import av
import av.filter
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.errors import OutputError, none_started
from flowwarp.io._last_frame import hold_last_frame
from flowwarp.io.atomic import atomic_output

BT709 = 1  # ffmpeg's number of BT.709, for matrix, primaries and transfer function
LIMITED, FULL = 1, 2  # ffmpeg's numbers of ranges; limited, luma 16 to 235, is what players expect
# Names of matrices in ffmpeg's filter; what is not stated is read as BT.601, so written as that.
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 7: "smpte240m", 9: "bt2020nc"}
_BT601 = "smpte170m"
_PAIRS = ("libx264", "libx265", "libsvtav1")  # whole chroma samples only
_QUALITY_FLAGS = "bicubic+accurate_rnd+full_chroma_inp"


@dataclass(frozen=True)
class Encoding:
    """A codec and the layout of its pixels.

    Attributes:
        codec: ffmpeg's name of the encoder.
        pix_fmt: ffmpeg's name of the layout.
        options: of the encoder.
        muxer_options: of the container.
        matrix: colour tag in ffmpeg's numbers, as the next three.
        primaries: of the screen.
        transfer: curve.
        range: limited, full or (0) not stated.
        tag: the code that names the codec in the file, if not the container's default.
    """

    codec: str
    pix_fmt: str
    options: Mapping[str, str] = field(default_factory=dict)
    muxer_options: Mapping[str, str] = field(default_factory=dict)
    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    range: int = LIMITED
    tag: str | None = None

    @property
    def is_rgb(self) -> bool:
        """Whether pixels are RGB, directly or through a palette."""
        return self.pix_fmt == "pal8" or bool(av.VideoFormat(self.pix_fmt, 64, 64).is_rgb)

    @property
    def source(self) -> str:
        """The layout of RGB pixels that :func:`to_pixels` makes for it."""
        parts = av.VideoFormat(self.pix_fmt, 64, 64).components
        alpha = any(part.is_alpha for part in parts)
        if self.pix_fmt == "pal8":
            return "rgba" if "transparent" in self.options else "rgb24"
        if max(part.bits for part in parts) > 8:
            return "rgba64le" if alpha else "rgb48le"
        return "rgba" if alpha else "rgb24"

    @property
    def block(self) -> tuple[int, int]:
        """Width and height of which the frame's must be multiples."""
        if self.codec not in _PAIRS or self.is_rgb:
            return 1, 1
        form = av.VideoFormat(self.pix_fmt, 64, 64)
        return 64 // form.chroma_width(64), 64 // form.chroma_height(64)


class Clock(NamedTuple):
    """The times of a stream.

    Attributes:
        units: ticks a second.
        rate: average frames a second, which the file states.
    """

    units: Fraction
    rate: Fraction


class Timed(NamedTuple):
    """A frame to encode: (3|4, H, W), when it is shown and for how long, in ticks."""

    image: Tensor
    start: int
    ticks: int


def to_pixels(image: Tensor, form: str) -> NDArray[Any]:
    """Return an image (3|4, H, W) in [0, 1] as (H, W, C) integers; NaN becomes 0.

    Args:
        image: floating point.
        form: rgb24, rgba, rgb48le or rgba64le; an image without opacity becomes opaque.
    """
    channels = 4 if "a" in form else 3
    image = image.detach().float()
    if len(image) < channels:
        image = torch.cat([image, torch.ones_like(image[:1])])
    deep = form.endswith("le")
    steps = torch.nan_to_num(image[:channels], nan=0.0).clamp(0, 1)
    steps = steps.mul_(65535 if deep else 255).round_().permute(1, 2, 0).cpu()
    return np.ascontiguousarray(steps.numpy().astype(np.uint16 if deep else np.uint8))


@contextmanager
def encoding_to(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file that becomes ``path`` at the end of the block; name its errors.

    Raises:
        OutputError: it cannot be encoded or written.
        InputError: the system starts no more threads.
    """
    with atomic_output(path) as temporary:
        try:
            yield temporary
        except av.BlockingIOError as fault:  # no thread can be started; the path is fine
            raise none_started("thread", fault) from fault
        except av.FFmpegError as fault:
            raise OutputError(path, f"cannot be encoded ({fault.strerror})") from fault


def encode(
    path: Path,
    frames: Iterable[Timed],
    size: tuple[int, int],
    encoding: Encoding,
    clock: Clock,
    pixel_aspect: Fraction = Fraction(1),
    add_tracks: Callable[[Any], Callable[[Fraction | None], None]] | None = None,
) -> int:
    """Encode frames into a file.

    Args:
        path: to write; the extension selects the container.
        frames: (3|4, H, W) in [0, 1], with times that increase.
        size: height and width.
        encoding: codec and layout.
        clock: of the times.
        pixel_aspect: width of a pixel by its height.
        add_tracks: adds further streams to a container of PyAV and returns a function that writes
            them up to a time in seconds, or to their end (None).

    Returns:
        The number of frames.

    Raises:
        av.FFmpegError: it cannot be encoded.
    """
    across, down = encoding.block
    height, width = -(-size[0] // down) * down, -(-size[1] // across) * across
    count = 0
    with av.open(path, "w", options=dict(encoding.muxer_options)) as container:
        stream = _add_stream(container, encoding, (height, width), clock, pixel_aspect)
        mux_until = add_tracks(container) if add_tracks else None
        graph = _graph(encoding, width, height, 1 / clock.units)
        packets = _Packets(container)
        for image, start, ticks in frames:
            pixels = to_pixels(image, encoding.source)
            padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(pixels, padding, "edge"), encoding.source)
            frame.pts, frame.time_base = start, 1 / clock.units
            packets.expect(start, ticks)
            graph.push(frame)
            packets.mux(stream.encode(graph.pull()))
            if mux_until:
                mux_until(Fraction(start / clock.units))
            count += 1
        packets.mux(stream.encode(None))
        packets.finish()
        if mux_until:
            mux_until(None)
    hold_last_frame(path, packets.last_ticks / clock.units)
    return count


@final
class _Packets:
    """Writes packets of frames with their durations, which encoders leave out.

    Muxers of MOV and MP4 take them from the decoding times of the packets, except that of the last
    packet, which is not that of the last frame if frames are decoded in another order.
    """

    def __init__(self, container: Any) -> None:
        self._container = container
        self._by_decoding = "mov" in container.format.name or "mp4" in container.format.name
        self._ticks: dict[int, int] = {}  # for which frames in the encoder are shown
        self._waiting: Any = None
        self._first_decoded: int | None = None
        self._start: int | None = None
        self._end = 0
        self.last_ticks = 0

    def expect(self, start: int, ticks: int) -> None:
        """Note when a frame is shown and for how long."""
        self._start = start if self._start is None else self._start
        self._ticks[start] = ticks
        self._end, self.last_ticks = start + ticks, ticks

    def mux(self, packets: Iterable[Any]) -> None:
        """Write packets; the newest one waits, since it may be the last."""
        for packet in packets:
            packet.duration = self._ticks.pop(packet.pts, packet.duration or 0)
            if self._waiting is not None:
                self._container.mux(self._waiting)
            else:
                self._first_decoded = packet.dts
            self._waiting = packet

    def finish(self) -> None:
        """Write the last packet."""
        packet = self._waiting
        if packet is None:
            return
        if self._by_decoding and self._first_decoded is not None and packet.dts is not None:
            passed = packet.dts - self._first_decoded
            packet.duration = max(1, self._end - (self._start or 0) - passed)
        self._container.mux(packet)


def _add_stream(
    container: Any, encoding: Encoding, size: tuple[int, int], clock: Clock, aspect: Fraction
) -> Any:
    options = {key: value for key, value in encoding.options.items() if key != "transparent"}
    stream = container.add_stream(encoding.codec, clock.rate, options=options)
    stream.pix_fmt = encoding.pix_fmt
    stream.height, stream.width = size
    context = stream.codec_context
    context.time_base = 1 / clock.units
    if not encoding.is_rgb:
        context.colorspace = encoding.matrix
        context.color_range = encoding.range
    context.color_primaries, context.color_trc = encoding.primaries, encoding.transfer
    context.sample_aspect_ratio = aspect
    if encoding.tag:
        context.codec_tag = encoding.tag
    return stream


def _graph(encoding: Encoding, width: int, height: int, tick: Fraction) -> Any:
    """Return an ffmpeg filter graph that converts RGB to the layout of an encoding."""
    graph = av.filter.Graph()
    made = graph.add_buffer(
        width=width, height=height, format=av.VideoFormat(encoding.source), time_base=tick
    )
    if encoding.pix_fmt == "pal8":
        made = _best_palettes(graph, made, transparent="transparent" in encoding.options)
    elif not encoding.is_rgb:
        matrix = _MATRICES.get(encoding.matrix, _BT601)
        full = "pc" if encoding.range == FULL else "tv"
        # Players assume chroma at the left of the pixels that share it, where none is stated, and
        # our reader assumes it always.
        scale = graph.add(
            "scale",
            f"out_color_matrix={matrix}:out_range={full}:out_chroma_loc=left"
            f":flags={_QUALITY_FLAGS}",
        )
        made.link_to(scale)
        made = scale
    form = graph.add("format", encoding.pix_fmt)
    sink = graph.add("buffersink")
    made.link_to(form)
    form.link_to(sink)
    graph.configure()
    return graph


def _best_palettes(graph: Any, source: Any, *, transparent: bool) -> Any:
    """Add filters that find the best 256 colours of each frame, one of them transparent."""
    split = graph.add("split")
    palette = graph.add("palettegen", f"stats_mode=single:reserve_transparent={int(transparent)}")
    use = graph.add("paletteuse", "new=1:alpha_threshold=128")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    return use
