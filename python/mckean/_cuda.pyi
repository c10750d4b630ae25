from collections.abc import Sequence
from typing import Annotated, Any, overload

import numpy
from numpy.typing import NDArray


def device_status() -> str:
    """Empty, or why no CUDA device can be used."""

def device_count() -> int: ...

def devices() -> list[dict[str, int | str]]: ...

def empty(shape: Sequence[int], dtype: str, device_index: int = 0, queue: int = 0) -> object:
    """Uninitialised device memory, freed on `queue`."""

@overload
def to_device(array: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)], device_index: int = 0, queue: int = 0) -> Annotated[Any, dict(dtype='float32', device='cuda')]: ...

@overload
def to_device(array: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], device_index: int = 0, queue: int = 0) -> Annotated[Any, dict(dtype='float64', device='cuda')]: ...

@overload
def to_device(array: Annotated[NDArray[numpy.uint8], dict(order='C', device='cpu', writable=False)], device_index: int = 0, queue: int = 0) -> Annotated[Any, dict(dtype='uint8', device='cuda')]: ...

@overload
def to_device(array: Annotated[NDArray[numpy.uint32], dict(order='C', device='cpu', writable=False)], device_index: int = 0, queue: int = 0) -> Annotated[Any, dict(dtype='uint32', device='cuda')]: ...

@overload
def to_device(array: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], device_index: int = 0, queue: int = 0) -> Annotated[Any, dict(dtype='int64', device='cuda')]: ...

@overload
def to_host(array: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')], queue: int = 0) -> None: ...

@overload
def to_host(array: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu')], queue: int = 0) -> None: ...

@overload
def to_host(array: Annotated[NDArray[numpy.uint8], dict(order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(order='C', device='cpu')], queue: int = 0) -> None: ...

@overload
def to_host(array: Annotated[NDArray[numpy.uint32], dict(order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.uint32], dict(order='C', device='cpu')], queue: int = 0) -> None: ...

@overload
def to_host(array: Annotated[NDArray[numpy.int64], dict(order='C', device='cuda', writable=False)], out: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu')], queue: int = 0) -> None:
    """Copies to the NumPy array `out` and returns when it is there."""

def random_words(out: Annotated[NDArray[numpy.uint32], dict(order='C', device='cuda')], seed: int, stream: int, counter: int, first: int, queue: int = 0) -> None: ...

@overload
def fill_uniform(out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], seed: int, stream: int, counter: int, first: int, queue: int = 0) -> None: ...

@overload
def fill_uniform(out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], seed: int, stream: int, counter: int, first: int, queue: int = 0) -> None: ...

@overload
def fill_normal(out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], seed: int, stream: int, counter: int, first: int, queue: int = 0) -> None: ...

@overload
def fill_normal(out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], seed: int, stream: int, counter: int, first: int, queue: int = 0) -> None: ...

@overload
def step_noise(outs: Sequence[Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')]], scales: Sequence[float], seed: int, counter: int, queue: int = 0) -> None: ...

@overload
def step_noise(outs: Sequence[Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')]], scales: Sequence[float], seed: int, counter: int, queue: int = 0) -> None: ...

class Tree:
    def __init__(self, seed: int, components: int, depth: int, t0: float, t1: float, first_lane: int, paths: int, dim: int, value_bytes: int) -> None: ...

    @overload
    def increment(self, s: float, t: float, W: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def increment(self, s: float, t: float, W: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def increment_per_path(self, s: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], t: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], W: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def increment_per_path(self, s: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], t: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], W: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def increments(self, ts: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], W: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def increments(self, ts: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], W: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, H: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, K: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

    @overload
    def fractional(self, ts: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], leaf: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], weight: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], past: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, partial: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

    @overload
    def fractional(self, ts: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], leaf: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], weight: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], past: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, partial: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def kernel_sum(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, columns: int, per_batch: bool, out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def kernel_sum(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, columns: int, per_batch: bool, out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def kernel_gradient(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, per_batch: bool, in_y: bool, sum: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> int: ...

@overload
def kernel_gradient(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, per_batch: bool, in_y: bool, sum: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> int: ...

@overload
def kernel_softmax(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, log_weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, per_batch: bool, values: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, columns: int, values_per_batch: bool, logsumexp: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, mean: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> int: ...

@overload
def kernel_softmax(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, log_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, per_batch: bool, values: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, columns: int, values_per_batch: bool, logsumexp: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, mean: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> int: ...

@overload
def stein_sum(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, scores_x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], scores_y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, columns: int, per_batch: bool, out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def stein_sum(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, scores_x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], scores_y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, columns: int, per_batch: bool, out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def kernel_matrix(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, scores_x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, scores_y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, out: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def kernel_matrix(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], terms: Sequence[tuple[int, float, float, float, float, int]], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, scores_x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, scores_y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, out: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def nearest(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, count: int, index: Annotated[NDArray[numpy.int64], dict(order='C', device='cuda')], distance: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def nearest(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], metrics: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)] | None, exclude_self: bool, count: int, index: Annotated[NDArray[numpy.int64], dict(order='C', device='cuda')], distance: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def pair_median(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], queue: int = 0) -> tuple[float, float]: ...

@overload
def pair_median(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], queue: int = 0) -> tuple[float, float]: ...

class SlicedTargetF32:
    pass

@overload
def sliced_target(kind: int, exponent: float, y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], directions: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, queue: int = 0) -> SlicedTargetF32: ...

@overload
def sliced_target(kind: int, exponent: float, y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], directions: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, queue: int = 0) -> SlicedTargetF64: ...

@overload
def sliced(kind: int, exponent: float, x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, directions: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)] | None, x_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, y_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, target: SlicedTargetF32 | None, scale: float, root: bool, values: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, stages: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu')] | None = None, queue: int = 0) -> None: ...

@overload
def sliced(kind: int, exponent: float, x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], y: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, directions: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, x_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, y_weights: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)] | None, target: SlicedTargetF64 | None, scale: float, root: bool, values: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, stages: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu')] | None = None, queue: int = 0) -> None: ...

class SlicedTargetF64:
    pass

@overload
def gaussian_mixture(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], means: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], whitening: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], constants: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], density: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def gaussian_mixture(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], means: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], whitening: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], constants: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], density: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def funnel(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], precision: float, constant: float, density: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def funnel(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], precision: float, constant: float, density: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def banana(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], precision: float, curvature: float, offset: float, constant: float, density: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def banana(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], precision: float, curvature: float, offset: float, constant: float, density: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def logistic_regression(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], signed_rows: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], precision: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], constant: float, density: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def logistic_regression(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], signed_rows: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], precision: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], constant: float, density: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')] | None, queue: int = 0) -> None: ...

@overload
def combine(outs: Sequence[Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')]], arrays: Sequence[Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)]], coefficients: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], row_coefficients: Sequence[tuple[int, int, Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)]]], noise_scales: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], row_noise: Sequence[tuple[int, Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)]]], rows: int, cols: int, seed: int, stream: int, counter: int, queue: int = 0) -> None: ...

@overload
def combine(outs: Sequence[Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')]], arrays: Sequence[Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)]], coefficients: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], row_coefficients: Sequence[tuple[int, int, Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)]]], noise_scales: Annotated[NDArray[numpy.float64], dict(order='C', device='cpu', writable=False)], row_noise: Sequence[tuple[int, Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)]]], rows: int, cols: int, seed: int, stream: int, counter: int, queue: int = 0) -> None: ...

@overload
def metropolis(x: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], x_proposed: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], gradient: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], gradient_proposed: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], log_density: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], log_density_proposed: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda', writable=False)], step: float, seed: int, counter: int, x_new: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], gradient_new: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], log_density_new: Annotated[NDArray[numpy.float32], dict(order='C', device='cuda')], accepted: Annotated[NDArray[numpy.uint8], dict(order='C', device='cuda')], queue: int = 0) -> None: ...

@overload
def metropolis(x: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], x_proposed: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], gradient: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], gradient_proposed: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], log_density: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], log_density_proposed: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda', writable=False)], step: float, seed: int, counter: int, x_new: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], gradient_new: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], log_density_new: Annotated[NDArray[numpy.float64], dict(order='C', device='cuda')], accepted: Annotated[NDArray[numpy.uint8], dict(order='C', device='cuda')], queue: int = 0) -> None: ...
