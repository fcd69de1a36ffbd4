"""Sheets of videos, pixel by pixel."""

import pytest
import torch

from flowwarp.viz._text import text_block, text_mask
from flowwarp.viz.sheets import captioned_sheet, time_slices, video_sheet


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


def test_letters_by_hand():
    ink = text_mask("To")
    rows = ["".join(" #"[int(dot)] for dot in row) for row in ink.tolist()]
    assert rows == [
        " #          ",
        " #          ",
        "####   ###  ",
        " #    #   # ",
        " #    #   # ",
        " #    #   # ",
        "  ##   ###  ",
    ]
    signs = "abcdefghijklmnopqrstuvwxyz0123456789.,'-+"
    assert len({tuple(text_mask(sign).flatten().tolist()) for sign in signs}) == len(signs)
    with pytest.raises(KeyError):
        text_mask("!")


def test_blocks_break_between_words():
    block = text_block("a red\N{SNOWMAN}knight", 6)
    assert block.shape == (2 * 9, 6 * 6)
    assert torch.equal(block[:7], text_mask("a red "))
    assert torch.equal(block[9:16], text_mask("knight"))
    assert not block[7:9].any()
    assert text_block("", 3).shape == (9, 18)


def test_a_caption_stands_beside_its_row():
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


def test_slices_by_hand():
    video = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5) / 120
    sliced = time_slices([video, 1 - video], 2, tall=3)
    assert sliced.shape == (3, 6, 5 + 4 + 5)
    assert torch.equal(sliced[:, 4, :5], video[1, :, 2])
    assert torch.equal(sliced[:, 0, -5:], 1 - video[0, :, 2])
