"""Iterations of entropic transport: counts, guards and starts against brute force, published values and POT."""

import functools

import numpy as np
import pytest

from mckean._array import as_input, as_match
from mckean.transport import _solve
from mckean.transport._anderson import History
from mckean.transport._init import gaussian_potential
from mckean.transport._mean_cost import mean_cost
from mckean.transport._problem import LOG_DOMAIN, RECOMPUTED, STORED, Problem
from mckean.transport._scale import Stall, scale
from mckean.transport._solve import Settings, solve
from mckean.transport._start import begin, powers
from mckean.transport._symmetric import solve_symmetric


def of_cost(C, a, b, eps):
    """`a` (batch, n) or (n,)."""
    a, b = np.atleast_2d(a).astype(float), np.atleast_2d(b).astype(float)
    batch = len(a) if np.ndim(C) == 3 or len(a) > 1 else None
    eps = np.broadcast_to(np.asarray(eps, float), (len(a),)).copy()
    return Problem.of_cost(as_input(np.ascontiguousarray(C), "cost"), batch, a, b, eps)


def of_points(x, y, a, b, eps, p=2.0):
    a, b = np.atleast_2d(a).astype(float), np.atleast_2d(b).astype(float)
    at = as_input(np.ascontiguousarray(x), "x")
    other = as_match(np.ascontiguousarray(y), "y", at, "x", shape=y.shape)
    eps = np.broadcast_to(np.asarray(eps, float), (len(a),)).copy()
    return Problem.of_points(at, other, p, a, b, eps)


def uniform(n):
    return np.full(n, 1.0 / n)


def gaussian_clouds(n, d, rel, *, dense=False, dtype="float64"):
    """The clouds of the iteration counts: N(0, I) and N(1/2, I), eps a multiple of the mean cost."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)), rng.standard_normal((n, d)) + 0.5
    C = ((x[:, None] - y) ** 2).sum(-1)
    x, y, eps = x.astype(dtype), y.astype(dtype), rel * C.mean()
    w = uniform(n)
    return of_cost(C.astype(dtype), w, w, eps) if dense else of_points(x, y, w, w, eps)


def plan(problem, s, k=0):
    return np.asarray(problem.plan(s.F, s.G, k), float)


def l1(problem, s):
    rows, cols, _ = problem.marginals(s.F, s.G)
    return abs(rows - problem.a).sum(1) + abs(cols - problem.b).sum(1)


def logsumexp(z, axis):
    top = z.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.squeeze(top, axis) + np.log(np.exp(z - top).sum(axis))


def brute(C, a, b, eps, n_iter, rho=(np.inf, np.inf)):
    """Plain half steps in the log domain."""
    t = [1.0 if np.isinf(r) else r / (r + eps) for r in rho]
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(n_iter):
        f = -t[0] * eps * logsumexp(np.log(b) + (g - C) / eps, 1)
        g = -t[1] * eps * logsumexp((np.log(a) + f / eps)[:, None] - C / eps, 0)
    return np.exp((f[:, None] + g - C) / eps) * a[:, None] * b, f, g


@functools.cache
def clouds():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((40, 2)), rng.standard_normal((55, 2)) + 0.3
    a, b = rng.random(40) + 0.1, rng.random(55) + 0.1
    return x, y, a / a.sum(), b / b.sum(), ((x[:, None] - y) ** 2).sum(-1)


@functools.cache
def exact(eps, masses=(1.0, 1.0), rho=(np.inf, np.inf)):
    """The plan between the small clouds."""
    *_, a, b, C = clouds()
    return brute(C, masses[0] * a, masses[1] * b, eps, 1500, rho)[0]


@pytest.fixture
def small():
    return clouds()


# ---- iteration counts -----------------------------------------------------------------------------------------------

# Counts of a reference with 5 pairs of blocks of 10; this one remembers more and extrapolates more often.
COUNTS = [
    (2, 1e-1, 1e-6, 61),
    (2, 1e-2, 1e-3, 91),
    (2, 1e-2, 1e-6, 190),
    (3, 1e-2, 1e-6, 331),
]


@pytest.mark.parametrize("d, rel, tol, most", COUNTS)
def test_anderson_needs_few_iterations(d, rel, tol, most):
    problem = gaussian_clouds(1000, d, rel, dense=True)
    s = solve(problem, Settings("scaling", tol))
    assert s.converged.all() and s.method == "scaling"
    assert s.n_iter[0] <= most
    assert l1(problem, s)[0] <= tol * (1 + 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "d, rel, tol, most", [(2, 1e-2, 1e-9, 401), (3, 1e-2, 1e-9, 801), (2, 1e-3, 1e-6, 2511)]
)
def test_anderson_needs_few_iterations_to_high_accuracy(d, rel, tol, most):
    s = solve(gaussian_clouds(1000, d, rel, dense=True), Settings("scaling", tol))
    assert s.converged.all() and s.n_iter[0] <= most


def test_plain_iterations_are_many():
    problem = gaussian_clouds(1000, 2, 1e-2, dense=True)
    s = solve(problem, Settings("scaling", 1e-3, acceleration=None))
    assert 265 <= s.n_iter[0] <= 285  # 281 in blocks of 10


def test_over_relaxation_at_the_best_factor():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 2)), rng.standard_normal((55, 2))
    C = ((x[:, None] - y) ** 2).sum(-1)
    problem = of_cost(C / C.max(), uniform(40), uniform(55), 0.005)
    plain = solve(problem, Settings("scaling", 1e-10, acceleration=None, max_iter=50_000))
    P = plan(problem, plain)
    # The contraction is the second singular value, squared, of the plan with unit marginals.
    theta = np.linalg.svd(P / np.sqrt(np.outer(P.sum(1), P.sum(0))), compute_uv=False)[1] ** 2
    best = 2 / (1 + np.sqrt(1 - theta))
    relaxed = solve(problem, Settings("scaling", 1e-10, acceleration=float(best)))
    adaptive = solve(problem, Settings("scaling", 1e-10, acceleration="relaxation"))
    # 1964 against 127 for a contraction of 0.98981: the gain is that of the logarithms.
    expected = np.log(1e-10) / np.log(best - 1)
    assert relaxed.converged.all() and adaptive.converged.all()
    assert relaxed.n_iter[0] < 2 * expected + 40
    assert max(relaxed.n_iter[0], adaptive.n_iter[0]) < plain.n_iter[0] / 3
    for s in (relaxed, adaptive):
        assert l1(problem, s)[0] <= 1.01e-10
        assert abs(plan(problem, s) - P).sum() < 1e-7


@pytest.mark.parametrize("acceleration", [1.999, 1.9, 0.5])
def test_bad_factors_still_converge(small, acceleration):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.2)
    s = solve(problem, Settings("scaling", 1e-4, 5000, acceleration=acceleration))
    assert s.converged.all() and l1(problem, s)[0] <= 1.01e-4


def test_eps_scaling_starts_near():
    problem = gaussian_clouds(1000, 2, 1e-2, dense=True)
    settings = Settings("scaling", 1e-3, acceleration=None)
    cold = solve(problem, settings).n_iter[0]
    warm = solve(problem, Settings("scaling", 1e-3, acceleration=None, eps_scaling=True))
    assert warm.converged.all() and warm.n_iter[0] < 0.7 * cold  # 162 against 281 in a reference


# ---- balanced problems ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scaling", "log"])
@pytest.mark.parametrize("points", [True, False])
@pytest.mark.parametrize("acceleration", ["anderson", "relaxation", None])
def test_plan_is_brute_force(small, method, points, acceleration):
    x, y, a, b, C = small
    problem = of_points(x, y, a, b, 0.2) if points else of_cost(C, a, b, 0.2)
    s = solve(problem, Settings(method, 1e-10, acceleration=acceleration))
    want = exact(0.2)
    assert s.converged.all() and s.method == method
    assert abs(plan(problem, s) - want).sum() < 1e-9
    assert s.error[0] <= 1e-10 and l1(problem, s)[0] <= 1.01e-10
    # Columns are right to rounding.
    assert abs(problem.marginals(s.F, s.G)[1] - b).sum() < 1e-13


@pytest.mark.parametrize("acceleration", ["anderson", "relaxation", 1.5, None])
@pytest.mark.parametrize("max_iter", [1, 2, 3, 20, 21, 22, 26, 27, 33, 47, 61])
def test_iterations_are_counted(small, monkeypatch, acceleration, max_iter):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.01)
    spent = []
    iterate = Problem.iterate

    def counted(self, *args, **kwargs):
        errors, done = iterate(self, *args, **kwargs)
        spent.append(int(done.sum()))
        return errors, done

    monkeypatch.setattr(Problem, "iterate", counted)
    s = solve(problem, Settings("scaling", 1e-14, max_iter, acceleration))
    assert s.n_iter[0] == sum(spent) == max_iter
    assert not s.converged.any()
    np.testing.assert_allclose(s.error, l1(problem, s), rtol=1e-9)
    assert abs(problem.marginals(s.F, s.G)[1] - b).sum() < 1e-12


@pytest.mark.parametrize("acceleration", ["anderson", None, "relaxation", 1.98, 1.999])
def test_dual_value_never_falls(small, acceleration):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.02)
    F, G, _ = begin(problem, None, eps_scaling=False, max_iter=1)
    dual = [(a * F).sum() + (b * G).sum()]
    for steps in (1, 4, 5, 7, 15, 20, 40, 41, 80, 200):
        F1, G1 = F.copy(), G.copy()
        scale(problem, F1, G1, problems=[0], tol=1e-15, max_iter=steps, acceleration=acceleration)
        dual.append((a * F1).sum() + (b * G1).sum())
    if acceleration in ("anderson", None):
        assert (np.diff(dual) > -1e-12 * abs(dual[0])).all()
    # Over-relaxed runs of different lengths do not continue one another: all are above the plain iterations before.
    assert min(dual[5:]) > dual[4] - 1e-12 * abs(dual[0])
    assert dual[-1] > dual[0] + 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("acceleration", ["anderson", "relaxation"])
@pytest.mark.parametrize("points", [True, False])
def test_batch_is_the_loop_bitwise(dtype, acceleration, points):
    rng = np.random.default_rng(5)
    batch, n, m = 7, 33, 47
    x = rng.standard_normal((batch, n, 2)).astype(dtype)
    y = (rng.standard_normal((batch, m, 2)) * rng.uniform(0.5, 2, (batch, 1, 1))).astype(dtype)
    a, b = rng.random((batch, n)), rng.random((batch, m))
    a, b = a / a.sum(1, keepdims=True), b / b.sum(1, keepdims=True)
    a[1] *= 3.0
    b[1] *= 3.0
    eps = np.geomspace(0.01, 2.0, batch)
    C = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    settings = Settings("auto", 1e-5, 300, acceleration)

    def made(k):
        if points:
            return of_points(x[k], y[k], a[k], b[k], eps[k])
        return of_cost(C[k], a[k], b[k], eps[k])

    together = solve(made(slice(None)), settings)
    assert len(set(together.n_iter)) > 3
    for k in range(batch):
        alone = solve(made(slice(k, k + 1)), settings)
        assert alone.n_iter[0] == together.n_iter[k]
        np.testing.assert_array_equal(alone.F[0], together.F[k])
        np.testing.assert_array_equal(alone.G[0], together.G[k])
        assert alone.error[0] == together.error[k]


def test_tolerance_is_relative_to_the_mass(small):
    *_, a, b, C = small
    one = solve(of_cost(C, a, b, 0.1), Settings("scaling", 1e-7))
    problem = of_cost(C, 1e4 * a, 1e4 * b, 0.1)
    many = solve(problem, Settings("scaling", 1e-7))
    assert many.converged.all() and many.n_iter[0] == one.n_iter[0]
    assert l1(problem, many)[0] <= 1.01e-3
    np.testing.assert_allclose(many.error, one.error, rtol=1e-6)


@pytest.mark.parametrize("acceleration", ["anderson", "relaxation", None])
@pytest.mark.parametrize("method", ["log", "scaling"])
def test_points_without_weight_do_not_count(small, acceleration, method):
    x, y, a, b, C = small
    a0, b0 = a.copy(), b.copy()
    a0[[0, 7, 39]], b0[[3, 54]] = 0, 0
    a0, b0 = a0 / a0.sum(), b0 / b0.sum()
    problem = of_points(x, y, a0, b0, 0.2)
    s = solve(problem, Settings(method, 1e-9, acceleration=acceleration, eps_scaling=True))
    ia, ib = a0 > 0, b0 > 0
    assert s.converged.all()
    assert np.isneginf(s.F[0, ~ia]).all() and np.isneginf(s.G[0, ~ib]).all()
    assert np.isfinite(s.F[0, ia]).all() and np.isfinite(s.G[0, ib]).all()
    P = plan(problem, s)
    assert (P[~ia] == 0).all() and (P[:, ~ib] == 0).all()
    want, _, _ = brute(C[np.ix_(ia, ib)], a0[ia], b0[ib], 0.2, 800)
    assert abs(P[np.ix_(ia, ib)] - want).sum() < 1e-7


@pytest.mark.parametrize("n, m", [(1, 1), (1, 5), (6, 1), (2, 2)])
@pytest.mark.parametrize("acceleration", ["anderson", "relaxation", None])
def test_few_points(n, m, acceleration):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    problem = of_points(x, y, uniform(n), uniform(m), 1.0)
    s = solve(problem, Settings("scaling", 1e-10, acceleration=acceleration))
    assert s.converged.all()
    if min(n, m) == 1:
        assert s.n_iter[0] <= 2
        np.testing.assert_allclose(plan(problem, s), np.outer(uniform(n), uniform(m)), rtol=1e-12)


def test_empty_batch():
    C = np.zeros((0, 3, 4))
    problem = Problem.of_cost(
        as_input(C, "cost"), 0, np.zeros((0, 3)), np.zeros((0, 4)), np.zeros(0)
    )
    s = solve(problem, Settings())
    assert s.F.shape == (0, 3) and s.error.shape == (0,)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_huge_eps_gives_the_product(small, dtype):
    x, y, a, b, _ = small
    problem = of_points(x.astype(dtype), y.astype(dtype), a, b, 1e8)
    s = solve(problem, Settings("auto", 1e-6))
    assert s.converged.all() and s.n_iter[0] <= 2
    np.testing.assert_allclose(plan(problem, s), np.outer(a, b), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", ["scaling", "log"])
def test_tiny_eps_stays_finite(small, dtype, method):
    x, y, a, b, C = small
    eps = 1e-4 if dtype == "float32" else 1e-5
    for made in (of_points(x.astype(dtype), y.astype(dtype), a, b, eps), of_cost(C.astype(dtype), a, b, eps)):  # fmt: skip
        s = solve(made, Settings(method, 1e-6, 300))
        assert np.isfinite(s.F).all() and np.isfinite(s.G).all() and np.isfinite(s.error).all()
        # Columns are right; the rows are on their way.
        tiny = 1e-2 if dtype == "float32" else 1e-9
        assert abs(made.marginals(s.F, s.G)[1] - b).sum() < tiny
        assert s.error[0] < 1.5


def test_forbidden_pairs(small):
    *_, a, b, C = small
    rng = np.random.default_rng(1)
    barred = C.copy()
    barred[(rng.random(C.shape) < 0.5)] = np.inf
    barred[:, 0], barred[0] = C[:, 0], C[0]
    problem = of_cost(barred, a, b, 0.01)
    s = solve(problem, Settings("scaling", 1e-6, 4000))
    P = plan(problem, s)
    assert (P[np.isinf(barred)] == 0).all() and np.isfinite(P).all()
    assert l1(problem, s)[0] < 1e-2
    assert abs(mean_cost(problem)[0] - (np.where(np.isinf(barred), 0, barred) * np.outer(a, b)).sum() / np.outer(a, b)[np.isfinite(barred)].sum()) < 1e-12  # fmt: skip


def test_warm_start_is_immediate(small):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.05)
    cold = solve(problem, Settings("scaling", 1e-9))
    again = solve(problem, Settings("scaling", 1e-9), cold.G)
    assert again.n_iter[0] == 1 and again.converged.all()
    assert cold.n_iter[0] > 20
    # Any finite start will do, and the given array is not written to.
    G = 50 * np.random.default_rng(0).standard_normal(cold.G.shape)
    kept = G.copy()
    wild = solve(problem, Settings("scaling", 1e-9), G)
    np.testing.assert_array_equal(G, kept)
    assert wild.converged.all()
    assert abs(plan(problem, wild) - plan(problem, cold)).sum() < 1e-7


def test_float32_stops_at_its_rounding():
    problem = gaussian_clouds(100, 2, 1e-2, dtype="float32")
    s = solve(problem, Settings("log", 1e-12, 50_000))
    assert not s.converged.any()
    assert s.n_iter[0] < 3000
    assert 1e-12 < s.error[0] < 2e-5
    np.testing.assert_allclose(s.error, l1(problem, s), rtol=1e-9)


@pytest.mark.parametrize("method", ["log", "scaling"])
@pytest.mark.parametrize("dense", [False, True])
def test_float32_errors_are_those_of_the_plan(method, dense):
    problem = gaussian_clouds(100, 2, 1e-2, dtype="float32", dense=dense)
    s = solve(problem, Settings(method, 1e-6))
    assert s.converged.all() and l1(problem, s)[0] <= 1e-6
    np.testing.assert_allclose(s.error, l1(problem, s), rtol=1e-9)


def test_stall_is_only_at_the_level_of_rounding():
    F = np.full((3, 4), -5.0)
    for dtype, levels in (("float32", [1e-4, 1e-6, 1e-6]), ("float64", [1e-10, 1e-13, 1e-13])):
        stall, at = Stall(dtype, 3, 100), np.arange(3)
        errors = np.array(levels)
        assert not stall(at, errors, np.zeros(3, int), F, F).any()
        errors[2] *= 0.999  # still progress
        assert not stall(at, errors, np.full(3, 60), F, F).any()
        assert stall(at, errors, np.full(3, 110), F, F).tolist() == [False, True, False]
        # Large scalings are rounded to less, as float64 numbers.
        large = stall(at[:1], errors[:1], np.full(1, 110), 1e5 * F[:1], F[:1])
        assert large.all() == (dtype == "float64")


def test_slow_progress_is_no_stall(small):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.003)
    s = solve(problem, Settings("scaling", 1e-9, 4000, acceleration=None))
    assert s.n_iter[0] == 4000 or s.converged.all()
    more = solve(problem, Settings("scaling", 1e-9, 8000, acceleration=None))
    assert more.error[0] < s.error[0] or s.converged.all()


# ---- relaxed marginals ----------------------------------------------------------------------------------------------


def relaxed(problem, s, rho):
    """Primal value, the value by the mass, and the marginals' distance from the optimality conditions."""
    with np.errstate(divide="ignore"):
        f = problem.eps[0] * (s.F[0] - np.log(problem.a[0]))
        g = problem.eps[0] * (s.G[0] - np.log(problem.b[0]))
    rows, cols, cost = problem.marginals(s.F, s.G, cost=True)
    a, b, eps = problem.a[0], problem.b[0], problem.eps[0]
    P = plan(problem, s)

    def kl(p, q):
        return (p * np.log(p / q) - p + q).sum()

    primal = cost[0] + eps * kl(P + 1e-300, np.outer(a, b))
    off = 0.0
    for r, mine, w, h in ((rho[0], rows[0], a, f), (rho[1], cols[0], b, g)):
        if np.isfinite(r):
            primal += r * kl(mine, w)
            off += abs(mine - w * np.exp(-h / r)).sum()
        else:
            off += abs(mine - w).sum()
    return primal, P.sum(), off


@pytest.mark.parametrize("acceleration", ["anderson", None])
@pytest.mark.parametrize(
    "rho", [(0.05, 0.05), (5.0, 5.0), (1.0, 20.0), (np.inf, 1.0), (2.0, np.inf)]
)
def test_relaxed_marginals_are_brute_force(small, acceleration, rho):
    x, y, a, b, _ = small
    a, b = 1.3 * a, 0.8 * b
    problem = of_points(x, y, a, b, 0.1)
    settings = Settings(
        "auto", 1e-11, 5000, acceleration, unbalanced=tuple(np.full(1, r) for r in rho)
    )
    s = solve(problem, settings)
    assert s.converged.all() and (s.n_newton == 0).all()
    primal, mass, off = relaxed(problem, s, rho)
    assert off < 1e-9
    want = exact(0.1, (1.3, 0.8), rho)
    assert abs(plan(problem, s) - want).sum() < 1e-8
    if np.isfinite(rho).all():
        value = rho[0] * a.sum() + rho[1] * b.sum() + 0.1 * a.sum() * b.sum()
        assert abs(primal - (value - (sum(rho) + 0.1) * mass)) < 1e-9


@pytest.mark.parametrize("acceleration", ["anderson", None])
def test_the_shift_removes_the_slow_mode(small, acceleration):
    x, y, a, b, _ = small
    eps, rho = 0.1, 50.0
    problem = of_points(x, y, a, 1.5 * b, eps)
    both = np.full(1, rho), np.full(1, rho)
    s = solve(problem, Settings("auto", 1e-8, acceleration=acceleration, unbalanced=both))
    assert s.converged.all()
    # Plain half steps contract by (rho / (rho + eps))^2 at best.
    plain = np.log(1e-8) / (2 * np.log(rho / (rho + eps)))
    assert s.n_iter[0] < plain / (20 if acceleration else 4)


def test_relaxed_marginals_are_those_of_pot(small):
    ot = pytest.importorskip("ot")
    *_, a, b, C = small
    problem = of_cost(C, a, 1.5 * b, 0.1)
    s = solve(problem, Settings("auto", 1e-10, unbalanced=(np.ones(1), np.ones(1))))
    want = ot.unbalanced.sinkhorn_unbalanced(
        a, 1.5 * b, C, 0.1, 1.0, reg_type="kl", numItermax=1000, stopThr=1e-13
    )
    np.testing.assert_allclose(plan(problem, s), want, rtol=1e-6, atol=1e-12)


def test_a_batch_may_mix_relaxed_and_met_marginals(small):
    x, y, a, b, _ = small
    rho = np.array([np.inf, 1.0]), np.array([np.inf, np.inf])
    two = of_points(np.stack([x, x]), np.stack([y, y]), np.stack([a, a]), np.stack([b, b]), 0.1)
    s = solve(two, Settings("scaling", 1e-8, unbalanced=rho))
    assert s.converged.all()
    for k in range(2):
        one = solve(of_points(x, y, a, b, 0.1), Settings("scaling", 1e-8, unbalanced=tuple(r[k : k + 1] for r in rho)))  # fmt: skip
        np.testing.assert_array_equal(one.F[0], s.F[k])
    assert l1(two, s)[0] < 1.01e-8 < l1(two, s)[1]


def test_newton_needs_exact_marginals(small):
    x, y, a, b, _ = small
    with pytest.raises(ValueError, match="method: expected"):
        solve(of_points(x, y, a, b, 0.1), Settings("newton", unbalanced=(np.ones(1), np.ones(1))))


# ---- a cloud against itself -----------------------------------------------------------------------------------------


def test_symmetric_iteration_count():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    problem = of_points(x, x, uniform(40), uniform(40), 0.1)
    s = solve_symmetric(problem, Settings(tol=1e-13))
    assert s.converged.all() and s.n_iter[0] <= 48  # 38 to 1e-14 for another cloud
    assert l1(problem, s)[0] < 1e-12
    np.testing.assert_array_equal(s.F, s.G)
    alternating = solve(problem, Settings("scaling", 1e-13, 2000, acceleration=None))
    assert not alternating.converged.any()


@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-6, 1e-10])
@pytest.mark.parametrize("eps", [1e-3, 0.1, 10.0])
def test_symmetric_error_is_met(small, tol, eps):
    x, _, a, *_ = small
    weights = np.stack([a, 2 * a[::-1]])
    weights[1, 4] = 0
    problem = of_points(np.stack([x, x]), np.stack([x, x]), weights, weights, eps)
    s = solve_symmetric(problem, Settings(tol=tol))
    assert s.converged.all()
    assert (l1(problem, s) <= tol * weights.sum(1) * (1 + 1e-6)).all()
    np.testing.assert_allclose(s.error, l1(problem, s) / weights.sum(1), rtol=1e-3, atol=1e-14)
    assert np.isneginf(s.F[1, 4])
    one = solve_symmetric(of_points(x, x, weights[1], weights[1], eps), Settings(tol=tol))
    np.testing.assert_array_equal(one.F[0], s.F[1])
    again = solve_symmetric(problem, Settings(tol=tol), s.F)
    assert (again.n_iter <= 2).all()


def test_symmetric_relaxed_marginals(small):
    x, _, a, *_ = small
    problem = of_points(x, x, 1.5 * a, 1.5 * a, 0.1)
    rho = np.ones(1)
    s = solve_symmetric(problem, Settings(tol=1e-12, unbalanced=(rho, rho)))
    C = ((x[:, None] - x) ** 2).sum(-1)
    want, _, _ = brute(C, 1.5 * a, 1.5 * a, 0.1, 500, (1.0, 1.0))
    assert s.converged.all()
    assert abs(plan(problem, s) - want).sum() < 1e-10


def test_symmetric_float32_stalls_early():
    x = np.random.default_rng(0).standard_normal((60, 2)).astype("float32")
    problem = of_points(x, x, uniform(60), uniform(60), 0.01)
    s = solve_symmetric(problem, Settings(tol=1e-14))
    assert s.n_iter[0] < 1000 and s.error[0] < 1e-4 and not s.converged.any()


# ---- starts ---------------------------------------------------------------------------------------------------------


def test_mean_cost(small):
    x, y, a, b, C = small
    want = (np.outer(a, b) * C).sum()
    assert abs(mean_cost(of_points(x, y, a, b, 0.1))[0] - want) < 1e-12
    assert abs(mean_cost(of_cost(C, 3 * a, 3 * b, 0.1))[0] - want) < 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("p", [0.5, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_cost_at_any_scale(small, dtype, p, scale):
    x, y, a, b, _ = small
    x, y = (scale * x).astype(dtype), (scale * (y + 5.0)).astype(dtype)
    C = np.linalg.norm(x[:, None].astype(float) - y, axis=-1) ** p
    want = a @ C @ b
    problem = of_points(x, y, a, b, 0.01 * want, p)
    close = 1e-5 if dtype == "float32" or p > 2 else 1e-12
    assert mean_cost(problem)[0] == pytest.approx(want, rel=close)
    if np.abs(C).max() < 1e30:
        assert mean_cost(of_cost(C.astype(dtype), a, b, 1.0))[0] == pytest.approx(want, rel=1e-6)
    _, _, done = begin(problem, None, eps_scaling=True, max_iter=100)
    assert done[0] == 9  # 200 halved down to 1, and the last


def test_mean_cost_of_a_batch(small):
    x, y, a, b, C = small
    a, b = np.stack([a, a[::-1]]), np.stack([b, b[::-1]])
    want = [w @ C @ v for w, v in zip(a, b, strict=True)]
    for p in (1.0, 2.0, 3.0):
        problem = of_points(np.stack([x, x]), np.stack([y, y]), a, b, 1.0, p)
        each = [w @ C ** (p / 2) @ v for w, v in zip(a, b, strict=True)]
        np.testing.assert_allclose(mean_cost(problem), each, rtol=1e-5)
    np.testing.assert_allclose(mean_cost(of_cost(C, a, b, 1.0)), want, rtol=1e-12)


def gaussian_scalings(problem, x, y):
    shape = (problem.batch, -1, problem.dim)
    each = zip(x.reshape(shape), y.reshape(shape), problem.a, problem.b, problem.eps, strict=True)
    with np.errstate(divide="ignore"):
        return np.stack([gaussian_potential(*one) / one[-1] + np.log(one[-2]) for one in each])


def test_gaussian_start_is_exact_for_gaussians():
    # Grids with the weights of Gaussians: the potential is the closed form, and one iteration finds it.
    t = np.linspace(-5, 5, 300)[:, None]
    a, b = np.exp(-0.5 * t[:, 0] ** 2), np.exp(-2.0 * (t[:, 0] - 0.3) ** 2)
    problem = of_points(t, t + 0.4, a / a.sum(), b / b.sum(), 0.5)
    G = gaussian_scalings(problem, t, t + 0.4)
    s = solve(problem, Settings("scaling", 1e-5), G)
    assert s.converged.all() and s.n_iter[0] == 1
    assert solve(problem, Settings("scaling", 1e-5)).n_iter[0] > 4


def test_gaussian_start_saves_iterations():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 3)), rng.standard_normal((300, 3)) * [1, 0.5, 1.5] + 0.5
    C = ((x[:, None] - y) ** 2).sum(-1)
    problem = of_points(x, y, uniform(300), uniform(300), 0.03 * C.mean())
    cold = solve(problem, Settings("scaling", 1e-2)).n_iter[0]
    warm = solve(problem, Settings("scaling", 1e-2), gaussian_scalings(problem, x, y)).n_iter[0]
    assert warm <= cold / 3


def test_gaussian_start_of_fewer_points_than_dimensions():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 5, 12)), rng.standard_normal((2, 4, 12))
    b = np.array([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]])
    problem = of_points(x, y, np.full((2, 5), 0.2), b, [0.5, 5.0])
    G = gaussian_scalings(problem, x, y)
    assert np.isneginf(G[0, 3]) and np.isfinite(G[1]).all()
    assert solve(problem, Settings("scaling", 1e-9), G).converged.all()


def test_eps_scaling_counts_and_respects_max_iter(small):
    *_, a, b, C = small
    problem = of_cost(np.stack([C, C]), np.stack([a, a]), np.stack([b, b]), [1e-3, 100.0])
    _, _, done = begin(problem, None, eps_scaling=True, max_iter=100)
    octaves = np.ceil(np.log2(2 * mean_cost(problem)[0] / 1e-3))
    assert done.tolist() == [octaves + 1, 1]
    _, _, done = begin(problem, None, eps_scaling=True, max_iter=4)
    assert done.tolist() == [4, 1]


def test_powers():
    assert powers(None, np.ones(2)) is None
    assert powers((np.full(2, np.inf), np.full(2, np.inf)), np.ones(2)) is None
    rows, cols = powers((np.array([1.0, np.inf]), np.array([3.0, 1.0])), np.ones(2))
    assert rows.tolist() == [0.5, 1.0] and cols.tolist() == [0.75, 0.5]


# ---- the choice of a method -----------------------------------------------------------------------------------------


def test_forms(small):
    x, y, a, b, C = small
    big = of_cost(C, a, b, 0.1)
    F, G, _ = begin(big, None, eps_scaling=False, max_iter=1)
    assert _solve._form(big, "auto", F, G, None).tolist() == [STORED]
    assert _solve._form(big, "log", F, G, None).tolist() == [LOG_DOMAIN]
    points = of_points(x, y, a, b, 0.1)
    assert _solve._form(points, "auto", F, G, None).tolist() == [RECOMPUTED]
    tiny = b.copy()
    tiny[0] = 1e-31
    risky = of_points(x.astype("float32"), y.astype("float32"), a, tiny, 0.1)
    assert _solve._form(risky, "auto", F, G, None).tolist() == [LOG_DOMAIN]
    assert solve(risky, Settings("auto", 1e-5)).method == "log"
    t = powers((np.full(1, 1e-3), np.full(1, 1e-3)), np.full(1, 0.1))
    assert _solve._form(points, "auto", F, G, None).tolist() == [RECOMPUTED]
    assert _solve._form(points, "auto", F - 1.0, G, t).tolist() == [LOG_DOMAIN]


def test_stored_kernels_are_capped(small, monkeypatch):
    *_, a, b, C = small
    problem = of_cost(C, a, b, 0.1)
    monkeypatch.setattr(_solve, "_STORED_BYTES", C.nbytes - 1)
    assert (
        _solve._form(problem, "auto", np.zeros((1, 40)), np.zeros((1, 55)), None)[0] == RECOMPUTED
    )


@pytest.mark.parametrize(
    "rel, tol, dtype, want",
    [
        (0.2, 1e-12, "float64", False),
        (1e-3, 1e-4, "float64", False),
        (1e-3, 1e-9, "float64", True),
        (1e-3, 1e-9, "float32", False),
    ],
)
def test_auto_chooses_newton_where_the_iteration_is_slow(monkeypatch, rel, tol, dtype, want):
    from mckean.transport import _newton

    entered = []

    def finish(problem, settings, solution, form):
        entered.append(solution.error.copy())
        assert entered[0][0] < 1e-2
        np.testing.assert_allclose(entered[0], l1(problem, solution), rtol=1e-6)
        solution.error[:] = 0.0
        return solution

    monkeypatch.setattr(_newton, "solve_newton", finish)
    problem = gaussian_clouds(150, 3, rel, dtype=dtype)
    s = solve(problem, Settings("auto", tol, 3000))
    assert bool(entered) == want
    assert s.method == ("newton" if want else "scaling")


# ---- extrapolation --------------------------------------------------------------------------------------------------


def test_anderson_solves_a_linear_iteration():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((2, 6, 6))
    A = 0.9 * A / np.linalg.norm(A, 2, (1, 2))[:, None, None]
    want = np.linalg.solve(np.eye(6) - A, np.ones((2, 6, 1)))[..., 0]
    history, x, rows = History(2, 6, 8), np.zeros((2, 6)), np.arange(2)
    for _ in range(7):
        y = (A @ x[..., None])[..., 0] + 1.0
        history.push(rows, y, y - x)
        x = history.propose(rows)
    np.testing.assert_allclose(x, want, rtol=1e-4)


def test_histories_are_apart():
    rng = np.random.default_rng(0)
    history, alone = History(3, 5, 4), History(1, 5, 4)
    for step in range(9):
        v, r = rng.standard_normal((3, 5)), rng.standard_normal((3, 5))
        rows = np.arange(3) if step % 2 else np.array([0, 2])
        history.push(rows, v[rows], r[rows])
        alone.push(np.arange(1), v[2:], r[2:])
        if step == 4:
            history.forget(np.array([0]))
    np.testing.assert_array_equal(history.propose(np.array([2]))[0], alone.propose(np.arange(1))[0])
    history.keep(np.array([2]))
    np.testing.assert_array_equal(history.propose(np.arange(1)), alone.propose(np.arange(1)))
    still = History(1, 2, 3)
    for _ in range(2):
        still.push(np.arange(1), np.ones((1, 2)), np.zeros((1, 2)))
    np.testing.assert_allclose(still.propose(np.arange(1)), 1.0)


def test_auto_reaches_newton_in_float32():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 20)), rng.standard_normal((300, 20)) + 0.5
    eps = 0.003 * ((x[:, None] - y) ** 2).sum(-1).mean()
    problem = of_points(x.astype("float32"), y.astype("float32"), uniform(300), uniform(300), eps)
    s = solve(problem, Settings("auto", 1e-6))
    assert s.method == "newton" and s.converged.all() and l1(problem, s)[0] <= 1e-6
    plain = solve(problem, Settings("scaling", 1e-6))
    assert 0 < s.n_newton[0] and s.n_iter[0] + s.n_newton[0] < plain.n_iter[0] / 2


def test_auto_goes_back_to_iterations_where_newton_stalls(monkeypatch):
    from mckean.transport import _newton

    def stalled(problem, settings, solution, form):
        solution.n_newton = solution.n_newton + 3
        return solution

    monkeypatch.setattr(_newton, "solve_newton", stalled)
    problem = gaussian_clouds(100, 3, 1e-2)
    s = solve(problem, Settings("auto", 1e-9))
    assert s.n_newton[0] == 3 and s.converged.all() and l1(problem, s)[0] <= 1e-9
    few = solve(problem, Settings("auto", 1e-9, int(s.n_iter[0]) - 50))
    assert few.n_iter[0] + few.n_newton[0] <= s.n_iter[0] - 50 and not few.converged.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_of_easy_and_hard_problems_is_the_loop(dtype):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((5, 120, 4)), rng.standard_normal((5, 100, 4)) + 0.5
    a = rng.random((5, 120)) + 0.1
    a, b = a / a.sum(1, keepdims=True), np.full((5, 100), 0.01)
    C = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
    eps = C.mean((1, 2)) * [0.5, 0.003, 0.15, 0.01, 0.05]
    x, y, C = x.astype(dtype), y.astype(dtype), C.astype(dtype)
    for tol in (1e-6, 1e-9)[: 1 + (dtype == "float64")]:
        for method in ("auto", "newton"):
            rule = Settings(method, tol)
            for make, args in ((of_points, (x, y)), (of_cost, (C,))):
                all_of = make(*args, a, b, eps)
                s = solve(all_of, rule)
                assert s.n_newton.max() > 0 and (method == "newton" or s.n_newton.min() == 0)
                for k in range(5):
                    one = solve(make(*(v[k] for v in args), a[k], b[k], eps[k]), rule)
                    for name in ("F", "G", "error", "n_iter", "n_newton"):
                        got = getattr(s, name)[k]
                        np.testing.assert_array_equal(got, getattr(one, name)[0], err_msg=name)


def test_newton_iterates_in_the_form_of_the_solve(monkeypatch, small):
    from mckean.transport import _newton

    *_, a, b, C = small
    forms = []

    def seen(*args, form=RECOMPUTED, **options):
        forms.append(np.broadcast_to(form, 1).tolist())
        return scale(*args, form=form, **options)

    monkeypatch.setattr(_newton, "scale", seen)
    s = solve(of_cost(C, a, b, 0.003), Settings("newton", 1e-9))
    assert s.converged.all() and forms and all(f == [STORED] for f in forms)
