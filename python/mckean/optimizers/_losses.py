"""Objectives with closed-form Hessians: losses of linear models, and log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mckean._array import Input, as_input, check_finite, to_numpy
from mckean._errors import nonnegative, positive
from mckean.optimizers._objective import Vector

__all__ = ["LeastSquaresLoss", "LogSumExp", "LogisticLoss", "SoftmaxLoss"]

_BLOCK = 1024  # rows of per-sample gradients held at once
_MOST = 2**31  # entries of a dense matrix


def data(X: Any, name: str, shape: tuple[Any, ...]) -> tuple[Input, Vector]:
    checked = as_input(X, name, shape=shape)
    if 0 in checked.shape:
        raise ValueError(f"{name}: expected at least one row and column, got {checked.shape}")
    check_finite(checked, name)
    return checked, np.asarray(to_numpy(checked.array), np.float64)


def _softmax(z: Vector) -> tuple[Vector, Vector]:
    """Rows of probabilities, and log-sum-exp of the rows."""
    top = z.max(-1, keepdims=True)
    p = np.exp(z - top)
    total = p.sum(-1, keepdims=True)
    return p / total, (np.log(total) + top)[..., 0]


class Located:
    """Points of any framework, computed on the host in float64."""

    d: int

    def _point(self, x: Any) -> tuple[Vector, Callable[[Vector], Any]]:
        """`x` on the host, and what takes results back to where it came from."""
        checked = as_input(x, "x", shape=(self.d,))

        def back(a: Vector) -> Any:
            a = np.ascontiguousarray(a.astype(checked.dtype, copy=False))
            return checked.framework.asarray(a, checked.device)

        return np.asarray(to_numpy(checked.array), np.float64), back

    def value_and_gradient(self, x: Any) -> tuple[float, Any]:
        """Return both at `x`, in the time of the gradient."""
        raise NotImplementedError

    def product(self, x: Any, model: str = "exact") -> Callable[[Any], Any]:
        """Return the function v to H v at `x`."""
        raise NotImplementedError

    def value(self, x: Any) -> float:
        """Return the value at `x`, shape (d,)."""
        return self.value_and_gradient(x)[0]

    def gradient(self, x: Any) -> Any:
        """Return the gradient at `x`, shape (d,)."""
        return self.value_and_gradient(x)[1]

    def hvp(self, x: Any, v: Any) -> Any:
        """Return the Hessian at `x` times `v`, shape (d,) or (d, p)."""
        return self.product(x)(v)


class Smooth(Located):
    """An objective with closed forms.

    A subclass gives `_evaluate` (value and gradient), `_product` (v to H v, v (d,) or (d, p)) and
    `_matrix`.
    """

    def _evaluate(self, x: Vector) -> tuple[float, Vector]:
        raise NotImplementedError

    def _product(self, x: Vector, model: str) -> Callable[[Vector], Vector]:
        raise NotImplementedError

    def _matrix(self, x: Vector, model: str) -> Vector:
        raise NotImplementedError

    def value(self, x: Any) -> float:
        """Return the value at `x`, shape (d,)."""
        return self._evaluate(self._point(x)[0])[0]

    def value_and_gradient(self, x: Any) -> tuple[float, Any]:
        """Return both at `x`, in the time of the gradient."""
        w, back = self._point(x)
        value, g = self._evaluate(w)
        return value, back(g)

    def product(self, x: Any, model: str = "exact") -> Callable[[Any], Any]:
        """Return the function v to H v at `x`, for v (d,) or (d, p); it holds what depends on `x`."""
        w, _ = self._point(x)
        apply = self._product(w, model)

        def product(v: Any) -> Any:
            checked = as_input(v, "v")
            if checked.shape[:1] != (self.d,) or len(checked.shape) > 2:
                raise ValueError(f"v: expected shape ({self.d},) or ({self.d}, p), got {v.shape}")
            out = apply(np.asarray(to_numpy(checked.array), np.float64))
            out = np.ascontiguousarray(out.astype(checked.dtype, copy=False))
            return checked.framework.asarray(out, checked.device)

        return product

    def _dense(self, x: Any, model: str) -> Any:
        if self.d**2 > _MOST:
            raise ValueError(f"x: a dense ({self.d}, {self.d}) matrix is too large, use product(x)")
        w, back = self._point(x)
        return back(self._matrix(w, model))

    def hessian(self, x: Any) -> Any:
        """Return the Hessian at `x`, shape (d, d)."""
        return self._dense(x, "exact")

    def ggn(self, x: Any) -> Any:
        """Return the generalised Gauss-Newton matrix at `x`, shape (d, d)."""
        return self._dense(x, "ggn")


class _Loss(Smooth):
    """A mean of losses of a linear model plus ``l2 |x|^2 / 2``."""

    def __init__(self, X: Any, l2: float) -> None:
        self._input, self._X = data(X, "X", ("n", "p"))
        self.n_samples, self._p = self._X.shape
        self.l2 = nonnegative(l2, "l2")

    def config(self) -> dict[str, Any]:
        """What makes two objectives the same."""
        return {"X": self._X, "y": self._y, "l2": self.l2}

    _y: Vector

    def fisher(self, x: Any) -> Any:
        """Return the empirical Fisher matrix at `x`, shape (d, d).

        The mean of the outer products of the samples' gradients, plus l2 I. The Fisher matrix of
        the model itself is `ggn`, for these losses.
        """
        return self._dense(x, "fisher")

    def per_sample_gradients(self, x: Any) -> Any:
        """Return the gradients of the samples' losses at `x`, shape (n, d).

        Their mean plus ``l2 x`` is the gradient.
        """
        w, back = self._point(x)
        return back(self._samples(w, slice(None)))

    def _samples(self, x: Vector, rows: slice) -> Vector:
        raise NotImplementedError

    def _fisher(self, x: Vector) -> Vector:
        out = self.l2 * np.eye(self.d)
        for i in range(0, self.n_samples, _BLOCK):
            G = self._samples(x, slice(i, i + _BLOCK))
            out += G.T @ G / self.n_samples
        return out

    def _fisher_product(self, x: Vector) -> Callable[[Vector], Vector]:
        def product(v: Vector) -> Vector:
            out = self.l2 * v
            for i in range(0, self.n_samples, _BLOCK):
                G = self._samples(x, slice(i, i + _BLOCK))
                out += G.T @ (G @ v) / self.n_samples
            return out

        return product

    def _rows(self, index: Any) -> Any:
        chosen = np.asarray(index)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not chosen.size:
            raise ValueError(f"index: expected at least one integer, got {index!r}")
        if chosen.min() < 0 or chosen.max() >= self.n_samples:
            raise ValueError(f"index: expected integers below {self.n_samples}, got {index!r}")
        return chosen


class _Margins(_Loss):
    """A loss of one output per sample: the Hessian is ``X^T diag(c) X / n + l2 I``."""

    def __init__(self, X: Any, y: Any, l2: float = 0.0) -> None:
        super().__init__(X, l2)
        self.d = self._p
        _, self._y = data(y, "y", (self.n_samples,))

    def batch(self, index: Any) -> Any:
        """Return the same loss of the samples `index`."""
        rows = self._rows(index)
        return type(self)(self._X[rows], self._y[rows], self.l2)

    def _losses(self, m: Vector) -> tuple[Vector, Vector, Vector]:
        """Losses of outputs m, and their first and second derivatives."""
        raise NotImplementedError

    def _evaluate(self, x: Vector) -> tuple[float, Vector]:
        losses, first, _ = self._losses(self._X @ x)
        value = float(losses.mean() + 0.5 * self.l2 * (x @ x))
        return value, self._X.T @ first / self.n_samples + self.l2 * x

    def _samples(self, x: Vector, rows: slice) -> Vector:
        return np.asarray(self._losses(self._X @ x)[1][rows, None] * self._X[rows])

    def _weights(self, x: Vector, model: str) -> Vector:
        _, first, second = self._losses(self._X @ x)
        return first**2 if model == "fisher" else second

    def _matrix(self, x: Vector, model: str) -> Vector:
        H = (self._X.T * self._weights(x, model)) @ self._X / self.n_samples
        H.flat[:: self.d + 1] += self.l2
        return np.asarray(H)

    def _product(self, x: Vector, model: str) -> Callable[[Vector], Vector]:
        c = self._weights(x, model) / self.n_samples
        return lambda v: self._X.T @ (c * (self._X @ v).T).T + self.l2 * v

    def bound(self, x: Any) -> Any:
        """Return ``X^T X c / n + l2 I``, c the largest curvature of the loss: above every Hessian."""
        _, back = self._point(x)
        H = self._most * self._X.T @ self._X / self.n_samples
        return back(np.asarray(H + self.l2 * np.eye(self.d)))

    _most = 1.0


class LogisticLoss(_Margins):
    """Binary logistic regression: ``mean log(1 + exp(-z X x)) + l2 |x|^2 / 2``, z = 2 y - 1.

    Every evaluation reads X once or twice. ``hessian`` (which is also ``ggn`` and the Fisher matrix
    of the model) is ``X^T diag(p (1 - p)) X / n + l2 I``; ``fisher`` is the empirical one, with
    weights ``(y - p)^2``; ``bound`` has 1/4 in their place.

    Parameters
    ----------
    X : array, shape (n, d)
        One sample per row; for an intercept append a column of ones.
    y : array, shape (n,)
        0 or 1.
    l2 : float
        Weight of ``|x|^2 / 2``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    SoftmaxLoss, mckean.targets.LogisticRegression

    Notes
    -----
    Computed on the host in float64; results have the framework, dtype and device of ``x``.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> loss = mk.optimizers.LogisticLoss(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([1, 0]))
    >>> round(loss.value(np.zeros(2)), 6), loss.gradient(np.zeros(2))
    (0.693147, array([-0.25,  0.5 ]))
    """

    _most = 0.25

    def __init__(self, X: Any, y: Any, l2: float = 0.0) -> None:
        super().__init__(X, y, l2)
        if not np.isin(self._y, (0.0, 1.0)).all():
            raise ValueError("y: expected labels 0 and 1, got others")

    def _losses(self, m: Vector) -> tuple[Vector, Vector, Vector]:
        z = 2 * self._y - 1
        a = z * m
        e = np.exp(-abs(a))
        wrong = np.where(a >= 0, e, 1.0) / (1 + e)  # 1 - p_y
        return np.log1p(e) + np.maximum(-a, 0), -z * wrong, e / (1 + e) ** 2


class LeastSquaresLoss(_Margins):
    """Linear regression: ``mean (X x - y)^2 / 2 + l2 |x|^2 / 2``.

    Parameters
    ----------
    X : array, shape (n, d)
        One sample per row.
    y : array, shape (n,)
        What to predict.
    l2 : float
        Weight of ``|x|^2 / 2``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> loss = mk.optimizers.LeastSquaresLoss(np.eye(2), np.array([1.0, 3.0]))
    >>> loss.value(np.zeros(2)), loss.gradient(np.zeros(2))
    (2.5, array([-0.5, -1.5]))
    """

    def _losses(self, m: Vector) -> tuple[Vector, Vector, Vector]:
        r = m - self._y
        return 0.5 * r * r, r, np.ones_like(r)


class SoftmaxLoss(_Loss):
    """Multinomial logistic regression: ``mean(logsumexp(W X_i) - (W X_i)_{y_i}) + l2 |W|^2 / 2``.

    The parameters are W, shape (n_classes, p), flattened by rows: d = n_classes p. A product with
    the Hessian is two products with X; the dense Hessian takes n d^2 / 2 multiplications.

    Parameters
    ----------
    X : array, shape (n, p)
        One sample per row.
    labels : integer array, shape (n,)
        0, 1, ..., n_classes - 1.
    l2 : float
        Weight of ``|W|^2 / 2``.
    n_classes : int, optional
        By default one more than the largest label.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    See Also
    --------
    LogisticLoss

    Notes
    -----
    ``hessian`` and ``ggn`` are the same. Two models above them, for ``GNS(loss, model=...)``:
    ``bound``, constant, from ``diag(p) - p p^T <= (I - 1 1^T / C) / 2``, and ``block_diagonal``,
    which drops ``p p^T``. Computed on the host in float64.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> loss = mk.optimizers.SoftmaxLoss(np.eye(3), np.array([0, 1, 2]), l2=0.1)
    >>> loss.d, round(loss.value(np.zeros(9)), 6)
    (9, 1.098612)
    """

    def __init__(
        self, X: Any, labels: Any, l2: float = 0.0, *, n_classes: int | None = None
    ) -> None:
        super().__init__(X, l2)
        checked = as_input(labels, "labels", shape=(self.n_samples,))
        y = np.asarray(to_numpy(checked.array))
        self._y = y.astype(np.int64)
        if (self._y != y).any() or self._y.min() < 0:
            raise ValueError("labels: expected integers of at least 0, got others")
        self.n_classes = int(self._y.max()) + 1 if n_classes is None else int(n_classes)
        if self.n_classes < max(2, int(self._y.max()) + 1):
            raise ValueError(
                f"n_classes: expected at least {max(2, int(self._y.max()) + 1)}, "
                f"got {self.n_classes}"
            )
        self.d = self.n_classes * self._p

    def batch(self, index: Any) -> SoftmaxLoss:
        """Return the same loss of the samples `index`."""
        rows = self._rows(index)
        return SoftmaxLoss(self._X[rows], self._y[rows], self.l2, n_classes=self.n_classes)

    def _probabilities(self, x: Vector) -> tuple[Vector, Vector, Vector]:
        z = self._X @ x.reshape(self.n_classes, self._p).T
        return z, *_softmax(z)

    def _errors(self, x: Vector) -> Vector:
        _, P, _ = self._probabilities(x)
        P[np.arange(self.n_samples), self._y] -= 1
        return P

    def _evaluate(self, x: Vector) -> tuple[float, Vector]:
        z, P, top = self._probabilities(x)
        rows = np.arange(self.n_samples)
        value = float((top - z[rows, self._y]).mean() + 0.5 * self.l2 * (x @ x))
        P[rows, self._y] -= 1
        return value, (P.T @ self._X).reshape(-1) / self.n_samples + self.l2 * x

    def _samples(self, x: Vector, rows: slice) -> Vector:
        E = self._errors(x)[rows]
        return np.asarray((E[:, :, None] * self._X[rows, None, :]).reshape(len(E), -1))

    def _matrix(self, x: Vector, model: str) -> Vector:
        if model == "fisher":
            return self._fisher(x)
        _, P, _ = self._probabilities(x)
        p, C = self._p, self.n_classes
        H = np.empty((C, p, C, p))
        for a in range(C):
            for b in range(a, C):
                c = P[:, a] * ((a == b) - P[:, b]) / self.n_samples
                H[a, :, b] = (self._X.T * c) @ self._X
                H[b, :, a] = H[a, :, b]  # X^T diag(c) X is symmetric
        H = H.reshape(self.d, self.d)
        H.flat[:: self.d + 1] += self.l2
        return H

    def _product(self, x: Vector, model: str) -> Callable[[Vector], Vector]:
        if model == "fisher":
            return self._fisher_product(x)
        _, P, _ = self._probabilities(x)

        def product(v: Vector) -> Vector:
            if v.ndim == 1:
                u = self._X @ v.reshape(self.n_classes, self._p).T
                r = P * u
                r -= P * r.sum(1, keepdims=True)
                return np.asarray((r.T @ self._X).reshape(-1) / self.n_samples + self.l2 * v)
            return np.stack([product(c) for c in v.T], 1)

        return product

    def bound(self, x: Any) -> Any:
        """Return ``(I - 1 1^T / C) / 2`` times ``X^T X / n``, plus l2 I: above every Hessian."""
        _, back = self._point(x)
        C = self.n_classes
        core = (np.eye(C) - 1 / C) / 2
        H = np.kron(core, self._X.T @ self._X / self.n_samples)
        return back(H + self.l2 * np.eye(self.d))

    def block_diagonal(self, x: Any) -> Any:
        """Return the blocks ``X^T diag(p_a) X / n`` of the classes a, plus l2 I."""
        w, back = self._point(x)
        _, P, _ = self._probabilities(w)
        H = self.l2 * np.eye(self.d)
        for a in range(self.n_classes):
            at = slice(a * self._p, (a + 1) * self._p)
            H[at, at] += (self._X.T * P[:, a]) @ self._X / self.n_samples
        return back(H)


class LogSumExp(Smooth):
    """The soft maximum ``mu log sum_i exp((A x - b)_i / mu)``.

    With pi the softmax of ``(A x - b) / mu``: gradient ``A^T pi``, Hessian ``(A^T diag(pi) A -
    g g^T) / mu``. The model ``ggn`` drops ``g g^T``, which vanishes at the minimum.

    Parameters
    ----------
    A : array, shape (m, d)
        One linear function per row.
    b : array, shape (m,)
        Their offsets.
    mu : float
        Temperature, positive; the value is within ``mu log m`` of the maximum.

    Attributes
    ----------
    metric : numpy.ndarray, shape (d, d)
        ``A^T A``, the metric in which the paper's constants are those of the softmax alone.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> f = mk.optimizers.LogSumExp(np.array([[1.0], [-1.0]]), np.zeros(2), mu=1.0)
    >>> round(f.value(np.zeros(1)), 6), f.hessian(np.zeros(1))
    (0.693147, array([[1.]]))
    """

    def __init__(self, A: Any, b: Any, mu: float = 1.0) -> None:
        _, self._A = data(A, "A", ("m", "d"))
        _, self._b = data(b, "b", (self._A.shape[0],))
        self.mu, self.d = positive(mu, "mu"), self._A.shape[1]

    def config(self) -> dict[str, Any]:
        """What makes two objectives the same."""
        return {"A": self._A, "b": self._b, "mu": self.mu}

    @property
    def metric(self) -> Vector:
        return np.asarray(self._A.T @ self._A)

    def _weights(self, x: Vector) -> tuple[Vector, float]:
        pi, top = _softmax((self._A @ x - self._b) / self.mu)
        return pi, self.mu * float(top)

    def _evaluate(self, x: Vector) -> tuple[float, Vector]:
        pi, value = self._weights(x)
        return value, self._A.T @ pi

    def _matrix(self, x: Vector, model: str) -> Vector:
        pi, _ = self._weights(x)
        # A - 1 g^T in place of - g g^T: nothing cancels where pi sits on one row.
        rows = self._A - self._A.T @ pi if model == "exact" else self._A
        rows = np.sqrt(pi / self.mu)[:, None] * rows
        return np.asarray(rows.T @ rows)

    def _product(self, x: Vector, model: str) -> Callable[[Vector], Vector]:
        pi, _ = self._weights(x)
        g = self._A.T @ pi if model == "exact" else np.zeros(self.d)

        def product(v: Vector) -> Vector:
            u = self._A @ v - g @ v
            return np.asarray(self._A.T @ (pi * u.T).T / self.mu)

        return product
