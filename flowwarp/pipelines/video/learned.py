"""Which words of the captions a model has learned: those that make their clips likelier.

Clips that were not trained on are compared under their captions and under captions with one word
replaced. If a model has learned a word, its clips are less likely with another in its place. A word
that only ever could be replaced by its synonyms makes no difference either.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowwarp.data.clip import Clip
from flowwarp.data.crops import middle_crop
from flowwarp.data.media import TEXT, VIDEO
from flowwarp.data.recombined import Replacements
from flowwarp.data.tokens import split_words
from flowwarp.models.sampling import log_likelihood
from flowwarp.pipelines.video.encode import encode_prompts, encode_video
from flowwarp.pipelines.video.load import VideoModel
from flowwarp.precision import fast_autocast

WORDS = "words"  # the note of a model that has the figures of words, as JSON
_LEAST = 5  # clips that must be compared to judge a word
_CHANCE = 0.65  # share of clips that are likelier with a word, below which it was not learned
_MOST = 2  # replacements of a word that are tried, for each clip
_ROWS = 32  # captions that are compared at once


@dataclass(frozen=True)
class WordFigure:
    """How much a word matters.

    Args:
        clips: that it describes, and that were compared.
        likelier: share of them that are likelier with the word than with others; 0.5 is chance.
        nats: mean difference of their log-likelihoods.
    """

    clips: int
    likelier: float
    nats: float


@torch.no_grad()
def compare_words(
    model: VideoModel, clips: Iterable[Clip], captions: Iterable[str], seed: int = 0
) -> dict[str, list[float]]:
    """Compare clips under their captions and under captions with one word replaced.

    Args:
        model: the networks.
        clips: with captions, that were not trained on.
        captions: of the training clips, whose words replace others.
        seed: of the choice among many replacements.

    Returns:
        For each word that was replaced: of each clip that it describes, the mean difference of the
        log-likelihoods, in nats. More than 0 is likelier with the word.
    """
    replacements = Replacements([split_words(caption) for caption in captions])
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    gains: defaultdict[str, list[float]] = defaultdict(list)
    for clip in clips:
        words = split_words(clip.caption)
        replaced, changed = [], []
        for index, word in enumerate(words):
            others = replacements.of(words, index)
            for other in draw.sample(others, min(_MOST, len(others))):
                replaced.append(word)
                changed.append(" ".join([*words[:index], other, *words[index + 1 :]]))
        likelihoods = _likelihoods(model, clip.video, [clip.caption, *changed])
        differences: defaultdict[str, list[float]] = defaultdict(list)
        for word, difference in zip(replaced, likelihoods[0] - likelihoods[1:], strict=True):
            differences[word].append(float(difference))
        for word, found in differences.items():
            gains[word].append(sum(found) / len(found))
    return dict(gains)


def words_note(gains: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Return the note of a model, from what :func:`compare_words` found; few clips do not count."""
    figures = {
        word: (len(each), sum(gain > 0 for gain in each) / len(each), sum(each) / len(each))
        for word, each in sorted(gains.items())
        if len(each) >= _LEAST
    }
    rounded = {word: [n, round(a, 3), round(b, 3)] for word, (n, a, b) in figures.items()}
    return {WORDS: json.dumps(rounded, ensure_ascii=False)}


def word_figures(notes: Mapping[str, str]) -> dict[str, WordFigure]:
    """Return the figures that the notes of a model have; none if they are of another kind."""
    try:
        found = json.loads(notes.get(WORDS, "{}"))
        return {
            str(word): WordFigure(int(clips), float(likelier), float(nats))
            for word, (clips, likelier, nats) in found.items()
        }
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ):  # a file that was made otherwise
        return {}


def not_learned(figures: Mapping[str, WordFigure]) -> list[str]:
    """Return the words whose clips are about as likely with another word in their place."""
    return [word for word, figure in figures.items() if figure.likelier < _CHANCE]


def _likelihoods(model: VideoModel, video: Tensor, captions: Sequence[str]) -> Tensor:
    """Return the log-likelihood of a clip (T, 3, H, W) under each caption, (N,), in nats."""
    frames = middle_crop(video[: model.config.frames], model.config.base)
    patches = encode_video(model.dvae, frames[None].to(model.device))
    found = []
    for words in torch.split(encode_prompts(model, captions), _ROWS):
        rows = patches.expand(len(words), -1, -1)
        with fast_autocast(model.device):
            found.append(log_likelihood(model.gpt, [(TEXT, words), (VIDEO, rows)]))
    return torch.cat(found).float().cpu()
