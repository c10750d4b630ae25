"""What this installation can do: versions, instruction set, threads, devices."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from mckean import _dispatch

__all__ = ["info"]


class _Info(dict[str, Any]):
    """A dict that prints as an aligned table."""

    def __repr__(self) -> str:
        width = max(len(key) for key in self)
        return "\n".join(f"{key:<{width}}  {value}" for key, value in self.items())


def info() -> dict[str, Any]:
    """Return what this installation can do; prints as a table.

    Returns
    -------
    dict
        ``version``, ``python``, ``numpy``, ``machine``, ``simd`` (instruction set in use), ``simd_available``,
        ``threads``, ``cuda`` ("available", or why not) and ``cuda_devices`` (list of dicts: name, compute capability,
        memory).

    See Also
    --------
    set_num_threads

    Notes
    -----
    The environment variable ``MCKEAN_SIMD`` (baseline, avx2 or avx512) lowers the instruction set,
    ``MCKEAN_NUM_THREADS`` sets the number of threads.

    Examples
    --------
    >>> import mckean as mk
    >>> sorted(mk.info())[:3]
    ['cuda', 'cuda_devices', 'machine']
    """
    import mckean

    core = _dispatch.executor("cpu")
    status, devices = _dispatch.cuda_status()
    return _Info(
        version=mckean.__version__,
        python=platform.python_version(),
        numpy=np.__version__,
        machine=f"{platform.system()} {platform.machine()}",
        simd=core.simd_level(),
        simd_available=core.simd_levels(),
        threads=core.num_threads(),
        cuda=status,
        cuda_devices=devices,
    )
