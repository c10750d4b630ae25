"""Traces of functions by Lanczos quadrature, Hutchinson's and the Hutch++ estimators."""

import functools
import math

import numpy as np
import pytest

from mckean.lowrank import log_determinant, trace, trace_function
from mckean.lowrank._matvec import Matvec
from mckean.lowrank._quadrature import Tridiagonal, probe, quadrature

LAM = np.geomspace(1, 100, 1000)
LOG = float(np.log(LAM).sum())  # 2302.585


def mixed(lam, seed=0, reflections=6):
    """Products with a matrix of these eigenvalues that is not diagonal: reflected a few times."""
    rng = np.random.default_rng(seed)
    us = rng.normal(size=(reflections, len(lam)))
    us /= np.linalg.norm(us, axis=1)[:, None]

    def turn(v, order):
        for u in order:
            v = v - 2 * u * (u @ v)
        return v

    return lambda v: turn(lam * turn(v, us), us[::-1])


def rotated(lam, seed=0):
    return _rotated(tuple(lam), seed)


@functools.cache
def _rotated(lam, seed):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))[0]
    return (q * lam) @ q.T


def test_log_determinant():
    a = rotated(LAM)
    result = log_determinant(a, 1000, n_probes=40, n_steps=20, seed=1)
    assert LOG == pytest.approx(2302.585, abs=1e-3)
    assert abs(result.value - LOG) < 4 * result.stderr
    assert result.stderr * math.sqrt(40) == pytest.approx(59.5, rel=0.3)
    assert len(result.samples) == 40 and float(result) == result.value
    assert result.n_matvecs == 40 * 20 + 1
    damped = log_determinant(a, 1000, damping=3.0, n_steps=12)
    assert abs(damped.value - np.log(LAM + 3).sum()) < 4.5 * damped.stderr


def test_given_the_probe_polynomials_are_exact():
    # The weights are first components squared: m steps integrate degree 2 m - 1.
    lam = np.linspace(-1, 1, 60)
    a = rotated(lam)
    for m in (1, 2, 4, 7):
        result = trace_function(a, 60, lambda t, m=m: t ** (2 * m - 1) + t ** (2 * m - 2), n_probes=3, n_steps=m)  # fmt: skip
        power = np.linalg.matrix_power
        f = power(a, 2 * m - 1) + power(a, 2 * m - 2)
        z = np.stack([probe(0, 60, i) for i in range(3)])
        np.testing.assert_allclose(
            result.samples, np.einsum("pi,ij,pj->p", z, f, z), rtol=1e-10, atol=1e-10
        )


def test_nodes_are_gauss_nodes():
    lam = np.linspace(1, 2, 40)
    run = quadrature(Matvec(rotated(lam), 40), 1, 6, 0, False)[0]
    assert run.tau.sum() == pytest.approx(1, abs=1e-13)
    assert (run.tau > 0).all() and len(run.theta) == 6
    assert lam[0] < run.theta.min() and run.theta.max() < lam[-1]


@pytest.mark.parametrize(("lam", "steps"), [(np.ones(100), 1), (np.zeros(100), 1), (np.repeat([5.0, 4, 3, 2, 1], 40), 5)])  # fmt: skip
def test_an_invariant_space_ends_it(lam, steps):
    a = Matvec(mixed(lam), len(lam))
    run = quadrature(a, 1, 50, 0, False)[0]
    assert len(run.theta) == steps == a.calls
    np.testing.assert_allclose(run.theta, np.unique(lam), atol=1e-12)
    assert run.tau.sum() == pytest.approx(1, abs=1e-13)


def test_the_probes_variance_is_that_of_the_off_diagonal():
    # 2 (|F|^2 - sum F_ii^2); the variance of 400 samples is off by 7 % (one standard deviation).
    f = rotated(np.log(LAM[::10]))
    result = trace(f, 100, n_matvecs=400)
    want = 2 * ((f**2).sum() - (np.diag(f) ** 2).sum())
    assert result.samples.var(ddof=1) == pytest.approx(want, rel=0.4)
    assert abs(result.value - np.trace(f)) < 5 * result.stderr


def test_hutch_of_low_rank_is_exact():
    x = np.random.default_rng(0).normal(size=(500, 10))
    want = float((x * x).sum())
    result = trace(lambda v: x @ (x.T @ v), 500, method="hutch++", n_matvecs=30)
    assert result.value == pytest.approx(want, rel=1e-12)
    assert result.stderr < 1e-10 * want
    assert result.n_matvecs == 30
    assert abs(trace(lambda v: x @ (x.T @ v), 500).value / want - 1) > 1e-3
    whole = trace(lambda v: np.arange(1.0, 9) * v, 8, method="hutch++", n_matvecs=60)
    assert whole.value == pytest.approx(36, rel=1e-12) and whole.stderr == 0
    assert trace(np.zeros((9, 9)), 9, method="hutch++").value == 0


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_hutchpp_is_exact_on_few_coordinates(rank):
    """Whatever the seed: where the sketch were of +-1, its images would often be parallel."""
    for d in (rank, rank + 1, 30):
        a = np.zeros(d)
        a[:rank] = np.linspace(1.0, 3.0, rank)
        for seed in range(40):
            found = trace(lambda v, a=a: a * v, d, method="hutch++", n_matvecs=3 * rank, seed=seed)
            assert abs(found.value - a.sum()) < 1e-9 * a.sum()


def test_hutch_is_better_where_eigenvalues_decay():
    # Relative errors for 30 products, d = 1000, of 1/i^2: .115 and .0055; flat: .0002 and .0020.
    for lam, better in ((1 / np.arange(1.0, 1001) ** 2, 5.0), (np.linspace(0.9, 1.1, 1000), 0.05)):
        a, want = mixed(lam, reflections=30), lam.sum()
        off = {
            method: np.sqrt(np.mean([(trace(a, 1000, method=method, seed=s).value / want - 1) ** 2 for s in range(12)]))
            for method in ("hutchinson", "hutch++")
        }  # fmt: skip
        ratio = off["hutchinson"] / off["hutch++"]
        assert ratio > better


def test_frameworks_agree(xp, dtype):
    a = rotated(LAM[::10]).astype(dtype)
    tol = 1e-4 if dtype == "float32" else 1e-11
    for estimate in (
        lambda m: log_determinant(m, 100, n_probes=3, n_steps=20),
        lambda m: trace(m, 100, method="hutch++"),
        lambda m: trace(m, 100, n_matvecs=4),
    ):
        want, got = estimate(a.astype("float64")), estimate(xp.asarray(a))
        np.testing.assert_allclose(got.samples, want.samples, rtol=tol)
        assert isinstance(got.value, float)


def test_one_probe_has_no_error():
    assert math.isnan(trace(np.eye(5), 5, n_matvecs=1).stderr)
    assert trace(np.eye(5), 5, n_matvecs=4).stderr == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: log_determinant(np.diag([1.0, -2, 3]), 3), ValueError, "matvec: expected a positive definite matrix, got the Ritz value -2"),
        (lambda: log_determinant(np.eye(3), 3, damping=-1), ValueError, "damping: expected a number >= 0"),
        (lambda: trace_function(np.eye(3), 3, 1.0), TypeError, "f: expected a callable"),
        (lambda: trace_function(np.eye(3), 3, lambda t: 1.0), ValueError, r"f: expected shape \(1,\), got \(\)"),
        (lambda: trace_function(-np.eye(3), 3, np.sqrt), ValueError, "f: expected finite values, got nan at the Ritz value -1"),
        (lambda: trace_function(np.eye(3), 3, np.sqrt, n_probes=0), ValueError, "n_probes: expected"),
        (lambda: trace_function(np.eye(3), 3, np.sqrt, n_steps=0), ValueError, "n_steps: expected"),
        (lambda: trace_function(np.triu(np.ones((10, 10))), 10, np.sqrt), ValueError, "symmetric"),
        (lambda: trace(np.eye(3), 3, method="hutch"), ValueError, "method: expected one of"),
        (lambda: trace(np.eye(3), 3, method="hutch++", n_matvecs=2), ValueError, "n_matvecs: expected"),
        (lambda: trace(np.full((3, 3), np.nan), 3), FloatingPointError, "matvec: product 1 holds NaN"),
        (lambda: trace(np.full((3, 3), np.nan), 3, method="hutch++"), FloatingPointError, "product 1"),
        (lambda: trace_function(np.eye(10**7 // 10**4), 10**14, np.sqrt), ValueError, "matvec: expected shape"),
        (lambda: trace_function(lambda v: v, 10**14, np.sqrt), MemoryError, "80 vectors"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_memory_serves_every_probe():
    A = Matvec(mixed(LAM), 1000)
    A.settle(np.ones(1000))
    runs = Tridiagonal(A, 10)
    first = runs.run(probe(0, 1000, 0) / math.sqrt(1000))
    runs.run(probe(0, 1000, 1) / math.sqrt(1000))
    again = runs.run(probe(0, 1000, 0) / math.sqrt(1000))
    np.testing.assert_array_equal(first.theta, again.theta)
    np.testing.assert_array_equal(first.tau, again.tau)
