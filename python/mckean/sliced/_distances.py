"""Sliced MMD, Wasserstein and Cramer distances. FIRST WORKING VERSION: NumPy, 2-D, no checks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import _dispatch
from mckean.sliced import _directions


def slicing_constant(d: int, r: float) -> float:
    lg = math.lgamma
    return math.sqrt(math.pi) * math.exp(lg((d + r) / 2) - lg(d / 2) - lg((r + 1) / 2))


class Target:
    """Points y prepared for many calls with the same directions (argument `y` of the sliced functions)."""

    def __init__(self, y, *, n_slices=100, r=1.0, directions="orthogonal", seed=0, weights=None):
        self.y, self.n_slices, self.r, self.directions, self.seed, self.weights = (
            y, n_slices, r, directions, seed, weights)


def _call(kind, exponent, x, y, n_slices, directions, seed, wx, wy, grad, constant, root=False):
    if isinstance(y, Target):
        n_slices, directions, seed, wy, y = y.n_slices, y.directions, y.seed, y.weights, y.y
    core = _dispatch.executor("cpu")
    d = x.shape[-1]
    xi = _directions.directions(d, n_slices, directions, seed=seed) if isinstance(directions, str) else directions
    xi = np.ascontiguousarray(xi, x.dtype)
    P = len(xi)
    values = np.empty((*x.shape[:-2], P))
    gradient = np.empty_like(x, order="C") if grad else None
    def weights(w):
        return None if w is None else np.ascontiguousarray(w / np.sum(w, -1, keepdims=True), np.float64)
    core.sliced(kind, exponent, np.ascontiguousarray(x), np.ascontiguousarray(y), xi, weights(wx), weights(wy), None,
                constant / P, root, values, gradient)
    return values.sum(axis=-1) / P, gradient


def sliced_mmd2(x, y, *, n_slices=100, r=1.0, directions="orthogonal", seed=0, x_weights=None, y_weights=None):
    c = slicing_constant(x.shape[-1], r)
    return float(c * _call(0, r, x, y, n_slices, directions, seed, x_weights, y_weights, False, c)[0])


def sliced_mmd2_grad(x, y, *, n_slices=100, r=1.0, directions="orthogonal", seed=0, x_weights=None, y_weights=None):
    c = slicing_constant(x.shape[-1], r)
    value, grad = _call(0, r, x, y, n_slices, directions, seed, x_weights, y_weights, True, c)
    return float(c * value), grad


def sliced_cramer(x, y, *, n_slices=100, directions="orthogonal", seed=0, x_weights=None, y_weights=None, return_grad=False):
    value, grad = _call(0, 1.0, x, y, n_slices, directions, seed, x_weights, y_weights, return_grad, 0.5)
    return (float(0.5 * value), grad) if return_grad else float(0.5 * value)


def sliced_wasserstein(x, y, *, p=2, n_slices=100, directions="orthogonal", seed=0, x_weights=None, y_weights=None, return_grad=False):
    value, grad = _call(1, float(p), x, y, n_slices, directions, seed, x_weights, y_weights, return_grad, 1.0, True)
    value = float(value) ** (1 / p)
    return (value, grad) if return_grad else value


def energy_distance(x, y, *, r=1.0, x_weights=None, y_weights=None, return_grad=False):
    import mckean as mk
    k = mk.kernels.Riesz(r)
    value = mk.mmd2(k, x, y, unbiased=False)
    return value
