"""A world of eight clips, each with one square that moves."""

import time
from dataclasses import replace

import torch

from flowwarp.data.clip import Source, clip_without_flow
from flowwarp.data.tokens import Words
from flowwarp.train.video_plan import Plan, read_plan
from flowwarp.train.video_run import VideoData, VideoRun

CLIPS, FRAMES, SIDE = 8, 8, 32
_COLORS = {"red": (220, 30, 30), "blue": (40, 60, 230)}
_MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_KINDS = [(color, move) for color in _COLORS for move in _MOVES]
CAPTIONS = tuple(f"a {color} square moves {move}" for color, move in _KINDS)
WORDS = Words.of_captions(CAPTIONS)


def draw(seed, index):
    """Return a clip, (8, 3, 32, 32); the seed says nothing."""
    color, move = _KINDS[index % CLIPS]
    video = torch.full((FRAMES, 3, SIDE, SIDE), 90, dtype=torch.uint8)
    dy, dx = _MOVES[move]
    for t in range(FRAMES):
        y, x = 12 + dy * (t - 4), 12 + dx * (t - 4)
        video[t, :, y : y + 8, x : x + 8] = torch.tensor(_COLORS[color]).view(3, 1, 1).byte()
    return clip_without_flow(video, CAPTIONS[index % CLIPS])


SOURCE = Source(draw, CLIPS, ("squares",), CAPTIONS)

SIZE = (SIDE, SIDE)
DATA = VideoData(SOURCE, SOURCE, WORDS, SIZE, SIZE, FRAMES, 8.0, {"licence": "CC0"})
LARGER = replace(DATA, base=(16, 16))


def run_in(folder, **changes):
    """Return a run of train-video in a folder, by the plan there or a short one."""
    folder.mkdir(exist_ok=True)
    planned = {"gpt": (32, 1), "steps": {"dvae": 3, "gpt": 3, "upsampler": 2}, **changes}
    plan = read_plan(folder)
    if plan is None:
        plan = Plan(0.1, 0, "large", **planned)
        plan.write(folder)
    return VideoRun(folder, plan, torch.device("cpu"), time.monotonic())
