"""Solve (K0 + rho I) c = b for the Stein kernel matrix of points, densely or by conjugate gradients.

The matrix may be that of several tasks: entry (i, j) is then multiplied by B[task_i, task_j].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import Framework, Input, to_numpy
from mckean.interaction import _cholesky, _sums
from mckean.interaction._permutation import rows, subset
from mckean.interaction._samples import host

__all__ = ["SteinSystem", "choose_solver", "default_rho", "in_float64"]

_DENSE = 4000  # points whose matrix is factorised
_MOST_DENSE = 20_000  # even if asked for: 3 GiB
_STREAM = 0x737465696E  # of mk.random
_LANDMARKS = 256  # rank of the preconditioner


def in_float64(at: Input) -> Any:
    """An array in float64: NumPy for the CPU, of its own framework on a GPU."""
    if at.device == "cpu":
        return host(at.array)
    return at.array if at.dtype == "float64" else at.framework.cast(at.array, "float64")


@dataclass(slots=True)
class SteinSystem:
    """The matrix K0 + rho I of points `x` (n, d) with `scores` (n, d), float64 of one framework."""

    kernel: kernels.Kernel
    x: Any
    scores: Any
    framework: Framework
    device: str
    task: Any  # (n,) int, or None for one task
    tasks: Any  # (T, T), or None

    def diagonal(self) -> Any:
        """Return k0(x_i, x_i) B[t_i, t_i], shape (n,): a batch of problems of one point each."""
        own = host(_sums.stein_sum(self.kernel, self.x[:, None, :], self.scores[:, None, :]))[:, 0]
        return own if self.task is None else own * np.diagonal(self.tasks)[self.task]

    def dense(self) -> Any:
        """Return K0, shape (n, n)."""
        full = np.array(to_numpy(_sums.stein_matrix(self.kernel, self.x, self.scores)), np.float64)
        if self.task is not None:
            full *= self.tasks[np.ix_(self.task, self.task)]
        return full

    def apply(self, c: Any) -> Any:
        """Return K0 c for `c` (n, p), without the matrix."""
        p = c.shape[1]
        weights = c
        if self.task is not None:
            # One column per task and right-hand side, then the tasks are mixed by B.
            n_tasks = len(self.tasks)
            weights = np.where(self.task[:, None] == np.arange(n_tasks), 1.0, 0.0)
            weights = (weights[:, :, None] * c[:, None, :]).reshape(len(c), n_tasks * p)
        carried = self.framework.asarray(np.ascontiguousarray(weights), self.device)
        sums = host(_sums.stein_sum(self.kernel, self.x, self.scores, weights=carried))
        if self.task is None:
            return sums
        return np.einsum("it,itp->ip", self.tasks[self.task], sums.reshape(len(c), -1, p))

    def solve(
        self, b: Any, rho: float, solver: str, tol: float, max_iter: int
    ) -> tuple[Any, float, bool, int]:
        """Return (K0 + rho I)^-1 b for `b` (n, p), rho as it was used, whether it converged, and the iterations."""
        if solver == "cholesky":
            lower, rho = _cholesky.factor(self.dense(), rho, "x")
            return _cholesky.solve(lower, b), rho, True, 0
        c, converged, n_iter = self._conjugate_gradients(b, rho, tol, max_iter)
        return c, rho, converged, n_iter

    def _conjugate_gradients(
        self, b: Any, rho: float, tol: float, max_iter: int
    ) -> tuple[Any, bool, int]:
        """All columns at once, each with its own coefficients."""
        precondition = self._preconditioner(rho)
        target = tol * np.linalg.norm(b, axis=0)
        c, residual = np.zeros_like(b), b.copy()
        direction = z = precondition(residual)
        product = (residual * z).sum(axis=0)
        for iteration in range(max_iter + 1):
            if (np.linalg.norm(residual, axis=0) <= target).all():
                return c, True, iteration
            if iteration == max_iter:
                break
            image = self.apply(direction) + rho * direction
            curvature = (direction * image).sum(axis=0)
            step = np.divide(product, curvature, out=np.zeros_like(product), where=curvature > 0)
            c = c + step * direction
            residual = residual - step * image
            z = precondition(residual)
            before, product = product, (residual * z).sum(axis=0)
            ratio = np.divide(product, before, out=np.zeros_like(product), where=before > 0)
            direction = z + ratio * direction
        return c, False, max_iter

    def _preconditioner(self, rho: float) -> Any:
        """The Nystrom approximation on random landmarks, inverted: K0 has few large eigenvalues and many tiny ones."""
        n = self.x.shape[0]
        chosen = subset(0, n, min(_LANDMARKS, n), stream=_STREAM)
        y, y_scores = rows(self.x, chosen), rows(self.scores, chosen)
        columns = np.array(
            to_numpy(_sums.stein_matrix(self.kernel, self.x, self.scores, y, y_scores))
        )
        if self.task is not None:
            columns *= self.tasks[np.ix_(self.task, self.task[chosen])]
        core = columns[chosen]
        values, vectors = np.linalg.eigh(0.5 * (core + core.T))
        kept = values > 1e-13 * values[-1]
        if not kept.any():
            return lambda r: r
        half = columns @ (vectors[:, kept] / np.sqrt(values[kept]))
        basis, sigma, _ = np.linalg.svd(half, full_matrices=False)
        eigenvalues = sigma**2
        # Outside the basis the preconditioner is flat, at the smallest eigenvalue it knows.
        gain = (eigenvalues[-1] + rho) / (eigenvalues + rho) - 1.0
        return lambda r: r + basis @ (gain[:, None] * (basis.T @ r))


def default_rho(system: SteinSystem) -> float:
    """1e-8 of the mean diagonal entry."""
    scale = float(system.diagonal().mean())
    if not (scale > 0.0 and math.isfinite(scale)):
        raise ValueError(
            f"k: expected a Stein kernel that is positive at the points, got a mean of {scale}"
        )
    return 1e-8 * scale


def choose_solver(solver: str, n: int) -> str:
    """Return "cholesky" or "cg"."""
    if solver == "cholesky" and n > _MOST_DENSE:
        raise ValueError(
            f"solver: expected 'cg' for more than {_MOST_DENSE} points, got 'cholesky'"
        )
    return ("cholesky" if n <= _DENSE else "cg") if solver == "auto" else solver
