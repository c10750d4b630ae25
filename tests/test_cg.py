"""Conjugate gradients, plain and preconditioned."""

import numpy as np
import pytest

import mckean as mk
from mckean.lowrank import LowRankOperator, conjugate_gradient, nystrom_pcg

INDEX = np.arange(1.0, 501.0)
SPECTRA = {"exp": 1e3 * np.exp(-INDEX / 6), "square": 1e3 / INDEX**2}
# Iterations to 1e-8: without, and with 20, 50 and 100 columns, of another implementation.
TABLE = [
    ("exp", 0.1, [208, 107, 18, 3]),
    ("exp", 1e-3, [1143, 512, 107, 7]),
    ("square", 0.1, [110, 48, 27, 17]),
    ("square", 1e-3, [462, 193, 104, 59]),
]


def rotated(values):
    Q = np.linalg.qr(mk.random.normal(0, (len(values), len(values))))[0]
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize("spectrum,damping,table", TABLE)
def test_iterations(spectrum, damping, table):
    A, b = rotated(SPECTRA[spectrum]), mk.random.normal(7, 500)
    want = np.linalg.solve(A + damping * np.eye(500), b)
    plain = conjugate_gradient(A, b, damping=damping, tol=1e-8)
    results = [plain]
    results += [nystrom_pcg(A, b, damping, rank=k, oversample=0, tol=1e-8) for k in (20, 50, 100)]
    for result, count in zip(results, table, strict=True):
        assert result.converged and result.residual <= 1e-8
        assert abs(result.n_iter - count) <= 0.2 * count + 1
        assert np.linalg.norm(result.x - want) < 1e-6 * np.linalg.norm(want)
    assert results[1].n_matvecs == 20 + results[1].n_iter
    if damping < 0.1:
        return  # a model of nearly full rank
    auto = nystrom_pcg(A, b, damping, tol=1e-8)
    assert auto.converged and auto.n_iter < 30
    np.testing.assert_allclose(auto.x, want, atol=1e-6 * np.linalg.norm(want))


def test_every_framework(xp, dtype):
    A = rotated(np.linspace(50.0, 1.0, 60) ** 2 / 50).astype(dtype)
    b = mk.random.normal(1, 60).astype(dtype)
    want = np.linalg.solve(A.astype(float) + 0.5 * np.eye(60), b)
    a, right = xp.asarray(A), xp.asarray(b)
    tol = 100 * np.finfo(dtype).eps
    for matvec in (a, lambda v: a @ v):
        for result in (
            conjugate_gradient(matvec, right, damping=0.5, tol=tol),
            nystrom_pcg(matvec, right, 0.5, rank=10, tol=tol),
        ):
            assert xp.dtype(result.x) == dtype
            np.testing.assert_allclose(xp.to_numpy(result.x), want, atol=1e3 * tol)


def test_a_model_or_a_function_as_preconditioner():
    values = np.r_[np.logspace(6, 3, 8), np.ones(92)]
    op = LowRankOperator(np.eye(100)[:, :8], values[:8] - 1.0)
    b = np.ones(100)
    plain = conjugate_gradient(lambda v: values * v, b, damping=1.0, tol=1e-10)
    for P in (op, op.preconditioner(1.0), lambda r: r / (values + 1.0)):
        result = conjugate_gradient(
            lambda v: values * v, b, damping=1.0, preconditioner=P, tol=1e-10
        )
        assert result.n_iter <= 6 < plain.n_iter
        np.testing.assert_allclose(result.x, b / (values + 1.0), rtol=1e-8)


def test_exact_after_as_many_steps_as_eigenvalues():
    values = np.repeat([1.0, 2.0, 7.0], 10)
    result = conjugate_gradient(lambda v: values * v, np.arange(1.0, 31.0), tol=1e-12)
    assert result.n_iter == 3 == result.n_matvecs


def test_start():
    values = np.linspace(1.0, 9.0, 40)
    b = np.ones(40)
    x0 = 1 / values
    result = conjugate_gradient(lambda v: values * v, b, x0=x0)
    assert result.n_iter == 0 and (result.x == x0).all()
    result = conjugate_gradient(lambda v: values * v, b, x0=2 * x0, tol=1e-12)
    np.testing.assert_allclose(result.x, x0, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 5])
def test_zero_right_hand_side(d):
    result = conjugate_gradient(np.eye(d), np.zeros(d))
    assert result.converged and result.n_iter == 0 and (result.x == 0).all()
    assert nystrom_pcg(np.eye(d), np.zeros(d), 1.0, rank=1).converged


def test_negative_curvature():
    A = np.diag([1.0, 2.0, -1.0])
    with pytest.warns(mk.ConvergenceWarning, match="negative curvature after 1 iterations"):
        result = conjugate_gradient(A, np.ones(3))
    assert result.negative_curvature and not result.converged
    assert result.direction @ A @ result.direction <= 0
    np.testing.assert_allclose(result.x, np.full(3, 1.5))
    assert conjugate_gradient(A, np.ones(3), damping=1.5).converged
    with pytest.warns(mk.ConvergenceWarning, match="curvature"):
        assert conjugate_gradient(np.zeros((3, 3)), np.ones(3)).negative_curvature


def test_max_iter():
    values = np.logspace(0, 6, 50)
    with pytest.warns(mk.ConvergenceWarning, match="max_iter after 7 iterations"):
        result = conjugate_gradient(lambda v: values * v, np.ones(50), max_iter=7)
    assert not result.converged and result.n_iter == 7 and not result.negative_curvature
    true = np.linalg.norm(1 - values * result.x) / np.sqrt(50)
    assert abs(result.residual - true) < 1e-8 * true


def test_the_input_is_not_written_nor_shared():
    b = np.ones(4)
    result = conjugate_gradient(lambda v: v, b)  # returns its argument
    assert (b == 1).all() and (result.x == 1).all() and not np.shares_memory(result.x, b)


def test_not_finite():
    with pytest.raises(FloatingPointError, match="product"):
        conjugate_gradient(lambda v: v * np.nan, np.ones(3))


@pytest.mark.parametrize(
    "error,match,kwargs",
    [
        (ValueError, "damping: ", {"damping": -1.0}),
        (ValueError, "tol: ", {"tol": -1.0}),
        (ValueError, "max_iter: ", {"max_iter": -1}),
        (ValueError, "b: expected finite", {"b": np.array([1.0, np.nan, 0.0])}),
        (ValueError, "b: expected shape", {"b": np.ones((3, 2))}),
        (ValueError, "x0: ", {"x0": np.ones(4)}),
        (TypeError, "preconditioner: ", {"preconditioner": 3}),
        (ValueError, "preconditioner: .*positive", {"preconditioner": lambda r: -r}),
        (ValueError, "preconditioner: ", {"preconditioner": lambda r: r[:2]}),
        (ValueError, "matvec: ", {"matvec": np.eye(4)}),
    ],
)
def test_wrong_arguments(error, match, kwargs):
    given = {"matvec": np.eye(3), "b": np.ones(3), **kwargs}
    with pytest.raises(error, match=match):
        conjugate_gradient(given.pop("matvec"), given.pop("b"), **given)


def test_pcg_needs_damping():
    with pytest.raises(ValueError, match="damping: .*positive"):
        nystrom_pcg(np.eye(3), np.ones(3), 0.0, rank=1)
