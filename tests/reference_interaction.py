"""Interaction sums by brute force in float64: every formula written out once more, with dense matrices."""

from __future__ import annotations

import numpy as np

from mckean import kernels as ks


def _term_parts(term, x, y, scores_x=None, scores_y=None):
    """k (n, m), gradient in x and in y (n, m, d) and, with scores, the Stein kernel (n, m) of one native term."""
    d = x.shape[1]
    delta = x[:, None, :] - y[None, :, :]
    c = term.coefficient
    if term.kind in ks.RADIAL:
        g = np.broadcast_to(np.asarray(term.scale, float), (d,))
        u = term.offset + (g * delta**2).sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            p0, p1, p2, _ = _psi(term, u)
        p1 = np.where(np.isfinite(p1), p1, 0.0)
        gx = 2 * (c * p1)[..., None] * g * delta
        stein = None
        if scores_x is not None:
            dots = scores_x @ scores_y.T
            diff = scores_x[:, None, :] - scores_y[None, :, :]
            cross = (diff * g * delta).sum(-1)
            curved = (g * g * delta**2).sum(-1)
            with np.errstate(invalid="ignore"):
                bend = np.where(curved == 0, 0.0, 4 * p2 * curved)
            stein = c * (p0 * dots - 2 * p1 * cross - 2 * p1 * g.sum() - bend)
        return c * p0, gx, -gx, stein
    if term.kind == ks.SINC:
        z = term.scale * delta
        factor = np.sinc(z / np.pi)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(
                np.abs(z) < 1e-2, -z / 3 + z**3 / 30 - z**5 / 840, (np.cos(z) - factor) / z
            )
        gx = np.empty_like(z)
        for a in range(d):
            gx[..., a] = term.scale * slope[..., a] * np.delete(factor, a, axis=-1).prod(-1)
        return c * factor.prod(-1), c * gx, -c * gx, None
    dot = x @ y.T
    u = term.offset + term.scale * dot
    if term.kind == ks.DOT:
        p0 = np.exp(u)
        p1, p2 = term.scale * p0, term.scale**2 * p0
    else:
        e = int(term.exponent)
        p0, p1 = u**e, term.scale * e * u ** (e - 1)
        p2 = term.scale**2 * e * (e - 1) * u ** max(e - 2, 0)
    gx = c * p1[..., None] * y[None, :, :]
    gy = c * p1[..., None] * x[:, None, :]
    stein = None
    if scores_x is not None:
        sx_x = (scores_x * x).sum(-1)[:, None]
        sy_y = (scores_y * y).sum(-1)[None, :]
        stein = c * (p0 * (scores_x @ scores_y.T) + p1 * (sx_x + sy_y) + p2 * dot + p1 * d)
    return c * p0, gx, gy, stein


def _psi(term, u):
    """psi and its first three derivatives in s = sum delta^2, without the metric: d/ds = scale * d/du."""
    kind = term.kind
    r = np.sqrt(u)
    if kind == ks.GAUSSIAN:
        k = np.exp(-u / 2)
        return k, -k / 2, k / 4, -k / 8
    if kind == ks.LAPLACE:
        k = np.exp(-r)
        return k, -k / (2 * r), k * (r + 1) / (4 * r**3), -k * (u + 3 * r + 3) / (8 * r**5)
    if kind == ks.MATERN32:
        a = np.sqrt(3.0)
        e = np.exp(-a * r)
        return (
            (1 + a * r) * e,
            -(a**2 / 2) * e,
            a**3 / (4 * r) * e,
            -(a**3 / (8 * r**3)) * (1 + a * r) * e,
        )
    if kind == ks.MATERN52:
        a = np.sqrt(5.0)
        e = np.exp(-a * r)
        return (
            (1 + a * r + a * a * u / 3) * e,
            -(a**2 / 6) * (1 + a * r) * e,
            a**4 / 12 * e,
            -(a**5 / (24 * r)) * e,
        )
    if kind == ks.LOG:
        return -np.log(u) / 2, -1 / (2 * u), 1 / (2 * u**2), -1 / u**3
    e = term.exponent
    return u**e, e * u ** (e - 1), e * (e - 1) * u ** (e - 2), e * (e - 1) * (e - 2) * u ** (e - 3)


def _parts(k, x, y, scores_x=None, scores_y=None):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    parts = [_term_parts(t, x, y, scores_x, scores_y) for t in k.terms(x.shape[1])]
    return [None if p[0] is None else sum(p[1:], p[0]) for p in zip(*parts, strict=True)]


def matrix(k, x, y):
    return _parts(k, x, y)[0]


def matrix_of_term(term, x, y):
    return _term_parts(term, np.asarray(x, np.float64), np.asarray(y, np.float64))[0]


def _mask(a, exclude_self, value=0.0):
    if exclude_self:
        a = a.copy()
        i = np.arange(min(a.shape[0], a.shape[1]))
        a[i, i] = value
    return a


def _weights(weights, m):
    return np.ones(m) if weights is None else np.asarray(weights, np.float64)


def kernel_sum(k, x, y, weights=None, *, exclude_self=False):
    return _mask(matrix(k, x, y), exclude_self) @ _weights(weights, len(y))


def kernel_grad(k, x, y, weights=None, *, exclude_self=False):
    gx = _mask(_parts(k, x, y)[1], exclude_self)
    return np.einsum("ijd,j->id", gx, _weights(weights, len(y)))


def kernel_grad_y(k, x, y, weights=None, *, exclude_self=False):
    gy = _mask(_parts(k, x, y)[2], exclude_self)
    return np.einsum("ijd,j->id", gy, _weights(weights, len(y)))


def kernel_sum_and_grad(k, x, y, weights=None, *, exclude_self=False):
    return (
        kernel_sum(k, x, y, weights, exclude_self=exclude_self),
        kernel_grad(k, x, y, weights, exclude_self=exclude_self),
    )


def log_matrix(k, x, y):
    """Without underflow for the exponential kinds."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    logs = []
    for t in k.terms(x.shape[1]):
        if t.kind == ks.DOT:
            logs.append(np.log(t.coefficient) + t.offset + t.scale * (x @ y.T))
            continue
        g = np.broadcast_to(np.asarray(t.scale, float), (x.shape[1],))
        u = t.offset + (g * (x[:, None, :] - y[None, :, :]) ** 2).sum(-1)
        r = np.sqrt(u)
        a3, a5 = np.sqrt(3.0), np.sqrt(5.0)
        if t.kind == ks.GAUSSIAN:
            log_k = -u / 2
        elif t.kind == ks.LAPLACE:
            log_k = -r
        elif t.kind == ks.MATERN32:
            log_k = np.log1p(a3 * r) - a3 * r
        elif t.kind == ks.MATERN52:
            log_k = np.log1p(a5 * r + 5 * u / 3) - a5 * r
        else:
            log_k = t.exponent * np.log(u)
        logs.append(np.log(t.coefficient) + log_k)
    return np.logaddexp.reduce(np.stack(logs), axis=0)


def _log_weighted(k, x, y, log_weights, exclude_self):
    lw = np.zeros(len(y)) if log_weights is None else np.asarray(log_weights, np.float64)
    return _mask(log_matrix(k, x, y) + lw, exclude_self, -np.inf)


def kernel_logsumexp(k, x, y, log_weights=None, *, exclude_self=False):
    a = _log_weighted(k, x, y, log_weights, exclude_self)
    if a.shape[1] == 0:
        return np.full(a.shape[0], -np.inf)
    top = a.max(1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return safe + np.log(np.exp(a - safe[:, None]).sum(1))


def kernel_mean(k, x, y, values=None, log_weights=None, *, exclude_self=False):
    a = _log_weighted(k, x, y, log_weights, exclude_self)
    p = np.exp(a - a.max(1, keepdims=True))
    values = np.asarray(y if values is None else values, np.float64)
    return (p / p.sum(1, keepdims=True)) @ values


def stein_matrix(k, x, scores, y=None, y_scores=None):
    x, scores = np.asarray(x, np.float64), np.asarray(scores, np.float64)
    y, y_scores = (
        (x, scores) if y is None else (np.asarray(y, np.float64), np.asarray(y_scores, np.float64))
    )
    return _parts(k, x, y, scores, y_scores)[3]


def stein_sum(k, x, scores, *, y=None, y_scores=None, weights=None, exclude_self=False):
    a = _mask(stein_matrix(k, x, scores, y, y_scores), exclude_self)
    return a @ _weights(weights, a.shape[1])


def pair_argmin(x, y, k=1, *, exclude_self=False):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    s = _mask(((x[:, None, :] - y[None, :, :]) ** 2).sum(-1), exclude_self, np.inf)
    index = np.argsort(s, axis=1, kind="stable")[:, :k]
    return index, np.sqrt(np.take_along_axis(s, index, 1))


def pair_median(x):
    x = np.asarray(x, np.float64)
    i, j = np.triu_indices(len(x), 1)
    return np.median(np.sqrt(((x[i] - x[j]) ** 2).sum(-1)))
