"""The iterations: from a batch of problems to log scalings that meet the tolerance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean.transport._mean_cost import mean_cost
from mckean.transport._problem import LOG_DOMAIN, RECOMPUTED, STORED, Doubles, Problem
from mckean.transport._scale import scale
from mckean.transport._start import begin, powers

__all__ = ["Settings", "Solution", "solve"]

_STORED_BYTES = 1 << 30  # the most for a stored kernel
_FEW = 20  # iterations before Newton's method
_MANY = 100  # iterations that Newton's method is cheaper than
_NEWTON_PAIRS = 350_000_000  # a quarter of these entries in sparse form take 1 GiB


@dataclass(frozen=True, slots=True)
class Settings:
    method: str = "auto"  # "auto", "scaling", "log", "newton"
    tol: float = 1e-6
    max_iter: int = 10_000
    acceleration: Any = "anderson"  # "anderson", "relaxation", None, or a relaxation in (0, 2)
    eps_scaling: bool = False
    # rho of rows and columns, (batch,); inf: met exactly
    unbalanced: tuple[Doubles, Doubles] | None = None


@dataclass(slots=True)
class Solution:
    """Where a solve ended. `error`: the L1 error of rows and columns together, relative to the mass; for relaxed
    marginals the largest change of a log scaling in the last iteration."""

    F: Doubles
    G: Doubles
    error: Doubles  # (batch,)
    n_iter: Any  # (batch,) int64, of Sinkhorn
    n_newton: Any  # (batch,) int64
    converged: Any  # (batch,) bool
    method: str


def solve(problem: Problem, settings: Settings, G: Doubles | None = None) -> Solution:
    """Solve all problems of a batch.

    Parameters
    ----------
    problem : Problem
    settings : Settings
        method "auto" iterates in scaling form, or in the log domain where weights or relaxed marginals bring scalings
        near the ends of the number range; and goes on with Newton's method if the iteration would take hundreds more
        to a tolerance of 1e-6 or less.
    G : ndarray (batch, m), optional
        Column scalings to start from; zero potentials otherwise, or those of a sequence of falling eps.

    Returns
    -------
    Solution
        `method` is "scaling", "log" or "newton": what was used last, by at least one problem. `converged` False says
        that `max_iter` was reached, or that the error has stopped falling at the level of rounding.

    Raises
    ------
    ValueError
        For Newton's method with relaxed marginals.
    """
    factors = powers(settings.unbalanced, problem.eps)
    if factors is None:
        relaxed = np.zeros(problem.batch, bool)
    else:
        relaxed = (factors[0] < 1) | (factors[1] < 1)
        if settings.method == "newton":
            raise ValueError(
                "method: expected 'auto', 'scaling' or 'log' for relaxed marginals, got 'newton'"
            )
    given, problem, mass = problem, *_unit_mass(problem, ~relaxed)
    F, G, done = begin(
        problem,
        G,
        eps_scaling=settings.eps_scaling,
        max_iter=settings.max_iter,
        unbalanced=settings.unbalanced,
    )
    solution = _iterated(problem, settings, F, G, done, factors, relaxed)
    if problem is not given:
        solution.F += np.log(mass)[:, None]
    return solution


def _iterated(
    problem: Problem,
    settings: Settings,
    F: Doubles,
    G: Doubles,
    done: Any,
    factors: tuple[Doubles, Doubles] | None,
    relaxed: Any,
) -> Solution:
    method = settings.method
    form = _form(problem, method, F, G, factors)
    none = np.zeros(problem.batch, np.int64)
    solution = Solution(
        F,
        G,
        np.full(problem.batch, np.inf),
        done,
        none,
        none > 0,
        "log" if (form == LOG_DOMAIN).any() else "scaling",
    )
    single = problem.at.dtype == "float32"
    inner = replace(settings, tol=0.9 * settings.tol) if single else settings
    finish = np.full(problem.batch, method == "newton")
    if method == "auto" and settings.tol <= 1e-6 and factors is None:
        finish[:] = problem.n * problem.m <= _NEWTON_PAIRS and settings.tol >= _reach(problem)
    if method == "newton":
        _stage(problem, inner, solution, form, factors, most=_FEW)
    else:
        # Where the tolerance is not met, Newton's method or more iterations follow.
        enough = _MANY if finish.any() else None
        _stage(problem, inner, solution, form, factors, most=settings.max_iter, enough=enough)
    left = ~solution.converged & (solution.n_iter < settings.max_iter)
    if method == "auto" and (finish & left).any():
        finish &= _worth_newton(problem)
        _stage(
            problem, inner, solution, form, factors, most=settings.max_iter, which=left & ~finish
        )
    finish &= left
    if finish.any():
        _newton(problem, settings, solution, form, finish)
    best = solution.F.copy(), solution.G.copy(), solution.error.copy()
    # Where Newton's method was only a choice, and stalled: the iterations that are left.
    again = finish & ~solution.converged & (method == "auto")
    again &= solution.n_iter + solution.n_newton < settings.max_iter
    if again.any():
        finish &= ~again
        _stage(problem, inner, solution, form, factors, most=settings.max_iter, which=again)
    left = ~relaxed & ~finish & (~solution.converged | single)
    _measure(problem, solution, left)
    solution.converged = solution.error <= settings.tol
    for shrink in (0.3, 0.1) if single else ():
        # What an iteration finds and what the plan says differ by rounding.
        left = ~solution.converged & ~relaxed & ~finish
        left &= solution.n_iter + solution.n_newton < settings.max_iter
        if not left.any():
            break
        tighter = replace(settings, tol=shrink * settings.tol)
        _stage(problem, tighter, solution, form, factors, most=settings.max_iter, which=left)
        _measure(problem, solution, left)
        solution.converged = solution.error <= settings.tol
    for k in np.flatnonzero(again & ~(solution.error < best[2])):
        solution.F[k], solution.G[k], solution.error[k] = (v[k] for v in best)
    return solution


def _newton(
    problem: Problem, settings: Settings, solution: Solution, form: Any, which: Any
) -> None:
    """Newton's method for `which`, whose errors are exact then."""
    from mckean.transport._newton import solve_newton  # which uses this module

    _measure(problem, solution, which)
    others = solution.converged
    solution.converged = ~which
    found = solve_newton(problem, replace(settings, unbalanced=None), solution, form)
    for name in ("F", "G", "error", "n_iter", "n_newton"):
        setattr(solution, name, getattr(found, name))
    solution.method = "newton"
    solution.converged = np.where(which, solution.error <= settings.tol, others)


def _stage(
    problem: Problem,
    settings: Settings,
    solution: Solution,
    form: Any,
    factors: tuple[Doubles, Doubles] | None,
    *,
    most: int,
    enough: int | None = None,
    which: Any = None,
) -> None:
    """At most `most` iterations of what has not converged (or of `which`), and no more than are left."""
    left = ~solution.converged if which is None else which
    room = np.minimum(settings.max_iter - solution.n_iter - solution.n_newton, most)
    for count in np.unique(room[left]):
        these = np.flatnonzero(left & (room == count))
        errors, done = scale(
            problem,
            solution.F,
            solution.G,
            problems=these,
            tol=settings.tol,
            max_iter=int(count),
            form=form,
            acceleration=settings.acceleration,
            powers=factors,
            enough=enough,
        )
        solution.error[these] = errors[these]
        solution.n_iter[these] += done[these]
        solution.converged[these] = errors[these] <= settings.tol


def _measure(problem: Problem, solution: Solution, which: Any) -> None:
    """The exact errors of these problems, whose marginals are to be met."""
    these = np.flatnonzero(which)
    if not len(these):
        return
    rows, cols, _ = problem.marginals(solution.F, solution.G, problems=these)
    missing = abs(rows - problem.a).sum(1) + abs(cols - problem.b).sum(1)
    solution.error[these] = missing[these]


def _unit_mass(problem: Problem, which: Any) -> tuple[Problem, Doubles]:
    """The problem, weights of `which` divided by their sums: one tolerance is then relative to every mass."""
    sums = [
        np.where(which & (abs(w.sum(1) - 1.0) > 1e-12), w.sum(1), 1.0)
        for w in (problem.a, problem.b)
    ]
    if all((s == 1.0).all() for s in sums):
        return problem, sums[1]
    a, b = problem.a / sums[0][:, None], problem.b / sums[1][:, None]
    return replace(problem, a=a, b=b), sums[1]


def _form(
    problem: Problem, method: str, F: Doubles, G: Doubles, factors: tuple[Doubles, Doubles] | None
) -> Any:
    """The scaling form of each problem."""
    single = problem.at.dtype == "float32"
    size = problem.batch * problem.n * problem.m * (4 if single else 8)
    fast = RECOMPUTED if problem.dim or size > _STORED_BYTES else STORED
    if method == "log":
        return np.full(problem.batch, LOG_DOMAIN)
    forms = np.full(problem.batch, fast)
    if method == "auto":
        forms[_at_risk(problem, single, F, G, factors)] = LOG_DOMAIN
    return forms


def _at_risk(
    problem: Problem,
    single: bool,
    F: Doubles,
    G: Doubles,
    factors: tuple[Doubles, Doubles] | None,
) -> Any:
    """Of which problems entries of the plan may leave the range of numbers. With columns right, none is above its
    weight b_j, and a column sums to at least min(a) b_j after the rows are made right: only tiny weights are dangerous,
    and, with relaxed marginals, masses a exp(-f / rho) far from a."""
    floor = 1e-30 if single else 1e-250
    least = [np.where(w > 0, w, np.inf).min(1, initial=np.inf) for w in (problem.a, problem.b)]
    risk = least[0] * least[1] < floor
    if factors is not None:
        limit = 30.0 if single else 250.0
        for power, scalings, w in zip(factors, (F, G), (problem.a, problem.b), strict=True):
            there = w > 0
            potential = np.where(there, scalings, 0.0) - np.log(np.where(there, w, 1.0))
            risk |= (abs(potential) * ((1.0 - power) / power)[:, None] > limit).any(1)
    return risk


def _reach(problem: Problem) -> float:
    """An error that rounding leaves within reach. Exponents are exact but for the rounding of the costs, which is the
    same in every pass: what is left is that of an exponential and of the sums."""
    return 3e-7 if problem.at.dtype == "float32" else 1e-13


def _worth_newton(problem: Problem) -> Any:
    """Of which problems (batch,): at eps of a tenth of the mean cost and more, Sinkhorn's iterations are few and the
    Hessian is not sparse."""
    return problem.eps < 0.1 * mean_cost(problem)
