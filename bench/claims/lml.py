"""Levenberg-Marquardt-Langevin steps of a diffusion sampler beside DDIM and a two-step method, on mixtures with exact scores."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse

import mckean as mk
from mckean import diffusion
from mckean.diffusion import schedules

EVALUATIONS = (5, 10, 20, 50)
LENGTHS = (0.1, 0.2, 0.35, 0.5, 0.8)
NOISE = 0.005  # differences of energy distances below this are of the samples, at n = 3000


class Mixture:
    """Gaussians whose samples and predictions are exact."""

    def __init__(self, means: np.ndarray, scale: float, weights: np.ndarray | None = None) -> None:
        self.means, self.scale = means, scale
        self.weights = np.full(len(means), 1 / len(means)) if weights is None else weights
        self.target = mk.targets.GaussianMixture(means, self.weights, scale=scale)

    def sample(self, n: int, seed: int) -> np.ndarray:
        g = np.random.default_rng(seed)
        return self.means[g.choice(len(self.means), n, p=self.weights)] + self.scale * g.standard_normal((n, self.means.shape[1]))  # fmt: skip


def mixtures() -> dict[str, Mixture]:
    g = np.random.default_rng(0)
    angle = np.pi / 4 * np.arange(8)
    ring = 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    unequal = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
    return {
        "6 modes, d=8": Mixture(1.5 * g.standard_normal((6, 8)), 0.3),
        "ring, d=2": Mixture(ring, 0.2),
        "random, d=16": Mixture(g.standard_normal((8, 16)), 0.3),
        "unequal, d=6": Mixture(1.5 * g.standard_normal((5, 6)), 0.3, unequal),
    }


def methods() -> dict[str, Callable[[Any], Any]]:
    """By what a DDIM sampler becomes."""
    out: dict[str, Callable[[Any], Any]] = {"DDIM": lambda ddim: ddim}
    for c in LENGTHS:
        out[f"whole {c:g}"] = lambda ddim, c=c: diffusion.LML(ddim, c=c)
    for c in (0.1, -0.2):
        out[f"direction {c:g}"] = lambda ddim, c=c: diffusion.LML(ddim, c=c, placement="direction")
    out["published"] = lambda ddim: diffusion.LML(
        ddim, placement="direction", kappa=0.1, damping=1e-3
    )
    out["2M"] = lambda ddim: diffusion.Multistep2M(ddim.model, ddim.schedule, ddim.n_steps)
    return out


def published(e: np.ndarray, before: np.ndarray, lam: float, kappa: float) -> np.ndarray:
    """The formula as the authors compute it, in the dtype of `e`."""
    m = (kappa * before + (1 - kappa) * e).astype(e.dtype)
    out = e - m * ((e * m).sum(1, keepdims=True) / (e.dtype.type(lam) + (m * m).sum(1, keepdims=True)))  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        return out * (np.linalg.norm(e, axis=1) / np.linalg.norm(out, axis=1))[:, None]


def drawn(sampler: Any, noise: np.ndarray) -> np.ndarray:
    state = sampler.init(noise)
    for _ in range(sampler.n_steps):
        state = sampler.step(state)
    return np.asarray(state.x)


def sliced(x: np.ndarray, y: np.ndarray) -> float:
    return float(mk.sliced_wasserstein(x, y, n_slices=100, p=2, seed=1))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("lml", __doc__, argv)
    n, seeds = (1000, 1) if args.quick else (3000, 3)
    laws = dict(list(mixtures().items())[: 2 if args.quick else 4])
    claim = Claim(
        args,
        "Levenberg-Marquardt-Langevin steps significantly improve what a diffusion sampler draws, at no cost. Read: in its published\n"
        "         form (noise prediction corrected in the direction of a DDIM step, kappa = 0), and with the correction applied to the\n"
        "         whole increment, where it is a two-step method",
        '"Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order Levenberg-Marquardt-Langevin"',
        f"mixtures of Gaussians with exact noise predictions, uniform times of the linear-beta and the cosine schedule, n = {n} draws,\n"
        f"         energy distance and sliced Wasserstein-2 distance to data, mean of {seeds} runs; 2M: the two-step method in x0 form",
    )  # fmt: skip

    # The published default.
    rows = []
    worst = 0.0
    for d in (8, 3_072, 16_384):
        for dtype in ("float64", "float32"):
            e, before = np.random.default_rng(1).standard_normal((2, 16, d)).astype(dtype)
            row: dict[str, Any] = {"d": d, "dtype": dtype}
            for lam in (1e-3, 1e-4):
                u = published(e, before, lam, 0.0).astype(np.float64)
                change = np.linalg.norm(u - e) / np.linalg.norm(e)
                row[f"lam = {lam:g}"] = float(change)
                row[f"cos, {lam:g}"] = float(np.mean((u * e).sum(1) / np.linalg.norm(e, axis=1) / np.linalg.norm(u, axis=1)))  # fmt: skip
                if dtype == "float64":
                    worst = max(worst, row[f"lam = {lam:g}"])
            rows.append(row)
    claim.table(
        "what the published formula at its default (kappa = 0) changes of a normal e, relative",
        ["d", "dtype", "lam = 0.001", "cos, 0.001", "lam = 0.0001", "cos, 0.0001"],
        rows,
        "in exact arithmetic it is the identity: what is left is the rounding of e - e |e|^2 / (lam + |e|^2), or nothing at all (nan)",
    )
    schedule = schedules.VPLinear()
    first = next(iter(laws.values()))
    noise = mk.random.normal(7, (200, first.means.shape[1]))
    plain = diffusion.DDIM(diffusion.MixtureDenoiser(first.target, schedule), schedule, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = diffusion.LML(plain, placement="direction", damping=1e-3, kappa=0.0)
    alike = bool((drawn(plain, noise) == drawn(same, noise)).all())
    claim.check(
        "the published form at its default setting changes DDIM by more than rounding",
        f"{worst:.0e} in float64; as computed here it is DDIM {'bit for bit' if alike else 'NOT bit for bit'}",
        not alike,
    )

    made = methods()
    found: dict[tuple[str, str, int, str], tuple[float, float]] = {}
    floors: dict[str, tuple[float, float]] = {}
    for name, law in laws.items():
        d = law.means.shape[1]
        for label, schedule in (("linear", schedules.VPLinear()), ("cosine", schedules.VPCosine())):
            model = diffusion.MixtureDenoiser(law.target, schedule)
            for steps in EVALUATIONS:
                for method, make in made.items():
                    sampler = make(diffusion.DDIM(model, schedule, steps))
                    values = []
                    for seed in range(seeds):
                        data = law.sample(n, seed)
                        x = drawn(sampler, mk.random.normal(100 + seed, (n, d)))
                        values.append((mk.energy_distance(x, data), sliced(x, data)))
                    found[name, label, steps, method] = tuple(np.mean(values, 0).tolist())
        pairs = [(law.sample(n, s), law.sample(n, 50 + s)) for s in range(seeds)]
        floors[name] = tuple(np.mean([(mk.energy_distance(x, y), sliced(x, y)) for x, y in pairs], 0).tolist())  # fmt: skip
    cells = [(name, label, steps) for name in laws for label in ("linear", "cosine") for steps in EVALUATIONS]  # fmt: skip
    for which, title in ((0, "energy distance to the data"), (1, "sliced Wasserstein-2 distance to the data")):  # fmt: skip
        claim.table(
            title,
            ["law", "schedule", "evaluations", *made, "two samples"],
            [
                {"law": name, "schedule": label, "evaluations": steps, "two samples": floors[name][which]}
                | {m: found[name, label, steps, m][which] for m in made}
                for name, label, steps in cells
            ],
            "whole c: u = e + c (e - e_before)_perp of the length of e in the whole step; direction c: the same where the paper has\n"
            "it; published: there with kappa = .1 and its lam = 1e-3; two samples: of the data themselves"
            if which == 0
            else "",
        )  # fmt: skip

    def score(method: str, than: str, steps: Sequence[int], which: int = 0) -> tuple[int, int, int]:
        """Cells where a method is better, even and worse."""
        out = [0, 0, 0]
        for cell in cells:
            if cell[2] in steps:
                a, b = (found[(*cell, m)][which] for m in (method, than))
                room = NOISE * (3000 / n) if which == 0 else 0.05 * b
                out[0 if a < b - room else 2 if a > b + room else 1] += 1
        return out[0], out[1], out[2]

    def against(method: str, than: str, steps: Sequence[int], which: int = 0) -> str:
        better, even, worse = score(method, than, steps, which)
        return f"better in {better}, even in {even}, worse in {worse} cells"

    few, many = (5, 10), (20, 50)
    for method in ("direction 0.1", "published"):
        name = "c = 0.1" if method != "published" else "kappa = 0.1, lam = 1e-3"
        claim.check(
            f"in the published place with {name} it improves on DDIM at 5 and 10 evaluations",
            against(method, "DDIM", few),
            score(method, "DDIM", few)[0] > score(method, "DDIM", few)[2],
        )
    claim.check(
        "there with the other sign, c = -0.2, it does",
        against("direction -0.2", "DDIM", few),
        score("direction -0.2", "DDIM", few)[0] > score("direction -0.2", "DDIM", few)[2],
    )
    for c in LENGTHS:
        method = f"whole {c:g}"
        better, _, worse = score(method, "DDIM", few)
        claim.check(
            f"on the whole increment, c = {c:g}, it improves on DDIM at 5 and 10 evaluations",
            f"{against(method, 'DDIM', few)}; sliced Wasserstein: {against(method, 'DDIM', few, 1)}",
            better > 0 and worse == 0,
        )
    better, _, worse = score("whole 0.2", "DDIM", many)
    claim.check(
        "c = 0.2 does no harm at 20 and 50",
        f"{against('whole 0.2', 'DDIM', many)}; sliced Wasserstein: {against('whole 0.2', 'DDIM', many, 1)}",
        worse == 0,
    )
    better, _, worse = score("whole 0.5", "2M", (5,))
    claim.check(
        "c = 0.5 beats the two-step method 2M at 5 evaluations",
        against("whole 0.5", "2M", (5,)),
        better > worse,
    )
    better, _, worse = score("whole 0.5", "2M", many, 1)
    claim.check(
        "and at 20 and 50 (sliced Wasserstein)",
        against("whole 0.5", "2M", many, 1),
        better > worse,
    )

    def draw(axes: Any) -> None:
        for axis, (name, label) in zip(axes, [(m, s) for m in list(laws)[:2] for s in ("linear", "cosine")][:3], strict=False):  # fmt: skip
            for method in ("DDIM", "direction 0.1", "published", "whole 0.2", "whole 0.5", "whole 0.8", "2M"):  # fmt: skip
                axis.loglog(EVALUATIONS, [found[name, label, s, method][0] for s in EVALUATIONS], "o-", label=method)  # fmt: skip
            axis.axhline(floors[name][0], color="gray", lw=0.8, label="two samples")
            axis.set(title=f"{name}, {label} schedule", xlabel="evaluations")
            axis.set_xticks(EVALUATIONS, EVALUATIONS)
            axis.minorticks_off()
        axes[0].set_ylabel("energy distance")
        axes[0].legend(fontsize=7)

    claim.picture(draw, columns=3)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
