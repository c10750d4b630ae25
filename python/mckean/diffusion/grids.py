"""At which times a sampler evaluates its model: N + 1 decreasing times for N steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import as_input, check_finite, to_numpy
from mckean._errors import as_count, one_of
from mckean.diffusion.schedules import Schedule

__all__ = ["uniform_half_log_snr", "uniform_t"]

Times = np.ndarray[Any, np.dtype[np.float64]]


def uniform_t(schedule: Schedule, n_steps: int) -> Times:
    """Return `n_steps` + 1 evenly spaced times from ``t_max`` down to ``t_min``.

    Parameters
    ----------
    schedule : Schedule
    n_steps : int
        At least 1.

    Returns
    -------
    numpy.ndarray, shape (n_steps + 1,), float64

    Raises
    ------
    TypeError, ValueError
        If `n_steps` is not a positive integer.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.diffusion.grids.uniform_t(mk.diffusion.schedules.VPLinear(t_min=0.1), 3).round(3)
    array([1. , 0.7, 0.4, 0.1])
    """
    n = as_count(n_steps, "n_steps", least=1)
    return np.linspace(schedule.t_max, schedule.t_min, n + 1)


def uniform_half_log_snr(schedule: Schedule, n_steps: int) -> Times:
    """Return `n_steps` + 1 times at which ``schedule.half_log_snr`` is evenly spaced.

    Parameters
    ----------
    schedule : Schedule
    n_steps : int
        At least 1.

    Returns
    -------
    numpy.ndarray, shape (n_steps + 1,), float64
        From ``t_max`` down to ``t_min``.

    Raises
    ------
    TypeError, ValueError
        If `n_steps` is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> schedule = mk.diffusion.schedules.VPLinear()
    >>> t = mk.diffusion.grids.uniform_half_log_snr(schedule, 4)
    >>> np.diff([schedule.half_log_snr(v) for v in t]).round(4)
    array([2.3957, 2.3957, 2.3957, 2.3957])
    """
    n = as_count(n_steps, "n_steps", least=1)
    first, last = (schedule.half_log_snr(t) for t in (schedule.t_max, schedule.t_min))
    inner = [schedule.time(v) for v in np.linspace(first, last, n + 1)[1:-1]]
    return np.array([schedule.t_max, *inner, schedule.t_min])


_NAMED = {"uniform_t": uniform_t, "uniform_half_log_snr": uniform_half_log_snr}


def resolve(grid: Any, schedule: Schedule, n_steps: int) -> Times:
    """The times of a grid given by name or as an array."""
    n = as_count(n_steps, "n_steps", least=1)
    if isinstance(grid, str):
        return _NAMED[one_of(grid, "grid", tuple(_NAMED))](schedule, n)
    found = as_input(grid, "grid", shape=(n + 1,), match=f"n_steps = {n}")
    check_finite(found, "grid")
    times = np.array(to_numpy(found.array), np.float64)
    if not (np.diff(times) < 0).all():
        raise ValueError("grid: expected strictly decreasing times, from noise to data")
    slack = 1e-12 * abs(schedule.t_max)
    if times[0] > schedule.t_max + slack or times[-1] < schedule.t_min - slack:
        raise ValueError(
            f"grid: expected times in [{schedule.t_min}, {schedule.t_max}] of the schedule, "
            f"got {times[-1]} to {times[0]}"
        )
    return times
