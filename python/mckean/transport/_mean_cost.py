"""The mean cost of a problem: the scale of its eps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import to_numpy
from mckean.interaction import kernel_sum
from mckean.transport._problem import Doubles, Problem

__all__ = ["mean_cost"]

_BLOCK = 1 << 20  # numbers converted at a time
_FLAT = 1e6  # an eps, times the largest cost, at which plans are products of their marginals to as many digits
_LEVELS = 1e15, 1e30  # such eps for a cost of unknown size


def mean_cost(problem: Problem) -> Doubles:
    """The mean of the finite costs, by the weights of the points, of each problem (batch,); 0 if none has weight.

    From the moments for the squared distance, and else in one pass over the pairs. For powers above 2 the pass is
    that of a plan at an eps of a million times the largest cost, which changes the sixth digit.
    """
    if problem.dim == 0:
        return _of_cost(problem)
    if problem.power == 2:
        return _of_squares(problem)
    if problem.power < 2:
        return _of_distances(problem)
    sides = np.stack([_extent(problem, k) for k in range(problem.batch)])
    largest = np.sqrt((sides * sides).sum(1)) ** problem.power
    eps = _FLAT * np.where(largest > 0, largest, 1.0)
    return _of_flat_plan(problem, eps)[0]


def _rows(array: Any) -> Any:
    """Blocks of rows of an array (n, k), with their numbers, in float64."""
    size = max(1, _BLOCK // array.shape[1])
    for first in range(0, array.shape[0], size):
        yield slice(first, first + size), to_numpy(array[first : first + size]).astype(np.float64)


def _clouds(problem: Problem, k: int) -> list[Any]:
    assert problem.other is not None
    return [t.array[k] if len(t.shape) == 3 else t.array for t in (problem.at, problem.other)]


def _of_squares(problem: Problem) -> Doubles:
    """The second moments about the means, and the squared distance of the means."""
    out = np.zeros(problem.batch)
    for k in range(problem.batch):
        means = []
        for points, w in zip(_clouds(problem, k), (problem.a[k], problem.b[k]), strict=True):
            share = w / w.sum()
            mean = sum(share[at] @ v for at, v in _rows(points))
            out[k] += sum(share[at] @ ((v - mean) ** 2).sum(1) for at, v in _rows(points))
            means.append(mean)
        out[k] += ((means[0] - means[1]) ** 2).sum()
    return out


def _of_distances(problem: Problem) -> Doubles:
    x, y = problem.at, problem.other
    assert y is not None
    share = problem.b / problem.b.sum(1, keepdims=True)
    weights = np.ascontiguousarray(share if len(x.shape) == 3 else share[0], x.dtype)
    sums = kernel_sum(
        kernels.Riesz(problem.power),
        x.array,
        y.array,
        x.framework.asarray(weights, x.device),
        device=None if problem.device == x.device else problem.device,
    )
    means = -to_numpy(sums).astype(np.float64).reshape(problem.batch, -1)
    return np.asarray((problem.a * means).sum(1) / problem.a.sum(1))


def _extent(problem: Problem, k: int) -> Doubles:
    """The sides of a box around both clouds."""
    bounds = [(v.min(0), v.max(0)) for t in _clouds(problem, k) for _, v in _rows(t)]
    low, high = zip(*bounds, strict=True)
    return np.asarray(np.max(high, axis=0) - np.min(low, axis=0))


def _of_cost(problem: Problem) -> Doubles:
    cost = problem.at
    if cost.device == "cpu":
        out = np.zeros(problem.batch)
        for k in range(problem.batch):
            total, mass = 0.0, 0.0
            a, b = problem.a[k] / problem.a[k].sum(), problem.b[k] / problem.b[k].sum()
            for at, c in _rows(cost.array[k] if len(cost.shape) == 3 else cost.array):
                there = np.isfinite(c)
                if there.all():
                    mass += float(a[at].sum())
                else:
                    c = np.where(there, c, 0.0)
                    mass += float(a[at] @ (there @ b))
                total += float(a[at] @ (c @ b))
            out[k] = total / mass if mass > 0 else 0.0
        return out
    # Where arrays are on another device: at an eps that all costs are small beside, and not so small as to underflow.
    out = np.zeros(problem.batch)
    known = np.zeros(problem.batch, bool)
    for level in _LEVELS:
        found, masses = _of_flat_plan(problem, np.full(problem.batch, level))
        good = ~known & (masses > 0) & (abs(found) < level / _FLAT)
        out[good] = found[good]
        known |= good
        if known.all():
            break
    return out


def _of_flat_plan(problem: Problem, eps: Doubles) -> tuple[Doubles, Doubles]:
    """The mean cost of the plan without regard to costs, and its mass."""
    flat = replace(problem, eps=eps)
    with np.errstate(divide="ignore"):
        rows, _, cost = flat.marginals(np.log(problem.a), np.log(problem.b), cost=True)
    assert cost is not None
    mass = rows.sum(1)
    good = (mass > 0) & np.isfinite(mass) & np.isfinite(cost)
    return np.where(good, cost / np.where(good, mass, 1.0), 0.0), np.where(good, mass, 0.0)
