"""The low-rank model U diag(s) U^T + sigma I and its functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mckean._array import FRAMEWORKS, Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import as_count, as_real, as_seed, one_of
from mckean.lowrank import _native
from mckean.lowrank._native import (
    IDENTITY,
    MATVEC,
    PRECONDITION,
    SOLVE,
    SQRT_MATVEC,
    SQRT_SOLVE,
)

__all__ = ["LowRankOperator", "Preconditioner"]

Doubles = np.ndarray[Any, Any]
FUNCTIONS = {
    "identity": IDENTITY,
    "matvec": MATVEC,
    "solve": SOLVE,
    "sqrt_solve": SQRT_SOLVE,
    "sqrt_matvec": SQRT_MATVEC,
}
_MAX_TERMS = 4  # of one native call
_ORTHONORMAL = {"float32": 1e-3, "float64": 1e-6}  # largest entry of U^T U - I that passes


def in_doubles(x: Input, shape: Sequence[int], write: Callable[[Any], None]) -> Any:
    """What `write` puts into float64 memory where `x` is: a float, or an array like `x`."""
    # JAX may lack float64.
    jax = x.framework.name == "jax"
    carrier = FRAMEWORKS["numpy" if x.device == "cpu" else "cupy"] if jax else x.framework
    out = carrier.empty(shape, "float64", x.device)
    if math.prod(shape):
        write(out.data)
    found = out.result()
    if not shape:
        return float(found)
    if jax:
        return x.framework.asarray(carrier.to_numpy(found).astype(x.dtype), x.device)
    return found if x.dtype == "float64" else x.framework.cast(found, x.dtype)


class LowRankOperator:
    """The symmetric matrix A = U diag(s) U^T + sigma I with few columns U, and functions of A + damping I.

    Every function costs two reads of U and no factorisation: with t = damping + sigma it is f(t) I + U diag(w) U^T,
    where w is written so that nothing cancels for small t or s. The two terms do for vectors in the span of U: the
    relative error of ``solve`` is about eps (t + s) / t there.

    Parameters
    ----------
    U : array, shape (d, k) or (batch, d, k), float32 or float64
        Orthonormal columns, k <= d; a column of zeros may go with s = 0. A batch is one small model per item. Not
        copied if it is C-contiguous.
    s : array, shape (k,) or (batch, k)
        Eigenvalues of any sign and order, of the framework and dtype of `U`.
    sigma : float or array, shape (batch,), optional
        Of any sign. Damping of the calls below is added to it.
    check : bool, optional
        Whether to see that the columns of `U` are orthonormal, which costs d k^2 operations.

    Attributes
    ----------
    U, s : array
    sigma : float or numpy.ndarray, shape (batch,)
    d, rank : int
    batch : int or None
    shape : tuple
        (d, d) or (batch, d, d).
    residuals : array, shape (k,), or None
        ``|A u - s u|`` of every pair, where the method that made the model knows it.
    converged : bool
    n_matvecs : int
        Products with A that making the model took.
    error_estimate : float or None
        Estimated norm of what the model leaves out, where the method that made it was asked for it.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, numbers are not finite, or U is not orthonormal.

    See Also
    --------
    lanczos, nystrom, from_history, from_factor

    Notes
    -----
    The calls accept b of the framework, dtype and device of `U`: (d,), or (d, p) whose columns are vectors, or with
    ``axis=-1`` (n, d) whose rows are; for a batch of models (batch, d) or (batch, n, d), always with vectors along the
    last axis. `damping` >= 0 is a number, or one for each model (batch,). Inverses and roots need
    t = damping + sigma >= 0 and t + min(s) > 0; t = 0 only with k = d. Results have the shape of b and do not depend
    on the number of threads. A row has the same bits among any number n of rows, n = 1 included (so do columns); a
    vector (d,) may differ by rounding from the same numbers as a row. An item of a batch is bit for bit that of the
    item's own model in a call of the same kind: (batch, d) is a vector (d,) of each, (batch, n, d) are rows (n, d).
    Numbers of b are not checked for NaN.

    ``op + damping`` has a larger sigma, ``op * c`` and ``-op`` scale it, ``op @ v`` is ``op.matvec(v)``, ``op[i]`` is
    the model of item i of a batch. Where U is NumPy, SciPy's solvers take the operator itself as a matrix.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> U = np.array([[1.0], [0.0], [0.0]])
    >>> op = mk.lowrank.LowRankOperator(U, np.array([3.0]))
    >>> op.solve(np.ones(3), damping=1.0)
    array([0.25, 1.  , 1.  ])
    >>> op.sqrt_solve(np.ones(3), damping=1.0)
    array([0.5, 1. , 1. ])
    >>> round(op.logdet(1.0), 4), op.trace()
    (1.3863, 3.0)
    """

    # NumPy leaves `array + op` and the like to the operator.
    __array_ufunc__ = None

    def __init__(self, U: Any, s: Any, *, sigma: Any = 0.0, check: bool = True) -> None:
        self._U = checked = as_input(U, "U")
        if len(checked.shape) not in (2, 3):
            raise ValueError(
                f"U: expected shape (d, k) or (batch, d, k), got {tuple(checked.shape)}"
            )
        *lead, self.d, self.rank = checked.shape
        if self.rank > self.d:
            raise ValueError(
                f"U: expected at most as many columns as rows, got {tuple(checked.shape)}"
            )
        self.batch: int | None = lead[0] if lead else None
        self._s = as_match(s, "s", checked, "U", shape=(*lead, self.rank))
        self._values = np.array(to_numpy(self._s.array), np.float64)
        if not np.isfinite(self._values).all():
            check_finite(self._s, "s")
        self._least = float(self._values.min()) if self._values.size else math.inf
        self._sigma = self._scalars(sigma, "sigma")
        self.place = checked.framework, checked.device
        self.residuals: Any = None
        self.converged = True
        self.n_matvecs = 0
        self.error_estimate: float | None = None
        if check:
            self._check()

    @property
    def U(self) -> Any:
        return self._U.array

    @property
    def s(self) -> Any:
        return self._s.array

    @property
    def sigma(self) -> Any:
        return self._sigma

    @property
    def shape(self) -> tuple[int, ...]:
        lead = () if self.batch is None else (self.batch,)
        return (*lead, self.d, self.d)

    @property
    def dtype(self) -> Any:
        return self._U.array.dtype

    def __repr__(self) -> str:
        size = f"d={self.d}, rank={self.rank}"
        if self.batch is not None:
            size = f"batch={self.batch}, {size}"
        span = ""
        if self._values.size:
            span = f", s from {self._values.max():.4g} to {self._least:.4g}"
        sigma = f"{self._sigma:.4g}" if isinstance(self._sigma, float) else "one for each"
        return f"LowRankOperator({size}, {self._U.dtype}{span}, sigma={sigma})"

    # ---- functions of A + damping I -----------------------------------------------------------

    def matvec(self, v: Any, damping: Any = 0.0, *, axis: int = 0) -> Any:
        """(A + damping I) v.

        Parameters
        ----------
        v : array, shape (d,), (d, p) or (n, d); for a batch (batch, d) or (batch, n, d)
        damping : float or array, shape (batch,), optional
        axis : {0, -1}, optional
            The axis of a matrix `v` along which vectors lie; a batch has it last.

        Returns
        -------
        array, shape of `v`

        Raises
        ------
        TypeError, ValueError
            If `v` does not fit the model, or `damping` is negative.
        """
        return self._apply(MATVEC, v, damping, axis, "v")

    def solve(self, b: Any, damping: Any = 0.0, *, axis: int = 0) -> Any:
        """(A + damping I)^-1 b.

        Parameters
        ----------
        b, damping, axis
            See `matvec`.

        Returns
        -------
        array, shape of `b`

        Raises
        ------
        TypeError, ValueError
            If `b` does not fit the model, or A + damping I is not positive definite; the message names damping, sigma
            and min(s).
        """
        return self._apply(SOLVE, b, damping, axis)

    def sqrt_solve(self, b: Any, damping: Any = 0.0, *, axis: int = 0) -> Any:
        """(A + damping I)^-1/2 b, the symmetric root: of normals, a draw of covariance (A + damping I)^-1.

        Parameters
        ----------
        b, damping, axis
            See `matvec`.

        Returns
        -------
        array, shape of `b`

        Raises
        ------
        TypeError, ValueError
            See `solve`.
        """
        return self._apply(SQRT_SOLVE, b, damping, axis)

    def sqrt_matvec(self, b: Any, damping: Any = 0.0, *, axis: int = 0) -> Any:
        """(A + damping I)^1/2 b, the symmetric root: of normals, a draw of covariance A + damping I.

        Parameters
        ----------
        b, damping, axis
            See `matvec`.

        Returns
        -------
        array, shape of `b`

        Raises
        ------
        TypeError, ValueError
            If `b` does not fit the model, or A + damping I has a negative eigenvalue.
        """
        return self._apply(SQRT_MATVEC, b, damping, axis)

    def quadratic(self, b: Any, damping: Any = 0.0, *, axis: int = 0) -> Any:
        """b^T (A + damping I) b of every vector b, summed in float64.

        Parameters
        ----------
        b, damping, axis
            See `matvec`.

        Returns
        -------
        float, or array with one number for each vector
            Of the dtype of `U`.

        Raises
        ------
        TypeError, ValueError
            See `matvec`.
        """
        x, _ = self._vectors(b, axis, "b")
        t = self._shift(damping, MATVEC)
        shape = x.shape[:-1]

        def write(out: Any) -> None:
            _native.quadratic(self._U.data, self._s.data, t, MATVEC, x.data, out, self.place)

        return in_doubles(x, shape, write)

    def logdet(self, damping: Any = 0.0) -> Any:
        """log det(A + damping I).

        Parameters
        ----------
        damping : float or array, shape (batch,), optional

        Returns
        -------
        float, or array, shape (batch,)

        Raises
        ------
        ValueError
            See `solve`.
        """
        t = self._shift(damping, SOLVE)
        logs = np.log(t[:, None] + self._values).sum(-1)
        return self._scalar_result(
            logs + (self.d - self.rank) * np.log(t) if self.d > self.rank else logs
        )

    def trace(self) -> Any:
        """The trace of A itself, that is of the model, without damping.

        Returns
        -------
        float, or array, shape (batch,)
        """
        return self._scalar_result(self._values.sum(-1) + self.d * np.asarray(self._sigma))

    def to_dense(self, damping: Any = 0.0) -> Any:
        """A + damping I as a matrix.

        Parameters
        ----------
        damping : float or array, shape (batch,), optional

        Returns
        -------
        array, shape (d, d) or (batch, d, d)
        """
        x = self._U
        t = self._shift(damping, MATVEC)
        scaled = self.U * self.s[..., None, :]
        shift = np.eye(self.d) * (t[0] if self.batch is None else t[:, None, None])
        transposed = self.U.swapaxes(-1, -2)
        return scaled @ transposed + x.framework.asarray(shift.astype(x.dtype), x.device)

    def combine(
        self,
        terms: Sequence[tuple[str, Any, Any]],
        damping: Any = 0.0,
        *,
        seed: Any = 0,
        stream: int = 0,
        counter: int = 0,
        shape: Sequence[int] | None = None,
    ) -> Any:
        """sum of scale f(A + damping I) array over up to four terms, with both reads of U shared by all of them.

        A preconditioned Langevin step is ``[("identity", 1, x), ("solve", h, gradients), ("sqrt_solve", sqrt(2 h),
        None)]``.

        Parameters
        ----------
        terms : sequence of (name, scale, array)
            Names are "identity", "matvec", "solve", "sqrt_solve", "sqrt_matvec"; scales are numbers. Arrays (..., d),
            or for a batch (batch, d) or (batch, n, d), have vectors along the last axis and one shape. In place of an
            array None is a standard normal draw, the same one in all terms:
            ``mckean.random.normal(seed, shape, stream=stream, counter=counter, dtype=dtype)``, bit for bit.
        damping : float or array, shape (batch,), optional
        seed, stream, counter
            Of the normal draw.
        shape : tuple, optional
            Of the result, needed where all terms are None.

        Returns
        -------
        array, of the shape of the arrays

        Raises
        ------
        TypeError, ValueError
            If a term does not fit the model, or its function does not exist; see `solve`.

        Examples
        --------
        >>> import numpy as np
        >>> import mckean as mk
        >>> op = mk.lowrank.LowRankOperator(np.eye(2), np.array([3.0, 0.0]))
        >>> x = np.ones((4, 2))
        >>> y = op.combine([("identity", 1.0, x), ("sqrt_solve", 0.1, None)], damping=1.0, seed=7)
        >>> noise = mk.random.normal(7, (4, 2))
        >>> bool(np.allclose(y, 1 + 0.1 * noise * [0.5, 1.0]))
        True
        """
        if not 1 <= len(terms) <= _MAX_TERMS:
            raise ValueError(f"terms: expected 1 to {_MAX_TERMS}, got {len(terms)}")
        codes, scales, given = zip(*terms, strict=True)
        try:
            functions = [FUNCTIONS[code] for code in codes]
        except (KeyError, TypeError):
            for i, code in enumerate(codes):
                one_of(code, f"terms[{i}][0]", tuple(FUNCTIONS))
            raise
        first: Input | None = None
        arrays = []
        for i, b in enumerate(given):
            x = None
            if b is not None:
                if first is None:
                    x = first = self._vectors(b, -1, f"terms[{i}][2]")[0]
                else:
                    x = as_match(b, f"terms[{i}][2]", first, "the first array")
                if shape is not None and tuple(shape) != tuple(x.shape):
                    raise ValueError(
                        f"terms[{i}][2]: expected shape {tuple(shape)}, got {tuple(x.shape)}"
                    )
            arrays.append(None if x is None else x.data)
        if first is None:
            if shape is None:
                raise ValueError("shape: expected one, where all terms are noise, got None")
            found = tuple(as_count(n, "shape") for n in shape)
            if not self._fits(found):
                raise ValueError(f"shape: expected {self._wanted()}, got {found}")
        else:
            found = first.shape
        for f in set(functions):
            t = self._shift(damping, f)
            self._check_inverse(t, f)
        framework, device = self.place
        out = framework.empty(found, self._U.dtype, device)
        if math.prod(found):
            _native.apply(
                self._U.data,
                self._s.data,
                t,
                [
                    (f, as_real(c, "scale"), a)
                    for f, c, a in zip(functions, scales, arrays, strict=True)
                ],
                out.data,
                self.place,
                seed=as_seed(seed),
                stream=as_count(stream, "stream", below=1 << 64),
                counter=as_count(counter, "counter", below=1 << 60),
            )
        return out.result()

    # ---- other models -------------------------------------------------------------------------

    def truncate(self, rank: int) -> LowRankOperator:
        """The model with the `rank` eigenvalues of largest size, in the order they have here.

        Parameters
        ----------
        rank : int
            0 to the present rank.

        Returns
        -------
        LowRankOperator
        """
        rank = as_count(rank, "rank")
        if rank > self.rank:
            raise ValueError(f"rank: expected at most {self.rank}, got {rank}")
        order = np.argsort(-abs(self._values), axis=-1, kind="stable")[..., :rank]
        keep = np.sort(order, axis=-1)
        framework, device = self.place
        if (keep == np.arange(rank)).all():
            U, s = self.U[..., :rank], self.s[..., :rank]
        else:
            index = framework.asarray(np.ascontiguousarray(keep), device)
            if self.batch is None:
                U, s = self.U[:, index], self.s[index]
            else:
                items = framework.asarray(np.arange(self.batch)[:, None], device)
                rows = framework.asarray(np.arange(self.d)[None, :, None], device)
                U, s = self.U[items[..., None], rows, index[:, None, :]], self.s[items, index]
        out = self._like(U, s, self._sigma)
        if self.residuals is not None and self.batch is None:
            out.residuals = np.asarray(to_numpy(self.residuals))[keep]
        return out

    def preconditioner(self, damping: Any) -> Preconditioner:
        """The Nystrom preconditioner of A + damping I: (s_l + t) (A + t)^-1 on the span of U, I beside it, where s_l
        is the least eigenvalue of the model.

        Parameters
        ----------
        damping : float or array, shape (batch,)

        Returns
        -------
        Preconditioner
            A function of residuals.

        Raises
        ------
        ValueError
            See `solve`.

        Notes
        -----
        Z. Frangella, J. A. Tropp, M. Udell, "Randomized Nystrom preconditioning", SIAM Journal on Matrix Analysis and
        Applications 44(2), 2023, arXiv:2110.02820.

        Examples
        --------
        >>> import numpy as np
        >>> import mckean as mk
        >>> op = mk.lowrank.LowRankOperator(np.eye(3)[:, :2], np.array([9.0, 1.0]))
        >>> op.preconditioner(1.0)(np.ones(3))
        array([0.2, 1. , 1. ])
        """
        return Preconditioner(self, damping)

    def as_linear_operator(self, damping: Any = 0.0, *, function: str = "matvec") -> Any:
        """A function of A + damping I for SciPy.

        Parameters
        ----------
        damping : float, optional
        function : {"matvec", "solve", "sqrt_solve", "sqrt_matvec"}, optional
            "solve" is what SciPy's solvers call a preconditioner M, or OPinv.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator, shape (d, d)
            Of NumPy vectors, whatever the framework of `U`.

        Raises
        ------
        ImportError
            If SciPy is not installed.
        ValueError
            For a batch; see also `solve`.

        Examples
        --------
        >>> import numpy as np
        >>> import mckean as mk
        >>> op = mk.lowrank.LowRankOperator(np.eye(3)[:, :1], np.array([3.0]))
        >>> op.as_linear_operator(1.0) @ np.ones(3)
        array([4., 1., 1.])
        """
        from mckean.lowrank._scipy import symmetric_operator

        code = FUNCTIONS[one_of(function, "function", tuple(FUNCTIONS)[1:])]
        self._shift(damping, code)
        return symmetric_operator(self, lambda x: self._apply(code, x, damping, -1))

    def __matmul__(self, v: Any) -> Any:
        return self.matvec(v)

    def __add__(self, damping: Any) -> LowRankOperator:
        if isinstance(damping, (LowRankOperator, str)):
            return NotImplemented
        more = self._scalars(damping, "damping")
        return self._like(self.U, self.s, self._sigma + more)

    __radd__ = __add__

    def __sub__(self, damping: Any) -> LowRankOperator:
        if isinstance(damping, (LowRankOperator, str)):
            return NotImplemented
        return self._like(self.U, self.s, self._sigma - self._scalars(damping, "damping"))

    def __mul__(self, scale: Any) -> LowRankOperator:
        if isinstance(scale, (LowRankOperator, str)):
            return NotImplemented
        c = as_real(scale, "scale")
        out = self._like(self.U, self.s * c, self._sigma * c)
        out.residuals = None if self.residuals is None else self.residuals * abs(c)
        out.error_estimate = None if self.error_estimate is None else self.error_estimate * abs(c)
        return out

    __rmul__ = __mul__

    def __neg__(self) -> LowRankOperator:
        return self * -1.0

    def __getitem__(self, index: Any) -> LowRankOperator:
        if self.batch is None:
            raise TypeError("op[i]: expected a batch of models, got a single one")
        if not isinstance(index, slice):
            index = int(index)
            if not -self.batch <= index < self.batch:
                raise IndexError(f"op[i]: expected an index below {self.batch}, got {index}")
        sigma = self._sigma if isinstance(self._sigma, float) else self._sigma[index]
        return self._like(self.U[index], self.s[index], sigma)

    # ---- inside -------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {
            "U": self.U,
            "s": self.s,
            "sigma": self._sigma,
            "residuals": self.residuals,
            "converged": self.converged,
            "n_matvecs": self.n_matvecs,
            "error_estimate": self.error_estimate,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        LowRankOperator.__init__(self, state["U"], state["s"], sigma=state["sigma"], check=False)
        self.residuals = state["residuals"]
        self.converged, self.n_matvecs = state["converged"], state["n_matvecs"]
        self.error_estimate = state["error_estimate"]

    def _like(self, U: Any, s: Any, sigma: Any) -> LowRankOperator:
        out = LowRankOperator(U, s, sigma=sigma, check=False)
        out.converged, out.n_matvecs = self.converged, self.n_matvecs
        if out.rank == self.rank and out.batch == self.batch:
            out.residuals, out.error_estimate = self.residuals, self.error_estimate
        return out

    def _apply(self, function: int, b: Any, damping: Any, axis: int, name: str = "b") -> Any:
        t = self._shift(damping, function)
        self._check_inverse(t, function)
        x, columns = self._vectors(b, axis, name)
        out = x.framework.empty(x.shape, x.dtype, x.device)
        if 0 not in x.shape:
            _native.apply(
                self._U.data,
                self._s.data,
                t,
                ((function, 1.0, x.data),),
                out.data,
                self.place,
            )
        return out.result().T if columns else out.result()

    def _vectors(self, b: Any, axis: int, name: str) -> tuple[Input, bool]:
        """`b` with vectors along its last axis, and whether they came along the first."""
        shape = b.shape if hasattr(b, "shape") else np.shape(b)
        if axis not in (0, -1):
            raise ValueError(f"axis: expected 0 or -1, got {axis!r}")
        if self.batch is None and axis == 0 and len(shape) == 2:
            if shape[0] != self.d:
                raise ValueError(
                    f"{name}: expected shape (d,) or (d, p), or (n, d) with axis=-1, for d = {self.d}, "
                    f"got {tuple(shape)}"
                )
            b = (b if hasattr(b, "T") else np.asarray(b)).T
            return as_match(b, name, self._U, "U", shape=tuple(b.shape)), True
        if not self._fits(shape):
            raise ValueError(f"{name}: expected {self._wanted()}, got {tuple(shape)}")
        return as_match(b, name, self._U, "U", shape=shape), False

    def _fits(self, shape: Any) -> bool:
        if not shape or shape[-1] != self.d:
            return False
        return self.batch is None or (len(shape) in (2, 3) and shape[0] == self.batch)

    def _wanted(self) -> str:
        if self.batch is None:
            return f"vectors of length {self.d} along the last axis"
        return f"shape ({self.batch}, {self.d}) or ({self.batch}, n, {self.d})"

    def _scalars(self, value: Any, name: str) -> Any:
        """A float, or float64 (batch,)."""
        if type(value) is not float and hasattr(value, "shape") and len(value.shape) == 1:
            a = np.array(to_numpy(value), np.float64)
            if a.shape != (self.batch,):
                want = "a number" if self.batch is None else f"a number or shape ({self.batch},)"
                raise ValueError(f"{name}: expected {want} to match U, got shape {a.shape}")
            if not np.isfinite(a).all():
                raise ValueError(f"{name}: expected finite numbers, got {a[~np.isfinite(a)][0]}")
            return a
        return as_real(value, name)

    def _shift(self, damping: Any, function: int) -> Doubles:
        """t = damping + sigma, (1,) or (batch,), if the function exists there."""
        more = self._scalars(damping, "damping")
        sigma, least = self._sigma, self._least
        if type(more) is float and type(sigma) is float:
            t = more + sigma
            if more >= 0.0 and (function <= MATVEC or (t > 0.0 and t + least > 0.0)):
                return np.array([t])
            self._check_shift(more, sigma, least, function)
            return np.array([t])
        assert self.batch is not None
        each = (self.batch,)
        mores, sigmas = np.broadcast_to(more, each), np.broadcast_to(sigma, each)
        leasts = self._leasts()
        ts: Doubles = mores + sigmas
        fine = mores >= 0.0
        if function > MATVEC:
            fine &= (ts > 0.0) & (ts + leasts > 0.0)
        for i in np.flatnonzero(~fine):
            where = f" in item {i}"
            self._check_shift(float(mores[i]), float(sigmas[i]), float(leasts[i]), function, where)
        return ts

    def _check_inverse(self, t: Doubles, function: int) -> None:
        """Refuse t > 0 whose inverse, or the root of it, overflows."""
        if function not in (SOLVE, SQRT_SOLVE):
            return
        least = 1.0 / float(np.finfo(self._U.dtype).max)
        least = least if function == SOLVE else least**2
        bad = (t > 0.0) & (t < least)
        if bad.any():
            raise ValueError(
                f"damping: expected damping + sigma whose inverse is finite in {self._U.dtype}, got {t[bad][0]:.6g}"
            )

    def _leasts(self) -> Doubles:
        least: Doubles = self._values.min(-1, initial=math.inf)
        return least

    def _check_shift(
        self, damping: float, sigma: float, least: float, function: int, where: str = ""
    ) -> None:
        """Say why the function does not exist, unless it does."""
        if damping < 0.0:
            raise ValueError(f"damping: expected numbers >= 0, got {damping:.6g}{where}")
        t = damping + sigma
        if function <= MATVEC:
            return
        got = f"got damping = {damping:.6g}, sigma = {sigma:.6g}, min(s) = {least:.6g}{where}"
        if function == SQRT_MATVEC:
            if t >= 0.0 and t + least >= 0.0:
                return
            raise ValueError(
                f"damping: expected damping + sigma >= 0 and damping + sigma + min(s) >= 0, {got}"
            )
        if t == 0.0 and least > 0.0:
            if self.rank == self.d or function == PRECONDITION:
                return
            raise ValueError(
                f"damping: expected damping + sigma > 0, since rank {self.rank} is below "
                f"d = {self.d}, {got}"
            )
        raise ValueError(
            f"damping: expected damping + sigma > 0 and damping + sigma + min(s) > 0, {got}"
        )

    def _scalar_result(self, values: Any) -> Any:
        if self.batch is None:
            return float(np.reshape(values, ()))
        framework, device = self.place
        found = np.ascontiguousarray(np.broadcast_to(values, (self.batch,)), self._U.dtype)
        return framework.asarray(found, device)

    def _check(self) -> None:
        if not self.rank or self.batch == 0:
            return
        if self.batch is None:
            gram = _native.gram(self._U.data, self._U.data, self.place)[None]
        else:
            gram = np.asarray(to_numpy(self.U.swapaxes(-1, -2) @ self.U), np.float64)
        values = self._values.reshape(-1, self.rank)
        error = abs(gram - np.eye(self.rank))
        # Directions that were dropped are zeros, of eigenvalue zero.
        dropped = (values == 0.0) & (np.diagonal(gram, axis1=-2, axis2=-1) == 0.0)
        items, columns = np.nonzero(dropped)
        error[items, columns, columns] = 0.0
        worst = float(error.max())
        if not worst <= _ORTHONORMAL[self._U.dtype]:
            check_finite(self._U, "U")
            raise ValueError(
                "U: expected orthonormal columns, got U^T U that differs from the identity by "
                f"{worst:.3g}; from_factor makes a model of any columns"
            )


class Preconditioner:
    """The inverse of a positive definite model up to a factor, made by `LowRankOperator.preconditioner`.

    Attributes
    ----------
    operator : LowRankOperator
    damping : float or array, shape (batch,)
    """

    def __init__(self, operator: LowRankOperator, damping: Any) -> None:
        self.operator, self.damping = operator, damping
        self._t = operator._shift(damping, PRECONDITION)
        leasts = operator._leasts() if self._t.size > 1 else np.array([operator._least])
        self._least = np.where(np.isfinite(leasts), leasts, 0.0)
        if operator.batch is not None and self._t.size != operator.batch:
            # One damping for all models, of which each has its own least eigenvalue.
            self._t = np.repeat(self._t, operator.batch)
            self._least = np.where(np.isfinite(operator._leasts()), operator._leasts(), 0.0)

    def __call__(self, r: Any, *, axis: int = 0) -> Any:
        """Apply to residuals; see `LowRankOperator.matvec` for shapes."""
        op = self.operator
        x, columns = op._vectors(r, axis, "r")
        out = x.framework.empty(x.shape, x.dtype, x.device)
        if 0 not in x.shape:
            _native.apply(
                op._U.data,
                op._s.data,
                self._t,
                ((PRECONDITION, 1.0, x.data),),
                out.data,
                op.place,
                least=self._least,
            )
        return out.result().T if columns else out.result()

    def __matmul__(self, r: Any) -> Any:
        return self(r)

    # With these SciPy's solvers take the object itself as their M.
    @property
    def shape(self) -> tuple[int, ...]:
        return self.operator.shape

    @property
    def dtype(self) -> Any:
        return self.operator.dtype

    def matvec(self, r: Any) -> Any:
        """The preconditioner applied to a vector (d,) or (d, 1)."""
        return self(r)

    def as_linear_operator(self) -> Any:
        """The preconditioner for SciPy, the M of its solvers.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator, shape (d, d)

        Raises
        ------
        ImportError
            If SciPy is not installed.
        ValueError
            For a batch.
        """
        from mckean.lowrank._scipy import symmetric_operator

        return symmetric_operator(self.operator, lambda x: self(x, axis=-1))
