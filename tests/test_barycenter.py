"""Barycentres: Gaussians in closed form, published values, POT, brute force, and what they refuse."""

import numpy as np
import pytest
from scipy.optimize import brentq

import mckean as mk
from mckean.transport import barycenter, barycenter_of_costs, free_barycenter


def normal(seed, *shape, dtype="float64"):
    return mk.random.normal(seed, shape, dtype=dtype)


def bumps(grid, means, stds):
    a = np.exp(-0.5 * ((grid - np.array(means)[:, None]) / np.array(stds)[:, None]) ** 2)
    return a / a.sum(1, keepdims=True)


def width(q, grid):
    return np.sqrt(q @ (grid - q @ grid) ** 2)


def gaussian_variance(variances, share, eps, debiased):
    """Where the derivative of the objective in the variance of a Gaussian barycentre on the line vanishes."""
    s, A = eps / 2, np.array(variances)

    def slope(B):
        pull = share @ (2 * A / (np.sqrt(4 * A * B + s * s) + s))
        own = 2 * B / (np.sqrt(4 * B * B + s * s) + s) if debiased else 1 - s / B
        return pull - own

    return brentq(slope, 0.51 * s, 10 * max(max(variances), s), xtol=1e-14)


def brute_force(a, cost, share, eps, own=None, n_iter=2000):
    """Iterative Bregman projections on full kernels."""
    K, ones = [np.exp(-c / eps) for c in cost], np.ones(cost[0].shape[1])
    v, d = [ones] * len(a), ones
    for _ in range(n_iter):
        sums = [k.T @ (p / (k @ u)) for p, k, u in zip(a, K, v, strict=True)]
        q = d * np.exp(sum(w * np.log(t) for w, t in zip(share, sums, strict=True)))
        v = [q / t for t in sums]
        if own is not None:
            d = np.sqrt(d * q / (np.exp(-own / eps) @ d))
    return q


@pytest.mark.parametrize("debiased", [False, True])
def test_gaussians_on_a_fine_grid(debiased):
    grid, share, eps = np.linspace(0, 1, 240), np.array([0.3, 0.7]), 2e-3
    a = bumps(grid, [0.45, 0.55], [0.05, 0.08])
    res = barycenter(
        grid[:, None], grid[:, None], eps=eps, masses=a, weights=share, debiased=debiased
    )
    assert res.converged and res.marginal_error <= 1e-6
    assert res.weights @ grid == pytest.approx(share @ [0.45, 0.55], abs=1e-6)
    expected = np.sqrt(gaussian_variance([0.05**2, 0.08**2], share, eps, debiased))
    assert width(res.weights, grid) == pytest.approx(expected, rel=2e-5)


def test_published_widths():
    """A specification's example: 0.07215 with the blur, 0.06485 without, 0.065 the exact barycentre."""
    grid = np.linspace(0, 1, 200)
    a = bumps(grid, [0.25, 0.75], [0.05, 0.08])
    for debiased, expected in ((False, 0.07215), (True, 0.06485)):
        res = barycenter(
            grid[:, None], grid[:, None], eps=2e-3, masses=a, debiased=debiased, tol=1e-5
        )
        assert width(res.weights, grid) == pytest.approx(expected, abs=6e-6)


def test_same_as_pot():
    ot = pytest.importorskip("ot")
    grid = np.linspace(0, 1, 60)
    a = bumps(grid, [0.2, 0.5, 0.7], [0.05, 0.1, 0.07])
    cost, share = (grid[:, None] - grid) ** 2, np.array([0.2, 0.5, 0.3])
    theirs = ot.bregman.barycenter(a.T, cost, 0.01, share, method="sinkhorn_log", stopThr=1e-12)
    ours = barycenter_of_costs(a, cost, eps=0.01, weights=share, tol=1e-10)
    np.testing.assert_allclose(ours.weights, theirs / theirs.sum(), rtol=0, atol=1e-9)
    theirs = ot.bregman.barycenter_debiased(
        a.T, cost, 0.01, share, method="sinkhorn_log", stopThr=1e-8, numItermax=1000, warn=False
    )
    ours = barycenter_of_costs(a, cost, eps=0.01, weights=share, tol=1e-6, debiased=True)
    np.testing.assert_allclose(ours.weights, theirs / theirs.sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_clouds_of_different_sizes(xp, dtype, p):
    clouds = [normal(k, n, 2) + k for k, n in enumerate((7, 5, 7))]
    masses = [mk.random.uniform(k, len(c)) + 0.1 for k, c in enumerate(clouds)]
    masses = [m / m.sum() for m in masses]
    s, share, eps = 2 * normal(9, 12, 2) + 1, np.array([0.5, 0.2, 0.3]), 1.0
    clouds, s = [c.astype(dtype) for c in clouds], s.astype(dtype)

    def distance(u, v):
        return (((u[:, None] - v).astype("float64") ** 2).sum(-1)) ** (p / 2)

    expected = brute_force(masses, [distance(c, s) for c in clouds], share, eps)
    res = barycenter(
        [xp.asarray(c) for c in clouds],
        xp.asarray(s),
        eps=eps,
        p=p,
        masses=[xp.asarray(m.astype(dtype)) for m in masses],
        weights=xp.asarray(share.astype(dtype)),
        tol=1e-5 if dtype == "float32" else 1e-9,
    )
    q = xp.to_numpy(res.weights)
    assert xp.dtype(res.weights) == dtype
    assert q.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(q, expected, rtol=0, atol=1e-4 if dtype == "float32" else 1e-7)
    for k, cloud in enumerate(clouds):
        plan = xp.to_numpy(res.plan(k))
        np.testing.assert_allclose(plan.sum(0), q, rtol=0, atol=2e-6)
        np.testing.assert_allclose(plan.sum(1), masses[k], rtol=0, atol=2e-5)
        f, g = xp.to_numpy(res.f[k]), xp.to_numpy(res.g)[k]
        whole = masses[k][:, None] * q * np.exp((f[:, None] + g - distance(cloud, s)) / eps)
        np.testing.assert_allclose(whole, plan, rtol=0, atol=1e-5)
        means = plan.T @ cloud / plan.sum(0)[:, None]
        np.testing.assert_allclose(xp.to_numpy(res.barycentric_map(k)), means, rtol=2e-4, atol=2e-4)
    if dtype == "float64":
        dual = share @ xp.to_numpy(res.g) + eps * np.log(q)
        assert np.ptp(dual) < 1e-6


def test_debiased_grids_of_different_sizes(xp, dtype):
    grids = [np.linspace(0, 1, n)[:, None] for n in (30, 40)]
    masses = [bumps(g[:, 0], [mean], [0.1])[0] for g, mean in zip(grids, (0.4, 0.6), strict=True)]
    s, share, eps = np.linspace(0, 1, 35)[:, None], np.array([0.3, 0.7]), 0.01
    expected = brute_force(masses, [(g - s.T) ** 2 for g in grids], share, eps, (s - s.T) ** 2)
    res = barycenter(
        [xp.asarray(g.astype(dtype)) for g in grids],
        xp.asarray(s.astype(dtype)),
        eps=eps,
        masses=[xp.asarray(m.astype(dtype)) for m in masses],
        weights=xp.asarray(share.astype(dtype)),
        debiased=True,
        tol=1e-5,
    )
    np.testing.assert_allclose(xp.to_numpy(res.weights), expected, rtol=0, atol=2e-5)


def test_cost_is_that_of_the_plans():
    clouds, s = [normal(1, 6, 2), normal(2, 4, 2)], normal(3, 5, 2)
    res = barycenter(clouds, s, eps=1.0, weights=[0.25, 0.75])
    total = sum(
        w * (res.plan(k) * ((c[:, None] - s) ** 2).sum(-1)).sum()
        for k, (w, c) in enumerate(zip([0.25, 0.75], clouds, strict=True))
    )
    assert res.cost == pytest.approx(total, rel=1e-12)


def test_an_array_of_clouds_is_a_list_of_them():
    clouds, s = normal(1, 3, 8, 2), normal(2, 6, 2)
    one, other = (barycenter(c, s, eps=0.5) for c in (clouds, list(clouds)))
    np.testing.assert_array_equal(one.weights, other.weights)
    shared = barycenter(clouds[0], s, eps=0.5, masses=np.full((3, 8), 1 / 8))
    alone = barycenter(clouds[:1], s, eps=0.5)
    np.testing.assert_allclose(shared.weights, alone.weights, atol=1e-6)


def test_points_and_clouds_without_weight():
    clouds, s = [normal(1, 6, 2), normal(2, 4, 2)], normal(3, 5, 2)
    masses = [np.array([0.5, 0, 0, 0.25, 0, 0.25]), np.full(4, 0.25)]
    full = barycenter(clouds, s, eps=1.0, masses=masses, tol=1e-10)
    kept = barycenter(
        [clouds[0][[0, 3, 5]], clouds[1]], s, eps=1.0, masses=[masses[0][[0, 3, 5]], masses[1]], tol=1e-10
    )  # fmt: skip
    np.testing.assert_allclose(full.weights, kept.weights, atol=1e-9)
    assert all(np.isfinite(f).all() for f in full.f)
    one = barycenter(clouds, s, eps=1.0, weights=[1.0, 0.0], tol=1e-10)
    np.testing.assert_allclose(
        one.weights, barycenter(clouds[:1], s, eps=1.0, tol=1e-10).weights, atol=1e-9
    )


def test_small_eps_neither_underflows_nor_stops():
    """At eps = 1e-4 times the cost the kernel itself is zero in float64 for most pairs."""
    grid = np.linspace(0, 1, 20)
    a = np.eye(20)[[2, 12]]
    res = barycenter(grid[:, None], grid[:, None], eps=1e-4, masses=a)
    np.testing.assert_allclose(res.weights, np.eye(20)[7], atol=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_free_support_is_stationary(debiased):
    """At the end the gradient of the objective in the points vanishes."""
    clouds = [
        normal(1, 30, 2),
        normal(2, 25, 2) * 0.5 + [3, 0],
        normal(3, 30, 2) + np.array([0, 3]),
    ]
    share = np.array([0.5, 0.25, 0.25])
    res = free_barycenter(
        clouds, normal(4, 20, 2), eps=0.5, weights=share, debiased=debiased, move_tol=1e-4, max_steps=500
    )  # fmt: skip
    assert res.converged and res.move <= 1e-4
    gradient = 0.0
    for w, y in zip(share, clouds, strict=True):
        solved = mk.sinkhorn_points(res.x, y, eps=0.5, tol=1e-9)
        gradient = gradient + w * solved.grad_x()
        if debiased:
            own = mk.sinkhorn_points(res.x, res.x, eps=0.5, tol=1e-6, method="log")
            gradient = gradient - w * own.grad_x()
    assert 20 * abs(gradient).max() < 5e-3
    np.testing.assert_allclose(res.x.mean(0), sum(w * y.mean(0) for w, y in zip(share, clouds, strict=True)), atol=1e-3)  # fmt: skip


def test_free_support_of_shifted_clouds():
    """Of shifted copies the debiased barycentre is the copy in the middle."""
    y = normal(1, 25, 2)
    res = free_barycenter(
        [y, y + np.array([4.0, 0.0])], y + 0.1 * normal(2, 25, 2) + [1, 0], eps=0.3, debiased=True, move_tol=1e-5, max_steps=1000
    )  # fmt: skip
    assert mk.sinkhorn_divergence(res.x, y + np.array([2.0, 0.0]), eps=0.3, tol=1e-9) < 1e-4


def test_free_support_in_every_framework(xp, dtype):
    clouds = [normal(1, 9, 2, dtype=dtype), normal(2, 7, 2, dtype=dtype) + 2]
    x0 = normal(3, 5, 2, dtype=dtype)
    res = free_barycenter([xp.asarray(c) for c in clouds], xp.asarray(x0), eps=0.5, tol=1e-5)
    assert xp.dtype(res.x) == dtype and xp.dtype(res.weights) == dtype
    np.testing.assert_allclose(
        xp.to_numpy(res.x),
        free_barycenter([c.astype("float64") for c in clouds], x0.astype("float64"), eps=0.5).x,
        atol=2e-3,
    )


def test_missing_iterations_are_said():
    clouds, s = [normal(1, 6, 2), normal(2, 4, 2)], normal(3, 5, 2)
    with pytest.warns(mk.ConvergenceWarning, match="barycenter: tol=1e-12 not met after 2"):
        res = barycenter(clouds, s, eps=0.2, max_iter=2, tol=1e-12)
    assert not res.converged and res.n_iter == 2 and res.marginal_error > 1e-12
    with pytest.warns(mk.ConvergenceWarning, match="free_barycenter: move_tol"):
        free = free_barycenter(clouds, s, eps=0.2, max_steps=1, move_tol=0)
    assert not free.converged and free.n_steps == 1


S = np.zeros((3, 2))
Y = [np.zeros((4, 2)), np.ones((5, 2))]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: barycenter(Y, S, eps=0.0), ValueError, "eps: expected a positive"),
        (lambda: barycenter([], S, eps=1.0), ValueError, "clouds: expected at least 1"),
        (lambda: barycenter(3.0, S, eps=1.0), TypeError, "clouds: expected a sequence"),
        (lambda: barycenter(Y[0], S, eps=1.0), ValueError, "masses: expected an array"),
        (lambda: barycenter([Y[0][:, :1]], S, eps=1.0), ValueError, r"clouds\[0\]: expected shape"),
        (lambda: barycenter([Y[0] * np.nan], S, eps=1.0), ValueError, r"clouds\[0\]: expected finite"),
        (lambda: barycenter(Y, S[:0], eps=1.0), ValueError, "support: expected at least 1 point"),
        (lambda: barycenter(Y, S, eps=1.0, weights=[0.5, 0.6]), ValueError, "weights: expected weights that sum"),
        (lambda: barycenter(Y, S, eps=1.0, weights=[-0.5, 1.5]), ValueError, "weights: expected weights >= 0"),
        (lambda: barycenter(Y, S, eps=1.0, weights=[1.0]), ValueError, "weights: expected shape"),
        (lambda: barycenter(Y, S, eps=1.0, masses=[np.ones(4) / 4]), ValueError, "masses: expected 2 rows"),
        (lambda: barycenter(Y, S, eps=1.0, masses=[np.ones(4), np.ones(5) / 5]), ValueError, r"masses\[0\]: expected"),
        (lambda: barycenter(Y, S, eps=1.0, debiased=1), TypeError, "debiased: expected True or False"),
        (lambda: barycenter(Y, S, eps=1.0, max_iter=0), ValueError, "max_iter"),
        (lambda: barycenter(Y, S, eps=1.0).plan(2), ValueError, "k: expected the number"),
        (lambda: barycenter_of_costs(np.eye(3), np.ones((2, 3)), eps=1.0), ValueError, "masses: expected shape"),
        (lambda: barycenter_of_costs(np.eye(3), np.ones((3, 2)), eps=1.0, debiased=True), ValueError, "support_cost"),
        (lambda: barycenter_of_costs(np.eye(2), np.triu(np.ones((2, 2))), eps=1.0, debiased=True), ValueError, "symm"),
        (lambda: barycenter_of_costs(np.eye(2), np.ones((2, 2)), eps=1.0).barycentric_map(0), TypeError, "costs"),
        (lambda: free_barycenter(Y, S, eps=1.0, max_steps=0), ValueError, "max_steps"),
        (lambda: free_barycenter(Y, S, eps=1.0, start_weights=[1, 1, 1.0]), ValueError, "start_weights"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()
