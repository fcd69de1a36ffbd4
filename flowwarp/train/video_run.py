"""Runs the stages of ``train-video``: discrete VAE, transformer, upsampler, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flowwarp.data.clip import Source
from flowwarp.data.tokens import Words
from flowwarp.io.checkpoints import fill, load_weights
from flowwarp.models.dvae import DVAE, DVAEConfig
from flowwarp.models.gpt import GPTConfig
from flowwarp.pipelines.video.load import (
    MODEL,
    VideoConfig,
    VideoModel,
    save_video_model,
    video_media,
)
from flowwarp.precision import fast_dtype
from flowwarp.train import loop, video_plan
from flowwarp.train.dvae import DVAEDataConfig, DVAELossConfig, dvae_task
from flowwarp.train.gpt import GPTDataConfig, GPTLossConfig, gpt_task
from flowwarp.train.runs import LAST
from flowwarp.train.video_plan import Plan

_LEAST_STEPS = 20  # of a stage, however little time there is


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
    """

    folder: Path
    plan: Plan
    device: torch.device
    started: float

    def left(self) -> float:
        """Return the seconds until the run must end."""
        return self.plan.hours * 3600 - (time.monotonic() - self.started)


def train_video(data: VideoData, run: VideoRun) -> VideoModel:
    """Train all networks, or those that an interrupted run still lacks.

    Returns:
        The model, which is also in the run's folder.

    Raises:
        Stopped, Diverged, Locked, InputError, OutputError: as the loop does.
    """
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
    save_video_model(run.folder / MODEL, model, data.notes)
    return model.eval()


def _train_dvae(data: VideoData, run: VideoRun) -> DVAE:
    configs: dict[str, Any] = {
        "loop": _loop_config(run, batch_size=8, learning_rate=1.5e-3, weight_decay=0.05),
        "model": DVAEConfig(),
        "data": DVAEDataConfig(size=data.base, frames=min(8, data.frames)),
        "losses": DVAELossConfig(),
    }

    def make(configs: Mapping[str, Any]) -> loop.Task:
        return dvae_task(data.source, data.validation, configs)

    net = DVAE(configs["model"])
    fill(net, _train_stage(run, video_plan.DVAE, make, configs), run.folder)
    return net.to(run.device).eval().requires_grad_(False)


def _train_gpt(data: VideoData, run: VideoRun, dvae: DVAE, config: VideoConfig) -> VideoModel:
    configs: dict[str, Any] = {
        "loop": _loop_config(run, batch_size=16, learning_rate=1e-3, weight_decay=0.05),
        "model": GPTConfig(),
        "data": GPTDataConfig(size=data.base, frames=data.frames),
        "losses": GPTLossConfig(),
    }

    def make(configs: Mapping[str, Any]) -> loop.Task:
        media = video_media(replace(config, gpt=configs["model"]))
        return gpt_task(data.source, data.validation, dvae, data.words, media, configs)

    def with_size(size: tuple[int, int]) -> dict[str, Any]:
        width, depth = size
        return {**configs, "model": GPTConfig(width, depth, heads=max(2, width // 64))}

    def examples_per_second(size: tuple[int, int]) -> float:
        sized = with_size(size)
        training: loop.LoopConfig = sized["loop"]
        return training.batch_size / video_plan.seconds_per_step(make(sized), training, run.device)

    if run.plan.gpt is None:
        seconds = video_plan.seconds_of_stage(run.plan, video_plan.GPT, run.left())
        run.plan.gpt = video_plan.choose_size(seconds, examples_per_second)
    sized = with_size(run.plan.gpt)
    tensors = _train_stage(run, video_plan.GPT, make, sized)
    model = VideoModel(replace(config, gpt=sized["model"]))
    fill(model.gpt, tensors, run.folder)
    model.dvae.load_state_dict(dvae.state_dict())
    return model.to(run.device)


def _loop_config(run: VideoRun, **settings: Any) -> loop.LoopConfig:
    fast = fast_dtype(run.device) == torch.bfloat16
    return loop.LoopConfig(
        seed=run.plan.seed,
        precision="bf16" if fast else "fp32",
        warmup=60,
        beta2=0.98,
        ema=0.995,
        floor=0.02,
        **settings,
    )


def _train_stage(
    run: VideoRun,
    stage: str,
    make: Callable[[Mapping[str, Any]], loop.Task],
    configs: Mapping[str, Any],
) -> dict[str, torch.Tensor]:
    """Train a stage, or continue it, and return the averaged weights after its last step."""
    folder, plan = run.folder / stage, run.plan
    task = make(configs)
    if stage not in plan.steps:
        seconds = video_plan.seconds_of_stage(plan, stage, run.left())
        per_step = video_plan.seconds_per_step(task, configs["loop"], run.device)
        plan.steps[stage] = video_plan.steps_within(seconds, per_step, _LEAST_STEPS)
        plan.write(run.folder)
    if stage not in plan.seconds:
        steps = plan.steps[stage]
        shape = {
            "steps": steps,
            "warmup": min(configs["loop"].warmup, steps // 4),
            "validate_every": max(_LEAST_STEPS, steps // 4),
            "samples_every": max(_LEAST_STEPS, steps // 8),
        }
        configs = {**configs, "loop": replace(configs["loop"], **shape)}
        start = time.monotonic()
        loop.train(make(configs), configs["loop"], folder, device=run.device, resume="auto")
        plan.seconds[stage] = time.monotonic() - start
        plan.write(run.folder)
    return load_weights(folder / LAST, stage)[0]
