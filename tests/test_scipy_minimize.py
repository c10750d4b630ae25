"""SciPy's minimisers behind the same interface."""

import numpy as np
import pytest

import mckean as mk
from mckean import optimizers as O

pytest.importorskip("scipy.optimize")
METHODS = ("trust-ncg", "trust-exact", "Newton-CG", "L-BFGS-B", "BFGS")


def loss():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6))
    return O.LogisticLoss(X, (X @ np.arange(6) + rng.normal(size=200) > 0).astype(float), 1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_all_find_the_same_minimum(method):
    f = loss()
    want = O.GNS(f, grad_tol=1e-10).minimize(np.zeros(6)).x
    r = O.minimize(f, np.zeros((1, 6)), method=method, grad_tol=1e-5)
    assert r.converged and r.status == "converged" and r.x.shape == (1, 6)
    assert np.allclose(r.x[0], want, atol=1e-3)
    assert np.linalg.norm(f.gradient(r.x[0])) == pytest.approx(r.gradient_norm)
    h = r.history
    assert len(h["value"]) == r.n_iter + 1 and h["gradient_norm"][-1] == r.gradient_norm
    assert (np.diff(h["n_gradients"]) >= 0).all() and h["n_gradients"][-1] == r.n_gradients
    assert (r.n_hessians > 0) == (method == "trust-exact")
    assert (r.n_products > 0) == (method in ("trust-ncg", "Newton-CG"))


@pytest.mark.parametrize("method", METHODS)
def test_counts_are_the_calls_made(method):
    f = loss()
    calls = {"gradient": 0, "products": 0, "hessian": 0}

    class Watched:
        def value_and_gradient(self, x):
            calls["gradient"] += 1
            return f.value_and_gradient(x)

        value, gradient = f.value, f.gradient

        def hessian(self, x):
            calls["hessian"] += 1
            return f.hessian(x)

        def hvp(self, x, v):
            calls["products"] += 1
            return f.hvp(x, v)

    r = O.SciPyMinimize(Watched(), method).minimize(np.zeros(6))
    assert (r.n_gradients, r.n_products, r.n_hessians) == tuple(calls.values())


def test_limits_and_callbacks():
    f = O.Rosenbrock(4)
    with pytest.warns(mk.ConvergenceWarning, match="iteration limit"):
        r = O.SciPyMinimize(f, "BFGS", max_iter=3).minimize(f.start)
    assert not r.converged and r.n_iter == 3
    with pytest.warns(mk.ConvergenceWarning, match="stopped"):
        r = O.SciPyMinimize(f, "BFGS").minimize(f.start, callback=lambda k, s: k == 2)
    assert r.n_iter == 2 and r.status == "stopped"


def test_one_step_of_the_common_loop_is_all_of_it(xp):
    f = loss()
    x0 = xp.asarray(np.zeros((1, 6)))
    result = mk.run(O.SciPyMinimize(f, "L-BFGS-B"), x0, 2, progress=False)
    assert xp.is_array(result.x) and result.state.status == "converged"
    r = O.SciPyMinimize(f, "L-BFGS-B").minimize(x0)
    assert (xp.to_numpy(result.x[0]) == xp.to_numpy(r.x)).all()


def test_wrong_arguments():
    f = loss()
    with pytest.raises(ValueError, match="method: expected one of 'trust-ncg'"):
        O.SciPyMinimize(f, "Powell")
    with pytest.raises(ValueError, match="gradient: expected finite values at x0"):
        O.SciPyMinimize(O.Objective(lambda x: 1.0, lambda x: x * np.nan)).minimize(np.ones(2))
    with pytest.raises(ValueError, match="x0: expected one point"):
        O.SciPyMinimize(f).minimize(np.zeros((2, 6)))
