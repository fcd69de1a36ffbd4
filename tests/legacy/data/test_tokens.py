"""The vocabulary: texts survive, ranges are apart, places are where things are."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowwarp.errors import InputError
from flowwarp.legacy.data.tokens import (
    MOTION_CODES,
    MOTION_GRID,
    STEPS,
    BytePairs,
    Medium,
    Vocabulary,
    join,
    motion_codes,
    train_pairs,
    vocabulary_from_json,
)

CAPTIONS = ["a red knight walks left", "a red mage walks right", "the knight stands on grass"] * 3


def vocabulary(text_limit=16):
    pairs = train_pairs(CAPTIONS, 40)
    media = (
        Medium("text", pairs.size),
        Medium("video", 1000, (4, 16, 16)),
        Medium("frame", 1000, (1, 16, 16), first=0, shares="video"),
        Medium("motion", MOTION_CODES, MOTION_GRID),
    )
    return Vocabulary(media, pairs, text_limit)


# ------------------------------------------------------------------ text


def test_merges_by_hand():
    # "aab" x 2: aa and ab come twice each; the lower first token, then the lower second, wins.
    pairs = train_pairs(["aab", "aab"], 5)
    assert pairs.merges == ((97, 97), (256, 98))
    assert pairs.encode("aab") == [257]
    assert pairs.encode("aabaa") == [257, 256]
    assert train_pairs(["aab"], 5).merges == ()  # nothing comes twice


def test_merges_do_not_hang_on_the_order_of_texts():
    assert train_pairs(CAPTIONS, 30).merges == train_pairs(CAPTIONS[::-1], 30).merges


def test_counts_follow_merges_as_a_recount_does():
    """The pairs that are kept up to date are those that a count from scratch finds."""
    texts = ["banana bandana", "an anagram", "ana banana nab"]
    words = [w for t in texts for w in (" " + t).split(" ") if w]
    assert len(words) == 7
    learned = train_pairs(texts, 12).merges
    tokens = [list(w.encode()) for t in texts for w in _split(t)]
    for number, pair in enumerate(learned):
        counts = {}
        for word in tokens:
            for p in itertools.pairwise(word):
                counts[p] = counts.get(p, 0) + 1
        best = max(counts, key=lambda p: (counts[p], -p[0], -p[1]))
        assert pair == best
        tokens = [_merged(word, pair, 256 + number) for word in tokens]


def _split(text):
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def _merged(word, pair, token):
    out = []
    for value in word:
        if out and (out[-1], value) == pair:
            out[-1] = token
        else:
            out.append(value)
    return out


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_text_survives(text):
    pairs = PAIRS
    assert pairs.decode(pairs.encode(text)) == text


PAIRS = train_pairs([*CAPTIONS, "ein Ritter läuft über die Wiese", "骑士 走路 走路"], 60)


def test_a_lone_surrogate_is_no_fault():
    assert PAIRS.decode(PAIRS.encode("a\ud800b")) == "a?b"


def test_common_words_become_one_token():
    assert len(PAIRS.encode(" knight walks")) == 2


@pytest.mark.parametrize(
    "merges",
    [
        [(256, 97)],  # of itself
        [(97, -1)],
        [(97, 97), (97, 97)],
        [(97, 97), *((n, n) for n in range(256, 263))],  # 2, 4, ... 256 bytes
    ],
)
def test_wrong_merges_are_refused(merges):
    with pytest.raises(ValueError, match=r"merge|bytes"):
        BytePairs(merges)


def test_a_cut_text_is_still_text():
    words = vocabulary(text_limit=3)
    tokens = words.text("ü" * 10_000)
    assert len(tokens) == 8 * 5  # two markers, three tokens
    assert words.read_text(tokens.ids) == "ü\N{REPLACEMENT CHARACTER}"


# ------------------------------------------------------------------ motion


SPEEDS = torch.tensor([-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0])


def motion_flow(codes):
    """Return the flow of codes, (4, 2, 4, 4), of a frame 64 wide; NaN where nothing is known."""
    u, v = codes // 9, codes % 9
    known = (codes < MOTION_CODES - 1)[:, None]
    return torch.where(known, SPEEDS[torch.stack([u.clamp_max(8), v], 1)], torch.nan)


def test_motion_by_hand():
    flow = torch.zeros(15, 2, 64, 64)
    flow[:, 0, :16, :16] = 1.9  # right, 2 by the nearest level
    flow[:, 1, 16:32, :16] = -0.3  # up by 0.5, as 0.3 is over half of it
    valid = torch.ones(15, 1, 64, 64, dtype=torch.bool)
    valid[:, :, 48:, 48:] = False
    codes = motion_codes(flow, valid)
    assert codes.shape == MOTION_GRID
    field = motion_flow(codes)
    assert field[0, :, 0, 0].tolist() == [2.0, 0.0]
    assert field[3, :, 1, 0].tolist() == [0.0, -0.5]
    assert field[2, :, 2, 2].tolist() == [0.0, 0.0]
    assert torch.isnan(field[:, :, 3, 3]).all()


def test_unknown_pixels_do_not_dilute_a_cell():
    flow = torch.full((15, 2, 32, 32), 0.5)  # of a frame 32 wide: 1 px of one 64 wide
    valid = torch.zeros(15, 1, 32, 32, dtype=torch.bool)
    valid[:, :, ::8, ::8] = True
    flow[~valid.expand_as(flow)] = torch.nan
    assert (motion_flow(motion_codes(flow, valid)) == 1).all()


def test_all_motion_codes_survive():
    codes = torch.arange(MOTION_CODES - 1)[:64].view(MOTION_GRID)
    for start in (0, MOTION_CODES - 1 - 64):
        field = motion_flow(codes + start)
        flow = field.repeat_interleave(16, 2).repeat_interleave(16, 3)  # (4, 2, 64, 64)
        back = motion_codes(flow, torch.ones(4, 1, 64, 64, dtype=torch.bool))
        assert torch.equal(back, codes + start)


def test_one_frame_has_no_motion():
    with pytest.raises(ValueError, match="flow must be of a clip of at least 2 frames"):
        motion_codes(torch.zeros(0, 2, 64, 64), torch.zeros(0, 1, 64, 64, dtype=torch.bool))


# ------------------------------------------------------------------ the vocabulary


def test_ranges_are_apart_and_fill_the_vocabulary():
    words = vocabulary()
    markers = [marker(m.name) for m in words.media for marker in (words.begin, words.end)]
    codes = [i for name in ("text", "video", "motion") for i in words.range(name)]
    assert sorted([0, *markers, *codes]) == list(range(words.size))
    assert words.range("frame") == words.range("video")


def test_a_segment_by_hand():
    words = vocabulary()
    codes = torch.arange(64).view(MOTION_GRID)
    tokens = words.segment("motion", codes)
    first = words.range("motion").start
    assert tokens.ids[:8].tolist() == [words.begin("motion"), *[0] * 7]
    # By squares of 2 x 2: rows of four cells begin at 0, 4, 8, 12.
    assert (tokens.ids[8:20] - first).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13]
    assert sorted((tokens.ids[8:72] - first).tolist()) == list(range(64))
    assert tokens.ids[72:].tolist() == [words.end("motion"), *[0] * 7]
    # Each cell of motion covers one cell of the video in time and 4 x 4 of its 16 x 16: the middle
    # of its first four rows, which lie at 1 to 4, is at 2.5.
    assert tokens.places[8].tolist() == [0, 1, 2.5, 2.5]
    assert tokens.places[9].tolist() == [0, 1, 2.5, 6.5]
    assert tokens.places[10].tolist() == [0, 1, 6.5, 2.5]
    assert tokens.places[71].tolist() == [0, 4, 14.5, 14.5]
    assert (tokens.places[:8] == 0).all()
    assert (tokens.places[72:] == 0).all()
    video = words.places("video", 1024)
    assert video[0].tolist() == [0, 1, 1, 1]
    assert video[1].tolist() == [0, 1, 1, 2]
    assert video[2].tolist() == [0, 1, 2, 1]
    assert video[-1].tolist() == [0, 4, 16, 16]
    assert words.places("frame", 256)[3].tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("grid", [(2, 4, 6), (3, 3, 2), (1, 5, 5)])
def test_a_grid_is_read_as_it_was_written(grid):
    pairs = BytePairs()
    words = Vocabulary((Medium("text", pairs.size), Medium("video", 90, grid)), pairs)
    codes = torch.randint(0, 90, (3, *grid), generator=torch.Generator().manual_seed(0))
    written = torch.stack([words.codes("video", part).ids for part in codes])
    assert torch.equal(words.read_grid("video", written), codes)
    first = written[:, : written.shape[1] // codes.shape[1]]
    assert torch.equal(words.read_grid("video", first), codes[:, :1])
    # Frame by frame: the beginning of a video is the beginning of what is written.
    cells = grid[1] * grid[2]
    assert torch.equal(words.codes("video", codes[0, :1]).ids, written[0, :cells])


def test_a_large_code_is_written_as_digits():
    pairs = BytePairs()
    media = (Medium("text", pairs.size), Medium("video", 10, (1, 2, 2), digits=3))
    words = Vocabulary(media, pairs)
    first = words.range("video").start
    assert words.size == first + 30
    codes = torch.tensor([[[123, 7], [999, 500]]])
    written = words.codes("video", codes)
    # The hundreds have ids of their own, so have tens and ones.
    digits = [1, 12, 23, 0, 10, 27, 9, 19, 29, 5, 10, 20]
    assert (written.ids - first).tolist() == digits
    assert written.places[:, 2:].tolist() == [
        [y, x] for y in (1, 2) for x in (1, 2) for _ in range(3)
    ]
    assert torch.equal(words.read_grid("video", written.ids[None])[0], codes)
    assert [(int(ids[0]), len(ids)) for ids in words.choices("video")] == [
        (first, 10), (first + 10, 10), (first + 20, 10)
    ]  # fmt: skip
    text, *nothing = (ids.tolist() for ids in words.choices("text"))
    assert text == [*words.range("text"), words.end("text")]
    assert nothing == [[0]] * 7
    everything = torch.cat(words.all_choices()).tolist()
    assert sorted(everything) == sorted([*text, *words.range("video")])
    assert words.later_digits() == (False, False, True, True)
    with pytest.raises(ValueError, match=r"codes of video must be in \[0, 1000\)"):
        words.codes("video", codes + 1)


def test_near_by_hand():
    words = Vocabulary((Medium("video", 10, (2, 2, 2), digits=2),))
    near = words.near("video", 16).view(8, 2, 7)  # of cells 0 to 3, then those a time later
    assert near[0].tolist() == [[-1] * 7] * 2
    assert near[1].tolist() == [[-1] * 5 + [0, -1], [-1] * 5 + [1, -1]]  # what is left of it
    assert near[4, 1].tolist() == [1, -1, 3, -1, 5, -1, -1]
    assert near[7, 0].tolist() == [6, 4, -1, 2, -1, 12, 10]
    later = words.codes("video", torch.zeros(1, 2, 2), 1).near  # nothing comes before it
    assert later[6].tolist() == [-1] * 5 + [4, 2]


@pytest.mark.parametrize("grid", [(3, 4, 6), (2, 3, 4)])
def test_near_is_where_it_says(grid):
    words = Vocabulary((Medium("text", 256), Medium("video", 10, grid, digits=2)))
    tokens = join([words.text("a"), words.segment("video", torch.zeros(grid))])
    at, which = (tokens.near >= 0).nonzero().unbind(1)
    there = tokens.near[at, which]
    assert (there < at).all()
    steps = tokens.places[there] - tokens.places[at]
    assert torch.equal(steps[:, 1:], torch.tensor(STEPS)[which].float())
    # Of all that are in the grid, those that are not yet written are missing: none but these.
    t, y, x = grid
    wanted = (t - 1) * (y * x + 2 * y * (x - 1) + 2 * (y - 1) * x) + t * (y * (x - 1) + (y - 1) * x)
    assert len(at) == 2 * wanted


def test_text_counts_along_its_line():
    tokens = vocabulary().text("a red knight")
    patches = tokens.ids.view(-1, 8)
    assert (patches[:, 0] != 0).all()
    assert (patches[:, 1:] == 0).all()  # each token has a patch to itself
    assert tokens.places[::8, 0].tolist() == list(range(len(patches)))
    assert (tokens.places[:, 1:] == 0).all()


def test_joined_sequences_know_their_media():
    words = vocabulary()
    tokens = join([words.segment("motion", torch.zeros(MOTION_GRID)), words.text("a mage")])
    assert tokens.media.tolist() == [3] * 80 + [0] * (len(tokens) - 80)
    assert words.read_text(tokens.ids) == "a mage"


@pytest.mark.parametrize("codes", [torch.zeros(4, 4), torch.full((4, 4, 4), MOTION_CODES)])
def test_wrong_codes_are_refused(codes):
    with pytest.raises(ValueError, match="motion"):
        vocabulary().segment("motion", codes)


def test_it_survives_a_card():
    words = vocabulary()
    again = vocabulary_from_json(words.to_json(), "card")
    assert again.media == words.media
    assert again.pairs.merges == words.pairs.merges
    assert again.text("a red mage").ids.tolist() == words.text("a red mage").ids.tolist()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.update(merges=[[97]]),
        lambda c: c.update(merges=[[97, 900]]),
        lambda c: c.update(merges="abc"),
        lambda c: c.update(media=[]) or c["media"].append({"name": "text"}),
        lambda c: c["media"][1].update(size=-1),
        lambda c: c["media"][1].update(digits=0),
        lambda c: c["media"][1].update(digits=2),  # frame shares its codes
        lambda c: c["media"][2].update(shares="nothing"),
        lambda c: c["media"][0].update(size=7),
        lambda c: c.pop("text_limit"),
        lambda c: c.update(text_limit=math.inf),
        lambda c: c.update(text_limit=10**9),
        lambda c: c.update(text_limit=257),
        lambda c: c.update(text_limit="8"),
        lambda c: c["merges"].insert(0, [float(n) for n in c["merges"].pop(0)]),
        lambda c: c["merges"].insert(0, [str(n) for n in c["merges"].pop(0)]),
        lambda c: c["media"][1].update(size=math.inf),
        lambda c: c["media"][1].update(size=1000.0) or c["media"][2].update(size=1000.0),
        lambda c: c["media"][3].update(size=10**6, digits=10**9),
        lambda c: c["media"][3].update(size=2**16, digits=2),
        lambda c: c["media"][1].update(first=10**30),
        lambda c: c["media"][1].update(first=0),  # where its own first frame is
        lambda c: c["media"][1].update(first=2),
        lambda c: c["media"][2].update(first=-1),
        lambda c: c["media"][2].update(first=0.5),
        lambda c: c["media"][0].update(grid=[1, 1, 1]),
        lambda c: c["media"][1].update(grid=[10**3, 10**3, 10**3]),
        lambda c: c["media"][1].update(grid=[4, 16]),
        lambda c: c["media"][1].update(grid=[4, 16, 16.0]),
        lambda c: c["media"][1].update(grid="abc"),
        lambda c: c["media"][3].update(grid=None, digits=2),
        lambda c: c["media"][3].update(name=None),
        lambda c: c["media"][3].update(name="", shares=""),
        lambda c: c["media"][2].update(shares="frame"),  # of its own, which it has not
        lambda c: c["media"][1].update(shares="frame"),
        lambda c: c["media"][3].update(shares=[]),
        lambda c: c["media"].extend(c["media"][3] | {"name": str(n)} for n in range(61)),
    ],
)
def test_a_broken_card_is_bad_input(spoil):
    content = json.loads(vocabulary().to_json())
    spoil(content)
    with pytest.raises(InputError, match="weights: its vocabulary is broken"):
        vocabulary_from_json(json.dumps(content), "weights")
    with pytest.raises(InputError):
        vocabulary_from_json("null", "weights")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(text_limit=256),
        lambda c: c["media"][1].update(grid=[32, 32, 32]),
        lambda c: c["media"][2].update(first=7),
        lambda c: c["media"].extend(c["media"][3] | {"name": str(n)} for n in range(60)),
    ],
)
def test_the_largest_card_is_read(change):
    content = json.loads(vocabulary().to_json())
    change(content)
    words = vocabulary_from_json(json.dumps(content), "weights")
    assert words.places("video", 10**5).isfinite().all()
