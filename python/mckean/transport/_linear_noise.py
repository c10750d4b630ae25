"""The linear-noise approximation: transition laws of a diffusion as Gaussians around its mean path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mckean._array import as_input
from mckean.interaction import kernel_mean
from mckean.kernels import Gaussian
from mckean.transport._problem import Doubles, Problem

__all__ = ["Transition", "linear_noise"]

_BLOCK = 1 << 21  # numbers of whitened differences held together


@dataclass(slots=True, eq=False)
class Transition:
    """N(mean_i, covariance_i) for each start i; `propagator` is the derivative of the mean in the start.

    Propagator and covariance have shape (n, d, d), or (d, d) if they are the same for all starts: sources and targets
    are then points under a common metric, and no matrix of pairs is needed.
    """

    mean: Doubles  # (n, d)
    propagator: Doubles
    covariance: Doubles

    @property
    def shared(self) -> bool:
        return self.covariance.ndim == 2

    def rows(self, rows: slice) -> Transition:
        """Of some starts."""
        if self.shared:
            return Transition(self.mean[rows], self.propagator, self.covariance)
        return Transition(self.mean[rows], self.propagator[rows], self.covariance[rows])

    def problem(self, y: Doubles, a: Doubles, b: Doubles) -> Problem:
        """The transport problem whose plan is ``exp(F_i + G_j) p(y_j | x_i)``, up to factors of the rows."""
        if not self.shared:
            cost = as_input(self._costs(y, slice(None)), "cost")
            return Problem.of_cost(cost, None, a, b, np.ones(1))
        root = np.linalg.cholesky(self.covariance)
        sources, targets = (np.linalg.solve(root, p.T).T for p in (self.mean, y))
        centre = targets.mean(0)
        x, z = (as_input(np.ascontiguousarray(p - centre), "x") for p in (sources, targets))
        return Problem.of_points(x, z, 2.0, a, b, np.full(1, 2.0))

    def score(self, y: Doubles, G: Doubles) -> Doubles:
        """The gradient in the starts of ``log sum_j exp(G_j) p(y_j | x)``, shape (n, d); the derivative of the
        covariance is left out, as the approximation does."""
        if self.shared:
            root = np.linalg.cholesky(self.covariance)
            sources, targets = (
                np.ascontiguousarray(np.linalg.solve(root, p.T).T) for p in (self.mean, y)
            )
            ends = kernel_mean(Gaussian(1.0), sources, targets, y, np.ascontiguousarray(G))
            pull = np.linalg.solve(self.covariance, (ends - self.mean).T).T
            return np.asarray(pull @ self.propagator)
        ends = np.empty_like(self.mean)
        for rows in self._blocks(len(y)):
            logits = G - self._costs(y, rows)
            logits -= logits.max(1, keepdims=True)
            weights = np.exp(logits, out=logits)
            ends[rows] = weights @ y / weights.sum(1, keepdims=True)
        pull = np.linalg.solve(self.covariance, (ends - self.mean)[..., None])
        return np.asarray((np.swapaxes(self.propagator, 1, 2) @ pull)[..., 0])

    def _blocks(self, m: int) -> list[slice]:
        n, d = self.mean.shape
        size = max(1, _BLOCK // (m * d))
        return [slice(k, k + size) for k in range(0, n, size)]

    def _costs(self, y: Doubles, rows: slice) -> Doubles:
        """-log p(y_j | x_i) of some rows, without the constant."""
        mean, covariance = self.mean[rows], self.covariance[rows]
        out = np.empty((len(mean), len(y)))
        root = np.linalg.cholesky(covariance)
        half_log = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        for part in Transition(mean, covariance, covariance)._blocks(len(y)):
            inverse = np.linalg.inv(root[part])
            gaps = y[None] - mean[part, None]
            white = gaps @ np.swapaxes(inverse, 1, 2)
            out[part] = 0.5 * np.einsum("ijk,ijk->ij", white, white) + half_log[part, None]
        return out


def linear_noise(
    drift: Callable[[float, Doubles], Doubles],
    jacobian: Callable[[float, Doubles], Doubles],
    variance: Doubles,
    x: Doubles,
    start: float,
    end: float,
    n_steps: int,
) -> Transition:
    """Follow ``m' = b(m)``, ``F' = J F`` and ``S' = J S + S J^T + diag(variance)`` by the midpoint rule.

    `jacobian` returns (n, d, d), or (d, d) where it does not depend on the point. S is advanced as ``M S M^T`` plus the
    noise of the step propagated from its middle, which keeps it positive definite.
    """
    h, d = (end - start) / n_steps, x.shape[1]
    eye = np.eye(d)
    mean, propagator, covariance = x, eye, np.zeros((d, d))
    for k in range(n_steps):
        t = start + k * h
        slope, first = drift(t, mean), jacobian(t, mean)
        middle = mean + 0.5 * h * slope
        second = jacobian(t + 0.5 * h, middle)
        mean = mean + h * drift(t + 0.5 * h, middle)
        step = eye + h * second @ (eye + 0.5 * h * first)
        half = (eye + 0.5 * h * second) * np.sqrt(h * variance)
        propagator = step @ propagator
        covariance = step @ covariance @ np.swapaxes(step, -1, -2) + half @ np.swapaxes(
            half, -1, -2
        )
    return Transition(mean, propagator, covariance)
