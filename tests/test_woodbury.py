"""Models of any columns against dense linear algebra in float64."""

import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.lowrank import (
    from_factor,
    woodbury_logdet,
    woodbury_noise,
    woodbury_solve,
    woodbury_sqrt_solve,
)

TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


def inverse_root(A):
    values, vectors = np.linalg.eigh(A)
    return (vectors / np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def turned(a):
    return np.swapaxes(a, -1, -2)


@pytest.mark.parametrize("shape", [(20, 3), (5, 5), (4, 9), (60, 40), (1, 1)])
@pytest.mark.parametrize("with_diagonal", [False, True])
def test_one_model(xp, dtype, shape, with_diagonal):
    if xp.name == "jax" and shape not in ((20, 3), (4, 9)):
        pytest.skip("JAX compiles every shape anew: a tall and a wide one do")
    rng = np.random.default_rng(0)
    d, _k = shape
    W = rng.standard_normal(shape).astype(dtype)
    D = rng.uniform(0.5, 2.0, d).astype(dtype)
    options = {"diagonal": xp.asarray(D)} if with_diagonal else {}
    W64 = W.astype(float)
    A = W64 @ W64.T + 0.3 * np.eye(d) + (np.diag(D.astype(float)) if with_diagonal else 0)
    x, close = xp.asarray(W), {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    for b in (rng.standard_normal(d), rng.standard_normal((d, 4)), rng.standard_normal((d, 0))):
        b = b.astype(dtype)
        found = woodbury_solve(x, xp.asarray(b), 0.3, **options)
        assert xp.dtype(found) == dtype
        np.testing.assert_allclose(xp.to_numpy(found), np.linalg.solve(A, b), **close)
        root = xp.to_numpy(woodbury_sqrt_solve(x, xp.asarray(b), 0.3, **options))
        assert root.shape == b.shape
        if not with_diagonal:
            np.testing.assert_allclose(root, inverse_root(A) @ b, **close)
        if b.ndim == 2:
            rows = woodbury_solve(x, xp.asarray(b.T.copy()), 0.3, axis=-1, **options)
            np.testing.assert_allclose(xp.to_numpy(rows).T, np.linalg.solve(A, b), **close)
            rows = woodbury_sqrt_solve(x, xp.asarray(b.T.copy()), 0.3, axis=-1, **options)
            np.testing.assert_allclose(xp.to_numpy(rows).T, root, **close)
    # R R^T is the inverse, and vectors give what columns give.
    R = xp.to_numpy(woodbury_sqrt_solve(x, xp.asarray(np.eye(d, dtype=dtype)), 0.3, **options))
    np.testing.assert_allclose(R.astype(float) @ R.T, np.linalg.inv(A), **close)
    vector = woodbury_sqrt_solve(x, xp.asarray(np.eye(d, dtype=dtype)[0]), 0.3, **options)
    np.testing.assert_allclose(xp.to_numpy(vector), R[:, 0], **close)
    value = woodbury_logdet(x, 0.3, **options)
    assert isinstance(value, float)
    assert value == pytest.approx(
        np.linalg.slogdet(A)[1], rel=TOLERANCE[dtype], abs=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("with_diagonal", [None, "shared", "own"])
@pytest.mark.parametrize("batch, d, k", [(1, 6, 2), (5, 30, 8), (3, 4, 6), (70, 9, 3)])
def test_batches(xp, dtype, with_diagonal, batch, d, k):
    rng = np.random.default_rng(1)
    W = rng.standard_normal((batch, d, k)).astype(dtype)
    b, t = rng.standard_normal((batch, d)).astype(dtype), rng.uniform(0.2, 1, batch)
    options, D = {}, np.zeros(1)
    if with_diagonal:
        D = rng.uniform(0.5, 2.0, (batch, d) if with_diagonal == "own" else d).astype(dtype)
        options = {"diagonal": xp.asarray(D)}
    W64 = W.astype(float)
    A = W64 @ turned(W64) + (t[:, None] + D.astype(float))[..., None] * np.eye(d)
    x, right = xp.asarray(W), xp.asarray(b)
    close = {"atol": 3 * TOLERANCE[dtype], "rtol": 3 * TOLERANCE[dtype]}
    solved = xp.to_numpy(woodbury_solve(x, right, t, **options))
    np.testing.assert_allclose(solved, np.linalg.solve(A, b[..., None])[..., 0], **close)
    root = xp.to_numpy(woodbury_sqrt_solve(x, right, xp.asarray(t), **options))
    # |R b|^2 is not b^T A^-1 b unless R is symmetric; the norm of R^T is another matter.
    if not with_diagonal:
        np.testing.assert_allclose(root, (inverse_root(A) @ b[..., None])[..., 0], **close)
        np.testing.assert_allclose((root.astype(float) ** 2).sum(1), (b * solved).sum(1), **close)
    value = woodbury_logdet(x, t, **options)
    assert xp.dtype(value) == dtype
    np.testing.assert_allclose(xp.to_numpy(value), np.linalg.slogdet(A)[1], **close)
    for i in {0, batch - 1}:
        alone = {"diagonal": xp.asarray(D[i].copy() if D.ndim == 2 else D)} if with_diagonal else {}
        one = xp.asarray(W[i].copy()), xp.asarray(b[i].copy())
        np.testing.assert_array_equal(xp.to_numpy(woodbury_solve(*one, t[i], **alone)), solved[i])
        np.testing.assert_array_equal(
            xp.to_numpy(woodbury_sqrt_solve(*one, t[i], **alone)), root[i]
        )


@pytest.mark.parametrize("shape", [(20, 3), (5, 5), (4, 9), (30, 12)])
def test_factors(xp, dtype, shape):
    rng = np.random.default_rng(2)
    W = rng.standard_normal(shape).astype(dtype)
    op = from_factor(xp.asarray(W))
    d = shape[0]
    A = W.astype(float) @ W.T.astype(float)
    U, s = xp.to_numpy(op.U), xp.to_numpy(op.s)
    assert xp.dtype(op.U) == xp.dtype(op.s) == dtype and op.rank == min(shape)
    assert (np.diff(s) <= 0).all()
    np.testing.assert_allclose(
        s, np.linalg.eigvalsh(A)[::-1][: min(shape)], rtol=1e-5 if dtype == "float32" else 1e-10
    )
    np.testing.assert_allclose(U.T @ U, np.eye(op.rank), atol=TOLERANCE[dtype])
    np.testing.assert_allclose(
        xp.to_numpy(op.to_dense()), A, atol=1e-3 if dtype == "float32" else 1e-12
    )
    b = rng.standard_normal(d).astype(dtype)
    np.testing.assert_allclose(
        xp.to_numpy(op.solve(xp.asarray(b), 0.5)),
        xp.to_numpy(woodbury_solve(xp.asarray(W), xp.asarray(b), 0.5)),
        atol=TOLERANCE[dtype],
    )
    few = from_factor(xp.asarray(W), rank=2)
    np.testing.assert_array_equal(xp.to_numpy(few.s), s[:2])
    np.testing.assert_allclose(xp.to_numpy(few.U), U[:, :2], atol=TOLERANCE[dtype])


def test_batches_of_factors(xp, dtype):
    rng = np.random.default_rng(3)
    for d, k in ((12, 3), (4, 7)):
        W = rng.standard_normal((5, d, k)).astype(dtype)
        W[2] = 0.0
        W[3, :, 1:] = W[3, :, :1]  # of rank one
        op = from_factor(xp.asarray(W))
        assert op.rank == min(d, k) and op.batch == 5
        mk.lowrank.LowRankOperator(op.U, op.s)  # passes the check
        A = W.astype(float) @ turned(W.astype(float))
        np.testing.assert_allclose(
            xp.to_numpy(op.to_dense()), A, atol=1e-4 if dtype == "float32" else 1e-12
        )
        s = xp.to_numpy(op.s)
        assert not s[2].any() and (s[3] > 0).sum() == 1
        b = rng.standard_normal((5, d)).astype(dtype)
        np.testing.assert_allclose(
            xp.to_numpy(op.solve(xp.asarray(b), 0.5)),
            np.linalg.solve(A + 0.5 * np.eye(d), b[..., None])[..., 0],
            atol=TOLERANCE[dtype],
        )
        assert from_factor(xp.asarray(W), rank=1).rank == 1


def test_rank_is_found(dtype):
    rng = np.random.default_rng(4)
    W = (rng.standard_normal((50, 3)) @ rng.standard_normal((3, 8))).astype(dtype)
    assert from_factor(W).rank == 3
    assert from_factor(W.T.copy()).rank == 3
    assert from_factor(np.zeros((6, 2), dtype)).rank == 0
    assert from_factor(np.zeros((6, 0), dtype)).rank == 0
    assert from_factor(np.zeros((0, 4, 2), dtype)).batch == 0


def test_dependent_columns(dtype):
    """Whatever is left of them: columns are orthonormal, of that number, and the matrix is what it was."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        d, k = int(rng.integers(5, 60)), int(rng.integers(2, 20))
        rank = int(rng.integers(1, min(d, k) + 1))
        W = rng.standard_normal((d, rank)) @ rng.standard_normal((rank, k))
        W = W.astype(dtype)
        small = W.copy()
        small[:, 0] *= np.array(1e-7 if dtype == "float64" else 1e-4, dtype)
        for V in (W, small):
            op = from_factor(V)
            U, A = op.U.astype(float), V.astype(float) @ V.T.astype(float)
            off = 1e-9 if dtype == "float64" else 2e-6
            np.testing.assert_allclose(U.T @ U, np.eye(op.rank), atol=off)
            assert (op.s > 0).all() and (V is small or op.rank == rank)
            error = abs((U * op.s.astype(float)) @ U.T - A).max() / abs(A).max()
            assert error < (1e-13 if dtype == "float64" else 2e-6)


@pytest.mark.parametrize("with_diagonal", [False, True])
def test_batches_of_large_rank(xp, dtype, with_diagonal):
    """Items of more than 64 columns are single models, one after the other."""
    rng = np.random.default_rng(8)
    W = rng.standard_normal((3, 90, 70)).astype(dtype)
    b = rng.standard_normal((3, 90)).astype(dtype)
    D = rng.uniform(0.5, 2.0, (3, 90)).astype(dtype)
    t = 0.5 if with_diagonal else np.array([0.5, 1.0, 2.0])
    x, y = xp.asarray(W), xp.asarray(b)
    whole = {"diagonal": xp.asarray(D)} if with_diagonal else {}
    solved, rooted = woodbury_solve(x, y, t, **whole), woodbury_sqrt_solve(x, y, t, **whole)
    logs = woodbury_logdet(x, t, **whole)
    assert xp.dtype(logs) == dtype
    tol = 1e-2 if dtype == "float32" else 1e-10
    for i in range(3):
        W64, ti = W[i].astype(float), t if with_diagonal else t[i]
        A = W64 @ W64.T + ti * np.eye(90) + (np.diag(D[i].astype(float)) if with_diagonal else 0)
        want = np.linalg.solve(A, b[i])
        np.testing.assert_allclose(xp.to_numpy(solved)[i], want, atol=tol)
        np.testing.assert_allclose(xp.to_numpy(logs)[i], np.linalg.slogdet(A)[1], rtol=tol)
        if not with_diagonal:
            np.testing.assert_allclose(xp.to_numpy(rooted)[i], inverse_root(A) @ b[i], atol=tol)
    op = from_factor(x)
    assert op.rank == 70 and op.batch == 3
    dense = W.astype(float) @ turned(W.astype(float))
    scale = abs(dense).max()
    np.testing.assert_allclose(xp.to_numpy(op.to_dense()), dense, atol=tol * 1e-2 * scale)
    W[1] = 0.0
    some = from_factor(xp.asarray(W), rank=5)
    assert some.rank == 5 and not xp.to_numpy(some.s)[1].any()
    W[2, 0, 0] = np.nan
    for call in (woodbury_solve, woodbury_sqrt_solve):
        with pytest.raises(ValueError, match="W: expected finite"):
            call(xp.asarray(W), y, 0.5)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals")
@pytest.mark.parametrize("call", ["woodbury", "batch", "large rank", "apply", "gram"])
def test_interrupts_are_heard(call):
    """Within the calls, which together would take minutes."""
    rng = np.random.default_rng(9)
    W = rng.standard_normal((200_000, 32)).astype("float32")
    many, wide = W.reshape(2000, 100, 32), W[:32_000].reshape(4, 2000, 128)
    op = mk.lowrank.LowRankOperator(W, np.ones(32, "float32"), check=False)
    rows = np.ones((16, 200_000), "float32")
    calls = {
        "woodbury": lambda: woodbury_sqrt_solve(W, rows[0], 1.0),
        "batch": lambda: from_factor(many),
        "large rank": lambda: woodbury_sqrt_solve(wide, rows[0, :8000].reshape(4, 2000), 1.0),
        "apply": lambda: op.solve(rows, 1.0, axis=-1),
        "gram": lambda: from_factor(W),
    }
    heard = []

    def interrupt(*_):
        heard.append(time.perf_counter())
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            while time.perf_counter() - begin < 60:
                calls[call]()
        assert time.perf_counter() - begin < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard and np.isfinite(calls[call]() if call != "batch" and call != "gram" else 0.0).all()


def test_small_singular_values():
    """Squares of singular values down to 1e-14 of the largest: U stays orthonormal, and W W^T is what it was."""
    rng = np.random.default_rng(5)
    values = np.array([1.0, 1e-2, 1e-4, 1e-6])
    left = np.linalg.qr(rng.standard_normal((300, 4)))[0]
    right = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    W = (left * values) @ right
    op = from_factor(W)
    assert op.rank == 4
    np.testing.assert_allclose(op.U.T @ op.U, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(op.to_dense(), W @ W.T, atol=1e-15)
    np.testing.assert_allclose(op.s[:3], values[:3] ** 2, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(op.s[3]), values[3], rtol=0.01)


@pytest.mark.parametrize("t", [1e-3, 0.5, -0.7])
def test_indefinite_core(xp, dtype, t):
    rng = np.random.default_rng(6)
    W, C = rng.standard_normal((20, 4)).astype(dtype), rng.standard_normal((4, 4)).astype(dtype)
    C = C + C.T
    assert np.linalg.eigvalsh(C)[0] < 0 < np.linalg.eigvalsh(C)[-1]
    A = W.astype(float) @ C @ W.T + t * np.eye(20)
    for b in (rng.standard_normal(20), rng.standard_normal((20, 3)), rng.standard_normal((20, 0))):
        b = b.astype(dtype)
        expected = np.linalg.solve(A, b)
        size = abs(np.linalg.inv(A)).max() * (1e-3 if dtype == "float32" else 1e-11)
        for core in (xp.asarray(C), C):
            found = woodbury_solve(xp.asarray(W), xp.asarray(b), t, core=core)
            assert xp.dtype(found) == dtype
            np.testing.assert_allclose(xp.to_numpy(found), expected, atol=size)
        if b.ndim == 2:
            rows = woodbury_solve(xp.asarray(W), xp.asarray(b.T.copy()), t, core=C, axis=-1)
            np.testing.assert_allclose(xp.to_numpy(rows).T, expected, atol=size)


@pytest.mark.parametrize("with_diagonal", [False, True])
def test_noise_has_the_covariance(dtype, with_diagonal):
    """Entries of a sample covariance of n draws have standard deviations below 2 max(A) / sqrt n: 6 of them are
    exceeded with probability below 1e-8 each."""
    rng = np.random.default_rng(7)
    W, n = rng.standard_normal((4, 2)).astype(dtype), 200_000
    options = {"diagonal": np.array([1.0, 2.0, 0.5, 0.0], dtype)} if with_diagonal else {}
    A = W.astype(float) @ W.T + np.diag(options.get("diagonal", np.zeros(4))) + 0.3 * np.eye(4)
    x = woodbury_noise(W, 0.3, n=n, seed=3, **options)
    assert x.shape == (n, 4) and x.dtype == dtype
    error = 6 * 2 * abs(A).max() / np.sqrt(n)
    np.testing.assert_allclose(np.cov(x.T), A, atol=error)
    np.testing.assert_allclose(x.mean(0), 0, atol=6 * np.sqrt(A.max() / n))
    both = woodbury_noise(np.stack([W, 2 * W]), np.array([0.3, 0.0]), n=n // 4, seed=3, **options)
    assert both.shape == (2, n // 4, 4)
    second = 4 * W.astype(float) @ W.T + np.diag(options.get("diagonal", np.zeros(4)))
    for found, expected in zip(both, (A, second), strict=True):
        np.testing.assert_allclose(
            np.cov(found.T), expected, atol=24 * abs(expected).max() / np.sqrt(n)
        )


def test_noise_is_counted(xp, dtype):
    W = np.random.default_rng(8).standard_normal((7, 3)).astype(dtype)
    x = woodbury_noise(xp.asarray(W), 0.25, n=5, seed=2, stream=4, counter=6)
    z1 = mk.random.normal(2, (5, 7), stream=4, counter=6, dtype=dtype)
    z2 = mk.random.normal(2, (5, 3), stream=5, counter=6, dtype=dtype)
    assert xp.dtype(x) == dtype
    np.testing.assert_allclose(xp.to_numpy(x), 0.5 * z1 + z2 @ W.T, rtol=1e-4, atol=1e-5)
    one = woodbury_noise(xp.asarray(W), 0.25, seed=2, stream=4, counter=6)
    assert one.shape == (7,)
    assert woodbury_noise(xp.asarray(W), n=0).shape == (0, 7)
    assert woodbury_noise(xp.asarray(np.stack([W, W])), 0.25).shape == (2, 7)


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 45),
    st.integers(0, 40),
    st.floats(1e-3, 1e3),
    st.booleans(),
    st.integers(0, 1000),
)
def test_any_size(d, k, t, diagonal, seed):
    rng = np.random.default_rng(seed)
    W, b = rng.standard_normal((d, k)), rng.standard_normal(d)
    D = rng.uniform(0.1, 3, d)
    options = {"diagonal": D} if diagonal else {}
    A = W @ W.T + t * np.eye(d) + (np.diag(D) if diagonal else 0)
    np.testing.assert_allclose(A @ woodbury_solve(W, b, t, **options), b, atol=1e-8)
    R = woodbury_sqrt_solve(W, np.eye(d), t, **options)
    np.testing.assert_allclose(A @ (R @ R.T), np.eye(d), atol=1e-8)
    assert woodbury_logdet(W, t, **options) == pytest.approx(
        np.linalg.slogdet(A)[1], rel=1e-10, abs=1e-10
    )


def test_nothing_to_do(dtype):
    W = np.zeros((0, 5, 2), dtype)
    assert woodbury_solve(W, np.zeros((0, 5), dtype), 1.0).shape == (0, 5)
    assert woodbury_logdet(W, 1.0).shape == (0,)
    none = np.zeros((5, 0), dtype)
    np.testing.assert_array_equal(
        woodbury_solve(none, np.ones(5, dtype), 2.0), np.full(5, 0.5, dtype)
    )
    np.testing.assert_array_equal(
        woodbury_solve(none, np.ones((5, 2), dtype), 2.0), np.full((5, 2), 0.5, dtype)
    )
    assert woodbury_logdet(none, 1.0) == 0.0
    assert woodbury_noise(none, 1.0, n=3).shape == (3, 5) and from_factor(none).rank == 0


def test_wrong_arguments():
    W, b = np.ones((4, 2)), np.ones(4)
    nan = np.full((4, 2), np.nan)
    for call, kind, message in [
        (lambda: woodbury_solve(np.ones(4), b, 1.0), ValueError, "W: expected shape"),
        (lambda: woodbury_solve(W, np.ones(3), 1.0), ValueError, r"b: expected shape \(4,\)"),
        (lambda: woodbury_solve(W, np.ones((3, 4)), 1.0), ValueError, "b: expected shape"),
        (lambda: woodbury_solve(W, np.ones((3, 4)), 1.0, axis=2), ValueError, "axis: "),
        (
            lambda: woodbury_solve(W, b),
            ValueError,
            "damping: expected numbers > 0 without a diagonal",
        ),
        (
            lambda: woodbury_solve(W, b, -1.0, diagonal=np.full(4, 3.0)),
            ValueError,
            "damping: expected numbers >= 0",
        ),
        (lambda: woodbury_solve(W, b, np.nan), ValueError, "damping: "),
        (
            lambda: woodbury_solve(W, b, diagonal=np.array([1.0, 0, 1, 1])),
            ValueError,
            "diagonal: expected positive",
        ),
        (
            lambda: woodbury_solve(W, b, diagonal=np.full(4, np.nan)),
            ValueError,
            "diagonal: expected finite",
        ),
        (lambda: woodbury_solve(W, b, diagonal=np.ones(3)), ValueError, "diagonal: expected shape"),
        (lambda: woodbury_solve(W, b, diagonal=np.ones(4, "float32")), TypeError, "diagonal: "),
        (lambda: woodbury_solve(nan, b, 1.0), ValueError, "W: expected finite"),
        (lambda: woodbury_solve(nan, np.ones((4, 2)), 1.0), ValueError, "W: expected finite"),
        (lambda: woodbury_logdet(nan, 1.0), ValueError, "W: expected finite"),
        (lambda: woodbury_sqrt_solve(nan, b, 1.0), ValueError, "W: expected finite"),
        (
            lambda: woodbury_solve(np.stack([W, W]), np.ones((2, 4)), np.ones(3)),
            ValueError,
            "damping: ",
        ),
        (lambda: woodbury_solve(np.stack([W, W]), b, 1.0), ValueError, "b: expected shape"),
        (
            lambda: woodbury_solve(1e10 * W, b, 1e-9),
            ValueError,
            "damping: expected more than the rounding",
        ),
        (
            lambda: woodbury_solve(1e10 * W, np.ones((4, 2)), 1e-9),
            ValueError,
            "damping: expected more than the rounding",
        ),
        (
            lambda: woodbury_solve(W, b, 1.0, core=np.ones((3, 3))),
            ValueError,
            "core: expected shape",
        ),
        (
            lambda: woodbury_solve(W, b, 1.0, core=np.array([[0.0, 1], [0, 0]])),
            ValueError,
            "core: expected a symmetric",
        ),
        (lambda: woodbury_solve(W, b, 8.0, core=-np.eye(2)), ValueError, "damping: expected W C W"),
        (lambda: woodbury_solve(W, b, 0.0, core=np.eye(2)), ValueError, "damping: "),
        (lambda: woodbury_solve(W, b, 1.0, core=np.eye(2), diagonal=b), ValueError, "diagonal: "),
        (lambda: from_factor(np.ones(3)), ValueError, "W: expected shape"),
        (lambda: from_factor(nan), ValueError, "W: expected finite"),
        (lambda: from_factor(np.stack([nan, W])), ValueError, "W: expected finite"),
        (
            lambda: from_factor(np.full((4, 2), 1e200)),
            ValueError,
            "W: expected numbers whose squares",
        ),
        (lambda: from_factor(W, rank=0), ValueError, "rank: "),
        (lambda: woodbury_noise(W, -1.0), ValueError, "damping: "),
        (lambda: woodbury_noise(W, n=-1), ValueError, "n: "),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            call()
