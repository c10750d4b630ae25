"""The linear systems of Newton's method for transport against dense solvers."""

import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mckean import _core

SHIFT = 1 + 1e-9


def csr(S):
    """Rows of a dense matrix's nonzeros."""
    start = np.concatenate([[0], np.cumsum((S != 0).sum(1))]).astype(np.int64)
    column = np.nonzero(S)[1].astype(np.int32)
    return start, column, S[S != 0].astype(float)


def solve(S, r, c, g, h, *, tol=1e-12, max_iter=5000, method="auto"):
    parts = S if isinstance(S, tuple) else csr(S)
    z, w = np.full(len(r), np.nan), np.full(len(c), np.nan)
    out = _core.newton_solve(*parts, r, c, g, h, z, w, tol, max_iter, method)
    return np.concatenate([z, w]), *out


def matrix(S, r, c):
    return np.block([[np.diag(r * SHIFT), S], [S.T, np.diag(c * SHIFT)]])


def problem(seed, n, m, density, dropped=0.05):
    """Entries, sums of which a part was dropped, and a right side."""
    rng = np.random.default_rng(seed)
    S = rng.exponential(size=(n, m)) * (rng.random((n, m)) < density)
    r, c = S.sum(1) * (1 + dropped) + 0.1 * dropped, S.sum(0) * (1 + dropped) + 0.1 * dropped
    return S, r, c, rng.standard_normal(n), rng.standard_normal(m)


def error(z, S, r, c, g, h):
    want = np.linalg.solve(matrix(S, r, c), np.concatenate([g, h]))
    return abs(z - want).max() / abs(want).max()


@pytest.mark.parametrize("method", ["cg", "direct", "auto"])
@pytest.mark.parametrize(("n", "m", "density"), [(1, 1, 1), (30, 45, 0.1), (60, 20, 0.3), (150, 150, 0.03), (40, 40, 1)])  # fmt: skip
def test_dense_solver_agrees(method, n, m, density):
    p = problem(n + m, n, m, density)
    z, iterations, residual, how = solve(*p, method=method)
    assert error(z, *p) < 1e-9 and residual < 1e-11
    assert how == ("direct" if method == "direct" else "cg")
    assert (iterations == 0) == (how == "direct")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.floats(0, 1), st.integers(0, 10**6))
def test_any_shape(n, m, density, seed):
    """Also with rows and columns without entries, or without weight, and in disconnected pieces."""
    S, r, c, g, h = problem(seed, n, m, density, dropped=0.3)
    r[seed % 3 :: 5] = 0
    c[seed % 4 :: 6] = 0
    here, there = r > 0, c > 0
    inside = S * here[:, None] * there
    for method in ("cg", "direct"):
        z, _, _, _ = solve(S, r, c, g, h, method=method)
        kept = np.concatenate([here, there])
        assert (z[~kept] == 0).all()
        if kept.any():
            A, b = matrix(inside, r, c)[np.ix_(kept, kept)], np.concatenate([g, h])[kept]
            want = np.linalg.solve(A, b)
            assert abs(z[kept] - want).max() <= 1e-8 * abs(want).max()


def blocks(seed, count, size, link):
    """Pieces that are connected by entries `link` alone, nothing dropped: nearly singular along each piece."""
    rng = np.random.default_rng(seed)
    n = count * size
    S = np.zeros((n, n))
    for k in range(count):
        s = slice(k * size, (k + 1) * size)
        S[s, s] = rng.exponential(size=(size, size)) * (rng.random((size, size)) < 0.5)
        S[s, s] += np.eye(size)
        S[(k + 1) * size - 1, ((k + 1) * size) % n] = link
    return S, S.sum(1), S.sum(0)


def test_nearly_singular_pieces_factorise():
    S, r, c = blocks(0, 12, 12, 1e-6)
    rng = np.random.default_rng(1)
    g = rng.standard_normal(len(r))
    h = rng.standard_normal(len(c))
    h += (g.sum() - h.sum()) / len(h)
    want = np.linalg.solve(matrix(S, r, c), np.concatenate([g, h]))
    z, _, residual, how = solve(S, r, c, g, h, method="direct")
    assert how == "direct" and residual < 1e-7
    gauge = np.concatenate([np.ones(len(r)), -np.ones(len(c))]) / np.sqrt(2 * len(r))
    apart = z - want
    apart -= gauge * (gauge @ apart)
    assert np.linalg.norm(apart) < 1e-5 * np.linalg.norm(want)


def test_singular_pieces_do_not_break():
    """Nothing dropped and no link: the shift alone holds the system, with a right side the pieces contradict."""
    S, r, c = blocks(0, 8, 9, 0.0)
    g, h = np.random.default_rng(2).standard_normal((2, len(r)))
    for method in ("cg", "direct"):
        z, *_ = solve(S, r, c, g, h, method=method, max_iter=300)
        assert np.isfinite(z).all()
        slope = np.concatenate([g, h]) @ z
        assert slope > 0


def test_automatic_factorises_what_conjugate_gradients_cannot():
    # A long chain: one sweep from end to end takes as many steps as it has links.
    n = 3000
    rng = np.random.default_rng(0)
    start = np.arange(0, 2 * n + 1, 2).astype(np.int64)
    start[-1] -= 1
    column = np.stack([np.arange(n), np.arange(n) + 1], 1).ravel()[:-1].astype(np.int32)
    value = rng.uniform(0.5, 2, len(column))
    r = np.add.reduceat(value, start[:-1])
    c = np.bincount(column, value, n)
    r, c = r * (1 + 1e-7), c * (1 + 1e-7)
    g, h = rng.standard_normal((2, n))
    z, iterations, residual, how = solve((start, column, value), r, c, g, h, tol=1e-6)
    assert how == "direct" and iterations == 250 and residual < 1e-7
    y, iterations, _, how = solve((start, column, value), r, c, g, h, tol=1e-9, max_iter=60_000, method="cg")  # fmt: skip
    assert how == "cg" and iterations > 1000
    assert np.linalg.norm(y - z) < 1e-3 * np.linalg.norm(z)


def random_rows(seed, n, m, each):
    rng = np.random.default_rng(seed)
    column = np.sort(rng.integers(0, m, (n, each)), 1)
    column[:, 1:][column[:, 1:] == column[:, :-1]] = -1
    start = np.concatenate([[0], np.cumsum((column >= 0).sum(1))]).astype(np.int64)
    column = column[column >= 0].astype(np.int32)
    value = rng.exponential(size=len(column))
    r = np.add.reduceat(value, start[:-1]) * 1.001
    c = np.bincount(column, value, m) * 1.001 + 1e-6
    return (start, column, value), r, c, rng.standard_normal(n), rng.standard_normal(m)


def test_too_much_fill_is_said():
    """A random graph this large has no sparse factor, whatever the order."""
    p = random_rows(0, 12_000, 12_000, 8)
    z, iterations, residual, how = solve(*p, method="direct")
    assert how == "fill" and iterations == 0 and residual == 1 and not z.any()
    S, r, c, g, h = p
    S = (S[0], S[1], S[2])
    _, iterations, residual, how = solve(S, r, c, g, h, tol=1e-10, method="auto")
    assert how in ("cg", "fill") and residual <= 1e-10


@pytest.fixture
def threads():
    before = _core.num_threads()
    yield _core.set_num_threads
    _core.set_num_threads(before)


@pytest.mark.parametrize(("method", "n", "each"), [("cg", 12_000, 9), ("direct", 900, 4)])
def test_threads_change_no_bit(threads, method, n, each):
    p = random_rows(3, n, n + 17, each)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(solve(*p, method=method, max_iter=40))
    assert found[0][3] == method
    for other in found[1:]:
        assert (other[0] == found[0][0]).all() and other[1:] == found[0][1:]


def test_tolerance_and_iterations():
    p = problem(5, 200, 180, 0.02, dropped=1e-3)
    before = np.inf
    for tol in (1e-1, 1e-3, 1e-6):
        z, _, residual, _ = solve(*p, tol=tol, method="cg")
        S, r, c, g, h = p
        scale = 1 / np.sqrt(np.concatenate([r, c]))
        rhs = np.concatenate([g, h])
        true = np.linalg.norm(scale * (rhs - matrix(S, r, c) @ z)) / np.linalg.norm(scale * rhs)
        assert residual <= tol and true == pytest.approx(residual, rel=1e-3, abs=1e-12)
        assert residual < before
        before = residual
    assert solve(*p, max_iter=3, method="cg")[1] == 3
    assert not solve(*p, max_iter=0, method="cg")[0][200:].any()  # rows follow the columns


def test_zero_right_side():
    S, r, c, g, h = problem(1, 9, 7, 0.5)
    for method in ("cg", "direct", "auto"):
        z, _, residual, _ = solve(S, r, c, 0 * g, 0 * h, method=method)
        assert not z.any() and residual == 0


def test_bad_arguments():
    S, r, c, g, h = problem(1, 3, 4, 0.9)
    start, column, value = csr(S)
    bad = [
        ((start[:-1], column, value), "method", "cg"),
        ((start, column[:-1], value), "", "cg"),
        ((start, column + 4, value), "", "cg"),
        ((start[::-1].copy(), column, value), "", "cg"),
        ((start, column, value), "", "lu"),
    ]
    for parts, _, method in bad:
        with pytest.raises(ValueError):
            solve(parts, r, c, g, h, method=method)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals")
def test_ctrl_c():
    p = random_rows(3, 30_000, 30_000, 12)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        begin = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            for _ in range(10_000):
                solve(*p, tol=0.0, max_iter=10**6, method="cg")
        assert time.perf_counter() - begin < 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
