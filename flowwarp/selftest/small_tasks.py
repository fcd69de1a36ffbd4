"""A small training task for each trainer, for the self-test.

Each task uses the trainer's own data pipeline and loss, with a network that trains in seconds. Data
are clips of moving digits, which are composed and not read from disk; the reviser alone needs
sprites, since only these exist in other clothes. Every third example has empty masks, as
real data has now and then: a loss that divides by a mask's sum over the batch shows there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.digits import GROUNDS, MOTIONS, compose_digits
from flowwarp.data.media import TEXT
from flowwarp.data.sprite_world.counterparts import Counterparts
from flowwarp.data.sprite_world.labels import JUDGED, OF_ACTOR, label_values, one_actor
from flowwarp.data.sprite_world.layers import bundled_layers
from flowwarp.data.synthesis import synthesize_pair
from flowwarp.legacy.data.tokens import Medium, Vocabulary, train_pairs
from flowwarp.legacy.models import captioner, dvae, gpt, reviser, upsampler
from flowwarp.legacy.pipelines.captions import MediaCaptioner
from flowwarp.legacy.pipelines.sequences import MediaGPT
from flowwarp.legacy.train import captioner as train_captioner
from flowwarp.legacy.train import dvae as train_dvae
from flowwarp.legacy.train import gpt as train_gpt
from flowwarp.legacy.train import reviser as train_reviser
from flowwarp.legacy.train import upsampler as train_upsampler
from flowwarp.legacy.train.kept import keep_clips
from flowwarp.legacy.train.tokenized import grid_media, tokenize_clips
from flowwarp.models import classifier, flownet
from flowwarp.train import classifier as train_classifier
from flowwarp.train import flow as train_flow
from flowwarp.train.fitted_pairs import fit_pairs
from flowwarp.train.loop import LoopConfig, Task
from flowwarp.train.seeding import generator

TRAINERS = ("flow", "dvae", "gpt", "captioner", "upsampler", "classifier", "reviser")
# Two of them again, with settings that take other paths through the code.
VARIANTS = ("dvae, residual", "gpt, scheduled sampling")

# By the name of a tensor of a batch: the value that makes the loss ignore it.
_IGNORED = {
    "known": 0,
    "visible": 0,
    "same": 0,
    "weights": 0,
    "asked": 0,
    "actor": 0,
    "flow_12": torch.nan,
    "flow_21": torch.nan,
    "direction": train_classifier.UNKNOWN,
    "ground": train_classifier.UNKNOWN,
}
_SMALL, _LARGE = 16, 32  # sides of frames in pixels: of the DVAE and captioner; of the others
_FRAMES = 8  # of a clip


def small_config(**changes: Any) -> LoopConfig:
    """Return the settings of the loop: five steps of five examples, with ``changes``."""
    settings: dict[str, Any] = {
        "steps": 5,
        "batch_size": 5,
        "learning_rate": 1e-3,
        "warmup": 2,
        "ema": 0.9,
        "validate_every": 3,
        "samples_every": 3,
        "log_every": 2,
        "save_every": 2,
        "threads": 1,
    }
    return LoopConfig(**settings | changes)


def small_task(name: str, config: LoopConfig, folder: Path) -> Task:
    """Return a trainer's small task. Equal arguments give equal tasks, initial weights included.

    Args:
        name: one of ``TRAINERS`` or ``VARIANTS``.
        config: settings of the loop.
        folder: where prepared data, such as tokens and fitted flow, are cached.
    """
    task = _TASKS[name](config, folder / "cache")
    whole_batch = task.batch

    def batch(numbers: range) -> dict[str, Tensor]:
        examples = dict(whole_batch(numbers))
        for row, number in enumerate(numbers):
            if number % 3 == 1:
                for key in _IGNORED.keys() & examples.keys():
                    examples[key][row] = _IGNORED[key]
        return examples

    return replace(task, batch=batch)


def _flow_task(config: LoopConfig, folder: Path) -> Task:
    coarse = torch.rand(3, 3, 30, 40, generator=generator(0))
    photos = list(F.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1))
    data = train_flow.FlowDataConfig(64, 64, 16, fitted_share=0.6)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        pair = synthesize_pair(photos, 0, number, (128, 128))
        return pair.image1[None], pair.image2[None]

    fitted = fit_pairs(draw, "small", 3, (128, 128), cache=folder)
    material = train_flow.Material(None, photos, fitted)
    # All terms of the loss are on from the first step.
    losses = train_flow.FlowLossConfig(occlusion_from=0, self_supervision_from=0, student_margin=16)
    configs = {"loop": config, "model": flownet.TINY, "data": data, "losses": losses}
    return train_flow.flow_task(material, configs)


def _dvae_task(
    config: LoopConfig, folder: Path, model: dvae.DVAEConfig = dvae.TINY, frames: int = _FRAMES
) -> Task:
    data = train_dvae.DVAEDataConfig(_SMALL, frames, validation=2)
    losses = train_dvae.DVAELossConfig()
    configs = {"loop": config, "model": model, "data": data, "losses": losses}

    def draw(seed: int, index: int) -> Any:
        # Residual quantisation begins with k-means on 768 clips. 64 different ones are enough: to
        # compose clips takes longer than all the rest.
        return _digits(_SMALL, seed, index % 64, frames)

    return train_dvae.dvae_task(draw, configs)


def _gpt_task(
    config: LoopConfig,
    folder: Path,
    sketcher: MediaCaptioner | None = None,
    redrawn: float = 0.0,
    losses: train_gpt.GPTLossConfig = train_gpt.GPTLossConfig(),  # noqa: B008 - never changed
) -> Task:
    net = _codec()
    material = _tokenized(net, folder, sketcher)
    data = train_gpt.GPTDataConfig(
        clips=12,
        checked=2,
        size=_LARGE,
        frames=_FRAMES,
        merges=20,
        text_limit=12,
        redrawn=redrawn,
    )
    configs = {
        "loop": config,
        "model": replace(gpt.TINY, width=32, depth=2, hidden=48),
        "data": data,
        "losses": losses,
    }
    task = train_gpt.gpt_task(material, configs, net)
    randomize_head(task.model)
    return task


def _captioner_task(config: LoopConfig, folder: Path) -> Task:
    data = train_captioner.CaptionerDataConfig(
        clips=12, checked=2, length=_FRAMES, merges=20, text_limit=12
    )
    model = captioner.CaptionerConfig(1, size=_SMALL, widths=(16, 16), hidden=24, norm="none")
    configs = {"loop": config, "model": model, "data": data}
    training, validation = (
        keep_clips(partial(_digits, _SMALL, seed), str(seed), count, cache=folder)
        for seed, count in ((0, 12), (1, 2))
    )
    task = train_captioner.captioner_task(training, {"val": validation}, configs)
    randomize_head(task.model)
    return task


def _tokenized(
    net: dvae.DVAE, folder: Path, sketcher: MediaCaptioner | None
) -> train_gpt.GPTMaterial:
    media = grid_media(net, _LARGE, _FRAMES, sketcher)
    training, validation = (
        tokenize_clips(
            partial(_digits, _LARGE, seed),
            net,
            media,
            str(seed),
            count,
            captioner=sketcher,
            cache=folder,
        )
        for seed, count in ((0, 12), (1, 2))
    )
    return train_gpt.GPTMaterial(training, {"val": validation}, media)


def _upsampler_task(config: LoopConfig, folder: Path) -> Task:
    # One group of the codec: estimating flow between the decodes takes most of a step.
    length = dvae.TINY.stride_time
    data = train_upsampler.UpsamplerDataConfig(size=_LARGE, length=length, frames=3, estimated=0.5)
    configs = {
        "loop": config,
        "model": replace(upsampler.TINY, widths=(16, 24)),
        "data": data,
        # Half of the examples are conditioned on the network's own output from the first step.
        "condition": train_upsampler.ConditionConfig(own_share=0.5, own_from=0.0),
    }
    codec = train_upsampler.dvae_codec(_codec())
    task = train_upsampler.upsampler_task(
        partial(_digits, _LARGE), codec, configs, flownet=_flownet()
    )
    randomize_head(task.model)
    return task


def _classifier_task(config: LoopConfig, folder: Path) -> Task:
    data = train_classifier.ClassifierDataConfig(clips=12, validation=2)
    attributes = (("direction", tuple(MOTIONS)), ("ground", tuple(GROUNDS)))
    model = classifier.ClassifierConfig(attributes, size=_SMALL, widths=(16, 16), norm="none")
    configs = {"loop": config, "model": model, "data": data}
    return train_classifier.classifier_task(_one_digit, _FRAMES, configs)


def _reviser_task(config: LoopConfig, folder: Path) -> Task:
    data = train_reviser.ReviserDataConfig(_SMALL, _FRAMES, clips=12, checked=2, groups=1)
    values = label_values(bundled_layers())
    # All attributes get equally many values, so that any example's values, reversed, are valid for
    # its neighbours in a batch (`measure_batch_dependence` mirrors tensors).
    most = max(len(values[name]) for name in OF_ACTOR)
    attributes = tuple(
        (name, (*values[name], *map(str, range(most - len(values[name]))))) for name in OF_ACTOR
    )
    model = reviser.ReviserConfig(
        attributes, widths=(8, 16), blocks=(1, 1), embedding=8, norm="none"
    )
    losses = train_reviser.ReviserLossConfig()
    configs = {"loop": config, "model": model, "data": data, "losses": losses}
    spoil = train_reviser.Spoiler(_codec(), _gpt())
    training, validation = (
        train_reviser.keep_revisions(
            partial(_counterparts, data, seed), spoil, str(seed), count, seed, data, cache=folder
        )
        for seed, count in ((0, data.clips), (1, data.checked))
    )
    task = train_reviser.reviser_task(training, {"val": validation}, configs)
    randomize_conditioning(randomize_head(task.model))
    return task


def _residual_task(config: LoopConfig, folder: Path) -> Task:
    model = replace(dvae.TINY, encoder=0, quantiser="residual", entries=32)
    # Without an encoder, nearly all of the gradient is the last layer's, a sum over all pixels.
    # Some processors' kernels add these one by one: with 8 frames the error exceeds ROUNDING.
    return _dvae_task(config, folder, model, 4)


def _scheduled_sampling_task(config: LoopConfig, folder: Path) -> Task:
    """Return the transformer's task with layout tokens and scheduled sampling."""
    losses = train_gpt.GPTLossConfig(rare=1.0, asked=0.5)
    return _gpt_task(config, folder, _sketcher(), 0.7, losses)


_TASKS: Mapping[str, Callable[[LoopConfig, Path], Task]] = {
    "flow": _flow_task,
    "dvae": _dvae_task,
    "dvae, residual": _residual_task,
    "gpt": _gpt_task,
    "gpt, scheduled sampling": _scheduled_sampling_task,
    "captioner": _captioner_task,
    "upsampler": _upsampler_task,
    "classifier": _classifier_task,
    "reviser": _reviser_task,
}


@cache
def _digits(size: int, seed: int, index: int, frames: int = _FRAMES) -> Any:
    return compose_digits(seed, index, size, frames)


def _one_digit(seed: int, index: int) -> Any:
    """Return a clip of one digit with every attribute of a sprite; most of them are empty."""
    clip = one_actor(partial(_digits, _SMALL))(seed, index)
    (digit,) = clip.attributes["actors"]
    actor = dict.fromkeys((*JUDGED, "hair_style"), "") | digit
    return replace(clip, attributes=clip.attributes | {"actors": [actor]})


@cache
def _counterparts(data: train_reviser.ReviserDataConfig, seed: int, index: int) -> Counterparts:
    return train_reviser.Pairs(bundled_layers(), (), seed, data)(index)


@cache
def _gpt() -> MediaGPT:
    """Return an untrained transformer over the codes of ``_codec``."""
    torch.manual_seed(0)
    pairs = train_pairs([], 0)
    media = Medium(TEXT, pairs.size), *grid_media(_codec(), _SMALL, _FRAMES)
    words = Vocabulary(media, pairs, text_limit=8)
    sizes = replace(gpt.TINY, vocabulary=words.size, width=32, depth=1, hidden=48)
    return MediaGPT(gpt.GPT(sizes).eval(), words)


@cache
def _sketcher() -> MediaCaptioner:
    torch.manual_seed(0)
    pairs = train_pairs([], 0)
    size = pairs.size + 1
    sizes = captioner.CaptionerConfig(size, size=_LARGE, widths=(16, 16), hidden=24, kinds=6)
    words = train_captioner.text_vocabulary(pairs, 12)
    return MediaCaptioner(captioner.Captioner(sizes).eval(), words)


@cache
def _codec() -> dvae.DVAE:
    torch.manual_seed(0)
    return dvae.DVAE(dvae.TINY).eval()


@cache
def _flownet() -> flownet.FlowNet:
    torch.manual_seed(0)
    return flownet.FlowNet(flownet.TINY).eval()


def randomize_head(net: nn.Module) -> nn.Module:
    """Draw the weights of a network's output layer, and return the network.

    The heads of these networks are zero at initialisation, and so is every other gradient then.
    """
    head = net.head
    assert isinstance(head, nn.Linear | nn.Conv2d)
    nn.init.normal_(head.weight, std=head.weight[0].numel() ** -0.5)  # 1 / sqrt(fan-in)
    return net


def randomize_conditioning(net: nn.Module) -> nn.Module:
    """Draw the weights by which a reviser's blocks use its attributes, zero at initialisation."""
    for module in net.modules():
        if isinstance(module, reviser.Block):
            nn.init.normal_(module.told.weight, std=module.told.in_features**-0.5)
    return net


def processes() -> Any:
    """Return a context of ``multiprocessing``: forkserver with this module loaded, or spawn."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # AdamW imports it
    return context
