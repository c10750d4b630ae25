"""The splitting schemes of underdamped Langevin dynamics as tables of linear combinations.

A scheme is a list of rows. Each of the first rows is a position where the gradient g_i = grad log p
is evaluated; the last rows are the new position and velocity. A row is a linear combination of x,
v, g0 (the gradient at x, kept from the step before), the noise W, H, K, and the gradients g1, g2 of
earlier rows. `f` of the papers is -log p. Steps are a float, or float64 (n,) with one for every
chain; coefficients are then of that shape too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean._array import Input, Output, as_input
from mckean._dispatch import executor
from mckean.samplers._coefficients import LEFT, RIGHT, Number, StepIntegrals

__all__ = ["SCHEMES", "Move", "Plan", "Table", "error_table", "move", "plan"]

Array = np.ndarray[Any, Any]
Row = dict[str, Number]
_BASE = ("x", "v", "g0", "W", "H", "K")


@dataclass(frozen=True, slots=True)
class Scheme:
    """`noise`: how many of W, H, K; `fsal`: the last gradient is that at the new position, which is
    the last stage; `order`: the strong one."""

    noise: int
    fsal: bool
    rows: Callable[[Number, float, float], tuple[list[Row], list[Row]]]
    order: int
    embedded: bool = False  # whether the two gradients of a step say how wrong it is


def _noise(rho: float, w: Number, h: Number = 0.0, k: Number = 0.0) -> Row:
    return {"W": rho * w, "H": rho * h, "K": rho * k}


def _ee(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    x = {"x": 1.0, "v": s.A(1), "g0": h * s.B(1) * u, **_noise(rho, s.B(1), s.CH)}
    v = {"v": s.beta(1), "g0": s.A(1) * u, **_noise(rho, s.mean(1), -c * s.CH)}
    return [x], [v]


def _baoab(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, kick = StepIntegrals(h, c), h / 2 * u
    e, noise = s.beta(1), (2 * c * u * s.mean(2)) ** 0.5
    x = {"x": 1.0, "v": h / 2 * (1 + e), "g0": h / 2 * (1 + e) * kick, "W": h / 2 * noise}
    v = {"v": e, "g0": e * kick, "W": noise, "g1": kick}
    return [x], [v]


def _ubu(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    z = {"x": 1.0, "v": s.A(0.5), **_noise(rho, s.B(0.5), s.CHh)}
    x = {"x": 1.0, "v": s.A(1), "g1": s.A(0.5) * u * h, **_noise(rho, s.B(1), s.CH)}
    v = {"v": s.beta(1), "g1": s.beta(0.5) * u * h, **_noise(rho, s.mean(1), -c * s.CH)}
    return [z], [x, v]


def _align(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho = StepIntegrals(h, c), math.sqrt(2 * c * u)
    a, b = s.A(1), s.B(1)
    x = {"x": 1.0, "v": a, "g0": b * u * h, **_noise(rho, b, s.CH)}
    v = {"v": s.beta(1), "g0": u * (a - b), "g1": u * b, **_noise(rho, s.mean(1), -c * s.CH)}
    return [x], [v]


def _should(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
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
        **_noise(rho, s.mean(1), -c * s.CH, -c * s.CK),
    }
    return [x1, x2], [v]


def _quicsort(h: Number, c: float, u: float) -> tuple[list[Row], list[Row]]:
    s, rho, uh = StepIntegrals(h, c), math.sqrt(2 * c * u), u * h

    def position(r: float) -> Row:
        # x + A(r) vt + B(r) w, with vt = v + rho (H + 6 K) and w = rho (W - 12 K)
        a, b = s.A(r), s.B(r)
        return {"x": 1.0, "v": a, **_noise(rho, b, a, 6 * a - 12 * b)}

    e, a = s.beta(1), s.mean(1)
    z1 = position(LEFT)
    z2 = {**position(RIGHT), "g1": s.A(1 / 3) * uh}
    x = {**position(1), "g1": s.A(RIGHT) * uh / 2, "g2": s.A(LEFT) * uh / 2}
    v = {
        "v": e,
        "g1": s.beta(RIGHT) * uh / 2,
        "g2": s.beta(LEFT) * uh / 2,
        **_noise(rho, a, -c * s.A(1), 6 * e - 12 * a + 6),
    }
    return [z1, z2], [x, v]


SCHEMES: dict[str, Scheme] = {
    "quicsort": Scheme(3, False, _quicsort, 3),
    "ubu": Scheme(2, False, _ubu, 2),
    "baoab": Scheme(1, True, _baoab, 1),
    "align": Scheme(2, True, _align, 2, embedded=True),
    "should": Scheme(3, True, _should, 3),
    "ee": Scheme(2, True, _ee, 1),
}


class Table:
    """Coefficients (J, K): numbers, and for some entries one number per row of the arrays."""

    __slots__ = ("by_row", "fixed")

    def __init__(self, rows: Sequence[Sequence[Number]], n_columns: int) -> None:
        self.fixed = np.zeros((len(rows), n_columns))
        self.by_row: list[tuple[int, int, Array]] = []
        for j, row in enumerate(rows):
            for k, value in enumerate(row):
                if isinstance(value, np.ndarray):
                    self.by_row.append((j, k, value))
                else:
                    self.fixed[j, k] = value

    def part(self, rows: slice) -> Table:
        """The table of some of the rows."""
        out = Table.__new__(Table)
        out.fixed, out.by_row = self.fixed, [(j, k, a[rows]) for j, k, a in self.by_row]
        return out

    def combine(
        self, like: Input, arrays: Sequence[Any], outs: list[Output] | None = None
    ) -> list[Output]:
        """The J linear combinations of native arrays shaped as `like`, in one pass."""
        framework = like.framework
        if outs is None:
            outs = [framework.empty(like.shape, like.dtype, like.device) for _ in self.fixed]
        by_row = []
        for j, k, value in self.by_row:
            data: Any = value.astype(like.dtype)
            if like.device != "cpu" or framework.name == "torch":
                data = as_input(framework.asarray(data, like.device), "coefficients").data
            by_row.append((j, k, data))
        executor(like.device).combine(
            [o.data for o in outs],
            list(arrays),
            self.fixed,
            by_row,
            np.zeros(len(outs)),
            [],
            like.shape[0],
            math.prod(like.shape[1:]),
            0,
            0,
            0,
            framework.queue(like.device),
        )
        return outs


@dataclass(frozen=True, slots=True)
class Plan:
    """A scheme with numbers: the part of every row that is known before a gradient is, and what
    gradients add.

    Everything known is computed in the first pass, so x, v and the noise are read once; gradients
    are then added in place.
    """

    fsal: bool
    n_stages: int
    base_names: tuple[str, ...]
    base: Table  # rows by base_names
    stage_updates: tuple[Table | None, ...]  # row i: [1, g1 .. gi]
    final_names: tuple[int, ...]  # gradients (from 0) the last rows need
    final_update: Table  # last rows by last rows + final_names

    def part(self, rows: slice) -> Plan:
        """The plan of some of the steps it was made for."""
        return replace(
            self,
            base=self.base.part(rows),
            stage_updates=tuple(t and t.part(rows) for t in self.stage_updates),
            final_update=self.final_update.part(rows),
        )


def plan(scheme: str, h: Number, friction: float, u: float, noise_factor: float) -> Plan:
    """The tables of `scheme` for one step size, or one per row, the noise columns multiplied by
    `noise_factor`."""
    stages, last = SCHEMES[scheme].rows(h, friction, u)
    rows = stages + last
    factor = {name: noise_factor if name in "WHK" else 1.0 for name in _BASE}
    # What a scheme reads must not depend on the steps: chains do not see each other.
    used = [
        n for n in _BASE if any(isinstance(r.get(n, 0.0), np.ndarray) or r.get(n) for r in rows)
    ]
    gradients = [f"g{i + 1}" for i in range(len(stages))]
    updates: list[Table | None] = []
    for i, row in enumerate(stages):
        names = gradients[:i]
        wanted = any(name in row for name in names)
        entries = [[1.0, *(row.get(g, 0.0) for g in names)]]
        updates.append(Table(entries, 1 + i) if wanted else None)
    final = tuple(i for i, g in enumerate(gradients) if any(g in row for row in last))
    eye = np.eye(len(last)).tolist()
    added = [[*eye[j], *(row.get(gradients[i], 0.0) for i in final)] for j, row in enumerate(last)]
    return Plan(
        SCHEMES[scheme].fsal,
        len(stages),
        tuple(used),
        Table([[row.get(n, 0.0) * factor[n] for n in used] for row in rows], len(used)),
        tuple(updates),
        final,
        Table(added, len(last) + len(final)),
    )


def error_table(scheme: str, h: Number, friction: float, u: float) -> Table:
    """The row that makes the error of v of an embedded scheme from g0 and g1; x has none."""
    if not SCHEMES[scheme].embedded:
        raise ValueError(f"scheme: {scheme!r} has no embedded error")
    ub = u * StepIntegrals(h, friction).B(1)
    return Table([[-ub, ub]], 2)


@dataclass(slots=True)
class Move:
    """Where a step ends: native `x` and `v`, and what hands them over to the caller, once.

    `gradients` are those evaluated on the way; the last one is at `position` for FSAL schemes.
    """

    x: Any
    v: Any
    position: Any  # x in the caller's framework
    velocity: Output
    gradients: list[Input]


def move(
    p: Plan,
    like: Input,
    known: dict[str, Any],
    gradient: Callable[[Any, Sequence[Input]], Input],
    held: Sequence[Input] = (),
    *,
    last_gradient: bool = True,
) -> Move:
    """One step of all chains. `known`: native x, v, g0, W, H, K, as the plan reads them;
    `gradient(position, held)` evaluates one, `held` being those still in use. A last gradient that
    only the next step would use can be left out."""
    rows = p.base.combine(like, [known[name] for name in p.base_names])
    stages, last = rows[: p.n_stages], rows[p.n_stages :]
    gradients: list[Input] = []
    data, position = None, None
    for i, (stage, update) in enumerate(zip(stages, p.stage_updates, strict=True)):
        if update is not None:
            update.combine(like, [stage.data, *(g.data for g in gradients)], [stage])
        data, position = stage.data, stage.result()
        if last_gradient or i < p.n_stages - 1 or i in p.final_names:
            gradients.append(gradient(position, [*held, *gradients]))
    if p.final_names:
        arrays = [*(row.data for row in last), *(gradients[i].data for i in p.final_names)]
        p.final_update.combine(like, arrays, last)
    if not p.fsal:
        data, position = last[0].data, last[0].result()
    return Move(data, last[-1].data, position, last[-1], gradients)
