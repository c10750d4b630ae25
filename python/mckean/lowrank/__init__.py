"""Low-rank models of Hessians."""

from mckean.lowrank._cg import CGResult, conjugate_gradient, nystrom_pcg
from mckean.lowrank._history import History, from_history
from mckean.lowrank._hvp import FiniteDifferenceHessian, hessian_operator, hvp
from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import NystromSketch, nystrom
from mckean.lowrank._operator import LowRankOperator, Preconditioner
from mckean.lowrank._woodbury import (
    from_factor,
    woodbury_logdet,
    woodbury_noise,
    woodbury_solve,
    woodbury_sqrt_solve,
)

__all__ = [
    "CGResult",
    "FiniteDifferenceHessian",
    "History",
    "LowRankOperator",
    "NystromSketch",
    "Preconditioner",
    "conjugate_gradient",
    "from_factor",
    "from_history",
    "hessian_operator",
    "hvp",
    "lanczos",
    "nystrom",
    "nystrom_pcg",
    "woodbury_logdet",
    "woodbury_noise",
    "woodbury_solve",
    "woodbury_sqrt_solve",
]
