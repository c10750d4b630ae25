"""Entropic transport: results and arguments, against dense iterations, closed forms, POT and OTT."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

import reference_sinkhorn as ref
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

import mckean as mk
from mckean._dispatch import cuda_status
from mckean.transport import SinkhornResult, _draws, _result

LIMIT = {"float32": 3e-5, "float64": 1e-9}  # of float32: rounding of the exponents
TOL = {"float32": 1e-5, "float64": 1e-11}


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.standard_normal((31, 3)), rng.standard_normal((24, 3)) * 1.2 + 0.3


@pytest.fixture
def masses():
    rng = np.random.default_rng(1)
    a, b = rng.random(31) + 0.1, rng.random(24) + 0.1
    return a / a.sum(), b / b.sum()


def check(res, xp, dtype, cost, a, b, eps, rho=(np.inf, np.inf)):
    """Everything a result says, against a dense solution."""
    f, g, plan = ref.solve(cost, a, b, eps, rho)
    limit = LIMIT[dtype]
    scale = np.abs(np.where(np.isfinite(cost), cost, 0.0)).max()
    for got, want, size in ((res.f, f, scale), (res.g, g, scale), (res.plan(), plan, plan.max())):
        assert xp.is_array(got) and xp.dtype(got) == dtype
        np.testing.assert_allclose(xp.to_numpy(got), want, atol=limit * size)
    value = ref.primal(plan, cost, a, b, eps, rho)
    assert type(res.cost) is float and type(res.gap) is float and type(res.dual_value) is float
    held = np.where(plan > 0, cost, 0.0)
    assert res.cost == pytest.approx((plan * held).sum(), abs=limit * scale)
    assert res.dual_value == pytest.approx(value, abs=limit * scale)
    assert res.primal_value == pytest.approx(value, abs=limit * scale)
    assert abs(res.gap) <= limit * scale
    assert res.converged is True and res.marginal_error <= 2 * TOL[dtype] and res.n_iter >= 0


# ---- solutions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_brute_force(xp, dtype, clouds, masses, weighted):
    x, y = (v.astype(dtype) for v in clouds)
    a, b = masses if weighted else (np.full(31, 1 / 31), np.full(24, 1 / 24))
    given = {"a": xp.asarray(a), "b": xp.asarray(b)} if weighted else {}
    for p, eps in ((2, 1.0), (1, 0.2), (1.5, 0.4)):
        res = mk.sinkhorn_points(
            xp.asarray(x), xp.asarray(y), p=p, eps=eps, tol=TOL[dtype], **given
        )
        check(res, xp, dtype, ref.cost_of(x, y, p), a, b, eps)
        assert res.eps == eps


@pytest.mark.parametrize("method", ["auto", "scaling", "log"])
def test_costs_are_brute_force(xp, dtype, clouds, masses, method):
    cost, (a, b) = ref.cost_of(*clouds).astype(dtype), masses
    res = mk.sinkhorn(
        xp.asarray(a), xp.asarray(b), xp.asarray(cost), eps=1.0, method=method, tol=TOL[dtype]
    )
    check(res, xp, dtype, cost.astype(float), a, b, 1.0)
    assert res.method == method or method == "auto"


def test_forbidden_pairs(clouds, masses):
    cost, (a, b) = ref.cost_of(*clouds), masses
    cost[np.random.default_rng(2).random(cost.shape) < 0.3] = np.inf
    res = mk.sinkhorn(a, b, cost, eps=1.0, tol=TOL["float64"])
    _, _, plan = ref.solve(cost, a, b, 1.0)
    np.testing.assert_allclose(res.plan(), plan, atol=1e-10)
    assert (res.plan()[np.isinf(cost)] == 0).all() and math.isfinite(res.cost + res.gap)
    mean = a @ np.where(np.isinf(cost), 0.0, cost) @ b / (a @ np.isfinite(cost) @ b)
    assert mk.sinkhorn(a, b, cost, rel_eps=0.5).eps == pytest.approx(0.5 * mean, rel=1e-12)


@pytest.mark.parametrize("rho", [(0.5, 0.5), (2.0, 0.3), (math.inf, 1.0), (1.0, math.inf)])
def test_relaxed_marginals(xp, dtype, clouds, masses, rho):
    x, y = (v.astype(dtype) for v in clouds)
    a, b = masses[0] * 1.5, masses[1] * 0.7
    given = {"a": xp.asarray(a), "b": xp.asarray(b), "unbalanced": rho, "eps": 1.0}
    res = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), tol=TOL[dtype], **given)
    check(res, xp, dtype, ref.cost_of(x, y), a, b, 1.0, rho)
    if all(map(math.isfinite, rho)) and dtype == "float64":
        mass = res.plan().sum()
        want = rho[0] * a.sum() + rho[1] * b.sum() + a.sum() * b.sum()
        assert res.dual_value == pytest.approx(want - (sum(rho) + 1.0) * float(mass), rel=1e-9)


def test_one_number_relaxes_both_and_infinity_none(clouds):
    x, y = clouds
    one = mk.sinkhorn_points(x, y, eps=1.0, unbalanced=0.7)
    two = mk.sinkhorn_points(x, y, eps=1.0, unbalanced=(0.7, 0.7))
    assert one.dual_value == two.dual_value and one.plan().sum() < 0.9
    exact = mk.sinkhorn_points(x, y, eps=1.0, unbalanced=math.inf)
    assert exact.dual_value == mk.sinkhorn_points(x, y, eps=1.0).dual_value


@pytest.mark.parametrize(
    "sigma, eps, shift, want",
    [((1, 0.5), 0.5, 0.7, 1.1943770041), ((1, 1), 0.3, 0.3, None)],
)
def test_gaussians(sigma, eps, shift, want):
    """On grids that integrate smooth functions to rounding; the value of the first is published."""
    nodes = np.linspace(-7, 7, 90)[:, None]
    weights = np.exp(-0.5 * nodes[:, 0] ** 2)
    weights /= weights.sum()
    x, y = sigma[0] * nodes, sigma[1] * nodes + shift
    res = mk.sinkhorn_points(x, y, a=weights, b=weights, eps=eps, tol=1e-9)
    exact = ref.gaussian_value(0, sigma[0] ** 2, shift, sigma[1] ** 2, eps)
    assert want is None or exact == pytest.approx(want, abs=1e-10)
    assert res.dual_value == pytest.approx(exact, abs=1e-7)


def test_small_eps_is_between_assignment_and_its_entropy():
    rng = np.random.default_rng(3)
    cost = rng.random((20, 20))
    best = cost[linear_sum_assignment(cost)].mean()
    for eps in (0.2, 0.05):
        res = mk.sinkhorn(None, None, cost, eps=eps, tol=1e-8)
        assert 0 <= res.cost - best <= eps * math.log(20)
        assert res.dual_value - eps * math.log(20) <= best <= res.dual_value + 1e-9
    x = np.arange(12.0)[:, None] * [1.0, 2.0]
    order = rng.permutation(12)
    y = x[order] + 0.01 * rng.standard_normal((12, 2))
    plan = mk.sinkhorn_points(x, y, eps=0.2).plan()
    assert (order[plan.argmax(1)] == np.arange(12)).all()


def test_large_eps_is_the_product(clouds, masses):
    a, b = masses
    mean = a @ ref.cost_of(*clouds) @ b
    for eps, limit in ((1e4, 1e-3), (1e8, 1e-7)):
        res = mk.sinkhorn_points(*clouds, a=a, b=b, eps=eps)
        assert np.abs(res.plan() - np.outer(a, b)).sum() < limit and res.converged
        assert res.dual_value == pytest.approx(mean, rel=limit)
    assert mk.sinkhorn_points(*clouds, a=a, b=b, rel_eps=0.5).eps == pytest.approx(0.5 * mean)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_invariances(clouds, masses, p):
    (x, y), (a, b) = clouds, masses
    rng = np.random.default_rng(4)
    turn, move = np.linalg.qr(rng.standard_normal((3, 3)))[0], 30 * rng.standard_normal(3)
    options = {"p": p, "eps": 2.0, "tol": 1e-11}

    def solved(x, y, a, b, **changes):
        return mk.sinkhorn_points(x, y, a=a, b=b, **(options | changes))

    base = solved(x, y, a, b)
    plan, value = base.plan(), base.dual_value
    order = rng.permutation(31)
    for other, want, factor in (
        (solved(x + move, y + move, a, b), plan, 1),
        (solved(x @ turn, y @ turn, a, b), plan, 1),
        (solved(y, x, b, a), plan.T, 1),
        (solved(x[order], y, a[order], b), plan[order], 1),
        (solved(3 * x, 3 * y, a, b, eps=2.0 * 3**p), plan, 3**p),
    ):
        np.testing.assert_allclose(other.plan(), want, atol=1e-10)
        assert other.dual_value == pytest.approx(factor * value, rel=1e-9)
    if p == 2:
        t = np.array([1.0, -2.0, 0.5])
        moved = solved(x + t, y, a, b)
        np.testing.assert_allclose(moved.plan(), plan, atol=1e-10)
        assert moved.dual_value == pytest.approx(value + t @ t + 2 * t @ (a @ x - b @ y), rel=1e-9)
    # A cost that is known up to functions of the rows and of the columns.
    u, v = rng.standard_normal(31), rng.standard_normal(24)
    cost = ref.cost_of(x, y, p)
    res = mk.sinkhorn(a, b, cost + u[:, None] + v, eps=2.0, tol=1e-11)
    np.testing.assert_allclose(res.plan(), plan, atol=1e-10)
    gauge = 0.5 * (a @ u - b @ v)
    np.testing.assert_allclose(res.f, base.f + u - gauge, atol=1e-8)
    np.testing.assert_allclose(res.g, base.g + v + gauge, atol=1e-8)


def test_zero_weights_and_duplicates(xp, clouds, masses):
    (x, y), (a, b) = clouds, masses
    base = mk.sinkhorn_points(x, y, a=a, b=b, eps=1.0, tol=1e-12)
    more_x, more_y = np.vstack([x, 5 * x[:2]]), np.vstack([y[:1], y, [[9.0, 9.0, 9.0]]])
    more_a = np.append(a, [0.0, 0.0])
    more_b = np.concatenate([[b[0] / 2], [b[0] / 2], b[1:], [0.0]])
    res = mk.sinkhorn_points(
        *map(xp.asarray, (more_x, more_y)), a=xp.asarray(more_a), b=xp.asarray(more_b), eps=1.0, tol=1e-12
    )  # fmt: skip
    plan = xp.to_numpy(res.plan())
    assert (plan[31:] == 0).all() and (plan[:, -1] == 0).all()
    np.testing.assert_allclose(plan[:31, 0] + plan[:31, 1], base.plan()[:, 0], atol=1e-12)
    np.testing.assert_allclose(plan[:31, 2:-1], base.plan()[:, 1:], atol=1e-12)
    assert res.dual_value == pytest.approx(base.dual_value, rel=1e-10)
    f, g = xp.to_numpy(res.f), xp.to_numpy(res.g)
    np.testing.assert_allclose(f[:31], base.f, atol=1e-9)
    # Without weight: the soft c-transform of the other potential.
    cost = ref.cost_of(more_x, more_y)
    want = -logsumexp(g - cost, b=more_b, axis=1)
    np.testing.assert_allclose(f - f[0], want - want[0], atol=1e-9)
    np.testing.assert_allclose(f[31:], base.potential_at(more_x[31:]), atol=1e-9)
    assert np.isfinite(g).all()
    arrived = xp.to_numpy(res.barycentric_map())
    np.testing.assert_allclose(arrived[31:], base.transport_map(more_x[31:]), atol=1e-9)


SIZES = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(1, 3), st.sampled_from([1, 2, 2.5]), st.booleans(), st.integers(0, 2**32 - 1))  # fmt: skip
def test_any_shape(n, m, d, p, weighted, seed):
    """Integers: coincident points and weights of 0."""
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 3, (k, d)).astype(float) for k in (n, m))
    a, b = (rng.integers(0, 3, k) + (np.arange(k) == 0) for k in (n, m)) if weighted else (np.ones(n), np.ones(m))  # fmt: skip
    res = mk.sinkhorn_points(x, y, p=p, a=a, b=b, eps=2.0, normalize=True, tol=1e-10)
    u, v = a / a.sum(), b / b.sum()
    _, _, plan = ref.solve(ref.cost_of(x, y, p), u, v, 2.0)
    np.testing.assert_allclose(res.plan(), plan, atol=1e-9)
    np.testing.assert_allclose(res.apply(y), plan @ y, atol=1e-8)
    assert abs(res.gap) < 1e-8 and np.isfinite(res.f).all() and np.isfinite(res.g).all()
    assert np.isfinite(res.barycentric_map()).all() and np.isfinite(res.grad_x()).all()
    assert u @ res.f == pytest.approx(v @ res.g, abs=1e-9)


def test_single_points(xp, dtype):
    x, y = xp.asarray(np.array([[1.0]], dtype)), xp.asarray(np.array([[0.0], [3.0]], dtype))
    res = mk.sinkhorn_points(x, y, eps=0.1)
    assert res.n_iter <= 2 and res.cost == pytest.approx(2.5, rel=1e-5) and res.gap == pytest.approx(0, abs=1e-5)  # fmt: skip
    np.testing.assert_allclose(xp.to_numpy(res.plan()), [[0.5, 0.5]], rtol=1e-5)
    np.testing.assert_allclose(xp.to_numpy(res.barycentric_map()), [[1.5]], rtol=1e-6)


def test_float32_off_centre():
    """Costs are of differences: clouds far from the origin keep the digits that their coordinates have."""
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((80, 3)) + 1000, rng.standard_normal((90, 3)) + 1000.5
    x, y = x.astype("float32"), y.astype("float32")
    single = mk.sinkhorn_points(x, y, rel_eps=0.05, tol=1e-5)
    double = mk.sinkhorn_points(x.astype(float), y.astype(float), eps=single.eps, tol=1e-8)
    assert single.dual_value == pytest.approx(double.dual_value, rel=1e-5)
    assert single.cost == pytest.approx(double.cost, rel=1e-4)


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_loops(xp, dtype):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((3, 20, 2)).astype(dtype), rng.standard_normal((3, 15, 2)).astype(dtype)  # fmt: skip
    a = rng.random((3, 20)) + 0.1
    a /= a.sum(1, keepdims=True)
    eps = np.array([1.0, 0.5, 2.0])
    res = mk.sinkhorn_points(*map(xp.asarray, (x, y)), a=xp.asarray(a), eps=eps, tol=TOL[dtype])
    assert xp.is_array(res.cost) and xp.dtype(res.cost) == dtype and tuple(res.cost.shape) == (3,)
    assert type(res.converged) is np.ndarray and res.converged.all() and res.n_iter.shape == (3,)
    v = rng.standard_normal((3, 15, 2)).astype(dtype)
    w = rng.standard_normal((3, 20)).astype(dtype)
    new = rng.standard_normal((3, 4, 2)).astype(dtype)
    batch = {
        name: xp.to_numpy(value)
        for name, value in {
            "f": res.f, "g": res.g, "plan": res.plan(), "round": res.round(), "x": res.grad_x(), "y": res.grad_y(),
            "a": res.grad_a(), "b": res.grad_b(), "map": res.barycentric_map(), "apply": res.apply(xp.asarray(v)),
            "transpose": res.apply_transpose(xp.asarray(w)), "new": res.transport_map(xp.asarray(new)),
            "cost": res.cost, "dual": res.dual_value,
        }.items()
    }  # fmt: skip
    i, j = (xp.to_numpy(s) for s in res.sample(50, seed=3))
    assert i.shape == j.shape == (3, 50) and i.max() < 20 and j.max() < 15
    for k in range(3):
        one = mk.sinkhorn_points(x[k], y[k], a=a[k], eps=eps[k], tol=TOL[dtype])
        assert one.n_iter == res.n_iter[k] and one.marginal_error == pytest.approx(res.marginal_error[k], rel=1e-3)  # fmt: skip
        single = {
            "f": one.f, "g": one.g, "plan": one.plan(), "round": one.round(), "x": one.grad_x(), "y": one.grad_y(),
            "a": one.grad_a(), "b": one.grad_b(), "map": one.barycentric_map(), "apply": one.apply(v[k]),
            "transpose": one.apply_transpose(w[k]), "new": one.transport_map(new[k]),
            "cost": one.cost, "dual": one.dual_value,
        }  # fmt: skip
        for name, value in single.items():
            np.testing.assert_allclose(batch[name][k], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_one_cost_for_a_batch(clouds, masses):
    cost = ref.cost_of(*clouds)
    rng = np.random.default_rng(7)
    a = rng.dirichlet(np.ones(31), 4)
    b = rng.dirichlet(np.ones(24), 4)
    both = mk.sinkhorn(a, b, cost, eps=1.0)
    mixed = mk.sinkhorn(a, masses[1], cost, eps=1.0)
    strengths = mk.sinkhorn(masses[0], None, cost, eps=[0.5, 1.0, 2.0])
    assert both.f.shape == (4, 31) and mixed.g.shape == (4, 24) and strengths.cost.shape == (3,)
    for k in range(4):
        one = mk.sinkhorn(a[k], b[k], cost, eps=1.0)
        np.testing.assert_allclose(both.f[k], one.f, rtol=1e-10, atol=1e-10)
        assert mixed.dual_value[k] == pytest.approx(mk.sinkhorn(a[k], masses[1], cost, eps=1.0).dual_value)  # fmt: skip
    assert strengths.dual_value[2] == pytest.approx(mk.sinkhorn(masses[0], None, cost, eps=2.0).dual_value)  # fmt: skip
    stacked = mk.sinkhorn(a, b, np.stack([cost] * 4), eps=1.0)
    np.testing.assert_allclose(stacked.f, both.f, rtol=1e-12, atol=1e-12)


def test_a_batch_shares_a_cloud(xp):
    x, y = np.random.default_rng(8).standard_normal((2, 3, 10, 2))
    shared = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y[0]), eps=1.0)
    full = mk.sinkhorn_points(xp.asarray(x), xp.asarray(np.stack([y[0]] * 3)), eps=1.0)
    np.testing.assert_array_equal(xp.to_numpy(shared.f), xp.to_numpy(full.f))
    assert tuple(shared.grad_y().shape) == (3, 10, 2)


# ---- results --------------------------------------------------------------------------------------------------------


def test_products_and_maps(xp, dtype, clouds, masses):
    (x, y), (a, b) = clouds, masses
    x, y = x.astype(dtype), y.astype(dtype)
    res = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), eps=0.7, a=xp.asarray(a), b=xp.asarray(b), tol=1e-4)  # fmt: skip
    plan = xp.to_numpy(res.plan()).astype(float)
    rng = np.random.default_rng(9)
    limit = {"float32": 2e-6, "float64": 1e-14}[dtype]

    def close(got, want):
        assert xp.is_array(got) and xp.dtype(got) == dtype
        np.testing.assert_allclose(xp.to_numpy(got), want, atol=limit * np.abs(want).max(), rtol=10 * limit)  # fmt: skip

    for shape in ((), (1,), (5,)):
        v, u = rng.standard_normal((24, *shape)).astype(dtype), rng.standard_normal((31, *shape)).astype(dtype)  # fmt: skip
        close(res.apply(xp.asarray(v)), plan @ v)
        close(res.apply_transpose(xp.asarray(u)), plan.T @ u)
        rows = plan.sum(1)
        close(res.barycentric_map(xp.asarray(v)), ((plan @ v).T / rows).T)
    close(res.barycentric_map(), plan @ y / plan.sum(1)[:, None])
    assert res.apply(xp.asarray(np.ones((24, 0), dtype))).shape == (31, 0)
    # Out of the sample: a softmax.
    new = rng.standard_normal((6, 3)).astype(dtype)
    g = xp.to_numpy(res.g).astype(float)
    z = np.log(b) + (g - ref.cost_of(new, y)) / 0.7
    soft = np.exp(z - logsumexp(z, axis=1, keepdims=True))
    limit = {"float32": 2e-5, "float64": 1e-13}[dtype]
    close(res.transport_map(xp.asarray(new)), soft @ y)
    close(res.transport_map(xp.asarray(new), xp.asarray(g.astype(dtype))), soft @ g)
    close(res.potential_at(xp.asarray(new)), -0.7 * logsumexp(z, axis=1))
    z = np.log(a)[:, None] + (xp.to_numpy(res.f).astype(float)[:, None] - ref.cost_of(x, new)) / 0.7
    close(res.potential_at(xp.asarray(new), of="y"), -0.7 * logsumexp(z, axis=0))
    # Constants stay what they are, however far from the optimum.
    rough = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), eps=0.7, tol=10.0)
    close(rough.barycentric_map(xp.asarray(np.full(24, 3.0, dtype))), np.full(31, 3.0))


def test_maps_of_relaxed_problems(clouds):
    x, y = clouds
    res = mk.sinkhorn_points(x, y, eps=0.7, unbalanced=(1.0, 2.0), tol=1e-11)
    np.testing.assert_allclose(res.transport_map(x), res.barycentric_map(), atol=1e-9)
    np.testing.assert_allclose(res.potential_at(x), res.f, atol=1e-9)
    np.testing.assert_allclose(res.potential_at(y, of="y"), res.g, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("rho", [None, 0.8, (math.inf, 0.5)])
def test_gradients_are_central_differences(clouds, masses, p, rho):
    (x, y), (a, b) = clouds, masses
    x, y, a, b = x[:7], y[:6], a[:7] / a[:7].sum(), b[:6] / b[:6].sum()
    options = {"p": p, "eps": 8.0 if p == 3 else 0.8, "tol": 1e-12, "unbalanced": rho}

    def value(x=x, y=y, a=a, b=b):
        return mk.sinkhorn_points(x, y, a=a, b=b, **options).dual_value

    res = mk.sinkhorn_points(x, y, a=a, b=b, **options)
    rng, h = np.random.default_rng(10), 1e-5
    for grad, name, at in ((res.grad_x(), "x", x), (res.grad_y(), "y", y), (res.grad_a(), "a", a), (res.grad_b(), "b", b)):  # fmt: skip
        way = rng.standard_normal(at.shape)
        if name in "ab" and rho is None:
            way -= way.mean()  # the sum stays 1
        if name in "ab":
            way *= at.min()
        slope = (value(**{name: at + h * way}) - value(**{name: at - h * way})) / (2 * h)
        assert (grad * way).sum() == pytest.approx(slope, rel=1e-7, abs=1e-8), name
    if rho is None:
        assert a @ res.grad_a() == pytest.approx(0, abs=1e-12)
        np.testing.assert_array_equal(res.grad_cost(), res.plan())


def test_gradient_of_squares(clouds, masses):
    (x, y), (a, b) = clouds, masses
    res = mk.sinkhorn_points(x, y, a=a, b=b, eps=1.0, tol=1e-12)
    np.testing.assert_allclose(res.grad_x(), 2 * (a[:, None] * x - res.apply(y)), atol=1e-11)
    same = mk.sinkhorn_points(x, x, p=1, eps=0.1)
    assert np.isfinite(same.grad_x()).all()


def test_rounding_is_feasible(xp, dtype, clouds, masses):
    (x, y), (a, b) = clouds, masses
    b = np.append(b[:-1] / b[:-1].sum(), 0.0)
    given = {"a": xp.asarray(a), "b": xp.asarray(b)}
    res = mk.sinkhorn_points(*(xp.asarray(v.astype(dtype)) for v in (x, y)), eps=0.3, tol=0.3, **given)  # fmt: skip
    assert res.marginal_error > 1e-3
    plan, exact = xp.to_numpy(res.plan()).astype(float), xp.to_numpy(res.round()).astype(float)
    limit = {"float32": 1e-6, "float64": 1e-15}[dtype]
    assert np.abs(exact.sum(1) - a).sum() < limit and np.abs(exact.sum(0) - b).sum() < limit
    assert exact.min() >= 0 and np.abs(exact - plan).sum() <= 2 * res.marginal_error


def test_rounding_goes_by_blocks(xp, monkeypatch):
    """The same numbers, and of a batch too; interrupts are seen between blocks."""
    rng = np.random.default_rng(3)
    x, y = (xp.asarray(rng.standard_normal((3, n, 2)).astype(np.float32)) for n in (31, 24))
    res = mk.sinkhorn_points(x, y, eps=0.3, tol=0.3)
    whole = xp.to_numpy(res.round())
    monkeypatch.setattr(_result, "_BLOCK", 100)
    np.testing.assert_array_equal(xp.to_numpy(res.round()), whole)
    seen, plan = [], type(res._problem).plan
    monkeypatch.setattr(
        type(res._problem), "plan", lambda *args: seen.append(args[-1]) or plan(*args)
    )
    res.round()
    assert len(seen) == 3 * 8 and max(rows.stop - rows.start for rows in seen) == 4


def test_rounding_holds_one_plan(monkeypatch):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 700, 2))
    res = mk.sinkhorn_points(x, y, eps=0.3, tol=0.3)
    monkeypatch.setattr(_result, "_BLOCK", 1 << 14)
    res.round()
    tracemalloc.start()
    try:
        size = res.round().nbytes
        assert tracemalloc.get_traced_memory()[1] < 1.4 * size
    finally:
        tracemalloc.stop()


def test_samples_follow_the_plan(xp):
    """Chi-square over cells of at least 5 expected draws; the seed is fixed, and 1 in 10^7 seeds would fail."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(11)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((5, 2))
    a = np.array([0.1, 0.3, 0.0, 0.2, 0.2, 0.2])
    res = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), a=xp.asarray(a), eps=2.0)
    n = 50_000
    i, j = res.sample(n, seed=5)
    assert xp.is_array(i) and xp.dtype(i) == xp.dtype(j) == "int64"
    counts = np.zeros((6, 5))
    np.add.at(counts, (xp.to_numpy(i), xp.to_numpy(j)), 1)
    expected = n * xp.to_numpy(res.plan())
    assert counts[2].sum() == 0
    kept = expected >= 5
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert stats.chi2.sf(statistic, kept.sum() - 1) > 1e-7
    again = res.sample(n, seed=5)
    assert (xp.to_numpy(again[0]) == xp.to_numpy(i)).all() and (xp.to_numpy(again[1]) == xp.to_numpy(j)).all()  # fmt: skip
    other = xp.to_numpy(res.sample(n, seed=6)[1])
    assert (other != xp.to_numpy(j)).any()
    assert xp.to_numpy(res.sample(0)[0]).shape == (0,)


def test_samples_in_blocks(monkeypatch, clouds):
    x, y = clouds
    res = mk.sinkhorn_points(x, y, eps=1.0)
    whole = res.sample(200, seed=1)
    monkeypatch.setattr(_draws, "_BLOCK", 100)
    for got, want in zip(res.sample(200, seed=1), whole, strict=True):
        np.testing.assert_array_equal(got, want)


def test_plans_that_do_not_fit_are_refused(monkeypatch, clouds):
    res = mk.sinkhorn_points(*clouds, eps=1.0)
    monkeypatch.setattr(_result, "_memory", lambda: 5000.0)
    for call in (res.plan, res.round, res.grad_cost):
        with pytest.raises(MemoryError, match="1 x 31 x 24 numbers need"):
            call()
    assert res.barycentric_map().shape == (31, 3) and len(res.sample(3)[0]) == 3


def test_repr_is_short(clouds):
    text = repr(mk.sinkhorn_points(*clouds, eps=1.0))
    assert text.startswith("SinkhornResult(n=31, m=24, eps=1, ") and len(text) < 160
    many = repr(mk.sinkhorn_points(clouds[0][None], clouds[1][None], eps=1.0))
    assert "batch=1" in many and len(many) < 160


def test_inputs_are_not_changed(clouds, masses):
    before = [v.copy() for v in (*clouds, *masses)]
    res = mk.sinkhorn_points(*clouds, a=masses[0], b=masses[1], eps=1.0, normalize=True)
    res.f[:] = 0
    assert np.abs(res.f).max() > 0
    for got, want in zip((*clouds, *masses), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_same_bits_again(clouds):
    threads = mk.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            mk.set_num_threads(count)
            found.append(mk.sinkhorn_points(*clouds, eps=0.5).f.tobytes())
    finally:
        mk.set_num_threads(threads)
    assert found[0] == found[1]


# ---- starts ---------------------------------------------------------------------------------------------------------


def test_starts(xp, dtype, clouds, masses):
    x, y = (xp.asarray(v.astype(dtype)) for v in clouds)
    a, b = (xp.asarray(v) for v in masses)
    options = {"a": a, "b": b, "eps": 0.5, "tol": 1e-4}
    cold = mk.sinkhorn_points(x, y, **options)
    assert cold.n_iter > 2
    seen = []

    def predict(*given):
        seen.extend(given)
        return cold.g

    for init in (cold, (cold.f, cold.g), [cold.f, cold.g], cold.g, cold.f, predict):
        warm = mk.sinkhorn_points(x, y, init=init, **options)
        assert warm.n_iter <= 1 and warm.cost == pytest.approx(cold.cost, rel=1e-4)
    assert all(map(xp.is_array, seen)) and {xp.dtype(v) for v in seen} == {dtype}
    np.testing.assert_allclose(xp.to_numpy(seen[2]), masses[0], rtol=1e-6)
    for init in ("gaussian", "epsscale", xp.asarray(np.random.default_rng(0).standard_normal(24))):
        other = mk.sinkhorn_points(x, y, init=init, **options)
        assert other.cost == pytest.approx(cold.cost, rel=1e-3)
    cost = xp.asarray(ref.cost_of(*clouds).astype(dtype))
    for init in (cold, cold.f, lambda x, y, a, b: cold.g if x is None and y is None else None):
        assert mk.sinkhorn(a, b, cost, eps=0.5, tol=1e-4, init=init).n_iter <= 1
    if dtype == "float64":
        relaxed = {"unbalanced": 2.0, "tol": 1e-6}
        first = mk.sinkhorn_points(x, y, **(options | relaxed))
        for init in (first, first.f, first.g):
            assert mk.sinkhorn_points(x, y, init=init, **(options | relaxed)).n_iter <= 2


def test_a_batch_of_starts(clouds):
    x, y = (np.stack([v, v + 1]) for v in clouds)
    cold = mk.sinkhorn_points(x, y, eps=0.5)
    one = mk.sinkhorn_points(x[0], y[0], eps=0.5)
    for init in (cold, cold.g, cold.f, one, one.g):
        assert (mk.sinkhorn_points(x, y, eps=0.5, init=init).n_iter <= 1).all()


def test_the_gaussian_start_is_exact_for_gaussians():
    nodes = np.linspace(-6, 6, 60)[:, None]
    w = np.exp(-0.5 * nodes[:, 0] ** 2)
    w /= w.sum()
    x, y = nodes, 0.5 * nodes + 3
    assert mk.sinkhorn_points(x, y, a=w, b=w, eps=0.5, init="gaussian").n_iter <= 1
    assert mk.sinkhorn_points(x, y, a=w, b=w, eps=0.5).n_iter > 5
    # Flat clouds have no inverse covariance.
    flat = np.hstack([x, np.ones_like(x)]), np.hstack([y, np.zeros_like(y)])
    assert mk.sinkhorn_points(*flat, a=w, b=w, eps=0.5, init="gaussian").n_iter <= 1
    rng = np.random.default_rng(12)
    spread = (
        rng.standard_normal((60, 3)) @ rng.standard_normal((3, 3)),
        rng.standard_normal((70, 3)),
    )
    counts = [mk.sinkhorn_points(*spread, rel_eps=0.05, tol=1e-2, init=i).n_iter for i in (None, "gaussian")]  # fmt: skip
    assert counts[1] < counts[0]


# ---- peers ----------------------------------------------------------------------------------------------------------


def test_pot(clouds, masses):
    ot = pytest.importorskip("ot")
    cost, (a, b) = ref.cost_of(*clouds), masses
    res = mk.sinkhorn(a, b, cost, eps=0.8, tol=1e-11)
    plan, log = ot.sinkhorn(a, b, cost, 0.8, stopThr=1e-12, numItermax=20_000, log=True)
    np.testing.assert_allclose(res.plan(), plan, atol=1e-10)
    # u = a exp(f / eps), v = b exp(g / eps), up to a factor
    ratio = log["u"] / (a * np.exp(res.f / 0.8))
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-8)
    relaxed = mk.sinkhorn(a, 2 * b, cost, eps=0.8, unbalanced=1.5, tol=1e-12).plan()
    want = ot.unbalanced.sinkhorn_unbalanced(
        a, 2 * b, cost, 0.8, 1.5, reg_type="kl", c=np.outer(a, 2 * b), stopThr=1e-14, numItermax=20_000
    )  # fmt: skip
    np.testing.assert_allclose(relaxed, want, atol=1e-9)


@pytest.mark.slow  # compiles
def test_ott(clouds, masses):
    pytest.importorskip("ott")
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    from ott.geometry import geometry
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    cost, (a, b) = ref.cost_of(*clouds), masses
    res = mk.sinkhorn(a, b, cost, eps=0.8, tol=1e-11)
    geom = geometry.Geometry(cost_matrix=jax.numpy.asarray(cost), epsilon=0.8)
    problem = linear_problem.LinearProblem(geom, a=jax.numpy.asarray(a), b=jax.numpy.asarray(b))
    out = sinkhorn.Sinkhorn(threshold=1e-11, max_iterations=20_000)(problem)
    np.testing.assert_allclose(res.plan(), out.matrix, atol=1e-10)
    shift = np.asarray(out.f) - (res.f + 0.8 * np.log(a))
    np.testing.assert_allclose(shift, shift[0], atol=1e-8)


# ---- warnings and errors --------------------------------------------------------------------------------------------


def test_what_did_not_converge_says_so(clouds):
    x, y = clouds
    with pytest.warns(mk.ConvergenceWarning, match=r"^sinkhorn_points: tol=1e-09 not met after 3 iterations, .* is \d") as found:  # fmt: skip
        res = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-9, max_iter=3, method="scaling")
    assert found[0].filename == __file__ and "\n" not in str(found[0].message)
    assert res.converged is False and res.n_iter == 3 and 1e-9 < res.marginal_error < 1
    plan = res.plan()
    a, b = np.full(31, 1 / 31), np.full(24, 1 / 24)
    exact = np.abs(plan.sum(1) - a).sum() + np.abs(plan.sum(0) - b).sum()
    assert res.marginal_error == pytest.approx(exact, rel=1e-9) and np.isfinite(plan).all()
    best = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-10)
    assert res.dual_value < best.dual_value + 1e-12
    with pytest.warns(mk.ConvergenceWarning, match="^sinkhorn: .* in 1 of 2 problems"):
        batch = mk.sinkhorn(None, None, ref.cost_of(x, y), eps=[0.5, 1e5], tol=1e-9, max_iter=3, method="scaling")  # fmt: skip
    assert batch.converged.tolist() == [False, True]


NAN, INF = math.nan, math.inf
X, Y = np.zeros((3, 2)), np.ones((4, 2))
A, B, C = np.full(3, 1 / 3), np.full(4, 0.25), np.ones((3, 4))


def changed(v, index, value):
    v = np.array(v, float)
    v[index] = value
    return v


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"x": changed(X, (1, 0), NAN)}, ValueError, r"x: expected finite values, got 1 NaN or infinite, first at index \(1, 0\)"),
        ({"y": changed(Y, (0, 1), INF)}, ValueError, "y: expected finite values"),
        ({"x": X * 0 + 1e200}, ValueError, "x: expected numbers whose distances to the power 2 fit into float64"),
        ({"x": X[:0]}, ValueError, "x: expected at least 1 point, got 0"),
        ({"y": Y[:0]}, ValueError, "y: expected at least 1 point, got 0"),
        ({"x": X[0]}, ValueError, r"x: expected shape \(n, d\) or \(batch, n, d\), d >= 1, got \(2,\)"),
        ({"x": X[:, :0]}, ValueError, "x: expected shape"),
        ({"x": np.zeros((0, 3, 2))}, ValueError, "x: expected at least 1 problem"),
        ({"y": np.ones((4, 3))}, ValueError, r"y: expected shape \(m, 2\) to match x \(3, 2\), got \(4, 3\)"),
        ({"y": np.ones((2, 4, 2))}, ValueError, "y: expected shape"),
        ({"y": Y.astype("float32")}, TypeError, "y: expected float64 to match x"),
        ({"x": X.astype(complex)}, TypeError, "x: expected float32 or float64, got complex128"),
        ({"p": 0}, ValueError, "p: expected a positive number, got 0.0"),
        ({"p": NAN}, ValueError, "p: expected a finite number"),
        ({"p": "2"}, TypeError, "p: expected a number"),
        ({"eps": 0}, ValueError, "eps: expected a positive number, got 0.0"),
        ({"eps": -1.0}, ValueError, "eps: expected a positive number, got -1.0"),
        ({"eps": NAN}, ValueError, "eps: expected a finite number, got nan"),
        ({"eps": 1e-300}, ValueError, "eps: expected at least 1e-290 with float64, got 1e-300"),
        ({"eps": None}, TypeError, "eps: expected either eps or rel_eps, got neither"),
        ({"rel_eps": 0.1}, TypeError, "eps: expected either eps or rel_eps, got both"),
        ({"eps": None, "rel_eps": -0.1}, ValueError, "rel_eps: expected a positive number"),
        ({"eps": None, "rel_eps": 0.1, "y": X[:2]}, ValueError, "rel_eps: expected a positive mean cost, got 0; give eps"),
        ({"eps": [1.0, 2.0]}, TypeError, "eps: expected a number, got list"),
        ({"a": changed(A, 0, NAN)}, ValueError, "a: expected finite values"),
        ({"b": changed(B, 0, INF)}, ValueError, "b: expected finite values"),
        ({"a": [-0.5, 1.0, 0.5]}, ValueError, "a: expected weights >= 0, got -0.5"),
        ({"a": np.zeros(3)}, ValueError, "a: expected weights of a positive, finite sum, got 0.0"),
        ({"b": np.full(4, 1e308)}, ValueError, "b: expected weights of a positive, finite sum, got inf"),
        ({"a": np.ones(3)}, ValueError, "a: expected weights that sum to 1, or normalize=True, or unbalanced=rho, got a sum of 3"),
        ({"b": B * (1 + 2e-6)}, ValueError, "b: expected weights that sum to 1, .*, got a sum of 1.000002"),
        ({"b": (B * 1.0002).astype("float32")}, ValueError, "b: expected weights that sum to 1"),
        ({"a": B}, ValueError, r"a: expected shape \(3,\) to match x \(3, 2\), got \(4,\)"),
        ({"b": B[None]}, ValueError, r"b: expected shape \(4,\)"),
        ({"a": ["a", "b", "c"]}, TypeError, "a: expected float32 or float64 to match x|a: expected"),
        ({"a": np.ones(3), "unbalanced": 1.0, "b": -B}, ValueError, "b: expected weights >= 0"),
        ({"unbalanced": 0}, ValueError, "unbalanced: expected a positive number, got 0.0"),
        ({"unbalanced": (1.0, NAN)}, ValueError, "unbalanced: expected a finite number, got nan"),
        ({"unbalanced": (1.0,)}, ValueError, r"unbalanced: expected a number or a pair \(rho_a, rho_b\), got 1 numbers"),
        ({"unbalanced": -INF}, ValueError, "unbalanced: expected a finite number, got -inf"),
        ({"unbalanced": 1.0, "method": "newton"}, ValueError, "method: expected 'auto', 'scaling' or 'log' with unbalanced, got 'newton'"),
        ({"method": "fast"}, ValueError, "method: expected one of 'auto', 'scaling', 'log', 'newton', got 'fast'"),
        ({"tol": -1e-6}, ValueError, "tol: expected a number >= 0"),
        ({"tol": NAN}, ValueError, "tol: expected a finite number"),
        ({"max_iter": 0}, ValueError, "max_iter: expected an integer of at least 1"),
        ({"max_iter": 10.5}, TypeError, "max_iter: expected an integer, got float"),
        ({"acceleration": "fast"}, ValueError, "acceleration: expected one of 'anderson', 'relaxation', got 'fast'"),
        ({"acceleration": 2.0}, ValueError, r"acceleration: expected 'anderson', 'relaxation', None or a number in \(0, 2\), got 2.0"),
        ({"eps_scaling": 1}, TypeError, "eps_scaling: expected True or False, got 1"),
        ({"normalize": "yes"}, TypeError, "normalize: expected True or False, got 'yes'"),
        ({"device": "gpu"}, ValueError, "device: expected 'cpu', 'cuda' or 'cuda:<index>', got 'gpu'"),
        ({"init": "warm"}, ValueError, "init: expected potentials, a result, a function, 'gaussian' or 'epsscale', got 'warm'"),
        ({"init": "gaussian", "p": 1}, ValueError, "init: expected points and p=2 with 'gaussian'"),
        ({"init": np.zeros(5)}, ValueError, r"init: expected a potential of shape \(4,\) or \(3,\), got \(5,\)"),
        ({"init": (np.zeros(4), np.zeros(3))}, ValueError, r"init: expected a potential of shape \(3,\), got \(4,\)"),
        ({"init": changed(B, 0, NAN)}, ValueError, "init: expected finite potentials"),
        ({"init": lambda x, y, a, b: a}, ValueError, r"init: expected a potential of shape \(4,\), got \(3,\)"),
        ({"init": {}}, TypeError, "init: expected potentials, got dict"),
    ],
)  # fmt: skip
def test_arguments_of_points(given, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        mk.sinkhorn_points(**({"x": X, "y": Y, "eps": 1.0} | given))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"cost": changed(C, (1, 2), NAN)}, ValueError, r"cost: expected numbers or \+inf, got 1 NaN, first at index \(1, 2\)"),
        ({"cost": changed(C, (1, 2), -INF)}, ValueError, r"cost: expected numbers or \+inf, got 1 -inf, first at index \(1, 2\)"),
        ({"cost": changed(C, 1, INF)}, ValueError, r"cost: expected a finite entry for every row with weight, got \+inf alone in row 1$"),
        ({"cost": changed(C, (slice(None), 3), INF)}, ValueError, r"cost: expected a finite entry for every column with weight, got \+inf alone in column 3$"),
        ({"cost": changed(C, (0, slice(1, None)), INF), "b": [0.0, 0.4, 0.3, 0.3]}, ValueError, "cost: expected a finite entry for every row"),
        ({"cost": changed(np.ones((2, 3, 4)), (1, 2), INF)}, ValueError, "cost: .* got .inf alone in row 2 of problem 1"),
        ({"cost": C[:0]}, ValueError, "cost: expected at least 1 row and 1 column"),
        ({"cost": C[0]}, ValueError, r"cost: expected shape \(n, m\) or \(batch, n, m\), got \(4,\)"),
        ({"cost": "C"}, TypeError, "cost: expected float32 or float64"),
        ({"a": B}, ValueError, r"a: expected shape \(3,\) to match cost \(3, 4\), got \(4,\)"),
        ({"a": np.tile(A, (2, 1)), "b": np.tile(B, (3, 1))}, ValueError, r"b: expected shape \(2, 4\)"),
        ({"a": np.tile(A, (0, 1))}, ValueError, "a: expected at least 1 problem"),
        ({"a": np.tile(A, (2, 1)), "eps": [1.0, 2.0, 3.0]}, ValueError, r"eps: expected shape \(2,\), got \(3,\)"),
        ({"eps": [1.0, 0.0]}, ValueError, "eps: expected positive numbers, got 0.0"),
        ({"eps": [1.0, NAN]}, ValueError, "eps: expected finite values"),
        ({"init": "gaussian"}, ValueError, "init: expected points and p=2"),
        ({"cost": -C, "eps": None, "rel_eps": 0.1}, ValueError, "rel_eps: expected a positive mean cost, got -1; give eps"),
    ],
)  # fmt: skip
def test_arguments_of_costs(given, error, message):
    with pytest.raises(error, match=f"^{message}") as caught:
        mk.sinkhorn(**({"a": A, "b": B, "cost": C, "eps": 1.0} | given))
    assert "\n" not in str(caught.value)


def test_a_row_without_weight_may_be_forbidden():
    res = mk.sinkhorn([0.5, 0.5, 0.0], B, changed(C, 2, INF), eps=1.0)
    assert res.converged and np.isfinite(res.f[:2]).all() and np.isfinite(res.dual_value)


def test_arguments_of_results(clouds):
    x, y = clouds
    res, of_cost = mk.sinkhorn_points(x, y, eps=1.0), mk.sinkhorn(None, None, ref.cost_of(x, y), eps=1.0)  # fmt: skip
    for call, error, message in (
        (lambda: res.apply(np.ones(31)), ValueError, r"v: expected shape \(24,\) to match x \(31, 3\), got \(31,\)"),
        (lambda: res.apply(np.ones((31, 2))), ValueError, r"v: expected shape \(24, k\)"),
        (lambda: of_cost.apply_transpose(np.ones(24)), ValueError, r"u: expected shape \(31,\) to match cost"),
        (lambda: res.apply(np.full(24, NAN)), ValueError, "v: expected finite values"),
        (lambda: res.apply(np.ones(24, "float32")), TypeError, "v: expected float64 to match x"),
        (lambda: res.barycentric_map(np.ones(3)), ValueError, "values: expected shape"),
        (lambda: of_cost.barycentric_map(), TypeError, "values: expected an array with a cost, got None"),
        (lambda: of_cost.grad_x(), TypeError, "grad_x: expected the result of sinkhorn_points, got that of a cost"),
        (lambda: of_cost.grad_y(), TypeError, "grad_y: expected the result of sinkhorn_points"),
        (lambda: of_cost.transport_map(x), TypeError, "x_new: expected the result of sinkhorn_points"),
        (lambda: of_cost.potential_at(x), TypeError, "points: expected the result of sinkhorn_points"),
        (lambda: res.potential_at(x, of="z"), ValueError, "of: expected one of 'x', 'y', got 'z'"),
        (lambda: res.transport_map(x[:, :2]), ValueError, r"x_new: expected shape \(k, 3\)"),
        (lambda: res.transport_map(x * NAN), ValueError, "x_new: expected finite values"),
        (lambda: res.sample(-1), ValueError, "n: expected an integer of at least 0"),
        (lambda: res.sample(3, seed=-1), ValueError, "seed: expected an integer"),
        (lambda: mk.sinkhorn_points(x, y, eps=1.0, unbalanced=1.0).round(), ValueError, "round: expected marginals"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"^{message}"):
            call()
    assert of_cost.barycentric_map(y).shape == (31, 3) and isinstance(of_cost, SinkhornResult)


def test_frameworks_are_not_mixed(clouds):
    torch = pytest.importorskip("torch")
    x, y = clouds
    t = torch.tensor(x)
    with pytest.raises(TypeError, match="^y: expected a torch array to match x, got numpy"):
        mk.sinkhorn_points(t, y, eps=1.0)
    with pytest.raises(TypeError, match="^a: expected a torch array to match x, got numpy"):
        mk.sinkhorn_points(t, t, eps=1.0, a=np.full(31, 1 / 31))
    with pytest.raises(ValueError, match="^x: the tensor requires grad"):
        mk.sinkhorn_points(t.requires_grad_(), t, eps=1.0)


def test_weights_may_be_rounded(clouds):
    x, y = clouds
    a, b = np.full(31, 1 / 31, "float32"), np.full(24, 1 / 24, "float32") * np.float32(1.00005)
    res = mk.sinkhorn_points(x, y, a=a, b=b, eps=1.0, tol=1e-10)
    assert res.plan().sum() == pytest.approx(1, abs=1e-9)
    a, b = np.arange(1.0, 32.0), np.arange(1, 25)
    res = mk.sinkhorn_points(x, y, a=a, b=b, eps=1.0, normalize=True)
    np.testing.assert_allclose(res.plan().sum(0), b / b.sum(), atol=1e-6)


def test_nothing_is_warned_of(clouds):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = np.append(np.full(30, 1 / 30), 0.0)
        res = mk.sinkhorn_points(*clouds, a=a, eps=1.0)
        res.barycentric_map(), res.round(), res.sample(5), res.grad_a(), repr(res)
        mk.sinkhorn_points(*clouds, a=a, eps=1.0, unbalanced=1.0).grad_a()


@pytest.mark.skipif(cuda_status()[0] == "available", reason="there is a GPU")
def test_without_a_gpu(clouds):
    with pytest.raises(mk.DeviceError):
        mk.sinkhorn_points(*clouds, eps=1.0, device="cuda")
    with pytest.raises(mk.DeviceError):
        mk.sinkhorn(None, None, ref.cost_of(*clouds), eps=1.0, device="cuda")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("constant", [1e5, 1e10, 1e14, -1e300])
def test_a_constant_in_a_start_is_taken_out(dtype, constant):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 2)), rng.normal(size=(80, 2)) + 0.3
    ref = mk.sinkhorn_points(x, y, eps=0.05)
    x, y = x.astype(dtype), y.astype(dtype)
    for init in (ref.g + constant, ref.f + constant, (ref.f, ref.g + constant)):
        res = mk.sinkhorn_points(x, y, eps=0.05, init=init)
        assert res.converged and res.marginal_error <= 1e-6
        assert res.dual_value == pytest.approx(ref.dual_value, rel=1e-4)
        assert abs(res.f).max() < 100
        if abs(constant) == 1e5 and dtype == "float64":
            assert res.n_iter <= 20
    one = mk.sinkhorn_points(x, y, eps=0.05, tol=1e-5, unbalanced=(1.0, np.inf), init=ref.g + 5.0)
    cold = mk.sinkhorn_points(x, y, eps=0.05, tol=1e-5, unbalanced=(1.0, np.inf))
    assert one.converged and one.dual_value == pytest.approx(cold.dual_value, rel=1e-4)


def test_a_start_of_impossible_size_is_named():
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(ValueError, match="init: expected potentials that are not much larger"):
        mk.sinkhorn_points(x, x + 1, eps=0.05, init=1e18 * x[:, 0])


def test_relaxation_by_the_contraction_seen(clouds):
    options = {"rel_eps": 0.02, "tol": 1e-9, "method": "scaling"}
    res = mk.sinkhorn_points(*clouds, acceleration="relaxation", **options)
    plain = mk.sinkhorn_points(*clouds, acceleration=None, **options)
    assert res.converged and res.n_iter < plain.n_iter
    assert res.dual_value == pytest.approx(plain.dual_value, rel=1e-9)
    with pytest.raises(ValueError, match=r"acceleration: expected .*'relaxation', None"):
        mk.sinkhorn_points(*clouds, acceleration=2.0, **options)


def test_an_eps_beyond_reciprocals_is_refused_everywhere():
    x = np.random.default_rng(0).normal(size=(8, 2))
    cost = ((x[:, None] - x) ** 2).sum(-1)
    wide = np.random.default_rng(0).normal(size=(8, 12))
    for call in (
        lambda: mk.sinkhorn_points(x, x, eps=1e-320),
        lambda: mk.flows.SinkhornFlow(x, eps=1e-320),
        lambda: mk.transport.couple(x, x + 1, eps=1e-320),
        lambda: mk.transport.couple(wide, wide + 1, eps=1e-320),
        lambda: mk.transport.chain_sinkhorn([None, np.full(8, 1 / 8)], [cost], eps=1e-320),
        lambda: mk.transport.chain_sinkhorn_points([x, x], eps=1e-320),
        lambda: mk.transport.barycenter([x, x + 1], x, eps=1e-320),
    ):
        with pytest.raises(ValueError, match="eps: expected at least 1e-290 with float64"):
            call()


def test_a_batch_of_met_and_relaxed_marginals(clouds):
    x, y = clouds
    xs, ys = np.stack([x, x, x]), np.stack([y, y, y])
    a = np.full((3, len(x)), 1 / len(x)) * [[2.0], [1.0], [1.0]]
    rho = np.array([1.0, np.inf, 0.5])
    options = {"eps": 0.5, "tol": 1e-8}
    res = mk.sinkhorn_points(xs, ys, a=a, unbalanced=rho, **options)
    for k in range(3):
        one = mk.sinkhorn_points(x, y, a=a[k], unbalanced=float(rho[k]), **options)
        assert res.converged[k] and one.converged
        np.testing.assert_allclose(res.f[k], one.f, atol=1e-6)
        np.testing.assert_allclose(res.plan()[k], one.plan(), atol=1e-9)
        np.testing.assert_allclose(res.grad_a()[k], one.grad_a(), atol=1e-6)
        assert res.dual_value[k] == pytest.approx(one.dual_value, rel=1e-9)
    value = mk.sinkhorn_divergence(xs[1:], ys[1:], unbalanced=rho[1:], **options)
    assert value[0] == pytest.approx(mk.sinkhorn_divergence(x, y, **options), rel=1e-6)
    with pytest.raises(ValueError, match="a: expected weights that sum to 1"):
        mk.sinkhorn_points(xs, ys, a=a[[1, 0, 2]], unbalanced=rho, **options)
    with pytest.raises(ValueError, match="unbalanced: expected positive numbers, got NaN"):
        mk.sinkhorn_points(xs, ys, unbalanced=np.array([1.0, np.nan, 1.0]), **options)
