"""Describes video in words, by the transformer that generates it."""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.data.crops import resize_video
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.tokens import to_patches
from flowwarp.models.sampling import SamplingConfig, sample
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.precision import fast_autocast

# The likeliest word each time; the words themselves are what is asked for, so no guidance.
_GREEDY = SamplingConfig(temperature=0, guidance=1)


@torch.no_grad()
def describe(model: VideoModel, video: Tensor) -> str:
    """Return what a video shows, in the words of the training captions.

    Args:
        model: the networks.
        video: (T, 3, H, W) in [0, 1]; the first ``VideoConfig.frames`` frames count, and of fewer
            the last is repeated.
    """
    frames = model.config.frames
    clip = resize_video(video[:frames], model.config.base).to(model.device)
    clip = torch.cat([clip, clip[-1:].expand(frames - len(clip), -1, -1, -1)])
    with fast_autocast(model.device):
        patches = to_patches(model.dvae.encode(clip[None]))
        given = [(VIDEO, patches)]
        words = sample(model.gpt, given, TEXT, _GREEDY, torch.Generator())
    return model.words.decode(words[0, :, 0].tolist())
