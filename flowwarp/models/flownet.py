"""The flow network: a feature pyramid, and one decoder that every level shares.

1. An encoder turns each frame into features at 1/2, 1/4, 1/8 … of its resolution.
2. From the coarsest level to the finest, the features of frame 2 are warped by the flow found so
   far, a local cost volume compares them with those of frame 1, and the decoder corrects the flow
   (PWC-Net, Sun et al., CVPR 2018). One decoder serves all levels (ARFlow, Liu et al., CVPR 2020)
   and passes a hidden state to the next.
3. The flow at 1/4 is upsampled to full resolution by learned convex combinations (RAFT, Teed and
   Deng, ECCV 2020).

Both directions are computed in one call, since they share the features.

No layer normalises: weights are scaled for unit variance at initialisation (He et al., ICCV 2015).
Features are compared by direction, after the mean over both frames is subtracted; with the mean,
all directions would be alike (Jonschkowski et al., "What Matters in Unsupervised Optical Flow",
ECCV 2020, section 4.1).
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

FLOW_LEVEL = 1  # index into `widths` of the level at 1/4, the last one decoded
SLOPE = 0.1  # negative slope of the leaky ReLU
MIN_NORM = 1e-2  # lower bound of the divisor in `_unit`: noise is not scaled up to norm 1
COST_SCALE = 4  # cosines of features have a standard deviation of about 1/4; this makes it 1

# ------------------------------------------------------------------ config


@dataclass(frozen=True)
class FlowNetConfig:
    """Sizes of the network.

    Args:
        widths: channels of the features at 1/2, 1/4, 1/8 … of the resolution.
        projected: channels to which the decoder's input is projected at every level.
        decoder: output channels of the decoder's 3 x 3 convolutions, in order; the last is the
            width of the hidden state.
        context: channels of the dilated convolutions that refine the decoder's output.
        radius: largest displacement in the cost volume, in pixels of each level.
    """

    widths: tuple[int, ...] = (16, 32, 64, 96, 112, 128)
    projected: int = 32
    decoder: tuple[int, ...] = (96, 96, 64, 32)
    context: int = 48
    radius: int = 4

    def __post_init__(self) -> None:
        for name in ("widths", "decoder"):
            check_wholes(getattr(self, name), name, 1)
        if len(self.widths) <= FLOW_LEVEL:
            raise ValueError(f"widths must be {FLOW_LEVEL + 1} or more, got {len(self.widths)}")
        for name in ("projected", "context", "radius"):
            check_whole(getattr(self, name), name, 1)

    @property
    def stride(self) -> int:
        """Downsampling factor of the coarsest level; frames are padded to a multiple of it."""
        return int(2 ** len(self.widths))


SMALL = FlowNetConfig(
    widths=(12, 24, 40, 56, 64, 64), projected=24, decoder=(64, 64, 48, 24), context=32
)
TINY = FlowNetConfig(
    widths=(8, 16, 24, 32, 32), projected=16, decoder=(32, 32, 16), context=16, radius=3
)


# ------------------------------------------------------------------ blocks


def convolution(
    inputs: int, outputs: int, *, size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Return a convolution without activation, initialised for a leaky ReLU that follows it."""
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
                    # A kernel of even size: each output pixel lies in the middle of 2 x 2 inputs,
                    # as in image resizing, so that flow and features of all levels are aligned.
                    convolution(inputs, width, size=4, stride=2),
                    nn.LeakyReLU(SLOPE, inplace=True),
                    convolution(width, width),
                    nn.LeakyReLU(SLOPE, inplace=True),
                )
            )
            inputs = width
        self.levels = nn.ModuleList(levels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return (B, widths[k - 1], H / 2^k, W / 2^k) for levels k from 1, of (B, 3, H, W)."""
        features, x = [], image * 2 - 1  # [0, 1] to [-1, 1]
        for level in self.levels:
            x = level(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Corrects the flow of one level, given the features of both frames."""

    def __init__(self, config: FlowNetConfig) -> None:
        super().__init__()
        self.radius = config.radius
        hidden = config.decoder[-1]
        # Cost volume, features of frame 1, flow (2), best match (2), hidden state.
        inputs = (2 * config.radius + 1) ** 2 + config.projected + 4 + hidden
        layers: list[nn.Module] = []
        for width in config.decoder:
            layers += [convolution(inputs, width), nn.LeakyReLU(SLOPE, inplace=True)]
            inputs = width
        self.layers = nn.Sequential(*layers)
        # Dilations 1, 2, 4, 8 see 31 x 31 pixels (PWC-Net's context network).
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
        self.sharpness = nn.Parameter(torch.tensor(2.0))  # inverse temperature of the soft argmax
        # Two flow heads: before and after the context network.
        self.first = convolution(hidden, 2)
        self.second = convolution(hidden, 2)
        for layer in (self.first, self.second):  # the initial flow is near 0
            with torch.no_grad():
                layer.weight.mul_(0.01)

    def forward(
        self, features1: Tensor, features2: Tensor, flow: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the corrected flow, in float32, and the new hidden state.

        Args:
            features1: (B, projected, H, W) of the frame in whose pixels the flow is given.
            features2: (B, projected, H, W) of the other frame, to which the flow points.
            flow: (B, 2, H, W) float32, upsampled from the coarser level, in pixels of this level.
            hidden: (B, decoder[-1], H, W).
        """
        warped = warp(features2, flow)  # (B, projected, H, W)
        cost = correlation(_unit(features1), _unit(warped), self.radius)  # (B, (2 r + 1)^2, H, W)
        # Correlation is a mean over channels; times their number it is the cosine.
        cost = cost * (COST_SCALE * features1.shape[1])
        match = self._best_match(cost)  # (B, 2, H, W)
        x = torch.cat(
            [F.leaky_relu(cost, SLOPE), features1, flow.to(features1.dtype), match, hidden], 1
        )
        hidden = self.layers(x)  # (B, decoder[-1], H, W)
        flow = flow + self.first(hidden).float()  # flow is float32 under autocast, too
        hidden = hidden + self.context(torch.cat([hidden, flow.to(hidden.dtype)], 1))
        return flow + self.second(hidden).float(), hidden

    def _best_match(self, cost: Tensor) -> Tensor:
        """Return the displacement of the highest similarity, by soft argmax.

        It is an extra input: the decoder itself learns to read the maximum off the (2 r + 1)^2
        channels only late in training.

        Returns:
            (B, 2, H, W), as a fraction of the radius.
        """
        steps = torch.arange(-self.radius, self.radius + 1, device=cost.device)
        dy, dx = torch.meshgrid(steps, steps, indexing="ij")
        weights = (self.sharpness * cost.float()).softmax(1)  # (B, (2 r + 1)^2, H, W)
        offsets = torch.stack([dx.flatten(), dy.flatten()]).to(weights)  # (2, (2 r + 1)^2)
        return torch.einsum("ck,bkhw->bchw", offsets / self.radius, weights).to(cost.dtype)


def _subtract_mean(features: Tensor) -> Tensor:
    """Subtract the mean over all pixels of both frames, per example and channel.

    Args:
        features: (2 B, C, H, W); row B + b is frame 2 of example b.
    """
    mean = features.float().mean((2, 3), keepdim=True)  # (2 B, C, 1, 1) of each frame
    mean = (mean + mean.roll(len(mean) // 2, 0)) / 2  # of both
    return features - mean.to(features.dtype)


def _unit(features: Tensor) -> Tensor:
    """Divide the features (B, C, H, W) of each pixel by their norm, or by MIN_NORM if larger."""
    features32 = features.float()
    # The same as F.normalize, whose norm over channels takes thirty times as long.
    squared = features32.square().sum(1, keepdim=True)  # (B, 1, H, W)
    return (features32 * squared.clamp_min(MIN_NORM**2).rsqrt()).to(features.dtype)


def convex_upsample(flow: Tensor, logits: Tensor) -> Tensor:
    """Upsample flow: each vector is a convex combination of the 3 x 3 coarse ones around it.

    Source: RAFT, section 3.3.

    Args:
        flow: (B, 2, H, W), in pixels.
        logits: (B, 9 * s * s, H, W) for a scale s; their softmax over 9 gives the weights.

    Returns:
        (B, 2, s * H, s * W), in pixels of that size.
    """
    batch, _, height, width = flow.shape
    scale = round((logits.shape[1] / 9) ** 0.5)
    logits = logits.view(batch, 9, 1, scale**2, height, width)
    weights = logits.softmax(1).unbind(1)  # 9 of (B, 1, s * s, H, W)
    # Replicate padding keeps a constant flow constant at the border.
    patches = F.unfold(F.pad(scale * flow, (1, 1, 1, 1), mode="replicate"), 3)  # (B, 2 * 9, H * W)
    vectors = patches.view(batch, 2, 9, 1, height, width).unbind(2)  # 9 of (B, 2, 1, H, W)
    # One after the other: all products at once need nine times the memory.
    combined = weights[0] * vectors[0]  # (B, 2, s * s, H, W)
    for weight, vector in zip(weights[1:], vectors[1:], strict=True):
        combined = torch.addcmul(combined, weight, vector)
    combined = combined.view(batch, 2, scale, scale, height, width)
    combined = combined.permute(0, 1, 4, 2, 5, 3)  # (B, 2, H, s, W, s)
    return combined.reshape(batch, 2, scale * height, scale * width)


# ------------------------------------------------------------------ net


class FlowPyramid(NamedTuple):  # torch.export supports it, but no dataclasses
    """Flow of one direction.

    Args:
        flow: (B, 2, H, W) at full resolution.
        levels: the flow of each level, (B, 2, h, w), coarsest first. Each is in pixels of its own
            level, for the frame padded to a multiple of the stride.
    """

    flow: Tensor
    levels: tuple[Tensor, ...]


class FlowNet(nn.Module):
    """Optical flow between two frames of any size, in both directions.

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
            convolution(width, config.projected, size=1) for width in config.widths[FLOW_LEVEL:]
        )
        self.decoder = Decoder(config)
        scale = 2 ** (FLOW_LEVEL + 1)  # from 1/4 to full resolution
        self.upsampling = nn.Sequential(
            convolution(config.decoder[-1], 64),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(64, 9 * scale**2, size=1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image1: Tensor, image2: Tensor, *, skip: int = 0
    ) -> tuple[FlowPyramid, FlowPyramid]:
        """Return the flow from frame 1 to frame 2, and back.

        Args:
            image1: (B, 3, H, W) in [0, 1].
            image2: (B, 3, H, W) in [0, 1].
            skip: number of the finest levels to leave out; flow of the last level is then upsampled
                bilinearly. Since all levels share the decoder, early training needs only the coarse
                levels, which take a fraction of the time.

        Raises:
            ValueError: the frames differ in size, have no pixels or not 3 channels, or ``skip``
                leaves no level.
        """
        for image, name in ((image1, "image1"), (image2, "image2")):
            check_pixels(image, name)
            if image.shape[1] != 3:
                raise ValueError(f"{name} must have 3 channels, got {image.shape[1]}")
        check_same_grid(image2, "image2", image1)
        batch, _, height, width = image1.shape
        if not 0 <= skip < len(self.projections):
            raise ValueError(f"skip must be in [0, {len(self.projections) - 1}], got {skip}")

        images = self._pad(torch.cat([image1, image2]))  # (2 B, 3, H', W')
        encoded = self.encoder(images)[FLOW_LEVEL + skip :]  # only the levels used, finest first
        projected = [
            project(features)
            for project, features in zip(self.projections[skip:], encoded, strict=True)
        ]
        # Rows 0 to B - 1 are frame 1, and their partners are rows B to 2 B - 1, frame 2. For the
        # other half the roles are exchanged, which gives the backward flow.
        features1 = [_subtract_mean(features) for features in projected]
        features2 = [features.roll(batch, 0) for features in features1]

        coarsest = features1[-1]  # (2 B, projected, h, w)
        flow = coarsest.new_zeros(2 * batch, 2, *coarsest.shape[-2:], dtype=torch.float32)
        hidden = coarsest.new_zeros(2 * batch, self.config.decoder[-1], *coarsest.shape[-2:])
        levels: list[Tensor] = []
        for level1, level2 in zip(reversed(features1), reversed(features2), strict=True):
            if levels:  # from the coarser level: twice as many pixels, so twice the length
                size = level1.shape[-2:]
                flow = 2 * F.interpolate(flow, size, mode="bilinear", align_corners=False)
                hidden = F.interpolate(hidden, size, mode="bilinear", align_corners=False)
            flow, hidden = self.decoder(level1, level2, flow, hidden)
            levels.append(flow)

        if skip:
            full = resize_flow(flow, (images.shape[-2], images.shape[-1]))
        else:
            full = convex_upsample(flow, self.upsampling(hidden).float())
        full = full[..., :height, :width]  # (2 B, 2, H, W) without the padding
        forward = FlowPyramid(full[:batch], tuple(level[:batch] for level in levels))
        backward = FlowPyramid(full[batch:], tuple(level[batch:] for level in levels))
        return forward, backward

    def _pad(self, images: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the stride."""
        height, width = images.shape[-2:]
        stride = self.config.stride
        return F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")
