"""Wasserstein distances by slicing."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean.sliced._call import project
from mckean.sliced._defaults import DIRECTIONS, ORDER, SEED, SLICES, given
from mckean.sliced._error import standard_error
from mckean.sliced._exponents import as_power
from mckean.sliced._target import Target

__all__ = ["sliced_wasserstein"]


def sliced_wasserstein(
    x: Any,
    y: Any,
    *,
    p: float = ORDER,
    n_slices: int = SLICES,
    directions: Any = DIRECTIONS,
    seed: Any = SEED,
    x_weights: Any = None,
    y_weights: Any = None,
    return_grad: bool = False,
    return_error: bool = False,
    device: Any = None,
) -> Any:
    """Return the sliced Wasserstein distance of order p: ``(mean over directions of W_p^p)^(1/p)``.

    Along a line the best plan moves the points in their order, so that sorting solves the transport. There is no
    slicing constant: two points at distance h in d dimensions are about ``h / sqrt(d)`` apart for p = 2. In one
    dimension it is the Wasserstein distance itself.

    Parameters
    ----------
    x, y, n_slices, directions, seed, x_weights, y_weights, device
        See `sliced_mmd2`. A target is one made with ``distance="wasserstein"``.
    p : float, optional
        From 1 to 64. Powers are computed in float64, where distances below ``10^(-300/p)`` count as 0:
        2e-5 for p = 64. With a target, its own.
    return_grad : bool, optional
        Return the gradient in `x` too; 0 where the value is 0. That in y is the gradient of swapped clouds.
    return_error : bool, optional
        Return the standard error over the directions too, see `sliced_mmd2`; to first order, for the root.

    Returns
    -------
    value : float, or array, shape (batch,)
    grad : array, shape of `x`
        With `return_grad`. Points that are moved nowhere contribute 0; where projections coincide it is one of several
        subgradients, that of the order of the input.
    error : float, or array, shape (batch,)
        With `return_error`, last.

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`; and if `p` is out of range.

    See Also
    --------
    sliced_mmd2

    References
    ----------
    .. [1] N. Bonneel, J. Rabin, G. Peyré, H. Pfister, "Sliced and Radon Wasserstein barycenters of measures", Journal
       of Mathematical Imaging and Vision 51, 2015

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x, y = np.array([[0.0], [1.0]]), np.array([[5.0], [4.0]])
    >>> mk.sliced_wasserstein(x, y, return_grad=True)
    (4.0, array([[-0.5],
           [-0.5]]))
    """
    power = as_power(p)
    if isinstance(y, Target):
        power = power if given(p) or y.distance != "wasserstein" else y.exponent
    out = project(
        "wasserstein",
        power,
        x,
        y,
        n_slices,
        directions,
        seed,
        x_weights,
        y_weights,
        device,
        factor=1.0,
        with_grad=return_grad,
        root=True,
    )
    mean = out.mean()
    value = mean ** (1.0 / power)
    answer = [out.result(value)]
    if return_grad:
        answer.append(out.grad)
    if return_error:
        error = standard_error(out.values, out.lines)
        with np.errstate(divide="ignore", invalid="ignore"):
            # d(m^(1/p)) = dm / (p m^(1 - 1/p)); where all values are 0 so is the error.
            root = np.where(error == 0.0, 0.0, error * np.divide(value, power * np.asarray(mean)))
        answer.append(float(root) if root.ndim == 0 else out.result(root))
    return answer[0] if len(answer) == 1 else tuple(answer)
