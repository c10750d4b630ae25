"""Stochastic gradient descent along a self-repellent walk over the holders of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import DEVICE_MEMORY, Input, Output, as_input, as_match, to_numpy
from mckean._errors import as_count, as_real, as_seed, nonnegative, positive
from mckean.optimizers._losses import data
from mckean.samplers._parts import starting_points
from mckean.samplers._walks import SelfRepellentWalk
from mckean.stepping import _combine_checked

__all__ = ["NodeLeastSquares", "NodeLogistic", "WalkSGD", "WalkSGDState"]

Vector = np.ndarray[Any, Any]


class _NodeLoss:
    """Rows of data held by nodes; the loss of a node is the mean over its rows plus l2 |theta|^2 / 2."""

    _kind: int

    def __init__(self, X: Any, y: Any, nodes: Any, *, l2: float = 0.0) -> None:
        checked, rows = data(X, "X", ("rows", "d"))
        _, labels = data(y, "y", (checked.shape[0],))
        at = np.asarray(to_numpy(nodes))
        if at.dtype.kind not in "iu":
            raise TypeError(f"nodes: expected integers, got {at.dtype}")
        if at.shape != labels.shape:
            raise ValueError(f"nodes: expected shape {labels.shape} to match y, got {at.shape}")
        if at.min() < 0:
            raise ValueError(f"nodes: expected numbers >= 0, got {at.min()}")
        self._check_labels(labels)
        order = np.argsort(at, kind="stable")
        self._rows, self._labels = np.ascontiguousarray(rows[order]), labels[order]
        self._nodes = at[order].astype(np.int64)
        self.l2, self.d = nonnegative(l2, "l2"), int(rows.shape[1])

    def _check_labels(self, y: Vector) -> None:
        pass

    def _link(self, t: Vector) -> tuple[Vector, Vector]:
        """First and second derivative of the loss of a row, but for the label's part."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this loss."""
        return {"rows": self._rows, "labels": self._labels, "nodes": self._nodes, "l2": self.l2}

    def starts(self, m: int) -> Vector:
        """The first row of each of m nodes, and the number of rows, (m + 1,)."""
        if self._nodes[-1] >= m:
            raise ValueError(f"nodes: expected numbers below {m}, got {self._nodes[-1]}")
        return np.searchsorted(self._nodes, np.arange(m + 1)).astype(np.int64)

    def _weights(self, m: int) -> Vector:
        counts = np.diff(self.starts(m))
        return np.asarray(1.0 / counts[self._nodes])

    def gradient(self, theta: Any, node: Any) -> Vector:
        """Return the gradients (n, d) at `theta` (n, d) of the losses of the nodes (n,)."""
        theta, node = np.asarray(to_numpy(theta), np.float64), np.asarray(to_numpy(node))
        out = self.l2 * theta
        first, last = (
            np.searchsorted(self._nodes, node),
            np.searchsorted(self._nodes, node, "right"),
        )
        counts = last - first
        token = np.repeat(np.arange(len(node)), counts)
        row = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        X = self._rows[row]
        slope = (self._link((X * theta[token]).sum(1))[0] - self._labels[row]) / counts[token]
        np.add.at(out, token, slope[:, None] * X)
        return np.asarray(out)

    def node_gradients(self, theta: Any, m: int) -> Vector:
        """Return the gradients (m, d) of the losses of all m nodes at one `theta` (d,)."""
        point = np.asarray(to_numpy(theta), np.float64)
        self.starts(m)
        return self.gradient(np.tile(point, (m, 1)), np.arange(m))

    def hessian(self, theta: Any, target: Any) -> Vector:
        """Return the Hessian (d, d) at `theta` (d,) of the losses summed with the weights `target` (m,)."""
        mu = np.asarray(to_numpy(target), np.float64)
        second = self._link(self._rows @ np.asarray(to_numpy(theta), np.float64))[1]
        weights = mu[self._nodes] * self._weights(len(mu)) * second
        ridge = self.l2 * mu.sum() * np.eye(self.d)
        return np.asarray((self._rows.T * weights) @ self._rows + ridge)

    def minimizer(self, target: Any) -> Vector:
        """Return where the losses summed with the weights `target` (m,) are least, by Newton's method."""
        mu = np.asarray(to_numpy(target), np.float64)
        theta, weights = np.zeros(self.d), mu[self._nodes] * self._weights(len(mu))
        for _ in range(100):
            slope = self._link(self._rows @ theta)[0] - self._labels
            g = self._rows.T @ (weights * slope) + self.l2 * mu.sum() * theta
            step = np.linalg.solve(self.hessian(theta, mu), g)
            # Newton's decrement bounds the step where the loss is self-concordant enough.
            theta = theta - step / (1 + np.sqrt(max(float(step @ g), 0.0)) * (self._kind == 1))
            if np.linalg.norm(step) <= 1e-13 * (1 + np.linalg.norm(theta)):
                break
        return theta


class NodeLeastSquares(_NodeLoss):
    """Least squares with the rows of the data held by the nodes of a graph.

    The loss of a node is the mean over its rows of ``(x . theta - y)^2 / 2``, plus ``l2 |theta|^2 /
    2``. `WalkSGD` runs it in native code.

    Parameters
    ----------
    X : array, shape (rows, d)
        All data.
    y : array, shape (rows,)
        What is to be met.
    nodes : array of int, shape (rows,)
        The node that holds each row. A node may hold none.
    l2 : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    WalkSGD, NodeLogistic

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> loss = mk.optimizers.NodeLeastSquares(np.ones((3, 1)), [0.0, 1.0, 5.0], [0, 1, 2])
    >>> loss.minimizer(np.ones(3) / 3).tolist()
    [2.0]
    """

    _kind = 0

    def _link(self, t: Vector) -> tuple[Vector, Vector]:
        return t, np.ones_like(t)


class NodeLogistic(_NodeLoss):
    """Logistic regression with the rows of the data held by the nodes of a graph.

    The loss of a node is the mean over its rows of ``log(1 + exp(x . theta)) - y x . theta``, plus
    ``l2 |theta|^2 / 2``. `WalkSGD` runs it in native code.

    Parameters
    ----------
    X : array, shape (rows, d)
        All data.
    y : array, shape (rows,)
        Labels, 0 or 1.
    nodes : array of int, shape (rows,)
        The node that holds each row. A node may hold none.
    l2 : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    WalkSGD, NodeLeastSquares

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> loss = mk.optimizers.NodeLogistic(np.ones((4, 1)), [0, 1, 1, 1], [0, 0, 1, 1])
    >>> loss.gradient(np.zeros((2, 1)), np.array([0, 1])).tolist()
    [[0.0], [-0.5]]
    """

    _kind = 1

    def _check_labels(self, y: Vector) -> None:
        if not np.isin(y, (0, 1)).all():
            raise ValueError("y: expected labels 0 and 1, got others")

    def _link(self, t: Vector) -> tuple[Vector, Vector]:
        e = np.exp(-abs(t))
        p = np.where(t < 0, e, 1.0) / (1 + e)
        return p, p * (1 - p)


@dataclass(slots=True)
class WalkSGDState:
    """State of `WalkSGD`: parameters `x` (n, d), the tokens' nodes (n, 1), and the walk's memory."""

    x: Any
    nodes: Any
    mass: Any
    total: float
    seed: int
    step: int
    n_gradients: int


class WalkSGD:
    """Stochastic gradient descent whose data are chosen by a self-repellent walk (SA-SRRW).

    n tokens walk over the nodes of a graph, and at each node take a step down the loss of that node:
    ``theta -= step (offset + t)^-power grad f_node(theta)`` after move t. What is minimised is
    ``sum_j mu_j f_j``, mu the target of the walk.

    Parameters
    ----------
    walk : mckean.samplers.SelfRepellentWalk
        Whose ``memory`` is a: its measure moves by ``t^-a``. Only with ``a < power`` does repulsion
        help in full: see Notes.
    gradient : NodeLeastSquares, NodeLogistic or callable
        ``gradient(theta, node)``, (n, d) and (n,) integers to (n, d), in the framework of ``x0``, a
        new array each time. The two classes run in native code, moves and gradients fused.
    step : float
        Positive.
    power : float
        In (1/2, 1].
    offset : float
        At least 0.
    stride : int
        Moves in one `step`; the walk's own stride does not count.
    start : int or array of int, shape (n,), optional
        The tokens' first nodes; by default drawn from the target.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    mckean.samplers.SelfRepellentWalk

    Notes
    -----
    The covariance of theta falls with alpha like 1 / alpha^2 if the measure is the faster of the two,
    ``memory < power``; like 1 / alpha if they are equal; and not at all if it is the slower one: see
    `asymptotic_covariance`. These are limits. After t moves over m nodes 1 / alpha^2 wants ``alpha m
    t^-memory`` and ``alpha t^(memory - power)`` to be small; beyond, more repulsion is worse again.

    Deterministic given the seed, bit by bit for any number of threads and any stride; moves are the
    same on the CPU and the GPU, and so are the native descents.

    References
    ----------
    .. [1] J. Hu, V. Doshi, D. Y. Eun, "Accelerating distributed stochastic optimization via
       self-repellent random walks", ICLR 2024

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> complete = np.ones((5, 5)) - np.eye(5)
    >>> walk = mk.samplers.SelfRepellentWalk(complete, alpha=5.0, memory=0.8)
    >>> loss = mk.optimizers.NodeLeastSquares(np.ones((5, 1)), np.arange(5.0), np.arange(5))
    >>> sgd = mk.optimizers.WalkSGD(walk, loss, power=0.9, stride=1000)
    >>> result = mk.run(sgd, np.zeros((3, 1)), 20, progress=False)
    >>> bool(abs(result.state.x - 2.0).max() < 0.01)
    True
    """

    def __init__(
        self,
        walk: SelfRepellentWalk,
        gradient: Any,
        *,
        step: float = 1.0,
        power: float = 0.9,
        offset: float = 0.0,
        stride: int = 1,
        start: Any = None,
    ) -> None:
        if not isinstance(walk, SelfRepellentWalk):
            raise TypeError(f"walk: expected a SelfRepellentWalk, got {type(walk).__name__}")
        if not isinstance(gradient, _NodeLoss) and not callable(gradient):
            raise TypeError(
                f"gradient: expected a node loss or a callable, got {type(gradient).__name__}"
            )
        self.walk, self.step_size = walk, positive(step, "step")
        self.power = as_real(power, "power")
        if not 0.5 < self.power <= 1:
            raise ValueError(f"power: expected a number in (0.5, 1], got {self.power}")
        self.offset = nonnegative(offset, "offset")
        self.stride = as_count(stride, "stride", least=1)
        self._gradient, self._first = gradient, start
        self._loss = gradient if isinstance(gradient, _NodeLoss) else None
        self._starts = None if self._loss is None else self._loss.starts(len(walk.target))
        self._placed: dict[tuple[str, str], tuple[Any, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": {}}

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        of_walk = {f"walk.{k}": v for k, v in self.walk.config().items() if k != "stride"}
        return {
            **of_walk,
            "gradient": self._gradient,
            "step": self.step_size,
            "power": self.power,
            "offset": self.offset,
            "stride": self.stride,
        }

    def init(self, x0: Any, seed: Any = 0) -> WalkSGDState:
        """Return the state of n tokens with the parameters `x0`, shape (n, d)."""
        x, seed = starting_points(x0), as_seed(seed)
        if self._loss is not None and x.shape[1] != self._loss.d:
            raise ValueError(
                f"x0: expected shape (n, {self._loss.d}) to match the loss, got {x.shape}"
            )
        nodes = self.walk._start_nodes(self._first, x.shape[0], seed)
        at = x.framework.asarray(nodes.astype(x.dtype)[:, None], x.device)
        of_walk = self.walk.init(at, seed)
        copy = x.framework.asarray(np.array(to_numpy(x.array)), x.device)
        return WalkSGDState(copy, of_walk.x, of_walk.mass, of_walk.total, seed, 0, 0)

    def step(self, state: WalkSGDState) -> WalkSGDState:
        """Return the state `stride` moves later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        at = as_match(state.nodes, "state.nodes", x, "state.x", shape=(x.shape[0], 1))
        shape = self.walk._masses(x.shape[0])
        mass = as_input(state.mass, "state.mass", dtype="float64", shape=shape)
        k = self.stride
        rates = self.step_size * (self.offset + (state.step + 1 + np.arange(k))) ** -self.power
        nodes_new, mass_new = (a.framework.empty(a.shape, a.dtype, a.device) for a in (at, mass))
        if self._loss is not None:
            x_new = x.framework.empty(x.shape, x.dtype, x.device)
            total = self.walk._advance(
                x.framework, x.device, x.shape[0], at.data, mass.data, nodes_new, mass_new, state.total,
                state.seed, state.step, k, loss=self._loss_on(x), rate=rates,
                theta=(x.data, x_new.data),
            )  # fmt: skip
            theta = x_new.result()
        else:
            total, theta = self._descend(x, at, mass, nodes_new, mass_new, state, rates)
        return WalkSGDState(
            theta,
            nodes_new.result(),
            mass_new.result(),
            total,
            state.seed,
            state.step + k,
            state.n_gradients + k,
        )

    def _descend(
        self,
        x: Input,
        at: Input,
        mass: Input,
        nodes_new: Output,
        mass_new: Output,
        state: WalkSGDState,
        rates: Vector,
    ) -> tuple[float, Any]:
        """The steps of a gradient that is a callable."""
        total, theta, n = state.total, x, x.shape[0]
        nodes, masses = at.data, mass.data
        gradient: Callable[..., Any] = self._gradient
        for i, rate in enumerate(rates):
            trail = x.framework.empty((1, n), "int64", x.device)
            total = self.walk._advance(
                x.framework, x.device, n, nodes, masses, nodes_new, mass_new, total, state.seed,
                state.step + i, 1, path=trail,
            )  # fmt: skip
            nodes, masses = nodes_new.data, mass_new.data
            g = as_match(gradient(theta.array, trail.result()[0]), "gradient", theta, "theta")
            out = _combine_checked(theta, np.array([[1.0, -float(rate)]]), [theta.data, g.data])
            theta = as_input(out[0].result(), "theta")
        return total, theta.array

    def _loss_on(self, x: Input) -> tuple[Any, ...]:
        """What native code reads of the loss, in the dtype and on the device of `x`."""
        key = (x.device, x.dtype)
        if key not in self._placed:
            loss = self._loss
            assert loss is not None and self._starts is not None
            arrays: list[Any] = [
                self._starts,
                loss._rows.astype(x.dtype),
                loss._labels.astype(x.dtype),
            ]
            if x.device != "cpu":
                arrays = [DEVICE_MEMORY.asarray(a, x.device) for a in arrays]
            self._placed[key] = (loss._kind, *arrays, loss.l2)
        return self._placed[key]

    def asymptotic_covariance(self, gradients: Any, hessian: Any) -> Vector:
        """The limit of ``t^power Cov(theta)`` after t moves, for tokens of their own measure.

        Parameters
        ----------
        gradients : array, shape (m, d)
            Of the nodes' losses at the minimiser, such as ``loss.node_gradients(theta, m)``.
        hessian : array, shape (d, d)
            Of the whole loss there, positive definite; with ``power=1`` its eigenvalues must exceed
            ``1 / (2 step)``.

        Returns
        -------
        numpy.ndarray, shape (d, d)

        Raises
        ------
        ValueError
            If an argument has the wrong shape, or theta does not converge at this rate.

        Notes
        -----
        With the eigenvalues l_k and left eigenvectors u_k of the base chain, ``h_k = gradients^T
        u_k``, ``r_k = alpha (1 + l_k)``, the noise of the gradients is ``sum_k (1 + l_k) / (1 - l_k)
        h_k h_k^T / (r_k + 1)^2`` for ``memory < power``, without the denominator for ``memory >
        power``; and for equal rates that of the linear system of theta and the measure.
        """
        m = len(self.walk.target)
        H = np.asarray(to_numpy(as_input(hessian, "hessian", shape=("d", "d")).array), np.float64)
        d = len(H)
        G = as_input(gradients, "gradients", shape=(m, d)).array
        if H.shape != (d, d):
            raise ValueError(f"hessian: expected shape (d, d), got {H.shape}")
        eigenvalues, basis = np.linalg.eigh((H + H.T) / 2)
        s, c = self.step_size, 0.5 if self.power == 1 else 0.0
        pull = s * eigenvalues - c
        if pull[0] <= 0:
            raise ValueError(
                f"hessian: expected eigenvalues above {c / s:.4g}, got {eigenvalues[0]:.4g}"
            )
        values, left = self.walk._chain.spectrum()
        h = (np.asarray(to_numpy(G), np.float64) @ basis).T @ left  # (d, modes)
        q, r = (1 + values) / (1 - values), self.walk.alpha * (1 + values)
        pairs = pull[:, None] + pull
        if self.walk.memory == self.power:
            both = q / (2 * (r + 1 - c))  # of the measure, mode by mode
            cross = s * h * (r * both - q) / (pull[:, None] + (r + 1 - c))
            V = s * (s * (h * q) @ h.T + (h * r) @ cross.T + cross @ (h * r).T)
        else:
            V = s * s * (h * (q if self.walk.memory > self.power else q / (r + 1) ** 2)) @ h.T
        return np.asarray(basis @ (V / pairs) @ basis.T)
