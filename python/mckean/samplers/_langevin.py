"""Overdamped Langevin chains, unadjusted and Metropolis-adjusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import as_seed, positive
from mckean.samplers._elementwise import Maths
from mckean.samplers._parts import PROPOSAL_STREAM, Noise, Target, starting_points
from mckean.stepping import _combine_checked

__all__ = ["MALA", "Langevin", "LangevinState", "MALAState"]

_COPY = np.ones((1, 1))


@dataclass(slots=True)
class LangevinState:
    """State of `Langevin`: `x`, shape (n, d), and the counters its noise depends on."""

    x: Any
    seed: int
    step: int
    n_gradients: int


class Langevin:
    """Unadjusted Langevin chain.

    ``x' = x + h grad log p(x) + sqrt(2 h) N(0, I)``: one gradient per step, weak order 1, no
    rejection. The stationary law has a bias of order h: on ``N(0, 1/w)`` the variance is ``1 / (w
    (1 - h w / 2))``.

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. It must return a new array each time.
    step : float
        Step size h > 0.
    noise : {"counter", "normal", "rademacher", "uniform", "tree"} or object
        Independent noise per step, of unit variance: normal ("counter" and "normal" are the same),
        signs ("rademacher"), or uniform on ``[-sqrt(3), sqrt(3)]``; or one Brownian tree per seed;
        or an object with ``increment(s, t)``, such as a `mckean.BrownianTree`, which then drives the
        chain.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    MALA, UnderdampedLangevin

    Notes
    -----
    Deterministic given the seed; the number of threads does not matter. If particles diverge (h too
    large for the curvature), `mckean.run` returns ``converged=False``.

    With noise that is not normal the chain is an Ito chain [2]_: as h tends to 0 its law tends to
    the same density. On ``N(0, 1/w)``, with ``a = 1 - h w``, the variance is the one above for every
    noise, and the excess kurtosis is ``(1 - a^2) / (1 + a^2)`` times that of the noise: -2 for signs,
    -1.2 for uniform.

    References
    ----------
    .. [1] G. Roberts, R. Tweedie, "Exponential convergence of Langevin distributions and their
       discrete approximations", Bernoulli 2, 1996, doi:10.2307/3318418
    .. [2] A. Ustimenko, A. Beznosikov, "Ito diffusion approximation of universal Ito chains for
       sampling, optimization and boosting", 2023, arXiv:2310.06081

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.Langevin(lambda x: -x, step=0.1)
    >>> state = chain.init(np.zeros((4, 2)), seed=1)
    >>> chain.step(state).x.shape
    (4, 2)
    """

    def __init__(self, target: Any, step: float, *, noise: Any = "counter") -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = Target(target)
        self._signs = noise if isinstance(noise, str) and noise in ("rademacher", "uniform") else ""
        if (isinstance(noise, str) and noise == "normal") or self._signs:
            self._noise = Noise("counter", self.step_size, 1)
        else:
            self._noise = Noise(noise, self.step_size, 1)
        h = self.step_size
        if self._fused:
            self._table, self._scale = np.array([[1.0, h]]), np.array([math.sqrt(2.0 * h)])
        else:
            self._table = np.array([[1.0, h, math.sqrt(2.0) * self._noise.factor]])

    @property
    def _fused(self) -> bool:
        source = self._noise.source
        return not self._signs and isinstance(source, str) and source == "counter"

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        noise = self._signs or self._noise.source
        return {"target": self.target, "step": self.step_size, "noise": noise}

    def _draw(self, x: Input, state: LangevinState) -> list[Any]:
        """Noise of unit variance, or the increment of a path."""
        if not self._signs:
            return self._noise.draw(x, state.seed, state.step)
        u = random.uniform(
            state.seed,
            x.shape,
            stream=PROPOSAL_STREAM,
            counter=state.step,
            dtype=x.dtype,
            like=x.array,
        )
        # Halves of [0, 1) hold equally many of the generator's numbers.
        if self._signs == "rademacher":
            xi = 2.0 * Maths(x).xp.floor(2.0 * u) - 1.0
        else:
            xi = math.sqrt(12.0) * u - math.sqrt(3.0)
        return [as_match(xi, "noise", x, "x").data]

    def init(self, x0: Any, seed: Any = 0) -> LangevinState:
        """Return the state at `x0`, shape (n, d)."""
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return LangevinState(copy.result(), as_seed(seed), 0, 0)

    def step(self, state: LangevinState) -> LangevinState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        g = self._target.gradient(x.array, x)
        if self._fused:
            out = _combine_checked(
                x,
                self._table,
                [x.data, g.data],
                noise=self._scale,
                seed=state.seed,
                stream=PROPOSAL_STREAM,
                counter=state.step,
            )
        else:
            noise = self._draw(x, state)
            out = _combine_checked(x, self._table, [x.data, g.data, *noise])
        return LangevinState(out[0].result(), state.seed, state.step + 1, state.n_gradients + 1)


@dataclass(slots=True)
class MALAState:
    """State of `MALA`: `x`, `grad` (n, d); `log_density`, `accepted` (uint8) (n,); and counters."""

    x: Any
    grad: Any
    log_density: Any
    accepted: Any
    seed: int
    step: int
    n_gradients: int


class MALA:
    """Metropolis-adjusted Langevin chain.

    The proposal ``x' = x + h grad log p(x) + sqrt(2 h) N(0, I)`` is accepted, per particle, with
    probability ``min(1, p(x') q(x | x') / (p(x) q(x' | x)))``, so the target is invariant for every
    h. One gradient and one log density per step. Proposals that are not finite are rejected.

    Parameters
    ----------
    target : object
        With ``log_density(x)``, (n, d) to (n,), up to a constant, and ``grad_log_density(x)``, (n,
        d) to (n, d), in the framework, dtype and device of ``x``. They must return new arrays each
        time.
    step : float
        Step size h > 0. The most efficient one accepts about 57 % of the proposals.

    Raises
    ------
    TypeError
        If `target` lacks ``log_density`` or ``grad_log_density``.
    ValueError
        If `step` is not positive.

    See Also
    --------
    Langevin, UnderdampedLangevin

    Notes
    -----
    ``result.stats`` has "acceptance_rate", the share of particles that moved in the saved step, and
    "accepted", shape (n_saved, n). The acceptance test is computed in float64. Deterministic given
    the seed.

    References
    ----------
    .. [1] G. Roberts, R. Tweedie, "Exponential convergence of Langevin distributions and their
       discrete approximations", Bernoulli 2, 1996, doi:10.2307/3318418

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> class Normal:
    ...     def log_density(self, x):
    ...         return -0.5 * (x**2).sum(axis=1)
    ...     def grad_log_density(self, x):
    ...         return -x
    >>> chain = mk.samplers.MALA(Normal(), 0.3)
    >>> result = mk.run(chain, np.zeros((50, 2)), 200, seed=1, progress=False)
    >>> bool(result.stats["acceptance_rate"].mean() > 0.8)
    True
    """

    def __init__(self, target: Any, step: float) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = Target(target, needs_density_for="MALA")
        self._table = np.array([[1.0, self.step_size]])
        self._scale = np.array([math.sqrt(2.0 * self.step_size)])

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {"target": self.target, "step": self.step_size}

    def init(self, x0: Any, seed: Any = 0) -> MALAState:
        """Return the state at `x0`, shape (n, d), where density and gradient must be finite."""
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0].result()
        g = self._target.gradient(copy, x)
        check_finite(g, "grad_log_density(x0)")
        density = self._target.log_density(copy, x)
        check_finite(density, "log_density(x0)")
        accepted = x.framework.asarray(np.zeros(x.shape[0], np.uint8), x.device)
        return MALAState(copy, g.array, density.array, accepted, as_seed(seed), 0, 1)

    def step(self, state: MALAState) -> MALAState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        g = as_match(state.grad, "state.grad", x, "state.x")
        density = as_match(state.log_density, "state.log_density", x, "state.x", shape=x.shape[:1])
        proposal = _combine_checked(
            x,
            self._table,
            [x.data, g.data],
            noise=self._scale,
            seed=state.seed,
            stream=PROPOSAL_STREAM,
            counter=state.step,
        )[0].result()
        y = as_input(proposal, "proposal")
        g_y = self._target.gradient(proposal, x, held=[g])
        density_y = self._target.log_density(proposal, x)

        def empty(shape: tuple[int, ...], dtype: str) -> Any:
            return x.framework.empty(shape, dtype, x.device)

        x_new, g_new = empty(x.shape, x.dtype), empty(x.shape, x.dtype)
        density_new, accepted = empty(x.shape[:1], x.dtype), empty(x.shape[:1], "uint8")
        executor(x.device).metropolis(
            x.data,
            y.data,
            g.data,
            g_y.data,
            density.data,
            density_y.data,
            self.step_size,
            state.seed,
            state.step,
            x_new.data,
            g_new.data,
            density_new.data,
            accepted.data,
            x.framework.queue(x.device),
        )
        return MALAState(
            x_new.result(),
            g_new.result(),
            density_new.result(),
            accepted.result(),
            state.seed,
            state.step + 1,
            state.n_gradients + 1,
        )

    def stats(self, state: MALAState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        accepted = to_numpy(state.accepted)
        return {"acceptance_rate": float(accepted.mean()), "accepted": accepted.astype(bool)}
