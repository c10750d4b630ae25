"""What the samplers share: checked calls of the user's target, and where the noise of a step comes
from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mckean._array import Input, as_input, as_match, check_finite
from mckean._dispatch import executor
from mckean.brownian import BrownianTree

__all__ = ["PROPOSAL_STREAM", "Noise", "Target", "starting_points"]

# The noise of fused steps has a stream of its own: users draw starting points from stream 0, often of the same seed.
PROPOSAL_STREAM = 0x70726F706F73616C  # "proposal"


def starting_points(x0: Any) -> Input:
    """Check `x0` as finite particles (n, d)."""
    x = as_input(x0, "x0", shape=("n", "d"))
    if 0 in x.shape:
        raise ValueError(
            f"x0: expected at least one particle and one dimension, got shape {x.shape}"
        )
    check_finite(x, "x0")
    return x


class Target:
    """The density to sample, from an object or a plain gradient function."""

    def __init__(self, target: Any, *, needs_density_for: str = "") -> None:
        gradient = getattr(target, "grad_log_density", None)
        density = getattr(target, "log_density", None)
        label = getattr(target, "__name__", type(target).__name__)
        if gradient is None and density is None and callable(target):
            gradient = target
        if not callable(gradient):
            raise TypeError(
                f"target: expected grad_log_density(x) or a callable, "
                f"{label} has no grad_log_density"
            )
        if needs_density_for and not callable(density):
            raise TypeError(
                f"target: {needs_density_for} needs log_density(x), {label} has no log_density"
            )
        self._gradient, self._density = gradient, density

    def gradient(self, x: Any, like: Input, held: Sequence[Input] = ()) -> Input:
        """The gradient at `x`; `held` are earlier ones still in use, which it must not overwrite."""
        g = as_match(self._gradient(x), "grad_log_density", like, "x")
        address = g.framework.address
        if any(address(g.data) == address(h.data) for h in held):
            raise ValueError(
                "grad_log_density: expected a new array from each call, got the same memory twice"
            )
        return g

    def log_density(self, x: Any, like: Input) -> Input:
        assert self._density is not None
        return as_match(self._density(x), "log_density", like, "x", shape=like.shape[:1])


class Noise:
    """W, H and K of one step of every coordinate, by one of three sources.

    "counter" draws each step afresh; "tree" reads a Brownian tree that belongs to the seed; an
    object with ``increment(s, t)`` is asked for ``[t0 + k h, t0 + (k + 1) h]``.
    """

    _names = ("W", "H", "K")
    _levy = ("none", "space-time", "space-time-time")
    _deviation = (1.0, math.sqrt(1 / 12), math.sqrt(1 / 720))
    _log_steps = 30

    def __init__(self, source: Any, step: float, count: int) -> None:
        if not (
            source in ("tree", "counter")
            if isinstance(source, str)
            else hasattr(source, "increment")
        ):
            raise ValueError(
                f"noise: expected 'tree', 'counter' or an object with increment(s, t), "
                f"got {source!r}"
            )
        tol = getattr(source, "tol", None)
        if isinstance(tol, float) and tol > step * (1 + 1e-9):
            raise ValueError(
                f"noise: expected a tree with tol <= step = {step:.4g}, got tol = {tol:.4g}"
            )
        self.source, self._h, self._count = source, step, count
        # Named sources give unit-time noise: the leaves of a tree over [0, 2^30] are then exactly
        # the steps, whatever h is, and the factor goes into the coefficients.
        self.factor = math.sqrt(step) if isinstance(source, str) else 1.0
        self._trees: dict[tuple[Any, ...], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_trees": {}}

    def draw(self, x: Input, seed: int, step: int) -> list[Any]:
        """Native arrays shaped like `x`, to be multiplied by `factor`."""
        if self.source == "counter":
            outs = [x.framework.empty(x.shape, x.dtype, x.device) for _ in range(self._count)]
            data = [o.data for o in outs]
            scales = list(self._deviation[: self._count])
            executor(x.device).step_noise(data, scales, seed, step, x.framework.queue(x.device))
            return data
        if self.source == "tree":
            if step >= 1 << self._log_steps:
                raise ValueError(
                    f"noise: a tree holds 2**{self._log_steps} steps, use noise='counter'"
                )
            increment = self._tree(x, seed).increment(float(step), step + 1.0)
        else:
            t0, t1 = (
                float(getattr(self.source, "t0", 0.0)),
                float(getattr(self.source, "t1", math.inf)),
            )
            s, t = t0 + step * self._h, t0 + (step + 1) * self._h
            if t1 < t <= t1 + 1e-6 * self._h:  # k h may round to just beyond the end
                t = t1
            if t > t1:
                raise ValueError(
                    f"noise: expected a path that reaches t = {t:.6g} (step {step + 1}), got t1 = {t1}"
                )
            increment = self.source.increment(s, t)
        data = []
        for name in self._names[: self._count]:
            value = getattr(increment, name)
            if value is None:
                raise ValueError(
                    f"noise: expected a tree with levy_area={self._levy[self._count - 1]!r}, "
                    f"got no {name}"
                )
            data.append(as_match(value, f"noise.{name}", x, "x").data)
        return data

    def _tree(self, x: Input, seed: int) -> Any:
        key = (seed, x.shape, x.dtype, x.device, x.framework.name)
        if key not in self._trees:
            if len(self._trees) >= 4:
                self._trees.clear()
            self._trees[key] = BrownianTree(
                seed,
                x.shape,
                t0=0.0,
                t1=2.0**self._log_steps,
                tol=1.0,
                levy_area=self._levy[self._count - 1],
                dtype=x.dtype,
                like=x.array,
            )
        return self._trees[key]
