import pytest
import torch

from flowwarp.ops._shifts import pad_back, shifted_pair


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, -2), (-1, 3), (4, 0), (0, -9)])
def test_pairs_are_the_pixels_whose_partner_is_inside(dy, dx):
    here, there = torch.arange(24.0).reshape(2, 1, 3, 4), torch.arange(24.0).reshape(2, 1, 3, 4)
    one, two = shifted_pair(here, there, dy, dx)
    rows = [y for y in range(3) if 0 <= y + dy < 3]
    columns = [x for x in range(4) if 0 <= x + dx < 4]
    if not rows or not columns:
        assert one.numel() == two.numel() == 0
    else:
        assert torch.equal(one, here[..., rows, :][..., columns])
        partners = there[..., [y + dy for y in rows], :][..., [x + dx for x in columns]]
        assert torch.equal(two, partners)
    back = pad_back(one, here, dy, dx)
    inside = torch.zeros(3, 4, dtype=torch.bool)
    for y in rows:
        inside[y, columns] = True
    assert torch.equal(back, here * inside)
