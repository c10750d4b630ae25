"""Underdamped (kinetic) Langevin chains."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mckean._array import as_input, as_match, check_finite, to_numpy
from mckean._errors import as_seed, nonnegative, one_of, positive
from mckean.samplers._parts import Noise, Target, starting_points
from mckean.samplers._schemes import SCHEMES, move, plan
from mckean.samplers._substeps import Pace, SubSteps, as_controller
from mckean.stepping import _combine_checked

__all__ = ["AdaptiveUnderdampedState", "UnderdampedLangevin", "UnderdampedState"]

_VELOCITY_STREAM = 0x76656C6F63697479  # "velocity"
_COPY = np.ones((1, 1))


@dataclass(slots=True)
class UnderdampedState:
    """State of `UnderdampedLangevin`: `x`, `v`, shape (n, d), and the counters its noise depends
    on.

    `grad`, shape (n, d), is the gradient at `x` for schemes that use it again, else None.
    """

    x: Any
    v: Any
    grad: Any
    seed: int
    step: int
    n_gradients: int


@dataclass(slots=True)
class AdaptiveUnderdampedState(UnderdampedState):
    """State of `UnderdampedLangevin` with a controller: `x`, `v`, `grad`, shape (n, d), as without
    one, and what its steps depend on.

    For every chain, in NumPy: `proposal` (float64), the step to try next; `errors`, shape (n, 2),
    the inverse errors of the two steps before; `accepted`, `rejected`, `clamped` and `gradients`
    (int64), counts; and `failed_time` (float64), NaN while the chain goes on. `n_gradients` counts
    how often the gradient function was called.
    """

    proposal: Any
    errors: Any
    accepted: Any
    rejected: Any
    clamped: Any
    gradients: Any
    failed_time: Any


class UnderdampedLangevin:
    """Underdamped (kinetic) Langevin chain, by one of six splitting schemes.

    Discretises ``dx = v dt, dv = -friction v dt + u grad log p(x) dt + sqrt(2 friction u) dB``,
    whose invariant law is ``p(x) exp(-|v|^2 / (2 u))``. Each step is a few passes over memory plus
    one or two gradients.

    ========== ========= ============ ===================================================
    scheme     gradients strong order remarks
    ========== ========= ============ ===================================================
    "quicsort" 2         3            the most accurate per gradient on smooth targets [1]_
    "should"   2         3            last gradient reused [2]_
    "ubu"      1         2            a good choice with noisy gradients [3]_
    "align"    1         2            last gradient reused [1]_
    "baoab"    1         1            exact variance of x on Gaussian targets [4]_
    "ee"       1         1            gradient frozen over the step [5]_
    ========== ========= ============ ===================================================

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. It must return a new array each time.
    step : float
        Step size h > 0; with a `controller`, the time from one position of the chain to the next.
    friction : float
        Friction >= 0; at 0 the chain is a Hamiltonian flow.
    u : float
        Inverse mass > 0.
    scheme : str
        One of the table above.
    controller : mckean.sde.PIDController, mckean.sde.ConstantStep, float or None
        None takes one step of size `step` at a time. Otherwise a step consists of as many parts as
        the controller wants, for every chain by itself; a float is a constant size. Errors over x
        and v are embedded for "align" (1 gradient for every attempt), and differences to two half
        steps, which are kept, for the others (3 times the gradients of a step, less what is
        known). Times such as `dtmin`, at least ``step * 2**-20``, are in the unit of `step`.
    noise : {"tree", "counter"} or object
        One Brownian tree per seed (at most 2**30 steps), or independent noise per step (cheaper,
        the same law; not with a controller), or an object with ``increment(s, t)`` returning W, H
        and K as the scheme needs, such as a `mckean.BrownianTree`: step k then uses its increment
        over ``[t0 + k h, t0 + (k + 1) h]``, and a controller asks for parts of it, with s and t
        of shape (n,).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    Langevin, MALA

    Notes
    -----
    Deterministic given the seed; the number of threads does not matter. Coefficients are computed
    in float64 for every ``friction * step``, including 0. If particles diverge, `mckean.run`
    returns ``converged=False``.

    With a controller the path is still the one of the seed: a finer tolerance, or a finer constant
    size, comes closer to the solution along it, and a rejected attempt asks the same path for a
    nearer time. Chains do not see each other, so a stiff one does not slow the others. A chain
    whose numbers are not finite even at `dtmin` stops: it is NaN from then on, and a
    `ConvergenceWarning` names the first one and its time. Steps as short as `dtmin` are accepted
    with any finite error; with ``at_dtmin="raise"`` a chain whose error is too large there stops in
    the same way, and the warning says so. ``result.stats`` has "accepted", "rejected", "clamped"
    (those of the accepted whose error was too large, at `dtmin`) and "gradients", shape (n_saved,
    n), counted from the start. Steps that depend on the state are no longer reversible: the
    stationary law is exact only in the limit of small tolerances, as it is for constant steps in
    that of small steps.

    References
    ----------
    .. [1] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and
       integrals for adaptive and high order SDE solvers", 2024, arXiv:2405.06464
    .. [2] J. Foster, T. Lyons, H. Oberhauser, "The shifted ODE method for underdamped Langevin
       MCMC", 2021, arXiv:2101.03446
    .. [3] J. M. Sanz-Serna, K. Zygalakis, "Wasserstein distance estimates for the distributions of
       numerical approximations to ergodic stochastic differential equations", JMLR 22(242), 2021
    .. [4] B. Leimkuhler, C. Matthews, "Rational construction of stochastic numerical methods for
       molecular sampling", 2013, arXiv:1203.5428
    .. [5] X. Cheng, N. Chatterji, P. Bartlett, M. Jordan, "Underdamped Langevin MCMC: a
       non-asymptotic analysis", 2018, arXiv:1707.03663

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.UnderdampedLangevin(lambda x: -x, step=0.2)
    >>> result = mk.run(chain, np.zeros((200, 2)), 400, burn_in=100, seed=1, progress=False)
    >>> round(float(result.x.var()), 1), result.n_gradient_evaluations
    (1.0, 800)

    Steps by the error, for a density whose width varies:

    >>> funnel = mk.targets.Funnel(3)
    >>> chain = mk.samplers.UnderdampedLangevin(
    ...     funnel, 1.0, controller=mk.sde.PIDController(0.0, 0.1, dtmin=2**-10))
    >>> result = mk.run(chain, funnel.sample(20), 5, seed=1, progress=False)
    >>> result.stats["accepted"].shape, bool(np.ptp(result.stats["accepted"][-1]) > 10)
    ((5, 20), True)
    """

    def __init__(
        self,
        target: Any,
        step: float,
        *,
        friction: float = 1.0,
        u: float = 1.0,
        scheme: str = "quicsort",
        controller: Any = None,
        noise: Any = "tree",
    ) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self.friction, self.u = nonnegative(friction, "friction"), positive(u, "u")
        self.scheme = one_of(scheme, "scheme", tuple(SCHEMES))
        self._target = Target(target)
        self._fsal = SCHEMES[scheme].fsal
        self.controller = None if controller is None else as_controller(controller)
        self._parts: SubSteps | None = None
        if self.controller is None:
            self._noise = Noise(noise, self.step_size, SCHEMES[scheme].noise)
            self._plan = plan(scheme, self.step_size, self.friction, self.u, self._noise.factor)
        else:
            self._parts = SubSteps(
                self._target, scheme, self.step_size, self.friction, self.u, self.controller, noise
            )
            self._noise = self._parts.noise

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "target": self.target,
            "step": self.step_size,
            "friction": self.friction,
            "u": self.u,
            "scheme": self.scheme,
            "noise": self._noise.source,
            **({} if self.controller is None else {"controller": vars(self.controller)}),
        }

    def init(self, x0: Any, seed: Any = 0, *, v0: Any = None) -> UnderdampedState:
        """Return the state at `x0`, shape (n, d), with velocities `v0` or drawn from ``N(0, u
        I)``."""
        seed = as_seed(seed)
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0].result()
        if v0 is None:
            scale = np.array([math.sqrt(self.u)])
            v = _combine_checked(
                x, 0.0 * _COPY, [x.data], noise=scale, seed=seed, stream=_VELOCITY_STREAM
            )
        else:
            given = as_match(v0, "v0", x, "x0")
            check_finite(given, "v0")
            v = _combine_checked(x, _COPY, [given.data])
        grad = None
        if self._fsal:
            g = self._target.gradient(copy, x)
            check_finite(g, "grad_log_density(x0)")
            grad = g.array
        start = (copy, v[0].result(), grad, seed, 0, int(self._fsal))
        if self._parts is None:
            return UnderdampedState(*start)
        pace = self._parts.first(x.shape[0], self._fsal)
        return AdaptiveUnderdampedState(*start, **_fields(pace))

    def step(self, state: UnderdampedState) -> UnderdampedState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        v = as_match(state.v, "state.v", x, "state.x")
        g = as_match(state.grad, "state.grad", x, "state.x") if self._fsal else None
        if self._parts is not None:
            pace = _pace(state, x.shape[0])
            results, pace, calls = self._parts.advance(x, v.data, g, state.seed, state.step, pace)
            return AdaptiveUnderdampedState(
                results[0],
                results[1],
                results[2] if self._fsal else None,
                state.seed,
                state.step + 1,
                state.n_gradients + calls,
                **_fields(pace),
            )
        p, known = self._plan, {"x": x.data, "v": v.data}
        if g is not None:
            known["g0"] = g.data
        if any(name in p.base_names for name in "WHK"):
            known.update(zip("WHK", self._noise.draw(x, state.seed, state.step), strict=False))
        end = move(
            p,
            x,
            known,
            lambda at, held: self._target.gradient(at, x, held),
            [] if g is None else [g],
        )
        return UnderdampedState(
            end.position,
            end.velocity.result(),
            end.gradients[-1].array if self._fsal else None,
            state.seed,
            state.step + 1,
            state.n_gradients + p.n_stages,
        )

    def stats(self, state: UnderdampedState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position: counts, if there is a controller."""
        if self._parts is None:
            return {}
        return {name: to_numpy(getattr(state, name)) for name in _COUNTS}


_COUNTS = ("accepted", "rejected", "clamped", "gradients")


def _fields(pace: Pace) -> dict[str, Any]:
    return {f.name: getattr(pace, f.name) for f in fields(Pace)}


def _pace(state: UnderdampedState, n: int) -> Pace:
    """What the steps depend on, from a state of ours or one that was saved."""
    if not isinstance(state, AdaptiveUnderdampedState):
        raise TypeError(f"state: expected an AdaptiveUnderdampedState, got {type(state).__name__}")
    found = {}
    for f in fields(Pace):
        shape = (n, 2) if f.name == "errors" else (n,)
        kind = np.int64 if f.name in _COUNTS else np.float64
        a = to_numpy(getattr(state, f.name))
        if a.shape != shape:
            raise ValueError(f"state.{f.name}: expected shape {shape}, got {a.shape}")
        found[f.name] = a.astype(kind, copy=False)
    return Pace(**found)
