"""The CUDA executor's stochastic differential equations: the CPU's bits, for whole paths and for the pieces of a step.

Runs with a device. tools/cuda_on_host.sh tests/test_cuda_sde.py runs it without one, on kernels compiled for the CPU and
with so few blocks and so little memory that a few hundred paths take every way.
"""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest

import mckean as mk
from mckean import _core, sde
from mckean._array import as_input
from mckean.sde import _integrate, _native
from mckean.sde._route import route

try:
    from mckean import _cuda

    REASON = _cuda.device_status()
except ImportError as error:
    _cuda, REASON = None, f"mckean._cuda is missing: {error}"

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(REASON), reason=REASON)]

DTYPES = ["float32", "float64"]
AREAS = ["none", "space-time", "space-time-time"]
TARGETS = ["diagonal", "full", "funnel", "banana", "logistic"]
CONSTANT, PID, STATE = range(3)


def up(a):
    return None if a is None else _cuda.to_device(np.ascontiguousarray(a))


def down(a, shape, dtype):
    host = np.empty(shape, dtype)
    _cuda.to_host(a, host)
    return host


def same_bits(got, want):
    assert got.dtype == want.dtype and got.shape == want.shape
    unsigned = {4: np.uint32, 8: np.uint64}[want.dtype.itemsize]
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(unsigned), np.ascontiguousarray(want).view(unsigned)
    )


def normal(key, shape, dtype="float64"):
    return mk.random.normal(key, shape).astype(dtype)


# ---- pieces of a step -----------------------------------------------------------------------------------------------

SHAPES = [(1, 1), (7, 3), (1500, 2), (300, 40), (1, 1000), (0, 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [_native.DIAGONAL, _native.SCALAR, _native.MATRIX])
def test_update(dtype, shape, layout):
    rows, dim = shape
    noises = {_native.DIAGONAL: dim, _native.SCALAR: 1, _native.MATRIX: 4}[layout]
    G_shape = (rows, dim, noises) if layout == _native.MATRIX else shape
    base = normal(1, shape, dtype)
    F = [normal(k, shape, dtype) for k in (2, 3)]
    G = [normal(k, G_shape, dtype) for k in (4, 5)]
    W, H = (normal(k, (rows, noises), dtype) for k in (6, 7))
    steps = np.abs(normal(8, (rows,)))
    for with_base, per_row, n_drifts, n_diffusions, areas in [
        (True, False, 2, 2, True),
        (True, True, 2, 1, True),
        (False, True, 1, 2, False),
        (False, False, 0, 1, False),
        (True, False, 1, 0, False),
        (False, False, 0, 0, False),
    ]:
        found = []
        for here, executor in ((lambda a: a, _core), (up, _cuda)):
            out = here(np.full(shape, np.nan, dtype))
            executor.sde_update(
                layout,
                here(base) if with_base else None,
                [here(f) for f in F[:n_drifts]],
                [0.3, -1.7][:n_drifts],
                here(steps) if per_row else None,
                0.21,
                [here(g) for g in G[:n_diffusions]],
                [0.5, 1.1][:n_diffusions],
                [0.25, 0.0][:n_diffusions] if areas else [0.0] * n_diffusions,
                here(W) if n_diffusions else None,
                here(H) if areas else None,
                out,
            )
            found.append(out if executor is _core else down(out, shape, dtype))
        same_bits(found[1], found[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_update_in_place(dtype):
    shape = (333, 5)
    base, F, W = (normal(k, shape, dtype) for k in (1, 2, 3))
    host, there = base.copy(), up(base)
    _core.sde_update(0, host, [F], [2.0], None, 0.1, [F], [1.0], [0.0], W, None, host)
    f, w = up(F), up(W)
    _cuda.sde_update(0, there, [f], [2.0], None, 0.1, [f], [1.0], [0.0], w, None, there)
    same_bits(down(there, shape, dtype), host)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_norm_and_select(dtype, shape):
    error, y0, y1 = (normal(k, shape, dtype) for k in (1, 2, 3))
    rows = shape[0]
    norms = np.full(rows, np.nan)
    _core.sde_error_norm(error, y0, y1, 1e-2, 1e-3, norms)
    out = up(np.full(rows, np.nan))
    _cuda.sde_error_norm(up(error), up(y0), up(y1), 1e-2, 1e-3, out)
    same_bits(down(out, rows, "float64"), norms)
    mask = (np.arange(rows) % 3 != 1).astype(np.uint8)
    chosen = up(np.full(shape, np.nan, dtype))
    _cuda.sde_select(up(mask), up(y0), up(y1), chosen)
    same_bits(down(chosen, shape, dtype), np.where(mask[:, None] == 1, y0, y1))


# ---- whole paths ----------------------------------------------------------------------------------------------------


def target(kind, d):
    rng = np.random.default_rng(3)
    if kind == "full":
        a = rng.normal(size=(d, d))
        return mk.targets.Gaussian(rng.normal(size=d), cov=a @ a.T + np.eye(d))
    if kind == "diagonal":
        return mk.targets.Gaussian(rng.normal(size=d), scale=rng.uniform(0.5, 2, d))
    if kind in ("funnel", "banana"):
        return mk.targets.Funnel(d) if kind == "funnel" else mk.targets.Banana(d)
    X = rng.normal(size=(23, d))
    return mk.targets.LogisticRegression(X, (rng.uniform(size=23) < 0.5).astype(float))


def equation(name, d, sense="ito"):
    """A built-in equation of d coordinates (Lorenz has 3)."""
    spread = np.linspace(0.3, 1.0, d)
    ito = {"interpretation": sense}
    if name == "ou":
        return sde.OrnsteinUhlenbeck(1.3, 0.4, spread, **ito)
    if name == "gbm":
        return sde.GeometricBrownian(0.3, spread, **ito)
    if name == "cir":
        return sde.CoxIngersollRoss(1.0, 1.5, spread, **ito)
    if name == "lorenz":
        return sde.Lorenz(noise=np.array([0.5, 1.0, 2.0]), **ito)
    if name.startswith("kinetic"):
        return sde.UnderdampedLangevin(target(name[8:], d // 2), friction=1.5, u=0.8)
    return sde.Langevin(target(name[9:], d), 0.7, **ito)


def both(sde_, y0, ts, solver, controller, *, seed=4, first=0, area=None, options=None):
    """The results by name, of the CPU and of the device; `options` replace numbers of the control."""
    y, times = as_input(y0, "y0"), np.asarray(ts, np.float64)
    n, d = y.shape
    noises = d // 2 if isinstance(sde_, sde.UnderdampedLangevin) else d
    tol, area = controller.smallest_step(times), area or solver.levy_area
    span = {"t0": times[0], "t1": times[-1], "tol": tol, "levy_area": area, "dtype": y.dtype}
    tree = mk.BrownianTree(seed, (first + n, noises), **span)[first:]
    found = route(sde_, y, times, solver, controller, tree)
    assert found is not None, "native code does not take this"
    system, control = found.system, found.control
    numbers = control.numbers()
    for index, value in (options or {}).items():
        numbers[index] = value
    results, itemsize = [], np.dtype(y.dtype).itemsize
    for executor in (_core, _cuda):
        here = up if executor is _cuda else np.array
        parameters, matrix, vector = (
            None if a is None else here(np.asarray(a))
            for a in (system.parameters, system.matrix, system.vector)
        )
        interval = (tree.depth, tree.t0, tree.t1)
        lanes = (first * noises, n, noises)
        own = executor.Tree(seed, AREAS.index(area) + 1, *interval, *lanes, itemsize)
        shape = (int(found.save_at.max()) + 1, n, d)
        held = {
            "ys": here(np.full(shape, np.inf, y.dtype)),
            "clocks": None if found.clocks is None else here(found.clocks),
            "counts": here(np.full((n, 4), -2)),
            "failed": here(np.full(n, np.inf)),
        }
        executor.sde_integrate(
            own,
            system.kind,
            system.layout,
            parameters,
            system.target,
            matrix,
            vector,
            list(system.numbers),
            list(system.callbacks),
            found.method,
            list(found.tableau),
            control.doubling,
            system.friction,
            system.u,
            numbers,
            found.times,
            found.save_at,
            here(y0),
            held["ys"],
            held["clocks"],
            held["counts"],
            held["failed"],
        )
        if executor is _cuda:
            kinds = {"ys": (shape, y.dtype), "counts": ((n, 4), "int64"), "failed": (n, "float64")}
            kinds |= {"clocks": ((n, 3), "float64")}
            held = {k: None if v is None else down(v, *kinds[k]) for k, v in held.items()}
        results.append(held)
    return results


def check(*args, **options):
    cpu, gpu = both(*args, **options)
    for name, want in cpu.items():
        if want is None:
            continue
        same_bits(gpu[name], want)
    return cpu


def start(name, n, d, dtype):
    y0 = 0.5 + mk.random.uniform(9, (n, d))
    return (0.4 * y0 if "angevin" in name or "kinetic" in name else y0).astype(dtype)


def pid(**options):
    return sde.PIDController(1e-2, 1e-2, dtmin=2**-9, dt0=2**-3, **options)


TS = [0.2, 0.3, 0.65, 1.2]
TABLES = {
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
KINETIC = [
    sde.QUICSORT(),
    sde.ShOULD(),
    sde.UBU(),
    sde.ALIGN(),
    sde.BAOAB(),
    sde.ExponentialEuler(),
]
SYSTEMS = ["ou", "gbm", "cir", "lorenz", "langevin-full"]


def problems():
    for name in SYSTEMS:
        for sense, solvers in TABLES.items():
            for solver in solvers:
                yield name, sense, solver
    for name in ("ou", "lorenz", "langevin-full"):
        for solver in ADDITIVE:
            yield name, "ito", solver
    for solver in (sde.HOStS(), sde.DIE()):
        yield "cir", "ito", solver
    for solver in KINETIC:
        yield "kinetic-full", "ito", solver


PROBLEMS = [pytest.param(*p, id=f"{p[0]}-{type(p[2]).__name__}-{p[1]}") for p in problems()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "sense", "solver"), PROBLEMS)
def test_constant_steps(dtype, name, sense, solver):
    d = 3 if name == "lorenz" else 4
    y0 = start(name, 21, d, dtype)
    cpu = check(equation(name, d, sense), y0, TS, solver, sde.ConstantStep(0.02))
    assert np.isnan(cpu["failed"]).all() and np.isfinite(cpu["ys"]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "sense", "solver"), PROBLEMS)
def test_adaptive_steps(dtype, name, sense, solver):
    d = 3 if name == "lorenz" else 4
    y0 = start(name, 21, d, dtype)
    methods = [solver] if solver.has_error else []
    if not isinstance(solver, (sde.HOStS, sde.DIE)):
        methods.append(sde.StepDoubling(solver))
    for method in methods:
        cpu = check(equation(name, d, sense), y0, TS, method, pid())
        assert np.isnan(cpu["failed"]).all() and np.isfinite(cpu["ys"]).all()
        assert (cpu["counts"][:, 0] > 3).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gbm", "ou", "langevin-banana"])
def test_reversible_heun(dtype, name):
    y0 = start(name, 21, 4, dtype)
    for method in (sde.ReversibleHeun(), sde.StepDoubling(sde.ReversibleHeun())):
        check(equation(name, 4, "stratonovich"), y0, TS, method, pid())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", TARGETS)
def test_targets(dtype, kind):
    for d in (2, 5):
        y0 = start("langevin", 13, d, dtype)
        over = equation(f"langevin-{kind}", d)
        check(over, y0, TS, sde.ShARK(), sde.ConstantStep(0.05))
        check(over, y0, TS, sde.ShARK(), pid())
        y0 = start("kinetic", 13, 2 * d, dtype)
        under = equation(f"kinetic-{kind}", 2 * d)
        check(under, y0, TS, sde.QUICSORT(), sde.ConstantStep(0.05))
        check(under, y0, TS, sde.ALIGN(), pid())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (200, 1), (300, 3), (700, 2), (3, 700)])
def test_shapes(dtype, shape):
    """One thread, several blocks, several paths a thread, more than the memory of one block."""
    n, d = shape
    y0 = start("gbm", n, d, dtype)
    for controller in (sde.ConstantStep(0.25), pid()):
        check(equation("gbm", d, "stratonovich"), y0, [0.0, 1.0], sde.SPaRK(), controller)
    check(equation("gbm", d), y0, [0.0, 1.0], sde.StepDoubling(sde.EulerMaruyama()), pid(), first=3)


@pytest.mark.parametrize("area", AREAS)
def test_richer_trees_and_later_paths(area):
    y0 = start("gbm", 40, 2, "float64")
    for controller, solver in (
        (sde.ConstantStep(0.3), sde.Heun()),
        (pid(), sde.Heun()),
        (pid(), sde.StepDoubling(sde.Heun())),
    ):
        options = {"first": 11, "area": area, "seed": 2**63 + 5}
        check(equation("gbm", 2, "stratonovich"), y0, TS, solver, controller, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_control_by_state(dtype):
    y0 = start("cir", 50, 2, dtype)
    process = sde.CoxIngersollRoss(1.0, 0.3, 1.2)
    controller = sde.StateStep(0.05, dtmin=2**-10, dtmax=2**-4)
    for solver in (sde.HOStS(), sde.DIE(), sde.EulerMaruyama()):
        cpu = check(process, y0, TS, solver, controller)
        assert cpu["counts"][:, 1].sum() > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_of_rejected_steps_are_visited(dtype):
    y0 = start("gbm", 200, 2, dtype)
    problem = equation("gbm", 2, "stratonovich")
    without = check(problem, y0, TS, sde.SPaRK(), pid())
    cpu = check(problem, y0, TS, sde.SPaRK(), pid(revisit=True))
    assert cpu["counts"][:, 1].sum() > 0 and (cpu["counts"] != without["counts"]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_controllers(dtype):
    y0 = start("gbm", 30, 2, dtype)
    problem = equation("gbm", 2, "stratonovich")
    for controller in (
        pid(kp=0.2, ki=0.4, kd=0.05),
        pid(step_ts=[0.5, 0.6], jump_ts=[0.77]),
        sde.PIDController(1e-6, 1e-6, dtmin=2**-5),  # the shortest step is taken as it is
        sde.PIDController(1e-1, 1e-1, dtmin=2**-9, dtmax=2**-3, factormax=2.0),
    ):
        check(problem, y0, TS, sde.SPaRK(), controller)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [7, 300])
def test_failures(dtype, n):
    """Some paths fail, at different times; the others go on."""
    y0 = start("lorenz", n, 3, dtype)
    y0[::3] *= np.geomspace(10.0, 1e6, len(y0[::3]))[:, None].astype(dtype)
    problem, ts = equation("lorenz", 3), np.linspace(0, 2, 9)
    coarse = sde.PIDController(1e-3, 1e-3, dtmin=2**-7)
    for solver, controller in (
        (sde.ShARK(), sde.ConstantStep(0.02)),
        (sde.ShARK(), coarse),
        (sde.StepDoubling(sde.EulerMaruyama()), coarse),
    ):
        cpu = check(problem, y0, ts, solver, controller)
        lost = ~np.isnan(cpu["failed"])
        assert lost.any() and not lost.all() and np.unique(cpu["failed"][lost]).size > 1
        missing = np.isnan(cpu["ys"]).all(axis=2)
        assert (missing.any(axis=0) == lost).all()
        assert (np.diff(missing.astype(int), axis=0) >= 0).all()


def test_errors_at_the_shortest_step():
    y0 = start("gbm", 30, 2, "float64")
    controller = sde.PIDController(1e-6, 1e-6, dtmin=2**-5)
    problem = equation("gbm", 2, "stratonovich")
    cpu = check(problem, y0, TS, sde.SPaRK(), controller, options={13: 1.0})
    assert (~np.isnan(cpu["failed"])).any()


@pytest.mark.parametrize(
    ("system", "times", "message"),
    [
        (6, [0.0, 1.0], "compiled functions run on the CPU"),
        (0, [0.0], "times, save_at: expected at least two"),
    ],
)
def test_what_is_refused(system, times, message):
    tree = _cuda.Tree(1, 1, 4, 0.0, 1.0, 0, 2, 3, 8)
    euler = [np.zeros(1), *[np.zeros((1, 1))] * 3, np.ones(1), np.ones(1), np.zeros(1)]
    model = (system, 0, up(np.ones((3, 3))), 0, None, None, [], [1, 0, 1, 0], 0, euler)
    y0, ys, counts, failed = (
        up(np.zeros(shape, kind))
        for shape, kind in (((2, 3), "f8"), ((2, 2, 3), "f8"), ((2, 4), "i8"), (2, "f8"))
    )
    grid, rows = np.array(times), np.arange(len(times))
    numbers = [0.0] * 14
    with pytest.raises(ValueError, match=message):
        _cuda.sde_integrate(
            tree, *model, False, 0.0, 0.0, numbers, grid, rows, y0, ys, None, counts, failed
        )


def test_host_arrays_are_refused():
    y = np.ones((2, 2))
    with pytest.raises(TypeError):
        _cuda.sde_select(np.ones(2, np.uint8), y, y, y)


# ---- from Python ----------------------------------------------------------------------------------------------------


class DeviceArray:
    """As much of a CuPy array as `sdeint` needs, in memory of the executor's own."""

    __module__ = "cupy"

    def __init__(self, a):
        a = np.ascontiguousarray(a)
        self.shape, self.ndim, self.dtype, self.flags = a.shape, a.ndim, a.dtype, None
        self.device = types.SimpleNamespace(id=0)
        self._held = up(a)

    def __dlpack__(self, **options):
        return self._held.__dlpack__()

    def __dlpack_device__(self):
        return self._held.__dlpack_device__()

    def get(self):
        return down(self._held, self.shape, self.dtype)


class Device:
    def __init__(self, index):
        assert index == 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.fixture
def arrays(monkeypatch):
    """Makes arrays on the device: CuPy's, or where there is none, what stands in for them."""
    try:
        import cupy

        cupy.zeros(1)
        return cupy.asarray
    except Exception:
        module = types.ModuleType("cupy")
        module.cuda = types.SimpleNamespace(
            Device=Device, get_current_stream=lambda: types.SimpleNamespace(ptr=0)
        )
        module.ndarray, module.ascontiguousarray = DeviceArray, lambda a: a
        module.asarray = lambda a, dtype=None: DeviceArray(np.asarray(a, dtype))
        module.empty = lambda shape, dtype: DeviceArray(np.full(shape, 77, dtype))
        module.asnumpy = DeviceArray.get
        module.isfinite = lambda a: np.isfinite(a.get())
        module.broadcast_to = lambda a, shape: DeviceArray(np.broadcast_to(a.get(), shape))
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module.asarray


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("controller", [sde.ConstantStep(0.05), pid(), pid(revisit=True)])
@pytest.mark.parametrize(
    "name", ["ou", "gbm", "cir", "lorenz", "langevin-logistic", "kinetic-full"]
)
def test_sdeint(arrays, monkeypatch, capsys, dtype, controller, name):
    d = 3 if name == "lorenz" else 4
    y0 = start(name, 50, d, dtype)
    sense = "ito" if name.startswith("kinetic") else "stratonovich"
    solver = sde.ALIGN() if name.startswith("kinetic") else sde.SPaRK()
    problem = equation(name, d, sense)
    routes = []

    def watched(*args):
        routes.append(route(*args))
        return routes[-1]

    monkeypatch.setattr(_integrate, "route", watched)
    options = {"solver": solver, "controller": controller, "seed": 3}
    ours = sde.sdeint(problem, arrays(y0), TS, progress=True, **options)
    theirs = sde.sdeint(problem, y0, TS, **options)
    assert None not in routes
    assert "50/50" in capsys.readouterr().err
    assert type(ours.ys) is type(arrays(y0))
    same_bits(ours.ys.get(), theirs.ys)
    for what in ("accepted", "rejected", "evaluations"):
        np.testing.assert_array_equal(ours.stats[what], theirs.stats[what])
    assert ours.converged and theirs.converged


def test_sdeint_says_what_failed(arrays):
    y0 = start("lorenz", 9, 3, "float64")
    y0[4] = 1e200
    options = {"solver": sde.ShARK(), "controller": 0.05, "seed": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mk.ConvergenceWarning)
        theirs = sde.sdeint(equation("lorenz", 3), y0, TS, **options)
    with pytest.warns(mk.ConvergenceWarning, match="path 4"):
        ours = sde.sdeint(equation("lorenz", 3), arrays(y0), TS, **options)
    assert not ours.converged
    assert ours.stats["failed_path"] == theirs.stats["failed_path"]
    same_bits(ours.ys.get(), theirs.ys)
