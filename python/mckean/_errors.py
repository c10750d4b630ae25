"""Exceptions, warnings and the one-line checks that every module shares."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

__all__ = [
    "CheckpointError",
    "ConvergenceWarning",
    "DeviceError",
    "OutOfRange",
    "as_count",
    "as_real",
    "as_seed",
    "nonnegative",
    "one_of",
    "positive",
]


class DeviceError(RuntimeError):
    """Raised when an executor is asked for that this machine or build does not have."""


class ConvergenceWarning(UserWarning):
    """Issued when a result is returned that did not converge; ``result.converged`` says the
    same."""


class OutOfRange(ValueError):
    """Raised for finite numbers that are too large to compute with."""

    def __init__(self, message: str, limit: float) -> None:
        super().__init__(message, limit)
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])


class CheckpointError(ValueError):
    """Raised for a checkpoint that is damaged or belongs to a different run."""


def as_real(value: Any, name: str) -> float:
    """Return `value` as a finite float; arrays of one element count, booleans do not."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None:
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number


def positive(value: Any, name: str) -> float:
    """Return `value` as a float > 0."""
    number = as_real(value, name)
    if number <= 0:
        raise ValueError(f"{name}: expected a positive number, got {number}")
    return number


def nonnegative(value: Any, name: str) -> float:
    """Return `value` as a float >= 0."""
    number = as_real(value, name)
    if number < 0:
        raise ValueError(f"{name}: expected a number >= 0, got {number}")
    return number


def as_count(value: Any, name: str, *, least: int = 0, below: int | None = None) -> int:
    """Return `value` as an int with ``least <= value < below``; floats and booleans are refused."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if number < least or (below is not None and number >= below):
        end = "" if below is None else f" and below 2**{below.bit_length() - 1}"
        raise ValueError(f"{name}: expected an integer of at least {least}{end}, got {number}")
    return number


def as_seed(seed: Any, name: str = "seed") -> int:
    """Return a 64-bit seed from an int or a `numpy.random.SeedSequence`."""
    if isinstance(seed, np.random.SeedSequence):
        return int(seed.generate_state(1, np.uint64)[0])
    if seed is None:
        raise TypeError(f"{name}: expected an int or numpy.random.SeedSequence, got None")
    return as_count(seed, name, below=1 << 64)


def one_of(value: Any, name: str, valid: tuple[str, ...]) -> str:
    """Return `value` if it is one of the names in `valid`."""
    if isinstance(value, str) and value in valid:
        return value
    raise ValueError(f"{name}: expected one of {', '.join(map(repr, valid))}, got {value!r}")
