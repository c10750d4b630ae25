"""Step control against the formulas, path by path, in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.sde import ConstantStep, PIDController


def errors(seed, n, counter, spread=1.5):
    """Random scaled errors around 1."""
    return np.exp(spread * mk.random.normal(seed, (n,), stream=91, counter=counter))


def drive(clock, seed=0, spread=1.5, limit=100_000):
    """Random errors until all paths have finished; the attempts of every path."""
    attempts = [[] for _ in range(clock.n)]
    saves = [[] for _ in range(clock.n)]
    for counter in range(limit):
        if not clock.active.any():
            return attempts, saves
        s, t, active = clock.s.copy(), clock.t.copy(), clock.active.copy()
        scaled = errors(seed, clock.n, counter, spread)
        accepted = clock.judge(scaled)
        assert not (accepted & ~active).any()
        for i in np.flatnonzero(active):
            attempts[i].append((s[i], t[i], scaled[i], bool(accepted[i])))
        for i, j in zip(*clock.saves, strict=True):
            saves[i].append(j)
    raise AssertionError("the clock does not end")


class Plain:
    """One path of the documented rules, with Python floats."""

    def __init__(self, c, ts, order, revisit):
        span = ts[-1] - ts[0]
        self.c, self.order = c, order
        self.dtmin = span * 2.0**-20 if c.dtmin is None else c.dtmin
        self.dtmax = span if c.dtmax is None else c.dtmax
        h = min(0.01 * span, self.dtmax) if c.dt0 is None else c.dt0
        self.h = min(max(h, self.dtmin), self.dtmax)
        self.stops = sorted({*ts[1:], *(x for x in [*c.step_ts, *c.jump_ts] if ts[0] < x < ts[-1])})
        self.s, self.e1, self.e2, self.lifo, self.revisit = ts[0], 1.0, 1.0, [], revisit

    def target(self):
        return self.lifo[-1] if self.lifo else next(x for x in self.stops if x > self.s)

    def end(self):
        gap = self.target() - self.s
        if self.h >= gap - 1e-10 * self.h:
            return self.target()
        return self.s + gap / 2 if gap - self.h < self.dtmin else self.s + self.h

    def judge(self, scaled):
        c, t = self.c, self.end()
        used, target = t - self.s, self.target()
        good = scaled < 1
        accepted = good or used <= self.dtmin * (1 + 1e-10)
        e = 0.0 if math.isnan(scaled) else (1 / scaled if scaled else math.inf)
        k = self.order
        f = c.safety * e ** ((c.ki + c.kp + c.kd) / k)
        f *= self.e1 ** (-(c.kp + 2 * c.kd) / k) * self.e2 ** (c.kd / k)
        f = min(max(f, 1.0), c.factormax) if accepted else min(max(f, c.factormin), c.safety)
        h = f * used
        if accepted and good and used < self.h:
            h = max(h, self.h)
        self.h = min(max(h, self.dtmin), self.dtmax)
        if accepted:
            self.e2, self.e1 = self.e1, e if 0 < e < math.inf else 1.0
            self.s = t
            if self.lifo and t == target:
                self.lifo.pop()
        elif self.revisit and t != target:
            self.lifo.append(t)
        return accepted


CASES = [
    dict(dtmin=2**-9),
    dict(kp=0.0, ki=1.0, kd=0.0, dtmin=2**-9),
    dict(kp=0.2, ki=0.4, kd=0.1, safety=0.8, factormin=0.3, factormax=4.0, dtmin=0.004, dtmax=0.2),
    dict(dt0=0.3, step_ts=[0.123, 0.5], jump_ts=[0.77], revisit=True, dtmin=1e-3),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [1.0, 2.0])
def test_pid_is_the_documented_rule(case, order):
    ts, n = [0.0, 0.31, 0.9, 1.0], 6
    c = PIDController(0.0, 1.0, **case)
    attempts, _ = drive(c.start(np.array(ts), n, order), seed=3)
    for path in attempts:
        plain = Plain(c, ts, order, c.revisit is True)
        for s, t, scaled, accepted in path:
            assert math.isclose(s, plain.s, rel_tol=1e-12, abs_tol=1e-13)
            assert math.isclose(t, plain.end(), rel_tol=1e-12)
            assert plain.judge(scaled) == accepted
        assert plain.s == ts[-1]


@pytest.mark.parametrize("revisit", [False, True])
def test_no_stop_is_jumped_over_and_steps_leave_no_gap(revisit):
    ts = np.array([1.0, 1.5, 1.5001, 3.0])
    c = PIDController(
        0.0, 1.0, dtmin=2**-10, step_ts=[1.2, 2.9999999], jump_ts=[2.0, 7.0], revisit=revisit
    )
    clock = c.start(ts, 40, 1.5)
    attempts, saves = drive(clock, seed=1, spread=2.5)
    stops = [1.2, 1.5, 1.5001, 2.0, 2.9999999, 3.0]
    assert clock.stops.times.tolist() == stops
    smallest = c.smallest_step(ts)
    assert smallest == pytest.approx(1e-7)
    for path, saved in zip(attempts, saves, strict=True):
        assert saved == [1, 2, 3]
        ends = [t for *_, t, _, accepted in path if accepted]
        assert set(stops) <= set(ends)
        now, rejected = 1.0, []
        for s, t, _, accepted in path:
            assert s == now and t - s >= smallest * (1 - 1e-6)
            assert not any(s < x < t for x in stops)
            if revisit:
                assert not any(s < x < t for x in rejected)
            if accepted:
                now = t
            else:
                rejected.append(t)
        assert now == 3.0
        if revisit:
            assert len(rejected) > 20 and set(rejected) <= set(ends)
    assert (clock.accepted == [sum(a[3] for a in p) for p in attempts]).all()
    assert (clock.rejected == [sum(not a[3] for a in p) for p in attempts]).all()
    assert clock.clamped.sum() > 0 and not clock.failed.any()


def test_only_short_gaps_between_stops_make_short_steps():
    ts = np.array([0.0, 1.0])
    c = PIDController(0.0, 1.0, dtmin=0.01, revisit=True)
    attempts, _ = drive(c.start(ts, 200, 1.5), seed=5, spread=3.0)
    shortest = min(t - s for path in attempts for s, t, *_ in path)
    assert c.smallest_step(ts) == 0.005
    assert 0.005 <= shortest < 0.01


def test_a_shortened_step_keeps_the_proposal():
    c = PIDController(0.0, 1.0, dt0=0.4, ki=0.3, kp=0.0)
    clock = c.start(np.array([0.0, 0.5, 2.0]), 1, 1.0)
    clock.judge(np.array([0.9]))  # factor 0.9 * 0.9**-0.3 < 1: clipped to 1
    assert clock.t[0] == 0.5
    clock.judge(np.array([0.9]))
    assert clock.t[0] == pytest.approx(0.9)
    assert clock.saves[0].tolist() == [0] and clock.saves[1].tolist() == [1]


def test_special_errors():
    c = PIDController(0.0, 1.0, dt0=0.5, dtmin=0.1)
    clock = c.start(np.array([0.0, 10.0]), 5, 1.0)
    accepted = clock.judge(np.array([np.nan, np.inf, 0.0, 1.0, -0.0]))
    assert accepted.tolist() == [False, False, True, False, True]
    assert np.allclose(clock.t - clock.s, [0.1, 0.1, 5.0, 0.45, 5.0])
    # As short as allowed: accepted whatever the error.
    assert clock.judge(np.array([np.nan, np.inf, 2.0, 2.0, 0.5])).tolist()[:2] == [True, True]
    assert clock.clamped.tolist() == [1, 1, 0, 0, 0]
    assert np.allclose((clock.t - clock.s)[:2], 0.1)


def test_at_dtmin_raise_stops_the_path():
    c = PIDController(0.0, 1.0, dt0=0.1, dtmin=0.1, at_dtmin="raise")
    clock = c.start(np.array([0.0, 1.0]), 3, 1.0)
    assert clock.judge(np.array([0.99, 1.0, np.nan])).tolist() == [True, False, False]
    assert clock.failed.tolist() == [False, True, True]
    assert clock.active.tolist() == [True, False, False]
    assert clock.failed_time[1:].tolist() == [0.0, 0.0] and np.isnan(clock.failed_time[0])
    assert (clock.t == clock.s)[1:].all() and clock.clamped.sum() == 0


def test_failed_and_finished_paths_stand_still():
    clock = PIDController(0.0, 1.0, dt0=0.25).start(np.array([0.0, 1.0]), 2, 1.0)
    clock.judge(np.array([0.1, 0.1]))
    clock.fail(np.array([False, True]))
    assert clock.failed_time[1] == 0.25
    while clock.active.any():
        assert not clock.judge(np.array([0.1, 0.1]))[1]
    assert clock.s.tolist() == [1.0, 0.25] and clock.t.tolist() == [1.0, 0.25]
    assert clock.accepted[1] == 1
    clock.judge(np.array([0.1, 0.1]))
    assert clock.s.tolist() == [1.0, 0.25]


@pytest.mark.parametrize("controller", [ConstantStep(0.25, jump_ts=[0.5, 0.6, 1.0]),
                                        PIDController(0, 1, dt0=0.25, dtmax=0.25, jump_ts=[0.5, 0.6, 1.0])])  # fmt: skip
def test_jumps_are_seen_from_both_sides(controller):
    clock = controller.start(np.array([0.0, 1.0, 1.1]), 1, 1.0)
    seen = []
    while clock.active.any():
        seen.append((clock.s[0], clock.t[0], bool(clock.after_jump[0]), bool(clock.before_jump[0])))
        assert clock.left[0] == (np.nextafter(clock.s[0], 9) if seen[-1][2] else clock.s[0])
        assert clock.right[0] == (np.nextafter(clock.t[0], -9) if seen[-1][3] else clock.t[0])
        clock.judge(np.array([0.5]))
    at = {s for s, _, after, _ in seen if after}, {t for _, t, _, before in seen if before}
    assert at == ({0.5, 0.6, 1.0}, {0.5, 0.6, 1.0})


def test_a_jump_at_the_start_and_one_merged_with_a_save():
    jump = 0.1 * 3  # not the float 0.3
    clock = ConstantStep(0.1, jump_ts=[0.0, jump]).start(np.array([0.0, 0.3]), 1)
    assert clock.after_jump[0] and clock.left[0] == np.nextafter(0, 1)
    assert clock.stops.times.tolist() == [0.3] and clock.stops.jumps.tolist() == [jump]
    clock.judge(), clock.judge()
    assert clock.t[0] == 0.3 and clock.right[0] == np.nextafter(jump, 0)


def test_constant_steps_keep_their_grid():
    ts = np.array([0.0, 0.25, 0.3, 1.0])
    clock = ConstantStep(0.1).start(ts, 3)
    ends, saved = [], []
    assert clock.shared
    while clock.active.any():
        ends.append(clock.t[0])
        if len(ends) == 3:
            clock.fail(np.array([False, True, False]))
        accepted = clock.judge()
        assert accepted.tolist() == [True, len(ends) < 3, True]
        saved += list(zip(*(x.tolist() for x in clock.saves), strict=True))
    assert np.allclose(ends, [0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], rtol=1e-15)
    assert ends[3] == 0.3 and ends[-1] == 1.0
    assert saved == [(0, 1), (2, 1), (0, 2), (2, 2), (0, 3), (2, 3)]
    assert clock.accepted.tolist() == [11, 2, 11] and clock.s[1] == pytest.approx(0.2)
    assert ConstantStep(0.1).smallest_step(ts) == pytest.approx(0.05)
    assert ConstantStep(0.1).smallest_step([0, 1]) == pytest.approx(0.1)
    assert ConstantStep(3).smallest_step([0, 1]) == 1
    assert ConstantStep(0.3).smallest_step([0, 1]) == pytest.approx(0.1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=6, unique=True),
    st.floats(0.05, 4),
    st.integers(0, 3),
)
def test_constant_steps_of_any_grid(ts, step, n):
    ts = np.sort(np.array(ts, float))
    if ts.size > 1 and np.diff(ts).min() < 1e-6:
        return
    controller = ConstantStep(step)
    clock, now, shortest, saved = controller.start(ts, n), ts[0], math.inf, 0
    if n == 0:
        assert not clock.active.any()
        return
    while clock.active.any():
        assert clock.s[0] == now and now < clock.t[0] <= now + step * (1 + 1e-9)
        shortest = min(shortest, clock.t[0] - now)
        now = clock.t[0]
        assert clock.judge().all()
        saved += clock.saves[0].size
    assert now == ts[-1] and saved == n * (ts.size - 1)
    if ts.size > 1:
        assert controller.smallest_step(ts) <= shortest * (1 + 1e-9)
        assert shortest <= controller.smallest_step(ts) * (1 + 1e-9) or shortest > step * (1 - 1e-9)


def test_defaults():
    c = PIDController(1e-3, 1e-6)
    assert c.limits([0.0, 8.0]) == (0.08, 8 * 2.0**-20, 8.0)
    assert PIDController(0, 1, dtmax=0.01).limits([0, 8])[0] == 0.01
    assert PIDController(0, 1, dtmin=0.5).limits([0, 8])[0] == 0.5
    assert c.revisits("general") and not c.revisits("diagonal")
    assert PIDController(0, 1, revisit=True).revisits("additive")


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: ConstantStep(0), "step: expected a positive"),
        (lambda: ConstantStep("a"), "step: expected a number"),
        (lambda: ConstantStep(1, jump_ts=[np.nan]), "jump_ts: expected finite"),
        (lambda: ConstantStep(1e-17).start([0.0, 1.0], 1), "step: expected a step that"),
        (lambda: ConstantStep(1).start([0.0, 0.0], 1), "ts: expected increasing"),
        (lambda: ConstantStep(1).start([], 1), "ts: expected shape"),
        (lambda: ConstantStep(1).start([0.0, np.inf], 1), "ts: expected finite"),
        (lambda: PIDController(0, 0), "atol: expected a positive"),
        (lambda: PIDController(-1, 0), "rtol: expected a number >= 0"),
        (lambda: PIDController(0, 1, kp=0, ki=0), "ki: expected"),
        (lambda: PIDController(0, 1, safety=1), "safety: expected"),
        (lambda: PIDController(0, 1, factormin=0.95), "factormin: expected"),
        (lambda: PIDController(0, 1, factormax=1), "factormax: expected"),
        (lambda: PIDController(0, 1, dtmin=2, dtmax=1), "dtmax: expected at least"),
        (lambda: PIDController(0, 1, dtmin=1e-17).start([0, 1], 1, 1), "dtmin: expected a step"),
        (lambda: PIDController(0, 1, at_dtmin="x"), "at_dtmin: expected one of"),
        (lambda: PIDController(0, 1, revisit=2), "revisit: expected"),
        (lambda: PIDController(0, 1).start([0, 1], 1, 0), "order: expected a positive"),
        (lambda: PIDController(0, 1).start([0, 1], 2, 1).judge([1.0]), "scaled: expected shape"),
        (lambda: PIDController(0, 1).start([0, 1], 2, 1).judge(), "scaled: expected errors"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call()
