"""Words and their numbers, and patches of codes: there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.tokens import MOST_WORDS, PATCH, Words, from_patches, split_words, to_patches

CAPTIONS = ["A red ball rolls", "a blue ball jumps!", ""]


def test_words_by_hand():
    words = Words.of_captions(CAPTIONS)
    assert words.words == ("a", "ball", "blue", "jumps", "red", "rolls")
    assert words.length == 5  # four words and an end
    assert len(words) == 7
    assert words.encode("Red BALL jumps") == [5, 2, 4, 0, 0]
    assert words.decode([5, 2, 4, 0, 0]) == "red ball jumps"


def test_unknown_words_are_left_out_and_named_once():
    words = Words.of_captions(CAPTIONS)
    text = "a green ball, a Green cube 7 jumps"
    assert words.encode(text) == [1, 2, 1, 4, 0]
    assert words.unknown(text) == ["green", "cube", "7"]
    assert words.unknown("a red ball") == []


def test_what_follows_the_first_0_is_not_read():
    words = Words.of_captions(CAPTIONS)
    assert words.decode([1, 0, 2, 3, 0]) == "a"
    assert words.decode([0, 1]) == ""
    assert words.decode([1, 2]) == "a ball"


def test_long_texts_are_cut():
    words = Words.of_captions([" ".join(["on and"] * MOST_WORDS)])
    assert words.length == MOST_WORDS
    numbers = words.encode("and on " * MOST_WORDS)
    assert len(numbers) == MOST_WORDS
    assert 0 not in numbers


@pytest.mark.parametrize("captions", [[], [""], ["…", "!"]])
def test_captions_without_words(captions):
    words = Words.of_captions(captions)
    assert (len(words), words.length) == (1, 1)
    assert words.encode("anything") == [0]
    assert words.decode([0]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("left-to-right", ["left", "to", "right"]),
        ("snake_case 12", ["snake", "case", "1", "2"]),
        ("Über\tÉTÉ", ["über", "été"]),
        ("e\u0301te\u0301", ["été"]),  # accents apart, as macOS writes names of files
        ("a\x00b\ud800", ["a", "b"]),
        ("", []),
    ],
)
def test_splitting(text, expected):
    assert split_words(text) == expected


@given(st.text(max_size=60))
def test_any_text_comes_back_as_its_words(text):
    words = Words.of_captions([text])
    split = split_words(text)
    assert words.unknown(text) == []
    numbers = words.encode(text)
    assert len(numbers) == words.length
    assert words.decode(numbers).split() == split[:MOST_WORDS]
    assert words.encode(" ".join(split)) == numbers


# ------------------------------------------------------------------ patches


@given(
    *(st.integers(1, 3) for _ in range(5)),
    st.integers(0, 2**31),
)
def test_codes_come_back_from_patches(batch, t, y, x, digits, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, t, y * PATCH, x * PATCH, digits)
    codes = torch.randint(100, shape, generator=generator)
    patches = to_patches(codes)
    assert patches.shape == (batch, t * y * x, digits * PATCH**2)
    assert torch.equal(from_patches(patches, (t, y, x)), codes)


def test_a_patch_is_a_square_of_codes():
    codes = torch.arange(2 * 4 * 6 * 2).view(1, 2, 4, 6, 2)
    patches = to_patches(codes)
    t, y, x = 1, 1, 2  # the last patch
    square = codes[0, t, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
    assert torch.equal(patches[0, (t * 2 + y) * 3 + x], square.flatten())


def test_later_time_steps_are_later_patches():
    """So that a beginning of the patches is a beginning of the video."""
    codes = torch.arange(3).view(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 1)
    assert to_patches(codes)[0, :, 0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
