"""Built-in targets against float64 NumPy, on every instruction set, dtype and framework."""

import math
import pickle
import signal
import time

import numpy as np
import pytest
import reference_targets as reference
from scipy.special import expit

import mckean as mk
from mckean import _core, _dispatch

T = mk.targets
NS = (1, 2, 7, 8, 9, 63, 64, 65, 1000)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def rounded(a):
    """Values that float32 holds exactly, so that both dtypes see the same model."""
    return np.asarray(a, np.float32).astype(np.float64)


def spd(rng, *shape):
    a = rng.standard_normal((*shape, shape[-1]))
    return rounded(a @ np.swapaxes(a, -1, -2) / shape[-1] + np.eye(shape[-1]))


def cases(d, seed=0):
    """Name -> (target, float64 reference) for every kind of target in d dimensions."""
    rng = np.random.default_rng(seed)
    mean, variances, cov = (
        rounded(rng.standard_normal(d)),
        rounded(rng.uniform(0.5, 2, d)),
        spd(rng, d),
    )
    means, covs = rounded(rng.standard_normal((3, d))), spd(rng, 3, d)
    spread, weights = rounded(rng.uniform(0.5, 2, (3, d))), np.array([0.5, 0.25, 0.25])
    eye = np.eye(d)
    X, y = rounded(rng.standard_normal((37, d))), (rng.random(37) < 0.5).astype(float)
    out = {
        "standard": (T.Gaussian(mean), lambda x: reference.gaussian(x, mean, eye)),
        "scale": (T.Gaussian(mean, scale=0.5), lambda x: reference.gaussian(x, mean, eye / 4)),
        "diagonal": (
            T.Gaussian(mean, variances),
            lambda x: reference.gaussian(x, mean, np.diag(variances)),
        ),
        "full": (T.Gaussian(mean, cov), lambda x: reference.gaussian(x, mean, cov)),
        "precision": (
            T.Gaussian(mean, precision=cov),
            lambda x: reference.gaussian(x, mean, np.linalg.inv(cov)),
        ),
        "mixture": (
            T.GaussianMixture(means, weights * 8, 2.0),
            lambda x: reference.mixture(x, means, weights, [4 * eye] * 3),
        ),
        "mixture-isotropic": (
            T.GaussianMixture(means, scale=[1.0, 2.0, 0.5]),
            lambda x: reference.mixture(x, means, [1 / 3] * 3, [eye, 4 * eye, eye / 4]),
        ),
        "mixture-diagonal": (
            T.GaussianMixture(means, weights, cov=spread),
            lambda x: reference.mixture(x, means, weights, [np.diag(s) for s in spread]),
        ),
        "mixture-full": (
            T.GaussianMixture(means, weights, cov=covs),
            lambda x: reference.mixture(x, means, weights, covs),
        ),
        "logistic": (
            T.LogisticRegression(X, y, 2.0),
            lambda x: reference.logistic(x, X, y, 2.0),
        ),
    }
    if d > 1:
        out["funnel"] = (T.Funnel(d, 3.0), lambda x: reference.funnel(x, 3.0))
        out["banana"] = (T.Banana(d, 0.25, 2.0), lambda x: reference.banana(x, 0.25, 2.0))
    return out


def assert_close(found, want, dtype, factor=1.0):
    """Within the tolerance relative to the largest value of the batch."""
    assert np.asarray(found).dtype == dtype
    assert np.isfinite(want).all()
    scale = max(1.0, np.abs(want).max(initial=0.0))
    np.testing.assert_allclose(found, want, rtol=0, atol=factor * TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("d", [1, 2, 3, 17, 64, 100])
def test_values_and_gradients_are_the_formulas(d, dtype, simd_level):
    rng = np.random.default_rng(d)
    x = rng.standard_normal((33, d)).astype(dtype)
    for target, formula in cases(d).values():
        value, gradient = target.value_and_grad(x)
        want_value, want_gradient = formula(x.astype(np.float64))
        assert_close(value, want_value, dtype)
        assert_close(gradient, want_gradient, dtype)


@pytest.mark.parametrize("d", [129, 300])
def test_many_dimensions(d, dtype):
    """More coordinates and rows than one run of sums."""
    x = np.random.default_rng(d).standard_normal((5, d)).astype(dtype)
    for target, formula in cases(d).values():
        for found, want in zip(
            target.value_and_grad(x), formula(x.astype(np.float64)), strict=True
        ):
            assert_close(found, want, dtype)


@pytest.mark.parametrize("m", [1, 5, 512, 513, 2000])
@pytest.mark.parametrize("p", [1, 2, 3, 17, 64, 100])
def test_logistic_posterior_is_the_formula(m, p, dtype, simd_level):
    rng = np.random.default_rng(m * p)
    X, y = rounded(rng.standard_normal((m, p))), rng.integers(0, 2, m)
    scale = rounded(rng.uniform(0.5, 2.0, p))
    theta = rng.standard_normal((9, p)).astype(dtype)
    found = T.LogisticRegression(X, y, scale).value_and_grad(theta)
    for a, b in zip(found, reference.logistic(theta.astype(np.float64), X, y, scale), strict=True):
        assert_close(a, b, dtype)


@pytest.mark.parametrize("n", NS)
def test_any_number_of_particles(n, dtype):
    x = np.random.default_rng(n).standard_normal((n, 17)).astype(dtype)
    for target, formula in cases(17).values():
        for found, want in zip(
            target.value_and_grad(x), formula(x.astype(np.float64)), strict=True
        ):
            assert_close(found, want, dtype)


def all_bits(x, targets):
    out = []
    for target in targets:
        out += [*target.value_and_grad(x), target.log_density(x), target.grad_log_density(x)]
    return [a.tobytes() for a in out]


@pytest.fixture
def restored():
    level, threads = _core.simd_level(), mk.get_num_threads()
    yield
    _core.set_simd_level(level)
    mk.set_num_threads(threads)


@pytest.mark.parametrize("n", NS)
def test_bits_do_not_depend_on_instruction_set_threads_or_neighbours(n, dtype, restored):
    for d in (3, 17):
        targets = [target for target, _ in cases(d).values()]
        x = np.random.default_rng(n).standard_normal((n, d)).astype(dtype)
        seen = []
        for level in _core.simd_levels():
            _core.set_simd_level(level)
            for threads in (1, 2):
                mk.set_num_threads(threads)
                seen.append(all_bits(x, targets))
        assert all(s == seen[0] for s in seen[1:])
        for target in targets:
            value, gradient = target.value_and_grad(x)
            i = n // 2
            alone = target.value_and_grad(x[i : i + 1])
            assert alone[0].tobytes() == value[i : i + 1].tobytes()
            assert alone[1].tobytes() == gradient[i : i + 1].tobytes()


@pytest.mark.parametrize(("n", "m", "p"), [(9, 12000, 100), (1100, 1100, 1024)])
def test_rows_in_several_parts(n, m, p, dtype, restored):
    """Models so large that parts of the rows are work of their own, and several waves of them."""
    rng = np.random.default_rng(m)
    X, y = rounded(rng.standard_normal((m, p))), rng.integers(0, 2, m)
    theta = (rng.standard_normal((n, p)) / math.sqrt(p)).astype(dtype)
    target = T.LogisticRegression(X, y)
    found = target.value_and_grad(theta)
    want = reference.logistic(theta.astype(np.float64), X, y, 1.0)
    for a, b in zip(found, want, strict=True):
        assert_close(a, b, dtype)
    _core.set_simd_level("baseline")
    mk.set_num_threads(3)
    again = target.value_and_grad(theta)
    assert [a.tobytes() for a in again] == [a.tobytes() for a in found]


def test_value_and_gradient_are_the_separate_calls(dtype):
    x = np.random.default_rng(1).standard_normal((65, 5)).astype(dtype)
    for target, _ in cases(5).values():
        value, gradient = target.value_and_grad(x)
        assert (target.log_density(x) == value).all() and (target.potential(x) == -value).all()
        assert (target.grad_log_density(x) == gradient).all() and (
            target.grad(x) == -gradient
        ).all()


def test_gradients_are_central_differences():
    x = np.random.default_rng(2).standard_normal((6, 5))
    h = 1e-5
    for target, _ in cases(5).values():
        gradient = target.grad_log_density(x)
        for j in range(5):
            step = h * np.eye(5)[j]
            slope = (target.log_density(x + step) - target.log_density(x - step)) / (2 * h)
            np.testing.assert_allclose(gradient[:, j], slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits(sign, dtype, simd_level):
    """Logits of +-1e4: log(1 + e^z) and its slope neither overflow nor lose their small side."""
    X, y = np.array([[1e4], [-1e4], [40.0], [-40.0]]), np.array([1, 0, 1, 0])
    target = T.LogisticRegression(X, y, 1e3)
    theta = np.full((3, 1), float(sign), dtype)
    value, gradient = target.value_and_grad(theta)
    want_value, _ = reference.logistic(theta.astype(np.float64), X, y, 1e3)
    assert_close(value, want_value, dtype)
    # sigmoid(-40) = 4.2e-18 as it stands, where y - sigmoid(40) would be 0; every row has z y' = sign |X|.
    slope = 1e4 * expit(-1e4 * sign) * 2 + 40 * expit(-40.0 * sign) * 2 - sign * 1e-6
    np.testing.assert_allclose(gradient[:, 0], slope, rtol=1e-5)
    small = T.LogisticRegression([[40.0]], [1], 1e3).log_density(np.ones((1, 1), dtype))
    prior = -0.5e-6 - math.log(1e3 * math.sqrt(2 * math.pi))
    assert_close(small, np.array([prior - math.exp(-40.0)]), dtype)


def test_small_likelihoods_keep_their_digits():
    """All probabilities near 1: log(1 + e^-30) rounded to a multiple of 2^-52 is off by 1e-3."""
    flat = T.LogisticRegression([[0.0]], [1])  # likelihood 1/2, same prior
    target = T.LogisticRegression(np.full((4096, 1), 30.0), np.ones(4096))
    x = np.ones((1, 1))
    value = target.log_density(x) - flat.log_density(x) - math.log(2.0)
    np.testing.assert_allclose(value, -4096 * math.exp(-30.0), rtol=1e-5)
    gradient = target.grad_log_density(x) - flat.grad_log_density(x)
    np.testing.assert_allclose(gradient, [[4096 * 30 * expit(-30.0)]], rtol=1e-6)


def test_mixture_far_from_all_components(dtype):
    """A plain sum of densities underflows here; the nearest component decides."""
    target = T.GaussianMixture([[-1.0, 0.0], [1.0, 0.0]], [0.25, 0.75], 0.5)
    x = np.array([[200.0, 0.0], [-200.0, 3.0]], dtype)
    value, gradient = target.value_and_grad(x)
    want = reference.mixture(
        x.astype(np.float64), [[-1.0, 0], [1.0, 0]], [0.25, 0.75], [np.eye(2) / 4] * 2
    )
    assert_close(value, want[0], dtype)
    assert_close(gradient, want[1], dtype)


def test_ill_conditioned_covariance_in_float32():
    """Condition number 1e6: applying the precision matrix in float32 is off by 2e-3 here."""
    rng = np.random.default_rng(5)
    q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    cov = q @ np.diag(np.logspace(-3, 3, 6)) @ q.T
    cov = (cov + cov.T) / 2
    x = rounded(rng.standard_normal((50, 6)) @ np.linalg.cholesky(cov).T)
    want = reference.gaussian(x, np.zeros(6), cov)[0]
    found = T.Gaussian(np.zeros(6), cov).log_density(x.astype(np.float32))
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_results_are_of_the_framework_of_x(xp, dtype):
    x = np.random.default_rng(3).standard_normal((9, 3)).astype(dtype)
    for target, formula in cases(3).values():
        given = xp.asarray(x)
        value, gradient = target.value_and_grad(given)
        assert xp.dtype(value) == xp.dtype(gradient) == dtype
        want = formula(x.astype(np.float64))
        assert_close(xp.to_numpy(value), want[0], dtype)
        assert_close(xp.to_numpy(gradient), want[1], dtype)
        assert (xp.to_numpy(target.grad(given)) == -xp.to_numpy(gradient)).all()
        assert (xp.to_numpy(given) == x).all()


@pytest.mark.cuda
@pytest.mark.parametrize("n", [1, 33, 1000])
def test_the_gpu_gives_the_bits_of_the_cpu(n, dtype):
    """For all but the logistic posterior, whose sums are in another order."""
    torch = pytest.importorskip("torch")
    if _dispatch.cuda_status()[0] != "available" or not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = np.random.default_rng(n).standard_normal((n, 17)).astype(dtype)
    there = torch.tensor(x, device="cuda")
    for name, (target, _) in cases(17).items():
        for a, b in zip(target.value_and_grad(x), target.value_and_grad(there), strict=True):
            if name == "logistic":
                assert_close(b.cpu().numpy(), a, dtype)
            else:
                assert (b.cpu().numpy() == a).all(), name
    for m, p in ((1, 1), (513, 100), (5000, 33)):
        rng = np.random.default_rng(m)
        X, y = rounded(rng.standard_normal((m, p))), rng.integers(0, 2, m)
        theta = rng.standard_normal((n, p)).astype(dtype)
        target = T.LogisticRegression(X, y)
        want = reference.logistic(theta.astype(np.float64), X, y, 1.0)
        for method in (
            target.value_and_grad,
            lambda t, f=target: (f.log_density(t), f.grad_log_density(t)),
        ):
            for a, b in zip(method(torch.tensor(theta, device="cuda")), want, strict=True):
                assert_close(a.cpu().numpy(), b, dtype)


def test_parameters_of_any_framework(xp):
    means, cov = xp.asarray([[0.0, 1.0]]), xp.asarray([[2.0, 0.5], [0.5, 1.0]])
    x = np.ones((2, 2))
    want = T.Gaussian([0.0, 1.0], [[2.0, 0.5], [0.5, 1.0]]).log_density(x)
    assert (T.Gaussian(means[0], cov).log_density(x) == want).all()
    assert (T.GaussianMixture(means, cov=cov[None]).log_density(x) == want).all()
    a = T.LogisticRegression(cov, xp.asarray(np.array([0, 1])), means[0] + 1)
    b = T.LogisticRegression([[2.0, 0.5], [0.5, 1.0]], [False, True], [1.0, 2.0])
    assert (a.log_density(x) == b.log_density(x)).all()


def test_sample_is_of_the_framework_asked_for(xp, dtype):
    sample = T.Funnel(3).sample(5, 1, dtype=dtype, like=xp.asarray(np.zeros(1, dtype)))
    assert xp.dtype(sample) == dtype
    assert (xp.to_numpy(sample) == T.Funnel(3).sample(5, 1).astype(dtype)).all()


def test_later_changes_of_the_callers_arrays_do_not_matter():
    mean, X = np.zeros(2), np.ones((3, 2))
    gaussian, logistic = T.Gaussian(mean), T.LogisticRegression(X, [0, 1, 1])
    x = np.ones((1, 2))
    before = gaussian.log_density(x)[0], logistic.log_density(x)[0]
    mean += 5
    X += 5
    assert (gaussian.log_density(x)[0], logistic.log_density(x)[0]) == before


def test_targets_can_be_pickled():
    x = np.ones((2, 3))
    for target, _ in cases(3).values():
        want = target.log_density(x)
        assert (pickle.loads(pickle.dumps(target)).log_density(x) == want).all()


def test_no_particles(dtype):
    for target, _ in cases(3).values():
        value, gradient = target.value_and_grad(np.empty((0, 3), dtype))
        assert value.shape == (0,) and gradient.shape == (0, 3) and gradient.dtype == dtype


def test_nonfinite_particles_propagate_and_stay_alone(dtype):
    x = np.random.default_rng(4).standard_normal((20, 3)).astype(dtype)
    bad = x.copy()
    bad[5] = np.nan
    for target, _ in cases(3).values():
        value, gradient = target.value_and_grad(x)
        bad_value, bad_gradient = target.value_and_grad(bad)
        assert np.isnan(bad_value[5]) and np.isnan(bad_gradient[5]).all()
        good = np.arange(20) != 5
        assert (bad_value[good] == value[good]).all()
        assert (bad_gradient[good] == gradient[good]).all()


def test_wrong_points_are_named():
    target = T.Gaussian(np.zeros(31))
    with pytest.raises(
        ValueError,
        match=r"^x: expected shape \(n, 31\) to match the target's dim, got \(4, 5\)$",
    ):
        target.log_density(np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"^x: expected shape \(n, 31\)"):
        target.grad_log_density(np.zeros(31))
    with pytest.raises(TypeError, match="^x: expected float32 or float64"):
        target.value_and_grad(np.zeros((4, 31), np.float16))
    whole = target.log_density(np.zeros((4, 31), np.int64))
    assert whole.dtype == np.float64


BAD = [
    (T.Gaussian, ([[0.0]],), {}, ValueError, r"^mean: expected shape \(d,\)"),
    (T.Gaussian, ([],), {}, ValueError, "^mean: expected at least one"),
    (T.Gaussian, ([np.nan],), {}, ValueError, "^mean: expected finite"),
    (T.Gaussian, ([0.0],), {"cov": 1.0, "scale": 1.0}, ValueError, "^scale: expected at most one"),
    (T.Gaussian, ([0.0],), {"scale": 0.0}, ValueError, "^scale: expected a positive"),
    (T.Gaussian, ([0.0] * 2,), {"scale": np.eye(2)}, ValueError, "^scale: expected a number or"),
    (T.Gaussian, ([0.0] * 2, [1.0, -1.0]), {}, ValueError, "^cov: expected positive"),
    (T.Gaussian, ([0.0] * 2, np.eye(3)), {}, ValueError, r"^cov: .* got \(3, 3\)"),
    (T.Gaussian, ([0.0] * 2, [[1.0, 0.5], [0, 1]]), {}, ValueError, "^cov: expected a symmetric"),
    (T.Gaussian, ([0.0] * 2, [[1.0, 2], [2, 1]]), {}, ValueError, "^cov: .*positive definite"),
    (
        T.Gaussian,
        ([0.0] * 2,),
        {"precision": -np.eye(2)},
        ValueError,
        "^precision: .*positive definite",
    ),
    (T.GaussianMixture, ([0.0],), {}, ValueError, r"^means: expected shape \(k, d\)"),
    (T.GaussianMixture, (np.zeros((0, 2)),), {}, ValueError, "^means: expected at least one"),
    (T.GaussianMixture, ([[0.0]], [1.0, 2.0]), {}, ValueError, r"^weights: expected shape \(1,\)"),
    (T.GaussianMixture, ([[0.0]], [0.0]), {}, ValueError, "^weights: expected positive"),
    (T.GaussianMixture, ([[0.0]], None, [-1.0]), {}, ValueError, "^scale: expected positive"),
    (T.GaussianMixture, ([[0.0]], None, [1.0] * 3), {}, ValueError, "^scale: expected a number"),
    (T.GaussianMixture, ([[0.0]], None, 1.0), {"cov": [[1.0]]}, ValueError, "^cov: .*at most one"),
    (T.GaussianMixture, ([[0.0]],), {"cov": [1.0]}, ValueError, "^cov: expected shape"),
    (T.Funnel, (1,), {}, ValueError, "^dim"),
    (T.Funnel, (2.5,), {}, TypeError, "^dim"),
    (T.Funnel, (3, -1.0), {}, ValueError, "^scale"),
    (T.Banana, (1,), {}, ValueError, "^dim"),
    (T.Banana, (2, np.inf), {}, ValueError, "^curvature"),
    (T.LogisticRegression, ([1.0], [1]), {}, ValueError, r"^X: expected shape \(m, p\)"),
    (T.LogisticRegression, ([[np.inf]], [1]), {}, ValueError, "^X: expected finite"),
    (T.LogisticRegression, (np.zeros((0, 2)), []), {}, ValueError, "^X: expected at least one row"),
    (
        T.LogisticRegression,
        ([[1.0]], [2]),
        {},
        ValueError,
        "^y: expected 0 or 1, got 2.0 at index 0",
    ),
    (T.LogisticRegression, ([[1.0]] * 2, [0, -1]), {}, ValueError, "^y: expected 0 or 1, got -1"),
    (
        T.LogisticRegression,
        ([[1.0]], [1, 0]),
        {},
        ValueError,
        r"^y: expected shape \(1,\) to match X \(1, 1\), got \(2,\)$",
    ),
    (T.LogisticRegression, ([[1.0]], ["a"]), {}, TypeError, "^y"),
    (
        T.LogisticRegression,
        ([[1.0]], [1], 0.0),
        {},
        ValueError,
        "^prior_scale: expected a positive",
    ),
    (T.LogisticRegression, ([[1.0]], [1], [1.0, 1.0]), {}, ValueError, "^prior_scale: expected sh"),
]


@pytest.mark.parametrize(("kind", "args", "kwargs", "error", "match"), BAD)
def test_wrong_parameters_are_named(kind, args, kwargs, error, match):
    with pytest.raises(error, match=match):
        kind(*args, **kwargs)


def test_predictive_probability_is_the_mean_over_particles(xp, dtype):
    rng = np.random.default_rng(6)
    theta, X = rng.standard_normal((300, 4)).astype(dtype), 20 * rng.standard_normal((5000, 4))
    target = T.LogisticRegression(np.ones((1, 4)), [1])
    found = target.predict_proba(xp.asarray(theta), X)
    assert xp.dtype(found) == dtype
    np.testing.assert_allclose(
        xp.to_numpy(found), expit(X @ theta.T.astype(np.float64)).mean(axis=1), atol=1e-6
    )
    with pytest.raises(ValueError, match=r"^X_new: expected shape \(m, 4\)"):
        target.predict_proba(theta, X[:, :3])
    with pytest.raises(ValueError, match="^theta: expected at least one"):
        target.predict_proba(theta[:0], X)


def assert_standard_normal(z):
    """Null hypothesis: the rows of `z`, shape (n, d), are independent N(0, I).

    Means, and second moments against the identity, each within 5.7 standard deviations (1.2e-8):
    for d <= 6 at most 27 numbers, so a false alarm has probability below 4e-7. The seeds are fixed.
    """
    n, d = z.shape
    root = math.sqrt(n)
    assert np.abs(z.mean(axis=0) * root).max() < 5.7
    moments = (z.T @ z / n - np.eye(d)) * root / np.sqrt(1 + np.eye(d))
    assert np.abs(moments).max() < 5.7


def whitened(target, x):
    if isinstance(target, T.Funnel):
        return np.column_stack([x[:, 0] / 3, x[:, 1:] * np.exp(-x[:, :1] / 2)])
    if isinstance(target, T.Banana):
        u = x[:, 1] + 0.03 * x[:, 0] ** 2 - 100 * 0.03
        return np.column_stack([x[:, 0] / 10, u, x[:, 2:]])
    return np.linalg.solve(np.linalg.cholesky(COV), (x - MEAN).T).T


MEAN, COV = (
    np.array([1.0, -2.0, 3.0]),
    np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 0.5]]),
)


@pytest.mark.parametrize(
    "target",
    [
        T.Gaussian(MEAN, COV),
        T.Gaussian(MEAN, precision=np.linalg.inv(COV)),
        T.Funnel(4),
        T.Banana(3),
    ],
    ids=["cov", "precision", "funnel", "banana"],
)
def test_exact_samples_have_the_law(target):
    """n = 100 000; see `assert_standard_normal`, which also rejects a scale that is off by 3 %."""
    z = whitened(target, target.sample(100_000, seed=8))
    assert_standard_normal(z)
    with pytest.raises(AssertionError):
        assert_standard_normal(1.03 * z)


def test_samples_agree_with_the_gradient():
    """Null hypothesis: E grad log p = 0 and E (x - c) . grad log p = -d (Stein), n = 100 000.

    Each mean within 5.7 of its standard error; 4 targets with at most 5 numbers: false alarm below
    3e-7.
    """
    means = rounded([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
    for target in (
        T.Gaussian(MEAN, COV),
        T.Banana(2, 0.03, 1.0),
        T.GaussianMixture(means, [1, 2, 3], cov=spd(np.random.default_rng(0), 3, 2)),
        T.GaussianMixture(means, [1, 2, 3], [0.5, 1.0, 2.0]),
    ):
        x = target.sample(100_000, seed=9)
        g = target.grad_log_density(x)
        stein = np.column_stack([g, (x * g).sum(axis=1) + target.dim])
        error = stein.mean(axis=0) / (stein.std(axis=0) / math.sqrt(len(x)))
        assert np.abs(error).max() < 5.7
        wrong = stein[:, -1] + 0.2
        assert abs(wrong.mean() / (wrong.std() / math.sqrt(len(x)))) > 5.7


def test_mixture_samples_have_the_weights():
    """n = 60 000, three components 100 standard deviations apart; counts within 5.7 standard
    deviations (1.2e-8 each), moments by `assert_standard_normal`: false alarm below 4e-7."""
    weights = np.array([0.2, 0.3, 0.5])
    covs = spd(np.random.default_rng(1), 3, 2)
    means = np.array([[-100.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    target = T.GaussianMixture(means, weights, cov=covs)
    x = target.sample(60_000, seed=10)
    component = np.abs(x[:, :1] - means[:, 0]).argmin(axis=1)
    counts = np.bincount(component, minlength=3)
    deviation = (counts - 60_000 * weights) / np.sqrt(60_000 * weights * (1 - weights))
    assert np.abs(deviation).max() < 5.7
    factors = np.linalg.inv(np.linalg.cholesky(covs))
    assert_standard_normal(np.einsum("nij,nj->ni", factors[component], x - means[component]))


def test_samples_do_not_repeat_the_noise_of_chains():
    x = T.Gaussian(np.zeros(3)).sample(50, seed=4)
    assert not np.isin(x, mk.random.normal(4, (1000, 3))).any()
    assert (x == T.Gaussian(np.zeros(3)).sample(80, seed=4)[:50]).all()


def test_samplers_take_targets(xp, dtype):
    target = T.Gaussian([1.0, -1.0], scale=0.5)
    x0 = xp.asarray(np.zeros((500, 2), dtype))
    for method in (mk.samplers.MALA(target, 0.05), mk.samplers.Langevin(target, 0.05)):
        result = mk.run(method, x0, 100, seed=1, progress=False)
        mean = xp.to_numpy(result.x[-1]).mean(axis=0)
        # The standard error is 0.022; 0.14 is more than 6 of them.
        np.testing.assert_allclose(mean, [1.0, -1.0], atol=0.14)


class Interrupted(Exception):
    pass


def test_an_interrupt_stops_a_long_evaluation(restored):
    """The whole evaluation takes 320 G operations, many seconds on any two cores."""

    def handler(signum, frame):
        raise Interrupted

    mk.set_num_threads(2)
    rng = np.random.default_rng(0)
    target = T.LogisticRegression(rng.standard_normal((20_000, 100)), rng.integers(0, 2, 20_000))
    theta = np.zeros((40_000, 100))
    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        start = time.perf_counter()
        with pytest.raises(Interrupted):
            target.value_and_grad(theta)
        assert time.perf_counter() - start < 3.0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert np.isfinite(target.log_density(theta[:3])).all()
