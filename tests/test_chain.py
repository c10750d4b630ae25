"""Chains of transport problems, against the full tensor."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.transport import chain_sinkhorn, chain_sinkhorn_points

LETTERS = "abcdefgh"


def problem(sizes, seed=0):
    g = np.random.default_rng(seed)
    marginals = [g.random(n) + 0.1 for n in sizes]
    return [m / m.sum() for m in marginals], [g.random(s) for s in itertools.pairwise(sizes)]


def kernel(costs, eps):
    """exp(-(c_01 + c_12 + ...) / eps) as a tensor."""
    total = 0.0
    for k, c in enumerate(costs):
        shape = [1] * (len(costs) + 1)
        shape[k : k + 2] = c.shape
        total = total + c.reshape(shape)
    return np.exp(-total / eps)


def along(p, k):
    return p.sum(tuple(i for i in range(p.ndim) if i != k))


def tensor(marginals, costs, eps, sweeps=3000):
    """Iterated projections of the whole tensor."""
    p = kernel(costs, eps)
    for _ in range(sweeps):
        for k, m in enumerate(marginals):
            if m is not None:
                shape = [1] * p.ndim
                shape[k] = -1
                p = p * (m / along(p, k)).reshape(shape)
    return p


def pair(p, k):
    return p.sum(tuple(i for i in range(p.ndim) if i not in (k, k + 1)))


@pytest.mark.parametrize(
    "sizes, free",
    [
        ((4, 5, 3), ()),
        ((4, 5, 3), (1,)),
        ((4, 5, 3), (0,)),
        ((4, 5, 3), (2,)),
        ((4, 5, 3), (0, 2)),
        ((4, 5, 3), (0, 1)),
        ((3, 4, 2, 5), (1, 2)),
        ((3, 4, 2, 5), (0, 2)),
        ((3, 4, 2, 5), (3,)),
        ((3, 4), (1,)),
        ((3, 4), ()),
        ((1, 3, 1), (1,)),
    ],
)
def test_equals_the_tensor(sizes, free):
    marginals, costs = problem(sizes)
    marginals = [None if k in free else m for k, m in enumerate(marginals)]
    res = chain_sinkhorn(marginals, costs, eps=0.3, tol=1e-11)
    p = tensor(marginals, costs, 0.3)
    assert res.converged and res.marginal_error < 1e-10
    for k, coupling in enumerate(res.couplings):
        assert np.allclose(coupling.plan(), pair(p, k), atol=1e-9)
    for k, m in enumerate(res.marginals):
        assert np.allclose(m, along(p, k), atol=1e-9)
    c = sum((pair(p, k) * c).sum() for k, c in enumerate(costs))
    assert res.cost == pytest.approx(c, abs=1e-8)


@pytest.mark.parametrize("free", [(), (1,), (2,), (0, 3)])
def test_potentials_make_the_tensor(free):
    marginals, costs = problem((3, 4, 2, 3), seed=2)
    marginals = [None if k in free else m for k, m in enumerate(marginals)]
    res = chain_sinkhorn(marginals, costs, eps=0.25, tol=1e-11)
    p = kernel(costs, 0.25)
    for k, (m, f) in enumerate(zip(marginals, res.potentials, strict=True)):
        assert (f is None) == (m is None)
        if m is not None:
            shape = [1] * p.ndim
            shape[k] = -1
            p = p * (np.exp(f / 0.25) * m).reshape(shape)
    assert np.allclose(p, tensor(marginals, costs, 0.25), atol=1e-9)


def test_constrained_nodes_glue():
    """T = P_01 P_12 / mu_1, the pairs being ordinary problems."""
    marginals, costs = problem((6, 5, 7), seed=4)
    res = chain_sinkhorn(marginals, costs, eps=0.1, tol=1e-10)
    plans = [
        mk.sinkhorn(marginals[k], marginals[k + 1], costs[k], eps=0.1, tol=1e-10).plan()
        for k in range(2)
    ]
    for coupling, plan in zip(res.couplings, plans, strict=True):
        assert np.allclose(coupling.plan(), plan, atol=1e-9)
    p = tensor(marginals, costs, 0.1)
    glued = np.einsum("ij,jk->ijk", plans[0] / marginals[1], plans[1])
    assert np.allclose(p, glued, atol=1e-8)
    v = np.random.default_rng(0).random((7, 2))
    mean = np.einsum("ijk,kq->iq", p, v) / marginals[0][:, None]
    assert np.allclose(res.conditional_mean(v, at=2, given=0), mean, atol=1e-8)
    w = v[:6, 0].copy()
    back = np.einsum("ijk,i->k", p, w) / marginals[2]
    assert np.allclose(res.conditional_mean(w, at=0, given=2), back, atol=1e-8)
    assert np.allclose(res.conditional_mean(w, at=0, given=0), w)


def test_points_equal_their_costs(xp, dtype):
    g = np.random.default_rng(3)
    clouds = [g.standard_normal((n, 2)).astype(dtype) for n in (8, 5, 9)]
    free = [np.full(8, 1 / 8, dtype), None, np.full(9, 1 / 9, dtype)]
    costs = [
        (((x[:, None] - y) ** 2).sum(-1) ** 0.75).astype(dtype)
        for x, y in itertools.pairwise(clouds)
    ]
    tol = 1e-8 if dtype == "float64" else 1e-4
    res = chain_sinkhorn_points(
        [xp.asarray(c) for c in clouds],
        [None if f is None else xp.asarray(f) for f in free],
        eps=0.3,
        p=1.5,
        tol=tol,
    )
    known = chain_sinkhorn(free, costs, eps=0.3, tol=tol)
    assert xp.dtype(res.marginals[1]) == dtype
    assert np.allclose(xp.to_numpy(res.marginals[1]), known.marginals[1], atol=10 * tol)
    assert np.allclose(
        xp.to_numpy(res.couplings[0].plan()), known.couplings[0].plan(), atol=10 * tol
    )
    mean = res.conditional_mean(xp.asarray(clouds[2]), at=2, given=0)
    assert np.allclose(
        xp.to_numpy(mean), known.conditional_mean(clouds[2], at=2, given=0), atol=100 * tol
    )
    assert xp.to_numpy(res.sample(4)).shape == (4, 3)


def test_free_middle_of_gaussians_is_halfway():
    """Without noise of its own the middle node of |x-y|^2 + |y-z|^2 lies halfway between x and z."""
    grid = np.linspace(-2, 4, 301)
    at = np.array([0.0]), np.array([2.0])
    one = np.ones(1)
    costs = [(at[0][:, None] - grid) ** 2, (grid[:, None] - at[1]) ** 2]
    res = chain_sinkhorn([one, None, one], costs, eps=0.2)
    m = res.marginals[1]
    # exp(-(x^2 + (2 - x)^2) / eps): a normal law of mean 1 and variance eps / 4
    assert m @ grid == pytest.approx(1.0, abs=1e-9)
    assert m @ (grid - 1) ** 2 == pytest.approx(0.05, rel=1e-6)


def test_sampled_paths_follow_the_plan():
    """Counts of 20 000 draws; a deviation of six standard deviations in any of 24 cells has a chance below 1e-7."""
    marginals, costs = problem((3, 4, 2), seed=5)
    res = chain_sinkhorn(marginals, costs, eps=0.2, tol=1e-10)
    n = 20_000
    index = res.sample(n, seed=3)
    counts = np.zeros((3, 4, 2))
    np.add.at(counts, tuple(index.T), 1)
    p = tensor(marginals, costs, 0.2)
    assert (abs(counts - n * p) < 6 * np.sqrt(n * p)).all()
    assert (abs(np.bincount(index[:, 0], minlength=3) - n * marginals[0]) <= 2).all()  # stratified
    assert (res.sample(n, seed=3) == index).all()
    assert (res.sample(100, seed=4) != index[:100]).any()


def test_zero_weights_and_forbidden_pairs():
    a, b = np.array([0.5, 0.0, 0.5]), np.array([0.5, 0.5, 0.0])
    cost = np.array([[0.0, np.inf, 1.0], [1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    res = chain_sinkhorn([a, None, b], [cost, cost.T], eps=0.5, tol=1e-10)
    assert res.converged
    plan = res.couplings[0].plan()
    assert np.isfinite(plan).all() and plan[0, 1] == 0 and (plan[1] == 0).all()
    assert np.isfinite(res.conditional_mean(np.arange(3.0), at=2, given=0)).all()
    assert np.isfinite(np.concatenate([res.potentials[0], res.potentials[2]])).all()
    wall = np.full((3, 3), np.inf)
    wall[1] = 0
    with pytest.raises(ValueError, match="costs: expected a plan to be possible"):
        chain_sinkhorn([a, None, b], [wall, cost], eps=0.5)


THIRD, LIGHT = np.full(3, 1 / 3), np.array([0.0, 0.5, 0.5])
STAY = np.where(np.eye(3) > 0, 0.0, np.inf)
SHUT = np.array([[np.inf, 0.0, 0.0]] * 3)  # nothing arrives at point 0


@pytest.mark.parametrize(
    "marginals, costs, lost",
    [
        ([THIRD, THIRD], [SHUT], "point 0 of node 1"),
        ([THIRD, THIRD], [SHUT.T], "point 0 of node 0"),
        ([LIGHT, THIRD], [STAY], "point 0 of node 1"),  # but from a point without weight
        ([THIRD, THIRD, None], [SHUT, STAY], "point 0 of node 1"),
        ([None, THIRD], [SHUT], "point 0 of node 1"),
        ([THIRD, None], [SHUT.T], "point 0 of node 0"),
        ([LIGHT, None, None, THIRD], [STAY, STAY, STAY], "point 0 of node 3"),
        ([THIRD, None, None], [STAY, SHUT.T], "point 0 of node 0"),
    ],
)
def test_costs_that_forbid_every_plan(marginals, costs, lost, xp):
    given = [None if m is None else xp.asarray(m.astype(np.float32)) for m in marginals]
    costs = [xp.asarray(c.astype(np.float32)) for c in costs]
    with pytest.raises(ValueError, match=f"costs: expected a plan to be possible, .*{lost}$"):
        chain_sinkhorn(given, costs, eps=1.0)


def test_a_way_is_enough():
    res = chain_sinkhorn([LIGHT, None, LIGHT], [SHUT, STAY], eps=1.0)
    np.testing.assert_allclose(res.marginals[1], LIGHT, atol=1e-6)
    assert res.converged and np.isfinite(res.cost)


def test_not_converged_is_said():
    marginals, costs = problem((5, 6, 5))
    marginals[1] = None
    assert chain_sinkhorn(
        [9 * m if m is not None else m for m in marginals], costs, eps=1.0, normalize=True
    ).converged
    with pytest.warns(mk.ConvergenceWarning, match="after 1 iterations") as found:
        res = chain_sinkhorn(marginals, costs, eps=0.01, max_iter=1)
    assert not res.converged and res.marginal_error > 1e-6 and found[0].filename == __file__


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(marginals=[None, None, None]), "marginals: expected at least one"),
        (dict(marginals=[np.ones(2)]), "marginals: expected a sequence of 3"),
        (
            dict(marginals=[np.ones(3), None, None]),
            r"marginals\[0\]: expected weights that sum to 1",
        ),
        (dict(marginals=[-np.ones(3), None, None]), r"marginals\[0\]: expected weights >= 0"),
        (
            dict(marginals=[np.zeros(3), None, None]),
            r"marginals\[0\]: expected weights of a positive",
        ),
        (dict(marginals=[np.full(3, np.nan), None, None]), r"marginals\[0\]: expected finite"),
        (dict(marginals=[np.ones(4), None, None]), r"marginals\[0\]: expected shape \(3,\)"),
        (dict(costs=[]), "costs: expected a sequence"),
        (dict(costs=[np.zeros((3, 2)), np.zeros((3, 2))]), r"costs\[1\]: expected shape \(2, m\)"),
        (dict(costs=[np.zeros((3, 2)), np.full((2, 2), np.nan)]), r"costs\[1\]: expected numbers"),
        (dict(eps=0.0), "eps: expected a positive"),
        (dict(method="fast"), "method: expected one of"),
    ],
)
def test_wrong_arguments(change, error):
    third = np.full(3, 1 / 3)
    given = dict(marginals=[third, None, None], costs=[np.zeros((3, 2)), np.zeros((2, 2))], eps=1.0)
    given.update(change)
    with pytest.raises((ValueError, TypeError), match=error):
        chain_sinkhorn(given.pop("marginals"), given.pop("costs"), **given)


def test_wrong_points():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"points\[1\]: expected finite"):
        chain_sinkhorn_points([x, x * np.nan], eps=1.0)
    with pytest.raises(ValueError, match=r"points\[1\]: expected shape \(m, 2\)"):
        chain_sinkhorn_points([x, x[:, :1]], eps=1.0)
    with pytest.raises(ValueError, match=r"marginals\[1\]: expected .* points\[0\]"):
        chain_sinkhorn_points([x, x], [None, np.full(2, 0.5)], eps=1.0)
    with pytest.raises(ValueError, match="points: expected a sequence"):
        chain_sinkhorn_points([x], eps=1.0)
    res = chain_sinkhorn_points([x, x + 1], eps=1.0)
    with pytest.raises(ValueError, match="at: expected a node below 2"):
        res.conditional_mean(x, at=2, given=0)
    with pytest.raises(ValueError, match="values: expected 3 rows"):
        res.conditional_mean(x[:2].copy(), at=1, given=0)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    free=st.sets(st.integers(0, 3)),
    seed=st.integers(0, 99),
)
def test_any_shape(sizes, free, seed):
    marginals, costs = problem(sizes, seed)
    kept = seed % len(sizes)
    marginals = [m if k == kept or k not in free else None for k, m in enumerate(marginals)]
    res = chain_sinkhorn(marginals, costs, eps=0.5, tol=1e-9)
    assert res.converged
    for coupling, before, after in zip(
        res.couplings, res.marginals, res.marginals[1:], strict=False
    ):
        assert np.allclose(coupling.plan().sum(1), before, atol=1e-8)
        assert np.allclose(coupling.plan().sum(0), after, atol=1e-8)
