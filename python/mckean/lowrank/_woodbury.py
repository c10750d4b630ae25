"""Models W W^T + t I and D + W W^T with columns that need not be orthonormal.

Everything goes through the small Gram matrix W^T W, summed in float64, and the identities of Woodbury and Sylvester:
G. H. Golub, C. F. Van Loan, "Matrix Computations", Johns Hopkins University Press.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import as_count, as_real
from mckean.lowrank import _native
from mckean.lowrank._native import SOLVE, SQRT_SOLVE
from mckean.lowrank._operator import LowRankOperator, in_doubles
from mckean.lowrank._tall import Tall, svd

__all__ = [
    "from_factor",
    "woodbury_logdet",
    "woodbury_noise",
    "woodbury_solve",
    "woodbury_sqrt_solve",
]

Doubles = np.ndarray[Any, Any]
_NATIVE_RANK = 32  # up to which one vector goes to native code, as an item of a batch does
_HOST_RANK = 64  # above which items of a batch go one by one, with NumPy's algebra of k x k
_SPREAD = {"float32": 1e-2, "float64": 1e-5}  # of eigenvalues: one Gram matrix is not enough for U


def from_factor(W: Any, *, rank: int | None = None) -> LowRankOperator:
    """The model A = W W^T of any columns, such as gradients of samples, in the form of orthonormal columns.

    Eigenvalues below k eps of the largest are dropped, eps being 2e-16, or 1.4e-14 for float32: `rank` of the result
    is that of W. In a batch they stay as zeros, with columns of zeros.

    Parameters
    ----------
    W : array, shape (d, k) or (batch, d, k), float32 or float64
        Fewer columns than rows or more.
    rank : int, optional
        The largest number of pairs to keep, those of the largest eigenvalues.

    Returns
    -------
    LowRankOperator
        With ``s`` decreasing. For one thing to be done once, `woodbury_solve` and its siblings are cheaper.

    Raises
    ------
    TypeError, ValueError
        If `W` is not a matrix or a batch of matrices, or not finite.

    Notes
    -----
    The Gram matrix has the squares of singular values, so that those below 1e-8 of the largest have few digits. A
    single W of such a spread, and items of k > 64, are made orthonormal a second time, and U^T U - I is of the order
    of rounding; in other batches it is not.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> W = np.array([[1.0, 1.0], [1.0, -1.0], [0.0, 0.0]])
    >>> op = mk.lowrank.from_factor(W)
    >>> op.s, bool(np.allclose(op.to_dense(), W @ W.T))
    (array([2., 2.]), True)
    """
    x = as_input(W, "W")
    if len(x.shape) not in (2, 3):
        raise ValueError(f"W: expected shape (d, k) or (batch, d, k), got {tuple(x.shape)}")
    *lead, d, k = x.shape
    most = min(d, k) if rank is None else min(d, k, as_count(rank, "rank", least=1))
    if lead:
        return _batch_model(x, most)
    if k > d:
        rows = _native.gram(x.data, x.data, (x.framework, x.device), a_rows=True, b_rows=True)
        s, Q = _spectrum(rows, x, most, k)
        U = x.framework.asarray(np.ascontiguousarray(Q, x.dtype), x.device)
        return _model(U, s, x)
    place = x.framework, x.device
    s, Q = _spectrum(_native.gram(x.data, x.data, place), x, min(d, k), k)
    if s.size and s[-1] < _SPREAD[x.dtype] * s[0]:
        return _whole_model(x, most)
    s, Q = s[:most], Q[:, :most]
    out = x.framework.empty((d, s.size), x.dtype, x.device)
    if s.size:
        _native.multiply(x.data, Q / np.sqrt(s), out.data, place)
    return _model(out.result(), s, x)


def _whole_model(x: Input, most: int) -> LowRankOperator:
    """Of one W whose Gram matrix does not show the small singular values."""
    d, k = x.shape
    columns = Tall.empty(k, d, x.dtype, (x.framework, x.device))
    columns.set(x.data.T)
    M, values, _ = svd(columns)
    s = values**2
    count = min(most, int((s > _floor(k, x.dtype) * s[0]).sum()))
    return _model(columns.to_columns(M[:, :count]).result(), s[:count], x)


def woodbury_solve(
    W: Any,
    b: Any,
    damping: Any = 0.0,
    *,
    diagonal: Any = None,
    core: Any = None,
    axis: int = 0,
) -> Any:
    """(W W^T + damping I)^-1 b, or (D + W W^T)^-1 b, or (W C W^T + damping I)^-1 b.

    Parameters
    ----------
    W : array, shape (d, k) or (batch, d, k), float32 or float64
        Any columns.
    b : array, shape (d,), (d, p) or with ``axis=-1`` (n, d); for a batch (batch, d)
    damping : float or array, shape (batch,), optional
        > 0 without a diagonal.
    diagonal : array, shape (d,) or (batch, d), optional
        D without `damping`, which is added to it; > 0 then.
    core : array, shape (k, k), optional
        The symmetric matrix C of any signature, for one W without a diagonal.
    axis : {0, -1}, optional
        The axis of a matrix b along which vectors lie.

    Returns
    -------
    array, shape of `b`

    Raises
    ------
    TypeError, ValueError
        If arguments do not match, or the matrix is singular to rounding.

    Notes
    -----
    Every call forms W^T W. For several with one W make a model once, with `from_factor`. Numbers of b are not checked:
    NaN or infinity spreads over all of the vector that it is in, and over no other.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> W = np.array([[1.0], [1.0]])
    >>> mk.lowrank.woodbury_solve(W, np.array([4.0, 1.0]), 1.0).round(6)
    array([ 2.333333, -0.666667])
    >>> mk.lowrank.woodbury_solve(W, np.array([4.0, 2.0]), diagonal=np.array([2.0, 1.0]))
    array([1.2, 0.4])
    """
    if core is not None:
        return _core_solve(W, b, damping, diagonal, core, axis)
    return _problem(W, damping, diagonal).apply(SOLVE, b, axis)


def woodbury_sqrt_solve(
    W: Any, b: Any, damping: Any = 0.0, *, diagonal: Any = None, axis: int = 0
) -> Any:
    """R b with R R^T = (W W^T + damping I)^-1, or (D + W W^T)^-1: of normals, a draw of that covariance.

    Parameters
    ----------
    W, b, damping, diagonal, axis
        See `woodbury_solve`.

    Returns
    -------
    array, shape of `b`
        Without a diagonal R is the symmetric root. With one it is not symmetric.

    Raises
    ------
    TypeError, ValueError
        See `woodbury_solve`.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> W = np.array([[2.0], [2.0]])
    >>> mk.lowrank.woodbury_sqrt_solve(W, np.array([3.0, 3.0]), 1.0)
    array([1., 1.])
    """
    return _problem(W, damping, diagonal).apply(SQRT_SOLVE, b, axis)


def woodbury_logdet(W: Any, damping: Any = 0.0, *, diagonal: Any = None) -> Any:
    """log det(W W^T + damping I), or log det(D + W W^T).

    Parameters
    ----------
    W, damping, diagonal
        See `woodbury_solve`.

    Returns
    -------
    float, or array, shape (batch,)

    Raises
    ------
    TypeError, ValueError
        See `woodbury_solve`.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> round(mk.lowrank.woodbury_logdet(np.ones((2, 1)), 1.0), 6)  # log 3
    1.098612
    """
    return _problem(W, damping, diagonal).logdet()


def woodbury_noise(
    W: Any,
    damping: Any = 0.0,
    *,
    n: int | None = None,
    diagonal: Any = None,
    seed: Any = 0,
    stream: int = 0,
    counter: int = 0,
) -> Any:
    """Normal draws of covariance W W^T + damping I, or D + W W^T, without any factorisation.

    They are sqrt(damping) z1 + W z2, with z1 of length d and z2 of length k.

    Parameters
    ----------
    W, diagonal
        See `woodbury_solve`.
    damping : float or array, shape (batch,), optional
        >= 0.
    n : int, optional
        How many draws, of every model; one without an axis of its own by default.
    seed, stream, counter
        See `mckean.random.normal`. z1 has the given stream, z2 the next one.

    Returns
    -------
    array, shape (d,) or (n, d), or with a leading axis (batch,)
        Of the framework, dtype and device of `W`.

    Raises
    ------
    TypeError, ValueError
        If arguments do not match.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.lowrank.woodbury_noise(np.array([[3.0], [4.0]]), n=100_000, seed=1)
    >>> np.cov(x.T).round(0)
    array([[ 9., 12.],
           [12., 16.]])
    """
    p = _problem(W, damping, diagonal, singular=True)
    x, lead, d, k = p.W, p.lead, p.d, p.k
    rows = () if n is None else (as_count(n, "n"),)
    stream = as_count(stream, "stream", below=(1 << 64) - 1)
    same = {"seed": seed, "counter": counter, "dtype": x.dtype}
    z1 = random.normal(shape=(*lead, *rows, d), stream=stream, like=x.array, **same)
    if not lead:
        out = x.framework.empty((*(rows or (1,)), d), x.dtype, x.device)
        # In float64 on the host, as `multiply` reads it.
        z2 = random.normal(shape=(*rows, k), stream=stream + 1, **same)
        small = np.reshape(z2, (*(rows or (1,)), k)).T.astype(np.float64)
        if math.prod(z1.shape):
            _native.multiply(x.data, small, out.data, p.place, out_rows=True)
        correlated = out.result().reshape(z1.shape)
    else:
        z2 = random.normal(
            shape=(*lead, *(rows or (1,)), k), stream=stream + 1, like=x.array, **same
        )
        correlated = (z2 @ x.array.swapaxes(-1, -2)).reshape(z1.shape)
    if p.diagonal is not None:
        root = p.diagonal.array**0.5
        if lead and rows and len(p.diagonal.shape) == 2:
            root = root[:, None, :]
        return root * z1 + correlated
    if p.t.size == 1:
        return math.sqrt(p.t[0]) * z1 + correlated
    roots = np.sqrt(p.t).reshape(-1, *(1,) * (len(z1.shape) - 1)).astype(x.dtype)
    return x.framework.asarray(roots, x.device) * z1 + correlated


class _SingularError(ValueError):
    """A matrix that is not positive definite to rounding."""


@dataclass(slots=True)
class _Problem:
    """D + W W^T or W W^T + t I."""

    W: Input
    lead: tuple[int, ...]
    d: int
    k: int
    t: Doubles  # (1,) or (batch,); 1 with a diagonal
    diagonal: Input | None

    @property
    def place(self) -> Any:
        return self.W.framework, self.W.device

    def apply(self, function: int, b: Any, axis: int) -> Any:
        x = self.W
        shape = tuple(b.shape if hasattr(b, "shape") else np.shape(b))
        if axis not in (0, -1):
            raise ValueError(f"axis: expected 0 or -1, got {axis!r}")
        if self.lead:
            v = as_match(b, "b", x, "W", shape=(*self.lead, self.d))
            if self._by_items:
                out = x.framework.empty(v.shape, x.dtype, x.device)
                self._each(lambda i, item: out.data.__setitem__(i, item._row(function, v, i)))
                return out.result()
            return self._native(function, v)
        if len(shape) == 1 and self.k <= _NATIVE_RANK:
            return self._native(function, as_match(b, "b", x, "W", shape=(self.d,)))
        rows = len(shape) == 1 or axis == -1
        want = (self.d,) if len(shape) == 1 else (None, self.d) if rows else (self.d, None)
        return self._tall(function, as_match(b, "b", x, "W", shape=want), rows)

    def _native(self, function: int, b: Input) -> Any:
        """One vector for every item."""
        if function == SQRT_SOLVE:  # `failed` tells it of the other
            check_finite(self.W, "W")
        out = b.framework.empty(b.shape, b.dtype, b.device)
        if 0 not in b.shape:
            failed = _native.woodbury(
                self._items(),
                None if self.diagonal is None else self.diagonal.data,
                self.t,
                function,
                b.data,
                out.data,
                None,
                self.place,
            )
            if failed:
                self._failed(failed)
        return out.result()

    @property
    def _by_items(self) -> bool:
        """Whether ranks are so large that NumPy's k x k algebra is worth a call for each item; the native one of CPUs
        is made for small ranks."""
        return self.k > _HOST_RANK and self.W.device == "cpu" and 0 not in (*self.lead, self.d)

    def _each(self, do: Callable[[int, _Problem], None]) -> None:
        failed = 0
        for i in range(self.lead[0]):
            D = self.diagonal
            if D is not None and len(D.shape) == 2:
                D = as_input(D.array[i], "diagonal")
            t = self.t[i : i + 1] if self.t.size > 1 else self.t
            try:
                do(i, _Problem(as_input(self.W.array[i], "W"), (), self.d, self.k, t, D))
            except _SingularError:
                failed += 1
        if failed:
            self._failed(failed)

    def _row(self, function: int, b: Input, i: int) -> Any:
        row = as_input(b.array[i], "b")
        return as_input(self._tall(function, row, rows=True), "b").data

    def _items(self) -> Any:
        return self.W.data if self.lead else self.W.data.reshape(1, self.d, self.k)

    def _tall(self, function: int, b: Input, rows: bool) -> Any:
        """Any number of vectors against one W, with the small algebra on the host."""
        x, root, t = self._whitened(), self._root(), float(self.t[0])
        v = b.array
        across = root if rows or root is None else root[:, None]
        if function == SOLVE and across is not None:
            v = v * across
        vectors = v[None] if len(b.shape) == 1 else v
        right = as_input(vectors, "b")
        G = self._gram(x)
        if self.k and math.prod(right.shape):
            c = _native.gram(x.data, right.data, self.place, b_rows=rows)
            if function == SOLVE:
                y = -self._cholesky_solve(G, c) / t
            else:
                g, Q = np.linalg.eigh(G)
                g = np.maximum(g, 0.0)
                low, high = math.sqrt(t), np.sqrt(g + t)
                y = (Q * (-1.0 / (low * high * (low + high)))) @ (Q.T @ c)
            out = x.framework.empty(right.shape, x.dtype, x.device)
            _native.multiply(x.data, y, out.data, self.place, out_rows=rows)
            update = out.result().reshape(b.shape)
        else:
            update = 0.0 * v
        alpha = 1.0 / t if function == SOLVE else 1.0 / math.sqrt(t)
        result = v * alpha + update
        return result if across is None else result * across

    def logdet(self) -> Any:
        if self._by_items and self.lead:
            found = np.empty(self.lead)
            self._each(lambda i, item: found.__setitem__(i, item.logdet()))
            return self.W.framework.asarray(found.astype(self.W.dtype), self.W.device)
        if self.lead:
            return in_doubles(self.W, self.lead, self._write_logdet)
        t = float(self.t[0])
        value = (self.d - self.k) * math.log(t)
        if self.diagonal is not None:
            value += float(np.log(to_numpy(self.diagonal.array).astype(np.float64)).sum())
        if self.k:
            L = self._cholesky(self._gram(self._whitened()))
            value += 2.0 * float(np.log(np.diagonal(L)).sum())
        return value

    def _write_logdet(self, out: Any) -> None:
        D = None if self.diagonal is None else self.diagonal.data
        failed = _native.woodbury(self.W.data, D, self.t, SOLVE, None, None, out, self.place)
        if failed:
            self._failed(failed)

    def _root(self) -> Any:
        return None if self.diagonal is None else self.diagonal.array**-0.5

    def _whitened(self) -> Input:
        root = self._root()
        return self.W if root is None else as_input(self.W.array * root[:, None], "W")

    def _gram(self, x: Input) -> Doubles:
        G = _native.gram(x.data, x.data, self.place)
        _check_gram(G, self.W)
        return G

    def _cholesky(self, G: Doubles) -> Doubles:
        try:
            return np.linalg.cholesky(G + float(self.t[0]) * np.eye(self.k))
        except np.linalg.LinAlgError:
            self._failed(1)
            raise

    def _cholesky_solve(self, G: Doubles, c: Doubles) -> Doubles:
        L = self._cholesky(G)
        y: Doubles = np.linalg.solve(L.T, np.linalg.solve(L, c))
        return y

    def _failed(self, count: int) -> None:
        check_finite(self.W, "W")
        of = f" in {count} items of the batch" if self.lead else ""
        raise _SingularError(
            f"damping: expected more than the rounding of W^T W, got {self.t.min():.6g}, and a matrix that is "
            f"not positive definite{of}"
        )


def _problem(W: Any, damping: Any, diagonal: Any, *, singular: bool = False) -> _Problem:
    x = as_input(W, "W")
    if len(x.shape) not in (2, 3):
        raise ValueError(f"W: expected shape (d, k) or (batch, d, k), got {tuple(x.shape)}")
    *lead, d, k = x.shape
    t = _damping(damping, tuple(lead))
    if not (t >= 0.0).all():
        raise ValueError(f"damping: expected numbers >= 0, got {t.min():.6g}")
    if diagonal is None:
        if not singular and not (t > 0.0).all():
            raise ValueError(f"damping: expected numbers > 0 without a diagonal, got {t.min():.6g}")
        return _Problem(x, tuple(lead), d, k, t, None)
    two = lead and len(getattr(diagonal, "shape", ())) == 2
    D = as_match(diagonal, "diagonal", x, "W", shape=(*lead, d) if two else (d,))
    if t.any():
        more: Any = float(t[0])
        if t.size > 1:
            more = x.framework.asarray(t[:, None].astype(x.dtype), x.device)
        D = as_input(D.array + more, "diagonal")
    least = float(D.array.min()) if math.prod(D.shape) else math.inf
    if not (least > 0.0 or (singular and least == 0.0)):
        check_finite(D, "diagonal")
        raise ValueError(f"diagonal: expected positive numbers, got {least:.6g}")
    return _Problem(x, tuple(lead), d, k, np.ones(1), D)


def _damping(value: Any, lead: tuple[int, ...]) -> Doubles:
    if hasattr(value, "shape") and len(value.shape) == 1 and lead:
        t = np.array(to_numpy(value), np.float64)
        if t.shape != lead:
            raise ValueError(
                f"damping: expected a number or shape {lead} to match W, got {t.shape}"
            )
        if not np.isfinite(t).all():
            raise ValueError(f"damping: expected finite numbers, got {t[~np.isfinite(t)][0]}")
        return t
    return np.array([as_real(value, "damping")])


def _core_solve(W: Any, b: Any, damping: Any, diagonal: Any, core: Any, axis: int) -> Any:
    """(b - W (t + C G)^-1 C W^T b) / t: neither C nor t + C G is definite, so by elimination."""
    x = as_input(W, "W", shape=("d", "k"))
    if diagonal is not None:
        raise ValueError("diagonal: expected None with a core")
    d, k = x.shape
    t = as_real(damping, "damping")
    if t == 0.0:
        raise ValueError("damping: expected a number other than 0 with a core, got 0")
    C = np.array(to_numpy(as_input(core, "core", shape=(k, k)).array), np.float64)
    if not abs(C - C.T).max(initial=0.0) <= 1e-6 * abs(C).max(initial=0.0):
        raise ValueError("core: expected a symmetric matrix of finite numbers")
    shape = tuple(b.shape if hasattr(b, "shape") else np.shape(b))
    if axis not in (0, -1):
        raise ValueError(f"axis: expected 0 or -1, got {axis!r}")
    rows = len(shape) == 1 or axis == -1
    want = (d,) if len(shape) == 1 else (None, d) if rows else (d, None)
    v = as_match(b, "b", x, "W", shape=want)
    if not k or 0 in v.shape:
        return v.array * (1.0 / t)
    place = x.framework, x.device
    right = as_input(v.array[None] if len(shape) == 1 else v.array, "b")
    G = _native.gram(x.data, x.data, place)
    _check_gram(G, x)
    matrix = t * np.eye(k) + C @ G
    if not np.linalg.cond(matrix) < 1.0 / np.finfo(np.float64).eps:
        raise ValueError(
            f"damping: expected W C W^T + damping I to be invertible, got a singular one for {t:.6g}"
        )
    y = np.linalg.solve(matrix, C @ _native.gram(x.data, right.data, place, b_rows=rows))
    out = x.framework.empty(right.shape, x.dtype, x.device)
    _native.multiply(x.data, -y / t, out.data, place, out_rows=rows)
    return v.array * (1.0 / t) + out.result().reshape(v.shape)


def _check_gram(G: Doubles, W: Input) -> None:
    if not np.isfinite(G).all():
        check_finite(W, "W")
        raise ValueError("W: expected numbers whose squares are finite")


def _spectrum(G: Doubles, x: Input, most: int, k: int) -> tuple[Doubles, Doubles]:
    """The eigenpairs of a Gram matrix that are above rounding, the largest first."""
    _check_gram(G, x)
    g, Q = np.linalg.eigh(G)
    g, Q = g[::-1], Q[:, ::-1]
    count = min(most, int((g > _floor(k, x.dtype) * g.max(initial=0.0)).sum()))
    return g[:count], Q[:, :count]


def _floor(k: int, dtype: str) -> float:
    """What rounding leaves of zero eigenvalues, relative to the largest: of the sums, and of float32 columns."""
    return k * max(2.0**-52, float(np.finfo(dtype).eps) ** 2)


def _model(U: Any, s: Doubles, x: Input) -> LowRankOperator:
    values = x.framework.asarray(np.array(s, x.dtype, order="C"), x.device)
    return LowRankOperator(U, values, check=False)


def _batch_model(x: Input, most: int) -> LowRankOperator:
    batch, _, k = x.shape
    if k > _HOST_RANK and x.device == "cpu" and 0 not in x.shape:
        return _batch_by_items(x, most)
    check_finite(x, "W")
    U = x.framework.empty(x.shape, x.dtype, x.device)
    s = x.framework.empty((batch, k), x.dtype, x.device)
    if math.prod(x.shape):
        _native.gram_factor(x.data, U.data, s.data, (x.framework, x.device))
    # At most d columns are more than rounding.
    columns, values = U.result(), s.result()
    if most < k:
        columns, values = columns[:, :, :most], values[:, :most]
    return LowRankOperator(columns, values, check=False)


def _batch_by_items(x: Input, most: int) -> LowRankOperator:
    batch, d, _ = x.shape
    U = x.framework.empty((batch, d, most), x.dtype, x.device)
    s = x.framework.empty((batch, most), x.dtype, x.device)
    for i in range(batch):
        try:
            op = from_factor(x.array[i], rank=most)
        except ValueError:
            check_finite(x, "W")  # names the item
            raise
        U.data[i] = 0.0
        s.data[i] = 0.0
        U.data[i, :, : op.rank] = as_input(op.U, "U").data
        s.data[i, : op.rank] = as_input(op.s, "s").data
    return LowRankOperator(U.result(), s.result(), check=False)
