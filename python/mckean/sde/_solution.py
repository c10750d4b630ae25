"""What `sdeint` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Solution"]


@dataclass(slots=True)
class Solution:
    """Solution paths at the save times.

    Attributes
    ----------
    ys : array, shape (n_saves, n, d)
        In the framework, dtype and device of ``y0``; NaN behind the failure of a path.
    ts : ndarray, shape (n_saves,), float64
        The save times.
    converged : bool
        False if a path failed: its state was not finite, or its error too large for the shortest step.
    stats : dict of str to ndarray, shape (n,)
        Per path, int64: "accepted" and "rejected" steps, "clamped", the accepted ones that are as short as allowed
        and have too large an error still, and "evaluations" of the drift; where a path failed, also
        "failed_path", the indices of those that did, and "failed_time", when.
    timings : dict of str to float
        Seconds: "total".
    state : dict or None
        What the solver carries beside y at the end: "z" of `ReversibleHeun` with constant steps.
    """

    ys: Any
    ts: np.ndarray[Any, Any]
    converged: bool
    stats: dict[str, np.ndarray[Any, Any]]
    timings: dict[str, float]
    state: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return (
            f"Solution(ys={tuple(self.ys.shape)}, converged={self.converged}, "
            f"seconds={self.timings.get('total', 0.0):.3g})"
        )
