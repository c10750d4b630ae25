"""What a stochastic differential equation is: a drift, a diffusion, and what kind of noise it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mckean._errors import as_count, one_of
from mckean.sde._callables import Compiled, compiled

__all__ = ["NOISES", "SDE"]

NOISES = ("diagonal", "additive", "scalar", "commutative", "general")
_SENSES = ("ito", "stratonovich")


class SDE:
    r"""A stochastic differential equation ``dy = drift(t, y) dt + diffusion(t, y) dB``, for batches of paths.

    ============= ============================== ====================================================
    noise         diffusion returns              meaning
    ============= ============================== ====================================================
    "diagonal"    (n, d)                         coordinate i has its own noise, and a diffusion that
                                                 depends on ``y[:, i]`` and time alone
    "additive"    (n, d) or (n, d, m)            depends on time alone; (n, d): noise of its own for
                                                 every coordinate
    "scalar"      (n, d) or (n, d, 1)            one noise, shared by all coordinates
    "commutative" (n, d, m)                      columns whose vector fields commute
    "general"     (n, d, m)                      any
    ============= ============================== ====================================================

    Parameters
    ----------
    drift : callable
        ``drift(t, y)``, with `y` of shape (n, d), returns (n, d) in the framework, dtype and device of `y`: a new
        array, or one that never changes. `t` is a float where all paths share it (constant steps), else an array
        (n,) of `y`'s framework and dtype. With adaptive steps, n is the number of paths still on their way (see
        `sdeint`). PyTorch results that require grad, as those of modules do, are detached. Or compiled code: a
        `scipy.LowLevelCallable`, a numba ``cfunc`` or a ctypes function pointer of signature ``void f(double t, const
        double* y, double* out, void* user)``, called once per path; see the notes.
    diffusion : callable
        Likewise, with results as in the table. Compiled code writes d numbers, or d times m numbers row by row.
    noise : str
        One of the table. It is not checked: solvers rely on it for their order.
    interpretation : {"ito", "stratonovich"}
    diffusion_slope : callable, optional
        ``diffusion_slope(t, y)`` returns :math:`\sum_j (D g_j)\, g_j`, shape (n, d), where :math:`g_j` are the columns
        of the diffusion: for diagonal noise ``g_i dg_i/dy_i``. Twice the difference of the two drifts of one
        process; the Milstein methods use it where they can.
    dim, noise_dim : int, optional
        d and m, for compiled code only, which does not tell them. `noise_dim` is `dim` by default; additive noise with
        ``noise_dim == dim`` has a diagonal.

    Attributes
    ----------
    drift, diffusion, diffusion_slope, noise, interpretation, dim, noise_dim
        As given.
    is_compiled : bool
        Whether drift and diffusion are compiled code.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, only one of the two functions is compiled, or its signature differs.

    See Also
    --------
    sdeint

    Notes
    -----
    Compiled code sees one path at a time, in float64 on the CPU; `y0` may be of any framework. Native loops call it
    from several threads at once (see `mckean.set_num_threads`), without Python's lock: it must be thread-safe, and
    `user` is one address for all threads and paths, best only read. It must write all of `out`, keep no pointer, and
    return: no C++ exception may leave it, and an exception raised in Python behind a ctypes callback is lost.

    Not all of it is native. The Milstein methods, `StepDoubling` and `ReversibleHeun` with constant steps, `jump_ts`,
    paths other than a `BrownianTree`, and solvers or controllers of the caller's own take their steps in Python, for
    the whole batch at once. There each compiled function is called path by path from Python, at about a microsecond
    per path and call: thirty to a hundred times the native loop. Functions of the batch are faster then.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> sde = mk.sde.SDE(lambda t, y: 0.1 * y, lambda t, y: 0.5 * y, diffusion_slope=lambda t, y: 0.25 * y)
    >>> sde.to_stratonovich().drift(0.0, np.ones((1, 1)))
    array([[-0.025]])
    """

    def __init__(
        self,
        drift: Any,
        diffusion: Any,
        *,
        noise: str = "diagonal",
        interpretation: str = "ito",
        diffusion_slope: Callable[[Any, Any], Any] | None = None,
        dim: int | None = None,
        noise_dim: int | None = None,
    ) -> None:
        self.noise = one_of(noise, "noise", NOISES)
        self.interpretation = one_of(interpretation, "interpretation", _SENSES)
        if diffusion_slope is not None and not callable(diffusion_slope):
            raise TypeError(
                f"diffusion_slope: expected a function, got {type(diffusion_slope).__name__}"
            )
        self.diffusion_slope = diffusion_slope
        self.dim = None if dim is None else as_count(dim, "dim", least=1)
        self.noise_dim = None if noise_dim is None else as_count(noise_dim, "noise_dim", least=1)
        pair = compiled(drift, "drift"), compiled(diffusion, "diffusion")
        self.is_compiled = pair[0] is not None
        if (pair[0] is None) != (pair[1] is None):
            name, given = ("diffusion", diffusion) if self.is_compiled else ("drift", drift)
            raise TypeError(
                f"{name}: expected compiled code as the other function is, got {type(given).__name__}"
            )
        if pair[0] is not None and pair[1] is not None:
            width = self._compiled_width()
            self.drift: Any = pair[0].batch(self.dim, ())
            self.diffusion: Any = pair[1].batch(self.dim, width)
        else:
            for function, name in ((drift, "drift"), (diffusion, "diffusion")):
                if not callable(function):
                    raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
            self.drift, self.diffusion = drift, diffusion

    def _compiled_width(self) -> tuple[int, ...]:
        """Check the sizes compiled code needs; return the trailing axes of its diffusion."""
        if self.dim is None:
            raise ValueError("dim: expected the dimension d, which compiled code needs, got None")
        default = 1 if self.noise == "scalar" else self.dim
        self.noise_dim = default if self.noise_dim is None else self.noise_dim
        if self.noise in ("diagonal", "scalar"):
            if self.noise_dim != default:
                raise ValueError(
                    f"noise_dim: expected {default} for {self.noise} noise, got {self.noise_dim}"
                )
            return ()
        if self.noise == "additive" and self.noise_dim == self.dim:
            return ()
        return (self.noise_dim,)

    @property
    def compiled(self) -> tuple[Compiled, Compiled] | None:
        """The compiled drift and diffusion, or None."""
        return (self.drift.code, self.diffusion.code) if self.is_compiled else None

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(noise={self.noise!r}, interpretation={self.interpretation!r})"
        )

    def to_ito(self) -> SDE:
        """Return the equation in the sense of Ito that has the same solutions.

        Returns
        -------
        SDE

        Raises
        ------
        ValueError
            If the two senses differ (noise that is not additive) and `diffusion_slope` is not known, or if the
            functions are compiled.
        """
        return self._converted("ito", 0.5)

    def to_stratonovich(self) -> SDE:
        """Return the equation in the sense of Stratonovich that has the same solutions.

        Returns
        -------
        SDE

        Raises
        ------
        ValueError
            If the two senses differ (noise that is not additive) and `diffusion_slope` is not known, or if the
            functions are compiled.
        """
        return self._converted("stratonovich", -0.5)

    def _converted(self, sense: str, factor: float) -> SDE:
        if self.interpretation == sense:
            return self
        drift, slope = self.drift, self.diffusion_slope
        if self.noise != "additive":
            if slope is None:
                raise ValueError(
                    f"diffusion_slope: expected a function, which the {sense} drift needs, got None"
                )
            if self.is_compiled:
                raise ValueError(
                    "drift: expected a Python function to change the sense of, got compiled code"
                )
            drift = _Corrected(drift, slope, factor)
        other = SDE.__new__(SDE)
        other.__dict__.update(self.__dict__)
        other.drift, other.interpretation = drift, sense
        return other


class _Corrected:
    """The drift of the other sense; a class, so that it can be pickled where its parts can."""

    def __init__(self, drift: Any, slope: Any, factor: float) -> None:
        self.drift, self.slope, self.factor = drift, slope, factor

    def __call__(self, t: Any, y: Any) -> Any:
        return self.drift(t, y) + self.factor * self.slope(t, y)
