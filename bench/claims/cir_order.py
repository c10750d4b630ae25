"""Cox-Ingersoll-Ross processes of high volatility: strong order of adaptive against constant steps."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse

import mckean as mk
from mckean import sde

T, HARD, MILD = 4.0, 2.2, 1.5
CONSTANT = {HARD: range(5, 13), MILD: range(3, 12)}  # steps T / 2^k
ADAPTIVE = range(1, 10)  # ctol = 2^-k
DTMIN, DTMAX = 2.0**-15, 1.0
REFERENCE = {"ctol": 2.0**-11, "dtmin": 2.0**-17, "dtmax": 0.25}
SCHEMES = {"HOStS": sde.HOStS(), "DIE": sde.DIE()}
PUBLISHED = {
    ("HOStS", HARD): (0.39, 0.81),
    ("DIE", HARD): (0.46, 0.86),
    ("HOStS", MILD): (0.78, 1.82),
    ("DIE", MILD): (0.84, 1.03),
}
ALIGNED = "adaptive, aligned"  # in Python alone, where a step costs far more
SCHEMES_AND_RULES = {"HOStS": ("constant", "adaptive", ALIGNED), "DIE": ("constant", "adaptive")}


class Curve:
    """Errors of one scheme and one rule over its levels."""

    def __init__(self) -> None:
        self.accepted: list[float] = []
        self.attempts: list[float] = []
        self.squares: list[np.ndarray] = []

    def add(self, solution: Any, exact: np.ndarray) -> None:
        tried = solution.stats["accepted"] + solution.stats["rejected"]
        self.accepted.append(float(solution.stats["accepted"].mean()))
        self.attempts.append(float(tried.mean()))
        self.squares.append(((solution.ys[-1] - exact) ** 2).sum(1))

    @property
    def errors(self) -> np.ndarray:
        return np.sqrt(np.mean(self.squares, 1))

    def slope(self, counts: Sequence[float]) -> tuple[float, float]:
        """Order in the number of steps by least squares, and its standard error from the finite number of paths."""
        x = -np.log(counts)
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        table = np.array(self.squares)
        shares = 0.5 * (weights[:, None] * table / table.mean(1, keepdims=True)).sum(0)
        return float(weights @ np.log(self.errors)), float(shares.std() / np.sqrt(table.shape[1]))

    def steps_for(self, error: float, counts: Sequence[float]) -> float:
        """The count at which the error falls below this one, by interpolation of the logarithms."""
        e = self.errors
        below = np.flatnonzero(e <= error)
        if not below.size or below[0] == 0:
            return float("nan")
        k = int(below[0])
        part = np.log(e[k - 1] / error) / np.log(e[k - 1] / e[k])
        return float(counts[k - 1] * (counts[k] / counts[k - 1]) ** part)


def measure(
    sigma: float, n: int, n_aligned: int, thin: int, seed: int
) -> dict[tuple[str, str], Curve]:
    """All curves of one volatility, on the same Brownian paths."""
    process = sde.CoxIngersollRoss(1.0, 1.0, sigma)
    y0 = np.ones((n, 1))
    tree = mk.BrownianTree(seed, (n, 1), t1=T, tol=REFERENCE["dtmin"] / 2, levy_area="space-time")

    def solve(scheme: str, controller: Any, rows: int) -> Any:
        return sde.sdeint(
            process, y0[:rows], [0.0, T], solver=SCHEMES[scheme], controller=controller, tree=tree[:rows]
        )  # fmt: skip

    exact = solve("HOStS", sde.StateStep(**REFERENCE), n).ys[-1]
    curves = {}
    for scheme, rules in SCHEMES_AND_RULES.items():
        for rule in rules:
            if rule == ALIGNED and not n_aligned:
                continue
            rows = n_aligned if rule == ALIGNED else n
            curve = curves[scheme, rule] = Curve()
            levels = list(CONSTANT[sigma] if rule == "constant" else ADAPTIVE)
            for k in levels[:: max(thin, 2 if rule == ALIGNED else 1)]:
                if rule == "constant":
                    controller: Any = T / 2**k
                else:
                    controller = sde.StateStep(
                        2.0**-k, dtmin=DTMIN, dtmax=DTMAX, aligned=rule == ALIGNED
                    )
                curve.add(solve(scheme, controller, rows), exact[:rows])
    return curves


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: Any) -> None:
        parser.add_argument("--paths", type=int, default=1000)
        parser.add_argument("--aligned-paths", type=int, default=0)

    args = parse("cir_order", __doc__ or "", argv, add)
    n, n_aligned = min(args.paths, 300 if args.quick else args.paths), args.aligned_paths
    n_aligned = min(n, n_aligned, 50 if args.quick else n_aligned)
    aligned = f" ({n_aligned} with steps aligned to halvings of the time)" if n_aligned else ""
    claim = Claim(
        args,
        "on the Cox-Ingersoll-Ross process of high volatility, adaptive steps have more than twice the "
        "convergence order of constant ones",
        'A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive '
        'and high order SDE solvers" (2024), arXiv:2405.06464',
        f"dX = (1 - X) dt + sigma sqrt(X) dB, X0 = 1, until {T:g}; {n} paths{aligned}; root mean "
        f"square error at the end against HOStS with ctol 2^-11 and dtmin 2^-17 on the same paths; adaptive: steps "
        f"(ctol X)^(2/3), ctol 2^-1 to 2^-9, dtmin 2^-15",
    )
    found = {}
    for sigma in (HARD, MILD):
        curves = found[sigma] = measure(sigma, n, n_aligned, 3 if args.quick else 1, seed=5)
        for (scheme, rule), curve in curves.items():
            claim.table(
                f"sigma {sigma}, {scheme}, {rule} steps",
                ["accepted", "rejected", "error", "+-"],
                [
                    {"accepted": a, "rejected": t - a, "error": e, "+-": np.std(q) / np.sqrt(len(q)) / (2 * e)}
                    for a, t, e, q in zip(curve.accepted, curve.attempts, curve.errors, curve.squares, strict=True)
                ],
            )  # fmt: skip
    rows = []
    for sigma, curves in found.items():
        for (scheme, rule), curve in curves.items():
            order, spread = curve.slope(curve.accepted)
            row = {"sigma": sigma, "scheme": scheme, "steps": rule, "slope": order, "+-": spread}
            row["of attempts"] = curve.slope(curve.attempts)[0]
            if rule != ALIGNED:
                row["published"] = PUBLISHED[scheme, sigma][rule != "constant"]
            rows.append(row)
    claim.table(
        "slopes: error against the mean number of accepted steps",
        ["sigma", "scheme", "steps", "slope", "+-", "of attempts", "published"],
        rows,
        "+-: standard error from the finite number of paths; of attempts: against accepted and rejected steps",
    )
    for sigma, curves in found.items():
        for scheme in SCHEMES:
            rules = [rule for s, rule in curves if s == scheme]
            for what, name in (("accepted", "accepted steps"), ("attempts", "all attempts")):
                slopes = {
                    r: curves[scheme, r].slope(getattr(curves[scheme, r], what))[0] for r in rules
                }
                ratio = min(slopes[rule] for rule in rules[1:]) / slopes["constant"]
                text = ", ".join(f"{rule} {slope:.2f}" for rule, slope in slopes.items())
                if sigma == HARD:
                    claim.check(
                        f"sigma {sigma}, {scheme}: at least twice the order, in {name}",
                        text,
                        ratio >= 2,
                    )
                else:
                    print(
                        f"beside it, sigma {sigma}, {scheme}, in {name}: {text}: {ratio:.1f} times"
                    )
    for scheme in SCHEMES:
        curves = {rule: curve for (s, rule), curve in found[HARD].items() if s == scheme}
        at = int(np.argmin(np.abs(np.array(curves["constant"].accepted) - 2048)))
        steps, error = curves["constant"].accepted[at], float(curves["constant"].errors[at])
        needs = {
            rule: [curve.steps_for(error, c) for c in (curve.accepted, curve.attempts)]
            for rule, curve in curves.items()
            if rule != "constant"
        }
        print(
            f"beside it, sigma {HARD}, {scheme}: for the error {error:.3g} of {steps:.0f} constant steps: "
            + "; ".join(
                f"{rule} {a:.0f} accepted, of {t:.0f} tried" for rule, (a, t) in needs.items()
            )
        )

    def draw(axes: Any) -> None:
        for axis, (sigma, curves) in zip(axes, found.items(), strict=True):
            for (scheme, rule), curve in curves.items():
                colour = {"HOStS": "C0", "DIE": "C1"}[scheme]
                style = {"constant": "o--", "adaptive": "s-", ALIGNED: "^:"}[rule]
                axis.loglog(
                    curve.accepted,
                    curve.errors,
                    style,
                    color=colour,
                    ms=4,
                    label=f"{scheme}, {rule}",
                )
            axis.set(
                title=f"sigma = {sigma}", xlabel="mean number of accepted steps", ylabel="error"
            )
            axis.legend(fontsize=7)

    claim.picture(draw, columns=2)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
