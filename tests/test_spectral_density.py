"""Spectral densities, outliers, both ends of a spectrum, learning rates and their pictures."""

import functools
import math
import sys

import numpy as np
import pytest

import mckean as mk
from mckean import lowrank

TWO = np.concatenate([np.linspace(50, 5, 12), np.linspace(0.5, 0, 388)])


def rotated(lam, seed=0):
    return _rotated(tuple(lam), seed)


@functools.cache
def _rotated(lam, seed):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))[0]
    return (q * lam) @ q.T


def wigner(d, seed):
    """Symmetric, independent entries of variance 1 / d: a semicircle on [-2, 2]."""
    a = np.random.default_rng(seed).normal(size=(d, d))
    return (a + a.T) / math.sqrt(2 * d)


def area(result):
    return np.diff(result.grid) @ (result.density[1:] + result.density[:-1]) / 2


def test_the_semicircle():
    d = 600
    result = lowrank.spectral_density(wigner(d, 0), d, n_probes=6, n_steps=60)
    x = result.grid
    assert area(result) == pytest.approx(1, abs=1e-6)
    assert result.weights.sum() == pytest.approx(1, abs=1e-12)
    want = np.sqrt(np.maximum(4 - x**2, 0)) / (2 * math.pi)
    inside = np.abs(x) < 1.8
    # Smoothed over a tenth of the range: the Gaussians of single nodes are finer than the nodes.
    kernel = np.exp(-0.5 * ((x[:, None] - x) / 0.2) ** 2)
    kernel /= kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(
        (kernel @ result.density)[inside], (kernel @ want)[inside], atol=0.04
    )
    assert (result.stderr >= 0).all()
    assert result.outliers().n_outliers is None
    assert "no clear gap" in str(result.outliers())


def test_the_mass_of_the_identity_is_at_one():
    result = lowrank.spectral_density(lambda v: v, 1000)
    np.testing.assert_allclose(result.nodes, 1, atol=1e-14)
    np.testing.assert_allclose(result.weights, 0.1, atol=1e-14)
    assert len(result.nodes) == 10 == len(result.probe) and result.n_matvecs == 11
    assert area(result) == pytest.approx(1, abs=1e-6)
    zero = lowrank.spectral_density(lambda v: 0 * v, 50)
    assert (zero.nodes == 0).all() and zero.outliers().near_zero == 1.0


def test_outliers():
    result = lowrank.spectral_density(rotated(TWO), 400)
    found = result.outliers()
    assert found.n_outliers == 12
    np.testing.assert_allclose(found.values, TWO[:12], rtol=1e-6)
    assert 0.4 < found.edge < 0.5 and found.ratio == pytest.approx(50 / found.edge, rel=1e-6)
    assert found.smallest == pytest.approx(0, abs=1e-3)
    true = (TWO < 0.05).mean()
    assert found.near_zero == pytest.approx(true, abs=0.05)
    assert str(found).startswith("12 outliers beyond 0.4")
    signs = np.where(np.arange(400) % 3 == 0, -1, 1) * TWO
    both = lowrank.spectral_density(rotated(signs), 400).outliers()
    assert both.n_outliers == 12 and both.values[0] == pytest.approx(-50)
    smooth = lowrank.spectral_density(rotated(np.exp(-np.arange(400) / 40.0)), 400)
    assert smooth.outliers().n_outliers is None


def test_width_and_grid():
    grid = np.linspace(-1, 60, 77)
    result = lowrank.spectral_density(rotated(TWO), 400, width=2.0, grid=grid, n_probes=1)
    np.testing.assert_array_equal(result.grid, grid)
    assert result.width == 2.0 and np.isnan(result.stderr).all()
    want = np.exp(-0.5 * ((grid[:, None] - result.nodes) / 2) ** 2) @ result.weights / (2 * math.sqrt(2 * math.pi))  # fmt: skip
    np.testing.assert_allclose(result.density, want, rtol=1e-12)
    assert len(lowrank.spectral_density(rotated(TWO), 400, grid=50, n_steps=5).grid) == 50


def test_frameworks_agree(xp, dtype):
    a = rotated(TWO).astype(dtype)
    want = lowrank.spectral_density(a.astype("float64"), 400, n_probes=2, n_steps=20)
    got = lowrank.spectral_density(xp.asarray(a), 400, n_probes=2, n_steps=20)
    tol = 1e-3 if dtype == "float32" else 1e-9
    assert isinstance(got.density, np.ndarray)
    np.testing.assert_allclose(got.density, want.density, atol=tol * want.density.max())


def test_both_ends():
    lam = np.random.default_rng(0).normal(size=500)
    found = lowrank.extremal_eigenvalues(rotated(lam), 500)
    low, high, residuals, converged, n = found
    np.testing.assert_allclose([low, high], [lam.min(), lam.max()], rtol=1e-12)
    assert converged and max(residuals) < 1e-7 and n < 100
    assert lowrank.extremal_eigenvalues(np.array([[3.0]]), 1)[:2] == (3.0, 3.0)
    with pytest.warns(mk.ConvergenceWarning):
        assert not lowrank.extremal_eigenvalues(rotated(lam), 500, max_iter=5).converged


@pytest.mark.parametrize("ratio", [0.77, 1.16, 1.94, 2.32, 3.10])
def test_the_spike_law(ratio):
    # A curvature of 2 with noise: 2 + r^2 / 2 beyond the transition r < 2, else the edge 2 r.
    d = 1500
    noise = ratio * wigner(d, 3)
    noise[0, 0] += 2.0
    top = lowrank.lanczos(noise, d, 1, tol=1e-4).s[0]
    law = 2 + ratio**2 / 2 if ratio < 2 else 2 * ratio
    assert top == pytest.approx(law, rel=0.03)


N, DIM = 2048, 40


def batches(seed=0):
    x = np.random.default_rng(seed).normal(size=(N, DIM)) * np.geomspace(1, 0.05, DIM)

    def hvp_batch(size, number):
        rows = x[np.argsort(mk.random.uniform(number, N, stream=size))[:size]]
        return lambda v: rows.T @ (rows @ v) / size

    return x, hvp_batch


def test_learning_rates():
    x, hvp_batch = batches()
    sizes = [8, 16, 32, 64, 128, N]
    advice = lowrank.learning_rate_advice(hvp_batch, sizes, d=DIM, n_total=N, n_batches=20)
    dense = [
        [np.linalg.eigvalsh(np.stack([hvp_batch(b, i)(e) for e in np.eye(DIM)]))[-1] for i in range(20 if b < N else 1)]
        for b in sizes
    ]  # fmt: skip
    np.testing.assert_allclose(advice.lam_batch, [np.mean(v) for v in dense], rtol=1e-4)
    full = np.linalg.eigvalsh(x.T @ x / N)[-1]
    assert advice.lam_batch[-1] == pytest.approx(full, rel=1e-4)
    assert len(advice.samples[-1]) == 1 and advice.stderr[-1] == 0
    assert advice.lam_1 == pytest.approx(full, rel=0.1) and advice.misfit < 0.15
    np.testing.assert_allclose(advice.lr_max, 2 / advice.lam_batch)
    assert advice.B_crit == pytest.approx(advice.v / advice.lam_1)
    assert advice.lam(N) == pytest.approx(advice.lam_1)
    assert advice.max_rate(N) == pytest.approx(2 / advice.lam_1)


def test_an_exact_law_is_fitted():
    def hvp_batch(size, number):
        return np.diag([2.0 + 6.0 * (1 / size - 1 / 1000), 0.1])

    advice = lowrank.learning_rate_advice(
        hvp_batch, [1, 4, 50, 1000], d=2, n_total=1000, momentum=0.9
    )
    assert (advice.lam_1, advice.v) == pytest.approx((2.0, 6.0), rel=1e-9)
    assert advice.B_crit == pytest.approx(3.0) and advice.misfit < 1e-9
    assert advice.max_rate(1000) == pytest.approx(2 * 1.9 / 2.0)
    # Rates grow like B below the critical size and stay above it; adaptive ones like the root.
    small = lowrank.learning_rate_advice(
        lambda b, i: np.diag([1.0 + 1e6 / b, 0]), [1, 10, 100], d=2
    )
    assert small.scale(0.1, 1, 10) == pytest.approx(1.0, rel=1e-3)
    assert small.scale(0.1, 1, 100, method="adaptive") == pytest.approx(1.0, rel=1e-3)
    assert small.scale(0.1, 1e9, 1e12) == pytest.approx(0.1, rel=2e-3)


def test_fits_stay_in_bounds():
    rising = lowrank.learning_rate_advice(lambda b, i: np.diag([float(b), 0]), [1, 2, 4], d=2)
    assert rising.v == 0 and rising.lam_1 > 0
    steep = lowrank.learning_rate_advice(lambda b, i: np.diag([b**-2.0, 0]), [1, 2, 4], d=2)
    assert steep.lam_1 > 0 and np.isfinite(steep.B_crit)


def test_heavy_ball_is_best():
    lr, momentum = lowrank.heavy_ball(1.0, 100.0)

    def radius(lr, momentum):
        return max(
            np.abs(np.linalg.eigvals([[1 + momentum - lr * c, -momentum], [1, 0]])).max()
            for c in np.linspace(1, 100, 50)
        )

    assert radius(lr, momentum) == pytest.approx(math.sqrt(momentum), rel=1e-5)
    for factor in (0.8, 1.2):
        assert radius(lr * factor, momentum) > radius(lr, momentum)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lowrank.spectral_density(np.eye(3), 3, n_probes=0), ValueError, "n_probes: expected"),
        (lambda: lowrank.spectral_density(np.eye(3), 3, n_steps=0), ValueError, "n_steps: expected"),
        (lambda: lowrank.spectral_density(np.eye(3), 3, width=0), ValueError, "width: expected a positive"),
        (lambda: lowrank.spectral_density(np.eye(3), 3, grid=1), ValueError, "grid: expected"),
        (lambda: lowrank.spectral_density(np.eye(3), 3, grid=[[1.0]]), ValueError, "grid: expected finite numbers"),
        (lambda: lowrank.spectral_density(np.triu(np.ones((9, 9))), 9), ValueError, "symmetric"),
        (lambda: lowrank.spectral_density(np.full((9, 9), np.nan), 9), FloatingPointError, "matvec: product 1 "),
        (lambda: lowrank.learning_rate_advice(1, [1, 2], d=2), TypeError, "hvp_batch: expected a callable"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.eye(2), [1], d=2), ValueError, "batch_sizes: expected two"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.triu(np.ones((9, 9))), [1, 2], d=9), ValueError, "hvp_batch: expected a symmetric"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.eye(2), [1, 1, 2], d=2), ValueError, "batch_sizes: expected two"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.eye(2), [1, 9], d=2, n_total=5), ValueError, "batch_sizes: expected at most n_total = 5"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.eye(2), [1, 2], d=2, momentum=1), ValueError, r"momentum: expected a number in \[0, 1\)"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: -np.eye(2), [1, 2], d=2), ValueError, "hvp_batch: expected a positive eigenvalue"),
        (lambda: lowrank.learning_rate_advice(lambda b, i: np.eye(3), [1, 2], d=2), ValueError, r"hvp_batch: expected shape \(d, d\)"),
        (lambda: lowrank.heavy_ball(2.0, 1.0), ValueError, "smallest: expected at most largest"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pictures():
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    from mckean import plot

    result = lowrank.spectral_density(rotated(TWO), 400, n_steps=30)
    ax = result.plot()
    assert ax.get_yscale() == "log" and len(ax.lines) == 2
    np.testing.assert_allclose(ax.lines[1].get_xdata(), result.outliers().values)
    other = plt.subplots()[1]
    assert (
        plot.spectral_density(result, other, log=False) is other and other.get_yscale() == "linear"
    )
    advice = lowrank.learning_rate_advice(lambda b, i: np.diag([2 + 6 / b, 0]), [1, 4, 50], d=2)
    assert advice.plot().get_xscale() == "log"
    with pytest.raises(TypeError, match="result: expected a SpectralDensity, got int"):
        plot.spectral_density(3)
    with pytest.raises(TypeError, match="advice: expected a LearningRateAdvice"):
        plot.learning_rates(result)
    with pytest.raises(TypeError, match="ax: expected axes"):
        result.plot(ax=3)
    plt.close("all")


def test_pictures_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = lowrank.spectral_density(np.eye(3), 3)
    with pytest.raises(ImportError, match=r"pip install 'mckean\[plot\]'"):
        result.plot()
