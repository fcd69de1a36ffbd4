"""What the discrete VAE learns from: clips with known flow, and the terms it is judged by.

Colours and their gradients shall be those of the original, and what the reconstruction gets wrong
shall move with the scene: an error that stays on the thing it is on is seen as a slightly different
thing, one that comes and goes is seen as flicker. What is told of a clip may be few pixels large,
so that colours alone hardly miss it; captioners may look at both, and shall see the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from flowwarp.data.clip import Draw, fingerprint_of
from flowwarp.legacy.models.captioner import Captioner
from flowwarp.legacy.models.dvae import (
    BASE,
    DVAE,
    SMALL,
    TINY,
    DVAEConfig,
    Residual,
    initialise_latent,
    nearest,
    weigh_colors,
)
from flowwarp.legacy.train.clusters import kmeans
from flowwarp.legacy.train.perceptual import check_eyes, seen_loss
from flowwarp.losses.reconstruction import gradient_error, l1_loss, rmse_loss, warp_loss
from flowwarp.metrics.video import code_use, psnr
from flowwarp.train import loop, seeding
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.sheets import video_sheet


@dataclass(frozen=True)
class DVAEDataConfig:
    """What an example is.

    Args:
        size: of the frames, a multiple of the network's stride.
        frames: a multiple of the frames of a group.
        stills: share of examples whose first group is one picture, as a still's is.
        validation: how many clips of another series to judge by.
    """

    size: int = 64
    frames: int = 16
    stills: float = 0.1
    validation: int = 32

    def __post_init__(self) -> None:
        check_least(self, 1, "size", "frames", "validation")
        check_shares(self, "stills")


@dataclass(frozen=True)
class DVAELossConfig:
    """How the terms are weighed against the absolute difference of colours, which has 1.

    Args:
        root: the root of the mean squared difference of a clip, which is what PSNR measures.
        gradient: the absolute difference of their change from pixel to pixel.
        warp: the absolute difference of errors along the flow.
        seen: how differently captioners see both, if there are any.
        penalty: of the latent's mean and spread (fsq), or how far codes are from equally frequent
            (gumbel).
        rounded_from: share of training after which the latent is wholly rounded; until then the
            rounded part rises from 0.
    """

    root: float = 0.0
    gradient: float = 0.5
    warp: float = 0.25
    seen: float = 0.2
    penalty: float = 0.01
    rounded_from: float = 0.3

    def __post_init__(self) -> None:
        check_least(self, 0, "root", "gradient", "warp", "seen", "penalty")
        check_shares(self, "rounded_from")


# ------------------------------------------------------------------ examples


def draw_examples(
    source: Draw, seed: int, numbers: Iterable[int], config: DVAEDataConfig, group: int
) -> dict[str, Tensor]:
    """Return examples; each is a function of the seed and its number alone.

    Args:
        source: of clips.
        seed: which series.
        numbers: which of them.
        config: what an example is.
        group: how many frames make a token frame.

    Returns:
        ``video`` (B, T, 3, S, S) uint8, ``flow`` (B, T - 1, 2, S, S) from each frame to the next,
        ``known`` (B, T - 1, 1, S, S) bool, where it is valid and leads to what is visible,
        ``seeds`` (B,) int64, of the network's noise.
    """
    videos, flows, masks, seeds = [], [], [], []
    for number in numbers:
        clip = source(seed, number)
        video, flow, known = clip.video, clip.flow_12, clip.valid_12 & clip.visible_12
        random = seeding.generator(seed, number, 1)
        if float(torch.rand((), generator=random)) < config.stills:
            video, flow, known = _hold(video, flow, known, group)
        videos.append(video)
        flows.append(flow)
        masks.append(known)
        seeds.append(seeding.generator(seed, number, 2).initial_seed())
    return {
        "video": torch.stack(videos),
        "flow": torch.stack(flows),
        "known": torch.stack(masks),
        "seeds": torch.tensor(seeds),
    }


def _hold(video: Tensor, flow: Tensor, known: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Let the first group show its last frame throughout."""
    last = min(group, len(video)) - 1
    video, flow, known = video.clone(), flow.clone(), known.clone()
    video[:last] = video[last]
    flow[:last] = 0
    known[:last] = True
    return video, flow, known


# ------------------------------------------------------------------ losses


def dvae_losses(
    net: torch.nn.Module,
    batch: Mapping[str, Tensor],
    progress: float,
    config: DVAELossConfig,
    eyes: Sequence[Captioner] = (),
) -> dict[str, Tensor]:
    """Return the terms of a batch, each (B,), and their weighted sum as ``loss``.

    Args:
        net: the network.
        batch: as :func:`draw_examples` returns it.
        progress: share of training that is done, in [0, 1].
        config: weights and schedule.
        eyes: captioners that look at reconstructions.
    """
    assert isinstance(net, DVAE)
    original = batch["video"].float() / 255
    mix = min(1.0, progress / config.rounded_from) if config.rounded_from else 1.0
    made = net(original, mix, batch["seeds"])
    error = made.video - original
    terms = {
        "color": l1_loss(error),
        "root": rmse_loss(error),
        "gradient": gradient_error(error),
        "warp": warp_loss(error, batch["flow"], batch["known"]),
        "penalty": net.quantiser.penalty(made.latent),
    }
    if eyes:
        terms["seen"] = seen_loss(made.video, original, eyes)
    weighed = [getattr(config, name) * term for name, term in terms.items() if name != "color"]
    loss = terms["color"] + sum(weighed)
    return {"loss": loss, **terms, "square": error.detach().square().mean((1, 2, 3, 4))}


# ------------------------------------------------------------------ vectors of pixels


@torch.no_grad()
def fit_codebooks(net: DVAE, videos: Iterable[Tensor], points: int, rounds: int = 12) -> None:
    """Let the books of a residual quantiser be the middles of what they shall stand for.

    Of each video the places are drawn that count, as often as their colours are spread: an even
    ground needs few vectors. Deterministic, from no more than one pass over the videos.

    Args:
        net: whose quantiser is residual.
        videos: (B, T, 3, H, W) in [0, 1], T a multiple of the group's length.
        points: places to draw from each.
        rounds: of k-means.

    Raises:
        ValueError: there are fewer places than vectors.
    """
    assert isinstance(net.quantiser, Residual)
    drawn = []
    for number, video in enumerate(videos):
        places = net.encoder(video).permute(0, 2, 3, 1).flatten(0, 2).cpu()
        spread = places.unflatten(1, (-1, 3)).var(1).mean(1).sqrt() + _EVEN
        chosen = torch.multinomial(
            spread, min(points, len(places)), generator=seeding.generator(number)
        )
        drawn.append(places[chosen])
    chroma = net.quantiser.chroma
    rest = weigh_colors(torch.cat(drawn), chroma)
    for book in net.quantiser.books:
        middles = kmeans(rest, len(book), rounds)
        book.copy_(weigh_colors(middles, 1 / chroma))
        rest = rest - middles[nearest(rest, middles)]


_EVEN = 0.01  # spread that is added to that of places, so that even ones come too

# ------------------------------------------------------------------ the run


def presets(preset: Preset, start: DVAE | None = None) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, losses.

    Args:
        preset: how large the network is, and how long it trains.
        start: a network to go on from, which decides the first; its codes are rounded already.
    """
    configs = _presets(preset)
    if start is not None:
        configs["losses"] = replace(configs["losses"], rounded_from=0.0)
    return configs


def _presets(preset: Preset) -> dict[str, Any]:
    if preset == "tiny":  # minutes on a laptop
        return {
            "loop": loop.LoopConfig(
                steps=1500, batch_size=4, learning_rate=3e-3, ema=0.99, validate_every=250
            ),
            "model": TINY,
            "data": DVAEDataConfig(validation=8),
            "losses": DVAELossConfig(),
        }
    return {
        "loop": loop.LoopConfig(
            steps=60_000 if preset == "base" else 30_000,
            batch_size=4,
            learning_rate=2e-3,
            beta2=0.99,
            precision="bf16",
            validate_every=1000,
            samples_every=1000,
            workers=1,
        ),
        "model": BASE if preset == "base" else SMALL,
        "data": DVAEDataConfig(),
        # Vectors are found before the first step, and fixed.
        "losses": DVAELossConfig(rounded_from=0.0 if preset == "base" else 0.3),
    }


def dvae_task(
    source: Draw,
    configs: Mapping[str, Any],
    validation: Draw | None = None,
    start: DVAE | None = None,
    keep_codes: bool = False,
    eyes: Sequence[Captioner] = (),
) -> loop.Task:
    """Return what the loop needs to train a discrete VAE.

    Args:
        source: of clips of the size and length that ``configs["data"]`` says.
        configs: as :func:`presets` returns them.
        validation: another source to judge by; its clips come from another series in any case.
        start: a network to go on from; ``configs["model"]`` is its own.
        keep_codes: train only its decoder, so that what a transformer has learned of its codes
            stays true.
        eyes: captioners that shall see of reconstructions what they see of originals; on the device
            that training is to run on.

    Raises:
        ValueError: a size of an example does not fit the network, or a captioner.
    """
    training: loop.LoopConfig = configs["loop"]
    data: DVAEDataConfig = configs["data"]
    if start is not None:
        configs = {**configs, "model": start.config}
    model: DVAEConfig = configs["model"]
    losses: DVAELossConfig = configs["losses"]
    _check_sizes(model, data, eyes)
    for eye in eyes:
        eye.requires_grad_(False)
    torch.manual_seed(training.seed)
    net = DVAE(model)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_examples(source, training.seed, numbers, data, model.stride_time)

    def loss(net: torch.nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return dvae_losses(net, examples, step / training.steps, losses, eyes)

    def pixels(numbers: range) -> Tensor:
        # Numbers that training does not reach: it takes whatever the clip, not the first of them.
        return batch(range(_FAR + numbers.start, _FAR + numbers.stop))["video"].float() / 255

    def prepare() -> None:
        if isinstance(net.quantiser, Residual) and not net.quantiser.books.any():
            place = next(net.parameters()).device
            parts = (pixels(range(n, n + _AT_ONCE)).to(place) for n in range(0, _SORTED, _AT_ONCE))
            fit_codebooks(net, parts, _POINTS)

    if start is None:
        initialise_latent(net, pixels(range(_AT_ONCE)))
    else:
        net.load_state_dict(start.state_dict())
        for part in net.coding():
            part.requires_grad_(not keep_codes)
    moving = replace(data, stills=0.0)
    held_out = range(data.validation)
    series = seeding.held_out_series(training.seed)
    fixed = draw_examples(validation or source, series, held_out, moving, model.stride_time)[
        "video"
    ]

    def validate(net: torch.nn.Module) -> dict[str, float]:
        assert isinstance(net, DVAE)
        ratios, squares, codes = [], [], []
        for part in torch.split(fixed.to(next(net.parameters()).device), 4):
            original = part.float() / 255
            made = net(original)
            video = made.video.clamp(0, 1)
            ratios.append(psnr(video, original))
            squares.append((video - original).square().mean((1, 2, 3, 4)))
            codes.append(made.codes)
        use = code_use(torch.cat(codes), model.dimensions, model.digits)
        figures = {
            "psnr": float(torch.cat(ratios).clamp(max=_BEST).mean()),
            "square": float(torch.cat(squares).mean()),
            "codes_used": use.used,
            "codes_effective": use.effective,
        }
        if len(use.dimensions) > 1:
            figures |= {f"use{place}": value for place, value in enumerate(use.dimensions)}
        return figures

    def samples(net: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
        assert isinstance(net, DVAE)
        rows = []
        for clip in fixed[:_SHOWN].to(next(net.parameters()).device):
            original = clip[None].float() / 255
            rows += [original[0], net(original).video[0].clamp(0, 1)]
        yield "clips", video_sheet(rows, every=2)

    return loop.Task(
        data=fingerprint_of(source),
        name="dvae",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": model, "data": data, "losses": losses},
        validate=validate,
        metric="square",
        samples=samples,
        prepare=prepare,
        matrices=("encoder", "decoder"),
        trained=start is not None,
    )


_FAR = 10**12
_AT_ONCE = 8  # clips that a beginning is made from
_SORTED, _POINTS = 768, 2048  # clips whose places vectors are found of, and places of _AT_ONCE
_SHOWN = 4  # clips on a sheet, the original over the reconstruction
_BEST = 100.0  # dB; a reconstruction without any error must not make a mean infinite


def _check_sizes(model: DVAEConfig, data: DVAEDataConfig, eyes: Sequence[Captioner]) -> None:
    if data.size % model.stride:
        raise ValueError(f"size must be a multiple of {model.stride}, got {data.size}")
    if data.frames % model.stride_time:
        raise ValueError(f"frames must be a multiple of {model.stride_time}, got {data.frames}")
    check_eyes(eyes, data.size, data.frames)
