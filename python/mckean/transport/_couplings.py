"""Index pairs drawn from transport plans: couplings of mini-batches."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean import kernels, random
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_seed, one_of, positive
from mckean.interaction import kernel_matrix
from mckean.transport._arguments import checked_eps, settings_of
from mckean.transport._arguments import cloud as points
from mckean.transport._draws import Indices, draw_columns
from mckean.transport._problem import Doubles, Problem
from mckean.transport._solve import Solution, solve

__all__ = ["couple", "couple_many", "stratified_rows"]

_STREAM = 0x636F75706C65  # "couple"
_STORED = (
    1 << 20
)  # entries of a cost worth storing: 8 MB, and a sweep over it costs no more than its exponentials
_FEW_DIMENSIONS = 8  # up to here distances cost less than reading a matrix of them


def stratified_rows(weights: Doubles, u: Doubles) -> Indices:
    """`u.size` rows in increasing order, one from each of equal shares of the mass."""
    sums = np.cumsum(weights)
    sums /= sums[-1]
    at = np.searchsorted(sums, (np.arange(u.size) + u) / u.size, side="right")
    return np.asarray(np.minimum(at, np.flatnonzero(weights)[-1]), np.int64)


def couple(
    x: Any,
    y: Any,
    *,
    eps: float | None = None,
    rel_eps: float = 0.05,
    p: float = 2,
    exact: bool = False,
    hard: bool = False,
    n_pairs: int | None = None,
    seed: Any = 0,
    counter: int = 0,
    tol: float = 1e-2,
    max_iter: int = 1000,
) -> tuple[Any, Any]:
    """Pair the points of two batches by optimal transport.

    For training on pairs, such as flow matching and stochastic interpolants: with the pairs of a transport plan instead
    of independent ones, paths cross less. All points weigh the same.

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        First batch.
    y : array, shape (m, d)
        Second batch, of the framework, dtype and device of `x`.
    eps : float, optional
        Regularisation > 0, in units of the cost; by default `rel_eps` times the mean cost.
    rel_eps : float
        Regularisation relative to the mean cost of all pairs (for p other than 2: of 2048 pairs drawn at random).
    p : float
        The cost is ``|x - y|**p``, p > 0.
    exact : bool
        Solve the assignment problem instead, with SciPy: n = m and one y for each x, without regularisation. O(n^3).
    hard : bool
        Take the largest entry of each row of the plan instead of drawing from it. Some y may then be left out.
    n_pairs : int, optional
        Number of pairs; by default n, each x once and in order. Another number draws rows from equal shares of the mass
        (every x is used floor(n_pairs / n) times or once more, or once less).
    seed, counter : int
        The draws are a pure function of both; pass the number of the training step as `counter`.
    tol : float
        Tolerance of the solve: L1 error of the marginals.
    max_iter : int
        Limit on its iterations.

    Returns
    -------
    i, j : array of int64, shape (n_pairs,)
        Rows of `x` and of `y`, of the framework and device of `x`. Not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, a point is not finite, or `exact` does not fit the sizes.
    ImportError
        If `exact` needs SciPy and it is not installed.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    See Also
    --------
    couple_many, mckean.sinkhorn_points

    Notes
    -----
    Given the row, columns are drawn independently: y appear about equally often, not exactly (with `exact` they do).
    Batches with ``n m`` of at most 2**20 and more than 8 dimensions hold their costs (8 MB), others never do.

    References
    ----------
    .. [1] A. Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal transport",
       TMLR 2024, arXiv:2302.00482
    .. [2] M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013, arXiv:1306.0895

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.transport import couple
    >>> x, y = mk.random.normal(1, (64, 2)), mk.random.normal(2, (64, 2)) + 3
    >>> i, j = couple(x, y, seed=0, counter=17)
    >>> bool((i == range(64)).all())
    True
    >>> bool(((x[i] - y[j]) ** 2).sum() < ((x - y) ** 2).sum())
    True
    """
    p = positive(p, "p")
    at, other = _clouds([x, y], p)
    seed, counter = as_seed(seed), as_count(counter, "counter", below=1 << 60)
    count = at.shape[0] if n_pairs is None else as_count(n_pairs, "n_pairs")
    rows = _first_rows(at.shape[0], count, n_pairs is not None, seed, counter)
    plan = _Plan(at, other, eps, rel_eps, p, exact, hard, tol, max_iter)
    cols = plan.draw(rows, seed, counter, 0)
    return tuple(at.framework.asarray(k, at.device) for k in (rows, cols))


def couple_many(
    clouds: Sequence[Any],
    *,
    tree: str = "chain",
    eps: float | None = None,
    rel_eps: float = 0.05,
    p: float = 2,
    exact: bool = False,
    hard: bool = False,
    n_tuples: int | None = None,
    seed: Any = 0,
    counter: int = 0,
    tol: float = 1e-2,
    max_iter: int = 1000,
) -> Any:
    """Group the points of several batches by optimal transport along a chain, or to a centre.

    The multi-marginal plan of a cost that is a sum over the edges of a tree, each node having its own points of equal
    weights, is made of the plans of the edges: given a point, its neighbours are independent. So tuples are drawn.

    Parameters
    ----------
    clouds : sequence of arrays, shapes (n_k, d), float32 or float64
        At least two batches of one framework, dtype and device.
    tree : {"chain", "star"}
        Edges between successive clouds, or from the first one to all others.
    eps, rel_eps, p, exact, hard, seed, counter, tol, max_iter
        See `couple`; `rel_eps` is relative to the mean cost of each edge.
    n_tuples : int, optional
        Number of tuples; by default as many as points in the first cloud, each once and in order.

    Returns
    -------
    index : array of int64, shape (n_tuples, number of clouds)
        Row t holds the row numbers of tuple t, of the framework and device of the first cloud. Not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or a point is not finite.
    ImportError
        If `exact` needs SciPy and it is not installed.

    Warns
    -----
    ConvergenceWarning
        If the tolerance was not reached.

    See Also
    --------
    couple, chain_sinkhorn_points

    References
    ----------
    .. [1] M. Albergo, N. Boffi, M. Lindsey, E. Vanden-Eijnden, "Multimarginal generative modeling with stochastic
       interpolants", ICLR 2024, arXiv:2310.03695
    .. [2] J.-D. Benamou, G. Carlier, M. Cuturi, L. Nenna, G. Peyré, "Iterative Bregman projections for regularized
       transportation problems", SIAM J. Sci. Comput. 37 (2015), arXiv:1412.5154

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.transport import couple_many
    >>> clouds = [mk.random.normal(k, (50, 2)) + k for k in range(3)]
    >>> couple_many(clouds, tree="star").shape
    (50, 3)
    """
    if not isinstance(clouds, (list, tuple)) or len(clouds) < 2:
        raise ValueError("clouds: expected a sequence of at least two arrays")
    tree = one_of(tree, "tree", ("chain", "star"))
    p = positive(p, "p")
    ats = _clouds(clouds, p, "clouds")
    seed, counter = as_seed(seed), as_count(counter, "counter", below=1 << 60)
    n = ats[0].shape[0]
    count = n if n_tuples is None else as_count(n_tuples, "n_tuples")
    index = np.empty((count, len(ats)), np.int64)
    index[:, 0] = _first_rows(n, count, n_tuples is not None, seed, counter)
    for k in range(1, len(ats)):
        parent = k - 1 if tree == "chain" else 0
        plan = _Plan(ats[parent], ats[k], eps, rel_eps, p, exact, hard, tol, max_iter)
        index[:, k] = plan.draw(np.ascontiguousarray(index[:, parent]), seed, counter, k - 1)
    return ats[0].framework.asarray(index, ats[0].device)


def _clouds(clouds: Sequence[Any], p: float, name: str | None = None) -> list[Input]:
    names = "xy" if name is None else [f"{name}[{k}]" for k in range(len(clouds))]
    ats: list[Input] = []
    for given, which in zip(clouds, names, strict=True):
        if not ats:
            at = as_input(given, which, shape=("n", "d"))
        else:
            at = as_match(given, which, ats[0], names[0], shape=("m", ats[0].shape[1]))
        ats.append(points(at, which, p))
    return ats


def _first_rows(n: int, count: int, draw: bool, seed: int, counter: int) -> Indices:
    if not draw:
        return np.arange(n)
    u = random.uniform(seed, count, stream=_STREAM, counter=counter)
    return stratified_rows(np.full(n, 1.0 / n), u)


class _Plan:
    """The plan of two clouds of equal weights, to draw columns from."""

    def __init__(
        self,
        x: Input,
        y: Input,
        eps: float | None,
        rel_eps: float,
        p: float,
        exact: bool,
        hard: bool,
        tol: float,
        max_iter: int,
    ) -> None:
        rel_eps = positive(rel_eps, "rel_eps")
        settings = settings_of("auto", tol, max_iter, "anderson", False, None)
        eps = None if eps is None else positive(eps, "eps")
        n, m = x.shape[0], y.shape[0]
        self.hard, self.columns = hard, None
        if exact:
            self.columns = _assignment(x, y, p)
            return
        a, b = np.full((1, n), 1.0 / n), np.full((1, m), 1.0 / m)
        if n * m <= _STORED and x.shape[1] > _FEW_DIMENSIONS and x.device == "cpu":
            cost = _cost(to_numpy(x.array), to_numpy(y.array), p)
            scale = float(cost.mean(dtype=np.float64)) if eps is None else 0.0
            e = checked_eps(np.full(1, eps or rel_eps * scale or 1.0), x.dtype)
            problem = Problem.of_cost(as_input(cost, "cost"), None, a, b, e)
        else:
            scale = _mean_cost(to_numpy(x.array), to_numpy(y.array), p) if eps is None else 0.0
            e = checked_eps(np.full(1, eps or rel_eps * scale or 1.0), x.dtype)
            problem = Problem.of_points(x, y, p, a, b, e)
        self.problem = problem
        self.solution: Solution = solve(problem, settings)
        if not self.solution.converged.all():
            warnings.warn(
                f"the coupling stopped after {int(self.solution.n_iter[0])} iterations at a marginal error of "
                f"{float(self.solution.error[0]):.2g}, tol is {tol:g}",
                ConvergenceWarning,
                stacklevel=3,
            )

    def draw(self, rows: Indices, seed: int, counter: int, edge: int) -> Indices:
        if self.columns is not None:
            return self.columns[rows]
        u = None
        if not self.hard:
            u = random.uniform(seed, rows.size, stream=_STREAM + 1 + edge, counter=counter)
        return draw_columns(self.problem, self.solution.F, self.solution.G, rows, u)


def _cost(x: Any, y: Any, p: float) -> Any:
    """|x - y|^p of all pairs, in the dtype of x."""
    distance = kernel_matrix(kernels.Energy(), x, y)
    np.negative(distance, out=distance)
    return np.square(distance, out=distance) if p == 2 else np.power(distance, p, out=distance)


def _mean_cost(x: Any, y: Any, p: float) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    if p == 2:
        gap = x.mean(0) - y.mean(0)
        return float(x.var(0).sum() + y.var(0).sum() + gap @ gap)
    draws = random.uniform(0, (2, 2048), stream=_STREAM)
    i, j = (draws * [[len(x)], [len(y)]]).astype(np.int64)
    return float((((x[i] - y[j]) ** 2).sum(1) ** (p / 2)).mean())


def _assignment(x: Input, y: Input, p: float) -> Indices:
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"exact: expected clouds of one size, got {x.shape[0]} and {y.shape[0]} points"
        )
    try:
        optimize = importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise ImportError("exact=True needs SciPy: pip install scipy") from error
    cost = _cost(to_numpy(x.array).astype(np.float64), to_numpy(y.array).astype(np.float64), p)
    return np.asarray(optimize.linear_sum_assignment(cost)[1], np.int64)
