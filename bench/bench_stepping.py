"""How fast are random numbers and the fused stepper, and how close to what memory allows?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import numpy as np
from common import measure, ratio_to_best

import mckean as mk
from mckean import _core

PEERS = ("numpy", "torch", "jax")
TARGET = 1 / 1.2  # share of the copy bandwidth

# ---- cells that run in a JAX process ----------------------------------------------------------------------------------


def jax_fill(what: str, n: int, dtype: str) -> float:
    import jax

    draw = jax.random.normal if what == "normal" else jax.random.uniform
    run = jax.jit(lambda key: draw(key, (n,), dtype))
    key = jax.random.key(0)
    return measure(lambda: jax.block_until_ready(run(key)), budget=0.3)


def jax_combine(
    rows: list[list[float]], n: int, cols: int, noise: float, per_particle: bool, dtype: str
) -> float:
    import jax
    import jax.numpy as jnp

    arrays = [jnp.full((n // cols, cols), 0.5 + k, dtype) for k in range(len(rows[0]))]
    first = jnp.linspace(0.0, 1.0, n // cols, dtype=dtype)[:, None] if per_particle else None

    @jax.jit
    def run(key: Any, first: Any, *arrays: Any) -> list[Any]:
        z = jax.random.normal(key, arrays[0].shape, dtype) if noise else None
        return [_expression(row, first, arrays, noise, z) for row in rows]

    key = jax.random.key(0)
    return measure(lambda: jax.block_until_ready(run(key, first, *arrays)), budget=0.3)


JAX = {"fill": jax_fill, "combine": jax_combine}

# ---- random numbers ---------------------------------------------------------------------------------------------------


def fills(report: common.Report, dtype: str, what: str) -> None:
    """(a) Normal or uniform numbers into a new array."""
    args = report.args
    sizes = args.size or ([1_000_000] if args.quick else [10_000, 1_000_000, 10_000_000])
    ours = getattr(mk.random, what)
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for n in sizes:
            run: dict[str, Callable[[], Any]] = {"mckean": partial(ours, 1, n, dtype=dtype)}
            if "numpy" in args.peer:
                g = np.random.default_rng(1)
                draw = g.standard_normal if what == "normal" else g.random
                run["numpy"] = partial(draw, n, dtype=dtype)
            if "torch" in args.peer:
                import torch

                torch.set_num_threads(threads)
                run["torch"] = partial(
                    torch.randn if what == "normal" else torch.rand, n, dtype=getattr(torch, dtype)
                )
            row = {"n": n, "threads": threads} | {p: measure(f, budget=0.3) for p, f in run.items()}
            if "jax" in args.peer:
                cell = {"kind": "fill", "what": what, "n": n, "dtype": dtype}
                row["jax"] = common.in_jax(__file__, cell, threads, dtype)
            rows.append(row)
    for row in rows:
        row["ratio"] = ratio_to_best(row["mckean"], (row.get(p) for p in PEERS))
        for p in ("mckean", *PEERS):
            if row.get(p):
                row[p] = 1e9 * row[p] / row["n"]
    report.table(
        f"(a) nanoseconds per {what} number, {dtype}",
        ["n", "threads", "mckean", *PEERS, "ratio"],
        rows,
        "Into a new array. numpy: Generator (PCG64; normals by the ziggurat), one thread. Ratio to the fastest peer.",
    )


# ---- combine ----------------------------------------------------------------------------------------------------------


def _expression(row: list[float], first: Any, arrays: Sequence[Any], noise: float, z: Any) -> Any:
    """The sum as one writes it; `first`, one value per particle, replaces the first coefficient."""
    total = (row[0] if first is None else first) * arrays[0]
    for c, x in zip(row[1:], arrays[1:], strict=True):
        total = total + c * x
    return total + noise * z if noise else total


def _numpy_run(
    rows: list[list[float]],
    arrays: list[np.ndarray],
    outs: list[np.ndarray],
    noise: float,
    first: np.ndarray | None,
) -> Callable[[], None]:
    """NumPy at its best: every product and sum into memory that is already there."""
    generator = np.random.default_rng(1)
    part, z = np.empty_like(arrays[0]), np.empty_like(arrays[0])

    def run() -> None:
        if noise:
            generator.standard_normal(out=z, dtype=z.dtype)
            np.multiply(z, noise, out=z)
        for row, out in zip(rows, outs, strict=True):
            np.multiply(arrays[0], row[0] if first is None else first, out=out)
            for c, x in zip(row[1:], arrays[1:], strict=True):
                np.multiply(x, c, out=part)
                np.add(out, part, out=out)
            if noise:
                np.add(out, z, out=out)

    return run


def combines(report: common.Report, dtype: str) -> None:
    """(b) Linear combinations of K arrays into J, with and without noise."""
    args = report.args
    if args.size:
        cases = [(k, j, n, noise, rows) for n in args.size for k, j, noise, rows in _KINDS]
    elif args.quick:
        cases = [
            (3, 1, 1_000, 0.0, False),
            (3, 1, 3_000_000, 0.0, False),
            (3, 1, 1_000_000, 0.1, False),
        ]
    else:
        cases = [
            (k, 1, n, 0.0, False) for k in (1, 2, 3, 5, 7) for n in (1_000, 1_000_000, 10_000_000)
        ]
        cases += [(3, 1, n, 0.0, False) for n in (10_000, 100_000)]
        cases += [(k, 2, n, 0.0, False) for k in (3, 5) for n in (1_000, 10_000_000)]
        cases += [
            (k, j, n, 0.1, False)
            for k, j in ((1, 1), (3, 1), (3, 2))
            for n in (1_000, 1_000_000, 10_000_000)
        ]
        cases += [(2, 1, 1_000_000, 0.0, True)]
    table = []
    for threads in args.threads:
        common.set_threads(threads)
        for k, j, n, noise, per_particle in cases:
            table.append(_combine_case(args, k, j, n, noise, per_particle, dtype, threads))
    for row in table:
        seconds = row["seconds"]
        row["ratio"] = ratio_to_best(seconds["mckean"], (seconds.get(p) for p in PEERS))
        for p, t in seconds.items():
            row[p] = None if t is None else 1e6 * t
    report.table(
        f"(b) microseconds for J linear combinations of K arrays of n numbers, {dtype}",
        ["K", "J", "n", "noise", "coefficients", "threads", "mckean", *PEERS, "ratio", "GB/s", "copy GB/s", "of copy",
         "target", "error"],
        table,
        "mckean and numpy write into existing arrays (numpy: np.multiply and np.add with out=); torch and jax (jitted)\n"
        "make new ones. GB/s: K reads and J writes over mckean's time; copy: the best of np.copyto and torch.add(out=)\n"
        "moving as many bytes in the same run. error: largest, against float64, over the largest result. With noise the\n"
        "peers draw normals of their own. Ratio to the fastest peer.",
    )  # fmt: skip


_KINDS = [
    (1, 1, 0.0, False),
    (3, 1, 0.0, False),
    (3, 2, 0.0, False),
    (3, 1, 0.1, False),
    (2, 1, 0.0, True),
]


def _combine_case(
    args: common.Options,
    k: int,
    j: int,
    n: int,
    noise: float,
    per_particle: bool,
    dtype: str,
    threads: int,
) -> dict[str, Any]:
    cols = min(8, n)
    n = n // cols * cols
    shape = (n // cols, cols)
    g = np.random.default_rng(2)
    rows = g.uniform(-1, 1, (j, k)).tolist()
    arrays = [g.random(shape, dtype="float32").astype(dtype) for _ in range(k)]
    outs = [np.ones(shape, dtype) for _ in range(j)]
    first = np.linspace(0.0, 1.0, shape[0]).astype(dtype) if per_particle else None
    column = None if first is None else first[:, None]
    coefficients = [[first, *row[1:]] if per_particle else row for row in rows]
    torch = None
    if "torch" in args.peer:
        import torch

        torch.set_num_threads(threads)

    def ours() -> None:
        mk.combine(coefficients, arrays, noise_scale=noise, seed=1, out=outs)

    seconds: dict[str, float | None] = {"mckean": measure(ours, budget=0.2)}
    z = mk.random.normal(1, shape, dtype=dtype).astype("float64") if noise else None
    wide = [x.astype("float64") for x in arrays] if n <= 1_000_000 else None
    error = None
    if wide is not None:
        exact = [_expression(row, column, wide, noise, z) for row in rows]
        error = max(
            float(abs(o - e).max() / abs(e).max()) for o, e in zip(outs, exact, strict=True)
        )
    if "numpy" in args.peer:
        seconds["numpy"] = measure(_numpy_run(rows, arrays, outs, noise, column), budget=0.2)
    if torch is not None:
        tensors = [torch.from_numpy(x) for x in arrays]
        head = None if column is None else torch.from_numpy(column)

        def run() -> list[Any]:
            draw = torch.randn(shape, dtype=tensors[0].dtype) if noise else None
            return [_expression(row, head, tensors, noise, draw) for row in rows]

        seconds["torch"] = measure(run, budget=0.2)
    if "jax" in args.peer:
        cell = {"kind": "combine", "rows": rows, "n": n, "cols": cols, "noise": noise, "per_particle": per_particle,
                "dtype": dtype}  # fmt: skip
        seconds["jax"] = common.in_jax(__file__, cell, threads, dtype)
    n_bytes = (k + j) * n * outs[0].itemsize
    copy = common.copy_bandwidth(n_bytes, threads, torch=torch)
    speed = n_bytes / seconds["mckean"]
    return {"K": k, "J": j, "n": n, "noise": "yes" if noise else "no", "threads": threads, "seconds": seconds,
            "coefficients": "per particle" if per_particle else "numbers", "GB/s": speed / 1e9, "copy GB/s": copy / 1e9,
            "of copy": speed / copy, "target": None if noise else TARGET, "error": error}  # fmt: skip


# ---- the noise of an underdamped step ---------------------------------------------------------------------------------


def step_noise(report: common.Report, dtype: str) -> None:
    """(c) W, H and K of one step."""
    args = report.args
    sizes = args.size or ([1_000_000] if args.quick else [1_000, 1_000_000])
    scales = [1.0, 12**-0.5, 720**-0.5]
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for n in sizes:
            outs = [np.empty(n, dtype) for _ in range(3)]
            seconds = {
                "mckean": measure(
                    lambda outs=outs: _core.step_noise(outs, scales, 1, 2), budget=0.3
                )
            }
            if "numpy" in args.peer:
                g = np.random.default_rng(1)

                def run(outs: Any = outs, g: Any = g) -> None:
                    for out, scale in zip(outs, scales, strict=True):
                        g.standard_normal(out=out, dtype=dtype)
                        np.multiply(out, scale, out=out)

                seconds["numpy"] = measure(run, budget=0.3)
            if "torch" in args.peer:
                import torch

                torch.set_num_threads(threads)

                def run(n: int = n) -> Any:
                    return [
                        torch.randn(n, dtype=getattr(torch, dtype)).mul_(scale) for scale in scales
                    ]

                seconds["torch"] = measure(run, budget=0.3)
            row = {p: 1e9 * t / n for p, t in seconds.items()}
            rows.append(
                {
                    "n": n,
                    "threads": threads,
                    **row,
                    "ratio": ratio_to_best(row["mckean"], (row.get(p) for p in PEERS)),
                }
            )
    report.table(
        f"(c) nanoseconds per element for the noise W, H, K of an underdamped step, {dtype}",
        ["n", "threads", "mckean", "numpy", "torch", "ratio"],
        rows,
        "Peers: three times a standard normal array and its scale.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("stepping", PEERS, argv)
    report = common.Report("stepping", args, argv)
    # The peers' float64 normals are another algorithm, so a default run shows both.
    for dtype in args.dtype if args.size or args.quick else dict.fromkeys([*args.dtype, "float64"]):
        fills(report, dtype, "normal")
        fills(report, dtype, "uniform")
    for dtype in args.dtype:
        combines(report, dtype)
        step_noise(report, dtype)
    report.finish()


if __name__ == "__main__":
    common.serve_jax(JAX) if common.WORKER in sys.argv else main()
