"""What does a slice of the sliced energy distance cost, beside its peers and beside what the processor allows?"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import common
import numpy as np
import sliced_peers
from common import measure, ratio_to_best
from sliced_peers import BUILD, CHUNK, LEAST, PEERS, SLAB, constant, offers, points, slab

import mckean as mk
from mckean import _dispatch

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000, 100_000)
DIMS, QUICK_DIMS = (2, 16, 64, 784), (2, 64, 784)
SLICES, QUICK_SLICES = (10, 100, 1000), (100,)
OTHERS = ("POT value", "POT grad")  # another quantity

# On the reference machine (AVX2, 3.2 GHz), one core: (FMA peak, 1024^3 BLAS product) in GFLOP/s; the peak here is scaled
# by the BLAS rate found in this run. Nanoseconds for a point of a slice by n = m: sorting, packing and the scan at their
# fastest, and the targets by dimension, float32 (float64: twice).
REFERENCE = {"float32": (102.8, 92.0), "float64": (51.1, 43.0)}
SORT_NS = {1_000: 7.3, 10_000: 7.4, 100_000: 9.8, 1_000_000: 18.3}
TARGET_NS = {
    1_000: {2: 10, 16: 11, 64: 13, 784: 40},
    10_000: {2: 10, 16: 11, 64: 13, 784: 40},
    100_000: {2: 13, 16: 14, 64: 16, 784: 45},
    1_000_000: {2: 25, 16: 26, 64: 28, 784: 60},
}
MEMORY_TARGET = 200e6
# What a peer's first call is expected to take at n = 1e3, in nanoseconds; later ones are expected to take what earlier ones did.
EXPECTED = {
    "numpy": 60, "numpy packed": 40, "torch": 100, "reference": 150, "POT value": 150, "POT grad": 300,
}  # fmt: skip
NOTES = f"""\
Distance and gradient, r = 1, n points against n, P directions made beforehand, the same for all. ns: nanoseconds for a point
of a slice, 2 n P of them; value: ours without the gradient, over ours with. Peers: their time over ours, above 1 mckean is
faster; ratio: the fastest of those that solve this problem (the reference: without the value). POT: the sliced 2-Wasserstein
distance and its automatic gradient in torch, another quantity with the same sort. Peers hold {SLAB:,} projections at a time or
{LEAST} slices (POT 4) if that is more, NumPy sorts {CHUNK:,} of them at a time; numpy packed: indices in the low half of 64-bit keys.
project to back: shares of the time of all threads. floor: 3 d flop at the peak of multiply-adds found here, and sorting, packing
and the scan of the reference machine. grad, value error: of the first "checked" slices against float64, gradients in norm (most of it
from neighbours that float32 projections exchange). skipped: a call expected to take more than --budget seconds (ours: {{longest:g}} of them), or more than
--memory GiB; -: not there."""
CHECKED = 2**24  # entries of a gradient that are compared at most
LONGEST = 20.0  # budgets that a call of ours may take


def sort_floor(n: int) -> float:
    """Nanoseconds for a point of a slice, between the sizes of the table on a straight line in log n."""
    sizes = list(SORT_NS)
    return float(np.interp(math.log(n), np.log(sizes), list(SORT_NS.values())))


def floor(n: int, d: int, dtype: str, threads: int, blas: float) -> float:
    """Nanoseconds that a point of a slice takes at least, given the BLAS rate of one core in flop per second."""
    peak, product = REFERENCE[dtype]
    here = blas / (1e9 * product)
    sort = sort_floor(n) * (2 if dtype == "float64" else 1)
    return (3 * d / (here * peak) + sort) / threads


def target(n: int, d: int, dtype: str, threads: int) -> float | None:
    """The goal set in nanoseconds, for the sizes it was set for."""
    ns = TARGET_NS.get(n, {}).get(d)
    if ns is None or threads > 2:
        return None
    return ns * (2 if dtype == "float64" else 1) / (1 if threads == 1 else 1.8)


@functools.lru_cache(maxsize=8)
def frame(d: int, slices: int, dtype: str) -> np.ndarray:
    return mk.sliced.directions(d, slices, seed=0).astype(dtype, order="C")


def timed(run: Callable[[], Any], budget: float = 0.6) -> tuple[Any, float]:
    """What a call returns, and the median of its seconds: after a first call where `budget` seconds hold more than one."""
    times: list[float] = []
    while not times or sum(times) + min(times) < budget:
        start = time.perf_counter()
        out = run()
        times.append(time.perf_counter() - start)
        if len(times) == 2 and min(times) < budget / 15:
            return out, measure(run, budget=budget / 2)
    return out, statistics.median(times[1:] or times)


def relative(found: Any, known: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - known) / np.linalg.norm(known))


# ---- cells that run in a process of their own ---------------------------------------------------------------------------


def ours_cell(n: int, d: int, slices: int, dtype: str, budget: float) -> dict[str, Any]:
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)
    (value, grad), seconds = timed(lambda: mk.sliced_mmd2_grad(x, y, directions=xi))
    out: dict[str, Any] = {"seconds": seconds}
    if seconds < budget:
        out["value seconds"] = timed(lambda: mk.sliced_mmd2(x, y, directions=xi))[1]
    some = xi[: max(100, int(slices * budget / 4 / seconds))]
    out["stages"] = stages(x, y, some)
    each = 2 * n * (150e-9 + d * 0.3e-9)
    checked = min(slices, max(1, int(budget / 2 / each)))
    if checked < slices:
        value, grad = mk.sliced_mmd2_grad(x, y, directions=xi[:checked])
    rows = max(1, CHECKED // d)
    known, gradient = sliced_peers.exact(x, y, xi[:checked], rows)
    out |= {"checked": checked, "value error": abs(float(value) / known - 1)}
    return out | {"grad error": relative(grad[:rows], gradient)}


def stages(x: np.ndarray, y: np.ndarray, xi: np.ndarray) -> list[float]:
    """Seconds in projecting, sorting, scanning and going back, of all threads, from the native call."""
    values, gradient, seconds = np.empty(len(xi)), np.empty_like(x), np.zeros(4)
    _dispatch.executor("cpu").sliced(
        0, 1.0, x, y, xi, None, None, None, constant(x.shape[1]) / len(xi), False, values, gradient, seconds
    )  # fmt: skip
    return seconds.tolist()


def peer_cell(peer: str, n: int, d: int, slices: int, dtype: str) -> float:
    x, y = points(n, n, d, dtype)
    return timed(BUILD[peer](x, y, frame(d, slices, dtype), slab(peer, n, n, slices)))[1]


def directions_cell(law: str, d: int, slices: int) -> float:
    return timed(lambda: mk.sliced.directions(d, slices, law, seed=0))[1]


def blas_cell(dtype: str) -> float:
    """Flop per second of a matrix product on one core, the best of a few."""
    a, b = np.random.default_rng(1).standard_normal((2, 1024, 1024)).astype(dtype)
    out = np.empty_like(a)
    return 2 * 1024**3 / min(timed(lambda: np.matmul(a, b, out=out), 0.0)[1] for _ in range(8))


def small_cell(who: str, n: int, d: int, slices: int, dtype: str) -> float:
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)
    if who == "mckean (torch)":
        import torch

        x, y = map(torch.from_numpy, (x, y))
    if who == "directions inside":
        return measure(lambda: mk.sliced_mmd2_grad(x, y, n_slices=slices), budget=0.1)
    if who.startswith("mckean"):
        return measure(lambda: mk.sliced_mmd2_grad(x, y, directions=xi), budget=0.1)
    return measure(BUILD[who](x, y, xi, slices), budget=0.1)


def memory_cell(who: str, n: int, d: int, slices: int, dtype: str) -> dict[str, float]:
    """Bytes of resident memory that one call took at its peak, beyond what was there."""
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)

    def call(x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
        if who == "mckean":
            return lambda: mk.sliced_mmd2_grad(x, y, directions=xi)
        return BUILD[who](x, y, xi, slices)

    call(x[:50], y[:50])()  # threads and code are there
    before = _resident(reset=True)
    start = time.perf_counter()
    out = call(x, y)()
    seconds = time.perf_counter() - start
    grown = _resident(peak=True) - before
    del out
    return {"grown": grown, "output": x.nbytes, "inputs": x.nbytes + y.nbytes, "seconds": seconds}


def _resident(*, peak: bool = False, reset: bool = False) -> int:
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["VmHWM" if peak else "VmRSS"].split()[0])


def power_cell(r: float, n: int, d: int, slices: int, dtype: str, budget: float) -> dict[str, Any]:
    """Ours against the sum over all pairs of one slice."""
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)
    seconds = timed(lambda: mk.sliced_mmd2_grad(x, y, r=r, directions=xi))[1]
    out: dict[str, Any] = {"seconds": seconds / slices}
    if (2 * n) ** 2 * 30e-9 > budget:
        return out
    direct, out["direct"] = timed(lambda: sliced_peers.direct(x, y, xi[:1], r))
    value, grad = mk.sliced_mmd2_grad(x, y, r=r, directions=xi[:1])
    known, gradient = sliced_peers.direct(*(a.astype(np.float64) for a in (x, y, xi[:1])), r)
    return out | {
        "value error": abs(float(value) / known - 1),
        "grad error": relative(grad, gradient),
        "direct error": relative(direct[1], gradient) if dtype == "float32" else None,
    }


def wasserstein_cell(who: str, p: float, n: int, d: int, slices: int, dtype: str) -> dict[str, Any]:
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)
    if who != "mckean":
        build = sliced_peers.pot_gradient if who == "POT grad" else sliced_peers.pot_value
        return {"seconds": timed(build(x, y, xi, slab(who, n, n, slices), p))[1]}
    (value, grad), seconds = timed(
        lambda: mk.sliced_wasserstein(x, y, p=p, directions=xi, return_grad=True)
    )
    known, gradient = sliced_wasserstein(x, y, xi, p)
    return {
        "seconds": seconds,
        "value seconds": timed(lambda: mk.sliced_wasserstein(x, y, p=p, directions=xi))[1],
        "value error": abs(float(value) / known - 1),
        "grad error": relative(grad, gradient),
    }


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, xi: np.ndarray, p: float) -> tuple[float, Any]:
    """Clouds of one size, in float64."""
    total, grad = 0.0, np.zeros(x.shape)
    for v in xi.astype(np.float64):
        zx, zy = x @ v, y @ v
        order = np.argsort(zx, kind="stable")
        gaps = zx[order] - np.sort(zy)
        total += np.mean(np.abs(gaps) ** p)
        g = np.empty(len(x))
        g[order] = p / len(x) * np.abs(gaps) ** (p - 1) * np.sign(gaps)
        grad += np.outer(g, v)
    mean = total / len(xi)
    return mean ** (1 / p), grad / len(xi) * mean ** (1 / p - 1) / p


def line_cell(n: int, dtype: str, scipy: bool) -> dict[str, Any]:
    """The energy distance of numbers."""
    x, y = (a.ravel() for a in points(n, n, 1, dtype))
    a, b = x[:, None], y[:, None]
    value, seconds = timed(lambda: mk.energy_distance(a, b))
    out = {"seconds": seconds}
    out["with gradient"] = timed(lambda: mk.energy_distance(a, b, return_grad=True))[1]
    known, _ = sliced_peers.exact(a, b, np.ones((1, 1)))
    out["error"] = abs(float(value) / known - 1)
    if scipy:
        from scipy.stats import energy_distance

        found, out["scipy"] = timed(lambda: energy_distance(x, y))
        out["scipy error"] = abs(float(found) ** 2 / known - 1)
    return out


def batch_cell(batch: int, n: int, d: int, slices: int, dtype: str, torch: bool) -> dict[str, Any]:
    x, y = (a.reshape(batch, n, d) for a in points(batch * n, batch * n, d, dtype))
    xi = frame(d, slices, dtype)
    out = {"seconds": timed(lambda: mk.sliced_mmd2_grad(x, y, directions=xi))[1]}
    out["one by one"] = timed(
        lambda: [mk.sliced_mmd2_grad(a, b, directions=xi) for a, b in zip(x, y, strict=True)]
    )[1]
    if torch:
        out["torch"] = timed(sliced_peers.torch_batch(x, y, xi))[1]
    return out


def target_cell(n: int, d: int, slices: int, dtype: str) -> dict[str, Any]:
    x, y = points(n, n, d, dtype)
    xi = frame(d, slices, dtype)
    plain = timed(lambda: mk.sliced_mmd2_grad(x, y, directions=xi))
    sorted_y, making = timed(lambda: mk.sliced.Target(y, directions=xi))
    prepared = timed(lambda: mk.sliced_mmd2_grad(x, sorted_y))
    apart = relative(prepared[0][1], np.asarray(plain[0][1], np.float64))
    return {"plain": plain[1], "making": making, "target": prepared[1], "difference": apart}


def forget_cell() -> bool:
    points.cache_clear()
    return True


def _threaded(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(threads: int, **cell: Any) -> Any:
        common.set_threads(threads)
        return function(**cell)

    return run


CELLS = {
    name.removesuffix("_cell"): _threaded(function)
    for name, function in list(globals().items())
    if name.endswith("_cell")
}


# ---- tables -----------------------------------------------------------------------------------------------------------


class Bench:
    """One run: what the command line asks for and what is known so far."""

    def __init__(self, args: Any, report: common.Report) -> None:
        self.args, self.report = args, report
        self.peers = [variant for peer in args.peer for variant in PEERS[peer]]
        self.blas: dict[str, float] = {}
        self.rates: dict[
            tuple[Any, ...], float
        ] = {}  # nanoseconds for a point of a slice, last seen
        self.seen: dict[tuple[Any, ...], float] = {}  # of ours, by cell and thread count

    def ask(self, kind: str, threads: int, seconds: float = 0.0, **cell: Any) -> Any:
        """The answer of a process with that many threads; None if it died or took far longer than `seconds`."""
        limit = 120 + 10 * self.args.budget + 6 * seconds
        cell |= {"kind": kind, "threads": threads}
        return common.in_jax(__file__, cell, threads, "float32", timeout=limit)

    def floor(self, n: int, d: int, dtype: str, threads: int) -> float:
        if dtype not in self.blas:
            self.blas[dtype] = self.ask("blas", 1, dtype=dtype) or float("nan")
        return floor(n, d, dtype, threads, self.blas[dtype])

    def expected(self, who: str, n: int, d: int, slices: int, dtype: str, threads: int) -> float:
        """Seconds that a call is likely to take: what it took before, with a margin for larger clouds."""
        known = self.rates.get((who, d, dtype, threads))
        if known is None:
            known = (
                EXPECTED.get(who, 15) * (1 + d / 400) * (2 if dtype == "float64" else 1) / threads
            )
        return 1.25e-9 * known * 2 * n * slices

    def peer(self, who: str, n: int, d: int, slices: int, dtype: str, threads: int) -> Any:
        seconds = self.expected(who, n, d, slices, dtype, threads)
        if seconds > self.args.budget:
            return "skipped"
        found = self.ask("peer", threads, seconds, peer=who, n=n, d=d, slices=slices, dtype=dtype)
        if found is None:
            return "failed"
        self.rates[who, d, dtype, threads] = 1e9 * found / (2 * n * slices)
        return found

    def cells(self, dtype: str, threads: int) -> Iterator[dict[str, Any]]:
        args = self.args
        for d in args.d or (QUICK_DIMS if args.quick else DIMS):
            for n in args.size or (QUICK_SIZES if args.quick else SIZES):
                for slices in args.slices or (QUICK_SLICES if args.quick else SLICES):
                    yield {"n": n, "d": d, "P": slices} | self.cell(n, d, slices, dtype, threads)

    def cell(self, n: int, d: int, slices: int, dtype: str, threads: int) -> dict[str, Any]:
        gib = 3 * n * d * np.dtype(dtype).itemsize / 2**30  # two clouds and the gradient
        if gib > self.args.memory and not self.args.all:
            return {"ns": f"skipped, {gib:.0f} GiB"}
        seconds = self.expected("mckean", n, d, slices, dtype, threads)
        if seconds > LONGEST * self.args.budget:
            return {"ns": "skipped"}
        cell = {"n": n, "d": d, "slices": slices, "dtype": dtype}
        found = self.ask("ours", threads, 3 * seconds, budget=self.args.budget, **cell)
        if not found:
            return {"ns": "failed"}
        ours = found["seconds"]
        ns = 1e9 * ours / (2 * n * slices)
        self.rates["mckean", d, dtype, threads] = ns
        row: dict[str, Any] = {
            "ns": ns,
            **{k: found[k] for k in ("grad error", "value error", "checked")},
        }
        row["value"] = found["value seconds"] / ours if "value seconds" in found else "skipped"
        total = sum(found["stages"])
        if total > 0:
            shares = (s / total for s in found["stages"])
            row |= zip(("project", "sort", "scan", "back"), shares, strict=True)
        row["floor"] = self.floor(n, d, dtype, threads)
        row["of floor"] = row["floor"] / ns
        row["target"] = target(n, d, dtype, threads)
        if row["target"]:
            row["met"] = "yes" if ns <= row["target"] else "no"
        for p in (p for p in self.peers if offers(p, dtype)):
            took = self.peer(p, n, d, slices, dtype, threads)
            row[p] = took if isinstance(took, str) else took / ours
        same = [row[p] for p in self.peers if p not in OTHERS and isinstance(row.get(p), float)]
        row["ratio"] = ratio_to_best(1.0, same)
        self.seen[n, d, slices, dtype, threads] = ours
        one = self.seen.get((n, d, slices, dtype, 1))
        row["speed-up"] = one / ours if one and threads > 1 else None
        return row

    def small(self) -> None:
        """(a) Calls so short that Python counts."""
        n, d, slices = 100, 2, 10
        who = ["mckean", *["mckean (torch)"] * ("torch" in self.args.peer), "directions inside"]
        rows = []
        for dtype in self.args.dtype:
            row: dict[str, Any] = {"dtype": dtype}
            for p in [*who, *(p for p in self.peers if offers(p, dtype))]:
                seconds = self.ask("small", 1, who=p, n=n, d=d, slices=slices, dtype=dtype)
                row[p] = seconds and 1e6 * seconds
            same = [row.get(p) for p in self.peers if p not in OTHERS]
            row["ratio"] = row["mckean"] and ratio_to_best(row["mckean"], same)
            rows.append(row)
        self.report.table(
            f"(a) microseconds for one call with n = m = {n}, d = {d}, P = {slices}",
            ["dtype", *who, *self.peers, "ratio"],
            rows,
            "From Python, with every check, one thread, directions given; mckean (torch): arguments are tensors; directions\n"
            "inside: made by the call. ratio: to the fastest peer that solves this problem.",
        )

    def directions(self) -> None:
        """(b) What the tables below leave out."""
        dims = self.args.d or (QUICK_DIMS if self.args.quick else DIMS)
        rows = []
        for d in dims:
            for slices in self.args.slices or (QUICK_SLICES if self.args.quick else SLICES):
                row: dict[str, Any] = {"d": d, "P": slices}
                for law in ("random", "orthogonal", "sobol"):
                    seconds = self.ask("directions", 1, law=law, d=d, slices=slices)
                    row[law] = seconds and 1e3 * seconds
                rows.append(row)
        self.report.table(
            "(b) milliseconds to make P directions",
            ["d", "P", "random", "orthogonal", "sobol"],
            rows,
            "One thread; not part of the times below.",
        )

    def pairs(self, dtype: str, threads: int) -> None:
        """(c) The main table."""
        rows = list(self.cells(dtype, threads))
        self.ask("forget", threads)
        self.report.table(
            f"(c) nanoseconds for a point of a slice, {dtype}, {_threads(threads)}",
            ["n", "d", "P", "ns", "value", *self.peers, "ratio", "project", "sort", "scan", "back", "floor", "of floor",
             "target", "met", *["speed-up"] * (threads > 1), "grad error", "value error", "checked"],
            rows,
            "" if any(t["title"].startswith("(c)") for t in self.report.tables)
            else NOTES.format(longest=LONGEST),
        )  # fmt: skip
        judged = [row["met"] for row in rows if "met" in row]
        if judged:
            print(f"target met in {judged.count('yes')} of {len(judged)} cells that have one")

    def memory(self) -> None:
        """(d) What a call takes beside its arguments."""
        n = max(self.args.size) if self.args.size else 1_000_000
        d, slices, threads = 2, 100, max(self.args.threads)
        less, fewer = max(1, n // 20), 20
        rows = []
        for dtype in self.args.dtype:
            for who in ("mckean", *(p for p in self.peers if offers(p, dtype))):
                ours = who == "mckean"
                cell = {
                    "who": who,
                    "n": n if ours else less,
                    "d": d,
                    "slices": slices if ours else fewer,
                    "dtype": dtype,
                }
                done = subprocess.run(
                    [sys.executable, __file__, common.WORKER, str(threads)],
                    input=json.dumps(cell | {"kind": "memory", "threads": threads}) + "\n",
                    text=True,
                    stdout=subprocess.PIPE,
                )
                found = json.loads(done.stdout or "null")
                if not found:
                    continue
                each = found["grown"] / (2 * cell["n"] * cell["slices"])
                row = {"who": who, "dtype": dtype, "n": cell["n"], "P": cell["slices"]}
                row |= {"inputs MB": found["inputs"] / 1e6, "beyond MB": found["grown"] / 1e6}
                row |= {
                    "bytes per point and slice": each,
                    f"n = {n:,}, P = {slices}: MB": 2e-6 * each * n * slices,
                }
                if ours and n == 1_000_000:
                    row |= {
                        "target MB": MEMORY_TARGET / 1e6,
                        "met": "yes" if found["grown"] <= MEMORY_TARGET else "no",
                    }
                rows.append(row)
        self.report.table(
            f"(d) peak memory of one call with gradient, n = m, d = {d}, {_threads(threads)}",
            ["who", "dtype", "n", "P", "inputs MB", "beyond MB", "bytes per point and slice",
             f"n = {n:,}, P = {slices}: MB", "target MB", "met"],
            rows,
            "Each call in a process of its own; beyond: growth of the peak of resident memory, the gradient included. Peers, here\n"
            "with all slices at once, are measured on a small case; the last column but two is ours as measured, and theirs in\n"
            "proportion to points and slices. In table (c) they work on slabs.",
        )  # fmt: skip

    def powers(self) -> None:
        """(e) r other than 1."""
        sizes = self.args.size or ((1_000,) if self.args.quick else (1_000, 4_000, 100_000))
        d, slices, rows = 2, 10, []
        for dtype in self.args.dtype:
            for r in (0.5, 1.0, 1.5):
                for n in sizes:
                    cell = {"r": r, "n": n, "d": d, "slices": slices, "dtype": dtype}
                    found = self.ask("power", 1, 60.0, budget=self.args.budget, **cell)
                    if not found:
                        continue
                    row = {"dtype": dtype, "r": r, "n": n, "ns": 1e9 * found["seconds"] / (2 * n)}
                    if "direct" in found:
                        row["direct"] = 1e9 * found["direct"] / (2 * n)
                        row["ratio"] = found["direct"] / found["seconds"]
                        row |= {k: v for k, v in found.items() if k.endswith("error")}
                    else:
                        row["direct"] = "skipped"
                    rows.append(row)
        self.report.table(
            f"(e) other r: nanoseconds for a point of a slice, distance and gradient, d = {d}, P = {slices}, 1 thread",
            [
                "dtype",
                "r",
                "n",
                "ns",
                "direct",
                "ratio",
                "grad error",
                "direct error",
                "value error",
            ],
            rows,
            "direct: the sum over all pairs of projections in NumPy, of one slice, skipped above --budget seconds. Errors against\n"
            "the same sum in float64; r < 1: neighbours that are close push without bound, and float32 rounds their distance.",
        )

    def wasserstein(self) -> None:
        """(f) The other distance from the same sort, and the peer that is made for it."""
        sizes = self.args.size or ((10_000,) if self.args.quick else (10_000, 100_000))
        d, slices, rows = 16, 32, []
        peers = [p for p in OTHERS if p in self.peers]
        for dtype in self.args.dtype:
            for p in (1, 2, 3):
                for n in sizes:
                    cell = {"p": p, "n": n, "d": d, "slices": slices, "dtype": dtype}
                    found = self.ask("wasserstein", 1, 60.0, who="mckean", **cell)
                    if not found:
                        continue
                    row = {
                        "dtype": dtype,
                        "p": p,
                        "n": n,
                        "ns": 1e9 * found["seconds"] / (2 * n * slices),
                    }
                    row |= {"value": found["value seconds"] / found["seconds"]}
                    row |= {k: found[k] for k in ("grad error", "value error")}
                    for who in peers:
                        took = self.ask("wasserstein", 1, 60.0, who=who, **cell)
                        row[who] = took["seconds"] / found["seconds"] if took else "failed"
                    rows.append(row)
        self.report.table(
            f"(f) sliced p-Wasserstein distance: nanoseconds for a point of a slice, d = {d}, P = {slices}, 1 thread",
            ["dtype", "p", "n", "ns", "value", *peers, "grad error", "value error"],
            rows,
            "Columns as in (c); errors against float64 NumPy.",
        )

    def line(self) -> None:
        """(g) One dimension, where sorting is exact."""
        sizes = self.args.size or ((1_000, 100_000) if self.args.quick else SIZES)
        scipy = "scipy" not in self.args.skipped
        rows = []
        for dtype in self.args.dtype:
            for n in sizes:
                found = self.ask("line", 1, 60.0, n=n, dtype=dtype, scipy=scipy)
                if not found:
                    continue
                row: dict[str, Any] = {"dtype": dtype, "n": n, **found}
                for k in ("seconds", "with gradient", "scipy"):
                    if k in found:
                        row[k] = 1e9 * found[k] / (2 * n)
                row["ratio"] = row["scipy"] / row["seconds"] if "scipy" in row else None
                rows.append(row | {"ns": row["seconds"]})
        self.report.table(
            "(g) energy distance in one dimension: nanoseconds for a point, 1 thread",
            ["dtype", "n", "ns", "with gradient", "scipy", "ratio", "error", "scipy error"],
            rows,
            "scipy.stats.energy_distance, squared, without a gradient; ratio: to ours without one.",
        )

    def batches(self) -> None:
        """(h) Many small problems."""
        rows = []
        size = min(self.args.size) if self.args.size else None
        for dtype in self.args.dtype:
            for threads in self.args.threads:
                for batch, n, d, slices in (
                    (100, 200, 2, 32),
                    (100, 200, 16, 32),
                    (1_000, 50, 2, 10),
                ):
                    cell = {
                        "batch": batch,
                        "n": size or n,
                        "d": d,
                        "slices": slices,
                        "dtype": dtype,
                    }
                    found = self.ask("batch", threads, torch="torch" in self.args.peer, **cell)
                    if found:
                        row = {"dtype": dtype, "threads": threads, **cell, "P": slices}
                        row |= {k: 1e3 * v for k, v in found.items()}
                        others = (found.get(k) for k in ("one by one", "torch"))
                        rows.append(
                            row
                            | {
                                "mckean": row["seconds"],
                                "ratio": ratio_to_best(found["seconds"], others),
                            }
                        )
        self.report.table(
            "(h) milliseconds for a batch of clouds",
            ["dtype", "threads", "batch", "n", "d", "P", "mckean", "one by one", "torch", "ratio"],
            rows,
            "one by one: our call in a loop; torch: the whole batch in one sort. ratio: to the faster of both.",
        )

    def targets(self) -> None:
        """(i) A cloud sorted once for many calls."""
        sizes = self.args.size or ((10_000,) if self.args.quick else (1_000, 10_000, 100_000))
        d, slices, rows = 16, 100, []
        for dtype in self.args.dtype:
            for n in sizes:
                found = self.ask("target", 1, 60.0, n=n, d=d, slices=slices, dtype=dtype)
                if found:
                    row = {"dtype": dtype, "n": n, "difference": found.pop("difference")}
                    row |= {k: 1e3 * v for k, v in found.items()}
                    rows.append(row | {"ratio": found["plain"] / found["target"]})
        self.report.table(
            f"(i) milliseconds with the cloud y sorted beforehand, d = {d}, P = {slices}, 1 thread",
            ["dtype", "n", "plain", "making", "target", "ratio", "difference"],
            rows,
            "making: mk.sliced.Target, once; difference: of the gradients, in norm.",
        )


TABLES = (
    "small",
    "directions",
    "pairs",
    "memory",
    "powers",
    "wasserstein",
    "line",
    "batches",
    "targets",
)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--d", type=int, nargs="+", help="dimensions")
    add("--slices", type=int, nargs="+", help="numbers of slices")
    add("--table", nargs="+", choices=TABLES, default=list(TABLES), help="only these")
    add("--budget", type=float, help="seconds that one call may take, see the notes; 10, quick 2")
    add(
        "--memory", type=float, default=12.0, help="GiB that clouds and gradient of a cell may take"
    )
    add("--all", action="store_true", help="without the limit of --memory")
    parser.set_defaults(dtype=["float32", "float64"])


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("sliced", tuple(PEERS), argv, add=_arguments)
    args.budget = args.budget or (2.0 if args.quick else 10.0)
    if importlib.util.find_spec("scipy") is None:
        args.skipped["scipy"] = "not installed"
    bench = Bench(args, common.Report("sliced", args, argv))
    for table in args.table:
        if table == "pairs":
            for threads in args.threads:
                for dtype in args.dtype:
                    bench.pairs(dtype, threads)
        else:
            getattr(bench, table)()
    bench.report.finish()


if __name__ == "__main__":
    common.serve_jax(CELLS) if common.WORKER in sys.argv else main()
