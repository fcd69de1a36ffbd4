"""``eval-video`` of a model of ``train-video``: the figures that need no judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli._report import align
from flowwarp.cli._training import report_clips
from flowwarp.cli.device import choose_device

if TYPE_CHECKING:
    from flowwarp.data.clip_layout import ClipLayout
    from flowwarp.pipelines.video.load import VideoConfig

_COUNT = 32  # held-out clips that are measured, if not said
_LABELS = {
    "dvae": {"psnr": "DVAE, PSNR (dB)", "detail": "DVAE, detail"},
    "gpt": {
        "nats_per_digit": "transformer, nats a digit",
        "nats_without_words": "transformer, without words",
    },
    "samples": {
        "self_consistency": "self-consistency",
        "copy_candidates": "copy candidates",
        "distance": "distance to the nearest clip",
        "distance_held_out": "the same of held-out clips",
    },
}


def evaluate_model(
    weights: str,
    data: str,
    given: Mapping[str, Any],
    device: str,
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Measure a model on a source of clips, and print tables or one JSON object.

    Args:
        weights: the folder of a run, or a file.
        data: the clips that the model was trained on; those held out are measured.
        given: options by name, those that were given: captions, layers, prompts, seed.
        device: the option.
        as_json: whether to print JSON.
        dry_run: whether to measure nothing.

    Raises:
        InputError: the model or the clips cannot be read.
    """
    from flowwarp.data.captioned_survey import survey
    from flowwarp.data.clip import WorldFiles
    from flowwarp.pipelines.video.evaluate import evaluate
    from flowwarp.pipelines.video.load import load_video_model
    from flowwarp.train.seeding import held_out_series
    from flowwarp.train.video_data import open_video_data

    captions, seed = given.get("captions"), given.get("seed", 0)
    model = load_video_model(weights, choose_device(device))
    found = survey(data, captions=captions)
    layout = _layout_of_model(found.layout, model.config)
    clips = open_video_data(
        replace(found, layout=layout),
        captions=captions,
        world_files=WorldFiles(given.get("layers")),
        progress=report_clips,
    )
    count = given.get("prompts", _COUNT)
    count = min(count, clips.validation.count or count)
    if dry_run:
        about = {"dry_run": True, "clips": count, "frames": layout.frames, "size": layout.size}
        click.echo(json.dumps(about) if as_json else f"{count} held-out clips of {data}")
        return
    figures = evaluate(
        model, clips.source, clips.validation, count, seed=seed, series=held_out_series(seed)
    )
    if as_json:
        click.echo(json.dumps({"dry_run": False, "seed": seed, **figures}))
    else:
        click.echo(format_figures(figures))


def _layout_of_model(layout: ClipLayout, config: VideoConfig) -> ClipLayout:
    """Return the layout of a source's clips in the size, length and rate of a model."""
    rate = layout.fps * layout.step  # of the videos
    step = max(1, round(rate / config.fps))
    return replace(
        layout,
        base=config.base,
        size=config.size,
        frames=config.frames,
        step=step,
        fps=rate / step,
    )


def format_figures(figures: Mapping[str, Any]) -> str:
    """Return the figures of :func:`flowwarp.pipelines.video.evaluate.evaluate` as two tables."""
    single = [
        [label, _number(figures[part][name])]
        for part, labels in _LABELS.items()
        for name, label in labels.items()
    ]
    ways = [
        [way, *(_number(values[name]) for name in ("warping", "detail"))]
        for way, values in figures["video"].items()
    ]
    head = [f"{figures['clips']} held-out clips", ""]
    return f"{align([head, *single], 1)}\n\n{align([['video', 'E_warp', 'detail'], *ways], 1)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
