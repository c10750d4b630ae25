"""The CUDA executor's sliced distances: brute force in float64, the CPU executor, and bits that depend on nothing else.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_sliced.py runs it without one, on kernels compiled for the CPU
and with such small blocks and slabs that a few hundred points take every way.
"""

import importlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from mckean import _core

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

MMD, WASSERSTEIN = 0, 1
KINDS = [
    (MMD, 1.0),
    (MMD, 0.5),
    (MMD, 1.5),
    (WASSERSTEIN, 1.0),
    (WASSERSTEIN, 2.0),
    (WASSERSTEIN, 3.0),
]
KINDS += [(WASSERSTEIN, 1.7)]


def value_error(dtype, kind, exponent):
    """What projections in this type, and the sum of exponentials, may change."""
    if kind == MMD and exponent != 1:
        return 3e-5 if dtype == "float32" else 1e-8
    return 1e-5 if dtype == "float32" else 1e-12


def slope_error(dtype, kind, exponent):
    if kind == MMD and exponent != 1:
        return 1e-3 if dtype == "float32" else 1e-7
    return 1e-4 if dtype == "float32" else 1e-11


# ---- calls with NumPy arrays ----------------------------------------------------------------------------------------


def up(a):
    return None if a is None else _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


def sliced(
    kind,
    exponent,
    x,
    y,
    xi,
    wx=None,
    wy=None,
    *,
    scale=1.0,
    root=False,
    grad=True,
    target=None,
    stages=None,
):
    slices = len(xi)
    values = _cuda.empty([*x.shape[:-2], slices], "float64")
    gradient = _cuda.empty(list(x.shape), str(x.dtype)) if grad else None
    rest = (None, None) if target else (up(y), up(xi))
    weights = up(wx), None if target else up(wy)
    _cuda.sliced(
        kind, exponent, up(x), *rest, *weights, target, scale, root, values, gradient, stages
    )
    values = down(values, (*x.shape[:-2], slices), "float64")
    return (values, down(gradient, x.shape, str(x.dtype))) if grad else values


def on_cpu(kind, exponent, x, y, xi, wx=None, wy=None, *, scale=1.0, root=False):
    values, gradient = np.empty((*x.shape[:-2], len(xi))), np.empty_like(x)
    _core.sliced(kind, exponent, x, y, xi, wx, wy, None, scale, root, values, gradient)
    return values, gradient


def cloud(rng, *shape, dtype):
    return rng.normal(size=shape).astype(dtype)


def weights(rng, *shape):
    w = rng.random(shape) ** 2
    w[..., :: max(shape[-1] // 3, 2)] = 0.0
    w[..., -1] += 0.1
    return w / w.sum(-1, keepdims=True)


def directions(rng, slices, d, dtype):
    xi = rng.normal(size=(slices, d))
    return (xi / np.linalg.norm(xi, axis=1, keepdims=True)).astype(dtype)


def problem(dtype, n, m, d, slices, *, batch=(), weighted=False, seed=0):
    rng = np.random.default_rng([seed, n, m, d, slices])
    x, y = cloud(rng, *batch, n, d, dtype=dtype), cloud(rng, *batch, m, d, dtype=dtype)
    x[..., : n // 2, :] += np.asarray(0.5, dtype)
    xi = directions(rng, slices, d, dtype)
    return (
        x,
        y,
        xi,
        *((weights(rng, *batch, n), weights(rng, *batch, m)) if weighted else (None, None)),
    )


# ---- oracles --------------------------------------------------------------------------------------------------------


def line(kind, exponent, z, t, a, b):
    """Value and its derivatives in z of points z, t on a line with weights a, b, by all pairs or by the quantiles."""
    if kind == MMD:
        u, s = np.concatenate([z, t]), np.concatenate([-a, b])
        gap = u[:, None] - u
        size = np.abs(gap)
        power = np.where(size > 0, size**exponent, 0.0)
        slope = np.where(size > 0, exponent * power / np.where(size > 0, gap, 1.0), 0.0)
        return -s @ power @ s, (-2 * s * (slope @ s))[: len(z)]
    i, j = np.argsort(z, kind="stable"), np.argsort(t, kind="stable")
    cut_a, cut_b = np.cumsum(a[i]), np.cumsum(b[j])
    cut_a[-1] = cut_b[-1] = 1.0
    cuts = np.unique(np.concatenate([[0.0], cut_a, cut_b]).clip(0, 1))
    middle, mass = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    at_x, at_y = i[np.searchsorted(cut_a, middle)], j[np.searchsorted(cut_b, middle)]
    gap = z[at_x] - t[at_y]
    slopes = np.zeros(len(z))
    size = np.abs(gap)
    np.add.at(slopes, at_x, mass * exponent * np.sign(gap) * size ** (exponent - 1))
    return mass @ size**exponent, slopes


def project(points, centre, direction):
    """Centred in float64; the sum over coordinates in the points' type and in order, so ties are the executor's."""
    centred = (points.astype(np.float64) - centre).astype(points.dtype)
    z = np.zeros(len(points), points.dtype)
    for k, c in enumerate(direction):
        z += centred[:, k] * c
    return z.astype(np.float64)


def centre_of(y, w=None):
    """Points are seen from here: the lower median of 33 points of y with a positive weight."""
    m, parts = len(y), min(33, len(y))
    cuts = [m // parts * k + m % parts * k // parts for k in range(parts + 1)]
    there = np.arange(m) if w is None else np.flatnonzero(w > 0)
    inside = [there[(there >= a) & (there < b)] for a, b in pairwise(cuts)]
    points = y[[j[0] for j in inside if len(j)]].astype(np.float64)
    return np.sort(points, axis=0)[(len(points) - 1) // 2]


def unresolved(exponent, z, t, a, b):
    """Largest error of the slopes by pairs closer than the sum of exponentials reaches, twice what these pairs exert."""
    u, s = np.concatenate([z, t]), np.concatenate([a, b])
    gap = np.abs(u[: len(z), None] - u)
    reach = min(1e-4, 0.0625 / len(u) ** 2) * np.ptp(u)
    slope = (
        np.where((gap > 0) & (gap < reach), gap, np.inf) ** (exponent - 1)
        if exponent < 1
        else (gap < reach) * reach ** (exponent - 1)
    )
    return 4 * a * (slope @ s)


def slack(kind, exponent, x, y, xi, wx=None, wy=None):
    if kind != MMD or exponent == 1:
        return 0.0
    a = np.full(len(x), 1 / len(x)) if wx is None else wx
    b = np.full(len(y), 1 / len(y)) if wy is None else wy
    centre = centre_of(y, wy)
    return sum(
        np.linalg.norm(unresolved(exponent, project(x, centre, p), project(y, centre, p), a, b))
        for p in xi
    )


def brute(kind, exponent, x, y, xi, wx=None, wy=None):
    a = np.full(len(x), 1 / len(x)) if wx is None else wx
    b = np.full(len(y), 1 / len(y)) if wy is None else wy
    centre = centre_of(y, wy)
    both = [line(kind, exponent, project(x, centre, p), project(y, centre, p), a, b) for p in xi]
    slopes = zip((g for _, g in both), xi.astype(np.float64), strict=True)
    return np.array([v for v, _ in both]), sum(g[:, None] * p for g, p in slopes)


def close_to_brute(got, dtype, kind, exponent, *rest):
    want = brute(kind, exponent, *rest)
    close(got, want, dtype, kind, exponent, slack=slack(kind, exponent, *rest))


def close(got, want, dtype, kind, exponent, *, floor=1e-300, slack=0.0):
    """Values entry by entry, gradients in norm: near-ties that rounding turns around change two entries by a weight."""
    np.testing.assert_allclose(got[0], want[0], rtol=value_error(dtype, kind, exponent), atol=floor)
    assert got[1].shape == want[1].shape
    error = np.linalg.norm(got[1].astype(np.float64) - want[1])
    assert (
        error
        <= slope_error(dtype, kind, exponent) * np.linalg.norm(want[1].astype(np.float64))
        + floor
        + slack
    ), error


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_brute_force(kind, exponent, weighted, dtype):
    for n, m, d, slices in ((40, 61, 3, 3), (130, 70, 20, 2), (7, 300, 2, 1)):
        x, y, xi, wx, wy = problem(dtype, n, m, d, slices, weighted=weighted)
        got = sliced(kind, exponent, x, y, xi, wx, wy)
        close_to_brute(got, dtype, kind, exponent, x, y, xi, wx, wy)
        np.testing.assert_array_equal(sliced(kind, exponent, x, y, xi, wx, wy, grad=False), got[0])


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_cpu_agrees(kind, exponent, dtype):
    for n, m, wx, wy in ((510, 510, False, False), (30, 70, True, False), (130, 1, False, True)):
        x, y, xi, a, b = problem(dtype, n, m, 5, 2, weighted=True)
        a, b = a if wx else None, b if wy else None
        got = sliced(kind, exponent, x, y, xi, a, b, scale=-3.0, root=kind == WASSERSTEIN)
        want = on_cpu(kind, exponent, x, y, xi, a, b, scale=-3.0, root=kind == WASSERSTEIN)
        np.testing.assert_allclose(got[0], want[0], rtol=value_error(dtype, kind, exponent))
        if exponent < 1 and dtype == "float32":
            continue  # near-ties exert forces without bound, and the CPU rounds projections in its own way
        close(got, want, dtype, kind, exponent, slack=3 * slack(kind, exponent, x, y, xi, a, b))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "exponent"), KINDS[:3])
def test_ties_share_the_mid_value(kind, exponent, weighted, dtype):
    """Whole coordinates along the axes: every projection is exact, and most are met several times."""
    rng = np.random.default_rng(5)
    for n, m, values in ((50, 80, 7), (9, 300, 2)):
        x = rng.integers(0, values, (n, 2)).astype(dtype)
        y = rng.integers(0, values, (m, 2)).astype(dtype)
        a, b = (weights(rng, n), weights(rng, m)) if weighted else (None, None)
        xi = np.eye(2, dtype=dtype)
        got, want = sliced(kind, exponent, x, y, xi, a, b), brute(kind, exponent, x, y, xi, a, b)
        close(got, want, dtype, kind, exponent)
        if exponent == 1:
            np.testing.assert_allclose(
                got[1], want[1], rtol=0, atol=3e-7 if dtype == "float32" else 1e-15
            )


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_one_point_and_few(kind, exponent, dtype):
    for n, m, d, slices in (
        (1, 1, 1, 1),
        (1, 70, 2, 3),
        (70, 1, 65, 2),
        (3, 1000, 1, 1),
        (2, 3, 130, 66 if exponent in (1, 2) else 2),
    ):
        x, y, xi, _, _ = problem(dtype, n, m, d, slices)
        close_to_brute(sliced(kind, exponent, x, y, xi), dtype, kind, exponent, x, y, xi)
    h = np.asarray(2.0, dtype)
    got = sliced(kind, exponent, np.array([[h]]), np.zeros((1, 1), dtype), np.ones((1, 1), dtype))
    factor = 2.0 if kind == MMD else 1.0
    np.testing.assert_allclose(got[0], factor * 2**exponent, rtol=1e-4)
    np.testing.assert_allclose(got[1], factor * exponent * 2 ** (exponent - 1), rtol=1e-3)


@pytest.mark.parametrize(("kind", "exponent"), KINDS)
def test_equal_points_and_equal_measures_give_zero(kind, exponent, dtype):
    rng = np.random.default_rng(1)
    xi = directions(rng, 3, 4, dtype)
    root = kind == WASSERSTEIN
    same = np.full((130, 4), 0.3, dtype)
    for x, y in ((same, same), (same[:7], same)):
        values, gradient = sliced(kind, exponent, x, y, xi, root=root)
        assert not values.any() and not gradient.any()
    x = cloud(rng, 150, 4, dtype=dtype)
    order, w = rng.permutation(150), weights(rng, 150)
    for a, b in ((None, None), (w, w[order])):
        values, gradient = sliced(kind, exponent, x, x[order], xi, a, b, root=root)
        if kind == MMD and exponent != 1:
            np.testing.assert_allclose(values, 0, atol=1e-25)
            np.testing.assert_allclose(gradient, 0, atol=1e-12)
        else:
            assert not values.any() and not gradient.any()
    twice = np.concatenate([x, x])
    values, _ = sliced(kind, exponent, twice, x, xi, root=root)
    np.testing.assert_allclose(values, 0, atol=1e-25)


def test_negative_zero_and_subnormals(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([[-0.0], [tiny], [0.0], [-tiny]], dtype)
    y = np.array([[0.0], [-0.0]], dtype)
    xi = np.ones((1, 1), dtype)
    got, want = sliced(MMD, 1.0, x, y, xi), brute(MMD, 1.0, x, y, xi)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=0)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)
    assert got[1][0] == got[1][2] == 0


@pytest.mark.parametrize(("kind", "exponent"), [(MMD, 1.0), (WASSERSTEIN, 2.0)])
def test_far_from_the_origin(kind, exponent, dtype):
    """Points are centred before they are projected. The offset is such that it adds no rounding."""
    x, y, xi, _, _ = problem(dtype, 100, 80, 3, 4)
    x, y = (np.round(a * 64) / 64 for a in (x, y))
    far = np.asarray(8192.0, dtype)
    got = sliced(kind, exponent, x + far, y + far, xi)
    close(got, brute(kind, exponent, x, y, xi), dtype, kind, exponent)


@pytest.mark.parametrize("weighted", [False, True])
def test_an_outlier_costs_the_others_no_digits(weighted):
    """Gradients of float32 against float64: one point of y is far away, with no weight or like any other."""
    for outlier in (0, 7):  # one of the points that the centre is made of, and another one
        x, y, xi, wx, wy = problem("float32", 300, 300, 3, 4, weighted=weighted, seed=2)
        y[outlier] = 1e12 if weighted else 1e9
        if weighted:
            wy = np.where(np.arange(300) == outlier, 0.0, wy + 1e-3)
            wy /= wy.sum()
        _, got = sliced(MMD, 1.0, x, y, xi, wx, wy)
        _, want = brute(MMD, 1.0, *(a.astype(np.float64) for a in (x, y, xi)), wx, wy)
        assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("sign", [-1, 1])
def test_slopes_of_tiny_masses(sign, dtype):
    """Between all of y and all other x, where both heights are full ones; rounded masses sum to more than 1."""
    x, y = np.arange(11.0)[:, None] * sign + sign, -sign * np.arange(10.0)[:, None]
    w = np.array([1e-17] + [0.1] * 10)
    xi = np.ones((1, 1))
    points = (a.astype(dtype) for a in (x, y, xi))
    _, got = sliced(MMD, 1.0, *points, w, w[1:])
    _, want = brute(MMD, 1.0, x, y, xi, w, w[1:])
    np.testing.assert_allclose(want[0], sign * 4e-17)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 1.7])
def test_heavy_points_are_shared_by_a_block(exponent, dtype):
    """Some points of x go to thousands of points y, their neighbours to few."""
    for n, m, heavy in ((300, 3000, [17]), (600, 900, [0, 1, 599]), (3, 400, [1])):
        x, y, xi, _, _ = problem(dtype, n, m, 2, 2)
        wx = np.full(n, 0.1 / n)
        wx[heavy] += 0.9 / len(heavy)
        wx /= wx.sum()
        got = sliced(WASSERSTEIN, exponent, x, y, xi, wx)
        close_to_brute(got, dtype, WASSERSTEIN, exponent, x, y, xi, wx)
        np.testing.assert_array_equal(
            sliced(WASSERSTEIN, exponent, x, y, xi, wx, grad=False), got[0]
        )


def test_huge_gaps(dtype):
    size = 2e38 if dtype == "float32" else 1e300
    x, y = np.array([[size], [-size]], dtype), np.zeros((1, 1), dtype)
    values, gradient = sliced(MMD, 1.0, x, y, np.ones((1, 1), dtype))
    np.testing.assert_allclose(values, size, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0.5], [-0.5]], rtol=1e-6)


# ---- bits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "exponent"), KINDS[:5:2])
def test_a_target_changes_no_bit(kind, exponent, weighted, dtype):
    x, y, xi, wx, wy = problem(dtype, 40, 90, 3, 4, weighted=weighted)
    target = _cuda.sliced_target(kind, exponent, up(y), up(xi), up(wy))
    want = sliced(kind, exponent, x, y, xi, wx, wy)
    for _ in range(2):
        got = sliced(kind, exponent, x, None, xi, wx, target=target)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
    batch = np.stack([x, x[::-1]])
    w = None if wx is None else np.stack([wx, wx[::-1]])
    got = sliced(kind, exponent, batch, None, xi, w, target=target)
    want = sliced(kind, exponent, batch, y, xi, w, wy)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[0][0], got[0][1])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "exponent"), KINDS[:4:3])
def test_batches(kind, exponent, weighted, dtype):
    for n, m, slices in ((3, 4, 2), (66, 40, 3)):
        x, y, xi, wx, wy = problem(dtype, n, m, 3, slices, batch=(3,), weighted=weighted)
        root = kind == WASSERSTEIN
        got = sliced(kind, exponent, x, y, xi, wx, wy, root=root)
        shared = sliced(kind, exponent, x, y[0], xi, wx, None if wy is None else wy[0], root=root)
        for i in range(3):
            a, b = (None, None) if wx is None else (wx[i], wy[i])
            one = sliced(kind, exponent, x[i], y[i], xi, a, b, root=root)
            np.testing.assert_array_equal(got[0][i], one[0])
            np.testing.assert_array_equal(got[1][i], one[1])
            b = None if wy is None else wy[0]
            one = sliced(kind, exponent, x[i], y[0], xi, a, b, root=root)
            np.testing.assert_array_equal(shared[0][i], one[0])
            np.testing.assert_array_equal(shared[1][i], one[1])
    none = np.empty((0, 3, 3), dtype)
    assert sliced(kind, exponent, none, y[0], xi)[0].shape == (0, slices)


@pytest.mark.parametrize(("kind", "exponent"), KINDS[:4])
def test_slabs_change_no_bit(kind, exponent, dtype):
    """Slices one by one, added up in order and in the type of x, are all of them at once."""
    x, y, xi, wx, wy = problem(dtype, 130, 70, 3, 5, weighted=True)
    values, gradient = sliced(kind, exponent, x, y, xi, wx, wy)
    total = np.zeros_like(x)
    for p in range(len(xi)):
        value, one = sliced(kind, exponent, x, y, xi[p : p + 1], wx, wy)
        assert value[0] == values[p]
        total += one
    np.testing.assert_array_equal(total, gradient)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "exponent"), [(MMD, 1.0), (MMD, 0.5), (WASSERSTEIN, 2.0)])
def test_the_order_of_points_changes_no_bit(kind, exponent, weighted, dtype):
    """Points of y are seen from another centre then: all projections are exact here, and no two are equal."""
    x, y, xi, wx, wy = problem(dtype, 70, 128, 3, 2, weighted=weighted)
    x, y, xi = (np.round(a * steps) / steps for a, steps in ((x, 1024), (y, 1024), (xi, 512)))
    assert all(len(np.unique(np.concatenate([x, y]) @ p)) == 198 for p in xi)
    rng = np.random.default_rng(3)
    i, j = rng.permutation(70), rng.permutation(128)
    want = sliced(kind, exponent, x, y, xi, wx, wy)
    got = sliced(kind, exponent, x[i], y[j], xi, *((wx[i], wy[j]) if weighted else (None, None)))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1][i])


def test_results_repeat_and_inputs_are_left_alone(dtype):
    x, y, xi, wx, wy = problem(dtype, 70, 510, 4, 2, weighted=True)
    for kind, exponent in KINDS:
        there = [up(a) for a in (x, y, xi, wx, wy)]
        results = []
        for _ in range(2):
            values = _cuda.empty([len(xi)], "float64")
            gradient = _cuda.empty(list(x.shape), dtype)
            _cuda.sliced(kind, exponent, *there, None, 1.0, False, values, gradient)
            results.append((down(values, (len(xi),), "float64"), down(gradient, x.shape, dtype)))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        np.testing.assert_array_equal(results[0][1], results[1][1])
        for host, device in zip((x, y, xi, wx, wy), there, strict=True):
            np.testing.assert_array_equal(down(device, host.shape, str(host.dtype)), host)


def test_stages_add_up_and_change_nothing(dtype):
    x, y, xi, _, _ = problem(dtype, 100, 70, 4, 2)
    stages = np.full(4, 1.0)
    got, want = (sliced(MMD, 1.0, x, y, xi, stages=s) for s in (stages, None))
    np.testing.assert_array_equal(got[1], want[1])
    assert (stages > 1).all() and (stages < 61).all()


def test_threads_share_a_target(dtype):
    """Used from several threads at once and then freed: every result is the same."""
    x, y, xi, wx, wy = problem(dtype, 40, 90, 3, 4, weighted=True)
    want = sliced(MMD, 1.0, x, y, xi, wx, wy)
    target = _cuda.sliced_target(MMD, 1.0, up(y), up(xi), up(wy))
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(sliced, MMD, 1.0, x, None, xi, wx, target=target) for _ in range(8)]
    del target
    for call in calls:
        np.testing.assert_array_equal(call.result()[0], want[0])
        np.testing.assert_array_equal(call.result()[1], want[1])


# ---- frameworks -----------------------------------------------------------------------------------------------------


def test_a_stream_of_the_framework(dtype):
    """Work on two streams: a target made on one and used on the other, freed at once."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch: no CUDA")
    importlib.import_module("torch.cuda")
    x, y, xi, _, _ = problem(dtype, 3000, 70_000, 4, 30)
    want = sliced(MMD, 1.0, x, y, xi)
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    on = [torch.tensor(a, device="cuda") for a in (x, y, xi)]
    values = torch.empty(len(xi), dtype=torch.float64, device="cuda")
    gradient = torch.empty_like(on[0])
    torch.cuda.synchronize()
    target = _cuda.sliced_target(MMD, 1.0, on[1], on[2], None, first.cuda_stream)
    args = (None, None, None, None, target, 1.0, False, values, gradient, None)
    _cuda.sliced(MMD, 1.0, on[0], *args, second.cuda_stream)
    del target, args
    torch.cuda.synchronize()
    np.testing.assert_array_equal(values.cpu().numpy(), want[0])
    np.testing.assert_array_equal(gradient.cpu().numpy(), want[1])
