"""The transformer's trainer: its examples, its loss by hand, its cache, and what it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from flowwarp.data.clip import Clip
from flowwarp.data.media import CODES, VOCABULARY, WORDS
from flowwarp.legacy.data.tokens import Medium, vocabulary_from_json
from flowwarp.legacy.models.captioner import Captioner, CaptionerConfig
from flowwarp.legacy.models.dvae import DVAE
from flowwarp.legacy.models.dvae import TINY as TINY_DVAE
from flowwarp.legacy.models.gpt import GPT, PATCH, TINY
from flowwarp.legacy.pipelines.captions import MediaCaptioner
from flowwarp.legacy.pipelines.sequences import (
    MediaGPT,
    Prompt,
    describe,
    load_gpt,
    sample_video_tokens,
)
from flowwarp.legacy.pipelines.sketches import eye_print, sketch
from flowwarp.legacy.pipelines.tokens import fingerprint, tokenize
from flowwarp.legacy.train import gpt
from flowwarp.legacy.train.captioner import text_vocabulary
from flowwarp.legacy.train.gpt import (
    GPTDataConfig,
    GPTLossConfig,
    GPTMaterial,
    bits_by_medium,
    build_vocabulary,
    collate,
    draw_batch,
    gpt_losses,
    gpt_task,
    kinds_ahead,
    presets,
    sequence_of,
)
from flowwarp.legacy.train.tokenized import TokenStore, grid_media, tokenize_clips
from flowwarp.train import loop, seeding
from flowwarp.train.arrays import CAPTION

SIZE, FRAMES = 16, 8
DATA = GPTDataConfig(clips=12, checked=3, size=SIZE, frames=FRAMES, merges=20, text_limit=12)
SIZES = replace(TINY, width=32, depth=2, hidden=48, inner_width=32, inner_hidden=48)
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def square(seed, index):
    """A square of one of three colours that moves right."""
    random = np.random.default_rng([seed, index])
    name = str(random.choice(list(COLORS)))
    video = torch.zeros(FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    top, left = random.integers(0, 8, 2).tolist()
    flow = torch.zeros(FRAMES - 1, 2, SIZE, SIZE)
    for time in range(FRAMES):
        video[time, :, top : top + 6, left + time // 4 : left + time // 4 + 6] = torch.tensor(
            COLORS[name], dtype=torch.uint8
        )[:, None, None]
    known = torch.ones(FRAMES - 1, 1, SIZE, SIZE, dtype=torch.bool)
    return Clip(video, flow, -flow, known, known, known, known, f"a {name} square", {})


@pytest.fixture(scope="module")
def dvae():
    torch.manual_seed(0)
    return DVAE(replace(TINY_DVAE, widths=(8, 16, 32))).eval()


@pytest.fixture(scope="module")
def material(dvae, tmp_path_factory):
    return squares(DATA.clips, dvae, tmp_path_factory.mktemp("cache"))


def squares(clips, dvae, cache):
    media = grid_media(dvae, SIZE, FRAMES)
    stores = [
        tokenize_clips(lambda n, s=s: square(s, n), dvae, media, f"squares {s}", count, cache=cache)
        for s, count in ((0, clips), (1, DATA.checked))
    ]
    return GPTMaterial(stores[0], {"val": stores[1]}, media)


@pytest.fixture(scope="module")
def words(material):
    return build_vocabulary(material.media, material.training.captions(), DATA)


def settings(**changes):
    changes = {
        "steps": 6, "batch_size": 4, "precision": "fp32", "workers": 0, "threads": 1,
        "validate_every": 3, "samples_every": 3, "log_every": 2, "save_every": 2, "warmup": 2,
    } | changes  # fmt: skip
    configs = presets("tiny")
    return configs | {
        "loop": replace(configs["loop"], **changes),
        "model": SIZES,
        "data": DATA,
    }


# ------------------------------------------------------------------ the cache


def test_the_cache_holds_what_the_tokenizers_say(material, dvae):
    clip = square(0, 5)
    store = material.training
    assert len(store) == DATA.clips
    assert store.caption(5) == clip.caption
    assert torch.equal(store.codes("video", 5), tokenize(dvae, clip.video))
    assert store.codes("video", 5).shape == material.media[0].grid == (2, 4, 4)
    assert torch.equal(store.codes("frame", 5), tokenize(dvae, clip.video[:1]))
    assert store.codes("motion", 5).unique().tolist() == [4 * 9 + 4]  # stands still


def test_the_cache_is_made_once_and_goes_on(dvae, tmp_path):
    media = grid_media(dvae, SIZE, FRAMES)
    drawn = []

    def draw(number, stop=99):
        if number >= stop:
            raise KeyboardInterrupt
        drawn.append(number)
        return square(0, number)

    with pytest.raises(KeyboardInterrupt):
        tokenize_clips(lambda n: draw(n, 20), dvae, media, "key", 40, cache=tmp_path)
    drawn.clear()
    store = tokenize_clips(draw, dvae, media, "key", 40, cache=tmp_path)
    assert sorted(set(drawn)) == [*range(8), *range(16, 40)]  # 8 for the key; 16 were done
    drawn.clear()
    again = tokenize_clips(draw, dvae, media, "key", 40, cache=tmp_path)
    assert drawn == list(range(8))
    for number in range(40):
        assert store.caption(number) == again.caption(number) == square(0, number).caption


def test_half_the_precision_gives_nearly_the_same_codes(dvae, material, tmp_path):
    store = tokenize_clips(
        lambda n: square(0, n), dvae, material.media, "half", 4, half=True, cache=tmp_path
    )
    codes = [
        torch.stack([s.codes("video", n) for n in range(4)]) for s in (store, material.training)
    ]
    assert float((codes[0] == codes[1]).float().mean()) > 0.5


@pytest.mark.parametrize("change", ["key", "weights", "clips"])
def test_the_cache_is_of_its_data_and_weights(material, dvae, tmp_path, change):
    media = material.media

    def folders(net=dvae, key="key", seed=0):
        clip = replace(square(seed, 0), caption="a square")
        tokenize_clips(lambda n: clip, net, media, key, 2, cache=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert folders() == 1
    other = DVAE(dvae.config).eval()
    with torch.no_grad():
        dvae.decoder.head.bias.add_(1)  # how codes are decoded does not matter
    assert folders() == 1
    changes = {"key": {"key": "other"}, "weights": {"net": other}, "clips": {"seed": 1}}
    assert folders(**changes[change]) == 2
    assert folders() == 2


def test_the_cache_is_of_the_way_out_where_codes_are_corrected(material, tmp_path):
    residual = replace(TINY_DVAE, encoder=0, quantiser="residual", entries=8)
    clip = square(0, 0)

    def folders(net):
        tokenize_clips(lambda n: clip, net, material.media, "key", 2, cache=tmp_path)
        return len(list(tmp_path.iterdir()))

    plain = DVAE(residual).eval()
    corrected = DVAE(replace(residual, correction=0.5)).eval()
    corrected.load_state_dict(plain.state_dict())
    assert (folders(plain), folders(corrected), folders(corrected)) == (1, 2, 2)
    with torch.no_grad():
        corrected.decoder.head.bias.add_(1)
    assert folders(corrected) == 3


def test_the_cache_is_of_its_flow_where_that_is_estimated(material, dvae, tmp_path):
    """Flow of a clip that was composed follows from its key, as it always did."""
    clip = square(0, 0)

    def folders(**changes):
        other = replace(clip, **changes)
        tokenize_clips(lambda n: other, dvae, material.media, "key", 2, cache=tmp_path)
        return len(list(tmp_path.iterdir()))

    made = {"attributes": {"ground": "sand"}}
    assert (folders(), folders(flow_12=clip.flow_12 + 2)) == (1, 2)
    assert (folders(**made), folders(**made, flow_12=clip.flow_12 + 2)) == (3, 3)


def test_clips_must_be_whole_groups_of_frames(material, dvae, tmp_path):
    clip = square(0, 0)
    short = replace(clip, video=clip.video[:6])
    with pytest.raises(ValueError, match="frames must be a multiple of 4, got 6"):
        tokenize_clips(lambda n: short, dvae, material.media, "key", 2, cache=tmp_path)


def test_a_long_caption_is_cut_between_letters(dvae, tmp_path):
    media = grid_media(dvae, SIZE, FRAMES)
    clip = replace(square(0, 0), caption="x" + "ü" * 10_000)
    store = tokenize_clips(lambda _: clip, dvae, media, "key", 1, cache=tmp_path)
    assert store.caption(0) == "x" + "ü" * (CAPTION // 2 - 1)


# ------------------------------------------------------------------ examples


def test_sequences_are_in_their_order(material, words):
    tokens = sequence_of(material.training, 2, ["video", "text"], words)
    assert tokens.ids[0] == words.begin("video")
    assert tokens.ids[72] == words.end("video")
    assert tokens.ids[80] == words.begin("text")
    assert words.read_text(tokens.ids[80:]) == square(0, 2).caption


def test_codes_of_another_vae_begin_anew(material, dvae, words):
    net = GPT(replace(SIZES, vocabulary=words.size))
    torch.nn.init.normal_(net.head.weight)
    own = MediaGPT(net, words, frozenset(), fingerprint(dvae))
    kept = gpt_task(material, settings(), dvae, start=own).model
    assert torch.equal(kept.head.weight, net.head.weight)
    assert torch.equal(kept.embedding.weight, net.embedding.weight)
    made = gpt_task(material, settings(), dvae, start=replace(own, codes="another")).model
    ids = torch.cat(words.choices("video"))
    assert not made.head.weight[ids].any()
    others = torch.ones(words.size, dtype=torch.bool).index_fill(0, ids, False)
    assert torch.equal(made.head.weight[others], net.head.weight[others])
    # The least and the next but one value of a digit, which decode alike, and the greatest.
    rows = made.embedding.weight[words.choices("video")[0]]
    assert (rows[0] - rows[1]).norm() < 0.8 * (rows[0] - rows[-1]).norm()
    assert 0.8 < rows.std() < 1.2


def test_codes_of_vectors_begin_alike_where_vectors_are(material, words):
    torch.manual_seed(0)
    coded = DVAE(replace(TINY_DVAE, encoder=0, quantiser="residual", entries=1000))
    coded.quantiser.books.normal_()
    coded.quantiser.books[1, 1] = coded.quantiser.books[1, 0] + 0.01
    net = gpt_task(material, settings(), coded).model
    ids = words.choices("video")[1]
    near, far = (net.embedding.weight[ids[n]] @ net.embedding.weight[ids[0]] for n in (1, 2))
    assert near > 2 * far.abs()
    assert not net.head.weight[ids].any()


@pytest.mark.parametrize("start", [0, 1])
def test_a_sequence_may_hold_a_part_of_a_video(material, words, start):
    store = material.training
    tokens = sequence_of(store, 2, ["video", "text"], words, slice(start, start + 1))
    whole = sequence_of(store, 2, ["video", "text"], words)
    own = slice(8 + 32 * start, 40 + 32 * start)  # 16 codes of two digits after the marker
    assert torch.equal(tokens.ids[8:40], whole.ids[own])
    assert torch.equal(tokens.places[8:40], whole.places[own])
    for have, want in ((slice(8), slice(8)), (slice(40, None), slice(72, None))):
        assert torch.equal(tokens.ids[have], whole.ids[want])  # markers and text
        assert torch.equal(tokens.places[have], whole.places[want])


def test_examples_may_be_of_parts_of_videos(material, words):
    data = replace(DATA, token_frames=1, orders=("video 1",))
    batch = draw_batch(material.training, words, 0, range(16), data, GPTLossConfig())
    assert batch["ids"].shape == (16, 48)
    times = batch["places"][:, 8, 1]
    assert set(times.tolist()) == {1.0, 2.0}
    data = replace(data, token_frames=2)
    batch = draw_batch(material.training, words, 0, range(16), data, GPTLossConfig())
    assert batch["ids"].shape == (16, 80)


def test_an_example_is_a_function_of_its_number(material, words):
    losses = GPTLossConfig()
    together = draw_batch(material.training, words, 7, range(28, 36), DATA, losses)  # of two orders
    lengths = set()
    for row, number in enumerate(range(28, 36)):
        alone = draw_batch(material.training, words, 7, [number], DATA, losses)
        length = alone["ids"].shape[1]
        for name, value in alone.items():
            assert torch.equal(together[name][row, : len(value[0])], value[0])
        assert (together["media"][row, length:] == -1).all()
        assert not together["weights"][row, length:].any()
        lengths.add(length)
    assert len(lengths) > 1


def test_the_mixture_is_as_wanted(material, words):
    batch = draw_batch(material.training, words, 0, range(1600), DATA, GPTLossConfig())
    first = batch["ids"][:, 0]
    # 0.7 of the orders begin with text; of these every tenth caption is dropped.
    assert float((first == words.begin("text")).float().mean()) == pytest.approx(0.63, abs=0.07)
    assert float((first == words.begin("motion")).float().mean()) == pytest.approx(0.01, abs=0.008)
    assert float((first == words.begin("frame")).float().mean()) == pytest.approx(0.01, abs=0.008)


def test_patches_of_a_video_at_the_end_are_hidden(material, words):
    numbers = range(256)
    orders = ("text video 1", "video text 1", "video motion 1")
    config = replace(DATA, orders=orders, caption_dropout=0.0, hiding=0.5)
    examples = draw_batch(material.training, words, 0, numbers, config, GPTLossConfig())
    again = draw_batch(material.training, words, 0, numbers, config, GPTLossConfig())
    assert torch.equal(examples["hidden"], again["hidden"])
    hidden, media = examples["hidden"], examples["media"][:, ::PATCH]
    video = words.number("video")
    assert not hidden[media != video].any()  # neither words nor what is filled up
    markers = examples["places"][:, ::PATCH].sum(-1) == 0
    assert not hidden[markers].any()
    first = media[:, 0] == video
    assert not hidden[first].any()
    shares = hidden[~first].sum(1) / ((media == video) & ~markers)[~first].sum(1)
    assert 0.3 < (shares > 0).float().mean() < 0.6  # some shares are too small for any
    assert len(shares[shares > 0].unique()) > 4
    for hiding in (0.0, 1.0):
        config = replace(config, hiding=hiding)
        examples = draw_batch(material.training, words, 0, numbers, config, GPTLossConfig())
        assert bool(examples["hidden"].any()) == bool(hiding)


def test_some_patches_of_videos_are_redrawn(material, words):
    data = replace(DATA, orders=("text video 1", "video text 1"), redrawn=0.7)
    losses = GPTLossConfig()
    examples = draw_batch(material.training, words, 0, range(64), data, losses)
    redrawn, media = examples["redrawn"], examples["media"][:, ::PATCH]
    cells = (media == words.number("video")) & (examples["places"][:, ::PATCH, 1] > 0)
    assert not redrawn[~cells].any()
    shares = redrawn.sum(1) / cells.sum(1)
    assert float(shares[shares > 0].mean()) == pytest.approx(0.25 / 0.9, abs=0.1)
    assert 0.5 < (shares > 0).float().mean() < 0.9
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size))
    torch.nn.init.normal_(net.head.weight)
    batch = draw_batch(material.training, words, 0, range(6), data, losses)
    read = gpt_losses(net, batch, words)["loss"]
    batch["redrawn"].zero_()
    plain = gpt_losses(net, batch, words)["loss"]
    assert (plain != read).any()


def test_what_is_redrawn_leaves_no_weight_without_a_gradient(
    material, words, gradients_under_old_autocast
):
    data = replace(DATA, orders=("text video 1",), redrawn=1.0)
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size))
    torch.nn.init.normal_(net.head.weight)
    batch = draw_batch(material.training, words, 0, range(2), data, GPTLossConfig())
    found = gradients_under_old_autocast(net, lambda: gpt_losses(net, batch, words)["loss"])
    assert [name for name, gradient in found.items() if gradient is None] == []


@pytest.mark.parametrize("begun", ["anew", "from another", "again"])
def test_a_wrong_order_is_refused(material, words, begun):
    configs = settings() | {"data": replace(DATA, orders=("text sound 1",))}
    net = GPT(replace(SIZES, vocabulary=words.size))
    more = {"from another": {"start": MediaGPT(net, words)}, "again": {"vocabulary": words}}
    with pytest.raises(ValueError, match="no medium 'sound'"):
        gpt_task(material, configs, **more.get(begun, {}))


def test_what_settings_say_is_done(material, words):
    """A limit holds for words of another network, too; what nothing tells the rarity of is said."""
    configs = settings() | {"data": replace(DATA, text_limit=3)}
    start = MediaGPT(GPT(replace(SIZES, vocabulary=words.size)), words)
    task = gpt_task(material, configs, start=start)
    assert task.trained
    assert vocabulary_from_json(task.notes[VOCABULARY], "notes").text_limit == 3
    task = gpt_task(material, configs, vocabulary=words)
    assert vocabulary_from_json(task.notes[VOCABULARY], "notes").text_limit == 3
    with pytest.raises(ValueError, match="rare needs sketches"):
        gpt_task(material, settings() | {"losses": GPTLossConfig(rare=1.0)})


@pytest.mark.parametrize(
    "changes",
    [
        {"orders": ()},
        {"orders": ("",)},
        {"orders": ("0.5",)},
        {"orders": ("text video",)},
        {"orders": ("text video -1",)},
        {"orders": ("text video nan",)},
        {"orders": ("text video 0",)},
        {"clips": 0},
        {"caption_dropout": 2.0},
        {"hiding": 1.5},
        {"redrawn": -0.5},
        {"merges": -1},
        {"merges": 2**15 + 1},
        {"token_frames": -1},
    ],
)
def test_wrong_settings_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        GPTDataConfig(**changes)


# ------------------------------------------------------------------ the loss


def test_weights_by_hand(material, words):
    tokens = sequence_of(material.training, 0, ["text", "motion"], words)
    weights = collate([tokens], words, GPTLossConfig(text=0.25, motion=0.5))["weights"][0]
    caption = words.text(material.training.caption(0))
    said = len(caption) // 8 - 1
    # Nothing for markers, but for the one that ends a text, whose length is not known.
    text = [0.0] * 8 + ([0.25] + [0.0] * 7) * said
    assert weights.tolist() == text + [0.0] * 8 + [0.5] * 64 + [0.0] * 8
    other = sequence_of(material.training, 0, ["motion", "text"], words)
    losses = GPTLossConfig(text=0.0, motion=0.5, description=2.0)
    weights = collate([other], words, losses)["weights"][0]
    assert weights.tolist() == [0.0] * 8 + [0.5] * 64 + [0.0] * 8 + [8 * w for w in text]


def test_the_opening_of_a_video_counts_more(material, words):
    tokens = sequence_of(material.training, 0, ["video"], words)
    losses = GPTLossConfig(video=0.5, opening=3.0)
    weights = collate([tokens], words, losses)["weights"][0]
    assert weights[8].item() == pytest.approx(0.5 * (1 + 3 * 2 ** (-8 / 256)))
    assert weights[71].item() == pytest.approx(0.5 * (1 + 3 * 2 ** (-71 / 256)))
    assert (weights[72:] == 0).all()


def test_the_loss_is_a_weighted_mean_of_nats(material, words):
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size))
    torch.nn.init.normal_(net.head.weight)
    batch = draw_batch(material.training, words, 0, range(4), DATA, GPTLossConfig(text=0.5))
    got = gpt_losses(net, batch, words)
    assert got["loss"].shape == (4,)
    for row in range(4):
        own = (batch[name][row : row + 1] for name in ("ids", "places", "hidden"))
        logits = net.head(net.features(*own))[0].detach()
        total = count = 0.0
        for at in range(PATCH, batch["ids"].shape[1]):
            weight, token = float(batch["weights"][row, at]), int(batch["ids"][row, at])
            if weight:
                own = next(ids.tolist() for ids in words.all_choices() if token in ids)
                likely = logits[at - PATCH, own].log_softmax(-1)
                total -= weight * float(likely[own.index(token)])
                count += weight
        assert float(got["loss"][row].detach()) == pytest.approx(total / count, rel=1e-4)
        assert float(got["bits"][row]) == pytest.approx(total / count / math.log(2), rel=1e-4)


def test_bits_at_the_beginning_are_those_of_the_vocabulary(material, words):
    net = GPT(replace(SIZES, vocabulary=words.size))
    order = ["text", "frame", "video"]
    sequences = [sequence_of(material.training, n, order, words) for n in range(10)]
    with torch.no_grad():
        bits = bits_by_medium(net, sequences, words, order)
    assert list(bits) == ["text", "frame_after_text", "video_after_text_frame"]
    sizes = (len(words.range("text")) + 1, 1000, 1000)
    assert list(bits.values()) == pytest.approx([math.log2(size) for size in sizes], rel=1e-5)


# ------------------------------------------------------------------ the run


def test_is_judged_by_videos_after_their_text(material, dvae):
    task = gpt_task(material, settings(), dvae)
    torch.nn.init.normal_(task.model.head.weight)  # else all media cost the same
    with torch.no_grad():
        figures = task.validate(task.model.eval())
        pictures = dict(task.samples(task.model))
    assert task.metric == "loss"
    assert figures["loss"] == figures["video_after_text"] != figures["text_after_video"]
    assert list(pictures) == ["prompts"]


def test_learns_in_seconds(dvae, tmp_path):
    """Soon a token takes a third of the bits that it took, also of clips never seen."""
    material = squares(36, dvae, tmp_path)  # of 12, it learns by heart what they are
    configs = settings(steps=60, batch_size=8, learning_rate=1e-2, ema=0, validate_every=0)
    configs["data"] = replace(DATA, clips=36)
    result = loop.train(gpt_task(material, configs), configs["loop"], tmp_path / "run")
    assert result.figures["loss"] < 3.4  # of 10.2
    gpt = load_gpt(result.weights)
    made = sample_video_tokens(gpt, [Prompt("a red square")], [1])
    assert made.shape == (1, 2, 4, 4)
    assert len(describe(gpt, made)) == 1


def test_notes_say_what_was_learned(material, dvae):
    notes = gpt_task(material, settings(), dvae).notes
    assert notes[CODES] == fingerprint(dvae)
    assert notes[WORDS] == "a blue green red square"
    first = gpt_task(material, settings())
    assert CODES not in first.notes
    words = vocabulary_from_json(first.notes[VOCABULARY], "notes")
    start = MediaGPT(first.model, words, frozenset({"dog", "a"}))
    assert (
        gpt_task(material, settings(), start=start).notes[WORDS] == f"a blue dog {notes[WORDS][7:]}"
    )
    old = replace(start, known=None)  # what it knows is known no more
    assert WORDS not in gpt_task(material, settings(), start=old).notes


def test_of_very_many_words_the_commonest_are_known(monkeypatch):
    monkeypatch.setattr(gpt, "_MOST_WORDS", 2)
    assert gpt.known_words(["a red dog", "a dog", "dog"]) == {"a", "dog"}


def test_goes_on_from_a_trained_network(material):
    first = gpt_task(material, settings())
    torch.nn.init.normal_(first.model.head.weight)
    words = vocabulary_from_json(first.notes[VOCABULARY], "notes")
    start = MediaGPT(first.model, words)
    other = replace(material, training=material.checks["val"])  # other captions, other pairs
    task = gpt_task(other, settings() | {"model": TINY}, start=start)
    assert task.notes[VOCABULARY] == first.notes[VOCABULARY]
    assert task.configs["model"] == first.model.config
    assert torch.equal(task.model.head.weight, first.model.head.weight)
    media = (replace(material.media[0], size=7), *material.media[1:])
    with pytest.raises(ValueError, match="knows other media"):
        gpt_task(replace(material, media=media), settings(), start=start)


@pytest.fixture(scope="module")
def eye(words):
    torch.manual_seed(0)
    net = Captioner(
        CaptionerConfig(
            words.pairs.size + 1, size=SIZE, kinds=64, widths=(8, 8), hidden=8, joined=8
        )
    )
    return MediaCaptioner(net.eval(), text_vocabulary(words.pairs, 12))


@pytest.fixture(scope="module")
def sketched(dvae, eye, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    media = grid_media(dvae, SIZE, FRAMES, eye)
    stores = [
        tokenize_clips(
            lambda n, s=s: square(s, n), dvae, media, str(s), count, captioner=eye, cache=cache
        )
        for s, count in ((0, DATA.clips), (1, DATA.checked))
    ]
    return GPTMaterial(stores[0], {"val": stores[1]}, media, eye_print(eye))


def test_the_cache_holds_sketches(sketched, material, dvae, eye, tmp_path):
    store, media = sketched.training, sketched.media
    assert media[:-1] == material.media
    assert media[-1] == Medium("sketch", 64, (1, 2, 2))
    assert torch.equal(store.codes("sketch", 5), sketch(eye, square(0, 5).video, 2))
    assert torch.equal(store.codes("video", 5), material.training.codes("video", 5))
    torch.manual_seed(1)
    other = MediaCaptioner(Captioner(eye.net.config).eval(), eye.vocabulary)
    again = tokenize_clips(
        lambda n: square(0, n), dvae, media, "0", 12, captioner=other, cache=tmp_path
    )
    assert not torch.equal(again.codes("sketch", 5), store.codes("sketch", 5))


def test_sketches_of_another_precision_are_others(sketched, dvae, eye, tmp_path, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(
            "flowwarp.legacy.train.tokenized.fast_dtype", lambda _, dtype=dtype: dtype
        )
        for captioner in (eye, None):
            media = sketched.media if captioner else sketched.media[:-1]
            options = {"captioner": captioner, "cache": tmp_path}
            tokenize_clips(lambda n: square(0, n), dvae, media, "0", 1, **options)
    assert len(list(tmp_path.iterdir())) == 3


def test_videos_are_told_their_sketch(sketched):
    store = sketched.training
    words = build_vocabulary(sketched.media, store.captions(), DATA)
    data = replace(DATA, orders=("text video 1.0",), caption_dropout=0.0, hiding=0.0)
    plain = replace(data, sketch_dropout=0.0)
    examples = draw_batch(store, words, 3, range(6), plain, GPTLossConfig())
    for row, number in enumerate(range(6)):
        codes = store.codes("sketch", seeding.shuffled(3, number, len(store)))[0]
        cells = examples["media"][row, ::PATCH] == words.number("video")
        cells &= examples["places"][row, ::PATCH, 1] > 0
        for patch in range(len(cells) - 1):
            told, place = int(examples["ahead"][row, patch]), examples["places"][row]
            if cells[patch + 1]:
                y, x = ((place[(patch + 1) * PATCH, 2:] - 1) // 2).long().tolist()
                assert told == int(codes[y, x])
            else:
                assert told == 64
    for other in (
        replace(plain, orders=("text sketch 1.0",)),
        replace(plain, caption_dropout=1.0),
        replace(data, sketch_dropout=1.0),
    ):
        told = draw_batch(store, words, 3, range(6), other, GPTLossConfig())["ahead"]
        assert set(told.flatten().tolist()) == {64}


@pytest.mark.parametrize("change", [{}, {"eye": "another"}, {"media": 96}])
def test_sketches_of_another_captioner_begin_anew(sketched, change):
    first = gpt_task(sketched, settings())
    for layer in (first.model.head, first.model.ahead):  # else they begin alike, by the seed
        torch.nn.init.normal_(layer.weight)
    words = vocabulary_from_json(first.notes[VOCABULARY], "notes")
    start = MediaGPT(first.model, words, sketches=sketched.eye)
    if "media" in change:  # other kinds: of a captioner that has more of them
        last = replace(sketched.media[-1], size=change["media"])
        change = {"media": (*sketched.media[:-1], last)}
    task = gpt_task(replace(sketched, **change), settings(), start=start)
    rows = words.range("sketch").start
    kept, own = first.model.state_dict(), task.model.state_dict()
    for name in ("embedding.weight", "head.weight"):
        assert torch.equal(own[name][:rows], kept[name][:rows])
    assert torch.equal(own["blocks.0.qkv.weight"], kept["blocks.0.qkv.weight"])
    assert torch.equal(own["summary.table.weight"], kept["summary.table.weight"])
    same = [
        torch.equal(own[name][low : low + 64], kept[name][low : low + 64])
        for name, low in (("head.weight", rows), ("ahead.weight", 0))
    ]
    assert same == [not change] * 2
    if change:
        assert not own["head.weight"][rows:].any()  # nothing is foretold of the new kinds
    assert task.notes["sketch"] == change.get("eye", sketched.eye)


def test_what_is_redrawn_is_told_its_sketch(sketched):
    words = build_vocabulary(sketched.media, sketched.training.captions(), DATA)
    data = replace(DATA, orders=("text video 1",), caption_dropout=0.0, hiding=0.0, redrawn=1.0)
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size, kinds=64))
    for layer in (net.head, net.ahead):
        torch.nn.init.normal_(layer.weight)
    losses, choices = GPTLossConfig(), words.all_choices()
    examples = draw_batch(sketched.training, words, 0, range(4), data, losses)
    placed, told = (examples["ids"], examples["places"], choices), examples["ahead"]
    rest = words.later_digits(), examples["redrawn"], examples["draws"], gpt._REDRAWING
    read, other = (net.redraw(*placed, *rest, own, examples["near"]) for own in (told, None))
    assert not torch.equal(read, other)
    nats = net.nats(*placed, examples["hidden"], told, examples["near"], read=read)
    weights = examples["weights"][:, PATCH:]
    found = gpt_losses(net, examples, words)["loss"]
    torch.testing.assert_close(found, (nats * weights).sum(1) / weights.sum(1))


def test_patches_of_a_rare_kind_count_more(sketched):
    store = sketched.training
    words = build_vocabulary(sketched.media, store.captions(), DATA)
    data = replace(DATA, orders=("text video 1",), caption_dropout=0.0)

    def kinds_in(number):
        return store.codes("sketch", seeding.shuffled(0, number, len(store))).flatten()

    number = next(n for n in range(12) if len(kinds_in(n).bincount().unique()) > 2)
    plain, rare = (
        draw_batch(store, words, 0, [number], data, GPTLossConfig(opening=0.0, rare=power))
        for power in (0.0, 1.0)
    )
    video = plain["media"][0] == words.number("video")
    before, after = plain["weights"][0], rare["weights"][0]
    assert torch.equal(before[~video], after[~video])
    assert torch.allclose(after[video].sum(), before[video].sum(), rtol=1e-5)
    each = after.view(-1, PATCH).sum(1)[(video & (before > 0)).view(-1, PATCH).any(1)]
    # The video has a patch for each place of the sketch at both of its times.
    counts = kinds_in(number).bincount()[kinds_in(number)].repeat(2)
    assert torch.allclose(each * counts, (each * counts)[:1].expand_as(each), rtol=1e-4)


def test_some_patches_are_asked_for_and_stand_for_all(sketched):
    words = build_vocabulary(sketched.media, sketched.training.captions(), DATA)
    data = replace(DATA, orders=("text video 1",), caption_dropout=0.0)
    losses = GPTLossConfig(opening=0.0, rare=0.5)
    batches = [
        draw_batch(sketched.training, words, 0, range(400), data, replace(losses, asked=asked))
        for asked in (1.0, 0.5)
    ]
    every, some = (batch["weights"] for batch in batches)
    video = batches[0]["media"] == words.number("video")
    assert torch.equal(every[~video], some[~video])
    asked = (video & (some > 0)).sum() / (video & (every > 0)).sum()
    assert 0.4 < float(asked) <= 0.55
    assert torch.allclose(some[video].sum(), every[video].sum(), rtol=0.03)
    assert torch.allclose(some[video & (some > every)], 2 * torch.ones(()), atol=1e-5)
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size, kinds=64))
    torch.nn.init.normal_(net.head.weight)
    loss = gpt_losses(net, {k: v[:8] for k, v in batches[1].items()}, words)["loss"]
    nats = net.nats(
        *(batches[1][k][:8] for k in ("ids", "places")), words.all_choices(),
        *(batches[1][k][:8] for k in ("hidden", "ahead", "near")),
    )  # fmt: skip
    weights = some[:8, PATCH:]
    assert torch.allclose(loss, (nats * weights).sum(1) / weights.sum(1), rtol=1e-4)


def test_a_video_that_is_told_its_sketch_costs_less(sketched, tmp_path):
    """Where each place is of the kind of the only code there is at it, nothing else is needed."""
    configs = settings(steps=80, learning_rate=1e-2, batch_size=8, ema=0.0, validate_every=80)
    data = replace(DATA, orders=("text video 0.5", "text sketch 0.5"), hiding=0.0)
    task = gpt_task(sketched, configs | {"data": data})
    assert task.notes["sketch"] == sketched.eye
    assert task.configs["model"].kinds == 64
    result = loop.train(task, configs["loop"], tmp_path)
    assert {"video_after_text", "sketch_after_text"} <= set(result.figures)
    trained = load_gpt(result.weights)
    assert trained.sketches == sketched.eye
    words, store = trained.vocabulary, sketched.training
    order = ["text", "video"]
    sequences = [sequence_of(store, index, order, words) for index in range(12)]
    told = [kinds_ahead(t, words, store.codes("sketch", i)) for i, t in enumerate(sequences)]
    with torch.no_grad():
        right = bits_by_medium(trained.net, sequences, words, order, told)
        none = bits_by_medium(trained.net, sequences, words, order)
    assert right["video_after_text"] < none["video_after_text"] - 0.01


def test_bits_are_of_as_much_as_training_sees(material, words):
    store, order = material.training, ["text", "video"]
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size)).eval()
    torch.nn.init.normal_(net.head.weight)
    data = replace(DATA, orders=("text video 1",))
    for frames, part in ((0, slice(0, 2)), (1, slice(0, 1))):
        sequences = [sequence_of(store, index, order, words, part) for index in range(len(store))]
        with torch.no_grad():
            found = gpt.measure_bits(net, store, words, replace(data, token_frames=frames))
            assert found == bits_by_medium(net, sequences, words, order)


def test_the_first_order_that_names_a_figure_decides_it(sketched):
    """A video that something follows is told no sketch: its bits are others."""
    store = sketched.training
    words = build_vocabulary(sketched.media, store.captions(), DATA)
    torch.manual_seed(0)
    net = GPT(replace(SIZES, vocabulary=words.size, kinds=64)).eval()
    for weight in (net.head.weight, net.ahead.weight):
        torch.nn.init.normal_(weight)

    def figures(*orders):
        with torch.no_grad():
            return gpt.measure_bits(net, store, words, replace(DATA, orders=orders))

    alone = figures("text video 1")
    both = figures("text video 1", "text video frame 0.1")
    assert both.items() >= alone.items()
    assert figures("text video frame 1")["video_after_text"] != alone["video_after_text"]


def test_sketches_join_a_mixture_of_their_own_accord():
    assert gpt.mix_in_sketches(DATA).orders == (*DATA.orders, "text sketch 1")
    own = replace(DATA, orders=("text sketch 0.2", "text video 0.8"))
    assert gpt.mix_in_sketches(own) == own


def test_a_network_goes_on_with_sketches(material, sketched):
    first = gpt_task(material, settings())
    for parameter in first.model.parameters():  # else they begin alike, by the seed
        torch.nn.init.normal_(parameter)
    before = vocabulary_from_json(first.notes[VOCABULARY], "notes")
    task = gpt_task(sketched, settings(), start=MediaGPT(first.model, before))
    after = vocabulary_from_json(task.notes[VOCABULARY], "notes")
    assert task.model.config == replace(first.model.config, vocabulary=after.size, kinds=64)
    assert after.pairs.merges == before.pairs.merges
    for medium in before.media:
        for name in ("head", "embedding"):
            old, new = getattr(first.model, name).weight, getattr(task.model, name).weight
            assert torch.equal(new[after.range(medium.name)], old[before.range(medium.name)])
            for marker in ("begin", "end"):
                ids = getattr(after, marker)(medium.name), getattr(before, marker)(medium.name)
                assert torch.equal(new[ids[0]], old[ids[1]])
    own = task.model.state_dict()
    for name, learned in first.model.state_dict().items():
        if name.split(".")[0] not in ("head", "embedding", "summary"):
            assert torch.equal(own[name], learned)
    assert not task.model.summary.tell.weight.any()  # its rows go by ids


def test_another_medium_needs_a_range_and_a_tokenizer(material):
    """A store with one more kind of codes, and everything else follows."""
    sound = Medium("sound", 5, (4, 1, 1))
    words = build_vocabulary([*material.media, sound], ["a square"], DATA)
    assert len(words.range("sound")) == 5
    tokens = words.segment("sound", torch.tensor([4, 0, 1, 2]).view(4, 1, 1))
    assert tokens.places[8:12, 1].tolist() == [0.75, 1.25, 1.75, 2.25]  # of 2 cells of video
    assert isinstance(material.training, TokenStore)
