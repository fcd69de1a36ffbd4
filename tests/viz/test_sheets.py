"""Contact sheets, pixel by pixel."""

import pytest
import torch

from flowwarp.viz.sheets import captioned_sheet, time_slices, video_sheet
from flowwarp.viz.text import text_mask


def test_sheet_by_hand():
    one = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 1, 2) / 10
    other = torch.full((1, 3, 1, 2), 0.5)
    sheet = video_sheet([one, other], every=2, gap=1)
    assert sheet.shape == (3, 3, 5)
    expected = torch.tensor([[0, 0, 1, 0.2, 0.2], [1, 1, 1, 1, 1], [0.5, 0.5, 1, 1, 1]])
    assert torch.allclose(sheet, expected.expand(3, 3, 5))


def test_wrong_rows_are_errors():
    with pytest.raises(ValueError, match="at least one"):
        video_sheet([])
    with pytest.raises(ValueError, match=r"rows\[0\]"):
        video_sheet([torch.zeros(3, 4, 4)])


def test_captions_are_left_of_their_rows():
    black = torch.zeros(2, 3, 20, 10)
    sheet = captioned_sheet([("o", black), ("n", black)], columns=3)
    assert sheet.shape == (3, 42, 3 * 6 + 8 + 22)
    assert torch.equal(sheet[:, :, -22:], video_sheet([black, black]))
    assert torch.equal(sheet[0, 4:11, 4:10], 1 - text_mask("o"))
    assert torch.equal(sheet[0, 26:33, 4:10], 1 - text_mask("n"))
    sheet[:, 4:11, 4:10] = sheet[:, 26:33, 4:10] = 1
    assert (sheet[:, :, :-22] == 1).all()
    long = captioned_sheet([("word " * 99, black)], columns=4)
    assert long.shape == (3, 20, 4 * 6 + 8 + 22)


def test_time_slices_by_hand():
    video = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) / 120
    sliced = time_slices([video, 1 - video], 2, tall=3)
    assert sliced.shape == (3, 6, 5 + 4 + 5)
    assert torch.equal(sliced[:, 4, :5], video[1, :, 2])
    assert torch.equal(sliced[:, 0, -5:], 1 - video[0, :, 2])
