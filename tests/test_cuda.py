"""The CUDA executor: the same oracles as its CPU twin, and the CPU's bits wherever the work is element-wise.

Runs with a device. tools/cuda_on_host.sh runs it without one, on kernels compiled for the CPU.
"""

import hashlib
import importlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from reference import combine as combine_twin
from reference_brownian import Tree as TreeTwin
from reference_random import normal as normal_twin
from reference_random import uniform as uniform_twin

import mckean as mk
from mckean import _core

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

AREAS = ["none", "space-time", "space-time-time"]
VECTORS = Path(__file__).parent / "vectors"
FRAMEWORKS = ["torch", "cupy", "jax"]


# ---- arrays on the device -------------------------------------------------------------------------------------------


def up(a, device=0):
    """A NumPy array in memory of our own on the device."""
    return _cuda.to_device(np.ascontiguousarray(a), device)


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


class Cuda:
    """A framework with arrays on the first CUDA device."""

    def __init__(self, name):
        self.name = name
        self.module = importlib.import_module(name)
        if name == "torch":
            self.module.zeros(1, device="cuda")
        elif name == "cupy":
            self.module.cuda.runtime.getDeviceCount()
        else:
            self.module.config.update("jax_enable_x64", True)
            self.device = self.module.devices("cuda")[0]
            importlib.import_module("cupy")  # holds results

    def asarray(self, a):
        if self.name == "torch":
            return self.module.tensor(a, device="cuda")
        if self.name == "cupy":
            return self.module.asarray(a)
        return self.module.device_put(a, self.device)

    def to_numpy(self, a):
        kind = type(a).__module__.partition(".")[0]
        assert kind == {"jax": "jaxlib"}.get(self.name, self.name)
        if self.name == "torch":
            assert a.is_cuda
            return a.cpu().numpy()
        return a.get() if self.name == "cupy" else np.asarray(a)


@pytest.fixture(params=FRAMEWORKS)
def gpu(request):
    """A framework that holds arrays on the GPU; those that cannot skip with their name."""
    try:
        return Cuda(request.param)
    except Exception as error:
        pytest.skip(f"{request.param}: {error}")


def same_bits(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    unsigned = {1: np.uint8, 4: np.uint32, 8: np.uint64}[want.dtype.itemsize]
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(unsigned), np.ascontiguousarray(want).view(unsigned)
    )


# ---- devices and memory ---------------------------------------------------------------------------------------------


def test_info_lists_the_devices():
    info = mk.info()
    assert info["cuda"] == "available"
    for device in info["cuda_devices"]:
        assert device["name"] and device["memory_bytes"] > 0
        assert int(device["driver"].split(".")[0]) >= int(device["runtime"].split(".")[0])


@pytest.mark.parametrize("kind", ["float32", "float64", "uint8", "uint32", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (1000, 7)])
def test_memory_round_trip(kind, shape):
    a = np.random.default_rng(1).integers(0, 200, shape).astype(kind)
    a.flags.writeable = False
    there = up(a)
    assert there.__dlpack_device__() == (2, 0)
    same_bits(down(there, shape, kind), a)
    empty = _cuda.empty(list(shape), kind)
    assert empty.__dlpack_device__() == (2, 0)


def test_memory_errors():
    a = up(np.zeros(4))
    with pytest.raises(ValueError, match="out: wrong size"):
        _cuda.to_host(a, np.zeros(5))
    with pytest.raises(TypeError):
        _cuda.to_host(a, np.zeros(4, np.float32))
    with pytest.raises(ValueError, match="no CUDA device 99"):
        _cuda.empty([3], "float32", 99)
    with pytest.raises(MemoryError):
        _cuda.empty([1 << 50], "uint8")
    same_bits(down(a, 4, "float64"), np.zeros(4))  # an earlier failure leaves the device usable


def test_memory_is_given_back():
    big = mk.info()["cuda_devices"][0]["memory_bytes"] // 3
    for _ in range(8):  # eight thirds of the device, one after the other
        _cuda.empty([big], "uint8")


def test_host_arrays_are_refused():
    with pytest.raises(TypeError):
        _cuda.fill_normal(np.zeros(3), 0, 0, 0, 0)
    with pytest.raises(TypeError):
        _core.fill_normal(up(np.zeros(3)), 0, 0, 0, 0)


def test_devices_that_are_not_there():
    with pytest.raises(mk.DeviceError, match="found"):
        mk.random.normal(1, 3, device="cuda:99")


# ---- random numbers -------------------------------------------------------------------------------------------------

FIRSTS = [0, 1, 15, 16, 63, 65, 2**32 * 16 - 7, 2**63 + 5, 2**64 - 40]
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 1000, 70_001]


@pytest.mark.parametrize("function", ["fill_normal", "fill_uniform", "random_words"])
def test_fills_have_the_bits_of_the_cpu(function, dtype):
    """Every offset and ragged end: number i of a stream does not depend on where a fill starts or stops."""
    kind = "uint32" if function == "random_words" else dtype
    for first in FIRSTS:
        for n in SIZES if first == 0 else SIZES[:8]:
            want = np.empty(n, kind)
            getattr(_core, function)(want, 2**64 - 3, 5, 2**60 - 1, first)
            got = _cuda.empty([n], kind)
            getattr(_cuda, function)(got, 2**64 - 3, 5, 2**60 - 1, first)
            same_bits(down(got, n, kind), want)


def test_numbers_agree_with_the_numpy_twin(dtype):
    eps = np.finfo(dtype).eps
    z = mk.random.normal(11, 1003, stream=4, counter=9, dtype=dtype, device="cuda")
    np.testing.assert_allclose(z, normal_twin(11, 1003, dtype, 4, 9), rtol=0, atol=40 * eps)
    u = mk.random.uniform(11, 1003, stream=4, counter=9, dtype=dtype, device="cuda")
    same_bits(u, uniform_twin(11, 1003, dtype, 4, 9).astype(dtype))


def test_random_bits_are_those_on_record():
    record = json.loads((VECTORS / "bits.json").read_text())["random"]
    for name, function in (("normal", mk.random.normal), ("uniform", mk.random.uniform)):
        for dtype in ("float32", "float64"):
            x = function(2024, 100_003, stream=3, counter=11, dtype=dtype, device="cuda")
            assert type(x) is np.ndarray
            assert hashlib.sha256(x.tobytes()).hexdigest() == record[f"{name}-{dtype}"]


def test_empty_draws():
    assert mk.random.normal(1, 0, device="cuda").shape == (0,)
    assert mk.random.uniform(1, (3, 0), dtype="float32", device="cuda").shape == (3, 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_step_noise_has_the_bits_of_the_cpu(count, dtype):
    for n in (0, 1, 31, 33, 5000):
        scales = [1.0, 0.28867513459481287, 0.037267799624996496][:count]
        want = [np.empty(n, dtype) for _ in range(count)]
        _core.step_noise(want, scales, 99, 2**60 - 1)
        got = [_cuda.empty([n], dtype) for _ in range(count)]
        _cuda.step_noise(got, scales, 99, 2**60 - 1)
        for g, w in zip(got, want, strict=True):
            same_bits(down(g, n, dtype), w)


def test_draws_of_a_framework(gpu, dtype):
    like = gpu.asarray(np.zeros(1))
    z = mk.random.normal(3, (37, 5), dtype=dtype, like=like)
    same_bits(gpu.to_numpy(z), mk.random.normal(3, (37, 5), dtype=dtype))


# ---- fused stepper --------------------------------------------------------------------------------------------------


def random_combination(rng, dtype, n_outs, n_arrays, rows, cols, noise, by_row):
    arrays = [rng.standard_normal((rows, cols)).astype(dtype) for _ in range(n_arrays)]
    table = rng.standard_normal((n_outs, n_arrays))
    per_row, noise_by_row = [], []
    scales = rng.standard_normal(n_outs) * (rng.random(n_outs) < 0.7) if noise else np.zeros(n_outs)
    if by_row:
        for j in range(n_outs):
            for k in range(n_arrays):
                if rng.random() < 0.4:
                    per_row.append((j, k, rng.standard_normal(rows).astype(dtype)))
            if noise and rng.random() < 0.4:
                noise_by_row.append((j, rng.standard_normal(rows).astype(dtype)))
    return arrays, table, per_row, scales, noise_by_row


@pytest.mark.parametrize("by_row", [False, True], ids=["scalars", "per-row"])
@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
@pytest.mark.parametrize(
    ("n_outs", "n_arrays"),
    [(1, 0), (1, 1), (1, 2), (1, 16), (2, 3), (3, 5), (4, 4), (8, 16), (5, 1)],
)
def test_combine_has_the_bits_of_the_cpu(dtype, n_outs, n_arrays, noise, by_row):
    rng = np.random.default_rng(n_outs * 100 + n_arrays)
    for rows, cols in ((0, 3), (1, 1), (7, 9), (127, 1), (1, 129), (501, 13)):
        problem = random_combination(rng, dtype, n_outs, n_arrays, rows, cols, noise, by_row)
        arrays, table, per_row, scales, noise_by_row = problem
        rest = (rows, cols, 17, 3, 12345)
        want = [np.empty((rows, cols), dtype) for _ in range(n_outs)]
        _core.combine(want, arrays, table, per_row, scales, noise_by_row, *rest)
        got = [_cuda.empty([rows, cols], dtype) for _ in range(n_outs)]
        _cuda.combine(
            got,
            [up(a) for a in arrays],
            table,
            [(j, k, up(a)) for j, k, a in per_row],
            scales,
            [(j, up(a)) for j, a in noise_by_row],
            *rest,
        )
        for g, w in zip(got, want, strict=True):
            same_bits(down(g, (rows, cols), dtype), w)


def test_combine_agrees_with_the_numpy_twin(dtype):
    rng = np.random.default_rng(0)
    arrays, table, per_row, scales, _ = random_combination(rng, dtype, 1, 3, 100, 7, False, True)
    out = _cuda.empty([100, 7], dtype)
    there = [(j, k, up(a)) for j, k, a in per_row]
    _cuda.combine([out], [up(a) for a in arrays], table, there, scales, [], 100, 7, 0, 0, 0)
    coefficients = list(table[0])
    for _, k, a in per_row:
        coefficients[k] = a
    want = combine_twin(coefficients, [a.astype(np.float64) for a in arrays])
    np.testing.assert_allclose(
        down(out, (100, 7), dtype), want, rtol=0, atol=30 * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_outputs_may_be_inputs(dtype, noise):
    rng = np.random.default_rng(5)
    x, v = (rng.standard_normal((333, 3)).astype(dtype) for _ in range(2))
    table, scales = np.array([[1.0, 0.1], [-0.2, 0.9]]), np.array([noise, 0.0])
    want = [np.empty_like(x) for _ in range(2)]
    _core.combine(want, [x, v], table, [], scales, [], 333, 3, 1, 0, 0)
    there = [up(x), up(v)]
    _cuda.combine(there, there, table, [], scales, [], 333, 3, 1, 0, 0)
    for g, w in zip(there, want, strict=True):
        same_bits(down(g, (333, 3), dtype), w)


def test_combine_of_a_framework(gpu, dtype):
    rng = np.random.default_rng(2)
    x, g = (rng.standard_normal((211, 4)).astype(dtype) for _ in range(2))
    c = rng.standard_normal(211).astype(dtype)
    want = mk.combine([1.0, c], [x, g], noise_scale=0.3, seed=7, counter=2)
    there = [gpu.asarray(a) for a in (x, g)]
    got = mk.combine([1.0, gpu.asarray(c)], there, noise_scale=0.3, seed=7, counter=2)
    same_bits(gpu.to_numpy(got), want)
    for a, b in zip(there, (x, g), strict=True):
        same_bits(gpu.to_numpy(a), b)  # inputs are never modified
    if gpu.name != "jax":
        out = gpu.asarray(x)
        assert mk.combine([1.0, 0.5], [out, there[1]], out=out) is out
        same_bits(gpu.to_numpy(out), mk.combine([1.0, 0.5], [x, g]))
    with pytest.raises(ValueError, match="expected device|expected shape"):
        mk.combine([1.0, 1.0], [there[0], there[1][:5]])
    empty = mk.combine([1.0], [gpu.asarray(np.zeros((0, 3), dtype))])
    assert tuple(empty.shape) == (0, 3)


def metropolis_problem(n, d, dtype):
    rng = np.random.default_rng(n + d)
    x = rng.standard_normal((n, d)).astype(dtype)
    y = (x + 0.7 * rng.standard_normal((n, d))).astype(dtype)
    density = [(-(a.astype(float) ** 2).sum(axis=1) / 2).astype(dtype) for a in (x, y)]
    if n > 3:
        density[1][:4] = [np.nan, np.inf, -np.inf, 1e30]
    return [x, y, -x, -y, *density]


@pytest.mark.parametrize(("n", "d"), [(0, 3), (1, 1), (1000, 1), (517, 9)])
def test_metropolis_has_the_bits_of_the_cpu(n, d, dtype):
    inputs = metropolis_problem(n, d, dtype)
    shapes = [((n, d), dtype), ((n, d), dtype), ((n,), dtype), ((n,), "uint8")]
    want = [np.empty(s, k) for s, k in shapes]
    _core.metropolis(*inputs, 0.25, 5, 6, *want)
    got = [_cuda.empty(list(s), k) for s, k in shapes]
    _cuda.metropolis(*(up(a) for a in inputs), 0.25, 5, 6, *got)
    for g, w, (shape, kind) in zip(got, want, shapes, strict=True):
        same_bits(down(g, shape, kind), w)
    if n > 3:
        assert 0 < want[3].mean() < 1 and not want[3][0] and not want[3][2]


# ---- Brownian trees -------------------------------------------------------------------------------------------------


def parts(inc):
    return [x for x in (inc.W, inc.H, inc.K) if x is not None]


def all_same(got, want):
    assert len(parts(got)) == len(parts(want))
    for g, w in zip(parts(got), parts(want), strict=True):
        same_bits(g, w)
    np.testing.assert_array_equal(got.dt, want.dt)


def times(depth, rng, n=40):
    """Times on and off every kind of boundary, some of them closer than a leaf."""
    leaf = 2.0**-depth
    grid = np.concatenate(
        [
            [0.0, 1.0],
            rng.random(n),
            rng.integers(0, 2 ** min(depth, 10) + 1, 20) / 2.0 ** min(depth, 10),
            0.3 + leaf * np.array([0.1, 0.2, 0.25, 1.3, 1.35, 5]),
            0.5 + leaf * np.arange(-3, 4) * 0.5,
        ]
    )
    return np.sort(grid[(grid >= 0) & (grid <= 1)])


@pytest.mark.parametrize("area", AREAS)
@pytest.mark.parametrize("depth", [0, 1, 5, 14, 40])
def test_trees_have_the_bits_of_the_cpu(area, depth, dtype):
    rng = np.random.default_rng(depth)
    ts = times(depth, rng)
    n, d = 37, 3
    both = [
        mk.BrownianTree(77, (n, d), tol=2.0**-depth, levy_area=area, dtype=dtype, device=device)
        for device in ("cuda", "cpu")
    ]
    all_same(*(tree.increments(ts) for tree in both))
    for i, j in rng.integers(0, len(ts), (60, 2)):
        s, t = sorted((float(ts[i]), float(ts[j])))
        all_same(*(tree.increment(s, t) for tree in both))
    for _ in range(5):
        s, t = np.sort(rng.choice(ts, (2, n)), axis=0)
        all_same(*(tree.increment(s, t) for tree in both))
        all_same(*(tree.increment(0.0, t) for tree in both))
        all_same(*(tree[5:20].increment(s[5:20], t[5:20]) for tree in both))


@pytest.mark.parametrize("area", AREAS)
def test_long_grids_take_several_launches(area, dtype):
    both = [
        mk.BrownianTree(
            3, (5, 2), t0=-2.0, t1=5.0, levy_area=area, tol=1e-4, dtype=dtype, device=device
        )
        for device in ("cuda", "cpu")
    ]
    for m in (1, 2, 256, 257, 258, 1000):
        ts = np.sort(np.random.default_rng(m).uniform(-2.0, 5.0, m))
        all_same(*(tree.increments(ts) for tree in both))


@pytest.mark.parametrize("area", AREAS)
def test_trees_agree_with_the_numpy_twin(area):
    seed, m, depth = 987654321987654321, AREAS.index(area) + 1, 6
    tree = mk.BrownianTree(seed, (3, 2), tol=2.0**-depth, levy_area=area, device="cuda")
    twins = [TreeTwin(seed, lane, m, depth) for lane in range(6)]
    for s, t in ((0.0, 1.0), (0.25, 0.5), (0.1, 0.77), (0.3, 0.4), (0.0, 0.03)):
        got = np.stack([p.ravel() for p in parts(tree.increment(s, t))], axis=1)
        want = [twin.query(s, t)[:m] for twin in twins]
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-13 * np.sqrt(t - s))


def test_brownian_bits_are_those_on_record():
    record = json.loads((VECTORS / "bits.json").read_text())["brownian"]
    for area in AREAS:
        for dtype in ("float32", "float64"):
            tree = mk.BrownianTree(
                2024, (7, 5), t0=-1.0, t1=3.0, tol=1e-3, levy_area=area, dtype=dtype, device="cuda"
            )
            inc = tree.increments(np.linspace(-1.0, 3.0, 58))
            text = b"".join(np.ascontiguousarray(p).tobytes() for p in parts(inc))
            assert hashlib.sha256(text).hexdigest() == record[f"{area}-{dtype}"]


def test_times_are_checked_on_the_way():
    tree = mk.BrownianTree(1, (3, 1), device="cuda")
    with pytest.raises(ValueError, match="t: expected times in"):
        tree.increment(np.zeros(3), np.array([0.5, 2.0, 0.5]))
    with pytest.raises(ValueError, match="s: expected s <= t"):
        tree.increment(np.full(3, 0.6), np.array([0.7, 0.5, 0.7]))
    assert (tree.increment(0.5, 0.5).W == 0).all()


@pytest.mark.parametrize("kind", ["I", "II"])
def test_fractional_paths_have_the_bits_of_the_cpu(kind, dtype):
    both = [
        mk.FractionalBrownianTree(
            5, (33, 2), hurst=0.3, kind=kind, tol=2**-9, dtype=dtype, device=device
        )
        for device in ("cuda", "cpu")
    ]
    ts = np.sort(np.concatenate([[0.0, 1.0, 0.5], np.random.default_rng(1).random(20)]))
    same_bits(*(tree.increments(ts).W for tree in both))
    same_bits(*(tree.value(0.377) for tree in both))
    same_bits(*(tree[7:9].value(0.9) for tree in both))


def test_trees_of_a_framework(gpu, dtype):
    like = gpu.asarray(np.zeros(1))
    tree = mk.BrownianTree(9, (50, 2), levy_area="space-time-time", dtype=dtype, like=like)
    alone = mk.BrownianTree(9, (50, 2), levy_area="space-time-time", dtype=dtype)
    for g, w in zip(parts(tree.increment(0.2, 0.7)), parts(alone.increment(0.2, 0.7)), strict=True):
        same_bits(gpu.to_numpy(g), w)
    ts = np.linspace(0, 1, 9)
    for g, w in zip(parts(tree.increments(ts)), parts(alone.increments(ts)), strict=True):
        same_bits(gpu.to_numpy(g), w)
    rng = np.random.default_rng(3)
    s, t = np.sort(rng.random((2, 50)), axis=0)
    got = tree.increment(gpu.asarray(s), gpu.asarray(t))
    want = alone.increment(s, t)
    for g, w in zip(parts(got), parts(want), strict=True):
        same_bits(gpu.to_numpy(g), w)
    np.testing.assert_allclose(gpu.to_numpy(got.dt), want.dt, rtol=1e-6)


# ---- samplers and targets -------------------------------------------------------------------------------------------


def samplers():
    s = mk.samplers

    class Normal:
        def log_density(self, x):
            return -0.5 * (x * x).sum(1)

        def grad_log_density(self, x):
            return -x

    return {
        "langevin": s.Langevin(Normal(), 0.1),
        "mala": s.MALA(Normal(), 0.3),
        "underdamped": s.UnderdampedLangevin(Normal(), 0.2),
    }


@pytest.mark.parametrize("name", ["langevin", "mala", "underdamped"])
def test_chains_follow_those_on_the_cpu(gpu, name, dtype):
    """The user's functions may round differently, so to tolerance; a flipped acceptance would show as a large one."""
    x0 = np.random.default_rng(8).standard_normal((64, 3)).astype(dtype)
    ends = []
    for x in (x0, gpu.asarray(x0)):
        chain = samplers()[name]
        state = chain.init(x, seed=4)
        for _ in range(10):
            state = chain.step(state)
        ends.append(state.x)
    got, want = gpu.to_numpy(ends[1]), ends[0]
    far = np.abs(got - want).max(axis=1) > 100 * np.finfo(dtype).eps
    assert far.sum() <= (1 if name == "mala" else 0)


def target(name):
    targets, rng = mk.targets, np.random.default_rng(12)
    return {
        "Gaussian": lambda: targets.Gaussian(np.arange(4.0), cov=np.eye(4) + 0.3),
        "Funnel": lambda: targets.Funnel(4),
        "Banana": lambda: targets.Banana(4),
        "LogisticRegression": lambda: targets.LogisticRegression(
            rng.standard_normal((50, 4)), rng.integers(0, 2, 50)
        ),
    }[name]()


@pytest.mark.parametrize("name", ["Gaussian", "Funnel", "Banana", "LogisticRegression"])
def test_targets_agree_with_the_cpu(gpu, name, dtype):
    at = target(name)
    x = np.random.default_rng(1).standard_normal((300, 4)).astype(dtype)
    eps = 100 * np.finfo(dtype).eps
    for function in (at.log_density, at.grad_log_density):
        want = np.asarray(function(x))
        got = gpu.to_numpy(function(gpu.asarray(x)))
        np.testing.assert_allclose(got, want, rtol=eps, atol=eps * np.abs(want).max())


def native_problem(function, d, dtype):
    """Arguments between the points and the outputs: arrays, then numbers; mixtures take constants in double."""
    rng = np.random.default_rng(d)
    if function == "logistic_regression":
        rows = rng.standard_normal((733, d)).astype(dtype)
        return [rows, np.full(d, 0.5, dtype), -3.0]
    if function in ("funnel", "banana"):
        return {"funnel": [1 / 9, -4.0], "banana": [0.01, 0.03, 3.0, -4.0]}[function]
    full = function == "full mixture"
    factor = (
        np.tril(rng.standard_normal((3, d, d))) + 2 * np.eye(d)
        if full
        else rng.random((3, d)) + 0.5
    )
    means = rng.standard_normal((3, d)).astype(dtype)
    return [means, factor.astype(dtype), rng.standard_normal(3)]


@pytest.mark.parametrize(
    "function", ["funnel", "banana", "mixture", "full mixture", "logistic_regression"]
)
def test_native_targets_agree_with_the_cpu(function, dtype):
    """Bit for bit, but for the logistic model, whose sums are in another order."""
    eps = 200 * np.finfo(dtype).eps
    name = "gaussian_mixture" if "mixture" in function else function
    for n, d in ((0, 5), (1, 2), (300, 5), (33, 40), (3, 133)):
        settings = native_problem(function, d, dtype)
        x = 0.5 * np.random.default_rng(n).standard_normal((n, d)).astype(dtype)
        want = [np.empty(n, dtype), np.empty((n, d), dtype)]
        getattr(_core, name)(x, *settings, *want)
        got = [_cuda.empty(list(w.shape), dtype) for w in want]
        there = [up(a) if isinstance(a, np.ndarray) else a for a in settings]
        getattr(_cuda, name)(up(x), *there, *got)
        alone = [_cuda.empty(list(w.shape), dtype) for w in want]
        getattr(_cuda, name)(up(x), *there, alone[0], None)
        getattr(_cuda, name)(up(x), *there, None, alone[1])
        for g, a, w in zip(got, alone, want, strict=True):
            g, a = down(g, w.shape, dtype), down(a, w.shape, dtype)
            if name == "logistic_regression":
                atol = eps * max(1, np.abs(w).max(initial=0))
                np.testing.assert_allclose(g, w, rtol=eps, atol=atol)
            else:
                np.testing.assert_array_equal(g, w)
            np.testing.assert_array_equal(a, g)


# ---- streams, threads, devices --------------------------------------------------------------------------------------


def test_work_waits_for_the_stream_it_is_on():
    """On a side stream behind a long kernel: what was queued before is seen, and nothing waits for it on the host."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch: no CUDA")
    x = torch.zeros((1 << 20, 4), device="cuda")
    stream = torch.cuda.Stream()

    def queue_up(cycles):
        torch.cuda._sleep(cycles)
        x.fill_(3.0)
        return mk.combine([2.0], [x]), mk.random.normal(1, 1 << 20, like=x)

    with torch.cuda.stream(stream):
        queue_up(1)  # loads kernels and takes memory, both of which may wait
        x.zero_()
        stream.synchronize()
        y, z = queue_up(100_000_000)
        still_busy = not stream.query()
    stream.synchronize()
    assert still_busy
    assert (y == 6.0).all()
    same_bits(z.cpu().numpy(), mk.random.normal(1, 1 << 20))


def test_cupy_streams():
    cupy = pytest.importorskip("cupy")
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.full((1 << 20, 2), 3.0)
        y = mk.combine([2.0], [x])
    stream.synchronize()
    assert bool((y == 6.0).all())


def test_gradients_are_refused():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch: no CUDA")
    with pytest.raises(ValueError, match="requires grad"):
        mk.combine([1.0], [torch.zeros(3, device="cuda", requires_grad=True)])


def test_many_threads_at_once():
    want = mk.random.normal(2, 30_000)
    wrong = []

    def work():
        for _ in range(5):
            z = mk.random.normal(2, 30_000, device="cuda")
            if not np.array_equal(z, want):
                wrong.append(z)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_every_device_gives_the_same():
    want = mk.random.normal(6, (100, 3))
    for device in range(len(_cuda.devices())):
        same_bits(mk.random.normal(6, (100, 3), device=f"cuda:{device}"), want)
        x = up(want, device)
        assert x.__dlpack_device__() == (2, device)
        out = _cuda.empty([100, 3], "float64", device)
        _cuda.combine([out], [x], np.array([[2.0]]), [], np.zeros(1), [], 100, 3, 0, 0, 0)
        same_bits(down(out, (100, 3), "float64"), 2.0 * want)
    assert _cuda.empty([1], "uint8").__dlpack_device__() == (2, 0)
