"""Objectives against autodiff-free references: differences in float64, and dense sums over samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mckean import optimizers as O


def logistic(n=40, d=5, l2=0.1):
    rng = np.random.default_rng(0)
    return O.LogisticLoss(rng.normal(size=(n, d)), rng.integers(0, 2, n), l2)


def softmax(n=40, p=3, C=4, l2=0.1):
    rng = np.random.default_rng(1)
    return O.SoftmaxLoss(rng.normal(size=(n, p)), np.append(rng.integers(0, C, n - 1), C - 1), l2)


def least_squares():
    rng = np.random.default_rng(2)
    return O.LeastSquaresLoss(rng.normal(size=(30, 4)), rng.normal(size=30), 0.2)


def logsumexp():
    rng = np.random.default_rng(3)
    return O.LogSumExp(rng.normal(size=(20, 4)), rng.normal(size=20), mu=0.7)


ALL = {
    "logistic": logistic,
    "softmax": softmax,
    "least squares": least_squares,
    "log-sum-exp": logsumexp,
    "rosenbrock 2": lambda: O.Rosenbrock(3, 2),
    "rosenbrock 3.5": lambda: O.Rosenbrock(4, 3.5),
}


@pytest.fixture(params=ALL, ids=lambda k: k)
def objective(request):
    return ALL[request.param]()


def at(f, seed=5):
    return np.random.default_rng(seed).normal(size=f.d)


def differences(fun, x, h=1e-6):
    return np.stack(
        [(np.asarray(fun(x + h * e)) - fun(x - h * e)) / (2 * h) for e in np.eye(len(x))], -1
    )


def test_gradients_and_hessians_are_derivatives(objective):
    x = at(objective)
    scale = 1 + abs(objective.gradient(x)).max()
    assert abs(differences(objective.value, x) - objective.gradient(x)).max() < 1e-7 * scale
    H = objective.hessian(x)
    assert abs(differences(objective.gradient, x) - H).max() < 1e-6 * (1 + abs(H).max())
    value, g = objective.value_and_gradient(x)
    assert value == objective.value(x) and (g == objective.gradient(x)).all()


@pytest.mark.parametrize("model", ["exact", "ggn"])
def test_products_are_those_of_the_matrices(objective, model):
    x, V = at(objective), np.random.default_rng(6).normal(size=(objective.d, 3))
    H = objective.hessian(x) if model == "exact" else objective.ggn(x)
    product = objective.product(x, model)
    for v in V.T:
        assert np.allclose(product(v), H @ v, rtol=1e-12, atol=1e-12 * abs(H).max())
    assert np.allclose(product(V), H @ V, rtol=1e-12, atol=1e-12 * abs(H).max())
    assert np.allclose(objective.hvp(x, V[:, 0]), objective.hessian(x) @ V[:, 0])


@pytest.mark.parametrize("make", [logistic, softmax, least_squares])
def test_empirical_fisher_is_the_mean_of_outer_products(make):
    f = make()
    x = at(f)
    G = f.per_sample_gradients(x)
    assert G.shape == (f.n_samples, f.d)
    assert np.allclose(G.mean(0) + f.l2 * x, f.gradient(x), atol=1e-14)
    F = G.T @ G / f.n_samples + f.l2 * np.eye(f.d)
    assert np.allclose(f.fisher(x), F, atol=1e-13)
    v = at(f, 9)
    assert np.allclose(f.product(x, "fisher")(v), F @ v, atol=1e-12)


def test_logistic_weights_are_those_of_the_formulas():
    f, x = logistic(), at(logistic())
    p = 1 / (1 + np.exp(-f._X @ x))
    wrong = np.where(f._y == 1, 1 - p, p)
    eye = f.l2 * np.eye(f.d)
    assert np.allclose(f.hessian(x), (f._X.T * (p * (1 - p))) @ f._X / 40 + eye, atol=1e-14)
    assert np.allclose(f.fisher(x), (f._X.T * wrong**2) @ f._X / 40 + eye, atol=1e-14)
    assert np.allclose(f.bound(x), f._X.T @ f._X / 160 + eye, atol=1e-14)


def test_margins_of_any_size_do_not_overflow():
    X = np.array([[1e4], [-1e4], [3e3]])
    f = O.LogisticLoss(X, [1, 1, 0])
    with np.errstate(all="raise", under="ignore"):
        value, g = f.value_and_gradient(np.array([1.0]))
    assert value == pytest.approx((0 + 1e4 + 3e3) / 3)
    assert np.allclose(g, (1e4 + 3e3) / 3)
    s = O.SoftmaxLoss(X, [0, 1, 1])
    assert np.isfinite(s.value(np.array([5.0, -5.0])))


@pytest.mark.parametrize("make", [logistic, softmax])
def test_bounds_are_above_every_hessian(make):
    f = make()
    for seed in range(20):
        x = 2 * at(f, seed)
        assert np.linalg.eigvalsh(f.bound(x) - f.hessian(x))[0] > -1e-12
    if make is softmax:
        assert np.linalg.eigvalsh(f.block_diagonal(x) - f.hessian(x))[0] > -1e-12


def test_weighted_gauss_newton_errs_by_the_squared_gradient():
    f = logsumexp()
    x = at(f)
    g = f.gradient(x)
    assert np.allclose(f.ggn(x) - f.hessian(x), np.outer(g, g) / f.mu, atol=1e-13)
    assert np.allclose(f.metric, f._A.T @ f._A)


def test_a_soft_maximum_of_one_row_is_almost_linear():
    rng = np.random.default_rng(4)
    f = O.LogSumExp(rng.normal(size=(500, 100)), rng.normal(size=500), mu=0.05)
    H = f.hessian(np.ones(100))
    assert (H == H.T).all() and np.linalg.eigvalsh(H)[0] >= -1e-14 * abs(H).max()
    assert O.GNS(f, max_iter=3).step(O.GNS(f).init(np.ones(100))).status == "running"


def test_equations_have_the_models_of_the_formulas():
    for p in (2, 3, 4, 2.5):
        f = O.Rosenbrock(2, p)
        x = f.start
        u, J = f._u(x), f._J(x)
        q, r = J.T @ u, np.linalg.norm(u)
        assert f.value(x) == pytest.approx(r**p / p)
        fisher = (p - 2) * r ** (p - 4) * np.outer(q, q)
        assert np.allclose(f.ggn(x), r ** (p - 2) * J.T @ J + fisher)
        op = f.fisher(x)
        assert np.allclose((op.U * op.s) @ op.U.T, fisher)
        g = f.gradient(x)
        assert np.allclose(fisher, (p - 2) / r**p * np.outer(g, g))
        zero = np.ones(2)
        assert np.isfinite(f.hessian(zero)).all() and np.isfinite(f.ggn(zero)).all()


def test_equations_without_second_derivatives_take_differences():
    full = O.Rosenbrock(3, 3)
    bare = O.Equations(full._u, full._J, 3, d=3)
    x, v = full.start, np.array([1.0, 2.0, -1.0])
    assert not hasattr(bare, "hessian") and bare.gradients_per_product == 2
    pytest.importorskip("mckean.lowrank._hvp")
    assert np.allclose(bare.product(x)(v), full.hessian(x) @ v, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), p=st.integers(1, 6), C=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_size_of_the_losses(n, p, C, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    f = O.SoftmaxLoss(X, rng.integers(0, C, n), 0.01, n_classes=C)
    x = rng.normal(size=f.d)
    v = rng.normal(size=f.d)
    assert np.allclose(f.hvp(x, v), f.hessian(x) @ v, atol=1e-12)
    two = O.SoftmaxLoss(X, np.arange(n) % 2, n_classes=2)
    one = O.LogisticLoss(X, np.arange(n) % 2)
    w = rng.normal(size=2 * p)
    assert two.value(w) == pytest.approx(one.value(w[p:] - w[:p]), abs=1e-12)


@pytest.mark.parametrize("make", [logistic, softmax, least_squares])
def test_batches_are_losses_of_their_samples(make):
    f = make()
    x = at(f)
    halves = [f.batch(np.arange(0, f.n_samples, 2)), f.batch(np.arange(1, f.n_samples, 2))]
    assert np.allclose(sum(h.gradient(x) for h in halves) / 2, f.gradient(x), atol=1e-13)
    assert sum(h.value(x) for h in halves) / 2 == pytest.approx(f.value(x))
    for bad in ([], [0.5], [[0, 1]], [f.n_samples], [-1]):
        with pytest.raises(ValueError, match="index: expected"):
            f.batch(bad)


def test_results_have_the_kind_of_the_point(xp, dtype):
    f = softmax()
    x = at(f).astype(dtype)
    wanted = O.SoftmaxLoss(f._X, f._y, f.l2)
    given_x = xp.asarray(x)
    for got, want in [
        (f.gradient(given_x), wanted.gradient(x)),
        (f.hessian(given_x), wanted.hessian(x)),
        (f.hvp(given_x, xp.asarray(x)), wanted.hvp(x, x)),
    ]:
        assert xp.is_array(got) and xp.dtype(got) == dtype
        assert (xp.to_numpy(got) == want).all()


def test_wrong_arguments():
    X = np.ones((3, 2))
    for make, message in [
        (lambda: O.LogisticLoss(X, [0, 1]), r"y: expected shape \(3,\)"),
        (lambda: O.LogisticLoss(X, [0, 1, 2]), "y: expected labels 0 and 1"),
        (lambda: O.LogisticLoss(X * np.nan, [0, 1, 1]), "X: expected finite"),
        (lambda: O.LogisticLoss(X[:, :0], [0, 1, 1]), "X: expected at least one row and column"),
        (lambda: O.LogisticLoss(X, [0, 1, 1], -1), "l2: expected a number >= 0"),
        (lambda: O.SoftmaxLoss(X, [0, -1, 1]), "labels: expected integers"),
        (lambda: O.SoftmaxLoss(X, [0, 3, 1], n_classes=3), "n_classes: expected at least 4"),
        (lambda: O.LogSumExp(X, [0.0]), r"b: expected shape \(3,\)"),
        (lambda: O.LogSumExp(X, [0.0, 0, 0], 0), "mu: expected a positive"),
        (lambda: O.Rosenbrock(1), "d: expected an integer of at least 2"),
        (lambda: O.Rosenbrock(2, 1.5), "p: expected a number of at least 2"),
        (lambda: logistic().gradient(np.ones(4)), r"x: expected shape \(5,\)"),
        (lambda: logistic().hvp(np.ones(5), np.ones(4)), r"v: expected shape \(5,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match="value: expected a function"):
        O.Objective(1.0, np.sin)
    with pytest.raises(TypeError, match="hvp: expected a function"):
        O.Objective(np.sin, np.sin, hvp=3)
    wrong = O.Equations(lambda x: x, lambda x: np.ones((2, 2)), d=3)
    with pytest.raises(ValueError, match=r"jacobian: expected shape \(3, 3\)"):
        wrong.gradient(np.ones(3))
