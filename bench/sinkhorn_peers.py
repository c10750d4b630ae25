"""Entropic transport as the peers of `bench_sinkhorn` do it.

`STEPS[peer](task, k)` makes k iterations of a fixed number, `AIMED[peer](task, tol, cap)` those that stop on their own. Both give a
function that runs one and another that turns what it returned into a plan. Whatever can be made beforehand is: costs, compiled
code, contiguous copies.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import transport
from mckean._array import as_input
from mckean.transport import _problem as native

# By what has to be installed.
PEERS = {
    "numpy": ("2 products",),
    "pot": ("POT", "POT stabilized", "POT log", "POT lazy"),
    "ott": ("ott", "ott online", "ott anderson"),
    "geomloss": ("geomloss", "geomloss online"),
    "keops": ("KeOps",),
    "regot": ("regot ssns", "regot splr"),
}
FORMS = {
    "stored": native.STORED,
    "recomputed": native.RECOMPUTED,
    "log": native.LOG_DOMAIN,
}
DENSE = ("2 products", "POT", "POT stabilized", "POT log", "ott", "geomloss")
ONLINE = ("ott online", "KeOps", "geomloss online", "POT lazy")
COMPILED = (
    "KeOps",
    "geomloss online",
)  # by the C++ compiler, for each formula, dimension and dtype
# Matrices of the problem's size and dtype that a peer holds at its peak, as measured at n = 10,240: what is too large is left out.
MATRICES = {
    "2 products": 2, "POT": 6, "POT stabilized": 6, "POT log": 9, "ott": 4, "ott anderson": 4, "geomloss": 7,
    "regot ssns": 6, "regot splr": 6, "mckean": 2,
}  # fmt: skip
BATCH = 256  # rows that ott and POT hold at a time where they never make the matrix

Run = Callable[[], Any]
Plan = Callable[[Any], np.ndarray]


@dataclass(frozen=True, eq=False)
class Task:
    """Points (n, d) against points (m, d) with weights, and what the square of their distance costs."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    eps: float

    @functools.cached_property
    def cost(self) -> np.ndarray:
        return squares(self.x, self.y)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.y)


def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 by rows, from differences where that is cheap."""
    out = np.empty((len(x), len(y)), x.dtype)
    for lo in range(0, len(x), 256):
        part = x[lo : lo + 256]
        if x.shape[1] <= 4:
            rows = np.square(part[:, :1] - y[:, 0])
            for k in range(1, x.shape[1]):
                rows += np.square(part[:, k : k + 1] - y[:, k])
            out[lo : lo + 256] = rows
        else:
            rows = np.square(part).sum(1)[:, None] + np.square(y).sum(1) - 2 * part @ y.T
            out[lo : lo + 256] = np.maximum(rows, 0)
    return out


def mean_cost(x: np.ndarray, y: np.ndarray) -> float:
    """The mean of |x_i - y_j|^2, without the pairs."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float((x * x).sum(1).mean() + (y * y).sum(1).mean() - 2 * x.mean(0) @ y.mean(0))


@functools.lru_cache(maxsize=1)
def clouds(n: int, d: int, dtype: str, eps: float) -> Task:
    """Normal clouds, one shifted by a half in every coordinate, uniform weights; `eps` by the mean of the cost."""
    g = np.random.default_rng(0)
    x, y = g.standard_normal((n, d)), g.standard_normal((n, d)) + 0.5
    w = np.full(n, 1 / n, dtype)
    return Task(x.astype(dtype), y.astype(dtype), w, w, eps * mean_cost(x, y))


def error(plan: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """L1 error of both marginals, in float64 and relative to the mass; NaN where the plan holds one."""
    rows, cols = plan.sum(1, dtype=np.float64), plan.sum(0, dtype=np.float64)
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float((np.abs(rows - a).sum() + np.abs(cols - b).sum()) / a.sum())


def own(plan: Any) -> np.ndarray:
    return np.asarray(plan)


# ---- ours ---------------------------------------------------------------------------------------------------------------


def problem(task: Task, *, points: bool) -> Any:
    a, b = (w.astype(np.float64)[None] for w in (task.a, task.b))
    eps = np.array([task.eps])
    if points:
        x, y = as_input(task.x, "x"), as_input(task.y, "y")
        return native.Problem.of_points(x, y, 2.0, a, b, eps)
    return native.Problem.of_cost(as_input(task.cost, "cost"), None, a, b, eps)


def start(p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scalings of zero potentials after one iteration: the columns are right."""
    F = p.transform(np.zeros_like(p.a), np.log(p.b), columns=False) + np.log(p.a)
    return F, p.transform(F, np.zeros_like(p.b), columns=True) + np.log(p.b)


def ours(form: str, points: bool, task: Task, k: int) -> tuple[Run, Plan]:
    """The loop of the native code alone, as every method of ours runs it."""
    p = problem(task, points=points)
    at = start(p)

    def run() -> Any:
        F, G = at[0].copy(), at[1].copy()
        p.iterate(F, G, problems=p.all(), form=FORMS[form], max_iter=k, tol=0.0)
        return F, G

    return run, lambda state: own(p.plan(*state))


def solve(
    method: str, points: bool, task: Task, tol: float, cap: int, **more: Any
) -> tuple[Run, Plan]:
    """The call as a user makes it."""

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if points:
                return transport.sinkhorn_points(
                    task.x, task.y, a=task.a, b=task.b, eps=task.eps, method=method, tol=tol, max_iter=cap, **more
                )  # fmt: skip
            return transport.sinkhorn(
                task.a,
                task.b,
                task.cost,
                eps=task.eps,
                method=method,
                tol=tol,
                max_iter=cap,
                **more,
            )

    return run, lambda result: own(result.plan())


# ---- peers --------------------------------------------------------------------------------------------------------------


def products(task: Task, k: int) -> tuple[Run, Plan]:
    """Two matrix-vector products an iteration, and nothing else."""
    kernel = np.exp(-task.cost / task.cost.dtype.type(task.eps))
    u, v = np.ones_like(task.a), np.ones_like(task.b)

    def run() -> Any:
        for _ in range(k):
            np.dot(kernel, v, out=u)
            np.dot(kernel.T, u, out=v)
            v.fill(1)
        return kernel

    return run, own


def pot(name: str, task: Task, k: int) -> tuple[Run, Plan]:
    import ot

    more = {}
    if name == "sinkhorn_stabilized":
        # Its own tests of the error, by default every 20 iterations of this form, would make a plan. With the default tau of
        # 1000 it absorbs at every iteration once it did at n >= 1000, and the plan of that moment has the mass 1 / n^2.
        more = {"print_period": 10**9, "tau": 1e3 * len(task.a)}
    solver = getattr(ot.bregman, name)

    def run() -> Any:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return solver(
                task.a, task.b, task.cost, task.eps, numItermax=k, stopThr=0, warn=False, **more
            )

    return run, own


def pot_lazy(task: Task, k: int) -> tuple[Run, Plan]:
    import ot

    def run() -> Any:
        return ot.bregman.empirical_sinkhorn(
            task.x, task.y, task.eps, task.a, task.b, numIterMax=k, stopThr=0, isLazy=True, batchSize=BATCH, warn=False
        )  # fmt: skip

    return run, lambda fg: np.exp(fg[0][:, None] + fg[1] - task.cost / task.eps)


def _ott() -> Any:
    """Its modules. ott 0.6 asks JAX for a name that JAX 0.10 has dropped, of types that are no arrays: there are none here."""
    from jax.interpreters import batching

    if not hasattr(batching, "is_vmappable"):
        batching.is_vmappable = lambda _: False
    from ott.geometry import geometry, pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import acceleration, sinkhorn

    return geometry, pointcloud, linear_problem, acceleration, sinkhorn


def ott(task: Task, k: int, *, online: bool = False, tol: float = -1.0, memory: int = 0) -> tuple[Run, Plan]:  # fmt: skip
    import jax
    import jax.numpy as jnp

    geometry, pointcloud, linear_problem, acceleration, sinkhorn = _ott()
    every = 10 if k % 10 == 0 else k  # iterations between two tests
    solver = sinkhorn.Sinkhorn(
        threshold=tol,
        max_iterations=k,
        inner_iterations=every,
        anderson=acceleration.AndersonAcceleration(memory=memory) if memory else None,
    )
    arrays = [jnp.asarray(z) for z in (task.a, task.b)]
    arrays += [jnp.asarray(z) for z in ((task.x, task.y) if online else (task.cost,))]

    def call(a: Any, b: Any, *data: Any) -> Any:
        if online:
            geom = pointcloud.PointCloud(*data, epsilon=task.eps, batch_size=BATCH)
        else:
            geom = geometry.Geometry(cost_matrix=data[0], epsilon=task.eps)
        out = solver(linear_problem.LinearProblem(geom, a, b))
        return out.f, out.g, out.n_iters

    compiled = jax.jit(call).lower(*arrays).compile()

    def plan(state: Any) -> np.ndarray:
        f, g = (np.asarray(z, np.float64) for z in state[:2])
        return np.exp((f[:, None] + g - task.cost) / task.eps)

    return lambda: jax.block_until_ready(compiled(*arrays)), plan


def geomloss(task: Task, k: int) -> tuple[Run, Plan]:
    """Two soft minima an iteration and a mean with the last potentials, eps going down to its value over the k iterations."""
    import geomloss.ot
    import torch

    cost, a, b = (torch.from_numpy(z) for z in (task.cost, task.a, task.b))

    def run() -> Any:
        return geomloss.ot.solve(cost, a=a, b=b, reg=task.eps, max_iter=k)

    return run, lambda result: result.plan.numpy()


def geomloss_online(task: Task, k: int) -> tuple[Run, Plan]:
    """By KeOps. The number of iterations follows from the ratio of eps from one to the next."""
    import torch
    from geomloss import SamplesLoss

    x, y, a, b = (torch.from_numpy(z) for z in (task.x, task.y, task.a, task.b))
    blur = float(np.sqrt(task.eps / 2))  # it halves the cost
    wide = 2 * float(np.sqrt(mean_cost(task.x, task.y))) + blur
    scaling = float(np.exp(np.log(blur / wide) / (k - 2.5))) if k > 2 else 1e-9
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, diameter=wide, scaling=scaling, debias=False, potentials=True, backend="online",
    )  # fmt: skip

    def plan(fg: Any) -> np.ndarray:
        f, g = (2 * z.double().numpy().ravel() for z in fg)
        return task.a[:, None] * task.b * np.exp((f[:, None] + g - task.cost) / task.eps)

    return lambda: loss(a, x, b, y), plan


def keops(task: Task, k: int) -> tuple[Run, Plan]:
    import torch
    from pykeops.torch import LazyTensor

    x, y, a, b = (torch.from_numpy(z) for z in (task.x, task.y, task.a, task.b))
    c = LazyTensor(x[:, None, :]).sqdist(LazyTensor(y[None, :, :])) / task.eps

    def run() -> Any:
        f = None
        g = torch.zeros_like(b)
        for _ in range(k):
            f = a.log() - (LazyTensor(g[None, :, None]) - c).logsumexp(1).view(-1)
            g = b.log() - (LazyTensor(f[:, None, None]) - c).logsumexp(0).view(-1)
        return f, g

    return run, lambda fg: np.exp(fg[0].numpy()[:, None] + fg[1].numpy() - task.cost / task.eps)


def regot(name: str, task: Task, tol: float, cap: int) -> tuple[Run, Plan]:
    """Stops on the Euclidean norm of the gradient; float64 only."""
    import regot

    cost = np.asfortranarray(task.cost, np.float64)
    a, b = task.a.astype(np.float64), task.b.astype(np.float64)
    return lambda: getattr(regot, name)(
        cost, a, b, task.eps, tol=tol, max_iter=cap
    ), lambda r: r.plan


STEPS: dict[str, Callable[[Task, int], tuple[Run, Plan]]] = {
    **{f"mckean {f}": functools.partial(ours, f, False) for f in FORMS},
    **{f"mckean points {f}": functools.partial(ours, f, True) for f in ("recomputed", "log")},
    "2 products": products,
    "POT": functools.partial(pot, "sinkhorn_knopp"),
    "POT stabilized": functools.partial(pot, "sinkhorn_stabilized"),
    "POT log": functools.partial(pot, "sinkhorn_log"),
    "POT lazy": pot_lazy,
    "ott": ott,
    "ott online": functools.partial(ott, online=True),
    "geomloss": geomloss,
    "geomloss online": geomloss_online,
    "KeOps": keops,
}
AIMED: dict[str, Callable[[Task, float, int], tuple[Run, Plan]]] = {
    "auto": functools.partial(solve, "auto", True),
    "scaling": functools.partial(solve, "scaling", True),
    "newton": functools.partial(solve, "newton", True),
    "cost": functools.partial(solve, "auto", False),
    "ott anderson": lambda task, tol, cap: ott(task, cap - cap % 10, tol=tol, memory=5),
    "regot ssns": functools.partial(regot, "sinkhorn_ssns"),
    "regot splr": functools.partial(regot, "sinkhorn_splr"),
}


# ---- batches ------------------------------------------------------------------------------------------------------------


def batch_of(batch: int, n: int, d: int, dtype: str, eps: float) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Clouds x, y (batch, n, d) as in `clouds`."""
    g = np.random.default_rng(0)
    x, y = g.standard_normal((batch, n, d)), g.standard_normal((batch, n, d)) + 0.5
    scale = np.mean([mean_cost(p, q) for p, q in zip(x, y, strict=True)])
    return x.astype(dtype), y.astype(dtype), float(eps * scale)


def batch_solver(who: str, x: np.ndarray, y: np.ndarray, eps: float, k: int, tol: float) -> tuple[Run, Plan]:  # fmt: skip
    """A whole batch; ours stops at `tol`, the others after k iterations. From points: what a mini-batch has."""
    n = x.shape[1]
    w = np.full(n, 1 / n, x.dtype)

    def ours_call(x: np.ndarray, y: np.ndarray) -> Any:
        return transport.sinkhorn_points(x, y, eps=eps, tol=tol)

    if who == "mckean":
        return lambda: ours_call(x, y), lambda r: own(r.plan())
    if who == "one by one":
        return (
            lambda: [ours_call(p, q) for p, q in zip(x, y, strict=True)],
            lambda rs: np.stack([own(r.plan()) for r in rs]),
        )
    if who == "POT":
        import ot

        def loop() -> Any:
            return [
                ot.sinkhorn(w, w, ot.dist(p, q), eps, numItermax=k, stopThr=0, warn=False)
                for p, q in zip(x, y, strict=True)
            ]

        return loop, np.stack
    if who == "POT batch":
        import ot.batch

        def pot_batch() -> Any:
            cost = ot.batch.dist_batch(x, y)
            return ot.batch.solve_batch(cost, eps, max_iter=k, tol=0.0, grad="detach").plan

        return pot_batch, own
    if who == "geomloss":
        import geomloss.ot
        import torch

        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        return (
            lambda: geomloss.ot.solve_batch(torch.cdist(tx, ty) ** 2, reg=eps, max_iter=k),
            lambda r: r.plan.numpy(),
        )
    import jax
    import jax.numpy as jnp

    _, pointcloud, linear_problem, _, sinkhorn = _ott()
    solver = sinkhorn.Sinkhorn(threshold=-1.0, max_iterations=k, inner_iterations=k)

    def one(p: Any, q: Any) -> Any:
        out = solver(linear_problem.LinearProblem(pointcloud.PointCloud(p, q, epsilon=eps)))
        return out.matrix

    arrays = jnp.asarray(x), jnp.asarray(y)
    compiled = jax.jit(jax.vmap(one)).lower(*arrays).compile()
    return lambda: jax.block_until_ready(compiled(*arrays)), own


def worst(plans: np.ndarray) -> float:
    """The largest error of a batch with uniform weights."""
    return max(error(p, np.full(p.shape[0], 1 / p.shape[0]), np.full(p.shape[1], 1 / p.shape[1])) for p in plans)  # fmt: skip


# ---- hard inputs --------------------------------------------------------------------------------------------------------


def hard() -> dict[str, Task]:
    """What breaks an implementation: small eps, absent and unbalanced weights, negative ones, NaN."""
    g = np.random.default_rng(0)
    x, y = g.standard_normal((100, 2)), g.standard_normal((100, 2)) + 0.5
    mean = mean_cost(x, y)
    w = np.full(100, 0.01)

    def task(eps: float, dtype: str = "float64", a: np.ndarray = w) -> Task:
        return Task(*(z.astype(dtype) for z in (x, y, a, w)), eps=eps * mean)

    absent, negative = w.copy(), w.copy()
    absent[:2] = 0, 0.02
    negative[:2] = -0.01, 0.03
    out = {
        f"eps = {eps:g} mean cost, {dtype}": task(eps, dtype)
        for dtype in ("float64", "float32") for eps in (1e-2, 1e-3, 1e-4)
    }  # fmt: skip
    out["a weight is 0"] = task(0.05, a=absent)
    out["weights of mass 2 and 1"] = task(0.05, a=2 * w)
    out["a negative weight"] = task(0.05, a=negative)
    broken = task(0.05)
    broken.cost[3, 5] = np.nan
    out["a NaN in the cost"] = broken
    empty = np.empty((0, 2))
    out["no points"] = Task(empty, y, np.empty(0), w, 0.05 * mean)
    return out


HARD: dict[str, Callable[[Task, int], np.ndarray]] = {}


def _hard(name: str) -> Callable[[Any], Any]:
    def keep(f: Any) -> Any:
        HARD[name] = f
        return f

    return keep


@_hard("mckean")
def _(task: Task, cap: int) -> np.ndarray:
    return own(
        transport.sinkhorn(task.a, task.b, task.cost, eps=task.eps, max_iter=cap, tol=1e-6).plan()
    )


def _hard_pot(name: str, task: Task, cap: int) -> np.ndarray:
    import ot

    solver = getattr(ot.bregman, name)
    return own(solver(task.a, task.b, task.cost, task.eps, numItermax=cap, stopThr=1e-7))


for _name, _solver in (("POT", "sinkhorn_knopp"), ("POT stabilized", "sinkhorn_stabilized"), ("POT log", "sinkhorn_log")):  # fmt: skip
    HARD[_name] = functools.partial(_hard_pot, _solver)


@_hard("ott")
def _(task: Task, cap: int) -> np.ndarray:
    import jax.numpy as jnp

    geometry, _, linear_problem, _, sinkhorn = _ott()
    geom = geometry.Geometry(cost_matrix=jnp.asarray(task.cost), epsilon=task.eps)
    weights = (jnp.asarray(w) for w in (task.a, task.b))
    solver = sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=cap)
    out = solver(linear_problem.LinearProblem(geom, *weights))
    if not out.converged:
        warnings.warn("not converged, said by its flag", stacklevel=1)
    return np.asarray(out.matrix)


@_hard("geomloss")
def _(task: Task, cap: int) -> np.ndarray:
    run, plan = geomloss(task, min(cap, 2_000))
    return plan(run())


@_hard("regot ssns")
def _(task: Task, cap: int) -> np.ndarray:
    run, plan = regot("sinkhorn_ssns", task, 1e-7, min(cap, 300))
    return plan(run())


def behaviour(who: str, task: Task, cap: int) -> str:
    """What a call gives: the error of its plan, or NaN, with what it said about it; or the exception."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            plan = HARD[who](task, cap)
        except Exception as problem:
            return type(problem).__name__
    warned = any(not issubclass(w.category, (DeprecationWarning, FutureWarning)) for w in said)
    if not plan.size:
        text = "an empty plan"
    elif not np.isfinite(plan).all():
        text = "NaN"
    else:
        off = error(plan, task.a, task.b)
        text = f"{off:.0e}" if off < 0.1 else f"{off:.2g}"
        mass = plan.sum() / task.a.sum(dtype=np.float64)
        if abs(mass - 1) > 0.1:
            text += f", mass {mass:.1g}"
    return text + ", warns" * warned
