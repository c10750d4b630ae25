"""Stochastic differential equations over batches of paths, with steps of their own per path."""

from mckean.sde._cir import DIE, HOStS, StateStep
from mckean.sde._controllers import Clock, ConstantStep, PIDController
from mckean.sde._integrate import sdeint
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
    "DIE",
    "SDE",
    "SEA",
    "SRA1",
    "Clock",
    "ConstantStep",
    "EulerHeun",
    "EulerMaruyama",
    "GeneralShARK",
    "HOStS",
    "Heun",
    "ItoMilstein",
    "PIDController",
    "ReversibleHeun",
    "SPaRK",
    "ShARK",
    "SlowRK",
    "Solution",
    "Solver",
    "StateStep",
    "StepDoubling",
    "StratonovichMilstein",
    "StrongError",
    "StrongOrder",
    "Tableau",
    "sdeint",
    "strong_error",
    "strong_order",
]
