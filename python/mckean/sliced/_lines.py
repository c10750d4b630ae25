"""The directions of a call, and what they say about its error."""

from __future__ import annotations

from typing import Any, NamedTuple

from mckean.sliced._directions import resolve

__all__ = ["Lines", "lines"]


class Lines(NamedTuple):
    """Directions (P, d) on the host, in the dtype of the points."""

    array: Any
    group: int  # independent of each other: directions (1), frames of so many, or 0: no such parts


def lines(directions: Any, dim: int, n_slices: Any, seed: Any, dtype: str) -> Lines:
    """Return the directions that the arguments of a sliced distance ask for."""
    array = resolve(directions, dim, n_slices, seed, dtype)
    if not isinstance(directions, str) or directions == "random":
        return Lines(array, 1)
    # In the plane the directions of the other kinds are equispaced, hence all tied to each other.
    return Lines(array, dim if directions == "orthogonal" and dim > 2 else 0)
