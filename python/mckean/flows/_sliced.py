"""The gradient flow of the sliced MMD."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean import sliced
from mckean._array import Input, as_input, as_match, is_array, to_numpy
from mckean._errors import as_count, as_real, one_of
from mckean.flows._heavy_ball import SUBSET_STREAM, Flow, check_weights, cloud, step_seed
from mckean.interaction._permutation import rows, subset
from mckean.sliced._directions import resolve

__all__ = ["SlicedFlow", "SlicedMMDFlow"]

_KINDS = ("orthogonal", "random", "sobol")


class SlicedFlow(Flow):
    """The sliced MMD to a cloud and its gradient, step by step."""

    def __init__(
        self,
        points: Any,
        weights: Any,
        step: Any,
        n_slices: Any,
        momentum: Any,
        r: Any,
        directions: Any,
        resample: Any,
        decay: Any,
        target_batch: Any,
        jitter: Any,
    ) -> None:
        super().__init__(step, momentum, decay, jitter)
        self._y, self._weights = points, weights
        self.n_slices = as_count(n_slices, "n_slices", least=1)
        self.r = as_real(r, "r")
        if not 0.0 < self.r < 2.0:
            raise ValueError(f"r: expected 0 < r < 2, got {self.r}")
        if not isinstance(resample, bool):
            raise TypeError(f"resample: expected True or False, got {resample!r}")
        if isinstance(directions, str):
            one_of(directions, "directions", _KINDS)
        elif is_array(directions) or isinstance(directions, (list, tuple)):
            directions = resolve(directions, points.shape[1], n_slices, 0, points.dtype)
        elif not callable(directions):
            names = ", ".join(map(repr, _KINDS))
            raise TypeError(
                f"directions: expected one of {names}, an array (n_slices, d) or a function of a seed, "
                f"got {type(directions).__name__}"
            )
        self.directions = directions
        self.resample = resample and not isinstance(directions, np.ndarray)
        self.target_batch = (
            None if target_batch is None else as_count(target_batch, "target_batch", least=1)
        )
        if self.target_batch is not None and self.target_batch > points.shape[0]:
            raise ValueError(
                f"target_batch: expected at most the {points.shape[0]} points of the data, got {self.target_batch}"
            )
        if self.target_batch == points.shape[0]:
            self.target_batch = None
        if self.target_batch is not None and weights is not None:
            empty = int((to_numpy(weights) == 0).sum())
            if self.target_batch <= empty:
                raise ValueError(
                    f"target_batch: expected more than the {empty} points of weight 0, got {self.target_batch}"
                )
        self._sorted: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sorted": None}

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            **super().config(),
            "data": self._y.array,
            "weights": self._weights,
            "n_slices": self.n_slices,
            "r": self.r,
            "directions": self.directions,
            "resample": self.resample,
            "target_batch": self.target_batch,
        }

    def _gradient(self, x: Any, seed: int, step: int, x_weights: Any = None) -> tuple[float, Any]:
        """The sliced MMD of `x` to the data and its gradient, with the directions and data of this step."""
        options: dict[str, Any] = {"x_weights": x_weights}
        if self.resample or self.target_batch is not None:
            options |= self._options(seed, step) | {"y_weights": self._weights}
            y = self._y.array
            if self.target_batch is not None:
                index = subset(
                    seed, self._y.shape[0], self.target_batch, stream=SUBSET_STREAM, counter=step
                )
                y = rows(y, index)
                if self._weights is not None:
                    options["y_weights"] = rows(self._weights, index)
        else:
            y = self._target(seed)
        value, gradient = sliced.sliced_mmd2_grad(x, y, **options)
        return float(value), gradient

    def _options(self, seed: int, step: int) -> dict[str, Any]:
        """Where to project at a step: with fixed directions, as at the first."""
        key = step_seed(seed, step if self.resample else 0)
        directions = self.directions(key) if callable(self.directions) else self.directions
        return {"n_slices": self.n_slices, "r": self.r, "directions": directions, "seed": key}

    def _target(self, seed: int) -> Any:
        """The data sorted along fixed directions, kept for the last seed."""
        if self._sorted is None or self._sorted[0] != seed:
            options = self._options(seed, 0)
            target = sliced.Target(self._y.array, weights=self._weights, **options)
            self._sorted = (seed, target)
        return self._sorted[1]


class SlicedMMDFlow(SlicedFlow):
    """Gradient flow of the sliced MMD with the kernel ``-|x - y|^r``: moves particles onto data.

    Every particle follows ``v = -(n/2) grad D2``, D2 the squared MMD of `mckean.sliced_mmd2`, with momentum::

        m <- v(x) + momentum m,    x <- x + step decay^k m,    k = 0, 1, ...

    One step costs O((n + m) log(n + m)) per direction. For r = 1 a particle moves by at most ``2 step`` along the
    exact gradient, so `step` is a length on the scale of the data; the effective step is ``step / (1 - momentum)``.

    Parameters
    ----------
    target : array, shape (m, d), float32 or float64
        The data. Of the framework, dtype and device of the particles. Not copied: do not change it during a run.
    step : float
        Step size > 0.
    n_slices : int
        Directions in every step.
    momentum : float
        0 <= momentum < 1; the paper takes 0 to 0.8.
    r : float
        Exponent of the kernel, 0 < r < 2. r = 1, the energy distance, is the fastest.
    directions : {"orthogonal", "random", "sobol"}, array of shape (n_slices, d), or callable
        See `mckean.sliced_mmd2`. A function ``directions(seed) -> array (n_slices, d)`` makes the directions of a step
        from a seed of 53 bits. An array, of unit rows, is used in every step.
    resample : bool
        Draw the directions anew in every step, or keep those of the first, along which the data is then projected once.
        That saves time where there is much more data than particles, or many coordinates. Fixed directions have
        minimisers of their own unless there are many.
    decay : float
        0 < decay <= 1. The force is piecewise constant, so that with a constant step the particles chatter at a
        scale of ``step / n`` in the end.
    target_weights : array, shape (m,), optional
        Weights of the data >= 0, float32 or float64, by default equal; normalised.
    target_batch : int, optional
        Use a fresh random subset of so many points of the data (without replacement) in every step;
        more than there are of weight 0.
    jitter : float
        Standard deviation of normal noise added to the starting positions.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Warns
    -----
    RuntimeWarning
        If starting positions coincide exactly and `jitter` is 0: they would feel equal forces for ever.

    See Also
    --------
    ConditionalSlicedMMDFlow, MMDFlow, mckean.sliced_mmd2_grad

    Notes
    -----
    ``result.stats["mmd2"]`` and ``state.mmd2`` hold the sliced MMD of the state's own positions, estimated with the
    directions (and the subset) that also gave the velocity there; it costs nothing more. It is an estimate with
    `n_slices` directions: `mckean.energy_distance` gives the exact value.

    The directions of step k belong to the seed ``floor(2**53 u)``, u the uniform number of (seed, k) in a stream of its
    own: runs are reproducible and resume bit for bit. Deterministic given the seed, whatever the number of threads.

    Left alone long enough the particles reproduce the data: below the distance of two independent samples of the same
    law the flow memorises.

    References
    ----------
    .. [1] J. Hertrich, C. Wald, F. Altekrüger, P. Hagemann, "Generative sliced MMD flows with Riesz kernels", ICLR
       2024, arXiv:2305.11463

    Examples
    --------
    >>> import mckean as mk
    >>> ring = mk.random.normal(1, (400, 2))
    >>> ring /= (ring**2).sum(axis=1, keepdims=True) ** 0.5
    >>> flow = mk.flows.SlicedMMDFlow(ring, step=0.5, n_slices=20)
    >>> x0 = mk.random.normal(2, (300, 2))
    >>> result = mk.run(flow, x0, 100, thin=20, progress=False)
    >>> bool(mk.energy_distance(result.x[-1], ring) < 0.02 * mk.energy_distance(x0, ring))
    True
    """

    def __init__(
        self,
        target: Any,
        step: float = 1.0,
        *,
        n_slices: int = 100,
        momentum: float = 0.0,
        r: float = 1.0,
        directions: Any = "orthogonal",
        resample: bool = True,
        decay: float = 1.0,
        target_weights: Any = None,
        target_batch: int | None = None,
        jitter: float = 0.0,
    ) -> None:
        y = cloud(target, "target")
        weights = check_weights(target_weights, "target_weights", y, "target")
        super().__init__(
            y,
            weights,
            step,
            n_slices,
            momentum,
            r,
            directions,
            resample,
            decay,
            target_batch,
            jitter,
        )
        self.target, self.target_weights = target, target_weights

    def _check_start(self, x: Input) -> None:
        as_match(self._y.array, "target", x, "x0", shape=("m", x.shape[1]))
        self._warn_of_duplicates(to_numpy(x.array), "particles")

    def _velocity(self, x: Input, seed: int, step: int) -> tuple[float, list[Input], list[float]]:
        value, gradient = self._gradient(x.array, seed, step)
        return value, [as_input(gradient, "gradient")], [-0.5 * x.shape[0]]
