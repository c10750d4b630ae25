"""Compiled drift and diffusion: addresses out of SciPy's, numba's and ctypes' function objects."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mckean._array import as_input, to_numpy

__all__ = ["SIGNATURE", "Compiled", "compiled"]

SIGNATURE = "void (double t, const double* y, double* out, void* user)"
_PLAIN = ("double", "double*", "double*")  # and a pointer of any kind
_PROTOTYPE = ctypes.CFUNCTYPE(
    None, ctypes.c_double, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)
_POINTER: Any = _PROTOTYPE.__mro__[1]  # the base of ctypes' function pointers


@dataclass(frozen=True)
class Compiled:
    """A C function by its address, the address it is given as `user`, and what must stay alive for both."""

    address: int
    user: int
    keep: Any = field(repr=False, compare=False)

    def batch(self, dim: int | None, width: tuple[int, ...]) -> CompiledBatch:
        """The function over a batch (n, dim), with results (n, dim, *width)."""
        assert dim is not None
        return CompiledBatch(self, dim, width)


class CompiledBatch:
    """What solvers without native code call: the compiled function, path by path, on float64 arrays of the CPU."""

    def __init__(self, code: Compiled, dim: int, width: tuple[int, ...]) -> None:
        self.code, self.dim, self.width = code, dim, width
        self._call = _PROTOTYPE(code.address)

    def __call__(self, t: Any, y: Any) -> Any:
        y = as_input(y, "y0")
        if y.dtype != "float64" or y.device != "cpu":
            raise TypeError(
                f"y0: expected float64 on the CPU for compiled code, got {y.dtype} on {y.device}"
            )
        if len(y.shape) != 2 or y.shape[1] != self.dim:
            raise ValueError(f"y0: expected shape (n, {self.dim}) to match dim, got {y.shape}")
        n, framework = y.shape[0], y.framework
        out = framework.empty((n, self.dim, *self.width), "float64")
        times = t if isinstance(t, (int, float)) else to_numpy(t)
        times = np.broadcast_to(np.asarray(times, np.float64), (n,))
        here, there = framework.address(y.data), framework.address(out.data)
        step_in, step_out = 8 * self.dim, 8 * self.dim * math.prod(self.width)
        for i, time in enumerate(times.tolist()):
            self._call(time, here + i * step_in, there + i * step_out, self.code.user)
        return out.result()


def compiled(function: Any, name: str) -> Compiled | None:
    """The address of a `scipy.LowLevelCallable`, numba ``cfunc`` or ctypes function pointer; None for anything else.

    Raises TypeError if it is one of them but has another signature.
    """
    kind = type(function)
    if kind.__name__ == "LowLevelCallable" and kind.__module__.startswith("scipy"):
        return _from_capsule(function, name)
    if hasattr(function, "address") and hasattr(function, "ctypes"):
        signature = getattr(function, "_sig", None)
        if signature is not None:
            _check([_numba_type(a) for a in signature.args], str(signature.return_type), name)
        else:
            _check_pointer(function.ctypes, name)
        return Compiled(int(function.address), 0, function)
    if isinstance(function, _POINTER):
        _check_pointer(function, name)
        address = ctypes.cast(function, ctypes.c_void_p).value
        if not address:
            raise ValueError(f"{name}: expected the address of a function, got NULL")
        return Compiled(address, 0, function)
    return None


def _from_capsule(function: Any, name: str) -> Compiled:
    """SciPy holds the function in a capsule, whose name is the signature and whose context is the user data."""
    capsule, api = tuple.__getitem__(function, 0), ctypes.pythonapi
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    context = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyCapsule_GetContext", api))
    text = get_name(capsule)
    result, _, rest = (text or b"").decode().partition("(")
    _check([_c_type(a) for a in rest.rstrip(") ").split(",")], result.strip(), name)
    return Compiled(int(pointer(capsule, text)), int(context(capsule) or 0), function)


def _check_pointer(function: Any, name: str) -> None:
    arguments = function.argtypes
    if arguments is None:
        raise TypeError(
            f"{name}: expected a function pointer with argtypes set, for {SIGNATURE}, got none"
        )
    result = "void" if function.restype is None else _ctypes_type(function.restype)
    _check([_ctypes_type(a) for a in arguments], result, name)


def _check(arguments: list[str], result: str, name: str) -> None:
    fits = len(arguments) == 4 and tuple(arguments[:3]) == _PLAIN and arguments[3].endswith("*")
    if not fits or result not in ("void", "none"):
        raise TypeError(f"{name}: expected {SIGNATURE}, got {result} ({', '.join(arguments)})")


def _c_type(text: str) -> str:
    words = [w for w in text.replace("*", " * ").split() if w != "const"]
    if words and words[-1] != "*" and len(words) > 1:  # the argument's name
        words = words[:-1]
    return "".join(words)


def _ctypes_type(kind: Any) -> str:
    if kind is ctypes.c_double:
        return "double"
    if kind is ctypes.c_void_p:
        return "void*"
    inner = getattr(kind, "_type_", None)
    if isinstance(inner, type) and issubclass(kind, ctypes._Pointer):
        return _ctypes_type(inner) + "*"
    return str(getattr(kind, "__name__", kind))


def _numba_type(kind: Any) -> str:
    text = str(kind)
    if text in ("voidptr", "void*", "none*"):
        return "void*"
    if text.endswith("*"):
        return text[:-1].replace("float64", "double") + "*"
    return {"float64": "double"}.get(text, text)
