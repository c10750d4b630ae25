"""The stochastic Newton method with filtered gradients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean import random
from mckean._array import to_numpy
from mckean._errors import as_count, as_real, as_seed, nonnegative, positive
from mckean.optimizers._objective import Calls, Counts, Vector, starting_point

__all__ = ["FilteredNewton", "FilteredNewtonState"]

_BATCHES = 0x6E657774626174  # the stream of batches
_MOST = 4096  # the largest d: a state holds a dense (d, d) matrix


@dataclass(slots=True)
class FilteredNewtonState:
    """State of `FilteredNewton`.

    ``x`` has the shape of ``x0``. ``mean`` (d,) and ``covariance`` (d, d) are the filtered gradient
    and its covariance after the last batch, ``direction`` (d,) the last direction before it was cut
    to ``step_length``. ``value`` and ``gradient_norm`` are of the last batch before the step, and
    ``momentum`` is the largest eigenvalue of the factor on the previous direction.
    """

    x: Any
    mean: Any
    covariance: Any
    direction: Any
    value: float
    gradient_norm: float
    step_length: float
    momentum: float
    seed: int
    step: int
    n_values: int
    n_gradients: int
    n_hessians: int


class FilteredNewton:
    """Stochastic Newton steps with a filtered gradient: batch Newton with matrix momentum.

    The gradient is a hidden state ``z' = alpha z + N(0, beta I)``, and a batch's gradient g an
    observation of it whose covariance is the batch's Hessian H. With ``M = alpha^2 Sigma + beta I``
    and ``S = beta / (1 - alpha^2) I``, filtering gives

    ``Sigma'^-1 = M^-1 + Q^-1 - S^-1``, ``mu' = Sigma' (alpha M^-1 mu + Q^-1 g)``,

    with Q = H, or ``(H^-1 + S^-1)^-1`` where H is not below S, and the direction is ``p' = -Sigma'^-1
    mu'``. The same thing without the mean: ``p' = -Q^-1 g + alpha M^-1 Sigma p``, Newton's direction
    plus momentum. The step is the first of 1, 1/2, ..., 1/16 times p' with ``f(x + a p') - f(x) <=
    armijo a g^T p'`` on the batch, else the last. O(d^3) per step and O(d^2) memory.

    Parameters
    ----------
    objective : object
        With ``n_samples`` and ``batch(index)``, which returns the objective of these samples, with
        ``value``, ``gradient`` and ``hessian``: a loss of this package, or `SampledObjective`.
    batch_size : int
        Samples per step.
    batches : sequence of integer arrays, optional
        The batches to use, in turn. By default each step draws its own, without repetition within
        the batch.
    alpha : float
        Memory, in [0, 1). With 0 and a large `beta` this is the plain stochastic Newton method.
    beta : float
        Variance of the drift of the gradient, positive.
    armijo : float
        Share of the predicted decrease that a step must bring.
    halvings : int
        How often a step is halved at most.
    ridge : float
        Added to the diagonal of the batch Hessian.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range, or a batch Hessian is not positive definite.
    FloatingPointError
        If a batch's value or gradient is not finite at the current point.

    Warns
    -----
    RuntimeWarning
        If ``beta <= alpha (1 - alpha) sigma`` for an eigenvalue sigma of Sigma: momentum then grows
        along its direction.

    See Also
    --------
    SampledObjective, GNS

    Notes
    -----
    The published ``armijo=0.95`` is so strict that on a quadratic a Newton step is always cut to
    1/16. Filtering needs such small steps: with 1e-4 in its place the plain stochastic Newton method
    ends nearer to the optimum. ``result.stats`` of `mckean.run` has "value", "gradient_norm" (of the
    batches), "step_length" and "momentum". Deterministic given the seed.

    References
    ----------
    .. [1] "Discriminative Bayesian filtering lends momentum to the stochastic Newton method for
       minimizing log-convex functions"

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> X = mk.random.normal(0, (500, 3))
    >>> loss = mk.optimizers.LeastSquaresLoss(X, X @ np.array([1.0, -2.0, 0.5]))
    >>> method = mk.optimizers.FilteredNewton(loss, batch_size=20)
    >>> result = mk.run(method, np.zeros((1, 3)), 60, progress=False)
    >>> result.x[-1].round(1)
    array([[ 1. , -2. ,  0.5]])
    """

    def __init__(
        self,
        objective: Any,
        batch_size: int | None = None,
        *,
        batches: Sequence[Any] | None = None,
        alpha: float = 0.9,
        beta: float = 0.2,
        armijo: float = 0.95,
        halvings: int = 4,
        ridge: float = 1e-12,
    ) -> None:
        if not callable(getattr(objective, "batch", None)):
            raise TypeError(
                f"objective: expected an object with batch(index), "
                f"{type(objective).__name__} has none"
            )
        if (batch_size is None) == (batches is None):
            raise ValueError("batch_size: expected either batch_size or batches")
        self.objective, self.batch_size = objective, None
        if batch_size is not None:
            if not hasattr(objective, "n_samples"):
                raise TypeError(
                    f"objective: expected an object with n_samples, for batches to be drawn, "
                    f"{type(objective).__name__} has none"
                )
            n = as_count(objective.n_samples, "objective.n_samples", least=1)
            self.batch_size = as_count(batch_size, "batch_size", least=1)
            if self.batch_size > n:
                raise ValueError(f"batch_size: expected at most {n} samples, got {batch_size}")
        self.batches = None if batches is None else [np.asarray(b) for b in batches]
        if self.batches is not None and not self.batches:
            raise ValueError("batches: expected at least one batch, got none")
        self.alpha = nonnegative(alpha, "alpha")
        if self.alpha >= 1:
            raise ValueError(f"alpha: expected a number in [0, 1), got {self.alpha}")
        self.beta, self.armijo = positive(beta, "beta"), as_real(armijo, "armijo")
        if not 0 <= self.armijo < 1:
            raise ValueError(f"armijo: expected a number in [0, 1), got {self.armijo}")
        self.halvings = as_count(halvings, "halvings")
        self.ridge = nonnegative(ridge, "ridge")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        names = ("objective", "batch_size", "batches", "alpha", "beta", "armijo", "halvings")
        return {name: getattr(self, name) for name in (*names, "ridge")}

    def init(self, x0: Any, seed: Any = 0) -> FilteredNewtonState:
        """Return the state at `x0`, shape (d,) or (1, d)."""
        like, shape = starting_point(x0)
        d = shape[-1]
        if d > _MOST:
            raise ValueError(f"x0: expected at most {_MOST} coordinates, got {d}")
        x = Calls(self._batch(0, as_seed(seed)), like, Counts()).point(
            np.array(to_numpy(like.array), np.float64).reshape(-1)
        )
        zero = np.zeros(d)
        return FilteredNewtonState(
            x=x.reshape(shape),
            mean=zero,
            covariance=np.zeros((d, d)),
            direction=zero.copy(),
            value=math.nan,
            gradient_norm=math.nan,
            step_length=0.0,
            momentum=0.0,
            seed=as_seed(seed),
            step=0,
            n_values=0,
            n_gradients=0,
            n_hessians=0,
        )

    def _batch(self, step: int, seed: int) -> Any:
        if self.batches is not None:
            return self.objective.batch(self.batches[step % len(self.batches)])
        n, b = int(self.objective.n_samples), int(self.batch_size or 1)
        keys = random.uniform(seed, (n,), stream=_BATCHES, counter=step)
        return self.objective.batch(np.sort(np.argpartition(keys, b - 1)[:b]))

    def step(self, state: FilteredNewtonState) -> FilteredNewtonState:
        """Return the state after one batch; `state` stays as it is."""
        like, shape = starting_point(state.x)
        x = np.array(to_numpy(like.array), np.float64).reshape(-1)
        counts = Counts(state.n_values, state.n_gradients, state.n_hessians)
        calls = Calls(self._batch(state.step, state.seed), like, counts)
        value, g = calls.value_and_gradient(x)
        if not (math.isfinite(value) and np.isfinite(g).all()):
            raise FloatingPointError(f"gradient: not finite for the batch of step {state.step}")
        h, V = np.linalg.eigh(calls.hessian(x))
        h += self.ridge
        if h[0] <= 0:
            raise ValueError(
                f"hessian: expected a positive definite matrix for the batch of step {state.step}, "
                f"got least eigenvalue {h[0]:.3g}; a larger ridge helps"
            )
        if state.step == 0:
            direction = -(V @ ((V.T @ g) / h))
            covariance, mean = (V * h) @ V.T, g
        else:
            mean, covariance, direction = self._filter(state, g, h, V)
        largest = float(np.linalg.eigvalsh(covariance)[-1])
        momentum = self.alpha * largest / (self.alpha**2 * largest + self.beta)
        if momentum >= 1:
            warnings.warn(
                f"FilteredNewton: beta = {self.beta:.3g} is not above alpha (1 - alpha) sigma = "
                f"{self.alpha * (1 - self.alpha) * largest:.3g}: momentum grows",
                RuntimeWarning,
                stacklevel=2,
            )
        slope, length = float(g @ direction), 1.0
        for k in range(self.halvings + 1):
            length = 0.5**k
            new = calls.value(calls.rounded(x + length * direction))
            if new - value <= self.armijo * length * slope:
                break
        return replace(
            state,
            x=calls.point(x + length * direction).reshape(shape),
            mean=mean,
            covariance=covariance,
            direction=direction,
            value=value,
            gradient_norm=float(np.linalg.norm(g)),
            step_length=length,
            momentum=momentum,
            step=state.step + 1,
            n_values=counts.values,
            n_gradients=counts.gradients,
            n_hessians=counts.hessians,
        )

    def _filter(
        self, state: FilteredNewtonState, g: Vector, h: Vector, V: Vector
    ) -> tuple[Vector, Vector, Vector]:
        """Mean, covariance and direction after the batch with gradient g and Hessian V h V^T."""
        mu, Sigma = (np.asarray(to_numpy(a), np.float64) for a in (state.mean, state.covariance))
        stationary = (1 - self.alpha**2) / self.beta  # S^-1
        admissible = 1 / h[-1] - stationary > 1e-6
        q = 1 / h + (0.0 if admissible else stationary)  # eigenvalues of Q^-1
        s, W = np.linalg.eigh(Sigma)
        m = 1 / (self.alpha**2 * np.maximum(s, 0) + self.beta)  # eigenvalues of M^-1
        direction = -(self.alpha * (W @ (m * (W.T @ mu))) + V @ (q * (V.T @ g)))
        precision = (W * m) @ W.T + (V * (q - stationary)) @ V.T
        theta, P = np.linalg.eigh((precision + precision.T) / 2)
        covariance = (P / theta) @ P.T
        return -(P @ ((P.T @ direction) / theta)), covariance, direction

    def stats(self, state: FilteredNewtonState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        return {
            "value": state.value,
            "gradient_norm": state.gradient_norm,
            "step_length": state.step_length,
            "momentum": state.momentum,
        }
