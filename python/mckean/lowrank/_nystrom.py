"""Randomised Nystrom models of positive semi-definite matrices."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from mckean._errors import (
    ConvergenceWarning,
    as_count,
    as_real,
    as_seed,
    positive,
)
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._operator import LowRankOperator
from mckean.lowrank._tall import Doubles, Tall, orthonormalize, svd

__all__ = ["NystromSketch", "nystrom"]

SKETCH_STREAM = 0x6E797374726F6D  # "nystrom"; the next one: starts of the error estimate
_ESTIMATE_STEPS = 10
_NARROW = 16  # a normal sketch of at most dim / 16 columns has a condition below 1.7 as it is
_LARGEST_SHIFT = 1e-3  # relative to the norm of the products
_ASYMMETRY = {"float64": 1e-4, "float32": 1e-2}  # what finite differences leave


def nystrom(
    matvec: Any,
    d: int,
    rank: int,
    *,
    seed: Any = 0,
    oversample: int | None = None,
    power: int = 0,
    adaptive_tol: Any = None,
    max_rank: int | None = None,
    check: bool = True,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
    matmat: Any = None,
    fd: Any = None,
) -> LowRankOperator:
    """Model a positive semi-definite matrix by products with random vectors, all at once.

    With a random ``Om`` (d, l) and ``Y = A Om`` the model is ``Y (Om^T Y)^+ Y^T``, truncated to its `rank` largest
    eigenvalues. It lies between 0 and A. One pass over A, and products in blocks; `lanczos` needs as many products
    one after the other and is far more accurate in the leading eigenpairs. Expect an error of 4 to 15 times the
    first eigenvalue left out.

    Parameters
    ----------
    matvec : callable, array or LinearOperator
        ``v -> A v``, (d,) to (d,), in any framework, or the matrix itself. Symmetric, no negative eigenvalues.
    d : int
        Size of A.
    rank : int
        Eigenpairs wanted, ``1 <= rank <= d``. With `adaptive_tol`, the first rank tried.
    seed : int or numpy.random.SeedSequence
        Of the sketch. The result is a function of the seed alone.
    oversample : int, optional
        Columns drawn in excess of `rank`; by default ``max(10, rank // 2)``: with a flat bulk of small eigenvalues,
        few are not enough.
    power : int
        Products with A before the sketch is taken; 1 costs twice the products and brings the error close to the first
        eigenvalue left out.
    adaptive_tol : float or ("rel", float), optional
        Double the rank, keeping what was computed, until the norm of ``A - model``, estimated by ten steps of the power
        method, is at most this, or this times the largest eigenvalue. The estimate comes from below.
    max_rank : int, optional
        Where `adaptive_tol` gives up; by default d.
    check : bool
        Refuse products that are not symmetric; costs nothing.
    like, dtype, device
        Framework, dtype and device of the vectors given to `matvec`, by default found out.
    matmat : callable, optional
        ``V -> A V`` for blocks of vectors (d, l); matrices and linear operators have it by themselves.
    fd : bool or float, optional
        Whether products are finite differences, or their relative error: the check of symmetry then allows for it.

    Returns
    -------
    LowRankOperator
        ``U`` (d, rank), ``s`` (rank,) >= 0 and falling, ``sigma`` 0, of the framework, dtype and device of the
        products. ``n_matvecs`` counts all products; ``error_estimate`` is the last estimate of the error, None without
        `adaptive_tol`; ``converged`` says whether it was small enough. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or A is not symmetric or has negative eigenvalues, as
        seen by the sketch: then use `lanczos`.
    FloatingPointError
        If a product is not finite.

    Warns
    -----
    ConvergenceWarning
        If `adaptive_tol` is not met at `max_rank`.

    See Also
    --------
    lanczos, NystromSketch, nystrom_pcg

    Notes
    -----
    A multiple nu = eps ||Y|| of the identity is added to A and taken off s, so that float32 and spectra that fall
    fast do not break the Cholesky factorisation; it grows up to 1e-3 ||Y|| where products are that far from
    semi-definite. About eight passes over arrays (d, l), l the number of columns drawn; memory 2 d l numbers, three
    times that with `adaptive_tol`.

    References
    ----------
    .. [1] Z. Frangella, J. Tropp, M. Udell, "Randomized Nystrom preconditioning", SIAM J. Matrix Anal. Appl. 44, 2023,
       arXiv:2110.02820
    .. [2] J. Tropp, A. Yurtsever, M. Udell, V. Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from
       streaming data", NeurIPS 2017

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import nystrom
    >>> values = 100.0 * 0.5 ** np.arange(200)
    >>> op = nystrom(lambda v: values * v, 200, 8)
    >>> bool(abs(op.s - values[:8]).max() < 1e-3)
    True
    """
    sketch = NystromSketch(
        d,
        rank,
        oversample=oversample,
        power=power,
        seed=seed,
        check=check,
        like=like,
        dtype=dtype,
        device=device,
    )
    top = sketch.d if max_rank is None else as_count(max_rank, "max_rank", least=sketch.rank)
    top = min(top, sketch.d)
    tolerance, relative = _tolerance(adaptive_tol)
    if tolerance is not None and sketch.power:
        raise ValueError("power: expected 0 with adaptive_tol, got " + str(sketch.power))
    A = Matvec(matvec, sketch.d, matmat=matmat, fd=fd, **sketch._given)
    sketch._start(A)
    if tolerance is None:
        op = sketch._model(keep=False)
    else:
        while True:
            op = sketch._model(keep=True)
            error = _error(A, op, sketch.seed)
            op.error_estimate = error
            wanted = tolerance * (sketch.top if relative else 1.0)
            op.converged = error <= wanted
            if op.converged or sketch.rank == top:
                break
            sketch._widen(A, min(top, 2 * sketch.rank))
        if not op.converged:
            warnings.warn(
                f"nystrom: an error of about {error:.3g} at rank {sketch.rank}, above adaptive_tol = {wanted:.3g}",
                ConvergenceWarning,
                stacklevel=2,
            )
    op.n_matvecs = A.calls
    return op


class NystromSketch:
    """The products that a Nystrom model is made of, for a matrix that arrives as a sum.

    Parameters
    ----------
    d, rank : int
        Size of the matrix and of the model.
    oversample, power, seed, check, like, dtype, device
        As for `nystrom`; a sum allows ``power=0`` only.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    nystrom

    Notes
    -----
    Memory 2 d l numbers, l the number of columns drawn, and d l more while a model is made. The sketch is linear in the
    matrix, so nothing is lost by adding in parts.

    References
    ----------
    .. [1] J. Tropp, A. Yurtsever, M. Udell, V. Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from
       streaming data", NeurIPS 2017

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import NystromSketch
    >>> sketch = NystromSketch(50, 3)
    >>> for row in np.eye(50)[:3]:
    ...     _ = sketch.update(2.0, lambda v: row * (row @ v))
    >>> sketch.operator().s.round(6)
    array([2., 2., 2.])
    """

    def __init__(
        self,
        d: int,
        rank: int,
        *,
        oversample: int | None = None,
        power: int = 0,
        seed: Any = 0,
        check: bool = True,
        like: Any = None,
        dtype: Any = None,
        device: Any = None,
    ) -> None:
        self.d = as_count(d, "d", least=1)
        self.rank = as_count(rank, "rank", least=1)
        if self.rank > self.d:
            raise ValueError(f"rank: expected at most d = {self.d}, got {self.rank}")
        self.oversample = None if oversample is None else as_count(oversample, "oversample")
        self.power = as_count(power, "power")
        self.seed = as_seed(seed)
        self.check = bool(check)
        self.top = 0.0  # largest eigenvalue of the last model
        self.n_matvecs = 0
        self._given = {"like": like, "dtype": dtype, "device": device}
        self._error = 0.0  # relative, of the products beyond rounding
        self._omega: Tall | None = None
        self._Y: Tall | None = None

    @property
    def columns(self) -> int:
        """How many columns the sketch has."""
        extra = max(10, self.rank // 2) if self.oversample is None else self.oversample
        return min(self.d, self.rank + extra)

    def update(self, theta: float, matvec: Any, *, decay: float = 1.0) -> NystromSketch:
        """Replace the matrix A by ``decay A + theta B``, B given as for `nystrom`; returns the sketch itself."""
        if self.power:
            raise ValueError(f"power: expected 0 for a sum of matrices, got {self.power}")
        theta, decay = as_real(theta, "theta"), as_real(decay, "decay")
        B = Matvec(matvec, self.d, **self._given)
        if self._Y is None or self._omega is None:
            self._start(B, theta)
        else:
            self._error = max(self._error, B.error)
            more = self._product(B, self._omega)
            self._Y.combine([decay, theta], [self._Y.data, more.data])
        self.n_matvecs += B.calls
        return self

    def operator(self) -> LowRankOperator:
        """Return the model of what was added so far, as `nystrom` does."""
        if self._Y is None:
            raise ValueError("NystromSketch: expected an update before operator()")
        op = self._model(keep=True)
        op.n_matvecs = self.n_matvecs
        return op

    def _start(self, A: Matvec, theta: float = 1.0) -> None:
        """Draw the columns and multiply by A."""
        self._error = max(self._error, A.error)
        omega = self._draw(A, 0)
        if omega.columns * _NARROW > self.d:
            orthonormalize(omega)
        Y = self._product(A, omega)
        for _ in range(self.power):
            orthonormalize(Y)
            omega, Y = Y, self._product(A, Y)
        if theta != 1.0:
            Y.combine([theta], [Y.data])
        self._omega, self._Y = omega, Y

    def _widen(self, A: Matvec, rank: int) -> None:
        """Draw what a model of this rank needs more; the products there are remain."""
        omega, Y = self._omega, self._Y
        assert omega is not None and Y is not None
        self.rank = rank
        old = omega.columns
        if self.columns == old:
            return
        new = self._draw(A, old)
        if self.columns * _NARROW > self.d:
            X = np.linalg.inv(omega.gram())
            for _ in range(2):
                omega.times(-(X @ omega.gram(new)), new, add=True)
                orthonormalize(new)
        self._omega, self._Y = _joined(omega, new), _joined(Y, self._product(A, new))

    @staticmethod
    def _product(A: Matvec, V: Tall) -> Tall:
        Y = Tall(A.rows(V.data), V.framework, V.device, V.dtype)
        if not math.isfinite(Y.norm()):
            A.not_finite()
        return Y

    def _draw(self, A: Matvec, start: int) -> Tall:
        """Columns of the sketch from `start` on, with orthonormal expectation."""
        new = Tall.normal(
            self.columns - start,
            self.d,
            A.dtype,
            A.place,
            seed=self.seed,
            stream=SKETCH_STREAM,
            counter=start,
        )
        new.combine([1.0 / math.sqrt(self.d)], [new.data])
        return new

    def _model(self, *, keep: bool) -> LowRankOperator:
        """The model; without `keep` the memory of the products goes into it."""
        omega, Y = self._omega, self._Y
        assert omega is not None and Y is not None
        norm = Y.norm()
        if keep:
            B = Tall.empty(Y.columns, Y.dim, Y.dtype, Y.place)
        else:
            B, self._Y, self._omega = Y, None, None
        least = float(np.finfo(Y.dtype).eps) * norm
        shift = least if norm > 0.0 else 1.0  # of zero: any, and exactly that is taken off again
        B.combine([1.0, shift], [Y.data, omega.data])
        core = omega.gram(B)
        if self.check:
            _symmetric(core, norm * omega.norm() / math.sqrt(omega.columns), self._error, Y)
        core = (core + core.T) / 2
        C, more = _cholesky(core, shift, _LARGEST_SHIFT * norm, omega)
        if more:
            B.combine([1.0, more], [B.data, omega.data])
            shift += more
        B.times(np.linalg.inv(C).T, B)
        M, sigma, _ = svd(B)
        s = (sigma[: self.rank] ** 2 - shift).clip(0.0) if norm > 0.0 else np.zeros(self.rank)
        self.top = float(s[0])
        values = Y.framework.asarray(s.astype(Y.dtype), Y.device)
        return LowRankOperator(B.to_columns(M[:, : self.rank]).result(), values, check=False)


class IndefiniteError(ValueError):
    """A matrix that was to be positive semi-definite has negative eigenvalues."""


def _cholesky(core: Doubles, shift: float, largest: float, omega: Tall) -> tuple[Doubles, float]:
    """The Cholesky factor of the core, and what had to be added to the shift for it."""
    gram: Doubles | None = None
    total = shift
    while True:
        try:
            added = core if gram is None else core + (total - shift) * gram
            return np.linalg.cholesky(added), total - shift
        except np.linalg.LinAlgError:
            gram = omega.gram() if gram is None else gram
            total *= 10.0
            if total > largest:
                least = float(np.linalg.eigvalsh(core - shift * gram)[0])
                raise IndefiniteError(
                    "matvec: expected a positive semi-definite matrix, got one whose sketch has the eigenvalue "
                    f"{least:.3g}; use lanczos"
                ) from None


def _symmetric(core: Doubles, size: float, error: float, Y: Tall) -> None:
    """Refuse a core that is not symmetric up to what rounding, or `error`, does; `size` is the norm of the products."""
    root = math.sqrt(Y.dim)
    if Y.dtype == "float64" and not error:
        allowed = 1e3 * 2.0**-52 * root
    else:
        allowed = max(_ASYMMETRY[Y.dtype], 10.0 * error) * min(1.0, 30.0 / root)
    off = float(np.linalg.norm(core - core.T))
    if off > allowed * size:
        raise ValueError(
            f"matvec: expected a symmetric matrix, got one whose sketch differs from its transpose by {off:.3g}, with "
            f"products of norm {size:.3g}; check=False accepts it"
        )


def _joined(a: Tall, b: Tall) -> Tall:
    both = Tall.empty(a.columns + b.columns, a.dim, a.dtype, a.place)
    both[: a.columns].set(a.data)
    both[a.columns :].set(b.data)
    return both


def _tolerance(value: Any) -> tuple[float | None, bool]:
    if value is None:
        return None, False
    if isinstance(value, (tuple, list)):
        if len(value) != 2 or value[0] != "rel":
            raise ValueError(f'adaptive_tol: expected a number or ("rel", number), got {value!r}')
        return positive(value[1], "adaptive_tol"), True
    return positive(value, "adaptive_tol"), False


def _error(A: Matvec, op: LowRankOperator, seed: int) -> float:
    """The norm of A - op by the power method, from below."""
    U, s = op._U.data, op._s.data
    v = Tall.normal(1, A.d, A.dtype, A.place, seed=seed, stream=SKETCH_STREAM + 1)
    w = Tall.empty(1, A.d, A.dtype, A.place)
    estimate = 0.0
    v.combine([1.0 / v.norm()], [v.data])
    for _ in range(_ESTIMATE_STEPS):
        _native.apply(
            U, s, np.zeros(1), [(_native.MATVEC, -1.0, v.data[None])], w.data[None], v.place
        )
        w.combine([1.0, 1.0], [w.data, A(v.data[0]).data.reshape(1, -1)])
        estimate = abs(float(v.gram(w)[0, 0]))
        size = w.norm()
        if size == 0.0:
            break
        v.combine([1.0 / size], [w.data])
    return estimate
