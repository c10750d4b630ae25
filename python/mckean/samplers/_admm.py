"""Sampling a posterior whose data are held by the nodes of a graph, by noisy ADMM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import as_seed, positive
from mckean.samplers._graph import Array, as_graph, undirected
from mckean.samplers._parts import starting_points

__all__ = ["ADMMState", "DistributedADMM", "GaussianShares"]

ADMM_STREAM = 0x61646D6D00000000  # "admm"
_MOST_NODES = 1000  # of a graph of data holders; its matrix is dense


@dataclass(slots=True)
class ADMMState:
    """State of `DistributedADMM`: `x` (n, d), the average over the nodes of their points `nodes` (n, m, d),
    and `dual` (n, m, d), which sums to 0 over the nodes."""

    x: Any
    nodes: Any
    dual: Any
    seed: int
    step: int


class GaussianShares:
    """Shares ``f_i(x) = x^T A_i x / 2 - b_i^T x`` of a Gaussian posterior ``exp(-sum_i f_i)``.

    Parameters
    ----------
    precision : array, shape (m, d, d)
        A_i, symmetric and positive semi-definite; their sum is positive definite.
    shift : array, shape (m, d)
        b_i.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, or a matrix is not as it must be.

    See Also
    --------
    DistributedADMM

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> shares = mk.samplers.GaussianShares(np.ones((4, 1, 1)), np.arange(4.0)[:, None])
    >>> mean, covariance = shares.posterior()
    >>> mean.tolist(), covariance.tolist()
    ([1.5], [[0.25]])
    """

    def __init__(self, precision: Any, shift: Any) -> None:
        A = as_input(precision, "precision", shape=("m", "d", "d"))
        m, d = A.shape[:2]
        b = as_input(shift, "shift", shape=(m, d), match=("precision", A.shape))
        self.precision = np.asarray(to_numpy(A.array), np.float64)
        self.shift = np.asarray(to_numpy(b.array), np.float64)
        if A.shape[2] != d or d < 1:
            raise ValueError(f"precision: expected shape (m, d, d), got {A.shape}")
        size = abs(self.precision).max(initial=0)
        if not (np.isfinite(size) and np.isfinite(self.shift).all()):
            raise ValueError("precision, shift: expected finite values, got others")
        if abs(self.precision - self.precision.transpose(0, 2, 1)).max(initial=0) > 1e-6 * size:
            raise ValueError("precision: expected symmetric matrices, got others")
        if m and np.linalg.eigvalsh(self.precision).min() < -1e-6 * size:
            raise ValueError("precision: expected positive semi-definite matrices, got others")
        total = self.precision.sum(0)
        if np.linalg.eigvalsh(total)[0] <= 1e-14 * abs(total).max(initial=0):
            raise ValueError("precision: expected a sum that is positive definite, got others")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises these shares."""
        return {"precision": self.precision, "shift": self.shift}

    def posterior(self) -> tuple[Array, Array]:
        """Return mean (d,) and covariance (d, d)."""
        covariance = np.linalg.inv(self.precision.sum(0))
        return covariance @ self.shift.sum(0), covariance

    def resolvents(self, curvature: Array) -> tuple[Array, Array]:
        """R_i (m, d, d) and r_i (m, d): the proximal map of f_i is ``R_i v + r_i``."""
        d = self.shift.shape[1]
        inverse = np.linalg.inv(self.precision + curvature[:, None, None] * np.eye(d))
        return curvature[:, None, None] * inverse, (inverse @ self.shift[..., None])[..., 0]


class DistributedADMM:
    """Sample ``exp(-sum_i f_i)`` where node i of a graph holds f_i, and tells neighbours points only.

    ADMM for consensus, with noise inside the proximal map. A step of node i with degree d_i is::

        v_i = (x_i + mean of neighbours) / 2 - p_i / (2 rho d_i) + N(0, I) / sqrt(rho d_i)
        x_i = argmin f_i(x) + rho d_i |x - v_i|^2
        p_i = p_i + rho sum of (x_i - x_j) over neighbours j

    Parameters
    ----------
    graph : networkx graph, scipy.sparse or dense matrix (m, m), or (indptr, indices[, weights])
        Undirected, connected, without loops, 2 to 1000 nodes. Weights multiply rho, and degrees are their sums.
    shares : GaussianShares or callable
        The f_i, or the function ``prox(v, c)``, v (n, m, d) and c (m,) to (n, m, d), in the framework of ``x0``:
        ``argmin_x f_i(x) + c_i |x - v_i|^2 / 2`` of every node.
    penalty : float
        rho, positive. The law's error is of order 1 / rho, and so is the way a step goes.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    GaussianShares

    Notes
    -----
    Summed over the nodes, a step is an implicit Euler step of Langevin dynamics of length
    ``h = 1 / (2 rho sum_i d_i)``, which fixes the scale of the noise: 2 sqrt(rho d_i) in the
    equation of node i. (A scale of sqrt(2) d_i, met in published code, gives the posterior only for
    rho = d / 2 of a regular graph, and shrinks its covariance to 0 for large rho.) For Gaussian
    shares the mean is exact, and the covariance of the average ``x`` and of each node's point
    differ from the posterior's by O(1 / rho): `stationary` says by how much. The nodes' points are
    wider than the average by their disagreement.

    ``result.stats`` has "disagreement", the root mean square distance of the nodes from their average.
    Deterministic given the seed.

    References
    ----------
    .. [1] A. Tzikas, L. Romao, M. Pilanci, A. Abate, M. Kochenderfer, "Distributed Markov chain
       Monte Carlo sampling based on the alternating direction method of multipliers",
       arXiv:2401.15838

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> ring = np.eye(4)[[1, 2, 3, 0]] + np.eye(4)[[3, 0, 1, 2]]
    >>> shares = mk.samplers.GaussianShares(np.ones((4, 1, 1)), np.arange(4.0)[:, None])
    >>> sampler = mk.samplers.DistributedADMM(ring, shares, penalty=5.0)
    >>> mean, of_average, of_nodes = sampler.stationary()
    >>> bool(abs(of_average[0, 0] / 0.25 - 1) < 0.05)
    True
    >>> result = mk.run(sampler, np.zeros((100, 1)), 300, burn_in=200, progress=False)
    >>> bool(abs(np.asarray(result.x).mean() - 1.5) < 0.1)
    True
    """

    def __init__(self, graph: Any, shares: Any, penalty: float) -> None:
        G = as_graph(graph)
        if not 2 <= G.nodes <= _MOST_NODES:
            raise ValueError(f"graph: expected 2 to {_MOST_NODES} nodes, got {G.nodes}")
        undirected(G, "graph")
        if (G.rows == G.indices).any():
            raise ValueError(f"graph: expected no loops, node {G.rows[G.rows == G.indices][0]} has")
        if not isinstance(shares, GaussianShares) and not callable(shares):
            raise TypeError(
                f"shares: expected GaussianShares or a callable, got {type(shares).__name__}"
            )
        if isinstance(shares, GaussianShares) and len(shares.shift) != G.nodes:
            raise ValueError(
                f"shares: expected {G.nodes} to match the nodes of graph, got {len(shares.shift)}"
            )
        self.penalty, self.shares = positive(penalty, "penalty"), shares
        self._W = np.zeros((G.nodes, G.nodes))
        self._W[G.rows, G.indices] = G.weights
        self._degree = self._W.sum(1)
        self._tables: dict[tuple[str, str, str], tuple[Any, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tables": {}}

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {"penalty": self.penalty, "weights": self._W, "shares": self.shares}

    @property
    def _curvature(self) -> Array:
        return np.asarray(2 * self.penalty * self._degree)

    def init(self, x0: Any, seed: Any = 0) -> ADMMState:
        """Return the state in which every node is at `x0`, shape (n, d)."""
        x = starting_points(x0)
        d = self._dim(x.shape[1])
        host = np.asarray(to_numpy(x.array))
        shape = (x.shape[0], len(self._W), d)
        nodes = np.array(np.broadcast_to(host[:, None], shape))

        def put(a: Array) -> Any:
            return x.framework.asarray(a, x.device)

        return ADMMState(put(host.copy()), put(nodes), put(np.zeros_like(nodes)), as_seed(seed), 0)

    def step(self, state: ADMMState) -> ADMMState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.nodes, "state.nodes", shape=("n", len(self._W), "d"))
        dual = as_match(state.dual, "state.dual", x, "state.nodes").array
        W, half, per_dual, deviation, degree, curvature, *affine = self._tables_on(x)
        z = random.normal(
            state.seed, x.shape, stream=ADMM_STREAM, counter=state.step, dtype=x.dtype, like=x.array
        )
        v = x.array / 2 + half * (W @ x.array) - per_dual * dual + deviation * z
        if affine:
            R, r = affine
            new = (v[..., None, :] @ R)[..., 0, :] + r
        else:
            prox: Callable[..., Any] = self.shares
            new = as_match(prox(v, curvature), "prox", x, "v").array
        dual = dual + self.penalty * (degree * new - W @ new)
        return ADMMState(new.mean(1), new, dual, state.seed, state.step + 1)

    def stats(self, state: ADMMState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        nodes = to_numpy(state.nodes)
        away = nodes - nodes.mean(1, keepdims=True)
        return {"disagreement": np.sqrt((away**2).sum(2).mean(1))}

    def stationary(self) -> tuple[Array, Array, Array]:
        """Return the law the chain keeps, by the discrete Lyapunov equation, for Gaussian shares.

        Returns
        -------
        mean : numpy.ndarray, shape (d,)
            The posterior's.
        of_average : numpy.ndarray, shape (d, d)
            Covariance of ``x``.
        of_nodes : numpy.ndarray, shape (m, d, d)
            Covariances of the nodes' points.

        Raises
        ------
        TypeError
            If the shares are not `GaussianShares`.
        """
        if not isinstance(self.shares, GaussianShares):
            raise TypeError("shares: expected GaussianShares for a law in closed form")
        W, degree, rho = self._W, self._degree, self.penalty
        m, d = self.shares.shift.shape
        R, _ = self.shares.resolvents(self._curvature)
        blocks = np.zeros((m, d, m, d))
        blocks[np.arange(m), :, np.arange(m)] = R
        R_all = blocks.reshape(m * d, m * d)

        def wide(a: Array) -> Array:
            return np.kron(a, np.eye(d))

        average = wide(np.eye(m) / 2 + W / (2 * degree[:, None]))
        to_x = np.hstack([R_all @ average, -R_all @ wide(np.diag(1 / (2 * rho * degree)))])
        noise = R_all @ wide(np.diag(1 / np.sqrt(rho * degree)))
        laplacian = wide(rho * (np.diag(degree) - W))
        keep = np.hstack([np.zeros((m * d, m * d)), np.eye(m * d)])
        T = np.vstack([to_x, keep + laplacian @ to_x])
        B = np.vstack([noise, laplacian @ noise])
        # The dual sums to zero: in coordinates of that subspace T is a contraction.
        Q = np.linalg.svd(np.ones((1, m)))[2][1:]
        P = np.zeros(((2 * m - 1) * d, 2 * m * d))
        P[: m * d, : m * d], P[m * d :, m * d :] = np.eye(m * d), wide(Q)
        T, B = P @ T @ P.T, P @ B
        V = B @ B.T
        for _ in range(60):  # sum_k T^k B B^T T^k^T, doubling the terms
            more = T @ V @ T.T
            V, T = V + more, T @ T
            if abs(more).max() <= 1e-16 * abs(V).max():
                break
        points = V[: m * d, : m * d].reshape(m, d, m, d)
        return (
            self.shares.posterior()[0],
            points.mean((0, 2)),
            points[np.arange(m), :, np.arange(m)],
        )

    def _dim(self, d: int) -> int:
        if isinstance(self.shares, GaussianShares) and self.shares.shift.shape[1] != d:
            raise ValueError(
                f"x0: expected shape (n, {self.shares.shift.shape[1]}) to match shares, got (n, {d})"
            )
        return d

    def _tables_on(self, x: Input) -> tuple[Any, ...]:
        """Coefficients in the framework, dtype and device of `x`."""
        key = (x.framework.name, x.dtype, x.device)
        if key not in self._tables:
            degree, rho = self._degree[:, None], self.penalty
            tables = [
                self._W,
                1 / (2 * degree),
                1 / (2 * rho * degree),
                1 / np.sqrt(rho * degree),
                degree,
                self._curvature,
            ]
            if isinstance(self.shares, GaussianShares):
                R, r = self.shares.resolvents(self._curvature)
                tables += [np.ascontiguousarray(R.transpose(0, 2, 1)), r]
            self._tables[key] = tuple(
                x.framework.asarray(np.ascontiguousarray(a.astype(x.dtype)), x.device)
                for a in tables
            )
        return self._tables[key]
