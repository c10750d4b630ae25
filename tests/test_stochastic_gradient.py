"""Hamiltonian samplers with mini-batches: which data are read, gradients, laws, exact biases."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

import mckean as mk
from mckean.samplers import StochasticGradientHMC, UnderdampedLangevin
from mckean.samplers._minibatch import BatchGradient, MiniBatches
from mckean.samplers._parts import PROPOSAL_STREAM

SCHEMES = ("ubu", "align", "baoab", "ee", "should", "quicsort")
ALL = (*SCHEMES, "lie-trotter", "symmetric")
FSAL = ("align", "baoab", "ee", "should")


class Lines:
    """Data y_i with precisions a_i about x, and a prior: everything is Gaussian, in one dimension."""

    def __init__(self, n=6, seed=0):
        rng = np.random.default_rng(seed)
        self.a, self.y, self.a0 = rng.uniform(0.2, 1.8, n) / n, 2 * rng.standard_normal(n), 0.3
        self.n = n
        self.precision = self.a0 + self.a.sum()
        self.mean = (self.a * self.y).sum() / self.precision

    def grad_log_prior(self, x):
        return -self.a0 * x

    def grad_log_likelihood(self, x, indices):
        indices = np.asarray(indices)
        return (self.a[indices] * self.y[indices]).sum() - self.a[indices].sum() * x

    def line(self, indices, scale):
        """alpha and beta of the gradient beta - alpha x of a batch."""
        indices = list(indices)
        a, y = self.a[indices], self.y[indices]
        return self.a0 + scale * a.sum(), scale * (a * y).sum()


class Logistic:
    def __init__(self, X, y, scale):
        self.rows, self.scale = X * (2 * y - 1)[:, None], scale

    def grad_log_prior(self, x):
        return -x / self.scale**2

    def grad_log_likelihood(self, x, indices):
        rows = self.rows[np.asarray(indices)]
        return (1 / (1 + np.exp(x @ rows.T))) @ rows


def logistic_data(m=50, p=3):
    X = mk.random.normal(3, (m, p))
    return X, (X[:, 0] + mk.random.normal(4, m) > 0).astype(float)


# ---- which data --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 10), (7, 1), (12, 4), (1, 1)])
def test_shuffled_batches_go_through_all_data(n, size):
    batches = MiniBatches(n, size, "shuffle")
    count = -(-n // size)
    for epoch in range(3):
        parts = [batches.at(5, epoch * count + k) for k in range(count)]
        assert sorted(np.concatenate([i for i, _ in parts])) == list(range(n))
        assert all(scale == count for _, scale in parts)
        sizes = [len(i) for i, _ in parts]
        assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("sampling", MiniBatches.samplings)
@pytest.mark.parametrize(("n", "size"), [(40, 3), (40, 25)])
def test_batches_are_uniform(sampling, n, size):
    """H0: every datum is as likely as any. 4000 batches; counts within 6 standard errors of 40
    binomials: false-alarm rate below 1e-7."""
    batches = MiniBatches(n, size, sampling)
    counts, total = np.zeros(n), 0
    for k in range(4000):
        indices, scale = batches.at(1, k)
        assert indices.dtype == np.int64 and (np.diff(indices) >= 0).all()
        if sampling != "replacement":
            assert len(np.unique(indices)) == len(indices)
        if sampling != "shuffle":
            assert len(indices) == size and scale == n / size
        np.add.at(counts, indices, 1)
        total += len(indices)
    p = 1 / n
    assert (np.abs(counts - total * p) < 6 * math.sqrt(total * p)).all()


@pytest.mark.parametrize("sampling", MiniBatches.samplings)
def test_batches_are_functions_of_seed_and_step(sampling):
    batches = MiniBatches(30, 4, sampling)
    forth = [batches.at(2, k)[0] for k in range(20)]
    again = MiniBatches(30, 4, sampling)
    for k in reversed(range(20)):
        np.testing.assert_array_equal(again.at(2, k)[0], forth[k])
    other = [batches.at(3, k)[0] for k in range(20)]
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(forth, other, strict=True))


# ---- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("anchored", [False, True])
def test_native_and_user_gradients_are_the_formula(anchored, xp, dtype):
    X, y = logistic_data()
    scale = np.array([1.0, 2.0, 0.5])
    own = Logistic(X, y, scale)
    target = mk.targets.LogisticRegression(X, y, scale)
    x = mk.random.normal(5, (7, 3)).astype(dtype)
    anchor = np.array([0.8, -0.1, 0.2]) if anchored else None
    indices, factor = np.array([1, 4, 5, 20]), 12.5
    want = own.grad_log_prior(x) + factor * own.grad_log_likelihood(x.astype(float), indices)
    if anchored:
        a = anchor[None]
        want = want + own.grad_log_likelihood(a, np.arange(50))
        want = want - factor * own.grad_log_likelihood(a, indices)

    class User:
        def grad_log_prior(self, x):
            return xp.asarray(own.grad_log_prior(xp.to_numpy(x)).astype(dtype))

        def grad_log_likelihood(self, x, indices):
            assert xp.is_array(indices)
            g = own.grad_log_likelihood(xp.to_numpy(x).astype(float), xp.to_numpy(indices))
            return xp.asarray(g.astype(dtype))

    like = mk._array.as_input(xp.asarray(x), "x")
    limit = {"float32": 3e-5, "float64": 1e-12}[dtype]
    for kind in (target, User()):
        g = BatchGradient(kind, 50, anchor)(like.array, like, indices, factor)
        np.testing.assert_allclose(xp.to_numpy(g.array), want, rtol=0, atol=limit)


def test_anchored_gradients_are_exact_at_the_anchor_and_unbiased_elsewhere():
    X, y = logistic_data()
    target = mk.targets.LogisticRegression(X, y)
    anchor = np.array([0.5, -0.2, 0.1])
    gradient, batches = BatchGradient(target, 50, anchor), MiniBatches(50, 10, "shuffle")
    for x, spread in ((anchor[None], 1e-12), (anchor[None] + 0.3, np.inf)):
        like = mk._array.as_input(x, "x")
        found = [gradient(x, like, *batches.at(1, k)).array for k in range(5)]
        full = target.grad_log_density(x)
        np.testing.assert_allclose(np.mean(found, 0), full, rtol=0, atol=1e-12)
        assert max(np.abs(g - full).max() for g in found) < spread


# ---- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_the_data_give_the_plain_sampler(scheme):
    X, y = logistic_data()
    target = mk.targets.LogisticRegression(X, y)
    x0, v0 = mk.random.normal(1, (5, 3)), mk.random.normal(2, (5, 3))
    batch = StochasticGradientHMC(target, 0.1, batch_size=50, friction=1.3, u=0.8, scheme=scheme)
    plain = UnderdampedLangevin(target, 0.1, friction=1.3, u=0.8, scheme=scheme, noise="counter")
    a, b = (c.init(x0, seed=3, v0=v0) for c in (batch, plain))
    for _ in range(4):
        a, b = batch.step(a), plain.step(b)
    np.testing.assert_allclose(a.x, b.x, rtol=0, atol=1e-12)
    assert a.n_gradients == b.n_gradients


@pytest.mark.parametrize("scheme", ["lie-trotter", "symmetric"])
@pytest.mark.parametrize("n_leapfrog", [1, 3])
def test_a_splitting_step_is_its_formula(scheme, n_leapfrog, xp, dtype):
    h, c, u, seed = 0.3, 1.2, 0.7, 4
    data = Lines()

    class Target:
        def grad_log_prior(self, x):
            return -data.a0 * x

        def grad_log_likelihood(self, x, indices):
            a, b = data.a[xp.to_numpy(indices)], data.y[xp.to_numpy(indices)]
            return float((a * b).sum()) - float(a.sum()) * x

    chain = StochasticGradientHMC(
        Target(),
        h,
        n_data=6,
        batch_size=2,
        friction=c,
        u=u,
        scheme=scheme,
        n_leapfrog=n_leapfrog,
    )
    x, v = (mk.random.normal(s, (4, 1)).astype(dtype) for s in (1, 2))
    state = chain.init(xp.asarray(x), seed=seed, v0=xp.asarray(v))
    e, part = h / n_leapfrog, h / 2 if scheme == "symmetric" else h
    decay, spread = math.exp(-c * part), math.sqrt(u * (1 - math.exp(-2 * c * part)))

    def normal(counter):
        return mk.random.normal(
            seed, (4, 1), stream=PROPOSAL_STREAM, counter=counter, dtype=dtype
        ).astype(float)

    for step in range(4):
        state = chain.step(state)
        alpha, beta = data.line(*MiniBatches(6, 2, "shuffle").at(seed, step))
        if scheme == "symmetric":
            v = decay * v + spread * normal(2 * step)
        for _ in range(n_leapfrog):
            x = x + e / 2 * v
            v = v + e * u * (beta - alpha * x)
            x = x + e / 2 * v
        v = decay * v + spread * normal(2 * step + 1)
        limit = {"float32": 1e-5, "float64": 1e-14}[dtype]
        np.testing.assert_allclose(xp.to_numpy(state.x), x, rtol=0, atol=limit)
        np.testing.assert_allclose(xp.to_numpy(state.v), v, rtol=0, atol=limit)
    assert state.n_gradients == 4 * n_leapfrog and xp.dtype(state.x) == dtype


class Fixed:
    def __init__(self, **values):
        self.values = values

    def increment(self, s, t):
        return SimpleNamespace(**{n: np.full((1, 1), self.values.get(n, 0.0)) for n in "WHK"})


def affine(scheme, h, alpha, beta, c=1.0, u=1.0):
    """Matrix M of (x, v, g, 1) and covariance Q of one step with the gradient beta - alpha x."""
    if scheme in ("lie-trotter", "symmetric"):
        part = h / 2 if scheme == "symmetric" else h
        R = np.diag([1, math.exp(-c * part), 1, 1])
        S = np.diag([0, u * (1 - math.exp(-2 * c * part)), 0, 0])
        A, B = np.eye(4), np.eye(4)
        A[0, 1] = h / 2
        B[1, 0], B[1, 3] = -h * u * alpha, h * u * beta
        F = A @ B @ A
        if scheme == "lie-trotter":
            return R @ F, S
        return R @ F @ R, R @ F @ S @ F.T @ R.T + S

    def step(x, v, g, **noise):
        chain = UnderdampedLangevin(
            lambda z: beta - alpha * z, h, friction=c, u=u, scheme=scheme, noise=Fixed(**noise)
        )
        state = chain.init(np.full((1, 1), float(x)), v0=np.full((1, 1), float(v)))
        if scheme in FSAL:
            state.grad = np.full((1, 1), float(g))
        state = chain.step(state)
        return np.array(
            [state.x[0, 0], state.v[0, 0], state.grad[0, 0] if scheme in FSAL else 0.0, 1.0]
        )

    rest = step(0, 0, 0)
    M = np.array([step(1, 0, 0) - rest, step(0, 1, 0) - rest, step(0, 0, 1) - rest, rest]).T
    N = np.array([step(0, 0, 0, **{n: 1.0}) - rest for n in "WHK"]).T
    return M, (N * (h * np.array([1, 1 / 12, 1 / 720]))) @ N.T


@pytest.mark.parametrize("sampling", MiniBatches.samplings)
@pytest.mark.parametrize("scheme", ALL)
def test_chains_have_the_law_that_their_batches_give(scheme, sampling):
    """H0: given the batches, chains are Gaussian with known moments. 20 000 chains of 12 steps; 5
    moments within 6 standard errors: false-alarm rate below 1e-7."""
    n, h, c, u, seed, data = 20_000, 0.4, 1.3, 0.7, 11, Lines()
    chain = StochasticGradientHMC(
        data, h, n_data=6, batch_size=2, friction=c, u=u, scheme=scheme, sampling=sampling
    )
    batches = MiniBatches(6, 2, sampling)
    z = mk.random.normal(1, (2, n))
    state = chain.init(z[0][:, None], seed=seed, v0=z[1][:, None])
    mean, cov = np.array([0.0, 0, 0, 1]), np.diag([1.0, 1, 0, 0])
    fsal = int(scheme in FSAL)
    if fsal:
        alpha, beta = data.line(*batches.at(seed, 0))
        G = np.eye(4)
        G[2] = [-alpha, 0, 0, beta]
        mean, cov = G @ mean, G @ cov @ G.T
    for k in range(12):
        state = chain.step(state)
        M, Q = affine(scheme, h, *data.line(*batches.at(seed, k + fsal)), c, u)
        mean, cov = M @ mean, M @ cov @ M.T + Q
    found = np.array([state.x[:, 0], state.v[:, 0]])
    P = cov[:2, :2]
    assert (np.abs(found.mean(1) - mean[:2]) < 6 * np.sqrt(np.diag(P) / n)).all()
    error = np.sqrt((np.outer(np.diag(P), np.diag(P)) + P**2) / n)
    assert (np.abs(np.cov(found) - P) < 6 * error).all()


def bias(scheme, h, sampling, data, size=2):
    """Stationary bias of the variance of x, exact: the mean over all batches, or over all orders of
    the batches of a pass, of the maps of second moments."""
    d = 4

    def moments(indices, scale):
        M, Q = affine(scheme, h, *data.line(indices, scale))
        last = np.zeros(d * d)
        last[-1] = 1
        return np.kron(M, M) + np.outer(Q.ravel(), last)

    every = tuple(range(data.n))
    if sampling == "full":
        total = moments(every, 1.0)
    else:
        scale = data.n / size
        maps = {s: moments(s, scale) for s in itertools.combinations(every, size)}
        if sampling == "subset":
            total = sum(maps.values()) / len(maps)
        else:
            found = []

            def passes(left, so_far):
                if not left:
                    found.append(so_far)
                for s in itertools.combinations(left, size):
                    passes(tuple(i for i in left if i not in s), maps[s] @ so_far)

            passes(every, np.eye(d * d))
            total = sum(found) / len(found)
    system = np.vstack([total - np.eye(d * d), np.eye(d * d)[-1]])
    P = np.linalg.lstsq(system, np.eye(d * d + 1)[-1], rcond=None)[0].reshape(d, d)
    mu = data.mean
    return P[0, 0] - 2 * mu * P[0, 3] + mu * mu - 1 / data.precision


@pytest.mark.parametrize(
    ("scheme", "full", "shuffle", "subset"),
    [("ee", 1, 1, 1), ("ubu", 2, 2, 1), ("align", 2, 2, 1), ("quicsort", 3, 2, 1),
     ("should", 3, 2, 1), ("symmetric", 2, 2, 1)],
)  # fmt: skip
def test_order_of_the_stationary_bias(scheme, full, shuffle, subset):
    """Exact linear algebra: batches in shuffled passes keep order 2, independent ones order 1."""
    data, steps = Lines(), (0.0125, 0.00625)
    for sampling, order in (("full", full), ("shuffle", shuffle), ("subset", subset)):
        b = [bias(scheme, h, sampling, data) for h in steps]
        assert abs(math.log2(b[0] / b[1]) - order) < 0.25, (sampling, b)


def test_the_positions_of_lie_trotter_have_the_law_of_symmetric():
    """Friction and noise leave x alone, so where they are put between flows does not matter."""
    data = Lines()
    for sampling in ("full", "subset"):
        a, b = (bias(s, 0.3, sampling, data) for s in ("lie-trotter", "symmetric"))
        assert a == pytest.approx(b, rel=1e-9)


# ---- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ubu", "align", "symmetric"])
@pytest.mark.parametrize("sampling", MiniBatches.samplings)
def test_resumed_runs_are_the_same_bit_for_bit(scheme, sampling, tmp_path):
    X, y = logistic_data()
    target = mk.targets.LogisticRegression(X, y)

    def chain(step=0.1):
        return StochasticGradientHMC(
            target, step, batch_size=8, scheme=scheme, sampling=sampling, anchor=np.zeros(3)
        )

    x0, path = mk.random.normal(1, (4, 3)), tmp_path / "c.npz"
    whole = mk.run(chain(), x0, 20, seed=6, progress=False)
    mk.run(chain(), x0, 9, seed=6, progress=False, checkpoint=path)
    resumed = mk.run(chain(), x0, 20, seed=6, progress=False, checkpoint=path)
    assert (resumed.x == whole.x).all()
    assert resumed.n_gradient_evaluations == whole.n_gradient_evaluations
    with pytest.raises(mk.CheckpointError):
        mk.run(chain(0.2), x0, 20, seed=6, progress=False, checkpoint=path)


def test_steps_are_pure_and_frameworks_agree(xp, dtype):
    X, y = logistic_data()
    target = mk.targets.LogisticRegression(X, y)
    x0 = mk.random.normal(1, (4, 3)).astype(dtype)
    for scheme in ("ubu", "baoab", "lie-trotter"):
        chain = StochasticGradientHMC(target, 0.1, batch_size=8, scheme=scheme)
        want = chain.init(x0, seed=1)
        state = chain.init(xp.asarray(x0), seed=1)
        for _ in range(5):
            kept = xp.to_numpy(state.x).copy()
            after = chain.step(state)
            assert (xp.to_numpy(chain.step(state).x) == xp.to_numpy(after.x)).all()
            assert (xp.to_numpy(state.x) == kept).all()
            state, want = after, chain.step(want)
        assert (xp.to_numpy(state.x) == want.x).all()


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        (dict(target=Lines(), batch_size=2), ValueError, "n_data: expected the number"),
        (dict(n_data=6, batch_size=7), ValueError, "batch_size: expected at most n_data = 6"),
        (dict(n_data=6, batch_size=0), ValueError, "batch_size: "),
        (dict(n_data=6, batch_size=2.0), TypeError, "batch_size: "),
        (dict(n_data=6, batch_size=2, sampling="all"), ValueError, "sampling: expected one of"),
        (dict(n_data=6, batch_size=2, scheme="hmc"), ValueError, "scheme: expected one of"),
        (dict(n_data=6, batch_size=2, n_leapfrog=2), ValueError, "n_leapfrog: expected 1 for"),
        (dict(n_data=6, batch_size=2, step=0.0), ValueError, "step: "),
        (dict(n_data=6, batch_size=2, anchor=[np.nan]), ValueError, "anchor: "),
        (dict(target=len, n_data=6, batch_size=2), TypeError, "target: .* len has no grad_log_pr"),
        (
            dict(target=mk.targets.LogisticRegression(*logistic_data()), n_data=6, batch_size=2),
            ValueError,
            "n_data: expected 50 to match the target",
        ),
    ],
)
def test_bad_settings_are_named(settings, error, match):
    given = {"target": Lines(), "step": 0.1, **settings}
    with pytest.raises(error, match=match):
        StochasticGradientHMC(given.pop("target"), given.pop("step"), **given)


def test_bad_gradients_are_named():
    class Bad(Lines):
        def grad_log_likelihood(self, x, indices):
            return np.zeros(3)

    chain = StochasticGradientHMC(Bad(), 0.1, n_data=6, batch_size=2)
    with pytest.raises(ValueError, match=r"grad_log_likelihood: expected shape \(2, 1\)"):
        chain.step(chain.init(np.ones((2, 1))))
    chain = StochasticGradientHMC(Lines(), 0.1, n_data=6, batch_size=2, anchor=np.zeros(2))
    with pytest.raises(ValueError, match=r"anchor: expected shape \(1,\) to match x"):
        chain.step(chain.init(np.ones((2, 1))))


def test_divergence_is_flagged():
    chain = StochasticGradientHMC(Lines(), 50.0, n_data=6, batch_size=2, scheme="symmetric")
    with pytest.warns(mk.ConvergenceWarning):
        assert not mk.run(chain, np.ones((2, 1)), 400, progress=False).converged
