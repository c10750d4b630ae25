"""Potentials predicted from solved problems save Sinkhorn iterations on digits; so do those of the step before in a flow."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse

import mckean as mk

TOLS = (1e-2, 1e-3, 1e-6)
SIDE, TRAINING = 8, 1400


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images as weights of their pixels, and the pixels."""
    from sklearn.datasets import load_digits

    images = load_digits().data.astype(float)
    axis = np.arange(float(SIDE))
    pixels = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    return images / images.sum(1, keepdims=True), pixels


def pairs(images: np.ndarray, which: np.ndarray, count: int, seed: int) -> list[tuple[Any, Any]]:
    chosen = np.random.default_rng(seed).choice(which, (count, 2))
    return [(images[i], images[j]) for i, j in chosen]


def plain_iterations(x: np.ndarray, y: np.ndarray, eps: float, tol: float, init: Any) -> Any:
    return mk.sinkhorn_points(
        x, y, eps=eps, tol=tol, acceleration=None, method="scaling", init=init, max_iter=100_000
    )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("warm_start_digits", __doc__, argv)
    n_fit, n_test = (500, 50) if args.quick else (6000, 300)
    images, pixels = digits()
    cost = ((pixels[:, None] - pixels) ** 2).sum(-1)
    order = np.random.default_rng(0).permutation(len(images))
    train, held_out = order[:TRAINING], order[TRAINING:]
    test = pairs(images, held_out, n_test, 2)
    mean_cost = float(np.mean([a @ cost @ b for a, b in test]))
    claim = Claim(
        args,
        "a predictor fitted on solved problems starts Sinkhorn's iterations closer than zero and than the potential of\n"
        "         Gaussians: to a marginal error of 1e-2, digits need about half of the time of either",
        "Amos et al., ICML 2023, arXiv:2206.05262; Thornton and Cuturi, AISTATS 2023, arXiv:2206.07630",
        f"pairs of scikit-learn's digits, 8 x 8 pixels, squared distance (mean {mean_cost:.1f}); ridge regression on {n_fit} pairs of\n"
        f"         {TRAINING} images, tested on {n_test} pairs of the other {len(held_out)}; plain iterations to an L1 error, the first one counted",
    )  # fmt: skip

    rows, saving = [], {}
    for eps in (0.5, 1.0, 2.0):
        predictor = mk.transport.AmortizedPotential(eps=eps, support=pixels)
        began = time.perf_counter()
        predictor.fit(pairs(images, train, n_fit, 1), tol=1e-5)
        spent = time.perf_counter() - began
        report = predictor.report(test, tols=TOLS, max_iter=100_000)
        for k, tol in enumerate(TOLS):
            zero, gaussian, predicted = (
                float(report[name][:, k].mean()) for name in ("zero", "gaussian", "predicted")
            )
            saving[eps, tol] = predicted / zero, predicted / gaussian
            rows.append(
                {
                    "eps": eps,
                    "L1 error": tol,
                    "zero": zero,
                    "gaussian": gaussian,
                    "predicted": predicted,
                    "of zero": predicted / zero,
                    "of gaussian": predicted / gaussian,
                    "kept": float(report["kept"].mean()),
                    "fit, s": spent,
                }
            )
    claim.table(
        "mean iterations from each start",
        ["eps", "L1 error", "zero", "gaussian", "predicted", "of zero", "of gaussian", "kept", "fit, s"],
        rows,
        "kept: predictions whose dual value beat those of both other starts; that test costs 1.5 iterations more",
    )  # fmt: skip

    n = 100 if args.quick else 300
    moved = []
    for tol in TOLS:
        counts = np.zeros(3)
        repeats = 2 if args.quick else 5
        for seed in range(repeats):
            x, y = mk.random.normal(seed, (2, n, 3))
            y += 0.5
            # The mean cost of the clouds at hand.
            apart = (x.mean(0) - y.mean(0)) @ (x.mean(0) - y.mean(0))
            eps = 0.03 * float(x.var(0).sum() + y.var(0).sum() + apart)
            before = plain_iterations(x, y, eps, tol, None)
            x = x + 0.01 * mk.random.normal(seed, (n, 3), counter=1)
            for k, init in enumerate((None, "gaussian", before)):
                counts[k] += plain_iterations(x, y, eps, tol, init).n_iter / repeats
        moved.append(
            {
                "L1 error": tol,
                "zero": counts[0],
                "gaussian": counts[1],
                "before": counts[2],
                "of zero": counts[2] / counts[0],
            }
        )
    claim.table(
        f"clouds of {n} points in 3 dimensions that moved by 1 %, eps = 0.03 of the mean cost",
        ["L1 error", "zero", "gaussian", "before", "of zero"],
        moved,
        "before: from the potentials of the unmoved points",
    )

    y = images[order[:n]] @ pixels[:, :1] + mk.random.normal(9, (n, 2)) * [0.2, 1.0]
    flows = []
    for step in (0.1, 0.5):
        flow = mk.flows.SinkhornFlow(y, step, eps=0.1, tol=1e-3, acceleration=None)
        state = flow.init(mk.random.normal(4, (n, 2)) + 2)
        warm, cold = [], []
        for _ in range(12):
            state = flow.step(state)
            warm.append(state.iterations)
            cold.append(flow.init(state.x).iterations)
        flows.append(
            {
                "step": step,
                "zero": float(np.mean(cold)),
                "carried": float(np.mean(warm)),
                "of zero": sum(warm) / sum(cold),
            }
        )
    claim.table(
        "Sinkhorn iterations in a step of mk.flows.SinkhornFlow, to 1e-3, both of its problems together",
        ["step", "zero", "carried", "of zero"],
        flows,
    )

    claim.check(
        "digits, to 1e-2: at most half the iterations from zero, at every eps",
        ", ".join(f"{saving[eps, 1e-2][0]:.2f}" for eps in (0.5, 1.0, 2.0)),
        all(saving[eps, 1e-2][0] <= 0.5 for eps in (0.5, 1.0, 2.0)),
    )
    claim.check(
        "digits, to 1e-2: at most 0.7 of those from the potential of Gaussians",
        ", ".join(f"{saving[eps, 1e-2][1]:.2f}" for eps in (0.5, 1.0, 2.0)),
        all(saving[eps, 1e-2][1] <= 0.7 for eps in (0.5, 1.0, 2.0)),
    )
    claim.check(
        "digits, to 1e-3 and 1e-6: fewer than from either",
        ", ".join(f"{max(saving[e, t]):.2f}" for t in TOLS[1:] for e in (0.5, 1.0, 2.0)),
        all(max(saving[e, t]) < 1 for t in TOLS[1:] for e in (0.5, 1.0, 2.0)),
    )
    claim.check(
        "points that moved by 1 %, to 1e-6: at most 0.6 of the iterations from zero",
        f"{moved[-1]['zero']:.0f} and {moved[-1]['before']:.0f}",
        moved[-1]["of zero"] <= 0.6,
    )
    claim.check(
        "the flow's own starts: at most 0.7 of the iterations from zero",
        ", ".join(f"{row['of zero']:.2f}" for row in flows),
        all(row["of zero"] <= 0.7 for row in flows),
    )

    def draw(axes: Any) -> None:
        for name, mark in (("zero", "o-"), ("gaussian", "s-"), ("predicted", "^-")):
            values = [row[name] for row in rows if row["eps"] == 1.0]
            axes[0].loglog(TOLS, values, mark, label=name)
        axes[0].set(xlabel="L1 error", ylabel="iterations", title="digits, eps = 1")
        axes[0].invert_xaxis()
        axes[0].legend()
        for name, mark in (("zero", "o-"), ("gaussian", "s-"), ("before", "^-")):
            axes[1].loglog(TOLS, [row[name] for row in moved], mark, label=name)
        axes[1].set(xlabel="L1 error", title="clouds moved by 1 %")
        axes[1].invert_xaxis()
        axes[1].legend()

    claim.picture(draw, 2)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
