"""The CUDA executor's low-rank models beside the CPU executor and float64 NumPy; normals bit for bit.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_lowrank.py runs it without one, on kernels compiled for the CPU
and with so few blocks and so little memory that small arrays take every way.
"""

import numpy as np
import pytest

from mckean import _core

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

IDENTITY, MATVEC, SOLVE, SQRT_SOLVE, SQRT_MATVEC, PRECONDITION = range(6)
DTYPES = ["float32", "float64"]
# long axis and columns: one piece and several, shared and global memory, tiles that are not full
SHAPES = [
    (1, 1),
    (5, 1),
    (5, 5),
    (64, 7),
    (64, 8),
    (300, 33),
    (300, 64),
    (2049, 8),
    (5000, 1),
    (5000, 20),
]


def tolerance(dtype):
    """Results are rounded to the type; sums are in double."""
    return 4e-6 if dtype == "float32" else 1e-12


def generator(*key):
    return np.random.default_rng([11, *key])


def up(a):
    return None if a is None else _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


def room(shape, dtype):
    return _cuda.empty(list(shape), str(dtype))


def close(found, expected, error, scale=None):
    expected = np.asarray(expected, np.float64)
    size = np.abs(expected).max(initial=0.0) if scale is None else scale
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=error * size)


def orthonormal(rng, batch, d, k, dtype):
    U = np.linalg.qr(rng.normal(size=(batch, d, k)))[0]
    s = np.sort(rng.uniform(0.5, 30.0, (batch, k)))[:, ::-1]
    return U.astype(dtype), s.astype(dtype)


# ---- Lanczos --------------------------------------------------------------------------------------------------------


def lanczos(basis, count, w, recurrence, beta, passes, least):
    """(norm, passes, coefficients, basis, w) of the CPU and of the device."""
    both = []
    for executor in (_core, _cuda):
        coefficients = np.full(count, np.nan)
        if executor is _core:
            b, v = basis.copy(), w.copy()
            done = executor.lanczos_step(b, count, v, recurrence, beta, passes, least, coefficients)
        else:
            there = up(basis), up(w)
            done = executor.lanczos_step(
                there[0], count, there[1], recurrence, beta, passes, least, coefficients
            )
            b, v = (down(a, h.shape, h.dtype) for a, h in zip(there, (basis, w), strict=True))
        both.append((*done, coefficients, b, v))
    return both


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("d", "count"), [(1, 0), (5, 1), (5, 2), (64, 9), (2049, 8), (2049, 33), (5000, 17)]
)
@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("recurrence", [False, True])
def test_lanczos_step(dtype, d, count, passes, recurrence):
    rng = generator(d, count)
    basis = np.zeros((count + 2, d), dtype)
    basis[:count] = orthonormal(rng, 1, d, count, dtype)[0][0].T
    w = rng.normal(size=d).astype(dtype)
    cpu, gpu = lanczos(basis, count, w, recurrence, 0.3, passes, 0.0)
    size = np.linalg.norm(w.astype(np.float64))
    assert gpu[1] == cpu[1]
    assert gpu[0] == pytest.approx(cpu[0], rel=tolerance(dtype), abs=tolerance(dtype) * size)
    close(gpu[2], cpu[2], tolerance(dtype), size)
    close(gpu[4], cpu[4], tolerance(dtype), size)
    if cpu[0] > 1e-3 * size:
        close(gpu[3], cpu[3], 10 * tolerance(dtype))
    if passes == 2 and cpu[0] > 1e-3 * size:
        exact = basis[:count].astype(np.float64) @ gpu[3][count].astype(np.float64)
        assert np.abs(exact).max(initial=0.0) < tolerance(dtype)
    assert np.array_equal(gpu[3][:count], basis[:count])
    assert np.array_equal(gpu[3][count + 1 :], basis[count + 1 :])


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanczos_second_pass_where_much_was_lost(dtype):
    d, count = 3000, 12
    rng = generator(3)
    basis = np.zeros((count + 1, d), dtype)
    basis[:count] = orthonormal(rng, 1, d, count, dtype)[0][0].T
    small = 1e-3 * rng.normal(size=d) / np.sqrt(d)
    w = (rng.normal(size=count) @ basis[:count] + small).astype(dtype)
    cpu, gpu = lanczos(basis, count, w, False, 0.0, 1, 0.0)
    assert cpu[1] == gpu[1] == 2
    assert gpu[0] == pytest.approx(cpu[0], rel=1e-3 if dtype == "float32" else 1e-9)
    close(gpu[2], cpu[2], tolerance(dtype))
    w = rng.normal(size=d).astype(dtype)
    assert [done[1] for done in lanczos(basis, count, w, False, 0.0, 1, 0.0)] == [1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_lanczos_step_of_what_is_not_finite(dtype, value):
    basis = np.zeros((3, 700), dtype)
    basis[0, 0] = basis[1, 1] = 1.0
    w = np.ones(700, dtype)
    w[650] = value
    cpu, gpu = lanczos(basis, 2, w, False, 0.0, 2, 0.0)
    assert cpu[1] == gpu[1] == 0
    assert not np.isfinite(gpu[0])
    assert np.array_equal(gpu[3], basis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanczos_breakdown_leaves_the_basis(dtype):
    basis = np.zeros((2, 300), dtype)
    basis[0, 7] = 1.0
    basis[1] = 5.0
    cpu, gpu = lanczos(basis, 1, 3 * basis[0], False, 0.0, 1, 1e-3)
    assert cpu[0] == gpu[0] == 0.0
    assert gpu[2][0] == 3.0
    assert np.array_equal(gpu[3], basis)


# ---- tall matrices --------------------------------------------------------------------------------------------------


def tall(a, rows):
    return np.ascontiguousarray(a.T if rows else a)


TRIPLES = [
    (1, 1, 1),
    (5, 2, 7),
    (64, 8, 8),
    (300, 20, 32),
    (300, 70, 65),
    (2049, 16, 3),
    (2049, 33, 64),
]
LAYOUTS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "p", "q"), TRIPLES)
@pytest.mark.parametrize(("a_rows", "b_rows"), LAYOUTS)
def test_tall_gram(dtype, d, p, q, a_rows, b_rows):
    rng = generator(d, p, q)
    A, B = rng.normal(size=(d, p)).astype(dtype), rng.normal(size=(d, q)).astype(dtype)
    out = np.full((p, q), np.nan)
    _cuda.tall_gram(up(tall(A, a_rows)), a_rows, up(tall(B, b_rows)), b_rows, out)
    exact = A.astype(np.float64).T @ B.astype(np.float64)
    close(out, exact, 1e-14 * np.sqrt(d) * 10, d**0.5)
    if a_rows == b_rows:  # the same matrix twice
        out, there = np.empty((p, p)), up(tall(A, a_rows))
        _cuda.tall_gram(there, a_rows, there, a_rows, out)
        close(out, A.astype(np.float64).T @ A.astype(np.float64), 1e-14 * 10, d)
        assert np.array_equal(out, out.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tall_gram_of_nothing(dtype):
    out = np.full((3, 2), np.nan)
    _cuda.tall_gram(room((0, 3), dtype), False, room((0, 2), dtype), False, out)
    assert not out.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "p", "q"), [*TRIPLES, (300, 7, 4), (300, 20, 16)])
@pytest.mark.parametrize(("a_rows", "out_rows"), LAYOUTS)
def test_tall_multiply(dtype, d, p, q, a_rows, out_rows):
    rng = generator(d, p, q)
    A, M = rng.normal(size=(d, p)).astype(dtype), rng.normal(size=(p, q))
    before = rng.normal(size=(d, q)).astype(dtype)
    for add in (False, True):
        out = up(tall(before, out_rows))
        _cuda.tall_multiply(up(tall(A, a_rows)), a_rows, M, add, out, out_rows)
        found = down(out, (q, d) if out_rows else (d, q), dtype)
        exact = A.astype(np.float64) @ M + (before if add else 0.0)
        close(found.T if out_rows else found, exact, tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "p"), [(5, 3), (64, 64), (300, 70), (2049, 100)])
@pytest.mark.parametrize("add", [False, True])
def test_tall_multiply_in_place(dtype, d, p, add):
    rng = generator(d, p)
    A, M = rng.normal(size=(p, d)).astype(dtype), rng.normal(size=(p, p))
    there = up(A)
    _cuda.tall_multiply(there, True, M, add, there, True)
    close(down(there, (p, d), dtype), M.T @ A + (A if add else 0.0), tolerance(dtype))


# ---- functions of a model -------------------------------------------------------------------------------------------


def applied(executor, U, s, t, terms, shape, dtype, least=None, key=(0, 0, 0), into=None):
    """Sum over terms (function, scale, array); `into`: which term's array is the output."""
    functions, scales, arrays = zip(*terms, strict=True)
    host = executor is _core
    move = (lambda a: None if a is None else a.copy()) if host else up
    held = [move(a) for a in arrays]
    out = held[into] if into is not None else np.empty(shape, dtype) if host else room(shape, dtype)
    executor.lowrank_apply(
        move(U), move(s), t, least, list(functions), list(scales), held, out, *key
    )
    return out if host else down(out, shape, dtype)


# every function with one shape, and one function with every shape
FUNCTIONS = [IDENTITY, MATVEC, SOLVE, SQRT_SOLVE, SQRT_MATVEC, PRECONDITION]
LEADS = [(1, 1), (1, 19), (7, 1), (3, 2)]
CASES = [(64, 7, 3, 2, f) for f in FUNCTIONS] + [
    (d, k, *LEADS[(i + j) % 4], [SOLVE, SQRT_MATVEC, MATVEC][(i + 2 * j) % 3])
    for i, (d, k) in enumerate(SHAPES)
    for j in range(2)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "k", "batch", "rows", "function"), CASES)
def test_lowrank_apply(dtype, d, k, batch, rows, function):
    rng = generator(d, k, batch, rows)
    U, s = orthonormal(rng, batch, d, k, dtype)
    t, least = rng.uniform(0.5, 2.0, batch), s.min(1).astype(np.float64)
    b = rng.normal(size=(batch, rows, d)).astype(dtype)
    arguments = (U, s, t, [(function, -0.7, b)], b.shape, dtype, least)
    cpu, gpu = applied(_core, *arguments), applied(_cuda, *arguments)
    close(gpu, cpu, tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "k"), [(1, 1), (64, 7), (300, 70), (2049, 8)])
@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (2, 5)])
@pytest.mark.parametrize("n_terms", [2, 4])
def test_lowrank_apply_of_several_terms(dtype, d, k, batch, rows, n_terms):
    k = min(d, k)
    rng = generator(d, k, batch, rows, n_terms)
    U, s = orthonormal(rng, batch, d, k, dtype)
    t = np.array([0.7])
    b = [rng.normal(size=(batch, rows, d)).astype(dtype) for _ in range(3)]
    terms = [
        (IDENTITY, 1.0, b[0]),
        (SOLVE, 0.3, b[1]),
        (SQRT_SOLVE, 1.4, None),
        (MATVEC, -0.2, b[2]),
    ]
    for into in (None, 0):  # the first array is the output too
        arguments = (U, s, t, terms[:n_terms], b[0].shape, dtype, None, (5, 6, 7), into)
        cpu, gpu = applied(_core, *arguments), applied(_cuda, *arguments)
        close(gpu, cpu, tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "rows", "d"), [(1, 1, 1), (1, 3, 5), (7, 2, 65), (1, 1, 5000), (2, 9, 1100)]
)
@pytest.mark.parametrize("k", [0, 3])
def test_normals_have_the_bits_of_all_others(dtype, batch, rows, d, k):
    k = min(k, d)
    U, s = orthonormal(generator(d), batch, d, k, dtype)
    for function in (IDENTITY, SQRT_MATVEC):
        if k and function != IDENTITY:
            continue
        z = applied(
            _cuda,
            U,
            s,
            np.ones(1),
            [(function, 1.0, None)],
            (batch, rows, d),
            dtype,
            None,
            (3, 4, 5),
        )
        cpu = applied(
            _core,
            U,
            s,
            np.ones(1),
            [(function, 1.0, None)],
            (batch, rows, d),
            dtype,
            None,
            (3, 4, 5),
        )
        assert np.array_equal(z, cpu)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype):
    d, k, rows = 1500, 9, 21
    rng = generator(9)
    U, s = orthonormal(rng, 1, d, k, dtype)
    b = rng.normal(size=(1, rows, d)).astype(dtype)
    for cut in (700, d):
        part = np.ascontiguousarray(b[..., :cut])
        model = np.ascontiguousarray(U[:, :cut]), s, np.array([0.1])
        together = applied(_cuda, *model, [(SOLVE, 1.0, part)], part.shape, dtype)
        alone = applied(_cuda, *model, [(SOLVE, 1.0, part[:, 5:6])], (1, 1, cut), dtype)
        assert np.array_equal(together[:, 5:6], alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [MATVEC, SOLVE, SQRT_SOLVE, SQRT_MATVEC])
def test_no_damping(dtype, function):
    """t = 0: inverses live on the span of U."""
    rng = generator(8)
    U, s = orthonormal(rng, 2, 40, 40, dtype)
    b = rng.normal(size=(2, 3, 40)).astype(dtype)
    arguments = (U, s, np.zeros(1), [(function, 1.0, b)], b.shape, dtype)
    cpu, gpu = applied(_core, *arguments), applied(_cuda, *arguments)
    close(gpu, cpu, tolerance(dtype))
    power = {MATVEC: 1.0, SOLVE: -1.0, SQRT_SOLVE: -0.5, SQRT_MATVEC: 0.5}[function]
    U64 = U.astype(np.float64)
    exact = np.einsum("bik,bk,bjk,brj->bri", U64, s.astype(np.float64) ** power, U64, b)
    close(gpu, exact, 10 * tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_lowrank_apply_of_nothing(dtype, shape):
    batch, _rows, d = shape
    k = min(2, d)
    b = np.empty(shape, dtype)
    U, s = np.empty((batch, d, k), dtype), np.empty((batch, k), dtype)
    assert applied(_cuda, U, s, np.ones(1), [(SOLVE, 1.0, b)], shape, dtype).shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("d", "k", "batch", "rows", "function"),
    [*(c for c in CASES if c[4] not in (SQRT_SOLVE, PRECONDITION)), (64, 0, 3, 2, SOLVE)],
)
def test_lowrank_quadratic(dtype, d, k, batch, rows, function):
    rng = generator(d, k, batch, rows)
    U, s = orthonormal(rng, batch, d, k, dtype)
    t = rng.uniform(0.5, 2.0, batch)
    b = rng.normal(size=(batch, rows, d)).astype(dtype)
    out = room((batch, rows), "float64")
    _cuda.lowrank_quadratic(up(U), up(s), t, function, up(b), out)
    f = {
        MATVEC: lambda x: x,
        SOLVE: lambda x: 1 / x,
        SQRT_MATVEC: np.sqrt,
        IDENTITY: np.ones_like,
    }[function]
    b64, U64 = b.astype(np.float64), U.astype(np.float64)
    c = b64 @ U64
    alpha = f(t)[:, None]
    exact = alpha * (b64**2).sum(-1)
    exact = exact + ((f(t[:, None] + s) - alpha)[:, None] * c**2).sum(-1)
    close(down(out, (batch, rows), "float64"), exact, 1e-6 if dtype == "float32" else 1e-11)
    cpu = np.empty((batch, rows))
    _core.lowrank_quadratic(U, s, t, function, b, cpu)
    close(
        down(out, (batch, rows), "float64"),
        cpu,
        tolerance(dtype),
        np.abs(alpha * (b64**2).sum(-1)).max(),
    )


# ---- Woodbury's identity --------------------------------------------------------------------------------------------


def woodbury(executor, W, diagonal, t, function, b):
    """(failed, out, logdet)"""
    batch = len(W)
    if executor is _core:
        out, logdet = (None if b is None else np.empty_like(b)), np.empty(batch)
        return executor.woodbury(W, diagonal, t, function, b, out, logdet), out, logdet
    out, logdet = (None if b is None else room(b.shape, b.dtype)), room((batch,), "float64")
    failed = executor.woodbury(up(W), up(diagonal), t, function, up(b), out, logdet)
    out = None if b is None else down(out, b.shape, b.dtype)
    return failed, out, down(logdet, (batch,), "float64")


WOODBURY = [(64, 7, 7, diagonal) for diagonal in (None, "one", "each")] + [
    (d, k, 1 if k > 32 else 3, (None, "one", "each")[i % 3])
    for i, (d, k) in enumerate([*SHAPES, (5, 9), (64, 0), (64, 32), (300, 33)])
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "k", "batch", "diagonal"), WOODBURY)
@pytest.mark.parametrize("function", [SOLVE, SQRT_SOLVE])
def test_woodbury(dtype, d, k, batch, diagonal, function):
    rng = generator(d, k, batch)
    W = (rng.normal(size=(batch, d, k)) / np.sqrt(d)).astype(dtype)
    t = rng.uniform(0.5, 2.0, batch)
    D = None
    if diagonal:
        D = rng.uniform(0.5, 2.0, (batch, d) if diagonal == "each" else d).astype(dtype)
    b = rng.normal(size=(batch, d)).astype(dtype)
    cpu, gpu = (woodbury(e, W, D, t, function, b) for e in (_core, _cuda))
    assert cpu[0] == gpu[0] == 0
    close(gpu[1], cpu[1], tolerance(dtype))
    close(gpu[2], cpu[2], 1e-12, max(1.0, d))
    if d > 300:
        return
    W64 = W.astype(np.float64)
    full = W64 @ W64.transpose(0, 2, 1)
    full += (t[:, None] if D is None else np.broadcast_to(D, (batch, d)))[..., None] * np.eye(d)
    close(gpu[2], np.linalg.slogdet(full)[1], 1e-11, max(1.0, d))
    if function == SOLVE:
        close(gpu[1], np.linalg.solve(full, b[..., None])[..., 0], 10 * tolerance(dtype))
    elif D is None:
        values, vectors = np.linalg.eigh(full)
        root = np.einsum("bik,bk,bjk,bj->bi", vectors, values**-0.5, vectors, b)
        close(gpu[1], root, 10 * tolerance(dtype))
    only = woodbury(_cuda, W, D, t, function, None)
    close(only[2], gpu[2], 1e-14, max(1.0, d))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 7, 40])
def test_woodbury_says_which_failed(dtype, k):
    d, batch = 50, 9
    rng = generator(k)
    W = rng.normal(size=(batch, d, k)).astype(dtype)
    b, t = rng.normal(size=(batch, d)).astype(dtype), np.ones(batch)
    t[3] = -1e3
    W[5, 7, k - 1] = np.nan
    failed, out, logdet = woodbury(_cuda, W, None, t, SOLVE, b)
    bad = np.isin(np.arange(batch), (3, 5))
    assert failed == 2
    assert np.array_equal(np.isnan(out).all(1), bad)
    assert np.array_equal(np.isnan(logdet), bad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_woodbury_of_nothing(dtype):
    empty = np.empty((0, 5, 2), dtype)
    assert woodbury(_cuda, empty, None, np.ones(1), SOLVE, np.empty((0, 5), dtype))[0] == 0
    failed, _, logdet = woodbury(
        _cuda, np.empty((3, 0, 2), dtype), None, np.full(1, 2.0), SOLVE, np.empty((3, 0), dtype)
    )
    assert failed == 0
    close(logdet, np.zeros(3), 1e-14, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("d", "k"), [*SHAPES, (5, 9), (64, 17)])
def test_gram_factor(dtype, d, k):
    batch = 1 if k > 32 else 4
    rng = generator(d, k, batch)
    W = rng.normal(size=(batch, d, k)).astype(dtype)
    if k > 2:
        W[:, :, 1] = W[:, :, 0]  # rank-deficient
    U, s = room(W.shape, dtype), room((batch, k), dtype)
    _cuda.gram_factor(up(W), U, s)
    U, s = down(U, W.shape, dtype), down(s, (batch, k), dtype)
    assert (np.diff(s) <= 0).all()
    cpu_U, cpu_s = np.empty_like(W), np.empty((batch, k), dtype)
    _core.gram_factor(W, cpu_U, cpu_s)
    close(s, cpu_s, tolerance(dtype))
    W64, U64 = W.astype(np.float64), U.astype(np.float64)
    full = U64 * s[:, None].astype(np.float64) @ U64.transpose(0, 2, 1)
    close(full, W64 @ W64.transpose(0, 2, 1), 4 * tolerance(dtype))
    kept = s > 1e-10 * s[:, :1]
    assert (kept.sum(1) == min(d, k - (k > 2))).all()
    gram = U64.transpose(0, 2, 1) @ U64
    well = (kept[:, :, None] & kept[:, None]) * 1.0
    close(gram * well, np.eye(k) * well, 1e-5 if dtype == "float32" else 1e-8, 1.0)
    assert not U64[np.broadcast_to((s == 0)[:, None], W.shape)].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 2, 5, 33])
def test_gram_factor_of_zeros_and_of_equal_values(dtype, k):
    W = np.zeros((2, 40, k), dtype)
    W[1, np.arange(k), np.arange(k)] = 3.0
    U, s = room(W.shape, dtype), room((2, k), dtype)
    _cuda.gram_factor(up(W), U, s)
    U, s = down(U, W.shape, dtype), down(s, (2, k), dtype)
    assert not U[0].any()
    assert not s[0].any()
    assert np.array_equal(s[1], np.full(k, 9.0))
    assert np.array_equal(U[1], W[1] / 3)


# ---- directions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "d"), [(0, 5), (3, 0), (1, 1), (19, 5), (7, 64), (9, 600), (3, 5000), (40, 4100)]
)
@pytest.mark.parametrize(("rule", "value"), [(0, 0.3), (1, 0.1), (2, 0.5)])
def test_levenberg_marquardt_rows(dtype, rows, d, rule, value):
    rng = generator(rows, d)
    e = rng.normal(size=(rows, d)).astype(dtype)
    previous = (e + 0.3 * rng.normal(size=(rows, d))).astype(dtype)
    if rows > 1:
        previous[1] = e[1]
        e[0] = 0.0
    cpu = np.empty_like(e)
    _core.levenberg_marquardt_rows(e, previous, rule, value, 0.4, cpu)
    out = room(e.shape, dtype)
    _cuda.levenberg_marquardt_rows(up(e), up(previous), rule, value, 0.4, out)
    out = down(out, e.shape, dtype)
    close(out, cpu, tolerance(dtype))
    if rows and d:
        norms = np.linalg.norm(out.astype(np.float64), axis=1)
        close(norms, np.linalg.norm(e.astype(np.float64), axis=1), tolerance(dtype))
