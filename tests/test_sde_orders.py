"""Strong and weak orders of every solver, for every kind of noise, within 0.2 of theory."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from mckean import BrownianTree
from mckean import sde as S
from mckean._array import as_input
from mckean.sde._field import Field, Noise, Span

EXPONENTS = [3, 4, 5, 6], [4, 5, 6, 7]  # of 1/2; the latter for the solver that gets there late
N = 300  # paths; their seeds are fixed, so that a slope is a fixed number
ALL = [
    S.EulerMaruyama,
    S.EulerHeun,
    S.Heun,
    S.ItoMilstein,
    S.StratonovichMilstein,
    S.SEA,
    S.SRA1,
    S.ShARK,
    S.GeneralShARK,
    S.SlowRK,
    S.SPaRK,
    S.ReversibleHeun,
]
# The table of the literature: additive, commutative (diagonal, scalar), general; None where the solver must refuse.
ORDERS = {
    S.EulerMaruyama: (1.0, 0.5, 0.5),
    S.EulerHeun: (1.0, 1.0, 0.5),
    S.Heun: (1.0, 1.0, 0.5),
    S.ItoMilstein: (1.0, 1.0, None),
    S.StratonovichMilstein: (1.0, 1.0, None),
    S.SEA: (1.0, None, None),
    S.SRA1: (1.5, None, None),
    S.ShARK: (1.5, None, None),
    S.GeneralShARK: (1.5, 1.0, 0.5),
    S.SlowRK: (1.5, 1.5, 0.5),
    S.SPaRK: (1.5, 1.0, 0.5),
    S.ReversibleHeun: (1.0, 1.0, 0.5),
}
COLUMN = {"additive": 0, "diagonal": 1, "scalar": 1, "commutative": 1, "general": 2}
SPEED = 0.8  # of the flow along the driving path, in the problems with a closed form


def solver_name(kind):
    return kind.__name__


# ---- problems: each has a Stratonovich drift, a diffusion, its slope, a start, and a closed form of (t, W) or None ----


def additive():
    """Coupled wells under strong noise whose volatility changes in time: each coordinate has its own."""

    def drift(t, y):
        return -np.sin(2 * y) - 0.5 * y[:, ::-1] + 0.5 * math.cos(3 * t)

    def diffusion(t, y):
        return np.stack(
            [np.full(len(y), 1 + 0.3 * math.cos(2 * t)), np.full(len(y), 0.8 + 0.3 * t)], 1
        )

    return "additive", drift, diffusion, None, [0.5, 0.0], 2, None


def additive_matrix():
    """Three noises in two coordinates."""
    matrix = np.array([[0.7, 0.5, -0.4], [0.0, 0.8, 0.6]])

    def drift(t, y):
        return -np.sin(2 * y) - 0.5 * y[:, ::-1]

    def diffusion(t, y):
        return np.broadcast_to((1 + 0.3 * math.sin(2 * t)) * matrix, (len(y), 2, 3))

    return "additive", drift, diffusion, None, [0.5, 0.0], 3, None


def diagonal():
    """y = arctan(SPEED t + a W + tan y0), whose flow has the speed cos^2 y along anything."""
    a = np.array([0.7, 1.0])

    def drift(t, y):
        return SPEED * np.cos(y) ** 2

    def diffusion(t, y):
        return a * np.cos(y) ** 2

    def slope(t, y):
        return -2 * a * a * np.sin(y) * np.cos(y) ** 3

    def exact(t, w, y0):
        return np.arctan(SPEED * t + a * w + np.tan(y0))

    return "diagonal", drift, diffusion, slope, [0.3, -0.5], 2, exact


def _slope_of_flow(y):
    """(D g) g for g = (c^2, y1 c^2) with c = cos y1."""
    c, s = np.cos(y[:, 0]), np.sin(y[:, 0])
    return np.stack([-2 * c**3 * s, c**4 - 2 * y[:, 0] * c**3 * s], 1)


def scalar():
    """The flow of one field (cos^2 y1, y1 cos^2 y1): tan y1 moves, y2 - y1^2 / 2 is constant."""

    def field(y):
        return np.stack([np.cos(y[:, 0]) ** 2, y[:, 0] * np.cos(y[:, 0]) ** 2], 1)

    def slope(t, y):
        return _slope_of_flow(y)

    def exact(t, w, y0):
        y1 = np.arctan(np.tan(y0[:, 0]) + SPEED * t + w[:, 0])
        return np.stack([y1, y0[:, 1] + (y1**2 - y0[:, 0] ** 2) / 2], 1)

    return (
        "scalar",
        lambda t, y: SPEED * field(y),
        lambda t, y: field(y),
        slope,
        [0.2, 0.1],
        1,
        exact,
    )


def commutative():
    """Two commuting fields, that of `scalar` and (0, 1)."""

    def columns(y):
        s = np.cos(y[:, 0]) ** 2
        zero, one = np.zeros(len(y)), np.ones(len(y))
        return np.stack([np.stack([s, y[:, 0] * s], 1), np.stack([zero, one], 1)], 2)

    def slope(t, y):
        return _slope_of_flow(y)

    def exact(t, w, y0):
        y1 = np.arctan(np.tan(y0[:, 0]) + SPEED * t + w[:, 0])
        return np.stack([y1, y0[:, 1] + (y1**2 - y0[:, 0] ** 2) / 2 + w[:, 1]], 1)

    return (
        "commutative",
        lambda t, y: SPEED * columns(y)[:, :, 0],
        lambda t, y: columns(y),
        slope,
        [0.2, 0.1],
        2,
        exact,
    )


def general():
    """[[1, 0.3 sin y2], [0.2, y1]], which do not commute; slope by hand."""

    def diffusion(t, y):
        one = np.ones(len(y))
        rows = np.stack([one, 0.3 * np.sin(y[:, 1])], 1), np.stack([0.2 * one, y[:, 0]], 1)
        return np.stack(rows, 1)

    def slope(t, y):
        # (D g_j) g_j of the columns (1, .2) and (.3 sin y2, y1)
        return np.stack([0.3 * np.cos(y[:, 1]) * y[:, 0], 0.3 * np.sin(y[:, 1])], 1)

    return "general", lambda t, y: -0.5 * y, diffusion, slope, [0.5, -0.3], 2, None


PROBLEMS = [additive, additive_matrix, diagonal, scalar, commutative, general]


def equation(problem, sense):
    noise, drift, diffusion, slope, _, _, _ = problem
    out = S.SDE(drift, diffusion, noise=noise, interpretation="stratonovich", diffusion_slope=slope)
    return out.to_ito() if sense == "ito" else out


_kept = {}


def setting(make):
    """Problem, tree and reference, made once: areas of the tree serve all solvers."""
    if make not in _kept:
        problem = make()
        y0 = np.tile(problem[4], (N, 1))
        tree = BrownianTree(5, (N, problem[5]), tol=2.0**-11, levy_area="space-time")
        if problem[6] is not None:
            reference = problem[6](1.0, tree.value(1.0), y0)
        else:
            solver, step = (
                (S.Heun(), 2.0**-11) if problem[0] == "general" else (S.ShARK(), 2.0**-10)
            )
            sde = equation(problem, "stratonovich")
            reference = S.sdeint(sde, y0, [0.0, 1.0], solver=solver, controller=step, tree=tree).ys[
                -1
            ]
        _kept[make] = problem, tree, y0, reference
    return _kept[make]


def slope_of(solver, make, exponents):
    problem, tree, y0, reference = setting(make)
    sde = equation(problem, solver.sense)
    errors = []
    for k in exponents:
        out = S.sdeint(sde, y0, [0.0, 1.0], solver=solver, controller=2.0**-k, tree=tree)
        errors.append(math.sqrt(np.mean((out.ys[-1] - reference) ** 2)))
    return np.polyfit(-np.array(exponents, float), np.log2(errors), 1)[0], errors


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ALL, ids=solver_name)
def test_strong_order(kind, make):
    noise = make()[0]
    order = ORDERS[kind][COLUMN[noise]]
    solver = kind()
    if order is None:
        assert noise not in solver.noise_types
        with pytest.raises(ValueError, match="noise"):
            solver.order(noise)
        return
    assert solver.order(noise) == order and noise in solver.noise_types
    assert solver.error_order(equation(make(), solver.sense)) == order + 0.5
    slope, errors = slope_of(solver, make, EXPONENTS[kind is S.ReversibleHeun])
    assert slope == pytest.approx(order, abs=0.2), errors


DOUBLED = [
    (S.EulerMaruyama, diagonal),
    (S.Heun, general),
    (S.ItoMilstein, commutative),
    (S.ShARK, additive),
    (S.SlowRK, scalar),
    (S.SPaRK, diagonal),
    (S.ReversibleHeun, diagonal),
]


@pytest.mark.parametrize("kind, make", DOUBLED, ids=lambda f: f.__name__)
def test_strong_order_of_step_doubling(kind, make):
    """That of its solver: the halves are kept."""
    order, solver = ORDERS[kind][COLUMN[make()[0]]], S.StepDoubling(kind())
    assert solver.order(make()[0]) == order
    slope, errors = slope_of(solver, make, EXPONENTS[kind is S.ReversibleHeun])
    assert slope == pytest.approx(order, abs=0.2), errors


# ---- weak orders: moments of one step by quadrature over W and H, no sampling error ----

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
WEIGHTS = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2
MU, SIGMA, RATE = 0.8, 0.6, 1.3


class Quadrature:
    """Every path is one pair of nodes: W and H of one step."""

    def increment(self, s, t):
        w, h = np.meshgrid(math.sqrt(t - s) * NODES, math.sqrt((t - s) / 12) * NODES, indexing="ij")
        return SimpleNamespace(W=w.reshape(-1, 1), H=h.reshape(-1, 1), K=None)


def one_step(solver, sde, start, h):
    y0 = np.full((WEIGHTS.size, 1), start)
    return S.sdeint(sde, y0, [0.0, h], solver=solver, controller=h, tree=Quadrature()).ys[-1][:, 0]


def weak_slope(errors, exponents):
    return np.polyfit(-np.array(exponents, float), np.log2(np.abs(errors)), 1)[0]


# Orders of E y and E y^2 of geometric Brownian motion, and of mean and variance of the Ornstein-Uhlenbeck process.
WEAK = {
    S.EulerMaruyama: (1, 1, 1, 1),
    S.EulerHeun: (1, 1, 1, 1),
    S.Heun: (1, 1, 2, 2),
    S.ItoMilstein: (1, 1, 1, 1),
    S.StratonovichMilstein: (1, 1, 1, 1),
    S.SEA: (None, None, 1, 1),
    S.SRA1: (None, None, 2, 2),
    S.ShARK: (None, None, 2, 2),
    S.GeneralShARK: (1, 1, 2, 2),
    S.SlowRK: (2, 2, 2, 2),
    S.SPaRK: (1, 1, 2, 2),
    S.ReversibleHeun: (1, 1, 2, 2),
}


@pytest.mark.parametrize("kind", ALL, ids=solver_name)
def test_weak_order(kind):
    solver, exponents = kind(), [4, 5, 6, 7]
    if WEAK[kind][0] is not None and kind is not S.ReversibleHeun:
        sde = S.SDE(
            lambda t, y: MU * y, lambda t, y: SIGMA * y, diffusion_slope=lambda t, y: SIGMA**2 * y
        )
        sde = sde if solver.sense == "ito" else sde.to_stratonovich()
        errors = [[], []]
        for k in exponents:
            growth = one_step(solver, sde, 1.0, 2.0**-k)
            errors[0].append((WEIGHTS @ growth) ** 2**k - math.exp(MU))
            errors[1].append((WEIGHTS @ growth**2) ** 2**k - math.exp(2 * MU + SIGMA**2))
        for part, order in zip(errors, WEAK[kind][:2], strict=True):
            assert weak_slope(part, exponents) == pytest.approx(order, abs=0.2), part

    if kind is S.ReversibleHeun:  # its step also depends on z: not one number per step
        return
    ou = S.SDE(
        lambda t, y: -RATE * y,
        lambda t, y: 0 * y + SIGMA,
        noise="additive",
        interpretation="stratonovich",
    )
    errors = [[], []]
    for k in exponents:
        noise = one_step(solver, ou, 0.0, 2.0**-k)
        factor = (one_step(solver, ou, 1.0, 2.0**-k) - noise)[0]
        errors[0].append(factor**2**k - math.exp(-RATE))
        variance = (WEIGHTS @ noise**2) * (factor ** (2 * 2**k) - 1) / (factor**2 - 1)
        errors[1].append(variance - SIGMA**2 * -math.expm1(-2 * RATE) / (2 * RATE))
    for part, order in zip(errors, WEAK[kind][2:], strict=True):
        assert weak_slope(part, exponents) == pytest.approx(order, abs=0.2), part


class Halves:
    """Every path is four nodes: W and H of both halves of one step. Exact for polynomials up to degree 13."""

    weights = np.polynomial.hermite_e.hermegauss(7)[1]
    weights = np.einsum("i,j,k,l->ijkl", *[weights / weights.sum()] * 4).ravel()

    def increment(self, s, t):
        nodes = np.polynomial.hermite_e.hermegauss(7)[0]
        table = np.meshgrid(nodes, nodes, nodes, nodes, indexing="ij")
        w, h = table[:2] if s == 0 else table[2:]
        w, h = math.sqrt(t - s) * w, math.sqrt((t - s) / 12) * h
        return SimpleNamespace(W=w.reshape(-1, 1), H=h.reshape(-1, 1), K=None)


@pytest.mark.parametrize("kind", [S.EulerMaruyama, S.Heun, S.ItoMilstein, S.SlowRK])
def test_weak_order_of_step_doubling(kind):
    """Two moments of geometric Brownian motion have the order they have without it, and the error of half the step."""
    solver = S.StepDoubling(kind())
    sde = S.SDE(
        lambda t, y: MU * y, lambda t, y: SIGMA * y, diffusion_slope=lambda t, y: SIGMA**2 * y
    )
    sde = sde if solver.sense == "ito" else sde.to_stratonovich()
    y0, exponents, errors = np.ones((Halves.weights.size, 1)), [3, 4, 5, 6], [[], []]
    for k in exponents:
        h = 2.0**-k
        call = dict(controller=h, tree=Halves())
        growth = S.sdeint(sde, y0, [0.0, h], solver=solver, **call).ys[-1][:, 0]
        half = one_step(kind(), sde, 1.0, h / 2)
        for power, exact in ((1, MU), (2, 2 * MU + SIGMA**2)):
            mean = Halves.weights @ growth**power
            assert mean == pytest.approx((WEIGHTS @ half**power) ** 2, rel=1e-13)
            errors[power - 1].append(mean**2**k - math.exp(exact))
    for part, order in zip(errors, WEAK[kind][:2], strict=True):
        assert weak_slope(part, exponents) == pytest.approx(order, abs=0.2), part


def test_weak_order_of_reversible_heun():
    """Its step maps (y, z) linearly: the mean of that matrix is what counts."""
    exponents, like = [4, 5, 6, 7], as_input(np.zeros((WEIGHTS.size, 1)), "y0")
    problems = {
        "diagonal": (lambda t, y: (MU - SIGMA**2 / 2) * y, lambda t, y: SIGMA * y, math.exp(MU), 1),
        "additive": (lambda t, y: -RATE * y, lambda t, y: 0 * y, math.exp(-RATE), 2),
    }
    for noise, (drift, diffusion, exact, order) in problems.items():
        sde = S.SDE(drift, diffusion, noise=noise, interpretation="stratonovich")
        errors = []
        for k in exponents:
            h, solver = 2.0**-k, S.ReversibleHeun()
            field, span = Field(sde, like, 0.0), Span(like, 0.0, h, h)
            mean = np.zeros((2, 2))
            for column, start in enumerate([(1.0, 0.0), (0.0, 1.0)]):
                y, z = (as_input(np.full((WEIGHTS.size, 1), x), "y") for x in start)
                carry = z, field.drift(0.0, z), field.diffusion(0.0, z)
                step = Noise(like, Quadrature().increment(0.0, h).W)
                y1, _, (z1, _, _) = solver.step(field, span, step, y, carry)
                mean[:, column] = WEIGHTS @ y1.array[:, 0], WEIGHTS @ z1.array[:, 0]
            errors.append((np.linalg.matrix_power(mean, 2**k) @ [1.0, 1.0])[0] - exact)
        assert weak_slope(errors, exponents) == pytest.approx(order, abs=0.2), errors
