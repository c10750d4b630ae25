"""Columns of a plan, drawn row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import to_numpy
from mckean.transport._problem import Doubles, Problem

__all__ = ["draw_columns", "inverse"]

_BLOCK = 1 << 20  # entries of the plan looked at together

Indices = np.ndarray[Any, np.dtype[np.int64]]


def draw_columns(
    problem: Problem, F: Doubles, G: Doubles, rows: Indices, u: Doubles | None, k: int = 0
) -> Indices:
    """A column for each of `rows`, from its row of the plan of problem `k`, by inverting the distribution function at
    `u` in [0, 1); the largest entry if `u` is None. The scale of rows does not matter. Memory: a block of rows."""
    out = np.empty(rows.size, np.int64)
    order = np.argsort(rows, kind="stable")
    held = rows[order]
    size = max(1, _BLOCK // problem.m)
    first = 0
    while first < held.size:
        start = int(held[first])
        last = int(np.searchsorted(held, start + size))
        block = to_numpy(problem.plan(F, G, k, slice(start, int(held[last - 1]) + 1)))
        here, which = order[first:last], held[first:last] - start
        out[here] = block.argmax(1)[which] if u is None else inverse(block, which, u[here])
        first = last
    return out


def inverse(block: Any, which: Indices, u: Doubles) -> Indices:
    """Where the running sum of row `which` of `block` passes the share `u` of its total: an entry with mass."""
    sums = np.cumsum(block, axis=1, dtype=np.float64)
    total = sums[which, -1]
    if not (total > 0).all():
        raise ValueError("plan: expected rows with mass, got one without")
    # A product that rounds up to the total would pass the last column with mass.
    share = np.minimum(u * total, np.nextafter(total, 0.0))
    low, high = np.zeros(which.size, np.int64), np.full(which.size, sums.shape[1] - 1)
    while (low < high).any():
        middle = (low + high) // 2
        below = sums[which, middle] <= share
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low
