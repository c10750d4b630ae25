"""
Steps by the error
==================

A process that is stiff for some paths and tame for others: with steps of its own, each path spends
what it needs, and no more. Above, Lorenz's system with noise; below, chains in Neal's funnel, whose
neck wants steps a hundred times shorter than its mouth.

Run: ``python examples/plot_adaptive.py`` (5 s), writes ``adaptive.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk
from mckean import plot


def lorenz(axes):
    sde = mk.sde.Lorenz(noise=1.0)
    y0 = np.tile([1.0, 1.0, 20.0], (200, 1))
    solution = mk.sdeint(
        sde,
        y0,
        np.linspace(0.0, 4.0, 201),
        solver=mk.sde.ShARK(),
        controller=mk.sde.PIDController(0.0, 0.01, dtmin=2.0**-14),
        seed=1,
    )
    plot.paths(solution, axes[0], count=20).set(title="Lorenz with noise: first coordinate")
    plot.steps(solution, axes[1]).set(title="Lorenz: step sizes of the paths")
    steps = solution.stats["accepted"]
    print(f"Lorenz: {steps.min()} to {steps.max()} steps, {solution.timings['total']:.2f} s")


def funnel(axes):
    target = mk.targets.Funnel(10)
    controller = mk.sde.PIDController(0.0, 2.0**-6, kp=0.1, ki=0.4, dtmin=2.0**-10)
    chain = mk.samplers.UnderdampedLangevin(target, 2.0, scheme="quicsort", controller=controller)
    result = mk.run(chain, target.sample(100, 1), 100, seed=2, progress=False)
    plot.steps(result, axes[0]).set(title="Funnel: steps for a time of 2")
    width = result.x[:-1, :, 0].ravel()  # of the funnel, on a logarithmic scale
    steps = np.diff(result.stats["accepted"], axis=0).ravel()
    axes[1].semilogy(width, 2.0 / steps, ".", ms=2, alpha=0.3)
    axes[1].set(title="Funnel: neck and mouth", xlabel="x[0] before", ylabel="mean step size")
    bins = np.quantile(width, [0.05, 0.95])
    short, long = 2 / steps[width < bins[0]].mean(), 2 / steps[width > bins[1]].mean()
    print(f"Funnel: mean steps of {short:.3f} in the neck and {long:.3f} in the mouth")


def main():
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    lorenz(axes[0])
    funnel(axes[1])
    figure.savefig("adaptive.png", dpi=120)


if __name__ == "__main__":
    main()
