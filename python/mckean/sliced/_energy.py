"""The energy distance itself: all pairs, or one sort where the points are numbers."""

from __future__ import annotations

from typing import Any

from mckean import kernels
from mckean._array import Input, to_numpy
from mckean.interaction import _sums
from mckean.interaction._samples import host, scalars
from mckean.sliced._call import project
from mckean.sliced._clouds import first_cloud, second_cloud
from mckean.sliced._defaults import DIRECTIONS, SEED
from mckean.sliced._exponents import as_riesz
from mckean.sliced._target import Target
from mckean.sliced._weights import probabilities

__all__ = ["energy_distance"]


def energy_distance(
    x: Any,
    y: Any,
    *,
    r: float = 1.0,
    x_weights: Any = None,
    y_weights: Any = None,
    return_grad: bool = False,
    device: Any = None,
) -> Any:
    """Return the energy distance of two point clouds, ``2 E|X - Y|^r - E|X - X'|^r - E|Y - Y'|^r``.

    That is the squared MMD with the kernel ``-|x - y|^r``, which `sliced_mmd2` estimates, over all pairs: exact, in
    O((n + m)^2 d) time and O(n + m) memory; in one dimension with r = 1 by one sort, in O((n + m) log(n + m)).

    It is a squared distance: `scipy.stats.energy_distance` returns its square root.

    Parameters
    ----------
    x : array, shape (n, d) or (batch, n, d), float32 or float64
        At least one point.
    y : array, shape (m, d) or (batch, m, d)
        Framework, dtype and device of `x`. A batch of x may share one cloud.
    r : float, optional
        Exponent in (0, 2).
    x_weights, y_weights : array, shape (n,), (m,), or with a leading batch axis, float32 or float64, optional
        Not negative and of any positive sum, which is divided by. Default: equal weights.
    return_grad : bool, optional
        Return the gradient in `x` too. Points that coincide contribute 0 to each other.
    device : str, optional
        See `sliced_mmd2`.

    Returns
    -------
    value : float, or array, shape (batch,)
        Summed over points in float64. From pairs it is a difference of means, and may be negative by their rounding.
    grad : array, shape of `x`
        With `return_grad`.

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2` and `mckean.kernel_sum`.

    References
    ----------
    .. [1] G. Székely, M. Rizzo, "Energy statistics: a class of statistics based on distances", Journal of Statistical
       Planning and Inference 143, 2013

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x, y = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])
    >>> value, grad = mk.energy_distance(x, y, return_grad=True)
    >>> round(value, 12), grad.round(12)
    (10.0, array([[-1.2, -1.6]]))
    """
    exponent = as_riesz(r)
    if isinstance(y, Target):
        raise TypeError("y: expected points, got a Target, which only sliced distances take")
    at = first_cloud(x, "x", exponent)
    if at.shape[-1] == 1 and exponent == 1.0:
        out = project(
            "mmd",
            1.0,
            at.array,
            y,
            1,
            DIRECTIONS,
            SEED,
            x_weights,
            y_weights,
            device,
            with_grad=return_grad,
        )
        value = out.result(out.mean())
        return (value, out.grad) if return_grad else value
    other = second_cloud(y, "y", at, "x", exponent)
    k = kernels.Riesz(exponent)
    u, v = _Mean(x_weights, "x_weights", at, "x"), _Mean(y_weights, "y_weights", other, "y")
    # Clouds of a batch that share y are one long cloud to it.
    points = at.array if len(at.shape) == len(other.shape) else at.array.reshape((-1, at.shape[-1]))
    across, pull = _sums_and_grad(k, points, other.array, v, return_grad, device)
    within, push = _sums_and_grad(k, at.array, at.array, u, return_grad, device)
    beyond, _ = _sums_and_grad(k, other.array, other.array, v, False, device)
    value = u.of(within - 2.0 * across.reshape(within.shape)) + v.of(beyond)
    value = scalars(value, at)
    if not return_grad:
        return value
    force = push - pull.reshape(at.shape)
    weight = 2.0 / at.shape[-2] if u.array is None else (2.0 * u.array)[..., None]
    return value, weight * force


class _Mean:
    """Averages over the points of one cloud, or of each cloud of a batch."""

    __slots__ = ("array", "count", "total", "wide")

    def __init__(self, w: Any, name: str, of: Input, of_name: str) -> None:
        self.count, self.array, self.wide, self.total = of.shape[-2], None, None, None
        if w is not None:
            self.wide = to_numpy(probabilities(w, name, of, of_name, of.framework, of.device))
            narrow = self.wide.astype(of.dtype)
            self.array = of.framework.asarray(narrow, of.device)
            # What is rounded no longer sums to 1: means of large, nearly equal numbers would show it.
            self.total = narrow.sum(-1, dtype="float64", keepdims=True)

    def of(self, values: Any) -> Any:
        """Average NumPy `values` over the last axis."""
        return values.mean(-1) if self.wide is None else (self.wide * values).sum(-1)


def _sums_and_grad(
    k: kernels.Kernel, x: Any, y: Any, v: _Mean, with_grad: bool, device: Any
) -> tuple[Any, Any]:
    """The means of the kernel over y for every x, NumPy float64, and their gradients."""
    if with_grad:
        sums, grad = _sums.kernel_sum_and_grad(k, x, y, v.array, device=device)
        grad = grad / v.count if v.array is None else grad
    else:
        sums, grad = _sums.kernel_sum(k, x, y, v.array, device=device), None
    return host(sums) / (v.count if v.total is None else v.total), grad
