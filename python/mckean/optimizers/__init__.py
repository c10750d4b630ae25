"""Points rather than measures: second-order optimisation with low-rank Hessians."""

from mckean.optimizers._equations import Equations, Rosenbrock
from mckean.optimizers._filtered import FilteredNewton, FilteredNewtonState
from mckean.optimizers._gns import GNS, GNSState, NormalizedGradient
from mckean.optimizers._losses import LeastSquaresLoss, LogisticLoss, LogSumExp, SoftmaxLoss
from mckean.optimizers._minimize import MinimizeResult, minimize
from mckean.optimizers._objective import Objective, SampledObjective
from mckean.optimizers._scipy import SciPyMinimize, SciPyState
from mckean.optimizers._walk_sgd import NodeLeastSquares, NodeLogistic, WalkSGD, WalkSGDState

__all__ = [
    "GNS",
    "Equations",
    "FilteredNewton",
    "FilteredNewtonState",
    "GNSState",
    "LeastSquaresLoss",
    "LogSumExp",
    "LogisticLoss",
    "MinimizeResult",
    "NodeLeastSquares",
    "NodeLogistic",
    "NormalizedGradient",
    "Objective",
    "Rosenbrock",
    "SampledObjective",
    "SciPyMinimize",
    "SciPyState",
    "SoftmaxLoss",
    "WalkSGD",
    "WalkSGDState",
    "minimize",
]
