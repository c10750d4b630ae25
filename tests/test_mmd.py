"""Squared maximum mean discrepancies against dense sums, closed forms and published tables."""

import math

import numpy as np
import pytest
import reference_interaction as ref
from hypothesis import given, settings
from hypothesis import strategies as st

from mckean import kernels as ks
from mckean import random
from mckean.interaction.mmd import kid, mmd2, mmd2_blocks, mmd2_optimally_weighted

KERNELS = [
    ks.Gaussian(1.3),
    ks.Gaussian([1.0, 2.0, 0.5]),
    ks.Energy(),
    ks.Laplace(0.7),
    ks.Polynomial(3),
    ks.Gaussian(1.0) + 0.5 * ks.Riesz(1.5),
]
LIMIT = {"float32": 2e-6, "float64": 1e-13}


def dense(k, x, y, u=None, v=None, *, unbiased=False, paired=False):
    n, m = len(x), len(y)
    u, v = np.full(n, 1 / n) if u is None else u, np.full(m, 1 / m) if v is None else v
    xx, yy, xy = ref.matrix(k, x, x), ref.matrix(k, y, y), ref.matrix(k, x, y)
    if not unbiased:
        return u @ xx @ u + v @ yy @ v - 2 * u @ xy @ v
    same = [(a.sum() - np.trace(a)) / (len(a) * (len(a) - 1)) for a in (xx, yy)]
    cross = (xy.sum() - np.trace(xy)) / (n * (n - 1)) if paired else xy.mean()
    return sum(same) - 2 * cross


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((31, 3)), rng.standard_normal((24, 3)) * 1.2 + 0.3


@pytest.mark.parametrize("k", KERNELS, ids=str)
@pytest.mark.parametrize("unbiased", [True, False])
def test_mmd2_is_the_dense_sum(xp, dtype, samples, k, unbiased):
    x, y = (a.astype(dtype) for a in samples)
    got = mmd2(k, xp.asarray(x), xp.asarray(y), unbiased=unbiased)
    assert type(got) is float
    size = np.abs(ref.matrix(k, x, y)).max()
    assert got == pytest.approx(dense(k, x, y, unbiased=unbiased), abs=LIMIT[dtype] * size)


def test_weights(xp, dtype, samples):
    x, y = (a.astype(dtype) for a in samples)
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(31) * 0.1 + 1, rng.random(24)
    u, v = (u / u.sum()).astype(dtype), (v / v.sum()).astype(dtype)
    k, wide = ks.Energy(), lambda a: a.astype(float) / a.astype(float).sum()
    for a, b in ((u, v), (u, None), (None, v)):
        got = mmd2(
            k, xp.asarray(x), xp.asarray(y), unbiased=False,
            x_weights=None if a is None else xp.asarray(a), y_weights=None if b is None else xp.asarray(b),
        )  # fmt: skip
        want = dense(k, x, y, None if a is None else wide(a), None if b is None else wide(b))
        assert got == pytest.approx(want, abs=5 * LIMIT[dtype])


def test_equal_weights_are_no_weights(samples):
    x, y = samples
    u = np.full(31, 1 / 31)
    for unbiased in (True, False):
        assert mmd2(KERNELS[0], x, y, x_weights=u, unbiased=unbiased) == pytest.approx(
            mmd2(KERNELS[0], x, y, unbiased=unbiased), abs=1e-15
        )


def test_unequal_weights_need_the_biased_form(samples):
    x, y = samples
    w = np.arange(1.0, 32) / 496
    with pytest.raises(ValueError, match="^unbiased: expected False with x_weights that differ"):
        mmd2(KERNELS[0], x, y, x_weights=w)
    with pytest.raises(
        ValueError, match="^y_weights: expected weights that sum to 1, got a sum of 24"
    ):
        mmd2(KERNELS[0], x, y, y_weights=np.ones(24), unbiased=False)


def test_paired(samples):
    x, y = samples[0], samples[1][np.arange(31) % 24]
    assert mmd2(KERNELS[0], x, y, paired=True) == pytest.approx(
        dense(KERNELS[0], x, y, unbiased=True, paired=True), abs=1e-14
    )
    with pytest.raises(
        ValueError, match="^paired: expected as many x as y, and unbiased=True, got 31 and 24"
    ):
        mmd2(KERNELS[0], x, samples[1], paired=True)
    with pytest.raises(ValueError, match="^paired: .* got unbiased=False"):
        mmd2(KERNELS[0], x, y, paired=True, unbiased=False)


def test_batches(xp, dtype):
    rng = np.random.default_rng(2)
    x, y = (
        rng.standard_normal((4, 9, 2)).astype(dtype),
        rng.standard_normal((4, 7, 2)).astype(dtype),
    )
    got = mmd2(KERNELS[0], xp.asarray(x), xp.asarray(y))
    assert xp.dtype(got) == dtype
    want = [dense(KERNELS[0], a, b, unbiased=True) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(xp.to_numpy(got), want, atol=5 * LIMIT[dtype])
    w = rng.random((4, 9))
    w = (w / w.sum(1, keepdims=True)).astype(dtype)
    got = mmd2(KERNELS[0], xp.asarray(x), xp.asarray(y), x_weights=xp.asarray(w), unbiased=False)
    want = [dense(KERNELS[0], a, b, c) for a, b, c in zip(x, y, w.astype(float), strict=True)]
    np.testing.assert_allclose(xp.to_numpy(got), want, atol=5 * LIMIT[dtype])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_the_biased_form_is_a_squared_distance(n, m, d, seed):
    x, y = random.normal(seed, (n, d)), random.normal(seed, (m, d), stream=1)
    value = mmd2(ks.Laplace(1.0), x, y, unbiased=False)
    assert value >= -1e-15
    assert value == pytest.approx(mmd2(ks.Laplace(1.0), y, x, unbiased=False), abs=1e-14)
    assert mmd2(ks.Laplace(1.0), x, x[::-1].copy(), unbiased=False) == pytest.approx(0, abs=1e-14)


def gaussian_mmd2(mean, s, d, length):
    """N(0, I) against N(mean, s^2 I), each coordinate of the mean the same."""
    a, b = 1 + 2 / length**2, 1 + 2 * s**2 / length**2
    c = 1 + (1 + s**2) / length**2
    return (
        a ** (-d / 2)
        + b ** (-d / 2)
        - 2 * c ** (-d / 2) * math.exp(-0.5 * d * mean**2 / (length**2 + 1 + s**2))
    )


def test_gaussians_have_the_closed_form():
    """Null: the mean of 400 unbiased estimates from 40 + 40 points is the closed form; 5.5 standard errors, false alarm
    4e-8."""
    x = random.normal(1, (400, 40, 3))
    y = 0.5 + 1.4 * random.normal(2, (400, 40, 3))
    values = mmd2(ks.Gaussian(1.5), x, y)
    want = gaussian_mmd2(0.5, 1.4, 3, 1.5)
    assert abs(values.mean() - want) < 5.5 * values.std(ddof=1) / 20
    assert values.std(ddof=1) / 20 < 0.03 * want


def test_the_kid_kernel_has_its_closed_form():
    """Null: blocks of N(.3, I) against N(0, I) in 8 dimensions have mean .3432915; 5.5 standard errors, false alarm
    4e-8."""
    x, y = 0.3 + random.normal(3, (40_000, 8)), random.normal(4, (40_000, 8))
    result = kid(x, y, subset_size=100, blocks="disjoint")
    assert result.n_blocks == 400 and result.block_size == 100
    assert abs(result.value - 0.3432915) < 5.5 * result.standard_error < 0.06
    same = kid(random.normal(5, (40_000, 8)), y, subset_size=100, blocks="disjoint")
    assert abs(same.value) < 5.5 * same.standard_error


def test_blocks_are_plain_estimates_on_parts(xp, dtype):
    x = np.random.default_rng(3).standard_normal((53, 2)).astype(dtype)
    y = np.random.default_rng(4).standard_normal((47, 2)).astype(dtype) + 1
    k = ks.Gaussian(1.0)
    result = mmd2_blocks(k, xp.asarray(x), xp.asarray(y), block_size=11, seed=6)
    assert result.n_blocks == 4 and result.blocks.dtype == np.float64
    assert result.value == result.blocks.mean()
    assert result.standard_error == pytest.approx(result.std / 2)
    again = mmd2_blocks(k, xp.asarray(x), xp.asarray(y), block_size=11, seed=6)
    assert (again.blocks == result.blocks).all()
    assert mmd2_blocks(k, xp.asarray(x), xp.asarray(y), block_size=11, seed=7).value != result.value
    whole = mmd2_blocks(
        k, xp.asarray(x[:20]), xp.asarray(y[:20]), block_size=20, n_blocks=3, blocks="overlapping"
    )
    np.testing.assert_allclose(
        whole.blocks, dense(k, x[:20], y[:20], unbiased=True), atol=5 * LIMIT[dtype]
    )


def test_disjoint_blocks_share_no_point_and_overlapping_ones_repeat_none(monkeypatch):
    from mckean.interaction import mmd

    monkeypatch.setattr(mmd, "_CHUNK", 40)  # several chunks
    seen = []
    monkeypatch.setattr(mmd, "mmd2", lambda k, a, b: seen.append((a, b)) or np.zeros(len(a)))
    x = np.arange(30.0)[:, None]
    mmd2_blocks(ks.Energy(), x, x[:26], block_size=4)
    for side in (0, 1):
        used = np.concatenate([pair[side].ravel() for pair in seen])
        assert len(used) == len(set(used)) == 24
    seen.clear()
    mmd2_blocks(
        ks.Energy(), x, x, block_size=15
    )  # points that belong in pairs are not kept in pairs
    assert any(
        set(a.ravel()) != set(b.ravel()) for pair in seen for a, b in zip(*pair, strict=True)
    )
    seen.clear()
    mmd2_blocks(ks.Energy(), x, x, block_size=7, n_blocks=9, blocks="overlapping")
    blocks = np.concatenate([pair[0][..., 0] for pair in seen])
    assert blocks.shape == (9, 7) and all(len(set(b)) == 7 for b in blocks)
    assert len({tuple(b) for b in blocks}) == 9


def test_disjoint_standard_errors_are_honest_and_overlapping_ones_are_not():
    """Null: (estimate - truth) / standard error has variance about 1 (t law, 19 degrees of freedom, variance 1.12). Mean of
    150 squares; its standard deviation is below 0.16, so 2 is more than 5.5 away: false alarm below 1e-7."""
    k, truth = ks.Gaussian(1.5), gaussian_mmd2(0.5, 1.0, 2, 1.5)
    ratios = {"disjoint": [], "overlapping": []}
    for seed in range(150):
        x, y = random.normal(seed, (400, 2)), 0.5 + random.normal(seed, (400, 2), stream=1)
        for blocks, found in ratios.items():
            if blocks == "overlapping" and seed >= 40:
                continue
            n_blocks = 20 if blocks == "disjoint" else 200
            r = mmd2_blocks(k, x, y, block_size=20, n_blocks=n_blocks, blocks=blocks, seed=seed)
            found.append(((r.value - truth) / r.standard_error) ** 2)
    assert 0.5 < np.mean(ratios["disjoint"]) < 2
    assert np.mean(ratios["overlapping"]) > 4


def test_kid_of_integer_and_large_features(dtype):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (40, 12), dtype=np.uint8)
    others = rng.integers(0, 200, (40, 12), dtype=np.uint8)
    got = kid(pixels, others, subset_size=40, n_subsets=2)
    want = dense(ks.Polynomial(3), pixels.astype(float), others.astype(float), unbiased=True)
    assert got.value == pytest.approx(want, rel=1e-12)
    # In float32 the values reach 1e4 and the answer 1: sums in float64 keep it.
    x, y = rng.standard_normal((300, 64)) + 4, rng.standard_normal((300, 64)) + 4.01
    got = kid(x.astype(dtype), y.astype(dtype), subset_size=300, n_subsets=2).value
    want = dense(ks.Polynomial(3), x.astype(dtype), y.astype(dtype), unbiased=True)
    assert got == pytest.approx(want, abs=1e-6 * 17**3 if dtype == "float32" else 1e-9)


def test_wrong_arguments_are_named(samples):
    x, y = samples
    k = ks.Gaussian(1.0)
    with pytest.raises(
        ValueError, match=r"^y: expected shape \(m, 3\) to match x \(31, 3\), got \(24, 2\)"
    ):
        mmd2(k, x, y[:, :2])
    with pytest.raises(TypeError, match="^y: expected float64"):
        mmd2(k, x, y.astype(np.float32))
    with pytest.raises(
        ValueError, match=r"^x: expected shape \(n, d\) or \(batch, n, d\), got \(31,\)"
    ):
        mmd2(k, x[:, 0], y)
    with pytest.raises(ValueError, match="^x: expected at least 2 points, got 1"):
        mmd2(k, x[:1], y)
    with pytest.raises(ValueError, match="^y: expected at least 1 point, got 0"):
        mmd2(k, x, y[:0], unbiased=False)
    with pytest.raises(ValueError, match=r"^x_weights: expected shape \(31,\)"):
        mmd2(k, x, y, x_weights=np.ones(3) / 3)
    with pytest.raises(ValueError, match="^y: expected finite"):
        mmd2(k, x, y * np.nan)
    with pytest.raises(
        ValueError, match="^block_size: expected at most 12, for two disjoint blocks, got 13"
    ):
        mmd2_blocks(k, x, y, block_size=13)
    with pytest.raises(
        ValueError, match="^n_blocks: expected at most 2 disjoint blocks of 10, got 3"
    ):
        mmd2_blocks(k, x, y, block_size=10, n_blocks=3)
    with pytest.raises(ValueError, match="^subset_size: expected at most 24, got 1000"):
        kid(x, y)
    with pytest.raises(ValueError, match="^blocks: expected one of"):
        mmd2_blocks(k, x, y, block_size=5, blocks="random")
    with pytest.raises(ValueError, match=r"^y_features: expected shape"):
        kid(x, y[:, :2])


# Optimally weighted MMD.


def simulator(u):
    return np.sin(3 * u) + u


def exact_mmd2_of(points, weights):
    """Squared MMD to the law of simulator(U), by Gauss-Legendre quadrature in U, unit Gaussian kernel."""
    nodes, mass = np.polynomial.legendre.leggauss(200)
    truth, mass = simulator((nodes[:, None] + 1) / 2), mass / 2
    return dense(ks.Gaussian(1.0), points, truth, weights, mass)


def test_weighted_points_reach_the_published_accuracy():
    k, c = ks.Gaussian(1.0), ks.Gaussian(0.3)
    for m, table in ((8, 0.0150), (16, 4.8e-4), (32, 8.3e-5), (64, 1.5e-5)):
        errors = []
        for seed in range(5):
            u = random.uniform(seed, (m, 1))
            found = mmd2_optimally_weighted(k, simulator(u), simulator(u), u, input_kernel=c)
            errors.append(max(exact_mmd2_of(simulator(u), found.weights), 0.0))
        # The table is one kind of design; a median over random ones is within a factor of a few.
        assert math.sqrt(np.median(errors)) < 6 * table, m


def test_the_weighted_value_is_the_dense_one(xp):
    rng = np.random.default_rng(6)
    u, y = rng.random((20, 2)), rng.standard_normal((13, 1))
    x = np.sin(u.sum(1, keepdims=True))
    k, c = ks.Laplace(0.8), ks.Gaussian([0.5, 0.9])
    found = mmd2_optimally_weighted(
        k, xp.asarray(x), xp.asarray(y), xp.asarray(u), input_kernel=c, rho=1e-6
    )
    w = xp.to_numpy(found.weights)
    assert found.value == pytest.approx(dense(k, x, y, w), abs=1e-12)
    gram = ref.matrix(c, u, u) + found.jitter * np.eye(20)
    nodes, mass = np.polynomial.legendre.leggauss(40)
    grid = np.stack(np.meshgrid((nodes + 1) / 2, (nodes + 1) / 2, indexing="ij"), -1).reshape(-1, 2)
    z = ref.matrix(c, u, grid) @ np.outer(mass / 2, mass / 2).ravel()
    np.testing.assert_allclose(gram @ w, z, atol=1e-10)


def test_the_normal_embedding():
    u = random.normal(1, (15, 1))
    found = mmd2_optimally_weighted(
        ks.Gaussian(1.0), u, u, u, input_kernel=ks.Gaussian(0.7), input_law="normal", rho=1e-8
    )
    nodes, mass = np.polynomial.hermite_e.hermegauss(60)
    z = ref.matrix(ks.Gaussian(0.7), u, nodes[:, None]) @ (mass / mass.sum())
    gram = ref.matrix(ks.Gaussian(0.7), u, u) + found.jitter * np.eye(15)
    np.testing.assert_allclose(gram @ found.weights, z, atol=1e-8)


def test_repeated_inputs_grow_the_jitter():
    u = np.repeat(random.uniform(0, (10, 1)), 3, axis=0)
    found = mmd2_optimally_weighted(
        ks.Gaussian(1.0), u, u, u, input_kernel=ks.Gaussian(0.5), rho=0.0
    )
    assert found.jitter > 0 and np.isfinite(found.value) and np.isfinite(found.weights).all()


def test_optimally_weighted_refusals():
    u = np.linspace(0, 1, 5)[:, None]
    k = ks.Gaussian(1.0)
    with pytest.raises(TypeError, match="^simulator_points: expected float64, got float32"):
        mmd2_optimally_weighted(k, u.astype(np.float32), u, u, input_kernel=k)
    with pytest.raises(TypeError, match="^input_kernel: expected a Gaussian kernel, got Laplace"):
        mmd2_optimally_weighted(k, u, u, u, input_kernel=ks.Laplace(1.0))
    with pytest.raises(
        ValueError, match=r"^inputs: expected values in \[0, 1\] for the uniform law"
    ):
        mmd2_optimally_weighted(k, u, u, 2 * u, input_kernel=k)
    with pytest.raises(ValueError, match=r"^inputs: expected shape \(5, s\)"):
        mmd2_optimally_weighted(k, u, u, u[:3], input_kernel=k)
    with pytest.raises(ValueError, match="^input_law: expected one of"):
        mmd2_optimally_weighted(k, u, u, u, input_kernel=k, input_law="beta")
    with pytest.raises(ValueError, match="^simulator_points: expected 1 to 10000 points, got 0"):
        mmd2_optimally_weighted(k, u[:0], u, u[:0], input_kernel=k)
