"""The trainer of the flow network: its examples, the schedule of its loss, presets, the task.

An example is a pair of frames without labels. The loss (:mod:`flowwarp.losses.unsupervised`) is
census, edge-aware smoothness, and self-supervision by crops, in which the flow of the whole frame
teaches that of a smaller view. Once flow is good enough to find occluded pixels, these are left
out. The smaller view also has other colours, which do not change the motion (ARFlow, Liu et al.,
CVPR 2020). Pairs to which flow was fitted beforehand (:mod:`flowwarp.train.fitted_pairs`) add a
term that also finds large motion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from flowwarp.data.augment import (
    Appearance,
    Geometry,
    change_appearance,
    crop_flow,
    crop_image,
    crop_mask,
    random_geometry,
)
from flowwarp.data.frame_store import FrameStore
from flowwarp.data.recipes import GroundTruth
from flowwarp.data.synthesis import synthesize_pair
from flowwarp.losses.unsupervised import Occlusion, crop_margin, flow_losses
from flowwarp.metrics.flow import epe
from flowwarp.models.flownet import FLOW_LEVEL, SMALL, TINY, FlowNet, FlowNetConfig
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_flow
from flowwarp.train import loop, seeding
from flowwarp.train.fitted_pairs import FittedPairs, fit_pairs
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.colors import flow_to_image
from flowwarp.viz.overlay import side_by_side

# Kinds of `held_out_series`; 0 is the validation set. Fitted pairs are trained on, but are never
# pairs of another series.
_TRUTHS, _FITTED = 1, 2


@dataclass(frozen=True)
class FlowDataConfig:
    """The size of an example, and the shares of each kind of example.

    Args:
        height: pixels that the network sees, a multiple of its stride.
        width: likewise.
        margin: pixels kept around the crop on each side, so that flow may lead out of it
            (full-image warping).
        moving_photos: share of examples made from photos, if there are both photos and footage.
        fitted_pairs: pairs to fit flow to before training; 0 for none.
        fitted_share: share of examples that are drawn from these pairs.
        longest: longest side of footage in pixels; larger frames are scaled down.
        max_bytes: limit for prepared footage on disk.
    """

    height: int = 256
    width: int = 320
    margin: int = 32
    moving_photos: float = 0.7
    fitted_pairs: int = 0
    fitted_share: float = 0.8
    longest: int = 640
    max_bytes: int = 32 * 2**30

    def __post_init__(self) -> None:
        check_least(self, 1, "height", "width", "longest", "max_bytes")
        check_least(self, 0, "margin", "fitted_pairs")
        check_shares(self, "moving_photos", "fitted_share")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an example with the margin around."""
        return self.height + 2 * self.margin, self.width + 2 * self.margin

    @property
    def fitted_size(self) -> tuple[int, int]:
        """(height, width) of pairs to fit flow to.

        These are 64 more, to crop from, and even, as flow is fitted at half the size.
        """
        height, width = (side + 64 + side % 2 for side in self.size)
        return height, width


@dataclass(frozen=True)
class Material:
    """The sources of examples.

    Args:
        pairs: windows of 2 frames, 3 with ``velocity``.
        photos: photos to set in motion, (3, H, W) uint8 each.
        fitted: pairs with the flow fitted to them.
    """

    pairs: FrameStore | None
    photos: Sequence[Tensor]
    fitted: FittedPairs | None = None


APPEARANCE = Appearance(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, gamma=0.2)
STUDENT = Appearance(blur_share=0.5)  # in addition, for the student's view


def draw_batch(
    material: Material,
    seed: int,
    numbers: Iterable[int],
    config: FlowDataConfig,
    *,
    students: bool = False,
) -> dict[str, Tensor]:
    """Return some examples, each a pure function of the seed and its number.

    A run thus resumes at any step without a saved generator state. The exact flow of synthetic
    pairs is discarded.

    Args:
        material: the frames, photos and fitted pairs to draw from.
        seed: seed of the training.
        numbers: numbers of the examples.
        config: their size, and the shares of their kinds.
        students: whether to add the views of self-supervision.

    Returns:
        ``image1`` and ``image2``, (B, 3, H, W) with the margin around. If footage comes as
        triplets, ``image0``, the frame before; NaN for photos. With ``students``, ``student1`` and
        ``student2``, both frames without the margin in another appearance. With fitted pairs,
        ``flow_12`` and ``flow_21``, (B, 2, H, W), NaN where unknown.
    """
    examples = [_draw(material, seed, number, config, students) for number in numbers]
    return {name: torch.cat([example[name] for example in examples]) for name in examples[0]}


def _draw(
    material: Material, seed: int, number: int, config: FlowDataConfig, students: bool
) -> dict[str, Tensor]:
    # Not the stream of `_draw_frames`: the first number of that one decides between photo and
    # footage, and would be correlated with the choice here.
    generator = seeding.generator(seed, number, 1)
    fitted, before = material.fitted, None
    if fitted is not None and float(torch.rand((), generator=generator)) < config.fitted_share:
        index = int(torch.randint(len(fitted), (), generator=generator))
        frame1, frame2, flows = _crop_fitted(*fitted[index], config.size, generator)
    else:
        frame1, frame2, before = _draw_frames(
            material, seed, number, config.size, config.moving_photos
        )
        flows = torch.full((2, 2, *config.size), torch.nan)
    frames = [frame1, frame2] if before is None else [frame1, frame2, before]
    image1, image2, *image0 = change_appearance(frames, generator, APPEARANCE)
    example = {"image1": image1, "image2": image2}
    if material.pairs is not None and material.pairs.frames == 3:
        example["image0"] = image0[0] if image0 else torch.full_like(image1, torch.nan)
    if students:
        crops = [crop_margin(image, config.margin) for image in (image1, image2)]
        example["student1"], example["student2"] = change_appearance(crops, generator, STUDENT)
    return example if fitted is None else example | {"flow_12": flows[:1], "flow_21": flows[1:]}


def _crop_fitted(
    frames: Tensor, flows: Tensor, size: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut an example from a fitted pair, zoomed, turned and mirrored at random.

    Args:
        frames: (2, 3, H, W) uint8.
        flows: (2, 2, H / 2, W / 2), forward and backward, in pixels of that size.
        size: (height, width) of the example.
        generator: of the random geometry.

    Returns:
        Both frames, (1, 3, *size) in [0, 1], and both flows, (2, 2, *size), NaN where unknown.
    """
    geometry = random_geometry(
        1,
        (frames.shape[-2], frames.shape[-1]),
        size,
        generator,
        zoom=(0.9, 1.4),
        rotate=12,
        flip=(0.5, 0.1),
    )
    frame1, frame2 = (crop_image(frame[None].float() / 255, geometry) for frame in frames)
    halves = _at_half_size(geometry, 2)
    known = crop_mask(flows.isfinite().all(1, keepdim=True), halves)
    # Interpolation with an unknown pixel is unknown: NaN stays NaN.
    return frame1, frame2, torch.where(known, crop_flow(flows, halves), torch.nan)


def fit_material(
    material: Material,
    seed: int,
    config: FlowDataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Material:
    """Add ``config.fitted_pairs`` pairs with flow fitted to them, cached on disk.

    Args:
        material: the pairs and photos that they are drawn from.
        seed: seed of the training; these pairs are a series of their own.
        config: how many, and their size.
        progress: called with (pairs done, pairs in all).

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process fits them.
    """
    if not config.fitted_pairs:
        return material
    series = seeding.held_out_series(seed, _FITTED)
    fitted = fit_pairs(
        lambda number: _draw_frames(
            material, series, number, config.fitted_size, config.moving_photos
        )[:2],
        repr((seed, config.moving_photos, _footage(material), _digest(material.photos))),
        config.fitted_pairs,
        config.fitted_size,
        progress=progress,
    )
    return replace(material, fitted=fitted)


def _footage(material: Material) -> str:
    return material.pairs.folder.name if material.pairs else ""


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _draw_frames(
    material: Material, seed: int, number: int, size: tuple[int, int], moving_photos: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw two frames, (1, 3, H, W) each, from footage or from a photo set in motion.

    The third result is the frame before both, if footage comes as triplets.
    """
    generator = seeding.generator(seed, number)
    photo = float(torch.rand((), generator=generator)) < moving_photos
    if material.photos and (photo or not material.pairs):
        pair = synthesize_pair(material.photos, seed, number, size)
        return pair.image1[None], pair.image2[None], None
    assert material.pairs is not None
    index = int(torch.randint(len(material.pairs), (), generator=generator))
    frames = [frame[None].float() / 255 for frame in material.pairs[index]]
    if float(torch.rand((), generator=generator)) < 0.5:
        # Reversed in time, footage is as good an example.
        frames.reverse()
    # At least as large as the example, at most 1.3 times that: crops show parts of a frame.
    source = (frames[0].shape[-2], frames[0].shape[-1])
    least = max(1.0, size[0] / source[0], size[1] / source[1])
    geometry = random_geometry(
        1, source, size, generator, zoom=(least, 1.3 * least), flip=(0.5, 0.1)
    )
    *before, frame1, frame2 = (crop_image(frame, geometry) for frame in frames)
    return frame1, frame2, before[0] if before else None


def _at_half_size(geometry: Geometry, batch: int) -> Geometry:
    """Return the geometry that cuts the same crops, at full size, from maps of half the size."""
    matrix = geometry.matrix / 2
    matrix[:, :, 2] -= 0.25  # pixel centres are integers: x_half = (x + 0.5) / 2 - 0.5
    return Geometry(matrix.expand(batch, -1, -1), geometry.size)


@dataclass(frozen=True)
class FlowLossConfig:
    """Weights of the loss's terms, and when they join; a share of training is in [0, 1].

    Args:
        smoothness: weight of the first-order term; census has 1.
        levels: weight of census at the coarser levels, which finds large motions early.
        fitted: weight of the distance to fitted flow in pixels, where there is any.
        self_supervision: weight of the distance to the flow of the whole frame.
        occlusion_from: share of training after which occluded pixels are left out.
        self_supervision_from: share of training after which self-supervision joins.
        student_margin: pixels cut off each side of the view that the student sees.
        velocity: weight of constant velocity: penalises a change of motion where a pixel is visible
            in the previous frame but occluded in the next; needs three frames in a row.
        coarse_until: share of training during which the network's finest level is left out. Such
            steps take less than half the time, and teach the finest level too, since all levels
            share their decoder.
        charbonnier: weight of the difference in colour; see :mod:`flowwarp.losses.photometric`.
        ssim: weight of the difference in local structure.
        gradient: weight of the difference in derivatives.
        smoothness_second: weight of the second-order term, which leaves slanted motion free.
    """

    smoothness: float = 0.3
    levels: float = 0.2
    self_supervision: float = 0.1
    occlusion_from: float = 0.15
    self_supervision_from: float = 0.4
    student_margin: int = 32
    fitted: float = 0.2
    velocity: float = 0.0
    coarse_until: float = 0.0
    charbonnier: float = 0.0
    ssim: float = 0.0
    gradient: float = 0.0
    smoothness_second: float = 0.0

    def __post_init__(self) -> None:
        times = "occlusion_from", "self_supervision_from", "coarse_until"
        check_shares(self, *times)
        check_least(self, 0, *(item.name for item in fields(self) if item.name not in times))

    def weights(self, progress: float) -> dict[str, float]:
        """Return the weight of each term when a share of the training is done, in [0, 1]."""
        return {
            "census": 1.0,
            "smoothness": self.smoothness,
            "charbonnier": self.charbonnier,
            "ssim": self.ssim,
            "gradient": self.gradient,
            "smoothness_second": self.smoothness_second,
            "levels": self.levels,
            "fitted": self.fitted,
            "velocity": self.velocity,
            "self_supervision": self.self_supervision if self.has_students(progress) else 0.0,
        }

    def has_students(self, progress: float) -> bool:
        """Whether self-supervision has joined."""
        return self.self_supervision > 0 and progress >= self.self_supervision_from

    def occlusion(self, progress: float) -> Occlusion:
        """Return how occluded pixels are detected when a share of the training is done."""
        if progress < self.occlusion_from:
            return "none"
        # At first forward and backward flow disagree nearly everywhere, visible or not.
        return "range" if progress < self.self_supervision_from else "consistency"


# ------------------------------------------------------------------ the run


def presets(preset: Preset, start: FlowNet | None = None) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, losses.

    ``small`` and ``base`` are the recipes of the weights in the package.

    Args:
        preset: how large the network is, and how long it trains.
        start: a trained network to start from. It decides the model; the run is short, at a low
            rate, with all levels from the first step; examples are as large as its stride needs.
    """
    configs = _presets(preset)
    if start is None:
        return configs
    stride, data = start.config.stride, configs["data"]
    return {
        "loop": replace(configs["loop"], steps=500, learning_rate=1e-4, validate_every=100),
        "model": start.config,
        "data": replace(
            data,
            height=data.height + -data.height % stride,
            width=data.width + -data.width % stride,
            fitted_pairs=min(data.fitted_pairs, 500),
        ),
        "losses": replace(configs["losses"], coarse_until=0.0),
    }


def _presets(preset: Preset) -> dict[str, Any]:
    if preset == "tiny":  # minutes on a laptop
        return {
            "loop": loop.LoopConfig(
                steps=1500, batch_size=4, learning_rate=1e-3, ema=0.99, validate_every=250
            ),
            "model": TINY,
            "data": FlowDataConfig(height=128, width=160, margin=16, fitted_pairs=256),
            "losses": FlowLossConfig(student_margin=16),
        }
    training = loop.LoopConfig(steps=11_200, batch_size=4, precision="bf16", workers=1)
    if preset == "small":  # a smaller network tolerates a higher rate
        training = replace(training, steps=3000, learning_rate=8e-4, ema=0.995)
    return {
        "loop": training,
        "model": SMALL if preset == "small" else FlowNetConfig(),
        "data": FlowDataConfig(fitted_pairs=1000 if preset == "small" else 3000),
        # Fitted flow already covers motion out of the view, so self-supervision adds nothing.
        "losses": FlowLossConfig(self_supervision=0, coarse_until=0.4),
    }


def flow_task(
    material: Material,
    configs: Mapping[str, Any],
    truths: Sequence[GroundTruth] = (),
    start: FlowNet | None = None,
    fit_progress: Callable[[int, int], None] | None = None,
) -> loop.Task:
    """Return the task that trains a flow network: network, examples, loss, validation.

    Args:
        material: the frames and photos that examples are made of.
        configs: as :func:`presets` returns them.
        truths: pairs with known flow for validation. Without any, the loss on held-out examples is
            the metric.
        start: a network to start from; its configuration replaces ``configs["model"]``.
        fit_progress: called with (pairs done, pairs in all) while flow is fitted, which is before
            the first step.

    Raises:
        ValueError: the size of an example does not fit the network.
    """
    if start is not None:
        configs = {**configs, "model": start.config}
    training, data = configs["loop"], configs["data"]
    losses: FlowLossConfig = configs["losses"]
    check_sizes(configs["model"], data, losses)
    examples = _with_triplets(material) if losses.velocity else material
    torch.manual_seed(training.seed)
    net = FlowNet(configs["model"])
    if start is not None:
        net.load_state_dict(start.state_dict())

    def prepare() -> None:
        nonlocal examples
        fitted = fit_material(material, training.seed, data, fit_progress).fitted
        examples = replace(examples, fitted=fitted)

    def batch(numbers: range) -> dict[str, Tensor]:
        step = numbers.start // training.batch_size
        progress = step / training.steps
        students = losses.has_students(progress)
        return draw_batch(examples, training.seed, numbers, data, students=students)

    def loss(model: nn.Module, drawn: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        progress = step / training.steps
        return flow_losses(
            model,
            drawn,
            losses.weights(progress),
            margin=data.margin,
            occlusion=losses.occlusion(progress),
            skip=int(progress < losses.coarse_until),  # 1: without the finest level
            student_margin=losses.student_margin,
        )

    series = seeding.held_out_series(training.seed)
    held_out = draw_batch(replace(examples, fitted=None), series, range(4), data)
    pair = {name: held_out[name] for name in ("image1", "image2")}

    def validate(model: nn.Module) -> dict[str, float]:
        figures = _held_out_losses(model, pair, data, losses)
        return figures | ({"epe": _mean_epe(model, truths)} if truths else {})

    truth_tensors = (part for truth in truths for part in (truth.flow_12, truth.valid))
    return loop.Task(
        data=f"{_footage(examples)} {_digest((*examples.photos, *truth_tensors))[:12]}".strip(),
        name="flownet",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data, "losses": losses},
        validate=validate,
        metric="epe" if truths else "loss",
        samples=lambda model: _samples(model, pair, data.margin),
        prepare=prepare,
        trained=start is not None,
    )


def _with_triplets(material: Material) -> Material:
    """Return the material with three frames in a row for each pair, as ``velocity`` needs.

    Raises:
        ValueError: there is no such footage.
    """
    triplets = material.pairs.windows(3) if material.pairs else None
    if not triplets:
        raise ValueError("velocity needs footage with three frames in a row")
    return replace(material, pairs=triplets)


def _held_out_losses(
    model: nn.Module, pair: Mapping[str, Tensor], data: FlowDataConfig, losses: FlowLossConfig
) -> dict[str, float]:
    """Return the mean of each term on held-out pairs, with all levels, as at the first step."""
    device = next(model.parameters()).device
    terms = flow_losses(
        model,
        {name: image.to(device) for name, image in pair.items()},
        losses.weights(0.0),
        margin=data.margin,
        occlusion=losses.occlusion(0.0),
        student_margin=losses.student_margin,
    )
    return {name: float(value.mean()) for name, value in terms.items()}


def _mean_epe(model: nn.Module, truths: Sequence[GroundTruth]) -> float:
    """Return the mean over pairs of the end-point error in pixels, where flow is known."""
    assert isinstance(model, FlowNet)
    device = next(model.parameters()).device
    errors = []
    for truth in truths:
        flow = estimate_flow(model, truth.image1.to(device), truth.image2.to(device), "fast")
        errors.append(float(epe(flow.cpu(), truth.flow_12, valid=truth.valid)))
    return sum(errors) / len(errors)


def _samples(
    model: nn.Module, pair: Mapping[str, Tensor], margin: int
) -> Iterable[tuple[str, Tensor]]:
    """Yield for each held-out pair: frame 1, frame 2, flow in colour, frame 2 warped."""
    device = next(model.parameters()).device
    for number in range(len(pair["image1"])):
        image1, image2 = (
            crop_margin(pair[name][number : number + 1], margin) for name in ("image1", "image2")
        )
        flow = model(image1.to(device), image2.to(device))[0].flow.cpu()
        row = [image1, image2, flow_to_image(flow), warp(image2, flow)]
        yield f"flow{number}", side_by_side(row)[0]


def synthetic_truths(
    photos: Sequence[Tensor], seed: int, count: int, size: tuple[int, int]
) -> list[GroundTruth]:
    """Return pairs made from photos, whose flow is known; training never draws them."""
    series = seeding.held_out_series(seed, _TRUTHS)
    pairs = [synthesize_pair(photos, series, number, size) for number in range(count)]
    return [
        GroundTruth(
            pair.image1[None],
            pair.image2[None],
            pair.flow_12[None],
            torch.ones_like(pair.visible[None]),
            pair.visible[None],
        )
        for pair in pairs
    ]


def check_sizes(model: FlowNetConfig, data: FlowDataConfig, losses: FlowLossConfig) -> None:
    """Refuse sizes that do not fit each other, as :func:`flow_task` does, before slow work.

    Raises:
        ValueError: the size of an example does not fit the network or the losses.
    """
    for name in ("height", "width"):
        side = getattr(data, name)
        if side % model.stride:
            raise ValueError(
                f"data.{name} must be a multiple of {model.stride}, as the network halves it "
                f"{len(model.widths)} times, got {side}"
            )
        if side <= 2 * losses.student_margin:
            raise ValueError(f"student_margin leaves nothing of a {name} of {side}")
    if losses.coarse_until and len(model.widths) <= FLOW_LEVEL + 1:
        raise ValueError(f"coarse_until needs {FLOW_LEVEL + 2} or more model.widths")
