"""Rectangular matrices from one look: generalised Nystrom and CUR, both A X (Y^T A X)^+ Y^T A.

The common form, with any X and Y, is that of "A theory of meta-factorization".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._errors import as_count, as_seed
from mckean.lowrank._rectangular import Rectangular, as_ranks
from mckean.lowrank._svd import SVDResult
from mckean.lowrank._tall import Doubles, Tall, factor

__all__ = ["CURResult", "cur", "generalized_nystrom"]

_STREAM = 0x67656E6E7973  # "gennys"
_CUT = 10.0  # times eps: what the core's singular values are cut below, relative to the largest


def generalized_nystrom(
    A: Any,
    rank: int,
    *,
    oversample: int | None = None,
    seed: Any = 0,
    shape: Any = None,
    like: Any = None,
) -> SVDResult:
    """Model a rectangular matrix from products with random vectors on both sides, all at once.

    With random ``X`` (n, r) and ``Y`` (m, r + l) the model is ``A X (Y^T A X)^+ Y^T A``. Both products can be taken
    in one pass over A; the error is some times that of the best model of the rank. `block_krylov_svd` is far more
    accurate.

    Parameters
    ----------
    A, seed, shape, like
        As for `randomized_svd`.
    rank : int
        r, at most ``min(m, n)``.
    oversample : int, optional
        l; by default half the rank.

    Returns
    -------
    SVDResult
        Of the framework, dtype and device of A. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        See `randomized_svd`.

    See Also
    --------
    cur, nystrom, randomized_svd

    Notes
    -----
    The core is inverted on its singular values above 10 eps times the largest. A symmetric A with Y = X is `nystrom`'s.

    References
    ----------
    .. [1] Y. Nakatsukasa, "Fast and stable randomized low-rank matrix approximation", 2020, arXiv:2009.11392

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import generalized_nystrom
    >>> A = np.outer(np.arange(30), np.ones(20)) + np.outer(np.ones(30), np.arange(20))
    >>> bool(np.allclose(generalized_nystrom(A, 2).to_dense(), A))
    True
    """
    M = Rectangular(A, shape, like)
    more = None if oversample is None else as_count(oversample, "oversample")
    wanted = as_count(rank, "rank", least=1)
    rank, columns = as_ranks(rank, (wanted + 1) // 2 if more is None else more, "oversample", M)
    m, n = M.shape
    seed = as_seed(seed)
    X = Tall.normal(rank, n, M.dtype, M.place, seed=seed, stream=_STREAM)
    Y = Tall.normal(columns, m, M.dtype, M.place, seed=seed, stream=_STREAM + 1)
    left, right = M.times(X), M.transposed_times(Y)
    core = Y.gram(left)
    L, RL = factor(left)
    R, RR = factor(right)
    P, g, Qt = np.linalg.svd(core, full_matrices=False)
    keep = g > _CUT * np.finfo(M.dtype).eps * g[0]
    small = (RL @ Qt[keep].T / g[keep]) @ (RR @ P[:, keep]).T
    u, s, vt = np.linalg.svd(small, full_matrices=False)
    values = M.framework.asarray(s.astype(M.dtype), M.device)
    return SVDResult(
        left.to_columns(L @ u).result(), values, right.to_rows(R @ vt.T).result(), M.calls
    )


@dataclass(slots=True)
class CURResult:
    """A model ``C U R`` of a matrix made of its own columns and rows.

    Attributes
    ----------
    C : array, shape (m, c)
        ``A[:, columns]``.
    U : array, shape (c, r)
        The pseudoinverse of ``A[rows, columns]``.
    R : array, shape (r, n)
        ``A[rows]``.
    rows, columns : numpy.ndarray of int
    n_products : int
        Products of a vector with the matrix or its transpose.
    """

    C: Any
    U: Any
    R: Any
    rows: Doubles
    columns: Doubles
    n_products: int

    def to_dense(self) -> Any:
        """The matrix, (m, n)."""
        return self.C @ (self.U @ self.R)


def cur(
    A: Any,
    rank: int | None = None,
    *,
    rows: Any = None,
    columns: Any = None,
    oversample: int = 10,
    seed: Any = 0,
    shape: Any = None,
    like: Any = None,
) -> CURResult:
    """Model a matrix by some of its columns and rows: ``A[:, J] A[I, J]^+ A[I]``.

    Parameters
    ----------
    A, seed, shape, like
        As for `randomized_svd`. Of products, columns and rows are read with unit vectors.
    rank : int, optional
        How many columns and rows to choose, at most ``min(m, n)``; needed unless both are given.
    rows, columns : sequence of int, optional
        Take these.
    oversample : int
        Random combinations of rows, in excess of `rank`, by which columns are chosen.

    Returns
    -------
    CURResult
        Exact where ``A[rows, columns]`` has the rank of A. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        See `randomized_svd`.

    See Also
    --------
    generalized_nystrom

    Notes
    -----
    Columns are the first pivots of a QR factorisation of ``Y^T A``, Y random; rows are those of the columns,
    transposed. The columns, rank m numbers, and the sketch, (rank + oversample) n numbers, are copied to the host.

    References
    ----------
    .. [1] S. Voronin, P.-G. Martinsson, "Efficient algorithms for CUR and interpolative matrix decompositions",
       Advances in Computational Mathematics 43, 2017

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import cur
    >>> A = np.outer(np.arange(1, 31), np.ones(20)) + np.outer(np.ones(30), np.arange(20))
    >>> found = cur(A, 2)
    >>> bool(np.allclose(found.to_dense(), A)), found.C.shape, found.R.shape
    (True, (30, 2), (2, 20))
    """
    M = Rectangular(A, shape, like)
    m, n = M.shape
    if rank is None:
        if rows is None or columns is None:
            raise ValueError("rank: expected a number unless rows and columns are given, got None")
        wanted = sketch = 0
    else:
        wanted, sketch = as_ranks(rank, oversample, "oversample", M)
    if columns is None:
        Y = Tall.normal(sketch, m, M.dtype, M.place, seed=as_seed(seed), stream=_STREAM + 2)
        looked = M.transposed_times(Y)
        J = _pivots(M.on_host(looked.to_rows(np.eye(sketch)).result()), wanted)
    else:
        J = _index(columns, "columns", n)
    C = M.columns(J)
    host = M.on_host(C)
    if not np.isfinite(host).all():
        raise FloatingPointError("A: columns hold NaN or infinity")
    rank_rows = _pivots(host.T.copy(), wanted) if rows is None else _index(rows, "rows", m)
    core = host[rank_rows]
    inverse = np.linalg.pinv(core, rcond=_CUT * float(np.finfo(M.dtype).eps))
    U = M.framework.asarray(np.ascontiguousarray(inverse).astype(M.dtype), M.device)
    return CURResult(C, U, M.rows(rank_rows), rank_rows, J, M.calls)


def _pivots(W: Doubles, count: int) -> Doubles:
    """The first pivots of a QR factorisation of W with column pivoting; W is overwritten."""
    free = np.ones(W.shape[1], bool)
    chosen: list[int] = []
    W = np.array(W, np.float64)
    for _ in range(count):
        size = np.where(free, np.einsum("ij,ij->j", W, W), -1.0)
        j = int(np.argmax(size))
        chosen.append(j)
        free[j] = False
        if size[j] > 0.0:
            q = W[:, j] / np.sqrt(size[j])
            W -= np.outer(q, q @ W)
    return np.array(chosen, np.int64)


def _index(values: Any, name: str, size: int) -> Doubles:
    index = np.asarray(values)
    if index.ndim != 1 or not len(index) or index.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected a sequence of integers, got {values!r:.60}")
    if (index < 0).any() or (index >= size).any() or len(set(index.tolist())) != len(index):
        raise ValueError(f"{name}: expected different integers from 0 to {size - 1}")
    return index.astype(np.int64)
