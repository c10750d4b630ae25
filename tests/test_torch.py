"""The PyTorch front end: values of the plain functions, gradients of central differences."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import mckean as mk

torch = pytest.importorskip("torch")
front = pytest.importorskip("mckean.torch")


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return torch.tensor(rng.standard_normal((9, 3))), torch.tensor(
        rng.standard_normal((7, 3)) + 0.3
    )


CALLS = [
    lambda x, y, **k: front.sliced_mmd2(x, y, n_slices=6, **k),
    lambda x, y, **k: front.sliced_mmd2(x, y, n_slices=6, r=1.5, seed=3, directions="random", **k),
    lambda x, y, **k: front.sliced_wasserstein(x, y, n_slices=6, **k),
    lambda x, y, **k: front.sliced_wasserstein(x, y, n_slices=6, p=3, seed=3, **k),
    lambda x, y, **k: front.energy_distance(x, y, **k),
    lambda x, y, **k: front.energy_distance(x, y, r=1.5, **k),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_central_differences(call, weighted, clouds):
    x, y = clouds
    given = {"x_weights": torch.rand(9), "y_weights": torch.rand(7)} if weighted else {}
    for in_x, in_y in ((True, False), (False, True), (True, True)):
        a, b = x.clone().requires_grad_(in_x), y.clone().requires_grad_(in_y)
        # A step below the gaps of all projections, and errors above the rounding of the values.
        assert torch.autograd.gradcheck(
            lambda s, t: call(s, t, **given), (a, b), eps=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("call", CALLS)
def test_batches(call, clouds):
    x, y = clouds
    clusters = torch.stack([x, x + 1, 2 * x])
    for other in (y, torch.stack([y, y - 1, y])):
        a, b = clusters.clone().requires_grad_(), other.clone().requires_grad_()
        values = call(a, b)
        assert values.shape == (3,)
        (values * torch.tensor([1.0, 2.0, -3.0])).sum().backward()
        grads = torch.zeros_like(other)
        for i, factor in enumerate((1.0, 2.0, -3.0)):
            s = clusters[i].clone().requires_grad_()
            t = (other if other.dim() == 2 else other[i]).clone().requires_grad_()
            value = call(s, t)
            value.backward()
            torch.testing.assert_close(values[i].detach(), value.detach())
            torch.testing.assert_close(a.grad[i], factor * s.grad)
            part = grads if other.dim() == 2 else grads[i]
            part += factor * t.grad
        torch.testing.assert_close(b.grad, grads)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_are_the_plain_ones(clouds, dtype):
    x, y = (t.to(getattr(torch, dtype)) for t in clouds)
    for name in ("sliced_mmd2", "sliced_wasserstein", "energy_distance"):
        plain = getattr(mk, name)(x, y)
        value = getattr(front, name)(x, y)
        assert value.shape == () and value.dtype == x.dtype and not value.requires_grad
        assert value.item() == np.dtype(dtype).type(plain)
        tracked = getattr(front, name)(x.clone().requires_grad_(), y)
        assert tracked.item() == pytest.approx(plain, rel=1e-6) and tracked.requires_grad


def test_targets(clouds):
    x, y = clouds
    for call, options in (
        (front.sliced_mmd2, {}),
        (front.sliced_wasserstein, {"distance": "wasserstein"}),
    ):
        grads = []
        for other in (y, mk.sliced.Target(y, **options)):
            a = x.clone().requires_grad_()
            call(a, other).backward()
            grads.append(a.grad)
        assert torch.equal(*grads)


def test_a_loss_goes_down(clouds):
    x, y = clouds
    x = x.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=1.0)
    losses = []
    for step in range(30):
        optimizer.zero_grad()
        loss = front.sliced_mmd2(x, y, seed=step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_errors_name_the_right_argument(clouds):
    x, y = clouds
    moved = y.clone().requires_grad_()
    with pytest.raises(TypeError, match="^x: expected a tensor, got ndarray"):
        front.sliced_mmd2(x.numpy(), y)
    with pytest.raises(TypeError, match="^y: expected a torch array to match x, got numpy"):
        front.sliced_mmd2(x, y.numpy())
    with pytest.raises(ValueError, match="^x: expected finite values"):
        front.energy_distance(x / 0, moved)
    with pytest.raises(ValueError, match=r"^x_weights: expected shape \(9,\)"):
        front.sliced_mmd2(x, moved, x_weights=torch.ones(7))
    with pytest.raises(ValueError, match="^x_weights: the tensor requires grad"):
        front.sliced_mmd2(x, moved, x_weights=torch.ones(9, requires_grad=True))
    a = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(front.sliced_mmd2(a, y) ** 2, a, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


TRANSPORT = [front.sinkhorn_divergence, front.sinkhorn_cost]


@pytest.mark.parametrize("call", TRANSPORT)
@pytest.mark.parametrize("unbalanced", [None, 0.7])
def test_transport_gradients_are_central_differences(call, unbalanced, clouds):
    x, y = (c[:4, :2].clone().requires_grad_() for c in clouds)
    a, b = (torch.rand(4, dtype=torch.float64).add(0.2).requires_grad_() for _ in range(2))
    options = {"eps": 0.7, "tol": 1e-12, "unbalanced": unbalanced}
    for given in ({"normalize": True}, {}) if unbalanced else ({"normalize": True},):
        assert torch.autograd.gradcheck(
            lambda x, y, a, b, given=given: call(x, y, a=a, b=b, **options, **given),
            (x, y, a, b),
            atol=1e-7,
        )
    # Only what is asked for.
    call(x.detach(), y, eps=0.7).backward()
    assert x.grad is None and y.grad is not None


@pytest.mark.parametrize("call", TRANSPORT)
def test_transport_batches_share(call, clouds):
    x, y = clouds
    batch = torch.stack([x, x + 1]).requires_grad_()
    a = torch.softmax(torch.arange(9.0, dtype=torch.float64) / 9, 0).requires_grad_()
    shared = y.clone().requires_grad_()
    values = call(batch, shared, a=a, eps=1.0)
    (values * torch.tensor([2.0, -1.0])).sum().backward()
    total = torch.zeros_like(y), torch.zeros_like(a)
    for k, factor in enumerate((2.0, -1.0)):
        s, t, w = (v.detach().clone().requires_grad_() for v in (batch[k], y, a))
        value = call(s, t, a=w, eps=1.0)
        value.backward()
        torch.testing.assert_close(values[k].detach(), value.detach())
        torch.testing.assert_close(batch.grad[k], factor * s.grad)
        for part, found in zip(total, (t.grad, w.grad), strict=True):
            part += factor * found
    torch.testing.assert_close(shared.grad, total[0])
    torch.testing.assert_close(a.grad, total[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transport_values_are_the_plain_ones(clouds, dtype):
    x, y = (t.to(getattr(torch, dtype)) for t in clouds)
    plain = mk.sinkhorn_divergence(x, y, eps=1.0)
    value = front.sinkhorn_divergence(x, y, eps=1.0)
    assert value.shape == () and value.dtype == x.dtype and not value.requires_grad
    assert value.item() == np.dtype(dtype).type(plain)
    cost = front.sinkhorn_cost(x, y, rel_eps=0.1)
    assert cost.item() == np.dtype(dtype).type(mk.sinkhorn_points(x, y, rel_eps=0.1).dual_value)
    weights = torch.full((9,), 1 / 9, requires_grad=True)
    front.sinkhorn_cost(x, y, a=weights, eps=1.0).backward()
    assert weights.grad.dtype == torch.float32


def test_transport_errors(clouds):
    x, y = clouds
    for call in TRANSPORT:
        with pytest.raises(TypeError, match="^x: expected a tensor, got ndarray"):
            call(x.numpy(), y, eps=1.0)
        with pytest.raises(TypeError, match="^y: expected a torch array to match x, got numpy"):
            call(x, y.numpy(), eps=1.0)
        with pytest.raises(ValueError, match="^a: expected weights that sum to 1"):
            call(x, y, eps=1.0, a=torch.ones(9, requires_grad=True))
        with pytest.raises(TypeError, match="^eps: expected either eps or rel_eps"):
            call(x, y)
        a = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(call(a, y, eps=1.0) ** 2, a, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()
    with pytest.warns(mk.ConvergenceWarning, match="^sinkhorn_divergence"):
        front.sinkhorn_divergence(x, y, eps=0.1, tol=1e-12, max_iter=1, method="scaling")


@pytest.mark.parametrize("page", ["sliced.md", "transport.md"])
def test_the_program_of_the_guide(page):
    guide = pathlib.Path(__file__).parent.parent / "docs" / "guide" / page
    (program,) = re.findall(r"^```python\n(import torch\n.*?)^```", guide.read_text(), re.M | re.S)
    exec(compile(program, str(guide), "exec"), {"__name__": "__main__"})


def test_pytorch_is_not_imported_early():
    code = "import sys, mckean, mckean.torch; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# ---- products with Hessians --------------------------------------------------------------------


def small_network(dtype=torch.float64):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).to(
        dtype
    )
    x, y = torch.randn(20, 3, dtype=dtype), torch.randint(0, 2, (20,))
    return net, x, y


def flat_function(net, x):
    """Outputs as a function of the flat parameters."""
    names = [n for n, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]

    def outputs(flat):
        parts = flat.split([s.numel() for s in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(net, values, (x,))

    return outputs, torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def test_hvp():
    torch.manual_seed(1)
    A = torch.randn(5, 5, dtype=torch.float64)
    x, v = torch.randn(2, 5, dtype=torch.float64)

    def f(x):
        return (A @ x).tanh().square().sum() + x[0] ** 3

    expected = torch.autograd.functional.hessian(f, x) @ v
    torch.testing.assert_close(front.hvp(f, x, v), expected)
    torch.testing.assert_close(front.hvp(f, x.requires_grad_(), v), expected)
    with torch.no_grad():
        assert not front.hvp(f, x, v).requires_grad
    # Agrees with differences of the gradient.
    differences = mk.lowrank.hvp(lambda y: torch.func.grad(f)(y), x.detach(), v)
    torch.testing.assert_close(differences, expected, rtol=1e-7, atol=1e-7)


def test_hvp_of_particles():
    x, v = torch.randn(2, 6, 3, dtype=torch.float64)
    found = front.hvp(lambda x: x.cosh().sum(-1) + x.prod(-1), x, v)
    for i in range(6):
        H = torch.autograd.functional.hessian(lambda x: x.cosh().sum() + x.prod(), x[i])
        torch.testing.assert_close(found[i], H @ v[i])
    # Linear and constant functions have none.
    assert not front.hvp(lambda x: x.sum(-1), x, v).any()
    assert not front.hvp(lambda x: torch.ones(6), x, v).any()


def test_hessian_of_a_network():
    net, x, y = small_network()
    entropy = torch.nn.functional.cross_entropy
    H = front.hessian_matvec(lambda: entropy(net(x), y), net)
    outputs, flat = flat_function(net, x)
    dense = torch.autograd.functional.hessian(lambda p: entropy(outputs(p), y), flat)
    assert H.d == flat.numel() == 26
    torch.testing.assert_close(torch.stack([H(e) for e in torch.eye(26, dtype=flat.dtype)]), dense)
    assert all(p.grad is None for p in net.parameters())
    torch.testing.assert_close(H.flatten(H.unflatten(flat)), flat)
    top = mk.lowrank.lanczos(H, H.d, 3)
    torch.testing.assert_close(top.s, torch.linalg.eigvalsh(dense).flip(0)[:3], rtol=1e-6, atol=0)
    # Some of the parameters: the block of the Hessian.
    block = front.hessian_matvec(lambda: entropy(net(x), y), [net[2].weight, net[2].bias])
    torch.testing.assert_close(
        torch.stack([block(e) for e in torch.eye(10, dtype=flat.dtype)]), dense[16:, 16:]
    )
    one = front.hessian_matvec(lambda: entropy(net(x), y), net[2].bias)
    assert one.d == 2
    # An update makes it stale.
    with torch.no_grad():
        net[0].weight.add_(1.0)
        net[2].weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        H(flat)


def test_gauss_newton_of_a_network():
    net, x, y = small_network()
    entropy = torch.nn.functional.cross_entropy
    outputs, flat = flat_function(net, x)
    J = torch.autograd.functional.jacobian(outputs, flat).reshape(40, 26)
    for loss in (lambda o: entropy(o, y), lambda o: o.square().sum() / 2, lambda o: (o**4).sum()):
        z = outputs(flat).detach()
        inner = torch.autograd.functional.hessian(loss, z).reshape(40, 40)
        G = front.ggn_matvec(lambda: net(x), loss, net)
        found = torch.stack([G(e) for e in torch.eye(26, dtype=flat.dtype)])
        torch.testing.assert_close(found, J.T @ inner @ J)
    # Of a model linear in its parameters it is the Hessian.
    linear = torch.nn.Linear(3, 2).double()
    v = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(
        front.ggn_matvec(lambda: linear(x), lambda o: entropy(o, y), linear)(v),
        front.hessian_matvec(lambda: entropy(linear(x), y), linear)(v),
    )
    # A linear loss has no curvature.
    assert not front.ggn_matvec(lambda: linear(x), lambda o: o.sum(), linear)(v).any()


def test_wrong_arguments_of_products():
    net, x, y = small_network()
    loss = lambda: torch.nn.functional.cross_entropy(net(x), y)  # noqa: E731
    H = front.hessian_matvec(loss, net)
    z = torch.zeros(3)
    for call, kind, message in [
        (lambda: front.hvp(torch.sum, np.ones(3), z), TypeError, "x: expected a tensor"),
        (lambda: front.hvp(torch.sum, z, z[:2]), ValueError, "v: expected shape"),
        (lambda: front.hvp(lambda x: 1.0, z, z), TypeError, "f: expected a tensor"),
        (
            lambda: front.hvp(lambda x: x[None] * x[:, None], z, z),
            ValueError,
            "f: expected a scalar",
        ),
        (lambda: H(torch.zeros(25).double()), ValueError, "v: expected shape"),
        (lambda: H(torch.zeros(26)), TypeError, "v: expected shape .* torch.float64"),
        (lambda: H(np.zeros(26)), TypeError, "v: expected a tensor"),
        (
            lambda: front.hessian_matvec(loss, []),
            ValueError,
            "params: expected tensors that require grad",
        ),
        (
            lambda: front.hessian_matvec(loss, [z]),
            ValueError,
            "params: expected tensors that require grad",
        ),
        (lambda: front.hessian_matvec(loss, [1.0]), TypeError, "params: expected a tensor"),
        (
            lambda: front.hessian_matvec(loss, [net[0].bias, z.clone().requires_grad_()]),
            ValueError,
            "params: expected one dtype",
        ),
        (
            lambda: front.ggn_matvec(lambda: z, torch.sum, net),
            ValueError,
            "outputs: expected a function",
        ),
        (
            lambda: front.ggn_matvec(lambda: net(x), lambda o: o, net),
            ValueError,
            "loss: expected a scalar",
        ),
    ]:
        with pytest.raises(kind, match=f"^{message}"):
            call()
