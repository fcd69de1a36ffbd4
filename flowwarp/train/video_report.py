"""The report of ``train-video``: what the networks learned, on one page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from flowwarp.data.clip import Clip, Source
from flowwarp.data.crops import middle_crop
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.recombined import recombine
from flowwarp.data.tokens import from_patches
from flowwarp.io.files import open_input
from flowwarp.models.sampling import SamplingConfig, sample
from flowwarp.pipelines.video.encode import encode_prompts
from flowwarp.pipelines.video.evaluate import evaluate
from flowwarp.pipelines.video.generate import Request, decode, enlarge_frames, generate
from flowwarp.pipelines.video.learned import not_learned, word_figures
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.pipelines.video.nearest import Nearest, find_nearest
from flowwarp.precision import fast_autocast
from flowwarp.train.html_page import embedded, figure, heading, row, table, text, write_page
from flowwarp.train.runs import METRICS, SAMPLES
from flowwarp.train.seeding import held_out_series
from flowwarp.train.video_plan import STAGES, Plan, stages_of
from flowwarp.train.video_run import VideoData, VideoRun
from flowwarp.viz.charts import line_chart

REPORT = "report.html"
_PROMPTS = 4  # of each kind
_LISTED = 64  # training clips whose captions are recombined, of a world without end
_COMPARED = 500  # training clips among which the nearest is sought
_HELD_OUT = 8  # clips whose distance from them is told for comparison
_MEASURED = 16  # held-out clips whose figures are given
_SECONDS = 8.0  # that the figures of one clip may take
_WORSE = 1.01  # loss of held-out clips at the end over its lowest, above which it has risen
_MAX_BYTES = 2**28  # of a metrics.jsonl
_SHEETS = {
    "dvae": "Each original (left to right: its frames) above what the discrete VAE makes of it.",
    "gpt": "Prompts of held-out clips, and what the transformer writes.",
    "upsampler": "What the upsampler is given, what it makes of it, and the original.",
}


def write_report(
    run: VideoRun, survey: str, learned: tuple[VideoModel, VideoData] | None = None
) -> Path:
    """Write report.html to a run's folder.

    Args:
        run: its folder, plan, and the time that is left.
        survey: the table of what the clips are.
        learned: the model, and the clips; None if there is no model yet.

    Returns:
        Its path.

    Raises:
        OutputError: it cannot be written.
    """
    parts: list[str] = []
    if learned is None:
        parts.append("<p>The training is not finished: there is no model yet.</p>")
    else:
        parts += _describe_words(learned[0])
        parts += _describe_samples(*learned, run.plan.seed)
        parts += _describe_figures(run, *learned)
    for stage in STAGES:
        parts += _describe_stage(run.folder / stage, stage)
    parts += [heading("Clips"), f"<pre>{text(survey)}</pre>"]
    parts += [heading("Plan"), _plan_table(run.plan)]
    path = run.folder / REPORT
    write_page(path, f"Training of {run.folder.resolve().name}", parts)
    return path


def _describe_words(model: VideoModel) -> Iterator[str]:
    """Yield which words the transformer has learned."""
    figures = word_figures(model.notes)
    if not figures:
        return
    missing = ", ".join(not_learned(figures))
    yield heading(
        "Words",
        "Held-out clips under their captions, and with one word replaced. "
        + (
            f"These words make no difference: {missing}. They are synonyms of those that would "
            "stand in their place, or there are too few clips, or too little time, to learn them."
            if missing
            else "All words that were compared make a difference."
        ),
    )
    ordered = sorted(figures.items(), key=lambda item: item[1].likelier)
    yield table(
        [("word", "clips", "likelier with it", "nats")]
        + [(word, f.clips, f"{f.likelier:.0%}", f"{f.nats:.2f}") for word, f in ordered]
    )


def _describe_figures(run: VideoRun, model: VideoModel, data: VideoData) -> Iterator[str]:
    """Yield figures that need no judge, of as many held-out clips as there is time for."""
    last = stages_of(run.plan.preset, enlarges=data.size != data.base)[-1]
    count = min(_MEASURED, data.validation.count or _MEASURED, int(run.left() / _SECONDS))
    if last not in run.plan.seconds or count < 1:
        return
    seed = run.plan.seed
    series = held_out_series(seed)
    found = evaluate(model, data.source, data.validation, count, seed=seed, series=series)
    rows = [(f"{part}: {name}", value) for part, values in _groups(found) for name, value in values]
    yield heading("Figures", f"Of {count} held-out clips and as many samples of their captions.")
    yield table(
        [("figure", "value")]
        + [(name, "" if value is None else f"{value:.4g}") for name, value in rows]
    )


def _groups(found: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, float | None]]]]:
    """Yield the groups of figures of an evaluation; ways to the full size are groups as well."""
    for part, values in found.items():
        if isinstance(values, dict):
            yield part, [(k, v) for k, v in values.items() if not isinstance(v, dict)]
            yield from _groups({f"{part}, {k}": v for k, v in values.items()})


def _plan_table(plan: Plan) -> str:
    rows: list[Sequence[object]] = [("", "")]
    for name, value in asdict(plan).items():
        if isinstance(value, dict):
            rows += [(f"{name} of {stage}", f"{figure:.6g}") for stage, figure in value.items()]
        else:
            rows.append((name, value))
    return table(rows)


# ------------------------------------------------------------------ stages


def _describe_stage(folder: Path, stage: str) -> Iterator[str]:
    """Yield the curves and the newest sheet of a stage, if it has begun."""
    curves = _read_curves(folder / METRICS)
    sheets = sorted((folder / SAMPLES).glob("*.png"))
    if not curves and not sheets:
        return
    yield heading(f"Stage {STAGES.index(stage) + 1}: {stage}", _describe_end(curves))
    yield row(line_chart(name, points) for name, points in curves.items())
    if sheets:
        newest = [path for path in sheets if path.name[:8] == sheets[-1].name[:8]]
        yield f"<p>{text(_SHEETS[stage])} Step {int(sheets[-1].name[:8])}.</p>"
        for path in newest:
            yield embedded(path.read_bytes(), "png")


def _describe_end(curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Say whether a stage learned its clips by heart; nothing if it did not."""
    points = curves.get("val loss", [])
    if not points:
        return ""
    step, best = min(points, key=lambda point: point[1])
    if points[-1][1] <= _WORSE * best:
        return ""
    return f"It memorises: the loss of held-out clips rose after step {step:.0f}."


def _read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the training loss and the figures of validation, as far as they can be read."""
    curves: dict[str, list[tuple[float, float]]] = {}
    if not path.exists():
        return curves
    with open_input(path) as (file, _):
        lines = file.read(_MAX_BYTES).decode("utf-8", "replace").splitlines()
    for line in lines:
        try:
            record = dict(json.loads(line))
            step, split = float(record.pop("step")), str(record.pop("split"))
        except (ValueError, TypeError, KeyError, RecursionError):  # cut short by a crash
            continue
        for name, value in record.items():
            wanted = name == "loss" if split == "train" else not name.startswith("negative_")
            if wanted and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(f"{split} {name}", []).append((step, float(value)))
    return curves


# ------------------------------------------------------------------ samples


def _describe_samples(model: VideoModel, data: VideoData, seed: int) -> Iterator[str]:
    """Yield samples of the model, each beside the training clip that is most like it."""
    unseen = _first_clips(data.validation, _HELD_OUT, held_out_series(seed))
    held_out = list(_as_seen(unseen, data.size))
    if model.words.words:
        listed = _captions(data.source, seed)
        kinds = {
            "Training captions": listed[:_PROMPTS],
            "New combinations": recombine(listed, _PROMPTS),
        }
        prompts = [prompt for part in kinds.values() for prompt in part]
        videos = write_samples(model, prompts)
    else:
        clips = held_out[:_PROMPTS]
        kinds = {"Continued pictures": [f"held-out picture {n + 1}" for n in range(len(clips))]}
        videos = [generate(model, Request("", image=clip.video[0].float() / 255)) for clip in clips]
    originals = [clip.video.float() / 255 for clip in held_out]
    training = _as_seen(_first_clips(data.source, _COMPARED, seed), data.size)
    nearest = find_nearest([*videos, *originals], training)
    usual = median(found.distance for found in nearest[len(videos) :])
    yield heading(
        "Samples",
        "On the left a sample, beside it the training clip most like it. The distance is the root "
        "mean square of the differences of colours, of 255, over frames of 16 x 16 pixels. "
        f"{_compared(data.source)} Held-out clips are {usual:.1f} away (median of "
        f"{len(held_out)}): a sample that is much nearer may be a copy.",
    )
    shown = iter(zip(videos, nearest, strict=False))
    for kind, prompts in kinds.items():
        yield f"<h3>{text(kind)}</h3>"
        pairs = [
            _pair(prompt, video, found, data.fps)
            for prompt, (video, found) in zip(prompts, islice(shown, len(prompts)), strict=True)
        ]
        yield row(pairs) if pairs else "<p>None: the captions give none.</p>"


def write_samples(model: VideoModel, prompts: Sequence[str], seed: int = 0) -> list[Tensor]:
    """Return a video of each prompt, (T, 3, H, W) in [0, 1]; codes are written side by side."""
    generator = torch.Generator().manual_seed(seed)
    words = encode_prompts(model, prompts)
    with fast_autocast(model.device):
        patches = sample(model.gpt, [(TEXT, words)], VIDEO, SamplingConfig(), generator)
    videos = []
    for prompt, codes in zip(prompts, from_patches(patches, model.grid), strict=True):
        decoded = iter([decode(model, codes[None], prompt)])
        frames = enlarge_frames(model, decoded, Request(prompt), generator)
        videos.append(torch.cat(list(frames)).cpu())
    return videos


def _pair(prompt: str, video: Tensor, found: Nearest, fps: float) -> str:
    original = found.clip.video.float() / 255
    caption = f"nearest, {found.distance:.1f} away: {found.clip.caption}".rstrip(": ")
    return row([figure(video, fps, prompt), figure(original, fps, caption)])


def _captions(source: Source, seed: int) -> list[str]:
    if source.captions:
        return list(source.captions)
    return list(dict.fromkeys(clip.caption for clip in _first_clips(source, _LISTED, seed)))


def _compared(source: Source) -> str:
    number = min(_COMPARED, source.count or _COMPARED)
    return f"{'All' if number == source.count else number} training clips are compared."


def _first_clips(source: Source, most: int, seed: int) -> Iterator[Clip]:
    return (source(seed, index) for index in range(min(most, source.count or most)))


def _as_seen(clips: Iterable[Clip], size: tuple[int, int]) -> Iterator[Clip]:
    """Yield clips cut as in training, so that they can be compared with samples."""
    for clip in clips:
        yield replace(clip, video=(middle_crop(clip.video, size) * 255).round().byte())
