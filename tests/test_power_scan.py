"""The linear-time scan for |t|^r, r != 1, against the sum over all pairs."""

import numpy as np
import pytest

from mckean import _core

EXPONENTS = (0.1, 0.5, 0.9, 1.1, 1.5, 1.9)


def scan(z, s, r, single=False):
    force = np.full(len(z), np.nan)
    alone, value = _core.power_scan(z, s, r, single, force)
    assert alone == value  # the force asked for changes nothing
    return value, force


def pairs(z, s, r):
    t = (z[:, None] - z[None]).astype(np.longdouble)
    size = abs(t)
    power = size**r
    slope = np.divide(r * power, t, out=np.zeros_like(t), where=t != 0)
    s = s.astype(np.longdouble)
    return float(-(s @ power @ s)), (-2 * s * (slope @ s)).astype(np.float64)


def problem(n, seed, shape="normal"):
    rng = np.random.default_rng(seed)
    z = {
        "normal": lambda: 10 + 3 * rng.normal(size=n),
        "ties": lambda: np.round(4 * rng.normal(size=n)) / 4,
        "clusters": lambda: rng.integers(0, 4, n) + 1e-5 * rng.normal(size=n),
        "tails": lambda: rng.standard_cauchy(n),
        "even": lambda: np.arange(n) * 1e-30,
    }[shape]()
    s = rng.normal(size=n) / n
    return np.sort(z), s - s.mean()


@pytest.mark.parametrize("r", EXPONENTS)
@pytest.mark.parametrize("shape", ["normal", "ties", "clusters", "tails", "even"])
def test_scan_is_the_sum_over_pairs(simd_level, shape, r):
    tolerance = 1e-12 if r < 1.2 else 1e-9 if r < 1.6 else 3e-8
    for n in (2, 3, 4, 5, 9, 150):
        z, s = problem(n, n, shape)
        want, force = pairs(z, s, r)
        got, got_force = scan(z, s, r)
        assert abs(got - want) <= 30 * tolerance * abs(want)
        error = np.linalg.norm(got_force - force)
        assert error <= 200 * tolerance * np.linalg.norm(force) + 1e-300


@pytest.mark.parametrize("r", EXPONENTS)
def test_fewer_terms_for_single_precision(simd_level, r):
    z, s = problem(400, 1)
    want, force = pairs(z, s, r)
    got, got_force = scan(z, s, r, single=True)
    assert abs(got - want) < 5e-5 * abs(want)
    assert np.linalg.norm(got_force - force) < 1e-3 * np.linalg.norm(force)


def test_equal_points_pull_alike_and_not_on_one_another():
    z = np.array([0.0, 1.0, 1.0, 1.0, 2.0])
    s = np.array([1.0, -2.0, 0.5, 1.5, -1.0])
    for r in EXPONENTS:
        want, force = pairs(z, s, r)
        value, got = scan(z, s, r)
        np.testing.assert_allclose(got, force, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(value, want, rtol=1e-7)
        np.testing.assert_allclose(got[1:4] / s[1:4], got[1] / s[1], rtol=1e-15)


def test_no_distance_no_value():
    for z in (np.ones(1), np.ones(7), np.array([0.0, -0.0])):
        s = np.zeros(len(z))
        for r in (0.5, 1.5):
            value, force = scan(z, s, r)
            assert value == 0 and (force == 0).all()


def test_small_values_keep_their_digits():
    """Nearly equal measures: the value is a sum of squares, far below the sums it is the difference of."""
    z = np.sort(np.concatenate([np.linspace(0, 1, 200), np.linspace(0, 1, 200) + 1e-5]))
    s = np.tile([-1.0, 1.0], 200) / 200
    for r in (0.5, 1.5):
        value, force = scan(z, s, r)
        want, want_force = pairs(z, s, r)
        assert 0 < want < 1e-4
        assert abs(value - want) < 1e-8 * want
        assert np.linalg.norm(force - want_force) < 1e-8 * np.linalg.norm(want_force)


def test_scaling_and_translation():
    z, s = problem(100, 7)
    for r in (0.5, 1.5):
        value, force = scan(z, s, r)
        moved, moved_force = scan(8 * (z + 1024), s, r)
        np.testing.assert_allclose(moved, 8**r * value, rtol=1e-9)
        np.testing.assert_allclose(moved_force, 8 ** (r - 1) * force, rtol=1e-7, atol=1e-12)
        assert abs(force.sum()) < 1e-9 * abs(force).sum()
