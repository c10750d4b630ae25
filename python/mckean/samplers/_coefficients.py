"""Integrals of the Ornstein-Uhlenbeck kernel over one step, in float64.

With al = c h (friction times step) and a fraction r of the step::

    beta(r) = exp(-r al)    A(r) = (1 - exp(-r al)) / c    B(r) = (exp(-r al) + r al - 1) / (c al)

B(1) W + CH H + CK K is the projection of the exact position noise onto W, H and K of the step; B(1/2) W + CHh H that at
half a step. See `mckean._exponential` for CH, CK and CHh.
"""

from __future__ import annotations

import math

from mckean._exponential import area2_weight, area_weight, half_area_weight, mean_decay, phi2

__all__ = ["StepIntegrals"]


class StepIntegrals:
    """The coefficients of one step of size `h` with friction `c` >= 0; see the module's docstring."""

    def __init__(self, h: float, c: float) -> None:
        self.h, self.c, self.al = h, c, c * h

    def beta(self, r: float) -> float:
        return math.exp(-r * self.al)

    def A(self, r: float) -> float:
        return self.h * r * float(mean_decay(r * self.al))

    def B(self, r: float) -> float:
        return self.h * r * r * float(phi2(r * self.al))

    @property
    def CH(self) -> float:
        return self.h * float(area_weight(self.al))

    @property
    def CK(self) -> float:
        return self.h * float(area2_weight(self.al))

    @property
    def CHh(self) -> float:
        return self.h * float(half_area_weight(self.al))
