"""A point cloud sorted along fixed directions, once for many calls."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean._array import Input
from mckean._dispatch import executor, moved, place
from mckean._errors import as_count, as_seed, one_of
from mckean.sliced._clouds import first_cloud
from mckean.sliced._defaults import DIRECTIONS, ORDER, RIESZ, SEED, SLICES, given
from mckean.sliced._directions import resolve
from mckean.sliced._exponents import as_power, as_riesz
from mckean.sliced._lines import Lines, lines
from mckean.sliced._weights import probabilities

__all__ = ["DISTANCES", "Target"]

DISTANCES = ("mmd", "wasserstein")  # in the order of SlicedKind of the executors


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Target:
    """Points `y` sorted once along fixed directions, given in place of `y` to many calls.

    A call then projects x alone. That saves time where y has many more points than x or many coordinates, and for
    Wasserstein distances, which need no more of y than its order; a squared MMD still sorts both clouds together.
    `sliced_mmd2`, `sliced_mmd2_grad`, `sliced_cramer` (``distance="mmd"``) and `sliced_wasserstein`
    (``distance="wasserstein"``) take it and return, bit for bit, what they return for `y` and the same directions.
    These, the exponent and the weights of y belong to the target: giving others, or weights, in the call is an error.

    It holds native memory, of ``n_slices m`` numbers, and twice more with weights in float32: it cannot be pickled.

    Parameters
    ----------
    y : array, shape (m, d), float32 or float64
        Copied. Batches of x share it.
    n_slices : int, optional
        See `sliced_mmd2`, as for the next three.
    r : float, optional
        Exponent of ``distance="mmd"``, an error with another.
    directions : {"orthogonal", "random", "sobol"} or array, shape (n_slices, d), optional
    seed : int or numpy.random.SeedSequence, optional
    weights : array, shape (m,), optional
        Of the points; not negative, of any positive sum. Default: equal ones.
    distance : {"mmd", "wasserstein"}, optional
    p : float, optional
        Exponent of ``distance="wasserstein"``, an error with another.
    device : str, optional
        ``"cuda"`` keeps the points of NumPy users on the GPU and computes there.

    Attributes
    ----------
    shape : tuple of int
        Of `y`.
    dtype, device, framework : str
        Of the arrays it can be compared with.
    distance : str
    exponent : float
        r or p.
    n_slices : int

    Raises
    ------
    TypeError, ValueError
        See `sliced_mmd2`.
    MemoryError
        If the sorted projections do not fit.

    Examples
    --------
    >>> import mckean as mk
    >>> x, y = mk.random.normal(0, (200, 3)), mk.random.normal(1, (300, 3))
    >>> target = mk.sliced.Target(y, n_slices=30, seed=5)
    >>> mk.sliced_mmd2(x, target) == mk.sliced_mmd2(x, y, n_slices=30, seed=5)
    True
    """

    shape: tuple[int, ...]
    dtype: str
    framework: str
    device: str
    distance: str
    exponent: float
    n_slices: int
    lines: Lines
    native: Any
    asked: tuple[int, str, int]  # slices, name of the directions or nothing, seed

    def __init__(
        self,
        y: Any,
        *,
        n_slices: int = SLICES,
        r: float = RIESZ,
        directions: Any = DIRECTIONS,
        seed: Any = SEED,
        weights: Any = None,
        distance: str = "mmd",
        p: float = ORDER,
        device: Any = None,
    ) -> None:
        kind = DISTANCES.index(one_of(distance, "distance", DISTANCES))
        exponent, power = as_riesz(r), as_power(p)
        for name, value, wanted in (("r", r, "mmd"), ("p", p, "wasserstein")):
            if distance != wanted and given(value):
                raise ValueError(f"{name}: expected none for distance={distance!r}, got {value}")
        if kind:
            exponent = power
        at = first_cloud(y, "y", exponent)
        if len(at.shape) != 2:
            raise ValueError(f"y: expected shape (m, d), got {at.shape}")
        memory, device = place(at, device)
        found = lines(directions, at.shape[1], n_slices, seed, at.dtype)
        asked: tuple[int, str, int] = (len(found.array), "", 0)
        if isinstance(directions, str):
            asked = (as_count(n_slices, "n_slices"), str(directions), as_seed(seed))
        w = None
        if weights is not None:
            w = probabilities(weights, "weights", at, "y", memory, device)
        xi = found.array if device == "cpu" else memory.asarray(found.array, device)
        points = moved(at, memory, device)
        what = (kind, exponent, points, xi, w, memory.queue(device))
        native = _sorted(what, at, len(found.array), device)
        values = (at.shape, at.dtype, at.framework.name, device, distance, exponent)
        for name, value in zip(
            self.__slots__, (*values, found.array.shape[0], found, native, asked), strict=True
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"Target({self.shape[0]} points in {self.shape[1]} dimensions, {self.n_slices} slices, "
            f"{self.distance} {self.exponent:g})"
        )

    def check(self, at: Input, distance: str, exponent: float) -> None:
        """Raise unless points `at` can be compared with these by `distance`."""
        if self.distance != distance:
            raise ValueError(
                f"y: expected a Target made with distance={distance!r}, got {self.distance!r}"
            )
        if exponent != self.exponent:
            self._refuse("rp"[DISTANCES.index(distance)], self.exponent, exponent)
        if at.framework.name != self.framework:
            raise TypeError(
                f"x: expected a {self.framework} array to match y, got {at.framework.name}"
            )
        if at.dtype != self.dtype:
            raise TypeError(f"x: expected {self.dtype} to match y, got {at.dtype}")
        if at.shape[-1] != self.shape[1]:
            raise ValueError(
                f"x: expected {self.shape[1]} coordinates to match y {self.shape}, got {at.shape}"
            )

    def check_given(self, n_slices: Any, directions: Any, seed: Any, weights: Any) -> None:
        """Raise if a call asks for other lines than these, or for weights."""
        slices, kind, own_seed = self.asked
        if given(n_slices):
            wanted = as_count(n_slices, "n_slices", least=1)
            if wanted != slices and self.shape[1] > 1:
                self._refuse("n_slices", slices, wanted)
        if given(directions):
            if isinstance(directions, str):
                if directions != kind:
                    self._refuse("directions", repr(kind) if kind else "those", repr(directions))
            elif not np.array_equal(
                resolve(directions, self.shape[1], 1, 0, self.dtype), self.lines.array
            ):
                self._refuse("directions", "those", "others")
        if kind and given(seed) and as_seed(seed) != own_seed:
            self._refuse("seed", own_seed, as_seed(seed))
        if weights is not None:
            raise ValueError("y_weights: expected none beside a Target, which has its own")

    def _refuse(self, name: str, own: Any, got: Any) -> None:
        raise ValueError(f"{name}: expected {own} to match the Target y, got {got}")


def _sorted(what: tuple[Any, ...], at: Input, slices: int, device: str) -> Any:
    """The sorted projections, in native memory."""
    size = slices * at.shape[0] * (np.dtype(at.dtype).itemsize + (8 if what[4] is not None else 0))
    why = f"{slices} slices of {at.shape[0]} points need {size / 2**30:.3g} GiB"
    if device == "cpu" and size > _memory():
        raise MemoryError(why)  # the system may promise more than it has
    try:
        return executor(device).sliced_target(*what)
    except MemoryError:
        raise MemoryError(why) from None


def _memory() -> float:
    """Bytes of this machine, if it says."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2.0**62
