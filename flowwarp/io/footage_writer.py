"""Writing of processed footage with all that its source has: times, colours, sound and the rest."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

from torch import Tensor

from flowwarp.errors import OutputError
from flowwarp.io.footage import Recording
from flowwarp.io.footage_formats import ANIMATIONS, CONTAINERS, choose_encoding, is_known, layout_of
from flowwarp.io.footage_tracks import Tracks
from flowwarp.io.images import ImageFormat
from flowwarp.io.video_encoder import Clock, Timed, encode, encoding_to
from flowwarp.io.video_writer import check_fps, check_frames, write_frames

_LOG = logging.getLogger(__name__)
_HDR = {16: "PQ", 18: "HLG"}
# Ticks a second, and the fewest ticks of a frame, of formats that have no finer clock. Players show
# a GIF frame of 1/100 s for 1/10 s.
_CLOCKS = {".gif": (100, 2), ".webp": (1000, 1)}


@dataclass(frozen=True)
class Timing:
    """When output frames are shown, in terms of the input's.

    With all at their defaults, each output frame has the time of its input frame.

    Attributes:
        times: output frames for each input frame, spread evenly until the next one; frame
            ``times * k`` has the time of input frame k.
        stretch: by how much the output plays longer: slow motion.
        first: number of the input frame whose time the first output frame has.
        fps: frames a second instead of the times of the input; ``stretch`` then follows.
    """

    times: int = 1
    stretch: Fraction = Fraction(1)
    first: int = 0
    fps: Fraction | None = None

    def stretch_of(self, recording: Recording) -> Fraction:
        """Return by how much the output plays longer than the recording."""
        if self.fps is None:
            return self.stretch
        return recording.info.fps * self.times / self.fps

    def rate_of(self, recording: Recording) -> Fraction:
        """Return the average frames a second of the output."""
        return recording.info.fps * self.times / self.stretch_of(recording)

    def start_of(self, recording: Recording, number: int) -> Fraction:
        """Return when an output frame is first shown, in seconds.

        The input frames around it must have been read.

        Raises:
            IndexError: they have not been.
        """
        if self.fps is not None:
            return number / self.fps
        frame, part = divmod(number, self.times)
        start = recording.start_of(self.first + frame)
        if part:
            start += (recording.start_of(self.first + frame + 1) - start) * Fraction(
                part, self.times
            )
        return start * self.stretch


def write_footage(
    path: str | Path,
    frames: Iterable[Tensor],
    recording: Recording,
    timing: Timing | None = None,
    *,
    codec: str | None = None,
    crf: int | None = None,
    folder: bool | None = None,
) -> int:
    """Write frames made from a recording with all that the file type can hold of the recording.

    Kept are the times of the frames, bits, chroma layout, colour tags, shape of the pixels,
    transparency, sound, subtitles, chapters and metadata. Sound is copied; it is encoded again if
    the file type does not allow its codec, and stretched without a change of pitch if the result
    plays longer or shorter. The log says what cannot be kept, one line each. Without ``codec`` and
    ``crf`` the result is visually lossless: at least 40 dB.

    ==============  =======================================================================
    .mp4 .m4v       H.264, H.265; .mp4 also AV1, VP9
    .mov            H.264, H.265, ProRes; with transparency ProRes 4444
    .mkv            H.264, H.265, FFV1, ProRes, VP9, AV1; with transparency FFV1
    .webm           VP9, AV1
    .gif            256 colours a frame; a pixel is opaque or not visible
    .webp .apng     without loss; .apng also with 16 bits
    no extension    a folder of 000000.png, 000001.png, ...; 16 bits if the source has more than 8
    ==============  =======================================================================

    Args:
        path: the file or folder to write, atomically.
        frames: (3, H, W) or (4, H, W) with opacity, float in [0, 1], RGB, all of one size; consumed
            one at a time. They must come from ``recording.frames()``, at any distance.
        recording: from :func:`flowwarp.io.footage.open_footage`.
        timing: when the frames are shown; by default at the times of the recording's.
        codec: h264, h265, vp9, av1, prores or ffv1. By default that of the recording, if the file
            type allows it, else the first in the table.
        crf: constant rate factor, smaller is better: of h264 and h265 from 0 to 51, of vp9 and av1
            to 63.
        folder: whether ``path`` is a folder of pictures; by default if it exists as one, or has no
            extension.

    Returns:
        The number of frames.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: no frames, a wrong shape, or ``path``, ``codec``, ``crf`` or the frame rate do
            not fit.
        OutputError: the file cannot be written, or the folder is not empty.
    """
    timing = timing or Timing()
    suffix = Path(path).suffix.lower()
    images = check_frames(frames, (3, 4))
    if _is_folder(path, folder):
        report_losses(path, recording, timing, folder=True)
        format = ImageFormat(16 if recording.layout.bits > 8 else 8)
        return write_frames(path, ((image, format) for image in images))
    report_losses(path, recording, timing, codec, crf, folder=False)
    encoding, _ = choose_encoding(suffix, recording, codec, crf)
    has_alpha = encoding.source.startswith("rgba")
    first = next(images)
    images = chain([first], images)
    if not has_alpha:
        images = _without_alpha(path, images)
    units, least = _CLOCKS.get(suffix, (_units(recording, timing), 1))
    clock = Clock(Fraction(units), timing.rate_of(recording).limit_denominator(1001))
    aspect = recording.info.pixel_aspect if suffix in CONTAINERS else Fraction(1)
    with (
        Tracks(recording, suffix, timing.stretch_of(recording)) as tracks,
        encoding_to(path) as temporary,
    ):
        said = len(tracks.lost)
        count = encode(
            temporary,
            _timed(images, recording, timing, units, least),
            (first.shape[1], first.shape[2]),
            encoding,
            clock,
            aspect.limit_denominator(1001),
            tracks.add_to,
        )
        for loss in dict.fromkeys(tracks.lost[said:]):  # found while writing
            _LOG.warning("%s", OutputError(path, loss))
    return count


def _is_folder(path: str | Path, folder: bool | None) -> bool:
    return Path(path).suffix == "" or Path(path).is_dir() if folder is None else folder


def report_losses(
    path: str | Path,
    recording: Recording,
    timing: Timing | None = None,
    codec: str | None = None,
    crf: int | None = None,
    folder: bool | None = None,
) -> None:
    """Log what a file type cannot keep of a recording, one line each.

    :func:`write_footage` calls it; a dry run may call it alone.

    Raises:
        ValueError: as :func:`write_footage`.
    """
    timing = timing or Timing()
    suffix = "" if _is_folder(path, folder) else Path(path).suffix.lower()
    for loss in find_losses(suffix, recording, timing, codec, crf):
        _LOG.warning("%s", OutputError(path, *loss))


def find_losses(
    suffix: str,
    recording: Recording,
    timing: Timing,
    codec: str | None = None,
    crf: int | None = None,
) -> list[tuple[str, str | None]]:
    """Return what a file type cannot keep of a recording.

    Args:
        suffix: of the file, in lower case; "" for a folder of pictures.
        recording: the source.
        timing: of the output.
        codec: as for :func:`write_footage`.
        crf: as for :func:`write_footage`.

    Returns:
        A phrase for each loss, and what can be done.

    Raises:
        ValueError: as :func:`write_footage`.
    """
    losses: list[tuple[str, str | None]] = []
    keeps = suffix in CONTAINERS
    if suffix and not is_known(f"a{suffix}"):
        known = ", ".join((*CONTAINERS, *ANIMATIONS))
        raise ValueError(f"path must end in {known}, got {suffix!r}")
    if suffix:
        encoding, lost = choose_encoding(suffix, recording, codec, crf)
        check_fps(f"a{suffix}", timing.rate_of(recording))
        losses += [(loss, None) for loss in lost]
        if encoding.block != (1, 1) and _is_odd(recording, encoding.block):
            losses.append(("needs even sizes: the last row or column is repeated", None))
    aspect = recording.info.pixel_aspect
    if aspect != 1 and not keeps:
        shape = f"{aspect.numerator}:{aspect.denominator}"
        formats = ", ".join(sorted(CONTAINERS))
        losses.append(
            (
                f"will have square pixels, those of the video are {shape}",
                f"{formats} keep the shape",
            )
        )
    if (name := _HDR.get(recording.tags.transfer)) and not keeps:
        losses.append((f"does not say that its colours are HDR ({name})", "they will look pale"))
    if recording.hdr_metadata:
        losses.append(("lacks the description of the HDR screen", None))
    if recording.interlaced:
        losses.append(("is not interlaced, as the video is", "deinterlace it before"))
    with Tracks(recording, suffix, timing.stretch_of(recording)) as tracks:
        losses += [(loss, None) for loss in tracks.lost]
    return losses


def _is_odd(recording: Recording, block: tuple[int, int]) -> bool:
    return bool(recording.info.width % block[0] or recording.info.height % block[1])


def _without_alpha(path: str | Path, images: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield (3, H, W), and log once that transparency is lost."""
    said = False
    for image in images:
        if not said and bool((image[3:] < 1).any()):
            lost = OutputError(path, "has no transparency", "hidden colours become visible")
            _LOG.warning("%s", lost)
            said = True
        yield image[:3]


def _units(recording: Recording, timing: Timing) -> int:
    """Return ticks a second in which the times of output frames are whole numbers."""
    if timing.fps is not None:
        units = timing.fps.numerator
    else:
        units = recording.units * timing.times * timing.stretch.denominator
    return units if units <= 2**31 - 1 else 90_000


def _timed(
    images: Iterable[Tensor], recording: Recording, timing: Timing, units: int, least: int
) -> Iterator[Timed]:
    """Pair each image with when it is shown and for how long, in ticks."""
    before: tuple[Tensor, int] | None = None
    for number, image in enumerate(images):
        start = round(timing.start_of(recording, number) * units)
        if before is not None:
            start = max(start, before[1] + least)  # broken files state times that go back
            yield Timed(*before, start - before[1])
        before = (image, start)
    if before is not None:
        yield Timed(*before, max(least, round(_last_seconds(recording, timing) * units)))


def _last_seconds(recording: Recording, timing: Timing) -> Fraction:
    """Return for how long the last output frame is shown.

    No frames are inserted after it, so it is shorter than the last input frame by their time: a
    constant frame rate stays constant, and a frame that is held stays so.
    """
    if timing.fps is not None:
        return 1 / timing.fps
    last, even = recording.last_seconds, 1 / recording.info.fps
    inserted = min(last, even) * (1 - Fraction(1, timing.times))
    return (last - inserted) * timing.stretch


__all__ = ["Timing", "find_losses", "layout_of", "report_losses", "write_footage"]
