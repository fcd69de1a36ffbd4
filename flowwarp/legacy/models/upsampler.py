"""The upsampler: from the DVAE's lossy frames to sharp ones of twice the size, by flow matching.

What is modelled is the *residual*: what an original has that the bicubic enlargement of its decode
has not. It has two parts. Its ``coarse`` part, the mean of each 2 x 2 pixels, is what a decode of
half the size could have said and did not; nobody can know it, and to draw it would add as much
error again. So the network predicts it: its mean, as a regression does. Its ``detail``, what is
left, is finer than any decode, must be there if a frame shall look sharp, and is drawn: noise ``e``
and detail ``r`` are joined by straight lines, ``x_t = (1 - t) e + t r``, and the network learns
their velocity ``r - e`` (Lipman et al., "Flow Matching for Generative Modeling", and Liu et al.,
"Flow Straight and Fast: Rectified Flow", both ICLR 2023). That rather than EDM (Karras et al.,
NeurIPS 2022), because few steps are wanted: with so much known beforehand the lines hardly bend,
and one Euler step from noise already gives the mean of all that is possible, in which the noise
cancels. EDM's preconditioning is kept: the network sees and makes numbers of about unit variance,
and what is linear in ``x_t`` (the noise itself, as a velocity) goes past it.

That mean is blurred, as it is weaker than anything possible. One step, the default, sharpens it
(``UpsamplerConfig.sharpness``): as much detail as there should be, where the decode says it is, and
nearer to the original than any draw, whose errors add to those of the mean. More steps draw: detail
that nobody can know is then made up too, sharper to the eye and farther from the original.

Frame by frame, the network also sees its own previous output, warped to this frame, and where that
may be trusted. Nothing looks ahead, so a video streams. Noise is carried along the flow
(:mod:`flowwarp.ops.noise`). Without a previous frame all of that is zero, as for the first one.

Pixels are folded into channels (4 x 4 by default), so that a small grid does all the work; norms,
where there are any, are over groups of channels of one frame.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.models._layers import GROUPS, convolution, group_norm
from flowwarp.ops.filters import half_band
from flowwarp.ops.noise import carry_noise, dither, mix_noise
from flowwarp.ops.warping import warp
from flowwarp.tensors import (
    check_choice,
    check_flow,
    check_image,
    check_mask,
    check_number,
    check_pixels,
    check_same_grid,
    check_whole,
    check_wholes,
)

SCALE = 2  # from a decode to an output
GAIN = 1.68  # SiLU of a unit Gaussian has the mean square 1 / GAIN^2
FREQUENCIES = 16  # of the embedding of time
REFRESH = 0.3  # amplitude of fresh noise in carried noise: a tenth of it is new in each frame


@dataclass(frozen=True)
class UpsamplerConfig:
    """Sizes of the network; one entry a level, finest first.

    Args:
        widths: channels, multiples of ``GROUPS``; each level halves the resolution.
        blocks: residual blocks on the way down, and as many on the way up.
        patch: side of the square of output pixels that is folded into channels.
        embedding: width of the embedding of time.
        norm: ``none``; or ``group``, over groups of channels of one frame, which helps nothing here
            (docs/initialisation.md).
        residual: the unit of the residual's coarse part, its standard deviation over the data, from
            0.0001 to 1.
        detail: the unit of its detail, likewise, of white noise whose detail has its variance.
        sharpness: what the finest detail of a mean, that of more than a quarter cycle a pixel, is
            multiplied by, from 0.001 to 100. Where the network knows a share ``s`` of the variance,
            the mean has ``√s`` of the amplitude, and ``1 / √s`` restores it at the least cost in
            squared error.
    """

    widths: tuple[int, ...] = (96, 128, 160)
    blocks: tuple[int, ...] = (2, 2, 2)
    patch: int = 4
    embedding: int = 128
    norm: Literal["group", "none"] = "none"
    residual: float = 0.08
    detail: float = 0.03
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        check_wholes(self.widths, "widths", GROUPS)
        check_wholes(self.blocks, "blocks", 1)
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must have one entry a level")
        if any(width % GROUPS for width in self.widths):
            raise ValueError(f"widths must be multiples of {GROUPS}")
        check_whole(self.embedding, "embedding", 1)
        check_whole(self.patch, "patch", SCALE)
        if self.patch % SCALE:
            raise ValueError(f"patch must be a multiple of {SCALE}, got {self.patch}")
        check_choice(self.norm, "norm", ("group", "none"))
        # Differences of pixels deviate by no more than 1, and where by less than 0.0001 nobody sees
        # them. With units far beyond that, numbers overflow.
        for name in ("residual", "detail"):
            check_number(getattr(self, name), name, 1e-4, 1)
        check_number(self.sharpness, "sharpness", 1e-3, 100)

    @property
    def stride(self) -> int:
        """Output pixels a position of the coarsest level stands for, along each side."""
        return int(self.patch * 2 ** (len(self.widths) - 1))


SMALL = UpsamplerConfig(widths=(64, 96, 128), blocks=(2, 2, 1), embedding=96)
TINY = UpsamplerConfig(widths=(32, 48), blocks=(1, 1), embedding=32)


# ------------------------------------------------------------------ blocks


class Block(nn.Module):
    """A residual block of two convolutions; time scales and shifts what is between them.

    The branches of a network add up to the variance of its input, however many they are (the idea
    of Fixup, Zhang et al., ICLR 2019), so that it trains without norms too.
    """

    def __init__(self, width: int, config: UpsamplerConfig) -> None:
        super().__init__()
        self.before, self.between = group_norm(width, config.norm), group_norm(width, config.norm)
        self.first = convolution(width, width, gain=GAIN)
        self.time = nn.Linear(config.embedding, 2 * width)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)
        branches = 2 * sum(config.blocks) - config.blocks[-1]
        self.second = convolution(width, width, gain=GAIN / math.sqrt(branches))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, width, H, W) for ``x`` of that shape and ``embedding`` (B, E)."""
        scale, shift = self.time(embedding)[:, :, None, None].chunk(2, 1)
        h = self.between(self.first(F.silu(self.before(x))))
        change: Tensor = self.second(F.silu(torch.addcmul(h + shift, h, scale)))
        return x + change


class Level(nn.Module):
    """The blocks of one level, on the way down or up."""

    def __init__(self, count: int, width: int, config: UpsamplerConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, config) for _ in range(count))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what the blocks make of ``x``, in its shape."""
        for block in self.blocks:
            x = block(x, embedding)
        return x


# ------------------------------------------------------------------ the network


class Upsampler(nn.Module):
    """The residual: its coarse part, and the velocity of its detail; see :meth:`forward`.

    >>> net = Upsampler(TINY)
    >>> image = torch.rand(1, 3, 40, 56)
    >>> net(torch.randn(1, 3, 40, 56), torch.rand(1), torch.rand(1, 3, 20, 28)).shape
    torch.Size([1, 3, 40, 56])
    """

    def __init__(self, config: UpsamplerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UpsamplerConfig()
        widths, area = config.widths, config.patch**2
        # Noisy residual, previous residual and its mask in full; the decode is a quarter of that.
        self.stem = convolution(3 * area + 3 * area + area + 3 * area // SCALE**2, widths[0])
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
            nn.SiLU(),
        )
        self.down = nn.ModuleList(
            Level(count, width, config) for count, width in zip(config.blocks, widths, strict=True)
        )
        # Halving and doubling by folding keep pixels in register.
        self.shrink = nn.ModuleList(
            convolution(4 * fine, coarse, size=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.grow = nn.ModuleList(
            convolution(coarse, 4 * fine, size=1) for fine, coarse in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            Level(count, width, config)
            for count, width in zip(config.blocks[:-1], widths[:-1], strict=True)
        )
        self.last = group_norm(widths[0], config.norm)
        self.head = convolution(widths[0], 3 * area)
        nn.init.zeros_(self.head.weight)  # at first, the best that is linear in the noisy residual
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        decode: Tensor,
        previous: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """Return the coarse part of the residual, plus the velocity of its detail at ``noisy``.

        Args:
            noisy: (B, 3, H, W), ``(1 - t) e + t r``, of detail; what is coarse does not matter.
            time: (B,), t in [0, 1]: 0 is noise.
            decode: (B, 3, H / 2, W / 2) in [0, 1].
            previous: (B, 3, H, W) in [0, 1], the frame before, warped to this one; None, and
                ``visible`` too, where there is none.
            visible: (B, 1, H, W), 1 or True where ``previous`` shows what this frame shows; what it
                is elsewhere does not matter in the least.

        Returns:
            (B, 3, H, W) float32, in the units of :meth:`residual`; :func:`coarse` and
            :func:`detail` take it apart.

        Raises:
            TypeError: an image is not a floating-point tensor.
            ValueError: shapes do not fit, or there are no pixels.
        """
        _check(noisy, time, decode, previous, visible)
        if not len(noisy):  # pixel_unshuffle leaves such a batch as it is
            return noisy.float()
        height, width = noisy.shape[-2:]
        if previous is None or visible is None:
            hint, trust = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
        else:
            trust = visible.to(noisy.dtype)
            # Pixel by pixel, as one may be visible without its neighbours; selected rather than
            # multiplied, as 0 times NaN is NaN.
            off = (previous - enlarge(decode)) / self.config.residual
            hint = torch.where(trust > 0, trust * off, 0)
        # EDM's preconditioning for straight lines: x_t has this variance where r and e have 1.
        t = time.view(-1, 1, 1, 1).to(noisy.dtype)
        variance = t.square() + (1 - t).square()
        noisy = detail(noisy)
        parts = [noisy * variance.rsqrt(), hint, trust, 2 * decode - 1]
        made = self._network(parts, time)[..., :height, :width]
        mean = coarse(made)
        return mean + (2 * t - 1) / variance * noisy + variance.rsqrt() * (made - mean)

    def residual(self, image: Tensor, decode: Tensor) -> Tensor:
        """Return what ``image`` has that the enlarged decode has not, in units of the network."""
        whole = image - enlarge(decode)
        mean = coarse(whole)
        return mean / self.config.residual + (whole - mean) / self.config.detail

    def image(self, residual: Tensor, decode: Tensor, *, sharpen: bool = False) -> Tensor:
        """Return the image of a residual, in [0, 1]: the reverse of :meth:`residual`.

        Args:
            residual: (B, 3, H, W), in the units of the network.
            decode: (B, 3, H / 2, W / 2).
            sharpen: multiply the finest detail by ``UpsamplerConfig.sharpness``.
        """
        mean = coarse(residual)
        whole = self.config.residual * mean + self.config.detail * (residual - mean)
        image = enlarge(decode) + whole
        if sharpen:
            image = torch.lerp(half_band(image), image, self.config.sharpness)
        return image.clamp(0, 1)

    def _network(self, parts: list[Tensor], time: Tensor) -> Tensor:
        """Return (B, 3, H', W') of full-size parts and, last, the decode; padded to the stride."""
        patch, stride = self.config.patch, self.config.stride
        folds = [patch] * (len(parts) - 1) + [patch // SCALE]
        height, width = parts[0].shape[-2:]
        down, right = -height % stride, -width % stride
        folded = []
        for part, fold in zip(parts, folds, strict=True):
            if down or right:
                share = patch // fold
                part = F.pad(part, (0, right // share, 0, down // share), mode="replicate")
            folded.append(F.pixel_unshuffle(part, fold))
        x = torch.cat(folded, 1).to(self.stem.weight.dtype)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        embedding = self.embed(_waves(time).to(self.stem.weight.dtype))
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=False):
            x = level(x, embedding)
            skips.append(x)
            x = shrink(F.pixel_unshuffle(x, 2))
        x = self.down[-1](x, embedding)
        for level, grow, skip in zip(
            reversed(self.up), reversed(self.grow), reversed(skips), strict=True
        ):
            x = (F.pixel_shuffle(grow(x), 2) + skip) * math.sqrt(0.5)
            x = level(x, embedding)
        return F.pixel_shuffle(self.head(F.silu(self.last(x))), patch).float()


def enlarge(decode: Tensor) -> Tensor:
    """Return the bicubic enlargement by ``SCALE``, (B, 3, 2 H, 2 W), not clamped."""
    return F.interpolate(decode, scale_factor=SCALE, mode="bicubic", align_corners=False)


def halve(video: Tensor) -> Tensor:
    """Return (T, 3, H, W) uint8 as the discrete VAE sees it: (T, 3, H / 2, W / 2) in [0, 1]."""
    return F.avg_pool2d(video.float() / 255, SCALE)


def coarse(image: Tensor) -> Tensor:
    """Return the mean of each ``SCALE`` x ``SCALE`` pixels in the place of these, (B, C, H, W)."""
    return F.interpolate(F.avg_pool2d(image, SCALE), scale_factor=SCALE, mode="nearest")


def detail(image: Tensor) -> Tensor:
    """Return what is left of an image without its :func:`coarse` part, (B, C, H, W)."""
    return image - coarse(image)


def _waves(time: Tensor) -> Tensor:
    """Return sines and cosines of t, (B, 2 * FREQUENCIES) float32, from 1/4 to 16 periods."""
    periods = torch.logspace(-2, 4, FREQUENCIES, base=2.0, dtype=torch.float32, device=time.device)
    angle = 2 * math.pi * time.float()[:, None] * periods
    return torch.cat([angle.sin(), angle.cos()], 1)


def _check(
    noisy: Tensor, time: Tensor, decode: Tensor, previous: Tensor | None, visible: Tensor | None
) -> None:
    for name, image in (("noisy", noisy), ("decode", decode), ("previous", previous)):
        if image is None:
            continue
        check_pixels(image, name)
        if image.shape[1] != 3:
            raise ValueError(f"{name} must have 3 channels, got {image.shape[1]}")
    if time.shape != noisy.shape[:1]:
        raise ValueError(f"time must be ({len(noisy)},), got {tuple(time.shape)}")
    wanted = (len(noisy), 3, noisy.shape[2] // SCALE, noisy.shape[3] // SCALE)
    if decode.shape != wanted or noisy.shape[2] % SCALE or noisy.shape[3] % SCALE:
        raise ValueError(
            f"decode must be half of noisy {tuple(noisy.shape)}, got {tuple(decode.shape)}"
        )
    if (previous is None) != (visible is None):
        raise ValueError("previous and visible must be given together")
    if previous is not None and visible is not None:
        check_same_grid(previous, "previous", noisy)
        check_mask(visible, "visible", noisy)


# ------------------------------------------------------------------ flow matching


def between(noise: Tensor, residual: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the point at ``time`` on the line to a residual's detail, and what the network learns.

    Args:
        noise: (B, 3, H, W), e; what is coarse of it does not matter.
        residual: (B, 3, H, W), r.
        time: (B,), in [0, 1].

    Returns:
        ``(1 - t) e + t r``, of detail; and r's coarse part plus the velocity of detail, ``r - e``.
    """
    noise = detail(noise)
    return torch.lerp(noise, detail(residual), time.view(-1, 1, 1, 1)), residual - noise


@torch.no_grad()
def sample(
    model: Upsampler,
    noise: Tensor,
    decode: Tensor,
    previous: Tensor | None = None,
    visible: Tensor | None = None,
    *,
    steps: int = 1,
) -> Tensor:
    """Draw images: detail by following its velocity from noise, on what is predicted of the rest.

    Args:
        model: the network.
        noise: (B, 3, H, W), unit Gaussian.
        decode: as for :class:`Upsampler`.
        previous: likewise.
        visible: likewise.
        steps: of equal length; 1 gives the mean of what is possible, sharpened; more draw, the
            truer to what is possible the more there are.

    Returns:
        (B, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: ``steps`` is below 1, or shapes do not fit.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    x = detail(noise)
    for step in range(steps):
        velocity = model(x, x.new_full((len(x),), step / steps), decode, previous, visible)
        x = x + velocity / steps  # whose coarse part becomes the mean of what the steps predict
    return model.image(x, decode, sharpen=steps == 1)


def upsample_frames(
    model: Upsampler,
    frames: Iterable[tuple[Tensor, Tensor | None, Tensor | None]],
    generator: torch.Generator,
    *,
    steps: int = 1,
    temporal: bool = True,
    begin: Tensor | None = None,
) -> Iterator[Tensor]:
    """Upsample a video as it comes; the memory needed does not grow with its length.

    Args:
        model: the network.
        frames: for each frame its decode (B, 3, h, w) in [0, 1]; the flow (B, 2, 2 h, 2 w) from it
            to the frame before, in pixels of the output; and ``visible`` (B, 1, 2 h, 2 w), where
            that shows the same. Without flow (None, as for the first frame) there is nothing to
            hold on to. Where flow is not finite or leads outside nothing is trusted.
        generator: of the noise, on the CPU; it alone decides what is drawn.
        steps: as for :func:`sample`.
        temporal: False: each frame is drawn by itself, from noise of its own.
        begin: (B, 3, 2 h, 2 w) in [0, 1], what the first frame shows at its full size, where that
            is known; it holds on to this as others do to the frame before.

    Yields:
        (B, 3, 2 h, 2 w) float32 in [0, 1].

    Raises:
        ValueError: ``steps`` is below 1, or shapes do not fit.
    """
    noise: Tensor | None = None
    output: Tensor | None = None
    for number, (decode, flow, visible) in enumerate(frames):
        check_image(decode, "decode")
        shape = (len(decode), 3, SCALE * decode.shape[2], SCALE * decode.shape[3])

        def fresh(shape: tuple[int, ...] = shape, like: Tensor = decode) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32).to(like.device)

        if not temporal or output is None or noise is None or flow is None:
            noise, previous, trust = fresh(), None, None
            if temporal and begin is not None and not number:
                if begin.shape != shape:
                    raise ValueError(f"begin must be {shape}, got shape {tuple(begin.shape)}")
                still = torch.zeros_like(begin[:, :2])
                previous, trust = warp_previous(begin, still, None)
        else:
            check_flow(flow, like=output)
            noise = carry_noise(noise, flow, fresh(), visible=visible, dither=dither(number))
            noise = mix_noise(noise, fresh(), REFRESH)
            previous, trust = warp_previous(output, flow, visible)
        output = sample(model, noise, decode, previous, trust, steps=steps)
        yield output


def upsample_clip(
    model: Upsampler,
    decode: Tensor,
    flow: Tensor,
    visible: Tensor | None,
    generator: torch.Generator,
    *,
    steps: int = 1,
    temporal: bool = True,
) -> Tensor:
    """Upsample a whole clip; see :func:`upsample_frames`, which it calls.

    Args:
        model: the network.
        decode: (T, 3, h, w) in [0, 1].
        flow: (T - 1, 2, 2 h, 2 w), from each frame but the first to the one before, in pixels of
            the output.
        visible: (T - 1, 1, 2 h, 2 w), where that one shows the same; None: everywhere.
        generator: of the noise, on the CPU.
        steps: as for :func:`sample`.
        temporal: False: each frame by itself.

    Returns:
        (T, 3, 2 h, 2 w) float32 in [0, 1].

    Raises:
        ValueError: there is no frame, ``steps`` is below 1, or shapes do not fit.
    """
    check_image(decode, "decode")
    check_flow(flow)
    if not len(decode):
        raise ValueError("decode must have at least 1 frame, got 0")
    for name, tensor in (("flow", flow), ("visible", visible)):
        if tensor is not None and len(tensor) != len(decode) - 1:
            raise ValueError(f"{name} must have {len(decode) - 1} frames, got {len(tensor)}")
    frames = (
        (
            decode[t : t + 1],
            flow[t - 1 : t] if t else None,
            visible[t - 1 : t] if t and visible is not None else None,
        )
        for t in range(len(decode))
    )
    drawn = upsample_frames(model, frames, generator, steps=steps, temporal=temporal)
    return torch.cat(list(drawn))


def warp_previous(previous: Tensor, flow: Tensor, visible: Tensor | None) -> tuple[Tensor, Tensor]:
    """Warp the frame before to this one, as the network wants it.

    Args:
        previous: (B, 3, H, W) in [0, 1].
        flow: (B, 2, H, W), from this frame to that.
        visible: (B, 1, H, W) bool, where that shows the same; None: everywhere.

    Returns:
        The warped frame, and where it may be trusted: visible, flow known, and inside.
    """
    # Bilinear reading blurs a little; done once a frame, nothing sharp would be left of it.
    warped, inside = warp(previous, flow, mode="bicubic", mask=True)
    return warped, inside if visible is None else inside & visible.bool()
