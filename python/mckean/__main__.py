"""Command line: ``python -m mckean info | demo | bench``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def _bench(family: str, rest: list[str]) -> int:
    # Benches time peers and live beside the package, not in it.
    folder = Path(__file__).resolve().parents[2] / "bench"
    script = folder / f"bench_{family}.py"
    if not script.is_file():
        known = ", ".join(sorted(p.stem.removeprefix("bench_") for p in folder.glob("bench_*.py")))
        where = (
            f"known families: {known}"
            if known
            else "benches come with the source tree, not with the wheel"
        )
        print(f"mckean bench: no bench {family!r}; {where}", file=sys.stderr)
        return 2
    return subprocess.call([sys.executable, str(script), *rest])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="mckean", description="Command line of mckean.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="version, instruction set, threads, CUDA devices")
    demo = commands.add_parser("demo", help="a job on real data, with a picture")
    demos = {
        "posterior": "draw a posterior",
        "flow": "move noise onto images of digits",
        "transport": "exchange the colours of photographs, morph digits",
        "hessian": "the spectrum of a network's Hessian before and after training",
    }
    demo.add_argument(
        "name",
        nargs="?",
        default="posterior",
        choices=list(demos),
        help="; ".join(f"{name}: {what}" for name, what in demos.items()),
    )
    demo.add_argument("--output", default="demo", help="folder for the picture (default: demo)")
    demo.add_argument("--chains", type=int, default=1000, help="of the posterior")
    demo.add_argument("--particles", type=int, default=1797, help="of the flow")
    demo.add_argument("--pixels", type=int, default=3000, help="of each photograph of transport")
    demo.add_argument(
        "--steps",
        type=int,
        help="default: 1640 of the posterior, 2048 of the flow, 1000 of the training in hessian",
    )
    bench = commands.add_parser(
        "bench", help="our figures beside the peers'; further options go to the bench"
    )
    bench.add_argument("family")
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "bench":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "info":
        import mckean

        print(mckean.info())
        return 0
    if arguments.command == "demo":
        folder = Path(arguments.output)
        if arguments.name == "flow":
            steps = 2048 if arguments.steps is None else arguments.steps
            if arguments.particles < 20 or steps < 2:
                parser.error("demo: expected at least 20 particles and 2 steps")
            from mckean._demos import flow

            return flow.main(folder, particles=arguments.particles, n_steps=steps)
        if arguments.name == "transport":
            if arguments.pixels < 100:
                parser.error("demo: expected at least 100 pixels")
            from mckean._demos import transport

            return transport.main(folder, pixels=arguments.pixels)
        if arguments.name == "hessian":
            steps = 1000 if arguments.steps is None else arguments.steps
            if steps < 5:
                parser.error("demo: expected at least 5 steps")
            from mckean._demos import hessian

            return hessian.main(folder, n_steps=steps)
        steps = 1640 if arguments.steps is None else arguments.steps
        if arguments.chains < 2 or steps < 50:
            parser.error("demo: expected at least 2 chains and 50 steps")
        from mckean._demos import posterior

        return posterior.main(folder, chains=arguments.chains, n_steps=steps)
    return _bench(arguments.family, rest)


if __name__ == "__main__":
    sys.exit(main())
