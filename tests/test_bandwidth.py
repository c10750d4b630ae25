"""Rules for length scales, against NumPy."""

import math

import numpy as np
import pytest
import reference_interaction as ref
from hypothesis import given, settings
from hypothesis import strategies as st

from mckean.interaction._permutation import permutation, subset
from mckean.interaction.bandwidth import median_bandwidth


def test_the_median_is_exact(xp, dtype):
    x = np.random.default_rng(0).standard_normal((41, 3)).astype(dtype)
    got = median_bandwidth(xp.asarray(x))
    assert type(got) is float
    assert got == pytest.approx(ref.pair_median(x), rel=1e-6 if dtype == "float32" else 1e-14)


def test_rules_that_scale_the_median():
    x = np.random.default_rng(1).standard_normal((30, 2))
    med = ref.pair_median(x)
    assert median_bandwidth(x, rule="svgd") == pytest.approx(
        med / math.sqrt(2 * math.log(30)), rel=1e-12
    )
    assert median_bandwidth(x, rule="svgd1") == pytest.approx(
        med / math.sqrt(2 * math.log(31)), rel=1e-12
    )


def test_scott_and_silverman_are_those_of_scipy(xp, dtype):
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(2).standard_normal((50, 3)).astype(dtype) * np.array([1, 2, 5], dtype)
    for rule in ("scott", "silverman"):
        peer = stats.gaussian_kde(x.astype(float).T, bw_method=rule)
        got = median_bandwidth(xp.asarray(x), rule=rule)
        assert xp.dtype(got) == dtype
        np.testing.assert_allclose(xp.to_numpy(got), np.sqrt(np.diag(peer.covariance)), rtol=1e-6)


def test_a_zero_median_falls_back_to_the_mean_of_the_other_distances():
    x = np.array([[0.0]] * 7 + [[-0.0], [3.0], [5.0]])
    assert median_bandwidth(x) == pytest.approx((8 * 3 + 8 * 5 + 2) / 17, rel=1e-14)


def test_equal_points_are_refused():
    with pytest.raises(ValueError, match="^x: expected points that differ"):
        median_bandwidth(np.ones((5, 2)))
    with pytest.raises(
        ValueError, match="^x: expected points that differ, coordinate 1 has one value"
    ):
        median_bandwidth(np.stack([np.arange(5.0), np.ones(5)], 1), rule="scott")


def test_many_points_are_thinned_by_counters():
    x = np.random.default_rng(3).standard_normal((500, 2))
    some = median_bandwidth(x, max_points=60, seed=4)
    assert (
        some
        == median_bandwidth(x, max_points=60, seed=4)
        != median_bandwidth(x, max_points=60, seed=5)
    )
    assert some == pytest.approx(median_bandwidth(x), rel=0.25)
    assert median_bandwidth(x, max_points=500) == median_bandwidth(x)


def test_wrong_arguments_are_named():
    x = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"^x: expected at least 2 points, got 1$"):
        median_bandwidth(x[:1])
    with pytest.raises(ValueError, match=r"^x: expected shape \(n, d\), got \(4,\)"):
        median_bandwidth(x[:, 0])
    with pytest.raises(ValueError, match=r"^x: expected finite"):
        median_bandwidth(x * np.nan)
    with pytest.raises(ValueError, match=r"^rule: expected one of"):
        median_bandwidth(x, rule="mean")
    with pytest.raises(ValueError, match=r"^max_points: expected an integer of at least 2"):
        median_bandwidth(x, max_points=1)
    with pytest.raises(TypeError, match=r"^seed:"):
        median_bandwidth(x, seed=None)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 2**64 - 1))
def test_subsets_are_subsets_and_permutations_permute(n, size, seed):
    assert (np.sort(permutation(seed, n, stream=1)) == np.arange(n)).all()
    size = min(n, size)
    chosen = subset(seed, n, size, stream=1)
    assert len(np.unique(chosen)) == len(chosen) == size
    assert not size or (chosen.min() >= 0 and chosen.max() < n)


def test_every_point_is_as_likely_to_be_in_a_subset():
    """Null: each of 10 points is in a subset of 3 with probability 0.3. 4000 draws, 10 tests at 6 standard errors:
    false alarms below 1e-7."""
    counts = np.zeros(10)
    for counter in range(4000):
        counts[subset(7, 10, 3, stream=2, counter=counter)] += 1
    assert (np.abs(counts / 4000 - 0.3) < 6 * math.sqrt(0.3 * 0.7 / 4000)).all()
