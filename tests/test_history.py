"""Compact L-BFGS and SR1 against their recursions."""

import warnings

import numpy as np
import pytest

import mckean as mk
from mckean.lowrank import History, from_history


def normals(seed, *shape):
    return mk.random.normal(seed, shape)


def positive(d, seed=0):
    W = normals(seed, d, d)
    return W @ W.T / d + np.eye(d)


def pairs(d, m, seed=0):
    """Of a function that is not quadratic."""
    S = normals(seed + 1, d, m)
    return S, positive(d, seed) @ S + 0.1 * np.tanh(S)


def two_loop(S, Y, b):
    q, alphas = b.copy(), []
    for s, y in zip(S.T[::-1], Y.T[::-1], strict=True):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    q *= S[:, -1] @ Y[:, -1] / (Y[:, -1] @ Y[:, -1])
    for s, y, alpha in zip(S.T, Y.T, alphas[::-1], strict=True):
        q += s * (alpha - y @ q / (s @ y))
    return q


def sr1_recursion(S, Y):
    B = np.eye(len(S)) * (Y[:, -1] @ Y[:, -1]) / (S[:, -1] @ Y[:, -1])
    for s, y in zip(S.T, Y.T, strict=True):
        r = y - B @ s
        B = B + np.outer(r, r) / (r @ s)
    return B


SIZES = [(50, 5), (200, 10), (7, 5), (3, 1), (1, 1), (8, 8), (2, 4)]


@pytest.mark.parametrize("d,m", SIZES)
def test_solve_is_the_two_loop_recursion(d, m):
    S, Y = pairs(d, m)
    b = normals(9, d)
    op = from_history(S, Y)
    want = two_loop(S, Y, b)
    assert np.linalg.norm(op.solve(b) - want) < 1e-12 * np.linalg.norm(want)
    assert np.linalg.norm(op.matvec(S[:, -1]) - Y[:, -1]) < 1e-12 * np.linalg.norm(Y[:, -1])
    assert op.rank == min(d, 2 * m) and (np.diff(op.s) <= 0).all()
    assert op.sigma + op.s.min() > 0
    assert abs(op.U.T @ op.U - np.eye(op.rank)).max() < 1e-13


def test_scale_of_the_steps_does_not_matter():
    S, Y = pairs(40, 6)
    want = from_history(S, Y).to_dense()
    scale = np.logspace(0, -12, 6)
    found = from_history(S * scale, Y * scale).to_dense()
    np.testing.assert_allclose(found, want, atol=1e-11)


def test_close_to_convergence():
    """y is nearly a multiple of s: the two halves of the span nearly agree."""
    S = normals(0, 100, 6)
    Y = 3.0 * S + 1e-8 * S**3
    b = normals(1, 100)
    op = from_history(S, Y)
    np.testing.assert_allclose(op.solve(b), two_loop(S, Y, b), rtol=1e-11)


@pytest.mark.parametrize("d,m", [(40, 6), (12, 12), (4, 1)])
def test_sr1_is_its_recursion(d, m):
    W = normals(0, d, d)
    A, S = W + W.T, normals(1, d, m)
    Y = A @ S
    op = from_history(S, Y, kind="sr1")
    size = np.linalg.norm(A)
    np.testing.assert_allclose(op.to_dense(), sr1_recursion(S, Y), atol=1e-9 * size)
    np.testing.assert_allclose(op.matvec(S), Y, atol=1e-9 * size)  # all secants
    if m == d:
        np.testing.assert_allclose(op.to_dense(), A, atol=1e-9 * size)
    else:
        assert op.rank == m


def test_sr1_of_a_multiple_of_the_identity():
    S = normals(0, 5, 2)
    np.testing.assert_allclose(
        from_history(S, -2.0 * S, kind="sr1").to_dense(), -2.0 * np.eye(5), atol=1e-13
    )


def test_every_framework(xp, dtype):
    S, Y = (a.astype(dtype) for a in pairs(60, 4))
    want = from_history(S.astype(float), Y.astype(float)).to_dense()
    op = from_history(xp.asarray(S), xp.asarray(Y))
    assert xp.dtype(op.U) == xp.dtype(op.s) == dtype
    found = xp.to_numpy(op.to_dense())
    assert np.linalg.norm(found - want) < 3e4 * np.finfo(dtype).eps * np.linalg.norm(want, 2)


# ---- pairs that do not fit


def test_pairs_without_curvature_are_dropped():
    S, Y = pairs(30, 8)
    Y[:, 3] *= -1
    S[:, 5] = 0
    keep = [0, 1, 2, 4, 6, 7]
    with pytest.warns(UserWarning, match=r"2 of 8 pairs dropped, .*s\.y > 1e-10"):
        op = from_history(S, Y)
    np.testing.assert_allclose(
        op.to_dense(), from_history(S[:, keep], Y[:, keep]).to_dense(), atol=1e-11
    )


def test_powells_damping():
    S, Y = pairs(30, 6)
    Y[:, 2] *= -1
    Y[:, 5] *= -0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = from_history(S, Y, damped=True)
    # By the definition, with dense matrices.
    Z = Y.copy()
    for i in range(6):
        s, y = S[:, i], Y[:, i]
        if i:
            Bs = from_history(S[:, :i], Z[:, :i]).matvec(s)
        else:
            Bs = np.linalg.norm(y) / np.linalg.norm(s) * s
        if s @ y < 0.2 * (s @ Bs):
            theta = 0.8 * (s @ Bs) / (s @ Bs - s @ y)
            Z[:, i] = theta * y + (1 - theta) * Bs
    assert (Z != Y).any()
    want = from_history(S, Z)
    np.testing.assert_allclose(op.to_dense(), want.to_dense(), atol=1e-9 * want.sigma)
    assert np.linalg.eigvalsh(op.to_dense())[0] > 0


def test_damping_leaves_good_pairs_alone():
    S, Y = pairs(30, 5)
    assert (from_history(S, Y, damped=True).to_dense() == from_history(S, Y).to_dense()).all()


def test_sr1_drops_pairs_with_a_vanishing_denominator():
    S, Y = np.eye(3)[:, :2], np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    # sigma = 3, and y - sigma s of a third pair is orthogonal to s.
    S = np.column_stack([np.eye(3)[:, 2], S])
    Y = np.column_stack([np.array([1.0, 0.0, 3.0]), Y])
    with pytest.warns(UserWarning, match=r"1 of 3 pairs dropped"):
        op = from_history(S, Y, kind="sr1")
    np.testing.assert_allclose(op.to_dense(), np.diag([2.0, 3.0, 3.0]), atol=1e-13)


@pytest.mark.parametrize("kind", ["lbfgs", "sr1"])
def test_no_pair_at_all(kind):
    S = np.ones((3, 2))
    with pytest.raises(ValueError, match="at least one pair"):
        from_history(np.zeros((3, 2)), S, kind=kind)
    if kind == "lbfgs":
        with pytest.raises(ValueError, match="at least one pair that can be used"):
            from_history(S, -S)


# ---- pair by pair


@pytest.mark.parametrize("kind", ["lbfgs", "sr1"])
def test_history_is_the_model_of_the_last_pairs(kind, xp):
    S, Y = pairs(20, 12)
    history = History(4, kind=kind)
    for i in range(12):
        op = history.update(xp.asarray(S[:, i]), xp.asarray(Y[:, i]))
        first = max(0, i - 3)
        want = from_history(S[:, first : i + 1], Y[:, first : i + 1], kind=kind)
        assert len(history) == i + 1 - first
        np.testing.assert_allclose(xp.to_numpy(op.to_dense()), want.to_dense(), atol=1e-10)
    assert (xp.to_numpy(history.operator().to_dense()) == xp.to_numpy(op.to_dense())).all()


def test_history_leaves_out_what_cannot_be_used():
    S, Y = pairs(10, 3)
    history = History(2)
    assert history.update(S[:, 0], -Y[:, 0]) is None
    assert history.n_dropped == 1 and len(history) == 0
    with pytest.raises(ValueError, match="operator"):
        history.operator()
    history.update(S[:, 1], Y[:, 1])
    before = history.update(S[:, 2], Y[:, 2]).to_dense()
    after = history.update(S[:, 0], -Y[:, 0])
    assert (after.to_dense() == before).all() and history.n_dropped == 2


def test_history_refuses():
    history = History(2)
    history.update(np.ones(4), np.ones(4))
    for s, y, match in [
        (np.ones(5), np.ones(5), "s: "),
        (np.ones(4), np.ones(3), "y: "),
        (np.ones(4), np.full(4, np.nan), "y: expected finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            history.update(s, y)
    assert len(history) == 1
    with pytest.raises(ValueError, match="memory"):
        History(0)


@pytest.mark.parametrize(
    "error,match,S,Y,kwargs",
    [
        (ValueError, "kind: ", np.ones((3, 1)), np.ones((3, 1)), {"kind": "bfgs"}),
        (ValueError, "damped: ", np.ones((3, 1)), np.ones((3, 1)), {"kind": "sr1", "damped": True}),
        (ValueError, "S: ", np.ones(3), np.ones(3), {}),
        (ValueError, "Y: ", np.ones((3, 1)), np.ones((3, 2)), {}),
        (TypeError, "Y: ", np.ones((3, 1)), np.ones((3, 1), np.float32), {}),
        (ValueError, "S: expected at least one", np.ones((3, 0)), np.ones((3, 0)), {}),
        (ValueError, "Y: expected finite", np.ones((3, 1)), np.full((3, 1), np.inf), {}),
        (ValueError, "S: expected finite", np.full((3, 1), np.nan), np.ones((3, 1)), {}),
    ],
)
def test_wrong_arguments(error, match, S, Y, kwargs):
    with pytest.raises(error, match=match):
        from_history(S, Y, **kwargs)


@pytest.mark.parametrize("through", ["matrix", "history"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_sr1_of_more_pairs_than_coordinates(dtype, through):
    """On a quadratic they tell nothing new; nearly dependent steps lose digits, here 1e-5 (2e-2 in float32)."""
    for seed in range(100):
        d = 2 + seed % 10
        m = d + 1 + seed % 3
        H = normals(3 * seed, d, d)
        H = H + H.T
        S = normals(3 * seed + 1, d, m).astype(dtype)
        Y = (H @ S).astype(dtype)
        if through == "matrix":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                op = from_history(S, Y, kind="sr1")
        else:
            history = History(m, kind="sr1")
            for s, y in zip(S.T, Y.T, strict=True):
                op = history.update(s, y)
            assert len(history) <= d
        error = abs(op.to_dense() - H).max() / abs(H).max()
        assert error < (1e-5 if dtype == "float64" else 2e-2)


def test_sr1_follows_the_newest_pairs():
    """A matrix is whole after d pairs; what contradicts it takes the place of the oldest."""
    first, second = np.diag([3.0, 1.0, -2.0]), np.diag([1.0, 5.0, 0.5])
    history = History(10, kind="sr1")
    S = normals(5, 3, 6)
    Y = np.hstack([first @ S[:, :3], second @ S[:, 3:]])
    for s, y in zip(S.T, Y.T, strict=True):
        op = history.update(s, y)
    np.testing.assert_allclose(op.to_dense(), second, atol=1e-9)
    with pytest.warns(UserWarning, match="3 of 6 pairs dropped"):
        op = from_history(S, Y, kind="sr1")
    np.testing.assert_allclose(op.to_dense(), second, atol=1e-9)


def test_one_coordinate():
    for op in (
        from_history(np.array([[2.0]]), np.array([[6.0]]), kind="sr1"),
        from_history(np.array([[2.0, 1.0]]), np.array([[6.0, 3.0]]), kind="sr1"),
        History(3, kind="sr1").update(np.array([2.0]), np.array([6.0])),
    ):
        assert op.to_dense().item() == 3.0 == op.sigma


def test_lbfgs_of_more_pairs_than_coordinates():
    """The secant equation of the newest pair holds, and the matrix is positive definite."""
    for seed in range(50):
        d = 1 + seed % 8
        m = d + 1 + seed % 4
        H = positive(d, 2 * seed)
        S = normals(2 * seed + 1, d, m)
        Y = H @ S
        op = from_history(S, Y)
        np.testing.assert_allclose(op.matvec(S[:, -1]), Y[:, -1], rtol=1e-6, atol=1e-8)
        assert op.sigma + op.s.min() > 0
        history = History(m)
        for s, y in zip(S.T, Y.T, strict=True):
            last = history.update(s, y)
        np.testing.assert_allclose(last.to_dense(), op.to_dense(), rtol=1e-6, atol=1e-8)
