"""Phrases: which there are, which are learned, and how captions become bags of them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flowwarp.data.phrases import learn_phrases, phrases_of
from flowwarp.data.tokens import train_pairs

CAPTIONS = ["a red shirt", "a red hat", "a blue shirt", "red"]
PAIRS = train_pairs(CAPTIONS * 2, 40)


@given(st.lists(st.integers(0, 5), max_size=12))
def test_all_phrases_once(words):
    found = phrases_of(words)
    own = [word + 1 for word in words]
    wanted = {(0, 0, word) for word in own}
    wanted |= {(0, *pair) for pair in pairwise(own)}
    wanted |= {(a, 0, b) for a, b in zip(own, own[2:], strict=False)}
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_the_commonest_are_learned():
    book = learn_phrases(CAPTIONS, PAIRS, 64, 100)
    texts = {
        tuple(PAIRS.decode([word - 1]) if word else "" for word in name)
        for name in book.names.tolist()
    }
    assert texts == {
        ("", "", "a"), ("", "", " red"), ("", "", " shirt"), ("", "a", " red"), ("a", "", " shirt"),
    }  # fmt: skip
    assert len(learn_phrases(CAPTIONS, PAIRS, 64, 2)) == 2
    assert len(learn_phrases(["once"], PAIRS, 64, 9)) == 0


def test_a_bag_has_the_known_ones():
    book = learn_phrases(CAPTIONS, PAIRS, 64, 100)
    both = book.bags(["a red shirt", "a green shirt"], 8)
    assert both.shape == (2, 8)
    assert [int((bag < len(book)).sum()) for bag in both] == [5, 2]  # green is several tokens
    assert both[1, :2].tolist() == book.find("a green shirt")
    assert set(both[1, 2:].tolist()) == {len(book)}
    assert book.bags(["a red shirt"], 2).shape == (1, 2)
    assert book.bags([""], 2).tolist() == [[len(book)] * 2]


def test_no_more_words_are_read_than_said():
    book = learn_phrases(CAPTIONS, PAIRS, 2, 100)
    assert set(book.find("a red shirt")) == set(book.find("a red"))
