"""Reflected Langevin chains: exact folding, laws of reflected Brownian motion, sticky projection."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.samplers import Ball, Box, HalfSpace, HalfSpaces, Langevin, ReflectedLangevin, Simplex


def still(x):
    """The gradient of a constant density."""
    return 0.0 * x


def chi_square(counts, expected):
    """Standard score of Pearson's statistic, by Wilson and Hilferty."""
    k = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum()
    return ((statistic / k) ** (1 / 3) - 1 + 2 / (9 * k)) / math.sqrt(2 / (9 * k))


@settings(max_examples=60, deadline=None)
@given(st.floats(-50, 50), st.floats(-5, 5), st.floats(0.1, 7.0))
def test_folding_is_repeated_reflection(x, low, width):
    high, want = low + width, x
    for _ in range(2000):
        if want < low:
            want = 2 * low - want
        elif want > high:
            want = 2 * high - want
        else:
            break
    got = Box(low, high).reflect(np.array([[x]]))[0, 0]
    assert got == pytest.approx(want, abs=1e-11)
    assert low <= got <= high


def test_boxes_with_open_sides_and_points_inside(xp, dtype):
    box = Box([0.0, -np.inf, -1.0, -np.inf], [1.0, 2.0, np.inf, np.inf])
    x = np.array([[1.3, 2.5, -1.25, 9.0], [0.1, -7.0, 0.3, -9.0], [-2.75, 2.0, -1.0, 0.0]])
    got = box.reflect(xp.asarray(x.astype(dtype)))
    assert xp.dtype(got) == dtype
    want = [[0.7, 1.5, -0.75, 9.0], [0.1, -7.0, 0.3, -9.0], [0.75, 2.0, -1.0, 0.0]]
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-6)
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (50, 4)).astype(dtype)
    np.testing.assert_array_equal(xp.to_numpy(box.reflect(xp.asarray(inside))), inside)
    thin = Box(0.1, 0.30000000000000004).reflect(np.linspace(-3, 3, 10001)[:, None])
    assert thin.min() >= 0.1 and thin.max() <= 0.30000000000000004


def test_brownian_motion_in_a_box_has_the_law_of_the_cosine_series():
    """H0: density 1 + 2 sum cos(k pi x0) cos(k pi x) exp(-k^2 pi^2 t / 2) on [0, 1], at both saved times.

    Variance of a step is 2 h, so t = 2 h steps. 4e5 draws in 40 bins; a standard score above 6 has
    probability below 1e-8.
    """
    h, x0 = 0.03, 0.2
    chain = ReflectedLangevin(still, h, Box(0.0, 1.0))
    result = mk.run(chain, np.full((100000, 4), x0), 3, seed=5, progress=False)
    edges = np.linspace(0, 1, 41)
    k = np.arange(1, 60)[:, None]
    for saved in (0, 2):
        t = 2 * h * (saved + 1)
        wave = np.cos(k * np.pi * x0) * np.exp(-((k * np.pi) ** 2) * t / 2)
        cdf = edges + 2 * (wave * np.sin(k * np.pi * edges) / (k * np.pi)).sum(0)
        counts = np.histogram(result.x[saved], edges)[0]
        assert counts.sum() == 400000
        assert abs(chi_square(counts, 400000 * np.diff(cdf))) < 6


def test_a_wrong_wall_is_noticed():
    """The same statistic when the box is 3 % too wide."""
    h = 0.2
    chain = ReflectedLangevin(still, h, Box(0.0, 1.03))
    x = mk.run(chain, np.full((100000, 4), 0.2), 6, seed=5, burn_in=5, progress=False).x
    counts = np.histogram(x, np.linspace(0, 1, 41))[0]
    assert chi_square(counts, np.full(40, 400000 / 40)) > 6


def uniform_in(domain, n, seed):
    x = mk.random.uniform(seed, (12 * n, 2), stream=9) * 2 - 1
    return np.ascontiguousarray(x[domain.contains(x)][:n])


@pytest.mark.parametrize(
    "domain",
    [
        Box([-1.0, 0.0], [0.5, 1.0]),
        HalfSpaces([[-1, 0], [0, -1], [1, 1]], [0, 0, 1]),
        HalfSpaces(
            [[0, -1], [math.sqrt(3), 1], [-math.sqrt(3), 1]], [0, math.sqrt(0.75), math.sqrt(0.75)]
        ),
    ],
    ids=["box", "right triangle", "equilateral triangle"],
)
def test_uniform_law_is_kept_where_mirrors_tile_the_plane(domain):
    """H0: uniform before and after a step as long as the set is wide. Counts of cells against
    those of other uniform points; both samples have 2e4, so the statistic is that of two samples;
    standard score above 6: below 1e-8."""
    x = uniform_in(domain, 20000, 1)
    other = uniform_in(domain, 20000, 2)
    assert len(x) == len(other) == 20000
    chain = ReflectedLangevin(still, 0.3, domain)
    moved = chain.step(chain.init(x, seed=3)).x
    assert domain.contains(moved).all()
    assert np.abs(moved - x).mean() > 0.1
    bins = (np.linspace(-1, 1, 13),) * 2
    a, b = (np.histogram2d(*y.T, bins=bins)[0].ravel() for y in (moved, other))
    used = a + b >= 20
    a, b = a[used], b[used]
    k = len(a) - 1
    statistic = ((a - b) ** 2 / (a + b)).sum()
    score = ((statistic / k) ** (1 / 3) - 1 + 2 / (9 * k)) / math.sqrt(2 / (9 * k))
    assert abs(score) < 6


def test_reflection_in_a_wedge_stays_in_the_orbit_of_its_mirrors(xp):
    """A wedge of 60 degrees: the answer is the only image in the wedge under its six symmetries."""
    angle = math.pi / 3
    wedge = HalfSpaces([[0, -1], [-math.sin(angle), math.cos(angle)]], [0, 0])
    x = np.random.default_rng(0).normal(size=(300, 2))
    got = xp.to_numpy(wedge.reflect(xp.asarray(x)))
    polar = np.arctan2(x[:, 1], x[:, 0]) % (2 * angle)
    folded = np.where(polar > angle, 2 * angle - polar, polar)
    length = np.linalg.norm(x, axis=1)
    want = np.stack([length * np.cos(folded), length * np.sin(folded)], 1)
    np.testing.assert_allclose(got, want, atol=1e-13)


@pytest.mark.parametrize("seed", range(5))
def test_reflections_in_any_polytope_end_inside(seed):
    """Planes in general position around the origin, obtuse angles and far points included."""
    rng = np.random.default_rng(seed)
    polytope = HalfSpaces(rng.normal(size=(12, 3)), rng.uniform(0.1, 2, 12))
    x = rng.normal(size=(500, 3)) * np.geomspace(0.01, 50, 500)[:, None]
    y = polytope.reflect(x)
    assert polytope.contains(y).all()
    centre_before, centre_after = np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)
    assert (centre_after <= centre_before + 1e-12).all()
    np.testing.assert_array_equal(y[polytope.contains(x)], x[polytope.contains(x)])


def test_an_empty_polytope_gives_nan_and_not_a_loop():
    empty = HalfSpaces([[1.0], [-1.0]], [0.0, -1.0])  # x <= 0 and x >= 1
    assert np.isnan(empty.reflect(np.array([[0.3]]))).all()


def test_ball_reflects_along_the_radius(xp, dtype):
    ball = Ball([1.0, -1.0], 2.0)
    direction = np.array([0.6, 0.8])
    r = np.array([0.0, 1.5, 2.0, 2.5, 3.9, 4.5, 6.5, 9.0])
    want = np.array([0.0, 1.5, 2.0, 1.5, 0.1, -0.5, -1.5, 1.0])
    x = (np.array([1.0, -1.0]) + r[:, None] * direction).astype(dtype)
    got = xp.to_numpy(ball.reflect(xp.asarray(x)))
    np.testing.assert_allclose(got, [1.0, -1.0] + want[:, None] * direction, atol=2e-6)


def test_uniform_law_in_a_ball_at_small_steps():
    """E |x|^2 = d / (d + 2) for the uniform law. H0: bias O(h), at most 2 h here; 4 x 2e4 draws, taken
    for 2e4 independent ones, have a standard error of 0.26 / sqrt(2e4), 6 of them: below 2e-9."""
    chain = ReflectedLangevin(still, 0.002, Ball(0.0, 1.0))
    x0 = np.zeros((20000, 3))
    result = mk.run(chain, x0, 500, seed=7, burn_in=300, thin=50, progress=False)
    r2 = (result.x**2).sum(-1)
    assert r2.max() <= 1 + 1e-12
    assert r2.mean() == pytest.approx(0.6, abs=2 * 0.002 + 6 * 0.26 / math.sqrt(2e4))


def test_gaussian_on_a_half_line():
    """Mean sqrt(2/pi) and mean square 1 of the half normal. H0: bias below h / 2; 2e4 independent
    chains of 5 saves 1.0 apart, standard error 0.7 / sqrt(2e4) at most, 6 of them: 2e-9."""
    h = 0.005
    chain = ReflectedLangevin(lambda x: -x, h, HalfSpace([-1.0], 0.0))
    result = mk.run(chain, np.ones((20000, 1)), 1600, seed=3, burn_in=600, thin=200, progress=False)
    assert result.x.min() >= 0
    error = 6 * 0.7 / math.sqrt(2e4)
    assert result.x.mean() == pytest.approx(math.sqrt(2 / math.pi), abs=h / 2 + 0.6 * error)
    assert (result.x**2).mean() == pytest.approx(1.0, abs=h / 2 + 2 * error)


def test_projection_sticks_to_the_boundary_by_sqrt_h():
    """The share on the wall halves when h is divided by four; with reflection it is zero."""
    shares = []
    for h in (0.004, 0.001):
        chain = ReflectedLangevin(still, h, Box(0.0, 1.0), mode="project")
        n = round(1.0 / h)
        x = mk.run(chain, np.full((4000, 10), 0.5), n, seed=1, burn_in=n - 1, progress=False).x
        shares.append(((x == 0) | (x == 1)).mean())
    assert shares[0] == pytest.approx(2 * shares[1], rel=0.12)
    assert shares[0] > 0.05
    chain = ReflectedLangevin(still, 0.004, Box(0.0, 1.0))
    x = mk.run(chain, np.full((4000, 10), 0.5), 50, seed=1, burn_in=49, progress=False).x
    assert not ((x == 0) | (x == 1)).any()


def test_a_step_is_that_of_langevin_then_the_mirror(xp, dtype):
    x = xp.asarray(np.random.default_rng(2).uniform(0, 1, (9, 2)).astype(dtype))
    for noise in ("counter", "tree", "rademacher"):
        chain = ReflectedLangevin(lambda y: -y, 0.2, Box(0.0, 1.0), noise=noise)
        plain = Langevin(lambda y: -y, 0.2, noise=noise)
        a, b = chain.step(chain.init(x, seed=8)), plain.step(plain.init(x, seed=8))
        assert xp.dtype(a.x) == dtype
        want = Box(0.0, 1.0).reflect(b.x)
        np.testing.assert_array_equal(xp.to_numpy(a.x), xp.to_numpy(want))
        assert (a.step, a.n_gradients) == (1, 1)


@pytest.mark.parametrize(
    "call,kind,message",
    [
        (lambda: ReflectedLangevin(still, 0.1, "box"), TypeError, "domain: expected Box"),
        (lambda: ReflectedLangevin(still, 0.1, Box(0, 1), mode="wrap"), ValueError, "mode: expected"),
        (lambda: ReflectedLangevin(still, 0.1, Simplex()), ValueError, "domain: expected a set with"),
        (lambda: ReflectedLangevin(still, 0.1, HalfSpaces([[1.0]], [1.0]), mode="project"), ValueError,
         'mode: expected "reflect" for HalfSpaces'),
        (lambda: ReflectedLangevin(still, 0.0, Box(0, 1)), ValueError, "step: expected a positive"),
        (lambda: ReflectedLangevin(still, 0.1, Box(0, 1)).init(np.full((3, 1), 2.0)), ValueError,
         "x0: expected points in Box.*got 3 outside, first at index 0"),
        (lambda: ReflectedLangevin(still, 0.1, Box(0, [1, 2])).init(np.full((3, 3), 0.5)), ValueError,
         r"high: expected shape \(3,\)"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
