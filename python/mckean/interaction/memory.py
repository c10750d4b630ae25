"""Associative memories: Hopfield retrieval, and clustering by the same dynamics."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels, random
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_real, as_seed, positive
from mckean.interaction._settle import settle, take
from mckean.interaction._sums import kernel_logsumexp, kernel_mean, pair_argmin
from mckean.interaction.softmax import kernel_mean_vjp

__all__ = [
    "ClAM",
    "Retrieval",
    "clam_energy",
    "clam_loss",
    "clam_steps",
    "hopfield_energy",
    "hopfield_retrieve",
]

Array = np.ndarray[Any, Any]
_TOL = {"float64": 1e-9, "float32": 1e-5}
_STARTS, _ORDER, _MASKS = (0x636C616D00 + i for i in range(3))  # streams of mk.random


@dataclass(frozen=True)
class Retrieval:
    """The result of `hopfield_retrieve`.

    Attributes
    ----------
    states : array, shape (n, d)
        Where the queries came to rest.
    energy : array, shape (n,)
        `hopfield_energy` of `states`.
    iterations : numpy array, shape (n,), int64
        Updates each query took.
    n_iter : int
        The largest of them.
    converged : bool
        Whether the last update of every query was shorter than the tolerance.
    """

    states: Any
    energy: Any
    iterations: Array
    n_iter: int
    converged: bool


def hopfield_retrieve(
    patterns: Any,
    queries: Any,
    *,
    beta: float,
    n_steps: int | None = None,
    tol: float | None = None,
    max_iter: int = 1000,
) -> Retrieval:
    """Retrieve stored patterns with a modern Hopfield network.

    A query xi is replaced by ``sum_i p_i x_i`` with weights ``p = softmax(beta x_i . xi)`` over the patterns x, until
    it rests or `n_steps` times. One update is the attention of a transformer with the patterns as keys and values, and
    ``beta = 1 / sqrt(d)``. A small beta retrieves the mean of all patterns, a large one a single pattern, with an error
    ``|xi' - x_i| <= 2 max_j |x_j| (1 - p_i)``. Time O(n m d) per update for n queries and m patterns, memory
    O((n + m) d): the weights are never stored.

    Parameters
    ----------
    patterns : array, shape (m, d), float32 or float64
        m > 0.
    queries : array, shape (n, d)
    beta : float
        Inverse temperature, > 0.
    n_steps : int, optional
        Make this number of updates; by default each query is updated until it rests.
    tol : float, optional
        A query rests when an update moves it by less than this; by default 1e-9 (float64) or 1e-5 (float32) times the
        longest pattern.
    max_iter : int
        Most updates of a query, without `n_steps`.

    Returns
    -------
    Retrieval
        Arrays of the framework, dtype and device of `patterns`. Deterministic, not differentiable (see
        `mckean.interaction.softmax.kernel_mean_vjp`).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If, without `n_steps`, a query still moves after `max_iter` updates.

    See Also
    --------
    hopfield_energy

    References
    ----------
    .. [1] H. Ramsauer et al., "Hopfield Networks is All You Need", ICLR 2021, arXiv:2008.02217

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.interaction.memory import hopfield_retrieve
    >>> patterns = mk.random.normal(1, (100, 64))
    >>> noisy = patterns[:3] + 0.3 * mk.random.normal(2, (3, 64))
    >>> result = hopfield_retrieve(patterns, noisy, beta=0.5)
    >>> result.converged, bool(abs(result.states - patterns[:3]).max() < 1e-3)
    (True, True)
    """
    stored, asked = _pair(patterns, "patterns", queries, "queries")
    k = kernels.Dot(beta)
    longest = _longest(stored)
    tol = _TOL[stored.dtype] * (longest or 1.0) if tol is None else positive(tol, "tol")
    max_iter = as_count(max_iter, "max_iter", least=1)

    def update(xi: Any) -> Any:
        return kernel_mean(k, xi, stored.array)

    if n_steps is None:
        states, counts, rest = settle(update, asked, tol, max_iter)
        converged = bool(rest.all())
        if not converged:
            warnings.warn(
                f"{int((~rest).sum())} of {rest.size} queries still move by more than {tol:.1e} "
                f"after {max_iter} updates",
                ConvergenceWarning,
                stacklevel=2,
            )
    else:
        n_steps = as_count(n_steps, "n_steps", least=1)
        states = before = asked.array
        for _ in range(n_steps):
            before, states = states, update(states)
        moved = to_numpy(((states - before) ** 2).sum(1)).astype(np.float64)
        counts = np.full(asked.shape[0], n_steps, np.int64)
        converged = bool((moved < tol * tol).all())
    energy = _hopfield_energy(stored, states, k.beta, longest)
    return Retrieval(states, energy, counts, int(counts.max(initial=0)), converged)


def hopfield_energy(patterns: Any, states: Any, *, beta: float) -> Any:
    """Compute the energy that no update of `hopfield_retrieve` increases.

    ``E(xi) = -log(sum_i exp(beta x_i . xi)) / beta + |xi|^2 / 2 + log(m) / beta + max_i |x_i|^2 / 2``, which is >= 0.

    Parameters
    ----------
    patterns : array, shape (m, d), float32 or float64
        m > 0.
    states : array, shape (n, d)
    beta : float
        Inverse temperature, > 0.

    Returns
    -------
    array, shape (n,)
        Of the framework, dtype and device of `patterns`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    hopfield_retrieve

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction.memory import hopfield_energy
    >>> hopfield_energy(np.eye(2), np.eye(2), beta=50.0).round(3)
    array([0.014, 0.014])
    """
    stored, asked = _pair(patterns, "patterns", states, "states")
    return _hopfield_energy(stored, asked.array, positive(beta, "beta"), _longest(stored))


def _hopfield_energy(stored: Input, states: Any, beta: float, longest: float) -> Any:
    # Completing the square: |xi|^2 drops out, and with it the cancellation of large terms.
    x = stored.array
    deficit = 0.5 * beta * ((x * x).sum(1) - longest * longest)
    lse = kernel_logsumexp(kernels.Gaussian(beta**-0.5), states, x, deficit)
    return (math.log(stored.shape[0]) - lse) / beta


def _longest(stored: Input) -> float:
    return math.sqrt((stored.array * stored.array).sum(1).max())


def clam_steps(
    prototypes: Any,
    x: Any,
    *,
    beta: float,
    step: float = 1.0,
    n_steps: int = 10,
    mask: Any = None,
) -> Any:
    """Let points fall towards prototypes: the associative memory of ClAM.

    ``v' = v + step sum_j p_j (rho_j - v)`` with ``p = softmax(-beta |rho_j - v|^2)`` over the prototypes rho. This is a
    gradient step of length ``step / 2`` on `clam_energy`; with ``step = 1`` it is mean shift of bandwidth
    ``1 / sqrt(2 beta)`` on the prototypes. Time O(n_steps n m d), memory O((n + m) d).

    Parameters
    ----------
    prototypes : array, shape (m, d), float32 or float64
        m > 0.
    x : array, shape (n, d)
        Where the points start.
    beta : float
        Inverse temperature in units of 1 / length^2, > 0.
    step : float
        In (0, 1].
    n_steps : int
    mask : array, shape (n, d), optional
        Only coordinates where it is 1 move, those where it is 0 stay; weights are those of all coordinates.

    Returns
    -------
    array, shape (n, d)
        Of the framework, dtype and device of `prototypes`. Deterministic, not differentiable (see `clam_loss`).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    References
    ----------
    .. [1] B. Saha, D. Krotov, M. Zaki, P. Ram, "End-to-end Differentiable Clustering with Associative Memories", ICML
       2023, arXiv:2306.03209

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction.memory import clam_steps
    >>> clam_steps(np.array([[0.0, 0.0], [4.0, 4.0]]), np.array([[3.0, 2.0]]), beta=1.0).round(6)
    array([[4., 4.]])
    """
    rho, at = _pair(prototypes, "prototypes", x, "x")
    moving = 1.0 if mask is None else _mask(mask, at).array
    k, step = _gaussian(beta), _step(step)
    return _descend(k, rho.array, at.array, moving, step, as_count(n_steps, "n_steps"))[-1]


def clam_energy(prototypes: Any, x: Any, *, beta: float) -> Any:
    """Compute ``-log(sum_j exp(-beta |rho_j - x|^2)) / beta``, which `clam_steps` descends.

    Parameters
    ----------
    prototypes : array, shape (m, d), float32 or float64
        m > 0.
    x : array, shape (n, d)
    beta : float
        Inverse temperature in units of 1 / length^2, > 0.

    Returns
    -------
    array, shape (n,)
        Of the framework, dtype and device of `prototypes`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction.memory import clam_energy
    >>> clam_energy(np.zeros((1, 2)), np.array([[3.0, 4.0]]), beta=2.0)
    array([25.])
    """
    rho, at = _pair(prototypes, "prototypes", x, "x")
    return kernel_logsumexp(_gaussian(beta), at.array, rho.array) / -positive(beta, "beta")


def clam_loss(
    prototypes: Any,
    x: Any,
    mask: Any,
    *,
    beta: float,
    step: float = 1.0,
    n_steps: int = 10,
    fill: float = 0.0,
) -> tuple[float, Any]:
    """Compute how badly prototypes complete masked points, and the gradient in the prototypes.

    Masked coordinates are replaced by `fill`, moved by `clam_steps`, and compared with what they were: the loss is
    their mean squared error. The gradient goes back through all steps, by `kernel_mean_vjp`. Time O(n_steps n m d),
    memory O(n_steps n d + m d).

    Parameters
    ----------
    prototypes : array, shape (m, d), float32 or float64
        m > 0.
    x : array, shape (n, d)
        n > 0.
    mask : array, shape (n, d)
        1 where a coordinate is hidden, 0 where it is seen; at least one 1.
    beta, step, n_steps
        As in `clam_steps`.
    fill : float
        Where hidden coordinates start.

    Returns
    -------
    loss : float
    gradient : array, shape (m, d)
        Of the framework, dtype and device of `prototypes`. Deterministic up to the framework's own matrix products.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or nothing is masked.

    See Also
    --------
    ClAM

    References
    ----------
    .. [1] B. Saha, D. Krotov, M. Zaki, P. Ram, "End-to-end Differentiable Clustering with Associative Memories", ICML
       2023, arXiv:2306.03209

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction.memory import clam_loss
    >>> x, mask = np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]])
    >>> loss, gradient = clam_loss(np.array([[1.0, 1.0]]), x, mask, beta=1.0)
    >>> loss, gradient.tolist()
    (1.0, [[0.0, -2.0]])
    """
    rho, at = _pair(prototypes, "prototypes", x, "x")
    hidden = _mask(mask, at)
    n_hidden = float(hidden.array.sum()) if at.shape[0] else 0.0
    if n_hidden < 1:
        raise ValueError("mask: expected at least one hidden coordinate, got none")
    k, step = _gaussian(beta), _step(step)
    n_steps, fill = as_count(n_steps, "n_steps"), as_real(fill, "fill")
    return _loss(k, rho.array, at.array, hidden.array, step, n_steps, fill, n_hidden)


def _loss(
    k: kernels.Gaussian,
    rho: Any,
    x: Any,
    hidden: Any,
    step: float,
    n_steps: int,
    fill: float,
    n_hidden: float,
) -> tuple[float, Any]:
    start = x + hidden * (fill - x)
    states = _descend(k, rho, start, hidden, step, n_steps)
    error = hidden * (states[-1] - x)
    loss = float(to_numpy((error * error).sum(1)).astype(np.float64).sum()) / n_hidden
    back, gradient = (2.0 / n_hidden) * error, 0.0 * rho
    for v in reversed(states[:-1]):
        given = step * hidden * back
        pulled = kernel_mean_vjp(k, v, rho, given)
        back = back - given + pulled.x
        gradient = gradient + pulled.y
    return loss, gradient


def _descend(
    k: kernels.Gaussian, rho: Any, x: Any, moving: Any, step: float, n_steps: int
) -> list[Any]:
    """The states before, between and after the steps."""
    states = [x * 1.0]  # never the caller's memory
    for _ in range(n_steps):
        v = states[-1]
        states.append(v + step * moving * (kernel_mean(k, v, rho) - v))
    return states


class ClAM:
    """Cluster points by learning prototypes whose associative memory completes them.

    Training hides random coordinates of the points, lets `clam_steps` fill them in, and follows the gradient of the
    completion error (`clam_loss`) with Adam. A point belongs to the prototype nearest to where the memory takes it.
    Of several restarts, each from data chosen far apart (greedy k-means++), the one of least inertia counts.

    Parameters
    ----------
    n_clusters : int
    beta : float
        Inverse temperature in units of 1 / length^2, > 0; ``1 / (2 l^2)`` for clusters of standard deviation l is a
        good first try.
    step : float
        Length of a step of the memory, in (0, 1].
    n_steps : int
        Steps of the memory.
    mask_rate : float
        Probability in (0, 1) that a coordinate is hidden.
    learning_rate : float
        Of Adam, in units of the data's root mean square deviation. Halved when the loss stops falling.
    n_restarts : int
    batch_size : int
        Points per gradient.
    max_epochs : int
        Most passes over the data.
    patience : int
        Epochs without a smaller loss after which the learning rate is halved; a restart has converged when that is due
        for the fifth time.
    seed : int or numpy.random.SeedSequence

    Attributes
    ----------
    prototypes : array, shape (n_clusters, d)
    labels : array, shape (n,), integer
        Clusters of the points given to `fit`.
    inertia : float
        Sum of the squared distances from points to the prototypes of their clusters.
    losses : numpy array, shape (n_epochs,), float64
        Mean loss of each epoch of the best restart.
    n_iter : int
        Epochs of the best restart.
    converged : bool

    Notes
    -----
    Completion teaches clusters only where the seen coordinates tell something about the hidden ones: in two or three
    dimensions, k-means or `mean_shift` is the better tool. Scale coordinates to comparable sizes first.

    Numbers are those of the data's framework, dtype and device. A fit is a pure function of data and seed, up to the
    framework's own matrix products.

    References
    ----------
    .. [1] B. Saha, D. Krotov, M. Zaki, P. Ram, "End-to-end Differentiable Clustering with Associative Memories", ICML
       2023, arXiv:2306.03209

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.interaction.memory import ClAM
    >>> centres = 3.0 * mk.random.normal(1, (3, 8))
    >>> x = np.repeat(centres, 30, axis=0) + mk.random.normal(2, (90, 8))
    >>> model = ClAM(3, beta=0.5, n_restarts=2, patience=3).fit(x)
    >>> model.converged, np.bincount(model.labels).tolist()
    (True, [30, 30, 30])
    """

    prototypes: Any
    labels: Any
    inertia: float
    losses: Array
    n_iter: int
    converged: bool

    def __init__(
        self,
        n_clusters: int,
        *,
        beta: float,
        step: float = 0.5,
        n_steps: int = 10,
        mask_rate: float = 0.15,
        learning_rate: float = 0.05,
        n_restarts: int = 5,
        batch_size: int = 256,
        max_epochs: int = 200,
        patience: int = 10,
        seed: Any = 0,
    ) -> None:
        self.n_clusters = as_count(n_clusters, "n_clusters", least=1)
        self.beta, self.step = positive(beta, "beta"), _step(step)
        self.n_steps = as_count(n_steps, "n_steps", least=1)
        self.mask_rate = positive(mask_rate, "mask_rate")
        if self.mask_rate >= 1.0:
            raise ValueError(f"mask_rate: expected a number in (0, 1), got {self.mask_rate}")
        self.learning_rate = positive(learning_rate, "learning_rate")
        self.n_restarts = as_count(n_restarts, "n_restarts", least=1)
        self.batch_size = as_count(batch_size, "batch_size", least=1)
        self.max_epochs = as_count(max_epochs, "max_epochs", least=1)
        self.patience = as_count(patience, "patience", least=1)
        self.seed = as_seed(seed)

    def __repr__(self) -> str:
        return f"ClAM({self.n_clusters}, beta={self.beta})"

    def fit(self, x: Any) -> ClAM:
        """Learn the prototypes of `x`, shape (n, d), float32 or float64, with n >= n_clusters.

        Returns
        -------
        ClAM
            This object.

        Raises
        ------
        TypeError, ValueError
            If `x` has the wrong type or shape, holds NaN or infinities, or all its points coincide.

        Warns
        -----
        ConvergenceWarning
            If the loss of the best restart still falls after `max_epochs`.
        """
        at = as_input(x, "x", shape=("n", "d"))
        if at.shape[0] < self.n_clusters:
            raise ValueError(
                f"x: expected at least n_clusters = {self.n_clusters} points, got {at.shape[0]}"
            )
        check_finite(at, "x")
        centre = at.array.sum(0) / at.shape[0]
        # About the mean, hidden coordinates start at 0, and squared lengths are small.
        data = as_input(at.array - centre, "x")
        scale = float((data.array * data.array).sum()) / max(1, math.prod(at.shape))
        if not scale > 0.0:
            raise ValueError("x: expected points that differ, got one point repeated")
        runs = [self._restart(data, r, scale**0.5) for r in range(self.n_restarts)]
        best = min(runs, key=lambda run: run[1])
        self.prototypes, self.inertia, self.losses, self.converged = best[0] + centre, *best[1:]
        self.n_iter = self.losses.size
        self.labels = self.predict(at.array)
        if not self.converged:
            warnings.warn(
                f"the loss still falls after {self.max_epochs} epochs: {self.losses[-1]:.3e}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def transform(self, x: Any) -> Any:
        """Return where the memory takes points `x`, shape (n, d), of the kind given to `fit`."""
        return clam_steps(self._fitted(), x, beta=self.beta, step=self.step, n_steps=self.n_steps)

    def predict(self, x: Any) -> Any:
        """Return the cluster of each point of `x`, shape (n, d), as integers of shape (n,)."""
        return pair_argmin(self.transform(x), self.prototypes)[0][:, 0]

    def fit_predict(self, x: Any) -> Any:
        """Return ``fit(x).labels``."""
        return self.fit(x).labels

    def _fitted(self) -> Any:
        if not hasattr(self, "prototypes"):
            raise ValueError("ClAM: expected a fitted object, call fit(x) first")
        return self.prototypes

    def _restart(self, data: Input, restart: int, scale: float) -> tuple[Any, float, Array, bool]:
        """Prototypes, inertia, losses per epoch, converged."""
        n, dim = data.shape
        k = _gaussian(self.beta)
        rho = _far_apart(data, self.n_clusters, self.seed, restart)
        first, second = 0.0 * rho, 0.0 * rho
        rate, best, waited, halvings, t = self.learning_rate * scale, math.inf, 0, 0, 0
        losses: list[float] = []
        while len(losses) < self.max_epochs and halvings < 5:
            epoch = (restart << 40) + len(losses)
            keys = random.uniform(self.seed, n, stream=_ORDER, counter=epoch)
            order = np.argsort(keys, kind="stable")
            total = 0.0
            for start in range(0, n, self.batch_size):
                rows = order[start : start + self.batch_size]
                x = take(data.array, rows, data)
                t += 1
                hidden = self._hide((rows.size, dim), (restart << 40) + t, data)
                expected = rows.size * dim * self.mask_rate
                loss, g = _loss(k, rho, x, hidden, self.step, self.n_steps, 0.0, expected)
                total += loss * rows.size / n
                first = 0.9 * first + 0.1 * g
                second = 0.999 * second + 0.001 * (g * g)
                size = ((1.0 / (1.0 - 0.999**t)) * second) ** 0.5 + 1e-8 * scale
                rho = rho - (rate / (1.0 - 0.9**t)) * (first / size)
            losses.append(total)
            if total < best * (1.0 - 1e-3):
                best, waited = total, 0
            else:
                waited += 1
            if waited >= self.patience:
                rate, waited, halvings = rate / 2.0, 0, halvings + 1
        rest = _descend(k, rho, data.array, 1.0, self.step, self.n_steps)[-1]
        own = data.array - take(rho, to_numpy(pair_argmin(rest, rho)[0])[:, 0], data)
        inertia = float(to_numpy((own * own).sum(1)).astype(np.float64).sum())
        return rho, inertia, np.array(losses), halvings == 5

    def _hide(self, shape: tuple[int, int], counter: int, like: Input) -> Any:
        """A random mask, 1 where a coordinate is hidden."""
        u = random.uniform(
            self.seed, shape, stream=_MASKS, counter=counter, dtype=like.dtype, like=like.array
        )
        return like.framework.cast(u < self.mask_rate, like.dtype)


def _far_apart(data: Input, n_chosen: int, seed: int, restart: int) -> Any:
    """Greedy k-means++: rows drawn one by one, with probability in proportion to the squared distance to those drawn,
    each the best of a few candidates."""
    n, x = data.shape[0], data.array
    n_candidates = 2 + int(math.log(n_chosen))
    draws = random.uniform(seed, (n_chosen, n_candidates), stream=_STARTS, counter=restart)
    chosen = [int(draws[0, 0] * n)]
    nearest = _squares(x, chosen[0])
    for u in draws[1:]:
        mass = np.cumsum(nearest)
        rows = np.minimum(np.searchsorted(mass, u * mass[-1], side="right"), n - 1)
        trials = [np.minimum(nearest, _squares(x, int(row))) for row in rows]
        best = int(np.argmin([trial.sum() for trial in trials]))
        chosen.append(int(rows[best]))
        nearest = trials[best]
    return take(x, np.array(chosen), data)


def _squares(x: Any, row: int) -> Array:
    """Squared distances of all points to one of them."""
    delta = x - x[row : row + 1]
    return to_numpy((delta * delta).sum(1)).astype(np.float64)


def _pair(first: Any, first_name: str, second: Any, second_name: str) -> tuple[Input, Input]:
    """Stored points (m, d), m > 0, and points (n, d) of their kind."""
    a = as_input(first, first_name, shape=("m", "d"))
    if not a.shape[0]:
        raise ValueError(f"{first_name}: expected at least one point, got shape {a.shape}")
    b = as_match(second, second_name, a, first_name, shape=("n", a.shape[1]))
    check_finite(a, first_name)
    check_finite(b, second_name)
    return a, b


def _mask(mask: Any, x: Input) -> Input:
    """Zeros and ones in the dtype of `x`; booleans and integers are welcome."""
    if hasattr(mask, "dtype") and str(mask.dtype).rpartition(".")[2] != x.dtype:
        mask = x.framework.cast(mask, x.dtype)
    out = as_match(mask, "mask", x, "x")
    values = out.array
    if not bool((values * values == values).all()):
        raise ValueError("mask: expected zeros and ones, got other values")
    return out


def _gaussian(beta: Any) -> kernels.Gaussian:
    return kernels.Gaussian((2.0 * positive(beta, "beta")) ** -0.5)


def _step(value: Any) -> float:
    step = positive(value, "step")
    if step > 1.0:
        raise ValueError(f"step: expected a number in (0, 1], got {step}")
    return step
