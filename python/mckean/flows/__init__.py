"""Flows that move particles onto data: gradient flows of the sliced and the exact maximum mean discrepancy."""

from mckean.flows._conditional import ConditionalSlicedMMDFlow, posterior_samples
from mckean.flows._heavy_ball import FlowState
from mckean.flows._mmd import MMDFlow
from mckean.flows._sliced import SlicedMMDFlow

__all__ = [
    "ConditionalSlicedMMDFlow",
    "FlowState",
    "MMDFlow",
    "SlicedMMDFlow",
    "posterior_samples",
]
