"""Sums over pairs of points, and the estimators built on them."""

from mckean.interaction._sums import (
    kernel_grad,
    kernel_grad_y,
    kernel_logsumexp,
    kernel_matrix,
    kernel_mean,
    kernel_sum,
    kernel_sum_and_grad,
    pair_argmin,
    pair_median,
    stein_matrix,
    stein_sum,
)
from mckean.interaction.bandwidth import median_bandwidth
from mckean.interaction.control_variates import (
    ControlVariateResult,
    SteinControlVariate,
    VectorControlVariateResult,
    VectorSteinControlVariate,
)
from mckean.interaction.density import (
    CriticalBandwidths,
    DensityDiagnostics,
    KernelDensity,
    critical_bandwidths,
    kde,
)
from mckean.interaction.ksd import KSDTest, ksd, ksd_test
from mckean.interaction.mean_shift import (
    AnnealedShift,
    MeanShift,
    annealed_mean_shift,
    mean_shift,
    noise_levels,
)
from mckean.interaction.medoids import KMedoids, kmedoids
from mckean.interaction.memory import (
    ClAM,
    Retrieval,
    clam_energy,
    clam_loss,
    clam_steps,
    hopfield_energy,
    hopfield_retrieve,
)
from mckean.interaction.mmd import (
    BlockEstimate,
    OptimallyWeightedMMD,
    kid,
    mmd2,
    mmd2_blocks,
    mmd2_optimally_weighted,
)
from mckean.interaction.random_batch import random_batch_sum
from mckean.interaction.ranking import BradleyTerry, bradley_terry
from mckean.interaction.softmax import SoftmaxGradient, kernel_mean_vjp
from mckean.interaction.thinning import Thinned, thin

__all__ = [
    "AnnealedShift",
    "BlockEstimate",
    "BradleyTerry",
    "ClAM",
    "ControlVariateResult",
    "CriticalBandwidths",
    "DensityDiagnostics",
    "KMedoids",
    "KSDTest",
    "KernelDensity",
    "MeanShift",
    "OptimallyWeightedMMD",
    "Retrieval",
    "SoftmaxGradient",
    "SteinControlVariate",
    "Thinned",
    "VectorControlVariateResult",
    "VectorSteinControlVariate",
    "annealed_mean_shift",
    "bradley_terry",
    "clam_energy",
    "clam_loss",
    "clam_steps",
    "critical_bandwidths",
    "hopfield_energy",
    "hopfield_retrieve",
    "kde",
    "kernel_grad",
    "kernel_grad_y",
    "kernel_logsumexp",
    "kernel_matrix",
    "kernel_mean",
    "kernel_mean_vjp",
    "kernel_sum",
    "kernel_sum_and_grad",
    "kid",
    "kmedoids",
    "ksd",
    "ksd_test",
    "mean_shift",
    "median_bandwidth",
    "mmd2",
    "mmd2_blocks",
    "mmd2_optimally_weighted",
    "noise_levels",
    "pair_argmin",
    "pair_median",
    "random_batch_sum",
    "stein_matrix",
    "stein_sum",
    "thin",
]
