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

    A row that rests is moved no more, so its answer does not depend on the other rows. Returns the rows, the number of
    steps each took and whether it came to rest.
    """
    x, n = start.array, start.shape[0]
    counts, rest = np.zeros(n, np.int64), np.zeros(n, bool)
    rows, z = np.arange(n), x
    for _ in range(max_iter if n else 0):
        moving = ~rest[rows]
        after = step(z)
        moved = to_numpy((((after - z) / unit) ** 2).sum(1)).astype(np.float64)
        counts[rows[moving]] += 1
        rest[rows[moving & (moved < tol * tol)]] = True
        z = after if moving.all() else _choose(moving, after, z, start)
        left = np.flatnonzero(~rest[rows])
        if not left.size:
            break
        # Not at every row that rests: JAX compiles its operations anew for every number of rows.
        if 2 * left.size <= rows.size:
            x = _put(x, rows, z, start)
            rows, z = rows[left], take(z, left, start)
    return _put(x, rows, z, start), counts, rest


def take(x: Any, rows: Array, like: Input) -> Any:
    """Rows of an array of the framework of `like`."""
    return x[like.framework.asarray(rows.astype(np.int32), like.device)]


def _put(x: Any, rows: Array, new: Any, like: Input) -> Any:
    """`x` with `rows` replaced, in what frameworks with immutable arrays can do as well."""
    if rows.size == x.shape[0]:
        return new
    source, chosen = np.zeros(x.shape[0], np.int64), np.zeros(x.shape[0], bool)
    source[rows], chosen[rows] = np.arange(rows.size), True
    return _choose(chosen, take(new, source, like), x, like)


def _choose(chosen: Array, new: Any, old: Any, like: Input) -> Any:
    """Rows of `new` where `chosen`, of `old` elsewhere."""
    mask = like.framework.asarray(chosen.astype(like.dtype)[:, None], like.device)
    return new * mask + old * (1.0 - mask)
