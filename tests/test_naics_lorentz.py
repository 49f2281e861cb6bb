"""Hyperbolic distances against 60-digit arithmetic and geoopt, and gradients where they usually break."""

import math

import geoopt
import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from naics.model import lorentz
from naics.model.geometry import KINDS, Geometry
from training_utils import InputError

CURVATURES = (0.1, 1.0, 10.0)
HALVES = (torch.float16, torch.bfloat16)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact_distance(v, w, c):
    """acosh(-c <x, y>) / sqrt(c) in arithmetic that can afford it."""
    with mpmath.workdps(60):
        v, w = ([mpmath.mpf(float(a)) for a in vector] for vector in (v, w))
        root = mpmath.sqrt(mpmath.mpf(c))
        r, s = (root * mpmath.sqrt(mpmath.fdot(a, a)) for a in (v, w))
        cosh = mpmath.cosh(r) * mpmath.cosh(s)
        if r and s:
            cosh -= mpmath.sinh(r) * mpmath.sinh(s) * mpmath.fdot(v, w) * root**2 / (r * s)
        return float(mpmath.acosh(cosh) / root)


def pairs_at(distance, c, count=40, d=8):
    """Float32 tangent vectors about `distance` apart: walks from points out to 8 / sqrt(c), any direction."""
    rng, root = np.random.default_rng(round(1000 * distance)), math.sqrt(c)
    start = rng.standard_normal((count, d))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    radius = np.linspace(0, 8, count)[:, None]
    step = rng.standard_normal((count, d))
    out = (step * start).sum(1, keepdims=True)
    step[::4] = start[::4]  # a quarter straight out, a quarter sideways
    step[1::4] -= (out * start)[1::4]
    out = (step * start).sum(1, keepdims=True)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    # The unit tangent at the start point: `out` along the radius, the rest orthogonal to it.
    space_step = (step - out * start + out * start * np.cosh(radius)) / length
    walked = np.sinh(root * distance)
    space = np.cosh(root * distance) * np.sinh(radius) * start + walked * space_step
    norm = np.linalg.norm(space, axis=1, keepdims=True)
    end = np.arcsinh(norm) / norm * space
    return (torch.tensor(a / root, dtype=torch.float32) for a in (radius * start, end))


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("distance", [1e-3, 1e-2, 0.1, 1.0, 5.0, 20.0])
def test_float32_distances_are_right_to_six_digits(distance, c):
    v, w = pairs_at(distance, c)
    expected = torch.tensor([exact_distance(*pair, c) for pair in zip(v, w, strict=True)])
    # The walk is as long as asked wherever float32 vectors can be so near each other.
    assert expected[:10] == pytest.approx([distance] * 10, rel=0.02)
    for found in (lorentz.distance(v, w, c), lorentz.pairwise_distance(v, w, c).diagonal()):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
def test_models_and_distances_are_those_of_geoopt(c):
    manifold = geoopt.manifolds.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    v, w = random(50, 6, dtype=torch.float64), random(50, 6, seed=1, dtype=torch.float64)
    time, space = lorentz.expmap0(v, c)
    x, y = lorentz.to_lorentz(v, c), lorentz.to_lorentz(w, c)
    theirs = manifold.expmap0(torch.cat((torch.zeros(50, 1), v), dim=1))
    torch.testing.assert_close(torch.cat((time, space), dim=1), theirs, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(lorentz.logmap0(space, c), manifold.logmap0(theirs)[:, 1:], rtol=1e-7, atol=0)
    torch.testing.assert_close(lorentz.distance(v, w, c), manifold.dist(x, y), rtol=1e-9, atol=0)
    pairwise = manifold.dist(x[:, None], y[None])
    torch.testing.assert_close(lorentz.pairwise_distance(v, w, c), pairwise, rtol=1e-9, atol=0)
    torch.testing.assert_close(lorentz.inner(x, y), manifold.inner(x, x, y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES])
def test_points_lie_on_the_hyperboloid(dtype, c):
    v = lorentz.bound_radius(random(100, 5).to(dtype) * torch.logspace(-4, 1, 100)[:, None].to(dtype), 4.0)
    x = lorentz.to_lorentz(v, c)
    single = dtype != torch.float64
    assert x.dtype == (torch.float32 if single else dtype)
    # <x, x> is the difference of two squares, each known to the last digit of its type.
    error = (lorentz.inner(x, x) + 1 / c).abs() / x[:, 0].square()
    assert float(error.max()) < (3e-7 if single else 1e-15)
    torch.testing.assert_close(lorentz.time(x[:, 1:], c), x[:, :1])
    torch.testing.assert_close(lorentz.logmap0(x[:, 1:], c), v, rtol=1e-5 if single else 1e-12, atol=0)
    ball = lorentz.to_poincare(v, c)
    torch.testing.assert_close(ball, x[:, 1:] * math.sqrt(c) / (x[:, :1] * math.sqrt(c) + 1))
    assert float(ball.norm(dim=1).max()) < 1


@pytest.mark.parametrize("c", CURVATURES)
def test_curvature_is_a_scale_and_distances_are_a_metric(c):
    points = random(30, 4, seed=3, dtype=torch.float64)
    d = lorentz.pairwise_distance(points / math.sqrt(c), points / math.sqrt(c), c)
    torch.testing.assert_close(d * math.sqrt(c), lorentz.pairwise_distance(points, points, 1.0))
    assert torch.allclose(d, d.T, rtol=1e-12)
    assert float(d.diagonal().max()) <= 2.1e-7 / math.sqrt(c)
    assert (d[:, :, None] + d[None] >= d[:, None] - 1e-9).all()
    from_origin = lorentz.distance(points, torch.zeros(4, dtype=torch.float64), c)
    torch.testing.assert_close(from_origin, points.norm(dim=1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("c", CURVATURES)
def test_the_greatest_inner_product_with_a_flipped_query_is_the_nearest_point(c):
    geometry = Geometry("lorentz", c, max_radius=4.0)
    codes, queries = (geometry.points(random(n, 8, seed=n) / math.sqrt(c)) for n in (400, 100))
    products = lorentz.flip_time(lorentz.to_lorentz(queries, c)) @ lorentz.to_lorentz(codes, c).T
    d = geometry.pairwise(queries, codes)
    assert torch.equal(products.argmax(1), d.argmin(1))
    torch.testing.assert_close(-c * products, torch.cosh(math.sqrt(c) * d), rtol=1e-4, atol=1e-4)


def test_bound_radius_keeps_directions_short_vectors_and_a_gradient():
    v = torch.tensor([[0.0, 0.0], [3e-3, 4e-3], [3.0, 4.0], [300.0, 400.0], [6e4, 0.0]], requires_grad=True)
    bounded = lorentz.bound_radius(v, 8.0)
    expected = 8 * torch.tanh(torch.tensor([0, 5e-3, 5, 500, 6e4], dtype=torch.float64) / 8)
    torch.testing.assert_close(bounded.norm(dim=1).double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(bounded[2] / bounded[2].norm(), torch.tensor([0.6, 0.8]))
    (gradient,) = torch.autograd.grad(bounded[2].norm(), v)
    assert float(gradient[2].norm()) == pytest.approx(1 / math.cosh(5 / 8) ** 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(lorentz.bound_radius(v, 8.0).sum(), v)
    torch.testing.assert_close(gradient[0], torch.ones(2))


def where_it_breaks(dtype=torch.float64):
    """Two lists of vectors: rows that coincide, zeros, near pairs, opposite ones, radius 8."""
    a, b = random(8, 3, seed=5, dtype=dtype), random(8, 3, seed=6, dtype=dtype)
    a[0] = b[0]
    a[1], a[2], b[2], b[3] = 0, 0, 0, 0
    b[4] = a[4] * (1 + 1e-3)
    b[5] = -a[5]
    a[6] *= 8 / a[6].norm()
    b[7] *= 1e-3
    return a, b


@pytest.mark.parametrize("c", CURVATURES)
def test_gradients_are_those_of_finite_differences(c):
    a, b = (v.requires_grad_() for v in where_it_breaks())
    functions = {
        "distance": (lambda v, w: lorentz.distance(v, w, c), (a, b)),
        "pairwise": (lambda v, w: lorentz.pairwise_distance(v, w, c), (a, b)),
        "same": (lambda v: lorentz.pairwise_distance(v, v, c), (a,)),
        "expmap0": (lambda v: torch.cat(lorentz.expmap0(v, c), dim=-1), (a,)),
        "logmap0": (lambda v: lorentz.logmap0(v, c), (a,)),
        "poincare": (lambda v: lorentz.to_poincare(v, c), (a,)),
        "bound": (lambda v: lorentz.bound_radius(v, 2.0), (a,)),
    }
    for name, (function, arguments) in functions.items():
        assert torch.autograd.gradcheck(function, arguments, atol=1e-4, rtol=1e-4), name


def test_broadcast_and_pairwise_distances_have_one_gradient():
    a, b = where_it_breaks(torch.float32)
    a, b, weights = a.requires_grad_(), b.requires_grad_(), random(8, 8, seed=9)
    losses = [
        (weights * d).sum()
        for d in (lorentz.pairwise_distance(a, b, 1.0), lorentz.distance(a[:, None], b[None], 1.0))
    ]
    for first, second in zip(*(torch.autograd.grad(loss, (a, b)) for loss in losses), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


def project_and_train(device, dtype, c, kind="lorentz"):
    """A projection under autocast, its distances, and the gradient of the inputs that break most formulas."""
    raw = random(9, 16, seed=1)
    raw[1] = raw[0]
    raw[2], raw[3] = 0, 0
    raw[4], raw[5] = raw[4] * 1e3, raw[4] * 1e3  # at the radius bound
    raw[6] = -raw[5]
    raw[7] = raw[0] * (1 + 2**-9)
    projection = nn.Linear(16, 12, bias=False).to(device)
    raw, geometry = raw.to(device).requires_grad_(), Geometry(kind, c)
    with torch.autocast(device, dtype=dtype):
        projected = projection(raw)
        points = geometry.points(projected)
        distances = geometry.pairwise(points, points)
        broadcast = geometry.distance(points[:, None], points[None])
    assert projected.dtype == dtype
    assert {t.dtype for t in (points, distances, broadcast)} == {torch.float32}
    assert torch.equal(points, geometry.points(projected))  # autocast changed nothing
    assert torch.equal(distances, geometry.pairwise(points, points))
    (distances + broadcast).mean().backward()
    assert distances.isfinite().all() and raw.grad.isfinite().all()
    assert projection.weight.grad.isfinite().all()
    assert (raw.grad[7:].norm(dim=1) > 1e-3).all()


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_all_is_finite_and_in_full_precision(dtype, c, kind):
    project_and_train("cpu", dtype, c, kind)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", HALVES)
def test_under_autocast_on_a_gpu(dtype):
    project_and_train("cuda", dtype, 1.0)


def test_flat_and_spherical_distances():
    a, b = random(20, 5), random(30, 5, seed=2)
    flat, sphere = Geometry("euclidean"), Geometry("sphere")
    assert torch.equal(flat.points(a), a)
    expected = (a.double()[:, None] - b.double()[None]).norm(dim=2).float()
    torch.testing.assert_close(flat.pairwise(a, b), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(flat.distance(a[:, None], b[None]), expected, rtol=1e-6, atol=0)
    u, w = sphere.points(a), sphere.points(b)
    cosine = nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
    torch.testing.assert_close(sphere.pairwise(u, w), (2 - 2 * cosine).sqrt(), rtol=1e-4, atol=0)
    assert [Geometry(kind, 4.0, 6.0).bound for kind in KINDS] == [3.0, math.inf, 1.0]
    for geometry in (flat, sphere):
        v = geometry.points(a.clone().requires_grad_())
        d = geometry.pairwise(v, v)
        assert float(d.diagonal().detach().max()) < 2e-7
        (gradient,) = torch.autograd.grad(d.diagonal().sum(), v)
        assert float(gradient.abs().max()) < 1e-6


@pytest.mark.parametrize(
    "arguments", [("hyperbolic",), ("lorentz", 0.0), ("lorentz", -1.0), ("sphere", 1, 0)]
)
def test_a_geometry_that_does_not_exist_is_refused(arguments):
    with pytest.raises(InputError, match="hyperbolic|above 0"):
        Geometry(*arguments)
