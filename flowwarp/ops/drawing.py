"""Drawing of tokens by their logits: one of the likeliest of each row."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from flowwarp.ops import native

_FIRST = 128  # of the likeliest tokens, which are sorted before all


def draw_tokens(
    logits: Tensor, draws: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Draw a token of each row; a row does not hang on the others.

    Args:
        logits: (B, V), finite or -inf.
        draws: (B,) in [0, 1): which of the probability is hit, the likeliest first.
        temperature: what logits are divided by, above 0.
        top_k: only so many of the likeliest are drawn from; 0 for all.
        top_p: only the likeliest that have this probability together, and one at least (Holtzman
            et al., "The Curious Case of Neural Text Degeneration", ICLR 2020).

    Returns:
        (B,) int64 in [0, V).
    """
    library = native.library_for(logits, draws)
    if library is None:
        return draw_tokens_reference(
            logits, draws, temperature=temperature, top_k=top_k, top_p=top_p
        )
    logits = logits.float()
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    rows, size = logits.shape
    where = draws.float().contiguous()
    room = logits.new_empty(rows, 3 * size)
    out = torch.empty(rows, dtype=torch.int64)
    library.fw_draw(
        *native.sizes(rows, size, logits.stride(0)),
        native.pointer(logits),
        native.pointer(where),
        ctypes.c_float(temperature),
        ctypes.c_int64(top_k),
        ctypes.c_float(top_p),
        native.pointer(room),
        native.pointer(out),
    )
    return out


def draw_tokens_reference(
    logits: Tensor, draws: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Do the same in plain torch; arguments and result as in :func:`draw_tokens`.

    But for the order of equally likely tokens, which is torch's: the draw may hit another of them.
    """
    likely = (logits.float() / temperature).softmax(-1)
    size = likely.shape[-1]
    if 0 < top_k < size:
        values, order = likely.topk(top_k)
        return _draw(values, order, values.sum(-1, keepdim=True), draws, top_p)[0]
    total = likely.sum(-1, keepdim=True)
    if top_p == 1 or size <= _FIRST:
        return _draw(*likely.sort(-1, True), total, draws, top_p)[0]
    # To sort all takes longer than all else; what top_p leaves is nearly always among the first.
    chosen, sure = _draw(*likely.topk(_FIRST), total, draws, top_p)
    rest = (~sure).nonzero()[:, 0]
    if len(rest):  # these by themselves: a row must not hang on the others
        values, order = likely[rest].sort(-1, True)
        chosen[rest] = _draw(values, order, total[rest], draws[rest], top_p)[0]
    return chosen


def _draw(
    likely: Tensor, order: Tensor, total: Tensor, draws: Tensor, top_p: float
) -> tuple[Tensor, Tensor]:
    """Draw a token of each row from the likeliest, and say whether these were enough.

    Args:
        likely: (B, n), their probabilities, falling.
        order: (B, n), which tokens they are.
        total: (B, 1), the probability of all that could be drawn, were it not for ``top_p``.
        draws: (B,), see :func:`draw_tokens`.
        top_p: below 1, only the first that have this share of the total.
    """
    reached = likely.cumsum(-1)
    last = torch.full_like(reached[:, :1], likely.shape[-1] - 1, dtype=torch.int64)
    if top_p < 1:
        # The likeliest always stays, as nothing comes before it.
        last = (reached - likely < top_p * total).sum(-1, keepdim=True).clamp_min(1) - 1
    target = draws[:, None] * reached.gather(1, last)
    hit = torch.searchsorted(reached, target, right=True)
    chosen = order.gather(1, torch.minimum(hit, last))[:, 0]
    return chosen, reached[:, -1] >= top_p * total[:, 0]
