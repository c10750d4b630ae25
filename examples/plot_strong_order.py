"""
Strong order of the underdamped Langevin schemes
================================================

One Brownian tree drives every scheme at every step size, so their paths can be compared point by
point with a fine solution of the same seed. The slopes are the strong orders: 1 for BAOAB, 2 for
UBU and ALIGN, 3 for ShOULD and QUICSORT.

Run: ``python examples/plot_strong_order.py`` (10 s), writes ``strong_order.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

T, N = 4.0, 200
SCHEMES = ("baoab", "ubu", "align", "should", "quicsort")


def grad_log_density(x):
    """A coupled double well: log p = -(x1^2 - 1)^2 / 4 - x2^2 / 2 - sin(x1) x2 / 2."""
    force = np.empty_like(x)
    force[:, 0] = -x[:, 0] * (x[:, 0] ** 2 - 1) - 0.5 * np.cos(x[:, 0]) * x[:, 1]
    force[:, 1] = -x[:, 1] - 0.5 * np.sin(x[:, 0])
    return force


def solve(scheme, tree, x0, steps):
    chain = mk.samplers.UnderdampedLangevin(grad_log_density, T / steps, scheme=scheme, noise=tree)
    state = chain.init(x0, v0=np.zeros_like(x0))
    for _ in range(steps):
        state = chain.step(state)
    return state.x


def main():
    tree = mk.BrownianTree(3, (N, 2), t1=T, tol=T / 2**12, levy_area="space-time-time")
    x0 = mk.random.normal(4, (N, 2))
    truth = solve("quicsort", tree, x0, 2**12)
    steps = 2 ** np.arange(5, 10)
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for scheme in SCHEMES:
        error = [np.sqrt(np.mean((solve(scheme, tree, x0, n) - truth) ** 2)) for n in steps]
        order = -np.polyfit(np.log(steps), np.log(error), 1)[0]
        axis.loglog(T / steps, error, "o-", label=f"{scheme}: order {order:.2f}")
        print(f"{scheme:<9} strong order {order:.2f}")
    axis.set(xlabel="step size", ylabel="root mean square error at T = 4")
    axis.set_xticks(T / steps, [f"1/{int(n / T)}" for n in steps])
    axis.minorticks_off()
    axis.legend()
    figure.savefig("strong_order.png", dpi=120)


if __name__ == "__main__":
    main()
