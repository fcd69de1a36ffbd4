"""The pixel font."""

import pytest
import torch

from flowwarp.viz.text import text_block, text_mask


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
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-+"
    assert len({tuple(text_mask(character).flatten().tolist()) for character in characters}) == len(
        characters
    )
    with pytest.raises(KeyError):
        text_mask("!")


def test_lines_break_between_words():
    block = text_block("a red\N{SNOWMAN}knight", 6)
    assert block.shape == (2 * 9, 6 * 6)
    assert torch.equal(block[:7], text_mask("a red "))
    assert torch.equal(block[9:16], text_mask("knight"))
    assert not block[7:9].any()
    assert text_block("", 3).shape == (9, 18)
