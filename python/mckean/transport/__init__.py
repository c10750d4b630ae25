"""Entropic optimal transport: Sinkhorn scaling, Newton's method, divergences, bridges."""

from mckean.transport._divergence import sinkhorn_divergence
from mckean.transport._result import SinkhornResult
from mckean.transport._sinkhorn import sinkhorn, sinkhorn_points

__all__ = ["SinkhornResult", "sinkhorn", "sinkhorn_divergence", "sinkhorn_points"]
