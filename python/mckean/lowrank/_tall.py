"""Tall matrices, of many rows and few columns, as the two native passes see them: Gram matrices and products with small
matrices. The orthonormal factor and the singular value decomposition are made of these.

A tall matrix (dim, columns) is kept as its transpose, C-contiguous: each column is one vector in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Framework, Output
from mckean._dispatch import executor
from mckean.lowrank import _native

__all__ = ["Tall", "factor", "orthonormalize", "svd"]

Doubles = np.ndarray[Any, Any]
FILL_STREAM = 0x74616C6C2E66696C  # "tall.fil"
_PASSES = 6  # three are enough for anything but an adversary
_LAST = 30.0  # condition of a Gram matrix from which one more pass leaves working precision
_DROPPED = 4.0  # times columns times eps: a singular value below this is that of rounding


@dataclass(slots=True)
class Tall:
    """Vectors as rows: `data` (columns, dim), memory of the executor of `device`."""

    data: Any
    framework: Framework
    device: str
    dtype: str

    @classmethod
    def empty(cls, columns: int, dim: int, dtype: str, place: tuple[Framework, str]) -> Tall:
        framework, device = place
        return cls(framework.empty((columns, dim), dtype, device).data, framework, device, dtype)

    @classmethod
    def normal(
        cls,
        columns: int,
        dim: int,
        dtype: str,
        place: tuple[Framework, str],
        *,
        seed: int,
        stream: int,
        counter: int = 0,
    ) -> Tall:
        out = cls.empty(columns, dim, dtype, place)
        out.fill_normal(seed, stream, counter)
        return out

    columns = property(lambda self: int(self.data.shape[0]))
    dim = property(lambda self: int(self.data.shape[1]))
    place = property(lambda self: (self.framework, self.device))
    queue = property(lambda self: self.framework.queue(self.device))

    def __getitem__(self, which: slice) -> Tall:
        return Tall(self.data[which], self.framework, self.device, self.dtype)

    def fill_normal(self, seed: int, stream: int, counter: int) -> None:
        if self.columns:
            executor(self.device).fill_normal(self.data, seed, stream, counter, 0, self.queue)

    def set(self, data: Any) -> None:
        """Copy native memory of the same shape."""
        self.data[...] = data

    def combine(self, coefficients: list[float], arrays: list[Any]) -> None:
        """Become a linear combination of native arrays, of which this may be one."""
        executor(self.device).combine(
            [self.data],
            arrays,
            np.array([coefficients]),
            [],
            np.zeros(1),
            [],
            self.columns,
            self.dim,
            0,
            0,
            0,
            self.queue,
        )

    def gram(self, other: Tall | None = None) -> Doubles:
        """The dot products of these columns with those of `other`, float64."""
        b = self if other is None else other
        return _native.gram(self.data, b.data, self.place, a_rows=True, b_rows=True)

    def norm(self) -> float:
        """Frobenius."""
        if not self.columns:
            return 0.0
        flat = self.data.reshape(1, -1)
        return math.sqrt(
            float(_native.gram(flat, flat, self.place, a_rows=True, b_rows=True)[0, 0])
        )

    def times(self, m: Doubles, out: Tall | None = None, *, add: bool = False) -> Tall:
        """These columns times the small m (columns, k); `out` may be (the first of) these."""
        if out is None:
            out = Tall.empty(m.shape[1], self.dim, self.dtype, self.place)
        _native.multiply(self.data, m, out.data, self.place, a_rows=True, out_rows=True, add=add)
        return out

    def to_columns(self, m: Doubles) -> Output:
        """The same as an array (dim, k) of the caller's framework."""
        out = self.framework.empty((self.dim, m.shape[1]), self.dtype, self.device)
        _native.multiply(self.data, m, out.data, self.place, a_rows=True)
        return out

    def to_rows(self, m: Doubles) -> Output:
        """Their transpose, (k, dim)."""
        out = self.framework.empty((m.shape[1], self.dim), self.dtype, self.device)
        _native.multiply(self.data, m, out.data, self.place, a_rows=True, out_rows=True)
        return out


def factor(Y: Tall) -> tuple[Doubles, Doubles]:
    """Y = Q R, orthonormal Q = Y' X: returns X and R (columns, columns), and leaves Y' in the memory of Y.

    The product Y' X is left to the caller, who mostly wants another small matrix after it. At most as many columns
    as rows. Columns that depend on the others to rounding give a zero singular value of R and a direction of Q that
    was drawn.

    Passes of Gram matrix and product, as in CholeskyQR2 and its shifted form (T. Fukaya, R. Kannan, Y. Nakatsukasa,
    Y. Yamamoto, Y. Yanagisawa, "Shifted Cholesky QR for computing the QR factorization of ill-conditioned
    matrices", SIAM J. Sci. Comput. 42, 2020), but with the eigenvectors of the Gram matrix instead of its Cholesky
    factor (A. Stathopoulos, K. Wu, "A block orthogonalization procedure with constant synchronization
    requirements", SIAM J. Sci. Comput. 23, 2002): then X is a diagonal times an orthogonal matrix up to the scale
    of columns, and |X| |R| is small, so that the product with an explicit inverse has the backward error of
    Householder's method, whatever the condition of Y.
    """
    n, eps = Y.columns, float(np.finfo(Y.dtype).eps)
    R = np.eye(n)
    least = _DROPPED * max(n, 1) * eps
    # Below this an eigenvalue of the Gram matrix is rounding, of its float64 sums or of the product that follows.
    floor = max(max(n, 4) * 2.0**-52, (8.0 * eps) ** 2)
    depth = 1.0  # no singular value is seen below this, relative to the largest
    for done in range(_PASSES):
        G = Y.gram()
        if not np.isfinite(G).all():
            raise FloatingPointError("a tall matrix has columns that are not finite, or too large")
        size = np.sqrt(np.diag(G).clip(0.0))
        scale = np.where(size > 0.0, size, 1.0) if done == 0 else np.ones(n)
        g, P = np.linalg.eigh((G + G.T) / 2 / np.outer(scale, scale))
        g, P = g[::-1], P[:, ::-1]
        top = g[0] if n and g[0] > 0.0 else 1.0
        lost = g < floor * top
        root = np.sqrt(np.where(lost, floor * top, g))
        X = P / root / scale[:, None]
        step = root[:, None] * P.T * scale
        if n == 0 or (not lost.any() and g[-1] * _LAST >= top):
            return X, step @ R
        R = step @ R
        Y.times(X, Y)
        depth *= math.sqrt(floor)
        if lost.any() and depth <= least:
            # Seen from far enough to say that there is nothing: any other directions serve.
            first = int(np.argmax(lost))
            Y[first:].fill_normal(n, FILL_STREAM, done)
            Y[first:].combine([1.0 / math.sqrt(Y.dim)], [Y[first:].data])
            R[first:] = 0.0
    raise FloatingPointError("a tall matrix could not be orthonormalised")


def orthonormalize(Y: Tall) -> Doubles:
    """Y becomes its orthonormal factor; returns R."""
    X, R = factor(Y)
    Y.times(X, Y)
    return R


def svd(Y: Tall) -> tuple[Doubles, Doubles, Doubles]:
    """Y = U diag(s) Vt: returns M, s and Vt, U being the product Y' M of what is left in the memory of Y."""
    X, R = factor(Y)
    left, s, Vt = np.linalg.svd(R)
    return X @ left, s, Vt
