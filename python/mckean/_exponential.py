"""Functions of al = friction * step that stay accurate for small al: the weights of exact linear steps."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["ou_noise_weights"]

_Float = np.ndarray[Any, np.dtype[np.float64]]
_TERMS = 20


def _series(al: _Float, scale: float, shift: int, factor: Any) -> _Float:
    """Sum over k of (-1)^k scale factor(k) al^k / (k + shift)!, for al < 1."""
    total = np.zeros_like(al)
    for k in reversed(range(_TERMS)):
        factorial = float(np.prod(np.arange(1.0, k + shift + 1)))
        total = total * -al + scale * factor(k) / factorial
    return total


def ou_noise_weights(al: Any) -> tuple[_Float, _Float, _Float, _Float]:
    """Decay and W, H, K weights of ``int_0^h exp(-g (h - r)) dB_r``, with ``al = g h >= 0``.

    The best linear estimate of the integral from the increment W and the areas H, K of the step is
    ``w_W W + w_H H + w_K K`` [1]_.

    Parameters
    ----------
    al : array_like
        Rate times step, any shape.

    Returns
    -------
    decay, w_W, w_H, w_K : ndarray, shape of `al`, float64

    References
    ----------
    .. [1] J. Foster, T. Lyons, H. Oberhauser, "The shifted ODE method for underdamped Langevin MCMC" (2021),
       arXiv:2101.03446
    """
    al = np.asarray(al, np.float64)
    small = al < 1.0
    a = np.where(small, al, 0.0)  # each branch sees only arguments it is good for
    b = np.where(small, 1.0, al)
    decay = np.exp(-al)
    e = np.exp(-b)
    w = np.where(small, _series(a, 1.0, 1, lambda k: 1.0), (1.0 - e) / b)
    ch = _series(a, 6.0, 3, lambda k: k + 1.0) * a
    ch = np.where(small, ch, 6.0 * (e * (b + 2.0) + b - 2.0) / (b * b))
    ck = _series(a, 60.0, 4, lambda k: k * (k + 1.0)) * a
    closed = 60.0 * (e * (b * (b + 6.0) + 12.0) - b * (b - 6.0) - 12.0) / (b * b * b)
    ck = np.where(small, ck, closed)
    return decay, w, -ch, -ck
