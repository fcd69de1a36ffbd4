"""Runs the stages of ``train-video``: discrete VAE, transformer, upsampler, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowwarp.data.clip import Clip, Source
from flowwarp.data.crops import resize_video
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.tokens import Words, from_patches, to_patches
from flowwarp.io.cache import process_count
from flowwarp.io.checkpoints import fill, load_weights
from flowwarp.models.dvae import DVAE, TIME, DVAEConfig
from flowwarp.models.gpt import GPTConfig
from flowwarp.models.sampling import SamplingConfig, resample
from flowwarp.models.upsampler import UpsamplerConfig
from flowwarp.pipelines.flow.estimate import load_flownet
from flowwarp.pipelines.video.describe import typical_notes
from flowwarp.pipelines.video.encode import encode_prompts
from flowwarp.pipelines.video.learned import compare_words, words_note
from flowwarp.pipelines.video.load import (
    MODEL,
    VideoConfig,
    VideoModel,
    save_video_model,
    video_media,
)
from flowwarp.precision import fast_autocast, fast_dtype
from flowwarp.train import loop, seeding, video_plan
from flowwarp.train.dvae import DVAEDataConfig, DVAELossConfig, dvae_task
from flowwarp.train.gpt import (
    WITHOUT_WORDS,
    Examples,
    GPTDataConfig,
    GPTLossConfig,
    gpt_task,
)
from flowwarp.train.processes import from_first, is_first, joined
from flowwarp.train.progress import Part
from flowwarp.train.runs import BEST
from flowwarp.train.upsampler import PreviousConfig, UpsamplerDataConfig, upsampler_task
from flowwarp.train.video_plan import Plan

_WITH_ERRORS = 0.75  # share of clips that the upsampler learns to mend
_MEASURED = 40  # held-out clips whose figures are noted, at most
_LEAST_STEPS = 20  # of a stage, however little time there is
_VALIDATIONS = 12  # of a stage
_HELD_OUT = 32  # clips that the transformer is validated with


@dataclass(frozen=True)
class VideoData:
    """The clips of a run.

    Args:
        source: of clips to train on, (T, 3, H, W) of the size that the model makes.
        validation: of held-out clips.
        words: of the training captions.
        base: (height, width) that the discrete VAE sees.
        size: (height, width) of the clips.
        frames: of a clip.
        fps: frames per second.
        notes: for the card: licence, where the clips come from.
    """

    source: Source
    validation: Source
    words: Words
    base: tuple[int, int]
    size: tuple[int, int]
    frames: int
    fps: float
    notes: Mapping[str, str]


@dataclass(frozen=True)
class VideoRun:
    """Where and how the stages are trained.

    Args:
        folder: of the run.
        plan: how long, and what is decided.
        device: where to train.
        started: ``time.monotonic()`` at the start of the process.
        stages: that are trained, in their order.
    """

    folder: Path
    plan: Plan
    device: torch.device
    started: float
    stages: tuple[str, ...] = video_plan.STAGES

    def left(self) -> float:
        """Return the seconds until the run must end."""
        return self.plan.hours * 3600 - (time.monotonic() - self.started)


def train_video(
    data: VideoData, run: VideoRun, report: Callable[[VideoModel], None] = lambda _: None
) -> VideoModel:
    """Train all networks, or those that an interrupted run still lacks.

    If ``torchrun`` started several processes, they share the examples of each step, and follow what
    the first of them measures.

    Args:
        data: the clips.
        run: where and how.
        report: called with the model as soon as it can generate, and at the end.

    Returns:
        The model, which is also in the run's folder.

    Raises:
        Stopped, Diverged, Locked, InputError, OutputError: as the loop does.
    """
    stages = video_plan.stages_of(run.plan.preset, enlarges=data.size != data.base)
    run = replace(run, stages=stages)
    with joined(run.device) as process:
        run = replace(run, device=process.device, plan=from_first(run.plan))
        return _train_stages(data, run, report)


def _train_stages(
    data: VideoData, run: VideoRun, report: Callable[[VideoModel], None]
) -> VideoModel:
    dvae = _train_dvae(data, run)
    config = VideoConfig(
        data.base,
        data.size,
        data.frames,
        data.fps,
        data.words.words,
        data.words.length,
        dvae.config,
        GPTConfig(),
    )
    model = _train_gpt(data, run, dvae, config)
    model.notes = {**data.notes, **_figures(data, run, model)}
    _save(run, model)
    report(model.eval())
    if video_plan.UPSAMPLER in run.stages:
        model = _train_upsampler(data, run, model)
        _save(run, model)
        report(model.eval())
    return model


def _save(run: VideoRun, model: VideoModel) -> None:
    if is_first():
        save_video_model(run.folder / MODEL, model, model.notes)


def _figures(data: VideoData, run: VideoRun, model: VideoModel) -> dict[str, str]:
    """Return notes of held-out clips: what is typical of them, and which words matter."""
    series = seeding.held_out_series(run.plan.seed)
    count = min(_MEASURED, data.validation.count or _MEASURED)
    clips = [data.validation(series, index) for index in range(count)]
    captions = data.source.captions or [clip.caption for clip in clips]
    typical = typical_notes(model.eval(), [clip.video for clip in clips])
    return typical | words_note(compare_words(model, clips, captions))


def _train_dvae(data: VideoData, run: VideoRun) -> DVAE:
    configs: dict[str, Any] = {
        "loop": _loop_config(
            run,
            batch_size=32,
            learning_rate=3e-3,
            muon=0.35,
            weight_decay=0.05,
            patience=2,
            least_gain=0.005,  # of the decibels
        ),
        "model": DVAEConfig(vocabulary=_vocabulary(data)),
        "data": DVAEDataConfig(size=data.base, frames=min(8, data.frames)),
        "losses": DVAELossConfig(),
    }

    def make(configs: Mapping[str, Any]) -> loop.Task:
        return dvae_task(data.source, data.validation, data.words, configs)

    net = DVAE(configs["model"])
    fill(net, _train_stage(run, video_plan.DVAE, make, configs), run.folder)
    return net.to(run.device).eval().requires_grad_(False)


def _train_gpt(data: VideoData, run: VideoRun, dvae: DVAE, config: VideoConfig) -> VideoModel:
    seed, series = run.plan.seed, seeding.held_out_series(run.plan.seed)
    orders = GPTDataConfig.orders if data.words.words else WITHOUT_WORDS
    shown = GPTDataConfig(data.base, data.frames, orders, mirror=run.plan.mirror)
    examples = Examples(data.source, dvae, data.words, seed, shown)
    whole = replace(shown, swapped=0.0, caption_dropout=0.0)
    fixed = Examples(data.validation, dvae, data.words, series, whole)(range(_HELD_OUT))
    configs: dict[str, Any] = {
        "loop": _loop_config(
            run,
            batch_size=16,
            learning_rate=2e-3,
            muon=0.5,
            weight_decay=0.05,
            patience=2,
            least_gain=0.002,  # of the nats
        ),
        "losses": GPTLossConfig(),
    }

    def make(configs: Mapping[str, Any]) -> loop.Task:
        media = video_media(replace(config, gpt=configs["model"]))
        return gpt_task(examples, fixed, media, configs)

    def with_size(size: tuple[int, int]) -> dict[str, Any]:
        return {**configs, "model": video_plan.gpt_config(size)}

    def examples_per_second(size: tuple[int, int]) -> float:
        sized = with_size(size)
        training: loop.LoopConfig = sized["loop"]
        return training.batch_size / video_plan.seconds_per_step(make(sized), training, run.device)

    if run.plan.gpt is None:
        seconds = video_plan.seconds_of_stage(video_plan.GPT, run.left(), run.stages)
        size = video_plan.choose_size(seconds, data.source.count, examples_per_second)
        run.plan.gpt = from_first(size)
    sized = with_size(run.plan.gpt)
    tensors = _train_stage(run, video_plan.GPT, make, sized)
    model = VideoModel(replace(config, gpt=sized["model"]))
    fill(model.gpt, tensors, run.folder)
    model.dvae.load_state_dict(dvae.state_dict())
    return model.to(run.device)


def _train_upsampler(data: VideoData, run: VideoRun, model: VideoModel) -> VideoModel:
    configs: dict[str, Any] = {
        "loop": _loop_config(run, batch_size=4, learning_rate=4e-3, muon=0.35),
        "model": UpsamplerConfig(vocabulary=_vocabulary(data)),
        "data": UpsamplerDataConfig(group=TIME, clips=min(512, data.source.count or 512)),
        "previous": PreviousConfig(),
    }
    model.eval().requires_grad_(False)
    flownet = load_flownet("small", run.device)

    def decode(clip: Clip, generator: torch.Generator | None) -> Tensor:
        return decode_as_generated(model, clip, generator)

    def words(caption: str) -> Tensor:
        return torch.tensor(data.words.encode(caption))

    def make(configs: Mapping[str, Any]) -> loop.Task:
        return upsampler_task(data.source, decode, configs, data.validation, flownet, words)

    tensors = _train_stage(run, video_plan.UPSAMPLER, make, configs)
    whole = VideoModel(replace(model.config, upsampler=configs["model"]), model.notes)
    whole.dvae, whole.gpt = model.dvae, model.gpt
    assert whole.upsampler is not None
    fill(whole.upsampler, tensors, run.folder)
    return whole.to(run.device)


@torch.no_grad()
def decode_as_generated(model: VideoModel, clip: Clip, generator: torch.Generator | None) -> Tensor:
    """Return the decode of a clip, (T, 3, h, w) in [0, 1], of three clips in four with errors.

    The errors are those of the transformer: every code is drawn given the true ones before it. So
    the upsampler learns to mend them, by what the words say.
    """
    video = resize_video(clip.video.float() / 255, model.config.base).to(model.device)
    codes = model.dvae.encode(video[None])
    words = encode_prompts(model, [clip.caption])
    with fast_autocast(model.device):
        if generator is not None and float(torch.rand((), generator=generator)) < _WITH_ERRORS:
            segments = [(TEXT, words), (VIDEO, to_patches(codes))]
            patches = resample(model.gpt, segments, SamplingConfig(), generator)
            codes = from_patches(patches, model.grid)
        decoded = model.dvae.decode(codes, words[..., 0])[0]
    return decoded.float().clamp(0, 1).cpu()


def _vocabulary(data: VideoData) -> int:
    """Return the number of words that the discrete VAE and the upsampler see; 0 for no words."""
    return len(data.words) if data.words.words else 0


def _write_plan(run: VideoRun) -> None:
    if is_first():
        run.plan.write(run.folder)


def _loop_config(run: VideoRun, *, batch_size: int, **settings: Any) -> loop.LoopConfig:
    fast = fast_dtype(run.device) == torch.bfloat16
    return loop.LoopConfig(
        batch_size=batch_size,
        accumulate=min(batch_size, process_count()),  # each process takes one part of each step
        seed=run.plan.seed,
        precision="bf16" if fast else "fp32",
        warmup=60,
        beta2=0.98,
        ema=0.995,
        flat=0.4,
        decay="linear",
        floor=0.02,
        **settings,
    )


def _train_stage(
    run: VideoRun,
    stage: str,
    make: Callable[[Mapping[str, Any]], loop.Task],
    configs: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Train a stage, or continue it, and return the weights that are best by validation."""
    folder, plan = run.folder / stage, run.plan
    if stage not in plan.steps:
        seconds = video_plan.seconds_of_stage(stage, run.left(), run.stages)
        per_step = video_plan.seconds_per_step(make(configs), configs["loop"], run.device)
        steps = video_plan.steps_within(seconds, per_step, _LEAST_STEPS)
        plan.steps[stage] = from_first(steps)
        _write_plan(run)
    if stage not in plan.seconds:
        steps = plan.steps[stage]
        shape = {
            "steps": steps,
            "warmup": min(configs["loop"].warmup, steps // 4),
            "validate_every": max(_LEAST_STEPS, steps // _VALIDATIONS),
            "samples_every": max(_LEAST_STEPS, steps // 8),
        }
        configs = {**configs, "loop": replace(configs["loop"], **shape)}
        start = time.monotonic()
        name = f"stage {run.stages.index(stage) + 1} of {len(run.stages)}, {stage}"
        part = Part(name, start + run.left())
        task, training = make(configs), configs["loop"]
        loop.train(task, training, folder, device=run.device, resume="auto", part=part)
        plan.seconds[stage] = from_first(time.monotonic() - start)
        _write_plan(run)
    return load_weights(folder / BEST, stage)[0]
