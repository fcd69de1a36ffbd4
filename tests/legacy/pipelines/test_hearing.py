"""What of a prompt is told, and what is left out."""

import dataclasses

import pytest

from flowwarp.legacy.pipelines.hearing import hear
from flowwarp.legacy.pipelines.sequences import load_gpt


@pytest.fixture(scope="module")
def gpt(video_weights):
    """A transformer whose weights do not say which words it knows."""
    return dataclasses.replace(load_gpt(video_weights["gpt"]), known=None)


@pytest.fixture(scope="module")
def knowing(gpt):
    """Return a transformer that knows some words."""
    return lambda *words: dataclasses.replace(gpt, known=frozenset(words))


@pytest.fixture(scope="module")
def reading(gpt):
    """One that learned the captions of the sprites' world."""
    return dataclasses.replace(gpt, known=load_gpt().known)


def test_of_weights_that_do_not_say_what_they_know_it_is_guessed(gpt):
    assert hear(gpt, "A red knight, waves left!").unknown == ()
    assert hear(gpt, "knight red a").unknown == ()  # known at the start of a text or not
    heard = hear(gpt, "a 木 knight")
    assert heard.unknown == ("木",)
    assert hear(gpt, "green knight").unknown == ("green",)
    assert (heard.left_out, heard.stated, heard.reworded) == ((), None, False)
    assert hear(gpt, " a  red\tknight ").read == "a red knight"
    assert hear(gpt, "A grey").text == "A grey"


def test_of_a_long_prompt_the_beginning_is_heard(gpt):
    heard = hear(gpt, "a" + 9 * " knight" + " 木")  # " knight" is one token, and 8 are read
    assert heard.read == "a" + 7 * " knight"
    assert heard.text == "a" + 9 * " knight" + " 木"
    assert heard.unknown == ()


def test_words_are_known_that_weights_name(knowing):
    """A word of several tokens is known, one of a single byte need not be."""
    heard = hear(knowing("a", "light", "-", "skinned", "knight"), "A light-skinned knight, z left")
    assert (heard.text, heard.left_out) == ("a light-skinned knight", ("z", "left"))
    heard = hear(knowing("A", "knight"), "A  Knight")  # captions have capitals
    assert (heard.text, heard.left_out) == ("A", ("Knight",))


def test_words_that_no_caption_has_are_left_out(knowing, gpt):
    net, prompt = knowing("a", "knight", ",", "waves"), "a heroic knight, smiling, waves 3 times"
    heard = hear(net, prompt)
    assert heard.text == "a knight, , waves 3"
    assert (heard.left_out, heard.unknown) == (("heroic", "smiling", "times"), ())
    assert hear(net, "a_knight_waves").text == "a knight waves"  # as files are named
    nothing = hear(net, "heroic, 木")  # would be left
    assert (nothing.text, nothing.left_out) == ("heroic, 木", ())
    assert nothing.unknown == ("heroic", "木")
    assert hear(gpt, prompt).text == prompt


def test_prompts_are_read_if_captions_are_of_the_sprites_world(reading):
    prompt = "Ginger LASS in a green frock, smiling \u2013 she's stood on a jetty"
    heard = hear(reading, prompt)
    told = "a red-haired woman in a green dress stands on wood planks"
    assert heard.text == told
    assert 0 < len(heard.read) < len(told)  # eight tokens
    assert told.startswith(heard.read)
    assert (heard.reworded, heard.left_out, heard.unknown) == (True, ("smiling",), ())
    assert heard.stated["hair color"] == "red"
    assert hear(reading, told).text == told
    assert hear(reading, told).stated == heard.stated
    two = hear(reading, "a knight battles a drow on grass").text
    assert two == "on the left a knight slashes, on the right a male dark elf, on grass"


@pytest.mark.parametrize(
    ("prompt", "reworded"),
    [
        ("a red-haired woman in a green dress stands on wood planks", False),
        ("a smiling woman walks to the left", False),  # words less, no others
        ("a gray-haired man walks across the grass", False),
        ("a woman in a skirt", True),
        ("a man in a tunic", True),  # of words that captions have as well
        ("an orc walks", True),  # a male one
    ],
)
def test_other_words_are_told_from_fewer(reading, prompt, reworded):
    assert hear(reading, prompt).reworded == reworded


def test_what_nobody_understands_is_told_as_it_stands(reading):
    heard = hear(reading, "Zebras")
    assert (heard.text, heard.unknown, heard.left_out) == ("zebras", ("zebras",), ())
    other = dataclasses.replace(reading, known=reading.known | {"ginger", "zebra"})
    heard = hear(other, "a ginger zebra")  # its captions say more than is understood
    assert (heard.text, heard.reworded, heard.stated) == ("a ginger zebra", False, None)


def test_what_networks_have_no_words_for_is_left_out(reading):
    """All that is told of a prompt is known."""
    fewer = dataclasses.replace(reading, known=reading.known - {"elf", "photo", "dress"})
    heard = hear(fewer, "a drow in a gown casts a spell in front of a photograph")
    assert heard.text == "a person casts a spell"
    assert set(heard.left_out) == {"photograph", "a dress", "male dark elf"}


def test_british_spelling_is_understood(knowing):
    heard = hear(knowing("a", "gray", "armor", "hour"), "a grey armour an hour")
    assert heard.text == "a gray armor hour"
    assert hear(knowing("gray", "armor"), "grey armour of our own").left_out == ("of", "our", "own")
    assert hear(knowing("grey", "gray"), "grey gray armour").text == "grey gray"


def test_signs_that_captions_have_not_are_not_read(knowing):
    net = knowing("a", "knight", ",", "blonde")
    heard = hear(net, "\u201cA knight\u201d, (a blond knight)!")
    assert heard.text == "a knight , a blonde knight"
    assert hear(net, "A knight.").left_out == ()


def test_nothing_is_heard_of_signs_alone(knowing):
    assert hear(knowing("a"), "?!").text == ""
