"""Equations whose drift and diffusion native code knows, so that a solver never leaves it.

Each is an ordinary `SDE` as well: its drift, diffusion and slope work on arrays of every framework,
and where a closed form of the solution or of its moments exists, it is a method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import as_input, check_finite, framework_of, to_numpy
from mckean._errors import as_real, nonnegative, one_of, positive
from mckean.sde._system import SDE

__all__ = [
    "CoxIngersollRoss",
    "GeometricBrownian",
    "Langevin",
    "Lorenz",
    "OrnsteinUhlenbeck",
    "UnderdampedLangevin",
]

Array = np.ndarray[Any, Any]
_SENSES = ("ito", "stratonovich")


def _parameter(value: Any, name: str, *, least: float = -math.inf, above: bool = False) -> Array:
    """A read-only float64 copy, of shape () or (d,); `above` leaves out `least` itself."""
    if np.ndim(value) == 0:
        out = np.array(as_real(value, name))
    else:
        found = as_input(value, name, shape=("d",))
        check_finite(found, name)
        out = np.array(to_numpy(found.array), np.float64)
        if not out.size:
            raise ValueError(f"{name}: expected a number or shape (d,), got shape (0,)")
    low = float(out.min())
    if low < least or (above and low == least):
        what = f"a positive number{'s' * out.ndim}" if above else f"numbers >= {least:g}"
        raise ValueError(f"{name}: expected {what}, got {low:g}")
    out.flags.writeable = False
    return out


def _common_dim(parameters: dict[str, Array]) -> int | None:
    """The d of those parameters that have one; None if all are numbers."""
    named = [(name, len(p)) for name, p in parameters.items() if p.ndim]
    for name, length in named[1:]:
        if length != named[0][1]:
            raise ValueError(
                f"{name}: expected a number or shape ({named[0][1]},) to match {named[0][0]} "
                f"({named[0][1]},), got ({length},)"
            )
    return named[0][1] if named else None


def _like(p: Array, y: Any) -> Any:
    """`p` beside `y`: a Python float, which takes the dtype of any array, or an array as `y` is."""
    if not p.ndim:
        return float(p)
    name = framework_of(y).name
    if name == "numpy":
        return p.astype(y.dtype, copy=False)
    if name == "torch":
        import torch

        return torch.as_tensor(np.array(p), dtype=y.dtype, device=y.device)
    if name == "jax":  # also under jit, where `y` is an abstract value
        import jax

        return jax.numpy.asarray(p, dtype=y.dtype)
    return framework_of(y).asarray(p.astype(str(y.dtype)), framework_of(y).device(y, "y"))


def _spread(p: Array, y: Any, shape: tuple[int, ...]) -> Any:
    """`p` at every path: an array of `shape` that repeats, and does not copy, its entries."""
    name = framework_of(y).name
    if name == "torch":
        import torch

        return torch.as_tensor(np.array(p), dtype=y.dtype, device=y.device).expand(shape)
    if name == "jax":
        import jax

        return jax.numpy.broadcast_to(jax.numpy.asarray(p, dtype=y.dtype), shape)
    if name == "cupy":
        import cupy

        return cupy.broadcast_to(cupy.asarray(p, y.dtype), shape)
    return np.broadcast_to(p.astype(y.dtype, copy=False), shape)


def _beside(parts: list[Any]) -> Any:
    """Join along the last axis."""
    name = framework_of(parts[0]).name
    if name == "torch":
        import torch

        return torch.cat(parts, -1)
    if name == "jax":
        import jax

        return jax.numpy.concatenate(parts, -1)
    if name == "cupy":
        import cupy

        return cupy.concatenate(parts, -1)
    return np.concatenate(parts, -1)


def _exp(x: Any) -> Any:
    """Elementwise exponential, in the framework of `x`."""
    name = framework_of(x).name
    if name == "torch":
        return x.exp()
    if name == "jax":
        import jax

        return jax.numpy.exp(x)
    return np.exp(x)  # CuPy arrays answer NumPy's functions themselves


def _one_minus_exp(rate: Array, t: float) -> Array:
    """``(1 - exp(-rate t)) / rate``, which is t at rate 0."""
    safe = np.where(rate == 0.0, 1.0, rate)
    return np.asarray(np.where(rate == 0.0, t, -np.expm1(-safe * t) / safe))


class _BuiltIn(SDE):
    """What the equations below share: named parameters, and dimensions if these have one."""

    kind: str
    dim: int | None
    noise_dim: int | None

    def _set(
        self,
        parameters: dict[str, Array],
        noise: str,
        interpretation: str,
        slope: Callable[[Any, Any], Any] | None = None,
        dim: int | None = None,
    ) -> None:
        one_of(interpretation, "interpretation", _SENSES)
        super().__init__(
            self._drift,
            self._diffusion,
            noise=noise,
            interpretation=interpretation,
            diffusion_slope=slope,
        )
        self._parameters = parameters
        self.dim = self.noise_dim = _common_dim(parameters) if dim is None else dim

    def parameters(self) -> dict[str, Array]:
        """The parameters by name, in the order of the constructor: float64, shape () or (d,)."""
        return dict(self._parameters)

    def _drift(self, t: Any, y: Any) -> Any:
        raise NotImplementedError

    def _diffusion(self, t: Any, y: Any) -> Any:
        raise NotImplementedError

    def _in_sense(self, interpretation: str) -> SDE:
        raise NotImplementedError

    def to_ito(self) -> SDE:
        """The equation in the sense of Ito that has the same solutions."""
        return self if self.interpretation == "ito" else self._in_sense("ito")

    def to_stratonovich(self) -> SDE:
        """The equation in the sense of Stratonovich that has the same solutions."""
        return self if self.interpretation == "stratonovich" else self._in_sense("stratonovich")

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{name}={p.item():.6g}" if not p.ndim else f"{name}=<{len(p)} numbers>"
            for name, p in self._parameters.items()
        )
        return f"{type(self).__name__}({inner}, interpretation={self.interpretation!r})"


class OrnsteinUhlenbeck(_BuiltIn):
    """Ornstein-Uhlenbeck process, ``dy = rate (mean - y) dt + sigma dB``.

    The noise is additive, so both interpretations are the same process.

    Parameters
    ----------
    rate, mean, sigma : float or array, shape (d,)
        Speed of return, level and volatility (>= 0), one for all coordinates or one for each.
    interpretation : {"ito", "stratonovich"}

    Attributes
    ----------
    rate, level, sigma : ndarray, float64, shape () or (d,)
    kind : str
        "ou".
    dim : int or None
        d, where a parameter is an array.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.sde.sdeint, Langevin

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.sde import OrnsteinUhlenbeck
    >>> process = OrnsteinUhlenbeck(2.0, sigma=0.5)
    >>> process.drift(0.0, np.array([[1.0, -1.0]]))
    array([[-2.,  2.]])
    >>> process.mean(1.0, np.ones((1, 1))).round(4), process.variance(1.0).round(4)
    (array([[0.1353]]), array([0.0614]))
    """

    kind = "ou"

    def __init__(
        self, rate: Any, mean: Any = 0.0, sigma: Any = 1.0, *, interpretation: str = "ito"
    ) -> None:
        self.rate, self.level = _parameter(rate, "rate"), _parameter(mean, "mean")
        self.sigma = _parameter(sigma, "sigma", least=0.0)
        named = {"rate": self.rate, "mean": self.level, "sigma": self.sigma}
        self._set(named, "additive", interpretation, self._slope)

    def _drift(self, t: Any, y: Any) -> Any:
        return _like(self.rate, y) * (_like(self.level, y) - y)

    def _diffusion(self, t: Any, y: Any) -> Any:
        return _spread(self.sigma, y, tuple(y.shape))

    def _slope(self, t: Any, y: Any) -> Any:
        return _spread(np.zeros(()), y, tuple(y.shape))

    def _in_sense(self, interpretation: str) -> SDE:
        return OrnsteinUhlenbeck(self.rate, self.level, self.sigma, interpretation=interpretation)

    def mean(self, t: Any, y0: Any) -> Any:
        """The mean at time `t` >= 0 of paths that start from `y0` (n, d) at time 0."""
        part = self.rate * _one_minus_exp(self.rate, nonnegative(t, "t"))
        return y0 + _like(part, y0) * (_like(self.level, y0) - y0)

    def variance(self, t: Any, y0: Any = None) -> Array:
        """The variance at time `t` >= 0, float64, shape (1,) or (d,); `y0` does not matter."""
        return np.atleast_1d(self.sigma**2 * _one_minus_exp(2.0 * self.rate, nonnegative(t, "t")))


class GeometricBrownian(_BuiltIn):
    """Geometric Brownian motion, ``dy = mu y dt + sigma y dB``, each coordinate by itself.

    Parameters
    ----------
    mu, sigma : float or array, shape (d,)
        Growth and volatility (>= 0), one for all coordinates or one for each.
    interpretation : {"ito", "stratonovich"}
        The sense in which the equation is read; the processes differ.

    Attributes
    ----------
    mu, sigma : ndarray, float64, shape () or (d,)
    kind : str
        "gbm".
    dim : int or None
        d, where a parameter is an array.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.sde.sdeint, CoxIngersollRoss

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.sde import GeometricBrownian
    >>> price = GeometricBrownian(0.1, 0.5)
    >>> price.exact(1.0, np.ones((1, 2)), np.array([[0.0, 1.0]])).round(3)
    array([[0.975, 1.608]])
    >>> price.to_stratonovich()
    GeometricBrownian(mu=-0.025, sigma=0.5, interpretation='stratonovich')
    """

    kind = "gbm"

    def __init__(self, mu: Any, sigma: Any, *, interpretation: str = "ito") -> None:
        self.mu = _parameter(mu, "mu")
        self.sigma = _parameter(sigma, "sigma", least=0.0)
        named = {"mu": self.mu, "sigma": self.sigma}
        self._set(named, "diagonal", interpretation, self._slope)

    def _drift(self, t: Any, y: Any) -> Any:
        return _like(self.mu, y) * y

    def _diffusion(self, t: Any, y: Any) -> Any:
        return _like(self.sigma, y) * y

    def _slope(self, t: Any, y: Any) -> Any:
        return _like(self.sigma**2, y) * y

    def _in_sense(self, interpretation: str) -> SDE:
        sign = 1.0 if interpretation == "ito" else -1.0
        mu = self.mu + sign * 0.5 * self.sigma**2
        return GeometricBrownian(mu, self.sigma, interpretation=interpretation)

    def _growth(self) -> Array:
        """The rate of the mean: mu in the sense of Ito."""
        return np.asarray(self.mu + (0.0 if self.interpretation == "ito" else 0.5 * self.sigma**2))

    def mean(self, t: Any, y0: Any) -> Any:
        """The mean at time `t` >= 0 of paths that start from `y0` (n, d) at time 0."""
        return y0 * _like(np.exp(self._growth() * nonnegative(t, "t")), y0)

    def variance(self, t: Any, y0: Any) -> Any:
        """The variance at time `t` >= 0 of paths that start from `y0` (n, d) at time 0."""
        t = nonnegative(t, "t")
        factor = np.exp(2.0 * self._growth() * t) * np.expm1(self.sigma**2 * t)
        return y0**2 * _like(factor, y0)

    def exact(self, t: Any, y0: Any, W: Any) -> Any:
        """The solution at time `t` >= 0 along the path with value `W` (n, d) there, from `y0` (n,
        d) at time 0."""
        t = nonnegative(t, "t")
        drift = np.asarray((self._growth() - 0.5 * self.sigma**2) * t)
        return y0 * _exp(_like(drift, y0) + _like(self.sigma, y0) * W)


class CoxIngersollRoss(_BuiltIn):
    """Cox-Ingersoll-Ross process, ``dy = a (b - y) dt + sigma sqrt(y) dB``, each coordinate by
    itself.

    Parameters
    ----------
    a, b, sigma : float or array, shape (d,)
        Speed of return (> 0), level (>= 0 in the sense of Ito) and volatility (>= 0), one for all
        coordinates or one for each.
    interpretation : {"ito", "stratonovich"}
        The sense in which the equation is read; the processes differ.

    Attributes
    ----------
    a, b, sigma : ndarray, float64, shape () or (d,)
    kind : str
        "cir".
    dim : int or None
        d, where a parameter is an array.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.sde.sdeint, mckean.sde.HOStS, mckean.sde.DIE

    Notes
    -----
    Solutions are never negative, but the steps of general solvers can be: there the diffusion is
    0 and the drift remains. `HOStS` and `DIE` keep every step at 0 or above. In the sense of
    Stratonovich the level of the same process is ``b - sigma^2 / (4 a)``, which may be negative.

    References
    ----------
    .. [1] J. Cox, J. Ingersoll, S. Ross, "A theory of the term structure of interest rates",
       Econometrica 53, 1985

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.sde import CoxIngersollRoss
    >>> rates = CoxIngersollRoss(1.0, 1.0, 2.0)
    >>> rates.diffusion(0.0, np.array([[4.0, -1.0]]))
    array([[4., 0.]])
    >>> rates.mean(1.0, np.zeros((1, 1))).round(3), rates.to_stratonovich().b
    (array([[0.632]]), array(0.))
    """

    kind = "cir"

    def __init__(self, a: Any, b: Any, sigma: Any, *, interpretation: str = "ito") -> None:
        one_of(interpretation, "interpretation", _SENSES)
        self.a = _parameter(a, "a", least=0.0, above=True)
        self.b = _parameter(b, "b", least=0.0 if interpretation == "ito" else -math.inf)
        self.sigma = _parameter(sigma, "sigma", least=0.0)
        named = {"a": self.a, "b": self.b, "sigma": self.sigma}
        self._set(named, "diagonal", interpretation, self._slope)

    def _drift(self, t: Any, y: Any) -> Any:
        return _like(self.a, y) * (_like(self.b, y) - y)

    def _diffusion(self, t: Any, y: Any) -> Any:
        return _like(self.sigma, y) * y.clip(min=0.0) ** 0.5

    def _slope(self, t: Any, y: Any) -> Any:
        return _spread(np.asarray(0.5 * self.sigma**2), y, tuple(y.shape))

    def _in_sense(self, interpretation: str) -> SDE:
        sign = 1.0 if interpretation == "ito" else -1.0
        b = np.asarray(self.b + sign * self.sigma**2 / (4.0 * self.a))
        if interpretation == "ito":  # a level of 0 that came from rounding
            b = np.where((b < 0.0) & (b > -1e-14 * np.abs(self.b)), 0.0, b)
        return CoxIngersollRoss(self.a, b, self.sigma, interpretation=interpretation)

    def _level(self) -> Array:
        """The level the mean tends to: b in the sense of Ito."""
        return np.asarray(
            self.b + (0.0 if self.interpretation == "ito" else self.sigma**2 / (4.0 * self.a))
        )

    def mean(self, t: Any, y0: Any) -> Any:
        """The mean at time `t` >= 0 of paths that start from `y0` (n, d) at time 0."""
        part = np.asarray(-np.expm1(-self.a * nonnegative(t, "t")))
        return y0 + _like(part, y0) * (_like(self._level(), y0) - y0)

    def variance(self, t: Any, y0: Any) -> Any:
        """The variance at time `t` >= 0 of paths that start from `y0` (n, d) at time 0."""
        part = -np.expm1(-self.a * nonnegative(t, "t"))
        scale = self.sigma**2 / self.a * part
        return _like(np.asarray(scale * (1.0 - part)), y0) * y0 + _like(
            np.asarray(0.5 * scale * part * self._level()), y0
        )


class Lorenz(_BuiltIn):
    """Lorenz system with additive noise, in three dimensions.

    ::

        dy1 = sigma (y2 - y1) dt          + noise1 dB1
        dy2 = (y1 (rho - y3) - y2) dt     + noise2 dB2
        dy3 = (y1 y2 - beta y3) dt        + noise3 dB3

    Parameters
    ----------
    sigma, rho, beta : float
    noise : float or array, shape (3,)
        Volatility >= 0 of the coordinates.
    interpretation : {"ito", "stratonovich"}
        The noise is additive: both are the same process.

    Attributes
    ----------
    sigma, rho, beta : ndarray, float64, shape ()
    volatility : ndarray, float64, shape () or (3,)
    kind : str
        "lorenz".
    dim : int
        3.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.sde.sdeint

    References
    ----------
    .. [1] E. Lorenz, "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences 20, 1963

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.sde import Lorenz
    >>> Lorenz().drift(0.0, np.array([[1.0, 2.0, 3.0]]))
    array([[10., 23., -6.]])
    """

    kind = "lorenz"

    def __init__(
        self,
        sigma: Any = 10.0,
        rho: Any = 28.0,
        beta: Any = 8.0 / 3.0,
        noise: Any = 1.0,
        *,
        interpretation: str = "ito",
    ) -> None:
        self.sigma = np.array(as_real(sigma, "sigma"))
        self.rho, self.beta = np.array(as_real(rho, "rho")), np.array(as_real(beta, "beta"))
        self.volatility = _parameter(noise, "noise", least=0.0)
        if self.volatility.shape not in ((), (3,)):
            raise ValueError(f"noise: expected a number or shape (3,), got {self.volatility.shape}")
        named = {
            "sigma": self.sigma,
            "rho": self.rho,
            "beta": self.beta,
            "noise": self.volatility,
        }
        self._set(named, "additive", interpretation, self._slope, dim=3)

    def _drift(self, t: Any, y: Any) -> Any:
        y1, y2, y3 = y[:, :1], y[:, 1:2], y[:, 2:]
        return _beside(
            [
                float(self.sigma) * (y2 - y1),
                y1 * (float(self.rho) - y3) - y2,
                y1 * y2 - float(self.beta) * y3,
            ]
        )

    def _diffusion(self, t: Any, y: Any) -> Any:
        return _spread(self.volatility, y, tuple(y.shape))

    def _slope(self, t: Any, y: Any) -> Any:
        return _spread(np.zeros(()), y, tuple(y.shape))

    def _in_sense(self, interpretation: str) -> SDE:
        return Lorenz(
            self.sigma, self.rho, self.beta, self.volatility, interpretation=interpretation
        )


def _gradient_of(target: Any) -> tuple[Callable[[Any], Any], int | None]:
    """grad log p and the dimension (None if the target does not say) of what the samplers take."""
    gradient = getattr(target, "grad_log_density", None)
    if gradient is None and not hasattr(target, "log_density"):
        gradient = target
    if not callable(gradient):
        raise TypeError(
            f"target: expected grad_log_density(x) or a callable, "
            f"{getattr(target, '__name__', type(target).__name__)} has no grad_log_density"
        )
    dim = getattr(target, "dim", None)
    return gradient, dim if isinstance(dim, int) else None


class Langevin(_BuiltIn):
    """Overdamped Langevin diffusion, ``dy = grad log p(y) dt + sqrt(2 temperature) dB``.

    Its invariant density is p to the power ``1 / temperature``. The noise is additive, so both
    interpretations are the same process.

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. The built-in targets of `mckean.targets` stay in
        native code.
    temperature : float
        > 0.
    interpretation : {"ito", "stratonovich"}

    Attributes
    ----------
    target : object or callable
    temperature : ndarray, float64, shape ()
    kind : str
        "langevin".
    dim : int or None
        d, where the target has a ``dim``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.samplers.Langevin, UnderdampedLangevin

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.sde import Langevin
    >>> diffusion = Langevin(mk.targets.Gaussian([1.0, 2.0]), temperature=2.0)
    >>> diffusion.drift(0.0, np.zeros((1, 2))), diffusion.diffusion(0.0, np.zeros((1, 2)))
    (array([[1., 2.]]), array([[2., 2.]]))
    """

    kind = "langevin"

    def __init__(self, target: Any, temperature: Any = 1.0, *, interpretation: str = "ito") -> None:
        self.target, (self._gradient, dim) = target, _gradient_of(target)
        self.temperature = np.array(positive(temperature, "temperature"))
        self._deviation = np.sqrt(2.0 * self.temperature)
        self._set(
            {"temperature": self.temperature}, "additive", interpretation, self._slope, dim=dim
        )

    def _drift(self, t: Any, y: Any) -> Any:
        return self._gradient(y)

    def _diffusion(self, t: Any, y: Any) -> Any:
        return _spread(self._deviation, y, tuple(y.shape))

    def _slope(self, t: Any, y: Any) -> Any:
        return _spread(np.zeros(()), y, tuple(y.shape))

    def _in_sense(self, interpretation: str) -> SDE:
        return Langevin(self.target, self.temperature, interpretation=interpretation)


class UnderdampedLangevin(_BuiltIn):
    """Underdamped (kinetic) Langevin diffusion, of positions and velocities ``y = [x, v]``.

    ::

        dx = v dt
        dv = -friction v dt + u grad log p(x) dt + sqrt(2 friction u) dB

    with states (n, 2 d) and d components of noise, which act on the velocities alone; the
    diffusion is a matrix (n, 2 d, d). The invariant density is ``p(x) exp(-|v|^2 / (2 u))``.

    Parameters
    ----------
    target : object or callable
        An object with ``grad_log_density(x)``, or that function itself: (n, d) to (n, d), in the
        framework, dtype and device of ``x``. The built-in targets of `mckean.targets` stay in
        native code.
    friction : float
        > 0.
    u : float
        Inverse mass > 0.
    interpretation : {"ito", "stratonovich"}
        The noise is additive: both are the same process.

    Attributes
    ----------
    target : object or callable
    friction, u : ndarray, float64, shape ()
    kind : str
        "kinetic".
    dim, noise_dim : int or None
        2 d and d, where the target has a ``dim``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    See Also
    --------
    mckean.samplers.UnderdampedLangevin, mckean.sde.QUICSORT, Langevin

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.sde import UnderdampedLangevin
    >>> diffusion = UnderdampedLangevin(mk.targets.Gaussian([1.0]), friction=2.0)
    >>> diffusion.drift(0.0, np.array([[0.0, 3.0]])), diffusion.diffusion(0.0, np.zeros((1, 2)))
    (array([[ 3., -5.]]), array([[[0.],
            [2.]]]))
    """

    kind = "kinetic"

    def __init__(
        self, target: Any, *, friction: Any = 1.0, u: Any = 1.0, interpretation: str = "ito"
    ) -> None:
        self.target, (self._gradient, dim) = target, _gradient_of(target)
        self.friction = np.array(positive(friction, "friction"))
        self.u = np.array(positive(u, "u"))
        named = {"friction": self.friction, "u": self.u}
        self._set(named, "additive", interpretation, dim=None if dim is None else 2 * dim)
        self.noise_dim = dim

    def _halves(self, y: Any) -> int:
        total = int(y.shape[1])
        if total % 2:
            raise ValueError(
                f"y: expected positions and velocities (n, 2 d), got shape {tuple(y.shape)}"
            )
        return total // 2

    def _drift(self, t: Any, y: Any) -> Any:
        d = self._halves(y)
        x, v = y[:, :d], y[:, d:]
        return _beside([v, float(self.u) * self._gradient(x) - float(self.friction) * v])

    def _diffusion(self, t: Any, y: Any) -> Any:
        d = self._halves(y)
        matrix = np.zeros((2 * d, d))
        matrix[np.arange(d, 2 * d), np.arange(d)] = math.sqrt(2.0 * self.friction * self.u)
        return _spread(matrix, y, (int(y.shape[0]), 2 * d, d))

    def _in_sense(self, interpretation: str) -> SDE:
        return UnderdampedLangevin(
            self.target, friction=self.friction, u=self.u, interpretation=interpretation
        )
