"""How fast data turn into noise: x_t = a(t) x_0 + s(t) N(0, I)."""

from __future__ import annotations

import math

from mckean._errors import as_real, nonnegative, positive

__all__ = ["Schedule", "VPCosine", "VPLinear"]


class Schedule:
    """Base of all schedules: ``x_t = a(t) x_0 + s(t) z`` with ``z ~ N(0, I)``, t in [t_min, t_max].

    A schedule of your own needs ``a(t)``, ``s(t)``, `t_min` and `t_max`. Half the log
    signal-to-noise ratio ``log(a / s)`` must decrease in t; its inverse, `time`, is found by bisection
    unless you have a formula. Everything is computed in float64 on the host.

    Examples
    --------
    >>> import mckean as mk
    >>> class Flow(mk.diffusion.schedules.Schedule):
    ...     t_min, t_max = 1e-3, 1.0 - 1e-3
    ...     def a(self, t):
    ...         return 1.0 - t
    ...     def s(self, t):
    ...         return t
    >>> round(Flow().time(0.0), 6)
    0.5
    """

    t_min: float
    t_max: float

    def a(self, t: float) -> float:
        """Return the factor of the data at time `t`."""
        raise NotImplementedError

    def s(self, t: float) -> float:
        """Return the standard deviation of the noise at time `t`."""
        raise NotImplementedError

    def half_log_snr(self, t: float) -> float:
        """Return ``log(a(t) / s(t))``."""
        return math.log(self.a(t)) - math.log(self.s(t))

    def time(self, half_log_snr: float) -> float:
        """Return the t in [t_min, t_max] at which `half_log_snr` has this value."""
        early, late = self.t_min, self.t_max
        while True:
            t = 0.5 * (early + late)
            if not early < t < late:
                return t
            if self.half_log_snr(t) > half_log_snr:
                early = t
            else:
                late = t

    def _ends(self, t_min: float, t_max: float) -> None:
        self.t_min, self.t_max = positive(t_min, "t_min"), as_real(t_max, "t_max")
        if not self.t_min < self.t_max <= 1.0:
            raise ValueError(f"t_max: expected t_min = {self.t_min} < t_max <= 1, got {self.t_max}")


class VPLinear(Schedule):
    """Variance-preserving schedule with a rate that grows linearly.

    ``log a = -(b1 - b0) t^2 / 4 - b0 t / 2`` and ``s^2 = 1 - a^2``: the rate is ``b0 + (b1 - b0) t``.

    Parameters
    ----------
    b0, b1 : float
        The rate at t = 0 and at t = 1, ``0 <= b0 < b1``.
    t_min, t_max : float
        The end at the data and the end at the noise, ``0 < t_min < t_max <= 1``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    References
    ----------
    .. [1] Y. Song et al., "Score-based generative modeling through stochastic differential
       equations", ICLR 2021

    Examples
    --------
    >>> import mckean as mk
    >>> schedule = mk.diffusion.schedules.VPLinear()
    >>> round(schedule.half_log_snr(1.0), 4), round(schedule.time(schedule.half_log_snr(0.3)), 12)
    (-5.025, 0.3)
    """

    def __init__(
        self, b0: float = 0.1, b1: float = 20.0, *, t_min: float = 1e-3, t_max: float = 1.0
    ) -> None:
        self.b0, self.b1 = nonnegative(b0, "b0"), as_real(b1, "b1")
        if not self.b1 > self.b0:
            raise ValueError(f"b1: expected more than b0 = {self.b0}, got {self.b1}")
        self._ends(t_min, t_max)

    def _log_a(self, t: float) -> float:
        return -0.25 * (self.b1 - self.b0) * t * t - 0.5 * self.b0 * t

    def a(self, t: float) -> float:
        return math.exp(self._log_a(t))

    def s(self, t: float) -> float:
        return math.sqrt(-math.expm1(2.0 * self._log_a(t)))

    def half_log_snr(self, t: float) -> float:
        log_a = self._log_a(t)
        return log_a - 0.5 * math.log(-math.expm1(2.0 * log_a))

    def time(self, half_log_snr: float) -> float:
        slope = self.b1 - self.b0
        q = 2.0 * slope * _softplus(-2.0 * half_log_snr)
        return q / ((math.sqrt(self.b0**2 + q) + self.b0) * slope)


class VPCosine(Schedule):
    """Variance-preserving schedule with ``a = cos(pi/2 (t + c) / (1 + c)) / cos(pi/2 c / (1 + c))``.

    Parameters
    ----------
    c : float
        Keeps the noise near t = 0 from being too small, 0 <= c < 1.
    t_min, t_max : float
        The end at the data and the end at the noise. At t = 1 no signal is left, so `t_max` must be
        smaller.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    References
    ----------
    .. [1] A. Nichol, P. Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021

    Examples
    --------
    >>> import mckean as mk
    >>> schedule = mk.diffusion.schedules.VPCosine()
    >>> round(schedule.a(0.5) ** 2 + schedule.s(0.5) ** 2, 12)
    1.0
    """

    def __init__(self, c: float = 0.008, *, t_min: float = 1e-3, t_max: float = 0.9946) -> None:
        self.c = nonnegative(c, "c")
        if self.c >= 1.0:
            raise ValueError(f"c: expected less than 1, got {self.c}")
        self._ends(t_min, t_max)
        if self.t_max == 1.0:
            raise ValueError("t_max: expected less than 1, where no signal is left, got 1.0")
        self._v = 0.5 * math.pi * self.c / (1.0 + self.c)

    def _angle(self, t: float) -> float:
        return 0.5 * math.pi * t / (1.0 + self.c)

    def a(self, t: float) -> float:
        return math.cos(self._v + self._angle(t)) / math.cos(self._v)

    def s(self, t: float) -> float:
        # cos^2 v - cos^2 u = sin(u - v) sin(u + v): no cancellation near the data
        w = self._angle(t)
        return math.sqrt(math.sin(w) * math.sin(w + 2.0 * self._v)) / math.cos(self._v)

    def time(self, half_log_snr: float) -> float:
        a = math.exp(-0.5 * _softplus(-2.0 * half_log_snr))
        s = math.exp(-0.5 * _softplus(2.0 * half_log_snr))
        cos_v, sin_v = math.cos(self._v), math.sin(self._v)
        u = math.atan2(math.hypot(s * cos_v, sin_v), a * cos_v)
        return 2.0 * (1.0 + self.c) * (u - self._v) / math.pi


def _softplus(x: float) -> float:
    """log(1 + exp(x))"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
