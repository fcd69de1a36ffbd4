"""``flowwarp eval-video``: how good generated video is, beside what originals have."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowwarp.cli import _paths
from flowwarp.cli._eval_model import evaluate_model
from flowwarp.cli._options import output_option
from flowwarp.cli._report import align, print_path
from flowwarp.cli._video_jobs import given_options, refuse_options
from flowwarp.cli._video_options import (
    choosing_options,
    load_networks,
    network_options,
    sampling_of,
    sampling_options,
)
from flowwarp.cli.device import check_device, choose_device, device_option
from flowwarp.defaults import MAX_SEED, STEPS
from flowwarp.errors import InputError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from flowwarp.data.clip import Clip, Draw
    from flowwarp.data.sprite_world.layers import Layers
    from flowwarp.legacy.models.dvae import DVAE
    from flowwarp.legacy.models.gpt import Sampling
    from flowwarp.legacy.models.upsampler import Upsampler
    from flowwarp.legacy.pipelines.evaluate import Table
    from flowwarp.legacy.pipelines.load import VideoModels
    from flowwarp.metrics.perceptual import LPIPS
    from flowwarp.models.classifier import Classifier
    from flowwarp.models.flownet import FlowNet

PARTS = ("classifier", "dvae", "gpt", "upsampler", "temporal")
SEEN, HELD_OUT = "seen", "held-out"  # combinations of hair, clothes and ground
PICTURED = "pictures"  # no part that is measured: with it alone, only pictures are drawn
PICTURES = ("prompts.png", "slices.png", "nearest.png")
SHOWN, NEAREST = 24, 12  # prompts of the sheet, and samples that are compared with training clips
_FRAMES = 16  # of a clip, where no transformer says another number
_SLICED = 4  # samples that are shown over time
_EVERY = 15.0  # seconds between two lines that tell how far it is


# Options of a model of train-video; all others are of the weights in the package.
_OF_MODEL = {"model", "data", "captions", "layers", "prompts", "seed", "device"}
_OF_MODEL |= {"dry_run", "as_json"}


@click.command()
@click.argument("data", metavar="[DATA]", required=False)
@click.option(
    "--weights",
    "model",
    metavar="RUN",
    help="A model of train-video, to measure on DATA: the folder of a run, or an exported file.",
)
@click.option("--captions", metavar="FILE", help="Captions of DATA, as for train-video.")
@click.option(
    "--part",
    "parts",
    type=click.Choice([*PARTS, PICTURED, "all"]),
    multiple=True,
    default=("all",),
    show_default=True,
    help="What to measure; may be given several times.",
)
@network_options
@click.option("--classifier", metavar="WEIGHTS", help="The judge, instead of that in the package.")
@click.option("--lpips", metavar="WEIGHTS", help="Also measure LPIPS, by tools/lpips_weights.py.")
@click.option("--layers", metavar="FOLDER", help="Sprite layers, instead of those in the package.")
@click.option(
    "--prompts",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    metavar="N",
    help="Clips to judge classifier, dvae and gpt by, in each column.",
)
@click.option(
    "--clips",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="N",
    help="Clips to judge upsampler and temporal by, in each column.",
)
@click.option(
    "--held-out/--no-held-out",
    default=True,
    show_default=True,
    help="Also measure combinations that training never sees.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=1_000_000,
    show_default=True,
    help="Of clips and samples; training has small ones.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=STEPS,
    show_default=True,
    help="Of the upsampler, a frame.",
)
@choosing_options
@sampling_options
@output_option("Also draw pictures there.", metavar="FOLDER")
@click.option(
    "--training-seed",
    type=click.IntRange(0),
    help="Of the clips that nearest.png searches, composed without photos; if not said, that in the"
    " card of --gpt, which is of its last training only, or 0.",
)
@click.option(
    "--training-clips",
    type=click.IntRange(1),
    default=5000,
    show_default=True,
    metavar="N",
    help="How many of them to search.",
)
@device_option
@click.option("--overwrite", is_flag=True, help="Replace pictures that exist.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be measured.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def command(
    data: str | None,
    model: str | None,
    captions: str | None,
    parts: tuple[str, ...],
    weights: dict[str, str | None],
    classifier: str | None,
    lpips: str | None,
    layers: str | None,
    prompts: int,
    clips: int,
    held_out: bool,
    seed: int,
    steps: int,
    candidates: int,
    best: int,
    drawn: dict[str, Any],
    output: str | None,
    training_seed: int | None,
    training_clips: int,
    device: str,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Measure networks that make video on fresh clips of the sprites' world.

    What a clip shows is told by a classifier that learned from originals alone. Of each figure the
    table says what the truth has, and what is left of it; docs/evaluation.md explains them all:

    \b
      classifier  how well the judge reads originals
      dvae        what is left of a clip after the discrete VAE: PSNR, codes in use, attributes
      gpt         whether samples show what prompts say; bits a token; descriptions of clips
      upsampler   frames at twice the size, of reconstructions, beside bicubic enlargement
      temporal    whether they hold still: reconstructions by exact, samples by estimated flow

    Only networks of the parts that are asked for are read. With -o there are pictures, of all three
    networks: prompts.png, a sheet of samples beside their prompts; slices.png, a row of pixels over
    time, drawn frame by frame and holding on; nearest.png, samples over the training clips most
    like them. `--part pictures` draws these alone, and needs no judge.

    With --weights, a model of train-video is measured on its DATA, by figures that need no judge:
    reconstruction, likelihood, copies of training clips, stillness, and how often the transformer
    describes its own samples by the words of their prompts.

    \b
    flowwarp eval-video --layers LPC -o report/
    flowwarp eval-video --weights runs/mine clips/
    flowwarp eval-video --part dvae --dvae runs/dvae/best.safetensors --layers LPC
    flowwarp eval-video --part gpt --prompts 100 --guidance 3 --json
    """  # noqa: D301 - click wants the character itself
    check_device(device)
    given = given_options()
    if model is not None:
        refuse_options(given.keys() - _OF_MODEL, given)
        if data is None:
            raise click.UsageError("--weights needs DATA, the clips that the model was trained on")
        evaluate_model(model, data, given, device, as_json=as_json, dry_run=dry_run)
        return
    if data is not None or captions is not None:
        raise click.UsageError("DATA and --captions need --weights")
    wanted = PARTS if "all" in parts else tuple(part for part in PARTS if part in parts)
    if PICTURED in parts and output is None:
        raise click.UsageError(f"--part {PICTURED} needs -o FOLDER")
    folder = None if output is None else Path(output)
    if folder is not None:
        for name in PICTURES:
            _paths.check_output(folder / name, overwrite=overwrite)
    if lpips is not None and "upsampler" not in wanted:
        raise click.UsageError("--lpips is of the part upsampler")
    sampling = sampling_of(drawn)
    from flowwarp.data.sprite_world.layers import load_layers

    wardrobe = load_layers(layers)
    networks = _load(
        wanted,
        weights | {"classifier": classifier},
        choose_device(device),
        pictures=folder is not None,
    )
    if lpips is not None:
        networks = replace(networks, perceptual=_load_lpips(lpips, networks))
    if networks.judge is not None:
        _check_judge(networks.judge, wardrobe, layers)
    if held_out and wanted:
        from flowwarp.data.sprite_world.world import check_held_out

        check_held_out(wardrobe, layers, "add some more of them, or use --no-held-out")
    if training_seed is None:
        training_seed = 0 if folder is None else _noted_seed(str(weights["gpt"]))
    job = _Job(networks, wardrobe, seed, steps, sampling, candidates, best)
    counts = {part: clips if part in ("upsampler", "temporal") else prompts for part in wanted}
    columns = (SEEN, HELD_OUT) if held_out else (SEEN,)
    if dry_run:
        pictures = [] if folder is None else [folder / name for name in PICTURES]
        _tell_plan(counts, columns, pictures, as_json)
        return
    if folder is not None:
        _paths.make_folder(folder)  # now, as measuring can take an hour
    results: dict[str, dict[str, Table]] = {part: {} for part in wanted}
    confusions: dict[str, Any] = {}
    for column in columns:
        for part, table in _measure(job, counts, column, confusions):
            results[part][column] = table
    if as_json:
        about = {"counts": counts, "seed": seed, "steps": steps, "candidates": candidates}
        about |= {"best_of": best, "sampling": vars(sampling)}
        measured = {"parts": _finite(results), "confusions": confusions}
        click.echo(json.dumps({"dry_run": False, **measured, **about}))
    else:
        for part, tables in results.items():
            click.echo(f"{_format(part, counts[part], tables)}\n")
    if folder is not None:
        for path in _draw(job, folder, training_seed, training_clips, overwrite=overwrite):
            click.echo(printable(str(path)), err=True) if as_json else print_path(path)


def _tell_plan(
    counts: Mapping[str, int], columns: Sequence[str], pictures: Sequence[Path], as_json: bool
) -> None:
    """Say what would be measured on how many clips, and drawn."""
    if as_json:
        drawn = [str(picture) for picture in pictures]
        plan = {"dry_run": True, "counts": counts, "columns": columns, "pictures": drawn}
        click.echo(json.dumps(plan))
        return
    for part, count in counts.items():
        click.echo(f"{part}: {' and '.join(f'{count} {column}' for column in columns)}")
    for picture in pictures:
        print_path(picture)


# ------------------------------------------------------------------ networks and clips


@dataclass(frozen=True)
class _Networks:
    """Those that are needed; ``models`` has those that make video together."""

    judge: Classifier | None
    dvae: DVAE | None
    upsampler: Upsampler | None
    flownet: FlowNet | None
    models: VideoModels | None
    perceptual: LPIPS | None = None

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return _FRAMES if self.models is None else self.models.window

    @property
    def small(self) -> int:
        """Side of the frames that the discrete VAE sees, in pixels."""
        if self.models is not None:
            return self.models.small
        return 64 if self.judge is None else self.judge.config.size


@dataclass(frozen=True)
class _Job:
    """What is measured, on clips of what, and how it draws."""

    networks: _Networks
    wardrobe: Layers
    seed: int
    steps: int
    sampling: Sampling
    candidates: int
    best: int

    def source(self, size: int, *, held_out: bool, alone: bool) -> Draw:
        """Return the world's clips, of one actor only if ``alone``."""
        from flowwarp.data.sprite_world.labels import one_actor
        from flowwarp.data.sprite_world.world import compose_clip

        def draw(seed: int, index: int) -> Clip:
            frames = self.networks.frames
            return compose_clip(self.wardrobe, seed, index, size, frames, held_out=held_out)

        return one_actor(draw) if alone else draw


def _load(
    parts: Sequence[str], weights: Mapping[str, str | None], device: str, *, pictures: bool
) -> _Networks:
    """Read the networks of some parts, so that a broken file is found before any work.

    Raises:
        InputError: a file is missing, broken, or does not fit the others.
    """
    from flowwarp.legacy.pipelines.evaluate import load_classifier
    from flowwarp.legacy.pipelines.load import load_upsampler
    from flowwarp.legacy.pipelines.tokens import load_dvae
    from flowwarp.pipelines.flow.estimate import load_flownet

    needs = set(parts)
    judge = None
    if needs & {"classifier", "dvae", "gpt"}:
        judge = load_classifier(weights["classifier"], device)
    sharpens = pictures or bool(needs & {"upsampler", "temporal"})
    dvae, sharp, flow = (str(weights[name]) for name in ("dvae", "upsampler", "flow"))
    if pictures or needs & {"gpt", "temporal"}:
        names = ("gpt", "dvae", "flow", "captioner", "sketcher", "reviser")
        named = {name: weights[name] for name in names}
        models = load_networks(named | {"upsampler": sharp if sharpens else None}, device)
        networks = _Networks(judge, models.dvae, models.upsampler, models.flownet, models)
    else:
        networks = _Networks(
            judge,
            load_dvae(dvae, device) if needs - {"classifier"} else None,
            load_upsampler(sharp, device) if sharpens else None,
            load_flownet(flow, device) if sharpens else None,
            None,
        )
    if judge is not None and judge.config.size != networks.small:
        raise InputError(
            weights["classifier"] or "classifier",
            f"reads frames of {judge.config.size} px, the networks make {networks.small} px",
            "train one with tools/train_classifier.py",
        )
    if judge is not None and judge.config.apart >= networks.frames:
        raise InputError(
            weights["classifier"] or "classifier",
            f"compares frames {judge.config.apart} apart, the networks make {networks.frames}",
            "train one with tools/train_classifier.py",
        )
    if networks.dvae is not None and networks.small % networks.dvae.config.stride:
        raise InputError(dvae, f"takes no frames of {networks.small} px")
    return networks


def _load_lpips(weights: str, networks: _Networks) -> LPIPS:
    from flowwarp.legacy.models.upsampler import SCALE
    from flowwarp.legacy.pipelines.evaluate import load_lpips
    from flowwarp.metrics.perceptual import SMALLEST

    side = SCALE * networks.small
    if side < SMALLEST:
        raise InputError(weights, f"sees nothing in frames of {side} px")
    return load_lpips(weights)


def _check_judge(judge: Classifier, wardrobe: Layers, layers: str | None) -> None:
    """Refuse a judge who has never heard of something that the layers hold.

    Raises:
        InputError: so it is.
    """
    from flowwarp.data.sprite_world.labels import label_values

    known = {name: set(values) for name, values in judge.config.attributes}
    for name, values in label_values(wardrobe).items():
        foreign = set(values) - known.get(name, set())
        if foreign:
            raise InputError(
                layers or "layers",
                f"{name} {min(foreign)!r} is unknown to the classifier",
                "train one with tools/train_classifier.py",
            )


def _noted_seed(gpt: str) -> int:
    """Return the seed of a transformer's last training, as its card has it; 0 if it has none."""
    from flowwarp.io.checkpoints import load_weights
    from flowwarp.io.shipped import find_weights

    _, card = load_weights(find_weights(gpt, "gpt"))
    noted = card.notes.get("seed", "")
    return int(noted) if re.fullmatch("[0-9]{1,19}", noted) else 0


# ------------------------------------------------------------------ what is measured


def _measure(
    job: _Job, counts: Mapping[str, int], column: str, confusions: dict[str, Any]
) -> Iterator[tuple[str, Table]]:
    """Yield the table of each part; the judge's confusions go into ``confusions``."""
    from flowwarp.data.sprite_world.labels import phrases_of
    from flowwarp.legacy.models.upsampler import SCALE
    from flowwarp.legacy.pipelines import evaluate as evaluation

    networks = job.networks
    small, large = networks.small, SCALE * networks.small
    judge, dvae, sharp, models = (
        networks.judge,
        networks.dvae,
        networks.upsampler,
        networks.models,
    )

    def clips(part: str, size: int, *, alone: bool) -> Iterator[Clip]:
        source = job.source(size, held_out=column == HELD_OUT, alone=alone)
        return _told(partial(source, job.seed), counts[part], f"{part}, {column}")

    if "classifier" in counts and judge is not None:
        table, wrong = evaluation.evaluate_classifier(judge, clips("classifier", small, alone=True))
        confusions[column] = wrong
        yield "classifier", table
    if "dvae" in counts and dvae is not None and judge is not None:
        yield "dvae", evaluation.evaluate_dvae(dvae, judge, clips("dvae", small, alone=False))
    if "gpt" in counts and models is not None and judge is not None:
        yield (
            "gpt",
            evaluation.evaluate_gpt(
                models,
                judge,
                clips("gpt", small, alone=True),
                phrases_of(job.wardrobe),
                seed=job.seed,
                sampling=job.sampling,
                candidates=job.candidates,
                best=job.best,
            ),
        )
    upsampling = [part for part in ("upsampler", "temporal") if part in counts]
    if upsampling and dvae is not None and sharp is not None:
        table = evaluation.evaluate_upsampler(
            dvae,
            sharp,
            clips(upsampling[0], large, alone=False),
            seed=job.seed,
            steps=job.steps,
            perceptual=networks.perceptual,
            flownet=networks.flownet,
        )
        if "upsampler" in counts:
            yield "upsampler", table
    if "temporal" in counts and models is not None:
        samples = evaluation.evaluate_samples(
            models,
            clips("temporal", large, alone=True),
            seed=job.seed,
            steps=job.steps,
            sampling=job.sampling,
            candidates=job.candidates,
            best=job.best,
        )
        steady = {name: table[name] for name in evaluation.STEADY}
        yield "temporal", steady | {f"samples: {name}": row for name, row in samples.items()}


def _told(draw: Callable[[int], Clip], count: int, label: str) -> Iterator[Clip]:
    """Yield clips, and tell now and then how many are done and how long the others will take."""
    began = told = time.monotonic()
    for number in range(count):
        now = time.monotonic()
        if number and now - told > _EVERY:
            told = now
            minutes, seconds = divmod(round((now - began) / number * (count - number)), 60)
            click.echo(f"{label}: {number} of {count}, {minutes}:{seconds:02d} left", err=True)
        yield draw(number)


# ------------------------------------------------------------------ pictures


def _draw(
    job: _Job, folder: Path, training_seed: int, training_clips: int, *, overwrite: bool
) -> Iterator[Path]:
    """Draw samples beside their prompts, over time, and over what they may have been copied of."""
    import torch
    import torch.nn.functional as F

    from flowwarp.io.images import write_image
    from flowwarp.legacy.models.upsampler import SCALE
    from flowwarp.legacy.pipelines.evaluate import nearest_clips, prompt_of
    from flowwarp.legacy.pipelines.generate import generate
    from flowwarp.viz.sheets import captioned_sheet, time_slices

    models = job.networks.models
    assert models is not None
    source = job.source(models.small, held_out=False, alone=True)

    def make(prompt: str, number: int, *, temporal: bool = True) -> Tensor:
        frames = generate(
            models,
            prompt,
            seed=(job.seed + number) % 2**63,
            candidates=job.candidates,
            best=job.best,
            sampling=job.sampling,
            steps=job.steps,
            temporal=temporal,
        )
        return torch.stack(list(frames))

    def write(name: str, picture: Tensor) -> Path:
        _paths.check_output(folder / name, overwrite=overwrite)  # anew: work took long
        write_image(folder / name, picture)
        return folder / name

    prompts, videos, slices, samples = [], [], [], []
    for number, clip in enumerate(_told(partial(source, job.seed), SHOWN, PICTURES[0])):
        prompt = prompt_of(clip, job.seed, number)
        held = make(prompt, number)
        prompts.append(prompt)
        videos.append(held[:: max(1, len(held) // 8)])
        if number < NEAREST:
            samples.append(F.avg_pool2d(held, SCALE))
        if number < _SLICED:
            free = make(prompt, number, temporal=False)
            slices.append(time_slices([free, held], models.size // 2))
    yield write(PICTURES[0], captioned_sheet(list(zip(prompts, videos, strict=True))))
    gaps = [F.pad(part, (0, 0, 0, 4), value=1.0) for part in slices]
    yield write(PICTURES[1], torch.cat(gaps, 1))
    learned = job.source(models.small, held_out=False, alone=False)
    distances, found = nearest_clips(
        torch.stack(samples),
        _told(partial(learned, training_seed), training_clips, PICTURES[2]),
    )
    rows = []
    for prompt, sample, distance, clip_ in zip(prompts, samples, distances, found, strict=False):
        rows += [(prompt, sample), (f"nearest of {training_clips}, {distance:.3f} off", clip_)]
    every = max(1, job.networks.frames // 8)
    yield write(PICTURES[2], captioned_sheet(rows, every=every))


# ------------------------------------------------------------------ tables


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value if math.isfinite(value) else None


def _format(part: str, count: int, tables: Mapping[str, Table]) -> str:
    """Write the tables of a part side by side."""
    heads = [
        (column, whose)
        for column, table in tables.items()
        for whose in dict.fromkeys(name for row in table.values() for name in row)
    ]
    lines = [[f"{part} ({count})", *(f"{column} {whose}" for column, whose in heads)]]
    for figure in dict.fromkeys(name for table in tables.values() for name in table):
        values = [tables[column].get(figure, {}).get(whose) for column, whose in heads]
        lines.append([figure, *(_number(figure, value) for value in values)])
    return align(lines, 1)


def _number(figure: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if figure.endswith("%") else f"{value:.4g}"
