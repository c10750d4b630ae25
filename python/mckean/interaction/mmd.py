"""Squared maximum mean discrepancies of two samples: the plain, the block-wise and the optimally weighted one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import Input, as_input, as_match, check_finite
from mckean._errors import as_count, as_seed, nonnegative, one_of
from mckean.interaction import _cholesky, _sums
from mckean.interaction._permutation import permutation, rows, subset
from mckean.interaction._samples import at_least, host, points, scalars, unit_weights

__all__ = [
    "BlockEstimate",
    "OptimallyWeightedMMD",
    "kid",
    "mmd2",
    "mmd2_blocks",
    "mmd2_optimally_weighted",
]

_STREAM = 0x6D6D6473  # of mk.random
_MOST_WEIGHTED = 10_000  # points whose m x m system is solved
_CHUNK = 1 << 22  # numbers gathered at a time


def mmd2(
    k: kernels.Kernel,
    x: Any,
    y: Any,
    *,
    x_weights: Any = None,
    y_weights: Any = None,
    unbiased: bool = True,
    paired: bool = False,
) -> Any:
    """Return the squared maximum mean discrepancy of two samples.

    With ``unbiased=False`` it is the squared MMD of the two empirical measures (V-statistic)::

        sum_ij u_i u_j k(x_i, x_j) + sum_ij v_i v_j k(y_i, y_j) - 2 sum_ij u_i v_j k(x_i, y_j)

    with weights u, v that sum to 1, by default 1/n and 1/m; it is >= 0 for a positive definite kernel. The default
    leaves out i = j in the first two sums and divides them by n (n - 1) and m (m - 1) instead (U-statistic): its
    expectation over independent draws is the squared MMD of their laws, so it may be negative. O((n + m)^2 d) time,
    O(n + m) memory.

    Parameters
    ----------
    k : Kernel
        A kernel of `mckean.kernels`; conditionally positive definite ones (`Energy`, `Riesz`, ...) are fine.
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        Of the framework and dtype of `x`.
    x_weights, y_weights : array, shape (n,), (m,), or with a leading batch axis, optional
        Weights of the points; they must sum to 1 and may be negative.
    unbiased : bool, optional
        U-statistic (the default) or V-statistic. There is no unbiased form for weights that differ: they need
        ``unbiased=False``, and raise ValueError otherwise rather than change the estimator silently.
    paired : bool, optional
        For ``n = m``: leave out i = j in the third sum too and divide it by n (n - 1). Unbiased as well, and a
        U-statistic of the pairs (x_i, y_i).

    Returns
    -------
    float, or array, shape (batch,)
        A float; for a batch an array of the framework, dtype and device of `x`. Sums over points are accumulated in
        float64, also for float32 input. Deterministic, not differentiable by the framework.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, values are not finite, weights do not sum to 1, or a sample has
        fewer than one point (two for the U-statistic).

    See Also
    --------
    mmd2_blocks, kid

    References
    ----------
    .. [1] A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola, "A kernel two-sample test", Journal of Machine
       Learning Research 13, 2012

    Examples
    --------
    >>> import mckean as mk
    >>> x, y = mk.random.normal(0, (500, 2)), mk.random.normal(1, (400, 2)) + 1.0
    >>> round(mk.mmd2(mk.kernels.Gaussian(1.0), x, y), 1)
    0.2
    """
    at, other = _two_samples(x, y)
    n, m = at.shape[-2], other.shape[-2]
    u = unit_weights(x_weights, "x_weights", at, "x")
    v = unit_weights(y_weights, "y_weights", other, "y")
    if unbiased:
        for w, name, size in ((u, "x_weights", n), (v, "y_weights", m)):
            if w is not None and np.ptp(w[1], axis=-1).max(initial=0.0) > 1e-6 / size:
                raise ValueError(
                    f"unbiased: expected False with {name} that differ (there is no unbiased form), got True"
                )
        u = v = None
    if paired and (n != m or not unbiased):
        got = "unbiased=False" if n == m else f"{n} and {m}"
        raise ValueError(f"paired: expected as many x as y, and unbiased=True, got {got}")
    at_least(n, 1 + bool(unbiased), "x")
    at_least(m, 1 + bool(unbiased), "y")
    x, y = at.array, other.array
    value = (
        _double_mean(k, x, x, u, u, unbiased)
        + _double_mean(k, y, y, v, v, unbiased)
        - 2.0 * _double_mean(k, x, y, u, v, paired)
    )
    return scalars(value, at)


@dataclass(frozen=True, slots=True)
class BlockEstimate:
    """An estimate as the mean of the same estimate on blocks of the data.

    Attributes
    ----------
    value : float
        Mean of the blocks.
    standard_error : float
        Standard deviation of the blocks (ddof 1) over the square root of their number; an honest standard error for
        disjoint blocks only.
    blocks : numpy array, shape (n_blocks,), float64
    n_blocks : int
    block_size : int
    """

    value: float
    standard_error: float
    blocks: np.ndarray[Any, Any]
    n_blocks: int
    block_size: int

    @property
    def std(self) -> float:
        """Standard deviation of the blocks (ddof 1), what tools that report KID call its std."""
        return float(self.blocks.std(ddof=1))


def mmd2_blocks(
    k: kernels.Kernel,
    x: Any,
    y: Any,
    *,
    block_size: int,
    n_blocks: int | None = None,
    blocks: str = "disjoint",
    seed: Any = 0,
) -> BlockEstimate:
    """Return the mean of unbiased squared MMDs of blocks of the data, with its standard error.

    Costs O(n_blocks block_size^2 d) time instead of O((n + m)^2 d), and says how far off it may be.

    Parameters
    ----------
    k : Kernel
    x : array, shape (n, d), float32 or float64
    y : array, shape (m, d)
        Of the framework and dtype of `x`.
    block_size : int
        Points of each sample in a block, >= 2.
    n_blocks : int, optional
        At least 2. By default as many as fit (disjoint) or 100 (overlapping).
    blocks : {"disjoint", "overlapping"}, optional
        Disjoint blocks cut one random order of the points, and give a valid standard error. Overlapping ones are drawn
        anew each, without replacement: they share points, so their standard error is too small, and it shrinks to 0
        with their number while the true error does not.
    seed : int or numpy.random.SeedSequence, optional
        The blocks are a pure function of it.

    Returns
    -------
    BlockEstimate

    Raises
    ------
    TypeError, ValueError
        As `mmd2`, and if the data have too few points for the blocks.

    References
    ----------
    .. [1] W. Zaremba, A. Gretton, M. Blaschko, "B-tests: low variance kernel two-sample tests", NeurIPS 2013,
       arXiv:1307.1954

    Examples
    --------
    >>> import mckean as mk
    >>> x, y = mk.random.normal(0, (4000, 2)), mk.random.normal(1, (4000, 2)) + 1.0
    >>> result = mk.interaction.mmd2_blocks(mk.kernels.Gaussian(1.0), x, y, block_size=100)
    >>> result.n_blocks, round(result.value, 2), result.standard_error < 0.01
    (40, 0.19, True)
    """
    at, other = _two_samples(x, y)
    if len(at.shape) != 2:
        raise ValueError(f"x: expected shape (n, d), got {at.shape}")
    return _block_estimate(
        k, at, other, "block_size", block_size, "n_blocks", n_blocks, blocks, seed
    )


def kid(
    x_features: Any,
    y_features: Any,
    *,
    n_subsets: int | None = None,
    subset_size: int = 1000,
    blocks: str = "overlapping",
    degree: int = 3,
    gamma: float | None = None,
    c: float = 1.0,
    seed: Any = 0,
) -> BlockEstimate:
    """Return the Kernel Inception Distance of two sets of features.

    The unbiased squared MMD with the kernel ``(gamma x . y + c)^degree``, averaged over subsets: the conventions in use
    are 100 (or 50) subsets of 1000 features of 2048 dimensions. What makes it an *Inception* distance is the network
    that gave the features; this function takes features of any origin.

    Parameters
    ----------
    x_features : array, shape (n, d), float32 or float64
    y_features : array, shape (m, d)
        Of the framework and dtype of `x_features`.
    n_subsets : int, optional
        By default 100, or with disjoint blocks as many as fit.
    subset_size : int, optional
    blocks : {"overlapping", "disjoint"}, optional
        Overlapping subsets are the convention; they understate the standard error. Disjoint ones do not.
    degree, gamma, c : optional
        Of `mckean.kernels.Polynomial`; by default degree 3, ``gamma = 1/d``, ``c = 1``.
    seed : int or numpy.random.SeedSequence, optional

    Returns
    -------
    BlockEstimate
        `value` is the KID; `std` is what other tools print beside it.

    Raises
    ------
    TypeError, ValueError
        As `mmd2_blocks`.

    Notes
    -----
    The cubic kernel reaches 1e3 to 1e6 where the differences of interest are small: sums are accumulated in float64 for
    float32 features too.

    References
    ----------
    .. [1] M. Bińkowski, D. Sutherland, M. Arbel, A. Gretton, "Demystifying MMD GANs", ICLR 2018, arXiv:1801.01401

    Examples
    --------
    >>> import mckean as mk
    >>> real, fake = mk.random.normal(0, (2000, 16)), 0.2 + mk.random.normal(1, (2000, 16))
    >>> result = mk.interaction.kid(real, fake, subset_size=500, blocks="disjoint")
    >>> result.n_blocks, 0.1 < result.value < 0.2
    (4, True)
    """
    k = kernels.Polynomial(degree, gamma, c)
    at = as_input(x_features, "x_features", shape=("n", "d"))
    other = as_match(y_features, "y_features", at, "x_features", shape=("m", at.shape[1]))
    check_finite(at, "x_features")
    check_finite(other, "y_features")
    return _block_estimate(
        k, at, other, "subset_size", subset_size, "n_subsets", n_subsets, blocks, seed
    )


@dataclass(frozen=True, slots=True)
class OptimallyWeightedMMD:
    """Result of `mmd2_optimally_weighted`.

    Attributes
    ----------
    value : float
        The squared MMD of the weighted simulator points to the data.
    weights : array, shape (m,)
        Of the simulator points; they may be negative and need not sum to 1.
    jitter : float
        What was added to the diagonal of the matrix of input kernel values.
    """

    value: float
    weights: Any
    jitter: float


def mmd2_optimally_weighted(
    k: kernels.Kernel,
    simulator_points: Any,
    y: Any,
    inputs: Any,
    *,
    input_kernel: kernels.Gaussian,
    input_law: str = "uniform",
    rho: float = 1e-10,
) -> OptimallyWeightedMMD:
    """Return the squared MMD of a simulator to data, with quadrature weights on the simulator's points.

    The simulator maps inputs u_i of a known law U to points x_i. The weights ``w = (C + rho I)^-1 z`` with
    ``C_ij = c(u_i, u_j)``, ``z_i = E c(u_i, U)`` are those of Bayesian quadrature in the input space; then ::

        w' K_xx w - (2/n) w' K_xy 1 + (1/n^2) 1' K_yy 1

    For smooth simulators of few inputs the error falls much faster than m^(-1/2). O(m^3 + (m + n)^2) time, O(m^2 + n)
    memory.

    Parameters
    ----------
    k : Kernel
        On the points.
    simulator_points : array, shape (m, d), float64
        Values of the simulator at `inputs`. float32 is refused, as C is ill-conditioned.
    y : array, shape (n, d), float64
        Data.
    inputs : array, shape (m, s), float64
        Random, quasi-random or on a grid.
    input_kernel : kernels.Gaussian
        The kernel c on the inputs.
    input_law : {"uniform", "normal"}, optional
        Law of the inputs: uniform on [0, 1]^s, or standard normal.
    rho : float, optional
        Added to the diagonal of C (which is 1); grown tenfold while C + rho I is not numerically positive definite.

    Returns
    -------
    OptimallyWeightedMMD

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, values are not finite, inputs are outside [0, 1] for the uniform
        law, `m` is above 10 000, or `input_kernel` is not Gaussian.

    References
    ----------
    .. [1] A. Bharti, M. Naslidnyk, O. Key, S. Kaski, F.-X. Briol, "Optimally-weighted estimators of the maximum mean
       discrepancy for likelihood-free inference", ICML 2023, arXiv:2301.11674

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> u = (np.arange(20.0)[:, None] + 0.5) / 20
    >>> data = np.sin(3 * mk.random.uniform(1, (3000, 1)))
    >>> result = mk.interaction.mmd2_optimally_weighted(
    ...     mk.kernels.Gaussian(1.0), np.sin(3 * u), data, u, input_kernel=mk.kernels.Gaussian(0.3))
    >>> abs(result.value) < 1e-3
    True
    """
    at = as_input(simulator_points, "simulator_points", shape=("m", "d"), dtype="float64")
    other = as_match(y, "y", at, "simulator_points", shape=("n", at.shape[1]))
    m = at.shape[0]
    u = as_match(inputs, "inputs", at, "simulator_points", shape=(m, "s"))
    for found, name in ((at, "simulator_points"), (other, "y"), (u, "inputs")):
        check_finite(found, name)
    if not isinstance(input_kernel, kernels.Gaussian):
        raise TypeError(
            f"input_kernel: expected a Gaussian kernel, got {type(input_kernel).__name__}"
        )
    one_of(input_law, "input_law", ("uniform", "normal"))
    rho = nonnegative(rho, "rho")
    if not 1 <= m <= _MOST_WEIGHTED:
        raise ValueError(f"simulator_points: expected 1 to {_MOST_WEIGHTED} points, got {m}")
    at_least(other.shape[0], 1, "y")
    grid = host(u.array)
    gram = np.array(_sums.kernel_matrix(input_kernel, grid, grid), np.float64)
    lower, jitter = _cholesky.factor(gram, rho, "inputs")
    w = _cholesky.solve(lower, _embedding(input_kernel, grid, input_law))
    weights = at.framework.asarray(w, at.device)
    x, y = at.array, other.array
    value = (
        w @ host(_sums.kernel_sum(k, x, x, weights))
        - 2.0 * (w @ host(_sums.kernel_sum(k, x, y))) / other.shape[0]
        + _double_mean(k, y, y, None, None, False)
    )
    return OptimallyWeightedMMD(float(value), weights, jitter)


def _embedding(k: kernels.Gaussian, u: Any, law: str) -> Any:
    """Return E c(u_i, U), shape (m,)."""
    length = np.broadcast_to(np.asarray(k.bandwidth, np.float64), (u.shape[1],))
    if law == "normal":
        wide = 1.0 + length**2
        return np.sqrt(length**2 / wide).prod() * np.exp(-0.5 * (u**2 / wide).sum(axis=1))
    if u.size and not (u.min() >= 0.0 and u.max() <= 1.0):
        raise ValueError(
            f"inputs: expected values in [0, 1] for the uniform law, got {u.min()} to {u.max()}"
        )
    erf = np.vectorize(math.erf, otypes=[np.float64])
    scale = math.sqrt(2.0) * length
    sides = erf((1.0 - u) / scale) + erf(u / scale)
    return (length * math.sqrt(math.pi / 2.0) * sides).prod(axis=1)


def _two_samples(x: Any, y: Any) -> tuple[Input, Input]:
    at = points(x, "x")
    other = as_match(y, "y", at, "x", shape=(*at.shape[:-2], "m", at.shape[-1]))
    check_finite(other, "y")
    return at, other


def _double_mean(k: kernels.Kernel, a: Any, b: Any, u: Any, v: Any, exclude: bool) -> Any:
    """Return the weighted mean of k(a_i, b_j), over i != j if `exclude`, in float64."""
    sums = host(_sums.kernel_sum(k, a, b, None if v is None else v[0], exclude_self=exclude))
    n, m = a.shape[-2], b.shape[-2] - exclude
    # Dividing by the sums, which are 1 up to rounding, keeps kernels with a large constant part exact.
    total = (sums if u is None else u[1] * sums).sum(axis=-1)
    return total / (n if u is None else u[1].sum(axis=-1)) / (m if v is None else v[1].sum(axis=-1))


def _block_estimate(
    k: kernels.Kernel,
    at: Input,
    other: Input,
    size_name: str,
    size: int,
    count_name: str,
    count: int | None,
    blocks: str,
    seed: Any,
) -> BlockEstimate:
    size = as_count(size, size_name, least=2)
    one_of(blocks, "blocks", ("disjoint", "overlapping"))
    as_seed(seed)
    n, m = at.shape[0], other.shape[0]
    fit = min(n, m) // size
    if blocks == "disjoint":
        if fit < 2:
            raise ValueError(
                f"{size_name}: expected at most {min(n, m) // 2}, for two disjoint blocks, got {size}"
            )
        count = fit if count is None else as_count(count, count_name, least=2)
        if count > fit:
            raise ValueError(
                f"{count_name}: expected at most {fit} disjoint blocks of {size}, got {count}"
            )
        cut = [
            permutation(seed, total, stream=_STREAM + side)[: count * size].reshape(count, size)
            for side, total in enumerate((n, m))
        ]
    else:
        if fit < 1:
            raise ValueError(f"{size_name}: expected at most {min(n, m)}, got {size}")
        count = 100 if count is None else as_count(count, count_name, least=2)
    # So many blocks at a time that one native call has enough to do, and its copies stay small.
    step = max(1, _CHUNK // max(1, size * at.shape[1]))
    values = np.empty(count)
    for start in range(0, count, step):
        chosen = range(start, min(start + step, count))
        sides = []
        for side, sample in enumerate((at, other)):
            if blocks == "disjoint":
                index = cut[side][start : start + step]
            else:
                total = sample.shape[0]
                stream = _STREAM + 2 + side
                index = np.stack(
                    [subset(seed, total, size, stream=stream, counter=b) for b in chosen]
                )
            sides.append(rows(sample.array, index))
        values[start : start + step] = host(mmd2(k, *sides))
    error = float(values.std(ddof=1)) / math.sqrt(count)
    return BlockEstimate(float(values.mean()), error, values, count, size)
