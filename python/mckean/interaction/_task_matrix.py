"""Learn the matrix B of related tasks from their values, by restricted maximum likelihood.

The values are read as those of Gaussian processes with unknown means and covariance ``B[t, t'] K0 + rho I``; B = C C'.
A least-squares criterion cannot tell one B from another here, as the fit interpolates for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["learn_task_matrix"]

Array = np.ndarray[Any, Any]


def learn_task_matrix(
    gram: Array, task: Array, f: Array, n_tasks: int, rho: float, max_iter: int
) -> tuple[Array, list[float], bool]:
    """Return B (T, T), the falling criterion, and whether it settled.

    `gram` is K0 (n, n), `task` (n,) the tasks, `f` (n,) the values. B is in units of the variance of f; each iteration
    costs O(n^3).
    """
    design = np.where(task[:, None] == np.arange(n_tasks), 1.0, 0.0)
    lower = np.tril_indices(n_tasks)

    def parts(mixing: Array) -> tuple[float, Array]:
        """Half the log determinants, and the projection whose quadratic form is the rest."""
        a = gram * mixing[np.ix_(task, task)]
        np.einsum("ii->i", a)[...] += rho
        half = np.linalg.cholesky(a)
        inverse = np.linalg.inv(a)
        spread = inverse @ design
        means = design.T @ spread
        sign, log_means = np.linalg.slogdet(means)
        if sign <= 0:
            raise np.linalg.LinAlgError
        log_det = float(np.log(np.diagonal(half)).sum() + 0.5 * log_means)
        return log_det, inverse - spread @ np.linalg.solve(means, spread.T)

    def criterion(theta: Array) -> tuple[float, Array]:
        c = np.zeros((n_tasks, n_tasks))
        c[lower] = theta
        try:
            log_det, projection = parts(c @ c.T)
        except np.linalg.LinAlgError:  # so large a B that rho is lost to rounding
            return np.inf, theta
        alpha = projection @ f
        inner = (projection - np.outer(alpha, alpha)) * gram
        slope = design.T @ inner @ design @ c
        return log_det + 0.5 * float(f @ alpha), slope[lower]

    _, projection = parts(np.eye(n_tasks))
    scale = float(f @ projection @ f) / max(len(f) - n_tasks, 1)
    if not scale > 0.0:  # constant values: every B fits
        return np.eye(n_tasks), [], True
    f = f / np.sqrt(scale)
    theta, history, settled = _bfgs(criterion, np.eye(n_tasks)[lower], max_iter)
    c = np.zeros((n_tasks, n_tasks))
    c[lower] = theta
    return c @ c.T, history, settled


def _bfgs(
    function: Callable[[Array], tuple[float, Array]], x: Array, max_iter: int
) -> tuple[Array, list[float], bool]:
    """Minimise by BFGS with backtracking, until a step gains less than 1e-5."""
    value, slope = function(x)
    inverse = np.eye(len(x)) / max(1.0, float(np.linalg.norm(slope)))
    history = [value]
    for _ in range(max_iter):
        direction = -inverse @ slope
        if direction @ slope >= 0.0:
            direction = -slope
        length = 1.0
        while True:
            trial = x + length * direction
            after, bent = function(trial)
            if after <= value + 1e-4 * length * float(slope @ direction):
                break
            length *= 0.5
            if length < 1e-10:  # no lower value to be had in floating point
                return x, history, True
        moved, turned = trial - x, bent - slope
        along = float(moved @ turned)
        if along > 1e-12:
            image = inverse @ turned
            cross = np.outer(image, moved)
            inverse += (1.0 + turned @ image / along) * np.outer(moved, moved) / along
            inverse -= (cross + cross.T) / along
        gain = value - after
        x, value, slope = trial, after, bent
        history.append(value)
        if gain <= 1e-5:
            return x, history, True
    return x, history, False
