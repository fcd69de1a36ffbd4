"""A bulk job: the pairs of frames in clips, and where the results of each go."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from flowwarp.data.footage import Footage, find_footage
from flowwarp.defaults import Quality
from flowwarp.errors import InputError, OutputError
from flowwarp.io.file_types import IMAGE_EXTENSIONS, kind_of
from flowwarp.io.files import fold_case
from flowwarp.io.manifests import Shard, stamp
from flowwarp.io.video_info import video_info
from flowwarp.io.video_salvage import salvage_video
from flowwarp.models.flownet import FlowNet
from flowwarp.pipelines.flow.pair_fields import Pair, Target


@dataclass(frozen=True)
class Outcome:
    """The outcome of a pair, or of a damaged place in a clip.

    Args:
        key: as in :class:`flowwarp.pipelines.flow.pair_fields.Pair`, like the three below.
        place: index of the clip, and of the first frame in that clip.
        state: "done" by this call, "kept" from an earlier call, or "failed".
        names: of the frames, for messages.
        target: the result files.
        error: the error message, if it failed.
        size: (height, width) of the flow.
        seconds: time that the pair took.
    """

    key: str
    place: tuple[int, int]
    state: Literal["done", "kept", "failed"]
    names: tuple[str, ...]
    target: Target
    error: str | None = None
    size: tuple[int, int] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """All that the results of a bulk job depend on.

    Args:
        sources: the inputs, as absolute paths.
        clips: found in the sources, each with the folder of its results, relative to ``folder``.
        folder: for flow files.
        quality: of the flow.
        weights: as for :func:`flowwarp.pipelines.flow.estimate.load_flownet`.
        format: extension of the flow files.
        backward: folder for backward flow; None if it is not wanted.
        occlusion: folder for visibility masks; None if they are not wanted.
    """

    sources: tuple[str, ...]
    clips: Sequence[tuple[Footage, str]]
    folder: Path
    quality: Quality
    weights: str
    format: str
    backward: Path | None = None
    occlusion: Path | None = None

    @property
    def others(self) -> list[Path]:
        """The root folders of results besides ``folder``."""
        return [root for root in (self.backward, self.occlusion) if root is not None]

    @property
    def folders(self) -> list[Path]:
        """Every folder that files are written to."""
        names = dict.fromkeys(name for _, name in self.clips)
        return [root / name for root in (self.folder, *self.others) for name in names]

    def target(self, key: str) -> Target:
        """Return the result files of a pair."""
        return Target(
            self.folder / f"{key}{self.format}",
            self.backward / f"{key}{self.format}" if self.backward else None,
            self.occlusion / f"{key}.png" if self.occlusion else None,
        )

    def describe(self, net: FlowNet) -> dict[str, Any]:
        """Return the settings that a manifest must state for this job to resume, as JSON."""
        return {
            "job": "flow",
            "source": list(self.sources),
            "files": self._fingerprint(),
            "quality": self.quality,
            "weights": _digest(net),
            "format": self.format[1:],
            "backward": str(self.backward.absolute()) if self.backward else None,
            "occlusion": str(self.occlusion.absolute()) if self.occlusion else None,
        }

    def _fingerprint(self) -> str:
        """Return a digest of names, sizes and times; copies that keep their times share it."""
        files = [(name, file.name, stamp(file)) for clip, name in self.clips for file in clip.files]
        return hashlib.sha256(repr(files).encode()).hexdigest()


def _digest(net: FlowNet) -> str:
    digest = hashlib.sha256(repr(net.config).encode())
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------ clips


def place_clips(sources: Sequence[Path]) -> list[tuple[Footage, str]]:
    """Find clips, and name the folder for the results of each.

    The results of a folder mirror its structure. With several sources, each has a folder of its
    name. Pictures that are given one by one form one clip.

    Args:
        sources: folders, videos and pictures.

    Returns:
        Clips, each with a folder relative to that of the job; ``""`` is the job's own.

    Raises:
        InputError: a source is missing or unreadable, or contains no frames.
        OutputError: two pairs would have the same result file.
    """
    found = [
        (source, clip)
        for source in dict.fromkeys(sources)
        if not is_picture(source)
        for clip in find_footage([source])
    ]
    pictures = tuple(filter(is_picture, sources))
    several = len({source for source, _ in found}) + bool(pictures) > 1
    placed = [(clip, _result_folder(source, clip, several)) for source, clip in found]
    if pictures:
        placed.append((Footage("frames", pictures), ""))
    if not placed:
        raise InputError(", ".join(map(str, sources)), "contains neither frames nor videos")
    # clip.mp4 beside clip.avi, or beside a folder clip: the extension tells them apart.
    names = Counter(fold_case(name) for _, name in placed)
    placed = [
        (clip, name + clip.files[0].suffix)
        if names[fold_case(name)] > 1 and clip.kind == "video"
        else (clip, name)
        for clip, name in placed
    ]
    _check_names(placed)
    return placed


def is_picture(path: Path) -> bool:
    """Return whether a path names a picture rather than a clip."""
    return kind_of(path) in IMAGE_EXTENSIONS and not path.is_dir()


def check_clip(clip: Footage) -> None:
    """Check that a clip has two frames at least.

    Raises:
        InputError: it is a single frame, or cannot be read at all.
    """
    frames = salvage_video(clip.files[0]) if clip.kind == "video" else clip.files
    if sum(1 for _ in islice(frames, 2)) < 2:
        raise InputError(clip.files[0], "is a single frame", "flow needs two")


def _result_folder(source: Path, clip: Footage, several: bool) -> str:
    """Return the folder for the results of a clip that was found in ``source``."""
    first = clip.files[0]
    if clip.kind == "pair" or first == source:
        inner = Path()
    elif clip.kind == "frames":
        inner = first.parent.relative_to(source)
    else:
        inner = first.relative_to(source).with_suffix("")
    absolute = source.resolve()
    outer = absolute.name if source.is_dir() else absolute.stem
    return _join(*inner.parts) if not several else _join(outer, *inner.parts)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _check_names(placed: Sequence[tuple[Footage, str]]) -> None:
    source_of: dict[str, Path] = {}
    for clip, name in placed:
        video = clip.kind == "video"
        for file in clip.files if video else clip.files[:-1]:
            key = _join(name, "" if video else file.stem)
            if fold_case(key) in source_of:
                raise OutputError(
                    key,
                    f"would be the result of both {source_of[fold_case(key)]} and {file}",
                    "process them in separate runs",
                )
            source_of[fold_case(key)] = file


# ------------------------------------------------------------------ pairs


def count_pairs(clips: Sequence[tuple[Footage, str]]) -> int | None:
    """Return the number of pairs, by the headers of the videos; None if one does not state it."""
    total = 0
    for clip, _ in clips:
        frames: int | None = len(clip.files)
        if clip.kind == "video":
            try:
                frames = video_info(clip.files[0]).frames
            except InputError:
                return None
        if frames is None:
            return None
        total += frames - 1
    return total


def find_pairs(job: Job, shard: Shard | None = None) -> Iterator[Pair | Outcome]:
    """Yield every pair of a job, or of a shard of it; a failed outcome where a clip is damaged."""
    for index, (clip, name) in enumerate(job.clips):
        find = _video_pairs if clip.kind == "video" else _picture_pairs
        for found in find(job, index, clip, name):
            # The sum spreads the pairs evenly over the shards, whatever the lengths of the clips.
            if shard is None or sum(found.place) % shard[1] == shard[0] - 1:
                yield found


def _picture_pairs(job: Job, clip_index: int, clip: Footage, name: str) -> Iterator[Pair]:
    for index, frames in enumerate(pairwise(clip.files)):
        key = _join(name, frames[0].stem)
        yield Pair(
            key,
            (clip_index, index),
            frames,
            (str(frames[0]), str(frames[1])),
            [stamp(frame) for frame in frames],
            job.target(key),
        )


def _video_pairs(job: Job, clip_index: int, clip: Footage, name: str) -> Iterator[Pair | Outcome]:
    path = clip.files[0]
    stamps = [stamp(path)]

    def frame_names(index: int) -> tuple[str, str]:
        return f"{path} frame {index:06d}", f"{path} frame {index + 1:06d}"

    def failed(index: int, fault: InputError) -> Outcome:
        key = _join(name, f"{index:06d}")
        place, names = (clip_index, index), frame_names(index)
        return Outcome(key, place, "failed", names, job.target(key), error=str(fault))

    before: NDArray[np.uint8] | None = None
    count = 0  # of frames read
    try:
        for frame in salvage_video(path):
            after = None if frame is None else frame.mul(255).round().byte().numpy()
            index, count = count - 1, count + 1
            if index >= 0 and before is not None and after is not None:
                key, place = _join(name, f"{index:06d}"), (clip_index, index)
                yield Pair(key, place, (before, after), frame_names(index), stamps, job.target(key))
            elif index >= 0:
                damaged = index if before is None else index + 1
                yield failed(index, InputError(path, f"frame {damaged:06d} is damaged"))
            before = after
        if count == 1:
            raise InputError(path, "is a single frame", "flow needs two")
    except InputError as fault:
        yield failed(max(count - 1, 0), fault)
