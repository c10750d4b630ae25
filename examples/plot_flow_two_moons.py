"""
Noise flows onto two moons
==========================

The gradient flow of the sliced MMD moves a normal cloud onto two half circles. Left to right: the cloud over time,
with the paths of some particles. Last: the energy distance over the steps for different steps and momenta. Larger
effective steps ``step / (1 - momentum)`` get there sooner; more directions do not. The dotted line is the distance of
an independent sample: below it the flow learns these very points.

Run: ``python examples/plot_flow_two_moons.py`` (5 s), writes ``flow_two_moons.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

N, STEPS = 500, 400


def moons(seed, n):
    """Two half circles with normal noise of 0.1."""
    angle = np.pi * mk.random.uniform(seed, n, stream=1)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    return np.where(np.arange(n)[:, None] % 2, upper, lower) + 0.1 * mk.random.normal(seed, (n, 2))


def main():
    y, x0 = moons(1, N), mk.random.normal(5, (N, 2))
    settings = [(0.1, 0.0, 20), (0.1, 0.0, 200), (0.1, 0.7, 20), (1.0, 0.0, 20), (0.1, 0.9, 20)]
    at = [1, 2, 5, 10, 20, 50, 100, 200, STEPS]
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.6), layout="constrained")
    print(f"{'step':>5}{'momentum':>9}{'slices':>8}" + "".join(f"{k:>10}" for k in at))
    for step, momentum, slices in settings:
        flow = mk.flows.SlicedMMDFlow(y, step, momentum=momentum, n_slices=slices)
        path = mk.run(flow, x0, STEPS, progress=False).x
        distance = [mk.energy_distance(path[k - 1], y) for k in at]
        print(f"{step:>5}{momentum:>9}{slices:>8}" + "".join(f"{v:>10.1e}" for v in distance))
        axes[4].loglog(
            at, distance, "o-", ms=3, label=f"step {step}, momentum {momentum}, {slices} slices"
        )
        if (step, momentum, slices) == (0.1, 0.7, 20):
            shown = np.concatenate([x0[None], path])
    apart = mk.energy_distance(moons(2, N), y)
    print(f"two independent samples: {apart:.1e}")
    axes[4].axhline(apart, color="black", ls=":", lw=1)
    axes[4].set(title="Energy distance", xlabel="steps")
    axes[4].legend(fontsize=7)
    for axis, k in zip(axes, (0, 5, 20, STEPS), strict=False):
        axis.plot(*y.T, ".", color="lightgray", ms=4)
        axis.plot(
            *np.swapaxes(shown[: k + 1, :40], 1, 2).transpose(1, 0, 2), color="tab:blue", lw=0.4
        )
        axis.plot(*shown[k].T, ".", color="tab:red", ms=2)
        axis.set(title=f"step {k}", xlim=(-3, 3.5), ylim=(-2.6, 2.8), xticks=[], yticks=[])
    figure.savefig("flow_two_moons.png", dpi=120)


if __name__ == "__main__":
    main()
