"""Spectral densities of symmetric matrices: the bulk, and what lies beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mckean._errors import as_count, as_seed, positive
from mckean.lowrank._lanczos import pairs_of
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._quadrature import quadrature

__all__ = [
    "ExtremalEigenvalues",
    "Outliers",
    "SpectralDensity",
    "extremal_eigenvalues",
    "spectral_density",
]

_WIDTH, _MARGIN, _GRID, _FINEST = 0.01, 5.0, 1000, 100_000
_CONVERGED = 1e-3  # residual of a Ritz value beside it
_BESIDE = 20  # eigenvalues that may lie beyond the bulk
_GAP = 1.5
_MOST = 50
_NEAR_ZERO = 1e-3


@dataclass(slots=True)
class Outliers:
    """Eigenvalues beside the bulk, by `SpectralDensity.outliers`.

    Attributes
    ----------
    values : numpy.ndarray
        Eigenvalues beyond the gap, falling in size; empty without a clear gap.
    n_outliers : int or None
        None: there is no clear gap.
    edge : float
        Size of the largest eigenvalues of the bulk.
    smallest : float
        The smallest eigenvalue seen.
    near_zero : float
        Fraction of eigenvalues below 1e-3 of the largest in size.
    ratio : float
        Of the largest eigenvalue in size to `edge`.
    """

    values: np.ndarray[Any, Any]
    n_outliers: int | None
    edge: float
    smallest: float
    near_zero: float
    ratio: float

    def __str__(self) -> str:
        if self.n_outliers is None:
            return f"no clear gap; the bulk ends at {self.edge:.3g}, the largest is {self.ratio:.3g} times that"
        shown = ", ".join(f"{v:.3g}" for v in self.values)
        return f"{self.n_outliers} outliers beyond {self.edge:.3g}: {shown}"


@dataclass(slots=True)
class SpectralDensity:
    """What `spectral_density` returns; all arrays are NumPy.

    Attributes
    ----------
    grid, density, stderr : numpy.ndarray, shape (g,)
        The density of eigenvalues, which integrates to 1, and its standard error over the probes
        (NaN for a single probe).
    nodes, weights, residuals : numpy.ndarray, shape (n,)
        Ritz values of all probes, weights that sum to 1, and how far an eigenvalue may be.
    probe : numpy.ndarray, shape (n,)
        Which probe each node is of.
    width : float
        Standard deviation of the Gaussian every node is drawn as.
    d, n_matvecs : int
    """

    grid: np.ndarray[Any, Any]
    density: np.ndarray[Any, Any]
    stderr: np.ndarray[Any, Any]
    nodes: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    residuals: np.ndarray[Any, Any]
    probe: np.ndarray[Any, Any]
    width: float
    d: int
    n_matvecs: int

    def outliers(self) -> Outliers:
        """Separate the eigenvalues beside the bulk.

        The bulk ends where 20 eigenvalues are larger in size, by the weights. Of the converged Ritz
        values of the first probe, those 1.5 times larger are candidates, at most 50; they end at
        the widest gap, which must be a factor of 1.5 too.

        Returns
        -------
        Outliers
        """
        size = np.abs(self.nodes)
        order = np.argsort(size, kind="stable")
        below = np.cumsum(self.weights[order])
        level = max(1.0 - _BESIDE / self.d, 0.5)
        edge = float(size[order[min(int(np.searchsorted(below, level)), len(size) - 1)]])
        top = float(size.max())
        mine = (self.probe == 0) & (self.residuals <= _CONVERGED * size)
        known = self.nodes[mine]
        known = known[np.argsort(-np.abs(known), kind="stable")]
        count = min(int((np.abs(known) > _GAP * edge).sum()), _MOST)
        found: int | None = None
        if count:
            sizes = np.abs(known[: count + 1])
            if len(sizes) == count:
                sizes = np.append(sizes, edge)
            steps = sizes[:-1] / np.maximum(sizes[1:], np.finfo(float).tiny)
            widest = int(np.argmax(steps))
            if steps[widest] > _GAP:
                found = widest + 1
        return Outliers(
            known[: found or 0],
            found,
            edge,
            float(self.nodes.min()),
            float(self.weights[size < _NEAR_ZERO * top].sum()) if top else 1.0,
            top / edge if edge else math.inf if top else 1.0,
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw it with `mckean.plot.spectral_density`; returns the axes."""
        from mckean import plot

        return plot.spectral_density(self, ax)


def spectral_density(
    matvec: Any,
    d: int,
    *,
    n_probes: int = 10,
    n_steps: int = 80,
    seed: Any = 0,
    width: float | None = None,
    grid: Any = None,
    check: bool = True,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> SpectralDensity:
    """Estimate the density of the eigenvalues of a symmetric matrix by stochastic Lanczos quadrature.

    Every probe is one run of Lanczos' method with full reorthogonalisation. Its Ritz values become
    Gaussians whose weights are the squared first components of the eigenvectors [1]_ [2]_.

    Parameters
    ----------
    matvec, d, check, fd, like, dtype, device
        As of `lanczos`.
    n_probes, n_steps : int
        Products: at most ``n_probes * n_steps``, and one for `check`.
    seed : int or numpy.random.SeedSequence
    width : float, optional
        Standard deviation of the Gaussians; default 0.01 of the range of Ritz values.
    grid : int or array (g,), optional
        Points, by default 1000 or more over the range and five widths beyond.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    ValueError, TypeError
        For wrong arguments or a matrix that is not symmetric.
    FloatingPointError
        If a product is not finite; the message says which one.

    See Also
    --------
    lanczos, extremal_eigenvalues, mckean.plot.spectral_density

    References
    ----------
    .. [1] G. H. Golub, C. F. Van Loan, "Matrix Computations", chapter 10
    .. [2] S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
       quadrature", SIAM J. Matrix Anal. Appl. 38, 2017, doi:10.1137/16M1104974

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.concatenate([np.linspace(0, 1, 997), [10, 8, 6]])
    >>> density = mk.lowrank.spectral_density(lambda v: a * v, 1000)
    >>> print(density.outliers())
    3 outliers beyond 0.98...: 10, 8, 6
    """
    A = Matvec(matvec, d, like=like, dtype=dtype, device=device, fd=fd)
    n_probes = as_count(n_probes, "n_probes", least=1)
    n_steps = as_count(n_steps, "n_steps", least=1)
    width = None if width is None else positive(width, "width")
    points = _points(grid)
    runs = quadrature(A, n_probes, n_steps, as_seed(seed), check)
    nodes = np.concatenate([run.theta for run in runs])
    weights = np.concatenate([run.tau for run in runs]) / n_probes
    low, high = float(nodes.min()), float(nodes.max())
    if width is None:
        # Ritz values of one eigenvalue differ by rounding only.
        spread = high - low
        largest = max(abs(low), abs(high))
        width = _WIDTH * (spread if spread > 1e3 * A.eps * largest else largest or 1.0)
    if isinstance(points, int):
        span = high - low + 2 * _MARGIN * width
        points = points or min(max(_GRID, math.ceil(4 * span / width)), _FINEST)
        points = np.linspace(low - _MARGIN * width, high + _MARGIN * width, points)
    curves = np.stack([_gaussians(points, run.theta, run.tau, width) for run in runs])
    error = (
        curves.std(0, ddof=1) / math.sqrt(n_probes)
        if n_probes > 1
        else np.full(len(points), math.nan)
    )
    return SpectralDensity(
        points,
        curves.mean(0),
        error,
        nodes,
        weights,
        np.concatenate([run.residuals for run in runs]),
        np.repeat(np.arange(n_probes), [len(run.theta) for run in runs]),
        width,
        A.d,
        A.calls,
    )


def _points(grid: Any) -> Any:
    """The grid itself, its number of points, or 0."""
    if grid is None:
        return 0
    if np.ndim(grid) == 0:
        return as_count(grid, "grid", least=2)
    points = np.array(grid, np.float64)
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError(f"grid: expected finite numbers of shape (g,), got shape {points.shape}")
    return points


def _gaussians(points: Any, theta: Any, tau: Any, width: float) -> Any:
    out = np.zeros(len(points))
    for at, weight in zip(theta, tau, strict=True):
        out += weight * np.exp(-0.5 * ((points - at) / width) ** 2)
    return out / (width * math.sqrt(2 * math.pi))


class ExtremalEigenvalues(NamedTuple):
    """What `extremal_eigenvalues` returns; unpacks as (smallest, largest, ...)."""

    smallest: float
    largest: float
    residuals: tuple[float, float]
    converged: bool
    n_matvecs: int


def extremal_eigenvalues(
    matvec: Any,
    d: int,
    *,
    seed: Any = 0,
    tol: float | None = None,
    max_iter: int | None = None,
    check: bool = True,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> ExtremalEigenvalues:
    """The smallest and the largest eigenvalue of a symmetric matrix, by one run of Lanczos' method.

    Parameters
    ----------
    matvec, d, seed, tol, max_iter, check, fd, like, dtype, device
        As of `lanczos`.

    Returns
    -------
    ExtremalEigenvalues
        (smallest, largest, residuals, converged, n_matvecs)

    Raises
    ------
    ValueError, TypeError, FloatingPointError
        As `lanczos`.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` products were not enough.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.linspace(-1, 3, 500)
    >>> low, high, *_ = mk.lowrank.extremal_eigenvalues(lambda v: a * v, 500)
    >>> round(low, 6), round(high, 6)
    (-1.0, 3.0)
    """
    A = Matvec(matvec, d, like=like, dtype=dtype, device=device, fd=fd)
    count = min(2, A.d)
    pairs = pairs_of(A, count, as_seed(seed), "BE", tol, max_iter, check=check)
    low, high = int(np.argmin(pairs.theta)), int(np.argmax(pairs.theta))
    return ExtremalEigenvalues(
        float(pairs.theta[low]),
        float(pairs.theta[high]),
        (float(pairs.residuals[low]), float(pairs.residuals[high])),
        pairs.converged,
        A.calls,
    )
