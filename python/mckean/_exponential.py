"""Functions of al = friction * step that stay accurate for small al: the weights of exact linear steps.

Every closed form here cancels for small arguments (that of K loses every digit at al = 0.003), so below 1 the power
series is summed: 20 terms give full precision.

J. Foster, T. Lyons, H. Oberhauser, "The shifted ODE method for underdamped Langevin MCMC" (2021), arXiv:2101.03446.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "area2_weight",
    "area_weight",
    "half_area_weight",
    "mean_decay",
    "ou_noise_weights",
    "phi2",
]

_Float = np.ndarray[Any, np.dtype[np.float64]]
_TERMS = 20


def _piecewise(
    al: Any, coefficient: Callable[[int], float], closed: Callable[[_Float], _Float]
) -> _Float:
    """The power series with terms coefficient(k) (-al)^k below 1, the closed form above."""
    al = np.asarray(al, np.float64)
    small = al < 1.0
    a = np.where(small, al, 0.0)  # each branch sees only arguments it is good for
    total = np.zeros_like(a)
    for k in reversed(range(_TERMS)):
        total = coefficient(k) - a * total
    return np.where(small, total, closed(np.where(small, 1.0, al)))


def mean_decay(al: Any) -> _Float:
    """(1 - exp(-al)) / al."""
    return _piecewise(al, lambda k: 1.0 / math.factorial(k + 1), lambda b: -np.expm1(-b) / b)


def phi2(al: Any) -> _Float:
    """(exp(-al) + al - 1) / al^2."""
    return _piecewise(
        al, lambda k: 1.0 / math.factorial(k + 2), lambda b: (np.exp(-b) + b - 1.0) / b**2
    )


def area_weight(al: Any) -> _Float:
    """CH / h = 6 (exp(-al) (al + 2) + al - 2) / al^3: weight of H in the position noise of a step."""
    return _piecewise(
        al,
        lambda k: 6.0 * (k + 1) / math.factorial(k + 3),
        lambda b: 6.0 * (np.exp(-b) * (b + 2.0) + b - 2.0) / b**3,
    )


def area2_weight(al: Any) -> _Float:
    """CK / h = 60 (exp(-al) (al (al + 6) + 12) - al (al - 6) - 12) / al^4: weight of K."""
    return _piecewise(
        al,
        lambda k: 60.0 * k * (k + 1) / math.factorial(k + 4),
        lambda b: 60.0 * (np.exp(-b) * (b * (b + 6.0) + 12.0) - b * (b - 6.0) - 12.0) / b**4,
    )


def half_area_weight(al: Any) -> _Float:
    """CHh / h = 6 (exp(-al/2) (al + 2) + al^2/4 - 2) / al^3: weight of H in the position noise at half a step."""
    return _piecewise(
        al,
        lambda k: 6.0 * (k + 2) * 0.5 ** (k + 2) / math.factorial(k + 3),
        lambda b: 6.0 * (np.exp(-b / 2) * (b + 2.0) + b**2 / 4 - 2.0) / b**3,
    )


def ou_noise_weights(al: Any) -> tuple[_Float, _Float, _Float, _Float]:
    """Decay and W, H, K weights of ``int_0^h exp(-g (h - r)) dB_r``, with ``al = g h >= 0``, any shape.

    The best linear estimate of the integral from the increment W and the areas H, K of the step is
    ``w_W W + w_H H + w_K K``.
    """
    al = np.asarray(al, np.float64)
    return np.exp(-al), mean_decay(al), -al * area_weight(al), -al * area2_weight(al)
