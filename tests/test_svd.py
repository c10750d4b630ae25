"""Rectangular matrices: subspace iteration, block Krylov, generalised Nystrom, CUR."""

import numpy as np
import pytest

import mckean as mk
from mckean.lowrank import block_krylov_svd, cur, generalized_nystrom, nystrom, randomized_svd

METHODS = [block_krylov_svd, cur, generalized_nystrom, randomized_svd]
SVDS = [block_krylov_svd, generalized_nystrom, randomized_svd]
names = {"ids": lambda f: f.__name__}


def matrix(m, n, values, seed=0):
    U = np.linalg.qr(mk.random.normal(seed, (m, len(values))))[0]
    V = np.linalg.qr(mk.random.normal(seed + 1, (n, len(values))))[0]
    return (U * values) @ V.T


def of_rank(r, m=60, n=40):
    return mk.random.normal(3, (m, r)) @ mk.random.normal(4, (r, n))


def test_block_krylov_on_a_normal_matrix():
    """Beside subspace iteration with the same products, and the measured errors of another implementation."""
    A = mk.random.normal(5, (600, 400))
    want = np.linalg.svd(A, compute_uv=False)[:8]
    for depth, measured in [(0, 0.30), (1, 0.15), (2, 0.067), (4, 0.029), (8, 0.0037)]:
        found = block_krylov_svd(A, 8, depth=depth, block=8)
        error = (1 - found.s / want).max()
        assert 0.5 < error / measured < 1.5
        assert found.n_products == (2 * depth + 1) * 8 + (depth + 1) * 8
        plain = randomized_svd(A, 8, power=depth, oversample=0)
        assert depth < 2 or error < 0.7 * (1 - plain.s / want).max()


@pytest.mark.parametrize("method", SVDS, **names)
def test_orthonormal_and_sorted(method):
    A = matrix(70, 50, 1 / np.arange(1, 51.0) ** 2)
    found = method(A, 10)
    assert found.U.shape == (70, 10) and found.Vt.shape == (10, 50)
    assert abs(found.U.T @ found.U - np.eye(10)).max() < 1e-13
    assert abs(found.Vt @ found.Vt.T - np.eye(10)).max() < 1e-13
    assert (np.diff(found.s) <= 0).all()


@pytest.mark.parametrize("method", METHODS, **names)
def test_exact_for_a_matrix_of_the_rank(method):
    A = of_rank(5)
    for rank in (5, 8):
        assert np.linalg.norm(method(A, rank).to_dense() - A) < 1e-12 * np.linalg.norm(A)
        wide = method(A.T, rank)
        assert np.linalg.norm(wide.to_dense() - A.T) < 1e-12 * np.linalg.norm(A)


@pytest.mark.parametrize("method", METHODS, **names)
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (7, 3)])
def test_full_rank(method, shape):
    A = mk.random.normal(8, shape)
    found = method(A, min(shape))
    np.testing.assert_allclose(found.to_dense(), A, atol=1e-11)
    zero = method(np.zeros(shape), min(shape))
    assert (zero.to_dense() == 0).all()


def test_leading_values_are_right_where_the_spectrum_falls():
    values = 2.0 ** -np.arange(40)
    A = matrix(300, 200, values)
    for found in (block_krylov_svd(A, 8), randomized_svd(A, 8)):
        np.testing.assert_allclose(found.s, values[:8], rtol=1e-10)
        np.testing.assert_allclose(abs(A @ found.Vt.T), abs(found.U * found.s), atol=1e-7)


def test_generalized_nystrom_beside_the_best():
    values = 1 / np.arange(1, 201.0) ** 2
    A = matrix(300, 200, values)
    best = np.linalg.norm(values[20:])
    errors = [np.linalg.norm(generalized_nystrom(A, 20, seed=s).to_dense() - A) for s in range(10)]
    assert 1.0 < np.median(errors) / best < 12.0
    more = np.linalg.norm(generalized_nystrom(A, 20, oversample=40).to_dense() - A)
    assert more < 8.0 * best


def test_cur_takes_columns_and_rows():
    A = matrix(80, 60, 1 / np.arange(1, 61.0) ** 2)
    found = cur(A, 12)
    assert (found.C == A[:, found.columns]).all() and (found.R == A[found.rows]).all()
    assert len(set(found.columns.tolist())) == len(set(found.rows.tolist())) == 12
    np.testing.assert_allclose(
        found.U,
        np.linalg.pinv(A[np.ix_(found.rows, found.columns)]),
        atol=1e-7 * abs(found.U).max(),
    )
    assert np.linalg.norm(found.to_dense() - A, 2) < 20 * 1 / 13**2
    given = cur(A, rows=found.rows[:9], columns=found.columns)
    assert given.U.shape == (12, 9)


def test_the_common_form():
    """A X (Y^T A X)^+ Y^T A: its projector is idempotent, X (Y^T A X)^+ Y^T an outer inverse, and the pseudoinverse where
    X and Y span the rows and columns."""
    A = of_rank(6)
    X, Y = mk.random.normal(0, (40, 5)), mk.random.normal(1, (60, 5))
    core = np.linalg.pinv(Y.T @ A @ X)
    P, G = A @ X @ core @ Y.T, X @ core @ Y.T
    np.testing.assert_allclose(P @ P, P, atol=1e-10)
    np.testing.assert_allclose(G @ A @ G, G, atol=1e-10)
    X, Y = A.T @ mk.random.normal(2, (60, 6)), A @ mk.random.normal(3, (40, 6))
    pinv = X @ np.linalg.inv(Y.T @ A @ X) @ Y.T
    np.testing.assert_allclose(pinv, np.linalg.pinv(A), atol=1e-10)
    found = cur(A, 6)
    np.testing.assert_allclose(found.C @ found.U @ found.R, A, atol=1e-10)


def test_a_symmetric_matrix_is_nystroms():
    B = mk.random.normal(0, (50, 4))
    A = B @ B.T
    np.testing.assert_allclose(
        generalized_nystrom(A, 4).to_dense(), nystrom(A, 50, 4).to_dense(), atol=1e-10
    )


@pytest.mark.parametrize("method", METHODS, **names)
def test_every_framework(method, xp, dtype):
    A = matrix(50, 30, 2.0 ** -np.arange(30)).astype(dtype)
    want = method(A, 6).to_dense()
    a = xp.asarray(A)
    found = method(a, 6)
    tolerance = 1e4 * np.finfo(dtype).eps
    assert xp.dtype(found.to_dense()) == dtype
    np.testing.assert_allclose(xp.to_numpy(found.to_dense()), want, atol=tolerance)
    pair = method((lambda v: a @ v, lambda w: a.T @ w), 6, shape=(50, 30), like=a)
    assert xp.dtype(pair.to_dense()) == dtype
    np.testing.assert_allclose(xp.to_numpy(pair.to_dense()), want, atol=tolerance)


@pytest.mark.parametrize("method", METHODS, **names)
def test_scipys_matrices(method):
    sparse = pytest.importorskip("scipy.sparse")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    A = matrix(50, 30, 2.0 ** -np.arange(30))
    want = method(A, 6)
    for other in (sparse.csr_array(A), linalg.aslinearoperator(A)):
        np.testing.assert_allclose(method(other, 6).to_dense(), want.to_dense(), atol=1e-10)
    assert method(sparse.csr_array(A.astype(np.float32)), 6).to_dense().dtype == np.float32


@pytest.mark.parametrize("method", METHODS, **names)
def test_the_matrix_is_not_written(method):
    A = of_rank(5)
    before = A.copy()
    A.flags.writeable = False
    method(A, 5)
    assert (before == A).all()


@pytest.mark.parametrize("method", METHODS, **names)
def test_wrong_arguments(method):
    A = of_rank(5)
    for error, match, args, kwargs in [
        (ValueError, r"rank: .*at most min\(m, n\) = 40, got 41", (A, 41), {}),
        (ValueError, "rank: ", (A, 0), {}),
        (TypeError, "rank: ", (A, 2.0), {}),
        (TypeError, "A: ", (np.ones(3), 1), {}),
        (TypeError, "A: ", ("matrix", 1), {}),
        (ValueError, "shape: ", ((np.sin, np.sin), 1), {}),
        (ValueError, "shape: ", (A, 2), {"shape": (4, 4)}),
        (ValueError, "A v: |A\\^T v: ", ((lambda v: v[:3], lambda v: v[:3]), 2), {"shape": (9, 8)}),
        (TypeError, "seed: ", (A, 2), {"seed": None}),
    ]:
        with pytest.raises(error, match=match):
            method(*args, **kwargs)
    bad = A.copy()
    bad[3, 4] = np.nan
    with pytest.raises(FloatingPointError):
        method(bad, 3)


def test_wrong_arguments_of_one():
    A = of_rank(5)
    for match, call in [
        ("oversample: ", lambda: randomized_svd(A, 3, oversample=-1)),
        ("power: ", lambda: randomized_svd(A, 3, power=-1)),
        ("depth: ", lambda: block_krylov_svd(A, 3, depth=-1)),
        ("block: ", lambda: block_krylov_svd(A, 3, block=1, depth=1)),
        ("oversample: ", lambda: generalized_nystrom(A, 3, oversample=-1)),
        ("rank: ", lambda: cur(A)),
        ("rows: ", lambda: cur(A, rows=[1, 1], columns=[2])),
        ("columns: ", lambda: cur(A, rows=[1], columns=[40])),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
