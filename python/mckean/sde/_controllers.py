"""How long the steps are: constant, or per path from an error estimate; and the clocks that keep them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import _array
from mckean._errors import as_count, as_real, nonnegative, one_of, positive

__all__ = [
    "AdaptiveClock",
    "Clock",
    "ConstantStep",
    "PIDController",
    "Plan",
    "Stops",
    "least_step",
    "plan",
    "save_times",
    "step_limits",
    "stops_of",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_SNAP = 1e-10  # of a step: a gap that is left over by rounding, not meant
_ULPS = 4


@dataclass(frozen=True, slots=True)
class Stops:
    """Times after the start that every path hits exactly, in increasing order.

    Attributes
    ----------
    times : array, shape (m,), float64
    saves : array, shape (m,), int64
        The index into ``ts``, or -1 for a time that is not saved.
    jumps : array, shape (m,), float64
        The time of the jump, or NaN. It may differ from `times` by rounding where it was merged with a save time.
    start_jump : float
        The jump at the start itself, or NaN.
    """

    times: Floats
    saves: Ints
    jumps: Floats
    start_jump: float


def _times(values: Any, name: str) -> Floats:
    """Sorted finite float64 times of any framework; None is no time."""
    if values is None:
        return np.empty(0)
    try:
        times = np.array(_array.to_numpy(values), np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected times, {error}") from None
    if not np.isfinite(times).all():
        raise ValueError(f"{name}: expected finite times, got {times[~np.isfinite(times)][0]}")
    return np.unique(times)


def save_times(ts: Any) -> Floats:
    """`ts` as strictly increasing float64 times on the host."""
    try:
        times = np.array(_array.to_numpy(ts), np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"ts: expected times, {error}") from None
    if times.ndim != 1 or times.size < 1:
        raise ValueError(f"ts: expected shape (n_saves,) with n_saves >= 1, got {times.shape}")
    if not np.isfinite(times).all():
        raise ValueError(f"ts: expected finite times, got {times[~np.isfinite(times)][0]}")
    wrong = np.diff(times) <= 0
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"ts: expected increasing times, got {times[at]} before {times[at + 1]}")
    return times


def stops_of(ts: Floats, step_ts: Floats, jump_ts: Floats, smallest: float) -> Stops:
    """Merge save, step and jump times; those that differ by rounding alone become one stop.

    Save times win: they are what the caller compares with.
    """
    size = float(np.abs(ts[[0, -1]]).max())
    near = max(_SNAP * smallest, _ULPS * math.ulp(size))
    inside = [x[(x > ts[0] + near) & (x < ts[-1] + near)] for x in (step_ts, jump_ts)]
    times = ts[1:]
    for extra in inside:
        if times.size and extra.size:
            at = np.searchsorted(times, extra)
            below = np.abs(extra - times[np.maximum(at - 1, 0)])
            above = np.abs(times[np.minimum(at, times.size - 1)] - extra)
            extra = extra[np.minimum(below, above) > near]
        if extra.size:
            extra = extra[np.append(True, np.diff(extra) > near)]
            times = np.sort(np.concatenate([times, extra]))
    saves = np.full(times.size, -1, np.int64)
    saves[np.searchsorted(times, ts[1:])] = np.arange(1, ts.size)
    jumps = np.full(times.size, np.nan)
    for jump in inside[1]:
        jumps[int(np.argmin(np.abs(times - jump)))] = jump
    first = jump_ts[np.abs(jump_ts - ts[0]) <= near]
    return Stops(times, saves, jumps, float(first[-1]) if first.size else math.nan)


class Clock:
    """The times of every path: the next attempt, and what is learnt from it.

    Made by ``controller.start(ts, n, order)``. One pass of a solver's loop reads `s` and `t`, steps all paths, and
    calls `judge`; it ends when no path is `active`. Everything is float64 NumPy on the host, one entry per path.

    Attributes
    ----------
    s, t : array, shape (n,), float64
        The next attempt ``[s, t]``; ``t == s`` for paths that have finished or failed. What the Brownian path is
        asked for: consecutive attempts leave no gap.
    left, right : array, shape (n,), float64
        Where the coefficients are evaluated in place of `s` and `t`: the same but at jumps, where `left` is the float
        after and `right` the float before the jump.
    active : array, shape (n,), bool
    after_jump, before_jump : array, shape (n,), bool
        Whether the attempt begins or ends at a jump; values cached from the step before are stale `after_jump`.
    shared : bool
        Whether all active paths have the same times.
    saves : tuple of two arrays of int64
        Paths and save indices reached by the last `judge`. Index 0, the start, is never among them.
    accepted, rejected, clamped : array, shape (n,), int64
        Attempts; `clamped` counts those accepted for being as short as allowed in spite of their error.
    failed : array, shape (n,), bool
        Paths stopped by `fail`, or by ``at_dtmin="raise"``; `failed_time` has their time `s` then, otherwise NaN.
    """

    shared = False
    by_path: tuple[str, ...] = (
        "s",
        "t",
        "active",
        "accepted",
        "rejected",
        "clamped",
        "failed",
        "failed_time",
        "_next",
        "_last_jump",
    )  # the attributes with one entry per path; a subclass adds its own

    def __init__(self, ts: Floats, n: int, stops: Stops) -> None:
        self.n = as_count(n, "n")
        self.stops = stops
        self.s: Floats = np.full(self.n, ts[0])
        self.t: Floats = self.s.copy()
        self.active = np.full(self.n, stops.times.size > 0)
        self.accepted = np.zeros(self.n, np.int64)
        self.rejected = np.zeros(self.n, np.int64)
        self.clamped = np.zeros(self.n, np.int64)
        self.failed = np.zeros(self.n, bool)
        self.failed_time = np.full(self.n, np.nan)
        self.saves: tuple[Ints, Ints] = (np.empty(0, np.int64), np.empty(0, np.int64))
        self._next = np.zeros(self.n, np.int64)  # the first stop after s
        self._last_jump = np.full(self.n, stops.start_jump)  # the jump at s, or NaN
        # One stop behind the last one, so that paths that have finished index something.
        self._times = np.append(stops.times, np.inf)
        self._jumps = np.append(stops.jumps, np.nan)
        self._has_jumps = not (np.isnan(stops.jumps).all() and math.isnan(stops.start_jump))

    @property
    def after_jump(self) -> Mask:
        after: Mask = self.active & ~np.isnan(self._last_jump)
        return after

    @property
    def before_jump(self) -> Mask:
        ends: Mask = self.active & (self.t == self._times[self._next])
        ends &= ~np.isnan(self._jumps[self._next])
        return ends

    @property
    def left(self) -> Floats:
        if not self._has_jumps:
            return self.s
        left: Floats = np.where(self.after_jump, np.nextafter(self._last_jump, np.inf), self.s)
        return left

    @property
    def right(self) -> Floats:
        if not self._has_jumps:
            return self.t
        before = np.nextafter(self._jumps[self._next], -np.inf)
        right: Floats = np.where(self.before_jump, before, self.t)
        return right

    def judge(self, scaled: Any = None) -> Mask:
        """Take the scaled errors of the attempts; return which are accepted, and prepare the next."""
        raise NotImplementedError

    def judge_states(self, y0: Any, y1: Any) -> Mask:
        """Like `judge`, for controllers that look at the states (n, d) at both ends (`uses_states`)."""
        raise NotImplementedError

    def take(self, rows: Any) -> Clock:
        """Return the clock of these paths alone, shape (k,) of indices; it goes on as they would have here."""
        rows = np.asarray(rows, np.int64)
        part = copy.copy(self)
        for name in self.by_path:
            setattr(part, name, getattr(self, name)[rows])
        part.n = rows.size
        part.saves = (np.empty(0, np.int64), np.empty(0, np.int64))
        return part

    def fail(self, mask: Any) -> None:
        """Stop these paths at their time `s`."""
        mask = np.asarray(mask, bool) & ~self.failed
        self.failed |= mask
        self.failed_time[mask] = self.s[mask]
        self.active &= ~mask
        self.t[mask] = self.s[mask]

    def _advance(self, accepted: Mask) -> None:
        """Move the accepted paths to their ends, and note what they reached."""
        self.s = np.where(accepted, self.t, self.s)
        reached: Mask = accepted & (self.t == self._times[self._next])
        paths = np.flatnonzero(reached)
        index = self._next[paths]
        if self._has_jumps:
            self._last_jump[accepted] = np.nan
            self._last_jump[paths] = self._jumps[index]
        which = self.stops.saves[index]
        self.saves = paths[which >= 0], which[which >= 0]
        self._next[paths] += 1
        self.active &= self._next < self.stops.times.size


class ConstantStep:
    """Constant steps, shortened where needed to hit save times and jumps.

    The steps end at ``ts[0] + k * step`` for whole k, and at every save time and jump between.

    Parameters
    ----------
    step : float
        Positive.
    jump_ts : array-like, optional
        Times where the coefficients jump: steps end there, and evaluate them just before and just after.

    Raises
    ------
    TypeError, ValueError
        If `step` is not positive, or a time is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> clock = mk.sde.ConstantStep(0.5).start(np.array([0.0, 0.75, 1.0]), n=1)
    >>> while clock.active.any():
    ...     print(clock.s[0], clock.t[0], clock.judge())
    0.0 0.5 [ True]
    0.5 0.75 [ True]
    0.75 1.0 [ True]
    """

    adaptive = False
    uses_states = False

    def __init__(self, step: Any, *, jump_ts: Any = None) -> None:
        self.step = positive(step, "step")
        self.jump_ts = _times(jump_ts, "jump_ts")

    def __repr__(self) -> str:
        return f"ConstantStep({self.step})"

    def refined(self, factor: float, order: float) -> ConstantStep:
        """Return steps shorter by `factor`."""
        return ConstantStep(self.step / factor, jump_ts=self.jump_ts)

    def stops(self, ts: Any) -> Stops:
        """Return the times that are hit exactly after ``ts[0]``."""
        return self._stops(save_times(ts))

    def _stops(self, ts: Floats) -> Stops:
        return stops_of(ts, np.empty(0), self.jump_ts, self.step)

    def grid(self, ts: Any) -> Floats:
        """Return all times, from ``ts[0]``, at which steps to save at `ts` begin and end."""
        ts = save_times(ts)
        return self._part(ts, self.stops(ts), 0, self._cells(ts))

    def _cells(self, ts: Floats) -> int:
        return math.ceil(float(ts[-1] - ts[0]) / self.step)

    def _parts(
        self, ts: Floats, stops: Stops, count: int, *, forth: bool = True
    ) -> Iterator[Floats]:
        """The times of `grid` by about `count`, each part from where the one before it ended; or the last part
        first."""
        cells = self._cells(ts)
        firsts = range(0, cells, count)
        for first in firsts if forth else reversed(firsts):
            part = self._part(ts, stops, first, min(first + count, cells))
            if part.size > 1:
                yield part

    def _part(self, ts: Floats, stops: Stops, first: int, last: int) -> Floats:
        """The times of `grid` from whole step `first` to `last`; parts next to each other share one time."""
        times = np.append(ts[0], stops.times)
        if times.size == 1:
            return times
        grid = np.minimum(ts[0] + self.step * np.arange(first, last + 1.0), times[-1])
        at = np.clip(np.searchsorted(times, grid), 1, times.size - 1)
        below, above = times[at - 1], times[at]
        near = self._near(ts)
        grid = np.where(above - grid <= near, above, np.where(grid - below <= near, below, grid))
        if last >= self._cells(ts):
            grid[-1] = times[-1]
        inside = times[np.searchsorted(times, grid[0]) : np.searchsorted(times, grid[-1], "right")]
        return np.unique(np.concatenate([inside, grid]))

    def smallest_step(self, ts: Any) -> float:
        """Return the shortest step that will be taken to save at `ts`."""
        ts = save_times(ts)
        return self._least(ts, self.stops(ts))

    def _least(self, ts: Floats, stops: Stops) -> float:
        times = np.append(ts[0], stops.times)
        if times.size == 1:
            return self.step
        cells = np.floor((times - ts[0]) / self.step)
        grid = ts[0] + self.step * np.concatenate([cells, cells + 1])
        grid = grid[(grid > ts[0]) & (grid < ts[-1])]
        at = np.searchsorted(times, grid)
        beside = np.minimum(np.abs(grid - times[at - 1]), np.abs(times[at] - grid))
        grid = np.unique(grid[beside > self._near(ts)])
        return min(float(np.diff(np.sort(np.concatenate([times, grid]))).min()), self.step)

    def _near(self, ts: Floats) -> float:
        return max(_SNAP * self.step, _ULPS * math.ulp(float(np.abs(ts[[0, -1]]).max())))

    def start(
        self, ts: Any, n: int, order: Any = None, *, noise: str = "diagonal", y0: Any = None
    ) -> Clock:
        """Return a clock for `n` paths; `order`, `noise` and `y0` do not matter."""
        ts = save_times(ts)
        self._refuse(ts)
        return _ConstantClock(self, ts, n)

    def _refuse(self, ts: Floats) -> None:
        if self.step < _least_length(ts):
            raise ValueError(
                f"step: expected a step that changes times near {ts[-1]}, got {self.step}"
            )


class _ConstantClock(Clock):
    shared = True

    def __init__(self, controller: ConstantStep, ts: Floats, n: int) -> None:
        super().__init__(ts, n, controller.stops(ts))
        self._t0, self._step, self._near = float(ts[0]), controller.step, controller._near(ts)
        self._now, self._stop, self._cell = self._t0, 0, 1
        self._set()

    def _set(self) -> None:
        if self._stop < self.stops.times.size:
            stop, end = float(self.stops.times[self._stop]), self._t0 + self._cell * self._step
            while end <= self._now + self._near:
                self._cell += 1
                end = self._t0 + self._cell * self._step
            end = stop if end >= stop - self._near else end
            self.t = np.where(self.active, end, self.s)

    def judge(self, scaled: Any = None) -> Mask:
        accepted: Mask = self.active.copy()
        self.accepted += accepted
        self._advance(accepted)
        if accepted.any():
            self._now = float(self.s[int(np.argmax(accepted))])
            self._stop = int(np.searchsorted(self.stops.times, self._now, side="right"))
        self._set()
        return accepted


class PIDController:
    r"""Steps of every path from its own error estimates, by a PID rule.

    With the scaled error :math:`\epsilon`, the root mean square over a path's coordinates of
    ``error / (atol + rtol * max(|y0|, |y1|))``, an attempt is accepted where :math:`\epsilon < 1`, and the step is
    then multiplied by

    .. math:: \text{safety}\; \epsilon_n^{-(k_I + k_P + k_D)/k}\; \epsilon_{n-1}^{(k_P + 2 k_D)/k}\;
              \epsilon_{n-2}^{-k_D/k},

    clipped to ``[1, factormax]`` after an accepted and to ``[factormin, safety]`` after a rejected attempt; k is the
    order of the error, the solver's strong order plus one half, and the history consists of accepted steps. A
    rejected attempt asks the same Brownian path for a nearer time: nothing is drawn anew [1]_.

    Parameters
    ----------
    rtol, atol : float
        Relative and absolute tolerance, not negative and not both zero.
    kp, ki, kd : float
        Proportional, integral and derivative weights.
    dtmin : float, optional
        Steps this short are accepted whatever their error; ``2**-20`` of the time span by default, but no less than
        float64 times resolve. The law of the path needs a tree whose `tol` is at most half of it, a quarter with
        `StepDoubling`. Two kinds of steps may be shorter: between two save times that lie closer, and two equal parts
        of a gap below ``2 * dtmin``.
    dtmax : float, optional
        The longest step; the time span by default.
    dt0 : float, optional
        The first attempt; ``min(0.01 * time span, dtmax)`` by default.
    safety, factormin, factormax : float
        ``0 < factormin < safety < 1 < factormax``.
    jump_ts, step_ts : array-like, optional
        Times where the coefficients jump, and times to hit besides the save times.
    at_dtmin : {"accept", "raise"}
        With "raise", a path whose error is too large at `dtmin` stops there: its later values are NaN, the result is
        flagged ``converged=False`` and a `ConvergenceWarning` names it.
    revisit : {"auto", True, False}
        Whether steps also end at the ends of attempts that were rejected before. Without this, rejections correlate
        with the areas that a solver does not see, a small bias for noise that does not commute; "auto" turns it on
        for ``noise="general"``.

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
    >>> clock = mk.sde.PIDController(0.0, 1e-3, dt0=0.5).start(np.array([0.0, 1.0]), n=2, order=1.5)
    >>> clock.judge(np.array([0.5, 4.0]))
    array([ True, False])
    >>> clock.s, clock.t
    (array([0.5, 0. ]), array([1.       , 0.3109304]))
    """

    adaptive = True
    uses_states = False

    def __init__(
        self,
        rtol: Any,
        atol: Any,
        *,
        kp: Any = 0.1,
        ki: Any = 0.3,
        kd: Any = 0.0,
        dtmin: Any = None,
        dtmax: Any = None,
        dt0: Any = None,
        safety: Any = 0.9,
        factormin: Any = 0.2,
        factormax: Any = 10.0,
        jump_ts: Any = None,
        step_ts: Any = None,
        at_dtmin: str = "accept",
        revisit: Any = "auto",
    ) -> None:
        self.rtol, self.atol = nonnegative(rtol, "rtol"), nonnegative(atol, "atol")
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("atol: expected a positive number where rtol is 0, got 0.0")
        self.kp, self.ki, self.kd = as_real(kp, "kp"), as_real(ki, "ki"), as_real(kd, "kd")
        if self.kp + self.ki + self.kd <= 0:
            raise ValueError(
                f"ki: expected kp + ki + kd > 0, got {self.kp} + {self.ki} + {self.kd}"
            )
        self.safety = positive(safety, "safety")
        self.factormin, self.factormax = (
            positive(factormin, "factormin"),
            positive(factormax, "factormax"),
        )
        if not self.safety < 1:
            raise ValueError(f"safety: expected a number below 1, got {self.safety}")
        if not self.factormin < self.safety:
            raise ValueError(
                f"factormin: expected less than safety = {self.safety}, got {self.factormin}"
            )
        if not self.factormax > 1:
            raise ValueError(f"factormax: expected a number above 1, got {self.factormax}")
        self.dtmin = None if dtmin is None else positive(dtmin, "dtmin")
        self.dtmax = None if dtmax is None else positive(dtmax, "dtmax")
        self.dt0 = None if dt0 is None else positive(dt0, "dt0")
        if self.dtmin is not None and self.dtmax is not None and self.dtmax < self.dtmin:
            raise ValueError(f"dtmax: expected at least dtmin = {self.dtmin}, got {self.dtmax}")
        self.jump_ts, self.step_ts = _times(jump_ts, "jump_ts"), _times(step_ts, "step_ts")
        self.at_dtmin = one_of(at_dtmin, "at_dtmin", ("accept", "raise"))
        if not (revisit is True or revisit is False or revisit == "auto"):
            raise ValueError(f"revisit: expected 'auto', True or False, got {revisit!r}")
        self.revisit = revisit
        self._finer = 1.0  # divides the limits that follow from the time span

    def __repr__(self) -> str:
        return f"PIDController({self.rtol}, {self.atol}, kp={self.kp}, ki={self.ki}, kd={self.kd})"

    def refined(self, factor: float, order: float) -> PIDController:
        """Return tolerances and limits for steps shorter by `factor`, for an error of this `order`."""
        finer = copy.copy(self)
        finer.rtol, finer.atol = self.rtol / factor**order, self.atol / factor**order
        finer.dtmin, finer.dtmax, finer.dt0 = (
            None if dt is None else dt / factor for dt in (self.dtmin, self.dtmax, self.dt0)
        )
        finer._finer = self._finer * factor
        return finer

    def limits(self, ts: Any) -> tuple[float, float, float]:
        """Return the first, the shortest and the longest step in use to save at `ts`."""
        ts = save_times(ts)
        return step_limits(self, ts)

    def stops(self, ts: Any) -> Stops:
        """Return the times that are hit exactly after ``ts[0]``."""
        ts = save_times(ts)
        return stops_of(ts, self.step_ts, self.jump_ts, self.limits(ts)[1])

    def smallest_step(self, ts: Any) -> float:
        """Return a bound below all steps: half of `dtmin`, or the least gap of the times to hit."""
        ts = save_times(ts)
        return least_step(ts, self.stops(ts), self.limits(ts)[1])

    def revisits(self, noise: str) -> bool:
        """Return whether rejected ends are visited later, for this kind of noise."""
        return noise == "general" if self.revisit == "auto" else bool(self.revisit)

    def start(
        self, ts: Any, n: int, order: Any, *, noise: str = "diagonal", y0: Any = None
    ) -> Clock:
        """Return a clock for `n` paths and an error of this `order`; `y0` does not matter."""
        ts = save_times(ts)
        limits = self.limits(ts)
        stops = stops_of(ts, self.step_ts, self.jump_ts, limits[1])
        return self._clock(ts, n, order, noise, stops, limits)

    def _clock(
        self,
        ts: Floats,
        n: int,
        order: Any,
        noise: str,
        stops: Stops,
        limits: tuple[float, float, float],
    ) -> Clock:
        return _PIDClock(self, ts, n, positive(order, "order"), self.revisits(noise), stops, limits)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a controller says of one set of save times, asked once.

    Attributes
    ----------
    controller : object
    ts : array, shape (n_saves,), float64
    smallest : float
        A bound below all steps.
    stops : Stops or None
    limits : tuple of float or None
        The first, the shortest and the longest step. This and `stops` are None for controllers of other classes than
        those here, which need not know them.
    """

    controller: Any
    ts: Floats
    smallest: float
    stops: Stops | None = None
    limits: tuple[float, float, float] | None = None

    def start(self, n: int, order: Any, noise: str, **states: Any) -> Clock:
        if type(self.controller) is PIDController:
            assert self.stops is not None and self.limits is not None
            return self.controller._clock(self.ts, n, order, noise, self.stops, self.limits)
        clock: Clock = self.controller.start(self.ts, n, order, noise=noise, **states)
        return clock


def plan(controller: Any, ts: Floats, noise: str) -> Plan:
    """Ask `controller` about the checked times `ts`; ValueError where its steps do not fit them."""
    kind = type(controller)
    if kind is ConstantStep:
        controller._refuse(ts)
        stops = controller._stops(ts)
        return Plan(controller, ts, controller._least(ts, stops), stops)
    if kind is PIDController:
        limits = step_limits(controller, ts)
        stops = stops_of(ts, controller.step_ts, controller.jump_ts, limits[1])
        return Plan(controller, ts, least_step(ts, stops, limits[1]), stops, limits)
    if not controller.adaptive:
        controller.start(ts, 1, 1.0, noise=noise)
    return Plan(controller, ts, float(controller.smallest_step(ts)))


def _least_length(ts: Floats) -> float:
    """Shorter steps might not change times as large as these."""
    return 16 * math.ulp(float(np.abs(ts[[0, -1]]).max()))


def step_limits(controller: Any, ts: Floats) -> tuple[float, float, float]:
    """First, shortest and longest step of an adaptive controller; None stands for the defaults."""
    span = float(ts[-1] - ts[0])
    finer = getattr(controller, "_finer", 1.0)
    least = _least_length(ts)
    dtmin = controller.dtmin
    if dtmin is None:
        dtmin = max(span * 2.0**-20 / finer, least)
    dtmax = max(span / finer, dtmin) if controller.dtmax is None else controller.dtmax
    if dtmax < dtmin:
        raise ValueError(f"dtmax: expected at least dtmin = {dtmin}, got {dtmax}")
    first = min(0.01 * span / finer, dtmax) if controller.dt0 is None else controller.dt0
    if dtmin < least and span > 0:
        raise ValueError(f"dtmin: expected a step that changes times near {ts[-1]}, got {dtmin}")
    return min(max(first, dtmin), dtmax), dtmin, dtmax


def least_step(ts: Floats, stops: Stops, dtmin: float) -> float:
    if not stops.times.size:
        return dtmin / 2
    return min(dtmin / 2, float(np.diff(stops.times, prepend=ts[0]).min()))


class AdaptiveClock(Clock):
    """Proposals `h`, shortened to the next stop; those that were rejected may be revisited."""

    by_path = (*Clock.by_path, "h", "_depth", "_rejected_ends")

    def __init__(
        self, ts: Floats, n: int, stops: Stops, limits: tuple[float, float, float], revisit: bool
    ) -> None:
        super().__init__(ts, n, stops)
        first, self.dtmin, self.dtmax = limits
        self.h = np.full(self.n, first)
        self.revisit = revisit
        self._depth = np.zeros(self.n, np.int64)
        self._rejected_ends = np.empty((self.n, 4 if revisit else 0))

    def _target(self) -> Floats:
        target: Floats = self._times[self._next]
        if self.revisit:
            top = self._rejected_ends[np.arange(self.n), np.maximum(self._depth - 1, 0)]
            target = np.where(self._depth > 0, top, target)  # an attempt never ends behind a stop
        return target

    def _propose(self) -> None:
        target = self._target()
        gap = target - self.s
        hits = self.h >= gap - _SNAP * self.h
        # What is left before the target must not be shorter than the path can resolve.
        end = np.where(gap - self.h < self.dtmin, self.s + 0.5 * gap, self.s + self.h)
        self.t = np.where(self.active, np.where(hits, target, end), self.s)

    def _settle(self, accepted: Mask, rejected: Mask) -> None:
        """Count, move, and keep the ends of rejected attempts, the nearest one on top."""
        self.accepted += accepted
        self.rejected += rejected
        if self.revisit:
            known = self.t == self._target()
            self._depth -= accepted & known & (self._depth > 0)
            push = np.flatnonzero(rejected & ~known)
            if push.size:
                if int(self._depth[push].max()) == self._rejected_ends.shape[1]:
                    self._rejected_ends = np.concatenate([self._rejected_ends] * 2, axis=1)
                self._rejected_ends[push, self._depth[push]] = self.t[push]
                self._depth[push] += 1
        self._advance(accepted)


class _PIDClock(AdaptiveClock):
    by_path = (*AdaptiveClock.by_path, "_before", "_before2")

    def __init__(
        self,
        controller: PIDController,
        ts: Floats,
        n: int,
        order: float,
        revisit: bool,
        stops: Stops,
        limits: tuple[float, float, float],
    ) -> None:
        super().__init__(ts, n, stops, limits, revisit)
        self._c = controller
        p, i, d = controller.kp, controller.ki, controller.kd
        self._powers = (p + i + d) / order, -(p + 2 * d) / order, d / order
        self._before = np.ones(
            self.n
        )  # inverse errors of the last accepted step and of the one before it
        self._before2 = np.ones(self.n)
        self._propose()

    def judge(self, scaled: Any = None) -> Mask:
        if scaled is None:
            raise TypeError("scaled: expected errors, shape (n,), got None")
        scaled = np.asarray(scaled, np.float64)
        if scaled.shape != (self.n,):
            raise ValueError(f"scaled: expected shape ({self.n},), got {scaled.shape}")
        used = self.t - self.s
        good: Mask = scaled < 1
        shortest = ~good & (used <= self.dtmin * (1 + _SNAP))
        if self._c.at_dtmin == "raise":
            self.fail(self.active & shortest)
            shortest[:] = False
        accepted: Mask = self.active & (good | shortest)
        rejected = self.active & ~accepted
        self.clamped += accepted & shortest

        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            inverse = np.where(np.isnan(scaled), 0.0, 1 / scaled)
            now, last, last2 = self._powers
            factor = self._c.safety * inverse**now * self._before**last
            if last2:
                factor *= self._before2**last2
            factor = np.clip(
                factor,
                np.where(accepted, 1.0, self._c.factormin),
                np.where(accepted, self._c.factormax, self._c.safety),
            )
            h = factor * used
        # A step that was cut short for a stop says nothing against the proposal it was cut from.
        h = np.where(accepted & good, np.maximum(h, np.where(used < self.h, self.h, 0.0)), h)
        self.h = np.where(self.active, np.clip(h, self.dtmin, self.dtmax), self.h)
        kept = np.where((inverse > 0) & np.isfinite(inverse), inverse, 1.0)
        self._before2 = np.where(accepted, self._before, self._before2)
        self._before = np.where(accepted, kept, self._before)
        self._settle(accepted, rejected)
        self._propose()
        return accepted
