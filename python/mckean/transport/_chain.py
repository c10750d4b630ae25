"""Multi-marginal transport along a chain: messages between neighbours instead of a tensor."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, nonfinite_rows, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_seed, positive
from mckean.transport._arguments import cloud, one_eps, settings_of
from mckean.transport._couplings import stratified_rows
from mckean.transport._draws import draw_columns
from mckean.transport._problem import Doubles, Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import Settings, Solution, solve
from mckean.transport._weights import flag, marginal

__all__ = ["ChainResult", "chain_sinkhorn", "chain_sinkhorn_points"]

_STREAM = 0x636861696E00  # "chain"


@dataclass(eq=False, slots=True)
class ChainResult:
    """What `chain_sinkhorn` returns: the joint plan of K nodes, as the couplings of neighbours.

    Attributes
    ----------
    couplings : list of SinkhornResult, length K - 1
        The joint law of nodes k and k + 1, with ``plan()``, ``apply(v)``, ``barycentric_map()`` and the rest.
    marginals : list of array, shapes (n_k,)
        The given marginals, and of free nodes those found.
    potentials : list of array or None
        f_k of constrained nodes, None for free ones: the joint plan is ``exp((sum f_k - sum c_k) / eps)`` times the
        product of the given marginals.
    eps : float
    cost : float
        ``<P, sum_k c_k>``.
    marginal_error : float
        L1, over all constrained nodes and their couplings.
    converged : bool
    n_iter : int
        The largest number of iterations among the parts of the chain.
    """

    couplings: list[SinkhornResult]
    marginals: list[Any]
    potentials: list[Any]
    eps: float
    cost: float
    marginal_error: float
    converged: bool
    n_iter: int
    _edges: list[_Edge]

    def __repr__(self) -> str:
        sizes = tuple(int(m.shape[0]) for m in self.marginals)
        return (
            f"ChainResult(sizes={sizes}, cost={self.cost:.6g}, "
            f"marginal_error={self.marginal_error:.2g}, converged={self.converged})"
        )

    def conditional_mean(self, values: Any, *, at: int, given: int) -> Any:
        """Return the mean of `values`, which live on node `at`, given the point of node `given`.

        Parameters
        ----------
        values : array, shape (n_at,) or (n_at, q)
            Such as the points themselves; of the framework and dtype of the costs.
        at, given : int
            Nodes; they need not be neighbours.

        Returns
        -------
        array, shape (n_given,) or (n_given, q)
        """
        count = len(self.marginals)
        at, given = as_count(at, "at"), as_count(given, "given")
        for node, name in ((at, "at"), (given, "given")):
            if node >= count:
                raise ValueError(f"{name}: expected a node below {count}, got {node}")
        like = self._edges[0].problem.at
        now = as_match(values, "values", like, "the costs", shape=tuple(values.shape))
        if not now.shape or now.shape[0] != self.marginals[at].shape[0]:
            raise ValueError(
                f"values: expected {self.marginals[at].shape[0]} rows to match node {at}, "
                f"got {now.shape}"
            )
        result = now.array
        for k in range(at - 1, given - 1, -1) if at > given else range(at, given):
            result = self._edges[k].conditional_mean(now, forward=at > given)
            now = as_input(result, "values")
        return result

    def sample(self, n: int, *, seed: Any = 0) -> Any:
        """Draw paths of indices from the joint plan.

        Parameters
        ----------
        n : int
            Number of paths. Their first points are drawn one from each of n equal shares of the mass.
        seed : int or numpy.random.SeedSequence

        Returns
        -------
        array of int64, shape (n, K)
            Of the framework of the costs.
        """
        n, seed = as_count(n, "n"), as_seed(seed)
        index = np.empty((n, len(self.marginals)), np.int64)
        first = to_numpy(self.marginals[0]).astype(np.float64)
        index[:, 0] = stratified_rows(first, random.uniform(seed, n, stream=_STREAM))
        for k, edge in enumerate(self._edges):
            u = random.uniform(seed, n, stream=_STREAM, counter=k + 1)
            rows = np.ascontiguousarray(index[:, k])
            index[:, k + 1] = draw_columns(edge.problem, edge.F, edge.G, rows, u)
        at = self._edges[0].problem.at
        return at.framework.asarray(index, at.device)


def chain_sinkhorn(
    marginals: Sequence[Any],
    costs: Sequence[Any],
    *,
    eps: float,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    normalize: bool = False,
) -> ChainResult:
    """Solve entropic multi-marginal transport for a cost that is a sum along a chain.

    Minimises ``<P, sum_k c_k(x_k, x_{k+1})> + eps KL(P | reference)`` over the laws P of (x_0, ..., x_{K-1}) with the
    given marginals. Nodes without a marginal are free: of all laws on their points the best one is found, as for the
    unknown state at a time between two observations. The tensor P is never formed: time and memory are those of the
    K - 1 costs.

    Parameters
    ----------
    marginals : sequence of K arrays, shapes (n_k,), or None
        Weights >= 0 of sum 1, None for free nodes; at least one is given.
    costs : sequence of K - 1 arrays, shapes (n_k, n_{k+1}), float32 or float64
        ``+inf`` forbids a pair.
    eps : float
        Regularisation > 0, in units of the costs.
    method : {"auto", "scaling", "log", "newton"}
        For neighbours that are both constrained; see `mckean.sinkhorn`.
    tol : float
        L1 error of all marginals together.
    max_iter : int
        Iterations of each part of the chain.
    normalize : bool
        Divide each marginal by its sum first.

    Returns
    -------
    ChainResult
        Arrays are of the framework, dtype and device of the first cost. Deterministic; not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or +inf stands in every way of a point with weight.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached; ``result.converged`` is then False.

    See Also
    --------
    chain_sinkhorn_points, mckean.sinkhorn, mckean.schrodinger_bridge

    Notes
    -----
    A constrained node separates the chain: given its point, both sides are independent, and the plan is the product of
    the plans of the parts over the marginal between them. So neighbours that are both constrained are an ordinary
    problem, and only runs of free nodes need messages ``-log sum_j exp(G_j - c_ij / eps)`` passed along them. The
    reference measure is the product of the marginals, and the counting measure on free nodes.

    References
    ----------
    .. [1] J.-D. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyré, "Iterative Bregman projections for regularized
       transportation problems", SIAM J. Sci. Comput. 37 (2015), arXiv:1412.5154

    Examples
    --------
    Where is a cloud halfway between two others? The node between is free, on a grid:

    >>> import numpy as np
    >>> from mckean.transport import chain_sinkhorn
    >>> left, grid, right = np.array([0.0, 0.1]), np.linspace(0, 1, 51), np.array([0.8, 1.0])
    >>> costs = [(left[:, None] - grid) ** 2, (grid[:, None] - right) ** 2]
    >>> half = np.full(2, 0.5)
    >>> res = chain_sinkhorn([half, None, half], costs, eps=0.01)
    >>> round(float(res.marginals[1] @ grid), 4)
    0.475
    >>> middle = res.conditional_mean(grid, at=1, given=0)
    >>> [round(float(m), 2) for m in middle]
    [0.43, 0.52]
    """
    if not isinstance(costs, (list, tuple)) or not costs:
        raise ValueError("costs: expected a sequence of at least one array")
    ats = [as_input(costs[0], "costs[0]", shape=("n", "m"))]
    for k, cost in enumerate(costs[1:], 1):
        shape = (ats[-1].shape[1], "m")
        ats.append(as_match(cost, f"costs[{k}]", ats[0], "costs[0]", shape=shape))
    for k, at in enumerate(ats):
        if 0 in at.shape:
            raise ValueError(f"costs[{k}]: expected at least one row and column, got {at.shape}")
        low = float(at.array.min())
        if not low > -np.inf:
            raise ValueError(f"costs[{k}]: expected numbers or +inf, got {low}")
    sizes = [at.shape[0] for at in ats] + [ats[-1].shape[1]]
    weights = _weights(marginals, sizes, ats[0], "costs[0]", normalize)
    _check_ways(weights, ats)
    level = one_eps(eps, ats[0].dtype)

    def problem(k: int, a: Doubles, b: Doubles) -> Problem:
        return Problem.of_cost(ats[k], None, a, b, level)

    return _solve_chain(weights, sizes, problem, None, method, tol, max_iter)


def chain_sinkhorn_points(
    points: Sequence[Any],
    marginals: Sequence[Any] | None = None,
    *,
    eps: float,
    p: float = 2,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    normalize: bool = False,
    device: Any = None,
) -> ChainResult:
    """Solve entropic multi-marginal transport along a chain of point clouds, without a matrix.

    Parameters
    ----------
    points : sequence of K arrays, shapes (n_k, d), float32 or float64
        At least two; costs are ``|x_k - x_{k+1}|**p`` between neighbours.
    marginals : sequence of K arrays, shapes (n_k,), or None, optional
        Weights >= 0 of sum 1, None for free nodes. By default all are constrained to equal weights.
    eps : float
        Regularisation > 0, in units of the costs.
    p : float
        Exponent > 0 of the Euclidean distance.
    method, tol, max_iter, normalize
        See `chain_sinkhorn`.
    device : str, optional
        "cuda" lets NumPy users compute on a GPU.

    Returns
    -------
    ChainResult
        Arrays are of the framework, dtype and device of the first cloud. Memory O(sum of n_k).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or a point is not finite.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached; ``result.converged`` is then False.

    See Also
    --------
    chain_sinkhorn

    References
    ----------
    .. [1] J.-D. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyré, "Iterative Bregman projections for regularized
       transportation problems", SIAM J. Sci. Comput. 37 (2015), arXiv:1412.5154

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.transport import chain_sinkhorn_points
    >>> clouds = [mk.random.normal(k, (40, 2)) + k for k in range(3)]
    >>> res = chain_sinkhorn_points(clouds, eps=0.5)
    >>> res.converged, res.couplings[0].plan().shape
    (True, (40, 40))
    >>> last = res.conditional_mean(clouds[2], at=2, given=0)
    >>> last.shape, res.sample(100, seed=1).shape
    ((40, 2), (100, 3))
    """
    if not isinstance(points, (list, tuple)) or len(points) < 2:
        raise ValueError("points: expected a sequence of at least two arrays")
    ats = [as_input(points[0], "points[0]", shape=("n", "d"))]
    for k, other in enumerate(points[1:], 1):
        shape = ("m", ats[0].shape[1])
        ats.append(as_match(other, f"points[{k}]", ats[0], "points[0]", shape=shape))
    power = positive(p, "p")
    for k, at in enumerate(ats):
        cloud(at, f"points[{k}]", power)
    sizes = [at.shape[0] for at in ats]
    if marginals is None:
        weights: list[Doubles | None] = [np.full((1, n), 1.0 / n) for n in sizes]
    else:
        weights = _weights(marginals, sizes, ats[0], "points[0]", normalize)
    level = one_eps(eps, ats[0].dtype)

    def problem(k: int, a: Doubles, b: Doubles) -> Problem:
        return Problem.of_points(ats[k], ats[k + 1], power, a, b, level, device)

    return _solve_chain(weights, sizes, problem, (ats, power), method, tol, max_iter)


def _weights(
    marginals: Any, sizes: list[int], at: Input, at_name: str, normalize: Any
) -> list[Doubles | None]:
    """Marginals as (1, n) in float64, None where free."""
    normalize = flag(normalize, "normalize")
    if not isinstance(marginals, (list, tuple)) or len(marginals) != len(sizes):
        got = len(marginals) if isinstance(marginals, (list, tuple)) else type(marginals).__name__
        raise ValueError(f"marginals: expected a sequence of {len(sizes)}, got {got}")
    if all(w is None for w in marginals):
        raise ValueError("marginals: expected at least one that is not None")
    return [
        None
        if w is None
        else marginal(w, f"marginals[{k}]", n, None, at, at_name, free=False, normalize=normalize)
        for k, (w, n) in enumerate(zip(marginals, sizes, strict=True))
    ]


def _check_ways(weights: list[Doubles | None], ats: list[Input]) -> None:
    """Refuse costs that leave a point with weight no way along finite entries to the other constrained nodes, or to the
    ends of the chain."""
    if not any(nonfinite_rows(at) for at in ats):
        return
    held = [None if w is None else w[0] > 0 for w in weights]
    ways = [np.isfinite(to_numpy(at.array)) for at in ats]
    nodes = range(len(held))
    for order, steps in ((nodes, ways), (nodes[::-1], [way.T for way in ways[::-1]])):
        reached = np.ones(len(steps[0]), bool)
        for k, step in zip(order, (None, *steps), strict=True):
            if step is not None:
                reached = step[reached].any(0)
            mass = held[k]
            if mass is None:
                continue
            lost = np.flatnonzero(mass & ~reached)
            if lost.size:
                raise ValueError(
                    "costs: expected a plan to be possible, "
                    f"got +inf in every way of point {lost[0]} of node {k}"
                )
            reached = mass


class _Edge:
    """Neighbours and the log scalings of their coupling."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.F, self.G = np.zeros((1, problem.n)), np.zeros((1, problem.m))

    def forward(self) -> Doubles:
        """log sum_i exp(F_i - c_ij / eps)."""
        return -self.problem.transform(self.F, self.G, columns=True)

    def backward(self) -> Doubles:
        """log sum_j exp(G_j - c_ij / eps)."""
        return -self.problem.transform(self.F, self.G, columns=False)

    def row_sums(self) -> Doubles:
        return np.asarray(np.exp(self.F + self.backward()))

    def column_sums(self) -> Doubles:
        return np.asarray(np.exp(self.G + self.forward()))

    def conditional_mean(self, values: Input, *, forward: bool) -> Any:
        """Of values on the columns given the row (forward), or of values on the rows given the column."""
        # Scaled so that every sum is one: points without weight get their answer as well.
        if forward:
            return self.problem.apply(-self.backward(), self.G, values, transposed=False)
        return self.problem.apply(self.F, -self.forward(), values, transposed=True)


def _solve_chain(
    weights: list[Doubles | None],
    sizes: list[int],
    problem: Callable[[int, Doubles, Doubles], Problem],
    points: tuple[list[Input], float] | None,
    method: str,
    tol: float,
    max_iter: int,
) -> ChainResult:
    settings = settings_of(method, tol, max_iter, "anderson", False, None)
    last = len(weights) - 1
    ends = sorted({0, last} | {k for k, w in enumerate(weights) if w is not None})
    known = [np.ones((1, n)) if w is None else w for n, w in zip(sizes, weights, strict=True)]
    edges = [_Edge(problem(k, known[k], known[k + 1])) for k in range(last)]
    n_iter, converged, used = 0, True, "log"
    for first, end in itertools.pairwise(ends):
        share = settings.tol / (len(ends) - 1)
        part = edges[first:end]
        if len(part) == 1 and weights[first] is not None and weights[end] is not None:
            s = solve(part[0].problem, replace(settings, tol=share))
            part[0].F, part[0].G = s.F, s.G
            count, done, used = int(s.n_iter[0]), bool(s.converged[0]), s.method
        else:
            count, done = _scale_part(part, weights[first], weights[end], share, settings.max_iter)
            for k in range(first, end + 1):
                if weights[k] is None:
                    known[k] = part[k - first].row_sums() if k < end else part[-1].column_sums()
        n_iter, converged = max(n_iter, count), converged and done
    for k, edge in enumerate(edges):
        edge.problem.a, edge.problem.b = known[k], known[k + 1]
    return _result(weights, known, edges, points, settings, n_iter, converged, used)


def _scale_part(
    part: list[_Edge], a: Doubles | None, b: Doubles | None, tol: float, max_iter: int
) -> tuple[int, bool]:
    """Scale a run of free nodes between two ends, at most one of which is free. Leaves in every edge the messages that
    arrive at it, the log scalings of its coupling. Returns iterations, and whether the tolerance was reached."""
    mass = float((a if a is not None else b).sum())  # type: ignore[union-attr]
    with np.errstate(divide="ignore"):
        log_a, log_b = (None if w is None else np.log(w) for w in (a, b))
    start = np.zeros_like(part[0].F) if log_a is None else log_a.copy()
    error, count = np.inf, 0
    while True:
        part[0].F = start
        for edge, following in itertools.pairwise(part):
            following.F = edge.forward()
        part[-1].G = _scaling(log_b, part[-1].forward())
        for edge, before in zip(part[::-1], part[-2::-1], strict=False):
            before.G = edge.backward()
        message = part[0].backward()
        if a is None or b is None:  # one message each way is exact
            if a is not None:
                part[0].F = start = _scaling(log_a, message)
                for edge, following in itertools.pairwise(part):
                    following.F = edge.forward()
            return 1, True
        error = float(abs(np.exp(start + message) - a).sum())
        if error <= tol * mass or count >= max_iter:
            return count, error <= tol * mass
        start = _scaling(log_a, message)
        count += 1


def _scaling(log_weights: Doubles | None, message: Doubles) -> Doubles:
    """The log scaling of an end: what makes its marginal right, or nothing where it is free."""
    if log_weights is None:
        return np.zeros_like(message)
    weighty = log_weights > -np.inf
    if not np.isfinite(message[weighty]).all():
        raise ValueError(
            "costs: expected a plan to be possible, got a point without any finite cost"
        )
    return np.where(weighty, log_weights - np.where(weighty, message, 0.0), -np.inf)


def _result(
    weights: list[Doubles | None],
    known: list[Doubles],
    edges: list[_Edge],
    points: tuple[list[Input], float] | None,
    settings: Settings,
    n_iter: int,
    converged: bool,
    method: str,
) -> ChainResult:
    at, eps = edges[0].problem.at, float(edges[0].problem.eps[0])
    error, cost, couplings = 0.0, 0.0, []
    for k, edge in enumerate(edges):
        rows, cols, value = edge.problem.marginals(edge.F, edge.G, cost=True)
        off = 0.0
        for sums, w in ((rows, weights[k]), (cols, weights[k + 1])):
            off += 0.0 if w is None else float(abs(sums - w).sum())
        error += off
        cost += float(value[0]) if value is not None else 0.0
        zero = np.zeros(1, np.int64)
        solution = Solution(
            edge.F, edge.G, np.array([off]), zero + n_iter, zero, np.array([converged]), method
        )
        ends = () if points is None else (points[0][k], points[0][k + 1], points[1])
        couplings.append(SinkhornResult(edge.problem, solution, settings, *ends))
    potentials: list[Any] = []
    for k, w in enumerate(weights):
        if w is None:
            potentials.append(None)
            continue
        nothing = np.zeros_like(w)
        left = edges[k - 1].forward() if k > 0 else nothing
        right = edges[k].backward() if k < len(edges) else nothing
        potentials.append(_vector(-eps * (left + right), at))
    if not converged:
        warnings.warn(
            f"the chain stopped after {n_iter} iterations at a marginal error of {error:.2g}, tol is {settings.tol:g}",
            ConvergenceWarning,
            stacklevel=4,
        )
    marginals = [_vector(w, at) for w in known]
    return ChainResult(couplings, marginals, potentials, eps, cost, error, converged, n_iter, edges)


def _vector(values: Doubles, at: Input) -> Any:
    return at.framework.asarray(np.ascontiguousarray(values[0], at.dtype), at.device)
