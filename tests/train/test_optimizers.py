"""Muon: against torch's, on the kernels of convolutions, and in a training."""

import copy
import math

import pytest
import torch
from torch import nn

import tiny
from flowwarp.train.optimizers import Muon, Optimizer
from tiny import run

LAYOUTS = (torch.contiguous_format, torch.channels_last)


class _Small(nn.Module):
    def __init__(self, size=3):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Conv2d(4, 6, size, padding=size // 2), nn.Conv2d(6, 5, 1))
        self.head = nn.Conv2d(5, 2, 3)

    def gradients(self, x):
        loss = self.head(self.inner(x)).square().sum()
        loss.backward()


def _optimizer(net, muon=0.5):
    return Optimizer(net, ("inner",), muon=muon, beta2=0.99, weight_decay=0.0)


@pytest.fixture
def x():
    return torch.randn(2, 4, 7, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_updates_of_kernels_have_equal_size_in_all_directions(x, layout):
    """As a matrix from what is under the window to the channels of a place."""
    net = _Small().to(memory_format=layout)
    optimizer = _optimizer(net)
    net.gradients(x)
    kernel = net.inner[0].weight
    before, gradient = kernel.detach().clone(), kernel.grad.clone()
    optimizer.step(1e-3)
    assert kernel.is_contiguous(memory_format=layout)
    size = 0.5 * 1e-3 * 0.2 * math.sqrt(4 * 9)
    moved = ((before - kernel) / size).detach().flatten(1)
    left, values, right = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    significant = values > 0.05 * values[0]
    along = (left.mT @ moved @ right.mT)[significant][:, significant]
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.3
    torch.testing.assert_close(along, along.diagonal().diag(), atol=0.1, rtol=0)


def test_the_memory_layout_of_kernels_changes_only_rounding(x):
    ends = []
    for layout in LAYOUTS:
        net = _Small().to(memory_format=layout)
        optimizer = _optimizer(net)
        for _ in range(3):
            optimizer.zero_grad()
            net.gradients(x)
            optimizer.step(1e-3)
        ends.append([parameter.detach() for parameter in net.parameters()])
    # Sums depend on the order of columns, most of all in bfloat16.
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)


def test_the_memory_layout_of_a_gradient_does_not_matter(x):
    nets = [_Small().to(memory_format=torch.channels_last) for _ in LAYOUTS]
    for net, layout in zip(nets, LAYOUTS, strict=True):
        optimizer = _optimizer(net)
        net.gradients(x)
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.grad = parameter.grad.contiguous(memory_format=layout)
        optimizer.step(1e-3)
    for one, two in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_kernels_outside_stay_with_adamw(x):
    net = _Small()
    optimizer = _optimizer(net)
    net.gradients(x)
    head, bias = net.head.weight, net.inner[0].bias
    before = head.detach().clone(), bias.detach().clone()
    optimizer.step(1e-3)
    for parameter, old in zip((head, bias), before, strict=True):
        step = 1e-3 * parameter.grad / (parameter.grad.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), old - step)


def test_without_muon_updates_are_adamws():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    twin = copy.deepcopy(net)
    optimizer = Optimizer(net, ("weight",), muon=0, beta2=0.5, weight_decay=0.1)
    groups = [{"params": [twin.weight]}, {"params": [twin.bias], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.5), weight_decay=0.1)
    for _ in range(3):
        for one, two in zip(net.parameters(), twin.parameters(), strict=True):
            one.grad = two.grad = torch.randn_like(one)
        optimizer.step(0.01)
        adamw.step()
    assert torch.equal(net.weight, twin.weight)
    assert torch.equal(net.bias, twin.bias)


def test_weights_of_muon_decay(x):
    net = _Small()
    optimizer = Optimizer(net, ("inner",), muon=0.5, beta2=0.99, weight_decay=0.1)
    kernel, bias = net.inner[0].weight, net.inner[0].bias
    before = kernel.detach().clone(), bias.detach().clone()
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing else moves them
    optimizer.step(0.2)
    torch.testing.assert_close(kernel.detach(), before[0] * (1 - 0.5 * 0.2 * 0.1))
    assert torch.equal(bias, before[1])


def test_loaded_state_is_a_copy(x):
    """So that two runs may go on from it."""
    net = _Small()
    optimizer = _optimizer(net)
    net.gradients(x)
    optimizer.step(1e-3)
    given = dict(optimizer.state())
    before = {name: tensor.clone() for name, tensor in given.items()}
    other = _optimizer(net)
    other.load(given)
    other.step(1e-3)
    assert before.keys() == given.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.items())


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_state_of_kernels_resumes_bit_for_bit(x, layout):
    net = _Small().to(memory_format=layout)
    optimizer = _optimizer(net)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model.gradients(x)
            optimizer.step(1e-3)

    steps(net, optimizer, 2)
    other = copy.deepcopy(net)
    state = {name: tensor.clone() for name, tensor in optimizer.state()}
    assert state["inner.0.weight.momentum_buffer"].shape == (6, 36)
    resumed = _optimizer(other)
    resumed.load(state)
    steps(net, optimizer, 2)
    steps(other, resumed, 2)
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_updates_equal_those_of_torch(monkeypatch, dtype):
    """Bit for bit in bfloat16, in which torch always sums; else but for its rounding."""
    monkeypatch.setattr("flowwarp.train.optimizers.fast_dtype", lambda _: dtype)
    generator = torch.Generator().manual_seed(2)
    begun = [torch.randn(shape, generator=generator) for shape in ((6, 9), (9, 6), (5, 5))]
    pairs = [[matrix.clone(), matrix.clone()] for matrix in begun]
    ours = Muon([one for one, _ in pairs], 0.1)
    theirs = torch.optim.Muon(
        [two for _, two in pairs], momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for rate in (0.02, 0.01, 0.03):
        for one, two in pairs:
            one.grad = two.grad = torch.randn(one.shape, generator=generator)
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for (one, two), before in zip(pairs, begun, strict=True):
        if dtype == torch.bfloat16:
            assert torch.equal(one, two)
        else:
            assert (one - two).norm() < 0.02 * (two - before).norm()


def test_gradients_of_kernels_are_removed(x):
    net = _Small()
    optimizer = _optimizer(net)
    net.gradients(x)
    optimizer.step(1e-3)
    optimizer.zero_grad()
    before = net.inner[0].weight.detach().clone()
    optimizer.step(1e-3)  # nothing to go by
    assert torch.equal(net.inner[0].weight, before)


def test_muon_steps_have_equal_size_in_all_directions(tmp_path):
    """One step: the nearest matrix to the gradient whose singular values are 1, about."""
    config = tiny.config(steps=1, weight_decay=0.0, clip=0.0, ema=0.0, muon=0.5)
    task = tiny.make(matrices=("first", "last"))
    first, bias = task.model.first.weight, task.model.first.bias
    before = first.detach().clone(), bias.detach().clone()
    loss = task.loss(task.model, task.batch(range(5)), 0)["loss"].mean()
    matrix, vector = torch.autograd.grad(loss, [first, bias])
    run(task, config, tmp_path)
    rate = 0.5 * config.learning_rate
    # As large as AdamW's steps, whose root mean square is 0.2 or so.
    moved = (before[0] - first) / (0.5 * rate * 0.2 * math.sqrt(max(first.shape)))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # Along each direction of the gradient, but for those that are lost in bfloat16.
    significant = values > 0.02 * values[0]
    assert values[significant].min() < 0.3 * values[0]
    along = (left.mT @ moved @ right.mT)[significant][:, significant]
    assert along.diagonal().min() > 0.6
    assert along.diagonal().max() < 1.3
    torch.testing.assert_close(along, along.diagonal().diag(), atol=0.05, rtol=0)
    torch.testing.assert_close(bias, before[1] - rate * vector / (vector.abs() + 1e-8))
