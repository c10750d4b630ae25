"""Entropic optimal transport: Sinkhorn scaling, Newton's method, divergences, bridges."""

from mckean.transport._amortized import AmortizedPotential
from mckean.transport._barycenter import (
    BarycenterResult,
    FreeBarycenterResult,
    barycenter,
    barycenter_of_costs,
    free_barycenter,
)
from mckean.transport._divergence import sinkhorn_divergence
from mckean.transport._result import SinkhornResult
from mckean.transport._sinkhorn import sinkhorn, sinkhorn_points

__all__ = [
    "AmortizedPotential",
    "BarycenterResult",
    "FreeBarycenterResult",
    "SinkhornResult",
    "barycenter",
    "barycenter_of_costs",
    "free_barycenter",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_points",
]
