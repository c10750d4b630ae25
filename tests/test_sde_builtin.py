"""The built-in equations: their formulas, conversions and moments, in every framework."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from mckean import targets
from mckean.sde._builtin import (
    CoxIngersollRoss,
    GeometricBrownian,
    Langevin,
    Lorenz,
    OrnsteinUhlenbeck,
    UnderdampedLangevin,
)

RNG = np.random.default_rng(0)
Y = RNG.uniform(0.2, 2.0, (5, 3))
ARRAY = np.array([0.5, 1.0, 2.0])


def equations():
    return {
        "ou": OrnsteinUhlenbeck(ARRAY, 0.3, sigma=ARRAY[::-1]),
        "gbm": GeometricBrownian(0.1, ARRAY),
        "cir": CoxIngersollRoss(1.5, ARRAY, 0.7),
        "lorenz": Lorenz(noise=ARRAY),
        "langevin": Langevin(targets.Gaussian(np.zeros(3), scale=ARRAY), temperature=0.5),
        "kinetic": UnderdampedLangevin(targets.Gaussian(np.zeros(3)), friction=2.0, u=0.5),
    }


KINDS = tuple(equations())


def state(kind):
    return np.hstack([Y, -Y]) if kind == "kinetic" else Y


def test_formulas_against_literal_ones():
    e = equations()
    expected = {
        "ou": (ARRAY * (0.3 - Y), ARRAY[::-1] + 0 * Y),
        "gbm": (0.1 * Y, ARRAY * Y),
        "cir": (1.5 * (ARRAY - Y), 0.7 * np.sqrt(Y)),
        "lorenz": (
            np.array([[10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c] for a, b, c in Y]),
            ARRAY + 0 * Y,
        ),
        "langevin": (-Y / ARRAY**2, 1.0 + 0 * Y),
    }
    for kind, (drift, diffusion) in expected.items():
        np.testing.assert_allclose(e[kind].drift(0.0, Y), drift, rtol=1e-14, err_msg=kind)
        np.testing.assert_allclose(e[kind].diffusion(0.0, Y), diffusion, rtol=1e-14)
    x, v = Y, -Y
    kinetic = e["kinetic"]
    np.testing.assert_allclose(
        kinetic.drift(0.0, state("kinetic")), np.hstack([v, -2.0 * v - 0.5 * x]), rtol=1e-14
    )
    matrix = np.vstack([np.zeros((3, 3)), np.sqrt(2.0) * np.eye(3)])
    np.testing.assert_allclose(
        kinetic.diffusion(0.0, state("kinetic")), np.broadcast_to(matrix, (5, 6, 3))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_frameworks_agree(kind, dtype, xp):
    equation, y = equations()[kind], state(kind).astype(dtype)
    at = xp.asarray(y)
    for t in (0.25, xp.asarray(np.full(len(y), 0.25, dtype))):
        for function in (equation.drift, equation.diffusion, equation.diffusion_slope):
            if function is None:
                continue
            got = function(t, at)
            assert xp.is_array(got)
            assert xp.dtype(got) == dtype
            np.testing.assert_allclose(
                xp.to_numpy(got), function(0.25, y), rtol=1e-6 if dtype == "float32" else 1e-14
            )


def test_jit_of_jax_and_autograd_of_torch():
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    for kind in ("ou", "gbm", "cir", "lorenz"):
        equation = equations()[kind]
        out = jax.jit(lambda y, e=equation: e.drift(0.0, y) + e.diffusion(0.0, y))(Y)
        np.testing.assert_allclose(
            out, equation.drift(0.0, Y) + equation.diffusion(0.0, Y), rtol=1e-6
        )
    y = torch.tensor(Y, requires_grad=True)
    equations()["gbm"].drift(0.0, y).sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), 0.1)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "kinetic"])
def test_slope_is_the_derivative_of_half_the_square(kind):
    equation, step = equations()[kind], 1e-5
    up, down = equation.diffusion(0.0, Y + step), equation.diffusion(0.0, Y - step)
    np.testing.assert_allclose(
        equation.diffusion_slope(0.0, Y), (up**2 - down**2) / (4 * step), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_moves_the_drift_by_half_the_slope_and_back(kind):
    equation = equations()[kind]
    other = equation.to_stratonovich()
    assert type(other) is type(equation)
    assert other.interpretation == "stratonovich"
    assert other.noise == equation.noise
    y = state(kind)
    slope = 0.0 if kind == "kinetic" else equation.diffusion_slope(0.0, y)
    np.testing.assert_allclose(
        other.drift(0.0, y), equation.drift(0.0, y) - 0.5 * slope, rtol=1e-13, atol=1e-13
    )
    np.testing.assert_array_equal(other.diffusion(0.0, y), equation.diffusion(0.0, y))
    back = other.to_ito()
    assert back.interpretation == "ito"
    for name, value in back.parameters().items():
        np.testing.assert_allclose(value, equation.parameters()[name], atol=1e-15)
    assert equation.to_ito() is equation
    assert other.to_stratonovich() is other


@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
@pytest.mark.parametrize("kind", ["ou", "gbm", "cir"])
def test_moments_solve_their_equations(kind, sense):
    """m' = E f and V' = 2 Cov(y, f) + E g^2 hold for the closed forms, in either sense."""
    p = equations()[kind].parameters()
    equation = type(equations()[kind])(*p.values(), interpretation=sense)
    ito, t, h = equation.to_ito(), 0.7, 1e-4

    def both(at):
        return equation.mean(at, Y), equation.variance(at, Y) + 0 * Y

    mean, variance = both(t)
    mean_rate, variance_rate = (
        (a - b) / (2 * h) for a, b in zip(both(t + h), both(t - h), strict=True)
    )
    np.testing.assert_allclose(mean_rate, ito.drift(0.0, mean), rtol=1e-6)
    slope = (ito.drift(0.0, mean + 0.1) - ito.drift(0.0, mean - 0.1)) / 0.2
    square = ito.diffusion(0.0, mean) ** 2
    if kind == "gbm":  # E y^2 rather than (E y)^2; for the others g^2 is linear in y
        square = square * (1 + variance / mean**2)
    np.testing.assert_allclose(variance_rate, 2 * slope * variance + square, rtol=1e-5)
    np.testing.assert_array_equal(both(0.0)[0], Y)
    np.testing.assert_array_equal(both(0.0)[1], 0.0)


@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
def test_exact_solution_has_the_moments(sense):
    equation = GeometricBrownian(0.3, 0.5, interpretation=sense)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights, t = weights / weights.sum(), 1.3
    y0 = np.full((40, 1), 2.0)
    y = equation.exact(t, y0, np.sqrt(t) * nodes[:, None])[:, 0]
    mean = weights @ y
    np.testing.assert_allclose(mean, equation.mean(t, y0)[0, 0], rtol=1e-12)
    np.testing.assert_allclose(
        weights @ (y - mean) ** 2, equation.variance(t, y0)[0, 0], rtol=1e-10
    )


@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
def test_exact_solution_is_the_limit_of_heun(sense):
    equation = GeometricBrownian(0.3, 0.5, interpretation=sense)
    strat, n, t = equation.to_stratonovich(), 4096, 1.0
    y = np.ones((8, 1))
    W = np.zeros((8, 1))
    rng = np.random.default_rng(3)
    for _ in range(n):
        dW = np.sqrt(t / n) * rng.standard_normal(y.shape)
        a = t / n * strat.drift(0.0, y) + dW * strat.diffusion(0.0, y)
        b = t / n * strat.drift(0.0, y + a) + dW * strat.diffusion(0.0, y + a)
        y, W = y + (a + b) / 2, W + dW
    np.testing.assert_allclose(y, equation.exact(t, np.ones((8, 1)), W), rtol=2e-3)


def test_rates_of_zero_are_limits():
    assert OrnsteinUhlenbeck(0.0, sigma=2.0).variance(3.0).item() == 12.0
    np.testing.assert_array_equal(OrnsteinUhlenbeck(0.0, 5.0).mean(3.0, Y), Y)
    near = OrnsteinUhlenbeck(1e-12).variance(3.0)
    np.testing.assert_allclose(near, 3.0, rtol=1e-10)
    explosive = OrnsteinUhlenbeck(-1.0, 0.0, 1.0)
    np.testing.assert_allclose(explosive.variance(1.0), np.expm1(2.0) / 2)


def test_moments_keep_the_framework(xp):
    at = xp.asarray(Y.astype("float32"))
    for kind in ("ou", "gbm", "cir"):
        assert xp.dtype(equations()[kind].mean(1.0, at)) == "float32"
    for kind in ("gbm", "cir"):
        assert xp.dtype(equations()[kind].variance(1.0, at)) == "float32"
    assert xp.dtype(equations()["gbm"].exact(1.0, at, at)) == "float32"


def test_diffusion_that_repeats_takes_no_memory():
    diffusion = equations()["kinetic"].diffusion(0.0, np.zeros((10**6, 6)))
    assert diffusion.shape == (10**6, 6, 3)
    assert diffusion.strides[0] == 0


def test_square_root_below_zero():
    cir = CoxIngersollRoss(1.0, 1.0, 1.0)
    y = np.array([[-0.5, 0.0]])
    np.testing.assert_array_equal(cir.diffusion(0.0, y), 0.0)
    np.testing.assert_array_equal(cir.drift(0.0, y), [[1.5, 1.0]])


def test_dimensions_and_parameters():
    assert OrnsteinUhlenbeck(1.0).dim is None
    assert GeometricBrownian(1.0, ARRAY).dim == 3
    assert Lorenz().dim == Lorenz().noise_dim == 3
    assert (equations()["kinetic"].dim, equations()["kinetic"].noise_dim) == (6, 3)
    assert Langevin(lambda x: -x).dim is None
    for kind, equation in equations().items():
        assert equation.kind == kind
        for value in equation.parameters().values():
            assert value.dtype == np.float64
            assert not value.flags.writeable or value.ndim == 0
        assert type(equation).__name__ in repr(equation)


def test_noise_names():
    names = {kind: equation.noise for kind, equation in equations().items()}
    assert names == {k: "diagonal" if k in ("gbm", "cir") else "additive" for k in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_pickles(kind):
    equation = pickle.loads(pickle.dumps(equations()[kind]))
    y = state(kind)
    np.testing.assert_array_equal(equation.drift(0.0, y), equations()[kind].drift(0.0, y))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: OrnsteinUhlenbeck("fast"), TypeError, "rate: expected a number, got 'fast'"),
        (lambda: OrnsteinUhlenbeck(np.nan), ValueError, "rate: expected a finite number, got nan"),
        (lambda: OrnsteinUhlenbeck(1.0, sigma=-1.0), ValueError, "sigma: expected numbers >= 0, g"),
        (lambda: OrnsteinUhlenbeck([]), ValueError, r"rate: expected .*, got shape \(0,\)"),
        (lambda: OrnsteinUhlenbeck(np.ones((2, 2))), ValueError, r"rate: expected shape \(d,\), g"),
        (
            lambda: GeometricBrownian(np.ones(2), np.ones(3)),
            ValueError,
            r"sigma: expected a number or shape \(2,\) to match mu \(2,\), got \(3,\)",
        ),
        (lambda: GeometricBrownian(1.0, [1.0, np.inf]), ValueError, "sigma: expected finite"),
        (lambda: CoxIngersollRoss(0.0, 1.0, 1.0), ValueError, "a: expected a positive number, g"),
        (lambda: CoxIngersollRoss(1.0, -1.0, 1.0), ValueError, "b: expected numbers >= 0, got -1"),
        (lambda: Lorenz(noise=[1.0, 1.0]), ValueError, r"noise: expected .* got \(2,\)"),
        (lambda: Lorenz(sigma=[1.0, 2.0]), TypeError, "sigma: expected a number, got list"),
        (lambda: Langevin(3.0), TypeError, "target: expected grad_log_density"),
        (lambda: Langevin(lambda x: x, 0.0), ValueError, "temperature: expected a positive"),
        (lambda: UnderdampedLangevin(lambda x: x, friction=0), ValueError, "friction: expected a"),
        (lambda: UnderdampedLangevin(lambda x: x, u=-1), ValueError, "u: expected a positive"),
        (
            lambda: GeometricBrownian(1.0, 1.0, interpretation="Ito"),
            ValueError,
            "interpretation: expected one of 'ito', 'stratonovich', got 'Ito'",
        ),
        (
            lambda: UnderdampedLangevin(lambda x: x).drift(0.0, np.ones((2, 3))),
            ValueError,
            r"y: expected positions and velocities \(n, 2 d\), got shape \(2, 3\)",
        ),
        (lambda: OrnsteinUhlenbeck(1.0).mean(-1.0, Y), ValueError, "t: expected a number >= 0"),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_a_negative_level_is_welcome_in_the_sense_of_stratonovich():
    cir = CoxIngersollRoss(1.0, 0.0, 1.0).to_stratonovich()
    assert cir.b == -0.25
    assert cir.to_ito().b == 0.0
