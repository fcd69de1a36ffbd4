"""What the critic learns: which of some captions is a video's, from its codes or the first of them.

The other captions of an example are part of it, so no example sees another. Some differ from the
clip's own by one word, so that all that captions tell is learned, not just what is seen best. Rows
that are still to be written are left out in most examples, in the order in which they will be
written, and what is there is moved a little: a caption does not say where exactly things are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowwarp.data.phrases import Phrasebook, learn_phrases
from flowwarp.data.tokens import Vocabulary, written_cells
from flowwarp.models.critic import Critic, CriticConfig, add_up
from flowwarp.models.dvae import DVAE
from flowwarp.pipelines.sequences import CODES, VIDEO, VOCABULARY
from flowwarp.pipelines.video_tokens import fingerprint
from flowwarp.train import loop
from flowwarp.train.gpt import GPTMaterial
from flowwarp.train.tokenized import TokenStore

Preset = Literal["tiny", "small", "base"]

_LONGEST = 192  # phrases of a caption: no text has more tokens than a third of it


@dataclass(frozen=True)
class CriticDataConfig:
    """What an example is.

    Args:
        clips: how many are turned into codes, once.
        checked: clips of each validation, which training never sees.
        size: of their frames.
        frames: of each.
        phrases: how many are learned at most.
        others: captions of other clips, among which the clip's own is to be found.
        swapped: captions like its own but for one word, among which it is to be found too. Others
            are told from it by the ground alone, and what is harder to see would not be learned.
        whole: share of examples of which all codes are there.
        shift: by how many cells things are moved at most, along both axes.
    """

    clips: int = 20_000
    checked: int = 48
    size: int = 64
    frames: int = 16
    phrases: int = 3000
    others: int = 255
    swapped: int = 32
    whole: float = 0.3
    shift: int = 2

    def __post_init__(self) -> None:
        for name in ("clips", "checked", "size", "frames", "phrases", "others"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.whole <= 1:
            raise ValueError(f"whole must be in [0, 1], got {self.whole}")
        for name in ("swapped", "shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def presets(preset: Preset) -> dict[str, Any]:
    """Return the configurations of a run by section: loop, model, data."""
    tiny, base = preset == "tiny", preset == "base"
    return {
        "loop": loop.LoopConfig(
            steps=300 if tiny else 2500 if base else 1000,
            batch_size=32 if tiny else 256,
            learning_rate=2e-3,
            warmup=50,
            weight_decay=0.05,
            beta2=0.95,
            clip=5.0,
            ema=0.99,
            precision="fp32" if tiny else "bf16",
            validate_every=100,
        ),
        "model": CriticConfig(phrases=1, widths=(32, 32) if tiny else (80, 128)),
        "data": CriticDataConfig(
            clips=1024 if tiny else 40_000 if base else 10_000,
            phrases=1000 if tiny else 3000,
            others=63 if tiny else 255,
        ),
    }


@final
class Captions:
    """Captions as bags of phrases, and others that differ from them by one word.

    Args:
        captions: all of them.
        book: the phrases.
    """

    def __init__(self, captions: Iterable[str], book: Phrasebook) -> None:
        self._book = book
        self._words = [book.pairs.encode(caption)[: book.limit] for caption in captions]
        found = [book.number(words) for words in self._words]
        self._longest = (
            max(map(len, found)) + 3
        )  # a word is in up to three phrases that others lack
        self.bags = torch.stack([book.bag(numbers, self._longest) for numbers in found])
        # What stands between two words, as often as it does.
        self._between: dict[tuple[int, int], list[int]] = {}
        for words in self._words:
            for place, word in enumerate(words):
                self._between.setdefault(_around(words, place), []).append(word)

    def __len__(self) -> int:
        return len(self.bags)

    def swap(self, index: int, count: int, generator: torch.Generator) -> Tensor:
        """Return a caption with a word exchanged for one that stands in such a place elsewhere.

        Where that is the same word, the caption is another one's.

        Returns:
            (count, L) bags.
        """
        words = self._words[index]
        chances = torch.rand(count, 2, generator=generator).tolist()
        elsewhere = torch.randint(len(self), (count,), generator=generator)
        bags = self.bags[elsewhere].clone()
        for row, (where, which) in enumerate(chances):
            if not words:
                break
            place = int(where * len(words))
            choice = self._between[_around(words, place)]
            other = choice[int(which * len(choice))]
            if other != words[place]:
                changed = [*words[:place], other, *words[place + 1 :]]
                bags[row] = self._book.bag(self._book.number(changed), self._longest)
        return bags


def _around(words: Sequence[int], place: int) -> tuple[int, int]:
    """Return the words before and after a place, -1 for none."""
    before = words[place - 1] if place else -1
    return before, words[place + 1] if place + 1 < len(words) else -1


def draw_batch(
    store: TokenStore,
    captions: Captions,
    seed: int,
    numbers: Iterable[int],
    data: CriticDataConfig,
) -> dict[str, Tensor]:
    """Return some examples, a pure function of the seed and their numbers.

    Args:
        store: codes.
        captions: theirs.
        seed: which series.
        numbers: which of them.
        data: what an example is.

    Returns:
        ``codes`` (B, t, h, w), ``known`` (B, t, h, w) bool, and ``bags`` (B, 1 + others + swapped,
        L), of which the first is the clip's own.
    """
    rows: dict[str, list[Tensor]] = {"codes": [], "known": [], "bags": []}
    for number in numbers:
        index = loop.shuffled(seed, number, len(store))
        generator = loop.generator(seed, number)
        codes = store.codes(VIDEO, index)
        cells = codes.numel()
        written = int(torch.randint(1, cells + 1, (), generator=generator))
        if float(torch.rand((), generator=generator)) < data.whole:
            written = cells
        down, across = torch.randint(
            -data.shift, data.shift + 1, (2,), generator=generator
        ).tolist()
        rows["codes"].append(torch.roll(codes, (down, across), (1, 2)))
        known = written_cells(codes.shape, written) & _still_there(codes, down, across)
        rows["known"].append(known)
        drawn = torch.randint(len(store), (data.others,), generator=generator)
        others = captions.bags[torch.cat([torch.tensor([index]), drawn])]
        swapped = captions.swap(index, data.swapped, generator)
        rows["bags"].append(torch.cat([others, swapped]))
    return {name: torch.stack(parts) for name, parts in rows.items()}


def _still_there(codes: Tensor, down: int, across: int) -> Tensor:
    """Return where cells moved by so many rows and columns did not come in from the other side."""
    there = torch.ones(codes.shape, dtype=torch.bool)
    for axis, by in ((1, down), (2, across)):
        if by > 0:
            there.narrow(axis, 0, min(by, there.shape[axis])).fill_(False)
        elif by < 0:
            size = min(-by, there.shape[axis])
            there.narrow(axis, there.shape[axis] - size, size).fill_(False)
    return there


def critic_losses(net: Critic, dvae: DVAE, examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the cross entropy of a clip's own caption among others, and ``wrong``, (B,) each."""
    values = dvae.quantiser.values(examples["codes"])
    sums = add_up(net(values, examples["known"]), examples["bags"])
    own = torch.zeros(len(sums), dtype=torch.int64, device=sums.device)
    wrong = (sums.argmax(1) != own).float()
    return {"loss": F.cross_entropy(sums, own, reduction="none"), "wrong": wrong}


def critic_task(
    material: GPTMaterial,
    configs: Mapping[str, Any],
    words: Vocabulary,
    dvae: DVAE,
    notes: Mapping[str, str] | None = None,
    start: Critic | None = None,
) -> loop.Task:
    """Return what the loop needs to train a critic.

    Args:
        material: clips as codes.
        configs: as :func:`presets` returns them; what hangs on the material is filled in.
        words: the vocabulary of the transformer that it is for.
        dvae: whose codes they are.
        notes: for the card of the weights.
        start: a network to go on from; ``configs["model"]`` is its own.

    Raises:
        ValueError: there is nothing to judge by.
    """
    if not material.checks:
        raise ValueError("checks must hold some clips")
    training: loop.LoopConfig = configs["loop"]
    data: CriticDataConfig = configs["data"]
    torch.manual_seed(training.seed)
    store = material.training
    if start is None:
        captions = list(store.captions())
        book = learn_phrases(captions, words.pairs, words.text_limit, data.phrases)
        net = _fresh(configs["model"], material, book, dvae, captions)
    else:
        book = Phrasebook(start.names, words.pairs, words.text_limit)
        net = Critic(start.config)
        net.load_state_dict(start.state_dict())
    told = Captions(store.captions(), book)

    def batch(numbers: range) -> dict[str, Tensor]:
        return draw_batch(store, told, training.seed, numbers, data)

    def loss(model: nn.Module, examples: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        return critic_losses(_own(model), dvae, examples)

    def validate(model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name, check in material.checks.items():
            prefix = "" if not figures else f"{name}_"
            own = book.bags(list(check.captions()), _LONGEST)
            for part, share in (("", 1.0), ("early_", 1 / 8)):
                found = _rank(_own(model), dvae, check, own, share)
                figures |= {f"{prefix}{part}{key}": value for key, value in found.items()}
        return figures

    return loop.Task(
        name="critic",
        model=net,
        batch=batch,
        loss=loss,
        configs={"model": net.config, "data": data},
        validate=validate,
        metric="loss",
        notes={**(notes or {}), VOCABULARY: words.to_json(), CODES: fingerprint(dvae)},
    )


def _fresh(
    config: CriticConfig,
    material: GPTMaterial,
    book: Phrasebook,
    dvae: DVAE,
    captions: list[str],
) -> Critic:
    """Return a network that has learned nothing, but knows what phrases and captions there are."""
    grid = next(medium.grid for medium in material.media if medium.name == VIDEO)
    assert grid is not None
    net = Critic(replace(config, phrases=len(book), grid=grid, channels=dvae.quantiser.outputs))
    net.names.copy_(book.names)
    count, longest = net.references.shape
    chosen = [captions[index % len(captions)] for index in range(count)]
    net.references.copy_(book.bags(chosen, longest))
    return net


def _rank(
    net: Critic, dvae: DVAE, store: TokenStore, bags: Tensor, share: float
) -> dict[str, float]:
    """Return how surely the captions of some clips are told apart by a share of the codes."""
    codes = torch.stack([store.codes(VIDEO, index) for index in range(len(store))])
    known = written_cells(codes.shape[1:], round(share * codes[0].numel())).expand(codes.shape)
    device = next(net.parameters()).device
    scores = net(dvae.quantiser.values(codes.to(device)), known.to(device))
    sums = add_up(scores, bags.to(device).expand(len(codes), *bags.shape))
    own = torch.arange(len(codes), device=device)
    wrong = (sums.argmax(1) != own).float().mean()
    return {"loss": float(F.cross_entropy(sums, own)), "wrong": float(wrong)}


def _own(model: nn.Module) -> Critic:
    assert isinstance(model, Critic)
    return model
