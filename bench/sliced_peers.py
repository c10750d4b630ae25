"""The sliced distances as the peers of `bench_sliced` do them: `BUILD[peer]` returns a function that runs one.

All project on the same directions, given from outside, and work on as many slices at once as `slab` says.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

# By what has to be installed; "pot" solves another problem with the same sort and has a table of its own as well.
PEERS = {
    "numpy": ("numpy", "numpy packed"),
    "torch": ("torch",),
    "reference": ("reference",),
    "pot": ("POT value", "POT grad"),
}
SLAB = 2**23  # projections held at a time; copies and 64-bit indices come on top
LEAST = (
    32  # but as many slices, as products of fewer would be slow; POT, which takes more memory: 4
)
CHUNK = 2**17  # projections that the NumPy forms sort and scan at a time, the best size


def slab(peer: str, n: int, m: int, slices: int) -> int:
    """Slices that a peer works on at a time."""
    least = 4 if peer.startswith("POT") else LEAST
    return min(slices, max(least, SLAB // (n + m)))


@functools.lru_cache(maxsize=1)
def points(n: int, m: int, d: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Normal clouds x (n, d) and y (m, d), one shifted by a half in every coordinate."""
    g = np.random.default_rng(n + d)
    x, y = (g.standard_normal((size, d), dtype=dtype) for size in (n, m))
    x += np.dtype(dtype).type(0.5)
    return x, y


def constant(d: int, r: float = 1.0) -> float:
    """What the mean over directions is multiplied by, so that it is the distance in d dimensions."""
    log = math.lgamma((d + r) / 2) - math.lgamma(d / 2) - math.lgamma((r + 1) / 2)
    return math.sqrt(math.pi) * math.exp(log)


# ---- oracles, in float64 ------------------------------------------------------------------------------------------------


def exact(
    x: np.ndarray, y: np.ndarray, xi: np.ndarray, rows: int | None = None
) -> tuple[float, np.ndarray]:
    """Sliced energy distance and the first `rows` of its gradient, slice by slice in float64."""
    (n, d), m, xi = x.shape, len(y), xi.astype(np.float64)
    rows = n if rows is None else min(rows, n)
    total, grad = 0.0, np.zeros((rows, d))
    for some in range(0, len(xi), 32):
        v = xi[some : some + 32]
        z = np.concatenate([_product(v, x), _product(v, y)], 1)
        g = np.empty((len(z), n))
        for row, at in zip(z, g, strict=True):
            order = np.argsort(row, kind="stable")
            steps = np.where(order < n, -1 / n, 1 / m)
            after = np.cumsum(steps)
            total += 2 * np.dot(np.diff(row[order]), after[:-1] ** 2)
            own = order < n
            at[order[own]] = (2 / n) * (2 * after[own] + 1 / n)
        for lo in range(0, rows, 2**14):
            hi = min(lo + 2**14, rows)
            grad[lo:hi] += g[:, lo:hi].T @ v
    c = constant(d) / len(xi)
    grad *= c
    return c * total, grad


def _product(xi: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Projections in float64, without a float64 copy of all points."""
    out = np.empty((len(xi), len(x)))
    for lo in range(0, len(x), 2**14):
        np.matmul(xi, x[lo : lo + 2**14].astype(np.float64).T, out=out[:, lo : lo + 2**14])
    return out


def direct(
    x: np.ndarray, y: np.ndarray, xi: np.ndarray, r: float, *, block: int = 256
) -> tuple[float, np.ndarray]:
    """D2_r and its gradient from all pairs of projections, in the dtype given: the O(n^2) form of a slice."""
    (n, d), m = x.shape, len(y)
    z = np.concatenate([x, y]) @ xi.T
    s = np.concatenate([np.full(n, -1 / n), np.full(m, 1 / m)]).astype(x.dtype)
    total, grad = 0.0, np.zeros_like(x)
    c = constant(d, r) / len(xi)
    for p, row in enumerate(z.T):
        g = np.empty(n, x.dtype)
        for lo in range(0, n + m, block):
            t = row[lo : lo + block, None] - row
            size = np.abs(t)
            power = size**r
            total -= float(s[lo : lo + block] @ (power @ s))
            if lo < n:
                rows = min(block, n - lo)
                t, size = t[:rows], np.maximum(size[:rows], np.finfo(x.dtype).tiny)
                g[lo : lo + rows] = (
                    -2 * r * s[lo : lo + rows] * ((power[:rows] / size * np.sign(t)) @ s)
                )
        grad += np.outer(g, (c * xi[p]).astype(x.dtype))
    return c * total, grad


# ---- peers --------------------------------------------------------------------------------------------------------------


def _order(z: np.ndarray, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows and where their entries were."""
    if not packed:
        order = np.argsort(z, axis=1)
        return np.take_along_axis(z, order, axis=1), order
    # Order-preserving integers of the floats with the index in the low half: sorting 64-bit integers is NumPy's fastest.
    bits = z.view(np.int32)
    bits = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    record = bits.astype(np.int64)
    record <<= 32
    record |= np.arange(z.shape[1])
    record.sort(axis=1)
    order = record & 0xFFFFFFFF
    record >>= 32
    bits = record.astype(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits.view(np.float32), order


def _numpy(
    packed: bool, x: np.ndarray, y: np.ndarray, xi: np.ndarray, wide: int
) -> Callable[[], Any]:
    (n, d), m, slices = x.shape, len(y), len(xi)
    equal = n == m
    few = max(1, min(wide, CHUNK // (n + m)))
    z = np.empty((wide, n + m), x.dtype)
    g = np.empty((wide, n), x.dtype)
    total = np.empty(x.shape, x.dtype)
    part = np.empty_like(total) if wide < slices else None
    rank = np.arange(n, dtype=np.int64)
    c = constant(d) / slices

    def run() -> tuple[float, np.ndarray]:
        value = 0.0
        for lo in range(0, slices, wide):
            v = xi[lo : lo + wide]
            z[: len(v), :n] = v @ x.T
            z[: len(v), n:] = v @ y.T
            for at in range(0, len(v), few):
                rows = min(few, len(v) - at)
                points, order = _order(z[at : at + rows], packed)
                own = order < n
                below = np.cumsum(own, axis=1, dtype=np.int32)
                if equal:
                    k = np.arange(1, 2 * n + 1, dtype=np.int32)
                    step = (k - 2 * below).astype(x.dtype)
                    step *= x.dtype.type(1 / n)
                else:
                    k = np.arange(1, n + m + 1)
                    step = ((k - below) / m - below / n).astype(x.dtype)
                step = step[:, :-1]
                value += float(
                    np.einsum("ij,ij,ij->", np.diff(points, axis=1), step, step, dtype=np.float64)
                )
                # The j-th point x of a row stands at place k: k - j points y and j points x are below it.
                place = np.flatnonzero(own.ravel()).reshape(rows, n)
                index = order.ravel()[place]
                place -= np.arange(0, rows * (n + m), n + m)[:, None]
                place -= rank
                here = place * (4 / (n * m)) - (4 * rank + 2) / n**2
                np.put_along_axis(
                    g[at : at + rows], index, here.astype(x.dtype, copy=False), axis=1
                )
            if lo == 0:
                np.matmul(g[: len(v)].T, v, out=total)
            else:
                np.matmul(g[: len(v)].T, v, out=part)
                np.add(total, part, out=total)
        return 2 * c * value, np.multiply(total, x.dtype.type(c))

    return run


def _torch(x: np.ndarray, y: np.ndarray, xi: np.ndarray, size: int) -> Callable[[], Any]:
    import torch

    (n, d), m, slices = x.shape, len(y), len(xi)
    tx, ty, v = (torch.from_numpy(a) for a in (x, y, xi))
    k = torch.arange(1, n + m + 1, dtype=torch.int32 if n == m else torch.float64)
    c = constant(d) / slices

    def run() -> tuple[float, Any]:
        value, total = 0.0, torch.zeros_like(tx)
        for lo in range(0, slices, size):
            some = v[lo : lo + size]
            z, order = torch.sort(torch.cat([some @ tx.T, some @ ty.T], 1), dim=1)
            below = torch.cumsum(order < n, 1, dtype=torch.int32)
            step = (
                (k - 2 * below).to(z.dtype) / n
                if n == m
                else (k / m - below.double() * (1 / m + 1 / n)).to(z.dtype)
            )
            gaps = torch.diff(z, dim=1)
            value += float(
                torch.sum(gaps.mul_(step[:, :-1]).mul_(step[:, :-1]), dtype=torch.float64)
            )
            g = torch.empty_like(z).scatter_(1, order, step.mul_(2).add_(1 / n))[:, :n]
            total.addmm_(g.T, some)
        return 2 * c * value, total.mul_(2 * c / n)

    return run


def _reference(x: np.ndarray, y: np.ndarray, xi: np.ndarray, size: int) -> Callable[[], Any]:
    """Three sorts of a slice: x gives the ranks of the repulsion, x and y with the union the attraction. No value."""
    import torch

    (n, d), m, slices = x.shape, len(y), len(xi)
    tx, ty, v = (torch.from_numpy(a) for a in (x, y, xi))
    rank = torch.arange(n)
    c = constant(d) / slices

    def run() -> tuple[None, Any]:
        total = torch.zeros_like(tx)
        for lo in range(0, slices, size):
            some = v[lo : lo + size]
            zx, index = torch.sort(some @ tx.T, dim=1)
            zy, _ = torch.sort(some @ ty.T, dim=1)
            _, order = torch.sort(torch.cat([zx, zy], 1), dim=1)
            place = torch.empty_like(order)
            place.scatter_(1, order, torch.arange(n + m).expand_as(order).contiguous())
            below = place[:, :n] - rank  # points y below the k-th point x
            attraction = (2 * below - m).to(tx.dtype) * (1 / (n * m))
            repulsion = (2 * rank - n + 1).to(tx.dtype) * (1 / n**2)
            g = torch.empty_like(zx).scatter_(1, index, attraction - repulsion)
            total.addmm_(g.T, some)
        return None, total.mul_(2 * c)

    return run


def pot_value(
    x: np.ndarray, y: np.ndarray, xi: np.ndarray, size: int, p: float = 2
) -> Callable[[], Any]:
    """Sliced Wasserstein distance, in NumPy: another quantity, from the same projections and a sort."""
    import ot

    v = np.ascontiguousarray(xi.T)

    def run() -> tuple[float, None]:
        total = 0.0
        for lo in range(0, len(xi), size):
            some = v[:, lo : lo + size]
            found = float(ot.sliced_wasserstein_distance(x, y, projections=some, p=p))
            total += found**p * some.shape[1] / len(xi)
        return total ** (1 / p), None

    return run


def pot_gradient(
    x: np.ndarray, y: np.ndarray, xi: np.ndarray, size: int, p: float = 2
) -> Callable[[], Any]:
    """The same in torch with automatic differentiation."""
    import ot
    import torch

    tx, ty, v = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, y, xi.T))

    def run() -> tuple[float, Any]:
        leaf, total = tx.detach().requires_grad_(), 0.0
        for lo in range(0, len(xi), size):
            some = v[:, lo : lo + size]
            found = ot.sliced_wasserstein_distance(leaf, ty, projections=some, p=p) ** p
            part = found * (some.shape[1] / len(xi))
            part.backward()
            total += float(part.detach())
        return total ** (1 / p), leaf.grad * (total ** (1 / p - 1) / p)

    return run


BUILD: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, int], Callable[[], Any]]] = {
    "numpy": functools.partial(_numpy, False),
    "numpy packed": functools.partial(_numpy, True),
    "torch": _torch,
    "reference": _reference,
    "POT value": pot_value,
    "POT grad": pot_gradient,
}


def torch_batch(x: np.ndarray, y: np.ndarray, xi: np.ndarray) -> Callable[[], Any]:
    """Clouds x (batch, n, d) against y (batch, n, d) in one sort."""
    import torch

    n, d = x.shape[1:]
    tx, ty, v = (torch.from_numpy(a) for a in (x, y, xi))
    k = torch.arange(1, 2 * n + 1, dtype=torch.int32)
    c = constant(d) / len(xi)

    def run() -> tuple[Any, Any]:
        z, order = torch.sort(torch.cat([v @ tx.mT, v @ ty.mT], 2), dim=2)
        step = (k - 2 * torch.cumsum(order < n, 2, dtype=torch.int32)).to(z.dtype) / n
        value = (torch.diff(z, dim=2) * step[..., :-1].square()).sum((1, 2), dtype=torch.float64)
        g = torch.empty_like(z).scatter_(2, order, step.mul_(2).add_(1 / n))[..., :n]
        return 2 * c * value, (g.mT @ v).mul_(2 * c / n)

    return run


def offers(peer: str, dtype: str) -> bool:
    return peer != "numpy packed" or dtype == "float32"
