"""Eigenpairs by Lanczos' method."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from mckean import random
from mckean._errors import ConvergenceWarning, as_count, as_seed, nonnegative, one_of
from mckean.lowrank import _native
from mckean.lowrank._block_lanczos import block_pairs
from mckean.lowrank._matvec import Matvec, start_vector
from mckean.lowrank._operator import LowRankOperator
from mckean.lowrank._ritz import (
    WHICH,
    Copies,
    Pairs,
    basis_size,
    compress,
    converged,
    ritz_vectors,
    select,
)
from mckean.lowrank._selective import Loss

__all__ = ["lanczos", "pairs_of"]

_STREAM = 0x6C616E637A6F7300  # of mk.random, of vectors after a breakdown
_TOLERANCE = {"float64": 1e-8, "float32": 1e-4}
_BREAKDOWN, _NOISE = 50, 1e4  # times eps ||T||
_SELECTIVE_BASIS = 300  # where orthogonality is restored rarely, longer bases cost little


def lanczos(
    matvec: Any,
    d: int,
    rank: int,
    *,
    seed: Any = 0,
    which: str = "LA",
    tol: float | None = None,
    max_iter: int | None = None,
    reorth: str = "full",
    block: int = 1,
    check: bool = True,
    matmat: Any = None,
    fd: bool | float | None = None,
    like: Any = None,
    dtype: Any = None,
    device: Any = None,
) -> LowRankOperator:
    """Eigenpairs at one end of the spectrum of a symmetric matrix that is known by its products.

    Lanczos' method with reorthogonalisation and thick restarts [1]_ [2]_. Every vector is made
    orthogonal by the three-term recurrence and then one pass over the basis, which is read twice.

    Parameters
    ----------
    matvec : callable, matrix (d, d) or linear operator
        v -> A v for vectors (d,), in NumPy, PyTorch, JAX or CuPy; (d, 1) and integers are accepted.
        A callable is first tried with a float64 vector of NumPy, then of the other frameworks that
        are loaded; what it returns decides framework, dtype and device. Anything with ``@`` and
        a shape serves, as ``scipy.sparse.linalg.LinearOperator`` does. It must not change
        its argument (NumPy vectors are read-only).
    d : int
    rank : int
        Eigenpairs wanted, at most d.
    seed : int or numpy.random.SeedSequence
        Of the random start.
    which : {"LA", "SA", "LM"}
        The largest, the smallest, or the largest in absolute value; `s` comes in this order.
    tol : float, optional
        Residuals ``|A u - s u|`` wanted relative to ``|s|``; default 1e-8 (float64) or 1e-4
        (float32), and at least ten times the error of finite differences.
    max_iter : int, optional
        Products, default ``min(10 d, 5000)``, at least `rank`.
    reorth : {"full", "selective", "none"}
        "selective" restores orthogonality where a recurrence [3]_ says that half the digits are
        lost: worth it for long bases in float64 and cheap products. "none" neither restores
        nor restarts, and shows spurious copies of eigenvalues.
    block : int
        Vectors that go together, 1 to 8: with more than one, equal eigenvalues are found at
        once and products come as matrices (d, block), but more of them.
    check : bool
        Compare ``x.Ay`` with ``y.Ax`` first, one more product.
    matmat : callable, optional
        (d, l) -> (d, l), for `block` > 1; matrices and linear operators have it.
    fd : bool or float, optional
        Whether products are finite differences (or their relative error): the probe and `tol`
        are then looser. By default the attribute ``matvec_error`` of `matvec`.
    like : array or str, optional
        Framework of the vectors, where it is known beforehand.
    dtype : dtype, optional
        float32 or float64; products of the other are converted.
    device : str, optional
        Where vectors are, for frameworks on several devices.

    Returns
    -------
    LowRankOperator
        With ``U`` (d, rank), the largest entry of each column positive, ``s`` (rank,),
        ``residuals`` (rank,) ``|A u - s u|`` in NumPy, ``converged`` and ``n_matvecs``.

    Raises
    ------
    ValueError, TypeError
        For wrong arguments or results, among them a matrix that is not symmetric.
    FloatingPointError
        If a product is not finite; the message says which one.
    MemoryError
        If the basis of ``rank + 8`` vectors does not fit into half the memory.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` products were not enough; what was found is returned.

    Notes
    -----
    Of an eigenvalue with several eigenvectors a single start sees one. Rounding, and random
    vectors wherever the basis is found to be invariant, bring the others; `block` is surer.

    References
    ----------
    .. [1] G. H. Golub, C. F. Van Loan, "Matrix Computations", chapter 10
    .. [2] K. Wu, H. Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems",
       SIAM J. Matrix Anal. Appl. 22, 2000
    .. [3] H. D. Simon, "The Lanczos algorithm with partial reorthogonalization", Math. Comp. 42, 1984

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> a = np.arange(1.0, 1001.0)
    >>> op = mk.lowrank.lanczos(lambda v: a * v, 1000, 3)
    >>> [round(float(s), 6) for s in op.s]
    [1000.0, 999.0, 998.0]
    >>> bool(op.residuals.max() < 1e-5)
    True
    """
    A = Matvec(matvec, d, like=like, dtype=dtype, device=device, matmat=matmat, fd=fd)
    rank = as_count(rank, "rank", least=1)
    one_of(which, "which", WHICH)
    pairs = pairs_of(A, rank, as_seed(seed), which, tol, max_iter, reorth, block, check)
    s = A.empty((rank,))
    s.data[...] = A.own(pairs.theta)
    op = LowRankOperator(pairs.U.result(), s.result(), check=False)
    op.residuals, op.converged, op.n_matvecs = pairs.residuals, pairs.converged, A.calls
    return op


def pairs_of(
    A: Matvec,
    rank: int,
    seed: int,
    which: str,
    tol: float | None = None,
    max_iter: int | None = None,
    reorth: str = "full",
    block: int = 1,
    check: bool = True,
) -> Pairs:
    """The pairs behind `lanczos`, of arguments that are checked here."""
    if rank > A.d:
        raise ValueError(f"rank: expected at most d = {A.d}, got {rank}")
    one_of(reorth, "reorth", ("full", "selective", "none"))
    block = as_count(block, "block", least=1)
    if block > 8:
        raise ValueError(f"block: expected 1 to 8, got {block}")
    if block > 1 and reorth != "full":
        raise ValueError(f"reorth: expected 'full' with block > 1, got {reorth!r}")
    limit = min(10 * A.d, 5000) if max_iter is None else as_count(max_iter, "max_iter", least=1)
    if max_iter is None:
        limit = max(limit, rank)
    if limit < rank:
        raise ValueError(f"max_iter: expected at least rank = {rank}, got {limit}")
    wanted = limit if reorth == "none" else min(A.d, max(2 * rank + 20, 4 * rank + 4))
    if reorth == "selective":
        wanted = min(A.d, max(wanted, _SELECTIVE_BASIS))
    if block > 1:
        wanted = min(A.d, wanted + 4 * block)
    least = rank + 8 * block
    basis_size(A, rank, wanted, least)  # nothing was allocated yet
    v, w = A.settle(start_vector(seed, A.d))
    size = basis_size(A, rank, wanted, least)
    if tol is not None:
        tol = nonnegative(tol, "tol")
    tol = max(_TOLERANCE[A.dtype] if tol is None else tol, 10 * A.error)
    if check and A.d > 1:
        w = A.own_data(w)  # the probe's product may be written to the same memory
        A.check_symmetry(v, w, seed)
    if block > 1:
        pairs = block_pairs(A, v, rank, which, tol, limit, min(block, A.d), size, seed)
    else:
        pairs = _pairs(A, v, w, rank, which, tol, limit, size, reorth, seed)
    if not pairs.converged:
        warnings.warn(
            f"lanczos: not converged after {A.calls} products, largest residual "
            f"{pairs.residuals.max():.3g} at tol = {tol:.3g}",
            ConvergenceWarning,
            stacklevel=3,
        )
    return pairs


def _pairs(
    A: Matvec,
    start: Any,
    product: Any,
    rank: int,
    which: str,
    tol: float,
    limit: int,
    size: int,
    reorth: str,
    seed: int,
) -> Pairs:
    """`size` vectors at most in the basis; `product` is that of the start."""
    d, eps = A.d, A.eps
    basis, work = A.empty((size + 1, d)).data, A.empty((d,)).data
    T, scratch = np.zeros((size, size)), np.empty(size + 1)
    step, call, show = _native.lanczos_stepper(basis, work, A.place), A.product, A.shower(basis)
    basis[0] = start
    loss = Loss(size, d, eps, seed) if reorth == "selective" else None
    if loss is not None:
        loss.restart(0)
    usual = 1 if reorth == "full" else 0
    every = 8 if d < (rank + 8) ** 2 else 4  # a check costs about 10 n^3, a step 4 n d
    n, products, breaks = 0, 0, 0  # n: columns of T
    due, copies, lowest = rank + 1, Copies(rank), math.inf
    recurrence, beta, passes, scale = True, 0.0, usual, 0.0
    while True:
        if products:
            product = call(show(n))
        work[...] = product
        products += 1
        before = beta
        beta, _ = step(n + 1, T[n], recurrence, before, passes)
        if not beta < math.inf:
            A.not_finite()
        alpha = abs(T[n, n])
        scale = max(scale, alpha, beta)
        n += 1
        recurrence, passes = True, usual
        broken = beta <= _BREAKDOWN * eps * scale
        if loss is not None:
            T[: n - 1, n - 1] = T[n - 1, : n - 1]
            if not broken and loss.lost(n, T, before, beta):
                # This vector and the next one: the recurrence mixes both into all that follow.
                beta, _ = step(n, scratch, False, 0.0, 1)
                T[n - 1, :n] += scratch[:n]
                T[: n - 1, n - 1] = T[n - 1, : n - 1]
                loss.restored(n)
                broken = beta <= _BREAKDOWN * eps * scale
                passes = 1
        if n == d and reorth != "none":
            break
        full, out = n == size, products >= limit
        # A sudden drop is the same with more rounding: the next vector is noise, as good as random.
        ended = broken or (beta <= _NOISE * eps * scale and beta <= math.sqrt(eps) * lowest)
        lowest = math.inf if ended else min(lowest, beta)
        if not (ended or n >= due or full or out):
            continue
        due = n + every
        theta, S = np.linalg.eigh(T[:n, :n])
        scale = max(scale, float(abs(theta[0])), float(abs(theta[-1])))
        chosen = select(theta, which, rank)
        values, residuals = theta[chosen], beta * np.abs(S[n - 1, chosen])
        good = n >= rank and converged(values, residuals, tol, scale, eps)
        good = copies.done(values, good, products, eps * scale, ended=ended)
        if good or (out and n >= rank):
            return Pairs(ritz_vectors(basis, n, S[:, chosen], A), values, residuals, good)
        if broken:
            breaks += 1
            work[...] = A.own(random.normal(seed, d, stream=_STREAM, counter=breaks))
            step(n, scratch, False, 0.0, 2)
            beta = 0.0
            if loss is not None:
                loss.restart(n)
        if full:
            kept = select(theta, which, min(rank + min(rank, 10), n - 4))
            compress(basis, n, S[:, kept], A)
            basis[len(kept)] = basis[n]
            n = len(kept)
            T[...] = 0.0
            T[np.arange(n), np.arange(n)] = theta[kept]
            # No recurrence: this vector is coupled to all that were kept.
            recurrence, passes, beta = False, 2, 0.0
            due = max(rank + 1, n + 1)
            if loss is not None:
                loss.restart(n)
    theta, S = np.linalg.eigh(T[:n, :n])
    chosen = select(theta, which, rank)
    residuals = beta * np.abs(S[n - 1, chosen])
    return Pairs(ritz_vectors(basis, n, S[:, chosen], A), theta[chosen], residuals, True)
