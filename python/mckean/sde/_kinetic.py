"""Solvers of the underdamped Langevin diffusion alone: the splitting schemes of its sampler."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from mckean._array import Input, Output
from mckean.samplers._parts import Target
from mckean.samplers._schemes import SCHEMES, Plan, error_table, move, plan
from mckean.sde._field import Field, Noise, Span, hold
from mckean.sde._solvers import Carry, Solver
from mckean.sde._system import SDE

__all__ = ["ALIGN", "BAOAB", "QUICSORT", "UBU", "ExponentialEuler", "ShOULD"]

_LEVY = ("none", "space-time", "space-time-time")


class _Kinetic(Solver):
    """A step of a splitting scheme; states are ``y = [x, v]``, shape (n, 2 d), and noise (n, d)."""

    scheme: ClassVar[str]
    sense = "either"
    noise_types = frozenset({"additive"})
    kind = "kinetic"

    def __init_subclass__(cls) -> None:
        scheme = SCHEMES[cls.scheme]
        cls.levy_area = _LEVY[scheme.noise - 1]
        cls.has_error = scheme.embedded
        cls._orders = (float(scheme.order), None, None)

    def __init__(self) -> None:
        self._plan: tuple[tuple[float, ...], Plan] | None = None

    def check(self, sde: SDE) -> None:
        """Raise ValueError if the equation is not a `mckean.sde.UnderdampedLangevin`."""
        if getattr(sde, "kind", None) != "kinetic":
            raise ValueError(
                f"solver: {type(self).__name__} solves mckean.sde.UnderdampedLangevin alone, "
                f"got {type(sde).__name__}"
            )
        super().check(sde)

    def start(self, field: Field, t: Any, y: Input) -> Carry:
        if not SCHEMES[self.scheme].fsal:
            return ()
        x, _ = _split(y)
        return (_gradient(field)(x.array, x, ()),)

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        x, v = _split(y)
        known = {"x": x.data, "v": v.data, "W": noise.W, "H": noise.H, "K": noise.K}
        if carry:
            known["g0"] = carry[0].data
        h, friction, u = span.length, float(field.sde.friction), float(field.sde.u)
        gradient = _gradient(field)
        end = move(
            self._numbers(h, friction, u), x, known, lambda at, held: gradient(at, x, held), carry
        )
        error = None
        if self.has_error:
            sizes = h if isinstance(h, np.ndarray) else float(h)
            table = error_table(self.scheme, sizes, friction, u)
            part = table.combine(x, [carry[0].data, end.gradients[-1].data])[0]
            error = _join(y, None, part.data)
        kept = (end.gradients[-1],) if carry else ()
        return _join(y, end.x, end.v), error, kept

    def _numbers(self, h: Any, friction: float, u: float) -> Plan:
        if isinstance(h, np.ndarray):
            return plan(self.scheme, h, friction, u, 1.0)
        key = (float(h), friction, u)
        if self._plan is None or self._plan[0] != key:
            self._plan = key, plan(self.scheme, *key, 1.0)
        return self._plan[1]


def _gradient(field: Field) -> Any:
    target = Target(field.sde.target)

    def gradient(at: Any, like: Input, held: Any) -> Input:
        field.evaluations += 1
        return target.gradient(at, like, held)

    return gradient


def _split(y: Input) -> tuple[Input, Input]:
    """Positions and velocities, each (n, d)."""
    n, total = y.shape
    if total % 2 or not total:
        raise ValueError(
            f"y0: expected positions and velocities side by side, (n, 2 d), got shape {y.shape}"
        )
    d = total // 2
    outs: list[Output] = [y.framework.empty((n, d), y.dtype, y.device) for _ in range(2)]
    for part, out in zip((y.data[:, :d], y.data[:, d:]), outs, strict=True):
        out.data[...] = part
    like = Input(None, None, (n, d), y.dtype, y.device, y.framework)
    return hold(outs[0], like), hold(outs[1], like)


def _join(y: Input, x: Any, v: Any) -> Input:
    """Native halves side by side; None is zero."""
    d = y.shape[1] // 2
    out = y.framework.empty(y.shape, y.dtype, y.device)
    out.data[:, :d] = 0.0 if x is None else x
    out.data[:, d:] = v
    return hold(out, y)


class QUICSORT(_Kinetic):
    """Third-order splitting of underdamped Langevin dynamics: two gradients per step.

    Strong order 3 on smooth targets, from W, H and K; no error estimate: for adaptive steps use ``StepDoubling(
    QUICSORT())``. For `mckean.sde.UnderdampedLangevin` alone. Jelincic, Foster, Kidger, "Single-seed generation of
    Brownian paths and integrals for adaptive and high order SDE solvers", 2024, arXiv:2405.06464.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.QUICSORT().order("additive"), mk.sde.QUICSORT().levy_area
    (3.0, 'space-time-time')
    """

    scheme = "quicsort"


class ShOULD(_Kinetic):
    """Shifted splitting of underdamped Langevin dynamics: two gradients per step.

    Strong order 3 on smooth targets, from W, H and K; no error estimate. For `mckean.sde.UnderdampedLangevin` alone.
    Foster, Lyons, Oberhauser, "The shifted ODE method for underdamped Langevin MCMC", 2021, arXiv:2101.03446.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.ShOULD().order("additive")
    3.0
    """

    scheme = "should"


class UBU(_Kinetic):
    """Symmetric splitting of underdamped Langevin dynamics: one gradient per step, in the middle.

    Strong order 2, from W and H; no error estimate. For `mckean.sde.UnderdampedLangevin` alone. Sanz-Serna, Zygalakis,
    "Wasserstein distance estimates for the distributions of numerical approximations to ergodic stochastic
    differential equations", JMLR 22(242), 2021.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.UBU().order("additive")
    2.0
    """

    scheme = "ubu"


class ALIGN(_Kinetic):
    """Linear interpolation of the gradient over a step of underdamped Langevin dynamics: one gradient per step.

    Strong order 2, from W and H, with an error estimate: the first choice for adaptive steps where gradients are
    expensive. For `mckean.sde.UnderdampedLangevin` alone. Jelincic, Foster, Kidger, "Single-seed generation of Brownian
    paths and integrals for adaptive and high order SDE solvers", 2024, arXiv:2405.06464.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.ALIGN().order("additive"), mk.sde.ALIGN().has_error
    (2.0, True)
    """

    scheme = "align"


class BAOAB(_Kinetic):
    """Kick, drift, exact friction and noise, drift, kick: one gradient per step.

    Strong order 1, from W; the stationary variance of positions is exact on Gaussian targets. No error estimate. For
    `mckean.sde.UnderdampedLangevin` alone. Leimkuhler, Matthews, "Rational construction of stochastic numerical methods
    for molecular sampling", 2013, arXiv:1203.5428.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.BAOAB().order("additive"), mk.sde.BAOAB().levy_area
    (1.0, 'none')
    """

    scheme = "baoab"


class ExponentialEuler(_Kinetic):
    """Exact underdamped dynamics with the gradient frozen over a step: one gradient per step.

    Strong order 1, from W and H; no error estimate. For `mckean.sde.UnderdampedLangevin` alone. Cheng, Chatterji,
    Bartlett, Jordan, "Underdamped Langevin MCMC: a non-asymptotic analysis", 2018, arXiv:1707.03663.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.ExponentialEuler().order("additive")
    1.0
    """

    scheme = "ee"
