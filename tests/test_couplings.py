"""Index pairs drawn from plans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import mckean as mk
from mckean.transport import _couplings, _draws, couple, couple_many


def clouds(n=20, m=20, d=2, seed=0):
    g = np.random.default_rng(seed)
    return g.standard_normal((n, d)), g.standard_normal((m, d)) + 1


def cost(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


def test_draws_follow_the_plan():
    """Counts of 40 000 draws in 30 cells within six standard deviations: a chance below 1e-7."""
    x, y = clouds(5, 6)
    i, j = couple(x, y, eps=0.5, n_pairs=40_000, seed=3, tol=1e-9)
    plan = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-9).plan()
    counts = np.zeros((5, 6))
    np.add.at(counts, (i, j), 1)
    assert (abs(counts - 40_000 * plan) < 6 * np.sqrt(40_000 * plan) + 1e-9).all()
    assert (np.bincount(i) == 8000).all()


@pytest.mark.parametrize("n_pairs, most", [(None, 1), (45, 2), (7, 1)])
def test_rows_are_stratified(n_pairs, most):
    x, y = clouds(30, 40)
    i, j = couple(x, y, n_pairs=n_pairs)
    assert i.size == j.size == (n_pairs or 30)
    assert (np.diff(i) >= 0).all() and np.bincount(i).max() <= most + 1
    if n_pairs is None:
        assert (i == np.arange(30)).all()


def test_matches_of_separated_points():
    """y is a permutation of x with little noise: every way of pairing finds it."""
    x, _ = clouds(40, seed=1)
    x *= 10
    order = np.random.default_rng(2).permutation(40)
    y = x[order] + 1e-3
    for options in (dict(eps=1e-3), dict(eps=1e-3, hard=True), dict(exact=True)):
        i, j = couple(x, y, tol=1e-3, **options)
        assert (order[j] == i).all()


def test_exact_is_the_assignment():
    x, y = clouds(seed=5)
    i, j = couple(x, y, exact=True, p=3)
    rows, cols = linear_sum_assignment(cost(x, y) ** 1.5)
    assert (i == rows).all() and (j == cols).all()
    with pytest.raises(ValueError, match="exact: expected clouds of one size"):
        couple(x, y[:5], exact=True)


def test_relative_eps(monkeypatch):
    x, y = clouds(30, 25, seed=6)
    mean = cost(x, y).mean()
    first = couple(x, y, rel_eps=0.1, seed=2)
    second = couple(x, y, eps=0.1 * mean, seed=2)
    assert all((p == q).all() for p, q in zip(first, second, strict=True))
    assert _couplings._mean_cost(x, y, 2) == pytest.approx(mean)
    # 2048 of 750 pairs: within six standard errors
    sample = _couplings._mean_cost(x, y, 1)
    distance = np.sqrt(cost(x, y))
    assert abs(sample - distance.mean()) < 6 * distance.std() / np.sqrt(2048)


@pytest.mark.parametrize("p", [1, 2])
def test_points_and_costs_agree(monkeypatch, p):
    """Large batches keep no matrix."""
    x, y = clouds(30, 25, d=3, seed=7)
    stored = couple(x, y, p=p, eps=0.3, tol=1e-8)
    monkeypatch.setattr(_couplings, "_STORED", 0)
    monkeypatch.setattr(_draws, "_BLOCK", 100)
    again = couple(x, y, p=p, eps=0.3, tol=1e-8)
    assert all((a == b).all() for a, b in zip(stored, again, strict=True))


def test_large_batches_hold_no_matrix(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(_draws, "_BLOCK", 1 << 16)
    x, y = clouds(2000, 2000)
    tracemalloc.start()
    couple(x, y, rel_eps=0.5, max_iter=3, tol=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6  # the matrix: 32 MB


def test_frameworks(xp, dtype):
    x, y = (c.astype(dtype) for c in clouds(12, 15))
    i, j = couple(xp.asarray(x), xp.asarray(y), seed=1)
    assert xp.dtype(i) == xp.dtype(j) == "int64"
    known = couple(x, y, seed=1)
    assert (xp.to_numpy(i) == known[0]).all() and (xp.to_numpy(j) == known[1]).all()


def test_draws_are_functions_of_seed_and_counter():
    x, y = clouds(50, 50)
    one, same = couple(x, y, seed=1, counter=2), couple(x, y, seed=1, counter=2)
    assert (one[1] == same[1]).all()
    assert (couple(x, y, seed=1, counter=3)[1] != one[1]).any()
    assert (couple(x, y, seed=2, counter=2)[1] != one[1]).any()


@pytest.mark.parametrize("tree", ["chain", "star"])
def test_many_clouds(tree):
    """Conditional draws along the edges; counts in 24 cells within six standard deviations (chance below 1e-7)."""
    g = np.random.default_rng(8)
    data = [g.standard_normal((n, 2)) for n in (3, 4, 2)]
    n = 20_000
    index = couple_many(data, tree=tree, eps=0.8, n_tuples=n, tol=1e-9)
    plans = [
        mk.sinkhorn_points(data[i], data[j], eps=0.8, tol=1e-9).plan()
        for i, j in ((0, 1), (1, 2) if tree == "chain" else (0, 2))
    ]
    if tree == "chain":
        p = np.einsum("ij,jk->ijk", plans[0] * 4, plans[1])
    else:
        p = np.einsum("ij,ik->ijk", plans[0] * 3, plans[1])
    counts = np.zeros(p.shape)
    np.add.at(counts, tuple(index.T), 1)
    assert (abs(counts - n * p) < 6 * np.sqrt(n * p) + 1e-9).all()


def test_many_clouds_exactly():
    g = np.random.default_rng(9)
    data = [g.standard_normal((6, 2)) for _ in range(3)]
    index = couple_many(data, exact=True)
    assert (np.sort(index, axis=0) == np.arange(6)[:, None]).all()
    assert (index[:, 1] == couple(data[0], data[1], exact=True)[1]).all()


def test_rows_with_little_mass_do_not_leak():
    """A draw at u just below one stays in its row, and lands where there is mass."""
    block = np.array([[0.0, 1e-300, 0.0], [1.0, 0.0, 0.0], [0.25, 0.5, 0.25]])
    top = np.nextafter(1.0, 0)
    which = np.array([0, 0, 1, 1, 2, 2])
    u = np.array([0.0, top, 0.0, top, 0.0, top])
    assert _draws.inverse(block, which, u).tolist() == [1, 1, 0, 0, 0, 2]


@pytest.mark.parametrize(
    "change, error",
    [
        (dict(x=np.zeros((0, 2))), "x: expected at least 1 point"),
        (dict(y=np.zeros((3, 3))), r"y: expected shape \(m, 2\)"),
        (dict(y=np.full((3, 2), np.nan)), "y: expected finite"),
        (dict(eps=-1.0), "eps: expected a positive"),
        (dict(rel_eps=0.0), "rel_eps: expected a positive"),
        (dict(p=0), "p: expected a positive"),
        (dict(n_pairs=-1), "n_pairs: expected an integer"),
        (dict(seed=None), "seed: expected"),
    ],
)
def test_wrong_arguments(change, error):
    x, y = change.pop("x", np.zeros((3, 2))), change.pop("y", np.ones((3, 2)))
    with pytest.raises((ValueError, TypeError), match=error):
        couple(x, y, **change)


def test_wrong_clouds():
    with pytest.raises(ValueError, match="clouds: expected a sequence"):
        couple_many([np.zeros((2, 2))])
    with pytest.raises(ValueError, match=r"clouds\[1\]: expected shape"):
        couple_many([np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(ValueError, match="tree: expected one of"):
        couple_many([np.zeros((2, 2))] * 2, tree="ring")


def test_not_converged_is_said():
    x, y = clouds(30, 30)
    with pytest.warns(mk.ConvergenceWarning, match="the coupling stopped after 1"):
        couple(x, y, rel_eps=1e-3, max_iter=1, tol=1e-9)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), k=st.integers(0, 12), d=st.integers(1, 3))
def test_any_shape(n, m, k, d):
    x, y = clouds(n, m, d)
    i, j = couple(x, y, n_pairs=k)
    assert i.shape == j.shape == (k,)
    assert k == 0 or (0 <= i.min() and i.max() < n and 0 <= j.min() and j.max() < m)


def test_equal_points():
    i, j = couple(np.zeros((4, 2)), np.zeros((4, 2)))
    assert (i == np.arange(4)).all() and j.shape == (4,)
