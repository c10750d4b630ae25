"""Log densities and gradients of the built-in targets in float64 NumPy, from the formulas."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp


def gaussian(x, mean, cov):
    solved = np.linalg.solve(cov, (x - mean).T).T
    log_det = np.linalg.slogdet(2 * np.pi * cov)[1]
    return -0.5 * ((x - mean) * solved).sum(axis=1) - 0.5 * log_det, -solved


def mixture(x, means, weights, covs):
    parts = [gaussian(x, m, c) for m, c in zip(means, covs, strict=True)]
    logs = np.array([np.log(w) + p[0] for w, p in zip(weights, parts, strict=True)])
    value = logsumexp(logs, axis=0)
    shares = np.exp(logs - value)
    return value, sum(s[:, None] * p[1] for s, p in zip(shares, parts, strict=True))


def funnel(x, scale):
    x0, rest = x[:, 0], x[:, 1:]
    d = x.shape[1]
    squares = (rest**2).sum(axis=1)
    value = -(x0**2) / (2 * scale**2) - np.log(scale * np.sqrt(2 * np.pi))
    value = value + (-0.5 * np.exp(-x0) * squares - (d - 1) / 2 * (x0 + np.log(2 * np.pi)))
    g0 = -x0 / scale**2 + 0.5 * np.exp(-x0) * squares - (d - 1) / 2
    return value, np.column_stack([g0, -np.exp(-x0)[:, None] * rest])


def banana(x, b, scale):
    x0, x1, rest = x[:, 0], x[:, 1], x[:, 2:]
    u = x1 + b * x0**2 - scale**2 * b
    value = -(x0**2) / (2 * scale**2) - u**2 / 2 - (rest**2).sum(axis=1) / 2
    value = value - np.log(scale) - x.shape[1] / 2 * np.log(2 * np.pi)
    return value, np.column_stack([-x0 / scale**2 - 2 * b * x0 * u, -u, -rest])


def logistic(theta, X, y, scale):
    z = theta @ X.T
    scale = np.broadcast_to(scale, theta.shape[1])
    value = (y * z - np.logaddexp(0, z)).sum(axis=1)
    value = value - (theta**2 / (2 * scale**2) + np.log(scale * np.sqrt(2 * np.pi))).sum(axis=1)
    return value, (y - expit(z)) @ X - theta / scale**2
