"""What the upsampler learns from: decodes with errors, and previous frames that are not perfect.

An example is a few frames in a row of a clip whose flow is known. They go through the real DVAE,
with some codes replaced, as a transformer that samples codes is not always right either. At
generation the network is given frames it drew itself and flow that is estimated between decodes. So
it is in a share of examples here; in others flow is bent a little, pixels whose flow is only
roughly right are trusted in half of them, the frame before is noised, and, after a while, in a
share of examples it is the network's own, drawn frame after frame with carried noise, just as it
will be (the idea of Scheduled Sampling, Bengio et al., NeurIPS 2015; without a gradient through
time). Some frames have no frame before them at all, so that one network serves with and without.
Whatever flow it is told, it is to hold on to what the exact flow leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.clip import Clip, Draw, fingerprint_of
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.upsampler import (
    REFRESH,
    SCALE,
    SMALL,
    TINY,
    Upsampler,
    UpsamplerConfig,
    between,
    coarse,
    detail,
    halve,
    sample,
    upsample_clip,
    warp_previous,
)
from flowwarp.legacy.pipelines.clip_motion import enlarged_motion
from flowwarp.legacy.pipelines.evaluate import compare_upsampling
from flowwarp.models.flownet import FlowNet
from flowwarp.ops.noise import carry_noise, dither, mix_noise
from flowwarp.train import loop, seeding
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.sheets import time_slices, video_sheet

_BEND = 8  # a bend of flow is made of about so many waves along each side
_CHECKED = 4  # clips of a validation


@dataclass(frozen=True)
class Codec:
    """The DVAE, as far as it matters here.

    Args:
        encode: (1, T, 3, h, w) in [0, 1] to codes (1, t, h', w').
        decode: codes to (1, T or more, 3, h, w) in [0, 1].
        entries: how many codes there are.
        device: where both work.
        apart: how many frames share codes.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    entries: int
    device: str = "cpu"
    apart: int = 1


def dvae_codec(net: DVAE, device: str = "cpu", *, half: bool = False) -> Codec:
    """Return a trained DVAE as a codec.

    Args:
        net: the network, in eval mode.
        device: where it shall work.
        half: let autocast use bf16, which takes less than half the time on a CPU that has it.
    """
    net = net.to(device)
    kind = torch.device(device).type

    def encode(video: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            return net.encode(video)

    def decode(codes: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            return net.decode(codes)

    return Codec(encode, decode, net.config.codes, device, net.config.stride_time)


@dataclass(frozen=True)
class UpsamplerDataConfig:
    """What an example is.

    Args:
        size: of the original frames, in pixels; the DVAE sees half of that.
        length: of a clip, in frames. It is composed, encoded and decoded as a whole.
        frames: in a row, of that clip, for an example.
        spoilt: share of examples whose codes have errors.
        errors: largest share of codes that is replaced.
        estimated: share of examples whose flow is estimated between decodes, where there is what
            estimates it.
        bent: share of the others whose flow is not quite right.
        bend: by how much at most, in pixels (standard deviation).
        loose: share of the others that trust whatever is visible, though its flow may not be exact.
        begun: share of frames at time 0, where sampling begins and, in one step, ends.
    """

    size: int = 128
    length: int = 16
    frames: int = 8
    spoilt: float = 0.5
    errors: float = 0.06
    estimated: float = 0.0
    bent: float = 0.5
    bend: float = 0.5
    loose: float = 0.5
    begun: float = 0.75

    def __post_init__(self) -> None:
        check_shares(self, "spoilt", "errors", "estimated", "bent", "loose", "begun")
        check_least(self, 0, "bend")
        check_least(self, SCALE, "size")
        check_least(self, 2, "length")  # one frame has no flow
        if self.size % SCALE:
            raise ValueError(f"size must be a multiple of {SCALE}, got {self.size}")
        if not 1 <= self.frames <= self.length:
            raise ValueError(f"frames must be from 1 to length ({self.length}), got {self.frames}")


@dataclass(frozen=True)
class ConditionConfig:
    """What the network is told of the frame before.

    Args:
        forget: share of frames that are told nothing.
        begin: share of examples that begin so, as a clip does.
        haze: largest deviation of noise on a true previous frame.
        own_share: share of examples whose previous frames are the network's own.
        own_from: share of training after which there are such.
        own_steps: steps that these are drawn in.
        steady: how the change from the frame before is weighed against the error.
    """

    forget: float = 0.15
    begin: float = 0.4
    haze: float = 0.06
    own_share: float = 1.0
    own_from: float = 0.1
    own_steps: int = 1
    steady: float = 0.5

    def __post_init__(self) -> None:
        check_shares(self, "forget", "begin", "own_share", "own_from")
        check_least(self, 0, "haze", "steady")
        check_least(self, 1, "own_steps")


# ------------------------------------------------------------------ examples


def corrupt_codes(codes: Tensor, share: float, entries: int, generator: torch.Generator) -> Tensor:
    """Replace a share of codes, half of them by any code, half by that of a neighbour.

    Args:
        codes: (..., t, h, w) integers; a neighbour is beside along one of these axes, the border's
            from across.
        share: in [0, 1].
        entries: how many codes there are.
        generator: decides which.
    """

    def chance() -> Tensor:
        return torch.rand(codes.shape, generator=generator)

    anything = torch.randint(entries, codes.shape, generator=generator)
    axis = torch.randint(-3, 0, codes.shape, generator=generator)
    wrong, random = chance() < share, chance() < 0.5
    for number in (-3, -2, -1):
        anything = torch.where(~random & (axis == number), codes.roll(1, number), anything)
    return torch.where(wrong, anything, codes)


def bend_flow(flow: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Add a smooth random field to flow, (T, 2, H, W), of a deviation of about ``amount`` px."""
    if not amount:
        return flow
    coarse = torch.randn(len(flow), 2, _BEND, _BEND, generator=generator)
    field = F.interpolate(coarse, flow.shape[-2:], mode="bicubic", align_corners=False)
    return flow + amount * field


@torch.no_grad()
def lossy(video: Tensor, codec: Codec, spoil: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return what the DVAE makes of a clip (T, 3, H, W) uint8: (T, 3, H / 2, W / 2) in [0, 1].

    One clip at a time: a code must not hang on what else is in a batch, however little.
    """
    codes = codec.encode(halve(video)[None].to(codec.device)).cpu()
    if spoil is not None:
        codes = spoil(codes)
    return codec.decode(codes.to(codec.device))[0, : len(video)].float().cpu()


def check_size(size: int, codec: Codec) -> None:
    """Refuse a size of original frames that the VAE does not take, before clips are made.

    Raises:
        ValueError: it is none of the multiples that the VAE wants.
    """
    blank = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    try:
        codec.encode(halve(blank)[None].to(codec.device))
    except ValueError as fault:
        problem = f"size {size} does not fit the VAE, which sees half of it ({fault})"
        raise ValueError(problem) from fault


def draw_batch(
    source: Draw,
    codec: Codec,
    seed: int,
    numbers: Iterable[int],
    data: UpsamplerDataConfig,
    condition: ConditionConfig,
    flownet: FlowNet | None = None,
) -> dict[str, Tensor]:
    """Return examples, each a pure function of the seed and its number.

    Returns:
        ``before`` (B, 3, H, W) uint8, the frame before the first; ``frames`` (B, F, 3, H, W) uint8;
        ``decode`` (B, F, 3, H / 2, W / 2) in [0, 1]; ``flow`` (B, F, 2, H, W), from each frame to
        the one before, as the network is told; ``visible`` (B, F, 1, H, W) bool, where that is to
        be trusted; ``exact`` (B, F, 2, H, W), what flow is; ``same`` (B, F, 1, H, W) bool, where
        that leads to the same, and the network is told anything; ``noise`` and ``fresh``
        (B, F, 3, H, W), independent unit Gaussians; ``time`` (B, F) in [0, 1]; ``haze`` (B, F),
        what noise to add to true previous frames; ``dice`` (B,) in [0, 1), for chances that change
        as training goes on.
    """
    examples = [_draw(source, codec, seed, number, data, condition, flownet) for number in numbers]
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def _draw(
    source: Draw,
    codec: Codec,
    seed: int,
    number: int,
    data: UpsamplerDataConfig,
    condition: ConditionConfig,
    flownet: FlowNet | None,
) -> dict[str, Tensor]:
    clip = source(seed, number)
    generator = seeding.generator(seed, number)

    def chance(share: float) -> bool:
        return float(torch.rand((), generator=generator)) < share

    def up_to(most: float) -> float:
        return most * float(torch.rand((), generator=generator))

    length = len(clip.video)
    share = up_to(data.errors) * chance(data.spoilt)
    decode = lossy(
        clip.video, codec, lambda codes: corrupt_codes(codes, share, codec.entries, generator)
    )
    if flownet is not None and chance(data.estimated):
        flow, visible = enlarged_motion(flownet, decode, codec.apart)
    else:
        flow = bend_flow(clip.flow_21, up_to(data.bend) * chance(data.bent), generator)
        visible = clip.visible_21 if chance(data.loose) else clip.visible_21 & clip.valid_21
    same = clip.visible_21 & clip.valid_21
    # So that each frame but the first has one before it, put a frame that nobody sees at the front.
    video = torch.cat([clip.video[:1], clip.video])
    flow, visible, exact, same = (
        torch.cat([torch.zeros_like(known[:1]), known])
        for known in (flow, visible, clip.flow_21, same)
    )
    first = int(torch.randint(length - data.frames + 1, (), generator=generator))
    part = slice(first, first + data.frames)
    told = torch.rand(data.frames, generator=generator) >= condition.forget
    told[0] &= not chance(condition.begin)
    shape = (2, data.frames, *video.shape[1:])
    noise, fresh = torch.randn(shape, generator=generator)
    time = torch.rand(data.frames, generator=generator)
    return {
        "before": video[first],
        "frames": video[first + 1 : first + 1 + data.frames],
        "decode": decode[part],
        "flow": flow[part],
        "visible": visible[part] & told.view(-1, 1, 1, 1),
        "exact": exact[part],
        "same": same[part] & told.view(-1, 1, 1, 1),
        "noise": noise,
        "fresh": fresh,
        "time": time.masked_fill(torch.rand(data.frames, generator=generator) < data.begun, 0),
        "haze": condition.haze * torch.rand(data.frames, generator=generator),
        "dice": torch.rand((), generator=generator),
    }


# ------------------------------------------------------------------ loss


def upsampler_losses(
    model: Upsampler, examples: Mapping[str, Tensor], progress: float, condition: ConditionConfig
) -> dict[str, Tensor]:
    """Return ``loss``, ``error`` and ``change``, means over frames and pixels, (B,) each.

    The error is the squared one of the residual's coarse part plus that of its detail's velocity:
    one has no detail, the other nothing coarse, so that the square of their sum is the sum of their
    squares. The change is the squared difference between the image that one step to the end makes,
    sharpened, and the frame before, by the exact flow where there is one, in units of the residual.
    The error alone lets each frame follow its own decode, though its errors come and go along the
    flow.

    Args:
        model: the network.
        examples: as :func:`draw_batch` returns them.
        progress: share of training that is done, in [0, 1].
        condition: what the network is told of the frame before.
    """
    frames = examples["frames"].float() / 255
    before = torch.cat([examples["before"][:, None].float() / 255, frames[:, :-1]], 1)
    noise, fresh = examples["noise"], examples["fresh"]
    previous = before + examples["haze"][:, :, None, None, None] * fresh
    share = condition.own_share if progress >= condition.own_from else 0.0
    if share:  # of all, so that what is drawn of one does not hang on how many others are
        drawn, carried = roll_out(model, examples, before[:, 0], condition.own_steps)
        # Of weights cast to bf16 without a way back for gradients: older torch would go on with it.
        torch.clear_autocast_cache()
        own = (examples["dice"] < share).view(-1, 1, 1, 1, 1)
        previous = torch.where(own, drawn, previous)
        noise = torch.where(own, carried, noise)
    decode = examples["decode"].flatten(0, 1)
    hint, trust = warp_previous(
        previous.flatten(0, 1), examples["flow"].flatten(0, 1), examples["visible"].flatten(0, 1)
    )
    time = examples["time"].flatten()
    residual = model.residual(frames.flatten(0, 1), decode)
    point, wanted = between(noise.flatten(0, 1), residual, time)
    made = model(point, time, decode, hint, trust)
    error = (made - wanted).square().mean((1, 2, 3))
    left = (1 - time).view(-1, 1, 1, 1)
    image = model.image(coarse(made) + detail(point + left * made), decode, sharpen=True)
    kept, same = warp_previous(
        previous.flatten(0, 1), examples["exact"].flatten(0, 1), examples["same"].flatten(0, 1)
    )
    change = (image - kept) / model.config.residual
    moved = torch.where(same > 0, change, 0).square().mean((1, 2, 3))
    loss = error + condition.steady * moved
    return {
        name: value.view(frames.shape[:2]).mean(1)
        for name, value in (("loss", loss), ("error", error), ("change", moved))
    }


@torch.no_grad()
def roll_out(
    model: Upsampler, examples: Mapping[str, Tensor], before: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Draw frame after frame, as generation does.

    Args:
        model: the network.
        examples: as :func:`draw_batch` returns them.
        before: (B, 3, H, W) in [0, 1], the frame before the first.
        steps: of sampling.

    Returns:
        The frame before each, (B, F, 3, H, W): ``before``, then the network's; and the noise of
        each frame, of the same shape.
    """
    noise = examples["noise"][:, 0]
    previous, noises = [before], [noise]
    for number in range(1, examples["frames"].shape[1]):
        flow, visible = examples["flow"][:, number - 1], examples["visible"][:, number - 1]
        hint, trust = warp_previous(previous[-1], flow, visible)
        decode = examples["decode"][:, number - 1]
        previous.append(sample(model, noise, decode, hint, trust, steps=steps))
        noise = carry_noise(
            noise,
            examples["flow"][:, number],
            examples["noise"][:, number],
            visible=examples["visible"][:, number],
            dither=dither(number),
        )
        noise = mix_noise(noise, examples["fresh"][:, number], REFRESH)
        noises.append(noise)
    return torch.stack(previous, 1), torch.stack(noises, 1)


# ------------------------------------------------------------------ the run


def presets(preset: Preset) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, condition."""
    if preset == "tiny":  # minutes on a laptop
        return {
            "loop": loop.LoopConfig(
                steps=600, batch_size=4, learning_rate=2e-3, warmup=50, ema=0.99, validate_every=200
            ),
            "model": TINY,
            "data": UpsamplerDataConfig(frames=4),
            "condition": ConditionConfig(),
        }
    return {
        "loop": loop.LoopConfig(
            steps=20_000 if preset == "base" else 8_000,
            batch_size=4,
            learning_rate=3e-3,
            muon=0.35,
            warmup=200,
            precision="bf16",
            workers=1,
        ),
        "model": UpsamplerConfig() if preset == "base" else SMALL,
        "data": UpsamplerDataConfig(estimated=0.5),
        "condition": ConditionConfig(),
    }


def upsampler_task(
    source: Draw,
    codec: Codec,
    configs: Mapping[str, Any],
    other: Draw | None = None,
    start: Upsampler | None = None,
    flownet: FlowNet | None = None,
) -> loop.Task:
    """Return what the loop needs to train an upsampler.

    Args:
        source: where clips come from, of ``data.size`` and ``data.length``.
        codec: the DVAE whose decodes are to be upsampled.
        configs: as :func:`presets` returns them.
        other: where clips to judge by come from, of another seed; by default ``source`` too.
        start: a network to go on from; ``configs["model"]`` is its own.
        flownet: estimates the flow of a share of examples.

    Raises:
        ValueError: the size does not fit the DVAE.
    """
    if start is not None:
        configs = {**configs, "model": start.config}
    training: loop.LoopConfig = configs["loop"]
    data: UpsamplerDataConfig = configs["data"]
    condition: ConditionConfig = configs["condition"]
    torch.manual_seed(training.seed)
    net = Upsampler(configs["model"])
    if start is not None:
        net.load_state_dict(start.state_dict())
    seed = seeding.held_out_series(training.seed)
    other = other or source

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(source, codec, training.seed, numbers, data, condition, flownet)

    def loss(model: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        assert isinstance(model, Upsampler)
        return upsampler_losses(model, examples, step / training.steps, condition)

    held_out = draw_batch(other, codec, seed, range(_CHECKED), data, condition, flownet)
    clips = [other(seed, number) for number in range(_CHECKED)]
    decodes = [lossy(clip.video, codec) for clip in clips]

    motions = [(clip.flow_21, clip.visible_21) for clip in clips]
    ways = {"held": motions, "free": motions}
    if flownet is not None and data.estimated:
        ways["estimated"] = [enlarged_motion(flownet, decode, codec.apart) for decode in decodes]

    def draw(model: nn.Module, number: int, way: str) -> Tensor:
        assert isinstance(model, Upsampler)
        device = model.head.weight.device
        flow, visible = (part.to(device) for part in ways[way][number])
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            return upsample_clip(
                model,
                decodes[number].to(device),
                flow,
                visible,
                seeding.generator(seed, number),
                temporal=way != "free",
            ).cpu()

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Upsampler)
        device = model.head.weight.device
        examples = {name: tensor.to(device) for name, tensor in held_out.items()}
        figures = {"loss": float(upsampler_losses(model, examples, 1.0, condition)["loss"].mean())}
        rows = [
            compare(clip, decode, {way: draw(model, number, way) for way in ways})
            for number, (clip, decode) in enumerate(zip(clips, decodes, strict=True))
        ]
        return figures | {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def samples(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
        for number in range(2):
            outputs = draw(model, number, "held"), draw(model, number, "free")
            pictures = sheet(clips[number], decodes[number], *outputs)
            yield from ((f"{name}{number}", picture) for name, picture in pictures.items())

    return loop.Task(
        data=fingerprint_of(source),
        name="upsampler",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data, "condition": condition},
        validate=validate,
        samples=samples,
        matrices=("down", "up", "shrink", "grow"),
        trained=start is not None,
    )


def compare(clip: Clip, decode: Tensor, videos: Mapping[str, Tensor]) -> dict[str, float]:
    """Return what :func:`compare_upsampling` does, as ``psnr_held`` and so on."""
    table = compare_upsampling(clip, decode, videos)
    return {f"{name}_{whose}": value for name, row in table.items() for whose, value in row.items()}


def sheet(clip: Clip, decode: Tensor, held: Tensor, free: Tensor) -> dict[str, Tensor]:
    """Return pictures of a clip: ``clip``, some frames of each video, and ``slice``, x over time.

    Both have the decode, the frames drawn one by one, those drawn with the frame before, and the
    original: one below the other, or side by side. In the slice, time runs down: what holds still
    is a straight line, what flickers is frayed.

    Args:
        clip: the original.
        decode: (T, 3, H / 2, W / 2) in [0, 1].
        held: (T, 3, H, W) in [0, 1], drawn with the frame before.
        free: likewise, each frame by itself.
    """
    truth = clip.video.float() / 255
    coarse = F.interpolate(decode, scale_factor=SCALE, mode="nearest")
    videos = [coarse, free, held, truth]
    return {
        "clip": video_sheet(videos, every=max(1, len(truth) // 5)),
        "slice": time_slices(videos, truth.shape[2] // 2),
    }
