"""The one place that knows devices: which native module works where, and how many threads it
uses."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from mckean import _array
from mckean._errors import DeviceError, as_count

__all__ = [
    "carrier",
    "cuda_status",
    "executor",
    "get_num_threads",
    "moved",
    "parse_device",
    "place",
    "set_num_threads",
]


@functools.cache
def _core() -> Any:
    return importlib.import_module("mckean._core")


@functools.cache
def _cuda() -> tuple[Any, str]:
    """The CUDA module, or None and the reason."""
    if importlib.util.find_spec("mckean._cuda") is None:
        return None, "this build of mckean has no CUDA executor (not built)"
    try:
        return importlib.import_module("mckean._cuda"), ""
    except ImportError as error:
        return None, f"the CUDA executor does not load: {error}"


def cuda_status() -> tuple[str, list[dict[str, Any]]]:
    """Return "available" or the reason why not, and the CUDA devices."""
    module, reason = _cuda()
    reason = reason or module.device_status()
    return (reason, []) if reason else ("available", list(module.devices()))


def parse_device(device: Any, name: str = "device") -> str:
    """Return "cpu" or "cuda:i" from "cpu", "cuda", "cuda:i" or a framework's own device object."""
    text = str(device)
    kind, colon, index = text.partition(":")
    if text == "cpu":
        return text
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise ValueError(f"{name}: expected 'cpu', 'cuda' or 'cuda:<index>', got {text!r}")
    return f"cuda:{int(index or 0)}"


def executor(device: str) -> Any:
    """Return the native module that works on `device`.

    Parameters
    ----------
    device : str
        "cpu", "cuda" or "cuda:<index>".

    Returns
    -------
    module
        ``mckean._core`` or ``mckean._cuda``; both offer the same functions.

    Raises
    ------
    DeviceError
        If the CUDA executor is asked for and cannot work; the message says why.
    ValueError
        If `device` is not the name of a device.
    """
    if device == "cpu":
        return _core()
    index = int(parse_device(device).partition(":")[2])
    module, reason = _cuda()
    reason = reason or module.device_status()
    if reason:
        raise DeviceError(f"device {device!r} is not available: {reason}")
    found = module.device_count()
    if index >= found:
        raise DeviceError(f"device {device!r} is not available: found {found} CUDA device(s)")
    return module


def carrier(framework: _array.Framework, device: str) -> _array.Framework:
    """The framework that holds arrays on `device` for a user of `framework`.

    NumPy has no device memory, so ``device="cuda"`` computes in memory of our own, whose content is
    then copied back.
    """
    return framework if device == "cpu" or framework.has_cuda else _array.DEVICE_MEMORY


def place(x: _array.Input, device: Any) -> tuple[_array.Framework, str]:
    """The framework that holds results and the device to compute on for a caller who has `x`.

    None is where `x` is; NumPy users may name a GPU.
    """
    if device is None:
        return x.framework, x.device
    wanted = parse_device(device)
    if wanted == x.device or (wanted == "cuda:0" and x.device.startswith("cuda")):
        return x.framework, x.device
    if x.framework.name != "numpy" or wanted == "cpu":
        raise ValueError(f"device: expected {x.device}, where x is, got {wanted}")
    executor(wanted)  # says why, where there is none
    return _array.DEVICE_MEMORY, wanted


def moved(x: _array.Input, memory: _array.Framework, device: str) -> Any:
    """What native code on `device` reads of `x`, for the `memory` and `device` of `place`."""
    return x.data if device == x.device else memory.asarray(x.data, device)


def set_num_threads(n: int) -> None:
    """Set how many threads native calls use on the CPU.

    Results do not depend on it. The environment variable ``MCKEAN_NUM_THREADS`` sets the initial
    value.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.set_num_threads(2)
    >>> mk.get_num_threads()
    2
    """
    _core().set_num_threads(as_count(n, "n", least=1, below=1 << 16))


def get_num_threads() -> int:
    """Return how many threads native calls use on the CPU.

    Returns
    -------
    int
    """
    return int(_core().num_threads())
