"""Integrals of the Ornstein-Uhlenbeck kernel over one step, in float64.

With al = c h (friction times step) and a fraction r of the step::

    beta(r) = exp(-r al)    A(r) = (1 - exp(-r al)) / c    B(r) = (exp(-r al) + r al - 1) / (c al)
    CH = 6 (exp(-al) (al + 2) + al - 2) / (al^2 c)
    CK = 60 (exp(-al) (al (al + 6) + 12) - al (al - 6) - 12) / (al^3 c)
    CHh = 6 (exp(-al/2) (al + 2) + al^2/4 - 2) / (al^2 c)

B(1) W + CH H + CK K is the projection of the exact position noise onto W, H and K of the step. All
closed forms cancel for small al (CK loses every digit at al = 0.003), so below 1 their power series
are summed: 20 terms give full precision.

J. Foster, T. Lyons, H. Oberhauser, "The shifted ODE method for underdamped Langevin MCMC" (2021),
arXiv:2101.03446.
"""

from __future__ import annotations

import math

__all__ = ["StepIntegrals"]

_TERMS = 20


def _phi2(x: float) -> float:
    """(exp(-x) + x - 1) / x^2."""
    if x < 1.0:
        return math.fsum((-x) ** k / math.factorial(k + 2) for k in range(_TERMS))
    return (math.exp(-x) + x - 1.0) / (x * x)


class StepIntegrals:
    """The coefficients of one step of size `h` with friction `c` >= 0; see the module's
    docstring."""

    def __init__(self, h: float, c: float) -> None:
        self.h, self.c, self.al = h, c, c * h

    def beta(self, r: float) -> float:
        return math.exp(-r * self.al)

    def A(self, r: float) -> float:
        x = r * self.al
        return self.h * r * (-math.expm1(-x) / x if x > 0.0 else 1.0)

    def B(self, r: float) -> float:
        return self.h * r * r * _phi2(r * self.al)

    @property
    def CH(self) -> float:
        al = self.al
        if al < 1.0:
            series = (6.0 * (k + 1) * (-al) ** k / math.factorial(k + 3) for k in range(_TERMS))
            return self.h * math.fsum(series)
        return self.h * 6.0 * (math.exp(-al) * (al + 2.0) + al - 2.0) / al**3

    @property
    def CK(self) -> float:
        al = self.al
        if al < 1.0:
            series = (
                60.0 * k * (k + 1) * (-al) ** k / math.factorial(k + 4) for k in range(_TERMS)
            )
            return self.h * math.fsum(series)
        return (
            self.h
            * 60.0
            * (math.exp(-al) * (al * (al + 6.0) + 12.0) - al * (al - 6.0) - 12.0)
            / al**4
        )

    @property
    def CHh(self) -> float:
        al = self.al
        if al < 1.0:
            series = (
                6.0 * (k + 2) * 0.5 ** (k + 2) * (-al) ** k / math.factorial(k + 3)
                for k in range(_TERMS)
            )
            return self.h * math.fsum(series)
        return self.h * 6.0 * (math.exp(-al / 2) * (al + 2.0) + al * al / 4 - 2.0) / al**3
