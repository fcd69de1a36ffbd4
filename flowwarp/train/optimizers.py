"""The optimiser: AdamW for all parameters, or Muon for the matrices that a trainer names.

Muon (Jordan et al., 2024; Liu et al., "Muon is Scalable for LLM Training", 2025) makes the update
of a matrix equally large in all directions, so that directions with rare gradients are learned as
well. It is meant for matrices between hidden layers; embeddings and heads stay with AdamW. The
kernels of a convolution (O, I, h, w) are such a matrix too, (O, I h w).
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
# Coefficients of the Newton-Schulz iteration, tuned by Jordan et al. for a steep slope at 0.
_QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# The state of each optimiser per parameter.
_STATE_KEYS = {"AdamW": ("step", "exp_avg", "exp_avg_sq"), "Muon": ("momentum_buffer",)}


@final
class Optimizer:
    """Updates all trainable parameters of a network.

    Args:
        model: the network.
        matrices: names of its parts whose matrices and convolution kernels Muon updates.
        muon: their learning rate as a fraction of AdamW's; 0 for AdamW everywhere. Updates are
            scaled so that at 1 they are about as large as AdamW's.
        beta2: decay of AdamW's average of squared gradients.
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
        as_matrices = {
            name: _matrix(parameter, parameter)
            for name, parameter in self.named.items()
            if parameter.ndim in (2, 4) and name.split(".")[0] in chosen
        }
        others = [parameter for name, parameter in self.named.items() if name not in as_matrices]
        # The tensor that an optimiser updates: the parameter itself, or a view of it as a matrix.
        self.updated: dict[str, Tensor] = self.named | as_matrices
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.ndim >= 2]},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, betas=(0.9, beta2), weight_decay=weight_decay)
        ]
        if as_matrices:
            self.parts.append(Muon(list(as_matrices.values()), weight_decay))

    def step(self, rate: float) -> None:
        """Update the parameters by their gradients; ``rate`` is AdamW's learning rate."""
        for name, parameter in self.named.items():
            if self.updated[name] is not parameter and parameter.grad is not None:
                self.updated[name].grad = _matrix(parameter.grad, parameter)
        for part, scale in zip(self.parts, (1.0, self.muon), strict=False):
            for group in part.param_groups:
                group["lr"] = scale * rate
            part.step()

    def zero_grad(self) -> None:
        """Remove the gradients."""
        for name, parameter in self.named.items():
            parameter.grad = self.updated[name].grad = None

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the state of each parameter as ``PARAMETER.KEY`` and a tensor."""
        for name, tensor in self.updated.items():
            for part in self.parts:
                for key, value in part.state.get(tensor, {}).items():
                    yield f"{name}.{key}", value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that :meth:`state` gave; parameters without one start from nothing."""
        names = {id(tensor): name for name, tensor in self.updated.items()}
        for part in self.parts:
            keys = _STATE_KEYS[type(part).__name__]
            order = [p for group in part.param_groups for p in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for index, updated in enumerate(order):
                prefix = f"{names[id(updated)]}."
                found = {key: tensors[prefix + key] for key in keys if prefix + key in tensors}
                if found:
                    state[index] = {  # a scalar (AdamW's step count) is not sharded
                        key: own_part(tensor, like=updated) if tensor.ndim else tensor.clone()
                        for key, tensor in found.items()
                    }
            if state:
                settings = part.state_dict()["param_groups"]
                part.load_state_dict({"state": state, "param_groups": settings})


@final
class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum; updates have the root mean square of AdamW's.

    The same as ``torch.optim.Muon`` with ``match_rms_adamw`` except for the precision: torch's
    multiplies in bfloat16 on every machine. Where a CPU has no bfloat16 instructions, that takes 19
    to 27 times as long as float32, for a transformer longer than the rest of a step.

    Args:
        matrices: the matrices to update.
        weight_decay: the fraction of them that each step subtracts, times the rate.
    """

    def __init__(self, matrices: Sequence[Tensor], weight_decay: float) -> None:
        super().__init__(matrices, {"lr": 1e-3, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the matrices that have gradients."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix.grad)
                momentum = state["momentum_buffer"].lerp_(matrix.grad, 1 - _MOMENTUM)
                step = _orthogonalise(matrix.grad.lerp(momentum, _MOMENTUM))  # Nesterov
                # An orthogonal (m, n) matrix has a root mean square of 1 / sqrt(max(m, n)), and
                # AdamW's updates one of about 0.2 (Liu et al., 2025, section 2.2).
                size = 0.2 * math.sqrt(max(matrix.shape))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(step, alpha=-group["lr"] * size)


def _orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with the same singular vectors and singular values near 1.

    A few Newton-Schulz iterations bring all but the smallest singular values to between 0.7 and 1.2
    (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(fast_dtype(matrix.device))
    x = x / x.norm().clamp(min=1e-7)  # singular values of at most 1: the iteration converges
    linear, cubic, quintic = _QUINTIC
    for _ in range(_ITERATIONS):  # each singular value s becomes a s + b s^3 + c s^5
        gram = x @ x.T  # of the shorter side
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), x, beta=linear)
    return x.T if tall else x


def _matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a matrix as it is, and kernels (O, I, h, w) as a matrix (O, I h w).

    Columns have the order in which those of ``like`` lie in memory, so that the result is a view if
    ``tensor`` is ``like``. The order of columns makes no difference to Muon.
    """
    if tensor.ndim == 2:
        return tensor
    if like.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.detach().reshape(len(tensor), -1)
