"""Low-rank models of Hessians."""

from mckean.lowrank._density import (
    ExtremalEigenvalues,
    Outliers,
    SpectralDensity,
    extremal_eigenvalues,
    spectral_density,
)
from mckean.lowrank._hvp import FiniteDifferenceHessian, hessian_operator, hvp
from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import nystrom
from mckean.lowrank._operator import LowRankOperator, Preconditioner
from mckean.lowrank._quadrature import TraceEstimate, log_determinant, trace, trace_function
from mckean.lowrank._rates import (
    HeavyBall,
    LearningRateAdvice,
    heavy_ball,
    learning_rate_advice,
)
from mckean.lowrank._woodbury import (
    from_factor,
    woodbury_logdet,
    woodbury_noise,
    woodbury_solve,
    woodbury_sqrt_solve,
)

__all__ = [
    "ExtremalEigenvalues",
    "FiniteDifferenceHessian",
    "HeavyBall",
    "LearningRateAdvice",
    "LowRankOperator",
    "Outliers",
    "Preconditioner",
    "SpectralDensity",
    "TraceEstimate",
    "extremal_eigenvalues",
    "from_factor",
    "heavy_ball",
    "hessian_operator",
    "hvp",
    "lanczos",
    "learning_rate_advice",
    "log_determinant",
    "nystrom",
    "spectral_density",
    "trace",
    "trace_function",
    "woodbury_logdet",
    "woodbury_noise",
    "woodbury_solve",
    "woodbury_sqrt_solve",
]
