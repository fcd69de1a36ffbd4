"""Weights of networks: makers of valid ones, and checks that a loaded network works."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch

from flowwarp.data.media import FRAME, MOTION, SKETCH, TEXT, VIDEO, VOCABULARY
from flowwarp.io.checkpoints import Card, build, save_weights
from flowwarp.legacy.data.tokens import PATCH, Medium, Tokens, Vocabulary, join, train_pairs
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.dvae import DVAE, DVAEConfig, Residual
from flowwarp.legacy.models.gpt import GPT, GPTConfig
from flowwarp.legacy.models.reviser import Reviser, ReviserConfig
from flowwarp.legacy.models.upsampler import Upsampler, UpsamplerConfig, upsample_clip
from flowwarp.legacy.pipelines.captions import caption_nats, load_captioner, look, write_caption
from flowwarp.legacy.pipelines.evaluate import load_classifier
from flowwarp.legacy.pipelines.generate import generate
from flowwarp.legacy.pipelines.load import load_models, load_reviser, load_upsampler
from flowwarp.legacy.pipelines.sequences import describe, token_nats
from flowwarp.legacy.pipelines.tokens import load_dvae
from flowwarp.models.classifier import Classifier, ClassifierConfig
from flowwarp.models.flownet import FlowNet, FlowNetConfig
from fuzz_formats.pictures import check_range

TOKENIZER = train_pairs(["a dog runs", "a dog walks"], 4)

FEW = 64  # tokens: writing them takes little time


def check_weights(path: Path) -> None:
    """Load the flow network of a file of weights."""
    net, _ = build(path, "flownet", lambda settings: FlowNet(FlowNetConfig(**settings)))
    assert all(bool(tensor.isfinite().all()) for tensor in net.state_dict().values())


def check_gpt(path: Path) -> None:
    """Load a transformer with its VAE and sketcher; score, generate and describe with it."""
    dvae, sketcher = (path.with_name(f"{name}.safetensors") for name in ("dvae", "sketcher"))
    models = load_models(path, dvae, None, None, sketcher=sketcher)
    gpt, words = models.gpt, models.gpt.vocabulary
    grids = {medium.name: medium.grid for medium in words.media if medium.grid is not None}
    parts = [
        words.text("a dog"),
        *(words.segment(name, torch.zeros(grids[name])) for name in grids),
    ]
    tokens = join(
        Tokens(part.ids[:FEW], part.places[:FEW], part.media[:FEW], part.near[:FEW])
        for part in parts
    )
    nats = token_nats(gpt.net, tokens, words.all_choices())
    assert nats.shape == (len(tokens) - PATCH,)
    assert bool(nats.isfinite().all())
    if math.prod(grids[VIDEO]) * words[VIDEO].digits > FEW:
        return
    frames = models.window + models.goes_on  # with a second window, if the model has one
    made = list(generate(models, "a dog", frames=frames, best=2, candidates=4))
    assert len(made) == frames
    for frame in made:
        assert frame.shape == (3, models.small, models.small)
        check_range(frame)
    if words.text_limit <= FEW:
        assert len(describe(gpt, torch.zeros(1, *grids[VIDEO]))) == 1


def check_captioner(path: Path) -> None:
    """Load a captioner; embed, sketch and describe the shortest clip."""
    captioner = load_captioner(path)
    config = captioner.net.config
    clip = torch.rand(1, config.apart + 1, 3, config.size, config.size)
    seen = look(captioner, clip)
    assert seen.shape == (1, 1, config.joined)
    if config.kinds:
        kinds = captioner.net.sketch(clip)
        assert kinds.shape == (1, 1, captioner.net.side, captioner.net.side)
        assert bool(((kinds >= 0) & (kinds < config.kinds)).all())
    nats = caption_nats(captioner, seen, [write_caption(captioner, seen, beams=1)])
    assert nats.shape == (1,)
    assert bool(nats.isfinite().all())


def check_dvae(path: Path) -> None:
    """Load a VAE; encode and decode a group of frames."""
    net = load_dvae(path)
    side = net.config.stride
    video = torch.rand(1, net.config.stride_time, 3, side, side)
    codes = net.encode(video)
    assert codes.shape == (1, 1, 1, 1)
    assert 0 <= int(codes) < net.config.codes
    decoded = net.decode(codes)
    assert decoded.shape == video.shape
    for frame in decoded[0]:
        check_range(frame)


def check_upsampler(path: Path) -> None:
    """Load an untrained upsampler: a gray clip must stay gray."""
    net = load_upsampler(path)
    gray, still = torch.full((2, 3, 8, 8), 0.5), torch.zeros(1, 2, 16, 16)
    made = upsample_clip(net, gray, still, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, torch.full((2, 3, 16, 16), 0.5), rtol=0, atol=1e-3)
    drawn = upsample_clip(net, gray, still, None, torch.Generator().manual_seed(0), steps=2)
    for frame in drawn:
        check_range(frame)


def check_classifier(path: Path) -> None:
    """Load a classifier; classify the shortest clip."""
    net = load_classifier(path)
    config = net.config
    with torch.inference_mode():
        read = net(torch.rand(1, config.apart + 1, 3, config.size, config.size))
    assert list(read) == [name for name, _ in config.attributes]
    for name, values in config.attributes:
        assert read[name].shape == (1, len(values))
        assert bool(read[name].isfinite().all())


def check_reviser(path: Path) -> None:
    """Load an untrained reviser: it must return frames unchanged, whatever the attributes."""
    net = load_reviser(path)
    config = net.config
    group = torch.rand(1, config.frames, 3, config.stride, config.stride)
    for known in ({name: values[-1] for name, values in config.attributes if values}, {}):
        revised = list(net.revise([group, group], net.tell([known])))
        assert len(revised) == 2
        for made in revised:
            torch.testing.assert_close(made, group, rtol=0, atol=1e-3)
            for frame in made[0]:
                check_range(frame)


def make_weights(path: Path) -> None:
    """Make the weights of the smallest flow network."""
    save_network(path, "flownet", FlowNet(FlowNetConfig((1, 1), 1, (1, 1), 1, 1)))


def make_gpt(path: Path) -> None:
    """Make the weights of a transformer with sketches, of its VAE and of its sketcher."""
    make_dvae(path.with_name("dvae.safetensors"))
    make_captioner(path.with_name("sketcher.safetensors"))
    words = Vocabulary(
        (
            Medium(TEXT, TOKENIZER.size),
            Medium(VIDEO, 4, (2, 2, 2), digits=2),
            Medium(FRAME, 4, (1, 2, 2), first=0, shares=VIDEO, digits=2),
            Medium(MOTION, 5, (1, 1, 1)),
            Medium(SKETCH, 3, (1, 2, 2)),
        ),
        TOKENIZER,
        text_limit=4,
    )
    net = GPT(GPTConfig(words.size, 4, 16, 16, 1, 2, 1, 8, 8, 1, 8, kinds=3))
    save_network(path, "gpt", net, **{VOCABULARY: words.to_json()})


def make_captioner(path: Path) -> None:
    """Make the weights of a captioner that can sketch."""
    config = CaptionerConfig(
        TOKENIZER.size + 1, size=16, apart=1, numbers=2, kinds=3, widths=(8, 8), blocks=(1, 0),
        embedded=4, hidden=4, joined=4,
    )  # fmt: skip
    words = Vocabulary((Medium(TEXT, TOKENIZER.size),), TOKENIZER, text_limit=4)
    save_network(path, "captioner", Captioner(config), **{VOCABULARY: words.to_json()})


def make_dvae(path: Path) -> None:
    """Make the weights of a VAE whose codes are vectors of two books."""
    config = DVAEConfig(
        (4, 2), (1, 2), (8, 8), 0, (1, 1), "residual", (2, 2), 2, 4, beams=2, chroma=2.0
    )
    net = DVAE(config)
    assert isinstance(net.quantiser, Residual)
    torch.nn.init.normal_(net.quantiser.books)  # as after training
    save_network(path, "dvae", net)


def make_rounding_dvae(path: Path) -> None:
    """Make the weights of a VAE whose codes are rounded numbers."""
    save_network(path, "dvae", DVAE(DVAEConfig((2, 2), (1, 2), (8, 8), 1, (1, 1), levels=(2, 3))))


def make_upsampler(path: Path) -> None:
    """Make the weights of an upsampler."""
    config = UpsamplerConfig((8, 8), (1, 1), 2, 4, sharpness=2.0)
    save_network(path, "upsampler", Upsampler(config))


def make_classifier(path: Path) -> None:
    """Make the weights of a classifier."""
    attributes = (("color", ("red", "blue")), ("shape", ("a", "b", "c")))
    config = ClassifierConfig(attributes, size=16, apart=1, widths=(8, 8), blocks=(1, 0))
    save_network(path, "classifier", Classifier(config))


def make_reviser(path: Path) -> None:
    """Make the weights of a reviser."""
    attributes = (("color", ("red", "blue")), ("shape", ("a", "b", "c")))
    config = ReviserConfig(attributes, frames=2, widths=(8, 16), blocks=(1, 0), embedding=4)
    save_network(path, "reviser", Reviser(config))


def save_network(path: Path, name: str, net: Any, **notes: str) -> None:
    """Write weights whose card holds the whole configuration."""
    save_weights(path, net, Card(name, dataclasses.asdict(net.config), 3, notes))
