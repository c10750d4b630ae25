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
from mckean.sde._controllers import ConstantStep
from mckean.sde._field import Field, Noise, Span, hold
from mckean.sde._solvers import Carry, Solver

__all__ = ["Attempt", "Outcome", "adapted", "run_own", "run_shared", "shared_steps", "undo_shared"]

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_CHUNK_BYTES = 1 << 25  # of noise, asked for in one walk along the tree
_CHUNK_STEPS = 1024
_GRID_STEPS = 1 << 20  # constant steps whose times are held; more come from a clock


@dataclass
class Outcome:
    """What a loop leaves: saved states, counts per path, which paths failed, when and why, and `Solution.state`."""

    ys: Any
    accepted: Ints
    rejected: Ints
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
        self._at, self._first, self._bar = first, first, None
        if progress:
            tqdm = importlib.import_module("tqdm.auto").tqdm
            form = "{l_bar}{bar}| t = {n:.4g} of {total:.4g} [{elapsed}<{remaining}]"
            self._bar = tqdm(total=last, initial=first, bar_format=form)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def move(self, s: Any) -> None:
        if self._bar is not None:
            now = float(np.mean(s))
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
    save: int  # index, or -1


def shared_steps(controller: Any, ts: Floats, order: float, noise: str) -> Iterator[Attempt]:
    """The steps of a controller that does not look at errors."""
    if type(controller) is ConstantStep and (ts[-1] - ts[0]) / controller.step <= _GRID_STEPS:
        return _grid_steps(controller, ts)
    return _clock_steps(controller.start(ts, 1, order, noise=noise))


def _grid_steps(controller: ConstantStep, ts: Floats) -> Iterator[Attempt]:
    """What `_clock_steps` finds, without a clock to wind at each step."""
    grid, stops = controller.grid(ts).tolist(), controller.stops(ts)
    hit = stops.times.tolist()
    saves = {t: k for t, k in zip(hit, stops.saves.tolist(), strict=True) if k >= 0}
    jumps = {t: j for t, j in zip(hit, stops.jumps.tolist(), strict=True) if j == j}
    if stops.start_jump == stops.start_jump:
        jumps[grid[0]] = stops.start_jump
    for s, t in itertools.pairwise(grid):
        left = math.nextafter(jumps[s], math.inf) if s in jumps else s
        right = math.nextafter(jumps[t], -math.inf) if t in jumps else t
        yield Attempt(s, t, left, right, s in jumps, saves.get(t, -1))


def _clock_steps(clock: Any) -> Iterator[Attempt]:
    while clock.active[0]:
        left, right, jump = clock.left[0], clock.right[0], clock.after_jump[0]
        s, t = clock.s[0], clock.t[0]
        clock.judge()
        save = clock.saves[1]
        yield Attempt(
            float(s),
            float(t),
            float(left),
            float(right),
            bool(jump),
            int(save[0]) if save.size else -1,
        )


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
                    failed_evaluations[fresh], failed_steps[fresh] = field.evaluations, taken
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
        evaluations=np.where(alive, field.evaluations, failed_evaluations),
        failed=~alive,
        failed_time=failed_time,
        not_finite=~alive,
        state=solver.state(carry or ()),
    )


def undo_shared(
    field: Field, y1: Input, z1: Input, ts: Floats, solver: Any, steps: list[Attempt], tree: Any
) -> Outcome:
    """The steps of `run_shared` by `ReversibleHeun`, undone from the last one."""
    n, y = y1.shape[0], y1
    saver = _Saver(y1, ts.size)
    saver.put(ts.size - 1, y)
    chunk = _chunk(field, tree, 1)
    last = steps[-1].right
    carry: Carry = (z1, field.drift(last, z1), field.diffusion(last, z1))
    failed_time = np.full(n, np.nan)
    for end in range(len(steps), 0, -chunk):
        first = max(0, end - chunk)
        along = list(enumerate(_along(field, tree, steps[first:end], 1), first))
        for index, (now, whole, parts) in reversed(along):
            y, carry = solver.undo(field, whole, parts[0][1], y, carry)
            save = steps[index - 1].save if index else 0
            if save >= 0:
                saver.put(save, y)
            good = _finite(y)
            if good is not None:
                failed_time[np.isnan(failed_time) & ~good] = now.s
            if now.jump and index:
                carry = solver.refresh(field, steps[index - 1].right, y, carry)
    failed = ~np.isnan(failed_time)
    return Outcome(
        ys=saver.result(),
        accepted=np.full(n, len(steps), np.int64),
        rejected=np.zeros(n, np.int64),
        evaluations=np.full(n, field.evaluations, np.int64),
        failed=failed,
        failed_time=failed_time,
        not_finite=failed,
        state=solver.state(carry),
    )


# ---- times of their own ----------------------------------------------------------------------------------------------


def _single(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Evaluation times at jumps that float32 keeps on their side, also of the jump as float32 has it."""
    low = np.nextafter(left.astype(np.float32), np.float32(np.inf))
    high = np.nextafter(right.astype(np.float32), np.float32(-np.inf))
    return low.astype(np.float64), high.astype(np.float64)


def _own_parts(
    field: Field, clock: Any, tree: Any, rows: Ints | None, pieces: int
) -> tuple[Span, list[tuple[Span, Noise]]]:
    like = field.like
    s, t, left, right = clock.s, clock.t, clock.left, clock.right
    if like.dtype == "float32" and (left is not s or right is not t):
        low, high = _single(left, right)
        left, right = (
            np.where(clock.after_jump, low, left),
            np.where(clock.before_jump, high, right),
        )

    def mine(x: Any) -> Any:
        return x if rows is None else x[rows]

    def noise(a: Floats, b: Floats) -> Noise:
        values = tree.increment(a, b)
        if rows is not None:
            values = _Stacked(
                *[
                    None if x is None else _take_array(x, rows)
                    for x in (values.W, values.H, values.K)
                ]
            )
        return Noise(like, *_noise_data(field, values))

    whole = Span(like, mine(left), mine(right), mine(t - s))
    if pieces == 1:
        return whole, [(whole, noise(s, t))]
    middle = 0.5 * (s + t)
    return whole, [
        (Span(like, mine(left), mine(middle), mine(middle - s)), noise(s, middle)),
        (Span(like, mine(middle), mine(right), mine(t - middle)), noise(middle, t)),
    ]


def _take_array(x: Any, rows: Ints) -> Any:
    framework = _array.framework_of(x)
    if framework.name == "numpy":
        return x[rows]
    return x[framework.asarray(rows, framework.device(x, "tree"))]


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
    n = y0.shape[0]
    saver = _Saver(y0, ts.size)
    evaluations, not_finite = np.zeros(n, np.int64), np.zeros(n, bool)
    by_state = getattr(controller, "uses_states", False)
    like = replace(y0, framework=_array.FRAMEWORKS["numpy"]) if y0.device == "cpu" else y0
    rows: Ints | None = None  # the paths of the batch, once those that are done have left it
    y, carry = y0, None
    with _Bar(progress, float(ts[0]), float(ts[-1])) as bar:
        while clock.active.any():
            active = clock.active if rows is None else clock.active[rows]
            if compact and 2 * np.count_nonzero(active) < active.size:
                keep = np.flatnonzero(active)
                rows = keep if rows is None else rows[keep]
                y = _take(y, keep)
                carry = None if carry is None else tuple(_take(x, keep) for x in carry)
                field.like, like, active = y, replace(like, shape=y.shape), active[keep]
            attempted = clock.active.copy()
            whole, parts = _own_parts(field, clock, tree, rows, solver.pieces)
            before = field.evaluations
            if carry is None:
                carry = solver.start(field, whole.at(0.0), y)
            elif carry and (jumped := clock.after_jump).any():
                here = jumped if rows is None else jumped[rows]
                fresh = solver.refresh(field, whole.at(0.0), y, carry)
                carry = _select_all(here, fresh, carry)
            y1, error, carry1 = solver.attempt(field, whole, parts, y, carry)
            evaluations[attempted] += field.evaluations - before

            good = _finite(y1)
            if by_state:
                accepted = clock.judge_states(*_full(n, rows, y, y1))
            else:
                assert error is not None
                scaled = _array.to_numpy(
                    _native.error_norm(
                        like, error.data, y.data, y1.data, controller.rtol, controller.atol
                    )
                )
                if good is not None:
                    scaled = np.where(good, scaled, np.nan)
                if rows is not None:
                    every = np.zeros(n)
                    every[rows] = scaled
                    scaled = every
                accepted = clock.judge(scaled)
            taken = accepted if rows is None else accepted[rows]
            paths, indices = clock.saves
            if good is not None:
                bad = taken & ~good
                if bad.any():  # at the shortest step: nothing is left to try
                    lost = np.zeros(n, bool)
                    lost[np.flatnonzero(bad) if rows is None else rows[bad]] = True
                    clock.fail(lost)
                    not_finite |= lost
                    taken = taken & good
                    stays = ~lost[paths]
                    paths, indices = paths[stays], indices[stays]
            if taken.all():
                y, carry = y1, carry1
            elif taken.any():
                y, carry = _select(taken, y1, y), _select_all(taken, carry1, carry)
            if paths.size:
                within = paths if rows is None else np.searchsorted(rows, paths)
                saver.put_rows(indices, paths, y, within)
            bar.move(clock.s)
    return Outcome(
        ys=saver.result(),
        accepted=clock.accepted,
        rejected=clock.rejected,
        evaluations=evaluations,
        failed=clock.failed,
        failed_time=clock.failed_time,
        not_finite=not_finite,
        state=None,
    )


def _full(n: int, rows: Ints | None, *states: Input) -> list[Any]:
    """States of the batch as host arrays of all paths; those that are done have zeros."""
    out = []
    for state in states:
        host = _array.to_numpy(state.array)
        if rows is not None:
            every = np.zeros((n, *host.shape[1:]), host.dtype)
            every[rows] = host
            host = every
        out.append(host)
    return out
