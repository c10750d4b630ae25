"""The JAX front end: products with Hessians against dense ones."""

import subprocess
import sys

import numpy as np
import pytest

import mckean as mk

jax = pytest.importorskip("jax")
front = pytest.importorskip("mckean.jax")
jnp = jax.numpy
ravel_pytree = pytest.importorskip("jax.flatten_util").ravel_pytree


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def network():
    rng = np.random.default_rng(0)
    params = {
        "first": (jnp.asarray(rng.standard_normal((3, 4))), jnp.asarray(rng.standard_normal(4))),
        "second": jnp.asarray(rng.standard_normal((4, 2))),
    }
    x, y = jnp.asarray(rng.standard_normal((20, 3))), jnp.asarray(rng.integers(0, 2, 20))

    def outputs(p):
        W, b = p["first"]
        return jnp.tanh(x @ W + b) @ p["second"]

    def loss(z):
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).mean()

    return params, outputs, loss


def test_hvp():
    rng = np.random.default_rng(1)
    A, x, v = jnp.asarray(rng.standard_normal((5, 5))), *jnp.asarray(rng.standard_normal((2, 5)))

    def f(x):
        return (jnp.tanh(A @ x) ** 2).sum() + x[0] ** 3

    expected = jax.jit(jax.hessian(f))(x) @ v
    np.testing.assert_allclose(front.hvp(f, x, v), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda x, v: front.hvp(f, x, v))(x, v), expected, rtol=1e-12)
    many = jax.jit(jax.vmap(lambda v: front.hvp(f, x, v)))(jnp.stack([v, 2 * v]))
    np.testing.assert_allclose(many[1], 2 * expected, rtol=1e-12)
    np.testing.assert_allclose(mk.lowrank.hvp(jax.jit(jax.grad(f)), x, v), expected, rtol=1e-7)


def test_hvp_of_particles_and_pytrees():
    rng = np.random.default_rng(2)
    x, v = jnp.asarray(rng.standard_normal((2, 6, 3)))

    def each(x):
        return jnp.cosh(x).sum(-1) + x[..., 0] * x[..., 1] * x[..., 2]

    found = front.hvp(each, x, v)
    H = jax.jit(jax.vmap(jax.hessian(each)))(x)
    np.testing.assert_allclose(found, jnp.einsum("nij,nj->ni", H, v), rtol=1e-12)
    tree = front.hvp(
        lambda p: p["a"] * (p["b"] ** 2).sum(), {"a": 2.0, "b": x[0]}, {"a": 1.0, "b": v[0]}
    )
    np.testing.assert_allclose(tree["b"], 4 * v[0] + 2 * x[0], rtol=1e-12)


def test_hessian_of_a_network():
    params, outputs, loss = network()
    flat, unravel = ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda p: loss(outputs(unravel(p)))))(flat)
    H = front.hessian_matvec(lambda p: loss(outputs(p)), params)
    assert H.d == 24
    np.testing.assert_allclose(jax.jit(jax.vmap(H))(jnp.eye(24)), dense, atol=1e-12)
    assert jax.tree.structure(H.unflatten(flat)) == jax.tree.structure(params)
    np.testing.assert_array_equal(H.flatten(params), flat)
    top = mk.lowrank.lanczos(H, H.d, 3)
    np.testing.assert_allclose(top.s, np.linalg.eigvalsh(dense)[::-1][:3], rtol=1e-6)


def test_gauss_newton_of_a_network():
    params, outputs, loss = network()
    flat, unravel = ravel_pytree(params)
    J = jax.jit(jax.jacobian(lambda p: outputs(unravel(p))))(flat).reshape(40, 24)
    for each in (loss, lambda z: (z**2).sum() / 2, lambda z: (z**4).sum()):
        inner = jax.jit(jax.hessian(each))(outputs(params)).reshape(40, 40)
        G = front.ggn_matvec(outputs, each, params)
        found = jax.jit(jax.vmap(G))(jnp.eye(24))
        np.testing.assert_allclose(found, J.T @ inner @ J, rtol=1e-9, atol=1e-11)


def test_float32():
    H = front.hessian_matvec(lambda p: (p**4).sum(), jnp.ones(3, "float32"))
    found = H(jnp.ones(3, "float32"))
    assert found.dtype == "float32" and found.tolist() == [12.0, 12.0, 12.0]


def test_wrong_arguments():
    H = front.hessian_matvec(lambda p: (p**2).sum(), jnp.ones(3))
    x = jnp.ones(3)
    for call, kind, message in [
        (lambda: H(jnp.ones(4)), ValueError, r"v: expected shape \(3,\)"),
        (lambda: H(jnp.ones(3, "float32")), TypeError, "v: expected float64"),
        (lambda: H(np.ones(3)), TypeError, "v: expected a JAX array"),
        (
            lambda: front.hessian_matvec(lambda p: p, {}),
            ValueError,
            "params: expected at least one",
        ),
        (
            lambda: front.hessian_matvec(lambda p: p, jnp.arange(3)),
            TypeError,
            "params: expected floating",
        ),
        (
            lambda: front.hvp(lambda x: x[None] * x[:, None], x, x),
            ValueError,
            "f: expected a scalar",
        ),
        (lambda: front.hvp(lambda x: None, x, x), ValueError, "f: expected a scalar, got NoneType"),
        (lambda: front.hvp(jnp.sum, x, x[:1]), ValueError, "v: expected shape"),
        (lambda: front.hvp(jnp.sum, x, {"a": x}), TypeError, "v: expected the structure of x"),
        (lambda: front.hvp(jnp.sum, x, x.astype(int)), TypeError, "v: expected float"),
        (
            lambda: front.ggn_matvec(lambda p: p, lambda z: z, x)(x),
            ValueError,
            "loss: expected a scalar",
        ),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            call()


def test_import_is_lazy():
    code = "import sys, mckean.jax; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
