"""Which problems native code solves whole, and what it is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, to_numpy
from mckean.brownian import BrownianTree
from mckean.sde import _builtin, _kinetic, _native, _solvers
from mckean.sde._cir import DIE, HOStS, StateStep
from mckean.sde._controllers import ConstantStep, PIDController
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

_MOST_STEPS = (
    2.0**26
)  # whose times are held in memory at once; the loop in Python goes on for as long as one likes


@dataclass(frozen=True, slots=True)
class Route:
    """The arguments of `_native.integrate` behind `y`."""

    system: System
    method: int
    tableau: tuple[np.ndarray[Any, Any], ...]
    control: Control
    tree: BrownianTree
    times: np.ndarray[Any, Any]
    save_at: np.ndarray[Any, Any]
    clocks: np.ndarray[Any, Any] | None


def route(
    sde: Any, y: Input, times: np.ndarray[Any, Any], solver: Any, controller: Any, tree: Any
) -> Route | None:
    """None unless native code knows the equation, the solver, the controller and the tree.

    Only the classes themselves are known, not what users derive from them.
    """
    doubling = type(solver) is _solvers.StepDoubling
    inner = solver.solver if doubling else solver
    method = _method(inner)
    if method is None or type(tree) is not BrownianTree or tree.device != y.device:
        return None
    control = _control(sde, solver, inner, controller, times, doubling)
    if control is None:
        return None
    system = _system(sde, y, inner)
    if system is None:
        return None
    stops = controller.stops(times)
    if sde.is_compiled and not (np.isnan(stops.jumps).all() and np.isnan(stops.start_jump)):
        return None  # coefficients on both sides of a jump: the loop in Python evaluates those
    tableau: tuple[np.ndarray[Any, Any], ...] = ()
    if inner.tableau is not None:
        t = inner.tableau
        tableau = (t.c, t.a, t.w, t.h, t.b, t.bw, t.bh)
        if t.e is not None:
            tableau += tuple(np.zeros_like(t.b) if x is None else x for x in (t.e, t.ew, t.eh))
    if control.kind == 0:
        if (times[-1] - times[0]) / controller.step > _MOST_STEPS:
            return None
        grid = controller.grid(times)
        save_at = np.full(grid.size, -1, np.int64)
        save_at[np.searchsorted(grid, times)] = np.arange(times.size)
        return Route(system, method, tableau, control, tree, grid, save_at, None)
    clocks = np.ones((y.shape[0], 3))
    clock = controller.start(
        times, y.shape[0], solver.error_order(sde), noise=sde.noise, y0=to_numpy(y.array)
    )
    clocks[:, 0] = clock.h
    hit = np.append(times[0], stops.times)
    return Route(
        system, method, tableau, control, tree, hit, np.append(np.int64(0), stops.saves), clocks
    )


def follow(found: Route, y: Input, report: Callable[[int], None] | None = None) -> _native.Paths:
    """Solve the problem."""
    return _native.integrate(
        y,
        found.system,
        found.method,
        found.tableau,
        found.control,
        found.tree,
        found.times,
        found.save_at,
        found.clocks,
        report=report,
    )


def _method(solver: Any) -> int | None:
    kind = type(solver)
    if kind in _TABLES:
        return _native.METHODS["additive" if solver.tableau.additive else "runge_kutta"]
    if kind in _KINETIC:
        return _native.METHODS[solver.scheme]
    name = _OTHERS.get(kind)
    return None if name is None else _native.METHODS[name]


def _control(
    sde: Any, solver: Any, inner: Any, controller: Any, times: Any, doubling: bool
) -> Control | None:
    kind = type(controller)
    if kind is ConstantStep:
        # Halves that no error is asked of, and the state that `backward` starts from, are left to Python.
        return None if doubling or type(inner) is _solvers.ReversibleHeun else Control()
    if kind is PIDController:
        _, dtmin, dtmax = controller.limits(times)
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
        _, dtmin, dtmax = controller.limits(times)
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
