"""What the Lanczos methods share: which Ritz pairs are wanted, when they are good, what comes back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import to_numpy
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec

__all__ = [
    "WHICH",
    "Copies",
    "Pairs",
    "basis_size",
    "compress",
    "converged",
    "ritz_vectors",
    "select",
]

WHICH = ("LA", "SA", "LM")
_ROWS = 64
_TINY = 1e-10  # eigenvalues this small beside the largest are zero


@dataclass(slots=True)
class Pairs:
    """Eigenpairs as data of the framework, with what is known about them on the host."""

    U: Any  # Output (d, k)
    theta: np.ndarray[Any, Any]
    residuals: np.ndarray[Any, Any]
    converged: bool


def select(theta: np.ndarray[Any, Any], which: str, count: int) -> np.ndarray[Any, Any]:
    """Indices of the `count` wanted of rising `theta`, the most wanted first."""
    n = len(theta)
    if which == "LA":
        return np.arange(n - 1, max(n - 1 - count, -1), -1)
    if which == "SA":
        return np.arange(min(count, n))
    if which == "LM":
        return np.argsort(-np.abs(theta), kind="stable")[:count]
    # both ends in turn, the lowest first
    order = np.empty(n, np.int64)
    order[0::2] = np.arange((n + 1) // 2)
    order[1::2] = np.arange(n - 1, (n + 1) // 2 - 1, -1)
    return order[:count]


def converged(
    theta: np.ndarray[Any, Any],
    residuals: np.ndarray[Any, Any],
    tol: float,
    scale: float,
    eps: float,
) -> bool:
    """Whether residuals are small beside their eigenvalues, or have reached rounding."""
    limit = np.maximum(tol * np.maximum(np.abs(theta), _TINY * scale), 2 * eps * scale)
    return bool((residuals <= limit).all())


class Copies:
    """Whether equal eigenvalues have been looked for.

    A start sees one eigenvector of each eigenvalue. Where its basis turns out to be invariant, a
    random direction beside it follows, and sees others. The wanted values must stay as they are
    while one such direction is followed to its end, which is no further than that of the first.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._found: np.ndarray[Any, Any] | None = None
        self._began, self._longest, self._hold = 0, rank, 0  # products

    def done(
        self,
        values: np.ndarray[Any, Any],
        good: bool,
        products: int,
        rounding: float,
        *,
        ended: bool = False,
        whole: bool = True,
    ) -> bool:
        """Whether `values` may be taken after this many products. `good`: their residuals are small.
        `ended`: the basis is invariant, as a whole or in some directions."""
        if ended:
            self._longest = max(self._longest, products - self._began)
            if whole:
                self._began = products
        elif not good or products < self._hold:
            return False
        elif self._found is None:
            return True
        if self._unchanged(values, rounding):
            return (ended and whole) or (good and products >= self._hold)
        self._found, self._hold = values, products + self._longest
        return False

    def _unchanged(self, values: np.ndarray[Any, Any], rounding: float) -> bool:
        if self._found is None or min(len(values), len(self._found)) < self._rank:
            return False
        return bool(np.abs(np.sort(values) - np.sort(self._found)).max() <= 1e3 * rounding)


def basis_size(A: Matvec, rank: int, wanted: int, least: int) -> int:
    """Vectors a basis may have: `wanted`, less where they do not fit into half the memory, but at
    least `least`. Before the first product float32 is supposed."""
    row = A.d * A.itemsize
    room = _memory() // 2 // row - rank - 2
    least = min(least, wanted)
    if room < least:
        raise MemoryError(
            f"d, rank: expected a basis of {least} vectors to fit into half the memory, got "
            f"{(least + rank + 2) * row / 2**30:.3g} GiB for d = {A.d}, rank = {rank}"
        )
    return min(wanted, room)


def _memory() -> int:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on this system
        return 1 << 62


def compress(basis: Any, n: int, S: np.ndarray[Any, Any], A: Matvec) -> None:
    """Replace the first rows of the basis by its first n rows rotated with the columns of S."""
    _native.multiply(basis[:n], S, basis[: S.shape[1]], A.place, a_rows=True, out_rows=True)


def ritz_vectors(basis: Any, n: int, S: np.ndarray[Any, Any], A: Matvec) -> Any:
    """Output (d, k) of the Ritz vectors, the entry of largest size of each positive."""
    k = S.shape[1]
    U = A.empty((A.d, k))
    _native.multiply(basis[:n], S, U.data, A.place, a_rows=True)
    whole = A.d - A.d % _ROWS
    # Rows side by side: reductions over many short rows are slow.
    wide = U.data[:whole].reshape(whole // _ROWS, _ROWS * k)
    rest = U.data[whole:]
    ends = [_reduce(part, end) for part in (wide, rest) if part.shape[0] for end in ("max", "min")]
    found = np.concatenate([end.reshape(-1, k) for end in ends])
    signs = np.where(found.max(0) < -found.min(0), -1.0, 1.0)
    if (signs < 0).any():
        wide *= A.own(np.tile(signs, _ROWS))
        rest *= A.own(signs)
    return U


def _reduce(part: Any, end: str) -> np.ndarray[Any, Any]:
    reduce = getattr(part, "a" + end, None)  # of torch, whose max(0) gives indices too
    return to_numpy(reduce(0) if reduce is not None else getattr(part, end)(0))
