"""Clips composed once, and memory-mapped from then on, for what looks at pixels many times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.clip import Clip
from flowwarp.data.frame_store import store_folder
from flowwarp.train.arrays import CAPTION, Kind, fill_arrays, pack_caption, unpack_caption

_VERSION = 3  # of the cache; part of its key
_PROBED = 8  # clips whose content is part of the key


@final
class KeptClips:
    """Pixels of clips and what is said of them.

    Args:
        folder: made by :func:`keep_clips`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._videos = np.load(folder / "video.npy", mmap_mode="r")
        self._captions = np.load(folder / "captions.npy", mmap_mode="r")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._videos)

    def captions(self, index: int) -> list[str]:
        """Return what a clip shows, in words, as many times as the others."""
        return [unpack_caption(row) for row in self._captions[index]]

    def labels(self, index: int) -> dict[str, str]:
        """Return a word for each thing of a clip that can be told, if any."""
        labels: dict[str, str] = json.loads(unpack_caption(self._labels[index]))
        return labels

    def video(self, index: int, start: int, count: int) -> Tensor:
        """Return some frames of a clip, (count, 3, S, S) uint8."""
        return torch.from_numpy(np.array(self._videos[index, start : start + count]))

    @property
    def frames(self) -> int:
        """Frames of each clip."""
        return int(self._videos.shape[1])


def keep_clips(
    draw: Callable[[int], Clip],
    key: str,
    count: int,
    *,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> KeptClips:
    """Compose clips; a second call with the same key is free, and a stopped one goes on.

    Args:
        draw: a pure function from the number of a clip to the clip; all of one size and length, and
            with as many captions.
        key: names what ``draw`` depends on, so far as the first clips do not tell.
        count: how many, at least one.
        cache: where to keep them. Default: as for footage.
        progress: called with (clips done, clips in all).

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process is at it.
    """
    digest = hashlib.sha256(repr((_VERSION, key, count)).encode())
    probed = [draw(number) for number in range(min(_PROBED, count))]
    for clip in probed:
        digest.update(_pack_captions(clip).data)
        digest.update(_pack_labels(clip).data)
        digest.update(clip.video.contiguous().numpy().data)
    folder = store_folder(cache) / f"clips-{digest.hexdigest()[:20]}"
    shape = tuple(probed[0].video.shape)
    rows: dict[str, Kind] = {
        "captions": (_pack_captions(probed[0]).shape, np.uint8),
        "labels": ((CAPTION,), np.uint8),
        "video": (shape, np.uint8),
    }

    def make(number: int) -> dict[str, NDArray[Any]]:
        clip = draw(number)
        video = clip.video.numpy()
        return {"captions": _pack_captions(clip), "labels": _pack_labels(clip), "video": video}

    problem = "another process composes these clips"
    fill_arrays(folder, rows, count, make, problem=problem, progress=progress)
    return KeptClips(folder)


def _pack_captions(clip: Clip) -> NDArray[np.uint8]:
    return np.stack([pack_caption(caption) for caption in (clip.caption, *clip.rewordings)])


def _pack_labels(clip: Clip) -> NDArray[np.uint8]:
    return pack_caption(json.dumps(dict(clip.labels), ensure_ascii=False))
