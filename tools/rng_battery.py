#!/usr/bin/env python3
"""Put the random numbers of mckean through TestU01, or write them out for another battery.

    tools/rng_battery.py --testu01 PREFIX                  the table of docs/rng-battery.md
    tools/rng_battery.py --testu01 PREFIX --battery crush words
    tools/rng_battery.py --pipe words | dieharder -a -g 200
    tools/rng_battery.py --pipe words | RNG_test stdin32   (PractRand)

TestU01 is not part of mckean: PREFIX is where its include/ and lib/ are. The battery reads the
generator from its header; before that, the same numbers are asked of the installed package and
compared bit for bit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import mckean as mk
from mckean import _core

ROOT = Path(__file__).resolve().parents[1]
BATTERIES = ["smallcrush", "crush", "bigcrush"]
SOURCES = {
    "words": "32-bit words of stream 0",
    "reversed": "the same, lowest bit first",
    "streams": "first block of streams 0, 1, 2, ...",
    "counters": "first block of counters 0, 1, 2, ...",
    "seeds": "first block of neighbouring seeds",
    "tree": "words of the nodes of a Brownian tree",
    "uniform": "`mk.random.uniform`, float64",
    "normal": "`mk.random.normal`, float64, through the normal distribution function",
    "tree-normal": "normals of the nodes of a tree, likewise",
    "lcg": "control that must fail: x' = 69069 x + 1 mod 2^32",
}
SUSPECT, FAILED = 1e-3, 1e-10


def build(prefix: Path | None) -> Path:
    """Compile the driver against TestU01."""
    driver = ROOT / "build" / "rng_battery"
    driver.parent.mkdir(exist_ok=True)
    where = [] if prefix is None else [f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}"]
    source = [str(ROOT / "tools" / "rng_battery.cpp"), f"-I{ROOT / 'cpp' / 'include'}"]
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-Wall", "-Wextra"]
    libraries = ["-ltestu01", "-lprobdist", "-lmylib", "-lm"]
    command = [os.environ.get("CXX", "g++"), *flags, *source, *where, *libraries, "-o", str(driver)]
    subprocess.run(command, check=True)
    return driver


def words(n: int, seed: int, first: int = 0) -> np.ndarray:
    """Ask the package for its raw words."""
    out = np.empty(n, np.uint32)
    _core.random_words(out, seed, 0, 0, first)
    return out


def compare(driver: Path, seed: int, n: int = 1 << 16) -> None:
    """Check that header and package give the same numbers."""
    expected = {
        "words": words(n, seed),
        "uniform": mk.random.uniform(seed, n),
        "normal": mk.random.normal(seed, n),
    }
    for source, numbers in expected.items():
        command = [driver, source, "dump", str(seed), str(n)]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        if raw != numbers.tobytes():
            sys.exit(f"rng_battery: {source}: the package does not give the numbers of its header")


def pipe(source: str, seed: int) -> None:
    """Write 32-bit words to standard output until the reader has enough."""
    first, n = 0, 1 << 20
    while True:
        if source == "words":
            block = words(n, seed, first)
        else:  # the upper half of the 53 bits
            u = mk.random.uniform(seed, n, counter=first // n)
            block = np.floor(u * 2.0**32).astype(np.uint32)
        try:
            sys.stdout.buffer.write(block.tobytes())
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        first += n


def judge(p: np.ndarray) -> str:
    """Say in a word what the p-values of one source mean."""
    tail = np.minimum(p, 1 - p)
    if (tail < FAILED).any():
        return f"fails {int((tail < FAILED).sum())}"
    return f"{int((tail < SUSPECT).sum())} suspect" if (tail < SUSPECT).any() else "passes"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="*", help=f"default: all of {', '.join(SOURCES)}")
    parser.add_argument("--battery", choices=BATTERIES, default="smallcrush")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--testu01", type=Path, metavar="PREFIX", help="where TestU01 is installed")
    parser.add_argument("--details", action="store_true", help="every statistic, not only a row")
    parser.add_argument("--pipe", choices=["words", "uniform"], help="write words instead")
    arguments = parser.parse_args()
    if unknown := set(arguments.source) - set(SOURCES):
        parser.error(f"unknown source {', '.join(sorted(unknown))}")
    if arguments.pipe:
        pipe(arguments.pipe, arguments.seed)
        return 0
    driver = build(arguments.testu01)
    compare(driver, arguments.seed)

    wrong = False
    rows: list[str] = []
    found: dict[str, np.ndarray] = {}
    for source in arguments.source or SOURCES:
        command = [driver, source, arguments.battery, str(arguments.seed)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        tests = [name for name, _ in lines]  # the same for every source
        p = found[source] = np.array([float(value) for _, value in lines])
        verdict = judge(p)
        wrong |= verdict.startswith("fails") != (source == "lcg")
        numbers = f"{p.size} | {p.min():.2g} | {p.max():.4g} | {verdict}"
        rows.append(f"| `{source}` | {SOURCES[source]} | {numbers} |")
        print(rows[-1], file=sys.stderr, flush=True)
    print(f"{arguments.battery}, seed {arguments.seed}\n")
    print("| source | what it is | statistics | smallest p | largest p | verdict |")
    print("|---|---|---|---|---|---|", *rows, sep="\n")
    if arguments.details:
        print(f"\n| test | {' | '.join(found)} |\n|---{'|---' * len(found)}|")
        for i, test in enumerate(tests):
            print(f"| {test} | {' | '.join(f'{p[i]:.3g}' for p in found.values())} |")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
