"""A user's matrix-vector product, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import FRAMEWORKS, Framework, Input, as_input
from mckean._errors import as_count

__all__ = ["Matvec"]


class Matvec:
    """v -> A v in the framework, dtype and device of the matvec's own results."""

    def __init__(self, matvec: Any, d: Any, *, name: str = "matvec") -> None:
        self.d = as_count(d, "d", least=1)
        self.name, self.calls = name, 0
        self._call = matvec if callable(matvec) else lambda v: matvec @ v
        self.framework: Framework = FRAMEWORKS["numpy"]
        self.dtype, self.device = "float64", "cpu"

    def __call__(self, v: Any) -> Input:
        self.calls += 1
        w = as_input(np.reshape(self._call(v), -1), self.name, shape=(self.d,), dtype=self.dtype)
        if not np.isfinite(w.data).all():
            raise FloatingPointError(f"{self.name}: product {self.calls} is not finite")
        return w

    @property
    def place(self) -> tuple[Framework, str]:
        return self.framework, self.device
