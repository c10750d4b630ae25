"""Compact quasi-Newton models of a history of steps and changes of the gradient.

R. Byrd, J. Nocedal, R. Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
Mathematical Programming 63, 1994. All decisions are made from the dot products of the history, in float64; the long
vectors are then read once for the span of the model.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite
from mckean._errors import as_count, one_of
from mckean.lowrank import _native
from mckean.lowrank._operator import LowRankOperator
from mckean.lowrank._tall import Doubles, Tall, factor

__all__ = ["History", "from_history"]

_KINDS = ("lbfgs", "sr1")
_CURVED = 1e-10  # cosine of s and y that a pair needs
_POWELL = 0.2
_SR1 = 1e-8
_CONDITION = (
    1e-10,
    100.0,
)  # reciprocal condition of the middle matrix of SR1 that a pair must leave: this, or times eps


def from_history(S: Any, Y: Any, *, kind: str = "lbfgs", damped: bool = False) -> LowRankOperator:
    """Model a Hessian by the quasi-Newton matrix of steps and the changes of the gradient along them.

    Parameters
    ----------
    S, Y : array, shape (d, m), float32 or float64
        Steps and changes of the gradient as columns, the newest last.
    kind : {"lbfgs", "sr1"}
        "lbfgs" is positive definite, from pairs with ``s.y > 1e-10 |s| |y|``. "sr1" may be indefinite and, on a
        quadratic, is its Hessian after d independent steps; it takes pairs with ``|s.r| >= 1e-8 |s| |r|``, r the
        error ``y - B s`` of the model so far, and knows those with ``|r|`` below rounding, ``sqrt(eps) (|y| +
        |B s|)``. Of more than d others the newest d count.
    damped : bool
        "lbfgs" only: replace y by Powell's mixture of y and ``B s``, B of the pairs before (at first ``|y| /
        |s|``), where ``s.y < 0.2 s.B s``; only zeros are then dropped.

    Returns
    -------
    LowRankOperator
        ``U`` (d, k), k = 2 m ("lbfgs") or m ("sr1") less what was dropped, at most d; ``s`` falling, of either
        sign; and ``sigma`` = y.y / s.y of the newest pair. ``solve(b)`` without damping is the two-loop recursion
        of L-BFGS. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, numbers are not finite, or no pair can be used.

    Warns
    -----
    UserWarning
        If pairs were dropped; the message says how many.

    See Also
    --------
    History

    Notes
    -----
    About 12 d m^2 operations ("lbfgs"); memory 2 d m numbers. Pairs count whatever the length of s.

    References
    ----------
    .. [1] R. Byrd, J. Nocedal, R. Schnabel, "Representations of quasi-Newton matrices and their use in limited memory
       methods", Mathematical Programming 63, 1994
    .. [2] M. Powell, "Algorithms for nonlinear constraints that use Lagrangian functions", Mathematical Programming
       14, 1978

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.lowrank import from_history
    >>> H = np.diag([10.0, 3.0, 1.0])
    >>> S = mk.random.normal(0, (3, 2))
    >>> op = from_history(S, H @ S)
    >>> bool(np.allclose(op.matvec(S[:, -1]), H @ S[:, -1]))
    True
    """
    one_of(kind, "kind", _KINDS)
    _only_lbfgs(damped, kind)
    s = as_input(S, "S", shape=("d", "m"))
    y = as_match(Y, "Y", s, "S")
    d, m = s.shape
    if m == 0 or d == 0:
        raise ValueError(f"S: expected at least one pair of vectors, got shape {tuple(s.shape)}")
    place = s.framework, s.device
    dots = np.empty((2 * m, 2 * m))
    dots[:m, :m] = _native.gram(s.data, s.data, place)
    dots[:m, m:] = _native.gram(s.data, y.data, place)
    dots[m:, m:] = _native.gram(y.data, y.data, place)
    dots[m:, :m] = dots[:m, m:].T
    if not np.isfinite(dots).all():
        check_finite(s, "S")
        check_finite(y, "Y")
        raise ValueError("S, Y: expected numbers whose squares are finite")
    form = _compact(dots, kind, damped, d, float(np.finfo(s.dtype).eps))
    if form.dropped:
        warnings.warn(
            f"from_history: {form.dropped} of {m} pairs dropped, {_reason(kind)}", stacklevel=2
        )

    def span(C: Doubles) -> Tall:
        psi = Tall.empty(C.shape[1], d, s.dtype, place)
        _native.multiply(s.data, C[:m], psi.data, place, out_rows=True)
        _native.multiply(y.data, C[m:], psi.data, place, out_rows=True, add=True)
        return psi

    return _model(form, span, Tall.empty(0, d, s.dtype, place))


class History:
    """The last pairs of steps and changes of the gradient, and the model they make.

    Parameters
    ----------
    memory : int
        How many pairs are kept, at least 1; an older one makes room for a new one.
    kind, damped
        As for `from_history`.

    Attributes
    ----------
    n_dropped : int
        Pairs that were given and not used, so far.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    from_history

    Notes
    -----
    A new pair costs 4 m dot products, besides the model. A pair that cannot be used is not kept, and there is no
    warning: in the course of an optimisation that is ordinary.

    References
    ----------
    .. [1] R. Byrd, J. Nocedal, R. Schnabel, "Representations of quasi-Newton matrices and their use in limited memory
       methods", Mathematical Programming 63, 1994

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.lowrank import History
    >>> history = History(5)
    >>> op = history.update(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    >>> op.solve(np.array([8.0, 4.0]))
    array([2., 1.])
    """

    def __init__(self, memory: int = 10, *, kind: str = "lbfgs", damped: bool = False) -> None:
        self.memory = as_count(memory, "memory", least=1)
        self.kind = one_of(kind, "kind", _KINDS)
        self.damped = _only_lbfgs(damped, kind)
        self.n_dropped = 0
        self._order: list[int] = []  # slots, the oldest first
        self._vectors: Tall | None = None  # slot i: s in row i, y in row memory + i
        self._dots = np.zeros((2 * self.memory, 2 * self.memory))
        self._like: Input | None = None

    def __len__(self) -> int:
        return len(self._order)

    def update(self, s: Any, y: Any) -> LowRankOperator | None:
        """Add a pair and return the model.

        Parameters
        ----------
        s, y : array, shape (d,)
            A step and the change of the gradient along it; copied.

        Returns
        -------
        LowRankOperator or None
            None as long as no pair could be used.

        Raises
        ------
        TypeError, ValueError
            If the vectors do not fit each other or those before, or are not finite.
        """
        step = as_input(s, "s", shape=("d",))
        if self._like is not None:
            step = as_match(s, "s", self._like, "the pairs before")
        change = as_match(y, "y", step, "s")
        if self._vectors is None:
            place = step.framework, step.device
            self._vectors = Tall.empty(2 * self.memory, step.shape[0], step.dtype, place)
            self._vectors.data[...] = 0.0
        # SR1 is a whole matrix after as many pairs as there are coordinates.
        most = min(self.memory, step.shape[0]) if self.kind == "sr1" else self.memory
        full = len(self._order) >= most
        slot = self._order[0] if full else min(set(range(self.memory)) - set(self._order))
        kept, rows = self._order[1:] if full else list(self._order), (slot, self.memory + slot)
        pair = Tall.empty(2, self._vectors.dim, step.dtype, self._vectors.place)
        pair.data[0] = step.data
        pair.data[1] = change.data
        own, dots = pair.gram(), self._vectors.gram(pair)
        if not (np.isfinite(own).all() and np.isfinite(dots).all()):
            check_finite(step, "s")
            check_finite(change, "y")
            raise ValueError("s, y: expected numbers whose squares are finite")
        trial = self._dots.copy()
        for i, row in enumerate(rows):
            trial[row, :] = trial[:, row] = dots[:, i]
        trial[np.ix_(rows, rows)] = own
        index = np.array([*kept, slot])
        index = np.concatenate([index, self.memory + index])
        form = self._form(trial, index, strict=False)
        self._like = step
        first = form.known and not self._order  # all that it says is in sigma
        if not first and (not form.kept or form.kept[-1] != len(kept)):
            self.n_dropped += form.dropped > 0
            return self._operator(self._order) if self._order else None
        for i, row in enumerate(rows):
            self._vectors.data[row] = pair.data[i]
        self._dots = trial
        self._order = [*kept, slot]
        return self._operator(self._order, form)

    def operator(self) -> LowRankOperator:
        """Return the model of the pairs that are kept."""
        if not self._order:
            raise ValueError(
                "History: expected a pair that can be used before operator(), got none"
            )
        return self._operator(self._order)

    def _form(self, dots: Doubles, index: Any, *, strict: bool = True) -> _Compact:
        vectors = self._vectors
        assert vectors is not None
        eps = float(np.finfo(vectors.dtype).eps)
        part = dots[np.ix_(index, index)]
        return _compact(part, self.kind, self.damped, vectors.dim, eps, strict=strict)

    def _operator(self, order: list[int], form: _Compact | None = None) -> LowRankOperator:
        vectors = self._vectors
        assert vectors is not None
        index = np.concatenate([order, self.memory + np.array(order)]).astype(np.intp)
        if form is None:
            form = self._form(self._dots, index)

        def span(C: Doubles) -> Tall:
            spread = np.zeros((2 * self.memory, C.shape[1]))
            spread[index] = C
            return vectors.times(spread)

        return _model(form, span, vectors[:0])


@dataclass(slots=True)
class _Compact:
    """B = sigma I + [S Y] C N C^T [S Y]^T."""

    sigma: float
    C: Doubles
    N: Doubles
    kept: list[int]
    known: int  # pairs that tell nothing new
    dropped: int


def _compact(
    dots: Doubles, kind: str, damped: bool, d: int, eps: float, *, strict: bool = True
) -> _Compact:
    """The compact form, from the dot products (2 m, 2 m) of [S Y] in d dimensions; strict: an error without any
    usable pair."""
    try:
        form = _pairs(dots, kind, damped, d, eps)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"S, Y: expected pairs that make a finite model, got {error}") from None
    if strict and not (form.kept or form.known):
        raise ValueError(f"S, Y: expected at least one pair that can be used, {_reason(kind)}")
    return form


def _pairs(dots: Doubles, kind: str, damped: bool, d: int, eps: float) -> _Compact:
    m = len(dots) // 2
    # A pair may be scaled without changing the matrix: steps of length 1.
    length = np.sqrt(np.diag(dots)[:m].clip(0.0))
    unit = np.where(length > 0.0, 1.0 / np.where(length > 0.0, length, 1.0), 0.0)
    # Columns: s and y of the pairs kept so far, as combinations of [S Y].
    steps, changes, kept = np.zeros((2 * m, 0)), np.zeros((2 * m, 0)), list[int]()
    if kind == "sr1":
        return _sr1_pairs(dots, unit, _scale(dots, unit), d, eps)
    for i in range(m):
        s, y = np.zeros(2 * m), np.zeros(2 * m)
        s[i], y[m + i] = unit[i], unit[i]
        sy, yy = float(s @ dots @ y), float(y @ dots @ y)
        if unit[i] == 0.0:
            continue
        if damped:
            Bs = _product(dots, steps, changes, s) if kept else math.sqrt(yy) * s
            sBs = float(s @ dots @ Bs)
            if sy < _POWELL * sBs:
                theta = (1.0 - _POWELL) * sBs / (sBs - sy)
                y = theta * y + (1.0 - theta) * Bs
                sy, yy = float(s @ dots @ y), float(y @ dots @ y)
        if not sy > _CURVED * math.sqrt(yy):
            continue
        steps = np.column_stack([steps, s])
        changes = np.column_stack([changes, y])
        kept.append(i)
    if not kept:
        return _Compact(0.0, np.eye(2 * m, 1), np.zeros((1, 1)), kept, 0, m)
    sigma = _ratio(dots, steps[:, -1], changes[:, -1])
    C, N = _lbfgs(dots, steps, changes, sigma)
    return _Compact(sigma, C, N, kept, 0, m - len(kept))


def _sr1_pairs(dots: Doubles, unit: Doubles, sigma: float, d: int, eps: float) -> _Compact:
    m, known = len(unit), 0
    s, y = np.zeros((2 * m, m)), np.zeros((2 * m, m))
    s[range(m), range(m)] = unit
    y[range(m, 2 * m), range(m)] = unit
    kept = list[int]()
    C, N = np.eye(2 * m, 1), np.zeros((1, 1))  # a multiple of the identity
    for i in range(m):
        if unit[i] == 0.0:
            continue
        r, size = _sr1_error(dots, C, N, sigma, s[:, i], y[:, i])
        if size <= math.sqrt(eps) * _magnitude(dots, y[:, i], y[:, i] - r):
            known += 1  # what is left is rounding
            continue
        rest = kept
        if len(kept) == d:
            # These pairs make a whole matrix: one that contradicts them takes the place of the oldest.
            rest = kept[1:]
            if rest:
                found = _sr1(dots, s[:, rest], y[:, rest], sigma, eps)
                if found is None:
                    continue
                r, size = _sr1_error(dots, *found, sigma, s[:, i], y[:, i])
            else:
                r = y[:, i] - sigma * s[:, i]
                size = _length(dots, r)
        if not abs(float(s[:, i] @ dots @ r)) >= _SR1 * size:
            continue
        trial = [*rest, i]
        found = _sr1(dots, s[:, trial], y[:, trial], sigma, eps)
        if found is not None:
            kept, (C, N) = trial, found
    return _Compact(sigma, C, N, kept, known, m - len(kept) - known)


def _sr1_error(
    dots: Doubles, C: Doubles, N: Doubles, sigma: float, s: Doubles, y: Doubles
) -> tuple[Doubles, float]:
    """y - B s and its length."""
    r = y - _apply(dots, C, N, sigma, s)
    return r, _length(dots, r)


def _length(dots: Doubles, v: Doubles) -> float:
    return math.sqrt(max(float(v @ dots @ v), 0.0))


def _magnitude(dots: Doubles, *vectors: Doubles) -> float:
    return sum(_length(dots, v) for v in vectors)


def _ratio(dots: Doubles, s: Doubles, y: Doubles) -> float:
    return float(y @ dots @ y) / float(s @ dots @ y)


def _scale(dots: Doubles, unit: Doubles) -> float:
    """sigma of SR1: y.y / s.y, of either sign, of the newest pair that has one."""
    m = len(unit)
    for i in range(m - 1, -1, -1):
        sy, yy = dots[i, m + i], dots[m + i, m + i]
        if unit[i] > 0.0 and abs(sy) * unit[i] > _CURVED * math.sqrt(yy):
            return float(yy / sy)
    return float(unit[-1] * math.sqrt(dots[-1, -1])) or 1.0


def _lbfgs(dots: Doubles, s: Doubles, y: Doubles, sigma: float) -> tuple[Doubles, Doubles]:
    sy = s.T @ dots @ y / sigma
    L = np.tril(sy, -1)
    # sigma is taken out of Psi and M, so that their parts have the same size.
    M = np.block([[s.T @ dots @ s, L], [L.T, -np.diag(np.diag(sy))]])
    return np.column_stack([s, y / sigma]), -sigma * np.linalg.inv(M)


def _sr1(
    dots: Doubles, s: Doubles, y: Doubles, sigma: float, eps: float
) -> tuple[Doubles, Doubles] | None:
    """None where the middle matrix is singular to rounding."""
    sy = s.T @ dots @ y
    L = np.tril(sy, -1)
    N = np.diag(np.diag(sy)) + L + L.T - sigma * (s.T @ dots @ s)
    N = (N + N.T) / 2
    largest = abs(N).max(1)
    if not largest.all():
        return None
    c = 1.0 / np.sqrt(largest)
    w, V = np.linalg.eigh(N * c[:, None] * c)
    if not abs(w).min() > max(_CONDITION[0], _CONDITION[1] * eps) * abs(w).max():
        return None
    V = V * c[:, None]
    return y - sigma * s, (V / w) @ V.T


def _apply(dots: Doubles, C: Doubles, N: Doubles, sigma: float, v: Doubles) -> Doubles:
    """B v for a combination v of [S Y]."""
    product: Doubles = sigma * v + C @ (N @ (C.T @ (dots @ v)))
    return product


def _product(dots: Doubles, s: Doubles, y: Doubles, v: Doubles) -> Doubles:
    sigma = _ratio(dots, s[:, -1], y[:, -1])
    return _apply(dots, *_lbfgs(dots, s, y, sigma), sigma, v)


def _model(form: _Compact, span: Any, empty: Tall) -> LowRankOperator:
    """The eigen form; `span` makes [S Y] C."""
    d, p = empty.dim, form.C.shape[1]
    psi = span(form.C)
    if p <= d:
        X, R = factor(psi)
    else:  # every direction is in the span
        R = psi.gram(_identity(empty)).T
        psi, X = _identity(empty), np.eye(d)
    T = R @ form.N @ R.T
    t, V = np.linalg.eigh((T + T.T) / 2)
    t, V = t[::-1], V[:, ::-1]
    s = psi.framework.asarray(np.ascontiguousarray(t).astype(psi.dtype), psi.device)
    return LowRankOperator(psi.to_columns(X @ V).result(), s, sigma=form.sigma, check=False)


def _identity(like: Tall) -> Tall:
    eye = Tall.empty(like.dim, like.dim, like.dtype, like.place)
    eye.data[...] = like.framework.asarray(np.eye(like.dim, dtype=like.dtype), like.device)
    return eye


def _only_lbfgs(damped: Any, kind: str) -> bool:
    if damped and kind != "lbfgs":
        raise ValueError(f'damped: expected False with kind="{kind}", got {damped!r}')
    return bool(damped)


def _reason(kind: str) -> str:
    if kind == "lbfgs":
        return "for s.y > 1e-10 |s| |y| does not hold"
    return "for |s.(y - B s)| >= 1e-8 |s| |y - B s| does not hold, or newer pairs or rounding leave no room for them"
