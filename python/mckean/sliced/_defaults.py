"""Defaults of the sliced distances, told apart from equal numbers that a caller gives.

Beside a target, which brings its own settings, only what was given can contradict it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DIRECTIONS", "ORDER", "RIESZ", "SEED", "SLICES", "given"]


class _Int(int):
    """A whole number that nobody gave."""


class _Float(float):
    """A number that nobody gave."""


class _Str(str):
    """A name that nobody gave."""

    __slots__ = ()


SLICES, SEED, ORDER = _Int(100), _Int(0), _Int(2)
RIESZ = _Float(1.0)
DIRECTIONS = _Str("orthogonal")


def given(value: Any) -> bool:
    """Whether a caller gave this value."""
    return not isinstance(value, (_Int, _Float, _Str))
