"""What a solve returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import as_match
from mckean.transport._problem import Problem
from mckean.transport._solve import Solution

__all__ = ["SinkhornResult"]


class SinkhornResult:
    """A transport plan in factored form: potentials, values, and products with the plan."""

    def __init__(self, problem: Problem, solution: Solution, y: Any = None) -> None:
        self._problem, self._solution, self._y = problem, solution, y
        p, s = problem, solution
        with np.errstate(divide="ignore", invalid="ignore"):
            f = (s.F - np.log(p.a)) * p.eps[:, None]
            g = (s.G - np.log(p.b)) * p.eps[:, None]
        rows, cols, cost = p.marginals(s.F, s.G, cost=True)
        self._f, self._g = f, g
        self.cost = self._scalar(cost)
        dual = (p.a * f).sum(1) + (p.b * g).sum(1) - p.eps * (rows.sum(1) - p.a.sum(1) * p.b.sum(1))
        self.dual_value = self._scalar(dual)
        self.marginal_error = self._scalar(abs(rows - p.a).sum(1) + abs(cols - p.b).sum(1))
        self.converged = self._scalar(s.converged)
        self.n_iter = self._scalar(s.n_iter)
        self.method = s.method

    def _scalar(self, v: Any) -> Any:
        return v if self._problem.batched else v[0].item()

    def _vector(self, v: Any) -> Any:
        p = self._problem
        v = np.ascontiguousarray(v if p.batched else v[0], p.at.dtype)
        return p.at.framework.asarray(v, p.at.device)

    @property
    def f(self) -> Any:
        return self._vector(self._f)

    @property
    def g(self) -> Any:
        return self._vector(self._g)

    def plan(self) -> Any:
        return self._problem.plan(self._solution.F, self._solution.G)

    def apply(self, v: Any) -> Any:
        p = self._problem
        at = as_match(v, "v", p.at, "x", shape=None if v.ndim < 1 else tuple(v.shape))
        return p.apply(self._solution.F, self._solution.G, at, transposed=False)

    def apply_transpose(self, v: Any) -> Any:
        p = self._problem
        at = as_match(v, "v", p.at, "x", shape=tuple(v.shape))
        return p.apply(self._solution.F, self._solution.G, at, transposed=True)

    def barycentric_map(self, values: Any = None) -> Any:
        p, s = self._problem, self._solution
        values = self._y if values is None else values
        rows, _, _ = p.marginals(s.F, s.G)
        return self.apply(values) / self._vector(rows)[..., None]
