"""The splitting schemes of underdamped Langevin dynamics as tables of linear combinations.

A scheme is a list of rows. Each of the first rows is a position where the gradient g_i = grad log p
is evaluated; the last rows are the new position and velocity. A row is a linear combination of x,
v, g0 (the gradient at x, kept from the step before), the noise W, H, K, and the gradients g1, g2 of
earlier rows. `f` of the papers is -log p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mckean.samplers._coefficients import StepIntegrals

__all__ = ["SCHEMES", "Plan", "plan"]

Row = dict[str, float]
_BASE = ("x", "v", "g0", "W", "H", "K")


@dataclass(frozen=True, slots=True)
class Scheme:
    """`noise`: how many of W, H, K; `fsal`: the last gradient is that at the new position, which is
    the last stage."""

    noise: int
    fsal: bool
    rows: Callable[[float, float, float], tuple[list[Row], list[Row]]]


def _noise(rho: float, w: float, h: float = 0.0, k: float = 0.0) -> Row:
    return {"W": rho * w, "H": rho * h, "K": rho * k}


def _ee(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    x = {"x": 1.0, "v": s.A(1), "g0": h * s.B(1) * u, **_noise(rho, s.B(1), s.CH)}
    v = {"v": s.beta(1), "g0": s.A(1) * u, **_noise(rho, s.A(1) / h, -c * s.CH)}
    return [x], [v]


def _baoab(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    kick, e = h / 2 * u, math.exp(-c * h)
    noise = math.sqrt(-u * math.expm1(-2 * c * h) / h)
    x = {"x": 1.0, "v": h / 2 * (1 + e), "g0": h / 2 * (1 + e) * kick, "W": h / 2 * noise}
    v = {"v": e, "g0": e * kick, "W": noise, "g1": kick}
    return [x], [v]


def _ubu(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    z = {"x": 1.0, "v": s.A(0.5), **_noise(rho, s.B(0.5), s.CHh)}
    x = {"x": 1.0, "v": s.A(1), "g1": s.A(0.5) * u * h, **_noise(rho, s.B(1), s.CH)}
    v = {"v": s.beta(1), "g1": s.beta(0.5) * u * h, **_noise(rho, s.A(1) / h, -c * s.CH)}
    return [z], [x, v]


def _align(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    a, b = s.A(1), s.B(1)
    x = {"x": 1.0, "v": a, "g0": b * u * h, **_noise(rho, b, s.CH)}
    v = {"v": s.beta(1), "g0": u * (a - b), "g1": u * b, **_noise(rho, a / h, -c * s.CH)}
    return [x], [v]


def _should(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    a, b, uh = s.A(0.5), s.B(0.5), u * h
    # vt = v + rho (H + 6 K) moves the middle stage, with force rho (W - 12 K) - u h f0
    x1 = {"x": 1.0, "v": a, "g0": b * uh, **_noise(rho, b, a, 6 * a - 12 * b)}
    x2 = {
        "x": 1.0,
        "v": s.A(1),
        "g0": uh * s.B(1) / 3,
        "g1": uh * s.B(1) * 2 / 3,
        **_noise(rho, s.B(1), s.CH, s.CK),
    }
    v = {
        "v": s.beta(1),
        "g0": uh * s.beta(1) / 6,
        "g1": uh * s.beta(0.5) * 2 / 3,
        "g2": uh / 6,
        **_noise(rho, s.A(1) / h, -c * s.CH, -c * s.CK),
    }
    return [x1, x2], [v]


def _quicsort(h: float, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho, uh = StepIntegrals(h, c), math.sqrt(2 * c * u), u * h
    left, right = (3 - math.sqrt(3)) / 6, (3 + math.sqrt(3)) / 6

    def position(r: float) -> Row:
        # x + A(r) vt + B(r) w, with vt = v + rho (H + 6 K) and w = rho (W - 12 K)
        a, b = s.A(r), s.B(r)
        return {"x": 1.0, "v": a, **_noise(rho, b, a, 6 * a - 12 * b)}

    e, a = s.beta(1), s.A(1) / h
    z1 = position(left)
    z2 = {**position(right), "g1": s.A(1 / 3) * uh}
    x = {**position(1), "g1": s.A(right) * uh / 2, "g2": s.A(left) * uh / 2}
    v = {
        "v": e,
        "g1": s.beta(right) * uh / 2,
        "g2": s.beta(left) * uh / 2,
        **_noise(rho, a, math.expm1(-c * h), 6 * e - 12 * a + 6),
    }
    return [z1, z2], [x, v]


SCHEMES: dict[str, Scheme] = {
    "quicsort": Scheme(3, False, _quicsort),
    "ubu": Scheme(2, False, _ubu),
    "baoab": Scheme(1, True, _baoab),
    "align": Scheme(2, True, _align),
    "should": Scheme(3, True, _should),
    "ee": Scheme(2, True, _ee),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """A scheme with numbers: the part of every row that is known before a gradient is, and what
    gradients add.

    Everything known is computed in the first pass, so x, v and the noise are read once; gradients
    are then added in place.
    """

    n_stages: int
    base_names: tuple[str, ...]
    base: np.ndarray  # (rows, base_names)
    stage_updates: tuple[np.ndarray | None, ...]  # row i: [1, g1 .. gi]
    final_names: tuple[int, ...]  # gradients (from 0) the last rows need
    final_update: np.ndarray  # (last rows, last rows + final_names)


def plan(scheme: str, h: float, friction: float, u: float, noise_factor: float) -> Plan:
    """The tables of `scheme` for one step size, the noise columns multiplied by `noise_factor`."""
    stages, last = SCHEMES[scheme].rows(h, friction, u)
    rows = stages + last
    factor = {name: noise_factor if name in "WHK" else 1.0 for name in _BASE}
    base = np.array([[row.get(name, 0.0) * factor[name] for name in _BASE] for row in rows])
    used = [i for i in range(len(_BASE)) if base[:, i].any()]
    gradients = [f"g{i + 1}" for i in range(len(stages))]
    updates: list[np.ndarray | None] = []
    for i, row in enumerate(stages):
        coefficients = [row.get(g, 0.0) for g in gradients[:i]]
        updates.append(np.array([[1.0, *coefficients]]) if any(coefficients) else None)
    final = tuple(i for i, g in enumerate(gradients) if any(row.get(g, 0.0) for row in last))
    added = np.array([[row.get(gradients[i], 0.0) for i in final] for row in last]).reshape(
        len(last), -1
    )
    return Plan(
        len(stages),
        tuple(_BASE[i] for i in used),
        np.ascontiguousarray(base[:, used]),
        tuple(updates),
        final,
        np.ascontiguousarray(np.hstack([np.eye(len(last)), added])),
    )
