"""Samplers of a density: overdamped, Metropolis-adjusted and underdamped Langevin chains, plain and in the metric of a
low-rank Hessian."""

from mckean.samplers._langevin import MALA, Langevin, LangevinState, MALAState
from mckean.samplers._levenberg import LevenbergMarquardtLangevin, LevenbergMarquardtState
from mckean.samplers._preconditioned import (
    PreconditionedLangevin,
    PreconditionedLangevinState,
    PreconditionedMALA,
    PreconditionedMALAState,
    PreconditionedUnderdampedLangevin,
    PreconditionedUnderdampedState,
)
from mckean.samplers._stochastic_gradient import StochasticGradientHMC, StochasticGradientState
from mckean.samplers._underdamped import (
    AdaptiveUnderdampedState,
    UnderdampedLangevin,
    UnderdampedState,
)

__all__ = [
    "MALA",
    "AdaptiveUnderdampedState",
    "Langevin",
    "LangevinState",
    "LevenbergMarquardtLangevin",
    "LevenbergMarquardtState",
    "MALAState",
    "PreconditionedLangevin",
    "PreconditionedLangevinState",
    "PreconditionedMALA",
    "PreconditionedMALAState",
    "PreconditionedUnderdampedLangevin",
    "PreconditionedUnderdampedState",
    "StochasticGradientHMC",
    "StochasticGradientState",
    "UnderdampedLangevin",
    "UnderdampedState",
]
