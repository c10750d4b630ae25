"""The fused stepper and the counter-based numbers, against NumPy."""

import threading

import numpy as np
import pytest
import reference

import mckean as mk
from mckean import _core

LIMIT = {"float32": 1e-6, "float64": 1e-15}


@pytest.mark.parametrize("shape", [(1, 1), (7,), (5, 3), (130, 9), (4, 3, 2), (0, 3)])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_combine_is_the_sum(xp, dtype, shape, count):
    rng = np.random.default_rng(count)
    arrays = [rng.standard_normal(shape).astype(dtype) for _ in range(count)]
    c = [float(v) for v in rng.standard_normal(count)]
    out = mk.combine(c, [xp.asarray(a) for a in arrays])
    want = reference.combine(c, arrays)
    assert xp.dtype(out) == dtype
    np.testing.assert_allclose(xp.to_numpy(out), want, rtol=0, atol=10 * count * LIMIT[dtype])


def test_combine_adds_the_normal_of_that_counter(xp, dtype):
    x = np.zeros((33, 5), dtype)
    out = mk.combine([1.0], [xp.asarray(x)], noise_scale=1.0, seed=9, stream=4, counter=2**60 - 1)
    z = mk.random.normal(9, (33, 5), stream=4, counter=2**60 - 1, dtype=dtype, like=xp.name)
    assert (xp.to_numpy(out) == xp.to_numpy(z)).all()


def test_several_outputs_share_the_draw(xp, dtype):
    x = xp.asarray(np.ones((20, 3), dtype))
    y = xp.asarray(np.full((20, 3), 2.0, dtype))
    table = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    scales = [0.0, 2.0, 0.5]
    outs = mk.combine(table, [x, y], noise_scale=scales, seed=3, counter=8)
    assert isinstance(outs, tuple) and len(outs) == 3
    z = mk.random.normal(3, (20, 3), counter=8, dtype=dtype)
    for out, row, s in zip(outs, table, scales, strict=True):
        want = np.asarray(row[0] + 2 * row[1] + np.asarray(s, dtype) * z, dtype)
        assert (xp.to_numpy(out) == want).all()
    one = mk.combine([[2.0, 0.0]], [x, y])
    assert isinstance(one, tuple) and len(one) == 1
    for out in mk.combine(table, [x, y], noise_scale=1.0, seed=3, counter=8)[:1]:
        assert (xp.to_numpy(out) == 1 + z).all()


def test_per_particle_coefficients_and_noise(xp, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((50, 4)).astype(dtype) for _ in range(2))
    c, s = (rng.standard_normal(50).astype(dtype) for _ in range(2))
    z = mk.random.normal(1, (50, 4), dtype=dtype)
    out = mk.combine(
        [xp.asarray(c), 0.5], [xp.asarray(x), xp.asarray(y)], noise_scale=xp.asarray(s), seed=1
    )
    want = reference.combine([c, 0.5, s], [x, y, z])
    np.testing.assert_allclose(xp.to_numpy(out), want, rtol=0, atol=30 * LIMIT[dtype])
    pair = mk.combine(
        [[xp.asarray(c), 0.0], [1.0, xp.asarray(s)]],
        [xp.asarray(x), xp.asarray(y)],
        noise_scale=[xp.asarray(s), 0.0],
        seed=1,
    )
    for got, row in zip(pair, ([c, 0.0, s], [1.0, s, 0.0]), strict=True):
        want = reference.combine(row, [x, y, z])
        np.testing.assert_allclose(xp.to_numpy(got), want, rtol=0, atol=30 * LIMIT[dtype])


def test_out_may_be_an_input(xp, dtype):
    if xp.name == "jax":
        x = xp.asarray(np.zeros(3, dtype))
        with pytest.raises(TypeError, match="out: JAX arrays are immutable"):
            mk.combine([1.0], [x], out=x)
        return
    x = xp.asarray(np.ones((700, 3), dtype))
    g = xp.asarray(np.full((700, 3), 4.0, dtype))
    assert mk.combine([1.0, -0.5], [x, g], out=x) is x
    assert (xp.to_numpy(x) == -1).all() and (xp.to_numpy(g) == 4).all()
    mk.combine([[0.0, 1.0], [1.0, 0.0]], [x, g], out=(x, g))  # a swap
    assert (xp.to_numpy(x) == 4).all() and (xp.to_numpy(g) == -1).all()


def test_partial_overlap_is_refused_and_nothing_written():
    memory = np.zeros(20)
    x = memory[:10]
    with pytest.raises(ValueError, match=r"out: .* overlaps partly"):
        mk.combine([1.0], [x], out=memory[5:15], noise_scale=1.0)
    with pytest.raises(ValueError, match=r"out\[1\]: .* overlaps out\[0\]"):
        mk.combine([[1.0], [1.0]], [x], out=[memory[10:], memory[10:]], noise_scale=1.0)
    grid = memory.reshape(5, 4)
    with pytest.raises(ValueError, match="overlaps a per-particle coefficient"):
        mk.combine([memory[:5]], [np.ones((5, 4))], out=grid)
    assert (memory == 0).all()


def test_bad_out_is_refused():
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match="out: expected shape"):
        mk.combine([1.0], [x], out=np.zeros((3, 4)))
    with pytest.raises(TypeError, match="out: expected float64"):
        mk.combine([1.0], [x], out=np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="out: expected a C-contiguous"):
        mk.combine([1.0], [x], out=np.zeros((3, 4)).T)
    frozen = np.zeros((4, 3))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected a writable"):
        mk.combine([1.0], [x], out=frozen)
    with pytest.raises(ValueError, match="out: expected 2 arrays"):
        mk.combine([[1.0], [1.0]], [x], out=[x])


@pytest.mark.parametrize(
    ("coefficients", "arrays", "kwargs", "error", "match"),
    [
        ([], [], {}, ValueError, "arrays: expected 1 to 16"),
        ([1.0] * 17, [np.zeros(2)] * 17, {}, ValueError, "arrays: expected 1 to 16"),
        ([[1.0]] * 9, [np.zeros(2)], {}, ValueError, "coefficients: expected at most 8"),
        ([1.0], np.zeros((1, 2)), {}, TypeError, "arrays: expected a list"),
        ([1.0], [np.zeros(2), np.zeros(2)], {}, ValueError, "coefficients: expected 2 entries"),
        ([[1.0], [1.0, 2.0]], [np.zeros(2)], {}, ValueError, r"coefficients\[1\]: expected 1"),
        ([[1.0], 2.0], [np.zeros(2)], {}, TypeError, "only lists"),
        ([1.0, 1.0], [np.zeros(2), np.zeros(3)], {}, ValueError, r"arrays\[1\]: expected shape"),
        ([np.nan], [np.zeros(2)], {}, ValueError, r"coefficients\[0\]: expected a finite"),
        ([np.zeros(3)], [np.zeros((2, 3))], {}, ValueError, r"coefficients\[0\]: expected shape"),
        (["a"], [np.zeros(2)], {}, TypeError, r"coefficients\[0\]: expected a number"),
        ([1.0], [np.float64(1.0)], {}, ValueError, r"arrays\[0\]: expected shape"),
        ([1.0], [np.zeros(2)], {"counter": 2**60}, ValueError, "counter: "),
        ([1.0], [np.zeros(2)], {"stream": -1}, ValueError, "stream: "),
        ([1.0], [np.zeros(2)], {"seed": 0.5}, TypeError, "seed: "),
        (
            [[1.0]],
            [np.zeros(2)],
            {"noise_scale": [1.0, 2.0]},
            ValueError,
            "noise_scale: expected 1",
        ),
    ],
)
def test_bad_arguments_are_named(coefficients, arrays, kwargs, error, match):
    with pytest.raises(error, match=match):
        mk.combine(coefficients, arrays, **kwargs)


def test_combine_from_eight_threads():
    x = mk.random.normal(0, (1000, 7))
    want = mk.combine([0.5], [x], noise_scale=1.0, seed=5)
    wrong = []

    def work():
        for _ in range(50):
            if not (mk.combine([0.5], [x], noise_scale=1.0, seed=5) == want).all():
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("draw", [mk.random.normal, mk.random.uniform])
def test_numbers_depend_on_the_flat_index_only(draw, xp, dtype):
    long = draw(3, 1000, stream=1, counter=2, dtype=dtype, like=xp.name)
    short = draw(3, (13, 7), stream=1, counter=2, dtype=dtype, like=xp.name)
    assert (xp.to_numpy(short).ravel() == xp.to_numpy(long)[:91]).all()
    assert (xp.to_numpy(long) == draw(3, 1000, stream=1, counter=2, dtype=dtype)).all()
    assert xp.dtype(long) == dtype
    for other in (
        draw(4, 1000, stream=1, counter=2),
        draw(3, 1000, stream=2, counter=2),
        draw(3, 1000, stream=1),
    ):
        assert not np.isin(other, xp.to_numpy(long)).any()


@pytest.mark.parametrize("shape", [0, (0,), (3, 0), (0, 0)])
def test_empty_draws(shape):
    assert mk.random.normal(0, shape).shape == (shape if isinstance(shape, tuple) else (shape,))


def test_draws_have_the_right_moments(dtype):
    """H0: the law is right. 10^6 draws, 6 standard errors each: false-alarm rate below 1e-8."""
    n = 1_000_000
    z = mk.random.normal(11, n, dtype=dtype).astype(np.float64)
    assert abs(z.mean()) < 6 / n**0.5
    assert abs(z.var() - 1) < 6 * (2 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 6 * (96 / n) ** 0.5
    u = mk.random.uniform(11, n, dtype=dtype).astype(np.float64)
    assert 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 6 / (12 * n) ** 0.5


def test_bad_draws_are_named():
    for kwargs, error, match in (
        ({"shape": -1}, ValueError, "shape: "),
        ({"shape": (2, 1.5)}, TypeError, "shape: "),
        ({"shape": 2, "dtype": "int32"}, TypeError, "dtype: "),
        ({"shape": 2, "device": "tpu"}, ValueError, "device: "),
        ({"shape": 2, "like": "mxnet"}, ValueError, "like: "),
    ):
        with pytest.raises(error, match=match):
            mk.random.normal(0, **kwargs)


@pytest.mark.parametrize("n", [70_000, 3_000_000])
def test_bits_do_not_depend_on_threads_or_instruction_set(n):
    """More elements than one chunk; at the larger size the outputs are written around the cache."""
    x, y = mk.random.normal(1, (n, 2)), mk.random.normal(2, (n, 2))
    rows = mk.random.uniform(3, n)
    threads, level = mk.get_num_threads(), _core.simd_level()
    want = [1.5 * x + -0.25 * y, rows[:, None] * x + 2.0 * y]
    z = mk.random.normal(4, (n, 2), stream=5, counter=6)
    want = [w + s * z for w, s in zip(want, (0.7, 0.3), strict=True)]
    try:
        for name in _core.simd_levels():
            for count in (1, 2):
                _core.set_simd_level(name)
                mk.set_num_threads(count)
                got = mk.combine(
                    [[1.5, -0.25], [rows, 2.0]],
                    [x, y],
                    noise_scale=[0.7, 0.3],
                    seed=4,
                    stream=5,
                    counter=6,
                )
                for a, b in zip(got, want, strict=True):
                    np.testing.assert_array_equal(a, b)
    finally:
        mk.set_num_threads(threads)
        _core.set_simd_level(level)
