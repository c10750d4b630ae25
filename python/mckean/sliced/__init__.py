"""Distances between point clouds by projection on lines and sorting, with gradients."""

from mckean.sliced._directions import directions
from mckean.sliced._energy import energy_distance
from mckean.sliced._exponents import slicing_constant
from mckean.sliced._mmd import sliced_cramer, sliced_mmd2, sliced_mmd2_grad
from mckean.sliced._target import Target
from mckean.sliced._wasserstein import sliced_wasserstein

__all__ = [
    "Target",
    "directions",
    "energy_distance",
    "sliced_cramer",
    "sliced_mmd2",
    "sliced_mmd2_grad",
    "sliced_wasserstein",
    "slicing_constant",
]
