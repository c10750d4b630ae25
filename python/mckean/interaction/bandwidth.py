"""Rules for the length scale of a kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import as_input, check_finite, to_numpy
from mckean._errors import as_count, as_seed, one_of
from mckean.interaction import _sums
from mckean.interaction._permutation import rows, subset
from mckean.interaction._samples import at_least

__all__ = ["median_bandwidth"]

_STREAM = 0x6D656469616E  # of mk.random


def median_bandwidth(
    x: Any, *, max_points: int = 20_000, seed: Any = 0, rule: str = "median"
) -> Any:
    """Return a length scale for kernels from the data, by default the median distance of two points.

    With med the median over i < j of ``|x_i - x_j|`` and sigma_a the standard deviation (ddof 1) of coordinate a:

    ===============  =========================================================================
    rule             bandwidth l
    ===============  =========================================================================
    ``"median"``     med
    ``"svgd"``       ``med / sqrt(2 log n)``: ``exp(-|x - y|^2 / h)``, ``h = med^2 / log n``
    ``"svgd1"``      ``med / sqrt(2 log(n + 1))``
    ``"scott"``      ``n^(-1/(d + 4)) sigma_a``, one per dimension
    ``"silverman"``  that of Scott times ``(4 / (d + 2))^(1/(d + 4))``
    ===============  =========================================================================

    The median is exact, in O(n^2 d) time and O(n) memory. If it is 0, because more than half of the pairs coincide, the
    mean of the distances that are not 0 takes its place.

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        At least 2 points.
    max_points : int, optional
        Of more points than this, a random subset of this size gives the median.
    seed : int or numpy.random.SeedSequence, optional
        Of the subset.
    rule : {"median", "svgd", "svgd1", "scott", "silverman"}, optional

    Returns
    -------
    float, or array, shape (d,)
        A float; for ``"scott"`` and ``"silverman"`` an array of the framework, dtype and device of `x`. Deterministic.

    Raises
    ------
    TypeError, ValueError
        If `x` is not a finite array of at least 2 points, or all points (for Scott and Silverman, all values of a
        coordinate) are equal.

    References
    ----------
    .. [1] Q. Liu, D. Wang, "Stein variational gradient descent", NeurIPS 2016, arXiv:1608.04471
    .. [2] D. Scott, "Multivariate density estimation", Wiley, 1992
    .. [3] B. Silverman, "Density estimation for statistics and data analysis", Chapman and Hall, 1986

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.median_bandwidth(np.array([[0.0], [1.0], [3.0]]))
    2.0
    """
    at = as_input(x, "x", shape=("n", "d"))
    check_finite(at, "x")
    max_points = as_count(max_points, "max_points", least=2)
    as_seed(seed)
    one_of(rule, "rule", ("median", "svgd", "svgd1", "scott", "silverman"))
    n, d = at.shape
    at_least(n, 2, "x")
    if rule in ("scott", "silverman"):
        sigma = np.std(to_numpy(at.array), axis=0, ddof=1, dtype=np.float64)
        if not (sigma > 0).all():
            raise ValueError(
                f"x: expected points that differ, coordinate {sigma.argmin()} has one value"
            )
        factor = n ** (-1.0 / (d + 4))
        if rule == "silverman":
            factor *= (4.0 / (d + 2)) ** (1.0 / (d + 4))
        return at.framework.asarray((factor * sigma).astype(at.dtype), at.device)
    points = at.array
    if n > max_points:
        points = rows(at.array, subset(seed, n, max_points, stream=_STREAM))
    median = _sums.pair_median(points) or _mean_nonzero(points)
    if rule == "median":
        return median
    return median / math.sqrt(2.0 * math.log(n if rule == "svgd" else n + 1))


def _mean_nonzero(points: Any) -> float:
    """The mean of the pairwise distances that are not 0; pairs at 0 are counted by equal rows."""
    host = to_numpy(points)
    n = len(host)
    _, counts = np.unique(host, axis=0, return_counts=True)
    apart = n * n - int((counts.astype(np.int64) ** 2).sum())
    total = -float(
        to_numpy(_sums.kernel_sum(kernels.Energy(), points, points)).sum(dtype=np.float64)
    )
    if apart == 0 or total == 0.0:
        raise ValueError("x: expected points that differ, all of them are equal")
    return total / apart
