"""
Digits that do not belong, by kernel density
============================================

A kernel density of the digits 0 to 4 scores what it has not seen: more of the same, the digits 5 to 9, and noise with
the same mean and variance per pixel. Low density means out of distribution. The area under the ROC curve says how well,
against the bandwidth; the participation says how many training points make the density of a query, from all of them
(large bandwidths) to a single one. In many dimensions the bandwidth with the largest held-out density is one where few
points count.

Run: ``python examples/plot_kde_ood.py`` (5 s), writes ``kde_ood.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import mckean as mk


def main():
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 16.0
    known, other = digits[labels < 5], digits[labels >= 5]
    train, test = known[::2], known[1::2]
    noise = train.mean(0) + train.std(0) * mk.random.normal(1, test.shape)
    strangers = {"digits 5 to 9": other, "noise": noise}

    bandwidths = np.geomspace(0.05, 5.0, 15)
    auroc = {name: [] for name in strangers}
    participation, held_out = [], []
    for h in bandwidths:
        density = mk.kde(train, h)
        inside = density.log_density(test)
        held_out.append(inside.mean())
        for name, x in strangers.items():
            score = -np.concatenate([inside, density.log_density(x)])
            truth = np.repeat([0, 1], [len(test), len(x)])
            auroc[name].append(roc_auc_score(truth, score))
        participation.append(density.diagnostics(test).participation)
    best = int(np.argmax(held_out))

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    for name, values in auroc.items():
        left.semilogx(bandwidths, values, "o-", label=name)
        print(f"{name:<14} AUROC {values[best]:.3f} at bandwidth {bandwidths[best]:.2f}")
    left.axvline(bandwidths[best], color="k", ls=":", lw=1, label="largest held-out density")
    left.set(title="Telling strangers from digits 0 to 4", xlabel="bandwidth", ylabel="AUROC")
    left.legend()
    low, mid, high = np.quantile(participation, [0.1, 0.5, 0.9], axis=1)
    middle.loglog(bandwidths, mid, "o-")
    middle.fill_between(bandwidths, low, high, alpha=0.3)
    middle.axhline(0.1, color="k", ls="--", lw=1)
    middle.axvline(bandwidths[best], color="k", ls=":", lw=1)
    middle.set(title="Participation (1 = one point is everything)", xlabel="bandwidth")
    density = mk.kde(train, bandwidths[best])
    for name, x in {"digits 0 to 4": test, **strangers}.items():
        right.hist(density.log_density(x), bins=40, alpha=0.6, density=True, label=name)
    right.set(title=f"log density at bandwidth {bandwidths[best]:.2f}")
    right.legend()
    condensed = np.mean(participation[best] > 0.1)
    print(f"few training points make the density of {condensed:.0%} of the held-out digits")
    figure.savefig("kde_ood.png", dpi=120)


if __name__ == "__main__":
    main()
