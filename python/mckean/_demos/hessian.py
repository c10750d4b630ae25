"""The Hessian of a network on digits: bulk and outliers before and after training, and the learning rates it allows."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mckean as mk

__all__ = ["main"]

_WIDTHS = (64, 16, 10)
_RATE, _TOP = 0.5, 10
_BATCHES = (16, 32, 64, 128, 256)
_PROBES, _PRODUCTS = 5, 60  # of a spectral density


class Network:
    """A tanh network with softmax cross entropy: loss, gradient and products with the Hessian; parameters in a row."""

    def __init__(self, images: Any, labels: Any, widths: Sequence[int] = _WIDTHS) -> None:
        self.images, self.labels = images, np.eye(widths[-1])[labels]
        self.shapes = [shape for a, b in itertools.pairwise(widths) for shape in ((a, b), (b,))]
        self.d = sum(int(np.prod(shape)) for shape in self.shapes)

    def start(self, seed: int) -> Any:
        """Normal weights of variance 1 / fan-in, no biases."""
        parts = [
            mk.random.normal(seed, shape, stream=i) / shape[0] ** 0.5
            if len(shape) > 1
            else np.zeros(shape)
            for i, shape in enumerate(self.shapes)
        ]
        return np.concatenate([part.reshape(-1) for part in parts])

    def _split(self, theta: Any) -> list[Any]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(theta, ends)
        return [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _forward(self, theta: Any, rows: Any) -> tuple[Any, ...]:
        W1, b1, W2, b2 = self._split(theta)
        x = self.images[rows]
        hidden = np.tanh(x @ W1 + b1)
        logits = hidden @ W2 + b2
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return x, hidden, p, self.labels[rows], W1, W2

    def loss(self, theta: Any, rows: Any = slice(None)) -> float:
        _, _, p, y, _, _ = self._forward(theta, rows)
        return float(-np.log((p * y).sum(1)).mean())

    def gradient(self, theta: Any, rows: Any = slice(None)) -> Any:
        x, hidden, p, y, _, W2 = self._forward(theta, rows)
        e = (p - y) / len(x)
        back = (e @ W2.T) * (1 - hidden**2)
        return np.concatenate([(x.T @ back).ravel(), back.sum(0), (hidden.T @ e).ravel(), e.sum(0)])

    def hessian(self, theta: Any, rows: Any = slice(None)) -> Any:
        """v -> H v, exact: the derivative of the gradient along v [1]_.

        .. [1] B. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6, 1994
        """
        x, hidden, p, y, _, W2 = self._forward(theta, rows)
        slope = 1 - hidden**2
        e = (p - y) / len(x)
        arrived = e @ W2.T

        def product(v: Any) -> Any:
            V1, c1, V2, c2 = self._split(v)
            dh = slope * (x @ V1 + c1)
            dl = dh @ W2 + hidden @ V2 + c2
            de = p * (dl - (p * dl).sum(1, keepdims=True)) / len(x)
            db = (de @ W2.T + e @ V2.T) * slope - 2 * arrived * hidden * dh
            return np.concatenate(
                [(x.T @ db).ravel(), db.sum(0), (dh.T @ e + hidden.T @ de).ravel(), de.sum(0)]
            )

        return product

    def accuracy(self, theta: Any) -> float:
        p, y = self._forward(theta, slice(None))[2:4]
        return float((p.argmax(1) == y.argmax(1)).mean())


def _data() -> tuple[Any, Any]:
    """Handwritten digits [1]_: 1797 images of 8 x 8 pixels, in [0, 1], and what they show.

    .. [1] E. Alpaydin, C. Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data / 16.0, data.target


def _rows(batch: int, seed: int, n: int) -> Any:
    """A batch without repetition."""
    return np.argsort(mk.random.uniform(seed, n, stream=3))[:batch]


def main(folder: Path, *, n_steps: int = 1000) -> int:
    """Train, look at the Hessian, print tables, write ``hessian.png`` into `folder`; return the exit status."""
    try:
        import matplotlib
        import threadpoolctl  # scikit-learn needs it too
    except ImportError as error:
        print(
            f"the demo needs {error.name}: pip install 'mckean[plot]' scikit-learn", file=sys.stderr
        )
        return 1
    matplotlib.use("Agg")
    with threadpoolctl.threadpool_limits(1):  # for products as small as these
        return _show(folder, n_steps)


def _show(folder: Path, n_steps: int) -> int:
    start = time.perf_counter()
    images, labels = _data()
    net = Network(images, labels)
    theta = net.start(0)
    print(
        f"a tanh network {'-'.join(map(str, _WIDTHS))} on {len(images)} digits, {net.d} parameters; "
        f"gradient descent at rate {_RATE}\n"
    )
    print(f"{'step':>5}{'loss':>8}{'right':>7}   {_TOP} largest eigenvalues, and the smallest")
    shown = sorted({0, n_steps // 5, n_steps})
    seen, done = [], True
    for step in range(n_steps + 1):
        if step in shown:
            H = net.hessian(theta)
            top = mk.lowrank.lanczos(H, net.d, _TOP, tol=1e-6)
            least = mk.lowrank.lanczos(H, net.d, 1, which="SA", tol=1e-6)
            done = done and bool(top.converged) and bool(least.converged)
            values = " ".join(f"{s:.3g}" for s in top.s)
            print(
                f"{step:>5}{net.loss(theta):>8.3f}{net.accuracy(theta):>7.3f}   {values} | {least.s[0]:.2g}"
            )
            if step in (0, n_steps):
                density = mk.lowrank.spectral_density(H, net.d, n_probes=_PROBES, n_steps=_PRODUCTS)
                seen.append((step, np.asarray(top.s), density))
        theta = theta - _RATE * net.gradient(theta)

    print(f"\n{'step':>5}{'bulk ends':>11}{'outliers':>10}{'near zero':>11}")
    for step, _, density in seen:
        found = density.outliers()
        count = "no gap" if found.n_outliers is None else str(found.n_outliers)
        print(f"{step:>5}{found.edge:>11.3g}{count:>10}{found.near_zero:>11.0%}")

    def of_batch(batch: int, seed: int) -> Any:
        return net.hessian(theta, _rows(batch, seed, len(images)))

    advice = mk.lowrank.learning_rate_advice(
        of_batch, _BATCHES, d=net.d, n_total=len(images), n_batches=10
    )
    print(f"\n{'batch':>5}{'largest eigenvalue':>20}{'SGD stable below':>18}")
    for batch, value, rate in zip(_BATCHES, advice.lam_batch, advice.lr_max, strict=True):
        print(f"{batch:>5}{value:>20.3g}{rate:>18.3g}")
    largest = float(seen[-1][1][0])
    print(f"{'all':>5}{largest:>20.3g}{2 / largest:>18.3g}")
    print(
        f"fit: {advice.lam_1:.3g} + {advice.v:.3g} / b; below a batch of {advice.B_crit:.0f} rates may grow with it"
    )
    path = _picture(folder, seen, advice)
    print(f"\ntime     {time.perf_counter() - start:.1f} s\npicture  {path}")
    return 0 if done else 1


def _picture(folder: Path, seen: list[Any], advice: Any) -> Path:
    """Densities on a logarithmic scale with the leading eigenvalues; batch Hessians."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(seen) + 1, figsize=(4 * len(seen) + 4, 3.8), layout="constrained")  # fmt: skip
    for axis, (step, top, density) in zip(axes, seen, strict=False):
        grid, height = np.asarray(density.grid), np.asarray(density.density)
        axis.semilogy(grid, np.maximum(height, 1e-6), color="tab:blue")
        axis.plot(top, np.full(len(top), 3e-4), "|", color="tab:red", ms=14, label="Lanczos")
        axis.set(
            title=f"after {step} steps" if step else "before training",
            xlabel="eigenvalue",
            ylim=(1e-4, None),
        )
    axes[0].set_ylabel("density")
    axes[0].legend()
    B = np.asarray(_BATCHES, float)
    axes[-1].loglog(B, advice.lam_batch, "o", label="batches, mean")
    axes[-1].loglog(B, advice.lam(B), color="tab:blue", lw=0.8, label="fit")
    axes[-1].axhline(seen[-1][1][0], color="gray", lw=0.8, label="all images")
    axes[-1].set(title="largest eigenvalue after training", xlabel="batch")
    axes[-1].set_xticks(B, [str(b) for b in _BATCHES])
    levels = [v for v in (0.5, 1, 1.5, 2, 3, 4, 6, 8) if v > 0.8 * seen[-1][1][0]]
    axes[-1].set_yticks(levels, [str(v) for v in levels])
    axes[-1].minorticks_off()
    axes[-1].legend()
    figure.suptitle("The Hessian of a network on digits: a bulk near zero and a few outliers")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hessian.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
