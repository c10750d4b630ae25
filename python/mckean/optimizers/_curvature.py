"""Models H of the curvature at a point, each of which solves (H + lam I) step = -g for many lam."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import as_input, to_numpy
from mckean.lowrank import LowRankOperator
from mckean.lowrank._cg import solve_silently
from mckean.optimizers._objective import Vector

__all__ = ["Dense", "LowRank", "Metric", "Products", "Zero"]

# One eigendecomposition costs 5 to 8 solves by Cholesky factors: a search takes these before it, which serves the rest.
_FACTORS, _EIGEN = 5, 500
_BLOCK = 64


class Metric:
    """A fixed positive definite B = L L^T, as the change of variables L^T x in which it is I."""

    def __init__(self, B: Any) -> None:
        self._T: Vector | None = None
        if B is None:
            return
        a = np.asarray(to_numpy(as_input(B, "metric").array), np.float64)
        if a.ndim not in (1, 2) or (a.ndim == 2 and a.shape[0] != a.shape[1]) or not a.size:
            raise ValueError(f"metric: expected shape (d,) or (d, d), got {a.shape}")
        if a.ndim == 1:
            if not (np.isfinite(a).all() and a.min() > 0):
                raise ValueError(f"metric: expected positive entries, got {a.min():.6g}")
            self._T = 1 / np.sqrt(a)
            return
        if abs(a - a.T).max() > 1e-10 * abs(a).max():
            raise ValueError("metric: expected a symmetric matrix")
        try:
            self._T = np.linalg.inv(np.linalg.cholesky(a))
        except np.linalg.LinAlgError:
            least = np.linalg.eigvalsh(a)[0]
            raise ValueError(
                f"metric: expected a positive definite matrix, got least eigenvalue {least:.3g}"
            ) from None

    @property
    def trivial(self) -> bool:
        return self._T is None

    def check(self, d: int) -> None:
        if self._T is not None and self._T.shape[0] != d:
            raise ValueError(f"metric: expected size {d} to match x0, got {self._T.shape[0]}")

    def gradient(self, g: Vector) -> Vector:
        """L^-1 g: its norm is the dual norm of g."""
        if self._T is None:
            return g
        return self._T * g if self._T.ndim == 1 else np.asarray(self._T @ g)

    def step(self, s: Vector) -> Vector:
        """L^-T s."""
        if self._T is None:
            return s
        return self._T * s if self._T.ndim == 1 else np.asarray(self._T.T @ s)

    def matrix(self, H: Vector) -> Vector:
        """L^-1 H L^-T."""
        if self._T is None:
            return H
        if self._T.ndim == 1:
            return np.asarray(self._T[:, None] * H * self._T)
        return np.asarray(self._T @ H @ self._T.T)

    def product(self, apply: Callable[[Vector], Vector]) -> Callable[[Vector], Vector]:
        if self._T is None:
            return apply
        return lambda v: self.gradient(apply(self.step(v)))


class Zero:
    """H = 0."""

    def solve(self, g: Vector, lam: float) -> Vector | None:
        return -g / lam


class Dense:
    """A matrix."""

    def __init__(self, H: Vector) -> None:
        self._H, self._factors = H, 0
        self._eigen: tuple[Vector, Vector] | None = None

    def solve(self, g: Vector, lam: float) -> Vector | None:
        """The step, or None where H + lam I is not positive definite."""
        if self._eigen is None and self._factors >= _FACTORS and len(g) <= _EIGEN:
            self._eigen = np.linalg.eigh(self._H)
        if self._eigen is not None:
            theta, V = self._eigen
            if theta[0] + lam <= 0:
                return None
            return np.asarray(-(V @ ((g @ V) / (theta + lam))))
        self._factors += 1
        shifted = self._H.copy()
        shifted.flat[:: len(g) + 1] += lam
        try:
            L = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            return None
        return _cholesky_solve(L, -g)


def _cholesky_solve(L: Vector, g: Vector) -> Vector:
    """(L L^T)^-1 g by blocks of the diagonal: NumPy has no triangular solution, and another factorisation of the
    whole matrix would cost twice the first."""
    x: Vector = g.copy()
    n = len(g)
    starts = range(0, n, _BLOCK)
    for i in starts:
        j = min(i + _BLOCK, n)
        x[i:j] = np.linalg.solve(L[i:j, i:j], x[i:j] - L[i:j, :i] @ x[:i])
    for i in reversed(starts):
        j = min(i + _BLOCK, n)
        x[i:j] = np.linalg.solve(L[i:j, i:j].T, x[i:j] - x[j:] @ L[j:, i:j])
    return x


class LowRank:
    """U diag(s) U^T + sigma I: a solve reads U twice, whatever lam is."""

    def __init__(self, op: LowRankOperator) -> None:
        U = as_input(op.U, "U", shape=("d", "k"))
        self._op, self._like = op, U
        s = np.asarray(to_numpy(op.s), np.float64)
        self._least = float(op.sigma) + min(0.0, float(s.min()) if s.size else 0.0)

    def solve(self, g: Vector, lam: float) -> Vector | None:
        if not self._least + lam > 0:
            return None
        b = self._like.framework.asarray(g.astype(self._like.dtype), self._like.device)
        return -np.asarray(to_numpy(self._op.solve(b, lam)), np.float64)


class Products:
    """A matrix known by its products, solved by preconditioned conjugate gradients.

    The inner tolerance is ``min(0.1, sqrt |g|) |g|``, so that convergence stays superlinear. `unfinished` counts
    the solutions that did not reach it.
    """

    def __init__(
        self, product: Callable[[Vector], Vector], preconditioner: LowRankOperator | None
    ) -> None:
        self._product, self._preconditioner = product, preconditioner
        self.unfinished = 0

    def solve(self, g: Vector, lam: float) -> Vector | None:
        """The step, or None where a direction of negative curvature was met."""
        P = self._preconditioner
        found = solve_silently(
            self._product,
            -g,
            None if P is None else P.preconditioner(lam),
            lam,
            min(0.1, math.sqrt(float(np.linalg.norm(g)))),
            None,
            None,
        )
        if found.negative_curvature:
            return None
        # Where the iteration limit, 10 d, ends it short of the tolerance, this is an inexact Newton step like any
        # other: the method's test of the decrease decides on it.
        self.unfinished += not found.converged
        return np.asarray(found.x)
