"""Sums over pairs of points, without a matrix of pairs."""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite, largest
from mckean._dispatch import executor, moved, place
from mckean._errors import OutOfRange, as_count
from mckean.kernels import MAX_TERMS, RADIAL, Kernel

__all__ = [
    "kernel_grad",
    "kernel_grad_y",
    "kernel_logsumexp",
    "kernel_matrix",
    "kernel_mean",
    "kernel_sum",
    "kernel_sum_and_grad",
    "pair_argmin",
    "pair_median",
    "stein_matrix",
    "stein_sum",
]

MAX_NEIGHBOURS = 64


def kernel_sum(
    k: Kernel,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Sum a kernel over points: ``s_i = sum_j w_j k(x_i, y_j)``.

    No n x m matrix is formed; memory is O(n + m). float32 inputs are evaluated in float32 and summed in float64 every
    few hundred terms. The result does not depend on the number of threads; it may differ in the last bits between
    processors with and without fused multiply-add.

    Parameters
    ----------
    k : mk.kernels.Kernel
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        Framework, dtype and device of `x`.
    weights : array, shape (m,) or (m, p), optional
        Default: ones. Several columns are several right-hand sides, at less than the cost of as many calls. For batches
        also (batch, m) or (batch, m, p); (m,) is then shared, (m, p) is not allowed.
    exclude_self : bool, optional
        Leave out the pairs with ``i == j`` (by index, whatever the points are).
    device : str, optional
        ``"cuda"`` computes NumPy arrays on the GPU: copied there, and the result back.

    Returns
    -------
    array, shape (n,) or (n, p), for batches with a leading batch axis
        Framework, dtype and device of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or dtype, or holds NaN or infinities.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = np.array([[0.0], [1.0]])
    >>> mk.kernel_sum(mk.kernels.Gaussian(1.0), x, x).round(4)
    array([1.6065, 1.6065])
    """
    call = _Call(k, x, y, exclude_self, device)
    w, columns, per_batch, tail = call.weights(weights, "weights")
    out = call.empty((*call.rows, *tail))
    call.native.kernel_sum(*call.problem, w, columns, per_batch, out.data, call.queue)
    return out.result()


def kernel_grad(
    k: Kernel,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Sum the gradient of a kernel in its first argument: ``g_i = sum_j w_j grad_x k(x_i, y_j)``.

    Kernels without a gradient at coincident points (Laplace, Riesz, Energy, Log, Coulomb) contribute 0 there.

    Parameters
    ----------
    k : mk.kernels.Kernel
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        Framework, dtype and device of `x`.
    weights : array, shape (m,), optional
        Default: ones. For batches also (batch, m).
    exclude_self : bool, optional
        Leave out the pairs with ``i == j``.
    device : str, optional
        See `kernel_sum`.

    Returns
    -------
    array, shape of `x`

    Raises
    ------
    TypeError, ValueError
        See `kernel_sum`.

    Warns
    -----
    RuntimeWarning
        If a kernel that is infinite at distance 0 (Log, Coulomb) met coincident points.

    Examples
    --------
    The energy kernel pulls every point away from the others with unit force:

    >>> import numpy as np
    >>> import mckean as mk
    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> mk.kernel_grad(mk.kernels.Energy(), x, x)
    array([[ 2.],
           [ 0.],
           [-2.]])
    """
    return _gradient(k, x, y, weights, exclude_self, device, in_y=False, with_sum=False)[1]


def kernel_grad_y(
    k: Kernel,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Sum the gradient of a kernel in its second argument: ``g_i = sum_j w_j grad_y k(x_i, y_j)``.

    For functions of ``x - y`` this is ``-kernel_grad``; not so for `Polynomial` and `Dot`.

    Parameters
    ----------
    k, x, y, weights, exclude_self, device
        See `kernel_grad`.

    Returns
    -------
    array, shape of `x`
    """
    return _gradient(k, x, y, weights, exclude_self, device, in_y=True, with_sum=False)[1]


def kernel_sum_and_grad(
    k: Kernel,
    x: Any,
    y: Any,
    weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> tuple[Any, Any]:
    """Return `kernel_sum` and `kernel_grad` from one pass over the pairs.

    Parameters
    ----------
    k, x, y, weights, exclude_self, device
        See `kernel_grad`.

    Returns
    -------
    sum : array, shape (n,) or (batch, n)
    grad : array, shape of `x`
    """
    return _gradient(k, x, y, weights, exclude_self, device, in_y=False, with_sum=True)


def kernel_logsumexp(
    k: Kernel,
    x: Any,
    y: Any,
    log_weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Return ``log sum_j exp(lw_j) k(x_i, y_j)`` without underflow, however far the points are.

    Parameters
    ----------
    k : mk.kernels.Kernel
        Positive everywhere: Gaussian, Laplace, Matern32, Matern52, InverseMultiquadric, Cauchy, RationalQuadratic, Dot,
        and sums and positive multiples of these.
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        Framework, dtype and device of `x`.
    log_weights : array, shape (m,), optional
        Default: zeros; ``-inf`` leaves a point out. For batches also (batch, m).
    exclude_self : bool, optional
        Leave out the pairs with ``i == j``.
    device : str, optional
        See `kernel_sum`.

    Returns
    -------
    array, shape (n,) or (batch, n)
        ``-inf`` where there is nothing to sum.

    Raises
    ------
    TypeError, ValueError
        See `kernel_sum`; and if the kernel is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x, y = np.zeros((1, 1)), np.array([[100.0], [101.0]])
    >>> mk.kernel_logsumexp(mk.kernels.Gaussian(1.0), x, y)
    array([-5000.])
    """
    call = _Call(k, x, y, exclude_self, device)
    _check_positive(k)
    w, per_batch = call.log_weights(log_weights)
    out = call.empty(call.rows)
    call.native.kernel_softmax(
        *call.problem, w, per_batch, None, 1, False, out.data, None, call.queue
    )
    return out.result()


def kernel_mean(
    k: Kernel,
    x: Any,
    y: Any,
    values: Any = None,
    log_weights: Any = None,
    *,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Average values with the weights ``exp(lw_j) k(x_i, y_j)``, normalised for every i (a softmax mean).

    The Nadaraya-Watson estimator; one step of mean shift if `values` is `y`; attention if the kernel is
    `mk.kernels.Dot`.

    Parameters
    ----------
    k : mk.kernels.Kernel
        Positive everywhere, see `kernel_logsumexp`.
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d), m >= 1
        Framework, dtype and device of `x`.
    values : array, shape (m,) or (m, q), optional
        Default: `y`. For batches (batch, m) or (batch, m, q).
    log_weights : array, shape (m,), optional
        Default: zeros; ``-inf`` leaves a point out. For batches also (batch, m).
    exclude_self : bool, optional
        Leave out the pairs with ``i == j``.
    device : str, optional
        See `kernel_sum`.

    Returns
    -------
    array, shape (n,) or (n, q), for batches with a leading batch axis

    Raises
    ------
    TypeError, ValueError
        See `kernel_logsumexp`; and if some x has nothing to average.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x, y = np.zeros((1, 1)), np.array([[-1.0], [2.0]])
    >>> mk.kernel_mean(mk.kernels.Gaussian(0.2), x, y).round(6)
    array([[-1.]])
    """
    call = _Call(k, x, y, exclude_self, device)
    _check_positive(k)
    if call.m - (1 if exclude_self and call.n > 0 else 0) < 1:
        raise ValueError(f"y: expected at least one point to average for each x, got {call.m}")
    w, per_batch = call.log_weights(log_weights, some=True)
    if values is None:
        tail: tuple[int, ...] = (call.dim,)
        data, columns, values_per_batch = call.problem[1], call.dim, True
    else:
        data, columns, values_per_batch, tail = call.weights(values, "values")
    out = call.empty((*call.rows, *tail))
    empty = call.native.kernel_softmax(
        *call.problem, w, per_batch, data, columns, values_per_batch, None, out.data, call.queue
    )
    if empty:
        raise ValueError(
            f"log_weights: expected something to average for each x, got only weights of 0 for {empty} of them"
        )
    return out.result()


def stein_sum(
    k: Kernel,
    x: Any,
    scores: Any,
    *,
    y: Any = None,
    y_scores: Any = None,
    weights: Any = None,
    exclude_self: bool = False,
    device: Any = None,
) -> Any:
    """Sum the Stein kernel of a density p: ``u_i = sum_j w_j k0(x_i, y_j)``.

    ``k0(x, y) = k s(x).s(y) + s(x).grad_y k + s(y).grad_x k + trace grad_x grad_y k`` with the score
    ``s = grad log p``; its mean over y drawn from p is 0 for every x (Liu, Lee, Jordan, "A kernelized Stein
    discrepancy for goodness-of-fit tests"; Chwialkowski, Strathmann, Gretton, "A kernel test of goodness of fit").

    Parameters
    ----------
    k : mk.kernels.Kernel
        Twice differentiable at distance 0: not Laplace, Riesz, Energy, Log, Coulomb, Dot, Sinc.
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    scores : array, shape of `x`
        ``grad log p`` at `x`.
    y, y_scores : array, shape (m, d) or (batch, m, d), optional
        Default: `x` and `scores`.
    weights : array, shape (m,) or (m, p), optional
        Default: ones. See `kernel_sum`.
    exclude_self : bool, optional
        Leave out the pairs with ``i == j``.
    device : str, optional
        See `kernel_sum`.

    Returns
    -------
    array, shape (n,) or (n, p), for batches with a leading batch axis

    Raises
    ------
    TypeError, ValueError
        See `kernel_sum`; and if the kernel has no Stein kernel.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = np.array([[-1.0], [1.0]])
    >>> mk.stein_sum(mk.kernels.Gaussian(1.0), x, -x).round(4)
    array([0.9173, 0.9173])
    """
    call, sx, sy = _stein_call(k, x, scores, y, y_scores, exclude_self, device)
    w, columns, per_batch, tail = call.weights(weights, "weights")
    out = call.empty((*call.rows, *tail))
    call.native.stein_sum(*call.problem, sx, sy, w, columns, per_batch, out.data, call.queue)
    return out.result()


def kernel_matrix(k: Kernel, x: Any, y: Any, *, device: Any = None) -> Any:
    """Return the whole matrix ``k(x_i, y_j)``; for small problems that need it, such as a Cholesky factor.

    Parameters
    ----------
    k : mk.kernels.Kernel
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)

    Returns
    -------
    array, shape (n, m) or (batch, n, m)

    Raises
    ------
    TypeError, ValueError
        See `kernel_sum`.
    MemoryError
        If the matrix does not fit into memory.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.interaction.kernel_matrix(mk.kernels.Energy(), np.zeros((1, 2)), np.array([[3.0, 4.0]]))
    array([[-5.]])
    """
    call = _Call(k, x, y, False, device)
    out = call.empty((*call.rows, call.m))
    call.native.kernel_matrix(*call.problem[:4], None, None, out.data, call.queue)
    return out.result()


def stein_matrix(
    k: Kernel, x: Any, scores: Any, y: Any = None, y_scores: Any = None, *, device: Any = None
) -> Any:
    """Return the whole matrix of the Stein kernel, ``k0(x_i, y_j)``; see `stein_sum`.

    Parameters
    ----------
    k, x, scores, y, y_scores, device
        See `stein_sum`.

    Returns
    -------
    array, shape (n, m) or (batch, n, m)
    """
    call, sx, sy = _stein_call(k, x, scores, y, y_scores, False, device)
    out = call.empty((*call.rows, call.m))
    call.native.kernel_matrix(*call.problem[:4], sx, sy, out.data, call.queue)
    return out.result()


def pair_argmin(
    x: Any,
    y: Any,
    k: int = 1,
    *,
    exclude_self: bool = False,
    bandwidth: Any = None,
    device: Any = None,
) -> tuple[Any, Any]:
    """Return the `k` nearest points of `y` for every point of `x`, and their distances.

    For kernels that fall with the distance these are also the largest kernel values.

    Parameters
    ----------
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        Framework, dtype and device of `x`.
    k : int, optional
        How many, 1 to 64.
    exclude_self : bool, optional
        Leave out the pairs with ``i == j``.
    bandwidth : array, shape (d,), optional
        Length scales the coordinates are divided by.

    Returns
    -------
    index : array of int64, shape (n, k) or (batch, n, k)
        Nearest first, ties to the smaller index; -1 where there are fewer than `k` points.
    distance : array, same shape
        Infinity where the index is -1.

    Raises
    ------
    TypeError, ValueError
        See `kernel_sum`.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> index, distance = mk.pair_argmin(np.array([[1.2]]), np.array([[0.0], [1.0], [2.0]]), k=2)
    >>> index, distance.round(3)
    (array([[1, 2]]), array([[0.2, 0.8]]))
    """
    count = as_count(k, "k", least=1)
    if count > MAX_NEIGHBOURS:
        raise ValueError(f"k: expected at most {MAX_NEIGHBOURS}, got {count}")
    from mckean.kernels import Gaussian  # a carrier of the metric

    call = _Call(Gaussian(1.0 if bandwidth is None else bandwidth), x, y, exclude_self, device)
    metrics = call.problem[3]
    if bandwidth is not None and metrics is None:
        raise ValueError("bandwidth: expected shape (d,), got a number")
    index = call.memory.empty((*call.rows, count), "int64", call.device)
    distance = call.empty((*call.rows, count))
    call.native.nearest(
        call.problem[0],
        call.problem[1],
        metrics,
        call.problem[4],
        count,
        index.data,
        distance.data,
        call.queue,
    )
    return index.result(), distance.result()


def pair_median(x: Any) -> float:
    """Return the median of all distances ``|x_i - x_j|``, ``i < j``, exactly and in O(n) memory.

    The bits of the squared distances are counted 16 at a time, which takes two passes over the pairs in float32 and
    four in float64.

    Parameters
    ----------
    x : array, shape (n, d), n >= 2, float32 or float64

    Returns
    -------
    float
        The mean of the two middle distances if their number is even.

    Raises
    ------
    TypeError, ValueError
        If `x` has the wrong type or shape, or holds NaN or infinities.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.interaction.pair_median(np.array([[0.0], [1.0], [3.0]]))
    2.0
    """
    at = as_input(x, "x")
    if len(at.shape) != 2 or at.shape[0] < 2 or at.shape[1] == 0:
        raise ValueError(f"x: expected shape (n, d), n >= 2, d >= 1, got {at.shape}")
    check_finite(at, "x")
    lower, upper = executor(at.device).pair_median(at.data, at.framework.queue(at.device))
    return 0.5 * (float(lower) + float(upper))


class _Call:
    """The checked arguments that all sums share, as native code takes them."""

    __slots__ = (
        "batch",
        "device",
        "dim",
        "m",
        "memory",
        "n",
        "native",
        "problem",
        "queue",
        "rows",
        "x",
        "y",
    )

    def __init__(self, k: Kernel, x: Any, y: Any, exclude_self: Any, device: Any = None) -> None:
        if not isinstance(k, Kernel):
            raise TypeError(f"k: expected a kernel of mk.kernels, got {type(k).__name__}")
        self.x = as_points(x, "x")
        shape = self.x.shape
        if y is x:
            self.y = self.x
        else:
            want: tuple[int | str, ...] = (*shape[:-2], "m", shape[-1])
            self.y = as_match(y, "y", self.x, "x", shape=want)
            check_finite(self.y, "y")
        self.batch, self.n, self.m, self.dim = shape[:-2], shape[-2], self.y.shape[-2], shape[-1]
        self.rows = shape[:-1]
        if not isinstance(exclude_self, (bool, np.bool_)):
            raise TypeError(f"exclude_self: expected a bool, got {exclude_self!r}")
        self.memory, self.device = place(self.x, device)
        self.native = executor(self.device)
        self.queue = self.memory.queue(self.device)
        terms, metrics = native_terms(k, self.dim, self.x.dtype)
        if any(t[0] in RADIAL for t in terms):
            self._check_range()
        at = self.to_device(self.x)
        other = at if self.y is self.x else self.to_device(self.y)
        self.problem = (at, other, terms, metrics, bool(exclude_self))

    def _check_range(self) -> None:
        """Squared distances must not overflow: kernels would be wrong, not merely inaccurate."""
        limit = math.sqrt((2.5e37 if self.x.dtype == "float32" else 2.5e306) / self.dim)
        for x, name in ((self.x, "x"), (self.y, "y")):
            top = largest(x, limit)
            if top > limit:
                raise OutOfRange(
                    f"{name}: expected numbers whose squared distances fit into {x.dtype}, got one of size {top:.3g}",
                    limit,
                )

    def to_device(self, x: Input) -> Any:
        """What native code reads."""
        return moved(x, self.memory, self.device)

    def empty(self, shape: tuple[int, ...]) -> Any:
        try:
            return self.memory.empty(shape, self.x.dtype, self.device)
        except MemoryError:
            size = math.prod(shape) * (4 if self.x.dtype == "float32" else 8)
            raise MemoryError(f"the result of shape {shape} needs {size / 2**30:.3g} GiB") from None

    def weights(self, given: Any, name: str) -> tuple[Any, int, bool, tuple[int, ...]]:
        """Data, columns, whether each problem has its own, and the shape a row of results gets."""
        if given is None:
            return None, 1, False, ()
        ndim = getattr(given, "ndim", None)
        ndim = np.ndim(given) if ndim is None else ndim
        own = bool(self.batch) and ndim > 1
        lead: tuple[int, ...] = self.batch if own else ()
        most = len(lead) + 2
        if ndim not in (most - 1, most) or (self.batch and not own and ndim > 1):
            raise ValueError(
                f"{name}: expected shape {self._shapes()}, got {tuple(np.shape(given))}"
            )
        shape: tuple[int | str, ...] = (*lead, self.m, *(("p",) if ndim == most else ()))
        w = as_match(given, name, self.x, "y", shape=shape)
        check_finite(w, name)
        tail = w.shape[len(lead) + 1 :]
        if tail == (0,):
            raise ValueError(f"{name}: expected at least one column, got {w.shape}")
        return self.to_device(w), tail[0] if tail else 1, own, tail

    def _shapes(self) -> str:
        m = self.m
        if not self.batch:
            return f"({m},) or ({m}, p)"
        return f"({m},), ({self.batch[0]}, {m}) or ({self.batch[0]}, {m}, p)"

    def log_weights(self, given: Any, *, some: bool = False) -> tuple[Any, bool]:
        if given is None:
            return None, False
        ndim = getattr(given, "ndim", 1)
        own = bool(self.batch) and ndim == 2
        shape = (*self.batch, self.m) if own else (self.m,)
        w = as_match(given, "log_weights", self.x, "y", shape=shape)
        _check_log_weights(w, some)
        return self.to_device(w), own


def as_points(x: Any, name: str) -> Input:
    at = as_input(x, name)
    if len(at.shape) not in (2, 3) or at.shape[-1] == 0:
        raise ValueError(f"{name}: expected shape (n, d) or (batch, n, d), d >= 1, got {at.shape}")
    check_finite(at, name)
    return at


def _check_log_weights(w: Input, some: bool) -> None:
    """Finite or -inf; with `some`, not all of them -inf."""
    if not w.array.shape[-1]:
        return
    # NaN survives the maximum; where the arrays live on a device only this one number leaves it.
    top = w.framework.to_numpy(w.framework.row_max(w.array))
    if np.isnan(top).any() or (top == math.inf).any():
        raise ValueError("log_weights: expected finite values or -inf, got NaN or inf")
    if some and (top == -math.inf).any():
        raise ValueError("log_weights: expected at least one finite value, got only -inf")


def _check_positive(k: Kernel) -> None:
    if not k.is_positive:
        raise ValueError(f"k: expected a kernel that is positive everywhere, got {k!r}")


@functools.lru_cache(maxsize=256)
def native_terms(k: Kernel, dim: int, dtype: str) -> tuple[list[tuple[Any, ...]], Any]:
    """The terms of a kernel in `dim` dimensions and its metrics (rows, dim), as native code takes them."""
    terms: list[tuple[Any, ...]] = []
    metrics: list[Any] = []
    for term in k.terms(dim):
        row, scale = -1, term.scale
        _check_scale(scale, dtype, k)
        if not isinstance(scale, float):
            row, scale = len(metrics), 1.0
            same = [i for i, other in enumerate(metrics) if np.array_equal(other, term.scale)]
            if same:
                row = same[0]
            else:
                metrics.append(term.scale)
        terms.append((term.kind, term.coefficient, scale, term.offset, term.exponent, row))
    if len(terms) > MAX_TERMS:
        raise ValueError(f"k: expected at most {MAX_TERMS} terms, got {len(terms)}")
    return terms, np.ascontiguousarray(metrics, np.float64) if metrics else None


def _check_scale(scale: Any, dtype: str, k: Kernel) -> None:
    """Inverse squared lengths, and their squares, must be numbers of the working type."""
    least, most = (1e-19, 1e18) if dtype == "float32" else (1e-150, 1e150)
    if not (np.all(np.greater_equal(scale, least)) and np.all(np.less_equal(scale, most))):
        raise ValueError(
            f"k: expected length scales between {most**-0.5:.1g} and {least**-0.5:.1g} for {dtype}, got {k!r}"
        )


def _gradient(
    k: Kernel,
    x: Any,
    y: Any,
    weights: Any,
    exclude_self: bool,
    device: Any,
    *,
    in_y: bool,
    with_sum: bool,
) -> tuple[Any, Any]:
    call = _Call(k, x, y, exclude_self, device)
    w, _, per_batch, tail = call.weights(weights, "weights")
    if tail:
        raise ValueError(f"weights: expected one column, got {tail[0]}")
    total = call.empty(call.rows) if with_sum else None
    out = call.empty(call.x.shape)
    met = call.native.kernel_gradient(
        *call.problem, w, per_batch, in_y, total and total.data, out.data, call.queue
    )
    if met:
        warnings.warn(
            f"{k!r} is infinite at distance 0 and met {met} pairs of coincident points; their gradient was taken as 0",
            RuntimeWarning,
            stacklevel=3,
        )
    return total and total.result(), out.result()


def _stein_call(
    k: Kernel, x: Any, scores: Any, y: Any, y_scores: Any, exclude_self: bool, device: Any
) -> tuple[_Call, Any, Any]:
    if (y is None) != (y_scores is None):
        missing = "y_scores" if y_scores is None else "y"
        raise ValueError(
            f"{missing}: expected together with {'y' if y_scores is None else 'y_scores'}, got None"
        )
    call = _Call(k, x, x if y is None else y, exclude_self, device)
    if not k.has_stein:
        raise ValueError(f"k: expected a kernel that is twice differentiable, got {k!r}")
    sx = as_match(scores, "scores", call.x, "x")
    check_finite(sx, "scores")
    if y is None:
        return call, call.to_device(sx), call.to_device(sx)
    sy = as_match(y_scores, "y_scores", call.y, "y")
    check_finite(sy, "y_scores")
    return call, call.to_device(sx), call.to_device(sy)
