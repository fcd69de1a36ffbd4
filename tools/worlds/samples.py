"""What a model makes of the captions of a world, and what copies of training clips would be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.tokens import from_patches, split_words
from flowwarp.io.video_reader import read_video
from flowwarp.io.video_writer import write_video
from flowwarp.models.sampling import SamplingConfig, sample
from flowwarp.pipelines.video.encode import encode_prompts
from flowwarp.pipelines.video.generate import Request, decode, enlarge_frames, rank
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.precision import fast_autocast
from worlds.clips import make_clip
from worlds.scene import FPS, Pixels, World

_BATCH = 30  # videos that are written side by side


def write_clips(world: World, folder: Path, count: int, seed: int) -> None:
    """Write clips as MP4, each with its caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        frames, caption, _ = make_clip(world, seed, index)
        write_video(folder / f"{index:05d}.mp4", list(to_video(frames)), FPS)
        (folder / f"{index:05d}.txt").write_text(f"{caption}\n", "utf-8")


def write_samples(
    model: VideoModel,
    prompts: Sequence[str],
    seed: int,
    sampling: SamplingConfig,
    candidates: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a video of each prompt, decoded and at its full size, (T, 3, H, W) in [0, 1] both.

    Args:
        model: the networks.
        prompts: captions.
        seed: the same seed gives the same videos.
        sampling: how codes are drawn.
        candidates: how many videos of each prompt are written, of which the one is kept that the
            transformer describes most likely by the prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    step = max(1, _BATCH // candidates)
    for first in range(0, len(prompts), step):
        some = prompts[first : first + step]
        for prompt, codes in zip(
            some, _write_codes(model, some, sampling, candidates, generator), strict=True
        ):
            decoded = decode(model, codes[None], prompt)
            frames = enlarge_frames(model, iter([decoded]), Request(prompt), generator)
            yield decoded.cpu(), torch.cat(list(frames)).cpu()


@torch.no_grad()
def _write_codes(
    model: VideoModel,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    candidates: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the codes of the best candidate of each prompt, (B, t, h, w, digits)."""
    words = encode_prompts(model, prompts).repeat_interleave(candidates, 0)
    with fast_autocast(model.device):
        patches = sample(model.gpt, [(TEXT, words)], VIDEO, sampling, generator)
        groups = [slice(n, n + candidates) for n in range(0, len(words), candidates)]
        if candidates > 1:
            best = [part.start + rank(model, patches[part], words[part])[0] for part in groups]
            patches = patches[best]
    return from_patches(patches, model.grid)


def copy_nearest(folder: Path, prompts: Sequence[str]) -> Iterator[Pixels]:
    """Yield for each prompt the clip (T, H, W, 3) whose caption has most words in common with it.

    Args:
        folder: of MP4 clips with their captions beside them; the first of several nearest is taken.
        prompts: captions.
    """
    captions = {
        path: set(split_words(path.read_text("utf-8"))) for path in sorted(folder.glob("*.txt"))
    }
    for prompt in prompts:
        words = set(split_words(prompt))
        common = {path: len(words & known) for path, known in captions.items()}
        nearest = max(common, key=lambda path: common[path])
        yield np.stack([to_pixels(frame) for frame in read_video(nearest.with_suffix(".mp4"))])


def to_video(frames: Pixels) -> Tensor:
    """Return pixels (T, H, W, 3) as a video (T, 3, H, W) in [0, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def to_pixels(video: Tensor) -> Pixels:
    """Return a video (..., 3, H, W) in [0, 1] as pixels (..., H, W, 3)."""
    pixels: Pixels = (video.movedim(-3, -1) * 255).round().byte().numpy()
    return pixels
