"""Slicing directions: laws, bits, errors of the slices they give, Sobol points."""

import hashlib
import math
import os
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

import mckean as mk
from mckean import _core
from mckean.sliced import _directions

KINDS = ("orthogonal", "random", "sobol")
STREAM = 0x64697265637400  # and the next: of the kinds in this order; then that of the half circle
# Statistical tests compare with Z standard errors: each comparison fails by chance with probability 4e-8.
Z = 5.5


def slicing_constant(d):
    return (
        math.sqrt(math.pi) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2)) / math.gamma(1)
    )


def frame_twin(seed, dim, rows, frame):
    """Reflections one by one, in NumPy: row j is H_0 ... H_(j-1) applied to the direction of x_j."""
    total = sum(dim - k for k in range(rows))
    z = mk.random.normal(seed, total, stream=STREAM, counter=frame)
    parts, at = [], 0
    for k in range(rows):
        parts.append(z[at : at + dim - k])
        at += dim - k
    out = np.zeros((rows, dim))
    for j in range(rows):
        q = np.zeros(dim)
        q[j:] = parts[j] / np.linalg.norm(parts[j])
        for k in range(j - 1, -1, -1):
            x = parts[k]
            # What takes the first axis to -+ x / |x| for the sign of x_0: columns 0 of A = Q R with R_00 > 0 come first.
            ahead = math.copysign(1.0, x[0])
            u = x.copy()
            u[0] += ahead * np.linalg.norm(x)
            q[k:] -= 2 * u * (u @ q[k:]) / (u @ u)
        out[j] = q
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 3, 5, 16, 17, 50, 784])
def test_rows_have_unit_length(kind, dim, dtype):
    xi = mk.sliced.directions(dim, 70, kind, seed=3, dtype=dtype)
    assert xi.shape == ((1 if dim == 1 else 70), dim) and xi.dtype == dtype
    norm = np.linalg.norm(xi.astype(np.float64), axis=1)
    np.testing.assert_allclose(norm, 1, rtol=0, atol=1e-14 if dtype == "float64" else 3e-7)


@pytest.mark.parametrize("dim", [3, 4, 15, 16, 17, 33, 100])
def test_frames_are_orthonormal_and_follow_the_twin(simd_level, dim):
    count = 2 * dim + dim // 2 + 1
    xi = mk.sliced.directions(dim, count, seed=11)
    for f in range(3):
        frame = xi[f * dim : (f + 1) * dim]
        np.testing.assert_allclose(frame @ frame.T, np.eye(len(frame)), rtol=0, atol=1e-14)
        np.testing.assert_allclose(
            frame, frame_twin(11, dim, len(frame), f), rtol=0, atol=2e-15 * dim
        )


def test_frames_are_orthonormal_in_many_dimensions():
    xi = mk.sliced.directions(784, 784, seed=5)
    assert abs(xi @ xi.T - np.eye(784)).max() < 2e-14
    few = mk.sliced.directions(3000, 20, seed=5)
    assert abs(few @ few.T - np.eye(20)).max() < 1e-14


def test_random_directions_are_normalised_normals(simd_level):
    for dim in (2, 3, 40):
        z = mk.random.normal(8, (60, dim), stream=STREAM + 1)
        want = z / np.linalg.norm(z, axis=1, keepdims=True)
        got = mk.sliced.directions(dim, 60, "random", seed=8)
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["orthogonal", "sobol"])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_the_plane_is_cut_by_equispaced_lines(kind, count):
    u = mk.random.uniform(21, 1, stream=STREAM + 3)[0]
    angle = np.pi * (np.arange(count) + u) / count
    got = mk.sliced.directions(2, count, kind, seed=21)
    np.testing.assert_allclose(got, np.stack([np.cos(angle), np.sin(angle)], 1), rtol=0, atol=2e-15)


def test_one_dimension_has_one_direction():
    for kind in KINDS:
        np.testing.assert_array_equal(mk.sliced.directions(1, 50, kind), [[1.0]])


def test_frames_have_the_haar_law():
    """H0: the uniform law on O(4), for which the moments are known; n = 200 000 independent frames."""
    d, n = 4, 200_000
    q = mk.sliced.directions(d, n * d, seed=77).reshape(n, d, d)
    trace = np.trace(q, axis1=1, axis2=2)
    for i, j, k, m in ((0, 0, 1, 1), (3, 2, 0, 1), (3, 3, 2, 1), (1, 3, 0, 2)):
        for name, sample, mean in (
            ("entry", q[:, i, j], 0),
            ("square", q[:, i, j] ** 2, 1 / d),
            ("fourth", q[:, i, j] ** 4, 3 / (d * (d + 2))),
            ("product", q[:, i, j] * q[:, k, m], 0),
            (
                "squares",
                (q[:, i, j] * q[:, k, m]) ** 2,
                (d + 1) / ((d - 1) * d * (d + 2)),
            ),
        ):
            error = sample.std() / math.sqrt(n)
            assert abs(sample.mean() - mean) < Z * error, (name, i, j, k, m)
    for sample, mean in (
        (trace, 0),
        (trace**2, 1),
        (trace**4, 3),
        (np.trace(q @ q, axis1=1, axis2=2), 1),
        (np.linalg.det(q), 0),
        (q[:-1, 0, 0] * q[1:, 0, 0], 0),  # frames are independent
    ):
        assert abs(sample.mean() - mean) < Z * sample.std() / math.sqrt(len(sample))
    # A coordinate of a uniform direction: (q + 1) / 2 has the Beta law with (d - 1) / 2 twice.
    for i, j in ((0, 0), (3, 3), (2, 0)):
        p = stats.kstest((q[:, i, j] + 1) / 2, stats.beta((d - 1) / 2, (d - 1) / 2).cdf).pvalue
        assert p > 1e-8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [2, 3, 16])
def test_mean_absolute_projection(kind, dim):
    """E |<xi, v>| = |v| / c_{d,1}: that is what makes the estimators unbiased. 2000 seeds."""
    v = np.arange(1.0, dim + 1)
    means = np.array(
        [abs(mk.sliced.directions(dim, 16, kind, seed=s) @ v).mean() for s in range(2000)]
    )
    want = np.linalg.norm(v) / slicing_constant(dim)
    assert abs(means.mean() - want) < Z * means.std() / math.sqrt(len(means))


# ---- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind):
    threads = mk.get_num_threads()
    sizes = [(2, 40_000), (3, 5000), (37, 700), (300, 650), (700, 100)]
    try:
        mk.set_num_threads(1)
        want = [mk.sliced.directions(d, p, kind, seed=4) for d, p in sizes]
        for n in (2, 5):
            mk.set_num_threads(n)
            for (d, p), w in zip(sizes, want, strict=True):
                np.testing.assert_array_equal(mk.sliced.directions(d, p, kind, seed=4), w)
    finally:
        mk.set_num_threads(threads)


RECORD = {  # one for every machine and instruction set
    "orthogonal": "51dfc84710cd2b56",
    "random": "54e9ef8608bb3b27",
    "sobol": "db73d6f51228d7fc",
}


def test_bits_are_those_on_record(simd_level):
    for kind, want in RECORD.items():
        parts = [
            mk.sliced.directions(d, 137, kind, seed=2024, dtype=t).tobytes()
            for d in (2, 3, 61, 200)
            for t in ("float32", "float64")
        ]
        assert hashlib.sha256(b"".join(parts)).hexdigest()[:16] == want, kind


@given(
    st.integers(3, 40),
    st.integers(1, 90),
    st.integers(0, 90),
    st.sampled_from(KINDS),
    st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None)
def test_more_slices_start_with_fewer(dim, few, more, kind, seed):
    a = mk.sliced.directions(dim, few, kind, seed=seed)
    b = mk.sliced.directions(dim, few + more, kind, seed=seed)
    np.testing.assert_array_equal(b[:few], a)
    f = mk.sliced.directions(dim, few, kind, seed=seed, dtype="float32")
    np.testing.assert_array_equal(f, a.astype(np.float32))


def test_seeds_and_kinds_are_unrelated():
    drawn = [mk.sliced.directions(5, 5, kind, seed=s) for kind in KINDS for s in (0, 1, 2**64 - 1)]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            assert abs(a - b).min() > 1e-6
    sequence = np.random.SeedSequence(5)
    np.testing.assert_array_equal(
        mk.sliced.directions(5, 5, seed=sequence), mk.sliced.directions(5, 5, seed=sequence)
    )


# ---- Sobol points -------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 12, 53])
def test_points_without_scrambling_are_those_of_joe_and_kuo(dim):
    got = np.empty((512, dim), np.uint32)
    _core.sobol_points(got)
    want = stats.qmc.Sobol(dim, scramble=False, bits=32).random_base2(9)
    np.testing.assert_array_equal(got, want * 2.0**32)


def test_points_in_many_dimensions_are_balanced():
    """Also beyond the published numbers: one point in each of 2^10 intervals, and pairs of coordinates differ."""
    dim, k = 3000, 10
    x = np.empty((2**k, dim), np.uint32)
    _core.sobol_points(x)
    assert (np.sort(x >> np.uint32(32 - k), axis=0) == np.arange(2**k)[:, None]).all()
    assert len(np.unique(x[1:], axis=1).T) > dim - 30


def test_every_interval_has_one_scrambled_point(simd_level):
    """The twin: published points, scrambled in NumPy, through SciPy's quantile."""
    dim, k, seed = 60, 8, 99
    x = np.empty((2**k, dim), np.uint32)
    _core.sobol_points(x)
    words = np.empty((dim, 4), np.uint64)
    key = stream_key(seed, STREAM + 2)
    for t in range(dim):
        words[t] = _core.philox4x32([t, 0, 0, 4 << 28], key)
    y = scramble_twin(x, words.astype(np.uint32))
    for bits in (1, 4, k):
        cells = np.sort(y[: 2**bits] >> np.uint32(32 - bits), axis=0)
        assert (cells == np.arange(2**bits)[:, None]).all()
    z = special.ndtri((y + 0.5) / 2.0**32)
    want = z / np.linalg.norm(z, axis=1, keepdims=True)
    got = mk.sliced.directions(dim, 2**k, "sobol", seed=seed)
    np.testing.assert_allclose(got, want, rtol=2e-14, atol=1e-17)


def stream_key(seed, stream):
    """The first two words of Philox at the stream's number under the seed's key (mckean/philox.hpp)."""
    low = 0xFFFFFFFF
    words = _core.philox4x32([stream & low, stream >> 32, 0, 6 << 28], [seed & low, seed >> 32])
    return words[:2]


def reverse(x):
    out = np.zeros_like(x)
    for i in range(32):
        out |= ((x >> np.uint32(i)) & np.uint32(1)) << np.uint32(31 - i)
    return out


def scramble_twin(x, words):
    x = reverse(x)
    s = words.T
    with np.errstate(over="ignore"):
        x = x + s[0]
        x ^= x * np.uint32(0x6C50B47C)
        x *= s[1] | np.uint32(1)
        x ^= x * np.uint32(0xB82F1E52)
        x += s[2]
        x ^= x * np.uint32(0xC7AFE638)
        x *= s[3] | np.uint32(1)
        x ^= x * np.uint32(0x8D22F6E6)
    return reverse(x)


def test_scrambling_is_nested_and_fair():
    """Whether a digit is changed depends on the digits before it, by fair and uncorrelated coins: 40 000 scramblings."""
    n = 40_000
    words = mk.random.uniform(1, (n, 4)) * 2.0**32
    words = words.astype(np.uint32)
    # One number for every combination of the first three digits, and one more that differs only in later digits.
    tops = (np.arange(8, dtype=np.uint32) << np.uint32(29))[:, None]
    a = scramble_twin(np.broadcast_to(tops, (8, n)).copy(), words)
    b = scramble_twin(np.broadcast_to(tops | np.uint32(0x0155AA33), (8, n)).copy(), words)
    np.testing.assert_array_equal(a >> np.uint32(29), b >> np.uint32(29))
    flips = []
    for level in range(3):
        change = ((a ^ tops) >> np.uint32(31 - level)) & np.uint32(1)
        first = change[:: 8 >> level]  # one for each prefix
        np.testing.assert_array_equal(change, np.repeat(first, 8 >> level, axis=0))
        flips.extend(first)
    coins = 2.0 * np.array(flips) - 1
    error = 1 / math.sqrt(n)
    assert len(coins) == 7 and abs(coins.mean(axis=1)).max() < Z * error
    products = coins @ coins.T / n
    assert abs(products - np.eye(7)).max() < Z * error


def test_scrambled_points_are_distinct_and_centred():
    """Mean over 64 points of each of 40 coordinates' signs is exactly 0: half of the points in each half."""
    xi = mk.sliced.directions(40, 64, "sobol", seed=12)
    assert (np.sign(xi).sum(axis=0) == 0).all()
    big = mk.sliced.directions(6, 2**14, "sobol", seed=12)
    assert len(np.unique(big, axis=0)) == len(big)
    # The mean of random directions would be off by 3e-3 in each coordinate.
    assert abs(big.mean(axis=0)).max() < 5e-4


def test_normal_quantile():
    u = np.concatenate(
        [
            np.geomspace(2.0**-33, 0.5, 3000),
            1 - np.geomspace(2.0**-33, 0.5, 3000),
            np.linspace(0.01, 0.99, 999),
        ]
    )
    u = u[u != 0.5]
    got = np.array([_core.normal_quantile(p) for p in u])
    want = special.ndtri(u)
    np.testing.assert_allclose(got, want, rtol=4e-15)
    assert _core.normal_quantile(0.5) == 0


# ---- errors of the slices -----------------------------------------------------------------------


def clouds(d, n):
    x = mk.random.normal(1, (n, d))
    return x, mk.random.normal(2, (n, d)) + 0.5


def exact_gradient(x, y):
    def pull(a, b):
        v = a[:, None] - b[None]
        r = np.linalg.norm(v, axis=2)
        return np.divide(v, r[..., None], where=r[..., None] > 0, out=np.zeros_like(v)).mean(axis=1)

    return 2 / len(x) * (pull(x, y) - pull(x, x))


def gradient_error(d, count, kind, seeds, n=40):
    x, y = clouds(d, n)
    want = exact_gradient(x, y)
    square = 0.0
    for s in seeds:
        xi = mk.sliced.directions(d, count, kind, seed=s)
        got = mk.sliced_mmd2_grad(x, y, directions=xi)[1]
        square += ((got - want) ** 2).sum()
    return math.sqrt(square / len(seeds) / (want**2).sum())


def slope(d, counts, kind, seeds):
    errors = [gradient_error(d, c, kind, seeds) for c in counts]
    return np.polyfit(np.log(counts), np.log(errors), 1)[0]


def test_error_of_random_directions_falls_as_a_square_root():
    counts = [32, 128, 512, 2048]
    assert -0.6 < slope(16, counts, "random", range(3)) < -0.4


@pytest.mark.parametrize("d", [16, 64])
def test_frames_need_fewer_slices(d):
    seeds = range(4)
    frames, random = (gradient_error(d, 4 * d, k, seeds, n=100) for k in ("orthogonal", "random"))
    ratio = frames / random
    assert 0.2 < ratio < 0.6


@pytest.mark.parametrize("kind", ["orthogonal", "sobol"])
def test_error_in_the_plane_falls_with_the_number_of_lines(kind):
    assert slope(2, [8, 32, 128, 512], kind, range(4)) < -0.9


def test_sobol_points_beat_random_ones_in_few_dimensions():
    seeds = range(4)
    assert gradient_error(5, 256, "sobol", seeds) < 0.7 * gradient_error(5, 256, "random", seeds)


# ---- face ---------------------------------------------------------------------------------------


def test_frameworks(xp, dtype):
    want = mk.sliced.directions(7, 9, seed=1, dtype=dtype)
    like = xp.asarray(np.zeros(2, dtype))
    for how in (like, xp.name):
        got = mk.sliced.directions(7, 9, seed=1, dtype=dtype, like=how)
        assert xp.is_array(got) and xp.dtype(got) == dtype
        np.testing.assert_array_equal(xp.to_numpy(got), want)


def test_wrong_arguments():
    f = mk.sliced.directions
    for call, error, message in (
        (lambda: f(0, 5), ValueError, "^dim: expected an integer of at least 1"),
        (lambda: f(2.5, 5), TypeError, "^dim"),
        (lambda: f(3, 0), ValueError, "^n_slices"),
        (lambda: f(3, "5"), TypeError, "^n_slices"),
        (
            lambda: f(3, 5, "haar"),
            ValueError,
            "^kind: expected one of 'orthogonal', 'random', 'sobol', got 'haar'",
        ),
        (lambda: f(3, 5, None), TypeError, "^kind"),
        (lambda: f(3, 5, seed=-1), ValueError, "^seed"),
        (lambda: f(3, 5, dtype="int32"), TypeError, "^dtype"),
        (lambda: f(3, 5, device="tpu"), ValueError, "^device"),
        (lambda: f(3, 5, like="pandas"), ValueError, "^like"),
        (lambda: f(30_000, 5, "sobol"), ValueError, "^dim: expected at most 21201"),
        (lambda: f(3, 2**33, "sobol"), ValueError, "^n_slices: expected at most 2"),
        (lambda: f(2**40, 2**40), MemoryError, "directions in"),
        (lambda: f(2**30, 2**24), MemoryError, "GiB"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_resolve_names_come_from_the_cache():
    a = _directions.resolve("orthogonal", 6, 10, 3, "float32")
    assert a.dtype == np.float32 and not a.flags.writeable and a.flags.c_contiguous
    assert _directions.resolve("orthogonal", 6, 10, 3, "float32") is a
    np.testing.assert_array_equal(a, mk.sliced.directions(6, 10, seed=3, dtype="float32"))
    assert mk.sliced.directions(6, 10, seed=3).flags.writeable
    for other in (
        ("random", 6, 10, 3, "float32"),
        ("orthogonal", 6, 10, 4, "float32"),
        ("orthogonal", 6, 10, 3, "float64"),
    ):
        assert _directions.resolve(*other) is not a
    one = _directions.resolve("sobol", 1, 10, 3, "float64")
    assert _directions.resolve("sobol", 1, 99, 3, "float64") is one


def test_cache_is_bounded_and_forgets_the_oldest():
    cache = _directions._Cache(3 * 10 * 5 * 8)
    keys = [(5, 10, "random", s, "float64") for s in range(5)]
    kept = [cache.get(k) for k in keys[:3]]
    assert cache.get(keys[0]) is kept[0]
    cache.get(keys[3])  # the second goes, which was used longest ago
    assert list(cache.kept) == [keys[2], keys[0], keys[3]]
    assert cache.bytes == sum(a.nbytes for a in cache.kept.values()) <= cache.limit
    large = (5, 31, "random", 0, "float64")
    assert cache.get(large) is not cache.get(large)
    threads = [threading.Thread(target=lambda: [cache.get(k) for k in keys * 20]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == sum(a.nbytes for a in cache.kept.values()) <= cache.limit


def test_resolve_checks_arrays(xp, dtype):
    rows = mk.sliced.directions(4, 6, "random", seed=2)
    got = _directions.resolve(xp.asarray(rows), 4, 100, 0, dtype)
    assert type(got) is np.ndarray and got.dtype == dtype and got.flags.c_contiguous
    np.testing.assert_array_equal(got, rows.astype(dtype))
    bad = rows.copy()
    bad[3] *= 1.01
    with pytest.raises(
        ValueError, match=r"^directions: expected rows of length 1, got 1\.01 in row 3"
    ):
        _directions.resolve(xp.asarray(bad), 4, 100, 0, dtype)
    bad[2, 1] = np.nan
    with pytest.raises(ValueError, match="^directions: expected finite"):
        _directions.resolve(xp.asarray(bad), 4, 100, 0, dtype)
    for shape in ((4,), (2, 3), (1, 2, 4), (0, 4)):
        with pytest.raises(ValueError, match="^directions: expected"):
            _directions.resolve(xp.asarray(np.ones(shape)), 4, 100, 0, dtype)


def test_resolve_checks_arrays_without_a_copy():
    rows = np.zeros((20_000, 100))
    rows[:, 3] = 1.0
    rows[-2] *= 2
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="^directions: .* got 2 in row 19998"):
            _directions.resolve(rows, 100, 100, 0, "float64")
        rows[-2] /= 2
        assert _directions.resolve(rows, 100, 100, 0, "float64") is rows
        assert tracemalloc.get_traced_memory()[1] < rows.nbytes / 8
    finally:
        tracemalloc.stop()


def test_resolve_takes_lists_integers_and_views():
    got = _directions.resolve([[0, 1], [1, 0]], 2, 100, 0, "float64")
    np.testing.assert_array_equal(got, [[0.0, 1.0], [1.0, 0.0]])
    rows = mk.sliced.directions(4, 6, "random", seed=2)
    view = np.asfortranarray(rows)
    assert _directions.resolve(view, 4, 100, 0, "float64").flags.c_contiguous
    with pytest.raises(ValueError, match="^directions: expected one of 'orthogonal'"):
        _directions.resolve("spiral", 4, 100, 0, "float64")
    for bad in (None, 3, object(), 1.5, np.array([["a", "b"]])):
        with pytest.raises(TypeError, match="^directions: expected"):
            _directions.resolve(bad, 2, 100, 0, "float64")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_ctrl_c_gets_out(n_threads):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = mk.get_num_threads()
    mk.set_num_threads(n_threads)
    try:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        start = time.perf_counter()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            mk.sliced.directions(6000, 4000)  # many seconds
        assert time.perf_counter() - start < 2.0
    finally:
        mk.set_num_threads(before)
        signal.signal(signal.SIGINT, previous)
    assert mk.sliced.directions(3, 2).shape == (2, 3)
