"""Langevin samplers: coefficients, exact biases, strong orders, laws, and what they refuse."""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import reference

import mckean as mk
from mckean.samplers import MALA, Langevin, UnderdampedLangevin
from mckean.samplers._coefficients import StepIntegrals
from mckean.samplers._parts import PROPOSAL_STREAM, Noise

SCHEMES = {"quicsort": 3, "ubu": 2, "baoab": 1, "align": 2, "should": 3, "ee": 1}  # strong order
NOISE_VARIANCE = {"W": 1.0, "H": 1 / 12, "K": 1 / 720}


class Quadratic:
    """log density -precision |x|^2 / 2."""

    def __init__(self, precision=1.0):
        self.precision = precision

    def log_density(self, x):
        return -0.5 * self.precision * (x * x).sum(1)

    def grad_log_density(self, x):
        return -self.precision * x


class Fixed:
    """A noise source that returns the same W, H, K for every step."""

    def __init__(self, **values):
        self.values = values
        self.asked = []

    def increment(self, s, t):
        self.asked.append((s, t))
        return SimpleNamespace(**{n: self.values.get(n) for n in "WHK"})


def double_well(x):
    """-grad f for f = sum (x^2 - 1)^2 / 4 + x1 x2 / 2."""
    return x - x**3 - 0.5 * x[:, ::-1]


def exact(al, name, r=1.0):
    mp = pytest.importorskip("mpmath")
    with mp.workdps(100):  # al^4 = 1e-32 cancels first
        al, r = mp.mpf(al), mp.mpf(r)
        if name in ("A", "B"):
            x = r * al
            value = (1 - mp.exp(-x)) / al if name == "A" else (mp.exp(-x) + x - 1) / al**2
        elif name == "CH":
            value = 6 * (mp.exp(-al) * (al + 2) + al - 2) / al**3
        elif name == "CK":
            value = 60 * (mp.exp(-al) * (al * (al + 6) + 12) - al * (al - 6) - 12) / al**4
        else:
            value = 6 * (mp.exp(-al / 2) * (al + 2) + al**2 / 4 - 2) / al**3
        return float(value)


@pytest.mark.parametrize("al", [*np.geomspace(1e-8, 50, 41), 0.5, 1 - 1e-12, 1.0, 1 + 1e-12])
def test_coefficients_hold_13_digits(al):
    al, h = float(al), 0.5
    s = StepIntegrals(h, al / h)
    for name in ("CH", "CK", "CHh"):
        assert getattr(s, name) == pytest.approx(h * exact(s.al, name), rel=1e-13, abs=0)
    for r in (1.0, 0.5, 1 / 3, (3 - math.sqrt(3)) / 6, (3 + math.sqrt(3)) / 6):
        assert s.A(r) == pytest.approx(h * exact(s.al, "A", r), rel=1e-13, abs=0)
        assert s.B(r) == pytest.approx(h * exact(s.al, "B", r), rel=1e-13, abs=0)


def test_coefficients_without_friction_are_the_limits():
    s = StepIntegrals(0.25, 0.0)
    assert (s.A(1), s.A(0.5), s.B(1), s.beta(1)) == (0.25, 0.125, 0.125, 1.0)
    assert (s.CH, s.CK, s.CHh) == (0.25, 0.0, 0.125)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_step_is_the_papers_formula(scheme, xp, dtype):
    """All of friction, u and h differ from 1, so that no factor can hide."""
    rng = np.random.default_rng(0)
    shape, h, c, u = (6, 2), 0.3, 5.0, 0.6  # the twin's closed forms need c h > 1
    x, v, W, H, K = (rng.standard_normal(shape).astype(dtype) for _ in range(5))
    noise = Fixed(W=xp.asarray(W), H=xp.asarray(H), K=xp.asarray(K))

    def gradient(z):
        return xp.asarray(double_well(xp.to_numpy(z)))

    chain = UnderdampedLangevin(gradient, h, friction=c, u=u, scheme=scheme, noise=noise)
    state = chain.init(xp.asarray(x), v0=xp.asarray(v))
    limit = {"float32": 3e-6, "float64": 1e-14}[dtype]
    for _ in range(3):
        state = chain.step(state)
        x, v = reference.underdamped_step(
            scheme, lambda z: -double_well(z), x, v, h, c, u, *(a.astype(float) for a in (W, H, K))
        )
        np.testing.assert_allclose(xp.to_numpy(state.x), x, rtol=0, atol=limit * 10)
        np.testing.assert_allclose(xp.to_numpy(state.v), v, rtol=0, atol=limit * 10)
    assert noise.asked == [(0.0, h), (h, 2 * h), (2 * h, 3 * h)]
    assert xp.dtype(state.x) == dtype


def affine_map(scheme, h, friction=1.0, u=1.0):
    """Matrix of (x, v) and of the noise for f = x^2 / 2, found by probing one step."""

    def probe(x, v, **noise):
        values = {n: np.full((1, 1), noise.get(n, 0.0)) for n in "WHK"}
        chain = UnderdampedLangevin(
            Quadratic(), h, friction=friction, u=u, scheme=scheme, noise=Fixed(**values)
        )
        state = chain.step(chain.init(np.full((1, 1), float(x)), v0=np.full((1, 1), float(v))))
        return [state.x[0, 0], state.v[0, 0]]

    M = np.array([probe(1, 0), probe(0, 1)]).T
    N = np.array([probe(0, 0, **{n: 1.0}) for n in "WHK"]).T
    variances = h * np.array([NOISE_VARIANCE[n] for n in "WHK"])
    return M, (N * variances) @ N.T


# Variance of x minus 1 at h = 1/2, 1/4, 1/8, from the schemes' formulas in 60-digit arithmetic.
BIAS = {
    "ee": (0.32438833, 0.14201041, 0.066573979),
    "ubu": (-0.041819778, -0.010427202, -0.0026048399),
    "align": (0.038736816, 0.0099160427, 0.002532535),
    "should": (-9.7213521e-5, -5.6122551e-6, -3.3226389e-7),
    "quicsort": (-4.9824515e-4, -2.7991374e-5, -9.1848732e-7),
}


@pytest.mark.parametrize("scheme", BIAS)
def test_stationary_bias_is_the_tabulated_one(scheme):
    """Exact linear algebra, so every digit must agree."""
    for h, want in zip((0.5, 0.25, 0.125), BIAS[scheme], strict=True):
        bias = reference.stationary_covariance(*affine_map(scheme, h))[0, 0] - 1
        assert bias == pytest.approx(want, rel=1e-7, abs=1e-14)


def test_baoab_has_the_exact_variance_of_x():
    for h in (0.5, 0.25, 0.125):
        P = reference.stationary_covariance(*affine_map("baoab", h))
        assert abs(P[0, 0] - 1) < 1e-13
        assert abs(P[1, 1] - 1 + h * h / 4) < 1e-13


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_friction_gives_a_hamiltonian_flow(scheme):
    """Continuous at friction -> 0, deterministic there, and free of NaN."""
    M, Q = affine_map(scheme, 0.3, friction=0.0)
    assert (Q == 0).all()
    near, _ = affine_map(scheme, 0.3, friction=1e-9)
    np.testing.assert_allclose(M, near, rtol=0, atol=1e-8)
    flow = np.array([[math.cos(0.3), math.sin(0.3)], [-math.sin(0.3), math.cos(0.3)]])
    np.testing.assert_allclose(M, flow, rtol=0, atol=0.05)
    chain = UnderdampedLangevin(Quadratic(), 0.3, friction=0.0, scheme=scheme)
    assert np.isfinite(chain.step(chain.init(np.ones((2, 2)))).x).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_strong_order(scheme):
    """RMS error against a fine solution on the same 200 paths, over four halvings of the step."""
    levels, t1, shape = 11, 2.0, (200, 2)
    path = reference.Path(3, shape, t1, levels)
    x0 = np.random.default_rng(1).standard_normal(shape)
    v0 = np.random.default_rng(2).standard_normal(shape)

    def end(name, level):
        n = 2**level
        chain = UnderdampedLangevin(double_well, t1 / n, scheme=name, noise=path)
        state = chain.init(x0, v0=v0)
        for _ in range(n):
            state = chain.step(state)
        return state.x

    fine = end("quicsort", levels)
    used = (4, 5, 6, 7) if SCHEMES[scheme] == 3 else (5, 6, 7, 8)
    errors = [math.sqrt(((end(scheme, level) - fine) ** 2).mean()) for level in used]
    slope = -np.polyfit(used, np.log2(errors), 1)[0]
    assert abs(slope - SCHEMES[scheme]) < 0.2


def test_a_brownian_tree_drives_the_chain():
    """The same path at two step sizes gives close end points; another seed does not."""
    x0 = np.random.default_rng(0).standard_normal((100, 2))

    def end(seed, n):
        tree = mk.BrownianTree(seed, (100, 2), t1=1.0, tol=2**-9, levy_area="space-time-time")
        chain = UnderdampedLangevin(double_well, 1.0 / n, noise=tree)
        state = chain.init(x0, v0=np.zeros_like(x0))
        for _ in range(n):
            state = chain.step(state)
        return state.x

    assert np.abs(end(5, 64) - end(5, 256)).max() < 1e-4
    assert np.abs(end(5, 64) - end(6, 64)).max() > 0.1


def test_step_times_do_not_run_past_the_end_of_a_tree():
    n = 10  # 3 * 0.1 and 10 * 0.1 round differently
    tree = mk.BrownianTree(0, (2, 1), t0=0.3, t1=0.3 + 1.0, tol=2**-6)
    chain = Langevin(Quadratic(), 0.1, noise=tree)
    state = chain.init(np.zeros((2, 1)))
    for _ in range(n):
        state = chain.step(state)
    with pytest.raises(ValueError):
        chain.step(state)


@pytest.mark.parametrize("source", ["tree", "counter"])
def test_step_noise_has_the_law_of_w_h_k(source, dtype):
    """H0: W, H, K independent with variances 1, 1/12, 1/720. 2 x 10^5 draws of two steps.

    Each of 21 entries within 6 standard errors: false-alarm rate below 1e-7.
    """
    x = mk._array.as_input(np.zeros((100_000, 2), dtype), "x")
    noise = Noise(source, 1.0, 3)
    draws = [d for step in (0, 1) for d in noise.draw(x, 7, step)]
    z = np.array([np.asarray(d, np.float64).ravel() for d in draws])
    z *= np.sqrt([1, 12, 720] * 2)[:, None]
    n = z.shape[1]
    C = z @ z.T / n
    assert (np.abs(C - np.eye(6)) < 6 / math.sqrt(n) * np.where(np.eye(6), math.sqrt(2), 1)).all()
    assert (np.abs(z.mean(axis=1)) < 6 / math.sqrt(n)).all()


@pytest.mark.parametrize("source", ["tree", "counter"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_chains_have_the_law_of_their_affine_map(scheme, source):
    """H0: the chain's stationary covariance is that of the scheme. 10^5 chains of 40 steps.

    Started in the stationary law; each of 3 entries within 6 standard errors, false-alarm rate
    below 1e-8. A wrong noise variance (1.05 instead of 1) fails.
    """
    n, h, c, u = 100_000, 0.5, 2.0, 0.7
    P = reference.stationary_covariance(*affine_map(scheme, h, c, u))
    z = mk.random.normal(1, (2, n))
    start = np.linalg.cholesky(P) @ z
    chain = UnderdampedLangevin(Quadratic(), h, friction=c, u=u, scheme=scheme, noise=source)
    state = chain.init(start[0][:, None], seed=5, v0=start[1][:, None])
    for _ in range(40):
        state = chain.step(state)
    end = np.array([state.x[:, 0], state.v[:, 0]])
    d = np.diag(P)
    error = np.sqrt((np.outer(d, d) + P**2) / n)
    assert (np.abs(end @ end.T / n - P) < 6 * error).all()
    assert (np.abs(end @ end.T / n - 1.05 * P) > 6 * error).any()


def test_initial_velocities_are_normal_with_variance_u():
    """H0: v0 ~ N(0, u). 10^5 draws, 6 standard errors, false-alarm rate below 1e-8."""
    chain = UnderdampedLangevin(Quadratic(), 0.1, u=4.0)
    v = chain.init(np.ones((50_000, 2)), seed=3).v
    assert abs(v.var() / 4 - 1) < 6 * math.sqrt(2 / v.size)
    assert abs(v.mean()) < 6 * 2 / math.sqrt(v.size)
    assert (chain.init(np.zeros((50_000, 2)), seed=3).v == v).all()
    first = mk.random.normal(3, (50_000, 2))
    assert abs(np.corrcoef(first.ravel(), v.ravel())[0, 1]) < 6 / math.sqrt(v.size)


@pytest.mark.parametrize("noise", ["counter", "tree"])
def test_langevin_variance_is_the_closed_form(noise, dtype):
    """H0: variance 1 / (w (1 - h w / 2)). 10^5 chains, 6 standard errors: below 1e-8."""
    w, h, n = 2.0, 0.25, 100_000
    variance = 1 / (w * (1 - h * w / 2))
    chain = Langevin(Quadratic(w), h, noise=noise)
    x0 = (math.sqrt(variance) * mk.random.normal(1, (n, 1))).astype(dtype)
    state = chain.init(x0, seed=2)
    for _ in range(30):
        state = chain.step(state)
    assert abs(state.x.var() / variance - 1) < 6 * math.sqrt(2 / n)
    assert abs(state.x.mean()) < 6 * math.sqrt(variance / n)
    assert state.n_gradients == 30


def test_langevin_step_is_drift_plus_the_documented_normal(xp, dtype):
    x = np.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)
    chain = Langevin(Quadratic(), 0.1)
    state = chain.step(chain.step(chain.init(xp.asarray(x), seed=8)))
    for counter in (0, 1):
        z = mk.random.normal(8, (4, 3), stream=PROPOSAL_STREAM, counter=counter, dtype=dtype)
        x = 0.9 * x + math.sqrt(0.2) * z
    np.testing.assert_allclose(
        xp.to_numpy(state.x), x, rtol=0, atol={"float32": 1e-6, "float64": 1e-14}[dtype]
    )


@pytest.mark.parametrize("name", ["langevin", "mala", "should"])
def test_steps_are_pure(name):
    chain = {
        "langevin": lambda: Langevin(Quadratic(), 0.1),
        "mala": lambda: MALA(Quadratic(), 0.1),
        "should": lambda: UnderdampedLangevin(Quadratic(), 0.1, scheme="should"),
    }[name]()
    x0 = np.ones((3, 2))
    state = chain.init(x0, seed=1)
    before = copy.deepcopy(state)
    first, second = chain.step(state), chain.step(state)
    assert (x0 == 1).all()
    for name in state.__slots__:
        assert np.array_equal(getattr(state, name), getattr(before, name))
        assert np.array_equal(getattr(first, name), getattr(second, name))
    x0[:] = 7  # the state does not look at the caller's array
    assert (state.x == 1).all()
    assert (pickle.loads(pickle.dumps(chain)).step(state).x == first.x).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(threads):
    before = mk.get_num_threads()
    chain = UnderdampedLangevin(Quadratic(), 0.1)
    want = mk.run(chain, np.ones((5000, 3)), 3, progress=False).x
    try:
        mk.set_num_threads(threads)
        assert (mk.run(chain, np.ones((5000, 3)), 3, progress=False).x == want).all()
    finally:
        mk.set_num_threads(before)


def test_counting_gradients():
    calls = []

    def gradient(x):
        calls.append(1)
        return -x

    for scheme, per_step, extra in (
        ("quicsort", 2, 0),
        ("should", 2, 1),
        ("align", 1, 1),
        ("ubu", 1, 0),
    ):
        calls.clear()
        r = mk.run(
            UnderdampedLangevin(gradient, 0.1, scheme=scheme), np.ones((2, 1)), 5, progress=False
        )
        assert r.n_gradient_evaluations == len(calls) == 5 * per_step + extra


def test_mala_accepts_by_the_metropolis_ratio(xp, dtype):
    """Proposal, ratio and decision against NumPy, from the documented random numbers."""
    rng = np.random.default_rng(4)
    target, h = Quadratic(3.0), 0.35
    x = rng.standard_normal((2000, 3)).astype(dtype)
    chain = MALA(target, h)
    state = chain.init(xp.asarray(x), seed=6)
    after = chain.step(state)
    y = (
        x
        - h * 3.0 * x
        + math.sqrt(2 * h) * mk.random.normal(6, x.shape, stream=PROPOSAL_STREAM, dtype=dtype)
    )
    x64, y64 = x.astype(float), y.astype(float)
    ratio = reference.log_alpha(
        x64, y64, -3 * x64, -3 * y64, target.log_density(x64), target.log_density(y64), h
    )
    accepted = xp.to_numpy(after.accepted).astype(bool)
    assert accepted[ratio > 1e-3].all()
    assert 0.2 < accepted.mean() < 0.98
    moved = np.where(accepted[:, None], y, x)
    np.testing.assert_allclose(
        xp.to_numpy(after.x), moved, atol=1e-6 if dtype == "float32" else 1e-14
    )
    np.testing.assert_allclose(xp.to_numpy(after.grad), -3 * moved, atol=1e-5)
    expected = np.minimum(1, np.exp(ratio))
    # H0: acceptance is Bernoulli(min(1, ratio)); 6 standard errors, below 1e-8
    spread = math.sqrt((expected * (1 - expected)).sum())
    assert abs(accepted.sum() - expected.sum()) < 6 * spread


def test_mala_leaves_the_target_invariant():
    """H0: variance 1 for any step. 10^5 chains of 20 steps, started in the target.

    6 standard errors: false-alarm rate below 1e-8.
    """
    n = 100_000
    state = MALA(Quadratic(), 0.9).init(mk.random.normal(1, (n, 1)), seed=2)
    chain = MALA(Quadratic(), 0.9)
    for _ in range(20):
        state = chain.step(state)
    assert abs(state.x.var() - 1) < 6 * math.sqrt(2 / n)
    assert 0.5 < state.accepted.mean() < 0.95


def test_mala_rejects_proposals_that_are_not_finite():
    class Wall(Quadratic):
        def log_density(self, x):
            return np.where(x[:, 0] > 0, np.nan, super().log_density(x))

        def grad_log_density(self, x):
            return np.where(x > 0, np.nan, -x)

    r = mk.run(MALA(Wall(), 0.5), np.full((200, 1), -0.1), 100, progress=False, seed=1)
    assert r.converged and (r.x <= 0).all()
    assert 0 < r.stats["acceptance_rate"].mean() < 1
    assert r.stats["acceptance_rate"].shape == (100,)

    class Pole(Quadratic):
        def log_density(self, x):
            return np.where(x[:, 0] > 0, np.inf, 0.0)

    assert (mk.run(MALA(Pole(), 0.5), np.full((200, 1), -0.1), 20, progress=False).x <= 0).all()
    with pytest.raises(ValueError, match=r"grad_log_density\(x0\): expected finite"):
        MALA(Wall(), 0.5).init(np.ones((2, 1)))


def test_float32_follows_float64():
    """One seed: the float32 chain is the float64 chain up to rounding, for both noises."""
    x0 = np.random.default_rng(0).standard_normal((50, 2)) / 2
    for noise in ("tree", "counter"):
        chain = UnderdampedLangevin(double_well, 0.05, noise=noise)
        wide = chain.init(x0, v0=np.zeros_like(x0))
        narrow = chain.init(x0.astype(np.float32), v0=np.zeros_like(x0, np.float32))
        for _ in range(20):
            wide, narrow = chain.step(wide), chain.step(narrow)
        assert np.abs(wide.x - narrow.x).max() < 2e-5


def test_tree_noise_does_not_depend_on_the_other_chains():
    chain = Langevin(Quadratic(), 0.1, noise="tree")
    whole = mk.run(chain, np.ones((8, 2)), 5, progress=False).x
    assert (mk.run(chain, np.ones((3, 2)), 5, progress=False).x == whole[:, :3]).all()


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Langevin(Quadratic(), 0.0), ValueError, "step: expected a positive"),
        (lambda: MALA(Quadratic(), -1), ValueError, "step: expected a positive"),
        (lambda: UnderdampedLangevin(Quadratic(), np.nan), ValueError, "step: "),
        (lambda: UnderdampedLangevin(Quadratic(), 0.1, friction=-1), ValueError, "friction: "),
        (lambda: UnderdampedLangevin(Quadratic(), 0.1, u=0), ValueError, "u: "),
        (
            lambda: UnderdampedLangevin(Quadratic(), 0.1, scheme="euler"),
            ValueError,
            "scheme: expected one of 'quicsort', 'ubu', .*, got 'euler'",
        ),
        (
            lambda: UnderdampedLangevin(Quadratic(), 0.1, controller="pid"),
            TypeError,
            "controller: expected a mckean.sde.PIDController .*, got str",
        ),
        (
            lambda: UnderdampedLangevin(Quadratic(), 0.1, noise="white"),
            ValueError,
            "noise: expected 'tree'",
        ),
        (lambda: Langevin(Quadratic(), 0.1, noise=3), ValueError, "noise: expected 'tree'"),
        (lambda: Langevin(3, 0.1), TypeError, "target: .* int has no grad_log_density"),
        (
            lambda: Langevin(SimpleNamespace(log_density=len), 0.1),
            TypeError,
            "target: .* has no grad_log_density",
        ),
        (lambda: MALA(len, 0.1), TypeError, r"target: MALA needs log_density\(x\), len has no"),
    ],
)
def test_bad_settings_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("gradient", "error", "match"),
    [
        (lambda x: -x[:, :1], ValueError, r"grad_log_density: expected shape \(4, 2\) to match x"),
        (lambda x: -x[0], ValueError, r"grad_log_density: expected shape \(4, 2\) .*, got \(2,\)"),
        (lambda x: x.astype(np.float32), TypeError, "grad_log_density: expected float64"),
        (lambda x: None, TypeError, "grad_log_density: "),
        (lambda x: x > 0, TypeError, "grad_log_density: expected float64 .*, got bool"),
    ],
)
@pytest.mark.parametrize("kind", [Langevin, UnderdampedLangevin])
def test_bad_gradients_are_named(kind, gradient, error, match):
    chain = kind(gradient, 0.1)
    with pytest.raises(error, match=match):
        chain.step(chain.init(np.ones((4, 2))))


def test_a_gradient_of_another_framework_is_refused(xp):
    if xp.name == "numpy":
        pytest.skip("numpy: is the other framework")
    chain = Langevin(lambda x: np.zeros((2, 2)), 0.1)
    with pytest.raises(TypeError, match=f"grad_log_density: expected a {xp.name} array"):
        chain.step(chain.init(xp.asarray(np.ones((2, 2)))))


def test_bad_densities_are_named():
    target = Quadratic()
    target.log_density = lambda x: -x
    with pytest.raises(ValueError, match=r"log_density: expected shape \(3,\) to match x \(3, 2\)"):
        MALA(target, 0.1).init(np.ones((3, 2)))


@pytest.mark.parametrize("x0", [np.zeros(3), np.zeros((0, 2)), np.full((1, 1), np.inf)])
def test_bad_starts_are_named(x0):
    for chain in (
        Langevin(Quadratic(), 0.1),
        MALA(Quadratic(), 0.1),
        UnderdampedLangevin(len, 0.1),
    ):
        with pytest.raises(ValueError, match=r"^x0: "):
            chain.init(x0)


def test_a_tree_without_the_needed_area_is_refused():
    tree = mk.BrownianTree(0, (2, 1), levy_area="space-time")
    chain = UnderdampedLangevin(Quadratic(), 0.1, noise=tree)
    with pytest.raises(ValueError, match="levy_area='space-time-time', got no K"):
        chain.step(chain.init(np.zeros((2, 1))))
    chain = UnderdampedLangevin(Quadratic(), 0.1, scheme="ubu", noise=tree)
    assert np.isfinite(chain.step(chain.init(np.zeros((2, 1)))).x).all()
    with pytest.raises(ValueError, match=r"noise.W: expected shape \(3, 1\)"):
        chain.step(chain.init(np.zeros((3, 1))))


@pytest.mark.parametrize("method", ["langevin", "mala", "underdamped"])
def test_starting_points_of_the_same_seed_are_independent_of_the_noise(method):
    """H0: x0 and the noise are independent, so the variance after one step is known; 2e5 particles, six sigma (2e-9)."""
    n, h = 200_000, 0.5
    x0 = mk.random.normal(0, (n, 1))
    target = mk.targets.Gaussian(np.zeros(1))
    chain = {
        "langevin": mk.samplers.Langevin(target, h),
        "mala": mk.samplers.MALA(target, h),
        "underdamped": mk.samplers.UnderdampedLangevin(target, 0.1),
    }[method]
    x = chain.step(chain.init(x0, seed=0)).x
    want = (1 - h) ** 2 + 2 * h if method == "langevin" else 1.0
    tolerance = 6 * want * math.sqrt(2 / n) + (1e-3 if method == "underdamped" else 0.0)
    assert abs(float(x.var()) - want) < tolerance


@pytest.mark.parametrize("scheme", ["quicsort", "should", "align", "baoab"])
def test_a_target_that_reuses_its_memory_is_refused(scheme):
    buffer = np.empty((3, 2))
    chain = mk.samplers.UnderdampedLangevin(
        lambda x: np.negative(x, out=buffer), 0.1, scheme=scheme
    )
    with pytest.raises(ValueError, match="^grad_log_density: expected a new array"):
        state = chain.init(np.ones((3, 2)))
        for _ in range(2):
            state = chain.step(state)


def test_a_tree_coarser_than_the_step_is_refused():
    tree = mk.BrownianTree(0, (3, 2), tol=0.5, levy_area="space-time-time")
    with pytest.raises(ValueError, match="^noise: expected a tree with tol"):
        mk.samplers.UnderdampedLangevin(np.negative, 0.1, noise=tree)
