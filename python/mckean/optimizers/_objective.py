"""Functions to minimise: of the user's own callables, and how methods call any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import lowrank
from mckean._array import Input, as_input, as_match, check_finite, framework_of, is_array, to_numpy
from mckean._errors import as_count

__all__ = ["Calls", "Counts", "Objective", "SampledObjective", "Vector", "starting_point"]

Vector = np.ndarray[Any, Any]


def _function(f: Any, name: str, *, optional: bool = False) -> Any:
    if callable(f) or (optional and f is None):
        return f
    raise TypeError(f"{name}: expected a function, got {type(f).__name__}")


class Objective:
    """A function to minimise, given by callables.

    Parameters
    ----------
    value : callable
        ``value(x)``, (d,) to one number.
    gradient : callable
        ``gradient(x)``, (d,) to (d,), in the framework, dtype and device of ``x``.
    hvp : callable, optional
        ``hvp(x, v)``, the Hessian at ``x`` times ``v``, (d,); from automatic differentiation for
        instance. Without it, products come from central differences of `gradient`
        (`mckean.lowrank.hvp`): two gradients each.
    hessian : callable, optional
        ``hessian(x)``, (d, d).

    Raises
    ------
    TypeError
        If an argument is not a function.

    See Also
    --------
    LogisticLoss, SoftmaxLoss, LeastSquaresLoss, LogSumExp, Equations

    Notes
    -----
    Any object with the methods ``value`` and ``gradient`` serves as an objective; ``hvp``,
    ``product(x)`` (returning the function v to H v), ``hessian``, ``ggn``, ``fisher`` and
    ``value_and_gradient`` are used where it has them. Without ``hvp`` and ``product`` products are
    differences of its gradient, as above.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> f = mk.optimizers.Objective(lambda x: np.cosh(x).sum(), np.sinh)
    >>> mk.optimizers.minimize(f, np.array([1.0, -2.0])).x.round(6) + 0.0
    array([0., 0.])
    """

    def __init__(self, value: Any, gradient: Any, hvp: Any = None, hessian: Any = None) -> None:
        self.value = _function(value, "value")
        self.gradient = _function(gradient, "gradient")
        self._hvp = _function(hvp, "hvp", optional=True)
        if _function(hessian, "hessian", optional=True) is not None:
            self.hessian = hessian

    @property
    def gradients_per_product(self) -> int:
        """Gradient evaluations of one Hessian-vector product."""
        return 2 if self._hvp is None else 0

    def hvp(self, x: Any, v: Any) -> Any:
        """Return the Hessian at `x` times `v`."""
        if self._hvp is not None:
            return self._hvp(x, v)
        return lowrank.hvp(self.gradient, x, v)


class SampledObjective:
    """A mean over samples, given by callables that take the indices of the samples to use.

    Parameters
    ----------
    value, gradient : callable
        ``value(x, index)`` and ``gradient(x, index)``: the mean over the samples ``index``, an
        integer NumPy array, and its gradient (d,).
    hessian : callable
        ``hessian(x, index)``, (d, d).
    n_samples : int
        How many samples there are.

    Raises
    ------
    TypeError, ValueError
        If an argument is not a function, or not an integer of at least 1.

    See Also
    --------
    FilteredNewton

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> data = np.array([[1.0, 2.0], [3.0, 0.0], [2.0, 4.0]])
    >>> f = mk.optimizers.SampledObjective(
    ...     lambda x, i: 0.5 * ((x - data[i]) ** 2).sum() / len(i),
    ...     lambda x, i: x - data[i].mean(0),
    ...     lambda x, i: np.eye(2),
    ...     n_samples=3,
    ... )
    >>> f.batch(np.arange(3)).gradient(np.zeros(2))
    array([-2., -2.])
    """

    def __init__(self, value: Any, gradient: Any, hessian: Any, n_samples: int) -> None:
        self._value = _function(value, "value")
        self._gradient = _function(gradient, "gradient")
        self._hessian = _function(hessian, "hessian")
        self.n_samples = as_count(n_samples, "n_samples", least=1)

    def batch(self, index: Any) -> Objective:
        """Return the objective of the samples `index`."""
        return Objective(
            lambda x: self._value(x, index),
            lambda x: self._gradient(x, index),
            hessian=lambda x: self._hessian(x, index),
        )


@dataclass(slots=True)
class Counts:
    """Calls of an objective."""

    values: int = 0
    gradients: int = 0
    hessians: int = 0
    products: int = 0


def starting_point(x0: Any) -> tuple[Input, tuple[int, ...]]:
    """Check `x0`, (d,) or (1, d), and return it with its shape."""
    x = as_input(x0, "x0")
    if len(x.shape) not in (1, 2) or (len(x.shape) == 2 and x.shape[0] != 1) or 0 in x.shape:
        raise ValueError(f"x0: expected one point, shape (d,) or (1, d), got {x.shape}")
    check_finite(x, "x0")
    return x, x.shape


class Calls:
    """Calls of an objective at points of the host: checked, counted, and copied to float64.

    The objective sees (d,) arrays of the framework, dtype and device of `like`, new ones each time.
    """

    def __init__(self, objective: Any, like: Input, counts: Counts) -> None:
        for name in ("value", "gradient"):
            if not callable(getattr(objective, name, None)):
                raise TypeError(
                    f"objective: expected an object with value and gradient, "
                    f"{type(objective).__name__} has no {name}"
                )
        self.objective, self.counts, self._like = objective, counts, like
        self.d = like.shape[-1]

    @property
    def gradients_per_product(self) -> int:
        """Gradients that a product with the Hessian takes: two where the objective has none of its own."""
        own = any(callable(getattr(self.objective, name, None)) for name in ("product", "hvp"))
        return int(getattr(self.objective, "gradients_per_product", 0 if own else 2))

    def symmetric(self, name: str, off: float, size: float, what: str) -> None:
        """Refuse products that differ from their transpose by more than rounding, or differences, can do."""
        if off > max(1e-4, 10 * self.error) * size + 1e-12:
            raise ValueError(f"{name}: expected a symmetric matrix, got {what} = {off:.3g}")

    @property
    def error(self) -> float:
        """Relative error to expect of a product: of rounding, or of differences."""
        single = self._like.dtype == "float32"
        if self.gradients_per_product:
            return 2e-3 if single else 1e-8
        return 1e-5 if single else 1e-12

    def rounded(self, x: Vector) -> Vector:
        """`x` in the precision of the objective."""
        return x.astype(self._like.dtype).astype(np.float64)

    def point(self, x: Vector) -> Any:
        """`x` as the objective sees it."""
        return self._like.framework.asarray(x.astype(self._like.dtype), self._like.device)

    def _host(self, a: Any, name: str, shape: tuple[int, ...]) -> Vector:
        # A result of the wrong framework is an error of the user's function, not to be mended here.
        checked = as_match(a, name, self._like, "x", shape=shape, any_float=True)
        copied: Vector = np.array(to_numpy(checked.array), np.float64)
        return copied

    @staticmethod
    def _number(v: Any) -> float:
        if is_array(v):
            a = framework_of(v).to_numpy(v)
            if a.size != 1:
                raise ValueError(f"value: expected one number, got shape {tuple(a.shape)}")
            return float(a.reshape(()))
        try:
            return float(v)
        except (TypeError, ValueError):
            raise TypeError(f"value: expected a number, got {type(v).__name__}") from None

    def value(self, x: Vector) -> float:
        self.counts.values += 1
        return self._number(self.objective.value(self.point(x)))

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        self.counts.values += 1
        self.counts.gradients += 1
        both = getattr(self.objective, "value_and_gradient", None)
        if callable(both):
            value, g = both(self.point(x))
        else:
            value, g = self.objective.value(self.point(x)), self.objective.gradient(self.point(x))
        return self._number(value), self._host(g, "gradient", (self.d,))

    def start(self, x: Vector) -> tuple[float, Vector]:
        """Value and gradient where both must be finite."""
        value, g = self.value_and_gradient(x)
        if not np.isfinite(value):
            raise ValueError(f"value: expected a finite number at x0, got {value}")
        bad = np.flatnonzero(~np.isfinite(g))
        if bad.size:
            raise ValueError(
                f"gradient: expected finite values at x0, got {bad.size} NaN or infinite, "
                f"first at index {bad[0]}"
            )
        return value, g

    def matrix(self, a: Any, name: str) -> Vector:
        """Check a symmetric (d, d) matrix."""
        H = self._host(a, name, (self.d, self.d))
        if not np.isfinite(H).all():
            raise FloatingPointError(f"{name}: expected finite values, got NaN or infinite ones")
        off = float(abs(H - H.T).max())
        # What is left of a cancellation has no symmetry.
        if off > 1e-4 * float(abs(H).max()) + 1e-12:
            raise ValueError(f"{name}: expected a symmetric matrix, got |H - H^T| = {off:.3g}")
        return np.asarray((H + H.T) / 2)

    def hessian(self, x: Vector, name: str = "hessian") -> Vector:
        self.counts.hessians += 1
        return self.matrix(getattr(self.objective, name)(self.point(x)), name)

    def product(self, x: Vector, model: str = "exact") -> Callable[[Vector], Vector]:
        """The function v -> H v of host vectors."""
        make = getattr(self.objective, "product", None)
        point = self.point(x)
        if callable(make):
            apply = make(point) if model == "exact" else make(point, model)
        elif callable(getattr(self.objective, "hvp", None)):
            hvp = self.objective.hvp

            def apply(v: Any) -> Any:
                return hvp(point, v)
        elif model == "exact":

            def apply(v: Any) -> Any:
                return lowrank.hvp(self.objective.gradient, point, v)
        else:
            raise TypeError(
                f"objective: expected {model} or product for this model, "
                f"{type(self.objective).__name__} has none"
            )
        return self.counted(apply, self.gradients_per_product)

    def counted(
        self, apply: Callable[[Any], Any], gradients: int = 0
    ) -> Callable[[Vector], Vector]:
        """A product of the user's as a function of host vectors."""

        def product(v: Vector) -> Vector:
            self.counts.products += 1
            self.counts.gradients += gradients
            out = self._host(apply(self.point(v)), "product", (self.d,))
            if not np.isfinite(out).all():
                raise FloatingPointError(
                    "product: expected finite values, got NaN or infinite ones"
                )
            return out

        return product
