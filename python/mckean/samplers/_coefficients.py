"""Integrals of the Ornstein-Uhlenbeck kernel over one step, in float64.

With al = c h (friction times step) and a fraction r of the step::

    beta(r) = exp(-r al)    A(r) = (1 - exp(-r al)) / c    B(r) = (exp(-r al) + r al - 1) / (c al)

B(1) W + CH H + CK K is the projection of the exact position noise onto W, H and K of the step; B(1/2) W + CHh H that at
half a step. See `mckean._exponential` for CH, CK and CHh.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean._exponential import area2_weight, area_weight, half_area_weight, mean_decay, phi2

__all__ = ["LEFT", "RIGHT", "Number", "StepIntegrals"]

# The nodes of Gauss's quadrature, where QUICSORT takes its gradients.
LEFT, RIGHT = (3 - math.sqrt(3)) / 6, (3 + math.sqrt(3)) / 6
_FRACTIONS = (1.0, 0.5, 1 / 3, LEFT, RIGHT)

Number = Any  # a float, or float64 (n,) where every row has a step of its own


def _plain(a: np.ndarray[Any, Any]) -> Number:
    return a if a.ndim else float(a)


class StepIntegrals:
    """The coefficients of steps of size `h` >= 0, a float or one per row, with friction `c` >= 0;
    see the module's docstring."""

    def __init__(self, h: Number, c: float) -> None:
        self.h, self.c, self.al = h, c, c * h
        self._known: dict[tuple[Any, float], Number] = {}

    def _at(self, function: Any, r: float) -> Number:
        """`function` at r al. Of many steps the usual fractions are computed together: a pass over
        a small array costs as much as one over a number."""
        if (function, r) not in self._known:
            if isinstance(self.al, np.ndarray) and r in _FRACTIONS:
                values = function(np.multiply.outer(_FRACTIONS, self.al))
                self._known.update(
                    ((function, q), a) for q, a in zip(_FRACTIONS, values, strict=True)
                )
            else:
                self._known[function, r] = _plain(function(r * self.al))
        return self._known[function, r]

    def beta(self, r: float) -> Number:
        al = self.al
        return np.exp(-r * al) if isinstance(al, np.ndarray) else math.exp(-r * al)

    def mean(self, r: float) -> Number:
        """A(r) / (r h), also for steps of length 0."""
        return self._at(mean_decay, r)

    def A(self, r: float) -> Number:
        return self.h * r * self.mean(r)

    def B(self, r: float) -> Number:
        return self.h * r * r * self._at(phi2, r)

    @property
    def CH(self) -> Number:
        return self.h * _plain(area_weight(self.al))

    @property
    def CK(self) -> Number:
        return self.h * _plain(area2_weight(self.al))

    @property
    def CHh(self) -> Number:
        return self.h * _plain(half_area_weight(self.al))
