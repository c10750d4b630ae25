"""Pictures of results; needs Matplotlib (``pip install 'mckean[plot]'``), imported when the first
one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["learning_rates", "spectral_density"]

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
