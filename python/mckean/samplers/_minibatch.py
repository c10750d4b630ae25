"""Gradients of log posteriors from some of the data: which of them, and how they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mckean import _array, random, targets
from mckean._array import Input, as_input, as_match, check_finite, to_numpy
from mckean._dispatch import executor
from mckean._errors import as_count, one_of
from mckean.stepping import _combine_checked

__all__ = ["BatchGradient", "MiniBatches"]

Array = np.ndarray[Any, Any]
_STREAM = 0x6D696E6962617463  # "minibatc"
_PIECE = 1 << 16  # rows asked for at once where all of them are needed


class MiniBatches:
    """Which data the k-th gradient reads, a pure function of the seed and k."""

    samplings = ("shuffle", "subset", "replacement")

    def __init__(self, n_data: Any, batch_size: Any, sampling: str) -> None:
        self.n = as_count(n_data, "n_data", least=1)
        self.size = as_count(batch_size, "batch_size", least=1)
        if self.size > self.n:
            raise ValueError(f"batch_size: expected at most n_data = {self.n}, got {self.size}")
        self.sampling = one_of(sampling, "sampling", self.samplings)
        self.per_epoch = -(-self.n // self.size)
        self._epoch: tuple[int, int] | None = None
        self._order = np.empty(0, np.int64)

    def at(self, seed: int, k: int) -> tuple[Array, float]:
        """Indices (m,), int64, in increasing order, and what the sum over them is multiplied by."""
        if self.size == self.n and self.sampling != "replacement":
            return np.arange(self.n), 1.0
        if self.sampling == "shuffle":
            epoch, part = divmod(k, self.per_epoch)
            if self._epoch != (seed, epoch):
                keys = random.uniform(seed, self.n, stream=_STREAM, counter=epoch)
                self._epoch, self._order = (seed, epoch), np.argsort(keys, kind="stable")
            # As even as can be; each datum counts once, so a pass adds up to the whole sum.
            first = part * self.n // self.per_epoch
            last = (part + 1) * self.n // self.per_epoch
            return np.sort(self._order[first:last]), float(self.per_epoch)
        scale = self.n / self.size
        if self.sampling == "replacement":
            return np.sort(self._draw(seed, k, self.size)), scale
        if 2 * self.size > self.n:
            keys = random.uniform(seed, self.n, stream=_STREAM, counter=k)
            return np.sort(np.argpartition(keys, self.size - 1)[: self.size]), scale
        count = 2 * self.size
        while True:  # the first distinct ones of a sequence of draws are a random subset
            drawn = self._draw(seed, k, count)
            values, where = np.unique(drawn, return_index=True)
            if len(values) >= self.size:
                return np.sort(drawn[np.sort(where)[: self.size]]), scale
            count *= 2

    def _draw(self, seed: int, k: int, count: int) -> Array:
        u = random.uniform(seed, count, stream=_STREAM, counter=k)
        return np.asarray((u * self.n).astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epoch": None, "_order": np.empty(0, np.int64)}


class _User:
    """A target with ``grad_log_prior(x)`` and ``grad_log_likelihood(x, indices)``."""

    def __init__(self, target: Any) -> None:
        label = getattr(target, "__name__", type(target).__name__)
        for name in ("grad_log_prior", "grad_log_likelihood"):
            if not callable(getattr(target, name, None)):
                raise TypeError(
                    f"target: expected grad_log_prior(x) and grad_log_likelihood(x, indices), or a "
                    f"mckean.targets.LogisticRegression, {label} has no {name}"
                )
        self._target = target

    def prior(self, x: Any, like: Input) -> Input:
        return as_match(self._target.grad_log_prior(x), "grad_log_prior", like, "x")

    def likelihood(self, x: Any, like: Input, indices: Array) -> Input:
        own = like.framework.asarray(indices, like.device)
        return as_match(self._target.grad_log_likelihood(x, own), "grad_log_likelihood", like, "x")

    def total(self, x: Any, like: Input, indices: Array, scale: float) -> Input:
        parts = [self.prior(x, like).data, self.likelihood(x, like, indices).data]
        (out,) = _combine_checked(like, np.array([[1.0, scale]]), parts)
        return as_input(out.result(), "gradient")


class _Logistic:
    """Rows of a `LogisticRegression`, gathered and handed to its native gradient."""

    def __init__(self, target: targets.LogisticRegression) -> None:
        self._target = target

    def _native(
        self, x: Any, like: Input, indices: Array | None, scale: float, prior: float
    ) -> Input:
        """``scale`` times the sum over the rows, plus ``prior`` times the prior's gradient."""
        at = as_match(x, "x", like, "x", shape=("n", self._target.dim))
        rows, precision = self._target._parameters(at)
        if indices is None:
            rows, precision = 0.0 * rows[:1], prior * precision
        else:
            holder = _array.framework_of(rows)
            rows = rows[holder.asarray(indices, at.device)]
            precision = (prior / scale) * precision
        out = at.framework.empty(at.shape, at.dtype, at.device)
        executor(at.device).logistic_regression(
            at.data, rows, precision, 0.0, None, out.data, at.framework.queue(at.device)
        )
        if indices is not None:
            out.data[...] *= scale
        return as_input(out.result(), "gradient")

    def prior(self, x: Any, like: Input) -> Input:
        return self._native(x, like, None, 1.0, 1.0)

    def likelihood(self, x: Any, like: Input, indices: Array) -> Input:
        return self._native(x, like, indices, 1.0, 0.0)

    def total(self, x: Any, like: Input, indices: Array, scale: float) -> Input:
        return self._native(x, like, indices, scale, 1.0)


class BatchGradient:
    """Unbiased gradients of a log posterior; around an anchor, of smaller variance."""

    def __init__(self, target: Any, n_data: int, anchor: Any) -> None:
        builtin = isinstance(target, targets.LogisticRegression)
        self._parts: Any = _Logistic(target) if builtin else _User(target)
        self._n = n_data
        self.anchor: Array | None = None
        if anchor is not None:
            given = as_input(anchor, "anchor", shape=("d",))
            check_finite(given, "anchor")
            self.anchor = np.array(to_numpy(given.array), np.float64)
        self._full: dict[Any, tuple[Input, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_full": {}}

    def __call__(
        self, x: Any, like: Input, indices: Array, scale: float, held: Sequence[Input] = ()
    ) -> Input:
        """The gradient at `x` from the data at `indices`."""
        if self.anchor is None:
            return self._new(self._parts.total(x, like, indices, scale), held)
        at, whole = self._anchored(like)
        there = self._parts.likelihood(at.array, at, indices).array
        total = self._parts.total(x, like, indices, scale).array
        return self._new(as_input(total + (whole - scale * there), "gradient"), held)

    @staticmethod
    def _new(g: Input, held: Sequence[Input]) -> Input:
        address = g.framework.address
        assert all(address(g.data) != address(h.data) for h in held)
        return g

    def _anchored(self, like: Input) -> tuple[Input, Any]:
        """The anchor (1, d) as the particles are, and the gradient of the whole likelihood there."""
        assert self.anchor is not None
        key = (like.framework.name, like.dtype, like.device)
        if key not in self._full:
            d = like.shape[1]
            if self.anchor.shape != (d,):
                raise ValueError(
                    f"anchor: expected shape ({d},) to match x {like.shape}, got {self.anchor.shape}"
                )
            host = np.ascontiguousarray(self.anchor[None].astype(like.dtype))
            at = as_input(like.framework.asarray(host, like.device), "anchor")
            whole: Any = 0.0
            for piece in np.array_split(np.arange(self._n), -(-self._n // _PIECE)):
                whole = whole + self._parts.likelihood(at.array, at, piece).array
            self._full[key] = at, whole
        return self._full[key]
