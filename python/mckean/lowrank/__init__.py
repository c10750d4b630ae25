"""Low-rank models of Hessians."""

from mckean.lowrank._lanczos import lanczos
from mckean.lowrank._nystrom import NystromSketch, nystrom
from mckean.lowrank._operator import LowRankOperator

__all__ = ["LowRankOperator", "NystromSketch", "lanczos", "nystrom"]
