"""Exponents, and the factor between a distance in space and the mean of its projections on lines."""

from __future__ import annotations

import functools
import math
from typing import Any

from mckean._errors import as_count, as_real

__all__ = ["as_power", "as_riesz", "constant", "slicing_constant"]


def slicing_constant(dim: int, r: float = 1.0) -> float:
    """Return c with ``|v|^r = c E |<xi, v>|^r`` for a direction xi uniform on the sphere.

    ``c = sqrt(pi) Gamma((d + r)/2) / (Gamma(d/2) Gamma((r + 1)/2))``: 1 in one dimension, ``pi/2`` in two for r = 1,
    about ``sqrt(pi d / 2)`` in many.

    Parameters
    ----------
    dim : int
        Dimension d of the space, at least 1 and below 2**60.
    r : float, optional
        In (0, 2).

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    References
    ----------
    .. [1] J. Hertrich, C. Wald, F. Altekrüger, P. Hagemann, "Generative sliced MMD flows with Riesz kernels", ICLR
       2024, arXiv:2305.11463

    Examples
    --------
    >>> import mckean as mk
    >>> round(mk.sliced.slicing_constant(3), 12)
    2.0
    """
    return constant(as_count(dim, "dim", least=1, below=1 << 60), as_riesz(r))


def as_riesz(r: Any) -> float:
    """Return the exponent of a Riesz kernel as a float in (0, 2)."""
    number = as_real(r, "r")
    if not 0.0 < number < 2.0:
        raise ValueError(f"r: expected a number in (0, 2), got {number}")
    return number


def as_power(p: Any) -> float:
    """Return the order of a Wasserstein distance as a float from 1 to 64."""
    number = as_real(p, "p")
    # Beyond, powers of ordinary distances leave float64, and values would be 0.
    if not 1.0 <= number <= _MOST_POWER:
        raise ValueError(f"p: expected 1 <= p <= {_MOST_POWER}, got {number:g}")
    return number


_MOST_POWER = 64


@functools.lru_cache(maxsize=256)
def constant(dim: int, r: float) -> float:
    if dim == 1:
        return 1.0
    a = r / 2
    if dim >= 1000:
        # Gamma(z + a) / Gamma(z) in powers of 1 / w^2 (Tricomi, Erdelyi 1951; Fields 1966).
        w = dim / 2 + (a - 1) / 2
        half = (a + 1) / 2
        first = -a * (a - 1) / 2 * half / 6
        second = a * (a - 1) * (a - 2) * (a - 3) / 24 * half * (5 * half + 1) / 60
        ratio = math.pow(w, a) * (1 + first / w**2 + second / w**4)
        return math.sqrt(math.pi) / math.gamma(a + 0.5) * ratio
    lg = math.lgamma
    return math.sqrt(math.pi) * math.exp(lg((dim + r) / 2) - lg(dim / 2) - lg((r + 1) / 2))
