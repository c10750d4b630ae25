"""Sampling and optimising with interacting particles, on a native CPU and CUDA backend."""

from mckean import brownian, interaction, kernels, random, samplers, targets
from mckean._dispatch import get_num_threads, set_num_threads
from mckean._errors import CheckpointError, ConvergenceWarning, DeviceError
from mckean._info import info
from mckean._run import Result, load, run
from mckean.brownian import BrownianTree, FractionalBrownianTree, Increment
from mckean.stepping import combine

__all__ = [
    "BrownianTree",
    "CheckpointError",
    "ConvergenceWarning",
    "DeviceError",
    "FractionalBrownianTree",
    "Increment",
    "Result",
    "__version__",
    "brownian",
    "combine",
    "get_num_threads",
    "info",
    "load",
    "random",
    "run",
    "samplers",
    "set_num_threads",
    "targets",
]

__version__ = "0.1.0"
