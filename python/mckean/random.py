"""Counter-based uniform and normal numbers: pure functions of (seed, stream, counter, index)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mckean import _array
from mckean._dispatch import carrier, executor, parse_device
from mckean._errors import as_count, as_seed

__all__ = ["normal", "uniform"]


def uniform(
    seed: Any,
    shape: int | Sequence[int],
    *,
    stream: int = 0,
    counter: int = 0,
    dtype: Any = "float64",
    device: Any = "cpu",
    like: Any = None,
) -> Any:
    """Draw uniform numbers in [0, 1).

    Each value is a pure function of (`seed`, `stream`, `counter`, flat C-order index), by
    Philox4x32-10: a longer array starts with the shorter one, and the bits are the same for any
    number of threads and on the CPU and the GPU.

    Parameters
    ----------
    seed : int or numpy.random.SeedSequence
        An int has 64 bits, ``0 <= seed < 2**64``.
    shape : int or tuple of int
        Zero sizes give an empty array.
    stream : int
        Independent sequences of one seed, ``0 <= stream < 2**64``.
    counter : int
        Independent draws of one stream, such as a step number, ``0 <= counter < 2**60``.
    dtype : dtype
        float32 (24 random bits) or float64 (53 random bits).
    device : str
        "cpu" or "cuda[:index]". NumPy users get the numbers copied back.
    like : array or str, optional
        Framework to return: an array, whose device then counts, or one of "numpy", "torch", "jax",
        "cupy".

    Returns
    -------
    array, shape `shape`
        Of the framework of `like`, by default NumPy. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    DeviceError
        If `device` is not available.

    See Also
    --------
    normal

    References
    ----------
    .. [1] J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
       2011, doi:10.1145/2063384.2063405

    Examples
    --------
    >>> import mckean as mk
    >>> u = mk.random.uniform(7, (3, 2))
    >>> bool((u == mk.random.uniform(7, (5, 2))[:3]).all())
    True
    """
    return _fill("fill_uniform", seed, shape, stream, counter, dtype, device, like)


def normal(
    seed: Any,
    shape: int | Sequence[int],
    *,
    stream: int = 0,
    counter: int = 0,
    dtype: Any = "float64",
    device: Any = "cpu",
    like: Any = None,
) -> Any:
    """Draw standard normal numbers.

    Each value is a pure function of (`seed`, `stream`, `counter`, flat C-order index), by
    Philox4x32-10 and the Box-Muller formula: a longer array starts with the shorter one, and the
    bits are the same for any number of threads and on the CPU and the GPU.

    Parameters
    ----------
    seed : int or numpy.random.SeedSequence
        An int has 64 bits, ``0 <= seed < 2**64``.
    shape : int or tuple of int
        Zero sizes give an empty array.
    stream : int
        Independent sequences of one seed, ``0 <= stream < 2**64``.
    counter : int
        Independent draws of one stream, such as a step number, ``0 <= counter < 2**60``.
    dtype : dtype
        float32 (one word each for radius and angle, at most 6.76 in magnitude) or float64 (two
        words each). The two are different draws.
    device : str
        "cpu" or "cuda[:index]". NumPy users get the numbers copied back.
    like : array or str, optional
        Framework to return: an array, whose device then counts, or one of "numpy", "torch", "jax",
        "cupy".

    Returns
    -------
    array, shape `shape`
        Of the framework of `like`, by default NumPy. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    DeviceError
        If `device` is not available.

    See Also
    --------
    uniform

    References
    ----------
    .. [1] J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
       2011, doi:10.1145/2063384.2063405
    .. [2] G. Box, M. Muller, "A note on the generation of random normal deviates", 1958,
       doi:10.1214/aoms/1177706645

    Examples
    --------
    >>> import mckean as mk
    >>> z = mk.random.normal(7, 10_000)
    >>> round(float(z.std()), 1)
    1.0
    """
    return _fill("fill_normal", seed, shape, stream, counter, dtype, device, like)


def _fill(
    function: str,
    seed: Any,
    shape: Any,
    stream: int,
    counter: int,
    dtype: Any,
    device: Any,
    like: Any,
) -> Any:
    seed = as_seed(seed)
    stream = as_count(stream, "stream", below=1 << 64)
    counter = as_count(counter, "counter", below=1 << 60)
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    sizes = tuple(as_count(s, "shape") for s in sizes)
    dtype = _array.dtype_name(dtype)
    device = parse_device(device)
    framework, home = _array.like(like)
    if device == "cpu":
        device = home
    native = executor(device)
    holder = carrier(framework, device)
    out = holder.empty(sizes, dtype, device)
    getattr(native, function)(out.data, seed, stream, counter, 0, holder.queue(device))
    result = out.result()
    return result if holder is framework else holder.to_numpy(result)
