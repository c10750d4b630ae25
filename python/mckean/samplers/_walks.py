"""Self-repellent random walks on graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import (
    DEVICE_MEMORY,
    FRAMEWORKS,
    Framework,
    Input,
    Output,
    as_input,
    check_finite,
    to_numpy,
)
from mckean._dispatch import carrier, executor, parse_device
from mckean._errors import as_count, as_real, as_seed, nonnegative, positive
from mckean.samplers._graph import Array, Chain, make_chain

__all__ = ["SelfRepellentState", "SelfRepellentWalk", "WalkSample", "asymptotic_variance"]

WALK_STREAM = 0x7372727700000000  # "srrw"
START_STREAM = 0x7372727773746172  # "srrwstar"
# Where the memory fades the mass grows without bound: it is scaled down by a power of two whenever it
# has grown by as much. A node unvisited for so long that it has lost 250 decades in this counts as if visited then.
_SHRINK, _FLOOR = 2.0**100, 1e-250
_CHUNK = 1 << 24  # moves from one look at the progress bar to the next
_LOOK = 4096  # moves planned at once, at least
# Neighbours looked at and numbers of the data read by walkers of a shared measure, from one chance for Ctrl-C to
# the next: their moves are too short for native code to give one.
_SHARED_WORK = 1 << 24


@dataclass(slots=True)
class SelfRepellentState:
    """State of `SelfRepellentWalk`.

    ``x`` (n, 1) are the nodes where the walkers are, ``mass`` (n, m), or (1, m) of a shared measure,
    float64 (in NumPy for JAX on the CPU), their empirical measures times ``total``; ``step`` counts
    moves.
    """

    x: Any
    mass: Any
    total: float
    seed: int
    step: int


@dataclass(slots=True)
class WalkSample:
    """What `SelfRepellentWalk.sample` returns.

    Attributes
    ----------
    visits : numpy.ndarray of int64, shape (n, m), or (1, m) of a shared measure; or None
        How often each node was visited; None where the memory fades.
    measure : numpy.ndarray, shape (n, m) or (1, m)
        The empirical measures: ``visits`` over their sum, or where the memory fades the faded ones.
    nodes : numpy.ndarray of int64, shape (n,)
        Where the walkers ended.
    path : numpy.ndarray of int64, shape (n_steps, n), or None
        Every visited node, if asked for.
    """

    visits: Array | None
    measure: Array
    nodes: Array
    path: Array | None

    def estimate(self, f: Any) -> Array:
        """Return the mean of `f`, shape (m,) or (m, k), under each measure: (n,) or (n, k)."""
        return np.asarray(self.measure @ _observable(f, "f", self.measure.shape[1]))


class SelfRepellentWalk:
    """Random walks on a graph that avoid the nodes they have visited often.

    With a chain P that is reversible for mu, and x the measure of the walk's past, the next node is j
    with probability proportional to ``P_ij (x_j / mu_j)^-alpha``. The nodes visited still follow mu,
    and the variance of their means falls like 1 / alpha (see `asymptotic_variance`). A move costs
    as much as the node has neighbours.

    Parameters
    ----------
    graph : networkx graph, scipy.sparse or dense matrix (m, m), or (indptr, indices[, weights])
        Undirected and connected, weights >= 0, zeros are no edges. Nodes are numbered in the order
        of the graph. None where `base` is a matrix.
    alpha : float
        Strength of the repulsion, at least 0; 0 is the base chain.
    target : {"uniform", "degree", "stationary"} or array, shape (m,)
        mu, positive, of any sum. "degree": the sums of the weights; "stationary": what `base` keeps.
    base : {"mh", "simple"} or matrix, shape (m, m)
        P. "mh": a neighbour proposed by weight, accepted by Metropolis and Hastings for `target`.
        "simple": a neighbour by weight, for ``target="degree"``. Or the chain itself, dense or
        sparse, reversible for `target`.
    shared : bool
        All walkers repel each other through one measure, instead of each having its own.
    memory : float
        a in (1/2, 1]: move n changes x by ``(delta - x) (n0 + n)^-a``. 1 makes x the empirical
        measure; less lets the past fade, as stochastic approximation wants it.
    start_visits : float
        The measure starts as if `target` had been visited this often per node.
    stride : int
        Moves in one `step`.
    functions : array, shape (m,) or (m, k), optional
        Functions on the nodes, whose means `mckean.run` saves as ``stats["estimate"]``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, the graph is directed or disconnected, or
        `base` is not reversible for `target`.

    See Also
    --------
    asymptotic_variance, mckean.optimizers.WalkSGD

    Notes
    -----
    ``init(x0)`` takes nodes as numbers (n, 1); positions in `mckean.run` are (n_saved, n, 1). Saved
    beside them: "distance", the total variation between the measures and mu.

    The memory of n walkers is n m float64, or m shared ones. The uniform number of walker i and move
    t is ``mckean.random.uniform(seed, n, stream=0x7372727700000000, counter=t)[i]``: the walks are
    the same bit by bit for any number of threads, for any stride, and on the CPU and the GPU.

    References
    ----------
    .. [1] V. Doshi, J. Hu, D. Y. Eun, "Self-repellent random walks on general graphs - achieving
       minimal sampling variance via nonlinear Markov chains", ICML 2023, arXiv:2305.05097

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> ring = (np.eye(10, k=1) + np.eye(10, k=-1) + np.eye(10, k=9) + np.eye(10, k=-9)) > 0
    >>> walk = mk.samplers.SelfRepellentWalk(ring, alpha=5.0)
    >>> sample = walk.sample(4, 2000, seed=1)
    >>> sample.visits.shape, sample.nodes.shape
    ((4, 10), (4,))
    >>> bool(abs(sample.measure - 0.1).max() < 0.01)
    True
    >>> result = mk.run(walk, np.zeros((4, 1)), 50, seed=1, progress=False)
    >>> result.x.shape
    (50, 4, 1)
    """

    def __init__(
        self,
        graph: Any,
        alpha: float,
        *,
        target: Any = "uniform",
        base: Any = "mh",
        shared: bool = False,
        memory: float = 1.0,
        start_visits: float = 1.0,
        stride: int = 1,
        functions: Any = None,
    ) -> None:
        self.alpha = nonnegative(alpha, "alpha")
        if self.alpha > 1e100:
            raise ValueError(f"alpha: expected at most 1e100, got {self.alpha}")
        if not isinstance(shared, (bool, np.bool_)):
            raise TypeError(f"shared: expected a bool, got {type(shared).__name__}")
        self.shared = bool(shared)
        self.memory = as_real(memory, "memory")
        if not 0.5 < self.memory <= 1:
            raise ValueError(f"memory: expected a number in (0.5, 1], got {self.memory}")
        self.start_visits = positive(start_visits, "start_visits")
        if not 1e-6 <= self.start_visits <= 1e12:
            raise ValueError(f"start_visits: expected 1e-6 to 1e12, got {self.start_visits}")
        self.stride = as_count(stride, "stride", least=1)
        self._chain = make_chain(graph, base, target)
        m = self._chain.nodes
        self._functions = None if functions is None else _observable(functions, "functions", m)
        self._start = self.start_visits * m * self._chain.target
        self._inverse = 1 / (m * self._chain.target)
        self._placed: dict[str, tuple[Any, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": {}}

    @property
    def target(self) -> Array:
        """mu, shape (m,), of sum 1."""
        return self._chain.target

    @property
    def transition(self) -> tuple[Array, Array, Array]:
        """P as (indptr, indices, probabilities)."""
        g = self._chain.graph
        return g.indptr, g.indices, g.weights

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "alpha": self.alpha,
            "shared": self.shared,
            "memory": self.memory,
            "start_visits": self.start_visits,
            "stride": self.stride,
            "target": self.target,
            **dict(zip(("indptr", "indices", "chance"), self.transition, strict=True)),
        }

    def asymptotic_variance(self, f: Any) -> Any:
        """`asymptotic_variance` of this walk: a float for f (m,), an array (k,) for f (m, k)."""
        return _variance(self._chain, np.array(self.alpha), _observable(f, "f", self._chain.nodes))

    # ---- one move and many ----------------------------------------------------------------------

    def init(self, x0: Any, seed: Any = 0) -> SelfRepellentState:
        """Return the state of walkers at the nodes `x0`, shape (n, 1), given as numbers."""
        x = as_input(x0, "x0", shape=("n", 1))
        self._check_nodes(x, "x0")
        n = 1 if self.shared else x.shape[0]
        # NumPy for JAX on the CPU, whose native arrays are NumPy's: JAX may have no float64.
        on_host = x.framework.name == "jax" and x.device == "cpu"
        holder = FRAMEWORKS["numpy"] if on_host else x.framework
        mass = holder.asarray(np.tile(self._start, (n, 1)), x.device)
        copy = x.framework.asarray(np.array(to_numpy(x.array)), x.device)
        return SelfRepellentState(copy, mass, float(self._start.sum()), as_seed(seed), 0)

    def step(self, state: SelfRepellentState) -> SelfRepellentState:
        """Return the state `stride` moves later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", 1))
        mass = as_input(state.mass, "state.mass", dtype="float64", shape=self._masses(x.shape[0]))
        x_new, mass_new = (a.framework.empty(a.shape, a.dtype, a.device) for a in (x, mass))
        total = self._advance(
            x.framework, x.device, x.shape[0], x.data, mass.data, x_new, mass_new, state.total, state.seed,
            state.step, self.stride,
        )  # fmt: skip
        following = state.step + self.stride
        return SelfRepellentState(x_new.result(), mass_new.result(), total, state.seed, following)

    def stats(self, state: SelfRepellentState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        measure = self.measure(state)
        out = {"distance": abs(measure - self.target).sum(1) / 2}
        if self._functions is not None:
            out["estimate"] = measure @ self._functions
        return out

    def measure(self, state: Any) -> Array:
        """Return the empirical measures of a state, (n, m) or (1, m), without the start's part."""
        return self._measure(to_numpy(state.mass), state.total)

    def sample(
        self,
        n_walkers: int,
        n_steps: int,
        *,
        seed: Any = 0,
        start: Any = None,
        path: bool = False,
        device: Any = "cpu",
        progress: bool = False,
    ) -> WalkSample:
        """Walk, and return visits and empirical measures.

        Parameters
        ----------
        n_walkers, n_steps : int
            At least 1.
        seed : int or numpy.random.SeedSequence
            Source of all randomness.
        start : int or array of int, shape (n_walkers,), optional
            First nodes, not counted as visited. By default drawn from the target.
        path : bool
            Keep every visited node, n_steps n_walkers int64.
        device : str
            "cpu" or "cuda[:index]"; results are in NumPy.
        progress : bool
            Show a progress bar.

        Returns
        -------
        WalkSample

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range.
        DeviceError
            If `device` is not available.
        """
        n = as_count(n_walkers, "n_walkers", least=1, below=1 << 40)
        steps = as_count(n_steps, "n_steps", least=1, below=1 << 60)
        seed, device = as_seed(seed), parse_device(device)
        executor(device)
        nodes = self._start_nodes(start, n, seed)
        holder = carrier(FRAMEWORKS["numpy"], device)
        x, mass = (
            _filled(holder, a, device)
            for a in (nodes.astype(np.float64), np.tile(self._start, (1 if self.shared else n, 1)))
        )
        trail = np.empty((steps, n), np.int64) if path else None
        total, each = float(self._start.sum()), max(1, _CHUNK // n)
        from tqdm.auto import tqdm

        with tqdm(total=steps, disable=not progress, unit="step") as bar:
            for first in range(0, steps, each):
                k = min(each, steps - first)
                part = holder.empty((k, n), "int64", device) if path else None
                total = self._advance(
                    holder, device, n, x.data, mass.data, x, mass, total, seed, first, k, path=part
                )
                if part is not None and trail is not None:
                    trail[first : first + k] = part.result()
                bar.update(k)
        end, visits = np.asarray(x.result()).astype(np.int64), None
        measure = np.asarray(mass.result())
        if self.memory == 1:
            visits = np.rint(measure - self._start).astype(np.int64)
        return WalkSample(visits, self._measure(measure, total), end, trail)

    # ---- parts ----------------------------------------------------------------------------------

    def _masses(self, n: int) -> tuple[int, int]:
        return (1 if self.shared else n), self._chain.nodes

    def _measure(self, mass: Array, total: float) -> Array:
        start = float(self._start.sum())
        if self.memory < 1 or total == start:
            return np.asarray(mass / total)
        visits = np.rint(mass - self._start)
        return np.asarray(visits / visits.sum(1, keepdims=True))

    def _check_nodes(self, x: Input, name: str) -> None:
        check_finite(x, name)
        at, m = to_numpy(x.array), self._chain.nodes
        if x.dtype == "float32" and m > 1 << 24:
            raise TypeError(f"{name}: expected float64 for more than 2**24 nodes, got float32")
        if ((at < 0) | (at >= m) | (at != np.floor(at))).any():
            raise ValueError(f"{name}: expected nodes, whole numbers from 0 to {m - 1}, got others")

    def _start_nodes(self, start: Any, n: int, seed: int) -> Array:
        """Nodes (n,), int64: those given, or draws from the target."""
        if start is None:
            u = random.uniform(seed, n, stream=START_STREAM)
            edges = np.cumsum(self.target)
            found = np.searchsorted(edges, u * edges[-1], "right")
            return np.asarray(np.minimum(found, len(edges) - 1))
        nodes = np.asarray(to_numpy(start))
        if nodes.dtype.kind not in "iu":
            raise TypeError(f"start: expected integers, got {nodes.dtype}")
        if nodes.shape not in ((), (n,)):
            raise ValueError(f"start: expected shape ({n},), got {nodes.shape}")
        if nodes.min() < 0 or nodes.max() >= self._chain.nodes:
            raise ValueError(f"start: expected nodes from 0 to {self._chain.nodes - 1}, got others")
        return np.array(np.broadcast_to(nodes, (n,)), np.int64)

    def _graph_on(self, device: str) -> tuple[Any, ...]:
        """The arrays of the graph where native code on `device` reads them."""
        if device not in self._placed:
            arrays = tuple(np.ascontiguousarray(a) for a in (*self.transition, self._inverse))
            if device != "cpu":
                arrays = tuple(DEVICE_MEMORY.asarray(a, device) for a in arrays)
            self._placed[device] = arrays
        return self._placed[device]

    def _plan(
        self, total: float, step: int, k: int, each: int
    ) -> tuple[list[tuple[Array, Array, float]], float]:
        """(deposits, scales, shrink) of consecutive parts of moves step .. step + k, and the total
        afterwards; `each`: walkers that deposit in one measure."""
        start, m = float(self._start.sum()), self._chain.nodes
        if self.memory == 1:
            before = start + each * (step + np.arange(k + 1.0))
            scale = np.ldexp(1.0, -np.frexp(before[:-1] / m)[1])
            return [(np.ones(k), scale, 1.0)], float(before[-1])
        parts, shrink = [], 1.0
        while k:
            # As many moves as would reach the limit at this gain, and a few more: gains fall.
            ahead = np.log(_SHRINK * m / total) * (start / each + step + 1) ** self.memory
            look = min(k, max(_LOOK, int(1.25 * ahead)))
            # The whole numbers first: rounding must not depend on where a call starts.
            gain = (start / each + (step + 1 + np.arange(look))) ** -self.memory
            totals = np.cumprod(np.concatenate([[total], 1 / (1 - gain)]))
            over = np.flatnonzero(totals[1:] > _SHRINK * m)
            take = int(over[0]) + 1 if len(over) else look
            deposit = gain[:take] * totals[1 : take + 1] / each
            scale = np.ldexp(1.0, -np.frexp(totals[:take] / m)[1])
            parts.append((deposit, scale, shrink))
            total, step, k = float(totals[take]), step + take, k - take
            shrink = 1.0
            if len(over):
                total, shrink = total / _SHRINK, 1 / _SHRINK
        if shrink != 1:  # due at the end: a part without moves
            parts.append((np.empty(0), np.empty(0), shrink))
        return parts, total

    def _pieces(
        self, parts: list[tuple[Array, Array, float]], walkers: int, loss: tuple[Any, ...] | None
    ) -> Iterator[tuple[Array, Array, float]]:
        """The parts of a plan, cut into calls of about _SHARED_WORK; a call reads all nodes once."""
        m, work = self._chain.nodes, len(self._chain.graph.indices)
        if loss is not None:
            rows, d = loss[2].shape
            work += (m + rows) * d
        each = max(1, max(_SHARED_WORK, 8 * m) * m // (walkers * work))
        for deposit, scale, shrink in parts:
            for i in range(0, max(1, len(deposit)), each):
                yield deposit[i : i + each], scale[i : i + each], shrink if i == 0 else 1.0

    def _advance(
        self,
        framework: Framework,
        device: str,
        walkers: int,
        x: Any,
        mass: Any,
        x_new: Output,
        mass_new: Output,
        total: float,
        seed: int,
        step: int,
        k: int,
        *,
        path: Output | None = None,
        loss: tuple[Any, ...] | None = None,
        rate: Array | None = None,
        theta: tuple[Any, Any] | None = None,
    ) -> float:
        """Take k moves from native arrays into new ones (or the same); returns the new total.

        loss: what native code reads of it; rate (k,): steps of the descent; theta: from, to.
        """
        native, queue = executor(device), framework.queue(device)
        parts: Iterable[tuple[Array, Array, float]]
        parts, total = self._plan(total, step, k, walkers if self.shared else 1)
        if self.shared and device == "cpu":
            parts = self._pieces(parts, walkers, loss)
        done = 0
        for deposit, scale, shrink in parts:
            n = len(deposit)
            descent = None
            if loss is not None and rate is not None and theta is not None:
                descent = (*loss, np.ascontiguousarray(rate[done : done + n]), *theta)
            trail = None if path is None else path.data
            native.walk(
                self._graph_on(device), self.alpha, self.shared, deposit, scale, x, x_new.data, mass,
                mass_new.data, shrink, 0.0 if shrink == 1 else _FLOOR, trail, done, descent, seed,
                WALK_STREAM, step + done, queue,
            )  # fmt: skip
            x, mass, done = x_new.data, mass_new.data, done + n
            theta = None if theta is None else (theta[1], theta[1])
        return total


def _filled(holder: Framework, a: Array, device: str) -> Output:
    """Memory of `holder` that native code may write, with the values of `a`."""
    if device == "cpu":
        return Output(np.array(a, order="C"))
    out = holder.empty(a.shape, str(a.dtype), device)
    return Output(holder.asarray(np.ascontiguousarray(a), device), out.wrap)


def _observable(f: Any, name: str, m: int) -> Array:
    """A function on the nodes (m,), or several (m, k)."""
    x = as_input(f, name)
    if len(x.shape) not in (1, 2) or x.shape[0] != m:
        raise ValueError(f"{name}: expected shape ({m},) or ({m}, k), got {x.shape}")
    check_finite(x, name)
    return np.asarray(to_numpy(x.array), np.float64)


def _variance(chain: Chain, alpha: Array, f: Array) -> Any:
    values, left = chain.spectrum()
    weights = (1 + values) / (1 - values) / (2 * alpha[..., None] * (1 + values) + 1)
    out = weights @ ((left.T @ f.reshape(len(f), -1)) ** 2)
    shape = alpha.shape + f.shape[1:]
    return float(out.reshape(())) if shape == () else np.asarray(out.reshape(shape))


def asymptotic_variance(
    graph: Any, mu: Any, alpha: float | Sequence[float], g: Any, *, base: Any = "mh"
) -> Any:
    """The limit of ``n Var`` of the mean of g over n moves of a self-repellent walk.

    ``sum_k (1 + l_k) / (1 - l_k) / (2 alpha (1 + l_k) + 1) <u_k, g>^2`` over the eigenvalues ``l_k``
    of the base chain below 1, ``u_k`` the left eigenvectors, ``root(mu)`` times orthonormal ones. At
    alpha = 0 this is the chain's own variance, and it falls like 1 / alpha.

    Parameters
    ----------
    graph : graph or None
        As for `SelfRepellentWalk`; at most 5000 nodes.
    mu : {"uniform", "degree", "stationary"} or array, shape (m,)
        The target.
    alpha : float or sequence of a floats
        At least 0.
    g : array, shape (m,) or (m, k)
        Functions on the nodes.
    base : {"mh", "simple"} or matrix, shape (m, m)
        The base chain.

    Returns
    -------
    float or numpy.ndarray, shape (a,), (k,) or (a, k)

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    SelfRepellentWalk

    References
    ----------
    .. [1] V. Doshi, J. Hu, D. Y. Eun, "Self-repellent random walks on general graphs - achieving
       minimal sampling variance via nonlinear Markov chains", ICML 2023, arXiv:2305.05097

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> complete = np.ones((3, 3)) - np.eye(3)
    >>> round(mk.samplers.asymptotic_variance(complete, "uniform", 0.0, [1.0, 0.0, 0.0]), 6)
    0.074074
    """
    strengths = np.asarray(alpha, np.float64)
    if strengths.ndim > 1 or not (np.isfinite(strengths) & (strengths >= 0)).all():
        raise ValueError("alpha: expected a finite number >= 0, or a sequence of them, got others")
    chain = make_chain(graph, base, mu)
    return _variance(chain, strengths, _observable(g, "g", chain.nodes))
