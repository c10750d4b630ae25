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
