"""Products with a Hessian by finite differences of a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite, nonfinite_rows, to_numpy
from mckean._errors import one_of

__all__ = ["FiniteDifferenceHessian", "hessian_operator", "hvp"]

_SCHEMES = ("central", "forward")
# Steps relative to (1 + |x|) / |v|, and the relative error of a product for a gradient of unit scale.
_STEPS = {
    ("central", "float64"): (2.0**-52) ** (1 / 3),
    ("central", "float32"): (2.0**-23) ** (1 / 2),
    ("forward", "float64"): 2 * (2.0**-52) ** (1 / 2),
    ("forward", "float32"): 2 * (2.0**-23) ** (1 / 2),
}
_ERRORS = {
    ("central", "float64"): 1e-9,
    ("central", "float32"): 2e-4,
    ("forward", "float64"): 1e-7,
    ("forward", "float32"): 1e-3,
}


def hvp(
    grad: Callable[[Any], Any],
    x: Any,
    v: Any,
    *,
    scheme: str = "central",
    gradient: Any = None,
) -> Any:
    """Hessian-vector products from two gradients: (g(x + h v) - g(x - h v)) / 2h.

    Of particles (n, d) every one has its own Hessian, vector and step, and all n products take two calls.

    Parameters
    ----------
    grad : callable
        The gradient, (d,) -> (d,) or (n, d) -> (n, d) with rows on their own, in the framework of `x`.
    x : array, shape (d,) or (n, d), float32 or float64
    v : array, shape of `x`
        Where it is 0 the product is 0.
    scheme : {"central", "forward"}, optional
        "forward" takes g(x + h v) - g(x), of relative error 2e-8 for float64 and 1e-3 for float32, against 1e-9 and
        2e-4.
    gradient : array, shape of `x`, optional
        g(x), which "forward" needs: given, a product is one call.

    Returns
    -------
    array, shape of `x`
        The difference is taken in float64 whatever the dtype (JAX without float64 excepted).

    Raises
    ------
    FloatingPointError
        If a gradient is not finite; the message says where it was taken.
    TypeError, ValueError
        If arrays do not match, or `x` or `v` is not finite.

    See Also
    --------
    hessian_operator : the same as a product with vectors alone, for `lanczos` and others.
    mckean.torch.hvp, mckean.jax.hvp : exact ones, by automatic differentiation.

    Notes
    -----
    ``h = c (1 + |x|) / |v|`` with c = eps^(1/3) for central differences in float64, eps^(1/2) in float32, and
    2 eps^(1/2) for forward ones.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.lowrank.hvp(np.sinh, np.zeros(2), np.array([1.0, 3.0])).round(6)
    array([1., 3.])
    """
    at = _point(x)
    direction = as_match(v, "v", at, "x")
    check_finite(direction, "v")
    return _product(grad, at, direction, one_of(scheme, "scheme", _SCHEMES), _given(gradient, at))


class FiniteDifferenceHessian:
    """The Hessian at one point as a function of vectors; see `hessian_operator`.

    Attributes
    ----------
    d : int
    shape : tuple
        (d, d).
    dtype : dtype
        Of `x`.
    matvec_error : float
        The relative error expected of a product.
    """

    def __init__(self, grad: Any, x: Any, scheme: str, gradient: Any) -> None:
        self._grad = grad
        self._at = _point(x)
        if len(self._at.shape) != 1:
            raise ValueError(f"x: expected shape (d,), got {tuple(self._at.shape)}")
        self._scheme = one_of(scheme, "scheme", _SCHEMES)
        self._gradient = _given(gradient, self._at)
        if self._scheme == "forward" and self._gradient is None:
            self._gradient = _evaluate(grad, self._at.array, self._at, "x")
        self.d = self._at.shape[0]
        self.shape, self.dtype = (self.d, self.d), self._at.array.dtype
        self.matvec_error = _ERRORS[self._scheme, self._at.dtype]

    def __call__(self, v: Any) -> Any:
        direction = as_match(v, "v", self._at, "x")
        check_finite(direction, "v")
        return _product(self._grad, self._at, direction, self._scheme, self._gradient)


def hessian_operator(
    grad: Callable[[Any], Any], x: Any, *, scheme: str = "central", gradient: Any = None
) -> FiniteDifferenceHessian:
    """The Hessian at `x` as a product with vectors, by finite differences of the gradient.

    Parameters
    ----------
    grad : callable
        The gradient, (d,) -> (d,).
    x : array, shape (d,), float32 or float64
        Copied: what becomes of it later changes nothing.
    scheme, gradient
        See `hvp`. "forward" takes g(x) once, and then one gradient a product.

    Returns
    -------
    FiniteDifferenceHessian
        A callable (d,) -> (d,). Its attribute ``matvec_error`` tells `lanczos` and others that products are
        symmetric, and eigenvalues exact, up to that error only.

    Raises
    ------
    FloatingPointError, TypeError, ValueError
        See `hvp`.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> H = mk.lowrank.hessian_operator(lambda x: x * np.array([3.0, 1.0]), np.ones(2))
    >>> H(np.array([1.0, 1.0])).round(6), H.matvec_error
    (array([3., 1.]), 1e-09)
    """
    return FiniteDifferenceHessian(grad, as_input(x, "x").array + 0, scheme, gradient)


def _point(x: Any) -> Input:
    at = as_input(x, "x")
    if len(at.shape) not in (1, 2):
        raise ValueError(f"x: expected shape (d,) or (n, d), got {tuple(at.shape)}")
    check_finite(at, "x")
    return at


def _given(gradient: Any, at: Input) -> Any:
    return None if gradient is None else as_match(gradient, "gradient", at, "x").array


def _product(grad: Any, at: Input, v: Input, scheme: str, gradient: Any) -> Any:
    wide = at.framework.cast
    x64, v64 = wide(at.array, "float64"), wide(v.array, "float64")
    # Of entries of at most 1 the squares neither overflow nor vanish all.
    if not math.prod(at.shape):
        return v.array * 0
    largest = at.framework.row_max(abs(v64))
    zero = largest == 0
    if bool(zero.all()):
        return v.array * 0
    largest = (largest + zero)[..., None]
    v64 = v64 / largest
    length = (v64 * v64).sum(-1) ** 0.5
    step = _STEPS[scheme, at.dtype] * (1.0 + (x64 * x64).sum(-1) ** 0.5)
    # Rows with v = 0 stay at x.
    h = (step / (length + zero))[..., None]
    move = h * v64
    ahead = _evaluate(grad, wide(x64 + move, at.dtype), at, "x + h v")
    if scheme == "forward":
        behind, span = gradient, h
        if behind is None:
            behind = _evaluate(grad, at.array, at, "x")
    else:
        behind, span = _evaluate(grad, wide(x64 - move, at.dtype), at, "x - h v"), 2.0 * h
    change = (wide(ahead, "float64") - wide(behind, "float64")) / span
    return wide(change * largest, at.dtype)


def _evaluate(grad: Any, x: Any, at: Input, where: str) -> Any:
    """A copy of the gradient, which a later call may write over."""
    found = as_match(grad(x), "grad(x)", at, "x", any_float=True)
    bad = nonfinite_rows(found)
    if bad:
        finite = to_numpy(found.framework.finite(found.array))
        if len(at.shape) == 1:
            rows = f"{bad} of {at.shape[0]} entries are not finite, first at index"
            first = int(np.argmin(finite))
        else:
            rows = f"{bad} of {at.shape[0]} rows are not finite, first row"
            first = int(np.argmin(finite.all(-1)))
        raise FloatingPointError(f"grad: expected finite values at {where}, {rows} {first}")
    return found.array + 0
