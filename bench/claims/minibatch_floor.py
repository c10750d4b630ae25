"""With mini-batches the stationary error of Hamiltonian samplers is of second order in the step at best, whatever the scheme."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from _claim import Claim, parse, slope

import mckean as mk
from mckean import samplers

ORDERS = {"ee": 1, "ubu": 2, "align": 2, "should": 3, "quicsort": 3}
REUSES = ("ee", "align", "should")  # the last gradient, and so its batch
BATCHES = ("full", "shuffle", "subset", "replacement")


# ---- a Gaussian posterior, where the bias is linear algebra --------------------------------------


class Line:
    """Six data y_i with precisions a_i about x, and a prior, in one dimension."""

    n, size = 6, 2

    def __init__(self) -> None:
        self.a = (0.2 + 1.6 * mk.random.uniform(1, self.n)) / self.n
        self.y, self.prior = 2 * mk.random.normal(2, self.n), 0.3
        self.precision = self.prior + self.a.sum()
        self.mean = (self.a * self.y).sum() / self.precision

    def of(self, indices: Sequence[int], scale: float) -> tuple[float, float]:
        """alpha and beta of a batch, whose gradient is beta - alpha x."""
        a, y = self.a[list(indices)], self.y[list(indices)]
        return self.prior + scale * a.sum(), scale * (a * y).sum()


class Fixed:
    """Noise of our choice, to read off what a step does with it."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def increment(self, s: float, t: float) -> Any:
        return SimpleNamespace(**{n: np.full((1, 1), self.values.get(n, 0.0)) for n in "WHK"})


def second_moments(scheme: str, h: float, alpha: float, beta: float) -> np.ndarray:
    """The map of E[z z^T], z = (x, v, gradient kept, 1), by one step."""
    one = np.ones((1, 1))

    def step(x: float, v: float, g: float, **noise: float) -> np.ndarray:
        chain = samplers.UnderdampedLangevin(
            lambda z: beta - alpha * z, h, scheme=scheme, noise=Fixed(**noise)
        )
        state = chain.init(x * one, v0=v * one)
        if scheme in REUSES:
            state.grad = g * one
        state = chain.step(state)
        kept = state.grad[0, 0] if scheme in REUSES else 0.0
        return np.array([state.x[0, 0], state.v[0, 0], kept, 1.0])

    rest = step(0, 0, 0)
    M = np.array([step(*e) - rest for e in np.eye(3)] + [rest]).T
    N = np.array([step(0, 0, 0, **{n: 1.0}) - rest for n in "WHK"]).T
    Q = (N * (h * np.array([1, 1 / 12, 1 / 720]))) @ N.T
    return np.kron(M, M) + np.outer(Q.ravel(), np.eye(16)[-1])


def exact_bias(data: Line, scheme: str, h: float, batches: str) -> float:
    """Of the variance of x, relative: from the mean map over all batches, or all orders of a pass."""
    every, scale = tuple(range(data.n)), data.n / data.size
    if batches == "full":
        total = second_moments(scheme, h, *data.of(every, 1.0))
    elif batches == "shuffle":
        maps = {
            s: second_moments(scheme, h, *data.of(s, scale))
            for s in itertools.combinations(every, data.size)
        }
        found: list[np.ndarray] = []

        def passes(left: tuple[int, ...], so_far: np.ndarray) -> None:
            if not left:
                found.append(so_far)
            for s in itertools.combinations(left, data.size):
                passes(tuple(i for i in left if i not in s), maps[s] @ so_far)

        passes(every, np.eye(16))
        total = np.mean(found, axis=0)
    else:
        choose = itertools.combinations if batches == "subset" else None
        drawn = list(choose(every, data.size) if choose else itertools.product(every, repeat=2))
        total = np.mean([second_moments(scheme, h, *data.of(s, scale)) for s in drawn], axis=0)
    system = np.vstack([total - np.eye(16), np.eye(16)[-1]])
    P = np.linalg.lstsq(system, np.eye(17)[-1], rcond=None)[0].reshape(4, 4)
    mu = data.mean
    return float((P[0, 0] - 2 * mu * P[0, 3] + mu * mu) * data.precision - 1)


# ---- logistic regression, sampled ----------------------------------------------------------------


def problem() -> tuple[Any, np.ndarray]:
    """Ten features and 96 rows of real data; and the mode."""
    from scipy.optimize import minimize
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = data.data[:96, :10]
    X = (X - X.mean(0)) / X.std(0)
    target = mk.targets.LogisticRegression(X, data.target[:96], prior_scale=1.0)
    mode = minimize(
        lambda x: float(target.potential(x[None])[0]),
        np.zeros(10),
        jac=lambda x: target.grad(x[None])[0],
    ).x
    return target, mode


def moments(chain: Any, start: np.ndarray, mode: np.ndarray, time: float, h: float) -> np.ndarray:
    """Mean squares around the mode (blocks, d), after a start that is left out."""
    steps, blocks = round(time / h), 10
    state = chain.init(start, seed=7)
    for _ in range(round(0.1 * steps)):
        state = chain.step(state)
    out = np.zeros((blocks, len(mode)))
    for k in range(steps):
        state = chain.step(state)
        out[k * blocks // steps] += ((state.x - mode) ** 2).mean(0) / (steps / blocks)
    return out


def sampled(quick: bool) -> tuple[list[dict[str, Any]], tuple[float, ...]]:
    target, mode = problem()
    chains, time, size = (300, 40.0, 24) if quick else (1000, 120.0, 24)
    steps = (0.1, 0.05, 0.025)
    start = mode + 0.5 * mk.random.normal(3, (chains, len(mode)))

    def measure(scheme: str, h: float, batches: str) -> np.ndarray:
        full = batches == "full"
        chain = samplers.StochasticGradientHMC(
            target,
            h,
            batch_size=len(target.X) if full else size,
            friction=2.0,
            scheme=scheme,
            sampling="shuffle" if full else batches,
        )
        return moments(chain, start, mode, time, h)

    truth = measure("quicsort", 0.05, "full").mean(0)
    rows = []
    for scheme, batches in itertools.product(("ubu", "quicsort"), BATCHES[:3]):
        row: dict[str, Any] = {"scheme": scheme, "batches": batches}
        for h in steps[:1] if batches == "full" else steps:
            off = (measure(scheme, h, batches) / truth).mean(1) - 1
            row[f"eta={h:g}"] = float(off.mean())
            row[f"+-{h:g}"] = float(off.std(ddof=1) / math.sqrt(len(off)))
        rows.append(row)
    return rows, steps


def implied_rate(
    coarse: tuple[float, float], fine: tuple[float, float]
) -> tuple[str, float, float]:
    """Of a bias with its standard error, at a step and at half of it: what to print, and the bounds
    at three errors. A finer bias that may be zero bounds the rate from below alone."""
    (a, ea), (b, eb) = ((abs(x), 3 * e) for x, e in (coarse, fine))
    least = math.log2((a - ea) / (b + eb)) if a > ea else -math.inf
    most = math.log2((a + ea) / (b - eb)) if b > eb else math.inf
    if math.isinf(most):
        return f"at least {least:.2f}, the finer bias may be zero", least, most
    e = math.hypot(ea / a, eb / b) / 3 / math.log(2) if a else math.inf
    return f"rate {math.log2(a / b):.2f} +- {e:.2f}, at least {least:.2f}", least, most


def rate_with_error(
    steps: Sequence[float], found: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """Slope of the logarithm of a bias, and its standard error from those of the biases."""
    x = np.log(steps) - np.log(steps).mean()
    weights, (b, e) = x / (x @ x), np.abs(np.array(found)).T
    return float(weights @ np.log(b)), float(np.sqrt(((weights * e / b) ** 2).sum()))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("minibatch_floor", __doc__ or "", argv)
    claim = Claim(
        args,
        "when considering mini-batches, the best achievable error rate is O(eta^2), with eta the step",
        "G. Franzese, D. Milios, M. Filippone, P. Michiardi, Revisiting the effects of stochasticity for Hamiltonian "
        "samplers, 2022",
        "relative bias of stationary variances: 1 dimension, 6 data in batches of 2, exact by linear algebra; logistic "
        "regression with 10 features and 96 rows of breast cancer data in batches of 24, sampled",
    )
    data, steps = Line(), tuple(0.1 / 2**k for k in range(8))
    found = {(s, b): [exact_bias(data, s, h, b) for h in steps] for s in ORDERS for b in BATCHES}

    def rate(b: Sequence[float]) -> float:
        """Over the last two halvings that rounding leaves alone."""
        last = max(i for i, value in enumerate(b) if abs(value) > 1e-11) + 1
        return slope(steps[last - 3 : last], np.abs(b[last - 3 : last]))

    rates = {key: rate(b) for key, b in found.items()}
    claim.table(
        "relative bias of the variance, Gaussian posterior; rate over the last two halvings",
        ["scheme", "order", "batches", *(f"eta={h:.3g}" for h in steps[::2]), "rate"],
        [
            {
                "scheme": s,
                "order": ORDERS[s],
                "batches": b,
                **{f"eta={h:.3g}": v for h, v in zip(steps, found[s, b], strict=True)},
                "rate": rates[s, b],
            }
            for s, b in found
        ],
        "full: all data in every step. shuffle: passes through the data in random order. subset: an independent random\n"
        "batch in every step. replacement: every member of a batch drawn by itself.",
    )
    rows, sizes = sampled(args.quick)
    columns = [c for h in sizes for c in (f"eta={h:g}", f"+-{h:g}")]
    claim.table(
        "mean relative bias of second moments about the mode, logistic regression; +- one standard error over time",
        ["scheme", "batches", *columns],
        rows,
        "against full gradients with quicsort at 0.05",
    )

    def rate_range(schemes: Sequence[str], batches: str) -> str:
        values = [rates[s, batches] for s in schemes]
        return f"rates {min(values):.2f} to {max(values):.2f}"

    high = [s for s in ORDERS if ORDERS[s] > 1]
    claim.check(
        "full gradients have the order of the scheme, 1, 2 and 3",
        ", ".join(f"{s} {rates[s, 'full']:.2f}" for s in ORDERS),
        all(abs(rates[s, "full"] - ORDERS[s]) < 0.25 for s in ORDERS),
    )
    claim.check(
        "with batches no scheme of order 2 or 3 does better than O(eta^2)",
        "; ".join(f"{b}: {rate_range(high, b)}" for b in BATCHES[1:]),
        all(rates[s, b] < 2.25 for s in high for b in BATCHES[1:]),
    )
    claim.check(
        "shuffled passes reach O(eta^2), with schemes of second order as of third",
        rate_range(high, "shuffle"),
        all(rates[s, "shuffle"] > 1.75 for s in high),
    )
    claim.check(
        "batches drawn independently reach O(eta^2) too",
        "; ".join(f"{b}: {rate_range(high, b)}" for b in BATCHES[2:])
        + " (their noise is heat of order eta)",
        all(rates[s, b] > 1.75 for s in high for b in BATCHES[2:]),
    )
    by = {(r["scheme"], r["batches"]): r for r in rows}

    def at(scheme: str, batches: str, h: float) -> tuple[float, float]:
        row = by[scheme, batches]
        return row[f"eta={h:g}"], row[f"+-{h:g}"]

    texts, holds = [], []
    for scheme, h in itertools.product(("ubu", "quicsort"), sizes[:2]):
        (a, ea), (b, eb) = at(scheme, "shuffle", h), at(scheme, "subset", h)
        texts.append(f"{scheme} at {h:g}: {a:+.3f} and {b:+.3f}")
        holds.append(abs(a) + 3 * math.hypot(ea, eb) < abs(b))
    claim.check(
        "logistic regression: shuffled passes are less biased than independent batches",
        "; ".join(texts),
        all(holds),
    )
    texts, holds = [], []
    for scheme in ("ubu", "quicsort"):
        text, least, most = implied_rate(*(at(scheme, "shuffle", h) for h in sizes[:2]))
        texts.append(f"{scheme}: {text}")
        holds.append(least > 1 and most >= 2)
    claim.check(
        f"there, from eta = {sizes[0]:g} to {sizes[1]:g}, the bias of shuffled passes falls faster than eta, and by no less "
        "than eta^2 as far as errors show",
        "; ".join(texts),
        all(holds),
    )
    texts, holds = [], []
    for scheme in ("ubu", "quicsort"):
        x, e = rate_with_error(sizes, [at(scheme, "subset", h) for h in sizes])
        texts.append(f"{scheme}: rate {x:.2f} +- {e:.2f}")
        holds.append(abs(x - 1) < 0.25 + 3 * e and x + 3 * e < 2)
    claim.check(
        "there the bias of independent batches falls about as eta, and not as eta^2",
        "; ".join(texts),
        all(holds),
    )

    def draw(axes: Any) -> None:
        for axis, batches in zip(axes, BATCHES[:3], strict=True):
            for s in ORDERS:
                axis.loglog(steps, np.abs(found[s, batches]), "o-", label=f"{s} ({ORDERS[s]})")
            for power in (1, 2, 3):
                axis.loglog(steps, 0.3 * np.array(steps) ** power, ":", color="gray", lw=0.8)
                axis.annotate(f"$\\eta^{power}$", (steps[-1], 0.3 * steps[-1] ** power), fontsize=8)
            axis.set(title=batches, xlabel="step $\\eta$", ylim=(1e-10, 1))
        axes[0].set_ylabel("relative bias of the variance")
        axes[0].legend(fontsize=7, title="scheme (order)", title_fontsize=7)

    claim.picture(draw, columns=3)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
