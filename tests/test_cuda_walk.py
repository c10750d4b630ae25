"""The CUDA executor's self-repellent walks, bit for bit those of the CPU executor.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_walk.py runs it without one, on kernels compiled for the CPU
and with so few blocks that threads have several walkers.
"""

import numpy as np
import pytest

from mckean import _core
from mckean.samplers import SelfRepellentWalk

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]


def up(a):
    return _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


def ring(m):
    """With chords, so that degrees differ."""
    A = np.zeros((m, m))
    i = np.arange(m)
    A[i, (i + 1) % m] = 1
    A[i[: m // 2], (3 * i[: m // 2] + 2) % m] = 2.0
    np.fill_diagonal(A, 0)
    return np.maximum(A, A.T)


def data(walk, kind, dtype, rows=30, d=3):
    rng = np.random.default_rng(5)
    m = len(walk.target)
    nodes = np.sort(rng.integers(0, m, rows))
    labels = rng.integers(0, 2, rows).astype(dtype)
    starts = np.searchsorted(nodes, np.arange(m + 1)).astype(np.int64)
    return kind, starts, rng.normal(size=(rows, d)).astype(dtype), labels, 0.1


def both(walk, walkers, steps, dtype, *, kind=None, shrink=1.0, in_place=False):
    """(x, mass, path, theta) of the CPU and of the device."""
    m, rng = len(walk.target), np.random.default_rng(3)
    rows = 1 if walk.shared else walkers
    deposit, scale, _ = walk._plan(float(m), 0, steps, walkers if walk.shared else 1)[0][0]
    assert len(deposit) == steps
    x = rng.integers(0, m, (walkers, 1)).astype(dtype)
    mass = np.tile(walk._start, (rows, 1)) * rng.uniform(1, 2, (rows, m))
    graph = [np.ascontiguousarray(a) for a in (*walk.transition, walk._inverse)]
    theta = rng.normal(size=(walkers, 3)).astype(dtype)
    rate = 0.5 * np.arange(1.0, steps + 1) ** -0.8
    out = []
    for executor in (_core, _cuda):
        put = up if executor is _cuda else np.array
        x_in, mass_in, theta_in = put(x), put(mass), put(theta)
        x_out, mass_out, theta_out = (
            (x_in, mass_in, theta_in)
            if in_place
            else (put(np.zeros_like(x)), put(np.zeros_like(mass)), put(np.zeros_like(theta)))
        )
        path = put(np.full((steps + 2, walkers), -1, np.int64))
        loss = None
        if kind is not None:
            code, *arrays, l2 = data(walk, kind, dtype)
            loss = (code, *map(put, arrays), l2, rate, theta_in, theta_out)
        executor.walk(
            tuple(map(put, graph)), walk.alpha, walk.shared, deposit, scale, x_in, x_out, mass_in,
            mass_out, shrink, 0.0 if shrink == 1 else 1e-3, path, 1, loss, 17, 4, 9,
        )  # fmt: skip
        if executor is _cuda:
            x_out, mass_out = down(x_out, x.shape, dtype), down(mass_out, mass.shape, "float64")
            path = down(path, (steps + 2, walkers), "int64")
            theta_out = down(theta_out, theta.shape, dtype)
        out.append((x_out, mass_out, path, theta_out if kind is not None else theta))
    for a, b in zip(*out, strict=True):
        np.testing.assert_array_equal(a, b)
    return out[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 2.5, 900.0])
def test_the_bits_are_those_of_the_cpu(dtype, shared, alpha):
    """Few walkers and more than the threads of all blocks; weights kept and computed; both ways to choose."""
    for m, walkers, steps in ((7, 1, 40), (7, 900, 12), (60, 5, 300), (60, 900, 2)):
        walk = SelfRepellentWalk(ring(m), alpha, target=1 + np.arange(m), shared=shared)
        x, mass, path, _ = both(walk, walkers, steps, dtype)
        assert (path[[0, -1]] == -1).all()
        np.testing.assert_array_equal(path[-2], x[:, 0])
        assert mass.sum() > walkers * steps


@pytest.mark.parametrize("shared", [False, True])
def test_fading_memory_and_memory_in_place(shared):
    walk = SelfRepellentWalk(ring(9), 3.0, memory=0.7, shared=shared)
    whole = both(walk, 300, 60, "float64", shrink=2.0**-20)
    again = both(walk, 300, 60, "float64", shrink=2.0**-20, in_place=True)
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", [0, 1])
def test_descent_along_the_walk(dtype, shared, kind):
    walk = SelfRepellentWalk(ring(8), 2.0, memory=0.8, shared=shared)
    *_, theta = both(walk, 400, 25, dtype, kind=kind)
    assert np.isfinite(theta).all()
    both(walk, 400, 25, dtype, kind=kind, in_place=True)


def test_samples_on_a_device():
    walk = SelfRepellentWalk(ring(20), 4.0)
    host = walk.sample(300, 200, seed=2, path=True)
    found = walk.sample(300, 200, seed=2, path=True, device="cuda")
    np.testing.assert_array_equal(found.path, host.path)
    np.testing.assert_array_equal(found.visits, host.visits)
    np.testing.assert_array_equal(found.nodes, host.nodes)
    none = SelfRepellentWalk(ring(20), 4.0, memory=0.51, shared=True)
    np.testing.assert_array_equal(
        none.sample(3, 2000, seed=2, device="cuda").measure, none.sample(3, 2000, seed=2).measure
    )


def test_no_walkers_and_no_steps():
    walk = SelfRepellentWalk(ring(7), 1.0)
    both(walk, 0, 3, "float64")
    graph = tuple(up(a) for a in (*walk.transition, walk._inverse))
    x, mass = up(np.ones((2, 1))), up(np.full((2, 7), 4.0))
    x_out, mass_out = up(np.zeros((2, 1))), up(np.zeros((2, 7)))
    none = np.empty(0)
    _cuda.walk(
        graph, 1.0, False, none, none, x, x_out, mass, mass_out, 0.5, 0.0, None, 0, None, 0, 0, 0
    )
    assert (down(x_out, (2, 1), "float64") == 1).all()
    assert (down(mass_out, (2, 7), "float64") == 2).all()
