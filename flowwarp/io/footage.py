"""Footage as it is: frames with transparency and depth, their times, and what the file says."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any, Literal

import av
from torch import Tensor

from flowwarp.errors import InputError
from flowwarp.io.images import read_image_with_format
from flowwarp.io.video_container import (
    DEFAULT_FPS,
    choose_decoder,
    is_webp,
    list_pictures,
    open_video,
)
from flowwarp.io.video_info import VideoInfo, video_info
from flowwarp.io.video_reader import read_timed

_ANIMATIONS = ("gif", "apng")  # ffmpeg's names of containers of animated pictures
_COARSE = Fraction(1, 2000)  # s; Matroska and FLV round times to 1/1000 s
_FINEST = 10**8  # ticks a second that muxers store; beyond, times are rounded to 1/90000 s


@dataclass(frozen=True)
class PixelLayout:
    """How a file stores pixels.

    Attributes:
        bits: per channel.
        alpha: whether there is transparency; in an animated picture, whether any pixel uses it.
        rgb: whether colours are RGB, not luma and chroma.
        chroma: pixels that share one chroma sample, across and down: (2, 2) is 4:2:0.
    """

    bits: int = 8
    alpha: bool = False
    rgb: bool = False
    chroma: tuple[int, int] = (2, 2)


@dataclass(frozen=True)
class ColorTags:
    """What a file says about its colours, in the numbers of ITU-T H.273; 2 is "not stated".

    Attributes:
        matrix: from RGB to luma and chroma.
        primaries: of the screen.
        transfer: the curve; 16 (PQ) and 18 (HLG) are HDR.
        range: 1 limited (luma from 16 to 235), 2 full, 0 not stated.
    """

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    range: int = 0


@dataclass(frozen=True)
class Recording:
    """A video, an animated picture or a folder of pictures, with all that the file says.

    Iterate over :meth:`frames`, and hand the recording to
    :func:`flowwarp.io.footage_writer.write_footage`, which keeps times, sound and the rest.

    Attributes:
        path: of the file or folder.
        kind: pictures are a folder; an animation is a GIF, WebP or APNG.
        codec: ffmpeg's name of the video codec; "" for pictures.
        info: size, average frame rate, number of frames if stated, and shape of the pixels.
        layout: bits, transparency and chroma.
        tags: of the colours.
        tick: the unit of the file's clock, in seconds.
        interlaced: whether a frame holds two fields.
        hdr_metadata: whether the file describes the screen that its HDR was made on.
        zero: the time at which video or sound begins, in seconds by the clock of the file.
        end: when the last frame ends, in seconds from ``zero``, where the file states it exactly.
        files: the pictures of a folder.
    """

    path: Path
    kind: Literal["video", "animation", "pictures"]
    codec: str
    info: VideoInfo
    layout: PixelLayout
    tags: ColorTags
    tick: Fraction
    interlaced: bool = False
    hdr_metadata: bool = False
    zero: Fraction = Fraction(0)
    end: Fraction | None = None
    files: tuple[Path, ...] = field(default=(), repr=False)
    _starts: list[Fraction] = field(default_factory=list, repr=False, compare=False)
    _seconds: list[Fraction] = field(default_factory=list, repr=False, compare=False)

    def frames(self) -> Generator[Tensor, None, None]:
        """Read the frames in display order and upright; any number of times.

        HDR is not tone-mapped: values are as coded.

        Yields:
            (3, H, W) float32 RGB in [0, 1]; (4, H, W) with opacity if ``layout.alpha``.

        Raises:
            InputError: as :func:`flowwarp.io.video_reader.read_video`.
        """
        channels = 4 if self.layout.alpha else 3
        with closing(read_timed(self.path, whole=True, files=self.files)) as frames:
            for number, (image, start, seconds) in enumerate(frames):
                if number == len(self._starts):
                    self._starts.append(self._snap(number, start - self.zero))
                    self._seconds[:] = [seconds]
                yield image[:channels]

    def start_of(self, number: int) -> Fraction:
        """Return when a frame is first shown, in seconds from the beginning.

        Raises:
            IndexError: :meth:`frames` has not read it yet.
        """
        if not 0 <= number < len(self._starts):
            raise IndexError(f"frame {number} of {self.path} has not been read yet")
        return self._starts[number]

    @property
    def frames_read(self) -> int:
        """The number of frames that :meth:`frames` has read, of which the times are known."""
        return len(self._starts)

    @property
    def last_seconds(self) -> Fraction:
        """For how long the last frame that was read is shown, in seconds."""
        if self._starts and self.end is not None and self.end > self._starts[-1]:
            return self.end - self._starts[-1]
        return self._seconds[0] if self._seconds else 1 / self.info.fps

    @property
    def units(self) -> int:
        """Ticks a second in which all times of frames are whole numbers, or nearly so."""
        units = lcm(self.tick.denominator, self.info.fps.numerator)
        return units if units <= _FINEST else 90_000

    def _snap(self, number: int, start: Fraction) -> Fraction:
        """Undo the rounding of a clock that is coarse, where the frame rate is constant."""
        even = (self._starts[0] if self._starts else start) + number / self.info.fps
        return even if self.tick > _COARSE and abs(start - even) <= self.tick else start


def open_footage(path: str | Path) -> Recording:
    """Open a video, an animated GIF, WebP or APNG, or a folder of pictures.

    One frame is decoded; of an animated picture all, to see whether any is transparent.

    Args:
        path: a video file (MP4, MOV, AVI, MKV, WebM, MPEG, ...), .gif, .webp, .apng, or a folder.

    Returns:
        What the file says, and access to its frames.

    Raises:
        InputError: missing, unreadable, without pictures, or of an impossible frame rate.

    >>> import tempfile, torch
    >>> from flowwarp.io.video_writer import write_video
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_video(f"{folder}/a.mp4", [torch.zeros(3, 16, 16)] * 3, 10)
    ...     clip = open_footage(f"{folder}/a.mp4")
    ...     images = list(clip.frames())
    >>> clip.codec, clip.layout.chroma, len(images), clip.start_of(2)
    ('h264', (2, 2), 3, Fraction(1, 5))
    """
    path = Path(path)
    if path.is_dir():
        return open_pictures(list_pictures(path))
    info = video_info(path)
    if is_webp(path):
        layout = PixelLayout(8, _is_transparent(path), rgb=True, chroma=(1, 1))
        return Recording(path, "animation", "webp", info, layout, ColorTags(), Fraction(1, 1000))
    with open_video(path) as (container, stream):
        frame = _first_frame(path, container, stream)
        layout = _layout(frame)
        animated = container.format.name in _ANIMATIONS
        if animated and layout.alpha and not _is_transparent(path):
            layout = PixelLayout(layout.bits, False, rgb=True, chroma=(1, 1))
        tick = Fraction(stream.time_base)
        start = Fraction(0) if frame.pts is None else frame.pts * tick
        zero = min([start, *_sound_starts(container)])
        return Recording(
            path,
            "animation" if animated else "video",
            stream.codec_context.codec.canonical_name,
            info,
            layout,
            _tags(frame),
            tick,
            interlaced=bool(frame.interlaced_frame),
            hdr_metadata=_has_hdr_metadata(frame),
            zero=zero,
            end=_end(container, stream, zero),
        )


def open_pictures(files: Sequence[Path]) -> Recording:
    """Return the recording of which some pictures are the frames, 25 a second.

    Args:
        files: at least one; the first one's size, bits and transparency are those of all.

    Raises:
        InputError: the first cannot be read.
    """
    image, format = read_image_with_format(files[0])
    layout = PixelLayout(format.bits, format.alpha, rgb=True, chroma=(1, 1))
    info = VideoInfo(image.shape[2], image.shape[1], DEFAULT_FPS, len(files))
    path = files[0].parent
    return Recording(
        path, "pictures", "", info, layout, ColorTags(), 1 / DEFAULT_FPS, files=tuple(files)
    )


def _first_frame(path: Path, container: Any, stream: Any) -> Any:
    decoder = choose_decoder(stream)
    try:
        for packet in container.demux(stream):
            for frame in decoder.decode(packet if packet.size else None):
                return frame
    except av.FFmpegError as fault:
        raise InputError(path, "contains no frame that can be decoded") from fault
    raise InputError(path, "contains no frame that can be decoded")


def _layout(frame: Any) -> PixelLayout:
    form = frame.format
    alpha = any(part.is_alpha for part in form.components)
    bits = max(part.bits for part in form.components)
    if form.has_palette:
        return PixelLayout(8, alpha=True, rgb=True, chroma=(1, 1))
    if len(form.components) - alpha == 1:  # grey: any chroma layout holds it
        return PixelLayout(bits, alpha)
    # Of a width of 64 rather than the frame's, which may be odd.
    chroma = (64 // form.chroma_width(64), 64 // form.chroma_height(64))
    return PixelLayout(bits, alpha, bool(form.is_rgb), chroma)


def _tags(frame: Any) -> ColorTags:
    full = frame.format.name.startswith("yuvj")  # ffmpeg's older way to say so
    return ColorTags(
        int(frame.colorspace),
        int(frame.color_primaries),
        int(frame.color_trc),
        2 if full else int(frame.color_range),
    )


def _has_hdr_metadata(frame: Any) -> bool:
    try:
        return frame.side_data.get("MASTERING_DISPLAY_METADATA") is not None
    except ValueError:  # side data that PyAV does not know
        return False


def _end(container: Any, stream: Any, zero: Fraction) -> Fraction | None:
    """Return when the last frame ends, of MOV and MP4, whose packets state it badly."""
    if "mov" not in container.format.name or not stream.duration:
        return None
    return Fraction(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero


def _sound_starts(container: Any) -> list[Fraction]:
    """Return when each sound begins, in seconds.

    A decoder drops what an encoder put before the beginning, so no time counts below 0.
    """
    return [
        max(Fraction(0), Fraction(stream.start_time * stream.time_base))
        for stream in container.streams.audio
        if stream.start_time is not None
    ]


def _is_transparent(path: Path) -> bool:
    with closing(read_timed(path, whole=True)) as frames:
        return any(bool((frame.image[3:] < 1).any()) for frame in frames)
