"""Drawing of tokens: the kernel against sums in double precision, and against its reference."""

import pytest
import torch

from flowwarp.ops.drawing import draw_tokens, draw_tokens_reference

DRAWN = (draw_tokens, draw_tokens_reference)


def rows(count=64, size=1000, seed=0):
    """Flat rows and steep ones: of some all tokens are likely, of others a few."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, size, generator=generator)
    logits *= torch.linspace(0.1, 8, count)[:, None]
    return logits, torch.rand(count, generator=generator)


def assert_drawn(tokens, logits, draws, temperature=1.0, top_k=0, top_p=1.0):
    """Each token must be where its draw falls, among those that are left, to rounding."""
    for row, draw, token in zip(logits.double(), draws.tolist(), tokens.tolist(), strict=True):
        likely, order = (row / temperature).softmax(0).sort(descending=True)
        if top_k:
            likely = likely[:top_k] / likely[:top_k].sum()
        left = likely[: 1 + int((likely.cumsum(0) < top_p - 1e-6).sum())].cumsum(0)
        rank = order.tolist().index(token)
        before = float(left[rank - 1]) if rank else 0.0
        reached = float(left[min(rank, len(left) - 1)])
        assert before - 1e-4 <= draw * float(left[-1]) <= reached + 1e-4


@pytest.mark.parametrize("function", DRAWN)
@pytest.mark.parametrize("size", [1, 2, 17, 1000, 2989])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"top_p": 0.5},
        {"top_p": 0.97},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 40, "top_p": 0.8},
        {"temperature": 0.3, "top_p": 0.9},
        {"temperature": 3.0},
    ],
)
def test_drawn_where_it_falls(function, size, how):
    logits, draws = rows(size=size)
    tokens = function(logits, draws, **how)
    assert tokens.dtype == torch.int64
    assert_drawn(tokens, logits, draws, **how)


def test_as_the_reference():
    """But for draws that fall between two tokens to the last bit."""
    logits, draws = rows(2000)
    found, wanted = (function(logits, draws, top_p=0.9) for function in DRAWN)
    assert int((found != wanted).sum()) <= 2
    assert len(wanted.unique()) > 500


@pytest.mark.parametrize("function", DRAWN)
def test_a_row_does_not_hang_on_the_others(function):
    logits, draws = rows()
    together = function(logits, draws, top_p=0.9)
    alone = [function(logits[k : k + 1], draws[k : k + 1], top_p=0.9) for k in range(len(logits))]
    assert torch.equal(together, torch.cat(alone))
    wide = torch.cat([logits, torch.full_like(logits, 1e9)], 1)  # a part of wider rows
    assert torch.equal(function(wide[:, : logits.shape[1]], draws, top_p=0.9), together)
    across = logits.T.contiguous().T
    assert torch.equal(function(across, draws, top_p=0.9), together)


@pytest.mark.parametrize("function", DRAWN)
def test_frequencies_are_those_of_the_logits(function):
    """20,000 draws that are evenly apart hit each token as often as it is likely."""
    likely = torch.tensor([0.5, 0.02, 0.3, 0.18])
    draws = (torch.arange(20_000) + 0.5) / 20_000
    tokens = function(likely.log().expand(20_000, 4), draws)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    torch.testing.assert_close(shares, likely, atol=2e-4, rtol=0)


@pytest.mark.parametrize("function", DRAWN)
def test_what_cannot_be_is_never_drawn(function):
    logits = torch.full((5, 40), -torch.inf)
    logits[:, 7] = -3.0
    assert function(logits, torch.linspace(0, 0.9999, 5)).tolist() == [7] * 5


def test_no_numbers_are_survived():
    """Every draw from them is a token."""
    for value in (torch.nan, torch.inf, -torch.inf):
        tokens = draw_tokens(torch.full((3, 20), value), torch.full((3,), 0.5), top_p=0.9)
        assert ((tokens >= 0) & (tokens < 20)).all()
    mixed = rows(8, 50)[0]
    mixed[:, ::3] = torch.nan
    tokens = draw_tokens(mixed, torch.linspace(0, 0.99, 8), top_k=3)
    assert ((tokens >= 0) & (tokens < 50)).all()


def test_same_bits_for_any_number_of_threads():
    before = torch.get_num_threads()
    try:
        drawn = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            drawn.append(draw_tokens(*rows(200), top_p=0.95))
        assert torch.equal(*drawn)
    finally:
        torch.set_num_threads(before)
