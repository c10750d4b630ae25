"""The CUDA executor's interaction sums: the brute force of their CPU twin in float64, and no others' bits.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_interaction.py runs it without one, on kernels compiled for the
CPU.
"""

import importlib
import warnings

import numpy as np
import pytest
import reference_interaction as ref

from mckean import _core
from mckean import kernels as ks
from mckean.interaction import _sums

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

TOLERANCE = {"float64": 2e-12, "float32": 1e-5}
FRAMEWORKS = ["torch", "cupy", "jax"]


# ---- calls with NumPy arrays ----------------------------------------------------------------------------------------


def up(a):
    return None if a is None else _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


class Device:
    """One executor of a problem: arrays go there and come back."""

    def __init__(self, k, x, y, exclude=False):
        self.x, self.dtype = x, str(x.dtype)
        self.there = (up(x), up(y))
        self.terms = _sums.native_terms(k, x.shape[-1], str(x.dtype))
        self.exclude = exclude
        self.n_y = y.shape[-2]

    def run(self, name, *rest, outputs):
        """The function with the problem's arguments, `rest`, and fresh outputs (shape or None) in the places of `...`."""
        made, args, shapes = [], [], iter(outputs)
        for a in rest:
            if a is not ...:
                args.append(up(a) if isinstance(a, np.ndarray) else a)
                continue
            shape = next(shapes)
            args.append(None if shape is None else _cuda.empty(list(shape), self.dtype))
            if shape is not None:
                made.append((args[-1], shape))
        problem = (*self.there, *self.terms)
        if name != "kernel_matrix":
            problem = (*problem, self.exclude)
        self.returned = getattr(_cuda, name)(*problem, *args)
        back = [down(a, shape, self.dtype) for a, shape in made]
        return back[0] if len(back) == 1 else back

    def weights(self, w):
        """weights, columns, per_batch."""
        if w is None:
            return None, 1, False
        own = self.x.ndim == 3 and w.ndim > 1
        return w, w.shape[-1] if w.ndim == (3 if own else 2) else 1, own

    def shape(self, w):
        """Of a sum with these weights."""
        return self.x.shape[:-1] + (() if w is None or w.ndim < self.x.ndim else w.shape[-1:])

    def sum(self, w=None):
        return self.run("kernel_sum", *self.weights(w), ..., outputs=[self.shape(w)])

    def grad(self, w=None, in_y=False, with_sum=False):
        w, _, own = self.weights(w)
        total = self.x.shape[:-1] if with_sum else None
        return self.run("kernel_gradient", w, own, in_y, ..., ..., outputs=[total, self.x.shape])

    def logsumexp(self, lw=None):
        lw, _, own = self.weights(lw)
        outputs = [self.x.shape[:-1], None]
        return self.run("kernel_softmax", lw, own, None, 1, False, ..., ..., outputs=outputs)

    def mean(self, values, lw=None):
        lw, _, own = self.weights(lw)
        outputs = [None, (*self.x.shape[:-1], values.shape[-1])]
        return self.run("kernel_softmax", lw, own, *self.weights(values), ..., ..., outputs=outputs)

    def stein(self, sx, sy, w=None):
        return self.run("stein_sum", sx, sy, *self.weights(w), ..., outputs=[self.shape(w)])

    def matrix(self, sx=None, sy=None):
        return self.run("kernel_matrix", sx, sy, ..., outputs=[(*self.x.shape[:-1], self.n_y)])


def nearest(x, y, count, exclude=False, metrics=None):
    shape = (*x.shape[:-1], count)
    index, distance = _cuda.empty(list(shape), "int64"), _cuda.empty(list(shape), str(x.dtype))
    _cuda.nearest(up(x), up(y), metrics, exclude, count, index, distance)
    return down(index, shape, "int64"), down(distance, shape, str(x.dtype))


def all_kernels(d):
    """Every kind of term, on the scale of standard normal points in `d` dimensions."""
    unit = d**0.5
    scales = np.linspace(0.5, 2.0, d) * unit
    return {
        "gaussian": ks.Gaussian(0.7 * unit),
        "gaussian scaled": ks.Gaussian(scales),
        "laplace": ks.Laplace(scales),
        "matern32": ks.Matern32(unit),
        "matern32 scaled": ks.Matern32(scales),
        "matern52": ks.Matern52(2.0 * unit),
        "multiquadric": ks.Multiquadric(unit),
        "imq": ks.InverseMultiquadric(2.0 * unit),
        "imq scaled": ks.InverseMultiquadric(scales, -0.3),
        "cauchy": ks.Cauchy(unit),
        "rational": ks.RationalQuadratic(unit, 2.0),
        "riesz": ks.Riesz(0.5),
        "energy": ks.Energy(),
        "log": ks.Log(),
        "coulomb": ks.Coulomb(softening=0.2),
        "polynomial": ks.Polynomial(),
        "homogeneous": ks.Polynomial(2, gamma=0.5 / d, c=0.0),
        "linear": ks.Polynomial(1),
        "sinc": ks.Sinc(1.2 / unit),
        "dot": ks.Dot(0.3 / d),
        "positive sum": ks.Gaussian(unit) + 0.5 * ks.Laplace(scales) + ks.Dot(0.3 / d),
        "stein sum": ks.Gaussian(unit) + 0.5 * ks.Matern52(scales) + -1 * ks.Polynomial(2),
        "sum": ks.Gaussian(unit)
        + ks.Energy()
        + 0.5 * ks.Laplace(scales)
        + ks.Polynomial(2)
        + ks.Sinc(0.3 / unit),
    }


def data(dtype, d, n, m, seed=0):
    rng = np.random.default_rng([seed, d, n, m])

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    return draw(n, d), draw(m, d), draw(m), draw(n, d), draw(m, d)


def close(got, want, scale, tolerance):
    """|got - want| <= tolerance * scale; scale is the sum of absolute terms."""
    assert got.shape == want.shape
    wrong = np.abs(got.astype(np.float64) - want) > tolerance * scale + 1e-30
    assert not wrong.any(), np.max(np.abs(got - want) / (scale + 1e-30))


def sizes_of_terms(k, x, y, exclude):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return sum(np.abs(ref._mask(ref._term_parts(t, x, y)[0], exclude)) for t in k.terms(x.shape[1]))


# ---- against brute force --------------------------------------------------------------------------------------------

KINDS = list(all_kernels(2))


@pytest.mark.parametrize("d", [3, 19])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_and_gradients(kind, d, dtype):
    k, tol = all_kernels(d)[kind], TOLERANCE[dtype]
    for n, m, exclude in ((66, 130, True), (3, 65, False)):
        x, y, w, _, _ = data(dtype, d, n, m)
        on = Device(k, x, y, exclude)
        value, gx, gy = (ref._mask(a, exclude) for a in ref._parts(k, x, y)[:3])
        size, w64 = sizes_of_terms(k, x, y, exclude), w.astype(np.float64)
        scale = size @ np.abs(w64)
        close(on.sum(w), value @ w64, scale, tol)
        for in_y, g in ((False, gx), (True, gy)):
            gscale = np.einsum("ijd,j->i", np.abs(g), np.abs(w64))[:, None] / d**0.5
            gscale = gscale + (1e-2 * scale[:, None] if len(k.terms(d)) > 1 else 0)
            want = np.einsum("ijd,j->id", g, w64)
            both = on.grad(w, in_y, True)
            close(both[0], value @ w64, scale, tol)
            close(both[1], want, gscale, 3 * tol)
        np.testing.assert_array_equal(on.grad(w, True), both[1])
        close(on.matrix(), ref.matrix(k, x, y), np.abs(ref.matrix(k, x, y)) + 0.2, tol)


@pytest.mark.parametrize("d", [1, 2, 4, 5, 16, 17, 33, 65])
def test_gradients_in_any_dimension(d, dtype):
    k = ks.Matern52(np.linspace(1.0, 3.0, d) * d**0.5) + ks.Dot(0.3 / d)
    x, y, w, _, _ = data(dtype, d, 20, 300)
    gx, gy = ref._parts(k, x, y)[1:3]
    for in_y, g in ((False, gx), (True, gy)):
        want = np.einsum("ijd,j->id", g, w.astype(np.float64))
        scale = np.einsum("ijd,j->i", np.abs(g), np.abs(w))[:, None] / d**0.5
        close(Device(k, x, y).grad(w, in_y), want, scale, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("columns", [1, 2, 4, 5, 17, 130])
@pytest.mark.parametrize("d", [2, 20])
def test_several_columns_of_weights(columns, d, dtype):
    k = ks.Gaussian(d**0.5) + ks.Laplace(np.linspace(1.0, 2.0, d))
    for n, m, exclude in ((65, 300, True), (2, 1, False)):
        x, y, _, sx, sy = data(dtype, d, n, m)
        w = np.random.default_rng(columns).normal(size=(m, columns)).astype(dtype)
        on = Device(k, x, y, exclude)
        size = sizes_of_terms(k, x, y, exclude)
        close(
            on.sum(w),
            ref.kernel_sum(k, x, y, w, exclude_self=exclude),
            size @ np.abs(w),
            TOLERANCE[dtype],
        )
        smooth = ks.InverseMultiquadric(np.linspace(1.0, 2.0, d)) + ks.Polynomial(2)
        want = ref.stein_sum(smooth, x, sx, y=y, y_scores=sy, weights=w, exclude_self=exclude)
        bound = np.abs(ref._mask(ref.stein_matrix(smooth, x, sx, y, sy), exclude)) + d
        got = Device(smooth, x, y, exclude).stein(sx, sy, w)
        close(got, want, bound @ np.abs(w), 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("d", [3, 19])
@pytest.mark.parametrize("kind", [k for k in KINDS if all_kernels(2)[k].is_positive])
def test_softmax(kind, d, dtype):
    k, tol = all_kernels(d)[kind], TOLERANCE[dtype]
    n, m = 65, 130
    x, y, lw, _, _ = data(dtype, d, n, m)
    lw[5:9] = -np.inf
    for exclude, given in ((True, lw), (False, None)):
        on = Device(k, x, y, exclude)
        want = ref.kernel_logsumexp(k, x, y, given, exclude_self=exclude)
        close(on.logsumexp(given), want, 1 + np.abs(want), tol)
        for columns in (3, 7, 33):
            values = np.random.default_rng(columns).normal(size=(m, columns)).astype(dtype)
            want = ref.kernel_mean(k, x, y, values, given, exclude_self=exclude)
            close(on.mean(values, given), want, 4.0, tol)


@pytest.mark.parametrize("d", [3, 19])
@pytest.mark.parametrize("kind", [k for k in KINDS if all_kernels(2)[k].has_stein])
def test_stein_kernels(kind, d, dtype):
    k, tol = all_kernels(d)[kind], 3 * TOLERANCE[dtype]
    for n, m, exclude in ((66, 130, True), (3, 65, False)):
        x, y, w, sx, sy = data(dtype, d, n, m)
        on = Device(k, x, y, exclude)
        full = ref.stein_matrix(k, x, sx, y, sy)
        stein, size = ref._mask(full, exclude), sizes_of_terms(k, x, y, exclude)
        bound = (np.abs(stein) + size * d) @ np.abs(w.astype(np.float64))
        close(on.stein(sx, sy, w), stein @ w.astype(np.float64), bound, tol)
        close(on.matrix(sx, sy), full, np.abs(full) + d, tol)


def test_long_sums_keep_their_digits():
    """Many equal terms: one sum of floats would lose two digits more."""
    m = 40_003
    x, y = np.zeros((1, 1), "float32"), np.full((m, 1), 0.5, "float32")
    want = m * np.exp(-0.125)
    on = Device(ks.Gaussian(1.0), x, y)
    assert abs(on.sum()[0] / want - 1) < 1e-6
    assert abs(on.grad()[0, 0] / (0.5 * want) - 1) < 1e-6
    assert abs(on.logsumexp()[0] - np.log(want)) < 2e-6
    assert abs(on.sum(np.ones((m, 20), "float32"))[0, 7] / want - 1) < 5e-6


@pytest.mark.parametrize("d", [2, 20])
def test_near_duplicates_far_from_the_origin(d, dtype):
    """Differences of coordinates lose nothing, whatever is common to all points."""
    rng = np.random.default_rng(d)
    x = (1000.0 + np.round(rng.normal(size=(70, d)), 1)).astype(dtype)
    y = (x + np.float32(2.0**-8) * rng.integers(-3, 4, (70, d))).astype(dtype)
    k = ks.Laplace(0.05)
    w = np.abs(rng.normal(size=70)).astype(dtype)
    on, scale = Device(k, x, y), ref.kernel_sum(k, x, y, w)
    close(on.sum(w), scale, scale, TOLERANCE[dtype])
    gscale = np.abs(ref._parts(k, x, y)[1]).sum((1, 2))[:, None]
    close(on.grad(w), ref.kernel_grad(k, x, y, w), gscale, TOLERANCE[dtype])


def test_far_points_and_shifted_log_weights(dtype):
    """Maxima that rise tile by tile, thread by thread, and between slabs; exponents far outside the range of exp."""
    m = 700
    x = np.array([[0.0], [50.0], [-300.0]], dtype)
    y = np.linspace(400.0, 1.0, m).astype(dtype)[:, None]
    lw = (np.random.default_rng(1).normal(size=m) * 5 - 1e4).astype(dtype)
    values = np.random.default_rng(2).normal(size=(m, 40)).astype(dtype)
    for k in (ks.Gaussian(1.0), ks.Laplace(0.1) + ks.Gaussian(3.0)):
        on = Device(k, x, y)
        want = ref.kernel_logsumexp(k, x, y, lw)
        close(on.logsumexp(lw), want, np.abs(want), TOLERANCE[dtype])
        for columns in (3, 40):
            v = np.ascontiguousarray(values[:, :columns])
            # An exponent e costs e eps of the weights.
            near = Device(k, y[300:310] + dtype_half(dtype), y)
            got, want = (
                near.mean(v, lw + dtype_half(dtype)),
                ref.kernel_mean(k, y[300:310] + dtype_half(dtype), y, v, lw),
            )
            close(got, want, 4.0, 1e3 * TOLERANCE[dtype])


def dtype_half(dtype):
    return np.asarray(0.5, dtype)


def test_weights_of_nothing(dtype):
    x, y, _, _, _ = data(dtype, 2, 5, 66)
    on = Device(ks.Gaussian(1.0), x, y)
    nothing = np.full(66, -np.inf, dtype)
    assert (on.logsumexp(nothing) == -np.inf).all()
    alone = Device(ks.Gaussian(1.0), x[:1], x[:1], True)
    assert (
        (alone.logsumexp() == -np.inf).all()
        and (alone.sum() == 0).all()
        and (alone.grad() == 0).all()
    )


@pytest.mark.parametrize("d", [2, 7, 20])
def test_coincident_points_have_no_force(d, dtype):
    k = ks.Log()
    x = np.random.default_rng(d).normal(size=(70, d)).astype(dtype)
    y = np.concatenate([x[:3], x[:2], x[10:]])
    w = np.ones(len(y), dtype)
    for exclude, pairs in ((False, 65), (True, 62)):
        on = Device(k, x, y, exclude)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = on.grad(w)
        assert on.returned == pairs
        g = ref._mask(ref._parts(k, x, y)[1], exclude)
        close(got, g.sum(1), np.abs(g).sum((1, 2))[:, None], 3 * TOLERANCE[dtype])
    on = Device(ks.Energy(), x, y)
    on.grad(w)
    assert on.returned == 0  # not singular


# ---- shapes ---------------------------------------------------------------------------------------------------------


def test_batches_are_the_single_problems(dtype):
    k = ks.Gaussian(1.0) + ks.Energy()
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(dtype)

    def same(got, want):
        atol = TOLERANCE[dtype] * max(1.0, np.abs(got).max())
        np.testing.assert_allclose(got, np.stack(want), rtol=0, atol=atol)

    for d, q in ((2, 3), (20, 40)):
        x, y, sx, sy = draw(3, 66, d), draw(3, 300, d), draw(3, 66, d), draw(3, 300, d)
        w, shared, values = draw(3, 300), draw(300), draw(3, 300, q)
        on, one = Device(k, x, y, True), [Device(k, a, b, True) for a, b in zip(x, y, strict=True)]
        positive = [Device(ks.Gaussian(1.0), x, y)] + [
            Device(ks.Gaussian(1.0), a, b) for a, b in zip(x, y, strict=True)
        ]
        imq = ks.InverseMultiquadric(1.0)
        stein = [Device(imq, x, y)] + [Device(imq, a, b) for a, b in zip(x, y, strict=True)]
        same(on.sum(w), [p.sum(w[i]) for i, p in enumerate(one)])
        same(on.sum(shared), [p.sum(shared) for p in one])
        same(on.sum(values), [p.sum(values[i]) for i, p in enumerate(one)])
        same(on.grad(w), [p.grad(w[i]) for i, p in enumerate(one)])
        same(on.grad(shared, True), [p.grad(shared, True) for p in one])
        same(on.matrix(), [p.matrix() for p in one])
        same(positive[0].logsumexp(w), [p.logsumexp(w[i]) for i, p in enumerate(positive[1:])])
        same(
            positive[0].mean(values, shared),
            [p.mean(values[i], shared) for i, p in enumerate(positive[1:])],
        )
        same(
            stein[0].stein(sx, sy, w),
            [p.stein(sx[i], sy[i], w[i]) for i, p in enumerate(stein[1:])],
        )
        got = nearest(x, y, 3)
        for i in range(3):
            np.testing.assert_array_equal(got[0][i], nearest(x[i], y[i], 3)[0])


@pytest.mark.parametrize("shape", [(0, 5, 2), (5, 0, 2), (0, 0, 20), (5, 0, 20), (1, 1, 1)])
def test_few_points_or_none(shape, dtype):
    n, m, d = shape
    x, y, w, sx, sy = data(dtype, d, n, m)
    k = ks.Gaussian(1.0)
    on = Device(k, x, y)
    np.testing.assert_allclose(on.sum(w), ref.kernel_sum(k, x, y, w), rtol=1e-5)
    wide = np.ones((m, 20), dtype)
    np.testing.assert_allclose(on.sum(wide), ref.kernel_sum(k, x, y, wide), rtol=1e-5)
    both = on.grad(w, False, True)
    np.testing.assert_allclose(both[0], ref.kernel_sum(k, x, y, w), rtol=1e-5)
    np.testing.assert_allclose(both[1], ref.kernel_grad(k, x, y, w), rtol=1e-5)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(on.logsumexp(w), ref.kernel_logsumexp(k, x, y, w), rtol=1e-5)
    np.testing.assert_allclose(
        on.stein(sx, sy, w),
        ref.stein_sum(k, x, sx, y=y, y_scores=sy, weights=w),
        rtol=1e-5,
        atol=1e-5,
    )
    assert on.matrix().shape == (n, m)
    index, distance = nearest(x, y, 2)
    assert index.shape == distance.shape == (n, 2)
    assert (index[:, m:] == -1).all() and (distance[:, m:] == np.inf).all()


def test_results_repeat_bit_for_bit(dtype):
    x, y, w, _, _ = data(dtype, 3, 130, 900)
    on = Device(ks.Gaussian(1.0) + ks.Energy(), x, y)
    np.testing.assert_array_equal(on.sum(w), on.sum(w))
    np.testing.assert_array_equal(on.grad(w), on.grad(w))


def test_cpu_agrees(dtype):
    x, y, w, _, _ = data(dtype, 3, 130, 900)
    k = ks.InverseMultiquadric(1.0) + ks.Gaussian(0.5)
    scale = sizes_of_terms(k, x, y, False) @ np.abs(w)
    want = _sums.kernel_sum(k, x, y, w).astype(np.float64)
    close(Device(k, x, y).sum(w), want, scale, TOLERANCE[dtype])


# ---- neighbours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 64])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_nearest_neighbours(d, count, dtype):
    for n, m, exclude in ((70, 300, True), (3, 2500, False), (66, 40, True)):
        x, y, _, _, _ = data(dtype, d, n, m)
        index, distance = nearest(x, y, count, exclude)
        want_index, want = ref.pair_argmin(x, y, count, exclude_self=exclude)
        there = min(count, m - exclude)
        np.testing.assert_allclose(distance[:, :there], want[:, :there], rtol=10 * TOLERANCE[dtype])
        # Two neighbours at nearly the same distance may change places in float32.
        assert (index[:, :there] == want_index[:, :there]).mean() > (
            0.99 if dtype == "float32" else 0.999999
        )
        if there < count and m < count:
            rows = index[:, m:] if not exclude else index[:, there:]
            assert (rows[: min(n, m)] == -1).all()


def test_ties_go_to_the_smaller_index(dtype):
    x = np.zeros((3, 2), dtype)
    y = np.tile(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], dtype), (1500, 1))
    index, distance = nearest(x, y, 5)
    np.testing.assert_array_equal(index, np.tile([0, 1, 3, 4, 6], (3, 1)))
    assert (distance == 1).all()


def test_nearest_with_length_scales(dtype):
    x, y, _, _, _ = data(dtype, 3, 66, 300)
    scales = np.array([0.1, 1.0, 7.0])
    index, distance = nearest(x, y, 4, metrics=(1 / scales**2)[None])
    want_index, want = ref.pair_argmin(x / scales, y / scales, 4)
    np.testing.assert_allclose(distance, want, rtol=10 * TOLERANCE[dtype])
    assert (index == want_index).mean() > 0.98


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 3), (65, 2), (200, 40), (1100, 2)])
def test_exact_median_of_distances(n, d, dtype):
    """The CPU's middle elements but for the rounding of the squares; exact where these are."""
    x = np.random.default_rng(n).normal(size=(n, d)).astype(dtype)
    lower, upper = _cuda.pair_median(up(x))
    np.testing.assert_allclose((lower + upper) / 2, ref.pair_median(x), rtol=TOLERANCE[dtype])
    np.testing.assert_allclose((lower, upper), _core.pair_median(x), rtol=TOLERANCE[dtype])
    whole = np.random.default_rng(n).integers(-50, 50, (n, d)).astype(dtype)
    assert _cuda.pair_median(up(whole)) == _core.pair_median(whole)


# ---- frameworks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_frameworks_on_the_device(name, dtype):
    module = pytest.importorskip(name)

    def there(a):
        if name == "torch":
            return module.tensor(a, device="cuda")
        if name == "cupy":
            return module.asarray(a)
        return module.device_put(a, module.devices("cuda")[0])

    def back(a):
        return a.cpu().numpy() if name == "torch" else a.get() if name == "cupy" else np.asarray(a)

    try:
        if name == "jax":
            module.config.update("jax_enable_x64", True)
            importlib.import_module("cupy")  # holds results
        there(np.zeros(1))
    except Exception as error:
        pytest.skip(f"{name}: {error}")
    x, y, w, _, _ = data(dtype, 3, 70, 300)
    k = ks.Gaussian(1.0)
    scale = sizes_of_terms(k, x, y, False) @ np.abs(w)
    close(
        back(_sums.kernel_sum(k, there(x), there(y), there(w))),
        ref.kernel_sum(k, x, y, w),
        scale,
        TOLERANCE[dtype],
    )
    index, _ = _sums.pair_argmin(there(x), there(y), 3)
    assert (back(index) == ref.pair_argmin(x, y, 3)[0]).mean() > 0.98
