"""Sliced distances and the energy distance against brute force, closed forms, SciPy and POT."""

import math
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import reference_sliced as ref
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import random
from mckean._dispatch import cuda_status
from mckean.sliced import Target, slicing_constant

# Largest relative errors of values and, in norm, of gradients: for r = 1, and for the exponents whose powers are sums of
# exponentials. In float32 a few projections change places by rounding, which moves single points by their weight.
VALUE = {("float32", True): 2e-6, ("float32", False): 1e-4, ("float64", True): 1e-12, ("float64", False): 1e-7}  # fmt: skip
GRAD = {("float32", True): 1e-4, ("float32", False): 1e-2, ("float64", True): 1e-12, ("float64", False): 1e-4}  # fmt: skip


def apart(got, want):
    """Relative error in norm."""
    return np.linalg.norm(np.asarray(got, float) - want) / np.linalg.norm(want)


def units(seed, n, d):
    g = np.random.default_rng(seed).standard_normal((n, d))
    return g / np.linalg.norm(g, axis=1, keepdims=True)


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.standard_normal((31, 3)), rng.standard_normal((24, 3)) * 1.2 + 0.3


@pytest.fixture
def masses():
    rng = np.random.default_rng(1)
    return rng.random(31) * 7, np.where(rng.random(24) < 0.2, 0.0, rng.random(24))


# ---- values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_mmd2_is_brute_force(xp, dtype, clouds, masses, r, weighted):
    x, y = (a.astype(dtype) for a in clouds)
    xi = units(2, 7, 3).astype(dtype)
    a, b = masses if weighted else (None, None)
    given = {} if a is None else {"x_weights": xp.asarray(a), "y_weights": xp.asarray(b.astype("float32"))}  # fmt: skip
    b = None if b is None else b.astype("float32")
    value, grad = mk.sliced_mmd2_grad(
        xp.asarray(x), xp.asarray(y), r=r, directions=xp.asarray(xi), **given
    )
    want, slope = ref.sliced_mmd2(x, y, xi, r, a, b)
    assert type(value) is float and xp.is_array(grad) and xp.dtype(grad) == dtype
    assert value == pytest.approx(want, rel=VALUE[dtype, r == 1])
    assert apart(xp.to_numpy(grad), slope) < GRAD[dtype, r == 1]
    alone = mk.sliced_mmd2(xp.asarray(x), xp.asarray(y), r=r, directions=xp.asarray(xi), **given)
    assert type(alone) is float and alone == pytest.approx(value, rel=VALUE[dtype, r == 1])


@pytest.mark.parametrize("p", [1, 1.5, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_wasserstein_is_brute_force(xp, dtype, clouds, masses, p, weighted):
    x, y = (a.astype(dtype) for a in clouds)
    xi = units(2, 7, 3).astype(dtype)
    a, b = masses if weighted else (None, None)
    given = {} if a is None else {"x_weights": xp.asarray(a), "y_weights": xp.asarray(b)}
    value, grad = mk.sliced_wasserstein(
        xp.asarray(x), xp.asarray(y), p=p, directions=xi, return_grad=True, **given
    )
    want, slope = ref.sliced_wasserstein(x, y, xi, p, a, b)
    assert type(value) is float and xp.is_array(grad) and xp.dtype(grad) == dtype
    assert value == pytest.approx(want, rel=VALUE[dtype, True])
    assert apart(xp.to_numpy(grad), slope) < GRAD[dtype, True]


@pytest.mark.parametrize("r", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_energy_distance_is_brute_force(xp, dtype, clouds, masses, r, weighted):
    for d in (1, 3):
        x, y = (t[:, :d].astype(dtype) for t in clouds)
        a, b = masses if weighted else (None, None)
        given = {} if a is None else {"x_weights": xp.asarray(a), "y_weights": xp.asarray(b)}
        value, grad = mk.energy_distance(
            xp.asarray(x), xp.asarray(y), r=r, return_grad=True, **given
        )
        want, slope = ref.pair_mmd2(x, y, r, a, b)
        assert type(value) is float and xp.is_array(grad) and xp.dtype(grad) == dtype
        # The mean distances, of which it is a difference, are of size 1.
        assert value == pytest.approx(want, abs={"float32": 2e-6, "float64": 1e-13}[dtype])
        assert apart(xp.to_numpy(grad), slope) < {"float32": 1e-5, "float64": 1e-12}[dtype]
        plain = mk.energy_distance(xp.asarray(x), xp.asarray(y), r=r, **given)
        assert plain == pytest.approx(value, abs={"float32": 1e-6, "float64": 1e-13}[dtype])


def test_energy_distance_is_the_biased_mmd(clouds):
    x, y = clouds
    for r in (0.3, 1.0, 1.9):
        assert mk.energy_distance(x, y, r=r) == pytest.approx(
            mk.mmd2(mk.kernels.Riesz(r), x, y, unbiased=False), abs=1e-13
        )


@pytest.mark.parametrize("seed", range(4))
def test_ties_on_a_line(seed):
    """Integers, weighted, of different numbers: coincident points share the mid value."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, (40, 1)), rng.integers(1, 8, (29, 1))
    a, b = rng.random(40), rng.random(29)
    for u, v in ((None, None), (a, b), (a, None)):
        want, slope = ref.pair_mmd2(x, y, 1.0, u, v)
        for call in (mk.sliced_mmd2_grad, lambda *p, **k: mk.energy_distance(*p, return_grad=True, **k)):  # fmt: skip
            value, grad = call(x, y, x_weights=u, y_weights=v)
            assert value == pytest.approx(want, rel=1e-12) and grad.dtype == np.float64
            np.testing.assert_allclose(grad, slope, atol=1e-12 * np.abs(slope).max())


SIZES, NUMBERS = st.integers(1, 7), st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(1, 4), st.booleans(), st.sampled_from([1.0, 0.6, 1.4]), NUMBERS)
def test_any_shape_with_ties(n, m, d, weighted, r, seed):
    """Along the axes, where the projections of integers tie exactly."""
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 4, (k, d)).astype(float) for k in (n, m))
    a, b = (rng.integers(0, 3, k) + (np.arange(k) == 0) for k in (n, m)) if weighted else (None, None)  # fmt: skip
    value, grad = mk.sliced_mmd2_grad(x, y, r=r, directions=np.eye(d), x_weights=a, y_weights=b)
    want, slope = ref.sliced_mmd2(x, y, np.eye(d), r, a, b)
    limit = 1e-13 if r == 1 else 1e-7
    assert value == pytest.approx(want, abs=10 * limit) and value >= -limit * (r != 1)
    np.testing.assert_allclose(grad, slope, atol=10 * limit if r == 1 else 1e-4)
    exact, slope = ref.pair_mmd2(x, y, r, a, b)
    got, grad = mk.energy_distance(x, y, r=r, x_weights=a, y_weights=b, return_grad=True)
    assert got == pytest.approx(exact, abs=1e-12)
    np.testing.assert_allclose(grad, slope, atol=1e-12)
    distance = mk.sliced_wasserstein(x, y, p=2, directions=np.eye(d), x_weights=a, y_weights=b)
    # A walk over other remainders may hand a rounding error's worth of mass to a far point.
    want = ref.sliced_wasserstein(x, y, np.eye(d), 2.0, a, b)[0]
    assert distance == pytest.approx(want, abs=1e-7)


def test_gradients_are_central_differences(clouds, masses):
    x, y = clouds
    a, b = masses
    xi, h = units(3, 5, 3), 1e-6
    rng = np.random.default_rng(4)
    for value_of, grad in (
        *(
            (
                lambda t, r=r: ref.sliced_mmd2(t, y, xi, r, a, b)[0],
                mk.sliced_mmd2_grad(x, y, r=r, directions=xi, x_weights=a, y_weights=b)[1],
            )
            for r in (1.0, 1.5)
        ),
        (
            lambda t: mk.sliced_wasserstein(t, y, p=3, directions=xi, x_weights=a),
            mk.sliced_wasserstein(x, y, p=3, directions=xi, x_weights=a, return_grad=True)[1],
        ),
        (
            lambda t: mk.sliced_cramer(t, y, directions=xi, y_weights=b),
            mk.sliced_cramer(x, y, directions=xi, y_weights=b, return_grad=True)[1],
        ),
        (
            lambda t: mk.energy_distance(t, y, r=0.7, x_weights=a),
            mk.energy_distance(x, y, r=0.7, x_weights=a, return_grad=True)[1],
        ),
    ):
        for _ in range(5):
            way = rng.standard_normal(x.shape)
            slope = (value_of(x + h * way) - value_of(x - h * way)) / (2 * h)
            assert slope == pytest.approx((grad * way).sum(), rel=1e-4, abs=1e-6)


def test_gradient_is_autograd_through_the_sort(clouds):
    torch = pytest.importorskip("torch")
    x, y = (torch.tensor(t) for t in clouds)
    xi = torch.tensor(units(5, 6, 3))
    x.requires_grad_()
    z, order = torch.cat([x, y]).matmul(xi.T).sort(0)
    steps = torch.tensor([-1 / 31] * 31 + [1 / 24] * 24, dtype=torch.float64)[order].cumsum(0)
    c = slicing_constant(3, 1.0)
    value = c * (2 * (z[1:] - z[:-1]) * steps[:-1] ** 2).sum(0).mean()
    value.backward()
    got, grad = mk.sliced_mmd2_grad(x.detach(), y, directions=xi)
    assert got == pytest.approx(value.item(), rel=1e-12)
    assert apart(grad.numpy(), x.grad.numpy()) < 1e-12


# ---- closed forms and peers -----------------------------------------------------------------------------------------


def test_slicing_constant():
    table = {
        1.0: {1: 1, 2: math.pi / 2, 3: 2, 10: 3.86563158547, 16: 4.93558318502, 784: 35.081607327},
        0.5: {2: 1.31102877715, 3: 1.5, 10: 2.12209980285, 784: 6.43441059024},
        1.5: {2: 1.7972103521, 3: 2.5, 10: 6.4192352176, 784: 172.232283624},
    }
    for r, row in table.items():
        for d, want in row.items():
            assert slicing_constant(d, r) == pytest.approx(want, rel=1e-11)
    for d in (1, 4, 100, 1001):
        assert slicing_constant(d + 2, 1) == pytest.approx(slicing_constant(d, 1) * (d + 1) / d, rel=1e-11)  # fmt: skip
    assert slicing_constant(1, 0.3) == 1.0
    for r in (0.3, 1.0, 1.9):
        for d in (998, 999, 10**6):  # across the change to the series, and in it
            assert slicing_constant(d + 2, r) == pytest.approx(slicing_constant(d, r) * (d + r) / d, rel=2e-12 if d < 1000 else 1e-14)  # fmt: skip
    for d in (10**9, 10**15):
        want = math.sqrt(math.pi * d / 2) * (1 - 1 / (4 * d))
        assert slicing_constant(d) == pytest.approx(want, rel=2e-15)
    for bad, message in (
        ((10**400, 1), "^dim: "),
        ((0, 1), "^dim: "),
        ((2, 2), "^r: "),
        ((2, 0.0), "^r: "),
    ):
        with pytest.raises(ValueError, match=message):
            slicing_constant(*bad)


def normal_quantiles(n):
    special = pytest.importorskip("scipy.special")
    return special.ndtri((np.arange(n) + 0.5) / n)[:, None]


def test_shifted_normals_have_the_closed_form():
    """N(0, 1) against N(m, 1) by quantiles: their error is of the order of 1/n."""
    x = normal_quantiles(20_000)

    def mean_distance(t):
        return 2 / math.sqrt(math.pi) * math.exp(-t * t / 4) + t * math.erf(t / 2)

    for m in (0.7, 2.0):
        want = 2 * mean_distance(m) - 2 * mean_distance(0)
        for dtype, rel in (("float64", 1e-4), ("float32", 1e-4)):
            u = x.astype(dtype)
            assert mk.energy_distance(u, u + dtype_of(m, dtype)) == pytest.approx(want, rel=rel)
        assert mk.sliced_wasserstein(x, x + m) == pytest.approx(m, rel=1e-12)
    assert 2 * mean_distance(0.7) - 2 * mean_distance(0) == pytest.approx(0.270944, abs=5e-7)


def dtype_of(value, dtype):
    return np.dtype(dtype).type(value)


@pytest.mark.parametrize("h", [0.0, 0.25, 1.0])
def test_shifted_uniforms_have_the_closed_form(h):
    n = 4000
    x = (np.arange(n)[:, None] + 0.5) / n
    want = 2 * (h * h - h**3 / 3)
    assert mk.energy_distance(x, x + h) == pytest.approx(want, abs=1e-6)
    assert mk.sliced_cramer(x, x + h) == pytest.approx(want / 2, abs=1e-6)


@pytest.mark.parametrize(
    "d,mean", [(2, 1.25331413732), (3, 1.59576912161), (16, 3.93802562189), (64, None)]
)
def test_a_point_against_normals(d, mean):
    """D^2 = (2 - sqrt 2) E|Z| for the law. Null: 40 samples of 200 have this mean, as V-statistics plus E|Z - Z'| / 200;
    5.5 standard errors, false alarm 4e-8."""
    full = math.sqrt(2) * math.gamma((d + 1) / 2) / math.gamma(d / 2)
    assert mean is None or full == pytest.approx(mean, rel=1e-11)
    want = (2 - math.sqrt(2)) * full + math.sqrt(2) * full / 200
    y = random.normal(3, (40, 200, d))
    values = mk.energy_distance(np.zeros((40, 1, d)), y)
    error = values.std(ddof=1) / math.sqrt(40)
    assert abs(values.mean() - want) < 5.5 * error < 0.05 * want
    sliced = mk.sliced_mmd2(np.zeros((40, 1, d)), y, n_slices=128)
    assert apart(sliced, values) < 0.08


def test_scipy_agrees(masses):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal(31), rng.standard_normal(24) + 0.4
    a, b = masses
    for u, v in ((None, None), (a, b)):
        given = {"x_weights": u, "y_weights": v}
        want = stats.energy_distance(x, y, u, v)
        assert mk.energy_distance(x[:, None], y[:, None], **given) == pytest.approx(want**2, rel=1e-12)  # fmt: skip
        want = stats.wasserstein_distance(x, y, u, v)
        assert mk.sliced_wasserstein(x[:, None], y[:, None], p=1, **given) == pytest.approx(want, rel=1e-12)  # fmt: skip


def test_pot_agrees(clouds, masses):
    ot = pytest.importorskip("ot")
    x, y = clouds
    a, b = (w / w.sum() for w in masses)
    xi = units(7, 40, 3)
    for p in (1, 2, 3):
        for u, v in ((None, None), (a, b)):
            want = ot.sliced_wasserstein_distance(x, y, u, v, projections=xi.T, p=p)
            got = mk.sliced_wasserstein(x, y, p=p, directions=xi, x_weights=u, y_weights=v)
            assert got == pytest.approx(want, rel=1e-10)
    want = ot.wasserstein_1d(x[:, 0], y[:, 0], a, b, p=2)
    assert mk.sliced_wasserstein(x[:, :1], y[:, :1], x_weights=a, y_weights=b) ** 2 == pytest.approx(want)  # fmt: skip


def test_cramer_is_an_integral(clouds, masses):
    x, y = clouds
    a, b = masses
    xi = units(8, 9, 3)
    want = np.mean([ref.cramer(x @ v, y @ v, a, b) for v in xi])
    value, grad = mk.sliced_cramer(x, y, directions=xi, x_weights=a, y_weights=b, return_grad=True)
    assert value == pytest.approx(want, rel=1e-12)
    full, slope = mk.sliced_mmd2_grad(x, y, directions=xi, x_weights=a, y_weights=b)
    c = slicing_constant(3)
    assert 2 * c * value == pytest.approx(full, rel=1e-14)
    assert apart(2 * c * grad, slope) < 1e-14


def test_points_at_a_distance():
    """W_2 of two points is |x - y| / sqrt(d) over a frame, exactly; the pull on x is a unit vector over all."""
    x, y = np.zeros((1, 4)), np.array([[1.0, 2.0, -2.0, 4.0]])
    value, grad = mk.sliced_wasserstein(x, y, n_slices=40, seed=3, return_grad=True)
    assert value == pytest.approx(5 / 2, rel=1e-12)
    np.testing.assert_allclose(grad, -y / 10, atol=1e-13)


# ---- directions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1.0, 1.5])
def test_slices_average_to_the_distance(clouds, r):
    """Null: random directions estimate value and gradient without bias; 5.5 standard errors over 2,000 directions, 11
    comparisons, false alarm 5e-7."""
    x, y = clouds[0][:, :3], clouds[1]
    exact, slope = mk.energy_distance(x, y, r=r, return_grad=True)
    value, error = mk.sliced_mmd2(
        x, y, n_slices=2000, r=r, directions="random", seed=1, return_error=True
    )
    assert abs(value - exact) < 5.5 * error < 0.2 * exact
    xi = mk.sliced.directions(3, 2000, "random", seed=1)
    each = np.stack(
        [mk.sliced_mmd2_grad(x, y, r=r, directions=v[None])[1].ravel()[:10] for v in xi]
    )
    errors = each.std(axis=0, ddof=1) / math.sqrt(2000)
    assert (abs(each.mean(axis=0) - slope.ravel()[:10]) < 5.5 * errors).all()


@pytest.mark.parametrize("kind", ["orthogonal", "random", "sobol"])
def test_one_dimension_is_exact(kind):
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((20, 1)), rng.standard_normal((30, 1))
    for r, rel in ((1.0, 1e-12), (1.5, 1e-7)):
        want = ref.pair_mmd2(x, y, r)[0]
        for n_slices in (1, 7):
            value, error = mk.sliced_mmd2(
                x, y, n_slices=n_slices, r=r, directions=kind, return_error=True
            )
            assert value == pytest.approx(want, rel=rel) and error == 0.0


def gradient_errors(d, counts, kind, repeats, n=60):
    """Relative root mean square errors of the gradient for every number of slices."""
    x, y = random.normal(11, (n, d)), random.normal(12, (n, d)) + 0.5
    want = mk.energy_distance(x, y, return_grad=True)[1]
    errors = []
    for count in counts:
        runs = [
            apart(mk.sliced_mmd2_grad(x, y, n_slices=count, directions=kind, seed=s)[1], want)
            for s in range(repeats)
        ]
        errors.append(math.sqrt(np.mean(np.square(runs))))
    return np.array(errors)


def test_error_law_of_random_directions():
    """O(sqrt(d / P)): the slope over P, and the level."""
    counts = np.array([32, 128, 512, 2048])
    errors = gradient_errors(16, counts, "random", 6)
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    assert (0.7 < errors / np.sqrt(16 / counts)).all() and (errors / np.sqrt(16 / counts) < 1.6).all()  # fmt: skip


def test_frames_are_better():
    for d in (16, 32):
        frames, loose = (
            gradient_errors(d, [4 * d], kind, 8)[0] for kind in ("orthogonal", "random")
        )
        assert frames < 0.6 * loose


def test_error_law_in_the_plane():
    counts = np.array([8, 32, 128])
    errors = gradient_errors(2, counts, "orthogonal", 20)
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] < -0.9


@pytest.mark.parametrize(
    "d,count,kind",
    [(3, 50, "random"), (5, 40, "orthogonal"), (4, 42, "orthogonal"), (6, 13, "orthogonal")],
)
def test_standard_errors_are_honest(d, count, kind):
    """Null: the mean of the squared errors reported is the variance of the value. 400 seeds determine it to 10 %; frames
    of few parts are noisier."""
    x, y = random.normal(1, (12, d)), random.normal(2, (10, d)) + 0.8
    runs = np.array(
        [
            mk.sliced_mmd2(x, y, n_slices=count, directions=kind, seed=s, return_error=True)
            for s in range(400)
        ]
    )
    ratio = (runs[:, 1] ** 2).mean() / runs[:, 0].var(ddof=1)
    assert 0.6 < ratio < 1.6


def test_standard_errors_of_the_root_and_of_few_parts(clouds):
    x, y = clouds
    value, error = mk.sliced_wasserstein(x, y, p=3, directions="random", n_slices=60, return_error=True)  # fmt: skip
    xi = mk.sliced.directions(3, 60, "random")
    parts = np.array([ref.line_wasserstein(x @ v, y @ v, 3)[0] for v in xi])
    assert error == pytest.approx(parts.std(ddof=1) / math.sqrt(60) / (3 * value**2), rel=1e-9)
    for arguments in (
        {"n_slices": 5},
        {"n_slices": 1, "directions": "random"},
        {"directions": "sobol"},
    ):
        for call in (mk.sliced_mmd2, mk.sliced_wasserstein):
            value, error = call(x, y, return_error=True, **arguments)
            assert value > 0 and math.isnan(error)
    assert math.isnan(mk.sliced_mmd2(x[:, :2], y[:, :2], return_error=True)[1])
    _, grad, error = mk.sliced_wasserstein(x, x, return_grad=True, return_error=True)
    assert error == 0.0 and not grad.any()
    batch = np.stack([x, 2 * x])
    values, errors = mk.sliced_mmd2(batch, y, return_error=True)
    for i in range(2):
        assert mk.sliced_mmd2(batch[i], y, return_error=True) == (values[i], errors[i])


def test_an_array_sets_the_number_of_directions(clouds):
    x, y = clouds
    xi = mk.sliced.directions(3, 6, seed=4)
    assert mk.sliced_mmd2(x, y, directions=xi) == mk.sliced_mmd2(x, y, n_slices=6, seed=4)
    assert mk.sliced_mmd2(x, y, directions=-xi) == pytest.approx(mk.sliced_mmd2(x, y, directions=xi))  # fmt: skip


# ---- invariances ----------------------------------------------------------------------------------------------------


def test_invariances(clouds, dtype):
    x, y = (t.astype(dtype) for t in clouds)
    xi = units(13, 12, 3).astype(dtype)
    rng = np.random.default_rng(14)
    value, grad = mk.sliced_mmd2_grad(x, y, directions=xi)
    rel, near = VALUE[dtype, True], GRAD[dtype, True]
    # The order of the points.
    order = rng.permutation(31)
    again, moved = mk.sliced_mmd2_grad(x[order], y, directions=xi)
    assert again == value and apart(moved, grad[order]) < near
    again, moved = mk.sliced_mmd2_grad(x, y[rng.permutation(24)], directions=xi)
    assert again == pytest.approx(value, rel=rel) and apart(moved, grad) < near
    # Translation, and rotation of points and directions.
    shift = np.array([3.0, -2.0, 8.0], dtype)
    again, moved = mk.sliced_mmd2_grad(x + shift, y + shift, directions=xi)
    assert again == pytest.approx(value, rel=20 * rel) and apart(moved, grad) < 20 * near
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(dtype)
    again, moved = mk.sliced_mmd2_grad(x @ turn, y @ turn, directions=xi @ turn)
    assert again == pytest.approx(value, rel=10 * rel) and apart(moved, grad @ turn) < 10 * near
    # Scale.
    for r in (0.5, 1.0, 1.5):
        limits = VALUE[dtype, r == 1], GRAD[dtype, r == 1]
        one, four = (mk.sliced_mmd2_grad(s * x, s * y, r=r, directions=xi) for s in (1, 4))
        assert four[0] == pytest.approx(4**r * one[0], rel=limits[0])
        assert apart(four[1], 4 ** (r - 1) * one[1]) < limits[1]
    # Swapping, and the gradients on both sides.
    back, other = mk.sliced_mmd2_grad(y, x, directions=xi)
    assert back == pytest.approx(value, rel=rel)
    total = grad.sum(0) + other.sum(0)
    assert np.abs(total).max() < 10 * near * np.abs(grad).sum()
    # Twice every point is half of every weight.
    twice, both = mk.sliced_mmd2_grad(np.concatenate([x, x]), y, directions=xi)
    assert twice == pytest.approx(value, rel=rel)
    assert apart(2 * both[:31], grad) < near and (both[:31] == both[31:]).all()
    weighted = mk.sliced_mmd2(x, y, directions=xi, x_weights=np.full(31, 0.5, dtype))
    assert weighted == pytest.approx(value, rel=rel)


def test_distance_to_itself_is_zero(clouds, dtype):
    x = clouds[0].astype(dtype)
    for d in (1, 2, 3):
        for y in (x[:, :d], x[::-1, :d].copy()):
            value, grad = mk.sliced_mmd2_grad(x[:, :d], y)
            assert value == 0.0 and np.abs(grad).max() < 1e-7
            assert mk.sliced_cramer(x[:, :d], y) == 0.0
            value, grad = mk.sliced_wasserstein(x[:, :d], y, return_grad=True)
            assert value == 0.0 and not grad.any()
    assert mk.energy_distance(x, x) == pytest.approx(0.0, abs=2e-6)


def test_far_from_the_origin_in_float32(clouds):
    """Points are centred before they are projected."""
    x, y = (t.astype(np.float32) + np.float32(1e4) for t in clouds)  # rounded by up to 5e-4
    value, grad = mk.sliced_mmd2_grad(x, y, n_slices=30)
    want, slope = mk.sliced_mmd2_grad(x.astype(float), y.astype(float), n_slices=30)
    assert value == pytest.approx(want, rel=1e-5) and apart(grad, slope) < 2e-2
    assert mk.sliced_wasserstein(x, y) == pytest.approx(
        mk.sliced_wasserstein(x.astype(float), y.astype(float)), rel=1e-5
    )


# ---- edges ----------------------------------------------------------------------------------------------------------


def test_single_points(dtype):
    x, y = np.array([[1.0]], dtype), np.array([[4.0]], dtype)
    assert mk.sliced_mmd2_grad(x, y) == (6.0, np.array([[-2.0]], dtype))
    assert mk.sliced_mmd2_grad(y, x) == (6.0, np.array([[2.0]], dtype))
    assert mk.energy_distance(x, y) == 6.0 and mk.sliced_wasserstein(x, y) == 3.0
    rng = np.random.default_rng(15)
    few, many = rng.standard_normal((3, 2)).astype(dtype), rng.standard_normal((1000, 2)).astype(dtype)  # fmt: skip
    for u, v in ((few, many), (many, few), (few[:1], many)):
        xi = units(16, 4, 2).astype(dtype)
        value, grad = mk.sliced_mmd2_grad(u, v, directions=xi)
        want, slope = ref.sliced_mmd2(u, v, xi)
        assert value == pytest.approx(want, rel=VALUE[dtype, True])
        assert apart(grad, slope) < 10 * GRAD[dtype, True]


def test_all_points_equal(dtype):
    x = np.full((5, 3), 0.1, dtype)
    for y in (x, x[:2]):
        for r in (0.5, 1.0, 1.5):
            value, grad = mk.sliced_mmd2_grad(x, y, r=r, n_slices=4)
            assert abs(value) < 1e-15 and np.abs(grad).max() < 1e-15
            value, grad = mk.energy_distance(x, y, r=r, return_grad=True)
            assert abs(value) < 1e-15 and not grad.any()
        value, grad = mk.sliced_wasserstein(x, y, return_grad=True)
        assert value == 0.0 and not grad.any()


def test_negative_zero_is_zero(dtype):
    """The mean of y is 0, so that centring leaves both signs."""
    x, y = np.array([[0.0], [-0.0], [1.0]], dtype), np.array([[-0.0], [0.0], [-2.0], [2.0]], dtype)
    value, grad = mk.sliced_mmd2_grad(x, y)
    want, slope = ref.pair_mmd2(x, y)
    assert value == pytest.approx(want, rel=1e-6) and grad[0] == grad[1]
    np.testing.assert_allclose(grad, slope, atol=1e-6)


def test_subnormal_and_huge_numbers(dtype):
    tiny = np.finfo(dtype).smallest_subnormal * np.dtype(dtype).type(1 << 20)
    x, y = np.array([[0], [3]], dtype) * tiny, np.array([[1], [-1]], dtype) * tiny
    want = ref.pair_mmd2(np.array([[0.0], [3.0]]), np.array([[1.0], [-1.0]]))[0]
    value, grad = mk.sliced_mmd2_grad(x, y)
    assert value / float(tiny) == pytest.approx(want, rel=1e-6) and np.isfinite(grad).all()
    huge = np.dtype(dtype).type({"float32": 1e37, "float64": 1e149}[dtype])
    x, y = np.array([[1.0, 0], [0, -1]], dtype) * huge, np.array([[0.5, 1], [0, 1]], dtype) * huge
    value, grad = mk.sliced_mmd2_grad(x, y)
    assert 0 < value < math.inf and np.isfinite(grad).all()
    distance, grad = mk.sliced_wasserstein(x, y, return_grad=True)
    assert 0.3 * huge < distance < 3 * huge and np.isfinite(grad).all() and grad.any()
    with pytest.raises(ValueError, match=f"^x: expected numbers whose projections fit into {dtype}, got one of size"):  # fmt: skip
        mk.sliced_mmd2(x * np.dtype(dtype).type(10), y)
    with pytest.raises(ValueError, match="^y: expected numbers whose projections fit"):
        mk.sliced_mmd2(x, y * np.dtype(dtype).type(10))
    with pytest.raises(ValueError, match="^x: expected numbers whose differences to the power 40 fit into float64"):  # fmt: skip
        mk.sliced_wasserstein(np.full((2, 2), 1e8, dtype), y, p=40)


@pytest.mark.parametrize("p", [2, 5, 10])
def test_powers_neither_overflow_nor_vanish(dtype, p, clouds):
    """The gradient does not depend on the unit of length, though the powers in between may leave the type."""
    x, y = (t.astype(dtype) for t in clouds)
    value, grad = mk.sliced_wasserstein(x, y, p=p, n_slices=9, return_grad=True)
    for unit in (1e-8, 1e8, 1e14):
        s = np.dtype(dtype).type(unit)
        other, same = mk.sliced_wasserstein(s * x, s * y, p=p, n_slices=9, return_grad=True)
        assert other == pytest.approx(unit * value, rel=1e-5 if dtype == "float32" else 1e-12)
        assert apart(same, grad) < (1e-4 if dtype == "float32" else 1e-11)


def test_weights(clouds, masses, dtype):
    x, y = (t.astype(dtype) for t in clouds)
    a, b = masses
    kept = b > 0
    for call in (mk.sliced_mmd2, mk.sliced_cramer, mk.sliced_wasserstein, mk.energy_distance):
        value = call(x, y, x_weights=a, y_weights=b)
        # Points without weight may move the centre, not the value.
        assert call(x, y[kept], x_weights=a, y_weights=b[kept]) == pytest.approx(value, rel=2e-5 if dtype == "float32" else 1e-11)  # fmt: skip
        assert call(x, y, x_weights=4 * a, y_weights=b) == value
        assert call(x, y, x_weights=np.arange(1, 32), y_weights=None) > 0
    _, grad = mk.sliced_mmd2_grad(x, y, x_weights=np.eye(31)[4])
    assert (grad[4] != 0).all() and not np.delete(grad, 4, axis=0).any()


def test_other_inputs(clouds):
    x, y = clouds
    want = mk.sliced_mmd2_grad(x, y)
    wide = np.empty((62, 6))
    wide[::2, ::2] = x
    before = wide[::2, ::2].copy()
    value, grad = mk.sliced_mmd2_grad(wide[::2, ::2], np.asfortranarray(y))
    assert value == want[0] and (grad == want[1]).all() and (wide[::2, ::2] == before).all()
    assert mk.sliced_mmd2(x.tolist(), y.tolist()) == want[0]
    whole = mk.sliced_mmd2(np.arange(6).reshape(3, 2), np.arange(8, dtype=np.int16).reshape(4, 2))
    assert whole == mk.sliced_mmd2(np.arange(6.0).reshape(3, 2), np.arange(8.0).reshape(4, 2))
    seed = np.random.SeedSequence(5)
    assert mk.sliced_mmd2(x, y, seed=seed) == mk.sliced_mmd2(x, y, seed=np.random.SeedSequence(5))
    assert mk.sliced_mmd2(x, y, seed=1) != mk.sliced_mmd2(x, y, seed=2)


NAN, INF = math.nan, math.inf
X, Y = np.zeros((3, 2)), np.ones((4, 2))
CALLS = [mk.sliced_mmd2, mk.sliced_mmd2_grad, mk.sliced_cramer, mk.sliced_wasserstein, mk.energy_distance]  # fmt: skip
WRONG = [
    ((np.zeros(3), Y), {}, ValueError, r"^x: expected shape \(n, d\) or \(batch, n, d\), d >= 1, got \(3,\)"),
    ((np.zeros((3, 0)), np.zeros((4, 0))), {}, ValueError, r"^x: .*d >= 1, got \(3, 0\)"),
    ((np.zeros((0, 2)), Y), {}, ValueError, "^x: expected at least 1 point, got 0"),
    ((X, np.zeros((0, 2))), {}, ValueError, "^y: expected at least 1 point, got 0"),
    ((X, np.zeros((4, 3))), {}, ValueError, r"^y: expected shape \(m, 2\) to match x \(3, 2\), got \(4, 3\)"),
    ((X, np.zeros((2, 4, 2))), {}, ValueError, r"^y: expected shape \(m, 2\) to match"),
    ((np.zeros((2, 3, 2)), np.zeros((3, 4, 2))), {}, ValueError, r"^y: expected shape \(2, m, 2\) to match"),
    ((X, Y.astype("float32")), {}, TypeError, "^y: expected float64 to match x .*, got float32"),
    ((X.astype(complex), Y), {}, TypeError, "^x: expected float32 or float64, got complex128"),
    ((np.array([[0.0, NAN]]), Y), {}, ValueError, r"^x: expected finite values, got 1 NaN .* index \(0, 1\)"),
    ((X, np.array([[INF, 0.0]])), {}, ValueError, "^y: expected finite values"),
    ((X, Y), {"x_weights": np.ones(4)}, ValueError, r"^x_weights: expected shape \(3,\) to match x"),
    ((X, Y), {"y_weights": np.ones((2, 4))}, ValueError, r"^y_weights: expected shape \(4,\) to match y"),
    ((X, Y), {"x_weights": [1.0, -1.0, 2.0]}, ValueError, "^x_weights: expected weights >= 0, got -1"),
    ((X, Y), {"x_weights": [1.0, NAN, 2.0]}, ValueError, "^x_weights: expected weights >= 0, got nan"),
    ((X, Y), {"y_weights": np.zeros(4)}, ValueError, "^y_weights: expected weights of a positive, finite sum, got .*0"),
    ((X, Y), {"y_weights": [1, INF, 1, 1]}, ValueError, "^y_weights: expected weights of a positive, finite sum, got .*inf"),
    ((X, Y), {"y_weights": ["a"] * 4}, TypeError, "^y_weights: expected float32 or float64"),
    ((X, Y), {"device": "gpu"}, ValueError, "^device: expected 'cpu', 'cuda' or"),
]  # fmt: skip
SLICED = [
    ({"n_slices": 0}, ValueError, "^n_slices: expected an integer of at least 1.*, got 0"),
    ({"n_slices": 2.5}, TypeError, "^n_slices: expected an integer"),
    ({"directions": "nice"}, ValueError, "^directions: expected .*'orthogonal'"),
    ({"directions": np.ones((4, 3))}, ValueError, r"^directions: expected shape .*2.*, got \(4, 3\)"),
    ({"directions": np.ones((4, 2))}, ValueError, "^directions: expected "),
    ({"directions": np.ones((0, 2))}, ValueError, "^directions: "),
    ({"seed": -1}, ValueError, "^seed: "),
    ({"seed": None}, TypeError, "^seed: "),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("wrong", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_wrong_arguments(call, wrong):
    arguments, options, error, message = wrong
    with pytest.raises(error, match=message):
        call(*arguments, **options)


@pytest.mark.parametrize("call", CALLS[:-1], ids=lambda f: f.__name__)
@pytest.mark.parametrize("wrong", SLICED, ids=[str(i) for i in range(len(SLICED))])
def test_wrong_slices(call, wrong):
    options, error, message = wrong
    with pytest.raises(error, match=message):
        call(X, Y, **options)


def test_wrong_exponents():
    for r in (0, 2, -1, 2.5):
        for call in (mk.sliced_mmd2, mk.sliced_mmd2_grad, mk.energy_distance, Target):
            with pytest.raises(ValueError, match=r"^r: expected a number in \(0, 2\), got"):
                call(*(X, Y)[: 1 + (call is not Target)], r=r)
    with pytest.raises(TypeError, match="^r: expected a number, got None"):
        mk.sliced_mmd2(X, Y, r=None)
    for p in (0.5, -2, 65, 1e300):
        with pytest.raises(ValueError, match="^p: expected 1 <= p <= 64, got"):
            mk.sliced_wasserstein(X, Y, p=p)
    with pytest.raises(ValueError, match="^p: expected a finite number"):
        mk.sliced_wasserstein(X, Y, p=INF)


def test_frameworks_do_not_mix():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="^y: expected a numpy array to match x, got torch"):
        mk.sliced_mmd2(X, torch.tensor(Y))
    with pytest.raises(TypeError, match="^x_weights: expected a numpy array to match x, got torch"):
        mk.sliced_mmd2(X, Y, x_weights=torch.ones(3))
    with pytest.raises(TypeError, match="^x: expected a numpy array to match y, got torch"):
        mk.sliced_mmd2(torch.tensor(X), Target(Y))
    with pytest.raises(ValueError, match="^x: the tensor requires grad"):
        mk.sliced_mmd2(torch.tensor(X, requires_grad=True), torch.tensor(Y))


def test_cuda_says_why_not():
    if cuda_status()[0] == "available":
        pytest.skip("has a GPU")
    for call in CALLS:
        with pytest.raises(mk.DeviceError, match="^device 'cuda:0' is not available: "):
            call(X, Y, device="cuda")


# ---- batches and targets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_batches_are_loops(xp, dtype, shared):
    rng = np.random.default_rng(17)
    x, y = rng.standard_normal((3, 9, 2)).astype(dtype), rng.standard_normal((3, 7, 2)).astype(dtype)  # fmt: skip
    y = y[0] if shared else y

    def own(t, i):
        return t if t is None or shared or t.ndim == 1 else t[i]

    def energy(*p, **k):
        return mk.energy_distance(*p, return_grad=True, **k)

    for a, b in (
        (None, None),
        (rng.random((3, 9)), rng.random(7) if shared else rng.random((3, 7))),
        (rng.random(9), rng.random(7)),
    ):
        for call in (
            lambda *p, **k: mk.sliced_mmd2_grad(*p, n_slices=5, **k),
            lambda *p, **k: mk.sliced_mmd2_grad(*p, n_slices=5, r=1.5, **k),
            lambda *p, **k: mk.sliced_cramer(*p, n_slices=5, return_grad=True, **k),
            lambda *p, **k: mk.sliced_wasserstein(*p, n_slices=5, return_grad=True, **k),
            energy,
        ):
            as_xp = [None if t is None else xp.asarray(t) for t in (a, b)]
            values, grads = call(xp.asarray(x), xp.asarray(y), x_weights=as_xp[0], y_weights=as_xp[1])  # fmt: skip
            assert xp.dtype(values) == xp.dtype(grads) == dtype
            values, grads = xp.to_numpy(values), xp.to_numpy(grads)
            assert values.shape == (3,) and grads.shape == x.shape
            for i in range(3):
                u = a if a is None or a.ndim == 1 else a[i]
                value, grad = call(x[i], own(y, i), x_weights=u, y_weights=own(b, i))
                # Native calls agree bit for bit; averaging their float64 values is NumPy's business.
                assert values[i] == pytest.approx(value, rel=1e-6 if dtype == "float32" else 1e-14)
                if call is not energy:
                    assert (grads[i] == grad).all()
                assert apart(grads[i], grad) < (1e-6 if dtype == "float32" else 1e-14)


def test_no_problems_at_all():
    x, y = np.zeros((0, 3, 2)), np.ones((0, 4, 2))
    for other in (y, Y):
        for call in CALLS:
            out = call(x, other, x_weights=np.ones((0, 3)))
            value = out[0] if isinstance(out, tuple) else out
            assert value.shape == (0,)


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_are_their_points(xp, dtype, clouds, masses, weighted):
    x, y = (t.astype(dtype) for t in clouds)
    b = masses[1] if weighted else None
    a = {"x_weights": xp.asarray(masses[0])} if weighted else {}
    at, other = xp.asarray(x), xp.asarray(y)
    given = {} if b is None else {"y_weights": xp.asarray(b)}
    own = {"n_slices": 8, "seed": 3}
    xi = mk.sliced.directions(3, 8, seed=3)
    for r in (1.0, 1.5):
        target = Target(other, r=r, weights=given.get("y_weights"), **own)
        value, grad = mk.sliced_mmd2_grad(at, other, r=r, **own, **a, **given)
        again, same = mk.sliced_mmd2_grad(at, target, **a)
        assert again == value and (xp.to_numpy(same) == xp.to_numpy(grad)).all()
        plain = mk.sliced_mmd2(at, other, r=r, return_error=True, **own, **a, **given)
        assert mk.sliced_mmd2(at, target, return_error=True, **a) == plain
        by_array = Target(other, r=r, directions=xp.asarray(xi.astype(dtype)), weights=given.get("y_weights"))  # fmt: skip
        assert mk.sliced_mmd2(at, by_array, **a) == plain[0]
    target = Target(other, weights=given.get("y_weights"), **own)
    assert mk.sliced_cramer(at, target, **a) == mk.sliced_cramer(at, other, **own, **a, **given)
    for p in (1.0, 2.0, 3.0):
        target = Target(other, distance="wasserstein", p=p, weights=given.get("y_weights"), **own)
        value, grad = mk.sliced_wasserstein(at, other, p=p, return_grad=True, **own, **a, **given)
        again, same = mk.sliced_wasserstein(at, target, return_grad=True, **a)
        assert again == value and (xp.to_numpy(same) == xp.to_numpy(grad)).all()
    batch = xp.asarray(np.stack([x, x + 1]))
    target = Target(other, **own)
    values = mk.sliced_mmd2(batch, target)
    assert (xp.to_numpy(values) == xp.to_numpy(mk.sliced_mmd2(batch, other, **own))).all()


def test_a_target_keeps_its_own_copy(clouds):
    x, y = clouds
    changed = y.copy()
    target = Target(changed)
    before = mk.sliced_mmd2(x, target)
    changed[:] = 0
    assert mk.sliced_mmd2(x, target) == before
    assert (target.shape, target.dtype, target.framework, target.device) == ((24, 3), "float64", "numpy", "cpu")  # fmt: skip
    assert (target.distance, target.exponent, target.n_slices) == ("mmd", 1.0, 100)
    assert repr(target) == "Target(24 points in 3 dimensions, 100 slices, mmd 1)"
    with pytest.raises(AttributeError):
        target.n_slices = 3


def test_large_powers_are_not_zero(dtype):
    x = random.normal(1, (30, 2), dtype=dtype)
    for unit in (1e-3, 1.0, 1e3):
        s = np.dtype(dtype).type(unit)
        value, grad = mk.sliced_wasserstein(s * x, s * (x + 1), p=64, n_slices=9, return_grad=True)
        assert 0.3 * unit < value < 3 * unit and np.isfinite(grad).all() and grad.any()


def test_value_has_the_bits_of_value_with_gradient(clouds, masses, dtype):
    x, y = (t.astype(dtype) for t in clouds)
    far = [random.normal(s, (3000, 2), dtype=dtype) for s in (1, 2)]
    for a, b, u in ((x, y, None), (x, y, masses[0]), (*far, None)):
        for r in (0.5, 1.0, 1.7):
            options = {"r": r, "n_slices": 9, "x_weights": u}
            assert mk.sliced_mmd2(a, b, **options) == mk.sliced_mmd2_grad(a, b, **options)[0]
            target = Target(b, r=r, n_slices=9)
            assert mk.sliced_mmd2(a, target, x_weights=u) == mk.sliced_mmd2_grad(a, target, x_weights=u)[0]  # fmt: skip


def test_too_many_points_are_refused(clouds, monkeypatch):
    from mckean.sliced import _clouds

    x, y = clouds
    target = Target(y)
    monkeypatch.setattr(_clouds, "_MOST", 55)
    monkeypatch.setattr("mckean.sliced._call.moved", None)  # nothing is computed
    for call in (mk.sliced_mmd2, mk.sliced_mmd2_grad, mk.sliced_wasserstein):
        with pytest.raises(ValueError, match=r"^y: expected fewer than 55 points with those of x, got 31 \+ 24"):  # fmt: skip
            call(x, y)
    with pytest.raises(ValueError, match="^y: expected fewer than 55 points with"):
        mk.sliced_mmd2(x, target)
    monkeypatch.setattr(_clouds, "_MOST", 24)
    with pytest.raises(ValueError, match="^x: expected fewer than 24 points, got 31"):
        mk.sliced_mmd2(x, y)
    with pytest.raises(ValueError, match="^y: expected fewer than 24 points, got 24"):
        Target(y)


def test_targets_too_large_say_how_large():
    y, xi = np.zeros((1_000_000, 2)), np.tile([1.0, 0.0], (1_000_000, 1))
    with pytest.raises(MemoryError, match="^1000000 slices of 1000000 points need 7.45e.03 GiB"):
        Target(y, directions=xi)
    with pytest.raises(TypeError):
        pickle.dumps(Target(y[:3]))


def test_huge_weights_raise_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="^x_weights: expected weights of a positive, finite sum, got inf"):  # fmt: skip
            mk.sliced_mmd2(X, Y, x_weights=np.full(3, 1e308))


def test_what_belongs_to_a_target(clouds):
    x, y = clouds
    target, other = Target(y), Target(y, distance="wasserstein")
    for options in ({"n_slices": 7}, {"seed": 1}, {"directions": np.eye(3)}, {"directions": "random"}, {"y_weights": np.ones(24)}, {"r": 1.5}):  # fmt: skip
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"^{name}: expected .*Target"):
            mk.sliced_mmd2(x, target, **options)
    with pytest.raises(ValueError, match="^p: expected 2.0 to match the Target y, got 3.0"):
        mk.sliced_wasserstein(x, other, p=3)
    # Defaults given on purpose contradict another target all the same, and what is equal agrees.
    own = {"n_slices": 7, "seed": 3, "directions": "random"}
    target = Target(y, r=0.5, **own)
    value = mk.sliced_mmd2(x, target)
    assert mk.sliced_mmd2(x, target, r=0.5, **own) == value == mk.sliced_mmd2(x, y, r=0.5, **own)
    assert mk.sliced_mmd2(x, target, directions=mk.sliced.directions(3, 7, "random", seed=3)) == value  # fmt: skip
    for options in ({"r": 1.0}, {"n_slices": 100}, {"seed": 0}, {"directions": "orthogonal"}):
        (name,) = options
        with pytest.raises(ValueError, match=f"^{name}: expected .* to match the Target y, got"):
            mk.sliced_mmd2(x, target, **options)
    first = Target(y, distance="wasserstein", p=1, directions=np.eye(3))
    value = mk.sliced_wasserstein(x, first)
    assert mk.sliced_wasserstein(x, first, p=1, directions=np.eye(3), n_slices=3) == value
    for options in ({"p": 2}, {"n_slices": 100}, {"directions": "orthogonal"}, {"directions": -np.eye(3)}):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected .* the Target y"):
            mk.sliced_wasserstein(x, first, **options)
    for options in ({"distance": "wasserstein", "r": 1.5}, {"p": 7}, {"p": 2.0}):
        with pytest.raises(ValueError, match="^[rp]: expected none for distance="):
            Target(y, **options)
    for points in (x, x[:, :1]):
        with pytest.raises(TypeError, match="^y: expected points, got a Target"):
            mk.energy_distance(points, Target(y[:, :1]))
    with pytest.raises(ValueError, match="^y: expected a Target made with distance='mmd', got 'wasserstein'"):  # fmt: skip
        mk.sliced_mmd2(x, other)
    with pytest.raises(ValueError, match="^y: expected a Target made with distance='wasserstein', got 'mmd'"):  # fmt: skip
        mk.sliced_wasserstein(x, target)
    with pytest.raises(ValueError, match="^y: expected a Target made with r=1, got r=1.5"):
        mk.sliced_cramer(x, Target(y, r=1.5))
    with pytest.raises(TypeError, match="^x: expected float64 to match y, got float32"):
        mk.sliced_mmd2(x.astype("float32"), target)
    with pytest.raises(ValueError, match=r"^x: expected 3 coordinates to match y \(24, 3\), got \(31, 2\)"):  # fmt: skip
        mk.sliced_mmd2(x[:, :2], target)
    with pytest.raises(ValueError, match=r"^y: expected shape \(m, d\), got \(2, 24, 3\)"):
        Target(np.stack([y, y]))
    with pytest.raises(ValueError, match="^distance: expected one of 'mmd', 'wasserstein'"):
        Target(y, distance="euclid")
    with pytest.raises(ValueError, match="^weights: expected weights >= 0"):
        Target(y, weights=-np.ones(24))


# ---- determinism and memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n,m,d,n_slices", [(40, 30, 3, 17), (5000, 3000, 2, 9), (300, 400, 70, 140)])  # fmt: skip
def test_threads_change_nothing(dtype, n, m, d, n_slices):
    x, y = random.normal(1, (n, d), dtype=dtype), random.normal(2, (m, d), dtype=dtype)
    a = random.uniform(3, n)
    before, seen = mk.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            mk.set_num_threads(threads)
            target = Target(y, n_slices=n_slices)
            seen.append(
                [
                    *mk.sliced_mmd2_grad(x, y, n_slices=n_slices),
                    *mk.sliced_mmd2_grad(x, y, n_slices=n_slices, x_weights=a),
                    *mk.sliced_wasserstein(x, y, n_slices=n_slices, return_grad=True),
                    mk.sliced_mmd2(x, y, n_slices=n_slices),
                    *mk.sliced_mmd2_grad(x, target),
                    *mk.sliced_mmd2_grad(x[:200], y[:200], n_slices=n_slices, r=1.5),
                ]
            )
    finally:
        mk.set_num_threads(before)
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert np.array_equal(one, two)


def test_instruction_sets_agree_up_to_rounding(simd_level, dtype, clouds):
    x, y = (t.astype(dtype) for t in clouds)
    xi = units(18, 11, 3).astype(dtype)
    value, grad = mk.sliced_mmd2_grad(x, y, directions=xi)
    want, slope = ref.sliced_mmd2(x, y, xi)
    assert value == pytest.approx(want, rel=VALUE[dtype, True])
    assert apart(grad, slope) < GRAD[dtype, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mmd", "wasserstein"])
def test_memory_does_not_grow_with_slices(kind):
    """1e6 points against 1e6 in the plane, 20 slices: peak resident memory grows by less than 200 MB."""
    pytest.importorskip("resource")
    code = """
import resource, sys
import numpy as np
import mckean as mk
x = np.random.default_rng(0).standard_normal((1_000_000, 2), dtype=np.float32)
y = np.random.default_rng(1).standard_normal((1_000_000, 2), dtype=np.float32)
call = {"mmd": lambda x, y: mk.sliced_mmd2_grad(x, y, n_slices=20),
        "wasserstein": lambda x, y: mk.sliced_wasserstein(x, y, n_slices=20, return_grad=True)}[sys.argv[1]]
call(x[:64], y[:64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
call(x, y)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, kind], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 < 200e6
