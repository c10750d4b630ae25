"""Proximal maps and envelopes: optimality, closed forms against brute force, gradients, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.samplers import (
    Ball,
    BoltzmannShannon,
    Box,
    Burg,
    Euclidean,
    GroupNorm,
    HalfSpace,
    HalfSpaces,
    Hyperbolic,
    L1Norm,
    L2Norm,
    ProximalMap,
    Separable,
    Simplex,
    SquaredNorm,
    moreau_envelope,
    proximal_map,
)

# phi and phi' written down once more, per coordinate, in plain NumPy.
REFERENCE = {
    Euclidean: (lambda t, s: t * t / 2, lambda t, s: t),
    BoltzmannShannon: (lambda t, s: t * np.log(t) - t, lambda t, s: np.log(t)),
    Burg: (lambda t, s: -np.log(t), lambda t, s: -1 / t),
    Hyperbolic: (
        lambda t, s: t * np.arcsinh(t / s) - np.sqrt(t * t + s * s),
        lambda t, s: np.arcsinh(t / s),
    ),
}
BREGMANS = [Euclidean(), BoltzmannShannon(), Burg(), Hyperbolic(0.7)]
FUNCTIONS = {  # the function, its values, and its slopes where it is smooth
    "l1": (L1Norm(0.8), lambda t: 0.8 * np.abs(t), lambda t: 0.8 * np.sign(t)),
    "squared": (SquaredNorm(1.7), lambda t: 0.85 * t * t, lambda t: 1.7 * t),
    "exp": (
        Separable(lambda t: 2 * t**2 + t, lambda t: 4 * t + 1, lambda t: 0 * t + 4.0),
        lambda t: 2 * t**2 + t,
        lambda t: 4 * t + 1,
    ),
    "box": (Box(0.5, 1.5), lambda t: np.where((t >= 0.5) & (t <= 1.5), 0, np.inf), None),
}


def reference(bregman):
    phi, slope = REFERENCE[type(bregman)]
    s = getattr(bregman, "scale", None)
    return (lambda t: phi(t, s)), (lambda t: slope(t, s))


def divergence(bregman, a, b):
    phi, slope = reference(bregman)
    return phi(a) - phi(b) - slope(b) * (a - b)


def points(bregman, n=40):
    """Points of every sign the domain has."""
    x = np.geomspace(0.02, 6.0, n)
    return x if bregman.domain[0] == 0 else np.concatenate([-x, x])


@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
def test_legendre_functions_are_their_formulas(bregman, xp, dtype):
    phi, slope = reference(bregman)
    x = points(bregman).reshape(-1, 2).astype(dtype)
    a, wide = xp.asarray(x), x.astype(float)
    rtol = {"float32": 1e-5, "float64": 1e-12}[dtype]
    e = 1e-4
    hessian = (slope(wide + e * wide) - slope(wide - e * wide)) / (2 * e * wide)
    found = {
        "value": (bregman.value(a), phi(wide).sum(1), rtol),
        "gradient": (bregman.gradient(a), slope(wide), rtol),
        "inverse": (bregman.inverse_gradient(bregman.gradient(a)), wide, 10 * rtol),
        "hessian": (bregman.hessian_diagonal(a), hessian, max(rtol, 1e-7)),
    }
    for name, (got, want, limit) in found.items():
        assert xp.dtype(got) == dtype, name
        np.testing.assert_allclose(xp.to_numpy(got), want, rtol=limit, atol=limit, err_msg=name)


@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
def test_divergence_does_not_cancel(bregman):
    """Near the diagonal it is phi''(b) (a - b)^2 / 2; far away it is the definition."""
    b = points(bregman)[:, None]
    near = bregman.divergence(b * (1 + 1e-7), b)
    curvature = bregman.hessian_diagonal(b)[:, 0]
    step = (b * (1 + 1e-7) - b)[:, 0]
    np.testing.assert_allclose(near, curvature * step**2 / 2, rtol=1e-6)
    far = b[::-1] * 1.3
    np.testing.assert_allclose(
        bregman.divergence(far, b), divergence(bregman, far, b)[:, 0], rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_proximal_points_minimise(name, bregman, side):
    """No point of a fine grid around the answer, nor of a coarse one over the domain, is better."""
    g, value, _ = FUNCTIONS[name]
    x = points(bregman)
    step = 0.6
    p = proximal_map(g, x[:, None], step, bregman=bregman, side=side)[:, 0]

    def objective(z):
        first, second = (z, x[:, None]) if side == "left" else (x[:, None], z)
        return value(z) + divergence(bregman, first, second) / step

    best = objective(p[:, None])
    assert np.isfinite(best).all()
    coarse = np.geomspace(1e-3, 10, 400)
    grid = coarse if bregman.domain[0] == 0 else np.concatenate([-coarse, [0.0], coarse])
    others = np.broadcast_to(grid, (len(x), len(grid)))
    for z in (others, p[:, None] * (1 + np.linspace(-1e-3, 1e-3, 21))):
        assert (best <= objective(z) + 1e-12 * (1 + np.abs(best))).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
@pytest.mark.parametrize("name", ["l1", "squared", "exp"])
def test_proximal_points_solve_the_optimality_condition(name, bregman, side, dtype):
    g, _, slope = FUNCTIONS[name]
    x = points(bregman).astype(dtype)
    step = 0.6
    p = proximal_map(g, x[:, None], step, bregman=bregman, side=side)
    assert p.dtype == dtype
    p, x = p[:, 0].astype(float), x.astype(float)
    _, dual = reference(bregman)
    if side == "left":
        gap, pull = dual(x) - dual(p), step * slope(p)
    else:
        gap, pull = (x - p) * bregman.hessian_diagonal(p[:, None])[:, 0], step * slope(p)
    limit = {"float32": 2e-5, "float64": 1e-13}[dtype] * (1 + np.abs(dual(x)) + np.abs(dual(p)))
    moved = p != 0
    assert (np.abs(gap - pull)[moved] <= (limit * (1 + np.abs(x)))[moved]).all()
    assert (np.abs(gap)[~moved] <= 0.8 * step + 1e-12).all()  # zero: the subdifferential of |t|
    if name == "l1" and bregman.domain[0] < 0:
        assert 0 < moved.sum() < len(moved)


@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
def test_proximal_points_agree_on_every_framework(bregman, xp):
    x = points(bregman, 10).astype("float32")[:, None]
    for g, side in ((L1Norm(0.8), "right"), (SquaredNorm(1.7), "left"), (Box(0.5, 1.5), "left")):
        p = proximal_map(g, xp.asarray(x), 0.6, bregman=bregman, side=side)
        assert xp.dtype(p) == "float32"
        want = proximal_map(g, x.astype(float), 0.6, bregman=bregman, side=side)
        np.testing.assert_allclose(xp.to_numpy(p), want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 1e-3, 10.0, 1e30])
@pytest.mark.parametrize("name", ["l1 Burg left", "l1 Burg right", "l1 Hyperbolic right",
                                  "squared Burg left", "squared entropy right"])  # fmt: skip
def test_closed_forms_hold_over_the_range_of_the_dtype(name, weight, xp, dtype):
    """Against exact rational arithmetic and integer roots with 90 more digits."""
    top = {"float32": 38, "float64": 308}[dtype]
    x = np.array([10.0 ** -(top - 10), 1e-20, 0.3, 1.0, 7.0, 1e20, 10.0 ** (top - 8), 10.0**top])
    x = x.astype(dtype)
    kind, phi, side = name.split()
    g = (L1Norm if kind == "l1" else SquaredNorm)(weight)
    bregman = {"Burg": Burg(), "Hyperbolic": Hyperbolic(0.5), "entropy": BoltzmannShannon()}[phi]

    def root(q):
        scale = 10 ** (2 * (90 + 2 * top))
        return Fraction(math.isqrt(int(q * scale)), math.isqrt(scale))

    def exact(t):
        a, t = Fraction(weight), Fraction(float(t))
        if name == "l1 Burg left":
            return t / (1 + a * t)
        if name == "squared Burg left":
            return 2 * t / (1 + root(1 + 4 * a * t * t))
        if phi != "Hyperbolic":
            return 2 * t / (1 + root(1 + 4 * a * t))
        s = Fraction(1, 2)
        if t <= a * s:
            return Fraction(0)
        return (t * t - a * a * s * s) / (t + a * root(t * t - a * a * s * s + s * s))

    want = np.array([float(exact(t)) for t in x])
    p = proximal_map(g, xp.asarray(x[:, None]), 1.0, bregman=bregman, side=side)
    assert xp.dtype(p) == dtype
    np.testing.assert_allclose(
        xp.to_numpy(p)[:, 0], want, rtol=20 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny
    )


def test_an_l1_norm_of_no_weight_moves_nothing():
    x = np.array([[0.0, -2.0, np.nan]])
    p = proximal_map(L1Norm(0.0), x, 1.0, bregman=Hyperbolic(0.7), side="right")
    np.testing.assert_allclose(p, x, rtol=1e-15)


@pytest.mark.parametrize("bregman,side", [(BoltzmannShannon(), "left"), (Hyperbolic(1e-3), "left"),
                                          (Hyperbolic(1e-3), "right"), (Burg(), "right")],
                         ids=str)  # fmt: skip
def test_newton_holds_over_many_scales(bregman, side, dtype):
    x = np.geomspace(1e-8, 1e8, 33).astype(dtype)[:, None]
    for weight in (1e-10, 1e-3, 1.0, 1e6):
        p = proximal_map(SquaredNorm(weight), x, 1.0, bregman=bregman, side=side).astype(float)
        _, dual = reference(bregman)
        if side == "left":
            a, b, c = dual(p), weight * p, dual(x.astype(float))
        else:
            a, b, c = p, weight * p / bregman.hessian_diagonal(p), x.astype(float)
        scale = np.abs(a) + np.abs(b) + np.abs(c)
        if side == "left":  # p is rounded, and so is phi'(p)
            scale = 1 + scale * (1 + np.abs(a))
        assert (np.abs(a + b - c) <= 20 * np.finfo(dtype).eps * scale).all()
        assert (p > 0).all() and (p <= x * (1 + 1e-6)).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bregman", BREGMANS, ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_envelope_gradient_is_the_derivative_of_its_value(name, bregman, side):
    g, value, _ = FUNCTIONS[name]
    x, smoothing = points(bregman)[:, None], 0.3
    v, gradient = moreau_envelope(g, x, smoothing, bregman=bregman, side=side)
    e = 1e-5 * np.abs(x)
    up = moreau_envelope(g, x + e, smoothing, bregman=bregman, side=side)[0]
    down = moreau_envelope(g, x - e, smoothing, bregman=bregman, side=side)[0]
    np.testing.assert_allclose(
        gradient[:, 0], (up - down) / (2 * e[:, 0]), rtol=1e-5, atol=1e-6 * np.abs(gradient).max()
    )
    assert (v <= value(x)[:, 0] + 1e-12).all()
    fine = moreau_envelope(g, x, 1e-5, bregman=bregman, side=side)[0]
    inside = np.isfinite(value(x)[:, 0])
    np.testing.assert_allclose(fine[inside], value(x)[inside, 0], atol=0.03, rtol=0.03)


def test_envelopes_add_up_over_coordinates_and_take_weights_per_coordinate(xp):
    x = np.array([[0.5, 2.0, 3.0], [1.0, 0.1, 0.2]])
    weights = np.array([0.5, 1.0, 4.0])
    got, gradient = moreau_envelope(
        L1Norm(weights), xp.asarray(x), 0.2, bregman=Hyperbolic(), side="right"
    )
    want = np.zeros(2)
    for j, w in enumerate(weights):
        v, g = moreau_envelope(L1Norm(w), x[:, j : j + 1], 0.2, bregman=Hyperbolic(), side="right")
        want += v
        np.testing.assert_allclose(xp.to_numpy(gradient)[:, j], g[:, 0], rtol=1e-13)
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-13)


def test_l2_norm_shrinks_the_length(xp, dtype):
    x = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [3e-25, 4e-25]]).astype(dtype)
    got = xp.to_numpy(L2Norm(2.0).prox(xp.asarray(x), 0.5))
    np.testing.assert_allclose(got, [[2.4, 3.2], [0, 0], [0, 0], [0, 0]], rtol=1e-6)
    tiny = L2Norm(1e-25).prox(xp.asarray(x[3:]), 1.0)  # squares of these underflow in float32
    np.testing.assert_allclose(xp.to_numpy(tiny), x[3:] * 0.8, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 5), st.integers(0, 99))
def test_group_norm_is_a_loop_over_groups(labels, n, seed):
    labels = np.unique(labels, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(n, len(labels))), rng.uniform(0, 2, labels.max() + 1)
    g = GroupNorm(labels, weights)
    p, value = g.prox(x, 0.7), g.value(x)
    want, total = x.copy(), np.zeros(n)
    for k, w in enumerate(weights):
        lengths = np.linalg.norm(x[:, labels == k], axis=1)
        total += w * lengths
        want[:, labels == k] *= np.maximum(1 - 0.7 * w / np.maximum(lengths, 1e-300), 0)[:, None]
    np.testing.assert_allclose(p, want, atol=1e-14)
    np.testing.assert_allclose(value, total, atol=1e-13)


def test_group_norm_on_every_framework(xp, dtype):
    x = np.random.default_rng(3).normal(size=(5, 6)).astype(dtype)
    g = GroupNorm([0, 1, 0, 2, 1, 1], 0.4)
    got = g.prox(xp.asarray(x), 1.0)
    assert xp.dtype(got) == dtype
    np.testing.assert_allclose(xp.to_numpy(got), g.prox(x.astype(float), 1.0), atol=1e-6)


def test_simplex_projections_are_optimal(xp, dtype):
    """Euclidean: the conditions of Karush, Kuhn and Tucker; entropy: no random point is nearer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 7)).astype(dtype)
    limit = {"float32": 1e-5, "float64": 1e-13}[dtype]
    p = xp.to_numpy(Simplex(2.0).project(xp.asarray(x)))
    np.testing.assert_allclose(p.sum(1), 2.0, rtol=limit)
    assert (p >= 0).all() and (p == 0).any()
    shift = np.where(p > 0, x - p, -np.inf)
    threshold = shift.max(1, keepdims=True)
    assert (np.abs(shift - threshold)[p > 0] < limit * 10).all()
    assert (x <= threshold + limit * 10)[p == 0].all()
    y = np.exp(x)
    q = xp.to_numpy(Simplex(2.0).prox(xp.asarray(y), 1.0, bregman=BoltzmannShannon()))
    np.testing.assert_allclose(q.sum(1), 2.0, rtol=limit)
    others = 2 * rng.dirichlet(np.ones(7), size=200)
    phi = BoltzmannShannon()
    for a, b in zip(q.astype(float), y.astype(float), strict=True):
        least = phi.divergence(a[None], b[None])[0]
        assert (phi.divergence(others, np.tile(b, (200, 1))) >= least - 1e-6).all()
    assert xp.to_numpy(Simplex(2.0).contains(xp.asarray(p))).all()


@pytest.mark.parametrize(
    "inside",
    [Box(-1.0, [0.5, 2.0]), Ball([0.5, 0.0], 1.5), HalfSpace([1.0, -2.0], 0.3)],
    ids=lambda s: type(s).__name__,
)
def test_projections_are_the_nearest_points(inside, xp, dtype):
    """The nearest point is the only one with <x - p, q - p> <= 0 for all q of the set."""
    rng = np.random.default_rng(1)
    x = 3 * rng.normal(size=(60, 2)).astype(dtype)
    p = inside.project(xp.asarray(x))
    assert xp.dtype(p) == dtype and xp.to_numpy(inside.contains(p)).all()
    p = xp.to_numpy(p)
    q = rng.normal(size=(4000, 2)) * 3
    q = q[inside.contains(q)]
    products = np.einsum("ij,ikj->ik", x - p, q[None] - p[:, None].astype(float))
    assert (products <= 1e-4 if dtype == "float32" else products <= 1e-12).all()
    stay = inside.contains(x.astype(float)) & xp.to_numpy(inside.contains(xp.asarray(x)))
    assert (p[stay] == x[stay])[:, 0].any()
    assert moreau_envelope(inside, p[:1], 0.1)[0][0] == pytest.approx(0, abs=1e-10)
    assert inside.value(np.full((1, 2), 50.0)) == (
        np.inf if not isinstance(inside, HalfSpace) else 0
    )


def test_proximal_maps_of_callables():
    def prox(x, step):
        return x / (1 + step)

    x = np.array([[2.0, -1.0]])
    np.testing.assert_array_equal(proximal_map(prox, x, 0.5), x / 1.5)
    full = ProximalMap(prox, value=lambda x: (x**2).sum(1) / 2)
    got, want = moreau_envelope(full, x, 0.5), moreau_envelope(SquaredNorm(), x, 0.5)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_nan_stays_nan_and_empty_stays_empty():
    for g in (L1Norm(), SquaredNorm(), L2Norm(), GroupNorm([0, 1]), Box(0, 1), Ball(0, 1)):
        out = g.prox(np.array([[np.nan, 1.0], [2.0, 3.0]]), 1.0)
        assert np.isnan(out[0]).any() and np.isfinite(out[1]).all(), g
        assert g.prox(np.zeros((0, 2)), 1.0).shape == (0, 2)
    out = SquaredNorm().prox(np.array([[np.nan], [1.0]]), 1.0, bregman=BoltzmannShannon())
    assert np.isnan(out[0, 0]) and out[1, 0] == pytest.approx(0.5671432904097838)  # Omega


@pytest.mark.parametrize(
    "call,kind,message",
    [
        (lambda: L1Norm(-1.0), ValueError, "weight: expected numbers >= 0"),
        (lambda: L1Norm([[1.0]]), ValueError, "weight: expected a number or shape"),
        (lambda: L1Norm("much"), TypeError, "weight: expected numbers"),
        (lambda: L2Norm([1.0, 2.0]), ValueError, "weight: expected one number"),
        (lambda: GroupNorm([0, 2]), ValueError, "groups: expected numbers from 0"),
        (lambda: GroupNorm([0, 1], [1.0]), ValueError, r"weight: expected shape \(2,\)"),
        (lambda: GroupNorm([0.5]), ValueError, "groups: expected integers"),
        (lambda: Hyperbolic(0.0), ValueError, "scale: expected a positive"),
        (lambda: Box(1.0, 0.0), ValueError, "high: expected numbers above low"),
        (lambda: Ball(0.0, -1.0), ValueError, "radius: expected a positive"),
        (lambda: HalfSpace([0.0, 0.0], 1.0), ValueError, "normal: expected a vector"),
        (lambda: HalfSpaces([[1.0]], [1.0, 2.0]), ValueError, r"offsets: expected shape \(1,\)"),
        (lambda: HalfSpaces([[0.0]], [1.0]), ValueError, "normals: expected finite rows"),
        (lambda: Separable(np.exp, np.exp, 1.0), TypeError, "curvature: expected a callable"),
        (lambda: proximal_map(3.0, np.ones((1, 1)), 1.0), TypeError, "g: expected a function"),
        (lambda: proximal_map(L1Norm(), np.ones(3), 1.0), ValueError, r"x: expected shape \(n, d\)"),
        (lambda: proximal_map(L1Norm(), np.ones((1, 1)), 0.0), ValueError, "step: expected a pos"),
        (lambda: proximal_map(L1Norm([1.0, 2.0]), np.ones((1, 3)), 1.0), ValueError,
         r"weight: expected shape \(3,\)"),
        (lambda: proximal_map(L1Norm(), -np.ones((1, 1)), 1.0, bregman=Burg()), ValueError,
         r"x: expected coordinates inside \(0, inf\)"),
        (lambda: L1Norm().prox(np.ones((1, 1)), 1.0, bregman="burg"), TypeError, "bregman: expected"),
        (lambda: L1Norm().prox(np.ones((1, 1)), 1.0, side="top"), ValueError, "side: expected"),
        (lambda: L2Norm().prox(np.ones((1, 1)), 1.0, bregman=Burg()), ValueError,
         r"bregman: expected Euclidean\(\) for L2Norm"),
        (lambda: Box(-3.0, -1.0).prox(np.ones((1, 1)), 1.0, bregman=BoltzmannShannon()), ValueError,
         r"bregman: expected a domain that meets the inside of Box.* BoltzmannShannon\(\) on \(0, inf"),
        (lambda: moreau_envelope(Box(-3.0, -1.0), np.ones((1, 1)), 1.0, bregman=Burg()), ValueError,
         "bregman: expected a domain that meets"),
        (lambda: moreau_envelope(lambda x, s: x, np.ones((1, 1)), 1.0), ValueError, "value: expected"),
        (lambda: HalfSpaces([[1.0]], [1.0]).project(np.ones((1, 1))), ValueError, "HalfSpaces"),
        (lambda: Simplex().reflect(np.ones((1, 1))), ValueError, "reflect: Simplex"),
    ],
)  # fmt: skip
def test_refusals_name_the_argument(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_newton_that_does_not_converge_says_so():
    stuck = Separable(lambda x: x, lambda x: np.where(x > 0.3, 1.0, -1.0) * np.nan_to_num(x - x + 1),
                      lambda x: 0 * x)  # fmt: skip
    # A slope with a jump is no smooth function: bisection still closes in on the jump.
    p = stuck.prox(np.array([[0.4]]), 5.0)
    assert p[0, 0] == pytest.approx(0.3)
    with pytest.warns(mk.ConvergenceWarning, match="did not converge"):
        monkey = Separable(lambda x: x, lambda x: np.cos(1e9 * x) * 1e3, lambda x: 0 * x)
        mk.samplers._elementwise._MAX_ITERATIONS, before = (
            3,
            mk.samplers._elementwise._MAX_ITERATIONS,
        )
        try:
            monkey.prox(np.array([[0.4]]), 5.0)
        finally:
            mk.samplers._elementwise._MAX_ITERATIONS = before


def test_checkpoints_recognise_functions():
    assert repr(L1Norm(2.0)) == "L1Norm(weight=2.0)"
    assert Hyperbolic(2.0).config() == {"scale": 2.0}
    assert math.isinf(Box(0, np.inf).config()["high"])
