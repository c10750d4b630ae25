"""Entropic optimal transport: Sinkhorn scaling, Newton's method, divergences, bridges."""

from mckean.transport._amortized import AmortizedPotential
from mckean.transport._barycenter import (
    BarycenterResult,
    FreeBarycenterResult,
    barycenter,
    barycenter_of_costs,
    free_barycenter,
)
from mckean.transport._bridge import BridgeResult, schrodinger_bridge
from mckean.transport._chain import ChainResult, chain_sinkhorn, chain_sinkhorn_points
from mckean.transport._couplings import couple, couple_many
from mckean.transport._divergence import sinkhorn_divergence
from mckean.transport._references import (
    AffineDrift,
    BrownianReference,
    Drift,
    Increments,
    LinearDrift,
    Reference,
)
from mckean.transport._result import SinkhornResult
from mckean.transport._sinkhorn import sinkhorn, sinkhorn_points

__all__ = [
    "AffineDrift",
    "AmortizedPotential",
    "BarycenterResult",
    "BridgeResult",
    "BrownianReference",
    "ChainResult",
    "Drift",
    "FreeBarycenterResult",
    "Increments",
    "LinearDrift",
    "Reference",
    "SinkhornResult",
    "barycenter",
    "barycenter_of_costs",
    "chain_sinkhorn",
    "chain_sinkhorn_points",
    "couple",
    "couple_many",
    "free_barycenter",
    "schrodinger_bridge",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_points",
]
