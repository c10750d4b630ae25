"""The fused stepper: linear combinations of arrays plus noise, in one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean._array import Input, Output, as_input, as_match, as_output
from mckean._dispatch import executor
from mckean._errors import as_count, as_real, as_seed

__all__ = ["combine"]

_MAX_ARRAYS, _MAX_OUTPUTS = 16, 8  # what the native argument block holds


def combine(
    coefficients: Sequence[Any],
    arrays: Sequence[Any],
    *,
    noise_scale: Any = 0.0,
    seed: Any = 0,
    stream: int = 0,
    counter: int = 0,
    out: Any = None,
) -> Any:
    """Compute linear combinations of arrays plus Gaussian noise, reading each array once.

    ``out = sum_k coefficients[k] * arrays[k] + noise_scale * N(0, 1)``. A list of J coefficient
    lists gives J outputs in the same single pass, all with the same normal draw. Products are added
    in the order of `arrays`, noise last, in the arrays' own precision. Memory: the outputs only.

    Parameters
    ----------
    coefficients : sequence of K, or of J sequences of K
        Each entry is a float, or an array, shape (n,), with one value per particle.
    arrays : sequence of K arrays, shape (n, ...), float32 or float64
        At most 16, of one shape, dtype, framework and device; the first axis counts particles. Not
        checked for NaN.
    noise_scale : float or array, shape (n,), or a list of J of them
        Standard deviation of the noise; one value for J outputs counts for all of them.
    seed, stream, counter
        The normal draw is ``mckean.random.normal(seed, shape, stream=stream, counter=counter,
        dtype=dtype)``, bit for bit.
    out : array or sequence of J arrays, optional
        Written instead of new arrays, and returned. C-contiguous and writable. May be one of
        `arrays` (in place); partial overlap is refused. JAX arrays are immutable and cannot be
        given.

    Returns
    -------
    array or tuple of J arrays, shape of ``arrays[0]``
        Of the framework, dtype and device of ``arrays[0]``. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes, frameworks or sizes do not match, or outputs overlap. Nothing is then
        written.

    See Also
    --------
    mckean.random.normal

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x, g = np.ones((2, 3)), np.full((2, 3), 4.0)
    >>> mk.combine([1.0, -0.25], [x, g])
    array([[0., 0., 0.],
           [0., 0., 0.]])
    >>> a, b = mk.combine([[1.0, 0.5], [0.0, 1.0]], [x, g], noise_scale=[1.0, 0.0], seed=3)
    >>> bool((a == 3.0 + mk.random.normal(3, (2, 3))).all()), bool((b == g).all())
    (True, True)
    """
    inputs = _inputs(arrays)
    first = inputs[0]
    several, rows = _rows(coefficients, len(inputs))
    table = np.zeros((len(rows), len(inputs)))
    by_row: list[tuple[int, int, Any]] = []
    for j, row in enumerate(rows):
        for k, c in enumerate(row):
            name = f"coefficients[{j}][{k}]" if several else f"coefficients[{k}]"
            scalar, per_particle = _scalar_or_rows(c, name, first)
            table[j, k] = scalar
            if per_particle is not None:
                by_row.append((j, k, per_particle))
    scales = np.zeros(len(rows))
    noise_by_row: list[tuple[int, Any]] = []
    for j, s in enumerate(_noise_scales(noise_scale, len(rows), several)):
        scales[j], per_particle = _scalar_or_rows(s, "noise_scale", first)
        if per_particle is not None:
            noise_by_row.append((j, per_particle))
    seed = as_seed(seed)
    stream = as_count(stream, "stream", below=1 << 64)
    counter = as_count(counter, "counter", below=1 << 60)
    outputs = _outputs(out, inputs, len(rows), several)
    if out is not None:
        _no_overlap(outputs, [a for *_, a in by_row] + [a for _, a in noise_by_row], first)
    executor(first.device).combine(
        [o.data for o in outputs],
        [x.data for x in inputs],
        table,
        by_row,
        scales,
        noise_by_row,
        first.shape[0],
        math.prod(first.shape[1:]),
        seed,
        stream,
        counter,
        first.framework.queue(first.device),
    )
    if out is not None:
        return tuple(out) if several else out
    results = tuple(o.result() for o in outputs)
    return results if several else results[0]


def _combine_checked(
    first: Input,
    table: np.ndarray[Any, Any],
    arrays: Sequence[Any],
    *,
    outs: list[Output] | None = None,
    noise: np.ndarray[Any, Any] | None = None,
    seed: int = 0,
    stream: int = 0,
    counter: int = 0,
) -> list[Output]:
    """`combine` without its checks: `table` (J, K) float64, native `arrays` shaped like `first`."""
    if outs is None:
        outs = [first.framework.empty(first.shape, first.dtype, first.device) for _ in table]
    executor(first.device).combine(
        [o.data for o in outs],
        arrays,
        table,
        [],
        np.zeros(len(table)) if noise is None else noise,
        [],
        first.shape[0],
        math.prod(first.shape[1:]),
        seed,
        stream,
        counter,
        first.framework.queue(first.device),
    )
    return outs


def _inputs(arrays: Sequence[Any]) -> list[Input]:
    if not isinstance(arrays, (list, tuple)):
        raise TypeError(f"arrays: expected a list of arrays, got {type(arrays).__name__}")
    if not 1 <= len(arrays) <= _MAX_ARRAYS:
        raise ValueError(f"arrays: expected 1 to {_MAX_ARRAYS} arrays, got {len(arrays)}")
    first = as_input(arrays[0], "arrays[0]")
    if not first.shape:
        raise ValueError("arrays[0]: expected shape (n, ...), got ()")
    rest = (as_match(a, f"arrays[{k}]", first, "arrays[0]") for k, a in enumerate(arrays[1:], 1))
    return [first, *rest]


def _rows(coefficients: Any, n_arrays: int) -> tuple[bool, list[Sequence[Any]]]:
    """Whether there are several outputs, and one list of coefficients per output."""
    if isinstance(coefficients, np.ndarray) and coefficients.ndim in (1, 2):
        coefficients = coefficients.tolist()
    if not isinstance(coefficients, (list, tuple)):
        raise TypeError(f"coefficients: expected a list, got {type(coefficients).__name__}")
    nested = [isinstance(c, (list, tuple)) for c in coefficients]
    several = bool(nested) and all(nested)
    if any(nested) and not several:
        raise TypeError("coefficients: expected numbers and arrays, or only lists of them")
    rows: list[Sequence[Any]] = list(coefficients) if several else [coefficients]
    if len(rows) > _MAX_OUTPUTS:
        raise ValueError(f"coefficients: expected at most {_MAX_OUTPUTS} outputs, got {len(rows)}")
    for j, row in enumerate(rows):
        if len(row) != n_arrays:
            name = f"coefficients[{j}]" if several else "coefficients"
            raise ValueError(f"{name}: expected {n_arrays} entries to match arrays, got {len(row)}")
    return several, rows


def _noise_scales(noise_scale: Any, n_outputs: int, several: bool) -> Sequence[Any]:
    if several and isinstance(noise_scale, (list, tuple)):
        if len(noise_scale) != n_outputs:
            raise ValueError(
                f"noise_scale: expected {n_outputs} entries to match coefficients, "
                f"got {len(noise_scale)}"
            )
        return noise_scale
    return [noise_scale] * n_outputs


def _scalar_or_rows(value: Any, name: str, first: Input) -> tuple[float, Any]:
    """A coefficient as (float, None) or (0, array that native code reads)."""
    if isinstance(value, float):
        return as_real(value, name), None
    if getattr(value, "ndim", 0) == 0:
        return as_real(value, name), None
    if isinstance(value, np.ndarray) and first.framework.name != "numpy":
        value = first.framework.asarray(value.astype(first.dtype), first.device)
    return 0.0, as_match(value, name, first, "arrays[0]", shape=(first.shape[0],)).data


def _outputs(out: Any, inputs: list[Input], n_outputs: int, several: bool) -> list[Output]:
    first = inputs[0]
    if out is None:
        return [
            first.framework.empty(first.shape, first.dtype, first.device) for _ in range(n_outputs)
        ]
    if first.framework.name == "jax":
        raise TypeError("out: JAX arrays are immutable, leave out=None")
    given = list(out) if several and isinstance(out, (list, tuple)) else [out]
    if len(given) != n_outputs:
        raise ValueError(
            f"out: expected {n_outputs} arrays to match coefficients, got {len(given)}"
        )
    names = [f"out[{j}]" if several else "out" for j in range(n_outputs)]
    outputs = [as_output(o, name, first, "arrays[0]") for o, name in zip(given, names, strict=True)]
    size = math.prod(first.shape) * _item_size(first)
    address = first.framework.address
    starts = [address(o.data) for o in outputs]
    for j, start in enumerate(starts):
        for i in range(j):
            if abs(start - starts[i]) < size:
                raise ValueError(f"{names[j]}: expected memory of its own, it overlaps {names[i]}")
        for k, x in enumerate(inputs):
            if 0 < abs(start - address(x.data)) < size:
                raise ValueError(
                    f"{names[j]}: expected arrays[{k}] itself or memory of its own, "
                    f"it overlaps partly"
                )
    return outputs


def _no_overlap(outputs: list[Output], per_particle: list[Any], first: Input) -> None:
    """Per-particle factors are read while outputs are written."""
    size, length = math.prod(first.shape) * _item_size(first), first.shape[0] * _item_size(first)
    address = first.framework.address
    for output in outputs:
        start = address(output.data)
        if any(address(a) < start + size and start < address(a) + length for a in per_particle):
            raise ValueError(
                "out: expected memory of its own, it overlaps a per-particle coefficient"
            )


def _item_size(x: Input) -> int:
    return 4 if x.dtype == "float32" else 8
