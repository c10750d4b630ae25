"""Which problems native code solves whole, and what it is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, as_input
from mckean.brownian import BrownianTree
from mckean.sde import _builtin, _kinetic, _native, _solvers
from mckean.sde._cir import DIE, HOStS, StateStep
from mckean.sde._controllers import ConstantStep, PIDController, Plan
from mckean.sde._native import Control, System

__all__ = ["Route", "follow", "route"]

_TABLES = (
    _solvers.EulerMaruyama,
    _solvers.EulerHeun,
    _solvers.Heun,
    _solvers.SEA,
    _solvers.SRA1,
    _solvers.ShARK,
    _solvers.GeneralShARK,
    _solvers.SlowRK,
    _solvers.SPaRK,
)
_OTHERS = {
    _solvers.ItoMilstein: "milstein_ito",
    _solvers.StratonovichMilstein: "milstein_stratonovich",
    _solvers.ReversibleHeun: "reversible",
    HOStS: "HOStS",
    DIE: "DIE",
}
_KINETIC = (
    _kinetic.QUICSORT,
    _kinetic.ShOULD,
    _kinetic.UBU,
    _kinetic.ALIGN,
    _kinetic.BAOAB,
    _kinetic.ExponentialEuler,
)

_PART_STEPS = 1 << 18  # constant steps whose times are held in memory at once


@dataclass(frozen=True, slots=True)
class Route:
    """The arguments of `_native.integrate` behind `y`; of constant steps `times` is None, for `plan` has them."""

    system: System
    method: int
    tableau: tuple[np.ndarray[Any, Any], ...]
    control: Control
    tree: BrownianTree
    plan: Plan
    times: np.ndarray[Any, Any] | None = None
    save_at: np.ndarray[Any, Any] | None = None
    clocks: np.ndarray[Any, Any] | None = None


def route(sde: Any, y: Input, told: Plan, solver: Any, tree: Any) -> Route | None:
    """None unless native code knows the equation, the solver, the controller and the tree.

    Only the classes themselves are known, not what users derive from them.
    """
    doubling = type(solver) is _solvers.StepDoubling
    inner = solver.solver if doubling else solver
    method = _method(inner)
    if method is None or type(tree) is not BrownianTree or tree.device != y.device:
        return None
    controller, times = told.controller, told.ts
    control = _control(sde, solver, inner, told, doubling)
    if control is None:
        return None
    system = _system(sde, y, inner)
    if system is None:
        return None
    stops = controller.stops(times) if told.stops is None else told.stops
    if sde.is_compiled and not (np.isnan(stops.jumps).all() and np.isnan(stops.start_jump)):
        return None  # coefficients on both sides of a jump: the loop in Python evaluates those
    tableau: tuple[np.ndarray[Any, Any], ...] = ()
    if inner.tableau is not None:
        t = inner.tableau
        tableau = (t.c, t.a, t.w, t.h, t.b, t.bw, t.bh)
        if t.e is not None:
            tableau += tuple(np.zeros_like(t.b) if x is None else x for x in (t.e, t.ew, t.eh))
    if control.kind == 0:
        return Route(system, method, tableau, control, tree, told)
    clocks = np.ones((y.shape[0], 3))
    clocks[:, 0] = controller.desired(y.array) if told.limits is None else told.limits[0]
    hit, save_at = np.append(times[0], stops.times), np.append(np.int64(0), stops.saves)
    return Route(system, method, tableau, control, tree, told, hit, save_at, clocks)


def follow(found: Route, y: Input, report: Callable[[float], None] | None = None) -> _native.Paths:
    """Solve the problem; `report` hears of each share that is done."""
    if found.times is not None and found.save_at is not None:
        return _stretch(found, y, found.times, found.save_at, 1.0, report)
    ts, stops, controller = found.plan.ts, found.plan.stops, found.plan.controller
    assert stops is not None
    share = 1.0 / max(1, -(-controller._cells(ts) // _PART_STEPS))
    counts: np.ndarray[Any, Any] = np.zeros((y.shape[0], 4), np.int64)
    failed: np.ndarray[Any, Any] = np.full(y.shape[0], np.nan)
    saved: list[Any] = []
    done = 0  # saves
    for times in controller._parts(ts, stops, _PART_STEPS):
        first, done = done, int(np.searchsorted(ts, times[-1], "right"))
        save_at = np.full(times.size, -1, np.int64)
        save_at[np.searchsorted(times, ts[first:done])] = np.arange(done - first)
        # The last state is where the next part begins; the native code asks for each row once.
        save_at[-1] = ends = done - first - (ts[done - 1] == times[-1])
        paths = _stretch(found, y, times, save_at, share, report)
        if first == 0 and done == ts.size:
            return paths
        saved.append(paths.ys[: done - first])
        y = as_input(paths.ys[ends], "y")
        on = np.isnan(failed)
        counts[on] += paths.counts[on]
        failed[on] = paths.failed[on]
    return _native.Paths(y.framework.concatenate(saved), counts, failed, None)


def _stretch(
    found: Route,
    y: Input,
    times: np.ndarray[Any, Any],
    save_at: np.ndarray[Any, Any],
    share: float,
    report: Callable[[float], None] | None,
) -> _native.Paths:
    each = share / y.shape[0]
    return _native.integrate(
        y,
        found.system,
        found.method,
        found.tableau,
        found.control,
        found.tree,
        times,
        save_at,
        found.clocks,
        report=None if report is None else lambda paths: report(paths * each),
    )


def _method(solver: Any) -> int | None:
    kind = type(solver)
    if kind in _TABLES:
        return _native.METHODS["additive" if solver.tableau.additive else "runge_kutta"]
    if kind in _KINETIC:
        return _native.METHODS[solver.scheme]
    name = _OTHERS.get(kind)
    return None if name is None else _native.METHODS[name]


def _control(sde: Any, solver: Any, inner: Any, told: Plan, doubling: bool) -> Control | None:
    controller = told.controller
    kind = type(controller)
    if kind is ConstantStep:
        # Halves that no error is asked of, and the state that `backward` starts from, are left to Python.
        return None if doubling or type(inner) is _solvers.ReversibleHeun else Control()
    if kind is PIDController:
        assert told.limits is not None
        _, dtmin, dtmax = told.limits
        revisit = controller.revisits(sde.noise)
        tame = controller.safety <= 0.9 and controller.factormin >= 0.1
        tame = tame and controller.factormax <= 10
        if revisit and not tame:
            return None  # more ends of rejected steps than there is room for
        order = solver.error_order(sde)
        p, i, d = controller.kp, controller.ki, controller.kd
        return Control(
            kind=1,
            rtol=controller.rtol,
            atol=controller.atol,
            power=((p + i + d) / order, -(p + 2 * d) / order, d / order),
            safety=controller.safety,
            factormin=controller.factormin,
            factormax=controller.factormax,
            dtmin=dtmin,
            dtmax=dtmax,
            revisit=revisit,
            raises=controller.at_dtmin == "raise",
            doubling=doubling,
        )
    if kind is StateStep and not controller.aligned:
        _, dtmin, dtmax = controller.limits(told.ts)
        return Control(kind=2, dtmin=dtmin, dtmax=dtmax, ctol=controller.ctol, doubling=doubling)
    return None


def _system(sde: Any, y: Input, solver: Any) -> System | None:
    kind = type(sde)
    if sde.is_compiled:
        if type(solver) in (*_KINETIC, *_OTHERS) and type(solver) is not _solvers.ReversibleHeun:
            return None
        if y.dtype != "float64" or y.device != "cpu":
            return None
        return _native.compiled_system(sde.compiled, _layout(sde))
    if kind in (_builtin.OrnsteinUhlenbeck, _builtin.GeometricBrownian):
        return _native.system(sde.kind, tuple(sde.parameters().values()), y)
    if kind is _builtin.CoxIngersollRoss:
        form = sde.to_ito() if type(solver) in (HOStS, DIE) else sde
        return _native.system("cir", tuple(form.parameters().values()), y)
    if kind is _builtin.Lorenz:
        constants = np.array([float(sde.sigma), float(sde.rho), float(sde.beta)])
        return _native.system("lorenz", (constants, sde.volatility), y)
    if kind is _builtin.Langevin:
        deviation = float(np.sqrt(2.0 * sde.temperature))
        return _native.langevin_system(sde.target, y, deviation=deviation)
    if kind is _builtin.UnderdampedLangevin and type(solver) in _KINETIC:
        return _native.langevin_system(sde.target, y, friction=float(sde.friction), u=float(sde.u))
    return None


def _layout(sde: Any) -> int:
    if sde.noise == "scalar":
        return _native.SCALAR
    if sde.noise == "diagonal" or (sde.noise == "additive" and sde.noise_dim == sde.dim):
        return _native.DIAGONAL
    return _native.MATRIX
