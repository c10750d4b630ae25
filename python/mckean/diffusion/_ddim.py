"""The first-order step of the probability flow and its stochastic relatives."""

from __future__ import annotations

import math
from typing import Any

from mckean._array import Input
from mckean._errors import as_real
from mckean.diffusion._predictions import to_data, to_noise
from mckean.diffusion._solver import DiffusionState, Solver

__all__ = ["DDIM"]


class DDIM(Solver):
    """Denoising diffusion implicit model: first-order steps from noise to data.

    From the level (a0, s0) to (a1, s1), with the noise prediction e and the data prediction
    ``m = (x - s0 e) / a0``::

        x' = a1 m + sqrt(s1^2 - sd^2) e + sd N(0, I),   sd = eta (s1/s0) sqrt(s0^2 - (a0 s1/a1)^2)

    One evaluation of the model and one pass over memory per step. ``eta = 0`` is the probability flow
    by exponential Euler steps, ``eta = 1`` the reverse diffusion.

    Parameters
    ----------
    model : callable
        ``model(x, t)``: (n, ...) and a float to an array like ``x``, new each time. `mckean.run` takes
        samples (n, d); `init` and `step` take any shape (n, ...), such as images.
    schedule : Schedule
        Such as `mckean.diffusion.schedules.VPLinear`.
    n_steps : int
        Steps of the grid, which are all the evaluations of the model.
    prediction : {"eps", "x0", "score", "v"}
        What the model predicts: the noise, the data, the gradient of the log density, or
        ``v = a eps - s x0``.
    eta : float
        0 <= eta <= 1, the noise put back in every step.
    grid : {"uniform_t", "uniform_half_log_snr"} or array, shape (n_steps + 1,)
        Strictly decreasing times.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    Multistep2M, LML

    Notes
    -----
    Coefficients are computed in float64 and rounded once. `step` refuses to go beyond the end of the
    grid. Deterministic given the seed.

    References
    ----------
    .. [1] J. Song, C. Meng, S. Ermon, "Denoising diffusion implicit models", ICLR 2021

    Examples
    --------
    >>> import mckean as mk
    >>> data = mk.targets.GaussianMixture([[-3.0], [3.0]], scale=0.5)
    >>> schedule = mk.diffusion.schedules.VPLinear()
    >>> model = mk.diffusion.MixtureDenoiser(data, schedule)
    >>> sampler = mk.diffusion.DDIM(model, schedule, 20)
    >>> result = mk.run(sampler, mk.random.normal(1, (1000, 1)), 20, progress=False)
    >>> round(float(abs(result.state.x).mean())), result.n_gradient_evaluations
    (3, 20)
    """

    def __init__(
        self,
        model: Any,
        schedule: Any,
        n_steps: int,
        prediction: str = "eps",
        *,
        eta: float = 0.0,
        grid: Any = "uniform_t",
    ) -> None:
        super().__init__(model, schedule, n_steps, prediction=prediction, grid=grid)
        self.eta = as_real(eta, "eta")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta: expected a number in [0, 1], got {self.eta}")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {**super().config(), "eta": self.eta}

    def advance(
        self,
        state: DiffusionState,
        x: Input,
        p: Input,
        prediction: str,
        *,
        direction: Input | None = None,
    ) -> DiffusionState:
        i = state.step
        (a0, a1), (s0, s1) = self._a[i : i + 2], self._s[i : i + 2]
        deviation = 0.0
        if self.eta:
            # s0^2 - (a0 s1/a1)^2 = -s0^2 expm1(-2 h)
            h = self._lam[i + 1] - self._lam[i]
            deviation = self.eta * s1 * math.sqrt(-math.expm1(-2.0 * h))
        length = math.sqrt((s1 - deviation) * (s1 + deviation))
        data, noise = to_data(prediction, a0, s0), to_noise(prediction, a0, s0)
        if direction is not None:
            row = [a1 * data[0], a1 * data[1], length]
            arrays = [x.data, p.data, direction.data]
        else:
            row = [a1 * m + length * e for m, e in zip(data, noise, strict=True)]
            if not self.eta:  # the same without cancellation
                row = self._flow(i, prediction, data, noise)
            arrays = [x.data, p.data]
        out = self._combine(state, x, [row], arrays, deviation)[0]
        return DiffusionState(out.result(), state.seed, i + 1, state.n_evaluations + 1)

    def _flow(
        self, i: int, prediction: str, data: tuple[float, float], noise: tuple[float, float]
    ) -> list[float]:
        (a0, a1), (s0, s1) = self._a[i : i + 2], self._s[i : i + 2]
        h = self._lam[i + 1] - self._lam[i]
        if prediction == "x0":
            weight, keep, (of_x, of_p) = -a1 * math.expm1(-h), s1 / s0, data
        else:
            weight, keep, (of_x, of_p) = -s1 * math.expm1(h), a1 / a0, noise
        return [keep + weight * of_x, weight * of_p]
