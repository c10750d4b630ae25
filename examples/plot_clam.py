"""
Clusters as memories
====================

ClAM learns prototypes such that an associative memory completes points of which it sees a part. Here it clusters
handwritten digits: the prototypes, what the memory makes of digits with a third of the pixels hidden, and the basins of
the same dynamics in the plane.

Run: ``python examples/plot_clam.py`` (20 s), writes ``clam.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, silhouette_score

import mckean as mk


def main():
    digits, labels = load_digits(return_X_y=True)
    digits, labels = digits[:800] / 16.0, labels[:800]
    model = mk.interaction.ClAM(10, beta=2.0, n_restarts=2, seed=1).fit(digits)
    k_means = KMeans(10, n_init=10, random_state=0).fit(digits)
    for name, found in (("ClAM", model.labels), ("k-means", k_means.labels_)):
        silhouette, rand = silhouette_score(digits, found), adjusted_rand_score(labels, found)
        print(f"{name:<8} silhouette {silhouette:.3f}, adjusted Rand index {rand:.3f}")

    hidden = (mk.random.uniform(5, (10, 64)) < 1 / 3).astype(float)
    shown = digits[:10] * (1 - hidden) + digits.mean(0) * hidden
    options = dict(beta=model.beta, step=model.step, n_steps=model.n_steps)
    completed = mk.interaction.clam_steps(model.prototypes, shown, mask=hidden, **options)
    figure = plt.figure(figsize=(13, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2, 1])
    rows = {"prototypes": model.prototypes, "digits": digits, "seen": shown, "completed": completed}
    axes = left.subplots(4, 10)
    for (name, images), line in zip(rows.items(), axes, strict=True):
        for image, mask, axis in zip(images, hidden, line, strict=False):
            image = np.where(mask, np.nan, image) if name == "seen" else image
            axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)

    memories = np.array([[-1.0, -0.6], [1.2, -0.8], [0.1, 1.0], [0.4, 0.1]])
    axis = right.subplots()
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 200), np.linspace(-2, 2, 200)), -1)
    points = grid.reshape(-1, 2)
    energy = mk.interaction.clam_energy(memories, points, beta=4.0)
    rest = mk.interaction.clam_steps(memories, points, beta=4.0, step=0.5, n_steps=60)
    basin = mk.interaction.pair_argmin(rest, memories)[0][:, 0]
    axis.pcolormesh(*grid.transpose(2, 0, 1), basin.reshape(200, 200), cmap="Pastel1")
    axis.contour(*grid.transpose(2, 0, 1), energy.reshape(200, 200), 12, colors="k", linewidths=0.5)
    axis.plot(*memories.T, "k*", ms=10)
    axis.set(title="Energy and basins of four memories", aspect="equal")
    figure.savefig("clam.png", dpi=120)


if __name__ == "__main__":
    main()
