"""The inner loops of variational refinement, for ``pipelines/flow/refine.py``.

The energy of a flow field ``f = (u, v)`` is a sum over pixels, constraints k and neighbours

    sum_k c psi(n_k (gt_k + gx_k (u - u0) + gy_k (v - v0))^2) + sum over neighbours w |f - f'|^2

linearised at ``f0``, with ``psi(s) = 2 sqrt(s + epsilon)`` (Charbonnier). Each residual is divided
by the length of its gradient, ``n_k = 1 / (gx_k^2 + gy_k^2 + zeta)``, so that it is a distance in
pixels (Zimmer et al., "Optic Flow in Harmony", IJCV 2011, equation 21). With ``psi'`` held fixed,
the energy is quadratic: :func:`normal_equations` returns its 2 x 2 blocks, :func:`relax` lowers it,
and :func:`weighted_median` removes outliers between linearisations (Sun et al., "Secrets of Optical
Flow Estimation and Their Principles", CVPR 2010).

All functions compute in float32 without gradients: a C++ kernel on the CPU, otherwise plain torch
(``*_reference``).
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from flowwarp.ops import native
from flowwarp.tensors import check_flow, check_same_grid


def normal_equations(
    features1: Tensor,
    features2: Tensor,
    start: Tensor,
    flow: Tensor,
    confidence: Tensor,
    *,
    zeta: float,
    epsilon: float,
) -> Tensor:
    """Return the data term's normal equations at ``flow``, linearised at ``start``.

    ``gx`` and ``gy`` are five-point derivatives of the mean of both frames' features (Brox et al.,
    "High Accuracy Optical Flow Estimation Based on a Theory for Warping", ECCV 2004, section 4;
    the mean as by Sun et al.), ``gt`` is their difference.

    Args:
        features1: (B, K, H, W) float32, features of frame 1 that are assumed constant.
        features2: (B, K, H, W) float32, features of frame 2, warped by ``start``.
        start: (B, 2, H, W) float32, pixels; where the energy is linearised.
        flow: (B, 2, H, W) float32, pixels; where the robust weights are computed.
        confidence: (B, 1, H, W) float32, at least 0; the weight of each pixel's data term.
        zeta: added to squared gradients; smaller gradients count as noise.
        epsilon: squared distance in pixels below which the penalty is quadratic.

    Returns:
        (B, 5, H, W): a11, a12, a22, b1, b2 of ``[[a11, a12], [a12, a22]] flow = (b1, b2)``.

    Raises:
        ValueError: shapes do not fit.
    """
    tensors = _floats(features1, features2, start, flow, confidence)
    check_flow(tensors[3])
    check_same_grid(features1, "features1", flow)
    check_same_grid(features2, "features2", flow, features1.shape[1])
    check_same_grid(start, "start", flow, 2)
    check_same_grid(confidence, "confidence", flow, 1)
    library = native.library_for(*tensors)
    if library is None:
        return normal_equations_reference(*tensors, zeta=zeta, epsilon=epsilon)
    batch, channels, height, width = features1.shape
    out = flow.new_empty((batch, 5, height, width))
    library.fw_normal_equations(
        ctypes.c_int64(batch),
        channels,
        height,
        width,
        *map(native.pointer, tensors),
        ctypes.c_float(zeta),
        ctypes.c_float(epsilon),
        native.pointer(out),
    )
    return out


def normal_equations_reference(
    features1: Tensor,
    features2: Tensor,
    start: Tensor,
    flow: Tensor,
    confidence: Tensor,
    *,
    zeta: float,
    epsilon: float,
) -> Tensor:
    """The same in plain torch; arguments and result as in :func:`normal_equations`."""
    mean, gt = (features1 + features2) / 2, features2 - features1  # (B, K, H, W)
    gx = derivative(mean)
    gy = derivative(mean.transpose(-1, -2)).transpose(-1, -2)
    du, dv = (flow - start).chunk(2, dim=1)  # (B, 1, H, W) each
    residual = gt + gx * du + gy * dv
    norm = 1 / (gx.square() + gy.square() + zeta)  # n_k
    # c n_k psi'(n_k r^2), with psi'(s) = 1 / sqrt(s + epsilon).
    weight = confidence * norm / (norm * residual.square() + epsilon).sqrt()
    # A least-squares problem for (du, dv), summed over the K constraints.
    terms = (gx * gx, gx * gy, gy * gy, -gx * gt, -gy * gt)
    a11, a12, a22, b1, b2 = ((weight * term).sum(1, keepdim=True) for term in terms)
    # For the flow itself instead of its increment: A (start + d) = b + A start.
    u, v = start.chunk(2, dim=1)
    b1, b2 = b1 + a11 * u + a12 * v, b2 + a12 * u + a22 * v
    return torch.cat([a11, a12, a22, b1, b2], dim=1)


def derivative(image: Tensor) -> Tensor:
    """Return the derivative of (B, C, H, W) along x, by five points; the border is repeated.

    The kernel ``(1, -8, 0, 8, -1) / 12`` is exact for polynomials of degree 4.
    """
    p = F.pad(image, (2, 2, 0, 0), mode="replicate")
    return (8 * (p[..., 3:-1] - p[..., 1:-3]) - (p[..., 4:] - p[..., :-4])) / 12


def smoothness_weights(flow: Tensor, edges: Tensor, *, epsilon: float) -> Tensor:
    """Return the weights of the differences between neighbours at the present flow.

    ``edges / sqrt(|f - f'|^2 + epsilon)``, the derivative of a Charbonnier penalty on the length
    of the difference in both components (Brox et al., equation 7). With these weights the robust
    smoothness term is quadratic.

    Args:
        flow: (B, 2, H, W) float32, pixels.
        edges: (B, 2, H, W) float32, at least 0: the smoothness between the pixel and the one on its
            right (channel 0) or below (channel 1).
        epsilon: squared difference in pixels below which the penalty is quadratic.

    Returns:
        (B, 2, H, W), for :func:`relax`; 0 where the neighbour is outside.

    Raises:
        ValueError: shapes do not fit.
    """
    flow, edges = _floats(flow, edges)
    check_flow(flow)
    check_flow(edges, "edges", like=flow)
    library = native.library_for(flow, edges)
    if library is None:
        return smoothness_weights_reference(flow, edges, epsilon=epsilon)
    batch, _, height, width = flow.shape
    out = torch.empty_like(flow)
    library.fw_smoothness_weights(
        ctypes.c_int64(batch),
        height,
        width,
        *map(native.pointer, (flow, edges)),
        ctypes.c_float(epsilon),
        native.pointer(out),
    )
    return out


def smoothness_weights_reference(flow: Tensor, edges: Tensor, *, epsilon: float) -> Tensor:
    """The same in plain torch; arguments and result as in :func:`smoothness_weights`."""
    squared_x = (flow[..., 1:] - flow[..., :-1]).square().sum(1, keepdim=True)  # (B, 1, H, W-1)
    squared_y = (flow[..., 1:, :] - flow[..., :-1, :]).square().sum(1, keepdim=True)
    right = F.pad(edges[:, :1, :, :-1] / (squared_x + epsilon).sqrt(), (0, 1))
    below = F.pad(edges[:, 1:, :-1] / (squared_y + epsilon).sqrt(), (0, 0, 0, 1))
    return torch.cat([right, below], dim=1)


def relax(
    equations: Tensor, weights: Tensor, flow: Tensor, *, sweeps: int, omega: float = 1.8
) -> Tensor:
    """Lower the quadratic energy by red-black successive over-relaxation of 2 x 2 blocks.

    Each sweep solves the 2 x 2 equation of every pixel with its neighbours held fixed,
    ``(A + sum w I) f = b + sum w f'``, first where ``x + y`` is even, then where it is odd, and
    steps ``omega`` times as far (Young, "Iterative Solution of Large Linear Systems", 1971).
    Pixels of one colour are not neighbours, so that they can be updated in any order.

    Args:
        equations: (B, 5, H, W) float32: a11, a12, a22, b1, b2 for the flow itself.
        weights: (B, 2, H, W) float32, at least 0: between the pixel and the one on its right, and
            the one below. Weights to pixels outside are not read.
        flow: (B, 2, H, W) float32; the start.
        sweeps: at least 0.
        omega: in (0, 2); 1 is Gauss-Seidel.

    Returns:
        (B, 2, H, W) float32; the same bits for any number of threads.

    Raises:
        ValueError: shapes do not fit.
    """
    equations, weights, flow = _floats(equations, weights, flow)
    check_flow(flow)
    check_same_grid(equations, "equations", flow, 5)
    check_same_grid(weights, "weights", flow, 2)
    library = native.library_for(equations, weights, flow)
    if library is None:
        return relax_reference(equations, weights, flow, sweeps=sweeps, omega=omega)
    batch, _, height, width = flow.shape
    out = torch.empty_like(flow)
    library.fw_relax(
        ctypes.c_int64(batch),
        height,
        width,
        *map(native.pointer, (equations, weights, flow)),
        sweeps,
        ctypes.c_float(omega),
        native.pointer(out),
    )
    return out


def relax_reference(
    equations: Tensor, weights: Tensor, flow: Tensor, *, sweeps: int, omega: float = 1.8
) -> Tensor:
    """The same in plain torch; arguments and result as in :func:`relax`."""
    height, width = flow.shape[-2:]
    a11, a12, a22, b1, b2 = equations.chunk(5, dim=1)  # (B, 1, H, W) each
    # The weight to the left is the right weight of the left neighbour; 0 across the border.
    right, below = F.pad(weights[:, :1, :, :-1], (1, 1)), F.pad(weights[:, 1:, :-1], (0, 0, 1, 1))
    right, left = right[..., 1:], right[..., :-1]
    below, above = below[..., 1:, :], below[..., :-1, :]
    total = right + left + below + above
    # Inverse of A + total I, by Cramer's rule; a pixel without data or neighbours gets 0.
    d11, d22 = a11 + total, a22 + total
    determinant = d11 * d22 - a12 * a12
    inverse = torch.where(determinant > 0, 1 / determinant, 0)
    y, x = (torch.arange(n, device=flow.device) for n in (height, width))
    even = (y[:, None] + x) % 2 == 0
    for _ in range(sweeps):
        for active in (even, ~even):
            padded = F.pad(flow, (1, 1, 1, 1))
            around = (  # sum w f', (B, 2, H, W)
                right * padded[..., 1:-1, 2:]
                + left * padded[..., 1:-1, :-2]
                + below * padded[..., 2:, 1:-1]
                + above * padded[..., :-2, 1:-1]
            )
            r1, r2 = b1 + around[:, :1], b2 + around[:, 1:]
            solved = torch.cat([d22 * r1 - a12 * r2, d11 * r2 - a12 * r1], dim=1) * inverse
            flow = torch.where(active, flow + omega * (solved - flow), flow)
    return flow


def weighted_median(
    flow: Tensor,
    guide: Tensor,
    confidence: Tensor,
    *,
    radius: int,
    sigma_space: float,
    sigma_colour: float,
    precision: float = 1e-3,
) -> Tensor:
    """Replace u and v of each pixel by a weighted median of the pixels around.

    A neighbour at distance d has the weight ``confidence' * g(d^2 / (2 sigma_space^2) +
    |guide - guide'|^2 / (2 sigma_colour^2))`` where ``g(s) = max(0, 1 - s / 8)^8`` approximates
    ``exp(-s)`` (Sun et al., 2010, equation 13). Pixels outside the image have none.

    Args:
        flow: (B, 2, H, W) float32.
        guide: (B, C, H, W) float32; the image that flow belongs to.
        confidence: (B, 1, H, W) float32, at least 0.
        radius: of the square window, in pixels; 7 is 15 x 15.
        sigma_space: in pixels.
        sigma_colour: in the unit of ``guide``.
        precision: largest difference from the exact median; the result is a value of the window.

    Returns:
        (B, 2, H, W) float32; unchanged where all weights are 0.

    Raises:
        ValueError: shapes do not fit.
    """
    flow, confidence, guide = _floats(flow, confidence, guide / (sigma_colour * 2**0.5))
    check_flow(flow)
    check_same_grid(guide, "guide", flow)
    check_same_grid(confidence, "confidence", flow, 1)
    space = 0.5 / sigma_space**2
    library = native.library_for(flow, guide, confidence)
    if library is None:
        return _weighted_median_reference(flow, guide, confidence, radius, space)
    batch, channels, height, width = guide.shape
    out = torch.empty_like(flow)
    library.fw_weighted_median(
        ctypes.c_int64(batch),
        channels,
        height,
        width,
        *map(native.pointer, (flow, guide, confidence)),
        radius,
        ctypes.c_float(space),
        ctypes.c_float(precision),
        native.pointer(out),
    )
    return out


def weighted_median_reference(
    flow: Tensor,
    guide: Tensor,
    confidence: Tensor,
    *,
    radius: int,
    sigma_space: float,
    sigma_colour: float,
    precision: float = 0,
) -> Tensor:
    """The same by sorting, in plain torch; the result is the exact (lower) median."""
    guide = guide / (sigma_colour * 2**0.5)
    return _weighted_median_reference(flow, guide, confidence, radius, 0.5 / sigma_space**2)


def _weighted_median_reference(
    flow: Tensor, guide: Tensor, confidence: Tensor, radius: int, space: float
) -> Tensor:
    side, height = 2 * radius + 1, flow.shape[-2]
    steps = torch.arange(-radius, radius + 1, device=flow.device, dtype=flow.dtype)
    distance = space * (steps[:, None].square() + steps.square()).view(1, 1, -1, 1, 1)
    padded = [F.pad(t, (radius,) * 4) for t in (flow, guide, confidence)]
    rows = []
    for y in range(height):  # row by row: windows of 15 x 15 of all pixels would take gigabytes
        values, guides, known = (  # (B, C, side^2, 1, W) each
            F.unfold(t[..., y : y + side, :], side).view(len(t), t.shape[1], side**2, 1, -1)
            for t in padded
        )
        difference = (guides - guide[:, :, None, y : y + 1]).square().sum(1, keepdim=True)
        weight = known * (1 - (distance + difference) / 8).clamp_min(0).pow(8)
        values, order = values.sort(dim=2)
        # The median is the first value at which the cumulative weight reaches half of the total.
        mass = weight.expand_as(values).gather(2, order).cumsum(2)
        index = (mass < mass[:, :, -1:] / 2).sum(2, keepdim=True).clamp_max(side**2 - 1)
        median = values.gather(2, index)[:, :, 0]
        rows.append(torch.where(mass[:, :, -1] > 0, median, flow[..., y : y + 1, :]))
    return torch.cat(rows, dim=2)


def _floats(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().float().contiguous() for tensor in tensors)
