"""
Keep 64 states of a chain
=========================

A chain gives more states than one wants to store or to run an expensive model on. Standard thinning keeps states at
equal distances in time; kernel thinning keeps those whose kernel means are closest to the whole chain's; Stein thinning
those closest to the target itself, and so it removes the burn-in too. Judged by the maximum mean discrepancy to the
target, which has a closed form here.

Run: ``python examples/plot_thin_chain.py`` (10 s), writes ``thin_chain.png``.
"""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

N, KEEP = 4096, (8, 16, 32, 64, 128, 256)
MEANS, VARIANCE = np.array([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]]), 0.5


def mmd(length, x):
    """Maximum mean discrepancy between points and the mixture itself, for the Gaussian kernel of this length.

    The mean of the kernel over a Gaussian is a wider Gaussian kernel, so nothing has to be drawn.
    """

    def mean(a, b, n_integrals):
        wide = length**2 + n_integrals * VARIANCE
        return (
            length**2 / wide * mk.kernel_sum(mk.kernels.Gaussian(wide**0.5), a, b).mean() / len(b)
        )

    return math.sqrt(max(0.0, mean(x, x, 0) - 2 * mean(x, MEANS, 1) + mean(MEANS, MEANS, 2)))


def main():
    target = mk.targets.GaussianMixture(MEANS, cov=np.full((3, 2), VARIANCE))
    start = np.array([[0.0, 9.0]])
    chain = mk.samplers.MALA(target, 0.6)
    x = mk.run(chain, start, 5 * N, seed=3, thin=5, progress=False).x[:, 0]
    scores = target.grad_log_density(x)
    length = float(mk.median_bandwidth(x))
    k, stein = mk.kernels.Gaussian(length), mk.kernels.InverseMultiquadric(length)

    rules = {
        "standard thinning": lambda m: np.arange(N // m - 1, N, N // m),
        "kernel thinning": lambda m: mk.interaction.thin(k, x, m, seed=1).indices,
        "Stein thinning": lambda m: mk.interaction.thin(stein, x, m, scores=scores, seed=1).indices,
    }

    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for (name, rule), axis in zip(rules.items(), axes[1:], strict=True):
        errors = [mmd(length, x[rule(m)]) for m in KEEP]
        axes[0].loglog(KEEP, errors, "o-", label=name)
        chosen = x[rule(64)]
        axis.plot(*x.T, ".", ms=1, color="0.8")
        axis.plot(*chosen.T, "o", ms=4)
        axis.set(title=f"{name}: 64 states, MMD {errors[3]:.4f}")
        print(f"{name:<17} MMD {errors[3]:.4f} with 64 states")
    print(f"{'everything':<17} MMD {mmd(length, x):.4f} with {N} states")
    axes[0].axhline(mmd(length, x), color="k", ls=":", lw=1, label=f"all {N} states")
    axes[0].set(title="MMD to the target", xlabel="states kept")
    axes[0].set_xticks(KEEP, KEEP)
    axes[0].minorticks_off()
    axes[0].legend()
    figure.savefig("thin_chain.png", dpi=120)


if __name__ == "__main__":
    main()
