"""Hopfield retrieval, ClAM and the gradient of `kernel_mean`, against attention, autograd and closed forms."""

import numpy as np
import pytest
import reference_interaction as ref
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import kernels as ks
from mckean.interaction import softmax
from mckean.interaction.memory import (
    ClAM,
    clam_energy,
    clam_loss,
    clam_steps,
    hopfield_energy,
    hopfield_retrieve,
)
from mckean.interaction.softmax import kernel_mean_vjp

TOL = {"float32": 2e-4, "float64": 1e-11}
KERNELS = [ks.Gaussian(0.75), ks.Gaussian([0.5, 1.0, 2.0]), ks.Dot(0.8), 3 * ks.Gaussian(1.5)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def normal(seed, *shape):
    return mk.random.normal(seed, shape)


def torch_mean(torch, k, x, y, values, log_weights, exclude_self=False):
    """`kernel_mean` for autograd."""
    k = k.kernel if isinstance(k, ks.Scaled) else k
    if isinstance(k, ks.Dot):
        logits = k.beta * x @ y.T
    else:
        bandwidth = torch.tensor(k.bandwidth, dtype=torch.float64)
        logits = -(((x[:, None] - y[None]) / bandwidth) ** 2).sum(-1) / 2
    logits = logits + log_weights
    if exclude_self:
        own = torch.eye(len(x), len(y), dtype=bool)
        logits = logits.masked_fill(own, -torch.inf)
    return logits.softmax(1) @ values


# --- the vector-Jacobian product


@pytest.mark.parametrize("k", KERNELS, ids=repr)
@pytest.mark.parametrize("own_values", [False, True])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("tile", [1 << 20, 11])
def test_vjp_is_that_of_autograd(torch, monkeypatch, k, own_values, exclude_self, tile):
    monkeypatch.setattr(softmax, "_TILE", tile)
    x, y, log_weights = normal(1, 9, 3), normal(2, 6, 3), normal(3, 6)
    values = normal(4, 6, 2) if own_values else None
    c = normal(5, 9, 2 if own_values else 3)
    got = kernel_mean_vjp(k, x, y, c, values, log_weights, exclude_self=exclude_self)
    leaves = [
        a if a is None else torch.tensor(a, requires_grad=True) for a in (x, y, values, log_weights)
    ]
    tx, ty, tv, tw = leaves
    torch_mean(torch, k, tx, ty, ty if tv is None else tv, tw, exclude_self).backward(
        torch.tensor(c)
    )
    for name, mine, leaf in zip(got._fields, got, leaves, strict=True):
        if leaf is None:
            assert mine is None
        else:
            np.testing.assert_allclose(
                mine, leaf.grad.numpy(), rtol=1e-11, atol=1e-12, err_msg=name
            )


def test_vjp_on_every_framework(xp, dtype):
    k = ks.Gaussian([0.5, 1.0, 2.0])
    arrays = [
        a.astype(dtype)
        for a in (
            normal(1, 20, 3),
            normal(2, 7, 3),
            normal(3, 20, 2),
            normal(4, 7, 2),
            normal(5, 7),
        )
    ]
    got = kernel_mean_vjp(k, *map(xp.asarray, arrays))
    want = kernel_mean_vjp(k, *(a.astype(np.float64) for a in arrays))
    for mine, exact in zip(got, want, strict=True):
        assert xp.is_array(mine) and xp.dtype(mine) == dtype
        np.testing.assert_allclose(xp.to_numpy(mine), exact, rtol=0, atol=TOL[dtype])


def test_vjp_far_from_the_sources_does_not_underflow(torch):
    """The nearest source is e^-5000 away in kernel value."""
    x, y, c = normal(1, 4, 2) + 100.0, normal(2, 5, 2), normal(3, 4, 2)
    got = kernel_mean_vjp(ks.Gaussian(1.0), x, y, c)
    tx, ty = (torch.tensor(a, requires_grad=True) for a in (x, y))
    torch_mean(torch, ks.Gaussian(1.0), tx, ty, ty, 0.0).backward(torch.tensor(c))
    np.testing.assert_allclose(got.x, tx.grad.numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.y, ty.grad.numpy(), rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 5),
    m=st.integers(1, 5),
    d=st.integers(1, 4),
    q=st.integers(0, 3),
    dot=st.booleans(),
)
def test_vjp_of_small_shapes_agrees_with_differences(n, m, d, q, dot):
    k = ks.Dot(0.5) if dot else ks.Gaussian(1.0)
    x, y, v, c, w = normal(1, n, d), normal(2, m, d), normal(3, m, q), normal(4, n, q), normal(5, m)
    got = kernel_mean_vjp(k, x, y, c, v, w)
    assert [a.shape for a in got] == [x.shape, y.shape, v.shape, w.shape]
    args, h = [x, y, v, w], 1e-6
    for i, direction in enumerate(map(np.ones_like, args)):
        up, down = (
            (
                c
                * ref.kernel_mean(
                    k, *[a + s * direction if j == i else a for j, a in enumerate(args)]
                )
            ).sum()
            for s in (h, -h)
        )
        assert got[i].sum() == pytest.approx((up - down) / (2 * h), abs=1e-7)


def test_vjp_refuses_what_it_cannot_do():
    x, y, c = normal(1, 3, 2), normal(2, 4, 2), normal(3, 3, 2)
    with pytest.raises(TypeError, match="k: expected Gaussian, Dot"):
        kernel_mean_vjp(ks.Laplace(1.0), x, y, c)
    with pytest.raises(ValueError, match="cotangent: expected shape"):
        kernel_mean_vjp(ks.Dot(1.0), x, y, c[:, :1])
    with pytest.raises(ValueError, match="y: expected at least one"):
        kernel_mean_vjp(ks.Dot(1.0), x, y[:0], c)
    with pytest.raises(ValueError, match="y: expected a point besides"):
        kernel_mean_vjp(ks.Dot(1.0), x, y[:1], c, exclude_self=True)
    with pytest.raises(ValueError, match="log_weights: expected finite"):
        kernel_mean_vjp(ks.Dot(1.0), x, y, c, log_weights=np.array([0.0, -np.inf, 0.0, 0.0]))
    with pytest.raises(ValueError, match="bandwidth: expected"):
        kernel_mean_vjp(ks.Gaussian([1.0, 1.0, 1.0]), x, y, c)


# --- Hopfield


def test_one_update_is_attention(torch):
    patterns, queries = normal(1, 40, 16), normal(2, 9, 16)
    got = hopfield_retrieve(patterns, queries, beta=0.25, n_steps=1).states
    keys = torch.tensor(patterns)
    want = torch.nn.functional.scaled_dot_product_attention(
        torch.tensor(queries), keys, keys
    )  # beta = 1 / sqrt(16)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-12)


def test_energy_is_its_formula_and_never_rises():
    patterns, queries = normal(1, 30, 5), 2 * normal(2, 8, 5)
    logits = 0.7 * queries @ patterns.T
    lse = np.log(np.exp(logits).sum(1))
    squares = (patterns**2).sum(1)
    want = -lse / 0.7 + (queries**2).sum(1) / 2 + np.log(30) / 0.7 + squares.max() / 2
    np.testing.assert_allclose(hopfield_energy(patterns, queries, beta=0.7), want, rtol=1e-12)
    before = want
    for n in range(1, 12):
        result = hopfield_retrieve(patterns, queries, beta=0.7, n_steps=n)
        assert (result.energy <= before + 1e-13).all() and (result.energy >= 0).all()
        np.testing.assert_array_equal(
            result.energy, hopfield_energy(patterns, result.states, beta=0.7)
        )
        before = result.energy


def test_retrieval_error_is_bounded_by_the_softmax_weight():
    """200 normal patterns in 64 dimensions, queries .3 per coordinate away: |xi' - x_i| <= 2 M (1 - p_i) for every one,
    the bound is no more than a few times too large, and the error falls steeply with beta."""
    patterns = normal(7, 200, 64)
    queries = patterns + 0.3 * normal(8, 200, 64)
    medians = []
    for beta in (0.1, 0.15, 0.3):
        got = hopfield_retrieve(patterns, queries, beta=beta, n_steps=1).states
        logits = beta * queries @ patterns.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        wrong = 1 - np.diag(p) / p.sum(1)
        distance = np.sqrt(((got - patterns) ** 2).sum(1))
        limit = 2 * np.sqrt((patterns**2).sum(1).max()) * wrong
        assert (distance <= limit + 1e-13).all()
        assert 0.2 < np.median(distance / limit) < 0.6
        medians.append(np.median(distance))
    assert medians[0] > 5 * medians[1] > 25 * medians[2]


def test_beta_decides_between_the_mean_and_a_pattern():
    patterns, queries = normal(1, 50, 20), normal(2, 6, 20)
    mean = hopfield_retrieve(patterns, queries, beta=1e-9).states
    np.testing.assert_allclose(mean, np.tile(patterns.mean(0), (6, 1)), atol=1e-7)
    single = hopfield_retrieve(patterns, queries, beta=1e6, n_steps=1).states
    np.testing.assert_allclose(single, patterns[(queries @ patterns.T).argmax(1)], atol=1e-9)


def test_retrieval_on_every_framework(xp, dtype):
    patterns, queries = normal(1, 60, 24).astype(dtype), None
    queries = (patterns[:7] + 0.2 * normal(2, 7, 24)).astype(dtype)
    result = hopfield_retrieve(xp.asarray(patterns), xp.asarray(queries), beta=0.6)
    assert result.converged and result.n_iter == result.iterations.max()
    assert xp.dtype(result.states) == dtype and xp.dtype(result.energy) == dtype
    exact = hopfield_retrieve(patterns.astype(float), queries.astype(float), beta=0.6, tol=1e-12)
    np.testing.assert_allclose(xp.to_numpy(result.states), exact.states, atol=5 * TOL[dtype])
    np.testing.assert_allclose(xp.to_numpy(result.energy), exact.energy, atol=5 * TOL[dtype])


def test_a_query_does_not_depend_on_the_others():
    patterns, queries = normal(1, 30, 6), normal(2, 12, 6)
    together = hopfield_retrieve(patterns, queries, beta=1.0)
    assert len(set(together.iterations.tolist())) > 1
    for i in range(12):
        alone = hopfield_retrieve(patterns, queries[i : i + 1], beta=1.0)
        np.testing.assert_allclose(alone.states[0], together.states[i], rtol=0, atol=1e-14)
        assert alone.n_iter == together.iterations[i]


def test_retrieval_that_does_not_converge_says_so():
    patterns, queries = normal(1, 30, 6), normal(2, 5, 6)
    with pytest.warns(mk.ConvergenceWarning, match="queries still move"):
        result = hopfield_retrieve(patterns, queries, beta=1.0, max_iter=2)
    assert not result.converged and result.n_iter == 2
    assert not hopfield_retrieve(patterns, queries, beta=1.0, n_steps=1).converged


def test_no_queries_and_one_pattern():
    result = hopfield_retrieve(np.ones((3, 2)), np.empty((0, 2)), beta=1.0)
    assert result.states.shape == (0, 2) and result.converged and result.n_iter == 0
    result = hopfield_retrieve(np.ones((1, 2)), np.zeros((2, 2)), beta=1.0)
    np.testing.assert_array_equal(result.states, np.ones((2, 2)))
    np.testing.assert_allclose(result.energy, 0.0, atol=1e-15)
    assert hopfield_retrieve(np.zeros((2, 2)), np.ones((1, 2)), beta=1.0).converged


def test_hopfield_refuses_wrong_arguments():
    x = np.ones((3, 2))
    for arguments, error in (
        ((x[:0], x), "patterns: expected at least one"),
        ((x, np.ones((2, 3))), "queries: expected shape"),
        ((x * np.nan, x), "patterns: expected finite"),
        ((x, x * np.inf), "queries: expected finite"),
    ):
        with pytest.raises(ValueError, match=error):
            hopfield_retrieve(*arguments, beta=1.0)
    for options in (
        {"beta": 0.0},
        {"beta": 1.0, "n_steps": 0},
        {"beta": 1.0, "tol": -1.0},
        {"beta": 1.0, "max_iter": 0},
    ):
        with pytest.raises(ValueError):
            hopfield_retrieve(x, x, **options)
    with pytest.raises(TypeError, match="queries: expected float64"):
        hopfield_retrieve(x, x.astype(np.float32), beta=1.0)


# --- ClAM


def test_a_step_descends_the_energy_gradient():
    """v' = v - (step / 2) grad E, with grad E by central differences."""
    rho, v, h = normal(1, 6, 3), normal(2, 5, 3), 1e-5
    slope = np.empty_like(v)
    for a in range(3):
        shift = h * np.eye(3)[a]
        slope[:, a] = (
            clam_energy(rho, v + shift, beta=0.8) - clam_energy(rho, v - shift, beta=0.8)
        ) / (2 * h)
    got = clam_steps(rho, v, beta=0.8, step=0.3, n_steps=1)
    np.testing.assert_allclose(got, v - 0.15 * slope, atol=1e-9)


def test_full_steps_are_mean_shift_on_the_prototypes(xp, dtype):
    rho, v = normal(1, 6, 3).astype(dtype), normal(2, 5, 3).astype(dtype)
    got = clam_steps(xp.asarray(rho), xp.asarray(v), beta=0.8, step=1.0, n_steps=1)
    want = ref.kernel_mean(ks.Gaussian(1 / np.sqrt(1.6)), v, rho)
    assert xp.dtype(got) == dtype
    np.testing.assert_allclose(xp.to_numpy(got), want, atol=TOL[dtype])


@pytest.mark.parametrize("step", [0.1, 0.7, 1.0])
def test_the_energy_never_rises(step):
    rho, v = normal(1, 8, 4), 3 * normal(2, 20, 4)
    energy = clam_energy(rho, v, beta=1.5)
    for n in range(1, 8):
        now = clam_energy(rho, clam_steps(rho, v, beta=1.5, step=step, n_steps=n), beta=1.5)
        assert (now <= energy + 1e-12).all()
        energy = now


def test_masked_steps_leave_seen_coordinates():
    rho, v = normal(1, 6, 4), normal(2, 5, 4)
    mask = normal(3, 5, 4) > 0
    got = clam_steps(rho, v, beta=1.0, step=0.5, n_steps=3, mask=mask)
    assert (got[~mask] == v[~mask]).all() and (got[mask] != v[mask]).all()
    np.testing.assert_array_equal(
        clam_steps(rho, v, beta=1.0, step=0.5, n_steps=3),
        clam_steps(rho, v, beta=1.0, step=0.5, n_steps=3, mask=np.ones((5, 4))),
    )


@pytest.mark.parametrize("n_steps", [0, 1, 10])
def test_loss_and_gradient_are_those_of_autograd(torch, n_steps):
    rho, x, mask = normal(1, 5, 4), normal(2, 12, 4), (normal(3, 12, 4) > 0.3).astype(float)
    loss, gradient = clam_loss(rho, x, mask, beta=1.3, step=0.4, n_steps=n_steps, fill=0.2)
    p, tx, tm = torch.tensor(rho, requires_grad=True), torch.tensor(x), torch.tensor(mask)
    v = tx * (1 - tm) + 0.2 * tm
    for _ in range(n_steps):
        weights = (-1.3 * ((v[:, None] - p[None]) ** 2).sum(-1)).softmax(1)
        v = v + 0.4 * tm * (weights @ p - v)
    want = ((tm * (v - tx)) ** 2).sum() / tm.sum()
    assert loss == pytest.approx(want.item(), rel=1e-13)
    if n_steps:
        want.backward()
        np.testing.assert_allclose(gradient, p.grad.numpy(), rtol=1e-10, atol=1e-13)
    else:
        assert not gradient.any()


def test_loss_on_every_framework(xp, dtype):
    rho, x = normal(1, 5, 4).astype(dtype), normal(2, 12, 4).astype(dtype)
    mask = (normal(3, 12, 4) > 0.3).astype(dtype)
    loss, gradient = clam_loss(*map(xp.asarray, (rho, x, mask)), beta=1.3, step=0.4)
    want, exact = clam_loss(*(a.astype(float) for a in (rho, x, mask)), beta=1.3, step=0.4)
    assert isinstance(loss, float) and xp.dtype(gradient) == dtype
    assert loss == pytest.approx(want, abs=TOL[dtype])
    np.testing.assert_allclose(xp.to_numpy(gradient), exact, atol=TOL[dtype])


def mixture(seed=1, n=50, k=4, d=5, spread=6.0):
    centres = spread * normal(seed, k, d)
    return np.repeat(centres, n, axis=0) + normal(seed + 1, n * k, d), np.repeat(np.arange(k), n)


def test_clam_matches_k_means_on_a_mixture():
    cluster, metrics = (pytest.importorskip(f"sklearn.{m}") for m in ("cluster", "metrics"))
    x, truth = mixture()
    model = ClAM(4, beta=0.5, n_restarts=2, patience=5, seed=3).fit(x)
    k_means = cluster.KMeans(4, n_init=10, random_state=0).fit(x)
    assert model.converged and model.n_iter == len(model.losses)
    assert (
        metrics.silhouette_score(x, model.labels)
        >= metrics.silhouette_score(x, k_means.labels_) - 1e-3
    )
    assert metrics.adjusted_rand_score(truth, model.labels) > 0.99
    means = np.array([x[model.labels == j].mean(0) for j in range(4)])
    assert ref.pair_argmin(means, model.prototypes)[0][:, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(model.predict(x), model.labels)
    assert model.losses[-1] < model.losses[0]
    want = ((x - model.prototypes[model.labels]) ** 2).sum()
    assert model.inertia == pytest.approx(want, rel=1e-12)


def test_clam_is_a_function_of_its_seed_and_does_not_move_with_the_data():
    x, _ = mixture(n=20, k=3, d=2)
    options = dict(beta=0.5, n_restarts=1)
    first, again = (ClAM(3, seed=5, **options).fit(x) for _ in range(2))
    np.testing.assert_array_equal(first.prototypes, again.prototypes)
    other = ClAM(3, seed=6, **options).fit(x)
    assert not np.array_equal(first.prototypes, other.prototypes)
    far = ClAM(3, seed=5, **options).fit(x + 64.0)
    np.testing.assert_array_equal(far.labels, first.labels)


@pytest.mark.filterwarnings("ignore::mckean.ConvergenceWarning")
def test_clam_on_every_framework(xp, dtype):
    x, truth = mixture(n=8, k=3, d=8, spread=3.0)
    model = ClAM(3, beta=0.5, n_restarts=2, max_epochs=4).fit(xp.asarray(x.astype(dtype)))
    assert xp.is_array(model.prototypes) and xp.dtype(model.prototypes) == dtype
    labels = xp.to_numpy(model.labels)
    assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3
    assert xp.to_numpy(model.transform(xp.asarray(x.astype(dtype)))).shape == x.shape


def test_clam_that_does_not_converge_says_so():
    x, _ = mixture(n=10, k=3, d=2)
    with pytest.warns(mk.ConvergenceWarning, match="after 3 epochs"):
        model = ClAM(3, beta=0.5, n_restarts=1, max_epochs=3).fit(x)
    assert not model.converged and model.n_iter == 3


def test_clam_refuses_wrong_arguments():
    x = normal(1, 10, 2)
    for options in (
        {"beta": 0.0},
        {"beta": 1.0, "step": 1.5},
        {"beta": 1.0, "mask_rate": 1.0},
        {"beta": 1.0, "n_restarts": 0},
    ):
        with pytest.raises(ValueError):
            ClAM(2, **options)
    model = ClAM(2, beta=1.0)
    with pytest.raises(ValueError, match="call fit"):
        model.predict(x)
    with pytest.raises(ValueError, match="x: expected at least n_clusters"):
        model.fit(x[:1])
    with pytest.raises(ValueError, match="points that differ"):
        model.fit(np.ones((5, 2)))
    with pytest.raises(ValueError, match="mask: expected zeros and ones"):
        clam_steps(x, x, beta=1.0, mask=0.5 * np.ones((10, 2)))
    with pytest.raises(ValueError, match="mask: expected at least one hidden"):
        clam_loss(x, x, np.zeros((10, 2)), beta=1.0)
    with pytest.raises(ValueError, match="mask: expected shape"):
        clam_loss(x, x, np.ones((10, 3)), beta=1.0)


def test_inputs_are_not_touched():
    rho, x, mask = normal(1, 5, 4), normal(2, 12, 4), np.ones((12, 4))
    copies = [a.copy() for a in (rho, x, mask)]
    for a in (rho, x, mask):
        a.setflags(write=False)
    clam_loss(rho, x, mask, beta=1.0)
    assert clam_steps(rho, x, beta=1.0, n_steps=0) is not x
    ClAM(2, beta=1.0, n_restarts=1).fit(x)
    hopfield_retrieve(rho, x, beta=1.0)
    for a, b in zip((rho, x, mask), copies, strict=True):
        np.testing.assert_array_equal(a, b)
