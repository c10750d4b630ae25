"""Two photographs exchange their colours, and digits become others: entropic transport on images."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import mckean as mk

__all__ = ["main"]

_EPS, _SHARP = 0.01, 0.002  # of the mean cost: colours, digits
_NAMES = ("china.jpg", "flower.jpg")
_MORPHS = ((0, 1), (3, 8), (4, 7), (2, 5))  # the first images of these digits
_FRAMES, _PIXELS = 9, 40  # of a morph: images, and pixels along a side


def _photographs() -> list[Any]:
    """RGB in [0, 1], (427, 640, 3). By danielbuechele and vultilion, CC BY 2.0, shipped with scikit-learn."""
    from sklearn.datasets import load_sample_images

    data = load_sample_images()
    named = {
        Path(name).name: image for name, image in zip(data.filenames, data.images, strict=True)
    }
    return [named[name].astype(np.float32) / 255 for name in _NAMES]


def _some(image: Any, count: int, stream: int) -> Any:
    """Colours of random pixels, (count, 3)."""
    u = mk.random.uniform(1, count, stream=stream)
    colours = image.reshape(-1, 3)
    return np.ascontiguousarray(colours[(u * len(colours)).astype(np.int64)])


def _exchange(images: list[Any], count: int) -> list[Any]:
    """Each photograph in the colours of the other one; prints what was done."""
    x, y = (_some(image, count, k) for k, image in enumerate(images))
    fresh = [_some(image, count, 2 + k) for k, image in enumerate(images)]
    print(
        f"{'colours':<18}{'method':>9}{'iterations':>12}{'error':>9}{'<P, C>':>9}{'solve s':>9}{'map s':>7}"
        f"{'divergence before':>19}{'after':>9}{'noise':>9}"
    )
    out, init = [], None
    for source, target, image, k in ((x, y, images[0], 0), (y, x, images[1], 1)):
        start = time.perf_counter()
        result = mk.sinkhorn_points(source, target, rel_eps=_EPS, tol=1e-4, init=init)
        solved = time.perf_counter()
        moved = np.clip(result.transport_map(image.reshape(-1, 3)), 0, 1)
        mapped = time.perf_counter()
        init = (result.g, result.f)  # the way back has the same potentials
        # Beside colours that were not fitted; the noise is what two samples of one photograph differ by.
        before, after, noise = (
            mk.sinkhorn_divergence(p, fresh[1 - k], eps=result.eps, tol=1e-4)
            for p in (source, _some(moved, count, 4 + k), target)
        )
        label = f"{_NAMES[k][:-4]} to {_NAMES[1 - k][:-4]}"
        print(
            f"{label:<18}{result.method:>9}{result.n_iter:>12}{result.marginal_error:>9.0e}{result.cost:>9.4f}"
            f"{solved - start:>9.2f}{mapped - solved:>7.2f}{before:>19.4f}{after:>9.4f}{noise:>9.4f}"
        )
        out.append(moved.reshape(image.shape))
    return out


def _digit(label: int) -> tuple[Any, Any]:
    """Places (n, 2) in the unit square and weights (n,) of the ink of an image of 8 x 8 pixels [1]_, interpolated.

    .. [1] E. Alpaydin, C. Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    image = data.images[np.flatnonzero(data.target == label)[0]]
    side = 3 * len(image)
    at = (np.arange(side) + 0.5) / 3 - 0.5
    tent = np.maximum(1 - abs(at[:, None] - np.arange(len(image))), 0)  # linear between pixels
    ink = tent @ image @ tent.T
    row, column = np.nonzero(ink)
    places = (np.stack([column, row], axis=1) + 0.5) / side
    return places, ink[row, column] / ink.sum()


def _drawn(places: Any, weights: Any) -> Any:
    """An image (_PIXELS, _PIXELS) of ink at these places, each spread by a Gaussian."""
    at = (np.arange(_PIXELS) + 0.5) / _PIXELS
    across, down = (np.exp(-0.5 * ((at - z[:, None]) * 40) ** 2) for z in places.T)
    return (down * weights[:, None]).T @ across


def _morph(first: int, second: int) -> tuple[list[Any], Any]:
    """Images between two digits: all mass of the plan on its way along straight lines."""
    (x, a), (y, b) = _digit(first), _digit(second)
    result = mk.sinkhorn_points(x, y, rel_eps=_SHARP, a=a, b=b, tol=1e-6)
    plan = result.plan()
    i, j = np.nonzero(plan > 1e-9)
    frames = [_drawn((1 - t) * x[i] + t * y[j], plan[i, j]) for t in np.linspace(0, 1, _FRAMES)]
    return frames, result


def main(folder: Path, *, pixels: int = 3000) -> int:
    """Transfer colours, morph digits, print tables, write ``transport.png`` into `folder`; return the exit status."""
    try:
        import matplotlib
        import sklearn  # noqa: F401
    except ImportError as error:
        print(
            f"the demo needs {error.name}: pip install 'mckean[plot]' scikit-learn", file=sys.stderr
        )
        return 1
    matplotlib.use("Agg")
    start = time.perf_counter()
    images = _photographs()
    size = images[0].shape[0] * images[0].shape[1]
    print(
        f"{pixels} pixels of each photograph, eps = {_EPS} of the mean cost; the map is applied to all {size} pixels\n"
    )
    exchanged = _exchange(images, pixels)
    print(
        f"\n{'digits':<12}{'points':>12}{'method':>9}{'iterations':>12}{'newton':>8}{'error':>9}{'W2':>8}"
    )
    strips, done = [], True
    for first, second in _MORPHS:
        frames, result = _morph(first, second)
        strips.append(frames)
        done = done and bool(result.converged)
        points = f"{len(result.f)} x {len(result.g)}"
        print(
            f"{f'{first} to {second}':<12}{points:>12}{result.method:>9}{result.n_iter:>12}{result.n_newton:>8}"
            f"{result.marginal_error:>9.0e}{result.cost**0.5:>8.4f}"
        )
    path = _picture(folder, images, exchanged, strips)
    print(f"\ntime     {time.perf_counter() - start:.1f} s\npicture  {path}")
    return 0 if done else 1


def _picture(folder: Path, images: list[Any], exchanged: list[Any], strips: list[Any]) -> Path:
    """Above: photographs, and what becomes of them. Below: a digit becomes another one, from left to right."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 6.8 + len(strips)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(6.8, len(strips)))
    axes = above.subplots(2, 2)
    titles = ("{}", "in the colours of the other one")
    for row, pair in enumerate(zip(images, exchanged, strict=True)):
        for axis, image, title in zip(axes[row], pair, titles, strict=True):
            axis.imshow(image)
            axis.set_title(title.format(_NAMES[row]), fontsize=10)
            axis.axis("off")
    axes = below.subplots(len(strips), 1, squeeze=False)[:, 0]
    for axis, frames in zip(axes, strips, strict=True):
        axis.imshow(np.concatenate(frames, axis=1), cmap="gray_r")
        axis.axis("off")
    figure.suptitle("Entropic transport: colours of photographs, ink of digits")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "transport.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
