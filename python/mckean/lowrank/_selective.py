"""Estimates of how far Lanczos vectors have lost their orthogonality, and when to restore it.

H. D. Simon, "The Lanczos algorithm with partial reorthogonalization", Mathematics of Computation 42,
1984, doi:10.1090/S0025-5718-1984-0725988-X.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import random

__all__ = ["Loss"]

_STREAM = 0x73656C6563740000  # of mk.random


class Loss:
    """omega_i ~ v_{n} . v_i, by the recurrence that the vectors themselves satisfy.

    A V = V T + beta v e^T in exact arithmetic, so products with A exchange sides:
    beta_n omega_{n+1,i} = (T omega_n)_i - alpha_n omega_{n,i} - beta_{n-1} omega_{n-1,i} + rounding.
    T may be dense, as it is after a restart.
    """

    def __init__(self, size: int, d: int, eps: float, seed: int) -> None:
        self._eps, self._limit, self._seed = eps, math.sqrt(eps), seed
        self._start = eps * math.sqrt(d)
        self._now, self._before = np.zeros(size + 1), np.zeros(size + 1)
        self._count = 0

    def restart(self, n: int) -> None:
        """Row n of the basis has just been made orthogonal to those before."""
        self._before[:n] = self._eps
        self._now[:n] = self._eps
        self._now[n] = 1.0

    def lost(self, n: int, T: np.ndarray[Any, Any], before: float, beta: float) -> bool:
        """Go on to vector n (rows and columns < n of T known, the last n - 1); whether it must be
        made orthogonal again. `before`, `beta`: norms that v_{n-1} and v_n were divided by."""
        i = n - 1
        now, old = self._now[:n], self._before[:n]
        product = T[:n, :n] @ now
        self._count += 1
        noise = random.normal(self._seed, n, stream=_STREAM, counter=self._count)
        size = np.abs(np.diagonal(T, -1)[: n - 1]) if n > 1 else np.zeros(0)
        size = np.append(size, beta) + beta
        with np.errstate(all="ignore"):
            nxt = (product - T[i, i] * now - before * old + 0.3 * self._eps * size * noise) / beta
        nxt[i] = self._start
        self._before[:n] = now
        self._now[:n] = nxt
        self._now[n] = 1.0
        return not float(np.abs(nxt).max()) <= self._limit

    def restored(self, n: int) -> None:
        self._now[:n] = self._eps
