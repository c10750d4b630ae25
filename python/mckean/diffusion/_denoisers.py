"""Exact predictions where the data's law is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import as_input
from mckean._errors import as_real, one_of
from mckean.diffusion._predictions import PREDICTIONS, to_noise
from mckean.diffusion.schedules import Schedule
from mckean.stepping import _combine_checked
from mckean.targets import Gaussian, GaussianMixture

__all__ = ["MixtureDenoiser"]

_KEPT = 256  # levels kept, several grids of usual length


class MixtureDenoiser:
    """Exact predictions for data from a mixture of Gaussians.

    At the level (a, s) the law of the samples is the mixture of ``N(a mean_k, a^2 cov_k + s^2 I)``,
    whose score is known: ``eps = -s score``. A model without errors of training, for tests and
    comparisons of samplers.

    Parameters
    ----------
    data : mckean.targets.GaussianMixture or mckean.targets.Gaussian
        The law of the data.
    schedule : Schedule
    prediction : {"eps", "x0", "score", "v"}
        What to predict.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    DDIM, mckean.targets.GaussianMixture

    Notes
    -----
    O(k d) per sample for diagonal covariances, O(k d^2) for full ones. NaN in ``x`` propagates.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> schedule = mk.diffusion.schedules.VPLinear()
    >>> model = mk.diffusion.MixtureDenoiser(mk.targets.Gaussian([0.0]), schedule)
    >>> bool(np.allclose(model(np.ones((1, 1)), 0.5), schedule.s(0.5)))
    True
    """

    def __init__(self, data: Any, schedule: Any, prediction: str = "eps") -> None:
        if not isinstance(data, (GaussianMixture, Gaussian)):
            raise TypeError(
                f"data: expected a Gaussian or GaussianMixture target, got {type(data).__name__}"
            )
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"schedule: expected a mckean.diffusion.schedules.Schedule, "
                f"got {type(schedule).__name__}"
            )
        self.data, self.schedule = data, schedule
        self.prediction = one_of(prediction, "prediction", PREDICTIONS)
        one = isinstance(data, Gaussian)
        self._means = np.atleast_2d(data.mean) if isinstance(data, Gaussian) else data.means
        self._weights = np.ones(1) if isinstance(data, Gaussian) else data.weights
        whitening = data.whitening[None] if one else data.whitening
        if whitening.ndim == 2:
            self._cov = whitening**-2.0
        else:
            factor = np.linalg.inv(whitening)
            self._cov = factor @ np.swapaxes(factor, 1, 2)
        self._levels: dict[float, GaussianMixture] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_levels": {}}

    def __call__(self, x: Any, t: float) -> Any:
        """Return the prediction at `x`, shape (n, d), at the time `t`, like `x`."""
        t = as_real(t, "t")
        at = as_input(x, "x", shape=("n", self.data.dim), match="the data's dim")
        a, s = self.schedule.a(t), self.schedule.s(t)
        score = as_input(self._level(t, a, s).grad_log_density(at.array), "score")
        if self.prediction == "score":
            return score.array
        # p from eps = alpha x + beta p and eps = -s score
        alpha, beta = to_noise(self.prediction, a, s)
        table = np.array([[-alpha / beta, -s / beta]])
        return _combine_checked(at, table, [at.data, score.data])[0].result()

    def _level(self, t: float, a: float, s: float) -> GaussianMixture:
        if t not in self._levels:
            if len(self._levels) >= _KEPT:
                self._levels.clear()
            cov = a * a * self._cov
            cov = cov + s * s * (1.0 if cov.ndim == 2 else np.eye(self.data.dim))
            self._levels[t] = GaussianMixture(a * self._means, self._weights, cov=cov)
        return self._levels[t]
