"""Samplers driven by a denoiser: schedules, time grids, steps from noise to data."""

from mckean.diffusion import grids, schedules
from mckean.diffusion._ddim import DDIM
from mckean.diffusion._denoisers import MixtureDenoiser
from mckean.diffusion._lml import LML
from mckean.diffusion._multistep import Multistep2M
from mckean.diffusion._solver import DiffusionState

__all__ = [
    "DDIM",
    "LML",
    "DiffusionState",
    "MixtureDenoiser",
    "Multistep2M",
    "grids",
    "schedules",
]
