"""
Snapshots of predators and prey: the paths between them, and the rates behind them
==================================================================================

Fifty particles of a noisy Lotka-Volterra system are seen at each of five times, and none of them twice. The Schrödinger
bridge of a Brownian reference draws nearly straight lines between the snapshots. With a reference whose four rates are
refitted to the paths of the bridge, in turn, the paths bend the way the system does, and the rates are found.

The table compares the clouds at times that were not seen with 500 particles of the true system, by the energy distance;
the last row is what another draw of fifty particles of the truth has.

Run: ``python examples/plot_bridge.py`` (10 s), writes ``bridge.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk
from mckean.transport import LinearDrift, schrodinger_bridge

SIGMA = 0.1
SEEN, HIDDEN = (0.0, 2.0, 4.0, 6.0, 8.0), (1.0, 3.0, 5.0, 7.0)


def features(z):
    """dX = alpha X - beta X Y, dY = delta X Y - gamma Y, linear in (alpha, beta, gamma, delta)."""
    x, y = z[:, 0], z[:, 1]
    nothing = np.zeros_like(x)
    prey = np.stack([x, -x * y, nothing, nothing], axis=1)
    return np.stack([prey, np.stack([nothing, nothing, -y, x * y], axis=1)], axis=1)


TRUTH = LinearDrift(features, [1.0, 0.4, 0.4, 0.1], SIGMA)


def snapshot(t, n, seed):
    x0 = np.array([5.0, 4.0]) + 0.1 * mk.random.uniform(seed, (n, 2))
    return TRUTH.simulate(x0, [0.0, t], n_substeps=round(100 * t), seed=seed)[1] if t else x0


def main():
    snapshots = [snapshot(t, 50, seed) for seed, t in enumerate(SEEN)]
    brownian = schrodinger_bridge(snapshots, SEEN, "brownian", sigma=SIGMA, progress=False)
    guess = LinearDrift(features, [1e-5] * 4, SIGMA)
    refitted = schrodinger_bridge(snapshots, SEEN, guess, progress=False)

    print(f"{'pass':>4}  {'alpha':>7}{'beta':>7}{'gamma':>7}{'delta':>7}")
    for k, theta in enumerate(refitted.history["theta"]):
        print(f"{k:>4}  " + "".join(f"{rate:7.3f}" for rate in theta))
    print("true  " + "".join(f"{rate:7.3f}" for rate in TRUTH.theta))

    truth = {t: snapshot(t, 500, 100 + int(t)) for t in HIDDEN}
    rows = {
        "Brownian reference": {t: brownian.sample_at(t) for t in HIDDEN},
        "refitted reference": {t: refitted.sample_at(t) for t in HIDDEN},
        "the truth itself": {t: snapshot(t, 50, 200 + int(t)) for t in HIDDEN},
    }
    print(f"\n{'energy distance':<20}" + "".join(f"{f't = {t:g}':>10}" for t in HIDDEN))
    for name, clouds in rows.items():
        found = [mk.energy_distance(clouds[t], truth[t]) for t in HIDDEN]
        print(f"{name:<20}" + "".join(f"{value:10.4f}" for value in found))
    picture(brownian, refitted, snapshots, truth)


def picture(brownian, refitted, snapshots, truth):
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    for axis, bridge, name in zip(axes, (brownian, refitted), ("fixed", "refitted"), strict=True):
        axis.plot(*np.moveaxis(bridge.paths, 2, 0), color="tab:blue", lw=0.4, alpha=0.5)
        for cloud in truth.values():
            axis.plot(*cloud[:100].T, ".", ms=2, color="tab:red")
        for cloud in snapshots:
            axis.plot(*cloud.T, ".", ms=4, color="black")
        axis.set(title=f"{name} reference", xlabel="prey")
    axes[0].set_ylabel("predators")
    figure.suptitle("Paths through snapshots (black); particles at hidden times (red)")
    figure.savefig("bridge.png", dpi=120)


if __name__ == "__main__":
    main()
