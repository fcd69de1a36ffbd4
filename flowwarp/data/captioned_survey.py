"""What a source of captioned clips holds: how many, how long, which words, and what is cut.

Of files only the headers are read; what breaks off later is found when the frames are prepared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from flowwarp.data.captioned_files import list_captioned
from flowwarp.data.captioned_tar import open_video, skip
from flowwarp.data.clip_layout import (
    MAX_FRAMES,
    ClipLayout,
    VideoShape,
    choose_layout,
    cut_share,
    frames_left,
)
from flowwarp.data.sources import WORLDS
from flowwarp.data.tokens import split_words
from flowwarp.defaults import FPS
from flowwarp.errors import InputError, printable
from flowwarp.io.video_info import estimate_frames, video_info

# Rules of thumb. A network that has seen few videos repeats them; a word in few captions is learned
# as a part of those, and does not join others in a new prompt.
MIN_CLIPS = 50
MIN_CAPTIONS = 5  # that have a word
MAX_RARE_SHARE = 0.1  # of all running words, those that are rarer

# Words that are wrong of a mirrored clip.
SIDES = {
    *("left", "leftward", "leftwards", "right", "rightward", "rightwards"),
    *("clockwise", "counterclockwise", "anticlockwise"),
}

_WORLD_LAYOUT = ClipLayout((64, 64), (128, 128), MAX_FRAMES, 1, FPS)
_MIXED_RATES = 1.5  # greatest rate by the least from which motion looks faster in some videos
_LISTED = 20  # sizes, words or messages in the table


@dataclass(frozen=True)
class Spread:
    """The least, the median and the greatest of some values."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(min(values), median(values), max(values))


@dataclass(frozen=True)
class FileSurvey:
    """What is in a folder or tar file.

    Args:
        videos: number of videos that are long enough and whose headers can be read, each counted
            once.
        clips: number of training clips that share no frame.
        captions: number of their captions; 0 if captions are not used.
        sizes: (width x height, number of videos), commonest first.
        frames: of a video, before every ``step``-th is chosen.
        seconds: of a video.
        fps: frames a second.
        words: (word, number of captions that have it), commonest first.
        cut: what of the videos is not trained on, a sentence each.
        skipped: what is left out and why, a message each.
        lacking: what there is too little of, a sentence each.
    """

    videos: int
    clips: int
    captions: int
    sizes: tuple[tuple[str, int], ...]
    frames: Spread
    seconds: Spread
    fps: Spread
    words: tuple[tuple[str, int], ...]
    cut: tuple[str, ...]
    skipped: tuple[str, ...]
    lacking: tuple[str, ...]

    @property
    def rare(self) -> tuple[str, ...]:
        """Return the words that fewer than ``MIN_CAPTIONS`` captions have."""
        return tuple(word for word, count in self.words if count < MIN_CAPTIONS)


@dataclass(frozen=True)
class Survey:
    """A source of clips and what is trained of it.

    Args:
        source: a folder, a tar file or a synthetic world.
        layout: of the training clips.
        files: what is in a folder or tar file; None for a synthetic world, which has no end.
    """

    source: str
    layout: ClipLayout
    files: FileSurvey | None = None

    @property
    def enough(self) -> bool:
        """Return whether there is enough to train on, by rules of thumb."""
        return self.files is None or not self.files.lacking


def survey(
    source: str | Path,
    *,
    captions: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look through a source of clips, and choose the layout of the training clips.

    Args:
        source: ``sprites``, ``digits``, or a folder or tar file of captioned videos.
        captions: as in :func:`flowwarp.data.captioned_files.list_captioned`.
        progress: called with (videos done, videos in all).

    Raises:
        InputError: there is no captioned video, a table or tar file is broken, or no video is of
            use.
    """
    if str(source) in WORLDS:
        return Survey(str(source), _WORLD_LAYOUT)
    skipped: list[str] = []
    items = list_captioned(source, skipped, captions)
    videos: dict[str, VideoShape] = {}
    texts: dict[str, list[str]] = {}
    for number, item in enumerate(items):
        name = item.original or item.name
        try:
            if name not in videos:
                with open_video(item) as path:
                    videos[name] = _read_shape(path)
            texts.setdefault(name, []).append(item.caption)
        except InputError as fault:
            cause = str(fault).removeprefix(f"{fault.source}: ")
            skip(f"{item.name}: {cause}" if item.member else str(fault), skipped)
        if progress:
            progress(number + 1, len(items))
    if not videos:
        raise InputError(source, f"no video is of use; the first fault: {skipped[0]}")
    layout = choose_layout(list(videos.values()))
    short = {name for name, v in videos.items() if frames_left(v, layout.step) < layout.frames}
    if len(short) == len(videos):
        raise InputError(source, f"no video is of use; none has {layout.frames} frames")
    used = [shape for name, shape in videos.items() if name not in short]
    words = [text for name, part in texts.items() if name not in short for text in part]
    cut = tuple(_list_cuts(used, layout, len(short)))
    return Survey(str(source), layout, _summarise(used, words, layout, cut, tuple(skipped)))


def _read_shape(path: Path) -> VideoShape:
    info = video_info(path)
    return VideoShape(info.height, info.width, estimate_frames(path, info), float(info.fps))


def _summarise(
    videos: Sequence[VideoShape],
    texts: Sequence[str],
    layout: ClipLayout,
    cut: tuple[str, ...],
    skipped: tuple[str, ...],
) -> FileSurvey:
    counts = Counter(word for text in texts for word in set(split_words(text)))
    words = tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
    clips = sum(frames_left(video, layout.step) // layout.frames for video in videos)
    captions = sum(map(bool, texts))
    return FileSurvey(
        videos=len(videos),
        clips=clips,
        captions=captions,
        sizes=tuple(Counter(f"{v.width}x{v.height}" for v in videos).most_common()),
        frames=Spread.of([video.frames for video in videos]),
        seconds=Spread.of([video.frames / video.fps for video in videos]),
        fps=Spread.of([video.fps for video in videos]),
        words=words,
        cut=cut,
        skipped=skipped,
        lacking=tuple(_list_lacks(len(videos) if captions else clips, words)),
    )


def _list_cuts(videos: Sequence[VideoShape], layout: ClipLayout, short: int) -> Iterator[str]:
    """Say what of the videos is not trained on; ``short`` videos are left out as too short."""
    shares = [cut_share(video, layout.base) for video in videos]
    if max(shares) > 0.005:
        yield f"edges: {mean(shares):.0%} of the area of frames, {max(shares):.0%} at most"
    if layout.step > 1:
        yield f"frames: 1 of {layout.step} is used, {layout.fps:.3g} a second"
    if short:
        yield f"{short} of {short + len(videos)} videos: shorter than {layout.frames} frames"


def _list_lacks(clips: int, words: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Say what there is too little of.

    Args:
        clips: number of videos or, without captions, of training clips that share no frame.
        words: (word, number of captions that have it).
    """
    if clips < MIN_CLIPS:
        yield f"{clips} clips, where at least {MIN_CLIPS} are advised"
    rare = sum(count for _, count in words if count < MIN_CAPTIONS)
    if words and rare > MAX_RARE_SHARE * sum(count for _, count in words):
        yield (
            f"most words are in at least {MIN_CAPTIONS} captions if they are learned; here "
            f"{sum(count < MIN_CAPTIONS for _, count in words)} of {len(words)} words are rarer"
        )


# ------------------------------------------------------------------ the table


def format_survey(found: Survey) -> str:
    """Return a survey as a table of plain text, for a terminal or a report."""
    layout = found.layout
    (height, width), (base_height, base_width) = layout.size, layout.base
    seconds = layout.frames / layout.fps
    trained = f"{layout.frames} frames at {layout.fps:.3g} a second ({seconds:.2g} s), "
    trained += f"{base_width}x{base_height}"
    if layout.size != layout.base:
        trained += f", enlarged to {width}x{height}"
    lines = [("source", found.source)]
    if found.files is None:
        lines.append(("clips", "made as they are needed, without end"))
    else:
        lines += _list_contents(found.files)
    lines.append(("trained on", trained))
    shown, previous = [], ""
    for name, text in lines:
        shown.append(f"{'' if name == previous else name:<12}{printable(text)}".rstrip())
        previous = name
    return "\n".join(shown)


def _list_contents(files: FileSurvey) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each line of the table; a name may come several times in a row."""
    captions = f"{files.captions} captions" if files.captions else "no captions"
    yield "videos", f"{files.videos}, with {captions}; {files.clips} clips that share no frame"
    yield "sizes", _listing([f"{size} ({count})" for size, count in files.sizes])
    yield "length", f"{_spread(files.frames)} frames, {_spread(files.seconds)} s"
    yield "rate", f"{_spread(files.fps)} frames a second"
    if files.fps.most > _MIXED_RATES * files.fps.least:
        yield "rate", "they differ, so the same motion looks faster in some; bring them to one rate"
    if files.words:
        common = [f"{word} {n}" for word, n in files.words if n >= MIN_CAPTIONS]
        yield "words", f"{len(files.words)}: {_listing(common)}"
    if files.rare:
        yield "rare words", f"in fewer than {MIN_CAPTIONS} captions: {_listing(files.rare)}"
    for text in files.cut:
        yield "cut", text
    for text in files.skipped[:_LISTED]:
        yield "skipped", text
    if len(files.skipped) > _LISTED:
        yield "skipped", f"and {len(files.skipped) - _LISTED} more"
    if not files.lacking:
        yield "enough", "yes, by rules of thumb"
    for text in files.lacking:
        yield "too few", text


def _listing(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
    return (", ".join(texts[:_LISTED]) or "none") + more


def _spread(values: Spread) -> str:
    """Return a spread as one number, or as least to most with the median."""
    least, middle, most = (f"{v:.4g}" for v in (values.least, values.median, values.most))
    return least if least == most else f"{least} to {most} (median {middle})"
