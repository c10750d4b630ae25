"""Calls of the native code of low-rank models; nothing else in the package makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mckean._array import Framework
from mckean._dispatch import executor

__all__ = [
    "IDENTITY",
    "MATVEC",
    "PRECONDITION",
    "SOLVE",
    "SQRT_MATVEC",
    "SQRT_SOLVE",
    "apply",
    "gram",
    "gram_factor",
    "lanczos_step",
    "lanczos_stepper",
    "levenberg_marquardt_rows",
    "multiply",
    "orient",
    "quadratic",
    "woodbury",
]

# The functions f of U diag(s) U^T + t I that native code applies; mk::Spectral.
IDENTITY, MATVEC, SOLVE, SQRT_SOLVE, SQRT_MATVEC, PRECONDITION = range(6)
Term = tuple[int, float, Any]  # function, scale, array (None: counter normals)


def apply(
    U: Any,
    s: Any,
    t: np.ndarray[Any, Any],
    terms: Sequence[Term],
    out: Any,
    place: tuple[Framework, str],
    *,
    least: np.ndarray[Any, Any] | None = None,
    seed: int = 0,
    stream: int = 0,
    counter: int = 0,
) -> None:
    """out = sum of scale f(U diag(s) U^T + t I) array over the terms, U read twice for all of them.

    U (d, k) or (batch, d, k); t float64 (1,) or (batch,); arrays and out (batch, rows, d).
    """
    framework, device = place
    functions, scales, arrays = zip(*terms, strict=True)
    executor(device).lowrank_apply(
        U,
        s,
        t,
        least,
        list(functions),
        [float(c) for c in scales],
        list(arrays),
        out,
        seed,
        stream,
        counter,
        framework.queue(device),
    )


def quadratic(
    U: Any,
    s: Any,
    t: np.ndarray[Any, Any],
    function: int,
    b: Any,
    out: Any,
    place: tuple[Framework, str],
) -> None:
    """Write b^T f(U diag(s) U^T + t I) b of every row of b (batch, rows, d) to out, float64."""
    framework, device = place
    executor(device).lowrank_quadratic(U, s, t, function, b, out, framework.queue(device))


def gram(
    a: Any, b: Any, place: tuple[Framework, str], *, a_rows: bool = False, b_rows: bool = False
) -> np.ndarray[Any, Any]:
    """a^T b in float64 on the host, for tall matrices (d, k), or their transposes (k, d)."""
    framework, device = place
    out = np.empty((a.shape[0 if a_rows else 1], b.shape[0 if b_rows else 1]))
    executor(device).tall_gram(a, a_rows, b, b_rows, out, framework.queue(device))
    return out


def multiply(
    a: Any,
    m: np.ndarray[Any, Any],
    out: Any,
    place: tuple[Framework, str],
    *,
    a_rows: bool = False,
    out_rows: bool = False,
    add: bool = False,
) -> None:
    """out (+)= a m for a tall matrix a and a small host matrix m (k, columns).

    With both as rows, out may be (the first rows of) a.
    """
    framework, device = place
    middle = np.ascontiguousarray(m, np.float64)
    executor(device).tall_multiply(a, a_rows, middle, add, out, out_rows, framework.queue(device))


def orient(U: Any, place: tuple[Framework, str]) -> None:
    """Turn columns of U (d, k) round, in place, where the entry of largest size is negative."""
    framework, device = place
    executor(device).orient_columns(U, framework.queue(device))


def lanczos_step(
    basis: Any,
    count: int,
    w: Any,
    place: tuple[Framework, str],
    *,
    recurrence: bool = True,
    beta: float = 0.0,
    passes: int = 1,
    least: float = 0.0,
) -> tuple[float, np.ndarray[Any, Any], int]:
    """Make w orthogonal to the first `count` rows of the basis, and w / |w| the next row.

    Returns |w|, what was subtracted of every row (count,), and the passes of Gram-Schmidt done; a
    norm of at most `least` leaves the basis as it is. w is overwritten.
    """
    framework, device = place
    coefficients = np.empty(count)
    norm, done = executor(device).lanczos_step(
        basis,
        count,
        w,
        recurrence,
        beta,
        passes,
        least,
        coefficients,
        framework.queue(device),
    )
    return norm, coefficients, done


def lanczos_stepper(
    basis: Any, w: Any, place: tuple[Framework, str]
) -> Callable[[int, np.ndarray[Any, Any], bool, float, int], tuple[float, int]]:
    """`lanczos_step` for one basis and one w, with all that stays the same bound.

    step(count, coefficients, recurrence, beta, passes) -> |w|, passes done; `coefficients` (count
    or more,) is written.
    """
    framework, device = place
    native, queue = executor(device).lanczos_step, framework.queue(device)

    def step(
        count: int, coefficients: np.ndarray[Any, Any], recurrence: bool, beta: float, passes: int
    ) -> tuple[float, int]:
        done: tuple[float, int] = native(
            basis, count, w, recurrence, beta, passes, 0.0, coefficients, queue
        )
        return done

    return step


def woodbury(
    W: Any,
    diagonal: Any,
    t: np.ndarray[Any, Any],
    function: int,
    b: Any,
    out: Any,
    logdet: Any,
    place: tuple[Framework, str],
) -> int:
    """f(W W^T + t I) b, or of D + W W^T, for SOLVE or SQRT_SOLVE; returns how many items failed.

    W (batch, d, k), b and out (batch, d) or None, logdet float64 (batch,) or None.
    """
    framework, device = place
    return int(
        executor(device).woodbury(W, diagonal, t, function, b, out, logdet, framework.queue(device))
    )


def gram_factor(W: Any, U: Any, s: Any, place: tuple[Framework, str]) -> None:
    """W W^T = U diag(s) U^T for every item of a batch, (batch, d, k) and (batch, k)."""
    framework, device = place
    executor(device).gram_factor(W, U, s, framework.queue(device))


def levenberg_marquardt_rows(
    e: Any,
    previous: Any,
    rule: int,
    value: float,
    kappa: float,
    out: Any,
    place: tuple[Framework, str],
) -> None:
    """Correct every row of e by the rank-one model of e and the previous e; see mk::DampingRule."""
    framework, device = place
    executor(device).levenberg_marquardt_rows(
        e, previous, rule, value, kappa, out, framework.queue(device)
    )
