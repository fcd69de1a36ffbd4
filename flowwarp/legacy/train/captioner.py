"""What the captioner learns: each word of a clip's caption, from some frames and the words before.

Composing a clip takes longer than learning from a few of its frames, so clips are kept on disk and
come many times: other frames, worn otherwise as a codec wears them. Looking takes longer than
reading, so where a clip can be worded in several ways, all are learned at once.

Captions leave things out, and what one word says tells what the next may be. So where a clip has
labels, it learns statements besides: "legs color is red". Of these only the end counts, and before
it nothing tells what it is but the clip. It learns the same statements of captions, without a look:
what a prompt states can then be asked of videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.media import TEXT, VOCABULARY
from flowwarp.data.sprite_world.captions import mirror_words
from flowwarp.data.sprite_world.labels import mirror
from flowwarp.legacy.data.tokens import (
    LONGEST_TEXT,
    MOST_MERGES,
    BytePairs,
    Medium,
    Vocabulary,
    train_pairs,
)
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.pipelines.captions import (
    THINGS,
    begin_statement,
    begin_words,
    thing_of,
    things_to_json,
    to_ids,
)
from flowwarp.legacy.train.clusters import kmeans
from flowwarp.legacy.train.kept import KeptClips
from flowwarp.legacy.train.wear import WearConfig, wear
from flowwarp.tensors import check_whole
from flowwarp.train import loop, seeding
from flowwarp.train.settings import Preset, check_least, check_shares

_AT_ONCE = 16  # clips of a validation side by side
_HEARD = 3  # statements of an example that are asked of one of its captions
_SORTED = 500  # clips whose places are looked at to find kinds of them
_ROUNDS = 50  # of k-means

_Text = tuple[Tensor, Tensor]  # ids (L,), and which of them count


@dataclass(frozen=True)
class CaptionerDataConfig(WearConfig):
    """What an example is, and how much it is worn.

    Args:
        clips: to learn from; once composed they are kept on disk, 200 kB each.
        captions: of a clip that is made up, all learned at once; others have one.
        statements: weight of statements where there are labels, against that of captions.
        mirrored: share of examples with left and right exchanged, to see and in words.
        checked: clips of a validation, which training never sees.
        frames: in a row, of a clip, for an example: one pair of the network's, or more.
        length: of a clip.
        merges: pairs that the text tokenizer learns from the captions.
        text_limit: tokens of a caption that are used, up to 256.
        blind: share of examples without a look, for what captions are like whatever is seen.
        sketched: share of examples that are told from their sketch, for a network that has kinds;
            the others are told from all that it sees.
        begun: share of sketches that are only begun: nothing is known of their lower rows.
    """

    clips: int = 10_000
    captions: int = 4
    statements: float = 0.25
    mirrored: float = 0.0
    checked: int = 128
    frames: int = 5
    length: int = 16
    merges: int = 512
    text_limit: int = 64
    blind: float = 0.1
    sketched: float = 0.6
    begun: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 1, "clips", "captions", "checked", "frames", "length")
        check_least(self, 0, "statements")
        check_whole(self.text_limit, "text_limit", 1, LONGEST_TEXT)
        check_whole(self.merges, "merges", 0, MOST_MERGES)
        check_shares(self, "mirrored", "blind", "sketched", "begun")
        if self.frames > self.length:
            raise ValueError(f"frames must be at most {self.length}, got {self.frames}")


def presets(preset: Preset) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data."""
    tiny, base = preset == "tiny", preset == "base"
    return {
        "loop": loop.LoopConfig(
            steps=600 if tiny else 20_000 if base else 5000,
            batch_size=32 if tiny else 64,
            learning_rate=2e-3,
            warmup=100,
            weight_decay=0.02,
            beta2=0.98,
            ema=0.99,
            precision="fp32" if tiny else "bf16",
            validate_every=200 if tiny else 500,
            workers=0 if tiny else 1,
        ),
        "model": CaptionerConfig(1, widths=(32, 64), hidden=96, joined=128, recalled=32)
        if tiny
        else CaptionerConfig(1, recalled=64),
        "data": CaptionerDataConfig(clips=1000 if tiny else 20_000 if base else 10_000),
    }


def check_example(configs: Mapping[str, Any]) -> None:
    """Raise ValueError if an example has too few frames for the network."""
    frames, apart = configs["data"].frames, configs["model"].apart
    if frames <= apart:
        raise ValueError(f"frames must be more than {apart}, got {frames}")


# ------------------------------------------------------------------ examples


def draw_batch(
    clips: KeptClips,
    words: Vocabulary,
    seed: int,
    numbers: Iterable[int],
    data: CaptionerDataConfig,
) -> dict[str, Tensor]:
    """Return examples, each a pure function of the seed and its number.

    Args:
        clips: their pixels and captions.
        words: the text tokenizer.
        seed: which series.
        numbers: which of them.
        data: what an example is.

    Returns:
        ``video`` (B, F, 3, S, S) in [0, 1], ``ids`` (B, N, L) int64, the captions with their ends,
        ``asked`` (B, N, L) bool, False after these, ``stated`` and ``answers`` likewise, of
        statements, of which only what follows "is" is asked, ``heard`` and ``replies`` likewise, of
        some of them, each after a caption, ``blind`` (B,) bool, ``rows`` (B,), the share of a
        sketch's rows that is known, and ``sketched`` (B,) bool.
    """
    videos, captions, statements, blind, rows, sketched = [], [], [], [], [], []
    heard = []
    for number in numbers:
        index = seeding.shuffled(seed, number, len(clips))
        generator = seeding.generator(seed, number)
        first = int(torch.randint(clips.frames - data.frames + 1, (), generator=generator))
        video = clips.video(index, first, data.frames).float() / 255
        said, labels = clips.captions(index), clips.labels(index)
        if float(torch.rand((), generator=generator)) < data.mirrored:
            video, labels = mirror(video, labels)
            said = [*map(mirror_words, said)]
        videos.append(wear(video, data, generator))
        blind.append(float(torch.rand((), generator=generator)) < data.blind)
        captions.append([_asked(to_ids(words, caption)) for caption in said])
        statements.append([_state(words, *label) for label in labels.items()])
        begun, share, told = torch.rand(3, generator=generator).tolist()
        sketched.append(told < data.sketched)
        rows.append(share if begun < data.begun else 1.0)
        heard.append(_hear(captions[-1], statements[-1], generator))
    ids, asked = _stack(captions)
    stated, answers = _stack(statements)
    after, replies = _stack(heard)
    return {
        "video": torch.stack(videos),
        "ids": ids,
        "asked": asked,
        "stated": stated,
        "answers": answers,
        "heard": after,
        "replies": replies,
        "blind": torch.tensor(blind),
        "rows": torch.tensor(rows),
        "sketched": torch.tensor(sketched),
    }


def _asked(ids: Tensor) -> _Text:
    """Return ids that all count, and that they do."""
    return ids, torch.ones(len(ids), dtype=torch.bool)


def _state(words: Vocabulary, name: str, value: str) -> _Text:
    """Return a statement's ids (L,), and which of them count: those of the value and its end."""
    begin = begin_statement(words, thing_of(name))
    ids = torch.cat([begin, to_ids(words, f" {value}")])
    return ids, torch.arange(len(ids)) >= len(begin)


def _hear(
    captions: Sequence[_Text], statements: Sequence[_Text], generator: torch.Generator
) -> list[_Text]:
    """Return some statements, each after one of the captions, of which nothing counts."""
    heard: list[_Text] = []
    for number in torch.randperm(len(statements), generator=generator)[:_HEARD].tolist():
        before, _ = captions[int(torch.randint(len(captions), (), generator=generator))]
        stated, answers = statements[number]
        counts = torch.cat([torch.zeros(len(before), dtype=torch.bool), answers])
        heard.append((torch.cat([before, stated]), counts))
    return heard


def _stack(rows: Sequence[Sequence[_Text]]) -> tuple[Tensor, Tensor]:
    """Return texts and what counts of them, filled up to (B, N, L), N and L at least 1."""
    most = max(1, *map(len, rows))
    longest = max((len(ids) for ids, _ in chain.from_iterable(rows)), default=1)
    shape = (len(rows), most, longest)
    texts, counts = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    for row, own in enumerate(rows):
        for number, (ids, counted) in enumerate(own):
            texts[row, number, : len(ids)] = ids
            counts[row, number, : len(ids)] = counted
    return texts, counts


def captioner_losses(
    net: Captioner, examples: Mapping[str, Tensor], statements: float = 0.0
) -> dict[str, Tensor]:
    """Return the loss of each example and what it is made of, (B,) each.

    ``nats``: minus the log-likelihood of a caption's mean token. ``wrong``: the share of tokens
    that are not the likeliest. ``stated``: minus the log-likelihood of all that is stated.
    ``heard``: of the mean statement that is asked of a caption. The loss is the nats, and the
    latter two with the weight ``statements``.
    """
    if net.config.kinds:
        places = net.places(examples["video"])
        begun = _begun(net.sort(places), examples["rows"], net.config.kinds)
        sketched = examples["sketched"][:, None, None]
        seen = torch.where(sketched, net.look_at_sketch(begun), net.understand(places))
    else:
        seen = net.look(examples["video"])
    ids, asked = examples["ids"], examples["asked"]
    nats, missed = _token_losses(net, seen, ids, examples["blind"])
    counts = asked.sum(2).clamp_min(1)
    there = asked.any(2)
    captions = there.sum(1).clamp_min(1)
    told = ((nats * asked).sum(2) / counts).sum(1) / captions
    wrong = ((missed & asked).sum(2) / counts).sum(1) / captions
    losses = {"loss": told, "nats": told.detach(), "wrong": wrong}
    if statements:
        costs, _ = _token_losses(net, seen, examples["stated"])
        stated = (costs * examples["answers"]).sum((1, 2))
        replies = examples["replies"]
        costs, _ = _token_losses(net, torch.zeros_like(seen[:, :1]), examples["heard"])
        heard = (costs * replies).sum((1, 2)) / replies.any(2).sum(1).clamp_min(1)
        losses |= {"stated": stated.detach(), "heard": heard.detach()}
        losses["loss"] = told + statements * (stated + heard)
    return losses


def _token_losses(
    net: Captioner, seen: Tensor, ids: Tensor, blind: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return minus the log-likelihood of each id (B, N, L), and which are not the likeliest."""
    texts = ids.flatten(0, 1)
    each = ids.shape[1]
    unseen = None if blind is None else blind.repeat_interleave(each)
    logits = net.say(seen.repeat_interleave(each, 0), begin_words(texts), unseen)
    nats = F.cross_entropy(logits.flatten(0, 1), texts.flatten(), reduction="none")
    return nats.view(ids.shape), logits.argmax(2).view(ids.shape) != ids


def _begun(sketches: Tensor, known: Tensor, unknown: int) -> Tensor:
    """Return sketches (B, pairs, y, x) of whose rows only a share (B,) is known."""
    rows = torch.arange(sketches.shape[2], device=sketches.device)
    hidden = rows >= (known * len(rows)).ceil()[:, None]
    return sketches.masked_fill(hidden[:, None, :, None], unknown)


@torch.inference_mode()
def find_kinds(net: Captioner, clips: KeptClips, kinds: int) -> Tensor:
    """Sort what a captioner sees of places into kinds, by k-means.

    Args:
        net: whose eye looks.
        clips: that it looks at, the first of them.
        kinds: how many.

    Returns:
        (kinds, numbers) float32, the middle of each.

    Raises:
        ValueError: there are fewer places than kinds.
    """
    device = net.head.weight.device
    seen = []
    for index in range(min(_SORTED, len(clips))):
        video = clips.video(index, 0, clips.frames)[None].to(device).float() / 255
        seen.append(net.places(video).flatten(0, 2).cpu())
    places = torch.cat(seen)
    if len(places) < kinds:
        raise ValueError(f"kinds must be at most {len(places)}, one a place, got {kinds}")
    return kmeans(places, kinds, _ROUNDS)


# ------------------------------------------------------------------ the run


def captioner_task(
    clips: KeptClips,
    checks: Mapping[str, KeptClips],
    configs: Mapping[str, Any],
    start: tuple[Captioner, Vocabulary] | None = None,
    vocabulary: Vocabulary | None = None,
    kinds: int | None = None,
) -> loop.Task:
    """Return what the loop needs to train a captioner.

    Args:
        clips: to learn from, of the network's size.
        checks: other clips, by name; the first ones decide which weights are best.
        configs: as :func:`presets` returns them; the vocabulary's size is filled in.
        start: a network to go on from, and its words; ``configs["model"]`` is its own.
        vocabulary: of a run that is resumed.
        kinds: into so many the places that ``start`` sees are sorted; from then on it sees nothing
            else, its eye stays as it is, and only the rest learns.

    Raises:
        ValueError: there is nothing to judge by, clips are too short for the network, or kinds
            without a network to start from, which has none yet.
    """
    if not checks:
        raise ValueError("checks must hold some clips")
    training: loop.LoopConfig = configs["loop"]
    data: CaptionerDataConfig = configs["data"]
    if kinds is not None and (start is None or start[0].config.kinds):
        raise ValueError("kinds must be found of a network that has learned to see, and has none")
    if start is not None:
        first = start[0].config
        if kinds is not None:  # a sketch has nothing that is pooled
            first = replace(first, kinds=kinds, pooled=0)
        configs = {**configs, "model": first}
    check_example(configs)
    if configs["model"].kinds and start is None:
        raise ValueError("kinds are found of a network to start from")
    words = _words(clips, data, start, vocabulary)
    torch.manual_seed(training.seed)
    net = Captioner(replace(configs["model"], vocabulary=words[TEXT].size + 1))
    if start is not None:
        state = start[0].state_dict()
        if kinds is not None:
            # Those of a run that is resumed are found already.
            book = find_kinds(start[0], clips, kinds) if vocabulary is None else net.book
            state = _sorting(state, net, book)
        net.load_state_dict(state)
    if net.config.kinds:
        net.see.requires_grad_(False)
    plain = replace(data, share=0.0, frames=data.length, mirrored=0.0, blind=0.0, begun=0.0)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(clips, words, training.seed, numbers, data)

    def loss(model: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return captioner_losses(_own(model), examples, data.statements)

    def validate(model: nn.Module) -> dict[str, float]:
        def one(other: KeptClips) -> dict[str, float]:
            return measure(_own(model), other, words, training.seed, plain)

        return loop.measure_each(checks, one)

    return loop.Task(
        data=clips.folder.name,
        name="captioner",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data},
        validate=validate,
        metric="nats",
        notes={VOCABULARY: words.to_json()} | _noted(clips, data.statements),
        matrices=("see", "think", "show", "read", "tell", "query", "key", "recall"),
        trained=start is not None,
    )


def _noted(clips: KeptClips, statements: float) -> dict[str, str]:
    """Return the note of what statements are of, if any are learned."""
    names = chain.from_iterable(map(clips.labels, range(len(clips) if statements else 0)))
    things = tuple(dict.fromkeys(map(thing_of, names)))
    return {THINGS: things_to_json(things)} if things else {}


def _words(
    clips: KeptClips,
    data: CaptionerDataConfig,
    start: tuple[Captioner, Vocabulary] | None,
    known: Vocabulary | None,
) -> Vocabulary:
    """Return the words of a run that is resumed, of a network to go on from, or new ones."""
    found = known or (start and start[1])
    if found:
        return replace(found, text_limit=data.text_limit)
    captions = chain.from_iterable(map(clips.captions, range(len(clips))))
    pairs = train_pairs(captions, data.merges)
    return text_vocabulary(pairs, data.text_limit)


def _sorting(state: Mapping[str, Tensor], net: Captioner, book: Tensor) -> dict[str, Tensor]:
    """Return the state of a network that sorts what another one sees into kinds."""
    # Rows and columns of what is pooled, which a sketch has not, are the last of their matrices.
    sizes = {name: value.shape for name, value in net.state_dict().items()}
    shared = {name: value[tuple(map(slice, sizes[name]))] for name, value in state.items()}
    return {**shared, "book": book, "unknown": net.unknown}


def measure(
    net: Captioner, clips: KeptClips, words: Vocabulary, seed: int, data: CaptionerDataConfig
) -> dict[str, float]:
    """Return the mean ``nats`` and the share ``wrong`` of words of captions, over all clips."""
    device = next(net.parameters()).device
    parts: dict[str, list[Tensor]] = {"nats": [], "wrong": []}
    for start in range(0, len(clips), _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, len(clips)))
        drawn = draw_batch(clips, words, seed, numbers, data)
        measured = captioner_losses(net, {key: value.to(device) for key, value in drawn.items()})
        for key, values in parts.items():
            values.append(measured[key].cpu())
    return {key: float(torch.cat(values).mean()) for key, values in parts.items()}


def text_vocabulary(pairs: BytePairs, limit: int) -> Vocabulary:
    """Return the vocabulary of text alone."""
    return Vocabulary((Medium(TEXT, pairs.size),), pairs, limit)


def _own(model: nn.Module) -> Captioner:
    assert isinstance(model, Captioner)
    return model
