"""Ranking by pairwise results: the Bradley-Terry model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Framework, as_input, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import ConvergenceWarning, as_count, nonnegative, one_of, positive

__all__ = ["BradleyTerry", "bradley_terry"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BradleyTerry:
    """What `bradley_terry` returns.

    Attributes
    ----------
    strengths : array, shape (n,)
        p; player i beats player j with probability ``p_i / (p_i + p_j)``. Without a prior their geometric mean is 1.
    order : array of int, shape (n,)
        Players from the strongest to the weakest, ties by number.
    log_likelihood : float
        Of all results (prior not counted).
    converged : bool
    n_iter : int
        Sweeps over all players.
    """

    strengths: Any
    order: Any
    log_likelihood: float
    converged: bool
    n_iter: int

    def probability(self, i: int, j: int) -> float:
        """Return the probability that player `i` beats player `j`."""
        p, q = float(self.strengths[i]), float(self.strengths[j])
        return p / (p + q)


def bradley_terry(
    wins: Any,
    *,
    ties: Any = None,
    prior: float = 0.0,
    method: str = "newman",
    tol: float = 1e-8,
    max_iter: int = 10_000,
) -> BradleyTerry:
    """Estimate strengths from the results of pairwise comparisons, by maximum likelihood.

    In the Bradley-Terry model player i beats player j with probability ``p_i / (p_i + p_j)``. A sweep costs as much as
    there are pairs that met. It runs on the CPU, in float64; arrays on other devices are copied there.

    Parameters
    ----------
    wins : array, shape (n, n), or sparse matrix, or tuple
        ``wins[i, j]`` is how often i beat j, >= 0, not necessarily whole; the diagonal is ignored. Sparse matrices of
        SciPy are taken, and CSR arrays ``(indptr, indices, data)``.
    ties : like `wins`, optional
        How often i and j tied, each tie given once, as ``[i, j]`` or as ``[j, i]``: half a win for both.
    prior : float, optional
        So many virtual wins over, and losses to, a player of strength 1 for everybody: 1 is the logistic prior, 0 is
        maximum likelihood.
    method : {"newman", "zermelo"}, optional
        The iteration: "newman", or the older one, which has the same limit and is often many times slower.
    tol : float, optional
        Stop when no ``p / (p + 1)`` changes by `tol` or more in a sweep.
    max_iter : int, optional
        Most sweeps.

    Returns
    -------
    BradleyTerry
        `strengths` and `order` in the framework of `wins`, dtype float32 if `wins` has it and else float64; with
        `log_likelihood`, `converged`, `n_iter`. Deterministic.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or if there is no maximum: without a prior everybody must
        have beaten everybody else, directly or through others.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` sweeps were not enough.

    References
    ----------
    .. [1] M. E. J. Newman, "Efficient computation of rankings from pairwise comparisons", JMLR 24(238), 2023
    .. [2] E. Zermelo, "Die Berechnung der Turnier-Ergebnisse als ein Maximumproblem der Wahrscheinlichkeitsrechnung",
       Mathematische Zeitschrift 29, 1929, doi:10.1007/BF01180541

    Examples
    --------
    >>> import numpy as np
    >>> from mckean.interaction import bradley_terry
    >>> wins = np.array([[0, 3, 0], [1, 0, 3], [0, 1, 0]])   # 0 beat 1 three times in four, 1 beat 2 likewise
    >>> found = bradley_terry(wins)
    >>> found.strengths.round(6).tolist(), round(found.probability(0, 2), 6)
    ([3.0, 1.0, 0.333333], 0.9)
    """
    prior = nonnegative(prior, "prior")
    one_of(method, "method", ("newman", "zermelo"))
    tol = positive(tol, "tol")
    max_iter = as_count(max_iter, "max_iter", least=1)
    n, first, second, counts, framework, device, dtype = _results(wins, "wins")
    if n == 0:
        raise ValueError("wins: expected at least one player, got none")
    if ties is not None:
        found = _results(ties, "ties")
        if found[0] != n:
            raise ValueError(f"ties: expected {n} players to match wins, got {found[0]}")
        i, j, halves = found[1], found[2], found[3] / 2.0
        first, second = np.concatenate([first, i, j]), np.concatenate([second, j, i])
        counts = np.concatenate([counts, halves, halves])
    games = _comparisons(n, first, second, counts)
    native = executor("cpu")
    if prior == 0.0:
        for beats, verb in ((True, "beat"), (False, "lose to")):
            other = native.unreached(*games, beats)
            if other >= 0:
                raise ValueError(
                    f"wins: expected results that connect everybody, but player 0 did not {verb} player "
                    f"{other}, directly or through others: there is no maximum, give a prior such as 1.0"
                )
    p = np.ones(n)
    sweeps = native.bradley_terry(*games, method == "zermelo", prior, tol, max_iter, p)
    if not (np.isfinite(p).all() and (p > 0).all()):
        raise ValueError("wins: the strengths left the range of float64, give a prior such as 1.0")
    if sweeps < 0:
        warnings.warn(
            f"bradley_terry stopped after {max_iter} sweeps before tol {tol}; raise max_iter or give a "
            "prior",
            ConvergenceWarning,
            stacklevel=2,
        )
    start, opponents, won, _ = games
    mine = np.repeat(p, np.diff(start))
    likelihood = float(-(won * np.log1p(p[opponents] / mine)).sum())
    order = np.lexsort((np.arange(n), -p))
    if framework.name == "jax" and not framework._x64():  # type: ignore[attr-defined]
        dtype, order = "float32", order.astype(np.int32)
    return BradleyTerry(
        framework.asarray(p.astype(dtype), device),
        framework.asarray(order, device),
        likelihood,
        sweeps > 0,
        abs(sweeps),
    )


def _results(wins: Any, name: str) -> tuple[int, Array, Array, Array, Framework, str, str]:
    """Rows, columns and counts of the results that are not 0, and where the answer belongs."""
    if hasattr(wins, "tocsr") and hasattr(wins, "shape"):
        if len(wins.shape) != 2 or wins.shape[0] != wins.shape[1]:
            raise ValueError(f"{name}: expected shape (n, n), got {tuple(wins.shape)}")
        matrix = wins.tocsr()
        wins = (matrix.indptr, matrix.indices, matrix.data)
    if isinstance(wins, tuple):
        return _sparse_results(wins, name)
    at = as_input(wins, name, shape=("n", "n"))
    if at.shape[0] != at.shape[1]:
        raise ValueError(f"{name}: expected shape (n, n), got {at.shape}")
    check_finite(at, name)
    dense = np.asarray(to_numpy(at.array))
    first, second = np.nonzero(dense)
    counts = dense[first, second].astype(np.float64)
    _check_counts(counts, name)
    return at.shape[0], first, second, counts, at.framework, at.device, at.dtype


def _sparse_results(
    parts: tuple[Any, ...], name: str
) -> tuple[int, Array, Array, Array, Framework, str, str]:
    if len(parts) != 3:
        raise ValueError(f"{name}: expected (indptr, indices, data), got {len(parts)} arrays")
    inner = [f"{name}[{i}]" for i in range(3)]
    data = as_input(parts[2], inner[2], shape=("pairs",))
    check_finite(data, inner[2])
    indptr, indices = (_integers(parts[i], inner[i]) for i in (0, 1))
    n = len(indptr) - 1
    if n < 0 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
        raise ValueError(f"{inner[0]}: expected non-decreasing numbers from 0 to {len(indices)}")
    if len(indices) != data.shape[0]:
        raise ValueError(
            f"{inner[1]}: expected shape {data.shape} to match {inner[2]}, got {indices.shape}"
        )
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        raise ValueError(f"{inner[1]}: expected numbers of players below {n}")
    counts = np.asarray(to_numpy(data.array)).astype(np.float64)
    _check_counts(counts, name)
    first = np.repeat(np.arange(n), np.diff(indptr))
    return n, first, indices, counts, data.framework, data.device, data.dtype


def _integers(x: Any, name: str) -> Array:
    found = np.asarray(to_numpy(x) if hasattr(x, "dtype") else x)
    if found.ndim != 1:
        raise ValueError(f"{name}: expected shape (m,), got {found.shape}")
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {found.dtype}")
    return found.astype(np.int64)


def _check_counts(counts: Array, name: str) -> None:
    if len(counts) and counts.min() < 0:
        raise ValueError(f"{name}: expected no negative numbers, got {counts.min()}")


def _comparisons(
    n: int, first: Array, second: Array, counts: Array
) -> tuple[Array, Array, Array, Array]:
    """For every player the opponents, in order, with wins over and losses to each."""
    keep = (first != second) & (counts > 0)
    first, second, counts = first[keep], second[keep], counts[keep]
    # Every result twice, from both sides, then those of the same two players together.
    pairs = np.concatenate([first * n + second, second * n + first])
    unique, place = np.unique(pairs, return_inverse=True)
    m = len(first)
    wins = np.bincount(place[:m], counts, len(unique)).astype(np.float64)
    losses = np.bincount(place[m:], counts, len(unique)).astype(np.float64)
    start = np.searchsorted(unique, np.arange(n + 1, dtype=np.int64) * n)
    return start.astype(np.int64), unique % n, wins, losses
