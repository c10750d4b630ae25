"""Stochastic differential equations over batches of paths, with steps of their own per path."""

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
from mckean.sde._system import SDE

__all__ = [
    "SDE",
    "SEA",
    "SRA1",
    "EulerHeun",
    "EulerMaruyama",
    "GeneralShARK",
    "Heun",
    "ItoMilstein",
    "ReversibleHeun",
    "SPaRK",
    "ShARK",
    "SlowRK",
    "Solution",
    "Solver",
    "StepDoubling",
    "StratonovichMilstein",
    "Tableau",
    "sdeint",
]
