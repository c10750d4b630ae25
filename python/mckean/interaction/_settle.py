"""Iterate a map of particles until each of them rests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import Input, to_numpy

__all__ = ["settle", "take"]

Array = np.ndarray[Any, Any]


def settle(
    step: Callable[[Any], Any], start: Input, tol: float, max_iter: int, unit: Any = 1.0
) -> tuple[Any, Array, Array]:
    """Apply `step` to rows until each moves by less than `tol` times `unit`.

    A row that rests leaves the computation, so its answer does not depend on the other rows.
    Returns the rows, the number of steps each took and whether it came to rest.
    """
    x, n = start.array, start.shape[0]
    counts = np.zeros(n, np.int64)
    moving = np.arange(n)
    for _ in range(max_iter):
        if not moving.size:
            break
        everything = moving.size == n
        before = x if everything else take(x, moving, start)
        after = step(before)
        moved = to_numpy((((after - before) / unit) ** 2).sum(1)).astype(np.float64)
        counts[moving] += 1
        x = after if everything else _put(x, moving, after, start)
        moving = moving[~(moved < tol * tol)]
    rest = np.ones(n, bool)
    rest[moving] = False
    return x, counts, rest


def take(x: Any, rows: Array, like: Input) -> Any:
    """Rows of an array of the framework of `like`."""
    return x[like.framework.asarray(rows.astype(np.int32), like.device)]


def _put(x: Any, rows: Array, new: Any, like: Input) -> Any:
    """`x` with `rows` replaced, in what frameworks with immutable arrays can do as well."""
    source = np.zeros(x.shape[0], np.int64)
    source[rows] = np.arange(rows.size)
    mask = np.zeros((x.shape[0], 1), like.dtype)
    mask[rows] = 1.0
    chosen = like.framework.asarray(mask, like.device)
    return x * (1.0 - chosen) + take(new, source, like) * chosen
