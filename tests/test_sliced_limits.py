"""Sliced distances where data or users are unkind: outliers, padding of weight 0, crowded slices, interrupts."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import reference_sliced as ref

import mckean as mk
from mckean import _core


@pytest.mark.parametrize("size", [1e6, 1e9, 1e12])
def test_an_outlier_costs_no_digits(size):
    """Points are projected relative to a point in their middle, which one of them cannot move."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((300, 3)).astype(np.float32) for _ in range(2))
    xi = mk.sliced.directions(3, 12, seed=1).astype(np.float32)
    y[7] = size
    _, slope = ref.sliced_mmd2(x, y, xi)
    _, grad = mk.sliced_mmd2_grad(x, y, directions=xi)
    assert np.linalg.norm(grad - slope) < 1e-5 * np.linalg.norm(slope)


def test_padding_of_weight_zero_changes_nothing(dtype):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((80, 2)).astype(dtype), rng.standard_normal((90, 2)).astype(dtype)
    padded = np.concatenate([np.full((10, 2), 1e9, dtype), y])
    weights = np.repeat([0.0, 1.0], [10, 90]).astype(dtype)
    want = mk.sliced_mmd2_grad(x, y)
    value, grad = mk.sliced_mmd2_grad(x, padded, y_weights=weights)
    tolerance = 2e-6 if dtype == "float32" else 1e-12
    assert value == pytest.approx(want[0], rel=tolerance)
    assert np.linalg.norm(grad - want[1]) < 10 * tolerance * np.linalg.norm(want[1])


@pytest.mark.parametrize("width", [1e-9, 1e-6])
def test_slices_with_a_crowd(width, dtype):
    """2.4 per cent of a large slice lie so close that the range cannot tell them apart, in descending order."""
    n = 1 << 20
    z = np.random.default_rng(2).uniform(size=n)
    crowd = n // 42
    z[:crowd] = 0.5 + width * np.arange(crowd)[::-1] / crowd
    z = z.astype(dtype)
    order = np.empty(n, np.int64)
    _core.slice_order(z, order)
    np.testing.assert_array_equal(order, np.argsort(z, kind="stable"))


def test_few_points_and_many_directions_need_little_memory():
    pytest.importorskip("resource")
    code = """
import resource
import numpy as np
import mckean as mk
xi = mk.sliced.directions(300, 60_000, "random", dtype="float32")
x = np.random.default_rng(0).standard_normal((10, 300), dtype=np.float32)
mk.sliced_mmd2_grad(x, x + 1, directions=xi[:10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mk.sliced_mmd2_grad(x, x + 1, directions=xi)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) * 1024 < 130e6


@pytest.mark.parametrize(
    "call",
    [
        "mk.sliced_mmd2_grad(x, x + 1, n_slices=2000)",
        "mk.sliced_mmd2_grad(x, x + 1, n_slices=2000, r=1.5)",
        "mk.sliced_wasserstein(x, x[1:], p=2.5, n_slices=2000, return_grad=True)",
        "mk.sliced.Target(x, n_slices=800)",
    ],
)
def test_interrupt_is_heard(call):
    """A process that would compute for a minute stops soon after SIGINT, and its library still works."""
    code = f"""
import signal
import numpy as np
import mckean as mk
x = np.random.default_rng(0).normal(size=(400_000, 2))
def ring(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.3, 1.0)  # again: an import may swallow the first
try:
    {call}
    print("not interrupted")
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    print(mk.sliced_mmd2(np.array([[0.0]]), np.array([[3.0]])))
"""
    start = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "6.0", run.stderr
    assert time.monotonic() - start < 30
