"""The CUDA executor of entropic transport against the CPU executor in float64.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_sinkhorn.py runs it without one, on kernels compiled for the CPU
and with so little memory for the parts of a pass that batches are cut.
"""

import importlib

import numpy as np
import pytest

from mckean import _core

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

LOG_DOMAIN, RECOMPUTED, STORED = 0, 1, 2
POWERS = [1.0, 1.5, 2.0, 3.0]
INF = float("inf")


def up(a):
    return _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


def weights(rng, *shape, zeros=False):
    w = rng.random(shape) + 0.1
    if zeros:
        w[..., ::3] = 0.0
        w[..., 1] = 1.0
    return w / w.sum(-1, keepdims=True)


class Case:
    """A batch of problems on both executors: the CPU one works in float64 on the same numbers."""

    def __init__(self, dtype, batch, n, m, *, dim=2, power=2.0, eps=0.3, cost=None, a=None, b=None):
        rng = np.random.default_rng(batch + 7 * n + 11 * m)
        self.dtype, self.batch, self.n, self.m, self.dim = dtype, batch, n, m, dim
        self.a = weights(rng, batch, n) if a is None else a
        self.b = weights(rng, batch, m) if b is None else b
        self.eps = np.broadcast_to(np.asarray(eps, float), (batch,)).copy()
        sizes = (batch, n, m)
        if cost is None:
            x = rng.normal(size=(batch, n, dim)).astype(dtype)
            y = (rng.normal(size=(batch, m, dim)) + 0.5).astype(dtype)
            self.x, self.y = x, y
            self.device = _cuda.transport_of_points(up(x), up(y), power, *sizes)
            self.host = _core.transport_of_points(x.astype(float), y.astype(float), power, *sizes)
        else:
            cost = np.ascontiguousarray(cost, dtype)
            self.device = _cuda.transport_of_cost(up(cost), *sizes)
            self.host = _core.transport_of_cost(cost.astype(float), *sizes)
        self.all = np.arange(batch)

    def start(self, iterations=0):
        """Scalings whose columns are right, from the CPU."""
        with np.errstate(divide="ignore"):
            log_a, log_b = np.log(self.a), np.log(self.b)
        F, G = np.zeros_like(log_a), log_b.copy()
        state = (self.all, self.eps)
        out = np.empty_like(F)
        self.host.transform(*state, F, G, False, out)
        F = out + log_a
        out = np.empty_like(G)
        self.host.transform(*state, F, G, True, out)
        G = out + log_b
        if iterations:
            self.iterate(self.host, F, G, max_iter=iterations)
        return F, G

    def iterate(
        self,
        on,
        F,
        G,
        *,
        form=RECOMPUTED,
        max_iter=3,
        tol=0.0,
        symmetric=False,
        relaxation=1.0,
        powers=None,
        problems=None,
    ):
        errors, done = np.full(self.batch, -1.0), np.full(self.batch, -1)
        ones = np.ones(self.batch)
        rows, cols = (ones, ones) if powers is None else powers
        which = self.all if problems is None else np.asarray(problems)
        on.iterate(
            *(which, self.eps, F, G, form, symmetric, relaxation, self.a, self.b, rows, cols),
            *(max_iter, tol, errors, done),
        )
        return errors, done

    def both(self, **options):
        """(F, G, errors, iterations) of the device and of the host, from the same start."""
        start = self.start()
        results = []
        for on in (self.device, self.host):
            F, G = (a.copy() for a in start)
            results.append((F, G, *self.iterate(on, F, G, **options)))
        return results

    def arrays(self, name, state, shapes, *rest):
        """What `name` writes to host arrays of these shapes, on the device and on the host."""
        results = []
        for on in (self.device, self.host):
            outs = [np.full(s, np.nan) for s in shapes]
            getattr(on, name)(self.all, self.eps, *state, *rest, *outs)
            results.append(outs)
        return results

    def tensors(self, name, state, shape, *rest):
        """The same of arrays of the executor; NumPy arrays in `rest` go there."""
        on_device = [up(a.astype(self.dtype)) if isinstance(a, np.ndarray) else a for a in rest]
        out = _cuda.empty(list(shape), self.dtype)
        getattr(self.device, name)(self.all, self.eps, *state, *on_device, out)
        want = np.empty(shape)
        on_host = [
            a.astype(self.dtype).astype(float) if isinstance(a, np.ndarray) else a for a in rest
        ]
        getattr(self.host, name)(self.all, self.eps, *state, *on_host, want)
        return down(out, shape, self.dtype), want

    def plan(self, state, problem, first=0, last=None):
        last = self.n if last is None else last
        out, want = (
            _cuda.empty([last - first, self.m], self.dtype),
            np.empty((last - first, self.m)),
        )
        self.device.plan(self.eps, *state, problem, first, last, out)
        self.host.plan(self.eps, *state, problem, first, last, want)
        return down(out, want.shape, self.dtype), want


def costs(rng, *shape, infinite=False):
    c = rng.random(shape) * 3 - 0.5
    if infinite:
        c[rng.random(shape) < 0.3] = INF
        i = np.arange(min(shape[-2:]))
        c[..., i, i] = 0.5
        c[..., 0] = 1.0
        c[..., 0, :] = 2.0
    return c


def tolerance(dtype, size=1.0):
    """Of scalings and, relative, of sums; `size`: of C / eps."""
    return (3e-6 if dtype == "float32" else 1e-12) * max(size, 1.0)


def same(got, want, tol):
    """(F, G, errors, iterations)"""
    np.testing.assert_array_equal(got[3], want[3])
    for g, w in zip(got[:3], want[:3], strict=True):
        np.testing.assert_allclose(g, w, rtol=tol, atol=tol)


# ---- iterations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", POWERS)
def test_points(power, dtype):
    case = Case(dtype, 1, 70, 300, power=power)
    same(*case.both(form=RECOMPUTED if power > 1 else LOG_DOMAIN), tolerance(dtype, 30))


@pytest.mark.parametrize("dim", [1, 20])
def test_dimensions(dim, dtype):
    same(*Case(dtype, 2, 66, 20, dim=dim, eps=3.0).both(), tolerance(dtype, 20))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("form", [LOG_DOMAIN, RECOMPUTED, STORED])
def test_costs(form, shared, dtype):
    rng = np.random.default_rng(1)
    cost = costs(rng, *(() if shared else (2,)), 65, 70)
    same(*Case(dtype, 2, 65, 70, cost=cost).both(form=form, max_iter=2), tolerance(dtype, 10))


def test_costs_in_slabs(dtype):
    cost = costs(np.random.default_rng(1), 3, 600)
    for transposed in (cost, cost.T):
        case = Case(dtype, 1, *transposed.shape, cost=transposed)
        same(*case.both(max_iter=2), tolerance(dtype, 10))


def test_a_point_on_either_side(dtype):
    for n, m in ((1, 1), (1, 70), (70, 1)):
        got, want = Case(dtype, 2, n, m).both(tol=1e-5)
        same(got, want, tolerance(dtype, 30))
        assert (got[3] <= 1).all()


def test_problems_stop_one_by_one(dtype):
    eps = [0.3, 5.0, 1.0, 0.5]
    got, want = Case(dtype, 4, 40, 50, eps=eps).both(max_iter=50, tol=2e-3)
    same(got, want, tolerance(dtype, 100))
    assert len(set(got[3])) > 2
    assert (got[2] <= 2e-3).all()


def test_the_last_iteration(dtype):
    """Stopped by max_iter, the error is that of the state before."""
    case = Case(dtype, 1, 20, 30)
    for max_iter in (0, 1, 4):
        got, want = case.both(max_iter=max_iter)
        same(got, want, tolerance(dtype, 30))
        assert got[3] == max_iter
    F, G = case.start()
    before = F.copy()
    errors, done = case.iterate(case.device, F, G, tol=10.0)
    assert done == 0 and 0 < errors[0] < 10
    np.testing.assert_array_equal(F, before)


def test_other_problems_are_left_alone(dtype):
    case = Case(dtype, 4, 20, 30)
    F, G = case.start()
    F[2], G[2] = np.nan, np.nan
    before = F.copy(), G.copy()
    errors, done = case.iterate(case.device, F, G, problems=[3, 0])
    np.testing.assert_array_equal(F[1:3], before[0][1:3])
    np.testing.assert_array_equal(G[1:3], before[1][1:3])
    np.testing.assert_array_equal(errors[1:3], -1)
    np.testing.assert_array_equal(done, [3, -1, -1, 3])
    for s in (0, 3):
        one = Case(dtype, 4, 20, 30)
        H, K = before[0].copy(), before[1].copy()
        one.iterate(one.device, H, K, problems=[s])
        np.testing.assert_array_equal(F[s], H[s])
        np.testing.assert_array_equal(G[s], K[s])
    case.iterate(case.device, F, G, problems=np.empty(0, np.int64))


def test_zero_weights(dtype):
    rng = np.random.default_rng(2)
    a, b = weights(rng, 2, 40, zeros=True), weights(rng, 2, 70, zeros=True)
    got, want = Case(dtype, 2, 40, 70, a=a, b=b).both(max_iter=5)
    same(got, want, tolerance(dtype, 30))
    np.testing.assert_array_equal(np.isneginf(got[0]), a == 0)
    np.testing.assert_array_equal(np.isneginf(got[1]), b == 0)


def test_infinite_costs(dtype):
    rng = np.random.default_rng(3)
    case = Case(dtype, 2, 40, 70, cost=costs(rng, 2, 40, 70, infinite=True))
    got, want = case.both(max_iter=5)
    same(got, want, tolerance(dtype, 10))
    (rows, cols, cost), expected = case.arrays("marginals", got[:2], [(2, 40), (2, 70), (2,)])
    for g, w in zip((rows, cols, cost), expected, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance(dtype, 10))
    for problem in range(2):
        plan, exact = case.plan(got[:2], problem)
        np.testing.assert_array_equal(plan == 0, exact == 0)
    assert (plan == 0).any()


def test_an_infeasible_row_is_no_nan(dtype):
    cost = costs(np.random.default_rng(3), 5, 6)
    cost[2] = INF
    case = Case(dtype, 1, 5, 6, cost=cost)
    F, G = np.log(case.a), np.log(case.b)
    errors, _ = case.iterate(case.device, F, G, max_iter=5)
    assert np.isposinf(F[0, 2]) and np.isfinite(np.delete(F[0], 2)).all()
    assert np.isfinite(G).all() and errors[0] >= case.a[0, 2]
    plan = _cuda.empty([5, 6], dtype)
    case.device.plan(case.eps, F, G, 0, 0, 5, plan)
    plan = down(plan, (5, 6), dtype)
    assert np.isfinite(plan).all() and (plan[2] == 0).all()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_tiny_eps(offset, dtype):
    """C / eps up to 1e5, far beyond the range of exp; points far from the origin."""
    rng = np.random.default_rng(4)
    case = Case(dtype, 1, 50, 60, eps=1e-4)
    x, y = ((rng.random((1, k, 2)) + offset).astype(dtype) for k in (50, 60))
    case.device = _cuda.transport_of_points(up(x), up(y), 2.0, 1, 50, 60)
    case.host = _core.transport_of_points(x.astype(float), y.astype(float), 2.0, 1, 50, 60)
    got, want = case.both(max_iter=5)
    same(got, want, tolerance(dtype, 2e4))
    # What the device settles on is a plan: float errs in the cost, never in the sums.
    F, G = got[:2]
    errors, _ = case.iterate(case.device, F, G, max_iter=50, tol=1e-6)
    assert np.isfinite(F).all() and np.isfinite(G).all()
    rows, cols, _ = case.arrays("marginals", (F, G), [(1, 50), (1, 60), (1,)])[0]
    np.testing.assert_allclose(cols, case.b, rtol=1e-5)
    np.testing.assert_allclose(abs(rows - case.a).sum(), errors[0], rtol=0.2, atol=1e-6)


def test_sums_survive_large_potentials(dtype):
    """A cost that is a sum of large whole parts of rows and columns: what is left of the exponent is small and exact."""
    rng = np.random.default_rng(5)
    u, v = rng.integers(0, 4000, 30) * 1.0, rng.integers(0, 4000, 40) * 1.0
    small = rng.integers(0, 64, (30, 40)) / 32.0
    plain, shifted = (
        Case(dtype, 1, 30, 40, cost=c, eps=1.0) for c in (small, u[:, None] + v + small)
    )
    if dtype == "float32":
        assert ((u[:, None] + v + small).astype(dtype) == u[:, None] + v + small).all()
    F, G = plain.start()
    moved = F + u, G + v
    plain.iterate(plain.device, F, G, max_iter=30)
    shifted.iterate(shifted.device, *moved, max_iter=30)
    # 1 / log 2 is rounded, which moves all exponents alike: the rate counts as a little other eps.
    tol = 2e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(moved[0] - u, F, atol=tol)
    np.testing.assert_allclose(moved[1] - v, G, atol=tol)
    _, cols, _ = shifted.arrays("marginals", moved, [(1, 30), (1, 40), (1,)])[0]
    np.testing.assert_allclose(cols, shifted.b, rtol=1e-5 if dtype == "float32" else 1e-11)


def unbalanced(case, F, G, powers, max_iter, tol):
    """Of one problem: scalings, error and iterations, by whole-array operations."""
    x, y = case.x.astype(float), case.y.astype(float)
    scaled = ((x[:, :, None] - y[:, None]) ** 2).sum(-1) / case.eps[:, None, None]
    results = []
    for s in range(case.batch):
        f, g, error, done = F[s], G[s], INF, 0
        while done < max_iter and error > tol:
            before = f, g
            f = np.log(case.a[s]) - powers[0][s] * np.log(np.exp(g - scaled[s]).sum(1))
            g = np.log(case.b[s]) - powers[1][s] * np.log(np.exp(f[:, None] - scaled[s]).sum(0))
            error = max(abs(f - before[0]).max(), abs(g - before[1]).max())
            done += 1
        results.append((f, g, error, done))
    return [np.array(column) for column in zip(*results, strict=True)]


@pytest.mark.parametrize(("max_iter", "tol"), [(2, 0.0), (300, 1e-3)])
def test_unbalanced(max_iter, tol, dtype):
    powers = np.array([0.9, 0.5, 0.9, 1.0]), np.array([0.9, 0.8, 1.0, 0.3])
    case = Case(dtype, 4, 30, 40, eps=1.0)
    F, G = case.start()
    want = unbalanced(case, F, G, powers, max_iter, tol)
    errors, done = case.iterate(case.device, F, G, powers=powers, max_iter=max_iter, tol=tol)
    same((F, G, errors, done), want, tolerance(dtype, 100))
    assert tol == 0 or len(set(done)) > 1


def test_balanced_and_unbalanced_problems_together(dtype):
    powers = np.array([1.0, 0.5, 0.9, 1.0]), np.array([1.0, 0.8, 0.9, 1.0])
    got, want = Case(dtype, 4, 30, 40, eps=1.0).both(powers=powers, max_iter=50, tol=1e-2)
    same(got, want, tolerance(dtype, 100))


def test_symmetric(dtype):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 70, 2)).astype(dtype)
    a = weights(rng, 2, 70, zeros=True)
    case = Case(dtype, 2, 70, 70, a=a, b=a, eps=[0.5, 2.0])
    case.device = _cuda.transport_of_points(up(x), up(x), 2.0, 2, 70, 70)
    case.host = _core.transport_of_points(x.astype(float), x.astype(float), 2.0, 2, 70, 70)
    got, want = case.both(symmetric=True, max_iter=100, tol=1e-3)
    same(got, want, tolerance(dtype, 30))
    np.testing.assert_array_equal(got[0], got[1])


def test_relaxation(dtype):
    got, want = Case(dtype, 2, 30, 40).both(relaxation=1.6, max_iter=8)
    same(got, want, tolerance(dtype, 100))


def test_far_from_right_scalings(dtype):
    """Where exponentials of the plan itself would overflow or vanish."""
    case = Case(dtype, 1, 30, 40)
    for offset in (-2000.0, 2000.0):
        results = []
        for on in (case.device, case.host):
            F, G = case.start()
            F += offset
            G[:, ::2] -= 700.0
            case.iterate(on, F, G, max_iter=2)
            results.append((F, G))
        for got, want in zip(*results, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(dtype, 100))


def test_scalings_beyond_the_type(dtype):
    case = Case(dtype, 1, 3, 4)
    F, G = case.start()
    F[0, 1] = 1e7 if dtype == "float32" else 1e17
    with pytest.raises(ValueError, match=f"eps: expected a larger one, .* beyond {dtype}"):
        case.iterate(case.device, F, G)


# ---- what is made of a plan -----------------------------------------------------------------------------------------


def transport_cases(dtype):
    rng = np.random.default_rng(7)
    a, b = weights(rng, 2, 70, zeros=True), weights(rng, 2, 300, zeros=True)
    return [
        Case(dtype, 2, 70, 300, a=a, b=b),
        Case(dtype, 2, 70, 300, power=1.5, dim=3),
        Case(dtype, 2, 70, 300, cost=costs(rng, 70, 300, infinite=True), b=b),
    ]


def close(got, want, dtype, size=30):
    tol = tolerance(dtype, size)
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol * np.abs(want).max(initial=0.0))


def test_transform(dtype):
    for case in transport_cases(dtype):
        state = case.start(2)
        for columns, shape in ((False, (2, 70)), (True, (2, 300))):
            outs = []
            for on in (case.device, case.host):
                out = np.full(shape, np.nan)
                on.transform(case.all, case.eps, *state, columns, out)
                outs.append(out)
            np.testing.assert_allclose(*outs, rtol=0, atol=tolerance(dtype, 30))


def test_marginals_and_products(dtype):
    rng = np.random.default_rng(8)
    u, v = rng.normal(size=(2, 70)), rng.normal(size=(2, 300))
    shapes = [(2, 70), (2, 300)]
    for case in transport_cases(dtype):
        state = case.start(2)
        for got, want in zip(*case.arrays("marginals", state, [*shapes, (2,)]), strict=True):
            close(got, want, dtype)
        for got, want in zip(*case.arrays("product", state, shapes, u, v), strict=True):
            close(got, want, dtype)
        only = np.full(2, np.nan)
        case.device.marginals(case.all, case.eps, *state, None, None, only)
        want = np.full(2, np.nan)
        case.host.marginals(case.all, case.eps, *state, None, None, want)
        close(only, want, dtype)


@pytest.mark.parametrize("columns", [1, 3, 7, 70])
def test_apply(columns, dtype):
    rng = np.random.default_rng(9)
    for case in transport_cases(dtype):
        state = case.start(2)
        for transposed, (to, source) in ((False, (70, 300)), (True, (300, 70))):
            values = rng.normal(size=(2, source, columns))
            close(
                *case.tensors("apply", state, (2, to, columns), transposed, values, columns), dtype
            )
    none = _cuda.empty([2, 300, 0], dtype)
    case.device.apply(case.all, case.eps, *state, False, none, 0, none)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dim", [1, 3, 7, 20])
def test_gradient(dim, power, dtype):
    case = Case(dtype, 2, 70, 90, dim=dim, power=power, eps=2.0)
    state = case.start(2)
    close(*case.tensors("gradient", state, (2, 70, dim), False), dtype, 100)
    close(*case.tensors("gradient", state, (2, 90, dim), True), dtype, 100)


@pytest.mark.parametrize("power", POWERS)
def test_gradient_at_coincidence(power, dtype):
    x = np.array([[[0.0, 0.0], [3.0, 4.0]]], dtype)
    F = np.zeros((1, 2))
    there = _cuda.transport_of_points(up(x), up(x), power, 1, 2, 2)
    out = _cuda.empty([1, 2, 2], dtype)
    there.gradient(np.arange(1), np.array([1e3]), F, F, False, out)
    slope = power * 5.0 ** (power - 2) * np.exp(-(5.0**power) / 1e3)
    want = slope * np.array([[[-3.0, -4.0], [3.0, 4.0]]])
    np.testing.assert_allclose(down(out, (1, 2, 2), dtype), want, rtol=tolerance(dtype))


def test_gradient_far_from_the_origin(dtype):
    """Differences of coordinates, not differences of sums."""
    step = 2.0**-10 if dtype == "float32" else 2.0**-30
    rng = np.random.default_rng(10)
    x, y = (1000.0 + step * rng.integers(-200, 200, (1, k, 6)) for k in (40, 50))
    near = _cuda.transport_of_points(
        up((x - 1000).astype(dtype)), up((y - 1000).astype(dtype)), 2.0, 1, 40, 50
    )
    far = _cuda.transport_of_points(up(x.astype(dtype)), up(y.astype(dtype)), 2.0, 1, 40, 50)
    F, G = np.full((1, 40), -3.0), np.full((1, 50), -4.0)
    results = []
    for on in (near, far):
        out = _cuda.empty([1, 40, 6], dtype)
        on.gradient(np.arange(1), np.array([step]), F, G, False, out)
        results.append(down(out, (1, 40, 6), dtype))
    np.testing.assert_array_equal(*results)


def test_plan(dtype):
    for case in transport_cases(dtype):
        state = case.start(2)
        for problem, first, last in ((0, 0, 70), (1, 0, 70), (1, 13, 69), (0, 5, 6), (0, 3, 3)):
            close(*case.plan(state, problem, first, last), dtype)


@pytest.mark.parametrize("level", [0.0, 1e-3, 0.1, 1e3])
def test_kept(level, dtype):
    for case in transport_cases(dtype):
        state = case.start(2)
        rng = np.random.default_rng(11)
        row_level, col_level = rng.random(70) + 0.5, rng.random(300) * level / 70
        plan = np.array(case.plan(state, 1)[0], float)
        far = abs(plan - row_level[:, None] * col_level) > 1e-5 * plan
        found = case.device.kept(case.eps, *state, 1, row_level, col_level, 70 * 300)
        start, column, value = found
        assert start.dtype == np.int64 and column.dtype == np.int32 and value.dtype == np.float64
        row = np.repeat(np.arange(70), np.diff(start))
        assert start[0] == 0 and start[-1] == len(column) == len(value)
        got = np.zeros_like(plan)
        got[row, column] = value
        want = np.where(plan > row_level[:, None] * col_level, plan, 0.0)
        np.testing.assert_allclose(got[far], want[far], rtol=tolerance(dtype))
        assert all(
            (np.diff(column[s:e]) > 0).all() for s, e in zip(start[:-1], start[1:], strict=True)
        )
        rows, columns, values = case.host.kept(case.eps, *state, 1, row_level, col_level, 70 * 300)
        on_host = np.zeros_like(plan)
        on_host[np.repeat(np.arange(70), np.diff(rows)), columns] = values
        tol = tolerance(dtype, 30)
        np.testing.assert_allclose(got[far], on_host[far], rtol=tol, atol=1e-30)
        if len(column):
            enough, too_few = (
                case.device.kept(case.eps, *state, 1, row_level, col_level, len(column) - k)
                for k in (0, 1)
            )
            np.testing.assert_array_equal(enough[2], value)
            assert too_few is None
    empty = case.device.kept(case.eps, *state, 0, np.full(70, 1e9), np.ones(300), 0)
    assert empty is not None and len(empty[1]) == 0 and (empty[0] == 0).all()


# ---- bits -----------------------------------------------------------------------------------------------------------


def test_batches_change_no_bit(dtype):
    case = Case(dtype, 5, 70, 300)
    F, G = case.start()
    singles = []
    for s in range(5):
        one = Case(dtype, 1, 70, 300, a=case.a[s : s + 1], b=case.b[s : s + 1])
        one.device = _cuda.transport_of_points(
            up(case.x[s : s + 1]), up(case.y[s : s + 1]), 2.0, 1, 70, 300
        )
        H, K = F[s : s + 1].copy(), G[s : s + 1].copy()
        one.iterate(one.device, H, K, max_iter=2)
        singles.append((H[0], K[0]))
    case.iterate(case.device, F, G, max_iter=2)
    for s, (H, K) in enumerate(singles):
        np.testing.assert_array_equal(F[s], H)
        np.testing.assert_array_equal(G[s], K)


def test_an_empty_batch(dtype):
    none = up(np.empty((0, 3, 2), dtype))
    problem = _cuda.transport_of_points(none, none, 2.0, 0, 3, 3)
    state = (np.empty(0, np.int64), np.empty(0), np.empty((0, 3)), np.empty((0, 3)))
    problem.transform(*state, False, np.empty((0, 3)))
    problem.marginals(*state, np.empty((0, 3)), np.empty((0, 3)), np.empty(0))
    problem.gradient(*state, False, none)


# ---- frameworks -----------------------------------------------------------------------------------------------------


def test_a_stream_of_the_framework(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch: no CUDA")
    importlib.import_module("torch.cuda")
    case = Case(dtype, 1, 3000, 4000)
    F, G = np.log(case.a), np.log(case.b)
    want = F.copy(), G.copy()
    case.iterate(case.device, *want)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x, y = (torch.tensor(a, device="cuda") for a in (case.x, case.y))
        there = _cuda.transport_of_points(x, y, 2.0, 1, 3000, 4000, stream.cuda_stream)
        ones, errors, done = np.ones(1), np.empty(1), np.empty(1, np.int64)
        there.iterate(
            *(case.all, case.eps, F, G, RECOMPUTED, False, 1.0, case.a, case.b, ones, ones),
            *(3, 0.0, errors, done, stream.cuda_stream),
        )
    np.testing.assert_array_equal(F, want[0])
    np.testing.assert_array_equal(G, want[1])
