"""Where a solve starts: what `init=` may be, as scalings of the columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean._array import Input, to_numpy
from mckean.transport._problem import Doubles, Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._start import centred, log_weights, met_exactly, scalings_of

__all__ = ["gaussian_potential", "start"]


def start(
    init: Any,
    problem: Problem,
    x: Input | None = None,
    y: Input | None = None,
    power: float = 2.0,
    unbalanced: tuple[Doubles, Doubles] | None = None,
) -> Doubles | None:
    """Column scalings (batch, m), or None for zero potentials."""
    if init is None:
        return None
    met = met_exactly(problem, unbalanced)
    if isinstance(init, str):
        if init != "gaussian":
            raise ValueError(
                f"init: expected potentials, a result, a function, 'gaussian' or 'epsscale', got {init!r}"
            )
        if x is None or y is None or power != 2.0:
            raise ValueError("init: expected points and p=2 with 'gaussian'")
        return scalings_of(_gaussian(problem, x, y), problem.b, problem.eps)
    if isinstance(init, SinkhornResult):
        # Its own float64 numbers: those of float32 arrays, over eps, have lost digits.
        return scalings_of(
            _potential(init._g if len(init._g) > 1 else init._g[0], problem, "g", met)[0],
            problem.b,
            problem.eps,
        )
    if isinstance(init, (tuple, list)) and len(init) == 2 and np.ndim(init[0]) >= 1:
        _potential(init[0], problem, "f", met)
        return scalings_of(_potential(init[1], problem, "g", met)[0], problem.b, problem.eps)
    if callable(init):
        own = problem.at
        weights = (
            own.framework.asarray(
                np.ascontiguousarray(w if problem.batched else w[0], own.dtype), own.device
            )
            for w in (problem.a, problem.b)
        )
        init = init(None if x is None else x.array, None if y is None else y.array, *weights)
        return scalings_of(_potential(init, problem, "g", met)[0], problem.b, problem.eps)
    found, which = _potential(init, problem, "gf", met)
    if which == "g":
        return scalings_of(found, problem.b, problem.eps)
    # A half step makes the other potential.
    F, log_b = scalings_of(found, problem.a, problem.eps), log_weights(problem.b)
    log_sum = problem.transform(F, np.zeros_like(log_b), columns=True)
    power_b = np.ones(problem.batch)
    if unbalanced is not None:
        power_b = 1.0 / (1.0 + problem.eps / unbalanced[1])
    return np.asarray(power_b[:, None] * log_sum + log_b)


def _potential(values: Any, problem: Problem, names: str, met: Any) -> tuple[Doubles, str]:
    """A potential, (batch, size), and which of these ("g", "f" or "gf") its size says it is. Where marginals are `met`
    (batch,) its mean is taken out."""
    try:
        found = to_numpy(values).astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"init: expected potentials, got {type(values).__name__}") from None
    masses = {"f": problem.a, "g": problem.b}
    for name in names:
        mass = masses[name]
        if found.shape == mass.shape[1:] or (problem.batched and found.shape == mass.shape):
            break
    else:
        lead = f"({problem.batch}, {{}})" if problem.batched else "({},)"
        sizes = dict.fromkeys(lead.format(masses[name].shape[1]) for name in names)
        raise ValueError(
            f"init: expected a potential of shape {' or '.join(sizes)}, got {found.shape}"
        )
    found = np.array(np.broadcast_to(found, mass.shape), order="C")
    found[mass == 0] = 0.0  # where there is no weight it says nothing, and may be infinite
    if not np.isfinite(found).all():
        raise ValueError("init: expected finite potentials, got NaN or infinity")
    found = centred(found, mass, met)
    found[mass == 0] = 0.0
    return found, name


def _gaussian(problem: Problem, x: Input, y: Input) -> Doubles:
    shape = (problem.batch, -1, problem.dim)
    clouds = (to_numpy(t.array).astype(np.float64).reshape(shape) for t in (x, y))
    each = zip(*clouds, problem.a, problem.b, problem.eps, strict=True)
    return np.stack([gaussian_potential(*one) for one in each])


def gaussian_potential(x: Doubles, y: Doubles, a: Doubles, b: Doubles, eps: float) -> Doubles:
    """The potential g at `y` (m,) of the squared distance between Gaussians with the moments of both clouds.

    With A, B the covariances, s = eps / 2 and D = (4 A^(1/2) B A^(1/2) + s^2)^(1/2) it is
    z' (1 - 2 A^(1/2) (D + s)^(-1) A^(1/2)) z + 2 <z, mean of y - mean of x>, z = y - mean of y, up to a constant: no
    covariance is inverted, so that clouds may be flat.
    """
    a, b, s = a / a.sum(), b / b.sum(), 0.5 * eps
    mean_x, mean_y = a @ x, b @ y
    u, z = x - mean_x, y - mean_y
    values, vectors = np.linalg.eigh((u * a[:, None]).T @ u)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    values, vectors = np.linalg.eigh(4.0 * root @ ((z * b[:, None]).T @ z) @ root)
    half = root @ vectors
    inner = (half / (np.sqrt(np.maximum(values, 0.0) + s * s) + s)) @ half.T
    return np.asarray((z * z).sum(1) - 2.0 * ((z @ inner) * z).sum(1) + 2.0 * z @ (mean_y - mean_x))
