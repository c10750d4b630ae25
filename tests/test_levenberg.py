"""Langevin chains whose metric the ensemble provides: models, laws, exactness, diagnostics."""

import math
import warnings

import numpy as np
import pytest

import mckean as mk
from mckean._array import as_input
from mckean.samplers import LevenbergMarquardtLangevin
from mckean.samplers._parts import Target
from mckean.samplers._score_model import Products, damped, from_products, from_scores, score_ratio

D = 12
A = np.concatenate([[1000.0, 300.0, 100.0], np.linspace(2.0, 0.5, D - 3)])
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]


class Rotated:
    """N(0, Q diag(1/A) Q^T)."""

    def __init__(self, xp=None, dtype="float64"):
        wrap = np.asarray if xp is None else xp.asarray
        self.q, self.a = wrap(Q.astype(dtype)), wrap(A.astype(dtype))
        self.h = wrap(((Q * A) @ Q.T).astype(dtype))

    def log_density(self, x):
        y = x @ self.q
        return -0.5 * (y * y * self.a).sum(1)

    def grad_log_density(self, x):
        return -(x @ self.h)


def dense(U, s, t):
    return (U * s) @ U.T + t * np.eye(len(U))


# ---- the models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [5, 40])  # fewer and more scores than coordinates
@pytest.mark.parametrize("share", [0.3, 1.0])  # the median decides, and the largest left out
def test_score_model_is_the_damped_second_moment(m, share, xp, dtype):
    scores = (np.random.default_rng(1).standard_normal((m, D)) * np.sqrt(A)).astype(dtype)
    values, vectors = np.linalg.eigh(scores.astype(float).T @ scores / m)
    values, vectors = values[::-1], vectors[:, ::-1]
    U, s, t = from_scores(as_input(xp.asarray(scores), "scores"), 3, None, share)
    rest = (
        values[3:][values[3:] > 1e-6 * values[0]] if dtype == "float32" else values[3 : min(m, D)]
    )
    assert t == pytest.approx(max(np.median(rest), share * rest[0], 1e-3 * values[0]), rel=1e-3)
    want = dense(vectors[:, :3], np.maximum(values[:3] - t, 0), t)
    np.testing.assert_allclose(
        dense(U, s, t), want, rtol=0, atol={"float32": 1e-3, "float64": 1e-9}[dtype] * 1000
    )
    np.testing.assert_allclose(U.T @ U, np.eye(3), atol={"float32": 1e-5, "float64": 1e-12}[dtype])
    _, s, t = from_scores(as_input(xp.asarray(scores), "scores"), 3, 7.0, share)
    assert t == 7.0 and np.allclose(s, np.maximum(values[:3] - 7, 0), rtol=1e-4)


def test_score_model_of_few_directions():
    """Rank-deficient scores: no columns of noise, and no division by zero."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((30, 2)) @ rng.standard_normal((2, D))
    U, _, t = from_scores(as_input(scores, "scores"), 5, None, 0.45)
    assert U.shape == (D, 2) and t == pytest.approx(1e-3 * np.linalg.norm(scores, 2) ** 2 / 30)
    with pytest.raises(ValueError, match="damping: "):
        from_scores(as_input(np.zeros((30, D)), "scores"), 5, None, 0.45)
    with pytest.raises(ValueError, match="grad_log_density: expected finite"):
        from_scores(as_input(np.full((30, D), np.inf), "scores"), 5, None, 0.45)


@pytest.mark.parametrize("source", ["lanczos", "nystrom"])
def test_product_model(source, xp, dtype):
    target = Rotated(xp, dtype)
    x = as_input(xp.asarray(np.ones((2, D), dtype)), "x")
    products = Products(Target(target), x, np.full(D, 0.3))
    v = np.random.default_rng(0).standard_normal(D)
    h = (Q * A) @ Q.T
    relative = {"float32": 2e-3, "float64": 1e-8}[dtype]
    assert np.linalg.norm(products(v) - h @ v) < relative * np.linalg.norm(h @ v)
    U, s, t = from_products(products, D, 3, None, 0.45, 0, source)
    assert t == pytest.approx(np.median(A[3:]), rel=0.05) or t == pytest.approx(
        1.0, rel=1e-6
    )  # the floor
    np.testing.assert_allclose(s, A[:3] - t, rtol=5e-3)
    np.testing.assert_allclose(np.abs(np.diag(U.T @ Q[:, :3])), 1, atol=1e-3)
    assert 3 <= products.calls <= 60


def test_repeated_eigenvalues_do_not_hide_the_rest():
    """A Krylov space sees one vector of the identity; the damping must be 1 all the same."""
    x = as_input(np.ones((2, 30)), "x")
    products = Products(Target(np.negative), x, np.zeros(30))
    _, s, t = from_products(products, 30, 4, None, 0.45, 0, "lanczos")
    assert t == pytest.approx(1.0, rel=1e-6) and np.abs(s).max() < 1e-6


def test_negative_curvature_is_clipped_or_named():
    values = np.array([5.0, 1.0, -3.0])
    _, s, t = damped(np.eye(3), values, 3, 0.5, values[3:], 1.0)
    assert t == 0.5 and (s == [4.5, 0.5, 0.0]).all()
    with pytest.raises(
        ValueError, match="damping: expected a number for a target whose log density"
    ):
        damped(np.eye(3), np.array([-1.0, -2.0, -3.0]), 3, None, np.zeros(0), 1.0)

    class Convex:  # log density x^2 / 2
        def log_density(self, x):
            return 0.5 * (x * x).sum(1)

        def grad_log_density(self, x):
            return 1.0 * x

    with pytest.raises(ValueError, match="^damping: "):
        LevenbergMarquardtLangevin(Convex()).init(np.ones((4, 2)))
    LevenbergMarquardtLangevin(Convex(), damping=1.0).init(np.ones((4, 2)))


def test_score_ratio_is_one_in_equilibrium():
    """H0: ratio 1; chi-square with 5000 degrees, 6 standard errors."""
    x = (mk.random.normal(0, (5000, D)) / np.sqrt(A)) @ Q.T
    target = Rotated()
    scores = as_input(target.grad_log_density(x), "scores")
    products = Products(Target(target), as_input(x, "x"), x.mean(0))
    ratio = score_ratio(scores, Q[:, 0], products)
    assert abs(ratio - 1) < 6 * math.sqrt(2 / 5000)
    wide = as_input(target.grad_log_density(10 * x), "scores")
    assert score_ratio(wide, Q[:, 0], products) == pytest.approx(100 * ratio)


# ---- the chains ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["scores", "lanczos", "nystrom", "history"])
def test_variances_from_an_overdispersed_start(source):
    """H0: variances 1/a. 500 chains from N(0, I), up to 1000 times too wide, 900 steps, 40 positions of each.

    Positions 15 steps apart are correlated at most .9 in the directions the model gets wrong (history), so there are
    at least 500 x 2 independent ones: 5 % is 1.1 standard errors for those. Tolerance 6 standard errors of 1000 draws for
    history; for the others (correlation below .2, so 13 000 draws) 6.5 %. False-alarm rate below 1e-7.
    """
    chain = LevenbergMarquardtLangevin(Rotated(), rank=4, source=source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mk.run(
            chain, mk.random.normal(1, (500, D)), 900, burn_in=300, thin=15, seed=2, progress=False
        )
    variance = ((result.x.reshape(-1, D) @ Q) ** 2).mean(0) * A
    limit = 6 * math.sqrt(2 / 1000) if source == "history" else 0.065
    assert (np.abs(variance - 1) < limit).all()
    assert 0.3 < result.stats["acceptance_rate"].mean() < 0.99
    assert 0.3 < result.stats["score_ratio"][-1] < 3
    assert result.n_gradient_evaluations < 960 and result.stats["n_products"][-1] < 200


GEOMETRIC = np.geomspace(1000.0, 1.0, 50)


@pytest.mark.parametrize("adjust", [True, False])
@pytest.mark.parametrize("source", ["scores", "lanczos", "nystrom"])
def test_a_spectrum_without_a_gap(source, adjust):
    """The largest eigenvalue left out is far above the median of those, and its direction must not run away."""
    target = mk.targets.Gaussian(np.zeros(50), precision=GEOMETRIC)
    chain = LevenbergMarquardtLangevin(target, source=source, adjust=adjust)
    x0 = mk.random.normal(1, (400, 50))  # up to 1000 times too wide
    if not adjust:  # whose step would take longer
        x0 = x0 / np.sqrt(GEOMETRIC)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mk.run(chain, x0, 500, burn_in=300, thin=20, progress=False)
    variance = (result.x**2).mean((0, 1)) * GEOMETRIC
    # H0: variances 1/a, without rejections up to 1 / (a (1 - h / 2)), h = .1. At least 400 independent draws each:
    # 6 standard errors, below 1e-7 for all fifty.
    assert (np.abs(variance - 1) < 6 * math.sqrt(2 / 400)).all()
    if adjust:
        assert result.stats["acceptance_rate"].mean() > 0.3
    if source == "scores":
        chain._share = 0.0  # the median alone: stuck, or growing without bound
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bad = mk.run(chain, x0, 150, burn_in=100, thin=10, progress=False)
        if adjust:
            assert bad.stats["acceptance_rate"].mean() < 0.05
        else:
            assert bad.x[-1].var() > 1e6


def test_scores_alone_fail_from_an_overdispersed_start():
    """What the burn-in with the Hessian is for: without it stiff directions stay too wide, and the chain says so."""
    chain = LevenbergMarquardtLangevin(Rotated(), rank=4, burn_in=0)
    with pytest.warns(mk.ConvergenceWarning, match="not in equilibrium"):
        result = mk.run(
            chain, mk.random.normal(1, (500, D)), 60, burn_in=40, seed=2, progress=False
        )
    variance = ((result.x.reshape(-1, D) @ Q) ** 2).mean(0) * A
    assert variance[0] > 20
    assert result.stats["acceptance_rate"].mean() > 0.9  # which proves nothing


def test_unadjusted_chain_has_the_bias_of_its_step():
    """H0: variance 1 / (a (1 - h q a / 2)) with the frozen Lanczos model, q a = 1 in the top directions. 20 000 chains after
    80 steps from the target: 6 standard errors, below 2e-9 each."""
    n, h = 20_000, 0.4
    x0 = (mk.random.normal(1, (n, D)) / np.sqrt(A)) @ Q.T
    chain = LevenbergMarquardtLangevin(
        Rotated(), h, rank=3, source="lanczos", adjust=False, burn_in=1, damping=1.25
    )
    result = mk.run(chain, x0, 80, burn_in=79, progress=False, seed=3)
    q = 1 / np.concatenate([A[:3], np.full(D - 3, 1.25)])
    want = 1 / (1 - h * q * A / 2)
    assert (np.abs((result.x[0] @ Q).var(0) * A / want - 1) < 6 * math.sqrt(2 / n)).all()
    assert "acceptance_rate" not in result.stats


@pytest.mark.parametrize("adjust", [True, False])
def test_halves_rest_and_move_in_turn(adjust):
    """What moves one half is a function of the other half alone."""
    n, refresh = 60, 3
    chain = LevenbergMarquardtLangevin(
        Rotated(), 0.1, rank=3, refresh=refresh, burn_in=4, adjust=adjust
    )
    state = chain.init((mk.random.normal(1, (n, D)) / np.sqrt(A)) @ Q.T, seed=2)
    for _ in range(4):
        state = chain.step(state)
    for k in range(4 * refresh):
        after = chain.step(state)
        idle = slice(n // 2, n) if k // refresh % 2 == 0 else slice(0, n // 2)
        busy = slice(0, n // 2) if k // refresh % 2 == 0 else slice(n // 2, n)
        assert (after.x[idle] == state.x[idle]).all()
        if adjust:
            assert (after.accepted[idle] == 0).all() and after.accepted[busy].max() <= 2
        assert (after.x[busy] != state.x[busy]).any()
        if k % refresh == 0:  # a new model, from the scores of those who rest
            scores = as_input(Rotated().grad_log_density(state.x[idle]), "scores")
            U, s, t = from_scores(scores, 3, None, 0.15 if adjust else 1.0)
            np.testing.assert_allclose(
                dense(after.U, after.s, after.t), dense(U, s, t), atol=1e-9 * 1000
            )
        else:
            assert (after.U == state.U).all() and after.t == state.t
        state = after


def test_the_model_is_frozen_after_burn_in_when_particles_are_few():
    chain = LevenbergMarquardtLangevin(Rotated(), rank=3, refresh=2, burn_in=5)
    state = chain.init((mk.random.normal(1, (4 * D - 1, D)) / np.sqrt(A)) @ Q.T, seed=2)
    models = []
    for _ in range(12):
        state = chain.step(state)
        models.append(state.U)
    changed = [k for k in range(1, 12) if (models[k] != models[k - 1]).any()]
    assert changed == [2, 4, 5]


def test_moves_of_a_chain_never_share_noise():
    """With a flat density every move is noise alone: increments must all differ, across steps and halves."""

    class Flat:
        def log_density(self, x):
            return 0.0 * x[:, 0]

        def grad_log_density(self, x):
            return 0.0 * x

    n, d = 8, 2
    chain = LevenbergMarquardtLangevin(
        Flat(), 0.5, rank=1, damping=1.0, refresh=2, burn_in=3, adjust=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mk.ConvergenceWarning)  # no curvature to compare with
        x = mk.run(chain, np.zeros((n, d)), 11, seed=1, progress=False).x
    steps = np.diff(np.concatenate([np.zeros((1, n, d)), x]), axis=0).reshape(-1, d)
    moved = steps[(steps != 0).any(1)]
    assert len(np.unique(moved.round(12), axis=0)) == len(moved) == 3 * n + 8 * n // 2


@pytest.mark.parametrize(
    "settings", [dict(), dict(adjust=False), dict(source="history"), dict(source="lanczos")]
)
def test_checkpoints_continue_bit_for_bit(settings, tmp_path, xp, dtype):
    target = Rotated(xp, dtype)
    chain = LevenbergMarquardtLangevin(target, 0.05, rank=3, refresh=3, burn_in=6, **settings)
    x0 = xp.asarray(((mk.random.normal(1, (60, D)) / np.sqrt(A)) @ Q.T).astype(dtype))
    options = dict(seed=3, progress=False)
    once = mk.run(chain, x0, 17, **options)
    assert xp.dtype(once.x) == dtype
    for end in (4, 8, 13, 17):
        part = mk.run(chain, x0, end, checkpoint=tmp_path / "c.npz", **options)
    assert (xp.to_numpy(part.x) == xp.to_numpy(once.x)).all()
    assert part.n_gradient_evaluations == once.n_gradient_evaluations
    assert part.state.score_ratio == once.state.score_ratio
    first = chain.step(part.state)
    assert (xp.to_numpy(chain.step(part.state).x) == xp.to_numpy(first.x)).all()


def test_built_in_targets_and_gradient_counts():
    target = mk.targets.LogisticRegression(
        np.random.default_rng(0).standard_normal((200, 5)) * [10, 1, 1, 1, 1],
        (np.arange(200) % 2),
        prior_scale=1.0,
    )
    calls = []

    class Counted:
        def log_density(self, x):
            return target.log_density(x)

        def grad_log_density(self, x):
            calls.append(len(x))
            return target.grad_log_density(x)

    n = 40
    chain = LevenbergMarquardtLangevin(Counted(), rank=2, refresh=10, burn_in=20)
    result = mk.run(chain, np.zeros((n, 5)), 60, progress=False)
    assert result.converged
    products = result.state.n_products
    assert sum(calls) == n * result.n_gradient_evaluations + 2 * products


def test_density_is_needed_to_adjust():
    with pytest.raises(TypeError, match="adjust=True needs log_density"):
        LevenbergMarquardtLangevin(np.negative)
    assert LevenbergMarquardtLangevin(np.negative, adjust=False).step_size == 0.1


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (dict(step=0), ValueError, "step: "),
        (dict(rank=0), ValueError, "rank: "),
        (dict(damping=0), ValueError, "damping: "),
        (dict(refresh=0), ValueError, "refresh: "),
        (dict(source="magic"), ValueError, "source: expected one of 'scores', 'lanczos'"),
        (dict(adjust=1), TypeError, "adjust: "),
        (dict(burn_in=-1), ValueError, "burn_in: "),
        (dict(burn_in=1, source="history"), ValueError, "burn_in: expected at least 2 steps"),
    ],
)
def test_bad_settings_are_named(settings, error, match):
    with pytest.raises(error, match=match):
        LevenbergMarquardtLangevin(Rotated(), **settings)


def test_a_gradient_that_is_not_finite_is_named():
    class Broken(Rotated):
        def grad_log_density(self, x):
            return np.full_like(x, np.nan)

    with pytest.raises(FloatingPointError, match="grad_log_density: not finite beside the mean"):
        LevenbergMarquardtLangevin(Broken()).init(np.zeros((3, D)))


def test_nystrom_of_an_indefinite_hessian_names_the_source():
    class Saddle:
        calls, relative_error = 0, 0.0

        def __call__(self, v):
            return np.linspace(-1.0, 2.0, 20) * v

    with pytest.raises(ValueError, match='^source: expected a positive semi-definite .* "lanczos"'):
        from_products(Saddle(), 20, 2, 1.0, 0.5, 0, "nystrom")
