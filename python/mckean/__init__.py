"""Sampling and optimising with interacting particles, on a native CPU and CUDA backend."""

from mckean import (
    brownian,
    diffusion,
    flows,
    interaction,
    kernels,
    lowrank,
    optimizers,
    random,
    samplers,
    sde,
    sliced,
    targets,
    transport,
)
from mckean._dispatch import get_num_threads, set_num_threads
from mckean._errors import CheckpointError, ConvergenceWarning, DeviceError
from mckean._info import info
from mckean._run import Result, load, run
from mckean.brownian import BrownianTree, FractionalBrownianTree, Increment
from mckean.interaction import (
    kde,
    kernel_grad,
    kernel_grad_y,
    kernel_logsumexp,
    kernel_mean,
    kernel_sum,
    kernel_sum_and_grad,
    ksd,
    median_bandwidth,
    mmd2,
    pair_argmin,
    random_batch_sum,
    stein_sum,
)
from mckean.sde import SDE, sdeint
from mckean.sliced import (
    energy_distance,
    sliced_cramer,
    sliced_mmd2,
    sliced_mmd2_grad,
    sliced_wasserstein,
)
from mckean.stepping import combine
from mckean.transport import (
    schrodinger_bridge,
    sinkhorn,
    sinkhorn_divergence,
    sinkhorn_points,
)

__all__ = [
    "SDE",
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
    "diffusion",
    "energy_distance",
    "flows",
    "get_num_threads",
    "info",
    "interaction",
    "kde",
    "kernel_grad",
    "kernel_grad_y",
    "kernel_logsumexp",
    "kernel_mean",
    "kernel_sum",
    "kernel_sum_and_grad",
    "kernels",
    "ksd",
    "load",
    "lowrank",
    "median_bandwidth",
    "mmd2",
    "optimizers",
    "pair_argmin",
    "random",
    "random_batch_sum",
    "run",
    "samplers",
    "schrodinger_bridge",
    "sde",
    "sdeint",
    "set_num_threads",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_points",
    "sliced",
    "sliced_cramer",
    "sliced_mmd2",
    "sliced_mmd2_grad",
    "sliced_wasserstein",
    "stein_sum",
    "targets",
    "transport",
]

__version__ = "0.1.0"
