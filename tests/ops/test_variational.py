"""Normal equations, relaxation and the weighted median against formulas, solvers and sorting."""

import pytest
import torch

from flowwarp.ops import native
from flowwarp.ops.variational import (
    normal_equations,
    normal_equations_reference,
    relax,
    relax_reference,
    smoothness_weights,
    smoothness_weights_reference,
    weighted_median,
    weighted_median_reference,
)

SIZES = [(1, 1), (1, 9), (8, 1), (7, 33), (40, 17)]
ROBUST = {"zeta": 1e-2, "epsilon": 1e-3}
WINDOW = {"radius": 3, "sigma_space": 2.0, "sigma_colour": 0.2}


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setenv("FLOWWARP_NATIVE", "off")
    native.native.cache_clear()
    yield
    monkeypatch.undo()
    native.native.cache_clear()


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def data_term(height, width, channels=3, batch=2):
    features = [rand(batch, channels, height, width, seed=k) for k in (0, 1)]
    start, flow = (rand(batch, 2, height, width, seed=k) for k in (3, 4))
    return *features, start, flow, rand(batch, 1, height, width, seed=5)


def system(height, width, batch=2):
    equations = normal_equations(*data_term(height, width, batch=batch), **ROBUST)
    return equations, rand(batch, 2, height, width, seed=6), rand(batch, 2, height, width, seed=7)


def dense(equations, weights):
    """The whole matrix and right-hand side, entry by entry; unknowns are u and v of each pixel."""
    height, width = equations.shape[-2:]
    a11, a12, a22, b1, b2 = equations[0].double()
    n = height * width
    matrix = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            k = y * width + x
            matrix[k, k], matrix[n + k, n + k] = a11[y, x], a22[y, x]
            matrix[k, n + k] = matrix[n + k, k] = a12[y, x]
    for y in range(height):
        for x in range(width):
            for axis, (dy, dx) in enumerate([(0, 1), (1, 0)]):
                if y + dy < height and x + dx < width:
                    i, j, w = y * width + x, (y + dy) * width + x + dx, weights[0, axis, y, x]
                    for p, q in [(i, j), (n + i, n + j)]:
                        matrix[p, p] += w
                        matrix[q, q] += w
                        matrix[p, q] -= w
                        matrix[q, p] -= w
    return matrix, torch.cat([b1.flatten(), b2.flatten()])


def test_equations_by_hand():
    ramp = 2 * torch.arange(7.0).expand(1, 1, 5, 7)
    zero, half = torch.zeros(1, 2, 5, 7), torch.full((1, 1, 5, 7), 0.5)
    # gx 2, gt 3: residual 3, norm 1 / (4 + 0), weight 0.5 * 0.25 / sqrt(9 / 4 + 4)
    weight = 0.5 * 0.25 / 2.5
    found = normal_equations(ramp, ramp + 3, zero, zero, half, zeta=0, epsilon=4)
    assert found[0, :, 2, 3].tolist() == pytest.approx([4 * weight, 0, 0, -6 * weight, 0])
    # At a start of (1, 0) the same residual means a flow of 1 - 3 / 2.
    moved = zero + torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    found = normal_equations(ramp, ramp + 3, moved, moved, half, zeta=0, epsilon=4)
    assert float(found[0, 3, 2, 3] / found[0, 0, 2, 3]) == pytest.approx(-0.5)


@pytest.mark.parametrize("size", SIZES)
def test_equations_as_the_reference(size):
    found = normal_equations(*data_term(*size), **ROBUST)
    wanted = normal_equations_reference(*data_term(*size), **ROBUST)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_weights_by_hand():
    flow = torch.zeros(1, 2, 2, 2)
    flow[0, :, 0, 1] = torch.tensor([3.0, 4.0])
    edges = torch.tensor([[1.0, 1.0], [2.0, 2.0]]).view(1, 2, 1, 2).expand(1, 2, 2, 2)
    found = smoothness_weights(flow, edges.contiguous(), epsilon=4)
    root = 29**0.5
    assert found[0, 0].flatten().tolist() == pytest.approx([1 / root, 0, 1 / 2, 0])
    assert found[0, 1].flatten().tolist() == pytest.approx([1, 2 / root, 0, 0])


@pytest.mark.parametrize("size", SIZES)
def test_weights_as_the_reference(size):
    flow, edges = 10 * rand(2, 2, *size), rand(2, 2, *size, seed=1)
    found = smoothness_weights(flow, edges, epsilon=0.1)
    wanted = smoothness_weights_reference(flow, edges, epsilon=0.1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_relaxation_reaches_the_solution():
    equations, weights, flow = system(6, 5, batch=1)
    matrix, right = dense(equations, weights)
    assert torch.equal(matrix, matrix.T)
    assert torch.linalg.eigvalsh(matrix).min() > 0
    wanted = torch.linalg.solve(matrix, right).view(1, 2, 6, 5).float()
    found = relax(equations, weights, flow, sweeps=200, omega=1.5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sweeps", [0, 1, 6])
def test_relaxation_as_the_reference(size, sweeps):
    found = relax(*system(*size), sweeps=sweeps, omega=1.7)
    wanted = relax_reference(*system(*size), sweeps=sweeps, omega=1.7)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_relaxation_without_data_or_weights_goes_to_zero():
    flow = rand(1, 2, 5, 20)
    nothing = torch.zeros(1, 5, 5, 20), torch.zeros(1, 2, 5, 20)
    found = relax(*nothing, flow, sweeps=3, omega=1.5)
    torch.testing.assert_close(found, (1 - 1.5) ** 3 * flow)
    torch.testing.assert_close(found, relax_reference(*nothing, flow, sweeps=3, omega=1.5))


def test_median_by_hand():
    flow = torch.tensor([1.0, 2.0, 9.0]).expand(1, 2, 1, 3)
    grey = torch.zeros(1, 1, 1, 3)
    wide = {"radius": 1, "sigma_space": 1e6, "sigma_colour": 1.0}
    known = torch.ones(1, 1, 1, 3)
    assert weighted_median(flow, grey, known, **wide)[0, 0, 0].tolist() == [1, 2, 2]
    heavy = torch.tensor([1.0, 1.0, 3.0]).view(1, 1, 1, 3)
    assert weighted_median(flow, grey, heavy, **wide)[0, 0, 0].tolist() == [1, 9, 9]
    assert torch.equal(weighted_median(flow, grey, 0 * known, **wide), flow)


def test_median_stays_on_its_side_of_an_edge():
    image = torch.zeros(1, 3, 12, 20)
    image[..., 10:] = 1
    flow = torch.zeros(1, 2, 12, 20)
    flow[..., 10:] = 5
    noisy = flow.clone()
    noisy[..., 6, 9] = 77
    found = weighted_median(noisy, image, torch.ones(1, 1, 12, 20), **WINDOW)
    assert torch.equal(found, flow)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_median_as_by_sorting(size, channels):
    flow = 10 * rand(2, 2, *size)
    guide, known = rand(2, channels, *size, seed=1), rand(2, 1, *size, seed=2)
    found = weighted_median(flow, guide, known, **WINDOW)
    wanted = weighted_median_reference(flow, guide, known, **WINDOW)
    assert float(((found - wanted).abs() > 2e-3).float().mean()) < 0.01  # halves that tie


@pytest.mark.parametrize("radius", [1, 7])
def test_median_of_steps(radius):
    # Few distinct values: then the result is the median itself.
    flow = torch.randint(0, 4, (1, 2, 30, 30), generator=torch.Generator().manual_seed(0)).float()
    guide, known = rand(1, 1, 30, 30), torch.ones(1, 1, 30, 30)
    window = {"radius": radius, "sigma_space": 3.0, "sigma_colour": 0.3}
    found = weighted_median(flow, guide, known, **window)
    wanted = weighted_median_reference(flow, guide, known, **window)
    assert float((found != wanted).float().mean()) < 0.01


def everything(size=(70, 45)):
    equations, edges, flow = system(*size)
    weights = smoothness_weights(flow, edges, epsilon=0.01)
    median = weighted_median(flow, rand(2, 3, *size), rand(2, 1, *size, seed=8), **WINDOW)
    return equations, relax(equations, weights, flow, sweeps=7), median


def test_same_bits_for_any_number_of_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(everything())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)


def test_same_bits_for_each_instruction_set(each_level):
    first, *others = each_level(everything)
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert torch.equal(one, same)


@pytest.mark.usefixtures("no_library")
def test_without_a_library():
    equations, weights, flow = system(9, 8)
    assert torch.equal(
        relax(equations, weights, flow, sweeps=2, omega=1.5),
        relax_reference(equations, weights, flow, sweeps=2, omega=1.5),
    )
    known = torch.ones(2, 1, 9, 8)
    assert torch.equal(
        weighted_median(flow, flow, known, **WINDOW),
        weighted_median_reference(flow, flow, known, **WINDOW),
    )


def test_wrong_shapes():
    equations, weights, flow = system(4, 5)
    with pytest.raises(ValueError, match="flow must be"):
        relax(equations, weights, flow[:, :1], sweeps=1)
    with pytest.raises(ValueError, match="weights must have"):
        relax(equations, weights[..., 1:], flow, sweeps=1)
    with pytest.raises(ValueError, match="equations must have 5 channels"):
        relax(equations[:, :1], weights, flow, sweeps=1)
    with pytest.raises(ValueError, match="weights must have 2 channels"):
        relax(equations, weights[:, :1], flow, sweeps=1)
    three, one = torch.rand(2, 3, 4, 5), torch.ones(2, 1, 4, 5)
    for name, given in (
        ("features2 must have 3", (three, one, flow, flow, one)),
        ("start must have 2", (three, three, one, flow, one)),
        ("confidence must have 1", (three, three, flow, flow, flow)),
    ):
        with pytest.raises(ValueError, match=name):
            normal_equations(*given, zeta=0.1, epsilon=0.1)
    with pytest.raises(ValueError, match="confidence must have 1"):
        weighted_median(flow, flow, flow, **WINDOW)
    with pytest.raises(ValueError, match="guide must have"):
        weighted_median(flow, flow[..., 1:], flow[:, :1], **WINDOW)
