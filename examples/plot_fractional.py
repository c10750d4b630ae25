"""
Fractional Brownian motion from one Brownian path
=================================================

The same driving path, smoothed or roughened: Hurst indices 0.2, 0.5 and 0.8 from one seed, and the
growth of the variance against t^(2H).

Run: ``python examples/plot_fractional.py`` (10 s), writes ``fractional.png``.
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import mckean as mk


def main():
    ts = np.linspace(0, 1, 513)
    figure, (paths, growth) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for hurst in (0.2, 0.5, 0.8):
        tree = mk.FractionalBrownianTree(5, (2000, 1), hurst=hurst, normalized=True)
        b = np.concatenate([np.zeros((1, 2000)), tree.increments(ts).W[:, :, 0].cumsum(axis=0)])
        slope = np.polyfit(np.log(ts[32:]), np.log(b[32:].var(axis=1)), 1)[0]
        paths.plot(ts, b[:, 0], lw=1, label=f"H = {hurst}")
        growth.loglog(ts[1:], b[1:].var(axis=1), label=f"H = {hurst}: slope {slope:.2f}")
        growth.loglog(ts[1:], ts[1:] ** (2 * hurst), "k:", lw=1)
        print(f"H = {hurst}: variance grows like t^{slope:.2f}, expected t^{2 * hurst:.1f}")
    paths.set(title="One seed, three Hurst indices", xlabel="t")
    paths.legend()
    growth.set(title="Variance of 2000 paths", xlabel="t")
    growth.legend()
    figure.savefig("fractional.png", dpi=120)


if __name__ == "__main__":
    main()
