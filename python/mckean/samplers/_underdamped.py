"""Underdamped (kinetic) Langevin chains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, check_finite
from mckean._errors import as_seed, nonnegative, one_of, positive
from mckean.samplers._parts import Noise, Target, starting_points
from mckean.samplers._schemes import SCHEMES, plan
from mckean.stepping import _combine_checked

__all__ = ["UnderdampedLangevin", "UnderdampedState"]

_VELOCITY_STREAM = 0x76656C6F63697479  # "velocity"
_COPY = np.ones((1, 1))


@dataclass(slots=True)
class UnderdampedState:
    """State of `UnderdampedLangevin`: `x`, `v`, shape (n, d), and the counters its noise depends
    on.

    `grad`, shape (n, d), is the gradient at `x` for schemes that use it again, else None.
    """

    x: Any
    v: Any
    grad: Any
    seed: int
    step: int
    n_gradients: int


class UnderdampedLangevin:
    """Underdamped (kinetic) Langevin chain, by one of six splitting schemes.

    Discretises ``dx = v dt, dv = -friction v dt + u grad log p(x) dt + sqrt(2 friction u) dB``,
    whose invariant law is ``p(x) exp(-|v|^2 / (2 u))``. Each step is a few passes over memory plus
    one or two gradients.

    ========== ========= ============ ===================================================
    scheme     gradients strong order remarks
    ========== ========= ============ ===================================================
    "quicsort" 2         3            the most accurate per gradient on smooth targets [1]_
    "should"   2         3            last gradient reused [2]_
    "ubu"      1         2            a good choice with noisy gradients [3]_
    "align"    1         2            last gradient reused [1]_
    "baoab"    1         1            exact variance of x on Gaussian targets [4]_
    "ee"       1         1            gradient frozen over the step [5]_
    ========== ========= ============ ===================================================

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. It must return a new array each time.
    step : float
        Step size h > 0.
    friction : float
        Friction >= 0; at 0 the chain is a Hamiltonian flow.
    u : float
        Inverse mass > 0.
    scheme : str
        One of the table above.
    controller : None
        Only None, a constant step, is supported in this version.
    noise : {"tree", "counter"} or object
        One Brownian tree per seed (at most 2**30 steps), or independent noise per step (cheaper,
        the same law), or an object with ``increment(s, t)`` returning W, H and K as the scheme
        needs, such as a `mckean.BrownianTree`: step k then uses its increment over ``[t0 + k h, t0
        + (k + 1) h]``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    Langevin, MALA

    Notes
    -----
    Deterministic given the seed; the number of threads does not matter. Coefficients are computed
    in float64 for every ``friction * step``, including 0. If particles diverge, `mckean.run`
    returns ``converged=False``.

    References
    ----------
    .. [1] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and
       integrals for adaptive and high order SDE solvers", 2024, arXiv:2405.06464
    .. [2] J. Foster, T. Lyons, H. Oberhauser, "The shifted ODE method for underdamped Langevin
       MCMC", 2021, arXiv:2101.03446
    .. [3] J. M. Sanz-Serna, K. Zygalakis, "Wasserstein distance estimates for the distributions of
       numerical approximations to ergodic stochastic differential equations", JMLR 22(242), 2021
    .. [4] B. Leimkuhler, C. Matthews, "Rational construction of stochastic numerical methods for
       molecular sampling", 2013, arXiv:1203.5428
    .. [5] X. Cheng, N. Chatterji, P. Bartlett, M. Jordan, "Underdamped Langevin MCMC: a
       non-asymptotic analysis", 2018, arXiv:1707.03663

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.UnderdampedLangevin(lambda x: -x, step=0.2)
    >>> result = mk.run(chain, np.zeros((200, 2)), 400, burn_in=100, seed=1, progress=False)
    >>> round(float(result.x.var()), 1), result.n_gradient_evaluations
    (1.0, 800)
    """

    def __init__(
        self,
        target: Any,
        step: float,
        *,
        friction: float = 1.0,
        u: float = 1.0,
        scheme: str = "quicsort",
        controller: None = None,
        noise: Any = "tree",
    ) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self.friction, self.u = nonnegative(friction, "friction"), positive(u, "u")
        self.scheme = one_of(scheme, "scheme", tuple(SCHEMES))
        if controller is not None:
            raise ValueError(
                f"controller: expected None (constant step) in this version, "
                f"got {type(controller).__name__}"
            )
        self._target = Target(target)
        self._fsal = SCHEMES[scheme].fsal
        self._noise = Noise(noise, self.step_size, SCHEMES[scheme].noise)
        self._plan = plan(scheme, self.step_size, self.friction, self.u, self._noise.factor)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "target": self.target,
            "step": self.step_size,
            "friction": self.friction,
            "u": self.u,
            "scheme": self.scheme,
            "noise": self._noise.source,
        }

    def init(self, x0: Any, seed: Any = 0, *, v0: Any = None) -> UnderdampedState:
        """Return the state at `x0`, shape (n, d), with velocities `v0` or drawn from ``N(0, u
        I)``."""
        seed = as_seed(seed)
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0].result()
        if v0 is None:
            scale = np.array([math.sqrt(self.u)])
            v = _combine_checked(
                x, 0.0 * _COPY, [x.data], noise=scale, seed=seed, stream=_VELOCITY_STREAM
            )
        else:
            given = as_match(v0, "v0", x, "x0")
            check_finite(given, "v0")
            v = _combine_checked(x, _COPY, [given.data])
        grad = None
        if self._fsal:
            g = self._target.gradient(copy, x)
            check_finite(g, "grad_log_density(x0)")
            grad = g.array
        return UnderdampedState(copy, v[0].result(), grad, seed, 0, int(self._fsal))

    def step(self, state: UnderdampedState) -> UnderdampedState:
        """Return the state one step later; `state` stays as it is."""
        p = self._plan
        x = as_input(state.x, "state.x", shape=("n", "d"))
        known = {"x": x.data, "v": as_match(state.v, "state.v", x, "state.x").data}
        held: list[Input] = []
        if self._fsal:
            held.append(as_match(state.grad, "state.grad", x, "state.x"))
            known["g0"] = held[0].data
        if "W" in p.base_names or "H" in p.base_names or "K" in p.base_names:
            known.update(zip("WHK", self._noise.draw(x, state.seed, state.step), strict=False))
        rows = _combine_checked(x, p.base, [known[name] for name in p.base_names])
        stages, last = rows[: p.n_stages], rows[p.n_stages :]
        gradients: list[Any] = []
        position: Any = None
        for stage, update in zip(stages, p.stage_updates, strict=True):
            if update is not None:
                data = [stage.data, *(g.data for g in gradients)]
                _combine_checked(x, update, data, outs=[stage])
            position = stage.result()
            gradients.append(self._target.gradient(position, x, held=held + gradients))
        if p.final_names:
            data = [*(row.data for row in last), *(gradients[i].data for i in p.final_names)]
            _combine_checked(x, p.final_update, data, outs=last)
        if not self._fsal:
            position = last[0].result()
        return UnderdampedState(
            position,
            last[-1].result(),
            gradients[-1].array if self._fsal else None,
            state.seed,
            state.step + 1,
            state.n_gradients + p.n_stages,
        )
