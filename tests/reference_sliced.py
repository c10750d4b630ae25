"""Sliced distances by brute force in float64: every pair of points, every direction in turn."""

from __future__ import annotations

import math

import numpy as np


def weights(w, n):
    w = np.ones(n) if w is None else np.asarray(w, float)
    return w / w.sum()


def pair_mmd2(x, y, r=1.0, a=None, b=None):
    """Squared MMD of the kernel -|x - y|^r in any dimension, and its gradient in x; ties contribute 0."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    a, b = weights(a, len(x)), weights(b, len(y))

    def powers(p, q):
        delta = p[:, None] - q[None]
        length = np.sqrt((delta**2).sum(-1))
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(length > 0, r * length ** (r - 2), 0.0)
        return length**r, slope[..., None] * delta

    (xy, gxy), (xx, gxx), (yy, _) = powers(x, y), powers(x, x), powers(y, y)
    value = 2 * a @ xy @ b - a @ xx @ a - b @ yy @ b
    grad = np.einsum("j,ijk->ik", b, gxy) - np.einsum("j,ijk->ik", a, gxx)
    return value, 2 * a[:, None] * grad


def line_wasserstein(x, y, p=2.0, a=None, b=None):
    """W_p^p of points on a line and its derivative in x: mass is handed over in the order of both lists."""
    a, b = weights(a, len(x)), weights(b, len(y))
    order, other = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    value, grad = 0.0, np.zeros(len(x))
    i = j = 0
    left, right = a[order[0]], b[other[0]]
    while True:
        ends = i == len(x) - 1, j == len(y) - 1
        from_x = ends[1] or (not ends[0] and left <= right)
        mass = left if from_x else right
        gap = x[order[i]] - y[other[j]]
        value += mass * abs(gap) ** p
        if gap:
            grad[order[i]] += mass * p * abs(gap) ** (p - 1) * np.sign(gap)
        if from_x:
            right -= mass
            if ends[0]:
                return value, grad
            i += 1
            left = a[order[i]]
        else:
            left -= mass
            if ends[1]:
                return value, grad
            j += 1
            right = b[other[j]]


def constant(d, r):
    return (
        math.sqrt(math.pi) * math.gamma((d + r) / 2) / (math.gamma(d / 2) * math.gamma((r + 1) / 2))
    )


def sliced_mmd2(x, y, directions, r=1.0, a=None, b=None):
    """Value and gradient for given directions."""
    x, y, xi = (np.asarray(t, float) for t in (x, y, directions))
    parts = [pair_mmd2((x @ v)[:, None], (y @ v)[:, None], r, a, b) for v in xi]
    c = constant(x.shape[1], r)
    grad = np.mean([g * v for (_, g), v in zip(parts, xi, strict=True)], axis=0)
    return c * np.mean([v for v, _ in parts]), c * grad


def sliced_wasserstein(x, y, directions, p=2.0, a=None, b=None):
    """The root of the mean and its gradient for given directions."""
    x, y, xi = (np.asarray(t, float) for t in (x, y, directions))
    parts = [line_wasserstein(x @ v, y @ v, p, a, b) for v in xi]
    value = np.mean([v for v, _ in parts]) ** (1 / p)
    grad = np.mean([np.outer(g, v) for (_, g), v in zip(parts, xi, strict=True)], axis=0)
    return value, grad / (p * value ** (p - 1)) if value else 0 * x


def cramer(x, y, a=None, b=None):
    """The integral of (F - G)^2 for points on a line, interval by interval."""
    a, b = weights(a, len(x)), weights(b, len(y))
    z = np.unique(np.concatenate([x, y]))
    difference = [a[x <= t].sum() - b[y <= t].sum() for t in z[:-1]]
    return (np.diff(z) * np.square(difference)).sum()
