"""
What eps does to a transport plan
=================================

A normal cloud is sent onto eight small ones, for smaller and smaller eps. Large eps mixes everything: every point goes
to nearly the mean of all targets. Small eps approaches the optimal assignment, at the price of more iterations, until
Newton's method takes over (``method="auto"`` decides). Left to right: the barycentric map of each eps, with some of the
ways; last: the map of the smallest eps continued to new points, which no plan has seen.

Run: ``python examples/plot_transport.py`` (5 s), writes ``transport_eps.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

N = 800


def eight(seed, n):
    """Normal clouds of width 0.1 on a circle of radius 2."""
    angle = np.pi / 4 * np.floor(8 * mk.random.uniform(seed, n, stream=1))
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres + 0.1 * mk.random.normal(seed, (n, 2))


def main():
    x, y = mk.random.normal(1, (N, 2)), eight(2, N)
    figure, axes = plt.subplots(1, 5, figsize=(17, 3.6), layout="constrained")
    print(
        f"{'eps / mean':>10}{'method':>9}{'iterations':>12}{'newton':>8}{'error':>9}{'<P, C>':>9}{'gap':>9}"
    )
    for axis, eps in zip(axes, (1.0, 0.1, 0.01, 0.002), strict=False):
        result = mk.sinkhorn_points(x, y, rel_eps=eps)
        print(
            f"{eps:>10}{result.method:>9}{result.n_iter:>12}{result.n_newton:>8}{result.marginal_error:>9.0e}"
            f"{result.cost:>9.4f}{result.gap:>9.0e}"
        )
        there = result.barycentric_map()
        ways = np.stack([x[:150], there[:150]], axis=1)
        axis.plot(*np.moveaxis(ways, 2, 0).swapaxes(1, 2), color="lightgray", lw=0.5)
        axis.plot(*y.T, ".", color="tab:orange", ms=2)
        axis.plot(*there.T, ".", color="tab:blue", ms=2)
        axis.set(title=f"eps = {eps} of the mean cost")
    new = mk.random.normal(3, (N, 2))
    there = result.transport_map(new)
    axes[4].plot(*new.T, ".", color="lightgray", ms=2)
    axes[4].plot(*there.T, ".", color="tab:red", ms=2)
    axes[4].set(title="new points")
    far = np.sqrt(((there[:, None] - y) ** 2).sum(2).min(1))
    print(f"new points land at most {far.max():.2f} from a target, in the mean {far.mean():.3f}")
    for axis in axes:
        axis.set(xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], aspect="equal")
    figure.savefig("transport_eps.png", dpi=120)


if __name__ == "__main__":
    main()
