"""What the denoiser-driven methods share: levels of the grid, checked calls of the model, states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, Output, as_input, as_match, check_finite
from mckean._errors import as_count, as_seed, one_of
from mckean.diffusion import grids
from mckean.diffusion._predictions import PREDICTIONS, to_noise
from mckean.diffusion.schedules import Schedule
from mckean.stepping import _combine_checked

__all__ = ["DiffusionState", "Solver"]

STEP_STREAM = 0x646966667573696F  # "diffusio"
_COPY = np.ones((1, 1))


@dataclass(slots=True)
class DiffusionState:
    """State of the methods of this package.

    `x`, shape (n, ...), the samples at time ``times[step]``; `history`, the converted prediction of the
    step before, for multistep methods; `previous`, the noise prediction of the step before as the model
    gave it, for `LML`.
    """

    x: Any
    seed: int
    step: int
    n_evaluations: int
    history: Any = None
    previous: Any = None

    @property
    def n_gradients(self) -> int:
        """What `mckean.run` counts: one evaluation of the model is one gradient."""
        return self.n_evaluations


class Solver:
    """A method that takes one step of the grid by one evaluation of the model."""

    def __init__(
        self, model: Any, schedule: Any, n_steps: int, *, prediction: str, grid: Any
    ) -> None:
        if not callable(model):
            raise TypeError(f"model: expected a function of x and t, got {type(model).__name__}")
        if isinstance(schedule, type) or not isinstance(schedule, Schedule):
            label = getattr(schedule, "__name__", type(schedule).__name__)
            raise TypeError(
                f"schedule: expected a mckean.diffusion.schedules.Schedule, got {label}"
            )
        self.model, self.schedule = model, schedule
        self.n_steps = as_count(n_steps, "n_steps", least=1)
        self.prediction = one_of(prediction, "prediction", PREDICTIONS)
        self.grid = grid
        self.times = grids.resolve(grid, schedule, self.n_steps)
        times = self.times.tolist()
        self._a, self._s = [schedule.a(t) for t in times], [schedule.s(t) for t in times]
        self._lam = [schedule.half_log_snr(t) for t in times]
        if not (np.diff(self._lam) > 0).all():
            raise ValueError("schedule: expected half_log_snr to decrease in t over the grid")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "model": self.model,
            "levels": np.array([self.times, self._a, self._s]),
            "prediction": self.prediction,
        }

    def init(self, x0: Any, seed: Any = 0) -> DiffusionState:
        """Return the state at the noise `x0`, shape (n, ...): samples of ``N(0, s^2 I)`` at
        ``times[0]``, where s is nearly 1."""
        x = as_input(x0, "x0")
        if len(x.shape) < 2 or 0 in x.shape:
            raise ValueError(
                f"x0: expected at least one sample of at least one coordinate, got shape {x.shape}"
            )
        check_finite(x, "x0")
        copy = _combine_checked(x, _COPY, [x.data])[0]
        return DiffusionState(copy.result(), as_seed(seed), 0, 0)

    def step(self, state: DiffusionState) -> DiffusionState:
        """Return the state one step, and one evaluation of the model, later; `state` stays as it
        is."""
        x, p = self.evaluate(state)
        return self.advance(state, x, p, self.prediction)

    def evaluate(self, state: DiffusionState) -> tuple[Input, Input]:
        """The samples of a state and what the model predicts there."""
        i = state.step
        if not 0 <= i < self.n_steps:
            raise ValueError(
                f"state: expected one before the last step of the grid, got step {i} of "
                f"n_steps = {self.n_steps}"
            )
        x = as_input(state.x, "state.x")
        p = as_match(self.model(x.array, float(self.times[i])), "model(x, t)", x, "x")
        address = p.framework.address
        held = [a for a in (state.history, state.previous) if a is not None]
        if any(address(as_input(a, "state").data) == address(p.data) for a in held):
            raise ValueError(
                "model(x, t): expected a new array from each call, got the same memory twice"
            )
        return x, p

    def noise_prediction(self, x: Input, i: int, p: Input) -> Input:
        """The prediction `p` at step `i` as one of noise."""
        if self.prediction == "eps":
            return p
        table = np.array([to_noise(self.prediction, self._a[i], self._s[i])])
        e = _combine_checked(x, table, [x.data, p.data])[0].result()
        return as_input(e, "noise prediction")

    def advance(
        self,
        state: DiffusionState,
        x: Input,
        p: Input,
        prediction: str,
        *,
        direction: Input | None = None,
    ) -> DiffusionState:
        """The state one step later for the prediction `p`, which is of the kind `prediction`.

        With `direction`, a noise prediction that replaces `p` in the direction of the step but not in
        the estimate of the data.
        """
        raise NotImplementedError

    def _combine(
        self,
        state: DiffusionState,
        x: Input,
        rows: Sequence[Sequence[float]],
        data: Sequence[Any],
        deviation: float = 0.0,
    ) -> list[Output]:
        """Linear combinations of `data`, the first of them with noise."""
        return _combine_checked(
            x,
            np.array(rows, np.float64),
            data,
            noise=np.array([deviation, *[0.0] * (len(rows) - 1)]),
            seed=state.seed,
            stream=STEP_STREAM,
            counter=state.step,
        )
