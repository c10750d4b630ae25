"""The arguments of the solvers, read and checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean._array import (
    Input,
    as_input,
    as_match,
    check_finite,
    check_size,
    nonfinite_rows,
    to_numpy,
)
from mckean._errors import as_count, as_real, nonnegative, one_of, positive
from mckean.interaction._samples import at_least
from mckean.transport._mean_cost import mean_cost
from mckean.transport._problem import Doubles, Problem
from mckean.transport._solve import Settings
from mckean.transport._weights import flag

__all__ = [
    "METHODS",
    "batch_of",
    "check_feasible",
    "checked_eps",
    "cloud",
    "clouds",
    "cost_matrix",
    "free_marginals",
    "one_eps",
    "penalties",
    "per_problem",
    "regularize",
    "settings_of",
    "strengths",
]

METHODS = ("auto", "scaling", "log", "newton")
_MOST = 1 << 31  # rows and columns are counted in 32 bits
_LEAST = {"float32": 1e-30, "float64": 1e-290}  # eps whose reciprocals have room left


def clouds(x: Any, y: Any, p: Any) -> tuple[Input, Input, float]:
    """Points x (n, d) or (batch, n, d) and y, of which a batch may share one cloud (m, d), and the power."""
    power = positive(p, "p")
    at = as_input(x, "x")
    if len(at.shape) not in (2, 3) or at.shape[-1] == 0:
        raise ValueError(f"x: expected shape (n, d) or (batch, n, d), d >= 1, got {at.shape}")
    cloud(at, "x", power)
    if y is at.array:
        return at, at, power
    tail = ("m", at.shape[-1])
    shared = len(at.shape) == 3 and len(getattr(y, "shape", (0, 0, 0))) == 2
    shape = tail if shared or len(at.shape) == 2 else (at.shape[0], *tail)
    other = cloud(as_match(y, "y", at, "x", shape=shape), "y", power)
    if shared:
        other = as_input(at.framework.concatenate([other.array[None]] * at.shape[0]), "y")
    return at, other, power


def cloud(at: Input, name: str, power: float) -> Input:
    """Check the size and the numbers of points."""
    if len(at.shape) == 3 and at.shape[0] == 0:
        raise ValueError(f"{name}: expected at least 1 problem, got shape {at.shape}")
    at_least(at.shape[-2], 1, name)
    if at.shape[-2] >= _MOST:
        raise ValueError(f"{name}: expected fewer than {_MOST} points, got {at.shape[-2]}")
    # Squares of distances and powers of them are formed.
    room = 37.0 if at.dtype == "float32" else 300.0
    limit = 0.5 * 10.0 ** (room / max(power, 2.0)) / math.sqrt(at.shape[-1])
    check_size(at, name, limit, f"whose distances to the power {power:g} fit into {at.dtype}")
    return at


def cost_matrix(cost: Any) -> Input:
    """A cost (n, m) or (batch, n, m), its shape checked."""
    at = as_input(cost, "cost")
    if len(at.shape) not in (2, 3):
        raise ValueError(f"cost: expected shape (n, m) or (batch, n, m), got {at.shape}")
    if 0 in at.shape:
        raise ValueError(f"cost: expected at least 1 row and 1 column, got shape {at.shape}")
    if max(at.shape[-2:]) >= _MOST:
        raise ValueError(f"cost: expected fewer than {_MOST} rows and columns, got {at.shape}")
    return at


def batch_of(cost: Input, **others: Any) -> int | None:
    """How many problems these arguments make: the cost has three axes, or one of the others a leading one more."""
    if len(cost.shape) == 3:
        return cost.shape[0]
    for name, value in others.items():
        shape = np.shape(value) if not hasattr(value, "shape") else tuple(value.shape)
        if len(shape) == (1 if name == "eps" else 2):
            if shape[0] == 0:
                raise ValueError(f"{name}: expected at least 1 problem, got shape {shape}")
            return int(shape[0])
    return None


def check_feasible(cost: Input, a: Doubles, b: Doubles) -> None:
    """Refuse NaN and -inf, and +inf everywhere a row or a column with weight could go."""
    if not nonfinite_rows(cost):
        return
    values = to_numpy(cost.array)
    for what, bad in (("NaN", np.isnan(values)), ("-inf", values == -np.inf)):
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"cost: expected numbers or +inf, got {int(bad.sum())} {what}, first at index {at}"
            )
    open_to = np.isfinite(values)
    for k in range(len(a)):
        allowed = open_to[k] if open_to.ndim == 3 else open_to
        for what, mass, reached in (
            ("row", a[k], allowed[:, b[k] > 0].any(1)),
            ("column", b[k], allowed[a[k] > 0].any(0)),
        ):
            lost = np.flatnonzero((mass > 0) & ~reached)
            if lost.size:
                of = f" of problem {k}" if len(a) > 1 else ""
                raise ValueError(
                    f"cost: expected a finite entry for every {what} with weight, "
                    f"got +inf alone in {what} {lost[0]}{of}"
                )


def per_problem(value: Any, name: str, batch: int | None, *, infinite: bool = False) -> Doubles:
    """A positive number, or one for each problem, as (batch,)."""
    shape = np.shape(value) if not hasattr(value, "shape") else tuple(value.shape)
    if batch is None or len(shape) == 0 or isinstance(value, (str, bytes)):
        return np.full(1 if batch is None else batch, positive(value, name))
    found = as_input(value, name, shape=(batch,))
    if not infinite:
        check_finite(found, name)
    numbers = to_numpy(found.array).astype(np.float64)
    if np.isnan(numbers).any():
        raise ValueError(f"{name}: expected positive numbers, got NaN")
    if numbers.min() <= 0:
        raise ValueError(f"{name}: expected positive numbers, got {numbers.min()}")
    return numbers


def strengths(eps: Any, rel_eps: Any, batch: int | None) -> tuple[Doubles, bool]:
    """eps (batch,), and whether it is relative to the mean cost."""
    if (eps is None) == (rel_eps is None):
        got = "neither" if eps is None else "both"
        raise TypeError(f"eps: expected either eps or rel_eps, got {got}")
    if eps is None:
        return per_problem(rel_eps, "rel_eps", batch), True
    return per_problem(eps, "eps", batch), False


def checked_eps(eps: Doubles, dtype: str) -> Doubles:
    """Refuse eps whose reciprocals leave the range of numbers."""
    least = _LEAST[dtype]
    if eps.min() < least:
        raise ValueError(f"eps: expected at least {least:g} with {dtype}, got {eps.min():.3g}")
    return eps


def one_eps(eps: Any, dtype: str) -> Doubles:
    """The eps (1,) of a single problem."""
    return checked_eps(np.full(1, positive(eps, "eps")), dtype)


def free_marginals(relaxed: tuple[Doubles, Doubles] | None, batch: int | None) -> Any:
    """Of which problems (batch,) the masses may be any: at least one marginal is relaxed."""
    if relaxed is None:
        return np.zeros(1 if batch is None else batch, bool)
    return np.isfinite(relaxed[0]) | np.isfinite(relaxed[1])


def regularize(problem: Problem, eps: Doubles, relative: bool) -> None:
    """Set the eps of a problem that was made with any."""
    if relative:
        mean = mean_cost(problem)  # of the pairs that are not forbidden
        if not mean.min() > 0:
            raise ValueError(
                f"rel_eps: expected a positive mean cost, got {mean.min():.3g}; give eps"
            )
        eps = eps * mean
    problem.eps = checked_eps(eps, problem.at.dtype)


def penalties(unbalanced: Any, batch: int | None) -> tuple[Doubles, Doubles] | None:
    """rho of rows and columns, (batch,) each; None if all are infinite. An array (batch,) is one for each problem."""
    if unbalanced is None:
        return None
    both = unbalanced if isinstance(unbalanced, (tuple, list)) else (unbalanced, unbalanced)
    if len(both) != 2:
        raise ValueError(
            f"unbalanced: expected a number or a pair (rho_a, rho_b), got {len(both)} numbers"
        )
    rho_a, rho_b = (_penalty(rho, batch) for rho in both)
    return None if np.isinf(rho_a).all() and np.isinf(rho_b).all() else (rho_a, rho_b)


def _penalty(rho: Any, batch: int | None) -> Doubles:
    if isinstance(rho, (int, float)) and not isinstance(rho, bool) and rho == math.inf:
        return np.full(1 if batch is None else batch, np.inf)
    return per_problem(rho, "unbalanced", batch, infinite=True)


def settings_of(
    method: Any,
    tol: Any,
    max_iter: Any,
    acceleration: Any,
    eps_scaling: Any,
    unbalanced: tuple[Doubles, Doubles] | None,
) -> Settings:
    """What the solvers are told."""
    method = one_of(method, "method", METHODS)
    if method == "newton" and unbalanced is not None:
        raise ValueError(
            "method: expected 'auto', 'scaling' or 'log' with unbalanced, got 'newton'"
        )
    if isinstance(acceleration, str):
        one_of(acceleration, "acceleration", ("anderson", "relaxation"))
    elif acceleration is not None:
        acceleration = as_real(acceleration, "acceleration")
        if not 0 < acceleration < 2:
            raise ValueError(
                "acceleration: expected 'anderson', 'relaxation', None or a number in (0, 2), "
                f"got {acceleration}"
            )
    return Settings(
        method,
        nonnegative(tol, "tol"),
        as_count(max_iter, "max_iter", least=1, below=1 << 62),
        acceleration,
        flag(eps_scaling, "eps_scaling"),
        unbalanced,
    )
