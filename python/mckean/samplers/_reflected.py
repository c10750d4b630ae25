"""Langevin chains confined to a convex set."""

from __future__ import annotations

from typing import Any

from mckean._array import as_input, to_numpy
from mckean._errors import one_of
from mckean.samplers._langevin import Langevin, LangevinState
from mckean.samplers._parts import starting_points
from mckean.samplers._sets import ConvexSet, HalfSpaces, Simplex

__all__ = ["ReflectedLangevin"]


class ReflectedLangevin:
    """Langevin chain confined to a convex set.

    A step ``y = x + h grad log p(x) + sqrt(2 h) N(0, I)`` of `Langevin`, then y mirrored at the
    boundary ("reflect") or moved to the nearest point of the set ("project"). Its stationary law
    tends to p restricted to the set as h tends to 0.

    Parameters
    ----------
    target : object or callable
        As in `Langevin`; asked for gradients inside the set only.
    step : float
        Step size h > 0.
    domain : Box, Ball, HalfSpace or HalfSpaces
        The set.
    mode : {"reflect", "project"}
        Projection leaves a share of about sqrt(h) of the particles on the boundary and is biased by
        as much; reflection has weak order 1 where the boundary is smooth.
    noise : {"counter", "normal", "rademacher", "uniform", "tree"} or object
        As in `Langevin`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or `domain` cannot be reflected
        (projected) into. `init` raises ValueError for points outside the set.

    See Also
    --------
    Langevin, MoreauYosidaLangevin

    Notes
    -----
    Without a drift, reflection in a `Box` or `HalfSpace` is exact in law for any h: the chain is
    reflected Brownian motion at the times k h. Deterministic given the seed.

    References
    ----------
    .. [1] M. Bossy, E. Gobet, D. Talay, "A symmetrized Euler scheme for an efficient approximation of
       reflected diffusions", Journal of Applied Probability 41(3), 2004

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.ReflectedLangevin(lambda x: -x, 0.01, mk.samplers.Box(0.0, np.inf))
    >>> result = mk.run(chain, np.ones((500, 2)), 300, seed=1, burn_in=250, progress=False)
    >>> bool(result.x.min() >= 0), bool(abs(result.x.mean() - np.sqrt(2 / np.pi)) < 0.05)
    (True, True)
    """

    def __init__(
        self,
        target: Any,
        step: float,
        domain: ConvexSet,
        *,
        mode: str = "reflect",
        noise: Any = "counter",
    ) -> None:
        self._chain = Langevin(target, step, noise=noise)
        self.target, self.step_size = target, self._chain.step_size
        if not isinstance(domain, ConvexSet):
            raise TypeError(
                f"domain: expected Box, Ball, HalfSpace or HalfSpaces, got {type(domain).__name__}"
            )
        self.domain, self.mode = domain, one_of(mode, "mode", ("reflect", "project"))
        if mode == "reflect" and isinstance(domain, Simplex):
            raise ValueError(
                'domain: expected a set with an interior for mode "reflect", got Simplex'
            )
        if mode == "project" and isinstance(domain, HalfSpaces):
            raise ValueError('mode: expected "reflect" for HalfSpaces, got "project"')

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {**self._chain.config(), "domain": self.domain, "mode": self.mode}

    def init(self, x0: Any, seed: Any = 0) -> LangevinState:
        """Return the state at `x0`, shape (n, d), in the set."""
        x = starting_points(x0)
        inside = to_numpy(self.domain.contains(x.array))
        if not inside.all():
            raise ValueError(
                f"x0: expected points in {self.domain!r}, got {int((~inside).sum())} outside, "
                f"first at index {int(inside.argmin())}"
            )
        return self._chain.init(x.array, seed)

    def step(self, state: LangevinState) -> LangevinState:
        """Return the state one step later; `state` stays as it is."""
        state = self._chain.step(state)
        x = as_input(state.x, "state.x", shape=("n", "d")).array
        state.x = self.domain.reflect(x) if self.mode == "reflect" else self.domain.project(x)
        return state
