"""Lanczos' method against dense eigendecompositions."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.lowrank import _native, lanczos
from mckean.lowrank._matvec import Matvec, start_vector
from mckean.lowrank._ritz import select

EPS = 2.0**-52
WHICH = {
    "LA": lambda lam: np.sort(lam)[::-1],
    "SA": np.sort,
    "LM": lambda lam: lam[np.argsort(-np.abs(lam), kind="stable")],
}


def rotated(lam, seed=0):
    """A dense symmetric matrix with these eigenvalues."""
    return _rotated(tuple(lam), seed)


@functools.cache
def _rotated(lam, seed):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(lam), len(lam))))[0]
    a = (q * lam) @ q.T
    return (a + a.T) / 2


def two_parts():
    return np.concatenate([np.linspace(50, 5, 12), np.linspace(0.5, 0, 388)])


def agree(op, lam, which="LA", tol=1e-12, orthogonal=1e-13):
    k = len(op.s)
    want = WHICH[which](np.asarray(lam, float))[:k]
    scale = max(np.abs(lam).max(), 1e-300)
    if which == "LM":
        np.testing.assert_allclose(np.abs(op.s), np.abs(want), atol=tol * scale)
    else:
        np.testing.assert_allclose(op.s, want, atol=tol * scale)
    np.testing.assert_allclose(op.U.T @ op.U, np.eye(k), atol=orthogonal)
    assert op.converged


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("which", list(WHICH))
def test_a_bulk_and_outliers(which, block):
    lam = two_parts()
    a = rotated(lam)
    op = lanczos(a, 400, 12 if which != "SA" else 4, which=which, block=block)
    agree(op, lam, which)
    true = np.linalg.norm(a @ op.U - op.U * op.s, axis=0)
    np.testing.assert_allclose(op.residuals, true, atol=1e-12, rtol=1e-3)
    if block == 1 and which != "SA":
        assert op.n_matvecs <= 40
        assert op.residuals.max() <= 1e-8 * 50


def test_smallest_are_those_of_the_negative():
    lam = np.random.default_rng(1).normal(size=300)
    a = rotated(lam)
    low, high = lanczos(a, 300, 5, which="SA"), lanczos(-a, 300, 5)
    np.testing.assert_allclose(low.s, -high.s, rtol=1e-13)
    np.testing.assert_allclose(low.U, high.U, atol=1e-9)


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize(
    ("lam", "rank"),
    [
        (np.ones(50), 4),
        (np.zeros(50), 4),
        (np.repeat([5.0, 4, 3, 2, 1], 40), 5),
        (np.repeat([5.0, 4, 3, 2, 1], [1, 1, 1, 1, 196]), 5),
        (np.concatenate([np.full(5, 3.0), np.zeros(195)]), 8),
        (np.concatenate([[-7.0], np.zeros(99)]), 3),
        (np.concatenate([[1, 0.99999, 0.99998], np.linspace(0, 0.4, 497)]), 4),
        (np.concatenate([[2.0, 2, 2], np.linspace(0, 1, 397)]), 6),
        (np.linspace(-1, 1, 120) ** 3, 120),
        (np.array([4.0]), 1),
        (np.array([4.0, -4.0]), 2),
        (1e200 * np.linspace(-0.1, 0.1, 60), 3),
        (1e-200 * np.linspace(-1, 1, 60), 3),
    ],
)
def test_special_spectra(lam, rank, block):
    if np.abs(lam).max() > 1e100 or 0 < np.abs(lam).max() < 1e-100:
        lam = lam * (1e-60 if np.abs(lam).max() > 1 else 1e60)  # squares must be finite
    op = lanczos(lambda v: lam * v, len(lam), rank, block=block)
    agree(op, lam, tol=1e-10, orthogonal=1e-12)


def test_an_invariant_space_needs_few_products():
    op = lanczos(lambda v: v, 10_000, 4)
    assert op.n_matvecs <= 6  # one for the probe, one copy each, and one more that changes nothing
    lam = np.repeat([5.0, 4, 3, 2, 1], [1, 1, 1, 1, 196])
    assert lanczos(lambda v: lam * v, 200, 4).n_matvecs <= 11


@pytest.mark.parametrize(
    ("lam", "which", "most"),
    [  # matvecs of eigsh with its own basis: 35, 281, 283, 268, 466
        (1 / np.arange(1.0, 2001), "LA", 40),
        (np.linspace(-1, 1, 2000) ** 3, "LA", 281),
        (np.linspace(-1, 1, 2000) ** 3, "SA", 283),
        (np.linspace(-1, 1, 2000) ** 3, "LM", 268),
        (np.concatenate([[1, 0.99999, 0.99998, 0.5], np.linspace(0, 0.4, 1996)]), "LA", 466),
    ],
)
def test_restarts(lam, which, most):
    op = lanczos(lambda v: lam * v, 2000, 8, which=which)
    agree(op, lam, which)
    assert op.n_matvecs <= most


def test_one_pass_keeps_orthogonality():
    # The recurrence goes first, so that one pass of Gram-Schmidt is enough.
    d, m = 800, 150
    for lam in (np.linspace(0, 1, d), 1 / np.arange(1.0, d + 1), np.linspace(-1, 1, d) ** 3):
        for dtype, most in (("float64", 1e-13), ("float32", 1e-5)):
            basis, w = np.zeros((m + 1, d), dtype), np.zeros(d, dtype)
            A = Matvec(np.diag(lam), d, dtype=dtype)
            step, T, beta, seconds = (
                _native.lanczos_stepper(basis, w, A.place),
                np.zeros((m, m)),
                0.0,
                0,
            )
            basis[0] = start_vector(0, d)
            for n in range(m):
                w[...] = A.product(basis[n])
                beta, passes = step(n + 1, T[n], True, beta, 1)
                seconds += passes > 1
            assert seconds <= 1
            V = basis[:m].astype(float)
            assert np.linalg.norm(V @ V.T - np.eye(m)) < most * m


def test_selective_is_semi_orthogonal_and_right():
    lam = np.linspace(-1, 1, 800) ** 3
    full = lanczos(lambda v: lam * v, 800, 8, tol=1e-10)
    op = lanczos(lambda v: lam * v, 800, 8, reorth="selective", tol=1e-10)
    agree(op, lam, tol=1e-13, orthogonal=1e-6)
    np.testing.assert_allclose(op.s, full.s, rtol=1e-12)
    few = lanczos(lambda v: two_parts() * v, 400, 12, reorth="selective")
    agree(few, two_parts(), tol=1e-13, orthogonal=1e-6)


def test_without_reorthogonalisation_copies_appear():
    lam = two_parts()
    with pytest.warns(mk.ConvergenceWarning):
        op = lanczos(lambda v: lam * v, 400, 12, reorth="none", tol=0.0, max_iter=120)
    assert (np.abs(op.s - 50) < 1e-6).sum() >= 3


def test_unconverged_results_come_back():
    lam = np.linspace(0, 1, 3000)
    with pytest.warns(mk.ConvergenceWarning, match=r"lanczos: not converged after 31 products"):
        op = lanczos(lambda v: lam * v, 3000, 5, max_iter=30)
    assert not op.converged and op.n_matvecs == 31
    assert op.U.shape == (3000, 5)
    true = np.linalg.norm(lam[:, None] * op.U - op.U * op.s, axis=0)
    np.testing.assert_allclose(op.residuals, true, rtol=1e-6)
    assert 1e-6 < true.max() < 0.1
    with pytest.warns(mk.ConvergenceWarning):
        op = lanczos(lambda v: lam * v, 3000, 5, max_iter=60, block=4)
    np.testing.assert_allclose(
        op.residuals, np.linalg.norm(lam[:, None] * op.U - op.U * op.s, axis=0), rtol=1e-6
    )


def test_every_framework(xp, dtype):
    lam = two_parts().astype(dtype)
    want = lanczos(lam[:, None] * np.eye(400, dtype=dtype), 400, 6)
    a = xp.asarray(lam)
    for op in (
        lanczos(lambda v: a * v, 400, 6, like=a),
        lanczos(xp.asarray(np.diag(lam)), 400, 6),
        lanczos(xp.asarray(np.diag(lam)), 400, 6, block=2),
    ):
        assert xp.dtype(op.U) == xp.dtype(op.s) == dtype
        tol = 1e-5 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(xp.to_numpy(op.s), want.s, rtol=tol)
        np.testing.assert_allclose(xp.to_numpy(op.U), want.U, atol=100 * tol)
        assert isinstance(op.residuals, np.ndarray)


def test_frameworks_are_found():
    torch = pytest.importorskip("torch")
    a = torch.diag(torch.arange(1.0, 51.0))  # float32
    op = lanczos(lambda v: a @ v, 50, 3)
    assert isinstance(op.U, torch.Tensor) and op.s.dtype == torch.float32
    np.testing.assert_allclose(op.s.numpy(), [50, 49, 48], rtol=1e-5)


def test_results_do_not_depend_on_threads(simd_level):
    lam = np.linspace(-1, 1, 30_000) ** 3
    before = mk.get_num_threads()
    try:
        out = []
        for threads in (1, 2, 3):
            mk.set_num_threads(threads)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out.append(lanczos(lambda v: lam * v, len(lam), 3, max_iter=24, check=False))
    finally:
        mk.set_num_threads(before)
    for op in out[1:]:
        np.testing.assert_array_equal(op.s, out[0].s)
        np.testing.assert_array_equal(op.U, out[0].U)


def test_signs():
    op = lanczos(rotated(two_parts()), 400, 12)
    at = np.abs(op.U).argmax(0)
    assert (op.U[at, np.arange(12)] > 0).all()
    other = lanczos(rotated(two_parts()), 400, 12, seed=5)
    np.testing.assert_allclose(op.U, other.U, atol=1e-7)


@given(d=st.integers(1, 40), rank=st.integers(1, 40), seed=st.integers(0, 99), which=st.sampled_from(list(WHICH)), block=st.integers(1, 8))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_size(d, rank, seed, which, block):
    rank = min(rank, d)
    lam = np.random.default_rng(seed).integers(-3, 4, d).astype(float)
    op = lanczos(rotated(lam, seed), d, rank, which=which, block=block, seed=seed)
    agree(op, lam, which, tol=1e-9, orthogonal=1e-12)


def test_finite_differences():
    # The Hessian of sum cosh(x), by central differences of its gradient.
    x, d = np.linspace(0, 2, 80), 80

    def product(v):
        h = EPS ** (1 / 3) / np.linalg.norm(v)
        return (np.sinh(x + h * v) - np.sinh(x - h * v)) / (2 * h)

    op = lanczos(product, d, 5, fd=True)
    np.testing.assert_allclose(op.s, np.sort(np.cosh(x))[::-1][:5], rtol=1e-8)
    assert op.converged
    product.matvec_error = 1e-8
    assert lanczos(product, d, 5).converged


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rank": 0}, ValueError, "rank: expected an integer of at least 1, got 0"),
        ({"rank": 11}, ValueError, "rank: expected at most d = 10, got 11"),
        ({"rank": 2.0}, TypeError, "rank: expected an integer"),
        ({"d": 0}, ValueError, "d: expected an integer of at least 1"),
        ({"which": "SM"}, ValueError, "which: expected one of 'LA', 'SA', 'LM', got 'SM'"),
        ({"reorth": "half"}, ValueError, "reorth: expected one of"),
        ({"block": 9}, ValueError, "block: expected 1 to 8, got 9"),
        ({"block": 2, "reorth": "selective"}, ValueError, "reorth: expected 'full' with block > 1"),
        ({"tol": -1.0}, ValueError, "tol: expected a number >= 0"),
        ({"max_iter": 1}, ValueError, "max_iter: expected at least rank = 2, got 1"),
        ({"seed": None}, TypeError, "seed: expected"),
        ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
        ({"device": "tpu"}, ValueError, "device: expected 'cpu', 'cuda'"),
        ({"matvec": np.triu(np.ones((10, 10)))}, ValueError, "matvec: expected a symmetric matrix"),
        (
            {"matvec": 1e-200 * (np.ones((10, 10)) + np.diag(np.arange(10.0)))},
            ValueError,
            "matvec: expected a larger scale, products are too small to square",
        ),
        ({"matvec": lambda v: v * np.nan}, FloatingPointError, "matvec: product 1 holds NaN"),
        ({"matvec": lambda v: v * np.inf, "check": False}, FloatingPointError, "matvec: product 1 "),
        ({"matvec": lambda v: v[:3]}, ValueError, r"matvec: expected shape \(10,\), got \(3,\)"),
        ({"matvec": np.ones((3, 3))}, ValueError, r"matvec: expected shape \(d, d\) = \(10, 10\)"),
    ],
)  # fmt: skip
def test_errors(change, error, message):
    args = {"matvec": np.diag(np.arange(10.0)), "d": 10, "rank": 2} | change
    matvec, d, rank = (args.pop(name) for name in ("matvec", "d", "rank"))
    with pytest.raises(error, match=message):
        lanczos(matvec, d, rank, **args)


@pytest.mark.parametrize("block", [1, 2])
def test_nan_later_on(block):
    count = [0]

    def product(v):
        count[0] += 1
        return np.arange(100.0) * v * (np.nan if count[0] > 7 else 1.0)

    with pytest.raises(FloatingPointError, match=r"matvec: product \d+ holds NaN"):
        lanczos(product, 100, 5, block=block)


def test_the_basis_must_fit_into_memory():
    with pytest.raises(MemoryError, match="d, rank: expected a basis of 16 vectors to fit"):
        lanczos(lambda v: v, 10**14, 8)


def test_interrupts_pass_through():
    count = [0]

    def product(v):
        count[0] += 1
        if count[0] == 20:
            raise KeyboardInterrupt
        return np.linspace(0, 1, 5000) * v

    with pytest.raises(KeyboardInterrupt):
        lanczos(product, 5000, 5)
    assert lanczos(np.diag([1.0, 2, 3]), 3, 1).s[0] == pytest.approx(3)


def test_selection():
    theta = np.array([-5.0, -1, 0, 2, 4])
    assert select(theta, "LA", 2).tolist() == [4, 3]
    assert select(theta, "SA", 2).tolist() == [0, 1]
    assert select(theta, "LM", 2).tolist() == [0, 4]
    assert select(theta, "BE", 4).tolist() == [0, 4, 1, 3]
    assert select(theta, "BE", 5).tolist() == [0, 4, 1, 3, 2]
    assert select(theta, "LA", 9).tolist() == [4, 3, 2, 1, 0]


def test_the_hessian_of_a_network():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    x = torch.randn(100, 6, dtype=torch.float64)
    y = torch.randint(0, 3, (100,))
    sizes = [(6, 8), (8,), (8, 3), (3,)]
    d = sum(int(np.prod(s)) for s in sizes)
    theta = torch.randn(d, dtype=torch.float64) * 0.4

    def loss(theta):
        parts = [
            p.reshape(s)
            for p, s in zip(theta.split([int(np.prod(s)) for s in sizes]), sizes, strict=True)
        ]
        h = torch.tanh(x @ parts[0] + parts[1])
        return torch.nn.functional.cross_entropy(h @ parts[2] + parts[3], y)

    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)

    def product(v):
        return torch.autograd.grad(gradient, theta, v, retain_graph=True)[0]

    dense = np.linalg.eigvalsh(
        np.stack([product(e).numpy() for e in torch.eye(d, dtype=torch.float64)])
    )
    op = lanczos(product, d, 10)
    assert isinstance(op.U, torch.Tensor)
    np.testing.assert_allclose(op.s.numpy(), dense[::-1][:10], rtol=1e-6)
    low = lanczos(product, d, 3, which="SA")
    np.testing.assert_allclose(low.s.numpy(), dense[:3], rtol=1e-6)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_copies_are_found(block):
    for d in (19, 29, 35, 38):
        for seed in range(6):
            lam = np.random.default_rng(seed).integers(-3, 4, d).astype(float)
            for rank in (3, 6, 12):
                agree(
                    lanczos(rotated(lam, seed), d, rank, block=block, seed=seed),
                    lam,
                    tol=1e-9,
                    orthogonal=1e-12,
                )
