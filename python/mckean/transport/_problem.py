"""A batch of transport problems and where it stands: the one place that calls the native code of the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Framework, Input
from mckean._dispatch import executor, moved, place

__all__ = ["LOG_DOMAIN", "RECOMPUTED", "STORED", "Problem"]

LOG_DOMAIN, RECOMPUTED, STORED = 0, 1, 2  # ScalingForm of the executors

Doubles = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(slots=True, eq=False)
class Problem:
    """Problems of n rows against m columns. Log scalings F (batch, n) and G (batch, m) are NumPy float64 arrays, passed
    to every call and updated in place: the plan is exp(F_i + G_j - C_ij / eps)."""

    native: Any
    at: Input  # x or the cost, for the framework, dtype and device of results
    memory: Framework
    device: str
    batch: int
    n: int
    m: int
    batched: bool  # whether the caller gave a leading axis
    a: Doubles  # (batch, n), weights
    b: Doubles  # (batch, m)
    eps: Doubles  # (batch,)
    dim: int = 0  # of points; 0: a cost
    other: Input | None = None  # y, of points
    power: float = 0.0

    @classmethod
    def of_points(
        cls,
        x: Input,
        y: Input,
        power: float,
        a: Doubles,
        b: Doubles,
        eps: Doubles,
        device: Any = None,
    ) -> Problem:
        memory, where = place(x, device)
        batched = len(x.shape) == 3
        batch = x.shape[0] if batched else 1
        n, m, dim = x.shape[-2], y.shape[-2], x.shape[-1]
        native = executor(where).transport_of_points(
            moved(x, memory, where),
            moved(y, memory, where),
            power,
            batch,
            n,
            m,
            memory.queue(where),
        )
        return cls(native, x, memory, where, batch, n, m, batched, a, b, eps, dim, y, power)

    @classmethod
    def of_cost(
        cls,
        cost: Input,
        batch: int | None,
        a: Doubles,
        b: Doubles,
        eps: Doubles,
        device: Any = None,
    ) -> Problem:
        """`batch` None: one problem. A cost (n, m) may serve a whole batch."""
        memory, where = place(cost, device)
        n, m = cost.shape[-2:]
        count = 1 if batch is None else batch
        native = executor(where).transport_of_cost(
            moved(cost, memory, where), count, n, m, memory.queue(where)
        )
        return cls(native, cost, memory, where, count, n, m, batch is not None, a, b, eps)

    def all(self) -> Any:
        """The numbers of all problems."""
        return np.arange(self.batch)

    def forget(self) -> None:
        """Free what iterations keep for each other."""
        self.native.forget()

    @property
    def queue(self) -> int:
        return int(self.memory.queue(self.device))

    def iterate(
        self,
        F: Doubles,
        G: Doubles,
        *,
        problems: Any,
        form: int,
        max_iter: int,
        tol: float,
        relaxation: float = 1.0,
        powers: tuple[Doubles, Doubles] | None = None,
        symmetric: bool = False,
        eps: Doubles | None = None,
    ) -> tuple[Doubles, Any]:
        """At most `max_iter` iterations of these problems, in place: errors (batch,), iterations
        (batch,). See `transport_iterate` of the executors."""
        ones = np.ones(self.batch)
        errors, done = np.full(self.batch, np.inf), np.zeros(self.batch, np.int64)
        rows, cols = (ones, ones) if powers is None else powers
        self.native.iterate(
            np.asarray(problems, np.int64),
            self.eps if eps is None else eps,
            F,
            G,
            form,
            symmetric,
            relaxation,
            self.a,
            self.b,
            rows,
            cols,
            max_iter,
            tol,
            errors,
            done,
            self.queue,
        )
        return errors, done

    def transform(self, F: Doubles, G: Doubles, *, columns: bool, problems: Any = None) -> Doubles:
        """-log sum_j exp(G_j - C_ij / eps), (batch, n), or of columns (batch, m)."""
        out = np.zeros((self.batch, self.m if columns else self.n))
        which = self.all() if problems is None else np.asarray(problems, np.int64)
        self.native.transform(which, self.eps, F, G, columns, out, self.queue)
        return out

    def marginals(
        self, F: Doubles, G: Doubles, *, cost: bool = False, problems: Any = None
    ) -> tuple[Doubles, Doubles, Doubles | None]:
        """Row sums (batch, n), column sums (batch, m) and, if wanted, <P, C> (batch,)."""
        rows, cols = np.zeros((self.batch, self.n)), np.zeros((self.batch, self.m))
        values = np.zeros(self.batch) if cost else None
        which = self.all() if problems is None else np.asarray(problems, np.int64)
        self.native.marginals(which, self.eps, F, G, rows, cols, values, self.queue)
        return rows, cols, values

    def product(
        self, F: Doubles, G: Doubles, u: Doubles, v: Doubles, *, problems: Any = None
    ) -> tuple[Doubles, Doubles]:
        """P v (batch, n) and P^T u (batch, m), in one pass."""
        rows, cols = np.zeros((self.batch, self.n)), np.zeros((self.batch, self.m))
        which = self.all() if problems is None else np.asarray(problems, np.int64)
        self.native.product(which, self.eps, F, G, u, v, rows, cols, self.queue)
        return rows, cols

    def apply(self, F: Doubles, G: Doubles, values: Input, *, transposed: bool) -> Any:
        """P values, or P^T values, in the caller's framework: `values` ([batch,] m, k) or ([batch,] m)."""
        lead = 1 if self.batched else 0
        tail = values.shape[lead + 1 :]
        size = self.m if transposed else self.n
        shape = (*((self.batch,) if self.batched else ()), size, *tail)
        out = self.memory.empty(shape, self.at.dtype, self.device)
        columns = int(np.prod(tail))
        native_values = moved(values, self.memory, self.device)
        self.native.apply(
            self.all(), self.eps, F, G, transposed, native_values, columns, out.data, self.queue
        )
        return out.result()

    def gradient(self, F: Doubles, G: Doubles, *, in_y: bool) -> Any:
        """The derivative of <P, C> in the points x, or y, for a fixed plan."""
        shape = (*((self.batch,) if self.batched else ()), self.m if in_y else self.n, self.dim)
        out = self.memory.empty(shape, self.at.dtype, self.device)
        self.native.gradient(self.all(), self.eps, F, G, in_y, out.data, self.queue)
        return out.result()

    def plan(self, F: Doubles, G: Doubles, problem: int = 0, rows: slice | None = None) -> Any:
        """Rows of the plan of one problem, (rows, m), in the caller's framework."""
        first, last, _ = (rows or slice(None)).indices(self.n)
        out = self.memory.empty((last - first, self.m), self.at.dtype, self.device)
        self.native.plan(self.eps, F, G, problem, first, last, out.data, self.queue)
        return out.result()

    def plans(self, F: Doubles, G: Doubles) -> Any:
        """The plan (n, m), or those of a batch (batch, n, m)."""
        if not self.batched:
            return self.plan(F, G)
        each = [self.plan(F, G, problem)[None] for problem in range(self.batch)]
        return self.at.framework.concatenate(each)

    def kept(
        self,
        F: Doubles,
        G: Doubles,
        problem: int,
        row_level: Doubles,
        col_level: Doubles,
        most: int,
    ) -> tuple[Any, Any, Any] | None:
        """Entries P_ij > row_level_i col_level_j by rows: starts (n + 1,) int64, columns int32, values float64; None
        if they are more than `most`."""
        found = self.native.kept(self.eps, F, G, problem, row_level, col_level, most, self.queue)
        return None if found is None else (found[0], found[1], found[2])
