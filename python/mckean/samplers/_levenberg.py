"""Langevin chains whose metric is learnt from the ensemble."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean import lowrank
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import (
    ConvergenceWarning,
    as_count,
    as_seed,
    one_of,
    positive,
)
from mckean.samplers._parts import Target, starting_points
from mckean.samplers._score_model import Products, from_products, from_scores, score_ratio
from mckean.samplers._whitening import (
    SQRT_MATVEC,
    Metric,
    adjusted_move,
    start_block,
    unadjusted_move,
)
from mckean.stepping import _combine_checked

__all__ = ["LevenbergMarquardtLangevin", "LevenbergMarquardtState"]

_SOURCES = ("scores", "lanczos", "nystrom", "history")
_COPY = np.ones((1, 1))
_MANY = 32  # particles from which the ratio of score variance to curvature is not noise
_TOO_LARGE = 3.0


@dataclass(slots=True)
class LevenbergMarquardtState:
    """State of `LevenbergMarquardtLangevin`.

    `x`, shape (n, d); `U`, `s`, `t`, the model in use; `w`, `grad`, `log_density`, of the particles
    that move, in the model's coordinates (None without adjustment); `accepted`, shape (n,), how many
    proposals of each particle were accepted in the last step, of `n_proposals` in all;
    `score_ratio`; `pairs`, shape (2, m, d), and `means`, shape (2, d), for the source "history"; and
    counters.
    """

    x: Any
    U: Any
    s: Any
    t: float
    w: Any
    grad: Any
    log_density: Any
    accepted: Any
    n_proposals: int
    score_ratio: float
    pairs: Any
    means: Any
    seed: int
    step: int
    n_gradients: int
    n_products: int


class LevenbergMarquardtLangevin:
    """Langevin chain in the metric of a damped low-rank Hessian that the ensemble provides.

    The steps are those of `PreconditionedMALA` (of `PreconditionedLangevin` with ``adjust=False``) with
    ``M = U diag(s) U^T + t I`` of rank `rank`. A metric that depends on the particle it moves would
    bias the chain, so after `burn_in` steps, in which all particles use the Hessian at their mean:

    * with ``source="scores"`` and enough particles, M is the second moment of the scores ``grad log p``
      of one half of the particles and moves the other half, twice in a step, while the first one
      rests; every `refresh` steps the halves change places and M is renewed. Given one half, the
      kernel of the other leaves the target invariant. "Enough" is ``n >= 4 max(d, rank)``;
    * otherwise M is made once more and frozen.

    Parameters
    ----------
    target : object or callable
        With ``log_density(x)`` and ``grad_log_density(x)``, vectorised over particles, in the framework,
        dtype and device of ``x``; without adjustment the gradient, or that function itself, is enough.
        Results must be new arrays each time.
    step : float, optional
        Step size h > 0, in units in which M is the identity: 0.3 with adjustment, 0.1 without, by
        default. With adjustment `burn_in` takes h / 3: far out, longer steps are all refused.
    rank : int
        Columns of U.
    damping : float, optional
        t > 0. By default the median of the nonzero eigenvalues that the rank leaves out; at least 1.5 h
        times the largest of those (the largest itself without adjustment); and at least a thousandth
        of the largest of all. The model of a Hessian by "lanczos" or "nystrom" knows ``rank + 10``
        of those left out; "history" has a scale of its own, to which `damping` is added.
    refresh : int
        Steps between new models.
    source : {"scores", "lanczos", "nystrom", "history"}
        What the model after `burn_in` is made of. "lanczos": the Hessian at the mean of the particles
        through differences of gradients, its negative part clipped; "nystrom": the same by the
        randomised Nystrom method, for log-concave targets; "history": compact L-BFGS of the path of
        the mean in `burn_in`, which costs nothing but is the crudest.
    adjust : bool
        Accept or reject by Metropolis' rule, which makes the target invariant for every h and model.
    burn_in : int
        Steps of adaptation. Do not use their positions: give `mckean.run` a ``burn_in`` of at least this.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or `target` lacks what is needed. In `init`
        and `step`: if no direction of positive curvature is found and `damping` is not given, or a
        density or gradient at the start is not finite.
    FloatingPointError
        If the gradient is not finite beside the mean of the particles.

    Warns
    -----
    ConvergenceWarning
        If after `burn_in` the variance of the scores in the top direction is more than three times the
        curvature there. In equilibrium the two are equal; a high acceptance rate proves nothing.

    See Also
    --------
    PreconditionedMALA, mckean.diffusion.LML

    Notes
    -----
    ``result.stats`` has "acceptance_rate", the share of proposals accepted in the saved step;
    "score_ratio", the ratio of the warning above when the model in use was made; and "n_products", the
    products with the Hessian so far, each a call of the gradient with two points.
    ``result.n_gradient_evaluations`` counts gradients of all particles (halves by half). Deterministic
    given the seed.

    In a direction of curvature a that the model leaves out a step is h a / t of the way to the mode, and
    beyond 2 the chain diverges or rejects everything. Where the spectrum has no gap the median alone
    is too little: with 50 eigenvalues from 1000 to 1 in geometric progression, rank 8, h = 0.3 and 400
    particles, one proposal in a hundred is accepted with it, and two in three with the default. The
    price is slow soft directions, for which a higher rank is the cure. Without adjustment variances
    are too large by 1 / (1 - h / 2) at most, and by a little more where the scores are few.

    Far from equilibrium the scores mislead: a cloud too wide by a factor has scores too large by the
    same factor, the steps become too short and the chain barely contracts, all proposals being
    accepted. Hence the Hessian in `burn_in`.

    References
    ----------
    .. [1] "Unleashing High-Quality Image Generation in Diffusion Sampling Using Second-Order
       Levenberg-Marquardt-Langevin"
    .. [2] B. Leimkuhler, C. Matthews, J. Weare, "Ensemble preconditioning for Markov chain Monte Carlo
       simulation", Statistics and Computing 28, 2018

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.geomspace(1000.0, 1.0, 10)
    >>> target = mk.targets.Gaussian(np.zeros(10), precision=a)
    >>> chain = mk.samplers.LevenbergMarquardtLangevin(target, rank=4)
    >>> result = mk.run(chain, mk.random.normal(0, (400, 10)), 200, burn_in=100, thin=5, progress=False)
    >>> (result.x.reshape(-1, 10).var(0) * a).round(0)
    array([1., 1., 1., 1., 1., 1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        target: Any,
        step: float | None = None,
        rank: int = 8,
        damping: float | None = None,
        refresh: int = 50,
        source: str = "scores",
        adjust: bool = True,
        burn_in: int = 60,
    ) -> None:
        if not isinstance(adjust, bool):
            raise TypeError(f"adjust: expected True or False, got {adjust!r}")
        self.target, self.adjust = target, adjust
        self.step_size = (0.3 if adjust else 0.1) if step is None else positive(step, "step")
        # Of h q a = h a / t where a is the largest eigenvalue left out. Rejections bear 2/3; without
        # them the bias, 1 / (1 - h q a / 2), must not exceed that of the directions kept.
        self._share = 1.5 * self.step_size if adjust else 1.0
        self.rank = as_count(rank, "rank", least=1)
        self.damping = None if damping is None else positive(damping, "damping")
        self.refresh = as_count(refresh, "refresh", least=1)
        self.source = one_of(source, "source", _SOURCES)
        self.burn_in = as_count(burn_in, "burn_in")
        if source == "history" and self.burn_in < 2:
            raise ValueError(
                f"burn_in: expected at least 2 steps for source='history', got {burn_in}"
            )
        name = "LevenbergMarquardtLangevin with adjust=True"
        self._target = Target(target, needs_density_for=name if adjust else "")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        names = (
            "target", "step_size", "rank", "damping", "refresh", "source", "adjust", "burn_in",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def init(self, x0: Any, seed: Any = 0) -> LevenbergMarquardtState:
        """Return the state at `x0`, shape (n, d), where density and gradient must be finite."""
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0].result()
        accepted = x.framework.asarray(np.zeros(x.shape[0], np.uint8), x.device)
        empty = LevenbergMarquardtState(
            copy, None, None, 0.0, None, None, None, accepted, 0, math.nan, None, None,
            as_seed(seed), 0, 0, 0,
        )  # fmt: skip
        return self._renew(empty, as_input(copy, "x0", shape=("n", "d")))

    def step(self, state: LevenbergMarquardtState) -> LevenbergMarquardtState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        if self._due(state.step, x):
            state = self._renew(state, x)
            x = as_input(state.x, "state.x")
        first, last = self._moving(state.step, x)
        halves = last - first < x.shape[0]
        after = state.step - self.burn_in
        h = self.step_size if after >= 0 or not self.adjust else self.step_size / 3.0
        moves = 2 if halves else 1
        # No two moves of a chain share a counter, and none of its particles the noise of another.
        counter = state.step if not halves else self.burn_in + 2 * after
        metric = self._metric(state, x)
        moved, changes, accepted = self._move(state, x, metric, h, range(counter, counter + moves))
        everything, count = moved, accepted
        if halves:
            rest = (x.array[:first], x.array[last:])
            everything = x.framework.concatenate([rest[0], moved, rest[1]])
            idle = (np.zeros(len(r), np.uint8) for r in rest)
            before, behind = (x.framework.asarray(a, x.device) for a in idle)
            count = x.framework.concatenate([before, accepted, behind])
        new = replace(
            state,
            x=everything,
            accepted=count,
            n_proposals=moves * (last - first) if self.adjust else 0,
            step=state.step + 1,
            n_gradients=state.n_gradients + 1,
            **changes,
        )
        return self._remember(new, metric) if self.source == "history" and after < 0 else new

    def stats(self, state: LevenbergMarquardtState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        out: dict[str, Any] = {"score_ratio": state.score_ratio, "n_products": state.n_products}
        if self.adjust:
            total = int(to_numpy(state.accepted).sum())
            out["acceptance_rate"] = total / max(state.n_proposals, 1)
        return out

    # ---- which model, for whom -----------------------------------------------------------------

    def _by_halves(self, x: Input) -> bool:
        return self.source == "scores" and x.shape[0] >= 4 * max(x.shape[1], self.rank)

    def _due(self, step: int, x: Input) -> bool:
        """Whether a new model is wanted before this step; the first is made by `init`."""
        if step == 0:
            return False
        after = step - self.burn_in
        if after < 0:
            return step % self.refresh == 0
        return after == 0 or (self._by_halves(x) and after % self.refresh == 0)

    def _moving(self, step: int, x: Input) -> tuple[int, int]:
        """The range of particles that move."""
        n, after = x.shape[0], step - self.burn_in
        if after < 0 or not self._by_halves(x):
            return 0, n
        return (0, n // 2) if after // self.refresh % 2 == 0 else (n // 2, n)

    def _renew(self, state: LevenbergMarquardtState, x: Input) -> LevenbergMarquardtState:
        """The state with a new model, and the particles that will move in its coordinates."""
        n, d = x.shape
        first, last = self._moving(state.step, x)
        done = state.step >= self.burn_in
        centre = np.asarray(to_numpy(x.array), np.float64).mean(0)
        products = Products(self._target, x, centre)
        n_gradients = state.n_gradients
        if last - first < n:
            teachers = as_input(x.array[last:] if first == 0 else x.array[:first], "state.x")
            scores = self._target.gradient(teachers.array, teachers)
            U, s, t = from_scores(scores, self.rank, self.damping, self._share)
        else:
            scores = self._target.gradient(x.array, x)
            if done and self.source == "history":
                U, s, t = self._from_history(state)
            else:
                source = self.source if done else "lanczos"
                U, s, t = from_products(
                    products, d, self.rank, self.damping, self._share, state.seed, source
                )
        ratio = score_ratio(scores, U[:, int(np.argmax(s))], products) if U.size else math.nan
        n_gradients += 1
        if done:
            self._judge(ratio, scores.shape[0])
        metric = Metric.of(U, s, np.array([t]), x)
        new = replace(
            state,
            U=metric.U.array,
            s=metric.s.array,
            t=t,
            score_ratio=ratio,
            n_products=state.n_products + products.calls,
            n_gradients=n_gradients,
        )
        if not self.adjust:
            return new
        moving = as_input(x.array[first:last], "state.x")
        where = "x0" if state.step == 0 else "x"
        b = start_block(metric, self._target, moving, where)
        parts = (x.array[:first], b.x, x.array[last:])
        everything = b.x if last - first == n else x.framework.concatenate(list(parts))
        n_gradients += int(last - first == n)  # with the scores above two halves are one
        return replace(
            new,
            x=everything,
            w=b.w,
            grad=b.grad,
            log_density=b.log_density,
            n_gradients=n_gradients,
        )

    def _judge(self, ratio: float, n: int) -> None:
        limit = _TOO_LARGE * (1.0 if n >= _MANY else 1.0 + 4.0 / math.sqrt(n))
        if ratio > limit:
            warnings.warn(
                f"after burn_in={self.burn_in} steps the scores of the particles vary {ratio:.3g} "
                "times as much in the top direction as the curvature there allows: they are not in "
                "equilibrium; take a longer burn_in or better starting points",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _metric(self, state: LevenbergMarquardtState, x: Input) -> Metric:
        U, s = as_input(state.U, "state.U"), as_input(state.s, "state.s")
        return Metric(U, s, np.array([state.t]))

    def _move(
        self, state: LevenbergMarquardtState, x: Input, metric: Metric, h: float, counters: range
    ) -> tuple[Any, dict[str, Any], Any]:
        """New positions of the particles that move, what else changes, and who accepted."""
        first, last = self._moving(state.step, x)
        if not self.adjust:
            position = x.array[first:last]
            for k in counters:
                at = as_input(position, "state.x")
                g = self._target.gradient(at.array, at)
                position = unadjusted_move(metric, at, g, h, state.seed, k)
            accepted = x.framework.asarray(np.zeros(last - first, np.uint8), x.device)
            return position, {}, accepted
        w, g = as_input(state.w, "state.w"), as_input(state.grad, "state.grad")
        density = as_match(state.log_density, "state.log_density", w, "state.w", shape=w.shape[:1])
        total: Any = None
        for k in counters:
            b = adjusted_move(metric, self._target, w, g, density, h, state.seed, k)
            w, g = as_input(b.w, "state.w"), as_input(b.grad, "state.grad")
            density = as_input(b.log_density, "state.log_density")
            total = b.accepted if total is None else total + b.accepted
        return b.x, {"w": b.w, "grad": b.grad, "log_density": b.log_density}, total

    # ---- compact quasi-Newton models of the path of the mean -----------------------------------

    def _remember(self, state: LevenbergMarquardtState, metric: Metric) -> LevenbergMarquardtState:
        """Add the last step of the mean, and of the mean gradient, to the history."""
        x = as_input(state.x, "state.x")
        if self.adjust:
            whitened = as_input(state.grad, "state.grad")
            g, extra = as_input(metric.apply(SQRT_MATVEC, whitened), "gradient"), 0
        else:
            g, extra = self._target.gradient(x.array, x), 1
        means = np.array([np.asarray(to_numpy(a), np.float64).mean(0) for a in (x.array, g.array)])
        pairs = np.zeros((2, 0, x.shape[1]))
        if state.means is not None:
            old = to_numpy(state.means)
            new = (means - old) * np.array([[1.0], [-1.0]])
            known = pairs if state.pairs is None else to_numpy(state.pairs)
            pairs = np.concatenate([known, new[:, None]], axis=1)[:, -2 * self.rank :]

        def keep(a: np.ndarray[Any, Any]) -> Any:
            return x.framework.asarray(np.array(a, x.dtype, order="C"), x.device)

        return replace(
            state,
            means=keep(means),
            pairs=keep(pairs),
            n_gradients=state.n_gradients + extra,
        )

    def _from_history(
        self, state: LevenbergMarquardtState
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
        S, Y = np.asarray(to_numpy(state.pairs), np.float64)
        curved = (S * Y).sum(1) > 1e-8 * np.linalg.norm(S, axis=1) * np.linalg.norm(Y, axis=1)
        if not curved.any():
            raise ValueError(
                "source: expected curvature along the path of the mean for 'history', found none"
            )
        S, Y = (np.ascontiguousarray(a[curved].T) for a in (S, Y))
        op = lowrank.from_history(S, Y)
        U, s = (np.asarray(to_numpy(a), np.float64) for a in (op.U, op.s))
        return U, s, float(op.sigma) + (self.damping or 0.0)
