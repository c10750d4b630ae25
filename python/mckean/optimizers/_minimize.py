"""The result of a minimisation, and the loop that drives a method to it."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._errors import ConvergenceWarning, as_count

__all__ = ["MinimizeResult", "minimize"]

_HISTORY = ("value", "gradient_norm", "n_values", "n_gradients", "n_hessians", "n_products")


@dataclasses.dataclass(slots=True)
class MinimizeResult:
    """What `minimize` returns.

    Attributes
    ----------
    x : array, shape of ``x0``
        The last point, in the framework, dtype and device of ``x0``.
    value : float
        Value there.
    gradient_norm : float
        Norm of the gradient there; in a metric B, ``(g^T B^-1 g)^(1/2)``.
    converged : bool
        Whether the stopping rule of the method was met.
    n_iter : int
        Iterations.
    n_values, n_gradients, n_hessians, n_products : int
        Calls of the objective: values, gradients, dense Hessians (or models of them) and
        Hessian-vector products. Gradients spent on products by differences count as gradients.
    status : str
        "converged", "line search failed", "iteration limit", "stopped", or a peer's own message.
    history : dict of str to numpy.ndarray, shape (n_iter + 1,)
        After every iteration, the start included: "value", "gradient_norm", the counts, "seconds".
    state : object
        The last state of a method with ``init`` and ``step``, else None.
    """

    x: Any
    value: float
    gradient_norm: float
    converged: bool
    n_iter: int
    n_values: int
    n_gradients: int
    n_hessians: int
    n_products: int
    status: str
    history: dict[str, np.ndarray[Any, Any]]
    state: Any = None

    def __repr__(self) -> str:
        return (
            f"MinimizeResult(value={self.value:.6g}, gradient_norm={self.gradient_norm:.3g}, "
            f"converged={self.converged}, n_iter={self.n_iter}, n_gradients={self.n_gradients}, "
            f"n_hessians={self.n_hessians}, n_products={self.n_products}, status={self.status!r})"
        )


def finish(x: Any, row: Any, rows: list[list[float]], status: str, state: Any) -> MinimizeResult:
    """A result, with the warning that an unfinished one needs."""
    table = np.array(rows)
    history = {name: table[:, i] for i, name in enumerate((*_HISTORY, "seconds"))}
    for name in _HISTORY[2:]:
        history[name] = history[name].astype(np.int64)
    converged = status == "converged"
    if not converged:
        warnings.warn(
            f"minimize: not converged after {len(rows) - 1} iterations ({status}), "
            f"gradient norm {row.gradient_norm:.3g}",
            ConvergenceWarning,
            stacklevel=4,
        )
    return MinimizeResult(
        x=x,
        value=float(row.value),
        gradient_norm=float(row.gradient_norm),
        converged=converged,
        n_iter=len(rows) - 1,
        n_values=int(row.n_values),
        n_gradients=int(row.n_gradients),
        n_hessians=int(row.n_hessians),
        n_products=int(row.n_products),
        status=status,
        history=history,
        state=state,
    )


def drive(
    method: Any,
    x0: Any,
    *,
    seed: Any,
    max_iter: int,
    progress: bool,
    callback: Callable[[int, Any], Any] | None,
) -> MinimizeResult:
    """Step a method until its state says that it is no longer running."""
    from tqdm.auto import tqdm

    if callback is not None and not callable(callback):
        raise TypeError(f"callback: expected a function, got {type(callback).__name__}")
    start = time.perf_counter()

    def measure(state: Any) -> list[float]:
        return [*(getattr(state, name) for name in _HISTORY), time.perf_counter() - start]

    state = method.init(x0, seed)
    rows, stopped = [measure(state)], False
    with tqdm(total=max_iter, disable=not progress, unit="step") as bar:
        while state.status == "running" and len(rows) <= max_iter and not stopped:
            state = method.step(state)
            rows.append(measure(state))
            bar.update()
            if callback is not None:
                stopped = bool(callback(len(rows) - 1, state))
    status = state.status
    if status == "running":
        status = "stopped" if stopped else "iteration limit"
    return finish(state.x, state, rows, status, state)


def minimize(
    objective: Any,
    x0: Any,
    *,
    method: str = "gns",
    seed: Any = 0,
    progress: bool = False,
    callback: Callable[[int, Any], Any] | None = None,
    **options: Any,
) -> MinimizeResult:
    """Minimise a function from one point.

    Parameters
    ----------
    objective : object
        With ``value(x)`` and ``gradient(x)``; see `Objective`.
    x0 : array, shape (d,) or (1, d), float32 or float64
        Where to start; not modified.
    method : str
        "gns" (`GNS`), "normalized-gradient" (`NormalizedGradient`), or a method of SciPy:
        "trust-ncg", "trust-exact", "Newton-CG", "L-BFGS-B", "BFGS" (`SciPyMinimize`).
    seed : int or numpy.random.SeedSequence
        For the random sketches of low-rank models.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        ``callback(step, state)`` after each iteration; returning True ends the run. With SciPy,
        ``state`` is a result object with ``x``, ``value`` and ``gradient_norm``.
    **options
        Of the method: ``model``, ``grad_tol``, ``max_iter`` and so on.

    Returns
    -------
    MinimizeResult
        In the framework of `x0`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or value or gradient are not finite at
        `x0`.

    Warns
    -----
    ConvergenceWarning
        If the method stopped before its stopping rule was met; ``result.converged`` is then False.

    See Also
    --------
    GNS, SciPyMinimize

    Examples
    --------
    >>> import mckean as mk
    >>> f = mk.optimizers.Rosenbrock()
    >>> result = mk.optimizers.minimize(f, f.start, grad_tol=1e-8)
    >>> result.converged, result.x.round(6)
    (True, array([1., 1.]))
    """
    from mckean.optimizers._gns import GNS, NormalizedGradient
    from mckean.optimizers._scipy import METHODS, SciPyMinimize

    own = {"gns": GNS, "normalized-gradient": NormalizedGradient}
    if isinstance(method, str) and method in own:
        made: Any = own[method](objective, **options)
    elif isinstance(method, str) and method in METHODS:
        made = SciPyMinimize(objective, method=method, **options)
    else:
        names = ", ".join(map(repr, (*own, *METHODS)))
        raise ValueError(f"method: expected one of {names}, got {method!r}")
    result: MinimizeResult = made.minimize(x0, seed=seed, progress=progress, callback=callback)
    return result


def limit(max_iter: Any) -> int:
    return as_count(max_iter, "max_iter", least=1)
