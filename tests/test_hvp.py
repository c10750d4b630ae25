"""Products with Hessians by finite differences of gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.lowrank import hessian_operator, hvp

# Relative errors: the spec's for sum cosh(x), and those of forward differences.
ERRORS = {
    ("central", "float64"): 1e-9,
    ("central", "float32"): 5e-4,
    ("forward", "float64"): 1e-7,
    ("forward", "float32"): 2e-3,
}


def relative(found, expected):
    return np.linalg.norm(np.asarray(found, float) - expected) / np.linalg.norm(expected)


class Sinh:
    """The gradient of sum cosh in any framework, which counts its calls."""

    def __init__(self, xp):
        module = np if xp.name == "numpy" else xp.module
        self.function = module.numpy.sinh if xp.name == "jax" else module.sinh
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)


@pytest.mark.parametrize("scheme", ["central", "forward"])
@pytest.mark.parametrize("shape", [(40,), (6, 40), (1,), (3, 1)])
@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_cosh(xp, dtype, scheme, shape, length):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(dtype)
    v = (length * rng.standard_normal(shape)).astype(dtype)
    grad = Sinh(xp)
    found = hvp(grad, xp.asarray(x), xp.asarray(v), scheme=scheme)
    assert xp.dtype(found) == dtype and found.shape == shape and grad.calls == 2
    assert relative(xp.to_numpy(found), np.cosh(x.astype(float)) * v) < ERRORS[scheme, dtype]
    given = hvp(grad, xp.asarray(x), xp.asarray(v), scheme=scheme, gradient=xp.asarray(np.sinh(x)))
    assert relative(xp.to_numpy(given), xp.to_numpy(found)) < ERRORS[scheme, dtype]
    assert grad.calls == (3 if scheme == "forward" else 4)


def test_particles_have_their_own_steps(xp):
    """Rows of sizes 1e-6 to 1e6, and one that is zero, as alone."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5, 8))
    v = rng.standard_normal((5, 8)) * np.array([1e-6, 1.0, 0.0, 1e6, 1.0])[:, None]
    grad = Sinh(xp)
    found = xp.to_numpy(hvp(grad, xp.asarray(x), xp.asarray(v)))
    for i in (0, 1, 3, 4):
        assert relative(found[i], np.cosh(x[i]) * v[i]) < 1e-9
        alone = hvp(grad, xp.asarray(x[i]), xp.asarray(v[i]))
        np.testing.assert_allclose(found[i], xp.to_numpy(alone), rtol=1e-6)
    assert not found[2].any()


def test_nothing_to_do(xp, dtype):
    def never(x):
        raise AssertionError("called")

    x = xp.asarray(np.ones(3, dtype))
    zero = hvp(never, x, xp.asarray(np.zeros(3, dtype)))
    assert not xp.to_numpy(zero).any() and xp.dtype(zero) == dtype
    assert hvp(
        never, xp.asarray(np.ones((0, 3), dtype)), xp.asarray(np.ones((0, 3), dtype))
    ).shape == (0, 3)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_quadratics_are_exact_to_rounding(d, scale, seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((d, d))
    A = scale * (A + A.T + 2 * d * np.eye(d))
    x, v = rng.standard_normal(d), rng.standard_normal(d)
    # The gradient's rounding over the step.
    assert relative(hvp(lambda y: A @ y, x, v), A @ v) < 1e-8


def test_buffers_of_the_gradient():
    """A gradient that returns the same memory every time, read-only inputs, and integers."""
    buffer = np.empty(4)
    x, v = np.linspace(-1, 1, 4), np.ones(4)
    x.flags.writeable = v.flags.writeable = False
    found = hvp(lambda y: np.sinh(y, out=buffer), x, v)
    assert relative(found, np.cosh(x)) < 1e-9
    forward = hvp(lambda y: np.sinh(y, out=buffer), x, v, scheme="forward")
    assert relative(forward, np.cosh(x)) < 1e-7
    H = hessian_operator(lambda y: np.sinh(y, out=buffer), x, scheme="forward")
    assert relative(H(v), np.cosh(x)) < 1e-7
    assert relative(hvp(np.sinh, np.array([1, 2]), [1, 0]), [np.cosh(1), 0]) < 1e-9


def test_the_point_is_copied():
    x = np.ones(3)
    H = hessian_operator(np.sinh, x)
    x[:] = 5.0
    assert relative(H(np.ones(3)), np.cosh(np.ones(3))) < 1e-9


def test_float64_gradients_of_float32_points():
    """The difference is then better than that of float32 gradients."""
    x, v = np.linspace(-1, 1, 50, dtype="float32"), np.ones(50, "float32")
    found = hvp(lambda y: np.sinh(y.astype("float64")), x, v)
    assert found.dtype == "float32"
    assert relative(found, np.cosh(x.astype(float))) < 2e-4


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_lanczos_of_differences(xp, dtype, scheme):
    """A model made of differences has the eigenpairs of the Hessian to their error."""
    rng = np.random.default_rng(2)
    Q = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    values = np.concatenate([[20.0, 10.0, 5.0], np.linspace(1, 0, 27)])
    A = xp.asarray(((Q * values) @ Q.T).astype(dtype))
    H = hessian_operator(
        lambda x: A @ x, xp.asarray(rng.standard_normal(30).astype(dtype)), scheme=scheme
    )
    assert H.d == 30 and 0 < H.matvec_error < 1e-2
    op = mk.lowrank.lanczos(H, 30, 3)
    assert xp.dtype(op.U) == dtype
    np.testing.assert_allclose(xp.to_numpy(op.s), values[:3], rtol=20 * H.matvec_error)


def test_bad_gradients():
    x = np.array([0.0, 1.0, 2.0])

    def breaks(threshold):
        return lambda y: np.where(y > threshold, np.nan, y)

    with pytest.raises(
        FloatingPointError,
        match="grad: expected finite values at x \\+ h v, 1 of 3 entries .* index 2",
    ):
        hvp(breaks(2.0), x, np.ones(3))
    with pytest.raises(FloatingPointError, match="at x - h v, 1 of 3 entries"):
        hvp(breaks(2.0), x, -np.ones(3))
    with pytest.raises(FloatingPointError, match="at x, 1 of 3 entries"):
        hvp(lambda y: np.where(y == 2.0, np.inf, y), x, np.ones(3), scheme="forward")
    with pytest.raises(
        FloatingPointError, match="at x \\+ h v, 1 of 2 rows are not finite, first row 1"
    ):
        hvp(breaks(2.0), np.stack([x - 1, x]), np.ones((2, 3)))
    with pytest.raises(FloatingPointError, match="at x, "):
        hessian_operator(breaks(1.5), x, scheme="forward")


def test_wrong_arguments():
    x = np.ones(3)
    for call, kind, message in [
        (lambda: hvp(np.sinh, x, np.ones(4)), ValueError, "v: expected shape"),
        (lambda: hvp(np.sinh, x, np.ones(3, "float32")), TypeError, "v: expected float64"),
        (lambda: hvp(np.sinh, np.ones((1, 1, 1)), x), ValueError, "x: expected shape"),
        (
            lambda: hvp(np.sinh, np.array([1.0, np.nan]), np.ones(2)),
            ValueError,
            "x: expected finite",
        ),
        (lambda: hvp(np.sinh, x, np.full(3, np.inf)), ValueError, "v: expected finite"),
        (lambda: hvp(np.sinh, x, x, scheme="backward"), ValueError, "scheme: expected one of"),
        (
            lambda: hvp(np.sinh, x, x, scheme="forward", gradient=np.ones(2)),
            ValueError,
            "gradient: ",
        ),
        (lambda: hvp(np.sum, x, x), ValueError, r"grad\(x\): expected shape"),
        (lambda: hvp(lambda x: None, x, x), TypeError, r"grad\(x\): "),
        (lambda: hessian_operator(np.sinh, np.ones((2, 3))), ValueError, "x: expected shape"),
        (lambda: hessian_operator(np.sinh, x)(np.ones(2)), ValueError, "v: expected shape"),
        (
            lambda: hessian_operator(np.sinh, x)(np.full(3, np.nan)),
            ValueError,
            "v: expected finite",
        ),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            call()


@pytest.mark.parametrize("scheme", ["central", "forward"])
def test_vectors_whose_squares_leave_the_range(scheme):
    a, x = np.array([3.0, 1.0]), np.ones(2)
    for size in (1e170, 1e-170, 5e-324, -1e170):
        found = hvp(lambda x: a * x, x, np.array([size, 0.0]), scheme=scheme)
        np.testing.assert_allclose(found, [3.0 * size, 0.0], rtol=1e-7)
    rows = np.array([[1e170, 0.0], [0.0, 0.0], [1e-170, 1e-171]])
    found = hvp(lambda x: a * x, np.ones((3, 2)), rows, scheme=scheme)
    np.testing.assert_allclose(found, a * rows, rtol=1e-6)
