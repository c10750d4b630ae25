"""Stochastic differential equations over batches of paths, with steps of their own per path."""

from __future__ import annotations

from mckean.sde._cir import DIE, HOStS, StateStep
from mckean.sde._controllers import Clock, ConstantStep, PIDController

__all__ = ["DIE", "Clock", "ConstantStep", "HOStS", "PIDController", "StateStep"]
