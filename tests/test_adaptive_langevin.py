"""Underdamped Langevin chains with steps of their own: the path, orders, laws, resuming, failures."""

import dataclasses
import math

import numpy as np
import pytest
import reference

import mckean as mk
from mckean.samplers import AdaptiveUnderdampedState, UnderdampedLangevin
from mckean.samplers._substeps import _JOIN
from mckean.sde import ConstantStep, PIDController

ORDERS = {"quicsort": 3, "ubu": 2, "baoab": 1, "align": 2, "should": 3, "ee": 1}


def double_well(x):
    return x - x**3 - 0.5 * x[:, ::-1]


def starts(n=24, d=2):
    return mk.random.normal(1, (n, d), stream=3), mk.random.normal(2, (n, d), stream=3)


def pid(atol, **settings):
    return PIDController(0.0, atol, **{"dtmin": 2.0**-14, "dt0": 0.1, **settings})


def run(chain, x0, v0, steps=2, seed=5):
    state = chain.init(x0, seed=seed, v0=v0)
    for _ in range(steps):
        state = chain.step(state)
    return state


@pytest.mark.parametrize("scheme", ORDERS)
def test_converges_to_fine_constant_steps_of_the_same_seed(scheme):
    """With the scheme's order: the error against the mean number of accepted steps."""
    x0, v0 = starts(40)
    fine = UnderdampedLangevin(double_well, 1.0, scheme=scheme, controller=2**-9)
    fine = run(fine, x0, v0, 1)
    tolerances = {1: (1e-1, 2e-2, 4e-3), 2: (1e-2, 1e-3, 1e-4), 3: (1e-4, 1e-5, 1e-6)}
    steps, errors = [], []
    for atol in tolerances[ORDERS[scheme]]:
        chain = UnderdampedLangevin(double_well, 1.0, scheme=scheme, controller=pid(atol))
        state = run(chain, x0, v0, 1)
        steps.append(state.accepted.mean())
        errors.append(math.sqrt(((state.x - fine.x) ** 2).mean()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope > ORDERS[scheme] - 0.35  # adaptive steps may do better
    assert errors[-1] < 0.02


def test_a_step_in_parts_is_the_constant_step_of_the_seed():
    """One part to a step is the chain without a controller; another seed is another path."""
    x0, v0 = starts()
    for scheme in ORDERS:
        plain = run(UnderdampedLangevin(double_well, 0.1, scheme=scheme), x0, v0, 5)
        parts = UnderdampedLangevin(double_well, 0.1, scheme=scheme, controller=ConstantStep(0.1))
        found = run(parts, x0, v0, 5)
        np.testing.assert_allclose(found.x, plain.x, rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.v, plain.v, rtol=0, atol=1e-14)
        assert (found.accepted == 5).all() and found.n_gradients == plain.n_gradients
        assert np.abs(run(parts, x0, v0, 5, seed=6).x - plain.x).max() > 0.05


def test_parts_follow_a_given_tree():
    """The path of a tree with other units of time, at steps that do not divide it evenly."""
    x0, v0 = starts()
    tree = mk.BrownianTree(3, x0.shape, t0=0.5, t1=2.0, tol=2**-13, levy_area="space-time-time")
    ends = [
        run(UnderdampedLangevin(double_well, h, noise=tree, controller=c), x0, v0, round(1.5 / h)).x
        for h, c in ((0.5, pid(1e-6, dtmin=2**-9)), (0.25, 2**-8), (0.3, pid(1e-6, dtmin=2**-9)))
    ]
    assert np.abs(ends[0] - ends[1]).max() < 1e-5
    assert np.abs(ends[0] - ends[2]).max() < 1e-5
    with pytest.raises(ValueError, match="noise: expected a path that reaches"):
        run(UnderdampedLangevin(double_well, 0.5, noise=tree, controller=2**-8), x0, v0, 4)
    with pytest.raises(ValueError, match="noise: expected a tree with tol <= the shortest part"):
        UnderdampedLangevin(double_well, 0.5, noise=tree, controller=pid(1e-3, dtmin=2**-12))


@pytest.mark.parametrize("scheme", ["quicsort", "align", "should"])
def test_chains_do_not_see_each_other(scheme):
    """Every bit of a chain is the same alone, among others, and beside a stiff one."""

    def funnel(x):
        g = -x * np.exp(-x[:, :1])
        g[:, 0] = -x[:, 0] / 9 - 0.5 + 0.5 * np.exp(-x[:, 0]) * x[:, 1] ** 2
        return g

    x0, v0 = starts(9)
    x0[4, 0] = -5.0
    chain = UnderdampedLangevin(funnel, 0.5, scheme=scheme, controller=pid(1e-3))
    whole = run(chain, x0, v0)
    assert whole.accepted[4] > 2 * np.median(whole.accepted)
    for n in (1, 2, 7):
        part = run(chain, x0[:n], v0[:n])
        for name in ("x", "v", "proposal", "errors", "accepted", "rejected", "gradients"):
            assert (getattr(part, name) == getattr(whole, name)[:n]).all(), name


@pytest.mark.parametrize("scheme", ["quicsort", "align", "baoab"])
def test_counts_are_those_of_the_calls(scheme):
    calls = np.zeros(2, np.int64)

    def gradient(x):
        calls[:] += 1, len(x)
        return double_well(x)

    x0, _ = starts(7)
    chain = UnderdampedLangevin(gradient, 0.5, scheme=scheme, controller=pid(1e-3))
    result = mk.run(chain, x0, 4, seed=1, progress=False)
    state = result.state
    assert result.n_gradient_evaluations == calls[0]
    assert state.gradients.sum() == calls[1]  # chains that have arrived are left out
    attempts = state.accepted + state.rejected
    per_attempt, first = {"quicsort": (6, 0), "align": (1, 1), "baoab": (3, 1)}[scheme]
    assert (state.gradients == per_attempt * attempts + first).all()
    assert (state.rejected > 0).any()
    for name in ("accepted", "rejected", "clamped", "gradients"):
        assert (np.diff(result.stats[name], axis=0) >= 0).all()
        assert (result.stats[name][-1] == getattr(state, name)).all()


def test_resumed_runs_are_the_same_bit_for_bit(xp, dtype, tmp_path):
    x0, _ = starts(6)
    chain = UnderdampedLangevin(lambda x: -x - x * x * x, 0.5, controller=pid(1e-2))
    settings = dict(seed=3, progress=False)
    x0 = xp.asarray(x0.astype(dtype))
    whole = mk.run(chain, x0, 6, **settings)
    path = tmp_path / "chain.npz"
    mk.run(chain, x0, 2, checkpoint=path, **settings)
    resumed = mk.run(chain, x0, 6, checkpoint=path, **settings)
    assert (xp.to_numpy(resumed.x) == xp.to_numpy(whole.x)).all()
    assert xp.dtype(resumed.x) == dtype
    for field in dataclasses.fields(AdaptiveUnderdampedState):
        a, b = (getattr(r.state, field.name) for r in (whole, resumed))
        if hasattr(a, "shape"):
            a, b = (mk._array.to_numpy(x) for x in (a, b))
            assert ((a == b) | (np.isnan(a) & np.isnan(b))).all(), field.name
        else:
            assert a == b
    with pytest.raises(mk.CheckpointError, match="setting of the method"):
        other = UnderdampedLangevin(chain.target, 0.5, controller=pid(2e-2))
        mk.run(other, x0, 6, checkpoint=path, **settings)
    whole.save(tmp_path / "result.npz")
    loaded = mk.load(tmp_path / "result.npz").state
    assert isinstance(loaded, AdaptiveUnderdampedState)
    again = chain.step(dataclasses.replace(loaded, x=xp.asarray(loaded.x), v=xp.asarray(loaded.v)))
    assert (xp.to_numpy(again.x) == xp.to_numpy(chain.step(whole.state).x)).all()


def test_a_checkpoint_resumes_where_jax_has_no_float64(tmp_path):
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    try:
        x0 = jax.numpy.asarray(starts(5)[0].astype(np.float32))
        chain = UnderdampedLangevin(lambda x: -x, 0.5, controller=pid(1e-2))
        whole = mk.run(chain, x0, 3, progress=False)
        mk.run(chain, x0, 1, progress=False, checkpoint=tmp_path / "c.npz")
        resumed = mk.run(chain, x0, 3, progress=False, checkpoint=tmp_path / "c.npz")
        assert (np.asarray(resumed.x) == np.asarray(whole.x)).all()
        assert resumed.state.proposal.dtype == np.float64
    finally:
        jax.config.update("jax_enable_x64", before)


def test_frameworks_agree(xp, dtype):
    x0, v0 = starts(12)
    chain = UnderdampedLangevin(lambda x: -x - x * x * x, 0.5, controller=pid(1e-2))
    want = run(chain, x0, v0)
    found = run(chain, xp.asarray(x0.astype(dtype)), xp.asarray(v0.astype(dtype)))
    assert xp.is_array(found.x) and xp.dtype(found.x) == dtype
    # Errors differ by rounding, so float32 steps are others by a little: within the tolerance.
    limit = {"float32": 2e-3, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(xp.to_numpy(found.x), want.x, rtol=0, atol=limit)
    assert (found.accepted == want.accepted).mean() > 0.7


def test_steps_are_pure():
    x0, v0 = starts(6)
    chain = UnderdampedLangevin(double_well, 0.5, scheme="should", controller=pid(1e-3))
    state = run(chain, x0, v0, 1)
    kept = {f.name: np.copy(getattr(state, f.name)) for f in dataclasses.fields(state)}
    first, second = chain.step(state), chain.step(state)
    assert (first.x == second.x).all() and (first.gradients == second.gradients).all()
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(state, name), value)


@pytest.mark.parametrize("scheme", ["align", "quicsort"])
def test_a_gaussian_target_keeps_its_variances(scheme):
    """H0: at a tight tolerance x has variances 1 and 1/9, v has u. 10 000 chains, started in the
    law, 2 units of time; 6 standard errors on 4 variances and a correlation: below 1e-8."""
    n, u = 10_000, 0.5
    w = np.array([1.0, 9.0])
    chain = UnderdampedLangevin(
        lambda x: -w * x, 1.0, friction=1.5, u=u, scheme=scheme, controller=pid(1e-2, dtmin=2**-9)
    )
    state = chain.init(mk.random.normal(1, (n, 2)) / np.sqrt(w), seed=4)
    for _ in range(2):
        state = chain.step(state)
    limit = 6 * math.sqrt(2 / n)
    assert np.abs(state.x.var(0) * w - 1).max() < limit
    assert np.abs(state.v.var(0) / u - 1).max() < limit
    assert abs(np.corrcoef(state.x[:, 1], state.v[:, 1])[0, 1]) < 6 / math.sqrt(n)
    assert np.ptp(state.accepted) > 0


def test_rejections_change_no_statistic():
    """H0: a path that is asked again has the law it had. As above, with first steps far too long,
    so that most attempts of the first step are rejected."""
    n = 10_000
    chain = UnderdampedLangevin(
        lambda x: -x, 1.0, scheme="align", controller=pid(2e-2, dt0=1.0, dtmin=2**-9)
    )
    state = chain.step(chain.init(mk.random.normal(1, (n, 1)), seed=9))
    assert (state.rejected > 0).mean() > 0.9
    assert abs(state.x.var() - 1) < 6 * math.sqrt(2 / n)
    assert abs(state.v.var() - 1) < 6 * math.sqrt(2 / n)


@pytest.mark.parametrize("scheme", ["quicsort", "align"])
@pytest.mark.parametrize("controller", [pid(1e-2, dtmin=2**-6), 2**-4])
def test_a_chain_that_breaks_is_named_and_the_others_go_on(scheme, controller):
    def wall(x):
        return np.where(x > 2.0, np.nan, -x + 4.0 * (x > 1.0))

    x0 = np.array([[-1.0], [0.9], [-0.5]])
    v0 = np.array([[0.0], [3.0], [0.1]])
    chain = UnderdampedLangevin(wall, 1.0, friction=0.01, scheme=scheme, controller=controller)
    state = chain.init(x0, v0=v0, seed=2)
    with pytest.warns(mk.ConvergenceWarning, match="chain 1 is not finite at time 0.*, 1 of 3"):
        state = chain.step(state)
    assert np.isnan(state.x[1]).all() and np.isfinite(state.x[[0, 2]]).all()
    assert 0.2 < state.failed_time[1] < 0.8 and np.isnan(state.failed_time[[0, 2]]).all()
    after = chain.step(state)
    assert np.isnan(after.x[1]).all() and np.isfinite(after.x[[0, 2]]).all()
    assert after.gradients[1] == state.gradients[1]
    alone = chain.init(x0[[0]], v0=v0[[0]], seed=2)
    assert (chain.step(chain.step(alone)).x == after.x[0]).all()
    with pytest.warns(mk.ConvergenceWarning):
        result = mk.run(chain, x0, 40, progress=False, seed=2)
    assert not result.converged and np.isfinite(result.x[0]).all()


@pytest.mark.parametrize("scheme", ["quicsort", "align"])
@pytest.mark.parametrize("built_in", [True, False])
def test_raise_at_dtmin_stops_the_chain(scheme, built_in):
    """A finite chain is not called otherwise, wherever its steps are taken; without the option its
    short steps are counted."""
    target = mk.targets.Gaussian(np.zeros(1), scale=0.02)
    given = target if built_in else lambda x: target.grad_log_density(x)
    settings = dict(rtol=0.0, atol=1e-6, dtmin=2**-5, dt0=2**-4)
    x0, v0 = np.array([[1e-3], [-1e-3]]), np.zeros((2, 1))

    def chain(at_dtmin):
        rule = PIDController(**settings, at_dtmin=at_dtmin)
        return UnderdampedLangevin(given, 0.25, friction=0.0, scheme=scheme, controller=rule)

    raising, accepting = chain("raise"), chain("accept")
    with pytest.warns(
        mk.ConvergenceWarning, match="chain 0 has too large an error at dtmin at time 0, 2 of 2"
    ):
        state = raising.step(raising.init(x0, v0=v0))
    assert np.isnan(state.x).all() and (state.failed_time == 0).all()
    assert (state.clamped == 0).all() and (state.accepted == 0).all()
    after = raising.step(state)  # stopped, and not counted or warned of again
    assert (after.gradients == state.gradients).all() and (after.clamped == 0).all()
    state = accepting.step(accepting.init(x0, v0=v0))
    assert np.isfinite(state.x).all() and (state.clamped == state.accepted).all()
    assert (state.accepted == 8).all() and np.isnan(state.failed_time).all()
    again = accepting.step(state)
    assert (again.clamped == 16).all() and (accepting.stats(again)["clamped"] == 16).all()
    with pytest.warns(mk.ConvergenceWarning):
        result = mk.run(raising, x0, 2, progress=False)
    assert not result.converged


@pytest.mark.parametrize("scheme", ["quicsort", "align"])
def test_raise_at_dtmin_still_tells_what_is_not_finite(scheme):
    chain = UnderdampedLangevin(
        lambda x: np.where(abs(x) < 1.5, 0.0 * x, np.nan),
        1.0,
        friction=0.0,
        scheme=scheme,
        controller=PIDController(0.0, 1e-3, dtmin=2**-6, at_dtmin="raise"),
    )
    x0, v0 = np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]])
    with pytest.warns(mk.ConvergenceWarning, match="chain 1 is not finite at time 0.4"):
        state = chain.step(chain.init(x0, v0=v0))
    assert np.isfinite(state.x[0]).all() and np.isnan(state.x[1]).all()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (dict(controller=object()), TypeError, "controller: expected a mckean.sde.PIDController"),
        (dict(controller=-1.0), ValueError, "step: expected a positive"),
        (dict(controller=True), TypeError, "controller: .* got bool"),
        (dict(controller=pid(1.0, jump_ts=[0.5])), ValueError, "controller: expected no jump_ts"),
        (dict(controller=pid(1.0, step_ts=[0.5])), ValueError, "controller: expected no step_ts"),
        (dict(controller=pid(1.0), noise="counter"), ValueError, "noise: expected 'tree' or"),
        (dict(controller=pid(1.0, dtmin=2e-8)), ValueError, "controller: expected steps of at"),
        (dict(controller=PIDController(0.0, 1.0, dtmax=1e-9)), ValueError, "dtmax: "),
    ],
)
def test_bad_settings_are_named(settings, error, match):
    with pytest.raises(error, match=match):
        UnderdampedLangevin(double_well, 0.1, **settings)


def test_a_state_without_a_controller_is_refused():
    x0, v0 = starts(3)
    plain = UnderdampedLangevin(double_well, 0.1).init(x0, v0=v0)
    chain = UnderdampedLangevin(double_well, 0.1, controller=pid(1.0))
    with pytest.raises(TypeError, match="state: expected an AdaptiveUnderdampedState"):
        chain.step(plain)
    state = chain.init(x0, v0=v0)
    state.proposal = state.proposal[:2]
    with pytest.raises(ValueError, match=r"state.proposal: expected shape \(3,\)"):
        chain.step(state)


def test_default_limits_work():
    """dtmin = step * 2**-20 by default needs every level of the tree."""
    chain = UnderdampedLangevin(double_well, 0.5, controller=PIDController(1e-2, 1e-2))
    state = run(chain, *starts(3), 2)
    assert np.isfinite(state.x).all()


def test_times_in_a_step_keep_their_precision_far_out():
    """Step 2**20 of a tree: parts of steps are still those of the path."""
    x0, v0 = starts(4)
    ends = []
    for controller in (pid(1e-6), 2**-8):
        chain = UnderdampedLangevin(double_well, 1.0, controller=controller)
        state = dataclasses.replace(chain.init(x0, v0=v0), step=2**20)
        ends.append(chain.step(state).x)
    assert np.abs(ends[0] - ends[1]).max() < 1e-5


def test_steps_begin_with_what_the_step_before_learnt():
    x0, v0 = starts(5)
    chain = UnderdampedLangevin(double_well, 1.0, controller=pid(1e-2, dt0=2**-13))
    first = run(chain, x0, v0, 1)
    second = chain.step(first)
    assert (first.proposal > 0.05).all() and not (first.errors == 1).any()
    assert (second.accepted - first.accepted < first.accepted - 2).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_halves_are_joined_by_chens_relation(count):
    z = mk.random.normal(3, (6, 4, 2))
    h = 0.3
    first, second = (h, *z[:3]), (h, *z[3:])
    want = reference.chen(first, second)[1 : 1 + count]
    like = mk._array.as_input(z[0], "z")
    found = _JOIN[count].combine(like, [*z[:count], *z[3 : 3 + count]])
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a.data, b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("scheme", ["quicsort", "ubu", "align"])
@pytest.mark.parametrize("controller", [pid(1e-2), 2**-4])
def test_a_built_in_target_gives_the_chain_of_its_gradient(scheme, controller, dtype):
    """Wherever its steps are taken, they are the same ones: up to rounding of their ends, which a
    rough path makes larger."""
    target = mk.targets.Gaussian(np.zeros(2), scale=[1.0, 0.3])
    x0, v0 = (a.astype(dtype) for a in starts(10))
    ends = []
    for given in (target, lambda x: target.grad_log_density(x)):
        chain = UnderdampedLangevin(
            given, 0.5, friction=1.3, u=0.7, scheme=scheme, controller=controller
        )
        ends.append(run(chain, x0, v0, 3))
    limit = {"float32": 1e-2, "float64": 1e-6}[dtype]
    np.testing.assert_allclose(ends[0].x, ends[1].x, rtol=0, atol=limit)
    np.testing.assert_allclose(ends[0].v, ends[1].v, rtol=0, atol=limit)
    if dtype == "float64":
        for name in ("accepted", "rejected", "clamped"):
            np.testing.assert_array_equal(getattr(ends[0], name), getattr(ends[1], name))
        own = (
            6 if scheme == "align" else 0
        )  # native code asks for those at both ends of a step itself
        np.testing.assert_array_equal(ends[0].gradients, ends[1].gradients + own)
