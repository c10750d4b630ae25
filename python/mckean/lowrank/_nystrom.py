"""Randomised Nystrom models of positive semi-definite matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean import random
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._operator import LowRankOperator

__all__ = ["nystrom"]


def nystrom(
    matvec: Any, d: int, rank: int, *, seed: Any = 0, adaptive_tol: Any = None
) -> LowRankOperator:
    """Randomised Nystrom model."""
    A = Matvec(matvec, d)
    sketch = min(d, rank + max(10, rank // 2))
    omega = np.linalg.qr(random.normal(seed, (d, sketch), dtype="float64"))[0]
    Y = np.stack([A(np.ascontiguousarray(c)).data for c in omega.T], 1)
    nu = np.finfo(float).eps * np.linalg.norm(Y)
    Y = Y + nu * omega
    core = omega.T @ Y
    C = np.linalg.cholesky((core + core.T) / 2)
    U, sigma, _ = np.linalg.svd(np.linalg.solve(C, Y.T).T, full_matrices=False)
    return LowRankOperator(
        np.ascontiguousarray(U[:, :rank]), np.maximum(0.0, sigma[:rank] ** 2 - nu)
    )
