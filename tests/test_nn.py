"""The check of batch invariance, on models that are batch-invariant and on models that are not."""

import math

import pytest
import torch
from torch import nn

from flowwarp.nn import check_batch_invariance, measure_batch_dependence


def example(*shape):
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


LEAKS = {
    "batch norm": nn.BatchNorm2d(8),
    "batch norm without parameters": nn.BatchNorm2d(8, affine=False),
    "mean of all": lambda x: x - x.mean(),
    "mean over the batch": lambda x: x - x.mean(0, keepdim=True),
    "softmax over the batch": lambda x: x.softmax(0),
    "largest of all": lambda x: x / x.amax(),
    "sorted batch": lambda x: x.sort(0).values,
    "neighbour": lambda x: x + 1e-9 * x.roll(1, 0),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_dependence_on_the_batch_is_found(name):
    with pytest.raises(ValueError, match="other neighbours change an example by"):
        check_batch_invariance(LEAKS[name], example(8, 4, 4))


@pytest.mark.parametrize(
    "model", [nn.GroupNorm(4, 8), nn.InstanceNorm2d(8), nn.LayerNorm([8, 4, 4]), nn.Identity()]
)
def test_norms_of_one_example_are_batch_invariant(model):
    assert measure_batch_dependence(model, example(8, 4, 4)).neighbours == 0


def test_batch_norm_depends_on_the_batch_in_training_only():
    model = nn.BatchNorm2d(8)
    assert measure_batch_dependence(model, example(8, 4, 4)).neighbours == math.inf
    fresh = nn.BatchNorm2d(8).eval()
    assert measure_batch_dependence(fresh, example(8, 4, 4)).neighbours == 0


def test_the_network_is_not_changed():
    model = nn.BatchNorm2d(8)
    measure_batch_dependence(model, example(8, 4, 4))
    assert int(model.num_batches_tracked) == 0
    assert torch.equal(model.running_mean, torch.zeros(8))


def test_a_dependence_on_the_index_is_found():
    def model(x):
        return x * (1 + torch.arange(len(x))[:, None])

    with pytest.raises(ValueError, match="alone and in a batch an example differs by"):
        check_batch_invariance(model, example(5))


def test_the_size_of_the_batch_by_hand():
    """The output is the example times 1 + 0.001 per neighbour, of which there are 7 at most."""

    def model(x):
        return x * (1 + 1e-3 * (len(x) - 1))

    found = measure_batch_dependence(model, torch.tensor([[3.0, 4.0]]))
    assert found.neighbours == 0
    assert found.size == pytest.approx(7e-3, rel=1e-4)
    assert check_batch_invariance(model, torch.tensor([[3.0, 4.0]]), tolerance=8e-3) == found
    with pytest.raises(ValueError, match=r"7\.0e-03, allowed 6e-03"):
        check_batch_invariance(model, torch.tensor([[3.0, 4.0]]), tolerance=6e-3)


def test_equal_infinities_do_not_differ():
    def masked(x):
        return torch.cat([torch.full_like(x, -math.inf), x], 1)

    row = torch.tensor([[3.0, 4.0]])
    found = measure_batch_dependence(lambda x: masked(x * (1 + 1e-3 * (len(x) - 1))), row)
    assert found.neighbours == 0
    assert found.size == pytest.approx(7e-3, rel=1e-4)  # of finite numbers, as without the mask
    leaks = measure_batch_dependence(lambda x: masked(x + 1e-4 * x.roll(1, 0)), row)
    assert leaks.neighbours == math.inf
    assert measure_batch_dependence(lambda x: x / (len(x) - 1), row).size == math.inf


def test_integers_differ_by_share():
    def model(ids):  # all but the first of four depend on the batch size
        return torch.cat([ids[:, :1], ids[:, 1:] + len(ids)], 1)

    assert measure_batch_dependence(model, torch.tensor([[5, 1, 2, 9]])).size == 0.75


def test_arguments_and_results_of_any_kind():
    def model(a, b):
        return {"sum": [a + b], "rest": (a.long(),), "word": "none"}

    for arguments in ((example(3), example(3)), {"a": example(3), "b": example(3)}):
        assert measure_batch_dependence(model, arguments) == measure_batch_dependence(
            nn.Identity(), example(3)
        )


def test_a_missing_batch_axis_is_an_error():
    with pytest.raises(ValueError, match=r"first axis is the example, \(1, ...\), got \(\)"):
        check_batch_invariance(lambda x: x.mean(), example(3))
    with pytest.raises(ValueError, match=r"example must hold tensors \(1, ...\), got \(2, 3\)"):
        check_batch_invariance(nn.Identity(), torch.rand(2, 3))
