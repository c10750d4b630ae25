"""Sinkhorn scaling with acceleration: many iterations of the executors, and what is done between them.

Anderson (1965) acceleration, guarded by the dual value; over-relaxation with Young's estimate of the best factor; for
relaxed marginals the best shift of the two potentials against each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean.transport._anderson import History
from mckean.transport._problem import LOG_DOMAIN, RECOMPUTED, Doubles, Problem

__all__ = ["Stall", "scale"]

_FIRST = 20  # plain iterations before anything else: easy problems end here
_BLOCK = 5  # plain iterations between two extrapolations
_MEMORY = 15
_SOON = 25  # iterations: fewer than these to go, and plain ones do
_PATIENCE = 500
_REACH = 30.0  # a move of log scalings that can not overflow: exp(30) times a weight is far from it in float32
_FAR = 10.0  # times the largest log scaling: no extrapolation goes farther
_HISTORY_BYTES = 1 << 27
_RELAXED = 20  # over-relaxed iterations between two plain ones
_OFTEN_REJECTED = 3
_PACE = 40  # iterations that a contraction is measured over

Mask = Any


def scale(
    problem: Problem,
    F: Doubles,
    G: Doubles,
    *,
    problems: Any,
    tol: float,
    max_iter: int,
    form: Any = RECOMPUTED,
    acceleration: Any = "anderson",
    powers: tuple[Doubles, Doubles] | None = None,
    enough: int | None = None,
) -> tuple[Doubles, Any]:
    """Iterate `problems` from scalings whose columns are right, in place, until the error of the rows is at most `tol`.

    Parameters
    ----------
    problem : Problem
    F, G : ndarray, (batch, n) and (batch, m), float64
        Log scalings, with sum_i P_ij = b_j on entry (no matter where marginals are relaxed) and on return.
    problems : array of int
        Those to work on.
    tol : float
        For sum_i |sum_j P_ij - a_i|; where marginals are relaxed, for the largest change of F and G in an iteration and
        in a shift of one against the other.
    max_iter : int
        Of each problem; rejected iterations count.
    form : int, or array (batch,) of int
        Scaling forms of the executors.
    acceleration : {"anderson", "relaxation", None} or float
        "relaxation": over-relaxation, its factor from the contraction seen (Young's rule); a float in (0, 2): with this
        factor while the dual value rises. Relaxed marginals know "anderson" and None; others mean "anderson".
    powers : pair of ndarray (batch,), optional
        rho / (rho + eps) of the rows and of the columns; 1: met exactly.
    enough : int, optional
        Give up on a problem with an error below 0.01 whose contraction lets expect more iterations than these.

    Returns
    -------
    errors : ndarray (batch,), float64
        Of the returned scalings if at most `tol`, else of those an iteration before; infinite for others.
    iterations : ndarray (batch,), int64
    """
    errors = np.full(problem.batch, np.inf)
    done = np.zeros(problem.batch, np.int64)
    problems = np.asarray(problems, np.int64)
    if not len(problems) or max_iter <= 0:
        return errors, done
    if powers is not None:
        relaxed = (powers[0][problems] < 1) | (powers[1][problems] < 1)
        groups = [(problems[~relaxed], None), (problems[relaxed], powers)]
    else:
        groups = [(problems, None)]
    for group, its_powers in groups:
        if not len(group):
            continue
        at = _Run(problem, F, G, tol, max_iter, form, its_powers, errors, done, enough)
        if acceleration is None:
            _plain(at, group)
        elif acceleration == "anderson" or its_powers is not None:
            most = max(1, _HISTORY_BYTES // (16 * _MEMORY * problem.m))
            first = _first(at, group)
            for begin in range(0, len(first), most):
                _anderson(at, first[begin : begin + most])
        else:
            _over_relaxed(at, group, None if acceleration == "relaxation" else float(acceleration))
    return errors, done


class Stall:
    """Says which errors have stopped falling, and are as small as rounding lets them be."""

    def __init__(self, dtype: str, batch: int, patience: int = _PATIENCE) -> None:
        self._base = 3e-6 if dtype == "float32" else 1e-12
        self._patience = patience
        self._best = np.full(batch, np.inf)
        self._at = np.zeros(batch, np.int64)

    def __call__(self, rows: Any, errors: Doubles, done: Any, F: Doubles, G: Doubles) -> Mask:
        """Of problems `rows` with these errors after `done` iterations at log scalings (rows, n), (rows, m)."""
        better = errors < self._best[rows]
        self._best[rows] = np.where(better, errors, self._best[rows])
        self._at[rows] = np.where(better, done, self._at[rows])
        waited = done - self._at[rows] >= self._patience
        if not waited.any():
            return waited
        # Scalings are float64 numbers, whatever the costs are.
        terms = [np.max(np.where(np.isfinite(v), abs(v), 0.0), axis=1) for v in (F, G)]
        floor = np.maximum(self._base, 4.4e-16 * (terms[0] + terms[1]))
        return np.asarray(waited & (self._best[rows] <= floor))


class _Run:
    """What a call of `scale` works on."""

    def __init__(
        self,
        problem: Problem,
        F: Doubles,
        G: Doubles,
        tol: float,
        max_iter: int,
        form: Any,
        powers: tuple[Doubles, Doubles] | None,
        errors: Doubles,
        done: Any,
        enough: int | None,
    ) -> None:
        self.problem, self.F, self.G = problem, F, G
        self.tol, self.max_iter, self.powers = tol, max_iter, powers
        self.errors, self.done, self.enough = errors, done, enough
        self.mark_errors = np.full(problem.batch, np.inf)  # errors some time ago, and when
        self.mark_done = np.zeros(problem.batch, np.int64)
        self.forms = np.full(problem.batch, form)
        self.stall = Stall(problem.at.dtype, problem.batch)
        self.unit = 1.2e-7 if problem.at.dtype == "float32" else 2.2e-16
        dead_rows, dead_cols = problem.a <= 0, problem.b <= 0
        self.dead_rows = dead_rows if dead_rows.any() else None
        self.dead_cols = dead_cols if dead_cols.any() else None
        with np.errstate(divide="ignore"):
            self.log_a = np.log(problem.a) if powers is not None else None
            self.log_b = np.log(problem.b) if powers is not None else None

    def rows(self, which: Any) -> Doubles:
        """F of these problems, with 0 for points without weight."""
        if self.dead_rows is None:
            return np.asarray(self.F[which])
        return np.where(self.dead_rows[which], 0.0, self.F[which])

    def cols(self, which: Any) -> Doubles:
        if self.dead_cols is None:
            return np.asarray(self.G[which])
        return np.where(self.dead_cols[which], 0.0, self.G[which])

    def put(self, which: Any, F: Doubles | None, G: Doubles) -> None:
        if F is not None:
            self.F[which] = (
                F if self.dead_rows is None else np.where(self.dead_rows[which], -np.inf, F)
            )
        self.G[which] = G if self.dead_cols is None else np.where(self.dead_cols[which], -np.inf, G)

    def iterate(
        self, which: Any, count: Any, *, stop: bool = True, relaxation: float = 1.0
    ) -> tuple[Doubles, Any]:
        """At most `count` iterations of each problem and no more than are left: their errors and iterations.
        A problem that runs out of range starts again in the log domain, from where it was."""
        wanted = np.minimum(count, self.max_iter - self.done[which])
        before = self.rows(which), self.cols(which)
        errors, steps = self._native(which, wanted, stop, relaxation)
        lost = ~self._sound(which)
        if lost.any():
            again = lost & (self.forms[which] != LOG_DOMAIN)
            self.put(which[lost], before[0][lost], before[1][lost])
            errors[lost] = np.inf
            self.forms[which[again]] = LOG_DOMAIN
            if again.any():
                redone = self._native(which[again], wanted[again] - steps[again], stop, relaxation)
                errors[again] = redone[0]
                steps[again] += redone[1]
                still = again & ~self._sound(which)
                self.put(which[still], before[0][still], before[1][still])
                errors[still] = np.inf
        self.done[which] += steps
        return errors, steps

    def _native(
        self, which: Any, wanted: Any, stop: bool, relaxation: float
    ) -> tuple[Doubles, Any]:
        errors, steps = np.full(len(which), np.inf), np.zeros(len(which), np.int64)
        forms = self.forms[which]
        for count in np.unique(wanted):
            for form in np.unique(forms):
                mine = (wanted == count) & (forms == form)
                if count <= 0 or not mine.any():
                    continue
                e, k = self.problem.iterate(
                    self.F,
                    self.G,
                    problems=which[mine],
                    form=int(form),
                    max_iter=int(count),
                    tol=self.tol if stop else -1.0,
                    relaxation=relaxation,
                    powers=self.powers,
                )
                errors[mine], steps[mine] = e[which[mine]], k[which[mine]]
        errors[np.isnan(errors)] = np.inf
        return errors, steps

    def _sound(self, which: Any) -> Mask:
        return np.isfinite(self.rows(which)).all(1) & np.isfinite(self.cols(which)).all(1)

    def stopped(self, which: Any, errors: Doubles) -> Mask:
        """Which of these need no more iterations, or can not have them."""
        self.errors[which] = errors
        over = (errors <= self.tol) | (self.done[which] >= self.max_iter) | np.isinf(errors)
        if self.enough is not None:
            over |= self._slow(which, errors)
        return over | self.stall(which, errors, self.done[which], self.F[which], self.G[which])

    def _slow(self, which: Any, errors: Doubles) -> Mask:
        """Which of these problems would take more than `enough` iterations, at the pace of the last ones."""
        passed = self.done[which] - self.mark_done[which]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.log(errors / self.mark_errors[which]) / passed
            to_go = np.where(rate < 0, np.log(self.tol / errors) / rate, np.inf)
        due = passed >= _PACE
        known = due & np.isfinite(self.mark_errors[which])
        self.mark_errors[which[due]] = errors[due]
        self.mark_done[which[due]] = self.done[which[due]]
        return known & (errors < 1e-2) & (to_go > self.enough)

    # The dual value, in units of eps and up to a constant, of scalings just after an iteration.

    def gain(self, which: Any, F: Doubles, G: Doubles) -> Doubles:
        """Of met marginals: by how much the value has risen since these (from `rows` and `cols`)."""
        a, b = self.problem.a[which], self.problem.b[which]
        return np.asarray((a * (self.rows(which) - F)).sum(1) + (b * (self.cols(which) - G)).sum(1))

    def noise(self, which: Any) -> Doubles:
        """How much of the value is rounding."""
        a, b = self.problem.a[which], self.problem.b[which]
        return np.asarray(
            self.unit * ((a * abs(self.rows(which))).sum(1) + (b * abs(self.cols(which))).sum(1))
        )

    def shift(self, which: Any) -> tuple[Doubles, Doubles]:
        """Of relaxed marginals: moves the potentials against each other to where the dual value is largest, F + s and
        G - s with the same plan; the size of s, and the value."""
        assert self.powers is not None and self.log_a is not None and self.log_b is not None
        logs, reach, fixed = [], [], []
        linear = np.zeros(len(which))
        for power, log_w, w, scalings, dead in (
            (self.powers[0], self.log_a, self.problem.a, self.F, self.dead_rows),
            (self.powers[1], self.log_b, self.problem.b, self.G, self.dead_cols),
        ):
            t = power[which]
            with np.errstate(divide="ignore", invalid="ignore"):
                rho = t / (1.0 - t)  # in units of eps
                potential = scalings[which] - log_w[which]
                if dead is not None:
                    potential = np.where(dead[which], 0.0, potential)
                # sum_i w_i exp(-potential_i / rho), by its logarithm
                terms = log_w[which] - potential / rho[:, None]
                top = terms.max(1, keepdims=True)
                logs.append(top[:, 0] + np.log(np.exp(terms - top).sum(1)))
            reach.append(rho)
            fixed.append(np.isinf(rho))
            linear = linear + np.where(fixed[-1], (w[which] * potential).sum(1), 0.0)
        s = (logs[0] - logs[1]) / (1.0 / reach[0] + 1.0 / reach[1])
        s = np.where(np.isfinite(s), s, 0.0)
        self.F[which] += s[:, None]
        self.G[which] -= s[:, None]
        with np.errstate(over="ignore", invalid="ignore"):
            mass = np.exp(logs[1])  # of the plan: columns were updated last
            a_mass, b_mass = self.problem.a[which].sum(1), self.problem.b[which].sum(1)
            value = linear - mass
            value += np.where(fixed[0], s * a_mass, -reach[0] * np.exp(logs[0] - s / reach[0]))
            value += np.where(fixed[1], -s * b_mass, -reach[1] * np.exp(logs[1] + s / reach[1]))
        return abs(s), np.asarray(value)


def _plain(at: _Run, which: Any) -> None:
    count = 5 if at.powers is not None else 100
    while len(which):
        errors, _ = at.iterate(which, count)
        if at.powers is not None:
            errors = np.maximum(errors, at.shift(which)[0])
        which = which[~at.stopped(which, errors)]


def _first(at: _Run, which: Any) -> Any:
    """Plain iterations, as many as an easy problem needs. Returns the problems that need more."""
    if at.powers is not None:
        at.shift(which)
        return which
    errors, _ = at.iterate(which, _FIRST)
    return which[~at.stopped(which, errors)]


def _anderson(at: _Run, which: Any) -> None:
    problem = at.problem
    history = History(len(which), problem.m, _MEMORY)
    rejected = np.zeros(len(which), np.int64)
    block = np.full(len(which), _BLOCK)
    # Extrapolations that rounding leaves the dual value silent about are taken on trial, and given back if the error
    # is larger after the next block.
    trial = np.zeros(len(which), bool)
    trial_F, trial_G = np.zeros((0, problem.n)), np.zeros((0, problem.m))
    first = at.powers is None
    while len(which):
        before, old_errors = at.cols(which), at.errors[which]
        errors, steps = at.iterate(which, block)
        if at.powers is not None:
            shifts, value = at.shift(which)
            errors = np.maximum(errors, shifts)
        if trial.any():
            worse = errors[trial] > 2 * old_errors[trial]
            back = np.flatnonzero(trial)[worse]
            at.put(which[back], trial_F[worse], trial_G[worse])
            errors[back] = old_errors[back]
            history.forget(back)
            rejected[back] += 1
            steps[back] = 0  # nothing to remember
        over = at.stopped(which, errors)
        if over.any():
            on = np.flatnonzero(~over)
            which, errors, steps, old_errors = which[on], errors[on], steps[on], old_errors[on]
            before, rejected, block = before[on], rejected[on], block[on]
            if at.powers is not None:
                value = value[on]
            history.keep(on)
            if not len(which):
                return
        trial = np.zeros(len(which), bool)
        whole = np.flatnonzero(steps == _BLOCK)
        history.push(whole, at.cols(which[whole]), at.cols(which[whole]) - before[whole])
        block[:] = _BLOCK
        if first:
            first = False
            # Plain iterations that are nearly done need no help.
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.log(errors / old_errors) / steps
                soon = np.log(at.tol / errors) / rate <= _SOON
            soon &= rate < 0
            block[soon] = int(1.5 * _SOON)
            history.forget(np.flatnonzero(soon))
        ready = np.flatnonzero((history.pairs >= 2) & (at.done[which] < at.max_iter))
        if not len(ready):
            continue
        these = which[ready]
        F, G = at.rows(these), at.cols(these)
        proposal = history.propose(ready)
        if at.powers is None:
            # A constant that moves between F and G changes no plan, but its size costs digits.
            b = problem.b[these]
            proposal -= ((proposal - G) * b).sum(1, keepdims=True) / b.sum(1, keepdims=True)
        finite = abs(proposal - G).max(1) <= _FAR * (1.0 + abs(G).max(1))  # and no NaN
        if not finite.all():
            history.forget(ready[~finite])
            ready, these, proposal = ready[finite], these[finite], proposal[finite]
            F, G = F[finite], G[finite]
            if not len(ready):
                continue
        at.put(these, None, proposal)
        forms = at.forms[these]
        at.forms[these[abs(proposal - G).max(1) > _REACH]] = LOG_DOMAIN
        at.iterate(these, 1, stop=False)
        at.forms[these] = forms
        if at.powers is None:
            gain, noise = at.gain(these, F, G), at.noise(these)
        else:
            _, reached = at.shift(these)
            gain, noise = reached - value[ready], at.unit * abs(reached)
        accepted = gain >= -noise
        refused = ~accepted
        if refused.any():
            at.put(these[refused], F[refused], G[refused])
            rejected[ready[refused]] += 1
            often = ready[rejected[ready] >= _OFTEN_REJECTED]
            history.forget(often)
            rejected[often] = 0
        rejected[ready[accepted]] = 0
        doubtful = accepted & (gain <= noise)
        trial[ready[doubtful]] = True
        trial_F, trial_G = F[doubtful], G[doubtful]


def _over_relaxed(at: _Run, which: Any, fixed: float | None) -> None:
    """Over-relaxation; Young's rule for the factor unless it is `fixed`. Columns are made right before every report."""
    factor = np.full(len(which), 1.0 if fixed is None else fixed)
    errors, _ = at.iterate(which, _RELAXED // 2)
    on = ~at.stopped(which, errors)
    which, factor, errors = which[on], factor[on], errors[on]
    burst = np.full(len(which), _RELAXED)
    while len(which):
        F, G, start = at.rows(which), at.cols(which), at.done[which]
        fell = np.zeros(len(which), bool)
        for w, count in sorted(set(zip(factor.tolist(), burst.tolist(), strict=True))):
            mine = np.flatnonzero((factor == w) & (burst == count))
            # The last two are plain.
            room = np.clip(at.max_iter - at.done[which[mine]] - 2, 0, count)
            try:
                at.iterate(which[mine], room, relaxation=w)
            except ValueError:  # out of the range of numbers
                fell[mine] = True
        at.put(which[fell], F[fell], G[fell])
        at.iterate(which, 1, stop=False)
        fell |= ~(at.gain(which, F, G) >= -at.noise(which))
        at.put(which[fell], F[fell], G[fell])
        # Plain iterations break the momentum that a factor near 2 builds up: fewer of them while all goes well.
        longest = np.clip(4.0 / (2.0 - factor), _RELAXED, 400).astype(np.int64)
        burst = np.where(fell, _RELAXED, np.minimum(2 * burst, longest))
        factor[fell] = 1.0 + 0.5 * (factor[fell] - 1.0)
        old = errors
        errors, _ = at.iterate(which, 1)
        errors = np.where(at.done[which] > start + 1, errors, old)
        if fixed is None:
            rate = (errors / old) ** (1.0 / np.maximum(at.done[which] - start, 1))
            w = factor
            with np.errstate(divide="ignore", invalid="ignore"):
                theta = (rate + w - 1.0) ** 2 / (rate * w * w)
            usable = (errors < 0.1) & (rate > w - 1.0) & (theta < 1.0) & ~fell
            best = 2.0 / (1.0 + np.sqrt(np.where(usable, 1.0 - theta, 1.0)))
            # A grid of factors lets problems of a batch share calls.
            factor = np.where(usable, np.minimum(np.round(best * 64) / 64, 1.984375), factor)
        on = ~at.stopped(which, errors)
        which, factor, errors, burst = which[on], factor[on], errors[on], burst[on]
