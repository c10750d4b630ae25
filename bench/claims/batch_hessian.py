"""Extremal eigenvalues of batch Hessians against those of all data, and the largest learning rates of SGD and Adam by batch size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse, slope

import mckean as mk
from mckean._demos.hessian import Network, _data

BATCHES, RATES = (4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8, 16, 32, 64, 128, 256)
STEPS = 150


class Softmax(Network):
    """A linear model: its Hessian is the generalised Gauss-Newton matrix."""

    def __init__(self, images: Any, labels: Any) -> None:
        super().__init__(images, labels, (images.shape[1], 10))

    def _probabilities(self, theta: Any, rows: Any) -> tuple[Any, ...]:
        W, b = self._split(theta)
        logits = self.images[rows] @ W + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        return self.images[rows], p / p.sum(1, keepdims=True), self.labels[rows]

    def loss(self, theta: Any, rows: Any = slice(None)) -> float:
        _, p, y = self._probabilities(theta, rows)
        return float(-np.log(np.maximum((p * y).sum(1), 1e-300)).mean())

    def gradient(self, theta: Any, rows: Any = slice(None)) -> Any:
        x, p, y = self._probabilities(theta, rows)
        e = (p - y) / len(x)
        return np.concatenate([(x.T @ e).ravel(), e.sum(0)])

    def hessian(self, theta: Any, rows: Any = slice(None)) -> Any:
        x, p, _ = self._probabilities(theta, rows)

        def product(v: Any) -> Any:
            W, b = self._split(v)
            dl = x @ W + b
            de = p * (dl - (p * dl).sum(1, keepdims=True)) / len(x)
            return np.concatenate([(x.T @ de).ravel(), de.sum(0)])

        return product


def ends(product: Any, net: Network) -> tuple[float, float]:
    """The largest and the smallest eigenvalue; no Gauss-Newton matrix has negative ones."""
    top = mk.lowrank.lanczos(product, net.d, 1, tol=1e-3, check=False).s[0]
    if isinstance(net, Softmax):
        return float(top), 0.0
    low = mk.lowrank.lanczos(product, net.d, 1, which="SA", tol=1e-2, check=False).s[0]
    return float(top), float(low)


def fit(net: Network, theta: Any, repeats: int) -> tuple[float, float, list[dict[str, Any]]]:
    """lam of all data, v of the law lam + v / b, and a row for every batch size."""
    n = len(net.images)
    lam = ends(net.hessian(theta), net)[0]
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        g = np.random.default_rng(batch)
        found = [
            ends(net.hessian(theta, g.choice(n, batch, replace=False)), net) for _ in range(repeats)
        ]
        mean, error = np.mean(found, 0), np.std(found, 0)[0] / np.sqrt(repeats)
        rows.append({"B": batch, "largest": mean[0], "error": error, "over all data": mean[0] / lam, "smallest": mean[1]})  # fmt: skip
    noise = 1 / np.array(BATCHES, float) - 1 / n
    values, errors = (np.array([row[name] for row in rows]) for name in ("largest", "error"))
    weight = noise / np.maximum(errors, 1e-2 * values) ** 2
    v = float(weight @ (values - lam) / (weight @ noise))
    for row, inverse in zip(rows, noise, strict=True):
        row |= {"law": lam + v * inverse, "excess * b": (row["largest"] - lam) / inverse}
    return lam, v, rows


def sgd(theta: Any, rate: float, gradient: Callable[[Any, int], Any], steps: int) -> Any:
    for step in range(steps):
        theta = theta - rate * gradient(theta, step)
        yield theta


def adam(theta: Any, rate: float, gradient: Callable[[Any, int], Any], steps: int) -> Any:
    """D. Kingma, J. Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, with its constants."""
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(steps):
        g = gradient(theta, step)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        at = step + 1
        theta = theta - rate * (m / (1 - 0.9**at)) / (np.sqrt(v / (1 - 0.999**at)) + 1e-8)
        yield theta


def stable(net: Network, theta: Any, method: Any, rate: float, batch: int, seed: int) -> bool:
    """The loss, in the mean of the last third of the steps, is not above the one at the start."""
    g = np.random.default_rng(seed)
    n = len(net.images)

    def gradient(at: Any, step: int) -> Any:
        return net.gradient(at, g.choice(n, batch, replace=False))

    start, late = net.loss(theta), []
    with np.errstate(all="ignore"):
        for step, at in enumerate(method(theta, rate, gradient, STEPS)):
            if step > 2 * STEPS // 3 and step % 5 == 0:
                late.append(net.loss(at))
                if not np.isfinite(late[-1]):
                    return False
    return bool(np.mean(late) <= start)


def limit(net: Network, theta: Any, method: Any, batch: int, seed: int, around: float) -> float:
    """The largest stable rate, to six per cent: where stable ends, going up from a rate that is."""
    low = around
    while not stable(net, theta, method, low, batch, seed):
        low /= 2
        if low < 1e-6 * around:
            return float("nan")
    while stable(net, theta, method, 2 * low, batch, seed) and low < 1e6 * around:
        low *= 2
    high = 2 * low
    for _ in range(4):
        middle = float(np.sqrt(low * high))
        low, high = (
            (middle, high) if stable(net, theta, method, middle, batch, seed) else (low, middle)
        )
    return low


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("batch_hessian", __doc__, argv)
    repeats, tries = (8, 1) if args.quick else (20, 3)
    rates = RATES[::2] if args.quick else RATES
    images, labels = _data()
    n = len(images)
    claim = Claim(
        args,
        "extremal eigenvalues of the Hessian of a batch are larger than those of all data, by v / b with b = B / (1 - B/N);\n"
        "         so the largest learning rate of SGD grows in proportion to B while noise dominates, that of Adam as sqrt(B)",
        "Granziol, Zohren and Roberts, JMLR 23, 2022, arXiv:2006.09092",
        f"scikit-learn's digits (N = {n}): softmax regression (its Hessian is the Gauss-Newton matrix) and a tanh network 64-16-10 after\n"
        f"         gradient descent; {repeats} batches of every size; a rate trains if {STEPS} steps from the start do not\n"
        f"         end above the loss of all data there, in the mean of the last third; median of {tries} runs",
    )  # fmt: skip

    cases = []
    for name, net, steps in (("softmax", Softmax(images, labels), 200), ("network", Network(images, labels), 200)):  # fmt: skip
        theta = net.start(0) if name == "network" else np.zeros(net.d)
        for _ in range(steps):
            theta = theta - 0.5 * net.gradient(theta)
        cases.append((name, net, theta))

    shown = []
    for name, net, theta in cases:
        lam, v, rows = fit(net, theta, repeats)
        least = ends(net.hessian(theta), net)[1]
        B, values = np.array(BATCHES, float), np.array([row["largest"] for row in rows])
        b, law = B / (1 - B / n), np.array([row["law"] for row in rows])
        error = np.array([row["error"] for row in rows])
        excess = (values - lam) * b
        claim.table(
            f"{name}: mean extremal eigenvalues of batch Hessians; all data: {lam:.3g} and {least:.2g}",
            ["B", "largest", "error", "over all data", "excess * b", "law", "smallest"],
            rows,
            f"law: {lam:.3g} + {v:.3g} / b, fitted; the noise is as large as the signal at B = {v / lam:.1f}",
        )
        claim.check(
            f"{name}: the largest eigenvalue of a batch exceeds that of all data",
            f"by factors {values[0] / lam:.2f} (B = 4) to {values[-1] / lam:.2f} (B = 256)",
            bool((values > lam - 2 * error).all() and values[0] > lam + 3 * error[0]),
        )
        if name == "network":
            smallest = np.array([row["smallest"] for row in rows])
            claim.check(
                "network: so does the smallest one, downwards",
                f"{smallest[0]:.2g} (B = 4) to {smallest[-1]:.2g} (B = 256) against {least:.2g}",
                bool((smallest < least).all()),
            )
        clear = values - lam > 3 * error
        claim.check(
            f"{name}: where the excess is clear of chance, it falls as 1 / b",
            f"slope {slope(b[clear], (values - lam)[clear]):.2f} over {clear.sum()} sizes, excess times b {excess[clear].min():.2g} to {excess[clear].max():.2g}",
            bool(clear.sum() >= 3 and abs(slope(b[clear], (values - lam)[clear]) + 1) < 0.25),
        )  # fmt: skip
        shown.append((name, B, values, lam, law, v))

    tried = []
    for name, net, _ in cases:
        begin = net.start(0) if name == "network" else np.zeros(net.d)
        lam, v = fit(net, begin, repeats)[:2]
        rows = []
        for batch in rates:
            row = {"B": batch, "2 / (lam + v/b)": 2 / (lam + v * (1 / batch - 1 / n))}
            for method, around in ((sgd, 2 / lam), (adam, 0.05)):
                found = [limit(net, begin, method, batch, s, around) for s in range(tries)]
                row[method.__name__] = float(np.median(found))
            rows.append(row)
        B = np.array(rates, float)
        best = {m: np.array([row[m] for row in rows]) for m in ("sgd", "adam")}
        few = B <= max(4.0, v / lam)  # noise is the larger part
        sgd_few, sgd_many = slope(B[few], best["sgd"][few]), slope(B[~few], best["sgd"][~few])
        adam_slope = slope(B, best["adam"])
        claim.table(
            f"{name}: largest rates that train from the start ({lam:.3g} + {v:.3g} / b there)",
            ["B", "2 / (lam + v/b)", "sgd", "adam"],
            rows,
            f"slopes in B: SGD {sgd_few:.2f} up to {B[few][-1]:.0f}, {sgd_many:.2f} beyond; Adam {adam_slope:.2f}",
        )
        claim.check(
            f"{name}: SGD's largest rate is proportional to B up to {B[few][-1]:.0f}",
            f"slope {sgd_few:.2f} (0.75 to 1.25 is called proportional)",
            0.75 <= sgd_few <= 1.25,
        )
        claim.check(
            f"{name}: it saturates beyond",
            f"slope {sgd_many:.2f} (below 0.5 is called saturated)",
            sgd_many < 0.5,
        )
        claim.check(
            f"{name}: Adam's goes as sqrt(B)",
            f"slope {adam_slope:.2f} (0.35 to 0.65 is called a square root)",
            0.35 <= adam_slope <= 0.65,
        )
        tried.append((name, B, best, rows))

    def draw(axes: Any) -> None:
        for axis, (name, B, values, lam, law, _) in zip(axes[:2], shown, strict=True):
            axis.loglog(B, values, "o", label="batches, mean")
            axis.loglog(B, law, "-", label="fitted law")
            axis.axhline(lam, color="gray", lw=0.8, label="all data")
            axis.set(title=f"{name}: largest eigenvalue", xlabel="B")
            axis.legend()
        for name, B, best, rows in tried:
            axes[2].loglog(B, best["sgd"], "o-", label=f"SGD, {name}")
            axes[2].loglog(B, best["adam"], "s--", label=f"Adam, {name}")
            axes[2].loglog(B, [r["2 / (lam + v/b)"] for r in rows], ":", color="gray")
        axes[2].set(title="largest rate that trains", xlabel="B")
        axes[2].legend()

    claim.picture(draw, columns=3)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
