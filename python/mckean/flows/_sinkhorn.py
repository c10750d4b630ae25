"""The gradient flow of the Sinkhorn divergence."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mckean._array import Input, as_input, as_match, nonfinite_rows, to_numpy
from mckean._errors import ConvergenceWarning, OutOfRange, positive
from mckean.flows._heavy_ball import Flow, _callers_level, _lost, check_weights
from mckean.flows._heavy_ball import cloud as finite_cloud
from mckean.stepping import _combine_checked
from mckean.transport._arguments import cloud, one_eps, settings_of
from mckean.transport._problem import Doubles, Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import solve
from mckean.transport._start import scalings_of
from mckean.transport._symmetric import solve_symmetric
from mckean.transport._weights import flag

__all__ = ["SinkhornFlow", "SinkhornFlowState"]


@dataclass(slots=True)
class SinkhornFlowState:
    """State of a `SinkhornFlow`: positions, momentum, and the potentials from which the next solves start.

    Attributes
    ----------
    x : array, shape (n, d)
        Positions.
    momentum : array, shape (n, d)
        What the next step adds to `x`, up to its step size; the velocity at `x` is already in it.
    target_potential : array, shape (m,), or None
        Potential g of the data, of the transport between `x` and the data.
    own_potential : array, shape (n,), or None
        Potential of the transport of `x` to itself; None without debiasing.
    target_change, own_change : array or None
        What the last step changed of them; None at the start.
    divergence : float
        The Sinkhorn divergence of `x` and the data; without debiasing the value of entropic transport.
    marginal_error : float
        The largest L1 error of the plans.
    iterations : int
        Sinkhorn iterations that the plans took.
    seed, step : int
    """

    x: Any
    momentum: Any
    target_potential: Any
    own_potential: Any
    target_change: Any
    own_change: Any
    divergence: float
    marginal_error: float
    iterations: int
    seed: int
    step: int

    @property
    def n_gradients(self) -> int:
        """Gradients computed so far: one a step, and one at the start."""
        return self.step + 1


class SinkhornFlow(Flow):
    """Gradient flow of the Sinkhorn divergence: moves particles onto data.

    Every particle follows ``v = -(n/p) grad S``, S the divergence ``OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2`` of
    entropic transport for the cost ``|x - y|^p`` [1]_, with momentum: ``m <- v(x) + momentum m``, ``x <- x + step
    decay^k m``. For p = 2 that is ``v(x) = T_y(x) - T_x(x)``: where the plans send x among the data and, blurred, among
    the particles; a step of 1 goes all the way.

    Every solve starts from the potentials that the steps before lead to, which the state carries. Costs are computed
    where they are needed: memory is O(n + m).

    Parameters
    ----------
    target : array, shape (m, d), float32 or float64
        The data. Of the framework, dtype and device of the particles. Not copied: do not change it during a run.
    step : float
        Step size > 0.
    eps : float
        The regularisation, in units of the cost. The field is smooth on lengths below ``eps^(1/p)``.
    p : float
        Positive. 2 is the squared Euclidean distance. For p = 1 and large eps the flow is that of the energy distance,
        and no particle is faster than 2.
    debiased : bool
        False leaves the terms of x and y with themselves out. The particles then end up closer together than the data.
    momentum : float
        0 <= momentum < 1.
    decay : float
        0 < decay <= 1; step k has the size ``step decay^k``.
    target_weights : array, shape (m,), optional
        Weights of the data >= 0, float32 or float64, by default equal; normalised.
    method, tol, max_iter, acceleration
        Of the solves, see `mckean.sinkhorn`.
    jitter : float
        Standard deviation of normal noise added to the starting positions.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    ConvergenceWarning
        If a solve does not meet `tol`.
    RuntimeWarning
        If starting positions coincide exactly and `jitter` is 0: they would feel equal forces for ever.

    See Also
    --------
    mckean.sinkhorn_divergence, SlicedMMDFlow

    Notes
    -----
    ``result.stats`` holds "divergence", "marginal_error" and "iterations" (of Sinkhorn, of the step's solves together)
    of the saved positions. The divergence is a difference of values that are right up to the square of `tol` or so.
    Deterministic given the seed, and resumes bit for bit.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating between optimal transport
       and MMD using Sinkhorn divergences", AISTATS 2019, arXiv:1810.08278

    Examples
    --------
    >>> import mckean as mk
    >>> ring = mk.random.normal(1, (60, 2))
    >>> ring /= (ring**2).sum(axis=1, keepdims=True) ** 0.5
    >>> flow = mk.flows.SinkhornFlow(ring, step=0.5, eps=0.05)
    >>> result = mk.run(flow, mk.random.normal(2, (50, 2)), 10, progress=False)
    >>> bool(result.stats["divergence"][-1] < 0.02 * result.stats["divergence"][0])
    True
    """

    def __init__(
        self,
        target: Any,
        step: float = 0.5,
        *,
        eps: float,
        p: float = 2,
        debiased: bool = True,
        momentum: float = 0.0,
        decay: float = 1.0,
        target_weights: Any = None,
        method: str = "auto",
        tol: float = 1e-4,
        max_iter: int = 10_000,
        acceleration: Any = "anderson",
        jitter: float = 0.0,
    ) -> None:
        super().__init__(step, momentum, decay, jitter)
        self.p, self.eps = positive(p, "p"), positive(eps, "eps")
        self.debiased = flag(debiased, "debiased")
        self._y = cloud(finite_cloud(target, "target"), "target", self.p)
        one_eps(self.eps, self._y.dtype)
        self.target, self.target_weights = target, target_weights
        weights = check_weights(target_weights, "target_weights", self._y, "target")
        w = np.ones(self._y.shape[0]) if weights is None else to_numpy(weights).astype(np.float64)
        self._b = (w / w.sum())[None]
        self._settings = settings_of(method, tol, max_iter, acceleration, False, None)
        self._of_data: tuple[float, float, bool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_of_data": None}

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        s = self._settings
        return {
            **super().config(),
            "data": self._y.array,
            "weights": self._b,
            "eps": self.eps,
            "p": self.p,
            "debiased": self.debiased,
            "solver": [s.method, s.tol, s.max_iter, s.acceleration],
        }

    def step(self, state: SinkhornFlowState) -> SinkhornFlowState:  # type: ignore[override]
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        m = as_match(state.momentum, "state.momentum", x, "state.x")
        table = np.array([[1.0, self.step_size * self.decay**state.step]])
        out = _combine_checked(x, table, [x.data, m.data])
        arrived = as_input(out[0].result(), "x")
        return self._arrive(arrived, m, state.seed, state.step + 1, state)

    def stats(self, state: SinkhornFlowState) -> dict[str, Any]:  # type: ignore[override]
        """Return what `mckean.run` saves with each position."""
        return {
            "divergence": state.divergence,
            "marginal_error": state.marginal_error,
            "iterations": state.iterations,
        }

    def _check_start(self, x: Input) -> None:
        as_match(self._y.array, "target", x, "x0", shape=("m", x.shape[1]))
        self._warn_of_duplicates(to_numpy(x.array), "particles")

    def _arrive(  # type: ignore[override]
        self,
        x: Input,
        m: Input | None,
        seed: int,
        step: int,
        before: SinkhornFlowState | None = None,
    ) -> SinkhornFlowState:
        """The state at new positions, whose solves start from the potentials before."""
        lost = None
        if m is not None and nonfinite_rows(x):
            lost = x.array  # `run` reports it
        else:
            try:
                cloud(x, "x", self.p)
            except OutOfRange as large:
                if m is None:
                    raise
                lost = _lost(x, large.limit)
        if lost is not None:
            assert before is not None and m is not None
            nan = float("nan")
            return replace(
                before,
                x=lost,
                momentum=m.array,
                divergence=nan,
                marginal_error=nan,
                iterations=0,
                step=step,
            )
        cross, own = self._solves(x, *self._starts(before))
        gain = -x.shape[0] / self.p
        forces, coefficients = [as_input(cross.grad_x(), "gradient").data], [gain]
        if own is not None:
            forces.append(as_input(own.grad_x(), "gradient").data)
            coefficients.append(-gain)
        if m is not None:
            forces.append(m.data)
            coefficients.append(self.momentum)
        out = _combine_checked(x, np.array([coefficients]), forces)
        value, error, converged, iterations = self._measure(cross, own)
        if not converged:
            # No numbers in it, so that it appears once in a run.
            warnings.warn(
                f"SinkhornFlow: tol={self._settings.tol:g} not met by a solve, see the marginal_error of the "
                "statistics; try more iterations (max_iter), or a larger eps or tol",
                ConvergenceWarning,
                stacklevel=_callers_level(),
            )
        g, f = cross.g, None if own is None else own.f
        old = (None, None) if before is None else (before.target_potential, before.own_potential)
        return SinkhornFlowState(
            x.array,
            out[0].result(),
            g,
            f,
            None if old[0] is None else g - old[0],
            None if old[1] is None else f - old[1],
            value,
            error,
            iterations,
            seed,
            step,
        )

    def _starts(self, before: SinkhornFlowState | None) -> tuple[Any, Any]:
        """The potentials to start from: those before and a part of their last change."""
        if before is None:
            return None, None
        # For p = 2 the velocity shrinks by this factor from step to step; with momentum less.
        kept = max(0.0, 1.0 - self.step_size * self.decay**before.step, self.momentum)
        out = []
        for potential, change in (
            (before.target_potential, before.target_change),
            (before.own_potential, before.own_change),
        ):
            if potential is not None:
                potential = to_numpy(potential).astype(np.float64)
                if change is not None:
                    potential = potential + kept * to_numpy(change).astype(np.float64)
            out.append(potential)
        return out[0], out[1]

    def _solves(self, x: Input, g: Any, f: Any) -> tuple[SinkhornResult, SinkhornResult | None]:
        eps, settings = np.full(1, self.eps), self._settings
        a = np.full((1, x.shape[0]), 1.0 / x.shape[0])
        problem = Problem.of_points(x, self._y, self.p, a, self._b, eps)
        start = None if g is None else scalings_of(g[None], problem.b, eps)
        solution = solve(problem, settings, start)
        cross = SinkhornResult(problem, solution, settings, x, self._y, self.p)
        if not self.debiased:
            return cross, None
        return cross, self._of_itself(x, a, None if f is None else scalings_of(f[None], a, eps))

    def _of_itself(self, x: Input, a: Doubles, F: Doubles | None) -> SinkhornResult:
        problem = Problem.of_points(x, x, self.p, a, a, np.full(1, self.eps))
        solution = solve_symmetric(problem, self._settings, F)
        return SinkhornResult(problem, solution, self._settings, x, x, self.p)

    def _measure(
        self, cross: SinkhornResult, own: SinkhornResult | None
    ) -> tuple[float, float, bool, int]:
        """The divergence, the largest error, whether all is solved, and the iterations of this step."""
        value, error = float(cross._dual[0]), float(cross._error[0])
        converged, iterations = bool(cross.converged), int(cross.n_iter)
        if own is None:
            return value, error, converged, iterations
        if self._of_data is None:
            found = self._of_itself(self._y, self._b, None)
            self._of_data = (float(found._dual[0]), float(found._error[0]), bool(found.converged))
        of_data, error_of_data, solved = self._of_data
        return (
            value - 0.5 * (float(own._dual[0]) + of_data),
            max(error, float(own._error[0]), error_of_data),
            converged and bool(own.converged) and solved,
            iterations + int(own.n_iter),
        )
