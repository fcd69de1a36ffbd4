"""LPIPS, a perceptual distance between images.

Its weights are not part of this package: ``tools/lpips_weights.py`` converts them from one that has
them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Mean and standard deviation of ImageNet's RGB, for pixels in [-1, 1].
_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)
# Convolutions of AlexNet: input channels, output channels, kernel size, stride, padding.
_LAYERS = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_POOLED = (1, 2)  # indices of layers after a max pooling
SMALLEST = 31  # side in pixels below which the last layer has no output
_EPSILON = 1e-10  # against division by 0, as in the original


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, version 0.1 with AlexNet.

    The features of five layers are scaled to unit length in each pixel. Their squared differences
    are weighted per channel, with weights fitted to human judgements, and averaged over pixels
    (Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
    2018, equation 1).

    >>> LPIPS()(torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)).shape
    torch.Size([2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(*layer) for layer in _LAYERS)
        widths = [width for _, width, *_ in _LAYERS]
        self.weights = nn.ParameterList(torch.full((width,), 1 / width) for width in widths)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the distance of each pair of images, (N,) float32; 0 if they are equal.

        Args:
            images: (N, 3, H, W) in [0, 1], 31 x 31 or larger.
            targets: the same shape, in [0, 1].

        Raises:
            TypeError: an argument is not a floating-point tensor.
            ValueError: a shape is wrong.
        """
        if not (images.is_floating_point() and targets.is_floating_point()):
            raise TypeError(
                f"images and targets must be floating-point, got {images.dtype}, {targets.dtype}"
            )
        if images.shape != targets.shape or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                "images and targets must both be (N, 3, H, W), "
                f"got {tuple(images.shape)} and {tuple(targets.shape)}"
            )
        if min(images.shape[2:]) < SMALLEST:
            raise ValueError(
                f"images must be {SMALLEST} x {SMALLEST} or larger, got {tuple(images.shape[2:])}"
            )
        total = images.new_zeros(len(images), dtype=torch.float32)
        pairs = zip(self._features(images), self._features(targets), strict=True)
        for weight, (a, b) in zip(self.weights, pairs, strict=True):
            squared = (_unit(a) - _unit(b)).square()  # (N, C, h, w)
            total = total + torch.einsum("nchw,c->nhw", squared, weight).mean((1, 2))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the features of each layer, (N, C, h, w), of images (N, 3, H, W) in [0, 1]."""
        mean, deviation = images.new_tensor([_MEAN, _DEVIATION]).float()[:, :, None, None]
        x, features = (2 * images.float() - 1 - mean) / deviation, []
        for index, layer in enumerate(self.layers):
            if index in _POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(layer(x))
            features.append(x)
        return features


def _unit(features: Tensor) -> Tensor:
    """Scale the features (N, C, h, w) of each pixel to unit length."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
