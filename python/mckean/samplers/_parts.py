"""What the samplers share: checked calls of the user's target, and where the noise of a step comes
from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

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
        self.target, self._gradient, self._density = target, gradient, density

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
    object with ``increment(s, t)`` is asked for ``[t0 + k h, t0 + (k + 1) h]``. With `smallest`,
    parts of a step at least that long can be asked for: the same path, resolved more finely.
    """

    _names = ("W", "H", "K")
    _levy = ("none", "space-time", "space-time-time")
    _deviation = (1.0, math.sqrt(1 / 12), math.sqrt(1 / 720))
    _log_steps = 30

    def __init__(
        self, source: Any, step: float, count: int, *, smallest: float | None = None
    ) -> None:
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
        least = step if smallest is None else smallest
        if isinstance(tol, float) and tol > least * (1 + 1e-9):
            what = "step" if smallest is None else "the shortest part of a step"
            raise ValueError(
                f"noise: expected a tree with tol <= {what} = {least:.4g}, got tol = {tol:.4g}"
            )
        self._tol = 1.0 if smallest is None else min(1.0, smallest / step)
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
            self._check(step)
            increment = self._tree(x, seed).increment(float(step), step + 1.0)
        else:
            s, t = self._times(step, 0.0), self._times(step, self._h)
            increment = self.source.increment(s, t)
        return self._data(x, increment)

    def between(self, x: Input, seed: int, step: int, s: Any, t: Any, *, shared: bool) -> list[Any]:
        """The same over parts ``[s, t]`` of a step, float64 (n,) times since its beginning; if
        `shared`, all chains that move have the same."""
        if shared:
            at = int(np.argmax(t > s))
            s, t = float(s[at]), float(t[at])
        if self.source == "tree":
            self._check(step)
            increment = self._tree(x, seed).increment(step + s / self._h, step + t / self._h)
        else:
            increment = self.source.increment(self._times(step, s), self._times(step, t))
        return self._data(x, increment)

    def path(self, x: Input, seed: int, step: int) -> BrownianTree:
        """The path of a named source in time rather than in steps, for native code."""
        self._check(step)
        tree: BrownianTree = self._tree(x, seed, unit=self._h)
        return tree

    def _check(self, step: int) -> None:
        if step >= 1 << self._log_steps:
            raise ValueError(f"noise: a tree holds 2**{self._log_steps} steps, use noise='counter'")

    def _times(self, step: int, s: Any) -> Any:
        """Times of the given path at `s` after the beginning of a step."""
        t0 = float(getattr(self.source, "t0", 0.0))
        t1 = float(getattr(self.source, "t1", math.inf))
        # Both ends of a step are multiples of it, computed alike.
        t = np.where(np.equal(s, self._h), t0 + (step + 1) * self._h, t0 + step * self._h + s)
        t = np.where((t1 < t) & (t <= t1 + 1e-6 * self._h), t1, t)  # k h may round to just beyond
        if (t > t1).any():
            raise ValueError(
                f"noise: expected a path that reaches t = {t.max():.6g} (step {step + 1}), "
                f"got t1 = {t1}"
            )
        return t if t.ndim else float(t)

    def _data(self, x: Input, increment: Any) -> list[Any]:
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

    def _tree(self, x: Input, seed: int, unit: float = 1.0) -> Any:
        key = (seed, x.shape, x.dtype, x.device, x.framework.name, unit)
        if key not in self._trees:
            if len(self._trees) >= 4:
                self._trees.clear()
            self._trees[key] = BrownianTree(
                seed,
                x.shape,
                t0=0.0,
                t1=2.0**self._log_steps * unit,
                tol=self._tol * unit,
                levy_area=self._levy[self._count - 1],
                dtype=x.dtype,
                like=x.array,
            )
        return self._trees[key]
