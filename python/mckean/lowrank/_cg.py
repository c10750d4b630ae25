"""Conjugate gradients with a damped matrix and a preconditioner."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite
from mckean._dispatch import executor
from mckean._errors import ConvergenceWarning, as_count, nonnegative, positive
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._nystrom import nystrom
from mckean.lowrank._operator import LowRankOperator
from mckean.lowrank._tall import Tall

__all__ = ["CGResult", "conjugate_gradient", "nystrom_pcg"]

_AUTO_RANK, _MOST_AUTO = 16, 512  # first and last rank tried without one
_ENOUGH = 10.0  # times the damping: an error of the model that is as good as none


@dataclass(slots=True)
class CGResult:
    """What conjugate gradients found.

    Attributes
    ----------
    x : array, shape (d,)
        Solution, of the framework, dtype and device of ``b``.
    residual : float
        ``|b - (A + damping) x| / |b|`` as the recursion knows it.
    n_iter : int
    n_matvecs : int
        All products with A, those for a model among them.
    converged : bool
    negative_curvature : bool
        Whether a direction p with ``p . (A + damping) p <= 0`` stopped the iteration.
    direction : array, shape (d,), or None
        That direction.
    operator : LowRankOperator or None
        The model `nystrom_pcg` made for its preconditioner.
    """

    x: Any
    residual: float
    n_iter: int
    n_matvecs: int
    converged: bool
    negative_curvature: bool = False
    direction: Any = None
    operator: LowRankOperator | None = None


def conjugate_gradient(
    matvec: Any,
    b: Any,
    *,
    preconditioner: Any = None,
    damping: float = 0.0,
    tol: float = 1e-6,
    max_iter: int | None = None,
    x0: Any = None,
) -> CGResult:
    """Solve ``(A + damping I) x = b`` for a positive definite matrix by conjugate gradients.

    Parameters
    ----------
    matvec : callable, array or LinearOperator
        ``v -> A v``, (d,) to (d,), of vectors like `b`, or the matrix itself.
    b : array, shape (d,), float32 or float64
    preconditioner : callable or LowRankOperator, optional
        ``r -> P^-1 r``, symmetric and positive definite, such as ``op.preconditioner(damping)``; of a model that is
        used.
    damping : float
        At least 0.
    tol : float
        Stop at a residual of `tol` times that of x = 0.
    max_iter : int, optional
        By default 10 d.
    x0 : array, shape (d,), optional
        Where to start; by default 0.

    Returns
    -------
    CGResult
        Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or the preconditioner is not positive.
    FloatingPointError
        If a product is not finite.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` is reached, or the matrix has a direction of no or negative curvature. The x returned is then
        the last.

    See Also
    --------
    nystrom_pcg

    Notes
    -----
    One product, one call of the preconditioner and four passes over vectors an iteration; dot products are summed
    in float64. The residual is that of the recursion: in the end it may be below the true one, by about eps times
    the condition number.

    References
    ----------
    .. [1] M. Hestenes, E. Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. Nat. Bur.
       Standards 49, 1952

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import conjugate_gradient
    >>> scale = np.linspace(1.0, 5.0, 50)
    >>> result = conjugate_gradient(lambda v: scale * v, np.ones(50))
    >>> bool(abs(result.x - 1 / scale).max() < 1e-5), result.converged
    (True, True)
    """
    result = solve_silently(matvec, b, preconditioner, damping, tol, max_iter, x0)
    _warn(result, "conjugate_gradient")
    return result


def nystrom_pcg(
    matvec: Any,
    b: Any,
    damping: float,
    *,
    rank: int | None = None,
    oversample: int | None = None,
    seed: Any = 0,
    tol: float = 1e-6,
    max_iter: int | None = None,
    x0: Any = None,
    matmat: Any = None,
    fd: Any = None,
) -> CGResult:
    """Solve ``(A + damping I) x = b`` for a positive semi-definite A, preconditioned by a Nystrom model.

    Parameters
    ----------
    matvec, b, tol, max_iter, x0
        As for `conjugate_gradient`.
    damping : float
        Above 0.
    rank : int, optional
        Of the model. By default it is doubled, from 16, until the error of the model is about 10 damping, at which few
        iterations are left, or the rank 512.
    oversample, seed, matmat, fd
        As for `nystrom`.

    Returns
    -------
    CGResult
        ``operator`` holds the model; ``operator.preconditioner(damping)`` serves other right-hand sides.

    Raises
    ------
    TypeError, ValueError, FloatingPointError
        See `nystrom` and `conjugate_gradient`.

    Warns
    -----
    ConvergenceWarning
        See `conjugate_gradient`.

    See Also
    --------
    nystrom, conjugate_gradient

    Notes
    -----
    With ``rank`` of about 3 times the effective dimension, the sum of ``s / (s + damping)``, the preconditioned
    condition number is expected below 28 [1]_.

    References
    ----------
    .. [1] Z. Frangella, J. Tropp, M. Udell, "Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 44, 2023,
       arXiv:2110.02820

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import conjugate_gradient, nystrom_pcg
    >>> scale = 1e3 * np.exp(-np.arange(300) / 6)
    >>> result = nystrom_pcg(lambda v: scale * v, np.ones(300), 0.1, rank=60)
    >>> plain = conjugate_gradient(lambda v: scale * v, np.ones(300), damping=0.1)
    >>> 5 * result.n_iter < plain.n_iter
    True
    """
    damping = positive(damping, "damping")
    right = as_input(b, "b", shape=("d",))
    d = right.shape[0]
    given = {"matmat": matmat, "fd": fd, "like": right.array, "dtype": right.dtype}
    if rank is None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ConvergenceWarning
            )  # a model that is not enough still helps
            op = nystrom(
                matvec,
                d,
                min(d, _AUTO_RANK),
                oversample=oversample,
                seed=seed,
                adaptive_tol=_ENOUGH * damping,
                max_rank=min(d, _MOST_AUTO),
                **given,
            )
    else:
        op = nystrom(matvec, d, rank, oversample=oversample, seed=seed, **given)
    result = solve_silently(matvec, b, op.preconditioner(damping), damping, tol, max_iter, x0)
    result.operator = op
    result.n_matvecs += op.n_matvecs
    _warn(result, "nystrom_pcg")
    return result


def _warn(result: CGResult, name: str) -> None:
    if result.converged:
        return
    why = "a direction of no or negative curvature" if result.negative_curvature else "max_iter"
    warnings.warn(
        f"{name}: stopped by {why} after {result.n_iter} iterations at a relative residual of {result.residual:.3g}",
        ConvergenceWarning,
        stacklevel=3,
    )


def solve_silently(
    matvec: Any,
    b: Any,
    preconditioner: Any,
    damping: float,
    tol: float,
    max_iter: int | None,
    x0: Any,
) -> CGResult:
    """Without a word about convergence."""
    right = as_input(b, "b", shape=("d",))
    check_finite(right, "b")
    d = right.shape[0]
    damping, tol = nonnegative(damping, "damping"), nonnegative(tol, "tol")
    limit = 10 * d if max_iter is None else as_count(max_iter, "max_iter")
    A = Matvec(matvec, d, like=right.array, dtype=right.dtype)
    if A._place is None:  # b says all there is to know
        A._settle((right.framework, right.dtype, right.device))
    elif A.device != right.device:
        raise ValueError(f"b: expected device {A.device}, where matvec is, got {right.device}")
    system = _System(A, right, _as_preconditioner(preconditioner, damping), damping)
    return system.run(tol, limit, x0)


def _as_preconditioner(P: Any, damping: float) -> Callable[[Any], Any] | None:
    if isinstance(P, LowRankOperator):
        return P.preconditioner(damping)
    if P is None:
        return None
    if callable(P):
        call: Callable[[Any], Any] = P
        return call
    raise TypeError(
        f"preconditioner: expected a callable or a LowRankOperator, got {type(P).__name__}"
    )


class _System:
    """Vectors of one solution, as rows of native memory: x, p, r, and the preconditioned r."""

    def __init__(
        self,
        A: Matvec,
        b: Input,
        preconditioner: Callable[[Any], Any] | None,
        damping: float,
    ) -> None:
        self.A, self.b, self.P, self.damping = A, b, preconditioner, damping
        place = b.framework, b.device
        self.vectors = Tall.empty(4, b.shape[0], b.dtype, place)
        data = self.vectors.data
        self.x, self.p, self.r, self.z = (data[i] for i in range(4))
        self.rz = data[2:4] if preconditioner is not None else data[2:3]
        self.place, self.queue = place, b.framework.queue(b.device)
        self.executor, self.none = executor(b.device), np.zeros(2)

    def combine(self, outs: list[Any], arrays: list[Any], table: list[list[float]]) -> None:
        noise, d = self.none[: len(outs)], self.b.shape[0]
        self.executor.combine(
            outs, arrays, np.array(table), [], noise, [], d, 1, 0, 0, 0, self.queue
        )

    def dots(self, rows: Any, v: Any) -> list[float]:
        v = v.reshape(1, -1)
        found = _native.gram(rows, v, self.place, a_rows=True, b_rows=True)
        return [float(c) for c in found[:, 0]]

    def product(self, v: Any) -> Any:
        return self.A.product(self.A.show(v))

    def precondition(self) -> tuple[float, float]:
        """r.r and r.z of the present residual."""
        if self.P is None:
            (rr,) = self.dots(self.rz, self.r)
            return rr, rr
        z = self.P(self.A.show(self.r))
        self.z[...] = as_match(z, "preconditioner", self.b, "b").data
        rr, rz = self.dots(self.rz, self.r)
        if rr > 0.0 and not rz > 0.0:
            raise ValueError(
                f"preconditioner: expected a positive definite matrix, got r.P^-1 r = {rz:.6g}"
            )
        return rr, rz

    def run(self, tol: float, limit: int, x0: Any) -> CGResult:
        b = self.b
        size = math.sqrt(self.dots(b.data.reshape(1, -1), b.data)[0]) if b.shape[0] else 0.0
        if not math.isfinite(size):
            raise ValueError("b: expected numbers whose squares are finite")
        self.x[...] = 0.0
        self.r[...] = b.data
        if x0 is not None and size > 0.0:
            start = as_match(x0, "x0", b, "b")
            check_finite(start, "x0")
            self.x[...] = start.data
            Ax = self.product(self.x)
            self.combine([self.r], [b.data, Ax, self.x], [[1.0, -1.0, -self.damping]])
        if size == 0.0:
            return self.result(0.0, 0, converged=True)
        search = self.z if self.P is not None else self.r
        rr, rz = self.precondition()
        self.p[...] = search
        done = 0
        while True:
            residual = math.sqrt(rr) / size
            if not math.isfinite(residual):
                self.A.not_finite()
            if residual <= tol or done == limit:
                return self.result(residual, done, converged=residual <= tol)
            Ap = self.product(self.p)
            (curvature,) = self.dots(Ap.reshape(1, -1), self.p)
            if self.damping:
                curvature += self.damping * self.dots(self.p.reshape(1, -1), self.p)[0]
            if not math.isfinite(curvature):
                self.A.not_finite()
            if curvature <= 0.0:
                out = self.result(residual, done, converged=False)
                out.negative_curvature, out.direction = True, self.handed(self.p)
                return out
            step = rz / curvature
            # x + a p, r - a (A + damping) p
            self.combine(
                [self.x, self.r],
                [self.x, self.p, self.r, Ap],
                [[1.0, step, 0.0, 0.0], [0.0, -step * self.damping, 1.0, -step]],
            )
            done += 1
            before = rz
            rr, rz = self.precondition()
            self.combine([self.p], [search, self.p], [[1.0, rz / before]])

    def handed(self, v: Any) -> Any:
        out = self.b.framework.empty(self.b.shape, self.b.dtype, self.b.device)
        out.data[...] = v
        return out.result()

    def result(self, residual: float, n_iter: int, *, converged: bool) -> CGResult:
        return CGResult(self.handed(self.x), residual, n_iter, self.A.calls, converged)
