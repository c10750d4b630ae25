"""Low-rank models of Hessians."""

from mckean.lowrank._hvp import FiniteDifferenceHessian, hessian_operator, hvp
from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import nystrom
from mckean.lowrank._operator import LowRankOperator, Preconditioner
from mckean.lowrank._woodbury import (
    from_factor,
    woodbury_logdet,
    woodbury_noise,
    woodbury_solve,
    woodbury_sqrt_solve,
)

__all__ = [
    "FiniteDifferenceHessian",
    "LowRankOperator",
    "Preconditioner",
    "from_factor",
    "hessian_operator",
    "hvp",
    "lanczos",
    "nystrom",
    "woodbury_logdet",
    "woodbury_noise",
    "woodbury_solve",
    "woodbury_sqrt_solve",
]
