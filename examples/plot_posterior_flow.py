"""
Posterior sampling from joint samples: an inverse problem with a known answer
=============================================================================

The unknown x is drawn from a mixture of Gaussians in the plane, and one noisy linear measurement ``y = A x + noise``
of it is seen. Its posterior is again a mixture of Gaussians, known in closed form. The conditional flow knows neither:
it gets pairs (x, y) alone, and moves normal noise at the observed y onto draws of x.

The table compares these draws with the exact posterior, and with what needs no flow: the sqrt(N) pairs whose y is
nearest to the observation, and the prior. Errors are means over eleven observations. The last row is what independent
draws from the posterior itself would show. With a single number observed neighbours are hard to beat: they win once
there are many pairs, the flow wins while there are few.

Run: ``python examples/plot_posterior_flow.py`` (30 s), writes ``posterior_flow.png``.
"""

import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

CENTRES = 2.0 * np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, -1.2], [1.4, -0.6]])
WEIGHTS = np.array([0.3, 0.3, 0.25, 0.15])
SPREAD = 0.4  # standard deviation of each component
A = np.array([[1.0, 0.3]])
NOISE = 0.3
OBSERVED = np.linspace(-2.5, 2.5, 11)[:, None]
SHOWN = [1, 4, 6, 9]
DRAWS = 300


def mixture(weights, centres, covariance, n, seed):
    """n draws of a mixture of Gaussians of one covariance."""
    which = np.searchsorted(np.cumsum(weights), mk.random.uniform(seed, n, stream=1))
    normal = mk.random.normal(seed, (n, centres.shape[1]), stream=2)
    return centres[np.minimum(which, len(weights) - 1)] + normal @ np.linalg.cholesky(covariance).T


def pairs(n, seed):
    """Joint samples of the unknown and its measurement."""
    x = mixture(WEIGHTS, CENTRES, SPREAD**2 * np.eye(2), n, seed)
    return x, x @ A.T + NOISE * mk.random.normal(seed, (n, 1), stream=3)


def posterior(y):
    """Weights, centres and covariance of the posterior at y."""
    s = SPREAD**2 * A @ A.T + NOISE**2 * np.eye(1)
    gain = SPREAD**2 * A.T @ np.linalg.inv(s)
    residual = y - CENTRES @ A.T
    weights = WEIGHTS * np.exp(-0.5 * (residual @ np.linalg.inv(s) * residual).sum(axis=1))
    return weights / weights.sum(), CENTRES + residual @ gain.T, SPREAD**2 * (np.eye(2) - gain @ A)


def errors(draws, y, seed):
    """Distance of the means, and energy distance to as many exact draws."""
    weights, centres, covariance = posterior(y)
    exact = mixture(weights, centres, covariance, 20 * len(draws), seed)
    return np.linalg.norm(draws.mean(axis=0) - weights @ centres), mk.energy_distance(draws, exact)


def main():
    kept = None
    print(
        f"{'pairs':>6}  {'draws from':<22}{'error of the mean':>18}{'energy distance':>17}{'s':>7}"
    )
    for n, n_steps in ((500, 400), (2000, 800), (8000, 1600)):  # more pairs take more steps
        x, y = pairs(n, seed=n)
        start = time.perf_counter()
        flow = mk.flows.posterior_samples(
            x,
            y,
            OBSERVED,
            DRAWS,
            n_steps=n_steps,
            decay=0.1 ** (1 / n_steps),
            n_slices=16,
            seed=1,
            progress=False,
        )
        seconds = time.perf_counter() - start
        near = [x[np.argsort(abs(y[:, 0] - o[0]))[: round(n**0.5)]] for o in OBSERVED]
        rows = {
            "the flow": flow,
            "pairs of the nearest y": near,
            "the prior": [x[:DRAWS]] * len(OBSERVED),
        }
        for name, draws in rows.items():
            found = [errors(d, o, 7) for d, o in zip(draws, OBSERVED, strict=True)]
            mean, distance = np.mean(found, axis=0)
            spent = f"{seconds:7.1f}" if name == "the flow" else ""
            print(f"{n:>6}  {name:<22}{mean:>18.3f}{distance:>17.4f}{spent}")
        kept = (x, y, flow)
    found = [errors(mixture(*posterior(o), DRAWS, 5), o, 7) for o in OBSERVED]
    mean, distance = np.mean(found, axis=0)
    print(f"{'':>6}  {'the posterior itself':<22}{mean:>18.3f}{distance:>17.4f}")
    picture(*kept)


def picture(x, y, flow):
    figure, axes = plt.subplots(
        2, 4, figsize=(13, 6.6), layout="constrained", sharex=True, sharey=True
    )
    for column, (o, draws) in enumerate(zip(OBSERVED[SHOWN], flow[SHOWN], strict=True)):
        exact = mixture(*posterior(o), DRAWS, 5)
        for axis, points, colour in (
            (axes[0, column], exact, "tab:green"),
            (axes[1, column], draws, "tab:red"),
        ):
            axis.plot(*x[:2000].T, ".", color="lightgray", ms=2)
            axis.plot(*points.T, ".", color=colour, ms=3)
            # the unknowns whose measurement without noise is the observed one
            axis.axline((o[0] / A[0, 0], 0.0), slope=-A[0, 0] / A[0, 1], color="black", lw=0.6)
            axis.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
        axes[0, column].set_title(f"y = {o[0]:.1f}")
    axes[0, 0].set_ylabel("exact posterior")
    axes[1, 0].set_ylabel(f"flow of {len(x)} pairs")
    figure.suptitle("Posterior of a linear inverse problem with a Gaussian mixture as prior (gray)")
    figure.savefig("posterior_flow.png", dpi=120)


if __name__ == "__main__":
    main()
