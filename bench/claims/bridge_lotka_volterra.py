"""A Schrödinger bridge whose reference is refitted finds the dynamics behind snapshots of predators and prey."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse
from scipy.optimize import linear_sum_assignment

import mckean as mk
from mckean.transport import BrownianReference, LinearDrift, schrodinger_bridge

RATES = np.array([1.0, 0.4, 0.4, 0.1])  # alpha, beta, gamma, delta
NAMES = ("alpha", "beta", "gamma", "delta")
SIGMA, POINTS, FRESH = 0.1, 50, 500
TRAIN, HELD_OUT = (0, 2, 4, 6, 8), (1, 3, 5, 7)


def features(z: np.ndarray) -> np.ndarray:
    """dX = alpha X - beta X Y, dY = delta X Y - gamma Y: (n, 2, 4)."""
    x, y = z[:, 0], z[:, 1]
    nothing = np.zeros_like(x)
    prey = np.stack([x, -x * y, nothing, nothing], axis=1)
    return np.stack([prey, np.stack([nothing, nothing, -y, x * y], axis=1)], axis=1)


def jacobian(z: np.ndarray, rates: np.ndarray) -> np.ndarray:
    x, y = z[:, 0], z[:, 1]
    alpha, beta, gamma, delta = rates
    prey = np.stack([alpha - beta * y, -beta * x], axis=1)
    return np.stack([prey, np.stack([delta * y, delta * x - gamma], axis=1)], axis=1)


def model(rates: Any) -> LinearDrift:
    return LinearDrift(features, rates, SIGMA, jacobian=jacobian)


def snapshot(seed: int, t: int, n: int = POINTS) -> np.ndarray:
    """Particles at time t, which no other snapshot has seen."""
    seed = 1000 * seed + t
    x0 = np.array([5.0, 4.0]) + 0.1 * mk.random.uniform(seed, (n, 2))
    if t == 0:
        return x0
    return model(RATES).simulate(x0, np.arange(t + 1.0), n_substeps=100, seed=seed)[-1]


def w1(x: np.ndarray, y: np.ndarray) -> float:
    cost = np.sqrt(((x[:, None] - y) ** 2).sum(2))
    return float(cost[linear_sum_assignment(cost)].mean())


def study(seed: int, passes: int, n_substeps: int) -> dict[str, Any]:
    clouds = [snapshot(seed, t) for t in range(9)]
    given, times = [clouds[t] for t in TRAIN], np.array(TRAIN, float)
    options: dict[str, Any] = {"n_substeps": n_substeps, "seed": seed, "progress": False}
    fixed = schrodinger_bridge(given, times, BrownianReference(SIGMA), **options)
    start = time.perf_counter()
    found = schrodinger_bridge(given, times, model([1e-5] * 4), iterations=passes, **options)
    seconds = time.perf_counter() - start
    fresh = {t: snapshot(500 + seed, t, FRESH) for t in HELD_OUT}
    out: dict[str, Any] = {"seed": seed, "theta": found.history["theta"], "seconds": seconds}
    for name, bridge in (("fixed", fixed), ("refitted", found)):
        paths = dict(zip(bridge.times.round(9), bridge.sample_paths(FRESH, seed=seed), strict=True))
        out[name] = np.array([w1(bridge.sample_at(t), clouds[t]) for t in HELD_OUT])
        out[name + " fresh"] = np.array([w1(paths[t], fresh[t]) for t in HELD_OUT])
    out["draws"] = np.array([w1(snapshot(700 + seed, t), clouds[t]) for t in HELD_OUT])
    out["draws fresh"] = np.array([w1(snapshot(900 + seed, t, FRESH), fresh[t]) for t in HELD_OUT])
    out["converged"] = fixed.converged and found.converged
    out["bridge"] = (fixed, found, clouds)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("bridge_lotka_volterra", __doc__, argv)
    passes, seeds, n_substeps = 5, range(3 if args.quick else 10), 10 if args.quick else 20
    claim = Claim(
        args,
        "refitting the reference of a Schrödinger bridge recovers parameters and improves the interpolation",
        "Shen, Berlinghieri, Broderick, AISTATS 2025, arXiv:2408.06277",
        f"Lotka-Volterra with noise {SIGMA}; {POINTS} independent particles at each of the times 0, 1, ..., 8, even ones given, odd ones\n"
        f"         held out; mk.schrodinger_bridge with LinearDrift from rates of 1e-5, {passes} passes, {n_substeps} steps between snapshots,\n"
        "         against the bridge of a fixed Brownian reference of the same noise; every seed has its own data",
    )  # fmt: skip
    runs = [study(seed, passes, n_substeps) for seed in seeds]
    theta = np.array([run["theta"] for run in runs])  # (seeds, passes + 1, 4)
    claim.table(
        "rates after each pass, means over seeds",
        ["pass", *NAMES, "largest error"],
        [
            {"pass": p, **dict(zip(NAMES, theta[:, p].mean(0), strict=True)),
             "largest error": float(np.median(abs(theta[:, p] / RATES - 1).max(1)))}
            for p in range(passes + 1)
        ],
        f"true: {dict(zip(NAMES, RATES.tolist(), strict=True))}. Largest error: of the four, relative, median over seeds.",
    )  # fmt: skip
    claim.table(
        f"rates after {passes} passes",
        ["seed", *NAMES, "largest error", "seconds"],
        [
            {"seed": run["seed"], **dict(zip(NAMES, run["theta"][-1], strict=True)),
             "largest error": abs(run["theta"][-1] / RATES - 1).max(), "seconds": run["seconds"]}
            for run in runs
        ],
    )  # fmt: skip

    def mean(name: str) -> np.ndarray:
        return np.mean([run[name] for run in runs], axis=0)

    for suffix, title in (
        ("", f"W1 to the held-out snapshots, {POINTS} points each, means over seeds"),
        (" fresh", f"W1 of {FRESH} paths to {FRESH} new particles at the held-out times"),
    ):
        rows = [
            {"reference": label, **{f"t = {t}": v for t, v in zip(HELD_OUT, mean(name + suffix), strict=True)}}
            for name, label in (("fixed", "Brownian"), ("refitted", "refitted"), ("draws", "the truth itself"))
        ]  # fmt: skip
        left = (mean("refitted" + suffix) / mean("fixed" + suffix)).tolist()
        rows.append({"reference": "refitted / Brownian", **{f"t = {t}": v for t, v in zip(HELD_OUT, left, strict=True)}})  # fmt: skip
        claim.table(
            title,
            ["reference", *(f"t = {t}" for t in HELD_OUT)],
            rows,
            "the truth itself: another draw of as many particles, the part of W1 that is sampling and no bridge can take away.",
        )
    error = abs(theta[:, -1] / RATES - 1).max(1)
    claim.check("all couplings converged", str(all(run["converged"] for run in runs)),
                all(run["converged"] for run in runs))  # fmt: skip
    claim.check(
        f"rates within 10 % after {passes} passes (median over seeds of the worst one)",
        f"{np.median(error):.3f}, {int((error < 0.1).sum())} of {len(error)} seeds",
        bool(np.median(error) < 0.1),
    )
    for name, what, times in (
        ("", "the held-out snapshots", (0,)),
        (" fresh", "new particles", (0, -1)),
    ):
        fixed, refitted, floor = (mean(k + name) for k in ("fixed", "refitted", "draws"))
        for k in times:
            claim.check(
                f"W1 to {what} at least halved at t = {HELD_OUT[k]}",
                f"times {refitted[k] / fixed[k]:.2f}",
                bool(refitted[k] <= 0.5 * fixed[k]),
            )
        excess = np.maximum(refitted - floor, 0) / (fixed - floor)
        claim.check(
            f"W1 to {what} above that of the truth itself at least halved at all held-out times",
            "times " + ", ".join(f"{r:.2f}" for r in excess),
            bool((excess <= 0.5).all()),
        )

    def draw(axes: Any) -> None:
        fixed, found, clouds = runs[0]["bridge"]
        for axis, bridge, title in zip(axes, (fixed, found), ("Brownian", "refitted"), strict=True):
            axis.plot(*np.moveaxis(bridge.paths, 2, 0), color="0.8", lw=0.5)
            for t in range(9):
                style = {"ms": 3, "color": f"C{t // 2}"} if t % 2 == 0 else {"ms": 2, "color": "k"}
                axis.plot(*clouds[t].T, ".", **style)
            axis.set(title=f"{title} reference", xlabel="prey", ylabel="predators")

    claim.picture(draw, 2)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
