"""The flow of the MMD of joint samples, moving x alone, samples the posterior of x given an observation."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse, slope

import mckean as mk

DRAWS, OBSERVATIONS, KNOWN = 100, 12, 4000
NEAREST = (5, 10, 20, 50, 100, 200)


class Mixture:
    """x from a mixture of five normal laws, y = A x + noise: the posterior is a mixture as well, in closed form."""

    def __init__(
        self, dx: int, dy: int, *, spread: float = 0.3, noise: float = 0.2, seed: int = 7
    ) -> None:
        g = np.random.default_rng(seed)
        self.dx, self.dy, self.spread, self.noise = dx, dy, spread, noise
        self.means = g.uniform(-1, 1, (5, dx))
        self.operator = g.standard_normal((dy, dx)) / np.sqrt(dx)

    def joint(self, g: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        x = self.means[g.integers(5, size=n)] + self.spread * g.standard_normal((n, self.dx))
        return x, x @ self.operator.T + self.noise * g.standard_normal((n, self.dy))

    def posterior(self, g: np.random.Generator, y: np.ndarray, n: int) -> np.ndarray:
        a = self.operator
        c = self.spread**2 * a @ a.T + self.noise**2 * np.eye(self.dy)
        gain = self.spread**2 * np.linalg.solve(c, a).T
        cov = self.spread**2 * (np.eye(self.dx) - gain @ a)
        rest = y - self.means @ a.T
        log_weights = -0.5 * np.einsum("ki,ki->k", rest, np.linalg.solve(c, rest.T).T)
        weights = np.exp(log_weights - log_weights.max())
        k = g.choice(5, n, p=weights / weights.sum())
        root = np.linalg.cholesky((cov + cov.T) / 2)
        return (self.means + rest @ gain.T)[k] + g.standard_normal((n, self.dx)) @ root.T


def flow(x: np.ndarray, y: np.ndarray, at: np.ndarray, steps: int) -> np.ndarray:
    d = x.shape[1] + y.shape[1]
    return mk.flows.posterior_samples(
        x, y, at, DRAWS, n_steps=steps, step=2.0, momentum=0.8, decay=0.01 ** (1 / steps), n_slices=max(12, d), progress=False
    )  # fmt: skip


def nearest(x: np.ndarray, y: np.ndarray, at: np.ndarray, k: int) -> np.ndarray:
    """The x of the k pairs whose y is next to the observations."""
    square = ((at[:, None] - y) ** 2).sum(2)
    return x[np.argsort(square, axis=1)[:, :k]]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("sliced_posterior", __doc__, argv)
    steps = 200 if args.quick else 600
    sizes = (500, 1_000) if args.quick else (500, 2_000, 8_000)
    problems = [Mixture(2, 1), *([] if args.quick else [Mixture(5, 3)]), Mixture(10, 10)]
    claim = Claim(
        args,
        "conditional flows of the MMD with the negative distance kernel sample the posteriors of an inverse problem",
        "Hagemann et al., ICLR 2024, arXiv:2310.03054",
        f"x from a mixture of five normal laws, y = A x + noise, posterior in closed form; N joint samples; {OBSERVATIONS} new observations\n"
        f"         y drawn from the same law, {DRAWS} draws each by mk.flows.posterior_samples: N particles carry the y of the data and\n"
        f"         feel each other and the data, the {DRAWS} x {OBSERVATIONS} others carry the new y and follow without a weight, {steps} steps, step 2\n"
        f"         decaying to 0.02, momentum 0.8, float32. Error: energy distance between the draws and {KNOWN} exact ones, mean over the\n"
        f"         observations",
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    kept: list[tuple[Mixture, np.ndarray, np.ndarray]] = []
    for problem in problems:
        g = np.random.default_rng(3)
        _, at = problem.joint(g, OBSERVATIONS)
        known = [problem.posterior(g, y, KNOWN) for y in at]

        def error(samples: Any, known: Any = known) -> np.ndarray:
            return np.array([
                float(mk.energy_distance(np.ascontiguousarray(s, np.float64), e)) for s, e in zip(samples, known, strict=True)
            ])  # fmt: skip

        floor = error([problem.posterior(g, y, DRAWS) for y in at]).mean()
        for n in sizes:
            x, y = problem.joint(g, n)
            start = time.perf_counter()
            draws = flow(*(a.astype(np.float32) for a in (x, y, at)), steps)
            seconds = time.perf_counter() - start
            off = error(draws)
            near = {k: error(nearest(x, y, at, k)).mean() for k in NEAREST}
            best = min(near, key=lambda k: near[k])
            row = {
                "dx": problem.dx,
                "dy": problem.dy,
                "N": n,
                "flow": off.mean(),
                "+-": off.std() / np.sqrt(len(off)),
            }
            row |= {
                f"{DRAWS} nearest y": near[DRAWS],
                "nearest y": near[best],
                "of them": best,
                "no y": error([x[:DRAWS]] * len(at)).mean(),
            }
            rows.append(
                row
                | {
                    "exact draws": floor,
                    "flow / nearest": row["flow"] / near[best],
                    "seconds": seconds,
                }
            )
        kept.append((problem, at, draws))
    claim.table(
        "energy distance to the exact posterior",
        [
            "dx",
            "dy",
            "N",
            "flow",
            "+-",
            f"{DRAWS} nearest y",
            "nearest y",
            "of them",
            "no y",
            "exact draws",
            "flow / nearest",
            "seconds",
        ],
        rows,
        f"nearest y: the x of the data whose y are next to the observation, {DRAWS} of them and as many as are best in hindsight of\n"
        f"{NEAREST}; no y: the "
        f"first {DRAWS} x of the data; exact draws: {DRAWS} of the posterior itself, the floor. +-: standard error over observations.\n"
        "More steps did not lower the error: the particles then fit the data's own noise.",
    )
    for problem in problems:
        mine = [row for row in rows if row["dx"] == problem.dx]
        name = f"dx = {problem.dx}, dy = {problem.dy}"
        rate = slope([row["N"] for row in mine], [row["flow"] for row in mine])
        errors = " ".join(f"{row['flow']:.2g}" for row in mine)
        claim.check(
            f"{name}: the error falls with N",
            f"{errors}, slope {rate:.2f}",
            mine[-1]["flow"] < mine[0]["flow"],
        )
        last = mine[-1]
        share = last["flow"] / last["no y"]
        claim.check(
            f"{name}: at N = {last['N']} below a fifth of the error without y",
            f"{share:.3f}",
            share < 0.2,
        )
        word = "below" if last["flow"] < last["nearest y"] else "above"
        print(
            f"{name}: {word} the nearest data (times {last['flow / nearest']:.2f}), {last['flow'] / last['exact draws']:.1f} times the floor"
        )

    def draw(axes: Any) -> None:
        problem, at, draws = kept[0]
        g = np.random.default_rng(5)
        for axis, y, s in zip(axes, at, draws, strict=False):
            axis.plot(*problem.posterior(g, y, 1000).T, ".", ms=2, color="0.7", label="exact")
            axis.plot(*s.T, ".", ms=4, color="C0", label="flow")
            axis.set(title=f"y = {y[0]:.2f}", xlim=(-2, 2), ylim=(-2, 2))
            axis.legend()

    claim.picture(draw, 3)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
