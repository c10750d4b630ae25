"""Element-wise formulas on particles of any framework, and a safeguarded Newton iteration for one
equation per element."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import Framework, Input, as_input, to_numpy
from mckean._errors import ConvergenceWarning

__all__ = ["Maths", "increasing_root", "number_or_row", "particles"]

Array = np.ndarray[Any, Any]
_MODULES = {"numpy": "numpy", "torch": "torch", "jax": "jax.numpy", "cupy": "cupy"}
_MAX_ITERATIONS = 200


class Maths:
    """The functions of an array's framework, and parameters as arrays beside it."""

    def __init__(self, like: Input) -> None:
        self.framework: Framework = like.framework
        self.dtype, self.device, self.shape = like.dtype, like.device, like.shape
        self.xp = importlib.import_module(_MODULES[like.framework.name])
        self.eps = float(np.finfo(like.dtype).eps)
        self.tiny = float(np.finfo(like.dtype).tiny)
        self.huge = float(np.finfo(like.dtype).max)

    def array(self, a: Array) -> Any:
        """NumPy numbers in this framework and dtype."""
        return self.framework.asarray(np.ascontiguousarray(a, self.dtype), self.device)

    def indices(self, a: Array) -> Any:
        return self.framework.asarray(np.ascontiguousarray(a, np.int64), self.device)

    def row(self, value: Array, name: str) -> Any:
        """A parameter, one number or one per coordinate, to be broadcast against (n, d)."""
        if value.ndim == 0:
            return float(value)
        if value.shape[0] != self.shape[1]:
            raise ValueError(
                f"{name}: expected shape ({self.shape[1]},) to match x {self.shape}, "
                f"got {value.shape}"
            )
        return self.array(value)

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        """`x` within bounds; NaN stays."""
        x = self.xp.where(x < low, low, x)
        return self.xp.where(x > high, high, x)

    def positive_part(self, x: Any) -> Any:
        return self.xp.where(x <= 0, 0.0, x)

    def sorted(self, x: Any) -> Any:
        """In increasing order along rows."""
        out = self.xp.sort(x, -1)
        return getattr(out, "values", out)  # torch returns the order too

    def length(self, x: Any) -> Any:
        """Euclidean norms of rows, (n,), that neither overflow nor underflow."""
        top = self.framework.row_max(abs(x))
        usable = (top > 0) & (top <= self.huge)
        scale = self.xp.where(usable, top, top * 0 + 1)
        return scale * self.xp.sqrt(((x / scale[:, None]) ** 2).sum(-1))


def particles(x: Any, name: str = "x") -> tuple[Any, Maths]:
    """The array `x`, shape (n, d), and the functions that go with it."""
    at = as_input(x, name, shape=("n", "d"))
    return at.array, Maths(at)


def number_or_row(value: Any, name: str, *, infinite: bool = False) -> Array:
    """A float64 copy of a number or of one number per coordinate."""
    try:
        out = np.array(to_numpy(value), np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers, got {type(value).__name__}") from None
    if out.ndim > 1:
        raise ValueError(f"{name}: expected a number or shape (d,), got shape {out.shape}")
    if np.isnan(out).any() or (not infinite and not np.isfinite(out).all()):
        raise ValueError(
            f"{name}: expected {'no NaN' if infinite else 'finite numbers'}, got {out}"
        )
    out.setflags(write=False)
    return out


def increasing_root(
    maths: Maths, function: Callable[[Any], tuple[Any, Any]], low: Any, high: Any, start: Any
) -> Any:
    """The root of an increasing function, element by element, within [low, high].

    `function` returns value and slope; its terms are no larger than the root and `start`. A Newton
    step that leaves the bracket, or does not halve the last step, is replaced by a bisection, so
    the number of iterations is bounded.
    """
    xp, x = maths.xp, start
    previous = high - low
    left = 0
    for _ in range(_MAX_ITERATIONS):
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value, slope = function(x)
            low = xp.where(value <= 0, x, low)
            high = xp.where(value >= 0, x, high)
            newton = x - value / slope
            good = (newton >= low) & (newton <= high) & (2 * abs(value) <= abs(previous * slope))
            following = xp.where(good, newton, low + (high - low) / 2)
            # A value that is rounding error says nothing about where the root is.
            found = abs(value) <= 4 * maths.eps * (abs(x) + abs(start))
            following = xp.where(found, x, following)
            previous = following - x
            # NaN counts as done: it stays NaN whatever is iterated.
            moving = abs(previous) > 2 * maths.eps * abs(following) + maths.tiny
        x = following
        left = int(moving.sum())
        if not left:
            return x
    warnings.warn(
        f"{left} Bregman proximal points did not converge in {_MAX_ITERATIONS} Newton iterations",
        ConvergenceWarning,
        stacklevel=4,
    )
    return x
