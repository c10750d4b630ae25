"""The gradient from P slices is off by a part proportional to sqrt(d / P)."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from _claim import Claim, pairs_gradient, parse, slope

import mckean as mk

LAWS = ("random", "orthogonal", "sobol")
CELLS = ((2, 32), (2, 512), (16, 128), (16, 512), (128, 512), (784, 784), (784, 3136))
OVER_SLICES = {2: (8, 512), 16: (32, 2048), 128: (128, 2048)}
N = 100


def errors(d: int, slices: int, law: str, repeats: int) -> tuple[float, float]:
    """Root mean square of the relative errors of gradient and value."""
    g = np.random.default_rng(d)
    x, y = g.standard_normal((2, N, d))
    x += 0.5
    value, grad = pairs_gradient(x, y)
    off = np.empty((repeats, 2))
    for k in range(repeats):
        v, found = mk.sliced_mmd2_grad(x, y, n_slices=slices, directions=law, seed=100 + k)
        off[k] = np.linalg.norm(found - grad) / np.linalg.norm(grad), v / value - 1
    rms = np.sqrt((off**2).mean(0))
    return float(rms[0]), float(rms[1])


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("sliced_error", __doc__, argv)
    repeats = 4 if args.quick else 24
    claim = Claim(
        args,
        "the error of the gradient from P slices is O(d / P), read as the squared error: relative error O(sqrt(d / P))",
        "Hertrich et al., ICLR 2024, arXiv:2305.11463",
        f"normal clouds of {N} points, one shifted by 0.5 in every coordinate; root mean square of the relative error of the\n"
        f"         whole gradient over {repeats} sets of directions, against all pairs in float64",
    )  # fmt: skip
    found: dict[tuple[int, int, str], tuple[float, float]] = {}

    def ask(d: int, slices: int, law: str) -> tuple[float, float]:
        if (d, slices, law) not in found:
            fewer = 3 if d * slices > 1e6 else max(3, repeats // 3) if d * slices > 1e5 else repeats
            found[d, slices, law] = errors(d, slices, law, min(fewer, repeats))
        return found[d, slices, law]

    rows = []
    for d, slices in CELLS if not args.quick else CELLS[:5]:
        row: dict[str, Any] = {"d": d, "P": slices, "sqrt(d/P)": math.sqrt(d / slices)}
        for law in LAWS:
            row[law], row[f"{law} value"] = ask(d, slices, law)
        rows.append(row | {"orthogonal / random": row["orthogonal"] / row["random"]})
    claim.table(
        "relative error of gradient and value",
        ["d", "P", "sqrt(d/P)", *(c for law in LAWS for c in (law, f"{law} value")), "orthogonal / random"],
        rows,
    )  # fmt: skip

    over: dict[tuple[int, str], tuple[list[int], list[float]]] = {}
    rows = []
    for d, (low, high) in OVER_SLICES.items():
        sizes = [
            2**k for k in range(int(math.log2(low)), int(math.log2(high)) + 1, 1 if d < 128 else 2)
        ]
        row = {"d": d, "P from": low, "to": high}
        for law in LAWS:
            values = [ask(d, slices, law)[0] for slices in sizes]
            over[d, law] = (sizes, values)
            row[law], row[f"{law} squared"] = slope(sizes, values), 2 * slope(sizes, values)
        rows.append(row)
    claim.table(
        "slope of the error over P, in logarithms",
        ["d", "P from", "to", *(c for law in LAWS for c in (law, f"{law} squared"))],
        rows,
    )
    random_slopes = [row["random"] for row in rows]

    slices, dims = 512, (4, 8, 16, 32, 64, 128)
    over_d = {law: [ask(d, slices, law)[0] for d in dims] for law in LAWS}
    over_dims = {law: slope(dims, values) for law, values in over_d.items()}
    claim.table(
        f"slope of the error over d from {dims[0]} to {dims[-1]}, P = {slices}", LAWS, [over_dims]
    )

    claim.check(
        "random directions: error over P has slope -1/2 (its square -1) in every dimension",
        ", ".join(f"{s:.2f}" for s in random_slopes) + ", within 0.1",
        all(abs(s + 0.5) <= 0.1 for s in random_slopes),
    )
    claim.check(
        "random directions: error over d has slope 1/2 (its square 1)",
        f"{over_dims['random']:.2f}, within 0.1",
        abs(over_dims["random"] - 0.5) <= 0.1,
    )
    ratios = [e[0] / math.sqrt(d / P) for (d, P, law), e in found.items() if law == "random"]
    claim.check(
        "random directions: the constant in front of sqrt(d / P) is bounded; a single pair has at most sqrt(pi/2)",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        max(ratios) < 1.15 * math.sqrt(math.pi / 2),
    )
    ratios = [e[0] / math.sqrt(d / P) for (d, P, law), e in found.items() if law == "orthogonal"]
    claim.check(
        "orthogonal frames stay within the same bound and below it",
        f"{min(ratios):.2f} to {max(ratios):.2f} times sqrt(d / P)",
        max(ratios) < math.sqrt(math.pi / 2),
    )
    ratio = ask(16, 64, "orthogonal")[0] / ask(16, 64, "random")[0]
    claim.check(
        "orthogonal frames, d = 16, P = 4 d: below 0.6 of random", f"{ratio:.2f}", ratio < 0.6
    )
    plane = next(row for row in rows if row["d"] == 2)["orthogonal"]
    claim.check(
        "in the plane, equispaced directions: error over P near 1 / P",
        f"slope {plane:.2f}",
        plane < -0.9,
    )

    def draw(axes: Any) -> None:
        for (d, law), (sizes, values) in over.items():
            mark = {"random": "o-", "orthogonal": "s--", "sobol": "^:"}[law]
            axes[0].loglog(
                sizes, values, mark, color=f"C{list(OVER_SLICES).index(d)}", label=f"d = {d}, {law}"
            )
        axes[0].set(xlabel="slices P", ylabel="relative error of the gradient")
        axes[0].legend(fontsize=7)
        for law in LAWS:
            axes[1].loglog(dims, over_d[law], "o-", label=law)
        axes[1].loglog(dims, [math.sqrt(d / slices) for d in dims], "k:", label="sqrt(d / P)")
        axes[1].set(xlabel="dimension d", title=f"P = {slices}")
        axes[1].legend()

    claim.picture(draw, 2)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
