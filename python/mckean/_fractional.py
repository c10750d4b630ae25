"""Closed-form weights of fractional Brownian motion as a sum of Ornstein-Uhlenbeck processes.

R. Daems, M. Opper, G. Crevecoeur, T. Birdal, "Variational inference for SDEs driven by fractional noise" (2024),
arXiv:2310.12975; with the driving path itself as one more term.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["fractional_weights", "unit_variance"]


def unit_variance(hurst: float, kind: str) -> float:
    """Variance at time 1 of the process the weights approximate."""
    if kind == "II":
        return 1.0 / (2.0 * hurst * math.gamma(hurst + 0.5) ** 2)
    return 1.0 / (math.gamma(2.0 * hurst + 1.0) * math.sin(math.pi * hurst))


def _gamma_p(a: float, x: float) -> float:
    """Regularised lower incomplete gamma function, by its series or its continued fraction."""
    if x <= 0.0:
        return 0.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a + 1.0))
    if x < a + 1.0:
        term = total = 1.0
        k = 0
        while abs(term) > 1e-17 * total:
            k += 1
            term *= x / (a + k)
            total += term
        return front * total
    return 1.0 - math.exp(-x) * _scaled_gamma_q(a, x)


def _scaled_gamma_q(a: float, x: float) -> float:
    """exp(x) Q(a, x), Q the regularised upper incomplete gamma function; no overflow for large x."""
    if x < a + 1.0:
        return math.exp(x) * (1.0 - _gamma_p(a, x))
    # Legendre's continued fraction, evaluated by the modified Lentz algorithm.
    tiny = 1e-300
    b = x + 1.0 - a
    c, d = 1.0 / tiny, 1.0 / b
    h = d
    for i in range(1, 500):
        an = -i * (i - a)
        b += 2.0
        d = 1.0 / (an * d + b or tiny)
        c = b + an / c or tiny
        h *= d * c
        if abs(d * c - 1.0) < 1e-16:
            break
    return math.exp(a * math.log(x) - math.lgamma(a)) * h


def fractional_weights(
    hurst: float, length: float, rates: np.ndarray[Any, Any], kind: str
) -> tuple[np.ndarray[Any, Any], float]:
    """Weights of the driving path (``rates[0] == 0``) and of the processes, and the relative error."""
    a, T = hurst + 0.5, length
    g = rates[1:]
    n = len(rates)
    A = np.empty((n, n))
    b = np.empty(n)
    one_minus = -np.expm1(-g * T)
    A[0, 0] = T * T / 2.0
    A[0, 1:] = A[1:, 0] = (T - one_minus / g) / g
    b[0] = T ** (a + 1.0) / math.gamma(a + 2.0)
    sums = g[:, None] + g[None, :]
    if kind == "II":
        A[1:, 1:] = (T + np.expm1(-sums * T) / sums) / sums
        for k, rate in enumerate(g):
            x = rate * T
            b[k + 1] = T * rate**-a * _gamma_p(a, x) - a * rate ** -(a + 1.0) * _gamma_p(a + 1.0, x)
    else:
        decay = one_minus / g
        A[1:, 1:] = (2.0 * T - decay[:, None] - decay[None, :]) / sums
        for k, rate in enumerate(g):
            x = rate * T
            b[k + 1] = (
                2.0 * T * rate**-a
                + rate ** -(a + 1.0) * (math.exp(-x) - _scaled_gamma_q(a, x))
                - T**a / (rate * math.gamma(a + 1.0))
            )
    # Columns of very different size: balance them first, then cut at rounding.
    scale = 1.0 / np.sqrt(np.diag(A))
    weights = (
        scale * np.linalg.lstsq(A * scale[:, None] * scale[None, :], b * scale, rcond=1e-15)[0]
    )
    whole = T ** (2.0 * hurst + 1.0) / (2.0 * hurst + 1.0) * unit_variance(hurst, kind)
    left = whole - 2.0 * float(weights @ b) + float(weights @ A @ weights)
    return weights, math.sqrt(max(left, 0.0) / whole)
