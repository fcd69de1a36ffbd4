"""Compare every operator with its reference on random shapes, strides, types and values.

    python tools/fuzz_ops.py --count 20000 --seed 0

A case is random in its operator and options, in sizes from 0 up, in how its tensors lie in memory
(contiguous, channels last, transposed, every other pixel, expanded), in type, and in values: three
in ten have NaN and infinity in images, features and flow, and motion far out of the picture. (Only
NaN in the images of ``census``.) Results, and gradients where all is finite, must be those of the
reference up to rounding, a NaN or an infinity where it has one. The steps of a fit, and the drawing
of tokens, take float32 alone, nothing empty, only finite values, and have no gradients; the
weighted median is not among them, as rounding decides where two halves weigh the same. Of the cases
that fail the smallest is printed. The last line is JSON; the exit code is 1 if a case failed. A
seed always gives the same cases.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowwarp.ops.census import (
    census,
    census_distance,
    census_distance_reference,
    census_reference,
)
from flowwarp.ops.correlation import correlation, correlation_reference
from flowwarp.ops.drawing import draw_tokens, draw_tokens_reference
from flowwarp.ops.matching import describe, describe_reference, match_round, match_round_reference
from flowwarp.ops.padding import PADDINGS
from flowwarp.ops.splatting import splat, splat_reference
from flowwarp.ops.variational import (
    normal_equations,
    normal_equations_reference,
    relax,
    relax_reference,
    smoothness_weights,
    smoothness_weights_reference,
)
from flowwarp.ops.warping import MODES, warp, warp_reference

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
NO_NUMBERS = (torch.nan, torch.inf, -torch.inf)
FAR = (*NO_NUMBERS, 1e30, -1e30, 1e9)  # px
LAYOUTS = ("contiguous", "channels last", "transposed", "every other", "expanded")


@dataclass(frozen=True)
class Case:
    """Arguments of an operator; ``seed`` determines the values."""

    operator: str
    batch: int
    channels: int
    height: int
    width: int
    dtype: torch.dtype
    layout: str
    wild: bool  # odd values, of those that the operator takes
    option: int
    seed: int

    @property
    def size(self) -> int:
        """Size of the case, to find the smallest."""
        return self.batch * self.channels * self.height * self.width + self.wild


def draw(rng: random.Random) -> Case:
    """Draw a case."""
    operator = rng.choice(list(OPERATORS))
    few: Sequence[int] = (0, 1, 1, 2, 3)
    side: Sequence[int] = (0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33)
    if operator in FITTING:
        few, side = few[1:], side[1:]
    channels = rng.choice((1, 3)) if operator.startswith("census") else rng.choice((1, 2, 3, 4, 7))
    return Case(
        operator,
        rng.choice(few),
        channels,
        rng.choice(side),
        rng.choice(side),
        torch.float32 if operator in FITTING else rng.choice(list(TOLERANCE)),
        rng.choice(LAYOUTS),
        rng.random() < 0.3,
        rng.randrange(1000),
        rng.getrandbits(32),
    )


def smaller(case: Case) -> Iterator[Case]:
    """Yield cases that are simpler in one respect."""
    change = functools.partial(dataclasses.replace, case)
    if case.wild:
        yield change(wild=False)
    if case.layout != "contiguous":
        yield change(layout="contiguous")
    for name in ("batch", "height", "width"):
        for value in (1, getattr(case, name) // 2, getattr(case, name) - 1):
            if (case.operator in FITTING) <= value < getattr(case, name):
                yield change(**{name: value})
    if case.channels > 1:
        yield change(channels=1)


def lay(values: Tensor, layout: str) -> Tensor:
    """Return (B, C, H, W) values in another memory layout."""
    if layout == "channels last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return values.mT.contiguous().mT
    if layout == "every other":
        wide = values.new_full((*values.shape[:-1], 2 * values.shape[-1]), torch.nan)
        wide[..., ::2] = values
        return wide[..., ::2]
    if layout == "expanded" and values.numel():
        return values[:, :, :1, :1].expand(values.shape)
    return values.contiguous()


def make(
    case: Case, channels: int, scale: float, *, odd: Sequence[float] = (), salt: int = 0
) -> Tensor:
    """Make one tensor of a case, in float64; a wild case has some extreme values."""
    generator = torch.Generator().manual_seed(case.seed + salt)
    shape = (case.batch, channels, case.height, case.width)
    values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    if case.wild and odd:
        where = torch.rand(shape, generator=generator) < 0.1
        which = torch.randint(len(odd), shape, generator=generator)
        values = torch.where(where, torch.tensor(odd, dtype=values.dtype)[which], values)
    return values


Both = Callable[[Case], tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]]


def _warp(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    mode: Any = list(MODES)[case.option % len(MODES)]
    padding: Any = list(PADDINGS)[case.option // len(MODES) % len(PADDINGS)]

    def fast(image: Tensor, flow: Tensor) -> Tensor:
        result, valid = warp(image, flow, mode=mode, padding=padding, mask=True)
        return torch.cat([result, valid.to(result)], 1)

    def slow(image: Tensor, flow: Tensor) -> Tensor:
        result, valid = warp_reference(image, flow, mode=mode, padding=padding)
        return torch.cat([result, valid.to(result)], 1)

    image = make(case, case.channels, 1.0, odd=NO_NUMBERS)
    return fast, slow, [image, make(case, 2, 4.0, odd=FAR, salt=1)]


def _splat(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    image = make(case, case.channels, 1.0, odd=NO_NUMBERS)
    return splat, splat_reference, [image, make(case, 2, 4.0, odd=FAR, salt=1)]


def _correlation(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    radius, dilation = case.option % 4, 1 + case.option // 4 % 3
    features = [make(case, case.channels, 1.0, odd=NO_NUMBERS, salt=salt) for salt in (0, 1)]
    return (
        lambda a, b: correlation(a, b, radius, dilation),
        lambda a, b: correlation_reference(a, b, radius, dilation),
        features,
    )


def _census(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    radius = 1 + case.option % 3
    # Far apart or equal: where grey values differ by rounding alone, signs may too.
    # Of an infinite difference the kernel has the sign, and the reference, inf / inf, NaN.
    image = make(case, case.channels, 0.3, odd=(torch.nan,))
    return lambda x: census(x, radius), lambda x: census_reference(x, radius), [image]


def _distance(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    radius = 1 + case.option % 3
    images = [make(case, case.channels, 0.3, odd=NO_NUMBERS, salt=salt) for salt in (0, 1)]
    return (
        lambda a, b: census_distance(a, b, radius),
        lambda a, b: census_distance_reference(a, b, radius),
        images,
    )


def _equations(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    features = [make(case, case.channels, 1.0, salt=salt) for salt in (0, 1)]
    flows = [make(case, 2, 1.0, salt=salt) for salt in (2, 3)]
    return (  # with less of either, rounding counts a hundredfold where residuals are near 0
        functools.partial(normal_equations, zeta=0.1, epsilon=0.1),
        functools.partial(normal_equations_reference, zeta=0.1, epsilon=0.1),
        [*features, *flows, make(case, 1, 1.0, salt=4).abs()],
    )


def _smoothness(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    return (
        functools.partial(smoothness_weights, epsilon=1e-2),
        functools.partial(smoothness_weights_reference, epsilon=1e-2),
        [make(case, 2, 1.0), make(case, 2, 1.0, salt=1).abs()],
    )


def _relax(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    a, b, c = make(case, 3, 1.0).chunk(3, 1)
    matrix = [a * a + c * c + 0.1, a * b, b * b + c * c + 0.1]  # with no eigenvalue near 0
    equations = torch.cat([*matrix, make(case, 2, 1.0, salt=1)], 1)
    weights = make(case, 2, 1.0, salt=2).abs() + 0.1
    return (
        functools.partial(relax, sweeps=case.option % 5),
        functools.partial(relax_reference, sweeps=case.option % 5),
        [equations, weights, make(case, 2, 4.0, salt=3)],
    )


def _describe(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    def each(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        scale = 0.75 * TOLERANCE[torch.float32]  # of whole numbers, one step is tolerated
        return lambda grey: scale * torch.stack([function(one[None]) for one in grey]).to(grey)

    return each(describe), each(describe_reference), [make(case, 1, 0.3)]


def _match(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    x, y = torch.meshgrid(torch.arange(case.width), torch.arange(case.height), indexing="xy")
    here = torch.stack([x, y])
    last = torch.tensor([case.width, case.height]).view(2, 1, 1) - 1

    def called(function: Callable[..., Any]) -> Callable[..., Tensor]:
        def call(features1: Tensor, features2: Tensor, wishes: Tensor) -> Tensor:
            results = []
            for one, two, wish in zip(features1, features2, wishes, strict=True):
                inside = (here + wish.int()).clamp_min(0).minimum(last) - here
                rows = [t.permute(1, 2, 0) for t in (one.byte(), two.byte(), inside.int())]
                found, cost = function(*rows, radius=case.option % 6, round=case.option)
                results.append(torch.cat([found, cost[..., None]], -1))
            return torch.stack(results).to(features1)

        return call

    features = [make(case, case.channels, 60.0, salt=salt).abs().clamp_max(255) for salt in (0, 1)]
    wishes = make(case, 2, 5.0, salt=2)
    return called(match_round), called(match_round_reference), [*features, wishes]


def _draw(case: Case) -> tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]:
    how: dict[str, Any] = {
        "temperature": (0.5, 1.0, 2.0)[case.option % 3],
        "top_k": (0, 1, 5)[case.option // 3 % 3],
        # 0.618: a share that no number of equally likely tokens has.
        "top_p": (1.0, 0.618)[case.option // 9 % 2],
    }

    def called(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(logits: Tensor, wishes: Tensor) -> Tensor:
            rows = logits.flatten(2).flatten(0, 1)
            draws = torch.special.ndtr(wishes[..., 0, 0]).flatten()
            return _missed(function(rows, draws, **how), rows, draws, **how).to(logits)

        return call

    values = [
        make(case, case.channels, 2.0),
        make(case, case.channels, 1.0, salt=1),
    ]
    return called(draw_tokens), called(draw_tokens_reference), values


def _missed(
    tokens: Tensor, rows: Tensor, draws: Tensor, temperature: float, top_k: int, top_p: float
) -> Tensor:
    """Return how far tokens lie beside where draws fell, as a probability: 0 up to rounding.

    Tokens themselves cannot be compared, as rounding decides between two where a draw falls.
    """
    likely = (rows.double() / temperature).softmax(1)
    falling = likely.sort(1, descending=True).values[:, : top_k or None]
    reached = falling.cumsum(1)
    left = (reached - falling < top_p * reached[:, -1:]) * falling
    target = draws * left.sum(1)
    # Of those that are as likely as the token, to rounding, any may come first.
    least, most = ((1 + off) * likely.gather(1, tokens[:, None]) for off in (-1e-5, 1e-5))
    before, after = ((likely * (likely > bound)).sum(1) for bound in (most, least))
    return torch.maximum(before - target, target - after).clamp_min(0)


OPERATORS: dict[str, Both] = {
    "warp": _warp,
    "splat": _splat,
    "correlation": _correlation,
    "census": _census,
    "census_distance": _distance,
    "normal_equations": _equations,
    "smoothness_weights": _smoothness,
    "relax": _relax,
    "describe": _describe,
    "match_round": _match,
    "draw_tokens": _draw,
}
FITTING = frozenset(list(OPERATORS)[5:])  # single precision, without gradients


def compare(case: Case) -> str | None:
    """Run a case; return its fault, or None."""
    fast, slow, values = OPERATORS[case.operator](case)
    inputs = [lay(value.to(case.dtype), case.layout) for value in values]
    if case.operator in ("warp", "splat"):  # flow stays in fp32 for half-precision images
        place = torch.float64 if case.dtype == torch.float64 else torch.float32
        inputs[1] = lay(values[1].to(place), case.layout)
    # The reference sees the same rounded inputs, in float64.
    exact = [tensor.detach().double() for tensor in inputs]
    differentiable = case.operator not in FITTING and not case.wild
    for tensor in (*inputs, *exact):
        tensor.requires_grad_(differentiable)
    try:
        got, wanted = fast(*inputs), slow(*exact)
    except (RuntimeError, ValueError, TypeError) as fault:
        return f"raises {type(fault).__name__}: {fault}"
    if got.shape != wanted.shape or got.dtype != case.dtype:
        return f"is {tuple(got.shape)} {got.dtype}, not {tuple(wanted.shape)} {case.dtype}"
    if problem := _differ(got, wanted, TOLERANCE[case.dtype]):
        return f"result {problem}"
    if not torch.equal(fast(*inputs).nan_to_num(), got.nan_to_num()):
        return "gives other bits the second time"
    # Positions in half a pixel decide which neighbours count: their derivative jumps there.
    if not differentiable or not got.numel() or case.dtype not in (torch.float64, torch.float32):
        return None
    weight = make(case, got.shape[1], 1.0, salt=2).to(got.dtype)
    found = torch.autograd.grad(got, inputs, weight, materialize_grads=True)
    known = torch.autograd.grad(wanted, exact, weight.double(), materialize_grads=True)
    for number, (one, other) in enumerate(zip(found, known, strict=True)):
        if problem := _differ(one, other, 20 * TOLERANCE[case.dtype]):
            return f"gradient {number} {problem}"
    return None


def _differ(got: Tensor, wanted: Tensor, tolerance: float) -> str | None:
    if not got.numel():
        return None
    # Infinities must have the same sign; NaN equals NaN.
    odd = ~wanted.isfinite()
    if not torch.equal(~got.isfinite(), odd):
        return "is not finite, or finite, where it should be otherwise"
    if not torch.equal(
        got[odd].double().nan_to_num(nan=2, posinf=1, neginf=-1),
        wanted[odd].nan_to_num(nan=2, posinf=1, neginf=-1),
    ):
        return "is infinite where it should be NaN, or of another sign"
    known = wanted[~odd]
    if not known.numel():
        return None
    error = (got[~odd].double() - known).abs().max().item()
    scale = max(known.abs().max().item(), 1.0)
    return f"differs by {error:.3g}" if error > tolerance * scale else None


def shrink(case: Case) -> Case:
    """Simplify a case as long as it fails."""
    for simpler in smaller(case):
        if compare(simpler):
            return shrink(simpler)
    return case


def main() -> int:
    """Run random cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    counts: Counter[str] = Counter()
    smallest: Case | None = None
    faults, started = 0, time.perf_counter()
    for _ in range(options.count):
        case = draw(rng)
        counts[case.operator] += 1
        if compare(case):
            faults += 1
            if smallest is None or case.size < smallest.size:
                smallest = case
    seconds = round(time.perf_counter() - started, 1)
    if smallest is not None:
        smallest = shrink(smallest)
        print(f"{smallest}: {compare(smallest)}")
    print(json.dumps({"cases": counts, "seed": options.seed, "faults": faults, "seconds": seconds}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
