"""Flows that move particles onto data: gradient flows of the sliced and exact MMD and of the Sinkhorn divergence."""

from mckean.flows._conditional import ConditionalSlicedMMDFlow, posterior_samples
from mckean.flows._heavy_ball import FlowState
from mckean.flows._mmd import MMDFlow
from mckean.flows._sinkhorn import SinkhornFlow, SinkhornFlowState
from mckean.flows._sliced import SlicedMMDFlow

__all__ = [
    "ConditionalSlicedMMDFlow",
    "FlowState",
    "MMDFlow",
    "SinkhornFlow",
    "SinkhornFlowState",
    "SlicedMMDFlow",
    "posterior_samples",
]
