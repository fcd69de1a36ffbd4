"""The upsampler: from the small, lossy frames of a discrete VAE to sharp ones, by flow matching.

What is modelled is the *residual*: what the true frame has that the bicubic enlargement of its
decode has not. Its *coarse* part, the mean of each 2 x 2 pixels, is mostly an error of the decode:
to draw it at random would add as much error again, so the network predicts its mean. Its *detail*,
what is left, is drawn. Noise ``e`` and detail ``r`` are joined by straight lines, ``x_t = (1 - t) e
+ t r``, along which ``x_t`` moves with the velocity ``r - e`` (Lipman et al., "Flow Matching for
Generative Modeling", and Liu et al., "Flow Straight and Fast: Rectified Flow", both ICLR 2023). The
network predicts ``r``, of which follows the velocity ``(r - x_t) / (1 - t)``: a residual is zero
nearly everywhere, noise is not, and a network of few channels cannot carry it along (Li and He,
"Back to Basics: Let Denoising Generative Models Denoise", 2025). One step from noise gives the mean
of what is possible, which is blurred; more steps draw from it.

The network also sees its own previous output, warped to this frame, and where that is visible.
Without it, as for the first frame, both are zero. Nothing looks ahead, so a video streams.

Squares of 4 x 4 pixels are folded into channels, so a small grid does all the work. There are no
norms, so no statistic couples the places of a frame or the frames of a batch.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.tensors import (
    check_mask,
    check_number,
    check_pixels,
    check_same_grid,
    check_whole,
    check_wholes,
)

FREQUENCIES = 16  # of the embedding of time
LEAST_LEFT = 0.25  # least 1 - t that the error of the velocity is divided by


@dataclass(frozen=True)
class UpsamplerConfig:
    """Sizes of the network.

    Args:
        widths: channels of each level, finest first; each level halves the resolution.
        blocks: residual blocks of each level, on the way down and again on the way up.
        patch: side of the squares of pixels that are folded into channels.
        embedding: width of the embedding of time and words.
        vocabulary: number of words, of which 0 is padding; 0 for a network without words.
        residual: the unit of the residual's coarse part, its standard deviation over the data: the
            network should see and make numbers of about unit variance.
        detail: the unit of its detail, likewise.
    """

    widths: tuple[int, ...] = (64, 96, 128)
    blocks: tuple[int, ...] = (2, 2, 1)
    patch: int = 4
    embedding: int = 96
    vocabulary: int = 0
    residual: float = 0.05
    detail: float = 0.02

    def __post_init__(self) -> None:
        check_wholes(self.widths, "widths", 1)
        check_wholes(self.blocks, "blocks", 1)
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must have one entry for each level")
        check_whole(self.patch, "patch", 1)
        check_whole(self.embedding, "embedding", 1)
        check_whole(self.vocabulary, "vocabulary", 0)
        check_number(self.residual, "residual", 1e-4, 1)
        check_number(self.detail, "detail", 1e-4, 1)

    @property
    def stride(self) -> int:
        """Pixels that a place of the coarsest level stands for, along each side."""
        return int(self.patch * 2 ** (len(self.widths) - 1))


TINY = UpsamplerConfig(widths=(32, 48), blocks=(1, 1), embedding=32)


# ------------------------------------------------------------------ blocks


class Block(nn.Module):
    """A residual block of two 3 x 3 convolutions; the embedding scales and shifts between them.

    It begins as the identity, so that a network of many trains without norms (Zhang et al.,
    "Fixup Initialization", ICLR 2019).
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        for layer in (self.modulation, self.second):
            zero_(layer)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, width, H, W) for ``x`` of that shape and ``embedding`` (B, E)."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(F.silu(x))
        change: Tensor = self.second(F.silu(h + h * scale + shift))
        return x + change


class Level(nn.ModuleList):
    """The blocks of one level, on the way down or up."""

    def __init__(self, count: int, width: int, embedding: int) -> None:
        super().__init__(Block(width, embedding) for _ in range(count))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return what the blocks make of ``x``, in its shape."""
        for block in self:
            x = block(x, embedding)
        return x


def zero_(layer: nn.Conv2d | nn.Linear) -> None:
    """Set the weight and bias of a layer to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


# ------------------------------------------------------------------ the network


class Upsampler(nn.Module):
    """A U-Net that predicts the residual; see :meth:`forward`.

    >>> net = Upsampler(TINY)
    >>> enlarged = enlarge(torch.rand(1, 3, 20, 28), (40, 56))
    >>> net(torch.randn(1, 3, 40, 56), torch.rand(1), enlarged).shape
    torch.Size([1, 3, 40, 56])
    """

    def __init__(self, config: UpsamplerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UpsamplerConfig()
        widths, area, embedding = config.widths, config.patch**2, config.embedding
        self.time = nn.Linear(2 * FREQUENCIES, embedding)
        self.words = (
            nn.EmbeddingBag(config.vocabulary, embedding, mode="mean", padding_idx=0)
            if config.vocabulary
            else None
        )
        self.mix = nn.Linear(embedding, embedding)
        # Noisy residual, enlarged decode and previous residual of 3 channels each, and visibility.
        self.stem = nn.Conv2d(10 * area, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Level(count, width, embedding)
            for count, width in zip(config.blocks, widths, strict=True)
        )
        self.shrink = nn.ModuleList(
            nn.Conv2d(4 * fine, coarse, 1) for fine, coarse in itertools.pairwise(widths)
        )
        self.grow = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            Level(count, width, embedding)
            for count, width in zip(config.blocks[:-1], widths[:-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], 3 * area, 3, padding=1)
        zero_(self.head)  # at first, the residual is 0 and the output bicubic
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        noisy: Tensor,
        time: Tensor,
        enlarged: Tensor,
        previous: Tensor | None = None,
        visible: Tensor | None = None,
        words: Tensor | None = None,
    ) -> Tensor:
        """Return the mean of the residual, given ``noisy`` and the rest.

        Args:
            noisy: (B, 3, H, W), x_t, of detail; H and W are even.
            time: (B,), t in [0, 1]: 0 is noise.
            enlarged: (B, 3, H, W) in [0, 1], the decode at this size; see :func:`enlarge`.
            previous: (B, 3, H, W) in [0, 1], the frame before, warped to this one; None, and
                ``visible`` too, where there is none.
            visible: (B, 1, H, W), 1 or True where ``previous`` shows what this frame shows;
                elsewhere it does not matter.
            words: (B, W) int64, words of the caption in any order, padded with 0; None for none.

        Returns:
            (B, 3, H, W) float32, coarse part and detail in their units.

        Raises:
            TypeError: an image is not a floating-point tensor.
            ValueError: shapes do not fit, or words are given to a network without.
        """
        _check(noisy, time, enlarged, previous, visible)
        if words is not None and self.words is None:
            raise ValueError("words must be None: the network has no vocabulary")
        if previous is None or visible is None:
            hint, seen = torch.zeros_like(noisy), torch.zeros_like(noisy[:, :1])
        else:
            seen = visible.to(noisy.dtype)
            # Pixel by pixel, as one may be visible without its neighbours; selected rather than
            # multiplied, as 0 * NaN is NaN.
            hint = torch.where(seen > 0, seen * (previous - enlarged) / self.config.residual, 0)
        embedding = self.time(_waves(time).to(self.time.weight.dtype))
        if words is not None and self.words is not None:
            embedding = embedding + self.words(words)
        embedding = F.silu(self.mix(F.silu(embedding)))
        return self._unet(torch.cat([noisy, 2 * enlarged - 1, hint, seen], 1), embedding)

    def residual(self, image: Tensor, enlarged: Tensor) -> Tensor:
        """Return what ``image`` has that the enlarged decode has not, in units of the network."""
        whole = image - enlarged
        mean = coarse(whole)
        return mean / self.config.residual + (whole - mean) / self.config.detail

    def image(self, residual: Tensor, enlarged: Tensor) -> Tensor:
        """Return the image of a residual, in [0, 1]: the reverse of :meth:`residual`."""
        mean = coarse(residual)
        whole = self.config.residual * mean + self.config.detail * (residual - mean)
        return (enlarged + whole).clamp(0, 1)

    def _unet(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return (B, 3, H, W) of (B, 10, H, W), any size, and the embedding (B, E)."""
        height, width = x.shape[-2:]
        stride = self.config.stride
        x = F.pad(x, (0, -width % stride, 0, -height % stride), mode="replicate")
        x = F.pixel_unshuffle(x, self.config.patch).to(self.stem.weight.dtype)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=False):
            x = level(x, embedding)
            skips.append(x)
            x = shrink(F.pixel_unshuffle(x, 2))  # (B, coarser width, H / 2, W / 2)
        x = self.down[-1](x, embedding)
        for level, grow, skip in zip(
            reversed(self.up), reversed(self.grow), reversed(skips), strict=True
        ):
            x = level(F.pixel_shuffle(grow(x), 2) + skip, embedding)
        x = F.pixel_shuffle(self.head(F.silu(x)), self.config.patch)
        return x[..., :height, :width].float()


def enlarge(decode: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the bicubic enlargement of (B, 3, h, w) to (B, 3, *size), not clamped."""
    return F.interpolate(decode, size, mode="bicubic", align_corners=False)


def coarse(image: Tensor) -> Tensor:
    """Return the mean of each 2 x 2 pixels in the place of these, (B, C, H, W) of even sides."""
    return F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="nearest")


def _waves(time: Tensor) -> Tensor:
    """Return sines and cosines of t, (B, 2 * FREQUENCIES) float32, from 1/4 to 16 periods."""
    periods = torch.logspace(-2, 4, FREQUENCIES, base=2.0, dtype=torch.float32, device=time.device)
    angle = 2 * math.pi * time.float()[:, None] * periods
    return torch.cat([angle.sin(), angle.cos()], 1)


def _check(
    noisy: Tensor, time: Tensor, enlarged: Tensor, previous: Tensor | None, visible: Tensor | None
) -> None:
    check_pixels(noisy, "noisy")
    check_pixels(enlarged, "enlarged")
    check_same_grid(noisy, "noisy", noisy, 3)
    check_same_grid(enlarged, "enlarged", noisy, 3)
    if noisy.shape[2] % 2 or noisy.shape[3] % 2:
        raise ValueError(f"noisy must have even sides, got {tuple(noisy.shape[2:])}")
    if time.shape != noisy.shape[:1]:
        raise ValueError(f"time must be ({len(noisy)},), got {tuple(time.shape)}")
    if (previous is None) != (visible is None):
        raise ValueError("previous and visible must be given together")
    if previous is not None and visible is not None:
        check_same_grid(previous, "previous", noisy, 3)
        check_mask(visible, "visible", noisy)


# ------------------------------------------------------------------ flow matching


def noisy_detail(noise: Tensor, residual: Tensor, time: Tensor) -> Tensor:
    """Return the point at ``time`` on the line from noise to a residual, of detail.

    Args:
        noise: (B, 3, H, W), unit Gaussian.
        residual: (B, 3, H, W), in units of the network.
        time: (B,), in [0, 1].
    """
    x = torch.lerp(noise, residual, time.view(-1, 1, 1, 1))
    return x - coarse(x)


def flow_matching_error(predicted: Tensor, residual: Tensor, time: Tensor) -> Tensor:
    """Return the squared error of the coarse part and of the velocity of detail, (B,).

    Args:
        predicted: (B, 3, H, W), of the residual.
        residual: (B, 3, H, W).
        time: (B,), in [0, 1].
    """
    error = predicted - residual
    mean = coarse(error)
    left = (1 - time).clamp_min(LEAST_LEFT)
    detail = (error - mean).square().mean((1, 2, 3)) / left.square()
    return mean.square().mean((1, 2, 3)) + detail


@torch.no_grad()
def sample(
    net: Upsampler,
    noise: Tensor,
    enlarged: Tensor,
    previous: Tensor | None = None,
    visible: Tensor | None = None,
    words: Tensor | None = None,
    *,
    steps: int = 4,
    hold: float = 0.5,
) -> Tensor:
    """Draw frames: follow the velocity from noise to a residual by Euler steps of equal length.

    Args:
        net: the network.
        noise: (B, 3, H, W), unit Gaussian.
        enlarged: as for :meth:`Upsampler.forward`, and so on.
        previous: likewise.
        visible: likewise.
        words: likewise.
        steps: 1 gives the mean of what is possible; the more, the more detail.
        hold: share of ``previous``, where it is visible, in the residual to which all steps but
            the last lead: the last corrects it. It lowers the warping error and loses no detail.

    Returns:
        (B, 3, H, W) float32 in [0, 1].

    Raises:
        ValueError: ``steps`` is below 1, or shapes do not fit.
    """
    check_whole(steps, "steps", 1)
    x, mean, anchor = noise - coarse(noise), torch.zeros_like(noise), None
    if previous is not None and visible is not None:
        anchor = net.residual(torch.where(visible > 0, previous, enlarged), enlarged)
    for step in range(steps):
        time = x.new_full((len(x),), step / steps)
        residual = net(x, time, enlarged, previous, visible, words)
        if anchor is not None and visible is not None and step < steps - 1:
            residual = torch.lerp(residual, anchor, hold * visible.float())
        part = coarse(residual)
        mean = mean + part / steps
        x = x + (residual - part - x) / (steps - step)  # velocity * (1 / steps)
    return net.image(mean + x, enlarged)
