"""Convex sets: nearest points, reflections at the boundary, and the functions that are infinite
outside."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._errors import positive
from mckean.samplers._elementwise import Maths, number_or_row, particles
from mckean.samplers._legendre import BoltzmannShannon, Euclidean, Legendre
from mckean.samplers._proximal import Nonsmooth

__all__ = ["Ball", "Box", "ConvexSet", "HalfSpace", "HalfSpaces", "Simplex"]

Array = np.ndarray[Any, Any]
_MAX_REFLECTIONS = 1000


class ConvexSet(Nonsmooth):
    """A closed convex set. As a function it is 0 inside and infinite outside."""

    def project(self, x: Any) -> Any:
        """Return the nearest points of the set, shape (n, d)."""
        x, maths = particles(x)
        return self._project(maths, x)

    def reflect(self, x: Any) -> Any:
        """Return `x` with what lies outside mirrored at the boundary, shape (n, d)."""
        x, maths = particles(x)
        return self._reflect(maths, x)

    def contains(self, x: Any) -> Any:
        """Return which points, (n,) booleans, are in the set, up to rounding."""
        x, maths = particles(x)
        return self._contains(maths, x)

    def _value(self, maths: Maths, x: Any) -> Any:
        zero = x.sum(-1) * 0
        return maths.xp.where(self._contains(maths, x), zero, zero + float("inf"))

    def _value_at_prox(self, maths: Maths, p: Any) -> Any:
        return p.sum(-1) * 0

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        return self._project(maths, x)

    def _project(self, maths: Maths, x: Any) -> Any:
        raise ValueError(f"project: {type(self).__name__} has no closed form")

    def _reflect(self, maths: Maths, x: Any) -> Any:
        raise ValueError(f"reflect: {type(self).__name__} has no interior to reflect into")

    def _contains(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError


def _fold(maths: Maths, v: Any, width: Any) -> Any:
    """Fold v into [0, width] as a mirror room would: period 2 width, even."""
    v = abs(v) % (2 * width)
    return maths.xp.where(v > width, 2 * width - v, v)


class Box(ConvexSet):
    """``low <= x <= high``, coordinate by coordinate.

    Reflection is folding, so that reflected Brownian motion in the box is exact in law. A proximal
    map clips, whatever the divergence; the inside of the box must meet the divergence's domain.

    Parameters
    ----------
    low, high : float or array, shape (d,)
        ``low < high``; infinite where there is no wall.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> box = mk.samplers.Box(0.0, [1.0, np.inf])
    >>> x = np.array([[1.25, -3.0], [-4.25, 0.5]])
    >>> box.reflect(x)
    array([[0.75, 3.  ],
           [0.25, 0.5 ]])
    >>> box.project(x)
    array([[1. , 0. ],
           [0. , 0.5]])
    """

    _divergences = (Legendre,)

    def __init__(self, low: Any, high: Any) -> None:
        self.low = number_or_row(low, "low", infinite=True)
        self.high = number_or_row(high, "high", infinite=True)
        if self.low.ndim and self.high.ndim and self.low.shape != self.high.shape:
            raise ValueError(
                f"high: expected shape {self.low.shape} to match low, got {self.high.shape}"
            )
        if not (self.low < self.high).all():
            raise ValueError(f"high: expected numbers above low = {self.low}, got {self.high}")

    def _walls(self, maths: Maths) -> tuple[Any, Any]:
        return maths.row(self.low, "low"), maths.row(self.high, "high")

    def _contains(self, maths: Maths, x: Any) -> Any:
        low, high = self._walls(maths)
        return ((x >= low) & (x <= high)).all(-1)

    def _project(self, maths: Maths, x: Any) -> Any:
        return maths.clip(x, *self._walls(maths))

    def _accept(self, bregman: Legendre) -> None:
        super()._accept(bregman)
        low, high = bregman.domain
        if (self.high <= low).any() or (self.low >= high).any():
            raise ValueError(
                f"bregman: expected a domain that meets the inside of {self!r}, got {bregman!r} "
                f"on ({low:g}, {high:g})"
            )

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        # Either divergence grows away from x on both sides of it.
        return self._project(maths, x)

    def _reflect(self, maths: Maths, x: Any) -> Any:
        a, b = (np.asarray(w) for w in np.broadcast_arrays(self.low, self.high))
        below, above = np.isfinite(a), np.isfinite(b)
        both = below & above
        low, high = (
            maths.row(np.where(below, a, 0.0), "low"),
            maths.row(np.where(above, b, 0.0), "high"),
        )
        width = maths.row(np.where(both, b, 1.0) - np.where(both, a, 0.0), "high")
        out = x
        for mask, wall, sign in ((below & ~above, low, 1.0), (above & ~below, high, -1.0)):
            if mask.any():
                out = self._pick(maths, mask, wall + sign * abs(x - wall), out)
        if both.any():
            out = self._pick(maths, both, low + _fold(maths, x - low, width), out)
        # What is inside already must not be rounded, and what was mirrored not round to outside.
        low, high = self._walls(maths)
        return maths.xp.where((x >= low) & (x <= high), x, maths.clip(out, low, high))

    @staticmethod
    def _pick(maths: Maths, mask: Array, chosen: Any, other: Any) -> Any:
        """`chosen` in the coordinates of `mask`."""
        if mask.all():
            return chosen
        return maths.xp.where(maths.array(mask.astype(np.float64)) > 0, chosen, other)


class Ball(ConvexSet):
    """``|x - centre| <= radius``.

    Reflection mirrors at the tangent plane of the nearest boundary point, repeatedly for points
    further out than the diameter: ``|x - centre|`` is folded along the diameter.

    Parameters
    ----------
    centre : float or array, shape (d,)
    radius : float
        Positive.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.Ball(0.0, 1.0).reflect(np.array([[1.5, 0.0], [0.0, -0.25]]))
    array([[ 0.5 ,  0.  ],
           [ 0.  , -0.25]])
    """

    def __init__(self, centre: Any, radius: float) -> None:
        self.centre, self.radius = number_or_row(centre, "centre"), positive(radius, "radius")

    def _polar(self, maths: Maths, x: Any) -> tuple[Any, Any, Any]:
        centre = maths.row(self.centre, "centre")
        away = x - centre
        return centre, away, maths.length(away)

    def _contains(self, maths: Maths, x: Any) -> Any:
        _, _, length = self._polar(maths, x)
        rounding = self.radius + abs(self.centre).max()
        return length <= self.radius + 8 * maths.eps * float(rounding)

    def _scaled(self, maths: Maths, x: Any, centre: Any, away: Any, length: Any, to: Any) -> Any:
        inside = length <= self.radius
        factor = to / maths.xp.where(inside, length * 0 + 1, length)
        return maths.xp.where(inside[:, None], x, centre + away * factor[:, None])

    def _project(self, maths: Maths, x: Any) -> Any:
        centre, away, length = self._polar(maths, x)
        return self._scaled(maths, x, centre, away, length, self.radius)

    def _reflect(self, maths: Maths, x: Any) -> Any:
        centre, away, length = self._polar(maths, x)
        to = _fold(maths, length + self.radius, 2 * self.radius) - self.radius
        return self._scaled(maths, x, centre, away, length, to)


def _excess(maths: Maths, x: Any, normals: Any, offsets: Any) -> tuple[Any, Any]:
    """How far each point is beyond each plane, (n, m), and the rounding error of that."""
    found = x @ normals.T - offsets
    return found, 8 * maths.eps * (abs(x) @ abs(normals).T + abs(offsets))


class HalfSpace(ConvexSet):
    """``<normal, x> <= offset``; reflected Brownian motion in it is exact in law.

    Parameters
    ----------
    normal : array, shape (d,)
        Not zero.
    offset : float

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.HalfSpace([0.0, 2.0], 1.0).reflect(np.array([[1.0, 0.75], [0.0, 0.5]]))
    array([[1.  , 0.25],
           [0.  , 0.5 ]])
    """

    def __init__(self, normal: Any, offset: float) -> None:
        self.normal, self.offset = number_or_row(normal, "normal"), number_or_row(offset, "offset")
        if self.normal.ndim != 1:
            raise ValueError(f"normal: expected shape (d,), got {self.normal.shape}")
        if self.offset.ndim:
            raise ValueError(f"offset: expected one number, got shape {self.offset.shape}")
        length = float(np.linalg.norm(self.normal))
        if not length > 0:
            raise ValueError("normal: expected a vector that is not zero, got zeros")
        self._unit, self._distance = self.normal / length, float(self.offset) / length

    def _beyond(self, maths: Maths, x: Any) -> tuple[Any, Any]:
        unit = maths.row(self._unit, "normal")
        return unit, (x * unit).sum(-1) - self._distance

    def _contains(self, maths: Maths, x: Any) -> Any:
        unit, beyond = self._beyond(maths, x)
        return beyond <= 8 * maths.eps * ((abs(x) * abs(unit)).sum(-1) + abs(self._distance))

    def _move(self, maths: Maths, x: Any, times: float) -> Any:
        unit, beyond = self._beyond(maths, x)
        moved = x - times * beyond[:, None] * unit
        return maths.xp.where((beyond > 0)[:, None], moved, x)

    def _project(self, maths: Maths, x: Any) -> Any:
        # Once more for what the length of a far x left in rounding.
        return self._move(maths, self._move(maths, x, 1.0), 1.0)

    def _reflect(self, maths: Maths, x: Any) -> Any:
        return self._move(maths, x, 2.0)


class HalfSpaces(ConvexSet):
    """``<normals[j], x> <= offsets[j]`` for all j: a polytope, for reflection only.

    A point outside is mirrored at the plane it is furthest beyond, again and again until it is
    inside. That ends after finitely many reflections if the set has an interior [1]_; a point still
    outside after 1000 becomes NaN.

    Parameters
    ----------
    normals : array, shape (m, d)
        No row zero.
    offsets : array, shape (m,)

    Notes
    -----
    Reflected Brownian motion is exact in law where the planes that meet do so at angles pi/2, pi/3,
    pi/4, ... (then the mirrors of the set tile the space); elsewhere the error is in the steps that
    cross two planes at once.

    References
    ----------
    .. [1] T. Motzkin, I. Schoenberg, "The relaxation method for linear inequalities", Canadian
       Journal of Mathematics 6, 1954

    Examples
    --------
    The triangle below x + y = 1 in the positive quadrant:

    >>> import numpy as np
    >>> import mckean as mk
    >>> triangle = mk.samplers.HalfSpaces([[-1, 0], [0, -1], [1, 1]], [0, 0, 1])
    >>> triangle.reflect(np.array([[-0.25, 0.5], [1.0, 0.5]])).round(12)
    array([[0.25, 0.5 ],
           [0.5 , 0.  ]])
    """

    def __init__(self, normals: Any, offsets: Any) -> None:
        a, b = np.array(normals, np.float64), number_or_row(offsets, "offsets")
        if a.ndim != 2 or 0 in a.shape:
            raise ValueError(f"normals: expected shape (m, d), got {a.shape}")
        if b.shape != a.shape[:1]:
            raise ValueError(
                f"offsets: expected shape ({a.shape[0]},) to match normals {a.shape}, got {b.shape}"
            )
        lengths = np.linalg.norm(a, axis=1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("normals: expected finite rows that are not zero")
        self.normals, self.offsets = a, b
        self._units, self._distances = a / lengths[:, None], b / lengths

    def _beyond(self, maths: Maths, x: Any) -> tuple[Any, Any, Any]:
        if maths.shape[1] != self.normals.shape[1]:
            raise ValueError(
                f"normals: expected shape (m, {maths.shape[1]}) to match x {maths.shape}, "
                f"got {self.normals.shape}"
            )
        units = maths.array(self._units)
        return units, *_excess(maths, x, units, maths.array(self._distances))

    def _contains(self, maths: Maths, x: Any) -> Any:
        _, beyond, rounding = self._beyond(maths, x)
        return (beyond <= rounding).all(-1)

    def _project(self, maths: Maths, x: Any) -> Any:
        raise ValueError('mode: expected "reflect" for HalfSpaces, which has no closed projection')

    def _reflect(self, maths: Maths, x: Any) -> Any:
        xp = maths.xp
        for _ in range(_MAX_REFLECTIONS + 1):
            units, beyond, rounding = self._beyond(maths, x)
            worst = maths.framework.row_max(beyond)
            out = (beyond > rounding).any(-1)
            if not bool(out.any()):
                return x
            at = beyond.argmax(-1)
            x = xp.where(out[:, None], x - 2 * worst[:, None] * units[at], x)
        return xp.where(out[:, None], x + float("nan"), x)


class Simplex(ConvexSet):
    """``x >= 0`` with coordinates that sum to `total`; for projection only.

    Euclidean proximal maps sort; those of `BoltzmannShannon` rescale, ``total x / sum(x)``.

    Parameters
    ----------
    total : float
        Positive.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.Simplex().project(np.array([[0.75, 0.75, -1.0]]))
    array([[0.5, 0.5, 0. ]])
    """

    _divergences = (Euclidean, BoltzmannShannon)

    def __init__(self, total: float = 1.0) -> None:
        self.total = positive(total, "total")

    def _contains(self, maths: Maths, x: Any) -> Any:
        slack = 4 * maths.shape[1] * maths.eps * self.total
        return (x >= 0).all(-1) & (abs(x.sum(-1) - self.total) <= slack)

    def _project(self, maths: Maths, x: Any) -> Any:
        # The threshold is the largest of (sum of the k largest - total) / k.
        largest = -maths.sorted(-x)
        counts = maths.array(np.arange(1.0, maths.shape[1] + 1))
        thresholds = (maths.xp.cumsum(largest, -1) - self.total) / counts
        return maths.positive_part(x - maths.framework.row_max(thresholds)[:, None])

    def _prox(self, maths: Maths, x: Any, step: float, bregman: Legendre, side: str) -> Any:
        if isinstance(bregman, BoltzmannShannon):
            return x * (self.total / x.sum(-1))[:, None]
        return self._project(maths, x)
