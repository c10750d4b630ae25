"""sdeint: closed forms, frameworks, trees, per-path steps, jumps, failures, compiled functions, refusals."""

import ctypes
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean import BrownianTree
from mckean import sde as S
from mckean.sde import _drive, _integrate, _route
from mckean.sde._controllers import plan
from mckean.sde._rows import paths_of

MU, SIGMA = 0.3, 0.5
STRATONOVICH = [
    S.EulerHeun,
    S.Heun,
    S.StratonovichMilstein,
    S.GeneralShARK,
    S.SlowRK,
    S.SPaRK,
    S.ReversibleHeun,
]
ITO = [S.EulerMaruyama, S.ItoMilstein]
ADDITIVE = [S.SEA, S.SRA1, S.ShARK]


def gbm(sense="stratonovich", slope=True):
    """y = y0 exp(MU t + SIGMA W) in either sense."""
    ito = S.SDE(
        lambda t, y: (MU + SIGMA**2 / 2) * y,
        lambda t, y: SIGMA * y,
        diffusion_slope=(lambda t, y: SIGMA**2 * y) if slope else None,
    )
    if sense == "ito":
        return ito
    return S.SDE(lambda t, y: MU * y, lambda t, y: SIGMA * y, interpretation="stratonovich")


def native_gbm():
    """The same in native code."""
    return S.GeometricBrownian(MU + SIGMA**2 / 2, SIGMA).to_stratonovich()


def ou():
    return S.SDE(lambda t, y: -y, lambda t, y: 0 * y + 0.5, noise="additive")


def exact_gbm(tree, y0, t=1.0):
    return y0 * np.exp(MU * t + SIGMA * tree.value(t))


def own(rtol=0.0, atol=1e-3, **more):
    return S.PIDController(rtol, atol, dtmin=2.0**-10, **more)


# ---- closed forms ----


@pytest.mark.parametrize("kind", ITO + STRATONOVICH, ids=lambda k: k.__name__)
def test_geometric_brownian_motion_along_the_path(kind):
    y0 = np.linspace(0.5, 2, 12).reshape(6, 2)
    tree = BrownianTree(2, (6, 2), tol=2**-14, levy_area="space-time")
    ts = [0.0, 0.3, 1.0]
    out = S.sdeint(gbm(kind.sense), y0, ts, solver=kind(), controller=2**-10, tree=tree)
    bound = 0.06 if kind is S.EulerMaruyama else 5e-3
    assert out.converged and out.ys.shape == (3, 6, 2)
    assert (out.ys[0] == y0).all() and (out.ts == ts).all()
    for k, t in enumerate(ts[1:], 1):
        assert abs(out.ys[k] - exact_gbm(tree, y0, t)).max() < bound
    if kind is S.SlowRK:
        assert abs(out.ys[-1] - exact_gbm(tree, y0)).max() < 2e-6


@pytest.mark.parametrize("kind", ADDITIVE + ITO + STRATONOVICH, ids=lambda k: k.__name__)
def test_ornstein_uhlenbeck_variance(kind):
    out = S.sdeint(ou(), np.zeros((4000, 1)), [0.0, 1.5], solver=kind(), controller=0.05, seed=4)
    variance = 0.125 * -math.expm1(-3.0)
    # 5 standard errors of a variance (1e-6 two-sided), and 5 % for steps of 0.05
    assert out.ys[-1].var() == pytest.approx(variance, rel=5 * math.sqrt(2 / 4000) + 0.05)


def test_deterministic_equation_has_the_order_of_the_drift_rule():
    sde = S.SDE(lambda t, y: np.cos(t) * y, lambda t, y: 0 * y, noise="additive")
    error = [
        abs(
            S.sdeint(sde, np.ones((1, 1)), [0, 2], solver=S.ShARK(), controller=h).ys[-1, 0, 0]
            - math.exp(math.sin(2))
        )
        for h in (0.1, 0.05)
    ]
    assert error[0] / error[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(
    "kind", [S.Heun, S.SPaRK, S.ReversibleHeun, S.StepDoubling], ids=lambda k: k.__name__
)
def test_adaptive_steps_follow_the_closed_form(kind):
    solver = kind(S.SlowRK()) if kind is S.StepDoubling else kind()
    y0 = np.full((100, 1), 2.0)
    tree = BrownianTree(3, (100, 1), tol=2**-12, levy_area="space-time")
    errors = []
    for atol in (1e-1, 1e-3):
        out = S.sdeint(gbm(), y0, [0, 0.4, 1], solver=solver, controller=own(atol=atol), tree=tree)
        errors.append(np.sqrt(np.mean((out.ys[-1] - exact_gbm(tree, y0)) ** 2)))
        assert out.converged and (out.stats["accepted"] > 0).all()
    assert errors[1] < errors[0] / 3 and errors[1] < 0.02
    assert out.stats["rejected"].sum() > 0
    assert len(set(out.stats["accepted"].tolist())) > 1  # steps of their own


def test_shark_adaptive_matches_fine_steps_of_the_same_path():
    sde = S.SDE(lambda t, y: -np.sin(3 * y), lambda t, y: 0 * y + 1.0, noise="additive")
    y0 = np.zeros((20, 2))
    tree = BrownianTree(8, (20, 2), tol=2**-11, levy_area="space-time")
    fine = S.sdeint(sde, y0, [0, 1], solver=S.ShARK(), controller=2**-11, tree=tree).ys[-1]
    rough, close = (
        abs(
            S.sdeint(sde, y0, [0, 1], solver=S.ShARK(), controller=own(atol=a), tree=tree).ys[-1]
            - fine
        ).max()
        for a in (1e-1, 1e-3)
    )
    assert close < 5e-3 and close < rough / 5


# ---- frameworks, dtypes, shapes ----


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("solver", [S.SPaRK(), S.StepDoubling(S.ReversibleHeun())], ids=repr)
def test_frameworks_agree(xp, dtype, adaptive, solver):
    y0 = np.linspace(0.5, 2, 10).reshape(5, 2).astype(dtype)
    controller = own() if adaptive else 2**-4
    seen = []

    def drift(t, y):
        seen.append(t)
        assert xp.is_array(y) and xp.dtype(y) == dtype
        return MU * y

    sde = S.SDE(drift, lambda t, y: SIGMA * y, interpretation="stratonovich")
    out = S.sdeint(
        sde, xp.asarray(y0), [0.0, 0.5, 1.0], solver=solver, controller=controller, seed=7
    )
    assert xp.is_array(out.ys) and xp.dtype(out.ys) == dtype
    if adaptive:
        assert all(xp.is_array(t) and xp.dtype(t) == dtype for t in seen)
    else:
        assert all(type(t) is float for t in seen)
    plain = S.sdeint(
        gbm(), y0.astype(np.float64), [0.0, 0.5, 1.0], solver=solver, controller=controller, seed=7
    )
    close = (
        1e-12 if dtype == "float64" else (2e-2 if adaptive else 2e-5)
    )  # float32 may choose other steps
    assert np.allclose(xp.to_numpy(out.ys), plain.ys, rtol=close, atol=close)


def test_milstein_derivatives_agree(xp, dtype):
    """Slope by hand, central difference, and the frameworks' own derivative; by column and as a matrix."""
    y0 = np.linspace(-0.6, 0.9, 8).reshape(4, 2).astype(dtype)
    if xp.name == "torch":
        sin, stack = xp.module.sin, lambda a: xp.module.stack(a, 2)
    elif xp.name == "jax":
        sin, stack = xp.module.numpy.sin, lambda a: xp.module.numpy.stack(a, 2)
    else:
        sin, stack = np.sin, lambda a: np.stack(a, 2)

    def g(t, y):
        return 1 + 0.5 * sin(y)

    def matrix(t, y):  # the same noise as two columns
        zero = 0 * y[:, 0]
        a = g(t, y)
        two = lambda p, q: (xp.module.stack if xp.name == "torch" else stack2)([p, q], 1)  # noqa: E731
        return stack([two(a[:, 0], zero), two(zero, a[:, 1])])

    stack2 = (lambda a, axis: xp.module.numpy.stack(a, axis)) if xp.name == "jax" else np.stack

    def slope(t, y):
        return g(t, y) * 0.5 * sin(y + math.pi / 2)

    found = []
    for noise, diffusion, known in [
        ("diagonal", g, slope),
        ("diagonal", g, None),
        ("commutative", matrix, None),
        ("commutative", matrix, slope),
    ]:
        sde = S.SDE(lambda t, y: -y, diffusion, noise=noise, diffusion_slope=known)
        out = S.sdeint(sde, xp.asarray(y0), [0, 1], solver=S.ItoMilstein(), controller=0.5, seed=3)
        found.append(xp.to_numpy(out.ys))
    for other in found[1:]:
        assert np.allclose(found[0], other, atol=1e-9 if dtype == "float64" else 2e-4)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("big", [1.0, 1e6, 1e12])
def test_differences_of_the_diffusion_do_not_mix_units(big, adaptive):
    """Coordinates of 1 and of `big`, the second noise depends on the small one."""

    def unit(t, y):
        return np.stack([np.ones(len(y)), np.sin(y[:, 1])], 1)

    y0 = np.array([[big, 1.0], [big, 0.0], [-big, 1e-9]])
    for noise in ("diagonal", "scalar", "commutative"):
        g, slope = unit, lambda t, y: np.stack([0 * y[:, 0], np.sin(2 * y[:, 1]) / 2], 1)
        if noise == "commutative":  # two columns
            g = lambda t, y: unit(t, y)[:, :, None] * np.eye(2)  # noqa: E731
        ends = []
        for known in (slope, None):
            sde = S.SDE(lambda t, y: -np.sin(y), g, noise=noise, diffusion_slope=known)
            solver, controller = S.ItoMilstein(), 2.0**-3
            if adaptive:
                solver, controller = S.StepDoubling(solver), own(atol=10.0, dt0=2.0**-3)
            out = S.sdeint(sde, y0, [0, 1], solver=solver, controller=controller, seed=3)
            ends.append(out.ys[-1])
        np.testing.assert_allclose(ends[1][:, 1], ends[0][:, 1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("small", [1e-6, 1e-30])
def test_differences_of_the_diffusion_stay_in_its_domain(small, dtype):
    """A square root near zero, whose slope is a constant; weak noise and strong."""
    y0 = np.full((20, 1), small, dtype)
    for volatility in (1e-6, 0.1, 1.0):

        def g(t, y, volatility=volatility):
            assert (y >= 0).all()
            return volatility * np.sqrt(y)

        field = S._field.Field(S.SDE(g, g), mk._array.as_input(y0, "y"), 0.0)
        y = mk._array.as_input(y0, "y")
        h = 0.1 * small / volatility**2  # the noise of the step is a third of the state
        found = field.derivative(0.0, y, g(0.0, y0), h**0.5)
        near = 1e-9 if dtype == "float64" else 1e-3
        np.testing.assert_allclose(found, volatility**2 / 2, rtol=near)
    weak = S.SDE(
        lambda t, y: 0 * y,
        lambda t, y: 1e-6 * np.sqrt(y),
        diffusion_slope=lambda t, y: 0 * y + 5e-13,
    )
    bare = S.SDE(weak.drift, weak.diffusion)
    y0 = np.full((20, 1), 1e-6 if dtype == "float64" else 3e-3, dtype)
    call = dict(solver=S.ItoMilstein(), controller=2.0**-4, seed=1)
    ends = [S.sdeint(sde, y0, [0, 1], **call).ys[-1] for sde in (weak, bare)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12 if dtype == "float64" else 1e-6)
    at_zero = S.sdeint(bare, np.zeros((2, 1), dtype), [0, 1], **call)
    assert (at_zero.ys == 0).all()


def test_scalar_noise_in_both_shapes_and_as_a_matrix():
    y0 = np.linspace(0.5, 2, 6).reshape(3, 2)
    tree = BrownianTree(1, (3, 1), tol=2**-6, levy_area="space-time")
    found = []
    for noise, g in [
        ("scalar", lambda t, y: SIGMA * y),
        ("scalar", lambda t, y: SIGMA * y[:, :, None]),
        ("general", lambda t, y: SIGMA * y[:, :, None]),
    ]:
        sde = S.SDE(lambda t, y: MU * y, g, noise=noise, interpretation="stratonovich")
        found.append(S.sdeint(sde, y0, [0, 1], solver=S.SPaRK(), controller=2**-6, tree=tree).ys)
    assert np.allclose(found[0], found[1], atol=0) and np.allclose(found[0], found[2], atol=1e-14)
    assert np.allclose(found[0][-1], y0 * np.exp(MU + SIGMA * tree.value(1.0)), atol=2e-2)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 4),
    d=st.integers(1, 3),
    gaps=st.lists(st.floats(0.01, 0.7), min_size=1, max_size=4),
    adaptive=st.booleans(),
)
def test_any_save_times_and_sizes(n, d, gaps, adaptive):
    ts = np.concatenate([[0.5], 0.5 + np.cumsum(gaps)])
    y0 = np.ones((n, d))
    tree = BrownianTree(6, (n, d), t0=0.5, t1=float(ts[-1]), tol=2.0**-14, levy_area="space-time")
    controller = S.PIDController(0, 1e-2, dtmin=2.0**-13) if adaptive else 0.05
    out = S.sdeint(gbm(), y0, ts, solver=S.SPaRK(), controller=controller, tree=tree)
    assert out.ys.shape == (ts.size, n, d) and out.converged
    exact = [y0 * np.exp(MU * (t - 0.5) + SIGMA * tree.value(float(t))) for t in ts]
    assert abs(out.ys - np.stack(exact)).max() < 0.25


def test_a_batch_is_its_paths():
    """Splitting the batch changes nothing, whatever the steps."""
    y0 = np.linspace(0.2, 4, 9).reshape(9, 1)
    tree = BrownianTree(3, (9, 1), tol=2**-11, levy_area="space-time")
    for controller in (2**-5, own()):
        whole = S.sdeint(
            gbm(), y0, [0, 1, 1 + 1e-9][:2], solver=S.SPaRK(), controller=controller, tree=tree
        )
        for rows in (slice(0, 4), slice(4, 9), slice(2, 3)):
            part = S.sdeint(
                gbm(), y0[rows], [0, 1], solver=S.SPaRK(), controller=controller, tree=tree[rows]
            )
            assert (part.ys == whole.ys[:, rows]).all()
            for name in ("accepted", "rejected", "evaluations"):
                assert (part.stats[name] == whole.stats[name][rows]).all()


# ---- trees and seeds ----


def test_a_seed_is_its_tree():
    y0 = np.ones((4, 2))
    for solver, controller, tol in [
        (S.Heun(), 0.1, 0.1),
        (S.SPaRK(), own(), 2.0**-11),
        (S.StepDoubling(S.Heun()), 0.125, 0.0625),
    ]:
        tree = BrownianTree(9, (4, 2), tol=tol, levy_area=solver.levy_area)
        one = S.sdeint(gbm(), y0, [0.0, 1.0], solver=solver, controller=controller, seed=9)
        two = S.sdeint(gbm(), y0, [0.0, 1.0], solver=solver, controller=controller, tree=tree)
        assert (one.ys == two.ys).all()
        assert not (
            one.ys[1]
            == S.sdeint(gbm(), y0, [0.0, 1.0], solver=solver, controller=controller, seed=8).ys[1]
        ).any()


def test_halving_the_step_of_a_seed_refines_its_path():
    y0 = np.ones((50, 1))
    ends = [
        S.sdeint(gbm(), y0, [0, 1], solver=S.Heun(), controller=2.0**-k, seed=5).ys[-1]
        for k in (4, 7, 9)
    ]
    assert abs(ends[0] - ends[2]).mean() < 0.03 and abs(ends[1] - ends[2]).mean() < 0.003


def test_trees_that_only_know_increment_and_solvers_that_only_know_step():
    class Path:
        """An exact path at the multiples of 1/8."""

        def __init__(self, steps):
            self.steps = steps

        def increment(self, s, t):
            return SimpleNamespace(W=self.steps[round(s * 8) : round(t * 8)].sum(0), H=None, K=None)

    class Euler:
        levy_area = "none"

        def order(self, noise):
            return 0.5

        def error_order(self, sde):
            return 1.0

        def step(self, sde, y, h, W):
            return y + h * sde.drift(0.0, y) + sde.diffusion(0.0, y) * W

    steps = np.random.default_rng(0).normal(0, math.sqrt(1 / 8), (8, 3, 1))
    y = y0 = np.ones((3, 1))
    for w in steps:
        y = y + (MU + SIGMA**2 / 2) * y / 8 + SIGMA * y * w
    for solver in (S.EulerMaruyama(), Euler()):
        out = S.sdeint(gbm("ito"), y0, [0, 1], solver=solver, controller=1 / 8, tree=Path(steps))
        assert np.allclose(out.ys[-1], y, rtol=1e-14) and (out.stats["evaluations"] == 8).all()


def test_step_doubling_keeps_the_halves():
    y0 = np.linspace(0.5, 2, 5).reshape(5, 1)
    tree = BrownianTree(3, (5, 1), tol=2**-7, levy_area="space-time")
    for inner in (S.Heun(), S.SlowRK(), S.ReversibleHeun()):
        halves = S.sdeint(gbm(), y0, [0, 1], solver=inner, controller=2**-6, tree=tree)
        doubled = S.sdeint(
            gbm(), y0, [0, 1], solver=S.StepDoubling(inner), controller=2**-5, tree=tree
        )
        assert (halves.ys == doubled.ys).all()
        assert doubled.stats["accepted"][0] == 32
    three_half = 32 * 3 + 1
    assert doubled.stats["evaluations"][0] == three_half


def test_step_doubling_adds_the_halves_by_chens_relation():
    seen = []

    class Watch(S.Solver):
        levy_area = "space-time-time"
        noise_types = frozenset({"diagonal"})

        def step(self, field, span, noise, y, carry):
            seen.append((span.length, noise.W.copy(), noise.H.copy(), noise.K.copy()))
            return y, None, carry

    tree = BrownianTree(3, (5, 1), tol=2**-7, levy_area="space-time-time")
    S.sdeint(
        gbm(), np.ones((5, 1)), [0, 1], solver=S.StepDoubling(Watch()), controller=0.5, tree=tree
    )
    assert [s[0] for s in seen] == [0.5, 0.25, 0.25] * 2
    for (length, *found), start in ((seen[0], 0.0), (seen[3], 0.5)):
        whole = tree.increment(start, start + length)
        for mine, theirs in zip(found, (whole.W, whole.H, whole.K), strict=True):
            assert np.allclose(mine, theirs, atol=1e-15)


def test_a_rejected_step_asks_the_same_path_again():
    tree = BrownianTree(3, (6, 1), tol=2**-12, levy_area="space-time")
    asked = []

    class Watched:
        shape, t0, t1, tol, levy_area, dtype = (
            tree.shape,
            0.0,
            1.0,
            tree.tol,
            tree.levy_area,
            tree.dtype,
        )

        def increment(self, s, t):
            asked.append((s.copy(), t.copy()))
            return tree.increment(s, t)

    out = S.sdeint(
        gbm(), np.ones((6, 1)), [0, 1], solver=S.SPaRK(), controller=own(dt0=1.0), tree=Watched()
    )
    assert out.stats["rejected"].min() >= 1
    s, t = (np.stack(x) for x in zip(*asked, strict=True))
    for path in range(6):
        moving = t[:, path] > s[:, path]
        again = np.flatnonzero(np.diff(s[moving, path]) == 0)
        assert again.size == out.stats["rejected"][path]
        assert (t[moving, path][again + 1] < t[moving, path][again]).all()
        assert moving.sum() == out.stats["accepted"][path] + out.stats["rejected"][path]


@pytest.mark.parametrize("doubled", [False, True])
def test_no_piece_is_shorter_than_a_leaf(doubled):
    dtmin = 2.0**-4
    controller = S.PIDController(0, 1e-6, dtmin=dtmin, dtmax=dtmin)
    ts = np.array([0, 0.33, 0.33 + 1.05 * dtmin, 1])  # its second gap falls into two equal parts
    solver = S.StepDoubling(S.Heun()) if doubled else S.SPaRK()
    tol, gaps = _integrate._smallest(plan(controller, ts, "diagonal"), solver), []
    tree = BrownianTree(1, (4, 1), tol=tol, levy_area="space-time")

    class Watched:
        shape, t0, t1, tol, levy_area, dtype = (4, 1), 0.0, 1.0, tree.tol, "space-time", "float64"

        def increment(self, s, t):
            gaps.extend((t - s)[t > s].tolist())
            return tree.increment(s, t)

    call = dict(solver=solver, controller=controller)
    S.sdeint(gbm(), np.ones((4, 1)), ts, tree=Watched(), **call)
    assert tol <= min(gaps) < 1.1 * tol
    coarse = BrownianTree(1, (4, 1), tol=2 * tol, levy_area="space-time")
    part = "a quarter" if doubled else "half"
    with pytest.raises(ValueError, match=f"tree: expected tol of .* {part} of dtmin = 0.0625, got"):
        S.sdeint(gbm(), np.ones((4, 1)), ts, tree=coarse, **call)


# ---- per-path steps, compaction, counts ----


class Opaque:
    """A path that is no tree and cannot be cut."""

    def __init__(self, tree):
        self._tree = tree
        self.shape, self.levy_area, self.dtype = tree.shape, tree.levy_area, tree.dtype

    def increment(self, s, t):
        return self._tree.increment(s, t)


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_some_paths_of_a_tree_have_the_bits_of_the_whole(framework):
    if framework != "numpy":
        pytest.importorskip(framework)
    rng = np.random.default_rng(1)
    n = 2000
    tree = BrownianTree(
        4, (n, 2), t0=1.0, t1=3.0, levy_area="space-time", dtype="float32", like=framework
    )
    s = 1 + rng.uniform(size=n)
    t = s + rng.uniform(size=n) * (s < 1.7)
    whole = tree.increment(s, t)
    for rows in ([7], [0, 1, 2], [5, 900, 901, 1999], rng.permutation(n)[:9], np.arange(n)):
        rows = np.sort(rows)
        for source in (tree, Opaque(tree)):
            part = paths_of(source, rows, s).increment(s[rows], t[rows])
            assert part.K is None
            for name in "WH":
                mine, every = getattr(part, name), getattr(whole, name)
                assert type(mine) is type(every)
                assert (np.asarray(mine) == np.asarray(every)[rows]).all()


@pytest.mark.parametrize("revisit", [False, True])
def test_paths_of_a_clock_go_on_as_before(revisit):
    rng = np.random.default_rng(3)
    n, ts = 40, np.array([0.0, 0.3, 1.0])
    controller = S.PIDController(0, 1e-2, kd=0.05, dtmin=2.0**-9, jump_ts=[0.5], revisit=revisit)
    clock = controller.start(ts, n, 1.5)
    for _ in range(6):
        clock.judge(np.exp(rng.normal(size=n)))
    rows = np.array([0, 3, 4, 38])
    part = clock.take(rows)
    while part.active.any():
        for name in ("s", "t", "left", "right", "active", "after_jump", "before_jump"):
            assert (getattr(part, name) == getattr(clock, name)[rows]).all()
        scaled = np.exp(rng.normal(size=n))
        assert (part.judge(scaled[rows]) == clock.judge(scaled)[rows]).all()
        here = np.isin(clock.saves[0], rows)
        assert (rows[part.saves[0]] == clock.saves[0][here]).all()
        assert (part.saves[1] == clock.saves[1][here]).all()
    for name in ("accepted", "rejected", "clamped"):
        assert (getattr(part, name) == getattr(clock, name)[rows]).all()


@pytest.mark.parametrize("opaque", [False, True])
def test_stragglers_far_apart_are_those_of_the_whole_batch(opaque):
    sde = S.SDE(lambda t, y: -y, lambda t, y: 0.1 * y, interpretation="stratonovich")
    y0 = np.full((900, 1), 1e-6)
    y0[[3, 500, 510, 899], 0] = 1e3, 5e2, 8e2, 2e2
    tree = BrownianTree(2, y0.shape, tol=2.0**-13, levy_area="space-time")
    call = dict(solver=S.StepDoubling(S.Heun()), tree=Opaque(tree) if opaque else tree)
    call["controller"] = S.PIDController(0, 1e-2, dtmin=2.0**-11, dt0=0.1)
    small = S.sdeint(sde, y0, [0, 0.4, 1], **call)
    large = S.sdeint(sde, y0, [0, 0.4, 1], compact=False, **call)
    assert (small.ys == large.ys).all()
    assert all((small.stats[k] == large.stats[k]).all() for k in small.stats)


def test_steps_that_are_too_long_at_the_shortest_are_counted():
    dtmin = 2.0**-6
    controller = S.PIDController(0, 1e-30, dtmin=dtmin, dtmax=dtmin)
    y0, call = np.ones((5, 1)), dict(solver=S.SPaRK(), controller=controller, seed=3)
    mine = S.sdeint(gbm(), y0, [0, 1], **call)
    assert (mine.stats["clamped"] == 64).all() and (mine.stats["accepted"] == 64).all()
    native = S.sdeint(native_gbm(), y0, [0, 1], **call)
    assert (native.stats["clamped"] == 64).all()
    loose = S.PIDController(0, 10.0, dtmin=dtmin)
    for sde in (gbm(), native_gbm()):
        out = S.sdeint(sde, y0, [0, 1], solver=S.SPaRK(), controller=loose)
        assert not out.stats["clamped"].any()
        assert (
            not S.sdeint(sde, y0, [0, 1], solver=S.SPaRK(), controller=0.25).stats["clamped"].any()
        )


@pytest.mark.parametrize("controller", [0.05, S.PIDController(0, 1e-3, dtmin=2.0**-7)])
def test_a_step_that_fails_is_not_an_accepted_one(controller):
    sde = S.SDE(exploding, lambda t, y: 0 * y, interpretation="stratonovich")

    def compiled(name):
        prototype = ctypes.CFUNCTYPE(
            None,
            ctypes.c_double,
            ctypes.POINTER(ctypes.c_double),
            ctypes.POINTER(ctypes.c_double),
            ctypes.c_void_p,
        )
        rule = (lambda y: y * y) if name == "drift" else (lambda y: 0.0)

        def f(t, y, out, user):
            out[0] = math.inf if not abs(y[0]) < 1e150 else rule(y[0])

        return prototype(f)

    native = S.SDE(
        compiled("drift"),
        compiled("diffusion"),
        interpretation="stratonovich",
        dim=1,
        noise_dim=1,
    )
    y0 = np.array([[0.1], [2.0]])
    found = []
    for one in (sde, native):
        with pytest.warns(mk.ConvergenceWarning):
            out = S.sdeint(one, y0, [0, 0.25, 1], solver=S.SPaRK(), controller=controller, seed=1)
        assert not out.converged and np.isnan(out.ys[-1, 1, 0])
        found.append(out)
    for name in ("accepted", "rejected", "clamped", "evaluations", "failed_time"):
        assert (found[0].stats[name] == found[1].stats[name]).all(), name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("controller", [0.01, S.PIDController(0, 1e-3, dtmin=2.0**-8)])
def test_progress_before_time_zero(controller, capsys):
    y0 = np.ones((40, 1))
    sdes = [gbm(), native_gbm()]
    for sde in sdes:
        S.sdeint(sde, y0, [-10, -5], solver=S.SPaRK(), controller=controller, progress=True)
        shown = capsys.readouterr().err
        assert "100%" in shown and "200%" not in shown and "101%" not in shown


def test_parts_of_a_long_grid_are_solved_one_after_the_other(monkeypatch):
    sde = native_gbm()
    y0, ts = np.ones((20, 2)), [0, 0.001, 0.31, 0.5, 0.93, 1]
    call = dict(solver=S.SPaRK(), controller=0.01, seed=2)
    whole = S.sdeint(sde, y0, ts, **call)
    for steps in (1, 7, 31, 50):
        monkeypatch.setattr(_route, "_PART_STEPS", steps)
        parts = S.sdeint(sde, y0, ts, **call)
        assert (parts.ys == whole.ys).all()
        assert all((parts.stats[k] == whole.stats[k]).all() for k in whole.stats)
        monkeypatch.setattr(_drive, "_PART_STEPS", steps)
        plain = S.sdeint(gbm(), y0, ts, **call)
        assert np.allclose(plain.ys, whole.ys, rtol=1e-12)


def test_times_far_from_zero_have_a_default_shortest_step():
    t0 = 1e6
    out = S.sdeint(
        gbm(),
        np.ones((3, 1)),
        [t0, t0 + 1e-3],
        solver=S.SPaRK(),
        controller=S.PIDController(0, 1e-2),
    )
    assert out.converged
    with pytest.raises(ValueError, match="dtmin: expected a step that changes"):
        S.PIDController(0, 1e-2, dtmin=1e-9).start([t0, t0 + 1e-3], 1, 1.5)


def test_paths_that_are_done_leave_the_batch():
    sizes = []

    def drift(t, y):
        sizes.append(len(y))
        assert len(t) == len(y)
        return -y

    sde = S.SDE(drift, lambda t, y: 0.1 * y, interpretation="stratonovich")
    y0 = np.full((16, 1), 1e-6)
    y0[3] = 1e3  # one path in sixteen needs short steps
    controller = S.PIDController(0, 1e-2, dtmin=2.0**-14, dt0=0.1)
    small = S.sdeint(sde, y0, [0, 1], solver=S.SPaRK(), controller=controller, seed=1)
    assert sizes[0] == 16 and sizes[-1] == 1 and sum(sizes) < 0.5 * 16 * len(sizes)
    sizes.clear()
    large = S.sdeint(
        sde, y0, [0, 1], solver=S.SPaRK(), controller=controller, seed=1, compact=False
    )
    assert set(sizes) == {16}
    assert (small.ys == large.ys).all()
    assert all((small.stats[k] == large.stats[k]).all() for k in small.stats)
    attempts = small.stats["accepted"] + small.stats["rejected"]
    assert (small.stats["evaluations"] == 3 * attempts).all() and attempts[3] > 20 * attempts[0]


def test_functions_with_a_parameter_per_path_are_told_how():
    rate = np.linspace(1, 200, 8)[:, None]
    sde = S.SDE(lambda t, y: -rate * y, lambda t, y: 0.1 * y, interpretation="stratonovich")
    call = dict(solver=S.SPaRK(), controller=own(), seed=1)
    with pytest.raises(ValueError) as caught:
        S.sdeint(sde, np.ones((8, 1)), [0, 1], **call)
    assert "compact=False" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert S.sdeint(sde, np.ones((8, 1)), [0, 1], compact=False, **call).converged


def test_evaluations_of_constant_steps():
    for solver, per_step, extra in [
        (S.EulerHeun(), 1, 0),
        (S.Heun(), 2, 0),
        (S.SlowRK(), 2, 0),
        (S.SPaRK(), 3, 0),
        (S.ReversibleHeun(), 1, 1),
    ]:
        out = S.sdeint(gbm(), np.ones((3, 1)), [0, 1], solver=solver, controller=0.125, seed=0)
        assert out.stats["evaluations"].tolist() == [8 * per_step + extra] * 3
        assert out.stats["accepted"].tolist() == [8] * 3 and not out.stats["rejected"].any()


# ---- reversibility ----


def test_reversible_heun_goes_back_a_thousand_steps(xp):
    y0 = xp.asarray(np.linspace(-1, 1, 10).reshape(5, 2))
    sde = S.SDE(
        lambda t, y: (1 + t) * y - y**3, lambda t, y: 0.3 * y, interpretation="stratonovich"
    )
    ts = [0.0, 0.25, 0.6, 1.0]
    step = 1e-3 if xp.name == "numpy" else 2e-2
    setting = dict(controller=S.ConstantStep(step, jump_ts=[0.3]), seed=2)
    forth = S.sdeint(sde, y0, ts, solver=S.ReversibleHeun(), **setting)
    back = S.ReversibleHeun().backward(sde, forth.ys[-1], forth.state["z"], ts, **setting)
    assert abs(xp.to_numpy(back.ys) - xp.to_numpy(forth.ys)).max() < 1e-12
    assert abs(xp.to_numpy(back.state["z"]) - xp.to_numpy(y0)).max() < 1e-12
    with pytest.raises(ValueError, match="controller"):
        S.ReversibleHeun().backward(sde, forth.ys[-1], forth.state["z"], ts, controller=own())


# ---- jumps ----


@pytest.mark.parametrize("kind", ["constant", "own"])
@pytest.mark.parametrize(
    "solver", [S.Heun(), S.ReversibleHeun(), S.StepDoubling(S.Heun())], ids=repr
)
def test_coefficients_are_seen_on_their_side_of_a_jump(solver, kind, dtype):
    """A drift that is 1 before the jump and -2 after it, without noise: any rule is exact, if told."""
    jump = 0.3
    seen = []

    def drift(t, y):
        seen.append(np.broadcast_to(np.asarray(t, np.float64), len(y)).copy())
        after = np.asarray(t) > jump
        return np.zeros_like(y) + np.where(after, -2.0, 1.0).astype(dtype).reshape(-1, 1)

    sde = S.SDE(drift, lambda t, y: 0 * y, interpretation="stratonovich")
    controller = (
        S.ConstantStep(0.07, jump_ts=[jump])
        if kind == "constant"
        else S.PIDController(0, 1e-3, jump_ts=[jump])
    )
    out = S.sdeint(sde, np.zeros((3, 2), dtype), [0, 1], solver=solver, controller=controller)
    assert np.allclose(
        out.ys[-1], jump - 2 * (1 - jump), atol=1e-12 if dtype == "float64" else 3e-6
    )
    times = np.concatenate(seen)
    assert not (times == jump).any() and (abs(times - jump) < 1e-6).any()
    if kind == "own":
        assert not out.stats["rejected"].any()


@settings(max_examples=30, deadline=None)
@given(
    step=st.floats(0.02, 0.5),
    ts=st.lists(st.floats(0.0, 2.0), min_size=2, max_size=5, unique=True).map(sorted),
    jumps=st.lists(st.floats(0.0, 2.0), max_size=3),
)
def test_steps_on_a_grid_are_those_of_the_clock(step, ts, jumps):
    if min(np.diff(ts)) < 1e-6:
        return
    controller, times = S.ConstantStep(step, jump_ts=jumps), np.array(ts)
    clock = _drive._clock_steps(controller.start(times, 1))
    told, clock = plan(controller, times, "diagonal"), list(clock)
    assert list(_drive.shared_steps(told, 1.0, "diagonal")) == clock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_drive, "_PART_STEPS", 3)
        assert list(_drive.shared_steps(told, 1.0, "diagonal")) == clock
        back = list(_drive.steps_back(told, 1.0, "diagonal"))
    assert [step for run in reversed(back) for step in run] == clock


# ---- failures ----


def exploding(t, y):
    """y' = y^2: infinite at time 1 / y0."""
    with np.errstate(over="ignore"):
        return y * y


def test_a_path_that_explodes_stops_alone():
    sde = S.SDE(exploding, lambda t, y: 0 * y, interpretation="stratonovich")
    y0 = np.array([[0.1], [2.0], [0.2]])
    ts = np.linspace(0, 1, 11)
    for controller in (2.0**-8, S.PIDController(0, 1e-3, dtmin=2.0**-16)):
        with pytest.warns(mk.ConvergenceWarning, match="path 1 failed: not finite at t = 0.5"):
            out = S.sdeint(sde, y0, ts, solver=S.Heun(), controller=controller)
        assert not out.converged and out.stats["failed_path"].tolist() == [1]
        assert 0.49 < out.stats["failed_time"][0] < 0.6
        nan = np.isnan(out.ys[:, 1, 0])
        assert (nan == (ts > out.stats["failed_time"][0] - 1e-9)).all() and nan.any()
        rest = out.ys[:, [0, 2], 0]
        assert np.allclose(rest, y0[[0, 2], 0] / (1 - y0[[0, 2], 0] * ts[:, None]), rtol=1e-2)
        assert out.stats["accepted"][1] < out.stats["accepted"][0] or out.stats["rejected"][1]


def test_all_paths_failing_ends_early():
    calls = []

    def drift(t, y):
        calls.append(t)
        return np.full_like(y, np.nan) if t > 0.5 else -y

    sde = S.SDE(drift, lambda t, y: 0 * y)
    with pytest.warns(mk.ConvergenceWarning, match="path 0 and 2 more"):
        out = S.sdeint(
            sde, np.ones((3, 1)), [0, 0.5, 1], solver=S.EulerMaruyama(), controller=0.125
        )
    assert len(calls) == 6 and np.isfinite(out.ys[:2]).all() and np.isnan(out.ys[2]).all()
    assert out.stats["evaluations"].tolist() == [6] * 3


def test_the_shortest_step_may_be_refused():
    sde = S.SDE(lambda t, y: -y, lambda t, y: 5 * y, interpretation="stratonovich")
    call = dict(solver=S.SPaRK(), seed=0)
    strict = S.PIDController(0, 1e-6, dtmin=2.0**-6, at_dtmin="raise")
    with pytest.warns(mk.ConvergenceWarning, match="error too large for the shortest step"):
        out = S.sdeint(sde, np.ones((2, 1)), [0, 1], controller=strict, **call)
    assert not out.converged and np.isnan(out.ys[1]).all()
    assert S.sdeint(
        sde, np.ones((2, 1)), [0, 1], controller=S.PIDController(0, 1e-6, dtmin=2.0**-6), **call
    ).converged


def test_an_interrupt_leaves_everything_usable():
    def drift(t, y):
        if np.max(t) > 0.5:
            raise KeyboardInterrupt
        return -y

    y0 = np.ones((2, 1))
    sde = S.SDE(drift, lambda t, y: y, interpretation="stratonovich")
    for controller in (0.1, own()):
        with pytest.raises(KeyboardInterrupt):
            S.sdeint(sde, y0, [0, 1], solver=S.Heun(), controller=controller, progress=True)
    assert S.sdeint(gbm(), y0, [0, 1], solver=S.Heun(), controller=0.1).converged


def test_progress_is_time(capsys):
    for controller in (0.1, own()):
        S.sdeint(
            gbm(), np.ones((2, 1)), [0, 1], solver=S.Heun(), controller=controller, progress=True
        )
        assert "t = 1 of 1" in capsys.readouterr().err


# ---- compiled functions ----

SIGNATURE = (
    ctypes.c_double,
    ctypes.POINTER(ctypes.c_double),
    ctypes.POINTER(ctypes.c_double),
    ctypes.c_void_p,
)


def pointers():
    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def drift(t, y, out, user):
        for i in range(2):
            out[i] = MU * y[i]

    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def diffusion(t, y, out, user):
        for i in range(2):
            out[i] = SIGMA * y[i]

    return drift, diffusion


def test_compiled_functions_of_all_kinds():
    found = [pointers()]
    scipy = pytest.importorskip("scipy")
    found.append(tuple(scipy.LowLevelCallable(f) for f in found[0]))
    try:
        import numba
    except ImportError:
        pass
    else:
        types = numba.types
        kind = types.void(
            types.double, types.CPointer(types.double), types.CPointer(types.double), types.voidptr
        )

        @numba.cfunc(kind)
        def drift(t, y, out, user):
            for i in range(2):
                out[i] = 0.3 * y[i]

        @numba.cfunc(kind)
        def diffusion(t, y, out, user):
            for i in range(2):
                out[i] = 0.5 * y[i]

        found += [
            (drift, diffusion),
            tuple(scipy.LowLevelCallable(f.ctypes) for f in (drift, diffusion)),
        ]
    y0 = np.linspace(0.5, 2, 6).reshape(3, 2)
    for controller in (0.125, own()):
        call = dict(solver=S.SPaRK(), controller=controller, seed=1)
        plain = S.sdeint(gbm(), y0, [0, 1], **call)
        for drift, diffusion in found:
            sde = S.SDE(drift, diffusion, interpretation="stratonovich", dim=2)
            assert sde.is_compiled and all(c.address for c in sde.compiled)
            # Steps chosen by errors differ in their last digits between the two loops, and then by more and more.
            near = 1e-13 if controller == 0.125 else 2e-2
            assert np.allclose(S.sdeint(sde, y0, [0, 1], **call).ys, plain.ys, rtol=near)


def test_compiled_functions_get_their_user_data_and_the_time():
    scipy = pytest.importorskip("scipy")

    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def drift(t, y, out, user):
        out[0] = ctypes.cast(user, ctypes.POINTER(ctypes.c_double))[0] * t

    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def nothing(t, y, out, user):
        out[0] = out[1] = 0.0

    held = ctypes.c_double(4.0)
    data = ctypes.cast(ctypes.pointer(held), ctypes.c_void_p)
    sde = S.SDE(scipy.LowLevelCallable(drift, data), nothing, noise="additive", dim=1, noise_dim=2)
    out = S.sdeint(sde, np.zeros((2, 1)), [0, 1], solver=S.SRA1(), controller=0.5)
    assert np.allclose(out.ys[-1], 2.0)
    assert sde.compiled[0].user == ctypes.addressof(held)


COMPILED_IN_PYTHON = [
    (S.StratonovichMilstein(), 2.0**-3),
    (S.StepDoubling(S.Heun()), 2.0**-3),
    (S.ReversibleHeun(), 2.0**-3),
    (S.SPaRK(), S.ConstantStep(2.0**-3, jump_ts=[0.3])),
    (S.SPaRK(), own(jump_ts=[0.3])),
    (S.StepDoubling(S.StratonovichMilstein()), own(atol=1e-1, dt0=0.25)),
    (S.SPaRK(), 2.0**-3),  # native
]


@pytest.mark.parametrize("solver, controller", COMPILED_IN_PYTHON, ids=repr)
def test_compiled_functions_take_arrays_of_all_frameworks(xp, solver, controller):
    """Where the steps are taken in Python and in native code alike."""
    y0 = np.linspace(0.5, 2, 6).reshape(3, 2)
    drift, diffusion = pointers()
    sde = S.SDE(drift, diffusion, interpretation="stratonovich", dim=2)
    call = dict(solver=solver, controller=controller, seed=1)
    found = S.sdeint(sde, xp.asarray(y0), [0, 1], **call).ys
    assert xp.is_array(found) and xp.dtype(found) == "float64"
    plain = S.sdeint(gbm(slope=False), y0, [0, 1], **call).ys
    near = 2e-2 if getattr(controller, "adaptive", False) else 1e-10
    assert np.allclose(xp.to_numpy(found), plain, rtol=near)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "commutative"])
def test_milstein_of_compiled_functions(xp, noise):
    """In all layouts the central difference is that of NumPy functions."""

    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def drift(t, y, out, user):
        for i in range(2):
            out[i] = -y[i]

    @ctypes.CFUNCTYPE(None, *SIGNATURE)
    def diffusion(t, y, out, user):
        g = [1 + 0.5 * math.sin(y[0]), 1 + 0.5 * math.sin(y[1])]
        for i, value in enumerate(g if noise != "commutative" else [g[0], 0.0, 0.0, g[1]]):
            out[i] = value

    def same(t, y):
        g = 1 + 0.5 * np.sin(y)
        return g[:, :, None] * np.eye(2) if noise == "commutative" else g

    y0 = np.linspace(-1, 1, 6).reshape(3, 2)
    call = dict(solver=S.ItoMilstein(), controller=0.25, seed=2)
    mine = S.SDE(drift, diffusion, noise=noise, dim=2)
    found = S.sdeint(mine, xp.asarray(y0), [0, 1], **call).ys
    plain = S.sdeint(S.SDE(lambda t, y: -y, same, noise=noise), y0, [0, 1], **call).ys
    assert np.allclose(xp.to_numpy(found), plain, rtol=0, atol=1e-9)


def test_compiled_functions_are_checked():
    drift, diffusion = pointers()
    with pytest.raises(ValueError, match="dim"):
        S.SDE(drift, diffusion)
    with pytest.raises(TypeError, match="diffusion: expected compiled"):
        S.SDE(drift, lambda t, y: y, dim=2)
    with pytest.raises(TypeError, match="drift: expected compiled"):
        S.SDE(lambda t, y: y, diffusion, dim=2)
    wrong = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(lambda t: t)
    with pytest.raises(TypeError, match=r"drift: expected void \(double t, const double\* y"):
        S.SDE(wrong, diffusion, dim=2)
    with pytest.raises(ValueError, match="noise_dim: expected 2"):
        S.SDE(drift, diffusion, dim=2, noise_dim=3)
    sde = S.SDE(drift, diffusion, dim=2, interpretation="stratonovich")
    with pytest.raises(ValueError, match=r"y0: expected shape \(n, 2\)"):
        S.sdeint(sde, np.ones((2, 3)), [0, 1], solver=S.Heun(), controller=0.5)
    with pytest.raises(TypeError, match="float64"):
        S.sdeint(sde, np.ones((2, 2), np.float32), [0, 1], solver=S.Heun(), controller=0.5)


# ---- modules ----


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("noise", ["diagonal", "additive", "general"])
def test_drifts_of_modules_may_require_grad(noise, adaptive):
    """And may differentiate inside, as a drift that is a gradient does."""
    torch = pytest.importorskip("torch")
    rate = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    matrix = torch.nn.Parameter(0.3 * torch.eye(2, dtype=torch.float64))

    def drift(t, y):
        assert not y.requires_grad
        return -rate * y

    def diffusion(t, y, rate=rate, matrix=matrix):
        if noise == "general":
            return matrix.expand(len(y), 2, 2)
        return 0.3 * torch.exp(0 * rate) + (0 if noise == "additive" else rate) * y

    def gradient(t, y):
        x = y.clone().requires_grad_(True)
        return -torch.autograd.grad((0.25 * x * x).sum(), x)[0]

    def fixed(t, y):
        return diffusion(t, y, rate.detach(), matrix.detach())

    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    solvers = [S.SPaRK()]
    if noise != "general" and not adaptive:
        solvers += [S.StratonovichMilstein(), S.ReversibleHeun()]
    controller = own(atol=1e-2) if adaptive else 2.0**-3
    for solver in solvers:
        ends = []
        for f, g in ((drift, diffusion), (gradient, fixed)):
            sde = S.SDE(f, g, noise=noise, interpretation="stratonovich")
            out = S.sdeint(sde, y0, [0, 1], solver=solver, controller=controller, seed=1)
            assert not out.ys.requires_grad
            ends.append(out.ys[-1].numpy())
        np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-12)
    slope = S.SDE(drift, lambda t, y: rate * y, diffusion_slope=lambda t, y: rate * rate * y)
    assert S.sdeint(slope, y0, [0, 1], solver=S.ItoMilstein(), controller=0.25).converged


# ---- equations ----


def test_the_two_senses_of_one_process():
    ito = gbm("ito")
    strat = ito.to_stratonovich()
    y = np.ones((2, 1))
    assert strat.interpretation == "stratonovich" and np.allclose(strat.drift(0.0, y), MU * y)
    assert strat.to_stratonovich() is strat
    assert np.allclose(strat.to_ito().drift(0.0, y), ito.drift(0.0, y))
    assert ou().to_stratonovich().drift is ou().to_stratonovich().drift or True
    with pytest.raises(ValueError, match="diffusion_slope"):
        gbm("ito", slope=False).to_stratonovich()
    assert ou().to_stratonovich().interpretation == "stratonovich"


def test_equations_and_solvers_can_be_pickled():
    sde = pickle.loads(
        pickle.dumps(S.SDE(exploding, exploding, diffusion_slope=exploding).to_stratonovich())
    )
    assert sde.interpretation == "stratonovich" and sde.drift(0.0, np.ones((1, 1))) == 0.5
    assert pickle.loads(pickle.dumps(S.StepDoubling(S.Heun()))).has_error


def test_equations_are_checked():
    f = gbm().drift
    for wrong, name in [
        (dict(noise="white"), "noise"),
        (dict(interpretation="Ito"), "interpretation"),
    ]:
        with pytest.raises(ValueError, match=name):
            S.SDE(f, f, **wrong)
    with pytest.raises(TypeError, match="drift: expected a function"):
        S.SDE(1.0, f)
    with pytest.raises(TypeError, match="diffusion_slope"):
        S.SDE(f, f, diffusion_slope=2.0)


# ---- refusals ----


@pytest.mark.parametrize("kind", STRATONOVICH + ITO + ADDITIVE, ids=lambda k: k.__name__)
def test_solvers_refuse_what_they_cannot_treat(kind):
    solver = kind()
    y0 = np.ones((2, 2))
    shapes = {"general": (2, 2, 3), "commutative": (2, 2, 3)}
    for noise in ("additive", "diagonal", "scalar", "commutative", "general"):
        for sense in ("ito", "stratonovich"):
            g = np.zeros(shapes.get(noise, (2, 2)))
            sde = S.SDE(
                lambda t, y: -y,
                lambda t, y, g=g: g,
                noise=noise,
                interpretation=sense,
                diffusion_slope=lambda t, y: 0 * y,
            )
            call = dict(solver=solver, controller=0.5)
            if noise not in solver.noise_types:
                with pytest.raises(
                    ValueError, match=f"solver: {kind.__name__} does not treat {noise} noise"
                ):
                    S.sdeint(sde, y0, [0, 1], **call)
            elif noise != "additive" and solver.sense != sense:
                fits = "EulerMaruyama" if sense == "ito" else "SPaRK"
                with pytest.raises(ValueError, match=f"{kind.__name__} reads noise.*{fits}"):
                    S.sdeint(sde, y0, [0, 1], **call)
            else:
                assert S.sdeint(sde, y0, [0, 1], **call).converged


@pytest.mark.parametrize(
    "change, kind, match",
    [
        (dict(y0=np.ones(3)), ValueError, "y0"),
        (dict(y0=np.full((2, 1), np.nan)), ValueError, "y0"),
        (dict(y0=np.ones((0, 1))), ValueError, "y0"),
        (dict(y0=np.ones((2, 1), complex)), TypeError, "y0"),
        (dict(ts=[0.0]), ValueError, "ts"),
        (dict(ts=[0.0, 0.0]), ValueError, "ts"),
        (dict(ts=[[0.0, 1.0]]), ValueError, "ts"),
        (dict(ts=[0.0, np.nan]), ValueError, "ts"),
        (dict(solver=S.Heun), TypeError, "solver: expected a solver such as"),
        (dict(solver="heun"), TypeError, "solver"),
        (dict(controller=0.0), ValueError, "step"),
        (dict(controller="fast"), TypeError, "controller"),
        (dict(controller=S.PIDController), TypeError, "controller"),
        (
            dict(solver=S.EulerHeun(), controller=own()),
            ValueError,
            r"StepDoubling\(EulerHeun\(\)\)",
        ),
        (dict(seed=-1), ValueError, "seed"),
        (dict(seed=None), TypeError, "seed"),
        (dict(sde=exploding), TypeError, "sde"),
        (dict(tree=3), TypeError, "tree"),
        (dict(tree=BrownianTree(0, (2, 2))), ValueError, r"tree: expected shape \(2, 1\)"),
        (dict(tree=BrownianTree(0, (2, 1), t1=0.5)), ValueError, "tree: expected one that covers"),
        (dict(tree=BrownianTree(0, (2, 1), tol=0.5)), ValueError, "tree: expected tol"),
        (
            dict(tree=BrownianTree(0, (2, 1)), solver=S.SPaRK()),
            ValueError,
            "levy_area='space-time'",
        ),
        (
            dict(tree=BrownianTree(0, (2, 1), dtype="float32")),
            TypeError,
            "tree: expected dtype float64",
        ),
        (dict(controller=1e-18), ValueError, "step"),
    ],
)
def test_wrong_arguments_are_named(change, kind, match):
    call = dict(sde=gbm(), y0=np.ones((2, 1)), ts=[0.0, 1.0], solver=S.Heun(), controller=0.1)
    call.update(change)
    sde, y0, ts = call.pop("sde"), call.pop("y0"), call.pop("ts")
    with pytest.raises(kind, match=match) as caught:
        S.sdeint(sde, y0, ts, **call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "noise, drift, diffusion, kind, match",
    [
        ("diagonal", lambda t, y: y[:1], lambda t, y: y, ValueError, "drift: expected shape"),
        (
            "diagonal",
            lambda t, y: y,
            lambda t, y: y[:, :, None],
            ValueError,
            "diffusion: expected shape",
        ),
        (
            "general",
            lambda t, y: y,
            lambda t, y: y,
            ValueError,
            r"diffusion: expected shape \(n, d, m\) for general",
        ),
        (
            "scalar",
            lambda t, y: y,
            lambda t, y: np.ones((3, 2, 2)),
            ValueError,
            r"\(n, d\) or \(n, d, 1\)",
        ),
        (
            "additive",
            lambda t, y: y,
            lambda t, y: np.ones(2),
            ValueError,
            "diffusion: expected shape",
        ),
        (
            "diagonal",
            lambda t, y: y.astype(np.float32),
            lambda t, y: y,
            TypeError,
            "drift: expected float64",
        ),
        ("diagonal", lambda t, y: None, lambda t, y: y, TypeError, "drift"),
    ],
)
def test_wrong_results_of_functions_are_named(noise, drift, diffusion, kind, match):
    sde = S.SDE(drift, diffusion, noise=noise, interpretation="stratonovich")
    for controller in (0.25, own()):
        with pytest.raises(kind, match=match):
            S.sdeint(sde, np.ones((3, 2)), [0, 1], solver=S.Heun(), controller=controller)


def test_step_doubling_is_checked():
    for wrong in (S.Heun, "heun", S.StepDoubling(S.Heun())):
        with pytest.raises(TypeError, match="solver"):
            S.StepDoubling(wrong)


def test_a_solver_needs_no_more_than_a_step():
    class Plain:
        def step(self, sde, y, h, W):
            return y + h * sde.drift(0.0, y) + sde.diffusion(0.0, y) * W

    sde = S.SDE(lambda t, y: -y, lambda t, y: 0 * y + 0.5, noise="additive")
    call = dict(controller=0.125, seed=3)
    ours = S.sdeint(sde, np.ones((3, 2)), [0, 1], solver=Plain(), **call)
    theirs = S.sdeint(sde, np.ones((3, 2)), [0, 1], solver=S.EulerMaruyama(), **call)
    assert np.allclose(ours.ys, theirs.ys, rtol=1e-14)
