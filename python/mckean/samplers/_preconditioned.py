"""Langevin chains in the metric of a low-rank model of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import as_input, as_match, check_finite, to_numpy
from mckean._errors import as_seed, positive
from mckean.samplers._parts import Target, starting_points
from mckean.samplers._underdamped import UnderdampedLangevin, UnderdampedState
from mckean.samplers._whitening import (
    SQRT_MATVEC,
    SQRT_SOLVE,
    Whitening,
    adjusted_move,
    start_block,
    unadjusted_move,
)
from mckean.stepping import _combine_checked

__all__ = [
    "PreconditionedLangevin",
    "PreconditionedLangevinState",
    "PreconditionedMALA",
    "PreconditionedMALAState",
    "PreconditionedUnderdampedLangevin",
    "PreconditionedUnderdampedState",
]

_COPY = np.ones((1, 1))


@dataclass(slots=True)
class PreconditionedLangevinState:
    """State of `PreconditionedLangevin`: `x`, shape (n, d), and the counters its noise depends
    on."""

    x: Any
    seed: int
    step: int
    n_gradients: int


class PreconditionedLangevin:
    """Unadjusted Langevin chain preconditioned by a low-rank model of the Hessian.

    With ``P = (U diag(s) U^T + t I)^-1``, ``t = damping + model.sigma``::

        x' = x + h P grad log p(x) + sqrt(2 h) P^(1/2) N(0, I)

    One gradient per step and one pass over the particles in which U is read twice, O(n d k). The step
    is limited by the curvature that the model leaves, ``h max(P H) < 2``, rather than by that of the
    target.

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. It must return a new array each time.
    step : float
        Step size h > 0, in units in which the model is the identity: 0.1 to 0.5 is usual.
    model : mckean.lowrank.LowRankOperator
        Of the negative Hessian of the log density, from `mckean.lowrank.lanczos` or `nystrom` for
        instance; of any framework, converted to that of the particles once. A batch of n models is one
        for each particle. It must not depend on the particles it moves: take it at a fixed point, or
        see `LevenbergMarquardtLangevin`.
    damping : float
        Added to the model, >= 0. Without ``model.sigma`` it stands for the curvature in all the
        directions that the model leaves out, and must be positive.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or the damped model is not positive
        definite.

    See Also
    --------
    PreconditionedMALA, PreconditionedUnderdampedLangevin, LevenbergMarquardtLangevin

    Notes
    -----
    On a Gaussian target, along a common eigenvector with curvature a of the target and q of P, the
    stationary variance is ``1 / (a (1 - h q a / 2))``. Deterministic given the seed; the number of
    threads does not matter. If particles diverge, `mckean.run` returns ``converged=False``.

    References
    ----------
    .. [1] J. Martin, L. Wilcox, C. Burstedde, O. Ghattas, "A stochastic Newton MCMC method for
       large-scale statistical inverse problems with application to seismic inversion", SIAM Journal on
       Scientific Computing 34, 2012

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.array([1000.0, 1.0, 1.0])
    >>> target = mk.targets.Gaussian(np.zeros(3), precision=a)
    >>> model = mk.lowrank.lanczos(np.diag(a - 1.0), 3, rank=1)
    >>> chain = mk.samplers.PreconditionedLangevin(target, 0.3, model, damping=1.0)
    >>> x = mk.run(chain, np.zeros((4000, 3)), 40, progress=False).state.x
    >>> (x.var(0) * a).round(1)  # 1 / (1 - 0.3 / 2)
    array([1.2, 1.2, 1.2])
    """

    def __init__(self, target: Any, step: float, model: Any, damping: float = 0.0) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = Target(target)
        self._model = Whitening(model, damping)
        self.model, self.damping = model, self._model.damping

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {"target": self.target, "step": self.step_size, **self._model.config()}

    def init(self, x0: Any, seed: Any = 0) -> PreconditionedLangevinState:
        """Return the state at `x0`, shape (n, d)."""
        x = starting_points(x0)
        self._model.at(x)
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return PreconditionedLangevinState(copy.result(), as_seed(seed), 0, 0)

    def step(self, state: PreconditionedLangevinState) -> PreconditionedLangevinState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        g = self._target.gradient(x.array, x)
        out = unadjusted_move(self._model.at(x), x, g, self.step_size, state.seed, state.step)
        return PreconditionedLangevinState(out, state.seed, state.step + 1, state.n_gradients + 1)


@dataclass(slots=True)
class PreconditionedMALAState:
    """State of `PreconditionedMALA`.

    `x`, shape (n, d); `w` and `grad`, the positions and the gradient in whitened coordinates,
    ``M^(1/2) x`` and ``M^(-1/2) grad log p``; `log_density`, `accepted` (uint8) (n,); and counters.
    """

    x: Any
    w: Any
    grad: Any
    log_density: Any
    accepted: Any
    seed: int
    step: int
    n_gradients: int


class PreconditionedMALA:
    """Metropolis-adjusted Langevin chain preconditioned by a low-rank model of the Hessian.

    The step of `PreconditionedLangevin` is a proposal, accepted per particle with probability
    ``min(1, p(x') q(x | x') / (p(x) q(x' | x)))``, where with ``M = U diag(s) U^T + t I``::

        log q(x' | x) = -r^T M r / (4 h) + const,   r = x' - x - h M^-1 grad log p(x)

    so the target is invariant for every h and every model. One gradient and one log density per step.
    Proposals that are not finite are rejected.

    Parameters
    ----------
    target : object
        With ``log_density(x)``, (n, d) to (n,), up to a constant, and ``grad_log_density(x)``, (n, d) to
        (n, d), in the framework, dtype and device of ``x``. They must return new arrays each time.
    step : float
        Step size h > 0.
    model : mckean.lowrank.LowRankOperator
        See `PreconditionedLangevin`.
    damping : float
        Added to the model, >= 0.

    Raises
    ------
    TypeError
        If `target` lacks ``log_density`` or ``grad_log_density``, or `model` is not a low-rank model.
    ValueError
        If `step` is not positive, or the damped model is not positive definite.

    See Also
    --------
    PreconditionedLangevin, MALA, LevenbergMarquardtLangevin

    Notes
    -----
    Computed as `MALA` in the coordinates ``w = M^(1/2) x``, where M is the identity: the state holds w,
    and x is ``M^(-1/2) w`` to the last bit, so `x` may differ from the start by its rounding.
    ``result.stats`` has "acceptance_rate" and "accepted", shape (n_saved, n). The acceptance test is
    computed in float64. Deterministic given the seed.

    References
    ----------
    .. [1] M. Girolami, B. Calderhead, "Riemann manifold Langevin and Hamiltonian Monte Carlo methods",
       Journal of the Royal Statistical Society B 73, 2011, doi:10.1111/j.1467-9868.2010.00765.x

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.array([1000.0, 1.0, 1.0])
    >>> target = mk.targets.Gaussian(np.zeros(3), precision=a)
    >>> model = mk.lowrank.lanczos(np.diag(a - 1.0), 3, rank=1)
    >>> chain = mk.samplers.PreconditionedMALA(target, 0.5, model, damping=1.0)
    >>> result = mk.run(chain, np.zeros((2000, 3)), 60, burn_in=30, thin=3, progress=False)
    >>> (result.x.reshape(-1, 3).var(0) * a).round(1)
    array([1., 1., 1.])
    """

    def __init__(self, target: Any, step: float, model: Any, damping: float = 0.0) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = Target(target, needs_density_for="PreconditionedMALA")
        self._model = Whitening(model, damping)
        self.model, self.damping = model, self._model.damping

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {"target": self.target, "step": self.step_size, **self._model.config()}

    def init(self, x0: Any, seed: Any = 0) -> PreconditionedMALAState:
        """Return the state at `x0`, shape (n, d), where density and gradient must be finite."""
        x = starting_points(x0)
        b = start_block(self._model.at(x), self._target, x, "x0")
        return PreconditionedMALAState(
            b.x, b.w, b.grad, b.log_density, b.accepted, as_seed(seed), 0, 1
        )

    def step(self, state: PreconditionedMALAState) -> PreconditionedMALAState:
        """Return the state one step later; `state` stays as it is."""
        w = as_input(state.w, "state.w", shape=("n", "d"))
        g = as_match(state.grad, "state.grad", w, "state.w")
        density = as_match(state.log_density, "state.log_density", w, "state.w", shape=w.shape[:1])
        metric = self._model.at(w)
        b = adjusted_move(
            metric, self._target, w, g, density, self.step_size, state.seed, state.step
        )
        return PreconditionedMALAState(
            b.x,
            b.w,
            b.grad,
            b.log_density,
            b.accepted,
            state.seed,
            state.step + 1,
            state.n_gradients + 1,
        )

    def stats(self, state: PreconditionedMALAState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        accepted = to_numpy(state.accepted)
        return {"acceptance_rate": float(accepted.mean()), "accepted": accepted.astype(bool)}


@dataclass(slots=True)
class PreconditionedUnderdampedState:
    """State of `PreconditionedUnderdampedLangevin`.

    `x`, shape (n, d); `w`, `v` and `grad` (or None), position, velocity and gradient in whitened
    coordinates, ``M^(1/2) x``, ``M^(1/2) dx/dt`` and ``M^(-1/2) grad log p``; and counters.
    """

    x: Any
    w: Any
    v: Any
    grad: Any
    seed: int
    step: int
    n_gradients: int


class _WhitenedTarget:
    """The target in the coordinates w = M^(1/2) x."""

    def __init__(self, target: Target, model: Whitening) -> None:
        self._target, self._model = target, model
        self._last: tuple[Any, Any] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": (None, None)}

    def position(self, w: Any) -> Any:
        """x of w; of the last one without computing it again."""
        last = self._last  # one read: another thread may be stepping the same chain
        if last[0] is w:
            return last[1]
        at = as_input(w, "w")
        return self._model.at(at).apply(SQRT_SOLVE, at)

    def grad_log_density(self, w: Any) -> Any:
        at = as_input(w, "w")
        metric = self._model.at(at)
        x = metric.apply(SQRT_SOLVE, at)
        self._last = (w, x)
        return metric.apply(SQRT_SOLVE, self._target.gradient(x, at))


class PreconditionedUnderdampedLangevin:
    """Underdamped Langevin chain whose mass is a low-rank model of the Hessian.

    ``dx = M^-1 p dt, dp = grad log p(x) dt - friction p dt + sqrt(2 friction) M^(1/2) dB`` with the mass
    ``M = U diag(s) U^T + t I``, ``t = damping + model.sigma``. In the coordinates ``w = M^(1/2) x`` this
    is the chain of `UnderdampedLangevin` with the gradient ``M^(-1/2) grad log p``, so every scheme of
    it applies, with its order. Besides, each gradient costs two products with the model, O(n d k).

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself; see `PreconditionedLangevin`.
    step : float
        Step size h > 0.
    model : mckean.lowrank.LowRankOperator
        See `PreconditionedLangevin`.
    friction : float
        Friction >= 0.
    scheme : str
        A scheme of `UnderdampedLangevin`.
    damping : float
        Added to the model, >= 0.
    noise : {"tree", "counter"} or object
        See `UnderdampedLangevin`; it drives the whitened coordinates.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or the damped model is not positive
        definite.

    See Also
    --------
    UnderdampedLangevin, PreconditionedMALA

    Notes
    -----
    Deterministic given the seed. If particles diverge, `mckean.run` returns ``converged=False``.

    References
    ----------
    .. [1] M. Girolami, B. Calderhead, "Riemann manifold Langevin and Hamiltonian Monte Carlo methods",
       Journal of the Royal Statistical Society B 73, 2011, doi:10.1111/j.1467-9868.2010.00765.x

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.array([1000.0, 1.0, 1.0])
    >>> target = mk.targets.Gaussian(np.zeros(3), precision=a)
    >>> model = mk.lowrank.lanczos(np.diag(a - 1.0), 3, rank=1)
    >>> chain = mk.samplers.PreconditionedUnderdampedLangevin(target, 0.5, model, damping=1.0)
    >>> result = mk.run(chain, np.zeros((2000, 3)), 60, burn_in=30, thin=3, progress=False)
    >>> (result.x.reshape(-1, 3).var(0) * a).round(1)
    array([1., 1., 1.])
    """

    def __init__(
        self,
        target: Any,
        step: float,
        model: Any,
        *,
        friction: float = 1.0,
        scheme: str = "quicsort",
        damping: float = 0.0,
        noise: Any = "tree",
    ) -> None:
        self.target = target
        self._model = Whitening(model, damping)
        self.model, self.damping = model, self._model.damping
        self._whitened = _WhitenedTarget(Target(target), self._model)
        self._chain = UnderdampedLangevin(
            self._whitened, step, friction=friction, scheme=scheme, noise=noise
        )
        self.step_size, self.friction = self._chain.step_size, self._chain.friction
        self.scheme = scheme

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {**self._chain.config(), "target": self.target, **self._model.config()}

    def init(self, x0: Any, seed: Any = 0, *, v0: Any = None) -> PreconditionedUnderdampedState:
        """Return the state at `x0`, shape (n, d), with velocities ``dx/dt`` `v0` or drawn from
        ``N(0, M^-1)``."""
        x = starting_points(x0)
        metric = self._model.at(x)
        w = metric.apply(SQRT_MATVEC, x)
        if v0 is not None:
            given = as_match(v0, "v0", x, "x0")
            check_finite(given, "v0")
            v0 = metric.apply(SQRT_MATVEC, given)
        return self._wrap(self._chain.init(w, seed, v0=v0))

    def step(self, state: PreconditionedUnderdampedState) -> PreconditionedUnderdampedState:
        """Return the state one step later; `state` stays as it is."""
        inner = UnderdampedState(
            state.w, state.v, state.grad, state.seed, state.step, state.n_gradients
        )
        return self._wrap(self._chain.step(inner))

    def _wrap(self, s: UnderdampedState) -> PreconditionedUnderdampedState:
        x = self._whitened.position(s.x)
        return PreconditionedUnderdampedState(x, s.x, s.v, s.grad, s.seed, s.step, s.n_gradients)
