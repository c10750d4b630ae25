"""Where the iterations begin: zero potentials, given ones, or a sequence of falling eps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean.transport._mean_cost import mean_cost
from mckean.transport._problem import LOG_DOMAIN, Doubles, Problem

__all__ = ["begin", "centred", "log_weights", "met_exactly", "powers", "scalings_of"]


def log_weights(weights: Doubles) -> Doubles:
    """Logarithms, -inf for no weight."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights))


def scalings_of(potential: Doubles, weights: Doubles, eps: Doubles) -> Doubles:
    """The log scalings (batch, size) of potentials in units of the cost."""
    return np.asarray(potential / eps[:, None] + log_weights(weights))


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


def met_exactly(problem: Problem, unbalanced: tuple[Doubles, Doubles] | None) -> Any:
    """Of which problems (batch,) both marginals are."""
    factors = powers(unbalanced, problem.eps)
    if factors is None:
        return np.ones(problem.batch, bool)
    return (factors[0] == 1.0) & (factors[1] == 1.0)


def centred(values: Doubles, weights: Doubles, which: Any) -> Doubles:
    """Potentials, or log scalings less log weights, without their mean where `which` (batch,): with marginals to be met
    a constant says nothing, and costs digits."""
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.maximum(abs(values).max(1, keepdims=True), 1.0)  # of sums that may overflow
        mean = sizes * ((weights * (values / sizes)).sum(1) / weights.sum(1))[:, None]
    return np.where(np.asarray(which)[:, None], values - mean, values)


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

    Where both marginals are met, a constant of `G` is taken out, and F and G are shifted against each other to equal
    means of the potentials.
    """
    met = met_exactly(problem, unbalanced)
    given = G is not None
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
        there = problem.b > 0
        start = centred(np.where(there, G - np.where(there, log_b, 0.0), 0.0), problem.b, met)
        G = np.where(there, start + np.where(there, log_b, 0.0), -np.inf)
    for level in range(int(levels.max(initial=0)), -1, -1):
        eps = problem.eps * np.exp2(np.minimum(level, levels))
        these = np.flatnonzero(levels >= level)
        try:
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
        except ValueError:
            if not given:
                raise
            # Zero potentials say whether it is eps.
            begin(problem, None, eps_scaling=False, max_iter=1, unbalanced=unbalanced)
            size = abs(problem.eps[:, None] * start).max()
            raise ValueError(
                f"init: expected potentials that are not much larger than the cost, got one of size {size:.3g}"
            ) from None
        done[these] += 1
        if level:  # potentials keep their value in units of the cost
            for scalings, log_w in ((F, log_a), (G, log_b)):
                there = np.isfinite(log_w[these])
                half = np.where(there, scalings[these] - np.where(there, log_w[these], 0.0), 0.0)
                scalings[these] = log_w[these] + 2.0 * half
    for k in np.flatnonzero(met):
        rows, cols = problem.a[k] > 0, problem.b[k] > 0
        a, b = problem.a[k, rows], problem.b[k, cols]
        of_rows = a @ (F[k, rows] - log_a[k, rows]) / a.sum()
        of_cols = b @ (G[k, cols] - log_b[k, cols]) / b.sum()
        shift = 0.5 * (of_rows - of_cols)
        if np.isfinite(shift):
            F[k] -= shift
            G[k] += shift
    return F, G, done
