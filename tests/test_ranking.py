"""Bradley-Terry strengths: known answers, the likelihood equations, both iterations, and what has no answer."""

import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mckean as mk
from mckean.interaction.ranking import bradley_terry

sparse = pytest.importorskip("scipy.sparse")


def tournament(n, share, games, seed):
    """Results of a random `share` of all pairs, `games` each."""
    g = np.random.default_rng(seed)
    p = np.exp(g.normal(size=n))
    wins = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            if g.random() < share:
                wins[i, j] = g.binomial(games, p[i] / (p[i] + p[j]))
                wins[j, i] = games - wins[i, j]
    return wins


def chain(n, first=3.0, second=1.0):
    wins = np.zeros((n, n))
    i = np.arange(n - 1)
    wins[i, i + 1], wins[i + 1, i] = first, second
    return wins


def equations(wins, p, prior=0.0):
    """Expected minus actual wins of everybody: zero at the maximum."""
    met = wins + wins.T
    expected = (met * p[:, None] / (p[:, None] + p[None, :])).sum(1) + 2 * prior * p / (p + 1)
    return expected - wins.sum(1) - prior


@pytest.mark.parametrize(("method", "sweeps"), [("newman", 5610), ("zermelo", 21801)])
def test_chain_of_three_to_one_results_has_ratios_three(method, sweeps):
    """On a tree the maximum reproduces every pair's result; the number of sweeps is the one of the plain formula."""
    found = bradley_terry(chain(60), method=method, tol=1e-10, max_iter=30_000)
    assert found.converged and found.n_iter == sweeps
    np.testing.assert_allclose(found.strengths[:-1] / found.strengths[1:], 3.0, rtol=1e-6)
    assert abs(np.log(found.strengths).mean()) < 1e-12
    assert (found.order == np.arange(60)).all()


@pytest.mark.parametrize(
    ("n", "share", "newman", "zermelo"), [(50, 0.5, 12, 213), (100, 0.1, 20, 218)]
)
def test_both_iterations_reach_the_maximum_and_newman_is_faster(n, share, newman, zermelo):
    wins = tournament(n, share, 5, 1)
    a = bradley_terry(wins, tol=1e-10)
    b = bradley_terry(wins, tol=1e-10, method="zermelo")
    assert a.converged and b.converged
    assert a.n_iter < newman + 15 and b.n_iter > 5 * a.n_iter and b.n_iter < 2 * zermelo
    np.testing.assert_allclose(a.strengths, b.strengths, rtol=1e-6)
    assert abs(equations(wins, a.strengths)).max() < 1e-7


def test_log_likelihood_and_probability():
    wins = tournament(12, 1.0, 3, 2)
    found = bradley_terry(wins)
    p = found.strengths
    chance = p[:, None] / (p[:, None] + p[None, :])
    assert found.log_likelihood == pytest.approx((wins * np.log(chance)).sum(), rel=1e-12)
    assert found.probability(3, 5) == pytest.approx(chance[3, 5])
    for i in range(12):
        q = p.copy()
        q[i] *= 1.05
        lower = q[:, None] / (q[:, None] + q[None, :])
        assert (wins * np.log(lower)).sum() < found.log_likelihood


@pytest.mark.parametrize("method", ["newman", "zermelo"])
@pytest.mark.parametrize("prior", [0.5, 1.0, 3.0])
def test_prior_solves_its_own_equations(method, prior):
    wins = tournament(100, 0.1, 5, 3)
    found = bradley_terry(wins, prior=prior, method=method, tol=1e-11)
    assert found.converged
    assert abs(equations(wins, found.strengths, prior)).max() < 1e-7


def test_prior_answers_where_there_is_no_maximum():
    wins = np.triu(np.ones((4, 4)), 1)
    with pytest.raises(
        ValueError, match="wins: expected results that connect everybody, but player 0 did not lose"
    ):
        bradley_terry(wins)
    found = bradley_terry(wins, prior=1.0)
    assert found.converged and (np.diff(found.strengths) < 0).all()
    # The equations are symmetric under the reversal of all results.
    np.testing.assert_allclose(found.strengths * found.strengths[::-1], 1.0, rtol=1e-6)


def test_every_kind_of_disconnection_is_found():
    wins = chain(6)
    for broken, verb in (((2, 3), "beat"), ((3, 2), "lose to")):
        some = wins.copy()
        some[broken] = 0
        with pytest.raises(ValueError, match=f"player 0 did not {verb} player 3"):
            bradley_terry(some)
    with pytest.raises(ValueError, match="connect"):
        bradley_terry(np.zeros((2, 2)))
    alone = np.zeros((7, 7))
    alone[:6, :6] = wins
    with pytest.raises(ValueError, match="player 6"):
        bradley_terry(alone)


def test_connection_agrees_with_scipy():
    from scipy.sparse.csgraph import connected_components

    g = np.random.default_rng(4)
    answers = set()
    for _ in range(100):
        wins = (g.random((7, 7)) < 0.3).astype(float)
        np.fill_diagonal(wins, 0)
        connected = connected_components(sparse.csr_matrix(wins), connection="strong")[0] == 1
        answers.add(connected)
        if connected:
            assert bradley_terry(wins).converged
        else:
            with pytest.raises(ValueError, match="connect"):
                bradley_terry(wins)
    assert answers == {True, False}


def test_ties_are_half_a_win_each():
    wins, ties = tournament(10, 1.0, 3, 5), np.zeros((10, 10))
    ties[2, 5], ties[7, 1] = 3, 1
    a = bradley_terry(wins, ties=ties)
    b = bradley_terry(wins, ties=sparse.csr_matrix(ties.T))
    c = bradley_terry(wins + (ties + ties.T) / 2)
    assert (a.strengths == b.strengths).all() and (a.strengths == c.strengths).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_all_formats_give_the_same_bits(n, seed):
    g = np.random.default_rng(seed)
    wins = np.where(g.random((n, n)) < 0.5, g.integers(0, 4, (n, n)), 0).astype(float)
    csr = sparse.csr_matrix(wins)
    results = [
        bradley_terry(w, prior=1.0)
        for w in (
            wins,
            csr,
            sparse.coo_array(wins),
            (csr.indptr, csr.indices, csr.data),
            wins.astype(int),
        )
    ]
    for other in results[1:]:
        assert (results[0].strengths == other.strengths).all()
    # The diagonal says nothing.
    np.fill_diagonal(wins, 9)
    assert (bradley_terry(wins, prior=1.0).strengths == results[0].strengths).all()


def test_duplicate_entries_of_a_sparse_matrix_add_up():
    wins = tournament(8, 1.0, 4, 6)
    i, j = np.nonzero(wins)
    half = sparse.coo_matrix((np.tile(wins[i, j] / 2, 2), (np.tile(i, 2), np.tile(j, 2))), (8, 8))
    assert (bradley_terry(half).strengths == bradley_terry(wins).strengths).all()


def test_frameworks_and_dtypes(xp, dtype):
    wins = tournament(9, 1.0, 4, 7)
    found = bradley_terry(xp.asarray(wins.astype(dtype)))
    assert xp.dtype(found.strengths) == dtype
    assert xp.is_array(found.order)
    np.testing.assert_allclose(
        xp.to_numpy(found.strengths), bradley_terry(wins).strengths, rtol=1e-6
    )


def test_one_player():
    found = bradley_terry(np.zeros((1, 1)))
    assert found.strengths.tolist() == [1.0] and found.converged


def test_too_few_sweeps_are_not_silent():
    with pytest.warns(mk.ConvergenceWarning, match="after 5 sweeps"):
        found = bradley_terry(chain(60), max_iter=5)
    assert not found.converged and found.n_iter == 5


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"wins": np.ones((2, 3))}, ValueError, "wins: expected shape (n, n), got (2, 3)"),
        ({"wins": np.ones(3)}, ValueError, "wins: expected shape (n, n), got (3,)"),
        ({"wins": np.zeros((0, 0))}, ValueError, "wins: expected at least one player"),
        ({"wins": -np.ones((2, 2))}, ValueError, "wins: expected no negative numbers, got -1"),
        ({"wins": np.full((2, 2), np.nan)}, ValueError, "wins: expected finite values"),
        ({"wins": np.array([["a", "b"]] * 2)}, TypeError, "wins: expected float32 or float64"),
        (
            {"wins": sparse.csr_matrix(np.ones((2, 3)))},
            ValueError,
            "wins: expected shape (n, n), got (2, 3)",
        ),
        (
            {"wins": (np.array([0, 1]),)},
            ValueError,
            "wins: expected (indptr, indices, data), got 1",
        ),
        (
            {"wins": (np.array([0, 2, 1]), np.array([1, 0]), np.ones(2))},
            ValueError,
            "wins[0]: expected non-decreasing",
        ),
        (
            {"wins": (np.array([0, 1, 2]), np.array([1, 2]), np.ones(2))},
            ValueError,
            "wins[1]: expected numbers",
        ),
        (
            {"wins": (np.array([0, 1, 2]), np.array([1, 0]), np.ones(3))},
            ValueError,
            "wins[1]: expected shape (3,)",
        ),
        (
            {"wins": (np.array([0.0, 2]), np.array([1, 0]), np.ones(2))},
            TypeError,
            "wins[0]: expected integers",
        ),
        ({"ties": np.ones((3, 3))}, ValueError, "ties: expected 2 players to match wins, got 3"),
        ({"prior": -1}, ValueError, "prior: expected a number >= 0"),
        ({"method": "elo"}, ValueError, "method: expected one of 'newman', 'zermelo', got 'elo'"),
        ({"tol": 0}, ValueError, "tol: expected a positive number"),
        ({"max_iter": 0}, ValueError, "max_iter: expected an integer of at least 1"),
    ],
)
def test_errors_name_the_argument(arguments, error, text):
    with pytest.raises(error) as caught:
        bradley_terry(**{"wins": np.ones((2, 2)), **arguments})
    assert str(caught.value).startswith(text) and "\n" not in str(caught.value)


def test_interrupt_stops_the_sweeps():
    class Alarm(Exception):
        pass

    def ring(*_):
        raise Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Alarm):
            bradley_terry(chain(2000), tol=1e-300, max_iter=10_000_000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    assert time.perf_counter() - start < 2.0
