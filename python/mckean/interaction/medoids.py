"""k-medoids clustering: clusters around points of the data, under any distance."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels, random
from mckean._array import Input, as_input, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import ConvergenceWarning, as_count, as_seed, one_of
from mckean.interaction import _sums

__all__ = ["KMedoids", "kmedoids"]

Array = np.ndarray[Any, Any]
_STREAM = 0x6D65646F696473  # starting medoids; the next one: the subsamples of CLARA
_METRICS = ("euclidean", "sqeuclidean", "manhattan", "cosine", "precomputed")
_NATIVE = {"sqeuclidean": 0, "euclidean": 1, "manhattan": 2}  # enum Metric
_INITS = ("random", "build", "lab", "kmeans++")
_METHODS = ("fasterpam", "fastpam1", "clara")
_VALUES = 1 << 18  # distances held at a time: they stay in cache between being made and being used


@dataclass(frozen=True)
class KMedoids:
    """What `kmedoids` returns.

    Attributes
    ----------
    medoids : array of int, shape (n_clusters,)
        Rows of `x`, in the framework and on the device of `x`.
    labels : array of int, shape (n,)
        Which medoid, by its place in `medoids`, is nearest to each row.
    loss : float
        Sum of the distances of all rows to their medoid.
    converged : bool
        Whether no exchange of a medoid lowers the loss (with "clara": within the best subsample).
    n_iter : int
        Rounds over all candidates.
    n_swaps : int
        Exchanges made.
    """

    medoids: Any
    labels: Any
    loss: float
    converged: bool
    n_iter: int
    n_swaps: int


def kmedoids(
    x: Any,
    n_clusters: int,
    *,
    metric: str | kernels.Kernel = "euclidean",
    init: Any = "random",
    method: str = "fasterpam",
    max_iter: int = 100,
    n_samples: int = 5,
    sample_size: int | None = None,
    seed: Any = 0,
) -> KMedoids:
    """Choose `n_clusters` rows of `x` that minimise the sum of the distances of all rows to the nearest of them.

    A local search that exchanges medoids for other points, as PAM does; the change of the loss by every exchange of one
    candidate with any medoid comes from one pass over its distances, whatever the number of medoids. Distances are
    computed where they are needed, so memory is O(n); a round takes O(n^2) of them. All of it runs on the CPU; arrays
    on other devices are copied there.

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        Points; with ``metric="precomputed"`` a symmetric matrix (n, n) of dissimilarities with zero diagonal.
    n_clusters : int
        ``1 <= n_clusters <= n``.
    metric : str or Kernel, optional
        "euclidean", "sqeuclidean", "manhattan", "cosine" (``1 - cos``), "precomputed", or a positive definite kernel,
        whose distance is ``sqrt(k(x, x) + k(y, y) - 2 k(x, y))``.
    init : str or array of int, shape (n_clusters,), optional
        Starting medoids: "random"; "build" (greedy, O(n^2 n_clusters)); "lab" (greedy on small subsamples); "kmeans++"
        (each with probability proportional to its distance from those before); or distinct row numbers.
    method : {"fasterpam", "fastpam1", "clara"}, optional
        "fasterpam" makes every exchange that lowers the loss as soon as it is found; "fastpam1" the best one of every
        round, as PAM does, and is slower; "clara" runs "fasterpam" on `n_samples` subsamples and keeps the medoids that
        are best for all points, for large n.
    max_iter : int, optional
        Most rounds (exchanges, with "fastpam1").
    n_samples, sample_size : int, optional
        For "clara"; by default 5 subsamples of ``80 + 4 n_clusters``.
    seed : int or numpy.random.SeedSequence, optional

    Returns
    -------
    KMedoids
        `medoids`, `labels`, `loss`, `converged`, `n_iter` and `n_swaps`. A pure function of the arguments.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or `x` holds NaN or infinity or distances overflow.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` rounds did not reach a local minimum.

    Notes
    -----
    Ties go to the smaller index. An exchange must lower the loss by more than the rounding of sums, which are made in
    float64; with a kernel also by more than a relative 1e-6 in float32, 1e-12 in float64.

    References
    ----------
    .. [1] E. Schubert, P. Rousseeuw, "Fast and eager k-medoids clustering: O(k) runtime improvement of the PAM, CLARA,
       and CLARANS algorithms", Information Systems 101, 2021, doi:10.1016/j.is.2021.101804

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction import kmedoids
    >>> x = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    >>> found = kmedoids(x, 2)
    >>> sorted(found.medoids.tolist()), found.loss
    ([1, 4], 4.0)
    """
    at = as_input(x, "x", shape=("n", "d"))
    check_finite(at, "x")
    n = at.shape[0]
    count = as_count(n_clusters, "n_clusters", least=1)
    if count > n:
        raise ValueError(f"n_clusters: expected at most {n} to match x, got {count}")
    one_of(method, "method", _METHODS)
    max_iter = as_count(max_iter, "max_iter", least=1)
    n_samples = as_count(n_samples, "n_samples", least=1)
    if sample_size is not None:
        sample_size = as_count(sample_size, "sample_size", least=count)
    seed = as_seed(seed)
    start = None if isinstance(init, str) else _given(init, n, count)
    if start is None:
        one_of(init, "init", _INITS)
    distances = _distances(at, metric)
    if method == "clara":
        if start is not None:
            raise ValueError("init: expected a name with method 'clara', got an array")
        found = _clara(distances, count, init, max_iter, n_samples, sample_size, seed)
    else:
        if start is None:
            start = _start(distances, count, init, seed)
        found = _search(distances, start, method, max_iter)
    if not found.converged:
        warnings.warn(
            f"kmedoids stopped after {found.n_iter} rounds before a local minimum; raise max_iter",
            ConvergenceWarning,
            stacklevel=2,
        )
    return KMedoids(
        at.framework.asarray(np.ascontiguousarray(found.medoids), at.device),
        at.framework.asarray(np.ascontiguousarray(found.labels), at.device),
        found.loss,
        found.converged,
        found.n_iter,
        found.n_swaps,
    )


def _given(init: Any, n: int, count: int) -> Array:
    start = np.asarray(to_numpy(init) if hasattr(init, "dtype") else init)
    if start.dtype.kind not in "iu":
        raise TypeError(
            f"init: expected one of {', '.join(map(repr, _INITS))} or row numbers, got {start.dtype}"
        )
    if start.shape != (count,):
        raise ValueError(f"init: expected shape ({count},) to match n_clusters, got {start.shape}")
    if start.min() < 0 or start.max() >= n or len(np.unique(start)) != count:
        raise ValueError(f"init: expected distinct row numbers below {n}")
    return start.astype(np.int64)


# ---- distances -----------------------------------------------------------------------------------


class _Distances:
    """Distances between n objects, a few rows at a time."""

    noise = 0.0  # relative difference of the same distance computed twice

    def __init__(self, n: int, dtype: str) -> None:
        self.n, self.dtype = n, dtype

    def rows(self, index: Array) -> Array:
        """Return the distances of objects `index` to all, shape (len(index), n)."""
        raise NotImplementedError

    def between(self, index: Array, others: Array) -> Array:
        """Return the distances of objects `index` to `others`, C-contiguous."""
        raise NotImplementedError

    def subset(self, index: Array) -> _Distances:
        raise NotImplementedError

    def blocks(self, first: int = 0) -> Iterator[tuple[int, Array]]:
        """Rows in order from `first` on, as many at a time as stay in cache; each with its first number."""
        step = max(4, _VALUES // max(self.n, 1))
        for start in range(first, self.n, step):
            yield start, self.rows(np.arange(start, min(start + step, self.n)))


class _Points(_Distances):
    def __init__(self, x: Array, metric: str) -> None:
        super().__init__(len(x), str(x.dtype))
        self.x, self.metric = np.ascontiguousarray(x), metric
        self.columns = np.ascontiguousarray(x.T)

    def rows(self, index: Array) -> Array:
        return self._compute(self.x[index], self.columns)

    def between(self, index: Array, others: Array) -> Array:
        return self._compute(self.x[index], np.ascontiguousarray(self.x[others].T))

    def subset(self, index: Array) -> _Distances:
        return _Points(self.x[index], self.metric)

    def _compute(self, points: Array, columns: Array) -> Array:
        out = np.empty((len(points), columns.shape[1]), self.dtype)
        executor("cpu").distances(_NATIVE[self.metric], points, columns, out)
        return out


class _Matrix(_Distances):
    def __init__(self, matrix: Array) -> None:
        super().__init__(len(matrix), str(matrix.dtype))
        self.matrix = matrix

    def rows(self, index: Array) -> Array:
        out: Array = self.matrix[index]
        return out

    def between(self, index: Array, others: Array) -> Array:
        return np.ascontiguousarray(self.matrix[np.ix_(index, others)])

    def subset(self, index: Array) -> _Distances:
        return _Matrix(self.between(index, index))


class _KernelDistances(_Distances):
    def __init__(self, k: kernels.Kernel, x: Array) -> None:
        super().__init__(len(x), str(x.dtype))
        self.k, self.x = k, x
        self.noise = 1e-6 if self.dtype == "float32" else 1e-12
        self.diagonal = np.empty(self.n, x.dtype)
        for start in range(0, self.n, 256):
            part = slice(start, start + 256)
            self.diagonal[part] = np.diagonal(_sums.kernel_matrix(k, x[part], x[part]))
        if not np.isfinite(self.diagonal).all():
            raise ValueError(
                f"metric: expected a kernel that is finite at coincident points, got {k!r}"
            )

    def rows(self, index: Array) -> Array:
        return self._compute(index, slice(None))

    def between(self, index: Array, others: Array) -> Array:
        return self._compute(index, others)

    def subset(self, index: Array) -> _Distances:
        return _KernelDistances(self.k, self.x[index])

    def _compute(self, index: Array, others: Any) -> Array:
        out = np.array(_sums.kernel_matrix(self.k, self.x[index], self.x[others]))
        here, there = self.diagonal[index][:, None], self.diagonal[others]
        out *= -2.0
        out += here
        out += there
        scale = np.abs(here) + np.abs(there)
        if (out < -1e-3 * scale).any():
            raise ValueError(f"metric: expected a positive definite kernel, got {self.k!r}")
        # Rounding leaves a distance of its square root between coincident points.
        out[out < 4.0 * np.finfo(out.dtype).eps * scale] = 0.0
        np.sqrt(out, out=out)
        return out


def _distances(at: Input, metric: Any) -> _Distances:
    x = np.ascontiguousarray(to_numpy(at.array))
    if isinstance(metric, kernels.Kernel):
        return _KernelDistances(metric, x)
    if not isinstance(metric, str):
        raise TypeError(
            f"metric: expected one of {', '.join(map(repr, _METRICS))} or a kernel, "
            f"got {type(metric).__name__}"
        )
    one_of(metric, "metric", _METRICS)
    if metric == "precomputed":
        return _Matrix(_checked_matrix(x))
    if metric != "cosine":
        return _Points(x, metric)
    norms = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))
    if not (norms > 0).all():
        raise ValueError(
            f"x: expected nonzero rows for metric 'cosine', row {int(np.argmin(norms))} is zero"
        )
    # 1 - cos is half the squared distance of the unit vectors, without its cancellation.
    return _Points((x / (norms * math.sqrt(2.0))[:, None]).astype(x.dtype), "sqeuclidean")


def _checked_matrix(x: Array) -> Array:
    n = len(x)
    if x.shape != (n, n):
        raise ValueError(f"x: expected shape (n, n) for metric 'precomputed', got {x.shape}")
    if np.diagonal(x).any():
        raise ValueError("x: expected a zero diagonal for metric 'precomputed'")
    step = max(1, _VALUES // max(n, 1))
    for start in range(0, n, step):
        rows, columns = x[start : start + step], x[:, start : start + step].T
        if (rows < 0).any():
            raise ValueError(
                f"x: expected no negative numbers for metric 'precomputed', got {rows.min()}"
            )
        if not np.allclose(rows, columns, rtol=1e-5, atol=0.0):
            raise ValueError("x: expected a symmetric matrix for metric 'precomputed'")
    return x


# ---- starting medoids ----------------------------------------------------------------------------


def _sample(n: int, count: int, seed: int, stream: int, counter: int) -> Array:
    """`count` distinct numbers below n in random order; O(count) where that is far less than n."""
    if 4 * count >= n:
        keys = random.uniform(seed, n, stream=stream, counter=counter)
        return np.argsort(keys, kind="stable")[:count].astype(np.int64)
    draws = 2 * count
    while True:
        numbers = (random.uniform(seed, draws, stream=stream, counter=counter) * n).astype(np.int64)
        first = np.sort(np.unique(numbers, return_index=True)[1])
        if len(first) >= count:
            return np.asarray(numbers[first[:count]])
        draws *= 2


def _start(d: _Distances, count: int, init: str, seed: int) -> Array:
    if init == "random":
        return _sample(d.n, count, seed, _STREAM, 0)
    if init == "build":
        return _build(d, count)
    if init == "lab":
        return _lab(d, count, seed)
    return _plus_plus(d, count, seed)


def _gains(d: _Distances, near: Array | None) -> Array:
    gains = np.empty(d.n)
    for first, rows in d.blocks():
        executor("cpu").pam_gains(rows, near, gains[first : first + len(rows)])
    return gains


def _build(d: _Distances, count: int) -> Array:
    """Each medoid lowers the loss as much as one can."""
    chosen = [int(np.argmin(_gains(d, None)))]
    near = d.rows(np.array(chosen))[0]
    while len(chosen) < count:
        gains = _gains(d, near)
        gains[chosen] = np.inf
        chosen.append(int(np.argmin(gains)))
        near = np.minimum(near, d.rows(np.array(chosen[-1:]))[0])
    return np.array(chosen, np.int64)


def _lab(d: _Distances, count: int, seed: int) -> Array:
    """As `_build`, but each medoid is chosen among, and for, a small subsample."""
    size = 10 + math.isqrt(max(d.n - 1, 0)) + 1
    chosen: list[int] = []
    near: Array | None = None
    for i in range(count):
        sample = _sample(d.n, min(d.n, size + i), seed, _STREAM, 1 + i)
        sample = sample[~np.isin(sample, chosen)][:size]
        gains = np.empty(len(sample))
        some = None if near is None else np.ascontiguousarray(near[sample])
        executor("cpu").pam_gains(d.between(sample, sample), some, gains)
        chosen.append(int(sample[np.lexsort((sample, gains))[0]]))
        row = d.rows(np.array(chosen[-1:]))[0]
        near = row if near is None else np.minimum(near, row)
    return np.array(chosen, np.int64)


def _plus_plus(d: _Distances, count: int, seed: int) -> Array:
    """Each medoid is drawn with probability proportional to what it has to pay so far."""
    draws = random.uniform(seed, count, stream=_STREAM, counter=0)
    chosen = [int(draws[0] * d.n)]
    near = d.rows(np.array(chosen))[0]
    for i in range(1, count):
        weights = near.astype(np.float64)
        weights[chosen] = 0.0
        if not weights.any():  # only copies of medoids are left
            weights[:] = 1.0
            weights[chosen] = 0.0
        levels = np.cumsum(weights)
        at = int(np.searchsorted(levels, draws[i] * levels[-1], side="right"))
        chosen.append(min(at, int(np.flatnonzero(weights)[-1])))
        near = np.minimum(near, d.rows(np.array(chosen[-1:]))[0])
    return np.array(chosen, np.int64)


# ---- the search ----------------------------------------------------------------------------------


class _State:
    """Medoids, and for every object its two nearest of them."""

    def __init__(self, d: _Distances, medoids: Array) -> None:
        self.d, self.medoids = d, medoids.copy()
        self.native = executor("cpu")
        k = len(medoids)
        # Of every object: slot of the nearest and of the second nearest medoid, and their distances.
        self.arrays = (
            np.empty(d.n, np.int32),
            np.empty(d.n, np.int32),
            np.empty(d.n, d.dtype),
            np.empty(d.n, d.dtype),
        )
        self.is_medoid = np.zeros(d.n, np.uint8)
        self.is_medoid[medoids] = 1
        self.removal = np.empty(k)
        self._found = np.empty(d.n, np.int64)
        step = max(1, _VALUES // d.n)
        for start in range(0, k, step):
            for slot, row in enumerate(d.rows(medoids[start : start + step]), start):
                self.native.pam_offer(*self.arrays, k, row, slot, int(medoids[slot]))
        self._refresh()
        if not math.isfinite(self.loss + self.bound):
            raise ValueError(f"x: expected distances within the range of {d.dtype}")

    def _refresh(self) -> None:
        self.loss, spare = self.native.pam_totals(*self.arrays, self.removal)
        #: A change must be below it: rounding taken for an improvement could make the search cycle.
        self.bound = -self.d.noise * self.loss
        if len(self.removal) > 1:
            self.bound -= 1e-13 * spare

    def swap(self, slot: int, point: int, row: Array) -> None:
        self.is_medoid[self.medoids[slot]] = 0
        self.is_medoid[point] = 1
        self.medoids[slot] = point
        k = len(self.medoids)
        count = self.native.pam_swap(*self.arrays, k, row, slot, point, self._found)
        step = max(1, _VALUES // k)
        for start in range(0, count, step):
            search = self._found[start : min(start + step, count)]
            to_medoids = self.d.between(search, self.medoids)
            self.native.pam_search(*self.arrays, k, search, to_medoids)
        self._refresh()


@dataclass(frozen=True)
class _Found:
    medoids: Array
    labels: Array
    loss: float
    converged: bool
    n_iter: int
    n_swaps: int


def _search(d: _Distances, start: Array, method: str, max_iter: int) -> _Found:
    state = _State(d, start)
    if len(start) == 1:
        totals = _gains(d, None)
        best = int(np.argmin(totals))
        swaps = int(totals[best] < totals[start[0]])
        if swaps:
            state = _State(d, np.array([best]))
        done, rounds = True, 1
    elif method == "fastpam1":
        done, rounds, swaps = _best_swaps(state, max_iter)
    else:
        done, rounds, swaps = _eager_swaps(state, max_iter)
    labels = state.arrays[0].astype(np.int64)
    return _Found(state.medoids, labels, state.loss, done, rounds, swaps)


def _eager_swaps(state: _State, max_iter: int) -> tuple[bool, int, int]:
    """FasterPAM: candidates in turn, until it is the turn of the last that was swapped in."""
    swaps, last = 0, state.d.n
    for rounds in range(1, max_iter + 1):
        before = swaps
        for first, rows in state.d.blocks():
            at = 0
            while at < len(rows):
                found, _, slot = state.native.pam_first(
                    *state.arrays,
                    state.removal,
                    state.is_medoid,
                    first + at,
                    rows[at:],
                    state.bound,
                )
                at += found
                if at < len(rows):
                    state.swap(slot, first + at, rows[at])
                    swaps += 1
                    last = first + at
                    at += 1
            if swaps == before and first + len(rows) > last:
                break
        if swaps == before:
            return True, rounds, swaps
    return False, max_iter, swaps


def _best_swaps(state: _State, max_iter: int) -> tuple[bool, int, int]:
    """FastPAM1."""
    change, slots = np.empty(state.d.n), np.empty(state.d.n, np.int32)
    for swaps in range(max_iter):
        for first, rows in state.d.blocks():
            part = slice(first, first + len(rows))
            state.native.pam_changes(
                *state.arrays,
                state.removal,
                state.is_medoid,
                first,
                rows,
                change[part],
                slots[part],
            )
        best = int(np.argmin(change))
        if not change[best] < state.bound:
            return True, swaps + 1, swaps
        state.swap(int(slots[best]), best, state.d.rows(np.array([best]))[0])
    return False, max_iter, max_iter


def _clara(
    d: _Distances,
    count: int,
    init: str,
    max_iter: int,
    n_samples: int,
    sample_size: int | None,
    seed: int,
) -> _Found:
    """The best of searches in subsamples; each subsample holds the best medoids so far."""
    size = min(d.n, 80 + 4 * count if sample_size is None else sample_size)
    best: _State | None = None
    done, rounds, swaps = True, 0, 0
    for i in range(n_samples):
        sample = _sample(d.n, size, seed, _STREAM + 1, i)
        if best is not None:
            others = sample[~np.isin(sample, best.medoids)]
            sample = np.concatenate([best.medoids, others])[:size]
        inner = d.subset(sample)
        found = _search(inner, _start(inner, count, init, seed), "fasterpam", max_iter)
        state = _State(d, sample[found.medoids])
        rounds, swaps = rounds + found.n_iter, swaps + found.n_swaps
        if best is None or state.loss < best.loss:
            best, done = state, found.converged
    assert best is not None
    return _Found(best.medoids, best.arrays[0].astype(np.int64), best.loss, done, rounds, swaps)
