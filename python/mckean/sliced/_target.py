"""A point cloud sorted along fixed directions, once for many calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mckean._array import Input
from mckean._dispatch import executor, moved, place
from mckean._errors import one_of
from mckean.sliced._clouds import first_cloud
from mckean.sliced._exponents import as_power, as_riesz
from mckean.sliced._lines import Lines, lines
from mckean.sliced._weights import probabilities

__all__ = ["DISTANCES", "Target"]

DISTANCES = ("mmd", "wasserstein")  # in the order of SlicedKind of the executors


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Target:
    """Points `y` sorted once along fixed directions, given in place of `y` to many calls.

    A flow that keeps its directions spends its time on projecting and sorting; of the two clouds only the moving one is
    then left. `sliced_mmd2`, `sliced_mmd2_grad`, `sliced_cramer` (``distance="mmd"``) and `sliced_wasserstein`
    (``distance="wasserstein"``) take it and return, bit for bit, what they return for `y` and the same directions.
    These, the exponent and the weights of y belong to the target: giving others in the call is an error.

    Parameters
    ----------
    y : array, shape (m, d), float32 or float64
        Copied. Batches of x share it.
    n_slices : int, optional
        See `sliced_mmd2`, as for the next three.
    r : float, optional
        Exponent of ``distance="mmd"``.
    directions : {"orthogonal", "random", "sobol"} or array, shape (n_slices, d), optional
    seed : int or numpy.random.SeedSequence, optional
    weights : array, shape (m,), optional
        Of the points; not negative, of any positive sum. Default: equal ones.
    distance : {"mmd", "wasserstein"}, optional
    p : float, optional
        Exponent of ``distance="wasserstein"``.
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

    def __init__(
        self,
        y: Any,
        *,
        n_slices: int = 100,
        r: float = 1.0,
        directions: Any = "orthogonal",
        seed: Any = 0,
        weights: Any = None,
        distance: str = "mmd",
        p: float = 2.0,
        device: Any = None,
    ) -> None:
        kind = DISTANCES.index(one_of(distance, "distance", DISTANCES))
        exponent, power = as_riesz(r), as_power(p)
        if kind:
            exponent = power
        at = first_cloud(y, "y", exponent)
        if len(at.shape) != 2:
            raise ValueError(f"y: expected shape (m, d), got {at.shape}")
        memory, device = place(at, device)
        found = lines(directions, at.shape[1], n_slices, seed, at.dtype)
        w = None
        if weights is not None:
            w = probabilities(weights, "weights", at, "y", memory, device)
        xi = found.array if device == "cpu" else memory.asarray(found.array, device)
        points = moved(at, memory, device)
        native = executor(device).sliced_target(kind, exponent, points, xi, w, memory.queue(device))
        values = (at.shape, at.dtype, at.framework.name, device, distance, exponent)
        for name, value in zip(
            self.__slots__, (*values, found.array.shape[0], found, native), strict=True
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return (
            f"Target({self.shape[0]} points in {self.shape[1]} dimensions, {self.n_slices} slices, "
            f"{self.distance} {self.exponent:g})"
        )

    def check(self, at: Input, distance: str) -> None:
        """Raise unless points `at` can be compared with these by `distance`."""
        if self.distance != distance:
            raise ValueError(
                f"y: expected a Target made with distance={distance!r}, got {self.distance!r}"
            )
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
