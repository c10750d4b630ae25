"""Low-rank models of Hessians."""

from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import nystrom
from mckean.lowrank._operator import LowRankOperator

__all__ = ["LowRankOperator", "lanczos", "nystrom"]
