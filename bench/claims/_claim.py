"""What the claims share: options, the printed protocol and the picture."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import cores, machine, number, set_threads


def parse(
    name: str,
    about: str,
    argv: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"./run claims {name}", description=about)
    parser.add_argument("--quick", action="store_true", help="fewer cases, for a first look")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--picture", type=Path, default=Path(f"claim-{name.replace('_', '-')}.png"))
    if add:
        add(parser)
    return parser.parse_args(argv)


class Claim:
    """Prints a claim, where it comes from, what was done and found, and whether that agrees."""

    def __init__(self, args: argparse.Namespace, claim: str, source: str, setting: str) -> None:
        self.args, self.start = args, time.perf_counter()
        self.verdicts: list[bool] = []
        set_threads(args.threads)
        if importlib.util.find_spec("threadpoolctl"):  # NumPy's matrix products
            import threadpoolctl

            threadpoolctl.threadpool_limits(args.threads)
        print(f"claim:   {claim}\nsource:  {source}\nsetting: {setting}")
        print(", ".join(f"{k} {v}" for k, v in machine().items()) + f", threads {args.threads}")

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[dict[str, Any]], notes: str = ""
    ) -> None:
        texts = [[number(row.get(c)) for c in columns] for row in rows]
        widths = [max([len(c), *(len(t[i]) for t in texts)]) for i, c in enumerate(columns)]
        print(f"\n{title}")
        for text in [columns, *texts]:
            print("  ".join(f"{t:>{w}}" for t, w in zip(text, widths, strict=True)), flush=True)
        if notes:
            print(notes)

    def check(self, what: str, found: str, holds: bool) -> None:
        """A line of the verdict."""
        if not self.verdicts:
            print()
        self.verdicts.append(bool(holds))
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {what}: {found}", flush=True)

    def picture(self, draw: Callable[[Any], None], columns: int = 1) -> None:
        """Let `draw` fill the axes of a figure; say so where there is no matplotlib."""
        if importlib.util.find_spec("matplotlib") is None:
            print("no picture: matplotlib is not installed")
            return
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(1, columns, figsize=(5.5 * columns, 4.2), squeeze=False)
        draw(axes[0])
        figure.tight_layout()
        figure.savefig(self.args.picture, dpi=120)
        plt.close(figure)
        print(f"written: {self.args.picture}")

    def finish(self) -> int:
        verdict = "holds as measured" if all(self.verdicts) else "does not hold as measured"
        print(f"verdict: {verdict} ({sum(self.verdicts)} of {len(self.verdicts)} checks), "
              f"{time.perf_counter() - self.start:.0f} s")  # fmt: skip
        return 0


def slope(x: Any, y: Any) -> float:
    """Of a straight line through the logarithms; NaN for a single point."""
    if len(x) < 2:
        return float("nan")
    return float(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)), 1)[0])


def pairs_gradient(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy distance and gradient in x from all pairs, O(MN + N^2), in NumPy."""
    n, m = len(x), len(y)
    out, total = np.empty_like(x), 0.0
    rows = max(1, 2**20 // max(n, m))
    for lo in range(0, n, rows):
        part = x[lo : lo + rows]
        for points, sign in ((y, 1.0), (x, -1.0)):
            s = (part * part).sum(1)[:, None] + (points * points).sum(1) - 2 * part @ points.T
            r = np.sqrt(np.maximum(s, 0, out=s), out=s)
            if points is x:
                r[np.arange(len(part)), np.arange(lo, lo + len(part))] = np.inf
                total -= float(np.where(np.isinf(r), 0, r).sum()) / n**2
            else:
                total += 2 * float(r.sum()) / (n * m)
            np.divide(1, r, out=r)
            term = sign * (part * r.sum(1)[:, None] - r @ points) * (2 / (n * len(points)))
            out[lo : lo + rows] = term if points is y else out[lo : lo + rows] + term
    for lo in range(0, m, rows):
        part = y[lo : lo + rows]
        s = (part * part).sum(1)[:, None] + (y * y).sum(1) - 2 * part @ y.T
        s[np.arange(len(part)), np.arange(lo, lo + len(part))] = 0
        total -= float(np.sqrt(np.maximum(s, 0)).sum()) / m**2
    return total, out
