"""k-means: against middles that are known."""

import pytest
import torch

from flowwarp.legacy.train.clusters import kmeans


def test_each_middle_is_the_mean_of_what_is_nearest_to_it():
    torch.manual_seed(0)
    points = torch.randn(400, 2) + 4 * torch.randint(3, (400, 1))
    middles = kmeans(points, 5, 100, seed=2)
    group = torch.cdist(points, middles).argmin(1)
    means = torch.stack([points[group == number].mean(0) for number in range(5)])
    assert torch.allclose(middles, means, atol=1e-4)
    assert torch.equal(kmeans(points, 5, 100, seed=2), middles)
    assert not torch.equal(kmeans(points, 5, 100, seed=3), middles)


def test_a_group_without_points_begins_anew():
    points = torch.cat([torch.zeros(99, 1), torch.ones(1, 1)])  # begins with many equal ones
    assert sorted(kmeans(points, 2, 300).flatten().tolist()) == [0, 1]


def test_more_groups_than_points():
    with pytest.raises(ValueError, match="at least 3 points, got 2"):
        kmeans(torch.zeros(2, 1), 3, 1)
