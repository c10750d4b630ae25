"""Point clouds to project: read and checked."""

from __future__ import annotations

import functools
import math
from typing import Any

from mckean._array import Input, as_input, as_match, check_size
from mckean.interaction._samples import at_least

__all__ = ["check_together", "first_cloud", "second_cloud"]

_MOST = 1 << 31  # points of both clouds of a problem are counted in 32 bits


def first_cloud(x: Any, name: str, exponent: float) -> Input:
    """Check points (n, d) or (batch, n, d), at least one, whose differences to the power `exponent`
    are numbers."""
    at = as_input(x, name)
    shape = at.shape
    if len(shape) not in (2, 3) or shape[-1] == 0:
        raise ValueError(f"{name}: expected shape (n, d) or (batch, n, d), d >= 1, got {shape}")
    return _sound(at, name, exponent)


def second_cloud(y: Any, name: str, at: Input, at_name: str, exponent: float) -> Input:
    """Check the points that are compared with `at`: (m, d), or (batch, m, d) if `at` is a batch."""
    if y is at.array:
        return at
    shape: tuple[int | str, ...] = ("m", at.shape[-1])
    if len(at.shape) == 3 and getattr(y, "ndim", 2) == 3:
        shape = (at.shape[0], *shape)
    return _sound(as_match(y, name, at, at_name, shape=shape), name, exponent)


def check_together(n: int, m: int) -> None:
    """Raise unless points of x and y can be numbered."""
    if n + m >= _MOST:
        raise ValueError(f"y: expected fewer than {_MOST} points with those of x, got {n} + {m}")


def _sound(at: Input, name: str, exponent: float) -> Input:
    count = at.shape[-2]
    at_least(count, 1, name)
    if count >= _MOST:
        raise ValueError(f"{name}: expected fewer than {_MOST} points, got {count}")
    check_size(at, name, *_limit(at.dtype, at.shape[-1], exponent))
    return at


@functools.lru_cache(maxsize=256)
def _limit(dtype: str, dim: int, exponent: float) -> tuple[float, str]:
    """How large a coordinate may be, and why."""
    # Centred points reach twice their size, and a projection their length.
    type_limit = 1e38 if dtype == "float32" else 1e150
    power_limit = 10.0 ** (300.0 / max(exponent, 2.0))
    what = f"whose projections fit into {dtype}"
    if power_limit < type_limit:
        what = f"whose differences to the power {exponent:g} fit into float64"
    return 0.5 * min(type_limit, power_limit) / math.sqrt(dim), what
