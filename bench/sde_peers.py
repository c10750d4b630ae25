"""The equations of the SDE bench, and how mckean, diffrax and torchsde solve them.

`solver(who, problem, method, n, dtype, seed)` gives an object with ``run(knob) -> end (n, d)``,
where the knob is the number of constant steps, or the tolerance of adaptive ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import mckean as mk
import mckean.sde

SEED = 11  # of the paths errors are measured on
FINEST, REFERENCE = 12, 10  # log2 of the leaves of their tree, and of the steps of a reference
DTMIN = 2.0**-10  # of adaptive steps, as a share of the time


@functools.cache
def cancer() -> tuple[np.ndarray, np.ndarray]:
    """Breast-cancer data: 24 standardised features and an intercept, 569 rows."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = data.data[:, :24]
    X = (X - X.mean(0)) / X.std(0)
    return np.column_stack([X, np.ones(len(X))]), data.target.astype(float)


@functools.cache
def posterior() -> Any:
    return mk.targets.LogisticRegression(*cancer(), prior_scale=1.0)


@functools.cache
def mode() -> np.ndarray:
    """Of the posterior, by Newton's method."""
    X, y = cancer()
    theta = np.zeros(X.shape[1])
    for _ in range(50):
        p = 0.5 + 0.5 * np.tanh(0.5 * X @ theta)
        H = (X * (p * (1 - p))[:, None]).T @ X + np.eye(len(theta))
        theta += np.linalg.solve(H, X.T @ (y - p) - theta)
    return theta


@dataclass(frozen=True)
class Problem:
    """An equation in the sense of Ito over [0, time]; `parameters` as the built-in of mckean takes them."""

    name: str
    time: float
    parameters: tuple[float, ...]
    dim: int = 1

    @property
    def additive(self) -> bool:
        return self.name in ("ou", "langevin", "kinetic")

    @property
    def area(self) -> str:
        """What the paths need beside increments."""
        return "space-time-time" if self.name == "kinetic" else "space-time"

    def equation(self, sense: str) -> Any:
        s = mk.sde
        kind = {
            "ou": s.OrnsteinUhlenbeck, "gbm": s.GeometricBrownian, "cir": s.CoxIngersollRoss,
            "langevin": lambda: s.Langevin(posterior()),
            "kinetic": lambda: s.UnderdampedLangevin(posterior()),
        }[self.name]  # fmt: skip
        made = kind(*self.parameters)
        return made if sense == "ito" else made.to_stratonovich()

    def start(self, n: int, dtype: str) -> np.ndarray:
        y0 = {"langevin": mode, "kinetic": lambda: np.concatenate([mode(), 0 * mode()])}.get(
            self.name, lambda: np.ones(self.dim)
        )()
        return np.tile(y0.astype(dtype), (n, 1))

    def drift(self, sense: str) -> tuple[float, ...]:
        """The parameters of the drift in that sense."""
        p = self.parameters
        if sense == "ito" or self.additive:
            return p
        if self.name == "gbm":
            return (p[0] - 0.5 * p[1] ** 2, p[1])
        return (p[0], p[1] - p[2] ** 2 / (4 * p[0]), p[2])


PROBLEMS = {
    p.name: p
    for p in (
        Problem("ou", 1.0, (1.0, 0.0, 0.5)),
        Problem("gbm", 1.0, (0.1, 0.5)),
        Problem("cir", 1.0, (1.0, 1.0, 0.8)),
        Problem("langevin", 0.25, (), 25),
        Problem("kinetic", 4.0, (), 25),
    )
}


@dataclass(frozen=True)
class Method:
    """One way to solve, by every library's name for it; None where it has none."""

    label: str
    mckean: str | None
    diffrax: str | None
    torchsde: str | None
    sense: str = "ito"  # of mckean and diffrax
    adaptive: bool = False


# By problem: the method and the root mean square error at the end that all are brought to.
METHODS: dict[str, tuple[tuple[Method, float], ...]] = {
    "ou": (
        (Method("Euler", "EulerMaruyama", "Euler", "euler"), 1e-3),
        (Method("order 1.5", "ShARK", "ShARK", "srk"), 1e-5),
        (Method("adaptive", "ShARK", "ShARK", "srk", adaptive=True), 1e-4),
    ),
    "gbm": (
        (Method("Euler", "EulerMaruyama", "Euler", "euler"), 1e-2),
        (Method("Milstein", "ItoMilstein", "ItoMilstein", "milstein"), 1e-3),
        (Method("order 1.5", "SlowRK", "SlowRK", "srk", "stratonovich"), 2e-5),
        (Method("adaptive", "SPaRK", "SPaRK", "srk", "stratonovich", adaptive=True), 1e-3),
    ),
    "cir": (
        (Method("Milstein", "ItoMilstein", "ItoMilstein", "milstein"), 1e-3),
        (Method("best", "HOStS", "SlowRK", "srk", "stratonovich"), 1e-4),
        (Method("adaptive", "SPaRK", "SPaRK", "srk", "stratonovich", adaptive=True), 1e-3),
    ),
    "kinetic": (
        (Method("order 3", "QUICSORT", "QUICSORT", None), 1e-2),
        (Method("adaptive", "QUICSORT", "QUICSORT", None, adaptive=True), 1e-2),
    ),
    "langevin": (
        (Method("Euler", "EulerMaruyama", "Euler", "euler"), 1e-2),
        (Method("order 1.5", "ShARK", "ShARK", "srk"), 1e-3),
        (Method("adaptive", "ShARK", "ShARK", "srk", adaptive=True), 3e-3),
    ),
}


def exact(problem: Problem, W: np.ndarray) -> np.ndarray | None:
    """The end of a geometric Brownian motion with these increments."""
    if problem.name != "gbm":
        return None
    mu, sigma = problem.parameters
    return np.exp((mu - 0.5 * sigma**2) * problem.time + sigma * np.asarray(W, np.float64))


def reference_method(problem: Problem) -> Method:
    """The most accurate one all libraries have."""
    if problem.name == "kinetic":
        return Method("reference", "QUICSORT", "QUICSORT", None)
    wanted = "SlowRK" if not problem.additive else "ShARK"
    sense = "ito" if problem.additive else "stratonovich"
    return Method("reference", wanted, wanted, "srk", sense)


# ---- mckean -------------------------------------------------------------------------------------------------------------


def _native_functions(problem: Problem) -> Any:
    """The equation as compiled C functions, which the native loop calls without Python."""
    import numba
    from numba import carray, cfunc, types

    double, pointer = types.float64, types.CPointer(types.float64)
    kind = types.void(double, pointer, pointer, types.voidptr)
    name, p = problem.name, problem.parameters
    if name == "kinetic":
        raise ValueError("kinetic solvers take the built-in equation")
    if name == "langevin":
        X, y = cancer()
        d, m = X.shape[1], X.shape[0]

        def drift(t, y_, out, user):  # type: ignore[no-untyped-def]
            theta, g = carray(y_, d), carray(out, d)
            for j in range(d):
                g[j] = -theta[j]
            for i in range(m):
                z = 0.0
                for j in range(d):
                    z += X[i, j] * theta[j]
                r = y[i] - (0.5 + 0.5 * np.tanh(0.5 * z))
                for j in range(d):
                    g[j] += r * X[i, j]

        def diffusion(t, y_, out, user):  # type: ignore[no-untyped-def]
            for j in range(d):
                out[j] = 1.4142135623730951
    elif name == "ou":
        rate, level, sigma = p

        def drift(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = rate * (level - y_[0])

        def diffusion(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = sigma
    elif name == "gbm":
        mu, sigma = p

        def drift(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = mu * y_[0]

        def diffusion(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = sigma * y_[0]
    else:
        a, b, sigma = p

        def drift(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = a * (b - y_[0])

        def diffusion(t, y_, out, user):  # type: ignore[no-untyped-def]
            out[0] = sigma * np.sqrt(max(y_[0], 0.0))

    assert numba.__version__
    return tuple(cfunc(kind)(f) for f in (drift, diffusion))


@functools.cache
def equation(problem_name: str, form: str, sense: str) -> Any:
    """`form`: "native", the built-in; "python", the same functions as callables; "cfunc", compiled by numba."""
    problem = PROBLEMS[problem_name]
    built_in = problem.equation(sense)
    if form == "native":
        return built_in
    noise = built_in.noise
    if form == "python":
        return mk.sde.SDE(
            built_in.drift,
            built_in.diffusion,
            noise=noise,
            interpretation=built_in.interpretation,
            diffusion_slope=built_in.diffusion_slope,
        )
    shifted = Problem(problem.name, problem.time, problem.drift(sense), problem.dim)
    drift, diffusion = _native_functions(shifted)
    return mk.sde.SDE(
        drift,
        diffusion,
        noise=noise,
        interpretation=sense,
        dim=problem.dim,
        noise_dim=problem.dim,
    )


class Ours:
    """`form` of the equation, see `equation`."""

    def __init__(
        self, form: str, problem: Problem, method: Method, n: int, dtype: str, seed: int = SEED
    ) -> None:
        dtype = "float64" if form == "cfunc" else dtype  # the only one compiled code has
        self.problem, self.method, self.n, self.dtype, self.seed = problem, method, n, dtype, seed
        self.sde = equation(problem.name, form, method.sense)
        self.solver = getattr(mk.sde, str(method.mckean))()
        if method.adaptive and not self.solver.has_error:
            self.solver = mk.sde.StepDoubling(self.solver)
        self.y0 = problem.start(n, dtype)
        self.stats: dict[str, Any] = {}

    def controller(self, knob: float) -> Any:
        T = self.problem.time
        if self.method.adaptive:
            return mk.sde.PIDController(0.0, knob, dtmin=T * DTMIN, dt0=T / 64)
        return mk.sde.ConstantStep(T / knob)

    def run(self, knob: float, tree: Any = None) -> np.ndarray:
        result = mk.sde.sdeint(
            self.sde,
            self.y0,
            [0.0, self.problem.time],
            solver=self.solver,
            controller=self.controller(knob),
            seed=self.seed,
            tree=tree,
        )
        self.stats = result.stats
        return np.asarray(result.ys[-1])

    def steps(self) -> float:
        return float(np.mean(self.stats["accepted"]))

    def error(self, knob: float) -> float:
        path, reference = self.truth(self.problem, self.n, self.dtype)
        return rms(self.run(knob, path), reference)

    @staticmethod
    @functools.cache
    def truth(problem: Problem, n: int, dtype: str) -> tuple[Any, np.ndarray]:
        """The Brownian motion of all solves whose errors are measured, and the end along it."""
        T = problem.time
        path = mk.BrownianTree(
            SEED,
            (n, problem.dim),
            t1=T,
            tol=T * 2.0**-FINEST,
            levy_area=problem.area,
            dtype=dtype,
        )
        known = exact(problem, path.increment(0.0, T).W)
        if known is None:
            best = Ours("native", problem, reference_method(problem), n, dtype)
            known = best.run(2.0**REFERENCE, path)
        return path, known


def rms(a: Any, b: Any) -> float:
    """Over paths, of the Euclidean distance."""
    off = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(np.sqrt(np.mean(np.sum(off**2, axis=1))))


# ---- diffrax ------------------------------------------------------------------------------------------------------------


class Diffrax:
    """One compiled function of the knob and the tolerance of the tree; `independent`: increments drawn at
    every step, which no other solve can ask for again."""

    def __init__(
        self,
        problem: Problem,
        method: Method,
        n: int,
        dtype: str,
        seed: int = SEED,
        *,
        independent: bool = False,
    ) -> None:
        import diffrax as dx
        import jax
        import jax.numpy as jnp
        import lineax as lx

        self.problem, self.method, self.n, self.dtype, self.seed = problem, method, n, dtype, seed
        self.independent, self.jax = independent, jax
        p, T, d = problem.drift(method.sense), problem.time, problem.dim
        y0 = jnp.asarray(problem.start(1, dtype)[0])
        if not p:
            X, y = (jnp.asarray(a, dtype) for a in cancer())

            def drift(t: Any, theta: Any, args: Any) -> Any:
                return X.T @ (y - jax.nn.sigmoid(X @ theta)) - theta

            def volatility(y: Any) -> Any:
                return jnp.full((d,), 2.0**0.5, dtype)
        elif problem.name == "gbm":

            def drift(t: Any, y: Any, args: Any) -> Any:
                return p[0] * y

            def volatility(y: Any) -> Any:
                return p[1] * y
        else:

            def drift(t: Any, y: Any, args: Any) -> Any:
                return p[0] * (p[1] - y)

            def volatility(y: Any) -> Any:
                if problem.name == "ou":
                    return jnp.full((d,), p[2], dtype)
                return p[2] * jnp.sqrt(jnp.maximum(y, 0.0))

        def diffusion(t: Any, y: Any, args: Any) -> Any:
            return lx.DiagonalLinearOperator(volatility(y))

        kind = getattr(dx, str(method.diffrax))
        solver, area = kind(), dx.SpaceTimeLevyArea
        if problem.name == "kinetic":
            y0, area = (y0[:d], y0[d:]), dx.SpaceTimeTimeLevyArea
            solver = dx.HalfSolver(solver) if method.adaptive else solver
        shape = jax.ShapeDtypeStruct((d,), dtype)

        def terms(path: Any) -> Any:
            if problem.name != "kinetic":
                return dx.MultiTerm(dx.ODETerm(drift), dx.ControlTerm(diffusion, path))
            one = jnp.ones((), dtype)
            return dx.MultiTerm(
                dx.UnderdampedLangevinDriftTerm(one, one, lambda x, args: -drift(0.0, x, args)),
                dx.UnderdampedLangevinDiffusionTerm(one, one, path),
            )

        def one(key: Any, knob: Any, tol: Any) -> Any:
            if independent:
                path = dx.UnsafeBrownianPath(shape, key, levy_area=area)
            else:
                path = dx.VirtualBrownianTree(0.0, T, tol, shape, key, levy_area=area)
            if method.adaptive:
                controller = dx.PIDController(
                    rtol=0.0, atol=knob, pcoeff=0.1, icoeff=0.3, dtmin=T * DTMIN
                )
                dt0 = T / 64
            else:
                controller, dt0 = dx.ConstantStepSize(), T / knob
            solution = dx.diffeqsolve(
                terms(path),
                solver,
                0.0,
                T,
                dt0,
                y0,
                stepsize_controller=controller,
                max_steps=None,
                adjoint=dx.ForwardMode(),
                throw=False,
            )
            last = jax.tree.map(lambda y: y[-1], solution.ys)
            last = jnp.concatenate(last) if problem.name == "kinetic" else last
            return last, solution.stats["num_accepted_steps"]

        def end(keys: Any, knob: Any, tol: Any) -> Any:
            return jax.vmap(one, (0, None, None))(keys, knob, tol)

        def whole(
            keys: Any, tol: Any
        ) -> Any:  # `tol` as an argument: as a constant it is folded, slowly
            tree = functools.partial(dx.VirtualBrownianTree, 0.0, T, tol, shape, levy_area=area)
            return jax.vmap(lambda key: tree(key).evaluate(0.0, T, use_levy=True))(keys)

        self._end, self._whole = jax.jit(end), jax.jit(whole)
        self.keys = jax.random.split(jax.random.key(seed), n)
        self._steps: Any = 0.0

    def run(self, knob: float, tol: float | None = None) -> np.ndarray:
        T = self.problem.time
        if tol is None:
            tol = 0.5 * T * DTMIN if self.method.adaptive else 0.5 * T / knob
        ends, self._steps = self._end(self.keys, knob, tol)
        return np.asarray(ends)

    def steps(self) -> float:
        return float(np.mean(np.asarray(self._steps)))

    def error(self, knob: float) -> float:
        reference = self.truth(self.problem, self.n, self.dtype)
        return rms(self.run(knob, self.problem.time * 2.0**-FINEST), reference)

    @staticmethod
    @functools.cache
    def truth(problem: Problem, n: int, dtype: str) -> np.ndarray:
        """The end along the paths of the keys."""
        best = Diffrax(problem, reference_method(problem), n, dtype)
        tol = problem.time * 2.0**-FINEST
        if problem.name == "gbm":
            return np.asarray(exact(problem, best._whole(best.keys, tol).W))
        return best.run(2.0**REFERENCE, tol)


# ---- torchsde -----------------------------------------------------------------------------------------------------------


class Torchsde:
    """One object for the Brownian motion of all solves whose errors are compared, and a new one for each that
    is timed; steps of adaptive solves are those of the whole batch."""

    def __init__(
        self, problem: Problem, method: Method, n: int, dtype: str, seed: int = SEED
    ) -> None:
        import torch

        self.torch, self.problem, self.method = torch, problem, method
        self.n, self.dtype, self.seed = n, dtype, seed
        self.y0 = torch.from_numpy(problem.start(n, dtype))
        self.sde = self._equation()
        self.calls = 0

    def _equation(self) -> Any:
        torch, problem, p = self.torch, self.problem, self.problem.parameters
        if problem.name == "langevin":
            X, y = (torch.from_numpy(a.astype(self.dtype)) for a in cancer())
        outer, sigma = self, (p[-1] if p else 2**0.5)
        matrix = problem.additive and self.method.torchsde == "srk"  # which is of order 1.5 then

        class Equation:
            sde_type = "ito"
            noise_type = "additive" if matrix else "diagonal"

            def f(self, t: Any, x: Any) -> Any:
                outer.calls += 1
                if problem.name == "langevin":
                    return (y - torch.sigmoid(x @ X.T)) @ X - x
                return p[0] * x if problem.name == "gbm" else p[0] * (p[1] - x)

            def g(self, t: Any, x: Any) -> Any:
                if problem.additive:
                    return full.expand(len(x), *full.shape)
                return sigma * (x if problem.name == "gbm" else x.clamp(min=0).sqrt())

        kind = getattr(torch, self.dtype)
        full = sigma * (torch.eye if matrix else torch.ones)(problem.dim, dtype=kind)
        return Equation()

    def path(self) -> Any:
        import torchsde

        return torchsde.BrownianInterval(
            0.0,
            self.problem.time,
            size=(self.n, self.problem.dim),
            dtype=getattr(self.torch, self.dtype),
            entropy=self.seed,
            levy_area_approximation="space-time",
        )

    def run(self, knob: float, path: Any = None) -> np.ndarray:
        import torchsde

        T = self.problem.time
        options: dict[str, Any] = (
            {"adaptive": True, "rtol": 0.0, "atol": knob, "dt": T / 64, "dt_min": T * DTMIN}
            if self.method.adaptive
            else {"dt": T / knob}
        )
        self.calls = 0
        with self.torch.no_grad():
            ys = torchsde.sdeint(
                self.sde,
                self.y0,
                self.torch.tensor([0.0, T]),
                bm=self.path() if path is None else path,
                method=str(self.method.torchsde),
                **options,
            )
        return np.asarray(ys[-1].numpy())

    def steps(self) -> float:
        """Of the batch; an adaptive attempt takes one whole step and two halves, and some fail."""
        per_step = {"euler": 1, "milstein": 1, "srk": 2}[str(self.method.torchsde)]
        return self.calls / per_step / (3 if self.method.adaptive else 1)

    def error(self, knob: float) -> float:
        path, reference = self.truth(self.problem, self.n, self.dtype)
        return rms(self.run(knob, path), reference)

    @staticmethod
    @functools.cache
    def truth(problem: Problem, n: int, dtype: str) -> tuple[Any, np.ndarray]:
        """The object all solves whose errors are measured ask, and the end along its path."""
        best = Torchsde(problem, reference_method(problem), n, dtype)
        path = best.path()
        known = exact(problem, path(0.0, problem.time))
        return path, (best.run(2.0**REFERENCE, path) if known is None else known)


def solver(who: str, problem: Problem, method: Method, n: int, dtype: str, seed: int = SEED) -> Any:
    if who == "diffrax":
        return Diffrax(problem, method, n, dtype, seed)
    if who == "independent":
        return Diffrax(problem, method, n, dtype, seed, independent=True)
    if who == "torchsde":
        return Torchsde(problem, method, n, dtype, seed)
    return Ours(who, problem, method, n, dtype, seed)


def reach(
    error: Callable[[float], float], target: float, *, adaptive: bool, limit: float
) -> tuple[float, float] | None:
    """The knob that brings the error to `target`, and its error; None if `limit` steps do not.

    Along a ladder of factors 2 (tolerances: 4), then between its last rungs on logarithmic scales,
    twice if the first guess is off by more than a tenth.
    """
    factor, knob = (0.25, 0.1) if adaptive else (2.0, 4.0)
    worse: tuple[float, float] | None = None
    while True:
        now = error(knob)
        if now <= target:
            break
        worse = (knob, now) if np.isfinite(now) else None
        knob *= factor
        if knob > limit or knob < 1e-3 / limit:
            return None
    better = (knob, now)
    for _ in range(2):
        if worse is None or better[1] > 0.9 * target:
            break
        share = np.log(worse[1] / target) / np.log(worse[1] / better[1])
        knob = float(worse[0] * (better[0] / worse[0]) ** share)
        knob = knob if adaptive else float(np.ceil(knob))
        if knob in (worse[0], better[0]):
            break
        now = error(knob)
        worse, better = (worse, (knob, now)) if now <= target else ((knob, now), better)
    return better
