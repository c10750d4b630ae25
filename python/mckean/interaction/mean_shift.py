"""Mean shift, classical and annealed: points climb a kernel density to its modes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import ConvergenceWarning, as_count, one_of, positive
from mckean.interaction._settle import settle, take
from mckean.interaction._sums import kernel_logsumexp, kernel_mean, pair_argmin

__all__ = ["AnnealedShift", "MeanShift", "annealed_mean_shift", "mean_shift", "noise_levels"]

Array = np.ndarray[Any, Any]
_TOL = {"float64": 1e-7, "float32": 1e-4}


@dataclass(frozen=True)
class MeanShift:
    """The result of `mean_shift`.

    Attributes
    ----------
    modes : array, shape (n_modes, d)
        Highest density first.
    labels : array, shape (n,), integer
        Index of the mode each starting point climbed to.
    points : array, shape (n, d)
        Where each starting point came to rest.
    sizes : numpy array, shape (n_modes,), int64
        Starting points per mode.
    iterations : numpy array, shape (n,), int64
        Steps each point took.
    n_iter : int
        The largest of them.
    converged : bool
        Whether every point came to rest.
    """

    modes: Any
    labels: Any
    points: Any
    sizes: Array
    iterations: Array
    n_iter: int
    converged: bool


@dataclass(frozen=True)
class AnnealedShift:
    """The result of `annealed_mean_shift`.

    Attributes
    ----------
    x : array, shape (n, d)
        Points at the last noise level.
    sigmas : numpy array, shape (n_levels,), float64
    path : array, shape (n_levels, n, d), or None
        Points at every level, the first being `x0`.
    residual : float
        If the last level is 0: the longest move of a further mean-shift step at the level before, in units of that
        level. Otherwise 0.
    n_iter : int
        Steps taken.
    converged : bool
        Whether `residual` is below the tolerance.
    """

    x: Any
    sigmas: Array
    path: Any
    residual: float
    n_iter: int
    converged: bool


def mean_shift(
    x: Any,
    bandwidth: Any,
    *,
    start: Any = None,
    log_weights: Any = None,
    tol: float | None = None,
    max_iter: int = 1000,
    merge: float = 0.1,
) -> MeanShift:
    """Find the modes of a Gaussian kernel density, and the basin each point lies in.

    Every point moves to the softmax-weighted mean of the data around it, ``z' = sum_j p_j(z) x_j`` with ``p_j``
    proportional to ``w_j exp(-|z - x_j|^2 / (2 bandwidth^2))``, until it rests. The density never falls on the way. The
    number of modes follows from the bandwidth. Time O(n m d) per iteration for n moving points and m data, memory
    O((n + m) d).

    Parameters
    ----------
    x : array, shape (m, d), float32 or float64
        Data, m > 0.
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    start : array, shape (n, d), optional
        Starting points, by default the data themselves.
    log_weights : array, shape (m,), optional
        Logarithms of the weights w.
    tol : float, optional
        A point rests when it moves by less than `tol` bandwidths; by default 1e-7 in float64 and 1e-4 in float32.
    max_iter : int
        Most iterations of a point.
    merge : float
        Resting points closer than `merge` bandwidths are one mode.

    Returns
    -------
    MeanShift
        Arrays of the framework, dtype and device of `x`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If a point still moves after `max_iter` iterations.

    See Also
    --------
    annealed_mean_shift

    References
    ----------
    .. [1] Y. Cheng, "Mean shift, mode seeking, and clustering", IEEE TPAMI 17(8), 1995, doi:10.1109/34.400568

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.interaction.mean_shift import mean_shift
    >>> x = mk.random.normal(1, (60, 2)) + np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 20, axis=0)
    >>> result = mean_shift(x, 1.5)
    >>> result.modes.shape, result.sizes.tolist(), result.converged
    ((3, 2), [20, 20, 20], True)
    """
    data = as_input(x, "x", shape=("m", "d"))
    if not data.shape[0]:
        raise ValueError(f"x: expected at least one point, got shape {data.shape}")
    check_finite(data, "x")
    begin = data
    if start is not None:
        begin = as_match(start, "start", data, "x", shape=("n", data.shape[1]))
        check_finite(begin, "start")
    k = kernels.Gaussian(bandwidth)
    k.terms(data.shape[1])  # refuses a bandwidth of another dimension
    tol = _TOL[data.dtype] if tol is None else positive(tol, "tol")
    max_iter, merge = as_count(max_iter, "max_iter", least=1), positive(merge, "merge")
    unit = k.bandwidth
    if not isinstance(unit, float):
        unit = data.framework.asarray(unit.astype(data.dtype), data.device)

    points, counts, rest = settle(
        lambda z: kernel_mean(k, z, data.array, None, log_weights), begin, tol, max_iter, unit
    )
    if not rest.all():
        warnings.warn(
            f"{int((~rest).sum())} of {rest.size} points still move by more than {tol:.0e} "
            f"bandwidths after {max_iter} iterations",
            ConvergenceWarning,
            stacklevel=2,
        )
    heights = kernel_logsumexp(k, points, data.array, log_weights)
    order = np.argsort(-to_numpy(heights).astype(np.float64), kind="stable")
    scaled = points / unit
    leaders = _leaders(to_numpy(scaled).astype(np.float64), order, merge)
    modes = take(points, leaders, data)
    centres = take(scaled, leaders, data) if leaders.size else data.array
    labels = pair_argmin(scaled, centres)[0][:, 0]
    return MeanShift(
        modes=modes,
        labels=labels,
        points=points,
        sizes=np.bincount(to_numpy(labels), minlength=leaders.size),
        iterations=counts,
        n_iter=int(counts.max(initial=0)),
        converged=bool(rest.all()),
    )


def annealed_mean_shift(
    y: Any, x0: Any, sigmas: Any, *, tol: float = 1e-2, save_path: bool = False
) -> AnnealedShift:
    """Move points from noise to data by mean shift with a falling bandwidth.

    This is the probability-flow ODE of a diffusion model with the best denoiser there is for the data y,
    ``D(x; sigma) = sum_i p_i y_i`` with ``p_i`` proportional to ``exp(-|x - y_i|^2 / (2 sigma^2))``. Euler's step from
    sigma to sigma' is a mean of the point and its mean-shift step,

        ``x' = (sigma' / sigma) x + (1 - sigma' / sigma) D(x; sigma)``,

    and the step to sigma' = 0 is a full one. As the last positive level goes to 0, every point ends on a datum. Time
    O(n m d) per step, memory O((n + m) d).

    Parameters
    ----------
    y : array, shape (m, d), float32 or float64
        Data, m > 0.
    x0 : array, shape (n, d)
        Points at the first noise level, such as ``sigmas[0]`` times normal numbers.
    sigmas : array, shape (n_levels,)
        Noise levels, strictly decreasing and positive; the last may be 0. See `noise_levels`.
    tol : float
        Largest `residual` of a converged result.
    save_path : bool
        Keep the points of every level.

    Returns
    -------
    AnnealedShift
        Arrays of the framework, dtype and device of `y`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If the levels end in 0 and the points are not at rest there: they are means of several data, and the last
        positive level is too large.

    See Also
    --------
    mean_shift, noise_levels

    References
    ----------
    .. [1] D. Chen, Z. Zhou, J.-P. Mei, C. Shen, C. Chen, C. Wang, "A Geometric Perspective on Diffusion Models",
       arXiv:2305.19947

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.interaction.mean_shift import annealed_mean_shift, noise_levels
    >>> data = mk.random.normal(1, (50, 2))
    >>> sigmas = noise_levels(40, 0.01, 20.0)
    >>> result = annealed_mean_shift(data, 20.0 * mk.random.normal(2, (5, 2)), sigmas)
    >>> distance = ((result.x[:, None] - data) ** 2).sum(-1).min(1)
    >>> result.converged, bool((distance < 1e-6).all())
    (True, True)
    """
    data = as_input(y, "y", shape=("m", "d"))
    if not data.shape[0]:
        raise ValueError(f"y: expected at least one point, got shape {data.shape}")
    begin = as_match(x0, "x0", data, "y", shape=("n", data.shape[1]))
    check_finite(data, "y")
    check_finite(begin, "x0")
    levels, tol = _levels(sigmas), positive(tol, "tol")
    x = begin.array * 1.0  # never the caller's memory
    path = None
    if save_path:
        path = data.framework.empty((levels.size, *begin.shape), data.dtype, data.device)
        path.data[0] = begin.data
    for i in range(levels.size - 1):
        ratio = float(levels[i + 1] / levels[i])
        x = ratio * x + (1.0 - ratio) * _denoise(x, data, float(levels[i]))
        if path is not None:
            path.data[i + 1] = data.framework.native(x, data.device)
    residual = 0.0
    if levels[-1] == 0.0 and begin.shape[0]:
        moved = ((x - _denoise(x, data, float(levels[-2]))) ** 2).sum(1)
        residual = float(moved.max()) ** 0.5 / float(levels[-2])
    converged = residual <= tol
    if not converged:
        warnings.warn(
            f"points would still move by {residual:.1e} of the last level, {levels[-2]:.1e}: "
            "let the levels end lower",
            ConvergenceWarning,
            stacklevel=2,
        )
    saved = None if path is None else path.result()
    return AnnealedShift(x, levels, saved, residual, levels.size - 1, converged)


def noise_levels(
    n_steps: int,
    sigma_min: float,
    sigma_max: float,
    *,
    kind: str = "karras",
    rho: float = 7.0,
) -> Array:
    """Return `n_steps` noise levels that fall from `sigma_max` to `sigma_min`, and a final 0.

    Parameters
    ----------
    n_steps : int
        At least 1; one level alone is `sigma_max`.
    sigma_min, sigma_max : float
        ``0 < sigma_min < sigma_max``.
    kind : str
        Which function of the level has equal steps: "karras", ``sigma^(1/rho)``; "geometric", ``log(sigma)``; "linear",
        ``sigma``.
    rho : float
        Exponent of "karras", > 0.

    Returns
    -------
    numpy array, shape (n_steps + 1,), float64

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    References
    ----------
    .. [1] T. Karras, M. Aittala, T. Aila, S. Laine, "Elucidating the Design Space of Diffusion-Based Generative
       Models", arXiv:2206.00364

    Examples
    --------
    >>> from mckean.interaction.mean_shift import noise_levels
    >>> noise_levels(4, 0.01, 10.0, kind="geometric").round(6).tolist()
    [10.0, 1.0, 0.1, 0.01, 0.0]
    """
    n_steps = as_count(n_steps, "n_steps", least=1)
    low, high, rho = (
        positive(sigma_min, "sigma_min"),
        positive(sigma_max, "sigma_max"),
        positive(rho, "rho"),
    )
    if low >= high:
        raise ValueError(f"sigma_min: expected a number below sigma_max = {high}, got {low}")
    t = np.linspace(0.0, 1.0, n_steps)
    if one_of(kind, "kind", ("karras", "geometric", "linear")) == "geometric":
        levels = np.exp(np.log(high) + t * (np.log(low) - np.log(high)))
    else:
        power = rho if kind == "karras" else 1.0
        levels = (high ** (1 / power) + t * (low ** (1 / power) - high ** (1 / power))) ** power
    levels[0] = high
    if n_steps > 1:
        levels[-1] = low
    return np.append(levels, 0.0)


def _denoise(x: Any, data: Input, sigma: float) -> Any:
    return kernel_mean(kernels.Gaussian(sigma), x, data.array)


def _levels(sigmas: Any) -> Array:
    levels = np.array(to_numpy(sigmas), np.float64)
    if levels.ndim != 1 or levels.size < 2:
        raise ValueError(f"sigmas: expected shape (n_levels,) of at least 2, got {levels.shape}")
    if not (np.isfinite(levels).all() and (np.diff(levels) < 0).all() and levels[-1] >= 0):
        raise ValueError(f"sigmas: expected decreasing numbers >= 0, got {levels.tolist()[:8]}")
    return levels


def _leaders(points: Array, order: Array, radius: float) -> Array:
    """The first of every group of points within `radius` of it, in the given order."""
    leaders = []
    while order.size:
        leaders.append(order[0])
        away = ((points[order] - points[order[0]]) ** 2).sum(1) > radius * radius
        away[0] = False
        order = order[away]
    return np.array(leaders, np.int64)
