"""Symmetric functions of a model as SciPy's linear operators."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mckean._array import to_numpy

if TYPE_CHECKING:
    from mckean.lowrank._operator import LowRankOperator

__all__ = ["symmetric_operator"]


def symmetric_operator(op: LowRankOperator, rows: Callable[[Any], Any]) -> Any:
    """`rows`, a symmetric function of vectors that are rows in the framework of `op`, for NumPy."""
    try:
        linalg: Any = importlib.import_module("scipy.sparse.linalg")
    except ImportError as error:
        raise ImportError("as_linear_operator needs SciPy: pip install scipy") from error
    if op.batch is not None:
        raise ValueError("as_linear_operator: expected a single model, got a batch, take op[i]")
    framework, device = op.place
    dtype = np.dtype(op._U.dtype)

    def apply(x: Any) -> Any:
        # SciPy hands over vectors (d,) or (d, 1), and for `matmat` (d, p).
        x = np.asarray(x)
        if x.dtype.kind == "c":
            return apply(x.real) + 1j * apply(x.imag)
        given = np.ascontiguousarray(x.T, dtype)
        return to_numpy(rows(framework.asarray(given, device))).T

    return linalg.LinearOperator(
        shape=(op.d, op.d), dtype=dtype, matvec=apply, rmatvec=apply, matmat=apply, rmatmat=apply
    )
