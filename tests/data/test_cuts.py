"""Cuts between scenes, and frames in which nothing moved."""

import pytest
import torch

from flowwarp.data.cuts import average_blocks, changed_share, is_cut


def test_from_black_and_to_black_is_a_cut():
    """A board shows black near any place, but black does not show the board."""
    squares = torch.arange(256) // 16 % 2
    board = (squares[:, None] == squares).float().expand(3, -1, -1)
    black = torch.zeros(3, 256, 256)
    assert is_cut(board, black)
    assert is_cut(black, board)
    assert not is_cut(board, board.roll(16, 2))


def test_blocks_are_means_of_8_by_8_pixels():
    frame = torch.zeros(3, 16, 24, dtype=torch.uint8)
    frame[:, 8:, 16:] = 255
    blocks = average_blocks(frame)
    assert blocks.shape == (3, 2, 3)
    assert blocks[0].tolist() == [[0, 0, 0], [0, 0, 1]]
    assert changed_share(blocks, torch.zeros(3, 2, 3)) == pytest.approx(1 / 6)
    assert average_blocks(torch.zeros(3, 3, 5)).shape == (3, 1, 1)


def test_frames_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="of one size"):
        is_cut(torch.zeros(3, 8, 8), torch.zeros(3, 8, 9))
