"""Samplers of a density: overdamped, Metropolis-adjusted and underdamped Langevin chains, plain and in the metric of a
low-rank Hessian."""

from mckean.samplers._admm import ADMMState, DistributedADMM, GaussianShares
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
from mckean.samplers._underdamped import UnderdampedLangevin, UnderdampedState
from mckean.samplers._walks import (
    SelfRepellentState,
    SelfRepellentWalk,
    WalkSample,
    asymptotic_variance,
)

__all__ = [
    "MALA",
    "ADMMState",
    "DistributedADMM",
    "GaussianShares",
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
    "SelfRepellentState",
    "SelfRepellentWalk",
    "UnderdampedLangevin",
    "UnderdampedState",
    "WalkSample",
    "asymptotic_variance",
]
