"""Graphs and reversible chains on them, as sparse rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import to_numpy

__all__ = ["Array", "Chain", "Graph", "as_graph", "make_chain"]

Array = np.ndarray[Any, Any]
_RATIO = 1e200  # of the largest and the smallest target: beyond, products leave the range of floats
_DENSE = 5000


@dataclass(slots=True)
class Graph:
    """Non-negative weights of directed edges, by rows; no zeros, no duplicates, sorted."""

    indptr: Array
    indices: Array
    weights: Array

    @property
    def nodes(self) -> int:
        return len(self.indptr) - 1

    @property
    def rows(self) -> Array:
        """The row of every entry."""
        return np.repeat(np.arange(self.nodes), np.diff(self.indptr))

    def transposed(self) -> Array:
        """The position of (j, i) for every entry (i, j), or -1."""
        keys = self.rows * self.nodes + self.indices
        back = self.indices * self.nodes + self.rows
        at = np.minimum(np.searchsorted(keys, back), max(len(keys) - 1, 0))
        return np.where(keys[at] == back, at, -1) if len(keys) else at

    def reached(self) -> Array:
        """Which nodes a walk from node 0 can get to."""
        seen = np.zeros(self.nodes, bool)
        seen[:1] = True
        front = np.arange(1)
        while len(front):
            counts = np.diff(self.indptr)[front]
            at = np.repeat(self.indptr[front] - np.cumsum(counts) + counts, counts)
            found = self.indices[at + np.arange(counts.sum())]
            front = np.unique(found[~seen[found]])
            seen[front] = True
        return seen


@dataclass(slots=True)
class Chain:
    """A chain that is reversible for `target`, which sums to one."""

    graph: Graph  # weights: probabilities
    target: Array

    @property
    def nodes(self) -> int:
        return self.graph.nodes

    def spectrum(self) -> tuple[Array, Array]:
        """Eigenvalues but the largest, and left eigenvectors as columns (m, m - 1): those of the
        symmetrised chain times the root of the target."""
        m = self.nodes
        if m > _DENSE:
            raise ValueError(f"graph: expected at most {_DENSE} nodes for a spectrum, got {m}")
        root = np.sqrt(self.target)
        S = np.zeros((m, m))
        rows, cols = self.graph.rows, self.graph.indices
        S[rows, cols] = self.graph.weights * root[rows] / root[cols]
        values, vectors = np.linalg.eigh((S + S.T) / 2)
        return values[:-1], root[:, None] * vectors[:, :-1]


def _entries(graph: Any, name: str) -> tuple[int, Array, Array, Array]:
    """Number of nodes; rows, columns and weights of all entries."""
    if hasattr(graph, "adj") and hasattr(graph, "edges"):  # networkx
        number = {node: i for i, node in enumerate(graph.nodes)}
        found = [(number[u], number[v], w) for u, v, w in graph.edges(data="weight", default=1.0)]
        rows = np.array([e[0] for e in found], np.int64)
        cols = np.array([e[1] for e in found], np.int64)
        weights = np.array([e[2] for e in found], np.float64)
        if not graph.is_directed():
            other = rows != cols
            rows, cols, weights = (
                np.concatenate([rows, cols[other]]),
                np.concatenate([cols, rows[other]]),
                np.concatenate([weights, weights[other]]),
            )
        return len(number), rows, cols, weights
    if hasattr(graph, "tocoo"):  # scipy.sparse
        coo = graph.tocoo()
        if len(coo.shape) != 2 or coo.shape[0] != coo.shape[1]:
            raise ValueError(f"{name}: expected a square matrix, got shape {tuple(coo.shape)}")
        return coo.shape[0], coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data
    if isinstance(graph, tuple) and len(graph) in (2, 3):
        indptr, indices = (np.asarray(a) for a in graph[:2])
        for part, a in (("indptr", indptr), ("indices", indices)):
            if a.ndim != 1 or (a.dtype.kind not in "iu" and a.size):
                raise TypeError(
                    f"{name}: expected {part} to be integers (k,), got {a.dtype} {a.shape}"
                )
        m = len(indptr) - 1
        if m < 0 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
            raise ValueError(
                f"{name}: expected indptr to rise from 0 to {len(indices)}, the number of indices"
            )
        if len(indices) and (indices.min() < 0 or indices.max() >= m):
            raise ValueError(f"{name}: expected indices from 0 to {m - 1}, got others")
        weights = np.ones(len(indices)) if len(graph) == 2 else np.asarray(graph[2])
        if weights.shape != indices.shape:
            raise ValueError(f"{name}: expected {len(indices)} weights, got shape {weights.shape}")
        rows = np.repeat(np.arange(m), np.diff(indptr))
        return m, rows, indices.astype(np.int64), weights
    try:
        A = np.asarray(to_numpy(graph))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected a graph, got {type(graph).__name__}") from error
    if A.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: expected a networkx graph, a sparse or dense matrix or (indptr, indices), "
            f"got {type(graph).__name__}"
        )
    if A.ndim != 2 or A.shape[0] != A.shape[1]:
        raise ValueError(f"{name}: expected a square matrix, got shape {A.shape}")
    rows, cols = np.nonzero(A)
    return A.shape[0], rows, cols, A[rows, cols]


def as_graph(graph: Any, name: str = "graph") -> Graph:
    """Read a networkx graph, a scipy.sparse or dense matrix, or (indptr, indices[, weights])."""
    m, rows, cols, weights = _entries(graph, name)
    weights = np.asarray(weights, np.float64)
    if m < 1:
        raise ValueError(f"{name}: expected at least one node, got none")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"{name}: expected finite weights >= 0, got others")
    keys, inverse = np.unique(rows * m + cols, return_inverse=True)
    total = np.bincount(inverse, weights, len(keys))
    keys, total = keys[total > 0], total[total > 0]
    indptr = np.zeros(m + 1, np.int64)
    np.cumsum(np.bincount(keys // m, minlength=m), out=indptr[1:])
    return Graph(indptr, np.ascontiguousarray(keys % m, np.int64), total)


def undirected(graph: Graph, name: str) -> None:
    """Refuse a graph that is not symmetric and connected."""
    back = graph.transposed()
    same = (back >= 0) & np.isclose(graph.weights, graph.weights[back], rtol=1e-9, atol=0)
    if not same.all():
        e = int(np.argmin(same))
        raise ValueError(
            f"{name}: expected an undirected graph, "
            f"edge ({graph.rows[e]}, {graph.indices[e]}) has no equal one back"
        )
    connected(graph, name)


def connected(graph: Graph, name: str) -> None:
    """Refuse a graph of several components."""
    seen = graph.reached()
    if not seen.all():
        raise ValueError(
            f"{name}: expected a connected graph, "
            f"node {int(np.argmin(seen))} cannot be reached from node 0"
        )


def _measure(target: Any, m: int) -> Array:
    """A positive vector (m,), normalised."""
    try:
        mu = np.asarray(to_numpy(target), np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"target: expected a vector, got {type(target).__name__}") from None
    if mu.shape != (m,):
        raise ValueError(f"target: expected shape ({m},) to match graph, got {mu.shape}")
    if not np.isfinite(mu).all() or (mu <= 0).any():
        raise ValueError("target: expected positive finite numbers, got others")
    if mu.max() > _RATIO * mu.min():
        raise ValueError(f"target: expected a ratio of at most {_RATIO:g}, got a larger one")
    mu = mu / mu.max()
    return np.asarray(mu / mu.sum())


def _stationary(P: Graph) -> Array:
    """The law a reversible chain keeps, by detailed balance along a spanning tree."""
    back, log_mu = P.transposed(), np.full(P.nodes, np.nan)
    log_mu[0] = 0.0
    front = [0]
    while front:
        following = []
        for i in front:
            for e in range(P.indptr[i], P.indptr[i + 1]):
                j = P.indices[e]
                if np.isnan(log_mu[j]) and back[e] >= 0:
                    log_mu[j] = log_mu[i] + np.log(P.weights[e]) - np.log(P.weights[back[e]])
                    following.append(j)
        front = following
    if np.isnan(log_mu).any():
        raise ValueError("base: expected a reversible chain, some edges have no way back")
    return np.asarray(np.exp(log_mu - log_mu.max()))


def make_chain(graph: Any, base: Any, target: Any) -> Chain:
    """The chain `base` on `graph`, checked to be reversible for `target`."""
    if isinstance(target, str) and target not in ("uniform", "degree", "stationary"):
        raise ValueError(
            f"target: expected 'uniform', 'degree', 'stationary' or an array, got {target!r}"
        )
    if isinstance(base, str) and base not in ("mh", "simple"):
        raise ValueError(f"base: expected 'mh', 'simple' or a matrix, got {base!r}")
    G = None if graph is None else as_graph(graph)
    if not isinstance(base, str):
        P = as_graph(base, "base")
        if G is not None:
            _within(P, G)
        connected(P, "base")
        sums = np.bincount(P.rows, P.weights, P.nodes)
        if not np.allclose(sums, 1, rtol=0, atol=1e-8):
            worst = int(np.argmax(abs(sums - 1)))
            raise ValueError(
                f"base: expected rows that sum to 1, row {worst} sums to {sums[worst]:.6g}"
            )
        degree = np.diff((P if G is None else G).indptr) if G is None else _degree(G)
    else:
        if G is None:
            raise TypeError("graph: expected a graph, or base as a matrix, got None")
        undirected(G, "graph")
        degree = _degree(G)
        if (degree <= 0).any():
            raise ValueError("graph: expected at least one edge, got a single node without any")
        P = G
    if isinstance(target, str):
        if target == "uniform":
            target = np.ones(P.nodes)
        elif target == "degree" or isinstance(base, str):
            target = degree if target == "degree" or base == "simple" else np.ones(P.nodes)
        else:
            target = _stationary(P)
    mu = _measure(target, P.nodes)
    if isinstance(base, str):
        P = _simple(P, degree) if base == "simple" else _metropolis(P, degree, mu)
    _check_balance(P, mu, base)
    return Chain(P, mu)


def _degree(G: Graph) -> Array:
    return np.bincount(G.rows, G.weights, G.nodes)


def _simple(G: Graph, degree: Array) -> Graph:
    return Graph(G.indptr, G.indices, G.weights / degree[G.rows])


def _metropolis(G: Graph, degree: Array, mu: Array) -> Graph:
    """Neighbours proposed by weight, accepted with probability min(1, mu_j Q_ji / (mu_i Q_ij))."""
    rows, cols = G.rows, G.indices
    rate = mu / degree
    moves = G.weights / degree[rows] * np.minimum(1, rate[cols] / rate[rows])
    away = rows != cols
    rows, cols, moves = rows[away], cols[away], moves[away]
    stay = 1 - np.bincount(rows, moves, G.nodes)
    keep = np.flatnonzero(stay > 1e-15)  # less is rounding
    rows, cols = np.concatenate([rows, keep]), np.concatenate([cols, keep])
    order = np.argsort(rows * G.nodes + cols)
    indptr = np.zeros(G.nodes + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=G.nodes), out=indptr[1:])
    return Graph(indptr, cols[order], np.concatenate([moves, stay[keep]])[order])


def _within(P: Graph, G: Graph) -> None:
    if P.nodes != G.nodes:
        raise ValueError(
            f"base: expected shape ({G.nodes}, {G.nodes}) to match graph, "
            f"got ({P.nodes}, {P.nodes})"
        )
    keys, edges = P.rows * P.nodes + P.indices, G.rows * G.nodes + G.indices
    outside = ~np.isin(keys, edges) & (P.rows != P.indices)
    if outside.any():
        e = int(np.argmax(outside))
        raise ValueError(f"base: expected moves along edges, ({P.rows[e]}, {P.indices[e]}) is none")


def _check_balance(P: Graph, mu: Array, base: Any) -> None:
    back, flow = P.transposed(), mu[P.rows] * P.weights
    even = (back >= 0) & np.isclose(flow, flow[back], rtol=1e-6, atol=1e-300)
    if not even.all():
        e = int(np.argmin(even))
        hint = "; its own is target='degree'" if isinstance(base, str) else ""
        raise ValueError(
            f"target: expected one for which base is reversible{hint}, "
            f"flows between {P.rows[e]} and {P.indices[e]} differ"
        )
