"""The interaction sums as the peers of `bench_interaction` do them: `BUILD[peer]` returns a function that runs one."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

PEERS = {
    "numpy": ("numpy_block",),
    "torch": ("torch_block", "torch_dense"),
    "jax": ("jax_block", "jax_dense"),
    "keops": ("keops",),
    "scipy": ("scipy_cdist",),
    "sklearn": ("sklearn",),
}
BLOCK = 2**18  # entries of a row block, the best size of the blocked peers
DENSE = 4_000_000  # entries of the largest matrix that dense peers are asked for


@functools.lru_cache(maxsize=1)
def points(n: int, m: int, d: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x (n, d) and y (m, d) at squared distances around 2, positive weights (m,)."""
    g = np.random.default_rng(n + d)
    x, y = (g.standard_normal((size, d), dtype=dtype) for size in (n, m))
    x *= d**-0.5
    y *= d**-0.5
    return x, y, g.random(m, dtype=dtype) + np.dtype(dtype).type(0.1)


def error(op: str, kernel: str, x: np.ndarray, y: np.ndarray, w: np.ndarray, found: Any) -> float:
    """Largest error of a few rows against float64, over the sum of the terms' norms (lse: absolute)."""
    worst = 0.0
    for i in np.unique(np.linspace(0, len(x) - 1, 8).astype(int)):
        delta = x[i].astype(np.float64) - y
        s = np.einsum("jd,jd->j", delta, delta)
        c = w * _expression(s, op, kernel, np.exp, np.sqrt, lambda u: 1 / np.sqrt(u), log=False)
        row = np.asarray(found[i], np.float64)
        if op == "sum":
            off = abs(row - c.sum()) / abs(c).sum()
        elif op == "grad":
            off = np.linalg.norm(row - c @ delta) / (abs(c) @ np.sqrt(s))
        elif op == "lse":
            off = abs(row - np.log(c.sum()))
        else:
            off = np.linalg.norm(row - c @ y / c.sum()) / (c @ np.linalg.norm(y, axis=1) / c.sum())
        worst = float(np.maximum(worst, off))  # keeps NaN
    return worst


def _expression(
    s: Any, op: str, kernel: str, exp: Any, sqrt: Any, rsqrt: Any, *, log: bool = True
) -> Any:
    """From squared distances the kernel (sum), the factor of x - y in its gradient (grad), else its logarithm."""
    if op in ("lse", "mean") and log:
        return s * -0.5 if kernel == "gaussian" else -sqrt(s)
    if kernel == "gaussian":
        k = exp(s * -0.5)
        return -k if op == "grad" else k
    if kernel == "laplace":
        r = sqrt(s)
        return -exp(-r) / r if op == "grad" else exp(-r)
    if kernel == "imq":
        k = rsqrt(s + 1.0)
        return -(k * k * k) if op == "grad" else k
    return -rsqrt(s) if op == "grad" else -sqrt(s)


# ---- peers ------------------------------------------------------------------------------------------------------------


def _by_differences(op: str, kernel: str, d: int) -> bool:
    """Whether coordinate differences beat a matrix product as the way to distances, or are needed near s = 0."""
    return d <= 3 and (op in ("sum", "lse") or kernel in ("laplace", "energy"))


def _in_place(xp: Any, s: Any, op: str, kernel: str) -> None:
    """`_expression` for NumPy and torch, in the memory of s; where all values are negative, without the sign."""
    values = op in ("sum", "grad")
    if kernel == "gaussian":
        s *= -0.5
    elif kernel == "imq":
        s += 1.0
    if kernel == "imq" and op == "grad":
        s *= xp.sqrt(s)
    elif kernel != "gaussian":
        xp.sqrt(s, out=s)
    if kernel == "imq" or (kernel == "energy" and op == "grad"):
        xp.reciprocal(s, out=s)
    if kernel == "laplace":
        r = s * 1.0 if op == "grad" else None
        s *= -1.0
    if kernel in ("gaussian", "laplace") and values:
        xp.exp(s, out=s)
    if kernel == "laplace" and op == "grad":
        s /= r


def _blocked(
    xp: Any, op: str, kernel: str, x: Any, y: Any, w: Any, rows: int, distances: Any = None
) -> Callable[[], Any]:
    """NumPy or torch on blocks of rows, in place and with the weights inside the last product."""
    (n, d), m = x.shape, len(y)
    rows = min(rows, n)
    wide = op in ("grad", "mean")
    if op == "grad" or kernel == "energy":
        w = -w
    columns = xp.concatenate((y * w[:, None], w[:, None]), 1) if wide else w
    direct = _by_differences(op, kernel, d)
    buffer = xp.empty((rows, m), dtype=x.dtype)
    part = xp.empty((rows, m), dtype=x.dtype) if direct and distances is None else None
    one_x, one_y = xp.ones((n, 1), dtype=x.dtype), xp.ones((m, 1), dtype=x.dtype)
    if distances is None and not direct:  # |x|^2 + |y|^2 - 2 x.y as one product
        left = xp.concatenate((x * -2.0, (x * x).sum(1)[:, None], one_x), 1)
        right = xp.concatenate((y, one_y, (y * y).sum(1)[:, None]), 1).T
    out = xp.empty((n, d) if wide else (n,), dtype=x.dtype)

    def squares(lo: int, hi: int) -> Any:
        s = buffer[: hi - lo]
        if distances is not None:
            return distances(x[lo:hi], y)
        if not direct:
            xp.matmul(left[lo:hi], right, out=s)
            return xp.clip(s, 1e-12 if op == "grad" else 0.0, None, out=s)
        xp.subtract(x[lo:hi, :1], y[:, 0], out=s)
        s *= s
        for k in range(1, d):
            t = part[: hi - lo]
            xp.subtract(x[lo:hi, k : k + 1], y[:, k], out=t)
            t *= t
            s += t
        return s

    def run() -> Any:
        for lo in range(0, n, rows):
            hi = min(lo + rows, n)
            s = squares(lo, hi)
            _in_place(xp, s, op, kernel)
            if op in ("lse", "mean"):
                top = xp.amax(s, 1)
                s -= top[:, None]
                xp.exp(s, out=s)
            r = s @ columns
            if op == "grad":
                r = x[lo:hi] * r[:, -1:] - r[:, :-1]
            elif op == "mean":
                r = r[:, :-1] / r[:, -1:]
            out[lo:hi] = top + xp.log(r) if op == "lse" else r
        return out

    return run


def _numpy(op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    return _blocked(np, op, kernel, x, y, w, max(1, BLOCK // len(y)))


def _torch(dense: bool, op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    import torch

    def squares(a: Any, b: Any) -> Any:
        return torch.cdist(a, b).square_()

    x, y, w = map(torch.from_numpy, (x, y, w))
    rows = len(x) if dense else max(1, BLOCK // len(y))
    return _blocked(torch, op, kernel, x, y, w, rows, squares if dense else None)


def _scipy(op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    from scipy.spatial.distance import cdist

    return _blocked(np, op, kernel, x, y, w, len(x), lambda a, b: cdist(a, b, "sqeuclidean"))


def _sklearn(op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    if op == "sum":
        from sklearn.metrics.pairwise import rbf_kernel

        return lambda: rbf_kernel(x, y, gamma=0.5) @ w
    from sklearn.neighbors import KernelDensity

    shape = "gaussian" if kernel == "gaussian" else "exponential"
    fitted = KernelDensity(bandwidth=1.0, kernel=shape, rtol=0.0, atol=0.0).fit(y, sample_weight=w)
    return lambda: fitted.score_samples(x)


def _jax(dense: bool, op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    (n, d), rows = x.shape, min(len(x), max(1, BLOCK // len(y)))
    blocks = -(-n // rows)

    def block(x: Any, y: Any, w: Any) -> Any:
        if _by_differences(op, kernel, d):
            s = sum((x[:, k, None] - y[None, :, k]) ** 2 for k in range(d))
        else:
            s = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * x @ y.T
            s = jnp.maximum(s, 1e-12 if op == "grad" else 0.0)
        c = _expression(s, op, kernel, jnp.exp, jnp.sqrt, jax.lax.rsqrt)
        if op == "sum":
            return c @ w
        if op == "grad":
            c = c * w
            return x * c.sum(1)[:, None] - c @ y
        top = c.max(1)
        c = jnp.exp(c - top[:, None])
        return top + jnp.log(c @ w) if op == "lse" else (c @ (y * w[:, None])) / (c @ w)[:, None]

    def blockwise(x: Any, y: Any, w: Any) -> Any:
        parts = jnp.pad(x, ((0, blocks * rows - n), (0, 0))).reshape(blocks, rows, d)
        out = jax.lax.map(lambda part: block(part, y, w), parts)
        return out.reshape(blocks * rows, *out.shape[2:])[:n]

    data = tuple(map(jnp.asarray, (x, y, w)))
    compiled = jax.jit(block if dense else blockwise).lower(*data).compile()
    return lambda: jax.block_until_ready(compiled(*data))


def _keops(op: str, kernel: str, x: Any, y: Any, w: Any) -> Callable[[], Any]:
    from pykeops.numpy import LazyTensor

    exp, sqrt, rsqrt = map(operator.methodcaller, ("exp", "sqrt", "rsqrt"))
    weights = np.log(w) if op in ("lse", "mean") else w

    def run(x: Any = x) -> Any:
        xi, yj = LazyTensor(x[:, None]), LazyTensor(y[None])
        wj = LazyTensor(weights[None, :, None])
        c = _expression(((xi - yj) ** 2).sum(-1), op, kernel, exp, sqrt, rsqrt)
        if op == "sum":
            return (c * wj).sum(axis=1)[:, 0]
        if op == "grad":
            return ((xi - yj) * (c * wj)).sum(axis=1)
        c = c + wj
        return c.logsumexp(axis=1)[:, 0] if op == "lse" else c.sumsoftmaxweight(yj, axis=1)

    run(x[:2])  # compiles the formula, or finds it in the cache of an earlier run
    return run


BUILD = {
    "numpy_block": _numpy,
    "torch_block": functools.partial(_torch, False),
    "torch_dense": functools.partial(_torch, True),
    "jax_block": functools.partial(_jax, False),
    "jax_dense": functools.partial(_jax, True),
    "keops": _keops,
    "scipy_cdist": _scipy,
    "sklearn": _sklearn,
}


def offers(peer: str, op: str, kernel: str, n: int) -> bool:
    if peer in ("torch_dense", "jax_dense", "scipy_cdist") or (peer == "sklearn" and op == "sum"):
        if n * n > DENSE:
            return False
    return peer != "sklearn" or op == "lse" or (op, kernel) == ("sum", "gaussian")
