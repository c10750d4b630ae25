"""Schrödinger bridges through snapshots, with a reference that is refitted to them."""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, as_match, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_real, as_seed
from mckean.transport._arguments import cloud, settings_of
from mckean.transport._couplings import stratified_rows
from mckean.transport._draws import Indices, draw_columns
from mckean.transport._linear_noise import Transition
from mckean.transport._problem import Doubles, Problem
from mckean.transport._references import BrownianReference, Drift, Host, Reference, as_times
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import Settings, Solution, solve

__all__ = ["BridgeResult", "schrodinger_bridge"]

_STREAM = 0x62726964676500  # "bridge"; + 1: landings
_PATHS = _STREAM + 2


class BridgeResult:
    """What `schrodinger_bridge` returns.

    Attributes
    ----------
    segments : list of array, shapes (n_substeps + 1, n_k, d)
        For each two neighbouring snapshots, paths between them that start at every point of the first one, and end at
        points of the second.
    couplings : list of SinkhornResult
        The joint law of each two neighbouring snapshots; NumPy, float64.
    theta : array or None
        Parameters of the reference after the last refit.
    reference : reference
        The reference after the last refit, under which everything here was computed.
    history : dict of str to numpy.ndarray
        "theta", (iterations + 1, ...): the parameters under which each bridge was made, the last one being `theta`;
        "marginal_error" and "n_iter", (iterations + 1,): the largest among its couplings.
    converged : bool
        Whether all couplings of the last bridge reached the tolerance.
    n_iter : int
        Refits.
    timings : dict of str to float
        Seconds: "total".
    """

    def __init__(
        self,
        host: Host,
        links: list[_Link],
        segments: list[Doubles],
        history: dict[str, Any],
        settings: Settings,
        seed: int,
    ) -> None:
        self._host, self._links, self._seed = host, links, seed
        self._paths: Any = None
        self.segments = [host.given(path) for path in segments]
        self.couplings = [SinkhornResult(link.problem, link.solution, settings) for link in links]
        self.reference, self.history = host.reference, history
        theta = host.reference.theta
        self.theta = None if theta is None else host.given(theta)
        self.converged = all(bool(link.solution.converged[0]) for link in links)
        self.n_iter = len(history["n_iter"]) - 1
        self.timings: dict[str, float] = {}

    def __repr__(self) -> str:
        sizes = (*(len(link.x) for link in self._links), len(self._links[-1].y))
        return (
            f"BridgeResult(snapshots={sizes}, n_iter={self.n_iter}, converged={self.converged}, "
            f"seconds={self.timings.get('total', 0.0):.3g})"
        )

    @property
    def times(self) -> Any:
        """Times of `paths`, (n_times,): the snapshots' and ``n_substeps - 1`` between neighbours."""
        return np.concatenate(
            [link.grid[:-1] for link in self._links] + [self._links[-1].grid[-1:]]
        )

    @property
    def paths(self) -> Any:
        """Paths from each point of the first snapshot to the last one, (n_times, n_0, d), made when first asked for."""
        if self._paths is None:
            self._paths = self.sample_paths(len(self._links[0].x), seed=self._seed)
        return self._paths

    def sample_paths(self, n: int, *, seed: Any = 0) -> Any:
        """Draw independent paths through all snapshots.

        Parameters
        ----------
        n : int
            Number of paths; they start at points of the first snapshot, each of them about equally often.
        seed : int or numpy.random.SeedSequence

        Returns
        -------
        array, shape (n_times, n, d)
            Positions at `times`; at those of snapshots they are points of the snapshot.
        """
        n, seed = as_count(n, "n", least=1), as_seed(seed)
        x = self._links[0].x
        if n != len(x):
            u = random.uniform(seed, n, stream=_PATHS + 2)
            x = x[stratified_rows(np.full(len(x), 1.0 / len(x)), u)]
        parts = []
        for k, link in enumerate(self._links):
            (path,) = _simulate(self._host, [link], [x], [_Noise(seed, _PATHS, k)])
            parts.append(path.at[:-1])
            x = path.at[-1]
        return self._host.given(np.concatenate([*parts, x[None]]))

    def sample_at(self, t: float) -> Any:
        """Return the cloud at a time: where the paths from each point of the snapshot before are by then.

        Parameters
        ----------
        t : float
            Between the first and the last snapshot; positions between two steps are interpolated linearly.

        Returns
        -------
        array, shape (n_k, d)
        """
        t, first, last = as_real(t, "t"), self._links[0].start, self._links[-1].end
        if not first <= t <= last:
            raise ValueError(f"t: expected a time from {first:g} to {last:g}, got {t:g}")
        k = max(i for i, link in enumerate(self._links) if link.start <= t or i == 0)
        at, path = (t - self._links[k].start) / self._links[k].h, self.segments[k]
        low = min(int(at), path.shape[0] - 2)
        share = min(at - low, 1.0)
        return (1 - share) * path[low] + share * path[low + 1]


def schrodinger_bridge(
    snapshots: Sequence[Any],
    times: Any,
    reference: Any = "brownian",
    *,
    sigma: Any = None,
    iterations: int = 5,
    n_substeps: int = 20,
    method: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 10_000,
    seed: Any = 0,
    progress: bool = True,
) -> BridgeResult:
    """Find the most likely paths through snapshots of a population, and the dynamics behind them.

    Samples at a few times are known, and no particle was seen twice. Of all path laws with these marginals the
    Schrödinger bridge is the closest to a reference diffusion ``dX = b(X) dt + sigma dW``. The reference is a family:
    in turn, the bridge is made under the current drift, and the drift refitted to the paths of the bridge.

    Parameters
    ----------
    snapshots : sequence of K arrays, shapes (n_k, d), float32 or float64
        Samples of one time each, of equal weights.
    times : array, shape (K,)
        Increasing.
    reference : "brownian", callable or reference
        `BrownianReference`, `AffineDrift`, `LinearDrift` or `Drift`; a callable ``drift(t, x) -> (n, d)`` stays.
    sigma : float or array, shape (d,), optional
        Noise level for "brownian" or a callable; others carry their own.
    iterations : int
        Refits of the reference; none for a reference that has nothing to fit.
    n_substeps : int
        Steps of the paths between two snapshots, and of the linear-noise approximation.
    method, tol, max_iter
        Of the couplings, see `mckean.sinkhorn`.
    seed : int or numpy.random.SeedSequence
        Source of all noise. Every pass uses the same noise, so that the refits settle.
    progress : bool
        Show a progress bar.

    Returns
    -------
    BridgeResult
        Arrays are of the framework, dtype and device of the first snapshot; all but user functions is computed in
        float64 on the CPU. Deterministic; not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or a point is not finite.
    FloatingPointError
        If the reference runs away to infinity between two snapshots.

    Warns
    -----
    ConvergenceWarning
        If a coupling of the last bridge missed the tolerance; ``result.converged`` is then False.

    See Also
    --------
    mckean.transport.chain_sinkhorn, mckean.sinkhorn

    Notes
    -----
    The bridge of all snapshots is made of those of neighbours. For two of them, the joint law is the plan
    ``exp(F_i + G_j) p(y_j | x_i)``, p being the transition density of the reference; between them paths have the drift
    ``b + sigma^2 grad log sum_j exp(G_j) p(y_j | x)``, and the last step draws one of the y_j. Where p is not known,
    it is the normal law of the linear-noise approximation: the mean path, and fluctuations linearised around it. Refits
    maximise the likelihood of the simulated increments.

    A drift with the same derivative everywhere (Brownian, affine) never holds a matrix of pairs. With others a matrix
    ``(n_k, n_{k+1})`` is held at a time.

    References
    ----------
    .. [1] Y. Shen, R. Berlinghieri, T. Broderick, "Multi-marginal Schrödinger bridges with iterative reference
       refinement", AISTATS 2025, arXiv:2408.06277

    Examples
    --------
    Three snapshots of particles that turn around the origin:

    >>> import numpy as np
    >>> import mckean as mk
    >>> from mckean.transport import AffineDrift, schrodinger_bridge
    >>> turn = AffineDrift([[0.0, 1.0], [-1.0, 0.0]], [0.0, 0.0], sigma=0.1)
    >>> x0 = np.array([1.0, 0.0]) + 0.3 * mk.random.normal(1, (60, 2))
    >>> snapshots = [turn.simulate(x0, [0.0, t or 1e-9], seed=2)[1] for t in (0.0, 1.0, 2.0)]
    >>> guess = AffineDrift(np.zeros((2, 2)), np.zeros(2), sigma=0.1)
    >>> res = schrodinger_bridge(snapshots, [0, 1, 2], guess, n_substeps=10, progress=False)
    >>> res.paths.shape, res.converged
    ((21, 60, 2), True)
    >>> bool(abs(res.theta - turn.theta).max() < 0.3)
    True
    """
    start = time.perf_counter()
    ats, knots = _snapshots(snapshots), as_times(times)
    if len(knots) != len(ats):
        raise ValueError(f"times: expected {len(ats)} to match snapshots, got {len(knots)}")
    host = Host(_reference(reference, sigma), ats[0])
    iterations = as_count(iterations, "iterations") if host.reference.fits else 0
    n_substeps = as_count(n_substeps, "n_substeps", least=1)
    settings = settings_of(method, tol, max_iter, "anderson", False, None)
    clouds = [to_numpy(at.array).astype(np.float64) for at in ats]
    seed = as_seed(seed)
    links = [
        _Link(*ends, *span, n_substeps)
        for ends, span in zip(itertools.pairwise(clouds), itertools.pairwise(knots), strict=True)
    ]
    history: dict[str, list[Any]] = {"theta": [], "marginal_error": [], "n_iter": []}

    from tqdm.auto import tqdm

    bar = tqdm(total=iterations + 1, disable=not progress, unit="bridge")
    with bar:
        for turn in range(iterations + 1):
            paths = _bridge(host, links, settings, seed)
            history["theta"].append(host.reference.theta)
            history["marginal_error"].append(max(float(link.solution.error[0]) for link in links))
            history["n_iter"].append(max(int(link.solution.n_iter[0]) for link in links))
            bar.update()
            if turn < iterations:
                host = _refit(host, paths)
    result = BridgeResult(
        host,
        links,
        [paths[link].at for link in links],
        {k: np.array(v) for k, v in history.items() if v[0] is not None},
        settings,
        seed,
    )
    result.timings["total"] = time.perf_counter() - start
    if not result.converged:
        warnings.warn(
            f"the couplings stopped at a marginal error of {history['marginal_error'][-1]:.2g}, tol is {tol:g}",
            ConvergenceWarning,
            stacklevel=2,
        )
    return result


def _snapshots(snapshots: Any) -> list[Input]:
    if not isinstance(snapshots, (list, tuple)) or len(snapshots) < 2:
        raise ValueError("snapshots: expected a sequence of at least two arrays")
    ats: list[Input] = []
    for k, points in enumerate(snapshots):
        name = f"snapshots[{k}]"
        if not ats:
            at = as_input(points, name, shape=("n", "d"))
        else:
            at = as_match(points, name, ats[0], "snapshots[0]", shape=("n", ats[0].shape[1]))
        ats.append(cloud(at, name, 2.0))
    return ats


def _reference(reference: Any, sigma: Any) -> Reference:
    if isinstance(reference, Reference):
        if sigma is not None:
            raise ValueError("sigma: expected None beside a reference, which has its own")
        return reference
    if reference != "brownian" and not callable(reference):
        raise TypeError(
            f"reference: expected 'brownian', a drift or a reference, got {type(reference).__name__}"
        )
    if sigma is None:
        raise TypeError("sigma: expected the noise level of the reference, got None")
    return Drift(reference, sigma) if callable(reference) else BrownianReference(sigma)


@dataclass(frozen=True, slots=True)
class _Noise:
    """Normal and uniform numbers of the steps of a link."""

    seed: int
    stream: int
    link: int

    def normal(self, shape: tuple[int, ...], step: int, n_steps: int) -> Doubles:
        counter = self.link * n_steps + step
        return np.asarray(random.normal(self.seed, shape, stream=self.stream, counter=counter))

    def landing(self, n: int) -> Doubles:
        return np.asarray(random.uniform(self.seed, n, stream=self.stream + 1, counter=self.link))


class _Link:
    """Two neighbouring snapshots, and the joint law of both under a reference."""

    problem: Problem
    solution: Solution

    def __init__(self, x: Doubles, y: Doubles, start: float, end: float, n_steps: int) -> None:
        self.x, self.y, self.start, self.end = x, y, start, end
        self.grid: Doubles = np.linspace(start, end, n_steps + 1)
        self.h = (end - start) / n_steps

    def solve(self, law: Transition, settings: Settings) -> None:
        a, b = (np.full((1, len(p)), 1.0 / len(p)) for p in (self.x, self.y))
        self.problem = law.problem(self.y, a, b)
        self.solution = solve(self.problem, settings)

    @property
    def G(self) -> Doubles:
        return np.ascontiguousarray(self.solution.G[0])

    def land(self, law: Transition, u: Doubles) -> Indices:
        """Draw the ends of the last step: what is left of the bridge is a law on the points of the second snapshot."""
        n = len(law.mean)
        problem = law.problem(self.y, np.full((1, n), 1.0 / n), self.problem.b)
        F = problem.transform(np.zeros((1, n)), self.solution.G, columns=False)
        return draw_columns(problem, F, self.solution.G, np.arange(n), u)


@dataclass(eq=False, slots=True)
class _Paths:
    """Simulated paths of a link."""

    at: Doubles  # (n_steps + 1, n, d)
    middle: Doubles  # (n_steps, n, d): where the drift of the reference was taken


def _groups(reference: Reference, links: list[_Link]) -> list[list[_Link]]:
    """Links that are simulated together: if the drift does not depend on time, those of one length."""
    found: dict[Any, list[_Link]] = {}
    for k, link in enumerate(links):
        length = float(f"{link.end - link.start:.12g}")
        found.setdefault(length if reference.autonomous else -k - 1, []).append(link)
    return list(found.values())


def _bridge(host: Host, links: list[_Link], settings: Settings, seed: int) -> dict[_Link, _Paths]:
    """Solve all links, and simulate paths (n_steps + 1, n_k, d) from every point of the first snapshot of each."""
    paths: dict[_Link, _Paths] = {}
    for group in _groups(host.reference, links):
        law = _law(host, group, [link.x for link in group], 0)
        for link, rows in zip(group, _rows([link.x for link in group]), strict=True):
            link.solve(law.rows(rows), settings)
        noises = [_Noise(seed, _STREAM, links.index(link)) for link in group]
        starts = [link.x for link in group]
        paths.update(zip(group, _simulate(host, group, starts, noises, law), strict=True))
    return paths


def _law(host: Host, group: list[_Link], x: list[Doubles], step: int) -> Transition:
    grid = group[0].grid
    return host.transition(np.concatenate(x), grid[step], grid[-1], len(grid) - 1 - step)


def _rows(clouds: list[Doubles]) -> list[slice]:
    ends = np.cumsum([0] + [len(c) for c in clouds])
    return [slice(i, j) for i, j in itertools.pairwise(ends)]


def _simulate(
    host: Host,
    group: list[_Link],
    starts: list[Doubles],
    noises: list[_Noise],
    law: Transition | None = None,
) -> list[_Paths]:
    """Paths of each link from its starts, in lockstep; they end at points of the second snapshot. `law` is that of the
    starts, if known.

    A step is one of Euler-Maruyama, but the drift of the reference is taken half a step ahead along the velocity. Where
    noise is small that makes the error one of second order, also that of the refits, and it is known before the noise
    of the step.
    """
    n_steps = len(group[0].grid) - 1
    out = [_Paths(np.empty((n_steps + 1, *x.shape)), np.empty((n_steps, *x.shape))) for x in starts]
    for paths, x in zip(out, starts, strict=True):
        paths.at[0] = x
    h, rows = group[0].h, _rows(starts)
    for s in range(n_steps):
        now, t = [paths.at[s] for paths in out], group[0].grid[s]
        law = law if s == 0 and law is not None else _law(host, group, now, s)
        x = np.concatenate(now)
        pull = np.concatenate(
            [law.rows(r).score(k.y, k.G) for k, r in zip(group, rows, strict=True)]
        )
        pull *= host.variance
        middle = x + 0.5 * h * (host.drift(t, x) + pull)
        last = s == n_steps - 1
        velocity = None if last else pull + host.drift(t + 0.5 * h, middle)
        for link, paths, noise, r in zip(group, out, noises, rows, strict=True):
            paths.middle[s] = middle[r]
            if velocity is None:
                paths.at[-1] = link.y[link.land(law.rows(r), noise.landing(len(x[r])))]
                continue
            z = noise.normal(x[r].shape, s, n_steps)
            paths.at[s + 1] = x[r] + h * velocity[r] + np.sqrt(h * host.variance) * z
    return out


def _refit(host: Host, segments: dict[_Link, _Paths]) -> Host:
    """The reference under which the steps of these paths are most likely."""
    t, x, velocity, dt = [], [], [], []
    for link, paths in segments.items():
        n, d = paths.at.shape[1:]
        t.append(np.repeat(link.grid[:-1] + 0.5 * link.h, n))
        x.append(paths.middle.reshape(-1, d))
        velocity.append((np.diff(paths.at, axis=0) / link.h).reshape(-1, d))
        dt.append(np.full(len(t[-1]), link.h))
    return host.fit(*(np.concatenate(v) for v in (t, x, velocity, dt)))
