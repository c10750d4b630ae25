"""Mean shift against closed forms, scikit-learn and Euler's method."""

import numpy as np
import pytest
import reference_interaction as ref
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import kernels as ks
from mckean.interaction.mean_shift import annealed_mean_shift, mean_shift, noise_levels


def normal(seed, *shape):
    return mk.random.normal(seed, shape)


def blobs(d=2, n=30):
    centres = 10.0 * np.vstack([np.zeros(d), np.eye(d)])
    return np.repeat(centres, n, axis=0) + normal(1, n * (d + 1), d)


# --- classical


def test_two_data_have_two_modes_or_one():
    """Two points at -1 and 1 have two modes where z = tanh(z / h^2) has a solution besides 0: for h < 1."""
    x = np.array([[-1.0], [1.0]])
    result = mean_shift(x, 0.6)
    z = 1.0
    for _ in range(200):
        z = np.tanh(z / 0.36)
    np.testing.assert_allclose(np.sort(result.modes[:, 0]), [-z, z], atol=1e-6)
    assert result.converged and sorted(result.labels.tolist()) == [0, 1]
    merged = mean_shift(x, 1.2, tol=1e-9)
    assert merged.modes.shape == (1, 1) and merged.sizes.tolist() == [2]
    np.testing.assert_allclose(merged.modes, 0.0, atol=1e-6)


def test_modes_are_stationary_maxima_in_order_of_density():
    x, h = blobs(), 1.5
    result = mean_shift(x, h)
    slope = ref.kernel_grad(ks.Gaussian(h), result.modes, x)
    height = ref.kernel_sum(ks.Gaussian(h), result.modes, x)
    np.testing.assert_allclose(slope / height[:, None] * h, 0.0, atol=1e-6)
    assert (np.diff(height) <= 1e-12).all()
    for shift in 0.05 * h * normal(5, 20, 2):
        assert (ref.kernel_sum(ks.Gaussian(h), result.modes + shift, x) < height).all()


def test_the_density_never_falls():
    x, z, k = blobs(), 12 * normal(3, 40, 2), ks.Gaussian(1.2)
    before = ref.kernel_logsumexp(k, z, x)
    for _ in range(5):
        with pytest.warns(mk.ConvergenceWarning):
            z = mean_shift(x, 1.2, start=z, max_iter=1).points
        now = ref.kernel_logsumexp(k, z, x)
        assert (now >= before - 1e-12).all()
        before = now


def test_labels_agree_with_the_blobs_and_sklearn():
    """With a flat kernel sklearn's centres differ, its clusters do not."""
    cluster = pytest.importorskip("sklearn.cluster")
    x = blobs()
    result = mean_shift(x, 1.5)
    assert result.sizes.tolist() == [30, 30, 30]
    other = cluster.MeanShift(bandwidth=4.0).fit(x).labels_
    assert len({*zip(result.labels.tolist(), other.tolist(), strict=True)}) == 3


def test_every_framework(xp, dtype):
    x = blobs().astype(dtype)
    result = mean_shift(xp.asarray(x), 1.5, start=xp.asarray(x[::7]))
    exact = mean_shift(x.astype(float), 1.5, start=x[::7].astype(float))
    assert result.converged and xp.dtype(result.modes) == dtype and xp.is_array(result.labels)
    tol = 5e-3 if dtype == "float32" else 1e-6
    np.testing.assert_allclose(xp.to_numpy(result.points), exact.points, atol=tol)
    np.testing.assert_array_equal(xp.to_numpy(result.labels), exact.labels)


def test_length_scales_are_coordinates_divided():
    x, scales = blobs() * [1.0, 20.0], np.array([1.0, 20.0])
    result, plain = mean_shift(x, 1.5 * scales), mean_shift(x / scales, 1.5)
    np.testing.assert_allclose(result.modes / scales, plain.modes, atol=1e-6)
    np.testing.assert_array_equal(result.labels, plain.labels)


def test_weights_are_repeated_data():
    x, h = normal(1, 12, 2), 0.8
    counts = 1 + np.arange(12) % 3
    result = mean_shift(x, h, log_weights=np.log(counts))
    repeated = mean_shift(np.repeat(x, counts, axis=0), h, start=x)
    np.testing.assert_allclose(result.points, repeated.points, atol=1e-9)


def test_a_small_bandwidth_leaves_every_datum_its_own_mode():
    x = normal(1, 40, 3)
    result = mean_shift(x, 1e-3)
    assert sorted(result.labels.tolist()) == list(range(40))
    np.testing.assert_allclose(result.points, x, atol=1e-12)


def test_one_point_and_no_start():
    one = mean_shift(np.array([[2.0, 3.0]]), 1.0)
    assert one.modes.tolist() == [[2.0, 3.0]] and one.labels.tolist() == [0]
    none = mean_shift(normal(1, 5, 2), 1.0, start=np.empty((0, 2)))
    assert none.modes.shape == (0, 2) and none.labels.shape == (0,) and none.converged


def test_no_convergence_is_said():
    with pytest.warns(mk.ConvergenceWarning, match="points still move"):
        result = mean_shift(blobs(), 1.5, max_iter=2)
    assert not result.converged and result.n_iter == 2


def test_wrong_arguments():
    x = normal(1, 5, 2)
    for arguments, options, text in (
        ((x[:0], 1.0), {}, "x: expected at least one"),
        ((x, -1.0), {}, "bandwidth: expected"),
        ((x, [1.0, 1.0, 1.0]), {}, "bandwidth: expected"),
        ((x, 1.0), {"start": x[:, :1]}, "start: expected shape"),
        ((x * np.nan, 1.0), {}, "x: expected finite"),
        ((x, 1.0), {"tol": 0.0}, "tol: expected"),
        ((x, 1.0), {"max_iter": 0}, "max_iter: expected"),
        ((x, 1.0), {"merge": 0.0}, "merge: expected"),
    ):
        with pytest.raises(ValueError, match=text):
            mean_shift(*arguments, **options)


# --- annealed


def test_a_step_is_eulers_for_the_optimal_score():
    """dx/dsigma = (x - D) / sigma, D the mean of the data given x: Euler to machine precision."""
    y, x = normal(1, 30, 3), 4 * normal(2, 10, 3)
    for before, after in ((3.0, 2.0), (1.0, 0.2), (0.5, 0.49)):
        mean = ref.kernel_mean(ks.Gaussian(before), x, y)
        got = annealed_mean_shift(y, x, [before, after]).x
        np.testing.assert_allclose(
            got, x + (after - before) * (x - mean) / before, rtol=0, atol=1e-13
        )


def test_a_last_step_to_zero_is_a_mean_shift_step():
    y, x = normal(1, 30, 3), normal(2, 10, 3)
    with pytest.warns(mk.ConvergenceWarning, match="let the levels end lower"):
        result = annealed_mean_shift(y, x, [0.7, 0.0])
    np.testing.assert_allclose(result.x, ref.kernel_mean(ks.Gaussian(0.7), x, y), atol=1e-13)
    assert not result.converged


def test_points_end_on_data(xp, dtype):
    y = normal(1, 40, 3).astype(dtype)
    x0 = (20 * normal(2, 15, 3)).astype(dtype)
    result = annealed_mean_shift(
        xp.asarray(y), xp.asarray(x0), noise_levels(50, 5e-3, 20.0), save_path=True
    )
    x, path = xp.to_numpy(result.x), xp.to_numpy(result.path)
    assert xp.dtype(result.x) == dtype and path.shape == (51, 15, 3)
    np.testing.assert_array_equal(path[0], x0)
    np.testing.assert_array_equal(path[-1], x)
    nearest = ((x[:, None].astype(float) - y) ** 2).sum(-1).min(1)
    assert result.converged and np.sqrt(nearest).max() < (1e-5 if dtype == "float32" else 1e-9)
    assert result.n_iter == 50


def test_gaussian_data_have_a_closed_solution():
    """x(s) = mu + sqrt((c^2 + s^2) / (c^2 + s0^2)) (x0 - mu) for N(mu, c^2) data, here the quantiles of that law. The
    error of n Euler steps falls like 1 / n, to that of 2001 quantiles."""
    special = pytest.importorskip("scipy.special")
    mu, c, s0, s1 = 0.7, 1.3, 6.0, 0.8
    y = mu + c * special.ndtri((np.arange(2001) + 0.5) / 2001)[:, None]
    x0 = mu + np.linspace(-6, 6, 13)[:, None]
    want = mu + np.sqrt((c**2 + s1**2) / (c**2 + s0**2)) * (x0 - mu)
    errors = [
        np.abs(annealed_mean_shift(y, x0, np.geomspace(s0, s1, n + 1)).x - want).max()
        for n in (40, 80, 160)
    ]
    assert errors[2] < 0.02
    assert 1.8 < errors[0] / errors[1] < 2.2 and 1.7 < errors[1] / errors[2] < 2.3


def test_one_step_to_the_mean_of_the_data():
    y, x = normal(1, 30, 2), normal(2, 4, 2)
    got = annealed_mean_shift(y, x, [1e6, 0.0]).x
    np.testing.assert_allclose(got, np.tile(y.mean(0), (4, 1)), atol=1e-9)


def test_annealed_wrong_arguments():
    y = normal(1, 5, 2)
    for sigmas in ([1.0], [1.0, 1.0], [1.0, 2.0], [1.0, -1.0], [np.nan, 0.0], [[2.0, 1.0]]):
        with pytest.raises(ValueError, match="sigmas: expected"):
            annealed_mean_shift(y, y, sigmas)
    with pytest.raises(ValueError, match="x0: expected shape"):
        annealed_mean_shift(y, y[:, :1], [1.0, 0.5])
    with pytest.raises(ValueError, match="y: expected at least one"):
        annealed_mean_shift(y[:0], y, [1.0, 0.5])
    empty = annealed_mean_shift(y, y[:0], [1.0, 0.0])
    assert empty.x.shape == (0, 2) and empty.converged
    fixed = y.copy()
    annealed_mean_shift(y, y, [1.0, 0.5])
    np.testing.assert_array_equal(y, fixed)


# --- noise levels


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 60),
    low=st.floats(1e-4, 0.9),
    factor=st.floats(1.01, 1e4),
    kind=st.sampled_from(["karras", "geometric", "linear"]),
)
def test_levels_fall_from_the_largest_to_zero(n, low, factor, kind):
    levels = noise_levels(n, low, low * factor, kind=kind)
    assert levels.shape == (n + 1,) and levels[0] == low * factor and levels[-1] == 0.0
    assert (np.diff(levels) < 0).all()
    if n > 1:
        assert levels[-2] == low


def test_equal_steps_in_the_named_function():
    np.testing.assert_allclose(
        np.diff(noise_levels(5, 0.1, 2.0, kind="linear")[:-1], 2), 0, atol=1e-14
    )
    np.testing.assert_allclose(
        np.diff(np.log(noise_levels(5, 0.1, 2.0, kind="geometric")[:-1]), 2), 0, atol=1e-14
    )
    np.testing.assert_allclose(np.diff(noise_levels(5, 0.1, 2.0)[:-1] ** (1 / 7), 2), 0, atol=1e-14)
    for options in ({"kind": "cosine"}, {"rho": 0.0}):
        with pytest.raises(ValueError):
            noise_levels(5, 0.1, 2.0, **options)
    for arguments in ((0, 0.1, 2.0), (5, 2.0, 2.0), (5, 0.0, 2.0)):
        with pytest.raises(ValueError):
            noise_levels(*arguments)
