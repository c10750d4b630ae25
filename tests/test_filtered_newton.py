"""The filtered stochastic Newton method: its momentum form, the published rules, and its tables."""

import warnings

import numpy as np
import pytest

import mckean as mk
from mckean import optimizers as O

quiet = pytest.mark.filterwarnings("ignore:FilteredNewton:RuntimeWarning")


def regression(seed=0, n=400, d=4, scale=1.0):
    rng = np.random.default_rng(seed)
    X = scale * rng.normal(size=(n, d))
    y = X @ rng.normal(size=d) + rng.normal(size=n)
    return O.LeastSquaresLoss(X, y), np.linalg.lstsq(X, y, rcond=None)[0]


def published(mu, Sig, g, H, alpha, beta):
    """One filter update, written from the formulas with inverses."""
    inv, eye = np.linalg.inv, np.eye(len(g))
    S = beta / (1 - alpha**2) * eye
    M = alpha**2 * Sig + beta * eye
    bad = np.linalg.eigvalsh(inv(H) - inv(S))[0] <= 1e-6
    Q = inv(inv(H) + inv(S)) if bad else H
    new = inv(inv(M) + inv(Q) - inv(S))
    return new @ (alpha * inv(M) @ mu + inv(Q) @ g), new, Q, M


@quiet
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])  # H below S, near it, above it
def test_steps_are_the_published_ones_and_their_momentum_form(scale):
    f, _ = regression(scale=scale)
    method = O.FilteredNewton(f, 40)
    state = method.init(np.ones(4), seed=3)
    for k in range(12):
        batch = method._batch(k, 3)
        g, H = batch.gradient(state.x), batch.hessian(state.x) + 1e-12 * np.eye(4)
        after = method.step(state)
        if k == 0:
            mu, Sig, p = g, H, -np.linalg.solve(H, g)
        else:
            mu, Sig, Q, M = published(state.mean, state.covariance, g, H, 0.9, 0.2)
            p = -np.linalg.solve(Sig, mu)
            carried = np.linalg.solve(M, state.covariance @ state.direction)
            momentum = -np.linalg.solve(Q, g) + 0.9 * carried
            assert np.allclose(momentum, after.direction, rtol=1e-12, atol=1e-12 * abs(p).max())
        assert np.allclose(after.mean, mu, rtol=1e-9, atol=1e-11)
        assert np.allclose(after.covariance, Sig, rtol=1e-9, atol=1e-11)
        assert np.allclose(after.direction, p, rtol=1e-9, atol=1e-11)
        assert np.allclose(after.x, state.x + after.step_length * after.direction, atol=1e-14)
        state = after


@quiet
def test_the_published_rule_cuts_newton_steps_to_a_sixteenth():
    f, _ = regression()
    first = O.FilteredNewton(f, 400).step(O.FilteredNewton(f, 400).init(np.ones(4)))
    assert first.step_length == 1 / 16 and first.n_values == 6
    mild = O.FilteredNewton(f, 400, armijo=1e-4)
    assert mild.step(mild.init(np.ones(4))).step_length == 1.0


PLAIN = {"alpha": 0.0, "beta": 1e9}


def test_without_memory_it_is_the_plain_stochastic_newton_method():
    f, _ = regression()
    method = O.FilteredNewton(f, 40, **PLAIN)
    state = method.init(np.ones(4))
    for k in range(4):
        batch = method._batch(k, 0)
        after = method.step(state)
        newton = -np.linalg.solve(batch.hessian(state.x), batch.gradient(state.x))
        assert np.allclose(after.direction, newton, rtol=1e-8)
        assert after.momentum == 0
        state = after


def medians(armijo, b, runs=40):
    """Median distances to the optimum after 5, 15 and 30 steps: filtered, plain."""
    ends = {"filtered": ({}, []), "plain": (PLAIN, [])}
    for run in range(runs):
        f, best = regression(run, n=1000, d=5)
        x0 = best + 1.5 * np.random.default_rng(1000 + run).normal(size=5)
        for options, found in ends.values():
            method = O.FilteredNewton(f, b, armijo=armijo, **options)
            r = mk.run(method, x0[None], 30, seed=run, progress=False)
            found.append(np.linalg.norm(r.x[[4, 14, 29], 0] - best, axis=1))
    return [np.median(found, 0) for _, found in ends.values()]


@quiet
@pytest.mark.slow
def test_filtering_wins_under_the_published_rule_and_loses_under_a_mild_one():
    """Seeds are fixed; the medians of 40 runs differ by factors of 1.5 and more, as in the tables."""
    filtered, plain = medians(0.95, 30)
    assert (filtered < plain).all() and filtered[-1] < 0.5 * plain[-1]
    filtered, plain = medians(1e-4, 30)
    assert filtered[-1] > plain[-1]


def test_growing_momentum_is_warned_of():
    f, _ = regression(scale=2.0)
    with pytest.warns(RuntimeWarning, match="momentum grows"):
        O.FilteredNewton(f, 50).step(O.FilteredNewton(f, 50).init(np.zeros(4)))
    calm = O.FilteredNewton(f, 50, beta=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert calm.step(calm.init(np.zeros(4))).momentum < 1


@quiet
def test_batches_are_drawn_without_repetition_and_by_seed():
    f, _ = regression()
    method = O.FilteredNewton(f, 30)
    X = [method._batch(k, 7)._X for k in range(50)]
    assert all(len(np.unique(x, axis=0)) == 30 for x in X)
    counts = {}
    for x in X:
        for row in map(bytes, x):
            counts[row] = counts.get(row, 0) + 1
    assert len(counts) > 380  # of 400; a sample is missed with probability (1 - 30/400)^50 = 2 %
    a, b, c = (mk.run(method, np.zeros((1, 4)), 10, seed=s, progress=False).x for s in (1, 1, 2))
    assert (a == b).all() and not (a == c).all()


@quiet
def test_given_batches_are_used_in_turn(tmp_path):
    f, _ = regression()
    parts = [np.arange(0, 200), np.arange(200, 400)]
    method = O.FilteredNewton(f, batches=parts)
    assert method._batch(3, 0).n_samples == 200
    result = mk.run(method, np.zeros((1, 4)), 12, progress=False)
    path = tmp_path / "run.npz"
    mk.run(method, np.zeros((1, 4)), 5, progress=False, checkpoint=path)
    assert (
        mk.run(method, np.zeros((1, 4)), 12, progress=False, checkpoint=path).x == result.x
    ).all()
    assert set(result.stats) == {"value", "gradient_norm", "step_length", "momentum"}
    assert result.n_gradient_evaluations == 12


@quiet
def test_functions_of_samples(xp):
    data = np.random.default_rng(1).normal(size=(100, 2))

    def value(x, i):
        return float((((xp.to_numpy(x) - data[i]) ** 2).sum(1) / 2).mean())

    f = O.SampledObjective(
        value,
        lambda x, i: xp.asarray(xp.to_numpy(x) - data[i].mean(0)),
        lambda x, i: xp.asarray(np.eye(2)),
        100,
    )
    r = mk.run(O.FilteredNewton(f, 20), xp.asarray(np.full((1, 2), 3.0)), 60, progress=False)
    assert xp.is_array(r.x)
    assert np.allclose(xp.to_numpy(r.x)[-1, 0], data.mean(0), atol=0.3)


@quiet
def test_errors():
    f, _ = regression()
    for make, error, message in [
        (
            lambda: O.FilteredNewton(np.sin, 3),
            TypeError,
            "objective: expected an object with batch",
        ),
        (lambda: O.FilteredNewton(f), ValueError, "batch_size: expected either"),
        (lambda: O.FilteredNewton(f, 3, batches=[[0]]), ValueError, "batch_size: expected either"),
        (lambda: O.FilteredNewton(f, 401), ValueError, "batch_size: expected at most 400"),
        (lambda: O.FilteredNewton(f, 3, alpha=1.0), ValueError, "alpha: expected a number in"),
        (lambda: O.FilteredNewton(f, 3, beta=0), ValueError, "beta: expected a positive"),
        (lambda: O.FilteredNewton(f, 3, armijo=1), ValueError, "armijo: expected a number in"),
        (lambda: O.FilteredNewton(f, batches=[]), ValueError, "batches: expected at least one"),
        (
            lambda: O.FilteredNewton(f, 3).init(np.ones((2, 4))),
            ValueError,
            "x0: expected one point",
        ),
    ]:
        with pytest.raises(error, match=message):
            make()
    bad = O.SampledObjective(lambda x, i: 0.0, lambda x, i: x, lambda x, i: -np.eye(2), 5)
    with pytest.raises(ValueError, match="hessian: expected a positive definite matrix"):
        O.FilteredNewton(bad, 2).step(O.FilteredNewton(bad, 2).init(np.ones(2)))
    bad = O.SampledObjective(lambda x, i: 0.0, lambda x, i: x * np.nan, lambda x, i: np.eye(2), 5)
    with pytest.raises(FloatingPointError, match="not finite for the batch of step 0"):
        O.FilteredNewton(bad, 2).step(O.FilteredNewton(bad, 2).init(np.ones(2)))


def test_objective_without_a_number_of_samples():
    class Batches:
        def batch(self, index):
            return O.Objective(lambda x: 0.5 * x @ x, lambda x: x, hessian=lambda x: np.eye(2))

    with pytest.raises(TypeError, match="objective: expected an object with n_samples"):
        O.FilteredNewton(Batches(), 2)
    O.FilteredNewton(Batches(), batches=[[0]])
