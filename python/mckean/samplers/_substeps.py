"""Steps of underdamped Langevin chains in parts: every chain has its own time and step within the
step of the method."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean import _array
from mckean._array import Input, Output, as_input
from mckean._errors import ConvergenceWarning
from mckean.samplers._parts import Noise, Target
from mckean.samplers._schemes import SCHEMES, Move, Table, error_table, move, plan
from mckean.sde._controllers import ConstantStep, PIDController
from mckean.sde._native import (
    METHODS,
    Control,
    error_norm,
    integrate,
    langevin_system,
    select,
)
from mckean.stepping import _combine_checked

__all__ = ["Pace", "SubSteps", "as_controller"]

Array = np.ndarray[Any, Any]
_NAMES = ("W", "H", "K")
_ONE = np.ones((1, 1))

# Chen's relation for two halves of equal length: W, H, K of the whole from those of both.
_JOIN = {
    1: Table([[1.0, 1.0]], 2),
    2: Table([[1.0, 0.0, 1.0, 0.0], [0.25, 0.5, -0.25, 0.5]], 4),
    3: Table(
        [
            [1.0, 0.0, 0.0, 1.0, 0.0, 0.0],
            [0.25, 0.5, 0.0, -0.25, 0.5, 0.0],
            [0.0, 0.125, 0.25, 0.0, -0.125, 0.25],
        ],
        6,
    ),
}


def as_controller(controller: Any) -> Any:
    """A controller of steps within a step: a number stands for constant ones."""
    if isinstance(controller, (int, float, np.number)) and not isinstance(controller, bool):
        return ConstantStep(controller)
    if not isinstance(controller, (ConstantStep, PIDController)):
        raise TypeError(
            f"controller: expected a mckean.sde.PIDController or ConstantStep, a number or None, "
            f"got {type(controller).__name__}"
        )
    for name in ("jump_ts", "step_ts"):
        if len(getattr(controller, name, ())):
            raise ValueError(f"controller: expected no {name}, the chain has no times of its own")
    return controller


@dataclasses.dataclass(slots=True)
class Pace:
    """What the steps of the chains remember, in float64 and int64 NumPy, one entry per chain:
    proposals, inverse errors of the two steps before, and counts."""

    proposal: Array
    errors: Array  # (n, 2)
    accepted: Array
    rejected: Array
    clamped: Array  # accepted for being as short as allowed, in spite of their error
    gradients: Array
    failed_time: Array  # NaN while the chain is alive


class _Rows:
    """Some rows of x, v and the gradient, as native arrays: the chains still on their way."""

    def __init__(self, like: Input, x: Any, v: Any, g: Any) -> None:
        self.like, self.index = like, np.arange(like.shape[0])
        self.arrays: list[Any] = [x, v] if g is None else [x, v, g]
        self._full: list[Output] = []
        self._n = like.shape[0]

    def _at(self, rows: Array, data: Any) -> Any:
        return _array.framework_of(data).asarray(rows, self.like.device)

    def take(self, data: Any) -> Any:
        """These rows of an array of all chains."""
        if len(self.index) == self._n:
            return data
        return data[self._at(self.index, data)]

    def keep(self, active: Array) -> None:
        """Leave out chains that have arrived. Programs compiled for every shape see few of them:
        JAX's arrays are halved, with idle chains to fill them."""
        size = int(active.sum())
        if self.like.framework.name == "jax":
            size = min(self._n, 1 << max(0, size - 1).bit_length())
        if size >= len(self.index):
            return
        here = active[self.index]
        stay = here.copy()
        stay[np.flatnonzero(~here)[: size - int(here.sum())]] = True
        self._store(np.flatnonzero(~stay))
        rows = np.flatnonzero(stay)
        self.arrays = [a[self._at(rows, a)] for a in self.arrays]
        self.index = self.index[rows]
        self.like = dataclasses.replace(self.like, shape=(size, *self.like.shape[1:]))

    def _store(self, rows: Array) -> None:
        """Write these rows of ours to where the results are gathered."""
        f = self.like.framework
        if not self._full:
            shape = (self._n, *self.like.shape[1:])
            self._full = [f.empty(shape, self.like.dtype, self.like.device) for _ in self.arrays]
        for full, a in zip(self._full, self.arrays, strict=True):
            if len(rows) == self._n:
                full.data[...] = a
            elif len(rows):
                full.data[self._at(self.index[rows], full.data)] = a[self._at(rows, a)]

    def move(self, accepted: Array, arrays: Sequence[Any]) -> None:
        mask = accepted[self.index]
        if mask.all():
            self.arrays = list(arrays)
        elif mask.any():
            like = _memory(self.like)
            self.arrays = [
                select(like, mask, new, old).data
                for new, old in zip(arrays, self.arrays, strict=True)
            ]

    def results(self, failed: Array) -> list[Any]:
        """All chains, in the caller's framework; those that failed are NaN."""
        self._store(np.arange(len(self.index)))
        if failed.any():
            for full in self._full:
                full.data[self._at(np.flatnonzero(failed), full.data)] = math.nan
        return [full.result() for full in self._full]


def _memory(like: Input) -> Input:
    """`like` with NumPy for JAX on the CPU, whose native arrays are NumPy's: JAX may have no
    float64."""
    if like.framework.name == "jax" and like.device == "cpu":
        return dataclasses.replace(like, framework=_array.FRAMEWORKS["numpy"])
    return like


def _resume(clock: Any, pace: Pace) -> None:
    """Continue with what the clock of the step before knew."""
    clock.h = pace.proposal.copy()
    clock._before, clock._before2 = pace.errors[:, 0].copy(), pace.errors[:, 1].copy()
    clock._propose()


class SubSteps:
    """Takes all chains from one multiple of `step` to the next, each in steps of its own.

    The error comes from the scheme where it has one, else from the difference to two half steps,
    which are then kept; both read the same path. A rejected attempt asks it for a nearer time.
    """

    def __init__(
        self,
        target: Target,
        scheme: str,
        step: float,
        friction: float,
        u: float,
        controller: Any,
        noise: Any,
    ) -> None:
        if isinstance(noise, str) and noise == "counter":
            raise ValueError(
                "noise: expected 'tree' or an object with increment(s, t) where steps are not the "
                "same for all, got 'counter'"
            )
        self._target, self._scheme, self._rule = target, SCHEMES[scheme], controller
        self._name, self._step, self._friction, self._u = scheme, step, friction, u
        self._ts = np.array([0.0, step])
        self._adaptive = bool(controller.adaptive)
        self._doubled = self._adaptive and not self._scheme.embedded
        least = min(controller.smallest_step(self._ts), step) / (2.0 if self._doubled else 1.0)
        if least < step * 2.0**-22:
            raise ValueError(
                f"controller: expected steps of at least step * 2**-20 = {step * 2.0**-20:.3g}, "
                f"got dtmin = {controller.limits(self._ts)[1] if self._adaptive else least:.3g}"
            )
        self.noise = Noise(noise, step, self._scheme.noise, smallest=least)
        controller.start(self._ts, 0, 1.0)  # its limits fit this span, or it says why they do not

    def first(self, n: int, fsal: bool) -> Pace:
        """At the start of a chain."""
        proposal = self._rule.limits(self._ts)[0] if self._adaptive else self._rule.step
        return Pace(
            np.full(n, proposal),
            np.ones((n, 2)),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.zeros(n, np.int64),
            np.full(n, int(fsal), np.int64),
            np.full(n, np.nan),
        )

    def _clock(self, pace: Pace) -> Any:
        clock = self._rule.start(
            self._ts, len(pace.proposal), self._scheme.order + 0.5, noise="additive"
        )
        if self._adaptive:
            _resume(clock, pace)
        gone = ~np.isnan(pace.failed_time)
        if gone.any():
            clock.fail(gone)
        return clock

    def _gradient(self, like: Input) -> Any:
        return lambda x, held: self._target.gradient(x, like, held)

    def advance(
        self, x: Input, v: Any, g: Input | None, seed: int, step: int, pace: Pace
    ) -> tuple[list[Any], Pace, int]:
        """x, v (and the gradient at x) one step of the method later, in the caller's framework,
        the pace, and how many times gradients were asked for."""
        whole = self._natively(x, v, g is not None, seed, step, pace)
        if whole is not None:
            return whole
        clock = self._clock(pace)
        gone, not_finite = clock.failed.copy(), clock.failed.copy()
        rows = _Rows(x, x.data, v, None if g is None else g.data)
        per_chain, calls = np.zeros(x.shape[0], np.int64), 0
        while clock.active.any():
            rows.keep(clock.active)
            active = clock.active.copy()
            moves, scaled = self._attempt(x, rows, clock, seed, step)
            spent = sum(len(m.gradients) for m in moves)
            calls += spent
            per_chain[active] += spent
            end = moves[-1]
            accepted = clock.judge(scaled)
            new = [end.x, end.v, end.gradients[-1].data] if g is not None else [end.x, end.v]
            stopped = active & clock.failed  # at dtmin: for their error, or for having none
            if stopped.any():
                not_finite |= self._broken(rows, new, stopped)
            rows.move(accepted, new)
            broken = self._broken(rows, rows.arrays, accepted)
            if broken.any():
                clock.fail(broken)
                not_finite |= broken
        failed_now = clock.failed & ~gone
        failed_time = pace.failed_time.copy()
        if failed_now.any():
            failed_time[failed_now] = step * self._step + clock.failed_time[failed_now]
            self._warn(failed_time, failed_now, not_finite)
        results = rows.results(clock.failed)
        proposal, errors = pace.proposal, pace.errors
        if self._adaptive:
            proposal, errors = clock.h, np.stack([clock._before, clock._before2], axis=1)
        after = Pace(
            proposal,
            errors,
            pace.accepted + clock.accepted,
            pace.rejected + clock.rejected,
            pace.clamped + clock.clamped,
            pace.gradients + per_chain,
            failed_time,
        )
        return results, after, calls

    def _natively(
        self, x: Input, v: Any, fsal: bool, seed: int, step: int, pace: Pace
    ) -> tuple[list[Any], Pace, int] | None:
        """All of it in native code; None for targets, controllers and paths that it does not know."""
        rule, adaptive = self._rule, self._adaptive
        if self.noise.source != "tree" or type(rule) not in (ConstantStep, PIDController):
            return None
        if adaptive and rule.revisits("additive"):
            return None
        n, d = x.shape
        like = dataclasses.replace(x, shape=(n, 2 * d))
        system = langevin_system(self._target.target, like, friction=self._friction, u=self._u)
        if system is None:
            return None
        y = x.framework.empty(like.shape, x.dtype, x.device)
        y.data[:, :d], y.data[:, d:] = x.data, v
        start = step * self._step
        if adaptive:
            times, clocks = np.array([start, (step + 1) * self._step]), np.empty((n, 3))
            clocks[:, 0], clocks[:, 1:] = pace.proposal, pace.errors
            p, i, k = rule.kp, rule.ki, rule.kd
            order = self._scheme.order + 0.5
            _, dtmin, dtmax = rule.limits(self._ts)
            control = Control(
                kind=1,
                rtol=rule.rtol,
                atol=rule.atol,
                power=((p + i + k) / order, -(p + 2 * k) / order, k / order),
                safety=rule.safety,
                factormin=rule.factormin,
                factormax=rule.factormax,
                dtmin=dtmin,
                dtmax=dtmax,
                raises=rule.at_dtmin == "raise",
                doubling=self._doubled,
            )
        else:
            times, clocks, control = start + rule.grid(self._ts), None, Control()
            times[-1] = (step + 1) * self._step
        save_at = np.full(len(times), -1, np.int64)
        save_at[-1] = 0
        paths = integrate(
            dataclasses.replace(like, data=y.data),
            system,
            METHODS[self._name],
            (),
            control,
            self.noise.path(x, seed, step),
            times,
            save_at,
            clocks,
        )
        found = paths.ys[0]
        gone = ~np.isnan(pace.failed_time)
        counts = np.where(gone[:, None], 0, paths.counts)
        counts[:, 2] += fsal & ~gone  # the gradient below
        failed_time = np.where(gone, pace.failed_time, paths.failed)
        failed_now = ~gone & ~np.isnan(paths.failed)
        if failed_now.any():
            self._warn(failed_time, failed_now, counts[:, 3] >= 0)
        after = Pace(
            pace.proposal if paths.clocks is None else paths.clocks[:, 0].copy(),
            pace.errors if paths.clocks is None else paths.clocks[:, 1:].copy(),
            pace.accepted + counts[:, 0],
            pace.rejected + counts[:, 1],
            pace.clamped + np.maximum(counts[:, 3], 0),
            pace.gradients + counts[:, 2],
            failed_time,
        )
        parts = [found[:, :d], found[:, d:]]
        results = [_combine_checked(x, _ONE, [as_input(a, "x").data])[0].result() for a in parts]
        if fsal:  # native code begins with a gradient of its own and keeps its last one
            results.append(self._target.gradient(results[0], x).array)
        return results, after, int(counts[:, 2].max(initial=0))

    def _attempt(
        self, x: Input, rows: _Rows, clock: Any, seed: int, step: int
    ) -> tuple[list[Move], Array | None]:
        """The moves of one attempt of the rows, the last one being what is kept, and the scaled
        errors of all chains."""
        like, known = rows.like, dict(zip(("x", "v", "g0"), rows.arrays, strict=False))
        h = (clock.t - clock.s)[rows.index]
        held = [self._held(like, known["g0"])] if "g0" in known else []
        noise = self.noise

        def numbers(s: Array, t: Array) -> dict[str, Any]:
            data = noise.between(x, seed, step, s, t, shared=clock.shared)
            return dict(zip(_NAMES, (rows.take(d) for d in data), strict=False))

        gradient = self._gradient(like)
        if not self._doubled:
            known.update(numbers(clock.s, clock.t))
            size = float(h.max()) if clock.shared else h
            p = plan(self._name, size, self._friction, self._u, noise.factor)
            end = move(p, like, known, gradient, held)
            if not self._adaptive:
                return [end], None
            table = error_table(self._name, h, self._friction, self._u)
            error = table.combine(like, [known["g0"], end.gradients[-1].data])[0].data
            return [end], self._scaled(clock, rows, [(error, known["v"], end.v)])

        middle = 0.5 * (clock.s + clock.t)
        halves = [numbers(clock.s, middle), numbers(middle, clock.t)]
        names = _NAMES[: self._scheme.noise]
        joined = _JOIN[len(names)].combine(like, [half[n] for half in halves for n in names])
        whole = dict(zip(names, (j.data for j in joined), strict=True))
        sizes = np.concatenate([h, 0.5 * h])
        both = plan(self._name, sizes, self._friction, self._u, noise.factor)
        n = len(h)
        p, half = both.part(slice(0, n)), both.part(slice(n, None))
        coarse = move(p, like, {**known, **whole}, gradient, held, last_gradient=False)
        first = move(half, like, {**known, **halves[0]}, gradient, held)
        between = {"x": first.x, "v": first.v}
        if self._scheme.fsal:
            held = [first.gradients[-1]]
            between["g0"] = held[0].data
        end = move(half, like, {**between, **halves[1]}, gradient, held)
        difference = Table([[1.0, -1.0]], 2)
        parts = []
        for fine, rough, before in ((end.x, coarse.x, known["x"]), (end.v, coarse.v, known["v"])):
            error = difference.combine(like, [fine, rough])[0].data
            parts.append((error, before, fine))
        return [coarse, first, end], self._scaled(clock, rows, parts)

    @staticmethod
    def _held(like: Input, data: Any) -> Input:
        return dataclasses.replace(like, data=data, array=data)

    def _scaled(self, clock: Any, rows: _Rows, parts: list[tuple[Any, Any, Any]]) -> Array:
        """Root mean squares over x and v; a part that is left out has no error."""
        like, total = _memory(rows.like), np.zeros(len(rows.index))
        for error, before, after in parts:
            norm = error_norm(like, error, before, after, self._rule.rtol, self._rule.atol)
            total += 0.5 * _array.to_numpy(norm) ** 2
        scaled = np.zeros(clock.n)
        scaled[rows.index] = np.sqrt(total)
        return scaled

    @staticmethod
    def _broken(rows: _Rows, arrays: Sequence[Any], chains: Array) -> Array:
        """Those of these chains whose x or v, rows of `arrays`, are not finite."""
        broken = np.zeros(len(chains), bool)
        framework = _memory(rows.like).framework
        for a in arrays[:2]:
            if _array.nonfinite_rows(
                dataclasses.replace(rows.like, data=a, array=a, framework=framework)
            ):
                finite = framework.to_numpy(framework.finite(a))
                broken[rows.index] |= ~finite.reshape(len(rows.index), -1).all(axis=1)
        return broken & chains

    @staticmethod
    def _warn(times: Array, failed: Array, not_finite: Array) -> None:
        first = int(np.flatnonzero(failed)[np.argmin(times[failed])])
        what = "is not finite" if not_finite[first] else "has too large an error at dtmin"
        warnings.warn(
            f"chain {first} {what} at time {times[first]:.6g}, "
            f"{int(failed.sum())} of {len(failed)} chains stopped in this step",
            ConvergenceWarning,
            stacklevel=4,
        )
