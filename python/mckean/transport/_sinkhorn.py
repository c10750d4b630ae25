"""Entropic optimal transport between weighted points, or for a given cost."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from mckean._errors import ConvergenceWarning
from mckean.transport._arguments import (
    batch_of,
    check_feasible,
    clouds,
    cost_matrix,
    free_marginals,
    penalties,
    regularize,
    settings_of,
    strengths,
)
from mckean.transport._init import start
from mckean.transport._problem import Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import Settings, solve
from mckean.transport._weights import flag, marginal

__all__ = ["sinkhorn", "sinkhorn_points", "warn_unless_converged"]


def sinkhorn(
    a: Any,
    b: Any,
    cost: Any,
    *,
    eps: Any = None,
    rel_eps: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    init: Any = None,
    unbalanced: Any = None,
    eps_scaling: bool = False,
    acceleration: Any = "anderson",
    normalize: bool = False,
    device: Any = None,
) -> SinkhornResult:
    """Solve the entropic optimal transport problem for a given cost.

    It is the minimum of ``<P, C> + eps KL(P | a b^T)`` over plans P with row sums `a` and column sums `b` [1]_. The
    solution is ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)``.

    Parameters
    ----------
    a : array, shape (n,) or (batch, n), or None
        Weights of the rows, >= 0. They sum to 1, up to 1e-6 (1e-4 for float32), which is corrected in float64, unless
        `normalize` or `unbalanced` are given. None: equal weights.
    b : array, shape (m,) or (batch, m), or None
        Weights of the columns.
    cost : array, shape (n, m) or (batch, n, m), float32 or float64
        One cost may serve a batch of weights. +inf forbids a pair.
    eps : float, or array, shape (batch,)
        The regularisation, in units of the cost. It is required, unless `rel_eps` is given.
    rel_eps : float, or array, shape (batch,), optional
        Instead of `eps`: times the mean cost ``a^T C b`` of the pairs that are not forbidden.
    method : {"auto", "scaling", "log", "newton"}
        Sinkhorn's iterations with one exponential for each pair; in the log domain, which is slower and never under- or
        overflows; or Sinkhorn-Newton-Sparse [2]_, for small tolerances and small eps. "auto" chooses by eps, the cost
        and `tol`, and `res.method` says what it took.
    tol : float
        The L1 error of rows and columns together, relative to the mass, to stop at. For relaxed marginals the largest
        change of ``f / eps`` and ``g / eps`` in one iteration.
    max_iter : int
        The largest number of iterations.
    init : optional
        Where to start: a `SinkhornResult`; potentials (f, g), of which g is used, the other one being half an iteration
        away; g alone or f alone, told apart by their lengths (g if both fit); "epsscale", which is `eps_scaling`; or a
        function ``(x, y, a, b) -> g`` such as a fitted predictor, x and y being None for a cost. By default zero.
    unbalanced : float, or array, shape (batch,), or pair of these, optional
        Relax the marginals [3]_: ``rho_a KL(P 1 | a) + rho_b KL(P^T 1 | b)`` is added instead of constraints, and the
        masses may differ. ``math.inf`` on one side keeps its constraint. A tuple or list is a pair, an array one number
        for each problem; where both are infinite weights sum to 1.
    eps_scaling : bool
        Start from larger eps, halved in every iteration.
    acceleration : {"anderson", "relaxation", None} or float
        Guarded Anderson extrapolation; over-relaxation, by a factor that follows from the contraction seen (Young's
        rule) or by one in (0, 2); or plain iterations, for None. Relaxed marginals take over-relaxation as "anderson".
    normalize : bool
        Divide `a` and `b` by their sums first.
    device : str, optional
        "cuda" runs the problem of NumPy arrays on a GPU.

    Returns
    -------
    SinkhornResult
        Its arrays are of the framework, dtype and device of `cost`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range; if weights or costs are not finite (but for costs of +inf),
        weights negative or of a wrong sum, or if all of a row or column with weight is forbidden.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not met; ``converged`` is then False and ``marginal_error`` what was reached.

    See Also
    --------
    sinkhorn_points, sinkhorn_divergence

    Notes
    -----
    All values are KL divergences against ``a b^T``. With the entropy ``sum P (log P - 1)`` instead, the optimal value
    is larger by ``eps (sum a log a + sum b log b - 1)``.

    References
    ----------
    .. [1] M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013, arXiv:1306.0895
    .. [2] X. Tang, M. Shavlovsky, H. Rahmanian, E. Tardini, K. Thekumparampil, T. Xiao, L. Ying, "Accelerating Sinkhorn
       algorithm with sparse Newton iterations", ICLR 2024, arXiv:2401.12253
    .. [3] L. Chizat, G. Peyré, B. Schmitzer, F.-X. Vialard, "Scaling algorithms for unbalanced optimal transport
       problems", Mathematics of Computation 87, 2018, arXiv:1607.05816

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> cost = np.array([[0.0, 2.0], [2.0, 0.0], [1.0, 1.0]])
    >>> res = mk.sinkhorn([0.25, 0.25, 0.5], [0.5, 0.5], cost, eps=0.1)
    >>> res.plan().round(4)
    array([[0.25, 0.  ],
           [0.  , 0.25],
           [0.25, 0.25]])
    """
    at = cost_matrix(cost)
    n, m = at.shape[-2:]
    batch = batch_of(at, a=a, b=b, eps=eps if rel_eps is None else rel_eps)
    relaxed = penalties(unbalanced, batch)
    options = settings_of(
        method, tol, max_iter, acceleration, eps_scaling or _scaled(init), relaxed
    )
    strength, relative = strengths(eps, rel_eps, batch)
    rules: dict[str, Any] = {
        "free": free_marginals(relaxed, batch),
        "normalize": flag(normalize, "normalize"),
    }
    u = marginal(a, "a", n, batch, at, "cost", **rules)
    v = marginal(b, "b", m, batch, at, "cost", **rules)
    check_feasible(at, u, v)
    problem = Problem.of_cost(at, batch, u, v, strength, device)
    regularize(problem, strength, relative)
    first = None if _scaled(init) else start(init, problem, unbalanced=relaxed)
    result = SinkhornResult(problem, solve(problem, options, first), options)
    warn_unless_converged("sinkhorn", result, options)
    return result


def sinkhorn_points(
    x: Any,
    y: Any,
    *,
    p: float = 2,
    eps: Any = None,
    rel_eps: Any = None,
    a: Any = None,
    b: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    init: Any = None,
    unbalanced: Any = None,
    eps_scaling: bool = False,
    acceleration: Any = "anderson",
    normalize: bool = False,
    device: Any = None,
) -> SinkhornResult:
    """Solve the entropic optimal transport problem between weighted points, for the cost ``|x - y|^p``.

    Costs are computed where they are needed: memory is O(n + m).

    Parameters
    ----------
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        A batch may share one cloud (m, d).
    p : float
        Positive. 2 is the squared Euclidean distance (without a factor 1/2), 1 the distance.
    eps : float, or array, shape (batch,)
        The regularisation, in units of the cost. It is required, unless `rel_eps` is given.
    rel_eps : float, or array, shape (batch,), optional
        Instead of `eps`: times the mean cost of all pairs, by their weights. 0.05 blurs little, 0.01 is sharp.
    a : array, shape (n,) or (batch, n), optional
        Weights of x, by default equal. They sum to 1, see `sinkhorn`.
    b : array, shape (m,) or (batch, m), optional
        Weights of y.
    method, tol, max_iter, unbalanced, eps_scaling, acceleration, normalize, device
        See `sinkhorn`.
    init : optional
        See `sinkhorn`; and for p = 2 "gaussian", the potential of Gaussians with the moments of both clouds [1]_.

    Returns
    -------
    SinkhornResult
        Its arrays are of the framework, dtype and device of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, if points or weights are not finite, or points so large that
        powers of their distances are not; weights negative or of a wrong sum.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not met; ``converged`` is then False and ``marginal_error`` what was reached.

    See Also
    --------
    sinkhorn, sinkhorn_divergence

    References
    ----------
    .. [1] J. Thornton, M. Cuturi, "Rethinking initialization of the Sinkhorn algorithm", AISTATS 2023, arXiv:2206.07630

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (200, 2))
    >>> res = mk.sinkhorn_points(x, x + [3.0, 4.0], rel_eps=0.05)
    >>> res.converged, res.f.shape
    (True, (200,))
    >>> bool(np.abs(res.barycentric_map().mean(0) - x.mean(0) - [3.0, 4.0]).max() < 1e-3)
    True
    """
    at, other, power = clouds(x, y, p)
    batch = at.shape[0] if len(at.shape) == 3 else None
    relaxed = penalties(unbalanced, batch)
    options = settings_of(
        method, tol, max_iter, acceleration, eps_scaling or _scaled(init), relaxed
    )
    strength, relative = strengths(eps, rel_eps, batch)
    rules: dict[str, Any] = {
        "free": free_marginals(relaxed, batch),
        "normalize": flag(normalize, "normalize"),
    }
    u = marginal(a, "a", at.shape[-2], batch, at, "x", **rules)
    v = marginal(b, "b", other.shape[-2], batch, at, "x", **rules)
    problem = Problem.of_points(at, other, power, u, v, strength, device)
    regularize(problem, strength, relative)
    first = None if _scaled(init) else start(init, problem, at, other, power, relaxed)
    result = SinkhornResult(problem, solve(problem, options, first), options, at, other, power)
    warn_unless_converged("sinkhorn_points", result, options)
    return result


def _scaled(init: Any) -> bool:
    return isinstance(init, str) and init == "epsscale"


def warn_unless_converged(
    name: str, result: SinkhornResult, options: Settings, depth: int = 3
) -> None:
    """Say what was reached, and what would help."""
    missed = ~np.atleast_1d(result.converged)
    if not missed.any():
        return
    error = np.max(np.atleast_1d(result.marginal_error)[missed])
    many = f" in {missed.sum()} of {len(missed)} problems" if len(missed) > 1 else ""
    other = "" if options.unbalanced or options.method == "newton" else ", or method='newton'"
    warnings.warn(
        f"{name}: tol={options.tol:g} not met{many} after {np.max(result.n_iter)} iterations, the marginal error is "
        f"{error:.2g}; try more iterations (max_iter), a larger eps or tol{other}",
        ConvergenceWarning,
        stacklevel=depth,
    )
