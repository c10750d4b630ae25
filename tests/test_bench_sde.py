"""The parts of the SDE bench and of the claim about NUTS that could be wrong without showing it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import mckean as mk

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.syspath_prepend(str(BENCH / "claims"))
    before = mk.get_num_threads()
    yield importlib.import_module
    mk.set_num_threads(before)


@pytest.mark.parametrize("form", ["native", "python", "cfunc"])
@pytest.mark.parametrize("name", ["ou", "gbm", "cir"])
def test_forms_of_an_equation_solve_it_alike(name, form, bench):
    peers = bench("sde_peers")
    if form == "cfunc":
        pytest.importorskip("numba")
    problem = peers.PROBLEMS[name]
    method = peers.METHODS[name][0][0]
    made = peers.Ours(form, problem, method, 20, "float64")
    path = made.truth(problem, 20, "float64")[0]
    known = peers.Ours("python", problem, method, 20, "float64").run(64, path)
    np.testing.assert_allclose(made.run(64, path), known, rtol=1e-10)
    assert made.steps() == 64


@pytest.mark.parametrize(
    ("who", "name"),
    [
        ("native", "ou"),
        ("native", "gbm"),
        ("native", "cir"),
        ("torchsde", "gbm"),
        pytest.param("torchsde", "ou", marks=pytest.mark.slow),
        pytest.param("torchsde", "cir", marks=pytest.mark.slow),
    ],
)
def test_errors_fall_to_the_target(who, name, bench):
    pytest.importorskip("mckean" if who == "native" else who)
    peers = bench("sde_peers")
    problem = peers.PROBLEMS[name]
    method = peers.METHODS[name][0][0]
    made = peers.solver(who, problem, method, 50, "float64")
    coarse = made.error(8)
    knob, error = peers.reach(made.error, coarse / 4, adaptive=False, limit=2**10)
    assert 8 < knob <= 256 and error <= coarse / 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ou", "gbm", "cir"])
def test_diffrax_solves_the_same_equation(name, bench):
    """Its error against its own reference falls, and the mean is ours: 400 paths, five standard errors."""
    pytest.importorskip("diffrax")
    peers = bench("sde_peers")
    problem, method = peers.PROBLEMS[name], peers.METHODS[name][0][0]
    made = peers.Diffrax(problem, method, 400, "float32")
    assert made.error(128) < 0.5 * made.error(8)
    mean = float(problem.equation("ito").mean(problem.time, np.ones((1, 1))).item())
    end = made.run(128)
    assert abs(end.mean() - mean) < 5 * end.std() / 20


def test_reach_finds_the_knob_of_a_power_law(bench):
    reach = bench("sde_peers").reach
    knob, error = reach(lambda n: n**-1.5, 1e-3, adaptive=False, limit=2**13)
    assert (knob, error) == (100.0, pytest.approx(1e-3))
    tol, error = reach(lambda tol: 3 * tol, 1e-3, adaptive=True, limit=2**13)
    assert tol == pytest.approx(1e-3 / 3) and error == pytest.approx(1e-3)
    assert reach(lambda n: 1.0, 1e-3, adaptive=False, limit=64) is None
    assert reach(lambda n: 1e-9, 1e-3, adaptive=False, limit=64) == (4.0, 1e-9)
    assert reach(lambda n: np.nan if n < 32 else 1e-4, 1e-3, adaptive=False, limit=64)[0] == 32


def test_effective_draws_of_autoregressive_chains(bench):
    """AR(1): n (1 - rho) / (1 + rho); with 200 chains of 1,000 draws the estimate is within a tenth by far."""
    z = mk.random.normal(1, (1000, 200, 3))
    rho = np.array([0.0, 0.5, 0.9])
    for k in range(1, len(z)):
        z[k] = rho * z[k - 1] + np.sqrt(1 - rho**2) * z[k]
    known = 200_000 * (1 - rho) / (1 + rho)
    found = bench("sde_sampling").effective(z.swapaxes(0, 1))
    np.testing.assert_allclose(found, known, rtol=0.15)


def test_claim_about_nuts_measures_what_it_says(bench):
    claim = bench("adaptive_langevin_nuts")
    problem = claim.funnel(True)
    z = problem.white(np.asarray(problem.target.sample(20_000, 3)))
    np.testing.assert_allclose(np.cov(z.T), np.eye(10), atol=0.06)  # six standard errors
    exact = np.asarray(problem.target.sample(2_000, 4))
    assert problem.covariance_error(exact) < 0.05 < problem.covariance_error(1.5 * exact)
    assert problem.distance(exact) < 0.1 * problem.distance(exact + 1.0)
    spent = np.array([10.0, 20.0, 30.0])
    assert claim.reached(spent, np.array([3.0, 1.0, 2.0]), 1.5) == 20
    assert claim.reached(spent, np.array([3.0, 2.0, 2.0]), 1.5) == np.inf
    x, spent = claim.langevin(problem, 8, 3, atol=0.25)
    assert x.shape == (3, 8, 10) and (np.diff(spent) > 0).all()


def test_claim_about_nuts_has_the_density_of_the_target(bench):
    jax = pytest.importorskip("jax")
    pytest.importorskip("sklearn")
    jax.config.update("jax_enable_x64", True)
    claim = bench("adaptive_langevin_nuts")
    problem = claim.regression("wine", True)
    x = mk.random.normal(1, (3, problem.target.dim))
    for p, at in ((problem, x), (claim.funnel(True), x[:, :10])):
        known = np.asarray(p.target.grad_log_density(np.ascontiguousarray(at)))
        found = np.stack([np.asarray(jax.grad(claim.log_density(p))(row)) for row in at])
        np.testing.assert_allclose(found, known, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_claim_about_nuts_prints_a_verdict(bench, tmp_path, capsys):
    claim = bench("adaptive_langevin_nuts")
    assert claim.main(["--quick", "--picture", str(tmp_path / "picture.png")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("claim:") and "\nverdict: " in out
