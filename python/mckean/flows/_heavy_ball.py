"""What the flows share: the step with momentum, the numbers of a step, and the checks of their start."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, check_finite, nonfinite_rows, to_numpy
from mckean._errors import OutOfRange, as_real, as_seed, nonnegative, positive
from mckean.samplers._parts import starting_points
from mckean.stepping import _combine_checked

__all__ = ["Flow", "FlowState", "check_weights", "cloud", "step_seed"]

# Streams of the flows' own: users draw starting points from stream 0, often of the same seed.
_SEED_STREAM = 0x666C6F772E736565  # "flow.see"
JITTER_STREAM = 0x666C6F772E6A6974  # "flow.jit"
SUBSET_STREAM = 0x666C6F772E737562  # "flow.sub"
NOISE_STREAM = 0x666C6F772E6E6F69  # "flow.noi"

_COPY = np.ones((1, 1))


@dataclass(slots=True)
class FlowState:
    """State of a flow: positions, momentum, the discrepancy at the positions, and counters.

    Attributes
    ----------
    x : array, shape (n, d)
        Positions.
    momentum : array, shape (n, d)
        What the next step adds to `x`, up to its step size; the velocity at `x` is already in it.
    mmd2 : float
        The squared discrepancy of `x` and the data, estimated with the directions and the part of the data that gave
        the velocity at `x`. NaN where the method does not compute it on the way.
    seed, step : int
        What the random numbers of a step depend on.
    """

    x: Any
    momentum: Any
    mmd2: float
    seed: int
    step: int

    @property
    def n_gradients(self) -> int:
        """Gradients computed so far: one a step, and one at the start."""
        return self.step + 1


def step_seed(seed: int, step: int) -> int:
    """The seed of the directions of a step: 2**53 times the uniform number (`seed`, `step`) of a stream of its own."""
    return int(float(random.uniform(seed, 1, stream=_SEED_STREAM, counter=step)[0]) * 2.0**53)


def cloud(a: Any, name: str, columns: int | str = "d") -> Input:
    """Check a finite cloud of at least one point and one dimension."""
    found = as_input(a, name, shape=("m", columns))
    if 0 in found.shape:
        raise ValueError(
            f"{name}: expected at least one point and one dimension, got {found.shape}"
        )
    check_finite(found, name)
    return found


def check_weights(w: Any, name: str, of: Input, of_name: str) -> Any:
    """Check weights of the points of a cloud: not negative, of a positive sum; None stays None."""
    if w is None:
        return None
    found = as_match(w, name, of, of_name, shape=of.shape[:1], any_float=True)
    check_finite(found, name)
    values = to_numpy(found.array)
    with np.errstate(over="ignore"):
        least, total = values.min(), values.sum(dtype=np.float64)
    if least < 0 or not 0 < total < np.inf:
        raise ValueError(
            f"{name}: expected weights >= 0 with a positive, finite sum, "
            f"got a least of {least} and a sum of {total}"
        )
    return found.array


def _duplicates(a: np.ndarray[Any, Any]) -> int:
    """How many rows repeat an earlier one."""
    order = np.argsort(a[:, 0], kind="stable")
    tie = np.diff(a[order, 0]) == 0
    # Only rows that share the first coordinate are worth comparing as a whole.
    among = a[order[np.append(False, tie) | np.append(tie, False)]]
    return len(among) - len(np.unique(among, axis=0)) if len(among) else 0


def _lost(x: Input, limit: float) -> Any:
    """The positions with NaN for coordinates too large to go on with, or for all if it is not theirs alone."""
    host = np.array(to_numpy(x.array))
    large = abs(host) > limit
    host[large if large.any() else ...] = np.nan
    return x.framework.asarray(host, x.device)


class Flow:
    """Gradient flow with momentum: ``m <- v(x) + momentum m``, then ``x <- x + step decay^k m``."""

    def __init__(self, step: Any, momentum: Any, decay: Any, jitter: Any = 0.0) -> None:
        self.step_size = positive(step, "step")
        self.momentum = as_real(momentum, "momentum")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum: expected 0 <= momentum < 1, got {self.momentum}")
        self.decay = as_real(decay, "decay")
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(f"decay: expected 0 < decay <= 1, got {self.decay}")
        self.jitter = nonnegative(jitter, "jitter")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "step": self.step_size,
            "momentum": self.momentum,
            "decay": self.decay,
            "jitter": self.jitter,
        }

    def init(self, x0: Any, seed: Any = 0) -> FlowState:
        """Return the state at `x0`, shape (n, d); one gradient is computed."""
        x, seed = starting_points(x0), as_seed(seed)
        self._check_start(x)
        out = _combine_checked(
            x,
            _COPY,
            [x.data],
            noise=np.array([self.jitter]),
            seed=seed,
            stream=JITTER_STREAM,
        )
        return self._arrive(as_input(out[0].result(), "x0"), None, seed, 0)

    def step(self, state: FlowState) -> FlowState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        m = as_match(state.momentum, "state.momentum", x, "state.x")
        table = np.array([[1.0, self.step_size * self.decay**state.step]])
        out = _combine_checked(x, table, [x.data, m.data])
        return self._arrive(as_input(out[0].result(), "x"), m, state.seed, state.step + 1)

    def stats(self, state: FlowState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        return {"mmd2": state.mmd2}

    def _arrive(self, x: Input, m: Input | None, seed: int, step: int) -> FlowState:
        """The state at new positions."""
        try:
            mmd2, forces, coefficients = self._velocity(x, seed, step)
        except ValueError as error:
            # A diverged cloud has no projections to sort; `run` reports it.
            if m is not None and nonfinite_rows(x):
                return FlowState(x.array, m.array, float("nan"), seed, step)
            if m is not None and isinstance(error, OutOfRange):
                return FlowState(_lost(x, error.limit), m.array, float("nan"), seed, step)
            raise
        arrays = [f.data for f in forces]
        if m is not None:
            arrays, coefficients = [*arrays, m.data], [*coefficients, self.momentum]
        out = _combine_checked(x, np.array([coefficients]), arrays)
        return FlowState(x.array, out[0].result(), mmd2, seed, step)

    def _velocity(self, x: Input, seed: int, step: int) -> tuple[float, list[Input], list[float]]:
        """The discrepancy at `x`, and the velocity as a combination of arrays."""
        raise NotImplementedError

    def _check_start(self, x: Input) -> None:
        """Refuse or warn of starting positions that do not fit."""
        raise NotImplementedError

    def _warn_of_duplicates(self, points: np.ndarray[Any, Any], what: str) -> None:
        if self.jitter > 0:
            return
        found = _duplicates(points)
        if found:
            warnings.warn(
                f"x0: {found} of {len(points)} {what} repeat another exactly; they feel equal forces and never part, "
                "give jitter > 0 to separate them",
                RuntimeWarning,
                stacklevel=_callers_level(),
            )


def _callers_level() -> int:
    """The `stacklevel`, in the function that asks, of the first caller outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "mckean":
        level, frame = level + 1, frame.f_back
    return level
