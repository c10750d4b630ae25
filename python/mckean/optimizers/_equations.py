"""Nonlinear equations as minimisation of a power of the residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mckean import lowrank
from mckean._array import as_input, as_match, to_numpy
from mckean._errors import as_count, as_real
from mckean.lowrank import LowRankOperator
from mckean.optimizers._losses import Located
from mckean.optimizers._objective import Vector, _function

__all__ = ["Equations", "Rosenbrock"]


class Equations(Located):
    """The power ``|u(x)|^p / p`` of a residual, zero where the equations ``u(x) = 0`` hold.

    With J the Jacobian and ``q = J^T u``: gradient ``|u|^(p-2) q``. The model ``ggn`` is
    ``|u|^(p-2) J^T J + (p-2) |u|^(p-4) q q^T``, for p = 2 the Gauss-Newton matrix; ``fisher`` is its
    second term alone, of rank one, so that a step costs O(d); the Hessian adds the curvatures of the
    equations, ``|u|^(p-2) sum_i u_i u_i''``.

    Parameters
    ----------
    residual : callable
        ``residual(x)``, (d,) to (m,), in the framework of ``x``.
    jacobian : callable
        ``jacobian(x)``, (d,) to (m, d).
    p : float
        Power, at least 2.
    d : int
        Number of unknowns.
    second : callable, optional
        ``second(x, w)``, the sum of the Hessians of the equations with weights w (m,): (d, d). Only
        the exact Hessian needs it; without it, products come from differences of the gradient.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range, or a function returns the wrong shape.

    See Also
    --------
    Rosenbrock

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> circle = mk.optimizers.Equations(
    ...     lambda x: np.array([x @ x - 1, x[0] - x[1]]),
    ...     lambda x: np.array([2 * x, [1.0, -1.0]]),
    ...     d=2,
    ... )
    >>> found = mk.optimizers.minimize(circle, np.array([2.0, 0.5]), model="ggn")
    >>> found.x.round(6)
    array([0.707107, 0.707107])
    """

    def __init__(
        self, residual: Any, jacobian: Any, p: float = 2.0, *, d: int, second: Any = None
    ) -> None:
        self._residual = _function(residual, "residual")
        self._jacobian = _function(jacobian, "jacobian")
        self._second = _function(second, "second", optional=True)
        self.p, self.d = as_real(p, "p"), as_count(d, "d", least=1)
        if self.p < 2:
            raise ValueError(f"p: expected a number of at least 2, got {self.p}")
        self.gradients_per_product = 0 if second is not None else 2
        if second is not None:
            self.hessian = self._exact

    def config(self) -> dict[str, Any]:
        """What makes two objectives the same."""
        return {"residual": self._residual, "jacobian": self._jacobian, "p": self.p, "d": self.d}

    def residual(self, x: Any) -> Any:
        """Return u(x), shape (m,)."""
        return self._residual(x)

    def _at(self, x: Any) -> tuple[Vector, Vector]:
        """u and J on the host."""
        like = as_input(x, "x", shape=(self.d,))
        u = as_match(self._residual(like.array), "residual", like, "x", shape=("m",))
        J = as_match(self._jacobian(like.array), "jacobian", like, "x", shape=(u.shape[0], self.d))
        return (
            np.asarray(to_numpy(u.array), np.float64),
            np.asarray(to_numpy(J.array), np.float64),
        )

    def _power(self, u: Vector, k: float) -> float:
        """|u|^k, and 0 at u = 0, where every use has a factor that vanishes faster."""
        norm = float(np.linalg.norm(u))
        return norm**k if norm > 0 or k >= 0 else 0.0

    def value(self, x: Any) -> float:
        """Return the value at `x`, shape (d,)."""
        like = as_input(x, "x", shape=(self.d,))
        u = to_numpy(self._residual(like.array)).astype(np.float64)
        return self._power(u, self.p) / self.p

    def value_and_gradient(self, x: Any) -> tuple[float, Any]:
        """Return both at `x`."""
        u, J = self._at(x)
        g = self._power(u, self.p - 2) * (u @ J)
        return self._power(u, self.p) / self.p, self._point(x)[1](g)

    def _core(self, u: Vector, J: Vector) -> tuple[float, Vector, float]:
        return self._power(u, self.p - 2), u @ J, (self.p - 2) * self._power(u, self.p - 4)

    def ggn(self, x: Any) -> Any:
        """Return ``|u|^(p-2) J^T J + (p-2) |u|^(p-4) q q^T`` at `x`, shape (d, d)."""
        u, J = self._at(x)
        a, q, b = self._core(u, J)
        return self._point(x)[1](a * (J.T @ J) + b * np.outer(q, q))

    def fisher(self, x: Any) -> LowRankOperator:
        """Return ``(p-2) |u|^(p-4) q q^T`` at `x` as a model of rank one."""
        u, J = self._at(x)
        _, q, b = self._core(u, J)
        norm = float(np.linalg.norm(q))
        U = np.eye(self.d, 1) if norm == 0 else (q / norm)[:, None]
        return LowRankOperator(U, np.array([b * norm**2]), check=False)

    def _exact(self, x: Any) -> Any:
        """Return the Hessian at `x`, shape (d, d)."""
        u, J = self._at(x)
        a, q, b = self._core(u, J)
        like = as_input(x, "x", shape=(self.d,))
        w = like.framework.asarray((a * u).astype(like.dtype), like.device)
        curved = as_match(self._second(x, w), "second", like, "x", shape=(self.d, self.d))
        H = a * (J.T @ J) + b * np.outer(q, q) + np.asarray(to_numpy(curved.array), np.float64)
        return self._point(x)[1](H)

    def product(self, x: Any, model: str = "exact") -> Callable[[Any], Any]:
        """Return the function v to H v at `x`."""
        if model == "exact" and self._second is None:
            return lambda v: lowrank.hvp(self.gradient, x, v)
        if model == "exact":
            H = self._exact(x)
            return lambda v: H @ v
        if model == "fisher":
            return self.fisher(x).matvec
        u, J = self._at(x)
        a, q, b = self._core(u, J)
        back = self._point(x)[1]

        def product(v: Any) -> Any:
            w = np.asarray(to_numpy(v), np.float64)
            rank_one = b * (q[:, None] * (q @ w)).reshape(w.shape)
            return back(a * (J.T @ (J @ w)) + rank_one)

        return product


class Rosenbrock(Equations):
    """Rosenbrock's chain ``u = (10 (x_{i+1} - x_i^2), 1 - x_i)`` as equations, ``|u|^p / p``.

    For p = 2 this is half of the usual function. The only zero is at (1, ..., 1).

    Parameters
    ----------
    d : int
        Number of unknowns, at least 2.
    p : float
        Power, at least 2.

    Attributes
    ----------
    start : numpy.ndarray, shape (d,)
        The customary (-1.2, 1, -1.2, ...).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> f = mk.optimizers.Rosenbrock()
    >>> round(f.value(np.array([-1.2, 1.0])), 6), f.gradient(np.ones(2)) + 0.0
    (12.1, array([0., 0.]))
    """

    def __init__(self, d: int = 2, p: float = 2.0) -> None:
        d = as_count(d, "d", least=2)
        super().__init__(self._u, self._J, p, d=d, second=self._curvature)
        self.start = np.where(np.arange(d) % 2 == 0, -1.2, 1.0)

    def config(self) -> dict[str, Any]:
        """What makes two objectives the same."""
        return {"d": self.d, "p": self.p}

    def _u(self, x: Any) -> Any:
        w, back = self._point(x)
        return back(np.concatenate([10 * (w[1:] - w[:-1] ** 2), 1 - w[:-1]]))

    def _J(self, x: Any) -> Any:
        w, back = self._point(x)
        i = np.arange(self.d - 1)
        J = np.zeros((2 * self.d - 2, self.d))
        J[i, i + 1], J[i, i], J[self.d - 1 + i, i] = 10, -20 * w[:-1], -1
        return back(J)

    def _curvature(self, x: Any, weights: Any) -> Any:
        _, back = self._point(x)
        c = np.asarray(to_numpy(weights), np.float64)[: self.d - 1]
        return back(np.diag(np.append(-20 * c, 0.0)))
