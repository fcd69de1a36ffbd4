"""New captions of the words of others."""

from flowwarp.data.recombined import Replacements, recombine


def test_words_change_places_with_those_at_the_same_place():
    captions = ["a red ball rolls", "a blue cube jumps"]
    new = recombine(captions, 100)
    # "red" and "blue" follow "a", "rolls" and "jumps" stand last; "ball" and "cube" are beside
    # different words.
    assert set(new) == {
        "a blue ball rolls",
        "a red cube jumps",
        "a red ball jumps",
        "a blue cube rolls",
    }


def test_a_neighbour_on_one_side_is_enough():
    assert set(recombine(["red ball rolls", "blue ball jumps"], 100)) == {
        "blue ball rolls",  # both stand first
        "red ball jumps",  # both stand last
    }
    # As many words must stand before: no "a small falls".
    assert set(recombine(["a ball falls", "a small red ball falls"], 100)) == {
        "a small falls",  # of "small", which follows "a" as "ball" does
        "a ball red ball falls",
    }


def test_new_captions_are_new_each_once_and_no_more_than_asked_for():
    colors, shapes = ("red", "green", "blue", "white"), ("ball", "cube", "cone", "ring")
    captions = [f"A {c} {s}." for c in colors for s in shapes if (c, s) != ("red", "ring")]
    assert recombine(captions, 5) == ["a red ring"]
    captions = [f"a {c} {s}" for c, s in zip(colors, shapes, strict=True)]
    new = recombine(captions, 3)
    assert len(new) == len(set(new)) == 3
    assert not set(new) & set(captions)
    assert new == recombine(captions, 3)
    assert new != recombine(captions, 3, seed=1)
    for caption in new:
        a, color, shape = caption.split()
        assert (a, color in colors, shape in shapes) == ("a", True, True)


def test_nothing_comes_of_nothing():
    assert recombine([], 4) == []
    assert recombine(["", "..."], 4) == []
    assert recombine(["a red ball"], 4) == []
    assert recombine(["a red ball", "a blue ball"], 0) == []


def test_replacements_of_a_word():
    found = Replacements([["a", "red", "ball"], ["a", "blue", "ball"], ["the", "dog"]])
    assert found.of(["a", "red", "ball"], 1) == ["blue"]
    assert found.of(["a", "red", "dog"], 2) == ["ball"]  # stands behind "red" elsewhere
    assert found.of(["a", "red", "ball"], 2) == []
    assert found.of(["an", "old", "dog"], 0) == ["a", "the"]  # stand first
    assert found.of(["an", "old", "dog"], 1) == []
