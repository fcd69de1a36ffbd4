"""Opens the clips of ``train-video``: a folder, a tar file or a synthetic world."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowwarp.data.captioned_files import NO_CAPTIONS
from flowwarp.data.captioned_survey import Survey
from flowwarp.data.clip import WorldFiles
from flowwarp.data.sources import ClipReading, open_source, open_split
from flowwarp.data.tokens import Words
from flowwarp.train.seeding import held_out_series
from flowwarp.train.video_run import VideoData

# Captions that show the words of a synthetic world: of so many clips one each, and further ones.
# After 200 clips no word was new; digits have 56 words, sprites 162.
_CLIPS, _REWORDINGS = 300, 9
_KIND = 3  # of the series that these clips are


def open_video_data(
    found: Survey,
    *,
    captions: str | Path | None = None,
    world_files: WorldFiles = WorldFiles(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> VideoData:
    """Open the clips that a survey found, in the layout that it chose.

    Args:
        found: what the source holds.
        captions: as in :func:`flowwarp.data.captioned_files.list_captioned`; with ``"none"`` there
            are no words.
        world_files: files that sprites are made of.
        progress: for a folder, while it is prepared: called with (videos done, videos in all).

    Raises:
        InputError: no video is of use, or a folder is missing or broken.
        OutputError: a folder cannot be prepared, since the cache cannot be written.
    """
    layout = found.layout
    source, validation = open_split(
        found.source,
        layout.size,
        layout.frames,
        world_files=world_files,
        reading=ClipReading(layout.step, captions),
        progress=progress,
    )
    if captions == NO_CAPTIONS:
        words = Words((), 1)
    elif found.files is None:
        words = words_of_world(found.source, world_files)
    else:
        words = Words.of_captions(source.captions)
    # The name alone: the model may be given away, and paths are nobody's business.
    notes = {"data": Path(found.source).name}
    return VideoData(
        source, validation, words, layout.base, layout.size, layout.frames, layout.fps, notes
    )


def words_of_world(
    name: str,
    world_files: WorldFiles = WorldFiles(),  # noqa: B008 - frozen
) -> Words:
    """Return the words of a synthetic world, as far as some thousand captions have them.

    The clips are as small and short as can be, since only their captions are read.
    """
    source = open_source(name, 8, 4, world_files=world_files, rewordings=_REWORDINGS)
    series = held_out_series(0, _KIND)
    clips = (source(series, index) for index in range(_CLIPS))
    return Words.of_captions(text for clip in clips for text in (clip.caption, *clip.rewordings))
