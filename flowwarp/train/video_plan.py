"""The plan of ``train-video``: three networks one after the other, in the time there is.

Before each stage, steps per second are measured on this machine with the examples to come. The
stage then gets as many steps as fit in its share of the time; it ends earlier where held-out clips
gain no more, and the stages behind it have what is left. What is decided is written to
RUN/plan.json before the first step, so that a resumed run follows the same plan.
"""

from __future__ import annotations

import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from flowwarp.defaults import MAX_SEED
from flowwarp.errors import InputError
from flowwarp.io.atomic import atomic_output
from flowwarp.io.files import open_input
from flowwarp.models.gpt import GPTConfig
from flowwarp.tensors import check_choice, check_number, check_whole, check_wholes
from flowwarp.train.loop import LoopConfig, Task

DVAE, GPT, UPSAMPLER = STAGES = ("dvae", "gpt", "upsampler")
PLAN = "plan.json"

# Shares of the time; what is left is for reading clips, measuring and the report.
SHARES = {DVAE: 0.2, GPT: 0.6, UPSAMPLER: 0.15}
# Sizes of the transformer (width, depth), smallest first. The largest is taken that has time for so
# many examples, and whose blocks have at most so many parameters for each clip: with more it
# memorises the clips before it has learned from them.
GPT_SIZES = ((128, 4), (192, 5), (256, 6), (384, 8), (512, 12))
LEAST_EXAMPLES = 16_000
PARAMETERS_PER_CLIP = 12_000
_MEASURED = 4  # steps that are timed, after two that warm up
_OVERHEAD = 1.05  # averages, states and samples, as a share of the steps' own time
OWN, SPRITES, LARGE = PRESETS = ("own", "sprites", "large")
_MAX_BYTES = 2**20
_MOST_HOURS, _MOST_STEPS, _MOST_WIDTH, _MOST_DEPTH = 1e5, 10**12, 2**13, 2**8


@dataclass
class Plan:
    """What a run does, as RUN/plan.json records it.

    Args:
        hours: wall time of the run, from the start of the process.
        seed: of everything.
        preset: for which data and machine sizes are chosen: ``own``, ``sprites`` or ``large``.
        gpt: (width, depth) of the transformer; None until it is chosen.
        steps: of each stage that has begun.
        seconds: that each finished stage took.
        mirror: whether the transformer also learns from mirrored clips.

    Raises:
        ValueError: a value is of another type, or out of its range.
    """

    hours: float
    seed: int
    preset: str = OWN
    gpt: tuple[int, int] | None = None
    steps: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    mirror: bool = False

    def __post_init__(self) -> None:
        check_number(self.hours, "hours", 1e-9, _MOST_HOURS)
        check_whole(self.seed, "seed", 0, MAX_SEED)
        check_choice(self.preset, "preset", PRESETS)
        if not isinstance(self.mirror, bool):
            raise ValueError(f"mirror must be true or false, got {self.mirror!r}")
        if self.gpt is not None:
            check_wholes(self.gpt, "gpt", 1, _MOST_WIDTH)
            if len(self.gpt) != 2 or self.gpt[1] > _MOST_DEPTH:
                raise ValueError(f"gpt must be a width and a depth, got {self.gpt}")
            gpt_config(self.gpt)
        for name in ("steps", "seconds"):
            stages = getattr(self, name)
            if not isinstance(stages, dict) or not stages.keys() <= set(STAGES):
                raise ValueError(f"{name} must be by stage: {', '.join(STAGES)}")
        for stage, steps in self.steps.items():
            check_whole(steps, f"steps of {stage}", 1, _MOST_STEPS)
        for stage, seconds in self.seconds.items():
            check_number(seconds, f"seconds of {stage}", 0, 3600 * _MOST_HOURS)

    def write(self, folder: Path) -> None:
        """Write it to a run's folder.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_output(folder / PLAN) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def read_plan(folder: Path) -> Plan | None:
    """Read the plan of a run; None if it has none.

    Raises:
        InputError: it is broken.
    """
    path = folder / PLAN
    if not path.exists():
        return None
    with open_input(path) as (file, _):
        text = file.read(_MAX_BYTES)
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or not values.keys() <= {
            item.name for item in fields(Plan)
        }:
            raise ValueError("not an object of a plan's entries")
        size = values.get("gpt")
        return Plan(**values | {"gpt": tuple(size) if isinstance(size, list) else size})
    except (ValueError, TypeError, RecursionError) as fault:
        raise InputError(path, f"is no plan ({fault})", "start another run") from fault


def gpt_config(size: tuple[int, int]) -> GPTConfig:
    """Return the transformer of a (width, depth): attention heads of 64 channels, two at least.

    Raises:
        ValueError: the width does not divide among the heads.
    """
    width, depth = size
    # The head runs for each digit of a patch: at 128 channels it takes half of the smallest size's
    # time.
    return GPTConfig(width, depth, heads=max(2, width // 64), digit_width=max(64, width // 4))


def stages_of(preset: str, *, enlarges: bool) -> tuple[str, ...]:
    """Return the stages of a run, in their order.

    An hour is too short for an upsampler of few clips: it is no better than bicubic enlargement, so
    ``own`` enlarges bicubically and the transformer has the time.

    Args:
        preset: of the plan.
        enlarges: whether clips are larger than what the discrete VAE sees.
    """
    return STAGES if enlarges and preset != OWN else STAGES[:-1]


def seconds_of_stage(stage: str, left: float, stages: Sequence[str]) -> float:
    """Return the time of a stage: its share of what is left for it and the stages behind it.

    Args:
        stage: that is about to begin.
        left: seconds until the run must end, less than 0 if it is late.
        stages: of the run, in their order.
    """
    behind = stages[stages.index(stage) :]
    rest = 1 - sum(SHARES.values())  # stays for the report
    share = SHARES[stage] / (sum(SHARES[name] for name in behind) + rest / 2)
    return max(0.0, left) * share


def choose_size(
    seconds: float, clips: int | None, measure: Callable[[tuple[int, int]], float]
) -> tuple[int, int]:
    """Return the (width, depth) of the largest transformer that time and clips are enough for.

    The smallest is taken where none is. Sizes are tried until one is too slow.

    Args:
        seconds: of its stage.
        clips: to learn from; None if they are endless.
        measure: returns examples per second of a size.
    """
    chosen = GPT_SIZES[0]
    for size in GPT_SIZES[1:]:
        width, depth = size
        if clips is not None and 12 * width**2 * depth > PARAMETERS_PER_CLIP * clips:
            break
        if measure(size) * seconds < LEAST_EXAMPLES:
            break
        chosen = size
    return chosen


def seconds_per_step(task: Task, config: LoopConfig, device: torch.device) -> float:
    """Measure a step of training; neither the task's network nor its examples are changed.

    Of several processes each takes one micro-batch of a step, so one is measured.
    """
    net = copy.deepcopy(task.model).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    size = math.ceil(config.batch_size / config.accumulate)
    times = []
    try:
        for step in range(_MEASURED + 2):
            start = time.monotonic()
            first = step * config.batch_size
            numbers = range(first, first + size)
            batch = {name: part.to(device) for name, part in task.batch(numbers).items()}
            bf16 = config.precision == "bf16"
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = task.loss(net, batch, step)["loss"]
            optimizer.zero_grad()
            torch.autograd.backward(loss.mean())
            optimizer.step()
            if device.type == "cuda":  # which computes while Python goes on
                torch.cuda.synchronize(device)
            times.append(time.monotonic() - start)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(times[2:]) * _OVERHEAD


def steps_within(seconds: float, per_step: float, least: int) -> int:
    """Return how many steps fit in a time, at least so many."""
    return max(least, int(seconds / per_step))
