"""Brownian paths grown from one seed, with Levy areas, and fractional Brownian motion driven by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mckean import _array
from mckean._dispatch import carrier, executor, parse_device
from mckean._errors import as_count, as_real, as_seed, one_of, positive
from mckean._exponential import ou_noise_weights
from mckean._fractional import fractional_weights, unit_variance

__all__ = ["BrownianTree", "FractionalBrownianTree", "Increment"]

_COMPONENTS = {"none": 1, "space-time": 2, "space-time-time": 3}


class Increment(NamedTuple):
    """What a Brownian path does over an interval: its length `dt`, the increment `W` and the areas `H` and `K`.

    `H` and `K` are None where they were not asked for.
    """

    dt: Any
    W: Any
    H: Any
    K: Any


def _shape(shape: Any) -> tuple[int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ValueError(f"shape: expected (n_paths, dim), got {shape!r}")
    n, d = (as_count(size, "shape", least=1) for size in shape)
    if n * d >= 1 << 59:
        raise ValueError(f"shape: expected n_paths * dim below 2**59, got {shape!r}")
    return n, d


def _interval(t0: Any, t1: Any) -> tuple[float, float]:
    t0, t1 = as_real(t0, "t0"), as_real(t1, "t1")
    if not t1 > t0 or not math.isfinite(t1 - t0):
        raise ValueError(f"t1: expected t1 > t0 = {t0}, got {t1}")
    return t0, t1


def _depth(length: float, tol: Any, deepest: int) -> int:
    tol = positive(tol, "tol")
    depth = max(0, math.ceil(math.log2(length) - math.log2(tol) - 1e-12))
    if depth > deepest:
        raise ValueError(
            f"tol: expected at least (t1 - t0) * 2**-{deepest} = {length * 2.0**-deepest:.3g}, got {tol}"
        )
    return depth


def _host_times(t: Any, name: str) -> np.ndarray[Any, Any]:
    """Times of any framework as contiguous float64 NumPy."""
    try:
        return np.ascontiguousarray(_array.to_numpy(t), np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected times, {error}") from None


def _is_single(t: Any) -> bool:
    dtype = getattr(t, "dtype", "")
    if isinstance(dtype, np.dtype):  # their names take longer than the comparison
        return dtype == np.float32
    return str(dtype).endswith("float32")


class _Times:
    """The interval of a tree and the checks of times against it."""

    t0: float
    t1: float
    _earliest: float
    _latest: float
    _slack_single: float

    def _set_interval(self, t0: float, t1: float) -> None:
        self.t0, self.t1 = t0, t1
        # Sums of steps may overshoot by rounding, and float32 times are only near the float64 they stand for.
        size = max(abs(t0), abs(t1))
        slack = 4 * float(np.finfo(np.float64).eps) * size
        self._earliest, self._latest = t0 - slack, t1 + slack
        self._slack_single = 4 * float(np.finfo(np.float32).eps) * size

    def _check_time(self, t: float, name: str, *, single: bool = False) -> None:
        slack = self._slack_single if single else 0.0
        if not self._earliest - slack <= t <= self._latest + slack:
            raise ValueError(f"{name}: expected times in [{self.t0}, {self.t1}], got {t}")

    def _check_times(self, t: np.ndarray[Any, Any], name: str, *, single: bool = False) -> None:
        slack = self._slack_single if single else 0.0
        first, last = self._earliest - slack, self._latest + slack
        if t.size and not (t.min() >= first and t.max() <= last):
            bad = t[~((t >= first) & (t <= last))].flat[0]
            raise ValueError(f"{name}: expected times in [{self.t0}, {self.t1}], got {bad}")

    def _grid(self, ts: Any) -> np.ndarray[Any, Any]:
        grid = _host_times(ts, "ts")
        if grid.ndim != 1 or grid.size < 1:
            raise ValueError(
                f"ts: expected a one-dimensional, non-empty array, got shape {grid.shape}"
            )
        self._check_times(grid, "ts", single=_is_single(ts))
        if (np.diff(grid) < 0).any():
            at = int(np.argmax(np.diff(grid) < 0))
            raise ValueError(
                f"ts: expected non-decreasing times, got {grid[at]} before {grid[at + 1]}"
            )
        return grid


class BrownianTree(_Times):
    r"""A Brownian path of many independent components, as a pure function of time.

    Any increment, with its Levy areas, can be asked for in any order; nothing is stored between queries but an
    accelerator that never changes a result. Over an interval of length :math:`h` starting at :math:`s`,

    .. math::

        W &= B_{s+h} - B_s, & \mathrm{Var}\, W &= h, \\
        H &= \tfrac1h \int_0^h \bigl(B_{s+r} - B_s - \tfrac rh W\bigr)\, dr, & \mathrm{Var}\, H &= \tfrac h{12}, \\
        K &= \tfrac1{h^2} \int_0^h \bigl(B_{s+r} - B_s - \tfrac rh W\bigr)\bigl(\tfrac h2 - r\bigr)\, dr,
        & \mathrm{Var}\, K &= \tfrac h{720},

    independent of each other. The joint law over any intervals whose end points are at least `tol` apart is exact [1]_.
    A query costs ``O(log((t1 - t0) / tol))``, one close to the query before only a few steps; memory does not grow
    with the number of queries.

    Parameters
    ----------
    seed : int or numpy.random.SeedSequence
        An int has 64 bits, ``0 <= seed < 2**64``.
    shape : (int, int)
        ``(n_paths, dim)``, both at least 1.
    t0, t1 : float
        The interval the path lives on, ``t0 < t1``.
    tol : float
        Length of the leaves of the tree, at least ``(t1 - t0) * 2**-52``; rounded down to ``(t1 - t0) * 2**-depth``.
    levy_area : {"none", "space-time", "space-time-time"}
        What is generated: W, or W and H, or W, H and K. The path of a seed differs between the three; a path that
        several solvers share should be built with the richest one any of them needs.
    dtype : dtype
        float32 or float64. The float32 path is the float64 path up to rounding.
    device : str
        "cpu" or "cuda[:index]".
    like : array or str, optional
        Framework (and device) of the results: an array, or one of "numpy", "torch", "jax", "cupy".

    Attributes
    ----------
    shape, t0, t1, tol, depth, levy_area, dtype, device, seed
        As given; `tol` is the length of a leaf in use.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of the wrong type.
    DeviceError
        If `device` is not available.

    Notes
    -----
    The value at (seed, path, coordinate, time) does not depend on the number of threads, the instruction set, the
    device, the other paths of the tree or the queries made before. One normal draw has at most 6.76 in magnitude; sums
    over the levels of the tree go further. Results are not differentiable.

    References
    ----------
    .. [1] A. Jelincic, J. Foster, P. Kidger, "Single-seed generation of Brownian paths and integrals for adaptive and
       high order SDE solvers" (2024), arXiv:2405.06464

    Examples
    --------
    >>> import mckean as mk
    >>> tree = mk.BrownianTree(7, (10_000, 2), levy_area="space-time")
    >>> inc = tree.increment(0.25, 0.75)
    >>> inc.W.shape, inc.K is None
    ((10000, 2), True)
    >>> round(float(inc.W.var()), 1), round(float(12 * inc.H.var()), 1)
    (0.5, 0.5)
    """

    def __init__(
        self,
        seed: Any,
        shape: Sequence[int],
        *,
        t0: float = 0.0,
        t1: float = 1.0,
        tol: float = 2**-14,
        levy_area: str = "none",
        dtype: Any = "float64",
        device: Any = "cpu",
        like: Any = None,
    ) -> None:
        self.seed = as_seed(seed)
        self.shape = _shape(shape)
        self._set_interval(*_interval(t0, t1))
        self.depth = _depth(self.t1 - self.t0, tol, 52)
        self.tol = (self.t1 - self.t0) * 2.0**-self.depth
        self.levy_area = one_of(levy_area, "levy_area", tuple(_COMPONENTS))
        self.dtype = _array.dtype_name(dtype)
        self._framework, home = _array.like(like)
        self.device = (
            parse_device(device) if like is None or parse_device(device) != "cpu" else home
        )
        self._follow_times = like is None
        self._first = 0
        self._make()

    def _make(self) -> None:
        self._holder = carrier(self._framework, self.device)
        n, d = self.shape
        self._native = executor(self.device).Tree(
            self.seed,
            _COMPONENTS[self.levy_area],
            self.depth,
            self.t0,
            self.t1,
            self._first * d,
            n,
            d,
            4 if self.dtype == "float32" else 8,
        )

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("_native", "_holder")}
        state["_framework"] = self._framework.name
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._framework = _array.FRAMEWORKS[state["_framework"]]
        self._make()

    def __repr__(self) -> str:
        return (
            f"BrownianTree(seed={self.seed}, shape={self.shape}, t0={self.t0}, t1={self.t1}, tol={self.tol:.4g}, "
            f"levy_area={self.levy_area!r}, dtype={self.dtype!r}, device={self.device!r})"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, paths: slice) -> BrownianTree:
        """Return the sub-tree of consecutive paths ``tree[i:j]``, equal to the same rows of the whole."""
        if not isinstance(paths, slice):
            raise TypeError(f"paths: expected a slice i:j, got {type(paths).__name__}")
        first, last, step = paths.indices(self.shape[0])
        if step != 1:
            raise ValueError(f"paths: expected a slice of step 1, got step {step}")
        if last <= first:
            raise ValueError(
                f"paths: expected at least one of {self.shape[0]} paths, got {first}:{last}"
            )
        sub = BrownianTree.__new__(BrownianTree)
        state = self.__getstate__()
        state["_first"] = self._first + first
        state["shape"] = (last - first, self.shape[1])
        sub.__setstate__(state)
        return sub

    def _outputs(
        self, framework: _array.Framework, lead: tuple[int, ...]
    ) -> list[_array.Output | None]:
        holder = self._holder if framework is self._framework else carrier(framework, self.device)
        used = _COMPONENTS[self.levy_area]
        shape = (*lead, *self.shape)
        made: list[_array.Output | None] = [
            holder.empty(shape, self.dtype, self.device) for _ in range(used)
        ]
        return made + [None] * (3 - used)

    def _results(
        self, framework: _array.Framework, dt: Any, outs: list[_array.Output | None]
    ) -> Increment:
        values = [out and out.result() for out in outs]
        if self.device != "cpu" and not framework.has_cuda:
            values = [None if v is None else _array.to_numpy(v) for v in values]
        return Increment(dt, *values)

    def _shared(self, s: float, t: float) -> Increment:
        outs = self._outputs(self._framework, ())
        self._native.increment(s, t, *[o and o.data for o in outs], self._holder.queue(self.device))
        return self._results(self._framework, t - s, outs)

    def increment(self, s: Any, t: Any) -> Increment:
        """Return the increment and areas of every component over ``[s, t]``.

        Parameters
        ----------
        s, t : float or array, shape (n_paths,)
            Times in ``[t0, t1]`` with ``s <= t``, shared by all paths or one per path. Arrays on a CUDA device are
            clipped to ``[t0, t1]`` instead of being checked, which would wait for the device.

        Returns
        -------
        Increment
            ``dt`` (float, or one per path), ``W``, ``H``, ``K`` of shape (n_paths, dim); ``H`` and ``K`` are None
            unless the tree has them. Zero where ``s == t``. For ``0 < t - s < tol`` the path is still one function of
            time and W still adds up, but the law is no longer exact: H and K are too large for short gaps, and follow
            Chen's relation only below 64 standard deviations, where they are cut off.

        Raises
        ------
        ValueError
            If a time is NaN, outside ``[t0, t1]``, or ``s > t``.

        Examples
        --------
        >>> import mckean as mk
        >>> tree = mk.BrownianTree(1, (3, 1), t1=2.0)
        >>> a, b = tree.increment(0.0, 0.7), tree.increment(0.7, 1.1)
        >>> bool(abs(a.W + b.W - tree.increment(0.0, 1.1).W).max() < 1e-14)
        True
        """
        if type(s) is float and type(t) is float and self._earliest <= s <= t <= self._latest:
            return self._shared(s, t)  # the inner loop of a sampler: nothing but the call
        n = self.shape[0]
        framework = self._framework
        arrays = [
            x
            for x in (s, t)
            if not isinstance(x, (int, float)) and getattr(x, "ndim", None) not in (None, 0)
        ]
        arrays += [np.asarray(x) for x in (s, t) if isinstance(x, (list, tuple))]
        if not arrays:
            singles = _is_single(s), _is_single(t)
            s, t = as_real(s, "s"), as_real(t, "t")
            self._check_time(s, "s", single=singles[0])
            self._check_time(t, "t", single=singles[1])
            if s > t:
                raise ValueError(f"s: expected s <= t = {t}, got {s}")
            return self._shared(s, t)

        if self._follow_times:
            framework = _array.framework_of(arrays[0])
        home = carrier(framework, self.device)
        times: list[Any] = []
        known: list[np.ndarray[Any, Any]] = []
        data: list[Any] = []
        for x, name in ((s, "s"), (t, "t")):
            if not isinstance(x, (list, tuple)) and getattr(x, "ndim", 0) == 0:
                host = np.full(n, as_real(x, name))
            else:
                given = _array.as_input(x, name)
                if given.shape != (n,):
                    raise ValueError(f"{name}: expected a float or shape ({n},), got {given.shape}")
                if (
                    given.device != "cpu"
                    and given.device == self.device
                    and given.dtype == "float64"
                ):
                    times.append(given.array)
                    data.append(given.data)
                    continue
                host = np.ascontiguousarray(_array.to_numpy(given.array), np.float64)
            self._check_times(host, name, single=_is_single(x))
            known.append(host)
            times.append(host if self.device == "cpu" else home.asarray(host, self.device))
            data.append(home.native(times[-1], self.device))
        if len(known) == 2:
            if (known[0] > known[1]).any():
                at = int(np.argmax(known[0] > known[1]))
                raise ValueError(
                    f"s: expected s <= t, got s = {known[0][at]}, t = {known[1][at]} for path {at}"
                )
            dt = (known[1] - known[0]).astype(self.dtype)
            dt = framework.asarray(dt, self.device if framework.has_cuda else "cpu")
        else:
            dt = framework.cast(times[1] - times[0], self.dtype)
        outs = self._outputs(framework, ())
        self._native.increment_per_path(
            *data, *[o and o.data for o in outs], home.queue(self.device)
        )
        return self._results(framework, dt, outs)

    def value(self, t: Any) -> Any:
        """Return ``W(t) - W(t0)`` of every component.

        Parameters
        ----------
        t : float or array, shape (n_paths,)
            Times in ``[t0, t1]``.

        Returns
        -------
        array, shape (n_paths, dim)

        Examples
        --------
        >>> import mckean as mk
        >>> float(mk.BrownianTree(1, (1, 1)).value(0.0)[0, 0])
        0.0
        """
        return self.increment(self.t0, t).W

    def increments(self, ts: Any) -> Increment:
        """Return the consecutive increments over a grid, as fast as the tree can be walked.

        The same bits as ``increment(ts[k], ts[k + 1])`` for each k.

        Parameters
        ----------
        ts : array, shape (m,)
            Non-decreasing times in ``[t0, t1]``.

        Returns
        -------
        Increment
            ``dt`` of shape (m - 1,), ``W``, ``H``, ``K`` of shape (m - 1, n_paths, dim).

        Raises
        ------
        ValueError
            If the times decrease, are NaN or outside ``[t0, t1]``.

        Examples
        --------
        >>> import mckean as mk, numpy as np
        >>> mk.BrownianTree(1, (5, 2)).increments(np.linspace(0, 1, 11)).W.shape
        (10, 5, 2)
        """
        grid = self._grid(ts)
        framework = self._framework
        if self._follow_times and self.device == "cpu":
            framework = _array.framework_of(ts)
        outs = self._outputs(framework, (grid.size - 1,))
        self._native.increments(
            grid, *[o and o.data for o in outs], carrier(framework, self.device).queue(self.device)
        )
        dt = np.diff(grid).astype(self.dtype)
        return self._results(
            framework, framework.asarray(dt, self.device if framework.has_cuda else "cpu"), outs
        )


class FractionalBrownianTree(_Times):
    r"""Fractional Brownian motion, approximated by Ornstein-Uhlenbeck processes driven by one Brownian tree.

    .. math::

        \hat B_H(t) = \sum_k w_k \bigl(Y_k(t) - Y_k(t_0)\bigr), \qquad dY_k = -\gamma_k Y_k\, dt + dB,

    with weights that minimise :math:`\int_{t_0}^{t_1} E (B_H - \hat B_H)^2 dt` in closed form [1]_. Rates are
    geometric, and the driving path itself is one more term (rate 0), so ``hurst=0.5`` gives it back exactly.
    Querying costs one walk over the leaves up to the last time asked for.

    Parameters
    ----------
    seed, shape, t0, t1, dtype, device, like
        As for `BrownianTree`; the driving path is ``BrownianTree(..., levy_area="space-time-time")`` of the same seed.
    hurst : float
        Hurst index, ``0 < hurst < 1``.
    n_ou : int
        Number of Ornstein-Uhlenbeck processes, 1 to 15.
    kind : {"II", "I"}
        "II": Riemann-Liouville, starting at rest, :math:`B_H(t) = \frac1{\Gamma(a)} \int_{t_0}^t (t-r)^{a-1} dB_r` with
        :math:`a = H + 1/2`. "I": Mandelbrot-Van Ness, with stationary increments.
    rates : array, shape (n_ou,), optional
        Rates :math:`\gamma_k > 0`; by default geometric from 0.3 / T (kind "I": 0.003 / T) to 3000 / T with
        T = t1 - t0, but no faster than the leaves resolve.
    tol : float, optional
        Length of a leaf; by default ``(t1 - t0) * 2**-12``.
    normalized : bool
        Scale so that the variance at time t (after t0) of the process that is approximated is that of standard
        fractional Brownian motion, ``t**(2 hurst)``. Otherwise it is :math:`t^{2H} / (2H\,\Gamma(a)^2)` for kind
        "II" and :math:`t^{2H} / (\Gamma(2H+1)\sin \pi H)` for kind "I".

    Attributes
    ----------
    rates, weights : ndarray, shape (n_ou + 1,)
        The first is the driving path (rate 0).
    relative_error : float
        Root of the minimised error over that of the zero path, in closed form. With the default rates 0.30, 0.021,
        5e-4 and 3e-4 for hurst 0.1, 0.3, 0.7 and 0.9 of kind "II"; kind "I" with hurst near 1 remembers so long that
        it stays large (0.35 at 0.9).

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range or of the wrong type.

    Notes
    -----
    Within a leaf the noise of each process is the best linear estimate from the leaf's W, H and K; its relative error
    is of order :math:`(\gamma_k\, tol)^{7/2}`. Computed in float64 and rounded to `dtype`. Deterministic; for the same
    weights the bits are the same for any number of threads and instruction set.

    References
    ----------
    .. [1] R. Daems, M. Opper, G. Crevecoeur, T. Birdal, "Variational inference for SDEs driven by fractional noise"
       (2024), arXiv:2310.12975

    Examples
    --------
    >>> import mckean as mk
    >>> path = mk.FractionalBrownianTree(3, (2000, 1), hurst=0.3, normalized=True)
    >>> round(float(path.value(0.5).var()) / 0.5**0.6, 1)
    1.0
    """

    def __init__(
        self,
        seed: Any,
        shape: Sequence[int],
        *,
        hurst: float,
        n_ou: int = 7,
        kind: str = "II",
        rates: Any = None,
        t0: float = 0.0,
        t1: float = 1.0,
        tol: float | None = None,
        normalized: bool = False,
        dtype: Any = "float64",
        device: Any = "cpu",
        like: Any = None,
    ) -> None:
        self.hurst = as_real(hurst, "hurst")
        if not 0.0 < self.hurst < 1.0:
            raise ValueError(f"hurst: expected 0 < hurst < 1, got {hurst}")
        self.kind = one_of(kind, "kind", ("II", "I"))
        n_ou = as_count(n_ou, "n_ou", least=1)
        if n_ou > 15:
            raise ValueError(f"n_ou: expected 1 to 15, got {n_ou}")
        t0, t1 = _interval(t0, t1)
        length = t1 - t0
        depth = _depth(length, length * 2.0**-12 if tol is None else tol, 26)
        self.driver = BrownianTree(
            seed,
            shape,
            t0=t0,
            t1=t1,
            tol=length * 2.0**-depth,
            levy_area="space-time-time",
            dtype=dtype,
            device=device,
            like=like,
        )
        self._set_interval(t0, t1)
        self.shape, self.tol = self.driver.shape, self.driver.tol
        self.dtype, self.device = self.driver.dtype, self.driver.device
        if rates is None:
            fastest = max(0.3, min(3000.0, 0.75 * 2.0**depth))
            slowest = 0.3 if self.kind == "II" else 0.003  # the past of kind I reaches far back
            ou = (
                np.geomspace(slowest, fastest, n_ou) / length
                if n_ou > 1
                else np.array([3.0 / length])
            )
        else:
            ou = np.ascontiguousarray(_array.to_numpy(rates), np.float64)
            if ou.shape != (n_ou,) and ou.ndim == 1 and 1 <= ou.size <= 15:
                n_ou = ou.size
            if ou.shape != (n_ou,):
                raise ValueError(f"rates: expected shape ({n_ou},), got {ou.shape}")
            if not (np.isfinite(ou).all() and (ou > 0).all()):
                raise ValueError("rates: expected positive finite numbers")
            ou = np.sort(ou)
        self.rates = np.concatenate([[0.0], ou])
        self.weights, self.relative_error = fractional_weights(
            self.hurst, length, self.rates, self.kind
        )
        if normalized:
            self.weights = self.weights / math.sqrt(unit_variance(self.hurst, self.kind))
        self._scale = math.sqrt(length)
        self._leaf = self._step_weights(np.array([self.tol]))[0]
        self._past: np.ndarray[Any, Any] | None = None
        if self.kind == "I":
            covariance = 1.0 / (ou[:, None] + ou[None, :])
            # Cauchy matrices are badly conditioned; a relative 1e-14 on the diagonal is below what can be seen.
            factor = np.linalg.cholesky(covariance + 1e-14 * np.diag(np.diag(covariance)))
            self._past = np.zeros((n_ou + 1, n_ou + 1))
            self._past[1:, 1:] = factor

    def __repr__(self) -> str:
        return (
            f"FractionalBrownianTree(seed={self.driver.seed}, shape={self.shape}, hurst={self.hurst}, "
            f"kind={self.kind!r}, "
            f"n_ou={len(self.rates) - 1}, t0={self.t0}, t1={self.t1})"
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, paths: slice) -> FractionalBrownianTree:
        """Return the sub-tree of consecutive paths, equal to the same rows of the whole."""
        sub = FractionalBrownianTree.__new__(FractionalBrownianTree)
        sub.__dict__.update(self.__dict__)
        sub.driver = self.driver[paths]
        sub.shape = sub.driver.shape
        return sub

    def _step_weights(self, lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Decay and W, H, K weights, (len(lengths), terms, 4), for increments in units of the whole interval."""
        decay, w, h, k = ou_noise_weights(lengths[:, None] * self.rates[None, :])
        return np.stack([decay, w * self._scale, h * self._scale, k * self._scale], axis=-1)

    def _values(self, grid: np.ndarray[Any, Any]) -> Any:
        driver = self.driver
        xi = np.clip((grid - self.t0) / (self.t1 - self.t0), 0.0, 1.0) * 2.0**driver.depth
        partial = self._step_weights((xi - np.floor(xi)) * self.tol)
        holder = carrier(driver._framework, self.device)
        out = holder.empty((grid.size, *self.shape), self.dtype, self.device)
        driver._native.fractional(
            grid, self._leaf, self.weights, self._past, partial, out.data, holder.queue(self.device)
        )
        result = out.result()
        return result if holder is driver._framework else _array.to_numpy(result)

    def value(self, t: Any) -> Any:
        """Return the path at time `t`, zero at ``t0``.

        Parameters
        ----------
        t : float or array, shape (n_paths,)
            Times in ``[t0, t1]``, shared or one per path.

        Returns
        -------
        array, shape (n_paths, dim)
        """
        if getattr(t, "ndim", 0) == 0 and not isinstance(t, (list, tuple)):
            time = np.array([as_real(t, "t")])
            self._check_times(time, "t")
            return self._values(time)[0]
        times = _host_times(t, "t")
        if times.shape != (self.shape[0],):
            raise ValueError(f"t: expected a float or shape ({self.shape[0]},), got {times.shape}")
        self._check_times(times, "t")
        rows = [
            _array.to_numpy(self[i : i + 1]._values(times[i : i + 1])[0, 0])
            for i in range(self.shape[0])
        ]
        return self.driver._framework.asarray(np.stack(rows), self.device)

    def increment(self, s: Any, t: Any) -> Increment:
        """Return ``value(t) - value(s)`` as ``Increment(dt, W, None, None)``; times as for `value`, ``s <= t``."""
        start, end = (_host_times(x, name).reshape(np.shape(x)) for x, name in ((s, "s"), (t, "t")))
        n = self.shape[0]
        for x, name in ((start, "s"), (end, "t")):
            if x.shape not in ((), (n,)):
                raise ValueError(f"{name}: expected a float or shape ({n},), got {x.shape}")
        if np.any(start > end):
            raise ValueError(f"s: expected s <= t, got s = {s}, t = {t}")
        if start.ndim == 0 and end.ndim == 0:
            grid = np.array([as_real(s, "s"), as_real(t, "t")])
            self._check_times(grid, "s, t")
            both = self._values(grid)
            return Increment(float(end - start), both[1] - both[0], None, None)
        w = self.value(np.broadcast_to(end, (n,))) - self.value(np.broadcast_to(start, (n,)))
        dt = self.driver._framework.asarray((end - start).astype(self.dtype), self.device)
        return Increment(dt, w, None, None)

    def increments(self, ts: Any) -> Increment:
        """Return the consecutive increments over a non-decreasing grid, in one walk.

        Parameters
        ----------
        ts : array, shape (m,)

        Returns
        -------
        Increment
            ``dt`` of shape (m - 1,) and ``W`` of shape (m - 1, n_paths, dim); ``H`` and ``K`` are None.
        """
        grid = self._grid(ts)
        values = self._values(grid)
        dt = np.diff(grid).astype(self.dtype)
        return Increment(
            self.driver._framework.asarray(dt, self.device), values[1:] - values[:-1], None, None
        )
