"""Reading arguments of every framework in place, and refusing the rest by name."""

import array
import subprocess
import sys

import numpy as np
import pytest

import mckean as mk
from mckean import _array, _dispatch
from mckean._errors import as_count, as_seed, positive


def address(xp, x):
    if xp.name == "torch":
        return x.data_ptr()
    if xp.name == "jax":
        return x.unsafe_buffer_pointer()
    return x.ctypes.data if xp.name == "numpy" else x.data.ptr


def test_contiguous_input_is_read_in_place(xp, dtype):
    x = xp.asarray(np.arange(12, dtype=dtype).reshape(4, 3))
    got = _array.as_input(x, "x", shape=("n", "d"))
    assert got.framework.address(got.data) == address(xp, x)
    assert (got.shape, got.dtype, got.framework.name) == ((4, 3), dtype, xp.name)
    assert got.array is x
    assert got.device == ("cuda:0" if xp.name == "cupy" else "cpu")


def test_strided_input_is_copied_once_and_not_modified(xp, dtype):
    base = xp.asarray(np.arange(24, dtype=dtype).reshape(4, 6))
    got = _array.as_input(base[:, ::2], "x")
    assert (xp.to_numpy(got.array) == np.arange(24, dtype=dtype).reshape(4, 6)[:, ::2]).all()
    assert type(got.array) is type(base)
    out = mk.combine([1.0], [base[:, ::2]])
    assert (xp.to_numpy(out) == np.arange(24).reshape(4, 6)[:, ::2]).all()


def test_integers_become_float64(xp):
    for kind in ("int8", "int32", "int64", "uint8"):
        got = _array.as_input(xp.asarray(np.arange(6).astype(kind)), "x")
        assert got.dtype == "float64" and xp.dtype(got.array) == "float64"
    assert _array.as_input(xp.asarray(np.arange(3)), "x", dtype="float32").dtype == "float32"


@pytest.mark.parametrize("kind", ["bool", "complex128", "float16"])
def test_other_types_are_refused_by_name(xp, kind):
    with pytest.raises(TypeError, match=f"weights: expected float32 or float64, got {kind}"):
        _array.as_input(xp.asarray(np.ones(3).astype(kind)), "weights")


@pytest.mark.parametrize(
    "bad", ["text", None, object(), [[1.0], [1.0, 2.0]], np.longdouble([1.0]), ["a"]], ids=repr
)
def test_what_is_no_array_is_a_type_error(bad):
    with pytest.raises(TypeError, match=r"^x: "):
        _array.as_input(bad, "x")


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="masked"):
        _array.as_input(np.ma.masked_array([1.0, 2.0], [True, False]), "x")


def test_lists_and_buffers_count_as_numpy():
    assert _array.as_input([[1, 2], [3, 4]], "x").dtype == "float64"
    buffer = array.array("d", [1.0, 2.0])
    got = _array.as_input(buffer, "x")
    assert got.data.ctypes.data == buffer.buffer_info()[0]
    assert _array.as_input(memoryview(buffer), "x").shape == (2,)


def test_a_foreign_dlpack_object_is_read_in_place():
    class Foreign:
        def __init__(self, a):
            self.a = a

        def __dlpack__(self, **kwargs):
            return self.a.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.a.__dlpack_device__()

    a = np.arange(4.0)
    assert _array.as_input(Foreign(a), "x").data.ctypes.data == a.ctypes.data


def test_read_only_byte_swapped_and_misaligned_numpy():
    x = np.arange(6.0)
    x.flags.writeable = False
    assert _array.as_input(x, "x").data is x
    assert (mk.combine([2.0], [x]) == 2 * x).all()
    assert (_array.as_input(x.astype(">f8"), "x").data == x).all()
    raw = np.zeros(49, np.uint8)
    odd = raw[1:].view(np.float64)
    assert _array.as_input(odd, "x").data.flags.aligned


def test_shape_errors_say_expected_and_got():
    with pytest.raises(
        ValueError, match=r"^y: expected shape \(m, 3\) to match x \(100, 3\), got \(50, 2\)$"
    ):
        _array.as_input(np.zeros((50, 2)), "y", shape=("m", 3), match="x (100, 3)")
    with pytest.raises(ValueError, match=r"^w: expected shape \(n,\), got \(2, 2\)$"):
        _array.as_input(np.zeros((2, 2)), "w", shape=("n",))


def test_match_compares_framework_dtype_and_shape():
    torch = pytest.importorskip("torch")
    x = _array.as_input(np.zeros((2, 3)), "x")
    with pytest.raises(TypeError, match="y: expected a numpy array to match x, got torch"):
        _array.as_match(torch.zeros(2, 3), "y", x, "x")
    with pytest.raises(TypeError, match=r"y: expected float64 to match x \(2, 3\), got float32"):
        _array.as_match(np.zeros((2, 3), np.float32), "y", x, "x")


def test_torch_gradients_are_never_dropped_silently():
    torch = pytest.importorskip("torch")
    x = torch.zeros(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"pass x.detach\(\)"):
        _array.as_input(x, "x")
    with pytest.raises(ValueError, match="detach"):
        _array.as_input(torch.nn.Parameter(torch.zeros(3)), "x")


def test_jax_tracers_are_refused():
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: mk.combine([1.0], [x]))(jax.numpy.ones(3))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (5,), (3, 4), (2, 3, 4)])
def test_outputs_are_the_users_arrays(xp, dtype, shape):
    if xp.name == "cupy":
        pytest.skip("cupy: written on the device")
    framework = _array.FRAMEWORKS[xp.name]
    out = framework.empty(shape, dtype)
    values = np.arange(int(np.prod(shape)), dtype=dtype).reshape(shape)
    np.asarray(out.data)[...] = values
    start = framework.address(out.data)
    result = out.result()
    assert out.data is None
    assert (xp.to_numpy(result) == values).all() and xp.dtype(result) == dtype
    if values.size:
        assert address(xp, result) == start  # shared, not copied


def test_jax_results_keep_their_memory_alive(xp):
    """Many results, each from a buffer nobody else holds, stay what they were."""
    results = [mk.random.normal(s, (257, 3), like=xp.name) for s in range(50)]
    for seed, x in enumerate(results):
        assert (xp.to_numpy(x) == mk.random.normal(seed, (257, 3))).all()


def test_jax_without_x64_says_so():
    pytest.importorskip("jax")
    code = (
        "import mckean as mk\n"
        "mk.random.normal(0, 3, like='jax', dtype='float32')\n"
        "try: mk.random.normal(0, 3, like='jax')\n"
        "except TypeError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jax_enable_x64" in done.stdout


def test_nan_is_reported_with_number_and_place(xp):
    x = np.zeros((4, 3))
    x[1, 2], x[3, 0] = np.nan, np.inf
    checked = _array.as_input(xp.asarray(x), "scores")
    with pytest.raises(
        ValueError, match=r"scores: .* got 2 NaN or infinite, first at index \(1, 2\)"
    ):
        _array.check_finite(checked, "scores")
    assert _array.nonfinite_rows(checked) == 2
    big = _array.as_input(
        xp.asarray(np.full(4, 1e308)), "x"
    )  # the sum overflows, the values do not
    _array.check_finite(big, "x")
    with pytest.raises(ValueError, match="first at index 0"):
        _array.check_finite(_array.as_input([np.nan], "x"), "x")


def test_like_names_frameworks():
    assert _array.like(None)[0].name == "numpy"
    assert _array.like("torch") == (_array.FRAMEWORKS["torch"], "cpu")
    assert _array.like([1.0])[0].name == "numpy"
    with pytest.raises(ValueError, match="like: expected an array or one of"):
        _array.like("tensorflow")


def test_dtype_names():
    torch = pytest.importorskip("torch")
    for given in ("float32", np.float32, np.dtype("f4"), torch.float32, "f4"):
        assert _array.dtype_name(given) == "float32"
    assert _array.dtype_name(float) == "float64"
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        _array.dtype_name("int32")


def test_import_is_light():
    code = (
        "import sys, mckean\n"
        "print([m for m in ('torch', 'jax', 'cupy', 'matplotlib', 'arviz') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_cuda_says_why():
    core = _dispatch.executor("cpu")
    assert core.__name__ == "mckean._core"
    module, _ = _dispatch._cuda()
    if module is not None and not module.device_status():
        pytest.skip("cuda: available here")
    with pytest.raises(mk.DeviceError, match=r"device 'cuda:0' is not available: .+"):
        _dispatch.executor("cuda:0")
    with pytest.raises(mk.DeviceError):
        mk.random.normal(0, 3, device="cuda")
    assert issubclass(mk.DeviceError, RuntimeError)


def test_unusable_cuda_module_says_why(monkeypatch):
    class Fake:
        reason = "no driver"

        def device_status(self):
            return self.reason

        def device_count(self):
            return 1

    monkeypatch.setattr(_dispatch, "_cuda", lambda: (Fake(), ""))
    with pytest.raises(mk.DeviceError, match="no driver"):
        _dispatch.executor("cuda")
    monkeypatch.setattr(Fake, "reason", "")
    assert isinstance(_dispatch.executor("cuda:0"), Fake)
    with pytest.raises(mk.DeviceError, match=r"found 1 CUDA device"):
        _dispatch.executor("cuda:3")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "", 0])
def test_unknown_devices_are_refused(device):
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or"):
        _dispatch.parse_device(device)


def test_number_of_threads():
    before = mk.get_num_threads()
    try:
        mk.set_num_threads(3)
        assert mk.get_num_threads() == 3
    finally:
        mk.set_num_threads(before)
    for bad, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^n: "):
            mk.set_num_threads(bad)


def test_seeds():
    assert as_seed(2**64 - 1) == 2**64 - 1
    assert as_seed(np.uint64(2**64 - 1)) == 2**64 - 1
    sequence = np.random.SeedSequence(5)
    assert as_seed(sequence) == int(np.random.SeedSequence(5).generate_state(1, np.uint64)[0])
    for bad, error in (
        (-1, ValueError),
        (2**64, ValueError),
        (True, TypeError),
        (1.0, TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error, match=r"^seed: "):
            as_seed(bad)


def test_checks_name_the_argument():
    assert positive(np.float32(0.5), "h") == 0.5
    for bad, error in (
        (0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match=r"^h: "):
            positive(bad, "h")
    with pytest.raises(ValueError, match=r"n: expected an integer of at least 0 and below 2\*\*60"):
        as_count(2**60, "n", below=1 << 60)
