"""
Bulk and outliers of a Hessian
==============================

The Hessian of a logistic regression on the breast cancer data, seen through products with vectors alone, which are
differences of gradients here. Stochastic Lanczos quadrature draws the density of its eigenvalues, Lanczos' method finds
the largest ones, and a low-rank model of them answers what a Newton step would be. The dense matrix, 31 by 31, says
whether all that is right.

Run: ``python examples/plot_hessian_spectrum.py`` (5 s), writes ``hessian_spectrum.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

import mckean as mk


def main():
    data = load_breast_cancer()
    X = (data.data - data.data.mean(0)) / data.data.std(0)
    target = mk.targets.LogisticRegression(np.column_stack([np.ones(len(X)), X]), data.target)
    d, x = target.dim, np.zeros(target.dim)

    def grad(theta):
        return -np.asarray(target.grad_log_density(theta[None]))[0]

    H = mk.lowrank.hessian_operator(grad, x)
    density = mk.lowrank.spectral_density(H, d, n_steps=31)
    model = mk.lowrank.lanczos(H, d, 6)
    dense = np.stack([np.asarray(H(e)) for e in np.eye(d)])
    known = np.linalg.eigvalsh((dense + dense.T) / 2)[::-1]
    print("largest eigenvalues:", np.round(model.s, 2))
    print("dense              :", np.round(known[:6], 2))

    # A Newton step in the six stiff directions, a gradient step with the next curvature in the others.
    damping = float(known[6])
    stiff = mk.lowrank.LowRankOperator(model.U, model.s - damping)
    steps = {
        "gradient": -grad(x) / known[0],
        "low rank": -stiff.solve(grad(x), damping),
        "Newton": -np.linalg.solve(dense, grad(x)),
    }
    for name, step in steps.items():
        fall = float(np.asarray(target.log_density((x + step)[None]) - target.log_density(x[None]))[0])  # fmt: skip
        print(f"{name:<9} step raises the log density by {fall:8.2f}")

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    axes[0].semilogy(density.grid, np.maximum(density.density, 1e-7))
    axes[0].plot(known, np.full(d, 2e-5), "|", color="tab:red", ms=12, label="dense")
    axes[0].set(
        xlabel="eigenvalue", ylabel="density", ylim=(1e-5, None), title="Lanczos quadrature"
    )
    axes[0].legend()
    axes[1].semilogy(np.arange(1, d + 1), known, "o", mfc="none", label="dense")
    axes[1].semilogy(np.arange(1, 7), model.s, "x", color="tab:red", label="Lanczos, rank 6")
    axes[1].axhline(damping, color="gray", lw=0.8, label="damping")
    axes[1].set(xlabel="number", title="eigenvalues")
    axes[1].legend()
    figure.savefig("hessian_spectrum.png", dpi=120)


if __name__ == "__main__":
    main()
