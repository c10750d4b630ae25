"""Starting potentials predicted from problems solved before."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mckean import random
from mckean._array import Input, as_input, is_array, to_numpy
from mckean._errors import ConvergenceWarning, as_count, as_seed, nonnegative, positive
from mckean._run import _damage_to, _read, _write
from mckean.transport._arguments import check_feasible, checked_eps, clouds, cost_matrix
from mckean.transport._init import gaussian_potential
from mckean.transport._problem import RECOMPUTED, Doubles, Problem
from mckean.transport._result import SinkhornResult
from mckean.transport._solve import Settings, solve
from mckean.transport._start import begin, log_weights
from mckean.transport._weights import flag, marginal

__all__ = ["AmortizedPotential"]

_STREAM = 0x616D6F7274697A65  # of mk.random
_KIND = "amortized potential"
_LENGTHS = (0.25, 0.5, 1.0, 2.0)  # of the features of clouds, in units of their spread
_BLOCK = 4096  # points at a time


class AmortizedPotential:
    """Predicts where to start a solve, from solved problems of the same kind; for `init=` of the solvers.

    A predictor is any function ``predictor(x, y, a, b) -> g`` that is given the points (None for a cost) and weights of
    a problem, with a leading axis for a batch, and returns potentials of the columns, (m,) or (batch, m), in units of
    the cost. It may return any finite numbers: a bad start costs iterations, never correctness. Networks trained for
    this [1]_ can be given as they are. This one is light: ridge regression from features of a problem to its potential,
    next to that of Gaussians with the same moments [2]_.

    For problems on fixed points (`support` or `cost`), such as images on a grid, the features are the weights, their
    square roots, and random cosines of the roots. For clouds they are Gaussian moments and random Fourier features of
    each cloud, evaluated at the points: the potential is corrected by a learned, translation invariant filter of both
    densities.

    Parameters
    ----------
    eps : float
        The regularisation of the problems, in units of the cost.
    p : float
        Exponent of the cost ``|x - y|^p``.
    support : array, shape (n, d), or pair of arrays, shape (n, d) and (m, d), optional
        Points that all problems share; one array for both sides.
    cost : array, shape (n, m), optional
        A cost that all problems share, instead of `support` and `p`.
    n_features : int, optional
        Random features: by default 1000 for fixed points and 128 frequencies for clouds.
    ridge : float
        The penalty of the regression, relative to features of variance 1.
    gate : bool
        Keep a prediction only where its dual value, which costs half an iteration, is above those of zero and of the
        potential of Gaussians; return the best of the three.
    seed : int
        Of the features.

    Attributes
    ----------
    n_problems : int
        How many problems it was fitted to.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    mckean.sinkhorn, mckean.sinkhorn_points

    References
    ----------
    .. [1] B. Amos, G. Luise, S. Cohen, I. Redko, "Meta optimal transport", ICML 2023, arXiv:2206.05262
    .. [2] J. Thornton, M. Cuturi, "Rethinking initialization of the Sinkhorn algorithm", AISTATS 2023, arXiv:2206.07630

    Examples
    --------
    >>> import mckean as mk
    >>> def pair(seed):
    ...     x = mk.random.normal(seed, (40, 2), counter=0)
    ...     y = mk.random.normal(seed, (40, 2), counter=1)
    ...     y[:20] += 2.0
    ...     return x, y
    >>> predictor = mk.transport.AmortizedPotential(eps=0.3, n_features=32)
    >>> _ = predictor.fit([pair(seed) for seed in range(20)])
    >>> x, y = pair(100)
    >>> cold = mk.sinkhorn_points(x, y, eps=0.3, tol=1e-2, acceleration=None)
    >>> warm = mk.sinkhorn_points(x, y, eps=0.3, tol=1e-2, acceleration=None, init=predictor)
    >>> warm.n_iter < cold.n_iter
    True
    """

    def __init__(
        self,
        *,
        eps: float,
        p: float = 2,
        support: Any = None,
        cost: Any = None,
        n_features: int | None = None,
        ridge: float = 1e-2,
        gate: bool = True,
        seed: int = 0,
    ) -> None:
        self.eps, self.p = positive(eps, "eps"), positive(p, "p")
        if support is not None and cost is not None:
            raise ValueError("cost: expected either a support or a cost, got both")
        self._support: tuple[Input, Input] | None = None
        if support is not None:
            pair = support if isinstance(support, (tuple, list)) else (support, support)
            if len(pair) != 2:
                raise ValueError(f"support: expected one array or a pair, got {len(pair)}")
            x, y = (np.asarray(to_numpy(s), np.float64) if is_array(s) else s for s in pair)
            at, other, _ = clouds(x, y, self.p)
            if len(at.shape) != 2:
                raise ValueError(f"support: expected shape (n, d), got {at.shape}")
            self._support = at, other
        self._cost = None
        if cost is not None:
            self._cost = cost_matrix(
                np.asarray(to_numpy(cost), np.float64) if is_array(cost) else cost
            )
            if len(self._cost.shape) != 2:
                raise ValueError(f"cost: expected shape (n, m), got {self._cost.shape}")
        self._fixed = self._support is not None or self._cost is not None
        default = 1000 if self._fixed else 128
        self.n_features = default if n_features is None else as_count(n_features, "n_features")
        self.ridge, self.gate = nonnegative(ridge, "ridge"), flag(gate, "gate")
        self.seed = as_seed(seed)
        self.n_problems = 0
        self._center: Doubles | None = None
        self._gain: Doubles | None = None
        self._coefficients: Doubles | None = None

    def __repr__(self) -> str:
        kind = "cost" if self._cost is not None else "support" if self._fixed else "clouds"
        return (
            f"AmortizedPotential({kind}, eps={self.eps:.4g}, p={self.p:g}, n_features={self.n_features}, "
            f"n_problems={self.n_problems})"
        )

    # ---- fitting and predicting ----

    def fit(
        self, problems: Iterable[Any], *, tol: float = 1e-6, max_iter: int = 10_000
    ) -> AmortizedPotential:
        """Fit to problems, or to results of solved ones; forgets what was fitted before.

        Parameters
        ----------
        problems : iterable
            Each a `SinkhornResult` with the same eps and cost, or ``(a, b)`` on fixed points, or ``(x, y)`` or
            ``(x, y, a, b)`` for clouds. Those that are not results are solved here.
        tol, max_iter
            Of these solves.

        Returns
        -------
        AmortizedPotential
            Itself.

        Raises
        ------
        TypeError, ValueError
            If there are no problems, or one does not fit.

        Warns
        -----
        ConvergenceWarning
            If a solve does not meet `tol`; what it reached is used.
        """
        settings = Settings(tol=nonnegative(tol, "tol"), max_iter=as_count(max_iter, "max_iter"))
        samples: list[tuple[_Pair, Doubles]] = []
        missed = 0
        for pair, potential in self._read_problems(problems):
            if potential is None:
                problem = self._problem(pair)
                solution = solve(problem, settings)
                missed += int((~solution.converged).sum())
                potential = self.eps * problem.transform(solution.F, solution.G, columns=True)
            samples.append((pair, np.where(np.isfinite(potential), potential, 0.0)))
        if missed:
            warnings.warn(
                f"AmortizedPotential.fit: tol={tol:g} not met in {missed} problems; try more iterations (max_iter)",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.n_problems = sum(len(pair.a) for pair, _ in samples)
        if self._fixed:
            self._fit_fixed(samples)
        else:
            self._fit_clouds(samples)
        return self

    def __call__(self, x: Any, y: Any, a: Any = None, b: Any = None) -> Any:
        """Predict the potential of the columns; see the description of the class.

        Parameters
        ----------
        x, y : array, shape (n, d) and (m, d), or with a leading axis (batch,)
            The points; None for a cost. On a fixed support they may be None.
        a, b : array, shape (n,) and (m,), or with a leading axis
            The weights, by default equal.

        Returns
        -------
        array, shape (m,) or (batch, m)
            Of the framework, dtype and device of `b`, or else of `y`.

        Raises
        ------
        RuntimeError
            Before `fit`.
        TypeError, ValueError
            If the points or weights do not fit.
        """
        if self._coefficients is None:
            raise RuntimeError("AmortizedPotential: expected a fitted one, call fit first")
        pair = self._pair(x, y, a, b)
        found = self._predicted(pair)
        if self.gate:
            found = self._best(self._problem(pair), {**self._starts(pair), "predicted": found})[0]
        at = as_input(next((t for t in (b, y) if t is not None), found), "b")
        found = np.ascontiguousarray(found if pair.batched else found[0], at.dtype)
        return at.framework.asarray(found, at.device)

    def report(
        self,
        problems: Iterable[Any],
        *,
        tols: Sequence[float] = (1e-2, 1e-3, 1e-6),
        max_iter: int = 10_000,
    ) -> dict[str, Any]:
        """Count the plain Sinkhorn iterations that predictions save.

        Parameters
        ----------
        problems : iterable
            As of `fit`; better not the same ones.
        tols : sequence of float
            Marginal errors, L1, to reach.
        max_iter : int
            The largest number of iterations, which is what counts where a tolerance is not met.

        Returns
        -------
        dict
            "tols"; the iterations (problems, tolerances) from "zero", "gaussian" (where there is that start) and
            "predicted" potentials, as the gate leaves them; and "kept" (problems,), whether it left the prediction.
        """
        levels = np.array(sorted((nonnegative(t, "tols") for t in tols), reverse=True))
        found: dict[str, list[Any]] = {}
        for pair, _ in self._read_problems(problems):
            problem = self._problem(pair)
            starts = self._starts(pair)
            predicted = self._predicted(pair)
            kept = np.ones(len(pair.a), bool)
            if self.gate:
                predicted, best = self._best(problem, {**starts, "predicted": predicted})
                kept = best == len(starts)
            for name, g in {**starts, "predicted": predicted}.items():
                found.setdefault(name, []).append(_count(problem, g, levels, max_iter))
            found.setdefault("kept", []).append(kept)
        return {"tols": levels, **{name: np.concatenate(v) for name, v in found.items()}}

    # ---- files ----

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted predictor to one .npz file, atomically, without pickle.

        Parameters
        ----------
        path : path
        """
        if self._coefficients is None:
            raise RuntimeError("AmortizedPotential: expected a fitted one, call fit first")
        assert self._center is not None and self._gain is not None
        names = ("eps", "p", "n_features", "ridge", "gate", "seed", "n_problems")
        arrays = {
            "center": self._center,
            "gain": self._gain,
            "coefficients": self._coefficients,
        }
        if self._support is not None:
            arrays |= {"x": to_numpy(self._support[0].array), "y": to_numpy(self._support[1].array)}
        if self._cost is not None:
            arrays["cost"] = to_numpy(self._cost.array)
        _write(path, {"kind": _KIND, "settings": {n: getattr(self, n) for n in names}}, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AmortizedPotential:
        """Read a predictor written by `save`.

        Parameters
        ----------
        path : path

        Returns
        -------
        AmortizedPotential

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CheckpointError
            If the file is damaged or something else.
        """
        header, arrays = _read(path, _KIND)
        with _damage_to(path):
            settings = dict(header["settings"])
            n_problems = int(settings.pop("n_problems"))
            support = (arrays["x"], arrays["y"]) if "x" in arrays else None
            out = cls(**settings, support=support, cost=arrays.get("cost"))
            out.n_problems = n_problems
            out._center, out._gain = arrays["center"], arrays["gain"]
            out._coefficients = arrays["coefficients"]
            return out

    # ---- problems ----

    def _sizes(self) -> tuple[int, int]:
        """Of fixed points."""
        if self._cost is not None:
            return self._cost.shape[0], self._cost.shape[1]
        assert self._support is not None
        return self._support[0].shape[0], self._support[1].shape[0]

    def _pair(self, x: Any, y: Any, a: Any, b: Any) -> _Pair:
        """Check a problem, or a batch of them."""
        if self._fixed:
            n, m = self._sizes()
            if x is not None and y is not None:
                self._check_support(x, y)
            elif a is None and b is None:
                raise ValueError("a: expected weights, got None")
            given = next(w for w in (a, b, np.zeros(n)) if w is not None)
            batch = int(given.shape[0]) if len(np.shape(given)) == 2 else None
            at = as_input(given, "a", shape=None if batch is None else (batch, "n"))
            other, name = at, "a"
        else:
            if x is None or y is None:
                raise TypeError("x: expected points, this predictor was made for clouds")
            at, other, _ = clouds(x, y, self.p)
            n, m, name = at.shape[-2], other.shape[-2], "x"
            batch = at.shape[0] if len(at.shape) == 3 else None
        # Whatever their sums: relaxed marginals may ask too.
        u = marginal(a, "a", n, batch, at, name, free=True, normalize=True)
        v = marginal(b, "b", m, batch, at, name, free=True, normalize=True)
        if self._cost is not None:
            check_feasible(self._cost, u, v)
        return _Pair(None if self._fixed else (at, other), u, v, batch is not None)

    def _check_support(self, x: Any, y: Any) -> None:
        if self._support is None:
            raise TypeError("x: expected None, this predictor was made for a cost")
        for name, got, own in zip("xy", (x, y), self._support, strict=True):
            values, mine = to_numpy(got), to_numpy(own.array)
            if values.shape[-2:] != mine.shape or not (values == mine.astype(values.dtype)).all():
                raise ValueError(f"{name}: expected the support that this predictor was made for")

    def _read_problems(self, problems: Iterable[Any]) -> Iterable[tuple[_Pair, Doubles | None]]:
        """Pairs, and their potentials where these are known; problems on fixed points all together."""
        found: list[tuple[_Pair, Doubles | None]] = []
        for k, item in enumerate(problems):
            if isinstance(item, SinkhornResult):
                found.append(self._read_result(item, k))
                continue
            sizes = (2,) if self._fixed else (2, 4)
            if not isinstance(item, (tuple, list)) or len(item) not in sizes:
                want = "(a, b)" if self._fixed else "(x, y) or (x, y, a, b)"
                raise TypeError(
                    f"problems[{k}]: expected a SinkhornResult or {want}, got {type(item).__name__}"
                )
            arguments = (None, None, *item) if self._fixed else (*item, None, None)[:4]
            found.append((self._pair(*arguments), None))
        if not found:
            raise ValueError("problems: expected at least 1, got 0")
        if not self._fixed:
            return found
        out: list[tuple[_Pair, Doubles | None]] = []
        for solved in (True, False):
            these = [each for each in found if (each[1] is not None) == solved]
            if these:
                a = np.concatenate([pair.a for pair, _ in these])
                b = np.concatenate([pair.b for pair, _ in these])
                g = (
                    np.concatenate([each[1] for each in these if each[1] is not None])
                    if solved
                    else None
                )
                out.append((_Pair(None, a, b, True), g))
        return out

    def _read_result(self, result: SinkhornResult, k: int) -> tuple[_Pair, Doubles]:
        problem = result._problem
        if not np.allclose(problem.eps, self.eps, rtol=1e-6, atol=0.0):
            raise ValueError(f"problems[{k}]: expected eps={self.eps:g}, got {problem.eps[0]:g}")
        points = result._x is not None and result._y is not None
        if self._cost is None and not points:
            raise ValueError(f"problems[{k}]: expected a result of points, got one of a cost")
        if points and result._power != self.p:
            raise ValueError(f"problems[{k}]: expected p={self.p:g}, got {result._power:g}")
        if self._fixed:
            if (problem.n, problem.m) != self._sizes():
                raise ValueError(
                    f"problems[{k}]: expected sizes {self._sizes()}, got {(problem.n, problem.m)}"
                )
            if points:
                assert result._x is not None and result._y is not None
                self._check_support(result._x.array, result._y.array)
            where = None
        else:
            assert result._x is not None and result._y is not None
            where = result._x, result._y
        a, b = (w / w.sum(1, keepdims=True) for w in (problem.a, problem.b))
        return _Pair(where, a, b, problem.batched), result._g

    def _problem(self, pair: _Pair) -> Problem:
        eps, count = np.full(len(pair.a), self.eps), len(pair.a)
        if self._cost is not None:
            checked_eps(eps, self._cost.dtype)
            return Problem.of_cost(self._cost, count, pair.a, pair.b, eps)
        where = pair.points
        if where is None:
            assert self._support is not None
            where = _repeated(self._support[0], count), _repeated(self._support[1], count)
        checked_eps(eps, where[0].dtype)
        return Problem.of_points(*where, self.p, pair.a, pair.b, eps)

    # ---- starts ----

    def _starts(self, pair: _Pair) -> dict[str, Doubles]:
        """What a prediction has to beat."""
        starts = {"zero": np.zeros_like(pair.b)}
        if self._cost is None and self.p == 2.0:
            starts["gaussian"] = self._gaussian(pair)
        return starts

    def _gaussian(self, pair: _Pair) -> Doubles:
        """Potentials of Gaussians for the squared distance, of mean 0: what the regression corrects, or for other
        powers a feature."""
        out = np.empty_like(pair.b)
        for k, (x, y) in enumerate(self._hosts(pair)):
            out[k] = gaussian_potential(x, y, pair.a[k], pair.b[k], self.eps)
            out[k] -= pair.b[k] @ out[k]
        return out

    def _hosts(self, pair: _Pair) -> Iterable[tuple[Doubles, Doubles]]:
        """The points of each problem, float64 on the host."""
        where = self._support if pair.points is None else pair.points
        assert where is not None
        x, y = (to_numpy(t.array).astype(np.float64) for t in where)
        for k in range(len(pair.a)):
            yield (x[k] if x.ndim == 3 else x), (y[k] if y.ndim == 3 else y)

    def _best(self, problem: Problem, starts: dict[str, Doubles]) -> tuple[Doubles, Any]:
        """The potentials of the largest dual values, and which these are."""
        duals = np.stack([_dual(problem, g) for g in starts.values()])
        best = np.where(np.isfinite(duals), duals, -np.inf).argmax(0)
        return np.stack(list(starts.values()))[best, np.arange(problem.batch)], best

    def _predicted(self, pair: _Pair) -> Doubles:
        if self._coefficients is None:
            raise RuntimeError("AmortizedPotential: expected a fitted one, call fit first")
        assert self._center is not None and self._gain is not None
        if self._fixed:
            features = (self._of_weights(pair) - self._center) * self._gain
            out = features @ self._coefficients[:-1] + self._coefficients[-1]
            return np.asarray(out + self._base(pair))
        out = np.empty_like(pair.b)
        for k, (x, y) in enumerate(self._hosts(pair)):
            for rows, features, base, unit in self._of_clouds(x, y, pair.a[k], pair.b[k]):
                out[k, rows] = base + unit * (features * self._gain) @ self._coefficients
        return out

    # ---- fixed points ----

    def _base(self, pair: _Pair) -> Any:
        if self._cost is not None or self.p != 2.0:
            return 0.0
        found = self._gaussian(pair)
        return found - found.mean(1, keepdims=True)

    def _of_weights(self, pair: _Pair) -> Doubles:
        root = np.sqrt(np.concatenate([pair.a, pair.b], 1))
        mix = random.normal(self.seed, (root.shape[1], self.n_features), stream=_STREAM)
        phase = 2.0 * np.pi * random.uniform(self.seed, self.n_features, stream=_STREAM, counter=1)
        return np.concatenate([pair.a, pair.b, root, np.cos(root @ mix + phase)], 1)

    def _fit_fixed(self, samples: list[tuple[_Pair, Doubles]]) -> None:
        features = np.concatenate([self._of_weights(pair) for pair, _ in samples])
        targets = np.concatenate(
            [g - g.mean(1, keepdims=True) - self._base(pair) for pair, g in samples]
        )
        center, spread = features.mean(0), features.std(0)
        # Weights that hardly ever change would otherwise count as much as the others.
        gain = 1.0 / (spread + 1e-3 * np.sqrt((spread**2).mean()) + np.finfo(float).tiny)
        features = (features - center) * gain
        level = targets.mean(0)
        found = _ridge(
            features.T @ features, features.T @ (targets - level), self.ridge * len(features)
        )
        self._center, self._gain = center, gain
        self._coefficients = np.concatenate([found, level[None]])

    # ---- clouds ----

    def _of_clouds(
        self, x: Doubles, y: Doubles, a: Doubles, b: Doubles
    ) -> Iterable[tuple[slice, Doubles, Any, float]]:
        """Blocks of y: which, their features (rows, features), of mean 0 under b, the potential to start from, and the
        unit of the features in terms of the cost."""
        mean_x, mean_y = a @ x, b @ y
        square = a @ ((x - mean_x) ** 2).sum(1) + b @ ((y - mean_y) ** 2).sum(1)
        scale = float(np.sqrt(0.5 * square / x.shape[1])) or 1.0
        u, z, shift = (x - mean_y) / scale, (y - mean_y) / scale, (mean_y - mean_x) / scale
        unit = scale**self.p
        gaussian = gaussian_potential(x, y, a, b, self.eps)
        gaussian -= b @ gaussian
        frequencies = self._frequencies(x.shape[1])
        waves = [
            np.concatenate(_transform(points, w, frequencies))
            for points, w in ((u, a), (z, b))
        ]  # fmt: skip

        def block(part: Doubles, normal: Doubles) -> Doubles:
            angle = part @ frequencies
            basis = np.concatenate([np.cos(angle), np.sin(angle)], 1)
            half = frequencies.shape[1]
            smooth = [
                basis[:, :half] * w[:half] + basis[:, half:] * w[half:] for w in waves
            ]  # densities, smoothed, at the points
            moments = np.stack([normal / scale**2, (part**2).sum(1), part @ shift], 1)
            return np.concatenate([moments, *smooth], 1)

        parts = [slice(k, k + _BLOCK) for k in range(0, len(y), _BLOCK)]
        mean = sum(b[p] @ block(z[p], gaussian[p]) for p in parts)
        for p in parts:
            base = gaussian[p] if self.p == 2.0 else 0.0
            yield p, block(z[p], gaussian[p]) - mean, base, unit

    def _frequencies(self, d: int) -> Doubles:
        """(d, features): of Gaussian filters of several lengths."""
        lengths = np.resize(np.array(_LENGTHS), self.n_features) * np.sqrt(d)
        return np.asarray(
            random.normal(self.seed, (d, self.n_features), stream=_STREAM, counter=2) / lengths
        )

    def _fit_clouds(self, samples: list[tuple[_Pair, Doubles]]) -> None:
        matrix, right, dim = None, None, None
        for pair, potentials in samples:
            for k, (x, y) in enumerate(self._hosts(pair)):
                if dim not in (None, x.shape[1]):
                    raise ValueError(
                        f"problems: expected points of one dimension, got {dim} and {x.shape[1]}"
                    )
                dim = x.shape[1]
                b = pair.b[k]
                target = potentials[k] - b @ potentials[k]
                for rows, features, base, unit in self._of_clouds(x, y, pair.a[k], b):
                    weighted = features * b[rows, None]
                    here = features.T @ weighted, weighted.T @ ((target[rows] - base) / unit)
                    matrix = here[0] if matrix is None else matrix + here[0]
                    right = here[1] if right is None else right + here[1]
        assert matrix is not None and right is not None
        variance = np.diag(matrix) / self.n_problems
        self._gain = 1.0 / np.sqrt(variance + 1e-6 * variance.mean() + np.finfo(float).tiny)
        matrix = matrix * self._gain * self._gain[:, None]
        self._coefficients = _ridge(matrix, right * self._gain, self.ridge * self.n_problems)
        self._center = np.zeros(0)


@dataclass(slots=True)
class _Pair:
    """A batch of problems: points, None for fixed ones, and weights of sum 1."""

    points: tuple[Input, Input] | None
    a: Doubles  # (batch, n)
    b: Doubles  # (batch, m)
    batched: bool


def _repeated(points: Input, count: int) -> Input:
    return as_input(np.repeat(to_numpy(points.array)[None], count, 0), "support")


def _transform(points: Doubles, weights: Doubles, frequencies: Doubles) -> tuple[Doubles, Doubles]:
    """sum_i w_i cos and sin of the frequencies at points."""
    real, imaginary = np.zeros(frequencies.shape[1]), np.zeros(frequencies.shape[1])
    for k in range(0, len(points), _BLOCK):
        angle = points[k : k + _BLOCK] @ frequencies
        real += weights[k : k + _BLOCK] @ np.cos(angle)
        imaginary += weights[k : k + _BLOCK] @ np.sin(angle)
    return real, imaginary


def _ridge(matrix: Doubles, right: Doubles, penalty: float) -> Doubles:
    """Of least norm where there is no penalty."""
    if penalty > 0:
        matrix = matrix + penalty * np.eye(len(matrix))
        return np.asarray(np.linalg.solve(matrix, right))
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def _dual(problem: Problem, g: Doubles) -> Doubles:
    """The dual values of potentials of the columns, (batch,), the others being half an iteration away."""
    G = g / problem.eps[:, None] + log_weights(problem.b)
    f = problem.transform(np.zeros_like(problem.a), G, columns=False) * problem.eps[:, None]
    rows = np.multiply(problem.a, f, out=np.zeros_like(f), where=problem.a > 0)
    return np.asarray(rows.sum(1) + (problem.b * g).sum(1))


def _count(problem: Problem, g: Doubles, levels: Doubles, max_iter: int) -> Any:
    """Plain iterations to each of these falling errors, (batch, levels)."""
    G = g / problem.eps[:, None] + log_weights(problem.b)
    F, G, done = begin(problem, G, eps_scaling=False, max_iter=max_iter)
    out = np.empty((problem.batch, len(levels)), np.int64)
    for k, level in enumerate(levels):
        for room in sorted(set((max_iter - done).tolist())):
            these = np.flatnonzero(max_iter - done == room)
            _, more = problem.iterate(
                F, G, problems=these, form=RECOMPUTED, max_iter=room, tol=float(level)
            )
            done[these] += more[these]
        out[:, k] = done
    return out
