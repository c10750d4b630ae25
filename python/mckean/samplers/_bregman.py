"""Langevin chains for densities with a nonsmooth part, smoothed by its envelope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match
from mckean._errors import as_seed, one_of, positive
from mckean.samplers._elementwise import Maths
from mckean.samplers._legendre import Euclidean
from mckean.samplers._parts import PROPOSAL_STREAM, Target, starting_points
from mckean.samplers._proximal import (
    SIDES,
    as_bregman,
    as_nonsmooth,
    envelope_gradient,
    inside,
)
from mckean.stepping import _combine_checked

__all__ = ["BregmanProximalLangevin", "BregmanProximalState", "MoreauYosidaLangevin"]

_COPY = np.ones((1, 1))


@dataclass(slots=True)
class BregmanProximalState:
    """State of `BregmanProximalLangevin`: `x`, shape (n, d), the counters its noise depends on, and
    the number of `refused` moves so far."""

    x: Any
    seed: int
    step: int
    n_gradients: int
    refused: int


class BregmanProximalLangevin:
    """Mirror-Langevin chain for ``exp(-f - g)`` with a nonsmooth ``g``.

    Sampled is ``exp(-f - g_l)``, where g_l is the Bregman-Moreau envelope of g with `smoothing` l:
    ``x' = phi'^-1(phi'(x) + h (grad log p(x) - grad g_l(x)) + sqrt(2 h phi''(x)) N(0, I))``. One
    gradient of f and one proximal map per step.

    Parameters
    ----------
    target : object, callable or None
        The smooth part ``log p = -f``: an object with ``grad_log_density(x)``, or that function
        itself, (n, d) to (n, d), in the framework, dtype and device of ``x``; None for f = 0.
    nonsmooth : L1Norm, GroupNorm, Box, ... or callable
        The function g, or its Euclidean proximal map ``prox(x, step)``.
    step : float
        Step size h > 0.
    bregman : Euclidean, BoltzmannShannon, Burg or Hyperbolic
        The function phi: metric of the chain and of the envelope.
    envelope : {"left", "right"}
        Which argument of the divergence is minimised over, see `moreau_envelope`.
    smoothing : float
        l > 0. With `Euclidean`, steps up to ``1 / (L + 1/l)`` are stable, L the curvature of f.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or `nonsmooth` has no proximal map for
        `bregman`.

    See Also
    --------
    MoreauYosidaLangevin, moreau_envelope, ReflectedLangevin

    Notes
    -----
    Two errors: of the envelope, which vanishes with `smoothing`, and of the step, which vanishes
    with h. Deterministic given the seed.

    `Burg` has gradients below zero only. A particle whose move would leave that range, with
    probability of about ``Phi(-1/sqrt(2 h))`` per coordinate, stays where it is;
    ``result.stats["refused"]`` counts such moves since the start.

    With `BoltzmannShannon` the noise of ``log x`` has variance ``2 h / x``: where x comes near h the
    step is far too long and the chain may jump to huge values. It suits densities with little mass
    there; `Burg` has no such scale, and `Hyperbolic` wants h well below its scale.

    References
    ----------
    .. [1] T. T.-K. Lau, H. Liu, "Bregman proximal Langevin Monte Carlo via Bregman-Moreau
       envelopes", ICML 2022, arXiv:2207.04387

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.BregmanProximalLangevin(
    ...     lambda x: -x, mk.samplers.L1Norm(2.0), 0.01, bregman=mk.samplers.Hyperbolic(),
    ...     smoothing=0.05)
    >>> result = mk.run(chain, np.ones((500, 2)), 500, seed=1, burn_in=499, progress=False)
    >>> bool(abs(result.x.mean()) < 0.1)
    True
    """

    def __init__(
        self,
        target: Any,
        nonsmooth: Any,
        step: float,
        *,
        bregman: Any = None,
        envelope: str = "left",
        smoothing: float,
    ) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self._target = None if target is None else Target(target)
        self.nonsmooth, self.bregman = as_nonsmooth(nonsmooth), as_bregman(bregman)
        self.envelope = one_of(envelope, "envelope", SIDES)
        self.smoothing = positive(smoothing, "smoothing")
        h, pull = self.step_size, self.step_size / self.smoothing
        self.nonsmooth._accept(self.bregman)
        self._euclidean = isinstance(self.bregman, Euclidean)
        self._table = np.array([[1.0 - pull, pull, h][: 2 + (target is not None)]])
        self._scale = np.array([math.sqrt(2.0 * h)])

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "target": self.target,
            "nonsmooth": self.nonsmooth,
            "step": self.step_size,
            "bregman": self.bregman,
            "envelope": self.envelope,
            "smoothing": self.smoothing,
        }

    def init(self, x0: Any, seed: Any = 0) -> BregmanProximalState:
        """Return the state at `x0`, shape (n, d), inside the domain of `bregman`."""
        x = starting_points(x0)
        inside(x.array, Maths(x), self.bregman, "x0")
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return BregmanProximalState(copy.result(), as_seed(seed), 0, 0, 0)

    def step(self, state: BregmanProximalState) -> BregmanProximalState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        maths = Maths(x)
        gradient = None if self._target is None else self._target.gradient(x.array, x)
        p = self.nonsmooth._prox(maths, x.array, self.smoothing, self.bregman, self.envelope)
        refused = 0
        if self._euclidean:
            parts = [x.data, as_match(p, "prox", x, "x").data]
            out = _combine_checked(
                x,
                self._table,
                parts if gradient is None else [*parts, gradient.data],
                noise=self._scale,
                seed=state.seed,
                stream=PROPOSAL_STREAM,
                counter=state.step,
            )[0].result()
        else:
            out, refused = self._mirror_step(maths, x, p, gradient, state)
        return BregmanProximalState(
            out,
            state.seed,
            state.step + 1,
            state.n_gradients + (gradient is not None),
            state.refused + refused,
        )

    def _mirror_step(
        self, maths: Maths, x: Input, p: Any, gradient: Input | None, state: BregmanProximalState
    ) -> tuple[Any, int]:
        phi, h, at = self.bregman, self.step_size, x.array
        pull = envelope_gradient(maths, at, p, self.smoothing, phi, self.envelope)
        if gradient is not None:
            pull = pull - gradient.array
        z = random.normal(
            state.seed,
            x.shape,
            stream=PROPOSAL_STREAM,
            counter=state.step,
            dtype=x.dtype,
            like=at,
        )
        noise = z * maths.xp.sqrt(2.0 * h / phi._mobility(maths, at))
        y = phi._to_dual(maths, at) - h * pull + noise
        top, refused = phi.dual_domain[1], 0
        if top < math.inf:
            out = (y >= top).any(-1)
            refused = int(out.sum())
            y = maths.xp.where(out[:, None], phi._to_dual(maths, at), y)
            return maths.xp.where(out[:, None], at, phi._to_primal(maths, y)), refused
        return phi._to_primal(maths, y), refused

    def stats(self, state: BregmanProximalState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        return {"refused": np.int64(state.refused)}


class MoreauYosidaLangevin(BregmanProximalLangevin):
    """Moreau-Yosida unadjusted Langevin chain (MYULA).

    ``x' = x + h grad log p(x) - (h/l) (x - prox(x, l)) + sqrt(2 h) N(0, I)``: the Euclidean case of
    `BregmanProximalLangevin`, in one fused pass after gradient and proximal map.

    Parameters
    ----------
    target : object, callable or None
        The smooth part of log p, as in `Langevin`; None for none.
    nonsmooth : L1Norm, GroupNorm, Box, ... or callable
        The nonsmooth part g of -log p, or its proximal map ``prox(x, step)``.
    step : float
        Step size h > 0; stable up to about ``1 / (L + 1/l)``.
    smoothing : float
        l > 0, of the envelope.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    BregmanProximalLangevin, Langevin

    References
    ----------
    .. [1] A. Durmus, E. Moulines, M. Pereyra, "Efficient Bayesian computation by proximal Markov
       chain Monte Carlo: when Langevin meets Moreau", SIAM Journal on Imaging Sciences 11(1), 2018

    Examples
    --------
    A Gaussian restricted to the positive quadrant, by a wall of width sqrt(l):

    >>> import numpy as np
    >>> import mckean as mk
    >>> quadrant = mk.samplers.Box(0.0, np.inf)
    >>> chain = mk.samplers.MoreauYosidaLangevin(lambda x: -x, quadrant, 0.001, smoothing=0.001)
    >>> result = mk.run(chain, np.ones((200, 2)), 300, seed=1, burn_in=299, progress=False)
    >>> bool(result.x.min() > -0.3)
    True
    """

    def __init__(self, target: Any, nonsmooth: Any, step: float, *, smoothing: float) -> None:
        super().__init__(target, nonsmooth, step, smoothing=smoothing)
