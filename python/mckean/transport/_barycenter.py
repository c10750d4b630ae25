"""Entropic barycentres of point clouds: weights on a given support, or a support of given weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, is_array, to_numpy
from mckean._errors import ConvergenceWarning, as_count, nonnegative, positive
from mckean.transport._arguments import check_feasible, cloud, cost_matrix, one_eps
from mckean.transport._problem import Doubles, Problem
from mckean.transport._solve import Settings, solve
from mckean.transport._symmetric import solve_symmetric
from mckean.transport._weights import flag, marginal

__all__ = [
    "BarycenterResult",
    "FreeBarycenterResult",
    "barycenter",
    "barycenter_of_costs",
    "free_barycenter",
]


class BarycenterResult:
    """A barycentre on a fixed support, with a plan from every cloud to it.

    The plans are ``P_k = a_k q exp((f_k + g_k - C_k) / eps)`` and are never stored.

    Attributes
    ----------
    weights : array, shape (s,)
        The barycentre q: weights of the support, of sum 1.
    f : list of array, shape (n_k,)
        The potentials of the clouds, in units of the cost.
    g : array, shape (K, s)
        Those of the support. Without debiasing ``sum_k w_k g_k = -eps log q`` up to a constant.
    cost : float
        ``sum_k w_k <P_k, C_k>``, without entropies.
    marginal_error : float
        The largest L1 distance of what the plans' rows sum to from a cloud's weights; their columns sum to q. With
        debiasing the error of the plan of q with itself counts too.
    converged : bool
    n_iter : int
    eps : float
    """

    weights: Any
    f: list[Any]
    g: Any
    cost: float
    marginal_error: float
    converged: bool
    n_iter: int
    eps: float

    def __init__(
        self, bundle: _Bundle, state: _State, error: float, converged: bool, n_iter: int
    ) -> None:
        self._bundle, self._state = bundle, state
        self.marginal_error, self.converged, self.n_iter = error, converged, n_iter
        self.eps = bundle.eps
        self.weights = bundle.array(np.exp(state.log_q))
        self.cost = bundle.cost(state)
        f: list[Any] = [None] * len(bundle.share)
        g = np.empty((len(f), len(state.log_q)))
        for group, F, L in zip(bundle.groups, state.F, state.L, strict=True):
            for k, f_k, l_k, a in zip(group.members, F, L, group.problem.a, strict=True):
                with np.errstate(divide="ignore", invalid="ignore"):
                    f_k = np.where(a > 0, f_k - np.log(a), 0.0)
                f[k] = bundle.array(bundle.eps * f_k)
                g[k] = -bundle.eps * l_k
        self.f, self.g = f, bundle.array(g)

    def __repr__(self) -> str:
        return (
            f"BarycenterResult(K={len(self.f)}, s={len(self.weights)}, eps={self.eps:.4g}, "
            f"marginal_error={self.marginal_error:.2g}, converged={self.converged}, n_iter={self.n_iter})"
        )

    def plan(self, k: int) -> Any:
        """Return the plan from cloud `k` to the support, shape (n_k, s)."""
        group, at = self._bundle.find(k)
        F, G = self._state.F[group], self._state.G[group]
        return self._bundle.groups[group].problem.plan(F, G, at)

    def barycentric_map(self, k: int) -> Any:
        """Return the mean of the points of cloud `k` that each point of the support comes from, shape (s, d)."""
        number, at = self._bundle.find(k)
        group = self._bundle.groups[number]
        if group.clouds is None:
            raise TypeError(
                "barycentric_map: expected a barycentre of points, this is one for costs"
            )
        # Without q the columns sum to one wherever the support is.
        F, G = self._state.F[number], -self._state.L[number]
        return group.problem.apply(F, G, group.clouds, transposed=True)[at]


def barycenter(
    clouds: Any,
    support: Any,
    *,
    eps: float,
    weights: Any = None,
    masses: Any = None,
    p: float = 2,
    debiased: bool = False,
    tol: float = 1e-6,
    max_iter: int = 10_000,
    normalize: bool = False,
    device: Any = None,
) -> BarycenterResult:
    """Return the entropic barycentre of point clouds on a given support.

    It is the distribution q on the support that minimises ``sum_k w_k OT_eps(a_k, q)``, found by iterative Bregman
    projections [1]_ in the log domain. Costs ``|x - s|^p`` are computed where they are needed: memory is O(points).

    Parameters
    ----------
    clouds : sequence of arrays, shape (n_k, d), or array, shape (K, n, d) or (n, d), float32 or float64
        The clouds; they may differ in size. One array (n, d) is shared by all rows of `masses`, such as the pixels of
        images.
    support : array, shape (s, d)
        Where the barycentre may have mass.
    eps : float
        The regularisation, in units of the cost.
    weights : array, shape (K,), optional
        Weights >= 0 of the clouds, of sum 1; by default equal.
    masses : sequence of arrays, shape (n_k,), or array, shape (K, n), optional
        Weights of the points of each cloud, by default equal; see `mckean.sinkhorn`.
    p : float
        Positive. 2 is the squared Euclidean distance.
    debiased : bool
        Remove the blur of size ``sqrt(eps)``: minimise the Sinkhorn divergences instead [2]_.
    tol : float
        The L1 error of the plans' marginals to stop at.
    max_iter : int
        The largest number of iterations, each being one with every cloud.
    normalize : bool
        Divide `weights` and `masses` by their sums first.
    device : str, optional
        "cuda" runs the problem of NumPy arrays on a GPU.

    Returns
    -------
    BarycenterResult
        Its arrays are of the framework, dtype and device of `support`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, if points or weights are not finite, weights negative or of a
        wrong sum.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not met; ``converged`` is then False and ``marginal_error`` what was reached.

    See Also
    --------
    free_barycenter : moves the support instead of weighing it
    mckean.sinkhorn_points

    Notes
    -----
    Without debiasing the entropy of plans is taken with respect to the counting measure of the support, as in [1]_, so
    that q does not shrink onto few points. Of Gaussians on a fine grid both kinds are Gaussian, with known variances.
    The error of debiased barycentres falls fast at first and then like 1 / iterations where q has next to no mass.

    References
    ----------
    .. [1] J. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyré, "Iterative Bregman projections for regularized
       transportation problems", SIAM Journal on Scientific Computing 37, 2015, arXiv:1412.5154
    .. [2] H. Janati, M. Cuturi, A. Gramfort, "Debiased Sinkhorn barycenters", ICML 2020, arXiv:2006.02575

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> grid = np.linspace(0, 1, 50)[:, None]
    >>> bumps = np.exp(-0.5 * ((grid[:, 0] - [[0.2], [0.7]]) / 0.05) ** 2)
    >>> res = mk.transport.barycenter(grid, grid, eps=1e-3, masses=bumps, normalize=True, debiased=True)
    >>> round(float(res.weights @ grid[:, 0]), 3)
    0.45
    """
    power = positive(p, "p")
    s = _points(support, "support", power)
    rule = _Rule(tol, max_iter, flag(debiased, "debiased"), flag(normalize, "normalize"))
    found, masses = _read_clouds(clouds, masses, s, "support", power)
    share = _shares(weights, len(found), s, rule.normalize)
    mass = _masses(masses, found, s, rule.normalize)
    strength = float(one_eps(eps, s.dtype)[0])
    groups = []
    for members in _by_size([c.shape[0] for c in found]):
        cloud_of = _stacked(s, [found[k] for k in members])
        support_of = _stacked(s, [s] * len(members))
        groups.append(
            _Group(
                members,
                Problem.of_points(
                    cloud_of,
                    support_of,
                    power,
                    np.stack([mass[k] for k in members]),
                    np.full((len(members), s.shape[0]), 1.0 / s.shape[0]),
                    np.full(len(members), strength),
                    device,
                ),
                cloud_of,
            )
        )
    own = None
    if rule.debiased:
        own = Problem.of_points(
            *(s, s, power), *(np.full((1, s.shape[0]), 1.0 / s.shape[0]),) * 2, np.full(1, strength), device
        )  # fmt: skip
    return _solved(_Bundle(groups, own, share, strength, s), rule)


# ---- the iterations ----------------------------------------------------------------------------


class _Rule:
    def __init__(self, tol: Any, max_iter: Any, debiased: bool, normalize: bool) -> None:
        self.tol = nonnegative(tol, "tol")
        self.max_iter = as_count(max_iter, "max_iter", least=1)
        self.debiased, self.normalize = debiased, normalize


@dataclass(slots=True)
class _Group:
    """Clouds of one size: a batch."""

    members: list[int]
    problem: Problem
    clouds: Input | None  # (len(members), n, d)


@dataclass(slots=True)
class _State:
    """Log scalings by groups; L = log K^T exp(F), so that the columns of all plans sum to q."""

    F: list[Doubles]
    G: list[Doubles]
    L: list[Doubles]
    log_q: Doubles
    log_d: Doubles  # of the plan of q with itself, of a debiased barycentre


@dataclass(slots=True)
class _Bundle:
    groups: list[_Group]
    own: Problem | None  # of the support with itself
    share: Doubles  # (K,)
    eps: float
    at: Input

    def array(self, values: Doubles) -> Any:
        return self.at.framework.asarray(
            np.ascontiguousarray(values, self.at.dtype), self.at.device
        )

    def find(self, k: int) -> tuple[int, int]:
        """The group of a cloud and its place there."""
        k = as_count(k, "k")
        for number, group in enumerate(self.groups):
            if k in group.members:
                return number, group.members.index(k)
        raise ValueError(f"k: expected the number of one of {len(self.share)} clouds, got {k}")

    def rows(self, G: list[Doubles]) -> list[Doubles]:
        """Scalings by which the rows of all plans are right."""
        with np.errstate(divide="ignore"):
            return [
                g.problem.transform(np.zeros_like(g.problem.a), v, columns=False) + np.log(g.problem.a)
                for g, v in zip(self.groups, G, strict=True)
            ]  # fmt: skip

    def means(self, F: list[Doubles], log_d: Doubles) -> tuple[list[Doubles], Doubles]:
        """log K^T exp(F), and log q, their mean."""
        L, log_q = [], log_d.copy()
        for g, u in zip(self.groups, F, strict=True):
            zero = np.zeros((len(u), len(log_d)))
            L.append(-g.problem.transform(u, zero, columns=True))
            log_q += self.share[g.members] @ L[-1]
        return L, log_q

    def own_transform(self, log_d: Doubles) -> Doubles:
        assert self.own is not None
        found = self.own.transform(np.zeros((1, len(log_d))), log_d[None], columns=False)
        return np.asarray(found[0])

    def error(self, old: list[Doubles], new: list[Doubles], log_total: float) -> float:
        """The largest L1 distance of the rows' sums from the weights, from what the next scalings change."""
        worst = 0.0
        for g, u, v in zip(self.groups, old, new, strict=True):
            a = g.problem.a
            with np.errstate(invalid="ignore", over="ignore"):
                off = np.where(a > 0, a * np.expm1(u - v - log_total), 0.0)
            worst = max(worst, float(abs(off).sum(1).max()))
        return worst

    def cost(self, state: _State) -> float:
        total = 0.0
        for g, F, G in zip(self.groups, state.F, state.G, strict=True):
            values = g.problem.marginals(F, G, cost=True)[2]
            assert values is not None
            total += float(self.share[g.members] @ values)
        return total


def _solved(bundle: _Bundle, rule: _Rule) -> BarycenterResult:
    size = bundle.at.shape[-2]
    log_d = np.zeros(size)
    F = bundle.rows([np.zeros((len(g.members), size)) for g in bundle.groups])
    done = 0
    while True:
        L, log_q = bundle.means(F, log_d)
        G = [log_q - v for v in L]
        state = _State(F, G, L, log_q, log_d)
        done += 1
        F = bundle.rows(G)
        total = _log_sum(log_q)
        error = bundle.error(state.F, F, total)
        if rule.debiased:
            own = bundle.own_transform(log_d)
            mine = np.exp(log_d - own - total)
            error = max(error, float(abs(mine - np.exp(log_q - total)).sum()))
            log_d = 0.5 * (log_d + log_q + own)
        if not error > rule.tol or done == rule.max_iter:
            break
    # The mass that is still missing; columns then sum to q again.
    state.log_q, state.G = state.log_q - total, [G - total for G in state.G]
    converged = error <= rule.tol
    if not converged:
        warnings.warn(
            f"barycenter: tol={rule.tol:g} not met after {done} iterations, the marginal error is {error:.2g}; try "
            "more iterations (max_iter), a larger eps or tol",
            ConvergenceWarning,
            stacklevel=3,
        )
    return BarycenterResult(bundle, state, error, converged, done)


def _log_sum(v: Doubles) -> float:
    top = float(v.max())
    return top + float(np.log(np.exp(v - top).sum()))


# ---- a given cost ------------------------------------------------------------------------------


def barycenter_of_costs(
    masses: Any,
    cost: Any,
    *,
    eps: float,
    weights: Any = None,
    support_cost: Any = None,
    debiased: bool = False,
    tol: float = 1e-6,
    max_iter: int = 10_000,
    normalize: bool = False,
    device: Any = None,
) -> BarycenterResult:
    """Return the entropic barycentre of distributions for given costs to its support; see `barycenter`.

    Parameters
    ----------
    masses : array, shape (K, n)
        The distributions.
    cost : array, shape (n, s) or (K, n, s), float32 or float64
        From their points to the support; one cost may serve all. +inf forbids a pair.
    eps, weights, debiased, tol, max_iter, normalize, device
        See `barycenter`.
    support_cost : array, shape (s, s), optional
        Of the support with itself, symmetric; for debiased barycentres. By default `cost`, if it is square and shared.

    Returns
    -------
    BarycenterResult
        Its arrays are of the framework, dtype and device of `cost`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If `tol` is not met.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> cost = (np.arange(5.0)[:, None] - np.arange(5.0)) ** 2
    >>> res = mk.transport.barycenter_of_costs(np.eye(5)[[0, 4]], cost, eps=0.1)
    >>> res.weights.round(3)
    array([0., 0., 1., 0., 0.])
    """
    at = cost_matrix(cost)
    n, size = at.shape[-2:]
    rule = _Rule(tol, max_iter, flag(debiased, "debiased"), flag(normalize, "normalize"))
    strength = float(one_eps(eps, at.dtype)[0])
    rows = as_match(masses, "masses", at, "cost", shape=("K", n), any_float=True)
    count = rows.shape[0]
    if count == 0 or at.shape[:-2] not in ((), (count,)):
        raise ValueError(f"masses: expected as many rows as costs, got {count} and {at.shape}")
    a = marginal(masses, "masses", n, count, at, "cost", free=False, normalize=rule.normalize)
    share = _shares(weights, count, at, rule.normalize)
    even = np.full((count, size), 1.0 / size)
    check_feasible(at, a, even)
    own = None
    if rule.debiased:
        if support_cost is None and (n != size or len(at.shape) == 3):
            raise ValueError("support_cost: expected the cost of the support with itself")
        theirs = at
        if support_cost is not None:
            theirs = as_match(support_cost, "support_cost", at, "cost", shape=(size, size))
        values = to_numpy(theirs.array)
        if not (values == values.T).all():
            raise ValueError("support_cost: expected a symmetric matrix")
        check_feasible(theirs, even[:1], even[:1])
        own = Problem.of_cost(theirs, None, even[:1], even[:1], np.full(1, strength), device)
    problem = Problem.of_cost(at, count, a, even, np.full(count, strength), device)
    return _solved(
        _Bundle([_Group(list(range(count)), problem, None)], own, share, strength, at), rule
    )


# ---- a support that moves ----------------------------------------------------------------------


@dataclass(slots=True)
class FreeBarycenterResult:
    """A barycentre as points.

    Attributes
    ----------
    x : array, shape (s, d)
        The points.
    weights : array, shape (s,)
        Their weights, as given.
    marginal_error : float
        The largest L1 error of the last plans.
    move : float
        How far the points moved in the last step, root mean square, relative to the spread of the clouds.
    converged : bool
    n_steps, n_iter : int
        Steps of the points, and Sinkhorn iterations in all of them.
    """

    x: Any
    weights: Any
    marginal_error: float
    move: float
    converged: bool
    n_steps: int
    n_iter: int


def free_barycenter(
    clouds: Any,
    start: Any,
    *,
    eps: float,
    weights: Any = None,
    masses: Any = None,
    start_weights: Any = None,
    debiased: bool = False,
    move_tol: float = 1e-3,
    max_steps: int = 100,
    tol: float = 1e-6,
    max_iter: int = 10_000,
    normalize: bool = False,
    device: Any = None,
) -> FreeBarycenterResult:
    """Return points that are the entropic barycentre of point clouds for the squared distance.

    The points keep their weights and move to ``x <- sum_k w_k T_k(x)``, the mean of where the plans send them [1]_;
    every solve starts from the potentials of the last one. That minimises ``sum_k w_k OT_eps(x, y_k)``.

    Parameters
    ----------
    clouds, weights, masses, eps, normalize, device
        See `barycenter`.
    start : array, shape (s, d)
        Where the points start; not all at one place.
    start_weights : array, shape (s,), optional
        Their weights, by default equal.
    debiased : bool
        Minimise the Sinkhorn divergences instead, ``x <- x + sum_k w_k T_k(x) - T_x(x)``: plans blur, and without this
        the points come too close to each other.
    move_tol : float
        Stop when a step moves the points by less than this, root mean square, relative to that of the distances of the
        clouds' points from their mean.
    max_steps : int
        The largest number of steps.
    tol, max_iter
        Of every solve.

    Returns
    -------
    FreeBarycenterResult
        Its arrays are of the framework, dtype and device of `start`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If the points still move by more than `move_tol`, or a solve does not meet `tol`.

    References
    ----------
    .. [1] M. Cuturi, A. Doucet, "Fast computation of Wasserstein barycenters", ICML 2014, arXiv:1310.4375

    Examples
    --------
    >>> import mckean as mk
    >>> y = mk.random.normal(0, (60, 2))
    >>> res = mk.transport.free_barycenter([y, y + [4.0, 0.0]], y[:40], eps=0.2, debiased=True)
    >>> res.x.mean(0).round(1) - y.mean(0).round(1)
    array([2., 0.])
    """
    at = _points(start, "start", 2.0)
    rule = _Rule(tol, max_iter, flag(debiased, "debiased"), flag(normalize, "normalize"))
    move_tol = nonnegative(move_tol, "move_tol")
    max_steps = as_count(max_steps, "max_steps", least=1)
    found, masses = _read_clouds(clouds, masses, at, "start", 2.0)
    share = _shares(weights, len(found), at, rule.normalize)
    mass = _masses(masses, found, at, rule.normalize)
    q = marginal(
        start_weights, "start_weights", at.shape[0], None, at, "start", free=False, normalize=rule.normalize
    )  # fmt: skip
    strength = float(one_eps(eps, at.dtype)[0])
    groups = [
        (members, _stacked(at, [found[k] for k in members]), np.stack([mass[k] for k in members]))
        for members in _by_size([c.shape[0] for c in found])
    ]
    spread = _spread(found, mass, share)
    settings = Settings(tol=rule.tol, max_iter=rule.max_iter)
    warm: list[Doubles | None] = [None] * (len(groups) + 1)
    x, done, n_iter = at, 0, 0
    while True:
        error, solved, target = 0.0, True, np.zeros(at.shape)
        for number, (members, theirs, b) in enumerate(groups):
            mine = _stacked(at, [x] * len(members))
            problem = Problem.of_points(
                mine, theirs, 2.0, np.repeat(q, len(members), 0), b, np.full(len(members), strength), device
            )  # fmt: skip
            solution = solve(problem, settings, warm[number])
            warm[number] = solution.G
            target += np.tensordot(share[members], _images(problem, solution.G, theirs), 1)
            error, n_iter = max(error, solution.error.max()), n_iter + int(solution.n_iter.sum())
            solved &= bool(solution.converged.all())
        position = to_numpy(x.array).astype(np.float64)
        if rule.debiased:
            problem = Problem.of_points(x, x, 2.0, q, q, np.full(1, strength), device)
            solution = solve_symmetric(problem, settings, warm[-1])
            warm[-1] = solution.F
            target += position - _images(problem, solution.F, x)[0]
            error, n_iter = max(error, solution.error.max()), n_iter + int(solution.n_iter.sum())
            solved &= bool(solution.converged.all())
        move = float(np.sqrt(q[0] @ ((target - position) ** 2).sum(1))) / spread
        x = as_input(at.framework.asarray(np.ascontiguousarray(target, at.dtype), at.device), "x")
        done += 1
        if not move > move_tol or done == max_steps:
            break
    converged = solved and move <= move_tol
    if not converged:
        why = f"move_tol={move_tol:g} not met" if solved else f"tol={rule.tol:g} not met by a solve"
        warnings.warn(
            f"free_barycenter: {why} after {done} steps, the last move is {move:.2g} and the marginal error "
            f"{error:.2g}; try more steps (max_steps) or iterations (max_iter), or a larger eps",
            ConvergenceWarning,
            stacklevel=2,
        )
    weights_out = at.framework.asarray(np.ascontiguousarray(q[0], at.dtype), at.device)
    return FreeBarycenterResult(x.array, weights_out, float(error), move, converged, done, n_iter)


def _images(problem: Problem, G: Doubles, values: Input) -> Doubles:
    """Where the plans send the rows, (batch, n, d); also those without weight."""
    F = problem.transform(np.zeros((problem.batch, problem.n)), G, columns=False)
    moved = to_numpy(problem.apply(F, G, values, transposed=False)).astype(np.float64)
    return moved.reshape(problem.batch, problem.n, -1)


def _spread(found: list[Input], mass: list[Doubles], share: Doubles) -> float:
    """Root mean square distance of the clouds' points from their mean."""
    first = [a @ to_numpy(c.array).astype(np.float64) for c, a in zip(found, mass, strict=True)]
    mean = share @ np.stack(first)
    square = [
        float(a @ ((to_numpy(c.array).astype(np.float64) - mean) ** 2).sum(1))
        for c, a in zip(found, mass, strict=True)
    ]
    return float(np.sqrt(share @ np.array(square))) or 1.0


# ---- arguments ---------------------------------------------------------------------------------


def _points(x: Any, name: str, power: float) -> Input:
    at = as_input(x, name, shape=("s", "d"))
    if at.shape[1] == 0:
        raise ValueError(f"{name}: expected shape (s, d), d >= 1, got {at.shape}")
    return cloud(at, name, power)


def _read_clouds(
    clouds: Any, masses: Any, at: Input, name: str, power: float
) -> tuple[list[Input], Any]:
    """The clouds, one by one, and their masses in a sequence."""
    if is_array(clouds) and clouds.ndim == 2:
        if masses is None or not is_array(masses) or masses.ndim != 2 or len(masses) == 0:
            raise ValueError(
                "masses: expected an array (K, n) for a single array of clouds (n, d), "
                f"got {'None' if masses is None else getattr(masses, 'shape', type(masses).__name__)}"
            )
        clouds = [clouds] * len(masses)
    if not (is_array(clouds) and clouds.ndim == 3) and not isinstance(clouds, Sequence):
        raise TypeError(
            f"clouds: expected a sequence of arrays (n, d) or an array (K, n, d), got {type(clouds).__name__}"
        )
    if len(clouds) == 0:
        raise ValueError("clouds: expected at least 1 cloud, got 0")
    found: list[Input] = []
    before = None
    for k in range(len(clouds)):
        c = clouds[k]
        if c is before:  # one array for all
            found.append(found[-1])
            continue
        each = as_match(c, f"clouds[{k}]", at, name, shape=("n", at.shape[1]))
        found.append(cloud(each, f"clouds[{k}]", power))
        before = c
    return found, masses


def _shares(weights: Any, count: int, at: Input, normalize: bool) -> Doubles:
    """Weights of the clouds, (K,)."""
    found = marginal(
        weights, "weights", count, None, at, "support", free=False, normalize=normalize
    )
    return np.asarray(found[0])


def _masses(masses: Any, found: list[Input], at: Input, normalize: bool) -> list[Doubles]:
    if masses is not None and len(masses) != len(found):
        raise ValueError(f"masses: expected {len(found)} rows, one a cloud, got {len(masses)}")
    return [
        marginal(
            None if masses is None else masses[k],
            f"masses[{k}]", c.shape[0], None, at, "clouds", free=False, normalize=normalize,
        )[0]
        for k, c in enumerate(found)
    ]  # fmt: skip


def _by_size(sizes: list[int]) -> list[list[int]]:
    """Numbers of clouds of one size each."""
    found: dict[int, list[int]] = {}
    for k, n in enumerate(sizes):
        found.setdefault(n, []).append(k)
    return list(found.values())


def _stacked(at: Input, clouds: list[Input]) -> Input:
    """Clouds of one size as (K, n, d)."""
    return as_input(at.framework.concatenate([c.array[None] for c in clouds]), "clouds")
