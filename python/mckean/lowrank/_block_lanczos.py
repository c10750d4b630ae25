"""Lanczos' method with blocks of vectors: equal eigenvalues at once, and products as matrices.

G. H. Golub, C. F. Van Loan, "Matrix Computations", chapter 10.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import random
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._ritz import Copies, Pairs, compress, converged, ritz_vectors, select

__all__ = ["block_pairs"]

_STREAM = 0x626C6F636B000000  # of mk.random
_BREAKDOWN, _NOISE = 50, 1e4  # times eps ||T||
_SHRUNK = 0.1  # what is left of a vector beside its block, below which its direction is uncertain
Matrix = np.ndarray[Any, Any]


def block_pairs(
    A: Matvec,
    start: Any,
    rank: int,
    which: str,
    tol: float,
    limit: int,
    block: int,
    size: int,
    seed: int,
) -> Pairs:
    """Pairs with `size` vectors at most in the basis, besides the block that comes next."""
    return _Blocks(A, start, block, size, seed).run(rank, which, tol, limit)


class _Blocks:
    def __init__(self, A: Matvec, start: Any, block: int, size: int, seed: int) -> None:
        self.A, self.size, self.seed = A, size, seed
        self.basis = A.empty((size + block + 1, A.d)).data
        self.T = np.zeros((size, size))
        self.n, self.width = 0, block  # columns of T; vectors after them
        self.scale, self.products, self.drawn = 0.0, 0, 0
        self.lowest = math.inf  # of all norms that were not noise
        self.basis[0] = start
        for i in range(1, block):
            self._draw(i)

    def _draw(self, row: int) -> None:
        """Row `row` of the basis: random, orthogonal to those before."""
        self.drawn += 1
        z = random.normal(self.seed, self.A.d, stream=_STREAM, counter=self.drawn)
        _native.lanczos_step(
            self.basis, row, self.A.own(z), self.A.place, recurrence=False, passes=2
        )

    def run(self, rank: int, which: str, tol: float, limit: int) -> Pairs:
        A, block, due, copies = self.A, self.width, rank + 1, Copies(rank)
        while True:
            coupling, fresh = self._step()
            n = self.n
            whole, full = n == A.d, n + self.width > self.size
            # Further than that the next block would not go.
            last = self.products + self.width > limit and n >= rank
            if not (n >= due or whole or full or last or fresh):
                continue
            due = n + max(block, 8 if A.d < (rank + 8) ** 2 else 4)
            theta, S = np.linalg.eigh(self.T[:n, :n])
            self.scale = max(self.scale, float(abs(theta[0])), float(abs(theta[-1])))
            chosen = select(theta, which, rank)
            ends = S[n - coupling.shape[0] : n, chosen]
            residuals = np.linalg.norm(coupling.T @ ends, axis=0)
            values = theta[chosen]
            good = n >= rank and converged(values, residuals, tol, self.scale, A.eps)
            good = copies.done(
                values,
                good,
                self.products,
                A.eps * self.scale,
                ended=fresh > 0,
                whole=fresh == self.width,
            )
            if good or whole or last:
                U = ritz_vectors(self.basis, n, S[:, chosen], A)
                return Pairs(U, values, residuals, good or whole)
            if full:
                kept = select(theta, which, min(rank + min(rank, 10), n - 2 * block))
                self._restart(theta[kept], S[:, kept])
                due = 0

    def _step(self) -> tuple[Matrix, int]:
        """Products of the block; what couples it to the next one (width, next width), and how many
        vectors of that are random: drawn, or all noise."""
        A, basis, n = self.A, self.basis, self.n
        m = n + self.width
        W = A.rows(basis[n:m])
        self.products += self.width
        H = np.zeros((m, self.width))
        for _ in range(2):
            h = _native.gram(basis[:m], W, A.place, a_rows=True, b_rows=True)
            if not np.isfinite(h).all():
                A.not_finite()
            _native.multiply(basis[:m], -h, W, A.place, a_rows=True, out_rows=True, add=True)
            H += h
        self.T[n:m, :m] = H.T
        self.scale = max(self.scale, float(np.abs(H).max()))
        width = min(self.width, A.d - m)
        R = np.zeros((self.width, width + 1))
        count = fresh = 0
        for i in range(self.width):
            size = float(
                np.sqrt(
                    _native.gram(W[i : i + 1], W[i : i + 1], A.place, a_rows=True, b_rows=True)[
                        0, 0
                    ]
                )
            )
            norm, h, _ = _native.lanczos_step(
                basis[m:], count, W[i], A.place, recurrence=False, passes=2
            )
            R[i, :count] = h
            if count == width or not norm > _BREAKDOWN * A.eps * self.scale:
                continue
            if norm < _SHRUNK * size:
                _native.lanczos_step(
                    basis,
                    m + count,
                    A.own_data(basis[m + count]),
                    A.place,
                    recurrence=False,
                    passes=2,
                )
            noise = norm <= _NOISE * A.eps * self.scale and norm <= A.eps**0.5 * self.lowest
            fresh += noise
            self.lowest = self.lowest if noise else min(self.lowest, norm)
            R[i, count] = norm
            self.scale = max(self.scale, norm)
            count += 1
        fresh += width - count
        while count < width:
            self._draw(m + count)
            count += 1
        self.n, self.width = m, width
        return R[:, :width], fresh

    def _restart(self, theta: Matrix, S: Matrix) -> None:
        n, p = self.n, len(theta)
        compress(self.basis, n, S, self.A)
        self.basis[p : p + self.width] = self.A.own_data(self.basis[n : n + self.width])
        self.T[...] = 0.0
        self.T[np.arange(p), np.arange(p)] = theta
        self.n = p
