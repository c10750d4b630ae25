"""Pictures of solutions and of the steps that adaptive paths took."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import mckean as mk
from mckean import plot

pytest.importorskip("matplotlib").use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def solution():
    return mk.sde.sdeint(
        mk.sde.OrnsteinUhlenbeck(np.array([1.0, 30.0])),
        np.ones((40, 2)),
        np.linspace(0, 1, 11),
        solver=mk.sde.ShARK(),
        controller=mk.sde.PIDController(0.0, 0.02, dtmin=2.0**-10),
    )


def test_paths_are_those_of_the_solution(solution):
    ax = plot.paths(solution, coordinate=1, count=7)
    mean, *lines = ax.get_lines()
    assert len(lines) == 7
    np.testing.assert_array_equal(lines[3].get_ydata(), solution.ys[:, 3, 1])
    np.testing.assert_allclose(mean.get_ydata(), solution.ys[:, :, 1].mean(1))
    assert ax.get_ylabel() == "y[1]"
    other = plt.subplots()[1]
    assert plot.paths(solution, other, count=0) is other and len(other.get_lines()) == 1


def test_paths_that_failed_count_while_they_lived():
    ys = np.ones((3, 2, 1))
    ys[1:, 0], ys[2, 1] = np.nan, np.nan
    failed = SimpleNamespace(ys=ys, ts=np.arange(3.0), stats={})
    mean = plot.paths(failed).get_lines()[0]
    np.testing.assert_array_equal(mean.get_xdata(), [0.0, 1.0])
    np.testing.assert_array_equal(mean.get_ydata(), [1.0, 1.0])


def test_steps_of_a_solution(solution):
    ax = plot.steps(solution)
    assert sum(bar.get_height() for bar in ax.patches) == 40
    low, high = ax.patches[0].get_x(), ax.patches[-1].get_x() + ax.patches[-1].get_width()
    sizes = 1 / solution.stats["accepted"]
    assert low <= sizes.min() * (1 + 1e-9) and high >= sizes.max() * (1 - 1e-9)
    constant = SimpleNamespace(stats={"accepted": np.full(5, 8)}, ts=np.array([0.0, 2.0]))
    assert sum(bar.get_height() for bar in plot.steps(constant).patches) == 5


def test_steps_of_a_run():
    counts = np.cumsum(np.arange(1, 13).reshape(4, 3), axis=0)
    ax = plot.steps(SimpleNamespace(stats={"accepted": counts}))
    np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), [5, 8, 11])
    np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), [1, 2, 3])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda s: plot.paths(3), TypeError, "solution: expected a Solution, got int"),
        (lambda s: plot.paths(s, "axes"), TypeError, "ax: expected axes"),
        (lambda s: plot.paths(s, coordinate=2), ValueError, "coordinate: expected less than 2"),
        (lambda s: plot.paths(s, count=-1), ValueError, "count: expected an integer"),
        (lambda s: plot.steps(3), TypeError, "result: expected counts of accepted steps"),
        (lambda s: plot.steps(s, "axes"), TypeError, "ax: expected axes"),
        (
            lambda s: plot.steps(SimpleNamespace(stats={"accepted": np.ones((1, 3))})),
            ValueError,
            "result: expected at least two saved positions, got 1",
        ),
        (
            lambda s: plot.steps(SimpleNamespace(stats={"accepted": np.ones(3)})),
            TypeError,
            "result: expected a Solution",
        ),
        (
            lambda s: plot.steps(SimpleNamespace(stats={"accepted": np.zeros(3)}, ts=[0.0, 1.0])),
            ValueError,
            "result: expected paths with accepted steps, got none",
        ),
    ],
)
def test_bad_arguments(call, error, match, solution):
    with pytest.raises(error, match=match):
        call(solution)
