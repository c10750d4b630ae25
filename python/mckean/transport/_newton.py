"""Sinkhorn-Newton-Sparse: Newton's method on the dual with a thresholded Hessian."""

from __future__ import annotations

from mckean.transport._problem import Problem
from mckean.transport._solve import Settings, Solution

__all__ = ["solve_newton"]


def solve_newton(problem: Problem, settings: Settings, solution: Solution) -> Solution:
    """Finish `solution`, whose columns are right, by Newton steps."""
    raise NotImplementedError
