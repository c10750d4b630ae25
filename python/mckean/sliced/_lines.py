"""The directions of a call, kept for the next one, and what they say about the error."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from mckean._errors import as_count, as_seed
from mckean.sliced._directions import resolve

__all__ = ["Lines", "lines"]

_FEW, _MANY = 1 << 14, 1 << 21  # numbers: caches of at most 8 and 32 MiB


class Lines(NamedTuple):
    """Directions (P, d) on the host, in the dtype of the points."""

    array: Any
    group: int  # independent of each other: directions (1), frames of so many, or 0: no such parts


def lines(directions: Any, dim: int, n_slices: Any, seed: Any, dtype: str) -> Lines:
    """Return the directions that the arguments of a sliced distance ask for."""
    n_slices, seed = as_count(n_slices, "n_slices", least=1), as_seed(seed)
    if not isinstance(directions, str):
        return Lines(resolve(directions, dim, n_slices, seed, dtype), 1)
    size = n_slices * dim
    make = _few if size <= _FEW else _many if size <= _MANY else _made
    return make(directions, dim, n_slices, seed, dtype)


def _made(kind: str, dim: int, n_slices: int, seed: int, dtype: str) -> Lines:
    array = resolve(kind, dim, n_slices, seed, dtype)
    array.flags.writeable = False
    if kind == "random":
        return Lines(array, 1)
    # In the plane the directions of these kinds are equispaced, hence all tied to each other.
    return Lines(array, dim if kind == "orthogonal" and dim > 2 else 0)


_few = functools.lru_cache(maxsize=64)(_made)
_many = functools.lru_cache(maxsize=2)(_made)
