"""The iterations: from a batch of problems to log scalings that meet the tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean.transport._problem import RECOMPUTED, Doubles, Problem

__all__ = ["Settings", "Solution", "solve"]


@dataclass(frozen=True, slots=True)
class Settings:
    method: str = "auto"  # "auto", "scaling", "log", "newton"
    tol: float = 1e-6
    max_iter: int = 10_000
    acceleration: Any = "anderson"  # "anderson", None, or a relaxation in (0, 2)
    eps_scaling: bool = False
    unbalanced: tuple[Doubles, Doubles] | None = (
        None  # rho of rows and columns, (batch,); inf: met exactly
    )


@dataclass(slots=True)
class Solution:
    F: Doubles
    G: Doubles
    error: Doubles  # (batch,): L1, rows and columns together; unbalanced: the last change
    n_iter: Any  # (batch,) int64
    n_newton: Any
    converged: Any  # (batch,) bool
    method: str


def solve(problem: Problem, settings: Settings, G: Doubles | None = None) -> Solution:
    """Solve all problems, from the column scalings `G` or from zero potentials."""
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(problem.a), np.log(problem.b)
    G = log_b.copy() if G is None else np.array(G)
    F = problem.transform(np.zeros_like(log_a), G, columns=False) + log_a
    # The error of `iterate` is that of the rows: columns come first.
    G = problem.transform(F, G, columns=True) + log_b
    error, done = problem.iterate(
        F, G, problems=problem.all(), form=RECOMPUTED, max_iter=settings.max_iter, tol=settings.tol
    )
    ones = np.ones(problem.batch, np.int64)
    return Solution(F, G, error, done, 0 * ones, error <= settings.tol, "scaling")
