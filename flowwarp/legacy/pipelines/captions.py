"""Captions of clips by the captioner: the likeliest, and how likely a given one is.

A captioner may also have learned to state single things, of clips and of captions alike: "legs
color is red". What a caption states can then be asked of clips, each thing by itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.media import VOCABULARY
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import build
from flowwarp.io.shipped import SHIPPED, find_weights
from flowwarp.legacy.data.tokens import Vocabulary, vocabulary_from_json
from flowwarp.legacy.models.captioner import END, Captioner, CaptionerConfig
from flowwarp.legacy.pipelines.windows import Description, some_windows
from flowwarp.precision import fast_autocast
from flowwarp.tensors import check_whole

BEAMS = 4  # beginnings of a caption that are followed side by side
FRAMES = 16  # of a part of a video that is looked at
USUAL = 0.35  # how much of what a caption costs whatever is seen is taken off
THINGS = "things"  # a note in the card of the weights: what can be stated
MOST_THINGS, _LONGEST_THING = 100, 64  # and characters
_LONGEST_VALUE = 8  # tokens that are said of a thing
_RARE = 5.0  # nats below the likeliest word, from where on none is written
_EARLY = 2.0  # and from where on a caption does not end


@dataclass(frozen=True)
class MediaCaptioner:
    """A captioner, the text tokenizer that its ids are of, and the things it can state."""

    net: Captioner
    vocabulary: Vocabulary
    things: tuple[str, ...] = ()


Reply = tuple[Tensor, float]  # ids (L,) that end a statement, and how likely these are


def load_captioner(
    weights: str | Path = SHIPPED, device: str | torch.device = "cpu", network: str = "captioner"
) -> MediaCaptioner:
    """Make a captioner from weights.

    Args:
        weights: a ``.safetensors`` file with its card, such as ``train-captioner`` writes, or
            ``"base"`` for those in the package.
        device: where the network shall be.
        network: which of those in the package, ``captioner`` or ``sketcher``.

    Raises:
        InputError: the file is missing, broken, or of another network.
    """
    weights = find_weights(weights, network)
    net, card = build(weights, "captioner", lambda settings: Captioner(CaptionerConfig(**settings)))
    words = vocabulary_from_json(card.notes.get(VOCABULARY, "null"), weights)
    if words.pairs.size + 1 != net.config.vocabulary:
        raise InputError(
            weights,
            f"its vocabulary has {words.pairs.size + 1} ids, its network {net.config.vocabulary}",
        )
    things = _things_from_json(card.notes.get(THINGS, "[]"), weights)
    return MediaCaptioner(net.to(device).eval(), words, things)


def thing_of(label: str) -> str:
    """Return how statements call what a label is of: "legs color" for "legs_color"."""
    return label.replace("_", " ")


def things_to_json(things: Sequence[str]) -> str:
    """Return the note of what can be stated.

    Raises:
        ValueError: there are more than ``MOST_THINGS``.
    """
    if len(things) > MOST_THINGS:
        raise ValueError(f"labels must be of at most {MOST_THINGS} things, got {len(things)}")
    return json.dumps(list(things))


def _things_from_json(text: str, source: str | Path) -> tuple[str, ...]:
    try:
        things = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise InputError(source, f"its note of things is broken ({fault})") from fault
    if not isinstance(things, list) or len(things) > MOST_THINGS:
        raise InputError(source, f"its note of things is no list of up to {MOST_THINGS}")
    if not all(isinstance(thing, str) and 0 < len(thing) <= _LONGEST_THING for thing in things):
        problem = f"its note of things holds other than words of up to {_LONGEST_THING} letters"
        raise InputError(source, problem)
    return tuple(things)


def to_ids(words: Vocabulary, caption: str) -> Tensor:
    """Return the ids of a caption with its end, (L,): a token's number and 1, or ``END``."""
    return torch.tensor([*(token + 1 for token in words.encode(caption)), END])


def begin_statement(words: Vocabulary, thing: str) -> Tensor:
    """Return the ids of a statement up to what is said of the thing, (L,)."""
    return to_ids(words, f"{thing} is")[:-1]


def begin_words(ids: Tensor) -> Tensor:
    """Return what comes before each of some ids, (B, L): ``END``, and then these."""
    return F.pad(ids[:, :-1], (1, 0), value=END)


@torch.inference_mode()
def look(captioner: MediaCaptioner, videos: Tensor) -> Tensor:
    """Return what the captioner sees in clips (B, T, 3, S, S) in [0, 1]; see ``Captioner.look``."""
    device = captioner.net.head.weight.device
    with fast_autocast(device):
        seen = captioner.net.look(videos.to(device))
    return seen.float()


def caption_nats(captioner: MediaCaptioner, seen: Tensor, captions: Sequence[str]) -> Tensor:
    """Return the log-likelihood of captions, in nats.

    Args:
        captioner: from :func:`load_captioner`.
        seen: (B, pairs, joined), of :func:`look`.
        captions: B of them.

    Returns:
        (B,): the sum over all tokens of a caption and its end.
    """
    nats, there = _token_nats(captioner, seen, _encode(captioner, captions))
    return -(nats * there).sum(1)


def caption_hits(captioner: MediaCaptioner, seen: Tensor, captions: Sequence[str]) -> Tensor:
    """Return how much of what captions tell the captioner sees, in tokens.

    A token counts by the probability that the captioner would say it, each after those before it,
    times the probability that it would not where nothing is seen. Of several clips the one whose
    caption is likeliest has the fewest things quite wrong; the one with most hits has the most
    things right, and one that is lost in all of them, such as a small weapon, decides nothing.
    Words that join others tell next to nothing.

    Args:
        captioner: from :func:`load_captioner`.
        seen: (B, pairs, joined), of :func:`look`.
        captions: B of them.

    Returns:
        (B,), their ends included.
    """
    rows = _encode(captioner, captions)
    nats, there = _token_nats(captioner, seen, rows)
    anyway, _ = _token_nats(captioner, torch.zeros_like(seen[:, :1]), rows)
    return ((-nats).exp() * -torch.expm1(-anyway) * there).sum(1)


def _encode(captioner: MediaCaptioner, captions: Sequence[str]) -> list[Tensor]:
    # Mostly one caption of many clips, and long ones take their time.
    encoded = {caption: to_ids(captioner.vocabulary, caption) for caption in set(captions)}
    return [encoded[caption] for caption in captions]


@torch.inference_mode()
def _token_nats(
    captioner: MediaCaptioner, seen: Tensor, rows: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return minus the log-likelihood of each id of texts, (B, L), and where there is one."""
    ids = _fill(rows).to(seen.device)
    logits = captioner.net.say(seen, begin_words(ids.clamp_min(0)))
    nats = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=-1, reduction="none")
    return nats.view(ids.shape).cpu(), (ids >= 0).cpu()


def _fill(rows: Sequence[Tensor]) -> Tensor:
    """Return texts side by side, (B, L), -1 behind those that are shorter."""
    longest = max(map(len, rows))
    return torch.stack([F.pad(row, (0, longest - len(row)), value=-1) for row in rows])


@torch.inference_mode()
def reply(captioner: MediaCaptioner, caption: str) -> list[Reply]:
    """Return of each thing what ends its statement after a caption, and how sure that is.

    Those that do not come to an end are as long as any may be.

    Args:
        captioner: from :func:`load_captioner`.
        caption: what is read.
    """
    net, words = captioner.net, captioner.vocabulary
    if not captioner.things:
        return []
    said = to_ids(words, caption)
    rows = [torch.cat([said, begin_statement(words, thing)]) for thing in captioner.things]
    begun, nats, going = [*map(len, rows)], [0.0] * len(rows), set(range(len(rows)))
    unseen = torch.zeros(len(rows), 1, net.config.joined, device=net.head.weight.device)
    for _ in range(_LONGEST_VALUE):
        before = F.pad(_fill(rows).clamp_min(0), (1, 0), value=END)
        logits = net.say(unseen, before.to(unseen.device)).log_softmax(2).cpu()
        for row in sorted(going):
            likeliest = logits[row, len(rows[row])].max(0)
            nats[row] -= float(likeliest.values)
            rows[row] = torch.cat([rows[row], likeliest.indices[None]])
        going = {row for row in going if int(rows[row][-1]) != END}
        if not going:
            break
    ends = (row[start:] for row, start in zip(rows, begun, strict=True))
    return [(ids, math.exp(-cost)) for ids, cost in zip(ends, nats, strict=True)]


def statement_hits(
    captioner: MediaCaptioner,
    seen: Tensor,
    captions: Sequence[str],
    replies: Mapping[str, Sequence[Reply]] | None = None,
) -> Tensor:
    """Return how much of what captions state the captioner sees, in things.

    What a caption's words tell of each other is left out: a thing counts by the probability that
    the captioner would say of it what the caption does, times how sure it is that the caption does.

    Args:
        captioner: from :func:`load_captioner`.
        seen: (B, pairs, joined), of :func:`look`.
        captions: B of them.
        replies: :func:`reply` to each of them, if they have been read before.

    Returns:
        (B,), 0 for a captioner that has learned no statements.
    """
    hits = torch.zeros(len(seen))
    for caption in dict.fromkeys(captions):
        own = torch.tensor([other == caption for other in captions])
        said = reply(captioner, caption) if replies is None else replies[caption]
        for thing, (ends, sure) in zip(captioner.things, said, strict=True):
            ids = torch.cat([begin_statement(captioner.vocabulary, thing), ends])
            nats, _ = _token_nats(captioner, seen[own], [ids] * int(own.sum()))
            hits[own] += sure * (-nats[:, -len(ends) :].sum(1)).exp()
    return hits


@torch.inference_mode()
def write_caption(
    captioner: MediaCaptioner, seen: Tensor, beams: int = BEAMS, usual: float = USUAL
) -> str:
    """Return the caption that tells most of a clip, as far as a beam search finds it.

    By likelihood alone it would be one that says next to nothing, as each word more costs
    something. So what a caption's words cost whatever is seen is taken off, or most of it (maximum
    mutual information; Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
    Models", NAACL 2016): what is unsure is not worth its words, what is sure is.

    Args:
        captioner: from :func:`load_captioner`.
        seen: (1, pairs, joined), of :func:`look`.
        beams: beginnings that are followed side by side.
        usual: how much of what they cost is taken off.
    """
    net, limit = captioner.net, captioner.vocabulary.text_limit
    ids = torch.full((1, 1), END, device=seen.device)
    sums = torch.zeros(1, dtype=seen.dtype, device=seen.device)
    best, found = -torch.inf, ids[0, :0]
    for _ in range(limit + 1):
        views = torch.cat([seen, torch.zeros_like(seen)]).repeat_interleave(len(ids), 0)
        logits = net.say(views, ids.repeat(2, 1))[:, -1].log_softmax(1)
        told, anyway = logits.chunk(2)
        gains = told - usual * anyway
        # A word that is hardly possible could gain by being even less so elsewhere.
        likeliest = told.amax(1, keepdim=True)
        gains = gains.masked_fill(told < likeliest - _RARE, -torch.inf)
        # An end tells nothing of a clip. Where all that could follow is unsure it would cost least,
        # though no caption ends there: after the first of two actors.
        early = told[:, END] < likeliest[:, 0] - _EARLY
        gains[:, END] = told[:, END].masked_fill(early, -torch.inf)
        _bar_echoes(gains, ids[:, 1:], captioner.vocabulary)
        total = sums[:, None] + gains
        ended = total[:, END].max(0)
        if float(ended.values) > best:
            best, found = float(ended.values), ids[int(ended.indices), 1:]
        total[:, END] = -torch.inf
        sums, chosen = total.flatten().topk(min(beams, total.numel()))
        going = sums > -torch.inf
        if ids.shape[1] > limit or not bool(going.any()):
            if best == -torch.inf:  # none has ended in time
                found = ids[0, 1:]
            break
        sums, chosen = sums[going], chosen[going]
        rows, words = chosen // total.shape[1], chosen % total.shape[1]
        ids = torch.cat([ids[rows], words[:, None]], 1)
    return captioner.vocabulary.pairs.decode((found - 1).tolist())


def _bar_echoes(gains: Tensor, said: Tensor, words: Vocabulary) -> None:
    """Rule out, in place, ids that would say words again that were just said.

    Words that are said twice are unlikely whatever is seen, so to say them again could only gain.

    Args:
        gains: (beams, ids).
        said: (beams, L), ids.
        words: what they mean.
    """
    for row, ids in enumerate(said.tolist()):
        for length in range(1, (len(ids) + 1) // 2 + 1):
            middle = len(ids) + 1 - length
            before, again = ids[middle - length : middle], ids[middle:]
            # Letters may come twice.
            if before[:-1] == again and " " in words.pairs.decode([n - 1 for n in before]):
                gains[row, before[-1]] = -torch.inf


def caption_video(
    captioner: MediaCaptioner, frames: Iterable[Tensor], *, beams: int = BEAMS
) -> Description:
    """Say what a video of any size and length shows.

    Its middle square is looked at, in parts (:func:`some_windows`). Each
    part is described, and each description judged by all parts.

    Args:
        captioner: from :func:`load_captioner`.
        frames: (3, H, W) in [0, 1], at least one; taken one at a time. Of a clip, whose ``video``
            is uint8, ``clip.video / 255``.
        beams: see :func:`write_caption`.

    Returns:
        The description, with its log-likelihood where the video is seen, in nats.

    Raises:
        TypeError: a frame is not a floating-point tensor.
        ValueError: there are no frames, one is none, is in 0 … 255 or holds NaN, or ``beams`` is no
            whole number from 1.
    """
    check_whole(beams, "beams", 1)
    least = captioner.net.config.apart + 1
    # A short video is not filled up: most pairs of its frames would say that nothing moves.
    parts = some_windows(frames, max(FRAMES, least), captioner.net.config.size, least)
    windows = torch.stack(parts)
    seen = look(captioner, windows.float() / 255)
    said = dict.fromkeys(write_caption(captioner, part[None], beams) for part in seen)
    ranked = [
        (float(caption_nats(captioner, seen, [text] * len(seen)).mean()), text) for text in said
    ]
    nats, text = max(ranked, key=lambda pair: pair[0])
    return Description(text, nats, len(seen))
