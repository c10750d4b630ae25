"""Distances between point clouds as functions that PyTorch differentiates.

The same functions as in `mckean`, of tensors that may require gradients, with 0-dimensional tensors (one value per
cloud of a batch) as results. Import it as ``import mckean.torch``; PyTorch is imported by the first call.
"""

from __future__ import annotations

import functools
from typing import Any

from mckean import sliced
from mckean.sliced._defaults import DIRECTIONS, ORDER, RIESZ, SEED, SLICES

__all__ = ["energy_distance", "sliced_mmd2", "sliced_wasserstein"]


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
) -> Any:
    """`mckean.sliced_mmd2`, differentiable in `x` and `y`.

    Parameters
    ----------
    x : torch.Tensor, shape (n, d) or (batch, n, d), float32 or float64
    y : torch.Tensor, shape (m, d) or (batch, m, d), or mk.sliced.Target
        If it requires grad, the distance of the swapped clouds is computed too. A target has no gradient.
    n_slices, r, directions, seed
        See `mckean.sliced_mmd2`.
    x_weights, y_weights : torch.Tensor, optional
        Without a gradient.

    Returns
    -------
    torch.Tensor, shape () or (batch,)
        Of the dtype and device of `x`. Differentiable once: its gradient has none.

    Raises
    ------
    TypeError, ValueError
        See `mckean.sliced_mmd2`; and if `x` is not a tensor.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> x = torch.tensor([[0.0]], requires_grad=True)
    >>> mckean.torch.sliced_mmd2(x, torch.tensor([[3.0]])).backward()
    >>> x.grad
    tensor([[-2.]])
    """
    options = {"n_slices": n_slices, "r": r, "directions": directions, "seed": seed}

    def evaluate(a: Any, b: Any, with_grad: bool, **weights: Any) -> Any:
        function = sliced.sliced_mmd2_grad if with_grad else sliced.sliced_mmd2
        return function(a, b, **options, **weights)

    return _apply(evaluate, x, y, x_weights, y_weights)


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
) -> Any:
    """`mckean.sliced_wasserstein`, differentiable in `x` and `y`.

    Parameters
    ----------
    x, y, n_slices, directions, seed, x_weights, y_weights
        See `sliced_mmd2`.
    p : float, optional
        From 1 to 64.

    Returns
    -------
    torch.Tensor, shape () or (batch,)
        The gradient where it is 0 is taken as 0.

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    >>> value = mckean.torch.sliced_wasserstein(x, torch.tensor([[5.0], [4.0]]))
    >>> value.backward()
    >>> value.item(), x.grad.ravel().tolist()
    (4.0, [-0.5, -0.5])
    """
    options = {"p": p, "n_slices": n_slices, "directions": directions, "seed": seed}

    def evaluate(a: Any, b: Any, with_grad: bool, **weights: Any) -> Any:
        return sliced.sliced_wasserstein(a, b, return_grad=with_grad, **options, **weights)

    return _apply(evaluate, x, y, x_weights, y_weights)


def energy_distance(
    x: Any, y: Any, *, r: float = 1.0, x_weights: Any = None, y_weights: Any = None
) -> Any:
    """`mckean.energy_distance`, differentiable in `x` and `y`.

    Parameters
    ----------
    x, y, x_weights, y_weights
        See `sliced_mmd2`; no target.
    r : float, optional
        In (0, 2).

    Returns
    -------
    torch.Tensor, shape () or (batch,)

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> y = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> mckean.torch.energy_distance(torch.zeros(1, 2), y).backward()
    >>> y.grad
    tensor([[1.2000, 1.6000]])
    """

    def evaluate(a: Any, b: Any, with_grad: bool, **weights: Any) -> Any:
        return sliced.energy_distance(a, b, r=r, return_grad=with_grad, **weights)

    return _apply(evaluate, x, y, x_weights, y_weights)


def _apply(evaluate: Any, x: Any, y: Any, x_weights: Any, y_weights: Any) -> Any:
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if isinstance(y, torch.Tensor) and y.requires_grad and (x.dim(), y.dim()) == (3, 2):
        y = y.expand(x.shape[0], -1, -1)  # whose gradient is added up over the batch
    return _distance().apply(evaluate, x, y, x_weights, y_weights)


@functools.cache
def _distance() -> Any:
    """The one autograd function, made when PyTorch is first needed."""
    import torch
    from torch.autograd.function import once_differentiable

    class Distance(torch.autograd.Function):  # type: ignore[misc]
        """A symmetric distance, with the gradients of whatever requires them."""

        @staticmethod
        def forward(ctx: Any, evaluate: Any, x: Any, y: Any, u: Any, v: Any) -> Any:
            in_x, in_y = ctx.needs_input_grad[1:3]
            x, y = x.detach(), y.detach() if isinstance(y, torch.Tensor) else y
            grads = [None, None]
            if in_x or not in_y:
                value = evaluate(x, y, in_x, x_weights=u, y_weights=v)
                if in_x:
                    value, grads[0] = value
            if in_y:
                try:
                    swapped, grads[1] = evaluate(y, x, True, x_weights=v, y_weights=u)
                except (TypeError, ValueError):
                    evaluate(x, y, False, x_weights=u, y_weights=v)  # names the right argument
                    raise
                # The value is that of x against y where both are there.
                value = value if in_x else swapped
            ctx.save_for_backward(*grads)
            return torch.as_tensor(value, dtype=x.dtype, device=x.device)

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, cotangent: Any) -> Any:
            # One cotangent for every cloud, over its points and coordinates.
            grads = (g if g is None else cotangent[..., None, None] * g for g in ctx.saved_tensors)
            return None, *grads, None, None

    return Distance
