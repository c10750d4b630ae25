"""Langevin chains with noise that is not normal."""

import math

import numpy as np
import pytest

import mckean as mk
from mckean.samplers import Langevin

KURTOSIS = {"rademacher": -2.0, "uniform": -1.2, "normal": 0.0}  # excess


def pull(x):
    return -2.0 * x


@pytest.mark.parametrize("noise", KURTOSIS)
def test_noise_has_unit_variance_and_its_own_shape(noise, xp, dtype):
    """H0: moments of the named law. 3e5 draws; standard errors of mean, variance and skewness are
    at most 1/sqrt(n), sqrt(2/n), sqrt(15/n); 6 of each: false alarm 6e-9."""
    chain = Langevin(lambda x: 0.0 * x, 0.5, noise=noise)
    x0 = xp.asarray(np.zeros((100000, 3), dtype))
    x = chain.step(chain.init(x0, seed=1)).x
    assert xp.dtype(x) == dtype
    x = xp.to_numpy(x).astype(float)
    n = x.size
    assert abs(x.mean()) < 6 / math.sqrt(n)
    assert x.var() == pytest.approx(1.0, abs=6 * math.sqrt(2 / n))
    assert abs((x**3).mean()) < 6 * math.sqrt(15 / n)
    if noise == "rademacher":
        np.testing.assert_allclose(np.abs(x), 1.0, rtol=1e-6)
    if noise == "uniform":
        assert np.abs(x).max() == pytest.approx(math.sqrt(3), rel=1e-4)
        assert np.histogram(x, 10)[0].min() > 0.95 * n / 10
    correlation = np.corrcoef(x.T) - np.eye(3)
    assert np.abs(correlation).max() < 6 / math.sqrt(len(x))


@pytest.mark.parametrize("noise", KURTOSIS)
def test_stationary_cumulants_of_a_gaussian(noise):
    """x' = a x + b xi has cumulants k_j = b^j k_j(xi) / (1 - a^j): variance the same for every noise,
    excess kurtosis k (1 - a^2) / (1 + a^2). 4e5 independent chains; 6 standard errors, those of a
    normal law for the kurtosis, sqrt(24/n), which is the widest: below 2e-9."""
    h = 0.2
    chain = Langevin(pull, h, noise=noise)
    x = mk.run(chain, np.zeros((40000, 10)), 60, seed=2, burn_in=59, progress=False).x[0]
    a = 1 - 2 * h
    variance = 2 * h / (1 - a * a)
    assert x.var() == pytest.approx(variance, rel=6 * math.sqrt(2 / 4e5))
    excess = (x**4).mean() / (x**2).mean() ** 2 - 3
    want = KURTOSIS[noise] * (1 - a * a) / (1 + a * a)
    assert excess == pytest.approx(want, abs=6 * math.sqrt(24 / 4e5))


def test_normal_is_the_counter():
    x = np.ones((3, 2))
    a, b = Langevin(pull, 0.1, noise="normal"), Langevin(pull, 0.1)
    np.testing.assert_array_equal(a.step(a.init(x)).x, b.step(b.init(x)).x)
    assert a.config() == b.config()
    assert Langevin(pull, 0.1, noise="uniform").config()["noise"] == "uniform"


def test_steps_draw_afresh_and_depend_on_the_seed_alone():
    chain = Langevin(lambda x: 0.0 * x, 0.5, noise="rademacher")
    one = chain.init(np.zeros((200, 1)), seed=1)
    two = chain.step(one)
    three = chain.step(two)
    np.testing.assert_array_equal(chain.step(one).x, two.x)
    assert 60 < int((three.x - two.x == two.x).sum()) < 140
    other = chain.step(chain.init(np.zeros((200, 1)), seed=2))
    assert 60 < int((other.x == two.x).sum()) < 140


def test_unknown_noise_is_refused():
    with pytest.raises(ValueError, match="noise: expected"):
        Langevin(pull, 0.1, noise="cauchy")
