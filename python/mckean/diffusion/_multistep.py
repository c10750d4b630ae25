"""The two-step multistep method in its two forms."""

from __future__ import annotations

import math
from typing import Any

from mckean._array import Input, as_match
from mckean._errors import one_of
from mckean.diffusion._predictions import to_data, to_noise
from mckean.diffusion._solver import DiffusionState, Solver

__all__ = ["Multistep2M"]


class Multistep2M(Solver):
    """Two-step multistep method of second order for the probability flow.

    The prediction is extrapolated through that of the step before, in ``lam = log(a / s)``. From the
    level (a0, s0) to (a1, s1) with ``h = lam1 - lam0``, ``r = h_before / h``::

        form "x0":   x' = (s1/s0) x - a1 (exp(-h) - 1) (m + (m - m_before) / (2 r))
        form "eps":  x' = (a1/a0) x - s1 (exp(h) - 1)  (e + (e - e_before) / (2 r))

    with the data prediction m or the noise prediction e. The first step is that of `DDIM`. One
    evaluation of the model and one pass over memory per step, which also converts the prediction.

    Parameters
    ----------
    model : callable
        ``model(x, t)``: (n, ...) and a float to an array like ``x``, new each time. `mckean.run` takes
        samples (n, d); `init` and `step` take any shape (n, ...), such as images.
    schedule : Schedule
    n_steps : int
        Steps of the grid, which are all the evaluations of the model.
    prediction : {"eps", "x0", "score", "v"}
        What the model predicts, see `DDIM`.
    form : {"x0", "eps"}
        Which prediction is extrapolated. "x0" is the stable one (DPM-Solver++ 2M); "eps" is a two-step
        Adams-Bashforth method.
    grid : {"uniform_half_log_snr", "uniform_t"} or array, shape (n_steps + 1,)
        Strictly decreasing times. Of second order on every smooth grid; with few steps of uniform time
        the last ones are so long in lam that the extrapolation does harm.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    DDIM, LML

    Notes
    -----
    Deterministic. `step` refuses to go beyond the end of the grid.

    References
    ----------
    .. [1] C. Lu, Y. Zhou, F. Bao, J. Chen, C. Li, J. Zhu, "DPM-Solver++: fast solver for guided
       sampling of diffusion probabilistic models", arXiv:2211.01095

    Examples
    --------
    >>> import mckean as mk
    >>> data = mk.targets.GaussianMixture([[-3.0], [3.0]], scale=0.5)
    >>> schedule = mk.diffusion.schedules.VPLinear()
    >>> model = mk.diffusion.MixtureDenoiser(data, schedule)
    >>> sampler = mk.diffusion.Multistep2M(model, schedule, 15)
    >>> result = mk.run(sampler, mk.random.normal(1, (1000, 1)), 15, progress=False)
    >>> round(float(abs(result.state.x).mean()))
    3
    """

    def __init__(
        self,
        model: Any,
        schedule: Any,
        n_steps: int,
        prediction: str = "eps",
        *,
        form: str = "x0",
        grid: Any = "uniform_half_log_snr",
    ) -> None:
        super().__init__(model, schedule, n_steps, prediction=prediction, grid=grid)
        self.form = one_of(form, "form", ("x0", "eps"))

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {**super().config(), "form": self.form}

    def advance(
        self,
        state: DiffusionState,
        x: Input,
        p: Input,
        prediction: str,
        *,
        direction: Input | None = None,
    ) -> DiffusionState:
        if direction is not None:
            raise ValueError("placement: expected 'increment' for a multistep method")
        i = state.step
        (a0, a1), (s0, s1) = self._a[i : i + 2], self._s[i : i + 2]
        h = self._lam[i + 1] - self._lam[i]
        if self.form == "x0":
            keep, weight, of = s1 / s0, -a1 * math.expm1(-h), to_data(prediction, a0, s0)
        else:
            keep, weight, of = a1 / a0, -s1 * math.expm1(h), to_noise(prediction, a0, s0)
        data, back = [x.data, p.data], 0.0
        if i:
            back = 0.5 * h / (self._lam[i] - self._lam[i - 1])  # 1 / (2 r)
            data.append(as_match(state.history, "state.history", x, "state.x").data)
        rows = [[keep + weight * (1.0 + back) * of[0], weight * (1.0 + back) * of[1]], list(of)]
        if i:
            rows[0].append(-weight * back)
            rows[1].append(0.0)
        same = prediction == self.form  # nothing to convert
        out = self._combine(state, x, rows[:1] if same else rows, data)
        history = p.array if same else out[1].result()
        return DiffusionState(
            out[0].result(), state.seed, i + 1, state.n_evaluations + 1, history=history
        )
