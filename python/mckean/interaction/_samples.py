"""What the estimators share: reading points and weights, and handing scalars back."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite, to_numpy

__all__ = ["at_least", "host", "points", "scalars", "unit_weights"]


def at_least(n: int, least: int, name: str) -> None:
    """Raise ValueError for fewer than `least` points."""
    if n < least:
        raise ValueError(f"{name}: expected at least {least} point{'s' * (least > 1)}, got {n}")


def points(x: Any, name: str) -> Input:
    """Check an array of points (n, d) or (batch, n, d)."""
    at = as_input(x, name)
    if len(at.shape) not in (2, 3):
        raise ValueError(f"{name}: expected shape (n, d) or (batch, n, d), got {at.shape}")
    check_finite(at, name)
    return at


def unit_weights(w: Any, name: str, of: Input, of_name: str) -> Any:
    """Check weights of points that sum to 1: None, or as the core takes them and as float64 on the host."""
    if w is None:
        return None
    found = as_match(w, name, of, of_name, shape=of.shape[:-1])
    check_finite(found, name)
    values = host(found.array)
    total = values.sum(axis=-1)
    off = np.abs(total - 1.0)
    if off.size and off.max() > (1e-5 if found.dtype == "float32" else 1e-8):
        raise ValueError(
            f"{name}: expected weights that sum to 1, got a sum of {total.flat[off.argmax()]}"
        )
    return found.array, values


def host(a: Any) -> Any:
    """Copy an array of any framework to NumPy in float64."""
    return to_numpy(a).astype(np.float64)


def scalars(value: Any, at: Input) -> Any:
    """Return one value as a float, and those of a batch as an array like `at`."""
    if len(at.shape) == 2:
        return float(value)
    return at.framework.asarray(np.ascontiguousarray(value, at.dtype), at.device)
