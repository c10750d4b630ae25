"""Pictures of results; needs Matplotlib (``pip install 'mckean[plot]'``), imported when the first
one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import to_numpy
from mckean._errors import as_count

__all__ = ["learning_rates", "paths", "spectral_density", "steps"]

_FLOOR = 1e-5  # of the highest point, below which densities are not shown


def _axes(ax: Any) -> Any:
    if ax is not None:
        if not hasattr(ax, "plot"):
            raise TypeError(f"ax: expected axes of Matplotlib, got {type(ax).__name__}")
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"pictures need Matplotlib, which is not installed ({error}): pip install 'mckean[plot]'"
        ) from None
    return plt.subplots(figsize=(6, 3.8), layout="constrained")[1]


def spectral_density(result: Any, ax: Any = None, *, log: bool = True) -> Any:
    """Draw a spectral density with its standard error, and a tick for every outlier.

    Parameters
    ----------
    result : mckean.lowrank.SpectralDensity
    ax : matplotlib axes, optional
        By default of a new figure.
    log : bool
        Logarithmic densities: outliers are one eigenvalue in d.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError
        If `result` or `ax` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from mckean import plot
    >>> a = np.concatenate([np.linspace(0, 1, 498), [8, 6]])
    >>> density = mk.lowrank.spectral_density(lambda v: a * v, 500, n_steps=30)
    >>> plot.spectral_density(density).get_xlabel()
    'eigenvalue'
    """
    for name in ("grid", "density", "stderr", "outliers"):
        if not hasattr(result, name):
            raise TypeError(f"result: expected a SpectralDensity, got {type(result).__name__}")
    ax = _axes(ax)
    grid, height, error = result.grid, result.density, result.stderr
    floor = _FLOOR * float(height.max())
    ax.plot(grid, np.maximum(height, floor) if log else height, lw=1.2, color="tab:blue")
    if np.isfinite(error).all():
        low, high = height - error, height + error
        if log:
            low, high = np.maximum(low, floor), np.maximum(high, floor)
        ax.fill_between(grid, low, high, alpha=0.25, lw=0, color="tab:blue")
    found = result.outliers()
    if len(found.values):
        at = np.full(len(found.values), 2 * floor if log else 0.0)
        ax.plot(found.values, at, "|", ms=14, color="tab:red", label=f"{found.n_outliers} outliers")
        ax.legend()
    if log:
        ax.set_yscale("log")
        ax.set_ylim(bottom=floor)
    ax.set(xlabel="eigenvalue", ylabel="density")
    return ax


def learning_rates(advice: Any, ax: Any = None) -> Any:
    """Draw the largest stable rate against the batch size: measured, fitted, and its two limits.

    Parameters
    ----------
    advice : mckean.lowrank.LearningRateAdvice
    ax : matplotlib axes, optional
        By default of a new figure.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError
        If `advice` or `ax` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from mckean import plot
    >>> def hvp_batch(size, number):
    ...     return np.diag([1 + 4 / size, 0.5])
    >>> advice = mk.lowrank.learning_rate_advice(hvp_batch, [1, 4, 16], d=2)
    >>> plot.learning_rates(advice).get_xlabel()
    'batch size'
    """
    for name in ("batch_sizes", "lam_batch", "max_rate", "lam_1"):
        if not hasattr(advice, name):
            raise TypeError(f"advice: expected a LearningRateAdvice, got {type(advice).__name__}")
    ax = _axes(ax)
    B, rate = advice.batch_sizes, advice.lr_max
    error = rate * advice.stderr / advice.lam_batch
    ax.errorbar(B, rate, error, fmt="o", ms=4, color="tab:blue", label="measured")
    fine = np.geomspace(B.min(), B.max(), 200)
    ax.plot(fine, advice.max_rate(fine), color="tab:blue", lw=1, label=r"$2 / (\lambda_1 + v / b)$")
    limit = 2 * (1 + advice.momentum) / advice.lam_1
    if limit < 1e3 * rate.max():
        ax.axhline(limit, color="gray", lw=0.8, ls="--", label=r"all the data")
    if advice.v > 0:
        ax.plot(
            fine, limit * fine / advice.B_crit, color="gray", lw=0.8, ls=":", label="linear in B"
        )
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="largest stable rate")
    ax.set_ylim(rate.min() / 2, 2 * max(rate.max(), min(limit, 4 * rate.max())))
    ax.legend()
    return ax


def paths(solution: Any, ax: Any = None, *, coordinate: int = 0, count: int = 30) -> Any:
    """Draw paths of a stochastic differential equation over time, with the mean and the 5 and 95 per
    cent quantiles of all.

    Parameters
    ----------
    solution : mckean.sde.Solution
        Paths that failed count up to where they did.
    ax : matplotlib axes, optional
        By default of a new figure.
    coordinate : int
        Which of the d coordinates.
    count : int
        How many paths to draw, the first ones.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError, ValueError
        If `solution` or `ax` is something else, or a number is out of range.

    See Also
    --------
    mckean.sde.sdeint, steps

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from mckean import plot
    >>> solution = mk.sdeint(
    ...     mk.sde.OrnsteinUhlenbeck(1.0), np.ones((50, 1)), np.linspace(0, 2, 21),
    ...     solver=mk.sde.ShARK(), controller=0.1)
    >>> plot.paths(solution, count=10).get_xlabel()
    'time'
    """
    for name in ("ys", "ts", "stats"):
        if not hasattr(solution, name):
            raise TypeError(f"solution: expected a Solution, got {type(solution).__name__}")
    ys, ts = to_numpy(solution.ys), solution.ts
    coordinate = as_count(coordinate, "coordinate")
    if coordinate >= ys.shape[2]:
        raise ValueError(f"coordinate: expected less than {ys.shape[2]}, got {coordinate}")
    y = ys[:, :, coordinate].astype(float)
    shown = y[:, : as_count(count, "count")]
    known = np.isfinite(y).any(axis=1)
    ax = _axes(ax)
    if known.any():
        low, high = np.nanquantile(y[known], [0.05, 0.95], axis=1)
        ax.fill_between(
            ts[known], low, high, alpha=0.2, lw=0, color="tab:blue", label="5 to 95 per cent"
        )
        ax.plot(ts[known], np.nanmean(y[known], axis=1), lw=2, color="tab:blue", label="mean")
        ax.legend()
    ax.plot(ts, shown, lw=0.6, alpha=0.6, color="tab:gray", zorder=1)
    ax.set(xlabel="time", ylabel="y" if ys.shape[2] == 1 else f"y[{coordinate}]")
    return ax


def steps(result: Any, ax: Any = None) -> Any:
    """Draw how many adaptive steps the paths took.

    Of a solution of an equation: the histogram of the mean step sizes of its paths. Of a run of
    adaptive chains: the steps between positions that were saved, the median of the chains and
    their 5 and 95 per cent quantiles.

    Parameters
    ----------
    result : mckean.sde.Solution or mckean.Result
        Of `mckean.sde.sdeint`, or of `mckean.run` with a chain that has a controller.
    ax : matplotlib axes, optional
        By default of a new figure.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    ImportError
        Without Matplotlib.
    TypeError, ValueError
        If `result` or `ax` is something else, or `result` has fewer than two saved positions.

    See Also
    --------
    mckean.sde.PIDController, mckean.samplers.UnderdampedLangevin, paths

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from mckean import plot
    >>> funnel = mk.targets.Funnel(3)
    >>> chain = mk.samplers.UnderdampedLangevin(
    ...     funnel, 1.0, controller=mk.sde.PIDController(0.0, 0.1, dtmin=2**-10))
    >>> result = mk.run(chain, funnel.sample(20), 5, seed=1, progress=False)
    >>> plot.steps(result).get_xlabel()
    'saved position'
    """
    stats = getattr(result, "stats", None)
    accepted = stats.get("accepted") if isinstance(stats, dict) else None
    if accepted is None or not 1 <= np.ndim(accepted) <= 2:
        raise TypeError(
            f"result: expected counts of accepted steps in stats, got {type(result).__name__}"
        )
    if np.ndim(accepted) == 2:
        counts = np.diff(np.asarray(accepted, float), axis=0)
        if not counts.size:
            raise ValueError(f"result: expected at least two saved positions, got {len(accepted)}")
        ax = _axes(ax)
        at = np.arange(1, len(counts) + 1)
        low, middle, high = np.quantile(counts, [0.05, 0.5, 0.95], axis=1)
        ax.fill_between(
            at, low, high, alpha=0.25, lw=0, color="tab:blue", label="5 to 95 per cent of chains"
        )
        ax.plot(at, middle, color="tab:blue", lw=1.5, label="median")
        ax.set(xlabel="saved position", ylabel="accepted steps since the one before")
        ax.set_ylim(bottom=0)
        ax.legend()
        return ax
    times = getattr(result, "ts", None)
    if times is None:
        raise TypeError(f"result: expected a Solution, got {type(result).__name__}")
    moved = np.asarray(accepted)[np.asarray(accepted) > 0]
    if not moved.size:
        raise ValueError("result: expected paths with accepted steps, got none")
    ax = _axes(ax)
    sizes = (times[-1] - times[0]) / moved
    low, high = sizes.min(), sizes.max()
    wide = high > 1.001 * low
    bins = np.geomspace(low, high, 41) if wide else np.linspace(0.9 * low, 1.1 * high, 12)
    ax.hist(sizes, bins=bins, color="tab:blue", alpha=0.7)
    if high > 3 * low:
        ax.set_xscale("log")
    ax.set(xlabel="mean step size", ylabel="paths")
    return ax
