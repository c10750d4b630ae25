"""The low-rank model U diag(s) U^T + sigma I and its functions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import as_input, as_match, to_numpy
from mckean._errors import as_real
from mckean.lowrank import _native

__all__ = ["LowRankOperator"]


class LowRankOperator:
    """U diag(s) U^T + sigma I."""

    def __init__(self, U: Any, s: Any, *, sigma: float = 0.0) -> None:
        self._U = as_input(U, "U")
        lead = self._U.shape[:-2]
        self._s = as_match(s, "s", self._U, "U", shape=(*lead, self._U.shape[-1]))
        self.sigma = as_real(sigma, "sigma")
        self._values = np.asarray(to_numpy(self._s.array), np.float64)
        self.residuals: Any = None
        self.converged = True
        self.n_matvecs = 0

    U = property(lambda self: self._U.array)
    s = property(lambda self: self._s.array)
    place = property(lambda self: (self._U.framework, self._U.device))

    def shift(self, damping: float, function: int) -> np.ndarray[Any, Any]:
        t = np.atleast_1d(np.asarray(damping, float) + self.sigma)
        least = float(self._values.min()) if self._values.size else 0.0
        if function != _native.MATVEC and (
            t.min() + min(least, 0.0) <= 0 and not (t.min() == 0 and least > 0)
        ):
            raise ValueError(
                f"damping: expected damping + sigma + min(s) > 0, got damping + sigma = "
                f"{t.min():.6g} and min(s) = {least:.6g}"
            )
        return t

    def apply(self, function: int, b: Any, damping: float = 0.0, *, axis: int = 0) -> Any:
        if b.ndim == 2 and axis == 0 and len(self._U.shape) == 2:
            return self.apply(function, b.T, damping, axis=-1).T
        x = as_match(b, "b", self._U, "U", shape=b.shape)
        out = x.framework.empty(x.shape, x.dtype, x.device)
        t = self.shift(damping, function)
        _native.apply(
            self._U.data, self._s.data, t, [(function, 1.0, x.data)], out.data, self.place
        )
        return out.result()

    def matvec(self, v: Any, damping: float = 0.0, *, axis: int = 0) -> Any:
        return self.apply(_native.MATVEC, v, damping, axis=axis)

    def solve(self, b: Any, damping: float = 0.0, *, axis: int = 0) -> Any:
        return self.apply(_native.SOLVE, b, damping, axis=axis)

    def sqrt_solve(self, b: Any, damping: float = 0.0, *, axis: int = 0) -> Any:
        return self.apply(_native.SQRT_SOLVE, b, damping, axis=axis)

    def sqrt_matvec(self, b: Any, damping: float = 0.0, *, axis: int = 0) -> Any:
        return self.apply(_native.SQRT_MATVEC, b, damping, axis=axis)

    def logdet(self, damping: float = 0.0) -> Any:
        t = self.shift(damping, _native.SOLVE)
        d, k = self._U.shape[-2:]
        logs = np.log(t[..., None] + self._values).sum(-1)
        return logs + ((d - k) * np.log(t) if d > k else 0.0)

    def trace(self) -> Any:
        return self._values.sum(-1) + self._U.shape[-2] * self.sigma
