"""A cloud against itself: one potential, and an averaged iteration that converges in tens of steps at any eps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mckean.transport._problem import LOG_DOMAIN, RECOMPUTED, Doubles, Problem
from mckean.transport._scale import Stall
from mckean.transport._solve import Settings, Solution
from mckean.transport._start import log_weights, powers

__all__ = ["solve_symmetric"]

_BURST = 50
_WITHOUT_PROGRESS = 100  # the error halves in every iteration, or nearly so, until it is rounding


def solve_symmetric(problem: Problem, settings: Settings, F: Doubles | None = None) -> Solution:
    """Solve problems with x = y and a = b by f <- (f + T f) / 2, T the half step that makes the rows right.

    Parameters
    ----------
    problem : Problem
        With n = m, a symmetric cost and a = b.
    settings : Settings
        `tol`, `max_iter`, method "log" and `unbalanced` (the same rho on both sides) are obeyed; there is nothing to
        accelerate.
    F : ndarray (batch, n), optional
        Scalings to start from.

    Returns
    -------
    Solution
        F = G. Iterations go on until no scaling moves by more than a quarter of `tol` in a step, which to first order
        bounds the L1 error of rows and columns by `tol`, and until that error, measured, is at most `tol`. `error` is
        the measured one, relative to the mass; for relaxed marginals the largest change of a scaling.

    References
    ----------
    Feydy, Sejourne, Vialard, Amari, Trouve, Peyre, "Interpolating between optimal transport and MMD using Sinkhorn
    divergences" (AISTATS 2019), for the averaged iteration.
    """
    batch = problem.batch
    factors = powers(settings.unbalanced, problem.eps)
    relaxed = np.zeros(batch, bool) if factors is None else factors[0] < 1
    mass = np.where(relaxed, 1.0, problem.a.sum(1))
    share = problem.a / mass[:, None]
    unit = replace(problem, a=share, b=share)
    log_a = log_weights(share)
    F = log_a.copy() if F is None else np.where(share > 0, F - 0.5 * np.log(mass)[:, None], -np.inf)
    G = F.copy()
    form = LOG_DOMAIN if settings.method == "log" else RECOMPUTED
    errors, change = np.full(batch, np.inf), np.full(batch, np.inf)
    done = np.zeros(batch, np.int64)
    goal = np.where(relaxed, settings.tol, 0.25 * settings.tol)
    stall = Stall(problem.at.dtype, batch, _WITHOUT_PROGRESS)
    going = np.arange(batch)
    while len(going):
        room = np.minimum(settings.max_iter - done[going], _BURST)
        for count, level in sorted(set(zip(room.tolist(), goal[going].tolist(), strict=True))):
            these = going[(room == count) & (goal[going] == level)]
            e, k = unit.iterate(
                F,
                G,
                problems=these,
                form=form,
                max_iter=count,
                tol=level,
                powers=factors,
                symmetric=True,
            )
            change[these], errors[these] = e[these], e[these]
            done[these] += k[these]
        over = (done[going] >= settings.max_iter) | (change[going] <= goal[going])
        over |= stall(going, change[going], done[going], F[going], G[going])
        met = going[over & ~relaxed[going]]
        if len(met):
            rows, cols, _ = unit.marginals(F, G, problems=met)
            errors[met] = (abs(rows - share).sum(1) + abs(cols - share).sum(1))[met]
        # A tolerance far from 0 is beyond first order: once more, with a smaller change.
        more = over & ~relaxed[going] & (errors[going] > settings.tol)
        more &= (done[going] < settings.max_iter) & (change[going] > 1e-3)
        goal[going[more]] *= 0.25
        going = going[~over | more]
    F += 0.5 * np.log(mass)[:, None]
    G = F.copy()
    return Solution(
        F,
        G,
        errors,
        done,
        np.zeros(batch, np.int64),
        errors <= settings.tol,
        "log" if form == LOG_DOMAIN else "scaling",
    )
