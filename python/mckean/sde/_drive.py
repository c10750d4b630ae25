"""The loops that take the steps of a batch of paths: on times that all share, or on times of their own."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean import _array
from mckean._array import Input, Output, as_input, as_match
from mckean.sde import _native
from mckean.sde._controllers import ConstantStep, Plan
from mckean.sde._field import Field, Noise, Span, hold
from mckean.sde._rows import paths_of
from mckean.sde._solvers import Carry, Solver

__all__ = [
    "Attempt",
    "Outcome",
    "adapted",
    "run_own",
    "run_shared",
    "shared_steps",
    "steps_back",
    "undo_shared",
]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_CHUNK_BYTES = 1 << 25  # of noise, asked for in one walk along the tree
_CHUNK_STEPS = 1024
_PART_STEPS = 1 << 14  # constant steps whose times are held at once


@dataclass
class Outcome:
    """What a loop leaves: saved states, counts per path, which paths failed, when and why, and `Solution.state`."""

    ys: Any
    accepted: Ints
    rejected: Ints
    clamped: Ints
    evaluations: Ints
    failed: Mask
    failed_time: Floats
    not_finite: Mask
    state: dict[str, Any] | None


class _Custom(Solver):
    """A solver that is no `Solver` but has ``step(sde, y, h, W[, H[, K]])`` on arrays."""

    def __init__(self, solver: Any) -> None:
        self.solver = solver
        self.levy_area = getattr(solver, "levy_area", "none")
        self._per_step = int(getattr(solver, "evaluations", 1))

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        names = "WHK"[: {"none": 1, "space-time": 2}.get(self.levy_area, 3)]
        h = span.length if isinstance(span.length, float) else span.factor[:, 0]
        y1 = self.solver.step(field.sde, y.array, h, *[noise.array(name) for name in names])
        field.evaluations += self._per_step
        return as_match(y1, "solver.step", y, "y"), None, carry


def adapted(solver: Any) -> Solver:
    """`solver` as the loops call it."""
    return solver if isinstance(solver, Solver) else _Custom(solver)


class _Saver:
    """The saved states, written as they come; NaN where none came."""

    def __init__(self, y0: Input, count: int) -> None:
        self._like = y0
        self._out: Output = y0.framework.empty((count, *y0.shape), y0.dtype, y0.device)
        self._out.data[...] = float("nan")
        self.put(0, y0)

    def _data(self, y: Input) -> Any:
        # JAX arrays are written through memory they share.
        return y.data if self._like.framework.name == "jax" else y.array

    def put(self, index: int, y: Input) -> None:
        self._out.data[index] = self._data(y)

    def put_rows(self, indices: Ints, paths: Ints, y: Input, rows: Ints) -> None:
        source, index = self._data(y), (indices, paths, rows)
        if self._like.framework.name in ("torch", "cupy"):
            framework, device = self._like.framework, self._like.device
            index = tuple(framework.asarray(i, device) for i in index)
        self._out.data[index[0], index[1]] = source[index[2]]

    def blank(self, path: int, first: int) -> None:
        self._out.data[first:, path] = float("nan")

    def result(self) -> Any:
        return self._out.result()


def _finite(y: Input) -> Mask | None:
    """Which rows are finite; None if all are."""
    if _array._all_finite(y):
        return None
    good: Mask = np.asarray(y.framework.to_numpy(y.framework.finite(y.array)).all(1))
    return good


def _select(mask: Mask, a: Input, b: Input) -> Input:
    if len(a.shape) > 2:  # matrices by path
        flat = [as_input(x.array.reshape(x.shape[0], -1), "y") for x in (a, b)]
        return as_input(_select(mask, *flat).array.reshape(a.shape), "y")
    return hold(_native.select(a, mask, a.data, b.data), a)


def _select_all(mask: Mask, a: Carry, b: Carry) -> Carry:
    return tuple(_select(mask, x, y) for x, y in zip(a, b, strict=True))


def _take(x: Input, rows: Ints) -> Input:
    index = x.framework.asarray(rows, x.device) if x.framework.name != "numpy" else rows
    return as_input(x.array[index], "y")


class _Bar:
    """Progress over time."""

    def __init__(self, progress: bool, first: float, last: float) -> None:
        self._at, self._bar = first, None
        if progress:
            tqdm = importlib.import_module("tqdm.auto").tqdm
            form = "{l_bar}{bar}| t = {n:.4g} of {total:.4g} [{elapsed}<{remaining}]"
            # A hair more than the sum of all moves, which rounding must not let run over.
            self._bar = tqdm(total=(last - first) * (1 + 1e-12), bar_format=form)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def move(self, now: float) -> None:
        if self._bar is not None:
            self._bar.update(now - self._at)
            self._at = now


def _noise_data(field: Field, values: Any) -> list[Any]:
    """W, H, K of a tree as native code reads them on the device of the batch."""
    like = field.like
    out = []
    for value in (values.W, values.H, values.K):
        if value is None:
            continue
        framework = _array.framework_of(value)
        if framework is not like.framework and like.device != "cpu":
            value, framework = (
                like.framework.asarray(_array.to_numpy(value), like.device),
                like.framework,
            )
        if framework.dtype(value) != like.dtype:
            raise TypeError(
                f"tree: expected increments of {like.dtype} to match y0, got {framework.dtype(value)}"
            )
        out.append(framework.native(framework.contiguous(value), like.device))
    return out


# ---- times that all paths share --------------------------------------------------------------------------------------


@dataclass
class Attempt:
    s: float
    t: float
    left: float
    right: float
    jump: bool
    save: int  # the index of t, or -1
    saved: int  # that of s
    before: float  # `right` of the step before


def shared_steps(plan: Plan, order: float, noise: str) -> Iterator[Attempt]:
    """The steps of a controller that does not look at errors."""
    if type(plan.controller) is ConstantStep:
        return itertools.chain.from_iterable(_grid_steps(plan, forth=True))
    return _clock_steps(plan.controller.start(plan.ts, 1, order, noise=noise))


def steps_back(plan: Plan, order: float, noise: str) -> Iterator[list[Attempt]]:
    """`shared_steps` in runs, the last run first."""
    if type(plan.controller) is ConstantStep:
        return _grid_steps(plan, forth=False)
    return iter([list(_clock_steps(plan.controller.start(plan.ts, 1, order, noise=noise)))])


def _grid_steps(plan: Plan, *, forth: bool) -> Iterator[list[Attempt]]:
    """What `_clock_steps` finds, in runs, without a clock to wind at each step."""
    stops, ts = plan.stops, plan.ts
    assert stops is not None
    hit = stops.times.tolist()
    saves = {t: k for t, k in zip(hit, stops.saves.tolist(), strict=True) if k >= 0}
    saves[float(ts[0])] = 0
    jumps = {t: j for t, j in zip(hit, stops.jumps.tolist(), strict=True) if j == j}
    if stops.start_jump == stops.start_jump:
        jumps[float(ts[0])] = stops.start_jump
    for grid in plan.controller._parts(ts, stops, _PART_STEPS, forth=forth):
        run = []
        for s, t in itertools.pairwise(grid.tolist()):
            left = math.nextafter(jumps[s], math.inf) if s in jumps else s
            inner = s in jumps and s > ts[0]
            before = math.nextafter(jumps[s], -math.inf) if inner else s
            right = math.nextafter(jumps[t], -math.inf) if t in jumps else t
            run.append(
                Attempt(s, t, left, right, s in jumps, saves.get(t, -1), saves.get(s, -1), before)
            )
        yield run


def _clock_steps(clock: Any) -> Iterator[Attempt]:
    saved, before = 0, float(clock.s[0])
    while clock.active[0]:
        left, right, jump = clock.left[0], clock.right[0], clock.after_jump[0]
        s, t = clock.s[0], clock.t[0]
        clock.judge()
        save = int(clock.saves[1][0]) if clock.saves[1].size else -1
        yield Attempt(
            float(s), float(t), float(left), float(right), bool(jump), save, saved, before
        )
        saved, before = save, float(right)


def _shared_parts(
    field: Field, now: Attempt, noises: list[list[Any]], first: int, pieces: int
) -> tuple[Span, list[tuple[Span, Noise]]]:
    like = field.like
    whole = Span(like, now.left, now.right, now.t - now.s)
    if pieces == 1:
        return whole, [(whole, Noise(like, *[x[first] for x in noises]))]
    middle = 0.5 * (now.s + now.t)
    spans = (
        Span(like, now.left, middle, middle - now.s),
        Span(like, middle, now.right, now.t - middle),
    )
    return whole, [
        (span, Noise(like, *[x[first + i] for x in noises])) for i, span in enumerate(spans)
    ]


def _walk(tree: Any, grid: Floats) -> Any:
    """Increments over a grid; trees of the caller's own need not have `increments`."""
    if hasattr(tree, "increments"):
        return tree.increments(grid)
    steps = [tree.increment(float(s), float(t)) for s, t in itertools.pairwise(grid)]

    def stack(name: str) -> Any:
        parts: list[Any] = [getattr(step, name, None) for step in steps]
        if parts[0] is None:
            return None
        return _array.framework_of(parts[0]).concatenate([p[None] for p in parts])

    return _Stacked(stack("W"), stack("H"), stack("K"))


@dataclass
class _Stacked:
    W: Any
    H: Any
    K: Any


def _chunk(field: Field, tree: Any, pieces: int) -> int:
    """How many steps of noise to ask for at once."""
    areas = {"none": 1, "space-time": 2}.get(getattr(tree, "levy_area", ""), 3)
    width = areas * pieces * (4 if field.like.dtype == "float32" else 8)
    per_step = max(1, field.like.shape[0] * field.noise_dim * width)
    return max(1, min(_CHUNK_STEPS, _CHUNK_BYTES // per_step))


def _along(
    field: Field, tree: Any, steps: Sequence[Attempt], pieces: int
) -> list[tuple[Attempt, Span, list[tuple[Span, Noise]]]]:
    """Consecutive steps with their noise."""
    ends = [steps[0].s]
    for now in steps:
        ends += [now.t] if pieces == 1 else [0.5 * (now.s + now.t), now.t]
    noises = _noise_data(field, _walk(tree, np.array(ends)))
    return [
        (now, *_shared_parts(field, now, noises, index * pieces, pieces))
        for index, now in enumerate(steps)
    ]


def run_shared(
    field: Field,
    y0: Input,
    ts: Floats,
    solver: Solver,
    steps: Iterator[Attempt],
    tree: Any,
    progress: bool,
) -> Outcome:
    """All paths take the same steps."""
    n, pieces = y0.shape[0], solver.pieces
    saver = _Saver(y0, ts.size)
    failed_time, failed_evaluations = np.full(n, np.nan), np.zeros(n, np.int64)
    failed_steps, failed_save = np.zeros(n, np.int64), np.full(n, ts.size)
    alive = np.ones(n, bool)
    chunk = _chunk(field, tree, pieces)
    taken, next_save, y = 0, 1, y0
    carry: Carry | None = None
    with _Bar(progress, float(ts[0]), float(ts[-1])) as bar:
        while alive.any() and (some := list(itertools.islice(steps, chunk))):
            for now, whole, parts in _along(field, tree, some, pieces):
                if carry is None:
                    carry = solver.start(field, whole.at(0.0), y)
                elif now.jump:
                    carry = solver.refresh(field, whole.at(0.0), y, carry)
                y1, _, carry1 = solver.attempt(field, whole, parts, y, carry)
                good = _finite(y1)
                taken += 1
                if good is not None:
                    fresh = alive & ~good
                    failed_time[fresh], failed_save[fresh] = now.t, next_save
                    failed_evaluations[fresh], failed_steps[fresh] = field.evaluations, taken - 1
                    alive &= good
                    # Paths that have failed wait at their last finite state: user code sees no other.
                    y1, carry1 = _select(good, y1, y), _select_all(good, carry1, carry)
                    if not alive.any():
                        break
                y, carry = y1, carry1
                if now.save >= 0:
                    saver.put(now.save, y)
                    next_save = now.save + 1
                bar.move(now.t)
    for path in np.flatnonzero(~alive):
        saver.blank(int(path), int(failed_save[path]))
    return Outcome(
        ys=saver.result(),
        accepted=np.where(alive, taken, failed_steps),
        rejected=np.zeros(n, np.int64),
        clamped=np.zeros(n, np.int64),
        evaluations=np.where(alive, field.evaluations, failed_evaluations),
        failed=~alive,
        failed_time=failed_time,
        not_finite=~alive,
        state=solver.state(carry or ()),
    )


def undo_shared(
    field: Field,
    y1: Input,
    z1: Input,
    ts: Floats,
    solver: Any,
    runs: Iterator[list[Attempt]],
    tree: Any,
) -> Outcome:
    """The steps of `run_shared` by `ReversibleHeun`, undone from the last one; `runs` of them, the last one first."""
    n, y, taken = y1.shape[0], y1, 0
    saver = _Saver(y1, ts.size)
    saver.put(ts.size - 1, y)
    chunk = _chunk(field, tree, 1)
    carry: Carry | None = None
    failed_time = np.full(n, np.nan)
    for steps in runs:
        taken += len(steps)
        for end in range(len(steps), 0, -chunk):
            along = _along(field, tree, steps[max(0, end - chunk) : end], 1)
            for now, whole, parts in reversed(along):
                if carry is None:
                    carry = (z1, field.drift(now.right, z1), field.diffusion(now.right, z1))
                y, carry = solver.undo(field, whole, parts[0][1], y, carry)
                if now.saved >= 0:
                    saver.put(now.saved, y)
                good = _finite(y)
                if good is not None:
                    failed_time[np.isnan(failed_time) & ~good] = now.s
                if now.jump and now.s > ts[0]:
                    carry = solver.refresh(field, now.before, y, carry)
    failed = ~np.isnan(failed_time)
    zeros = np.zeros(n, np.int64)
    return Outcome(
        ys=saver.result(),
        accepted=np.full(n, taken, np.int64),
        rejected=zeros,
        clamped=zeros.copy(),
        evaluations=np.full(n, field.evaluations, np.int64),
        failed=failed,
        failed_time=failed_time,
        not_finite=failed,
        state=solver.state(carry or ()),
    )


# ---- times of their own ----------------------------------------------------------------------------------------------


def _single(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Evaluation times at jumps that float32 keeps on their side, also of the jump as float32 has it."""
    low = np.nextafter(left.astype(np.float32), np.float32(np.inf))
    high = np.nextafter(right.astype(np.float32), np.float32(-np.inf))
    return low.astype(np.float64), high.astype(np.float64)


def _own_parts(
    field: Field, clock: Any, tree: Any, pieces: int
) -> tuple[Span, list[tuple[Span, Noise]]]:
    like = field.like
    s, t, left, right = clock.s, clock.t, clock.left, clock.right
    if like.dtype == "float32" and (left is not s or right is not t):
        low, high = _single(left, right)
        left, right = (
            np.where(clock.after_jump, low, left),
            np.where(clock.before_jump, high, right),
        )

    def noise(a: Floats, b: Floats) -> Noise:
        return Noise(like, *_noise_data(field, tree.increment(a, b)))

    whole = Span(like, left, right, t - s)
    if pieces == 1:
        return whole, [(whole, noise(s, t))]
    middle = 0.5 * (s + t)
    return whole, [
        (Span(like, left, middle, middle - s), noise(s, middle)),
        (Span(like, middle, right, t - middle), noise(middle, t)),
    ]


class _Tally:
    """What is known of all n paths; `clock` and `rows` are those of the paths still in the batch."""

    _KEPT = ("accepted", "rejected", "clamped", "failed", "failed_time", "s")

    def __init__(self, clock: Any) -> None:
        self.clock, self.rows = clock, np.arange(clock.n)
        self.all = {name: getattr(clock, name).copy() for name in self._KEPT}
        self.evaluations = np.zeros(clock.n, np.int64)
        self.not_finite = np.zeros(clock.n, bool)
        self._gone = 0.0  # the sum of the times of the others

    def write(self) -> None:
        for name, values in self.all.items():
            values[self.rows] = getattr(self.clock, name)

    def take(self, keep: Ints) -> None:
        self.write()
        self.rows, self.clock = self.rows[keep], self.clock.take(keep)
        self._gone = float(self.all["s"].sum() - self.clock.s.sum())

    def mean_time(self) -> float:
        return (self._gone + float(self.clock.s.sum())) / self.evaluations.size


def run_own(
    field: Field,
    y0: Input,
    ts: Floats,
    solver: Solver,
    controller: Any,
    clock: Any,
    tree: Any,
    progress: bool,
    compact: bool,
) -> Outcome:
    """Every path takes the steps of its own entry of `clock`."""
    saver, tally, noise = _Saver(y0, ts.size), _Tally(clock), tree
    by_state = getattr(controller, "uses_states", False)
    like = replace(y0, framework=_array.FRAMEWORKS["numpy"]) if y0.device == "cpu" else y0
    y, carry = y0, None
    with _Bar(progress, float(ts[0]), float(ts[-1])) as bar:
        while clock.active.any():
            if compact and 2 * np.count_nonzero(clock.active) < clock.n:
                keep = np.flatnonzero(clock.active)
                tally.take(keep)
                clock, noise = tally.clock, paths_of(tree, tally.rows, tally.all["s"])
                y = _take(y, keep)
                carry = None if carry is None else tuple(_take(x, keep) for x in carry)
                field.like, like = y, replace(like, shape=y.shape)
            attempted, started = clock.active.copy(), clock.s
            whole, parts = _own_parts(field, clock, noise, solver.pieces)
            before = field.evaluations
            if carry is None:
                carry = solver.start(field, whole.at(0.0), y)
            elif carry and (jumped := clock.after_jump).any():
                fresh = solver.refresh(field, whole.at(0.0), y, carry)
                carry = _select_all(jumped, fresh, carry)
            y1, error, carry1 = solver.attempt(field, whole, parts, y, carry)
            tally.evaluations[tally.rows[attempted]] += field.evaluations - before

            good = _finite(y1)
            counts = None if good is None else (clock.accepted.copy(), clock.clamped.copy())
            if by_state:
                taken = clock.judge_states(_array.to_numpy(y.array), _array.to_numpy(y1.array))
            else:
                assert error is not None
                scaled = _array.to_numpy(
                    _native.error_norm(
                        like, error.data, y.data, y1.data, controller.rtol, controller.atol
                    )
                )
                if good is not None:
                    scaled = np.where(good, scaled, np.nan)
                taken = clock.judge(scaled)
            paths, indices = clock.saves
            if good is not None and counts is not None:
                bad = taken & ~good
                if bad.any():  # at the shortest step: nothing is left to try
                    clock.accepted[bad], clock.clamped[bad] = counts[0][bad], counts[1][bad]
                    clock.s[bad] = started[bad]
                    clock.fail(bad)
                    tally.not_finite[tally.rows[bad]] = True
                    taken = taken & good
                    stays = ~bad[paths]
                    paths, indices = paths[stays], indices[stays]
            if taken.all():
                y, carry = y1, carry1
            elif taken.any():
                y, carry = _select(taken, y1, y), _select_all(taken, carry1, carry)
            if paths.size:
                saver.put_rows(indices, tally.rows[paths], y, paths)
            if progress:
                bar.move(tally.mean_time())
    tally.write()
    return Outcome(
        ys=saver.result(),
        accepted=tally.all["accepted"],
        rejected=tally.all["rejected"],
        clamped=tally.all["clamped"],
        evaluations=tally.evaluations,
        failed=tally.all["failed"],
        failed_time=tally.all["failed_time"],
        not_finite=tally.not_finite,
        state=None,
    )
