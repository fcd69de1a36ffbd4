"""What the reviser learns from: clips of which it is known how they look in other clothes.

An example is a clip that went through the real DVAE, as it was and in other clothes. What the
network is shown is a mixture: some of the codes of the one, some of the other's, and of what comes
of that a share as the transformer itself would write it there. It is told what the clip shows and
shall bring that back, of the actor alone: a ground that the transformer wrote is as good as any.

To make an example takes some eight times as long as to learn from it, so examples are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from flowwarp.data.frame_store import store_folder
from flowwarp.data.media import SKETCH, VIDEO
from flowwarp.data.sprite_world.counterparts import Counterparts, compose_counterparts
from flowwarp.data.sprite_world.labels import NONE, mirror
from flowwarp.data.sprite_world.layers import Layers
from flowwarp.legacy.models.captioner import Captioner
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.gpt import PATCH, SAMPLING
from flowwarp.legacy.models.reviser import Reviser, ReviserConfig
from flowwarp.legacy.pipelines.load import VideoModels
from flowwarp.legacy.pipelines.sequences import MediaGPT
from flowwarp.legacy.pipelines.tokens import tokenize, weight_bytes
from flowwarp.legacy.train.gpt import cells_of, kinds_ahead
from flowwarp.legacy.train.perceptual import check_eyes, seen_loss
from flowwarp.losses.reconstruction import coarse_error, gradient_error, l1_loss, texture_loss
from flowwarp.train import loop, seeding
from flowwarp.train.arrays import CAPTION, Kind, fill_arrays, pack_caption, unpack_caption
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.sheets import video_sheet

_VERSION = 1  # of what is kept; part of its key
_PROBED = 8  # pairs of clips whose content is part of the key
_AT_ONCE = 16  # clips of a validation side by side
_SHOWN = 6  # clips on a sheet: as shown, as revised, and as wanted
_REACH = 2  # px around the actor that are revised, too
_SQUARE, _WIDE = 4, 8  # px along a side of those whose mean colour, and strength of textures, count
_CHANGED = 0.15  # a pixel is not as wanted if a colour is further off than this
_WARM = 1.0  # temperature at which the transformer writes anew
_COARSEST, _FINEST = 4, 12  # patches along a side of what mixes two clips

DrawPair = Callable[[int], Counterparts]


@dataclass(frozen=True)
class ReviserDataConfig:
    """What an example is.

    Args:
        size: of the frames, pixels; what the VAE and the transformer are for.
        length: of a clip, in frames.
        clips: to learn from; they are kept on disk, 460 kB each.
        checked: other clips, to judge by.
        groups: of frames in a row that share codes, of a clip, for an example.
        mixed: share of clips that hold some codes of what they shall become.
        redrawn: share of clips some of whose patches are as the transformer would write them.
        most: of these patches at most this share.
        told: how often the network is told something that is right already.
        mirrored: share of examples with left and right exchanged.
        weapons: share of examples that are taken from the clips whose weapon may not be as shown,
            which are few; the others are taken from all.
    """

    size: int = 64
    length: int = 16
    clips: int = 10_000
    checked: int = 96
    groups: int = 2
    mixed: float = 0.6
    redrawn: float = 0.85
    most: float = 0.9
    told: float = 0.8
    mirrored: float = 0.5
    weapons: float = 0.0

    def __post_init__(self) -> None:
        check_least(self, 1, "size", "length", "clips", "checked", "groups")
        check_shares(self, "mixed", "redrawn", "most", "told", "mirrored", "weapons")


@dataclass(frozen=True)
class ReviserLossConfig:
    """How the terms are weighed against the difference of colours, which has 1.

    Args:
        gradient: the absolute difference of their change from pixel to pixel.
        actor: how much more a pixel counts where the actor is.
        smooth: differences of colour below this count by their square. Most of what is shown is
            right, so that by its absolute value alone the best first change is none.
        seen: how differently captioners see both, if there are any.
        coarse: the absolute difference of colours that are means over squares of 4 x 4 pixels.
            Which pixels are dark and which are light nobody can foretell; that the trousers are
            red, one can, and only half as red shall not pass for a compromise.
        changed: how much more a pixel counts where what is shown is not what is wanted. A dagger
            that is missing has some ten pixels: if all count the same, nothing is learned of it.
        texture: the absolute difference of how strong textures are, in squares of 8 x 8 pixels. All
            others are least for a mean of what may be wanted, and a mean is blurred.
    """

    gradient: float = 0.25
    actor: float = 6.0
    smooth: float = 0.1
    seen: float = 0.05
    coarse: float = 1.0
    changed: float = 0.0
    texture: float = 0.0

    def __post_init__(self) -> None:
        check_least(self, 0, "gradient", "actor", "smooth", "seen", "coarse", "changed", "texture")


# ------------------------------------------------------------------ examples


@dataclass(frozen=True)
class Pairs:
    """Clips and their counterparts, by number.

    Args:
        layers: what there is to wear.
        photos: what there is to stand before, see :func:`compose_clip`.
        seed: which series.
        data: their size and length.
        held_out: whether of combinations that training never sees, or of all others.
    """

    layers: Layers
    photos: Sequence[Tensor]
    seed: int
    data: ReviserDataConfig
    held_out: bool = False

    def __call__(self, number: int) -> Counterparts:
        """Return a clip of the series, and its counterpart."""
        size, length = self.data.size, self.data.length
        return compose_counterparts(
            self.layers,
            self.seed,
            number,
            size,
            length,
            photos=self.photos,
            held_out=self.held_out,
        )


@dataclass(frozen=True)
class Spoiler:
    """What makes of codes such as are right those that are shown.

    Args:
        dvae: whose codes they are.
        gpt: the transformer that writes them; it is told neither words nor a sketch.
        half: let autocast use bf16.
    """

    dvae: DVAE
    gpt: MediaGPT
    half: bool = False

    def __call__(
        self, pair: Counterparts, data: ReviserDataConfig, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return what is shown and what is wanted, (T, 3, S, S) in [0, 1] each.

        Args:
            pair: a clip, and another that it is mixed with.
            data: how much.
            generator: decides.
        """
        kind = next(self.dvae.parameters()).device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.half):  # it holds for one thread
            right, other = tokenize(self.dvae, pair.video), tokenize(self.dvae, pair.other)
            shown = self._redraw(_mix(right, other, data, generator), data, generator)
            decoded = self.dvae.decode(torch.stack([shown, right]).to(self._place))
        given, wanted = decoded.float().cpu().clamp(0, 1)
        actor = F.max_pool2d(pair.actor.float(), 1 + 2 * _REACH, 1, _REACH)
        return given, torch.where(actor > 0, wanted, given)

    @property
    def _place(self) -> torch.device:
        return next(self.dvae.parameters()).device

    def _redraw(self, codes: Tensor, data: ReviserDataConfig, generator: torch.Generator) -> Tensor:
        """Return codes (t, h, w), some patches of which are as the transformer would write them."""
        chance, share = torch.rand(2, generator=generator).tolist()
        if chance >= data.redrawn:
            return codes
        words = self.gpt.vocabulary
        tokens = words.segment(VIDEO, codes)
        cells = cells_of(tokens, words.number(VIDEO))
        chosen = cells & (torch.rand(len(cells), generator=generator) < data.most * share)
        ahead = kinds_ahead(tokens, words, None)[None] if words.knows(SKETCH) else None
        drawn = self.gpt.net.redraw(
            tokens.ids[None],
            tokens.places[None],
            words.all_choices(),
            words.later_digits(),
            chosen[None],
            torch.rand((1, len(tokens)), generator=generator),
            replace(SAMPLING, temperature=_WARM),
            ahead,
            tokens.near[None],
        )
        return words.read_grid(VIDEO, drawn[:, cells.repeat_interleave(PATCH)])[0]


def _mix(
    right: Tensor, other: Tensor, data: ReviserDataConfig, generator: torch.Generator
) -> Tensor:
    """Return codes of another clip with blots of those that are right."""
    chance, fine, share = torch.rand(3, generator=generator).tolist()
    if chance >= data.mixed:
        return other
    side = int(_COARSEST + (_FINEST - _COARSEST) * fine)
    blots = torch.randn(1, 1, len(right), side, side, generator=generator)
    blots = F.interpolate(blots, right.shape, mode="trilinear")[0, 0]
    return torch.where(blots < blots.flatten().quantile(share), right, other)


@final
class Revisions:
    """What is shown, what is wanted, and what is told of it, memory-mapped.

    Args:
        folder: made by :func:`keep_revisions`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("shown", "wanted", "actor", "told")
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}

    def __len__(self) -> int:
        return len(self._arrays["told"])

    @cached_property
    def rearmed(self) -> list[int]:
        """The clips whose weapon may not be as shown."""
        return [index for index in range(len(self)) if "weapon" in self.told(index)[1]]

    @property
    def frames(self) -> int:
        """Frames of each clip."""
        return int(self._arrays["shown"].shape[1])

    def told(self, index: int) -> tuple[dict[str, str], set[str]]:
        """Return the labels of a clip, and which of them may not be as shown."""
        labels, exchanged = json.loads(unpack_caption(self._arrays["told"][index]))
        return labels, set(exchanged)

    def video(self, name: str, index: int, part: slice) -> Tensor:
        """Return some frames of what is ``shown`` or ``wanted``, or of where the ``actor`` is."""
        return torch.from_numpy(np.array(self._arrays[name][index, part]))


def keep_revisions(
    draw: DrawPair,
    spoil: Spoiler,
    key: str,
    count: int,
    seed: int,
    data: ReviserDataConfig,
    *,
    cache: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Revisions:
    """Make what is learned from; a second call is free, and one that was stopped goes on.

    Args:
        draw: a pure function from the number of a clip to it and its counterpart.
        spoil: what makes of both what is shown.
        key: names what ``draw`` depends on, so far as the first clips do not tell.
        count: how many.
        seed: of what ``spoil`` draws.
        data: how much it spoils.
        cache: where to keep them. Default: as for footage.
        progress: called with (clips done, clips in all).

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process is at it.
    """
    spoils = data.mixed, data.redrawn, data.most, spoil.half
    digest = hashlib.sha256(repr((_VERSION, key, count, seed, spoils)).encode())
    for part in (*weight_bytes([spoil.dvae]), *weight_bytes([spoil.gpt.net])):
        digest.update(part)
    for number in range(min(_PROBED, count)):
        pair = draw(number)
        digest.update(pair.video.contiguous().numpy().data)
        digest.update(pair.other.contiguous().numpy().data)
    folder = store_folder(cache) / f"revisions-{digest.hexdigest()[:20]}"
    shape = (data.length, 3, data.size, data.size)
    rows: dict[str, Kind] = {
        "shown": (shape, np.uint8),
        "wanted": (shape, np.uint8),
        "actor": ((data.length, 1, *shape[2:]), np.bool_),
        "told": ((CAPTION,), np.uint8),
    }

    def make(number: int) -> dict[str, NDArray[Any]]:
        pair = draw(number)
        shown, wanted = spoil(pair, data, seeding.generator(seed, number))
        return {
            "shown": _to_bytes(shown),
            "wanted": _to_bytes(wanted),
            "actor": pair.actor.numpy(),
            "told": pack_caption(json.dumps([pair.labels, sorted(pair.exchanged)])),
        }

    problem = "another process makes these revisions"
    fill_arrays(folder, rows, count, make, problem=problem, progress=progress)
    return Revisions(folder)


def _to_bytes(video: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = video.mul(255).round().byte().numpy()
    return array


def draw_batch(
    revisions: Revisions,
    seed: int,
    numbers: Iterable[int],
    net: Reviser,
    data: ReviserDataConfig,
) -> dict[str, Tensor]:
    """Return examples, each a pure function of the seed and its number.

    Returns:
        ``shown`` and ``wanted`` (B, F, 3, S, S) uint8, ``actor`` (B, F, 1, S, S) bool, and ``told``
        (B, attributes) int64.
    """
    parts: dict[str, list[Tensor]] = {"shown": [], "wanted": [], "actor": []}
    told = []
    frames = net.config.frames
    for number in numbers:
        generator = seeding.generator(seed, number)
        index = seeding.shuffled(seed, number, len(revisions))
        if data.weapons and float(torch.rand((), generator=generator)) < data.weapons:
            armed = revisions.rearmed
            index = armed[seeding.shuffled(seed, number, len(armed))] if armed else index
        groups = revisions.frames // frames
        first = int(torch.randint(groups - data.groups + 1, (), generator=generator))
        mirrored = float(torch.rand((), generator=generator)) < data.mirrored
        labels, exchanged = revisions.told(index)
        part = slice(frames * first, frames * (first + data.groups))
        for name, videos in parts.items():
            video = revisions.video(name, index, part)
            videos.append(mirror(video, {})[0] if mirrored else video)
        if mirrored:
            labels = mirror(parts["shown"][-1], labels)[1]
        kept = torch.rand(len(labels), generator=generator) < data.told
        told.append(
            {
                name: value
                for (name, value), keep in zip(labels.items(), kept.tolist(), strict=True)
                if value != NONE and (keep or name in exchanged)
            }
        )
    return {name: torch.stack(videos) for name, videos in parts.items()} | {"told": net.tell(told)}


# ------------------------------------------------------------------ loss


def reviser_losses(
    net: Reviser,
    examples: Mapping[str, Tensor],
    config: ReviserLossConfig,
    eyes: Sequence[Captioner] = (),
) -> dict[str, Tensor]:
    """Return ``loss`` and ``actor``, the mean absolute error where the actor is, (B,) each.

    Args:
        net: the network.
        examples: as :func:`draw_batch` returns them.
        config: weights.
        eyes: captioners that look at what is revised, for which there is the term ``seen``.
    """
    shown, wanted = (examples[name].float() / 255 for name in ("shown", "wanted"))
    revised = net(shown, examples["told"])
    error = revised - wanted
    changed = (shown - wanted).abs().amax(2, keepdim=True) > _CHANGED
    weight = (1 + config.actor * examples["actor"]) * (1 + config.changed * changed)
    size = error.abs()
    if config.smooth:
        size = F.smooth_l1_loss(
            error, torch.zeros_like(error), reduction="none", beta=config.smooth
        )
    weighed = weight * error
    loss = l1_loss(weight * size) + config.gradient * gradient_error(weighed)
    loss = loss + config.coarse * coarse_error(weighed, _SQUARE)
    if config.texture:
        loss = loss + config.texture * texture_loss(revised, wanted, weight, _WIDE)
    terms = {"actor": _missed(error.detach(), examples["actor"])}
    if eyes:
        terms["seen"] = seen_loss(revised, wanted, eyes)
        loss = loss + config.seen * terms["seen"]
    return {"loss": loss, **terms}


# ------------------------------------------------------------------ the run


def presets(preset: Preset) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, losses.

    Which attributes there are is known of the clips.
    """
    tiny, base = preset == "tiny", preset == "base"
    return {
        "loop": loop.LoopConfig(
            steps=500 if tiny else 15_000 if base else 5000,
            batch_size=8 if tiny else 12,
            learning_rate=2e-3,
            warmup=60,
            weight_decay=0.01,
            beta2=0.99,
            muon=1.0,
            ema=0.99 if tiny else 0.998,
            precision="fp32" if tiny else "bf16",
            validate_every=100 if tiny else 500,
            workers=0 if tiny else 1,
        ),
        "model": ReviserConfig((), widths=(16, 32), blocks=(1, 1), embedding=32)
        if tiny
        else ReviserConfig(()),
        "data": ReviserDataConfig(clips=500 if tiny else 20_000 if base else 10_000),
        "losses": ReviserLossConfig(),
    }


def check_example(
    data: ReviserDataConfig,
    model: ReviserConfig,
    makers: VideoModels,
    eyes: Sequence[Captioner] = (),
) -> None:
    """Raise ValueError if clips are not as the transformer writes them, or no examples."""
    frames = makers.dvae.config.stride_time
    if model.frames != frames:
        raise ValueError(f"frames must be {frames}, as the VAE has it, got {model.frames}")
    for name, wanted in (("size", makers.small), ("length", makers.window)):
        if getattr(data, name) != wanted:
            problem = f"{name} must be {wanted}, as the transformer has it"
            raise ValueError(f"{problem}, got {getattr(data, name)}")
    if data.size % model.stride:
        raise ValueError(f"size must be a multiple of {model.stride}, got {data.size}")
    if frames * data.groups > data.length:
        raise ValueError(f"groups must be at most {data.length // frames}, got {data.groups}")
    check_eyes(eyes, data.size, frames * data.groups)


def reviser_task(
    revisions: Revisions,
    checks: Mapping[str, Revisions],
    configs: Mapping[str, Any],
    start: Reviser | None = None,
    eyes: Sequence[Captioner] = (),
) -> loop.Task:
    """Return what the loop needs to train a reviser.

    Args:
        revisions: to learn from.
        checks: others, by name; the first ones decide which weights are best.
        configs: as :func:`presets` returns them, with attributes.
        start: a network to go on from; ``configs["model"]`` is its own.
        eyes: captioners that shall see of what is revised what they see of what is wanted; on the
            device that training is to run on.

    Raises:
        ValueError: there is nothing to judge by.
    """
    if not checks:
        raise ValueError("checks must hold some clips")
    training: loop.LoopConfig = configs["loop"]
    data: ReviserDataConfig = configs["data"]
    losses: ReviserLossConfig = configs["losses"]
    model: ReviserConfig = configs["model"] if start is None else start.config
    for eye in eyes:
        eye.requires_grad_(False)
    torch.manual_seed(training.seed)
    net = Reviser(model)
    if start is not None:
        net.load_state_dict(start.state_dict())
    whole = replace(data, groups=data.length // model.frames, mirrored=0.0, weapons=0.0)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(revisions, training.seed, numbers, net, data)

    def loss(net: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return reviser_losses(_own(net), examples, losses, eyes)

    def validate(net: nn.Module) -> dict[str, float]:
        def one(other: Revisions) -> dict[str, float]:
            return measure(_own(net), other, training.seed, whole, losses, eyes)

        return loop.measure_each(checks, one)

    def samples(net: nn.Module) -> Iterable[tuple[str, Tensor]]:
        own = next(iter(checks.values()))
        shown = draw_batch(own, training.seed, range(min(_SHOWN, len(own))), _own(net), whole)
        given = shown["shown"].to(shown["told"].device).float() / 255
        revised = _own(net)(given, shown["told"]).clamp(0, 1).cpu()
        rows = zip(given.cpu(), revised, shown["wanted"].float() / 255, strict=True)
        yield "clips", video_sheet([row for three in rows for row in three], every=2)

    return loop.Task(
        data=revisions.folder.name,
        name="reviser",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": model, "data": data, "losses": losses},
        validate=validate,
        metric="loss",
        samples=samples,
        matrices=("stem", "down", "up", "shrink", "grow", "join"),
        trained=start is not None,
    )


def measure(
    net: Reviser,
    revisions: Revisions,
    seed: int,
    data: ReviserDataConfig,
    losses: ReviserLossConfig,
    eyes: Sequence[Captioner] = (),
) -> dict[str, float]:
    """Return the mean terms of the loss over all clips, and ``before``, ``actor`` unrevised."""
    device = next(net.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(revisions), _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, len(revisions)))
        drawn = draw_batch(revisions, seed, numbers, net, data)
        drawn = {name: value.to(device) for name, value in drawn.items()}
        error = (drawn["shown"].float() - drawn["wanted"].float()) / 255
        found = reviser_losses(net, drawn, losses, eyes)
        found["before"] = _missed(error, drawn["actor"])
        for key, values in found.items():
            parts.setdefault(key, []).append(values.cpu())
    return {key: float(torch.cat(values).mean()) for key, values in parts.items()}


def _missed(error: Tensor, actor: Tensor) -> Tensor:
    """Return the mean absolute error (B,) where the actor is."""
    missed = (actor * error.abs()).sum((1, 2, 3, 4))
    return missed / (error.shape[2] * actor.sum((1, 2, 3, 4))).clamp_min(1)


def _own(net: nn.Module) -> Reviser:
    assert isinstance(net, Reviser)
    return net
