"""Anderson acceleration of a fixed-point iteration, for many problems side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from mckean.transport._problem import Doubles

__all__ = ["History"]

_RIDGE = (
    1e-13  # of the trace: rounding level, so that almost equal changes keep the weights bounded
)


class History:
    """The last values and changes of the iterations of `count` problems, and the extrapolation they suggest.

    Each problem has a history of its own, and its numbers do not depend on what it shares the arrays with.
    """

    def __init__(self, count: int, size: int, memory: int) -> None:
        self.memory = memory
        self.pairs = np.zeros(count, np.int64)  # pushed since the last `forget`
        self._values = np.zeros((count, memory, size))
        self._changes = np.zeros((count, memory, size))
        self._gram = np.zeros((count, memory, memory))

    def push(self, rows: Any, values: Doubles, changes: Doubles) -> None:
        """After one application of the map: where it led, and by how far that is from where it began."""
        slot = self.pairs[rows] % self.memory
        self._values[rows, slot] = values
        self._changes[rows, slot] = changes
        everything = len(rows) == len(self.pairs)
        stored = self._changes if everything else self._changes[rows]
        products = (stored @ changes[:, :, None])[:, :, 0]
        self._gram[rows, slot] = products
        self._gram[rows, :, slot] = products
        self.pairs[rows] += 1

    def propose(self, rows: Any) -> Doubles:
        """The combination of the values, weights adding up to 1, whose changes combine to the least."""
        held = np.minimum(self.pairs[rows], self.memory)
        there = np.arange(self.memory) < held[:, None]
        gram = np.where(there[:, :, None] & there[:, None, :], self._gram[rows], 0.0)
        diagonal = np.einsum("bii->bi", gram)  # a view
        scale = diagonal.sum(1, keepdims=True)
        np.divide(gram, scale[:, :, None], out=gram, where=scale[:, :, None] > 0)
        diagonal += np.where(there, _RIDGE, 1.0)
        # Nothing changed at all: any weights will do.
        diagonal += scale == 0
        weights = np.linalg.solve(gram, there[:, :, None].astype(np.float64))[:, :, 0]
        weights /= weights.sum(1, keepdims=True)
        everything = len(rows) == len(self.pairs)
        stored = self._values if everything else self._values[rows]
        return np.asarray((weights[:, None, :] @ stored)[:, 0])

    def forget(self, rows: Any) -> None:
        self.pairs[rows] = 0

    def keep(self, rows: Any) -> None:
        """Only these problems go on."""
        self.pairs = self.pairs[rows]
        self._values, self._changes = self._values[rows], self._changes[rows]
        self._gram = self._gram[rows]
