"""Stein control variates against their formulas in dense algebra and the published tables."""

import math
import warnings

import numpy as np
import pytest
import reference_interaction as ref

from mckean import ConvergenceWarning, random
from mckean import kernels as ks
from mckean.interaction import _cholesky
from mckean.interaction.control_variates import SteinControlVariate, VectorSteinControlVariate

K = ks.Gaussian(1.0)
TRUTH = 1 + math.exp(0.045)


def problem(seed, n):
    x = random.normal(seed, (n, 1))
    return x, -x, (np.sin(x) + x**2 + np.exp(0.3 * x))[:, 0]


def rmse(values):
    return math.sqrt(np.mean(np.square(values)))


def dense(x, s, f, rho, task=None, tasks=None):
    """beta and c by the formula."""
    gram = ref.stein_matrix(K, x, s)
    task = np.zeros(len(x), int) if task is None else task
    tasks = np.eye(1) if tasks is None else tasks
    a = np.linalg.inv(gram * tasks[np.ix_(task, task)] + rho * np.eye(len(x)))
    h = np.eye(len(tasks))[task]
    beta = np.linalg.solve(h.T @ a @ h, h.T @ a @ f)
    return beta, a @ (f - h @ beta)


@pytest.mark.parametrize(("n", "table"), [(20, 0.051), (50, 0.013), (100, 0.0068), (200, 0.0025)])
def test_errors_are_those_of_the_table(n, table):
    """Root mean square errors of 30 repetitions within a factor of 2; the relative standard error of such a root is about
    0.2 here, plain Monte Carlo is 9 to 60 times worse."""
    errors = [
        SteinControlVariate(K).estimate(*problem(seed, n)).estimate - TRUTH for seed in range(30)
    ]
    assert table / 2 < rmse(errors) < 2 * table


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_the_estimate_is_the_formula(xp, dtype, solver):
    x, s, f = (a.astype(dtype) for a in problem(3, 40))
    cv = SteinControlVariate(K, rho=1e-3, solver=solver, tol=1e-12)
    found = cv.estimate(xp.asarray(x), xp.asarray(s), xp.asarray(f))
    beta, c = dense(x, s, f.astype(float), 1e-3)
    assert (
        type(found.estimate) is float and found.converged and (found.n_iter > 0) == (solver == "cg")
    )
    assert found.estimate == found.intercept == pytest.approx(beta[0], rel=1e-9)
    assert xp.dtype(found.coefficients) == dtype
    np.testing.assert_allclose(xp.to_numpy(found.coefficients), c, rtol=1e-5, atol=1e-6)
    assert found.rho == 1e-3 and found.kernel is K


def test_several_integrands_share_one_solve():
    x, s, f = problem(4, 60)
    both = SteinControlVariate(K).estimate(x, s, np.stack([f, np.cos(x[:, 0])], 1))
    assert both.estimate.shape == (2,) and both.coefficients.shape == (60, 2)
    assert both.estimate[0] == pytest.approx(
        SteinControlVariate(K).estimate(x, s, f).estimate, rel=1e-7
    )
    assert both.estimate[1] == pytest.approx(math.exp(-0.5), abs=0.02)


def test_points_need_not_come_from_the_density():
    x = np.linspace(-4, 4, 60)[:, None]
    f = (np.sin(x) + x**2 + np.exp(0.3 * x))[:, 0]
    assert SteinControlVariate(K).estimate(x, -x, f).estimate == pytest.approx(TRUTH, abs=1e-3)
    assert abs(f.mean() - TRUTH) > 1


def test_splitting_is_unbiased_and_takes_the_formula():
    """Null: the mean of 400 estimates from 10 points is the truth; 5.5 standard errors, false alarm 4e-8. The estimate
    that does not split is off by more at this size."""
    cv = SteinControlVariate(K, split=True, rho=0.5)
    errors = np.array([cv.estimate(*problem(seed, 10)).estimate for seed in range(400)]) - TRUTH
    assert abs(errors.mean()) < 5.5 * errors.std(ddof=1) / 20
    plain = (
        np.array(
            [
                SteinControlVariate(K, rho=0.5).estimate(*problem(seed, 10)).estimate
                for seed in range(400)
            ]
        )
        - TRUTH
    )
    assert abs(plain.mean()) > 5.5 * plain.std(ddof=1) / 20
    x, s, f = problem(1, 9)
    found = cv.estimate(x, s, f)
    # The fit half is the one whose own formula gives the coefficients.
    import itertools

    for fit in itertools.combinations(range(9), 5):
        fit, rest = list(fit), [i for i in range(9) if i not in fit]
        beta, c = dense(x[fit], s[fit], f[fit], 0.5)
        if np.allclose(c, found.coefficients):
            g = ref.stein_matrix(K, x[rest], s[rest], x[fit], s[fit]) @ c
            assert found.intercept == pytest.approx(beta[0])
            assert found.estimate == pytest.approx((f[rest] - g).mean(), rel=1e-10)
            return
    raise AssertionError("no half fits")


def test_many_points_take_conjugate_gradients():
    x = random.normal(5, (4500, 2))
    f = np.sin(x[:, 0]) + x[:, 0] ** 2 + np.exp(0.3 * x[:, 1])
    found = SteinControlVariate(ks.Gaussian(2.0), rho=1e-4).estimate(x, -x, f)
    assert found.converged and 0 < found.n_iter < 200
    assert found.estimate == pytest.approx(
        TRUTH, abs=5e-4
    )  # regularisation; the plain mean is 0.02 off


def test_no_convergence_is_said():
    x, s, f = problem(6, 400)
    cv = SteinControlVariate(ks.InverseMultiquadric(0.2), solver="cg", max_iter=1, tol=1e-14)
    with pytest.warns(ConvergenceWarning, match="did not reach tol=1e-14 in 1 iterations"):
        found = cv.estimate(x, s, f)
    assert not found.converged and found.n_iter == 1


def test_the_default_kernel_has_the_median_bandwidth():
    from mckean.interaction.bandwidth import median_bandwidth

    x, s, f = problem(7, 80)
    found = SteinControlVariate().estimate(x, s, f)
    assert found.kernel.bandwidth == median_bandwidth(x)
    assert found.rho == pytest.approx(
        1e-8 * np.trace(ref.stein_matrix(found.kernel, x, s)) / 80, rel=1e-9
    )


def test_constants_are_exact():
    x, s, _ = problem(8, 30)
    found = SteinControlVariate(K).estimate(x, s, np.full(30, 7.5))
    assert found.estimate == pytest.approx(7.5, abs=1e-9)
    one = SteinControlVariate(K).estimate(x[:1], s[:1], np.array([2.0]))
    assert one.estimate == pytest.approx(2.0)


def test_repeated_points_raise_rho_and_say_so():
    x, s, f = problem(9, 20)
    twice = [np.concatenate([a, a]) for a in (x, s, f)]
    found = SteinControlVariate(K, rho=0.0).estimate(*twice)
    assert found.rho > 0
    assert found.estimate == pytest.approx(TRUTH, abs=0.1)


def test_wrong_arguments_are_named():
    x, s, f = problem(0, 10)
    cv = SteinControlVariate(K)
    many = np.zeros((20_001, 1))
    with pytest.raises(ValueError, match="^solver: expected 'cg' for more than 20000 points"):
        SteinControlVariate(K, solver="cholesky").estimate(many, many, many[:, 0])
    with pytest.raises(ValueError, match="^scores: expected shape"):
        cv.estimate(x, s[:4], f)
    with pytest.raises(ValueError, match=r"^values: expected shape \(10,\)"):
        cv.estimate(x, s, f[:4])
    with pytest.raises(ValueError, match="^values: expected finite"):
        cv.estimate(x, s, f * np.nan)
    with pytest.raises(ValueError, match="^scores: expected finite"):
        cv.estimate(x, s * np.nan, f)
    with pytest.raises(ValueError, match="^x: expected at least 1 point, got 0"):
        cv.estimate(x[:0], s[:0], f[:0])
    with pytest.raises(ValueError, match="^x: expected at least 2 points, got 1"):
        SteinControlVariate(K, split=True).estimate(x[:1], s[:1], f[:1])
    with pytest.raises(ValueError, match="^solver: expected one of"):
        SteinControlVariate(solver="lu")
    with pytest.raises(ValueError, match="^rho: expected a number >= 0"):
        SteinControlVariate(rho=-1)
    with pytest.raises(TypeError, match="^x: expected a list of arrays, one per task"):
        VectorSteinControlVariate(K, task_matrix=np.eye(2)).estimate(x, [s], [f])
    with pytest.raises(ValueError, match="^scores: expected 2 arrays, one per task, got 1"):
        VectorSteinControlVariate(K, task_matrix=np.eye(2)).estimate([x, x], [s], [f, f])
    with pytest.raises(ValueError, match=r"^values\[1\]: expected shape"):
        VectorSteinControlVariate(K, task_matrix=np.eye(2)).estimate([x, x], [s, s], [f, f[:3]])
    with pytest.raises(ValueError, match=r"^task_matrix: expected shape \(1, 1\)"):
        VectorSteinControlVariate(K, task_matrix=np.eye(2)).estimate([x], [s], [f])
    with pytest.raises(ValueError, match="^task_matrix: expected a positive semidefinite matrix"):
        VectorSteinControlVariate(K, task_matrix=np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(ValueError, match="^task_matrix: expected a symmetric matrix"):
        VectorSteinControlVariate(K, task_matrix=np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="^task_matrix: expected one of 'learn'"):
        VectorSteinControlVariate(K, task_matrix="fit")


# Several tasks.

TRUTHS = np.array(
    [math.exp(0.08), math.exp(0.2 + 0.08 * 1.69) + math.sin(0.5) * math.exp(-1.69 / 2)]
)


def two_tasks(seed, n1, n2):
    x = [random.normal(seed, (n1, 1)), 0.5 + 1.3 * random.normal(seed, (n2, 1), stream=1)]
    return x, [-x[0], -(x[1] - 0.5) / 1.69], [(np.exp(0.4 * a) + np.sin(a))[:, 0] for a in x]


@pytest.mark.parametrize(
    ("sizes", "apart", "joined"), [((40, 10), 0.0928, 0.0468), ((80, 10), 0.0886, 0.0411)]
)
def test_sharing_helps_as_in_the_table(sizes, apart, joined):
    """Root mean square errors of task 2 over 30 repetitions, within a factor of 2; a learnt B does better than the
    table's, as the two integrands are one function."""
    errors = {"apart": [], "joined": [], "learn": []}
    for seed in range(30):
        for name, tasks in (
            ("apart", np.eye(2)),
            ("joined", np.array([[1, 0.95], [0.95, 1]])),
            ("learn", "learn"),
        ):
            cv = VectorSteinControlVariate(K, task_matrix=tasks)
            errors[name].append(cv.estimate(*two_tasks(seed, *sizes)).estimate - TRUTHS)
    two = {name: rmse(np.array(e)[:, 1]) for name, e in errors.items()}
    one = {name: rmse(np.array(e)[:, 0]) for name, e in errors.items()}
    assert apart / 2 < two["apart"] < 2 * apart
    assert joined / 2 < two["joined"] < 2 * joined
    assert two["learn"] < two["joined"] / 2
    assert max(one.values()) < 0.006


@pytest.mark.parametrize("solver", ["cholesky", "cg"])
def test_the_vector_estimate_is_the_formula(xp, dtype, solver):
    x, s, f = two_tasks(1, 14, 9)
    x, s, f = ([a.astype(dtype) for a in part] for part in (x, s, f))
    tasks = np.array([[2.0, 0.7], [0.7, 1.0]])
    cv = VectorSteinControlVariate(K, task_matrix=tasks, rho=1e-3, solver=solver, tol=1e-12)
    found = cv.estimate(*([xp.asarray(a) for a in part] for part in (x, s, f)))
    task = np.repeat([0, 1], [14, 9])
    beta, c = dense(*(np.concatenate(part).astype(float) for part in (x, s, f)), 1e-3, task, tasks)
    np.testing.assert_allclose(found.estimate, beta, rtol=1e-8)
    assert found.converged and [a.shape for a in found.coefficients] == [(14,), (9,)]
    assert all(xp.dtype(a) == dtype for a in found.coefficients)
    np.testing.assert_allclose(
        np.concatenate([xp.to_numpy(a) for a in found.coefficients]), c, rtol=1e-4, atol=1e-5
    )


def test_separate_tasks_are_scalar_estimates():
    x, s, f = two_tasks(2, 30, 20)
    found = VectorSteinControlVariate(K, task_matrix=np.eye(2), rho=1e-4).estimate(x, s, f)
    for t in range(2):
        alone = SteinControlVariate(K, rho=1e-4).estimate(x[t], s[t], f[t])
        assert found.estimate[t] == pytest.approx(alone.estimate, rel=1e-8)


def test_a_learnt_matrix_is_symmetric_positive_and_fits_better():
    found = VectorSteinControlVariate(K, task_matrix="learn").estimate(*two_tasks(3, 40, 15))
    b = found.task_matrix
    assert (b == b.T).all() and np.linalg.eigvalsh(b)[0] > -1e-12
    assert (np.diff(found.objective) <= 0).all() and found.converged
    # The two integrands are the same function.
    assert b[0, 1] / math.sqrt(b[0, 0] * b[1, 1]) > 0.99


def test_the_gradient_of_the_likelihood():
    """By central differences, through the optimiser's own criterion."""
    from mckean.interaction import _task_matrix

    x, s, f = (np.concatenate(part) for part in two_tasks(4, 12, 8))
    caught = {}

    def catch(function, theta, max_iter):
        caught["function"] = function
        return theta, [], True

    kept, _task_matrix._bfgs = _task_matrix._bfgs, catch
    try:
        _task_matrix.learn_task_matrix(
            ref.stein_matrix(K, x, s), np.repeat([0, 1], [12, 8]), f, 2, 0.1, 1
        )
    finally:
        _task_matrix._bfgs = kept
    theta = np.array([1.1, 0.4, 0.8])
    _, slope = caught["function"](theta)
    for i in range(3):
        step = 1e-6 * np.eye(3)[i]
        difference = caught["function"](theta + step)[0] - caught["function"](theta - step)[0]
        assert slope[i] == pytest.approx(difference / 2e-6, rel=1e-6)


def test_learning_stops_early_with_a_warning():
    with pytest.warns(ConvergenceWarning, match="^task_matrix: still changing after 2 iterations"):
        found = VectorSteinControlVariate(K, task_matrix="learn", learn_iter=2).estimate(
            *two_tasks(5, 30, 10)
        )
    assert not found.converged


def test_many_points_of_many_tasks():
    x, s, f = two_tasks(6, 4000, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = VectorSteinControlVariate(ks.Gaussian(2.0), task_matrix="learn", rho=1e-5).estimate(
            x, s, f
        )
    assert found.n_iter > 0
    np.testing.assert_allclose(found.estimate, TRUTHS, atol=1e-3)


def test_cholesky_grows_the_jitter_and_solves():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((300, 5))
    singular = half @ half.T
    lower, jitter = _cholesky.factor(singular.copy(), 0.0, "x")
    assert 0 < jitter < 1e-8
    np.testing.assert_allclose(lower @ lower.T, singular, atol=1e-7)
    spd = singular + np.eye(300)
    lower, jitter = _cholesky.factor(spd.copy(), 0.0, "x")
    assert jitter == 0
    for b in (rng.standard_normal(300), rng.standard_normal((300, 3))):
        np.testing.assert_allclose(_cholesky.solve(lower, b), np.linalg.solve(spd, b), atol=1e-10)
    with pytest.raises(ValueError, match="^x: expected a positive definite matrix"):
        _cholesky.factor(-spd, 0.0, "x")
