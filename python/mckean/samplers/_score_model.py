"""Low-rank models of the negative Hessian of a log density: from the scores of an ensemble, or from products with the
Hessian at one point."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import Input, as_input, check_finite, to_numpy
from mckean._errors import ConvergenceWarning
from mckean.lowrank import LowRankOperator, _native, lanczos, nystrom
from mckean.lowrank._nystrom import IndefiniteError
from mckean.samplers._parts import Target

__all__ = ["Products", "damped", "from_products", "from_scores", "score_ratio"]

Array = np.ndarray[Any, Any]
_FLOOR = 1e-3  # least damping, in units of the largest eigenvalue


class Products:
    """v -> -Hess log p(centre) v by central differences of the gradient: one call with two rows."""

    def __init__(self, target: Target, x: Input, centre: Array) -> None:
        self._target, self._x, self._centre = target, x, centre
        # The best step of central differences in float64; in float32 rounding asks for a longer one.
        step = 6e-6 if x.dtype == "float64" else 3e-4
        self._step = step * max(1.0, float(np.linalg.norm(centre)))
        self.relative_error = 1e-8 if x.dtype == "float64" else 1e-3
        self.calls = 0

    def __call__(self, v: Any) -> Array:
        v = np.asarray(v, np.float64)
        length = float(np.linalg.norm(v))
        if length == 0.0:
            return np.zeros_like(v)
        self.calls += 1
        e = self._step / length
        pair = np.array([self._centre + e * v, self._centre - e * v], self._x.dtype)
        x = self._x.framework.asarray(pair, self._x.device)
        at = as_input(x, "x")
        g = np.asarray(to_numpy(self._target.gradient(x, at).array), np.float64)
        out: Array = (g[1] - g[0]) / (2.0 * e)
        if not np.isfinite(out).all():
            raise FloatingPointError(
                "grad_log_density: not finite beside the mean of the particles, where the Hessian "
                "is wanted"
            )
        return out


def damped(
    U: Array, values: Array, rank: int, damping: float | None, rest: Array, share: float
) -> tuple[Array, Array, float]:
    """(U, s, t) of a model U diag(s) U^T + t I from eigenpairs in decreasing order.

    Without `damping`, t stands for the directions left out, of eigenvalues `rest`: their median over
    those that are not zero, and at least `share` times the largest, whose direction would run away
    from an underestimate.
    """
    top = float(values[0]) if len(values) else 0.0
    if damping is None:
        if not top > 0.0:
            raise ValueError(
                "damping: expected a number for a target whose log density is not concave in any "
                f"direction found, the largest eigenvalue of the negative Hessian is {top:.3g}"
            )
        seen = rest[rest > 1e-10 * top]
        usual, most = (float(np.median(seen)), float(seen.max())) if len(seen) else (0.0, 0.0)
        damping = max(usual, share * most, _FLOOR * top)
    s = np.maximum(values[:rank] - damping, 0.0)
    return np.ascontiguousarray(U[:, :rank]), s, damping


def from_scores(
    scores: Input, rank: int, damping: float | None, share: float
) -> tuple[Array, Array, float]:
    """The model of E[score score^T], which in equilibrium is the mean of the negative Hessian."""
    check_finite(scores, "grad_log_density")
    m, d = scores.shape
    place = (scores.framework, scores.device)
    rows = m <= d  # the smaller of the two Gram matrices has the same nonzero eigenvalues
    G = _native.gram(scores.data, scores.data, place, a_rows=rows, b_rows=rows) / m
    values, Q = np.linalg.eigh(0.5 * (G + G.T))
    values, Q = np.maximum(values[::-1], 0.0), Q[:, ::-1]
    keep = min(rank, int((values > 1e-12 * values[0]).sum()))
    if rows:
        out = scores.framework.empty((d, keep), scores.dtype, scores.device)
        middle = Q[:, :keep] / np.sqrt(m * values[:keep])
        _native.multiply(scores.data, middle, out.data, place, a_rows=True)
        U = np.asarray(to_numpy(out.result()), np.float64)
    else:
        U = Q
    return damped(U, values, keep, damping, values[keep:], share)


def from_products(
    products: Products,
    d: int,
    rank: int,
    damping: float | None,
    share: float,
    seed: int,
    source: str,
) -> tuple[Array, Array, float]:
    """The model of the Hessian at one point, by Lanczos' or Nystrom's method."""
    wanted = min(d, 2 * rank + 10)  # some more than kept, to see what is left out
    with warnings.catch_warnings():
        # Any model leaves the chain exact: this one need not be accurate.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if source == "nystrom":
            try:
                op: LowRankOperator = nystrom(
                    products, d, wanted, seed=seed, like="numpy", fd=products.relative_error
                )
            except IndefiniteError as error:
                raise ValueError(
                    f'source: expected a positive semi-definite Hessian for "nystrom"; use "lanczos" ({error})'
                ) from None
        else:
            most = max(4 * wanted, 20)
            op = lanczos(
                products,
                d,
                wanted,
                seed=seed,
                tol=1e-2,
                max_iter=most,
                check=False,
                like="numpy",
                fd=products.relative_error,
            )
    U, values = (np.asarray(to_numpy(a), np.float64) for a in (op.U, op.s))
    order = np.argsort(-values, kind="stable")
    U, values = U[:, order], values[order]
    return damped(U, values, rank, damping, values[rank:], share)


def score_ratio(scores: Input, u: Array, products: Callable[[Any], Array]) -> float:
    """u^T C u / u^T H u for the scores' second moments C and the Hessian H: 1 in equilibrium."""
    there = scores.framework.asarray(np.array(u[:, None], scores.dtype), scores.device)
    place = (scores.framework, scores.device)
    along = _native.gram(scores.data, as_input(there, "u").data, place, a_rows=True)
    curvature = float(u @ products(u))
    return float((along**2).mean()) / curvature if curvature > 0.0 else math.inf
