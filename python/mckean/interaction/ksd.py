"""The kernel Stein discrepancy of points to a density known up to its normalisation, and a test of fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import Input, as_match, check_finite
from mckean._errors import as_count, as_real
from mckean.interaction import _sums
from mckean.interaction._samples import at_least, host, points, scalars, unit_weights
from mckean.random import uniform

__all__ = ["KSDTest", "ksd", "ksd_test"]

_STREAM = 0x6B736474  # of mk.random
_COLUMNS = 64  # bootstrap replicates per pass over the pairs


def ksd(
    k: kernels.Kernel, x: Any, scores: Any, *, weights: Any = None, unbiased: bool = False
) -> Any:
    """Return the kernel Stein discrepancy in its squared form, ``(1/n^2) sum_ij k0(x_i, x_j)``.

    k0 is the Stein kernel of `k` and a density p, ::

        k0(x, y) = k s(x).s(y) + s(x).grad_y k + s(y).grad_x k + trace grad_x grad_y k,     s = grad log p

    This is what Liu, Lee and Jordan [1]_ call KSD: a mean of k0, with no square root taken, so that the unbiased form
    makes sense. (Gorham and Mackey [3]_ call its square root KSD: take ``math.sqrt`` of the default form, which is
    >= 0 for a positive definite kernel.) The KSD of the law p itself is 0; p is needed only up to a constant. O(n^2 d)
    time, O(n) memory.

    Parameters
    ----------
    k : Kernel
        With a Stein kernel: twice differentiable on the diagonal. `InverseMultiquadric` is the usual choice.
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    scores : array, shape of `x`
        grad log p at `x`.
    weights : array, shape (n,) or (batch, n), optional
        Weights w that sum to 1, for ``sum_ij w_i w_j k0(x_i, x_j)``.
    unbiased : bool, optional
        Leave out i = j and divide by n (n - 1) (U-statistic): unbiased for independent points, may be negative.

    Returns
    -------
    float, or array, shape (batch,)
        A float; for a batch an array of the framework, dtype and device of `x`. Summed in float64 also for float32
        input. Deterministic, not differentiable by the framework.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, values are not finite, the kernel has no Stein kernel, weights do
        not sum to 1 or are combined with ``unbiased=True``, or there is no point (two for the U-statistic).

    See Also
    --------
    ksd_test, mmd2

    References
    ----------
    .. [1] Q. Liu, J. Lee, M. Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests", ICML 2016,
       arXiv:1602.03253
    .. [2] K. Chwialkowski, H. Strathmann, A. Gretton, "A kernel test of goodness of fit", ICML 2016, arXiv:1602.02964
    .. [3] J. Gorham, L. Mackey, "Measuring sample quality with kernels", ICML 2017, arXiv:1703.01717

    Examples
    --------
    The score of a standard normal is ``-x``:

    >>> import mckean as mk
    >>> x = mk.random.normal(0, (1000, 2))
    >>> k = mk.kernels.InverseMultiquadric(1.0)
    >>> mk.ksd(k, x, -x) < 0.01 < 0.5 < mk.ksd(k, x + 1.0, -(x + 1.0))
    True
    """
    at, s = _points_and_scores(x, scores)
    n = at.shape[-2]
    at_least(n, 1 + bool(unbiased), "x")
    if weights is None:
        total = host(_sums.stein_sum(k, at.array, s.array, exclude_self=unbiased)).sum(axis=-1)
        value = total / n / (n - bool(unbiased))
    else:
        if unbiased:
            raise ValueError(
                "unbiased: expected False with weights (there is no unbiased form), got True"
            )
        carried, w = unit_weights(weights, "weights", at, "x")
        sums = host(_sums.stein_sum(k, at.array, s.array, weights=carried))
        value = (w * sums).sum(axis=-1) / w.sum(axis=-1) ** 2
    return scalars(value, at)


@dataclass(frozen=True, slots=True)
class KSDTest:
    """Result of `ksd_test`.

    Attributes
    ----------
    ksd : float
        The unbiased estimate (U-statistic) of the squared discrepancy.
    standard_error : float
        Of `ksd`, by the jackknife; for independent points whose law is not p (under p the U-statistic is degenerate,
        and the p-value is what to read).
    p_value : float
        Probability of so large a V-statistic if the points have law p, by the bootstrap.
    n_bootstrap : int
    """

    ksd: float
    standard_error: float
    p_value: float
    n_bootstrap: int


def ksd_test(
    k: kernels.Kernel,
    x: Any,
    scores: Any,
    *,
    n_bootstrap: int = 500,
    flip_probability: float = 0.5,
    seed: Any = 0,
) -> KSDTest:
    """Test whether points have the density p, by the kernel Stein discrepancy and the wild bootstrap.

    The statistic ``(1/n^2) sum_ij k0(x_i, x_j)`` is compared with ``(1/n^2) sum_ij e_i e_j k0(x_i, x_j)`` for random
    signs e: the p-value is ``(1 + number of replicates at least as large) / (1 + n_bootstrap)``. O(n_bootstrap n^2)
    time with 64 replicates in one pass over the pairs, O(n) memory.

    Parameters
    ----------
    k : Kernel
    x : array, shape (n, d), float32 or float64
        In time order, if they come from a chain.
    scores : array, shape (n, d)
        grad log p at `x`.
    n_bootstrap : int, optional
    flip_probability : float, optional
        In (0, 0.5]. Signs change from one point to the next with this probability: 0.5 is right for independent
        points, a smaller one (about 1 over the correlation time) for a chain.
    seed : int or numpy.random.SeedSequence, optional

    Returns
    -------
    KSDTest

    Raises
    ------
    TypeError, ValueError
        As `ksd`; at least 3 points are needed.

    References
    ----------
    .. [1] K. Chwialkowski, H. Strathmann, A. Gretton, "A kernel test of goodness of fit", ICML 2016, arXiv:1602.02964

    Examples
    --------
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (300, 1))
    >>> k = mk.kernels.InverseMultiquadric(1.0)
    >>> mk.interaction.ksd_test(k, x, -x).p_value > 0.05
    True
    >>> round(mk.interaction.ksd_test(k, x, -(x - 0.5)).p_value, 3)
    0.002
    """
    at, s = _points_and_scores(x, scores)
    if len(at.shape) != 2:
        raise ValueError(f"x: expected shape (n, d), got {at.shape}")
    n = at.shape[0]
    at_least(n, 3, "x")
    n_bootstrap = as_count(n_bootstrap, "n_bootstrap", least=1)
    flip = as_real(flip_probability, "flip_probability")
    if not 0.0 < flip <= 0.5:
        raise ValueError(f"flip_probability: expected a number in (0, 0.5], got {flip}")
    apart = host(_sums.stein_sum(k, at.array, s.array, exclude_self=True))
    value = float(apart.sum()) / n / (n - 1)
    means = apart / (n - 1)
    spread = 4.0 * (n - 1) / n / (n - 2) ** 2 * float(((means - means.mean()) ** 2).sum())
    # Diagonal terms are the same for every choice of signs, so sums over i != j are compared.
    statistic, larger = float(apart.sum()), 0
    for start in range(0, n_bootstrap, _COLUMNS):
        columns = min(_COLUMNS, n_bootstrap - start)
        u = uniform(seed, (n, columns), stream=_STREAM, counter=start)
        signs = np.where(u < flip, -1.0, 1.0)
        # The first row is a fair sign of each column; later rows say whether the sign changes.
        signs[0] = np.where(u[0] < 0.5, -1.0, 1.0)
        signs = np.cumprod(signs, axis=0)
        carried = at.framework.asarray(signs.astype(at.dtype), at.device)
        sums = host(_sums.stein_sum(k, at.array, s.array, weights=carried, exclude_self=True))
        larger += int(((signs * sums).sum(axis=0) >= statistic).sum())
    return KSDTest(value, math.sqrt(spread), (1 + larger) / (1 + n_bootstrap), n_bootstrap)


def _points_and_scores(x: Any, scores: Any) -> tuple[Input, Input]:
    at = points(x, "x")
    slopes = as_match(scores, "scores", at, "x")
    check_finite(slopes, "scores")
    return at, slopes
