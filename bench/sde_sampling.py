"""How mckean, diffrax, BlackJAX and NumPyro draw the posterior of the SDE bench, and how good the draws are."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sde_peers as peers

import mckean as mk
import mckean.sde

CHAINS, KEPT, SETTLE, STEP = 64, 64, 16, 0.125
NUTS_CHAINS, NUTS_DRAWS = 8, 500


def effective(x: np.ndarray) -> np.ndarray:
    """Effective draws by coefficient of chains (chains, draws, d): Geyer's initial monotone sequence of
    autocorrelations around the mean of all chains, so that chains that disagree count for less."""
    chains, draws, d = x.shape
    z = x - x.mean((0, 1))
    f = np.fft.rfft(z, 2 * draws, axis=1)
    cov = np.fft.irfft(np.abs(f) ** 2, axis=1)[:, :draws].mean(0)
    rho = cov / np.arange(draws, 0, -1)[:, None] / (cov[0] / draws)
    even = draws // 2 * 2
    pairs = rho[:even:2] + rho[1:even:2]
    out = np.empty(d)
    for j, p in enumerate(pairs.T):
        end = int(np.argmax(p <= 0)) if (p <= 0).any() else len(p)
        tau = max(2 * np.minimum.accumulate(p[:end]).sum() - 1, 0.05)
        out[j] = chains * draws / tau
    return out


@functools.cache
def deviations() -> np.ndarray:
    """Standard deviations of the posterior, by preconditioned MALA, which has no bias."""
    target, centre = peers.posterior(), peers.mode()
    X = peers.cancer()[0]
    p = 0.5 + 0.5 * np.tanh(0.5 * X @ centre)
    values, basis = np.linalg.eigh((X * (p * (1 - p))[:, None]).T @ X + np.eye(target.dim))
    model = mk.lowrank.LowRankOperator(np.ascontiguousarray(basis), values)
    x0 = centre + (mk.random.normal(1, (500, target.dim)) / np.sqrt(values)) @ basis.T
    chain = mk.samplers.PreconditionedMALA(target, 0.3, model, 0.0)
    draws = mk.run(chain, x0, 1000, burn_in=200, thin=1, seed=9, progress=False).x
    return np.asarray(draws).reshape(-1, target.dim).std(0)


def judged(
    draw: Callable[[int], tuple[np.ndarray, float]], *, kept: int, warm: int = 0
) -> dict[str, float]:
    """`draw(seed)` gives chains (chains, draws, d) and gradients per chain of the kept draws. The first call compiles."""
    draw(1)
    start = time.perf_counter()
    x, gradients = draw(2)
    seconds = time.perf_counter() - start
    x = np.asarray(x, np.float64)
    n = float(effective(x).min())
    return {
        "seconds": seconds,
        "gradients/draw": gradients / kept,
        "effective": n,
        "effective/s": n / seconds,
        "gradients/effective": gradients * x.shape[0] / n,
        "off": float(np.abs(x.std((0, 1)) / deviations() - 1).max()),
    }


def ours(dtype: str, quick: bool, *, adaptive: bool = False) -> dict[str, float]:
    target, kept = peers.posterior(), KEPT // 4 if quick else KEPT
    x0 = np.tile(peers.mode().astype(dtype), (CHAINS, 1))
    if adaptive:
        controller = mk.sde.PIDController(0.0, 0.05, dtmin=2.0**-8, dt0=STEP)
        chain = mk.samplers.UnderdampedLangevin(target, 1.0, controller=controller)
        every = 1
    else:
        chain, every = mk.samplers.UnderdampedLangevin(target, STEP), round(1 / STEP)

    def draw(seed: int) -> tuple[np.ndarray, float]:
        result = mk.run(
            chain, x0, (SETTLE + kept) * every, burn_in=SETTLE * every, thin=every, seed=seed, progress=False,
        )  # fmt: skip
        gradients = 2.0 * kept * every
        if adaptive:
            counts = np.asarray(result.stats["gradients"], float).mean(1)
            gradients = (counts[-1] - counts[0]) * kept / (kept - 1)
        return np.asarray(result.x).swapaxes(0, 1), gradients

    return judged(draw, kept=kept)


def _jax_parts(dtype: str) -> tuple[Any, Any, Callable[[Any], Any]]:
    import jax
    import jax.numpy as jnp

    X, y = (jnp.asarray(a, dtype) for a in peers.cancer())
    sign = 2 * y - 1

    def log_density(theta: Any) -> Any:
        return -jax.nn.softplus(-sign * (X @ theta)).sum() - 0.5 * theta @ theta

    return jax, jnp, log_density


def diffrax(dtype: str, quick: bool, *, independent: bool = False) -> dict[str, float]:
    import diffrax as dx

    jax, jnp, log_density = _jax_parts(dtype)
    kept = KEPT // 4 if quick else KEPT
    T, d = float(SETTLE + kept), peers.PROBLEMS["kinetic"].dim
    area, one = dx.SpaceTimeTimeLevyArea, jnp.ones((), dtype)
    shape = jax.ShapeDtypeStruct((d,), dtype)
    gradient = jax.grad(log_density)
    start = jnp.asarray(peers.mode(), dtype)
    saves = dx.SaveAt(ts=jnp.arange(SETTLE + 1, T + 0.5, 1.0, dtype=dtype))

    def chain(key: Any) -> Any:
        first, key = jax.random.split(key)
        if independent:
            path: Any = dx.UnsafeBrownianPath(shape, key, levy_area=area)
        else:
            path = dx.VirtualBrownianTree(0.0, T, STEP / 2, shape, key, levy_area=area)
        terms = dx.MultiTerm(
            dx.UnderdampedLangevinDriftTerm(one, one, lambda x, args: -gradient(x)),
            dx.UnderdampedLangevinDiffusionTerm(one, one, path),
        )
        y0 = (start, jax.random.normal(first, (d,), dtype))
        return dx.diffeqsolve(
            terms, dx.QUICSORT(), 0.0, T, STEP, y0, saveat=saves, max_steps=None, adjoint=dx.ForwardMode()
        ).ys[0]  # fmt: skip

    run = jax.jit(jax.vmap(chain))

    def draw(seed: int) -> tuple[np.ndarray, float]:
        keys = jax.random.split(jax.random.key(seed), CHAINS)
        return np.asarray(run(keys)), 2.0 * kept / STEP

    return judged(draw, kept=kept)


def blackjax(dtype: str, quick: bool) -> dict[str, float]:
    import blackjax as bj

    jax, jnp, log_density = _jax_parts(dtype)
    draws = NUTS_DRAWS // 2 if quick else NUTS_DRAWS
    start = jnp.asarray(peers.mode(), dtype)

    def chain(key: Any) -> Any:
        key, warm = jax.random.split(key)
        (state, parameters), _ = bj.window_adaptation(bj.nuts, log_density).run(
            warm, start, num_steps=draws
        )
        kernel = bj.nuts(log_density, **parameters)

        def step(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(step, state, jax.random.split(key, draws))[1]

    run = jax.jit(jax.vmap(chain))

    def draw(seed: int) -> tuple[np.ndarray, float]:
        x, steps = run(jax.random.split(jax.random.key(seed), NUTS_CHAINS))
        return np.asarray(x), float(np.asarray(steps).sum(1).mean())

    return judged(draw, kept=draws)


def numpyro(dtype: str, quick: bool) -> dict[str, float]:
    from numpyro.infer import MCMC, NUTS

    jax, jnp, log_density = _jax_parts(dtype)
    draws = NUTS_DRAWS // 2 if quick else NUTS_DRAWS
    start = jnp.tile(jnp.asarray(peers.mode(), dtype), (NUTS_CHAINS, 1))
    mcmc = MCMC(
        NUTS(potential_fn=lambda theta: -log_density(theta)),
        num_warmup=draws,
        num_samples=draws,
        num_chains=NUTS_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
        jit_model_args=True,
    )

    def draw(seed: int) -> tuple[np.ndarray, float]:
        mcmc.run(jax.random.key(seed), init_params=start, extra_fields=("num_steps",))
        x = np.asarray(mcmc.get_samples(group_by_chain=True))
        steps = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["num_steps"])
        return x, float(steps.sum(1).mean())

    return judged(draw, kept=draws)


SAMPLERS: dict[str, Callable[[str, bool], dict[str, float]]] = {
    "mckean": ours,
    "mckean adaptive": functools.partial(ours, adaptive=True),
    "diffrax": diffrax,
    "diffrax independent": functools.partial(diffrax, independent=True),
    "BlackJAX NUTS": blackjax,
    "NumPyro NUTS": numpyro,
}
