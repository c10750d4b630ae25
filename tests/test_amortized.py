"""Predicted starts: what they save on problems not seen, the gate, files, and what they refuse."""

import numpy as np
import pytest

import mckean as mk
from mckean.transport import AmortizedPotential
from mckean.transport._init import gaussian_potential

GRID = np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0), indexing="ij"), -1).reshape(-1, 2)
COST = ((GRID[:, None] - GRID) ** 2).sum(-1)


def images(seed, n):
    """Blobs with a tail on a grid: weights of sum 1."""
    u = mk.random.uniform(seed, (n, 4)) * [5, 5, 4, 4]
    near = ((GRID - u[:, None, :2]) ** 2).sum(-1), ((GRID - u[:, None, 2:]) ** 2).sum(-1)
    w = np.exp(-near[0]) + 0.5 * np.exp(-near[1] / 3) + 1e-4
    return w / w.sum(1, keepdims=True)


def image_pairs(seed, n):
    return list(zip(images(seed, n), images(seed + 1000, n), strict=True))


def clouds(seed, n=40):
    x, y = mk.random.normal(seed, (2, n, 2))
    return 0.5 * x, 0.6 * y + np.where(np.arange(n)[:, None] % 2, 4, -4) * mk.random.uniform(seed, 2)  # fmt: skip


@pytest.fixture(scope="module")
def on_grid():
    return AmortizedPotential(eps=1.0, support=GRID, n_features=300).fit(image_pairs(1, 600))


@pytest.fixture(scope="module")
def for_clouds():
    return AmortizedPotential(eps=0.5, n_features=48).fit([clouds(k) for k in range(40)])


def test_saves_iterations_on_images(on_grid):
    report = on_grid.report(image_pairs(7, 60), tols=(1e-2, 1e-6))
    np.testing.assert_array_equal(report["tols"], [1e-2, 1e-6])
    means = {k: report[k].mean(0) for k in ("zero", "gaussian", "predicted")}
    assert report["zero"].shape == (60, 2)
    assert means["predicted"][0] < 0.8 * means["gaussian"][0] < 0.8 * means["zero"][0]
    assert means["predicted"][1] < means["gaussian"][1] < means["zero"][1]
    assert report["kept"].mean() > 0.9


@pytest.mark.parametrize("p", [1, 2])
def test_saves_iterations_on_clouds(p):
    problems = [clouds(k) for k in range(40)]
    predictor = AmortizedPotential(eps=0.5 if p == 2 else 0.2, p=p, n_features=48).fit(problems)
    report = predictor.report([clouds(k) for k in range(100, 120)], tols=(1e-2,))
    assert report["predicted"].mean() < 0.7 * report["zero"].mean()
    assert ("gaussian" in report) == (p == 2)
    if p == 2:
        assert report["predicted"].mean() < 1.05 * report["gaussian"].mean()


def test_counts_are_those_of_the_solver(on_grid):
    a, b = image_pairs(7, 1)[0]
    report = on_grid.report([(a, b)], tols=(1e-4,))
    for name, init in (("zero", None), ("gaussian", "gaussian"), ("predicted", on_grid)):
        res = mk.sinkhorn_points(
            GRID, GRID, eps=1.0, a=a, b=b, tol=1e-4, acceleration=None, init=init, method="scaling"
        )
        assert abs(res.n_iter - report[name][0, 0]) <= 1


def test_is_a_start_for_every_solver(on_grid, for_clouds, xp, dtype):
    a, b = (w.astype(dtype) for w in image_pairs(7, 1)[0])
    g = on_grid(None, None, xp.asarray(a), xp.asarray(b))
    assert xp.dtype(g) == dtype and g.shape == (36,)
    options = {"eps": 1.0, "tol": 1e-5, "normalize": True}
    cost = AmortizedPotential(eps=1.0, cost=COST, n_features=50).fit(image_pairs(1, 30))
    warm = mk.sinkhorn(xp.asarray(a), xp.asarray(b), xp.asarray(COST.astype(dtype)), init=cost, **options)  # fmt: skip
    cold = mk.sinkhorn(xp.asarray(a), xp.asarray(b), xp.asarray(COST.astype(dtype)), **options)
    assert warm.cost == pytest.approx(cold.cost, rel=1e-3)
    x, y = (c.astype(dtype) for c in clouds(300))
    warm = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), eps=0.5, tol=1e-4, init=for_clouds)
    cold = mk.sinkhorn_points(xp.asarray(x), xp.asarray(y), eps=0.5, tol=1e-4)
    assert warm.cost == pytest.approx(cold.cost, rel=1e-3)
    assert warm.n_iter <= cold.n_iter


def test_a_batch_is_its_problems(on_grid, for_clouds):
    pairs = image_pairs(7, 3)
    a, b = (np.stack(w) for w in zip(*pairs, strict=True))
    alone = np.stack([on_grid(None, None, *pair) for pair in pairs])
    np.testing.assert_allclose(on_grid(None, None, a, b), alone, rtol=0, atol=1e-12)
    res = mk.sinkhorn_points(np.stack([GRID] * 3), GRID, eps=1.0, a=a, b=b, init=on_grid)
    assert res.converged.all()
    xy = [clouds(k) for k in (50, 51)]
    x, y = (np.stack(c) for c in zip(*xy, strict=True))
    alone = np.stack([for_clouds(*pair) for pair in xy])
    np.testing.assert_allclose(for_clouds(x, y), alone, rtol=0, atol=1e-12)


def test_fits_results_as_it_fits_problems():
    pairs = image_pairs(1, 30)
    results = [mk.sinkhorn_points(GRID, GRID, eps=1.0, a=a, b=b) for a, b in pairs]
    one = AmortizedPotential(eps=1.0, support=GRID, n_features=20).fit(pairs)
    other = AmortizedPotential(eps=1.0, support=GRID, n_features=20).fit(results)
    query = image_pairs(9, 1)[0]
    np.testing.assert_allclose(one(None, None, *query), other(None, None, *query), atol=1e-3)
    xy = [clouds(k) for k in range(5)]
    results = [mk.sinkhorn_points(x, y, eps=0.5) for x, y in xy]
    one, other = (AmortizedPotential(eps=0.5, n_features=8).fit(p) for p in (xy, results))
    assert one.n_problems == other.n_problems == 5
    np.testing.assert_allclose(one(*clouds(9)), other(*clouds(9)), atol=1e-3)


def test_reproduces_what_it_was_fitted_to():
    """One problem, as many features as it has points, and hardly a penalty: its own potential comes back."""
    x, y = clouds(3, n=20)
    predictor = AmortizedPotential(eps=0.5, n_features=64, ridge=1e-10, gate=False).fit([(x, y)])
    solved = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-9)
    off = predictor(x, y) - solved.g
    assert np.ptp(off) < 1e-3 * np.ptp(solved.g)
    warm = mk.sinkhorn_points(x, y, eps=0.5, tol=1e-2, init=predictor, acceleration=None)
    assert warm.n_iter <= 2


def test_does_not_see_where_the_clouds_are(for_clouds):
    x, y = clouds(60)
    np.testing.assert_allclose(for_clouds(x + 100, y + 100), for_clouds(x, y), rtol=0, atol=1e-8)


def test_the_gate_never_starts_below_the_others(on_grid):
    """The dual value of what it returns is at least that of zero and of Gaussians, even for problems of another kind."""

    def dual(a, b, g):
        with np.errstate(divide="ignore"):
            z = np.log(b) + g - COST
        f = -np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) - z.max(1)
        return a @ f + b @ g

    rng = np.random.default_rng(0)
    kept = []
    for _ in range(20):
        a, b = rng.dirichlet(np.full(36, 0.05), 2)
        a, b = (a + 1e-12) / (a + 1e-12).sum(), (b + 1e-12) / (b + 1e-12).sum()
        g = on_grid(None, None, a, b)
        on_grid.gate = False
        raw = on_grid(None, None, a, b)
        on_grid.gate = True
        kept.append(np.allclose(g, raw))
        others = np.zeros(36), raw, gaussian_potential(GRID, GRID, a, b, 1.0)
        assert dual(a, b, g) >= max(dual(a, b, other) for other in others) - 1e-9
    assert not all(kept)


def test_any_function_is_a_predictor():
    seen = []

    def predictor(x, y, a, b):
        seen.append((x.shape, y.shape, a.shape, b.shape))
        return 3.0 * y[:, 0]

    x, y = clouds(1)
    res = mk.sinkhorn_points(x, y, eps=0.5, init=predictor)
    assert res.converged and seen == [((40, 2), (40, 2), (40,), (40,))]
    assert res.cost == pytest.approx(mk.sinkhorn_points(x, y, eps=0.5).cost, rel=1e-5)


def test_files(on_grid, for_clouds, tmp_path):
    cost = AmortizedPotential(eps=1.0, cost=COST, n_features=20, gate=False).fit(image_pairs(1, 20))
    for k, (predictor, query) in enumerate(
        (
            (on_grid, (None, None, *image_pairs(8, 1)[0])),
            (cost, (None, None, *image_pairs(8, 1)[0])),
            (for_clouds, clouds(200)),
        )
    ):
        path = tmp_path / f"{k}.npz"
        predictor.save(path)
        again = AmortizedPotential.load(path)
        assert repr(again) == repr(predictor)
        np.testing.assert_array_equal(again(*query), predictor(*query))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(mk.CheckpointError):
        AmortizedPotential.load(path)
    with pytest.raises(FileNotFoundError):
        AmortizedPotential.load(tmp_path / "none.npz")


def test_zero_weights_and_single_points():
    predictor = AmortizedPotential(eps=1.0, support=GRID, n_features=20).fit(
        [(np.eye(36)[k], np.eye(36)[35 - k]) for k in range(0, 36, 5)]
    )
    res = mk.sinkhorn_points(GRID, GRID, eps=1.0, a=np.eye(36)[3], b=np.eye(36)[20], init=predictor)
    assert res.cost == pytest.approx(COST[3, 20], rel=1e-12)
    one = AmortizedPotential(eps=1.0, n_features=4).fit([(np.zeros((1, 2)), np.ones((1, 2)))])
    assert one(np.zeros((1, 2)), np.ones((1, 2))).shape == (1,)


A = np.full(36, 1 / 36)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: AmortizedPotential(eps=0), ValueError, "eps: expected a positive"),
        (lambda: AmortizedPotential(eps=1, support=GRID, cost=COST), ValueError, "cost: expected either"),
        (lambda: AmortizedPotential(eps=1, support=GRID[0]), ValueError, "expected shape"),
        (lambda: AmortizedPotential(eps=1, ridge=-1), ValueError, "ridge"),
        (lambda: AmortizedPotential(eps=1).fit([]), ValueError, "problems: expected at least 1"),
        (lambda: AmortizedPotential(eps=1).fit([3]), TypeError, r"problems\[0\]: expected"),
        (lambda: AmortizedPotential(eps=1).fit([(GRID, GRID[:, :1])]), ValueError, "y: expected shape"),
        (lambda: AmortizedPotential(eps=1, support=GRID).fit([(A, A[:5])]), ValueError, "b: expected shape"),
        (lambda: AmortizedPotential(eps=1, support=GRID).fit([(A, -A)]), ValueError, "b: expected weights >= 0"),
        (lambda: AmortizedPotential(eps=1)(GRID, GRID), RuntimeError, "call fit first"),
        (lambda: AmortizedPotential(eps=1).save("x.npz"), RuntimeError, "call fit first"),
        (lambda: AmortizedPotential(eps=1).fit([mk.sinkhorn_points(GRID, GRID, eps=2.0)]), ValueError, "expected eps=1"),
        (lambda: AmortizedPotential(eps=1).fit([mk.sinkhorn(A, A, COST, eps=1.0)]), ValueError, "expected a result of points"),
        (lambda: AmortizedPotential(eps=1, p=1).fit([mk.sinkhorn_points(GRID, GRID, eps=1.0)]), ValueError, "expected p=1"),
        (lambda: AmortizedPotential(eps=1, support=GRID[:5]).fit([mk.sinkhorn_points(GRID, GRID, eps=1.0)]), ValueError, "expected sizes"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_other_supports_are_refused(on_grid):
    with pytest.raises(ValueError, match="y: expected the support"):
        mk.sinkhorn_points(GRID, GRID + 1, eps=1.0, init=on_grid)
