"""Stochastic differential equations over batches of paths, with steps of their own per path."""

from mckean.sde._builtin import (
    CoxIngersollRoss,
    GeometricBrownian,
    Langevin,
    Lorenz,
    OrnsteinUhlenbeck,
    UnderdampedLangevin,
)
from mckean.sde._cir import DIE, HOStS, StateStep
from mckean.sde._controllers import Clock, ConstantStep, PIDController
from mckean.sde._integrate import sdeint
from mckean.sde._kinetic import ALIGN, BAOAB, QUICSORT, UBU, ExponentialEuler, ShOULD
from mckean.sde._solution import Solution
from mckean.sde._solvers import (
    SEA,
    SRA1,
    EulerHeun,
    EulerMaruyama,
    GeneralShARK,
    Heun,
    ItoMilstein,
    ReversibleHeun,
    ShARK,
    SlowRK,
    Solver,
    SPaRK,
    StepDoubling,
    StratonovichMilstein,
    Tableau,
)
from mckean.sde._strong import StrongError, StrongOrder, strong_error, strong_order
from mckean.sde._system import SDE

__all__ = [
    "ALIGN",
    "BAOAB",
    "DIE",
    "QUICSORT",
    "SDE",
    "SEA",
    "SRA1",
    "UBU",
    "Clock",
    "ConstantStep",
    "CoxIngersollRoss",
    "EulerHeun",
    "EulerMaruyama",
    "ExponentialEuler",
    "GeneralShARK",
    "GeometricBrownian",
    "HOStS",
    "Heun",
    "ItoMilstein",
    "Langevin",
    "Lorenz",
    "OrnsteinUhlenbeck",
    "PIDController",
    "ReversibleHeun",
    "SPaRK",
    "ShARK",
    "ShOULD",
    "SlowRK",
    "Solution",
    "Solver",
    "StateStep",
    "StepDoubling",
    "StratonovichMilstein",
    "StrongError",
    "StrongOrder",
    "Tableau",
    "UnderdampedLangevin",
    "sdeint",
    "strong_error",
    "strong_order",
]
