"""Kernel density estimates against scipy, scikit-learn, brute force and the theory in large dimension."""

import math

import numpy as np
import pytest

from mckean import random
from mckean.interaction.density import critical_bandwidths, kde

NAMES = ["gaussian", "laplace", "matern32", "matern52", "cauchy"]
LIMIT = {"float32": 2e-5, "float64": 1e-12}


def shape(name, r, d):
    """The kernel as a function of the scaled distance."""
    a, b = math.sqrt(3) * r, math.sqrt(5) * r
    return {
        "gaussian": np.exp(-(r**2) / 2),
        "laplace": np.exp(-r),
        "matern32": (1 + a) * np.exp(-a),
        "matern52": (1 + b + b**2 / 3) * np.exp(-b),
        "cauchy": (1 + r**2) ** (-(d + 1) / 2),
    }[name]


def weights(name, x, y, h):
    return shape(name, np.sqrt((((x[:, None] - y[None]) / h) ** 2).sum(-1)), x.shape[1])


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((60, 3)) * [1, 2, 0.5], rng.standard_normal((17, 3))


def test_gaussian_is_that_of_scipy(xp, dtype, data):
    stats = pytest.importorskip("scipy.stats")
    train, x = (a.astype(dtype) for a in data)
    white = np.linalg.cholesky(np.cov(train.astype(float).T))
    peer = stats.gaussian_kde(train.T.astype(float), bw_method=0.6)
    # scipy scales by the covariance: whitened points have its kernel, up to the Jacobian.
    move = lambda a: np.linalg.solve(white, a.T.astype(float)).T.astype(dtype)  # noqa: E731
    got = kde(xp.asarray(move(train)), 0.6).log_density(xp.asarray(move(x)))
    assert xp.dtype(got) == dtype
    want = peer.logpdf(x.T.astype(float)) + np.log(np.diag(white)).sum()
    np.testing.assert_allclose(xp.to_numpy(got), want, atol=5 * LIMIT[dtype])


@pytest.mark.parametrize("name", ["gaussian", "exponential"])
@pytest.mark.parametrize("d", [1, 2, 5, 40])
def test_densities_are_those_of_scikit_learn(name, d):
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(1)
    train, x = rng.standard_normal((50, d)), rng.standard_normal((9, d)) * 3
    peer = neighbors.KernelDensity(bandwidth=0.7, kernel=name).fit(train)
    np.testing.assert_allclose(
        kde(train, 0.7, name).log_density(x), peer.score_samples(x), rtol=1e-10
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [1, 2, 3, 7])
def test_every_kernel_integrates_to_one(name, d):
    """In polar coordinates around a single training point; r = t / (1 - t) maps the line to [0, 1]."""
    nodes, mass = np.polynomial.legendre.leggauss(400)
    t, mass = (nodes + 1) / 2, mass / 2
    r = t / (1 - t)
    x = np.zeros((400, d))
    x[:, 0] = r * 1.7
    density = np.exp(kde(np.zeros((1, d)), 1.7, name).log_density(x))
    sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
    total = (mass / (1 - t) ** 2 * density * sphere * (1.7 * r) ** (d - 1) * 1.7).sum()
    assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_bandwidth_per_dimension(xp, dtype, data, name):
    train, x = (a.astype(dtype) for a in data)
    h = np.array([0.5, 1.5, 0.8])
    one = kde(xp.asarray(train), h, name).log_density(xp.asarray(x))
    two = kde(xp.asarray((train / h).astype(dtype)), 1.0, name).log_density(
        xp.asarray((x / h).astype(dtype))
    )
    np.testing.assert_allclose(
        xp.to_numpy(one), xp.to_numpy(two) - np.log(h).sum(), atol=10 * LIMIT[dtype]
    )


@pytest.mark.parametrize("name", NAMES)
def test_leave_one_out(xp, dtype, data, name):
    train = data[0][:12].astype(dtype)
    got = xp.to_numpy(kde(xp.asarray(train), 0.7, name).log_density_leave_one_out())
    want = [
        kde(np.delete(train, i, 0), 0.7, name).log_density(train[i : i + 1])[0] for i in range(12)
    ]
    np.testing.assert_allclose(got, want, atol=LIMIT[dtype])


def test_nothing_underflows():
    density = kde(np.zeros((1, 400)), 0.01)
    x = np.full((1, 400), 3.0)
    want = -200 * math.log(2 * math.pi) - 400 * math.log(0.01) - 0.5 * 400 * 9 / 1e-4
    assert density.log_density(x)[0] == pytest.approx(want, rel=1e-13)
    found = kde(np.repeat([[0.0], [1.0], [2.0]], 400, axis=1), 0.01).diagnostics(x)
    np.testing.assert_allclose([found.participation[0], found.max_weight[0]], 1, atol=1e-8)
    assert found.condensed_fraction == 1


@pytest.mark.parametrize("name", ["gaussian", "laplace", "cauchy"])
@pytest.mark.parametrize("h", [0.4, 2.0, np.array([0.5, 1.5, 0.8])], ids=str)
def test_diagnostics_are_those_of_the_weights(xp, dtype, data, name, h):
    train, x = (a.astype(dtype) for a in data)
    w = weights(name, x.astype(float), train.astype(float), h)
    w /= w.sum(1, keepdims=True)
    found = kde(xp.asarray(train), h, name).diagnostics(xp.asarray(x))
    assert xp.dtype(found.participation) == xp.dtype(found.max_weight) == dtype
    np.testing.assert_allclose(
        xp.to_numpy(found.participation), (w**2).sum(1), rtol=50 * LIMIT[dtype]
    )
    np.testing.assert_allclose(xp.to_numpy(found.max_weight), w.max(1), rtol=50 * LIMIT[dtype])
    assert found.condensed_fraction == ((w**2).sum(1) > 0.1).mean()
    assert (found.tail_index is None) == (name != "gaussian")
    w = weights(name, train.astype(float), train.astype(float), h)
    np.fill_diagonal(w, 0)
    w /= w.sum(1, keepdims=True)
    found = kde(xp.asarray(train), h, name).diagnostics()
    np.testing.assert_allclose(
        xp.to_numpy(found.participation), (w**2).sum(1), rtol=50 * LIMIT[dtype]
    )


@pytest.mark.parametrize(
    ("alpha", "want"),
    [
        (0.1, (0.53218, 1.37078, 1.93858, 1.03857)),
        (0.2, (0.91459, 1.04565, 1.47878, 0.89169)),
        (0.25, (1.11542, 0.94685, 1.33904, 0.83437)),
        (0.5, (2.35132, 0.65215, 0.92227, 0.62244)),
        (1.0, (7.22214, 0.37211, 0.52624, 0.36934)),
    ],
)
def test_critical_bandwidths_are_the_published_ones(alpha, want):
    np.testing.assert_allclose(critical_bandwidths(alpha), want, atol=6e-6)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 3.0, 299.0])
def test_critical_bandwidths_solve_their_equation(alpha):
    t = critical_bandwidths(alpha).t_c
    assert 0.5 * math.log1p(t) - 0.5 * t / (1 + t) / (1 + t) == pytest.approx(alpha, rel=1e-9)


def test_regimes_in_fifty_dimensions():
    """Against the published averages of sum w^2, which fall with h; the tolerance covers 60 query points on one draw."""
    alpha, d = 0.2, 50
    limits = critical_bandwidths(alpha)
    train = random.normal(0, (22_026, d))
    x = random.normal(1, (60, d))
    x *= math.sqrt(d) / np.sqrt((x**2).sum(1, keepdims=True))
    table = {0.6: 0.69, 0.8: 0.49, 1.0: 0.26, 1.2: 0.084, 1.41: 0.015, 2.2: 0.0003}
    for ratio, want in table.items():
        density = kde(train, ratio * limits.h_G)
        found = density.diagnostics(x)
        assert found.participation.mean() == pytest.approx(want, abs=0.1 if ratio < 1.1 else 0.05)
        regime = "condensed" if ratio < 1 else "heavy-tailed" if ratio < 1.4 else "central-limit"
        if ratio not in (1.0, 1.41):
            assert found.regime == regime
            assert found.tail_index == pytest.approx(ratio**2, rel=0.02)
        if ratio >= 1.2:  # annealed: the mean of the kernel is its expectation
            t = 1 / density.bandwidth**2
            log_mean = (
                density.log_density(x)
                + 0.5 * d * math.log(2 * math.pi)
                + d * math.log(density.bandwidth)
            )
            assert log_mean.mean() / d == pytest.approx(
                -0.5 * math.log1p(t) - 0.5 * t / (1 + t), abs=0.006
            )


def test_samples_have_the_moments_of_the_estimate(xp, dtype):
    """Null: mean and variances are those of the mixture; 200 000 draws, 6 comparisons at 6 standard errors, false alarm
    below 2e-8."""
    train = np.array([[0.0, 5.0], [2.0, 5.0], [4.0, -1.0]], dtype)
    density = kde(xp.asarray(train), np.array([0.5, 2.0]))
    draws = density.sample(200_000, seed=3)
    assert xp.dtype(draws) == dtype
    draws = xp.to_numpy(draws).astype(float)
    var = train.astype(float).var(0) + np.array([0.25, 4.0])
    assert (np.abs(draws.mean(0) - train.mean(0)) < 6 * np.sqrt(var / 2e5)).all()
    assert (np.abs(draws.var(0) / var - 1) < 6 * math.sqrt(2 / 2e5)).all()
    again = xp.to_numpy(density.sample(200_000, seed=3))
    assert (again == xp.to_numpy(density.sample(200_000, seed=3))).all()
    assert not (again == xp.to_numpy(density.sample(200_000, seed=4))).all()
    assert density.sample(0).shape == (0, 2)


def test_rules_for_the_bandwidth(data):
    from mckean.interaction.bandwidth import median_bandwidth

    density = kde(data[0], "silverman")
    np.testing.assert_allclose(density.bandwidth, median_bandwidth(data[0], rule="silverman"))


def test_edges(data):
    train, x = data
    assert kde(train, 0.5).log_density(x[:0]).shape == (0,)
    assert kde(train, 0.5).diagnostics(x[:0]).condensed_fraction == 0
    assert kde(train[:1], 0.5).diagnostics(x).participation.min() == pytest.approx(1, rel=1e-12)
    assert "KernelDensity(n_train=60, dim=3, kernel='gaussian')" == repr(kde(train, 0.5))


def test_wrong_arguments_are_named(data):
    train, x = data
    with pytest.raises(
        ValueError, match=r"^x: expected shape \(n, 3\) to match x_train \(60, 3\), got \(17, 2\)"
    ):
        kde(train, 1.0).log_density(x[:, :2])
    with pytest.raises(TypeError, match="^x: expected float64"):
        kde(train, 1.0).log_density(x.astype(np.float32))
    with pytest.raises(ValueError, match="^x: expected finite"):
        kde(train, 1.0).diagnostics(x * np.nan)
    with pytest.raises(ValueError, match="^x_train: expected finite"):
        kde(train * np.inf, 1.0)
    with pytest.raises(ValueError, match="^x_train: expected at least 1 point"):
        kde(train[:0], 1.0)
    with pytest.raises(ValueError, match=r"^bandwidth: expected a number or shape \(3,\)"):
        kde(train, np.ones(2))
    with pytest.raises(ValueError, match="^bandwidth: expected a positive number"):
        kde(train, 0.0)
    with pytest.raises(ValueError, match="^bandwidth: expected one of 'scott', 'silverman'"):
        kde(train, "median")
    with pytest.raises(ValueError, match="^kernel: expected one of"):
        kde(train, 1.0, "tophat")
    with pytest.raises(ValueError, match="^kernel: expected 'gaussian' to draw samples"):
        kde(train, 1.0, "laplace").sample(3)
    with pytest.raises(
        ValueError, match="^kernel: expected 'gaussian', 'laplace' or 'cauchy' for diagnostics"
    ):
        kde(train, 1.0, "matern52").diagnostics(x)
    with pytest.raises(
        ValueError, match="^x_train: expected at least 2 points to leave one out, got 1"
    ):
        kde(train[:1], 1.0).log_density_leave_one_out()
    with pytest.raises(ValueError, match="^alpha: expected"):
        critical_bandwidths(0.0)
    with pytest.raises(ValueError, match="^n: expected"):
        kde(train, 1.0).sample(-1)
