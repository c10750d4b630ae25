"""Newton's method regularised by the gradient norm: global linear decrease with approximate Hessians."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _claim import Claim, parse

from mckean import optimizers as O

TOL, STEPS = 1e-8, 1000
SCIPY = ("trust-ncg", "trust-exact", "Newton-CG", "L-BFGS-B", "BFGS")
LINEAR = 3.0  # how much dearer a tenfold decrease may get from the first half to the second

Models = dict[str, dict[str, Any]]


def standardised(X: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1, and one of ones."""
    scale = np.where(X.std(0) > 0, X.std(0), 1)
    return np.hstack([(X - X.mean(0)) / scale, np.ones((len(X), 1))])


def cases(quick: bool) -> dict[str, tuple[Any, np.ndarray, Models, Any]]:
    """Objective, starting point, models of GNS, and data for scikit-learn, by name."""
    out: dict[str, tuple[Any, np.ndarray, Models, Any]] = {}
    nystrom = {f"Nystrom {k}": {"model": "nystrom", "rank": k} for k in (5, 10, 20)}
    if importlib.util.find_spec("sklearn"):
        from sklearn.datasets import load_breast_cancer, load_digits

        X, y = load_breast_cancer(return_X_y=True)
        X = standardised(X)
        for name, l2 in (("1/n", 1 / len(X)), ("1e-6", 1e-6)):
            f = O.LogisticLoss(X, y, l2)
            models = {"exact": {}, "empirical Fisher": {"model": "fisher"}, **nystrom}
            models["X'X / 4n"] = {"model": f.bound}
            out[f"logistic, breast cancer, l2 {name}"] = (f, np.zeros(f.d), models, (X, y, l2))
            if quick:
                break
        X, y = load_digits(return_X_y=True)
        X = np.hstack([X / 16, np.ones((len(X), 1))])
        if quick:
            X, y = X[:, ::4], y
        f = O.SoftmaxLoss(X, y, 1 / len(X))
        models = {"exact": {}, "Nystrom 16": {"model": "nystrom", "rank": 16}}
        if not quick:
            models["empirical Fisher"] = {"model": "fisher"}
            models["diag(p)"] = {"model": f.block_diagonal}
            models["fixed bound"] = {"model": f.bound}
        out["softmax, digits, l2 1/n"] = (f, np.zeros(f.d), models, (X, y, 1 / len(X)))
    rng = np.random.default_rng(0)
    d, m = (20, 100) if quick else (100, 500)
    A, b = rng.uniform(-1, 1, (m, d)), rng.uniform(-1, 1, m)
    for mu in (1.0, 0.1, 0.05):
        f = O.LogSumExp(A, b, mu)
        models = {"exact": {}, "weighted Gauss-Newton": {"model": "ggn"}}
        models |= {"exact, metric A'A": {"metric": f.metric}}
        models |= {"Gauss-Newton, metric A'A": {"model": "ggn", "metric": f.metric}}
        out[f"log-sum-exp, mu {mu:g}"] = (f, np.ones(d), models, None)
    for p in (2, 3, 4):
        r = O.Rosenbrock(2, p)
        models = {
            "exact": {},
            "Gauss-Newton + Fisher": {"model": "ggn"},
            "Fisher term": {"model": "fisher"},
        }
        out[f"Rosenbrock, p = {p}"] = (r, r.start, models, None)
    return out


def best(call: Callable[[], Any], seconds: float = 1.0) -> tuple[Any, float]:
    """A result and the least time of up to three calls."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < seconds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            result = call()
            times.append(time.perf_counter() - start)
    return result, 1e3 * min(times)


def sklearn_rows(f: Any, data: Any) -> list[dict[str, Any]]:
    """Its solvers on the same function; they tell no counts but the iterations."""
    from sklearn.linear_model import LogisticRegression

    X, y, l2 = data
    rows = []
    for solver in ("lbfgs", "newton-cg", "newton-cholesky"):
        fit = LogisticRegression(
            C=1 / (l2 * len(X)), solver=solver, fit_intercept=False, tol=1e-9, max_iter=5000
        ).fit
        model, ms = best(lambda fit=fit: fit(X, y))
        g = f.gradient(np.ascontiguousarray(model.coef_.reshape(-1)))
        norm = float(np.linalg.norm(g))
        rows.append(
            {
                "solver": f"scikit-learn {solver}", "iterations": int(np.max(model.n_iter_)), "ms": ms, "gradient norm": norm,
                "reached": "yes" if norm <= TOL else "no",
            }
        )  # fmt: skip
    return rows


def row(name: str, r: Any, ms: float) -> dict[str, Any]:
    return {
        "solver": name,
        "iterations": r.n_iter,
        "gradients": r.n_gradients,
        "Hessians": r.n_hessians,
        "products": r.n_products,
        "ms": ms,
        "gradient norm": r.gradient_norm,
        "reached": "yes" if r.converged else "no",
    }


def halves(norms: np.ndarray) -> tuple[float, float]:
    """Iterations per tenfold decrease of the least gradient norm so far: in the first half of the decrease, and in the second."""
    least = np.log10(np.minimum.accumulate(np.maximum(norms, 1e-300)))
    half = (least[0] - least[-1]) / 2
    if half == 0:
        return math.inf, math.inf
    down = least[0] - least
    at = int(np.searchsorted(down, half))  # the step that crosses the middle, taken in proportion
    middle = at - 1 + (half - down[at - 1]) / (down[at] - down[at - 1])
    return middle / half, (len(norms) - 1 - middle) / half


def main(argv: Sequence[str] | None = None) -> int:
    args = parse("gns", __doc__ or "", argv)
    claim = Claim(
        args,
        "regularisation by the gradient norm gives global linear rates with approximate Hessians in logistic regression and "
        "softmax problems, and with Fisher and Gauss-Newton models in non-convex ones",
        "Gradient-Normalized Smoothness for Optimization with Approximate Hessians",
        f"from zero (log-sum-exp from ones, Rosenbrock from its usual start) to a gradient norm of {TOL:g}, at most {STEPS} steps; float64; gradients "
        "and products with Hessians are counted, dense Hessians apart; ms is the fastest of up to three runs",
    )
    peers = importlib.util.find_spec("scipy") is not None
    traces: dict[str, dict[str, np.ndarray]] = {}
    verdicts: list[tuple[str, str, bool]] = []
    for name, (f, x0, models, data) in cases(args.quick).items():
        rows, traces[name] = [], {}
        for label, options in models.items():
            r, ms = best(
                lambda f=f, x0=x0, options=options: O.GNS(
                    f, grad_tol=TOL, max_iter=STEPS, **options
                ).minimize(x0)
            )
            rows.append(row(f"GNS, {label}", r, ms))
            norms = r.history["gradient_norm"]
            traces[name][label] = norms
            if label.startswith("exact"):
                continue
            a, b = halves(norms)
            found = (
                f"{r.n_iter} iterations, {a:.3g} and {b:.3g} a tenfold decrease in its two halves"
            )
            if not r.converged:
                found = f"not in {STEPS} iterations, gradient norm {norms[-1]:.1e} ({a:.3g} and {b:.3g} a tenfold decrease)"
            verdicts.append((f"{name}, {label}", found, r.converged and b <= LINEAR * max(a, 1)))
        r, ms = best(lambda f=f, x0=x0: O.NormalizedGradient(f, grad_tol=TOL).minimize(x0))
        rows.append(row("normalised gradient", r, ms))
        traces[name]["normalised gradient"] = r.history["gradient_norm"]
        if peers:
            for method in SCIPY:
                r, ms = best(
                    lambda f=f, x0=x0, method=method: O.SciPyMinimize(
                        f, method, grad_tol=TOL, max_iter=STEPS
                    ).minimize(x0)
                )
                rows.append(row(f"SciPy {method}", r, ms))
        if data is not None:
            rows += sklearn_rows(f, data)
        columns = ["solver", "iterations", "gradients", "Hessians", "products", "ms", "gradient norm", "reached"]  # fmt: skip
        claim.table(f"{name}, {len(x0)} unknowns", columns, rows)
    print(
        "\nSciPy's Newton-CG stops where its curvature test meets rounding. scikit-learn reports no gradients; its norm is that "
        "of the same function.\nTime is no part of the claim."
    )
    for what, found, holds in verdicts:
        claim.check(f"{what}: reached, and linearly (within {LINEAR:g} times)", found, holds)

    def draw(axes: Any) -> None:
        for axis, start in zip(axes, ("logistic", "softmax", "log-sum-exp, mu 0.1", "Rosenbrock, p = 3"), strict=True):  # fmt: skip
            name = next((n for n in traces if n.startswith(start)), None)
            if name is None:
                continue
            for label, norms in traces[name].items():
                axis.semilogy(np.minimum.accumulate(norms), label=label)
            longest = max(len(n) for n in traces[name].values())
            axis.set(xlabel="iterations", ylabel="least gradient norm", title=name)
            if longest > 400:
                axis.set_xlim(0, 400)
            axis.legend(fontsize=7)

    claim.picture(draw, 4)
    return claim.finish()


if __name__ == "__main__":
    sys.exit(main())
