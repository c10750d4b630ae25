"""Unit vectors to project on."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from mckean import _array
from mckean._dispatch import carrier, executor, parse_device
from mckean._errors import as_count, as_seed

__all__ = ["directions", "resolve"]

KINDS = ("orthogonal", "random", "sobol")  # in the order of the native enumeration
_SOBOL_DIM = 21201
_BLOCK = 1 << 16  # numbers
_UNIT = 1e-3  # how far from 1 the norm of a direction may be


def directions(
    dim: int,
    n_slices: int,
    kind: str = "orthogonal",
    *,
    seed: Any = 0,
    dtype: Any = "float64",
    device: Any = "cpu",
    like: Any = None,
) -> Any:
    r"""Draw unit vectors to project on.

    A pure function of (`seed`, `kind`, `dim`, `n_slices`): the bits are the same on every machine,
    for any number of threads. With `dim` of at least 3 more directions start with the fewer.

    Parameters
    ----------
    dim : int
        At least 1. In one dimension there is one direction, ``[[1.0]]``, whatever `n_slices`.
    n_slices : int
        How many, P. At least 1.
    kind : {"orthogonal", "random", "sobol"}
        - "orthogonal": independent orthonormal frames of `dim` vectors each, with the uniform law
          on the orthogonal group [1]_; the last frame is cut. The relative error of a sliced
          gradient is about ``0.76 sqrt(dim / P)`` once whole frames are used, that of "random"
          ``1.25 sqrt(dim / P)``.
        - "random": independent, uniform on the sphere.
        - "sobol": scrambled Sobol points [2]_, [3]_ through the normal quantile, normalised. Any
          P is allowed; powers of two are balanced. Good up to about 10 dimensions, and `dim` is at
          most 21201.

        In two dimensions "orthogonal" and "sobol" are P equispaced angles on the half circle,
        turned together by one uniform angle: the error decreases as 1 / P.
    seed : int or numpy.random.SeedSequence
    dtype : dtype
        float32 or float64; the former is the latter rounded.
    device : str
        "cpu" or "cuda[:index]": where the result of a framework with device memory lies. The
        directions are drawn on the CPU.
    like : array or str, optional
        Framework to return: an array, whose device then counts, or one of "numpy", "torch", "jax",
        "cupy".

    Returns
    -------
    array, shape (n_slices, dim)
        Rows of unit length; every single one is uniform on the sphere.  With "orthogonal" and
        "sobol" in two dimensions, on the half circle, which is the same for distances.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    MemoryError
        If the result does not fit.
    DeviceError
        If `device` is not available.

    References
    ----------
    .. [1] G. Stewart, "The efficient generation of random orthogonal matrices with an application
       to condition estimators", SIAM J. Numer. Anal. 17, 1980, doi:10.1137/0717034
    .. [2] S. Joe, F. Kuo, "Constructing Sobol sequences with better two-dimensional projections",
       SIAM J. Sci. Comput. 30, 2008, doi:10.1137/070709359
    .. [3] A. Owen, "Randomly permuted (t,m,s)-nets and (t,s)-sequences", in: Monte Carlo and
       Quasi-Monte Carlo Methods in Scientific Computing, Springer, 1995

    Examples
    --------
    >>> import mckean as mk
    >>> xi = mk.sliced.directions(3, 5, seed=1)
    >>> xi.shape
    (5, 3)
    >>> bool(abs(xi[:3] @ xi[:3].T - np.eye(3)).max() < 1e-14)
    True
    """
    dtype = _array.dtype_name(dtype)
    device = parse_device(device)
    framework, home = _array.like(like)
    if device == "cpu":
        device = home
    executor(device)  # raises where there is none
    drawn = _draw(*_checked(dim, n_slices, kind, seed), dtype)
    if framework.name == "numpy":
        return drawn
    return carrier(framework, device).asarray(drawn, device)


def resolve(
    directions: Any, dim: int, n_slices: int, seed: Any, dtype: str
) -> np.ndarray[Any, Any]:
    """Return the directions that the argument of a sliced function stands for, shape (P, dim).

    Named ones come from a cache and are read-only; the rows of an array are checked and used as
    they are.
    """
    if isinstance(directions, str):
        return _cache.get((*_checked(dim, n_slices, directions, seed, "directions"), dtype))
    arraylike = ("__array__", "__array_interface__", "__dlpack__", "__buffer__")
    if not isinstance(directions, (list, tuple)) and not any(
        hasattr(directions, name) for name in arraylike
    ):
        kind = type(directions).__name__
        raise TypeError(f"directions: expected an array or one of {_names()}, got {kind}")
    given = _array.as_input(directions, "directions", shape=("P", dim))
    if given.shape[0] == 0:
        raise ValueError(f"directions: expected at least one row, got shape {given.shape}")
    _array.check_finite(given, "directions")
    rows = _array.to_numpy(given.array)
    # A few rows at a time: there may be as many numbers as in the points.
    height = max(1, _BLOCK // dim)
    for first in range(0, len(rows), height):
        block = rows[first : first + height].astype(np.float64)
        with np.errstate(over="ignore"):
            norm = np.sqrt(np.einsum("ij,ij->i", block, block))
        bad = ~(abs(norm - 1) <= _UNIT)
        if bad.any():
            row = int(bad.argmax())
            raise ValueError(
                f"directions: expected rows of length 1, got {norm[row]:.6g} in row {first + row}"
            )
    return np.ascontiguousarray(rows, dtype)


def _names() -> str:
    return ", ".join(map(repr, KINDS))


def _checked(
    dim: Any, n_slices: Any, kind: Any, seed: Any, name: str = "kind"
) -> tuple[int, int, str, int]:
    dim = as_count(dim, "dim", least=1, below=1 << 60)
    n_slices = as_count(n_slices, "n_slices", least=1, below=1 << 60)
    if not isinstance(kind, str):
        raise TypeError(f"{name}: expected one of {_names()}, got {type(kind).__name__}")
    if kind not in KINDS:
        raise ValueError(f"{name}: expected one of {_names()}, got {kind!r}")
    if kind == "sobol" and dim > 2:
        if dim > _SOBOL_DIM:
            raise ValueError(f"dim: expected at most {_SOBOL_DIM} for 'sobol', got {dim}")
        if n_slices > 1 << 32:
            raise ValueError(f"n_slices: expected at most 2**32 for 'sobol', got {n_slices}")
    return dim, 1 if dim == 1 else n_slices, kind, as_seed(seed)


def _draw(dim: int, n_slices: int, kind: str, seed: int, dtype: str) -> np.ndarray[Any, Any]:
    if dim == 1:
        return np.ones((1, 1), dtype)
    size = n_slices * dim * np.dtype(dtype).itemsize
    why = f"{n_slices} directions in {dim} dimensions need {size / 2**30:.3g} GiB"
    if size >= 1 << 62:
        raise MemoryError(why)
    try:
        out = np.empty((n_slices, dim), dtype)
        executor("cpu").directions(KINDS.index(kind), seed, out)
    except MemoryError:
        raise MemoryError(why) from None
    return out


class _Cache:
    """The directions last used, up to a number of bytes: a flow with fixed ones asks every step."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.kept: OrderedDict[Any, np.ndarray[Any, Any]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: tuple[int, int, str, int, str]) -> np.ndarray[Any, Any]:
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        drawn = _draw(*key)  # outside the lock: two threads may both draw, to the same bits
        drawn.flags.writeable = False
        with self.lock:
            if drawn.nbytes <= self.limit and key not in self.kept:
                self.kept[key] = drawn
                self.bytes += drawn.nbytes
                while self.bytes > self.limit:
                    self.bytes -= self.kept.popitem(last=False)[1].nbytes
        return drawn


_cache = _Cache(1 << 26)
