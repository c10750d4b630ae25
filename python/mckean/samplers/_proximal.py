"""Nonsmooth functions by their proximal maps, and their Moreau and Bregman-Moreau envelopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import as_input, as_match
from mckean._errors import one_of, positive
from mckean.samplers._elementwise import Maths, increasing_root, number_or_row, particles
from mckean.samplers._legendre import BoltzmannShannon, Burg, Euclidean, Hyperbolic, Legendre

__all__ = [
    "GroupNorm",
    "L1Norm",
    "L2Norm",
    "Nonsmooth",
    "ProximalMap",
    "Separable",
    "SquaredNorm",
    "as_bregman",
    "as_nonsmooth",
    "envelope_gradient",
    "inside",
    "moreau_envelope",
    "proximal_map",
]

Array = np.ndarray[Any, Any]
SIDES = ("left", "right")


class Nonsmooth:
    """A convex function with a proximal map: what all of `L1Norm`, `Box`, ... share."""

    _divergences: tuple[type[Legendre], ...] = (Euclidean,)

    def value(self, x: Any) -> Any:
        """Return ``g(x)``, shape (n,), for points (n, d) of any framework."""
        x, maths = particles(x)
        return self._value(maths, x)

    def prox(self, x: Any, step: float, *, bregman: Any = None, side: str = "left") -> Any:
        """Return `proximal_map` of this function."""
        return proximal_map(self, x, step, bregman=bregman, side=side)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this function."""
        return {k: v for k, v in vars(self).items() if not k.startswith("_")}

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={np.asarray(v).tolist()!r}" for k, v in self.config().items())
        return f"{type(self).__name__}({inner})"

    def _value(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError

    def _value_at_prox(self, maths: Maths, p: Any) -> Any:
        return self._value(maths, p)

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        raise NotImplementedError

    def _accept(self, bregman: Legendre) -> None:
        if not isinstance(bregman, self._divergences):
            names = " or ".join(f"{kind.__name__}()" for kind in self._divergences)
            raise ValueError(
                f"bregman: expected {names} for {type(self).__name__}, got {bregman!r}"
            )


def as_bregman(bregman: Any) -> Legendre:
    """Check `bregman`; None means Euclidean."""
    if bregman is None:
        return Euclidean()
    if not isinstance(bregman, Legendre):
        raise TypeError(
            "bregman: expected Euclidean(), BoltzmannShannon(), Burg() or Hyperbolic(scale), "
            f"got {bregman!r}"
        )
    return bregman


def as_nonsmooth(g: Any, name: str = "nonsmooth") -> Nonsmooth:
    """A `Nonsmooth` from one, or from a function ``prox(x, step)``."""
    if isinstance(g, Nonsmooth):
        return g
    if isinstance(g, type) or not callable(g):
        raise TypeError(
            f"{name}: expected a function of mckean.samplers such as L1Norm(1.0), or a callable "
            f"prox(x, step), got {g!r}"
        )
    return ProximalMap(g)


def inside(x: Any, maths: Maths, bregman: Legendre, name: str) -> None:
    """Raise where a point is not in the open domain of `bregman`; NaN passes."""
    low, high = bregman.domain
    if low == -math.inf and high == math.inf:
        return
    bad = int(((x <= low) | (x >= high)).sum())
    if bad:
        raise ValueError(
            f"{name}: expected coordinates inside ({low:g}, {high:g}), the domain of {bregman!r}, "
            f"got {bad} outside"
        )


def proximal_map(g: Any, x: Any, step: float, *, bregman: Any = None, side: str = "left") -> Any:
    """Return the proximal points of a convex function.

    ``argmin_z g(z) + D(z, x) / step`` ("left") or ``argmin_z g(z) + D(x, z) / step`` ("right"),
    where D is the divergence of `bregman`; for `Euclidean`, ``D = |z - x|^2 / 2`` and the sides
    agree. Closed forms where they exist, else a safeguarded Newton iteration per coordinate.

    Parameters
    ----------
    g : L1Norm, L2Norm, SquaredNorm, GroupNorm, Separable, Box, Ball, ..., or callable
        The function; a set stands for the function that is zero in it and infinite outside. A
        callable is the Euclidean proximal map ``prox(x, step)`` itself.
    x : array, shape (n, d), float32 or float64
        Points, inside the domain of `bregman`.
    step : float
        Positive.
    bregman : Euclidean, BoltzmannShannon, Burg or Hyperbolic, optional
        By default `Euclidean`.
    side : {"left", "right"}
        Whether the minimiser is the first or the second argument of D. The right problem has one
        solution if ``g`` is convex as a function of ``phi'(z)``.

    Returns
    -------
    array, shape (n, d)
        Of the framework, dtype and device of `x`. Deterministic.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, `x` leaves the domain, or `g` has no
        proximal map for `bregman`.

    See Also
    --------
    moreau_envelope

    References
    ----------
    .. [1] H. Bauschke, M. Dao, S. Lindstrom, "Regularizing with Bregman-Moreau envelopes", SIAM
       Journal on Optimization 28(4), 2018

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> g, x = mk.samplers.L1Norm(1.0), np.array([[3.0, 0.5]])
    >>> mk.samplers.proximal_map(g, x, 1.0)
    array([[2., 0.]])
    >>> mk.samplers.proximal_map(g, x, 1.0, bregman=mk.samplers.BoltzmannShannon(), side="right")
    array([[1.5 , 0.25]])
    """
    g, bregman = as_nonsmooth(g, "g"), as_bregman(bregman)
    step, side = positive(step, "step"), one_of(side, "side", SIDES)
    x, maths = particles(x)
    g._accept(bregman)
    inside(x, maths, bregman, "x")
    return g._prox(maths, x, step, bregman, side)


def moreau_envelope(
    g: Any, x: Any, smoothing: float, *, bregman: Any = None, side: str = "left"
) -> tuple[Any, Any]:
    """Return values and gradients of a Moreau or Bregman-Moreau envelope.

    Left, ``min_z g(z) + D(z, x) / smoothing`` with gradient ``phi''(x) (x - p) / smoothing``;
    right, ``min_z g(z) + D(x, z) / smoothing`` with gradient ``(phi'(x) - phi'(p)) / smoothing``;
    p is the minimiser (`proximal_map`). Both lie below g and tend to it as `smoothing` tends to 0.

    Parameters
    ----------
    g, x, bregman, side
        As for `proximal_map`.
    smoothing : float
        Positive.

    Returns
    -------
    value : array, shape (n,)
    gradient : array, shape (n, d)
        Of the framework, dtype and device of `x`. Deterministic.

    Raises
    ------
    TypeError, ValueError
        As for `proximal_map`, and if `g` is a proximal map without a value.

    See Also
    --------
    proximal_map, BregmanProximalLangevin

    Notes
    -----
    The gradient is a difference divided by `smoothing`: its absolute error is about the rounding
    error of `x` divided by `smoothing`.

    References
    ----------
    .. [1] H. Bauschke, M. Dao, S. Lindstrom, "Regularizing with Bregman-Moreau envelopes", SIAM
       Journal on Optimization 28(4), 2018

    Examples
    --------
    The envelope of the absolute value is Huber's function.

    >>> import numpy as np
    >>> import mckean as mk
    >>> value, gradient = mk.samplers.moreau_envelope(
    ...     mk.samplers.L1Norm(1.0), np.array([[3.0], [0.5]]), 1.0)
    >>> value, gradient.ravel()
    (array([2.5  , 0.125]), array([1. , 0.5]))
    """
    g, bregman = as_nonsmooth(g, "g"), as_bregman(bregman)
    smoothing, side = positive(smoothing, "smoothing"), one_of(side, "side", SIDES)
    x, maths = particles(x)
    g._accept(bregman)
    inside(x, maths, bregman, "x")
    p = g._prox(maths, x, smoothing, bregman, side)
    first, second = (p, x) if side == "left" else (x, p)
    distance = bregman._divergence(maths, first, second).sum(-1)
    value = g._value_at_prox(maths, p) + distance / smoothing
    return value, envelope_gradient(maths, x, p, smoothing, bregman, side)


def envelope_gradient(
    maths: Maths, x: Any, p: Any, smoothing: float, bregman: Legendre, side: str
) -> Any:
    """The gradient of the envelope at `x`, whose proximal point is `p`."""
    if side == "left":
        return (x - p) / (smoothing * bregman._mobility(maths, x))
    return (bregman._to_dual(maths, x) - bregman._to_dual(maths, p)) / smoothing


def _weight(value: Any, name: str = "weight") -> Array:
    out = number_or_row(value, name)
    if (out < 0).any():
        raise ValueError(f"{name}: expected numbers >= 0, got {out}")
    return out


def _root(xp: Any, a: Any) -> Any:
    return math.sqrt(a) if isinstance(a, float) else xp.sqrt(a)


def _half_power(maths: Maths, x: Any, a: Any) -> Any:
    """The positive root of ``a p^2 + p = x``, with no intermediate larger than the larger of x, a."""
    far = _root(maths.xp, a) * maths.xp.sqrt(x)
    return x / (0.5 + maths.xp.hypot(far * 0 + 0.5, far))


class L1Norm(Nonsmooth):
    """``g(x) = sum_i weight_i |x_i|``; its proximal map shrinks coordinates towards zero.

    Parameters
    ----------
    weight : float or array, shape (d,)
        At least 0.

    Notes
    -----
    Closed forms for every `bregman` and side. With a = step weight, left: ``phi'(x)`` is moved by a
    towards ``phi'(0)``; right: `BoltzmannShannon` ``x / (1 + a)``, `Burg` ``2 x / (1 + sqrt(1 + 4 a
    x))``, `Hyperbolic` the root of a quadratic equation beyond ``|x| = a scale``, 0 below.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.L1Norm([1.0, 3.0]).prox(np.array([[2.0, -4.0]]), 1.0)
    array([[ 1., -1.]])
    """

    _divergences = (Legendre,)

    def __init__(self, weight: Any = 1.0) -> None:
        self.weight = _weight(weight)

    def _value(self, maths: Maths, x: Any) -> Any:
        return (abs(x) * maths.row(self.weight, "weight")).sum(-1)

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        xp, a = maths.xp, maths.row(self.weight * step, "weight")
        if isinstance(bregman, Euclidean):
            return xp.sign(x) * maths.positive_part(abs(x) - a)
        if isinstance(bregman, Hyperbolic):
            s = bregman.scale
            if side == "left":
                y = bregman._to_dual(maths, x)
                return s * xp.sinh(xp.sign(y) * maths.positive_part(abs(y) - a))
            far = abs(x) > a * s
            t = xp.where(far, abs(x), 1 + a * s)
            # t^2 - (a s)^2 as a product: no cancellation where the root leaves zero, no overflow.
            q = xp.sqrt(t - a * s) * xp.sqrt(t + a * s)
            root = q * (q / t) / (1 + a * (xp.hypot(q, q * 0 + s) / t))
            return xp.where(far, xp.sign(x) * root, x * 0)
        if isinstance(bregman, Burg):
            if side == "right":
                return _half_power(maths, x, a)
            top = xp.where(x > 1, x, 1.0)
            r = 4 * (x / top)  # JAX takes numbers as small as 1 / x may be for zero, but not 4 / x
            return r / (4 / top + a * r)
        if side == "right":
            return x / (1 + a)
        return x * (math.exp(-a) if isinstance(a, float) else xp.exp(-a))


class _Smooth(Nonsmooth):
    """A sum over coordinates with two derivatives: any divergence, by Newton's method."""

    _divergences = (Legendre,)

    def _slopes(self, maths: Maths, x: Any) -> tuple[Any, Any]:
        """First and second derivative per coordinate."""
        raise NotImplementedError

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        pull = step * self._slopes(maths, x)[0]
        if side == "right":
            return self._right(maths, x, step, bregman, pull * bregman._mobility(maths, x))
        y, top = bregman._to_dual(maths, x), bregman.dual_domain[1]

        def balance(z: Any) -> tuple[Any, Any]:
            p = bregman._to_primal(maths, z)
            slope, curvature = self._slopes(maths, p)
            return z + step * slope - y, 1 + step * curvature * bregman._mobility(maths, p)

        # Convexity: between x and the root the slope of g only decreases in size.
        other = y - pull
        if top < math.inf:
            other = maths.xp.where(other >= top, y * maths.eps, other)
        low, high = maths.xp.where(other < y, other, y), maths.xp.where(other < y, y, other)
        return bregman._to_primal(maths, increasing_root(maths, balance, low, high, y))

    def _right(self, maths: Maths, x: Any, step: float, bregman: Legendre, pull: Any) -> Any:
        def balance(z: Any) -> tuple[Any, Any]:
            slope, curvature = self._slopes(maths, z)
            mobility, change = bregman._mobility(maths, z), bregman._mobility_slope(maths, z)
            return (
                z - x + step * slope * mobility,
                1 + step * (curvature * mobility + slope * change),
            )

        other = x - pull
        if bregman.domain[0] == 0.0:
            other = maths.xp.where(other <= 0, x * 0, other)
        low, high = maths.xp.where(other < x, other, x), maths.xp.where(other < x, x, other)
        return increasing_root(maths, balance, low, high, x)


class SquaredNorm(_Smooth):
    """``g(x) = sum_i weight_i x_i^2 / 2``: the potential of a Gaussian.

    Closed forms for `Euclidean`, `Burg` on the left and `BoltzmannShannon` on the right; the others
    by Newton's method.

    Parameters
    ----------
    weight : float or array, shape (d,)
        At least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.SquaredNorm(3.0).prox(np.array([[2.0]]), 1.0)
    array([[0.5]])
    """

    def __init__(self, weight: Any = 1.0) -> None:
        self.weight = _weight(weight)

    def _value(self, maths: Maths, x: Any) -> Any:
        return (x * x * maths.row(self.weight / 2, "weight")).sum(-1)

    def _slopes(self, maths: Maths, x: Any) -> tuple[Any, Any]:
        w = maths.row(self.weight, "weight")
        return w * x, w + x * 0

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        xp, a = maths.xp, maths.row(self.weight * step, "weight")
        if isinstance(bregman, Euclidean):
            return x / (1 + a)
        if isinstance(bregman, Burg) and side == "left":
            top = xp.where(x > 1, x, 1.0)
            r = 8 * (x / top)
            return r / (4 / top + xp.hypot(4 / top, _root(xp, a) * r))
        if isinstance(bregman, BoltzmannShannon) and side == "right":
            return _half_power(maths, x, a)
        return super()._prox(maths, x, step, bregman, side)


class Separable(_Smooth):
    """``g(x) = sum_i g_i(x_i)`` from functions of your own, with two derivatives.

    Parameters
    ----------
    value, slope, curvature : callable
        Element-wise, (n, d) to (n, d), in the framework of the particles: g_i, its derivative,
        which must not decrease, and its second derivative.

    Examples
    --------
    The proximal map of ``exp``:

    >>> import numpy as np
    >>> import mckean as mk
    >>> g = mk.samplers.Separable(np.exp, np.exp, np.exp)
    >>> p = g.prox(np.array([[1.0]]), 1.0)
    >>> bool(abs(p + np.exp(p) - 1.0).max() < 1e-14)
    True
    """

    def __init__(
        self,
        value: Callable[[Any], Any],
        slope: Callable[[Any], Any],
        curvature: Callable[[Any], Any],
    ) -> None:
        for name, f in (("value", value), ("slope", slope), ("curvature", curvature)):
            if not callable(f):
                raise TypeError(f"{name}: expected a callable, got {type(f).__name__}")
        self._functions = (value, slope, curvature)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this function."""
        return dict(zip(("value", "slope", "curvature"), self._functions, strict=True))

    def __repr__(self) -> str:
        names = (getattr(f, "__name__", type(f).__name__) for f in self._functions)
        return f"Separable({', '.join(names)})"

    def _apply(self, which: int, x: Any) -> Any:
        name = ("value", "slope", "curvature")[which]
        return as_match(self._functions[which](x), name, as_input(x, "x"), "x").array

    def _value(self, maths: Maths, x: Any) -> Any:
        return self._apply(0, x).sum(-1)

    def _slopes(self, maths: Maths, x: Any) -> tuple[Any, Any]:
        return self._apply(1, x), self._apply(2, x)


class L2Norm(Nonsmooth):
    """``g(x) = weight |x|_2``, the norm and not its square; Euclidean proximal map only.

    Parameters
    ----------
    weight : float
        At least 0.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.L2Norm(1.0).prox(np.array([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    array([[2.4, 3.2],
           [0. , 0. ]])
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = _weight(weight)
        if self.weight.ndim:
            raise ValueError(f"weight: expected one number, got shape {self.weight.shape}")

    def _value(self, maths: Maths, x: Any) -> Any:
        return maths.length(x) * float(self.weight)

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        return x * _shrink(maths, maths.length(x), float(self.weight) * step)[:, None]


def _shrink(maths: Maths, length: Any, by: Any) -> Any:
    """Factor that takes `by` off a length, down to zero."""
    long = length > by
    factor = 1 - by / maths.xp.where(long, length, length * 0 + 1)
    return maths.xp.where(long | (length != length), factor, length * 0)


class GroupNorm(Nonsmooth):
    """``g(x) = sum_G weight_G |x_G|_2`` over disjoint groups of coordinates; Euclidean only.

    Parameters
    ----------
    groups : sequence of int, shape (d,)
        The group of each coordinate, numbered from 0 without gaps.
    weight : float or array, shape (n_groups,)
        At least 0. A customary choice is the square root of the group's size.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.GroupNorm([0, 0, 1], 1.0).prox(np.array([[3.0, 4.0, 0.5]]), 1.0)
    array([[2.4, 3.2, 0. ]])
    """

    def __init__(self, groups: Any, weight: Any = 1.0) -> None:
        labels = np.asarray(groups)
        if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
            raise ValueError(
                f"groups: expected integers of shape (d,), got {labels.dtype} of {labels.shape}"
            )
        sizes = np.bincount(labels) if labels.min() >= 0 else np.zeros(1)
        if not sizes.all():
            raise ValueError("groups: expected numbers from 0 without gaps, got others")
        self.groups, self.weight = labels.astype(np.int64), _weight(weight)
        if self.weight.ndim and len(self.weight) != len(sizes):
            raise ValueError(
                f"weight: expected shape ({len(sizes)},) to match groups, got {self.weight.shape}"
            )
        # Groups of one size are gathered together, so that memory stays (n, d) however unequal they are.
        by_group = np.argsort(self.groups, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self._gather, order = [], []
        for size in np.unique(sizes):
            of_size = np.flatnonzero(sizes == size)
            self._gather.append(by_group[starts[of_size, None] + np.arange(size)])
            order.append(of_size)
        place = np.empty(len(sizes), np.int64)
        place[np.concatenate(order)] = np.arange(len(sizes))
        self._order, self._place = np.concatenate(order), place[self.groups]

    def _lengths(self, maths: Maths, x: Any) -> Any:
        if maths.shape[1] != len(self.groups):
            raise ValueError(
                f"groups: expected shape ({maths.shape[1]},) to match x {maths.shape}, "
                f"got {self.groups.shape}"
            )
        parts = [maths.xp.sqrt((x[:, maths.indices(i)] ** 2).sum(-1)) for i in self._gather]
        return maths.xp.concatenate(parts, -1)

    def _by(self, maths: Maths, step: float) -> Any:
        w = self.weight * step
        return float(w) if w.ndim == 0 else maths.array(w[self._order])

    def _value(self, maths: Maths, x: Any) -> Any:
        return (self._lengths(maths, x) * self._by(maths, 1.0)).sum(-1)

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        factor = _shrink(maths, self._lengths(maths, x), self._by(maths, step))
        return x * factor[:, maths.indices(self._place)]


class ProximalMap(Nonsmooth):
    """A function known by its Euclidean proximal map.

    Parameters
    ----------
    prox : callable
        ``prox(x, step)``, (n, d) to (n, d), the minimiser of ``g(z) + |z - x|^2 / (2 step)``, in
        the framework, dtype and device of x.
    value : callable, optional
        ``g(x)``, (n, d) to (n,); wanted by `moreau_envelope` only.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> g = mk.samplers.ProximalMap(lambda x, step: x / (1 + step))
    >>> g.prox(np.array([[2.0]]), 1.0)
    array([[1.]])
    """

    def __init__(
        self, prox: Callable[[Any, float], Any], value: Callable[[Any], Any] | None = None
    ) -> None:
        if not callable(prox):
            raise TypeError(f"prox: expected a callable, got {type(prox).__name__}")
        if value is not None and not callable(value):
            raise TypeError(f"value: expected a callable, got {type(value).__name__}")
        self._map, self._function = prox, value

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this function."""
        return {"prox": self._map, "value": self._function}

    def __repr__(self) -> str:
        return f"ProximalMap({getattr(self._map, '__name__', type(self._map).__name__)})"

    def _value(self, maths: Maths, x: Any) -> Any:
        if self._function is None:
            raise ValueError("value: expected ProximalMap(prox, value) with a value, got none")
        at = as_input(x, "x")
        return as_match(self._function(x), "value", at, "x", shape=at.shape[:1]).array

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        return as_match(self._map(x, step), "prox", as_input(x, "x"), "x").array
