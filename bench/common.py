"""What the benches share: timing, thread counts, measured ceilings, tables and their JSON."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mckean as mk

RESULTS = Path(__file__).parent / "results"
WORKER = "--jax-worker"


def measure(run: Callable[[], Any], *, budget: float = 0.5, least: int = 7) -> float:
    """Median seconds of a warmed-up call.

    At least `least` calls and up to 51, as many as fit into `budget` seconds; a call that alone takes a good part of the
    budget is repeated less often, but at least three times, a call beyond four budgets once.
    """
    run()
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    if once > 4 * budget:
        return once
    repeats = int(min(51, budget / max(once, 1e-9)))
    repeats = max(repeats, least if once * least < 2 * budget else 3)
    inner = max(1, int(2e-4 / max(once, 1e-9)))  # calls too short for the clock go in groups
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(inner):
            run()
        times.append((time.perf_counter() - start) / inner)
    return statistics.median(times)


# ---- peers and threads ------------------------------------------------------------------------------------------------


class Options(argparse.Namespace):
    """The command line of a bench."""

    size: list[int] | None
    threads: list[int]
    dtype: list[str]
    peer: list[str]
    quick: bool
    save: bool
    skipped: dict[str, str]


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def options(
    family: str,
    peers: Sequence[str],
    argv: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Options:
    """Parse the command line, with what `add` puts in; peers that cannot be imported move to `skipped`."""
    parser = argparse.ArgumentParser(
        prog=f"./run bench {family}", description=f"mckean beside its peers: {family}."
    )
    parser.add_argument(
        "--size", type=_count, nargs="+", help="instead of the default sizes, e.g. 1e4"
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        help=f"thread counts, for every peer; default 1 and {cores()}",
    )
    parser.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32"])
    parser.add_argument(
        "--peer",
        nargs="+",
        choices=[*peers, "none"],
        default=list(peers),
        help="peers to compare with",
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes, a minute or two")
    parser.add_argument(
        "--save", action="store_true", help="write bench/results/<device>-<family>.json"
    )
    if add:
        add(parser)
    args = parser.parse_args(argv, namespace=Options())
    args.threads = args.threads or sorted({1} if args.quick else {1, cores()})
    args.skipped = {}
    for peer in dict.fromkeys(args.peer):
        modules = {
            "diffrax": ["jax", "diffrax"], "torchsde": ["torch", "torchsde"], "keops": ["pykeops"],
            "reference": ["torch"], "pot": ["ot", "torch"],
            "ott": ["jax", "ott"], "geomloss": ["torch", "geomloss"],
        }.get(peer, [peer])  # fmt: skip
        missing = [m for m in modules if m != "none" and importlib.util.find_spec(m) is None]
        if missing:
            args.skipped[peer] = f"{', '.join(missing)} not installed"
    args.peer = [p for p in dict.fromkeys(args.peer) if p != "none" and p not in args.skipped]
    return args


def _count(text: str) -> int:
    value = int(float(text))
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def set_threads(n: int) -> None:
    """Use `n` threads here and in PyTorch. JAX cells run in a process of their own, see `in_jax`."""
    mk.set_num_threads(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)


_children: dict[tuple[int, str], subprocess.Popen[str]] = {}


def environment(threads: int, dtype: str) -> dict[str, str]:
    """Of a process whose libraries use that many threads, and JAX that dtype."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1" if dtype == "float64" else "0")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        env[name] = str(threads)
    if threads == 1:
        env["XLA_FLAGS"] = env.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    return env


def in_jax(
    script: str, cell: dict[str, Any], threads: int, dtype: str, *, timeout: float | None = None
) -> Any:
    """Run a cell in a child process that may use `threads` cores; None if it failed or took longer than `timeout`.

    The thread pool of XLA is fixed when it starts, with one thread for each core the process may run on: each thread
    count has a process of its own, which waits for cells until this one ends. OpenMP and BLAS libraries in it start as
    many threads, so it serves other peers as well.
    """
    key = (threads, dtype)
    if key not in _children:
        _children[key] = subprocess.Popen(
            [sys.executable, script, WORKER, str(threads)],
            env=environment(threads, dtype),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
    child = _children[key]
    try:
        child.stdin.write(json.dumps(cell) + "\n")
        child.stdin.flush()
        if timeout is not None and not select.select([child.stdout], [], [], timeout)[0]:
            print(f"{cell}: longer than {timeout:.0f} s", file=sys.stderr)
            child.kill()
            _forget(key)
            return None
        return json.loads(child.stdout.readline())
    except (OSError, ValueError):
        print(f"{cell}: the process died", file=sys.stderr)
        _forget(key)
        return None


def _forget(key: tuple[int, str]) -> None:
    """The next cell gets a new process."""
    child = _children.pop(key)
    child.stdout.close()
    with contextlib.suppress(OSError):
        child.stdin.close()
    child.wait()


def serve_jax(functions: dict[str, Callable[..., Any]]) -> None:
    """The child's side of `in_jax`: `functions` by the cell's "kind"."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[-1])])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is not an answer
    for line in sys.stdin:
        cell, result = json.loads(line), None
        try:
            result = functions[cell["kind"]](**{k: v for k, v in cell.items() if k != "kind"})
        except Exception as error:  # one failing cell must not lose the others
            print(f"{cell}: {type(error).__name__}: {error}", file=sys.stderr)
        print(json.dumps(result), file=answers, flush=True)


def _stop_children() -> None:
    while _children:
        child = _children.popitem()[1]
        child.stdin.close()  # ends its loop
        child.wait()


# ---- measured ceilings ------------------------------------------------------------------------------------------------


def copy_bandwidth(n_bytes: int, threads: int, *, torch: Any = None) -> float:
    """Bytes per second moved by the best of np.copyto and torch.add(a, 1, out=b), half read and half written.

    Measured on `n_bytes` of traffic, so that it holds for the cache level of the cell it is compared with.
    """
    n = max(n_bytes // 8, 1)
    a, b = np.ones(n, np.float32), np.ones(n, np.float32)
    best = measure(lambda: np.copyto(b, a), budget=0.1)
    if torch is not None:
        torch.set_num_threads(threads)
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        best = min(best, measure(lambda: torch.add(x, 1.0, out=y), budget=0.1))
    return 8 * n / best


def seconds_per_normal(dtype: str = "float32") -> float:
    """What one normal number costs in the loop that fills arrays, at the thread count in use."""
    n = 200_000
    return measure(lambda: mk.random.normal(1, n, dtype=dtype), budget=0.2) / n


# ---- what is printed and kept -----------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """CPU, cores and the versions that matter."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        field = {
            k: re.search(rf"^{k}\s*:\s*(.*)$", text, re.M)
            for k in ("model name", "cpu family", "model")
        }
        if field["model name"]:
            cpu = field["model name"].group(1)
        if (
            field["cpu family"] and field["model"] and not re.search(r"\d", cpu)
        ):  # hypervisors hide the number
            cpu += f" family {field['cpu family'].group(1)} model {field['model'].group(1)}"
    out = {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "simd": mk.info()["simd"],
        "python": platform.python_version(),
    }
    for name in (
        "numpy", "torch", "jax", "diffrax", "torchsde", "pykeops", "scipy", "scikit-learn", "kmedoids", "goodpoints",
        "pot", "ott-jax", "geomloss", "regot",
    ):  # fmt: skip
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"mckean": mk.__version__, **out}


def slug(text: str) -> str:
    text = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", " ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def number(x: Any) -> str:
    """Three digits."""
    if x is None:
        return "-"
    if isinstance(x, bool) or not isinstance(x, float):
        return str(x)
    if x == 0 or 1e-2 <= abs(x) < 999.5:
        return f"{x:.3g}"
    return f"{x:.0f}" if 1 <= abs(x) < 1e5 else f"{x:.2e}"


class Report:
    """Prints tables as they come and keeps them for the JSON file."""

    def __init__(self, family: str, args: Options, argv: Sequence[str] | None) -> None:
        self.family, self.args = family, args
        self.start = time.perf_counter()
        self.command = " ".join(["./run bench", family, *(sys.argv[1:] if argv is None else argv)])
        self.machine = machine()
        self.device = self.machine["cpu"]  # what the file of results is called after
        self.tables: list[dict[str, Any]] = []
        print(f"{self.command}\n" + ", ".join(f"{k} {v}" for k, v in self.machine.items()))
        for peer, why in args.skipped.items():
            print(f"skipped: {peer} ({why})")

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[dict[str, Any]], notes: str = ""
    ) -> None:
        rows = list(rows)
        texts = [[number(row.get(c)) for c in columns] for row in rows]
        widths = [max([len(c), *(len(t[i]) for t in texts)]) for i, c in enumerate(columns)]
        print(f"\n{title}")
        print("  ".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)))
        for text in texts:
            print("  ".join(f"{t:>{w}}" for t, w in zip(text, widths, strict=True)), flush=True)
        if notes:
            print(notes)
        kept = [{c: _rounded(row.get(c)) for c in columns} for row in rows]
        self.tables.append({"title": title, "columns": list(columns), "rows": kept, "notes": notes})

    def finish(self) -> None:
        _stop_children()
        print(f"\n{time.perf_counter() - self.start:.0f} s")
        if not self.args.save:
            return
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{slug(self.device)}-{self.family}.json"
        kept = {
            "command": self.command,
            "machine": self.machine,
            "skipped": self.args.skipped,
            "tables": self.tables,
        }
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"written: bench/results/{path.name}")


def _rounded(x: Any) -> Any:
    return float(f"{x:.4g}") if isinstance(x, float) else x


def ratio_to_best(ours: float, peers: Iterable[float | None]) -> float | None:
    """Time of the fastest peer over ours: above 1, mckean is faster."""
    known = [t for t in peers if t is not None]
    return min(known) / ours if known else None


def per_second(count: int, seconds: float | None) -> float | None:
    return None if seconds is None else count / seconds
