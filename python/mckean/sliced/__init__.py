"""Distances between point clouds by projection on lines and sorting, with gradients."""

from mckean.sliced._directions import directions
from mckean.sliced._distances import (
    Target,
    energy_distance,
    sliced_cramer,
    sliced_mmd2,
    sliced_mmd2_grad,
    sliced_wasserstein,
)

__all__ = [
    "Target",
    "directions",
    "energy_distance",
    "sliced_cramer",
    "sliced_mmd2",
    "sliced_mmd2_grad",
    "sliced_wasserstein",
]
