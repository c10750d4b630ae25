"""What does it cost to solve stochastic differential equations, and to sample by them, at equal accuracy?"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import common
import numpy as np
import sde_peers as peers
import sde_sampling as sampling
from common import measure, number, ratio_to_best

FORMS = ("native", "python", "cfunc")
SOLVERS = {"diffrax": ("diffrax", "independent"), "torchsde": ("torchsde",)}
SAMPLERS = {"diffrax": ("diffrax", "diffrax independent"), "blackjax": ("BlackJAX NUTS",),
            "numpyro": ("NumPyro NUTS",)}  # fmt: skip
TASKS = ("ou", "gbm", "cir", "langevin", "kinetic")
MOST = 2**13  # constant steps
ERROR_NOTES = """\
Root mean square distance at the end of the interval, on one batch of Brownian paths of each library, to the closed form (gbm) or to a
solution of its own in 1024 steps of order 1.5 (kinetic: 3) along the same paths; errors of the libraries on different paths differ by
chance, by about a tenth. Steps are the fewest (adaptive: the tolerance is the largest) that reach the target; adaptive: mean over
paths, accepted, torchsde: attempts, of the whole batch at once. "-": 8192 steps do not, or no such method. ou: dy = -y dt + 0.5 dB;
gbm: dy = 0.1 y dt + 0.5 y dB; cir: dy = (1 - y) dt + 0.8 sqrt(y) dB, all from 1 over [0, 1]; langevin: dy = grad log p dt + sqrt(2) dB
of a logistic regression with 25 coefficients and 569 rows, from the mode over [0, 0.25]; kinetic: with velocities, over [0, 4]."""
COST_NOTES = """\
native: the built-in equation; python: the same functions as NumPy callables; cfunc: compiled by numba and called by the native loop, in
float64. diffrax: a jitted function, compiled before; on a virtual Brownian tree, as ours are, with a tolerance of half a step (adaptive: half of
dtmin = 2^-10 of the interval); independent: drawn at every step, so that no other solve can have the same path. torchsde: a new
BrownianInterval for every call. ratio: time of the fastest peer that solves on a path which can be asked again over native, above 1
mckean is faster."""
SAMPLE_NOTES = """\
The same posterior. Langevin: 64 chains from the mode, steps of QUICSORT, positions 1.0 apart, 16 of them to settle and 64 kept; adaptive:
by step doubling. NUTS: 8 chains, 500 draws after 500 of warm-up, gradients counted from the leapfrog steps after it. effective: draws of
the worst coefficient, over all chains, by Geyer's initial positive sequence; per second of the whole call without compilation; off:
largest error of a standard deviation against 400,000 draws by preconditioned MALA, relative; by chance about (2 effective)^(-1/2)."""


# ---- cells that run in a process of their own ---------------------------------------------------------------------------


def calibrate_cell(who: str, problem: str, which: int, n: int, dtype: str) -> dict[str, Any] | None:
    """The knob that reaches the target, the error there, and the steps it means."""
    task, (method, target) = peers.PROBLEMS[problem], peers.METHODS[problem][which]
    start = time.perf_counter()
    made = peers.solver(who, task, method, n, dtype)
    found = peers.reach(made.error, target, adaptive=method.adaptive, limit=MOST)
    if found is None:
        return {"why": "not reached"}
    made.error(found[0])
    return {
        "knob": found[0],
        "error": found[1],
        "steps": made.steps() if method.adaptive else found[0],
        "seconds": time.perf_counter() - start,
    }


def time_cell(
    who: str, problem: str, which: int, knob: float, n: int, dtype: str
) -> dict[str, float]:
    method = peers.METHODS[problem][which][0]
    made = peers.solver(who, peers.PROBLEMS[problem], method, n, dtype)
    start = time.perf_counter()
    end = made.run(knob)
    first = time.perf_counter() - start
    assert end.shape[0] == n and np.isfinite(end).all()
    return {"seconds": measure(lambda: made.run(knob), budget=0.5, least=5), "first": first}


def sample_cell(who: str, dtype: str, quick: bool) -> dict[str, float]:
    return sampling.SAMPLERS[who](dtype, quick)


def _threaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """What fails says why."""

    def run(threads: int, **cell: Any) -> Any:
        if cell["who"] == "torchsde":
            import torch  # noqa: F401
        common.set_threads(threads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(**cell)
        except Exception as error:
            print(f"{cell}: {type(error).__name__}: {error}", file=sys.stderr)
            return {"why": type(error).__name__}

    return run


CELLS = {
    "calibrate": _threaded(calibrate_cell),
    "time": _threaded(time_cell),
    "sample": _threaded(sample_cell),
}


# ---- tables -----------------------------------------------------------------------------------------------------------


class Bench:
    """One run: what the command line asks for and what is known so far."""

    def __init__(self, args: Any, report: Any) -> None:
        self.args, self.report = args, report
        self.solvers = [s for peer in args.peer for s in SOLVERS.get(peer, ())]
        self.known: dict[tuple[Any, ...], Any] = {}  # calibrations

    def ask(self, kind: str, threads: int, dtype: str, /, **cell: Any) -> Any:
        cell |= {"kind": kind, "threads": threads, "dtype": dtype}
        return common.in_jax(__file__, cell, threads, dtype, timeout=self.args.budget)

    def paths(self, problem: str) -> int:
        if self.args.size:
            return self.args.size[0]
        if problem in ("langevin", "kinetic"):
            return 64 if self.args.quick else 256
        return 1_000 if self.args.quick else 10_000

    def has(self, who: str, method: peers.Method) -> bool:
        library = "mckean" if who in FORMS else "diffrax" if who == "independent" else who
        if getattr(method, library) is None or (who == "independent" and method.adaptive):
            return False
        # Solvers of one equation take the built-in only.
        return who not in ("python", "cfunc") or method.mckean not in ("HOStS", "QUICSORT")

    def calibrated(self, who: str, problem: str, which: int, dtype: str) -> dict[str, Any]:
        """Forms of ours do the same arithmetic; independent increments have no path to compare on."""
        who = "native" if who in FORMS else "diffrax" if who == "independent" else who
        key = (who, problem, which, dtype)
        if key not in self.known:
            few = problem in ("langevin", "kinetic")
            n = 32 if few else 200 if self.args.quick else 500
            found = self.ask(
                "calibrate", max(self.args.threads), dtype, who=who, problem=problem, which=which, n=n
            )  # fmt: skip
            self.known[key] = found or {"why": "no answer"}
        return self.known[key]

    def methods(self, problem: str) -> list[tuple[int, peers.Method, float]]:
        found = [(i, *pair) for i, pair in enumerate(peers.METHODS[problem])]
        return [found[0], found[-1]] if self.args.quick else found

    def errors(self, dtype: str) -> None:
        """(a) What every library needs for the same error."""
        libraries = ["native", *(s for s in self.solvers if s != "independent")]
        rows = []
        for problem in self.args.problem:
            for which, method, target in self.methods(problem):
                row: dict[str, Any] = {"problem": problem, "method": method.label, "target": target}
                row["adaptive"] = "yes" if method.adaptive else "no"
                for who in libraries:
                    name = "mckean" if who == "native" else who
                    if not self.has(who, method):
                        continue
                    row[f"{name} solver"] = getattr(method, name)
                    found = self.calibrated(who, problem, which, dtype)
                    if "knob" in found:
                        row[name], row[f"{name} steps"] = found["error"], round(found["steps"])
                rows.append(row)
        names = ["mckean", *libraries[1:]]
        columns = [c for name in names for c in (f"{name} solver", name, f"{name} steps")]
        self.report.table(
            f"(a) errors and steps, {dtype}",
            ["problem", "method", "target", *columns],
            rows,
            ERROR_NOTES,
        )

    def costs(self, dtype: str) -> None:
        """(b) Milliseconds for those steps."""
        rows = []
        for problem in self.args.problem:
            n = self.paths(problem)
            for which, method, _ in self.methods(problem):
                for threads in self.args.threads:
                    row: dict[str, Any] = {"problem": problem, "method": method.label}
                    row |= {"paths": n, "threads": threads}
                    seconds = {}
                    for who in (*FORMS, *self.solvers):
                        if not self.has(who, method):
                            continue
                        knob = self.calibrated(who, problem, which, dtype).get("knob")
                        if knob is None:
                            continue
                        found = self.ask(
                            "time", threads, dtype, who=who, problem=problem, which=which, knob=knob, n=n
                        )  # fmt: skip
                        if found and "seconds" in found:
                            seconds[who] = found["seconds"]
                            row[who] = 1e3 * found["seconds"]
                    if "native" in seconds:
                        row["ratio"] = ratio_to_best(
                            seconds["native"], (seconds.get(w) for w in ("diffrax", "torchsde"))
                        )
                        row["us/step/path"] = self.per_step(problem, which, dtype, n, seconds)
                    rows.append(row)
                    print("  ".join(f"{k} {number(v)}" for k, v in row.items()), file=sys.stderr)
        self.report.table(
            f"(b) milliseconds for all paths at those errors, {dtype}",
            ["problem", "method", "paths", "threads", *FORMS, *self.solvers, "ratio", "us/step/path"],
            rows,
            COST_NOTES,
        )  # fmt: skip

    def per_step(
        self, problem: str, which: int, dtype: str, n: int, seconds: dict[str, float]
    ) -> float:
        steps = self.calibrated("native", problem, which, dtype)["steps"]
        return 1e6 * seconds["native"] / (steps * n)

    def samples(self, dtype: str) -> None:
        """(c) Effective draws of the posterior."""
        names = ["mckean", "mckean adaptive"]
        names += [s for peer in self.args.peer for s in SAMPLERS.get(peer, ())]
        rows = []
        for threads in self.args.threads:
            for who in names:
                found = self.ask("sample", threads, dtype, who=who, quick=self.args.quick)
                if found and "seconds" in found:
                    rows.append({"sampler": who, "threads": threads} | found)
                    print(
                        "  ".join(f"{k} {number(v)}" for k, v in rows[-1].items()), file=sys.stderr
                    )
        for row in rows:
            ours = [r for r in rows if r["threads"] == row["threads"] and r["sampler"] == "mckean"]
            if ours and not row["sampler"].startswith("mckean"):
                row["ratio"] = ours[0]["effective/s"] / row["effective/s"]
        self.report.table(
            f"(c) sampling the posterior of 25 coefficients, {dtype}",
            ["sampler", "threads", "seconds", "gradients/draw", "effective", "effective/s",
             "gradients/effective", "off", "ratio"],
            rows,
            SAMPLE_NOTES,
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--problem", nargs="+", choices=TASKS, default=list(TASKS))
        parser.add_argument(
            "--budget", type=float, default=300.0, help="seconds for one cell, with compilation"
        )
        parser.add_argument("--no-samples", action="store_true", help="leave out table (c)")

    args = common.options("sde", ("diffrax", "torchsde", "blackjax", "numpyro"), argv, add)
    report = common.Report("sde", args, argv)
    bench = Bench(args, report)
    for dtype in args.dtype:
        bench.errors(dtype)
        bench.costs(dtype)
        if not args.no_samples:
            bench.samples(dtype)
    report.finish()


if __name__ == "__main__":
    common.serve_jax(CELLS) if common.WORKER in sys.argv else main()
