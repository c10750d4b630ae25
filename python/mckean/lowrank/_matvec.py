"""A user's matrix-vector product: which framework it speaks, and the checks of what it returns."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mckean import random
from mckean._array import (
    FRAMEWORKS,
    Framework,
    Input,
    as_input,
    dtype_name,
    framework_of,
    is_array,
    nonfinite_rows,
)
from mckean._array import like as place_like
from mckean._dispatch import executor, parse_device
from mckean._errors import as_count, nonnegative
from mckean.lowrank import _native

__all__ = ["Matvec", "start_vector"]

_STREAM = 0x6D61747665630000  # of mk.random: starts, then the second vector of the probe
# Relative errors of finite differences, and what the probe allows where products have such errors.
_DIFFERENCES = {"float64": 1e-8, "float32": 2e-4}
_ALLOWED = {"float64": 1e-4, "float32": 1e-2}
_ROUNDED = 2e-3  # products in float32, which may have cancelled inside
Place = tuple[Framework, str, str]  # framework, dtype, device


def start_vector(seed: int, d: int) -> np.ndarray[Any, Any]:
    """A random unit vector, float64."""
    z = np.asarray(random.normal(seed, d, stream=_STREAM))
    z /= math.sqrt(float(z @ z))
    return z


class _Refused(Exception):
    """A product did not take the vector it was given."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Matvec:
    """v -> A v in the framework, dtype and device of the product's own results.

    A callable shows at its first call what it speaks: it gets a NumPy vector, and where it refuses
    that, one of each framework that is loaded. What comes back decides; `like`, `dtype` and
    `device` name it beforehand. Vectors of native code ("data": NumPy for JAX on the CPU, CuPy for
    JAX on CUDA) go in and come out.

    Parameters
    ----------
    matvec : callable, matrix (d, d), or object with @ or a method matvec
    d : int
    like : array or str, optional
        Framework (and device, and dtype) of the vectors.
    dtype : dtype, optional
        Results of the other float type are then converted; else they are a TypeError.
    device : str, optional
    matmat : callable, optional
        (d, l) -> (d, l). Matrices and linear operators have it by themselves.
    fd : bool or float, optional
        Whether products are finite differences, or their relative error; by default the attribute
        `matvec_error` of `matvec`, or exact.
    """

    def __init__(
        self,
        matvec: Any,
        d: Any,
        *,
        like: Any = None,
        dtype: Any = None,
        device: Any = None,
        matmat: Any = None,
        fd: Any = None,
        name: str = "matvec",
    ) -> None:
        self.d = as_count(d, "d", least=1)
        self.name, self.calls = name, 0
        self._asked: str | None = None if dtype is None else dtype_name(dtype)
        self._device = None if device is None else parse_device(device)
        if self._device not in (None, "cpu"):
            executor(str(self._device))  # says why, where there is none
        self._like: Any = like
        if matmat is not None and not callable(matmat):
            raise TypeError(f"matmat: expected a callable, got {type(matmat).__name__}")
        self._matmat: Callable[[Any], Any] | None = matmat
        self._call: Callable[[Any], Any]
        self._place: Place | None = None
        self._first: tuple[Any, Any] | None = None
        self._guess: str | None = None
        self._understand(matvec)
        if self._place is None and like is not None:
            framework, home = place_like(like)
            kind = self._asked or (None if isinstance(like, str) else framework.dtype(like))
            if kind in ("float32", "float64"):
                self._settle((framework, kind, self._device or home))
        if fd is None:
            fd = getattr(matvec, "matvec_error", False)
        self._fd = fd if isinstance(fd, bool) else nonnegative(fd, "fd")

    # ---- what it is

    def _understand(self, matvec: Any) -> None:
        shape = getattr(matvec, "shape", None)
        if isinstance(shape, tuple) and (len(shape) != 2 or shape != (self.d, self.d)):
            raise ValueError(
                f"{self.name}: expected shape (d, d) = ({self.d}, {self.d}), got {tuple(shape)}"
            )
        matrix = is_array(matvec)
        if matrix or (shape is not None and hasattr(matvec, "__matmul__")):
            self._call = lambda v: matvec @ v
            self._matmat = self._matmat or self._call
        elif callable(matvec):
            self._call = matvec
        elif hasattr(matvec, "matvec"):
            self._call = matvec.matvec
        else:
            raise TypeError(
                f"{self.name}: expected a callable, a matrix or a linear operator, "
                f"got {type(matvec).__name__}"
            )
        if matrix:
            self._settle(self._of_matrix(matvec))
        elif shape is not None:
            # Sparse matrices and linear operators of SciPy name the type of their numbers.
            kind = str(getattr(matvec, "dtype", None) or "float64").rpartition(".")[2]
            if kind.startswith(("complex", "object")):
                raise TypeError(f"{self.name}: expected float32 or float64, got {kind}")
            self._guess = "float32" if kind == "float32" else None

    def _of_matrix(self, matrix: Any) -> Place:
        framework = framework_of(matrix)
        if self._like is not None and place_like(self._like)[0] is not framework:
            raise TypeError(f"like: expected an array of {framework.name}, as {self.name} is")
        a = framework.adopt(matrix, self.name)
        found = framework.dtype(a)
        if found not in ("float32", "float64") and "int" not in found:
            raise TypeError(f"{self.name}: expected float32 or float64, got {found}")
        dtype = self._asked or (found if "int" not in found else "float64")
        if dtype != found and framework.name != "numpy":  # the others do not mix dtypes
            a = framework.cast(a, dtype)
            dtype = framework.dtype(a)
            self._call = self._matmat = lambda v: a @ v
        return framework, dtype, framework.device(a, self.name)

    def _settle(self, place: Place) -> None:
        framework, dtype, device = place
        if self._device not in (None, device) and not (
            self._device == "cuda:0" and device.startswith("cuda")
        ):
            raise ValueError(
                f"device: expected {device}, where the vectors of {self.name} are, "
                f"got {self._device}"
            )
        self._place = place
        self._plain = framework.name == "numpy"
        self._numpy_dtype, self._shape = np.dtype(dtype), (self.d,)

    def _candidates(self) -> Iterator[Place]:
        """What to try at the first call, the likeliest first."""
        dtype = self._asked or self._guess
        if self._like is not None:
            framework, device = place_like(self._like)
            devices = [self._device or device]
            frameworks = [framework]
        else:
            names = [n for n in ("torch", "jax", "cupy") if n in sys.modules]
            frameworks, devices = [FRAMEWORKS[n] for n in ("numpy", *names)], []
        # NumPy and CuPy promote, so that float64 is enough, unless the product hands on to others.
        last = []
        for framework in frameworks:
            for device in devices or self._devices(framework):
                for kind in (dtype,) if dtype else ("float64", "float32"):
                    if kind == "float32" and not dtype and framework.name in ("numpy", "cupy"):
                        last.append((framework, kind, device))
                    else:
                        yield framework, kind, device
        yield from last

    def _devices(self, framework: Framework) -> list[str]:
        if self._device is not None:
            if self._device != "cpu" and framework.name == "numpy":
                return []
            return [self._device]
        if framework.name == "torch":
            cuda = sys.modules["torch"].cuda
            current = [f"cuda:{cuda.current_device()}"] if cuda.is_initialized() else []
            return ["cpu", *current]
        if framework.name == "jax":
            kind = sys.modules["jax"].default_backend()
            return ["cpu"] if kind == "cpu" else ["cuda:0"]
        return ["cpu"] if framework.name == "numpy" else ["cuda:0"]

    def settle(self, start: np.ndarray[Any, Any] | None = None) -> tuple[Any, Any]:
        """Find the place with a first product, of `start` (float64); returns both, as data.

        The product may lie in the caller's own memory until the next one.
        """
        if start is None:
            if self._first is None:
                self._first = self.settle(start_vector(0, self.d))
            return self._first
        if self._place is not None:
            v = self.own(start)
            return v, self.product(self.show(v))
        v, w = self._meet(start)
        return v, w.data

    def _meet(self, start: np.ndarray[Any, Any]) -> tuple[Any, Input]:
        errors: list[tuple[str, Exception]] = []
        for place in self._candidates():
            try:
                v, result, found = self._try(place, start)
                if found != place:  # what came back is what it speaks, or else it fails now
                    v, result, found = self._try(found, start)
            except _Refused as refused:
                framework, dtype, device = place
                errors.append((f"{framework.name} {dtype} {device}", refused.error))
                continue
            self._settle(found)
            return v, self._checked(result)
        if not errors:
            raise ValueError(
                f"device: vectors of NumPy are on the CPU, got {self._device}; name another "
                f"framework with like="
            )
        if len(errors) == 1:
            raise errors[0][1] from None
        tried = "; ".join(f"{where}: {error}" for where, error in errors)
        raise TypeError(
            f"{self.name}: refused every vector that was tried ({tried}); like= names the framework"
        ) from errors[0][1]

    def _try(self, place: Place, start: np.ndarray[Any, Any]) -> tuple[Any, Any, Place]:
        """A vector, the product and where that is."""
        try:
            v = _own(place, start)
            self.calls += 1
            with warnings.catch_warnings():
                # PyTorch converts vectors of NumPy, which are read-only, with these.
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.filterwarnings("ignore", ".*not writable", UserWarning)
                result = self._call(_show(place, v))
        except (TypeError, AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
            if "read-only" in str(error):  # it writes to its argument: no matter of frameworks
                raise
            raise _Refused(error) from error
        w = self._read(result)
        if self._like is not None and w.framework is not place[0]:
            raise TypeError(
                f"{self.name}: expected an array of {place[0].name}, as like= says, "
                f"got one of {w.framework.name}"
            )
        dtype = self._asked or (place[1] if _integer(result) else w.dtype)
        return v, result, (w.framework, dtype, w.device)

    @property
    def _settled(self) -> Place:
        if self._place is None:
            self.settle()
        assert self._place is not None
        return self._place

    @property
    def framework(self) -> Framework:
        return self._settled[0]

    @property
    def dtype(self) -> str:
        return self._settled[1]

    @property
    def device(self) -> str:
        return self._settled[2]

    @property
    def place(self) -> tuple[Framework, str]:
        framework, _, device = self._settled
        return framework, device

    @property
    def eps(self) -> float:
        return float(np.finfo(self.dtype).eps)

    @property
    def itemsize(self) -> int:
        """Bytes of a number; 4 while that is not known."""
        return np.dtype(self._place[1] if self._place else "float32").itemsize

    @property
    def error(self) -> float:
        """Relative error of the products beyond rounding."""
        if isinstance(self._fd, bool):
            return _DIFFERENCES[self.dtype] if self._fd else 0.0
        return float(self._fd)

    # ---- vectors

    def empty(self, shape: tuple[int, ...]) -> Any:
        """An output of the framework; its `.data` is for native code."""
        framework, dtype, device = self._settled
        return framework.empty(shape, dtype, device)

    def own(self, source: Any) -> Any:
        """A NumPy array as data of the framework."""
        return _own(self._settled, source)

    def show(self, v: Any) -> Any:
        """What the user's function is given for data: nothing it could write through."""
        return _show(self._settled, v)

    def shower(self, basis: Any) -> Callable[[int], Any]:
        """row number -> what the user's function is given for that row of the basis."""
        if self.framework.name == "numpy":
            view: Any = self.show(basis)
            shown: Callable[[int], Any] = view.__getitem__
            return shown
        return lambda n: self.show(basis[n])

    # ---- products

    def product(self, v: Any) -> Any:
        """A v as data, which may be the caller's own memory; v as `show` gives it. Values are not
        looked at."""
        self.calls += 1
        w = self._call(v)
        if (
            self._plain
            and type(w) is np.ndarray
            and w.dtype is self._numpy_dtype
            and w.shape == self._shape
            and w.flags.c_contiguous
        ):
            return w
        return self._checked(w).data

    def __call__(self, v: Any) -> Input:
        """A v for data v, every value of it finite."""
        if self._place is None:
            w = self._meet(v)[1]
        else:
            if isinstance(v, np.ndarray) and self._place[0].name not in ("numpy", "jax"):
                v = self.own(v)
            self.calls += 1
            w = self._checked(self._call(self.show(v)))
        if nonfinite_rows(w):
            self.not_finite()
        return w

    def not_finite(self) -> None:
        raise FloatingPointError(
            f"{self.name}: product {self.calls} holds NaN, infinity or numbers too large to square"
        )

    def rows(self, X: Any) -> Any:
        """A x for every row x of data X (l, d), as new data (l, d)."""
        out = self.empty(tuple(X.shape)).data
        if self._matmat is None:
            for i in range(X.shape[0]):
                out[i] = self.product(self.show(X[i]))
        else:
            out[...] = self._block(self.show(X).T).T
        return out

    def matmat(self, X: Any) -> Any:
        """A X for data X (d, l), as new data (d, l), every value of it finite."""
        out = self.empty(tuple(X.shape)).data
        if self._matmat is None:
            for i in range(X.shape[1]):
                out[:, i] = self(_column(X, i)).data
        else:
            out[...] = self._block(self.show(X))
            whole = as_input(out, self.name)
            if nonfinite_rows(whole):
                self.not_finite()
        return out

    def _block(self, X: Any) -> Any:
        self.calls += X.shape[1]
        assert self._matmat is not None
        return self._checked(self._matmat(X), (self.d, X.shape[1])).data

    def _read(self, w: Any, shape: tuple[int, ...] | None = None) -> Input:
        if getattr(w, "requires_grad", False):
            w = w.detach()
        found = getattr(w, "shape", None)
        if shape is None and found is not None and tuple(found) == (self.d, 1):
            w = w.reshape(self.d)
        return as_input(w, self.name, shape=shape or (self.d,))

    def _checked(self, result: Any, shape: tuple[int, ...] | None = None) -> Input:
        framework, dtype, device = self._settled
        w = self._read(result, shape)
        if w.framework is not framework:
            raise TypeError(
                f"{self.name}: expected an array of {framework.name} like that of the first "
                f"product, got one of {w.framework.name}"
            )
        if w.device != device:
            raise ValueError(f"{self.name}: expected device {device}, got {w.device}")
        if w.dtype == dtype:
            return w
        if self._asked is None and not _integer(result):
            raise TypeError(
                f"{self.name}: expected {dtype} for a vector of {dtype}, got {w.dtype}; "
                f"dtype= converts"
            )
        return as_input(framework.cast(w.array, dtype), self.name)

    # ---- the probe

    def check_symmetry(self, x: Any, Ax: Any, seed: int) -> None:
        """Raise ValueError unless y . A x = x . A y for a unit vector x and a random y, up to rounding."""
        if not math.isfinite(self.dot(Ax, Ax)):
            self.not_finite()
        z = np.asarray(random.uniform(seed, self.d, stream=_STREAM + 1)) - 0.5
        z /= math.sqrt(float(z @ z))
        y = self.own(z)
        both = self.empty((2, self.d)).data  # x and A y
        both[0] = x
        both[1] = self.product(self.show(y))
        (right,), (square,) = _native.gram(
            both, both[1:], self.place, a_rows=True, b_rows=True
        ).tolist()
        left, size = self.dot(y, Ax), math.sqrt(max(square, 0.0))
        if not math.isfinite(size):
            self.not_finite()
        root = math.sqrt(self.d)
        if self.dtype == "float64" and not self.error:
            allowed = 1e3 * 2.0**-52 * root
        else:
            # Errors have no preferred direction: their part along x falls with the dimension, like
            # that of what is not symmetric.
            usual = _ALLOWED[self.dtype] if self.error else _ROUNDED
            allowed = max(usual, 10 * self.error) * min(1.0, 10.0 / root)
        if abs(left - right) > allowed * size:
            if size < 1e-150:
                raise ValueError(
                    f"{self.name}: expected a larger scale, products are too small to square"
                )
            raise ValueError(
                f"{self.name}: expected a symmetric matrix, got y.Ax = {left:.9g} and "
                f"x.Ay = {right:.9g} for random unit vectors (|Ay| = {size:.3g}); check=False "
                f"accepts it"
            )

    def own_data(self, w: Any) -> Any:
        """A copy of data."""
        out = self.empty(tuple(w.shape)).data
        out[...] = w
        return out

    def dot(self, x: Any, y: Any) -> float:
        rows = {"a_rows": True, "b_rows": True}
        return float(_native.gram(x.reshape(1, -1), y.reshape(1, -1), self.place, **rows)[0, 0])


def _integer(result: Any) -> bool:
    """Whether a product has no float type of its own: integers, and lists of Python."""
    return "float" not in str(getattr(result, "dtype", ""))


def _own(place: Place, source: Any) -> Any:
    framework, dtype, device = place
    out = framework.empty(tuple(source.shape), dtype, device).data
    if isinstance(out, np.ndarray):
        out[...] = source
    else:
        out[...] = framework_of(out).asarray(source, device)
    return out


def _show(place: Place, v: Any) -> Any:
    framework, _, device = place
    if framework.name == "numpy":
        view = v.view()
        view.flags.writeable = False
        return view
    if framework.name == "jax":
        return framework.asarray(v, device)
    return v.clone() if hasattr(v, "clone") else v.copy()


def _column(X: Any, i: int) -> Any:
    column = X[:, i]
    return column.contiguous() if hasattr(column, "contiguous") else column.copy()
