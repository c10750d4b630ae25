"""Solvers of the underdamped Langevin diffusion: the sampler's steps, orders, adaptive steps."""

import collections
import math
from types import SimpleNamespace

import numpy as np
import pytest
import reference

import mckean as mk
from mckean import sde
from mckean.samplers import UnderdampedLangevin as Chain
from mckean.sde._builtin import UnderdampedLangevin

SOLVERS = {
    sde.QUICSORT: 3,
    sde.ShOULD: 3,
    sde.UBU: 2,
    sde.ALIGN: 2,
    sde.BAOAB: 1,
    sde.ExponentialEuler: 1,
}
AREAS = {"none": "W", "space-time": "WH", "space-time-time": "WHK"}


def double_well(x):
    return x - x**3 - 0.5 * x[:, ::-1]


def equation(gradient=double_well):
    return UnderdampedLangevin(gradient, friction=1.4, u=0.7)


def start(n=20):
    return mk.random.normal(4, (n, 4))


def tree(seed=3, n=20, t1=1.0, tol=2**-10, **settings):
    return mk.BrownianTree(seed, (n, 2), t1=t1, tol=tol, levy_area="space-time-time", **settings)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solution_is_the_samplers_chain(solver, xp, dtype):
    """The same numbers from the same path, saved along the way."""
    ts, y0 = [0.0, 0.25, 0.5], start().astype(dtype)
    path = tree(dtype=dtype, like=xp.asarray(y0))

    def gradient(x):
        return xp.asarray(double_well(xp.to_numpy(x)))

    found = sde.sdeint(
        equation(gradient), xp.asarray(y0), ts, solver=solver(), controller=0.125, tree=path
    )
    chain = Chain(gradient, 0.125, friction=1.4, u=0.7, scheme=solver.scheme, noise=path)
    state = chain.init(xp.asarray(y0[:, :2].copy()), v0=xp.asarray(y0[:, 2:].copy()))
    limit = {"float32": 1e-5, "float64": 1e-13}[dtype]
    for save in (1, 2):
        for _ in range(2):
            state = chain.step(state)
        got = xp.to_numpy(found.ys)[save]
        np.testing.assert_allclose(got[:, :2], xp.to_numpy(state.x), rtol=0, atol=limit)
        np.testing.assert_allclose(got[:, 2:], xp.to_numpy(state.v), rtol=0, atol=limit)
    assert xp.is_array(found.ys) and xp.dtype(found.ys) == dtype
    assert (found.stats["evaluations"] == state.n_gradients).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_strong_order(solver):
    """RMS error against a fine solution on the same 150 paths, over three halvings."""
    n, order = 150, SOLVERS[solver]
    path = tree(n=n, t1=2.0)

    def end(kind, level):
        return sde.sdeint(
            equation(), start(n), [0.0, 2.0], solver=kind(), controller=2.0**-level, tree=path
        ).ys[-1]

    fine = end(sde.QUICSORT, 9)
    levels = (3, 4, 5, 6) if order == 3 else (4, 5, 6, 7)
    errors = [math.sqrt(((end(solver, level) - fine) ** 2).mean()) for level in levels]
    slope = -np.polyfit(levels, np.log2(errors), 1)[0]
    assert abs(slope - order) < 0.2
    assert solver().order("additive") == order
    assert solver().error_order(equation()) == order + 0.5


@pytest.mark.parametrize("inner", [sde.UBU, sde.ExponentialEuler])
def test_strong_order_of_step_doubling(inner):
    """That of its solver: the halves are kept."""
    n, path, solver = 100, tree(n=100), sde.StepDoubling(inner())

    def end(own, level):
        call = dict(solver=own, controller=2.0**-level, tree=path)
        return sde.sdeint(equation(), start(n), [0.0, 1.0], **call).ys[-1]

    fine, levels = end(sde.QUICSORT(), 9), (3, 4, 5, 6)
    errors = [math.sqrt(((end(solver, level) - fine) ** 2).mean()) for level in levels]
    slope = -np.polyfit(levels, np.log2(errors), 1)[0]
    assert slope == pytest.approx(SOLVERS[inner], abs=0.2)
    assert solver.order("additive") == SOLVERS[inner]


# ---- weak orders: one step by quadrature over W, H and K against the expansion of the exact semigroup ----

WEAK = {
    sde.QUICSORT: 3,
    sde.ShOULD: 3,
    sde.UBU: 2,
    sde.ALIGN: 2,
    sde.BAOAB: 2,
    sde.ExponentialEuler: 1,
}
SLOPE = [-0.3, 1.0, 0.0, 0.5]  # of the potential, by powers of x
MOMENTS = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2), (2, 1), (0, 3)]  # powers of x and of v
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(10)
WEIGHTS = np.einsum("i,j,k->ijk", *[WEIGHTS / WEIGHTS.sum()] * 3).ravel()


class Quadrature:
    """Every path is a triple of nodes: W, H and K of one step."""

    def increment(self, s, t):
        nodes = [math.sqrt((t - s) / part) * NODES for part in (1, 12, 720)]
        table = [x.reshape(-1, 1) for x in np.meshgrid(*nodes, indexing="ij")]
        return SimpleNamespace(**dict(zip("WHK", table, strict=True)))


def generated(polynomial, friction, u):
    """The generator of the diffusion on a polynomial {(power of x, power of v): factor}."""
    out = collections.Counter()
    for (i, j), c in polynomial.items():
        out[i - 1, j + 1] += c * i
        out[i, j] -= friction * j * c
        for k, slope in enumerate(SLOPE):
            out[i + k, j - 1] -= u * j * c * slope
        out[i, j - 2] += friction * u * j * (j - 1) * c
    return {powers: c for powers, c in out.items() if c}


def expectation(powers, x, v, h, friction, u):
    """Of x**i v**j after the time h, to order h**13."""
    total, polynomial = 0.0, {powers: 1.0}
    for k in range(14):
        value = sum(c * x**i * v**j for (i, j), c in polynomial.items())
        total += h**k / math.factorial(k) * value
        polynomial = generated(polynomial, friction, u)
    return total


@pytest.mark.parametrize("solver", WEAK)
def test_weak_order(solver):
    """One step from a point of a quartic potential: its errors have one order more."""
    friction, u, x, v = 1.4, 0.7, 0.6, -0.4
    problem = UnderdampedLangevin(
        lambda q: -(SLOPE[0] + SLOPE[1] * q + SLOPE[3] * q**3), friction=friction, u=u
    )
    y0, levels, errors = np.tile([x, v], (WEIGHTS.size, 1)), (4, 5, 6, 7), []
    for level in levels:
        h = 2.0**-level
        call = dict(solver=solver(), controller=h, tree=Quadrature())
        y = sde.sdeint(problem, y0, [0.0, h], **call).ys[-1]
        wrong = [
            WEIGHTS @ (y[:, 0] ** i * y[:, 1] ** j) - expectation((i, j), x, v, h, friction, u)
            for i, j in MOMENTS
        ]
        errors.append(np.linalg.norm(wrong))
    slope = -np.polyfit(levels, np.log2(errors), 1)[0]
    assert slope - 1 == pytest.approx(WEAK[solver], abs=0.2), errors


@pytest.mark.parametrize("solver", SOLVERS)
def test_adaptive_steps_converge_to_the_path(solver):
    path = tree(n=10, tol=2**-12)
    fine = sde.sdeint(
        equation(), start(10), [0.0, 1.0], solver=sde.QUICSORT(), controller=2**-9, tree=path
    ).ys[-1]
    own = solver() if solver().has_error else sde.StepDoubling(solver())
    errors = []
    for atol in (0.1, 0.005):
        found = sde.sdeint(
            equation(),
            start(10),
            [0.0, 0.4, 1.0],
            solver=own,
            controller=sde.PIDController(0.0, atol, dtmin=2**-9, dt0=0.1),
            tree=path,
        )
        errors.append(np.abs(found.ys[-1] - fine).max())
    assert errors[1] < 0.4 * errors[0] and errors[1] < 0.1


def test_the_error_of_align_is_the_formula():
    """-u B(1) (f1 - f0) in v and nothing in x, for steps that differ by path."""
    n, c, u = 5, 1.4, 0.7
    y, h = start(n), np.linspace(0.1, 1.3, n)
    values = mk.random.normal(8, (2, n, 2)) * np.sqrt(h[:, None] * [[[1]], [[1 / 12]]])
    field = sde._field.Field(equation(), mk._array.as_input(y, "y"), 0.0)
    noise = sde._field.Noise(field.like, *values)
    solver, like = sde.ALIGN(), field.like
    carry = solver.start(field, 0.0, like)
    span = sde._field.Span(like, 0.0 * h, h, h)
    y1, error, carry1 = solver.step(field, span, noise, like, carry)
    for i in range(n):
        x, v = reference.underdamped_step(
            "align",
            lambda z: -double_well(z),
            y[i : i + 1, :2],
            y[i : i + 1, 2:],
            h[i],
            c,
            u,
            values[0, i],
            values[1, i],
            None,
        )
        np.testing.assert_allclose(y1.data[i], np.hstack([x, v])[0], rtol=0, atol=1e-13)
        B = (math.exp(-c * h[i]) + c * h[i] - 1) / (c * c * h[i])
        change = double_well(x) - double_well(y[i : i + 1, :2])
        np.testing.assert_allclose(error.data[i], [0, 0, *(u * B * change[0])], rtol=0, atol=1e-14)
    assert (carry1[0].data == double_well(y1.data[:, :2].copy())).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_other_equations_and_states_are_refused(solver):
    other = sde.SDE(lambda t, y: -y, lambda t, y: 0 * y + 1.0, noise="additive")
    with pytest.raises(ValueError, match=f"solver: {solver.__name__} solves .*Langevin alone"):
        sde.sdeint(other, start(2), [0.0, 1.0], solver=solver(), controller=0.1)
    with pytest.raises(ValueError, match=r"y0?: expected positions and velocities"):
        sde.sdeint(equation(), np.ones((2, 3)), [0.0, 1.0], solver=solver(), controller=0.1)
    with pytest.raises(ValueError, match="noise: expected one of 'additive'"):
        solver().order("general")
    assert solver().levy_area in AREAS
