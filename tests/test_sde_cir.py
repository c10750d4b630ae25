"""Steps of the Cox-Ingersoll-Ross process against their formulas, and the step rule path by path."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import mckean as mk
from mckean.sde import (
    DIE,
    SDE,
    CoxIngersollRoss,
    HOStS,
    ItoMilstein,
    StateStep,
    sdeint,
    strong_order,
)

A, B, SIGMA = np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.3, 2.0]), np.array([2.2, 0.7, 1.0])


def hosts(a, b, s, x, h, w, area):
    level = b - s * s / (4 * a)

    def relax(z, part):
        c = math.exp(-a * h * part)
        return c * z + (1 - c) * level

    side, root3 = (3 - math.sqrt(3)) / 6, math.sqrt(3)
    z = relax(x, side)
    z = (math.sqrt(max(z, 0)) + s / 2 * (w / 2 + root3 * area)) ** 2
    z = relax(z, 1 / root3)
    z = (math.sqrt(max(z, 0)) + s / 2 * (w / 2 - root3 * area)) ** 2
    return relax(z, side)


def die(a, b, s, x, h, w, area):
    """The root of y = r + h (a level / y - a y) / 2."""
    level, r = b - s * s / (4 * a), math.sqrt(max(x, 0)) + s / 2 * w
    roots = np.roots([1 + a * h / 2, -r, -a * level * h / 2])
    if abs(roots.imag).max() > 0:  # no solution: the discriminant counts as zero
        return (r / (2 + a * h)) ** 2
    return roots.real.max() ** 2


@pytest.mark.parametrize("solver, formula", [(HOStS(), hosts), (DIE(), die)])
@pytest.mark.parametrize("per_path", [False, True])
@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
def test_steps_are_their_formulas(xp, dtype, solver, formula, per_path, sense):
    n, d = 7, 3
    tree = mk.BrownianTree(3, (n, d), levy_area="space-time")
    inc = tree.increment(0.0, 0.5)
    y = np.abs(mk.random.normal(1, (n, d)))
    y[0, 0], y[1, 1] = 0.0, -0.01
    h = np.linspace(0.1, 0.9, n) if per_path else 0.37
    sde = CoxIngersollRoss(A, B, SIGMA)
    if sense == "stratonovich":
        sde = sde.to_stratonovich()
    held = [xp.asarray(x.astype(dtype)) for x in (y, inc.W, inc.H)]
    step = xp.asarray(h.astype(dtype)) if per_path else h
    out = solver.step(sde, held[0], step, held[1], held[2])
    assert xp.dtype(out) == dtype
    found = xp.to_numpy(out)
    for i in range(n):
        for j in range(d):
            args = (
                A[j],
                B[j],
                SIGMA[j],
                y[i, j],
                h[i] if per_path else h,
                inc.W[i, j],
                inc.H[i, j],
            )
            assert found[i, j] == pytest.approx(formula(*args), rel=1e-9 if dtype == "float64" else 2e-4, abs=1e-12 if dtype == "float64" else 1e-6)  # fmt: skip


def test_steps_stay_at_zero_or_above():
    n = 4000
    tree = mk.BrownianTree(3, (n, 1), levy_area="space-time")
    inc = tree.increment(0.0, 1.0)
    y = np.where(np.arange(n)[:, None] % 2, 0.01, 1.0)
    assert (HOStS().step(CoxIngersollRoss(1.0, 1.0, 2.0), y, 1.0, inc.W, inc.H) >= 0).all()
    assert (DIE().step(CoxIngersollRoss(1.0, 1.0, 5.0), y, 1.0, inc.W) >= 0).all()


@pytest.mark.parametrize("solver, order", [(HOStS(), 1.5), (DIE(), 1.0)])
def test_strong_orders_away_from_zero(solver, order):
    sde = CoxIngersollRoss(1.0, 2.0, 0.8)
    steps = [2.0**-k for k in range(5, 10)]
    found = strong_order(sde, np.full((400, 1), 2.0), 2.0, solver=solver, steps=steps, seed=4)
    assert abs(found.order - order) < 0.15
    assert solver.order("diagonal") == order and solver.error_order(sde) == order + 0.5


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
WEIGHTS = np.outer(WEIGHTS, WEIGHTS).ravel() / WEIGHTS.sum() ** 2


class Quadrature:
    """Every path is one pair of nodes: W and H of one step."""

    def increment(self, s, t):
        w, h = np.meshgrid(math.sqrt(t - s) * NODES, math.sqrt((t - s) / 12) * NODES, indexing="ij")
        return SimpleNamespace(W=w.reshape(-1, 1), H=h.reshape(-1, 1), K=None)


def moments(a, b, sigma, x, h):
    """E X**k, k = 0 to 4, after the time h: linear equations, each in terms of the one below."""
    rates = np.zeros((5, 5))
    for k in range(1, 5):
        rates[k, k], rates[k, k - 1] = -k * a, k * a * b + k * (k - 1) / 2 * sigma**2
    total = term = x ** np.arange(5.0)
    for j in range(1, 25):
        term = rates @ term * h / j
        total = total + term
    return total


@pytest.mark.parametrize("solver, orders", [(HOStS(), (4, 4, 2, 2)), (DIE(), (1, 1, 1, 1))])
def test_weak_orders_away_from_zero(solver, orders):
    """Four moments of one step by quadrature: their errors have one order more. Two of HOStS are better than others."""
    a, b, sigma, x = 1.2, 1.5, 0.8, 2.0
    # Errors of order 5 reach rounding soon.
    levels = (3, 4, 5) if orders[0] == 4 else (4, 5, 6, 7)
    y0, sde, errors = np.full((WEIGHTS.size, 1), x), CoxIngersollRoss(a, b, sigma), []
    for level in levels:
        h = 2.0**-level
        y = sdeint(sde, y0, [0.0, h], solver=solver, controller=h, tree=Quadrature()).ys[-1, :, 0]
        exact = moments(a, b, sigma, x, h)
        errors.append([WEIGHTS @ y**k - exact[k] for k in range(1, 5)])
    slopes = -np.polyfit(levels, np.log2(np.abs(errors)), 1)[0]
    assert slopes - 1 == pytest.approx(orders, abs=0.2), errors


def test_both_schemes_and_milstein_have_one_limit():
    sde, y0, ts = CoxIngersollRoss(1.0, 2.0, 0.5), np.full((100, 1), 2.0), [0.0, 1.0, 2.0]
    tree = mk.BrownianTree(9, (100, 1), t1=2.0, tol=2**-9, levy_area="space-time")
    ends = [
        sdeint(sde, y0, ts, solver=solver, controller=2.0**-9, tree=tree).ys[1:]
        for solver in (HOStS(), DIE(), ItoMilstein())
    ]
    assert np.abs(ends[0] - ends[1]).max() < 2e-3 and np.abs(ends[0] - ends[2]).max() < 6e-3
    assert np.abs(ends[0] - 2.0).max() > 0.3


@pytest.mark.parametrize("solver", [HOStS(), DIE()])
def test_adaptive_steps_give_the_right_mean(solver):
    """Five standard errors of 4000 paths: fails with probability below 1e-6."""
    n, sde = 4000, CoxIngersollRoss(1.0, 1.5, 1.5)
    y0 = np.full((n, 1), 1.0)
    rule = StateStep(0.25, dtmin=2**-10, dtmax=0.25, aligned=True)
    solution = sdeint(sde, y0, [0.0, 1.0], solver=solver, controller=rule, seed=2)
    y = solution.ys[-1]
    mean, variance = sde.mean(1.0, y0), sde.variance(1.0, y0)
    assert abs(y.mean() - mean[0, 0]) < 5 * math.sqrt(variance[0, 0] / n) + 0.01
    assert abs(y.var() / variance[0, 0] - 1) < 0.25
    steps = solution.stats["accepted"]
    assert solution.stats["rejected"].sum() > 0 and steps.max() > 3 * steps.min()


@pytest.mark.parametrize("aligned", [False, True])
def test_the_step_rule_path_by_path(aligned):
    rule = StateStep(0.25, dtmin=2**-9, dtmax=0.5, aligned=aligned)
    n, ts = 30, np.array([1.0, 1.25, 3.0])
    y = 2.0 * np.abs(mk.random.normal(1, (n, 2)))
    clock = rule.start(ts, n, y0=y)

    def desired(x):
        return min(max((max(x.min(), 0.0) * 0.25) ** (2 / 3), 2**-9), 0.5)

    wish = [desired(x) for x in y]
    retried = False
    for counter in range(100_000):
        if not clock.active.any():
            break
        for i in np.flatnonzero(clock.active):
            used = clock.t[i] - clock.s[i]
            stop = ts[1:][ts[1:] > clock.s[i]][0]
            assert clock.t[i] <= stop
            if aligned:
                parts = (clock.s[i] - 1.0) / used
                assert math.log2(2.0 / used) == round(math.log2(2.0 / used))
                assert parts == round(parts) and used <= wish[i] * (1 + 1e-6)
                # The longest one that is allowed.
                assert 2 * used > wish[i] or parts % 2 or clock.s[i] + 2 * used > stop
            elif clock.t[i] != stop and stop - clock.s[i] - wish[i] > 2**-9:
                assert used == pytest.approx(wish[i], rel=1e-12)
        y1 = np.abs(y + 0.7 * mk.random.normal(7, (n, 2), stream=5, counter=counter))
        used, active = clock.t - clock.s, clock.active.copy()
        accepted = clock.judge_states(y, y1)
        for i in np.flatnonzero(active):
            lower = min(desired(y[i]), desired(y1[i]))
            assert accepted[i] == (used[i] < 1.1 * lower or used[i] <= 2**-9)
            wish[i] = desired(y1[i]) if accepted[i] else lower
            retried |= not accepted[i]
        y = np.where(accepted[:, None], y1, y)
    assert retried and (clock.s == 3.0).all()
    assert rule.smallest_step(ts) == 2**-10


def test_a_state_that_is_not_finite_is_tried_down_to_the_shortest_step():
    rule = StateStep(1.0, dtmin=2**-4, dtmax=1.0)
    clock, bad = rule.start([0.0, 1.0], 1, y0=np.ones((1, 1))), np.full((1, 1), np.nan)
    assert not clock.judge_states(np.ones((1, 1)), bad)[0] and clock.t[0] == 2**-4
    assert clock.judge_states(np.ones((1, 1)), bad)[0]


def test_shorter_steps_near_zero_beat_constant_ones():
    sde, y0 = CoxIngersollRoss(1.0, 1.0, 1.5), np.ones((400, 1))
    tree = mk.BrownianTree(1, (400, 1), tol=2**-14, levy_area="space-time")

    def end(controller):
        out = sdeint(sde, y0, [0.0, 1.0], solver=HOStS(), controller=controller, tree=tree)
        return out.ys[-1], out.stats["accepted"].mean()

    exact, _ = end(StateStep(2**-7, dtmin=2**-13, dtmax=0.25, aligned=True))
    adaptive, steps = end(StateStep(2**-3, dtmin=2**-12, dtmax=0.25, aligned=True))
    constant, _ = end(2.0 ** -math.ceil(math.log2(steps)))
    errors = [np.sqrt(((y - exact) ** 2).mean()) for y in (adaptive, constant)]
    assert errors[0] < 0.8 * errors[1]


def test_wrong_arguments():
    other = SDE(lambda t, y: -y, lambda t, y: y)
    with pytest.raises(
        TypeError, match="sde: expected mckean.sde.CoxIngersollRoss for HOStS, got SDE"
    ):
        sdeint(other, np.ones((1, 1)), [0.0, 1.0], solver=HOStS(), controller=0.5)
    with pytest.raises(ValueError, match="ctol: expected a positive"):
        StateStep(0, dtmin=1, dtmax=2)
    with pytest.raises(ValueError, match="dtmax: expected at least dtmin"):
        StateStep(1, dtmin=2, dtmax=1)
    with pytest.raises(TypeError, match="aligned: expected True or False"):
        StateStep(1, dtmin=1, dtmax=2, aligned=1)
    with pytest.raises(TypeError, match="y0: expected"):
        StateStep(1, dtmin=0.1, dtmax=2).start([0.0, 1.0], 1)
    with pytest.raises(TypeError, match="judge_states"):
        StateStep(1, dtmin=0.1, dtmax=2).start([0.0, 1.0], 1, y0=np.ones((1, 1))).judge([0.5])
