"""Distances between point clouds as functions that PyTorch differentiates.

The same functions as in `mckean`, of tensors that may require gradients, with 0-dimensional tensors (one value per
cloud of a batch) as results. Import it as ``import mckean.torch``; PyTorch is imported by the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mckean import sliced, transport
from mckean.sliced._defaults import DIRECTIONS, ORDER, RIESZ, SEED, SLICES
from mckean.transport._arguments import clouds
from mckean.transport._divergence import divergence
from mckean.transport._weights import flag

__all__ = [
    "energy_distance",
    "sinkhorn_cost",
    "sinkhorn_divergence",
    "sliced_mmd2",
    "sliced_wasserstein",
]


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


def sinkhorn_divergence(
    x: Any,
    y: Any,
    *,
    eps: Any = None,
    rel_eps: Any = None,
    p: float = 2,
    a: Any = None,
    b: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    unbalanced: Any = None,
    eps_scaling: bool = False,
    acceleration: Any = "anderson",
    normalize: bool = False,
) -> Any:
    """`mckean.sinkhorn_divergence`, differentiable in `x`, `y`, `a` and `b`.

    Gradients come from the solution, by the envelope theorem: nothing is unrolled, and their error is of the order of
    `tol`.

    Parameters
    ----------
    x : torch.Tensor, shape (n, d) or (batch, n, d), float32 or float64
    y : torch.Tensor, shape (m, d) or (batch, m, d)
    a, b : torch.Tensor, shape (n,) and (m,), or with a leading axis (batch,), optional
        Weights that sum to 1, such as those of a softmax; or any with `normalize`, which is differentiated too.
    eps, rel_eps
        See `mckean.sinkhorn_divergence`. Without a gradient: with `rel_eps` that of the value for the eps it gives.
    p, method, tol, max_iter, unbalanced, eps_scaling, acceleration, normalize
        See `mckean.sinkhorn_divergence`.

    Returns
    -------
    torch.Tensor, shape () or (batch,)
        Of the dtype and device of `x`. Differentiable once: its gradient has none.

    Raises
    ------
    TypeError, ValueError
        See `mckean.sinkhorn_divergence`; and if `x` is not a tensor.

    Warns
    -----
    ConvergenceWarning
        See `mckean.sinkhorn_divergence`.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> x = torch.tensor([[0.0], [1.0]], requires_grad=True)
    >>> mckean.torch.sinkhorn_divergence(x, torch.tensor([[5.0], [6.0]]), eps=1.0).backward()
    >>> x.grad.sum().round(decimals=3)
    tensor(-10.)
    """
    options = {
        "method": method,
        "tol": tol,
        "max_iter": max_iter,
        "acceleration": acceleration,
        "eps_scaling": eps_scaling,
    }

    def evaluate(x: Any, y: Any, a: Any, b: Any, wanted: Any) -> Any:
        found = divergence(
            *clouds(x, y, p),
            a,
            b,
            eps,
            rel_eps,
            unbalanced,
            flag(normalize, "normalize"),
            None,
            **options,
        )
        found.check("sinkhorn_divergence")
        grads: tuple[Callable[[], Any], ...] = (
            found.grad_x,
            found.grad_y,
            lambda: found.grad_weights(columns=False),
            lambda: found.grad_weights(columns=True),
        )
        return found.value(), [g() if w else None for g, w in zip(grads, wanted, strict=True)]

    return _transport(evaluate, x, y, a, b, normalize)


def sinkhorn_cost(
    x: Any,
    y: Any,
    *,
    a: Any = None,
    b: Any = None,
    normalize: bool = False,
    **options: Any,
) -> Any:
    """The value of entropic transport between points, differentiable in `x`, `y`, `a` and `b`.

    It is the optimal ``<P, C> + eps KL(P | a b^T)``, of which `mckean.sinkhorn_points` gives the lower bound
    ``dual_value``. As a distance it is biased: the best x for given y are fewer places than y has. See
    `sinkhorn_divergence`.

    Parameters
    ----------
    x, y, a, b, normalize
        See `sinkhorn_divergence`.
    **options
        ``eps`` (or ``rel_eps``), which is required, and others of `mckean.sinkhorn_points`.

    Returns
    -------
    torch.Tensor, shape () or (batch,)

    Raises
    ------
    TypeError, ValueError
        See `mckean.sinkhorn_points`; and if `x` is not a tensor.

    Warns
    -----
    ConvergenceWarning
        See `mckean.sinkhorn_points`.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> x = torch.tensor([[0.0]], requires_grad=True)
    >>> value = mckean.torch.sinkhorn_cost(x, torch.tensor([[3.0]]), eps=0.1)
    >>> value.backward()
    >>> round(value.item(), 3), x.grad.round().tolist()
    (9.0, [[-6.0]])
    """

    def evaluate(x: Any, y: Any, a: Any, b: Any, wanted: Any) -> Any:
        found = transport.sinkhorn_points(x, y, a=a, b=b, normalize=normalize, **options)
        grads: tuple[Callable[[], Any], ...] = (
            found.grad_x,
            found.grad_y,
            lambda: found._weight_gradient(columns=False),
            lambda: found._weight_gradient(columns=True),
        )
        return found.dual_value, [g() if w else None for g, w in zip(grads, wanted, strict=True)]

    return _transport(evaluate, x, y, a, b, normalize)


def _transport(evaluate: Any, x: Any, y: Any, a: Any, b: Any, normalize: Any) -> Any:
    import torch

    def tracked(v: Any) -> bool:
        return isinstance(v, torch.Tensor) and v.requires_grad

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x: expected a tensor, got {type(x).__name__}")
    if x.dim() == 3:
        # What a batch shares gets the sum of its gradients.
        if tracked(y) and y.dim() == 2:
            y = y.expand(x.shape[0], -1, -1)
        a, b = (v.expand(x.shape[0], -1) if tracked(v) and v.dim() == 1 else v for v in (a, b))
    if normalize is True:
        a, b = (v / v.sum(-1, keepdim=True) if tracked(v) else v for v in (a, b))
    return _optimum().apply(evaluate, x, y, a, b)


@functools.cache
def _optimum() -> Any:
    """The autograd function of optimal values, made when PyTorch is first needed."""
    import torch
    from torch.autograd.function import once_differentiable

    class Optimum(torch.autograd.Function):  # type: ignore[misc]
        """An optimal value of points and weights, with the gradients of whatever requires them."""

        @staticmethod
        def forward(ctx: Any, evaluate: Any, *given: Any) -> Any:
            plain = [v.detach() if isinstance(v, torch.Tensor) else v for v in given]
            value, grads = evaluate(*plain, ctx.needs_input_grad[1:])
            kept = []
            for g, v in zip(grads, plain, strict=True):
                if g is not None:
                    # Gradients in weights are float64 on the host, with a leading axis.
                    g = torch.as_tensor(g, dtype=v.dtype, device=v.device).reshape(v.shape)
                kept.append(g)
            ctx.save_for_backward(*kept)
            return torch.as_tensor(value, dtype=plain[0].dtype, device=plain[0].device)

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, cotangent: Any) -> Any:
            def scaled(g: Any) -> Any:
                if g is None:
                    return None
                # One cotangent for every problem, over its points and coordinates.
                return (
                    cotangent.reshape(cotangent.shape + (1,) * (g.dim() - cotangent.dim())).to(
                        g.dtype
                    )
                    * g
                )

            return None, *(scaled(g) for g in ctx.saved_tensors)

    return Optimum


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
