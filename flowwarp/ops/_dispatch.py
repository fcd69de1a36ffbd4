"""Chooses between a custom operator and its torch reference.

A public operator calls ``needs_reference`` first. The reference serves where there is no kernel,
and where a derivative is wanted that a custom operator cannot give. With torch 2.13, as
tests/ops/test_correlation.py checks:

* Under ``torch.func.jvp`` or in a ``forward_ad.dual_level``, a ``torch.library.custom_op`` returns
  its value with a tangent of zero (or none) and no error: there is no way to register a jvp.
* Under ``torch.func.grad`` (hence ``hessian``, per-sample gradients) it raises "must override the
  setup_context staticmethod". Under ``vmap`` alone its own vmap rule serves.

Both cases can be detected before the call. functorch keeps its transforms on a stack, which can be
read in eager mode and while Dynamo traces. One ``Grad`` or ``Jvp`` anywhere in it is enough; the
top one alone is not, as ``hessian`` puts a ``Grad`` over a ``Jvp``. Plain forward-mode AD has no
stack, but ``unpack_dual`` finds the tangent of a dual tensor while a level is open.

The backward formulas call ``needs_reference`` again, because the gradient that they receive may be
a dual tensor. A direct call of ``torch.ops.flowwarp.*`` is not checked.
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
    """Return whether the torch reference must be used for these tensors, of any shapes."""
    if not has_kernels(tensors[0].device) or _under_derivative():
        return True
    # Dynamo sees this line and guards on the level: a graph that was compiled outside forward-mode
    # AD is compiled again inside.
    if forward_ad._current_level < 0:
        return False
    if torch.compiler.is_compiling():  # fake tensors carry no tangent
        return True
    return any(_has_tangent(tensor) for tensor in tensors)


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors for which a reference can be differentiated inside a backward formula.

    A tensor that requires a gradient is replaced by a view, which stays in its graph. With the
    tensor itself, ``torch.autograd.grad`` would also go through the history of the tensor and count
    that part twice. Other tensors are replaced by leaves that require a gradient.
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


# This is what torch.compiler.assume_constant_result does, without importing all of Dynamo. Both
# results are constant while Dynamo traces: the libraries that are loaded do not change, and the
# stack is that of the traced code (Dynamo itself guards on it).
has_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]
_under_derivative._dynamo_marked_constant = True  # type: ignore[attr-defined]
