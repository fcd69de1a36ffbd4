"""A 5 × 7 pixel font for legends and short captions, which needs no font library."""

from __future__ import annotations

import textwrap

import torch
import torch.nn.functional as F
from torch import Tensor

HEIGHT = 7
ADVANCE = 6  # from one character to the next: 5 columns and a gap

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
    "a": "..... ..... .###. ....# .#### #...# .####",
    "b": "#.... #.... ####. #...# #...# #...# ####.",
    "c": "..... ..... .###. #.... #.... #.... .###.",
    "d": "....# ....# .#### #...# #...# #...# .####",
    "f": "..##. .#... ####. .#... .#... .#... .#...",
    "g": "..... ..... .#### #...# .#### ....# .###.",
    "h": "#.... #.... ####. #...# #...# #...# #...#",
    "i": "..#.. ..... .##.. ..#.. ..#.. ..#.. .###.",
    "j": "...#. ..... ..##. ...#. ...#. #..#. .##..",
    "k": "#.... #.... #..#. #.#.. ##... #.#.. #..#.",
    "l": ".##.. ..#.. ..#.. ..#.. ..#.. ..#.. .###.",
    "m": "..... ..... ##.#. #.#.# #.#.# #.#.# #.#.#",
    "n": "..... ..... ####. #...# #...# #...# #...#",
    "o": "..... ..... .###. #...# #...# #...# .###.",
    "q": "..... ..... .#### #...# .#### ....# ....#",
    "r": "..... ..... #.##. ##... #.... #.... #....",
    "s": "..... ..... .#### #.... .###. ....# ####.",
    "t": ".#... .#... ####. .#... .#... .#... ..##.",
    "u": "..... ..... #...# #...# #...# #...# .####",
    "v": "..... ..... #...# #...# #...# .#.#. ..#..",
    "w": "..... ..... #...# #.#.# #.#.# #.#.# .#.#.",
    "y": "..... ..... #...# #...# .#### ....# .###.",
    "z": "..... ..... ##### ...#. ..#.. .#... #####",
    ",": "..... ..... ..... ..... .##.. ..#.. .#...",
    "'": "..#.. ..#.. ..... ..... ..... ..... .....",
    " ": "..... ..... ..... ..... ..... ..... .....",
}


def text_mask(text: str) -> Tensor:
    """Draw a line of text, in lower case.

    Returns:
        (7, 6 * len(text)) float, 1 where there is ink.

    Raises:
        KeyError: a character other than letters from a to z, digits, ``.``, ``,``, ``'``, ``-``,
            ``+`` and space.
    """
    rows = zip(*(_GLYPHS[character].split() for character in text.lower()), strict=True)
    return torch.tensor([[dot == "#" for dot in ".".join(row) + "."] for row in rows]).float()


def text_block(text: str, columns: int) -> Tensor:
    """Draw text in lines, broken between words.

    Args:
        text: any; a character that the font lacks becomes a space.
        columns: characters in a line; longer words are cut.

    Returns:
        (9 * lines, 6 * columns) float, 1 where there is ink.
    """
    drawable = "".join(character if character in _GLYPHS else " " for character in text.lower())
    lines = textwrap.wrap(drawable, columns) or [""]
    # Two empty rows below each line.
    return torch.cat([F.pad(text_mask(line.ljust(columns)), (0, 0, 0, 2)) for line in lines])
