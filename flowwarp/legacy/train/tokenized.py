"""Clips turned into codes once, and memory-mapped from then on.

The discrete VAE is frozen while the transformer learns, so what it makes of a clip is computed once
rather than in each epoch: a clip of 16 frames of 64 x 64 is 5.8 kB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowwarp.data.clip import Clip
from flowwarp.data.frame_store import store_folder
from flowwarp.data.media import FRAME, MOTION, SKETCH, VIDEO
from flowwarp.legacy.data.tokens import MOTION_CODES, MOTION_GRID, Medium, motion_codes
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.pipelines.captions import MediaCaptioner
from flowwarp.legacy.pipelines.sketches import eye_print, kinds, sketch, sketch_grid
from flowwarp.legacy.pipelines.tokens import encoder_parts, tokenize, weight_bytes
from flowwarp.precision import fast_dtype
from flowwarp.train.arrays import CAPTION, Kind, fill_arrays, pack_caption, unpack_caption

_VERSION = 3  # of the cache; part of its key
_PROBED = 8  # clips whose pixels are part of the key

DrawClip = Callable[[int], Clip]


def grid_media(
    dvae: DVAE, size: int, frames: int, captioner: MediaCaptioner | None = None
) -> tuple[Medium, ...]:
    """Return the media of a clip besides its text: video, first frame, motion, and its sketch.

    There are sketches where there is a captioner to make them.

    Another medium is one more line here, one in :func:`clip_codes`, and its weight in the loss.
    """
    config = dvae.config
    rows = size // config.stride
    times = -(-frames // config.stride_time)
    sketches: tuple[Medium, ...] = ()
    if captioner is not None:
        sketches = (Medium(SKETCH, kinds(captioner), sketch_grid(captioner, times)),)
    return (
        Medium(VIDEO, config.book, (times, rows, rows), digits=config.digits),
        # The same codes, but of a picture that stands still, just before the video.
        Medium(FRAME, config.book, (1, rows, rows), 0, VIDEO, config.digits),
        Medium(MOTION, MOTION_CODES, MOTION_GRID),
        *sketches,
    )


def clip_codes(
    clip: Clip, dvae: DVAE, captioner: MediaCaptioner | None = None
) -> dict[str, Tensor]:
    """Return the codes of each medium of a clip besides its text."""
    sketches = {}
    if captioner is not None:
        times = len(clip.video) // dvae.config.stride_time
        sketches = {SKETCH: sketch(captioner, clip.video, times)}
    return sketches | {
        VIDEO: tokenize(dvae, clip.video),
        FRAME: tokenize(dvae, clip.video[:1]),
        MOTION: motion_codes(clip.flow_12, clip.valid_12),
    }


@final
class TokenStore:
    """Captions and codes of clips, memory-mapped.

    Args:
        folder: made by :func:`tokenize_clips`.
        names: of the media.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self._captions = np.load(folder / "captions.npy", mmap_mode="r")
        self._codes = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}

    def __len__(self) -> int:
        return len(self._captions)

    def caption(self, index: int) -> str:
        """Return what a clip shows, in words."""
        return unpack_caption(self._captions[index])

    def captions(self) -> Iterator[str]:
        """Yield all captions."""
        return map(self.caption, range(len(self)))

    def codes(self, name: str, index: int) -> Tensor:
        """Return the codes of a medium of a clip, int64, in the shape of its grid."""
        return torch.from_numpy(self._codes[name][index].astype(np.int64))


def tokenize_clips(
    draw: DrawClip,
    dvae: DVAE,
    media: tuple[Medium, ...],
    key: str,
    count: int,
    *,
    captioner: MediaCaptioner | None = None,
    half: bool = False,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TokenStore:
    """Turn clips into codes; a second call with the same key is free, and a stopped one goes on.

    Args:
        draw: a pure function from the number of a clip to the clip.
        dvae: whose codes they are; what these hang on is part of the key.
        media: of :func:`grid_media`.
        key: names what ``draw`` depends on, so far as the first clips do not tell: for a folder,
            the state of its source.
        count: how many.
        captioner: makes their sketches, where ``media`` has them; its weights are part of the key.
        half: let autocast use bf16, which takes less than half the time on a CPU that has it, and
            changes a code where it was a close call.
        cache: where to keep them. Default: as for footage.
        progress: called with (clips done, clips in all).

    Raises:
        ValueError: clips are not whole groups of frames.
        OutputError: the cache cannot be written.
        Locked: another process is at it.
    """
    root = store_folder(cache)
    settings = dvae.config
    chosen_by = settings.beams, settings.chroma, settings.correction  # besides weights
    digest = hashlib.sha256(repr((_VERSION, key, count, media, half, chosen_by)).encode())
    # What is corrected was decoded.
    for part in weight_bytes([dvae]) if settings.correction else encoder_parts(dvae):
        digest.update(part)
    if captioner is not None:
        device = captioner.net.head.weight.device  # sketches are made in what is fast there
        digest.update(f"{eye_print(captioner)} {fast_dtype(device)}".encode())
    for number in range(min(_PROBED, count)):
        clip = draw(number)
        _check_length(clip, dvae)
        digest.update(clip.caption.encode("utf-8", "replace"))
        digest.update(clip.video.contiguous().numpy().data)
        if not clip.attributes:  # nobody composed it: its flow is estimated, by weights that change
            digest.update(motion_codes(clip.flow_12, clip.valid_12).numpy().data)
    folder = root / f"tokens-{digest.hexdigest()[:20]}"
    rows: dict[str, Kind] = {"captions": ((CAPTION,), np.uint8)}
    for medium in media:
        rows[medium.name] = (medium.grid or (), np.uint16 if medium.codes <= 2**16 else np.uint32)
    kind = next(dvae.parameters()).device.type

    def make(number: int) -> dict[str, NDArray[Any]]:
        clip = draw(number)
        with torch.autocast(kind, torch.bfloat16, enabled=half):  # it holds for one thread
            codes = clip_codes(clip, dvae, captioner)
        return {
            "captions": pack_caption(clip.caption),
            **{medium.name: codes[medium.name].numpy() for medium in media},
        }

    problem = "another process makes these tokens"
    fill_arrays(folder, rows, count, make, problem=problem, progress=progress)
    return TokenStore(folder, tuple(medium.name for medium in media))


def _check_length(clip: Clip, dvae: DVAE) -> None:
    group, frames = dvae.config.stride_time, len(clip.video)
    if frames % group:
        raise ValueError(f"frames must be a multiple of {group}, got {frames}")
