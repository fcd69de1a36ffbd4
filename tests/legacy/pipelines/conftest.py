"""Networks that make video, which learned nothing."""

import dataclasses

import pytest
import torch

from flowwarp.legacy.data.tokens import Medium
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.gpt import GPT
from flowwarp.legacy.pipelines import choosing
from flowwarp.legacy.pipelines.captions import MediaCaptioner
from flowwarp.legacy.pipelines.load import load_models
from flowwarp.legacy.train.captioner import text_vocabulary


@pytest.fixture(scope="module")
def models(video_weights):
    return load_models(**video_weights)


@pytest.fixture(scope="module")
def sketching(models):
    """Return models that make videos after sketches."""
    words = models.gpt.vocabulary
    torch.manual_seed(0)
    eye = Captioner(
        CaptionerConfig(words.pairs.size + 1, size=32, apart=2, kinds=64, widths=(8, 8), hidden=8)
    )
    torch.nn.init.normal_(eye.head.weight, std=0.5)
    known = dataclasses.replace(words, media=(*words.media, Medium("sketch", 64, (2, 4, 4))))
    config = dataclasses.replace(models.gpt.net.config, vocabulary=known.size, kinds=64)
    net = GPT(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.head.weight.data.div_(3)  # else it is too sure of what comes to care what it is told
    gpt = dataclasses.replace(models.gpt, net=net.eval(), vocabulary=known)
    sketcher = MediaCaptioner(eye.eval(), text_vocabulary(words.pairs, 8))
    return dataclasses.replace(
        models, gpt=gpt, upsampler=None, captioner=sketcher, sketcher=sketcher
    )


@pytest.fixture
def _four_are_begun(monkeypatch):
    """Let the numbers of tests not hang on what is the default."""
    monkeypatch.setattr(choosing, "BEGINNINGS", 4)
    monkeypatch.setattr(choosing, "REWRITES", 2)
