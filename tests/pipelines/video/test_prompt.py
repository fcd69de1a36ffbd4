"""Prompts: which of their words a model knows."""

import pytest

from flowwarp.data.tokens import Words
from flowwarp.errors import InputError
from flowwarp.pipelines.video.prompt import parse_prompt

WORDS = Words(("a", "ball", "red"), 4)


def test_unknown_words_are_named_once_and_in_their_order():
    prompt = parse_prompt("A Zebra, a red ZEBRA on 2 balls", WORDS)
    assert prompt.text == "A Zebra, a red ZEBRA on 2 balls"
    assert prompt.unknown == ("zebra", "on", "2", "balls")
    assert parse_prompt("red ball", WORDS).unknown == ()


def test_words_that_were_not_learned_are_named_once():
    prompt = parse_prompt("a ball, a zebra and a ball", WORDS, ["ball", "red"])
    assert prompt.not_learned == ("ball",)
    assert parse_prompt("a ball", WORDS).not_learned == ()


@pytest.mark.parametrize("text", ["zebra", "", "?!"])
def test_a_prompt_that_has_no_known_word_is_refused(text):
    with pytest.raises(InputError, match="known: a, ball, red"):
        parse_prompt(text, WORDS)
    many = Words((f"w{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(100)), 4)
    with pytest.raises(InputError, match=r"waa, .*, …"):
        parse_prompt(text, many)


def test_a_long_prompt_is_not_quoted_in_full():
    with pytest.raises(InputError) as caught:
        parse_prompt("zebra " * 10_000, WORDS)
    assert len(str(caught.value)) < 500
