"""The noise of some paths of a tree, at the cost of about these paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import _array
from mckean.brownian import BrownianTree, FractionalBrownianTree

__all__ = ["PathsOf", "Values", "paths_of"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

_APART = 128  # paths that cost about as much as a query of its own


@dataclass
class Values:
    """Increments and areas, or None."""

    W: Any
    H: Any
    K: Any


def paths_of(tree: Any, rows: Ints, elsewhere: Floats) -> Any:
    """An object with ``increment(s, t)`` for the paths `rows` (k,), increasing: what the whole tree has there.

    `elsewhere` (n,): times at which the others are asked for nothing, where a tree of the caller's own cannot be cut.
    """
    if isinstance(tree, (BrownianTree, FractionalBrownianTree)):
        return PathsOf(tree, rows)
    return _Whole(tree, rows, elsewhere)


class PathsOf:
    """Runs of paths of a tree, with those between that are too few to be left out."""

    def __init__(self, tree: Any, rows: Ints) -> None:
        cuts = np.flatnonzero(np.diff(rows) > _APART) + 1
        if tree.device != "cpu":
            cuts = cuts[:0]
        self._runs = []
        start = 0
        for run in np.split(rows, cuts):
            first, last = int(run[0]), int(run[-1]) + 1
            dense = last - first == run.size
            self._runs.append(
                (
                    tree[first:last],
                    slice(start, start + run.size),
                    None if dense else run - first,
                )
            )
            start += run.size

    def increment(self, s: Floats, t: Floats) -> Values:
        """The increments from `s` to `t`, shape (k,), as `BrownianTree.increment` has them."""
        found = [_of_run(*run, s, t) for run in self._runs]
        if len(found) == 1:
            return Values(*found[0])
        return Values(*map(_joined, zip(*found, strict=True)))


def _of_run(tree: Any, part: slice, index: Ints | None, s: Floats, t: Floats) -> Any:
    s, t = s[part], t[part]
    if index is None:
        values = tree.increment(s, t)
        return values.W, values.H, values.K
    first = np.full(tree.shape[0], tree.t0)
    last = first.copy()
    first[index], last[index] = s, t
    values = tree.increment(first, last)
    return tuple(_taken(x, index) for x in (values.W, values.H, values.K))


def _joined(parts: Any) -> Any:
    return None if parts[0] is None else _array.framework_of(parts[0]).concatenate(list(parts))


def _taken(x: Any, rows: Ints) -> Any:
    if x is None:
        return None
    framework = _array.framework_of(x)
    if framework.name == "numpy":
        return x[rows]
    return x[framework.asarray(rows, framework.device(x, "tree"))]


class _Whole:
    def __init__(self, tree: Any, rows: Ints, elsewhere: Floats) -> None:
        self._tree, self._rows, self._elsewhere = tree, rows, elsewhere

    def increment(self, s: Floats, t: Floats) -> Values:
        first, last = self._elsewhere.copy(), self._elsewhere.copy()
        first[self._rows], last[self._rows] = s, t
        values = self._tree.increment(first, last)
        return Values(*[_taken(getattr(values, name, None), self._rows) for name in "WHK"])
