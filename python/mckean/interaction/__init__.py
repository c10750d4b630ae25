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
    stein_matrix,
    stein_sum,
)

__all__ = [
    "kernel_grad",
    "kernel_grad_y",
    "kernel_logsumexp",
    "kernel_matrix",
    "kernel_mean",
    "kernel_sum",
    "kernel_sum_and_grad",
    "pair_argmin",
    "stein_matrix",
    "stein_sum",
]
