"""Hyperbolic space of curvature -c in the Lorentz model, as pure functions on tangent vectors at the origin.

A point is stored as its tangent vector v (..., d): its direction, and its distance |v| from the origin. On
the hyperboloid the same point is (t, s), time and space, with <x, x> = |s|^2 - t^2 = -1/c.

Every function takes half, single or double precision, computes in float64 and returns float32 (float64 for
float64). Siblings need it: at radius r a step of one float32 digit in direction is a distance of about
sinh(r) * 1e-7, and textbook acosh(-<x, y>) loses twice as many digits. Autocast leaves float64 alone, so this
is also the island of full precision under AMP.
"""

import math

import torch
from torch import Tensor

TINY = 1e-10  # the least radius: a zero vector has a direction, and a finite gradient
EPSILON = 1e-14  # under the root: distance 2e-7 / sqrt(c), and gradient 0, where two points coincide


def in_double(v: Tensor) -> Tensor:
    """float64, which Apple's GPU lacks: its tensors go to the CPU."""
    return (v.cpu() if v.device.type == "mps" else v).double()


def as_given(result: Tensor, v: Tensor) -> Tensor:
    """`result` on the device of the argument `v`, float32 unless `v` is float64."""
    return result.to(v.dtype if v.dtype == torch.float64 else torch.float32).to(v.device)


def norm(v: Tensor) -> Tensor:
    """(..., d) -> (..., 1), at least TINY."""
    return torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp(min=TINY)


def bound_radius(v: Tensor, max_radius: float) -> Tensor:
    """Shorten v to max_radius * tanh(|v| / max_radius), which keeps a gradient where a hard cap has none."""
    x = in_double(v)
    radius = norm(x)
    return as_given(x * (max_radius * torch.tanh(radius / max_radius) / radius), v)


def expmap0(v: Tensor, c: float) -> tuple[Tensor, Tensor]:
    """(..., d) -> time t (..., 1), at least 1/sqrt(c), and space s (..., d)."""
    x, root = in_double(v), math.sqrt(c)
    radius = root * norm(x)
    return as_given(torch.cosh(radius) / root, v), as_given(torch.sinh(radius) / radius * x, v)


def logmap0(s: Tensor, c: float) -> Tensor:
    """(..., d) space -> tangent vector. asinh of |s| and not acosh of t, which is flat near the origin."""
    x = in_double(s)
    sinh = math.sqrt(c) * norm(x)
    return as_given(torch.asinh(sinh) / sinh * x, s)


def time(s: Tensor, c: float) -> Tensor:
    """(..., d) space -> (..., 1) time of the point of the hyperboloid above it."""
    return as_given((1 / c + in_double(s).square().sum(-1, keepdim=True)).sqrt(), s)


def to_lorentz(v: Tensor, c: float) -> Tensor:
    """(..., d) -> (..., d + 1), the point as one vector (t, s)."""
    return torch.cat(expmap0(v, c), dim=-1)


def inner(x: Tensor, y: Tensor) -> Tensor:
    """Lorentz product <x, y> = s s' - t t' of (..., d + 1) points; -cosh(sqrt(c) d) / c, at most -1/c."""
    return as_given((in_double(flip_time(x)) * in_double(y)).sum(-1), x)


def flip_time(x: Tensor) -> Tensor:
    """(t, s) -> (-t, s): its ordinary inner product with a point is the Lorentz product.

    The greatest product belongs to the nearest point, so a flat inner-product index finds it. In float32 the
    product of points at radius r has an error of about 1e-7 * cosh(r)^2 / c: 1e-4 at r = 4, but 0.3 at r = 8,
    where the distance must rank what the index has found.
    """
    return torch.cat((-x[..., :1], x[..., 1:]), dim=-1)


def to_poincare(v: Tensor, c: float) -> Tensor:
    """(..., d) -> the point of the unit ball, s / (t + 1/sqrt(c)) times sqrt(c), for pictures."""
    x = in_double(v)
    radius = norm(x)
    return as_given(torch.tanh(math.sqrt(c) * radius / 2) / radius * x, v)


def distance(v: Tensor, w: Tensor, c: float) -> Tensor:
    """(..., d), (..., d), broadcast -> (...)."""
    x, y = in_double(v), in_double(w)
    radius_x, radius_y = norm(x), norm(y)
    chord = (x / radius_x - y / radius_y).square().sum(-1)
    return as_given(_from_polar(radius_x.squeeze(-1), radius_y.squeeze(-1), chord, c), v)


def pairwise_distance(v: Tensor, w: Tensor, c: float) -> Tensor:
    """(N, d), (M, d) -> (N, M), also in memory."""
    x, y = in_double(v), in_double(w)
    radius_x, radius_y = norm(x), norm(y)
    return as_given(_from_polar(radius_x, radius_y.T, squared_distances(x / radius_x, y / radius_y), c), v)


def _from_polar(radius_x: Tensor, radius_y: Tensor, squared_chord: Tensor, c: float) -> Tensor:
    """Distance from the radii and the squared distance of the unit vectors.

    cosh(a) = cosh(r1 - r2) + sinh(r1) sinh(r2) (1 - cos(angle)), the hyperbolic law of cosines, with
    cosh(a) = 1 + 2 sinh(a/2)^2 on both sides: a sum of two squares, in which nothing cancels.
    """
    root = math.sqrt(c)
    x, y = root * radius_x, root * radius_y
    squared_sinh = torch.sinh((x - y) / 2).square() + torch.sinh(x) * torch.sinh(y) * squared_chord / 4
    return 2 / root * torch.asinh((squared_sinh + EPSILON).sqrt())


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, d), (M, d) float64 -> (N, M) squared Euclidean distances, near pairs to their last digits."""
    return _SquaredDistances.apply(x, y)


class _SquaredDistances(torch.autograd.Function):
    """Forward from the differences: |x|^2 + |y|^2 - 2xy has nothing left of a near pair. Backward as matrix
    products, which are exact enough in float64; that of cdist takes N x M x d memory on CUDA.
    """

    @staticmethod
    def forward(ctx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        to_x = gradient.sum(1)[:, None] * x - gradient @ y
        to_y = gradient.sum(0)[:, None] * y - gradient.T @ x
        return 2 * to_x, 2 * to_y
