"""Expectations by control variates from Stein kernels, for one density or for several related ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import FRAMEWORKS, Framework, Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_seed, nonnegative, one_of, positive
from mckean.interaction import _sums
from mckean.interaction._permutation import permutation, rows, subset
from mckean.interaction._samples import at_least, host
from mckean.interaction._stein_solve import SteinSystem, choose_solver, default_rho, in_float64
from mckean.interaction._task_matrix import learn_task_matrix
from mckean.interaction.bandwidth import median_bandwidth

__all__ = [
    "ControlVariateResult",
    "SteinControlVariate",
    "VectorControlVariateResult",
    "VectorSteinControlVariate",
]

_STREAM = 0x6376  # of mk.random
_LEARN_FROM = 300  # points that tell the task matrix
_SOLVERS = ("auto", "cholesky", "cg")


@dataclass(frozen=True, slots=True)
class ControlVariateResult:
    """Result of `SteinControlVariate.estimate`.

    Attributes
    ----------
    estimate : float, or numpy array, shape (q,)
        Of E f under p.
    coefficients : array, shape (n_fit,) or (n_fit, q)
        c of the control variate ``g(x) = sum_j c_j k0(x, x_j)``, whose mean under p is 0.
    intercept : float, or numpy array, shape (q,)
        beta of the fit ``f = beta + g``; the estimate, unless the points were split.
    kernel : Kernel
        Base kernel used.
    rho : float
        Regularisation used; Cholesky raises it tenfold as long as the matrix is not positive definite in rounding.
    converged : bool
    n_iter : int
        Conjugate gradient iterations; 0 by Cholesky.
    """

    estimate: Any
    coefficients: Any
    intercept: Any
    kernel: kernels.Kernel
    rho: float
    converged: bool
    n_iter: int


class SteinControlVariate:
    """Estimate an expectation from points, their scores and values, with a Stein kernel control variate.

    The values are modelled as ``f = beta + g`` with g in the space of the Stein kernel k0, whose members all have mean
    0 under p. With ``A = K0 + rho I``, ``K0_ij = k0(x_i, x_j)``, the estimate is ::

        beta = 1' A^-1 f / 1' A^-1 1

    (control functionals, in their simplified form). For smooth f it converges much faster than the mean of f, and the
    points need not come from p exactly: a chain that has not quite converged will do. Up to 4000 points by Cholesky,
    O(n^3) time and O(n^2) memory; above by conjugate gradients with a Nystrom preconditioner, O(n^2) time per iteration
    and O(n) memory (256 columns).

    Parameters
    ----------
    k : Kernel, optional
        Base kernel, with a Stein kernel. By default Gaussian with the median bandwidth of the points.
    rho : float, optional
        Regularisation, >= 0; by default 1e-8 times the mean of k0(x_i, x_i).
    split : bool, optional
        Fit on a random half of the points and average ``f - g`` over the others: unbiased for independent points from
        p, at the price of a larger error.
    solver : {"auto", "cholesky", "cg"}, optional
    tol : float, optional
        Relative residual at which conjugate gradients stop.
    max_iter : int, optional
    seed : int or numpy.random.SeedSequence, optional
        Of the split.

    References
    ----------
    .. [1] C. Oates, M. Girolami, N. Chopin, "Control functionals for Monte Carlo integration", Journal of the Royal
       Statistical Society B 79, 2017, arXiv:1410.2392
    .. [2] Z. Frangella, J. Tropp, M. Udell, "Randomized Nyström preconditioning", SIAM Journal on Matrix Analysis and
       Applications 44, 2023, arXiv:2110.02820

    Examples
    --------
    The mean of sin x + x^2 under the standard normal is 1:

    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (100, 1))
    >>> f = np.sin(x[:, 0]) + x[:, 0]**2
    >>> result = mk.interaction.SteinControlVariate(mk.kernels.Gaussian(1.0)).estimate(x, -x, f)
    >>> bool(abs(result.estimate - 1) < 0.03 < abs(f.mean() - 1))
    True
    """

    def __init__(
        self,
        k: kernels.Kernel | None = None,
        *,
        rho: float | None = None,
        split: bool = False,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 500,
        seed: Any = 0,
    ) -> None:
        self.k, self.split, self.seed = k, bool(split), as_seed(seed)
        self.rho = None if rho is None else nonnegative(rho, "rho")
        self.solver = one_of(solver, "solver", _SOLVERS)
        self.tol, self.max_iter = positive(tol, "tol"), as_count(max_iter, "max_iter", least=1)

    def estimate(self, x: Any, scores: Any, values: Any) -> ControlVariateResult:
        """Return the estimate of the mean of `values` under p.

        Parameters
        ----------
        x : array, shape (n, d), float32 or float64
        scores : array, shape (n, d)
            grad log p at `x`.
        values : array, shape (n,) or (n, q)
            f at `x`; q integrands share one factorisation.

        Returns
        -------
        ControlVariateResult
            Computed in float64; `coefficients` are of the framework, dtype and device of `x`.

        Raises
        ------
        TypeError, ValueError
            If shapes, dtypes or frameworks do not match, values are not finite, or there are too few points.

        Warns
        -----
        ConvergenceWarning
            If conjugate gradients did not reach `tol`.
        """
        at = as_input(x, "x", shape=("n", "d"))
        s = as_match(scores, "scores", at, "x")
        f = _values(values, "values", at, "x")
        n = at.shape[0]
        at_least(n, 1 + self.split, "x")
        check_finite(at, "x")
        check_finite(s, "scores")
        fit = rest = None
        points, slopes = in_float64(at), in_float64(s)
        target = f.reshape(n, -1)
        if self.split:
            order = permutation(self.seed, n, stream=_STREAM)
            fit, rest = np.sort(order[: (n + 1) // 2]), np.sort(order[(n + 1) // 2 :])
            held_out = rows(points, rest), rows(slopes, rest)
            points, slopes = rows(points, fit), rows(slopes, fit)
        k = self.k
        if k is None:
            k = kernels.Gaussian(median_bandwidth(points) if points.shape[0] > 1 else 1.0)
        system = SteinSystem(k, points, slopes, *_place(at), None, None)
        rho = default_rho(system) if self.rho is None else self.rho
        f_fit = target if fit is None else target[fit]
        ones = np.ones((len(f_fit), 1))
        solver = choose_solver(self.solver, len(f_fit))
        both, rho, converged, n_iter = system.solve(
            np.hstack([ones, f_fit]), rho, solver, self.tol, self.max_iter
        )
        beta = both[:, 1:].sum(axis=0) / both[:, 0].sum()
        c = both[:, 1:] - both[:, :1] * beta
        estimate = beta
        if rest is not None:
            carried = system.framework.asarray(np.ascontiguousarray(c), system.device)
            g = _sums.stein_sum(k, *held_out, y=points, y_scores=slopes, weights=carried)
            estimate = (target[rest] - host(g)).mean(axis=0)
        if not converged:
            _warn(n_iter, self.tol)
        one = f.ndim == 1
        return ControlVariateResult(
            _number(estimate, one),
            at.framework.asarray((c[:, 0] if one else c).astype(at.dtype), at.device),
            _number(beta, one),
            k,
            rho,
            converged,
            n_iter,
        )


@dataclass(frozen=True, slots=True)
class VectorControlVariateResult:
    """Result of `VectorSteinControlVariate.estimate`.

    Attributes
    ----------
    estimate : numpy array, shape (T,), float64
        Of the expectation of each task.
    coefficients : list of T arrays, shape (n_t,)
    task_matrix : numpy array, shape (T, T), float64
        B, as given or learnt.
    objective : numpy array, shape (iterations,), float64
        Minus the restricted log likelihood (up to a constant) while B was learnt; empty for a given B.
    kernel : Kernel
    rho : float
    converged : bool
    n_iter : int
        Conjugate gradient iterations (0 by Cholesky) of the last solve.
    """

    estimate: Any
    coefficients: list[Any]
    task_matrix: Any
    objective: Any
    kernel: kernels.Kernel
    rho: float
    converged: bool
    n_iter: int


class VectorSteinControlVariate:
    """Estimate several related expectations together, so that tasks with few points borrow from the others.

    Task t has its own density p_t (score s_t), its own points and its own integrand. The matrix-valued Stein kernel has
    the entries ``B[t, t'] k0((x, s_t(x)), (x', s_t'(x')))`` with a symmetric positive semidefinite B: component t of
    every function of its space has mean 0 under p_t. With the points of all tasks stacked, H (N, T) their one-hot
    tasks, and ``A = K + rho I``::

        beta = (H' A^-1 H)^-1 H' A^-1 f

    B = I treats the tasks separately. Solvers, cost and memory are those of `SteinControlVariate` for N points.

    Parameters
    ----------
    k : Kernel, optional
        Base kernel; by default Gaussian with the median bandwidth of all points.
    task_matrix : array, shape (T, T), or "learn"
        B. To learn it, the values are read as those of Gaussian processes with covariance ``B[t, t'] k0 + rho I`` and
        unknown means, and B maximises their restricted likelihood; of more than 300 points a subset is used, so that
        an iteration costs at most O(300^3).
    rho : float, optional
        By default 1e-8 times the mean of the diagonal of K.
    learn_iter : int, optional
        Most iterations of learning.
    solver, tol, max_iter : optional
        As of `SteinControlVariate`.

    References
    ----------
    .. [1] Z. Sun, A. Barp, F.-X. Briol, "Vector-valued control variates", ICML 2023, arXiv:2109.08944

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> xs = [mk.random.normal(0, (40, 1)), 0.5 + 1.3 * mk.random.normal(1, (10, 1))]
    >>> scores = [-xs[0], -(xs[1] - 0.5) / 1.3**2]
    >>> values = [np.exp(0.4 * x[:, 0]) for x in xs]
    >>> together = mk.interaction.VectorSteinControlVariate(
    ...     mk.kernels.Gaussian(1.0), task_matrix=np.array([[1.0, 0.95], [0.95, 1.0]]))
    >>> together.estimate(xs, scores, values).estimate.round(1)
    array([1.1, 1.4])
    """

    def __init__(
        self,
        k: kernels.Kernel | None = None,
        *,
        task_matrix: Any,
        rho: float | None = None,
        learn_iter: int = 100,
        solver: str = "auto",
        tol: float = 1e-6,
        max_iter: int = 500,
    ) -> None:
        self.k = k
        if isinstance(task_matrix, str):
            one_of(task_matrix, "task_matrix", ("learn",))
        self.task_matrix = None if isinstance(task_matrix, str) else _psd(task_matrix)
        self.rho = None if rho is None else nonnegative(rho, "rho")
        self.learn_iter = as_count(learn_iter, "learn_iter", least=1)
        self.solver = one_of(solver, "solver", _SOLVERS)
        self.tol, self.max_iter = positive(tol, "tol"), as_count(max_iter, "max_iter", least=1)

    def estimate(self, x: Any, scores: Any, values: Any) -> VectorControlVariateResult:
        """Return the estimates of all tasks.

        Parameters
        ----------
        x : list of T arrays, shape (n_t, d), float32 or float64
        scores : list of T arrays, shape (n_t, d)
            grad log p_t at ``x[t]``.
        values : list of T arrays, shape (n_t,)

        Returns
        -------
        VectorControlVariateResult
            Computed in float64; `coefficients` are of the framework, dtype and device of ``x[0]``.

        Raises
        ------
        TypeError, ValueError
            If shapes, dtypes or frameworks do not match, values are not finite, or a task has no point.

        Warns
        -----
        ConvergenceWarning
            If conjugate gradients, or the learning of B, did not converge.
        """
        tasks, slopes, targets = _tasks(x, scores, values)
        first = tasks[0]
        n_tasks, sizes = len(tasks), [t.shape[0] for t in tasks]
        task = np.repeat(np.arange(n_tasks), sizes)
        points = _stack(tasks)
        k = self.k
        if k is None:
            k = kernels.Gaussian(median_bandwidth(points) if len(task) > 1 else 1.0)
        learn = self.task_matrix is None
        mixing: Any = np.eye(n_tasks) if learn else self.task_matrix
        if mixing.shape != (n_tasks, n_tasks):
            raise ValueError(
                f"task_matrix: expected shape ({n_tasks}, {n_tasks}) to match x, got {mixing.shape}"
            )
        slope, (framework, device) = _stack(slopes), _place(first)
        system = SteinSystem(k, points, slope, framework, device, task, mixing)
        f = np.concatenate(targets)[:, None]
        rho = default_rho(system) if self.rho is None else self.rho
        history: list[float] = []
        settled = True
        if learn:
            chosen = _learning_points(sizes)
            small = SteinSystem(
                k, rows(points, chosen), rows(slope, chosen), framework, device, None, None
            )
            system.tasks, history, settled = learn_task_matrix(
                small.dense(), task[chosen], f[chosen, 0], n_tasks, rho, self.learn_iter
            )
            if not settled:
                warnings.warn(
                    f"task_matrix: still changing after {self.learn_iter} iterations",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        beta, c, rho, converged, n_iter = self._fit(
            system, f, rho, choose_solver(self.solver, len(task))
        )
        if not converged:
            _warn(n_iter, self.tol)
        ends = np.cumsum(sizes)[:-1]
        return VectorControlVariateResult(
            beta,
            [
                first.framework.asarray(part.astype(first.dtype), first.device)
                for part in np.split(c, ends)
            ],
            system.tasks,
            np.array(history),
            k,
            rho,
            converged and settled,
            n_iter,
        )

    def _fit(
        self, system: SteinSystem, f: Any, rho: float, solver: str
    ) -> tuple[Any, Any, float, bool, int]:
        design = np.where(system.task[:, None] == np.arange(len(system.tasks)), 1.0, 0.0)
        both, rho, converged, n_iter = system.solve(
            np.hstack([design, f]), rho, solver, self.tol, self.max_iter
        )
        beta = np.linalg.solve(design.T @ both[:, :-1], design.T @ both[:, -1])
        return beta, both[:, -1] - both[:, :-1] @ beta, rho, converged, n_iter


def _psd(value: Any) -> Any:
    found = as_input(value, "task_matrix", shape=("T", "T"))
    check_finite(found, "task_matrix")
    a = host(found.array)
    if a.shape[0] != a.shape[1] or a.shape[0] == 0 or (a != a.T).any():
        raise ValueError("task_matrix: expected a symmetric matrix (T, T)")
    least = np.linalg.eigvalsh(a)[0]
    if least < -1e-10 * np.abs(a).max():
        raise ValueError(
            f"task_matrix: expected a positive semidefinite matrix, got eigenvalue {least}"
        )
    return a


def _tasks(x: Any, scores: Any, values: Any) -> tuple[list[Input], list[Input], list[Any]]:
    for given, name in ((x, "x"), (scores, "scores"), (values, "values")):
        if not isinstance(given, (list, tuple)):
            raise TypeError(
                f"{name}: expected a list of arrays, one per task, got {type(given).__name__}"
            )
        if len(given) != len(x) or not given:
            raise ValueError(
                f"{name}: expected {max(len(x), 1)} arrays, one per task, got {len(given)}"
            )
    points: list[Input] = []
    slopes: list[Input] = []
    targets: list[Any] = []
    for t, (a, s, f) in enumerate(zip(x, scores, values, strict=True)):
        if t == 0:
            at = as_input(a, "x[0]", shape=("n", "d"))
        else:
            at = as_match(a, f"x[{t}]", points[0], "x[0]", shape=("n", points[0].shape[1]))
        at_least(at.shape[0], 1, f"x[{t}]")
        slope = as_match(s, f"scores[{t}]", at, f"x[{t}]")
        check_finite(at, f"x[{t}]")
        check_finite(slope, f"scores[{t}]")
        target = _values(f, f"values[{t}]", at, f"x[{t}]")
        if target.ndim != 1:
            raise ValueError(f"values[{t}]: expected shape ({at.shape[0]},), got {target.shape}")
        points.append(at)
        slopes.append(slope)
        targets.append(target)
    return points, slopes, targets


def _values(values: Any, name: str, at: Input, at_name: str) -> Any:
    n = at.shape[0]
    shape = (n, "q") if getattr(values, "ndim", 1) == 2 else (n,)
    found = as_match(values, name, at, at_name, shape=shape)
    check_finite(found, name)
    return host(found.array)


def _stack(parts: list[Input]) -> Any:
    """All tasks' rows as one float64 array."""
    arrays = [in_float64(p) for p in parts]
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    framework, device = _place(parts[0])
    joined = np.concatenate([to_numpy(a) for a in arrays])
    return framework.asarray(joined, device)


def _place(at: Input) -> tuple[Framework, str]:
    """Framework and device of what `in_float64` returns."""
    return (FRAMEWORKS["numpy"], "cpu") if at.device == "cpu" else (at.framework, at.device)


def _learning_points(sizes: list[int]) -> Any:
    """At most 300 of the stacked points, as many of each task where there are as many."""
    share = max(2, _LEARN_FROM // len(sizes))
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        start + subset(0, size, min(size, share), stream=_STREAM + 1, counter=t)
        for t, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]
    return np.concatenate(parts)


def _number(value: Any, one: bool) -> Any:
    return float(value[0]) if one else value


def _warn(n_iter: int, tol: float) -> None:
    warnings.warn(
        f"conjugate gradients did not reach tol={tol} in {n_iter} iterations; raise rho or max_iter",
        ConvergenceWarning,
        stacklevel=3,
    )
