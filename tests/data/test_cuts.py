"""Cuts between scenes, and frames in which nothing moved."""

import torch

from flowwarp.data.cuts import is_cut


def test_from_black_and_to_black_is_a_cut():
    """A board shows black near any place, but black does not show the board."""
    squares = torch.arange(256) // 16 % 2
    board = (squares[:, None] == squares).float().expand(3, -1, -1)
    black = torch.zeros(3, 256, 256)
    assert is_cut(board, black)
    assert is_cut(black, board)
    assert not is_cut(board, board.roll(16, 2))
