"""How different two pictures look: LPIPS, whose weights are not part of this package.

``tools/lpips_weights.py`` makes a file of them from a package that ships them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Of ImageNet, for pixels in [-1, 1].
_MEAN = (-0.030, -0.088, -0.188)
_SPREAD = (0.458, 0.448, 0.450)
# Of AlexNet: channels in and out, size of the kernel, stride, padding.
_LAYERS = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_POOLED = (1, 2)  # layers whose input is halved
LEAST = 31  # px that the last layer needs to see anything
_EPSILON = 1e-10


class LPIPS(nn.Module):
    """The learned perceptual image patch similarity, version 0.1 with AlexNet.

    Features of five layers of a network for recognition are brought to unit length, place by place;
    their squared differences are weighed by what people took for different (Zhang et al., The
    Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018).

    >>> LPIPS()(torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)).shape
    torch.Size([2])
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(*layer) for layer in _LAYERS)
        widths = [width for _, width, *_ in _LAYERS]
        self.weights = nn.ParameterList(torch.full((width,), 1 / width) for width in widths)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return how different pictures are, (N,) float32; 0 if they are the same.

        Args:
            images: (N, 3, H, W) in [0, 1], 31 x 31 or larger.
            targets: likewise.

        Raises:
            TypeError: they are not floating-point.
            ValueError: they have other shapes.
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
        if min(images.shape[2:]) < LEAST:
            raise ValueError(
                f"pictures must have {LEAST} x {LEAST} pixels, got {tuple(images.shape[2:])}"
            )
        total = images.new_zeros(len(images), dtype=torch.float32)
        pairs = zip(self._see(images), self._see(targets), strict=True)
        for weight, (one, other) in zip(self.weights, pairs, strict=True):
            apart = (_unit(one) - _unit(other)).square()
            total = total + torch.einsum("nchw,c->nhw", apart, weight).mean((1, 2))
        return total

    def _see(self, images: Tensor) -> list[Tensor]:
        """Return the features of each layer."""
        mean, spread = images.new_tensor([_MEAN, _SPREAD]).float()[:, :, None, None]
        x, found = (2 * images.float() - 1 - mean) / spread, []
        for number, layer in enumerate(self.layers):
            if number in _POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(layer(x))
            found.append(x)
        return found


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
