"""Noise becomes digits: the sliced MMD flow from a uniform cloud onto the images of handwritten digits."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import mckean as mk

__all__ = ["main"]

_STEP, _MOMENTUM, _DECAY, _SLICES = 0.5, 0.8, 0.9995, 128
_SHOWN = 20  # particles in the picture


def _data() -> Any:
    """Handwritten digits [1]_: 1797 images of 8 x 8 pixels, in [0, 1].

    .. [1] E. Alpaydin, C. Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    return (load_digits().data / 16.0).astype(np.float32)


def _rows(n_steps: int) -> list[int]:
    """Steps to show: 0, 1, 2, 4, ... and the last."""
    powers = [1 << k for k in range(n_steps.bit_length()) if 1 << k <= n_steps // 2]
    return [0, *powers, n_steps]


def main(folder: Path, *, particles: int = 1797, n_steps: int = 2048) -> int:
    """Move the cloud, print a table, write ``flow.png`` into `folder`; return the exit status."""
    try:
        import matplotlib
        import sklearn  # noqa: F401
    except ImportError as error:
        print(
            f"the demo needs {error.name}: pip install 'mckean[plot]' scikit-learn",
            file=sys.stderr,
        )
        return 1
    matplotlib.use("Agg")
    digits = _data()
    x0 = mk.random.uniform(1, (particles, digits.shape[1]), dtype="float32")
    flow = mk.flows.SlicedMMDFlow(digits, _STEP, n_slices=_SLICES, momentum=_MOMENTUM, decay=_DECAY)
    print(
        f"{particles} particles of uniform noise onto {len(digits)} images of {digits.shape[1]} pixels; "
        f"{n_steps} steps of the sliced MMD flow with {_SLICES} directions"
    )
    wanted = _rows(n_steps)
    seen = [(0, x0, flow.init(x0).mmd2, float("nan"))]
    last = (0, time.perf_counter())

    def watch(step: int, state: Any) -> None:
        nonlocal last
        if step in wanted:
            now = time.perf_counter()
            each = 1e3 * (now - last[1]) / (step - last[0])
            seen.append((step, state.x, state.mmd2, each))
            last = (step, time.perf_counter())

    result = mk.run(flow, x0, n_steps, burn_in=n_steps, callback=watch)

    exact = [mk.energy_distance(x, digits) for _, x, _, _ in seen]
    print(f"\n{'step':>6}{'sliced MMD2':>14}{'energy distance':>18}{'ms/step':>10}")
    for (step, _, mmd2, each), value in zip(seen, exact, strict=True):
        print(f"{step:>6}{mmd2:>14.3e}{value:>18.3e}{'' if step == 0 else f'{each:.1f}':>10}")
    order = np.argsort(mk.random.uniform(2, len(digits)))
    half = len(digits) // 2
    halves = mk.energy_distance(digits[order[:half]], digits[order[half:]])
    print(f"\ntwo halves of the images  {halves:.3e}  (energy distance of independent samples)")
    print(f"time                      {result.timings['total']:.1f} s")
    path = _picture(folder, [(step, x) for step, x, _, _ in seen], exact, digits)
    print(f"picture                   {path}")
    return 0 if result.converged and exact[-1] < exact[0] else 1


def _picture(folder: Path, seen: list[tuple[int, Any]], exact: list[float], digits: Any) -> Path:
    """Rows are times, columns are particles; below, the nearest real image of each."""
    import matplotlib.pyplot as plt

    final = seen[-1][1][:_SHOWN]
    nearest = digits[((final[:, None] - digits) ** 2).sum(axis=2).argmin(axis=1)]
    rows = [
        (f"step {step}\n{value:.1e}", x[:_SHOWN])
        for (step, x), value in zip(seen, exact, strict=True)
    ]
    rows.append(("nearest\nreal image", nearest))
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(12, 0.68 * len(rows) + 0.5), layout="constrained"
    )
    for axis, (label, images) in zip(axes, rows, strict=True):
        strip = np.full((8, 9 * len(images) - 1), np.nan)
        for i, image in enumerate(images):
            strip[:, 9 * i : 9 * i + 8] = image.reshape(8, 8)
        axis.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(
        "Noise flows onto handwritten digits: time downwards, one particle a column; energy distance to the data"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "flow.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
