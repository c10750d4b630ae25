"""The Sinkhorn divergence: closed forms, limits, gradients, GeomLoss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

import reference_sinkhorn as ref

import mckean as mk


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.standard_normal((19, 3)), rng.standard_normal((14, 3)) * 1.2 + 0.3


@pytest.fixture
def masses():
    rng = np.random.default_rng(1)
    a, b = rng.random(19) + 0.1, rng.random(14) + 0.1
    return a / a.sum(), b / b.sum()


def brute(x, y, a, b, eps, p=2.0, rho=(np.inf, np.inf)):
    cost = ref.cost_of(x, y, p)
    value = ref.primal(ref.solve(cost, a, b, eps, rho)[2], cost, a, b, eps, rho)
    for z, w in ((x, a), (y, b)):
        cost = ref.cost_of(z, z, p)
        plan = ref.solve_symmetric(cost, w, eps, rho[0])
        value -= 0.5 * ref.primal(plan, cost, w, w, eps, rho)
    return value + 0.5 * eps * (a.sum() - b.sum()) ** 2


@pytest.mark.parametrize("p, eps", [(2, 1.0), (1, 0.5), (1.5, 0.8)])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_brute_force(xp, dtype, clouds, masses, p, eps, weighted):
    x, y = (v.astype(dtype) for v in clouds)
    a, b = masses if weighted else (np.full(19, 1 / 19), np.full(14, 1 / 14))
    given = {"a": xp.asarray(a), "b": xp.asarray(b)} if weighted else {}
    tol = {"float32": 1e-5, "float64": 1e-11}[dtype]
    options = {"p": p, "eps": eps, "tol": tol, **given}
    value, grad = mk.sinkhorn_divergence(xp.asarray(x), xp.asarray(y), return_grad=True, **options)
    limit = {"float32": 1e-5, "float64": 1e-9}[dtype]
    assert type(value) is float
    assert value == pytest.approx(brute(x, y, a, b, eps, p), abs=limit)
    assert xp.is_array(grad) and xp.dtype(grad) == dtype and tuple(grad.shape) == (19, 3)
    assert mk.sinkhorn_divergence(xp.asarray(x), xp.asarray(y), **options) == value
    if p == 2 and dtype == "float64":
        cross = mk.sinkhorn_points(x, y, a=a, b=b, eps=eps, tol=tol).plan()
        own = ref.solve_symmetric(ref.cost_of(x, x), a, eps)
        np.testing.assert_allclose(xp.to_numpy(grad), 2 * (own @ x - cross @ y), atol=1e-9)


@pytest.mark.parametrize("eps", [0.2, 1.0, 100.0])
def test_a_shift_is_its_square(clouds, masses, eps):
    (x, _), (a, _), t = clouds, masses, np.array([0.3, -1.0, 2.0])
    value, grad = mk.sinkhorn_divergence(x, x + t, a=a, b=a, eps=eps, tol=1e-8, return_grad=True)
    assert value == pytest.approx(t @ t, abs=1e-6)
    np.testing.assert_allclose(grad, -2 * a[:, None] * t, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_equal_clouds_have_none(clouds, masses, p):
    (x, y), (a, b) = clouds, masses
    value, grad = mk.sinkhorn_divergence(x, x, a=a, b=a, p=p, eps=0.5, tol=1e-9, return_grad=True)
    assert abs(value) < 1e-9 and np.abs(grad).max() < 1e-8
    there = mk.sinkhorn_divergence(x, y, a=a, b=b, p=p, eps=0.5, tol=1e-9)
    back = mk.sinkhorn_divergence(y, x, a=b, b=a, p=p, eps=0.5, tol=1e-9)
    assert there == pytest.approx(back, abs=1e-9) and there > 1e-3


def test_limits_of_eps(clouds):
    x, y = clouds
    far = 1e7
    gap = x.mean(0) - y.mean(0)
    assert mk.sinkhorn_divergence(x, y, eps=far) == pytest.approx(gap @ gap, rel=1e-4)
    energy = mk.energy_distance(x, y)
    assert mk.sinkhorn_divergence(x, y, p=1, eps=far) == pytest.approx(energy / 2, rel=1e-4)
    line = np.sort(np.random.default_rng(2).standard_normal((12, 1)), axis=0)
    other = np.sort(np.random.default_rng(3).standard_normal((12, 1)), axis=0) + 1
    exact = ((line - other) ** 2).mean()
    assert mk.sinkhorn_divergence(line, other, eps=0.02, tol=1e-4) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("rho", [None, 0.7])
def test_gradients_are_central_differences(clouds, masses, p, rho):
    (x, y), (a, b) = clouds, masses
    if rho is not None:
        a, b = 1.3 * a, 0.8 * b
    eps = 8.0 if p == 3 else 0.8
    options = {"a": a, "b": b, "p": p, "eps": eps, "tol": 1e-12, "unbalanced": rho}
    value, grad = mk.sinkhorn_divergence(x, y, return_grad=True, **options)
    way, h = np.random.default_rng(4).standard_normal(x.shape), 1e-5
    ends = (mk.sinkhorn_divergence(x + s * h * way, y, **options) for s in (1, -1))
    slope = (next(ends) - next(ends)) / (2 * h)
    assert (grad * way).sum() == pytest.approx(slope, rel=1e-6, abs=1e-8)
    rhos = (np.inf, np.inf) if rho is None else (rho, rho)
    assert value == pytest.approx(brute(x, y, a, b, eps, p, rhos), abs=1e-9)
    assert value > 0


def test_batches_are_loops(xp, dtype):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((3, 8, 2)).astype(dtype), rng.standard_normal((3, 9, 2)).astype(dtype)  # fmt: skip
    for other in (y, y[0]):
        values, grads = mk.sinkhorn_divergence(
            xp.asarray(x), xp.asarray(other), eps=1.0, return_grad=True
        )
        assert xp.is_array(values) and xp.dtype(values) == dtype and tuple(values.shape) == (3,)
        for k in range(3):
            one, grad = mk.sinkhorn_divergence(
                x[k], other[k] if other.ndim == 3 else other, eps=1.0, return_grad=True
            )
            assert float(xp.to_numpy(values)[k]) == pytest.approx(one, rel=1e-5)
            np.testing.assert_allclose(xp.to_numpy(grads)[k], grad, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_any_shape_is_not_negative(n, m, p, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 3, (k, 2)).astype(float) for k in (n, m))
    a, b = (rng.integers(0, 3, k) + (np.arange(k) == 0) for k in (n, m))
    options = {"p": p, "eps": 1.5, "a": a, "b": b, "normalize": True, "tol": 1e-10}
    value, grad = mk.sinkhorn_divergence(x, y, return_grad=True, **options)
    assert value >= -1e-9 and np.isfinite(grad).all()
    assert value == pytest.approx(brute(x, y, a / a.sum(), b / b.sum(), 1.5, p), abs=1e-8)


def test_descent_reaches_the_data():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((25, 2)), rng.standard_normal((25, 2)) * 0.5 + 2
    first = mk.sinkhorn_divergence(x, y, eps=0.1, tol=1e-3)
    for _ in range(10):
        value, grad = mk.sinkhorn_divergence(x, y, eps=0.1, tol=1e-3, return_grad=True)
        x = x - 0.5 * 25 * grad
    assert value < 1e-2 * first


def test_relative_eps(clouds):
    x, y = clouds
    eps = mk.sinkhorn_points(x, y, rel_eps=0.1).eps
    assert mk.sinkhorn_divergence(x, y, rel_eps=0.1) == mk.sinkhorn_divergence(x, y, eps=eps)


@pytest.mark.slow  # its import compiles
def test_geomloss(clouds):
    """Its cost has a factor 1/2, and its annealing stops without a test: to three digits."""
    torch = pytest.importorskip("torch")
    geomloss = pytest.importorskip("geomloss")
    x, y = clouds
    loss = geomloss.SamplesLoss("sinkhorn", p=2, blur=1.0, scaling=0.999, backend="tensorized")
    theirs = float(loss(torch.tensor(x), torch.tensor(y)))
    assert 0.5 * mk.sinkhorn_divergence(x, y, eps=2.0) == pytest.approx(theirs, rel=2e-3)


def test_what_did_not_converge_says_so(clouds):
    x, y = clouds
    with pytest.warns(mk.ConvergenceWarning, match=r"^sinkhorn_divergence: tol=1e-10 not met after \d+ iterations") as found:  # fmt: skip
        value = mk.sinkhorn_divergence(x, y, eps=0.05, tol=1e-10, max_iter=2, method="scaling")
    assert np.isfinite(value) and len(found) == 1 and found[0].filename == __file__


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"eps": None}, TypeError, "eps: expected either eps or rel_eps, got neither"),
        ({"eps": 0.0}, ValueError, "eps: expected a positive number"),
        ({"p": -1}, ValueError, "p: expected a positive number"),
        ({"x": np.full((3, 2), np.nan)}, ValueError, "x: expected finite values"),
        ({"y": np.zeros((3, 1))}, ValueError, r"y: expected shape \(m, 2\)"),
        ({"a": np.ones(3)}, ValueError, "a: expected weights that sum to 1"),
        ({"b": [0.5, 0.6, -0.1, 0.0]}, ValueError, "b: expected weights >= 0, got -0.1"),
        ({"unbalanced": (1.0, 2.0)}, TypeError, "unbalanced: expected one number, got tuple"),
        ({"unbalanced": 1.0, "method": "newton"}, ValueError, "method: expected 'auto'"),
        ({"method": "exact"}, ValueError, "method: expected one of"),
        ({"tol": -1}, ValueError, "tol: expected a number >= 0"),
        ({"max_iter": 0}, ValueError, "max_iter: expected an integer of at least 1"),
        ({"normalize": 1}, TypeError, "normalize: expected True or False, got 1"),
        ({"device": "tpu"}, ValueError, "device: expected"),
    ],
)
def test_arguments(given, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        mk.sinkhorn_divergence(**({"x": np.zeros((3, 2)), "y": np.ones((4, 2)), "eps": 1.0} | given))  # fmt: skip
    assert "\n" not in str(caught.value)
