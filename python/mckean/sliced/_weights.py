"""Weights of points: any that are not negative, made to sum to 1 in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import FRAMEWORKS, Framework, Input, as_match, to_numpy

__all__ = ["doubles", "probabilities"]


def doubles(memory: Framework, device: str) -> Framework:
    """The framework whose float64 arrays native code reads beside those of `memory`."""
    if device == "cpu":
        return FRAMEWORKS["numpy"]
    # JAX may have no float64.
    return FRAMEWORKS["cupy"] if memory.name == "jax" else memory


def probabilities(
    w: Any, name: str, points: Input, points_name: str, memory: Framework, device: str
) -> Any:
    """Check weights of `points` and return them with sums of 1, a row for every cloud, where native
    code works."""
    rows = points.shape[:-1]
    shared = len(rows) == 2 and (w.ndim if hasattr(w, "ndim") else np.ndim(w)) == 1
    shape = rows[1:] if shared else rows
    found = as_match(w, name, points, points_name, shape=shape, any_float=True)
    wide = doubles(memory, device)
    on_host = found.device == "cpu" or found.framework.name == "jax"
    if on_host:
        a = to_numpy(found.array).astype(np.float64)
    else:
        a = found.framework.cast(found.array, "float64")
    if 0 not in shape:
        with np.errstate(over="ignore"):
            least, total = float(a.min()), a.sum(-1)
        if not least >= 0.0:
            raise ValueError(f"{name}: expected weights >= 0, got {least}")
        low, high = float(total.min()), float(total.max())
        if not 0.0 < low <= high < np.inf:
            got = high if low > 0.0 else low
            raise ValueError(f"{name}: expected weights of a positive, finite sum, got {got}")
        a = a / total[..., None]
    if shared:
        nothing = np.zeros((rows[0], 1))
        a = a + (nothing if on_host else wide.asarray(nothing, device))
    return wide.asarray(a, device) if on_host and device != "cpu" else a
