"""How fast are points selected, and how well: kernel thinning, k-medoids, rankings by pairwise results."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import common
import numpy as np

import mckean as mk
from mckean.interaction import bradley_terry, kmedoids, thin

PEERS = ("goodpoints", "kmedoids")


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of at least two calls within about a second, and the result."""
    best, spent, calls = math.inf, 0.0, 0
    while calls < 2 or (spent < 0.5 and calls < 20):
        start = time.perf_counter()
        result = run()
        once = time.perf_counter() - start
        best, spent, calls = min(best, once), spent + once, calls + 1
        if once > 5.0:
            break
    return best, result


# ---- kernel thinning --------------------------------------------------------------------------------------------------


def gram(k: mk.kernels.Gaussian, x: np.ndarray) -> np.ndarray:
    """The matrix a peer works on, as one makes it with NumPy."""
    squares = (x * x).sum(1)
    out = x @ x.T
    out *= -2
    out += squares[:, None]
    out += squares
    out *= -0.5 / k.bandwidth**2
    return np.exp(out, out=out)


def discrepancy(k: mk.kernels.Gaussian, x: np.ndarray, core: np.ndarray) -> float:
    """MMD of rows `core` to all rows, in float64 and in strips."""
    x = x.astype(np.float64)
    kept = x[core]
    cross = whole = 0.0
    for first in range(0, len(x), 1000):
        squares = ((x[first : first + 1000, None, :] - kept) ** 2).sum(-1)
        cross += np.exp(-0.5 * squares / k.bandwidth**2).sum()
        part = x[first : first + 1000]
        squares = (part**2).sum(1)[:, None] + (x**2).sum(1) - 2 * part @ x.T
        whole += np.exp(-0.5 * squares / k.bandwidth**2).sum()
    n, s = len(x), len(core)
    inner = np.exp(-0.5 * ((kept[:, None] - kept) ** 2).sum(-1) / k.bandwidth**2).mean()
    return math.sqrt(max(inner - 2 * cross / (n * s) + whole / n**2, 0.0))


def thinnings(report: common.Report, dtype: str) -> None:
    """(a) n points to sqrt(n)."""
    args = report.args
    sizes = args.size or ([1024] if args.quick else [1024, 4096, 16384])
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for d in (2, 10):
            for n in sizes:
                rows.append(_thinning(args, n, d, threads, dtype))
    report.table(
        f"(a) milliseconds for kernel thinning of n points to sqrt(n), Gaussian kernel, {dtype}",
        ["d", "n", "threads", "mckean", "compress", "goodpoints", "its matrix", "its compress", "ratio",
         "ratio compress", "MMD", "MMD compress", "goodpoints MMD", "random MMD"],
        rows,
        "goodpoints: thin_K on a matrix that is there (its matrix: making it, by BLAS, n^2 memory; float64), and\n"
        "compresspp_kt, one thread each. compress: Compress++ with g = 4. Ratio: goodpoints and its matrix over mckean.\n"
        "MMD to all points, in float64; one sample.",
    )  # fmt: skip


def _thinning(args: common.Options, n: int, d: int, threads: int, dtype: str) -> dict[str, Any]:
    x = mk.random.normal(1, (n, d), dtype=dtype)
    k, halvings = mk.kernels.Gaussian(math.sqrt(2.0 * d)), (n.bit_length() - 1) // 2
    size = n >> halvings
    seconds: dict[str, float] = {}
    seconds["mckean"], whole = timed(lambda: thin(k, x, size))
    seconds["compress"], fast = timed(lambda: thin(k, x, size, compress=4))
    random = np.argsort(mk.random.uniform(2, n))[:size]
    row: dict[str, Any] = {
        "MMD": discrepancy(k, x, whole.indices),
        "MMD compress": discrepancy(k, x, fast.indices),
        "random MMD": discrepancy(k, x, random),
    }
    if "goodpoints" in args.peer:
        from goodpoints import compress, kt

        wide = x.astype(np.float64)
        seconds["its matrix"], matrix = timed(lambda: gram(k, wide))
        seconds["goodpoints"], core = timed(
            lambda: kt.thin_K(matrix, matrix, halvings, seed=1, unique=True)
        )
        row["goodpoints MMD"] = discrepancy(k, x, np.asarray(core))
        parameters = np.array([2 * k.bandwidth**2])
        seconds["its compress"], _ = timed(
            lambda: compress.compresspp_kt(wide, b"gaussian", k_params=parameters, g=4, seed=1)
        )
        row["ratio"] = (seconds["goodpoints"] + seconds["its matrix"]) / seconds["mckean"]
        row["ratio compress"] = seconds["its compress"] / seconds["compress"]
    return {"d": d, "n": n, "threads": threads, **{p: 1e3 * t for p, t in seconds.items()}, **row}


# ---- k-medoids --------------------------------------------------------------------------------------------------------


def medoids(report: common.Report, dtype: str) -> None:
    """(b) The eager search, from the same random start."""
    args = report.args
    sizes = args.size or ([1000] if args.quick else [1000, 5000, 20_000])
    rows = []
    for threads in args.threads:
        common.set_threads(threads)
        for n in sizes:
            for k in (10, 100):
                if k < n:
                    rows.append(_medoids(args, n, k, threads, dtype))
    report.table(
        f"(b) milliseconds for k medoids of n points in 10 dimensions, Euclidean, {dtype}",
        ["n", "k", "threads", "mckean", "kmedoids", "its matrix", "ratio", "loss over its", "swaps", "clara",
         "clara loss over"],
        rows,
        "kmedoids: fasterpam on a matrix that is there (its matrix: making it, by BLAS, n^2 memory), as many threads.\n"
        "Ratio: kmedoids and its matrix over mckean, which makes distances as it goes. clara: 5 subsamples, its loss over\n"
        "that of the full search.",
    )  # fmt: skip


def _medoids(args: common.Options, n: int, k: int, threads: int, dtype: str) -> dict[str, Any]:
    x = mk.random.normal(3, (n, 10), dtype=dtype)
    start = np.argsort(mk.random.uniform(4, n))[:k]
    seconds: dict[str, float] = {}
    seconds["mckean"], ours = timed(lambda: kmedoids(x, k, init=start))
    seconds["clara"], fast = timed(lambda: kmedoids(x, k, method="clara"))
    row: dict[str, Any] = {"swaps": ours.n_swaps, "clara loss over": fast.loss / ours.loss}
    if "kmedoids" in args.peer:
        import kmedoids as peer

        def matrix() -> np.ndarray:
            squares = (x * x).sum(1)
            out = x @ x.T
            out *= -2
            out += squares[:, None]
            out += squares
            np.maximum(out, 0, out=out)
            np.fill_diagonal(out, 0)
            return np.sqrt(out, out=out)

        seconds["its matrix"], d = timed(matrix)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds["kmedoids"], theirs = timed(
                lambda: peer.fasterpam(d, start.copy(), 100, n_cpu=threads)
            )
        row["ratio"] = (seconds["kmedoids"] + seconds["its matrix"]) / seconds["mckean"]
        row["loss over its"] = ours.loss / float(theirs.loss)
    return {"n": n, "k": k, "threads": threads, **{p: 1e3 * t for p, t in seconds.items()}, **row}


# ---- Bradley-Terry ----------------------------------------------------------------------------------------------------


def rankings(report: common.Report) -> None:
    """(c) Strengths of n players from 20 n games, logistic prior."""
    args = report.args
    rows = []
    for n in args.size or ([1000] if args.quick else [1000, 100_000]):
        u = mk.random.uniform(5, (3, 20 * n))
        strength = mk.random.normal(6, n)
        i, j = (u[:2] * n).astype(np.int64)
        first = u[2] < 1 / (1 + np.exp(strength[j] - strength[i]))
        winners, losers = np.where(first, i, j), np.where(first, j, i)
        order = np.argsort(winners, kind="stable")
        indptr = np.searchsorted(winners[order], np.arange(n + 1))
        wins = (indptr, losers[order], np.ones(len(order)))
        row: dict[str, Any] = {"n": n, "games": 20 * n}
        for method in ("newman", "zermelo"):
            seconds, found = timed(
                lambda wins=wins, method=method: bradley_terry(wins, prior=1.0, method=method)
            )
            row[method], row[f"{method} sweeps"] = 1e3 * seconds, found.n_iter
        row["correlation"] = float(np.corrcoef(np.log(found.strengths), strength)[0, 1])
        rows.append(row)
    report.table(
        "(c) milliseconds for Bradley-Terry strengths of n players, logistic prior",
        ["n", "games", "newman", "newman sweeps", "zermelo", "zermelo sweeps", "correlation"],
        rows,
        "One thread. Both iterations are mckean's, to the same tolerance 1e-8. correlation: of the log strengths found with\n"
        "those the games were drawn from.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("selection", PEERS, argv)
    report = common.Report("selection", args, argv)
    for dtype in args.dtype:
        thinnings(report, dtype)
        medoids(report, dtype)
    rankings(report)
    report.finish()


if __name__ == "__main__":
    main()
