"""How large a learning rate may be, as a function of the batch size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mckean._errors import ConvergenceWarning, as_count, as_real, as_seed, one_of, positive
from mckean.lowrank._lanczos import pairs_of
from mckean.lowrank._matvec import Matvec

__all__ = ["HeavyBall", "LearningRateAdvice", "heavy_ball", "learning_rate_advice"]

_STEPS, _TOL = 20, 1e-3
_FLOOR = 0.01  # relative error below which no mean is trusted in the fit
Doubles = np.ndarray[Any, Any]


@dataclass(slots=True)
class LearningRateAdvice:
    """What `learning_rate_advice` returns.

    Attributes
    ----------
    batch_sizes : numpy.ndarray, shape (m,)
    lam_batch, stderr : numpy.ndarray, shape (m,)
        Mean over batches of the largest eigenvalue of the batch Hessian, and its standard error.
    samples : list of numpy.ndarray
        The eigenvalues of every batch.
    lam_1, v : float
        Fit of ``lam(B) = lam_1 + v / b``, ``b = B / (1 - B / n_total)``.
    misfit : float
        Root mean square of the fit's relative errors.
    lr_max : numpy.ndarray, shape (m,)
        Largest stable rate of gradient descent at the measured eigenvalues.
    B_crit : float
        ``v / lam_1``: below it rates may grow with the batch, above it hardly.
    momentum : float
    n_total : int or None
    """

    batch_sizes: Doubles
    lam_batch: Doubles
    stderr: Doubles
    samples: list[Doubles]
    lam_1: float
    v: float
    misfit: float
    momentum: float
    n_total: int | None
    n_matvecs: int
    lr_max: Doubles = field(init=False)
    B_crit: float = field(init=False)

    def __post_init__(self) -> None:
        self.lr_max = 2 * (1 + self.momentum) / self.lam_batch
        self.B_crit = self.v / self.lam_1

    def lam(self, batch_size: Any) -> Any:
        """The fitted largest eigenvalue of the Hessian of a batch."""
        return self.lam_1 + self.v * _noise(np.asarray(batch_size, np.float64), self.n_total)

    def max_rate(self, batch_size: Any) -> Any:
        """The largest stable rate of gradient descent by the fit, ``2 (1 + momentum) / lam(B)``."""
        return 2 * (1 + self.momentum) / self.lam(batch_size)

    def scale(self, lr: float, batch_size: Any, to: Any, *, method: str = "sgd") -> Any:
        """A rate tuned at one batch size, for another.

        Gradient descent follows the stable rate: proportional to B well below `B_crit`, constant
        well above. Adaptive methods divide by the size of the gradient, whose noise falls with the root
        of B: their rate follows the root of that.

        Parameters
        ----------
        lr : float
            The rate at `batch_size`.
        batch_size, to : float or array
        method : {"sgd", "adaptive"}

        Returns
        -------
        float or array
        """
        power = 1.0 if one_of(method, "method", ("sgd", "adaptive")) == "sgd" else 0.5
        return positive(lr, "lr") * (self.lam(batch_size) / self.lam(to)) ** power

    def plot(self, ax: Any = None) -> Any:
        """Draw it with `mckean.plot.learning_rates`; returns the axes."""
        from mckean import plot

        return plot.learning_rates(self, ax)


def _noise(batch_size: Doubles, n_total: int | None) -> Doubles:
    """1 / b: batches without repetition know the data they have not seen the better."""
    fraction = 0.0 if n_total is None else batch_size / n_total
    return np.maximum(1.0 - fraction, 0.0) / batch_size


def learning_rate_advice(
    hvp_batch: Callable[[int, int], Any],
    batch_sizes: Sequence[int],
    *,
    d: int,
    n_batches: int = 10,
    n_total: int | None = None,
    momentum: float = 0.0,
    n_steps: int = _STEPS,
    seed: Any = 0,
    check: bool = False,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> LearningRateAdvice:
    """Measure the largest eigenvalue of batch Hessians, and what follows for learning rates.

    The Hessian of a batch is that of all the data plus noise, which pushes its largest eigenvalue up
    by about v / B [1]_. Gradient descent is stable below ``2 (1 + momentum) / lam(B)``: a rate that
    grows with B until the noise is below the curvature itself.

    Parameters
    ----------
    hvp_batch : callable
        ``hvp_batch(size, number)`` gives the Hessian of batch `number` of that size, as a callable
        v -> H v, a matrix or a linear operator. Draw the batch from `number`, without repetition.
    batch_sizes : sequence of int
        At least two, different.
    d : int
        Parameters.
    n_batches : int
        Batches of every size; one where the size is `n_total`.
    n_total : int, optional
        How many data there are; default infinitely many.
    momentum : float
        Of heavy-ball gradient descent, in [0, 1).
    n_steps : int
        Products for each batch, at most.
    check : bool
        Whether to probe the symmetry of every batch; that of the first one of every size is probed anyway, which
        costs a product.
    seed, fd, like, dtype, device
        As of `lanczos`.

    Returns
    -------
    LearningRateAdvice

    Raises
    ------
    ValueError, TypeError
        For wrong arguments, or if no eigenvalue is positive.
    FloatingPointError
        If a product is not finite.

    Warns
    -----
    ConvergenceWarning
        If residuals of the eigenvalues exceed a tenth of them: raise `n_steps`.

    References
    ----------
    .. [1] D. Granziol, S. Zohren, S. Roberts, "Learning rates as a function of batch size: a random
       matrix theory approach to neural network training", JMLR 23, 2022

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (4096, 20)) * np.linspace(1, 0.1, 20)
    >>> def hvp_batch(size, number):  # of least squares
    ...     rows = x[np.argsort(mk.random.uniform(number, 4096))[:size]]
    ...     return lambda v: rows.T @ (rows @ v) / size
    >>> advice = mk.lowrank.learning_rate_advice(hvp_batch, [8, 32, 128], d=20, n_total=4096)
    >>> bool((np.diff(advice.lr_max) > 0).all())  # larger batches allow larger rates
    True
    """
    if not callable(hvp_batch):
        raise TypeError(f"hvp_batch: expected a callable, got {type(hvp_batch).__name__}")
    sizes = [as_count(size, "batch_sizes", least=1) for size in batch_sizes]
    if len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise ValueError(f"batch_sizes: expected two or more different sizes, got {sizes}")
    n_batches = as_count(n_batches, "n_batches", least=1)
    n_steps = as_count(n_steps, "n_steps", least=1)
    if n_total is not None:
        n_total = as_count(n_total, "n_total", least=1)
        if max(sizes) > n_total:
            raise ValueError(f"batch_sizes: expected at most n_total = {n_total}, got {max(sizes)}")
    momentum = as_real(momentum, "momentum")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
    seed = as_seed(seed)
    samples, calls, worst = [], 0, 0.0
    for size in sizes:
        values = []
        for number in range(1 if size == n_total else n_batches):
            matvec = hvp_batch(size, number)
            A = Matvec(matvec, d, like=like, dtype=dtype, device=device, fd=fd, name="hvp_batch")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # said once, below
                # Batches of one size are mostly products of one function.
                probe = check or number == 0
                top = pairs_of(A, 1, seed, "LA", _TOL, n_steps, check=probe)
            value = float(top.theta[0])
            if value <= 0:
                raise ValueError(
                    f"hvp_batch: expected a positive eigenvalue, got {value:.6g} for batch {number} "
                    f"of size {size}"
                )
            values.append(value)
            worst = max(worst, float(top.residuals[0]) / value)
            calls += A.calls
        samples.append(np.array(values))
    if worst > 0.1:
        warnings.warn(
            f"learning_rate_advice: eigenvalues are uncertain by up to {worst:.0%} after "
            f"{n_steps} products each; raise n_steps",
            ConvergenceWarning,
            stacklevel=2,
        )
    B = np.array(sizes, np.float64)
    mean = np.array([s.mean() for s in samples])
    error = np.array([s.std(ddof=1) / math.sqrt(len(s)) if len(s) > 1 else 0.0 for s in samples])
    lam_1, v = _fit(_noise(B, n_total), mean, np.hypot(error, _FLOOR * mean))
    fit = lam_1 + v * _noise(B, n_total)
    misfit = float(np.sqrt(np.mean((mean / fit - 1) ** 2)))
    return LearningRateAdvice(B, mean, error, samples, lam_1, v, misfit, momentum, n_total, calls)


def _fit(x: Doubles, y: Doubles, error: Doubles) -> tuple[float, float]:
    """y ~ a + b x with a > 0, b >= 0, by weighted least squares."""
    w = error**-2 / (error**-2).sum()
    x0, y0 = float(w @ x), float(w @ y)
    spread = float(w @ (x - x0) ** 2)
    b = float(w @ ((x - x0) * (y - y0))) / spread
    if b < 0:
        return y0, 0.0
    a = y0 - b * x0
    if a > 0:
        return a, b
    # All noise: what is left of the curvature is below the smallest eigenvalue seen.
    b = float(w @ (x * y)) / float(w @ (x * x))
    return float(np.finfo(float).eps * y.min()), b


class HeavyBall(NamedTuple):
    """What `heavy_ball` returns."""

    lr: float
    momentum: float


def heavy_ball(smallest: float, largest: float) -> HeavyBall:
    """The learning rate and momentum that are best for curvatures in an interval.

    Polyak's choice: on quadratics errors shrink by ``sqrt(momentum)`` a step.

    Parameters
    ----------
    smallest, largest : float
        ``0 < smallest <= largest``, as from `extremal_eigenvalues`.

    Returns
    -------
    HeavyBall
        (lr, momentum)

    Raises
    ------
    ValueError, TypeError
        For wrong arguments.

    Examples
    --------
    >>> import mckean as mk
    >>> mk.lowrank.heavy_ball(1.0, 9.0)
    HeavyBall(lr=0.25, momentum=0.25)
    """
    low, high = positive(smallest, "smallest"), positive(largest, "largest")
    if low > high:
        raise ValueError(f"smallest: expected at most largest = {high}, got {low}")
    a, b = math.sqrt(low), math.sqrt(high)
    return HeavyBall(4 / (a + b) ** 2, ((b - a) / (b + a)) ** 2)
