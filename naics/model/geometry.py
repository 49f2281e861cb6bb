"""The space that codes and queries live in: hyperbolic, flat or a sphere, behind the same three functions."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from naics.model import lorentz
from training_utils import InputError

KINDS = ("lorentz", "euclidean", "sphere")


@dataclass(frozen=True)
class Geometry:
    """`max_radius` is in units of 1/sqrt(curvature), so that another curvature is only another scale. Beyond
    8 neighbouring float32 vectors are too far apart to be siblings.
    """

    kind: str
    curvature: float = 1.0
    max_radius: float = 8.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"geometry {self.kind!r} is unknown; use one of {', '.join(KINDS)}")
        if not (self.curvature > 0 and self.max_radius > 0):
            raise InputError(
                f"curvature {self.curvature} and max_radius {self.max_radius} must be above 0 (the space is "
                "curved by minus the curvature)"
            )

    @property
    def bound(self) -> float:
        """The norm that no vector of `points` reaches; infinite in the flat space."""
        return {"lorentz": self.max_radius / self.curvature**0.5, "sphere": 1.0}.get(self.kind, float("inf"))

    def points(self, raw: Tensor) -> Tensor:
        """(..., d) projections of an encoder -> (..., d) float32 points (tangent vectors, unit vectors)."""
        if self.kind == "lorentz":
            return lorentz.bound_radius(raw, self.bound)
        return F.normalize(raw.float(), dim=-1, eps=1e-3) if self.kind == "sphere" else raw.float()

    def distance(self, v: Tensor, w: Tensor) -> Tensor:
        """(..., d), (..., d), broadcast -> (...). On the sphere the chord, which ranks as the angle does."""
        if self.kind == "lorentz":
            return lorentz.distance(v, w, self.curvature)
        squared = (lorentz.in_double(v) - lorentz.in_double(w)).square().sum(-1)
        return lorentz.as_given(_root(squared), v)

    def pairwise(self, v: Tensor, w: Tensor) -> Tensor:
        """(N, d), (M, d) -> (N, M) distances."""
        if self.kind == "lorentz":
            return lorentz.pairwise_distance(v, w, self.curvature)
        squared = lorentz.squared_distances(lorentz.in_double(v), lorentz.in_double(w))
        return lorentz.as_given(_root(squared), v)


def _root(squared: Tensor) -> Tensor:
    """Square root with a finite gradient at 0."""
    return torch.sqrt(squared + lorentz.EPSILON)
