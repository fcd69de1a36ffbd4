"""Sheets of videos, pixel by pixel."""

import pytest
import torch

from flowwarp.viz.sheets import video_sheet


def test_sheet_by_hand():
    one = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 1, 2) / 10
    other = torch.full((1, 3, 1, 2), 0.5)
    sheet = video_sheet([one, other], every=2, gap=1)
    assert sheet.shape == (3, 3, 5)
    expected = torch.tensor([[0, 0, 1, 0.2, 0.2], [1, 1, 1, 1, 1], [0.5, 0.5, 1, 1, 1]])
    assert torch.allclose(sheet, expected.expand(3, 3, 5))


def test_rows_that_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        video_sheet([])
    with pytest.raises(ValueError, match=r"rows\[0\]"):
        video_sheet([torch.zeros(3, 4, 4)])
