"""Weights of points, the marginals of a plan: checked, and as float64 on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import Input, as_match, check_finite, to_numpy
from mckean.transport._problem import Doubles

__all__ = ["flag", "marginal"]

_OFF = {"float32": 1e-4}  # how far from 1 a sum may be by rounding; else 1e-6


def marginal(
    w: Any,
    name: str,
    size: int,
    batch: int | None,
    at: Input,
    at_name: str,
    *,
    free: Any,
    normalize: bool,
) -> Doubles:
    """Weights (size,) or (batch, size) as (batch, size); None are equal ones, of sum 1.

    Sums are 1 up to rounding, which is taken off, unless the marginals are `free` (one for all, or (batch,)): then any
    positive sum will do.
    """
    count = 1 if batch is None else batch
    if w is None:
        return np.full((count, size), 1.0 / size)
    axes = w.ndim if hasattr(w, "ndim") else np.ndim(w)
    shape = (size,) if batch is None or axes == 1 else (batch, size)
    found = as_match(w, name, at, at_name, shape=shape, any_float=True)
    check_finite(found, name)
    values = to_numpy(found.array).astype(np.float64)
    least = float(values.min())
    if least < 0.0:
        raise ValueError(f"{name}: expected weights >= 0, got {least}")
    with np.errstate(over="ignore"):
        total = values.sum(-1, keepdims=True)
    for got in (float(total.min()), float(total.max())):
        if not 0.0 < got < np.inf:
            raise ValueError(f"{name}: expected weights of a positive, finite sum, got {got}")
    values, total = (np.broadcast_to(v, (count, v.shape[-1])) for v in (values, total))
    met = ~np.broadcast_to(free, count)[:, None]
    if not normalize:
        off = np.where(met, abs(total - 1.0), 0.0)
        if off.max() > _OFF.get(found.dtype, 1e-6):
            raise ValueError(
                f"{name}: expected weights that sum to 1, or normalize=True, or unbalanced=rho, "
                f"got a sum of {total.flat[off.argmax()]:.8g}"
            )
    return np.ascontiguousarray(values / np.where(met | normalize, total, 1.0))


def flag(value: Any, name: str) -> bool:
    """Return `value` if it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)
