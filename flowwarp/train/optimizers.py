"""What moves the parameters of a network: AdamW, and Muon where a trainer names matrices for it.

Muon (Jordan et al., 2024; Liu et al., "Muon is Scalable for LLM Training", 2025) gives each step of
a matrix equal size in all directions, so that what few gradients tell of is learned as well. That
is for matrices between hidden numbers: rows of tables and heads stay with AdamW. The kernels of a
convolution are such a matrix too, from what is under the window to the channels of one place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from flowwarp.precision import fast_dtype
from flowwarp.train.processes import own_part

_MOMENTUM = 0.95  # of Muon
_QUINTIC = 3.4445, -4.7750, 2.0315  # what brings singular values of up to 1 near 1, and how often
_TIMES = 5
# What each remembers of a parameter.
_REMEMBERED = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum_buffer",)}


@final
class Optimizer:
    """One step at a time for all parameters of a network that are trained.

    Args:
        model: the network.
        matrices: names of its parts whose matrices, and kernels of convolutions, Muon moves.
        muon: their rate, as a part of that of AdamW; 0 for AdamW everywhere. Steps are scaled so
            that at 1 they are as large as AdamW's usually are.
        beta2: AdamW's memory for squared gradients.
        weight_decay: for matrices and kernels; never for biases, scales and norms.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Sequence[str],
        *,
        muon: float,
        beta2: float,
        weight_decay: float,
    ) -> None:
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.muon = muon
        chosen = matrices if muon else ()
        turned = {
            name: _matrix(parameter, parameter)
            for name, parameter in self.named.items()
            if parameter.ndim in (2, 4) and name.split(".")[0] in chosen
        }
        others = [parameter for name, parameter in self.named.items() if name not in turned]
        # What each optimiser is given for a parameter: itself, or the same numbers as a matrix.
        self.moved: dict[str, Tensor] = self.named | turned
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim >= 2]},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=(0.9, beta2), weight_decay=weight_decay)
        ]
        if turned:
            self.parts.append(Muon(list(turned.values()), weight_decay))

    def step(self, rate: float) -> None:
        """Move the parameters by their gradients, at this rate of AdamW."""
        for name, parameter in self.named.items():
            if self.moved[name] is not parameter and parameter.grad is not None:
                self.moved[name].grad = _matrix(parameter.grad, parameter)
        for part, scale in zip(self.parts, (1.0, self.muon), strict=False):
            for group in part.param_groups:
                group["lr"] = scale * rate
            part.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for name, parameter in self.named.items():
            parameter.grad = self.moved[name].grad = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what is remembered of each parameter, as ``PARAMETER.WHAT``."""
        for name, moved in self.moved.items():
            for part in self.parts:
                for key, value in part.state.get(moved, {}).items():
                    yield f"{name}.{key}", value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` gave; what was never remembered begins anew."""
        names = {id(moved): name for name, moved in self.moved.items()}
        for part in self.parts:
            keys = _REMEMBERED[type(part).__name__]
            order = [p for group in part.param_groups for p in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for index, moved in enumerate(order):
                prefix = f"{names[id(moved)]}."
                found = {key: tensors[prefix + key] for key in keys if prefix + key in tensors}
                if found:
                    state[index] = {  # a count is whole in every process
                        key: own_part(tensor, like=moved) if tensor.ndim else tensor.clone()
                        for key, tensor in found.items()
                    }
            if state:
                settings = part.state_dict()["param_groups"]
                part.load_state_dict({"state": state, "param_groups": settings})


@final
class Muon(torch.optim.Optimizer):
    """Steps of matrices that are as large in each direction, and as large as AdamW's in the mean.

    The same as ``torch.optim.Muon`` with ``match_rms_adamw``, but for the precision: that sums in
    bfloat16 everywhere, which takes 19 to 27 times as long as float32 where a processor has no such
    products, and of a transformer then longer than the rest of a step.

    Args:
        matrices: what to move.
        weight_decay: a part of them that goes at each step, times the rate.
    """

    def __init__(self, matrices: Sequence[Tensor], weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the matrices that have gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                kept = state["momentum_buffer"].lerp_(matrix.grad, 1 - _MOMENTUM)
                step = _orthogonalise(matrix.grad.lerp(kept, _MOMENTUM))
                size = 0.2 * math.sqrt(max(matrix.shape))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(step, alpha=-group["lr"] * size)


def _orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors, all of whose singular values are near 1.

    By a few Newton-Schulz steps, after which they are between 0.7 and 1.2 but for the smallest
    (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(fast_dtype(matrix.device))
    x = x / x.norm().clamp(min=1e-7)
    linear, cubic, quintic = _QUINTIC
    for _ in range(_TIMES):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.T if tall else x


def _matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a matrix as it is, and kernels (O, I, h, w) as a matrix (O, I h w).

    Columns are in the order in which those of ``like`` lie in memory, so that of ``like`` it is a
    view: their order is nothing to Muon.
    """
    if tensor.ndim == 2:
        return tensor
    if like.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.detach().reshape(len(tensor), -1)
