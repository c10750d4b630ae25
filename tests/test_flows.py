"""Flows onto data: the formulas, published behaviour, the conditional law, resuming, and what they refuse."""

import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.flows import ConditionalSlicedMMDFlow, MMDFlow, SlicedMMDFlow
from mckean.flows._heavy_ball import step_seed


def normal(seed, *shape, dtype="float64"):
    return mk.random.normal(seed, shape, dtype=dtype)


def moons(seed, n):
    """Two half circles with noise of 0.1."""
    angle = np.pi * mk.random.uniform(seed, n, stream=1)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    return np.where(np.arange(n)[:, None] % 2, upper, lower) + 0.1 * mk.random.normal(seed, (n, 2))


def energy_velocity(x, y, b=None):
    """-(n/2) times the gradient of the energy distance, from all pairs."""

    def mean_direction(z, w):
        v = x[:, None] - z
        length = np.linalg.norm(v, axis=2, keepdims=True)
        return ((v / np.where(length > 0, length, 1.0)) * w[:, None]).sum(axis=1)

    b = np.full(len(y), 1.0) if b is None else b
    return mean_direction(x, np.full(len(x), 1 / len(x))) - mean_direction(y, b / b.sum())


def run(flow, x0, n_steps, **options):
    return mk.run(flow, x0, n_steps, progress=False, **options)


FLOWS = {
    "sliced": lambda y: SlicedMMDFlow(y, 0.4, n_slices=7, momentum=0.6, decay=0.9),
    "fixed": lambda y: SlicedMMDFlow(y, 0.4, n_slices=7, momentum=0.6, resample=False),
    "batch": lambda y: SlicedMMDFlow(y, 0.4, n_slices=7, target_batch=5, jitter=0.1),
    "conditional": lambda y: ConditionalSlicedMMDFlow(
        y, y[:, :1], step=0.4, n_slices=7, momentum=0.5, observations=y[:3, :1]
    ),
    "exact": lambda y: MMDFlow(mk.kernels.Energy(), y, 0.4, momentum=0.6),
    "noisy": lambda y: MMDFlow(mk.kernels.Gaussian(1.0), y, 0.4, noise=0.2),
}


def start(name, dtype="float64"):
    """Data and particles for a flow of `FLOWS`."""
    return normal(1, 20, 3, dtype=dtype) + 1, normal(
        2, 23 if name == "conditional" else 30, 3, dtype=dtype
    )


@pytest.mark.parametrize("name", FLOWS)
def test_every_framework_takes_the_same_steps(name, xp, dtype):
    y, x0 = start(name, dtype)
    ours = run(FLOWS[name](xp.asarray(y)), xp.asarray(x0), 4, seed=3)
    x = xp.to_numpy(ours.x)
    assert xp.dtype(ours.x) == dtype and x.shape == (4, *x0.shape)
    numpys = run(FLOWS[name](y), x0, 4, seed=3)
    np.testing.assert_array_equal(x, numpys.x)
    np.testing.assert_array_equal(ours.stats["mmd2"], numpys.stats["mmd2"])
    exact = run(FLOWS[name](y.astype("float64")), x0.astype("float64"), 4, seed=3)
    if name not in ("batch", "noisy"):  # draws of the two types differ
        np.testing.assert_allclose(x, exact.x, rtol=0, atol=5e-5 if dtype == "float32" else 0)
    assert not np.array_equal(x[0], x[1])


def test_the_step_is_the_formula():
    """m <- v + momentum m, x <- x + step decay^k m, with the directions of every step's own seed."""
    x, y, b = normal(1, 15, 3), normal(2, 12, 3) + 1, np.arange(1.0, 13.0)
    flow = SlicedMMDFlow(y, 0.7, n_slices=9, momentum=0.6, decay=0.8, target_weights=b)
    result = run(flow, x, 5, seed=4)
    m = np.zeros_like(x)
    for k in range(5):
        xi = mk.sliced.directions(3, 9, seed=step_seed(4, k))
        _, g = mk.sliced_mmd2_grad(x, y, directions=xi, y_weights=b)
        m = -0.5 * len(x) * g + 0.6 * m
        x = x + 0.7 * 0.8**k * m
        np.testing.assert_allclose(result.x[k], x, rtol=0, atol=1e-13)
    # the value of a state belongs to its own positions
    xi = mk.sliced.directions(3, 9, seed=step_seed(4, 5))
    assert result.stats["mmd2"][-1] == result.state.mmd2
    assert result.state.mmd2 == pytest.approx(
        mk.sliced_mmd2(x, y, directions=xi, y_weights=b), rel=1e-10
    )


def test_velocity_is_that_of_all_pairs_along_the_line():
    """In one dimension slicing is exact, so every flow takes the steps of the brute force."""
    x, y, b = normal(1, 15, 1), normal(2, 12, 1) + 1, np.arange(1.0, 13.0)
    sliced = SlicedMMDFlow(y, 0.3, momentum=0.5, decay=0.9, target_weights=b)
    exact = MMDFlow(mk.kernels.Energy(), y, 0.3, momentum=0.5, decay=0.9, target_weights=b)
    a, c = run(sliced, x, 6), run(exact, x, 6)
    m = np.zeros_like(x)
    for k in range(6):
        m = energy_velocity(x, y, b) + 0.5 * m
        x = x + 0.3 * 0.9**k * m
        np.testing.assert_allclose(a.x[k], x, rtol=0, atol=1e-13)
        np.testing.assert_allclose(c.x[k], x, rtol=0, atol=1e-13)
        value = mk.energy_distance(x, y, y_weights=b)
        assert a.stats["mmd2"][k] == pytest.approx(value, rel=1e-10)
        assert c.stats["mmd2"][k] == pytest.approx(value, rel=1e-10)


def test_many_slices_are_the_exact_flow():
    x0, y = normal(1, 60, 2), moons(2, 80)
    exact = run(MMDFlow(mk.kernels.Energy(), y, 0.2), x0, 5).x
    errors = [
        np.abs(run(SlicedMMDFlow(y, 0.2, n_slices=p), x0, 5).x - exact).max() for p in (10, 1000)
    ]
    assert errors[1] < 5e-3 < errors[0]


def test_other_exponents_follow_the_exact_flow():
    x0, y = normal(1, 60, 2), moons(2, 80)
    for r in (0.5, 1.5):
        exact = run(MMDFlow(mk.kernels.Riesz(r), y, 0.1), x0, 3).x
        ours = run(SlicedMMDFlow(y, 0.1, r=r, n_slices=300), x0, 3).x
        assert np.linalg.norm(ours - exact) < 0.15 * np.linalg.norm(exact - x0)


def test_two_moons_decrease_as_published():
    """Section 8 of the specification, within a factor of 3: energy distance after 50 and 200 steps."""
    y, x0 = moons(1, 500), normal(5, 500, 2)
    for step, momentum, expected in (
        (0.1, 0.0, (1.8e-2, 3.1e-3)),
        (0.5, 0.0, (2.2e-3, 2.7e-4)),
        (1.0, 0.0, (8.0e-4, 8.9e-5)),
        (0.1, 0.9, (1.4e-3, 8.6e-5)),
    ):
        flow = SlicedMMDFlow(y, step, momentum=momentum, n_slices=20)
        result = run(flow, x0, 200, burn_in=0, thin=50)
        for at, value in ((0, expected[0]), (3, expected[1])):
            found = mk.energy_distance(result.x[at], y)
            assert value / 3 < found < 3 * value
            assert result.stats["mmd2"][at] == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("name", ["sliced", "fixed", "exact"])
def test_energy_decreases_with_small_steps(name):
    x0, y = normal(1, 100, 2), moons(2, 100)
    flow = {
        "sliced": SlicedMMDFlow(y, 0.02, n_slices=500),
        "fixed": SlicedMMDFlow(y, 0.02, n_slices=5, resample=False),
        "exact": MMDFlow(mk.kernels.Energy(), y, 0.02),
    }[name]
    values = run(flow, x0, 60).stats["mmd2"]
    assert (np.diff(values) < 0).all()


def test_decay_ends_the_chatter():
    y, x0 = normal(1, 50, 1), normal(2, 50, 1)
    constant, decayed = (
        run(SlicedMMDFlow(y, 0.5, decay=decay), x0, 600).x for decay in (1.0, 0.98)
    )
    assert np.abs(constant[-1] - constant[-2]).max() > 0.005
    assert np.abs(decayed[-1] - decayed[-2]).max() < 1e-4
    assert mk.energy_distance(decayed[-1], y) < mk.energy_distance(constant[-1], y)


def conditional_fit(p, c):
    slope = np.cov(p[:, 0], c[:, 0])[0, 1] / c.var(ddof=1)
    return slope, np.var(p - slope * c)


def test_the_conditional_law_is_that_of_the_pairs():
    """x is N(0, 1) and y = x + eta / 2, so x given y is N(0.8 y, 0.2)."""
    x = normal(1, 1000, 1)
    y = x + 0.5 * normal(2, 1000, 1)
    flow = ConditionalSlicedMMDFlow(
        x, y, step=1.0, condition_scale=3.0, n_slices=16, momentum=0.7, decay=0.998
    )
    draws = run(flow, normal(3, 1000, 1), 1000, burn_in=999).x[0]
    slope, residual = conditional_fit(draws, y)
    own_slope, own_residual = conditional_fit(x, y)
    assert abs(slope - own_slope) < 0.05 and abs(residual - own_residual) < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_conditional_law_at_2000_steps(seed):
    x = normal(10 + seed, 1000, 1)
    y = x + 0.5 * normal(20 + seed, 1000, 1)
    flow = ConditionalSlicedMMDFlow(
        x, y, step=1.0, condition_scale=3.0, n_slices=16, momentum=0.7, decay=0.998
    )
    draws = run(flow, normal(30 + seed, 1000, 1), 2000, burn_in=1999).x[0]
    slope, residual = conditional_fit(draws, y)
    own_slope, own_residual = conditional_fit(x, y)
    assert abs(slope - own_slope) < 0.05 and abs(residual - own_residual) < 0.06


def test_the_conditional_step_is_the_x_part_of_the_joint_one():
    x, y, c = normal(1, 20, 2), normal(2, 20, 3), normal(3, 15, 3)
    p = normal(4, 15, 2)
    flow = ConditionalSlicedMMDFlow(x, y, step=0.5, condition_scale=2.0, conditions=c, n_slices=11)
    state = flow.init(p, seed=6)
    xi = mk.sliced.directions(5, 11, seed=step_seed(6, 0))
    value, g = mk.sliced_mmd2_grad(np.hstack([p, 2 * c]), np.hstack([x, 2 * y]), directions=xi)
    assert state.mmd2 == value
    np.testing.assert_allclose(flow.step(state).x, p - 0.25 * len(p) * g[:, :2], rtol=0, atol=1e-14)


def test_observed_particles_follow_the_others_without_moving_them():
    x = normal(1, 200, 2)
    y = x[:, :1] + 0.3 * normal(2, 200, 1)
    x0 = normal(3, 200, 2)
    options = dict(step=0.5, condition_scale=2.0, n_slices=20, momentum=0.5)
    alone = run(ConditionalSlicedMMDFlow(x, y, **options), x0, 20).x
    # observed once more at conditions of others, hardly apart from them
    flow = ConditionalSlicedMMDFlow(x, y, observations=y[:10] + 1e-9, **options)
    both = run(flow, np.concatenate([x0, x0[:10] + 1e-9]), 20).x
    np.testing.assert_allclose(both[:, :200], alone, rtol=0, atol=1e-5)
    # the force on a particle jumps by its own weight over itself: 1/n, times the constant of slicing
    np.testing.assert_allclose(both[0, 200:], both[0, :10], rtol=0, atol=0.5 * 2 * 2 / 200)
    moved = np.linalg.norm(both[-1, 200:] - x0[:10], axis=1)
    assert np.linalg.norm(both[-1, 200:] - both[-1, :10], axis=1).max() < 0.35 and moved.max() > 0.2


def test_posterior_samples_are_near_the_posterior():
    x = normal(1, 2000, 1)
    y = x + 0.5 * normal(2, 2000, 1)
    observed = np.array([[-1.0], [1.0]])
    options = dict(n_steps=200, step=1.0, condition_scale=3.0, n_slices=16, progress=False, seed=1)
    draws = mk.flows.posterior_samples(x, y, observed, 300, **options)
    assert draws.shape == (2, 300, 1)
    for row, mean in zip(draws, (-0.8, 0.8), strict=True):
        exact = mean + np.sqrt(0.2) * normal(7, 2000, 1)
        prior = mk.energy_distance(x, exact)
        assert mk.energy_distance(row, exact) < 0.1 * prior
    one = mk.flows.posterior_samples(x, y, observed[0], 5, **options | {"n_steps": 1})
    assert one.shape == (5, 1)


def test_noise_is_where_the_velocity_is_taken():
    x, y = normal(1, 10, 2), normal(2, 12, 2) + 1
    k = mk.kernels.Gaussian(1.0)
    flow = MMDFlow(k, y, 0.3, noise=lambda step: 0.5 / (1 + step))
    state = flow.init(x, seed=9)
    state = flow.step(state)
    from mckean.flows._heavy_ball import NOISE_STREAM

    z = x + 0.5 * mk.random.normal(9, x.shape, stream=NOISE_STREAM, counter=0)
    v = mk.kernel_grad(k, z, y) / 12 - mk.kernel_grad(k, z, x) / 10
    np.testing.assert_allclose(state.x, x + 0.3 * v, rtol=0, atol=1e-14)
    assert np.isnan(state.mmd2)
    expected = mk.mmd2(k, state.x, y, unbiased=False)
    assert flow.stats(state)["mmd2"] == pytest.approx(expected, rel=1e-12)


def test_noise_frees_particles_from_where_a_gaussian_has_no_gradient():
    y, x0 = 0.3 * normal(1, 60, 2), 0.3 * normal(2, 60, 2) + np.array([3.0, 0.0])
    k = mk.kernels.Gaussian(1.0)
    still, freed = (
        run(MMDFlow(k, y, 1.0, noise=noise), x0, 400, burn_in=399).stats["mmd2"][0]
        for noise in (0.0, lambda step: 2.0 * 0.985**step)
    )
    assert freed < 0.6 * still


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    d=st.integers(1, 4),
    p=st.integers(1, 6),
    resample=st.booleans(),
    data=st.data(),
)
def test_any_sizes(n, m, d, p, resample, data):
    batch = data.draw(st.none() | st.integers(1, m))
    flow = SlicedMMDFlow(normal(1, m, d), n_slices=p, resample=resample, target_batch=batch)
    result = run(flow, normal(2, n, d), 3)
    assert result.converged and result.x.shape == (3, n, d)
    assert (result.stats["mmd2"] >= 0).all()


def test_batches_are_fresh_subsets():
    """With one point of the data at a time, particles are drawn to a different one every step."""
    y = np.arange(5.0)[:, None] * 100
    flow = SlicedMMDFlow(y, 1.0, target_batch=1)
    x0 = np.array([[150.0], [250.0]])
    values = np.array([s for s in run(flow, x0, 40).stats["mmd2"]])
    assert len(np.unique(values.round(-2))) >= 4
    everything = SlicedMMDFlow(y, 1.0, target_batch=5)
    np.testing.assert_array_equal(run(everything, x0, 5).x, run(SlicedMMDFlow(y, 1.0), x0, 5).x)


def test_directions_stay_those_of_the_first_step_unless_resampled():
    x, y = normal(1, 20, 3), normal(2, 20, 3) + 1
    xi = mk.sliced.directions(3, 4, seed=step_seed(5, 0))
    for batch in (None, 6):
        fixed = SlicedMMDFlow(y, n_slices=4, resample=False, target_batch=batch)
        given = SlicedMMDFlow(y, directions=xi, target_batch=batch)
        a, b = run(fixed, x, 3, seed=5).x, run(given, x, 3, seed=5).x
        np.testing.assert_array_equal(a, b)
    fresh = run(SlicedMMDFlow(y, n_slices=4), x, 3, seed=5).x
    assert not np.array_equal(fresh[2], a[2])


def test_weighted_data_draws_particles_in_proportion():
    y, w = np.array([[-1.0], [1.0]]), np.array([3.0, 1.0])
    x = run(SlicedMMDFlow(y, 0.2, target_weights=w, decay=0.99), normal(1, 400, 1), 400).x[-1]
    # with particles of equal weight a quarter belongs to the right
    assert (x > 0.9).mean() == pytest.approx(0.25, abs=0.02)


def test_directions_of_ones_own():
    x, y = normal(1, 20, 3), normal(2, 20, 3) + 1
    fixed = mk.sliced.directions(3, 8, seed=5)
    asked = []

    def fresh(seed):
        asked.append(seed)
        return mk.sliced.directions(3, 8, seed=seed)

    array = run(SlicedMMDFlow(y, directions=fixed), x, 3).x
    constant = run(SlicedMMDFlow(y, directions=lambda seed: fixed), x, 3).x
    np.testing.assert_allclose(array, constant, rtol=0, atol=1e-13)
    function = run(SlicedMMDFlow(y, directions=fresh), x, 3, seed=2).x
    assert asked == [step_seed(2, k) for k in range(4)]
    np.testing.assert_array_equal(function, run(SlicedMMDFlow(y, n_slices=8), x, 3, seed=2).x)
    # patches: coordinates outside of all of them stay
    patch = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0]])
    moved = run(SlicedMMDFlow(y, directions=patch), x, 3).x[-1]
    assert (moved[:, 2] == x[:, 2]).all() and (moved[:, :2] != x[:, :2]).all()


@pytest.mark.parametrize("name", FLOWS)
def test_resumed_runs_are_the_same_bits(name, tmp_path):
    y, x0 = start(name)
    path = tmp_path / "flow.npz"
    once = run(FLOWS[name](y), x0, 12, seed=5, thin=3)
    run(FLOWS[name](y), x0, 7, seed=5, thin=3, checkpoint=path)
    flow = pickle.loads(pickle.dumps(FLOWS[name](y)))
    rest = run(flow, x0, 12, seed=5, thin=3, checkpoint=path)
    np.testing.assert_array_equal(rest.x, once.x)
    np.testing.assert_array_equal(rest.stats["mmd2"], once.stats["mmd2"])
    np.testing.assert_array_equal(rest.state.momentum, once.state.momentum)
    assert rest.n_gradient_evaluations == 13
    with pytest.raises(mk.CheckpointError, match="setting"):
        run(FLOWS[name](y + 0.5), x0, 12, seed=5, thin=3, checkpoint=path)


@pytest.mark.parametrize("name", FLOWS)
def test_steps_change_nothing_and_do_not_depend_on_threads(name):
    y, x0 = start(name)
    flow, before = FLOWS[name](y), x0.copy()
    state = flow.init(x0, seed=1)
    kept = state.x.copy(), state.momentum.copy()
    first = flow.step(state)
    np.testing.assert_array_equal(state.x, kept[0])
    np.testing.assert_array_equal(state.momentum, kept[1])
    np.testing.assert_array_equal(x0, before)
    flow.init(x0 + 1, seed=2)  # another seed does not disturb
    np.testing.assert_array_equal(flow.step(state).x, first.x)
    threads = mk.get_num_threads()
    try:
        mk.set_num_threads(5)
        np.testing.assert_array_equal(flow.step(state).x, first.x)
    finally:
        mk.set_num_threads(threads)


def test_coinciding_particles_are_warned_of():
    y = normal(1, 20, 2)
    x0 = normal(2, 10, 2)
    x0[7] = x0[3]
    with pytest.warns(RuntimeWarning, match="x0: 1 of 10 particles repeat"):
        state = SlicedMMDFlow(y).init(x0)
    assert (state.momentum[7] == state.momentum[3]).all()
    with pytest.warns(RuntimeWarning, match="x0: 1 of 10"):
        MMDFlow(mk.kernels.Energy(), y, 1.0).init(x0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parted = SlicedMMDFlow(y, jitter=1e-3).init(x0, seed=1)
        MMDFlow(mk.kernels.Energy(), y, 1.0, noise=0.1).init(x0)
        x0[7, 1] += 1e-9  # equal in one coordinate only
        SlicedMMDFlow(y).init(x0)
        # equal particles of different conditions are apart
        ConditionalSlicedMMDFlow(y[:10], np.arange(10.0)[:, None], step=1.0).init(np.zeros((10, 2)))
    assert np.abs(parted.x - x0).max() < 6e-3 and (parted.x[7] != parted.x[3]).all()


def test_divergence_is_reported():
    """A polynomial kernel has forces without bound."""
    flow = MMDFlow(mk.kernels.Polynomial(3, 1.0, 1.0), 3 * normal(1, 20, 2), 50.0)
    with pytest.warns(mk.ConvergenceWarning, match="not finite"), np.errstate(all="ignore"):
        result = run(flow, normal(2, 10, 2), 30)
    assert not result.converged and np.isnan(result.stats["mmd2"][-1])


DIVERGING = {
    "sliced": lambda y: SlicedMMDFlow(y, 1e300, n_slices=3, momentum=0.9),
    "fixed": lambda y: SlicedMMDFlow(y, 1e300, n_slices=3, momentum=0.9, resample=False),
    "conditional": lambda y: ConditionalSlicedMMDFlow(y, y, step=1e300, n_slices=3),
    "exact": lambda y: MMDFlow(mk.kernels.Energy(), y, 1e300, momentum=0.9),
    "single": lambda y: SlicedMMDFlow(y.astype("float32"), 1e38, n_slices=3),
}


@pytest.mark.parametrize("name", DIVERGING)
def test_finite_but_enormous_particles_have_diverged(name):
    """Beyond what can be projected there is no force; what was saved before stays."""
    flow = DIVERGING[name](normal(1, 20, 2))
    x0 = normal(2, 20, 2, dtype="float32" if name == "single" else "float64")
    for n_steps in (1, 2, 200):
        with pytest.warns(mk.ConvergenceWarning, match="not finite"), np.errstate(all="ignore"):
            result = run(flow, x0, n_steps)
        assert not result.converged and len(result.x) == n_steps
        assert np.isnan(result.stats["mmd2"][-1]) and result.x.dtype == x0.dtype
    with pytest.raises(ValueError, match="^x: expected numbers whose"):
        flow.init(x0 * x0.dtype.type(1e38 if name == "single" else 1e200))


def test_weights_of_either_dtype_and_lists():
    x, y, w = normal(1, 20, 2), normal(2, 12, 2), np.arange(12.0)
    for make in (
        lambda b: SlicedMMDFlow(y, target_weights=b, n_slices=5, target_batch=7),
        lambda b: MMDFlow(mk.kernels.Energy(), y, 1.0, target_weights=b),
        lambda b: ConditionalSlicedMMDFlow(y, y, step=1.0, conditions=x, target_weights=b),
    ):
        both = [run(make(b), x, 3).x for b in (w, w.astype("float32"), w.tolist())]
        np.testing.assert_array_equal(both[0], both[1])
        np.testing.assert_array_equal(both[0], both[2])
    for r in (True, False):
        xi = [[1.0, 0.0], [0.6, 0.8]]
        a, b = (run(SlicedMMDFlow(y, directions=u, resample=r), x, 3).x for u in (xi, np.array(xi)))
        np.testing.assert_array_equal(a, b)


def test_batches_always_have_weight():
    w = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow = SlicedMMDFlow(normal(1, 6, 2), target_weights=w, target_batch=4, n_slices=2)
        assert run(flow, normal(2, 5, 2), 100).converged
        with pytest.raises(ValueError, match="^target_weights: .* finite sum"):
            SlicedMMDFlow(normal(1, 6, 2), target_weights=np.full(6, 1e308))


def test_the_warning_of_duplicates_points_at_the_caller():
    y, x0 = normal(1, 6, 2), np.zeros((3, 2))
    for call in (lambda: SlicedMMDFlow(y).init(x0), lambda: mk.run(SlicedMMDFlow(y), x0, 1, progress=False)):  # fmt: skip
        with pytest.warns(RuntimeWarning, match="repeat") as caught:
            call()
        assert (caught[0].filename, caught[0].lineno) == (__file__, call.__code__.co_firstlineno)


def test_one_observation_may_be_a_list():
    x = normal(1, 30, 1)
    options = dict(n_samples=4, n_steps=2, n_slices=3, progress=False)
    one, two, three = (
        mk.flows.posterior_samples(x, x + 1, o, **options)
        for o in ([0.5], np.array([0.5]), [[0.5]])
    )
    np.testing.assert_array_equal(one, two)
    assert one.shape == (4, 1) and three.shape == (1, 4, 1)
    with pytest.raises(TypeError, match="^observation: "):
        mk.flows.posterior_samples(x, x + 1, [[0.5], [1.0, 2.0]], **options)


REFUSED = {
    "target_batch: expected more than the 3 points of weight 0, got 3": lambda y: SlicedMMDFlow(
        y, target_weights=[0, 0, 0, 1, 1, 1.0], target_batch=3
    ),
    "directions: expected rows of length 1, got 2 in row 1": lambda y: SlicedMMDFlow(
        y, directions=[[1.0, 0.0], [0.0, 2.0]]
    ),
    "directions: expected shape (P, 2), got (3, 3)": lambda y: SlicedMMDFlow(
        y, directions=np.eye(3)
    ),
    "target: expected shape": lambda y: SlicedMMDFlow(y[0]),
    "target: expected at least one": lambda y: SlicedMMDFlow(y[:0]),
    "target: expected finite": lambda y: SlicedMMDFlow(y * np.nan),
    "step: expected a positive": lambda y: SlicedMMDFlow(y, 0.0),
    "momentum: expected 0 <=": lambda y: SlicedMMDFlow(y, momentum=1.0),
    "decay: expected 0 <": lambda y: SlicedMMDFlow(y, decay=1.5),
    "jitter: expected a number >= 0": lambda y: SlicedMMDFlow(y, jitter=-1),
    "r: expected 0 < r < 2, got 2": lambda y: SlicedMMDFlow(y, r=2.0),
    "n_slices: expected an integer": lambda y: SlicedMMDFlow(y, n_slices=0),
    "directions: expected one of 'orth": lambda y: SlicedMMDFlow(y, directions="grid"),
    "directions: expected one of 'orthogonal', 'random', 'sobol', an array": lambda y: (
        SlicedMMDFlow(y, directions=3)
    ),
    "resample: expected True or False": lambda y: SlicedMMDFlow(y, resample=1),
    "target_batch: expected at most the 6": lambda y: SlicedMMDFlow(y, target_batch=7),
    "target_weights: expected shape": lambda y: SlicedMMDFlow(y, target_weights=np.ones(5)),
    "target_weights: expected weights >= 0": lambda y: SlicedMMDFlow(y, target_weights=-np.ones(6)),
    "y: expected shape": lambda y: ConditionalSlicedMMDFlow(y, y[:3], step=1.0),
    "conditions: expected shape": lambda y: ConditionalSlicedMMDFlow(
        y, y, step=1.0, conditions=y[:, :1]
    ),
    "observations: expected finite": lambda y: ConditionalSlicedMMDFlow(
        y, y, step=1.0, observations=y * np.inf
    ),
    "condition_scale: expected a positive": lambda y: ConditionalSlicedMMDFlow(
        y, y, step=1.0, condition_scale=0.0
    ),
    "x0: expected shape (6, 2) to match 6 conditions, got (5, 2)": lambda y: (
        ConditionalSlicedMMDFlow(y, y, step=1.0).init(y[:5])
    ),
    "x0: expected shape (8, 2) to match 6 conditions and 2 observations": lambda y: (
        ConditionalSlicedMMDFlow(y, y, step=1.0, observations=y[:2]).init(y)
    ),
    "x0: expected finite": lambda y: SlicedMMDFlow(y).init(y + np.nan),
    "target: expected shape (m, 1)": lambda y: SlicedMMDFlow(y).init(y[:, :1]),
    "target: expected float32": lambda y: SlicedMMDFlow(y).init(y.astype("float32")),
    "kernel: expected a mckean.kernels.Kernel": lambda y: MMDFlow("gaussian", y, 1.0),
    "kernel: expected one that is finite": lambda y: MMDFlow(mk.kernels.Coulomb(), y, 1.0),
    "noise: expected a number": lambda y: MMDFlow(mk.kernels.Energy(), y, 1.0, noise=-1.0),
    "observation: expected shape": lambda y: mk.flows.posterior_samples(
        y, y, y[0, :1], progress=False
    ),
    "n_samples: expected an integer": lambda y: mk.flows.posterior_samples(y, y, y[0], 0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_arguments_are_named(message):
    import re

    with pytest.raises((ValueError, TypeError), match="^" + re.escape(message)) as caught:
        REFUSED[message](normal(1, 6, 2))
    assert "\n" not in str(caught.value)
