"""Captions with a phrase swapped: another caption's, from between the same words."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.swaps import Swaps

CAPTIONS = [
    "a man in a red shirt walks left",
    "a woman in a green shirt walks right",
    "a man in plate armor walks left on grass",
]


def draw(swaps, caption, count, seed=0):
    return swaps.others(caption, count, torch.Generator().manual_seed(seed))


def test_a_phrase_is_swapped_for_what_stands_between_the_same_words():
    swaps = Swaps(CAPTIONS)
    found = {other for seed in range(40) for other in draw(swaps, CAPTIONS[0], 1, seed)}
    assert found == {
        "a woman in a red shirt walks left",
        "a man in a green shirt walks left",
        "a man in plate armor walks left",
        "a man in a red shirt walks right",
    }


def test_no_other_phrase_is_known():
    swaps = Swaps(CAPTIONS)
    assert draw(swaps, "two dogs", 3) == []
    assert draw(swaps, "", 3) == []
    assert draw(Swaps([]), CAPTIONS[0], 3) == []
    # What is at an edge is swapped too; what is asked for beyond what there is is not made up.
    assert sorted(draw(Swaps(["a b", "c b"]), "a b", 5)) == ["c b"]


def test_others_tell_of_different_things_first():
    swaps = Swaps(["a x b y c", "a 1 b 2 c", "a 3 b 4 c"])
    for seed in range(20):
        first, second = draw(swaps, "a x b y c", 2, seed)
        assert sum(("x" in first, "y" in first)) == 1 or first.split()[1::2] != ["x", "y"]
        changed = [
            {
                place
                for place, (a, b) in enumerate(zip("axbyc", other.split(), strict=False))
                if a != b
            }
            for other in (first, second)
            if len(other.split()) == 5
        ]
        if len(changed) == 2 and max(map(len, changed)) == 1:
            assert changed[0].isdisjoint(changed[1])


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=7).map(" ".join), max_size=6),
    st.integers(0, 5),
    st.integers(0, 99),
)
def test_others_differ_from_each_other_and_from_the_caption(captions, count, seed):
    swaps = Swaps(captions)
    for caption in captions:
        others = draw(swaps, caption, count, seed)
        assert caption not in others
        assert len(set(others)) == len(others) <= count
        assert others == draw(swaps, caption, count, seed)
