"""Slow float64 NumPy twins, written from the formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np


def combine(coefficients, arrays):
    """sum_k c_k a_k, with per-particle coefficients along the first axis."""
    total = np.zeros(arrays[0].shape)
    for c, a in zip(coefficients, arrays, strict=True):
        c = np.asarray(c, np.float64)
        total += (c.reshape((-1,) + (1,) * (a.ndim - 1)) if c.ndim else c) * a
    return total


def chen(a, b):
    """(h, W, H, K) of two adjacent intervals joined."""
    p, wa, ha, ka = a
    q, wb, hb, kb = b
    h = p + q
    d = q * wa - p * wb
    ha, hb = p * ha, q * hb
    k = p * p * ka + q * q * kb + (q * ha - p * hb) / 2 + (q - p) / 12 * d
    return h, wa + wb, (ha + hb + d / 2) / h, k / h**2


class Path:
    """A Brownian path on a grid of 2^levels intervals of [0, t1], joined by Chen's relation."""

    def __init__(self, seed, shape, t1, levels):
        rng = np.random.default_rng(seed)
        h = t1 / 2**levels
        z = rng.standard_normal((3, 2**levels, *shape)) * np.sqrt(
            np.array([h, h / 12, h / 720]).reshape(3, 1, 1, 1)
        )
        self.t0, self.t1 = 0.0, t1
        self._levels = [(h, *z)]
        for _ in range(levels):
            h, w, hh, k = self._levels[-1]
            halves = [(h, w[i::2], hh[i::2], k[i::2]) for i in (0, 1)]
            self._levels.append(chen(*halves))

    def increment(self, s, t):
        for h, w, hh, k in self._levels:
            if abs((t - s) - h) < 1e-9 * h:
                i = round(s / h)
                return SimpleNamespace(dt=h, W=w[i], H=hh[i], K=k[i])
        raise AssertionError(f"no level has intervals of length {t - s}")


def underdamped_step(scheme, grad_f, x, v, h, c, u, W, H, K):
    """One step of a scheme in the literature's own variables; f = -log density. c > 0."""
    al, rho = c * h, math.sqrt(2 * c * u)

    def be(r):
        return math.exp(-r * al)

    def A(r):
        return (1 - be(r)) / c

    def B(r):
        return (be(r) + r * al - 1) / (c * al)

    ch = 6 * (math.exp(-al) * (al + 2) + al - 2) / (al**2 * c)
    ck = 60 * (math.exp(-al) * (al * (al + 6) + 12) - al * (al - 6) - 12) / (al**3 * c)
    chh = 6 * (math.exp(-al / 2) * (al + 2) + al**2 / 4 - 2) / (al**2 * c)
    if scheme == "ee":
        f0 = grad_f(x)
        x1 = x + A(1) * v - h * B(1) * u * f0 + rho * (B(1) * W + ch * H)
        return x1, be(1) * v - A(1) * u * f0 + rho * (A(1) / h * W - c * ch * H)
    if scheme == "baoab":
        v = v - h / 2 * u * grad_f(x)
        x = x + h / 2 * v
        v = be(1) * v + math.sqrt(u * (1 - math.exp(-2 * al))) * W / math.sqrt(h)
        x = x + h / 2 * v
        return x, v - h / 2 * u * grad_f(x)
    if scheme == "ubu":
        z = x + A(0.5) * v + rho * (B(0.5) * W + chh * H)
        F = u * h * grad_f(z)
        x1 = x + A(1) * v - A(0.5) * F + rho * (B(1) * W + ch * H)
        return x1, be(1) * v - be(0.5) * F + rho * (A(1) / h * W - c * ch * H)
    if scheme == "align":
        f0 = grad_f(x)
        x1 = x + A(1) * v - B(1) * u * h * f0 + rho * (B(1) * W + ch * H)
        f1 = grad_f(x1)
        noise = rho * (A(1) / h * W - c * ch * H)
        return x1, be(1) * v - u * ((A(1) - B(1)) * f0 + B(1) * f1) + noise
    vt = v + rho * (H + 6 * K)
    if scheme == "should":
        n, f0 = ch * H + ck * K, grad_f(x)
        x1 = x + A(0.5) * vt + B(0.5) * (-u * h * f0 + rho * (W - 12 * K))
        f1 = grad_f(x1)
        x2 = x + A(1) * v - u * h * B(1) * (f0 / 3 + 2 * f1 / 3) + rho * (B(1) * W + n)
        f2 = grad_f(x2)
        force = be(1) / 6 * f0 + 2 / 3 * be(0.5) * f1 + f2 / 6
        return x2, be(1) * v - u * h * force + rho * (A(1) / h * W - c * n)
    assert scheme == "quicsort"
    left, right = (3 - math.sqrt(3)) / 6, (3 + math.sqrt(3)) / 6
    w = rho * (W - 12 * K)
    F1 = u * h * grad_f(x + A(left) * vt + B(left) * w)
    F2 = u * h * grad_f(x + A(right) * vt + B(right) * w - A(1 / 3) * F1)
    x1 = x + A(1) * vt + B(1) * w - (A(right) * F1 + A(left) * F2) / 2
    v1 = be(1) * vt - (be(right) * F1 + be(left) * F2) / 2 + A(1) / h * w - rho * (H - 6 * K)
    return x1, v1


def stationary_covariance(M, Q):
    """P = M P M^T + Q."""
    n = len(M)
    return np.linalg.solve(np.eye(n * n) - np.kron(M, M), Q.ravel()).reshape(n, n)


def log_alpha(x, y, gx, gy, log_p, log_q, h):
    """Metropolis-Hastings ratio of the Langevin proposal, per particle."""
    forward = ((y - x - h * gx) ** 2).sum(axis=1)
    backward = ((x - y - h * gy) ** 2).sum(axis=1)
    return log_q - log_p - backward / (4 * h) + forward / (4 * h)
