"""Families of reference diffusions dX = b(t, X) dt + sigma dW for Schrödinger bridges."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, to_numpy
from mckean._errors import as_count, as_seed, nonnegative
from mckean.transport._linear_noise import Transition, linear_noise
from mckean.transport._problem import Doubles

__all__ = ["AffineDrift", "BrownianReference", "Drift", "Increments", "LinearDrift", "Reference"]

_STREAM = 0x7265666572656E63  # "referenc"


@dataclasses.dataclass(frozen=True, slots=True)
class Increments:
    """Steps of simulated paths, pooled: what a reference is fitted to.

    Attributes
    ----------
    t : array, shape (N,)
        Times halfway through the steps.
    x : array, shape (N, d)
        Where the drift acted: the positions of that time as foreseen at the start of the step, without its noise.
    velocity : array, shape (N, d)
        Displacements over the steps, divided by their lengths.
    dt : array, shape (N,)
        Lengths of the steps; the likelihood weighs a squared error of the velocity by them.
    """

    t: Any
    x: Any
    velocity: Any
    dt: Any


class Reference:
    """What all references share: a drift, a noise level, and possibly parameters that can be fitted.

    Attributes
    ----------
    sigma : numpy.ndarray, shape () or (d,)
        Noise level, of every coordinate or of each.
    theta : numpy.ndarray or None
        Parameters of the drift.
    fits : bool
        Whether `fit` changes anything.
    """

    sigma: Any
    theta: Any = None
    fits: bool = False
    autonomous: bool = False  # the drift does not depend on time
    steps: int | None = None  # of the linear-noise approximation, where fewer than usual do

    def drift(self, t: float, x: Any) -> Any:
        """Return b(t, x), (n, d), of the framework of `x`."""
        raise NotImplementedError

    def jacobian(self, t: float, x: Any) -> Any:
        """Return the derivative of the drift in x, (n, d, d), or (d, d) if it is the same everywhere; None: unknown."""
        return None

    def fit(self, increments: Increments) -> Reference:
        """Return the member of this family under which these increments are most likely."""
        return self

    def simulate(self, x0: Any, times: Any, *, n_substeps: int = 100, seed: Any = 0) -> Any:
        """Simulate paths of the reference itself, by the Euler-Maruyama scheme.

        Parameters
        ----------
        x0 : array, shape (n, d), float32 or float64
            Positions at ``times[0]``.
        times : array, shape (K,)
            Increasing.
        n_substeps : int
            Steps from one time to the next.
        seed : int or numpy.random.SeedSequence

        Returns
        -------
        array, shape (K, n, d)
            Of the framework, dtype and device of `x0`; computed in float64 but for the drift.
        """
        at = as_input(x0, "x0", shape=("n", "d"))
        seed, n_substeps = as_seed(seed), as_count(n_substeps, "n_substeps", least=1)
        host, at_times = Host(self, at), as_times(times)
        x = to_numpy(at.array).astype(np.float64)
        out = [x]
        root = np.sqrt(host.variance)
        for k, (start, end) in enumerate(itertools.pairwise(at_times)):
            h = (end - start) / n_substeps
            for s in range(n_substeps):
                z = random.normal(seed, x.shape, stream=_STREAM, counter=k * n_substeps + s)
                x = x + h * host.drift(start + s * h, x) + np.sqrt(h) * root * z
            out.append(x)
        return host.given(np.stack(out))


def _sigma(sigma: Any) -> Any:
    s = np.asarray(to_numpy(sigma), np.float64)
    if s.ndim > 1 or not (np.isfinite(s).all() and (s > 0).all()):
        raise ValueError(
            f"sigma: expected a positive number, or one for each coordinate, got {sigma!r}"
        )
    return s


def _finite(value: Any, name: str, shape: tuple[int | str, ...]) -> Any:
    at = as_input(value, name, shape=shape)
    out = np.asarray(to_numpy(at.array), np.float64)
    if not np.isfinite(out).all():
        raise ValueError(f"{name}: expected finite numbers")
    return out


def _function(f: Any, name: str) -> Any:
    if not callable(f):
        raise TypeError(f"{name}: expected a callable, got {type(f).__name__}")
    return f


def _least_squares(features: Doubles, increments: Increments, sigma: Any, ridge: float) -> Doubles:
    """theta of velocity = features theta + noise of variance sigma^2 / dt; features (N, d, k)."""
    velocity, dt = (to_numpy(v).astype(np.float64) for v in (increments.velocity, increments.dt))
    weights = dt[:, None] / np.broadcast_to(sigma, velocity.shape) ** 2
    weighted = features * weights[..., None]
    k = features.shape[2]
    gram = weighted.reshape(-1, k).T @ features.reshape(-1, k) + ridge * np.eye(k)
    return np.asarray(
        np.linalg.lstsq(gram, weighted.reshape(-1, k).T @ velocity.reshape(-1), rcond=None)[0]
    )


class BrownianReference(Reference):
    """Brownian motion with noise level sigma: no drift, nothing to fit.

    Parameters
    ----------
    sigma : float or array, shape (d,)
        Noise level > 0, of every coordinate or of each.

    Raises
    ------
    TypeError, ValueError
        If `sigma` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.transport import BrownianReference
    >>> paths = BrownianReference(0.5).simulate(np.zeros((1000, 2)), [0.0, 4.0], n_substeps=1)
    >>> bool(abs(paths[1].std() - 1) < 0.1)
    True
    """

    autonomous = True
    steps = 1

    def __init__(self, sigma: Any) -> None:
        self.sigma = _sigma(sigma)

    def __repr__(self) -> str:
        return f"BrownianReference(sigma={self.sigma!r})"

    def drift(self, t: float, x: Any) -> Any:
        return 0 * x

    def jacobian(self, t: float, x: Any) -> Any:
        return np.zeros((x.shape[1], x.shape[1]))


class AffineDrift(Reference):
    """Drift ``A x + c``: Ornstein-Uhlenbeck processes and other linear ones, fitted by least squares.

    The covariance of a transition is the same from every start, so that a bridge never holds a matrix of pairs.

    Parameters
    ----------
    matrix : array, shape (d, d)
        A, at the start.
    offset : array, shape (d,)
        c, at the start.
    sigma : float or array, shape (d,)
        Noise level > 0.

    Attributes
    ----------
    theta : numpy.ndarray, shape (d, d + 1)
        A, and c as the last column.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.transport import AffineDrift
    >>> spiral = AffineDrift([[-0.1, 1.0], [-1.0, -0.1]], [0.0, 0.0], sigma=0.1)
    >>> spiral.drift(0.0, np.array([[1.0, 0.0]]))
    array([[-0.1, -1. ]])
    """

    fits = True
    autonomous = True

    def __init__(self, matrix: Any, offset: Any, sigma: Any) -> None:
        offset = _finite(offset, "offset", ("d",))
        matrix = _finite(matrix, "matrix", (offset.size, offset.size))
        self.theta = np.concatenate([matrix, offset[:, None]], axis=1)
        self.sigma = _sigma(sigma)

    def __repr__(self) -> str:
        return f"AffineDrift(theta={self.theta!r}, sigma={self.sigma!r})"

    def drift(self, t: float, x: Any) -> Any:
        d = x.shape[1]
        return x @ as_like(self.theta[:, :d].T, x) + as_like(self.theta[:, d], x)

    def jacobian(self, t: float, x: Any) -> Any:
        return self.theta[:, : x.shape[1]]

    def fit(self, increments: Increments) -> AffineDrift:
        x, velocity, dt = (
            to_numpy(v).astype(np.float64)
            for v in (increments.x, increments.velocity, increments.dt)
        )
        # Coordinates do not share parameters: their noise levels cancel.
        root = np.sqrt(dt)[:, None]
        design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        theta = np.linalg.lstsq(design * root, velocity * root, rcond=None)[0].T
        return AffineDrift(theta[:, :-1], theta[:, -1], self.sigma)


class LinearDrift(Reference):
    """Drift ``features(x) @ theta``, linear in its parameters and not in the state; fitted by least squares.

    Parameters
    ----------
    features : callable
        ``features(x) -> (n, d, k)`` for x (n, d), in the framework of the snapshots.
    theta : array, shape (k,)
        Parameters at the start.
    sigma : float or array, shape (d,)
        Noise level > 0.
    jacobian : callable, optional
        ``jacobian(x, theta) -> (n, d, d)``, the derivative of the drift in x, last axis; by default central
        differences.
    ridge : float
        Weight >= 0 of ``|theta|**2 / 2`` against the log-likelihood, for features that the data does not tell apart.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    Predator and prey, with four rates:

    >>> import numpy as np
    >>> from mckean.transport import LinearDrift
    >>> def features(z):
    ...     x, y = z[:, 0], z[:, 1]
    ...     nothing = 0 * x
    ...     prey = np.stack([x, -x * y, nothing, nothing], axis=1)
    ...     return np.stack([prey, np.stack([nothing, nothing, -y, x * y], axis=1)], axis=1)
    >>> model = LinearDrift(features, [1.0, 0.4, 0.4, 0.1], sigma=0.1)
    >>> model.drift(0.0, np.array([[5.0, 4.0]])).round(2)
    array([[-3. ,  0.4]])
    """

    fits = True
    autonomous = True

    def __init__(
        self, features: Any, theta: Any, sigma: Any, *, jacobian: Any = None, ridge: float = 0.0
    ) -> None:
        self.features = _function(features, "features")
        self.theta = _finite(theta, "theta", ("k",))
        self.sigma, self.ridge = _sigma(sigma), nonnegative(ridge, "ridge")
        self._jacobian = None if jacobian is None else _function(jacobian, "jacobian")

    def __repr__(self) -> str:
        return f"LinearDrift(theta={self.theta!r}, sigma={self.sigma!r})"

    def _values(self, x: Any) -> Any:
        out = self.features(x)
        shape = (*(int(s) for s in x.shape), self.theta.size)
        if tuple(getattr(out, "shape", ())) != shape:
            raise ValueError(
                f"features: expected shape {shape}, got {tuple(getattr(out, 'shape', ()))}"
            )
        return out

    def drift(self, t: float, x: Any) -> Any:
        return self._values(x) @ as_like(self.theta, x)

    def jacobian(self, t: float, x: Any) -> Any:
        return None if self._jacobian is None else self._jacobian(x, as_like(self.theta, x))

    def fit(self, increments: Increments) -> LinearDrift:
        features = to_numpy(self._values(increments.x)).astype(np.float64)
        theta = _least_squares(features, increments, self.sigma, self.ridge)
        return LinearDrift(
            self.features, theta, self.sigma, jacobian=self._jacobian, ridge=self.ridge
        )


class Drift(Reference):
    """Any drift, fitted by a function of yours.

    Parameters
    ----------
    drift : callable
        ``drift(t, x) -> (n, d)`` for x (n, d), in the framework of the snapshots.
    sigma : float or array, shape (d,)
        Noise level > 0.
    jacobian : callable, optional
        ``jacobian(t, x) -> (n, d, d)``, the derivative of the drift in x, last axis; (d, d) if it does not depend on x.
        By default central differences.
    fit : callable, optional
        ``fit(increments) -> drift``: a new function from `Increments` ``(t, x, velocity, dt)``, or a new `Drift`. Such
        as a few steps of a network's optimiser on ``dt |drift(t, x) - velocity|^2``. Without it the drift stays.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range.

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.transport import Drift
    >>> def fit(increments):
    ...     w = increments.dt[:, None]
    ...     mean = (w * increments.velocity).sum(0) / w.sum()
    ...     return lambda t, x: 0 * x + mean
    >>> Drift(lambda t, x: 0 * x, 0.3, fit=fit).fits
    True
    """

    def __init__(self, drift: Any, sigma: Any, *, jacobian: Any = None, fit: Any = None) -> None:
        self.function = _function(drift, "drift")
        self.sigma = _sigma(sigma)
        self._jacobian = None if jacobian is None else _function(jacobian, "jacobian")
        self._fit = None if fit is None else _function(fit, "fit")
        self.fits = fit is not None

    def __repr__(self) -> str:
        return f"Drift({self.function!r}, sigma={self.sigma!r})"

    def drift(self, t: float, x: Any) -> Any:
        return self.function(t, x)

    def jacobian(self, t: float, x: Any) -> Any:
        return None if self._jacobian is None else self._jacobian(t, x)

    def fit(self, increments: Increments) -> Drift:
        if self._fit is None:
            return self
        found = self._fit(increments)
        if isinstance(found, Drift):
            return found
        if self._jacobian is not None:
            raise TypeError("fit: expected a Drift with its own jacobian, got a function")
        return Drift(found, self.sigma, fit=self._fit)


def as_like(a: Doubles, x: Any) -> Any:
    """A NumPy array in the framework, dtype and device of `x`."""
    at = as_input(x, "x")
    return at.framework.asarray(np.ascontiguousarray(a, at.dtype), at.device)


def as_times(times: Any) -> list[float]:
    found = _finite(times, "times", ("K",))
    if found.size < 2 or not (np.diff(found) > 0).all():
        raise ValueError("times: expected at least two increasing numbers")
    return [float(t) for t in found]


class Host:
    """A reference as seen by NumPy in float64: user functions get arrays like the snapshots `at`."""

    def __init__(self, reference: Reference, at: Input) -> None:
        self.reference, self.at = reference, at
        d = at.shape[-1]
        if reference.sigma.ndim and reference.sigma.shape != (d,):
            raise ValueError(
                f"sigma: expected {d} numbers to match the points, got {reference.sigma.size}"
            )
        self.variance: Doubles = np.broadcast_to(reference.sigma, (d,)) ** 2
        self._difference = float(np.finfo(at.dtype).eps) ** (1 / 3)

    def given(self, a: Doubles) -> Any:
        """In the framework, dtype and device of the snapshots."""
        return self.at.framework.asarray(np.ascontiguousarray(a, self.at.dtype), self.at.device)

    def drift(self, t: float, x: Doubles) -> Doubles:
        out = np.asarray(to_numpy(self.reference.drift(t, self.given(x))), np.float64)
        if out.shape != x.shape:
            raise ValueError(f"drift: expected shape {x.shape}, got {out.shape}")
        return out

    def jacobian(self, t: float, x: Doubles) -> Doubles:
        n, d = x.shape
        found = self.reference.jacobian(t, self.given(x))
        if found is not None:
            out = np.asarray(to_numpy(found), np.float64)
            if out.shape not in ((n, d, d), (d, d)):
                raise ValueError(f"jacobian: expected shape {(n, d, d)}, got {out.shape}")
            return out
        h = self._difference * (1 + abs(x).max())
        moves = h * np.eye(d)[:, None]
        values = self.drift(t, np.concatenate([x + moves, x - moves]).reshape(-1, d))
        plus, minus = values.reshape(2, d, n, d)
        return np.moveaxis((plus - minus) / (2 * h), 0, 2)

    def transition(self, x: Doubles, start: float, end: float, n_steps: int) -> Transition:
        """The law at `end` of what starts from `x`; raises where it is out of range."""
        with np.errstate(over="ignore", invalid="ignore"):
            steps = self.reference.steps or n_steps
            law = linear_noise(self.drift, self.jacobian, self.variance, x, start, end, steps)
        if not (np.isfinite(law.mean).all() and np.isfinite(law.covariance).all()):
            raise FloatingPointError(
                f"reference: its drift leaves the range of numbers between t = {start:g} and {end:g}"
            )
        return law

    def fit(self, t: Doubles, x: Doubles, velocity: Doubles, dt: Doubles) -> Host:
        fitted = self.reference.fit(Increments(*(self.given(v) for v in (t, x, velocity, dt))))
        return Host(fitted, self.at)
