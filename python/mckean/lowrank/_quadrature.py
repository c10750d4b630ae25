"""Traces of functions of a matrix from its products with random vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._errors import as_count, as_seed, nonnegative, one_of
from mckean.lowrank import _native
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._ritz import basis_size

__all__ = [
    "Nodes",
    "TraceEstimate",
    "Tridiagonal",
    "log_determinant",
    "probe",
    "quadrature",
    "trace",
    "trace_function",
]

_PROBES, _SKETCH = 0x736C710000000000, 0x736C710000000001  # streams of mk.random
_BREAKDOWN = 50  # times eps ||T||


@dataclass(slots=True)
class TraceEstimate:
    """A mean over random probes.

    Attributes
    ----------
    value : float
    stderr : float
        Standard error of `value` over the probes; NaN for a single one, 0 where nothing was random.
    samples : numpy.ndarray, shape (n_probes,)
        What each probe says.
    n_matvecs : int
    """

    value: float
    stderr: float
    samples: np.ndarray[Any, Any]
    n_matvecs: int

    def __float__(self) -> float:
        return self.value


@dataclass(slots=True)
class Nodes:
    """Ritz values of one probe with their weights, which sum to 1, and residuals."""

    theta: np.ndarray[Any, Any]
    tau: np.ndarray[Any, Any]
    residuals: np.ndarray[Any, Any]


class Tridiagonal:
    """Lanczos' method of a fixed number of steps with full reorthogonalisation, start after start
    in the same memory."""

    def __init__(self, A: Matvec, steps: int) -> None:
        self.A, self.steps = A, min(steps, A.d)
        basis_size(A, 0, self.steps, self.steps)
        self.basis = A.empty((self.steps + 1, A.d)).data
        self.work = A.empty((A.d,)).data
        self.T = np.zeros((self.steps, self.steps))
        self._step = _native.lanczos_stepper(self.basis, self.work, A.place)
        self._show = A.shower(self.basis)

    def run(self, start: np.ndarray[Any, Any], product: Any = None) -> Nodes:
        """Nodes for a unit vector; `product` is A start where it is known."""
        A, T, beta, scale = self.A, self.T, 0.0, 0.0
        self.basis[0] = A.own(start)
        n = 0
        while n < self.steps:
            self.work[...] = A.product(self._show(n)) if n or product is None else product
            beta, _ = self._step(n + 1, T[n], True, beta, 1)
            if not beta < math.inf:
                A.not_finite()
            scale = max(scale, abs(T[n, n]), beta)
            n += 1
            if beta <= _BREAKDOWN * A.eps * scale:  # an invariant subspace: the nodes are exact
                break
        theta, S = np.linalg.eigh(T[:n, :n])
        return Nodes(theta, S[0] ** 2, beta * np.abs(S[-1]))


def probe(seed: int, d: int, number: int) -> np.ndarray[Any, Any]:
    """Entries +-1."""
    u = random.uniform(seed, d, stream=_PROBES, counter=number)
    return np.where(np.asarray(u) < 0.5, -1.0, 1.0)


def quadrature(A: Matvec, n_probes: int, n_steps: int, seed: int, check: bool) -> list[Nodes]:
    """Nodes of `n_probes` probes of +-1; the first product settles the place and serves the probe."""
    basis_size(A, 0, min(n_steps, A.d), n_steps)  # nothing was allocated yet
    root = math.sqrt(A.d)
    start = probe(seed, A.d, 0) / root
    v, w = A.settle(start)
    w = A.own_data(w)
    if check and A.d > 1:
        A.check_symmetry(v, w, seed)
    lanczos = Tridiagonal(A, n_steps)
    first = lanczos.run(start, w)
    return [first] + [lanczos.run(probe(seed, A.d, i) / root) for i in range(1, n_probes)]


def _estimate(samples: Any, calls: int) -> TraceEstimate:
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    error = float(samples.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return TraceEstimate(float(samples.mean()), error, samples, calls)


def trace_function(
    matvec: Any,
    d: int,
    f: Callable[[np.ndarray[Any, Any]], Any],
    *,
    n_probes: int = 10,
    n_steps: int = 80,
    seed: Any = 0,
    check: bool = True,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> TraceEstimate:
    """Estimate tr f(A) of a symmetric matrix by stochastic Lanczos quadrature [1]_.

    Probes with entries +-1 start Lanczos' method; each gives Ritz values and, from the first
    components of the eigenvectors of its tridiagonal matrix, their weights. Given the probes, the
    result is exact for polynomials of degree ``2 n_steps - 1``.

    Parameters
    ----------
    matvec, d, check, fd, like, dtype, device
        As of `lanczos`.
    f : callable
        A function of eigenvalues, (m,) -> (m,), in NumPy.
    n_probes, n_steps : int
        Products: ``n_probes * n_steps``, and one for `check`.
    seed : int or numpy.random.SeedSequence

    Returns
    -------
    TraceEstimate

    Raises
    ------
    ValueError, TypeError
        For wrong arguments; also if f is not finite at a Ritz value, which the message names.
    FloatingPointError
        If a product is not finite.

    See Also
    --------
    log_determinant, trace, spectral_density

    References
    ----------
    .. [1] S. Ubaru, J. Chen, Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos
       quadrature", SIAM J. Matrix Anal. Appl. 38, 2017, doi:10.1137/16M1104974

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.linspace(1, 2, 1000)
    >>> estimate = mk.lowrank.trace_function(lambda v: a * v, 1000, np.sqrt)
    >>> bool(abs(estimate.value / np.sqrt(a).sum() - 1) < 1e-6)  # exact for diagonal matrices
    True
    """
    if not callable(f):
        raise TypeError(f"f: expected a callable, got {type(f).__name__}")
    A = Matvec(matvec, d, like=like, dtype=dtype, device=device, fd=fd)
    n_probes, n_steps = (
        as_count(n_probes, "n_probes", least=1),
        as_count(n_steps, "n_steps", least=1),
    )
    nodes = quadrature(A, n_probes, n_steps, as_seed(seed), check)
    samples = [A.d * float(one.tau @ _values(f, one.theta)) for one in nodes]
    return _estimate(samples, A.calls)


def _values(f: Callable[[np.ndarray[Any, Any]], Any], theta: np.ndarray[Any, Any]) -> Any:
    with np.errstate(all="ignore"):
        values = np.asarray(f(theta), np.float64)
    if values.shape != theta.shape:
        raise ValueError(f"f: expected shape {theta.shape}, got {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        at = theta[bad[0]]
        raise ValueError(
            f"f: expected finite values, got {values[bad[0]]} at the Ritz value {at:.6g}"
        )
    return values


def log_determinant(
    matvec: Any,
    d: int,
    *,
    damping: float = 0.0,
    n_probes: int = 10,
    n_steps: int = 80,
    seed: Any = 0,
    check: bool = True,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> TraceEstimate:
    """Estimate log det(A + damping I) by stochastic Lanczos quadrature.

    The error of the quadrature falls like ``((sqrt(c) - 1) / (sqrt(c) + 1)) ** (2 n_steps)`` for
    condition number c; then the probes' own error remains, which `stderr` tells.

    Parameters
    ----------
    matvec, d, check, fd, like, dtype, device
        As of `lanczos`.
    damping : float
        At least 0; A + damping I must be positive definite.
    n_probes, n_steps, seed
        As of `trace_function`.

    Returns
    -------
    TraceEstimate

    Raises
    ------
    ValueError, TypeError
        For wrong arguments; also if the matrix is not positive definite.

    See Also
    --------
    trace_function

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> x = mk.random.normal(0, (2000, 50))
    >>> a = x.T @ x / 2000
    >>> estimate = mk.lowrank.log_determinant(a, 50)
    >>> bool(abs(estimate.value - np.linalg.slogdet(a)[1]) < 4 * estimate.stderr)
    True
    """
    damping = nonnegative(damping, "damping")

    def log(theta: np.ndarray[Any, Any]) -> Any:
        if theta[0] + damping <= 0:
            raise ValueError(
                f"matvec: expected a positive definite matrix, got the Ritz value {theta[0]:.6g} "
                f"with damping = {damping:.6g}"
            )
        return np.log(theta + damping)

    return trace_function(
        matvec,
        d,
        log,
        n_probes=n_probes,
        n_steps=n_steps,
        seed=seed,
        check=check,
        fd=fd,
        like=like,
        dtype=dtype,
        device=device,
    )


def trace(
    matvec: Any,
    d: int,
    *,
    method: str = "hutchinson",
    n_matvecs: int = 30,
    seed: Any = 0,
    matmat: Any = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> TraceEstimate:
    """Estimate the trace of a matrix that is known by its products.

    "hutchinson" is the mean of z . A z over probes of +-1; its variance is twice the sum of squares
    off the diagonal of A's symmetric part. "hutch++" [1]_ spends a third of the products each on finding a
    subspace, on the trace within it, and on probes of the rest: better where eigenvalues decay,
    exact for ranks up to ``n_matvecs // 3``, somewhat worse where they are all alike.

    Parameters
    ----------
    matvec, d, matmat, like, dtype, device
        As of `lanczos`. The matrix need not be symmetric for "hutchinson".
    method : {"hutchinson", "hutch++"}
    n_matvecs : int
        Products, at least 1, or 3 for "hutch++".
    seed : int or numpy.random.SeedSequence

    Returns
    -------
    TraceEstimate
        Its `stderr` is that of the probes; for "hutch++", of the probes beside the subspace.

    Raises
    ------
    ValueError, TypeError
        For wrong arguments.
    FloatingPointError
        If a product is not finite.

    References
    ----------
    .. [1] R. A. Meyer, C. Musco, C. Musco, D. P. Woodruff, "Hutch++: optimal stochastic trace
       estimation", SOSA 2021, arXiv:2010.09649

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = 1.0 / np.arange(1, 1001) ** 2
    >>> x = mk.random.normal(0, (1000, 5))
    >>> estimate = mk.lowrank.trace(lambda v: x @ (x.T @ v), 1000, method="hutch++")
    >>> bool(abs(estimate.value / (x * x).sum() - 1) < 1e-12)  # of rank 5
    True
    """
    A = Matvec(matvec, d, like=like, dtype=dtype, device=device, matmat=matmat)
    seed = as_seed(seed)
    one_of(method, "method", ("hutchinson", "hutch++"))
    n = as_count(n_matvecs, "n_matvecs", least=1 if method == "hutchinson" else 3)
    if method == "hutchinson":
        return _estimate([_quadratic(A, probe(seed, A.d, i)) for i in range(n)], A.calls)
    return _hutchpp(A, n // 3, seed)


def _quadratic(A: Matvec, z: Any) -> float:
    """z . A z for a probe in NumPy."""
    v, w = A.settle(z)
    return _finite(A, A.dot(v, w))


def _finite(A: Matvec, value: float) -> float:
    if not math.isfinite(value):
        A.not_finite()
    return value


def _sketch(seed: int, d: int, number: int) -> np.ndarray[Any, Any]:
    """Normal, since vectors of +-1 are often parallel on few coordinates."""
    return np.asarray(random.normal(seed, d, stream=_SKETCH, counter=number))


def _hutchpp(A: Matvec, r: int, seed: int) -> TraceEstimate:
    size = min(r, A.d)
    basis_size(A, 0, size, size)
    _, w = A.settle(_sketch(seed, A.d, 0))
    Q = A.empty((size + 1, A.d)).data
    scratch, rank, scale = np.empty(size + 1), 0, 0.0
    for i in range(r):
        if rank == size:
            break
        w = A.own_data(w if i == 0 else A.settle(_sketch(seed, A.d, i))[1])
        length = math.sqrt(_finite(A, A.dot(w, w)))
        scale = max(scale, length)
        step = _native.lanczos_stepper(Q, w, A.place)
        norm, _ = step(rank, scratch, False, 0.0, 2)
        rank += norm > 10 * A.eps * scale  # else A has no more directions to show
    inside = 0.0
    for q in (A.own_data(Q[i]) for i in range(rank)):
        inside += _finite(A, A.dot(q, A.product(A.show(q))))
    samples = np.zeros(r)
    for i in range(r if rank < A.d else 0):
        z = A.own(probe(seed, A.d, i))
        for _ in range(2):
            c = _native.gram(Q[:rank], z.reshape(1, -1), A.place, a_rows=True, b_rows=True)
            _native.multiply(
                Q[:rank], -c, z.reshape(1, -1), A.place, a_rows=True, out_rows=True, add=True
            )
        samples[i] = _finite(A, A.dot(z, A.product(A.show(z))))
    if rank == A.d:
        return TraceEstimate(inside, 0.0, np.array([inside]), A.calls)
    return _estimate(inside + samples, A.calls)
