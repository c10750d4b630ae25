"""
Langevin chains in the metric of a low-rank Hessian
===================================================

A Gaussian in 50 dimensions whose precisions run from 1000 down to 0.5. Steps of a plain chain must be short enough for
the stiffest direction and then take forever in the soft ones. With the eight stiff directions in a low-rank model, the
same number of gradients reaches them all; the ensemble can also find the model by itself.

Run: ``python examples/plot_low_rank_langevin.py`` (10 s), writes ``low_rank_langevin.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk

D, RANK, N, STEPS = 50, 8, 400, 400
PRECISION = np.concatenate([np.geomspace(1000, 20, RANK), np.linspace(2, 0.5, D - RANK)])


def main():
    Q = np.linalg.qr(mk.random.normal(0, (D, D)))[0]
    H = (Q * PRECISION) @ Q.T
    target = mk.targets.Gaussian(np.zeros(D), precision=(H + H.T) / 2)
    damping = 1.0
    top = mk.lowrank.lanczos(lambda v: H @ v, D, RANK)
    model = mk.lowrank.LowRankOperator(top.U, top.s - damping)
    chains = {
        "MALA": mk.samplers.MALA(target, 0.4 / PRECISION[0]),
        "low-rank MALA": mk.samplers.PreconditionedMALA(target, 0.3, model, damping),
        "model from the ensemble": mk.samplers.LevenbergMarquardtLangevin(target, rank=RANK),
    }
    x0 = mk.random.normal(1, (N, D))  # too wide in the stiff directions
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, chain in chains.items():
        state, off = chain.init(x0, seed=2), []
        for _ in range(STEPS):
            state = chain.step(state)
            variance = ((np.asarray(state.x) @ Q) ** 2).mean(0)
            off.append(abs(variance * PRECISION - 1).max())
        print(f"{name:<24} worst variance off by {off[-1]:.2f} after {state.n_gradients} gradients")
        axes[0].semilogy(np.arange(1, STEPS + 1), off, label=name)
        axes[1].loglog(PRECISION, variance * PRECISION, "o", ms=3, label=name)
    axes[0].set(xlabel="step", ylabel="largest relative error of a variance")
    axes[0].legend()
    axes[1].axhline(1, color="gray", lw=0.8)
    axes[1].set(xlabel="precision of a direction", ylabel="variance, relative, at the end")
    figure.savefig("low_rank_langevin.png", dpi=120)


if __name__ == "__main__":
    main()
