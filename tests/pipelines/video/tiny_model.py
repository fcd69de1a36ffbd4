"""A text-to-video model that has learned nothing, and generates in a fraction of a second."""

from dataclasses import replace

import torch

from flowwarp.models.dvae import DVAEConfig
from flowwarp.models.gpt import GPTConfig
from flowwarp.models.upsampler import TINY
from flowwarp.pipelines.video.load import VideoConfig, VideoModel

WORDS = ("a", "ball", "falls", "red")
CONFIG = VideoConfig(
    base=(32, 32),
    size=(48, 48),
    frames=8,
    fps=10.0,
    words=WORDS,
    text_length=4,
    dvae=DVAEConfig((4, 4), 16, 1, (16, 8, 8), (0, 0, 0)),
    gpt=GPTConfig(width=16, depth=1, heads=2, digit_width=16),
    upsampler=replace(TINY, vocabulary=len(WORDS) + 1),
)


def tiny_model(notes=None, **changes):
    """Return a model with random weights; ``changes`` are of its configuration."""
    torch.manual_seed(0)
    model = VideoModel(replace(CONFIG, **changes), notes).eval()
    for parameter in model.parameters():  # parts begin at 0, so that nothing would depend on them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.dvae.encoder[-1].weight.data *= 20  # else all codes are the same
    return model
