"""
Barycentres of digits
=====================

Between the images of two handwritten digits lie their Wasserstein barycentres. First row: the average of the pixels.
Second: entropic barycentres, which blur. Third: debiased, without the blur of entropy. Last: the barycentre as 200
points that move, each column from where the one before left them. Columns go from one digit to the other.

Run: ``python examples/plot_barycenter.py`` (6 s), writes ``barycenter.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import mckean as mk

SIDE, EPS, COLUMNS = 8, 0.4, 7


def grid(side, points):
    """The middles of points^2 cells of a square of this side, row by row."""
    axis = (np.arange(points) + 0.5) * side / points
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def main():
    data = load_digits()
    images = np.stack([data.data[np.flatnonzero(data.target == k)[0]] for k in (3, 0)])
    # Every pixel as 2 x 2 smaller ones, as a blur of nothing would leave the barycentre on a lattice.
    images = np.kron(images.reshape(-1, SIDE, SIDE), np.ones((2, 2))).reshape(2, -1)
    masses, pixels = images / images.sum(1, keepdims=True), grid(SIDE, 2 * SIDE)
    points = mk.random.normal(0, (200, 2)) + SIDE / 2
    figure, axes = plt.subplots(4, COLUMNS, figsize=(1.6 * COLUMNS, 6.6), layout="constrained")
    for column, t in enumerate(np.linspace(0, 1, COLUMNS)):
        weights = np.array([1 - t, t])
        blurred = mk.transport.barycenter(
            pixels, pixels, eps=EPS, masses=masses, weights=weights, tol=1e-5
        )
        sharp = mk.transport.barycenter(
            pixels, pixels, eps=EPS, masses=masses, weights=weights, debiased=True, tol=1e-3
        )
        free = mk.transport.free_barycenter(
            pixels,
            points,
            eps=EPS,
            masses=masses,
            weights=weights,
            debiased=True,
            tol=1e-4,
            move_tol=5e-3,
        )
        points = free.x  # the next one is near
        print(
            f"t = {t:.2f}: {blurred.n_iter} and {sharp.n_iter} iterations, {free.n_steps} steps of the points"
        )
        shown = weights @ masses, blurred.weights, sharp.weights
        for row, image in enumerate(shown):
            axes[row, column].imshow(image.reshape(2 * SIDE, -1), cmap="gray_r")
        axes[3, column].plot(free.x[:, 1], free.x[:, 0], "k.", ms=2)
        axes[3, column].set(xlim=(0, SIDE), ylim=(SIDE, 0), aspect="equal")
    for axis, name in zip(axes[:, 0], ("average", "barycentre", "debiased", "points"), strict=True):
        axis.set_ylabel(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig("barycenter.png", dpi=120)


if __name__ == "__main__":
    main()
