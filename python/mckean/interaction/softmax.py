"""The reverse mode of `kernel_mean`: what a gradient of its result says about points, values and weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mckean import kernels
from mckean._array import Input, Output, as_input, as_match, check_finite
from mckean.interaction._sums import kernel_logsumexp, kernel_matrix

__all__ = ["SoftmaxGradient", "kernel_mean_vjp"]

_TILE = 1 << 20  # entries of the softmax matrix alive at a time


class SoftmaxGradient(NamedTuple):
    """Cotangents of the arguments of `kernel_mean`, each shaped like its argument.

    `values` is None where the values were the points `y`; `y` then holds both contributions.
    """

    x: Any
    y: Any
    values: Any
    log_weights: Any


def kernel_mean_vjp(
    k: kernels.Kernel,
    x: Any,
    y: Any,
    cotangent: Any,
    values: Any = None,
    log_weights: Any = None,
    *,
    exclude_self: bool = False,
) -> SoftmaxGradient:
    """Multiply `cotangent` by the Jacobian of `kernel_mean` from the left.

    With softmax weights ``p_ij`` proportional to ``exp(log_weights_j) k(x_i, y_j)``, means
    ``f_i = sum_j p_ij values_j`` and the cotangent c, every gradient is a sum over
    ``G_ij = p_ij c_i . (values_j - f_i)``: in log_weights ``sum_i G_ij``, in x ``sum_j G_ij grad_x log k``, in y
    ``sum_i G_ij grad_y log k``; in values it is ``sum_i p_ij c_i``. p is made again, tile by tile: time O(n m (d + q)),
    memory O(n + m).

    Parameters
    ----------
    k : mk.kernels.Gaussian or mk.kernels.Dot, or a positive multiple of one
        The kernels whose logarithm is a quadratic function of the points.
    x : array, shape (n, d), float32 or float64
        Queries.
    y : array, shape (m, d)
        Sources, m > 0.
    cotangent : array, shape (n, q)
        Gradient of a scalar in the result of ``kernel_mean``.
    values : array, shape (m, q), optional
        By default `y`, with q = d.
    log_weights : array, shape (m,), optional
        Finite.
    exclude_self : bool
        Leave out pairs with i = j.

    Returns
    -------
    SoftmaxGradient
        Named tuple ``(x, y, values, log_weights)`` of arrays of the framework, dtype and device of `x`. Deterministic
        up to the framework's own matrix products; not differentiable again.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, values are not finite, the kernel is another one, or a query has
        no source.

    See Also
    --------
    mckean.kernel_mean

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.interaction.softmax import kernel_mean_vjp
    >>> x, y = mk.random.normal(1, (3, 2)), mk.random.normal(2, (5, 2))
    >>> g = kernel_mean_vjp(mk.kernels.Dot(1.0), x, y, np.ones((3, 2)))
    >>> g.x.shape, g.y.shape, g.values, g.log_weights.shape
    ((3, 2), (5, 2), None, (5,))

    A factor common to all weights changes nothing, so their gradient sums to zero:

    >>> bool(abs(g.log_weights.sum()) < 1e-12)
    True
    """
    at = as_input(x, "x", shape=("n", "d"))
    n, d = at.shape
    sources = as_match(y, "y", at, "x", shape=("m", d))
    m = sources.shape[0]
    if m == 0:
        raise ValueError(f"y: expected at least one point, got shape {sources.shape}")
    table = sources if values is None else as_match(values, "values", at, "x", shape=(m, "q"))
    given = as_match(cotangent, "cotangent", at, "x", shape=(n, table.shape[1]))
    check_finite(at, "x")
    check_finite(sources, "y")
    check_finite(table, "values")
    check_finite(given, "cotangent")
    base, left, right, slope = _whitened(k, at, sources)
    offsets = None
    if log_weights is not None:
        weights = as_match(log_weights, "log_weights", at, "x", shape=(m,))
        check_finite(weights, "log_weights")
        offsets = weights.array
    if exclude_self and m == 1 and n:
        raise ValueError("y: expected a point besides the excluded one, got 1 point")
    norm = kernel_logsumexp(base, at.array, sources.array, offsets, exclude_self=exclude_self)

    # log k is left . right, for the Gaussian kernel less half of both squared lengths.
    is_dot = isinstance(base, kernels.Dot)
    shift = -norm if is_dot else -0.5 * (left * left).sum(1) - norm
    column = 0.0 if is_dot else -0.5 * (right * right).sum(1)
    column = column if offsets is None else column + offsets
    v, c = table.array, given.array
    centred = v - v.sum(0) / m  # the same for g, in more digits
    grad_x = at.framework.empty((n, d), at.dtype, at.device)
    grad_y, grad_v, total = 0.0 * right, 0.0 * v, 0.0 * right.sum(1)
    rows = max(1, _TILE // m)
    for start in range(0, n, rows):
        part = slice(start, min(start + rows, n))
        a, ci = left[part], c[part]
        p = _exp(a @ right.T + shift[part][:, None] + column, at)
        if exclude_self:
            p = p * _not_self(part, m, at)
        # `norm` was rounded elsewhere; with rows that sum to one the parts fit together exactly.
        p = p / p.sum(1)[:, None]
        g = p * (ci @ centred.T - (ci * (p @ centred)).sum(1)[:, None])
        _write(grad_x, part, slope * (g @ right), at)
        grad_y = grad_y + g.T @ a
        grad_v = grad_v + p.T @ ci
        total = total + g.sum(0)
    if not is_dot:
        grad_y = grad_y - right * total[:, None]
    grad_y = slope * grad_y
    if values is None:
        return SoftmaxGradient(grad_x.result(), grad_y + grad_v, None, total)
    return SoftmaxGradient(grad_x.result(), grad_y, grad_v, total)


def _whitened(k: Any, x: Input, y: Input) -> tuple[kernels.Kernel, Any, Any, Any]:
    """The kernel without its factor, x and y in its own units, and the derivative of those units."""
    base = k
    while isinstance(base, kernels.Scaled) and base.is_positive:
        base = base.kernel  # a common factor cancels
    if isinstance(base, kernels.Dot):
        root = base.beta**0.5
        return base, root * x.array, root * y.array, root
    if isinstance(base, kernels.Gaussian):
        base.terms(x.shape[1])  # refuses a bandwidth of another dimension
        inverse: Any = 1.0 / base.bandwidth
        if not isinstance(inverse, float):
            inverse = x.framework.asarray(inverse.astype(x.dtype), x.device)
        centre = y.array.sum(0) / y.shape[0]  # distances do not change, squared lengths shrink
        return base, inverse * (x.array - centre), inverse * (y.array - centre), inverse
    raise TypeError(f"k: expected Gaussian, Dot or a positive multiple of one, got {k!r}")


def _exp(a: Any, x: Input) -> Any:
    """The exponential in any framework: exp(1 * a) is the native kernel Dot(1) in one dimension."""
    one = x.framework.asarray(np.ones((1, 1), x.dtype), x.device)
    return kernel_matrix(kernels.Dot(1.0), one, a.reshape((-1, 1))).reshape(a.shape)


def _not_self(part: slice, m: int, x: Input) -> Any:
    keep = np.ones((part.stop - part.start, m), x.dtype)
    own = np.arange(part.start, min(part.stop, m))
    keep[own - part.start, own] = 0.0
    return x.framework.asarray(keep, x.device)


def _write(out: Output, part: slice, tile: Any, x: Input) -> None:
    out.data[part] = x.framework.native(tile, x.device)
