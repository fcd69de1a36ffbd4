"""Tells a public op when only its torch reference serves: no kernel, or a derivative it lacks.

Found with torch 2.13, and tested in tests/ops/test_correlation.py:

* A ``torch.library.custom_op`` under ``torch.func.jvp`` or a ``forward_ad.dual_level`` returns its
  value with a tangent of zero (or none at all) and no error: there is no way to register a jvp.
* Under ``torch.func.grad`` (hence ``hessian``, per-sample gradients) it raises "must override the
  setup_context staticmethod"; under ``vmap`` alone its own rule serves.
* Both can be seen at the door. functorch keeps its transforms on a stack, readable in eager mode
  and while Dynamo traces; one ``Grad`` or ``Jvp`` anywhere in it is enough (the top one alone is
  not: ``hessian`` puts a ``Grad`` over a ``Jvp``). Plain forward AD has no stack, but
  ``unpack_dual`` finds the tangent of a dual tensor while a level is open.

So a door asks ``needs_reference`` and then calls the reference, which torch differentiates by
itself, in every mode. The formula for a backward asks again: the gradient handed to it may be a
dual tensor. Only a direct call of ``torch.ops.flowwarp.*`` goes round the doors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from flowwarp.ops import native, nvrtc

_transforms = torch._C._functorch
_DERIVATIVES = (_transforms.TransformType.Grad, _transforms.TransformType.Jvp)


def needs_reference(*tensors: Tensor) -> bool:
    """Return whether only the torch reference serves these tensors here."""
    if not has_kernels(tensors[0].device) or _under_derivative():
        return True
    # Not hidden from Dynamo, which so guards on the level: a graph compiled outside forward AD is
    # compiled anew inside.
    if forward_ad._current_level < 0:
        return False
    if torch.compiler.is_compiling():  # fake tensors carry no tangent
        return True
    return any(_has_tangent(tensor) for tensor in tensors)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors by which a reference can be differentiated once more within a backward.

    What has a history, as a gradient that hangs on the image has in a second backward, stays in it
    as a view: by the tensor itself autograd would walk through its history too, and count it twice.
    """
    return [t.view_as(t) if t.requires_grad else t.detach().requires_grad_() for t in tensors]


def has_kernels(device: torch.device) -> bool:
    """Return whether the operators of this package can run on a device."""
    if device.type == "cpu":
        return native.native().library is not None
    return device.type == "cuda" and nvrtc.serves(torch.empty(0, device=device))


def _under_derivative() -> bool:
    stack = _transforms.get_interpreter_stack()
    return bool(stack) and any(layer.key() in _DERIVATIVES for layer in stack)


def _has_tangent(tensor: Tensor) -> bool:
    dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    return dual.tangent is not None


# What torch.compiler.assume_constant_result does, without importing all of Dynamo: what is loaded
# does not change, and the stack is read while tracing, when it is as in the traced code (Dynamo
# guards on it by itself).
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]
_under_derivative._dynamo_marked_constant = True  # type: ignore[attr-defined]
