"""Low-rank models of Hessians."""

from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import nystrom
from mckean.lowrank._operator import LowRankOperator, Preconditioner

__all__ = ["LowRankOperator", "Preconditioner", "lanczos", "nystrom"]
