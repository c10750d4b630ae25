"""
How far apart are two digits? A matrix of kernel distances
==========================================================

The Kernel Inception Distance is an unbiased squared maximum mean discrepancy with a cubic kernel. Here the features are
the pixels of handwritten digits, and the two samples are the images of two digits. On the diagonal a digit is compared
with itself, one half of its images with the other: zero up to the standard error, negative values included.

Run: ``python examples/plot_kid_digits.py`` (5 s), writes ``kid_digits.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import mckean as mk


def main():
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 8.0
    value, error = np.zeros((10, 10)), np.zeros((10, 10))
    for i in range(10):
        for j in range(i + 1):
            x, y = digits[labels == i], digits[labels == j]
            if i == j:
                x, y = x[::2], x[1::2]
            estimate = mk.interaction.kid(x, y, subset_size=10, blocks="disjoint")
            value[i, j] = value[j, i] = estimate.value
            error[i, j] = error[j, i] = estimate.standard_error

    figure, axis = plt.subplots(figsize=(8, 7), layout="constrained")
    image = axis.imshow(value, cmap="viridis")
    for i in range(10):
        for j in range(10):
            dark = value[i, j] < 0.6 * value.max()
            text = f"{value[i, j]:.2f}\n±{error[i, j]:.2f}"
            axis.text(j, i, text, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    axis.set_xticks(range(10))
    axis.set_yticks(range(10))
    axis.set(title="Kernel distance of digits, ± standard error of disjoint blocks")
    figure.colorbar(image)
    apart = np.where(np.eye(10), np.inf, value)
    i, j = np.unravel_index(np.argmin(apart), apart.shape)
    print(f"closest pair: {i} and {j}, {value[i, j]:.2f} ± {error[i, j]:.2f}")
    worst = np.max(np.abs(np.diag(value)) / np.diag(error))
    print(f"a digit against itself: at most {worst:.1f} standard errors from 0")
    figure.savefig("kid_digits.png", dpi=120)


if __name__ == "__main__":
    main()
