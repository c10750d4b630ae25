"""Strong errors and strong orders, measured by solving twice along the same Brownian paths."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import _array
from mckean._array import as_input
from mckean._errors import ConvergenceWarning, as_real, as_seed, positive
from mckean.brownian import BrownianTree
from mckean.sde._controllers import ConstantStep, Floats, save_times
from mckean.sde._field import Field
from mckean.sde._integrate import sdeint
from mckean.sde._solution import Solution

__all__ = ["StrongError", "StrongOrder", "strong_error", "strong_order"]


@dataclass(slots=True)
class StrongError:
    """How far apart two resolutions of the same paths are.

    Attributes
    ----------
    ts : ndarray, shape (n_saves,), float64
    difference : ndarray, shape (n_saves,), float64
        Root mean square over the paths of the Euclidean distance between the two solutions.
    standard_error : ndarray, shape (n_saves,), float64
        Of `difference`, from the finite number of paths; NaN for a single path.
    error : ndarray, shape (n_saves,), float64
        Estimate of the error of the coarse solution: ``difference / sqrt(1 - refine**(-2 p))`` with the strong order
        p, for errors of the two solutions whose difference is uncorrelated with the finer one, as stochastic
        integrals over finer and finer details are.
    bound : ndarray, shape (n_saves,), float64
        ``difference / (1 - refine**-p)``: the estimate where both errors have the same direction, as those of
        ordinary differential equations have. No correlation makes the error larger than this, if the order is p.
    order : float
        p.
    coarse, fine : Solution
    converged : bool
        False if a path failed in one of the two; such paths are left out.
    """

    ts: Floats
    difference: Floats
    standard_error: Floats
    error: Floats
    bound: Floats
    order: float
    coarse: Solution
    fine: Solution
    converged: bool

    def __repr__(self) -> str:
        last, spread = self.difference[-1], self.standard_error[-1]
        return f"StrongError(difference={last:.3g} +- {spread:.1g}, error={self.error[-1]:.3g})"


@dataclass(slots=True)
class StrongOrder:
    """How the strong error falls with the step.

    Attributes
    ----------
    steps : ndarray, shape (k,), float64
        Constant steps, or the time span over the mean number of accepted steps.
    differences, standard_errors : ndarray, shape (k,), float64
        At the end: root mean square distance from the refined solution, and its standard error.
    order : float
        Slope of the least-squares line through the logarithms; NaN where a difference is zero.
    uncertainty : float
        Standard error of `order` from the finite number of paths, which all steps share; NaN for a single path.
    misfit : float
        The largest deviation of a logarithm from the line.
    converged : bool
        False if a path failed at one of the steps (such paths are left out), or a difference is zero.
    """

    steps: Floats
    differences: Floats
    standard_errors: Floats
    order: float
    uncertainty: float
    misfit: float
    converged: bool

    def __repr__(self) -> str:
        return f"StrongOrder(order={self.order:.3f} +- {self.uncertainty:.2g})"


def strong_error(
    sde: Any,
    y0: Any,
    ts: Any,
    *,
    solver: Any,
    controller: Any,
    seed: Any = 0,
    refine: Any = 2,
) -> StrongError:
    r"""Estimate the strong error of a solution from a second one with finer steps on the same Brownian paths.

    Steps are refined by making constant ones shorter by `refine`, and adaptive ones by tolerances that ask for steps
    shorter by `refine`, with all limits of the step shorter likewise.

    Parameters
    ----------
    sde, y0, ts, solver, controller, seed
        As for `sdeint`.
    refine : float
        Greater than 1.

    Returns
    -------
    StrongError

    Raises
    ------
    TypeError, ValueError
        As of `sdeint`, or if `refine` is out of range.

    Warns
    -----
    ConvergenceWarning
        If a path fails.

    See Also
    --------
    strong_order, sdeint

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> sde = mk.sde.SDE(lambda t, y: -y, lambda t, y: 0.5 * y)
    >>> found = mk.sde.strong_error(
    ...     sde, np.ones((500, 1)), np.array([0.0, 1.0]), solver=mk.sde.EulerMaruyama(), controller=2**-6
    ... )
    >>> bool(found.difference[-1] < found.error[-1] < found.bound[-1] < 0.03)
    True
    """
    factor = _factor(refine)
    times = save_times(ts)
    coarse = (
        controller if callable(getattr(controller, "start", None)) else ConstantStep(controller)
    )
    order = solver.error_order(sde)
    fine = coarse.refined(factor, order)
    tree = _tree(sde, y0, times, solver, [coarse, fine], seed)
    first, second = (
        sdeint(sde, y0, times, solver=solver, controller=c, tree=tree) for c in (coarse, fine)
    )
    squares = _squares(first.ys, second.ys)
    difference, spread = _root_mean(squares)
    strong = float(order) - 0.5
    return StrongError(
        ts=times,
        difference=difference,
        standard_error=spread,
        error=difference / np.sqrt(1 - factor ** (-2 * strong)),
        bound=difference / (1 - factor**-strong),
        order=strong,
        coarse=first,
        fine=second,
        converged=first.converged and second.converged,
    )


def strong_order(
    sde: Any,
    y0: Any,
    t1: Any,
    *,
    solver: Any,
    steps: Sequence[Any],
    seed: Any = 0,
    t0: Any = 0.0,
    refine: Any = 2,
) -> StrongOrder:
    """Measure the strong order of a solver on an equation.

    For every entry of `steps` the equation is solved with it and with a refinement of it, all on the same Brownian
    paths; the distance of the two falls like the error itself, and no exact solution is needed.

    Parameters
    ----------
    sde, y0, solver, seed
        As for `sdeint`.
    t1 : float
        Where the distance is taken; the paths start at `t0`.
    steps : sequence of at least two floats or controllers
        Constant steps, or controllers of increasing accuracy.
    t0 : float
    refine : float
        Greater than 1. With steps that are powers of it times each other, solutions are used twice.

    Returns
    -------
    StrongOrder

    Raises
    ------
    TypeError, ValueError
        As of `sdeint`, or if an argument is out of range.

    Warns
    -----
    ConvergenceWarning
        If a path fails, or a solution and its refinement are equal, so that there is no order to measure.

    See Also
    --------
    strong_error

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> sde = mk.sde.SDE(lambda t, y: np.sin(y), lambda t, y: 0 * y + 1.0, noise="additive")
    >>> found = mk.sde.strong_order(
    ...     sde, np.ones((200, 1)), 1.0, solver=mk.sde.ShARK(), steps=[2**-4, 2**-5, 2**-6]
    ... )
    >>> bool(abs(found.order - 1.5) < 0.2)
    True
    """
    factor = _factor(refine)
    begin, end = as_real(t0, "t0"), as_real(t1, "t1")
    if not end > begin:
        raise ValueError(f"t1: expected t1 > t0 = {begin}, got {end}")
    try:
        given = list(steps)
    except TypeError:
        raise TypeError(f"steps: expected a sequence, got {type(steps).__name__}") from None
    if len(given) < 2:
        raise ValueError(f"steps: expected at least two, got {len(given)}")
    coarse = [
        c if callable(getattr(c, "start", None)) else ConstantStep(positive(c, f"steps[{k}]"))
        for k, c in enumerate(given)
    ]
    order, times = solver.error_order(sde), np.array([begin, end])
    fine = [c.refined(factor, order) for c in coarse]
    tree = _tree(sde, y0, times, solver, coarse + fine, seed)

    solved: dict[Any, Solution] = {}
    left = [_key(c) for c in coarse + fine]  # what is still to be used

    def solve(c: Any) -> Solution:
        key = _key(c)
        if key not in solved:
            solved[key] = sdeint(sde, y0, times, solver=solver, controller=c, tree=tree)
        left.remove(key)
        return solved[key] if key in left else solved.pop(key)

    squares, lengths, converged = [], [], True
    for c, f in zip(coarse, fine, strict=True):
        first, second = solve(c), solve(f)
        squares.append(_squares(first.ys[1:], second.ys[1:])[0])
        lengths.append((end - begin) / float(first.stats["accepted"].mean()))
        if not c.adaptive:
            lengths[-1] = c.step
        converged = converged and first.converged and second.converged
    table = np.array(squares)
    differences, spreads = _root_mean(table)
    x = np.log(lengths)
    x = x - x.mean()
    if not (x * x).sum() > 0:
        raise ValueError("steps: expected different steps, got equal ones")
    if (differences == 0).any():
        equal = int(np.argmax(differences == 0))
        warnings.warn(
            f"the solutions with steps[{equal}] and its refinement are equal: no order to measure",
            ConvergenceWarning,
            stacklevel=2,
        )
        nan = float("nan")
        return StrongOrder(np.array(lengths), differences, spreads, nan, nan, nan, converged=False)
    y = np.log(differences)
    weights = x / (x * x).sum()
    slope = float(weights @ y)
    good = np.isfinite(table).all(0)
    # Each path's share in the slope: the steps see the same paths, and their errors are correlated.
    shares = 0.5 * (weights[:, None] * table[:, good] / differences[:, None] ** 2).sum(0)
    n = int(good.sum())
    return StrongOrder(
        steps=np.array(lengths),
        differences=differences,
        standard_errors=spreads,
        order=slope,
        uncertainty=float(shares.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
        misfit=float(np.abs(y - y.mean() - slope * x).max()),
        converged=converged,
    )


def _factor(refine: Any) -> float:
    factor = as_real(refine, "refine")
    if not factor > 1:
        raise ValueError(f"refine: expected a number above 1, got {factor}")
    return factor


def _key(controller: Any) -> Any:
    return controller.step if isinstance(controller, ConstantStep) else id(controller)


def _tree(
    sde: Any, y0: Any, ts: Floats, solver: Any, controllers: list[Any], seed: Any
) -> BrownianTree:
    """One tree for all: between its leaves' ends a path depends on their length."""
    y = as_input(y0, "y0", shape=("n", "d"))
    pieces = getattr(solver, "pieces", 1)
    tol = min(float(c.smallest_step(ts)) for c in controllers) / pieces
    return BrownianTree(
        as_seed(seed),
        (y.shape[0], Field(sde, y, float(ts[0])).noise_dim),
        t0=float(ts[0]),
        t1=float(ts[-1]),
        tol=min(tol, float(ts[-1] - ts[0])),
        levy_area=getattr(solver, "levy_area", "none"),
        dtype=y.dtype,
        like=y.array,
    )


def _squares(a: Any, b: Any) -> Floats:
    """Squared distances, (n_saves, n); NaN for paths that failed."""
    first, second = (np.asarray(_array.to_numpy(x), np.float64) for x in (a, b))
    out: Floats = ((first - second) ** 2).sum(-1)
    return out


def _root_mean(squares: Floats) -> tuple[Floats, Floats]:
    """Root mean squares over the paths that are finite throughout, and their standard errors."""
    kept = squares[:, np.isfinite(squares).all(0)]
    n = kept.shape[1]
    if not n:
        nothing = np.full(len(squares), np.nan)
        return nothing, nothing.copy()
    root: Floats = np.sqrt(kept.mean(1))
    if n == 1:
        return root, np.full(len(squares), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = kept.std(1, ddof=1) / np.sqrt(n) / (2 * root)
    return root, np.where(root > 0, spread, 0.0)
