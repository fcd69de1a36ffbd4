"""``flowwarp train-video``: a text-to-video model of one's own captioned clips."""

from __future__ import annotations

import time
from pathlib import Path

import click

from flowwarp.cli._options import input_argument
from flowwarp.cli._report import print_path
from flowwarp.cli._training import report_clips
from flowwarp.cli.device import choose_device, device_option
from flowwarp.defaults import FPS, MAX_SEED


@click.command()
@input_argument("captioned", "CAPTIONED")
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Wall time of the whole training.",
)
@click.option("--run", "folder", default="runs/video", show_default=True, help="Folder of the run.")
@click.option("--resume", type=click.Choice(["never", "auto"]), default="never", show_default=True)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True)
@device_option
def command(captioned: str, hours: float, folder: str, resume: str, seed: int, device: str) -> None:
    """Train a text-to-video model of CAPTIONED clips: three networks, one after the other."""
    started = time.monotonic()
    import torch

    from flowwarp.data.sources import open_split
    from flowwarp.data.tokens import Words
    from flowwarp.pipelines.video.load import MODEL
    from flowwarp.train.runs import check_writable
    from flowwarp.train.video_plan import Plan, read_plan
    from flowwarp.train.video_run import VideoData, VideoRun, train_video

    check_writable(folder)
    Path(folder).mkdir(parents=True, exist_ok=True)
    plan = read_plan(Path(folder)) or Plan(hours, seed)
    source, validation = open_split(captioned, 96, 16, progress=report_clips)
    words = Words.of_captions(source.captions)
    data = VideoData(source, validation, words, (64, 64), (96, 96), 16, FPS, {})
    run = VideoRun(Path(folder), plan, torch.device(choose_device(device)), started)
    train_video(data, run)
    print_path(Path(folder) / MODEL)
