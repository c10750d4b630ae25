"""Directions (unit vectors) to project on. FIRST WORKING VERSION."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import random

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
