"""Directions (unit vectors) to project on. FIRST WORKING VERSION."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import random
from mckean._array import as_input, check_finite, to_numpy
from mckean._errors import as_count

__all__ = ["directions"]


def directions(dim: int, n_slices: int, kind: str = "orthogonal", *, seed: Any = 0) -> Any:
    if dim == 1:
        return np.ones((1, 1))
    if dim == 2 and kind != "random":
        u = float(random.uniform(seed, (1,), stream=3)[0])
        angle = math.pi * (np.arange(n_slices) + u) / n_slices
        return np.column_stack([np.cos(angle), np.sin(angle)])
    if kind in ("random", "sobol"):
        g = random.normal(seed, (n_slices, dim), stream=1)
        return g / np.linalg.norm(g, axis=1, keepdims=True)
    frames = []
    for b in range(-(-n_slices // dim)):
        q, r = np.linalg.qr(random.normal(seed, (dim, dim), stream=2, counter=b))
        frames.append((q * np.sign(np.diag(r))).T)
    return np.concatenate(frames)[:n_slices]


def resolve(directions_: Any, dim: int, n_slices: int, seed: Any, dtype: str) -> Any:
    n_slices = as_count(n_slices, "n_slices", least=1)
    """Directions (P, dim) on the host, contiguous and of `dtype`, from a kind or an array."""
    if isinstance(directions_, str):
        if directions_ not in ("orthogonal", "random", "sobol"):
            raise ValueError(
                "directions: expected 'orthogonal', 'random', 'sobol' or an array (n_slices, d), "
                f"got {directions_!r}"
            )
        return np.ascontiguousarray(directions(dim, n_slices, directions_, seed=seed), dtype)
    found = as_input(directions_, "directions", shape=("n_slices", dim))
    check_finite(found, "directions")
    xi = np.ascontiguousarray(to_numpy(found.array), np.float64)
    off = np.abs(np.sqrt((xi * xi).sum(axis=1)) - 1.0)
    if not xi.shape[0] or off.max() > 1e-3:
        raise ValueError("directions: expected unit vectors")
    return np.ascontiguousarray(xi, dtype)
