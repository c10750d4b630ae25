"""Distances between point clouds as functions that PyTorch differentiates, and products with Hessians by autograd.

The same functions as in `mckean`, of tensors that may require gradients, with 0-dimensional tensors (one value per
cloud of a batch) as results; and exact products with Hessians and Gauss-Newton matrices for `mckean.lowrank`. Import it
as ``import mckean.torch``; PyTorch is imported by the first call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from mckean import sliced, transport
from mckean.sliced._defaults import DIRECTIONS, ORDER, RIESZ, SEED, SLICES
from mckean.transport._arguments import clouds
from mckean.transport._divergence import divergence
from mckean.transport._weights import flag

__all__ = [
    "FlatProduct",
    "energy_distance",
    "ggn_matvec",
    "hessian_matvec",
    "hvp",
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


# ---- products with Hessians --------------------------------------------------------------------


def hvp(f: Callable[[Any], Any], x: Any, v: Any) -> Any:
    """The product of the Hessian of `f` at `x` with `v`, by differentiating twice.

    Parameters
    ----------
    f : callable
        A tensor like `x` to a scalar, or particles (n, d) to one value for each (n,): products with the Hessian of
        every particle are then one call, as long as values do not depend on other particles.
    x : torch.Tensor, any shape
    v : torch.Tensor, shape of `x`

    Returns
    -------
    torch.Tensor, shape of `x`
        Without a gradient.

    Raises
    ------
    TypeError, ValueError
        If `v` does not match `x`, or `f` gives no tensor of `x`.

    See Also
    --------
    mckean.lowrank.hvp : by finite differences of a gradient.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> x, v = torch.zeros(2, 3), torch.ones(2, 3)
    >>> mckean.torch.hvp(lambda x: x.cosh().sum(-1), x, v)
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """
    import torch

    _check_tensor(x, "x")
    _check_tensor(v, "v")
    if v.shape != x.shape or v.dtype != x.dtype or v.device != x.device:
        raise ValueError(
            f"v: expected shape {tuple(x.shape)}, {x.dtype} on {x.device} to match x, "
            f"got {tuple(v.shape)}, {v.dtype} on {v.device}"
        )
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (first,) = _gradient(_scalar(f(leaf), "f"), [leaf])
        return _backward([first], [leaf], [v.detach()])[0].detach()


class FlatProduct:
    """A symmetric matrix of parameters as a product with flat vectors; see `hessian_matvec` and `ggn_matvec`.

    Attributes
    ----------
    d : int
        The number of parameters.
    shape : tuple
        (d, d).
    dtype : torch.dtype
    device : torch.device
    """

    def __init__(self, params: list[Any], product: Callable[[list[Any]], list[Any]]) -> None:
        self._params, self._product = params, product
        self.d = sum(p.numel() for p in params)
        self.shape = self.d, self.d
        self.dtype, self.device = params[0].dtype, params[0].device

    def __call__(self, v: Any) -> Any:
        import torch

        _check_tensor(v, "v")
        if v.shape != (self.d,) or v.dtype != self.dtype or v.device != self.device:
            kind = TypeError if v.dtype != self.dtype else ValueError
            raise kind(
                f"v: expected shape ({self.d},), {self.dtype} on {self.device} to match the parameters, "
                f"got {tuple(v.shape)}, {v.dtype} on {v.device}"
            )
        parts = v.detach().split([p.numel() for p in self._params])
        with torch.enable_grad():
            out = self._product([b.view_as(p) for b, p in zip(parts, self._params, strict=True)])
        return torch.cat([o.detach().reshape(-1) for o in out])

    def flatten(self, tensors: Iterable[Any]) -> Any:
        """Tensors like the parameters as one vector (d,)."""
        import torch

        return torch.cat([t.detach().reshape(-1) for t in tensors])

    def unflatten(self, v: Any) -> list[Any]:
        """A vector (d,) as tensors like the parameters."""
        parts = v.split([p.numel() for p in self._params])
        return [b.view_as(p) for b, p in zip(parts, self._params, strict=True)]


def hessian_matvec(f: Callable[[], Any], params: Any) -> FlatProduct:
    """The Hessian of `f` in parameters, as a product with flat vectors for `mckean.lowrank.lanczos` and others.

    `f` and its gradient are computed here, once; a product is then one backward pass through the gradient. It belongs
    to the parameters as they are now: make another after an update (autograd refuses most stale ones).

    Parameters
    ----------
    f : callable
        Without arguments, the scalar to differentiate, such as the loss of a network on some data.
    params : torch.nn.Module, torch.Tensor, or iterable of tensors
        Those that require gradients, flattened in their order. Their dtypes and devices are the same.

    Returns
    -------
    FlatProduct
        A callable (d,) -> (d,), with the attribute ``d``. It keeps the graph of the gradient in memory.

    Raises
    ------
    TypeError, ValueError
        If there is no parameter to differentiate, or `f` gives no scalar of them.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> H = mckean.torch.hessian_matvec(lambda: net(x).square().sum(), net)
    >>> H(torch.tensor([1.0, 0.0]))
    tensor([2., 4.])
    """
    import torch

    leaves = _parameters(params)
    with torch.enable_grad():
        first = _gradient(_scalar(f(), "f"), leaves)
    return FlatProduct(leaves, lambda parts: _backward(first, leaves, parts))


def ggn_matvec(outputs: Callable[[], Any], loss: Callable[[Any], Any], params: Any) -> FlatProduct:
    """The generalised Gauss-Newton matrix J^T H J as a product with flat vectors.

    J is the Jacobian of the outputs in the parameters, H the Hessian of the loss in the outputs. It is positive
    semi-definite if the loss is convex in the outputs, and then the Fisher matrix of the usual losses.

    Parameters
    ----------
    outputs : callable
        Without arguments, what a network gives for some data: a tensor.
    loss : callable
        That tensor to a scalar.
    params
        See `hessian_matvec`.

    Returns
    -------
    FlatProduct
        See `hessian_matvec`. A product is three backward passes.

    Raises
    ------
    TypeError, ValueError
        See `hessian_matvec`.

    Examples
    --------
    >>> import torch
    >>> import mckean.torch
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[1.0, 2.0]])
    >>> G = mckean.torch.ggn_matvec(lambda: net(x), lambda y: y.square().sum(), net)
    >>> G(torch.tensor([1.0, 0.0]))
    tensor([2., 4.])
    """
    import torch

    leaves = _parameters(params)
    with torch.enable_grad():
        found = outputs()
        _check_tensor(found, "outputs")
        if not found.requires_grad:
            raise ValueError("outputs: expected a function of the parameters, got a constant")
        leaf = found.detach().clone().requires_grad_()
        (slope,) = _gradient(_scalar(loss(leaf), "loss"), [leaf])
        # J^T u is linear in u, so that its derivative in u along v is J v.
        dummy = torch.zeros_like(found, requires_grad=True)
        pulled = torch.autograd.grad(
            found, leaves, dummy, create_graph=True, materialize_grads=True
        )

    def product(parts: list[Any]) -> list[Any]:
        (pushed,) = _backward(pulled, [dummy], parts)
        (curved,) = _backward([slope], [leaf], [pushed.detach()])
        return _backward([found], leaves, [curved.detach()])

    return FlatProduct(leaves, product)


def _check_tensor(x: Any, name: str) -> None:
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")


def _parameters(params: Any) -> list[Any]:
    import torch

    if isinstance(params, torch.nn.Module):
        params = params.parameters()
    elif isinstance(params, torch.Tensor):
        params = [params]
    found = list(params)
    for p in found:
        _check_tensor(p, "params")
    leaves = [p for p in found if p.requires_grad]
    if not leaves:
        raise ValueError(f"params: expected tensors that require grad, got {len(found)} others")
    kinds = {(p.dtype, p.device) for p in leaves}
    if len(kinds) > 1:
        raise ValueError(
            f"params: expected one dtype and device, got {', '.join(sorted(map(str, kinds)))}"
        )
    return leaves


def _scalar(value: Any, name: str) -> Any:
    _check_tensor(value, name)
    if value.dim() > 1 or (name != "f" and value.dim()):
        raise ValueError(f"{name}: expected a scalar, got shape {tuple(value.shape)}")
    return value.sum()


def _gradient(value: Any, leaves: list[Any]) -> Any:
    """The gradient with its graph; zeros where the value does not depend on a leaf."""
    import torch

    if not value.requires_grad:
        return [torch.zeros_like(p) for p in leaves]
    return torch.autograd.grad(value, leaves, create_graph=True, materialize_grads=True)


def _backward(outputs: Any, leaves: list[Any], vectors: list[Any]) -> list[Any]:
    """The products of `vectors` with the Jacobian of `outputs`, whose graph is kept."""
    import torch

    # A linear function has a gradient without a graph.
    tracked = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    if not tracked:
        return [torch.zeros_like(p) for p in leaves]
    tensors, cotangents = zip(*tracked, strict=True)
    return list(
        torch.autograd.grad(tensors, leaves, cotangents, retain_graph=True, materialize_grads=True)
    )
