"""Gradient-regularised Newton steps with exact or approximate Hessians."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean import random
from mckean._array import is_array, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_real, as_seed, nonnegative, positive
from mckean.lowrank import LowRankOperator, nystrom
from mckean.lowrank._nystrom import IndefiniteError
from mckean.optimizers._curvature import Dense, LowRank, Metric, Products, Zero
from mckean.optimizers._minimize import MinimizeResult, drive, limit
from mckean.optimizers._objective import Calls, Counts, Vector, starting_point

__all__ = ["GNS", "GNSState", "NormalizedGradient"]

_MODELS = ("exact", "ggn", "fisher", "nystrom")
_TRIALS = 40
_PROBE = 0x676E732E70726F62  # "gns.prob"
_DENSE = 2000  # the largest d whose dense Hessian is formed
_ASSEMBLE = 64  # and the largest where it is formed from products alone


@dataclass(slots=True)
class GNSState:
    """State of `GNS`.

    ``x`` has the shape of ``x0``; ``gradient`` (d,) and ``gradient_norm`` (in the dual norm of the
    metric) belong to it. ``gamma`` is the estimated radius in which the model of the gradient holds,
    ``lam`` the last regularisation, ``n_trials`` the points tried for the last step,
    ``scale`` the largest ``|value|`` so far, by which its rounding is judged. ``U`` and ``s`` are the
    preconditioner in use, or None, ``n_unfinished`` how many inner solutions by conjugate gradients ended at
    their iteration limit. ``status`` is "running", "converged" or "line search failed".
    """

    x: Any
    gradient: Any
    value: float
    gradient_norm: float
    gamma: float
    lam: float
    n_trials: int
    scale: float
    status: str
    seed: int
    step: int
    n_values: int
    n_gradients: int
    n_hessians: int
    n_products: int
    U: Any = None
    s: Any = None
    n_unfinished: int = 0


class GNS:
    """Newton's method regularised by the gradient norm, with exact or approximate Hessians.

    A step solves ``(H + lam B) step = -g`` with ``lam = |g| / gamma``, H a model of the Hessian, B a
    fixed metric and ``|g|^2 = g^T B^-1 g``. The point ``x + step`` is accepted if ``f - f_new >=
    |g_new|^2 / (8 lam)``; gamma then doubles, and halves otherwise. So gamma follows the radius in
    which the gradient is as the model says, and no Lipschitz constant is needed. A trial costs one
    value and one gradient; H is formed, and factored, once per step.

    Parameters
    ----------
    objective : object
        With ``value(x)`` and ``gradient(x)``, x (d,); see `Objective`.
    model : {"exact", "ggn", "fisher", "nystrom"} or callable
        "exact": the objective's ``hessian`` for d up to 2000, otherwise its products in conjugate
        gradients, preconditioned by a Nystrom model of rank `rank` that is renewed every `refresh`
        steps. "ggn" and "fisher": the methods of those names. "nystrom": a Nystrom model of rank
        `rank` of the Hessian, made anew at every step; the Hessian must be positive semi-definite. A
        callable ``model(x)`` returns an array (d, d), a `mckean.lowrank.LowRankOperator`, or a
        function v to H v.
    gamma0 : float
        First gamma, positive.
    metric : array, shape (d,) or (d, d), optional
        B, positive definite; one number per coordinate is a diagonal one.
    grad_tol : float
        Converged where ``|g| <= grad_tol``.
    max_iter : int
        Steps that `minimize` takes at most.
    rank : int
        Rank of Nystrom models.
    refresh : int
        Steps from one preconditioner to the next.
    f_star : float, optional
        The minimum, where it is known: converged where ``value - f_star <= value_tol`` as well.
    value_tol : float
        See `f_star`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Warns
    -----
    ConvergenceWarning
        If none of 40 trials is accepted. The best point seen is kept, ``status`` says so, and
        further steps change nothing.

    See Also
    --------
    minimize, NormalizedGradient, SciPyMinimize

    Notes
    -----
    Below ``|g|`` of about 1e-8 the decrease of f is rounding. Hence a trial at which f has not grown
    by more than rounding is accepted also if ``-<g_new, step> >= |g_new|^2 / (4 lam)``, which implies
    the first test for convex functions, or if it meets the stopping rule. A matrix ``H + lam B`` that is not positive
    definite, and a trial that is not finite, divide gamma by 4.

    The vectors of the method itself are in float64 on the host; the objective sees arrays like
    ``x0``. Deterministic given the seed.

    With models whose error does not vanish with the gradient (``fisher``, ``nystrom`` of low rank)
    convergence is linear, and slow where they are poor.

    References
    ----------
    .. [1] "Gradient-Normalized Smoothness for Optimization with Approximate Hessians"
    .. [2] Z. Frangella, J. Tropp, M. Udell, "Randomized Nystrom preconditioning", 2023,
       arXiv:2110.02820

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> X = mk.random.normal(0, (200, 5))
    >>> loss = mk.optimizers.LogisticLoss(X, (X[:, 0] > 0.3).astype(float), l2=1e-2)
    >>> result = mk.optimizers.GNS(loss).minimize(np.zeros(5))
    >>> result.converged, result.gradient_norm < 1e-6
    (True, True)

    It follows the protocol of `mckean.run` as well:

    >>> run = mk.run(mk.optimizers.GNS(loss), np.zeros((1, 5)), 12, progress=False)
    >>> run.x.shape, run.state.status
    ((12, 1, 5), 'converged')
    """

    def __init__(
        self,
        objective: Any,
        model: Any = "exact",
        gamma0: float = 1.0,
        metric: Any = None,
        grad_tol: float = 1e-6,
        max_iter: int = 1000,
        *,
        rank: int = 20,
        refresh: int = 5,
        f_star: float | None = None,
        value_tol: float = 1e-8,
    ) -> None:
        if not callable(model) and model not in _MODELS:
            names = ", ".join(map(repr, _MODELS))
            raise ValueError(f"model: expected one of {names} or a function, got {model!r}")
        needs = {"ggn": "ggn", "fisher": "fisher"}.get(model) if isinstance(model, str) else None
        if needs and not callable(getattr(objective, needs, None)):
            raise ValueError(
                f"model: {type(objective).__name__} has no {needs}, expected one of its models"
            )
        self.objective, self.model = objective, model
        self.gamma0, self.grad_tol = positive(gamma0, "gamma0"), nonnegative(grad_tol, "grad_tol")
        self._metric, self._B = Metric(metric), metric
        self.max_iter = limit(max_iter)
        self.rank = as_count(rank, "rank", least=1)
        self.refresh = as_count(refresh, "refresh", least=1)
        self.f_star = None if f_star is None else as_real(f_star, "f_star")
        self.value_tol = nonnegative(value_tol, "value_tol")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "objective": self.objective,
            "model": self.model,
            "gamma0": self.gamma0,
            "metric": self._B,
            "grad_tol": self.grad_tol,
            "rank": self.rank,
            "refresh": self.refresh,
            "f_star": self.f_star,
            "value_tol": self.value_tol,
        }

    def init(self, x0: Any, seed: Any = 0) -> GNSState:
        """Return the state at `x0`, shape (d,) or (1, d), where the gradient must be finite."""
        like, shape = starting_point(x0)
        self._metric.check(shape[-1])
        x = np.array(to_numpy(like.array), np.float64).reshape(-1)
        calls = Calls(self.objective, like, Counts())
        value, g = calls.start(x)
        norm = float(np.linalg.norm(self._metric.gradient(g)))
        return GNSState(
            x=calls.point(x).reshape(shape),
            gradient=calls.point(g),
            value=value,
            gradient_norm=norm,
            gamma=self.gamma0,
            lam=math.nan,
            n_trials=0,
            scale=abs(value),
            status=self._status(value, norm),
            seed=as_seed(seed),
            step=0,
            n_values=calls.counts.values,
            n_gradients=calls.counts.gradients,
            n_hessians=0,
            n_products=0,
        )

    def _status(self, value: float, norm: float) -> str:
        near = self.f_star is not None and value - self.f_star <= self.value_tol
        return "converged" if norm <= self.grad_tol or near else "running"

    def step(self, state: GNSState) -> GNSState:
        """Return the state after the next accepted point; `state` stays as it is."""
        if state.status != "running":
            return state
        like, shape = starting_point(state.x)
        x = np.array(to_numpy(like.array), np.float64).reshape(-1)
        g = np.array(to_numpy(state.gradient), np.float64)
        counts = Counts(state.n_values, state.n_gradients, state.n_hessians, state.n_products)
        calls = Calls(self.objective, like, counts)
        model, U, s = self._at(calls, x, state)
        eps = float(np.finfo(like.dtype).eps)
        g_scaled, norm, gamma = self._metric.gradient(g), state.gradient_norm, state.gamma
        best = (state.value, x, g, norm)
        accepted, lam, trial = False, state.lam, 0
        while trial < _TRIALS and not accepted:
            trial += 1
            lam = norm / (gamma + 1e-8)
            scaled = model.solve(g_scaled, lam)
            if scaled is None or not np.isfinite(scaled).all():
                gamma /= 4
                continue
            y = calls.rounded(x + self._metric.step(scaled))
            value, g_new = calls.value_and_gradient(y)
            if not (math.isfinite(value) and np.isfinite(g_new).all()):
                gamma /= 4
                continue
            step, new_scaled = y - x, self._metric.gradient(g_new)
            new_norm = float(np.linalg.norm(new_scaled))
            decreased = state.value - value >= new_norm**2 / (8 * lam)
            level = value - state.value <= 64 * eps * state.scale
            inside = float(-(g_new @ step)) >= new_norm**2 / (4 * lam)
            accepted = decreased or (level and (inside or new_norm <= self.grad_tol))
            if accepted or value < best[0]:
                best = (value, y, g_new, new_norm)
            gamma = max(2 * gamma, 1e-9) if accepted else gamma / 2
        value, x, g, norm = best
        status = self._status(value, norm)
        if not accepted and status == "running":
            status = "line search failed"
            warnings.warn(
                f"GNS: no step accepted in {_TRIALS} trials, gradient norm {norm:.3g}",
                ConvergenceWarning,
                stacklevel=2,
            )
        return replace(
            state,
            x=calls.point(x).reshape(shape),
            gradient=calls.point(g),
            value=value,
            gradient_norm=norm,
            gamma=gamma,
            lam=lam,
            n_trials=trial,
            scale=max(state.scale, abs(value)),
            status=status,
            step=state.step + 1,
            n_values=counts.values,
            n_gradients=counts.gradients,
            n_hessians=counts.hessians,
            n_products=counts.products,
            U=U,
            s=s,
            n_unfinished=state.n_unfinished + getattr(model, "unfinished", 0),
        )

    def _at(self, calls: Calls, x: Vector, state: GNSState) -> tuple[Any, Any, Any]:
        """The model at `x`, and the preconditioner to keep."""
        d, metric = calls.d, self._metric
        if callable(self.model):
            return *self._custom(calls, self.model(calls.point(x)), "model", state), None
        if self.model == "nystrom":
            product = metric.product(calls.product(x))
            try:
                return LowRank(self._sketch(product, calls, state, check=True)), None, None
            except IndefiniteError as error:
                raise ValueError(
                    'model: expected a positive semi-definite Hessian for "nystrom"; "exact", "ggn" or "fisher" serve '
                    f"others ({error})"
                ) from None
        name = "hessian" if self.model == "exact" else self.model
        if callable(getattr(self.objective, name, None)) and d <= _DENSE:
            calls.counts.hessians += 1
            return *self._custom(
                calls, getattr(self.objective, name)(calls.point(x)), name, state
            ), None
        product = metric.product(calls.product(x, self.model))
        if d <= _ASSEMBLE:
            H = np.stack([product(e) for e in np.eye(d)])
            if state.step == 0:
                off, size = float(abs(H - H.T).max()), float(abs(H).max())
                calls.symmetric("product", off, size, "|H - H^T|")
            return Dense((H + H.T) / 2), None, None
        self._probe(product, calls, state, "product")
        U, s = state.U, state.s
        if state.step % self.refresh == 0:
            U = s = None
            try:
                op = self._sketch(product, calls, state)
                U, s = op.U, op.s
            except IndefiniteError:
                pass  # then: plain conjugate gradients, which notice negative curvature
        return self._products(product, U, s), U, s

    @staticmethod
    def _products(product: Callable[[Vector], Vector], U: Any, s: Any) -> Products:
        if U is None:
            return Products(product, None)
        U, s = (np.asarray(to_numpy(a), np.float64) for a in (U, s))
        return Products(product, LowRankOperator(np.ascontiguousarray(U), s, check=False))

    def _sketch(
        self,
        product: Callable[[Vector], Vector],
        calls: Calls,
        state: GNSState,
        *,
        check: bool = False,
    ) -> LowRankOperator:
        seed = (state.seed + state.step) % 2**64
        rank = min(self.rank, calls.d)
        return nystrom(product, calls.d, rank, seed=seed, fd=calls.error, check=check)

    @staticmethod
    def _probe(
        product: Callable[[Vector], Vector], calls: Calls, state: GNSState, name: str
    ) -> None:
        """Refuse a product that is not symmetric, at the first step of a run."""
        if state.step:
            return
        x, y = (random.normal(state.seed, calls.d, stream=_PROBE, counter=i) for i in range(2))
        Ax, Ay = product(x), product(y)
        left, right = float(y @ Ax), float(x @ Ay)
        size = float(
            np.linalg.norm(y) * np.linalg.norm(Ax) + np.linalg.norm(x) * np.linalg.norm(Ay)
        )
        calls.symmetric(name, abs(left - right), size, "|y.Ax - x.Ay|")

    def _custom(self, calls: Calls, made: Any, name: str, state: GNSState) -> tuple[Any, Any]:
        """A model of what a function returned."""
        metric = self._metric
        if isinstance(made, LowRankOperator):
            if tuple(made.U.shape[:-1]) != (calls.d,):
                raise ValueError(
                    f"{name}: expected U of shape ({calls.d}, k), got {tuple(made.U.shape)}"
                )
            if metric.trivial:
                return LowRank(made), None
            U, s = (np.asarray(to_numpy(a), np.float64) for a in (made.U, made.s))
            sigma = float(made.sigma)

            def low_rank(v: Vector) -> Vector:
                return np.asarray(U @ (s * (v @ U)) + sigma * v)

            return Products(metric.product(low_rank), None), None
        if is_array(made):
            return Dense(metric.matrix(calls.matrix(made, name))), None
        apply = made if callable(made) else getattr(made, "matvec", None)
        if not callable(apply):
            raise TypeError(
                f"{name}: expected an array (d, d), a LowRankOperator or a function, "
                f"got {type(made).__name__}"
            )
        product = metric.product(calls.counted(apply))
        self._probe(product, calls, state, name)
        return Products(product, None), None

    def stats(self, state: GNSState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        return {
            "value": state.value,
            "gradient_norm": state.gradient_norm,
            "gamma": state.gamma,
            "n_trials": state.n_trials,
        }

    def minimize(
        self,
        x0: Any,
        *,
        seed: Any = 0,
        progress: bool = False,
        callback: Callable[[int, Any], Any] | None = None,
    ) -> MinimizeResult:
        """Step from `x0`, shape (d,) or (1, d), until converged or `max_iter`; see `minimize`."""
        return drive(
            self, x0, seed=seed, max_iter=self.max_iter, progress=progress, callback=callback
        )


class NormalizedGradient(GNS):
    """Gradient descent with the step rule of `GNS`: the same method with H = 0.

    A step is ``-(gamma / |g|) B^-1 g``, whose length gamma doubles and halves by the same test.

    Parameters
    ----------
    objective : object
        With ``value(x)`` and ``gradient(x)``, x (d,); see `Objective`.
    gamma0, metric, grad_tol, max_iter, f_star, value_tol
        As for `GNS`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    See Also
    --------
    GNS

    References
    ----------
    .. [1] "Gradient-Normalized Smoothness for Optimization with Approximate Hessians"

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> f = mk.optimizers.LeastSquaresLoss(np.diag([1.0, 2.0]), np.ones(2))
    >>> mk.optimizers.NormalizedGradient(f).minimize(np.zeros(2)).x.round(4)
    array([1. , 0.5])
    """

    def __init__(
        self,
        objective: Any,
        gamma0: float = 1.0,
        metric: Any = None,
        grad_tol: float = 1e-6,
        max_iter: int = 1000,
        *,
        f_star: float | None = None,
        value_tol: float = 1e-8,
    ) -> None:
        super().__init__(
            objective,
            gamma0=gamma0,
            metric=metric,
            grad_tol=grad_tol,
            max_iter=max_iter,
            f_star=f_star,
            value_tol=value_tol,
        )

    def _at(self, calls: Calls, x: Vector, state: GNSState) -> tuple[Any, Any, Any]:
        return Zero(), None, None
