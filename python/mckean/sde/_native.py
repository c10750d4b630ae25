"""Calls of the native code of stochastic differential equations; nothing else in the package makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import targets
from mckean._array import FRAMEWORKS, Input, Output, to_numpy
from mckean._dispatch import executor
from mckean.brownian import BrownianTree

__all__ = [
    "DIAGONAL",
    "MATRIX",
    "SCALAR",
    "Control",
    "Paths",
    "System",
    "compiled_system",
    "error_norm",
    "integrate",
    "langevin_system",
    "select",
    "system",
    "target_kind",
    "update",
]

DIAGONAL, SCALAR, MATRIX = range(3)  # mk::NoiseLayout
_SYSTEMS = {"ou": 0, "gbm": 1, "cir": 2, "lorenz": 3, "langevin": 4, "kinetic": 5}  # mk::SdeSystem
_CALLBACKS = 6
_TARGETS = {"diagonal": 1, "full": 2, "funnel": 3, "banana": 4, "logistic": 5}  # mk::TargetKind
METHODS = {  # mk::SdeMethod
    "runge_kutta": 0,
    "additive": 1,
    "milstein_ito": 2,
    "milstein_stratonovich": 3,
    "reversible": 4,
    "HOStS": 5,
    "DIE": 6,
    "quicsort": 7,
    "should": 8,
    "ubu": 9,
    "align": 10,
    "baoab": 11,
    "ee": 12,
}


def update(
    like: Input,
    base: Any,
    drifts: Sequence[tuple[float, Any]],
    step: float | Any,
    diffusions: Sequence[tuple[float, float, Any]] = (),
    W: Any = None,
    H: Any = None,
    *,
    layout: int = DIAGONAL,
    out: Output | None = None,
) -> Output:
    """Return ``base + sum_k a_k step F_k + sum_k G_k (p_k W + q_k H)`` in one pass over memory.

    `like` is an array (n, d) of the result's shape, dtype, framework and device; all other arrays are native ones (the
    `.data` of `as_input`): `base` (n, d) or None for zero, `drifts` pairs (a_k, F_k), `step` a float or float64 (n,) on
    the device, `diffusions` triples (p_k, q_k, G_k) with G_k (n, d) for `DIAGONAL` and `SCALAR` noise, (n, d, m) for
    `MATRIX`, and W, H (n, m). At most 8 drifts and 8 diffusions; terms with all coefficients zero are left out here.
    """
    used = [(a, f) for a, f in drifts if a]
    noise = [(p, q, g) for p, q, g in diffusions if p or q]
    if out is None:
        out = like.framework.empty(like.shape, like.dtype, like.device)
    single = isinstance(step, (int, float))
    with_areas = any(q for _, q, _ in noise)
    executor(like.device).sde_update(
        layout,
        base,
        [f for _, f in used],
        [float(a) for a, _ in used],
        None if single else step,
        float(step) if single else 0.0,
        [g for _, _, g in noise],
        [float(p) for p, _, _ in noise],
        [float(q) for _, q, _ in noise],
        W if noise else None,
        H if with_areas else None,
        out.data,
        like.framework.queue(like.device),
    )
    return out


def error_norm(like: Input, error: Any, y0: Any, y1: Any, rtol: float, atol: float) -> Any:
    """Return the root mean square of ``error / (atol + rtol max(|y0|, |y1|))`` over every row, float64 (n,) on `like`'s
    device, in its framework (CuPy for JAX on CUDA, which may have no float64)."""
    framework = like.framework if like.device == "cpu" else carrier_of(like)
    out = framework.empty(like.shape[:1], "float64", like.device)
    executor(like.device).sde_error_norm(
        error, y0, y1, rtol, atol, out.data, like.framework.queue(like.device)
    )
    return out.result()


def select(like: Input, mask: np.ndarray[Any, Any], a: Any, b: Any) -> Output:
    """Return the rows of `a` where the host array `mask` (n,) is True, else of `b`."""
    framework = like.framework
    held = framework.asarray(np.ascontiguousarray(mask).astype(np.uint8), like.device)
    out = framework.empty(like.shape, like.dtype, like.device)
    executor(like.device).sde_select(
        framework.native(held, like.device), a, b, out.data, framework.queue(like.device)
    )
    return out


# ---- whole paths ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class System:
    """An equation as native code knows it: `parameters` (p, d), `matrix` and `vector` are native arrays of the paths'
    dtype and device."""

    kind: int
    layout: int = DIAGONAL
    parameters: Any = None
    target: int = 0
    matrix: Any = None
    vector: Any = None
    numbers: tuple[float, ...] = ()
    callbacks: tuple[int, ...] = ()
    friction: float = 0.0
    u: float = 0.0
    keep: Any = None  # what must stay alive


@dataclass(frozen=True, slots=True)
class Control:
    """Constant steps, or the numbers of a controller; `power` are exponents of 1 / error."""

    kind: int = 0  # 0 constant, 1 by errors, 2 by states
    rtol: float = 0.0
    atol: float = 0.0
    power: tuple[float, float, float] = (0.0, 0.0, 0.0)
    safety: float = 0.9
    factormin: float = 0.2
    factormax: float = 10.0
    dtmin: float = 1.0
    dtmax: float = 1.0
    ctol: float = 0.0
    revisit: bool = False
    raises: bool = False
    doubling: bool = False

    def numbers(self) -> list[float]:
        return [
            float(self.kind),
            self.rtol,
            self.atol,
            *self.power,
            self.safety,
            self.factormin,
            self.factormax,
            self.dtmin,
            self.dtmax,
            self.ctol,
            float(self.revisit),
            float(self.raises),
        ]


@dataclass(slots=True)
class Paths:
    """What native code returns: `ys` (saves, n, d); `counts` (n, 4) accepted, rejected, evaluations, accepted in
    spite of the error (or -1: failed for it); `failed` (n,) NaN or the time of failure; `clocks` (n, 3) of adaptive
    steps: the next step, 1 / error of the last two. The last three are NumPy."""

    ys: Any
    counts: np.ndarray[Any, Any]
    failed: np.ndarray[Any, Any]
    clocks: np.ndarray[Any, Any] | None


def target_kind(target: Any) -> str | None:
    """The name under which native code knows the gradient of a target; None if it does not."""
    kind = type(target)
    if kind is targets.Gaussian:
        return "full" if target._cast[1].ndim == 3 else "diagonal"
    known = {targets.Funnel: "funnel", targets.Banana: "banana"}
    known[targets.LogisticRegression] = "logistic"
    return known.get(kind)


def _held(y: Input, values: np.ndarray[Any, Any]) -> Any:
    framework = y.framework
    made = framework.asarray(np.ascontiguousarray(values, y.dtype), y.device)
    return framework.native(made, y.device)


def langevin_system(
    target: Any, y: Input, *, deviation: float | None = None, friction: float = 0.0, u: float = 0.0
) -> System | None:
    """Overdamped with noise of this standard deviation, or else underdamped; None for targets native code lacks."""
    name = target_kind(target)
    if name is None:
        return None
    d = y.shape[1] if deviation is not None else y.shape[1] // 2
    matrix = vector = None
    numbers: tuple[float, ...] = ()
    if name in ("full", "diagonal"):
        vector, matrix = (_held(y, a[0]) for a in target._cast)
    elif name == "logistic":
        matrix, vector = (_held(y, a) for a in target._cast)
    else:
        numbers = tuple(target._numbers[:-1])
    kind = _SYSTEMS["kinetic" if deviation is None else "langevin"]
    parameters = None if deviation is None else _held(y, np.full((1, d), deviation))
    return System(
        kind,
        parameters=parameters,
        target=_TARGETS[name],
        matrix=matrix,
        vector=vector,
        numbers=numbers,
        friction=friction,
        u=u,
    )


def system(kind: str, rows: Sequence[Any], y: Input) -> System:
    """One of "ou", "gbm", "cir", "lorenz"; `rows` of parameters, each () or (d,)."""
    table = np.stack([np.broadcast_to(np.asarray(r, np.float64), y.shape[1:]) for r in rows])
    return System(_SYSTEMS[kind], parameters=_held(y, table))


def compiled_system(pair: Any, layout: int) -> System:
    """Drift and diffusion by the addresses of `_callables.Compiled`."""
    drift, diffusion = pair
    addresses = (drift.address, drift.user, diffusion.address, diffusion.user)
    return System(_CALLBACKS, layout, callbacks=addresses, keep=pair)


def integrate(
    y: Input,
    system: System,
    method: int,
    tableau: Sequence[np.ndarray[Any, Any]],
    control: Control,
    tree: BrownianTree,
    times: np.ndarray[Any, Any],
    save_at: np.ndarray[Any, Any],
    clocks: np.ndarray[Any, Any] | None = None,
    *,
    report: Callable[[int], None] | None = None,
) -> Paths:
    """Solve from `y` (n, d) at ``times[0]`` on, in native code.

    `times`: of constant steps all ends, else the start and the times to hit. `save_at`: for each time the row of the
    result, or -1. With `report`, paths are solved in blocks, and it is told how many each time; results do not depend
    on that.
    """
    n, d = y.shape
    framework, device = y.framework, y.device
    ys = framework.empty((int(save_at.max()) + 1, n, d), y.dtype, device)
    times = np.ascontiguousarray(times, np.float64)
    save_at = np.ascontiguousarray(save_at, np.int64)
    if device == "cpu":
        counts, failed = np.zeros((n, 4), np.int64), np.full(n, np.nan)
        own = None if clocks is None else np.array(clocks, np.float64)
        block = n if report is None else 16 * -(-n // 512)  # whole registers of paths
        for first in range(0, n, block):
            part = slice(first, min(first + block, n))
            whole = block >= n
            data = y.data if whole else y.data[part]
            out = ys.data if whole else np.empty((len(ys.data), part.stop - first, d), y.dtype)
            executor(device).sde_integrate(
                (tree if whole else tree[part])._native,
                system.kind,
                system.layout,
                system.parameters,
                system.target,
                system.matrix,
                system.vector,
                list(system.numbers),
                list(system.callbacks),
                method,
                list(tableau),
                control.doubling,
                system.friction,
                system.u,
                control.numbers(),
                times,
                save_at,
                data,
                out,
                None if own is None else own[part],
                counts[part],
                failed[part],
            )
            if not whole:
                ys.data[:, part] = out
            if report is not None:
                report(part.stop - first)
        return Paths(ys.result(), counts, failed, own)
    paths = _integrate_on_device(
        y, system, method, tableau, control, tree, times, save_at, clocks, ys
    )
    if report is not None:
        report(n)
    return paths


def _integrate_on_device(
    y: Input,
    system: System,
    method: int,
    tableau: Sequence[np.ndarray[Any, Any]],
    control: Control,
    tree: BrownianTree,
    times: np.ndarray[Any, Any],
    save_at: np.ndarray[Any, Any],
    clocks: np.ndarray[Any, Any] | None,
    ys: Output,
) -> Paths:
    framework, device = carrier_of(y), y.device
    n = y.shape[0]

    def moved(a: np.ndarray[Any, Any]) -> Any:
        return framework.asarray(a, device)

    counts, failed = moved(np.zeros((n, 4), np.int64)), moved(np.full(n, np.nan))
    own = None if clocks is None else moved(np.array(clocks, np.float64))
    native = [None if a is None else framework.native(a, device) for a in (own, counts, failed)]
    executor(device).sde_integrate(
        tree._native,
        system.kind,
        system.layout,
        system.parameters,
        system.target,
        system.matrix,
        system.vector,
        list(system.numbers),
        list(system.callbacks),
        method,
        list(tableau),
        control.doubling,
        system.friction,
        system.u,
        control.numbers(),
        times,
        save_at,
        y.data,
        ys.data,
        *native,
        y.framework.queue(device),
    )
    return Paths(
        ys.result(),
        to_numpy(counts),
        to_numpy(failed),
        None if own is None else to_numpy(own),
    )


def carrier_of(y: Input) -> Any:
    """The framework that holds float64 and int64 arrays beside `y` on its device: JAX may have neither."""
    return FRAMEWORKS["cupy"] if y.framework.name == "jax" else y.framework
