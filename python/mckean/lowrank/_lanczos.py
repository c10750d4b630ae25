"""Eigenpairs by Lanczos' method."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean import random
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._operator import LowRankOperator

__all__ = ["lanczos"]


def lanczos(
    matvec: Any, d: int, rank: int, *, seed: Any = 0, which: str = "LA", tol: float | None = None
) -> LowRankOperator:
    """Eigenpairs at one end of the spectrum."""
    A = Matvec(matvec, d)
    m = min(d, 4 * rank + 30)
    basis = np.zeros((m + 1, d))
    place, T, beta = A.place, np.zeros((m, m)), 0.0
    _native.lanczos_step(basis, 0, random.normal(seed, (d,), dtype="float64"), place)
    n = m
    for j in range(m):
        w = np.array(A(basis[j]).data)
        norm, h, _ = _native.lanczos_step(basis, j + 1, w, place, beta=beta, passes=2)
        T[: j + 1, j] = T[j, : j + 1] = h
        beta = norm
        if norm <= 1e-12 * abs(T).max() or j + 1 == d:
            n = j + 1
            break
    theta, S = np.linalg.eigh(T[:n, :n])
    order = {"LA": np.argsort(-theta), "SA": np.argsort(theta), "LM": np.argsort(-abs(theta))}
    keep = order[which][:rank]
    U = np.empty((d, len(keep)))
    _native.multiply(basis[:n], S[:, keep], U, place, a_rows=True)
    return LowRankOperator(U, theta[keep])
