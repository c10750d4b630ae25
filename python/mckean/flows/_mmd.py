"""The gradient flow of the exact MMD of any kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mckean import kernels
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import nonnegative
from mckean.flows._heavy_ball import NOISE_STREAM, Flow, FlowState, check_weights, cloud
from mckean.interaction import kernel_grad, kernel_sum, kernel_sum_and_grad
from mckean.stepping import _combine_checked

__all__ = ["MMDFlow"]

_ONE = np.ones((1, 1))


class MMDFlow(Flow):
    """Gradient flow of the squared MMD of any kernel, by exact sums over all pairs.

    Every particle follows the witness function of the two clouds,
    ``v(z) = sum_j b_j grad_z k(z, y_j) - (1/n) sum_i grad_z k(z, x_i)``, which is ``-(n/2)`` times the gradient of
    ``mmd2(k, x, y, unbiased=False)``, with momentum: ``m <- v(x) + momentum m``, ``x <- x + step decay^k m``. A step
    costs O(n (n + m) d).

    Parameters
    ----------
    kernel : mk.kernels.Kernel
        Any kernel that is finite at distance 0. With `Energy` the velocity is the mean of that of `SlicedMMDFlow` over
        all directions.
    target : array, shape (m, d), float32 or float64
        The data. Of the framework, dtype and device of the particles. Not copied: do not change it during a run.
    step : float
        Step size > 0.
    momentum : float
        0 <= momentum < 1.
    decay : float
        0 < decay <= 1; step k has the size ``step decay^k``.
    noise : float or callable
        Noise injection [1]_: the velocity is evaluated at ``x + noise N(0, I)``, which lets particles leave places
        where a smooth kernel has no gradient. A function ``noise(k) -> float`` gives a level for every step k.
    target_weights : array, shape (m,), optional
        Weights of the data >= 0, float32 or float64, by default equal; normalised.
    jitter : float
        Standard deviation of normal noise added to the starting positions.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    RuntimeWarning
        If starting positions coincide exactly, without `jitter` or `noise`: they would feel equal forces for ever.

    See Also
    --------
    SlicedMMDFlow, mckean.kernel_grad, mckean.mmd2

    Notes
    -----
    ``result.stats["mmd2"]`` is the exact ``mmd2(kernel, x, target, unbiased=False)`` of the saved positions. It is a
    difference of sums in the precision of the arrays: in float32 nothing below about 1e-6 of those sums is left.
    Without noise it comes with the gradient; with noise it costs another sum at the saved steps, and ``state.mmd2`` is
    NaN.
    Deterministic given the seed.

    References
    ----------
    .. [1] M. Arbel, A. Korba, A. Salim, A. Gretton, "Maximum mean discrepancy gradient flow", NeurIPS 2019,
       arXiv:1906.04370

    Examples
    --------
    >>> import mckean as mk
    >>> x0, y = mk.random.normal(0, (100, 2)), mk.random.normal(1, (100, 2)) + 3.0
    >>> flow = mk.flows.MMDFlow(mk.kernels.Energy(), y, step=0.5)
    >>> result = mk.run(flow, x0, 50, progress=False)
    >>> bool(result.stats["mmd2"][-1] < 0.01 * result.stats["mmd2"][0])
    True
    """

    def __init__(
        self,
        kernel: kernels.Kernel,
        target: Any,
        step: float,
        *,
        momentum: float = 0.0,
        decay: float = 1.0,
        noise: float | Callable[[int], float] = 0.0,
        target_weights: Any = None,
        jitter: float = 0.0,
    ) -> None:
        super().__init__(step, momentum, decay, jitter)
        if not isinstance(kernel, kernels.Kernel):
            raise TypeError(f"kernel: expected a mckean.kernels.Kernel, got {kernel!r}")
        y = cloud(target, "target")
        weights = check_weights(target_weights, "target_weights", y, "target")
        self.kernel, self.target, self.target_weights = kernel, target, target_weights
        self.noise = noise if callable(noise) else nonnegative(noise, "noise")
        self._y = y
        at_zero = float(to_numpy(kernel_sum(kernel, y.array[:1], y.array[:1]))[0])
        if not np.isfinite(at_zero):
            raise ValueError(f"kernel: expected one that is finite at distance 0, got {kernel!r}")
        w = np.ones(y.shape[0]) if weights is None else to_numpy(weights).astype(np.float64)
        # All sums have weights: the data's add up to one, whatever their number.
        self._b = y.framework.asarray((w / w.sum()).astype(y.dtype), y.device)
        self._of_data: float | None = None

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        settings = {"kernel": self.kernel, "noise": self.noise}
        return {**super().config(), **settings, "data": self._y.array, "weights": self._b}

    def stats(self, state: FlowState) -> dict[str, Any]:
        """Return what `mckean.run` saves with each position."""
        if not self._noisy:
            return {"mmd2": state.mmd2}
        x = as_input(state.x, "state.x", shape=("n", "d"))
        k = self.kernel
        pull, push = (
            kernel_sum(k, x.array, self._y.array, self._b),
            kernel_sum(k, x.array, x.array),
        )
        return {"mmd2": self._value(x, pull, push)}

    @property
    def _noisy(self) -> bool:
        return callable(self.noise) or self.noise > 0

    def _check_start(self, x: Input) -> None:
        as_match(self._y.array, "target", x, "x0", shape=("m", x.shape[1]))
        if not self._noisy:
            self._warn_of_duplicates(to_numpy(x.array), "particles")

    def _velocity(self, x: Input, seed: int, step: int) -> tuple[float, list[Input], list[float]]:
        coefficients = [1.0, -1.0 / x.shape[0]]
        y, b, k = self._y.array, self._b, self.kernel
        if not self._noisy:
            pull, towards = kernel_sum_and_grad(k, x.array, y, b)
            push, away = kernel_sum_and_grad(k, x.array, x.array)
            value = self._value(x, pull, push)
        else:
            level = self.noise(step) if callable(self.noise) else self.noise
            z = _combine_checked(
                x,
                _ONE,
                [x.data],
                noise=np.array([nonnegative(level, "noise")]),
                seed=seed,
                stream=NOISE_STREAM,
                counter=step,
            )[0].result()
            towards, away = kernel_grad(k, z, y, b), kernel_grad(k, z, x.array)
            value = float("nan")
        return value, [as_input(towards, "gradient"), as_input(away, "gradient")], coefficients

    def _value(self, x: Input, pull: Any, push: Any) -> float:
        """The squared MMD, from the sums over the data and over the particles at every particle."""
        if self._of_data is None:
            y = self._y.array
            within = to_numpy(kernel_sum(self.kernel, y, y, self._b)).astype(np.float64)
            self._of_data = float(within @ to_numpy(self._b).astype(np.float64))
        to_data = float(to_numpy(pull).mean(dtype=np.float64))
        to_others = float(to_numpy(push).mean(dtype=np.float64)) / x.shape[0]
        return to_others - 2.0 * to_data + self._of_data
