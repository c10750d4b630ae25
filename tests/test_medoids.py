"""k-medoids: brute force, the Python package kmedoids, and properties of any correct search."""

import itertools
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import _core
from mckean.interaction.medoids import kmedoids

SPATIAL = {
    "euclidean": "euclidean",
    "sqeuclidean": "sqeuclidean",
    "manhattan": "cityblock",
    "cosine": "cosine",
}


def points(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def matrix(x, metric):
    cdist = pytest.importorskip("scipy.spatial.distance").cdist
    d = cdist(x, x, SPATIAL[metric])
    d[np.diag_indices(len(x))] = 0
    return (d + d.T) / 2


def loss_of(d, medoids):
    return d[:, medoids].min(1).sum()


def check(found, d, tolerance=1e-10):
    """What holds for every result."""
    n, k = len(d), len(found.medoids)
    assert (
        len(set(found.medoids.tolist())) == k
        and found.medoids.min() >= 0
        and found.medoids.max() < n
    )
    own = d[np.arange(n), found.medoids[found.labels]]
    np.testing.assert_allclose(own, d[:, found.medoids].min(1), rtol=1e-5, atol=tolerance)
    assert (found.labels[found.medoids] == np.arange(k)).all()
    assert found.loss == pytest.approx(
        loss_of(d, found.medoids), rel=max(tolerance, 1e-12), abs=tolerance
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_change_of_every_swap_is_that_of_brute_force(simd_level, dtype):
    n, k = 61, 7
    x = points(n, 3)
    d = matrix(x, "euclidean").astype(dtype)
    medoids = np.random.default_rng(1).choice(n, k, replace=False)
    state = (np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, dtype), np.empty(n, dtype))
    for slot, m in enumerate(medoids):
        _core.pam_offer(*state, k, d[m], slot, int(m))
    by_distance = np.argsort(d[:, medoids], axis=1)
    assert (state[0] == by_distance[:, 0]).all() and (state[1] == by_distance[:, 1]).all()
    removal = np.empty(k)
    near, far = _core.pam_totals(*state, removal)
    assert near == pytest.approx(state[2].sum(), rel=1e-6) and far == pytest.approx(
        state[3].sum(), rel=1e-6
    )
    is_medoid = np.isin(np.arange(n), medoids).astype(np.uint8)
    change, slot = np.empty(n), np.empty(n, np.int32)
    _core.pam_changes(*state, removal, is_medoid, 0, d, change, slot)
    exact, before = d.astype(float), loss_of(d.astype(float), medoids)
    for j in range(n):
        if is_medoid[j]:
            assert change[j] == np.inf
            continue
        swaps = [loss_of(exact, [*np.delete(medoids, b), j]) - before for b in range(k)]
        assert change[j] == pytest.approx(min(swaps), abs=1e-10 if dtype == "float64" else 1e-5)
        assert slot[j] == np.argmin(swaps)


@pytest.mark.parametrize("method", ["fasterpam", "fastpam1"])
@pytest.mark.parametrize("seed", range(6))
def test_same_path_as_the_package_kmedoids(method, seed):
    peer = pytest.importorskip("kmedoids")
    x = points(300, 3, seed)
    d = matrix(x, "euclidean")
    start = np.random.default_rng(seed).choice(300, 12, replace=False)
    options = {"n_cpu": 1} if method == "fasterpam" else {}
    theirs = getattr(peer, method)(d, start.copy(), 100, **options)
    for source, metric in ((x, "euclidean"), (d, "precomputed")):
        ours = kmedoids(source, 12, metric=metric, init=start, method=method)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
        assert set(ours.medoids.tolist()) == set(theirs.medoids.tolist())
        assert ours.n_swaps == theirs.n_swap and ours.n_iter == theirs.n_iter
        assert ours.converged
        check(ours, d)


def test_fastpam1_is_pam():
    """Every exchange is the best of all pairs, by brute force."""
    n, k = 30, 3
    d = matrix(points(n, 2, 5), "manhattan")
    medoids = [0, 1, 2]
    while True:
        pairs = itertools.product(range(n), range(k))
        tries = [
            (loss_of(d, [*medoids[:b], j, *medoids[b + 1 :]]), j, b)
            for j, b in pairs
            if j not in medoids
        ]
        best, j, b = min(tries)
        if best >= loss_of(d, medoids) - 1e-12:
            break
        medoids[b] = j
    assert (
        kmedoids(d, k, metric="precomputed", init=[0, 1, 2], method="fastpam1").medoids.tolist()
        == medoids
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", SPATIAL)
def test_metrics(metric, dtype, simd_level):
    for n, dim in ((75, 1), (130, 5), (65, 40)):
        x = points(n, dim, n).astype(dtype)
        d = matrix(x.astype(float), metric)
        found = kmedoids(x, 4, metric=metric)
        check(found, d, 1e-10 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "manhattan"])
def test_results_do_not_depend_on_threads_or_instruction_set(metric):
    x = points(2500, 3, 3).astype(np.float32)
    results = []
    threads, level = mk.get_num_threads(), _core.simd_level()
    try:
        for t, s in [(1, level), (2, level), (3, level), *((2, s) for s in _core.simd_levels())]:
            mk.set_num_threads(t)
            _core.set_simd_level(s)
            found = kmedoids(
                x, 6, metric=metric, init="build" if s == level else "lab", max_iter=50
            )
            if s != level:
                continue
            results.append((found.medoids.tolist(), found.loss, found.n_swaps))
    finally:
        mk.set_num_threads(threads)
        _core.set_simd_level(level)
    assert all(r == results[0] for r in results)


def test_close_points_far_from_the_origin_keep_their_distances():
    x = np.array([[0.0], [1e-6], [3e-6], [7e-6]]) + 1e6
    found = kmedoids(x, 1)
    assert found.medoids[0] in (1, 2)
    assert found.loss == pytest.approx(abs(x - x[found.medoids]).sum(), rel=1e-12)


@pytest.mark.parametrize(
    "kernel",
    [mk.kernels.Gaussian(1.5), mk.kernels.Matern32(1.0) + mk.kernels.Polynomial(2)],
    ids=repr,
)
def test_kernel_distance(kernel):
    import reference_interaction as reference

    x = points(90, 2, 8)
    gram = reference.matrix(kernel, x, x)
    square = np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram
    d = np.sqrt(np.maximum(square, 0))
    np.fill_diagonal(d, 0)
    start = np.arange(5)
    found = kmedoids(x, 5, metric=kernel, init=start)
    check(found, d, 1e-7)
    assert (
        found.medoids.tolist() == kmedoids(d, 5, metric="precomputed", init=start).medoids.tolist()
    )


@pytest.mark.parametrize("init", ["random", "build", "lab", "kmeans++"])
@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_starts(init, metric):
    x = np.concatenate([points(60, 2, i) * 0.1 + 10 * np.array([i % 2, i // 2]) for i in range(4)])
    d = matrix(x, metric)
    found = kmedoids(x, 4, metric=metric, init=init, seed=3)
    check(found, d)
    assert len({i // 60 for i in found.medoids}) == 4
    assert (
        found.medoids.tolist() == kmedoids(x, 4, metric=metric, init=init, seed=3).medoids.tolist()
    )


def test_build_is_greedy_by_brute_force():
    n, k = 50, 4
    d = matrix(points(n, 2, 9), "euclidean")
    chosen = []
    for _ in range(k):
        chosen.append(
            min((j for j in range(n) if j not in chosen), key=lambda j: loss_of(d, [*chosen, j]))
        )
    from mckean.interaction import medoids

    assert medoids._build(medoids._Matrix(d), k).tolist() == chosen


def test_samples_are_distinct_uniform_and_seeded():
    """Null: every number is as likely in a sample of 20 out of 1000. 2000 samples; chi-square with 999 degrees of
    freedom, 5.5 standard deviations: false alarms below 1e-6."""
    from mckean.interaction.medoids import _sample

    counts = np.zeros(1000)
    for i in range(2000):
        sample = _sample(1000, 20, 7, 1, i)
        assert len(set(sample.tolist())) == 20
        counts[sample] += 1
    chi2 = ((counts - 40) ** 2 / (40 * 0.98)).sum()
    assert abs(chi2 - 999) < 5.5 * np.sqrt(2 * 999)
    assert sorted(_sample(10, 10, 0, 1, 0).tolist()) == list(range(10))


def test_kmeans_plus_plus_follows_the_distances():
    """Null: with the first medoid given, the second is point j with probability d_j / sum d. 3000 seeds, two of three
    points at distance 1 and 3 of the first: binomial, 5.5 standard deviations, false alarms below 1e-6."""
    from mckean.interaction import medoids

    d = medoids._Points(np.array([[0.0], [1.0], [-3.0]]), "euclidean")
    seconds = [s[1] for s in (medoids._plus_plus(d, 2, seed) for seed in range(9000)) if s[0] == 0]
    share = np.mean(np.array(seconds) == 2)
    assert abs(share - 0.75) < 5.5 * np.sqrt(0.75 * 0.25 / len(seconds))


def test_clara_comes_close():
    x = np.concatenate([points(400, 2, i) * 0.3 + 5 * np.array([i % 3, i // 3]) for i in range(6)])
    d = matrix(x, "euclidean")
    full, fast = kmedoids(x, 6, init="build"), kmedoids(x, 6, method="clara")
    check(fast, d)
    assert full.loss <= fast.loss < 1.1 * full.loss
    better = kmedoids(x, 6, method="clara", n_samples=10, sample_size=400)
    assert better.loss < 1.03 * full.loss


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_shape(data):
    n = data.draw(st.integers(1, 40))
    k = data.draw(st.integers(1, n))
    seed = data.draw(st.integers(0, 1000))
    init = data.draw(st.sampled_from(["random", "build", "lab", "kmeans++"]))
    method = data.draw(st.sampled_from(["fasterpam", "fastpam1", "clara"]))
    # Few different coordinates: many points coincide.
    x = np.random.default_rng(seed).integers(0, 4, (n, 2)).astype(float)
    found = kmedoids(x, k, init=init, method=method, seed=seed)
    d = matrix(x, "euclidean")
    check(found, d)
    if method != "clara":
        best = min(
            (loss_of(d, [*np.delete(found.medoids, b), j]) for b in range(k) for j in range(n)),
            default=0,
        )
        assert best >= found.loss - 1e-9


def test_one_cluster_is_the_best_single_point():
    d = matrix(points(70, 3, 11), "sqeuclidean")
    found = kmedoids(d, 1, metric="precomputed")
    assert found.medoids[0] == d.sum(0).argmin() and found.converged


def test_the_loss_never_rises():
    x = points(200, 2, 12)
    losses = []
    for rounds in range(1, 30):
        try:
            found = kmedoids(x, 8, method="fastpam1", init=np.arange(8), max_iter=rounds)
        except mk.ConvergenceWarning:
            with pytest.warns(mk.ConvergenceWarning):
                found = kmedoids(x, 8, method="fastpam1", init=np.arange(8), max_iter=rounds)
            assert not found.converged and found.n_iter == rounds
        losses.append(found.loss)
    assert (np.diff(losses) <= 0).all() and losses[0] > losses[-1]


def test_frameworks_and_dtypes(xp, dtype):
    x = points(120, 3, 13).astype(dtype)
    expected = kmedoids(x, 5)
    given = xp.asarray(x)
    found = kmedoids(given, 5)
    assert xp.is_array(found.medoids) and "int" in xp.dtype(found.labels)
    assert (xp.to_numpy(found.medoids) == expected.medoids).all()
    assert (xp.to_numpy(found.labels) == expected.labels).all() and found.loss == expected.loss
    assert (xp.to_numpy(given) == x).all()
    assert kmedoids(given, 5, init=xp.asarray(np.arange(5))).converged


def test_interrupt_stops_the_search():
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            kmedoids(points(50_000, 10), 50)  # minutes
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": np.ones(3)}, ValueError, "x: expected shape (n, d), got (3,)"),
        ({"x": np.full((3, 2), np.nan)}, ValueError, "x: expected finite values"),
        ({"x": np.array([["a"]])}, TypeError, "x: expected float32 or float64"),
        (
            {"x": np.full((4, 2), 1e300) * [[1], [-1], [1], [1]], "metric": "sqeuclidean"},
            ValueError,
            "x: expected distances within",
        ),
        ({"n_clusters": 0}, ValueError, "n_clusters: expected an integer of at least 1"),
        ({"n_clusters": 11}, ValueError, "n_clusters: expected at most 10 to match x, got 11"),
        ({"n_clusters": 2.0}, TypeError, "n_clusters: expected an integer"),
        ({"metric": "chebyshev"}, ValueError, "metric: expected one of 'euclidean'"),
        ({"metric": 2}, TypeError, "metric: expected one of"),
        (
            {"metric": "precomputed"},
            ValueError,
            "x: expected shape (n, n) for metric 'precomputed', got (10, 2)",
        ),
        (
            {"x": np.ones((3, 3)), "metric": "precomputed"},
            ValueError,
            "x: expected a zero diagonal",
        ),
        (
            {"x": np.triu(np.ones((3, 3)), 1), "metric": "precomputed"},
            ValueError,
            "x: expected a symmetric matrix",
        ),
        (
            {"x": np.eye(3) - 1, "metric": "precomputed"},
            ValueError,
            "x: expected no negative numbers",
        ),
        (
            {"x": np.zeros((3, 2)), "metric": "cosine"},
            ValueError,
            "x: expected nonzero rows for metric 'cosine', row 0",
        ),
        (
            {"metric": -1.0 * mk.kernels.Gaussian(1.0)},
            ValueError,
            "metric: expected a positive definite kernel",
        ),
        ({"init": "first"}, ValueError, "init: expected one of 'random'"),
        ({"init": [0, 0]}, ValueError, "init: expected distinct row numbers below 10"),
        ({"init": [0, 10]}, ValueError, "init: expected distinct row numbers below 10"),
        (
            {"init": [0, 1, 2]},
            ValueError,
            "init: expected shape (2,) to match n_clusters, got (3,)",
        ),
        ({"init": [0.0, 1.0]}, TypeError, "init: expected one of"),
        (
            {"init": [0, 1], "method": "clara"},
            ValueError,
            "init: expected a name with method 'clara'",
        ),
        ({"method": "pam"}, ValueError, "method: expected one of"),
        ({"max_iter": 0}, ValueError, "max_iter: expected an integer of at least 1"),
        ({"sample_size": 1}, ValueError, "sample_size: expected an integer of at least 2"),
        ({"seed": None}, TypeError, "seed: expected an int"),
    ],
)
def test_errors_name_the_argument(arguments, error, text):
    with pytest.raises(error) as caught:
        kmedoids(**{"x": points(10, 2), "n_clusters": 2, **arguments})
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
