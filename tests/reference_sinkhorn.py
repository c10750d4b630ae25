"""Entropic transport by dense log-domain iterations in float64, and closed forms."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def cost_of(x, y, p=2.0):
    x, y = np.asarray(x, float), np.asarray(y, float)
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1)) ** p


def solve(cost, a, b, eps, rho=(np.inf, np.inf), tol=1e-13, max_iter=200_000):
    """Potentials f, g with <a, f> = <b, g> where nothing is relaxed, and the plan."""
    cost, a, b = (np.asarray(v, float) for v in (cost, a, b))
    ta, tb = (1.0 / (1.0 + eps / r) for r in rho)
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(max_iter):
        new_f = -ta * eps * logsumexp((g - cost) / eps, b=b[None], axis=1)
        new_g = -tb * eps * logsumexp((new_f[:, None] - cost) / eps, b=a[:, None], axis=0)
        change = max(abs(new_f - f).max(), abs(new_g - g).max()) / eps
        f, g = new_f, new_g
        if change <= tol:
            break
    if np.isinf(rho).all():
        shift = 0.5 * (b @ g - a @ f)
        f, g = f + shift, g - shift
    return f, g, a[:, None] * b * np.exp((f[:, None] + g - cost) / eps)


def solve_symmetric(cost, a, eps, rho=np.inf, tol=1e-13):
    """The plan of a cloud with itself: the mean of a potential and of its half step, which converges fast."""
    f = np.zeros(len(a))
    for _ in range(10_000):
        new = 0.5 * (f - eps / (1.0 + eps / rho) * logsumexp((f - cost) / eps, b=a[None], axis=1))
        change = abs(new - f).max() / eps
        f = new
        if change <= tol:
            break
    return a[:, None] * a * np.exp((f[:, None] + f - cost) / eps)


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(p > 0, p * np.log(p / q), 0.0).sum() - p.sum() + q.sum())


def primal(plan, cost, a, b, eps, rho=(np.inf, np.inf)):
    """The value that is minimised; constraints count as met."""
    value = (plan * np.where(plan > 0, cost, 0.0)).sum() + eps * kl(plan, np.outer(a, b))
    for r, sums, w in zip(rho, (plan.sum(1), plan.sum(0)), (a, b), strict=True):
        value += r * kl(sums, np.asarray(w, float)) if np.isfinite(r) else 0.0
    return value


def gaussian_value(mean_a, cov_a, mean_b, cov_b, eps):
    """OT_eps of the squared distance between Gaussians: the closed form of Janati, Muzellec, Peyre, Cuturi (2020)."""
    a, b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    d, s = len(a), 0.5 * eps

    def root(m):
        w, v = np.linalg.eigh(m)
        return (v * np.sqrt(w)) @ v.T

    half = root(a)
    big = root(4 * half @ b @ half + s * s * np.eye(d))
    shift = np.sum((np.atleast_1d(mean_a) - np.atleast_1d(mean_b)) ** 2)
    trace = np.trace(a) + np.trace(b) - np.trace(big)
    return (
        shift + trace + d * s * (1 - np.log(2 * s)) + s * np.linalg.slogdet(big + s * np.eye(d))[1]
    )
