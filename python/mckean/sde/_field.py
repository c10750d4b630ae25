"""What a solver sees: the functions of an equation as checked calls on a batch, the times and the noise of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean import _array
from mckean._array import Input, Output, as_input, as_match
from mckean.sde import _native

__all__ = ["Field", "Noise", "Span", "hold"]

Floats = np.ndarray[Any, np.dtype[np.float64]]


def hold(out: Output, like: Input) -> Input:
    """What native code has written, as an argument of the next call."""
    data = out.data
    array = out.result()
    shape = tuple(array.shape)
    return Input(data, array, shape, like.dtype, like.device, like.framework)


class Span:
    """The times of one step: floats where all paths share them, else float64 (n,) on the host.

    `first` and `last` are where coefficients are evaluated, `length` is what the Brownian path sees; the three agree
    but at jumps.
    """

    __slots__ = ("_like", "_step", "_times", "first", "last", "length")

    def __init__(self, like: Input, first: Any, last: Any, length: Any) -> None:
        self.first, self.last, self.length = first, last, length
        self._like = like
        self._step: Any = length if isinstance(length, float) else None
        self._times: dict[float, Any] = {}

    def at(self, fraction: float) -> Any:
        """The time `first` + `fraction` of the step, as user functions take it."""
        if isinstance(self.length, float):
            if fraction == 0.0 or fraction == 1.0:
                return self.last if fraction else self.first
            return self.first + fraction * (self.last - self.first)
        if fraction not in self._times:
            host = self.first + fraction * (self.last - self.first)
            host = {0.0: self.first, 1.0: self.last}.get(fraction, host)
            self._times[fraction] = self._own(host)
        return self._times[fraction]

    def _own(self, host: Floats) -> Any:
        like = self._like
        return like.framework.asarray(host.astype(like.dtype), like.device)

    @property
    def step(self) -> Any:
        """The step as native code takes it: a float, or float64 (n,) on the device."""
        if self._step is None:
            host = np.ascontiguousarray(self.length)
            if self._like.device == "cpu":
                self._step = host
            else:  # JAX may have no float64
                framework = self._like.framework
                holder = _array.FRAMEWORKS["cupy"] if framework.name == "jax" else framework
                self._step = holder.native(
                    holder.asarray(host, self._like.device), self._like.device
                )
        return self._step

    @property
    def factor(self) -> Any:
        """The step as a factor of arrays (n, d): a float, or (n, 1)."""
        return self.length if isinstance(self.length, float) else self._own(self.length)[:, None]


class Noise:
    """W, H and K of one step, shape (n, m), as native code reads them; H and K are None if the tree has none."""

    __slots__ = ("H", "K", "W", "_like")

    def __init__(self, like: Input, W: Any, H: Any = None, K: Any = None) -> None:
        self.W, self.H, self.K, self._like = W, H, K, like

    def array(self, name: str) -> Any:
        """One of them as an array of the caller's framework."""
        data, framework = getattr(self, name), self._like.framework
        if _array.framework_of(data) is framework:
            return data
        return framework.asarray(_array.to_numpy(data), self._like.device)


class Field:
    """An equation on a batch of n paths, with its functions checked and its drift's calls counted.

    Attributes
    ----------
    sde : SDE
    like : Input
        Any array (n, d) of the batch: shape, dtype, framework and device.
    layout : int
        How the diffusion acts: `_native.DIAGONAL`, `SCALAR` or `MATRIX`.
    noise_dim : int
        m.
    evaluations : int
        Calls of the drift so far.
    """

    def __init__(self, sde: Any, like: Input, t0: float) -> None:
        self.sde, self.like, self.evaluations = sde, like, 0
        self._all = like.shape[0]
        n, d = like.shape
        self.layout, self.noise_dim = _native.DIAGONAL, d
        self._width: tuple[int, ...] = ()
        if sde.noise == "diagonal":
            return
        if sde.is_compiled:
            shape = (n, d, *sde.diffusion.width)
        else:
            shape = tuple(getattr(sde.diffusion(t0, like.array), "shape", ()))
        flat = shape == (n, d) and sde.noise in ("additive", "scalar")
        matrix = len(shape) == 3 and shape[:2] == (n, d) and shape[2] >= 1
        if not flat and not (matrix and (sde.noise != "scalar" or shape[2] == 1)):
            fits = {"additive": "(n, d) or (n, d, m)", "scalar": "(n, d) or (n, d, 1)"}
            raise ValueError(
                f"diffusion: expected shape {fits.get(sde.noise, '(n, d, m)')} for {sde.noise} noise "
                f"and y0 {like.shape}, got {shape}"
            )
        self._width = shape[2:]
        if sde.noise == "scalar":
            self.layout, self.noise_dim = _native.SCALAR, 1
        elif not flat:
            self.layout, self.noise_dim = _native.MATRIX, shape[2]

    def drift(self, t: Any, y: Input) -> Input:
        """The drift at `t` (as `Span.at` gives it) and `y`."""
        self.evaluations += 1
        return as_match(self._value(self.sde.drift, t, y.array), "drift", y, "y")

    def diffusion(self, t: Any, y: Input) -> Input:
        """The diffusion at `t` and `y`: (n, d), or (n, d, m) where `layout` is `MATRIX`."""
        return self._as_diffusion(self._value(self.sde.diffusion, t, y.array), y)

    def slope(self, t: Any, y: Input) -> Input:
        """The user's diffusion_slope at `t` and `y`, (n, d)."""
        found = self._value(self.sde.diffusion_slope, t, y.array)
        return as_match(found, "diffusion_slope", y, "y")

    def _as_diffusion(self, g: Any, y: Input) -> Input:
        found = as_match(g, "diffusion", y, "y", shape=(*y.shape, *self._width))
        if self.layout == _native.SCALAR and self._width:  # (n, d, 1): the same memory
            array = found.array.reshape(y.shape)
            found = as_input(array, "diffusion")
        return found

    def _call(self, function: Any, t: Any, y: Any) -> Any:
        n = len(y)
        if n == self._all:
            return function(t, y)
        try:
            out = function(t, y)
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(self._rows_note(n))
            raise
        shape = getattr(out, "shape", None)
        if shape is not None and len(shape) and shape[0] == self._all:
            raise ValueError(
                f"drift, diffusion: expected {n} rows, got {shape[0]}; {self._rows_note(n)}"
            )
        return out

    def _value(self, function: Any, t: Any, y: Any) -> Any:
        """Results of modules require grad. Not torch.no_grad(): functions may differentiate inside."""
        out = self._call(function, t, y)
        if self.like.framework.name == "torch" and getattr(out, "requires_grad", False):
            return out.detach()
        return out

    def _rows_note(self, n: int) -> str:
        return (
            f"{n} of {self._all} paths are still on their way, and only these are passed; "
            "compact=False passes all of them always"
        )

    def derivative(self, t: Any, y: Input, direction: Any, scale: Any) -> Any:
        """The derivative of the diffusion at `y` along `direction` (n, d), shaped like the diffusion.

        Exact in PyTorch and JAX; elsewhere a central difference. `scale` (a float or (n, 1)) times `direction` is how
        far the noise of this step moves the path. The difference goes a small part of that way, and for diagonal
        noise, which has a length of its own per coordinate, a tiny part of ``|y|`` further. Its rounding errors are
        then 1e-10 (float32: 1e-4) of the noise, whatever the units of the coordinates; and it leaves the domain of
        the diffusion only where the step itself is about to.
        """
        sde, name = self.sde, y.framework.name

        def g(x: Any) -> Any:
            return self._call(sde.diffusion, t, x)

        if sde.is_compiled or name not in ("torch", "jax"):
            eps = float(np.finfo(y.dtype).eps)
            shift = eps ** (1 / 3) * scale * direction
            if self.layout == _native.DIAGONAL:
                shift = abs(shift) + eps ** (2 / 3) * abs(y.array)
            above, below = y.array + shift, y.array - shift
            up, down = (self._as_diffusion(g(x), y).array for x in (above, below))
            if self.layout == _native.DIAGONAL:
                width = above - below  # as rounded
                return (up - down) / (width + (width == 0)) * direction
            return (up - down) / self._beside(2.0 * eps ** (1 / 3) * scale, up)
        if name == "torch":
            import torch

            along = torch.func.jvp(g, (y.array,), (direction,))[1].detach()
        else:
            import jax

            along = jax.jvp(g, (y.array,), (direction,))[1]
        return self._as_diffusion(along, y).array

    @staticmethod
    def _beside(factor: Any, g: Any) -> Any:
        """A float, or (n, 1) with as many axes as `g`."""
        return (
            factor if isinstance(factor, float) else factor.reshape(-1, *[1] * (len(g.shape) - 1))
        )

    def apply(self, g: Any, w: Any) -> Any:
        """The diffusion `g` times noise `w` (n, m), as arrays."""
        return (g @ w[:, :, None])[:, :, 0] if self.layout == _native.MATRIX else g * w

    def update(
        self,
        y: Input,
        span: Span,
        drifts: Sequence[tuple[float, Input]],
        diffusions: Sequence[tuple[float, float, Input]] = (),
        noise: Noise | None = None,
        *,
        base: bool = True,
    ) -> Input:
        """``y + sum_k a_k step F_k + sum_k G_k (p_k W + q_k H)``, in one pass; without y unless `base`."""
        out = _native.update(
            y,
            y.data if base else None,
            [(a, f.data) for a, f in drifts],
            span.step,
            [(p, q, g.data) for p, q, g in diffusions],
            noise.W if noise else None,
            noise.H if noise else None,
            layout=self.layout,
        )
        return hold(out, y)
