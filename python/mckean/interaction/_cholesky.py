"""Solve a symmetric positive definite system that may be so only up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["factor", "solve"]

Array = np.ndarray[Any, Any]
_BLOCK = 128


def factor(a: Array, jitter: float, name: str) -> tuple[Array, float]:
    """Return the lower factor of ``a + jitter I`` and the jitter used, grown tenfold until it suffices.

    `a` (n, n), float64, is overwritten.
    """
    diagonal = np.einsum("ii->i", a)
    scale = float(np.abs(diagonal).mean())
    added = 0.0
    while jitter <= 1e-3 * scale or added == 0.0:
        diagonal += jitter - added
        added = jitter
        try:
            return np.linalg.cholesky(a), jitter
        except np.linalg.LinAlgError:
            jitter = max(10.0 * jitter, 1e-15 * scale)
    raise ValueError(
        f"{name}: expected a positive definite matrix of kernel values, got one that is not"
    )


def solve(lower: Array, b: Array) -> Array:
    """Return ``(L L^T)^-1 b`` for `b` (n,) or (n, p), by blocks (NumPy has no triangular solve)."""
    out = np.array(b, np.float64)
    starts = range(0, len(lower), _BLOCK)
    for i in starts:
        block = slice(i, i + _BLOCK)
        out[block] = np.linalg.solve(lower[block, block], out[block] - lower[block, :i] @ out[:i])
    for i in reversed(starts):
        block, end = slice(i, i + _BLOCK), min(i + _BLOCK, len(lower))
        rest = out[block] - lower[end:, block].T @ out[end:]
        out[block] = np.linalg.solve(lower[block, block].T, rest)
    return out
