"""Rewrites tests/vectors/bits.json: digests that every device and instruction set must reproduce.

Run it only when a path is meant to change; a change here changes every user's random numbers.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

import mckean as mk


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def main():
    record = {"random": {}, "brownian": {}, "fractional": {}}
    for name, function in (("normal", mk.random.normal), ("uniform", mk.random.uniform)):
        for dtype in ("float32", "float64"):
            record["random"][f"{name}-{dtype}"] = digest(
                function(2024, 100_003, stream=3, counter=11, dtype=dtype)
            )
    for area in ("none", "space-time", "space-time-time"):
        for dtype in ("float32", "float64"):
            tree = mk.BrownianTree(
                2024, (7, 5), t0=-1.0, t1=3.0, tol=1e-3, levy_area=area, dtype=dtype
            )
            inc = tree.increments(np.linspace(-1.0, 3.0, 58))
            record["brownian"][f"{area}-{dtype}"] = digest(*(p for p in inc[1:] if p is not None))
    for kind in ("I", "II"):
        path = mk.FractionalBrownianTree(
            2, (7, 3), hurst=0.5, rates=[1.0, 8.0, 64.0], n_ou=3, kind=kind
        )
        path.weights = np.array([0.5, -0.25, 1.0, 0.125])
        record["fractional"][kind] = (
            path.increments(np.linspace(0, 1, 9)).W.sum(axis=(1, 2)).tolist()
        )
    out = Path(__file__).parent.parent / "tests" / "vectors" / "bits.json"
    out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
