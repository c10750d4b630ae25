"""Kernel density estimates in the log domain, and what becomes of them in large dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mckean import kernels, random
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import as_count, one_of, positive
from mckean.interaction import _sums
from mckean.interaction._permutation import rows
from mckean.interaction._samples import host
from mckean.interaction.bandwidth import median_bandwidth

__all__ = [
    "CriticalBandwidths",
    "DensityDiagnostics",
    "KernelDensity",
    "critical_bandwidths",
    "kde",
]

_STREAM = 0x6B6465  # of mk.random
_KERNELS = ("gaussian", "laplace", "exponential", "matern32", "matern52", "cauchy")
_CONDENSED = 0.1  # participation above which a few training points make the density


def kde(x_train: Any, bandwidth: Any, kernel: str = "gaussian") -> KernelDensity:
    """Return the kernel density estimate of a sample.

    The density is ``(1/n) sum_i K((x - y_i) / h) / (c_d h^d)``, y_i the n training points; h^d is the product of the
    bandwidths if there is one per dimension. With ``r = |(x - y_i) / h|``:

    ================================  =================================  ==========================================
    kernel                            K                                  c_d
    ================================  =================================  ==========================================
    ``"gaussian"``                    exp(-r^2 / 2)                      (2 pi)^(d/2)
    ``"laplace"``, ``"exponential"``  exp(-r)                            S_d Gamma(d)
    ``"matern32"``, a = sqrt(3)       (1 + a r) exp(-a r)                S_d Gamma(d) (1 + d) / a^d
    ``"matern52"``, a = sqrt(5)       (1 + a r + a^2 r^2 / 3) exp(-a r)  S_d Gamma(d) (1 + d + d (d + 1) / 3) / a^d
    ``"cauchy"``                      (1 + r^2)^(-(d + 1) / 2)           pi^((d + 1) / 2) / Gamma((d + 1) / 2)
    ================================  =================================  ==========================================

    where ``S_d = 2 pi^(d/2) / Gamma(d/2)``. Each is normalised in every dimension.

    Parameters
    ----------
    x_train : array, shape (n, d), float32 or float64
        At least 1 point.
    bandwidth : float, array of shape (d,), "scott" or "silverman"
        h > 0, or a rule of `median_bandwidth`.
    kernel : str, optional

    Returns
    -------
    KernelDensity

    Raises
    ------
    TypeError, ValueError
        If `x_train` is not a finite array of at least 1 point, or the bandwidth or the kernel is none.

    See Also
    --------
    median_bandwidth, critical_bandwidths

    Examples
    --------
    >>> import mckean as mk
    >>> density = mk.kde(mk.random.normal(0, (2000, 1)), 0.3)
    >>> x = mk.random.normal(1, (3, 1))
    >>> density.log_density(x).shape
    (3,)
    """
    return KernelDensity(x_train, bandwidth, kernel)


@dataclass(frozen=True, slots=True)
class DensityDiagnostics:
    """How many training points make the density at each query point.

    With w_i the share of training point i in the density at a query point:

    Attributes
    ----------
    participation : array, shape (n,)
        ``sum_i w_i^2``: 1 over the number of training points that count. 1 means one of them is everything.
    max_weight : array, shape (n,)
        ``max_i w_i``.
    condensed_fraction : float
        Fraction of query points with participation above 0.1.
    tail_index : float or None
        ``t_c h^2`` of `critical_bandwidths`, with h in units of each coordinate's standard deviation (the geometric
        mean): below 1 the density is made by extreme values, between 1 and 2 it is a heavy-tailed sum, above 2 the
        central limit theorem holds. The theory is for Gaussian data and the Gaussian kernel (otherwise None).
    regime : str or None
        "condensed", "heavy-tailed" or "central-limit", by `tail_index`.
    """

    participation: Any
    max_weight: Any
    condensed_fraction: float
    tail_index: float | None
    regime: str | None


class KernelDensity:
    """A kernel density estimate; made by `kde`, which has the formulas.

    Attributes
    ----------
    dim : int
    n_train : int
    bandwidth : float or numpy array, shape (d,)
    kernel : str
    """

    def __init__(self, x_train: Any, bandwidth: Any, kernel: str = "gaussian") -> None:
        self._train = as_input(x_train, "x_train", shape=("n", "d"))
        check_finite(self._train, "x_train")
        self.n_train, self.dim = self._train.shape
        if self.n_train < 1 or self.dim < 1:
            raise ValueError(
                f"x_train: expected at least 1 point and 1 dimension, got {self._train.shape}"
            )
        self.kernel = one_of(kernel, "kernel", _KERNELS)
        if isinstance(bandwidth, str):
            rule = one_of(bandwidth, "bandwidth", ("scott", "silverman"))
            bandwidth = to_numpy(median_bandwidth(self._train.array, rule=rule))
        elif getattr(bandwidth, "ndim", 0):
            bandwidth = to_numpy(bandwidth)
        self.bandwidth = kernels.Gaussian(bandwidth).bandwidth
        if not isinstance(self.bandwidth, float) and self.bandwidth.shape != (self.dim,):
            raise ValueError(
                f"bandwidth: expected a number or shape ({self.dim},) to match x_train "
                f"{self._train.shape}, got {self.bandwidth.shape}"
            )
        self._log_volume = float(
            np.log(np.broadcast_to(self.bandwidth, (self.dim,))).sum()
        ) + _log_mass(self.kernel, self.dim)

    def log_density(self, x: Any) -> Any:
        """Return the log density at `x`.

        O(n n_train d) time and O(n + n_train) memory; never underflows for want of the log domain.

        Parameters
        ----------
        x : array, shape (n, d)
            Of the framework and dtype of the training points.

        Returns
        -------
        array, shape (n,)
            Of the framework, dtype and device of `x`. Deterministic, not differentiable by the framework.

        Raises
        ------
        TypeError, ValueError
            If `x` does not match the training points or is not finite.
        """
        x = self._queries(x).array
        total = _sums.kernel_logsumexp(self._power(1), x, self._train.array)
        return total - (math.log(self.n_train) + self._log_volume)

    def log_density_leave_one_out(self) -> Any:
        """Return the log density at every training point, estimated from the others, shape (n_train,).

        Its mean is the leave-one-out log likelihood, a criterion for the bandwidth.

        Raises
        ------
        ValueError
            If there is only one training point.
        """
        self._at_least_two()
        x = self._train.array
        total = _sums.kernel_logsumexp(self._power(1), x, x, exclude_self=True)
        return total - (math.log(self.n_train - 1) + self._log_volume)

    def sample(self, n: int, seed: Any = 0) -> Any:
        """Draw `n` independent points from the estimate; Gaussian kernel only.

        Parameters
        ----------
        n : int
        seed : int or numpy.random.SeedSequence
            The draws are a pure function of it.

        Returns
        -------
        array, shape (n, d)
            Of the framework, dtype and device of the training points.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or range, or the kernel is not the Gaussian one.
        """
        if self.kernel != "gaussian":
            raise ValueError(f"kernel: expected 'gaussian' to draw samples, got {self.kernel!r}")
        n = as_count(n, "n")
        train = self._train
        u = random.uniform(seed, n, stream=_STREAM)
        chosen = np.minimum((u * self.n_train).astype(np.int64), self.n_train - 1)
        noise = self.bandwidth * random.normal(seed, (n, self.dim), stream=_STREAM + 1)
        return rows(train.array, chosen) + train.framework.asarray(
            noise.astype(train.dtype), train.device
        )

    def diagnostics(self, x: Any = None) -> DensityDiagnostics:
        """Return how many training points make the density at `x`.

        In d dimensions the estimate from n = exp(alpha d) points is, as the bandwidth falls, first a sum that obeys the
        central limit theorem, then a heavy-tailed one, and at last the nearest training points alone; see
        `critical_bandwidths`. The weights of the training points are never stored: the sum of their squares is that of
        the kernel squared, and the largest belongs to the nearest point. Relative errors are those of a difference of
        log densities: their size times the precision of the dtype.

        Parameters
        ----------
        x : array, shape (n, d), optional
            By default the training points, each against the others.

        Returns
        -------
        DensityDiagnostics

        Raises
        ------
        TypeError, ValueError
            As `log_density`; and for the Matern kernels, whose squares are no kernels here.

        References
        ----------
        .. [1] G. Biroli, M. Mézard, "Kernel density estimators in large dimensions", 2024, arXiv:2408.05807

        Examples
        --------
        >>> import mckean as mk
        >>> train, x = mk.random.normal(0, (2000, 20)), mk.random.normal(1, (100, 20))
        >>> for h in (0.4, 2.0):
        ...     found = mk.kde(train, h).diagnostics(x)
        ...     print(found.regime, found.condensed_fraction > 0.9, found.condensed_fraction < 0.1)
        condensed True False
        central-limit False True
        """
        alone = x is None
        if alone:
            self._at_least_two()
        at = self._train if alone else self._queries(x)
        train, framework = self._train.array, at.framework
        single = host(_sums.kernel_logsumexp(self._power(1), at.array, train, exclude_self=alone))
        double = host(_sums.kernel_logsumexp(self._power(2), at.array, train, exclude_self=alone))
        one = isinstance(self.bandwidth, float)
        near = _sums.pair_argmin(
            at.array, train, exclude_self=alone, bandwidth=None if one else self.bandwidth
        )
        nearest = host(near[1])[:, 0] / (self.bandwidth if one else 1.0)
        # Rounding can lift a share that is all but 1 above it.
        participation = np.minimum(np.exp(double - 2.0 * single), 1.0)
        largest = np.minimum(np.exp(_log_kernel(self.kernel, self.dim, nearest) - single), 1.0)
        index = self._tail_index()
        regime = None
        if index is not None:
            regime = "condensed" if index < 1 else "heavy-tailed" if index < 2 else "central-limit"
        return DensityDiagnostics(
            framework.asarray(participation.astype(at.dtype), at.device),
            framework.asarray(largest.astype(at.dtype), at.device),
            float((participation > _CONDENSED).mean()) if len(participation) else 0.0,
            index,
            regime,
        )

    def _power(self, power: int) -> kernels.Kernel:
        """K to the power 1 or 2 as a kernel."""
        h, name = self.bandwidth, self.kernel
        if name == "gaussian":
            return kernels.Gaussian(h / math.sqrt(power))
        if name in ("laplace", "exponential"):
            return kernels.Laplace(h / power)
        if name == "cauchy":
            exponent = power * (self.dim + 1) / 2.0
            return kernels.RationalQuadratic(h / math.sqrt(2.0 * exponent), exponent)
        if power != 1:
            raise ValueError(
                f"kernel: expected 'gaussian', 'laplace' or 'cauchy' for diagnostics, got {name!r}"
            )
        return kernels.Matern32(h) if name == "matern32" else kernels.Matern52(h)

    def _tail_index(self) -> float | None:
        if self.kernel != "gaussian" or self.n_train < 2:
            return None
        sigma = np.std(to_numpy(self._train.array), axis=0, ddof=1, dtype=np.float64)
        if not (sigma > 0).all():
            return None
        h = math.exp(float(np.log(self.bandwidth / sigma).mean()))
        return critical_bandwidths(math.log(self.n_train) / self.dim).t_c * h * h

    def _queries(self, x: Any) -> Input:
        at = as_match(x, "x", self._train, "x_train", shape=("n", self.dim))
        check_finite(at, "x")
        return at

    def _at_least_two(self) -> None:
        if self.n_train < 2:
            raise ValueError(
                f"x_train: expected at least 2 points to leave one out, got {self.n_train}"
            )

    def __repr__(self) -> str:
        return f"KernelDensity(n_train={self.n_train}, dim={self.dim}, kernel={self.kernel!r})"


class CriticalBandwidths(NamedTuple):
    """Bandwidths at which a kernel density estimate changes its nature; see `critical_bandwidths`."""

    t_c: float
    h_G: float
    h_CLT: float
    h_KL: float


def critical_bandwidths(alpha: float) -> CriticalBandwidths:
    """Return where kernel density estimates in large dimension change their nature.

    For n = exp(alpha d) standard normal points in d dimensions, d large, a Gaussian kernel of bandwidth h and a typical
    query point: below `h_G` a few nearest points make the estimate, between `h_G` and `h_CLT` it is a heavy-tailed sum
    (alpha-stable, of index ``t_c h^2`` in (1, 2)), above the central limit theorem holds. `h_KL` minimises the
    Kullback-Leibler divergence from the density to the estimate, and lies below `h_G`. ``t_c = 1 / h_G^2`` solves
    ``alpha = log(1 + t)/2 - t / (2 (1 + t)^2)``, ``h_CLT = sqrt(2) h_G`` and ``h_KL = sqrt(2 + t_c) / (1 + t_c)``.

    Parameters
    ----------
    alpha : float
        ``log(n) / d``, in (0, 300).

    Returns
    -------
    CriticalBandwidths
        A named tuple (t_c, h_G, h_CLT, h_KL), in units of the data's standard deviation.

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not a number in (0, 300).

    References
    ----------
    .. [1] G. Biroli, M. Mézard, "Kernel density estimators in large dimensions", 2024, arXiv:2408.05807

    Examples
    --------
    >>> import mckean as mk
    >>> found = mk.interaction.critical_bandwidths(0.2)
    >>> round(found.h_G, 3), round(found.h_CLT, 3), round(found.h_KL, 3)
    (1.046, 1.479, 0.892)
    """
    alpha = positive(alpha, "alpha")
    if alpha >= 300.0:
        raise ValueError(f"alpha: expected a number in (0, 300), got {alpha}")
    # The right side grows with t: bisect on a logarithmic scale to the last bit.
    low, high = -40.0, 2.0 * alpha + 2.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        t = math.exp(middle)
        if 0.5 * math.log1p(t) - 0.5 * (t / (1.0 + t)) / (1.0 + t) < alpha:
            low = middle
        else:
            high = middle
    t = math.exp(0.5 * (low + high))
    h = 1.0 / math.sqrt(t)
    return CriticalBandwidths(t, h, math.sqrt(2.0) * h, math.sqrt(2.0 + t) / (1.0 + t))


def _log_mass(kernel: str, d: int) -> float:
    """Return the log integral of K(|z|) over R^d."""
    if kernel == "gaussian":
        return 0.5 * d * math.log(2.0 * math.pi)
    if kernel == "cauchy":
        half = 0.5 * (d + 1)
        return half * math.log(math.pi) - math.lgamma(half)
    # In polar coordinates the integral of r^(d - 1 + j) exp(-a r) is Gamma(d + j) / a^(d + j).
    sphere = math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d) + math.lgamma(d)
    if kernel == "matern32":
        return sphere - 0.5 * d * math.log(3.0) + math.log(1.0 + d)
    if kernel == "matern52":
        return sphere - 0.5 * d * math.log(5.0) + math.log(1.0 + d + d * (d + 1) / 3.0)
    return sphere


def _log_kernel(kernel: str, d: int, r: Any) -> Any:
    """Return log K at the scaled distances `r`."""
    if kernel == "gaussian":
        return -0.5 * r * r
    if kernel == "cauchy":
        return -0.5 * (d + 1) * np.log1p(r * r)
    return -r
