"""Sketches of clips: what each place shows, as one of some hundred kinds, and little else.

The captioner sorts places into kinds (:mod:`legacy.models.captioner`); those of a clip are its
sketch. A transformer learns to make sketches of captions long before it makes videos of them, for
most of what a sketch holds is in the caption; and the captioner itself tells which of several
sketches a caption describes best.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowwarp.data.media import SKETCH
from flowwarp.errors import InputError
from flowwarp.legacy.models.gpt import PATCH, Resampling, Sampling
from flowwarp.legacy.pipelines.captions import MediaCaptioner, caption_nats
from flowwarp.legacy.pipelines.sequences import MediaGPT, sample_sketches, seeds_after
from flowwarp.legacy.pipelines.tokens import weight_bytes
from flowwarp.precision import fast_autocast

_EVERY = 2  # token frames of a video for one of a sketch
_ROWS, _WAYS = 2, 8  # of a sketch between choices; that those that are chosen go on
SKETCHING = Sampling(top_p=0.95, guidance=2.0)


def sketch_grid(captioner: MediaCaptioner, times: int) -> tuple[int, int, int]:
    """Return the times, rows and columns of a sketch of a video of so many token frames."""
    return (-(-times // _EVERY), captioner.net.side, captioner.net.side)


def sketch_of_end(sketch: Tensor, count: int, times: int) -> Tensor:
    """Return what a sketch (t, y, x) of so many token frames says of the last ``count`` of them."""
    return sketch[(times - count) * len(sketch) // times :]


def kinds(captioner: MediaCaptioner) -> int:
    """Return how many kinds of places there are."""
    return captioner.net.config.kinds


def check_kinds(captioner: MediaCaptioner, source: str | Path | None) -> None:
    """Raise InputError if a captioner sorts places into no kinds; ``source`` is its weights."""
    if not kinds(captioner):
        raise InputError(
            source or "captioner", "makes no sketches", "train-captioner --start IT --kinds 1024"
        )


def check_sketches(gpt: MediaGPT, captioner: MediaCaptioner, source: str | Path | None) -> None:
    """Raise InputError if a transformer has not learned the sketches of this captioner.

    Args:
        gpt: it knows sketches.
        captioner: whose they should be.
        source: its weights.
    """
    check_kinds(captioner, source)
    medium = gpt.vocabulary[SKETCH]
    counts = {medium.size, gpt.net.config.kinds, kinds(captioner)}
    if len(counts) > 1 or (medium.grid or ())[1:] != (captioner.net.side,) * 2:
        raise InputError(source or SKETCH, "makes other sketches than the transformer learned")
    if gpt.sketches is not None and gpt.sketches != eye_print(captioner):
        raise InputError(source or SKETCH, "the transformer learned sketches of another captioner")


def eye_print(captioner: MediaCaptioner) -> str:
    """Return what tells a captioner's sketches from those of others: a digest of eye and kinds.

    Weights are shipped in bfloat16, so it is taken of values rounded to that.
    """
    digest = hashlib.sha256()
    for part in weight_bytes([captioner.net.see], torch.bfloat16):
        digest.update(part)
    digest.update(captioner.net.book.cpu().bfloat16().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]


@torch.inference_mode()
def sketch(captioner: MediaCaptioner, video: Tensor, times: int) -> Tensor:
    """Return the sketch of a clip, int64 in the shape of :func:`sketch_grid`.

    Args:
        captioner: from :func:`flowwarp.legacy.pipelines.captions.load_captioner`.
        video: (T, 3, S, S) uint8, S and T as the captioner needs them.
        times: token frames of the clip.

    Raises:
        ValueError: the video is of another size, or too short for a pair of frames.
    """
    net = captioner.net
    count, apart = sketch_grid(captioner, times)[0], net.config.apart
    if len(video) <= apart:
        raise ValueError(f"video must have more than {apart} frames, got {len(video)}")
    last = len(video) - apart - 1
    firsts = [min(number * len(video) // count, last) for number in range(count)]
    pairs = torch.stack([video[first : first + apart + 1] for first in firsts])
    device = net.head.weight.device
    with fast_autocast(device):
        codes = net.sketch(pairs.to(device).float() / 255)
    return codes[:, 0].cpu()


@torch.inference_mode()
def sketch_nats(captioner: MediaCaptioner, sketches: Tensor, captions: Sequence[str]) -> Tensor:
    """Return the log-likelihood of captions of clips with these sketches (B, t, y, x), in nats."""
    device = captioner.net.head.weight.device
    seen = captioner.net.look_at_sketch(sketches.to(device))
    return caption_nats(captioner, seen, captions)


def choose_sketches(
    gpt: MediaGPT,
    captioner: MediaCaptioner,
    caption: str,
    seed: int,
    candidates: int,
    count: int = 1,
    begin: Tensor | None = None,
    sampling: Sampling = SKETCHING,
) -> Tensor:
    """Make many sketches of a caption, and return those that it describes best.

    They are made side by side, a few rows at a time; after these those that the caption describes
    best go on, each in several ways. So what it says is chosen piece by piece: hair where there is
    hair, clothes where there are clothes. Each that is wanted is chosen among candidates of its
    own, as those that go on from the same rows are wrong in the same places.

    Args:
        gpt: from :func:`flowwarp.legacy.pipelines.sequences.load_gpt`; it knows sketches.
        captioner: whose sketches they are; it chooses.
        caption: what shall be seen.
        seed: of the first; those of the others follow from it.
        candidates: how many are made side by side, in all.
        count: how many are wanted.
        begin: (n, y, x), the first of their times, to go on from.
        sampling: how they are drawn.

    Returns:
        (count, t, y, x) int64.
    """
    grid = gpt.vocabulary[SKETCH].grid
    assert grid is not None
    each = max(1, candidates // count)
    captions = [caption] * (each * count)
    if begin is not None and len(begin) == grid[0]:
        return begin.expand(count, *grid)

    def ranked(sketches: Tensor) -> Tensor:
        """Return which of each one's own are described best, best first, (count, each)."""
        begun = int((sketches[0] < kinds(captioner)).any(2).any(1).sum())
        nats = sketch_nats(captioner, sketches[:, :begun], captions).view(count, each)
        order = nats.argsort(descending=True, stable=True)
        return order + each * torch.arange(count)[:, None]

    def go_on(sketches: Tensor) -> Tensor:
        return ranked(sketches)[:, : -(-each // _WAYS)].repeat(1, _WAYS)[:, :each].flatten()

    every = _ROWS * grid[2]  # what is begun must be whole patches
    pieces = each > 1 and grid[1] % _ROWS == 0 and every % PATCH == 0
    resampling = Resampling(every, go_on) if pieces else None
    seeds = seeds_after(seed, each * count)
    made = sample_sketches(gpt, captions, seeds, sampling, begin=begin, resampling=resampling)
    return made[ranked(made)[:, 0]]
