"""Schrödinger bridges: transition laws in closed form, bridges of points, refits, and predators with their prey."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov

import mckean as mk
from mckean._array import as_input
from mckean.transport import (
    AffineDrift,
    BrownianReference,
    Drift,
    Increments,
    LinearDrift,
    schrodinger_bridge,
)
from mckean.transport._references import Host

A, C = np.array([[-0.3, 1.0], [-1.2, -0.1]]), np.array([0.2, -0.4])
AFFINE = AffineDrift(A, C, sigma=[0.3, 0.5])
OPTIONS = dict(progress=False, n_substeps=10)


@pytest.fixture(scope="module")
def claim():
    """Predators and prey, from the script that measures the claim."""
    folders = [str(Path(__file__).parents[1] / "bench" / f) for f in ("", "claims")]
    sys.path[:0] = folders
    yield importlib.import_module("bridge_lotka_volterra")
    for folder in folders:
        sys.path.remove(folder)


def clouds(*sizes, seed=0, d=2):
    g = np.random.default_rng(seed)
    return [g.standard_normal((n, d)) + 0.5 * k for k, n in enumerate(sizes)]


def law_of(reference, x, end=0.7, steps=50):
    return Host(reference, as_input(x, "x")).transition(x, 0.0, end, steps)


# ---- transition laws ----


def affine_law(x, t):
    """Mean and covariance of dX = (A X + c) dt + diag(s) dW."""
    fixed = np.linalg.solve(A, -C)
    step = expm(A * t)
    noise = np.diag(AFFINE.sigma**2)
    stationary = solve_continuous_lyapunov(A, -noise)
    return (x - fixed) @ step.T + fixed, step, stationary - step @ stationary @ step.T


def test_affine_transitions_converge_at_second_order():
    (x,) = clouds(5)
    mean, step, covariance = affine_law(x, 0.7)
    errors = []
    for n in (10, 20):
        law = law_of(AFFINE, x, steps=n)
        assert law.shared and law.covariance.shape == (2, 2)
        errors.append(
            max(
                abs(a - b).max()
                for a, b in (
                    (law.mean, mean),
                    (law.propagator, step),
                    (law.covariance, covariance),
                )
            )
        )
    assert errors[1] < 4e-4 and 3.5 < errors[0] / errors[1] < 4.5


def test_laws_do_not_depend_on_who_gives_the_jacobian():
    (x,) = clouds(6)
    known = law_of(AFFINE, x)
    for reference in (
        Drift(AFFINE.drift, AFFINE.sigma),  # differences
        Drift(AFFINE.drift, AFFINE.sigma, jacobian=lambda t, x: np.tile(A, (len(x), 1, 1))),
        Drift(AFFINE.drift, AFFINE.sigma, jacobian=lambda t, x: A),
    ):
        law = law_of(reference, x)
        assert np.allclose(law.mean, known.mean)
        assert np.allclose(law.propagator, known.propagator, atol=1e-8)
        assert np.allclose(law.covariance, known.covariance, atol=1e-8)


def test_brownian_transition():
    (x,) = clouds(4)
    law = law_of(BrownianReference(0.5), x, end=2.0)
    assert np.allclose(law.mean, x) and np.allclose(law.covariance, 0.5 * np.eye(2))


def test_linear_noise_of_a_nonlinear_drift(claim):
    """Against 20 000 simulated particles: means within six standard errors and the bias of second order in the noise."""
    x0 = np.tile([[5.0, 4.0]], (20_000, 1))
    model = LinearDrift(claim.features, claim.RATES, 0.02, jacobian=claim.jacobian)
    end = model.simulate(x0, [0.0, 1.0], seed=4)[1]
    law = law_of(model, x0[:1], end=1.0)
    assert not law.shared
    assert (abs(end.mean(0) - law.mean[0]) < 6 * end.std(0) / 141 + 0.01).all()
    assert np.allclose(np.cov(end.T), law.covariance[0], rtol=0.15, atol=5e-6)
    again = law_of(LinearDrift(claim.features, claim.RATES, 0.02), x0[:1], end=1.0)
    assert np.allclose(again.covariance, law.covariance, rtol=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_score_is_the_gradient_of_log_h(shared):
    x, y = clouds(5, 7)
    G = np.random.default_rng(1).standard_normal(7)
    jacobian = None if shared else lambda t, x: np.tile(A, (len(x), 1, 1))
    reference = AFFINE if shared else Drift(AFFINE.drift, AFFINE.sigma, jacobian=jacobian)

    def log_h(x):
        law = law_of(reference, x)
        inverse = np.linalg.inv(law.covariance if shared else law.covariance[0])
        gaps = y - law.mean[:, None]
        exponent = G - 0.5 * np.einsum("ija,ab,ijb->ij", gaps, inverse, gaps)
        return np.log(np.exp(exponent).sum(1))

    score = law_of(reference, x).score(y, G)
    for k in range(2):
        h = 1e-5 * np.eye(2)[k]
        slope = (log_h(x + h) - log_h(x - h)) / 2e-5
        assert np.allclose(score[:, k], slope, rtol=1e-6, atol=1e-7)


def test_scores_in_blocks(monkeypatch):
    from mckean.transport import _linear_noise

    x, y = clouds(9, 7)
    G = np.zeros(7)
    law = law_of(Drift(AFFINE.drift, AFFINE.sigma), x)
    whole, costs = law.score(y, G), law._costs(y, slice(None))
    monkeypatch.setattr(_linear_noise, "_BLOCK", 30)
    assert np.allclose(law.score(y, G), whole, rtol=1e-13)
    assert np.allclose(law._costs(y, slice(None)), costs, rtol=1e-13)


# ---- couplings ----


def test_brownian_coupling_is_entropic_transport():
    """Of the cost |x - y|^2 with eps = 2 sigma^2 dt."""
    x, y = clouds(12, 9)
    res = schrodinger_bridge([x, y], [1.0, 3.0], sigma=0.6, tol=1e-9, **OPTIONS)
    plan = mk.sinkhorn_points(x, y, eps=2 * 0.36 * 2.0, tol=1e-9).plan()
    assert res.converged and np.allclose(res.couplings[0].plan(), plan, atol=1e-9)
    assert res.n_iter == 0 and res.theta is None and "theta" not in res.history


def test_points_and_costs_give_one_coupling():
    """Affine drifts are solved as points under a metric, others as a matrix."""
    x, y = clouds(10, 14, seed=3)
    shared = schrodinger_bridge([x, y], [0, 0.8], AFFINE, iterations=0, tol=1e-10, **OPTIONS)
    general = Drift(AFFINE.drift, AFFINE.sigma)
    dense = schrodinger_bridge([x, y], [0, 0.8], general, tol=1e-10, **OPTIONS)
    assert np.allclose(shared.couplings[0].plan(), dense.couplings[0].plan(), atol=1e-8)
    # the same noise and the same laws, time by time instead of in lockstep
    assert np.allclose(shared.segments[0], dense.segments[0], atol=1e-6)


def test_links_in_lockstep_are_the_links_one_by_one():
    x = clouds(8, 5, 7, seed=5)
    together = schrodinger_bridge(x, [0, 1, 2], AFFINE, iterations=0, **OPTIONS)
    apart = schrodinger_bridge(x, [0, 1, 2], Drift(AFFINE.drift, AFFINE.sigma), **OPTIONS)
    for one, other in zip(together.segments, apart.segments, strict=True):
        assert np.allclose(one, other, atol=1e-6)


# ---- paths ----


def test_brownian_bridge_of_two_points():
    """From one point to one: the variance of the Euler scheme is known. Six standard errors, 10 times 2 checks: a chance
    below 1e-7."""
    n, steps = 8000, 10
    x, y = np.zeros((n, 1)), np.array([[2.0]])
    res = schrodinger_bridge([x, y], [0, 1], sigma=0.7, n_substeps=steps, progress=False)
    path = res.segments[0][:, :, 0]
    left = steps - np.arange(steps + 1.0)
    for k in range(1, steps):
        variance = 0.49 / steps * left[k] ** 2 * (1 / left[1 : k + 1] ** 2).sum()
        assert abs(path[k].mean() - 0.2 * k) < 6 * np.sqrt(variance / n)
        assert abs(path[k].var() / variance - 1) < 6 * np.sqrt(2 / n)
    assert (path[-1] == 2).all()


def test_paths_land_as_the_coupling_says():
    """4000 paths from each of two points, to three; the Euler scheme is off by little, here below 0.02."""
    x = np.repeat([[0.0], [1.0]], 4000, axis=0)
    y = np.array([[-0.5], [0.4], [1.2]])
    res = schrodinger_bridge([x, y], [0, 1], sigma=0.8, n_substeps=40, progress=False)
    landed = res.segments[0][-1, :, 0].reshape(2, 4000, 1) == y[:, 0]
    plan = res.couplings[0].plan().reshape(2, 4000, 3).sum(1) * 2
    assert abs(landed.mean(1) - plan).max() < 0.02 + 6 * 0.5 / np.sqrt(4000)


def test_whole_paths_pass_through_the_snapshots():
    snapshots = clouds(20, 30, 25)
    res = schrodinger_bridge(snapshots, [0, 1, 3], sigma=0.5, **OPTIONS)
    assert res.times.tolist() == [*np.linspace(0, 1, 11), *np.linspace(1, 3, 11)[1:]]
    assert res.paths.shape == (21, 20, 2)
    assert (res.paths[0] == snapshots[0]).all()
    for step, cloud in ((10, snapshots[1]), (20, snapshots[2])):
        assert (res.paths[step][:, None] == cloud).all(2).any(1).all()
    more = res.sample_paths(50, seed=1)
    assert more.shape == (21, 50, 2)
    starts = (more[0][:, None] == snapshots[0]).all(2).sum(0)
    assert starts.min() >= 1 and starts.max() <= 4
    assert [s.shape for s in res.segments] == [(11, 20, 2), (11, 30, 2)]
    assert "snapshots=(20, 30, 25)" in repr(res)


def test_clouds_at_any_time():
    snapshots = clouds(6, 8, 7)
    res = schrodinger_bridge(snapshots, [0, 1, 3], sigma=0.5, **OPTIONS)
    assert (res.sample_at(0) == snapshots[0]).all()
    assert (res.sample_at(1) == snapshots[1]).all()
    assert (res.sample_at(3) == res.segments[1][-1]).all()
    assert np.allclose(res.sample_at(0.3), res.segments[0][3])
    assert np.allclose(res.sample_at(1.3), (res.segments[1][1] + res.segments[1][2]) / 2)
    for t in (-0.1, 3.1):
        with pytest.raises(ValueError, match="t: expected a time from 0 to 3"):
            res.sample_at(t)


def test_same_seed_same_paths():
    snapshots = clouds(6, 8)
    one, same, other = (
        schrodinger_bridge(snapshots, [0, 1], sigma=0.5, seed=s, **OPTIONS) for s in (1, 1, 2)
    )
    assert (one.paths == same.paths).all() and (one.segments[0] == same.segments[0]).all()
    assert (one.paths[5] != other.paths[5]).any()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (3, 1, 2)])
@pytest.mark.parametrize("d", [1, 3])
def test_small_snapshots(sizes, d):
    res = schrodinger_bridge(
        clouds(*sizes, d=d), range(len(sizes)), sigma=1.0, n_substeps=1, progress=False
    )
    assert np.isfinite(res.paths).all() and res.paths.shape == (len(sizes), sizes[0], d)


# ---- refits ----


def increments(theta, features, *, noise=0.0, seed=0):
    g = np.random.default_rng(seed)
    x, dt = g.standard_normal((500, 2)), g.uniform(0.01, 0.1, 500)
    z = g.standard_normal((500, 2)) * [1.0, 5.0]
    velocity = features(x) @ theta + noise * z / np.sqrt(dt)[:, None]
    return Increments(np.zeros(500), x, velocity, dt)


def test_fit_is_weighted_least_squares(claim):
    theta = np.array([0.5, -1.0, 2.0, 0.3])
    start = LinearDrift(claim.features, np.zeros(4), [0.1, 0.5])
    assert np.allclose(start.fit(increments(theta, claim.features)).theta, theta)
    noisy = increments(theta, claim.features, noise=0.1)
    root = np.sqrt(noisy.dt)[:, None] / start.sigma
    design = (claim.features(noisy.x) * root[..., None]).reshape(-1, 4)
    best = np.linalg.lstsq(design, (noisy.velocity * root).reshape(-1), rcond=None)[0]
    assert np.allclose(start.fit(noisy).theta, best)
    shrunk = LinearDrift(claim.features, np.zeros(4), [0.1, 0.5], ridge=1e9).fit(noisy).theta
    assert np.linalg.norm(shrunk) < 0.1 * np.linalg.norm(best)


def test_features_that_cannot_be_told_apart():
    twice = LinearDrift(lambda x: np.stack([x, x], axis=2), [0.0, 0.0], 0.1)
    fitted = twice.fit(increments(np.array([1.0, 1.0]), twice.features)).theta
    assert np.allclose(fitted, [1, 1])


def test_affine_fit():
    made = increments(np.ones(1), lambda x: (x @ A.T + C)[..., None])
    fitted = AffineDrift(np.zeros((2, 2)), np.zeros(2), 0.1).fit(made)
    assert np.allclose(fitted.theta, np.column_stack([A, C]))
    assert np.allclose(fitted.drift(0, made.x), made.velocity)


def test_any_drift_with_a_fit_of_yours():
    seen = []

    def fit(increments):
        seen.append(increments)
        w = increments.dt[:, None]
        mean = (w * increments.velocity).sum(0) / w.sum()
        return lambda t, x: 0 * x + mean

    x = clouds(40, 40)
    x[1] = x[0] + [2.0, -1.0]
    guess = Drift(lambda t, x: 0 * x, 0.3, fit=fit)
    res = schrodinger_bridge(x, [0, 2], guess, iterations=3, **OPTIONS)
    assert len(seen) == res.n_iter == 3
    assert seen[0].x.shape == seen[0].velocity.shape == (400, 2)
    assert np.unique(seen[0].t).size == 10 and np.allclose(seen[0].dt, 0.2)
    assert np.allclose(res.reference.drift(0, np.zeros((1, 2))), [[1.0, -0.5]], atol=0.1)
    still = schrodinger_bridge(x, [0, 2], lambda t, x: 0 * x, sigma=0.3, **OPTIONS)
    assert still.n_iter == 0


def test_turning_particles_are_found():
    """Rotation, from three clouds of 80: the error of the fit is about 0.05."""
    turn = AffineDrift([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0], sigma=0.1)
    snapshots = []
    for k in range(3):
        x0 = np.array([1.0, 0.0]) + 0.3 * mk.random.normal(k, (80, 2))
        snapshots.append(turn.simulate(x0, [0.0, k + 1e-9], seed=k)[1])
    guess = AffineDrift(np.zeros((2, 2)), np.zeros(2), sigma=0.1)
    res = schrodinger_bridge(
        snapshots, range(3), guess, iterations=6, n_substeps=20, progress=False
    )
    assert res.converged and abs(res.theta - turn.theta).max() < 0.2
    assert res.history["theta"].shape == (7, 2, 3)
    assert (res.history["theta"][0] == 0).all() and (res.history["theta"][-1] == res.theta).all()
    assert res.history["marginal_error"].shape == res.history["n_iter"].shape == (7,)


def test_frameworks(xp, dtype, claim):
    """User functions see arrays of the caller's framework."""
    snapshots = [a.astype(dtype) for a in ([[5.0, 4.0], [5.1, 4.1]], [[2.7, 3.9], [2.6, 4.0], [2.8, 4.2]])
                 for a in [np.array(a)]]  # fmt: skip

    def features(z):
        assert xp.is_array(z) and xp.dtype(z) == dtype
        return xp.asarray(claim.features(xp.to_numpy(z)))

    model = LinearDrift(features, [0.9, 0.3, 0.3, 0.1], 0.5)
    given = [xp.asarray(s) for s in snapshots]
    res = schrodinger_bridge(given, [0, 1], model, iterations=1, n_substeps=4, progress=False)
    known = LinearDrift(claim.features, [0.9, 0.3, 0.3, 0.1], 0.5)
    want = schrodinger_bridge(
        [s.astype(float) for s in snapshots], [0, 1], known, iterations=1, n_substeps=4,
        progress=False,
    )  # fmt: skip
    near = dict(rtol=2e-2, atol=1e-3) if dtype == "float32" else dict(rtol=1e-6)
    for got, expected in ((res.theta, want.theta), (res.paths, want.paths), (res.sample_at(0.4), want.sample_at(0.4))):  # fmt: skip
        assert xp.dtype(got) == dtype
        assert np.allclose(xp.to_numpy(got), expected, **near)
    assert xp.dtype(AFFINE.drift(0.0, given[0])) == dtype


# ---- predators and prey ----


@pytest.mark.parametrize("seed", [0, 1])
def test_lotka_volterra(claim, seed):
    """Rates within a tenth. Where nothing was seen, W1 is at least halved; at the last time two draws of the truth itself
    are half as far apart as the bridge of Brownian motion is."""
    every = [claim.snapshot(seed, t, 100) for t in range(9)]
    options = dict(n_substeps=10, progress=False, seed=seed)
    fixed = schrodinger_bridge(every[::2], claim.TRAIN, sigma=claim.SIGMA, **options)
    res = schrodinger_bridge(every[::2], claim.TRAIN, claim.model([1e-5] * 4), **options)
    assert res.converged and res.n_iter == 5
    assert abs(res.theta / claim.RATES - 1).max() < 0.1
    assert abs(np.diff(res.history["theta"][-2:], axis=0)).max() < 0.01  # settled
    ratio = [
        claim.w1(res.sample_at(t), every[t]) / claim.w1(fixed.sample_at(t), every[t])
        for t in claim.HELD_OUT
    ]
    assert max(ratio[:3]) < 0.5 and ratio[0] < 0.2 and ratio[3] < 0.6


@pytest.mark.slow
def test_lotka_volterra_of_the_paper(claim, tmp_path, capsys):
    assert claim.main(["--quick", "--picture", str(tmp_path / "claim.png")]) == 0
    assert "verdict: holds" in capsys.readouterr().out


# ---- what can go wrong ----


def test_runaway_reference():
    x = clouds(4, 4)
    with pytest.raises(FloatingPointError, match="its drift leaves the range of numbers"):
        schrodinger_bridge(x, [0, 10], lambda t, x: 100 * x**3, sigma=1.0, **OPTIONS)


def test_not_converged_is_said():
    x = clouds(30, 30)
    with pytest.warns(mk.ConvergenceWarning, match="the couplings stopped") as found:
        res = schrodinger_bridge(x, [0, 1], sigma=0.05, max_iter=1, tol=1e-12, **OPTIONS)
    assert not res.converged and found[0].filename == __file__


X = np.zeros((3, 2))


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(snapshots=[X]), "snapshots: expected a sequence"),
        (dict(snapshots=X), "snapshots: expected a sequence"),
        (dict(snapshots=[X, X[:, :1]]), r"snapshots\[1\]: expected shape \(n, 2\)"),
        (dict(snapshots=[X, X * np.nan]), r"snapshots\[1\]: expected finite"),
        (dict(snapshots=[X, X[:0]]), r"snapshots\[1\]: expected at least 1"),
        (dict(times=[0.0]), "times: expected at least two"),
        (dict(times=[1.0, 0.0]), "times: expected at least two increasing"),
        (dict(times=[0.0, 1.0, 2.0]), "times: expected 2 to match snapshots, got 3"),
        (dict(reference="poisson"), "reference: expected 'brownian'"),
        (dict(sigma=None), "sigma: expected the noise level"),
        (dict(sigma=0.0), "sigma: expected a positive"),
        (dict(sigma=[1.0, 1.0, 1.0]), "sigma: expected 2 numbers"),
        (dict(reference=AFFINE), "sigma: expected None beside a reference"),
        (dict(n_substeps=0), "n_substeps: expected"),
        (dict(seed=None), "seed: expected"),
        (dict(method="fast"), "method: expected"),
        (dict(reference=lambda t, x: x[:, 0]), "drift: expected shape"),
    ],
)
def test_wrong_arguments(change, error):
    given = dict(snapshots=[X, X + 1], times=[0, 1], sigma=1.0, **OPTIONS)
    given.update(change)
    with pytest.raises((ValueError, TypeError), match=error):
        schrodinger_bridge(given.pop("snapshots"), given.pop("times"), **given)


def test_wrong_references():
    for make, error in (
        (lambda: AffineDrift(np.zeros((2, 3)), np.zeros(2), 1.0), "matrix: expected shape"),
        (lambda: AffineDrift(np.zeros((1, 1)), [np.nan], 1.0), "offset: expected finite"),
        (lambda: LinearDrift(3, [1.0], 1.0), "features: expected a callable"),
        (lambda: LinearDrift(np.sin, [1.0], 1.0, ridge=-1.0), "ridge: expected a number >= 0"),
        (lambda: Drift(np.sin, 1.0, jacobian=2), "jacobian: expected a callable"),
        (lambda: BrownianReference(-1.0), "sigma: expected a positive"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            make()
    flat = LinearDrift(lambda x: x, [1.0], 1.0)
    with pytest.raises(ValueError, match=r"features: expected shape \(3, 2, 1\), got \(3, 2\)"):
        flat.drift(0.0, X)
    with pytest.raises(ValueError, match="jacobian: expected shape"):
        law_of(Drift(lambda t, x: x, 1.0, jacobian=lambda t, x: x), X)
    with pytest.raises(TypeError, match="fit: expected a Drift with its own jacobian"):
        Drift(lambda t, x: x, 1.0, jacobian=lambda t, x: np.eye(2), fit=lambda i: np.sin).fit(None)


def test_simulated_reference():
    """Ornstein-Uhlenbeck: mean and variance within six standard errors of the Euler scheme's own."""
    n, steps = 4000, 10
    process = AffineDrift([[-1.0]], [1.0], 0.5)
    paths = process.simulate(np.zeros((n, 1)), [0, 1, 2], n_substeps=steps, seed=3)
    assert paths.shape == (3, n, 1) and (paths[0] == 0).all()
    shrink, mean, variance = 1 - 1 / steps, 0.0, 0.0
    for _ in range(2 * steps):
        mean, variance = shrink * mean + 1 / steps, shrink**2 * variance + 0.25 / steps
    assert abs(paths[2].mean() - mean) < 6 * np.sqrt(variance / n)
    assert abs(paths[2].var() / variance - 1) < 6 * np.sqrt(2 / n)
