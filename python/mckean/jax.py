"""Products with Hessians by JAX's automatic differentiation, for `mckean.lowrank`.

Import it as ``import mckean.jax``; JAX is imported by the first call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["FlatProduct", "ggn_matvec", "hessian_matvec", "hvp"]


def hvp(f: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The product of the Hessian of `f` at `x` with `v`, forward over reverse.

    Parameters
    ----------
    f : callable
        A pytree like `x` to a scalar, or particles (n, d) to one value for each (n,): products with the Hessian of
        every particle are then one call, as long as values do not depend on other particles.
    x : jax.Array or pytree of them
    v : like `x`

    Returns
    -------
    like `x`
        May be traced, vmapped and differentiated further.

    Raises
    ------
    TypeError, ValueError
        If `v` does not match `x`, or `f` gives neither a scalar nor one value for each particle.

    See Also
    --------
    mckean.lowrank.hvp : by finite differences of a gradient.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import mckean.jax
    >>> x, v = jnp.zeros((2, 3)), jnp.ones((2, 3))
    >>> mckean.jax.hvp(lambda x: jnp.cosh(x).sum(-1), x, v).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    import jax

    (leaves, tree), (along, other) = jax.tree.flatten(x), jax.tree.flatten(v)
    if tree != other:
        raise TypeError(f"v: expected the structure of x, {tree}, got {other}")
    for at, to in zip(leaves, along, strict=True):
        wanted, found = (getattr(a, "shape", ()) for a in (at, to))
        if wanted != found:
            raise ValueError(f"v: expected shape {wanted} to match x, got {found}")
        dtypes = [getattr(a, "dtype", None) for a in (at, to)]
        if all(t is not None for t in dtypes) and dtypes[0] != dtypes[1]:
            raise TypeError(f"v: expected {dtypes[0]} to match x, got {dtypes[1]}")
    return jax.jvp(jax.grad(_scalar(f, "f")), (x,), (v,))[1]


class FlatProduct:
    """A symmetric matrix of parameters as a product with flat vectors; see `hessian_matvec` and `ggn_matvec`.

    Attributes
    ----------
    d : int
        The number of parameters.
    shape : tuple
        (d, d).
    dtype : numpy.dtype
    """

    def __init__(self, params: Any, product: Callable[[Any, Any], Any]) -> None:
        import jax
        from jax.flatten_util import ravel_pytree

        flat, self.unflatten = ravel_pytree(params)
        self.d = int(flat.size)
        if not self.d:
            raise ValueError("params: expected at least one number, got none")
        if flat.dtype.kind != "f":
            raise TypeError(f"params: expected floating-point numbers, got {flat.dtype}")
        self.shape, self.dtype = (self.d, self.d), flat.dtype
        self._params = params
        self._product = jax.jit(lambda at, v: ravel_pytree(product(at, self.unflatten(v)))[0])

    def __call__(self, v: Any) -> Any:
        import jax

        if not isinstance(v, jax.Array):
            raise TypeError(f"v: expected a JAX array, got {type(v).__name__}")
        if v.dtype != self.dtype:
            raise TypeError(f"v: expected {self.dtype} to match the parameters, got {v.dtype}")
        if v.shape != (self.d,):
            raise ValueError(f"v: expected shape ({self.d},), got {tuple(v.shape)}")
        return self._product(self._params, v)

    def flatten(self, tree: Any) -> Any:
        """A pytree like the parameters as one vector (d,)."""
        from jax.flatten_util import ravel_pytree

        return ravel_pytree(tree)[0]


def hessian_matvec(f: Callable[[Any], Any], params: Any) -> FlatProduct:
    """The Hessian of `f` at `params`, as a product with flat vectors for `mckean.lowrank.lanczos` and others.

    Parameters
    ----------
    f : callable
        The parameters to a scalar, such as the loss of a network on some data.
    params : pytree of arrays
        Flattened as by `jax.flatten_util.ravel_pytree`.

    Returns
    -------
    FlatProduct
        A callable (d,) -> (d,), compiled at its first call, with the attribute ``d``; its ``unflatten`` makes a vector
        a pytree like `params`.

    Raises
    ------
    TypeError, ValueError
        If there is no parameter, or `f` gives no scalar.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import mckean.jax
    >>> params = {"a": jnp.ones(2), "b": jnp.ones(())}
    >>> H = mckean.jax.hessian_matvec(lambda p: p["b"] * (p["a"] ** 2).sum(), params)
    >>> H(jnp.array([1.0, 0.0, 0.0])).tolist()
    [2.0, 0.0, 2.0]
    """
    return FlatProduct(params, lambda at, v: hvp(f, at, v))


def ggn_matvec(
    outputs: Callable[[Any], Any], loss: Callable[[Any], Any], params: Any
) -> FlatProduct:
    """The generalised Gauss-Newton matrix J^T H J as a product with flat vectors.

    J is the Jacobian of the outputs in the parameters, H the Hessian of the loss in the outputs. It is positive
    semi-definite if the loss is convex in the outputs, and then the Fisher matrix of the usual losses.

    Parameters
    ----------
    outputs : callable
        The parameters to what a network gives for some data, a pytree of arrays.
    loss : callable
        Those outputs to a scalar.
    params
        See `hessian_matvec`.

    Returns
    -------
    FlatProduct
        See `hessian_matvec`.

    Raises
    ------
    TypeError, ValueError
        See `hessian_matvec`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import mckean.jax
    >>> x = jnp.array([[1.0, 2.0]])
    >>> G = mckean.jax.ggn_matvec(lambda w: x @ w, lambda y: (y**2).sum(), jnp.zeros(2))
    >>> G(jnp.array([1.0, 0.0])).tolist()
    [2.0, 4.0]
    """
    import jax

    def product(at: Any, v: Any) -> Any:
        found, pushed = jax.jvp(outputs, (at,), (v,))
        curved = jax.jvp(jax.grad(_scalar(loss, "loss")), (found,), (pushed,))[1]
        return jax.vjp(outputs, at)[1](curved)[0]

    return FlatProduct(params, product)


def _scalar(f: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    """`f`, summed over the particles if it gives one value for each."""

    def total(x: Any) -> Any:
        value = f(x)
        shape = getattr(value, "shape", None)
        if shape is None or len(shape) > (name == "f"):
            got = type(value).__name__ if shape is None else f"shape {tuple(shape)}"
            raise ValueError(f"{name}: expected a scalar, got {got}")
        return value.sum()

    return total
