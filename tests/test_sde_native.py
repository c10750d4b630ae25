"""Native whole-path integration against the loops in Python, which know nothing of it."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest

import mckean as mk
from mckean import sde
from mckean.samplers import _schemes
from mckean.sde import _integrate, _native
from mckean.sde._controllers import plan


# A path is not a smooth function of time, so steps that differ in their last digit soon lead elsewhere. With factors of 2
# and 1/4 alone (all others are clipped) every time is a dyadic number, the same in both languages.
def dyadic(rtol: float, atol: float, *, dtmin: float = 2**-9, dt0: float = 2**-4):
    return sde.PIDController(
        rtol, atol, kp=0.0, ki=1e6, safety=0.5, factormin=0.25, factormax=2.0, dtmin=dtmin, dt0=dt0
    )


def target(kind: str, d: int) -> mk.targets.Gaussian:
    rng = np.random.default_rng(3)
    if kind == "full":
        a = rng.normal(size=(d, d))
        return mk.targets.Gaussian(rng.normal(size=d), cov=a @ a.T + np.eye(d))
    if kind == "diagonal":
        return mk.targets.Gaussian(rng.normal(size=d), scale=rng.uniform(0.5, 2, d))
    if kind == "funnel":
        return mk.targets.Funnel(d)
    if kind == "banana":
        return mk.targets.Banana(d)
    X = rng.normal(size=(23, d))
    return mk.targets.LogisticRegression(X, (rng.uniform(size=23) < 0.5).astype(float))


def in_python(monkeypatch, *args, **options):
    with monkeypatch.context() as m:
        m.setattr(_integrate, "route", lambda *a: None)
        return sde.sdeint(*args, **options)


def natively(monkeypatch, *args, **options):
    used = []
    found = _integrate.route

    def watched(*a):
        used.append(found(*a))
        return used[-1]

    with monkeypatch.context() as m:
        m.setattr(_integrate, "route", watched)
        result = sde.sdeint(*args, **options)
    assert used[0] is not None, "the native route was not taken"
    return result


def check(monkeypatch, equation, y0, ts, *, solver, controller, tol=1e-9, seed=4, **options):
    args = (equation, y0, ts)
    options |= {"solver": solver, "controller": controller, "seed": seed}
    ours, theirs = natively(monkeypatch, *args, **options), in_python(monkeypatch, *args, **options)
    np.testing.assert_allclose(ours.ys, theirs.ys, rtol=tol, atol=tol)
    np.testing.assert_array_equal(ours.stats["accepted"], theirs.stats["accepted"])
    np.testing.assert_array_equal(ours.stats["rejected"], theirs.stats["rejected"])
    return ours, theirs


def equations(sense: str):
    ito = {"interpretation": sense}
    yield sde.OrnsteinUhlenbeck(1.3, 0.4, np.array([0.5, 1.0, 0.2]), **ito), 3
    yield sde.GeometricBrownian(0.3, np.array([0.5, 0.1]), **ito), 2
    yield sde.CoxIngersollRoss(1.0, 1.5, 0.5, **ito), 3
    yield sde.Lorenz(noise=np.array([0.5, 1.0, 2.0]), **ito), 3
    yield sde.Langevin(target("full", 3), 0.7, **ito), 3


SOLVERS = {
    "ito": [sde.EulerMaruyama(), sde.ItoMilstein()],
    "stratonovich": [
        sde.EulerHeun(),
        sde.Heun(),
        sde.StratonovichMilstein(),
        sde.GeneralShARK(),
        sde.SlowRK(),
        sde.SPaRK(),
    ],
}
ADDITIVE = [sde.SEA(), sde.SRA1(), sde.ShARK()]


@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
def test_constant_steps_match_python(monkeypatch, sense):
    rng = np.random.default_rng(1)
    for equation, d in equations(sense):
        y0 = rng.uniform(0.5, 2, (11, d))
        extra = ADDITIVE if equation.noise == "additive" else []
        for solver in SOLVERS[sense] + extra:
            check(
                monkeypatch, equation, y0, [0.2, 0.3, 0.65, 1.2], solver=solver, controller=1 / 16
            )


@pytest.mark.parametrize("sense", ["ito", "stratonovich"])
def test_adaptive_steps_match_python(monkeypatch, sense):
    rng = np.random.default_rng(2)
    controller, rejected = dyadic(1e-2, 1e-3), 0
    for equation, d in equations(sense):
        y0 = rng.uniform(0.5, 2, (9, d))
        extra = ADDITIVE if equation.noise == "additive" else []
        for solver in SOLVERS[sense] + extra:
            if not solver.has_error:
                solver = sde.StepDoubling(solver)
            ours, _ = check(
                monkeypatch, equation, y0, [0.0, 0.25, 1.0], solver=solver, controller=controller
            )
            rejected += int(ours.stats["rejected"].sum())
    assert rejected > 100
    equation = sde.GeometricBrownian(0.3, 0.5, interpretation="stratonovich")
    check(
        monkeypatch,
        equation,
        np.ones((9, 2)),
        [0.0, 1.0],
        solver=sde.ReversibleHeun(),
        controller=controller,
    )


def test_pid_control_agrees_in_law(monkeypatch):
    equation = sde.GeometricBrownian(0.3, 0.8, interpretation="stratonovich")
    options = {
        "solver": sde.SPaRK(),
        "controller": sde.PIDController(1e-3, 1e-3, dtmin=2**-12, kd=0.05),
        "seed": 1,
    }
    y0 = np.ones((400, 1))
    ours = natively(monkeypatch, equation, y0, [0.0, 0.3, 1.0], **options)
    theirs = in_python(monkeypatch, equation, y0, [0.0, 0.3, 1.0], **options)
    assert np.median(np.abs(ours.ys - theirs.ys) / theirs.ys) < 2e-3
    for name in ("accepted", "rejected", "evaluations"):
        a, b = ours.stats[name].sum(), theirs.stats[name].sum()
        assert abs(a - b) < 0.06 * b, (name, a, b)


@pytest.mark.parametrize("kind", ["full", "diagonal", "funnel", "banana", "logistic"])
def test_langevin_targets_match_python(monkeypatch, kind):
    y0 = 0.3 * mk.random.normal(1, (13, 5))
    equation = sde.Langevin(target(kind, 5))
    check(monkeypatch, equation, y0, [0.0, 0.5], solver=sde.ShARK(), controller=0.03)
    kinetic = sde.UnderdampedLangevin(target(kind, 5), friction=1.4, u=0.8)
    y0 = 0.3 * mk.random.normal(1, (13, 10))
    for solver in (
        sde.QUICSORT(),
        sde.ShOULD(),
        sde.UBU(),
        sde.ALIGN(),
        sde.BAOAB(),
        sde.ExponentialEuler(),
    ):
        check(monkeypatch, kinetic, y0, [0.0, 0.5, 2.0], solver=solver, controller=0.125)
        adaptive = solver if solver.has_error else sde.StepDoubling(solver)
        check(
            monkeypatch,
            kinetic,
            y0,
            [0.0, 0.5, 2.0],
            solver=adaptive,
            controller=dyadic(0.0, 0.05, dtmin=2**-8, dt0=0.5),
        )


def test_cir_solvers_match_python(monkeypatch):
    cir = sde.CoxIngersollRoss(1.0, 1.0, np.array([1.5, 2.2]))
    y0 = np.ones((200, 2))
    for solver in (sde.HOStS(), sde.DIE()):
        for equation in (cir, cir.to_stratonovich()):
            check(monkeypatch, equation, y0, [0.0, 1.0], solver=solver, controller=1 / 64)
            options = {
                "solver": solver,
                "controller": sde.StateStep(0.1, dtmin=2**-12, dtmax=0.25),
                "seed": 3,
            }
            ours = natively(monkeypatch, equation, y0, [0.0, 0.4, 1.0], **options)
            theirs = in_python(monkeypatch, equation, y0, [0.0, 0.4, 1.0], **options)
            # Not the same steps to the last digit, but steps of the same rule along the same path.
            assert np.median(np.abs(ours.ys - theirs.ys)) < 1e-2
            counts = [x.stats["accepted"].sum() for x in (ours, theirs)]
            assert abs(counts[0] - counts[1]) < 0.06 * counts[1] and min(counts) > 200 * 20
            counts = [x.stats["rejected"].sum() for x in (ours, theirs)]
            assert abs(counts[0] - counts[1]) < 0.2 * counts[1] + 5


def test_many_paths_refill_lanes_and_threads_do_not_matter(monkeypatch):
    equation = sde.GeometricBrownian(0.3, 1.0, interpretation="stratonovich")
    y0 = np.exp(mk.random.normal(3, (301, 1)))
    options = {
        "solver": sde.Heun(),
        "controller": dyadic(1e-3, 1e-3, dtmin=2**-12),
        "seed": 5,
    }
    whole, _ = check(monkeypatch, equation, y0, [0.0, 0.5, 1.0], **options)
    assert np.ptp(whole.stats["accepted"]) > 10
    before = mk.get_num_threads()
    try:
        for threads in (1, 3):
            mk.set_num_threads(threads)
            again = natively(monkeypatch, equation, y0, [0.0, 0.5, 1.0], **options)
            assert (again.ys == whole.ys).all()
    finally:
        mk.set_num_threads(before)
    # Some of the paths alone, by the same part of the tree.
    tree = mk.BrownianTree(5, (301, 1), tol=2**-13)
    part = natively(
        monkeypatch,
        equation,
        y0[40:77],
        [0.0, 0.5, 1.0],
        tree=tree[40:77],
        **{**options, "seed": 0},
    )
    assert (part.ys == whole.ys[:, 40:77]).all()
    bar = natively(monkeypatch, equation, y0, [0.0, 0.5, 1.0], progress=True, **options)
    assert (bar.ys == whole.ys).all()


def test_instruction_sets_give_the_same_bits(monkeypatch):
    from mckean import _core

    found = {}
    before = _core.simd_level()
    try:
        for level in _core.simd_levels():
            _core.set_simd_level(level)
            for dtype, adaptive in itertools.product(("float32", "float64"), (False, True)):
                controller = sde.PIDController(1e-2, 1e-2, dtmin=2**-10) if adaptive else 1 / 32
                y0 = np.linspace(0.5, 2, 21, dtype=dtype)[:, None]
                values = [
                    natively(
                        monkeypatch,
                        sde.CoxIngersollRoss(1.0, 1.5, 0.5, interpretation="stratonovich"),
                        y0,
                        [0.0, 1.0],
                        solver=sde.SPaRK(),
                        controller=controller,
                    ).ys.tobytes(),
                    natively(
                        monkeypatch,
                        sde.UnderdampedLangevin(target("logistic", 2)),
                        np.repeat(y0, 4, axis=1),
                        [0.0, 1.0],
                        solver=sde.StepDoubling(sde.QUICSORT()) if adaptive else sde.QUICSORT(),
                        controller=controller,
                    ).ys.tobytes(),
                ]
                assert found.setdefault((dtype, adaptive), values) == values
    finally:
        _core.set_simd_level(before)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_path_that_explodes_stops_alone(adaptive):
    equation = sde.GeometricBrownian(5.0, 0.1, interpretation="stratonovich")
    y0 = np.array([[0.1, 0.1], [1.0, 1.7e308], [0.3, -0.2]])
    controller = sde.PIDController(1e-3, 1e-3, dtmin=0.05) if adaptive else 0.1
    with pytest.warns(mk.ConvergenceWarning, match="path 1 failed: not finite"):
        found = sde.sdeint(
            equation, y0, [0.0, 0.5, 1.0], solver=sde.Heun(), controller=controller, seed=1
        )
    assert not found.converged and found.stats["failed_path"].tolist() == [1]
    assert np.isfinite(found.ys[:, [0, 2]]).all() and np.isnan(found.ys[1:, 1]).all()
    assert np.isfinite(found.ys[0]).all()


def test_errors_of_nothing_are_zero(monkeypatch):
    # 0 / 0 where the tolerance is relative alone
    equation = sde.GeometricBrownian(0.3, 0.5, interpretation="stratonovich")
    y0 = np.array([[0.0], [1.0]])
    controller = dyadic(1e-2, 0.0, dtmin=2**-10)
    ours, _ = check(monkeypatch, equation, y0, [0.0, 1.0], solver=sde.Heun(), controller=controller)
    assert ours.converged and (ours.ys[:, 0] == 0).all() and ours.stats["accepted"][0] < 20


def test_too_large_an_error_at_dtmin(monkeypatch):
    equation = sde.GeometricBrownian(0.3, 3.0, interpretation="stratonovich")
    options = {"solver": sde.Heun(), "seed": 1}
    for at_dtmin in ("raise", "accept"):
        options["controller"] = sde.PIDController(1e-12, 1e-12, dtmin=2**-5, at_dtmin=at_dtmin)
        if at_dtmin == "raise":
            for solve in (natively, in_python):
                with pytest.warns(mk.ConvergenceWarning, match="error too large"):
                    found = solve(monkeypatch, equation, np.ones((3, 1)), [0.0, 1.0], **options)
                assert not found.converged and np.isnan(found.ys[-1]).all()
        else:
            found = natively(monkeypatch, equation, np.ones((3, 1)), [0.0, 1.0], **options)
            assert found.converged and (found.stats["clamped"] == found.stats["accepted"]).all()


def test_rejected_ends_are_kept_within_their_room():
    # Factors this wild could leave more of them than there is room for: that is left to Python.
    equation = sde.SDE(
        drift, matrix, noise="general", interpretation="stratonovich", dim=2, noise_dim=3
    )
    wild = sde.PIDController(0.0, 1e-3, factormin=1e-3, factormax=900.0)
    tame = sde.PIDController(0.0, 1e-3)
    y = mk._array.as_input(np.ones((2, 2)), "y")
    ts = np.array([0.0, 1.0])
    for controller, taken in ((wild, False), (tame, True)):
        tree = mk.BrownianTree(1, (2, 3), tol=2.0**-24)
        found = _integrate.route(equation, y, plan(controller, ts, "diagonal"), sde.Heun(), tree)
        assert (found is not None) == taken


def test_kinetic_tables_of_both_languages_agree():
    from mckean import _core

    for name, number in list(_native.METHODS.items())[7:]:
        for h, c, u in ((0.3, 1.0, 1.0), (1e-4, 0.5, 2.0), (2.0, 3.0, 0.7), (0.1, 0.0, 1.0)):
            ours = np.array(_core.kinetic_rows(number, h, c, u)).reshape(-1, 8)
            stages, last = _schemes.SCHEMES[name].rows(h, c, u)
            names = ("x", "v", "g0", "W", "H", "K", "g1", "g2")
            theirs = np.array([[float(row.get(k, 0.0)) for k in names] for row in stages + last])
            np.testing.assert_allclose(ours, theirs, rtol=2e-13, atol=1e-15, err_msg=name)


# ---- compiled functions -----------------------------------------------------------------------------------------------

FUNCTION = ctypes.CFUNCTYPE(
    None,
    ctypes.c_double,
    ctypes.POINTER(ctypes.c_double),
    ctypes.POINTER(ctypes.c_double),
    ctypes.c_void_p,
)


@FUNCTION
def drift(t, y, out, user):
    out[0], out[1] = -y[0] + t, -0.5 * y[1]


@FUNCTION
def diagonal(t, y, out, user):
    out[0], out[1] = 0.3 * y[0], 0.2 * np.sin(y[1]) + 0.1 * t


@FUNCTION
def matrix(t, y, out, user):
    values = (1.0, 0.3 * np.sin(y[1]), 0.0, 0.2, y[0], 0.1 * t)
    for k, value in enumerate(values):
        out[k] = value


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_compiled_functions_match_python(monkeypatch, noise, adaptive):
    diffusion = matrix if noise == "general" else diagonal
    equation = sde.SDE(
        drift,
        diffusion,
        noise=noise,
        interpretation="stratonovich",
        dim=2,
        noise_dim={"diagonal": 2, "scalar": 1, "general": 3}[noise],
    )
    y0 = 1 + 0.1 * mk.random.normal(1, (7, 2))
    controller = dyadic(1e-2, 1e-2, dtmin=2**-8) if adaptive else 1 / 16
    before = mk.get_num_threads()
    mk.set_num_threads(1)
    try:
        ours, _ = check(
            monkeypatch, equation, y0, [0.0, 0.5, 1.0], solver=sde.SPaRK(), controller=controller
        )
    finally:
        mk.set_num_threads(before)
    assert not adaptive or ours.stats["rejected"].sum() > 0


# ---- chains of underdamped Langevin -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["quicsort", "ubu", "align", "should", "baoab"])
@pytest.mark.parametrize("kind", ["funnel", "full", "logistic"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_chains_of_built_in_targets_follow_those_of_their_gradients(
    monkeypatch, scheme, kind, adaptive
):
    from mckean.samplers._substeps import SubSteps

    known = target(kind, 4)
    controller = dyadic(0.0, 0.05, dtmin=2**-9, dt0=0.25) if adaptive else sde.ConstantStep(0.125)
    x0 = 0.3 * mk.random.normal(2, (9, 4))
    taken = []
    inner = SubSteps._natively

    def watched(self, *args):
        taken.append(inner(self, *args))
        return taken[-1]

    monkeypatch.setattr(SubSteps, "_natively", watched)
    results = []
    for density in (known, known.grad_log_density):
        chain = mk.samplers.UnderdampedLangevin(
            density, 0.5, scheme=scheme, friction=1.2, controller=controller
        )
        results.append(mk.run(chain, x0, 6, seed=3, progress=False))
        assert (taken[-1] is not None) == (density is known)
    ours, theirs = results
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-8, atol=1e-8)
    for name in ("accepted", "rejected"):
        np.testing.assert_array_equal(ours.stats[name], theirs.stats[name])
    # Native code begins with a gradient of its own, and the last one is asked for again.
    more = ours.stats["gradients"][-1] - theirs.stats["gradients"][-1]
    assert (more == (12 if scheme in ("align", "should", "baoab") else 0)).all()
