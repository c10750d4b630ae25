"""Kernel thinning: few points out of many that keep the distribution, better than a random subset does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mckean import kernels, random
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import as_count, as_real, as_seed, one_of
from mckean.interaction import _sums

__all__ = ["Thinned", "thin"]

Array = np.ndarray[Any, Any]
Index = Array | slice
_STREAM = 0x7468696E6E696E67  # halvings of the split; the next two: those of Compress, and its choice of a half
_BLOCK = 1024  # points whose Gram matrix is walked at a time
_VALUES = 1 << 22  # kernel values held at a time while points are exchanged
_ALL = slice(None)


@dataclass(frozen=True)
class Thinned:
    """What `thin` returns.

    Attributes
    ----------
    indices : array of int, shape (size,)
        Rows of `x` that were kept, in the framework and on the device of `x`.
    mmd : float or None
        Maximum mean discrepancy (with `scores`: kernel Stein discrepancy) of the points kept. None with ``swap=False``.
    mmd_before : float or None
        The same before points were exchanged.
    n_swaps : int
        How many points were exchanged.
    """

    indices: Any
    mmd: float | None
    mmd_before: float | None
    n_swaps: int


def thin(
    k: kernels.Kernel,
    x: Any,
    size: int | None = None,
    *,
    halvings: int | None = None,
    scores: Any = None,
    variant: str = "target",
    power: float | None = None,
    swap: bool = True,
    unique: bool = True,
    compress: int | None = None,
    delta: float = 0.5,
    seed: Any = 0,
) -> Thinned:
    """Choose `size` rows of `x` whose empirical distribution is close to that of all rows.

    Kernel thinning: the points are halved again and again, each pair of them dealt to the two halves such that kernel
    means stay balanced (KT-SPLIT); the best of the resulting subsets is then improved by exchanging its points, one
    after the other, for the input point that makes the maximum mean discrepancy (MMD) smallest (KT-SWAP). For
    ``sqrt(n)`` of `n` points the error of a mean is of order ``n**-1/2`` up to logarithms, where a random subset has
    ``n**-1/4``.

    O(n^2) kernel values and O(n) memory; the kernel sums run on the device of `x`, the walk through the points on the
    CPU. With `compress`, O(n log n).

    Parameters
    ----------
    k : Kernel
        Positive definite, or conditionally so (`Energy`, `Riesz`, `Multiquadric`).
    x : array, shape (n, d), float32 or float64
        The points, such as the states of a chain.
    size : int, optional
        How many to keep, ``1 <= size <= n``; by default ``n // 2**halvings``.
    halvings : int, optional
        Instead of `size`: keep ``n // 2**halvings``. By default the number that leaves about ``sqrt(n)``.
    scores : array, shape (n, d), optional
        Gradients of a log density at `x`: Stein thinning, towards that density and not towards `x` itself.
    variant : {"target", "power", "plus"}, optional
        Kernel that balances the halves: `k` itself, a fractional power of it (rougher, with stronger guarantees for the
        MMD), or the sum of both (KT+). The exchange always uses `k`.
    power : float, optional
        Exponent in [1/2, 1] of the spectral density for "power" and "plus" with a `Gaussian`, 1/2 by default.
        `Matern32` and `Matern52` have fixed ones, which give `Laplace` and `Matern32`.
    swap : bool, optional
        False: return one of the subsets of KT-SPLIT, unexamined.
    unique : bool, optional
        False: a point may be kept more than once.
    compress : int, optional
        Oversampling g of Compress++: thin to ``2**g * sqrt(n)`` points by recursive halving first, and continue with
        these in place of `x`, which `mmd` then refers to. 4 loses little quality.
    delta : float, optional
        Probability that the guarantees fail, in (0, 1).
    seed : int or numpy.random.SeedSequence, optional

    Returns
    -------
    Thinned
        `indices`, `mmd`, `mmd_before` and `n_swaps`. A pure function of the arguments for a given kind of device.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, `x` holds NaN or infinity, `k` is infinite at coincident
        points or not positive definite, or has no power kernel.

    Notes
    -----
    The exchange never raises the MMD beyond rounding. Coincident points are allowed.

    References
    ----------
    .. [1] R. Dwivedi, L. Mackey, "Generalized kernel thinning", ICLR 2022, arXiv:2110.01593
    .. [2] A. Shetty, R. Dwivedi, L. Mackey, "Distribution compression in near-linear time", ICLR 2022, arXiv:2111.07941
    .. [3] M. Riabiz et al., "Optimal thinning of MCMC output", 2022, doi:10.1111/rssb.12503, for thinning with scores

    Examples
    --------
    >>> import mckean as mk
    >>> from mckean.interaction import thin
    >>> x = mk.random.normal(0, (1024, 2))
    >>> kept = thin(mk.kernels.Gaussian(2.0), x, 32)
    >>> x[kept.indices].shape
    (32, 2)
    >>> kept.mmd < 0.02   # 32 random rows: 0.08
    True
    """
    kernels.check_kernel(k, "k")
    at = as_input(x, "x", shape=("n", "d"))
    check_finite(at, "x")
    n, dim = at.shape
    if n == 0 or dim == 0:
        raise ValueError(f"x: expected at least one point and one column, got shape {at.shape}")
    size = _wanted(n, size, halvings)
    seed = as_seed(seed)
    delta = as_real(delta, "delta")
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta: expected a number in (0, 1), got {delta}")
    one_of(variant, "variant", ("target", "power", "plus"))
    for name, value in (("swap", swap), ("unique", unique)):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name}: expected True or False, got {value!r}")
    target: _Pairs
    if scores is None:
        target = _Pairs(k, at)
    else:
        if not k.has_stein:
            raise ValueError(f"k: expected a kernel with a Stein kernel for scores, got {k!r}")
        at_scores = as_match(scores, "scores", at, "x")
        check_finite(at_scores, "scores")
        target = _SteinPairs(k, at, at_scores)
    balance = target
    if variant == "target":
        if power is not None:
            raise ValueError(
                f"power: expected None unless variant is 'power' or 'plus', got {power!r}"
            )
    elif scores is not None:
        raise ValueError(f"variant: expected 'target' with scores, got {variant!r}")
    else:
        base, rougher = _power_kernel(k, dim, power)
        balance = _Pairs(rougher if variant == "power" else base + rougher, at)
    points = None
    if compress is not None:
        points, delta = _compress(balance, as_count(compress, "compress"), size, delta, seed)
        balance, target = balance.restricted(points), target.restricted(points)
    diagonal = target.diagonal()
    if not np.isfinite(diagonal).all():
        raise ValueError(f"k: expected a kernel that is finite at coincident points, got {k!r}")
    parts = _split(balance, size, delta, seed)
    found = _exchange(target, diagonal, parts, unique) if swap else None
    core = parts[0] if found is None else found.core
    indices = at.framework.asarray(
        np.ascontiguousarray(core if points is None else points[core]), at.device
    )
    if found is None:
        return Thinned(indices, None, None, 0)
    # Rounding may leave a hair below zero.
    mmd, before = (math.sqrt(max(v, 0.0)) for v in (found.squared, found.squared_before))
    return Thinned(indices, mmd, before, found.swaps)


def _wanted(n: int, size: int | None, halvings: int | None) -> int:
    if size is not None:
        if halvings is not None:
            raise ValueError("halvings: expected None where size is given")
        size = as_count(size, "size", least=1)
        if size > n:
            raise ValueError(f"size: expected at most {n} to match x, got {size}")
        return size
    halvings = (n.bit_length() - 1) // 2 if halvings is None else as_count(halvings, "halvings")
    if n >> halvings == 0:
        raise ValueError(
            f"halvings: expected at most {n.bit_length() - 1} to match x, got {halvings}"
        )
    return n >> halvings


def _power_kernel(
    k: kernels.Kernel, dim: int, power: float | None
) -> tuple[kernels.Kernel, kernels.Kernel]:
    """Return `k` with its factor dropped, and the kernel whose spectral density is a power of its; both 1 at 0."""
    while isinstance(k, kernels.Scaled) and k.factor > 0:
        k = k.kernel
    if isinstance(k, kernels.Gaussian):
        exponent = 0.5 if power is None else as_real(power, "power")
        if not 0.5 <= exponent <= 1.0:
            raise ValueError(f"power: expected a number in [1/2, 1], got {exponent}")
        return k, kernels.Gaussian(k.bandwidth * math.sqrt(exponent))
    if not isinstance(k, (kernels.Matern32, kernels.Matern52)):
        raise ValueError(
            f"k: expected Gaussian, Matern32 or Matern52 for variant 'power' or 'plus', got {k!r}"
        )
    if power is not None:
        raise ValueError(f"power: expected None with a Matern kernel, got {power!r}")
    # The inverse length sqrt(2 nu) / bandwidth is the same in both.
    if isinstance(k, kernels.Matern32):
        return k, kernels.Laplace(k.bandwidth / math.sqrt(3.0))
    return k, kernels.Matern32(k.bandwidth * math.sqrt(3.0 / 5.0))


class _Pairs:
    """Kernel values between rows of one array, by index, computed on the array's device."""

    def __init__(self, k: kernels.Kernel, x: Input) -> None:
        self.k, self.x = k, x
        self.n, self.dtype = x.shape[0], x.dtype

    def restricted(self, points: Array) -> _Pairs:
        return _Pairs(self.k, _rows(self.x, points))

    def sum(self, rows: Index, cols: Index, weights: Array | None = None) -> Array:
        """Return sum_j w_j k(x_rows, x_cols_j), float64."""
        if weights is not None:
            weights = self.x.framework.asarray(weights, self.x.device)
        return np.array(to_numpy(self._sum(rows, cols, weights)), np.float64)

    def matrix(self, rows: Index, cols: Index) -> Array:
        return np.ascontiguousarray(to_numpy(self._matrix(rows, cols)))

    def diagonal(self) -> Array:
        """Return k(x, x), float64."""
        out = np.empty(self.n)
        for start in range(0, self.n, 64):
            block = np.arange(start, min(start + 64, self.n))
            out[block] = np.diagonal(self.matrix(block, block))
        return out

    def mean(self) -> Array:
        """Return the mean of k(x, .) under the distribution to approximate, float64."""
        return self.sum(_ALL, _ALL) / self.n

    def _sum(self, rows: Index, cols: Index, weights: Any) -> Any:
        return _sums.kernel_sum(self.k, _take(self.x, rows), _take(self.x, cols), weights)

    def _matrix(self, rows: Index, cols: Index) -> Any:
        return _sums.kernel_matrix(self.k, _take(self.x, rows), _take(self.x, cols))


class _SteinPairs(_Pairs):
    """The same for a Stein kernel, whose mean under the target is 0."""

    def __init__(self, k: kernels.Kernel, x: Input, scores: Input) -> None:
        super().__init__(k, x)
        self.scores = scores

    def restricted(self, points: Array) -> _Pairs:
        return _SteinPairs(self.k, _rows(self.x, points), _rows(self.scores, points))

    def mean(self) -> Array:
        return np.zeros(self.n)

    def _sum(self, rows: Index, cols: Index, weights: Any) -> Any:
        x, s = self.x, self.scores
        y, y_scores = _take(x, cols), _take(s, cols)
        return _sums.stein_sum(
            self.k, _take(x, rows), _take(s, rows), y=y, y_scores=y_scores, weights=weights
        )

    def _matrix(self, rows: Index, cols: Index) -> Any:
        x, s = self.x, self.scores
        return _sums.stein_matrix(
            self.k, _take(x, rows), _take(s, rows), _take(x, cols), _take(s, cols)
        )


def _take(x: Input, index: Index) -> Any:
    """Rows of an array, in its framework."""
    if isinstance(index, slice):
        return x.array[index] if index != _ALL else x.array
    if x.framework.name in ("torch", "cupy"):
        return x.array[x.framework.asarray(index, x.device)]
    return x.array[index]


def _rows(x: Input, index: Array) -> Input:
    return as_input(_take(x, index), "x")


class _Exchanged(NamedTuple):
    core: Array
    squared: float
    squared_before: float
    swaps: int


def _halve(pairs: _Pairs, points: Array, uniforms: Array, log_term: float) -> Array:
    """Deal `points` (an even number) to two halves; return where the first of each pair goes: 1 right, 0 left.

    The walk is sequential, but what the points dealt before a block say about it is one weighted kernel sum.
    """
    n = len(points)
    native = executor("cpu")
    right = np.empty(n // 2, np.uint8)
    signs = np.empty(n, pairs.dtype)
    variance = 0.0
    for start in range(0, n, _BLOCK):
        block = points[start : start + _BLOCK]
        half = slice(start // 2, (start + len(block)) // 2)
        if start:
            sums = pairs.sum(block, points[:start], signs[:start])
        else:
            sums = np.zeros(len(block))
        variance, indefinite = native.halve(
            pairs.matrix(block, block), sums, uniforms[half], log_term, variance, right[half]
        )
        _refuse(pairs, indefinite)
        signs[start : start + len(block) : 2] = 2.0 * right[half] - 1.0
        signs[start + 1 : start + len(block) : 2] = 1.0 - 2.0 * right[half]
    return right


def _halves(points: Array, right: Array) -> tuple[Array, Array]:
    first, second = points[::2], points[1::2]
    goes = right.astype(bool)
    return np.where(goes, second, first), np.where(goes, first, second)


def _refuse(pairs: _Pairs, indefinite: bool) -> None:
    if indefinite:
        raise ValueError(f"k: expected a positive definite kernel, got {pairs.k!r}")


def _standard(n: int, size: int) -> Array:
    """Evenly spaced positions, the last one included."""
    return np.arange(1, size + 1) * n // size - 1


def _split(pairs: _Pairs, size: int, delta: float, seed: int) -> list[Array]:
    """Return the subsets of KT-SPLIT, `size` points each, and last the evenly spaced points."""
    n = pairs.n
    levels = (n // size).bit_length() - 1
    used = size << levels
    # Row by row, one draw for every pair of the level; parts of a level lie one after the other.
    uniforms = np.empty((levels, used // 2))
    for level in range(levels):
        uniforms[level] = random.uniform(seed, used // 2, stream=_STREAM, counter=level)
    log_terms = 2.0 * np.log(2.0 * used * max(levels, 1) / (delta * 2.0 ** np.arange(levels)))
    order = np.empty(used, np.int64)

    def split(part: Array, level: int, position: int) -> None:
        count = len(part)
        here = slice(position // 2, (position + count) // 2)
        if level == levels:
            order[position : position + count] = part
        elif count <= _BLOCK:
            ranks = np.empty(count, np.int64)
            draws = np.ascontiguousarray(uniforms[level:, here])
            gram = pairs.matrix(part, part)
            _refuse(pairs, executor("cpu").halve_tree(gram, draws, log_terms[level:], ranks))
            order[position : position + count] = part[ranks]
        else:
            right = _halve(pairs, part, uniforms[level, here], float(log_terms[level]))
            for side, half in enumerate(_halves(part, right)):
                split(half, level + 1, position + side * (count // 2))

    split(_standard(n, used), 0, 0)
    parts = list(order.reshape(-1, size))
    return parts if levels == 0 else [*parts, _standard(n, size)]


def _compress(pairs: _Pairs, g: int, size: int, delta: float, seed: int) -> tuple[Array, float]:
    """Return about 2^g sqrt(n) points by recursive halving, and what is left of `delta`."""
    n = pairs.n
    depth = (n.bit_length() - 1) // 2  # of the largest power of 4 up to n
    total = 1 << 2 * depth
    if g >= depth:
        return np.arange(n), delta
    if size > 1 << (g + depth):
        raise ValueError(
            f"compress: expected at least {(size - 1).bit_length() - depth} to keep {size} of {n} "
            f"points, got {g}"
        )
    rounds = depth - g
    share = g + (rounds << g)
    buckets = _standard(n, total).reshape(-1, 1 << 2 * g)
    for stage in range(rounds):
        groups = buckets.reshape(len(buckets) // 4, -1)
        count = groups.shape[1]
        draws = random.uniform(seed, (len(groups), count // 2), stream=_STREAM + 1, counter=stage)
        side = random.uniform(seed, len(groups), stream=_STREAM + 2, counter=stage) < 0.5
        # Every call may fail with probability delta count^2 / (4 n 2^g share): all of them and the last step, delta.
        allowed = delta * count * count / (4.0 * total * 2.0**g * share)
        log_term = 2.0 * math.log(2.0 * count / allowed)
        buckets = np.stack(
            [
                _halves(group, _halve(pairs, group, row, log_term))[int(which)]
                for group, row, which in zip(groups, draws, side, strict=True)
            ]
        )
    return buckets.ravel(), delta * (g / share if g else 1.0)


def _exchange(pairs: _Pairs, diagonal: Array, parts: list[Array], unique: bool) -> _Exchanged:
    """KT-SWAP: the best of `parts`, improved point by point."""
    n, size = pairs.n, len(parts[0])
    native = executor("cpu")
    means = pairs.mean()
    overall = float(means.mean())
    if not (np.isfinite(overall) and np.isfinite(diagonal.sum())):
        raise ValueError(
            "x: expected points whose kernel values stay finite, rescale them or use float64"
        )

    def squared(core: Array, core_sums: Array) -> float:
        return float(core_sums.mean() / size - 2.0 * means[core].mean() + overall)

    costs = [squared(part, pairs.sum(part, part)) for part in parts]
    core = parts[int(np.argmin(costs))].copy()
    sums = pairs.sum(_ALL, core)
    before = squared(core, sums[core])

    offset = diagonal / size - 2.0 * means
    held = np.zeros(n, np.uint8)
    held[core] = 1
    swaps = 0
    step = max(1, _VALUES // n)
    for start in range(0, size, step):
        rows = pairs.matrix(core[start : start + step], _ALL)
        for p, row in enumerate(rows, start):
            old = core[p]
            held[old] = 0
            new = native.best_replacement(sums, row, offset, held if unique else None, 2.0 / size)
            held[new] = 1
            if new != old:
                sums += pairs.matrix(np.array([new]), _ALL)[0]
                sums -= row
                core[p] = new
                swaps += 1
    return _Exchanged(core, squared(core, sums[core]), before, swaps)
