"""Sinkhorn-Newton-Sparse: Newton's method on the dual with few entries of its Hessian.

X. Tang, M. Shavlovsky, H. Rahmanian, E. Tardini, K. K. Thekumparampil, T. Xiao, L. Ying, "Accelerating Sinkhorn
algorithm with sparse Newton iterations", ICLR 2024, arXiv:2401.12253. Here the error decides which entries count, not
a density.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mckean import _core
from mckean.transport._problem import LOG_DOMAIN, RECOMPUTED, Doubles, Problem
from mckean.transport._scale import scale
from mckean.transport._solve import Settings, Solution

__all__ = ["solve_newton"]

_ENTRY, _SPARSE_ENTRY = (
    1e-2,
    2e-2,
)  # errors from which Newton's method pays; the second for sparse plans
_SPARSE_PLAN = 0.05  # fraction of entries kept
_KEPT = 0.1  # entries of the error's size times this count
_STORED = 1 << 21  # entries that may be kept of any problem; else 16 for each row and column
_SHIFT = 1 + 1e-9  # of the diagonal, as in the native solver
_SPARSE_STEPS, _FULL_STEPS = 1000, 300  # of conjugate gradients, with stored entries and without
_LEAST_STEP = 1 / 8
_GROWTH = 4.0  # of the error in one step, beyond which the step is not taken
_FARTHEST = 1e5  # a step of log scalings, beyond which it is the system that was singular
_ARMIJO = 1e-4
_BURST, _LONGEST_BURST = 50, 400  # iterations after a step that was not taken
_STALLED = 3  # steps in a row without progress near the rounding of the sums
_HOPELESS = 20  # and anywhere, iterations among them


def solve_newton(
    problem: Problem, settings: Settings, solution: Solution, form: Any = RECOMPUTED
) -> Solution:
    """Finish those problems of `solution` that have not converged, and whose columns are right, by Newton steps.
    `form`: of the iterations, one for all or one for each (batch,).

    Sinkhorn iterations come first, until the error is about 1e-2, and again, 50 or more, wherever a step fails. Their
    number is `n_iter` of what is returned, and that of all steps tried is `n_newton`; both together stay within
    `settings.max_iter`. The error is that of rows and columns together, relative to the mass. The last iteration is a
    plain one: columns are right up to rounding. What is returned is the best found, converged or not.
    """
    if settings.unbalanced is not None:
        raise ValueError("unbalanced: expected None for method='newton'")
    return _Newton(problem, settings, solution, np.full(problem.batch, form)).run()


@dataclass(slots=True)
class _Place:
    """Where one problem of the batch stands."""

    error: float = np.inf  # of the present scalings
    mass: float = 0.0  # of the present plan
    left: int = 0  # iterations and steps, the last iteration apart
    entry: float = 0.0  # error from which steps are tried; 0: they were
    burst: int = _BURST
    method: str = "auto"  # of the linear system
    alpha: float = 1.0
    linear: float = 0.0  # change of the linear part of the dual for alpha = 1
    slope: float = 0.0
    noise: float = 0.0  # relative rounding of an entry of the plan
    mark: float = np.inf  # error when there was progress last
    stalled: int = 0  # arrivals since
    best: float = np.inf
    best_is_newton: bool = False


@dataclass(slots=True)
class _Newton:
    problem: Problem
    settings: Settings
    solution: Solution
    forms: Any  # (batch,)
    weight: Doubles = field(init=False)  # (batch,), the mass to be moved
    rows: Doubles = field(init=False)  # of the present plan
    cols: Doubles = field(init=False)
    best_F: Doubles = field(init=False)
    best_G: Doubles = field(init=False)
    step_F: Doubles = field(init=False)
    step_G: Doubles = field(init=False)
    at: list[_Place] = field(init=False)
    these: list[int] = field(init=False)  # problems to be solved

    def run(self) -> Solution:
        p, s = self.problem, self.solution
        self.weight = p.a.sum(1)
        self.best_F, self.best_G = s.F.copy(), s.G.copy()
        self.step_F, self.step_G = np.zeros_like(s.F), np.zeros_like(s.G)
        self.rows, self.cols = np.zeros_like(s.F), np.zeros_like(s.G)
        s.n_iter, s.n_newton = np.array(s.n_iter), np.zeros(p.batch, np.int64)
        self.at = [
            _Place(
                left=self.settings.max_iter - int(done) - 1,
                entry=_SPARSE_ENTRY,
                noise=_noise(p, s, b),
            )
            for b, done in enumerate(s.n_iter)
        ]
        self.these = [int(b) for b in np.flatnonzero(~s.converged)]
        scaling, stepping = list(self.these), list[int]()
        while scaling or stepping:
            if scaling:
                stepping += self._scale(scaling)
                scaling = []
            tried = []
            for b in stepping:  # a shorter step keeps its direction
                if self.at[b].alpha < 1 or self._direction(b):
                    tried.append(b)
                else:
                    scaling.append(b)
            stepping, failed = self._try(tried) if tried else ([], [])
            scaling += failed
        return self._finish()

    def _scale(self, problems: list[int]) -> list[int]:
        """Sinkhorn iterations; returns the problems that go on."""
        p, s, settings = self.problem, self.solution, self.settings
        groups: dict[tuple[float, int], list[int]] = {}
        dirty = []
        for b in problems:
            place = self.at[b]
            if place.entry > 0:  # not there yet
                wanted = max(settings.tol, place.entry), place.left
            else:
                wanted = settings.tol, min(place.left, place.burst)
                place.burst = min(2 * place.burst, _LONGEST_BURST)
                dirty.append(b)
            # Digits that the sums of weights have in a batch as alone.
            key = wanted[0] * float(f"{self.weight[b]:.9e}"), wanted[1]
            groups.setdefault(key, []).append(b)
        if dirty:
            right = p.transform(s.F, s.G, columns=True, problems=dirty)
            with np.errstate(divide="ignore"):
                s.G[dirty] = right[dirty] + np.log(p.b[dirty])
        for (tol, most), which in groups.items():
            if most <= 0:
                continue
            _, done = scale(
                p,
                s.F,
                s.G,
                problems=which,
                tol=tol,
                max_iter=most,
                form=self.forms,
                acceleration=settings.acceleration,
            )
            for b in which:
                s.n_iter[b] += done[b]
                self.at[b].left -= int(done[b])
        for b in problems:
            here, there = p.a[b] > 0, p.b[b] > 0
            of_rows, of_cols = p.a[b, here] @ s.F[b, here], p.b[b, there] @ s.G[b, there]
            # Constants may have gone from one side to the other, and would cost digits.
            shift = (of_rows - of_cols) / (2 * self.weight[b])
            s.F[b] -= shift
            s.G[b] += shift
        rows, cols, _ = p.marginals(s.F, s.G, problems=problems)
        going = []
        for b in problems:
            place = self.at[b]
            self._arrive(b, s.F[b], s.G[b], rows[b], cols[b], newton=False)
            if place.error > place.entry > 0 and place.left <= 0:
                continue
            if not self._done(place):
                going.append(b)
        return going

    def _arrive(
        self, b: int, F: Doubles, G: Doubles, rows: Doubles, cols: Doubles, *, newton: bool
    ) -> None:
        """Take new scalings and their marginals."""
        place, error = self.at[b], self._error(b, rows, cols)
        place.alpha = 1.0
        self.rows[b], self.cols[b] = rows, cols
        place.error, place.mass = error, float(rows.sum())
        place.stalled += 1
        if error < 0.9 * place.mark:
            place.mark, place.stalled = error, 0
        if error < place.best or not np.isfinite(place.best):
            place.best, place.best_is_newton = error, newton
            self.best_F[b], self.best_G[b] = F, G

    def _error(self, b: int, rows: Doubles, cols: Doubles) -> float:
        p = self.problem
        return float((abs(rows - p.a[b]).sum() + abs(cols - p.b[b]).sum()) / self.weight[b])

    def _done(self, place: _Place) -> bool:
        near = place.error < 64 * place.noise  # sums of the plan tell no more
        return (
            place.error <= self.settings.tol
            or place.left <= 0
            or place.stalled >= (_STALLED if near else _HOPELESS)
            or not np.isfinite(place.error)
        )

    def _direction(self, b: int) -> bool:
        """Newton's direction; False if there is none to follow, and iterations must come first."""
        p, s, place = self.problem, self.solution, self.at[b]
        rows, cols = self.rows[b], self.cols[b]
        rhs_rows, rhs_cols = p.a[b] - rows, p.b[b] - cols
        tol = 0.1 * min(0.1, place.error**0.5)
        level = _KEPT * min(1.0, place.error)
        most = min(p.n * p.m, max(_STORED, 16 * (p.n + p.m)))
        kept = p.kept(s.F, s.G, b, np.sqrt(level / p.n * rows), np.sqrt(level / p.m * cols), most)
        if place.entry > 0:
            dense = kept is None or len(kept[1]) > _SPARSE_PLAN * p.n * p.m
            if dense and place.error > _ENTRY and place.entry > _ENTRY:
                place.entry = _ENTRY
                return False
            place.entry = 0.0
        z_rows, z_cols = self.step_F[b], self.step_G[b]
        if kept is None:
            self._full_direction(b, rhs_rows, rhs_cols, tol)
        else:
            _, _, how = _core.newton_solve(
                *kept,
                rows,
                cols,
                rhs_rows,
                rhs_cols,
                z_rows,
                z_cols,
                tol,
                _SPARSE_STEPS,
                place.method,
            )
            # Factorised once, the systems to come are no easier; too large once, no smaller.
            if how == "fill" and place.method == "direct":
                place.method = "cg"
                return self._direction(b)
            place.method = {"cg": place.method, "direct": "direct", "fill": "cg"}[how]
        place.slope = float(rhs_rows @ z_rows + rhs_cols @ z_cols)
        place.linear = float(p.a[b] @ z_rows + p.b[b] @ z_cols)
        reach = max(abs(z_rows).max(), abs(z_cols).max())
        if not (0 < place.slope < np.inf and reach < _FARTHEST):
            place.left -= 1
            s.n_newton[b] += 1
            return False
        return True

    def _full_direction(self, b: int, rhs_rows: Doubles, rhs_cols: Doubles, tol: float) -> None:
        """Conjugate gradients with products with the whole plan, none of it stored."""
        p, s = self.problem, self.solution
        n = p.n
        sums = np.concatenate([self.rows[b], self.cols[b]])
        scales = np.where(sums > 0, 1 / np.sqrt(np.where(sums > 0, sums, 1.0)), 0.0)
        u, v = np.zeros_like(s.F), np.zeros_like(s.G)
        r = scales * np.concatenate([rhs_rows, rhs_cols])
        y, d = np.zeros_like(r), r.copy()
        rr = float(r @ r)
        least = tol * tol * rr
        for _ in range(_FULL_STEPS):
            if not rr > least:
                break
            w = scales * d
            u[b], v[b] = w[:n], w[n:]
            of_v, of_u = p.product(s.F, s.G, u, v, problems=[b])
            q = _SHIFT * d + scales * np.concatenate([of_v[b], of_u[b]])
            dq = float(d @ q)
            if not dq > 0:
                break
            y += rr / dq * d
            r -= rr / dq * q
            rr, before = float(r @ r), rr
            d = r + rr / before * d
        y *= scales
        self.step_F[b], self.step_G[b] = y[:n], y[n:]

    def _try(self, problems: list[int]) -> tuple[list[int], list[int]]:
        """Go along the directions, all in one pass. Returns the problems that go on, and those whose step failed."""
        p, s = self.problem, self.solution
        F, G = s.F.copy(), s.G.copy()
        for b in problems:
            alpha = self.at[b].alpha
            F[b] += alpha * self.step_F[b]
            G[b] += alpha * self.step_G[b]
        rows, cols, _ = p.marginals(F, G, problems=problems)
        going, failed = [], []
        for b in problems:
            place = self.at[b]
            with np.errstate(over="ignore"):  # far away the plan overflows, and the step fails
                mass = float(rows[b].sum())
            # Of the dual over eps, <a, F> + <b, G> - mass: the change itself, which is much smaller than the value.
            gain = place.alpha * place.linear - (mass - place.mass)
            slack = place.noise * place.mass
            if np.isfinite(mass) and gain >= _ARMIJO * place.alpha * place.slope - slack:
                taken = self._error(b, rows[b], cols[b]) <= _GROWTH * place.error
            elif place.alpha / 2 >= _LEAST_STEP:
                place.alpha /= 2
                going.append(b)
                continue
            else:
                taken = False
            place.left -= 1
            s.n_newton[b] += 1
            if taken:
                s.F[b], s.G[b] = F[b], G[b]
                self._arrive(b, F[b], G[b], rows[b], cols[b], newton=True)
                place.burst = _BURST
                if not self._done(place):
                    going.append(b)
            else:
                place.alpha = 1.0
                failed.append(b)
        return going, failed

    def _finish(self) -> Solution:
        """Back to the best, and one plain iteration after Newton steps."""
        p, s, settings = self.problem, self.solution, self.settings
        error = np.array(s.error)
        error[self.these] = [self.at[b].best for b in self.these]
        s.F, s.G = self.best_F, self.best_G
        last = [b for b in self.these if self.at[b].best_is_newton]
        if last:
            F, G = s.F.copy(), s.G.copy()
            # A kernel is not worth storing for one iteration.
            forms = np.where(self.forms == LOG_DOMAIN, LOG_DOMAIN, RECOMPUTED)
            for form in np.unique(forms[last]):
                mine = [b for b in last if forms[b] == form]
                p.iterate(F, G, problems=mine, form=int(form), max_iter=1, tol=-1.0)
            rows, cols, _ = p.marginals(F, G, problems=last)
            for b in last:
                after = self._error(b, rows[b], cols[b])
                if after <= max(error[b], settings.tol):
                    s.F[b], s.G[b], error[b] = F[b], G[b], after
                    s.n_iter[b] += 1
        s.error, s.method = error, "newton"
        s.converged = np.array(s.converged)
        s.converged[self.these] = error[self.these] <= settings.tol
        return s


def _noise(problem: Problem, solution: Solution, b: int) -> float:
    """Relative rounding of an entry of the plan: that of the scalings, which C / eps is as large as."""
    unit = np.finfo(problem.at.dtype).eps
    sizes = [abs(v[np.isfinite(v)]) for v in (solution.F[b], solution.G[b])]
    return float(unit * (16 + sum(v.max(initial=0.0) for v in sizes)))
