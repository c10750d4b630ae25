"""A low-rank model M = U diag(s) U^T + t I of the negative Hessian, where the particles are, and the adjusted step in
its coordinates w = M^(1/2) x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input, Output, as_input, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import nonnegative
from mckean.lowrank import LowRankOperator, _native
from mckean.lowrank._native import SOLVE, SQRT_MATVEC, SQRT_SOLVE, Term
from mckean.samplers._parts import PROPOSAL_STREAM, Target
from mckean.stepping import _combine_checked

__all__ = [
    "SOLVE",
    "SQRT_MATVEC",
    "SQRT_SOLVE",
    "Block",
    "Metric",
    "Whitening",
    "adjusted_move",
    "start_block",
    "unadjusted_move",
]


class Whitening:
    """The model of a sampler, checked; `at` gives it in the dtype and place of the particles."""

    def __init__(self, model: Any, damping: Any) -> None:
        if not isinstance(model, LowRankOperator):
            raise TypeError(
                f"model: expected a mckean.lowrank.LowRankOperator, got {type(model).__name__}"
            )
        self.model, self.damping = model, nonnegative(damping, "damping")
        self._U, self._s = (np.asarray(to_numpy(a), np.float64) for a in (model.U, model.s))
        *lead, self.dim, _ = self._U.shape
        self.batch: int | None = lead[0] if lead else None
        self._t = model._shift(self.damping, SOLVE)  # every item on its own
        self._kept: tuple[tuple[str, str, str], Metric] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def config(self) -> dict[str, Any]:
        return {"U": self._U, "s": self._s, "t": self._t}

    def at(self, x: Input) -> Metric:
        """The model for the particles `x` (n, d)."""
        if x.shape[1] != self.dim or self.batch not in (None, x.shape[0]):
            shape = f"(n, {self.dim})" if self.batch is None else f"({self.batch}, {self.dim})"
            raise ValueError(f"x0: expected shape {shape} to match model, got {x.shape}")
        key = (x.framework.name, x.dtype, x.device)
        kept = self._kept
        if kept is None or kept[0] != key:
            kept = (key, Metric.of(self._U, self._s, self._t, x))
            self._kept = kept
        return kept[1]


@dataclass(slots=True)
class Metric:
    """U (d, k) or (n, d, k), s and t in the place of the particles."""

    U: Input
    s: Input
    t: np.ndarray[Any, Any]

    @classmethod
    def of(
        cls, U: np.ndarray[Any, Any], s: np.ndarray[Any, Any], t: np.ndarray[Any, Any], x: Input
    ) -> Metric:
        there = (x.framework.asarray(np.array(a, x.dtype, order="C"), x.device) for a in (U, s))
        U_there, s_there = (as_input(a, "model") for a in there)
        return cls(U_there, s_there, np.ascontiguousarray(t, np.float64))

    def combine(
        self, x: Input, terms: Sequence[Term], *, seed: int = 0, counter: int = 0
    ) -> Output:
        """sum of scale f(M) array over (function, scale, array), shaped like x; None is fresh noise."""
        out = x.framework.empty(x.shape, x.dtype, x.device)
        # One model is a batch of one; with a model for each particle, of as many.
        _native.apply(
            self.U.data,
            self.s.data,
            self.t,
            terms,
            out.data,
            (x.framework, x.device),
            seed=seed,
            stream=PROPOSAL_STREAM,
            counter=counter,
        )
        return out

    def apply(self, function: int, x: Input) -> Any:
        return self.combine(x, [(function, 1.0, x.data)]).result()


def unadjusted_move(metric: Metric, x: Input, g: Input, h: float, seed: int, counter: int) -> Any:
    """x + h P g + sqrt(2 h) P^(1/2) N(0, I), P = M^-1, in one pass."""
    terms: list[Term] = [
        (_native.IDENTITY, 1.0, x.data),
        (SOLVE, h, g.data),
        (SQRT_SOLVE, math.sqrt(2.0 * h), None),
    ]
    return metric.combine(x, terms, seed=seed, counter=counter).result()


@dataclass(slots=True)
class Block:
    """Particles of an adjusted chain: x = M^(-1/2) w to the last bit, and the gradient in w."""

    x: Any
    w: Any
    grad: Any
    log_density: Any
    accepted: Any


def start_block(metric: Metric, target: Target, x: Input, where: str) -> Block:
    """`x` in the coordinates of the model; density and gradient must be finite."""
    w = metric.apply(SQRT_MATVEC, x)
    back = metric.apply(SQRT_SOLVE, as_input(w, "w"))
    g = target.gradient(back, x)
    check_finite(g, f"grad_log_density({where})")
    density = target.log_density(back, x)
    check_finite(density, f"log_density({where})")
    accepted = x.framework.asarray(np.zeros(x.shape[0], np.uint8), x.device)
    return Block(back, w, metric.apply(SQRT_SOLVE, g), density.array, accepted)


def adjusted_move(
    metric: Metric,
    target: Target,
    w: Input,
    g: Input,
    density: Input,
    h: float,
    seed: int,
    counter: int,
) -> Block:
    """One Metropolis-adjusted step: in the coordinates w that of the chain without a model."""
    proposal = _combine_checked(
        w,
        np.array([[1.0, h]]),
        [w.data, g.data],
        noise=np.array([math.sqrt(2.0 * h)]),
        seed=seed,
        stream=PROPOSAL_STREAM,
        counter=counter,
    )[0].result()
    v = as_input(proposal, "proposal")
    y = metric.apply(SQRT_SOLVE, v)
    gradient = target.gradient(y, w)
    density_v = target.log_density(y, w)
    g_v = as_input(metric.apply(SQRT_SOLVE, gradient), "gradient")

    def empty(shape: tuple[int, ...], dtype: str) -> Output:
        return w.framework.empty(shape, dtype, w.device)

    w_new, g_new = empty(w.shape, w.dtype), empty(w.shape, w.dtype)
    density_new, accepted = empty(w.shape[:1], w.dtype), empty(w.shape[:1], "uint8")
    executor(w.device).metropolis(
        w.data,
        v.data,
        g.data,
        g_v.data,
        density.data,
        density_v.data,
        h,
        seed,
        counter,
        w_new.data,
        g_new.data,
        density_new.data,
        accepted.data,
        w.framework.queue(w.device),
    )
    w_after = w_new.result()
    # The rows of a product do not depend on one another: this is y or the old x, bit for bit.
    x_after = metric.apply(SQRT_SOLVE, as_input(w_after, "w"))
    return Block(x_after, w_after, g_new.result(), density_new.result(), accepted.result())
