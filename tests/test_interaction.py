"""Interaction sums against brute force in float64."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import reference_interaction as ref
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import _core
from mckean import kernels as ks
from mckean.interaction import (
    kernel_grad,
    kernel_grad_y,
    kernel_logsumexp,
    kernel_matrix,
    kernel_mean,
    kernel_sum,
    kernel_sum_and_grad,
    pair_argmin,
    pair_median,
    random_batch_sum,
    stein_matrix,
    stein_sum,
)

TOLERANCE = {"float64": 2e-12, "float32": 1e-5}


def all_kernels(d):
    """Every kernel, on the scale of standard normal points in `d` dimensions."""
    length = d**0.5
    scales = np.linspace(0.5, 2.0, d) * length
    return [
        ks.Gaussian(0.7 * length),
        ks.Gaussian(scales),
        ks.Laplace(1.3 * length),
        ks.Laplace(scales),
        ks.Matern32(length),
        ks.Matern32(scales),
        ks.Matern52(2.0 * length),
        ks.Multiquadric(length),
        ks.InverseMultiquadric(2.0 * length),
        ks.InverseMultiquadric(scales, -0.3),
        ks.Cauchy(length),
        ks.RationalQuadratic(length, 0.5),
        ks.RationalQuadratic(length, 2.0),
        ks.Riesz(0.5),
        ks.Riesz(1.5, softening=0.1),
        ks.Energy(),
        ks.Log(),
        ks.Coulomb(softening=0.2),
        ks.Polynomial(),
        ks.Polynomial(2, gamma=0.5 / d, c=0.0),
        ks.Polynomial(1),
        ks.Sinc(1.2 / length),
        ks.Dot(0.3 / d),
        ks.Gaussian(length) + 2 * ks.Energy(),
        -0.5 * ks.Gaussian(length)
        + 0.5 * ks.Laplace(scales)
        + ks.Polynomial(2)
        + ks.Sinc(0.3 / length),
    ]


def data(dtype, d, n, m, seed=0):
    rng = np.random.default_rng([seed, d, n, m])

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    return draw(n, d), draw(m, d), draw(m), draw(m, 3), draw(n, d), draw(m, d)


def assert_close(got, want, scale, tolerance):
    """|got - want| <= tolerance * scale; scale is the sum of absolute terms."""
    got = np.asarray(got, np.float64)
    assert got.shape == want.shape
    with np.errstate(invalid="ignore"):  # equal infinities count as equal
        error = np.where(got == want, 0.0, np.abs(got - want))
    assert np.all(error <= tolerance * scale + 1e-30), np.max(error / (scale + 1e-30))


SIZES = [(1, 1), (7, 9), (20, 270), (70, 600)]


@pytest.mark.parametrize("d", [1, 2, 3, 8, 16, 17, 40])
@pytest.mark.parametrize("which", range(len(all_kernels(2))))
def test_every_reduction_of_every_kernel_matches_brute_force(which, d, dtype):
    k, tol = all_kernels(d)[which], TOLERANCE[dtype]
    for n, m in SIZES if d == 2 else SIZES[1:3]:
        x, y, w, several, sx, sy = data(dtype, d, n, m)
        for exclude in (False, True):
            value, gx, gy, stein = (
                ref._parts(k, x, y, sx, sy) if k.has_stein else [*ref._parts(k, x, y)[:3], None]
            )
            value, gx, gy = (ref._mask(a, exclude) for a in (value, gx, gy))
            # The terms of a sum of kernels may cancel: errors are relative to their absolute values.
            size = sum(np.abs(ref._mask(ref.matrix_of_term(t, x, y), exclude)) for t in k.terms(d))
            w64 = w.astype(np.float64)
            scale = size @ np.abs(w64)
            assert_close(kernel_sum(k, x, y, w, exclude_self=exclude), value @ w64, scale, tol)
            got = kernel_sum(k, x, y, several, exclude_self=exclude)
            assert_close(got, value @ several.astype(np.float64), size @ np.abs(several), tol)
            for f, g in ((kernel_grad, gx), (kernel_grad_y, gy)):
                want = np.einsum("ijd,j->id", g, w64)
                gscale = np.einsum("ijd,j->i", np.abs(g), np.abs(w64))[:, None] / d**0.5
                gscale = gscale + (1e-2 * scale[:, None] if len(k.terms(d)) > 1 else 0)
                assert_close(f(k, x, y, w, exclude_self=exclude), want, gscale, 3 * tol)
            both = kernel_sum_and_grad(k, x, y, w, exclude_self=exclude)
            assert_close(both[0], value @ w64, scale, tol)
            assert_close(both[1], np.einsum("ijd,j->id", gx, w64), gscale, 3 * tol)
            if k.is_positive and m > exclude:
                want = ref.kernel_logsumexp(k, x, y, w, exclude_self=exclude)
                assert_close(
                    kernel_logsumexp(k, x, y, w, exclude_self=exclude), want, 1 + np.abs(want), tol
                )
                values = np.tile(y, (1, 40 // d + 1))  # more columns than registers sum at once
                for v in (None, w, values):
                    want = ref.kernel_mean(k, x, y, v, w, exclude_self=exclude)
                    assert_close(kernel_mean(k, x, y, v, w, exclude_self=exclude), want, 4.0, tol)
            if k.has_stein:
                stein = ref._mask(stein, exclude)
                got = stein_sum(k, x, sx, y=y, y_scores=sy, weights=w, exclude_self=exclude)
                bound = np.abs(stein) @ np.abs(w64) + size @ np.abs(w64) * d
                assert_close(got, stein @ w64, bound, 3 * tol)
        assert_close(
            kernel_matrix(k, x, y), ref.matrix(k, x, y), np.abs(ref.matrix(k, x, y)) + 0.2, tol
        )
        if k.has_stein:
            want = ref.stein_matrix(k, x, sx, y, sy)
            assert_close(stein_matrix(k, x, sx, y, sy), want, np.abs(want) + d, tol * 3)


@pytest.mark.parametrize("d", [64, 300, 784])
def test_large_dimensions(d, dtype):
    x, y, w, *_ = data(dtype, d, 25, 150)
    for k in (ks.Gaussian(d**0.5), ks.Energy(), ks.Polynomial(), ks.Dot(0.3 / d)):
        value, gx, _, _ = ref._parts(k, x, y)
        assert_close(
            kernel_sum(k, x, y, w),
            value @ w.astype(float),
            np.abs(value) @ np.abs(w),
            TOLERANCE[dtype],
        )
        scale = np.einsum("ijd,j->i", np.abs(gx), np.abs(w))[:, None] / d**0.5
        assert_close(
            kernel_grad(k, x, y, w), np.einsum("ijd,j->id", gx, w), scale, 3 * TOLERANCE[dtype]
        )
        if k.is_positive:
            assert_close(kernel_mean(k, x, y), ref.kernel_mean(k, x, y), 4.0, TOLERANCE[dtype])


def test_nothing_to_do(dtype):
    k, x, none = ks.Gaussian(1.0), np.ones((3, 2), dtype), np.ones((0, 2), dtype)
    assert kernel_sum(k, none, x).shape == (0,) and kernel_grad(k, none, x).shape == (0, 2)
    assert kernel_mean(k, none, x).shape == (0, 2) and kernel_logsumexp(k, none, none).shape == (0,)
    assert stein_sum(k, none, none).shape == (0,) and kernel_matrix(k, none, x).shape == (0, 3)
    assert (
        pair_argmin(none, x)[0].shape == (0, 1) and pair_argmin(x, none)[0].tolist() == [[-1]] * 3
    )
    for shape in ((0, 3, 2), (4, 0, 2)):
        assert kernel_sum(k, np.ones(shape, dtype), np.ones(shape, dtype)).shape == shape[:2]
    assert np.all(kernel_sum(k, x, none) == 0) and np.all(
        stein_sum(k, x, x, y=none, y_scores=none) == 0
    )


@pytest.mark.parametrize(
    "k", [ks.Gaussian(1.0), ks.Laplace(1.0), ks.InverseMultiquadric(1.0), ks.Energy()], ids=repr
)
def test_all_instruction_sets_agree(simd_level, k, dtype):
    for d in (2, 3, 10, 16, 40):
        x, y, w, *_ = data(dtype, d, 50, 700)
        scale = np.abs(ref.matrix(k, x, y)) @ np.abs(w.astype(float))
        assert_close(kernel_sum(k, x, y, w), ref.kernel_sum(k, x, y, w), scale, TOLERANCE[dtype])
        assert_close(
            kernel_grad(k, x, y, w), ref.kernel_grad(k, x, y, w), scale.max(), 10 * TOLERANCE[dtype]
        )
        if k.is_positive:
            assert_close(kernel_mean(k, x, y), ref.kernel_mean(k, x, y), 4.0, TOLERANCE[dtype])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 70), m=st.integers(0, 600), d=st.integers(1, 20), p=st.integers(0, 40), seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]), stride=st.sampled_from([1, 2, -1]),
)  # fmt: skip
def test_any_shape_and_stride(n, m, d, p, seed, dtype, stride):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n * abs(stride), d)).astype(dtype)[::stride]
    y = np.asfortranarray(rng.normal(size=(m, d)).astype(dtype))
    w = rng.normal(size=(m, p) if p else m).astype(dtype)
    k = ks.Gaussian(d**0.5)
    got = kernel_sum(k, x, y, w)
    assert got.shape == ((n, p) if p else (n,)) and got.dtype == dtype
    assert_close(
        got,
        ref.kernel_sum(k, x, y, w),
        ref.matrix(k, x, y) @ np.abs(w.astype(float)),
        TOLERANCE[dtype],
    )
    if m == 0:
        assert np.all(kernel_logsumexp(k, x, y) == -np.inf)
        assert np.all(kernel_grad(k, x, y) == 0)


def test_framework_dtype_and_inputs_are_kept(xp, dtype):
    a, b, w, several, sx, _ = data(dtype, 3, 40, 50)
    x, y = xp.asarray(a), xp.asarray(b)
    k = ks.Gaussian(1.0)
    results = {
        "sum": kernel_sum(k, x, y, xp.asarray(w)),
        "several": kernel_sum(k, x, y, xp.asarray(several)),
        "grad": kernel_grad(k, x, y),
        "lse": kernel_logsumexp(k, x, y),
        "mean": kernel_mean(k, x, y),
        "stein": stein_sum(k, x, xp.asarray(sx)),
        "nearest": pair_argmin(x, y, 2)[1],
        "batch": random_batch_sum(k, x, batch_size=8, gradient=True),
    }
    plain = {
        "sum": kernel_sum(k, a, b, w),
        "several": kernel_sum(k, a, b, several),
        "grad": kernel_grad(k, a, b),
        "lse": kernel_logsumexp(k, a, b),
        "mean": kernel_mean(k, a, b),
        "stein": stein_sum(k, a, sx),
        "nearest": pair_argmin(a, b, 2)[1],
        "batch": random_batch_sum(k, a, batch_size=8, gradient=True),
    }
    for name, got in results.items():
        assert xp.is_array(got) and xp.dtype(got) == dtype
        np.testing.assert_allclose(
            xp.to_numpy(got), plain[name], rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-7
        )
    assert xp.is_array(pair_argmin(x, y)[0])
    assert np.array_equal(xp.to_numpy(x), a)


def test_same_bits_for_any_number_of_threads(dtype):
    before = mk.get_num_threads()
    try:
        for d, n, m in ((3, 1000, 700), (3, 3, 50000), (40, 500, 900)):
            x, y, w, several, sx, sy = data(dtype, d, n, m)
            results = []
            for threads in (1, 2, 5):
                mk.set_num_threads(threads)
                k = ks.Laplace(1.0) + ks.Gaussian(2.0)
                results.append(
                    [
                        kernel_sum(k, x, y, w),
                        kernel_sum(k, x, y, several),
                        kernel_grad(k, x, y, w, exclude_self=True),
                        kernel_logsumexp(k, x, y, w),
                        kernel_mean(k, x, y, several, w),
                        stein_sum(ks.Gaussian(2.0), x, sx, y=y, y_scores=sy),
                        *pair_argmin(x, y, 3),
                    ]
                )
            for other in results[1:]:
                assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    finally:
        mk.set_num_threads(before)


# ---- accuracy where it is hard ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [3, 16, 64, 784])
@pytest.mark.parametrize(
    "k", [ks.Energy(), ks.Laplace(0.5), ks.Matern32(0.5), ks.Log(), ks.Gaussian(0.01)], ids=repr
)
def test_near_duplicates_far_from_the_origin(k, d, dtype):
    """The worst row counts: the inner-product form alone would lose all digits of these distances."""
    rng = np.random.default_rng(d)
    x = (1e4 + rng.normal(size=(300, d))).astype(dtype)
    y = x + (4e-3 * rng.normal(size=(300, d)) / d**0.5).astype(dtype)
    exact = ref.matrix(k, x, y)
    scale = np.abs(exact).sum(1)
    tolerance = 1e-5 if dtype == "float32" else 1e-9
    assert_close(kernel_sum(k, x, y), exact.sum(1), scale, tolerance)
    want = ref.kernel_grad(k, x, y)
    size = np.abs(ref._parts(k, x, y)[1]).sum((1, 2))[:, None] / d**0.5
    assert_close(kernel_grad(k, x, y), want, size, 3e-5 if dtype == "float32" else 1e-8)


def test_clusters_wide_apart(dtype):
    """Two tight clusters, 1e4 apart: no common centre helps."""
    rng = np.random.default_rng(5)
    for d in (3, 64):
        x = (np.repeat([[-5e3], [5e3]], 100, 0) + 0.05 * rng.normal(size=(200, d))).astype(dtype)
        for k in (ks.Energy(), ks.Gaussian(0.1 * d**0.5)):
            exact = ref.matrix(k, x, x)
            assert_close(
                kernel_sum(k, x, x),
                exact.sum(1),
                np.abs(exact).sum(1),
                1e-5 if dtype == "float32" else 1e-9,
            )
            want, size = (
                ref.kernel_grad(k, x, x),
                np.abs(ref._parts(k, x, x)[1]).sum((1, 2))[:, None] / d**0.5,
            )
            assert_close(kernel_grad(k, x, x), want, size, 3e-5 if dtype == "float32" else 1e-8)


def test_a_million_equal_terms_keep_their_digits():
    x, y = np.zeros((1, 2), np.float32), np.ones((1_000_000, 2), np.float32)
    assert kernel_sum(ks.Gaussian(1.0), x, y)[0] == pytest.approx(1e6 * np.exp(-1.0), rel=3e-7)


def test_exponentials_over_their_range(dtype):
    """kernel_matrix of the Gaussian kernel is exp: relative error, exactness at 0, zero where it underflows."""
    s = np.concatenate([np.linspace(0, 100, 200_001), np.geomspace(1e-12, 50, 1000)])
    x = np.sqrt(2 * s).astype(dtype)[:, None]
    got = kernel_matrix(ks.Gaussian(1.0), np.zeros((1, 1), dtype), x)[0].astype(np.float64)
    want = np.exp(-(x[:, 0].astype(np.float64) ** 2) / 2)
    normal = want > (1e-37 if dtype == "float32" else 0)
    # The argument is rounded: its error counts times itself.
    bound = (3e-7 if dtype == "float32" else 5e-16) + np.finfo(dtype).eps * s * 2
    assert np.all(np.abs(got - want)[normal] <= (bound * want)[normal])
    assert got[0] == 1.0
    assert (
        kernel_matrix(ks.Gaussian(1.0), np.zeros((1, 1), dtype), np.full((1, 1), 60, dtype))[0, 0]
        == 0.0
    )


def test_logsumexp_of_far_points_and_shifted_weights(dtype):
    x, y, *_ = data(dtype, 3, 30, 200)
    k = ks.Gaussian(1e-3)  # everything is a thousand bandwidths away
    want = ref.kernel_logsumexp(k, x, y)
    np.testing.assert_allclose(
        kernel_logsumexp(k, x, y), want, rtol=1e-6 if dtype == "float32" else 1e-13
    )
    base = kernel_logsumexp(ks.Gaussian(1.0), x, y, np.zeros(200, dtype))
    for shift in (-1e4, 1e4):
        moved = kernel_logsumexp(ks.Gaussian(1.0), x, y, np.full(200, shift, dtype))
        np.testing.assert_allclose(
            moved - shift, base, rtol=0, atol=2e-3 if dtype == "float32" else 1e-11
        )
        same = kernel_mean(ks.Gaussian(1.0), x, y, None, np.full(200, shift, dtype))
        assert np.array_equal(same, kernel_mean(ks.Gaussian(1.0), x, y))


def test_mean_of_one_dominant_point_and_hull(dtype):
    x, y, *_ = data(dtype, 4, 20, 300)
    lw = np.zeros(300, dtype)
    lw[17] = 1e4
    np.testing.assert_array_equal(
        kernel_mean(ks.Gaussian(1.0), x, y, None, lw), np.tile(y[17], (20, 1))
    )
    mean = kernel_mean(ks.Cauchy(1.0), x, y)
    assert np.all(mean <= y.max(0)) and np.all(mean >= y.min(0))
    lw[:] = -np.inf
    lw[3] = 0
    np.testing.assert_array_equal(
        kernel_mean(ks.Gaussian(1e-4), x, y, None, lw), np.tile(y[3], (20, 1))
    )
    assert np.all(kernel_logsumexp(ks.Gaussian(1.0), x, y, np.full(300, -np.inf, dtype)) == -np.inf)


@pytest.mark.parametrize("z", [1e-3, 5e-3, 0.011, 0.02, 0.1, 0.3, 0.9, 1.1, 3.0, 30.0, 1e3])
def test_sinc_of_one_pair(z, dtype):
    x, y = np.array([[z]], dtype), np.zeros((1, 1), dtype)
    exact = float(x[0, 0])
    slope = -exact / 3 + exact**3 / 30 - exact**5 / 840 + exact**7 / 45360
    slope = slope if z < 0.3 else (np.cos(exact) - np.sin(exact) / exact) / exact
    tolerance = 4e-6 if dtype == "float32" else 1e-13
    assert kernel_sum(ks.Sinc(1.0), x, y)[0] == pytest.approx(
        np.sinc(exact / np.pi), abs=tolerance / max(1, z)
    )
    assert kernel_grad(ks.Sinc(1.0), x, y)[0, 0] == pytest.approx(
        slope, rel=tolerance, abs=tolerance / max(1, z) * (z > 1)
    )


def test_sinc_far_beyond_the_range_of_its_argument(dtype):
    for z in (1e7, 1e10, 1e15, 1e16):
        value = kernel_sum(ks.Sinc(1.0), np.array([[z]], dtype), np.zeros((1, 1), dtype))[0]
        assert abs(value) <= 1.1 / z
        assert np.isfinite(
            kernel_grad(ks.Sinc(1.0), np.array([[z]], dtype), np.zeros((1, 1), dtype))
        ).all()


@pytest.mark.parametrize("alpha", [300.0, 1e3, 1e5, 1e7])
def test_rational_quadratic_tends_to_the_gaussian(alpha, dtype):
    x, y, *_ = data(dtype, 3, 20, 100)
    k = ks.RationalQuadratic(1.5, alpha)
    s = ((x[:, None].astype(float) - y) ** 2).sum(-1)
    want = np.exp(-alpha * np.log1p(s / (2 * alpha * 2.25))).sum(1)
    np.testing.assert_allclose(
        kernel_sum(k, x, y), want, rtol=2e-6 if dtype == "float32" else 1e-13
    )


@pytest.mark.parametrize("d", [64, 200])
def test_gradient_of_a_heavy_near_duplicate(d, dtype):
    """One close pair carries all the weight: c (x - y) must not come from a difference of large sums."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, d)).astype(dtype)
    y = (x[:20] + 1e-4 * rng.normal(size=(20, d))).astype(dtype)
    w = np.zeros(20, dtype)
    w[3] = 1
    k = ks.Gaussian(d**0.5)
    want = ref.kernel_grad(k, x, y, w)
    got = kernel_grad(k, x, y, w)
    assert np.linalg.norm(got[3] - want[3]) < (
        1e-5 if dtype == "float32" else 1e-9
    ) * np.linalg.norm(want[3])


def test_rows_of_a_batch_do_not_see_their_neighbours():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2, 40, 30)).astype("f4")
    far = x.copy()
    far[1] *= 1e4
    k = ks.Gaussian(3.0)
    assert np.array_equal(kernel_sum(k, x, x)[0], kernel_sum(k, far, far)[0])


def test_numbers_that_do_not_fit_are_refused():
    x = np.full((2, 3), 1e20, np.float32)
    with pytest.raises(
        ValueError,
        match="x: expected numbers whose squared distances fit into float32, got one of size 1e",
    ):
        kernel_sum(ks.Energy(), x, np.zeros((2, 3), np.float32))
    with pytest.raises(
        ValueError, match="y: expected numbers whose squared distances fit into float32"
    ):
        pair_argmin(np.zeros((2, 3), np.float32), x)
    with pytest.raises(ValueError, match="k: expected length scales between"):
        kernel_sum(ks.Gaussian(1e-20), x[:0], x[:0])
    assert kernel_sum(ks.Energy(), x.astype("f8"), x.astype("f8"))[0] == 0


def test_coincident_points_have_no_force(dtype):
    x = np.zeros((4, 3), dtype)
    for k in (ks.Energy(), ks.Laplace(1.0), ks.Riesz(0.5), ks.Gaussian(1.0), ks.Matern32(1.0)):
        assert np.all(kernel_grad(k, x, x) == 0)
    for k in (ks.Log(), ks.Coulomb()):
        with pytest.warns(RuntimeWarning, match="12 pairs of coincident points"):
            assert np.all(kernel_grad(k, x, x, exclude_self=True) == 0)
        assert np.all(kernel_sum(k, x, x) == np.inf)
        assert np.all(np.isfinite(kernel_sum(k, x[:1], x[:1], exclude_self=True)))


@pytest.mark.parametrize("d", [3, 40])
def test_forces_sum_to_zero(d):
    x, *_ = data("float64", d, 200, 1)
    for k in (ks.Gaussian(2.0), ks.Energy(), ks.Coulomb(softening=0.1), ks.Sinc(0.3)):
        g = kernel_grad(k, x, x, exclude_self=True)
        assert np.abs(g.sum(0)).max() < 1e-10 * np.abs(g).sum()


def test_gradients_match_torch_autograd():
    torch = pytest.importorskip("torch")
    a, b, w, *_ = data("float64", 5, 30, 40)
    for k, f in (
        (ks.Gaussian(1.5), lambda s: torch.exp(-s / 4.5)),
        (ks.InverseMultiquadric(0.7), lambda s: (1 + s / 0.49) ** -0.5),
        (ks.Energy(), lambda s: -torch.sqrt(s)),
    ):
        x = torch.tensor(a, requires_grad=True)
        s = ((x[:, None] - torch.tensor(b)[None]) ** 2).sum(-1)
        (f(s) @ torch.tensor(w)).sum().backward()
        np.testing.assert_allclose(kernel_grad(k, a, b, w), x.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("which", range(len(all_kernels(2))))
def test_gradients_match_central_differences(which):
    k, h = all_kernels(3)[which], 1e-5
    x, y, w, *_ = data("float64", 3, 6, 9)
    g = kernel_grad(k, x, y, w)
    for a, e in enumerate(np.eye(3)):
        slope = (kernel_sum(k, x + h * e, y, w) - kernel_sum(k, x - h * e, y, w)) / (2 * h)
        np.testing.assert_allclose(g[:, a], slope, rtol=1e-6, atol=1e-7)


def test_exp2_is_monotone_and_exact_at_whole_numbers(dtype):
    """Through the Laplace kernel of length 1 / log 2: 2^-r."""
    k = ks.Laplace(1 / np.log(2.0))
    zero = np.zeros((1, 1), dtype)
    whole = np.arange(0, 120, dtype=dtype)[:, None]
    got = kernel_matrix(k, zero, whole)[0].astype(float)
    np.testing.assert_allclose(
        got, 2.0 ** -whole[:, 0].astype(float), rtol=2e-5 if dtype == "float32" else 3e-14
    )
    fine = np.linspace(0, 8, 400_001).astype(dtype)[:, None]
    value = kernel_matrix(k, zero, fine)[0]
    assert np.all(np.diff(value.astype(float)) <= np.finfo(dtype).eps * value[:-1])


def test_memory_stays_that_of_the_inputs():
    """1e6 points in 3 dimensions against 2,000, both ways: peak resident memory grows by less than 50 MB."""
    resource = pytest.importorskip("resource")
    code = """
import resource, sys
import numpy as np
import mckean as mk
x, y = np.random.default_rng(0).normal(size=(int(sys.argv[1]), 3)), np.random.default_rng(1).normal(size=(int(sys.argv[2]), 3))
out = mk.kernel_grad(mk.kernels.Energy(), x[:64], y[:64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mk.kernel_sum(mk.kernels.Energy(), x, y), mk.kernel_logsumexp(mk.kernels.Gaussian(1.0), x, y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    for n, m in ((1_000_000, 200), (200, 1_000_000)):
        run = subprocess.run(
            [sys.executable, "-c", code, str(n), str(m)], capture_output=True, text=True, check=True
        )
        assert int(run.stdout) * 1024 < 50e6
    assert resource is not None


@pytest.mark.parametrize(
    "call",
    [
        "mk.kernel_sum(mk.kernels.Gaussian(1.0), x, x)",
        "mk.kernel_grad(mk.kernels.Energy(), x, x)",
        "mk.kernel_mean(mk.kernels.Laplace(1.0), x, x)",
        "mk.stein_sum(mk.kernels.Gaussian(1.0), x, x)",
        "mk.pair_argmin(x, x, 5)",
        "mk.interaction.pair_median(x)",
    ],
)
def test_interrupt_is_heard_and_leaves_all_usable(call):
    """A process that would compute for minutes stops soon after SIGINT, and its library still works."""
    code = f"""
import signal, time
import numpy as np
import mckean as mk
x = np.random.default_rng(0).normal(size=(400_000, 3))
signal.setitimer(signal.ITIMER_REAL, 0.3, 1.0)  # again: an import may swallow the first
def ring(*_):
    global rang
    rang = time.perf_counter()
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, ring)
try:
    {call}
    print("not interrupted")
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    print(mk.kernel_sum(mk.kernels.Gaussian(1.0), x[:1], x[:1])[0])
"""
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "1.0", run.stderr
    assert time.monotonic() - start < 30


def test_permutations_of_points(dtype):
    x, y, w, *_ = data(dtype, 3, 60, 500)
    order = np.random.default_rng(1).permutation(60)
    k = ks.Gaussian(1.0)
    assert np.array_equal(kernel_sum(k, x[order], y, w), kernel_sum(k, x, y, w)[order])
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    back = np.random.default_rng(2).permutation(500)
    np.testing.assert_allclose(
        kernel_sum(k, x, y[back], w[back]), kernel_sum(k, x, y, w), rtol=tolerance, atol=tolerance
    )


# ---- batches, neighbours, medians, random batches ----------------------------------------------------------------------


def test_batches_are_the_single_problems(dtype):
    rng = np.random.default_rng(3)
    for d in (3, 30):
        x, y = rng.normal(size=(5, 33, d)).astype(dtype), rng.normal(size=(5, 47, d)).astype(dtype)
        own = rng.normal(size=(5, 47)).astype(dtype)
        several = rng.normal(size=(5, 47, 4)).astype(dtype)
        shared = own[0]
        k = ks.Gaussian(d**0.5) + ks.Laplace(1.0)
        got = {
            "own": kernel_sum(k, x, y, own),
            "several": kernel_sum(k, x, y, several),
            "shared": kernel_sum(k, x, y, shared),
            "grad": kernel_grad(k, x, y, own, exclude_self=True),
            "lse": kernel_logsumexp(k, x, y, own),
            "lse shared": kernel_logsumexp(k, x, y, shared),
            "mean": kernel_mean(k, x, y, several, own),
            "stein": stein_sum(ks.Gaussian(2.0), x, x),
            "near": pair_argmin(x, y, 2)[0],
            "matrix": kernel_matrix(k, x, y),
        }
        for b in range(5):
            one = {
                "own": kernel_sum(k, x[b], y[b], own[b]),
                "several": kernel_sum(k, x[b], y[b], several[b]),
                "shared": kernel_sum(k, x[b], y[b], shared),
                "grad": kernel_grad(k, x[b], y[b], own[b], exclude_self=True),
                "lse": kernel_logsumexp(k, x[b], y[b], own[b]),
                "lse shared": kernel_logsumexp(k, x[b], y[b], shared),
                "mean": kernel_mean(k, x[b], y[b], several[b], own[b]),
                "stein": stein_sum(ks.Gaussian(2.0), x[b], x[b]),
                "near": pair_argmin(x[b], y[b], 2)[0],
                "matrix": kernel_matrix(k, x[b], y[b]),
            }
            for name, want in one.items():
                np.testing.assert_allclose(
                    got[name][b], want, rtol=2e-6 if dtype == "float32" else 1e-12, atol=1e-6
                )


@pytest.mark.parametrize("d", [1, 3, 16, 50])
def test_nearest_neighbours(d, dtype):
    x, y, *_ = data(dtype, d, 90, 700)
    for count in (1, 5, 64):
        index, distance = pair_argmin(x, y, count)
        want_index, want = ref.pair_argmin(x, y, count)
        np.testing.assert_allclose(distance, want, rtol=1e-5 if dtype == "float32" else 1e-12)
        if dtype == "float64":
            assert np.array_equal(index, want_index)
    index, _ = pair_argmin(x, x, 1, exclude_self=True)
    assert not np.any(index[:, 0] == np.arange(90))
    index, distance = pair_argmin(x, y[:2], 4)
    assert np.all(index[:, 2:] == -1) and np.all(distance[:, 2:] == np.inf)


def test_ties_go_to_the_smaller_index():
    x, y = np.zeros((3, 2)), np.ones((900, 2))
    assert np.array_equal(pair_argmin(x, y, 3)[0], np.tile([0, 1, 2], (3, 1)))
    assert (
        pair_argmin(np.zeros((1, 1)), np.array([[3.0], [1.0]]), bandwidth=np.array([0.5]))[1][0, 0]
        == 2.0
    )


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 2), (4, 3), (257, 3), (300, 17), (500, 1)])
def test_exact_median_of_distances(n, d, dtype):
    x, *_ = data(dtype, d, n, 1)
    i, j = np.triu_indices(n, 1)
    s = ((x[i] - x[j]) ** 2).astype(dtype).sum(-1)
    np.testing.assert_allclose(
        pair_median(x),
        np.median(np.sqrt(s.astype(np.float64))),
        rtol=5e-7 if dtype == "float32" else 1e-14,
    )
    half = np.repeat(x[: n // 2 + 1], 2, axis=0)
    i, j = np.triu_indices(len(half), 1)
    want = np.median(np.sqrt(((half[i].astype(float) - half[j]) ** 2).sum(-1)))
    np.testing.assert_allclose(pair_median(half), want, rtol=1e-6)
    assert pair_median(np.zeros((5, d), dtype)) == 0.0


def test_random_batches_are_unbiased_with_the_variance_of_sampling():
    """Mean and variance over 20 000 permutations: (1/(b-1) - 1/(n-1)) Lambda; 6 standard errors, error rate 2e-9 each."""
    rng = np.random.default_rng(0)
    n, b, repeats = 20, 5, 20_000
    x = rng.normal(size=(n, 2))
    k = ks.Gaussian(1.0)
    draws = np.array(
        [random_batch_sum(k, x, batch_size=b, seed=1, counter=i)[0] for i in range(repeats)]
    )
    full = kernel_sum(k, x, x, exclude_self=True)[0]
    row = np.delete(ref.matrix(k, x, x)[0], 0)
    variance = (n - 1) ** 2 * (1 / (b - 1) - 1 / (n - 1)) * row.var(ddof=1)
    assert abs(draws.mean() - full) < 6 * np.sqrt(variance / repeats)
    fourth = ((draws - full) ** 4).mean()
    assert abs(draws.var() - variance) < 6 * np.sqrt((fourth - variance**2) / repeats)


def test_random_batches_that_do_not_divide():
    x, _, w, *_ = data("float64", 3, 23, 23)
    k = ks.Energy()
    for size in (2, 7, 23):
        got = random_batch_sum(k, x, w, batch_size=size, seed=4, counter=2)
        assert got.shape == (23,)
        assert np.array_equal(got, random_batch_sum(k, x, w, batch_size=size, seed=4, counter=2))
    np.testing.assert_allclose(got, kernel_sum(k, x, x, w, exclude_self=True), rtol=1e-12)
    assert random_batch_sum(k, x, batch_size=4, gradient=True).shape == (23, 3)


# ---- kernels as objects ------------------------------------------------------------------------------------------------


def test_sums_and_multiples_of_kernels():
    x, y, w, *_ = data("float64", 3, 20, 30)
    k = 3 * (ks.Gaussian(1.0) + 0.5 * ks.Cauchy(2.0)) + ks.Matern32(1.0)
    assert repr(k) == "3.0 * (Gaussian(1.0) + 0.5 * Cauchy(2.0)) + Matern32(1.0)"
    want = 3 * kernel_sum(ks.Gaussian(1.0), x, y, w) + 1.5 * kernel_sum(ks.Cauchy(2.0), x, y, w)
    want = want + kernel_sum(ks.Matern32(1.0), x, y, w)
    np.testing.assert_allclose(kernel_sum(k, x, y, w), want, rtol=1e-12)
    assert k.is_positive and k.has_stein
    assert not (k + -1 * ks.Gaussian(1.0)).is_positive
    with pytest.raises(ValueError, match="kernels: expected 1 to 8 summands, got 9"):
        ks.Sum(*[ks.Energy()] * 9)
    with pytest.raises(TypeError):
        ks.Gaussian(1.0) * ks.Gaussian(1.0)
    with pytest.raises(TypeError):
        ks.Gaussian(1.0) + 1
    difference = ks.Gaussian(1.0) - ks.Cauchy(2.0) / 2
    np.testing.assert_allclose(
        kernel_sum(difference, x, y),
        kernel_sum(ks.Gaussian(1.0), x, y) - kernel_sum(ks.Cauchy(2.0), x, y) / 2,
        rtol=1e-10,
    )
    assert repr(sum([ks.Energy(), ks.Log()])) == "Energy() + Log()"
    with pytest.raises(AttributeError, match="bandwidth: kernels do not change"):
        ks.Gaussian(1.0).bandwidth = 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ks.Gaussian(0.0), "bandwidth: expected a positive number, got 0.0"),
        (lambda: ks.Gaussian([1.0, -1.0]), "bandwidth: expected positive numbers"),
        (
            lambda: ks.Gaussian(np.ones((2, 2))),
            r"bandwidth: expected a number or shape \(d,\), got \(2, 2\)",
        ),
        (lambda: ks.Gaussian(np.nan), "bandwidth: expected a finite number"),
        (lambda: ks.Riesz(2.0), r"r: expected a number in \(0, 2\), got 2.0"),
        (lambda: ks.InverseMultiquadric(1.0, -1.5), r"beta: expected a number in \(-1, 0\)"),
        (lambda: ks.Polynomial(0), "degree: expected an integer of at least 1, got 0"),
        (lambda: ks.Polynomial(33), "degree: expected at most 32, got 33"),
        (lambda: ks.Dot(-1), "beta: expected a positive number"),
        (lambda: ks.Sinc(0), "theta: expected a positive number"),
        (lambda: ks.Log(softening=-1), "softening: expected a number >= 0"),
    ],
)
def test_wrong_kernels(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: kernel_sum("gaussian", x, x), TypeError, "k: expected a kernel of mk.kernels, got str"),
        (lambda k, x: kernel_sum(k, x[0], x), ValueError, r"x: expected shape \(n, d\) or \(batch, n, d\), d >= 1, got \(3,\)"),
        (lambda k, x: kernel_sum(k, x, x[:, :2]), ValueError, r"y: expected shape \(m, 3\) to match x \(4, 3\), got \(4, 2\)"),
        (lambda k, x: kernel_sum(k, x, x.astype("f4")), TypeError, "y: expected float64 to match x"),
        (lambda k, x: kernel_sum(k, x, x, x[:3, 0]), ValueError, r"weights: expected shape \(4,\) to match y"),
        (lambda k, x: kernel_sum(k, x, x, np.ones((4, 2, 2))), ValueError, r"weights: expected shape \(4,\) or \(4, p\), got \(4, 2, 2\)"),
        (lambda k, x: kernel_sum(k, x, x, np.ones((4, 0))), ValueError, r"weights: expected at least one column, got \(4, 0\)"),
        (lambda k, x: kernel_sum(k, x, x, np.full(4, np.nan)), ValueError, "weights: expected finite values, got 4 NaN"),
        (lambda k, x: kernel_sum(k, np.full((2, 3), np.inf), x), ValueError, "x: expected finite values"),
        (lambda k, x: kernel_sum(k, x, np.full((2, 3), np.nan)), ValueError, "y: expected finite values"),
        (lambda k, x: kernel_sum(k, x, x, exclude_self=1), TypeError, "exclude_self: expected a bool, got 1"),
        (lambda k, x: kernel_grad(k, x, x, np.ones((4, 2))), ValueError, "weights: expected one column, got 2"),
        (lambda k, x: kernel_sum(ks.Gaussian([1.0, 2.0]), x, x), ValueError, r"bandwidth: expected a number or shape \(3,\) to match x, got \(2,\)"),
        (lambda k, x: kernel_logsumexp(ks.Energy(), x, x), ValueError, r"k: expected a kernel that is positive everywhere, got Energy\(\)"),
        (lambda k, x: kernel_logsumexp(k, x, x, np.full(4, np.inf)), ValueError, "log_weights: expected finite values or -inf, got NaN or inf"),
        (lambda k, x: kernel_mean(k, x, x[:0]), ValueError, "y: expected at least one point to average for each x, got 0"),
        (lambda k, x: kernel_mean(k, x[:1], x[:1], exclude_self=True), ValueError, "y: expected at least one point"),
        (lambda k, x: kernel_mean(k, x, x, None, np.full(4, -np.inf)), ValueError, "log_weights: expected at least one finite value"),
        (lambda k, x: kernel_mean(k, x[:3], x[:3], None, np.array([-np.inf, 0, -np.inf]), exclude_self=True), ValueError, "log_weights: expected something to average for each x, got only weights of 0 for 1 of them"),
        (lambda k, x: kernel_mean(k, x, x, np.ones(3)), ValueError, r"values: expected shape \(4,\) to match y"),
        (lambda k, x: stein_sum(ks.Laplace(1.0), x, x), ValueError, "k: expected a kernel that is twice differentiable"),
        (lambda k, x: stein_sum(k, x, x[:2]), ValueError, r"scores: expected shape \(4, 3\) to match x"),
        (lambda k, x: stein_sum(k, x, x, y=x), ValueError, "y_scores: expected together with y, got None"),
        (lambda k, x: pair_argmin(x, x, 0), ValueError, "k: expected an integer of at least 1, got 0"),
        (lambda k, x: pair_argmin(x, x, 65), ValueError, "k: expected at most 64, got 65"),
        (lambda k, x: pair_median(x[:1]), ValueError, r"x: expected shape \(n, d\), n >= 2, d >= 1, got \(1, 3\)"),
        (lambda k, x: random_batch_sum(k, x, batch_size=1), ValueError, "batch_size: expected an integer of at least 2, got 1"),
        (lambda k, x: random_batch_sum(k, x, batch_size=5), ValueError, "batch_size: expected at most the 4 points of x, got 5"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(ks.Gaussian(1.0), np.arange(12.0).reshape(4, 3))


def test_native_code_checks_sizes_again():
    x, terms = np.zeros((4, 3)), [(0, 1.0, 1.0, 0.0, 0.0, -1)]
    with pytest.raises(ValueError, match="out: wrong size"):
        _core.kernel_sum(x, x, terms, None, False, None, 1, False, np.zeros(3))
    with pytest.raises(ValueError, match="no such metric"):
        _core.kernel_sum(
            x, x, [(0, 1.0, 1.0, 0.0, 0.0, 0)], None, False, None, 1, False, np.zeros(4)
        )
    with pytest.raises(ValueError, match="unknown kind"):
        _core.kernel_sum(
            x, x, [(12, 1.0, 1.0, 0.0, 0.0, -1)], None, False, None, 1, False, np.zeros(4)
        )
