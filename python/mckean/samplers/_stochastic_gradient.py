"""Hamiltonian samplers with gradients from mini-batches of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import targets
from mckean._array import Input, as_input, as_match, check_finite
from mckean._errors import as_count, as_seed, nonnegative, one_of, positive
from mckean.samplers._minibatch import BatchGradient, MiniBatches
from mckean.samplers._parts import PROPOSAL_STREAM, Noise, starting_points
from mckean.samplers._schemes import SCHEMES, move, plan
from mckean.stepping import _combine_checked

__all__ = ["StochasticGradientHMC", "StochasticGradientState"]

_VELOCITY_STREAM = 0x73676876656C6F63  # "sghveloc"
_COPY = np.ones((1, 1))
_SPLITTINGS = ("lie-trotter", "symmetric")


@dataclass(slots=True)
class StochasticGradientState:
    """State of `StochasticGradientHMC`: `x`, `v`, shape (n, d), and the counters its noise and its
    batches depend on.

    `grad`, shape (n, d), is the gradient at `x` for schemes that use it again, else None.
    """

    x: Any
    v: Any
    grad: Any
    seed: int
    step: int
    n_gradients: int


class StochasticGradientHMC:
    """Hamiltonian chain with friction whose gradients come from mini-batches of the data.

    Discretises ``dx = v dt, dv = -friction v dt + u grad log p(x) dt + sqrt(2 friction u) dB`` for
    posteriors ``log p(x) = log prior(x) + sum_i log likelihood_i(x)``, by splitting: each step
    follows the potential of one batch, whose sum of likelihoods is scaled up [1]_.

    ============= ========== ====================================================================
    scheme        gradients  remarks
    ============= ========== ====================================================================
    "ubu"         1          exact friction and noise around one kick; the first choice
    "align"       1          last gradient reused
    "baoab"       1          last gradient reused
    "lie-trotter" n_leapfrog `n_leapfrog` leapfrogs (drift, kick, drift) of one batch, then exact
                             friction and noise; x has the law of "symmetric", v errors of order h
    "symmetric"   n_leapfrog the same between two halves of friction and noise
    "ee"          1          order 1 in any case
    "should"      2          third order with all the data, second at best with batches
    "quicsort"    2          the same
    ============= ========== ====================================================================

    Parameters
    ----------
    target : object
        With ``grad_log_prior(x)``, (n, d) to (n, d), and ``grad_log_likelihood(x, indices)``, the
        *sum* of the gradients over the data at `indices` (m,), int64, both in the framework, dtype
        and device of ``x`` and in new arrays; or a `mckean.targets.LogisticRegression`, whose rows
        are gathered for its native gradient.
    step : float
        Step size h > 0; of the splittings with leapfrogs, the time of all of them.
    n_data : int, optional
        Number of data; known for a `LogisticRegression`.
    batch_size : int
        Data in a batch, at most `n_data`; all of them give the plain sampler.
    friction : float
        Friction >= 0.
    u : float
        Inverse mass > 0.
    scheme : str
        One of the table above.
    n_leapfrog : int
        Leapfrogs in a step; more than 1 for "lie-trotter" and "symmetric" only.
    sampling : {"shuffle", "subset", "replacement"}
        "shuffle" goes through all data in a new random order in every pass, in ``ceil(n_data /
        batch_size)`` batches of equal size (give or take one); "subset" takes an independent
        random subset in every step; "replacement" draws every member of a batch by itself.
    anchor : array, shape (d,), optional
        A point, best near the mode, around which gradients are corrected: the whole likelihood
        there plus the difference that the batch sees (a control variate). It costs one pass over
        the data at the start and one more gradient of one row in every step.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    UnderdampedLangevin

    Notes
    -----
    Over a pass of "shuffle" the errors of the batches cancel to second order, so that the
    stationary bias is O(h^2) for schemes of order 2 and above, and no better for those of order 3 [1]_.
    Independent batches ("subset", "replacement") do not cancel: their noise is heat of order h, and
    so is the bias, whatever the scheme. In both cases the size of that bias grows with the variance
    of a batch, which larger batches or an `anchor` reduce.

    All chains of one run use the same batch in a step, so that one set of rows is read for all;
    they are not independent of each other, and averaging over them does not average out what
    batches do. Average over time, or over runs with different seeds. The indices are a pure
    function of the seed and the step; `n_gradient_evaluations` counts batches. Deterministic given
    the seed. If particles diverge, `mckean.run` returns ``converged=False``.

    References
    ----------
    .. [1] G. Franzese, D. Milios, M. Filippone, P. Michiardi, "Revisiting the effects of
       stochasticity for Hamiltonian samplers", ICML 2022
    .. [2] T. Chen, E. Fox, C. Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", ICML 2014

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((200, 3))
    >>> target = mk.targets.LogisticRegression(X, X[:, 0] > 0)
    >>> chain = mk.samplers.StochasticGradientHMC(target, 0.05, batch_size=20)
    >>> result = mk.run(chain, np.zeros((10, 3)), 400, burn_in=200, progress=False)
    >>> bool(result.x[..., 0].mean() > 2), result.n_gradient_evaluations
    (True, 400)
    """

    def __init__(
        self,
        target: Any,
        step: float,
        *,
        n_data: int | None = None,
        batch_size: int,
        friction: float = 1.0,
        u: float = 1.0,
        scheme: str = "ubu",
        n_leapfrog: int = 1,
        sampling: str = "shuffle",
        anchor: Any = None,
    ) -> None:
        self.target, self.step_size = target, positive(step, "step")
        self.friction, self.u = nonnegative(friction, "friction"), positive(u, "u")
        self.scheme = one_of(scheme, "scheme", (*SCHEMES, *_SPLITTINGS))
        self.n_leapfrog = as_count(n_leapfrog, "n_leapfrog", least=1)
        if self.n_leapfrog > 1 and scheme not in _SPLITTINGS:
            raise ValueError(f"n_leapfrog: expected 1 for scheme {scheme!r}, got {self.n_leapfrog}")
        known = len(target.X) if isinstance(target, targets.LogisticRegression) else None
        if n_data is None and known is None:
            raise ValueError("n_data: expected the number of data for this target, got None")
        if n_data is not None and known is not None and n_data != known:
            raise ValueError(f"n_data: expected {known} to match the target, got {n_data}")
        self._batches = MiniBatches(known if n_data is None else n_data, batch_size, sampling)
        self.n_data, self.batch_size, self.sampling = (
            self._batches.n,
            self._batches.size,
            sampling,
        )
        self._gradient = BatchGradient(target, self.n_data, anchor)
        self._fsal = scheme in SCHEMES and SCHEMES[scheme].fsal
        if scheme in SCHEMES:
            self._noise = Noise("counter", self.step_size, SCHEMES[scheme].noise)
            self._plan = plan(scheme, self.step_size, self.friction, self.u, self._noise.factor)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this method."""
        return {
            "target": self.target,
            "step": self.step_size,
            "n_data": self.n_data,
            "batch_size": self.batch_size,
            "friction": self.friction,
            "u": self.u,
            "scheme": self.scheme,
            "n_leapfrog": self.n_leapfrog,
            "sampling": self.sampling,
            "anchor": self._gradient.anchor,
        }

    def init(self, x0: Any, seed: Any = 0, *, v0: Any = None) -> StochasticGradientState:
        """Return the state at `x0`, shape (n, d), with velocities `v0` or drawn from ``N(0, u
        I)``."""
        seed = as_seed(seed)
        x = starting_points(x0)
        copy = _combine_checked(x, _COPY, [x.data])[0].result()
        if v0 is None:
            scale = np.array([math.sqrt(self.u)])
            v = _combine_checked(
                x, 0.0 * _COPY, [x.data], noise=scale, seed=seed, stream=_VELOCITY_STREAM
            )
        else:
            given = as_match(v0, "v0", x, "x0")
            check_finite(given, "v0")
            v = _combine_checked(x, _COPY, [given.data])
        grad = None
        if self._fsal:
            g = self._gradient(copy, x, *self._batches.at(seed, 0))
            check_finite(g, "gradient at x0")
            grad = g.array
        return StochasticGradientState(copy, v[0].result(), grad, seed, 0, int(self._fsal))

    def step(self, state: StochasticGradientState) -> StochasticGradientState:
        """Return the state one step later; `state` stays as it is."""
        x = as_input(state.x, "state.x", shape=("n", "d"))
        v = as_match(state.v, "state.v", x, "state.x")
        if self.scheme in _SPLITTINGS:
            return self._split(state, x, v)
        # A gradient that the next step uses again belongs to its batch.
        batch = self._batches.at(state.seed, state.step + int(self._fsal))
        known = {"x": x.data, "v": v.data}
        held: list[Input] = []
        if self._fsal:
            held.append(as_match(state.grad, "state.grad", x, "state.x"))
            known["g0"] = held[0].data
        if any(name in self._plan.base_names for name in "WHK"):
            known.update(zip("WHK", self._noise.draw(x, state.seed, state.step), strict=False))
        end = move(self._plan, x, known, lambda at, used: self._gradient(at, x, *batch, used), held)
        return StochasticGradientState(
            end.position,
            end.velocity.result(),
            end.gradients[-1].array if self._fsal else None,
            state.seed,
            state.step + 1,
            state.n_gradients + self._plan.n_stages,
        )

    def _split(self, state: StochasticGradientState, x: Input, v: Input) -> StochasticGradientState:
        """Friction and noise, exact, after or around leapfrogs along the potential of one batch."""
        batch = self._batches.at(state.seed, state.step)
        symmetric = self.scheme == "symmetric"
        part = self.friction * self.step_size * (0.5 if symmetric else 1.0)
        decay, spread = math.exp(-part), math.sqrt(-self.u * math.expm1(-2.0 * part))
        e = self.step_size / self.n_leapfrog
        kick = e * self.u
        # Each pass ends with a drift to where the next gradient is taken; both rows see one draw.
        first = np.array([[1.0, 0.5 * e], [0.0, 1.0]])
        noise = np.zeros(2)
        if symmetric:
            first[:, 1] *= decay
            noise = spread * np.array([0.5 * e, 1.0])
        rows = _combine_checked(
            x,
            first,
            [x.data, v.data],
            noise=noise,
            seed=state.seed,
            stream=PROPOSAL_STREAM,
            counter=2 * state.step,
        )
        held: list[Input] = []
        for i in range(self.n_leapfrog):
            last = i == self.n_leapfrog - 1
            data = [row.data for row in rows]
            g = self._gradient(rows[0].result(), x, *batch, held)
            drift = 0.5 * e if last else e
            table = np.array([[1.0, drift, drift * kick], [0.0, 1.0, kick]])
            noise = np.zeros(2)
            if last:
                table[1] *= decay
                noise[1] = spread
            rows = _combine_checked(
                x,
                table,
                [*data, g.data],
                noise=noise,
                seed=state.seed,
                stream=PROPOSAL_STREAM,
                counter=2 * state.step + 1,
            )
        return StochasticGradientState(
            rows[0].result(),
            rows[1].result(),
            None,
            state.seed,
            state.step + 1,
            state.n_gradients + self.n_leapfrog,
        )
