"""`sdeint`: checks, the Brownian tree, and the choice between native code and the loops in Python."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from mckean import _array
from mckean._array import Input, as_input, as_match, check_finite
from mckean._errors import ConvergenceWarning, as_seed
from mckean.brownian import BrownianTree
from mckean.sde._controllers import ConstantStep, Plan, plan, save_times
from mckean.sde._drive import (
    Outcome,
    adapted,
    run_own,
    run_shared,
    shared_steps,
    steps_back,
    undo_shared,
)
from mckean.sde._field import Field
from mckean.sde._route import Route, follow, route
from mckean.sde._solution import Solution
from mckean.sde._system import SDE

__all__ = ["reverse", "sdeint"]

_AREAS = ("none", "space-time", "space-time-time")


def sdeint(
    sde: Any,
    y0: Any,
    ts: Any,
    *,
    solver: Any,
    controller: Any,
    seed: Any = 0,
    tree: Any = None,
    progress: bool = False,
    compact: bool = True,
) -> Solution:
    """Solve a stochastic differential equation for a batch of paths.

    Parameters
    ----------
    sde : SDE
        The equation; one of the built-in ones stays in native code.
    y0 : array, shape (n, d), float32 or float64
        Initial states, finite; not modified.
    ts : array, shape (n_saves,)
        Strictly increasing times, at least two; the first is that of `y0`. All are hit exactly and saved.
    solver : object
        Such as ``EulerMaruyama()`` (Ito), ``Heun()``, ``SPaRK()`` or ``SlowRK()`` (Stratonovich), ``ShARK()`` (additive
        noise), or one of these in `StepDoubling`. Or an object with ``step(sde, y, h, W)``, from (n, d) to (n, d),
        for constant steps and equations whose coefficients do not depend on time.
    controller : float or object
        A constant step, or ``ConstantStep(...)``, ``PIDController(...)``, which chooses the steps of every path by the
        error that the solver estimates, or ``StateStep(...)``.
    seed : int or numpy.random.SeedSequence
        The Brownian path is that of ``BrownianTree(seed, (n, m), t0=ts[0], t1=ts[-1], tol=tol,
        levy_area=solver.levy_area)`` with tol the smallest step: half of `dtmin` for adaptive steps, and half as long
        again for `StepDoubling`. See the notes on solutions that share a path.
    tree : BrownianTree, optional
        The Brownian path, in place of a `seed`: shape (n, m), with the areas the solver needs, the dtype of `y0`,
        covering `ts`, with leaves no longer than the smallest step. Or any object with ``increment(s, t)``.
    progress : bool
        Show a progress bar over time.
    compact : bool
        With adaptive steps, call drift and diffusion with those paths only that are still on their way, as soon as
        these are less than half. False: always with all n paths, as functions need that hold one parameter per path.

    Returns
    -------
    Solution
        ``ys`` of shape (n_saves, n, d), in the framework, dtype and device of `y0`, with statistics per path.
        Deterministic, and independent of the other paths of the batch but by what the functions do; not
        differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, the solver does not fit the noise or the sense of the
        equation (which names those that do), or the tree does not fit the steps.

    Warns
    -----
    ConvergenceWarning
        If the state of a path is not finite, or its error too large at the shortest step where the controller is to
        refuse that. That path stops and is NaN from there; the others go on; ``converged`` is False.

    See Also
    --------
    SDE, mckean.BrownianTree

    Notes
    -----
    A rejected step asks the same Brownian path again, for a nearer time. Two solutions of one seed, shape and
    `levy_area` have the same path at times that are ``ts[-1] - ts[0]`` times multiples of powers of 1/2 that both
    resolve: halving a step of that kind refines the path. For other times, or solvers that need different areas, pass
    both the same `tree`.

    Drift and diffusion get a float `t` from constant steps, which all paths share; adaptive ones give every path its
    own, and an array (n,).

    References
    ----------
    .. [1] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive and
       high order SDE solvers" (2024), arXiv:2405.06464

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> sde = mk.sde.SDE(lambda t, y: -y, lambda t, y: 0 * y + 1.0, noise="additive")
    >>> y0, ts = np.zeros((1000, 2)), np.linspace(0, 3, 7)
    >>> solution = mk.sde.sdeint(sde, y0, ts, solver=mk.sde.ShARK(), controller=0.1, seed=1)
    >>> solution.ys.shape, round(float(solution.ys[-1].var()), 1)
    ((7, 1000, 2), 0.5)
    >>> adaptive = mk.sde.PIDController(1e-2, 1e-2, dtmin=2**-8)
    >>> solution = mk.sde.sdeint(sde, y0, ts, solver=mk.sde.ShARK(), controller=adaptive, seed=1)
    >>> solution.stats["accepted"].shape, solution.converged
    ((1000,), True)
    """
    began = time.perf_counter()
    y, times, controller = _checked(sde, y0, ts, solver, controller)
    field = Field(sde, y, float(times[0]))
    told = plan(controller, times, sde.noise)
    if tree is None:
        tree = _grow(y, field.noise_dim, told, solver, seed)
    else:
        _check_tree(tree, y, field.noise_dim, told, solver)
    whole = route(sde, y, told, solver, tree)
    if whole is not None:
        return _solution(_natively(whole, y, progress), times, began)
    order = getattr(solver, "error_order", adapted(solver).error_order)(sde)
    if controller.adaptive:
        states = {"y0": _array.to_numpy(y.array)} if _by_state(controller) else {}
        clock = told.start(y.shape[0], order, sde.noise, **states)
        outcome = run_own(
            field, y, times, adapted(solver), controller, clock, tree, progress, compact
        )
    else:
        steps = shared_steps(told, order, sde.noise)
        outcome = run_shared(field, y, times, adapted(solver), steps, tree, progress)
    return _solution(outcome, times, began)


def _natively(whole: Route, y: Input, progress: bool) -> Outcome:
    from tqdm.auto import tqdm

    form = "{l_bar}{bar}| [{elapsed}<{remaining}]"
    with tqdm(total=1.0 + 1e-9, disable=not progress, bar_format=form) as bar:
        paths = follow(whole, y, bar.update if progress else None)
    failed = ~np.isnan(paths.failed)
    return Outcome(
        ys=paths.ys,
        accepted=paths.counts[:, 0].copy(),
        rejected=paths.counts[:, 1].copy(),
        evaluations=paths.counts[:, 2].copy(),
        clamped=paths.counts[:, 3].clip(min=0),
        failed=failed,
        failed_time=paths.failed,
        not_finite=failed & (paths.counts[:, 3] >= 0),
        state=None,
    )


def reverse(
    solver: Any, sde: Any, y1: Any, z1: Any, ts: Any, *, controller: Any, seed: Any, tree: Any
) -> Solution:
    """`ReversibleHeun.backward`."""
    began = time.perf_counter()
    y, times, controller = _checked(sde, y1, ts, solver, controller, name="y1")
    z = as_match(z1, "z1", y, "y1")
    check_finite(z, "z1")
    if controller.adaptive:
        raise ValueError(
            f"controller: expected constant steps, which can be undone, got {controller!r}"
        )
    field = Field(sde, y, float(times[-1]))
    told = plan(controller, times, sde.noise)
    if tree is None:
        tree = _grow(y, field.noise_dim, told, solver, seed)
    else:
        _check_tree(tree, y, field.noise_dim, told, solver)
    runs = steps_back(told, 1.0, sde.noise)
    outcome = undo_shared(field, y, z, times, solver, runs, tree)
    return _solution(outcome, times, began)


def _smallest(told: Plan, solver: Any) -> float:
    """A bound below the gaps between all times the path is asked for."""
    return told.smallest / float(getattr(solver, "pieces", 1))


def _meaning(told: Plan, solver: Any) -> str:
    """What `_smallest` is, in words."""
    pieces = getattr(solver, "pieces", 1)
    limits = getattr(told.controller, "limits", None)
    if told.controller.adaptive and callable(limits):
        dtmin = limits(told.ts)[1]
        if told.smallest == dtmin / 2:
            return f"{'half' if pieces == 1 else 'a quarter'} of dtmin = {dtmin:.6g}"
        return f"{'' if pieces == 1 else 'half of '}the least gap between times to hit"
    return f"{'' if pieces == 1 else 'half of '}the smallest step"


def _by_state(controller: Any) -> bool:
    return bool(getattr(controller, "uses_states", False))


def _checked(
    sde: Any, y0: Any, ts: Any, solver: Any, controller: Any, *, name: str = "y0"
) -> tuple[Input, Any, Any]:
    if not isinstance(sde, SDE):
        raise TypeError(f"sde: expected an mckean.sde.SDE, got {_described(sde)}")
    y = as_input(y0, name, shape=("n", "d"))
    if 0 in y.shape:
        raise ValueError(
            f"{name}: expected at least one path and one dimension, got shape {y.shape}"
        )
    check_finite(y, name)
    if sde.dim is not None and sde.dim != y.shape[1]:
        raise ValueError(f"{name}: expected shape (n, {sde.dim}) to match sde, got {y.shape}")
    times = save_times(ts)
    if times.size < 2:
        raise ValueError(f"ts: expected at least two times, got {times.size}")
    if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
        raise TypeError(
            f"solver: expected a solver such as mckean.sde.Heun(), got {_described(solver)}"
        )
    if callable(getattr(solver, "check", None)):
        solver.check(sde)
    if isinstance(controller, type) or isinstance(controller, (str, bool)):
        raise TypeError(
            f"controller: expected a step or a controller, got {_described(controller)}"
        )
    if not callable(getattr(controller, "start", None)):
        controller = ConstantStep(controller)
    if (
        controller.adaptive
        and not _by_state(controller)
        and not getattr(solver, "has_error", False)
    ):
        raise ValueError(
            f"solver: {solver!r} has no error estimate, which {type(controller).__name__} needs; "
            f"take StepDoubling({solver!r})"
        )
    return y, times, controller


def _described(x: Any) -> str:
    return f"the class {x.__name__}" if isinstance(x, type) else type(x).__name__


def _grow(y: Input, m: int, told: Plan, solver: Any, seed: Any) -> BrownianTree:
    times = told.ts
    return BrownianTree(
        as_seed(seed),
        (y.shape[0], m),
        t0=float(times[0]),
        t1=float(times[-1]),
        tol=min(_smallest(told, solver), float(times[-1] - times[0])),
        levy_area=getattr(solver, "levy_area", "none"),
        dtype=y.dtype,
        like=y.array,
    )


def _check_tree(tree: Any, y: Input, m: int, told: Plan, solver: Any) -> None:
    times, smallest = told.ts, _smallest(told, solver)
    if not callable(getattr(tree, "increment", None)):
        raise TypeError(f"tree: expected a BrownianTree, got {_described(tree)}")
    shape = getattr(tree, "shape", None)
    if shape is not None and tuple(shape) != (y.shape[0], m):
        raise ValueError(f"tree: expected shape {(y.shape[0], m)} to match y0, got {tuple(shape)}")
    t0, t1 = getattr(tree, "t0", times[0]), getattr(tree, "t1", times[-1])
    if not t0 <= times[0] or not t1 >= times[-1]:
        raise ValueError(
            f"tree: expected one that covers ts, [{times[0]}, {times[-1]}], got [{t0}, {t1}]"
        )
    needs, has = getattr(solver, "levy_area", "none"), getattr(tree, "levy_area", None)
    if has in _AREAS and _AREAS.index(has) < _AREAS.index(needs):
        raise ValueError(f"tree: expected levy_area={needs!r} for {solver!r}, got {has!r}")
    tol = getattr(tree, "tol", None)
    if tol is not None and tol > smallest * (1 + 1e-9):
        raise ValueError(
            f"tree: expected tol of at most {smallest:.6g}, {_meaning(told, solver)}, got {tol:.6g}"
        )
    dtype = getattr(tree, "dtype", y.dtype)
    if str(dtype) != y.dtype:
        raise TypeError(f"tree: expected dtype {y.dtype} to match y0, got {dtype}")


def _solution(outcome: Outcome, times: Any, began: float) -> Solution:
    stats: dict[str, Any] = {
        "accepted": outcome.accepted,
        "rejected": outcome.rejected,
        "clamped": outcome.clamped,
        "evaluations": outcome.evaluations,
    }
    failed = np.flatnonzero(outcome.failed)
    if failed.size:
        stats["failed_path"], stats["failed_time"] = failed, outcome.failed_time[failed]
        first = int(failed[np.argmin(outcome.failed_time[failed])])
        reason = (
            "not finite" if outcome.not_finite[first] else "error too large for the shortest step"
        )
        more = f" and {failed.size - 1} more" if failed.size > 1 else ""
        warnings.warn(
            f"path {first}{more} failed: {reason} at t = {outcome.failed_time[first]:.6g}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return Solution(
        ys=outcome.ys,
        ts=times,
        converged=not failed.size,
        stats=stats,
        timings={"total": time.perf_counter() - began},
        state=outcome.state,
    )
