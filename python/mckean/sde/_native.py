"""Calls of the native code of stochastic differential equations; nothing else in the package makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean._array import Input, Output
from mckean._dispatch import executor

__all__ = ["DIAGONAL", "MATRIX", "SCALAR", "error_norm", "select", "update"]

DIAGONAL, SCALAR, MATRIX = range(3)  # mk::NoiseLayout


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
    """Return the root mean square of ``error / (atol + rtol max(|y0|, |y1|))`` over every row, float64 (n,) in `like`'s
    framework and device."""
    out = like.framework.empty(like.shape[:1], "float64", like.device)
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
