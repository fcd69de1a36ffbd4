"""What the transformer learns: sequences of media in every order that shall be asked of it.

One mixture holds text → video, video → text, first frame → video and motion → video, so one network
does all, and judges its own videos by the way back. Going on from the beginning of a video needs no
order of its own: each prefix of a sequence is one. Where the caption is left out, as it is now and
then, the network learns what guidance compares with.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.data.media import CODES, SKETCH, TEXT, VIDEO, VOCABULARY, WORDS
from flowwarp.legacy.data.tokens import (
    LONGEST_TEXT,
    MOST_MERGES,
    PATCH,
    Medium,
    Tokens,
    Vocabulary,
    join,
    train_pairs,
)
from flowwarp.legacy.models.dvae import DVAE, FSQ, Residual
from flowwarp.legacy.models.gpt import GPT, SAMPLING, SMALL, TINY, GPTConfig
from flowwarp.legacy.pipelines.sequences import (
    MediaGPT,
    Prompt,
    kinds_of,
    sample_video_tokens,
    words_of,
)
from flowwarp.legacy.pipelines.tokens import detokenize, fingerprint
from flowwarp.legacy.train.tokenized import TokenStore
from flowwarp.tensors import check_whole
from flowwarp.train import loop, seeding
from flowwarp.train.settings import Preset, check_least, check_shares
from flowwarp.viz.sheets import video_sheet

_ROW = 16  # examples in a row have the same order, so that they are about equally long
_SHOWN = 4  # prompts of the sheet of samples
_FADES = 256  # tokens after which the stress on a video's opening is half as strong
_ALL = slice(0, None)
_MOST_WORDS = 10_000  # that the card of the weights names
# Warmer than videos are made: more goes wrong, to learn not to be led astray by.
_REDRAWING = replace(SAMPLING, temperature=1.0)
_TOLD = "ahead.weight"  # what kinds of places say to patches of a video
_AT_ONCE = 8  # sequences of a validation side by side


@dataclass(frozen=True)
class GPTDataConfig:
    """What an example is.

    Args:
        clips: how many are turned into codes, once.
        checked: clips of each validation, which training never sees.
        size: of their frames.
        frames: of each.
        merges: pairs that the text tokenizer learns from the captions.
        text_limit: tokens of a caption that are used, up to 256.
        token_frames: how many of a video's are used, from any of them on; 0 for all. What words
            look like is learned several times as fast from one of them, in larger batches; go on
            with whole videos by --resume changed.
        orders: media of a sequence in their order, and how often it comes, relative to the others.
            What the last medium of the first costs decides which weights are best.
        caption_dropout: how often a caption that comes first is left out, and with it the sketch.
        sketch_dropout: how often a video is not told its sketch, where there are sketches.
        hiding: how often patches of a video or a sketch at the end of a sequence are hidden from
            all patches after them: in half of those examples all, else a random share. What a video
            tells of itself is as good as any caption, so hardly a token needs one; those that see
            little of it do.
        redrawn: how often a video's patches are read as the network itself would write them: in
            such an example a share of them, drawn up to half, see
            :meth:`legacy.models.gpt.GPT.redraw`. Else it learns to go on from what is real alone,
            and when it writes each error leads to the next.
    """

    clips: int = 20_000
    checked: int = 24
    size: int = 64
    frames: int = 16
    merges: int = 512
    text_limit: int = 64
    token_frames: int = 0
    orders: tuple[str, ...] = (
        "text video 0.5",
        "video text 0.25",
        "text frame video 0.1",
        "text motion video 0.1",
        "video motion 0.05",
    )
    caption_dropout: float = 0.1
    sketch_dropout: float = 0.1
    hiding: float = 0.5
    redrawn: float = 0.0

    def __post_init__(self) -> None:
        check_least(self, 1, "clips", "checked", "size", "frames")
        check_whole(self.text_limit, "text_limit", 1, LONGEST_TEXT)
        check_whole(self.merges, "merges", 0, MOST_MERGES)
        check_least(self, 0, "token_frames")
        if not self.orders or sum(share for _, share in self.mixture) <= 0:
            raise ValueError("orders must not be empty, nor come never")
        check_shares(self, "caption_dropout", "sketch_dropout", "hiding", "redrawn")

    @property
    def mixture(self) -> list[tuple[list[str], float]]:
        """Media of each order, and its share."""
        mixture = []
        for order in self.orders:
            *media, share = order.split() or [""]
            try:
                mixture.append((media, float(share)))
            except ValueError:
                mixture.append((media, -1.0))
            if not media or not 0 <= mixture[-1][1] < math.inf:
                raise ValueError(f"orders must be media and a share, got {order!r}")
        return mixture


@dataclass(frozen=True)
class GPTLossConfig:
    """How much a token of each medium counts, relative to the others of its sequence.

    Args:
        text: a caption is short, but each word decides much.
        description: text of what came before it, such as a video, instead of ``text``. It is a
            hundredth of such a sequence, but all that the sequence is for.
        video: what is wanted.
        opening: how much more the first token of a video counts; half as much more after 256
            tokens, and so on. It is there that a prompt says something that is not seen yet.
        frame: a condition, whose likelihood is a help only.
        motion: likewise.
        sketch: what videos are made after.
        rare: how far patches of a video count more, the fewer of its places are of their kind, by
            its sketch: minus the power of their number. Most of a video is ground, whose grain
            nobody can foretell; who stands there is a third of it. 0 for all alike.
        asked: how often a patch of a video is asked for, times how far it counts more, if that is
            not 1. Those that are drawn stand for the others: half of them teach nearly as much as
            all, in two thirds of the time.
    """

    text: float = 5.0
    description: float = 100.0
    video: float = 1.0
    frame: float = 0.5
    motion: float = 0.5
    sketch: float = 1.0
    opening: float = 8.0
    rare: float = 0.0
    asked: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.asked <= 1:
            raise ValueError(f"asked must be in (0, 1], got {self.asked}")
        check_least(self, 0, "opening", "rare")
        others = "opening", "rare", "asked"
        weights = [getattr(self, item.name) for item in fields(self) if item.name not in others]
        if min(weights) < 0 or max(weights) <= 0:
            raise ValueError("the weights of media must not be negative, nor all 0")


# ------------------------------------------------------------------ examples


def build_vocabulary(
    media: Sequence[Medium], captions: Iterable[str], config: GPTDataConfig
) -> Vocabulary:
    """Return the vocabulary of some media and of the text of captions."""
    pairs = train_pairs(captions, config.merges)
    return Vocabulary((Medium(TEXT, pairs.size), *media), pairs, config.text_limit)


def known_words(captions: Iterable[str]) -> frozenset[str]:
    """Return the words of captions; of very many the commonest, as others are hardly learned."""
    counts = Counter(itertools.chain.from_iterable(map(words_of, captions)))
    return frozenset(word for word, _ in counts.most_common(_MOST_WORDS))


def sequence_of(
    store: TokenStore, index: int, order: Sequence[str], words: Vocabulary, part: slice = _ALL
) -> Tokens:
    """Return a clip as a sequence of media in some order, the video's ``part`` of its times."""
    parts = []
    for name in order:
        if name == TEXT:
            parts.append(words.text(store.caption(index)))
        else:
            own = part if name == VIDEO else _ALL
            parts.append(words.segment(name, store.codes(name, index)[own], own.start))
    return join(parts)


@dataclass(frozen=True)
class _Example:
    """A sequence, what its patches are told and asked (L / 8,) each, and random numbers (L,)."""

    tokens: Tokens
    patches: Mapping[str, Tensor]
    draws: Tensor


def draw_batch(
    store: TokenStore,
    words: Vocabulary,
    seed: int,
    numbers: Iterable[int],
    data: GPTDataConfig,
    losses: GPTLossConfig,
) -> dict[str, Tensor]:
    """Return some examples, a pure function of the seed and their numbers.

    Returns:
        As :func:`collate` does, and ``hidden`` (B, L / 8) bool, see `GPTDataConfig.hiding`; where
        there are sketches also ``ahead`` (B, L / 8), see :meth:`legacy.models.gpt.GPT.features`;
        with `GPTDataConfig.redrawn` also ``redrawn`` (B, L / 8) bool, and ``draws`` (B, L).
    """
    drawn = [_draw_example(store, words, seed, number, data, losses) for number in numbers]
    examples = collate([one.tokens for one in drawn], words, losses)
    length = examples["ids"].shape[1]
    for name in drawn[0].patches:
        nothing = words[SKETCH].size if name == "ahead" else 0
        rows = [one.patches[name] for one in drawn]
        examples[name] = _stack(rows, length // PATCH, nothing)
    examples["weights"] *= examples.pop("counts").repeat_interleave(PATCH, 1)
    if data.redrawn:
        examples["draws"] = _stack([one.draws for one in drawn], length)
    return examples


def _draw_example(
    store: TokenStore,
    words: Vocabulary,
    seed: int,
    number: int,
    data: GPTDataConfig,
    losses: GPTLossConfig,
) -> _Example:
    order = _draw_order(data, seed, number)
    generator = seeding.generator(seed, number)
    dropped = float(torch.rand((), generator=generator)) < data.caption_dropout
    if dropped and order[0] == TEXT and len(order) > 1:
        order = order[1:]
    index = seeding.shuffled(seed, number, len(store))
    tokens = sequence_of(store, index, order, words, _some_frames(words, data, generator))
    hiding = data.hiding if order[-1] in (VIDEO, SKETCH) else 0.0
    hidden = _some_patches(tokens, words.number(order[-1]), hiding, 2.0, generator)
    patches, sketch = {"hidden": hidden}, None
    if words.knows(SKETCH):
        sketch = store.codes(SKETCH, index)
        plain = dropped or float(torch.rand((), generator=generator)) < data.sketch_dropout
        told = None if plain or order[-1] != VIDEO else sketch
        patches["ahead"] = kinds_ahead(tokens, words, told)
    patches["counts"] = _draw_asked(tokens, words, sketch, losses, generator)
    draws = torch.empty(0)
    if data.redrawn:
        video = words.number(VIDEO)
        patches["redrawn"] = _some_patches(tokens, video, data.redrawn, 0.5, generator)
        draws = torch.rand(len(tokens), generator=generator)
    return _Example(tokens, patches, draws)


def _draw_order(data: GPTDataConfig, seed: int, number: int) -> list[str]:
    """Draw the order of media of an example, the same for those that will be put side by side."""
    shares = torch.tensor([share for _, share in data.mixture], dtype=torch.float64)
    chosen = torch.multinomial(shares, 1, generator=seeding.generator(seed, number // _ROW, 1))
    return data.mixture[int(chosen)][0]


def _stack(rows: Sequence[Tensor], length: int, value: int = 0) -> Tensor:
    """Put rows of some lengths side by side, filled up to one."""
    return torch.stack([F.pad(row, (0, length - len(row)), value=value) for row in rows])


def _draw_asked(
    tokens: Tokens,
    words: Vocabulary,
    sketch: Tensor | None,
    losses: GPTLossConfig,
    generator: torch.Generator,
) -> Tensor:
    """Return how much each patch counts by `GPTLossConfig.rare` and ``asked``, (L / 8,).

    Its expectation is 1 in the mean of a video; of what is not a video's it is 1.
    """
    places, cells = tokens.places[::PATCH], cells_of(tokens, words.number(VIDEO))
    counts = torch.ones(len(places))
    rare = torch.ones(int(cells.sum()))
    if losses.rare and sketch is not None and len(rare):
        kinds = kinds_of(words, places[cells], sketch)
        rare = torch.bincount(kinds)[kinds].float() ** -losses.rare
        rare = rare / rare.mean()
    chance = (losses.asked * rare).clamp_max(1.0) if losses.asked < 1 else torch.ones_like(rare)
    drawn = torch.rand(len(rare), generator=generator) < chance
    counts[cells] = torch.where(drawn, rare / chance, 0.0)
    return counts


def kinds_ahead(tokens: Tokens, words: Vocabulary, sketch: Tensor | None) -> Tensor:
    """Return what each patch is told of the place of the next one, (L / 8,) int64.

    Args:
        tokens: a sequence.
        words: of which media, ``sketch`` among them.
        sketch: (t, y, x) of its video; None if nothing shall be told.
    """
    places, cells = tokens.places[::PATCH], cells_of(tokens, words.number(VIDEO))
    told = kinds_of(words, places, None)
    told[cells] = kinds_of(words, places[cells], sketch)
    return F.pad(told[1:], (0, 1), value=words[SKETCH].size)


def _some_frames(words: Vocabulary, data: GPTDataConfig, generator: torch.Generator) -> slice:
    grid = words[VIDEO].grid
    assert grid is not None
    if not 0 < data.token_frames < grid[0]:
        return _ALL
    start = int(torch.randint(grid[0] - data.token_frames + 1, (), generator=generator))
    return slice(start, start + data.token_frames)


def _some_patches(
    tokens: Tokens, medium: int, often: float, most: float, generator: torch.Generator
) -> Tensor:
    """Choose patches of a medium in so many examples, (L / 8,) bool.

    Of those examples a share of the patches, drawn from 0 to ``most``: of 2, all in half of them.
    """
    chance, share = torch.rand(2, generator=generator).tolist()
    drawn = torch.rand(len(tokens) // PATCH, generator=generator)
    chosen = drawn < (most * share if chance < often else 0.0)
    return cells_of(tokens, medium) & chosen


def cells_of(tokens: Tokens, medium: int) -> Tensor:
    """Return which patches are cells of a medium rather than its markers, (L / 8,) bool."""
    return (tokens.media[::PATCH] == medium) & (tokens.places[::PATCH, 1] > 0)


def collate(
    sequences: Sequence[Tokens], words: Vocabulary, losses: GPTLossConfig
) -> dict[str, Tensor]:
    """Put sequences side by side, the shorter ones filled up at their end, where nothing sees it.

    Returns:
        ``ids`` (B, L) int64, ``places`` (B, L, 4) float32, ``media`` (B, L) int64, -1 for what is
        filled up, ``near`` (B, L, 7) int64, see :class:`Tokens`, and ``weights`` (B, L) float32,
        how much the prediction of each token counts.
    """
    longest = max(map(len, sequences))
    weights = torch.tensor([getattr(losses, medium.name) for medium in words.media])
    chosen = torch.cat(words.all_choices())
    video, text = words.number(VIDEO), words.number(TEXT)
    names = "ids", "places", "media", "near", "weights"
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for tokens in sequences:
        missing = longest - len(tokens)
        # Which medium comes next is known, and where a grid ends.
        asked = torch.isin(tokens.ids, chosen)
        counts = torch.where(asked, weights[tokens.media], 0.0)
        if tokens.media[0] != text:
            counts[asked & (tokens.media == text)] = losses.description
        own = counts[tokens.media == video]
        counts[tokens.media == video] = own * _stress(len(own), losses.opening)
        parts["ids"].append(F.pad(tokens.ids, (0, missing)))
        parts["places"].append(F.pad(tokens.places, (0, 0, 0, missing)))
        parts["media"].append(F.pad(tokens.media, (0, missing), value=-1))
        parts["near"].append(F.pad(tokens.near, (0, 0, 0, missing), value=-1))
        parts["weights"].append(F.pad(counts, (0, missing)))
    return {name: torch.stack(rows) for name, rows in parts.items()}


def _stress(length: int, opening: float) -> Tensor:
    return 1 + opening * 2 ** (-torch.arange(length) / _FADES)


def gpt_losses(net: GPT, examples: Mapping[str, Tensor], words: Vocabulary) -> dict[str, Tensor]:
    """Return the loss, nats a token, and the same in bits, (B,) each; see :meth:`GPT.nats`."""
    choices = [ids.to(examples["ids"].device) for ids in words.all_choices()]
    hidden, ahead, near = (examples.get(name) for name in ("hidden", "ahead", "near"))
    weights = examples["weights"][:, PATCH:]
    asked = weights.view(len(weights), -1, PATCH).any(2)
    ids, places = examples["ids"], examples["places"]
    read = None
    if "redrawn" in examples:
        drawn = words.later_digits(), examples["redrawn"], examples["draws"]
        read = net.redraw(ids, places, choices, *drawn, _REDRAWING, ahead, near)
        # Of weights cast to bf16 without a way back for gradients: older torch would go on with it.
        torch.clear_autocast_cache()
    nats = net.nats(ids, places, choices, hidden, ahead, near, asked, read)
    loss = (nats * weights).sum(1) / weights.sum(1).clamp_min(1e-6)
    return {"loss": loss, "bits": loss.detach() / math.log(2)}


def bits_by_medium(
    net: GPT,
    sequences: Sequence[Tokens],
    words: Vocabulary,
    order: Sequence[str],
    ahead: Sequence[Tensor] | None = None,
) -> dict[str, float]:
    """Return bits a token of each medium of an order, given what comes before it.

    Args:
        net: the network.
        sequences: all of that order.
        words: their vocabulary.
        order: names of media.
        ahead: what each is told of its places, see :func:`kinds_ahead`.

    Returns:
        Keys such as ``text_after_video``.
    """
    totals = torch.zeros(len(words.media), dtype=torch.float64)
    counts = torch.zeros_like(totals)
    everything = GPTLossConfig(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, opening=0.0)
    device = net.head.weight.device
    choices = [ids.to(device) for ids in words.all_choices()]
    for start in range(0, len(sequences), _AT_ONCE):
        part = sequences[start : start + _AT_ONCE]
        examples = collate(part, words, everything)
        told = None
        if ahead is not None:
            patches = examples["ids"].shape[1] // PATCH
            rows = ahead[start : start + _AT_ONCE]
            told = _stack(rows, patches, words[SKETCH].size).to(device)
        placed = examples["ids"].to(device), examples["places"].to(device)
        nats = net.nats(*placed, choices, ahead=told, near=examples["near"].to(device))
        nats = nats.cpu().double()  # MPS has none
        counted = examples["weights"][:, PATCH:] > 0
        media = examples["media"][:, PATCH:][counted]
        totals.index_add_(0, media, nats[counted])
        counts.index_add_(0, media, torch.ones_like(nats[counted]))
    bits = totals / counts.clamp_min(1) / math.log(2)
    return {
        _figure(order[: place + 1]): float(bits[words.number(name)])
        for place, name in enumerate(order)
    }


def _figure(order: Sequence[str]) -> str:
    """Name the bits of the last of some media, given the others."""
    *before, name = order
    return "_".join([name, "after", *before] if before else [name])


# ------------------------------------------------------------------ the run


def presets(preset: Preset) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data, losses."""
    if preset == "tiny":  # minutes on a laptop
        return {
            "loop": loop.LoopConfig(
                steps=1000,
                batch_size=4,
                learning_rate=3e-3,
                beta2=0.95,
                ema=0.99,
                validate_every=250,
            ),
            "model": TINY,
            "data": GPTDataConfig(clips=1024, checked=8, merges=256),
            "losses": GPTLossConfig(),
        }
    base = preset == "base"
    return {
        "loop": loop.LoopConfig(
            steps=40_000 if base else 20_000,
            batch_size=8,
            learning_rate=1e-3,
            warmup=500,
            weight_decay=0.01,
            beta2=0.95,
            precision="bf16",
            validate_every=1000,
            samples_every=1000,
        ),
        "model": GPTConfig() if base else SMALL,
        "data": GPTDataConfig(clips=100_000 if base else 20_000),
        "losses": GPTLossConfig(),
    }


def check_media(data: GPTDataConfig, losses: GPTLossConfig, names: Collection[str]) -> None:
    """Check what :func:`gpt_task` will, before anything that takes long.

    Args:
        data: whose orders name media.
        losses: which may need sketches.
        names: of the media that there are.

    Raises:
        ValueError: an order names another, or there are no sketches to say what is rare.
    """
    for order, _ in data.mixture:
        for name in order:
            if name not in names:
                raise ValueError(f"there is no medium {name!r}, only {', '.join(names)}")
    if losses.rare and SKETCH not in names:
        raise ValueError("rare needs sketches (--sketcher), which say what is rare")


def mix_in_sketches(data: GPTDataConfig) -> GPTDataConfig:
    """Return a mixture that holds sketches of captions, half of it if it held none before."""
    if any(SKETCH in order for order, _ in data.mixture):
        return data
    share = sum(share for _, share in data.mixture)
    return replace(data, orders=(*data.orders, f"{TEXT} {SKETCH} {share:g}"))


@dataclass(frozen=True)
class GPTMaterial:
    """What a transformer is trained on and judged by.

    Args:
        training: clips to learn from.
        checks: other clips by name, such as ``val`` and ``held_out``; the first one decides which
            weights are best and gives the prompts of the samples.
        media: theirs, besides text.
        eye: of the captioner that made their sketches; see
            :func:`flowwarp.legacy.pipelines.sketches.eye_print`.
    """

    training: TokenStore
    checks: Mapping[str, TokenStore]
    media: tuple[Medium, ...]
    eye: str | None = None


def gpt_task(
    material: GPTMaterial,
    configs: Mapping[str, Any],
    dvae: DVAE | None = None,
    start: MediaGPT | None = None,
    vocabulary: Vocabulary | None = None,
) -> loop.Task:
    """Return what the loop needs to train a transformer.

    Args:
        material: its clips as codes.
        configs: as :func:`presets` returns them; the vocabulary's size is filled in.
        dvae: whose codes they are, to show samples; without it there are none.
        start: a network to go on from; ``configs["model"]`` and the vocabulary are its own.
        vocabulary: of a run that is resumed; from other clips, other pairs would be learned, and
            words would get ids that mean something else to the network.

    Raises:
        ValueError: an order names a medium that there is not, there is nothing to judge by, or
            ``start`` or ``vocabulary`` knows other media than the material has; sketches of
            ``start`` may be others, see :func:`adopt`.
    """
    if not material.checks:
        raise ValueError("checks must hold some clips")
    training: loop.LoopConfig = configs["loop"]
    data: GPTDataConfig = configs["data"]
    losses: GPTLossConfig = configs["losses"]
    words = _vocabulary(material, data, start, vocabulary)
    check_media(data, losses, [medium.name for medium in words.media])
    torch.manual_seed(training.seed)
    net = _network(configs["model"], words, dvae, material.eye, start)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(material.training, words, training.seed, numbers, data, losses)

    def loss(
        model: torch.nn.Module, examples: Mapping[str, Tensor], step: int
    ) -> dict[str, Tensor]:
        return gpt_losses(_own(model), examples, words)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        def one(store: TokenStore) -> dict[str, float]:
            return measure_bits(_own(model), store, words, data)

        device = _own(model).head.weight.device.type
        # What a step sees is what is measured.
        with torch.autocast(device, torch.bfloat16, enabled=training.precision == "bf16"):
            figures = loop.measure_each(material.checks, one)
        return {"loss": figures[_figure(data.mixture[0][0])]} | figures

    def samples(model: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
        if dvae is not None:
            store = next(iter(material.checks.values()))
            gpt = MediaGPT(_own(model), words)
            yield "prompts", _sheet_of_prompts(gpt, store, dvae, training.seed)

    return loop.Task(
        data=material.training.folder.name,
        name="gpt",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data, "losses": losses},
        validate=validate,
        metric="loss",
        samples=samples,
        notes=_notes(material, words, dvae, start),
        layers=("blocks", "inner"),
        matrices=("join", "place", "blocks", "foretold", "earlier", "inner"),
        trained=start is not None,
    )


def _vocabulary(
    material: GPTMaterial,
    data: GPTDataConfig,
    start: MediaGPT | None,
    known: Vocabulary | None,
) -> Vocabulary:
    """Return the vocabulary of a run that is resumed, of a network to go on from, or a new one.

    Raises:
        ValueError: it knows other media than there are.
    """
    problem = "the network to go on from knows other media than these clips have"
    if known is not None:
        words = replace(known, text_limit=data.text_limit)
    elif start is not None:
        before = start.vocabulary
        codes = [own for own in material.media if own.name != SKETCH]  # sketches may begin anew
        if any(before.knows(own.name) and before[own.name] != own for own in codes):
            raise ValueError(problem)
        media = before[TEXT], *material.media
        words = replace(before, media=media, text_limit=data.text_limit)
    else:
        words = build_vocabulary(material.media, material.training.captions(), data)
    if words.media[1:] != material.media:
        raise ValueError(problem)
    return words


def _network(
    sizes: GPTConfig,
    words: Vocabulary,
    dvae: DVAE | None,
    eye: str | None,
    start: MediaGPT | None,
) -> GPT:
    """Return a network for a vocabulary, which knows what another one knows, or how codes look."""
    kinds = words[SKETCH].size if words.knows(SKETCH) else 0
    sizes = sizes if start is None else start.net.config
    net = GPT(replace(sizes, vocabulary=words.size, kinds=kinds))
    if start is not None:
        adopt(net, words, start, eye)
    if dvae is not None and (start is None or start.codes not in (None, fingerprint(dvae))):
        begin_codes(net, words, dvae)
    return net


def _notes(
    material: GPTMaterial, words: Vocabulary, dvae: DVAE | None, start: MediaGPT | None
) -> dict[str, str]:
    """Return what the card of the weights must say for them to be used."""
    about = {VOCABULARY: words.to_json()}
    learned = frozenset[str]() if start is None else start.known
    if learned is not None:  # else it may know words that nobody can tell any more
        about[WORDS] = " ".join(sorted(learned | known_words(material.training.captions())))
    if dvae is not None:
        about[CODES] = fingerprint(dvae)
    if material.eye is not None:
        about[SKETCH] = material.eye
    return about


def measure_bits(
    net: GPT, store: TokenStore, words: Vocabulary, data: GPTDataConfig
) -> dict[str, float]:
    """Return bits a token of each medium of each order of the mixture, over all clips.

    Returns:
        As :func:`bits_by_medium` does.
    """
    seen, figures = slice(0, data.token_frames or None), dict[str, float]()
    for order, _ in data.mixture:
        sequences = [sequence_of(store, index, order, words, seen) for index in range(len(store))]
        ahead = None
        if words.knows(SKETCH) and order[-1] == VIDEO:
            ahead = [
                kinds_ahead(tokens, words, store.codes(SKETCH, index))
                for index, tokens in enumerate(sequences)
            ]
        # Of a figure that two orders name, the first decides: a later one may tell no sketch.
        figures = bits_by_medium(net, sequences, words, order, ahead) | figures
    return figures


def _sheet_of_prompts(gpt: MediaGPT, store: TokenStore, dvae: DVAE, seed: int) -> Tensor:
    """Return a picture of the first clips, each as it was and as it is imagined."""
    shown = range(min(_SHOWN, len(store)))
    prompts = [Prompt(store.caption(index)) for index in shown]
    made = sample_video_tokens(gpt, prompts, [seed + index for index in shown], SAMPLING)
    codes = (codes for index in shown for codes in (store.codes(VIDEO, index), made[index]))
    return video_sheet([torch.stack(list(detokenize(dvae, own))) for own in codes], every=2)


def adopt(net: GPT, words: Vocabulary, start: MediaGPT, eye: str | None) -> None:
    """Give a network what another one knows; what only it has stays as it is.

    Args:
        net: of the same sizes, but for the vocabulary and kinds.
        words: its vocabulary.
        start: the other one and its vocabulary. Of media that only one of them has nothing is
            taken; nor is what words say in sum, which goes by ids, where these differ.
        eye: what tells whose sketches the network shall make. Of those of another captioner nothing
            is taken: their kinds mean something else.
    """
    before = start.vocabulary
    both = before.knows(SKETCH) and words.knows(SKETCH)
    anew = both and (before[SKETCH] != words[SKETCH] or start.sketches not in (None, eye))
    ids, theirs = [0], [0]
    for medium in words.media:
        if not before.knows(medium.name):
            continue
        for known, rows in ((words, ids), (before, theirs)):
            rows += [known.begin(medium.name), known.end(medium.name)]
            if medium.name != SKETCH or not anew:
                rows += known.range(medium.name)
    learned, state = start.net.state_dict(), net.state_dict()
    for name, value in learned.items():
        if name in ("embedding.weight", "head.weight"):
            state[name][ids] = value[theirs]
            continue
        lost = (name.startswith("summary.") and ids != theirs) or (name == _TOLD and anew)
        if name in state and state[name].shape == value.shape and not lost:
            state[name] = value
    net.load_state_dict(state)


@torch.no_grad()
def begin_codes(net: GPT, words: Vocabulary, dvae: DVAE) -> None:
    """Let the codes of a discrete VAE begin where they are read: alike if they decode alike.

    A digit of a code stands for some numbers, or for a vector, whose random mixtures make half of
    the variance of its row of the table, and noise the other half. What foretells codes begins at
    nothing. Does nothing for codes that stand for neither (Gumbel-softmax).
    """
    digits = _digit_values(dvae)
    for ids, numbers in zip(words.choices(VIDEO), digits, strict=bool(digits)):
        numbers = numbers - numbers.mean(0)
        numbers = numbers / numbers.square().mean().sqrt().clamp_min(1e-6)
        inputs, embedded = numbers.shape[1], net.config.embedded
        mixed = numbers @ torch.randn(inputs, embedded) / math.sqrt(inputs)
        rows = math.sqrt(0.5) * (mixed + torch.randn(len(ids), embedded))
        net.embedding.weight[ids] = rows.to(net.embedding.weight)
        net.head.weight[ids] = 0


def _digit_values(dvae: DVAE) -> list[Tensor]:
    """Return what each value of each digit of a code stands for, (book, numbers) each."""
    config = dvae.config
    if isinstance(dvae.quantiser, FSQ):
        numbers = FSQ(config.levels).values(torch.arange(config.book))
        return [(numbers - numbers.mean(0)) / numbers.std(0, correction=0)] * config.digits
    return list(dvae.quantiser.books.cpu()) if isinstance(dvae.quantiser, Residual) else []


def _own(model: torch.nn.Module) -> GPT:
    assert isinstance(model, GPT)
    return model
