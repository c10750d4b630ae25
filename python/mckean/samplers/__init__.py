"""Samplers of a density: overdamped, Metropolis-adjusted and underdamped Langevin chains."""

from mckean.samplers._langevin import MALA, Langevin, LangevinState, MALAState
from mckean.samplers._underdamped import UnderdampedLangevin, UnderdampedState

__all__ = [
    "MALA",
    "Langevin",
    "LangevinState",
    "MALAState",
    "UnderdampedLangevin",
    "UnderdampedState",
]
