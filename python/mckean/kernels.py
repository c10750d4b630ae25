"""Kernels of two points, the first argument of every interaction sum.

A kernel object holds parameters only; the values and derivatives are native code. Kernels add up and scale,
``Gaussian(1.0) + 0.5 * Laplace(2.0)``, and a sum costs one pass over the pairs.

Below, ``delta = x - y`` and ``r = |delta / bandwidth|``. A `bandwidth` is a length, one number or one per dimension.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mckean._array import to_numpy
from mckean._errors import as_count, as_real, nonnegative, positive

__all__ = [
    "Cauchy",
    "Coulomb",
    "Dot",
    "Energy",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "Log",
    "Matern32",
    "Matern52",
    "Multiquadric",
    "Polynomial",
    "RationalQuadratic",
    "Riesz",
    "Scaled",
    "Sinc",
    "Sum",
]

MAX_TERMS = 8

# Numbers of enum KernelKind in cpp/include/mckean/kernels.hpp.
(
    GAUSSIAN,
    LAPLACE,
    MATERN32,
    MATERN52,
    INVERSE_SQRT,
    SQRT,
    RECIPROCAL,
    POWER,
    LOG,
    POLYNOMIAL,
    DOT,
    SINC,
) = range(12)
RADIAL = frozenset(range(LOG + 1))
_POWERS = {-0.5: INVERSE_SQRT, 0.5: SQRT, -1.0: RECIPROCAL}


class Term(NamedTuple):
    """One summand as native code takes it.

    Radial kinds are functions of u = offset + sum_a scale_a delta_a^2; `scale` is one float for all dimensions, or an
    array (d,). Products are functions of u = offset + scale * (x.y); Sinc is the product of sinc(scale * delta_a).
    """

    kind: int
    coefficient: float
    scale: Any
    offset: float = 0.0
    exponent: float = 0.0


class Kernel:
    """What all kernels share: sums and multiples."""

    #: positive everywhere, so that its logarithm exists (`kernel_logsumexp`, `kernel_mean`)
    is_positive: bool = False
    #: twice differentiable on the diagonal, so that a Stein kernel exists (`stein_sum`, `ksd`)
    has_stein: bool = False

    def terms(self, dim: int) -> tuple[Term, ...]:
        """Return the kernel in `dim` dimensions as native summands."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        # Parameters are read once for each dimension and kept: a change would go unnoticed.
        if name in self.__dict__:
            raise AttributeError(f"{name}: kernels do not change, make a new one")
        super().__setattr__(name, value)

    def __add__(self, other: object) -> Sum:
        if not isinstance(other, Kernel):
            return NotImplemented
        return Sum(self, other)

    def __mul__(self, factor: Any) -> Scaled:
        if isinstance(factor, Kernel):
            return NotImplemented
        return Scaled(factor, self)

    __rmul__ = __mul__

    def __radd__(self, other: object) -> Kernel:
        """`sum` starts from 0."""
        if isinstance(other, int) and other == 0:
            return self
        return NotImplemented

    def __neg__(self) -> Scaled:
        return Scaled(-1.0, self)

    def __sub__(self, other: object) -> Sum:
        if not isinstance(other, Kernel):
            return NotImplemented
        return Sum(self, -other)

    def __truediv__(self, factor: Any) -> Scaled:
        return Scaled(1.0 / as_real(factor, "factor"), self)


class Sum(Kernel):
    """The sum of kernels; usually written ``k1 + k2``.

    Parameters
    ----------
    *kernels : Kernel
        At most 8 summands in all.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.kernels.Gaussian(1.0) + 3 * mk.kernels.Energy()
    Gaussian(1.0) + 3.0 * Energy()
    """

    def __init__(self, *kernels: Kernel) -> None:
        for k in kernels:
            check_kernel(k, "kernels")
        self.kernels: tuple[Kernel, ...] = tuple(
            part for k in kernels for part in (k.kernels if isinstance(k, Sum) else (k,))
        )
        if not 1 <= len(self.kernels) <= MAX_TERMS:
            raise ValueError(
                f"kernels: expected 1 to {MAX_TERMS} summands, got {len(self.kernels)}"
            )
        self.is_positive = all(k.is_positive for k in self.kernels)
        self.has_stein = all(k.has_stein for k in self.kernels)

    def terms(self, dim: int) -> tuple[Term, ...]:
        return tuple(t for k in self.kernels for t in k.terms(dim))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.kernels))


class Scaled(Kernel):
    """A multiple of a kernel; usually written ``3 * k``.

    Parameters
    ----------
    factor : float
    kernel : Kernel
    """

    def __init__(self, factor: float, kernel: Kernel) -> None:
        check_kernel(kernel, "kernel")
        self.factor, self.kernel = as_real(factor, "factor"), kernel
        self.is_positive = kernel.is_positive and self.factor > 0
        self.has_stein = kernel.has_stein

    def terms(self, dim: int) -> tuple[Term, ...]:
        return tuple(
            t._replace(coefficient=self.factor * t.coefficient) for t in self.kernel.terms(dim)
        )

    def __repr__(self) -> str:
        inner = f"({self.kernel!r})" if isinstance(self.kernel, Sum) else repr(self.kernel)
        return f"{self.factor} * {inner}"


class _Radial(Kernel):
    """A function of the distance over a bandwidth."""

    _kind: int

    def __init__(self, bandwidth: Any) -> None:
        self.bandwidth = _bandwidth(bandwidth)

    def terms(self, dim: int) -> tuple[Term, ...]:
        return (Term(self._kind, 1.0, self._scale(dim)),)

    def _scale(self, dim: int, factor: float = 1.0) -> Any:
        """Return `factor` over the squared bandwidth."""
        if isinstance(self.bandwidth, float):
            return _finite_scale(factor / self.bandwidth / self.bandwidth)
        if self.bandwidth.shape != (dim,):
            raise ValueError(
                f"bandwidth: expected a number or shape ({dim},) to match x, "
                f"got {self.bandwidth.shape}"
            )
        return _finite_scale(factor / self.bandwidth / self.bandwidth)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_text(self.bandwidth)})"


class Gaussian(_Radial):
    """The Gaussian kernel ``exp(-r^2 / 2)``.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.kernels.Gaussian(0.5)
    Gaussian(0.5)
    """

    _kind = GAUSSIAN
    is_positive = has_stein = True


class Laplace(_Radial):
    """The Laplace (exponential, Matern 1/2) kernel ``exp(-r)``; its gradient at r = 0 is taken as 0.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    """

    _kind = LAPLACE
    is_positive = True


class Matern32(_Radial):
    """The Matern kernel of smoothness 3/2, ``(1 + a r) exp(-a r)`` with ``a = sqrt(3)``.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    """

    _kind = MATERN32
    is_positive = has_stein = True


class Matern52(_Radial):
    """The Matern kernel of smoothness 5/2, ``(1 + a r + a^2 r^2 / 3) exp(-a r)`` with ``a = sqrt(5)``.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    """

    _kind = MATERN52
    is_positive = has_stein = True


class _Power(_Radial):
    """coefficient * (offset + scale r^2)^exponent."""

    def _power(
        self, dim: int, coefficient: float, offset: float, exponent: float, factor: float = 1.0
    ) -> tuple[Term, ...]:
        kind = _POWERS.get(exponent, POWER)
        return (Term(kind, coefficient, self._scale(dim, factor), offset, exponent),)


class Multiquadric(_Power):
    """The multiquadric ``-sqrt(1 + r^2)``, conditionally positive definite (fit for MMD, not for a Gram solve).

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    """

    has_stein = True

    def terms(self, dim: int) -> tuple[Term, ...]:
        return self._power(dim, -1.0, 1.0, 0.5)


class InverseMultiquadric(_Power):
    """The inverse multiquadric ``(1 + r^2)^beta``.

    With ``beta = -1/2`` it is the usual base of a kernel Stein discrepancy, which then controls weak convergence
    (Gorham, Mackey, "Measuring sample quality with kernels").

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    beta : float, optional
        Exponent in (-1, 0).
    """

    is_positive = has_stein = True

    def __init__(self, bandwidth: Any, beta: float = -0.5) -> None:
        super().__init__(bandwidth)
        self.beta = as_real(beta, "beta")
        if not -1.0 < self.beta < 0.0:
            raise ValueError(f"beta: expected a number in (-1, 0), got {self.beta}")

    def terms(self, dim: int) -> tuple[Term, ...]:
        return self._power(dim, 1.0, 1.0, self.beta)

    def __repr__(self) -> str:
        beta = "" if self.beta == -0.5 else f", beta={self.beta}"
        return f"InverseMultiquadric({_text(self.bandwidth)}{beta})"


class Cauchy(_Power):
    """The Cauchy kernel ``1 / (1 + r^2)``.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    """

    is_positive = has_stein = True

    def terms(self, dim: int) -> tuple[Term, ...]:
        return self._power(dim, 1.0, 1.0, -1.0)


class RationalQuadratic(_Power):
    """The rational quadratic ``(1 + r^2 / (2 alpha))^-alpha``, a scale mixture of Gaussians.

    Parameters
    ----------
    bandwidth : float or array, shape (d,)
        Length scale(s), > 0.
    alpha : float, optional
        > 0; the limit of large `alpha` is the Gaussian kernel.
    """

    is_positive = has_stein = True

    def __init__(self, bandwidth: Any, alpha: float = 1.0) -> None:
        super().__init__(bandwidth)
        self.alpha = positive(alpha, "alpha")

    def terms(self, dim: int) -> tuple[Term, ...]:
        return self._power(dim, 1.0, 1.0, -self.alpha, 0.5 / self.alpha)

    def __repr__(self) -> str:
        return f"RationalQuadratic({_text(self.bandwidth)}, alpha={self.alpha})"


class Riesz(Kernel):
    """The Riesz kernel ``-|delta|^r``, conditionally positive definite; its gradient at 0 is taken as 0.

    Parameters
    ----------
    r : float
        Exponent in (0, 2); ``r = 1`` is the energy distance.
    softening : float, optional
        Length eps that replaces ``|delta|^2`` by ``|delta|^2 + eps^2``.
    """

    def __init__(self, r: float, *, softening: float = 0.0) -> None:
        self.r = as_real(r, "r")
        if not 0.0 < self.r < 2.0:
            raise ValueError(f"r: expected a number in (0, 2), got {self.r}")
        self.softening = nonnegative(softening, "softening")

    def terms(self, dim: int) -> tuple[Term, ...]:
        exponent = self.r / 2
        return (
            Term(
                _POWERS.get(exponent, POWER), -1.0, 1.0, self.softening * self.softening, exponent
            ),
        )

    def __repr__(self) -> str:
        return f"Riesz({self.r}{_softening(self.softening)})"


class Energy(Riesz):
    """The kernel ``-|delta|`` of the energy distance, ``Riesz(1)``.

    Parameters
    ----------
    softening : float, optional
        Length eps that replaces ``|delta|^2`` by ``|delta|^2 + eps^2``.
    """

    def __init__(self, *, softening: float = 0.0) -> None:
        super().__init__(1.0, softening=softening)

    def __repr__(self) -> str:
        return f"Energy({_softening(self.softening)[2:]})"


class Coulomb(Kernel):
    """The Coulomb kernel of the points' dimension d, with gradient ``-delta / |delta|^d``.

    ``-|delta|`` in one dimension, ``-log |delta|`` in two, ``|delta|^(2 - d) / (d - 2)`` above. At coincident points
    the value is infinite (d >= 2) and the gradient is taken as 0, with a `RuntimeWarning`.

    Parameters
    ----------
    softening : float, optional
        Length eps that replaces ``|delta|^2`` by ``|delta|^2 + eps^2``.
    """

    def __init__(self, *, softening: float = 0.0) -> None:
        self.softening = nonnegative(softening, "softening")

    def terms(self, dim: int) -> tuple[Term, ...]:
        offset = self.softening * self.softening
        if dim == 1:
            return (Term(SQRT, -1.0, 1.0, offset, 0.5),)
        if dim == 2:
            return (Term(LOG, 1.0, 1.0, offset),)
        exponent = 1.0 - dim / 2
        kind = _POWERS.get(exponent, POWER)
        return (Term(kind, 1.0 / (dim - 2), 1.0, offset, exponent),)

    def __repr__(self) -> str:
        return f"Coulomb({_softening(self.softening)[2:]})"


class Log(Kernel):
    """The logarithmic kernel ``-log |delta|`` in any dimension.

    At coincident points the value is infinite and the gradient is taken as 0, with a `RuntimeWarning`.

    Parameters
    ----------
    softening : float, optional
        Length eps that replaces ``|delta|^2`` by ``|delta|^2 + eps^2``.
    """

    def __init__(self, *, softening: float = 0.0) -> None:
        self.softening = nonnegative(softening, "softening")

    def terms(self, dim: int) -> tuple[Term, ...]:
        return (Term(LOG, 1.0, 1.0, self.softening * self.softening),)

    def __repr__(self) -> str:
        return f"Log({_softening(self.softening)[2:]})"


class Polynomial(Kernel):
    """The polynomial kernel ``(gamma x.y + c)^degree``.

    The defaults are those of the Kernel Inception Distance (Binkowski et al., "Demystifying MMD GANs").

    Parameters
    ----------
    degree : int, optional
        1 to 32.
    gamma : float, optional
        > 0; by default 1 / d.
    c : float, optional
        >= 0.
    """

    has_stein = True

    def __init__(self, degree: int = 3, gamma: float | None = None, c: float = 1.0) -> None:
        self.degree = as_count(degree, "degree", least=1)
        if self.degree > 32:
            raise ValueError(f"degree: expected at most 32, got {self.degree}")
        self.gamma = None if gamma is None else positive(gamma, "gamma")
        self.c = nonnegative(c, "c")

    def terms(self, dim: int) -> tuple[Term, ...]:
        gamma = 1.0 / dim if self.gamma is None else self.gamma
        return (Term(POLYNOMIAL, 1.0, gamma, self.c, float(self.degree)),)

    def __repr__(self) -> str:
        return f"Polynomial({self.degree}, gamma={self.gamma}, c={self.c})"


class Dot(Kernel):
    """The exponential of the inner product, ``exp(beta x.y)``: the kernel of attention and Hopfield networks.

    Parameters
    ----------
    beta : float
        Inverse temperature, > 0.
    """

    is_positive = True

    def __init__(self, beta: float) -> None:
        self.beta = positive(beta, "beta")

    def terms(self, dim: int) -> tuple[Term, ...]:
        return (Term(DOT, 1.0, self.beta),)

    def __repr__(self) -> str:
        return f"Dot({self.beta})"


class Sinc(Kernel):
    """The band-limited kernel ``prod_a sin(theta delta_a) / (theta delta_a)``.

    Parameters
    ----------
    theta : float
        Largest frequency of every dimension, > 0.
    """

    def __init__(self, theta: float) -> None:
        self.theta = positive(theta, "theta")

    def terms(self, dim: int) -> tuple[Term, ...]:
        return (Term(SINC, 1.0, self.theta),)

    def __repr__(self) -> str:
        return f"Sinc({self.theta})"


def check_kernel(value: Any, name: str) -> None:
    if not isinstance(value, Kernel):
        raise TypeError(f"{name}: expected a kernel of mk.kernels, got {type(value).__name__}")


def _bandwidth(value: Any) -> Any:
    """A positive float, or a read-only float64 array (d,) of positive numbers."""
    if getattr(value, "ndim", 0) == 0 and not isinstance(value, (list, tuple)):
        return positive(value, "bandwidth")
    array = np.array(to_numpy(value), dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"bandwidth: expected a number or shape (d,), got {array.shape}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"bandwidth: expected positive numbers, got {array.min()}")
    array.setflags(write=False)
    return array


def _finite_scale(scale: Any) -> Any:
    if isinstance(scale, float) and 0.0 < scale < math.inf:
        return scale
    if not np.all(np.isfinite(scale)) or not np.all(np.greater(scale, 0.0)):
        raise ValueError("bandwidth: its inverse square is outside the range of float64")
    return scale


def _text(bandwidth: Any) -> str:
    return str(bandwidth if isinstance(bandwidth, float) else bandwidth.tolist())


def _softening(eps: float) -> str:
    return "" if eps == 0.0 else f", softening={eps}"
