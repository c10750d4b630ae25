"""On the GPU: how fast are normals, the fused stepper, sliced distances, Sinkhorn's iterations and low-rank models?

Times are the device's own, between two CUDA events, so that the interpreter does not count. Needs a CUDA device and
PyTorch or CuPy built for it.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import common
import numpy as np
from common import ratio_to_best

import mckean as mk

PEERS = ("torch", "cupy")


class Framework:
    """What the bench needs of PyTorch or CuPy."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module = __import__(name)
        if name == "torch" and not self.module.cuda.is_available():
            raise RuntimeError("torch was built without CUDA")
        if name == "cupy":
            self.module.cuda.runtime.getDeviceCount()

    def asarray(self, a: np.ndarray) -> Any:
        return (
            self.module.tensor(a, device="cuda") if self.name == "torch" else self.module.asarray(a)
        )

    def empty_like(self, a: Any) -> Any:
        return self.module.empty_like(a)

    def to_numpy(self, a: Any) -> np.ndarray:
        return a.cpu().numpy() if self.name == "torch" else a.get()

    def copy(self, to: Any, source: Any) -> None:
        if self.name == "torch":
            to.copy_(source)
        else:
            self.module.copyto(to, source)

    def stream(self) -> int:
        """The current stream, as the executor takes it."""
        if self.name == "torch":
            return int(self.module.cuda.current_stream().cuda_stream)
        return int(self.module.cuda.get_current_stream().ptr)

    def event(self) -> Any:
        if self.name == "torch":
            event = self.module.cuda.Event(enable_timing=True)
        else:
            event = self.module.cuda.Event()
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        if self.name == "torch":
            return start.elapsed_time(end) * 1e-3
        return self.module.cuda.get_elapsed_time(start, end) * 1e-3


def measure(
    on: Framework, run: Callable[[], Any], *, repeats: int = 11, budget: float = 0.2
) -> float:
    """Median device seconds of a warmed-up call; calls go in groups so long that launches queue up."""

    def group(calls: int) -> float:
        start = on.event()
        for _ in range(calls):
            run()
        return on.seconds(start, on.event()) / calls

    group(3)
    calls = max(1, min(200, int(budget / repeats / max(group(3), 1e-7))))
    return statistics.median(group(calls) for _ in range(repeats))


def frameworks(names: Sequence[str]) -> tuple[dict[str, Framework], dict[str, str]]:
    """Those that work on the device, and why the others do not."""
    found, skipped = {}, {}
    for name in names:
        try:
            if importlib.util.find_spec(name) is None:
                raise RuntimeError("not installed")
            found[name] = Framework(name)
        except Exception as error:
            skipped[name] = str(error)
    return found, skipped


def copy_bandwidth(on: Framework, n_bytes: int) -> float:
    """Bytes per second of a device copy that moves `n_bytes`, half read and half written."""
    a = on.asarray(np.ones(max(n_bytes // 8, 1), np.float32))
    b = on.empty_like(a)
    return 2 * 4 * len(a) / measure(on, partial(on.copy, b, a))


def normals(
    report: common.Report, holder: Framework, peers: dict[str, Framework], dtype: str
) -> None:
    """(a) Normal numbers into a new array."""
    rows = []
    for n in report.args.size or (
        [10_000_000] if report.args.quick else [100_000, 10_000_000, 200_000_000]
    ):
        like = holder.asarray(np.zeros(1))
        run: dict[str, Any] = {
            "mckean": (holder, partial(mk.random.normal, 1, n, dtype=dtype, like=like))
        }
        if "torch" in peers:
            torch = peers["torch"].module
            draw = partial(torch.randn, n, dtype=getattr(torch, dtype), device="cuda")
            run["torch"] = (peers["torch"], draw)
        if "cupy" in peers:
            generator = peers["cupy"].module.random.default_rng(1)
            run["cupy"] = (peers["cupy"], partial(generator.standard_normal, n, dtype=dtype))
        seconds = {name: measure(on, f) for name, (on, f) in run.items()}
        bandwidth = n * np.dtype(dtype).itemsize / seconds["mckean"]
        copy = copy_bandwidth(holder, n * np.dtype(dtype).itemsize)
        rows.append(
            {"n": n, "ratio": ratio_to_best(seconds["mckean"], (seconds.get(p) for p in PEERS))}
            | {name: n / s for name, s in seconds.items()}
            | {"GB/s": bandwidth / 1e9, "copy GB/s": copy / 1e9, "of copy": bandwidth / copy}
        )
    report.table(
        f"(a) normal numbers per second, {dtype}",
        ["n", "mckean", *PEERS, "ratio", "GB/s", "copy GB/s", "of copy"],
        rows,
        "Into a new array. torch: randn (Philox); cupy: Generator (XORWOW). GB/s: what mckean writes; copy: a device\n"
        "copy of as many bytes, half read and half written. Ratio to the fastest peer.",
    )


def _torch_run(torch: Any, rows: Any, arrays: list[Any], noise: float) -> Callable[[], Any]:
    """The sums as PyTorch does them best without a compiler: one pass per array into memory that is there."""
    outs, z = [torch.empty_like(arrays[0]) for _ in rows], torch.empty_like(arrays[0])

    def run() -> list[Any]:
        if noise:
            z.normal_()
        for row, out in zip(rows, outs, strict=True):
            torch.mul(arrays[0], row[0], out=out)
            for c, x in zip(row[1:], arrays[1:], strict=True):
                out.add_(x, alpha=c)
            if noise:
                out.add_(z, alpha=noise)
        return outs

    return run


def _cupy_run(cupy: Any, rows: Any, arrays: list[Any], noise: float) -> Callable[[], Any]:
    """One hand-written element-wise kernel for all sums; normals come from CuPy's generator in a pass of their own."""
    k, generator = len(arrays), cupy.random.default_rng(1)
    names = [f"x{i}" for i in range(k)] + (["z"] if noise else [])
    body = "; ".join(
        f"y{j} = " + " + ".join(f"T({c}) * {x}" for c, x in zip([*row, noise], names, strict=False))
        for j, row in enumerate(rows)
    )
    kernel = cupy.ElementwiseKernel(
        ", ".join(f"T {x}" for x in names),
        ", ".join(f"T y{j}" for j in range(len(rows))),
        body,
        "sums",
    )
    outs = [cupy.empty_like(arrays[0]) for _ in rows]

    def run() -> list[Any]:
        z = [generator.standard_normal(arrays[0].shape, dtype=arrays[0].dtype)] if noise else []
        kernel(*arrays, *z, *outs)
        return outs

    return run


def _error(
    holder: Framework, rows: Any, host: list[np.ndarray], outs: list[Any], noise: float
) -> float:
    """Largest error of `outs` against float64, over the largest result."""
    z = mk.random.normal(1, host[0].shape, dtype=host[0].dtype).astype(np.float64)
    worst = 0.0
    for row, out in zip(rows, outs, strict=True):
        exact = sum(c * a.astype(np.float64) for c, a in zip(row, host, strict=True)) + noise * z
        worst = max(worst, float(np.abs(holder.to_numpy(out) - exact).max() / np.abs(exact).max()))
    return worst


def combines(
    report: common.Report, holder: Framework, peers: dict[str, Framework], dtype: str
) -> None:
    """(b) Linear combinations of K arrays into J, with and without noise."""
    args = report.args
    sizes = args.size or ([10_000_000] if args.quick else [100_000, 10_000_000, 100_000_000])
    kinds = [(1, 1, 0.0), (3, 1, 0.0), (3, 1, 0.1)]
    kinds += [] if args.quick else [(5, 1, 0.0), (3, 2, 0.0), (3, 2, 0.1), (8, 3, 0.0)]
    table = []
    for n in sizes:
        cols = min(8, n)
        shape = (n // cols, cols)
        n_bytes = shape[0] * cols * np.dtype(dtype).itemsize
        copies: dict[int, float] = {}
        for k, j, noise in kinds:
            g = np.random.default_rng(2)
            rows = g.uniform(-1, 1, (j, k)).tolist()
            host = [g.random(shape, dtype="float32").astype(dtype) for _ in range(k)]
            arrays = [holder.asarray(a) for a in host]
            outs = [holder.empty_like(arrays[0]) for _ in range(j)]
            ours = partial(mk.combine, rows, arrays, noise_scale=noise, seed=1, out=outs)
            run: dict[str, Any] = {"mckean": (holder, ours)}
            if "torch" in peers:
                theirs = (
                    arrays if holder.name == "torch" else [peers["torch"].asarray(a) for a in host]
                )
                run["torch"] = (
                    peers["torch"],
                    _torch_run(peers["torch"].module, rows, theirs, noise),
                )
            if "cupy" in peers:
                theirs = (
                    arrays if holder.name == "cupy" else [peers["cupy"].asarray(a) for a in host]
                )
                run["cupy"] = (peers["cupy"], _cupy_run(peers["cupy"].module, rows, theirs, noise))
            seconds = {name: measure(on, f) for name, (on, f) in run.items()}
            error = _error(holder, rows, host, outs, noise) if n <= 10_000_000 else None
            if k + j not in copies:
                copies[k + j] = copy_bandwidth(holder, n_bytes * (k + j))
            bandwidth = n_bytes * (k + j) / seconds["mckean"]
            table.append(
                {"K": k, "J": j, "n": n, "noise": noise, "error": error}
                | {name: 1e6 * s for name, s in seconds.items()}
                | {"ratio": ratio_to_best(seconds["mckean"], (seconds.get(p) for p in PEERS))}
                | {"GB/s": bandwidth / 1e9, "copy GB/s": copies[k + j] / 1e9}
                | {"of copy": bandwidth / copies[k + j]}
            )
    report.table(
        f"(b) microseconds for J linear combinations of K arrays of n numbers, {dtype}",
        [
            "K",
            "J",
            "n",
            "noise",
            "mckean",
            *PEERS,
            "ratio",
            "GB/s",
            "copy GB/s",
            "of copy",
            "error",
        ],
        table,
        "All into existing arrays. torch: mul and add_, one pass per array; cupy: one ElementwiseKernel. With noise\n"
        "the peers draw normals of their own, in a pass of its own. GB/s: K reads and J writes over mckean's time;\n"
        "copy: a device copy of as many bytes. error: largest, against float64, over the largest result. Ratio to the\n"
        "fastest peer.",
    )


def _torch_sliced(torch: Any, x: Any, y: Any, xi: Any) -> Callable[[], Any]:
    """Values and gradient for r = 1 and equal weights by whole-array operations, ten slices at a time."""
    n, m = len(x), len(y)
    s = torch.cat([x.new_full((n,), -1 / n), y.new_full((m,), 1 / m)])
    both = torch.cat([x, y])

    def run() -> Any:
        values, gradient = [], torch.zeros_like(x)
        for part in xi.split(10):
            z, order = torch.sort(part @ both.T, dim=1)
            weight = s[order]
            height = torch.cumsum(weight, 1)
            values.append(2 * (z.diff(dim=1) * height[:, :-1] ** 2).sum(1))
            slopes = torch.empty_like(z).scatter_(1, order, -2 * weight * (2 * height - weight))
            gradient += slopes[:, :n].T @ part
        return torch.cat(values), gradient

    return run


def sliced(
    report: common.Report, holder: Framework, peers: dict[str, Framework], dtype: str
) -> None:
    """(c) Sliced energy distance and its gradient, n = m."""
    from mckean import _cuda

    args = report.args
    rows = []
    for n in args.size or ([10_000] if args.quick else [1_000, 10_000, 100_000, 1_000_000]):
        for d, slices in ((2, 100),) if args.quick else ((2, 100), (64, 100), (784, 100)):
            if n * d > 200_000_000:
                continue
            g = np.random.default_rng(3)
            x, y = g.normal(size=(n, d)).astype(dtype), (g.normal(size=(n, d)) + 0.5).astype(dtype)
            xi = g.normal(size=(slices, d))
            xi = (xi / np.linalg.norm(xi, axis=1, keepdims=True)).astype(dtype)
            there = [holder.asarray(a) for a in (x, y, xi)]
            values, gradient = holder.asarray(np.empty(slices)), holder.empty_like(there[0])
            problem = (0, 1.0, *there, None, None, None, 1.0, False, values, gradient)
            call = partial(_cuda.sliced, *problem, queue=holder.stream())
            seconds = {"mckean": measure(holder, call)}
            if "torch" in peers:
                torch = peers["torch"]
                on = there if holder.name == "torch" else [torch.asarray(a) for a in (x, y, xi)]
                seconds["torch"] = measure(torch, _torch_sliced(torch.module, *on), repeats=3)
            stages = np.zeros(4)
            call(stages=stages)
            share = dict(
                zip(("project", "sort", "scan", "back"), stages / stages.sum(), strict=True)
            )
            rows.append(
                {"n": n, "d": d, "P": slices}
                | {name: 1e9 * s / (2 * n * slices) for name, s in seconds.items()}
                | {"ratio": ratio_to_best(seconds["mckean"], (seconds.get("torch"),))}
                | share
            )
    report.table(
        f"(c) nanoseconds per point and slice, sliced energy distance with gradient, {dtype}",
        ["n", "d", "P", "mckean", "torch", "ratio", "project", "sort", "scan", "back"],
        rows,
        "n = m points, 2 n in all. torch: matmul, sort, cumsum and scatter, ten slices at a time. project to back: shares of\n"
        "a call that waits for the device after every stage.",
    )


def _torch_iterations(torch: Any, scaled: Any, log_a: Any, log_b: Any) -> Callable[[], Any]:
    """Ten iterations in the log domain by whole-array operations; `scaled` is -C / eps, (n, m)."""

    def run() -> Any:
        F, G = torch.zeros_like(log_a), log_b.clone()
        for _ in range(10):
            F = log_a - torch.logsumexp(scaled + G, 1)
            G = log_b - torch.logsumexp(scaled + F[:, None], 0)
        return F, G

    return run


def sinkhorn(
    report: common.Report, holder: Framework, peers: dict[str, Framework], dtype: str
) -> None:
    """(d) Sinkhorn's iterations for the squared distance, n = m, of points and of a given cost."""
    from mckean import _cuda

    args = report.args
    most = 12_000_000_000  # bytes of a matrix
    rows = []
    for n in args.size or ([10_000] if args.quick else [1_000, 10_000, 50_000, 200_000]):
        for d in (3,) if args.quick else (3, 64):
            g = np.random.default_rng(4)
            x, y = g.normal(size=(n, d)).astype(dtype), (g.normal(size=(n, d)) + 0.5).astype(dtype)
            eps, weight = np.array([0.05 * 2.0 * d]), np.full((1, n), 1.0 / n)
            ones, errors, done = np.ones(1), np.empty(1), np.empty(1, np.int64)
            there = [holder.asarray(a) for a in (x, y)]
            fits = n * n * np.dtype(dtype).itemsize <= most
            scaled = cost = None
            if fits:  # the matrix, made where it is wanted
                matrix = np.empty((n, n), dtype)
                for first in range(0, n, 1000):
                    block = x[first : first + 1000]
                    matrix[first : first + 1000] = (
                        (block**2).sum(1)[:, None] - 2 * block @ y.T + (y**2).sum(1)
                    )
                cost = holder.asarray(np.maximum(matrix, 0))
                if "torch" in peers:
                    scaled = peers["torch"].asarray((-np.maximum(matrix, 0) / eps[0]).astype(dtype))
                del matrix
            for given in (False, True):
                if given and cost is None:
                    continue
                if given:
                    problem = _cuda.transport_of_cost(cost, 1, n, n, holder.stream())
                else:
                    problem = _cuda.transport_of_points(*there, 2.0, 1, n, n, holder.stream())
                F, G = np.log(weight), np.log(weight)
                rule = (1, False, 1.0, weight, weight, ones, ones, 10, 0.0, errors, done)
                call = partial(problem.iterate, np.arange(1), eps, F, G, *rule, holder.stream())
                seconds = {"mckean": measure(holder, call, repeats=3 if n > 50_000 else 11)}
                if scaled is not None:
                    torch = peers["torch"]
                    logs = [torch.asarray(np.log(weight[0]).astype(dtype)) for _ in range(2)]
                    theirs = _torch_iterations(torch.module, scaled, *logs)
                    seconds["torch"] = measure(torch, theirs, repeats=3)
                rows.append(
                    {"n": n, "d": d, "of": "cost" if given else "points"}
                    | {name: 1e3 * s / 10 for name, s in seconds.items()}
                    | {"ratio": ratio_to_best(seconds["mckean"], (seconds.get("torch"),))}
                    | {"G pairs/s": 2 * n * n * 10 / seconds["mckean"] / 1e9}
                )
    report.table(
        f"(d) milliseconds for one Sinkhorn iteration, {dtype}",
        ["n", "d", "of", "mckean", "torch", "ratio", "G pairs/s"],
        rows,
        "Squared distances, n = m, eps a twentieth of the mean distance within a cloud; ten iterations in a call. Points are\n"
        "never a matrix in mckean. torch: logsumexp over a stored matrix, the same for both. G pairs/s: exponentials.",
    )


def _torch_woodbury(torch: Any, W: Any, b: Any, t: float) -> Callable[[], Any]:
    """(W W^T + t)^-1 b of every item by a batched Cholesky factor."""
    eye = torch.eye(W.shape[2], dtype=W.dtype, device=W.device)

    def run() -> Any:
        inner = W.mT @ W + t * eye
        c = torch.cholesky_solve(W.mT @ b[..., None], torch.linalg.cholesky(inner))
        return (b - (W @ c)[..., 0]) / t

    return run


def _torch_lanczos(torch: Any, basis: Any, w: Any, count: int) -> Callable[[], Any]:
    """Two passes of Gram-Schmidt and the next vector; like a Lanczos step it ends on the host."""
    v = basis[:count]

    def run() -> Any:
        x = w.clone()
        for _ in range(2):
            x -= v.T @ (v @ x)
        norm = torch.linalg.norm(x)
        basis[count] = x / norm
        return norm.item()

    return run


def lowrank(
    report: common.Report, holder: Framework, peers: dict[str, Framework], dtype: str
) -> None:
    """(e) Low-rank models: Lanczos steps, Gram matrices, functions of a model, Woodbury's identity."""
    from mckean import _cuda

    args, size, g = report.args, np.dtype(dtype).itemsize, np.random.default_rng(5)
    stream = holder.stream()
    torch = peers.get("torch")
    rows: list[dict[str, Any]] = []

    def put(
        what: str,
        shape: str,
        n_bytes: int,
        ours: Callable[[], Any],
        theirs: Callable[[], Any] | None,
    ) -> None:
        seconds = {"mckean": measure(holder, ours)}
        if torch and theirs:
            seconds["torch"] = measure(torch, theirs)
        copy = copy_bandwidth(holder, min(n_bytes, 4_000_000_000))
        rows.append(
            {"what": what, "shape": shape}
            | {name: 1e3 * s for name, s in seconds.items()}
            | {"ratio": ratio_to_best(seconds["mckean"], (seconds.get("torch"),))}
            | {"GB/s": n_bytes / seconds["mckean"] / 1e9}
            | {"of copy": n_bytes / seconds["mckean"] / copy}
        )

    def there(*shape: int) -> tuple[Any, Any]:
        """For mckean and for torch."""
        host = (g.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1])).astype(dtype)
        own = holder.asarray(host)
        return own, (own if holder.name == "torch" else torch.asarray(host) if torch else None)

    count, k = 30, 32
    for d in args.size or ([100_000] if args.quick else [100_000, 1_000_000, 10_000_000]):
        (basis, their_basis), (w, their_w) = there(count + 1, d), there(d)
        work, coefficients = holder.empty_like(w), np.empty(count)

        def step(
            basis: Any = basis, w: Any = w, work: Any = work, coefficients: Any = coefficients
        ) -> None:
            holder.copy(work, w)
            _cuda.lanczos_step(basis, count, work, False, 0.0, 2, 0.0, coefficients, stream)

        put(
            "Lanczos step",
            f"d = {d}, {count} vectors",
            4 * count * d * size,
            step,
            _torch_lanczos(torch.module, their_basis, their_w, count) if torch else None,
        )
        (U, their_U), (b, their_b) = there(d, k), there(1, 1, d)
        gram = np.empty((k, k))
        put(
            "Gram matrix",
            f"d = {d}, k = {k}",
            k * d * size,
            partial(_cuda.tall_gram, U, False, U, False, gram, stream),
            (lambda U=their_U: (U.T @ U).cpu()) if torch else None,
        )
        s, t = np.linspace(2, 1, k).astype(dtype), np.array([0.5])
        own_s = holder.asarray(s)
        weight = torch.asarray((1 / (t + s) - 1 / t).astype(dtype)) if torch else None
        out = holder.empty_like(b)
        put(
            "solve",
            f"d = {d}, k = {k}, one vector",
            2 * k * d * size,
            partial(_cuda.lowrank_apply, U, own_s, t, None, [2], [1.0], [b], out, 0, 0, 0, stream),
            (lambda U=their_U, b=their_b, c=weight: 2 * b + (c * (b @ U)) @ U.T) if torch else None,
        )
    n, d, k = (10_000, 100, 8) if args.quick else (200_000, 100, 8)
    (U, their_U), (b, their_b) = there(d, k), there(1, n, d)
    s, t = np.linspace(2, 1, k).astype(dtype), np.array([0.5])
    own_s, out = holder.asarray(s), holder.empty_like(b)
    weight = torch.asarray((1 / (t + s) - 1 / t).astype(dtype)) if torch else None
    put(
        "solve",
        f"d = {d}, k = {k}, {n} particles",
        2 * n * d * size,
        partial(_cuda.lowrank_apply, U, own_s, t, None, [2], [1.0], [b], out, 0, 0, 0, stream),
        (lambda: 2 * their_b + (weight * (their_b @ their_U)) @ their_U.T) if torch else None,
    )
    for batch, d, k in [(1_000, 100, 8)] if args.quick else [(100_000, 100, 8), (2_000, 3_072, 16)]:
        (W, their_W), (b, their_b) = there(batch, d, k), there(batch, d)
        out = holder.empty_like(b)
        put(
            "Woodbury",
            f"{batch} items, d = {d}, k = {k}",
            2 * batch * d * k * size,
            partial(_cuda.woodbury, W, None, t, 2, b, out, None, stream),
            _torch_woodbury(torch.module, their_W, their_b, 0.5) if torch else None,
        )
    report.table(
        f"(e) milliseconds of low-rank models, {dtype}",
        ["what", "shape", "mckean", "torch", "ratio", "GB/s", "of copy"],
        rows,
        "Lanczos step: two passes of Gram-Schmidt against the basis, the norm on the host. solve: (U diag(s) U^T + t)^-1 b.\n"
        "Woodbury: (W W^T + t)^-1 b of every item. torch: the same by whole-array products, sums in its own precision (here\n"
        "in double). GB/s: the tall matrix as often as it must be read, or for particles their reading and writing; of copy:\n"
        "over a device copy of as many bytes.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    args = common.options("cuda", PEERS, argv)
    info = mk.info()
    if info["cuda"] != "available":
        sys.exit(f"bench cuda: nothing to measure: {info['cuda']}")
    device = info["cuda_devices"][0]
    if device["compute_capability"] == "0.0":
        sys.exit("bench cuda: nothing to measure: this build runs kernels on the host")
    found, missing = frameworks(PEERS)
    args.skipped |= {name: why for name, why in missing.items() if name in args.peer}
    if not found:
        why = ", ".join(f"{name}: {why}" for name, why in missing.items())
        sys.exit(f"bench cuda: needs PyTorch or CuPy to hold arrays on the device ({why})")
    holder = next(iter(found.values()))
    report = common.Report("cuda", args, argv)
    report.machine["gpu"] = (
        f"{device['name']}, driver for CUDA {device['driver']}, arrays of {holder.name}"
    )
    report.device = device["name"]
    print(report.machine["gpu"])
    peers = {name: f for name, f in found.items() if name in args.peer}
    for dtype in args.dtype:
        normals(report, holder, peers, dtype)
        combines(report, holder, peers, dtype)
        sliced(report, holder, peers, dtype)
        sinkhorn(report, holder, peers, dtype)
        lowrank(report, holder, peers, dtype)
    report.finish()


if __name__ == "__main__":
    main()
