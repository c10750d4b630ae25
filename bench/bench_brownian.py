"""How many Brownian increments per second: independent trees, one wide tree, a walk through time, and how right they are."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import numpy as np
from common import measure, per_second, ratio_to_best

import mckean as mk

AREAS = ("none", "space-time", "space-time-time")
NORMALS = dict(zip(AREAS, (1, 2, 3), strict=True))
DIFFRAX = dict(
    zip(AREAS, ("BrownianIncrement", "SpaceTimeLevyArea", "SpaceTimeTimeLevyArea"), strict=True)
)
# Increments per second and core, float32, batch of 1e4 and more.
TARGET = {
    ("none", 20): 6e6, ("none", 10): 1.2e7, ("space-time", 20): 3.5e6, ("space-time", 10): 7e6,
    ("space-time-time", 20): 1.8e6, ("space-time-time", 10): 3.6e6,
}  # fmt: skip
SWEEP_TARGET = dict(zip(AREAS, (6e7, 4e7, 2e7), strict=True))
LATENCY_TARGET = 5.0  # microseconds


def random_intervals(n: int) -> tuple[np.ndarray, np.ndarray]:
    ends = np.random.default_rng(5).random((n, 2))
    return ends.min(1), ends.max(1)


def _one_by_one(query: Callable[[float, float], Any], pairs: list[Any]) -> float:
    """Microseconds per query."""

    def run() -> None:
        for s, t in pairs:
            query(s, t)

    return 1e6 * measure(run, budget=0.2) / len(pairs)


# ---- cells that run in a JAX process ----------------------------------------------------------------------------------


def _diffrax_tree(key: Any, tol: Any, shape: tuple[int, ...], area: str, dtype: str) -> Any:
    import diffrax
    import jax

    kind = getattr(diffrax, DIFFRAX[area])
    return diffrax.VirtualBrownianTree(
        0.0, 1.0, tol, jax.ShapeDtypeStruct(shape, dtype), key, levy_area=kind
    )


def jax_trees(area: str, n: int, depths: list[int], dtype: str) -> list[float]:
    import jax
    import jax.numpy as jnp

    def one(key: Any, s: Any, t: Any, tol: Any) -> Any:
        return _diffrax_tree(key, tol, (), area, dtype).evaluate(s, t, use_levy=area != "none")

    run = jax.jit(jax.vmap(one, (0, 0, 0, None)))
    keys = jax.random.split(jax.random.key(0), n)
    s, t = (jnp.asarray(x, dtype) for x in random_intervals(n))
    return [
        measure(lambda tol=2.0**-depth: jax.block_until_ready(run(keys, s, t, tol)))
        for depth in depths
    ]


def jax_elements(area: str, n: int, depths: list[int], dtype: str) -> list[float]:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(key: Any, s: Any, t: Any, tol: Any) -> Any:
        return _diffrax_tree(key, tol, (n,), area, dtype).evaluate(s, t, use_levy=area != "none")

    key = jax.random.key(0)
    s, t = jnp.asarray(0.2345, dtype), jnp.asarray(0.4567, dtype)
    return [
        measure(lambda tol=2.0**-depth: jax.block_until_ready(run(key, s, t, tol)))
        for depth in depths
    ]


def jax_sweep(area: str, n: int, depths: list[int], times: list[float], dtype: str) -> list[float]:
    """Seconds per step."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(key: Any, ts: Any, tol: Any) -> Any:
        tree = _diffrax_tree(key, tol, (n,), area, dtype)

        def step(carry: Any, ends: Any) -> Any:
            return carry, tree.evaluate(ends[0], ends[1], use_levy=area != "none")

        return jax.lax.scan(step, 0, (ts[:-1], ts[1:]))[1]

    key, ts = jax.random.key(0), jnp.asarray(times, dtype)
    run_once = [
        partial(lambda tol: jax.block_until_ready(run(key, ts, tol)), 2.0**-depth)
        for depth in depths
    ]
    return [measure(f) / (len(times) - 1) for f in run_once]


def jax_latency(area: str, pairs: list[tuple[float, float]]) -> float:
    import jax

    tree = _diffrax_tree(jax.random.key(0), 2.0**-14, (1,), area, "float32")
    run = jax.jit(lambda s, t: tree.evaluate(s, t, use_levy=area != "none"))
    return _one_by_one(lambda s, t: jax.block_until_ready(run(s, t)), pairs)


def jax_accuracy(n: int, start: float, levels: list[int], depth: int) -> list[list[float]]:
    """Variances of W, H and K over their true values, for steps 2**-level."""
    import jax
    import jax.numpy as jnp

    tree = _diffrax_tree(jax.random.key(0), 2.0**-depth, (n,), "space-time-time", "float32")
    run = jax.jit(lambda s, t: tree.evaluate(s, t, use_levy=True))
    s = jnp.float32(start)
    out = []
    for level in levels:
        inc = run(s, s + jnp.float32(2.0**-level))
        parts = ((inc.W, 1.0), (inc.H, 12.0), (inc.K, 720.0))
        out.append([float(np.var(np.asarray(x, np.float64))) * c * 2.0**level for x, c in parts])
    return out


JAX = {"trees": jax_trees, "elements": jax_elements, "sweep": jax_sweep, "latency": jax_latency,
       "accuracy": jax_accuracy}  # fmt: skip


# ---- tables -----------------------------------------------------------------------------------------------------------


def trees(report: common.Report, dtype: str) -> None:
    """(a) A tree and an interval per path."""
    args = report.args
    sizes = args.size or ([10_000] if args.quick else [1_000, 10_000, 100_000, 1_000_000])
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        normal = common.seconds_per_normal(dtype)
        for area in AREAS:
            for n in sizes:
                s, t = random_intervals(n)
                times = [None, None]
                first = threads == args.threads[0]
                if "diffrax" in args.peer and (n <= 100_000 if first or args.size else n == 10_000):
                    cell = {
                        "kind": "trees",
                        "area": area,
                        "n": n,
                        "depths": [10, 20],
                        "dtype": dtype,
                    }
                    times = common.in_jax(__file__, cell, threads, dtype) or times
                for depth, peer in zip((10, 20), times, strict=True):
                    tol = 2.0**-depth

                    def ours(
                        area: str = area, n: int = n, tol: float = tol, s: Any = s, t: Any = t
                    ) -> Any:
                        tree = mk.BrownianTree(3, (n, 1), tol=tol, levy_area=area, dtype=dtype)
                        return tree.increment(s, t)

                    seconds = measure(ours, budget=0.3)
                    target = (
                        TARGET[area, depth]
                        if threads == 1 and dtype == "float32" and n >= 10_000
                        else None
                    )
                    rows.append(
                        {"levy_area": area, "tol": f"2^-{depth}", "n": n, "threads": threads, "mckean": n / seconds,
                         "diffrax": per_second(n, peer), "ratio": ratio_to_best(seconds, [peer]), "target": target,
                         "of bound": 2 * depth * NORMALS[area] * normal * n / seconds}
                    )  # fmt: skip
    report.table(
        f"(a) increments per second, independent trees, an interval per path, {dtype}",
        ["levy_area", "tol", "n", "threads", "mckean", "diffrax", "ratio", "target", "of bound"],
        rows,
        "A new mckean tree for every call, so that no cursor helps; ends uniform in [0, 1], with their checks.\n"
        "Bound: 2 * depth * normals per node * time per normal, the last measured here. Target: one core.\n"
        "diffrax: up to 1e5 paths; at further thread counts 1e4 only.",
    )


def elements(report: common.Report, dtype: str) -> None:
    """(b) One tree, n elements, one interval."""
    args = report.args
    sizes = args.size or ([100_000] if args.quick else [10_000, 1_000_000])
    areas = AREAS[:1] if args.quick else AREAS
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for area in areas:
            for n in sizes:
                times = [None, None]
                if "diffrax" in args.peer and threads == args.threads[0]:
                    cell = {
                        "kind": "elements",
                        "area": area,
                        "n": n,
                        "depths": [10, 20],
                        "dtype": dtype,
                    }
                    times = common.in_jax(__file__, cell, threads, dtype) or times
                sequential = _torchsde(args, area, n, dtype, np.linspace(0.0, 1.0, 9), False)
                random = _torchsde(args, area, n, dtype, np.random.default_rng(1).random(8), True)
                for depth, peer in zip((10, 20), times, strict=True):
                    tol = 2.0**-depth

                    def ours(area: str = area, n: int = n, tol: float = tol) -> Any:
                        tree = mk.BrownianTree(3, (1, n), tol=tol, levy_area=area, dtype=dtype)
                        return tree.increment(0.2345, 0.4567)

                    rows.append(
                        {"levy_area": area, "tol": f"2^-{depth}", "n": n, "threads": threads, "jax": peer,
                         "seconds": measure(ours, budget=0.3), "random": random, "sequential": sequential}
                    )  # fmt: skip
    for row in rows:
        n = row["n"]
        row["ratio"] = ratio_to_best(
            row["seconds"], (row.get("jax"), row["random"], row["sequential"])
        )
        row["mckean"] = n / row["seconds"]
        row["diffrax"] = per_second(n, row.get("jax"))
        row["torchsde random"], row["torchsde sequential"] = (
            per_second(n, row[k]) for k in ("random", "sequential")
        )
    report.table(
        f"(b) increments per second, one tree with n elements, one interval, {dtype}",
        [
            "levy_area",
            "tol",
            "n",
            "threads",
            "mckean",
            "diffrax",
            "torchsde random",
            "torchsde sequential",
            "ratio",
        ],
        rows,
        "mckean and diffrax: one query from scratch. torchsde: 8 queries of one new object; it splits at the times it\n"
        "is asked for, so its path depends on the order of queries, and it has no K. Ratio to the fastest\n"
        "peer. diffrax at the first thread count only.",
    )


def _torchsde(
    args: common.Options, area: str, n: int, dtype: str, points: np.ndarray, random: bool
) -> float | None:
    """Seconds per query of a fresh object, over the intervals between points (random: between 0 and each point)."""
    if "torchsde" not in args.peer or area == "space-time-time":
        return None
    import torch
    import torchsde

    torch.set_num_threads(mk.get_num_threads())
    if random:
        pairs = [(min(a, b), max(a, b)) for a, b in zip(points, np.roll(points, 1), strict=True)]
    else:
        pairs = list(itertools.pairwise(points))
    pairs = [(float(a), float(b)) for a, b in pairs]

    def run() -> None:
        path = torchsde.BrownianInterval(
            0.0,
            1.0,
            size=(n, 1),
            dtype=getattr(torch, dtype),
            entropy=7,
            levy_area_approximation=area,
        )
        for a, b in pairs:
            path(a, b, return_U=area != "none")

    return measure(run, budget=0.3) / len(pairs)


def sweep(report: common.Report, dtype: str) -> None:
    """(c) A walk forward in time."""
    args = report.args
    sizes = args.size or ([1_000] if args.quick else [1_000, 10_000])
    steps = 64 if args.quick or args.size else 256
    grid = np.linspace(0.0007, 0.9993, steps + 1)
    depths = [11, 20]
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for area in AREAS[2:] if args.quick else AREAS:
            for n in sizes:
                times = [None, None]
                if "diffrax" in args.peer and threads == args.threads[0]:
                    few = grid[: 17 if n > 1000 else 65].tolist()
                    cell = {
                        "kind": "sweep",
                        "area": area,
                        "n": n,
                        "depths": depths,
                        "times": few,
                        "dtype": dtype,
                    }
                    times = common.in_jax(__file__, cell, threads, dtype) or times
                torch_time = _torchsde(
                    args, area, n, dtype, grid[: 65 if n > 1000 else None], False
                )
                for depth, peer in zip(depths, times, strict=True):
                    tree = mk.BrownianTree(3, (n, 1), tol=2.0**-depth, levy_area=area, dtype=dtype)

                    def walk(tree: mk.BrownianTree = tree) -> None:
                        for a, b in itertools.pairwise(grid):
                            tree.increment(a, b)

                    whole = measure(lambda tree=tree: tree.increments(grid), budget=0.3) / steps
                    target = (
                        SWEEP_TARGET[area]
                        if threads == 1 and dtype == "float32" and depth == 11
                        else None
                    )
                    rows.append(
                        {"levy_area": area, "tol": f"2^-{depth}", "n": n, "threads": threads, "whole": whole, "jax": peer,
                         "walk": measure(walk, budget=0.3) / steps, "torch": torch_time, "target": target}
                    )  # fmt: skip
    for row in rows:
        n, peers = row["n"], (row["torch"], row.get("jax"))
        row["increments(ts)"], row["increment(s, t)"] = n / row["whole"], n / row["walk"]
        row["torchsde"], row["diffrax"] = per_second(n, row["torch"]), per_second(n, row.get("jax"))
        row["ratio"], row["ratio of walk"] = (
            ratio_to_best(row["whole"], peers),
            ratio_to_best(row["walk"], peers),
        )
    report.table(
        f"(c) increments per second, {steps} steps forward in time, n paths, {dtype}",
        ["levy_area", "tol", "n", "threads", "increments(ts)", "increment(s, t)", "torchsde", "diffrax", "ratio",
         "ratio of walk", "target"],
        rows,
        "increments(ts): the whole grid in one call; increment(s, t): one call a step, helped by the tree's cursor.\n"
        "diffrax: a lax.scan over the first steps, at the first thread count only. Ratios to the fastest peer.",
    )  # fmt: skip


def latency(report: common.Report) -> None:
    """(d) One path, one query, from Python."""
    args = report.args
    common.set_threads(1)
    times = np.sort(np.random.default_rng(3).random((64, 2))).tolist()
    rows = []
    for area in ("none",) if args.quick else ("none", "space-time-time"):
        for case, pairs in (("same", [(0.3, 0.31)] * 64), ("random", times)):
            row: dict[str, Any] = {"levy_area": area, "interval": case, "target": LATENCY_TARGET}
            tree = mk.BrownianTree(1, (1, 1), tol=2.0**-14, levy_area=area, dtype="float32")
            row["mckean"] = _one_by_one(tree.increment, pairs)
            if "torchsde" in args.peer and area == "none":
                import torchsde

                row["torchsde"] = _one_by_one(
                    torchsde.BrownianInterval(0.0, 1.0, size=(1, 1), entropy=7), pairs
                )
            if "diffrax" in args.peer:
                cell = {
                    "kind": "latency",
                    "area": area,
                    "pairs": pairs[:1] if case == "same" else pairs,
                }
                row["diffrax"] = common.in_jax(__file__, cell, 1, "float32")
            rows.append(row)
    for row in rows:
        row["ratio"] = ratio_to_best(row["mckean"], (row.get("torchsde"), row.get("diffrax")))
    report.table(
        "(d) microseconds for one query of one path from Python, tol 2^-14",
        ["levy_area", "interval", "mckean", "torchsde", "diffrax", "ratio", "target"],
        rows,
        "torchsde answers the same interval from its cache. diffrax: a jitted function.",
    )


def accuracy(report: common.Report) -> None:
    """(e) Short steps in float32."""
    args = report.args
    n = min(args.size[0], 20_000) if args.size else 20_000
    levels = [6, 10, 12, 14, 17] if args.quick else [6, 8, 10, 11, 12, 14, 16, 17]
    start, depth = (
        648_025 / 2**20,
        20,
    )  # off the coarse grids, and exact in float32 as start + 2**-level is
    common.set_threads(max(args.threads))
    single, double = (
        mk.BrownianTree(3, (n, 1), tol=2.0**-depth, levy_area="space-time-time", dtype=d)
        for d in ("float32", "float64")
    )
    rows = []
    for level in levels:
        h = 2.0**-level
        near, exact = single.increment(start, start + h), double.increment(start, start + h)
        row: dict[str, Any] = {"step": f"2^-{level}"}
        for name, true in (("W", h), ("H", h / 12), ("K", h / 720)):
            x, y = np.asarray(getattr(near, name), np.float64), getattr(exact, name)
            row[f"error {name}"] = float(np.sqrt(np.mean((x - y) ** 2) / true))
            row[f"var {name}"] = float(np.var(x) / true)
        rows.append(row)
    if "diffrax" in args.peer:
        cell = {"kind": "accuracy", "n": n, "start": start, "levels": levels, "depth": depth}
        ratios = common.in_jax(__file__, cell, max(args.threads), "float32")
        for row, found in zip(rows, ratios or [], strict=False):
            row |= dict(zip(("diffrax W", "diffrax H", "diffrax K"), found, strict=True))
    parts = ("W", "H", "K")
    report.table(
        f"(e) float32 over short steps of [0, 1], {n} paths, tol 2^-{depth}",
        [
            "step",
            *(f"error {p}" for p in parts),
            *(f"var {p}" for p in parts),
            *(f"diffrax {p}" for p in parts),
        ],
        rows,
        f"error: RMS distance to the float64 path over the true standard deviation. var and diffrax: variance over the\n"
        f"true one, 1 is right, standard error {np.sqrt(2 / n):.3f}; diffrax draws other numbers in float64.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("brownian", ("diffrax", "torchsde"), argv)
    report = common.Report("brownian", args, argv)
    for dtype in args.dtype:
        trees(report, dtype)
        elements(report, dtype)
        sweep(report, dtype)
    latency(report)
    accuracy(report)
    report.finish()


if __name__ == "__main__":
    common.serve_jax(JAX) if common.WORKER in sys.argv else main()
