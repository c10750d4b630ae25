"""Samplers of a density: overdamped, Metropolis-adjusted and underdamped Langevin chains, plain and in the metric of a
low-rank Hessian; proximal chains for nonsmooth densities, chains confined to sets, and chains of positive states."""

from mckean.samplers._bregman import (
    BregmanProximalLangevin,
    BregmanProximalState,
    MoreauYosidaLangevin,
)
from mckean.samplers._langevin import MALA, Langevin, LangevinState, MALAState
from mckean.samplers._legendre import BoltzmannShannon, Burg, Euclidean, Hyperbolic
from mckean.samplers._levenberg import LevenbergMarquardtLangevin, LevenbergMarquardtState
from mckean.samplers._multiplicative import (
    GeometricLangevin,
    MultiplicativeState,
    ReverseGeometricBrownian,
)
from mckean.samplers._preconditioned import (
    PreconditionedLangevin,
    PreconditionedLangevinState,
    PreconditionedMALA,
    PreconditionedMALAState,
    PreconditionedUnderdampedLangevin,
    PreconditionedUnderdampedState,
)
from mckean.samplers._proximal import (
    GroupNorm,
    L1Norm,
    L2Norm,
    ProximalMap,
    Separable,
    SquaredNorm,
    moreau_envelope,
    proximal_map,
)
from mckean.samplers._reflected import ReflectedLangevin
from mckean.samplers._sets import Ball, Box, HalfSpace, HalfSpaces, Simplex
from mckean.samplers._stochastic_gradient import StochasticGradientHMC, StochasticGradientState
from mckean.samplers._underdamped import (
    AdaptiveUnderdampedState,
    UnderdampedLangevin,
    UnderdampedState,
)
from mckean.samplers._walks import (
    SelfRepellentState,
    SelfRepellentWalk,
    WalkSample,
    asymptotic_variance,
)

__all__ = [
    "MALA",
    "AdaptiveUnderdampedState",
    "Ball",
    "BoltzmannShannon",
    "Box",
    "BregmanProximalLangevin",
    "BregmanProximalState",
    "Burg",
    "Euclidean",
    "GeometricLangevin",
    "GroupNorm",
    "HalfSpace",
    "HalfSpaces",
    "Hyperbolic",
    "L1Norm",
    "L2Norm",
    "Langevin",
    "LangevinState",
    "LevenbergMarquardtLangevin",
    "LevenbergMarquardtState",
    "MALAState",
    "MoreauYosidaLangevin",
    "MultiplicativeState",
    "PreconditionedLangevin",
    "PreconditionedLangevinState",
    "PreconditionedMALA",
    "PreconditionedMALAState",
    "PreconditionedUnderdampedLangevin",
    "PreconditionedUnderdampedState",
    "ProximalMap",
    "ReflectedLangevin",
    "ReverseGeometricBrownian",
    "SelfRepellentState",
    "SelfRepellentWalk",
    "Separable",
    "Simplex",
    "SquaredNorm",
    "StochasticGradientHMC",
    "StochasticGradientState",
    "UnderdampedLangevin",
    "UnderdampedState",
    "WalkSample",
    "asymptotic_variance",
    "moreau_envelope",
    "proximal_map",
]
