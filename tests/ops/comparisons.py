"""Comparisons that the tests of several operators share."""

import torch


def assert_same_gradients(got, wanted, inputs):
    """Check that the sums of two results have the same gradients, bit for bit."""
    for mine, theirs in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(wanted.sum(), inputs),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
