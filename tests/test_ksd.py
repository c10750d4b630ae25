"""The kernel Stein discrepancy against dense sums and Gaussian closed forms, and its test of fit."""

import math
import sys

import numpy as np
import pytest
import reference_interaction as ref

from mckean import kernels as ks
from mckean import random
from mckean.interaction.ksd import ksd, ksd_test

KERNELS = [
    ks.InverseMultiquadric(1.2),
    ks.Gaussian([0.8, 1.5]),
    ks.Matern52(1.0),
    ks.Polynomial(2) + 0.5 * ks.Cauchy(2.0),
]
LIMIT = {"float32": 3e-6, "float64": 1e-13}


def closed_form(m2, s, d, length):
    """Target N(0, I), points N(m, s^2 I), |m|^2 = m2, Gaussian kernel: the squared discrepancy."""
    return (1 + 2 * s**2 / length**2) ** (-d / 2) * (
        m2 + d * (1 - s**2) ** 2 / (length**2 + 2 * s**2)
    )


@pytest.mark.parametrize("k", KERNELS, ids=str)
def test_ksd_is_the_dense_double_sum(xp, dtype, k):
    rng = np.random.default_rng(0)
    x, s = rng.standard_normal((27, 2)).astype(dtype), rng.standard_normal((27, 2)).astype(dtype)
    full = ref.stein_matrix(k, x, s)
    limit = LIMIT[dtype] * np.abs(full).max()
    got = ksd(k, xp.asarray(x), xp.asarray(s))
    assert type(got) is float and got == pytest.approx(full.mean(), abs=limit)
    got = ksd(k, xp.asarray(x), xp.asarray(s), unbiased=True)
    assert got == pytest.approx((full.sum() - np.trace(full)) / (27 * 26), abs=limit)
    w = rng.random(27)
    w = (w / w.sum()).astype(dtype)
    got = ksd(k, xp.asarray(x), xp.asarray(s), weights=xp.asarray(w))
    assert got == pytest.approx(w.astype(float) @ full @ w, abs=limit)


def test_batches(xp, dtype):
    rng = np.random.default_rng(1)
    x, s = (
        rng.standard_normal((3, 8, 2)).astype(dtype),
        rng.standard_normal((3, 8, 2)).astype(dtype),
    )
    got = ksd(KERNELS[0], xp.asarray(x), xp.asarray(s))
    assert xp.dtype(got) == dtype
    want = [ref.stein_matrix(KERNELS[0], a, b).mean() for a, b in zip(x, s, strict=True)]
    np.testing.assert_allclose(xp.to_numpy(got), want, atol=20 * LIMIT[dtype])


@pytest.mark.parametrize(("mean", "s", "d"), [(0.6, 1.0, 1), (0.3, 1.3, 2), (0.0, 0.7, 3)])
def test_gaussians_have_the_closed_form(mean, s, d):
    """Null: 400 unbiased estimates from 50 points average to the closed form, the biased ones to
    ((n - 1) KSD^2 + E k0(x, x)) / n; 5.5 standard errors, 6 tests: false alarm below 3e-7."""
    length, n = 1.2, 50
    x = mean + s * random.normal(7, (400, n, d))
    want = closed_form(d * mean**2, s, d, length)
    diagonal = d * mean**2 + d * s**2 + d / length**2
    for unbiased, expected in ((True, want), (False, ((n - 1) * want + diagonal) / n)):
        values = ksd(ks.Gaussian(length), x, -x, unbiased=unbiased)
        assert abs(values.mean() - expected) < 5.5 * values.std(ddof=1) / 20


def test_the_standard_error_is_the_jackknife():
    x = random.normal(3, (40, 2)) + 0.5
    full = ref.stein_matrix(ks.Gaussian(1.0), x, -x)
    np.fill_diagonal(full, 0)
    left_out = [np.delete(np.delete(full, i, 0), i, 1).sum() / (39 * 38) for i in range(40)]
    want = math.sqrt(39 / 40 * ((left_out - np.mean(left_out)) ** 2).sum())
    found = ksd_test(ks.Gaussian(1.0), x, -x, n_bootstrap=1)
    assert found.standard_error == pytest.approx(want, rel=1e-10)
    assert found.ksd == pytest.approx(full.sum() / (40 * 39), rel=1e-12)


def test_the_bootstrap_sees_a_wrong_mean_and_not_a_right_one(xp, dtype):
    x = random.normal(4, (100, 1), dtype=dtype)
    k = ks.InverseMultiquadric(1.0)
    good = ksd_test(k, xp.asarray(x), xp.asarray(-x), n_bootstrap=199, seed=1)
    bad = ksd_test(k, xp.asarray(x + 1), xp.asarray(-x - 1), n_bootstrap=199, seed=1)
    assert good.p_value > 0.02 and bad.p_value == 1 / 200 and good.n_bootstrap == 199
    assert good == ksd_test(k, xp.asarray(x), xp.asarray(-x), n_bootstrap=199, seed=1)


def test_p_values_are_uniform_when_the_law_is_right():
    """Null: P(p <= 0.1) = 0.1, asymptotically. 200 samples of 60 points: at most 44 (binomial tail below 2e-7), at
    least 3 (lower tail below 1e-6)."""
    low = sum(
        ksd_test(
            ks.Gaussian(1.0), x := random.normal(seed, (60, 1)), -x, n_bootstrap=99, seed=seed
        ).p_value
        <= 0.1
        for seed in range(200)
    )
    assert 3 <= low <= 44


def test_chains_need_fewer_flips():
    """40 stationary AR(1) chains of the right law: independent signs reject most of them at the level 0.05 (29 to 34 on
    four sets of seeds), signs that flip as rarely as the chain forgets few (3 or 4). Shifted chains they do reject."""
    rejected, shifted = {0.5: 0, 0.02: 0}, 0
    for seed in range(40):
        z = random.normal(seed, 1000)
        x = np.empty((1000, 1))
        x[0] = z[0]
        for i in range(1, 1000):
            x[i] = 0.9 * x[i - 1] + math.sqrt(1 - 0.9**2) * z[i]
        for flip in rejected:
            found = ksd_test(
                ks.Gaussian(1.0), x, -x, n_bootstrap=64, flip_probability=flip, seed=seed
            )
            rejected[flip] += found.p_value <= 0.05
        found = ksd_test(
            ks.Gaussian(1.0), x + 1, -x - 1, n_bootstrap=64, flip_probability=0.02, seed=seed
        )
        shifted += found.p_value <= 0.05
    assert rejected[0.5] >= 25 and rejected[0.02] <= 12
    assert shifted >= 35


def test_signs_are_fair_and_remember_as_long_as_asked(monkeypatch):
    """Null: signs of mean 0 with correlation 0.8^lag. 500 columns of 200; all four means at 6 standard errors of columns
    taken as independent units: false alarm below 1e-8."""
    caught = []

    def catch(k, x, scores, *, weights=None, exclude_self=False):
        if weights is not None:
            caught.append(weights)
        return np.zeros(len(x)) if weights is None else np.zeros_like(weights)

    monkeypatch.setattr(sys.modules[ksd_test.__module__]._sums, "stein_sum", catch)
    x = random.normal(0, (200, 1))
    ksd_test(ks.Gaussian(1.0), x, -x, n_bootstrap=500, flip_probability=0.1, seed=2)
    signs = np.concatenate(caught, axis=1)
    assert signs.shape == (200, 500) and (np.abs(signs) == 1).all()
    assert len(np.unique(signs, axis=1).T) == 500
    for lag, want in ((0, 0.0), (1, 0.8), (2, 0.64), (5, 0.8**5)):
        column = signs.mean(0) if lag == 0 else (signs[lag:] * signs[:-lag]).mean(0)
        assert abs(column.mean() - want) < 6 * column.std(ddof=1) / math.sqrt(500)


def test_wrong_arguments_are_named():
    x = np.ones((5, 2))
    k = ks.Gaussian(1.0)
    with pytest.raises(ValueError, match="^scores: expected shape"):
        ksd(k, x, x[:3])
    with pytest.raises(ValueError, match="^scores: expected finite"):
        ksd(k, x, x * np.inf)
    with pytest.raises(ValueError, match="^x: expected at least 2 points, got 1"):
        ksd(k, x[:1], x[:1], unbiased=True)
    with pytest.raises(ValueError, match="^x: expected at least 1 point, got 0"):
        ksd(k, x[:0], x[:0])
    with pytest.raises(ValueError, match="^unbiased: expected False with weights"):
        ksd(k, x, x, weights=np.full(5, 0.2), unbiased=True)
    with pytest.raises(ValueError, match="^weights: expected weights that sum to 1"):
        ksd(k, x, x, weights=np.ones(5))
    with pytest.raises(ValueError, match="^k: expected a kernel that is twice differentiable"):
        ksd(ks.Laplace(1.0), x, x)
    with pytest.raises(ValueError, match=r"^flip_probability: expected a number in \(0, 0.5\]"):
        ksd_test(k, x, x, flip_probability=0.6)
    with pytest.raises(ValueError, match="^x: expected at least 3 points"):
        ksd_test(k, x[:2], x[:2])
