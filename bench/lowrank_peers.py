"""Low-rank models as the peers of `bench_lowrank` make and apply them.

`EIGEN[peer](operator, k, tol)` gives a function that returns the k largest eigenvalues and the products with single vectors that
they took (None where nobody counts); `BATCHED[peer]`, `NYSTROM[peer]` and `FUSED[peer]` give functions that return arrays.
Whatever can be made beforehand is: compiled code, start vectors, copies in the layout that the peer likes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import lowrank
from mckean.lowrank import _native as native

# By what has to be installed.
PEERS = {
    "numpy": ("NumPy",),
    "scipy": ("eigsh", "lobpcg"),
    "sklearn": ("rsvd 2", "rsvd 4", "rsvd 7"),
    "torch": ("torch lobpcg", "torch"),
    "jax": ("jax lobpcg", "jax lobpcg tol/d", "jax"),
}
COMPILED = ("jax lobpcg", "jax lobpcg tol/d")  # for every operator, size and rank
FORMS = ("orthonormal", "sqrt_solve", "Cholesky", "eigen")
DAMPING = 0.5
LARGEST, LEAST = 50.0, 5.0  # of the eigenvalues that stand out

Run = Callable[[], Any]


# ---- operators whose eigenvalues are known ------------------------------------------------------------------------------


@dataclass(eq=False)
class Operator:
    """diag(values) between two pairs of reflections, which makes it a diagonal plus a matrix of rank 4."""

    values: np.ndarray  # in decreasing order, float64
    diagonal: np.ndarray
    rows: np.ndarray  # (4, d)
    core: np.ndarray  # (4, 4)
    products: int = 0

    @property
    def d(self) -> int:
        return len(self.diagonal)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.diagonal.dtype

    @property
    def shape(self) -> tuple[int, int]:
        return self.d, self.d

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        """A x for x (d,) or (d, p)."""
        if x.ndim == 1:
            self.products += 1
            out = self.diagonal * x
            out += (self.core @ (self.rows @ x)) @ self.rows
            return out
        self.products += x.shape[1]
        out = self.diagonal[:, None] * x
        out += self.rows.T @ (self.core @ (self.rows @ x))
        return out

    def dense(self) -> np.ndarray:
        return np.diag(self.diagonal) + self.rows.T @ self.core @ self.rows


def reflected(values: np.ndarray, dtype: str) -> Operator:
    """The operator with these eigenvalues."""
    g = np.random.default_rng(0)
    diagonal = values.astype(np.float64)
    rows, core = np.zeros((4, len(values))), np.zeros((4, 4))
    for at in (0, 2):  # (I - 2 v v^T) B (I - 2 v v^T)
        v = g.standard_normal(len(values))
        v /= np.linalg.norm(v)
        image = diagonal * v + (core @ (rows @ v)) @ rows
        rows[at], rows[at + 1] = v, image
        core[at, at], core[at, at + 1], core[at + 1, at] = 4 * v @ image, -2, -2
    return Operator(values, *(a.astype(dtype) for a in (diagonal, rows, core)))


@functools.lru_cache(maxsize=1)
def spiked(d: int, k: int, dtype: str) -> Operator:
    """k eigenvalues from LARGEST down to LEAST above a bulk in [0, 1]."""
    bulk = np.sort(np.random.default_rng(1).uniform(0, 1, d - k))[::-1]
    return reflected(np.concatenate([np.linspace(LARGEST, LEAST, k), bulk]), dtype)


@functools.lru_cache(maxsize=1)
def full(d: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A dense symmetric matrix with the eigenvalues of `spiked`, and those."""
    values = spiked(d, k, "float64").values
    Q = np.linalg.qr(np.random.default_rng(2).standard_normal((d, d)))[0]
    A = (Q * values) @ Q.T
    return np.ascontiguousarray((A + A.T) / 2, dtype), values


@functools.lru_cache(maxsize=1)
def decaying(d: int, dtype: str) -> Operator:
    """Positive eigenvalues 100 i^(-3/2)."""
    return reflected(100 * np.arange(1.0, d + 1) ** -1.5, dtype)


# ---- leading eigenvalues ------------------------------------------------------------------------------------------------
# Residuals: relative to each eigenvalue where a solver can do that, else to the largest one, which is enough for eigenvalues: their
# errors go with the squares. SciPy's lobpcg breaks down where float32 cannot give what is asked.

Eigen = Callable[[], tuple[np.ndarray, int | None]]


def _start(op: Any, columns: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((op.shape[0], columns)).astype(op.dtype)


def _counted(op: Any, run: Callable[[], np.ndarray]) -> tuple[np.ndarray, int | None]:
    if not isinstance(op, Operator):
        return run(), None
    op.products = 0
    return run(), op.products


def ours(op: Any, k: int, tol: float) -> Eigen:
    def run() -> Any:
        model = lowrank.lanczos(op, op.shape[0], k, tol=tol, dtype=str(op.dtype))
        return np.asarray(model.s), int(model.n_matvecs)

    return run


def numpy_lanczos(op: Any, k: int, tol: float) -> Eigen:
    """Recurrence, then one pass of Gram-Schmidt: the fewest reads of the basis that keep it orthogonal."""
    d = op.shape[0]
    start = _start(op, 1)[:, 0]
    start /= np.linalg.norm(start)
    most = min(d, 6 * k + 60)

    def run() -> Any:
        V = np.empty((most + 1, d), op.dtype)
        T = np.zeros((most + 1, most + 1))
        V[0] = start
        for j in range(most):
            w = op @ V[j]
            alpha = V[j] @ w
            w -= alpha * V[j]
            if j:
                w -= op.dtype.type(T[j, j - 1]) * V[j - 1]
            h = V[: j + 1] @ w
            w -= h @ V[: j + 1]
            T[j, j] = alpha + h[j]
            T[j, j + 1] = T[j + 1, j] = beta = float(np.linalg.norm(w))
            m = j + 1
            if (m > k and (m - k) % 4 == 1) or m == most:
                theta, S = np.linalg.eigh(T[:m, :m])
                if (beta * abs(S[-1, -k:]) <= tol * abs(theta[-k:])).all() or m == most:
                    vectors = V[:m].T @ S[:, -k:].astype(op.dtype)
                    return theta[-k:][::-1], m, vectors
            V[j + 1] = w / beta

    return lambda: run()[:2]


def eigsh(op: Any, k: int, tol: float) -> Eigen:
    from scipy.sparse import linalg

    A = linalg.LinearOperator(op.shape, matvec=op.__matmul__, dtype=op.dtype)
    v0 = _start(op, 1)[:, 0]
    return lambda: _counted(op, lambda: linalg.eigsh(A, k, which="LA", tol=tol, v0=v0)[0][::-1])


def lobpcg(op: Any, k: int, tol: float) -> Eigen:
    from scipy.sparse import linalg

    A = linalg.LinearOperator(op.shape, matvec=op.__matmul__, matmat=op.__matmul__, dtype=op.dtype)
    X, tol = _start(op, k), tol * LARGEST

    def run() -> Any:
        return linalg.lobpcg(A, X, tol=tol, maxiter=300, largest=True)[0]

    return lambda: _counted(op, run)


def _sparse(op: Any) -> Any:
    """For those that want a matrix: the diagonal one of the same eigenvalues, cheaper to multiply by."""
    from scipy import sparse

    if isinstance(op, Operator):
        return sparse.diags_array(op.values.astype(op.dtype)).tocsr()
    return op


def rsvd(power: int, op: Any, k: int, tol: float) -> Eigen:
    from sklearn.utils.extmath import randomized_svd

    A = _sparse(op)
    products = (2 * power + 2) * (k + 10)
    return lambda: (randomized_svd(A, k, n_iter=power, random_state=0)[1], products)


def torch_lobpcg(op: Any, k: int, tol: float) -> Eigen:
    import torch

    X = torch.from_numpy(_start(op, k))
    if isinstance(op, Operator):
        at = torch.arange(op.d)
        values = torch.from_numpy(op.values.astype(op.dtype))
        A = torch.sparse_coo_tensor(
            torch.stack([at, at]), values, op.shape, check_invariants=True
        ).coalesce()
    else:
        A = torch.from_numpy(op)
    return lambda: (
        torch.lobpcg(A, k, X=X, tol=tol, niter=100, largest=True)[0].numpy(),
        None,
    )


def jax_lobpcg(op: Any, k: int, tol: float) -> Eigen:
    import jax.numpy as jnp
    from jax.experimental.sparse.linalg import lobpcg_standard

    if isinstance(op, Operator):
        diagonal, rows, core = (jnp.asarray(a) for a in (op.diagonal, op.rows, op.core))

        def A(x: Any) -> Any:
            return diagonal[:, None] * x + rows.T @ (core @ (rows @ x))

    else:
        A = jnp.asarray(op)
    X = jnp.asarray(_start(op, k))
    return lambda: (np.asarray(lobpcg_standard(A, X, m=300, tol=tol)[0]), None)


EIGEN: dict[str, Callable[[Any, int, float], Eigen]] = {
    "mckean": ours,
    "NumPy": numpy_lanczos,
    "eigsh": eigsh,
    "lobpcg": lobpcg,
    "rsvd 2": functools.partial(rsvd, 2),
    "rsvd 4": functools.partial(rsvd, 4),
    "rsvd 7": functools.partial(rsvd, 7),
    "torch lobpcg": torch_lobpcg,
    "jax lobpcg": jax_lobpcg,
    # Its tolerance goes with d, contrary to what it says.
    "jax lobpcg tol/d": lambda op, k, tol: jax_lobpcg(op, k, tol / op.shape[0]),
}


def off(found: np.ndarray, known: np.ndarray) -> float:
    """The largest relative error of the leading eigenvalues."""
    found = np.sort(np.asarray(found, np.float64))[::-1]
    return float(np.max(abs(found - known[: len(found)]) / known[: len(found)]))


# ---- a model for every item of a batch ----------------------------------------------------------------------------------


def batch(items: int, d: int, k: int, dtype: str, form: str) -> tuple[np.ndarray, ...]:
    """U or W (items, d, k), s (items, k) and b (items, d); few items are drawn, the others are shifts of them."""
    g = np.random.default_rng(4)
    few = min(items, 64)
    W = g.standard_normal((few, d, k)) / math.sqrt(d)
    if form in ("orthonormal", "sqrt_solve"):
        W = np.linalg.qr(W)[0]
    W = np.resize(W.astype(dtype), (items, d, k))
    return W, g.uniform(1, 10, (items, k)).astype(dtype), g.standard_normal((items, d)).astype(dtype)  # fmt: skip


def weights(s: np.ndarray, t: float, form: str) -> tuple[float, np.ndarray]:
    """What the parts outside and inside of the columns of U are multiplied by."""
    if form == "orthonormal":
        return 1 / t, -s / (t * (t + s))
    root = np.sqrt(t + s)
    return t**-0.5, -s / (math.sqrt(t) * root * (math.sqrt(t) + root))


def transposed(W: np.ndarray) -> np.ndarray:
    """Of every item."""
    return W.swapaxes(1, 2)


def batched_ours(W: Any, s: Any, b: Any, form: str) -> Run:
    if form == "Cholesky":
        return lambda: lowrank.woodbury_solve(W, b, DAMPING)
    if form == "eigen":

        def factor() -> Any:
            model = lowrank.from_factor(W)
            return model.U, model.s

        return factor
    model = lowrank.LowRankOperator(W, s)
    solve = model.solve if form == "orthonormal" else model.sqrt_solve
    return lambda: solve(b, DAMPING, axis=-1)


def batched_numpy(W: Any, s: Any, b: Any, form: str) -> Run:
    t, one = b.dtype.type(DAMPING), np.eye(W.shape[2], dtype=W.dtype)

    def project() -> Any:
        return (b[:, None] @ W)[:, 0]

    def spread(c: Any) -> Any:
        return (W @ c[..., None])[..., 0]

    if form == "Cholesky":
        return lambda: (b - spread(np.linalg.solve(transposed(W) @ W + t * one, project()[..., None])[..., 0])) / t  # fmt: skip
    if form == "eigen":

        def factor() -> Any:
            g, Q = np.linalg.eigh(transposed(W) @ W)
            return W @ (Q / np.sqrt(g)[:, None]), g

        return factor
    alpha, w = weights(s, DAMPING, form)
    alpha, w = b.dtype.type(alpha), w.astype(b.dtype)
    return lambda: alpha * b + spread(w * project())


def batched_torch(W: Any, s: Any, b: Any, form: str) -> Run:
    import torch

    alpha, w = weights(s, DAMPING, form if form in FORMS[:2] else "orthonormal")
    W, b, w = (torch.from_numpy(np.ascontiguousarray(a)) for a in (W, b, w.astype(b.dtype)))
    one = torch.eye(W.shape[2], dtype=W.dtype)

    def project() -> Any:
        return torch.bmm(b[:, None], W)

    def spread(c: Any) -> Any:
        return torch.bmm(W, c.mT)[..., 0]

    def cholesky() -> Any:
        L = torch.linalg.cholesky(torch.bmm(W.mT, W) + DAMPING * one)
        return ((b - spread(torch.cholesky_solve(project().mT, L).mT)) / DAMPING).numpy()

    def factor() -> Any:
        g, Q = torch.linalg.eigh(torch.bmm(W.mT, W))
        return torch.bmm(W, Q / g.sqrt()[:, None]).numpy(), g.numpy()

    if form in FORMS[:2]:
        return lambda: (alpha * b + spread(w[:, None] * project())).numpy()
    return cholesky if form == "Cholesky" else factor


def batched_jax(W: Any, s: Any, b: Any, form: str) -> Run:
    import jax
    import jax.numpy as jnp
    from jax.scipy.linalg import cho_solve

    alpha, w = weights(s, DAMPING, form if form in FORMS[:2] else "orthonormal")
    W, b, w = (jnp.asarray(a) for a in (W, b, w.astype(b.dtype)))

    def apply(W: Any, w: Any, b: Any) -> Any:
        return alpha * b + jnp.einsum("bdk,bk->bd", W, w * jnp.einsum("bdk,bd->bk", W, b))

    def cholesky(W: Any, w: Any, b: Any) -> Any:
        G = jnp.einsum("bdk,bdl->bkl", W, W) + DAMPING * jnp.eye(W.shape[2], dtype=W.dtype)
        c = jnp.einsum("bdk,bd->bk", W, b)
        c = cho_solve((jnp.linalg.cholesky(G), True), c[..., None])[..., 0]
        return (b - jnp.einsum("bdk,bk->bd", W, c)) / DAMPING

    def factor(W: Any, w: Any, b: Any) -> Any:
        g, Q = jnp.linalg.eigh(jnp.einsum("bdk,bdl->bkl", W, W))
        return jnp.einsum("bdk,bkl->bdl", W, Q / jnp.sqrt(g)[:, None]), g

    compiled = jax.jit({"Cholesky": cholesky, "eigen": factor}.get(form, apply))
    return lambda: jax.block_until_ready(compiled(W, w, b))


BATCHED = {
    "mckean": batched_ours,
    "NumPy": batched_numpy,
    "torch": batched_torch,
    "jax": batched_jax,
}


def batched_error(W: Any, s: Any, b: Any, form: str, found: Any) -> float:
    """Relative error of the first items, in float64."""
    n = min(len(W), 8)
    W, s, b = (a[:n].astype(np.float64) for a in (W, s, b))
    if form == "eigen":
        U, g = (np.asarray(a, np.float64)[:n] for a in found)
        z = np.random.default_rng(7).standard_normal((W.shape[1], 8))  # d x d may not fit
        known = W @ (transposed(W) @ z)
        off = (U * g[:, None]) @ (transposed(U) @ z) - known
        return float(np.linalg.norm(off) / np.linalg.norm(known))
    found = np.asarray(found, np.float64)[:n]
    if form == "Cholesky":
        x = found[..., None]
        back = (W @ (transposed(W) @ x) + DAMPING * x)[..., 0]
        return float(np.linalg.norm(back - b) / np.linalg.norm(b))
    known = BATCHED["NumPy"](W, s, b, form)()
    return float(np.linalg.norm(found - known) / np.linalg.norm(known))


# ---- Nystrom ------------------------------------------------------------------------------------------------------------


def nystrom_ours(op: Operator, columns: int) -> Run:
    def run() -> Any:
        model = lowrank.nystrom(op, op.d, columns, oversample=0, dtype=str(op.dtype))
        return np.asarray(model.U), np.asarray(model.s)

    return run


def nystrom_numpy(op: Operator, columns: int) -> Run:
    import scipy.linalg

    g = np.random.default_rng(5)

    def run() -> Any:
        omega = np.linalg.qr(g.standard_normal((op.d, columns)).astype(op.dtype))[0]
        Y = op @ omega
        nu = np.finfo(op.dtype).eps * np.linalg.norm(Y)
        Y += nu * omega
        core = omega.T @ Y
        C = np.linalg.cholesky((core + core.T) / 2)
        B = scipy.linalg.solve_triangular(C, Y.T, lower=True, check_finite=False).T
        U, sigma, _ = np.linalg.svd(B, full_matrices=False)
        return U, np.maximum(0, sigma**2 - nu)

    return run


NYSTROM = {"mckean": nystrom_ours, "NumPy": nystrom_numpy}


def distance(op: Operator, U: np.ndarray, s: np.ndarray) -> float:
    """|A - U diag(s) U^T| in the spectral norm, from products."""
    v = np.random.default_rng(6).standard_normal(op.d).astype(op.dtype)
    size = 0.0
    for _ in range(30):
        v /= np.linalg.norm(v)
        v = op @ v - U @ (s * (U.T @ v))
        size = float(np.linalg.norm(v))
    return size


# ---- one model, many particles ------------------------------------------------------------------------------------------
# x + h P g + sqrt(2 h) P^(1/2) z with P = (U diag(s) U^T + t I)^-1 and normal z, rows of x are particles.

STEP = 0.3


@functools.lru_cache(maxsize=1)
def crowd(n: int, d: int, k: int, dtype: str) -> tuple[np.ndarray, ...]:
    g = np.random.default_rng(7)
    U = np.linalg.qr(g.standard_normal((d, k)))[0].astype(dtype)
    x, grad = (g.standard_normal((n, d), dtype=np.float32).astype(dtype) for _ in range(2))
    return np.ascontiguousarray(U), g.uniform(1, 10, k).astype(dtype), x, grad


def fused_ours(U: Any, s: Any, x: Any, grad: Any) -> Run:
    model = lowrank.LowRankOperator(U, s)
    t, out = np.array([DAMPING]), np.empty_like(x)
    counter = iter(range(1 << 62))

    def run() -> Any:
        terms = [
            (native.IDENTITY, 1.0, x[None]),
            (native.SOLVE, STEP, grad[None]),
            (native.SQRT_SOLVE, math.sqrt(2 * STEP), None),
        ]
        native.apply(U, s, t, terms, out[None], model.place, seed=1, counter=next(counter))
        return out

    return run


def _noise(s: np.ndarray) -> tuple[Any, ...]:
    return *weights(s, DAMPING, "orthonormal"), *weights(s, DAMPING, "sqrt_solve")


def fused_numpy(U: Any, s: Any, x: Any, grad: Any) -> Run:
    g = np.random.default_rng(8)
    a, w, b, v = (np.asarray(c, x.dtype) for c in _noise(s))
    h, root = x.dtype.type(STEP), x.dtype.type(math.sqrt(2 * STEP))

    def run() -> Any:
        z = g.standard_normal(x.shape, x.dtype)
        drift, noise = a * grad + (w * (grad @ U)) @ U.T, b * z + (v * (z @ U)) @ U.T
        return x + h * drift + root * noise

    return run


def fused_torch(U: Any, s: Any, x: Any, grad: Any) -> Run:
    import torch

    a, w, b, v = _noise(s)
    w, v = (torch.from_numpy(np.asarray(c, x.dtype)) for c in (w, v))
    U, x, grad = (torch.from_numpy(c) for c in (U, x, grad))

    def run() -> Any:
        z = torch.randn_like(x)
        c = STEP * w * (grad @ U) + math.sqrt(2 * STEP) * v * (z @ U)
        return (x + STEP * a * grad + math.sqrt(2 * STEP) * b * z + c @ U.T).numpy()

    return run


def fused_jax(U: Any, s: Any, x: Any, grad: Any) -> Run:
    import jax
    import jax.numpy as jnp

    a, w, b, v = _noise(s)

    @jax.jit
    def step(key: Any, U: Any, x: Any, grad: Any) -> Any:
        z = jax.random.normal(key, x.shape, x.dtype)
        c = STEP * jnp.asarray(w, x.dtype) * (grad @ U)
        c += math.sqrt(2 * STEP) * jnp.asarray(v, x.dtype) * (z @ U)
        return x + STEP * a * grad + math.sqrt(2 * STEP) * b * z + c @ U.T

    key, given = jax.random.key(0), [jnp.asarray(c) for c in (U, x, grad)]

    def run() -> Any:
        nonlocal key
        key, now = jax.random.split(key)
        return jax.block_until_ready(step(now, *given))

    return run


FUSED = {"mckean": fused_ours, "NumPy": fused_numpy, "torch": fused_torch, "jax": fused_jax}


def covariance_check(run: Run, U: np.ndarray, s: np.ndarray, x: np.ndarray, grad: np.ndarray) -> float:  # fmt: skip
    """By how much the mean square of the noise in a step is off, relative to what it should be."""
    a, w, _, _ = _noise(s.astype(np.float64))
    mean = x + STEP * (a * grad + (w * (grad @ U)) @ U.T)
    d, k = U.shape
    known = 2 * STEP * ((d - k) / DAMPING + (1 / (DAMPING + s.astype(np.float64))).sum()) / d
    return abs(float(np.square(np.asarray(run(), np.float64) - mean).mean()) / known - 1)


def seconds_of_products(op: Any, columns: int) -> Run:
    """One product with a vector, or with a block of them."""
    x = _start(op, columns)
    x = x[:, 0].copy() if columns == 1 else x
    return lambda: op @ x
