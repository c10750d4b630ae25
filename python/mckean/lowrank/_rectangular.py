"""A rectangular matrix, known by its entries or by products with it and its transpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean._array import Framework, as_input, dtype_name, framework_of, is_array, like, to_numpy
from mckean._errors import as_count
from mckean.lowrank._matvec import _show
from mckean.lowrank._tall import Doubles, Tall

__all__ = ["Rectangular", "as_ranks"]


class Rectangular:
    """A (m, n) as blocks of vectors see it.

    `A` is an array of any framework, an object with ``shape``, ``@`` and ``.T`` (SciPy's sparse matrices and linear
    operators; NumPy vectors), or a pair of callables ``(v -> A v, w -> A^T w)`` with `shape`, whose vectors are
    those of `like`.
    """

    def __init__(self, A: Any, shape: Any, given: Any) -> None:
        self.calls = 0
        self._array: Any = None
        self._pair: tuple[Any, Any] | None = None
        self.framework: Framework
        if isinstance(A, (tuple, list)) and len(A) == 2 and all(callable(f) for f in A):
            if shape is None:
                raise ValueError("shape: expected (m, n) with a pair of products, got None")
            self._pair = (A[0], A[1])
            self.shape = _as_shape(shape)
            self.framework, self.device = like(given)
            array = given is not None and not isinstance(given, str)
            self.dtype = dtype_name(given.dtype, "like") if array else "float64"
            return
        found = getattr(A, "shape", None)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "A: expected a matrix, a linear operator or a pair of products, got "
                + (f"shape {tuple(found)}" if found is not None else type(A).__name__)
            )
        if shape is not None and _as_shape(shape) != tuple(found):
            raise ValueError(f"shape: expected {tuple(found)} to match A, got {tuple(shape)}")
        self.shape = _as_shape(found)
        if is_array(A):
            x = as_input(A, "A")
            self.framework = x.framework
            self.device, self.dtype = x.device, x.dtype
            # Integers become the float type that their framework has.
            self._array = x.array
        elif hasattr(A, "__matmul__") and hasattr(A, "T"):
            self.framework, self.device = like(None)
            self.dtype = "float32" if str(getattr(A, "dtype", None)) == "float32" else "float64"
            self._operator = A
        else:
            raise TypeError(f"A: expected @ and .T of a linear operator, got {type(A).__name__}")

    @property
    def place(self) -> tuple[Framework, str]:
        return self.framework, self.device

    def times(self, V: Tall) -> Tall:
        """A V."""
        return self._product(V, False)

    def transposed_times(self, W: Tall) -> Tall:
        """A^T W."""
        return self._product(W, True)

    def _product(self, V: Tall, transposed: bool) -> Tall:
        self.calls += V.columns
        name = "A^T v" if transposed else "A v"
        size = self.shape[1 if transposed else 0]
        place = (self.framework, self.dtype, self.device)
        if self._pair is not None:
            out = Tall.empty(V.columns, size, self.dtype, self.place)
            call = self._pair[transposed]
            for i in range(V.columns):
                w = as_input(call(_show(place, V.data[i])), name)
                if w.framework is not self.framework:
                    raise TypeError(
                        f"{name}: expected an array of {self.framework.name}, got one of {w.framework.name}; "
                        "like= names the framework"
                    )
                if w.shape not in ((size,), (size, 1)):
                    raise ValueError(f"{name}: expected shape ({size},), got {tuple(w.shape)}")
                data = (
                    w
                    if w.dtype == self.dtype
                    else as_input(w.framework.cast(w.array, self.dtype), name)
                )
                out.data[i] = data.data.reshape(-1)
        else:
            shown = _show(place, V.data)
            if self._array is not None:
                # A copy of a framework's own result is only needed where that must not be written.
                found = as_input(shown @ (self._array if transposed else self._array.T), name)
            else:
                operator = self._operator.T if transposed else self._operator
                found = as_input(np.asarray(operator @ shown.T).T, name, shape=(V.columns, size))
                if found.dtype != self.dtype:
                    found = as_input(found.array.astype(self.dtype), name)
            out = Tall(found.data, self.framework, self.device, self.dtype)
            if self.framework.name == "jax" or not self.framework.writable(out.data):
                out = Tall.empty(V.columns, size, self.dtype, self.place)
                out.set(found.data)
        if not math.isfinite(out.norm()):
            raise FloatingPointError(
                f"{name}: a product holds NaN, infinity or numbers too large to square"
            )
        return out

    def columns(self, index: Doubles) -> Any:
        """A[:, index], (m, len(index)), an array of the framework."""
        if self._array is not None:
            return self._array[:, self.framework.asarray(index, self.device)]
        return self.times(self._units(index, self.shape[1])).to_columns(np.eye(len(index))).result()

    def rows(self, index: Doubles) -> Any:
        """A[index], (len(index), n)."""
        if self._array is not None:
            return self._array[self.framework.asarray(index, self.device)]
        found = self.transposed_times(self._units(index, self.shape[0]))
        return found.to_rows(np.eye(len(index))).result()

    def _units(self, index: Doubles, size: int) -> Tall:
        E = Tall.empty(len(index), size, self.dtype, self.place)
        E.data[...] = 0.0
        for i, j in enumerate(index):
            E.data[i, int(j)] = 1.0
        return E

    def on_host(self, x: Any) -> Doubles:
        return np.asarray(to_numpy(x), np.float64) if framework_of(x) is self.framework else x


def _as_shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ValueError(f"shape: expected (m, n), got {shape!r}")
    return as_count(shape[0], "shape", least=1), as_count(shape[1], "shape", least=1)


def as_ranks(rank: Any, more: Any, name: str, A: Rectangular) -> tuple[int, int]:
    """Return the rank and, within the size of A, the rank and `more`."""
    rank, more = as_count(rank, "rank", least=1), as_count(more, name)
    if rank > min(A.shape):
        raise ValueError(f"rank: expected at most min(m, n) = {min(A.shape)}, got {rank}")
    return rank, min(rank + more, *A.shape)
