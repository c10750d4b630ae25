"""Adaptive third-order Langevin chains beside the No-U-Turn Sampler: gradients spent until the draws are as good as exact ones."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from _claim import Claim, parse

import mckean as mk
import mckean.sde

SEED, TENTH = 7, 0.1
RIGHT = 0.05  # error of covariances that still counts as right; exact draws have half of that
REACHED = 3.0  # times the energy distance that as many exact draws have


@dataclass
class Problem:
    """A target, its exact or long reference draws, and the knobs that every method may choose from."""

    name: str
    target: Any
    reference: np.ndarray
    apart: float  # time between positions of a Langevin chain
    steps: Sequence[float]  # constant ones
    tolerances: Sequence[float]
    dtmin: float
    data: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # X, y, prior
    floor: float = 0.0
    _scale: Any = field(default=None, repr=False)
    _whole: Any = field(default=None, repr=False)

    def start(self, chains: int) -> np.ndarray:
        """A normal cloud; of the funnel, in its mouth, away from where most of its mass is."""
        x0 = mk.random.normal(SEED, (chains, self.target.dim))
        x0[:, 0] += 5.0 * (self.data is None)
        return x0

    def white(self, x: np.ndarray) -> np.ndarray:
        """Draws in coordinates in which they are standard normal (nearly, for regressions)."""
        if self.data is None:
            return np.concatenate([x[..., :1] / 3, x[..., 1:] * np.exp(-0.5 * x[..., :1])], -1)
        if self._scale is None:
            mean = self.reference.mean(0)
            L = np.linalg.cholesky(np.cov(self.reference.T))
            self._scale = (mean, np.linalg.inv(L).T)
        return (x - self._scale[0]) @ self._scale[1]

    def covariance_error(self, x: np.ndarray) -> float:
        """Mean size of the entries of cov - I, in those coordinates; draws (..., d)."""
        z = self.white(x).reshape(-1, x.shape[-1])
        return float(np.abs(np.cov(z.T) - np.eye(z.shape[1])).mean())

    def distance(self, x: np.ndarray) -> float:
        """Energy distance of positions (chains, d) to the reference, in those coordinates."""
        if self._whole is None:
            some = self.reference[:: max(1, len(self.reference) // 2000)]
            self._whole = self.white(some)
        return float(mk.energy_distance(self.white(x), self._whole))


def funnel(quick: bool) -> Problem:
    target = mk.targets.Funnel(10)
    reference = np.asarray(target.sample(4_000, SEED))
    # Coarser tolerances do not see the neck and let chains leave through it; shorter steps would not help.
    tolerances = (2.0**-6, 2.0**-9)
    return Problem("funnel", target, reference, 2.0, (2.0**-6, 2.0**-8), tolerances, 2.0**-16)


def _mode(target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of a logistic regression, and the Hessian of its potential there, by Newton's method."""
    X, y, theta = target.X, target.y, np.zeros(target.dim)
    precision = np.diag(target.prior_scale**-2.0)
    for _ in range(100):
        p = 0.5 + 0.5 * np.tanh(0.5 * X @ theta)
        H = (X * (p * (1 - p))[:, None]).T @ X + precision
        step = np.linalg.solve(H, X.T @ (y - p) - precision @ theta)
        theta += step * min(1.0, 5 / np.abs(step).max())
    return theta, H


def regression(name: str, quick: bool) -> Problem:
    """80 per cent of a data set of scikit-learn, at most 700 rows; an intercept; normal priors of deviation
    0.5 / var of the column, and 1 for the intercept."""
    from sklearn import datasets

    data = {"wine": datasets.load_wine, "cancer": datasets.load_breast_cancer,
            "digits": datasets.load_digits}[name]()  # fmt: skip
    X, y = data.data, data.target.astype(float)
    if name == "digits":  # not standardised: the columns differ as much as pixels do
        X, y = X / 16, (data.target >= 5).astype(float)
        X = X[:, X.var(0) > 0.01]
    else:
        y = (data.target == 0).astype(float)
        X = (X - X.mean(0)) / X.std(0)
    rows = np.argsort(mk.random.uniform(3, len(X)))[: min(700, int(0.8 * len(X)))]
    X, y = X[rows], y[rows]
    prior = np.append(0.5 / X.var(0), 1.0)
    X = np.column_stack([X, np.ones(len(X))])
    target = mk.targets.LogisticRegression(X, y, prior_scale=prior)
    reference = settled(target, 200 if quick else 800)
    knobs = {
        "wine": (1.0, (0.2, 0.1), (2.0, 0.5), 2.0**-7),
        "cancer": (1.0, (0.2, 0.1), (2.0, 0.5), 2.0**-7),
        "digits": (3.0, (0.1, 0.05), (2.0, 0.5), 2.0**-8),
    }[name]
    apart, steps, tolerances, dtmin = knobs
    return Problem(name, target, reference, apart, steps, tolerances, dtmin, (X, y, prior))


def settled(target: Any, steps: int) -> np.ndarray:
    """Draws without bias: MALA in the metric of the Hessian, many chains from the normal approximation."""
    mode, H = _mode(target)
    values, basis = np.linalg.eigh(H)
    model = mk.lowrank.LowRankOperator(np.ascontiguousarray(basis[:, ::-1]), values[::-1].copy())
    x0 = mode + (mk.random.normal(1, (400, target.dim)) / np.sqrt(values)) @ basis.T
    chain = mk.samplers.PreconditionedMALA(target, 0.25, model, 0.0)
    result = mk.run(chain, x0, steps, burn_in=steps // 2, thin=steps // 8, seed=9, progress=False)
    assert np.mean(result.stats["acceptance_rate"]) > 0.3
    return np.asarray(result.x).reshape(-1, target.dim)


# ---- samplers: chains (draws, chains, d) and gradients a chain has spent at each, its start from a normal cloud ------------

Curve = tuple[np.ndarray, np.ndarray]


def langevin(
    problem: Problem, chains: int, draws: int, *, step: float = 0.0, atol: float = 0.0
) -> Curve:
    x0 = problem.start(chains)
    if atol:
        controller = mk.sde.PIDController(
            0.0, atol, kp=0.1, ki=0.4, dtmin=problem.dtmin, dt0=problem.apart / 64
        )
        every, chain = 1, mk.samplers.UnderdampedLangevin(
            problem.target, problem.apart, scheme="quicsort", controller=controller
        )  # fmt: skip
    else:
        every = round(problem.apart / step)
        chain = mk.samplers.UnderdampedLangevin(problem.target, problem.apart / every)
    result = mk.run(chain, x0, draws * every, thin=every, seed=SEED, progress=False)
    spent = (
        np.asarray(result.stats["gradients"], float).mean(1)
        if atol
        else 2.0 * every * np.arange(1, draws + 1)
    )
    return np.asarray(result.x), spent


def log_density(problem: Problem) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp

    if problem.data is None:

        def funnel(x: Any) -> Any:
            return -(x[0] ** 2) / 18 - 4.5 * x[0] - 0.5 * jnp.exp(-x[0]) * (x[1:] ** 2).sum()

        return funnel
    X, y, prior = (jnp.asarray(a) for a in problem.data)

    def posterior(theta: Any) -> Any:
        fit = -jax.nn.softplus(-(2 * y - 1) * (X @ theta)).sum()
        return fit - 0.5 * ((theta / prior) ** 2).sum()

    return posterior


def nuts(problem: Problem, chains: int, draws: int, warm: int) -> Curve:
    """BlackJAX: every chain adapts by itself in `warm` draws, which are kept and count as well."""
    import blackjax
    import jax

    density = log_density(problem)

    def chain(key: Any, x: Any) -> Any:
        key, first = jax.random.split(key)
        adaptation = blackjax.window_adaptation(blackjax.nuts, density)
        (state, parameters), warming = adaptation.run(first, x, num_steps=warm)
        kernel = blackjax.nuts(density, **parameters)

        def one(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        x, count = jax.lax.scan(one, state, jax.random.split(key, draws))[1]
        early = warming.state.position, warming.info.num_integration_steps
        x, count = (jax.numpy.concatenate(pair) for pair in zip(early, (x, count), strict=True))
        return x, jax.numpy.cumsum(count)

    x0 = problem.start(chains)
    keys = jax.random.split(jax.random.key(SEED), chains)
    x, spent = jax.jit(jax.vmap(chain))(keys, x0)
    return np.asarray(x).swapaxes(0, 1), np.asarray(spent, float).mean(0)


# ---- figures ------------------------------------------------------------------------------------------------------------


def effective_share(problem: Problem, x: np.ndarray) -> float:
    """Effective draws of the worst coordinate over all draws (draws, chains, d), by Geyer's initial sequence."""
    z = problem.white(x)
    z = z - z.mean((0, 1))
    draws = len(z)
    f = np.fft.rfft(z, 2 * draws, axis=0)
    cov = np.fft.irfft(np.abs(f) ** 2, axis=0)[:draws].mean(1) / np.arange(draws, 0, -1)[:, None]
    rho = cov / np.maximum(cov[0], 1e-300)
    pairs = rho[: draws // 2 * 2 : 2] + rho[1 : draws // 2 * 2 : 2]
    tau = []
    for p in pairs.T:
        end = int(np.argmax(p <= 0)) if (p <= 0).any() else len(p)
        tau.append(max(2 * np.minimum.accumulate(p[:end]).sum() - 1, 0.05))
    return 1 / max(tau)


def reached(spent: np.ndarray, distances: np.ndarray, level: float) -> float:
    """Gradients after which the distance is below `level`, infinite if it never is."""
    below = np.flatnonzero(distances <= level)
    return float(spent[below[0]]) if below.size else float("inf")


def exact_floor(problem: Problem, chains: int) -> float:
    """Energy distance that `chains` independent draws have, mean of eight."""
    total = 0.0
    for k in range(8):
        if problem.data is None:
            x = np.asarray(problem.target.sample(chains, 100 + k))
        else:
            pick = (mk.random.uniform(100 + k, chains) * len(problem.reference)).astype(int)
            x = problem.reference[pick]
        total += problem.distance(x)
    return total / 8


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("adaptive_langevin_nuts", __doc__, argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["JAX_ENABLE_X64"] = "1"
    chains, draws = (32, 32) if args.quick else (64, 48)
    claim = Claim(
        args,
        "adaptive third-order underdamped Langevin outperforms the No-U-Turn Sampler, while using only a tenth of its function\n"
        "         evaluations",
        "A. Jelincic, J. Foster, P. Kidger, Single-seed generation of Brownian paths and integrals for adaptive and high order SDE\n"
        "         solvers, 2024, arXiv:2405.06464",
        f"{chains} chains from N(0, I), the funnel's moved by 5 into its mouth; Neal's funnel in 10 dimensions with its true gradient,\n"
        f"         and logistic regressions on data sets of scikit-learn; Langevin: QUICSORT, friction and u of 1, steps by doubling and PID\n"
        f"         control, or constant; NUTS: BlackJAX, gradients of warm-up counted; every method with the best of a few settings whose\n"
        f"         covariances are right to {RIGHT:g}. Distance: energy distance to exact draws (regressions: of preconditioned MALA), where\n"
        f"         these are standard normal; reached: {REACHED:g} times what {chains} exact draws have",
    )  # fmt: skip
    missing = [m for m in ("jax", "blackjax") if importlib.util.find_spec(m) is None]
    if missing:
        print(f"NUTS is left out: {', '.join(missing)} not installed (pip install blackjax)")
    warnings.simplefilter("ignore")
    problems = [funnel(args.quick)]
    if importlib.util.find_spec("sklearn") is None:
        print("regressions are left out: scikit-learn is not installed")
    else:
        problems += [regression(n, args.quick) for n in (("wine",) if args.quick else ("wine", "cancer", "digits"))]  # fmt: skip
    rows, counts, draw_costs, curves = [], {}, {}, {}
    for problem in problems:
        problem.floor = exact_floor(problem, chains)
        runs: list[tuple[str, str, Callable[[], Curve]]] = []
        for atol in problem.tolerances:
            runs.append(
                (
                    "adaptive",
                    f"atol {atol:.3g}",
                    functools.partial(langevin, problem, chains, draws, atol=atol),
                )
            )
        for step in problem.steps:
            runs.append(
                (
                    "constant",
                    f"step {step:.3g}",
                    functools.partial(langevin, problem, chains, draws, step=step),
                )
            )
        if not missing:
            for warm in (20,) if args.quick else (20, 60):
                runs.append(
                    (
                        "NUTS",
                        f"warm-up {warm}",
                        functools.partial(nuts, problem, chains, draws, warm),
                    )
                )
        for method, setting, run in runs:
            start = time.perf_counter()
            x, spent = run()
            seconds = time.perf_counter() - start
            finite = np.isfinite(x).all()
            off = np.array([problem.distance(p) if np.isfinite(p).all() else np.inf for p in x])
            skip = len(x) - draws + draws // 4
            late = x[skip:]
            per_draw = (spent[-1] - spent[skip - 1]) / len(late)
            share = effective_share(problem, late) if finite else 0.0
            row = {
                "target": problem.name, "method": method, "setting": setting, "reached": reached(spent, off, REACHED * problem.floor),
                "gradients": spent[-1], "a draw": per_draw, "an effective draw": per_draw / max(share, 1e-9),
                "distance": float(off[-1]), "exact": problem.floor,
                "covariance off": problem.covariance_error(late) if finite else None, "seconds": seconds,
            }  # fmt: skip
            rows.append(row)
            print(
                "  ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
                ),
                file=sys.stderr,
                flush=True,
            )
            curves[problem.name, method, setting] = spent, off
    for row in rows:
        key = row["target"], row["method"]
        right = [
            r
            for r in rows
            if (r["target"], r["method"]) == key and (r["covariance off"] or np.inf) < RIGHT
        ]
        right = right or [r for r in rows if (r["target"], r["method"]) == key]
        counts[key] = min(right, key=lambda r: r["reached"])
        draw_costs[key] = min(r["an effective draw"] for r in right)
    claim.table(
        "gradients of a chain",
        ["target", "method", "setting", "reached", "gradients", "a draw", "an effective draw", "distance", "exact", "covariance off", "seconds"],
        rows,
        "reached: spent when the distance of all chains' positions first is as small; inf: not within the run. a draw and covariance off\n"
        "(mean size of the entries of cov - I in coordinates in which exact draws are standard): the last three quarters of the run, of NUTS\n"
        "after warm-up; seconds: with compilation.",
    )  # fmt: skip
    for problem in problems:
        ours = counts[problem.name, "adaptive"]
        if not missing:
            peer = counts[problem.name, "NUTS"]
            ratio = ours["reached"] / peer["reached"] if np.isfinite(ours["reached"]) else np.inf
            text = f"{ours['reached']:.0f} gradients against {peer['reached']:.0f}"
            claim.check(
                f"{problem.name}: reached with a tenth of the gradients of NUTS",
                text,
                ratio <= TENTH,
            )
            claim.check(f"{problem.name}: reached with fewer gradients than NUTS", text, ratio < 1)
            costs = [draw_costs[problem.name, m] for m in ("adaptive", "NUTS")]
            claim.check(
                f"{problem.name}: an effective draw, settled, costs fewer gradients than with NUTS",
                f"{costs[0]:.0f} against {costs[1]:.0f}",
                costs[0] < costs[1],
            )
            claim.check(
                f"{problem.name}: covariances at least as good as those of NUTS",
                f"off by {ours['covariance off']:.3g} against {peer['covariance off']:.3g}",
                ours["covariance off"] <= peer["covariance off"],
            )
        fixed = counts[problem.name, "constant"]
        claim.check(
            f"{problem.name}: fewer gradients than constant steps",
            f"{ours['reached']:.0f} against {fixed['reached']:.0f}",
            ours["reached"] < fixed["reached"],
        )

    def draw(axes: Any) -> None:
        colours = {"adaptive": "tab:red", "constant": "tab:blue", "NUTS": "tab:gray"}
        for axis, problem in zip(axes, problems, strict=True):
            for (of, method, setting), (spent, off) in curves.items():
                if of == problem.name:
                    best = counts[of, method]["setting"] == setting
                    axis.loglog(spent, off, color=colours[method], alpha=1.0 if best else 0.3, lw=1.5 if best else 1,
                                label=f"{method}, {setting}" if best else None)  # fmt: skip
            axis.axhline(problem.floor, color="black", ls=":", lw=1)
            axis.axhline(REACHED * problem.floor, color="black", ls="--", lw=1)
            axis.set(title=problem.name, xlabel="gradients of a chain")
            axis.legend(fontsize=7)
        axes[0].set_ylabel("energy distance to exact draws")

    claim.picture(draw, columns=len(problems))
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
