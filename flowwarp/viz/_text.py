"""A 5 × 7 pixel font for the few signs a scale needs, so that no font library is loaded."""

from __future__ import annotations

import torch
from torch import Tensor

HEIGHT = 7
ADVANCE = 6  # 5 columns and a gap

# Seven rows of five columns each, top to bottom; "#" is ink.
_GLYPHS = {
    "0": ".###. #...# #..## #.#.# ##..# #...# .###.",
    "1": "..#.. .##.. ..#.. ..#.. ..#.. ..#.. .###.",
    "2": ".###. #...# ....# ...#. ..#.. .#... #####",
    "3": "##### ...#. ..#.. ...#. ....# #...# .###.",
    "4": "...#. ..##. .#.#. #..#. ##### ...#. ...#.",
    "5": "##### #.... ####. ....# ....# #...# .###.",
    "6": "..##. .#... #.... ####. #...# #...# .###.",
    "7": "##### ....# ...#. ..#.. .#... .#... .#...",
    "8": ".###. #...# #...# .###. #...# #...# .###.",
    "9": ".###. #...# #...# .#### ....# ...#. .##..",
    ".": "..... ..... ..... ..... ..... .##.. .##..",
    "-": "..... ..... ..... ##### ..... ..... .....",
    "+": "..... ..#.. ..#.. ##### ..#.. ..#.. .....",
    "e": "..... ..... .###. #...# ##### #.... .###.",
    "p": "..... ..... ####. #...# ####. #.... #....",
    "x": "..... ..... #...# .#.#. ..#.. .#.#. #...#",
    " ": "..... ..... ..... ..... ..... ..... .....",
}


def text_mask(text: str) -> Tensor:
    """Write ``text`` in one line; (7, 6 · len(text)) float, 1 where there is ink.

    Raises:
        KeyError: a sign other than digits, ``.``, ``-``, ``+``, ``e``, ``p``, ``x`` and space.
    """
    rows = zip(*(_GLYPHS[sign].split() for sign in text), strict=True)
    return torch.tensor([[dot == "#" for dot in ".".join(row) + "."] for row in rows]).float()
