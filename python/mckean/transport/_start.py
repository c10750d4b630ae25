"""Where the iterations begin: zero potentials, given ones, or a sequence of falling eps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean.transport._mean_cost import mean_cost
from mckean.transport._problem import LOG_DOMAIN, Doubles, Problem

__all__ = ["begin", "log_weights", "powers"]


def log_weights(weights: Doubles) -> Doubles:
    """Logarithms, -inf for no weight."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights))


def powers(
    unbalanced: tuple[Doubles, Doubles] | None, eps: Doubles
) -> tuple[Doubles, Doubles] | None:
    """rho / (rho + eps) of rows and columns; None where all marginals are met."""
    if unbalanced is None or all(np.isinf(rho).all() for rho in unbalanced):
        return None
    found = []
    for rho in unbalanced:
        exact = np.isinf(rho)
        at = np.where(exact, 1.0, rho)
        found.append(np.where(exact, 1.0, at / (at + eps)))
    return found[0], found[1]


def begin(
    problem: Problem,
    G: Doubles | None,
    *,
    eps_scaling: bool,
    max_iter: int,
    unbalanced: tuple[Doubles, Doubles] | None = None,
) -> tuple[Doubles, Doubles, Any]:
    """Scalings after one iteration that can not overflow, from the column scalings `G` or from zero potentials; and the
    iterations done (batch,).

    With `eps_scaling`, and no `G`, the potentials come from one iteration for each of a sequence of eps, halved from
    twice the mean cost down to that of the problem (Schmitzer, SIAM J. Sci. Comput. 41, 2019; Feydy et al., 2019). At
    larger eps the plan is close to the product of its marginals, and there is nothing to carry on.
    """
    log_a, log_b = log_weights(problem.a), log_weights(problem.b)
    done = np.zeros(problem.batch, np.int64)
    F = log_a.copy()
    levels = np.zeros(problem.batch, np.int64)
    if G is None:
        G = log_b.copy()
        if eps_scaling:
            with np.errstate(divide="ignore"):
                octaves = np.log2(2.0 * mean_cost(problem) / problem.eps)
            levels = np.clip(np.ceil(octaves), 0, max(max_iter - 1, 0)).astype(np.int64)
    else:
        G = np.array(G, np.float64)
        G[problem.b <= 0] = -np.inf
    for level in range(int(levels.max(initial=0)), -1, -1):
        eps = problem.eps * np.exp2(np.minimum(level, levels))
        these = np.flatnonzero(levels >= level)
        problem.iterate(
            F,
            G,
            problems=these,
            form=LOG_DOMAIN,
            max_iter=1,
            tol=-1.0,
            powers=powers(unbalanced, eps),
            eps=eps,
        )
        done[these] += 1
        if level:  # potentials keep their value in units of the cost
            for scalings, log_w in ((F, log_a), (G, log_b)):
                there = np.isfinite(log_w[these])
                half = np.where(there, scalings[these] - np.where(there, log_w[these], 0.0), 0.0)
                scalings[these] = log_w[these] + 2.0 * half
    return F, G, done
