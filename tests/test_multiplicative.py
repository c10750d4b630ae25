"""Multiplicative chains: equal to Langevin in log coordinates, Gamma laws, reverse time, signs."""

import math

import numpy as np
import pytest

import mckean as mk
from mckean.samplers import GeometricLangevin, Langevin, ReverseGeometricBrownian
from mckean.samplers._multiplicative import _FORWARD_STREAM


def gamma_score(x):
    """Gamma density of shape 3 and rate 1/2."""
    return 2.0 / x - 0.5


def test_it_is_langevin_in_log_coordinates(xp, dtype):
    """The density of l = log x is p(e^l) e^l: twenty steps of a chain with its score and the same
    noise give the logarithms."""
    x = np.random.default_rng(0).uniform(0.5, 4, (6, 3)).astype(dtype)

    def score(y):
        return gamma_score(y)

    def log_score(y):
        z = xp.to_numpy(y)
        return xp.asarray((np.exp(z) * gamma_score(np.exp(z)) + 1).astype(dtype))

    a, b = GeometricLangevin(score, 0.05), Langevin(log_score, 0.05)
    s, t = a.init(xp.asarray(x), seed=4), b.init(xp.asarray(np.log(x)), seed=4)
    for _ in range(20):
        s, t = a.step(s), b.step(t)
    assert xp.dtype(s.x) == dtype
    limit = {"float32": 2e-4, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(xp.to_numpy(s.x), np.exp(xp.to_numpy(t.x)), rtol=limit)
    assert (s.step, s.n_gradients) == (20, 20)


def test_the_density_is_stationary_for_the_equation_in_x():
    """Fokker-Planck by differences: (b p)' = (1/2) (2 x^2 p)'' with b = 2 x + x^2 S, by hand from
    the Ito formula of exp(l); without the + 1 of the log coordinates it fails."""
    x = np.linspace(0.5, 20, 4001)
    p = x**2 * np.exp(-x / 2)
    d = x[1] - x[0]

    def flux(extra):
        drift = (1 + extra) * x + x**2 * gamma_score(x)
        return drift[1:-1] * p[1:-1] - (x**2 * p)[2:] / (2 * d) + (x**2 * p)[:-2] / (2 * d)

    assert np.abs(flux(1)).max() < 1e-4 * p.max()
    assert np.abs(flux(0)).max() > 0.5 * p.max()


def test_gamma_law():
    """H0: mean 6, variance 12, bias a h; extrapolated from two steps to O(h^2). At least 4e4
    independent draws; 2.3 times the standard error of a mean, 6 of them: false alarm 2e-9."""
    means, squares = [], []
    for k, h in enumerate((0.01, 0.02)):
        n, every = round(4 / h), round(1 / h)
        result = mk.run(
            GeometricLangevin(gamma_score, h), np.full((4000, 10), 6.0), n, seed=k + 1, burn_in=n - 2 * every, thin=every, progress=False
        )  # fmt: skip
        assert result.converged and result.x.min() > 0
        means.append(result.x.mean())
        squares.append((result.x**2).mean())
    error = 6 * 2.3 / math.sqrt(4e4)
    assert 2 * means[0] - means[1] == pytest.approx(6, abs=math.sqrt(12) * error + 0.005)
    # Var x^2 = E x^4 - 48^2 = 16 * 3*4*5*6 - 2304 = 3456
    assert 2 * squares[0] - squares[1] == pytest.approx(48, abs=math.sqrt(3456) * error + 0.05)


def test_signs_never_change(xp, dtype):
    """A mirrored Gamma density, steps far too long: coordinates collapse and recover, sign and all."""
    x = np.random.default_rng(1).normal(size=(40, 5)).astype(dtype) * 50
    chain = GeometricLangevin(lambda y: 2.0 / y - 0.5 * y / abs(y), 2.0)
    state = chain.init(xp.asarray(x), seed=1)
    for _ in range(30):
        state = chain.step(state)
        y = xp.to_numpy(state.x)
        np.testing.assert_array_equal(np.sign(y), np.sign(x))
        assert np.abs(y).min() >= np.finfo(dtype).tiny


def lognormal_score(m0, v0, drift, volatility):
    def moments(t):
        return m0 + (drift - volatility**2 / 2) * t, v0 + volatility**2 * t

    def score(x, t):
        m, v = moments(t)
        return -(1 + (np.log(x) - m) / v) / x

    return score, moments


def test_reverse_time_brings_back_the_data():
    """H0: log x is Gaussian, with mean and variance of the recursion below, which is the Euler step
    written for l = log x with the score of its own density; its end tends to the data's law.

    1e5 coordinates: standard errors s / sqrt(1e5) and v sqrt(2 / 1e5); 6 of them: 2e-9.
    """
    m0, v0, drift, volatility = 0.3, 0.09, 0.4, 0.8
    score, moments = lognormal_score(m0, v0, drift, volatility)
    gaps = []
    for n in (30, 120):
        times = np.linspace(1.5, 0, n + 1)
        back = ReverseGeometricBrownian(score, times, drift=drift, volatility=volatility)
        m, v = moments(times[0])
        l0 = m + math.sqrt(v) * mk.random.normal(3, (20000, 5), stream=5)
        result = mk.run(back, np.exp(l0), n, seed=n, burn_in=n - 1, progress=False)
        logs = np.log(result.x[0])
        for t, after in zip(times[:-1], times[1:], strict=True):
            h = t - after
            mt, vt = moments(t)
            a = 1 - h * volatility**2 / vt
            m = a * m + h * (volatility**2 / 2 - drift) + h * volatility**2 * mt / vt
            v = a * a * v + h * volatility**2
        assert logs.mean() == pytest.approx(m, abs=6 * math.sqrt(v / 1e5))
        assert logs.var() == pytest.approx(v, rel=6 * math.sqrt(2 / 1e5))
        gaps.append((abs(m - m0), abs(v - v0)))
    assert gaps[1][0] < gaps[0][0] / 3 + 1e-12
    assert gaps[1][1] < gaps[0][1] / 3
    assert gaps[1][1] < 0.1 * v0


def test_reverse_drift_is_the_one_of_a_reversed_equation():
    """In x: b_reverse = -b + (sigma^2 x^2 p)' / p with b = drift x. Its Ito form in log coordinates
    is the exponent, for any density; the spec's -drift + 3/2 sigma^2 + sigma^2 x S."""
    x = np.linspace(0.2, 3, 50)[:, None]
    drift, s = 0.7, 1.3
    score = (2 / x - 1.5) + np.cos(x)  # of some density
    reverse = -drift * x + 2 * s**2 * x + s**2 * x**2 * score
    exponent = reverse / x - s**2 / 2
    h = 1e-3
    back = ReverseGeometricBrownian(
        lambda y, t: (2 / y - 1.5) + np.cos(y), [1.0, 1.0 - h], drift=drift, volatility=s
    )
    ends = [back.step(back.init(x, seed=k)).x for k in (1, 2)]
    z = [mk.random.normal(k, x.shape, stream=mk.samplers._parts.PROPOSAL_STREAM) for k in (1, 2)]
    for end, noise in zip(ends, z, strict=True):
        np.testing.assert_allclose(
            np.log(end / x), h * exponent + s * math.sqrt(h) * noise, atol=1e-12
        )


def test_noising_is_exact(xp, dtype):
    back = ReverseGeometricBrownian(lambda x, t: x, [2.0, 0.0], drift=0.3, volatility=0.5)
    x = np.array([[1.0, -2.0], [3.0, 0.5]]).astype(dtype)
    got = back.noised(xp.asarray(x), seed=6)
    z = mk.random.normal(6, x.shape, stream=_FORWARD_STREAM, dtype=dtype)
    want = x * np.exp((0.3 - 0.125) * 2 + 0.5 * math.sqrt(2) * z)
    assert xp.dtype(got) == dtype
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-6)
    np.testing.assert_array_equal(xp.to_numpy(back.noised(xp.asarray(x), 0.0)), x)


def test_diverging_chains_are_flagged():
    chain = GeometricLangevin(lambda x: x, 1.0)
    with pytest.warns(mk.ConvergenceWarning):
        assert not mk.run(chain, np.full((3, 1), 5.0), 6, progress=False).converged


@pytest.mark.parametrize(
    "call,kind,message",
    [
        (lambda: GeometricLangevin(gamma_score, -1.0), ValueError, "step: expected a positive"),
        (lambda: GeometricLangevin(gamma_score, 1.0).init(np.array([[1.0, 0.0]])), ValueError,
         "x0: expected coordinates that are not zero"),
        (lambda: ReverseGeometricBrownian(3, [1, 0], volatility=1.0), TypeError, "score: expected"),
        (lambda: ReverseGeometricBrownian(lambda x, t: x, [0, 1], volatility=1.0), ValueError,
         "times: expected strictly decreasing"),
        (lambda: ReverseGeometricBrownian(lambda x, t: x, [1], volatility=1.0), ValueError,
         "times: expected at least two"),
        (lambda: ReverseGeometricBrownian(lambda x, t: x, [1, 0], volatility=0.0), ValueError,
         "volatility: expected a positive"),
        (lambda: mk.run(ReverseGeometricBrownian(lambda x, t: x, [1, 0], volatility=1.0),
                        np.ones((1, 1)), 2, progress=False), ValueError, "times: expected more than 2"),
        (lambda: mk.run(ReverseGeometricBrownian(lambda x, t: x[:1], [1, 0], volatility=1.0),
                        np.ones((2, 1)), 1, progress=False), ValueError, "score: expected shape"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
