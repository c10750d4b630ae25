"""SciPy's minimisers behind the same interface, as baselines."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean._array import to_numpy
from mckean._errors import as_seed, nonnegative, one_of
from mckean.optimizers._minimize import MinimizeResult, finish, limit
from mckean.optimizers._objective import Calls, Counts, Vector, starting_point

__all__ = ["METHODS", "SciPyMinimize", "SciPyState"]

METHODS = ("trust-ncg", "trust-exact", "Newton-CG", "L-BFGS-B", "BFGS")
# Their own tolerances are switched off: all stop by the Euclidean norm of the gradient.
_OPTIONS: dict[str, dict[str, Any]] = {
    "trust-ncg": {"gtol": 0.0},
    "trust-exact": {"gtol": 0.0},
    "Newton-CG": {"xtol": 0.0},
    "L-BFGS-B": {"ftol": 0.0, "gtol": 0.0, "maxfun": 10**9},
    "BFGS": {"gtol": 0.0, "norm": 2},
}


@dataclass(slots=True)
class SciPyState:
    """State of `SciPyMinimize`: the point, what is known there, the counts and how it ended."""

    x: Any
    value: float
    gradient_norm: float
    status: str
    step: int
    n_values: int
    n_gradients: int
    n_hessians: int
    n_products: int


class SciPyMinimize:
    """A minimiser of SciPy, with the result and the counts of this package's own.

    Parameters
    ----------
    objective : object
        With ``value(x)`` and ``gradient(x)``, x (d,); see `Objective`. The trust-region methods and
        Newton-CG need products with the Hessian, "trust-exact" the Hessian itself.
    method : {"trust-ncg", "trust-exact", "Newton-CG", "L-BFGS-B", "BFGS"}
        The method of `scipy.optimize.minimize`.
    grad_tol : float
        Converged where the Euclidean norm of the gradient is at most this; the method's own
        tolerances are switched off.
    max_iter : int
        Iterations at most.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.
    ImportError
        If SciPy is not installed.

    See Also
    --------
    GNS, minimize

    Notes
    -----
    SciPy sees float64 vectors of the host; the objective sees arrays like ``x0``. In the protocol of
    `mckean.run` one step is the whole minimisation.

    Examples
    --------
    >>> import mckean as mk
    >>> f = mk.optimizers.Rosenbrock()
    >>> mk.optimizers.SciPyMinimize(f, method="trust-ncg").minimize(f.start).x.round(4)
    array([1., 1.])
    """

    def __init__(
        self,
        objective: Any,
        method: str = "trust-ncg",
        grad_tol: float = 1e-6,
        max_iter: int = 1000,
    ) -> None:
        self.objective = objective
        self.method = one_of(method, "method", METHODS)
        self.grad_tol, self.max_iter = nonnegative(grad_tol, "grad_tol"), limit(max_iter)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "objective": self.objective,
            "method": self.method,
            "grad_tol": self.grad_tol,
            "max_iter": self.max_iter,
        }

    def init(self, x0: Any, seed: Any = 0) -> SciPyState:
        """Return the state at `x0`, shape (d,) or (1, d); nothing is random here."""
        as_seed(seed)
        like, shape = starting_point(x0)
        calls = Calls(self.objective, like, Counts())
        x = np.array(to_numpy(like.array), np.float64).reshape(-1)
        value, g = calls.start(x)
        norm = float(np.linalg.norm(g))
        status = "converged" if norm <= self.grad_tol else "running"
        return SciPyState(calls.point(x).reshape(shape), value, norm, status, 0, 1, 1, 0, 0)

    def step(self, state: SciPyState) -> SciPyState:
        """Return the state at the end of the whole minimisation."""
        return self._solve(state, [], None) if state.status == "running" else state

    def minimize(
        self,
        x0: Any,
        *,
        seed: Any = 0,
        progress: bool = False,
        callback: Callable[[int, Any], Any] | None = None,
    ) -> MinimizeResult:
        """Run from `x0`, shape (d,) or (1, d); see `minimize`. There is no progress bar."""
        start = time.perf_counter()
        state = self.init(x0, seed)
        rows = [_row(state, time.perf_counter() - start)]
        if state.status == "running":
            state = self._solve(state, rows, callback, start)
        return finish(state.x, state, rows, state.status, state)

    def _solve(
        self,
        state: SciPyState,
        rows: list[list[float]],
        callback: Callable[[int, Any], Any] | None,
        start: float = 0.0,
    ) -> SciPyState:
        try:
            optimize = importlib.import_module("scipy.optimize")
        except ImportError as error:
            raise ImportError("SciPyMinimize needs SciPy: pip install scipy") from error
        like, shape = starting_point(state.x)
        x0 = np.array(to_numpy(like.array), np.float64).reshape(-1)
        counts = Counts(state.n_values, state.n_gradients, state.n_hessians, state.n_products)
        calls = Calls(self.objective, like, counts)
        known: dict[bytes, tuple[float, Vector]] = {}  # the points of the last few trials
        now, steps, stopped = state, 0, False

        def both(x: Vector) -> tuple[float, Vector]:
            key = x.tobytes()
            if key not in known:
                if len(known) > 64:
                    del known[next(iter(known))]
                known[key] = calls.value_and_gradient(np.array(x))
            return known[key]

        def at(x: Vector) -> SciPyState:
            value, g = both(x)
            return replace(
                state,
                x=calls.point(x).reshape(shape),
                value=value,
                gradient_norm=float(np.linalg.norm(g)),
                step=steps,
                n_values=counts.values,
                n_gradients=counts.gradients,
                n_hessians=counts.hessians,
                n_products=counts.products,
            )

        def after(intermediate_result: Any) -> None:
            nonlocal now, steps, stopped
            steps += 1
            now = at(np.asarray(intermediate_result.x))
            rows.append(_row(now, time.perf_counter() - start))
            stopped = callback is not None and bool(callback(steps, now))
            if stopped or now.gradient_norm <= self.grad_tol:
                raise StopIteration

        more: dict[str, Any] = {}
        if self.method == "trust-exact":
            more["hess"] = calls.hessian
        elif self.method in ("trust-ncg", "Newton-CG"):
            made: list[Any] = [b"", None]

            def product(x: Vector, v: Vector) -> Vector:
                if made[0] != x.tobytes():
                    made[:] = [x.tobytes(), calls.product(np.array(x))]
                return np.asarray(made[1](np.asarray(v, np.float64)))

            more["hessp"] = product
        done = optimize.minimize(
            lambda x: both(x)[0],
            x0,
            jac=lambda x: both(x)[1],
            method=self.method,
            callback=after,
            options={**_OPTIONS[self.method], "maxiter": self.max_iter},
            **more,
        )
        if math.isfinite(done.fun) and np.isfinite(done.x).all():
            now = at(np.asarray(done.x))
        if now.gradient_norm <= self.grad_tol:
            status = "converged"
        elif stopped:
            status = "stopped"
        else:
            status = "iteration limit" if steps >= self.max_iter else str(done.message)
        return replace(now, status=status)


def _row(state: SciPyState, seconds: float) -> list[float]:
    return [
        state.value,
        state.gradient_norm,
        state.n_values,
        state.n_gradients,
        state.n_hessians,
        state.n_products,
        seconds,
    ]
