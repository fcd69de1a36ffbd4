"""k-means: the middles of groups of points that lie close together."""

from __future__ import annotations

import torch
from torch import Tensor

from flowwarp.legacy.models.dvae import nearest
from flowwarp.train.seeding import generator


def kmeans(points: Tensor, count: int, rounds: int, seed: int = 0) -> Tensor:
    """Return middles of groups of points (Lloyd, "Least Squares Quantization in PCM", 1982).

    It begins with a draw of the points. A group that lost all its points begins anew at one that is
    drawn. Beginning with points that lie far apart (k-means++) would spend middles on what occurs
    once.

    Args:
        points: (N, D) float32.
        count: of groups, at most N.
        rounds: of sorting points and taking means.
        seed: of the draws.

    Returns:
        (count, D) float32.

    Raises:
        ValueError: there are fewer points than groups.
    """
    if len(points) < count:
        raise ValueError(f"there must be at least {count} points, got {len(points)}")
    random = generator(seed)
    middles = points[torch.randperm(len(points), generator=random)[:count]].clone()
    for _ in range(rounds):
        group = nearest(points, middles)
        sizes = torch.bincount(group, minlength=count)[:, None]
        sums = torch.zeros_like(middles).index_add_(0, group, points)
        drawn = points[torch.randint(len(points), (count,), generator=random)]
        middles = torch.where(sizes > 0, sums / sizes.clamp_min(1), drawn)
    return middles
