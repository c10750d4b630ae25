"""The random batch method: O(n b) estimates of sums over all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean import random
from mckean._array import as_match
from mckean._errors import as_count, as_seed
from mckean.interaction._sums import as_points, kernel_grad, kernel_sum
from mckean.kernels import Kernel

__all__ = ["random_batch_sum"]

_STREAM = 0x72616E62617463  # of mk.random


def random_batch_sum(
    k: Kernel,
    x: Any,
    weights: Any = None,
    *,
    batch_size: int,
    seed: Any = 0,
    counter: int = 0,
    gradient: bool = False,
) -> Any:
    """Estimate ``kernel_sum(k, x, x, weights, exclude_self=True)`` from random batches, at cost O(n b).

    The particles are permuted and cut into batches of about `batch_size`; each interacts with its own batch only, and
    the sum is multiplied by (n - 1) / (b - 1), which makes it unbiased (Jin, Li, Liu, "Random batch methods for
    interacting particle systems"). For dynamics, use the step as `counter`: every step then has its own permutation,
    and the dynamics' weak error stays O(step) for smooth kernels.

    Parameters
    ----------
    k : mk.kernels.Kernel
    x : array, shape (n, d), n >= 2, float32 or float64
    weights : array, shape (n,), optional
        Default: ones.
    batch_size : int
        2 to n. Batches differ in size by at most one where it does not divide n.
    seed : int or numpy.random.SeedSequence, optional
    counter : int, optional
        The permutation is a pure function of `seed` and `counter`.
    gradient : bool, optional
        Estimate `kernel_grad` instead.

    Returns
    -------
    array, shape (n,), or (n, d) for the gradient
        Framework, dtype and device of `x`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or holds NaN or infinities.

    Examples
    --------
    With one batch of everything the sum is exact, up to the order of the terms:

    >>> import numpy as np
    >>> import mckean as mk
    >>> x = np.array([[0.0], [1.0], [2.0]])
    >>> mk.random_batch_sum(mk.kernels.Energy(), x, batch_size=3)
    array([-3., -2., -3.])
    """
    at = as_points(x, "x")
    if len(at.shape) != 2 or at.shape[0] < 2:
        raise ValueError(f"x: expected shape (n, d), n >= 2, got {at.shape}")
    n = at.shape[0]
    size = as_count(batch_size, "batch_size", least=2)
    if size > n:
        raise ValueError(f"batch_size: expected at most the {n} points of x, got {size}")
    w = None if weights is None else as_match(weights, "weights", at, "x", shape=(n,)).array
    keys = random.uniform(as_seed(seed), n, stream=_STREAM, counter=counter)
    order = np.argsort(keys, kind="stable")
    framework = at.framework
    batches = n // size
    rest, size = n % batches, n // batches  # `rest` batches have one more
    reduce = kernel_grad if gradient else kernel_sum
    parts = []
    for first, count, b in ((0, rest, size + 1), (rest * (size + 1), batches - rest, size)):
        if count == 0:
            continue
        members = framework.asarray(order[first : first + count * b], at.device)
        points = at.array[members].reshape((count, b, at.shape[1]))
        own = None if w is None else w[members].reshape((count, b))
        part = reduce(k, points, points, own, exclude_self=True)
        parts.append(part.reshape((count * b, *part.shape[2:])) * ((n - 1) / (b - 1)))
    back = framework.asarray(np.argsort(order, kind="stable"), at.device)
    return framework.concatenate(parts)[back]
