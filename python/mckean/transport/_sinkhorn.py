"""Entropic optimal transport between weighted points, or for a given cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import as_input, as_match, to_numpy
from mckean.transport._problem import Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import Settings, solve

__all__ = ["sinkhorn", "sinkhorn_points"]


def _weights(w: Any, shape: tuple[int, ...]) -> Any:
    if w is None:
        return np.full(shape, 1.0 / shape[-1])
    return np.ascontiguousarray(np.broadcast_to(to_numpy(w).astype(np.float64), shape))


def sinkhorn(
    a: Any,
    b: Any,
    cost: Any,
    *,
    eps: Any,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    init: Any = None,
    unbalanced: Any = None,
    eps_scaling: bool = False,
) -> SinkhornResult:
    """Solve for a dense cost (n, m)."""
    at = as_input(cost, "cost")
    n, m = at.shape[-2:]
    problem = Problem.of_cost(
        at, None, _weights(a, (1, n)), _weights(b, (1, m)), np.full(1, float(eps))
    )
    return SinkhornResult(problem, solve(problem, Settings(method, tol, max_iter)))


def sinkhorn_points(
    x: Any,
    y: Any,
    *,
    p: float = 2,
    eps: Any,
    a: Any = None,
    b: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    init: Any = None,
    unbalanced: Any = None,
    eps_scaling: bool = False,
) -> SinkhornResult:
    """Solve for the cost |x - y|^p."""
    at = as_input(x, "x")
    other = as_match(y, "y", at, "x", shape=(*at.shape[:-2], "m", at.shape[-1]))
    batch = at.shape[0] if len(at.shape) == 3 else 1
    n, m = at.shape[-2], other.shape[-2]
    e = np.full(batch, float(eps))
    problem = Problem.of_points(
        at, other, float(p), _weights(a, (batch, n)), _weights(b, (batch, m)), e
    )
    return SinkhornResult(problem, solve(problem, Settings(method, tol, max_iter)), y)
