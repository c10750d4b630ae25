"""Random orders and subsets of points, from counters."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import framework_of
from mckean.random import uniform

__all__ = ["permutation", "rows", "subset"]


def permutation(seed: Any, n: int, *, stream: int, counter: int = 0) -> Any:
    """Return a random order of 0..n-1, a pure function of (`seed`, `stream`, `counter`, `n`)."""
    return np.argsort(uniform(seed, n, stream=stream, counter=counter), kind="stable")


def subset(seed: Any, n: int, size: int, *, stream: int, counter: int = 0) -> Any:
    """Return `size` of 0..n-1 without replacement, in increasing order."""
    if size == n:
        return np.arange(n)
    u = uniform(seed, n, stream=stream, counter=counter)
    return np.sort(np.argpartition(u, size)[:size])


def rows(a: Any, index: Any) -> Any:
    """Return the rows `index` (a NumPy array of any shape) of an array of any framework."""
    framework = framework_of(a)
    if framework.name in ("torch", "cupy"):
        index = framework.asarray(index, framework.device(a, "index"))
    return a[index]
