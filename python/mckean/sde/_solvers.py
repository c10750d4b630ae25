"""The solvers: one small class each, with its tableau, its orders, and the noise it can treat."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from mckean._array import Input, as_input
from mckean.sde import _native
from mckean.sde._field import Field, Noise, Span
from mckean.sde._system import NOISES, SDE
from mckean.stepping import _combine_checked

__all__ = [
    "SEA",
    "SRA1",
    "EulerHeun",
    "EulerMaruyama",
    "GeneralShARK",
    "Heun",
    "ItoMilstein",
    "ReversibleHeun",
    "SPaRK",
    "ShARK",
    "SlowRK",
    "Solver",
    "StepDoubling",
    "StratonovichMilstein",
    "Tableau",
]

_ALL = frozenset(NOISES)
_COMMUTATIVE = frozenset({"diagonal", "additive", "scalar", "commutative"})
_ADDITIVE = frozenset({"additive"})
Carry = tuple[Input, ...]


@dataclass(frozen=True)
class Tableau:
    """The coefficients of a stochastic Runge-Kutta method of s stages, for a step of length h with noise W and H.

    Stage j is ``z_j = y + sum_i (a_ji h f_i + g_i (w_ji W + h_ji H))`` with ``f_i = f(t + c_i h, z_i)`` and ``g_i``
    likewise; the result is ``y + sum_i (b_i h f_i + g_i (bw_i W + bh_i H))``, its error ``sum_i (e_i h f_i + g_i
    (ew_i W + eh_i H))``. A stage whose coefficients are all zero is not evaluated.

    Where `additive` is set, the noise of the stages is ``w_j0 g(t) W + h_j0 g(t) H``, also in the first stage, and the
    result is ``y + sum_i b_i h f_i + g(t) W + (g(t + h) - g(t)) (W / 2 - H)``.

    Attributes
    ----------
    c, b, bw, bh : ndarray, shape (s,), float64
    a, w, h : ndarray, shape (s, s), float64
    e, ew, eh : ndarray, shape (s,), float64, or None
    additive : bool
    """

    c: Any
    a: Any
    w: Any
    h: Any
    b: Any
    bw: Any
    bh: Any
    e: Any = None
    ew: Any = None
    eh: Any = None
    additive: bool = False

    @property
    def drifts(self) -> tuple[bool, ...]:
        """Which stages need the drift."""
        columns = [self.a.any(0), self.b != 0] + ([] if self.e is None else [self.e != 0])
        return tuple(bool(used) for used in np.any(columns, axis=0))

    @property
    def diffusions(self) -> tuple[bool, ...]:
        """Which stages need the diffusion; of additive methods, the first alone."""
        if self.additive:
            return (True, *[False] * (len(self.c) - 1))
        columns = [self.w.any(0), self.h.any(0), self.bw != 0, self.bh != 0]
        columns += [x != 0 for x in (self.ew, self.eh) if x is not None]
        return tuple(bool(used) for used in np.any(columns, axis=0))


def _tableau(
    c: list[float],
    *,
    a: dict[tuple[int, int], float] | None = None,
    w: dict[tuple[int, int], float] | None = None,
    h: dict[tuple[int, int], float] | None = None,
    b: list[float],
    bw: list[float] | None = None,
    bh: list[float] | None = None,
    e: list[float] | None = None,
    ew: list[float] | None = None,
    eh: list[float] | None = None,
    additive: bool = False,
) -> Tableau:
    """Entries (row, column) count from 1, as in the papers."""
    s = len(c)

    def matrix(entries: dict[tuple[int, int], float] | None) -> Any:
        out = np.zeros((s, s))
        for (i, j), value in (entries or {}).items():
            out[i - 1, j - 1] = value
        return _frozen(out)

    def row(values: list[float] | None) -> Any:
        return _frozen(np.zeros(s) if values is None else np.array(values, np.float64))

    errors = (None, None, None) if e is None else (row(e), row(ew), row(eh))
    return Tableau(
        c=row(c),
        a=matrix(a),
        w=matrix(w),
        h=matrix(h),
        b=row(b),
        bw=row(bw),
        bh=row(bh),
        e=errors[0],
        ew=errors[1],
        eh=errors[2],
        additive=additive,
    )


def _frozen(a: Any) -> Any:
    a.flags.writeable = False
    return a


class Solver:
    """What `sdeint` needs to know of a solver, and how it takes a step.

    Attributes
    ----------
    sense : {"ito", "stratonovich", "either"}
        The sense in which it reads noise that is not additive.
    levy_area : {"none", "space-time", "space-time-time"}
        What it needs of the Brownian path.
    noise_types : frozenset of str
    kind : str
        The family of its step: "runge_kutta", "additive", "milstein", "reversible", ...
    tableau : Tableau or None
    has_error : bool
        Whether a step comes with an estimate of its error, which adaptive steps need.
    pieces : int
        Into how many equal pieces it cuts a step.
    """

    sense: str = "stratonovich"
    levy_area: str = "none"
    noise_types: frozenset[str] = _ALL
    kind: str = "runge_kutta"
    tableau: Tableau | None = None
    has_error: bool = False
    pieces: int = 1
    # Strong orders for additive, commutative (also diagonal and scalar) and general noise.
    _orders: ClassVar[tuple[float | None, float | None, float | None]] = (1.0, 1.0, 0.5)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def order(self, noise: str) -> float:
        """Return the strong order for a kind of noise; ValueError for one it cannot treat."""
        column = {"additive": 0, "general": 2}.get(noise, 1)
        value = self._orders[column] if noise in NOISES else None
        if value is None:
            raise ValueError(
                f"noise: expected one of {', '.join(map(repr, sorted(self.noise_types)))} "
                f"for {type(self).__name__}, got {noise!r}"
            )
        return value

    def error_order(self, sde: SDE) -> float:
        """Return the order of the error of one step, by which step sizes are chosen: that of the solver plus 1/2."""
        return self.order(sde.noise) + 0.5

    def check(self, sde: SDE) -> None:
        """Raise ValueError if this solver does not fit the noise or the sense of an equation."""
        name = type(self).__name__
        if sde.noise not in self.noise_types:
            raise ValueError(
                f"solver: {name} does not treat {sde.noise} noise; "
                f"for this equation there are {_fitting(sde)}"
            )
        if sde.noise != "additive" and self.sense not in ("either", sde.interpretation):
            other = "to_ito" if self.sense == "ito" else "to_stratonovich"
            raise ValueError(
                f"solver: {name} reads noise in the sense of {self.sense.capitalize()}, the equation "
                f"is in that of {sde.interpretation.capitalize()}; take one of {_fitting(sde)}, "
                f"or sde.{other}()"
            )

    def start(self, field: Field, t: Any, y: Input) -> Carry:
        """What is kept from step to step, at the start."""
        return ()

    def refresh(self, field: Field, t: Any, y: Input, carry: Carry) -> Carry:
        """The same behind a jump of the coefficients."""
        return carry

    def state(self, carry: Carry) -> dict[str, Any] | None:
        """What of it the caller gets at the end."""
        return None

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        """One step from `y`: the new state, its error or None, and what to keep. Changes none of its arguments."""
        raise NotImplementedError

    def attempt(
        self, field: Field, whole: Span, parts: list[tuple[Span, Noise]], y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        """One step given in `pieces` parts."""
        return self.step(field, parts[0][0], parts[0][1], y, carry)


def _fitting(sde: SDE) -> str:
    """The names of the general solvers that fit an equation."""
    names = []
    for kind in _GENERAL:
        sense = sde.noise == "additive" or kind.sense in ("either", sde.interpretation)
        if sense and sde.noise in kind.noise_types:
            names.append(kind.__name__)
    return ", ".join(names)


@dataclass(frozen=True, slots=True)
class _Stage:
    """Coefficients that are not zero, as floats: drifts (i, a), diffusions (i, p, q)."""

    c: float
    drift: bool
    diffusion: bool
    drifts: list[tuple[int, float]]
    diffusions: list[tuple[int, float, float]]


def _row(a: Any, p: Any, q: Any) -> tuple[list[tuple[int, float]], list[tuple[int, float, float]]]:
    drifts = [(i, float(x)) for i, x in enumerate(a) if x]
    noises = [(i, float(x), float(y)) for i, (x, y) in enumerate(zip(p, q, strict=True)) if x or y]
    return drifts, noises


class _RungeKutta(Solver):
    """The step of a tableau."""

    tableau: Tableau
    _stages: ClassVar[list[tuple[int, _Stage]]]

    def __init_subclass__(cls) -> None:
        table = cls.__dict__.get("tableau")
        if table is None:
            return
        needs = list(zip(table.drifts, table.diffusions, strict=True))
        cls._stages = [
            (j, _Stage(float(table.c[j]), *needs[j], *_row(table.a[j], table.w[j], table.h[j])))
            for j in range(len(table.c))
            if any(needs[j])
        ]
        cls._final = _row(table.b, table.bw, table.bh)
        cls._error = None if table.e is None else _row(table.e, table.ew, table.eh)

    _final: ClassVar[Any]
    _error: ClassVar[Any]

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        additive = self.tableau.additive
        f: dict[int, Input] = {}
        g: dict[int, Input] = {}
        if additive:
            g[0] = field.diffusion(span.at(0.0), y)
        for j, stage in self._stages:
            z = y
            if stage.drifts or stage.diffusions:
                z = field.update(
                    y,
                    span,
                    [(a, f[i]) for i, a in stage.drifts],
                    [(p, q, g[i]) for i, p, q in stage.diffusions],
                    noise,
                )
            t = span.at(stage.c)
            if stage.drift:
                f[j] = field.drift(t, z)
            if stage.diffusion and not additive:
                g[j] = field.diffusion(t, z)
        drifts, noises = self._final
        if additive:
            g[1] = field.diffusion(span.at(1.0), y)
            noises = [(0, 0.5, 1.0), (1, 0.5, -1.0)]
        final = [(a, f[i]) for i, a in drifts], [(p, q, g[i]) for i, p, q in noises]
        y1 = field.update(y, span, *final, noise)
        if self._error is None:
            return y1, None, carry
        drifts, noises = self._error
        wrong = [(a, f[i]) for i, a in drifts], [(p, q, g[i]) for i, p, q in noises]
        return y1, field.update(y, span, *wrong, noise, base=False), carry


class EulerMaruyama(_RungeKutta):
    """Euler-Maruyama: one drift and one diffusion per step, in the sense of Ito.

    Strong order 1 for additive noise, 1/2 for any other; no error estimate. Kloeden and Platen, "Numerical Solution of
    Stochastic Differential Equations", 1992.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.EulerMaruyama().order("additive"), mk.sde.EulerMaruyama().order("diagonal")
    (1.0, 0.5)
    """

    sense = "ito"
    tableau = _tableau([0], b=[1], bw=[1])
    _orders = (1.0, 0.5, 0.5)


class EulerHeun(_RungeKutta):
    """Euler-Heun: one drift and two diffusions per step, in the sense of Stratonovich.

    Strong order 1 for commutative (diagonal, scalar, additive) noise, 1/2 in general; no error estimate. Kloeden and
    Platen, "Numerical Solution of Stochastic Differential Equations", 1992.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.EulerHeun().order("diagonal")
    1.0
    """

    tableau = _tableau([0, 0], w={(2, 1): 1}, b=[1, 0], bw=[0.5, 0.5])


class Heun(_RungeKutta):
    """Heun's method: two drifts and two diffusions per step, in the sense of Stratonovich.

    Strong order 1 for commutative (diagonal, scalar, additive) noise, 1/2 in general. Its error estimate is half the
    difference of the two slopes, which is that of an Euler step. Kloeden and Platen, "Numerical Solution of Stochastic
    Differential Equations", 1992.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.Heun().has_error, mk.sde.Heun().sense
    (True, 'stratonovich')
    """

    has_error = True
    tableau = _tableau(
        [0, 1],
        a={(2, 1): 1},
        w={(2, 1): 1},
        b=[0.5, 0.5],
        bw=[0.5, 0.5],
        e=[0.5, -0.5],
        ew=[0.5, -0.5],
    )


class _Milstein(Solver):
    """Euler-Maruyama and the second-order term of the noise, which must commute."""

    kind = "milstein"
    noise_types = _COMMUTATIVE
    _orders = (1.0, 1.0, None)

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        t = span.at(0.0)
        f, g = field.drift(t, y), field.diffusion(t, y)
        euler = field.update(y, span, [(1.0, f)], [(1.0, 0.0, g)], noise)
        if field.sde.noise == "additive":
            return euler, None, carry
        w, ito = noise.array("W"), self.sense == "ito"
        if field.layout == _native.MATRIX:
            # 1/2 D[g W] (g W), less h/2 sum_j (D g_j) g_j in the sense of Ito
            along = field.derivative(t, y, field.apply(g.array, w), 1.0)
            correction = field.apply(along, w)
            if ito:
                correction = correction - span.factor * self._slope(field, t, y, g, span)
        else:
            square = w * w - span.factor if ito else w * w
            correction = self._slope(field, t, y, g, span) * square
        return as_input(euler.array + 0.5 * correction, "y"), None, carry

    @staticmethod
    def _slope(field: Field, t: Any, y: Input, g: Input, span: Span) -> Any:
        """sum_j (D g_j) g_j"""
        if field.sde.diffusion_slope is not None:
            return field.slope(t, y).array
        scale = span.factor**0.5
        if field.layout != _native.MATRIX:
            return field.derivative(t, y, g.array, scale)
        columns = range(field.noise_dim)
        return sum(field.derivative(t, y, g.array[:, :, j], scale)[:, :, j] for j in columns)


class ItoMilstein(_Milstein):
    """Milstein's method in the sense of Ito, for commutative (diagonal, scalar, additive) noise.

    Strong order 1; one drift and one diffusion per step, and for noise that is not additive one directional derivative
    of the diffusion (for a matrix without ``SDE.diffusion_slope``, one more per column). For noise that has a column
    per coordinate or one column in all, that derivative is ``SDE.diffusion_slope`` where given; else it is exact in
    PyTorch and JAX, and in NumPy (and of compiled functions) a central difference, which asks for the diffusion beside
    the path, at 1e-5 (float32: 5e-3) of the distance the noise of a step goes. Rounding then changes a step by about
    1e-10 (1e-4) of its noise, for coordinates of any units; a coordinate of diagonal noise depends on no other. A
    diffusion such as a square root, at a state so small that the step may leave its domain, needs a
    ``diffusion_slope``, or a value beyond. No error estimate. Kloeden and Platen, "Numerical Solution of Stochastic
    Differential Equations", 1992.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.ItoMilstein().order("diagonal")
    1.0
    """

    sense = "ito"


class StratonovichMilstein(_Milstein):
    """Milstein's method in the sense of Stratonovich, for commutative (diagonal, scalar, additive) noise.

    Strong order 1; one drift and one diffusion per step, and for noise that is not additive one directional derivative
    of the diffusion, which is taken as by `ItoMilstein`. No error estimate. Kloeden and Platen, "Numerical Solution of
    Stochastic Differential Equations", 1992.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.StratonovichMilstein().order("scalar")
    1.0
    """


class _Additive(_RungeKutta):
    kind = "additive"
    sense = "either"
    levy_area = "space-time"
    noise_types = _ADDITIVE
    _orders = (1.5, None, None)


class SEA(_Additive):
    """Shifted Euler: one drift per step, for additive noise, with smaller errors than Euler-Maruyama.

    Strong order 1; no error estimate. Foster, Goncalo dos Reis, Strange, "High order splitting methods for SDEs
    satisfying a commutativity condition", 2023.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.SEA().levy_area
    'space-time'
    """

    tableau = _tableau([0], w={(1, 1): 0.5}, h={(1, 1): 1}, b=[1], additive=True)
    _orders = (1.0, None, None)


class SRA1(_Additive):
    """SRA1: two drifts per step, for additive noise.

    Strong order 3/2, with an error estimate. Roessler, "Runge-Kutta methods for the strong approximation of solutions
    of stochastic differential equations", 2010.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.SRA1().order("additive")
    1.5
    """

    has_error = True
    tableau = _tableau(
        [0, 3 / 4],
        a={(2, 1): 3 / 4},
        w={(2, 1): 3 / 4},
        h={(2, 1): 3 / 2},
        b=[1 / 3, 2 / 3],
        e=[-2 / 3, 2 / 3],
        additive=True,
    )


class ShARK(_Additive):
    """Shifted additive-noise Runge-Kutta: two drifts per step, for additive noise.

    Strong order 3/2, with an error estimate; the first choice for additive noise. Foster, Goncalo dos Reis, Strange,
    "High order splitting methods for SDEs satisfying a commutativity condition", 2023.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.ShARK().order("additive"), mk.sde.ShARK().has_error
    (1.5, True)
    """

    has_error = True
    tableau = _tableau(
        [0, 5 / 6],
        a={(2, 1): 5 / 6},
        w={(2, 1): 5 / 6},
        h={(1, 1): 1, (2, 1): 1},
        b=[2 / 5, 3 / 5],
        e=[-3 / 5, 3 / 5],
        additive=True,
    )


class GeneralShARK(_RungeKutta):
    """`ShARK` for any noise: two drifts and three diffusions per step, in the sense of Stratonovich.

    Strong order 3/2 for additive, 1 for commutative (diagonal, scalar), 1/2 for general noise; no error estimate.
    Foster, Goncalo dos Reis, Strange, "High order splitting methods for SDEs satisfying a commutativity condition",
    2023.

    Examples
    --------
    >>> import mckean as mk
    >>> [mk.sde.GeneralShARK().order(noise) for noise in ("additive", "commutative", "general")]
    [1.5, 1.0, 0.5]
    """

    levy_area = "space-time"
    tableau = _tableau(
        [0, 0, 5 / 6],
        a={(3, 2): 5 / 6},
        w={(3, 2): 5 / 6},
        h={(2, 1): 1, (3, 1): 1},
        b=[0, 2 / 5, 3 / 5],
        bw=[0, 2 / 5, 3 / 5],
        bh=[0, 6 / 5, -6 / 5],
    )
    _orders = (1.5, 1.0, 0.5)


class SlowRK(_RungeKutta):
    """SlowRK: two drifts and five diffusions per step, in the sense of Stratonovich.

    Strong order 3/2 for commutative (diagonal, scalar, additive) noise, with small constants, and 1/2 in general; no
    error estimate. Foster, Goncalo dos Reis, Strange, "High order splitting methods for SDEs satisfying a
    commutativity condition", 2023.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.SlowRK().order("diagonal")
    1.5
    """

    levy_area = "space-time"
    tableau = _tableau(
        [0, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 3 / 4, 1],
        a={(2, 1): 1 / 2, (3, 1): 1 / 2, (4, 1): 1 / 2, (5, 1): 1 / 2, (6, 1): 3 / 4, (7, 1): 1},
        w={(3, 2): 1 / 2, (4, 3): 1 / 2, (5, 4): 1, (6, 4): 3 / 4, (7, 3): 1 / 2},
        h={(6, 4): 3 / 2},
        b=[1 / 3, 0, 0, 0, 0, 2 / 3, 0],
        bw=[0, 1 / 6, 1 / 3, 1 / 3, 1 / 6, 0, 0],
        bh=[0, 0, 0, 2, 0, 0, -2],
    )
    _orders = (1.5, 1.5, 0.5)


_LOW, _HIGH = (3 - math.sqrt(3)) / 6, math.sqrt(3) / 3


class SPaRK(_RungeKutta):
    """Splitting-path Runge-Kutta: three drifts and three diffusions per step, in the sense of Stratonovich.

    Strong order 3/2 for additive, 1 for commutative (diagonal, scalar), 1/2 for general noise, with an error estimate;
    the first choice for adaptive steps with noise that is not additive. Foster, Goncalo dos Reis, Strange, "High order
    splitting methods for SDEs satisfying a commutativity condition", 2023, and Jelincic, Foster, Kidger,
    arXiv:2405.06464.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.SPaRK().order("commutative"), mk.sde.SPaRK().has_error
    (1.0, True)
    """

    levy_area = "space-time"
    has_error = True
    tableau = _tableau(
        [0, 1 / 2, 1],
        a={(2, 1): 1 / 2, (3, 2): 1},
        w={(2, 1): 1 / 2, (3, 2): 1},
        h={(2, 1): math.sqrt(3)},
        b=[_LOW, _HIGH, _LOW],
        bw=[_LOW, _HIGH, _LOW],
        bh=[1, 0, -1],
        e=[_LOW - 1 / 2, _HIGH, _LOW - 1 / 2],
        ew=[_LOW - 1 / 2, _HIGH, _LOW - 1 / 2],
        eh=[1, 0, -1],
    )
    _orders = (1.5, 1.0, 0.5)


class ReversibleHeun(Solver):
    """Reversible Heun: one drift and one diffusion per step, and steps that can be undone exactly.

    In the sense of Stratonovich; strong order 1 for commutative (diagonal, scalar, additive) noise, 1/2 in general,
    with an error estimate. It carries a second state z beside y; from both at the end, `backward` finds those at the
    start again up to rounding. Its stability is weak: not for stiff equations or long times. Kidger, Foster, Li, Lyons,
    "Efficient and accurate gradients for neural SDEs", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> sde = mk.sde.SDE(lambda t, y: -y, lambda t, y: 0.1 * y, interpretation="stratonovich")
    >>> setting = dict(controller=0.01, seed=3)
    >>> forth = mk.sde.sdeint(sde, np.ones((5, 1)), [0.0, 1.0], solver=mk.sde.ReversibleHeun(), **setting)
    >>> back = mk.sde.ReversibleHeun().backward(sde, forth.ys[-1], forth.state["z"], [0.0, 1.0], **setting)
    >>> bool(abs(back.ys[0] - 1).max() < 1e-13)
    True
    """

    kind = "reversible"
    has_error = True

    def start(self, field: Field, t: Any, y: Input) -> Carry:
        return y, field.drift(t, y), field.diffusion(t, y)

    def refresh(self, field: Field, t: Any, y: Input, carry: Carry) -> Carry:
        z = carry[0]
        return z, field.drift(t, z), field.diffusion(t, z)

    def state(self, carry: Carry) -> dict[str, Any] | None:
        return {"z": carry[0].array} if carry else None

    def step(
        self, field: Field, span: Span, noise: Noise, y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        z, f, g = carry
        (mirrored,) = _combine_checked(y, np.array([[2.0, -1.0]]), [y.data, z.data])
        z1 = field.update(
            as_input(mirrored.result(), "y"), span, [(1.0, f)], [(1.0, 0.0, g)], noise
        )
        t1 = span.at(1.0)
        f1, g1 = field.drift(t1, z1), field.diffusion(t1, z1)
        both = [(0.5, f), (0.5, f1)], [(0.5, 0.0, g), (0.5, 0.0, g1)]
        change = [(-0.5, f), (0.5, f1)], [(-0.5, 0.0, g), (0.5, 0.0, g1)]
        y1 = field.update(y, span, *both, noise)
        return y1, field.update(y, span, *change, noise, base=False), (z1, f1, g1)

    def undo(
        self, field: Field, span: Span, noise: Noise, y1: Input, carry: Carry
    ) -> tuple[Input, Carry]:
        """What `step` made `y1` and `carry` of."""
        z1, f1, g1 = carry
        (mirrored,) = _combine_checked(y1, np.array([[2.0, -1.0]]), [y1.data, z1.data])
        mirror = as_input(mirrored.result(), "y")
        z = field.update(mirror, span, [(-1.0, f1)], [(-1.0, 0.0, g1)], noise)
        t = span.at(0.0)
        f, g = field.drift(t, z), field.diffusion(t, z)
        both = [(-0.5, f), (-0.5, f1)], [(-0.5, 0.0, g), (-0.5, 0.0, g1)]
        return field.update(y1, span, *both, noise), (z, f, g)

    def backward(
        self,
        sde: SDE,
        y1: Any,
        z1: Any,
        ts: Any,
        *,
        controller: Any,
        seed: Any = 0,
        tree: Any = None,
    ) -> Any:
        """Undo a forward solution: from its last ``y`` and ``z``, find the states before.

        Parameters
        ----------
        sde : SDE
        y1, z1 : array, shape (n, d)
            ``solution.ys[-1]`` and ``solution.state["z"]`` of the forward solution.
        ts, controller, seed, tree
            As they were there; the steps must be constant.

        Returns
        -------
        Solution
            Its `ys` are those of the forward solution up to rounding; ``state["z"]`` is that at ``ts[0]``, where it
            equals y.

        Raises
        ------
        TypeError, ValueError
            As for `sdeint`, and if the controller is adaptive.
        """
        from mckean.sde._integrate import reverse

        return reverse(self, sde, y1, z1, ts, controller=controller, seed=seed, tree=tree)


class StepDoubling(Solver):
    """Any solver with an error estimate by step doubling: each step is taken at once and in two halves.

    The difference is the error; the halves are kept. Three steps of the solver per attempt; the Brownian path is asked
    for the two halves, which add up by Chen's relation.

    Parameters
    ----------
    solver : Solver

    Attributes
    ----------
    solver : Solver
    sense, levy_area, noise_types, kind, tableau
        Those of `solver`.

    Raises
    ------
    TypeError
        If `solver` is not a solver, or is a `StepDoubling`.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.sde.StepDoubling(mk.sde.SlowRK()).has_error
    True
    """

    has_error = True
    pieces = 2

    def __init__(self, solver: Any) -> None:
        if not isinstance(solver, Solver) or isinstance(solver, StepDoubling):
            got = f"the class {solver.__name__}" if isinstance(solver, type) else repr(solver)
            raise TypeError(f"solver: expected a solver such as mckean.sde.Heun(), got {got}")
        self.solver = solver
        self.sense, self.levy_area, self.kind = solver.sense, solver.levy_area, solver.kind
        self.noise_types, self.tableau = solver.noise_types, solver.tableau

    def __repr__(self) -> str:
        return f"StepDoubling({self.solver!r})"

    def order(self, noise: str) -> float:
        """Return the strong order for a kind of noise, that of the solver."""
        return self.solver.order(noise)

    def error_order(self, sde: SDE) -> float:
        """Return the order of the error of one step, that of the solver."""
        return self.solver.error_order(sde)

    def check(self, sde: SDE) -> None:
        """Raise ValueError if the solver does not fit the noise or the sense of an equation."""
        self.solver.check(sde)

    def start(self, field: Field, t: Any, y: Input) -> Carry:
        return self.solver.start(field, t, y)

    def refresh(self, field: Field, t: Any, y: Input, carry: Carry) -> Carry:
        return self.solver.refresh(field, t, y, carry)

    def state(self, carry: Carry) -> dict[str, Any] | None:
        return self.solver.state(carry)

    def attempt(
        self, field: Field, whole: Span, parts: list[tuple[Span, Noise]], y: Input, carry: Carry
    ) -> tuple[Input, Input | None, Carry]:
        (left, first), (right, second) = parts
        step = self.solver.step
        coarse = step(field, whole, _chen(field, first, second), y, carry)[0]
        middle, _, kept = step(field, left, first, y, carry)
        fine, _, kept = step(field, right, second, middle, kept)
        (error,) = _combine_checked(fine, np.array([[1.0, -1.0]]), [fine.data, coarse.data])
        return fine, as_input(error.result(), "error"), kept


# The whole from its halves of equal length, whose W, H, K are the columns.
_CHEN = np.array(
    [
        [1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.25, -0.25, 0.5, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.125, -0.125, 0.25, 0.25],
    ]
)


def _chen(field: Field, first: Noise, second: Noise) -> Noise:
    count = 1 + (first.H is not None) + (first.K is not None)
    pairs = [(first.W, second.W), (first.H, second.H), (first.K, second.K)][:count]
    data = [x for pair in pairs for x in pair]
    like = replace(field.like, shape=tuple(first.W.shape))
    outs = _combine_checked(like, np.ascontiguousarray(_CHEN[:count, : 2 * count]), data)
    return Noise(field.like, *[out.data for out in outs])


_GENERAL: tuple[type[Solver], ...] = (
    EulerMaruyama,
    EulerHeun,
    Heun,
    ItoMilstein,
    StratonovichMilstein,
    SEA,
    SRA1,
    ShARK,
    GeneralShARK,
    SlowRK,
    SPaRK,
    ReversibleHeun,
)
