"""What moves the parameters of a network: AdamW, and Muon where a trainer names matrices for it.

Muon (Jordan et al., 2024; Liu et al., "Muon is Scalable for LLM Training", 2025) gives each step of
a matrix equal size in all directions, so that what few gradients tell of is learned as well. That
is for matrices between hidden numbers: rows of tables and heads stay with AdamW. The kernels of a
convolution are such a matrix too, from what is under the window to the channels of one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from flowwarp.errors import InputError
from flowwarp.train.processes import own_part

# The rate of Muon that presets use, as a part of AdamW's, where this torch has Muon.
MUON = 0.35 if hasattr(torch.optim, "Muon") else 0.0
_MOMENTUM = 0.95  # of Muon
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

    Raises:
        InputError: this torch is too old for Muon.
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
            if not hasattr(torch.optim, "Muon"):
                raise InputError("loop.muon", f"needs a newer torch than {torch.__version__}")
            self.parts.append(
                torch.optim.Muon(
                    list(turned.values()),
                    momentum=_MOMENTUM,
                    weight_decay=weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

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
