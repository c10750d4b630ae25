"""Functions of U diag(s) U^T + sigma I against dense linear algebra in float64."""

import dataclasses
import functools
import importlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.lowrank import LowRankOperator

TOLERANCE = {"float32": 2e-4, "float64": 1e-10}


def orthonormal(rng, d, k, batch=None):
    lead = () if batch is None else (batch,)
    return np.linalg.qr(rng.standard_normal((*lead, d, k)))[0]


def power(A, p):
    """A^p of symmetric matrices."""
    values, vectors = np.linalg.eigh(A)
    return (vectors * values[..., None, :] ** p) @ np.swapaxes(vectors, -1, -2)


def dense(U, s, t):
    d = U.shape[-2]
    t = np.asarray(t, float)[..., None, None]
    return (U * s[..., None, :]) @ np.swapaxes(U, -1, -2) + t * np.eye(d)


FUNCTIONS = {"matvec": 1.0, "solve": -1.0, "sqrt_solve": -0.5, "sqrt_matvec": 0.5}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    "shape, sigma", [((30, 5), 0.0), ((7, 7), 1.5), ((1, 1), 0.5), ((2100, 3), 1.5)]
)
def test_functions_are_those_of_the_dense_matrix(xp, dtype, function, shape, sigma):
    rng = np.random.default_rng(0)
    d, k = shape
    U, s = (
        orthonormal(rng, d, k).astype(dtype),
        np.sort(rng.uniform(-0.3, 9, k))[::-1].astype(dtype),
    )
    op = LowRankOperator(xp.asarray(U), xp.asarray(s.copy()), sigma=sigma)
    t = 0.7 + sigma
    if d > 100:  # an eigenvalue for each column, and t
        U64 = U.astype(float)
        inner = (s.astype(float) + t) ** FUNCTIONS[function] - t ** FUNCTIONS[function]
        M = (U64 * inner) @ U64.T + t ** FUNCTIONS[function] * np.eye(d)
    else:
        M = power(dense(U.astype(float), s.astype(float), t), FUNCTIONS[function])
    call = getattr(op, function)
    for b in (rng.standard_normal(d), rng.standard_normal((d, 4)), rng.standard_normal((d, 0))):
        b = b.astype(dtype)
        found = call(xp.asarray(b), 0.7)
        assert xp.dtype(found) == dtype and tuple(found.shape) == b.shape
        np.testing.assert_allclose(xp.to_numpy(found), M @ b, atol=TOLERANCE[dtype] * 5)
        if b.ndim == 2:
            rows = call(xp.asarray(b.T.copy()), 0.7, axis=-1)
            np.testing.assert_array_equal(xp.to_numpy(rows), xp.to_numpy(found).T)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("batch, d, k", [(3, 20, 4), (1, 5, 5), (70, 64, 8), (2, 90, 11)])
def test_batches_are_their_items_bit_for_bit(xp, dtype, function, batch, d, k):
    rng = np.random.default_rng(1)
    U = orthonormal(rng, d, k, batch).astype(dtype)
    s = rng.uniform(0, 5, (batch, k)).astype(dtype)
    sigma, damping = rng.uniform(0, 1, batch), rng.uniform(0.1, 1, batch)
    op = LowRankOperator(xp.asarray(U), xp.asarray(s), sigma=sigma)
    b = rng.standard_normal((batch, 3, d)).astype(dtype)
    found = getattr(op, function)(xp.asarray(b), xp.asarray(damping))
    single = getattr(op, function)(xp.asarray(b[:, 0].copy()), damping)
    M = power(dense(U.astype(float), s.astype(float), sigma + damping), FUNCTIONS[function])
    expected = np.einsum("bij,bnj->bni", M, b)
    np.testing.assert_allclose(xp.to_numpy(found), expected, atol=20 * TOLERANCE[dtype])
    np.testing.assert_allclose(xp.to_numpy(single), expected[:, 0], atol=20 * TOLERANCE[dtype])
    for i in {0, batch // 2, batch - 1}:  # rows are compared with rows, vectors with vectors
        item = LowRankOperator(xp.asarray(U[i].copy()), xp.asarray(s[i].copy()), sigma=sigma[i])
        alone = getattr(item, function)(xp.asarray(b[i].copy()), damping[i], axis=-1)
        np.testing.assert_array_equal(xp.to_numpy(alone), xp.to_numpy(found)[i])
        vector = getattr(op[i], function)(xp.asarray(b[i, 0].copy()), float(damping[i]))
        np.testing.assert_array_equal(xp.to_numpy(vector), xp.to_numpy(single)[i])


@pytest.mark.parametrize(
    "d, k", [(1, 1), (5, 5), (20, 4), (90, 11), (130, 33), (300, 8), (5000, 3)]
)
def test_rows_do_not_depend_on_their_company(dtype, d, k):
    """Nor columns, nor the rows of the items of a batch. A vector is another call: equal up to rounding."""
    rng = np.random.default_rng(4)
    U, s = orthonormal(rng, d, k, 2).astype(dtype), rng.uniform(0.1, 5, (2, k)).astype(dtype)
    b = rng.standard_normal((2, 19, d)).astype(dtype)
    batch = LowRankOperator(U, s)
    op = batch[1]
    precondition = op.preconditioner(0.3)
    calls = [functools.partial(getattr(op, f), damping=0.3) for f in (*FUNCTIONS, "quadratic")]
    for call in (*calls, precondition):
        rows = call(b[1], axis=-1)
        assert np.array_equal(call(b[1].T.copy()).T, rows)
        for n in (1, 2, 3, 8, 16):
            for first in (0, 3):
                part = b[1, first : first + n].copy()
                assert np.array_equal(call(part, axis=-1), rows[first : first + n])
                assert np.array_equal(call(part.T.copy()).T, rows[first : first + n])
        vectors = np.stack([call(x) for x in b[1, :3]])
        np.testing.assert_allclose(vectors, rows[:3], atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    for f in (*FUNCTIONS, "quadratic"):
        rows = getattr(op, f)(b[1], 0.3, axis=-1)
        for n in (1, 5, 19):
            found = getattr(batch, f)(b[:, :n].copy(), 0.3)
            assert np.array_equal(found[1], rows[:n])
    terms = [("identity", 1.0), ("solve", -0.2), ("sqrt_solve", 0.5)]
    rows = op.combine([(f, c, b[1]) for f, c in terms], 0.3)
    one = op.combine([(f, c, b[1, 4:5].copy()) for f, c in terms], 0.3)
    assert np.array_equal(one[0], rows[4])


def test_logdet_trace_dense_quadratic(xp, dtype):
    rng = np.random.default_rng(2)
    for batch in (None, 4):
        U = orthonormal(rng, 12, 3, batch).astype(dtype)
        s = rng.uniform(-0.1, 5, (*U.shape[:-2], 3)).astype(dtype)
        op = LowRankOperator(xp.asarray(U), xp.asarray(s), sigma=0.5)
        A = dense(U.astype(float), s.astype(float), 0.5)
        shifted = dense(U.astype(float), s.astype(float), 1.3)
        b = rng.standard_normal((4, 12)).astype(dtype)
        close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
        found = [
            op.logdet(0.8),
            op.trace(),
            op.to_dense(0.8),
            op.quadratic(xp.asarray(b), 0.8, axis=-1),
        ]
        if batch is None:
            assert isinstance(found[0], float) and isinstance(found[1], float)
            one = op.quadratic(xp.asarray(b[0]), 0.8)
            assert isinstance(one, float)
            assert one == pytest.approx(b[0] @ shifted @ b[0], rel=1e-5)
            columns = op.quadratic(xp.asarray(b.T.copy()), 0.8)
            np.testing.assert_array_equal(xp.to_numpy(columns), xp.to_numpy(found[3]))
            found[:2] = np.array(found[0]), np.array(found[1])
        else:
            assert xp.dtype(found[0]) == xp.dtype(found[1]) == dtype
            found[:2] = xp.to_numpy(found[0]), xp.to_numpy(found[1])
        np.testing.assert_allclose(found[0], np.linalg.slogdet(shifted)[1], **close)
        np.testing.assert_allclose(found[1], np.trace(A, axis1=-2, axis2=-1), **close)
        np.testing.assert_allclose(xp.to_numpy(found[2]), shifted, **close)
        expected = np.einsum("...i,...ij,...j->...", b.astype(float), shifted, b.astype(float))
        assert xp.dtype(found[3]) == dtype
        np.testing.assert_allclose(xp.to_numpy(found[3]), expected, rtol=TOLERANCE[dtype])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(0, 12),
    st.integers(0, 3),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["C", "F", "strided", "reversed"]),
    st.integers(0, 1000),
)
def test_shapes_and_strides(d, k, n, dtype, layout, seed):
    rng = np.random.default_rng(seed)
    k = min(k, d)
    U, s = orthonormal(rng, d, k).astype(dtype), rng.uniform(0, 3, k).astype(dtype)
    b = rng.standard_normal((n, d)).astype(dtype)

    def arranged(a):
        if layout == "F":
            return np.asfortranarray(a)
        if layout == "strided":
            wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
            wide[..., ::2] = a
            return wide[..., ::2]
        return a[..., ::-1].copy()[..., ::-1] if layout == "reversed" else a

    op = LowRankOperator(arranged(U), arranged(s))
    before = b.copy()
    plain = LowRankOperator(U, s)
    for name in FUNCTIONS:
        found = getattr(op, name)(arranged(b), 0.3, axis=-1)
        np.testing.assert_array_equal(found, getattr(plain, name)(b, 0.3, axis=-1))
        M = power(dense(U.astype(float), s.astype(float), 0.3), FUNCTIONS[name])
        np.testing.assert_allclose(found, b @ M, atol=10 * TOLERANCE[dtype])
    np.testing.assert_array_equal(b, before)


# ---- oracle 3 and pitfalls ---------------------------------------------------------------------


def test_roots():
    rng = np.random.default_rng(3)
    op = LowRankOperator(orthonormal(rng, 50, 6), np.array([1e6, 1e3, 5.0, 1.0, 1e-6, -0.05]))
    b = rng.standard_normal(50)
    once = op.sqrt_solve(b, 0.1)
    np.testing.assert_allclose(op.sqrt_solve(once, 0.1), op.solve(b, 0.1), rtol=1e-12, atol=1e-12)
    assert once @ once == pytest.approx(b @ op.solve(b, 0.1), rel=1e-13)
    np.testing.assert_allclose(op.sqrt_matvec(once, 0.1), b, atol=1e-9)
    np.testing.assert_allclose(op.matvec(op.solve(b, 0.1), 0.1), b, atol=1e-9)


@pytest.mark.parametrize("t", [1e-7, 1e-12, 1.0, 1e12])
def test_nothing_cancels(t):
    """Directions in the span and beside it, for s and t of very different sizes."""
    s = np.array([1.0, 1e-14, 1e10])
    op = LowRankOperator(np.eye(5)[:, :3], s)
    diagonal = np.concatenate([s, [0, 0]]) + t
    for name, p in FUNCTIONS.items():
        found = getattr(op, name)(np.ones((5, 1)), t)[:, 0]
        if name in ("solve", "sqrt_solve"):
            # alpha b + U w c: an error of rounding relative to f(t), the largest value.
            np.testing.assert_allclose(found, diagonal**p, rtol=0, atol=4e-16 * t**p)
        else:
            np.testing.assert_allclose(found, diagonal**p, rtol=1e-15)


def test_no_damping():
    rng = np.random.default_rng(4)
    U, s, b = orthonormal(rng, 6, 6), np.arange(6.0, 0.0, -1.0), rng.standard_normal(6)
    op = LowRankOperator(U, s)
    A = dense(U, s, 0.0)
    np.testing.assert_allclose(op.solve(b), np.linalg.solve(A, b), rtol=1e-12)
    np.testing.assert_allclose(op.sqrt_solve(b), power(A, -0.5) @ b, rtol=1e-12)
    np.testing.assert_allclose(op.sqrt_matvec(b), power(A, 0.5) @ b, rtol=1e-12)
    assert op.logdet() == pytest.approx(np.log(s).sum(), rel=1e-14)
    # A semi-definite model has a root, and no inverse.
    half = LowRankOperator(U[:, :3], np.array([2.0, 1.0, 0.0]))
    np.testing.assert_allclose(half.sqrt_matvec(half.sqrt_matvec(b)), half.matvec(b), atol=1e-14)
    # sigma alone makes it definite, and makes s of any sign possible.
    shifted = LowRankOperator(U[:, :2], np.array([1.0, -0.5]), sigma=0.6)
    np.testing.assert_allclose(shifted.matvec(shifted.solve(b)), b, atol=1e-13)


BAD_DAMPING = [
    ((6, 2), [2.0, 1.0], 0.0, 0.0, "solve", "rank 2 is below d = 6"),
    ((6, 2), [2.0, -1.0], 0.0, 0.5, "solve", "damping = 0.5, sigma = 0, min\\(s\\) = -1"),
    ((6, 2), [2.0, -1.0], 0.25, 0.75, "solve", "damping = 0.75, sigma = 0.25, min\\(s\\) = -1"),
    ((6, 2), [2.0, -1.0], 0.25, 0.5, "sqrt_matvec", "damping = 0.5, sigma = 0.25"),
    ((6, 2), [2.0, 1.0], -1.0, 0.5, "sqrt_solve", "damping = 0.5, sigma = -1"),
    ((3, 3), [2.0, 1.0, 0.0], 0.0, 0.0, "solve", "min\\(s\\) = 0"),
    ((6, 2), [2.0, 1.0], 0.0, -0.1, "matvec", "expected numbers >= 0, got -0.1"),
    ((6, 0), [], 0.0, 0.0, "solve", "damping"),
]


@pytest.mark.parametrize("shape, s, sigma, damping, function, message", BAD_DAMPING)
def test_damping_that_does_not_do(shape, s, sigma, damping, function, message):
    op = LowRankOperator(np.eye(shape[0])[:, : shape[1]], np.array(s), sigma=sigma)
    with pytest.raises(ValueError, match=f"^damping: .*{message}"):
        getattr(op, function)(np.ones(shape[0]), damping)
    if function != "matvec" and function != "sqrt_matvec":
        with pytest.raises(ValueError, match="^damping: "):
            op.logdet(damping)
    # The same in an item of a batch, whose others are fine.
    U = np.stack([np.eye(shape[0])[:, : shape[1]]] * 3)
    values = np.stack([np.ones(shape[1]), s, np.ones(shape[1])])
    batch = LowRankOperator(U, values, sigma=np.array([1.0, sigma, 1.0]))
    with pytest.raises(ValueError, match=f"^damping: .*{message}.* in item 1"):
        getattr(batch, function)(np.ones((3, shape[0])), np.array([1.0, damping, 1.0]))


def test_matvec_of_indefinite_models():
    op = LowRankOperator(np.eye(3)[:, :1], np.array([-2.0]), sigma=-1.0)
    np.testing.assert_array_equal(op @ np.ones(3), [-3.0, -1.0, -1.0])
    np.testing.assert_array_equal(op.matvec(np.ones(3), 0.5), [-2.5, -0.5, -0.5])
    assert op.trace() == -5.0


# ---- several terms in one call -----------------------------------------------------------------


def test_combine(xp, dtype):
    rng = np.random.default_rng(5)
    for batch, shape in ((None, (9, 20)), (None, (20,)), (4, (4, 20)), (4, (4, 3, 20))):
        U, s = orthonormal(rng, 20, 3, batch).astype(dtype), np.array([5.0, 2.0, 0.1], dtype)
        s = s if batch is None else np.stack([s] * batch)
        op = LowRankOperator(xp.asarray(U), xp.asarray(s))
        x, g = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        terms = [
            ("identity", 1.0, xp.asarray(x)),
            ("solve", 0.5, xp.asarray(g)),
            ("sqrt_solve", 2.0, None),
        ]
        found = op.combine(terms, 0.4, seed=11, stream=3, counter=6)
        assert xp.dtype(found) == dtype
        z = mk.random.normal(11, shape, stream=3, counter=6, dtype=dtype)
        each = [
            x,
            op.solve(xp.asarray(g), 0.4, axis=-1),
            op.sqrt_solve(xp.asarray(z), 0.4, axis=-1),
        ]
        expected = each[0] + 0.5 * xp.to_numpy(each[1]) + 2.0 * xp.to_numpy(each[2])
        np.testing.assert_allclose(xp.to_numpy(found), expected, atol=TOLERANCE[dtype] * 10)
        noise = op.combine(
            [("sqrt_matvec", 1.0, None), ("matvec", 1.0, None)], 0.4, seed=11, shape=shape
        )
        z = xp.asarray(mk.random.normal(11, shape, dtype=dtype))
        expected = xp.to_numpy(op.sqrt_matvec(z, 0.4, axis=-1)) + xp.to_numpy(
            op.matvec(z, 0.4, axis=-1)
        )
        np.testing.assert_allclose(xp.to_numpy(noise), expected, atol=TOLERANCE[dtype] * 10)


def test_combine_errors():
    op = LowRankOperator(np.eye(4)[:, :2], np.array([2.0, 1.0]))
    x = np.ones((3, 4))
    for terms, options, message in [
        ([], {}, "terms: expected 1 to 4, got 0"),
        ([("identity", 1.0, x)] * 5, {}, "terms: expected 1 to 4, got 5"),
        ([("root", 1.0, x)], {}, r"terms\[0\]\[0\]: expected one of"),
        (
            [("identity", 1.0, x), ("solve", 1.0, np.ones((2, 4)))],
            {"damping": 1.0},
            r"terms\[1\]\[2\]: ",
        ),
        (
            [("identity", 1.0, np.ones((3, 5)))],
            {},
            r"terms\[0\]\[2\]: expected vectors of length 4",
        ),
        ([("identity", 1.0, x), ("solve", 1.0, x)], {}, "damping: "),
        ([("identity", np.nan, x)], {}, "scale: "),
        ([("identity", 1.0, None)], {}, "shape: "),
        ([("identity", 1.0, None)], {"shape": (3, 5)}, "shape: "),
        ([("identity", 1.0, x)], {"shape": (2, 4)}, r"terms\[0\]\[2\]: "),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            op.combine(terms, **options)
    assert op.combine([("identity", 2.0, np.ones((0, 4)))]).shape == (0, 4)


# ---- other models ------------------------------------------------------------------------------


def test_arithmetic(xp, dtype):
    rng = np.random.default_rng(6)
    U, s = orthonormal(rng, 10, 3).astype(dtype), np.array([4.0, 1.0, -0.2], dtype)
    op = LowRankOperator(xp.asarray(U), xp.asarray(s), sigma=0.5)
    b = rng.standard_normal(10).astype(dtype)
    A = dense(U.astype(float), s.astype(float), 0.5)
    eye = np.eye(10)
    for made, expected in [
        (op + 2.0, A + 2 * eye),
        (2 + op, A + 2 * eye),
        (np.float64(2) + op, A + 2 * eye),
        (op - 0.25, A - 0.25 * eye),
        (op * 3.0, 3 * A),
        (0.5 * op, A / 2),
        (-op, -A),
    ]:
        assert isinstance(made, LowRankOperator) and xp.dtype(made.U) == xp.dtype(made.s) == dtype
        np.testing.assert_allclose(
            xp.to_numpy(made @ xp.asarray(b)), expected @ b, atol=TOLERANCE[dtype] * 10
        )
    np.testing.assert_allclose(
        xp.to_numpy((op + 2.0).solve(xp.asarray(b))),
        xp.to_numpy(op.solve(xp.asarray(b), 2.0)),
        rtol=1e-6,
    )
    with pytest.raises(TypeError):
        op + op
    with pytest.raises(TypeError):
        op * "2"
    batch = LowRankOperator(np.stack([U, U]), np.stack([s, s]))
    assert (batch + np.array([1.0, 2.0])).sigma.tolist() == [1.0, 2.0]
    assert len(list(batch)) == 2 and batch[0:1].batch == 1
    with pytest.raises(TypeError, match="expected a batch"):
        op[0]


def test_truncate(xp):
    rng = np.random.default_rng(7)
    U, s = orthonormal(rng, 10, 4), np.array([4.0, 1.0, -0.2, -3.0])
    op = LowRankOperator(xp.asarray(U), xp.asarray(s), sigma=0.5)
    op.residuals = np.arange(4.0)
    small = op.truncate(2)
    assert xp.to_numpy(small.s).tolist() == [4.0, -3.0] and small.sigma == 0.5
    assert small.residuals.tolist() == [0.0, 3.0]
    np.testing.assert_array_equal(xp.to_numpy(small.U), U[:, [0, 3]])
    assert op.truncate(0).rank == 0 and op.truncate(4).rank == 4
    with pytest.raises(ValueError, match="rank: expected at most 4, got 5"):
        op.truncate(5)
    batch = LowRankOperator(
        xp.asarray(orthonormal(rng, 6, 3, 2)), xp.asarray(np.array([[3.0, 2, 1], [1.0, 2, 3]]))
    )
    small = batch.truncate(2)
    assert xp.to_numpy(small.s).tolist() == [[3.0, 2.0], [2.0, 3.0]]
    np.testing.assert_array_equal(xp.to_numpy(small.U)[1], xp.to_numpy(batch.U)[1][:, 1:])


def test_scipy_takes_preconditioners_themselves():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    rng = np.random.default_rng(0)
    Q = orthonormal(rng, 100, 100)
    values = 1e3 * np.exp(-np.arange(100) / 5) + 0.01
    A, b = (Q * values) @ Q.T, rng.standard_normal(100)
    model = LowRankOperator(Q[:, :40].copy(), values[:40])
    steps = []
    x, info = linalg.cg(A, b, rtol=1e-8, M=model.preconditioner(0.01), callback=steps.append)
    assert info == 0 and len(steps) < 50
    np.testing.assert_allclose(A @ x, b, atol=1e-6)


def test_preconditioner(xp, dtype):
    rng = np.random.default_rng(8)
    U, s = orthonormal(rng, 10, 3).astype(dtype), np.array([9.0, 4.0, 1.0], dtype)
    op = LowRankOperator(xp.asarray(U), xp.asarray(s))
    P = op.preconditioner(0.5)
    U64 = U.astype(float)
    expected = 1.5 * U64 @ np.diag(1 / (s + 0.5)) @ U64.T + np.eye(10) - U64 @ U64.T
    b = rng.standard_normal((10, 2)).astype(dtype)
    np.testing.assert_allclose(xp.to_numpy(P(xp.asarray(b))), expected @ b, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        xp.to_numpy(P @ xp.asarray(b[:, 0].copy())), expected @ b[:, 0], atol=TOLERANCE[dtype]
    )
    np.testing.assert_allclose(
        P.as_linear_operator() @ b[:, 0], expected @ b[:, 0], atol=TOLERANCE[dtype]
    )
    # Every model of a batch has its own least eigenvalue.
    values = np.stack([s, 2 * s])
    batch = LowRankOperator(xp.asarray(np.stack([U, U])), xp.asarray(values))
    both = xp.to_numpy(batch.preconditioner(0.5)(xp.asarray(np.stack([b[:, 0]] * 2))))
    for i in range(2):
        one = LowRankOperator(xp.asarray(U), xp.asarray(values[i].copy())).preconditioner(0.5)
        np.testing.assert_array_equal(both[i], xp.to_numpy(one(xp.asarray(b[:, 0].copy()))))
    with pytest.raises(ValueError, match="damping"):
        LowRankOperator(np.eye(3)[:, :1], np.array([-1.0])).preconditioner(0.5)


def test_scipy(xp, dtype):
    linalg = importlib.import_module("scipy.sparse.linalg")
    rng = np.random.default_rng(9)
    U, s = orthonormal(rng, 40, 5).astype(dtype), np.array([90.0, 50, 20, 5, 3], dtype)
    op = LowRankOperator(xp.asarray(U), xp.asarray(s))
    A = dense(U.astype(float), s.astype(float), 0.5)
    L = op.as_linear_operator(0.5)
    assert isinstance(L, linalg.LinearOperator) and L.shape == (40, 40) and L.dtype == dtype
    X = rng.standard_normal((40, 3))
    np.testing.assert_allclose(L @ X, A @ X, rtol=1e-3 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(
        L.rmatvec(X[:, 0]), A @ X[:, 0], rtol=1e-3 if dtype == "float32" else 1e-11
    )
    np.testing.assert_allclose(
        L.T @ X[:, :1], A @ X[:, :1], rtol=1e-3 if dtype == "float32" else 1e-11
    )
    top = linalg.eigsh(L, k=3, v0=np.ones(40, dtype))[0]
    np.testing.assert_allclose(np.sort(top)[::-1], [90.5, 50.5, 20.5], rtol=1e-4)
    x, info = linalg.cg(
        L, X[:, 0].astype(dtype), M=op.as_linear_operator(0.5, function="solve"), rtol=1e-4
    )
    assert info == 0
    np.testing.assert_allclose(A @ x, X[:, 0], atol=1e-2)
    with pytest.raises(ValueError, match="batch"):
        LowRankOperator(np.zeros((2, 3, 0)), np.zeros((2, 0))).as_linear_operator(1.0)
    with pytest.raises(ValueError, match="function"):
        op.as_linear_operator(1.0, function="exp")


def test_scipy_takes_the_model_itself():
    linalg = importlib.import_module("scipy.sparse.linalg")
    rng = np.random.default_rng(10)
    op = LowRankOperator(orthonormal(rng, 30, 3), np.array([9.0, 4.0, 1.0])) + 0.1
    b = rng.standard_normal(30)
    x, info = linalg.cg(op, b, rtol=1e-10)
    assert info == 0
    np.testing.assert_allclose(x, op.solve(b), rtol=1e-7)
    again = mk.lowrank.lanczos(op, 30, 3)
    np.testing.assert_allclose(again.s, [9.1, 4.1, 1.1], rtol=1e-8)


# ---- arguments ---------------------------------------------------------------------------------


def test_wrong_arguments():
    U, s = np.eye(4)[:, :2], np.array([2.0, 1.0])
    op = LowRankOperator(U, s)
    for make, kind, message in [
        (lambda: LowRankOperator(np.ones(3), s), ValueError, "U: expected shape"),
        (
            lambda: LowRankOperator(np.ones((2, 3)), s),
            ValueError,
            "U: expected at most as many columns",
        ),
        (lambda: LowRankOperator(U, np.ones(3)), ValueError, "s: expected shape"),
        (lambda: LowRankOperator(U, s.astype("float32")), TypeError, "s: expected float64"),
        (lambda: LowRankOperator(U, np.array([np.nan, 1.0])), ValueError, "s: expected finite"),
        (lambda: LowRankOperator(U, s, sigma=np.inf), ValueError, "sigma: "),
        (lambda: LowRankOperator(U, s, sigma=np.ones(2)), ValueError, "sigma: expected a number"),
        (lambda: LowRankOperator(2 * U, s), ValueError, "U: expected orthonormal columns.* by 3"),
        (lambda: LowRankOperator(0 * U, s), ValueError, "U: expected orthonormal columns"),
        (lambda: LowRankOperator(np.full((4, 2), np.nan), s), ValueError, "U: expected finite"),
        (
            lambda: LowRankOperator(np.stack([U, 1.01 * U]), np.stack([s, s])),
            ValueError,
            "U: expected orthonormal",
        ),
        (lambda: op.solve(np.ones(3), 1.0), ValueError, "b: "),
        (
            lambda: op.solve(np.ones((3, 4)), 1.0),
            ValueError,
            r"b: expected shape \(d,\) or \(d, p\)",
        ),
        (lambda: op.solve(np.ones((4, 3)), 1.0, axis=-1), ValueError, "b: "),
        (lambda: op.solve(np.ones(4), 1.0, axis=1), ValueError, "axis: "),
        (lambda: op.solve(np.ones(4, "float32"), 1.0), TypeError, "b: expected float64"),
        (lambda: op.solve(np.ones(4), np.ones(2)), ValueError, "damping: expected a number"),
        (lambda: op.solve(np.ones(4), np.nan), ValueError, "damping: "),
        (lambda: op.solve(np.ones(4), "much"), TypeError, "damping: "),
        (lambda: op.solve(1.0, 1.0), ValueError, "b: "),
        (lambda: op.matvec(np.ones((3, 3, 5))), ValueError, "v: "),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            make()
    batch = LowRankOperator(np.stack([U] * 3), np.stack([s] * 3))
    for b in (np.ones(4), np.ones((2, 4)), np.ones((3, 5)), np.ones((3, 4, 5))):
        with pytest.raises(ValueError, match=r"^b: expected shape \(3, 4\) or \(3, n, 4\)"):
            batch.solve(b, 1.0)
    with pytest.raises(ValueError, match="damping: expected a number or shape"):
        batch.solve(np.ones((3, 4)), np.ones(4))


def test_frameworks_do_not_mix():
    torch = pytest.importorskip("torch")
    op = LowRankOperator(torch.eye(3)[:, :1], torch.ones(1))
    with pytest.raises(TypeError, match="b: expected a torch array to match U, got numpy"):
        op.solve(np.ones(3, "float32"), 1.0)
    with pytest.raises(ValueError, match="requires grad"):
        op.solve(torch.ones(3, requires_grad=True), 1.0)


def test_nothing_to_do(dtype):
    """No columns, no vectors, no models."""
    op = LowRankOperator(np.zeros((5, 0), dtype), np.zeros(0, dtype))
    np.testing.assert_array_equal(op.solve(np.ones(5, dtype), 2.0), np.full(5, 0.5, dtype))
    assert op.logdet(1.0) == 0.0 and op.trace() == 0.0 and op.truncate(0).rank == 0
    np.testing.assert_array_equal(op.preconditioner(1.0)(np.ones(5, dtype)), np.ones(5, dtype))
    assert op.solve(np.ones((0, 5), dtype), 2.0, axis=-1).shape == (0, 5)
    assert op.quadratic(np.ones((0, 5), dtype), axis=-1).shape == (0,)
    empty = LowRankOperator(np.zeros((0, 5, 2), dtype), np.zeros((0, 2), dtype))
    assert empty.solve(np.zeros((0, 5), dtype), 1.0).shape == (0, 5)
    assert empty.solve(np.zeros((0, 5), dtype), np.zeros(0)).shape == (0, 5)
    assert empty.logdet(1.0).shape == (0,) and empty.trace().shape == (0,)
    assert "LowRankOperator(batch=0" in repr(empty)
    dropped = LowRankOperator(np.zeros((3, 1)), np.zeros(1))  # as of a factor of lower rank
    np.testing.assert_array_equal(dropped.solve(np.ones(3), 2.0), np.full(3, 0.5))


def test_integers_and_lists():
    op = LowRankOperator([[1.0], [0.0]], [3.0])
    assert op.solve([4, 1], 1).tolist() == [1.0, 1.0]
    assert op.solve(np.array([[4], [1]]), 1).tolist() == [[1.0], [1.0]]


def test_copies_and_pickles(xp):
    op = LowRankOperator(xp.asarray(np.eye(3)[:, :1]), xp.asarray(np.array([2.0])), sigma=0.5)
    op.n_matvecs, op.converged, op.error_estimate = 7, False, 0.25
    again = pickle.loads(pickle.dumps(op))
    assert (again.n_matvecs, again.converged, again.sigma, again.rank) == (7, False, 0.5, 1)
    assert again.error_estimate == 0.25
    np.testing.assert_array_equal(xp.to_numpy(again.U), xp.to_numpy(op.U))
    b = xp.asarray(np.ones(3))
    np.testing.assert_array_equal(xp.to_numpy(again.solve(b)), xp.to_numpy(op.solve(b)))


def test_the_error_estimate_stays_with_the_model():
    op = LowRankOperator(np.eye(3)[:, :2], np.array([4.0, 2.0]))
    assert (op + 1.0).error_estimate is None
    op.error_estimate = 0.5
    kept = (op + 1.0, 1.0 + op, op - 1.0, op.truncate(2), -op)
    assert [m.error_estimate for m in kept] == [0.5] * 5
    assert (op * -3.0).error_estimate == 1.5
    assert op.truncate(1).error_estimate is None  # which leaves out more


@dataclasses.dataclass
class Points:
    x: object


def test_settings_of_a_run_tell_models_apart(tmp_path):
    """A model is part of what a checkpoint was made with."""

    class Shrink:
        def __init__(self, op):
            self.op = op

        def init(self, x0, seed=0):
            return Points(x0)

        def step(self, state):
            return Points(self.op.solve(state.x, 1.0, axis=-1))

    path, x0 = tmp_path / "run.npz", np.ones((2, 3))
    op = LowRankOperator(np.eye(3)[:, :1], np.array([1.0]))
    options = {"progress": False, "checkpoint": path}
    first = mk.run(Shrink(op), x0, 2, **options)
    more = mk.run(Shrink(op.truncate(1)), x0, 4, **options)
    assert first.x[-1][0].tolist() == [0.25, 1.0, 1.0] and more.x[-1][0, 0] == 1 / 16
    with pytest.raises(mk.CheckpointError, match="setting"):
        mk.run(Shrink(op * 2.0), x0, 4, **options)


def test_threads_do_not_change_a_bit(dtype):
    rng = np.random.default_rng(12)
    U, s = orthonormal(rng, 5000, 4).astype(dtype), np.array([5.0, 3.0, 2.0, 1.0], dtype)
    b = rng.standard_normal((5000, 3)).astype(dtype)
    before, found = mk.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            mk.set_num_threads(n)
            op = LowRankOperator(U, s)
            found.append(
                (op.solve(b, 0.1), op.quadratic(b, 0.1), op.sqrt_solve(b[:, 0].copy(), 0.1))
            )
    finally:
        mk.set_num_threads(before)
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)


def test_damping_whose_inverse_overflows(xp, dtype):
    tiny, root = (1e-40, 1e-80) if dtype == "float32" else (1e-310, 1e-310)
    U, s = np.eye(4, 2, dtype=dtype), np.array([2.0, 1.0], dtype)
    op = LowRankOperator(xp.asarray(U), xp.asarray(s))
    b = xp.asarray(np.ones(4, dtype))
    message = "damping: expected damping .* whose inverse is finite in " + dtype
    with pytest.raises(ValueError, match=message):
        op.solve(b, tiny)
    with pytest.raises(ValueError, match=message):
        op.combine([("solve", 1.0, b)], tiny)
    if dtype == "float32":
        with pytest.raises(ValueError, match=message):
            op.sqrt_solve(b, root)
    else:
        assert np.isfinite(xp.to_numpy(op.sqrt_solve(b, root))).all()
    assert np.isfinite(op.logdet(tiny))
    # In the span of U the two terms cancel: eps (t + s) / t.
    t = 1e-3
    found = xp.to_numpy(op.solve(b, t)).astype(float)
    assert abs(found[:2] * (s + t) - 1).max() < 4 * np.finfo(dtype).eps * (2 + t) / t
