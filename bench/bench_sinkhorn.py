"""What does entropic transport cost: an iteration, an accuracy, memory, and what becomes of hard inputs?"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import numpy as np
import sinkhorn_peers as peers
from common import measure, ratio_to_best
from sinkhorn_peers import AIMED, COMPILED, DENSE, HARD, MATRICES, ONLINE, PEERS, STEPS, clouds

SIZES, QUICK_SIZES = (1_024, 4_096, 10_240), (1_024, 2_048)
DIMS = (2, 3, 64)
EPS, QUICK_EPS = (1e-1, 1e-2, 1e-3), (1e-1, 1e-2)
TOLS = (1e-3, 1e-6, 1e-9)
OWN = ("auto", "scaling", "newton", "cost")  # of table (b)
COUNTED = (
    "POT",
    "POT stabilized",
    "POT log",
    "ott",
    "geomloss",
)  # told how many iterations to make
STOPPING = ("ott anderson", "regot ssns", "regot splr")
BATCHERS = {"POT": "pot", "POT batch": "pot", "ott": "ott", "geomloss": "geomloss"}
MEMORY_TARGET = 100e6
LOOSE = 0.2  # eps by the mean cost where only the time of an iteration counts: nobody underflows

# On the reference machine (AVX2, 3.2 GHz), one core: FMA peak and 1024^3 BLAS product in GFLOP/s, exp from the first cache in
# nanoseconds; scaled by the BLAS rate found in this run. Targets in nanoseconds for a pair, by dimension.
REFERENCE = {"float32": (102.8, 92.0), "float64": (51.1, 43.0)}
EXP_NS = {"float32": 0.34, "float64": 0.99}
TARGET_NS = {
    "float32": {2: 0.40, 3: 0.40, 64: 2.2},
    "float64": {2: 1.15, 3: 1.15, 64: 4.5},
}
STEP_NOTES = """\
Milliseconds for a full iteration (both half steps), from the difference of calls with few and with many iterations, so that neither
set-up nor plan counts; peers: their time over ours, above 1 mckean is faster; ratio: the fastest of them. eps is 0.2 of the mean
cost. """
DENSE_NOTES = (
    STEP_NOTES
    + """ms: our stored form; recomputed, log: our forms that take the exponential anew,
from sums that are known not to overflow or with a maximum. bound: one product of the matrix with a vector by BLAS, the matrix read
once. 2 products: an iteration of two such products and nothing else. POT with its tests of the error every ten iterations, its
stabilised form without, and with tau = 1000 n. skipped: more memory than there is, or more than --budget seconds."""
)
POINT_NOTES = (
    STEP_NOTES
    + """ns: nanoseconds for a pair; log: our form with a maximum. bound: a model, one exponential from
the first cache and d + 2 multiply-adds at the peak found here. ott: batch_size=256; KeOps: two of its logsumexp; geomloss: through
KeOps; POT: empirical_sinkhorn with isLazy and 256 rows. None holds the matrix."""
)
AIM_NOTES = """\
Seconds until the L1 error of both marginals is at most tol, float64, n = m = {n}, one solve. Ours from points by every method, and
"cost" with the matrix given; "by": what auto chose. Peers get the matrix. POT, ott and geomloss are told the number of iterations
that suffices, found beforehand and not timed, POT's stabilised form with tau = 1000 n; ott anderson, regot stop on their own, regot at the largest gradient norm of tol, tol / 3,
... that suffices. > {budget:g}: not reached within the budget of a call, in brackets the error reached where there is one."""
HARD_NOTES = """\
100 normal points in the plane against 100, cost given, at most {cap:,} iterations (geomloss 2,000, regot 300), tol 1e-6 or 1e-7. A
number: the L1 error of both marginals of the plan returned, in float64, relative to the mass; mass: of the plan, where it is off
by a tenth. warns: a warning or a flag says so; an exception: its name. float32: regot computes in float64 all the same."""


# ---- cells that run in a process of their own ---------------------------------------------------------------------------


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def per_iteration(
    build: Callable[[int], Callable[[], Any]], budget: float, least: int = 2
) -> float:
    """Seconds that one more iteration takes: `build(k)` gives a call with k of them."""
    few = build(least)
    few()
    short = [_seconds(few)]
    if short[0] > budget:
        return short[0] / least  # with what it prepares, which is little then
    more = 10
    while True:
        many = build(least + more)
        many()
        long = [_seconds(many)]
        # What is prepared must not drown the iterations.
        if long[0] > 4 * short[0] or more >= 640 or 4 * long[0] > budget / 2:
            break
        more *= 4
    while len(long) < 3 or (len(long) < 15 and sum(long) + sum(short) < budget / 2):
        if len(long) > 1 and sum(long) > budget:
            break
        short.append(_seconds(few))
        long.append(_seconds(many))
    # Differences of neighbours in time: what else runs on the machine comes and goes.
    apart = [b - a for a, b in zip(short, long, strict=True)]
    return max(statistics.median(apart), 1e-9) / more


def step_cell(who: str, n: int, d: int, dtype: str, budget: float) -> float:
    task = clouds(n, d, dtype, LOOSE)
    least = 3 if who == "geomloss online" else 2
    return per_iteration(lambda k: STEPS[who](task, k)[0], budget, least)


def product_cell(n: int, dtype: str) -> float:
    """One product of a matrix with a vector."""
    kernel, v = np.ones((n, n), dtype), np.ones(n, dtype)
    out = np.empty_like(v)
    return measure(lambda: np.dot(kernel, v, out=out), budget=0.3)


def blas_cell(dtype: str) -> float:
    """Flop per second of a matrix product on one core, the best of a few."""
    a, b = np.random.default_rng(1).standard_normal((2, 1024, 1024)).astype(dtype)
    out = np.empty_like(a)
    np.matmul(a, b, out=out)
    return 2 * 1024**3 / min(_seconds(lambda: np.matmul(a, b, out=out)) for _ in range(8))


def count_cell(n: int, d: int, eps: float, seconds: float) -> list[int | None]:
    """Plain iterations from zero potentials to each of TOLS, as many as `seconds` hold."""
    p = peers.problem(clouds(n, d, "float64", eps), points=False)
    F, G = peers.start(p)
    out: list[int | None] = []
    done, end = 1, time.perf_counter() + seconds
    for tol in TOLS:
        while time.perf_counter() < end:
            errors, its = p.iterate(
                F, G, problems=p.all(), form=peers.FORMS["stored"], max_iter=200, tol=tol
            )
            done += int(its[0])
            if errors[0] <= tol:
                out.append(done)
                break
        else:
            return out + [None] * (len(TOLS) - len(out))
    return out


def _timed(run: Callable[[], Any], budget: float) -> tuple[Any, float]:
    """Median seconds of a few calls after the first, which alone counts if it takes long."""
    times: list[float] = []
    while not times or (len(times) < 7 and sum(times) + min(times) < budget / 2):
        start = time.perf_counter()
        out = run()
        times.append(time.perf_counter() - start)
    return out, statistics.median(times[1:] or times)


def aimed_cell(who: str, n: int, d: int, eps: float, tol: float, budget: float) -> dict[str, Any]:
    """A solver that stops on its own."""
    task = clouds(n, d, "float64", eps)
    aim, cap = tol, 1_000_000
    if who.startswith("regot"):
        aim, cap = tol / 10, 3_000
    elif who in ("ott anderson", "scaling"):  # as many as the budget holds
        step = "ott" if who == "ott anderson" else "mckean points recomputed"
        each = per_iteration(lambda k: STEPS[step](task, k)[0], min(budget, 0.5))
        cap = max(20, int(budget / each) // 10 * 10)
    while True:
        run, plan = AIMED[who](task, aim, cap)
        state, seconds = _timed(run, budget)
        off = peers.error(plan(state), task.a, task.b)
        out = {"seconds": seconds, "error": off}
        if who in OWN:
            out |= {k: int(getattr(state, k, 0)) for k in ("n_iter", "n_newton")}
            out["method"] = state.method
        if off <= 1.01 * tol or not who.startswith("regot") or seconds > budget or aim < 1e-16:
            return out
        aim /= 3


def counted_cell(
    who: str, n: int, d: int, eps: float, tol: float, budget: float, first: int
) -> dict[str, Any]:
    """A solver that makes as many iterations as it is told: the fewest of a series that suffice, from `first`."""
    task = clouds(n, d, "float64", eps)
    each = per_iteration(lambda k: STEPS[who](task, k)[0], min(budget, 0.5))
    most = max(10, int(budget / each) // 10 * 10)
    k = min(max(10, -(-first // 10) * 10), most)
    while True:
        run, plan = STEPS[who](task, k)
        if who == "ott":
            run()
        state, seconds = _timed(run, budget)
        off = peers.error(plan(state), task.a, task.b)
        if off <= 1.01 * tol or k >= most or not np.isfinite(off):
            return {"seconds": seconds, "error": off, "n_iter": k, "capped": k >= most}
        grow = 2 if who == "geomloss" else 1.1
        k = min(max(k + 10, int(grow * k) // 10 * 10), most)


def behaviour_cell(who: str, case: str, cap: int) -> str:
    return peers.behaviour(who, peers.hard()[case], cap)


def memory_cell(who: str, n: int, d: int, dtype: str) -> dict[str, float]:
    """Bytes of resident memory that a few iterations took at their peak, beyond what was there."""

    def call(n: int) -> tuple[Callable[[], Any], int]:
        task = clouds(n, d, dtype, LOOSE)
        if who != "mckean":
            given = task.cost.nbytes if who in DENSE else task.x.nbytes + task.y.nbytes
            return STEPS[who](task, 3)[0], given

        def ours() -> Any:
            return peers.solve("scaling", True, task, 1e-12, 3)[0]()

        return ours, task.x.nbytes + task.y.nbytes

    call(64)[0]()  # threads and code are there
    before = _resident(reset=True)
    run, given = call(n)
    out = run()
    grown = _resident(peak=True) - before
    del out
    return {"grown": grown, "inputs": given}


def _resident(*, peak: bool = False, reset: bool = False) -> int:
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again from here
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return 1024 * int(fields["VmHWM" if peak else "VmRSS"].split()[0])


def batch_count_cell(batch: int, n: int, d: int, tol: float) -> int:
    """Plain iterations that the slowest problem of a batch needs."""
    x, y, eps = peers.batch_of(batch, n, d, "float64", 0.1)
    most = 0
    for p, q in zip(x, y, strict=True):
        w = np.full(n, 1 / n)
        problem = peers.problem(peers.Task(p, q, w, w, eps), points=True)
        F, G = peers.start(problem)
        form = peers.FORMS["recomputed"]
        done = problem.iterate(
            F, G, problems=problem.all(), form=form, max_iter=5_000, tol=tol / 2
        )[1]
        most = max(most, int(done[0]))
    return most + 2


def batch_cell(
    who: str, batch: int, n: int, d: int, dtype: str, tol: float, k: int, budget: float
) -> dict[str, float]:
    x, y, eps = peers.batch_of(batch, n, d, dtype, 0.1)
    while True:
        run, plan = peers.batch_solver(who, x, y, eps, k, tol)
        run()
        state, seconds = _timed(run, budget)
        off = peers.worst(plan(state))
        if off <= 1.01 * tol or who in ("mckean", "one by one") or seconds > budget:
            return {"seconds": seconds, "error": off}
        k *= 2


def forget_cell() -> bool:
    clouds.cache_clear()
    return True


def _threaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """What fails says why."""

    def run(threads: int, **cell: Any) -> Any:
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
    if name.endswith("_cell")
}


# ---- tables -----------------------------------------------------------------------------------------------------------


def available() -> float:
    """Bytes of memory that are free."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return float("inf")


def bound(d: int, dtype: str, threads: int, blas: float) -> float:
    """Nanoseconds for a pair of points, given the BLAS rate of one core in flop per second."""
    peak, product = REFERENCE[dtype]
    here = blas / (1e9 * product)
    return (EXP_NS[dtype] + 2 * (d + 2) / peak) / here / threads


def target(d: int, dtype: str, threads: int) -> float | None:
    """The goal set in nanoseconds for a pair, for what it was set for."""
    ns = TARGET_NS[dtype].get(d)
    if ns is None or threads > 2:
        return None
    return ns if threads == 1 else ns / 1.9


class Bench:
    """One run: what the command line asks for and what is known so far."""

    def __init__(self, args: Any, report: Any) -> None:
        self.args, self.report = args, report
        self.peers = [variant for peer in args.peer for variant in PEERS[peer]]
        self.rates: dict[
            tuple[Any, ...], float
        ] = {}  # seconds for a pair of an iteration, last seen
        self.compiling = 0.0
        self.bounds: dict[tuple[Any, ...], float] = {}

    def ask(
        self, kind: str, threads: int, process: str, limit: float | None = None, /, **cell: Any
    ) -> Any:
        """The answer of a process with that many threads and JAX in the dtype `process`; None if it died or took far too
        long."""
        limit = 60 + 8 * self.args.budget if limit is None else limit
        cell |= {"kind": kind, "threads": threads}
        return common.in_jax(__file__, cell, threads, process, timeout=limit)

    # (a) an iteration

    def step(self, who: str, n: int, d: int, dtype: str, threads: int) -> Any:
        """Seconds, or a text that says why not."""
        pairs, size = n * n, np.dtype(dtype).itemsize
        held = MATRICES.get(who, 2 if who.startswith("mckean") and "points" not in who else 0)
        if held * pairs * size > 0.7 * available():
            return f"skipped, {held * pairs * size / 2**30:.0f} GiB"
        key = (who, d, dtype, threads)
        if self.rates.get(key, 0.0) * pairs * 3 > self.args.budget:
            return "skipped"
        start = time.perf_counter()
        if who in COMPILED and key not in self.rates and self.compiling > self.args.compile:
            return "not compiled"
        cell = {"who": who, "n": n, "d": d, "dtype": dtype, "budget": self.args.budget}
        found = self.ask("step", threads, dtype, 240 if who in COMPILED else None, **cell)
        if who in COMPILED and key not in self.rates:
            self.compiling += time.perf_counter() - start
        if isinstance(found, float):
            self.rates[key] = found / pairs
            return found
        return found["why"] if found else "failed"

    def compared(self, row: dict[str, Any], ours: float, who: Sequence[str], *cell: Any) -> None:
        """Ratios of the peers, and the smallest."""
        for p in (p for p in who if p in self.peers):
            took = self.step(p, *cell)
            row[p] = took if isinstance(took, str) else took / ours
        known = [row[p] for p in who if isinstance(row.get(p), float)]
        row["ratio"] = ratio_to_best(1.0, known)

    def sizes(self) -> Sequence[int]:
        return self.args.size or (QUICK_SIZES if self.args.quick else SIZES)

    def dense(self) -> None:
        """(a) One iteration with the cost given."""
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                rows = []
                for n in self.sizes():
                    row: dict[str, Any] = {"n": n}
                    rows.append(row)
                    ours = self.step("mckean stored", n, 2, dtype, threads)
                    if isinstance(ours, str):
                        row["ms"] = ours
                        continue
                    row["ms"] = 1e3 * ours
                    for form in ("recomputed", "log"):
                        took = self.step(f"mckean {form}", n, 2, dtype, threads)
                        row[form] = took if isinstance(took, str) else took / ours
                    once = self.ask("product", threads, dtype, n=n, dtype=dtype)
                    if isinstance(once, float):
                        row["bound"] = 1e3 * once
                        row["of bound"] = once / ours
                    self.compared(row, ours, DENSE, n, 2, dtype, threads)
                self.ask("forget", threads, dtype)
                self.report.table(
                    f"(a) milliseconds for an iteration, cost given, {dtype}, {_threads(threads)}",
                    ["n", "ms", "recomputed", "log", *(p for p in DENSE if p in self.peers), "ratio", "bound", "of bound"],
                    rows,
                    self.once(DENSE_NOTES),
                )  # fmt: skip

    def points(self) -> None:
        """(a) One iteration with the points given."""
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                rows = []
                blas = self.ask("blas", 1, dtype, dtype=dtype)
                for d in self.args.d or ((2, 64) if self.args.quick else DIMS):
                    for n in self.sizes():
                        row: dict[str, Any] = {"d": d, "n": n}
                        rows.append(row)
                        ours = self.step("mckean points recomputed", n, d, dtype, threads)
                        if isinstance(ours, str):
                            row["ms"] = ours
                            continue
                        ns = 1e9 * ours / n**2
                        row |= {"ms": 1e3 * ours, "ns": ns}
                        took = self.step("mckean points log", n, d, dtype, threads)
                        row["log"] = took if isinstance(took, str) else took / ours
                        if isinstance(blas, float):
                            row["bound"] = bound(d, dtype, threads, blas)
                            row["of bound"] = row["bound"] / ns
                        row["target"] = target(d, dtype, threads)
                        if row["target"]:
                            row["met"] = "yes" if ns <= row["target"] else "no"
                        self.compared(row, ours, ONLINE, n, d, dtype, threads)
                self.ask("forget", threads, dtype)
                self.report.table(
                    f"(a) milliseconds for an iteration, points given, {dtype}, {_threads(threads)}",
                    ["d", "n", "ms", "ns", "log", *(p for p in ONLINE if p in self.peers), "ratio", "bound", "of bound",
                     "target", "met"],
                    rows,
                    self.once(POINT_NOTES),
                )  # fmt: skip

    def once(self, notes: str) -> str:
        """Notes under the first table of their kind."""
        return "" if any(t["notes"] == notes for t in self.report.tables) else notes

    # (b) an accuracy

    def accuracy(self) -> None:
        """(b) Time to an error of the marginals."""
        args = self.args
        n = min(self.args.size) if args.size else 1_000
        threads = max(args.threads)
        who = [p for p in (*OWN, *COUNTED, *STOPPING) if p in OWN or p in self.peers]
        rows = []
        for d in args.d or ((2, 64) if args.quick else DIMS):
            for eps in args.eps or (QUICK_EPS if args.quick else EPS):
                given: dict[str, str] = {}  # who did not get as far as the last tolerance
                counts = self.ask("count", threads, "float64", n=n, d=d, eps=eps, seconds=args.budget)  # fmt: skip
                if not isinstance(counts, list):
                    counts = [None] * len(TOLS)
                for tol, count in zip(TOLS, counts, strict=True):
                    row: dict[str, Any] = {"d": d, "eps": eps, "tol": tol, "plain": count or "-"}
                    rows.append(row)
                    for p in who:
                        row[p] = given.get(p) or self.reach(p, n, d, eps, tol, threads, count, row)
                        if isinstance(row[p], str):
                            given[p] = row[p]
                    theirs = [row[p] for p in who if p not in OWN and isinstance(row[p], float)]
                    mine = [row[p] for p in ("auto", "cost") if isinstance(row[p], float)]
                    row["ratio"] = ratio_to_best(min(mine), theirs) if mine else None
        self.report.table(
            f"(b) seconds to an error of both marginals, float64, {_threads(threads)}",
            ["d", "eps", "tol", "plain", "by", *who, "ratio"],
            rows,
            "eps: by the mean cost. plain: iterations without acceleration. ratio: the fastest peer over the faster of auto and cost.\n"
            + AIM_NOTES.format(n=n, budget=args.budget),
        )  # fmt: skip

    def reach(
        self, who: str, n: int, d: int, eps: float, tol: float, threads: int, count: int | None, row: dict[str, Any],
    ) -> Any:  # fmt: skip
        budget = self.args.budget
        cell = {"who": who, "n": n, "d": d, "eps": eps, "tol": tol, "budget": budget}
        if who in COUNTED:
            cell["first"] = count or 10**9
            if who == "geomloss":
                cell["first"] = 40
            found = self.ask("counted", threads, "float64", **cell)
        else:
            found = self.ask("aimed", threads, "float64", 20 + 3 * budget, **cell)
        if not found:
            return f"> {budget:g}"
        if "why" in found:
            return found["why"]
        if who == "auto":
            row["by"] = found["method"]
            if found.get("n_newton"):
                row["by"] += f" {found['n_iter']}+{found['n_newton']}"
            else:
                row["by"] += f" {found['n_iter']}"
        if found["error"] > 1.01 * tol or not np.isfinite(found["error"]):
            reached = f"{found['error']:.0e}"
            return f"> {budget:g} ({reached})" if found.get("capped") or found["seconds"] > 0.7 * budget else f"stops at {reached}"  # fmt: skip
        return found["seconds"] if found["seconds"] <= budget else f"> {budget:g}"

    # (c) hard inputs

    def hard(self) -> None:
        """(c) What becomes of hard inputs."""
        cap, rows = 10_000, []
        who = [p for p in HARD if p == "mckean" or p in self.peers]
        for case in peers.hard():
            row: dict[str, Any] = {"input": case}
            dtype = "float32" if case.endswith("float32") else "float64"
            for p in who:
                found = self.ask("behaviour", 1, dtype, 60, who=p, case=case, cap=cap)
                row[p] = found if isinstance(found, str) else "the process dies"
            rows.append(row)
        self.report.table("(c) hard inputs", ["input", *who], rows, HARD_NOTES.format(cap=cap))

    # (d) memory

    def memory(self) -> None:
        """(d) What a call takes beside its arguments."""
        n = max(self.args.size) if self.args.size else 50_000
        less = min(n, 2_048 if self.args.quick else 10_240)
        threads, d, rows = max(self.args.threads), 2, []
        for dtype in self.args.dtype:
            for p in ("mckean", *(p for p in (*DENSE[1:], *ONLINE) if p in self.peers and p not in COMPILED)):  # fmt: skip
                mine = p == "mckean"
                cell = {"who": p, "n": n if mine else less, "d": d, "dtype": dtype}
                held = MATRICES.get(p, 0) * less**2 * np.dtype(dtype).itemsize
                if not mine and held > 0.7 * available():
                    rows.append(
                        {"who": p, "dtype": dtype, "beyond MB": f"skipped, {held / 2**30:.0f} GiB"}
                    )
                    continue
                found = self.alone(cell, threads, dtype)
                if not found or "why" in found:
                    rows.append({"who": p, "dtype": dtype, "beyond MB": (found or {}).get("why", "failed")})  # fmt: skip
                    continue
                row = {"who": p, "dtype": dtype, "n": cell["n"], "inputs MB": found["inputs"] / 1e6}
                row["beyond MB"] = found["grown"] / 1e6
                if mine:
                    row[f"n = {n:,}: MB"] = row["beyond MB"]
                    row |= {
                        "target MB": MEMORY_TARGET / 1e6,
                        "met": "yes" if found["grown"] <= MEMORY_TARGET else "no",
                    }
                elif p in DENSE:
                    row["bytes per pair"] = found["grown"] / less**2
                    row[f"n = {n:,}: MB"] = 1e-6 * found["grown"] * (n / less) ** 2
                rows.append(row)
        self.report.table(
            f"(d) peak memory of three iterations, n = m, d = {d}, {_threads(threads)}",
            ["who", "dtype", "n", "inputs MB", "beyond MB", "bytes per pair", f"n = {n:,}: MB", "target MB", "met"],
            rows,
            "Each in a process of its own; beyond: growth of the peak of resident memory after a call with 64 points, points and cost\n"
            "included. Ours with all that the call does, from points; peers at a smaller size, those with a matrix in proportion to\n"
            "the number of pairs at ours.",
        )  # fmt: skip

    def alone(self, cell: dict[str, Any], threads: int, dtype: str) -> Any:
        """A cell in a fresh process."""
        limit = 300 + 20 * self.args.budget
        env = common.environment(threads, dtype)
        try:
            done = subprocess.run(
                [sys.executable, __file__, common.WORKER, str(threads)],
                input=json.dumps(cell | {"kind": "memory", "threads": threads}) + "\n",
                text=True,
                stdout=subprocess.PIPE,
                env=env,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            return None
        return json.loads(done.stdout or "null")

    # (e) small problems

    def small(self) -> None:
        """(e) Batches and mini-batches."""
        rows, tol = [], 1e-4
        who = ["mckean", "one by one", *(p for p, of in BATCHERS.items() if of in self.args.peer)]
        for threads in self.args.threads:
            for dtype in self.args.dtype:
                for batch, n, d in ((64, 64, 2), (1, 256, 64)):
                    n = min(n, *self.args.size) if self.args.size else n
                    count = self.ask("batch_count", threads, "float64", batch=batch, n=n, d=d, tol=tol)  # fmt: skip
                    count = count if isinstance(count, int) else 50
                    row: dict[str, Any] = {"dtype": dtype, "threads": threads, "batch": batch}
                    row |= {"n": n, "d": d, "iterations": count}
                    for p in who if batch > 1 else (w for w in who if w != "one by one"):
                        cell = {"who": p, "batch": batch, "n": n, "d": d, "tol": tol, "k": count}
                        cell |= {"dtype": dtype, "budget": min(self.args.budget, 2.0)}
                        found = self.ask("batch", threads, dtype, **cell)
                        if not found or "why" in found:
                            row[p] = (found or {}).get("why", "failed")
                        elif found["error"] > 1.01 * tol:
                            row[p] = f"{1e3 * found['seconds']:.3g} ({found['error']:.0e})"
                        else:
                            row[p] = 1e3 * found["seconds"]
                    theirs = [row.get(p) for p in BATCHERS if isinstance(row.get(p), float)]
                    mine = row["mckean"]
                    row["ratio"] = ratio_to_best(mine, theirs) if isinstance(mine, float) else None
                    rows.append(row)
        self.report.table(
            "(e) milliseconds for a batch of small problems",
            ["dtype", "threads", "batch", "n", "d", "iterations", *who, "ratio"],
            rows,
            "From points to plans ready for use, to an L1 error of 1e-4 in every problem, eps = 0.1 of the mean cost; one by one: our\n"
            "call in a loop. Peers make the iterations that the slowest problem needs, geomloss those that suffice; in brackets the\n"
            "error where they stop short. POT: one by one; POT batch: ot.batch.solve_batch; ott: vmap under jit; geomloss: solve_batch.",
        )


TABLES = ("dense", "points", "accuracy", "hard", "memory", "small")


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--d", type=int, nargs="+", help="dimensions")
    add("--eps", type=float, nargs="+", help="eps of the accuracies, by the mean cost")
    add("--table", nargs="+", choices=TABLES, default=list(TABLES), help="only these")
    add("--budget", type=float, help="seconds that one call may take; 20, quick 2")
    add("--compile", type=float, help="seconds that KeOps may compile; 600, quick 60")
    parser.set_defaults(dtype=["float32", "float64"])


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("sinkhorn", tuple(PEERS), argv, add=_arguments)
    args.budget = args.budget or (2.0 if args.quick else 20.0)
    args.compile = args.compile if args.compile is not None else (60.0 if args.quick else 600.0)
    bench = Bench(args, common.Report("sinkhorn", args, argv))
    for table in args.table:
        getattr(bench, table)()
    bench.report.finish()


if __name__ == "__main__":
    common.serve_jax(CELLS) if common.WORKER in sys.argv else main()
