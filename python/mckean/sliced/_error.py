"""Standard errors of means over directions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean.sliced._lines import Lines

__all__ = ["standard_error"]


def standard_error(values: Any, lines: Lines) -> Any:
    """The standard error of the means of `values` (..., P) over random directions.

    NaN where the directions do not fall into at least two independent parts; 0 in one dimension.
    """
    count, dim = lines.array.shape
    group, lead = lines.group, values.shape[:-1]
    if dim == 1:
        return np.zeros(lead)
    frames = count // group if group else 0
    if frames < 2:
        return np.full(lead, math.nan)
    whole = values[..., : frames * group].reshape(*lead, frames, group)
    between = whole.mean(-1).var(-1, ddof=1)
    variance = frames * group**2 * between
    rest = count - frames * group
    if rest:
        # The mean of some of a frame's exchangeable values varies more than that of all.
        within = whole.var(-1, ddof=1).mean(-1)
        variance = variance + rest**2 * (between + within * (1.0 / rest - 1.0 / group))
    return np.sqrt(variance) / count
