"""Sinkhorn scaling with acceleration: many iterations of the executors, and what is done between them."""

from __future__ import annotations

from typing import Any

from mckean.transport._problem import RECOMPUTED, Doubles, Problem

__all__ = ["scale"]


def scale(
    problem: Problem,
    F: Doubles,
    G: Doubles,
    *,
    problems: Any,
    tol: float,
    max_iter: int,
    form: int = RECOMPUTED,
    acceleration: Any = "anderson",
    powers: tuple[Doubles, Doubles] | None = None,
) -> tuple[Doubles, Any]:
    """Iterate `problems` from scalings whose columns are right, in place, until the error of the rows is at most `tol`.

    Returns errors (batch,) and iterations (batch,).
    """
    return problem.iterate(
        F, G, problems=problems, form=form, max_iter=max_iter, tol=tol, powers=powers
    )
