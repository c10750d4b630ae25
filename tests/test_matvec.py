"""Products of every kind and framework, and what is wrong with some."""

import functools
import warnings

import numpy as np
import pytest

from mckean.lowrank._matvec import Matvec, start_vector

D = 12


def matrix(dtype="float64"):
    a = np.random.default_rng(0).normal(size=(D, D))
    return ((a + a.T) / 2).astype(dtype)


def checked(A, want, rtol=1e-6):
    w = A.settle(start_vector(3, D))[1]
    got = A.framework.to_numpy(w) if not isinstance(w, np.ndarray) else w
    np.testing.assert_allclose(got, want @ start_vector(3, D), rtol=rtol, atol=rtol)


def test_a_callable_shows_its_framework(xp, dtype):
    a = xp.asarray(matrix(dtype))
    A = Matvec(lambda v: a @ v, D)
    checked(A, matrix(), 1e-5)
    assert A.framework.name == xp.name
    # All but PyTorch promote: the first product with a float64 vector is float64.
    assert A.dtype == (dtype if xp.name == "torch" else "float64")


def test_a_function_of_float32_tensors_settles_on_float32():
    """Whatever refuses NumPy's float64 and that of PyTorch."""
    torch = pytest.importorskip("torch")
    a = torch.tensor(matrix("float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for product in (
            lambda v: a @ v,
            lambda v: v @ a,
            a.mv,
            lambda v: torch.einsum("ij,j->i", a, v),
            lambda v: torch.as_tensor(v) @ a,
            lambda v: torch.as_tensor(v, dtype=torch.float32) @ a,
            lambda v: a @ v.float(),
        ):
            A = Matvec(product, D)
            checked(A, matrix(), 1e-5)
            assert (A.framework.name, A.dtype) == ("torch", "float32")
        for product in (
            lambda v: (torch.from_numpy(v) @ a).numpy(),
            lambda v: (torch.from_numpy(v).float() @ a).numpy(),
        ):
            A = Matvec(product, D)
            checked(A, matrix(), 1e-5)
            assert (A.framework.name, A.dtype) == ("numpy", "float32")


def test_a_function_of_float32_arrays_of_jax_settles_on_float32():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    a, x = jax.numpy.asarray(matrix("float32")), jax.numpy.ones(D, "float32")
    gradient = jax.grad(lambda x: 0.5 * x @ a @ x)

    def strict(v):
        with jax.numpy_dtype_promotion("strict"):
            return a @ v

    for product in (
        lambda v: jax.jvp(gradient, (x,), (v,))[1],
        jax.linearize(gradient, x)[1],
        lambda v: a @ jax.numpy.asarray(v, "float32"),
        strict,
    ):
        A = Matvec(product, D)
        checked(A, matrix(), 1e-5)
        assert (A.framework.name, A.dtype) == ("jax", "float32")


def test_a_matrix_names_its_framework_and_dtype(xp, dtype):
    A = Matvec(xp.asarray(matrix(dtype)), D)
    assert (A.framework.name, A.dtype, A.calls) == (xp.name, dtype, 0)
    checked(A, matrix(), 1e-5)
    assert A.calls == 1


def test_the_vector_is_of_the_named_framework(xp, dtype):
    seen = []

    def product(v):
        seen.append((xp.is_array(v), xp.dtype(v)))
        return 2 * v

    like = xp.asarray(np.zeros(1, dtype))
    A = Matvec(product, D, like=like)
    A.settle(start_vector(0, D))
    assert seen == [(True, dtype)]


def test_float32_results_make_it_float32():
    A = Matvec(lambda v: (2 * v).astype("float32"), D)
    assert (A.dtype, A.calls) == ("float32", 2)


def test_results_that_are_accepted():
    for product in (
        lambda v: (3 * v).reshape(D, 1),
        lambda v: list(3 * v),
        lambda v: np.asfortranarray(np.stack([3 * v, v], 1))[:, 0],
    ):
        checked(Matvec(product, D), 3 * np.eye(D))
    A = Matvec(lambda v: np.arange(D), D)
    _, w = A.settle(start_vector(0, D))
    assert (A.dtype, w.dtype) == ("float64", "float64")


def test_integer_results_keep_float32():
    A = Matvec(lambda v: np.arange(D), D, dtype="float32")
    _, w = A.settle(start_vector(0, D))
    assert (A.dtype, w.dtype) == ("float32", "float32")


def test_its_own_buffer_may_come_back():
    buffer = np.empty(D)

    def product(v):
        buffer[...] = matrix() @ v
        return buffer

    A = Matvec(product, D)
    x, y = start_vector(0, D), start_vector(1, D)
    X = np.stack([x, y])
    np.testing.assert_array_equal(A.rows(X), np.stack([matrix() @ x, matrix() @ y]))
    np.testing.assert_array_equal(A.matmat(np.ascontiguousarray(X.T)), A.rows(X).T)


def test_the_vector_cannot_be_written():
    def product(v):
        v *= 2
        return v

    with pytest.raises(ValueError, match="read-only"):
        Matvec(product, D).settle()


def test_a_written_tensor_is_a_copy():
    torch = pytest.importorskip("torch")
    A = Matvec(lambda v: v.mul_(2), D, like="torch")
    x = torch.tensor(start_vector(0, D))
    before = x.clone()
    A(torch.zeros(D, dtype=torch.float64).numpy())
    A(x)
    assert torch.equal(x, before)


def test_gradients_are_cut_off():
    torch = pytest.importorskip("torch")
    a = torch.tensor(matrix(), requires_grad=True)
    A = Matvec(lambda v: a @ v, D)
    checked(A, matrix())
    with pytest.raises(ValueError, match=r"requires grad, pass matvec\.detach"):
        Matvec(a, D)


def test_scipy():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    sparse = pytest.importorskip("scipy.sparse")
    for dtype in ("float32", "float64"):
        for a in (sparse.csr_matrix(matrix(dtype)), linalg.aslinearoperator(matrix(dtype))):
            A = Matvec(a, D)
            checked(A, matrix(), 1e-5)
            assert A.dtype == dtype
            X = np.eye(D, dtype=dtype)
            np.testing.assert_allclose(A.matmat(X), matrix(dtype), atol=1e-6)
            np.testing.assert_allclose(A.rows(X[:3]), matrix(dtype)[:3], atol=1e-6)
    with pytest.raises(TypeError, match="complex"):
        Matvec(sparse.csr_matrix(matrix().astype(complex)), D)


def test_blocks_in_every_framework(xp, dtype):
    a = xp.asarray(matrix(dtype))
    for A in (Matvec(a, D), Matvec(lambda v: a @ v, D, like=a, matmat=lambda v: a @ v)):
        X = A.own(np.eye(D)[:3])
        got = A.rows(X)
        got = np.asarray(got.numpy() if xp.name == "torch" else got)
        np.testing.assert_allclose(got, matrix()[:3], rtol=1e-5)
        assert A.calls == 3


@pytest.mark.parametrize(
    ("product", "error", "message"),
    [
        (lambda v: v[:-1], ValueError, r"matvec: expected shape \(12,\), got \(11,\)"),
        (lambda v: v[None], ValueError, r"matvec: expected shape \(12,\), got \(1, 12\)"),
        (lambda v: v.astype(complex), TypeError, "matvec: expected float32 or float64.*complex128"),
        (lambda v: None, TypeError, "matvec"),
        (3.0, TypeError, "matvec: expected a callable"),
        (
            np.ones((3, 4)),
            ValueError,
            r"matvec: expected shape \(d, d\) = \(12, 12\), got \(3, 4\)",
        ),
        (np.ones(D), ValueError, r"matvec: expected shape \(d, d\)"),
        (
            np.ones((D, D), complex),
            TypeError,
            "matvec: expected float32 or float64, got complex128",
        ),
    ],
)
def test_wrong_products(product, error, message):
    with pytest.raises(Exception, match=message) as caught:
        Matvec(product, D).settle()
    assert isinstance(caught.value, error)


def test_dtypes_do_not_mix():
    turn = []

    def product(v):
        turn.append(1)
        return v if len(turn) < 2 else v.astype("float32")

    A = Matvec(product, D)
    A.settle(start_vector(0, D))
    with pytest.raises(TypeError, match="matvec: expected float64.*got float32; dtype= converts"):
        A(start_vector(0, D))
    A = Matvec(lambda v: v.astype("float32"), D, dtype="float64")
    assert A(start_vector(0, D)).dtype == "float64"


def test_frameworks_do_not_mix():
    torch = pytest.importorskip("torch")
    A = Matvec(np.eye(D), D)
    A._call = lambda v: torch.tensor(v)
    with pytest.raises(TypeError, match="expected an array of numpy.*got one of torch"):
        A(start_vector(0, D))


def test_not_finite_products_are_counted():
    A = Matvec(lambda v: v * (np.nan if A.calls == 3 else 1.0), D)
    for _ in range(2):
        A(start_vector(0, D))
    with pytest.raises(FloatingPointError, match="matvec: product 3 holds NaN"):
        A(start_vector(0, D))


def test_errors_of_the_function_pass_when_the_framework_is_known():
    def product(v):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Matvec(product, D, like="numpy").settle()
    with pytest.raises(KeyError, match="mine"):
        Matvec(product, D).settle()
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"refused every vector.*numpy float64 cpu.*torch float32.*like="
    ):
        Matvec(lambda v: torch.eye(3) @ v, D).settle()


def nearly(a, v):
    return a @ v * (1 + 1e-9 * np.cos(np.arange(len(v)) * v[0] * 1e3))


@pytest.mark.parametrize("kind", ["float64", "float32", "fd"])
def test_symmetry_probe(kind):
    dtype = "float32" if kind == "float32" else "float64"
    rng = np.random.default_rng(1)
    for d in (2, 300, 3000):
        a = rng.normal(size=(d, d)).astype(dtype)
        for matrix, good in ((a + a.T, True), (a, False)):
            A = Matvec(matrix, d)
            if kind == "fd":
                A = Matvec(functools.partial(nearly, matrix), d, fd=True)
            x, Ax = A.settle(start_vector(0, d))
            if good:
                A.check_symmetry(x, A.own_data(Ax), 0)
            else:
                with pytest.raises(
                    ValueError, match="matvec: expected a symmetric matrix, got y.Ax = "
                ):
                    A.check_symmetry(x, A.own_data(Ax), 0)


def test_the_error_of_finite_differences_is_read():
    class Product:
        matvec_error = 1e-6

        def __call__(self, v):
            return v

    assert Matvec(Product(), D).error == 1e-6
    assert Matvec(lambda v: v, D).error == 0.0
    assert Matvec(lambda v: v, D, fd=True).error > 0
