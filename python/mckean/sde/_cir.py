"""Steps of the Cox-Ingersoll-Ross process that stay at zero or above, and steps that shorten near zero."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import _array
from mckean._errors import positive
from mckean.sde._controllers import (
    AdaptiveClock,
    Clock,
    Floats,
    Mask,
    Stops,
    least_step,
    save_times,
    step_limits,
    stops_of,
)

__all__ = ["DIE", "HOStS", "StateStep"]

_SQRT3 = math.sqrt(3.0)
_PATIENCE = 1.1  # a step may be this much longer than the state at its end wishes


def _beside(p: Any, y: Any) -> Any:
    """The float64 parameter `p`, () or (d,), for products with `y`."""
    if np.ndim(p) == 0:
        return float(p)
    framework = _array.framework_of(y)
    return framework.asarray(np.asarray(p).astype(framework.dtype(y)), framework.device(y, "y"))


def _exp(x: Any) -> Any:
    name = _array.framework_of(x).name
    if name == "torch":
        return x.exp()
    if name == "jax":
        import jax

        return jax.numpy.exp(x)
    return np.exp(x)


def _decay(a: Any, h: Any, part: float, y: Any) -> tuple[Any, Any]:
    """``exp(-a h part)`` and what is missing to 1; h a float or one column."""
    if isinstance(h, float):
        x = -part * h * np.asarray(a)
        return _beside(np.exp(x), y), _beside(-np.expm1(x), y)
    c = _exp(_beside(-part * np.asarray(a), y) * h)
    return c, 1.0 - c


def _root(x: Any) -> Any:
    return x.clip(min=0.0) ** 0.5


class _CIRSolver:
    kind = "cir"
    sense = "either"
    noise_types = frozenset({"diagonal"})
    tableau = None
    has_error = False
    pieces = 1
    evaluations = 0  # of drift and diffusion: the steps know the equation
    levy_area = "none"
    _order = 1.0

    def order(self, noise: str = "diagonal") -> float:
        """Return the strong order while the process stays away from zero."""
        return self._order

    def error_order(self, sde: Any) -> float:
        """Return the order of the error of one step."""
        return self._order + 0.5

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def check(self, sde: Any) -> None:
        """Raise TypeError for any other equation than `CoxIngersollRoss`."""
        if getattr(sde, "kind", None) != "cir":
            raise TypeError(
                f"sde: expected mckean.sde.CoxIngersollRoss for {type(self).__name__}, "
                f"got {type(sde).__name__}"
            )

    def step(self, sde: Any, y: Any, h: Any, W: Any, H: Any = None) -> Any:
        """Return the state a step later.

        Parameters
        ----------
        sde : CoxIngersollRoss
            In either sense.
        y : array, shape (n, d)
        h : float or array, shape (n,), of the framework and dtype of `y`
        W, H : array, shape (n, d)
            Increment and space-time area over the step.

        Returns
        -------
        array, shape (n, d)
        """
        self.check(sde)
        h = float(h) if isinstance(h, (int, float)) else h[:, None]
        level = sde.to_stratonovich().b
        return self._step(sde.a, level, sde.sigma, y, h, W, H)

    def _step(self, a: Any, b: Any, sigma: Any, y: Any, h: Any, W: Any, H: Any) -> Any:
        raise NotImplementedError


class HOStS(_CIRSolver):
    r"""High-order Strang splitting of the Cox-Ingersoll-Ross process.

    With the Stratonovich level :math:`\tilde b = b - \sigma^2 / 4a`, three flows of the drift towards :math:`\tilde b`
    alternate with two of the diffusion, along ``W/2 + sqrt(3) H`` and ``W/2 - sqrt(3) H`` [1]_. Strong order 3/2 where
    the process stays away from zero; near it, combine with `StateStep` [2]_. Never negative while :math:`\tilde b \ge
    0`; below that the last drift flow may end slightly under zero, and the next step begins from zero then.

    References
    ----------
    .. [1] J. Foster, G. dos Reis, C. Strange, "High order splitting methods for SDEs satisfying a commutativity
       condition" (2023)
    .. [2] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive and
       high order SDE solvers" (2024), arXiv:2405.06464

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> cir, zero = mk.sde.CoxIngersollRoss(1.0, 1.0, 0.0), np.zeros((1, 1))
    >>> mk.sde.HOStS().step(cir, np.array([[3.0]]), np.log(2.0), zero, zero)
    array([[2.]])
    """

    levy_area = "space-time"
    _order = 1.5

    def _step(self, a: Any, b: Any, sigma: Any, y: Any, h: Any, W: Any, H: Any) -> Any:
        side, rest_side = _decay(a, h, (3.0 - _SQRT3) / 6.0, y)
        middle, rest_middle = _decay(a, h, 1.0 / _SQRT3, y)
        b, half = _beside(b, y), _beside(0.5 * np.asarray(sigma), y)
        z = side * y + rest_side * b
        z = (_root(z) + half * (0.5 * W + _SQRT3 * H)) ** 2
        z = middle * z + rest_middle * b
        z = (_root(z) + half * (0.5 * W - _SQRT3 * H)) ** 2
        return side * z + rest_side * b


class DIE(_CIRSolver):
    r"""Drift-implicit Euler steps of the square root of the Cox-Ingersoll-Ross process.

    The root :math:`Y = \sqrt X` has additive noise :math:`\sigma/2`, and the implicit equation of its step is
    quadratic. Strong order 1 where the process stays away from zero; never negative [1]_.

    References
    ----------
    .. [1] A. Alfonsi, "Strong order one convergence of a drift implicit Euler scheme: application to the CIR process",
       Statistics & Probability Letters 83 (2013)

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> cir, zero = mk.sde.CoxIngersollRoss(1.0, 1.0, 0.0), np.zeros((1, 1))
    >>> mk.sde.DIE().step(cir, np.array([[4.0]]), 0.5, zero).round(3)
    array([[2.946]])
    """

    def _step(self, a: Any, b: Any, sigma: Any, y: Any, h: Any, W: Any, H: Any) -> Any:
        root = _root(y) + _beside(0.5 * np.asarray(sigma), y) * W
        scale = 2.0 + _beside(a, y) * h
        under = root * root + scale * (_beside(np.asarray(a) * np.asarray(b), y) * h)
        return ((root + _root(under)) / scale) ** 2


class StateStep:
    r"""Steps that shorten as a path nears zero, for the Cox-Ingersoll-Ross process.

    A state X wishes for steps of ``(ctol * max(X, 0))**(2/3)``, clipped to ``[dtmin, dtmax]``; of several coordinates
    the smallest counts. An attempt is accepted if it is shorter than 1.1 times what the lower one of its two ends
    wishes, and is repeated with that step otherwise, on the same Brownian path [1]_.

    Parameters
    ----------
    ctol : float
        Positive; the smaller, the shorter the steps.
    dtmin, dtmax : float
        ``0 < dtmin <= dtmax``. The tree's `tol` must be at most half of `dtmin`.
    aligned : bool
        Take only steps of the time span times a power of 1/2 that begin at whole multiples of themselves. Paths of
        different steps then meet in many points. Steps shortened to hit save times are not aligned, unless the save
        times are.

    Raises
    ------
    TypeError, ValueError
        If a value is out of range.

    References
    ----------
    .. [1] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive and
       high order SDE solvers" (2024), arXiv:2405.06464

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> rule = mk.sde.StateStep(0.125, dtmin=2**-10, dtmax=1.0)
    >>> rule.desired(np.array([[1.0], [8.0], [0.0]])).round(6)
    array([2.50e-01, 1.00e+00, 9.77e-04])
    >>> clock = rule.start(np.array([0.0, 1.0]), 1, y0=np.ones((1, 1)))
    >>> clock.judge_states(np.array([[1.0]]), np.array([[0.125]])), clock.t
    (array([False]), array([0.0625]))
    """

    adaptive = True
    uses_states = True
    dt0 = None

    def __init__(self, ctol: Any, *, dtmin: Any, dtmax: Any, aligned: bool = False) -> None:
        self.ctol = positive(ctol, "ctol")
        self.dtmin, self.dtmax = positive(dtmin, "dtmin"), positive(dtmax, "dtmax")
        if self.dtmax < self.dtmin:
            raise ValueError(f"dtmax: expected at least dtmin = {self.dtmin}, got {self.dtmax}")
        if not isinstance(aligned, bool):
            raise TypeError(f"aligned: expected True or False, got {aligned!r}")
        self.aligned = aligned

    def __repr__(self) -> str:
        aligned = ", aligned=True" if self.aligned else ""
        return f"StateStep({self.ctol}, dtmin={self.dtmin}, dtmax={self.dtmax}{aligned})"

    def desired(self, y: Any) -> Floats:
        """Return the step, shape (n,), that states of shape (n, d) wish for; NaN wishes for `dtmin`."""
        lowest = np.asarray(_array.to_numpy(y), np.float64)
        lowest = lowest.reshape(lowest.shape[0], -1).min(1)
        with np.errstate(over="ignore"):
            wish = np.maximum(np.where(np.isnan(lowest), 0.0, lowest), 0.0) * self.ctol
        out: Floats = np.clip(np.cbrt(wish * wish), self.dtmin, self.dtmax)
        return out

    def refined(self, factor: float, order: float) -> StateStep:
        """Return a rule for steps shorter by `factor`."""
        return StateStep(
            self.ctol / factor**1.5,
            dtmin=self.dtmin / factor,
            dtmax=self.dtmax / factor,
            aligned=self.aligned,
        )

    def limits(self, ts: Any) -> tuple[float, float, float]:
        """Return the shortest step, twice, and the longest one."""
        return step_limits(self, save_times(ts))

    def stops(self, ts: Any) -> Stops:
        """Return the times that are hit exactly after ``ts[0]``."""
        return stops_of(save_times(ts), np.empty(0), np.empty(0), self.dtmin)

    def smallest_step(self, ts: Any) -> float:
        """Return a bound below all steps: half of `dtmin`, or the least gap of the save times."""
        ts = save_times(ts)
        return least_step(ts, self.stops(ts), self.dtmin)

    def revisits(self, noise: str) -> bool:
        return False

    def start(
        self, ts: Any, n: int, order: Any = None, *, noise: str = "diagonal", y0: Any = None
    ) -> Clock:
        """Return a clock for `n` paths that begin at `y0`, shape (n, d)."""
        if y0 is None:
            raise TypeError("y0: expected the initial states, shape (n, d), got None")
        return _StateClock(self, save_times(ts), n, y0)


class _StateClock(AdaptiveClock):
    def __init__(self, controller: StateStep, ts: Floats, n: int, y0: Any) -> None:
        super().__init__(ts, n, controller.stops(ts), controller.limits(ts), False)
        self._c, self._t0, self._span = controller, float(ts[0]), float(ts[-1] - ts[0])
        self._set(controller.desired(y0))

    def _set(self, wish: Floats) -> None:
        self.h = wish
        if not self._c.aligned:
            return self._propose()
        place = (self.s - self._t0) / self._span
        level = np.ceil(-np.log2(np.clip(self.h / self._span, 2.0**-52, 1.0)) - 1e-9)
        # The place is a multiple of 2^-l for some l <= 52: the least such l is where it may step on.
        scaled = place * 2.0**52
        ok = scaled == np.rint(scaled)
        odd = np.where(ok, scaled, 0.0).astype(np.int64)
        low = odd & -odd
        own = np.where(odd > 0, 52.0 - np.log2(np.maximum(low, 1)), 0.0)
        level = np.where(ok, np.maximum(level, own), level)
        self.h = self._span * np.exp2(-level)
        self._propose()

    def judge(self, scaled: Any = None) -> Mask:
        raise TypeError("StateStep judges by judge_states(y0, y1), not by errors")

    def judge_states(self, y0: Any, y1: Any) -> Mask:
        used = self.t - self.s
        at_start, at_end = self._c.desired(y0), self._c.desired(y1)
        lower = np.minimum(at_start, at_end)
        accepted: Mask = self.active & (
            (used < _PATIENCE * lower) | (used <= self.dtmin * (1 + 1e-10))
        )
        rejected = self.active & ~accepted
        self._settle(accepted, rejected)
        self._set(np.where(accepted, at_end, lower))
        return accepted
