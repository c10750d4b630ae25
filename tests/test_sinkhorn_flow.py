"""The flow of the Sinkhorn divergence: its formula, its limits, warm starts, resuming, and what it refuses."""

import pickle

import numpy as np
import pytest

import mckean as mk
from mckean.flows import MMDFlow, SinkhornFlow


def normal(seed, *shape, dtype="float64"):
    return mk.random.normal(seed, shape, dtype=dtype)


def run(flow, x0, n_steps, **options):
    return mk.run(flow, x0, n_steps, progress=False, **options)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_step_is_the_formula(p):
    """m <- -(n/p) grad S + momentum m, x <- x + step decay^k m."""
    x, y, b = normal(1, 15, 3), normal(2, 12, 3) + 1, np.arange(1.0, 13.0)
    flow = SinkhornFlow(
        y, 0.7, eps=2.0, p=p, momentum=0.6, decay=0.8, target_weights=b, tol=1e-10, method="log"
    )
    result = run(flow, x, 4)
    m, options = np.zeros_like(x), {"eps": 2.0, "p": p, "b": b / b.sum(), "tol": 1e-10}
    for k in range(4):
        _, g = mk.sinkhorn_divergence(x, y, return_grad=True, method="log", **options)
        m = -len(x) / p * g + 0.6 * m
        x = x + 0.7 * 0.8**k * m
        np.testing.assert_allclose(result.x[k], x, rtol=0, atol=1e-7)
        value = mk.sinkhorn_divergence(x, y, method="log", **options)
        assert result.stats["divergence"][k] == pytest.approx(value, abs=1e-9)
    assert result.stats["marginal_error"].max() <= 1e-10
    assert result.n_gradient_evaluations == 5


def test_plain_transport_goes_to_the_images():
    """Without debiasing and for p = 2 a step of 1 is the barycentric map; a step of s goes that part of the way."""
    x, y = normal(1, 20, 2), normal(2, 25, 2) + 2
    flow = SinkhornFlow(y, 1.0, eps=0.5, debiased=False, tol=1e-9)
    result = run(flow, x, 1)
    image = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-9).barycentric_map()
    np.testing.assert_allclose(result.x[0], image, rtol=0, atol=1e-7)
    assert result.state.own_potential is None
    value = mk.sinkhorn_points(result.x[0], y, eps=0.5, tol=1e-9).dual_value
    assert result.stats["divergence"][0] == pytest.approx(value, abs=1e-8)


def test_a_shift_is_undone_in_one_step():
    y = normal(1, 30, 2)
    result = run(SinkhornFlow(y, 1.0, eps=0.3, tol=1e-9), y + np.array([3.0, -1.0]), 1)
    np.testing.assert_allclose(result.x[0], y, rtol=0, atol=1e-6)
    assert abs(result.stats["divergence"][0]) < 1e-8


def test_large_eps_is_the_flow_of_the_energy_distance():
    x, y = normal(1, 20, 2), normal(2, 25, 2) + 2
    ours = run(SinkhornFlow(y, 0.5, eps=1e6, p=1, tol=1e-9), x, 5)
    energy = run(MMDFlow(mk.kernels.Energy(), y, 0.5), x, 5)
    np.testing.assert_allclose(ours.x, energy.x, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        2 * ours.stats["divergence"], energy.stats["mmd2"], rtol=0, atol=1e-5
    )


def test_divergence_falls_and_ends_at_the_data():
    x, y = normal(1, 60, 2), normal(2, 70, 2) * 0.5 + [2, 1]
    result = run(SinkhornFlow(y, 0.5, eps=0.1), x, 25)
    s = result.stats["divergence"]
    assert (np.diff(s[:15]) < 0).all() and s[-1] < 1e-3 * s[0]
    assert mk.energy_distance(result.x[-1], y) < 0.01


def test_every_framework_takes_the_same_steps(xp, dtype):
    x, y = normal(1, 20, 2, dtype=dtype), normal(2, 25, 2, dtype=dtype) + 1
    numpys = run(SinkhornFlow(y, 0.5, eps=0.5, momentum=0.3), x, 3)
    ours = run(SinkhornFlow(xp.asarray(y), 0.5, eps=0.5, momentum=0.3), xp.asarray(x), 3)
    assert xp.dtype(ours.x) == dtype
    np.testing.assert_array_equal(xp.to_numpy(ours.x), numpys.x)
    for name, values in numpys.stats.items():
        np.testing.assert_array_equal(ours.stats[name], values)
    exact = run(SinkhornFlow(y.astype("float64"), 0.5, eps=0.5, momentum=0.3), x.astype("float64"), 3)  # fmt: skip
    np.testing.assert_allclose(numpys.x, exact.x, rtol=0, atol=2e-3 if dtype == "float32" else 0)


@pytest.mark.parametrize("debiased", [False, True])
def test_resumes_bit_for_bit(xp, dtype, debiased, tmp_path):
    x, y = xp.asarray(normal(1, 20, 2, dtype=dtype)), xp.asarray(normal(2, 15, 2, dtype=dtype) + 1)

    def flow():
        return SinkhornFlow(y, 0.4, eps=0.3, momentum=0.5, debiased=debiased, jitter=0.1)

    whole = run(flow(), x, 7, seed=5)
    run(flow(), x, 3, seed=5, checkpoint=tmp_path / "run.npz")
    rest = run(flow(), x, 7, seed=5, checkpoint=tmp_path / "run.npz")
    np.testing.assert_array_equal(xp.to_numpy(rest.x), xp.to_numpy(whole.x))
    for name, values in whole.stats.items():
        np.testing.assert_array_equal(rest.stats[name], values)
    whole.save(tmp_path / "result.npz")
    again = mk.load(tmp_path / "result.npz")
    assert type(again.state) is mk.flows.SinkhornFlowState
    with pytest.raises(mk.CheckpointError, match="setting"):
        other = SinkhornFlow(y, 0.4, eps=0.31, momentum=0.5, debiased=debiased, jitter=0.1)
        run(other, x, 7, seed=5, checkpoint=tmp_path / "run.npz")


def test_a_pickled_flow_goes_on():
    x, y = normal(1, 20, 2), normal(2, 15, 2) + 1
    flow = SinkhornFlow(y, 0.4, eps=0.3)
    state = flow.step(flow.init(x))
    copy = pickle.loads(pickle.dumps(flow))
    np.testing.assert_array_equal(copy.step(state).x, flow.step(state).x)
    np.testing.assert_array_equal(copy.step(state).momentum, flow.step(state).momentum)


def test_warm_starts_save_iterations():
    x, y = normal(1, 100, 3), normal(2, 100, 3) * 0.5 + 1
    for step, share in ((0.1, 0.5), (0.5, 0.8)):
        flow = SinkhornFlow(y, step, eps=0.3, tol=1e-3, acceleration=None)
        warm, cold, state = 0, 0, flow.init(x)
        for k in range(10):
            state = flow.step(state)
            if k >= 2:
                warm += state.iterations
                cold += flow.init(state.x).iterations
        assert warm < share * cold


def test_a_step_changes_nothing_but_what_it_returns():
    x, y = normal(1, 20, 2), normal(2, 15, 2) + 1
    flow = SinkhornFlow(y, 0.4, eps=0.3)
    state = flow.step(flow.init(x))
    before = pickle.dumps(state)
    flow.step(state)
    assert pickle.dumps(state) == before


def test_a_run_that_diverges_is_reported():
    x, y = normal(1, 5, 2), normal(2, 5, 2)
    with pytest.warns(mk.ConvergenceWarning, match="not finite"):
        result = run(SinkhornFlow(y, 1e300, eps=1.0), x, 4)
    assert not result.converged


def test_solves_that_do_not_converge_are_said():
    x, y = normal(1, 20, 2), normal(2, 20, 2) + 1
    flow = SinkhornFlow(y, 0.4, eps=0.05, tol=1e-9, max_iter=3)
    with pytest.warns(mk.ConvergenceWarning, match="SinkhornFlow: tol=1e-09 not met"):
        state = flow.init(x)
    assert state.marginal_error > 1e-9


def test_coinciding_particles_are_said():
    y = normal(1, 10, 2)
    with pytest.warns(RuntimeWarning, match="2 of 12 particles repeat"):
        SinkhornFlow(y, 0.5, eps=1.0).init(np.concatenate([y, y[:2]]))
    SinkhornFlow(y, 0.5, eps=1.0, jitter=0.1).init(np.concatenate([y, y[:2]]))


Y = normal(1, 4, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: SinkhornFlow(Y), TypeError, "eps"),
        (lambda: SinkhornFlow(Y, eps=0), ValueError, "eps: expected a positive"),
        (lambda: SinkhornFlow(Y, 0.0, eps=1), ValueError, "step: expected a positive"),
        (lambda: SinkhornFlow(Y, eps=1, p=-1), ValueError, "p: expected a positive"),
        (lambda: SinkhornFlow(Y[0], eps=1), ValueError, "target: expected shape"),
        (lambda: SinkhornFlow(Y * np.nan, eps=1), ValueError, "target: expected finite"),
        (lambda: SinkhornFlow(Y, eps=1, target_weights=-np.ones(4)), ValueError, "target_weights: expected weights >= 0"),
        (lambda: SinkhornFlow(Y, eps=1, debiased=0), TypeError, "debiased: expected True or False"),
        (lambda: SinkhornFlow(Y, eps=1, method="exact"), ValueError, "method: expected one of"),
        (lambda: SinkhornFlow(Y, eps=1, tol=-1), ValueError, "tol: expected a number >= 0"),
        (lambda: SinkhornFlow(Y, eps=1).init(np.ones((3, 3))), ValueError, "target: expected shape"),
        (lambda: SinkhornFlow(Y, eps=1).init(np.ones((3, 2), "float32")), TypeError, "target: expected float32"),
        (lambda: SinkhornFlow(Y, eps=1).init(Y * 1e200), ValueError, "x0|x: expected numbers"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()
