"""What a solve returns."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_match, check_finite
from mckean._errors import as_count, as_seed, one_of
from mckean.transport._arguments import cloud
from mckean.transport._draws import draw_columns, inverse
from mckean.transport._problem import Doubles, Problem
from mckean.transport._solve import Settings, Solution

__all__ = ["SinkhornResult"]

_BLOCK = 1 << 20  # entries of a plan that are worked on together

_PAIRS = 0x70616972  # stream of mk.random


class SinkhornResult:
    """An entropic transport plan in factored form: potentials, values, and products with the plan.

    The plan is ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)`` and is never stored. Results of a batch have a leading
    axis (batch,), and arrays instead of floats.

    Attributes
    ----------
    f, g : array, shape (n,) and (m,)
        The potentials, in units of the cost, such that ``<a, f> = <b, g>`` (for marginals that are met exactly: a
        constant may go from one to the other). At points without weight they are those of new points,
        see `potential_at`.
    cost : float
        ``<P, C>``, without the entropy.
    dual_value, primal_value : float
        Of ``<P, C> + eps KL(P | a b^T)``, plus the penalties of relaxed marginals. The dual value is a lower bound of
        the optimum, for any potentials, up to rounding.
    gap : float
        ``primal_value - dual_value``: 0 at the optimum. Where the marginals are not met it may be negative.
    marginal_error : float
        L1 distance of both marginals of the plan from the ones asked for, of the returned potentials; for relaxed
        marginals from those that the potentials imply, relative to the mass.
    converged : bool
    n_iter, n_newton : int
        Iterations, and Newton steps.
    method : str
        What was used: "scaling", "log" or "newton".
    eps : float

    Notes
    -----
    Values and errors are computed in float64, for float32 arrays too. Those of a batch have the type of the points or
    the cost; `marginal_error`, `converged`, the counts and `eps` are NumPy arrays.

    See Also
    --------
    mckean.sinkhorn, mckean.sinkhorn_points

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> res = mk.sinkhorn([0.5, 0.5], [0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], eps=0.5)
    >>> res.plan().round(3)
    array([[0.44, 0.06],
           [0.06, 0.44]])
    >>> res.converged, round(res.cost, 3)
    (True, 0.119)
    """

    cost: Any
    dual_value: Any
    primal_value: Any
    gap: Any
    marginal_error: Any
    converged: Any
    n_iter: Any
    n_newton: Any
    method: str
    eps: Any

    def __init__(
        self,
        problem: Problem,
        solution: Solution,
        settings: Settings,
        x: Input | None = None,
        y: Input | None = None,
        power: float = 2.0,
    ) -> None:
        self._problem, self._x, self._y, self._power = problem, x, y, power
        self._F, self._G = solution.F, solution.G
        problem.forget()
        infinite = np.full(problem.batch, np.inf)
        self._relaxed = settings.unbalanced is not None
        self._rho = (infinite, infinite) if settings.unbalanced is None else settings.unbalanced
        self._shift = np.zeros(problem.batch)
        self._f, self._g = self._extended(columns=False), self._extended(columns=True)
        a, b, eps = problem.a, problem.b, problem.eps
        met = np.isinf(self._rho[0]) & np.isinf(self._rho[1])  # of a batch, perhaps some
        self._shift = np.where(met, 0.5 * (_inner(b, self._g) - _inner(a, self._f)), 0.0)
        self._f += self._shift[:, None]
        self._g -= self._shift[:, None]
        rows, cols, cost = problem.marginals(self._F, self._G, cost=True)
        assert cost is not None
        self._rows = rows
        entropy = eps * (rows.sum(1) - a.sum(1) * b.sum(1))
        dual, primal = -entropy, _inner(rows, self._f) + _inner(cols, self._g) - entropy
        if self._relaxed:
            dual, primal, error = self._relaxed_values(dual, primal, rows, cols)
        else:
            dual += _inner(a, self._f) + _inner(b, self._g)
            error = (abs(rows - a).sum(1) + abs(cols - b).sum(1)) / (0.5 * (a.sum(1) + b.sum(1)))
        self._dual, self._error = dual, error
        self.cost = self._values(cost)
        self.dual_value, self.primal_value = self._values(dual), self._values(primal)
        self.gap = self._values(primal - dual)
        self.marginal_error = self._scalar(error)
        # A solver may stop on the state before its last step; what is returned is what counts.
        room = 2.0 * settings.tol + (1e-5 if problem.at.dtype == "float32" else 1e-12)
        sound = np.where(met, error <= room, np.isfinite(error))
        self.converged = self._scalar(np.asarray(solution.converged) & sound)
        self.n_iter, self.n_newton = self._scalar(solution.n_iter), self._scalar(solution.n_newton)
        self.method = solution.method
        self.eps = self._scalar(eps)

    def __repr__(self) -> str:
        p = self._problem
        size = f"batch={p.batch}, n={p.n}, m={p.m}" if p.batched else f"n={p.n}, m={p.m}"
        worst = np.max(self.marginal_error)
        return (
            f"SinkhornResult({size}, eps={_short(self.eps)}, method={self.method!r}, "
            f"cost={_short(self.cost)}, marginal_error={worst:.2g}, "
            f"converged={bool(np.all(self.converged))}, n_iter={np.max(self.n_iter)})"
        )

    @property
    def f(self) -> Any:
        return self._vector(self._f)

    @property
    def g(self) -> Any:
        return self._vector(self._g)

    # ---- the plan ----

    def plan(self) -> Any:
        """Return the plan as an array.

        Returns
        -------
        array, shape (n, m) or (batch, n, m)

        Raises
        ------
        MemoryError
            If it does not fit into this machine. `apply` and `barycentric_map` need no such array.
        """
        self._check_memory(2 if self._problem.batch > 1 else 1)
        return self._problem.plans(self._F, self._G)

    def apply(self, v: Any) -> Any:
        """Return ``P v`` without forming P.

        Parameters
        ----------
        v : array, shape (m,) or (m, k)
            Of the framework, dtype and device of the problem. (batch, m) or (batch, m, k) for a batch.

        Returns
        -------
        array, shape (n,) or (n, k)

        Raises
        ------
        TypeError, ValueError
            If `v` does not fit, or is not finite.
        """
        p = self._problem
        return p.apply(self._F, self._G, self._read(v, "v", p.m), transposed=False)

    def apply_transpose(self, u: Any) -> Any:
        """Return ``P^T u`` without forming P; see `apply`.

        Parameters
        ----------
        u : array, shape (n,) or (n, k)

        Returns
        -------
        array, shape (m,) or (m, k)
        """
        p = self._problem
        return p.apply(self._F, self._G, self._read(u, "u", p.n), transposed=True)

    def barycentric_map(self, values: Any = None) -> Any:
        """Return the mean of the points y, or of `values`, that each row is sent to.

        Rows are divided by what they sum to, not by `a`, so that these are means however exact the plan is. A point
        without weight gets the mean of `transport_map`.

        Parameters
        ----------
        values : array, shape (m,) or (m, k), optional
            By default the points y; needed with a cost. See `apply`.

        Returns
        -------
        array, shape (n,) or (n, k)

        Examples
        --------
        >>> import numpy as np
        >>> import mckean as mk
        >>> x = np.array([[0.0], [1.0]])
        >>> mk.sinkhorn_points(x, x + 5, eps=0.2).barycentric_map().round(1)
        array([[5.],
               [6.]])
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            F = self._F - np.log(self._rows)
        if not (self._rows > 0).all():
            everywhere = self._problem.transform(np.zeros_like(F), self._G, columns=False)
            F = np.where(self._rows > 0, F, everywhere)
        return self._means(self._problem, F, values)

    def transport_map(self, x_new: Any, values: Any = None) -> Any:
        """Return where new points are sent: the map of the plan, continued to all of space.

        Parameters
        ----------
        x_new : array, shape (k, d) or (batch, k, d)
            Of the framework, dtype and device of `x`.
        values : array, shape (m,) or (m, k), optional
            By default the points y. See `apply`.

        Returns
        -------
        array, shape (k, ...)
            Means of the values under weights proportional to ``b_j exp((g_j - C(x_new, y_j)) / eps)``.

        Raises
        ------
        TypeError
            If this is the result for a cost.

        References
        ----------
        .. [1] A. Pooladian, J. Niles-Weed, "Entropic estimation of optimal transport maps", arXiv:2109.12004

        Examples
        --------
        >>> import numpy as np
        >>> import mckean as mk
        >>> x = np.linspace(0, 1, 50)[:, None]
        >>> res = mk.sinkhorn_points(x, 2 * x, eps=0.01)
        >>> bool(np.abs(res.transport_map([[0.5], [0.6]]) - [[1.0], [1.2]]).max() < 1e-2)
        True
        """
        there = self._elsewhere(x_new, "x_new", "x")
        F = there.transform(np.zeros((there.batch, there.n)), self._G, columns=False)
        return self._means(there, F, values)

    def potential_at(self, points: Any, *, of: str = "x") -> Any:
        """Return the potential at new points, where it follows from the other one.

        Parameters
        ----------
        points : array, shape (k, d) or (batch, k, d)
            Of the framework, dtype and device of `x`.
        of : {"x", "y"}
            Whether f, the potential of the points x, or g.

        Returns
        -------
        array, shape (k,) or (batch, k)
            At the points of a solved problem `f` (`g`) itself, up to the marginal error.

        Raises
        ------
        TypeError
            If this is the result for a cost.
        """
        columns = one_of(of, "of", ("x", "y")) == "y"
        there = self._elsewhere(points, "points", of)
        F = self._F if columns else np.zeros((there.batch, there.n))
        G = np.zeros((there.batch, there.m)) if columns else self._G
        return self._vector(self._half_step(there, F, G, columns))

    def round(self) -> Any:
        """Return a plan whose marginals are `a` and `b` to rounding.

        Rows and columns that hold too much are scaled down, and what is then missing is spread in proportion [1]_. This
        changes the plan by at most twice the marginal error, in L1.

        Returns
        -------
        array, shape (n, m) or (batch, n, m)

        Raises
        ------
        ValueError
            If marginals are relaxed.
        MemoryError
            See `plan`.

        References
        ----------
        .. [1] J. Altschuler, J. Weed, P. Rigollet, "Near-linear time approximation algorithms for optimal transport via
           Sinkhorn iteration", NeurIPS 2017, arXiv:1705.09634
        """
        if self._relaxed:
            raise ValueError("round: expected marginals that are met exactly, got relaxed ones")
        self._check_memory(1)
        p = self._problem
        F = self._F + _log_excess(p.a, self._rows)
        G = self._G + _log_excess(p.b, p.marginals(F, self._G)[1])
        rows, cols, _ = p.marginals(F, G)
        missing, below = np.maximum(p.a - rows, 0.0), np.maximum(p.b - cols, 0.0)
        total = below.sum(1, keepdims=True)
        share = np.divide(below, total, out=np.zeros_like(below), where=total > 0)
        return self._spread(F, G, missing, share)

    def sample(self, n: Any, seed: Any = 0) -> tuple[Any, Any]:
        """Draw pairs (i, j) from the plan, independent and with replacement.

        Rows are drawn from the row sums and columns from these rows, by inverse distribution functions; some rows of
        the plan are formed at a time.

        Parameters
        ----------
        n : int
            How many pairs, for each problem of a batch.
        seed : int or numpy.random.SeedSequence

        Returns
        -------
        i, j : arrays of int64, shape (n,) or (batch, n)
            Rows and columns. Of equal seeds, more pairs do not start with fewer.

        Examples
        --------
        >>> import mckean as mk
        >>> res = mk.sinkhorn([0.5, 0.5], [0.5, 0.5], [[0.0, 9.0], [9.0, 0.0]], eps=0.1)
        >>> i, j = res.sample(1000, seed=1)
        >>> bool((i == j).all())
        True
        """
        n, seed = as_count(n, "n"), as_seed(seed)
        p = self._problem
        pairs = np.stack([self._draw(k, n, seed) for k in range(p.batch)])
        i, j = (np.ascontiguousarray(pairs[:, k] if p.batched else pairs[0, k]) for k in (0, 1))
        frame, device = p.at.framework, p.at.device
        return frame.asarray(i, device), frame.asarray(j, device)

    # ---- derivatives of the value ----

    def grad_x(self) -> Any:
        """Return the gradient of the optimal value in the points x.

        The optimal value is `dual_value`; by the envelope theorem it is the derivative of ``<P, C>`` for a fixed plan,
        with an error of the order of the marginal error.

        Returns
        -------
        array, shape of x
            Points that coincide with those they are sent to contribute 0.

        Raises
        ------
        TypeError
            If this is the result for a cost.
        """
        self._points("grad_x")
        return self._problem.gradient(self._F, self._G, in_y=False)

    def grad_y(self) -> Any:
        """Return the gradient of the optimal value in the points y; see `grad_x`.

        Returns
        -------
        array, shape (m, d) or (batch, m, d)
        """
        self._points("grad_y")
        return self._problem.gradient(self._F, self._G, in_y=True)

    def grad_a(self) -> Any:
        """Return the gradient of the optimal value in the weights of the rows.

        Returns
        -------
        array, shape (n,) or (batch, n)
            Where marginals are met exactly, changes of weights that keep their sum 1 make sense, and the gradient is f
            less its mean ``<a, f>``.
        """
        return self._vector(self._weight_gradient(columns=False))

    def grad_b(self) -> Any:
        """Return the gradient of the optimal value in the weights of the columns; see `grad_a`.

        Returns
        -------
        array, shape (m,) or (batch, m)
        """
        return self._vector(self._weight_gradient(columns=True))

    def grad_cost(self) -> Any:
        """Return the gradient of the optimal value in the cost, which is the plan; see `plan`.

        Returns
        -------
        array, shape (n, m) or (batch, n, m)
        """
        return self.plan()

    # ---- inside ----

    def _spread(self, F: Doubles, G: Doubles, missing: Doubles, share: Doubles) -> Any:
        """The plan of these scalings plus an outer product, by blocks of rows: no second array of this size, and Python
        gets to see Ctrl-C in between."""
        p = self._problem
        frame, device = p.at.framework, p.at.device
        lead = (p.batch,) if p.batched else ()
        out = frame.empty((*lead, p.n, p.m), p.at.dtype, device)
        size = max(1, _BLOCK // p.m)
        for k in range(p.batch):
            into = out.data[k] if p.batched else out.data
            along = frame.asarray(share[k].astype(p.at.dtype), device)
            for start in range(0, p.n, size):
                block = slice(start, min(start + size, p.n))
                part = frame.asarray(missing[k, block, None].astype(p.at.dtype), device)
                into[block] = frame.native(p.plan(F, G, k, block) + part * along, device)
        return out.result()

    def _relaxed_values(
        self, dual: Doubles, primal: Doubles, rows: Doubles, cols: Doubles
    ) -> tuple[Doubles, Doubles, Doubles]:
        """Both values with what relaxed marginals cost, and the distance to the marginals that the potentials want."""
        p = self._problem
        error, mass = np.zeros(p.batch), np.zeros(p.batch)
        with np.errstate(over="ignore", invalid="ignore"):
            for w, sums, f, rho in zip(
                (p.a, p.b), (rows, cols), (self._f, self._g), self._rho, strict=True
            ):
                change = _over(f, rho)
                dual += np.where(
                    np.isinf(rho), _inner(w, f), -_times(rho, _inner(w, np.expm1(-change)))
                )
                primal += _times(rho, _divergence(sums, w))
                wanted = np.where(w > 0, w * np.exp(-change), 0.0)
                error += abs(sums - wanted).sum(1)
                mass += 0.5 * wanted.sum(1)
            error /= mass
        return dual, primal, error

    def _weight_gradient(self, *, columns: bool) -> Doubles:
        """`grad_a`, or with `columns` `grad_b`, in float64: (batch, n) or (batch, m)."""
        p = self._problem
        w, f, other = (p.b, self._g, p.a) if columns else (p.a, self._f, p.b)
        if not self._relaxed:
            return np.asarray(f - _inner(w, f)[:, None])
        rho = self._rho[columns]
        change = _over(f, rho)
        own = np.where(np.isinf(rho)[:, None], f, -_times(rho[:, None], np.expm1(-change)))
        left = np.exp(-change) - other.sum(1, keepdims=True)
        met = np.isinf(self._rho[0]) & np.isinf(self._rho[1])
        exact = f - _inner(w, f)[:, None]
        return np.where(met[:, None], exact, own - p.eps[:, None] * left)

    def _values(self, v: Doubles) -> Any:
        """A float, or an array like those of the caller."""
        p = self._problem
        if not p.batched:
            return float(v[0])
        return p.at.framework.asarray(np.ascontiguousarray(v, p.at.dtype), p.at.device)

    def _scalar(self, v: Any) -> Any:
        return v if self._problem.batched else v[0].item()

    def _vector(self, v: Doubles) -> Any:
        p = self._problem
        v = np.array(v if p.batched else v[0], p.at.dtype, order="C")
        return p.at.framework.asarray(v, p.at.device)

    def _half_step(self, there: Problem, F: Doubles, G: Doubles, columns: bool) -> Doubles:
        """The potential that follows from the other one."""
        log_sum = there.transform(F, G, columns=columns)
        eps = there.eps
        shift = -self._shift if columns else self._shift
        return np.asarray(
            (eps / (1.0 + eps / self._rho[columns]))[:, None] * log_sum + shift[:, None]
        )

    def _extended(self, *, columns: bool) -> Doubles:
        """A potential, at points without weight too."""
        p = self._problem
        mass, scaling = (p.b, self._G) if columns else (p.a, self._F)
        held = mass > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            f = np.where(held, p.eps[:, None] * (scaling - np.log(mass)), 0.0)
        if not held.all():
            f = np.where(held, f, self._half_step(p, self._F, self._G, columns))
        return f

    def _means(self, there: Problem, F: Doubles, values: Any) -> Any:
        """Means under the rows of a plan whose rows sum to 1, but for rounding."""
        if values is None:
            if self._y is None:
                raise TypeError("values: expected an array with a cost, got None")
            at = self._y
        else:
            at = self._read(values, "values", there.m)
        rows, _, _ = there.marginals(F, self._G)
        sums = self._vector(rows)
        out = there.apply(F, self._G, at, transposed=False)
        return out / (sums if len(out.shape) == len(sums.shape) else sums[..., None])

    def _elsewhere(self, points: Any, name: str, of: str) -> Problem:
        """The problem with other points instead of x or y."""
        self._points(name)
        p = self._problem
        assert self._x is not None and self._y is not None
        lead = (p.batch,) if p.batched else ()
        at = cloud(
            as_match(points, name, self._x, "x", shape=(*lead, "k", p.dim)), name, self._power
        )
        device = None if p.device == self._x.device else p.device
        ones = np.ones((p.batch, at.shape[-2]))
        if of == "x":
            return Problem.of_points(at, self._y, self._power, ones, p.b, p.eps, device)
        return Problem.of_points(self._x, at, self._power, p.a, ones, p.eps, device)

    def _points(self, name: str) -> None:
        if self._x is None:
            raise TypeError(f"{name}: expected the result of sinkhorn_points, got that of a cost")

    def _read(self, v: Any, name: str, size: int) -> Input:
        p = self._problem
        lead = (p.batch,) if p.batched else ()
        axes = v.ndim if hasattr(v, "ndim") else np.ndim(v)
        shape = (*lead, size) if axes <= len(lead) + 1 else (*lead, size, "k")
        of = "cost" if self._x is None else "x"
        at = as_match(v, name, p.at, of, shape=shape)
        check_finite(at, name)
        return at

    def _check_memory(self, copies: int) -> None:
        p = self._problem
        size = copies * p.batch * p.n * p.m * np.dtype(p.at.dtype).itemsize
        if p.at.device == "cpu" and size > _memory():
            raise MemoryError(
                f"plan: {p.batch} x {p.n} x {p.m} numbers need {size / 2**30:.3g} GiB; "
                "use apply, barycentric_map or sample"
            )

    def _draw(self, problem: int, n: int, seed: int) -> Any:
        """Rows and columns of one problem, (2, n)."""
        p, rows = self._problem, self._rows[problem]
        u = random.uniform(seed, (2, n), stream=_PAIRS, counter=problem)
        i = inverse(rows[None], np.zeros(n, np.int64), u[0])
        with np.errstate(divide="ignore", invalid="ignore"):
            F = np.where(self._rows > 0, self._F - np.log(self._rows), -np.inf)
        j = draw_columns(p, F, self._G, i, u[1], problem)
        return np.stack([i, j])


def _inner(w: Doubles, f: Doubles) -> Doubles:
    """Sums of products, where there is weight: (batch,)."""
    return np.asarray(np.multiply(w, f, out=np.zeros_like(f), where=w > 0).sum(1))


def _over(f: Doubles, rho: Doubles) -> Doubles:
    """f / rho, 0 for an infinite rho."""
    return np.where(np.isinf(rho)[:, None], 0.0, f / rho[:, None])


def _times(rho: Doubles, v: Doubles) -> Doubles:
    """rho v, 0 for an infinite rho."""
    return np.where(np.isinf(rho), 0.0, np.where(np.isinf(rho), 0.0, rho) * v)


def _divergence(sums: Doubles, w: Doubles) -> Doubles:
    """KL(sums | w), (batch,)."""
    held = (w > 0) & (sums > 0)
    ratio = np.divide(sums, w, out=np.ones_like(w), where=held)
    return np.asarray((sums * np.log(ratio) - sums + w).sum(1))


def _log_excess(w: Doubles, sums: Doubles) -> Doubles:
    """log min(1, w / sums)."""
    ratio = np.divide(w, sums, out=np.ones_like(w), where=(sums > w) & (w > 0))
    return np.log(ratio)


def _memory() -> float:
    """Bytes of this machine, if it says."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2.0**62


def _short(v: Any) -> str:
    return f"{v:.4g}" if isinstance(v, float) else "array"
