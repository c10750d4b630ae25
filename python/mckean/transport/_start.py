"""Where the iterations begin: zero potentials, given ones, a sequence of falling eps, or those of Gaussians."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mckean._array import to_numpy
from mckean.transport._problem import LOG_DOMAIN, Doubles, Problem

__all__ = ["begin", "gaussian_start", "log_weights", "mean_cost", "powers"]

_HUGE = 1e30  # an eps at which plans are products of their marginals


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


def mean_cost(problem: Problem) -> Doubles:
    """The mean of the finite costs, by the weights of the points, of each problem; one pass over the pairs."""
    flat = replace(problem, eps=np.full(problem.batch, _HUGE))
    rows, _, cost = flat.marginals(log_weights(problem.a), log_weights(problem.b), cost=True)
    assert cost is not None
    mass = rows.sum(1)
    return np.where(mass > 0, cost / np.where(mass > 0, mass, 1.0), 0.0)


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


def gaussian_start(problem: Problem, x: Any, y: Any) -> Doubles:
    """Column scalings of the transport between Gaussians with the means and covariances of the clouds.

    Parameters
    ----------
    problem : Problem
        Of the cost |x - y|^2.
    x, y : array, ([batch,] n, d) and ([batch,] m, d)
        The points.

    Returns
    -------
    ndarray (batch, m), float64

    Notes
    -----
    The potential of the columns is |y'|^2 - y'^T S y' + 2 <y', m_y - m_x>, y' = y - m_y, where S is the matrix of the
    conditional mean of x given y: S = 2 R ((4 R^T B R + s^2)^(1/2) + s)^(-1) R^T with s = eps / 2, A = R R^T and B the
    covariances of x and y. Nothing is inverted that is singular for few points in many dimensions.

    References
    ----------
    Janati, Muzellec, Peyre, Cuturi, "Entropic optimal transport between unbalanced Gaussian measures has a closed form"
    (NeurIPS 2020). Thornton, Cuturi, "Rethinking initialization of the Sinkhorn algorithm" (AISTATS 2023).
    """
    points = [
        np.asarray(to_numpy(v), np.float64).reshape(problem.batch, -1, problem.dim) for v in (x, y)
    ]
    G = log_weights(problem.b)
    for k in range(problem.batch):
        means, centred, covariances = [], [], []
        for v, w in zip(points, (problem.a, problem.b), strict=True):
            share = w[k] / w[k].sum()
            mean = share @ v[k]
            means.append(mean)
            centred.append(v[k] - mean)
            covariances.append((centred[-1] * share[:, None]).T @ centred[-1])
        s = problem.eps[k] / 2.0
        values, vectors = np.linalg.eigh(covariances[0])
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        inner, basis = np.linalg.eigh(root.T @ covariances[1] @ root)
        gain = 2.0 / (np.sqrt(4.0 * np.maximum(inner, 0.0) + s * s) + s)
        factor = root @ basis  # S = factor diag(gain) factor^T
        y_ = centred[1]
        g = (y_ * y_).sum(1) - ((y_ @ factor) ** 2) @ gain + 2.0 * (y_ @ (means[1] - means[0]))
        G[k] += g / problem.eps[k]
    return G
