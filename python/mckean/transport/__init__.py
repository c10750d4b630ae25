"""Entropic optimal transport: Sinkhorn scaling, Newton's method, divergences, bridges."""

from mckean.transport._sinkhorn import sinkhorn, sinkhorn_points

__all__ = ["sinkhorn", "sinkhorn_points"]
