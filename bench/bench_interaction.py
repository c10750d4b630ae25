"""How many pairs a second do the interaction sums take, beside their peers and beside what the processor allows?"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import common
import numpy as np
from common import measure, ratio_to_best
from interaction_peers import BUILD, DENSE, PEERS, error, offers, points

import mckean as mk
from mckean import kernels

KERNELS = {
    "gaussian": kernels.Gaussian(1.0),
    "laplace": kernels.Laplace(1.0),
    "imq": kernels.InverseMultiquadric(1.0),
    "energy": kernels.Energy(),
}
OPS: dict[str, tuple[str, ...]] = {
    "sum": tuple(KERNELS),
    "grad": tuple(KERNELS),
    "lse": ("gaussian", "laplace"),
    "mean": ("gaussian", "laplace"),
}
DIMS = (2, 3, 10, 64, 784)
PROBE = 1000  # the size that tells how long larger ones take
LARGE = 20_000  # calls on more points than this get half the time
SLOW = 3.0  # a peer this much slower than the fastest at the probe size is not run at larger ones

# The time of a pair is F / peak + t: F = 2 d flop (sum, lse) or 4 d (grad, mean) and t for the kernel's value. On the
# reference machine (AVX2, 3.2 GHz), per core: (FMA peak, 1024^3 BLAS product) in GFLOP/s, t in ns. Here both are scaled
# by the BLAS rate found in this run.
REFERENCE = {"float32": (102.8, 92.0), "float64": (51.1, 43.0)}
VALUE_NS = {
    "float32": {"gaussian": 0.175, "laplace": 0.32, "imq": 0.13, "energy": 0.155, "maximum": 0.10},
    "float64": {"gaussian": 0.79, "laplace": 1.2, "imq": 0.95, "energy": 0.62, "maximum": 0.20},
}
SMALL_TARGET, SCALING_TARGET = 15.0, 1.85  # microseconds; two threads over one from n = 4e3
NOTES = f"""\
n points against n, unit bandwidth, squared distances around 2. ratio: to the fastest peer, above 1 mckean is faster. bound:
a model, the flops of the distances at the FMA peak and then the kernel's values; the target is 0.67 of it where n >= 1e4.
error: largest of 8 rows against float64, over the sum of the terms' norms; peer error: of the fastest peer.
"-": not offered; a dense matrix above {DENSE:.0e} entries; {SLOW:g} times slower than the fastest at the first size and thread
count; a call expected to take longer than --budget seconds (for n <= {LARGE} twice as long; half as long where a peer is not
the fastest); KeOps after --compile seconds of compiling in a table (--quick: in all), as formulas stay cached the next run gets
further; or the --minutes of the run are over. Nothing is extrapolated."""


def bound(op: str, kernel: str, d: int, dtype: str, threads: int, blas: float) -> float:
    """Pairs per second that the model allows, given the BLAS rate of one core in flop per second."""
    peak, product = REFERENCE[dtype]
    here = blas / (1e9 * product)
    value = VALUE_NS[dtype][kernel] + (VALUE_NS[dtype]["maximum"] if op in ("lse", "mean") else 0.0)
    flop = 2 * d if op in ("sum", "lse") else 4 * d
    return threads * here * 1e9 / (flop / peak + value)


def ours(op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    k = KERNELS[kernel]
    if op in ("sum", "grad"):
        call = mk.kernel_sum if op == "sum" else mk.kernel_grad
        return lambda: call(k, x, y, w)
    log_w = np.log(w) if isinstance(w, np.ndarray) else w.log()
    if op == "lse":
        return lambda: mk.kernel_logsumexp(k, x, y, log_w)
    return lambda: mk.kernel_mean(k, x, y, log_weights=log_w)


def timed(run: Callable[[], Any], budget: float = 0.3) -> tuple[Any, float]:
    """What a call returns, and its seconds: the median of many short ones, the best of the long ones the budget holds."""
    times: list[float] = []
    while not times or sum(times) + min(times) < budget:
        start = time.perf_counter()
        out = run()
        times.append(time.perf_counter() - start)
        if len(times) == 2 and min(times) < budget / 15:
            return out, measure(run, budget=budget / 2)
    return out, min(times)


# ---- cells that run in a process of their own ---------------------------------------------------------------------------


def peer_cell(peer: str, op: str, kernel: str, n: int, d: int, dtype: str) -> dict[str, Any]:
    x, y, w = points(n, n, d, dtype)
    start = time.perf_counter()
    run = BUILD[peer](op, kernel, x, y, w)
    building = time.perf_counter() - start
    out, seconds = timed(run)
    normalised = peer == "sklearn" and op == "lse"  # a density, off by a constant
    off = None if normalised else error(op, kernel, x, y, w, np.asarray(out))
    return {"seconds": seconds, "error": off, "building": building}


def blas_cell(dtype: str) -> float:
    """Flop per second of a matrix product on one core, the best of a few."""
    a, b = np.random.default_rng(1).standard_normal((2, 1024, 1024)).astype(dtype)
    out = np.empty_like(a)
    return 2 * 1024**3 / min(timed(lambda: np.matmul(a, b, out=out), 0.0)[1] for _ in range(8))


def memory_cell(
    op: str, kernel: str, n: int, m: int, d: int, dtype: str, threads: int
) -> dict[str, float]:
    """Bytes of resident memory that one call took at its peak, beyond what was there, and of its output."""
    mk.set_num_threads(threads)
    x, y, w = points(n, m, d, dtype)
    run = ours(op, kernel, x, y, w)
    ours(op, kernel, x[:500], y[:500], w[:500])()  # threads and code are there
    before = _resident(reset=True)
    start = time.perf_counter()
    out = run()
    seconds = time.perf_counter() - start
    grown = _resident(peak=True) - before
    return {"grown": grown, "output": out.nbytes, "inputs": x.nbytes + y.nbytes, "seconds": seconds}


def _resident(*, peak: bool = False, reset: bool = False) -> int:
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["VmHWM" if peak else "VmRSS"].split()[0])


CELLS = {"peer": peer_cell, "blas": blas_cell, "memory": memory_cell}


# ---- tables -----------------------------------------------------------------------------------------------------------


class Bench:
    """One run: what the command line asks for and what is known so far."""

    def __init__(self, args: Any, report: common.Report) -> None:
        self.args, self.report = args, report
        self.peers = [variant for peer in args.peer for variant in PEERS[peer]]
        self.until = time.perf_counter() + 60 * args.minutes
        self.blas: dict[str, float] = {}
        # pairs a second and thread by what is asked for and by whom, at the first size and thread count
        self.rates: dict[tuple[Any, ...], dict[str, float]] = {}
        self.failures: Counter[str] = Counter()
        self.compiling = 0.0

    def bound(self, op: str, kernel: str, d: int, dtype: str, threads: int) -> float:
        if dtype not in self.blas:
            cell = {"kind": "blas", "dtype": dtype}
            self.blas[dtype] = common.in_jax(__file__, cell, 1, dtype) or float("nan")
        return bound(op, kernel, d, dtype, threads, self.blas[dtype])

    def peer(
        self,
        peer: str,
        op: str,
        kernel: str,
        n: int,
        d: int,
        dtype: str,
        threads: int,
        limit: float,
    ) -> dict[str, Any] | None:
        """A measurement, or None where there is none to be had within the limits."""
        late = time.perf_counter() > self.until or self.failures[peer] > 2
        if late or (peer == "keops" and self.compiling > self.args.compile):
            return None
        cell = dict(kind="peer", peer=peer, op=op, kernel=kernel, n=n, d=d, dtype=dtype)
        found = common.in_jax(__file__, cell, threads, dtype, timeout=60 + 4 * limit)
        if found is None:
            self.failures[peer] += 1
            if self.failures[peer] > 2:
                print(
                    f"{peer} has failed three times and is left out from here on", file=sys.stderr
                )
        elif peer == "keops":
            self.compiling += found["building"] if found["building"] > 1 else 0.0
        return found

    def wanted(
        self, offered: list[str], rates: dict[str, float], n: int, threads: int, limit: float
    ) -> Iterator[str]:
        """Those of the peers offered whose known rate is near the fastest, and enough for another cell."""
        best = max((rates.get(p, 0.0) for p in offered), default=0.0)
        for p in offered:
            mine = rates.get(p, 0.0)
            seconds = limit if mine == best else self.args.budget / 2
            if SLOW * mine > best and n * n < seconds * threads * mine:
                yield p

    def cell(
        self, op: str, kernel: str, d: int, dtype: str, threads: int, sizes: list[int]
    ) -> Iterator[dict[str, Any]]:
        """Rows for growing n; the rates at the first decide what is run later, and with more threads."""
        fresh = (op, kernel, d, dtype) not in self.rates
        rates = self.rates.setdefault((op, kernel, d, dtype), {})
        probe = [PROBE] if fresh and min(sizes) > 2 * PROBE else []
        for n in [*probe, *sizes]:
            limit = self.args.budget * (1 if n > LARGE else 2)
            row: dict[str, Any] = {"kernel": kernel, "d": d, "n": n}
            found: dict[str, dict[str, Any]] = {}
            offered = [p for p in self.peers if offers(p, op, kernel, n)]
            for p in offered if fresh else self.wanted(offered, rates, n, threads, limit):
                result = self.peer(p, op, kernel, n, d, dtype, threads, limit)
                found |= {p: result} if result else {}
            late = time.perf_counter() > self.until
            if not late and n * n <= limit * threads * rates.get("mckean", np.inf):
                x, y, w = points(n, n, d, dtype)
                out, t = timed(ours(op, kernel, x, y, w))
                found["mckean"] = {"seconds": t}
                allowed = self.bound(op, kernel, d, dtype, threads)
                row |= {"bound": allowed / 1e6, "of bound": n * n / t / allowed}
                row["error"] = error(op, kernel, x, y, w, out)
                row["ratio"] = ratio_to_best(
                    t, (found[p]["seconds"] for p in found if p != "mckean")
                )
            row |= {p: n * n / r["seconds"] / 1e6 for p, r in found.items()}
            if fresh:
                rates |= {p: n * n / r["seconds"] / threads for p, r in found.items()}
            best = min(found.keys() - {"mckean"}, key=lambda p: found[p]["seconds"], default=None)
            row |= {"best peer": best, "peer error": found[best]["error"] if best else None}
            fresh = False
            if n not in probe:
                yield row

    def small(self, dtype: str) -> None:
        """(a) Calls so short that Python counts."""
        n, d = 100, 2
        common.set_threads(1)
        self.compiling = 0.0
        rows = []
        peers = [p for p in self.peers if p != "keops" or not self.args.quick]  # see `pairs`
        for op in self.args.op:
            for kernel in (k for k in self.args.kernel or ("gaussian", "energy") if k in OPS[op]):
                x, y, w = points(n, n, d, dtype)
                row: dict[str, Any] = {"op": op, "kernel": kernel, "target": SMALL_TARGET}
                row["mckean"] = measure(ours(op, kernel, x, y, w), budget=0.1)
                if "torch" in self.args.peer:
                    import torch

                    tensors = map(torch.from_numpy, (x, y, w))
                    row["mckean (torch)"] = measure(ours(op, kernel, *tensors), budget=0.1)
                for p in (p for p in peers if offers(p, op, kernel, n)):
                    found = self.peer(p, op, kernel, n, d, dtype, 1, self.args.budget)
                    row[p] = found and found["seconds"]
                row["ratio"] = ratio_to_best(row["mckean"], (row.get(p) for p in self.peers))
                rows.append(row)
        columns = ["mckean", *["mckean (torch)"] * ("torch" in self.args.peer), *self.peers]
        for row in rows:
            row |= {c: 1e6 * row[c] for c in columns if row.get(c)}
        self.report.table(
            f"(a) microseconds for one call with n = m = {n}, d = {d}, {dtype}",
            ["op", "kernel", *columns, "ratio", "target"],
            rows,
            "From Python, with every check, one thread; mckean (torch): arguments are tensors.",
        )

    def scaling(self, dtype: str) -> None:
        """(b) Threads."""
        args = self.args
        counts = args.threads if max(args.threads) > 1 else [1, common.cores()]
        rows = []
        for op in args.op:
            for d in args.d or (3, 64):
                for n in args.size or ([4_000] if args.quick else [400, 1_000, 4_000, 10_000]):
                    x, y, w = points(n, n, d, dtype)
                    run, times = ours(op, "gaussian", x, y, w), {t: [] for t in counts}
                    for _ in range(3):  # in turns, so that a slow spell of the machine meets all
                        for threads in counts:
                            common.set_threads(threads)
                            times[threads].append(timed(run, 0.1)[1])
                    best = {t: min(v) for t, v in times.items()}
                    row = {
                        "op": op,
                        "d": d,
                        "n": n,
                        "target": SCALING_TARGET * (n >= 4_000) or None,
                    }
                    for threads in counts:
                        row[_threads(threads)] = n * n / best[threads] / 1e6
                    row["speed-up"] = best[min(counts)] / best[max(counts)]
                    rows.append(row)
        self.report.table(
            f"(b) thread scaling: million pairs per second, gaussian, {dtype}",
            ["op", "d", "n", *map(_threads, counts), "speed-up", "target"],
            rows,
            "The best of three rounds. Target: two threads over one.",
        )

    def memory(self) -> None:
        """(c) What a call takes beside its arguments and its result."""
        few = min(self.args.size) if self.args.size else 2_000
        many, d, threads = 500 * few, 3, max(self.args.threads)
        rows = []
        for dtype in self.args.dtype:
            for op in self.args.op:
                for n, m in ((few, many), (many, few)):
                    cell = dict(
                        op=op, kernel="gaussian", n=n, m=m, d=d, dtype=dtype, threads=threads
                    )
                    worker = [sys.executable, __file__, common.WORKER, str(threads)]
                    done = subprocess.run(
                        worker,
                        input=json.dumps(cell | {"kind": "memory"}) + "\n",
                        text=True,
                        stdout=subprocess.PIPE,
                    )
                    found = json.loads(done.stdout or "null")
                    if not found:
                        continue
                    size = {k: found[k] / 2**20 for k in ("inputs", "output")}
                    beyond = found["grown"] - found["output"]
                    rows.append(
                        {"op": op, "dtype": dtype, "rows": n, "columns": m, **size, "beyond MiB": beyond / 2**20,
                         "bytes per point": beyond / (n + m), "matrix MiB": n * m * np.dtype(dtype).itemsize / 2**20,
                         "seconds": found["seconds"]}
                    )  # fmt: skip
        self.report.table(
            f"(c) peak memory of one call, gaussian, d = {d}, {_threads(threads)}",
            ["op", "dtype", "rows", "columns", "inputs", "output", "beyond MiB", "bytes per point", "matrix MiB", "seconds"],
            rows,
            "Each call in a process of its own. beyond: growth of the peak of resident memory, less the output; matrix: what\n"
            "one n x m array would take. inputs and output in MiB.",
        )  # fmt: skip

    def pairs(self, op: str, dtype: str, threads: int, letter: str) -> None:
        """(d) to (g) Millions of pairs a second."""
        args = self.args
        default = [1_000, 10_000] if args.quick else [1_000, 10_000, 100_000]
        sizes = sorted(args.size or default)
        names = args.kernel or (["gaussian", "energy"] if args.quick else list(KERNELS))
        dims = args.d or ([3, 64] if args.quick else DIMS)
        common.set_threads(threads)
        if not args.quick:  # a quick run has --compile seconds in all
            self.compiling = 0.0
        rows = []
        for kernel in (k for k in names if k in OPS[op]):
            for d in dims:
                rows += self.cell(op, kernel, d, dtype, threads, sizes)
        self.report.table(
            f"({letter}) {op}: million pairs per second, {dtype}, {_threads(threads)}",
            ["kernel", "d", "n", "mckean", *self.peers, "best peer", "ratio", "bound", "of bound", "error", "peer error"],
            rows,
            "" if any(t["notes"] == NOTES for t in self.report.tables) else NOTES,
        )  # fmt: skip


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--op", nargs="+", choices=list(OPS), default=list(OPS))
    add("--kernel", nargs="+", choices=list(KERNELS))
    add("--d", type=int, nargs="+", help="dimensions")
    add("--budget", type=float, default=4.0, help="seconds that one call may take, see the notes")
    add(
        "--compile",
        type=float,
        default=15.0,
        help="seconds that KeOps may compile, per table; with --quick in all",
    )
    add("--minutes", type=float, default=24.0, help="after these, what is left is not measured")
    parser.set_defaults(dtype=["float32", "float64"])


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("interaction", tuple(PEERS), argv, add=_arguments)
    bench = Bench(args, common.Report("interaction", args, argv))
    for dtype in args.dtype:
        bench.small(dtype)
        bench.scaling(dtype)
    bench.memory()
    for dtype in args.dtype:
        for threads in args.threads:
            for op in args.op:
                bench.pairs(op, dtype, threads, "defg"[list(OPS).index(op)])
    bench.report.finish()


if __name__ == "__main__":
    common.serve_jax(CELLS) if common.WORKER in sys.argv else main()
