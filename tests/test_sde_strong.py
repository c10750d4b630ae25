"""Measured strong errors against exact ones, and what rejections may not change."""

from __future__ import annotations

import numpy as np
import pytest

import mckean as mk
from mckean import sde as S

GBM = S.SDE(lambda t, y: 0.3 * y, lambda t, y: 0.5 * y, diffusion_slope=lambda t, y: 0.25 * y)
SINE = S.SDE(lambda t, y: np.sin(y), lambda t, y: 0 * y + 1.0, noise="additive")


@pytest.mark.parametrize(
    "solver, low, high",
    # The error of Euler steps is a martingale's; that of Milstein's is partly one.
    [(S.EulerMaruyama(), 0.85, 1.15), (S.ItoMilstein(), 0.6, 1.0)],
)
def test_the_error_of_geometric_brownian_motion(solver, low, high):
    y0, ts = np.ones((4000, 2)), np.array([0.0, 0.25, 1.0])
    found = S.strong_error(GBM, y0, ts, solver=solver, controller=2**-6, seed=5)
    tree = mk.BrownianTree(5, (4000, 2), tol=2**-7)
    for j in (1, 2):
        exact = np.exp((0.3 - 0.125) * ts[j] + 0.5 * tree.value(ts[j]))
        error = np.sqrt(((found.coarse.ys[j] - exact) ** 2).sum(1).mean())
        assert low * error < found.error[j] < high * error
        assert error < found.bound[j]
    assert found.difference[0] == 0 and found.standard_error[0] == 0
    assert (found.difference[1:] < found.error[1:]).all()
    assert found.converged and found.order == solver.order("diagonal")
    assert (found.standard_error[1:] < 0.1 * found.difference[1:]).all()


def test_the_standard_error_is_that_of_seeds():
    """Over 40 seeds the spread has 11 percent error: a factor of two is nine of those away."""
    found = [
        S.strong_order(GBM, np.ones((100, 1)), 1.0, solver=S.EulerMaruyama(), steps=[2**-3, 2**-4, 2**-5], seed=k)
        for k in range(40)
    ]  # fmt: skip
    order = np.array([f.order for f in found])
    assert 0.5 < np.mean([f.uncertainty for f in found]) / order.std(ddof=1) < 2
    differences = np.array([f.differences for f in found])
    spreads = np.array([f.standard_errors for f in found]).mean(0)
    ratio = spreads / differences.std(0, ddof=1)
    assert (ratio > 0.5).all() and (ratio < 2).all()


@pytest.mark.parametrize("solver, order", [(S.EulerMaruyama(), 1.0), (S.ShARK(), 1.5)])
def test_orders(solver, order):
    found = S.strong_order(
        SINE, np.ones((400, 1)), 1.0, solver=solver, steps=[2.0**-k for k in range(3, 8)]
    )
    assert abs(found.order - order) < 0.15 and found.misfit < 0.15
    assert 0 < found.uncertainty < 0.1
    assert found.steps.tolist() == [2.0**-k for k in range(3, 8)]
    assert repr(found).startswith("StrongOrder(order=")


def test_orders_of_adaptive_steps():
    controllers = [S.PIDController(0, 10.0**-k, dtmin=2**-12) for k in (2, 3, 4)]
    found = S.strong_order(SINE, np.ones((200, 1)), 1.0, solver=S.ShARK(), steps=controllers)
    assert (np.diff(found.steps) < 0).all() and 0.8 < found.order < 1.8


def test_solutions_are_solved_once(monkeypatch):
    from mckean.sde import _strong

    calls = []

    def counted(*args, **options):
        calls.append(options["controller"].step)
        return S.sdeint(*args, **options)

    monkeypatch.setattr(_strong, "sdeint", counted)
    S.strong_order(SINE, np.ones((2, 1)), 1.0, solver=S.ShARK(), steps=[2**-3, 2**-4, 2**-5])
    assert sorted(calls) == [2**-6, 2**-5, 2**-4, 2**-3]


def test_refinements():
    pid = S.PIDController(1e-2, 1e-3, dtmin=1e-4, jump_ts=[0.5]).refined(2, 1.5)
    assert (pid.rtol, pid.atol) == pytest.approx((1e-2 / 2**1.5, 1e-3 / 2**1.5))
    assert pid.dtmin == 5e-5 and pid.jump_ts.tolist() == [0.5]
    assert pid.limits([0.0, 1.0]) == pytest.approx((0.005, 5e-5, 0.5))
    assert pid.refined(2, 1.5).limits([0.0, 1.0]) == pytest.approx((0.0025, 2.5e-5, 0.25))
    assert S.PIDController(0, 1).refined(2, 1).limits([0.0, 1.0])[1] == 2**-21
    rule = S.StateStep(1.0, dtmin=2**-4, dtmax=1.0, aligned=True).refined(4, 1)
    assert (rule.ctol, rule.dtmin, rule.dtmax, rule.aligned) == (1 / 8, 2**-6, 0.25, True)


def test_frameworks(xp, dtype):
    sde = S.SDE(lambda t, y: -y, lambda t, y: 0.5 * y)
    y0 = xp.asarray(np.ones((50, 2), dtype))
    found = S.strong_error(sde, y0, [0.0, 1.0], solver=S.EulerMaruyama(), controller=2**-4)
    like = S.strong_error(
        sde, np.ones((50, 2)), [0.0, 1.0], solver=S.EulerMaruyama(), controller=2**-4
    )
    assert xp.is_array(found.coarse.ys) and type(found.difference) is np.ndarray
    assert np.allclose(found.difference, like.difference, rtol=1e-3)


def test_failed_paths_are_left_out():
    sde = S.SDE(lambda t, y: y * y * y, lambda t, y: 0 * y, noise="additive")
    y0 = np.array([[0.1], [0.2], [30.0]])
    with np.errstate(over="ignore"), pytest.warns(mk.ConvergenceWarning):
        found = S.strong_error(sde, y0, [0.0, 4.0], solver=S.EulerMaruyama(), controller=2**-4)
    assert not found.converged and np.isfinite(found.difference).all()
    some = S.strong_error(sde, y0[:2], [0.0, 4.0], solver=S.EulerMaruyama(), controller=2**-4)
    assert some.difference[-1] == pytest.approx(found.difference[-1], rel=1e-12)


def test_one_path():
    found = S.strong_error(
        GBM, np.ones((1, 1)), [0.0, 1.0], solver=S.EulerMaruyama(), controller=0.1
    )
    assert np.isnan(found.standard_error[-1]) and found.difference[-1] > 0


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_equal_solutions_have_no_order():
    y0, steps = np.zeros((8, 1)), [2.0**-3, 2.0**-4, 2.0**-5]
    call = dict(solver=S.ShARK(), steps=steps)
    found = S.strong_order(SINE, y0, 1.0, **call)
    assert found.converged
    nothing = S.SDE(lambda t, y: 0 * y, lambda t, y: 0 * y, noise="additive")
    with pytest.warns(mk.ConvergenceWarning, match=r"steps\[0\] and its refinement are equal"):
        found = S.strong_order(nothing, y0, 1.0, **call)
    assert not found.converged and np.isnan([found.order, found.uncertainty]).all()
    assert found.steps.tolist() == steps and (found.differences == 0).all()
    assert repr(found) == "StrongOrder(order=nan +- nan)"
    error = S.strong_error(nothing, y0, [0.0, 1.0], solver=S.ShARK(), controller=0.25)
    assert error.converged and error.difference[-1] == 0


@pytest.mark.parametrize(
    "options, match",
    [
        (dict(refine=1), "refine: expected a number above 1"),
        (dict(t1=0.0), "t1: expected t1 > t0"),
        (dict(steps=[0.1]), "steps: expected at least two"),
        (dict(steps=0.1), "steps: expected a sequence"),
        (dict(steps=[0.1, 0.1]), "steps: expected different"),
        (dict(steps=[0.1, -1]), r"steps\[1\]: expected a positive"),
    ],
)
def test_wrong_arguments(options, match):
    settings = dict(t1=1.0, solver=S.EulerMaruyama(), steps=[0.1, 0.05]) | options
    with pytest.raises((ValueError, TypeError), match=match):
        S.strong_order(GBM, np.ones((2, 1)), settings.pop("t1"), **settings)


# ---- rejections ------------------------------------------------------------------------------------------------------


class Forced(S.PIDController):
    """Rejects three of ten attempts whatever their errors."""

    def start(self, ts, n, order, **options):
        clock = super().start(ts, n, order, **options)
        judge, self.counter = clock.judge, 0

        def forced(scaled):
            self.counter += 1
            chance = mk.random.uniform(8, (n,), stream=77, counter=self.counter)
            return judge(np.where(chance < 0.3, 5.0, scaled))

        clock.judge = forced
        return clock


def test_random_rejections_change_no_statistic():
    """Ornstein-Uhlenbeck with noise that is a matrix: the covariance within five standard errors."""
    n, matrix = 8000, np.array([[1.0, 0.5], [0.0, 0.7]])
    sde = S.SDE(
        lambda t, y: -y,
        lambda t, y: np.broadcast_to(matrix, (len(y), 2, 2)),
        noise="general",
        interpretation="stratonovich",
    )
    rule = Forced(0.0, 1e-2, dtmin=2**-8)
    assert rule.revisits(sde.noise)
    call = dict(solver=S.Heun(), controller=rule, seed=6)
    solution = S.sdeint(sde, np.zeros((n, 2)), [0.0, 1.0], compact=False, **call)
    assert solution.stats["rejected"].mean() > 3
    y, cov = solution.ys[-1], matrix @ matrix.T * (1 - np.exp(-2.0)) / 2
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert (np.abs(np.cov(y.T) - cov) < 5 * error).all()
    assert (np.abs(y.mean(0)) < 5 * np.sqrt(np.diag(cov) / n)).all()


def polygon_areas(revisit, tree):
    """The areas swept by the steps of a controller that dislikes left turns, less those of a fine grid."""
    n = len(tree)
    rule = S.PIDController(
        0, 1, kp=0, ki=1, dt0=0.25, dtmax=0.25, dtmin=2**-6, factormin=0.85, revisit=revisit
    )
    clock = rule.start([0.0, 1.0], n, 1.0)
    y, last, area = np.zeros((n, 2)), np.zeros((n, 2)), np.zeros(n)

    def cross(a, b):
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    while clock.active.any():
        W = tree.increment(clock.s, clock.t).W
        accepted = clock.judge(np.where(cross(last, W) > 0, 2.0, 0.5))
        area += np.where(accepted, 0.5 * cross(y, W), 0.0)
        y = y + accepted[:, None] * W
        last = np.where(accepted[:, None], W, last)
    assert np.abs(y - tree.value(1.0)).max() < 1e-12
    fine = tree.increments(np.linspace(0, 1, 257)).W
    return area - 0.5 * cross(np.cumsum(fine, 0) - fine, fine).sum(0)


@pytest.mark.slow
@pytest.mark.parametrize("revisit", [True, False])
def test_rejections_bias_areas_unless_their_ends_are_visited(revisit):
    """The difference has mean zero: five standard errors, fails with probability below 1e-6."""
    n, rows = 40_000, 2000
    tree = mk.BrownianTree(1, (n, 2), tol=2**-9)
    d = np.concatenate([polygon_areas(revisit, tree[i : i + rows]) for i in range(0, n, rows)])
    z = d.mean() / d.std() * np.sqrt(n)
    assert abs(z) < 5 if revisit else z < -5  # without, the bias is far larger
