"""The transformer: causal, the same cached or not, and drawing what it says it draws."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowwarp.legacy.data import tokens
from flowwarp.legacy.models.gpt import (
    GPT,
    NEAR,
    PATCH,
    TINY,
    Decoder,
    GPTConfig,
    Resampling,
    Sampling,
    Summary,
    attend,
    choose,
    guide,
    read_words,
    rotation,
    sample,
    turn,
    unit,
)

LENGTH = 5 * PATCH
SIZES = {
    "vocabulary": 50, "embedded": 24, "width": 64, "depth": 3, "heads": 4, "hidden": 96,
    "inner_width": 32, "inner_depth": 2, "inner_hidden": 48,
}  # fmt: skip


def network(seed=0, **changes):
    torch.manual_seed(seed)
    net = GPT(GPTConfig(**SIZES | changes))
    torch.nn.init.normal_(net.head.weight, std=0.1)  # it begins at 0
    torch.nn.init.normal_(net.slot)
    torch.nn.init.normal_(net.summary.tell.weight, std=0.3)  # likewise
    return net.eval()


def sequences(batch=2, length=LENGTH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 50, (batch, length), generator=generator)
    places = torch.rand(batch, length, 4, generator=generator) * 16
    for patch in (0, 2, 3):  # the others, with a place along the line, are words
        places[:, patch * PATCH : (patch + 1) * PATCH, 0] = 0
    return ids, places


@torch.no_grad()
@pytest.mark.parametrize("at", range(PATCH, 3 * PATCH))
def test_each_logit_sees_all_tokens_before_its_own_and_no_other(at):
    net = network()
    ids, places = sequences()
    changed = ids.clone()
    changed[:, at] = 1 + changed[:, at] % 49
    differs = (net(ids, places) != net(changed, places)).any(-1)  # from the second patch on
    assert not differs[:, : at + 1 - PATCH].any()
    assert differs[:, at + 1 - PATCH :].all()


@torch.no_grad()
def test_a_summary_is_of_the_words_so_far_and_their_pairs():
    summary = Summary(4096, 6, 10)
    torch.nn.init.normal_(summary.tell.weight)
    ids = torch.tensor([[9, 3, 4, 9, 5, 9]])
    words = torch.tensor([[False, True, True, False, True, False]])
    table, told = summary.table.weight, summary(ids, words)

    def row(*gram):
        """Find the row of a word, or of it with another one or two before it."""
        key = sum(i * large for i, large in zip(gram, (1, 7919, 15485863), strict=False))
        return table[key * 2654435761 % 2**32 * 4096 // 2**32]

    said = [
        torch.zeros(6),
        row(3) + row(3, 0) + row(3, 0, 0),
        row(4) + row(4, 3) + row(4, 0, 0),
        torch.zeros(6),
        row(5) + row(5, 0) + row(5, 0, 4),
        torch.zeros(6),
    ]
    torch.testing.assert_close(told[0], summary.tell(torch.stack(said).cumsum(0)))
    other = summary(torch.tensor([[9, 4, 3, 9, 5, 9]]), words)
    assert not torch.allclose(other[0, 2], told[0, 2])  # order counts
    assert not torch.allclose(told[0, 2], torch.zeros(10))
    torch.testing.assert_close(summary(ids, ~words)[0, 0], summary(ids[:, :1], ~words[:, :1])[0, 0])


def test_few_phrases_share_a_row():
    near = torch.arange(3000)[None] + 1
    words = torch.ones(1, 2998, dtype=torch.bool)
    table = torch.eye(4096)
    used = (read_words(near, table, words)[0].sum(0) > 0).sum()
    assert 3 * 2998 * 0.3 < int(used) <= 4096  # 1 - exp(-8994 / 4096) of them, were it by chance
    assert int(used) == pytest.approx(4096 * (1 - 2.718 ** (-8994 / 4096)), rel=0.1)


@torch.no_grad()
def test_a_hidden_patch_is_not_seen():
    net = network()
    ids, places = sequences()
    hidden = torch.zeros(2, LENGTH // PATCH, dtype=torch.bool)
    hidden[0, 2] = True
    changed = ids.clone()
    at = slice(2 * PATCH, 3 * PATCH)
    changed[:, at] = 1 + changed[:, at] % 49
    differs = (net.features(ids, places, hidden) != net.features(changed, places, hidden)).any(-1)
    # What is foretold begins with the second patch; the first token of the third is its ninth.
    assert not differs[:, : PATCH + 1].any()
    assert differs[:, PATCH + 1 : 2 * PATCH].all()  # the others of a patch are told what it is
    assert not differs[0, 2 * PATCH :].any()
    assert differs[1, 2 * PATCH :].all()
    nothing = torch.zeros_like(hidden)
    assert torch.equal(net.features(ids, places, nothing), net.features(ids, places))


def test_data_and_network_mean_the_same_patch():
    assert (tokens.PATCH, len(tokens.STEPS)) == (PATCH, NEAR)


@torch.no_grad()
def test_an_example_does_not_see_the_others():
    net = network()
    ids, places = sequences(3)
    alone = torch.cat([net(ids[k : k + 1], places[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(net(ids, places), alone, rtol=0, atol=1e-5)


def all_logits(decoder, foretold, before):
    """Return the logits of every id."""
    head = decoder.head_of(torch.arange(decoder.config.vocabulary))
    return decoder.logits(foretold, before, head)[:, :-NEAR]


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"norm": "none"}, {"kv_heads": 1}, {"kv_heads": 4}])
def test_cached_is_uncached(changes):
    net = network(**changes)
    ids, places = sequences()
    wanted = net(ids, places)
    decoder = Decoder(net, 2, LENGTH // PATCH)
    foretold = decoder.begin(list(ids[:, : 2 * PATCH]), list(places[:, : 2 * PATCH]))
    for start in range(2 * PATCH, LENGTH, PATCH):
        patch = ids[:, start : start + PATCH]
        for slot in range(PATCH):
            got = all_logits(decoder, foretold, patch[:, :slot].unbind(1))
            torch.testing.assert_close(got, wanted[:, start + slot - PATCH], rtol=0, atol=1e-5)
        foretold = decoder.read(patch, decoder.where(places[:, start : start + PATCH]))


def kinds_ahead(batch=2, seed=2):
    return torch.randint(6, (batch, LENGTH // PATCH), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_kind_is_told_from_the_patch_before_its_place_on():
    net = network(kinds=5)
    (ids, places), ahead = sequences(), kinds_ahead()
    told = net.features(ids, places, ahead=ahead).unflatten(1, (-1, PATCH))
    for patch in range(LENGTH // PATCH - 1):
        other = ahead.clone()
        other[:, patch] = (other[:, patch] + 1) % 6
        changed = net.features(ids, places, ahead=other).unflatten(1, (-1, PATCH)) - told
        moved = changed.abs().amax((2, 3)) > 1e-4
        assert not moved[:, :patch].any()
        assert moved[:, patch:].all()
    other = ahead.clone()
    other[:, -1] = (other[:, -1] + 1) % 6  # nobody is foretold what comes after the end
    assert torch.equal(net.features(ids, places, ahead=other).unflatten(1, (-1, PATCH)), told)
    nothing = torch.full_like(ahead, 5)
    assert torch.equal(net.features(ids, places, ahead=nothing), net.features(ids, places))


@pytest.mark.parametrize("told", [1, 2])
def test_cached_is_uncached_with_kinds(told):
    """Without a word to torch of gradients, too."""
    net = network(kinds=5)
    (ids, places), ahead = sequences(), kinds_ahead()
    ahead[:, : 2 - told] = 5  # of what is read at the beginning, the last are told of kinds
    wanted = net.head(net.features(ids, places, ahead=ahead))
    decoder = Decoder(net, 2, LENGTH // PATCH)
    begin = list(ids[:, : 2 * PATCH]), list(places[:, : 2 * PATCH])
    foretold = decoder.begin(*begin, ahead[:, 2 - told : 2])
    for patch in range(2, LENGTH // PATCH):
        part = slice(patch * PATCH, (patch + 1) * PATCH)
        for slot in range(PATCH):
            got = all_logits(decoder, foretold, ids[:, part][:, :slot].unbind(1))
            want = wanted[:, part.start + slot - PATCH]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        where = decoder.where(places[:, part], ahead[:, patch : patch + 1])
        foretold = decoder.read(ids[:, part], where)


def test_a_network_without_kinds_refuses_them():
    ids, places = sequences()
    with pytest.raises(ValueError, match="ahead must be None"):
        network().features(ids, places, ahead=kinds_ahead())


def following(net, ids, places):
    """Return the logits of the token that follows on whole patches, as the plain network says."""
    longer = torch.cat([ids, ids.new_ones(PATCH)])
    where = torch.cat([places, places.new_zeros(PATCH, 4)])
    return net(longer[None], where[None])[0, -PATCH]


@torch.no_grad()
def test_rows_may_begin_with_different_lengths():
    net = network()
    ids, places = sequences()
    decoder = Decoder(net, 2, LENGTH // PATCH)
    starts = 2 * PATCH, PATCH
    foretold = decoder.begin(
        [ids[row, :n] for row, n in enumerate(starts)],
        [places[row, :n] for row, n in enumerate(starts)],
    )
    for step in range(0, 2 * PATCH, PATCH):
        got = all_logits(decoder, foretold, [])
        for row, start in enumerate(starts):
            wanted = following(net, ids[row, : start + step], places[row, : start + step])
            torch.testing.assert_close(got[row], wanted, rtol=0, atol=1e-5)
        parts = [slice(start + step, start + step + PATCH) for start in starts]
        foretold = decoder.read(
            torch.stack([ids[row, part] for row, part in enumerate(parts)]),
            decoder.where(torch.stack([places[row, part] for row, part in enumerate(parts)])),
        )


@torch.no_grad()
def test_what_several_rows_begin_with_is_read_once():
    net = network()
    ids, places = sequences(2)
    starts = 2 * PATCH, PATCH
    decoder = Decoder(net, 3, LENGTH // PATCH)
    foretold = decoder.begin(
        [ids[row, :n] for row, n in enumerate(starts)],
        [places[row, :n] for row, n in enumerate(starts)],
    )
    shared = torch.tensor([1, 0, 1])
    decoder.keep(shared)
    got = all_logits(decoder, foretold[shared], [])
    part = slice(2 * PATCH, 3 * PATCH)
    more = [own[[0, 1, 0], part] for own in (ids, places)]  # the first and last go on alike
    known = [[own[row, : starts[row]] for row in shared.tolist()] for own in (ids, places)]
    wanted = torch.stack([following(net, *begun) for begun in zip(*known, strict=True)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    got = all_logits(decoder, decoder.read(more[0], decoder.where(more[1])), [])
    known = [
        [torch.cat([begun, own[row]]) for row, begun in enumerate(every)]
        for every, own in zip(known, more, strict=True)
    ]
    wanted = torch.stack([following(net, *begun) for begun in zip(*known, strict=True)])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
def test_several_patches_may_be_read_at_once_later_too():
    net = network()
    ids, places = sequences()
    decoder = Decoder(net, 2, LENGTH // PATCH)
    one, two, three, four = (count * PATCH for count in range(1, 5))
    decoder.begin([ids[0, :one], ids[1, :two]], [places[0, :one], places[1, :two]])
    more = torch.stack([ids[0, one:three], ids[1, two:four]])
    where = torch.stack([places[0, one:three], places[1, two:four]])
    got = all_logits(decoder, decoder.read(more, decoder.where(where)), [])
    wanted = [following(net, ids[row, :n], places[row, :n]) for row, n in ((0, three), (1, four))]
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_half_precision_is_near(dtype, near):
    if dtype == torch.float16 and "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this CPU has no FBGEMM")
    net = network()
    ids, places = sequences()
    decoder = Decoder(net, 2, LENGTH, dtype)
    foretold = decoder.begin(list(ids[:, :-PATCH]), list(places[:, :-PATCH]))
    got = all_logits(decoder, foretold, ids[:, -PATCH:-1].unbind(1))
    wanted = net(ids, places)[:, -1]
    torch.testing.assert_close(got, wanted, rtol=0, atol=near)
    assert not torch.equal(got, wanted)


def test_a_decoder_refuses_what_does_not_fit():
    decoder = Decoder(network(), 2, 1)
    ids, places = sequences(2, 2 * PATCH)
    first, second = (ids[:, :PATCH], places[:, :PATCH]), (ids[:, PATCH:], places[:, PATCH:])
    with pytest.raises(ValueError, match="2 patches, more than 1"):
        decoder.begin(list(ids), list(places))
    with pytest.raises(ValueError, match="1 … 2 sequences"):
        decoder.begin([*first[0], first[0][0]], [*first[1], first[1][0]])
    with pytest.raises(ValueError, match="1 … 2 sequences"):
        decoder.begin([], [])
    with pytest.raises(ValueError, match="none empty"):
        decoder.begin([ids[0, :PATCH], ids[1, :0]], [places[0, :PATCH], places[1, :0]])
    with pytest.raises(ValueError, match="whole patches"):
        decoder.begin([ids[0, :PATCH], ids[1, :3]], [places[0, :PATCH], places[1, :3]])
    decoder.begin(*map(list, first))
    with pytest.raises(ValueError, match="more than the length"):
        decoder.read(second[0], decoder.where(second[1]))


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_attention_whose_scores_are_kept_is_attention(heads):
    q, k, v = (torch.randn(2, n, 37, 16, dtype=torch.bfloat16) for n in (6, heads, heads))
    wanted = torch.randn(2, 6, 37, 16)
    found = {}
    for dtype in (torch.bfloat16, torch.float64):  # the second is left to torch
        given = [part.to(dtype).requires_grad_() for part in (q, k, v)]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            seen = attend(*given)
        assert seen.dtype == dtype
        gradients = torch.autograd.grad((seen * wanted).sum(), given)
        found[dtype] = [seen, *gradients]
    for near, exact in zip(*found.values(), strict=True):
        assert (near - exact).norm() / exact.norm() < 0.01
    k, v = k.detach().clone(), v.detach().clone()
    first = attend(q, k, v)[:, :, :20]
    k[:, :, 20:], v[:, :, 20:] = 1, 2  # nothing sees what comes after it
    assert torch.equal(attend(q, k, v)[:, :, :20], first)


def test_a_turn_by_hand():
    # One head of 8: one pair for each axis, (x[i], x[i + 4]), all at rate 1.
    cos, sin = rotation(torch.tensor([[[0.0, math.pi / 2, 0, 0]]]), 8)
    turned = turn(torch.arange(8.0)[None, None, None], cos, sin)
    torch.testing.assert_close(
        turned.flatten(), torch.tensor([0.0, -5, 2, 3, 4, 1, 6, 7]), rtol=0, atol=1e-5
    )


def test_only_distances_of_places_matter():
    q, k = torch.randn(2, 1, 1, 1, 32)
    here, there = torch.tensor([[[3.0, 1, 5, 9]]]), torch.tensor([[[1.0, 1, 8, 2]]])
    far = torch.tensor([7.0, 2, 1, 4])
    first = (turn(q, *rotation(here, 32)) * turn(k, *rotation(there, 32))).sum()
    second = (turn(q, *rotation(here + far, 32)) * turn(k, *rotation(there + far, 32))).sum()
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("depth", [2, 24])
def test_depth_keeps_variance(norm, depth):
    torch.manual_seed(0)
    sizes = {"depth": depth, "hidden": 128}
    net = GPT(GPTConfig(**SIZES | sizes, norm=norm))
    seen = []
    for layer in (net.blocks[-1], net.inner[-1]):
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    ids, places = sequences(16, 64)
    net.head.weight.data.normal_(std=1 / 8)
    net(ids, places).square().mean().backward()
    assert 0.9 < float(seen[0].var()) < 2.2
    assert 0.9 < float(seen[1][:, :, -1].var()) < 3  # the last token of a patch knows the others
    for layers in ([block.feed for block in net.blocks], net.inner):
        first, last = (float(layers[k].up.weight.grad.norm()) for k in (0, -1))
        assert 1 / 4 < first / last < 4


def test_the_gradient_of_the_norm():
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit(x, "rms"), F.rms_norm(x, (7,), eps=0.0))
    assert torch.autograd.gradcheck(lambda x: unit(x, "rms"), x)
    assert unit(x, "none") is x


def test_logits_begin_at_zero():
    ids, places = sequences()
    ids[:, -1] = tokens.NOTHING
    kinds = [torch.arange(1, 20), torch.arange(25, 50)]
    nats = GPT(GPTConfig(**SIZES)).nats(ids, places, kinds)
    later = ids[:, PATCH:]
    wanted = torch.zeros(2, LENGTH - PATCH)
    wanted[(later > 0) & (later < 20)] = math.log(19)
    wanted[later >= 25] = math.log(25)
    assert (wanted == 0).sum() > 2  # nobody is asked for what is of no kind
    torch.testing.assert_close(nats, wanted)


@torch.no_grad()
def test_nats_are_of_the_choice_among_a_kind():
    net = network()
    ids, places = sequences()
    kinds = [torch.tensor([7, 3, 30]), torch.arange(31, 50)]
    nats, logits = net.nats(ids, places, kinds), net(ids, places)
    for row in range(2):
        for at, token in enumerate(ids[row, PATCH:].tolist()):
            own = next((kind for kind in kinds if token in kind), None)
            wanted = 0.0
            if own is not None:
                likely = logits[row, at, own].log_softmax(-1)
                wanted = -float(likely[own.tolist().index(token)])
            assert float(nats[row, at]) == pytest.approx(wanted, abs=1e-4)


def earlier(length=LENGTH, seed=7):
    """Return (length, 7) earlier tokens, or none."""
    drawn = torch.rand(length, 7, generator=torch.Generator().manual_seed(seed))
    return (drawn * (torch.arange(length)[:, None] + 1)).long() - 1


def test_what_is_not_asked_for_costs_nothing():
    net = network()
    ids, places = sequences()
    near, own = torch.stack([earlier(), earlier(seed=8)]), torch.arange(1, 30)
    asked = torch.rand(2, LENGTH // PATCH - 1, generator=torch.Generator().manual_seed(0)) < 0.5
    whole, part = (net.nats(ids, places, [own], near=near, asked=a) for a in (None, asked))
    tokens = asked.repeat_interleave(PATCH, 1)
    assert 0 < asked.sum() < asked.numel()
    assert torch.allclose(part, whole * tokens, atol=1e-5)
    gradients = [
        torch.autograd.grad((nats * tokens).sum(), list(net.parameters()), allow_unused=True)
        for nats in (whole, part)
    ]
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-4)
    nothing = net.nats(ids, places, [own], near=near, asked=torch.zeros_like(asked))
    assert nothing.shape == whole.shape
    assert not nothing.any()


@torch.no_grad()
@pytest.mark.parametrize(("digits", "temperature"), [(2, 0.0), (2, 0.8), (1, 0.8), (4, 0.8)])
def test_what_is_redrawn_is_what_would_be_written_there(digits, temperature):
    """Each patch after what really comes before it, as if that were the prompt."""
    net = network()
    torch.nn.init.normal_(net.same.weight)
    ids, places = sequences()
    near = torch.stack([earlier(), earlier(seed=8)])
    kinds = torch.arange(1, 49).chunk(digits)
    for slot, own in enumerate(kinds):  # of which a patch's tokens are in turn
        ids[:, slot::digits] = own[ids[:, slot::digits] % len(own)]
    generator = torch.Generator().manual_seed(0)
    redrawn = torch.rand(2, LENGTH // PATCH, generator=generator) < 0.5
    draws = torch.rand(2, LENGTH, generator=generator)
    how = Sampling(temperature, top_p=0.9, detail=0.5)
    later = [digit > 0 for digit in range(digits)]
    got = net.redraw(ids, places, kinds, later, redrawn, draws, how, near=near)
    changed = 0
    for row in range(2):
        for patch in range(LENGTH // PATCH):
            here = slice(patch * PATCH, (patch + 1) * PATCH)
            if patch == 0 or not redrawn[row, patch]:
                assert torch.equal(got[row, here], ids[row, here])
                continue
            begun = ids[row, : here.start]
            (wanted,) = sample(
                net,
                [(begun, places[row, : here.start])],
                places[row, here],
                kinds,
                draws[row : row + 1, here],
                how,
                near=near[row, here],
                begun=begun[None],
            )
            changed += int((got[row, here] != ids[row, here]).sum())
            assert torch.equal(got[row, here], wanted)
    assert changed > 2


@torch.no_grad()
def test_what_is_read_may_be_other_than_what_is_asked_for():
    net = network()
    torch.nn.init.normal_(net.same.weight)
    ids, places = sequences()
    other = ids.clone()
    other[:, 2 * PATCH : 3 * PATCH] = ids[:, 2 * PATCH : 3 * PATCH].flip(1)
    near, own = torch.stack([earlier(), earlier(seed=8)]), torch.arange(1, 50)
    plain, asked = (
        net.nats(ids, places, [own], near=near, read=read).view(2, -1, PATCH)
        for read in (None, other)
    )
    # The second patch after the first is what was read otherwise: itself it is asked for as it is.
    torch.testing.assert_close(asked[:, :2], plain[:, :2])
    assert (asked[:, 2:] != plain[:, 2:]).any(2).all()
    swapped = net.nats(other, places, [own], near=near).view(2, -1, PATCH)
    torch.testing.assert_close(asked[:, 3], swapped[:, 3])


@torch.no_grad()
def test_what_is_near_is_pointed_at():
    net = network()
    torch.nn.init.normal_(net.same.weight)
    ids, places = sequences(1)
    near, own = earlier(), torch.arange(1, 30)
    hidden = torch.tensor([[False, True, False, False, False]])
    for told in (None, hidden):
        features = net.features(ids, places, told)[0]
        nats = net.nats(ids, places, [own], told, near=near[None])[0]
        for at, (row, token) in enumerate(zip(features, ids[0, PATCH:].tolist(), strict=True)):
            logits = net.head(row)
            for place, added in zip(near[at + PATCH].tolist(), net.same(row), strict=True):
                if place >= 0 and not (told is not None and told[0, place // PATCH]):
                    logits[ids[0, place]] += added
            wanted = -logits[own].log_softmax(-1)[token - 1] if token < 30 else 0.0
            assert float(nats[at]) == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 60},
        {"heads": 3},
        {"kv_heads": 3},
        {"inner_depth": 0},
        {"vocabulary": 0},
        {"kinds": -1},
        {"kinds": math.nan},
        {"heads": True},
        {"width": 64.0},
        {"phrases": 10**30},
        {"phrases": 2**24 + 1},
        {"norm": "x"},
        {"norm": None},
        {"norm": []},
    ],
)
def test_wrong_sizes_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        GPTConfig(**SIZES | changes)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="places must be"):
        network()(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, 3))
    with pytest.raises(ValueError, match="whole patches of 8, got 3"):
        network()(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, 4))


# ------------------------------------------------------------------ drawing

LIKELY = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()  # in order of likelihood: 1, 3, 2, 0


def drawn(sampling, *draws):
    return [int(choose(LIKELY, torch.tensor([draw]), sampling)[0]) for draw in draws]


def test_all_by_hand():
    assert drawn(Sampling(), 0.0, 0.39, 0.41, 0.69, 0.71, 0.89, 0.91, 0.9999) == [
        1,
        1,
        3,
        3,
        2,
        2,
        0,
        0,
    ]


def test_top_k_by_hand():
    # Of 0.7 in all: the first takes 4 / 7 = 0.571.
    assert drawn(Sampling(top_k=2), 0.0, 0.57, 0.572, 0.9999) == [1, 1, 3, 3]
    assert drawn(Sampling(top_k=99), 0.9999) == [0]


def test_top_p_by_hand():
    # 0.4 and 0.3 reach 0.6, and so no third is needed.
    assert drawn(Sampling(top_p=0.6), 0.57, 0.572, 0.9999) == [1, 3, 3]
    assert drawn(Sampling(top_p=0.1), 0.0, 0.9999) == [1, 1]
    # After top_k = 3 the three have 4/9, 3/9, 2/9: 0.75 is reached by two.
    assert drawn(Sampling(top_k=3, top_p=0.75), 0.9999) == [3]


@pytest.mark.parametrize("top_p", [0.5, 0.9, 0.99])
def test_the_likeliest_of_many_are_drawn_from(top_p):
    """Flat rows and steep ones: of some 900 tokens are left, of others a few."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, 1000, generator=generator) * torch.linspace(0.1, 5, 64)[:, None]
    draws = torch.rand(64, generator=generator)
    sampling = Sampling(top_p=top_p)
    found = choose(logits, draws, sampling)
    ranks = []
    for row, draw, token in zip(logits.double(), draws.tolist(), found.tolist(), strict=True):
        likely, order = row.softmax(0).sort(descending=True)
        left = likely[: 1 + int((likely.cumsum(0) < top_p).sum())].cumsum(0)
        rank = order.tolist().index(token)
        before = float(left[rank - 1]) if rank else 0.0
        assert before - 1e-4 <= draw * float(left[-1]) <= float(left[rank]) + 1e-4
        ranks.append(rank)
    assert max(ranks) > 200
    assert [int(choose(logits[k : k + 1], draws[k : k + 1], sampling)) for k in range(64)] == (
        found.tolist()
    )


def test_temperature_by_hand():
    # At temperature 0.5 probabilities are squared: 16, 9, 4, 1 of 30.
    cold = Sampling(temperature=0.5)
    assert drawn(cold, 15.9 / 30, 16.1 / 30, 24.9 / 30, 25.1 / 30, 29.1 / 30) == [1, 3, 3, 2, 0]
    assert drawn(Sampling(temperature=0), 0.99) == [1]


@pytest.mark.parametrize(
    "extreme", [{"top_p": 1e-46}, {"temperature": 1e-40}, {"temperature": 1e-3, "top_p": 1e-9}]
)
@pytest.mark.parametrize("size", [50, 1000])
def test_extremes_take_the_likeliest(extreme, size):
    generator = torch.Generator().manual_seed(0)
    logits = 1e4 * torch.randn(20, size, generator=generator)  # as guidance may make them
    drawn = choose(logits, torch.rand(20, generator=generator), Sampling(**extreme))
    assert torch.equal(drawn, logits.argmax(1))
    hottest = Sampling(temperature=1e4, detail=1e4).of_details()
    drawn = choose(logits, torch.rand(20, generator=generator), hottest)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < size


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"guidance": math.inf},
        {"detail": -0.1},
        {"plausible": -0.1},
        {"plausible": 1.1},
        {"plausible": math.nan},
    ],
)
def test_wrong_sampling_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Sampling(**changes)


def test_guidance_by_hand():
    # 8, 4, 2 and 1 with the prompt; without it the last is rarer still, and gains the most.
    told = torch.tensor([8.0, 4.0, 2.0, 1.0]).log()[None]
    plain = torch.tensor([1.0, 1.0, 1.0, 1 / 16]).log()[None]
    guided = guide(told, plain, Sampling(guidance=2.0))
    assert torch.allclose(guided.exp(), torch.tensor([[64.0, 16.0, 4.0, 16.0]]))
    assert torch.allclose(guide(told, plain, Sampling(guidance=0.0)), plain)
    for plausible, kept in ((0.1, [64, 16, 4, 16]), (0.2, [64, 16, 4, 0]), (0.3, [64, 16, 0, 0])):
        bound = guide(told - 7, plain, Sampling(guidance=2.0, plausible=plausible))
        assert torch.allclose((bound + 14).exp(), torch.tensor([kept]).float())


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_what_is_not_plausible_is_not_written(temperature):
    """Of what is as likely as the likeliest, there is one; guidance cannot lead away from it."""
    net = network()
    begin, without = prompts(2 * PATCH, PATCH), prompts(PATCH, PATCH)
    likeliest = continued(net, begin, Sampling(temperature=0))
    for guidance in (0.0, 30.0):
        how = Sampling(temperature, guidance=guidance, top_p=0.9)
        assert not torch.equal(continued(net, begin, how, without=without), likeliest)
        bound = Sampling(temperature, guidance=guidance, top_p=0.9, plausible=1.0)
        assert torch.equal(continued(net, begin, bound, without=without), likeliest)


def prompts(*lengths):
    ids, places = sequences(len(lengths), max(lengths), seed=5)
    return [(ids[row, :n], places[row, :n]) for row, n in enumerate(lengths)]


CHOICES = torch.arange(10, 25), torch.arange(20, 40)  # in turn


def continued(net, begin, sampling, count=2 * PATCH, without=(), seed=3, **options):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(4, count, generator=generator)[: len(begin)]
    places = torch.rand(count, 4, generator=generator) * 16
    return sample(net, begin, places, CHOICES, draws, sampling, without=without, **options)


@pytest.mark.parametrize("detail", [1.0, 0.5, 0.0])
def test_samples_are_what_the_network_says(detail):
    """Each token is the one that its draw hits in what the plain network says of the prefix."""
    net = network()
    begin = prompts(PATCH)
    got = continued(net, begin, Sampling(temperature=0.7, detail=detail))[0]
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(4, 2 * PATCH, generator=generator)
    places = torch.cat([begin[0][1], torch.rand(2 * PATCH, 4, generator=generator) * 16])
    ids = begin[0][0]
    for step in range(2 * PATCH):
        missing = PATCH - len(ids) % PATCH
        own = CHOICES[step % 2]
        with torch.no_grad():
            whole = F.pad(ids, (0, missing), value=1)  # it does not see what comes later
            logits = net(whole[None], places[None, : len(whole)])[:, -missing, own]
        how = Sampling(0.7 * (detail if step % 2 else 1.0))
        ids = torch.cat([ids, own[choose(logits, draws[0, step : step + 1], how)]])
    assert got.tolist() == ids[PATCH:].tolist()
    assert set(got[::2].tolist()) <= set(CHOICES[0].tolist())
    assert set(got[1::2].tolist()) <= set(CHOICES[1].tolist())


def test_guidance_1_is_none():
    net = network()
    begin, without = prompts(2 * PATCH, PATCH), prompts(PATCH, PATCH)
    plain = continued(net, begin, Sampling())
    assert torch.equal(continued(net, begin, Sampling(guidance=1.0), without=without), plain)
    nearly = continued(net, begin, Sampling(guidance=1.0 + 1e-6), without=without)
    assert torch.equal(nearly, plain)
    assert not torch.equal(continued(net, begin, Sampling(guidance=4.0), without=without), plain)


def test_guidance_0_does_not_hear_the_prompt():
    net = network()
    begin, without = prompts(2 * PATCH, PATCH), prompts(PATCH, PATCH)
    deaf = continued(net, begin, Sampling(guidance=0.0), without=without)
    assert torch.equal(deaf, continued(net, without, Sampling()))


def test_a_row_does_not_hang_on_the_others():
    net = network()
    begin = prompts(3 * PATCH, PATCH, 2 * PATCH)
    together = continued(net, begin, Sampling())
    assert torch.equal(continued(net, begin[:1], Sampling()), together[:1])
    assert torch.equal(continued(net, begin, Sampling()), together)


def test_samples_are_what_the_network_says_of_their_kinds():
    """The likeliest tokens, guided from nothing told to the kinds of their places."""
    net = network(kinds=5)
    begin, count = prompts(PATCH, PATCH), 3 * PATCH
    kinds = torch.tensor([[0, 3, 1], [4, 4, 5]])
    greedy = Sampling(temperature=0, guidance=2.0)
    got = continued(net, begin, greedy, count, without=begin, kinds=kinds)
    assert not torch.equal(got[:1], continued(net, begin[:1], Sampling(temperature=0), count))
    generator = torch.Generator().manual_seed(3)
    torch.rand(4, count, generator=generator)
    more = torch.rand(count, 4, generator=generator) * 16
    for row in range(2):
        ids, places = torch.cat([begin[row][0], got[row]]), torch.cat([begin[row][1], more])
        ahead = F.pad(kinds[row], (0, 1), value=5)
        with torch.no_grad():
            told, plain = (
                net.head(net.features(ids[None], places[None], ahead=kind[None]))[0]
                for kind in (ahead, torch.full_like(ahead, 5))
            )
        logits = plain + 2.0 * (told - plain)
        for step in range(count):
            own = CHOICES[step % 2]
            assert int(got[row, step]) == int(own[logits[step, own].argmax()])


def test_samples_copy_what_the_network_points_at():
    net = network()
    torch.nn.init.normal_(net.same.weight, std=0.5)
    begin, count = prompts(2 * PATCH, PATCH), 2 * PATCH
    near = earlier(PATCH + count)[PATCH:]  # of the last patch of the prompts on
    begun = torch.stack([ids[-PATCH:] for ids, _ in begin])
    greedy = Sampling(temperature=0, guidance=1.5)
    without = prompts(PATCH, PATCH)
    got = continued(net, begin, greedy, count, without, near=near, begun=begun)
    assert not torch.equal(got, continued(net, begin, greedy, count, without))
    generator = torch.Generator().manual_seed(3)
    torch.rand(4, count, generator=generator)
    more = torch.rand(count, 4, generator=generator) * 16
    for row in range(2):
        logits = []
        for ids, places in (begin[row], without[row]):
            whole, start = torch.cat([ids, got[row]]), len(ids)
            with torch.no_grad():
                features = net.features(whole[None], torch.cat([places, more])[None])[0]
                own, added = net.head(features)[start - PATCH :], net.same(features)
            for step, places_near in enumerate(near.tolist()):
                known = torch.cat([begun[row], got[row]])
                for place, pointed in zip(places_near, added[start - PATCH + step], strict=True):
                    if place >= 0:
                        own[step, known[place]] += pointed
            logits.append(own)
        both = logits[1] + 1.5 * (logits[0] - logits[1])
        for step in range(count):
            chosen = CHOICES[step % 2]
            assert int(got[row, step]) == int(chosen[both[step, chosen].argmax()])


def test_rows_end_at_their_stop():
    net = network()
    ids = continued(net, prompts(3 * PATCH, PATCH, 2 * PATCH), Sampling(), count=80, stop=22)
    for row in ids.tolist():
        if 22 in row:
            assert set(row[row.index(22) + 1 :]) <= {-1}
    assert (ids == 22).any()


def test_rows_that_are_given_up_go_on_as_others():
    """As if those that go on had been prompts, each with the draws of its new place."""
    net = network()
    torch.nn.init.normal_(net.same.weight, std=0.5)
    generator = torch.Generator().manual_seed(3)
    count = 3 * PATCH
    draws, places = (torch.rand(n, generator=generator) for n in ((3, count), (count, 4)))
    begin, without = prompts(2 * PATCH, PATCH, 3 * PATCH), prompts(PATCH, PATCH, PATCH)
    begun = torch.stack([ids[-PATCH:] for ids, _ in begin])
    near, sampling = earlier(PATCH + count)[PATCH:], Sampling(guidance=1.5)
    shown, going = [], [torch.tensor([1, 1, 2]), torch.tensor([2, 0, 0])]

    def go_on(made):
        shown.append(made)
        return going[len(shown) - 1]

    options = {"near": near, "begun": begun, "resampling": Resampling(PATCH, go_on)}
    got = sample(net, begin, places, CHOICES, draws, sampling, without=without, **options)
    made = torch.empty(3, 0, dtype=torch.int64)
    for part in range(3):
        at = slice(part * PATCH, (part + 1) * PATCH)
        options = {"without": without, "near": near[at], "begun": begun}
        more = sample(net, begin, places[at], CHOICES, draws[:, at], sampling, **options)
        made, begun = torch.cat([made, more], 1), torch.cat([begun, more], 1)
        if part == 2:
            break
        assert torch.equal(shown[part], made)
        rows = going[part]
        made, begun = made[rows], begun[rows]
        begin, without = (
            [
                (torch.cat([given[k][0], more[k]]), torch.cat([given[k][1], places[at]]))
                for k in rows.tolist()
            ]
            for given in (begin, without)
        )
    assert torch.equal(got, made)
    assert not torch.equal(got[1], got[2])  # from one row, by other draws
    with pytest.raises(ValueError, match="must not be resampled"):
        continued(net, begin, Sampling(), stop=3, resampling=Resampling(PATCH, go_on))


def test_guidance_needs_something_to_go_from():
    with pytest.raises(ValueError, match="guidance needs 2 prompts"):
        continued(network(), prompts(2 * PATCH, PATCH), Sampling(guidance=2.0))


@pytest.mark.parametrize(("norm", "steps"), [("rms", 300), ("none", 200)])
def test_learns_to_repeat_in_seconds(norm, steps):
    """The second half of each sequence repeats the first, which only attention can find."""
    torch.manual_seed(0)
    net = GPT(GPTConfig(**SIZES | {"vocabulary": 3, "depth": 2, "inner_depth": 1}, norm=norm))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, betas=(0.9, 0.95))
    places = torch.zeros(4 * PATCH, 4)
    places[:, 0] = torch.arange(4 * PATCH) % (2 * PATCH)
    places[:, 1] = torch.arange(4 * PATCH) // (2 * PATCH)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        half = torch.randint(1, 3, (32, 2 * PATCH), generator=generator)
        nats = net.nats(torch.cat([half, half], 1), places.expand(32, -1, 4), [torch.arange(3)])
        loss = nats[:, PATCH:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2  # of 0.69
    begin = [(row, places[: 2 * PATCH]) for row in half]
    draws = torch.rand(32, 2 * PATCH)
    got = sample(net, begin, places[2 * PATCH :], [torch.arange(3)], draws, Sampling(0))
    assert float((got == half).float().mean()) > 0.75  # by chance 0.5


def test_presets_have_the_promised_sizes():
    count = sum(p.numel() for p in GPT(GPTConfig()).parameters())
    assert 5e6 < count < 9.2e6  # bytes, in 8 bits
    assert sum(p.numel() for p in GPT(TINY).parameters()) < 1e6
