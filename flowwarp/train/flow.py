"""What the flow network learns from: pairs of frames without labels, and the terms it is judged by.

The scheme is UFlow's (Jonschkowski et al., "What Matters in Unsupervised Optical Flow", ECCV 2020)
with SMURF's full-image warping (Stone et al., CVPR 2021): census, edge-aware smoothness, pixels
that are occluded left out once flow is good enough to tell them, and self-supervision by crops, in
which the flow of the whole frame teaches the network what leaves a smaller view. That view
has other colours, too, which do not change how things move (ARFlow, Liu et al., CVPR 2020). Pairs
to which flow was fitted beforehand (:mod:`flowwarp.train.fitted`) add a term that is not local.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
from flowwarp.losses.photometric import (
    census_loss,
    charbonnier_loss,
    gradient_loss,
    masked_charbonnier,
    ssim_loss,
    warp_crop,
)
from flowwarp.losses.smoothness import constant_velocity, smoothness_first, smoothness_second
from flowwarp.metrics.flow import epe
from flowwarp.models.flownet import FINEST, SMALL, TINY, FlowNet, FlowNetConfig, FlowPyramid
from flowwarp.ops.fields import split_known
from flowwarp.ops.occlusion import visible_by_consistency, visible_by_range
from flowwarp.ops.warping import warp
from flowwarp.pipelines.flow.estimate import estimate_flow
from flowwarp.train import loop, numbering
from flowwarp.train.fitted import FittedPairs, fit_pairs
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.colors import flow_to_image
from flowwarp.viz.overlay import side_by_side

_TRUTHS, _FITTED = 1, 2  # kinds of what is held out; 0 is what validation sees


@dataclass(frozen=True)
class FlowDataConfig:
    """What an example is.

    Args:
        height: of what the network sees, a multiple of its stride.
        width: likewise.
        margin: how far the frame that is warped reaches beyond on each side.
        moving_photos: share of examples made from photos, where there are photos and footage.
        fitted_pairs: pairs to fit flow to before training; 0 for none.
        fitted_share: share of examples that are drawn from these.
        longest: larger frames of footage are made smaller until no side is longer.
        max_bytes: how large prepared footage may become on disk.
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
        """(height, width) of the pairs that flow is fitted to: room to cut examples from."""
        height, width = (side + 64 + side % 2 for side in self.size)
        return height, width


@dataclass(frozen=True)
class Material:
    """Where examples come from: pairs of frames, and photos that are set in motion."""

    pairs: FrameStore | None
    photos: Sequence[Tensor]
    fitted: FittedPairs | None = None


APPEARANCE = Appearance(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, gamma=0.2)
STUDENT = Appearance(blur_share=0.5)  # on top, of what self-supervision shows


def draw_batch(
    material: Material,
    seed: int,
    numbers: Iterable[int],
    config: FlowDataConfig,
    *,
    students: bool = False,
) -> dict[str, Tensor]:
    """Return both frames of some examples, (B, 3, H, W) each with the margin around.

    Where footage comes as triplets, there is ``image0`` too, the frame before; NaN of photos. With
    ``students``, ``student1`` and ``student2`` are both frames without the margin, in another
    appearance.

    An example is a pure function of the seed and its number, so that a run can be resumed anywhere
    without the state of any generator. Motion that is known, of photos, is thrown away; what was
    fitted comes as ``flow_12`` and ``flow_21``, (B, 2, H, W), NaN where nothing is known.
    """
    examples = [_draw(material, seed, number, config, students) for number in numbers]
    return {name: torch.cat([example[name] for example in examples]) for name in examples[0]}


def _draw(
    material: Material, seed: int, number: int, config: FlowDataConfig, students: bool
) -> dict[str, Tensor]:
    # Another stream than that of the frames, or few that are not fitted would be of photos.
    generator = numbering.generator(seed, number, 1)
    fitted = material.fitted
    if fitted is None or float(torch.rand((), generator=generator)) >= config.fitted_share:
        frame1, frame2, before = _draw_frames(
            material, seed, number, config.size, config.moving_photos
        )
        flows = torch.full((2, 2, *config.size), torch.nan)
    else:
        index = int(torch.randint(len(fitted), (), generator=generator))
        both, flows = fitted[index]
        geometry = random_geometry(
            1,
            (both.shape[-2], both.shape[-1]),
            config.size,
            generator,
            zoom=(0.9, 1.4),
            rotate=12,
            flip=(0.5, 0.1),
        )
        frame1, frame2 = (crop_image(one[None].float() / 255, geometry) for one in both)
        before = None
        halves = _of_half(geometry, 2)
        known = crop_mask(flows.isfinite().all(1, keepdim=True), halves)
        # Where one of the pixels that are mixed is unknown, so is the sum: NaN stays NaN.
        flows = torch.where(known, crop_flow(flows, halves), torch.nan)
    frames = [frame1, frame2] if before is None else [frame1, frame2, before]
    image1, image2, *image0 = change_appearance(frames, generator, APPEARANCE)
    example = {"image1": image1, "image2": image2}
    if material.pairs is not None and material.pairs.frames == 3:
        example["image0"] = image0[0] if image0 else torch.full_like(image1, torch.nan)
    if students:
        crops = [_crop(image, config.margin) for image in (image1, image2)]
        example["student1"], example["student2"] = change_appearance(crops, generator, STUDENT)
    return example if fitted is None else example | {"flow_12": flows[:1], "flow_21": flows[1:]}


def fit_material(
    material: Material,
    seed: int,
    config: FlowDataConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Material:
    """Add ``config.fitted_pairs`` pairs with flow fitted to them, made once and kept on disk.

    Args:
        material: pairs and photos, of which they are drawn.
        seed: of the training; theirs is a series of its own.
        config: how many, and of which size.
        progress: called with (pairs done, pairs in all).

    Raises:
        OutputError: the cache cannot be written.
        Locked: another process fits them.
    """
    if not config.fitted_pairs:
        return material
    series = numbering.held_out_series(seed, _FITTED)
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
    """Draw two frames, (1, 3, H, W) each, from footage or of a photo in motion.

    Of triplets, the frame before both of them comes third.
    """
    generator = numbering.generator(seed, number)
    photo = float(torch.rand((), generator=generator)) < moving_photos
    if material.photos and (photo or not material.pairs):
        pair = synthesize_pair(material.photos, seed, number, size)
        return pair.image1[None], pair.image2[None], None
    assert material.pairs is not None
    index = int(torch.randint(len(material.pairs), (), generator=generator))
    frames = [frame[None].float() / 255 for frame in material.pairs[index]]
    if float(torch.rand((), generator=generator)) < 0.5:  # time runs both ways
        frames.reverse()
    source = (frames[0].shape[-2], frames[0].shape[-1])
    least = max(1.0, size[0] / source[0], size[1] / source[1])
    geometry = random_geometry(
        1, source, size, generator, zoom=(least, 1.3 * least), flip=(0.5, 0.1)
    )
    *before, frame1, frame2 = (crop_image(frame, geometry) for frame in frames)
    return frame1, frame2, before[0] if before else None


def _of_half(geometry: Geometry, batch: int) -> Geometry:
    """Return the same crops of what has half the resolution, whose flow it makes whole."""
    matrix = geometry.matrix / 2
    matrix[:, :, 2] -= 0.25  # pixel centres: x of the half is (x + 0.5) / 2 - 0.5
    return Geometry(matrix.expand(batch, -1, -1), geometry.size)


@dataclass(frozen=True)
class FlowLossConfig:
    """How the terms are weighed, and when they join.

    Args:
        smoothness: weight of the first-order term; census has 1.
        levels: weight of census at the coarser levels, which finds large motions early.
        fitted: weight of the distance to fitted flow, in pixels, where there is any.
        self_supervision: weight of the distance to the flow of the whole frame.
        occlusion_from: share of training after which occluded pixels are left out.
        self_supervision_from: share of training after which self-supervision joins.
        student_margin: pixels cut from each side of the view that the student sees.
        velocity: weight of how motion changes in time, where the next frame hides what the one
            before shows; needs footage of three frames.
        coarse_until: share of training before which the network's finest level is left out: steps
            take less than half the time, and the levels share their decoder.
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


Net = Callable[..., tuple[FlowPyramid, FlowPyramid]]


def flow_losses(
    net: Net,
    full1: Tensor,
    full2: Tensor,
    margin: int,
    progress: float,
    config: FlowLossConfig,
    fitted: tuple[Tensor, Tensor] | None = None,
    full0: Tensor | None = None,
    students: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the terms of a batch, each (B,), and their weighted sum as ``loss``.

    Args:
        net: the network.
        full1: (B, 3, H + 2 * margin, W + 2 * margin), first frames.
        full2: likewise, second frames.
        margin: what is around the crop that the network sees.
        progress: share of training that is done, in [0, 1].
        config: weights and schedule.
        fitted: forward and backward flow of the full frames, NaN where unknown.
        full0: the frames before the first ones, NaN where there is none.
        students: both crops as self-supervision shows them, (B, 3, H, W); without, as they are.
    """
    crop1, crop2 = _crop(full1, margin), _crop(full2, margin)
    forward, backward = net(crop1, crop2, skip=int(progress < config.coarse_until))
    occlusion = progress >= config.occlusion_from
    seen = _visible(forward.flow, backward.flow, progress, config) if occlusion else (None, None)
    ahead = _compare(crop1, full2, forward, seen[0], margin, config)
    behind = _compare(crop2, full1, backward, seen[1], margin, config)
    terms = {name: 0.5 * (ahead[name] + behind[name]) for name in ahead}
    terms["levels"] = 0.5 * (_levels(crop1, crop2, forward) + _levels(crop2, crop1, backward))
    if fitted is not None:
        there, back = (_crop(flow, margin) for flow in fitted)
        terms["fitted"] = 0.5 * (_distance(forward, there) + _distance(backward, back))
    if config.velocity and full0 is not None and seen[0] is not None:
        terms["velocity"] = _velocity(net, _crop(full0, margin), crop1, forward, seen[0])
    if _teaches_itself(config, progress):
        views = students or (crop1, crop2)
        terms["self_supervision"] = _self_supervision(
            net, views, forward, backward, config.student_margin
        )
    loss = terms["census"]
    for name, term in terms.items():
        if name != "census":
            loss = loss + getattr(config, name) * term
    return {"loss": loss, **terms}


def _teaches_itself(config: FlowLossConfig, progress: float) -> bool:
    return config.self_supervision > 0 and progress >= config.self_supervision_from


def _crop(image: Tensor, margin: int) -> Tensor:
    return image if margin == 0 else image[..., margin:-margin, margin:-margin]


def _visible(
    forward: Tensor, backward: Tensor, progress: float, config: FlowLossConfig
) -> tuple[Tensor, Tensor]:
    """Return what of each frame the other shows; by range at first, when flows disagree anyway."""
    forward, backward = forward.detach(), backward.detach()
    if progress < config.self_supervision_from:
        return visible_by_range(backward), visible_by_range(forward)
    # What leaves the frame is no matter of consistency: full-image warping sees to that.
    there = visible_by_consistency(forward, backward) | ~_stays(forward)
    back = visible_by_consistency(backward, forward) | ~_stays(backward)
    return there, back


def _stays(flow: Tensor) -> Tensor:
    return warp(flow, flow, mask=True)[1]


def _compare(
    crop: Tensor,
    other: Tensor,
    pyramid: FlowPyramid,
    seen: Tensor | None,
    margin: int,
    config: FlowLossConfig,
) -> dict[str, Tensor]:
    """Return the terms of one direction that have a weight, by its name."""
    warped, inside = warp_crop(other, pyramid.flow, margin)
    mask = inside if seen is None else inside & seen
    # Smoothness at the decoder's finest level, where its flow is made.
    flow = pyramid.levels[-1]
    image = F.interpolate(crop, flow.shape[-2:], mode="area")
    terms = {
        "census": census_loss(crop, warped, mask),
        "smoothness": smoothness_first(flow, image),
    }
    if config.charbonnier:
        terms["charbonnier"] = charbonnier_loss(crop, warped, mask)
    if config.ssim:
        terms["ssim"] = ssim_loss(crop, warped, mask)
    if config.gradient:
        terms["gradient"] = gradient_loss(crop, warped, mask)
    if config.smoothness_second:
        terms["smoothness_second"] = smoothness_second(flow, image)
    return terms


def _levels(crop: Tensor, other: Tensor, pyramid: FlowPyramid) -> Tensor:
    """Census at every level but the smallest, whose images say nothing; (B,)."""
    losses = []
    for flow in pyramid.levels:
        size = flow.shape[-2:]
        if min(size) < 8:
            continue
        here, there = (F.interpolate(image, size, mode="area") for image in (crop, other))
        warped, inside = warp(there, flow, mask=True)
        losses.append(census_loss(here, warped, inside, radius=2))
    return torch.stack(losses).mean(0) if losses else crop.new_zeros(len(crop))


def _distance(pyramid: FlowPyramid, flow: Tensor) -> Tensor:
    """Compare with known flow at full size, and at each level in pixels of that level."""
    flow, known = split_known(flow)
    total = masked_charbonnier(pyramid.flow - flow, known, 0.01)
    for level in pyramid.levels:
        size = (level.shape[-2], level.shape[-1])
        share = F.adaptive_avg_pool2d(known.float(), size)
        mean = F.adaptive_avg_pool2d(flow * known, size) / share.clamp_min(1e-6)
        scale = flow.shape[-1] / size[-1]
        total = total + masked_charbonnier(level - mean / scale, share > 0.5, 0.01)
    return total


def _velocity(net: Net, crop0: Tensor, crop1: Tensor, forward: FlowPyramid, seen: Tensor) -> Tensor:
    """Let the flow to the frame before teach where things go that the next frame hides."""
    known = crop0.isfinite().all(1, keepdim=True).all(-1, keepdim=True).all(-2, keepdim=True)
    back, again = net(crop1, torch.where(known, crop0, crop1))
    teacher = back.flow.detach()
    shown = visible_by_consistency(teacher, again.flow.detach())
    return constant_velocity(forward.flow, teacher, ~seen & shown & known)


def _self_supervision(
    net: Net,
    views: tuple[Tensor, Tensor],
    forward: FlowPyramid,
    backward: FlowPyramid,
    margin: int,
) -> Tensor:
    """Let the flow of the whole view, where it is consistent, teach that of its middle."""
    student, student_back = net(*(_crop(view, margin) for view in views))
    teachers = forward.flow.detach(), backward.flow.detach()
    trusted = visible_by_consistency(*teachers), visible_by_consistency(*teachers[::-1])
    return 0.5 * sum(
        (
            masked_charbonnier(pupil.flow - _crop(flow, margin), _crop(mask, margin))
            for pupil, flow, mask in zip((student, student_back), teachers, trusted, strict=True)
        ),
        start=views[0].new_zeros(len(views[0])),
    )


# ------------------------------------------------------------------ the run


def presets(preset: Preset, start: FlowNet | None = None) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, losses.

    Args:
        preset: how large the network is, and how long it trains.
        start: a network to go on from, which decides the first; examples become as large as its
            stride needs.
    """
    configs = _presets(preset)
    if start is None:
        return configs
    stride, data = start.config.stride, configs["data"]
    fitting = replace(
        data,
        height=data.height + -data.height % stride,
        width=data.width + -data.width % stride,
    )
    return configs | {"model": start.config, "data": fitting}


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
    return {
        "loop": loop.LoopConfig(
            steps=100_000 if preset == "base" else 60_000, batch_size=4, precision="bf16", workers=1
        ),
        "model": FlowNetConfig() if preset == "base" else SMALL,
        "data": FlowDataConfig(fitted_pairs=4000),
        # Fitted flow already knows what leaves the view that the network sees.
        "losses": FlowLossConfig(self_supervision=0, coarse_until=0.5),
    }


def flow_task(
    material: Material,
    configs: Mapping[str, Any],
    truths: Sequence[GroundTruth] = (),
    start: FlowNet | None = None,
    told: Callable[[int, int], None] | None = None,
) -> loop.Task:
    """Return what the loop needs to train a flow network.

    Args:
        material: where examples come from.
        configs: as :func:`presets` returns them.
        truths: pairs to judge by; without any, held-out examples are judged by the loss itself.
        start: a network to go on from; ``configs["model"]`` is its own.
        told: called with (pairs done, pairs in all) while flow is fitted, before the first step.

    Raises:
        ValueError: a size of an example does not fit the network.
    """
    if start is not None:
        configs = {**configs, "model": start.config}
    training, data = configs["loop"], configs["data"]
    losses: FlowLossConfig = configs["losses"]
    check_sizes(configs["model"], data, losses)
    source = material
    if losses.velocity:
        triplets = material.pairs.windows(3) if material.pairs else None
        if not triplets:
            raise ValueError("velocity needs footage with three frames in a row")
        material = replace(material, pairs=triplets)
    torch.manual_seed(training.seed)
    net = FlowNet(configs["model"])
    if start is not None:
        net.load_state_dict(start.state_dict())

    def prepare() -> None:
        nonlocal material
        material = replace(material, fitted=fit_material(source, training.seed, data, told).fitted)

    def batch(numbers: range) -> dict[str, Tensor]:
        progress = numbers.start // training.batch_size / training.steps
        students = _teaches_itself(losses, progress)
        return draw_batch(material, training.seed, numbers, data, students=students)

    def loss(
        model: torch.nn.Module, examples: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        return flow_losses(
            model,
            examples["image1"],
            examples["image2"],
            data.margin,
            step / training.steps,
            losses,
            (examples["flow_12"], examples["flow_21"]) if material.fitted else None,
            examples.get("image0"),
            (examples["student1"], examples["student2"]) if "student1" in examples else None,
        )

    judges = (part for pair in truths for part in (pair.flow_12, pair.valid))
    series = numbering.held_out_series(training.seed)
    held_out = draw_batch(replace(material, fitted=None), series, range(4), data)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        images = held_out["image1"].to(device), held_out["image2"].to(device)
        terms = flow_losses(model, *images, data.margin, 0.0, replace(losses, coarse_until=0.0))
        figures = {name: float(value.mean()) for name, value in terms.items()}
        if truths:
            errors = []
            assert isinstance(model, FlowNet)
            for pair in truths:
                pictures = pair.image1.to(device), pair.image2.to(device)
                flow = estimate_flow(model, *pictures, "fast").cpu()
                errors.append(float(epe(flow, pair.flow_12, valid=pair.valid)))
            figures["epe"] = sum(errors) / len(errors)
        return figures

    def samples(model: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
        device = next(model.parameters()).device
        for number in range(len(held_out["image1"])):
            image1, image2 = (
                _crop(held_out[name][number : number + 1], data.margin)
                for name in ("image1", "image2")
            )
            flow = model(image1.to(device), image2.to(device))[0].flow.cpu()
            warped = warp(image2, flow)
            row = [image1, image2, flow_to_image(flow), warped]
            yield f"flow{number}", side_by_side(row)[0]

    return loop.Task(
        data=f"{_footage(material)} {_digest((*material.photos, *judges))[:12]}".strip(),
        name="flownet",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data, "losses": losses},
        validate=validate,
        metric="epe" if truths else "loss",
        samples=samples,
        prepare=prepare,
        trained=start is not None,
    )


def synthetic_truths(
    photos: Sequence[Tensor], seed: int, count: int, size: tuple[int, int]
) -> list[GroundTruth]:
    """Return pairs made from photos whose flow is known, which training never draws."""
    series = numbering.held_out_series(seed, _TRUTHS)
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
    """Check what :func:`flow_task` will, before anything that takes long.

    Raises:
        ValueError: a size of an example does not fit the network, or the losses do not.
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
    if losses.coarse_until and len(model.widths) <= FINEST + 1:
        raise ValueError(f"coarse_until needs {FINEST + 2} or more model.widths")
