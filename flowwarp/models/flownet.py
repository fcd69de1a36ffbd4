"""The flow network: a feature pyramid, and one decoder that every level shares.

From the coarsest level to the finest, the features of frame 2 are warped by the flow so far, a
local cost volume compares them with those of frame 1, and the decoder corrects the flow (PWC-Net,
Sun et al., CVPR 2018; the shared decoder is ARFlow's, Liu et al., CVPR 2020). A hidden state goes
up the pyramid with the flow. The last level's flow is brought to full resolution by a learned
convex combination of its neighbours (RAFT, Teed and Deng, ECCV 2020). Both directions are computed
in one call, since the features serve both.

No layer normalises: weights are scaled for unit variance at initialisation. Features are compared
by direction, after the mean over both frames is taken off, without which all directions are alike
(Jonschkowski et al., "What Matters in Unsupervised Optical Flow", ECCV 2020, section 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.ops.correlation import correlation
from flowwarp.ops.fields import resize_flow
from flowwarp.ops.warping import warp
from flowwarp.tensors import check_pixels, check_same_grid, check_whole, check_wholes

FINEST = 1  # index of the level at 1/4, where the decoder ends
SLOPE = 0.1  # of the leaky ReLU
FAINT = 1e-2  # a shorter feature has no direction of its own
CONTRAST = 4  # brings cosines of features, whose deviation is about 1/4, to unit variance


@dataclass(frozen=True)
class FlowNetConfig:
    """Sizes of the network.

    Args:
        widths: channels of the features at 1/2, 1/4, 1/8 … of the resolution.
        projected: channels of the features as the decoder sees them, the same at every level.
        decoder: channels of the decoder's convolutions; the last are the hidden state.
        context: channels of the dilated convolutions that smooth the decoder's result.
        radius: of the cost volume, in pixels of each level.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 112, 128)
    projected: int = 32
    decoder: tuple[int, ...] = (96, 96, 64, 32)
    context: int = 48
    radius: int = 4

    def __post_init__(self) -> None:
        for name in ("widths", "decoder"):
            check_wholes(getattr(self, name), name, 1)
        if len(self.widths) <= FINEST:
            raise ValueError(f"widths must be {FINEST + 1} or more, got {len(self.widths)}")
        for name in ("projected", "context", "radius"):
            check_whole(getattr(self, name), name, 1)

    @property
    def stride(self) -> int:
        """Full resolution over that of the coarsest level."""
        return int(2 ** len(self.widths))


SMALL = FlowNetConfig(
    widths=(12, 24, 40, 56, 64, 64), projected=24, decoder=(64, 64, 48, 24), context=32
)
TINY = FlowNetConfig(
    widths=(8, 16, 24, 32, 32), projected=16, decoder=(32, 32, 16), context=16, radius=3
)


class FlowPyramid(NamedTuple):  # which torch.export knows, unlike dataclasses
    """Flow of one direction.

    Args:
        flow: (B, 2, H, W) at full resolution.
        levels: the flow of each level, coarsest first, each in pixels of its own level, for the
            frame padded to a multiple of the stride.
    """

    flow: Tensor
    levels: tuple[Tensor, ...]


def convolution(
    inputs: int, outputs: int, *, size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Return a convolution that, with the leaky ReLU after it, keeps variance (He et al., 2015)."""
    padding = dilation * ((size - 1) // 2)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, dilation)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Encoder(nn.Module):
    """Features at every level of the pyramid, finest first."""

    def __init__(self, config: FlowNetConfig) -> None:
        super().__init__()
        levels, inputs = [], 3
        for width in config.widths:
            levels.append(
                nn.Sequential(
                    # Of even size: a pixel then lies in the middle of the four it was made of, as
                    # in image resizing, so that flow and features stay in register between levels.
                    convolution(inputs, width, size=4, stride=2),
                    nn.LeakyReLU(SLOPE, inplace=True),
                    convolution(width, width),
                    nn.LeakyReLU(SLOPE, inplace=True),
                )
            )
            inputs = width
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (B, width, H / 2^k, W / 2^k) for each level k from 1."""
        features, x = [], image * 2 - 1
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """From features and cost volume to a correction of the flow and a new hidden state."""

    def __init__(self, config: FlowNetConfig) -> None:
        super().__init__()
        self.radius = config.radius
        hidden = config.decoder[-1]
        inputs = (2 * config.radius + 1) ** 2 + config.projected + 4 + hidden
        layers: list[nn.Module] = []
        for width in config.decoder:
            layers += [convolution(inputs, width), nn.LeakyReLU(SLOPE, inplace=True)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.context = nn.Sequential(
            convolution(hidden + 2, config.context),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(config.context, config.context, dilation=2),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(config.context, config.context, dilation=4),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(config.context, hidden, dilation=8),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.sharpness = nn.Parameter(torch.tensor(2.0))
        self.first = convolution(hidden, 2)
        self.second = convolution(hidden, 2)
        for layer in (self.first, self.second):  # flow begins near 0 and is corrected from there
            with torch.no_grad():
                layer.weight.mul_(0.01)

    def forward(
        self, own: Tensor, other: Tensor, flow: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected flow, in fp32, and the hidden state.

        Args:
            own: (B, projected, H, W) features of the frame whose flow is wanted.
            other: those of the frame it leads to.
            flow: (B, 2, H, W) so far, in pixels of this level.
            hidden: (B, decoder[-1], H, W).
        """
        seen = warp(other, flow)
        # The mean of products of directions, times C: cosines.
        cost = correlation(_direction(own), _direction(seen), self.radius)
        cost = cost * (CONTRAST * own.shape[1])
        peak = self._peak(cost)
        x = torch.cat([F.leaky_relu(cost, SLOPE), own, flow.to(own.dtype), peak, hidden], 1)
        hidden = self.layers(x)
        flow = flow + self.first(hidden).float()
        hidden = hidden + self.context(torch.cat([hidden, flow.to(hidden.dtype)], 1))
        return flow + self.second(hidden).float(), hidden

    def _peak(self, cost: Tensor) -> Tensor:
        """Return where the cost volume is highest, in radii, by soft argmax.

        A decoder learns to see that from 81 channels, but only late.
        """
        steps = torch.arange(-self.radius, self.radius + 1, device=cost.device)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        likely = (self.sharpness * cost.float()).softmax(1)
        offsets = torch.stack([dx.flatten(), dy.flatten()]).to(likely)  # (2, (2 r + 1)^2)
        return torch.einsum("ck,bkhw->bchw", offsets / self.radius, likely).to(cost.dtype)


class FlowNet(nn.Module):
    """Optical flow of two frames of any size, in both directions.

    >>> net = FlowNet(TINY)
    >>> forward, backward = net(torch.rand(1, 3, 40, 70), torch.rand(1, 3, 40, 70))
    >>> forward.flow.shape
    torch.Size([1, 2, 40, 70])
    """

    def __init__(self, config: FlowNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FlowNetConfig()
        self.encoder = Encoder(config)
        self.projections = nn.ModuleList(
            convolution(width, config.projected, size=1) for width in config.widths[FINEST:]
        )
        self.decoder = Decoder(config)
        scale = 2 ** (FINEST + 1)
        self.upsampling = nn.Sequential(
            convolution(config.decoder[-1], 64),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(64, 9 * scale**2, size=1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image1: Tensor, image2: Tensor, *, skip: int = 0
    ) -> tuple[FlowPyramid, FlowPyramid]:
        """Return the flow from frame 1 to frame 2 and back.

        Args:
            image1: (B, 3, H, W) in [0, 1].
            image2: (B, 3, H, W) in [0, 1].
            skip: how many of the finest levels to leave out; flow is then brought to full
                resolution bilinearly. The decoder being shared, a network can learn most of what
                it needs at the coarse levels, in a fraction of the time.

        Raises:
            ValueError: the frames differ in size, have no pixels or not 3 channels, or no level is
                left.
        """
        for image, name in ((image1, "image1"), (image2, "image2")):
            check_pixels(image, name)
            if image.shape[1] != 3:
                raise ValueError(f"{name} must have 3 channels, got {image.shape[1]}")
        check_same_grid(image2, "image2", image1)
        batch, _, height, width = image1.shape
        if not 0 <= skip < len(self.projections):
            raise ValueError(f"skip must be in [0, {len(self.projections) - 1}], got {skip}")
        images = self._pad(torch.cat([image1, image2]))
        own = [
            project(features)
            for project, features in zip(
                self.projections[skip:], self.encoder(images)[FINEST + skip :], strict=True
            )
        ]
        own = [_centre(features) for features in own]
        other = [features.roll(batch, 0) for features in own]  # frame 2 for frame 1, and reverse

        coarsest = own[-1]
        flow = coarsest.new_zeros(2 * batch, 2, *coarsest.shape[-2:], dtype=torch.float32)
        hidden = coarsest.new_zeros(2 * batch, self.config.decoder[-1], *coarsest.shape[-2:])
        levels: list[Tensor] = []
        for mine, theirs in zip(reversed(own), reversed(other), strict=True):
            if levels:
                size = mine.shape[-2:]
                flow = 2 * F.interpolate(flow, size, mode="bilinear", align_corners=False)
                hidden = F.interpolate(hidden, size, mode="bilinear", align_corners=False)
            flow, hidden = self.decoder(mine, theirs, flow, hidden)
            levels.append(flow)
        if skip:
            full = resize_flow(flow, (images.shape[-2], images.shape[-1]))
        else:
            full = convex_upsample(flow, self.upsampling(hidden).float())
        full = full[..., :height, :width]
        forward = FlowPyramid(full[:batch], tuple(level[:batch] for level in levels))
        backward = FlowPyramid(full[batch:], tuple(level[batch:] for level in levels))
        return forward, backward

    def _pad(self, images: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the stride."""
        height, width = images.shape[-2:]
        stride = self.config.stride
        return F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")


def convex_upsample(flow: Tensor, logits: Tensor) -> Tensor:
    """Upsample flow as convex combinations of the 3 x 3 vectors around each (RAFT, section 3.3).

    Args:
        flow: (B, 2, H, W).
        logits: (B, 9 * s * s, H, W) for a scale s.

    Returns:
        (B, 2, s * H, s * W), in pixels of that size.
    """
    batch, _, height, width = flow.shape
    scale = round((logits.shape[1] / 9) ** 0.5)
    weights = logits.view(batch, 9, 1, scale**2, height, width).softmax(1).unbind(1)
    # Repeating the border keeps a constant flow constant there.
    around = F.unfold(F.pad(scale * flow, (1, 1, 1, 1), mode="replicate"), 3)
    vectors = around.view(batch, 2, 9, 1, height, width).unbind(2)
    # One by one: all products at once are nine times what memory has to hold.
    combined = weights[0] * vectors[0]  # (B, 2, s * s, H, W)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        combined = torch.addcmul(combined, weight, vector)
    combined = combined.view(batch, 2, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    return combined.reshape(batch, 2, scale * height, scale * width)


def _centre(features: Tensor) -> Tensor:
    """Take off the mean over both frames of each example, (2 B, C, H, W) with frame 2 after B."""
    mean = features.float().mean((2, 3), keepdim=True)
    mean = (mean + mean.roll(len(mean) // 2, 0)) / 2
    return features - mean.to(features.dtype)


def _direction(features: Tensor) -> Tensor:
    features32 = features.float()
    # As F.normalize does, whose norm over channels takes thirty times as long.
    squared = features32.square().sum(1, keepdim=True)
    return (features32 * squared.clamp_min(FAINT**2).rsqrt()).to(features.dtype)
