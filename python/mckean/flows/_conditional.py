"""Posterior sampling by the flow of joint samples, of which only one block moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, framework_of, to_numpy
from mckean._errors import as_count, as_seed, positive
from mckean._run import run
from mckean.flows._heavy_ball import check_weights, cloud
from mckean.flows._sliced import SlicedFlow
from mckean.interaction._permutation import rows

__all__ = ["ConditionalSlicedMMDFlow", "posterior_samples"]

_TRACER = 1e-9  # weight of an observed particle, relative to the others
_LATENT_STREAM = 0x666C6F772E6C6174  # "flow.lat"


class ConditionalSlicedMMDFlow(SlicedFlow):
    """Flow of the sliced MMD on joint samples (x, y) in which only x moves: samples of x given y.

    Particle i carries a condition c_i that stays. The joint cloud of ``(p_i, s c_i)``, s = `condition_scale`, moves
    towards the data ``(x_j, s y_j)`` along the x part of the gradient of their sliced MMD, in ``dx + dy`` dimensions:
    the gradient flow of the same functional among the measures with this marginal of y. In the limit of many samples,
    and where it reaches zero, particle i is a draw of x given y = c_i.

    Parameters
    ----------
    x : array, shape (N, dx), float32 or float64
        Of the framework, dtype and device of the particles.
    y : array, shape (N, dy)
        Row i belongs to row i of `x`.
    step : float
        Step size > 0, a length on the scale of `x`.
    condition_scale : float
        Factor on the conditions. A larger one weighs the dependence on y against the marginal law of x; with too much
        of it every particle sees its own pair only. For y of the scale of x, try 1 to 5; 10 for one-hot labels [2]_.
    conditions : array, shape (n, dy), optional
        Conditions of the particles; by default `y`, with n = N. They must be a sample of the same law as `y`: a
        different marginal has a different minimiser, which is not the posterior. For particles at one condition
        take `observations`.
    observations : array, shape (q, dy), optional
        Conditions of q further particles, the rows ``x0[n:]``. They follow the field of the others without a weight of
        their own (1e-9 of that of a particle), so these may be any values: one row q times for q draws from one
        posterior.
    n_slices, momentum, r, directions, resample, decay, target_batch, jitter
        See `SlicedMMDFlow`; directions have ``dx + dy`` coordinates, and `target_batch` counts pairs.
    target_weights : array, shape (N,), optional
        Weights of the pairs >= 0, float32 or float64. `conditions` must then follow the weighted marginal.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or ``x0`` does not have n + q rows.

    Warns
    -----
    RuntimeWarning
        If two joint starting points coincide exactly and `jitter` is 0: they would feel equal forces for ever.

    See Also
    --------
    posterior_samples, SlicedMMDFlow

    Notes
    -----
    ``state.x`` has shape (n + q, dx): the particles alone. ``stats["mmd2"]`` is the sliced MMD of the joint clouds at
    the state's own positions, see `SlicedMMDFlow`.

    Starting points of `observations` must follow the law of those of the particles: they go where a particle of the
    same start and condition would go. How well that samples the posterior depends on how many pairs have a y near the
    observation; away from the data the field only extrapolates. All draws of one observation share its error, which
    more draws do not average away. Long runs on few pairs reproduce the pairs (memorise) instead of the law.

    References
    ----------
    .. [1] P. Hagemann, J. Hertrich, F. Altekrüger, R. Beinert, J. Chemseddine, G. Steidl, "Posterior sampling based on
       gradient flows of the MMD with negative distance kernel", ICLR 2024, arXiv:2310.03054
    .. [2] J. Hertrich, C. Wald, F. Altekrüger, P. Hagemann, "Generative sliced MMD flows with Riesz kernels", ICLR
       2024, arXiv:2305.11463

    Examples
    --------
    x is standard normal and y a noisy copy of it, so that x given y is N(0.8 y, 0.2):

    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(1, (500, 1))
    >>> y = x + 0.5 * mk.random.normal(2, (500, 1))
    >>> flow = mk.flows.ConditionalSlicedMMDFlow(x, y, step=1.0, condition_scale=3.0, n_slices=16, momentum=0.7)
    >>> draws = mk.run(flow, mk.random.normal(3, (500, 1)), 200, thin=200, progress=False).x[-1]
    >>> slope = float((draws * y).sum() / (y * y).sum())
    >>> 0.65 < slope < 0.9
    True
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        *,
        step: float,
        condition_scale: float = 1.0,
        conditions: Any = None,
        observations: Any = None,
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
        at = cloud(x, "x")
        shape = (at.shape[0], "dy")
        given = as_match(y, "y", at, "x", shape=shape)
        given = cloud(given.array, "y")
        self.condition_scale = positive(condition_scale, "condition_scale")
        carried = given if conditions is None else _like(conditions, "conditions", given)
        joined = carried.array
        self._n_observed = 0
        if observations is not None:
            observed = _like(observations, "observations", given)
            self._n_observed = observed.shape[0]
            joined = at.framework.concatenate([joined, observed.array])
        self._n = carried.shape[0]
        self._dim = at.shape[1]
        self._conditions = joined * self.condition_scale
        data = _beside(at, at.array, given.array * self.condition_scale)
        self.x, self.y, self.conditions, self.observations = x, y, conditions, observations
        self.target_weights = target_weights
        super().__init__(
            cloud(data, "x"),
            check_weights(target_weights, "target_weights", at, "x"),
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
        self._particle_weights, self._per_weight = None, None
        if self._n_observed:
            w = np.ones((self._n + self._n_observed, 1), at.dtype)
            w[self._n :] = _TRACER
            self._particle_weights = at.framework.asarray(w[:, 0].copy(), at.device)
            self._per_weight = at.framework.asarray(1 / w, at.device)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {**super().config(), "conditions": self._conditions, "particles": self._n}

    def _check_start(self, x: Input) -> None:
        n = self._n + self._n_observed
        if x.shape != (n, self._dim):
            rows = f"{self._n} conditions" + (
                f" and {self._n_observed} observations" if self._n_observed else ""
            )
            raise ValueError(
                f"x0: expected shape ({n}, {self._dim}) to match {rows}, got {x.shape}"
            )
        as_match(self._y.array, "x", x, "x0", shape=self._y.shape)
        self._warn_of_duplicates(to_numpy(_beside(x, x.array, self._conditions)), "joint particles")

    def _velocity(self, x: Input, seed: int, step: int) -> tuple[float, list[Input], list[float]]:
        joint = _beside(x, x.array, self._conditions)
        value, gradient = self._gradient(joint, seed, step, self._particle_weights)
        moving = gradient[:, : self._dim]
        if self._per_weight is not None:
            moving = moving * self._per_weight
        total = self._n + _TRACER * self._n_observed
        return value, [as_input(moving, "gradient")], [-0.5 * total]


def posterior_samples(
    x: Any,
    y: Any,
    observation: Any,
    n_samples: int = 1000,
    *,
    n_steps: int = 500,
    step: float | None = None,
    condition_scale: float | None = None,
    momentum: float = 0.7,
    latents_per_pair: int = 4,
    seed: Any = 0,
    progress: bool = True,
    **options: Any,
) -> Any:
    """Draw from the law of x given an observation of y, from joint samples of both.

    Runs `ConditionalSlicedMMDFlow` on the joint samples with `n_samples` further particles at the observation, all
    from normal latents with the mean and the standard deviations of `x`.

    Parameters
    ----------
    x : array, shape (N, dx), float32 or float64
    y : array, shape (N, dy)
        Joint samples, row by row.
    observation : array, shape (dy,) or (k, dy)
        The observed y, or k of them.
    n_samples : int
        Draws for each observation.
    n_steps : int
        Steps of the flow.
    step : float, optional
        Step size; by default the mean of the standard deviations of `x`.
    condition_scale : float, optional
        Factor on the conditions; by default 3 times the mean of the standard deviations of `x` over that of `y`.
    momentum : float
        0 <= momentum < 1.
    latents_per_pair : int
        Particles for each pair, with its condition. Several let the field depend less on the latents drawn.
    seed : int or numpy.random.SeedSequence
        Source of the latents and of the directions.
    progress : bool
        Show a progress bar.
    **options
        Further options of `ConditionalSlicedMMDFlow`: `n_slices`, `decay`, `r`, ... but not `conditions`,
        `observations` and `target_weights`.

    Returns
    -------
    array, shape (n_samples, dx) or (k, n_samples, dx)
        Of the framework, dtype and device of `x`. Deterministic given the seed.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    ConditionalSlicedMMDFlow

    Notes
    -----
    Each call moves all N joint samples along, as nothing is learned that could be kept: ask for all observations at
    once. The draws are approximate, see the notes of `ConditionalSlicedMMDFlow`. Observations far from all of `y` get
    no meaningful draws.

    References
    ----------
    .. [1] P. Hagemann, J. Hertrich, F. Altekrüger, R. Beinert, J. Chemseddine, G. Steidl, "Posterior sampling based on
       gradient flows of the MMD with negative distance kernel", ICLR 2024, arXiv:2310.03054

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(1, (1000, 1))
    >>> y = x + 0.5 * mk.random.normal(2, (1000, 1))
    >>> draws = mk.flows.posterior_samples(x, y, np.array([1.0]), 500, n_steps=300, n_slices=16, progress=False)
    >>> draws.shape, bool(abs(draws.mean() - 0.8) < 0.15)
    ((500, 1), True)
    """
    at = cloud(x, "x")
    given = cloud(as_match(y, "y", at, "x", shape=(at.shape[0], "dy")).array, "y")
    observation = framework_of(observation).adopt(observation, "observation")
    one = len(observation.shape) == 1
    wanted = _like(observation[None] if one else observation, "observation", given)
    n_samples = as_count(n_samples, "n_samples", least=1)
    seed = as_seed(seed)
    k, dim = wanted.shape[0], at.shape[1]
    host = to_numpy(at.array).astype(np.float64)
    mean, sd = host.mean(axis=0), host.std(axis=0)
    if step is None:
        step = positive(float(sd.mean()), "the mean standard deviation of x")
    if condition_scale is None:
        of_y = float(to_numpy(given.array).astype(np.float64).std(axis=0).mean())
        condition_scale = (
            3.0 * float(sd.mean()) / positive(of_y, "the mean standard deviation of y")
        )
    copies = as_count(latents_per_pair, "latents_per_pair", least=1)
    for name in ("conditions", "observations", "target_weights"):
        if name in options:
            raise TypeError(f"{name}: expected none here, take ConditionalSlicedMMDFlow itself")
    flow = ConditionalSlicedMMDFlow(
        x,
        y,
        step=step,
        condition_scale=condition_scale,
        momentum=momentum,
        conditions=rows(given.array, np.tile(np.arange(at.shape[0]), copies)),
        observations=rows(wanted.array, np.repeat(np.arange(k), n_samples)),
        **options,
    )
    n = copies * at.shape[0]
    latents = random.normal(seed, (n + k * n_samples, dim), stream=_LATENT_STREAM)
    x0 = at.framework.asarray((mean + sd * latents).astype(at.dtype), at.device)
    result = run(flow, x0, n_steps, seed=seed, burn_in=n_steps, progress=progress)
    draws = result.state.x[n:]
    return draws if one else draws.reshape((k, n_samples, dim))


def _like(a: Any, name: str, given: Input) -> Input:
    found = as_match(a, name, given, "y", shape=("n", given.shape[1]))
    return cloud(found.array, name)


def _beside(like: Input, left: Any, right: Any) -> Any:
    """Join the columns of two arrays."""
    return like.framework.concatenate([left.T, right.T]).T
