"""Langevin chains in the metric of a low-rank Hessian: formulas, exact laws, invariance, and what they refuse."""

import copy
import math
import pickle

import numpy as np
import pytest

import mckean as mk
from mckean.lowrank import LowRankOperator
from mckean.samplers import (
    MALA,
    PreconditionedLangevin,
    PreconditionedMALA,
    PreconditionedUnderdampedLangevin,
    UnderdampedLangevin,
)
from mckean.samplers._parts import PROPOSAL_STREAM

D, RANK = 6, 2
A = np.array([1000.0, 100.0, 2.0, 1.5, 1.0, 0.5])  # precisions of the target along Q
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
DAMPING = 1.25
M = (Q[:, :RANK] * (A[:RANK] - DAMPING)) @ Q[:, :RANK].T + DAMPING * np.eye(D)
METRIC = np.array([1000.0, 100.0, *[DAMPING] * 4])  # of M along Q


class Rotated:
    """N(0, Q diag(1/A) Q^T), in any framework."""

    def __init__(self, xp=None):
        self.xp = xp

    def log_density(self, x):
        q = np.asarray(Q, _dtype(x)) if self.xp is None else self.xp.asarray(Q.astype(_dtype(x)))
        a = np.asarray(A, _dtype(x)) if self.xp is None else self.xp.asarray(A.astype(_dtype(x)))
        y = x @ q
        return -0.5 * (y * y * a).sum(1)

    def grad_log_density(self, x):
        p = (Q * A) @ Q.T
        return -(
            x @ (p.astype(_dtype(x)) if self.xp is None else self.xp.asarray(p.astype(_dtype(x))))
        )


def _dtype(x):
    return str(x.dtype).rpartition(".")[2]


def model(dtype="float64"):
    U, s = Q[:, :RANK].astype(dtype), (A[:RANK] - DAMPING).astype(dtype)
    return LowRankOperator(np.ascontiguousarray(U), s)


def power(p):
    """M^p"""
    return (Q * METRIC**p) @ Q.T


LIMIT = {"float32": 2e-5, "float64": 1e-13}
CHAINS = {
    "langevin": PreconditionedLangevin,
    "mala": PreconditionedMALA,
    "underdamped": PreconditionedUnderdampedLangevin,
}


def test_langevin_is_the_formula_with_the_documented_normals(xp, dtype):
    x = np.random.default_rng(1).standard_normal((5, D)).astype(dtype)
    chain = PreconditionedLangevin(Rotated(xp), 0.3, model(), DAMPING)
    state = chain.init(xp.asarray(x), seed=8)
    for k in (0, 1):
        state = chain.step(state)
        z = mk.random.normal(8, x.shape, stream=PROPOSAL_STREAM, counter=k, dtype=dtype)
        g = -x @ ((Q * A) @ Q.T)
        x = x + 0.3 * g @ power(-1) + math.sqrt(0.6) * z @ power(-0.5)
    got = xp.to_numpy(state.x)
    assert str(got.dtype) == dtype
    np.testing.assert_allclose(got, x, rtol=0, atol=LIMIT[dtype])


@pytest.mark.parametrize("d", [1, 3])
def test_a_model_of_the_whole_space_needs_no_damping(d):
    a = np.arange(1.0, d + 1)
    op = LowRankOperator(np.eye(d), a)
    chain = PreconditionedLangevin(mk.targets.Gaussian(np.zeros(d), precision=a), 0.2, op)
    x = chain.step(chain.init(np.ones((4, d)), seed=1)).x
    z = mk.random.normal(1, (4, d), stream=PROPOSAL_STREAM)
    np.testing.assert_allclose(x, 0.8 + math.sqrt(0.4) * z / np.sqrt(a), atol=1e-14)


def test_langevin_variance_is_the_closed_form():
    """H0: variance 1 / (a (1 - h q a / 2)) along every eigendirection. 20 000 independent chains after 60 steps,
    started in that law: 6 standard errors for 6 directions, false-alarm rate below 2e-8."""
    n, h = 20_000, 0.3
    variance = 1 / (A * (1 - h * A / METRIC / 2))
    x0 = (mk.random.normal(1, (n, D)) * np.sqrt(variance)) @ Q.T
    chain = PreconditionedLangevin(Rotated(), h, model(), DAMPING)
    x = mk.run(chain, x0, 60, seed=3, burn_in=59, progress=False).x[0] @ Q
    assert (np.abs(x.var(0) / variance - 1) < 6 * math.sqrt(2 / n)).all()
    # from zero the same law is reached, so the start did not decide
    y = mk.run(chain, np.zeros((n, D)), 200, seed=4, burn_in=199, progress=False).x[0] @ Q
    assert (np.abs(y.var(0) / variance - 1) < 6 * math.sqrt(2 / n)).all()


def test_noise_of_the_wrong_covariance_is_detected():
    """The detector of the test above: with P z for P^(1/2) z stiff variances are too small by the factor q."""
    n, h = 20_000, 0.3
    x, P = np.zeros((n, D)), power(-1)
    rng = np.random.default_rng(0)
    for _ in range(60):
        x = x - h * x @ ((Q * A) @ Q.T) @ P + math.sqrt(2 * h) * rng.standard_normal(x.shape) @ P
    ratio = (x @ Q).var(0) * A * (1 - h * A / METRIC / 2)
    assert (np.abs(ratio - 1) > 6 * math.sqrt(2 / n)).all()
    assert ratio[0] < 0.01


def test_mala_takes_the_proposal_and_the_ratio_of_the_documentation(xp, dtype):
    """H0: a particle is accepted with probability min(1, ratio); sum over 2000 within 6 standard errors, 2e-9."""
    n, h = 2000, 0.5
    x = (np.random.default_rng(4).standard_normal((n, D)) / np.sqrt(A)) @ Q.T
    chain = PreconditionedMALA(Rotated(xp), h, model(), DAMPING)
    state = chain.init(xp.asarray(x.astype(dtype)), seed=6)
    x = xp.to_numpy(state.x).astype(float)
    after = chain.step(state)
    z = mk.random.normal(6, x.shape, stream=PROPOSAL_STREAM, dtype=dtype)
    P, grad = power(-1), lambda v: -v @ ((Q * A) @ Q.T)
    y = x + h * grad(x) @ P + math.sqrt(2 * h) * z @ power(-0.5)

    def log_q(to, start):
        r = to - start - h * grad(start) @ P
        return -((r @ M) * r).sum(1) / (4 * h)

    target = Rotated()
    ratio = target.log_density(y) - target.log_density(x) + log_q(x, y) - log_q(y, x)
    accepted = xp.to_numpy(after.accepted).astype(bool)
    assert accepted[ratio > 1e-2].all()
    expected = np.minimum(1, np.exp(ratio))
    assert abs(accepted.sum() - expected.sum()) < 6 * math.sqrt((expected * (1 - expected)).sum())
    assert 0.2 < accepted.mean() < 0.98
    moved = np.where(accepted[:, None], y, x)
    np.testing.assert_allclose(xp.to_numpy(after.x), moved, rtol=0, atol=LIMIT[dtype] * 10)
    # those refused stay where they are, bit for bit
    assert (xp.to_numpy(after.x)[~accepted] == xp.to_numpy(state.x)[~accepted]).all()
    np.testing.assert_allclose(
        xp.to_numpy(after.log_density),
        target.log_density(moved),
        atol={"float32": 1e-2, "float64": 1e-11}[dtype],
    )


def test_mala_leaves_the_target_invariant_whatever_the_model():
    """H0: variances 1/a. 20 000 chains of 20 steps started in the target, with a model that is off by factors of two and
    indefinite: 6 standard errors for 6 directions, below 2e-8."""
    n = 20_000
    off = LowRankOperator(np.ascontiguousarray(Q[:, [0, 1, 4]]), np.array([2500.0, 60.0, -0.5]))
    x0 = (mk.random.normal(1, (n, D)) / np.sqrt(A)) @ Q.T
    chain = PreconditionedMALA(Rotated(), 0.4, off, 2.0)
    result = mk.run(chain, x0, 20, seed=2, burn_in=19, progress=False)
    assert (np.abs((result.x[0] @ Q).var(0) * A - 1) < 6 * math.sqrt(2 / n)).all()
    assert 0.1 < result.stats["acceptance_rate"][0] < 0.95
    assert result.stats["accepted"].shape == (1, n)
    assert result.n_gradient_evaluations == 21


def test_mala_with_the_identity_is_mala():
    eye = LowRankOperator(np.zeros((D, 1)), np.zeros(1))
    x0 = mk.random.normal(1, (50, D)) * 0.1
    ours = mk.run(PreconditionedMALA(Rotated(), 1e-3, eye, 1.0), x0, 10, seed=2, progress=False)
    plain = mk.run(MALA(Rotated(), 1e-3), x0, 10, seed=2, progress=False)
    np.testing.assert_allclose(ours.x, plain.x, atol=1e-14)
    assert (ours.stats["accepted"] == plain.stats["accepted"]).all()


def test_mala_rejects_proposals_that_are_not_finite():
    class Wall:
        def log_density(self, x):
            return np.where(x[:, 0] > 0, np.nan, -0.5 * (x * x).sum(1))

        def grad_log_density(self, x):
            return np.where(x[:, :1] > 0, np.nan, -x)

    op = LowRankOperator(np.eye(2)[:, :1], np.array([3.0]))
    chain = PreconditionedMALA(Wall(), 0.5, op, 1.0)
    result = mk.run(chain, np.full((200, 2), -0.1), 60, seed=1, progress=False)
    assert result.converged and (result.x[..., 0] <= 0).all()
    assert 0 < result.stats["acceptance_rate"].mean() < 1
    with pytest.raises(ValueError, match=r"grad_log_density\(x0\): expected finite"):
        chain.init(np.ones((2, 2)))


@pytest.mark.parametrize("scheme", ["quicsort", "ubu", "baoab", "align", "should", "ee"])
def test_underdamped_is_the_plain_chain_in_whitened_coordinates(scheme, xp, dtype):
    x0 = np.random.default_rng(2).standard_normal((7, D)).astype(dtype)
    chain = PreconditionedUnderdampedLangevin(
        Rotated(xp), 0.4, model(), damping=DAMPING, friction=1.5, scheme=scheme
    )
    state = chain.init(xp.asarray(x0), seed=5)
    inverse, root = power(-0.5), power(0.5)
    H = inverse @ ((Q * A) @ Q.T) @ inverse

    def gradient(w):
        return -w @ H.astype(w.dtype)

    plain = UnderdampedLangevin(gradient, 0.4, friction=1.5, scheme=scheme)
    twin = plain.init((x0.astype(float) @ root).astype(dtype), seed=5)
    for _ in range(4):
        state, twin = chain.step(state), plain.step(twin)
    np.testing.assert_allclose(
        xp.to_numpy(state.x), twin.x @ inverse.astype(dtype), rtol=0, atol=LIMIT[dtype] * 20
    )
    assert state.n_gradients == twin.n_gradients
    np.testing.assert_allclose(xp.to_numpy(state.x) @ root, xp.to_numpy(state.w), rtol=0, atol=2e-3)


def test_underdamped_velocities_are_those_of_the_mass():
    """v0 in x is v = M^(1/2) v0 in whitened coordinates; drawn ones have variance 1 there (20 000 x 6 draws, 6 standard
    errors, 2e-9)."""
    chain = PreconditionedUnderdampedLangevin(Rotated(), 0.1, model(), damping=DAMPING)
    v0 = np.random.default_rng(0).standard_normal((3, D))
    np.testing.assert_allclose(chain.init(np.zeros((3, D)), v0=v0).v, v0 @ power(0.5), atol=1e-12)
    v = chain.init(np.zeros((20_000, D))).v
    assert abs(v.var() - 1) < 6 * math.sqrt(2 / v.size)


@pytest.mark.parametrize("scheme", ["baoab", "quicsort"])
def test_underdamped_variances(scheme):
    """H0: variances 1/a along stiff and soft directions; for quicsort the bias at h = 0.5 is below 0.2 %. 20 000 chains
    after 40 steps started in the target: 6 standard errors and the bias, six directions, below 2e-8."""
    n = 20_000
    x0 = (mk.random.normal(1, (n, D)) / np.sqrt(A)) @ Q.T
    chain = PreconditionedUnderdampedLangevin(
        Rotated(), 0.5, model(), damping=DAMPING, scheme=scheme, noise="counter"
    )
    x = mk.run(chain, x0, 40, seed=2, burn_in=39, progress=False).x[0] @ Q
    assert (np.abs(x.var(0) * A - 1) < 6 * math.sqrt(2 / n) + 2e-3).all()


def test_one_model_for_each_particle():
    rng = np.random.default_rng(0)
    U = np.linalg.qr(rng.standard_normal((4, D, 2)))[0]
    s = rng.uniform(1, 50, (4, 2))
    x0 = rng.standard_normal((4, D))
    batch = PreconditionedLangevin(Rotated(), 0.01, LowRankOperator(U, s), 1.0)
    x = batch.step(batch.init(x0, seed=3)).x
    z = mk.random.normal(3, (4, D), stream=PROPOSAL_STREAM)
    g = Rotated().grad_log_density(x0)
    for i in range(4):
        values, vectors = np.linalg.eigh((U[i] * s[i]) @ U[i].T + np.eye(D))
        P, R = (vectors / values) @ vectors.T, (vectors / np.sqrt(values)) @ vectors.T
        want = x0[i] + 0.01 * P @ g[i] + math.sqrt(0.02) * R @ z[i]
        np.testing.assert_allclose(x[i], want, atol=1e-13)
    with pytest.raises(
        ValueError, match=r"x0: expected shape \(4, 6\) to match model, got \(3, 6\)"
    ):
        batch.init(x0[:3])


def test_models_of_a_batch_are_valid_each_on_its_own():
    """The least t of all and the least s of all belong to different items here."""
    U = np.zeros((2, D, 1))
    U[:, 0] = 1.0
    m = LowRankOperator(U, np.array([[-1.0], [3.0]]), sigma=np.array([2.0, 0.1]))
    for chain in CHAINS.values():
        assert np.isfinite(
            mk.run(chain(Rotated(), 0.1, m), np.ones((2, D)), 2, progress=False).x
        ).all()
    with pytest.raises(ValueError, match=r"damping: .*min\(s\) = -1 in item 0"):
        PreconditionedMALA(Rotated(), 0.1, m - np.array([1.0, 0.0]))


@pytest.mark.parametrize("name", CHAINS)
def test_steps_are_pure_and_chains_pickle(name):
    chain = CHAINS[name](Rotated(), 0.2, model(), damping=DAMPING)
    x0 = np.full((3, D), 0.1)
    state = chain.step(chain.init(x0, seed=1))
    before = copy.deepcopy(state)
    first, second = chain.step(state), chain.step(state)
    for field in state.__slots__:
        assert np.array_equal(getattr(state, field), getattr(before, field))
        assert np.array_equal(getattr(first, field), getattr(second, field))
    assert (x0 == 0.1).all()
    assert (pickle.loads(pickle.dumps(chain)).step(state).x == first.x).all()


@pytest.mark.parametrize("name", CHAINS)
def test_checkpoints_continue_bit_for_bit(name, tmp_path, xp, dtype):
    chain = CHAINS[name](Rotated(xp), 0.2, model(), damping=DAMPING)
    x0 = xp.asarray(np.full((5, D), 0.1, dtype))
    options = dict(seed=3, progress=False)
    once = mk.run(chain, x0, 12, **options)
    mk.run(chain, x0, 5, checkpoint=tmp_path / "c.npz", **options)
    rest = mk.run(chain, x0, 12, checkpoint=tmp_path / "c.npz", **options)
    assert (xp.to_numpy(rest.x) == xp.to_numpy(once.x)).all()
    assert rest.n_gradient_evaluations == once.n_gradient_evaluations
    other = CHAINS[name](Rotated(xp), 0.2, model(), damping=2.0)
    with pytest.raises(mk.CheckpointError):
        mk.run(other, x0, 12, checkpoint=tmp_path / "c.npz", **options)


@pytest.mark.parametrize("name", CHAINS)
def test_threads_do_not_matter(name):
    chain = CHAINS[name](
        mk.targets.Gaussian(np.zeros(D), precision=A), 0.2, model(), damping=DAMPING
    )
    before = mk.get_num_threads()
    ends = []
    try:
        for threads in (1, 3):
            mk.set_num_threads(threads)
            ends.append(mk.run(chain, np.full((999, D), 0.1), 3, seed=1, progress=False).state.x)
    finally:
        mk.set_num_threads(before)
    assert (ends[0] == ends[1]).all()


@pytest.mark.parametrize("name", CHAINS)
def test_a_model_of_another_framework_serves(name, xp):
    """The model is converted, so float64 NumPy models move float32 particles of any framework."""
    op = model()
    there = LowRankOperator(xp.asarray(op.U), xp.asarray(op.s))
    x0 = xp.asarray(np.full((3, D), 0.1, "float32"))
    ends = []
    for m in (op, there):
        chain = CHAINS[name](Rotated(xp), 0.2, m, damping=DAMPING)
        ends.append(xp.to_numpy(chain.step(chain.init(x0, seed=1)).x))
    assert (ends[0] == ends[1]).all() and str(ends[0].dtype) == "float32"


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (dict(step=0.0), ValueError, "step: expected a positive"),
        (
            dict(model=np.eye(D)),
            TypeError,
            "model: expected a mckean.lowrank.LowRankOperator, got ndarray",
        ),
        (dict(damping=-1.0), ValueError, "damping: expected a number >= 0"),
        (
            dict(damping=0.0),
            ValueError,
            r"damping: expected damping \+ sigma > 0.* got damping = 0, sigma = 0",
        ),
        (
            dict(model=LowRankOperator(np.eye(D)[:, :1], np.array([-2.0])), damping=1.0),
            ValueError,
            r"damping: .*min\(s\) = -2",
        ),
        (dict(target=3), TypeError, "target: "),
    ],
)
def test_bad_settings_are_named(name, change, error, match):
    settings = dict(target=Rotated(), step=0.1, model=model(), damping=1.0) | change
    with pytest.raises(error, match=match):
        CHAINS[name](
            settings.pop("target"), settings.pop("step"), settings.pop("model"), **settings
        )


@pytest.mark.parametrize("name", CHAINS)
def test_bad_starts_are_named(name):
    chain = CHAINS[name](Rotated(), 0.1, model(), damping=1.0)
    with pytest.raises(
        ValueError, match=r"x0: expected shape \(n, 6\) to match model, got \(2, 3\)"
    ):
        chain.init(np.zeros((2, 3)))
    for x0 in (np.zeros(D), np.zeros((0, D)), np.full((1, D), np.nan)):
        with pytest.raises(ValueError, match="^x0: "):
            chain.init(x0)


def test_mala_needs_a_density():
    with pytest.raises(TypeError, match="PreconditionedMALA needs log_density"):
        PreconditionedMALA(np.negative, 0.1, model(), 1.0)
