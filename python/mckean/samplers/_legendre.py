"""Separable Legendre functions, whose divergences replace the squared distance."""

from __future__ import annotations

import math
from typing import Any

from mckean._errors import positive
from mckean.samplers._elementwise import Maths, particles

__all__ = ["BoltzmannShannon", "Burg", "Euclidean", "Hyperbolic", "Legendre"]


class Legendre:
    """A function ``phi(x) = sum_i phi(x_i)``, convex with a gradient that is onto ``dual_domain``.

    Attributes
    ----------
    domain : tuple of float
        The open interval each coordinate lives in.
    dual_domain : tuple of float
        The open interval of ``phi'``.

    See Also
    --------
    Euclidean, BoltzmannShannon, Burg, Hyperbolic
    """

    domain = (-math.inf, math.inf)
    dual_domain = (-math.inf, math.inf)

    def value(self, x: Any) -> Any:
        """Return ``phi(x)``, shape (n,), for points (n, d) of any framework."""
        x, maths = particles(x)
        return self._phi(maths, x).sum(-1)

    def gradient(self, x: Any) -> Any:
        """Return ``phi'(x_i)``, shape (n, d)."""
        x, maths = particles(x)
        return self._to_dual(maths, x)

    def inverse_gradient(self, y: Any) -> Any:
        """Return the points whose gradient is `y`, shape (n, d)."""
        y, maths = particles(y, "y")
        return self._to_primal(maths, y)

    def hessian_diagonal(self, x: Any) -> Any:
        """Return ``phi''(x_i)``, shape (n, d)."""
        x, maths = particles(x)
        return 1 / self._mobility(maths, x)

    def divergence(self, a: Any, b: Any) -> Any:
        """Return ``D(a, b) = phi(a) - phi(b) - <phi'(b), a - b>``, shape (n,), from forms that do
        not cancel where `a` is near `b`."""
        a, maths = particles(a, "a")
        b, _ = particles(b, "b")
        return self._divergence(maths, a, b).sum(-1)

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this function."""
        return {}

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.config().items())
        return f"{type(self).__name__}({inner})"

    # Element-wise; `_mobility` is 1 / phi'', which stays finite on the boundary of the domain.
    def _phi(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError

    def _to_dual(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError

    def _to_primal(self, maths: Maths, y: Any) -> Any:
        raise NotImplementedError

    def _mobility(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError

    def _mobility_slope(self, maths: Maths, x: Any) -> Any:
        raise NotImplementedError

    def _divergence(self, maths: Maths, a: Any, b: Any) -> Any:
        raise NotImplementedError


class Euclidean(Legendre):
    """``phi(t) = t^2 / 2``: the divergence is half the squared distance.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.Euclidean().divergence(np.array([[3.0]]), np.array([[1.0]]))
    array([2.])
    """

    def _phi(self, maths: Maths, x: Any) -> Any:
        return x * x / 2

    def _to_dual(self, maths: Maths, x: Any) -> Any:
        return x + 0.0

    def _to_primal(self, maths: Maths, y: Any) -> Any:
        return y + 0.0

    def _mobility(self, maths: Maths, x: Any) -> Any:
        return x * 0 + 1

    def _mobility_slope(self, maths: Maths, x: Any) -> Any:
        return x * 0

    def _divergence(self, maths: Maths, a: Any, b: Any) -> Any:
        return (a - b) ** 2 / 2


class BoltzmannShannon(Legendre):
    """Entropy ``phi(t) = t log t - t`` on t > 0: the divergence is that of Kullback and Leibler.

    Gradient ``log t``, inverse gradient ``exp``, second derivative ``1/t``.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> phi = mk.samplers.BoltzmannShannon()
    >>> phi.inverse_gradient(phi.gradient(np.array([[0.5, 4.0]])))
    array([[0.5, 4. ]])
    """

    domain = (0.0, math.inf)

    def _phi(self, maths: Maths, x: Any) -> Any:
        return x * maths.xp.log(x) - x

    def _to_dual(self, maths: Maths, x: Any) -> Any:
        return maths.xp.log(x)

    def _to_primal(self, maths: Maths, y: Any) -> Any:
        return maths.xp.exp(y)

    def _mobility(self, maths: Maths, x: Any) -> Any:
        return x + 0.0

    def _mobility_slope(self, maths: Maths, x: Any) -> Any:
        return x * 0 + 1

    def _divergence(self, maths: Maths, a: Any, b: Any) -> Any:
        v = (a - b) / b
        logarithm = maths.xp.log1p(maths.xp.where(v > -1, v, v * 0))  # 0 log 0 = 0
        return b * ((1 + v) * logarithm - v)


class Burg(Legendre):
    """Burg's entropy ``phi(t) = -log t`` on t > 0: the divergence is that of Itakura and Saito.

    Gradient ``-1/t``, inverse gradient ``-1/y`` on y < 0, second derivative ``1/t^2``.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.Burg().gradient(np.array([[0.5, 4.0]]))
    array([[-2.  , -0.25]])
    """

    domain = (0.0, math.inf)
    dual_domain = (-math.inf, 0.0)

    def _phi(self, maths: Maths, x: Any) -> Any:
        return -maths.xp.log(x)

    def _to_dual(self, maths: Maths, x: Any) -> Any:
        return -1 / x

    def _to_primal(self, maths: Maths, y: Any) -> Any:
        return -1 / y

    def _mobility(self, maths: Maths, x: Any) -> Any:
        return x * x

    def _mobility_slope(self, maths: Maths, x: Any) -> Any:
        return 2 * x

    def _divergence(self, maths: Maths, a: Any, b: Any) -> Any:
        v = (a - b) / b
        return v - maths.xp.log1p(v)


class Hyperbolic(Legendre):
    """Hyperbolic entropy ``phi(t) = t asinh(t/s) - sqrt(t^2 + s^2)`` on the whole line.

    Gradient ``asinh(t/s)``, inverse gradient ``s sinh``, second derivative ``1 / sqrt(t^2 + s^2)``:
    quadratic near zero, entropy-like far away, on both sides.

    Parameters
    ----------
    scale : float
        The width s > 0 of the quadratic part.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.samplers.Hyperbolic(2.0).hessian_diagonal(np.zeros((1, 1)))
    array([[0.5]])
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = positive(scale, "scale")

    def config(self) -> dict[str, Any]:
        """The settings by which a checkpoint recognises this function."""
        return {"scale": self.scale}

    def _phi(self, maths: Maths, x: Any) -> Any:
        return x * maths.xp.arcsinh(x / self.scale) - self._mobility(maths, x)

    def _to_dual(self, maths: Maths, x: Any) -> Any:
        return maths.xp.arcsinh(x / self.scale)

    def _to_primal(self, maths: Maths, y: Any) -> Any:
        return self.scale * maths.xp.sinh(y)

    def _mobility(self, maths: Maths, x: Any) -> Any:
        return maths.xp.hypot(x, x * 0 + self.scale)

    def _mobility_slope(self, maths: Maths, x: Any) -> Any:
        return x / self._mobility(maths, x)

    def _divergence(self, maths: Maths, a: Any, b: Any) -> Any:
        xp = maths.xp
        # s (d sinh(v + d) - cosh(v + d) + cosh v), v = asinh(b/s), v + d = asinh(a/s); expanded for small d.
        v = xp.arcsinh(b / self.scale)
        d = xp.arcsinh(a / self.scale) - v
        near = abs(d) < 1
        e = xp.where(near, d, d * 0)
        small = xp.sinh(e) * e - 2 * xp.sinh(e / 2) ** 2
        odd = xp.cosh(e) * e - xp.sinh(e)
        root = self._mobility(maths, b)
        return xp.where(near, root * small + b * odd, a * d - (self._mobility(maths, a) - root))
