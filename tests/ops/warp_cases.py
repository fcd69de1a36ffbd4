"""Images, flows and comparisons for the tests of ``warp``."""

import torch

from flowwarp.ops.warping import warp, warp_reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_image(*shape, dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def random_flow(batch, height, width, scale=4.0, dtype=torch.float32, seed=1):
    flow = torch.randn(batch, 2, height, width, generator=seeded(seed), dtype=torch.float64)
    return (flow * scale).to(dtype)


def uniform_flow(u, v, height, width, dtype=torch.float32):
    return torch.tensor([u, v], dtype=dtype).view(1, 2, 1, 1).expand(1, 2, height, width)


def gradients(image, flow, grad_out, **options):
    image, flow = image.detach().requires_grad_(), flow.detach().requires_grad_()
    out = warp(image, flow, **options)
    return torch.autograd.grad(out, (image, flow), grad_out)


def reference_gradients(image, flow, grad_out, **options):
    image = image.double().detach().requires_grad_()
    flow = flow.double().detach().requires_grad_()
    out, _ = warp_reference(image, flow, **options)
    return torch.autograd.grad(out, (image, flow), grad_out.double(), materialize_grads=True)


def assert_relative(actual, expected, tolerance):
    scale = expected.abs().max().clamp_min(1.0)
    assert ((actual.double() - expected).abs().max() / scale).item() <= tolerance
