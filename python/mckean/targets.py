"""Built-in densities with native values and gradients, evaluated for many particles at once.

Every target has ``dim``, ``log_density(x)``, ``grad_log_density(x)`` and ``value_and_grad(x)``, and
the same with the opposite sign, ``potential(x)`` and ``grad(x)``, for methods that minimise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mckean import _array, random
from mckean._array import Input, as_input, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import as_count, as_real, positive

__all__ = ["Banana", "Funnel", "Gaussian", "GaussianMixture", "LogisticRegression"]

Array = np.ndarray[Any, Any]
_LOG_2PI = math.log(2.0 * math.pi)
_STREAM = 0x74617267657473  # of mk.random; chains started from a sample use other streams


class _Target:
    """What all targets share. Subclasses name a native function and its parameters."""

    dim: int
    _function: str
    _cast: tuple[Array, ...] = ()  # parameters in the dtype of x
    _double: tuple[Array, ...] = ()  # parameters that stay float64
    _numbers: tuple[float, ...] = ()

    def log_density(self, x: Any) -> Any:
        """Return log p(x), shape (n,), for particles `x`, shape (n, d), float32 or float64.

        The result is of the framework, dtype and device of `x`; deterministic; not differentiable
        by the framework. NaN and infinities in `x` are not refused, they propagate.

        Parameters
        ----------
        x : array, shape (n, d), float32 or float64

        Returns
        -------
        array, shape (n,)

        Raises
        ------
        TypeError, ValueError
            If `x` is not a float array of shape (n, `dim`).
        """
        return self._evaluate(x, True, False)[0]

    def grad_log_density(self, x: Any) -> Any:
        """Return the gradient of log p at `x`, shape (n, d); see `log_density`."""
        return self._evaluate(x, False, True)[1]

    def value_and_grad(self, x: Any) -> tuple[Any, Any]:
        """Return ``(log_density(x), grad_log_density(x))``, bit for bit, in one pass."""
        return self._evaluate(x, True, True)

    def potential(self, x: Any) -> Any:
        """Return ``-log_density(x)``, shape (n,)."""
        return -self.log_density(x)

    def grad(self, x: Any) -> Any:
        """Return the gradient of `potential`, ``-grad_log_density(x)``, shape (n, d)."""
        return -self.grad_log_density(x)

    def _evaluate(self, x: Any, density: bool, gradient: bool) -> tuple[Any, Any]:
        at = as_input(x, "x", shape=("n", self.dim), match="the target's dim")
        native, framework = executor(at.device), at.framework
        values = framework.empty(at.shape[:1], at.dtype, at.device) if density else None
        slopes = framework.empty(at.shape, at.dtype, at.device) if gradient else None
        getattr(native, self._function)(
            at.data,
            *self._parameters(at),
            *self._numbers,
            None if values is None else values.data,
            None if slopes is None else slopes.data,
            framework.queue(at.device),
        )
        return values and values.result(), slopes and slopes.result()

    def _parameters(self, at: Input) -> tuple[Any, ...]:
        """The arrays native code reads, on the device of `at`; made once per dtype and device."""
        holder = at.framework.name if at.device != "cpu" else "numpy"
        if holder == "jax":
            holder = "cupy"
        cache: dict[Any, tuple[Any, ...]] = self.__dict__.setdefault("_cache", {})
        key = (holder, at.dtype, at.device)
        if key not in cache:
            arrays = (
                *(np.ascontiguousarray(a, at.dtype) for a in self._cast),
                *(np.ascontiguousarray(a) for a in self._double),
            )
            framework = _array.FRAMEWORKS[holder]
            cache[key] = tuple(framework.asarray(a, at.device) for a in arrays)
        return cache[key]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_cache"}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim})"


class _Sampled(_Target):
    """A target that can be sampled exactly."""

    def sample(self, n: int, seed: Any = 0, *, dtype: Any = "float64", like: Any = None) -> Any:
        """Draw `n` independent points, shape (n, d).

        The draws are a pure function of `seed`, computed in float64 and rounded to `dtype`, and
        independent of the noise of chains that use the same seed.

        Parameters
        ----------
        n : int
        seed : int or numpy.random.SeedSequence
        dtype : dtype
            float32 or float64.
        like : array or str, optional
            Framework to return: an array, whose device then counts, or one of "numpy", "torch",
            "jax", "cupy".

        Returns
        -------
        array, shape (n, d)
            Of the framework of `like`, by default NumPy.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or is out of range.
        """
        n = as_count(n, "n")
        kind = _array.dtype_name(dtype)
        framework, device = _array.like(like)
        z = random.normal(seed, (n, self.dim), stream=_STREAM)
        return framework.asarray(np.ascontiguousarray(self._draw(z, seed), kind), device)

    def _draw(self, z: Array, seed: Any) -> Array:
        raise NotImplementedError


def _parameter(value: Any, name: str, shape: _array.Shape | None = None, match: str = "") -> Array:
    """A finite float64 copy of an array of any framework."""
    found = as_input(value, name, shape=shape, match=match)
    check_finite(found, name)
    out = np.array(to_numpy(found.array), np.float64)
    out.flags.writeable = False
    return out


def _frozen(a: Array) -> Array:
    a.flags.writeable = False
    return a


def _all_positive(a: Array, name: str) -> Array:
    if not (a > 0).all():
        raise ValueError(f"{name}: expected positive values, got {a.min()}")
    return a


def _cholesky(a: Array, name: str) -> Array:
    """Lower Cholesky factors of symmetric positive definite matrices (k, d, d)."""
    flipped = np.swapaxes(a, -1, -2)
    if (np.abs(a - flipped) > 1e-6 * np.abs(a).max()).any():
        raise ValueError(f"{name}: expected a symmetric matrix")
    try:
        return np.linalg.cholesky((a + flipped) / 2)
    except np.linalg.LinAlgError:
        raise ValueError(f"{name}: expected a positive definite matrix") from None


def _inverse_lower(a: Array) -> Array:
    return np.tril(np.linalg.inv(a))


class _Mixture(_Sampled):
    """Components with means (k, d) and whitening matrices A: A^T A is the precision."""

    _function = "gaussian_mixture"

    def _set(self, means: Array, weights: Array, whitening: Array) -> None:
        full = whitening.ndim == 3
        diagonal = np.diagonal(whitening, axis1=1, axis2=2) if full else whitening
        constants = np.log(weights) + np.log(diagonal).sum(axis=1) - 0.5 * self.dim * _LOG_2PI
        self._cast, self._double = (means, whitening), (constants,)

    def _draw(self, z: Array, seed: Any) -> Array:
        means, whitening = self._cast
        component = np.zeros(len(z), np.intp)
        if len(means) > 1:
            levels = np.cumsum(self._shares())
            u = random.uniform(seed, len(z), stream=_STREAM + 1)
            component = np.minimum(np.searchsorted(levels, u, side="right"), len(means) - 1)
        if whitening.ndim == 2:
            return np.asarray(means[component] + z / whitening[component])
        out = np.empty_like(z)
        for k in range(len(means)):
            rows = component == k
            out[rows] = means[k] + np.linalg.solve(whitening[k], z[rows].T).T
        return out

    def _shares(self) -> Array:
        return np.ones(1)


class Gaussian(_Mixture):
    """Gaussian density N(mean, cov), normalised.

    ``log p(x) = -|A (x - mean)|^2 / 2 + log |det A| - d/2 log(2 pi)`` with ``A^T A`` the precision
    matrix. O(d) per particle for a diagonal covariance, O(d^2) for a full one.

    Parameters
    ----------
    mean : array, shape (d,)
    cov : array, shape (d, d) or (d,), or float, optional
        Covariance matrix, variances, or one variance. At most one of `cov`, `scale` and `precision`
        may be given; without any the covariance is the identity.
    scale : array, shape (d,), or float, optional
        Standard deviations.
    precision : array, shape (d, d) or (d,), or float, optional
        Inverse covariance matrix, or inverse variances.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, or the matrix is not symmetric positive
        definite.

    See Also
    --------
    GaussianMixture

    Notes
    -----
    A triangular factor is applied rather than the precision matrix, so float32 results do not lose
    digits to cancellation. Parameters are kept in float64 and rounded to the dtype of ``x``.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> target = mk.targets.Gaussian([0.0, 1.0], cov=[[2.0, 0.5], [0.5, 1.0]])
    >>> value, gradient = target.value_and_grad(np.zeros((1, 2)))
    >>> value.round(3), gradient.round(3)
    (array([-2.689]), array([[-0.286,  1.143]]))
    """

    def __init__(
        self, mean: Any, cov: Any = None, *, scale: Any = None, precision: Any = None
    ) -> None:
        given = {"cov": cov, "scale": scale, "precision": precision}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(
                f"{named[1]}: expected at most one of cov, scale and precision, "
                f"got {' and '.join(named)}"
            )
        self.mean = _parameter(mean, "mean", ("d",))
        self.dim = self._check_dim(self.mean)
        name = named[0] if named else "scale"
        self.whitening = _frozen(self._whiten(given[name] if named else 1.0, name))
        self._set(self.mean[None], np.ones(1), self.whitening[None])

    @staticmethod
    def _check_dim(mean: Array) -> int:
        if not len(mean):
            raise ValueError("mean: expected at least one dimension, got shape (0,)")
        return len(mean)

    def _whiten(self, value: Any, name: str) -> Array:
        d = self.dim
        power = {"cov": -0.5, "scale": -1.0, "precision": 0.5}[name]
        if np.ndim(value) == 0:
            return np.full(d, positive(value, name) ** power)
        a = _parameter(value, name)
        if a.shape == (d,):
            return np.asarray(_all_positive(a, name) ** power)
        if name == "scale" or a.shape != (d, d):
            shapes = f"({d},)" if name == "scale" else f"({d}, {d}), ({d},)"
            raise ValueError(
                f"{name}: expected a number or shape {shapes} to match mean ({d},), got {a.shape}"
            )
        if name == "cov":
            return _inverse_lower(_cholesky(a, name))
        # P = U U^T with U upper triangular, by the Cholesky factor of P read backwards; A = U^T.
        return np.ascontiguousarray(_cholesky(a[::-1, ::-1], name)[::-1, ::-1].T)


class GaussianMixture(_Mixture):
    """Mixture of k Gaussian densities, normalised.

    ``log p(x) = log sum_k w_k N(x; means_k, cov_k)``, summed without overflow or underflow.
    O(k d) per particle for diagonal covariances, O(k d^2) for full ones.

    Parameters
    ----------
    means : array, shape (k, d)
    weights : array, shape (k,), optional
        Positive; divided by their sum. Without it all components weigh the same.
    scale : array, shape (k,) or (k, d), or float, optional
        Standard deviations of the components, by default 1. At most one of `scale` and `cov`.
    cov : array, shape (k, d) or (k, d, d), optional
        Variances or covariance matrices of the components.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, weights are not positive, or a matrix is not
        symmetric positive definite.

    See Also
    --------
    Gaussian

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> target = mk.targets.GaussianMixture([[-3.0], [3.0]], weights=[1.0, 3.0], scale=0.5)
    >>> target.log_density(np.array([[-3.0], [3.0]])).round(3)
    array([-1.612, -0.513])
    """

    def __init__(
        self, means: Any, weights: Any = None, scale: Any = None, *, cov: Any = None
    ) -> None:
        self.means = _parameter(means, "means", ("k", "d"))
        k, self.dim = self.means.shape
        if 0 in self.means.shape:
            raise ValueError(
                f"means: expected at least one component and dimension, got shape {(k, self.dim)}"
            )
        match = f"means ({k}, {self.dim})"
        shares = np.ones(k)
        if weights is not None:
            shares = _all_positive(_parameter(weights, "weights", (k,), match), "weights")
        self.weights = _frozen(shares / shares.sum())
        if scale is not None and cov is not None:
            raise ValueError("cov: expected at most one of scale and cov, got both")
        self.whitening = _frozen(
            self._from_scale(1.0 if scale is None else scale, match)
            if cov is None
            else self._from_cov(cov, match)
        )
        self._set(self.means, self.weights, self.whitening)

    def _from_scale(self, scale: Any, match: str) -> Array:
        shape = self.means.shape
        if np.ndim(scale) == 0:
            return np.full(shape, 1.0 / positive(scale, "scale"))
        a = _parameter(scale, "scale")
        if a.shape not in (shape, shape[:1]):
            raise ValueError(
                f"scale: expected a number or shape ({shape[0]},), {shape} to match {match}, "
                f"got {a.shape}"
            )
        a = _all_positive(a, "scale")
        return np.ascontiguousarray(
            np.broadcast_to(1.0 / (a if a.ndim == 2 else a[:, None]), shape)
        )

    def _from_cov(self, cov: Any, match: str) -> Array:
        k, d = self.means.shape
        a = _parameter(cov, "cov")
        if a.shape == (k, d):
            return np.asarray(1.0 / np.sqrt(_all_positive(a, "cov")))
        if a.shape != (k, d, d):
            raise ValueError(
                f"cov: expected shape ({k}, {d}) or ({k}, {d}, {d}) to match {match}, got {a.shape}"
            )
        return _inverse_lower(_cholesky(a, "cov"))

    def _shares(self) -> Array:
        return self.weights


class Funnel(_Sampled):
    """Neal's funnel, normalised.

    ``x0 ~ N(0, scale^2)``, ``xi | x0 ~ N(0, exp(x0))`` for i = 1 .. d - 1::

        log p(x) = -x0^2 / (2 scale^2) - (d - 1) x0 / 2 - exp(-x0) sum_{i > 0} xi^2 / 2 + const

    The width of the neck varies by orders of magnitude, which no single step size suits.

    Parameters
    ----------
    dim : int
        At least 2.
    scale : float
        Standard deviation of x0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    References
    ----------
    .. [1] R. Neal, "Slice sampling", The Annals of Statistics 31, 2003, doi:10.1214/aos/1056562461

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.targets.Funnel().grad_log_density(np.ones((1, 10)))[0, :2].round(3)
    array([-2.956, -0.368])
    """

    _function = "funnel"

    def __init__(self, dim: int = 10, scale: float = 3.0) -> None:
        self.dim = as_count(dim, "dim", least=2)
        self.scale = positive(scale, "scale")
        constant = -math.log(self.scale) - 0.5 * self.dim * _LOG_2PI
        self._numbers = (self.scale**-2, constant)

    def _draw(self, z: Array, seed: Any) -> Array:
        z[:, 0] *= self.scale
        z[:, 1:] *= np.exp(0.5 * z[:, :1])
        return z


class Banana(_Sampled):
    """Twisted Gaussian density, normalised.

    A Gaussian with variances (scale^2, 1, 1, ...) bent along a parabola by a map of determinant 1::

        log p(x) = -x0^2 / (2 scale^2) - (x1 + b x0^2 - b scale^2)^2 / 2 - sum_{i > 1} xi^2 / 2
                   + const,   b = curvature

    Parameters
    ----------
    dim : int
        At least 2.
    curvature : float
        b; 0.03 is moderately, 0.1 strongly twisted.
    scale : float
        Standard deviation of x0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    References
    ----------
    .. [1] H. Haario, E. Saksman, J. Tamminen, "Adaptive proposal distribution for random walk
       Metropolis algorithm", Computational Statistics 14, 1999, doi:10.1007/s001800050022

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> mk.targets.Banana().grad_log_density(np.array([[10.0, 1.0]])).round(3)
    array([[-0.7, -1. ]])
    """

    _function = "banana"

    def __init__(self, dim: int = 2, curvature: float = 0.03, scale: float = 10.0) -> None:
        self.dim = as_count(dim, "dim", least=2)
        self.curvature = as_real(curvature, "curvature")
        self.scale = positive(scale, "scale")
        offset = self.curvature * self.scale**2
        constant = -math.log(self.scale) - 0.5 * self.dim * _LOG_2PI
        self._numbers = (self.scale**-2, self.curvature, offset, constant)

    def _draw(self, z: Array, seed: Any) -> Array:
        z[:, 0] *= self.scale
        z[:, 1] += self.curvature * (self.scale**2 - z[:, 0] ** 2)
        return z


class LogisticRegression(_Target):
    """Posterior density of Bayesian logistic regression, particles being coefficients (n, p).

    ::

        log p(theta) = sum_i [y_i z_i - log(1 + exp(z_i))] + sum_j log N(theta_j; 0, prior_scale_j^2)

    with ``z = X theta``: likelihood times normalised prior, not divided by the evidence. Value and
    gradient read X once per block of particles, O(n m p) time; no n x m array is formed. There is
    no intercept: append a column of ones to X for one.

    Parameters
    ----------
    X : array, shape (m, p)
        Rows of covariates.
    y : array, shape (m,)
        Labels, 0 or 1.
    prior_scale : float or array, shape (p,)
        Standard deviations of the Gaussian prior.

    Raises
    ------
    ValueError
        If shapes do not match, X is not finite, or y holds anything but 0 and 1.

    Notes
    -----
    Rows are stored with the sign of 2 y - 1, so that probabilities near 0 and near 1 keep their
    relative precision, and logits of any finite size are handled. In float32, at most 128 terms are
    summed before they are added to a float64 total.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> target = mk.targets.LogisticRegression([[1.0, 2.0], [1.0, -1.0]], [1, 0], prior_scale=2.0)
    >>> value, gradient = target.value_and_grad(np.zeros((3, 2)))
    >>> value.round(3), gradient[0]
    (array([-4.61, -4.61, -4.61]), array([0. , 1.5]))
    >>> target.predict_proba(np.array([[0.0, 5.0]]), [[1.0, 1.0]]).round(3)
    array([0.993])
    """

    _function = "logistic_regression"

    def __init__(self, X: Any, y: Any, prior_scale: Any = 1.0) -> None:
        self.X = _parameter(X, "X", ("m", "p"))
        m, self.dim = self.X.shape
        if 0 in self.X.shape:
            raise ValueError(
                f"X: expected at least one row and one column, got shape {(m, self.dim)}"
            )
        if _array.framework_of(y).name == "numpy" and np.asarray(y).dtype == bool:
            y = np.asarray(y, np.float64)
        labels = _parameter(y, "y", (m,), f"X ({m}, {self.dim})")
        bad = np.flatnonzero((labels != 0) & (labels != 1))
        if bad.size:
            raise ValueError(f"y: expected 0 or 1, got {labels[bad[0]]} at index {bad[0]}")
        self.y = labels
        if np.ndim(prior_scale) == 0:
            scale = np.full(self.dim, positive(prior_scale, "prior_scale"))
        else:
            scale = _parameter(prior_scale, "prior_scale", (self.dim,), f"X ({m}, {self.dim})")
        self.prior_scale = _frozen(_all_positive(scale, "prior_scale"))
        constant = float(-np.log(scale).sum() - 0.5 * self.dim * _LOG_2PI)
        self._cast = (self.X * (2 * labels - 1)[:, None], scale**-2.0)
        self._numbers = (constant,)

    def predict_proba(self, theta: Any, X_new: Any) -> Any:
        """Return the posterior predictive probability of label 1 for new rows.

        ``mean_i sigmoid(X_new theta_i)`` over the particles, in float64.

        Parameters
        ----------
        theta : array, shape (n, p)
            Particles, at least one.
        X_new : array, shape (m, p)

        Returns
        -------
        array, shape (m,)
            Of the framework, dtype and device of `theta`.

        Raises
        ------
        TypeError, ValueError
            If shapes do not match or values are not finite.
        """
        at = as_input(theta, "theta", shape=("n", self.dim), match="the target's dim")
        if not at.shape[0]:
            raise ValueError(f"theta: expected at least one particle, got shape {at.shape}")
        check_finite(at, "theta")
        particles = to_numpy(at.array).astype(np.float64, copy=False)
        rows = _parameter(X_new, "X_new", ("m", self.dim), "the target's dim")
        total = np.zeros(len(rows))
        count = max(1, (1 << 20) // max(1, len(rows)))  # of particles at a time: bounded memory
        for first in range(0, len(particles), count):
            z = rows @ particles[first : first + count].T
            total += (0.5 + 0.5 * np.tanh(0.5 * z)).sum(axis=1)
        return at.framework.asarray((total / len(particles)).astype(at.dtype), at.device)
