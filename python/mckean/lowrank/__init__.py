"""Low-rank models of Hessians."""

from mckean.lowrank._cg import CGResult, conjugate_gradient, nystrom_pcg
from mckean.lowrank._density import (
    ExtremalEigenvalues,
    Outliers,
    SpectralDensity,
    extremal_eigenvalues,
    spectral_density,
)
from mckean.lowrank._generalized import CURResult, cur, generalized_nystrom
from mckean.lowrank._history import History, from_history
from mckean.lowrank._hvp import FiniteDifferenceHessian, hessian_operator, hvp
from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import NystromSketch, nystrom
from mckean.lowrank._operator import LowRankOperator, Preconditioner
from mckean.lowrank._quadrature import TraceEstimate, log_determinant, trace, trace_function
from mckean.lowrank._rates import HeavyBall, LearningRateAdvice, heavy_ball, learning_rate_advice
from mckean.lowrank._svd import SVDResult, block_krylov_svd, randomized_svd
from mckean.lowrank._woodbury import (
    from_factor,
    woodbury_logdet,
    woodbury_noise,
    woodbury_solve,
    woodbury_sqrt_solve,
)

__all__ = [
    "CGResult",
    "CURResult",
    "ExtremalEigenvalues",
    "FiniteDifferenceHessian",
    "HeavyBall",
    "History",
    "LearningRateAdvice",
    "LowRankOperator",
    "NystromSketch",
    "Outliers",
    "Preconditioner",
    "SVDResult",
    "SpectralDensity",
    "TraceEstimate",
    "block_krylov_svd",
    "conjugate_gradient",
    "cur",
    "extremal_eigenvalues",
    "from_factor",
    "from_history",
    "generalized_nystrom",
    "heavy_ball",
    "hessian_operator",
    "hvp",
    "lanczos",
    "learning_rate_advice",
    "log_determinant",
    "nystrom",
    "nystrom_pcg",
    "randomized_svd",
    "spectral_density",
    "trace",
    "trace_function",
    "woodbury_logdet",
    "woodbury_noise",
    "woodbury_solve",
    "woodbury_sqrt_solve",
]
