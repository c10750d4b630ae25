"""One call of the native sliced distances: its arguments checked, its values and gradient handed back."""

from __future__ import annotations

from typing import Any, NamedTuple

from mckean._array import Input, to_numpy
from mckean._dispatch import executor, moved, place
from mckean.interaction._samples import scalars
from mckean.sliced._clouds import check_together, first_cloud, second_cloud
from mckean.sliced._exponents import constant
from mckean.sliced._lines import Lines, lines
from mckean.sliced._target import DISTANCES, Target
from mckean.sliced._weights import doubles, probabilities

__all__ = ["Projected", "project"]


class Projected(NamedTuple):
    """One-dimensional distances along lines, and the gradient of their mean."""

    values: Any  # NumPy float64 (P,) or (batch, P), without a factor
    factor: float
    grad: Any
    at: Input
    lines: Lines

    def mean(self) -> Any:
        """The mean over the directions, times the factor: a float, or (batch,)."""
        values = self.values
        total = values.sum(-1) * (self.factor / values.shape[-1])
        return float(total) if values.ndim == 1 else total

    def result(self, value: Any) -> Any:
        """A float, or for batches an array like the points."""
        return value if type(value) is float else scalars(value, self.at)


def project(
    distance: str,
    exponent: float,
    x: Any,
    y: Any,
    n_slices: Any,
    directions: Any,
    seed: Any,
    x_weights: Any,
    y_weights: Any,
    device: Any,
    *,
    factor: float | None = None,
    with_grad: bool = False,
    root: bool = False,
) -> Projected:
    """Compare `x` and `y` along lines.

    The gradient is that of the mean of the values times `factor`, by default the slicing constant, or with `root` of
    the root of order `exponent` of this mean.
    """
    at = first_cloud(x, "x", exponent)
    if isinstance(y, Target):
        y.check(at, distance, exponent)
        y.check_given(n_slices, directions, seed, y_weights)
        check_together(at.shape[-2], y.shape[0])
        if device is None and at.framework.name == "numpy":
            device = y.device
        memory, device = place(at, device)
        if device != y.device:
            raise ValueError(f"x: expected device {y.device} to match y, got {device}")
        found, target = y.lines, y.native
        other = xi = v = None
    else:
        other_cloud = second_cloud(y, "y", at, "x", exponent)
        check_together(at.shape[-2], other_cloud.shape[-2])
        found = lines(directions, at.shape[-1], n_slices, seed, at.dtype)
        memory, device = place(at, device)
        target = v = None
        if y_weights is not None:
            v = probabilities(y_weights, "y_weights", other_cloud, "y", memory, device)
        other = moved(other_cloud, memory, device)
        xi = found.array if device == "cpu" else memory.asarray(found.array, device)
    u = None
    if x_weights is not None:
        u = probabilities(x_weights, "x_weights", at, "x", memory, device)
    count, dim = found.array.shape
    if factor is None:
        factor = constant(dim, exponent)
    values = doubles(memory, device).empty((*at.shape[:-2], count), "float64", device)
    grad = memory.empty(at.shape, at.dtype, device) if with_grad else None
    executor(device).sliced(
        DISTANCES.index(distance),
        exponent,
        moved(at, memory, device),
        other,
        xi,
        u,
        v,
        target,
        factor / count,
        root,
        values.data,
        None if grad is None else grad.data,
        None,
        memory.queue(device),
    )
    return Projected(
        to_numpy(values.result()), factor, None if grad is None else grad.result(), at, found
    )
