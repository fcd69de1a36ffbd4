"""Generates video from a prompt: words to codes, codes to frames, frames to their full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flowwarp.data.crops import resize_video
from flowwarp.data.media import PICTURE, TEXT, VIDEO
from flowwarp.data.tokens import from_patches, to_patches
from flowwarp.models.dvae import TIME
from flowwarp.models.gpt import Segment
from flowwarp.models.sampling import SamplingConfig, log_likelihood, sample
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.precision import fast_autocast


@dataclass(frozen=True)
class Request:
    """What to generate.

    Args:
        prompt: in words.
        frames: number of frames; None for as many as the training clips have.
        image: (3, H, W) in [0, 1], of the size ``VideoConfig.size``: the video begins with it.
        candidates: how many videos to write, of which the one is kept that the transformer
            describes most likely by the prompt.
        sampling: how codes are drawn.
    """

    prompt: str
    frames: int | None = None
    image: Tensor | None = None
    candidates: int = 1
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


@torch.no_grad()
def generate(model: VideoModel, request: Request, seed: int = 0) -> Tensor:
    """Generate a video.

    Args:
        model: the networks.
        request: what to generate.
        seed: the same seed gives the same video.

    Returns:
        (T, 3, H, W) float32 in [0, 1], of the size ``VideoConfig.size``.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = request.frames or model.config.frames
    with fast_autocast(model.device):
        codes = write_codes(model, request, generator, frames)
        video = model.dvae.decode(codes)[0, :frames].float().clamp(0, 1)
    return resize_video(video, model.config.size)


def write_codes(
    model: VideoModel, request: Request, generator: torch.Generator, frames: int
) -> Tensor:
    """Return the codes of at least so many frames, (1, t, h, w, digits).

    More than a window is written window by window, each of which begins with the later half of the
    one before: codes stand for blocks of 4 frames, so that they can be moved along in time.
    """
    words = encode_prompts(model, [request.prompt] * request.candidates)
    given = [(TEXT, words)]
    if request.image is not None:
        picture = resize_video(request.image[None], model.config.base).to(model.device)
        still = model.dvae.encode(picture[None].expand(-1, TIME, -1, -1, -1))
        given.append((PICTURE, to_patches(still).expand(request.candidates, -1, -1)))
    patches = sample(model.gpt, given, VIDEO, request.sampling, generator)
    best = rank(model, patches, words)[0] if request.candidates > 1 else 0
    windows = [from_patches(patches[best : best + 1], model.grid)]
    window = model.grid[0]
    kept = max(1, window // 2)
    while window + (len(windows) - 1) * (window - kept) < -(-frames // TIME):
        begin = to_patches(windows[-1][:, -kept:])
        patches = sample(model.gpt, given[:1], VIDEO, request.sampling, generator, begin)
        windows.append(from_patches(patches, model.grid))
    return torch.cat([windows[0], *(codes[:, kept:] for codes in windows[1:])], 1)


def encode_prompts(model: VideoModel, prompts: Sequence[str]) -> Tensor:
    """Return the word numbers of prompts, (B, n, 1)."""
    numbers = [model.words.encode(prompt) for prompt in prompts]
    return torch.tensor(numbers, device=model.device)[..., None]


def rank(model: VideoModel, patches: Tensor, words: Tensor) -> list[int]:
    """Return the order of videos by how likely the transformer describes them by the words.

    Args:
        model: the networks.
        patches: (B, n, digits), of videos.
        words: (B, n, 1).
    """
    segments: list[Segment] = [(VIDEO, patches), (TEXT, words)]
    order: list[int] = log_likelihood(model.gpt, segments).argsort(descending=True).tolist()
    return order
