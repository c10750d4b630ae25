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
        Dimension d of the space, at least 1.
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
    return constant(as_count(dim, "dim", least=1), as_riesz(r))


def as_riesz(r: Any) -> float:
    """Return the exponent of a Riesz kernel as a float in (0, 2)."""
    number = as_real(r, "r")
    if not 0.0 < number < 2.0:
        raise ValueError(f"r: expected a number in (0, 2), got {number}")
    return number


def as_power(p: Any) -> float:
    """Return the order of a Wasserstein distance as a float of at least 1."""
    number = as_real(p, "p")
    if number < 1.0:
        raise ValueError(f"p: expected a number of at least 1, got {number}")
    return number


@functools.lru_cache(maxsize=256)
def constant(dim: int, r: float) -> float:
    if dim == 1:
        return 1.0
    lg = math.lgamma
    return math.sqrt(math.pi) * math.exp(lg((dim + r) / 2) - lg(dim / 2) - lg((r + 1) / 2))
