"""What do low-rank models cost: leading eigenpairs, batched damped solves, sketches, a fused Langevin step?"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import common
import lowrank_peers as peers
import numpy as np
from common import measure, ratio_to_best

import mckean as mk

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)
RANKS, QUICK_RANKS = (8, 32, 64), (8, 32)
DENSE, QUICK_DENSE = 2_000, 1_000
SHAPES = ((10_000, 64, 8), (1_000, 1_000, 16), (10_000, 100, 8), (64, 100_000, 16))
QUICK_SHAPES = SHAPES[:1]
SKETCHED, QUICK_SKETCHED, COLUMNS = (10_000, 100_000), (10_000,), 64
CROWDS = ((10_000, 64, 8), (1_000, 1_000, 16), (200, 100_000, 16))
QUICK_CROWDS = CROWDS[:1]
TOL = {"float32": 1e-4, "float64": 1e-6}
LIMIT = {
    "float32": 1e-4,
    "float64": 1e-6,
}  # of an eigenvalue's relative error; worse does not count

# Milliseconds aimed at on one core of the reference machine (AVX2, 3.2 GHz), by dtype, size and rank.
TARGETS = {
    "float64": {(1e3, 8): 0.5, (1e3, 32): 1.5, (1e4, 8): 1.6, (1e4, 32): 6.5, (1e5, 8): 17, (1e5, 32): 105,
                (1e6, 8): 560, (1e6, 32): 1250},
    "float32": {(1e3, 8): 0.45, (1e3, 32): 1.3, (1e4, 8): 1.1, (1e4, 32): 3.8, (1e5, 8): 9.5, (1e5, 32): 46,
                (1e6, 8): 200, (1e6, 32): 780},
}  # fmt: skip
DENSE_TARGETS = {
    "float64": {8: 18.5, 32: 48},
    "float32": {8: 7.6, 32: 19.5},
}
BATCH_TARGETS = {  # 10,000 x 64 x 8
    "float32": {"orthonormal": 1.8, "sqrt_solve": 1.8, "Cholesky": 4.5, "eigen": 12.0},
    "float64": {"orthonormal": 3.5, "sqrt_solve": 3.5, "Cholesky": 10.0},
}
LANCZOS_NOTES = """\
A: k eigenvalues from 50 down to 5 above a bulk in [0, 1], between two pairs of reflections, which makes it a diagonal plus a matrix of
rank 4; residuals to 1e-6 (float64) or 1e-4 (float32) of the eigenvalue. ms: ours; peers: their time over ours, above 1 mckean is
faster; ratio: the fastest of those whose eigenvalues are right to 1e-6 (float32: 1e-4); others carry their worst relative error in
brackets, see (a'). in A: share of our time that products with A take, by a product measured alone; bound: those products, the basis read
twice a step and once for the Ritz vectors at the bandwidth measured here. NumPy: Lanczos with the recurrence, then one pass against all.
rsvd: scikit-learn's randomized_svd with as many power iterations; it and torch's lobpcg get a sparse diagonal matrix of the same
eigenvalues. jax: lobpcg_standard asked for tol and for tol / d. skipped: a call beyond --budget
seconds; not compiled: beyond --compile seconds of that in a run."""
DENSE_NOTES = """\
The same eigenvalues in a dense symmetric matrix, given to all as a matrix."""
ERROR_NOTES = """\
Products with vectors: worst relative error of the k eigenvalues, against those the operator was made from."""
BATCH_NOTES = """\
orthonormal: (U diag(s) U^T + t)^-1 b for every item; sqrt_solve: its square root; Cholesky: (W W^T + t)^-1 b through the k x k Gram
matrix; eigen: W W^T = U diag(s) U^T. GB/s: U, b and the result counted once (eigen: W and U); read once: what the same traffic takes
at the bandwidth measured here. ms: ours; peers: their time over ours. error: of ours, relative, first items, in float64."""
NYSTROM_NOTES = """\
Eigenvalues 100 i^(-3/2), 64 columns; in A: share of the product with a block of 64. error: |A - U diag(s) U^T| over the next
eigenvalue."""
FUSED_NOTES = """\
x + h P g + sqrt(2 h) P^(1/2) z with normal z, one model U (d, k) for n particles, gradients given. normals: what drawing the noise
alone takes in our generator. read once: x, g, U and the result at the bandwidth measured here. variance: by how much the mean square
of the noise is off, relative; the last column is what that may be by chance, three standard deviations."""


# ---- cells that run in a process of their own ---------------------------------------------------------------------------


def bandwidth_cell(n_bytes: int, threads: int) -> float:
    """Bytes per second, the best of reading one array and of copying."""
    torch = sys.modules.get("torch")
    n = max(n_bytes // 8, 512)
    a = np.ones(n)
    best = 8 * n / measure(lambda: a @ a, budget=0.1)
    if torch is not None:
        x = torch.from_numpy(a)
        best = max(best, 8 * n / measure(lambda: torch.dot(x, x), budget=0.1))
    return max(best, common.copy_bandwidth(n_bytes, threads, torch=torch))


def _operator(kind: str, d: int, k: int, dtype: str) -> tuple[Any, np.ndarray]:
    if kind == "dense":
        return peers.full(d, k, dtype)
    op = peers.spiked(d, k, dtype)
    return op, op.values


def eigen_cell(
    who: str, operator: str, d: int, k: int, dtype: str, budget: float
) -> dict[str, Any]:
    op, known = _operator(operator, d, k, dtype)
    run = peers.EIGEN[who](op, k, TOL[dtype])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a peer that stops short is shown by its error
        start = time.perf_counter()
        found, products = run()
        compiled = time.perf_counter() - start
        start = time.perf_counter()
        if who in peers.COMPILED:
            run()
        first = time.perf_counter() - start if who in peers.COMPILED else compiled
        seconds = first if first > 2 else measure(run, budget=min(0.5, budget))
    error = peers.off(found, known)
    return {"seconds": seconds, "products": products, "error": error, "compiling": compiled}


def product_cell(operator: str, d: int, k: int, dtype: str) -> float:
    op = _operator(operator, d, k, dtype)[0]
    return measure(peers.seconds_of_products(op, 1), budget=0.2)


def batch_cell(who: str, items: int, d: int, k: int, dtype: str, form: str) -> dict[str, float]:
    W, s, b = peers.batch(items, d, k, dtype, form)
    run = peers.BATCHED[who](W, s, b, form)
    error = peers.batched_error(W, s, b, form, run())
    return {"seconds": measure(run, budget=0.4), "error": error}


def nystrom_cell(who: str, d: int, dtype: str) -> dict[str, float]:
    op = peers.decaying(d, dtype)
    run = peers.NYSTROM[who](op, COLUMNS)
    error = peers.distance(op, *run()) / op.values[COLUMNS]
    out = {"seconds": measure(run, budget=0.5), "error": error}
    if who == "mckean":
        out["products"] = measure(peers.seconds_of_products(op, COLUMNS), budget=0.3)
    return out


def fused_cell(who: str, n: int, d: int, k: int, dtype: str) -> dict[str, float]:
    crowd = U, s, x, grad = peers.crowd(n, d, k, dtype)
    run = peers.FUSED[who](U, s, x, grad)
    out = {"error": peers.covariance_check(run, *crowd), "seconds": measure(run, budget=0.5)}
    if who == "mckean":
        count = min(n * d, 1_000_000)
        out["normals"] = (
            measure(lambda: mk.random.normal(1, count, dtype=dtype), budget=0.2) * n * d / count
        )
    return out


def _threaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """What fails says why."""

    def run(threads: int, **cell: Any) -> Any:
        if cell.get("who", "").startswith("torch"):
            import torch  # noqa: F401
        common.set_threads(threads)
        try:
            return function(**cell)
        except Exception as error:
            print(f"{cell}: {type(error).__name__}: {error}", file=sys.stderr)
            return {"why": type(error).__name__}

    return run


CELLS = {
    name.removesuffix("_cell"): _threaded(function)
    for name, function in list(globals().items())
    if name.endswith("_cell") and name != "bandwidth_cell"
}
CELLS["bandwidth"] = lambda threads, n_bytes: bandwidth_cell(n_bytes, threads)


# ---- tables -----------------------------------------------------------------------------------------------------------


def lanczos_bytes(d: int, k: int, steps: int, size: int) -> int:
    """Of the basis, read twice a step and once for the Ritz vectors, without a restart."""
    return size * d * (steps * (steps + 1) + steps + k)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


class Bench:
    """One run: what the command line asks for and what is known so far."""

    def __init__(self, args: Any, report: Any) -> None:
        self.args, self.report = args, report
        self.peers = [variant for peer in args.peer for variant in peers.PEERS[peer]]
        self.rates: dict[tuple[Any, ...], float] = {}  # seconds by size, last seen
        self.compiling = 0.0
        self.bandwidths: dict[tuple[int, int], float] = {}

    def ask(self, kind: str, threads: int, dtype: str, /, **cell: Any) -> Any:
        cell |= {"kind": kind, "threads": threads}
        limit = 60 + 8 * self.args.budget
        return common.in_jax(__file__, cell, threads, dtype, timeout=limit)

    def bandwidth(self, n_bytes: float, threads: int) -> float:
        """Bytes per second for an array of that size, to a power of two."""
        size = 1 << min(max(int(n_bytes), 4096).bit_length(), 28)
        if (size, threads) not in self.bandwidths:
            self.bandwidths[size, threads] = self.ask("bandwidth", threads, "float32", n_bytes=size)
        return self.bandwidths[size, threads] or float("nan")

    def memory(self, n_bytes: float) -> str | None:
        """A text that says why not."""
        from bench_sinkhorn import available

        return f"skipped, {n_bytes / 2**30:.1f} GiB" if n_bytes > 0.6 * available() else None

    # leading eigenpairs

    def eigen(self, who: str, kind: str, d: int, k: int, dtype: str, threads: int) -> Any:
        key = (who, kind, k, dtype, threads)
        less = [(size, t) for (*known, size), t in self.rates.items() if tuple(known) == key]
        if less and max(t * d / size for size, t in less) > self.args.budget:
            return "skipped"
        if who != "mckean" and k > 32 and threads > 1:
            return "skipped"
        if who in peers.COMPILED and self.compiling > self.args.compile:
            return "not compiled"
        held = d * np.dtype(dtype).itemsize * (14 * k if "lobpcg" in who else 6 * k + 60)
        if why := self.memory(held):
            return why
        cell = {"who": who, "operator": kind, "d": d, "k": k, "dtype": dtype}
        found = self.ask("eigen", threads, dtype, **cell, budget=self.args.budget)
        if not found or "why" in found:
            return (found or {}).get("why", "failed")
        if who in peers.COMPILED:
            self.compiling += found["compiling"]
        self.rates[(*key, d)] = found["seconds"]
        return found

    def spectra(
        self, kind: str, sizes: Sequence[int], letter: str, title: str, notes: str, targets: Any
    ) -> None:
        who = [p for p in peers.EIGEN if p in self.peers]
        if kind == "operator":
            who = [p for p in who if p not in ("rsvd 2", "rsvd 7")]
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                rows, errors = [], []
                for k in self.ranks():
                    for d in sizes:
                        if 5 * k >= d:
                            continue
                        row: dict[str, Any] = {"d": d, "k": k}
                        wrong: dict[str, Any] = {"d": d, "k": k}
                        rows.append(row)
                        ours = self.eigen("mckean", kind, d, k, dtype, threads)
                        if isinstance(ours, str):
                            row["ms"] = ours
                            continue
                        errors.append(wrong)
                        row |= {"ms": 1e3 * ours["seconds"], "products": ours["products"]}
                        self.bounded(row, kind, d, k, dtype, threads, ours)
                        goal = targets[dtype].get((d, k)) if threads == 1 else None
                        row["target"] = goal
                        if goal:
                            row["met"] = "yes" if row["ms"] <= goal else "no"
                        known = []
                        for p in ("mckean", *who):
                            found = (
                                ours if p == "mckean" else self.eigen(p, kind, d, k, dtype, threads)
                            )
                            if isinstance(found, str):
                                row[p] = found
                                continue
                            count = "" if found["products"] is None else f"{found['products']}: "
                            wrong[p] = f"{count}{found['error']:.0e}"
                            if p == "mckean":
                                continue
                            row[p] = found["seconds"] / ours["seconds"]
                            if found["error"] <= LIMIT[dtype]:
                                known.append(row[p])
                            else:
                                row[p] = f"{row[p]:.3g} ({found['error']:.0e})"
                        row["ratio"] = ratio_to_best(1.0, known)
                name = f"{dtype}, {_threads(threads)}"
                self.report.table(
                    f"({letter}) milliseconds for the k largest eigenpairs{title}, {name}",
                    ["d", "k", "ms", "products", *who, "ratio", "in A", "bound", "of bound", "target", "met"],
                    rows,
                    self.once(notes),
                )  # fmt: skip
                self.report.table(
                    f"({letter}') products and accuracy{title}, {name}",
                    ["d", "k", "mckean", *who],
                    errors,
                    self.once(ERROR_NOTES),
                )

    def ranks(self) -> Sequence[int]:
        return self.args.k or (QUICK_RANKS if self.args.quick else RANKS)

    def bounded(
        self, row: dict[str, Any], kind: str, d: int, k: int, dtype: str, threads: int, ours: Any
    ) -> None:
        one = self.ask("product", threads, dtype, operator=kind, d=d, k=k, dtype=dtype)
        if not isinstance(one, float) or not ours["products"]:
            return
        steps, size = ours["products"], np.dtype(dtype).itemsize
        row["in A"] = steps * one / ours["seconds"]
        traffic = lanczos_bytes(d, k, steps, size) / self.bandwidth(steps * d * size, threads)
        row["bound"] = 1e3 * (steps * one + traffic)
        row["of bound"] = row["bound"] / row["ms"]

    def once(self, notes: str) -> str:
        """Notes under the first table of their kind."""
        return "" if any(t["notes"] == notes for t in self.report.tables) else notes

    def lanczos(self) -> None:
        """(a) Operators given by their products."""
        sizes = self.args.size or (QUICK_SIZES if self.args.quick else SIZES)
        self.spectra("operator", sizes, "a", "", LANCZOS_NOTES, TARGETS)

    def dense(self) -> None:
        """(b) A dense matrix."""
        size = min(self.args.size) if self.args.size else DENSE
        if self.args.quick:
            size = min(size, QUICK_DENSE)
        targets = {
            dtype: {(DENSE, k): ms for k, ms in goals.items()}
            for dtype, goals in DENSE_TARGETS.items()
        }
        self.spectra("dense", [size], "b", " of a dense matrix", DENSE_NOTES, targets)

    # batches

    def shapes(self) -> Sequence[tuple[int, int, int]]:
        shapes = QUICK_SHAPES if self.args.quick else SHAPES
        if self.args.size:
            return [(min(self.args.size), d, k) for _, d, k in shapes[:1]]
        return shapes

    def batched(self) -> None:
        """(c) Solves with a model for every item."""
        who = [p for p in peers.BATCHED if p in self.peers]
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                rows = []
                size = np.dtype(dtype).itemsize
                for items, d, k in self.shapes():
                    for form in peers.FORMS:
                        row: dict[str, Any] = {"form": form, "items": items, "d": d, "k": k}
                        rows.append(row)
                        bytes_ = size * items * (d * k + 2 * d + k)
                        if form == "eigen":
                            bytes_ = size * items * (2 * d * k + k)
                        if why := self.memory(6 * bytes_):
                            row["ms"] = why
                            continue
                        cell = {"items": items, "d": d, "k": k, "dtype": dtype, "form": form}
                        ours = self.ask("batch", threads, dtype, who="mckean", **cell)
                        if not ours or "why" in ours:
                            row["ms"] = (ours or {}).get("why", "failed")
                            continue
                        once = bytes_ / self.bandwidth(bytes_, threads)
                        row |= {
                            "ms": 1e3 * ours["seconds"],
                            "GB/s": 1e-9 * bytes_ / ours["seconds"],
                            "read once": 1e3 * once,
                            "of it": once / ours["seconds"],
                            "error": ours["error"],
                        }
                        if (items, d, k) == SHAPES[0] and threads == 1:
                            goal = BATCH_TARGETS[dtype].get(form)
                            row["target"] = goal
                            if goal:
                                row["met"] = "yes" if row["ms"] <= goal else "no"
                        self.compared(row, who, "batch", ours, cell, dtype, threads)
                self.report.table(
                    f"(c) milliseconds for a batch of damped solves, {dtype}, {_threads(threads)}",
                    ["form", "items", "d", "k", "ms", *who, "ratio", "GB/s", "read once", "of it", "target", "met", "error"],
                    rows,
                    self.once(BATCH_NOTES),
                )  # fmt: skip

    def compared(
        self, row: dict[str, Any], who: Sequence[str], kind: str, ours: Any, cell: Any, dtype: str, threads: int,
    ) -> None:  # fmt: skip
        """Ratios of the peers, and the smallest."""
        known = []
        for p in who:
            found = self.ask(kind, threads, dtype, who=p, **cell)
            if not found or "why" in found:
                row[p] = (found or {}).get("why", "failed")
                continue
            row[p] = found["seconds"] / ours["seconds"]
            known.append(row[p])
        row["ratio"] = ratio_to_best(1.0, known)

    # sketches

    def nystrom(self) -> None:
        """(d) Randomised Nystrom."""
        who = [p for p in peers.NYSTROM if p in self.peers]
        rows = []
        sizes = self.args.size or (QUICK_SKETCHED if self.args.quick else SKETCHED)
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                for d in sizes:
                    row: dict[str, Any] = {"dtype": dtype, "threads": threads, "d": max(d, 128)}
                    rows.append(row)
                    cell = {"d": row["d"], "dtype": dtype}
                    ours = self.ask("nystrom", threads, dtype, who="mckean", **cell)
                    if not ours or "why" in ours:
                        row["ms"] = (ours or {}).get("why", "failed")
                        continue
                    row |= {"ms": 1e3 * ours["seconds"], "error": ours["error"]}
                    row["in A"] = ours["products"] / ours["seconds"]
                    self.compared(row, who, "nystrom", ours, cell, dtype, threads)
        self.report.table(
            f"(d) milliseconds for a Nystrom model of {COLUMNS} columns",
            ["dtype", "threads", "d", "ms", *who, "ratio", "in A", "error"],
            rows,
            NYSTROM_NOTES,
        )

    # particles

    def fused(self) -> None:
        """(e) A preconditioned Langevin step."""
        who = [p for p in peers.FUSED if p in self.peers]
        rows = []
        shapes = QUICK_CROWDS if self.args.quick else CROWDS
        if self.args.size:
            shapes = tuple((min(self.args.size), d, k) for _, d, k in shapes[:1])
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                for n, d, k in shapes:
                    row: dict[str, Any] = {"dtype": dtype, "threads": threads, "n": n, "d": d, "k": k}  # fmt: skip
                    rows.append(row)
                    cell = {"n": n, "d": d, "k": k, "dtype": dtype}
                    ours = self.ask("fused", threads, dtype, who="mckean", **cell)
                    if not ours or "why" in ours:
                        row["ms"] = (ours or {}).get("why", "failed")
                        continue
                    bytes_ = np.dtype(dtype).itemsize * (3 * n * d + d * k)
                    row |= {
                        "ms": 1e3 * ours["seconds"],
                        "normals": 1e3 * ours["normals"],
                        "read once": 1e3 * bytes_ / self.bandwidth(bytes_, threads),
                        "variance": ours["error"],
                        "by chance": 3 * (2 / (n * d)) ** 0.5,
                    }
                    self.compared(row, who, "fused", ours, cell, dtype, threads)
        self.report.table(
            "(e) milliseconds for a preconditioned Langevin step of n particles",
            ["dtype", "threads", "n", "d", "k", "ms", *who, "ratio", "normals", "read once", "variance", "by chance"],
            rows,
            FUSED_NOTES,
        )  # fmt: skip


TABLES = ("lanczos", "dense", "batched", "nystrom", "fused")


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--k", type=int, nargs="+", help="ranks of the eigenpairs")
    add("--table", nargs="+", choices=TABLES, default=list(TABLES), help="only these")
    add("--budget", type=float, help="seconds that one call may take; 8, quick 1")
    add("--compile", type=float, help="seconds that JAX may compile its lobpcg; 60, quick 10")
    parser.set_defaults(dtype=["float32", "float64"])


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("lowrank", tuple(peers.PEERS), argv, add=_arguments)
    if "--threads" not in (sys.argv if argv is None else argv):
        args.threads = [1]  # a few minutes then
    args.budget = args.budget or (1.0 if args.quick else 8.0)
    args.compile = args.compile if args.compile is not None else (10.0 if args.quick else 60.0)
    bench = Bench(args, common.Report("lowrank", args, argv))
    for table in args.table:
        getattr(bench, table)()
    bench.report.finish()


if __name__ == "__main__":
    common.serve_jax(CELLS) if common.WORKER in sys.argv else main()
