"""The main job on real data: the posterior of a logistic regression, by many underdamped Langevin chains, of constant
steps and of steps chosen by their error."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import mckean as mk
from mckean import plot

__all__ = ["main"]

_STEP, _BURN_IN, _THIN = 0.1, 200, 10
_APART, _TOLERANCE = 1.0, 2.0  # of adaptive chains: time between positions, error of a step


def _data() -> tuple[Any, ...]:
    """Breast-cancer data [1]_: 569 biopsies, 30 features; standardised, with an intercept; 80 per cent to train on.

    .. [1] W. Wolberg, O. Mangasarian, N. Street, W. Street (1995), UCI Machine Learning Repository, doi:10.24432/C5DW2B
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    data = load_breast_cancer()
    train, test, y_train, y_test = train_test_split(
        data.data, data.target, test_size=0.2, random_state=0
    )
    mean, sd = train.mean(axis=0), train.std(axis=0)

    def design(features: Any) -> Any:
        return np.column_stack([np.ones(len(features)), (features - mean) / sd])

    return (
        design(train),
        y_train,
        design(test),
        y_test,
        ["intercept", *map(str, data.feature_names)],
    )


def main(folder: Path, *, chains: int = 1000, n_steps: int = 1640) -> int:
    """Draw the posterior, print a table, write ``posterior.png`` into `folder`; return the exit status."""
    try:
        import arviz
        import matplotlib
    except ImportError as error:
        print(
            f"the demo needs {error.name}: pip install 'mckean[plot,arviz]' scikit-learn",
            file=sys.stderr,
        )
        return 1
    matplotlib.use("Agg")
    X, y, X_test, y_test, names = _data()
    target = mk.targets.LogisticRegression(X, y, prior_scale=1.0)
    sampler = mk.samplers.UnderdampedLangevin(target, _STEP, friction=1.0, scheme="quicsort")
    x0 = mk.random.normal(1, (chains, target.dim))
    burn_in = min(_BURN_IN, n_steps // 2)
    print(
        f"logistic regression on {len(y)} biopsies, {target.dim} coefficients; "
        f"{chains} chains of {n_steps} third-order underdamped Langevin steps"
    )
    start = time.perf_counter()
    result = mk.run(sampler, x0, n_steps, seed=0, burn_in=burn_in, thin=_THIN)
    seconds = time.perf_counter() - start

    draws = result.x.reshape(-1, target.dim)
    idata = result.to_arviz(var_names=names)
    ess, r_hat = arviz.ess(idata), arviz.rhat(idata)
    mean, sd = draws.mean(axis=0), draws.std(axis=0)
    print(f"\n{'coefficient':<26}{'mean':>9}{'sd':>9}{'ESS':>10}{'R-hat':>8}")
    for i, name in enumerate(names):
        print(
            f"{name:<26}{mean[i]:>9.3f}{sd[i]:>9.3f}{float(ess[name]):>10.0f}{float(r_hat[name]):>8.3f}"
        )

    probability = target.predict_proba(draws[:: max(1, len(draws) // 4000)], X_test)
    accuracy = float(((probability > 0.5) == y_test).mean())
    least = min(float(ess[name]) for name in names)
    worst = max(float(r_hat[name]) for name in names)
    gradients = result.n_gradient_evaluations
    print(f"\ntest accuracy          {accuracy:.3f}  ({len(y_test)} held-out biopsies)")
    print(f"gradient evaluations   {gradients} per chain")
    print(
        f"time                   {seconds:.1f} s  ({chains * n_steps / seconds:,.0f} chain steps/s)"
    )
    print(
        f"smallest ESS           {least:,.0f} of {len(draws):,} draws  ({least / seconds:,.0f} per second)"
    )
    print(f"largest R-hat          {worst:.3f}")
    adaptive, off = _adaptive(target, x0, min(n_steps * _STEP, 164.0), (mean, sd))
    path = _picture(folder, draws, probability, y_test, names, adaptive)
    print(f"picture                {path}")
    return 0 if result.converged and worst < 1.05 and adaptive.converged and off < 1.0 else 1


def _adaptive(target: Any, x0: Any, time_span: float, known: tuple[Any, Any]) -> tuple[Any, float]:
    """The same posterior with steps of every chain chosen by their error, which nobody has to tune."""
    chains, n_positions = min(len(x0), 200), max(8, round(time_span / _APART))
    controller = mk.sde.PIDController(0.0, _TOLERANCE, dtmin=2.0**-8)
    sampler = mk.samplers.UnderdampedLangevin(
        target, _APART, scheme="quicsort", controller=controller
    )
    start = time.perf_counter()
    result = mk.run(sampler, x0[:chains], n_positions, seed=1)
    seconds = time.perf_counter() - start
    late = result.x[n_positions // 4 :].reshape(-1, target.dim)
    off = float(np.abs((late.mean(axis=0) - known[0]) / known[1]).max())
    spread = float(np.abs(late.std(axis=0) / known[1] - 1).max())
    accepted, rejected, gradients = (
        result.stats[name].astype(float) for name in ("accepted", "rejected", "gradients")
    )
    counts = np.diff(accepted, axis=0)
    print(f"\nadaptive steps         {chains} chains over a time of {n_positions * _APART:g}")
    print(
        f"step size              {_APART / max(accepted[0].mean(), 1):.3f} from a wide start, "
        f"{_APART / max(counts[len(counts) // 2 :].mean(), 1):.3f} later; "
        f"{rejected[-1].sum() / (accepted[-1].sum() + rejected[-1].sum()):.0%} of attempts rejected"
    )
    print(
        f"gradient evaluations   {gradients[-1].mean():.0f} per chain, "
        f"from {gradients[-1].min():.0f} to {gradients[-1].max():.0f}"
    )
    print(f"time                   {seconds:.1f} s")
    print(
        f"against constant steps means within {off:.2f}, deviations within {spread:.1%} of a deviation"
    )
    return result, off


def _picture(
    folder: Path, draws: Any, probability: Any, y_test: Any, names: list[str], adaptive: Any
) -> Path:
    import matplotlib.pyplot as plt

    mean = draws.mean(axis=0)
    order = np.argsort(mean)
    figure, axes = plt.subplots(
        1, 4, figsize=(18, 6.2), width_ratios=[1.25, 1, 1, 1], layout="constrained"
    )
    at = np.arange(len(order))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    clear = (low[order] > 0) | (high[order] < 0)
    for mask, colour in ((clear, "tab:red"), (~clear, "tab:gray")):
        axes[0].hlines(at[mask], low[order][mask], high[order][mask], color=colour, lw=2)
        axes[0].plot(mean[order][mask], at[mask], "o", color=colour, ms=4)
    axes[0].axvline(0, color="black", lw=0.8)
    axes[0].set_yticks(at, [names[i] for i in order], fontsize=7)
    axes[0].set(title="Coefficients: mean and 95% interval", xlabel="standardised units")
    correlation = np.corrcoef(draws.T) - np.eye(len(mean))
    i, j = np.unravel_index(np.abs(correlation).argmax(), correlation.shape)
    axes[1].hexbin(draws[:, i], draws[:, j], gridsize=45, cmap="viridis", mincnt=1, linewidths=0)
    axes[1].set(
        title=f"Most correlated pair ({correlation[i, j]:+.2f})", xlabel=names[i], ylabel=names[j]
    )
    bins = np.linspace(0, 1, 26)
    for value, label, colour in ((0, "malignant", "tab:red"), (1, "benign", "tab:blue")):
        axes[2].hist(probability[y_test == value], bins=bins, label=label, color=colour, alpha=0.7)
    axes[2].set(
        title="Held-out biopsies",
        xlabel="posterior predictive probability of benign",
        ylabel="count",
    )
    axes[2].set_yscale("symlog", linthresh=5)
    axes[2].legend()
    plot.steps(adaptive, axes[3]).set(title="Adaptive chains: steps for a unit of time")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "posterior.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
