"""The Sinkhorn divergence: entropic transport without its bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean._array import Input
from mckean.transport._arguments import (
    clouds,
    free_marginals,
    penalties,
    regularize,
    settings_of,
    strengths,
)
from mckean.transport._problem import Doubles, Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._sinkhorn import warn_unless_converged
from mckean.transport._solve import Settings, solve
from mckean.transport._symmetric import solve_symmetric
from mckean.transport._weights import flag, marginal

__all__ = ["Divergence", "divergence", "sinkhorn_divergence"]


def sinkhorn_divergence(
    x: Any,
    y: Any,
    *,
    eps: Any = None,
    rel_eps: Any = None,
    p: float = 2,
    return_grad: bool = False,
    a: Any = None,
    b: Any = None,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    unbalanced: Any = None,
    eps_scaling: bool = False,
    acceleration: Any = "anderson",
    normalize: bool = False,
    device: Any = None,
) -> Any:
    """Return the Sinkhorn divergence ``OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`` of weighted points.

    OT is the value of entropic transport for the cost ``|x - y|^p``. The divergence is 0 for equal clouds, not negative
    for p = 1 and 2, and has no entropic bias [1]_: between the Wasserstein distance to the power p (small eps) and a
    kernel distance (large eps: the squared distance of the means for p = 2, half the energy distance for p = 1).

    Parameters
    ----------
    x : array, shape (n, d) or (batch, n, d), float32 or float64
    y : array, shape (m, d) or (batch, m, d)
        A batch may share one cloud (m, d).
    eps : float, or array, shape (batch,)
        The regularisation, in units of the cost. It is required, unless `rel_eps` is given.
    rel_eps : float, or array, shape (batch,), optional
        Instead of `eps`: times the mean cost between x and y. Gradients take eps as given.
    p : float
        Positive. 2 is the squared Euclidean distance.
    return_grad : bool
        Return the gradient in `x` too.
    a, b : array, shape (n,) and (m,), or with a leading axis (batch,), optional
        Weights of the points, see `sinkhorn`.
    method, tol, max_iter, eps_scaling, acceleration, normalize, device
        See `sinkhorn`. The two problems of a cloud with itself are solved by symmetric iterations, which converge fast.
    unbalanced : float, optional
        Relax the marginals [2]_, see `sinkhorn`: one number for both.

    Returns
    -------
    value : float, or array, shape (batch,)
        Of near clouds a small difference of larger numbers, and then perhaps negative by what the solves lack.
    grad : array, shape of `x`
        With `return_grad`.

    Raises
    ------
    TypeError, ValueError
        See `sinkhorn_points`.

    Warns
    -----
    ConvergenceWarning
        If one of the three problems does not meet `tol`; the warning names the largest error.

    See Also
    --------
    sinkhorn_points, energy_distance
    mckean.torch.sinkhorn_divergence : with gradients in both clouds and in the weights

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating between optimal transport
       and MMD using Sinkhorn divergences", AISTATS 2019, arXiv:1810.08278
    .. [2] T. Séjourné, J. Feydy, F.-X. Vialard, A. Trouvé, G. Peyré, "Sinkhorn divergences for unbalanced optimal
       transport", 2019, arXiv:1910.12958

    Examples
    --------
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (50, 2))
    >>> value, grad = mk.sinkhorn_divergence(x, x + [3.0, 4.0], eps=0.5, return_grad=True)
    >>> round(value, 4)
    25.0
    >>> (50 * grad.mean(0)).round(3)
    array([-6., -8.])
    """
    found = divergence(
        *clouds(x, y, p),
        a,
        b,
        eps,
        rel_eps,
        unbalanced,
        flag(normalize, "normalize"),
        device,
        method=method,
        tol=tol,
        max_iter=max_iter,
        acceleration=acceleration,
        eps_scaling=eps_scaling,
    )
    found.check("sinkhorn_divergence")
    return (found.value(), found.grad_x()) if return_grad else found.value()


@dataclass(slots=True)
class Divergence:
    """The three problems of a divergence."""

    cross: SinkhornResult
    of_x: SinkhornResult
    of_y: SinkhornResult
    settings: Settings
    masses: Doubles  # (batch,): sum a - sum b

    def value(self) -> Any:
        """A float, or an array (batch,) like x."""
        # Dual values: errors of potentials enter them to second order.
        value = self.cross._dual - 0.5 * (self.of_x._dual + self.of_y._dual)
        return self.cross._values(value + 0.5 * self.cross._problem.eps * self.masses**2)

    def grad_x(self) -> Any:
        return self.cross.grad_x() - self.of_x.grad_x()

    def grad_y(self) -> Any:
        return self.cross.grad_y() - self.of_y.grad_x()

    def grad_weights(self, *, columns: bool) -> Doubles:
        """In a, or b: (batch, n) or (batch, m)."""
        own = self.of_y if columns else self.of_x
        gain = self.cross._problem.eps * self.masses * (-1.0 if columns else 1.0)
        out = self.cross._weight_gradient(columns=columns) - own._weight_gradient(columns=False)
        return np.asarray(out + gain[:, None])

    def check(self, name: str) -> None:
        """Warn of what did not converge."""
        parts = (self.cross, self.of_x, self.of_y)
        worst = max(
            parts, key=lambda part: np.max(part._error) if not np.all(part.converged) else -1.0
        )
        warn_unless_converged(name, worst, self.settings, depth=4)


def divergence(
    at: Input,
    other: Input,
    power: float,
    a: Any,
    b: Any,
    eps: Any,
    rel_eps: Any,
    unbalanced: Any,
    normalize: bool,
    device: Any,
    **options: Any,
) -> Divergence:
    """Solve the three problems of clouds that were checked."""
    batch = at.shape[0] if len(at.shape) == 3 else None
    if isinstance(unbalanced, (tuple, list)):
        raise TypeError(f"unbalanced: expected one number, got {type(unbalanced).__name__}")
    relaxed = penalties(unbalanced, batch)
    settings = settings_of(**options, unbalanced=relaxed)
    strength, relative = strengths(eps, rel_eps, batch)
    rules: dict[str, Any] = {"free": free_marginals(relaxed, batch), "normalize": normalize}
    u = marginal(a, "a", at.shape[-2], batch, at, "x", **rules)
    v = marginal(b, "b", other.shape[-2], batch, at, "x", **rules)
    problem = Problem.of_points(at, other, power, u, v, strength, device)
    regularize(problem, strength, relative)
    cross = SinkhornResult(problem, solve(problem, settings), settings, at, other, power)
    own = []
    alone = replace(settings, method="auto" if settings.method == "newton" else settings.method)
    for cloud, mass in ((at, u), (other, v)):
        self_problem = Problem.of_points(cloud, cloud, power, mass, mass, problem.eps, device)
        solution = solve_symmetric(self_problem, alone)
        own.append(SinkhornResult(self_problem, solution, alone, cloud, cloud, power))
    return Divergence(cross, own[0], own[1], settings, u.sum(1) - v.sum(1))
