"""Sorting makes the gradient cost O((M + N) log(M + N)) in place of O(M N + N^2)."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _claim import Claim, pairs_gradient, parse, slope
from common import measure

import mckean as mk

SIZES = tuple(250 * 2**k for k in range(13))
D, SLICES = 16, 100
SORTED = ("one slice", f"{SLICES} slices")


def one_slice_pairs(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The gradient in one dimension as a sum of signs over all pairs, in NumPy."""
    n, m = len(x), len(y)
    a, b = x.ravel(), y.ravel()

    def run() -> np.ndarray:
        out = np.empty(n)
        rows = max(1, 2**18 // max(n, m))
        for lo in range(0, n, rows):
            part = a[lo : lo + rows, None]
            out[lo : lo + rows] = np.sign(part - b).sum(1) / m - np.sign(part - a).sum(1) / n
        return out * (2 / n)

    return run


def exact(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """The gradient in all dimensions from all pairs, with our interaction sums."""
    kernel, n, m = mk.kernels.Energy(), len(x), len(y)
    return lambda: (
        (2 / n)
        * (
            mk.kernel_grad(kernel, x, x, np.full(n, 1 / n))
            - mk.kernel_grad(kernel, x, y, np.full(m, 1 / m))
        )
    )


def torch_pairs(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    import torch

    a, b = torch.from_numpy(x), torch.from_numpy(y)

    def run() -> Any:
        out, n = torch.empty_like(a), len(a)
        rows = max(1, 2**20 // n)
        for lo in range(0, n, rows):
            part = a[lo : lo + rows]
            total = torch.zeros_like(part)
            for points, weight in ((b, 2 / (n * len(b))), (a, -2 / n**2)):
                r = torch.cdist(part, points).clamp_(min=1e-300).reciprocal_()
                if points is a:
                    r[torch.arange(len(part)), torch.arange(lo, lo + len(part))] = 0
                total += weight * (part * r.sum(1, keepdim=True) - r @ points)
            out[lo : lo + rows] = total
        return out

    return run


def methods() -> dict[str, Callable[[int], Callable[[], Any]]]:
    def clouds(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.random.default_rng(n + d).standard_normal((2, n, d))
        return x + 0.5, y

    line, xi = np.ones((1, 1)), mk.sliced.directions(D, SLICES)

    def sorted_line(n: int) -> Callable[[], Any]:
        x, y = clouds(n, 1)
        return lambda: mk.sliced_mmd2_grad(x, y, directions=line)[1]

    def sliced(n: int) -> Callable[[], Any]:
        x, y = clouds(n, D)
        return lambda: mk.sliced_mmd2_grad(x, y, directions=xi)[1]

    def all_pairs(n: int) -> Callable[[], Any]:
        x, y = clouds(n, D)
        return lambda: pairs_gradient(x, y)[1]

    out = {
        "one slice": sorted_line,
        "one slice, pairs, NumPy": lambda n: one_slice_pairs(*clouds(n, 1)),
        f"{SLICES} slices": sliced,
        "pairs, ours": lambda n: exact(*clouds(n, D)),
        "pairs, NumPy": all_pairs,
    }
    if importlib.util.find_spec("torch"):
        out["pairs, torch"] = lambda n: torch_pairs(*clouds(n, D))
    return out


def crossover(
    sizes: Sequence[int], fast: dict[int, float], slow: dict[int, float]
) -> tuple[float | None, bool]:
    """Where `slow` begins to take longer, and whether that lies within what was measured, not beyond."""
    both = [n for n in sizes if n in fast and n in slow]
    gap = [math.log(slow[n] / fast[n]) for n in both]
    for (a, u), (b, v) in zip(
        zip(both, gap, strict=True), list(zip(both, gap, strict=True))[1:], strict=False
    ):
        if u <= 0 < v:
            return math.exp(math.log(a) + (math.log(b) - math.log(a)) * u / (u - v)), True
    if gap[0] > 0:
        return None, True
    rate = (gap[-1] - gap[-3]) / math.log(both[-1] / both[-3])  # the last three carry on
    return (math.exp(math.log(both[-1]) - gap[-1] / rate), False) if rate > 0 else (None, False)


def main(argv: Sequence[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--budget", type=float, default=6.0, help="seconds that a call may take"
        )

    args = parse("sliced_cost", __doc__, argv, add)
    sizes = SIZES[:5] if args.quick else SIZES
    budget = min(args.budget, 1.0) if args.quick else args.budget
    claim = Claim(
        args,
        "sorting reduces the cost of the gradient in a slice from O(MN + N^2) to O((M + N) log(M + N))",
        "Hertrich et al., ICLR 2024, arXiv:2305.11463",
        f"normal clouds, M = N, float64; one slice: d = 1; else d = {D} with {SLICES} orthogonal directions made beforehand, or all\n"
        f"         pairs; a method stops where a call is expected to take more than {budget:g} s",
    )  # fmt: skip
    times: dict[str, dict[int, float]] = {}
    for name, build in methods().items():
        mine = times.setdefault(name, {})
        for n in sizes:
            if mine and 2.5 * (n / max(mine)) * mine[max(mine)] > budget:
                break
            mine[n] = measure(build(n), budget=0.3)
    claim.table(
        "milliseconds for one gradient",
        ["N", *times],
        [{"N": n} | {k: 1e3 * t[n] for k, t in times.items() if n in t} for n in sizes],
        "-: not run",
    )
    rows = []
    for name, mine in times.items():
        last = [n for n in mine if n >= 2_000]
        last = last if len(last) > 2 else list(mine)[-3:]
        rows.append({
            "method": name, "N from": last[0], "to": last[-1],
            "slope": slope(last, [mine[n] for n in last]),
            "slope of N log N": slope(last, [2 * n * math.log(2 * n) for n in last]),
            "first and last: ns per point": 1e9 * mine[last[0]] / (2 * last[0]),
            "": 1e9 * mine[last[-1]] / (2 * last[-1]),
        })  # fmt: skip
    claim.table(
        "slope of the time over N, in logarithms",
        ["method", "N from", "to", "slope", "slope of N log N", "first and last: ns per point", ""],
        rows,
    )
    pairs = [("one slice", "one slice, pairs, NumPy")]
    pairs += [(SORTED[1], k) for k in times if k.startswith("pairs")]
    for fast, slow in pairs:
        at, within = crossover(sizes, times[fast], times[slow])
        where = (
            "at every N measured"
            if within and at is None
            else "nowhere"
            if at is None
            else f"from N = {at:,.0f}"
        )
        print(
            f"{fast} is faster than {slow}: {where}{'' if within or at is None else ' (extrapolated)'}"
        )

    slopes = {row["method"]: row["slope"] for row in rows}
    for name in SORTED:
        claim.check(
            f"{name}: slope near 1", f"{slopes[name]:.2f}, at most 1.25", slopes[name] <= 1.25
        )
    for name in (k for k in times if k not in SORTED):
        if np.isnan(slopes[name]):
            print(f"{name}: too slow here for a slope")
            continue
        claim.check(
            f"{name}: slope near 2", f"{slopes[name]:.2f}, at least 1.75", slopes[name] >= 1.75
        )
    n = 2_000
    x, y = np.random.default_rng(1).standard_normal((2, n, D))
    x += 0.5
    known, line = pairs_gradient(x, y)[1], np.ones((1, 1))
    one = one_slice_pairs(x[:, :1], y[:, :1])()
    off = np.linalg.norm(mk.sliced_mmd2_grad(x[:, :1], y[:, :1], directions=line)[1].ravel() - one)
    off /= np.linalg.norm(one)
    claim.check("in one dimension both are the same gradient", f"apart by {off:.0e}", off < 1e-9)
    for name, build in methods().items():
        if name.startswith("pairs"):
            g = np.random.default_rng(500 + D).standard_normal((2, 500, D))
            wanted = pairs_gradient(g[0] + 0.5, g[1])[1]
            off = np.linalg.norm(np.asarray(build(500)()) - wanted) / np.linalg.norm(wanted)
            claim.check(f"{name}: the same gradient as NumPy", f"apart by {off:.0e}", off < 1e-9)
    off = np.linalg.norm(
        mk.sliced_mmd2_grad(x, y, directions=mk.sliced.directions(D, SLICES))[1] - known
    )
    off /= np.linalg.norm(known)
    print(f"{SLICES} slices in d = {D} are off by {off:.2g} of the gradient, see sliced_error")

    def draw(axes: Any) -> None:
        for name, mine in times.items():
            axes[0].loglog(
                list(mine), list(mine.values()), "o-" if name in SORTED else "s--", ms=3, label=name
            )
        axes[0].set(xlabel="N = M", ylabel="seconds for one gradient")
        axes[0].legend(fontsize=7)

    claim.picture(draw)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
