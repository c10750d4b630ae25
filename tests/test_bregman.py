"""Bregman proximal Langevin chains: the step's formula, stationary laws against quadrature, refusals."""

import math

import numpy as np
import pytest

import mckean as mk
from mckean.samplers import (
    BoltzmannShannon,
    Box,
    BregmanProximalLangevin,
    Burg,
    Euclidean,
    GroupNorm,
    Hyperbolic,
    L1Norm,
    MoreauYosidaLangevin,
    Separable,
    SquaredNorm,
    moreau_envelope,
)
from mckean.samplers._parts import PROPOSAL_STREAM

BREGMANS = [Euclidean(), BoltzmannShannon(), Burg(), Hyperbolic(0.7)]


def gradient(x):
    return -0.5 * x


@pytest.mark.parametrize("envelope", ["left", "right"])
@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
def test_one_step_is_the_papers_formula(bregman, envelope, xp, dtype):
    """With the normals of `mk.random`, and the gradient of the envelope by itself."""
    x = np.random.default_rng(0).uniform(0.5, 2, (7, 3)).astype(dtype)
    h, smoothing, g = 0.02, 0.3, L1Norm([0.5, 1.0, 2.0])
    chain = BregmanProximalLangevin(
        gradient, g, h, bregman=bregman, envelope=envelope, smoothing=smoothing
    )
    state = chain.init(xp.asarray(x), seed=5)
    state.step = 3
    got = chain.step(state)
    z = mk.random.normal(5, x.shape, stream=PROPOSAL_STREAM, counter=3, dtype=dtype).astype(float)
    wide = x.astype(float)
    pull = moreau_envelope(g, wide, smoothing, bregman=bregman, side=envelope)[1]
    hessian = bregman.hessian_diagonal(wide)
    y = bregman.gradient(wide) + h * (gradient(wide) - pull) + np.sqrt(2 * h * hessian) * z
    want = bregman.inverse_gradient(y)
    assert xp.dtype(got.x) == dtype
    np.testing.assert_allclose(
        xp.to_numpy(got.x), want, rtol={"float32": 2e-5, "float64": 1e-13}[dtype]
    )
    assert (got.step, got.n_gradients, got.refused) == (4, 1, 0)
    np.testing.assert_array_equal(xp.to_numpy(state.x), x)


def test_moreau_yosida_is_the_euclidean_case(xp):
    x = xp.asarray(np.random.default_rng(1).normal(size=(6, 4)))
    g = GroupNorm([0, 1, 1, 0], 0.5)
    one = MoreauYosidaLangevin(gradient, g, 0.05, smoothing=0.2)
    two = BregmanProximalLangevin(
        gradient, g, 0.05, bregman=Euclidean(), envelope="right", smoothing=0.2
    )
    a, b = (c.step(c.init(x, seed=2)) for c in (one, two))
    np.testing.assert_array_equal(xp.to_numpy(a.x), xp.to_numpy(b.x))
    lone = MoreauYosidaLangevin(None, g, 0.05, smoothing=0.2)
    state = lone.step(lone.init(x, seed=2))
    assert state.n_gradients == 0
    difference = xp.to_numpy(a.x) - xp.to_numpy(state.x)
    np.testing.assert_allclose(difference, 0.05 * -0.5 * xp.to_numpy(x), atol=1e-15)


def test_variance_of_a_gaussian_prior_is_exact():
    """The envelope of w x^2 / 2 is w / (1 + l w) x^2 / 2, so the chain is linear.

    H0: variance b^2 / (1 - a^2). 2e5 independent particles after 60 steps of contraction 0.6; the
    relative error of the variance is 3.2e-3 a standard error, 6 of them: false alarm 2e-9.
    """
    h, smoothing, w = 0.2, 0.5, 4.0
    chain = MoreauYosidaLangevin(gradient, SquaredNorm(w), h, smoothing=smoothing)
    result = mk.run(chain, np.zeros((20000, 10)), 60, seed=3, burn_in=59, progress=False)
    a = 1 - h * (0.5 + w / (1 + smoothing * w))
    want = 2 * h / (1 - a * a)
    assert result.x.var() == pytest.approx(want, rel=6 * math.sqrt(2 / 2e5))


def law(bregman, g, smoothing, envelope, force):
    """Mean and standard deviation of exp(-f - envelope) by quadrature; `force` is the integral of
    the gradient."""
    low = 0.0 if bregman.domain[0] == 0 else -40.0
    x = np.linspace(low, 40.0, 400002)[1:-1]
    value = moreau_envelope(g, x[:, None], smoothing, bregman=bregman, side=envelope)[0]
    log = force(x) - value
    p = np.exp(log - log.max())
    p /= p.sum()
    mean = (p * x).sum()
    return mean, math.sqrt((p * (x - mean) ** 2).sum())


CASES = {
    "hyperbolic, left": (Hyperbolic(1.0), "left", lambda x: -x, lambda x: -x * x / 2, L1Norm(1.0)),
    "hyperbolic, right": (Hyperbolic(1.0), "right", lambda x: 1 - x, lambda x: x - x * x / 2, L1Norm(2.0)),
    "Burg, left": (Burg(), "left", lambda x: 2 / x, lambda x: 2 * np.log(x), L1Norm(1.0)),
    "Burg, right": (Burg(), "right", lambda x: 3 / x, lambda x: 3 * np.log(x), SquaredNorm(1.0)),
    "entropy, left": (BoltzmannShannon(), "left", lambda x: 6 / x, lambda x: 6 * np.log(x), L1Norm(2.0)),
    "Euclidean": (Euclidean(), "left", lambda x: -x, lambda x: -x * x / 2, Box(0.2, np.inf)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_stationary_law_tends_to_the_smoothed_density(name):
    """Mean and deviation at two steps, extrapolated to h = 0, against quadrature.

    H0: bias a h + O(h^2). 16000 particles, 4 saves 0.5 or more apart count as 2e4 independent draws
    at least; extrapolation 2 m(h) - m(2h) has 2.3 times the standard error of one mean: with 6 of
    those, false alarm 2e-9 a number.
    """
    bregman, envelope, slope, force, g = CASES[name]
    smoothing, h = 0.1, 0.01
    mean, deviation = law(bregman, g, smoothing, envelope, force)
    found = []
    for k, step in enumerate((h, 2 * h)):
        chain = BregmanProximalLangevin(
            slope, g, step, bregman=bregman, envelope=envelope, smoothing=smoothing
        )
        n, every = round(4.0 / step), round(0.5 / step)
        result = mk.run(
            chain, np.full((2000, 8), mean), n, seed=11 + k, burn_in=n - 4 * every, thin=every, progress=False
        )  # fmt: skip
        assert result.converged and result.stats["refused"][-1] <= 3
        found.append((result.x.mean(), result.x.std()))
    (m1, s1), (m2, s2) = found
    error = deviation / math.sqrt(2e4)
    assert 2 * m1 - m2 == pytest.approx(mean, abs=6 * 2.3 * error + 0.003 * deviation)
    assert 2 * s1 - s2 == pytest.approx(deviation, abs=6 * 2.3 * error * 1.5 + 0.003 * deviation)


def test_burg_refuses_moves_out_of_the_dual_domain():
    """H0: without a drift the dual point is (sqrt(2h) z - 1) / x, so a move is refused with
    probability Phi(-1 / sqrt(2h)). 1e6 moves, 6 standard errors: false alarm 2e-9."""
    h = 0.1
    flat = Separable(lambda x: 0 * x, lambda x: 0 * x, lambda x: 0 * x)
    chain = BregmanProximalLangevin(None, flat, h, bregman=Burg(), smoothing=1.0)
    x = np.full((1_000_000, 1), 3.0)
    state = chain.step(chain.init(x, seed=4))
    p = 0.5 * math.erfc(1 / math.sqrt(2 * h) / math.sqrt(2))
    assert state.refused == pytest.approx(1e6 * p, abs=6 * math.sqrt(1e6 * p))
    assert (state.x > 0).all()
    assert int((state.x == 3.0).sum()) == state.refused
    assert chain.stats(state)["refused"] == state.refused


def test_resumed_runs_are_the_same(tmp_path):
    def chain(weight=1.0):
        return BregmanProximalLangevin(
            gradient, L1Norm(weight), 0.05, bregman=Hyperbolic(2.0), smoothing=0.2
        )

    x, path = np.ones((5, 2)), tmp_path / "run.npz"
    whole = mk.run(chain(), x, 20, seed=1, progress=False)
    mk.run(chain(), x, 12, seed=1, progress=False, checkpoint=path)
    resumed = mk.run(chain(), x, 20, seed=1, progress=False, checkpoint=path)
    np.testing.assert_array_equal(resumed.x, whole.x)
    with pytest.raises(mk.CheckpointError):
        mk.run(chain(1.5), x, 20, seed=1, progress=False, checkpoint=path)


@pytest.mark.parametrize(
    "call,kind,message",
    [
        (lambda: MoreauYosidaLangevin(3, L1Norm(), 0.1, smoothing=1.0), TypeError, "target"),
        (lambda: MoreauYosidaLangevin(gradient, 3, 0.1, smoothing=1.0), TypeError, "nonsmooth"),
        (lambda: MoreauYosidaLangevin(gradient, L1Norm(), 0, smoothing=1.0), ValueError, "step"),
        (lambda: MoreauYosidaLangevin(gradient, L1Norm(), 1, smoothing=-1.0), ValueError, "smoothing"),
        (lambda: BregmanProximalLangevin(gradient, L1Norm(), 1, envelope="up", smoothing=1),
         ValueError, "envelope"),
        (lambda: BregmanProximalLangevin(gradient, GroupNorm([0]), 1, bregman=Burg(), smoothing=1),
         ValueError, r"bregman: expected Euclidean\(\) for GroupNorm"),
        (lambda: BregmanProximalLangevin(gradient, Box(-3, [2, 0]), 1, bregman=Burg(), smoothing=1),
         ValueError, r"bregman: expected a domain that meets the inside of Box.* got Burg\(\) on"),
        (lambda: BregmanProximalLangevin(gradient, L1Norm(), 1, bregman=Burg(), smoothing=1).init(
            np.array([[1.0, 0.0]])), ValueError, r"x0: expected coordinates inside \(0, inf\)"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_proximal_map_of_another_shape_is_refused():
    chain = MoreauYosidaLangevin(gradient, lambda x, s: x[:, :1], 0.1, smoothing=1.0)
    with pytest.raises(ValueError, match=r"prox: expected shape \(2, 2\)"):
        chain.step(chain.init(np.ones((2, 2))))
