"""Random numbers: published vectors, an independent twin, bits, and a statistical battery."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from reference_random import normal as normal_twin
from reference_random import philox
from reference_random import uniform as uniform_twin
from scipy import stats

import mckean as mk
from mckean import _core

VECTORS = Path(__file__).parent / "vectors"
# Every statistical test below fails by chance with probability at most ALPHA.
ALPHA = 1e-7


def published():
    return json.loads((VECTORS / "philox4x32.json").read_text())["vectors"]


def test_philox_gives_the_published_words():
    for v in published():
        counter, key = ([int(x, 16) for x in v[name]] for name in ("counter", "key"))
        words = [int(x, 16) for x in v["words"]]
        assert _core.philox4x32(counter, key) == words
        assert [int(x) for x in philox(counter, key)] == words


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "where", [(0, 0, 0), (123456789123456789, 5, 0), (2**64 - 1, 2**64 - 1, 2**60 - 1)]
)
def test_numbers_agree_with_the_numpy_twin(simd_level, dtype, where):
    seed, stream, counter = where
    eps = np.finfo(dtype).eps
    z = mk.random.normal(seed, 1003, stream=stream, counter=counter, dtype=dtype)
    np.testing.assert_allclose(
        z, normal_twin(seed, 1003, dtype, stream, counter), rtol=0, atol=40 * eps
    )
    u = mk.random.uniform(seed, 1003, stream=stream, counter=counter, dtype=dtype)
    np.testing.assert_array_equal(u, uniform_twin(seed, 1003, dtype, stream, counter))


def test_bits_are_those_on_record(simd_level):
    """One digest for every SIMD level and machine; tests/test_cuda.py reads the same file."""
    record = json.loads((VECTORS / "bits.json").read_text())["random"]
    for name, function in (("normal", mk.random.normal), ("uniform", mk.random.uniform)):
        for dtype in ("float32", "float64"):
            x = function(2024, 100_003, stream=3, counter=11, dtype=dtype)
            assert hashlib.sha256(x.tobytes()).hexdigest() == record[f"{name}-{dtype}"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads_or_split(dtype):
    threads = mk.get_num_threads()
    whole = mk.random.normal(9, 200_001, dtype=dtype)
    try:
        for n in (1, 2, 5):
            mk.set_num_threads(n)
            np.testing.assert_array_equal(mk.random.normal(9, 200_001, dtype=dtype), whole)
    finally:
        mk.set_num_threads(threads)
    for first, n in ((0, 1), (1, 63), (65, 1000), (131_071, 5)):
        part = np.empty(n, dtype)
        _core.fill_normal(part, 9, 0, 0, first)
        np.testing.assert_array_equal(part, whole[first : first + n])


def test_shape_is_only_a_view_of_the_flat_sequence():
    flat = mk.random.uniform(4, 24)
    np.testing.assert_array_equal(mk.random.uniform(4, (2, 3, 4)).ravel(), flat)
    np.testing.assert_array_equal(mk.random.uniform(4, (2, 4)).ravel(), flat[:8])
    assert mk.random.uniform(4, (0, 3)).shape == (0, 3)


def test_uniforms_stay_in_the_half_open_interval():
    for dtype in ("float32", "float64"):
        u = mk.random.uniform(1, 4_000_000, dtype=dtype)
        assert u.min() >= 0.0 and u.max() < 1.0


def test_float64_tail_is_right_to_eight_sigma():
    """Words of our choice through the native transform: the radius is sqrt(-2 log((k + 1/2) 2^-64)) to the last digits.

    The number of k with radius above 8 is 2^64 exp(-32) = 2.3e5, so the tail is resolved there to 2e-3, and the largest
    radius is 9.49.
    """
    k = np.concatenate([np.arange(200), np.geomspace(200, 2.0**63, 300).astype(np.uint64)]).astype(
        np.uint64
    )
    got = []
    for value in k:
        z = _core.normals_of_words(
            [int(value) >> 32, int(value) & 0xFFFFFFFF, 0x12345678, 0x9ABCDEF0]
        )
        got.append(np.hypot(*z))
    want = np.sqrt(-2 * (np.log(k.astype(np.float64) + 0.5) - 64 * np.log(2.0)))
    np.testing.assert_allclose(got, want, rtol=1e-14)
    assert got[0] > 9.4 and (np.diff(got) <= 0).all()
    assert 2.0**64 * np.exp(-32.0) > 2e5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_moments(dtype):
    """H0: standard normal. n = 4e6; mean, variance, third and fourth moment within 5.5 standard errors (1.5e-7)."""
    n = 4_000_000
    z = mk.random.normal(31, n, dtype=dtype).astype(np.float64)
    for value, truth, variance in (
        (z.mean(), 0, 1),
        ((z**2).mean(), 1, 2),
        ((z**3).mean(), 0, 15),
        ((z**4).mean(), 3, 96),
    ):
        assert abs(value - truth) < 5.5 * np.sqrt(variance / n)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kolmogorov_smirnov(dtype):
    """H0: the stated law. n = 1e6, one KS test each, false alarms at ALPHA."""
    assert (
        stats.kstest(mk.random.normal(17, 1_000_000, dtype=dtype).astype(float), "norm").pvalue
        > ALPHA
    )
    assert (
        stats.kstest(mk.random.uniform(18, 1_000_000, dtype=dtype).astype(float), "uniform").pvalue
        > ALPHA
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chi_square_of_cells_and_of_pairs(dtype):
    """H0: uniform cells. 4e6 numbers in 1000 cells, then consecutive pairs in 64 x 64 cells, false alarms at ALPHA."""
    u = mk.random.uniform(23, 4_000_000, dtype=dtype)
    assert stats.chisquare(np.bincount((u * 1000).astype(int), minlength=1000)).pvalue > ALPHA
    cells = (u * 64).astype(int)
    assert (
        stats.chisquare(np.bincount(cells[:-1:2] * 64 + cells[1::2], minlength=4096)).pvalue > ALPHA
    )
    p = stats.norm.cdf(mk.random.normal(24, 4_000_000, dtype=dtype).astype(float))
    cells = (p * 64).astype(int).clip(0, 63)
    assert (
        stats.chisquare(np.bincount(cells[:-1:2] * 64 + cells[1::2], minlength=4096)).pvalue > ALPHA
    )


def test_tail_counts():
    """H0: P(|z| > 4) and P(|z| > 5). n = 2e7 float64, Poisson two-sided at ALPHA."""
    n = 20_000_000
    z = np.abs(mk.random.normal(3, n))
    for sigma in (4.0, 5.0):
        expected = n * 2 * stats.norm.sf(sigma)
        count = int((z > sigma).sum())
        assert (
            stats.poisson.cdf(count, expected) > ALPHA / 2
            and stats.poisson.sf(count - 1, expected) > ALPHA / 2
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_serial_and_cross_correlation(dtype):
    """H0: independence over lags 1..64 and of neighbouring seeds, streams, counters; n = 1e6, 6 sigma (2e-9 each)."""
    n = 1_000_000
    z = mk.random.normal(5, n, dtype=dtype).astype(np.float64)
    for lag in (*range(1, 18), 31, 32, 33, 63, 64):
        assert abs((z[lag:] * z[:-lag]).mean()) * np.sqrt(n) < 6
        assert abs(((z[lag:] ** 2 - 1) * (z[:-lag] ** 2 - 1)).mean()) / 2 * np.sqrt(n) < 6
    others = [
        mk.random.normal(6, n, dtype=dtype),
        mk.random.normal(5 + 2**32, n, dtype=dtype),
        mk.random.normal(5, n, dtype=dtype, stream=1),
        mk.random.normal(5, n, dtype=dtype, stream=2**32),
        mk.random.normal(5, n, dtype=dtype, counter=1),
        mk.random.normal(5, n, dtype=dtype, counter=2**32),
    ]
    for other in others:
        assert abs((z * other).mean()) * np.sqrt(n) < 6


def test_a_wrong_constant_is_caught():
    """The moment test has power: a variance off by one part in 150 is nine standard errors."""
    z = mk.random.normal(31, 4_000_000) * np.sqrt(1 + 1 / 150)
    assert abs((z**2).mean() - 1) > 5.5 * np.sqrt(2 / 4e6)


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"seed": True}, TypeError, "seed"),
        ({"shape": -1}, ValueError, "shape"),
        ({"shape": (2, 1.5)}, TypeError, "shape"),
        ({"stream": 2**64}, ValueError, "stream"),
        ({"counter": 2**60}, ValueError, "counter"),
        ({"dtype": "float16"}, TypeError, "dtype"),
        ({"dtype": "int32"}, TypeError, "dtype"),
        ({"device": "tpu"}, ValueError, "device"),
        ({"like": "tensorflow"}, ValueError, "like"),
    ],
)
def test_bad_input(kwargs, error, text):
    arguments = {"seed": 0, "shape": 3} | kwargs
    with pytest.raises(error, match=f"^{text}"):
        mk.random.normal(arguments.pop("seed"), arguments.pop("shape"), **arguments)


def test_seed_sequence_is_a_seed():
    seed = np.random.SeedSequence(5)
    a = mk.random.normal(seed, 4)
    np.testing.assert_array_equal(a, mk.random.normal(int(seed.generate_state(1, np.uint64)[0]), 4))
