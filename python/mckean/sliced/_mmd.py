"""The squared MMD of a Riesz kernel, and the Cramer distance, by slicing."""

from __future__ import annotations

from typing import Any

from mckean.sliced._call import Projected, project
from mckean.sliced._defaults import DIRECTIONS, RIESZ, SEED, SLICES, given
from mckean.sliced._error import standard_error
from mckean.sliced._exponents import as_riesz
from mckean.sliced._target import Target

__all__ = ["sliced_cramer", "sliced_mmd2", "sliced_mmd2_grad"]


def sliced_mmd2(
    x: Any,
    y: Any,
    *,
    n_slices: int = SLICES,
    r: float = RIESZ,
    directions: Any = DIRECTIONS,
    seed: Any = SEED,
    x_weights: Any = None,
    y_weights: Any = None,
    return_error: bool = False,
    device: Any = None,
) -> Any:
    """Estimate the squared MMD of two point clouds with the kernel ``-|x - y|^r``, by projection on lines.

    With weights a, b that sum to 1 it estimates ::

        2 sum_ij a_i b_j |x_i - y_j|^r - sum_ij a_i a_j |x_i - x_j|^r - sum_ij b_i b_j |y_i - y_j|^r

    the energy distance for r = 1, ``mmd2(Riesz(r), x, y, unbiased=False)``. Along every direction the clouds are
    projected and sorted, which costs O((n + m) (d + log(n + m))) time for r = 1 and somewhat more for other r; the mean
    over the directions times `slicing_constant` is, for random directions, unbiased. Memory does not grow with the
    number of slices times that of points.

    Parameters
    ----------
    x : array, shape (n, d) or (batch, n, d), float32 or float64
        At least one point.
    y : array, shape (m, d) or (batch, m, d), or mk.sliced.Target
        Framework, dtype and device of `x`. A batch of x may share one cloud, or target. What a target was made with is
        not needed again; what is given nevertheless has to agree.
    n_slices : int, optional
        Number P of directions; in one dimension one is enough and one is used.
    r : float, optional
        Exponent in (0, 2).
    directions : {"orthogonal", "random", "sobol"} or array, shape (n_slices, d), optional
        See `mk.sliced.directions`. An array holds unit vectors and sets P.
    seed : int or numpy.random.SeedSequence, optional
        The directions are a pure function of it.
    x_weights, y_weights : array, shape (n,), (m,), or with a leading batch axis, float32 or float64, optional
        Not negative and of any positive sum, which is divided by. Default: equal weights.
    return_error : bool, optional
        Return the standard error over the directions too.
    device : str, optional
        ``"cuda"`` computes NumPy arrays on the GPU: copied there, and the result back.

    Returns
    -------
    value : float, or array, shape (batch,)
        Never negative. For a batch of the framework, dtype and device of `x`. Deterministic for any number of threads;
        see `mckean.torch` to differentiate it by the framework.
    error : float, or array, shape (batch,)
        With `return_error`. Over the directions (``"random"``, arrays) or over frames of d (``"orthogonal"``). NaN for
        fewer than two of these, for ``"sobol"``, and for equispaced directions in the plane, which are one draw; 0 in
        one dimension, where the value is exact.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or frameworks do not match, a cloud is empty, values are not finite or too large for their
        projections to be numbers, weights are negative or sum to 0, or an argument is out of range.
    DeviceError
        If `device` is not available.

    See Also
    --------
    sliced_mmd2_grad, energy_distance, mckean.mmd2

    References
    ----------
    .. [1] J. Hertrich, C. Wald, F. Altekrüger, P. Hagemann, "Generative sliced MMD flows with Riesz kernels", ICLR
       2024, arXiv:2305.11463

    Examples
    --------
    >>> import mckean as mk
    >>> x, y = mk.random.normal(0, (2000, 3)), 0.5 + mk.random.normal(1, (1000, 3))
    >>> value, error = mk.sliced_mmd2(x, y, return_error=True)
    >>> abs(value - mk.energy_distance(x, y)) < 5 * error < 0.1 * value
    True
    """
    out = _mmd(x, y, n_slices, r, directions, seed, x_weights, y_weights, device, False)
    value = out.result(out.mean())
    if not return_error:
        return value
    error = out.factor * standard_error(out.values, out.lines)
    return value, float(error) if error.ndim == 0 else out.result(error)


def sliced_mmd2_grad(
    x: Any,
    y: Any,
    *,
    n_slices: int = SLICES,
    r: float = RIESZ,
    directions: Any = DIRECTIONS,
    seed: Any = SEED,
    x_weights: Any = None,
    y_weights: Any = None,
    device: Any = None,
) -> tuple[Any, Any]:
    """Return `sliced_mmd2` and its gradient in `x`.

    The velocity of a particle in the flow of half the squared MMD is ``-grad / (2 a_i)`` with its weight a_i, hence
    ``-(n / 2) * grad`` for equal weights. Points that coincide, and projections that do, contribute 0 to each other:
    the mean over all ways to order them. So particles that coincide move alike for ever.

    As the distance is symmetric, the gradient in y is that of swapped clouds: ``sliced_mmd2_grad(y, x, ...)`` with
    the weights swapped too.

    Parameters
    ----------
    x, y, n_slices, r, directions, seed, x_weights, y_weights, device
        See `sliced_mmd2`.

    Returns
    -------
    value : float, or array, shape (batch,)
        The same bits as those of `sliced_mmd2`.
    grad : array, shape of `x`
        Framework, dtype and device of `x`.

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`.

    Examples
    --------
    Two points on a line, at a distance of 3, attract each other with unit force:

    >>> import numpy as np
    >>> import mckean as mk
    >>> value, grad = mk.sliced_mmd2_grad(np.array([[0.0]]), np.array([[3.0]]))
    >>> value, -0.5 * grad
    (6.0, array([[1.]]))
    """
    out = _mmd(x, y, n_slices, r, directions, seed, x_weights, y_weights, device, True)
    return out.result(out.mean()), out.grad


def _mmd(
    x: Any,
    y: Any,
    n_slices: Any,
    r: Any,
    directions: Any,
    seed: Any,
    x_weights: Any,
    y_weights: Any,
    device: Any,
    with_grad: bool,
) -> Projected:
    exponent = as_riesz(r)
    if isinstance(y, Target):
        exponent = exponent if given(r) or y.distance != "mmd" else y.exponent
    return project(
        "mmd",
        exponent,
        x,
        y,
        n_slices,
        directions,
        seed,
        x_weights,
        y_weights,
        device,
        with_grad=with_grad,
    )


def sliced_cramer(
    x: Any,
    y: Any,
    *,
    n_slices: int = SLICES,
    directions: Any = DIRECTIONS,
    seed: Any = SEED,
    x_weights: Any = None,
    y_weights: Any = None,
    return_grad: bool = False,
    device: Any = None,
) -> Any:
    """Return the sliced Cramer distance: the mean over directions of the integral of ``(F - G)^2``.

    F and G are the distribution functions of the projected points. Along a line that is half the energy distance, so
    this is `sliced_mmd2` for r = 1 over twice `slicing_constant`, with no root taken.

    Parameters
    ----------
    x, y, n_slices, directions, seed, x_weights, y_weights, device
        See `sliced_mmd2`. A target is one made with ``distance="mmd"`` and r = 1.
    return_grad : bool, optional
        Return the gradient in `x` too.

    Returns
    -------
    value : float, or array, shape (batch,)
    grad : array, shape of `x`
        With `return_grad`.

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.sliced_cramer(np.array([[0.0]]), np.array([[3.0]]))
    3.0
    """
    if isinstance(y, Target) and y.distance == "mmd" and y.exponent != 1.0:
        raise ValueError(f"y: expected a Target made with r=1, got r={y.exponent:g}")
    out = project(
        "mmd",
        1.0,
        x,
        y,
        n_slices,
        directions,
        seed,
        x_weights,
        y_weights,
        device,
        factor=0.5,
        with_grad=return_grad,
    )
    value = out.result(out.mean())
    return (value, out.grad) if return_grad else value
