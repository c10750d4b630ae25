"""The one place that knows frameworks: recognise an array, read it in place, allocate and wrap
results.

PyTorch, JAX and CuPy are recognised by the module names of a type's bases, so none of them is
imported unless the caller already uses it. Anything else that speaks the buffer protocol or DLPack
becomes NumPy (on the CPU) or CuPy.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._errors import DeviceError, OutOfRange

__all__ = [
    "DEVICE_MEMORY",
    "FRAMEWORKS",
    "Framework",
    "Input",
    "Output",
    "as_input",
    "as_match",
    "as_output",
    "check_finite",
    "check_size",
    "dtype_name",
    "framework_of",
    "is_array",
    "largest",
    "like",
    "nonfinite_rows",
    "to_numpy",
]

Shape = Sequence["int | str | None"]
Match = str | tuple[str, tuple[int, ...]]
_INTEGERS = frozenset(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64))
_READABLE = _INTEGERS | {"float32", "float64"}


@dataclass(slots=True)
class Input:
    """A checked array argument: `data` for native code, `array` for the caller's own functions."""

    data: Any
    array: Any
    shape: tuple[int, ...]
    dtype: str
    device: str
    framework: Framework


@dataclass(slots=True)
class Output:
    """A result being written: native code fills `data`, `result` hands it over, once."""

    data: Any
    wrap: Callable[[Any], Any] | None = None

    def result(self) -> Any:
        # The buffer is given away: a JAX array may share it and must never see another write.
        data, self.data = self.data, None
        return data if self.wrap is None else self.wrap(data)


class Framework:
    """NumPy, and what the others have in common with it."""

    name = "numpy"
    has_cuda = False

    def adopt(self, x: Any, name: str) -> Any:
        """Return `x` as this framework's array; raise TypeError where that is impossible."""
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                f"{name}: masked arrays are not supported, fill or drop the masked entries"
            )
        if isinstance(x, np.ndarray):
            a = np.asarray(x)
        else:
            try:
                a = np.asarray(x)
            except ValueError as error:
                raise TypeError(f"{name}: expected a rectangular array, {error}") from None
        return (
            a
            if a.dtype.isnative or a.dtype.kind not in "fiu"
            else a.astype(a.dtype.newbyteorder("="))
        )

    def dtype(self, a: Any) -> str:
        return _dtype_text(a.dtype)

    def device(self, a: Any, name: str) -> str:
        return "cpu"

    def cast(self, a: Any, dtype: str) -> Any:
        return a.astype(dtype)

    def contiguous(self, a: Any) -> Any:
        flags = a.flags
        return a if flags.c_contiguous and flags.aligned else np.array(a, order="C")

    def native(self, a: Any, device: str) -> Any:
        """What native code reads for the contiguous array `a`, without a copy."""
        return a

    def address(self, data: Any) -> int:
        return int(data.ctypes.data)

    def writable(self, a: Any) -> bool:
        return bool(a.flags.writeable)

    def empty(self, shape: Sequence[int], dtype: str, device: str = "cpu") -> Output:
        return Output(np.empty(tuple(shape), dtype))

    def asarray(self, a: Any, device: str = "cpu") -> Any:
        """A NumPy array as an array of this framework on `device`."""
        return a

    def to_numpy(self, a: Any) -> np.ndarray[Any, Any]:
        return np.asarray(a)

    def finite(self, data: Any) -> Any:
        return np.isfinite(data)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """Join along the first axis."""
        return np.concatenate(arrays)

    def row_max(self, a: Any) -> Any:
        """The maxima along the last axis."""
        return a.max(-1)

    def queue(self, device: str) -> int:
        """The CUDA stream this framework currently works on; 0 on the CPU."""
        return 0


class _Torch(Framework):
    name = "torch"
    has_cuda = True

    def adopt(self, x: Any, name: str) -> Any:
        if x.requires_grad:
            raise ValueError(f"{name}: the tensor requires grad, pass {name}.detach()")
        if x.layout != _torch().strided:
            raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")
        return x

    def device(self, a: Any, name: str) -> str:
        if a.device.type not in ("cpu", "cuda"):
            raise DeviceError(f"{name}: expected a tensor on cpu or cuda, got {a.device}")
        return "cpu" if a.device.type == "cpu" else f"cuda:{a.device.index}"

    def cast(self, a: Any, dtype: str) -> Any:
        return a.to(getattr(_torch(), dtype))

    def contiguous(self, a: Any) -> Any:
        return a.resolve_neg().contiguous()

    def address(self, data: Any) -> int:
        return int(data.data_ptr())

    def writable(self, a: Any) -> bool:
        return True

    def empty(self, shape: Sequence[int], dtype: str, device: str = "cpu") -> Output:
        torch = _torch()
        return Output(torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=device))

    def asarray(self, a: Any, device: str = "cpu") -> Any:
        return _torch().tensor(a, device=device)

    def to_numpy(self, a: Any) -> np.ndarray[Any, Any]:
        return np.asarray(a.detach().cpu().numpy())

    def finite(self, data: Any) -> Any:
        return _torch().isfinite(data)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        return _torch().cat(list(arrays))

    def row_max(self, a: Any) -> Any:
        return a.amax(-1)

    def queue(self, device: str) -> int:
        return 0 if device == "cpu" else int(_torch().cuda.current_stream(device).cuda_stream)


class _Cupy(Framework):
    name = "cupy"
    has_cuda = True

    def adopt(self, x: Any, name: str) -> Any:
        return x if hasattr(x, "flags") else _cupy().from_dlpack(x)

    def device(self, a: Any, name: str) -> str:
        return f"cuda:{a.device.id}"

    def contiguous(self, a: Any) -> Any:
        return _cupy().ascontiguousarray(a)

    def address(self, data: Any) -> int:
        return int(data.data.ptr)

    def writable(self, a: Any) -> bool:
        return True

    def empty(self, shape: Sequence[int], dtype: str, device: str = "cuda:0") -> Output:
        with _cupy().cuda.Device(_index(device)):
            return Output(_cupy().empty(tuple(shape), dtype))

    def asarray(self, a: Any, device: str = "cuda:0") -> Any:
        with _cupy().cuda.Device(_index(device)):
            return _cupy().asarray(a)

    def to_numpy(self, a: Any) -> np.ndarray[Any, Any]:
        return np.asarray(_cupy().asnumpy(a))

    def finite(self, data: Any) -> Any:
        return _cupy().isfinite(data)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        return _cupy().concatenate(list(arrays))

    def queue(self, device: str) -> int:
        with _cupy().cuda.Device(_index(device)):
            return int(_cupy().cuda.get_current_stream().ptr)


class _Jax(Framework):
    """JAX arrays are immutable: results are written elsewhere (aligned NumPy, CuPy) and shared by
    DLPack."""

    name = "jax"
    has_cuda = True

    def adopt(self, x: Any, name: str) -> Any:
        if any(base.__name__ == "Tracer" for base in type(x).__mro__):
            raise TypeError(f"{name}: got a traced JAX value, call this outside jit, vmap and grad")
        return x

    def device(self, a: Any, name: str) -> str:
        devices = list(a.devices())
        if len(devices) != 1:
            raise ValueError(f"{name}: expected an array on one device, got one on {len(devices)}")
        if devices[0].platform == "cpu":
            return "cpu"
        if devices[0].platform not in ("gpu", "cuda"):
            raise DeviceError(
                f"{name}: expected an array on cpu or cuda, got {devices[0].platform}"
            )
        return f"cuda:{devices[0].local_hardware_id or 0}"

    def cast(self, a: Any, dtype: str) -> Any:
        # Without jax_enable_x64 JAX has no float64; float32 is then what its own promotion gives.
        return a.astype("float32" if dtype == "float64" and not self._x64() else dtype)

    def contiguous(self, a: Any) -> Any:
        return a

    def native(self, a: Any, device: str) -> Any:
        return np.asarray(a) if device == "cpu" else a.block_until_ready()

    def address(self, data: Any) -> int:
        return int(
            data.ctypes.data if isinstance(data, np.ndarray) else data.unsafe_buffer_pointer()
        )

    def writable(self, a: Any) -> bool:
        return False

    def empty(self, shape: Sequence[int], dtype: str, device: str = "cpu") -> Output:
        if dtype == "float64" and not self._x64():
            raise TypeError("dtype: JAX has no float64 unless jax_enable_x64 is set, use float32")
        if device != "cpu":
            return Output(self._cuda_memory().empty(shape, dtype, device).data, self._share)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raw = np.empty(
            size + 64, np.uint8
        )  # JAX shares memory that is 64-byte aligned and copies the rest
        start = -raw.ctypes.data % 64
        out = raw[start : start + size].view(dtype).reshape(tuple(shape))
        if dtype == "int64" and not self._x64():  # JAX's integers then have 32 bits
            return Output(out, lambda data: _jax().numpy.asarray(data.astype(np.int32)))
        return Output(out, self._share)

    def asarray(self, a: Any, device: str = "cpu") -> Any:
        out = self.empty(a.shape, str(a.dtype), device)
        out.data[...] = a if device == "cpu" else FRAMEWORKS["cupy"].asarray(a, device)
        return out.result()

    def finite(self, data: Any) -> Any:
        return _jax().numpy.isfinite(data)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        return _jax().numpy.concatenate(list(arrays))

    def queue(self, device: str) -> int:
        return 0 if device == "cpu" else self._cuda_memory().queue(device)

    @staticmethod
    def _x64() -> bool:
        return bool(_jax().config.jax_enable_x64)

    @staticmethod
    def _share(data: Any) -> Any:
        if not isinstance(data, np.ndarray):
            _cupy().cuda.get_current_stream().synchronize()
        return _jax().dlpack.from_dlpack(data)

    @staticmethod
    def _cuda_memory() -> Framework:
        try:
            _cupy()
        except ImportError:
            raise DeviceError(
                "JAX arrays on CUDA need CuPy to hold results (pip install cupy)"
            ) from None
        return FRAMEWORKS["cupy"]


class _DeviceMemory(Framework):
    """CUDA memory for NumPy users: what is written there comes back as NumPy when it is handed
    over."""

    has_cuda = True

    def empty(self, shape: Sequence[int], dtype: str, device: str = "cuda:0") -> Output:
        cuda = _cuda()

        def fetch(data: Any) -> Any:
            host = np.empty(tuple(shape), dtype)
            cuda.to_host(data, host)
            return host

        return Output(cuda.empty(list(shape), dtype, _index(device)), fetch)

    def asarray(self, a: Any, device: str = "cuda:0") -> Any:
        return _cuda().to_device(a, _index(device))


@functools.lru_cache(maxsize=64)
def _dtype_text(dtype: Any) -> str:
    return str(dtype).rpartition(".")[2]


def _torch() -> Any:
    import torch

    return torch


def _jax() -> Any:
    import jax

    return jax


def _cupy() -> Any:
    import cupy

    return cupy


@functools.cache
def _core() -> Any:
    return importlib.import_module("mckean._core")


def _cuda() -> Any:
    return importlib.import_module("mckean._cuda")


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


FRAMEWORKS: dict[str, Framework] = {f.name: f for f in (Framework(), _Torch(), _Jax(), _Cupy())}
DEVICE_MEMORY: Framework = _DeviceMemory()


@functools.lru_cache(maxsize=256)
def _recognise(kind: Any) -> str | None:
    for base in kind.__mro__:
        root = base.__module__.partition(".")[0]
        root = "jax" if root == "jaxlib" else root
        if root in FRAMEWORKS:
            return root
    return None


def framework_of(x: Any) -> Framework:
    """The framework of an array; lists, buffers and CPU DLPack objects count as NumPy."""
    kind: Any = type(x)
    name = _recognise(kind)
    if name is None and hasattr(x, "__dlpack_device__"):
        on_host = int(x.__dlpack_device__()[0]) in (1, 3)  # CPU, pinned memory
        name = "numpy" if on_host else "cupy"
    return FRAMEWORKS[name or "numpy"]


def _fits(found: tuple[int, ...], shape: Shape) -> bool:
    if len(found) != len(shape):
        return False
    for want, got in zip(shape, found, strict=True):
        if want != got and isinstance(want, int):
            return False
    return True


def _expected(name: str, what: str, match: Match, got: Any) -> str:
    to = " to match " + (match if isinstance(match, str) else f"{match[0]} {match[1]}")
    return f"{name}: expected {what}{to if match else ''}, got {got}"


def as_input(
    x: Any, name: str, *, shape: Shape | None = None, dtype: str | None = None, match: Match = ""
) -> Input:
    """Check one array argument and make it readable by native code, without a copy where possible.

    `shape` holds sizes, and names or None for what is free; `match` names in errors what `shape`
    and `dtype` were taken from: "x (100, 3)", or a name and a shape. Integers become float64 (or
    `dtype`), other types raise TypeError.
    """
    framework = framework_of(x)
    if framework.name == "numpy" and not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    a = framework.adopt(x, name)
    found = tuple(a.shape)
    kind = framework.dtype(a)
    if kind not in _READABLE:
        raise TypeError(_expected(name, dtype or "float32 or float64", match, kind))
    if shape is not None and not (found == shape or _fits(found, shape)):
        inner = ", ".join("*" if s is None else str(s) for s in shape)
        inner = f"shape ({inner},)" if len(shape) == 1 else f"shape ({inner})"
        raise ValueError(_expected(name, inner, match, found))
    if kind in _INTEGERS and dtype != kind:
        a = framework.cast(a, dtype or "float64")
        kind = framework.dtype(a)
    if dtype is not None and kind != dtype:
        raise TypeError(_expected(name, dtype, match, kind))
    a = framework.contiguous(a)
    device = framework.device(a, name)
    return Input(framework.native(a, device), a, found, kind, device, framework)


def as_match(
    x: Any,
    name: str,
    reference: Input,
    reference_name: str,
    *,
    shape: Shape | None = None,
    any_float: bool = False,
) -> Input:
    """Like `as_input`, and of the framework, device, dtype (unless `any_float`) and (without
    `shape`) shape of `reference`."""
    if type(x) is not type(reference.array) and framework_of(x) is not reference.framework:
        want, got = reference.framework.name, framework_of(x).name
        raise TypeError(f"{name}: expected a {want} array to match {reference_name}, got {got}")
    shape = reference.shape if shape is None else shape
    match = (reference_name, reference.shape)
    dtype = None if any_float else reference.dtype
    out = as_input(x, name, shape=shape, dtype=dtype, match=match)
    if out.device != reference.device:
        raise ValueError(
            f"{name}: expected device {reference.device} to match {reference_name}, "
            f"got {out.device}"
        )
    return out


def _same_memory(a: Any, b: Any) -> bool:
    """Whether adopting the NumPy subclass `b` (a memory map) as `a` copied nothing."""
    return isinstance(b, np.ndarray) and a.ctypes.data == b.ctypes.data and a.strides == b.strides


def as_output(x: Any, name: str, reference: Input, reference_name: str) -> Output:
    """Check an array the caller wants written: like `reference`, C-contiguous and writable."""
    checked = as_match(x, name, reference, reference_name)
    if not reference.framework.writable(x):
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    if checked.array is not x and not _same_memory(checked.array, x):
        raise ValueError(
            f"{name}: expected a C-contiguous {reference.dtype} array, got one that needs a copy"
        )
    return Output(checked.data)


def dtype_name(dtype: Any, name: str = "dtype") -> str:
    """Return "float32" or "float64" from a string, a type, or a framework's dtype."""
    text = str(dtype).rpartition(".")[2] if not isinstance(dtype, type) else dtype.__name__
    text = {"float": "float64", "f4": "float32", "f8": "float64"}.get(text, text)
    if text not in ("float32", "float64"):
        raise TypeError(f"{name}: expected float32 or float64, got {dtype!r}")
    return text


def is_array(x: Any) -> bool:
    """Whether `x` is an array of a framework we know, not merely something with a shape and a dtype."""
    kind: type = type(x)
    return hasattr(x, "dtype") and hasattr(x, "shape") and _recognise(kind) is not None


def like(x: Any) -> tuple[Framework, str]:
    """Framework and device of `x`: an array, a framework's name, or None for NumPy."""
    if x is None:
        return FRAMEWORKS["numpy"], "cpu"
    if isinstance(x, str):
        if x not in FRAMEWORKS:
            raise ValueError(
                f"like: expected an array or one of {', '.join(FRAMEWORKS)}, got {x!r}"
            )
        return FRAMEWORKS[x], "cuda:0" if x == "cupy" else "cpu"
    if isinstance(x, (bool, int, float)):
        raise TypeError(
            f"like: expected an array or the name of a framework, got {type(x).__name__}"
        )
    framework = framework_of(x)
    return framework, framework.device(x, "like")


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """Copy (or on the CPU, view) an array of any framework as NumPy."""
    return framework_of(x).to_numpy(x)


def _host_view(x: Input) -> np.ndarray[Any, Any]:
    return np.asarray(x.data.numpy() if x.framework.name == "torch" else x.data)


def _all_finite(x: Input) -> bool:
    if x.device != "cpu":
        return bool(x.framework.finite(x.array).all())
    if x.dtype in ("float32", "float64"):
        return bool(_core().all_finite(x.data))
    return bool(np.isfinite(_host_view(x)).all())


def largest(x: Input, enough: float) -> float:
    """The largest absolute value of finite numbers, or `enough` if it is known to be no larger."""
    if 0 in x.shape:
        return 0.0
    if x.device != "cpu":
        return float(abs(x.array).max())
    # One cheap pass says it for all but the extremes.
    if _core().sum_of_squares(x.data) <= enough * enough:
        return enough
    return float(np.abs(_host_view(x)).max())


def check_size(x: Input, name: str, limit: float, what: str) -> None:
    """Raise ValueError if `x` holds NaN, infinity or numbers above `limit`, which `what` says the
    reason of; in one pass where all is well."""
    if 0 in x.shape:
        return
    if x.device == "cpu":
        if _core().sum_of_squares(x.data) <= limit * limit:
            return
        check_finite(x, name)
    top = largest(x, limit)
    if not top <= limit:
        check_finite(x, name)
        raise OutOfRange(f"{name}: expected numbers {what}, got one of size {top:.3g}", limit)


def check_finite(x: Input, name: str) -> None:
    """Raise ValueError if `x` holds NaN or infinity, saying how many and where the first one is."""
    if not _all_finite(x):
        bad = ~x.framework.to_numpy(x.framework.finite(x.array))
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        at = first[0] if len(first) == 1 else first
        raise ValueError(
            f"{name}: expected finite values, got {int(bad.sum())} NaN or infinite, "
            f"first at index {at}"
        )


def nonfinite_rows(x: Input) -> int:
    """How many rows (first axis) hold NaN or infinity."""
    if not x.shape[0] or _all_finite(x):
        return 0
    good = x.framework.to_numpy(x.framework.finite(x.array))
    return int((~good).reshape(x.shape[0], -1).any(axis=1).sum())
