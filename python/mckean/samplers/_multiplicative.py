"""Multiplicative chains on positive states: geometric Brownian motion with a drift, forwards as a
sampler and backwards as a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import as_real, as_seed, nonnegative, positive
from mckean.samplers._elementwise import Maths
from mckean.samplers._parts import PROPOSAL_STREAM, Target, starting_points
from mckean.stepping import _combine_checked

__all__ = ["GeometricLangevin", "MultiplicativeState", "ReverseGeometricBrownian"]

_COPY = np.ones((1, 1))
_FORWARD_STREAM = 0x67626D  # "gbm": noising must not share draws with the way back


@dataclass(slots=True)
class MultiplicativeState:
    """State of `GeometricLangevin` and `ReverseGeometricBrownian`: `x`, shape (n, d), and the
    counters its noise depends on."""

    x: Any
    seed: int
    step: int
    n_gradients: int


def _signed_points(x0: Any) -> Input:
    x = starting_points(x0)
    zeros = int((x.array == 0).sum())
    if zeros:
        raise ValueError(
            f"x0: expected coordinates that are not zero, since signs never change, got {zeros} zeros"
        )
    return x


def _multiplied(
    x: Input, product: Any, rate: float, drift: float, scale: float, state: MultiplicativeState
) -> Any:
    """``x exp(rate product + drift + scale N(0, I))``, never zero."""
    maths = Maths(x)
    exponent = _combine_checked(
        x,
        np.array([[rate]]),
        [as_match(product, "x * score", x, "x").data],
        noise=np.array([scale]),
        seed=state.seed,
        stream=PROPOSAL_STREAM,
        counter=state.step,
    )[0].result()
    # Far out on an unstable step the factor may underflow; at zero a sign would be lost for ever.
    exponent, floor = exponent + drift, math.log(maths.tiny)
    with np.errstate(over="ignore"):
        out = x.array * maths.xp.exp(maths.xp.where(exponent < floor, floor, exponent))
    small = abs(out) < maths.tiny
    return maths.xp.where(small, maths.xp.sign(x.array) * maths.tiny, out)


class GeometricLangevin:
    """Langevin chain with multiplicative updates for densities of positive states.

    ``x' = x exp(h (x grad log p(x) + 1) + sqrt(2 h) N(0, I))``, coordinate by coordinate: the
    Langevin chain of ``l = log x``, whose density is ``p(x) x`` and whose score therefore ``x grad
    log p(x) + 1``. Signs never change, so negative coordinates work as well.

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself, (n, d) to (n, d): the
        gradient in x (not in log x) of the density in x.
    step : float
        Step size h > 0, in units of log x.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range. `init` raises ValueError for zeros.

    See Also
    --------
    Langevin, ReverseGeometricBrownian, BregmanProximalLangevin

    Notes
    -----
    In x it is Euler's method for ``dX = (2 X + X^2 grad log p) dt + sqrt(2) X dB`` in the sense of
    Ito, exact for the geometric part. The stationary law has a bias of order h. ``exp(-b x)`` tails
    are stiff where ``h b x > 2``. Magnitudes stop at the smallest normal number instead of
    underflowing. Deterministic given the seed.

    References
    ----------
    .. [1] N. Shetty, M. Prasath, C. S. Seelamantula, "Dale meets Langevin: a multiplicative
       denoising diffusion model", 2025, arXiv:2510.02730

    Examples
    --------
    A Gamma density with shape 3 and mean 3:

    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.GeometricLangevin(lambda x: 2 / x - 1, 0.01)
    >>> result = mk.run(chain, np.ones((500, 2)), 400, seed=1, burn_in=300, progress=False)
    >>> bool(result.x.min() > 0), bool(abs(result.x.mean() - 3) < 0.3)
    (True, True)
    """

    def __init__(self, target: Any, step: float) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = Target(target)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {"target": self.target, "step": self.step_size}

    def init(self, x0: Any, seed: Any = 0) -> MultiplicativeState:
        """Return the state at `x0`, shape (n, d), where no coordinate is zero."""
        x = _signed_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return MultiplicativeState(copy.result(), as_seed(seed), 0, 0)

    def step(self, state: MultiplicativeState) -> MultiplicativeState:
        """Return the state one step later; `state` stays as it is."""
        x, h = as_input(state.x, "state.x", shape=("n", "d")), self.step_size
        product = x.array * self._target.gradient(x.array, x).array
        out = _multiplied(x, product, h, h, math.sqrt(2.0 * h), state)
        return MultiplicativeState(out, state.seed, state.step + 1, state.n_gradients + 1)


class ReverseGeometricBrownian:
    """Geometric Brownian motion run backwards in time with a score.

    Forwards, ``dX = drift X dt + volatility X dB`` noises data. Backwards over a step h from time
    t, ``x' = x exp((-drift + 3/2 volatility^2 + volatility^2 x s(x, t)) h + volatility sqrt(h) N(0,
    I))``, with s the score of the noised density at time t. Signs never change.

    Parameters
    ----------
    score : callable
        ``score(x, t)``, (n, d) and a float to (n, d): the gradient in x of the log density at time
        t, in the framework, dtype and device of x.
    times : sequence of float
        From the noisiest time down to the last, strictly decreasing, at least 0.
    drift : float
    volatility : float
        Positive.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range; by `step` beyond the last time; by
        `init` for zeros.

    See Also
    --------
    GeometricLangevin

    Notes
    -----
    Euler's method for the reverse equation of ``log x``, of weak order 1 and strong order 1. Take
    ``len(times) - 1`` steps of `mckean.run`. Deterministic given the seed.

    References
    ----------
    .. [1] N. Shetty, M. Prasath, C. S. Seelamantula, "Dale meets Langevin: a multiplicative
       denoising diffusion model", 2025, arXiv:2510.02730
    .. [2] B. Anderson, "Reverse-time diffusion equation models", Stochastic Processes and their
       Applications 12(3), 1982

    Examples
    --------
    Log-normal data, whose score is known at all times:

    >>> import numpy as np
    >>> import mckean as mk
    >>> def score(x, t):  # log X_t ~ N(-t / 2, 0.04 + t)
    ...     return -(1 + (np.log(x) + t / 2) / (0.04 + t)) / x
    >>> back = mk.samplers.ReverseGeometricBrownian(score, np.linspace(1, 0, 101), volatility=1.0)
    >>> data = np.exp(0.2 * mk.random.normal(1, (2000, 1)))
    >>> noised = back.noised(data, seed=2)
    >>> result = mk.run(back, noised, 100, seed=3, burn_in=99, progress=False)
    >>> bool(abs(np.log(result.x).std() - 0.2) < 0.03)
    True
    """

    def __init__(
        self,
        score: Callable[[Any, float], Any],
        times: Any,
        *,
        drift: float = 0.0,
        volatility: float,
    ) -> None:
        if not callable(score):
            raise TypeError(f"score: expected a callable, got {type(score).__name__}")
        self.score = score
        self.times = np.array(to_numpy(times), np.float64)
        if self.times.ndim != 1 or len(self.times) < 2 or not np.isfinite(self.times).all():
            raise ValueError(
                f"times: expected at least two finite numbers, got shape {self.times.shape}"
            )
        if not (np.diff(self.times) < 0).all() or self.times[-1] < 0:
            raise ValueError("times: expected strictly decreasing numbers >= 0, got others")
        self.drift, self.volatility = as_real(drift, "drift"), positive(volatility, "volatility")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "score": self.score,
            "times": self.times,
            "drift": self.drift,
            "volatility": self.volatility,
        }

    def noised(self, x: Any, t: float | None = None, *, seed: Any = 0) -> Any:
        """Return `x`, shape (n, d), moved forwards to time `t`, exact in law; by default to the
        first of `times`."""
        at = _signed_points(x)
        t = float(self.times[0]) if t is None else nonnegative(t, "t")
        z = random.normal(seed, at.shape, stream=_FORWARD_STREAM, dtype=at.dtype, like=at.array)
        mean = (self.drift - 0.5 * self.volatility**2) * t
        return at.array * Maths(at).xp.exp(mean + self.volatility * math.sqrt(t) * z)

    def init(self, x0: Any, seed: Any = 0) -> MultiplicativeState:
        """Return the state at `x0`, shape (n, d), at the first of the times."""
        x = _signed_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return MultiplicativeState(copy.result(), as_seed(seed), 0, 0)

    def step(self, state: MultiplicativeState) -> MultiplicativeState:
        """Return the state at the next of the times; `state` stays as it is."""
        if state.step + 1 >= len(self.times):
            raise ValueError(
                f"times: expected more than {len(self.times)} of them to take step {state.step + 1}"
            )
        x = as_input(state.x, "state.x", shape=("n", "d"))
        t = float(self.times[state.step])
        h = t - float(self.times[state.step + 1])
        s = as_match(self.score(x.array, t), "score", x, "x")
        square = self.volatility**2
        out = _multiplied(
            x,
            x.array * s.array,
            h * square,
            h * (1.5 * square - self.drift),
            self.volatility * math.sqrt(h),
            state,
        )
        return MultiplicativeState(out, state.seed, state.step + 1, state.n_gradients + 1)
