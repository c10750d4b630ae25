"""Kernel thinning: the algorithm written out in plain NumPy, goodpoints, and what thinning promises."""

import numpy as np
import pytest
import reference_interaction as reference
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import _core, kernels
from mckean.interaction import kernel_matrix, thinning
from mckean.interaction.thinning import thin


def normal(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def discrepancy(gram, core):
    """The MMD between rows `core` and all rows."""
    means = gram.mean(1)
    return np.sqrt(
        max(gram[np.ix_(core, core)].mean() - 2 * means[core].mean() + means.mean(), 0.0)
    )


# ---- the algorithm in plain NumPy ----------------------------------------------------------------


def split_reference(gram, points, levels, delta, seed):
    """KT-SPLIT, each part halved pair by pair with sums over all points dealt before."""
    n, parts = len(points), [list(points)]
    for level in range(levels):
        draws = mk.random.uniform(seed, n // 2, stream=thinning._STREAM, counter=level)
        at, halves = 0, []
        for part in parts:
            left, right, variance = [], [], 0.0
            for p in range(0, len(part), 2):
                a, b = part[p], part[p + 1]
                square = gram[a, a] + gram[b, b] - 2 * gram[a, b]
                log_term = 2 * np.log(2 * n * levels / (delta * 2**level))
                threshold = max(np.sqrt(variance * square * log_term), square)
                if threshold > 0:
                    if variance == 0:
                        variance = square
                    else:
                        grow = 0.5 + (square / (2 * threshold) - 1) * variance / threshold
                        variance += 2 * square * max(0.0, grow)
                dealt = part[:p]
                alpha = (gram[dealt, a] - gram[dealt, b]).sum() - 2 * (
                    gram[left, a] - gram[left, b]
                ).sum()
                chance = 0.5 if threshold == 0 else min(1.0, max(0.0, (1 - alpha / threshold) / 2))
                if draws[at] < chance:
                    a, b = b, a
                left.append(a)
                right.append(b)
                at += 1
            halves += [left, right]
        parts = halves
    return np.array(parts)


def swap_reference(gram, parts, unique):
    size = len(parts[0])
    core = min(parts, key=lambda c: discrepancy(gram, c)).copy()
    means = gram.mean(1)
    for p in range(size):
        rest = np.delete(core, p)
        cost = 2 / size * gram[:, rest].sum(1) - 2 * means + np.diag(gram) / size
        if unique:
            cost[rest] = np.inf
        core[p] = np.argmin(cost)
    return core


@pytest.mark.parametrize("block", [8, 32, 1024])
@pytest.mark.parametrize(
    ("n", "size"), [(256, 16), (96, 12), (130, 32), (64, 1), (48, 48), (50, 30)]
)
def test_split_is_the_algorithm_in_the_paper(n, size, block, monkeypatch):
    """Also where the walk is cut into blocks, whose earlier points are one weighted kernel sum."""
    monkeypatch.setattr(thinning, "_BLOCK", block)
    k, x = kernels.Gaussian(1.3), normal(n, 2, n)
    gram = reference.matrix(k, x, x)
    levels = (n // size).bit_length() - 1
    used = size << levels
    chosen = np.arange(1, used + 1) * n // used - 1
    expected = split_reference(gram, chosen, levels, 0.5, 11)
    parts = thinning._split(thinning._Pairs(k, thinning.as_input(x, "x")), size, 0.5, 11)
    assert (np.array(parts[: 1 << levels]) == expected).all()
    if levels:
        assert (parts[-1] == np.arange(1, size + 1) * n // size - 1).all() and len(parts) == 1 + (
            1 << levels
        )
    first = thin(k, x, size, seed=11, swap=False)
    assert (first.indices == expected[0]).all() and first.mmd is None and first.mmd_before is None


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("step", [1, 100, 1 << 22])
def test_swap_is_the_algorithm_in_the_paper(unique, step, monkeypatch):
    monkeypatch.setattr(thinning, "_VALUES", step * 200)
    k, x = kernels.Matern32(1.0), normal(200, 3, 4)
    gram = reference.matrix(k, x, x)
    parts = thinning._split(thinning._Pairs(k, thinning.as_input(x, "x")), 25, 0.5, 3)
    expected = swap_reference(gram, parts, unique)
    found = thin(k, x, 25, seed=3, unique=unique)
    assert (found.indices == expected).all()
    assert found.mmd == pytest.approx(discrepancy(gram, expected), abs=1e-9)
    assert found.mmd_before == pytest.approx(min(discrepancy(gram, p) for p in parts), abs=1e-9)
    start = min(parts, key=lambda c: discrepancy(gram, c))
    assert found.n_swaps == (start != expected).sum()


# ---- what thinning promises ----------------------------------------------------------------------


@pytest.mark.parametrize(("d", "n", "ratio"), [(2, 1024, 5.0), (10, 1024, 1.8)])
def test_better_than_a_random_subset(d, n, ratio):
    """Means over three samples; typical ratios are 10 and 3."""
    k, size = kernels.Gaussian(np.sqrt(2 * d)), int(np.sqrt(n))
    ours, chance = [], []
    for seed in range(3):
        x = normal(n, d, seed)
        gram = reference.matrix(k, x, x)
        ours.append(discrepancy(gram, thin(k, x, seed=seed).indices))
        chance.append(
            discrepancy(gram, np.random.default_rng(100 + seed).choice(n, size, replace=False))
        )
    assert np.mean(chance) / np.mean(ours) > ratio


def test_as_good_as_goodpoints():
    peer = pytest.importorskip("goodpoints.kt")
    k = kernels.Gaussian(2.0)
    ours, theirs = [], []
    for seed in range(4):
        x = normal(1024, 2, seed)
        gram = reference.matrix(k, x, x)
        ours.append(thin(k, x, 32, seed=seed).mmd)
        theirs.append(discrepancy(gram, peer.thin_K(gram, gram, 5, seed=seed)))
    assert np.mean(ours) < 1.2 * np.mean(theirs)


KERNELS = [
    kernels.Gaussian(1.0),
    kernels.Laplace([1.0, 2.0]),
    kernels.Matern52(0.7),
    kernels.InverseMultiquadric(1.0),
    kernels.RationalQuadratic(1.0, 0.5),
    kernels.Polynomial(3),
    kernels.Energy(),
    kernels.Riesz(0.5),
    kernels.Multiquadric(1.0),
    kernels.Gaussian(0.3) + 2 * kernels.Cauchy(2.0),
]


@pytest.mark.parametrize("k", KERNELS, ids=repr)
def test_exchange_never_raises_the_mmd(k):
    x = normal(300, 2, 7)
    gram = reference.matrix(k, x, x)
    for seed in range(2):
        found = thin(k, x, 20, seed=seed)
        assert found.mmd == pytest.approx(discrepancy(gram, found.indices), abs=1e-7)
        assert found.mmd <= found.mmd_before + 1e-12
        assert found.n_swaps > 0 and found.mmd < 0.95 * found.mmd_before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_size(data):
    n = data.draw(st.integers(1, 80))
    size = data.draw(st.integers(1, n))
    unique, swap = data.draw(st.booleans()), data.draw(st.booleans())
    compress = data.draw(st.sampled_from([None, 3, 4]))
    # Few different coordinates: many points coincide.
    x = np.random.default_rng(n).integers(0, 3, (n, 2)).astype(float)
    try:
        found = thin(
            kernels.Gaussian(1.0), x, size, unique=unique, swap=swap, compress=compress, seed=size
        )
    except ValueError as error:
        assert "compress: expected at least" in str(error) and size > 1 << (
            3 + (n.bit_length() - 1) // 2
        )
        return
    assert found.indices.shape == (size,) and found.indices.dtype == np.int64
    assert found.indices.min() >= 0 and found.indices.max() < n
    if unique:
        assert len(set(found.indices.tolist())) == size
    if swap:
        assert found.mmd <= found.mmd_before + 1e-7


def test_all_points_the_same():
    found = thin(kernels.Gaussian(1.0), np.ones((64, 3)), 8)
    assert len(set(found.indices.tolist())) == 8 and found.mmd < 1e-7


def test_sizes_and_halvings():
    k, x = kernels.Gaussian(1.0), normal(100, 1)
    assert len(thin(k, x).indices) == 12  # 100 // 2**3
    assert len(thin(k, x, halvings=2).indices) == 25
    same = thin(k, x, 100)
    assert (
        sorted(same.indices.tolist()) == list(range(100)) and same.mmd < 1e-7 and same.n_swaps == 0
    )
    assert len(thin(k, x[:1]).indices) == 1


def test_seeds_give_different_subsets():
    k, x = kernels.Gaussian(1.0), normal(256, 2)
    a, b, c = (thin(k, x, 16, seed=s, swap=False).indices.tolist() for s in (1, 1, 2))
    assert a == b != c


def test_keeps_moments():
    """Means of smooth functions over 32 kept points are those of all 1024, far closer than sampling error allows."""
    x = normal(1024, 2, 3)
    kept = x[thin(kernels.Gaussian(2.0), x, 32).indices]
    assert abs(kept.mean(0) - x.mean(0)).max() < 0.03  # a random subset: 0.18
    assert abs((kept**2).mean(0) - (x**2).mean(0)).max() < 0.15  # 0.25


# ---- power kernels -------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("power", [0.5, 0.8])
@pytest.mark.parametrize(
    "k", [kernels.Gaussian(1.4), 3.0 * kernels.Matern32(1.4), kernels.Matern52(1.4)], ids=repr
)
def test_power_kernel_has_a_power_of_the_spectral_density(k, d, power):
    """By numerical integration: cosine transform in one dimension, r sin(w r) / w in three."""
    quad = pytest.importorskip("scipy.integrate").quad
    gaussian = isinstance(k, kernels.Gaussian)
    base, rough = thinning._power_kernel(k, d, power if gaussian else None)
    exponent = (
        power
        if gaussian
        else (d + 1) / (d + 3)
        if isinstance(base, kernels.Matern32)
        else (d + 3) / (d + 5)
    )

    def density(kernel, w):
        def value(r):
            return reference.matrix(kernel, np.full((1, 1), r), np.zeros((1, 1)))[0, 0]

        weight = {"weight": "cos"} if d == 1 else {"weight": "sin"}
        total = quad(lambda r: value(r) * (1 if d == 1 else r), 0, 40, wvar=w, limit=400, **weight)[
            0
        ]
        return total if d == 1 else total / w

    ratios = [density(base, w) ** exponent / density(rough, w) for w in (0.3, 0.9, 1.7)]
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert reference.matrix(base + rough, np.zeros((1, d)), np.zeros((1, d)))[0, 0] == 2.0


@pytest.mark.parametrize("variant", ["power", "plus"])
def test_variants_balance_with_another_kernel_and_exchange_with_k(variant):
    k, x = kernels.Gaussian(2.0), normal(256, 2, 9)
    rough = kernels.Gaussian(np.sqrt(2.0))
    gram = reference.matrix(rough if variant == "power" else k + rough, x, x)
    expected = split_reference(gram, np.arange(256), 4, 0.5, 5)
    assert (thin(k, x, 16, variant=variant, seed=5, swap=False).indices == expected[0]).all()
    found = thin(k, x, 16, variant=variant, seed=5)
    assert found.mmd == pytest.approx(
        discrepancy(reference.matrix(k, x, x), found.indices), abs=1e-9
    )
    assert thin(k, x, 16, variant=variant, power=1.0, seed=5, swap=False).n_swaps == 0


# ---- Compress++ ----------------------------------------------------------------------------------


def test_compress_keeps_the_quality():
    """From 4096 points by way of 2^4 * 64 = 1024; the MMD is to all points. Typical ratio: 12."""
    k, x = kernels.Gaussian(2.0), normal(4096, 2)
    gram = kernel_matrix(k, x, x)
    found = thin(k, x, 64, compress=4)
    assert len(set(found.indices.tolist())) == 64
    g = np.random.default_rng(1)
    chance = [discrepancy(gram, g.choice(4096, 64, replace=False)) for _ in range(10)]
    assert np.mean(chance) / discrepancy(gram, found.indices) > 5


def test_compress_halves_recursively():
    """One step by hand: 64 points and g = 1 are 16 runs of 4; four of them halve to 8, four of those to 16."""
    k, x = kernels.Gaussian(1.0), normal(64, 2, 12)
    pairs = thinning._Pairs(k, thinning.as_input(x, "x"))
    points, delta = thinning._compress(pairs, 1, 8, 0.5, 3)
    assert len(points) == 16 and len(set(points.tolist())) == 16
    share = 1 + 2 * 2
    assert delta == pytest.approx(0.5 / share)
    gram = reference.matrix(k, x, x)
    buckets = np.arange(64).reshape(-1, 4)
    for stage, count in ((0, 16), (1, 32)):
        draws = mk.random.uniform(
            3, (64 // 16 // 4**stage, count // 2), stream=thinning._STREAM + 1, counter=stage
        )
        side = (
            mk.random.uniform(3, 64 // 16 // 4**stage, stream=thinning._STREAM + 2, counter=stage)
            < 0.5
        )
        allowed = 0.5 * count**2 / (4 * 64 * 2 * share)
        merged = []
        for group, row, which in zip(buckets.reshape(-1, count), draws, side, strict=True):
            right = np.zeros(count // 2, np.uint8)
            some = np.ascontiguousarray(gram[np.ix_(group, group)])
            _core.halve(some, np.zeros(count), row, 2 * np.log(2 * count / allowed), 0.0, right)
            left_right = (
                np.where(right, group[1::2], group[::2]),
                np.where(right, group[::2], group[1::2]),
            )
            merged.append(left_right[int(which)])
        buckets = np.array(merged)
    assert (buckets.ravel() == points).all()


# ---- Stein thinning ------------------------------------------------------------------------------


def test_scores_pull_towards_the_density():
    """The sample is off by 0.6; the points kept are of the standard normal law that the scores belong to."""
    x = normal(800, 2, 14) + 0.6
    scores, k = -x, kernels.InverseMultiquadric(1.0)
    found = thin(k, x, 25, scores=scores)
    gram = reference.stein_matrix(k, x, scores)
    ksd = np.sqrt(gram[np.ix_(found.indices, found.indices)].mean())
    assert found.mmd == pytest.approx(ksd, rel=1e-9) and found.mmd < found.mmd_before
    assert abs(x[found.indices].mean(0)).max() < 0.15
    compressed = thin(k, x, 16, scores=scores, compress=2)
    assert abs(x[compressed.indices].mean(0)).max() < 0.3


# ---- frameworks, threads, errors -----------------------------------------------------------------


def test_frameworks_and_dtypes(xp, dtype):
    x = normal(150, 2, 15).astype(dtype)
    given = xp.asarray(x)
    k = kernels.Gaussian(1.0)
    for options in ({}, {"scores": -x}, {"compress": 3, "variant": "plus"}):
        expected = thin(k, x, 12, **options)
        if "scores" in options:
            options = {"scores": xp.asarray(-x)}
        found = thin(k, given, 12, **options)
        assert xp.is_array(found.indices) and "int" in xp.dtype(found.indices)
        assert (xp.to_numpy(found.indices) == expected.indices).all()
        assert found.mmd == pytest.approx(expected.mmd, abs=1e-4)
    assert (xp.to_numpy(given) == x).all()


def test_float32_agrees_with_float64():
    x = normal(512, 2, 16).astype(np.float32)
    k = kernels.Gaussian(2.0)
    narrow, wide = thin(k, x, 16), thin(k, x.astype(float), 16)
    gram = reference.matrix(k, x, x)
    assert narrow.mmd == pytest.approx(discrepancy(gram, narrow.indices), abs=2e-4)
    assert narrow.mmd < 2 * wide.mmd


def test_results_do_not_depend_on_threads():
    x = normal(40_000, 1, 17)
    core, row, offset = np.cumsum(np.ones(40_000)), x[:, 0].copy(), -np.arange(40_000) % 977.0
    before, found = mk.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            mk.set_num_threads(threads)
            kept = thin(kernels.Gaussian(1.0), x[:600], 20)
            best = _core.best_replacement(core, row, offset, None, 1e-9)
            found.add((tuple(kept.indices.tolist()), kept.mmd, best))
    finally:
        mk.set_num_threads(before)
    assert len(found) == 1


def test_ties_go_to_the_smaller_index():
    zeros, offset = np.zeros(50_000), np.ones(50_000)
    offset[[20_000, 33_000, 49_000]] = -1
    assert _core.best_replacement(zeros, zeros, offset, None, 1.0) == 20_000
    barred = np.zeros(50_000, np.uint8)
    barred[20_000] = 1
    assert _core.best_replacement(zeros, zeros, offset, barred, 1.0) == 33_000


X = normal(64, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": "gaussian"}, TypeError, "k: expected a kernel of mk.kernels, got str"),
        ({"k": -1.0 * kernels.Gaussian(1.0)}, ValueError, "k: expected a positive definite kernel"),
        (
            {"k": kernels.Log()},
            ValueError,
            "k: expected a kernel that is finite at coincident points",
        ),
        ({"x": np.ones(3)}, ValueError, "x: expected shape (n, d), got (3,)"),
        ({"x": np.ones((0, 2))}, ValueError, "x: expected at least one point"),
        ({"x": np.full((4, 2), np.inf)}, ValueError, "x: expected finite values"),
        ({"x": np.ones((4, 2), bool)}, TypeError, "x: expected float32 or float64"),
        ({"size": 0}, ValueError, "size: expected an integer of at least 1"),
        ({"size": 65}, ValueError, "size: expected at most 64 to match x, got 65"),
        ({"size": 4.0}, TypeError, "size: expected an integer"),
        ({"halvings": 1, "size": 4}, ValueError, "halvings: expected None where size is given"),
        ({"halvings": 7}, ValueError, "halvings: expected at most 6 to match x, got 7"),
        ({"variant": "root"}, ValueError, "variant: expected one of"),
        (
            {"variant": "power", "k": kernels.Laplace(1.0)},
            ValueError,
            "k: expected Gaussian, Matern32 or Matern52",
        ),
        (
            {"variant": "plus", "k": kernels.Matern32(1.0), "power": 0.7},
            ValueError,
            "power: expected None with a Matern",
        ),
        ({"variant": "power", "power": 0.4}, ValueError, "power: expected a number in [1/2, 1]"),
        ({"power": 0.5}, ValueError, "power: expected None unless"),
        ({"swap": 1}, TypeError, "swap: expected True or False"),
        ({"unique": None}, TypeError, "unique: expected True or False"),
        ({"delta": 0}, ValueError, "delta: expected a number in (0, 1)"),
        ({"delta": 1.0}, ValueError, "delta: expected a number in (0, 1)"),
        (
            {"compress": 1, "size": 17},
            ValueError,
            "compress: expected at least 2 to keep 17 of 64 points, got 1",
        ),
        ({"compress": -1}, ValueError, "compress: expected an integer of at least 0"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer"),
        ({"scores": np.ones((64, 3))}, ValueError, "scores: expected shape"),
        ({"scores": np.full((64, 2), np.nan)}, ValueError, "scores: expected finite values"),
        (
            {"scores": X, "k": kernels.Laplace(1.0)},
            ValueError,
            "k: expected a kernel with a Stein kernel",
        ),
        ({"scores": X, "variant": "power"}, ValueError, "variant: expected 'target' with scores"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_errors_name_the_argument(arguments, error, text):
    with pytest.raises(error) as caught:
        thin(**{"k": kernels.Gaussian(1.0), "x": X, **arguments})
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)
