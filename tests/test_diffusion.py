"""Denoiser-driven samplers: schedules, exact predictions, steps and their orders, and the correction of the steps."""

import math
import pickle
import warnings

import numpy as np
import pytest

import mckean as mk
from mckean.diffusion import DDIM, LML, MixtureDenoiser, Multistep2M, grids, schedules

WEIGHTS = [0.2, 0.3, 0.1, 0.4]
MEANS = [(-1.5, -0.5), (1, 1.2), (0.3, -1.4), (-0.4, 0.6)]
SCALES = np.array([(0.30, 0.20), (0.25, 0.25), (0.20, 0.40), (0.35, 0.15)])
DATA = mk.targets.GaussianMixture(MEANS, WEIGHTS, scale=SCALES)
LINEAR, COSINE = schedules.VPLinear(), schedules.VPCosine()
PREDICTIONS = ["eps", "x0", "score", "v"]
MODEL = MixtureDenoiser(DATA, LINEAR)


def end(method, x0, seed=0):
    state = method.init(x0, seed)
    for _ in range(method.n_steps):
        state = method.step(state)
    return state.x


# ---- schedules and grids ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", [LINEAR, COSINE, schedules.VPLinear(0.0, 5.0), schedules.VPCosine(0.0)]
)
def test_variance_preserving_schedules(schedule):
    mp = pytest.importorskip("mpmath")
    for t in np.linspace(schedule.t_min, schedule.t_max, 17).tolist():
        a, s, lam = schedule.a(t), schedule.s(t), schedule.half_log_snr(t)
        assert a * a + s * s == pytest.approx(1, abs=1e-14)
        assert schedule.time(lam) == pytest.approx(t, rel=1e-11)
        with mp.workdps(40):
            T = mp.mpf(t)
            if isinstance(schedule, schedules.VPLinear):
                exact = mp.exp(
                    -(mp.mpf(schedule.b1) - schedule.b0) * T**2 / 4 - mp.mpf(schedule.b0) * T / 2
                )
            else:
                c = mp.mpf(schedule.c)
                exact = mp.cos(mp.pi / 2 * (T + c) / (1 + c)) / mp.cos(mp.pi / 2 * c / (1 + c))
            noise = mp.sqrt(1 - exact**2)
            assert a == pytest.approx(float(exact), rel=1e-12)
            assert s == pytest.approx(
                float(noise), rel=1e-13
            )  # 1 - a^2 by subtraction has 1e-11 at t_min
            assert lam == pytest.approx(float(mp.log(exact / noise)), rel=1e-12, abs=1e-12)


def test_a_schedule_of_your_own_is_inverted_by_bisection():
    class Flow(schedules.Schedule):
        t_min, t_max = 1e-3, 0.999

        def a(self, t):
            return 1 - t

        def s(self, t):
            return t

    flow = Flow()
    for t in (0.001, 0.2, 0.5, 0.999):
        assert flow.time(flow.half_log_snr(t)) == pytest.approx(t, rel=1e-12)
    x0 = mk.random.normal(0, (500, 2))
    x = end(Multistep2M(MixtureDenoiser(DATA, flow), flow, 40), 0.999 * x0)
    assert abs(x.mean(0) - [-0.13, 0.36]).max() < 6 / math.sqrt(500)


def test_grids():
    t = grids.uniform_t(LINEAR, 5)
    assert t[0] == 1.0 and t[-1] == 1e-3 and np.allclose(np.diff(t), np.diff(t)[0])
    t = grids.uniform_half_log_snr(COSINE, 7)
    steps = np.diff([COSINE.half_log_snr(v) for v in t])
    assert (
        t[0] == COSINE.t_max and t[-1] == COSINE.t_min and np.allclose(steps, steps[0], rtol=1e-9)
    )
    given = DDIM(MODEL, LINEAR, 2, grid=[1.0, 0.4, 0.1])
    assert (given.times == [1.0, 0.4, 0.1]).all()


# ---- exact predictions --------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
def test_mixture_predictions_are_posterior_means(full, xp, dtype):
    """x0 = E[x0 | x] by Gaussian conditioning of every component, and the other three from it."""
    rng = np.random.default_rng(0)
    cov = np.array([np.diag(s**2) for s in SCALES])
    if full:
        R = np.linalg.qr(rng.standard_normal((2, 2)))[0]
        cov = R @ cov @ R.T
    data = mk.targets.GaussianMixture(MEANS, WEIGHTS, cov=cov)
    x, t = rng.standard_normal((9, 2)).astype(dtype), 0.4
    a, s = COSINE.a(t), COSINE.s(t)
    logs, means = [], []
    for w, m, C in zip(WEIGHTS, np.array(MEANS), cov, strict=True):
        S = a * a * C + s * s * np.eye(2)
        r = x - a * m
        logs.append(
            np.log(w) - 0.5 * (r * np.linalg.solve(S, r.T).T).sum(1) - 0.5 * np.linalg.slogdet(S)[1]
        )
        means.append(m + a * np.linalg.solve(S, r.T).T @ C)
    p = np.exp(logs - np.max(logs, 0))
    x0 = np.einsum("kn,knd->nd", p / p.sum(0), means)
    eps = (x - a * x0) / s
    want = {"x0": x0, "eps": eps, "score": -eps / s, "v": a * eps - s * x0}
    for name, value in want.items():
        got = MixtureDenoiser(data, COSINE, name)(xp.asarray(x), t)
        assert xp.dtype(got) == dtype
        atol = {"float32": 2e-5, "float64": 1e-12}[dtype]
        np.testing.assert_allclose(xp.to_numpy(got), value, atol=atol)


def test_a_gaussian_is_a_mixture_of_one():
    x = mk.random.normal(0, (5, 2))
    one = MixtureDenoiser(mk.targets.Gaussian([0.0, 1.0], cov=[[2.0, 0.5], [0.5, 1.0]]), LINEAR)
    two = MixtureDenoiser(
        mk.targets.GaussianMixture([[0.0, 1.0]], cov=[[[2.0, 0.5], [0.5, 1.0]]]), LINEAR
    )
    assert (one(x, 0.3) == two(x, 0.3)).all()


# ---- steps --------------------------------------------------------------------------------------

METHODS = {
    "ddim": lambda p, g: DDIM(MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g),
    "ddim eta": lambda p, g: DDIM(MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g, eta=0.7),
    "2m x0": lambda p, g: Multistep2M(MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g),
    "2m eps": lambda p, g: Multistep2M(
        MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g, form="eps"
    ),
    "lml ddim": lambda p, g: LML(DDIM(MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g)),
    "lml 2m": lambda p, g: LML(
        Multistep2M(MixtureDenoiser(DATA, LINEAR, p), LINEAR, 12, p, grid=g)
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_what_the_model_predicts_does_not_matter(name):
    x0 = mk.random.normal(3, (200, 2))
    for grid in ("uniform_t", "uniform_half_log_snr"):
        want = end(METHODS[name]("eps", grid), x0, 5)
        for prediction in PREDICTIONS[1:]:
            np.testing.assert_allclose(
                end(METHODS[name](prediction, grid), x0, 5), want, atol=1e-11
            )


def twin(method, x, seed=0):
    """The documented formulas, with numpy and without a thought for rounding."""
    t = method.times
    a, s = (np.array([f(v) for v in t]) for f in (LINEAR.a, LINEAR.s))
    lam, before = np.log(a / s), None
    for i in range(len(t) - 1):
        e = MODEL(x, t[i])
        m, h = (x - s[i] * e) / a[i], lam[i + 1] - lam[i]
        if isinstance(method, DDIM):
            sd = (
                method.eta
                * s[i + 1]
                / s[i]
                * math.sqrt(s[i] ** 2 - (a[i] * s[i + 1] / a[i + 1]) ** 2)
            )
            z = mk.random.normal(seed, x.shape, stream=0x646966667573696F, counter=i)
            x = a[i + 1] * m + math.sqrt(s[i + 1] ** 2 - sd**2) * e + sd * z
            continue
        q = m if method.form == "x0" else e
        r = (lam[i] - lam[i - 1]) / h if i else 1.0
        D = q + (q - before) / (2 * r) if i else q
        if method.form == "x0":
            x = s[i + 1] / s[i] * x - a[i + 1] * math.expm1(-h) * D
        else:
            x = a[i + 1] / a[i] * x - s[i + 1] * math.expm1(h) * D
        before = q
    return x


@pytest.mark.parametrize("name", ["ddim", "ddim eta", "2m x0", "2m eps"])
@pytest.mark.parametrize("grid", ["uniform_t", "uniform_half_log_snr", "own"])
def test_steps_are_the_documented_formulas(name, grid):
    grid = np.sort(np.random.default_rng(0).uniform(0.01, 1, 13))[::-1] if grid == "own" else grid
    method = METHODS[name]("eps", grid)
    x0 = mk.random.normal(3, (100, 2))
    np.testing.assert_allclose(end(method, x0, 4), twin(method, x0, 4), atol=1e-10)


def test_ddim_with_eta_one_is_ancestral_sampling():
    """sd^2 is the variance of the posterior of the step, (s1/s0)^2 (1 - (a0/a1)^2)."""
    method = DDIM(lambda x, t: 0 * x, LINEAR, 4, "x0", eta=1.0)
    x0 = np.zeros((50_000, 1))
    state = method.init(x0, 1)
    state = method.step(state)
    (a0, a1), (s0, s1) = ([f(t) for t in method.times[:2]] for f in (LINEAR.a, LINEAR.s))
    want = (s1 / s0) ** 2 * (1 - (a0 / a1) ** 2)
    # H0: the variance of 50 000 normals, 6 standard errors: 2e-9
    assert abs(state.x.var() / want - 1) < 6 * math.sqrt(2 / 50_000)


RMSE = {  # of 20 000 points against the exact flow, published for 5, 10, 20, 50 evaluations
    (DDIM, "uniform_half_log_snr"): (0.5443, 0.2984, 0.1673, 0.0760),
    (DDIM, "uniform_t"): (0.4165, 0.2193, 0.1203, 0.0537),
    (Multistep2M, "uniform_half_log_snr"): (0.2966, 0.0932, 0.0313, 0.0070),
    (Multistep2M, "uniform_t"): (0.6887, 0.5121, 0.1569, 0.0350),
}


@pytest.fixture(scope="module")
def exact_flow():
    x0 = np.random.default_rng(1).standard_normal((20_000, 2))
    return x0, end(Multistep2M(MODEL, LINEAR, 1200), x0)


@pytest.mark.parametrize("key", RMSE, ids=lambda k: f"{k[0].__name__}-{k[1]}")
def test_errors_at_few_evaluations_are_those_of_the_reference(key, exact_flow):
    kind, grid = key
    x0, want = exact_flow
    for n, expected in zip((5, 10, 20, 50), RMSE[key], strict=True):
        error = end(kind(MODEL, LINEAR, n, grid=grid), x0) - want
        assert math.sqrt((error**2).sum(1).mean()) == pytest.approx(expected, rel=0.01)


@pytest.fixture(scope="module")
def fine():
    x0 = mk.random.normal(1, (256, 2))
    return x0, end(Multistep2M(MODEL, LINEAR, 4000), x0)


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (lambda n: DDIM(MODEL, LINEAR, n, grid="uniform_half_log_snr"), 1),
        (lambda n: Multistep2M(MODEL, LINEAR, n), 2),
        (lambda n: Multistep2M(MODEL, LINEAR, n, form="eps"), 2),
    ],
    ids=["ddim", "2m", "2m eps"],
)
def test_orders(make, order, fine):
    """Median error over particles, which a few near a watershed do not decide."""
    x0, exact = fine
    errors = [np.median(np.linalg.norm(end(make(n), x0) - exact, axis=1)) for n in (200, 400, 800)]
    assert np.abs(np.log2(errors[:-1]) - np.log2(errors[1:]) - order).max() < 0.15


# ---- the correction -----------------------------------------------------------------------------


def published(e, before, kappa, lam):
    eb = kappa * before + (1 - kappa) * e
    e_new = e - eb * ((e * eb).sum(1) / (lam + (eb * eb).sum(1)))[:, None]
    return e_new * (np.linalg.norm(e, axis=1) / np.linalg.norm(e_new, axis=1))[:, None]


def correction(lml, e, before):
    """What the correction makes of e, through a step of it."""
    state = lml.init(np.zeros_like(e))
    state.step, state.previous = 1, before
    from mckean._array import as_input

    return lml._correct(state, as_input(np.zeros_like(e), "x"), as_input(e, "e")).array


@pytest.mark.parametrize("kappa", [0.1, 0.5, 1.0, -0.5])
@pytest.mark.parametrize("lam", [1e-2, 1.0, 30.0])
def test_correction_is_the_published_formula(kappa, lam):
    rng = np.random.default_rng(0)
    e, before = rng.standard_normal((2, 40, 30))
    base = DDIM(MODEL, LINEAR, 5)
    got = correction(LML(base, damping=lam, kappa=kappa), e, before)
    np.testing.assert_allclose(got, published(e, before, kappa, lam), rtol=0, atol=1e-12)
    relative = correction(LML(base, damping_rel=lam, kappa=kappa), e, before)
    size = lam * (e * e).sum(1)
    np.testing.assert_allclose(relative, published(e, before, kappa, size), rtol=0, atol=1e-12)
    # lengths stay
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), np.linalg.norm(e, axis=1), rtol=1e-13)


@pytest.mark.parametrize("c", [0.1, 0.5, 2.0])
def test_correction_is_an_extrapolation(c):
    """e + c (e - e_before)_perp, lengthened to |e|: the identity, with lam = kappa |m|^2 / c."""
    rng = np.random.default_rng(0)
    e, before = rng.standard_normal((2, 40, 30))
    kappa = 0.3
    m = kappa * before + (1 - kappa) * e
    N, D = (m * m).sum(1), e - before
    got = correction(LML(DDIM(MODEL, LINEAR, 5), c, kappa=kappa), e, before)
    np.testing.assert_allclose(got, published(e, before, kappa, kappa * N / c), rtol=0, atol=1e-12)
    perp = D - m * ((D * m).sum(1) / N)[:, None]
    u = e + c * perp
    u *= (np.linalg.norm(e, axis=1) / np.linalg.norm(u, axis=1))[:, None]
    np.testing.assert_allclose(got, u, rtol=0, atol=1e-12)


@pytest.mark.parametrize("placement", ["increment", "direction"])
@pytest.mark.parametrize("settings", [dict(kappa=0.0), dict(kappa=0.0, damping=1e-3), dict(c=0.0)])
def test_without_correction_steps_are_bit_for_bit_those_of_ddim(placement, settings, dtype):
    x0 = mk.random.normal(0, (50, 2), dtype=dtype)
    base = DDIM(MODEL, LINEAR, 8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corrected = LML(base, placement=placement, **settings)
    assert bool(caught) == ("kappa" in settings)
    if caught:
        assert "identity" in str(caught[0].message) and caught[0].filename == __file__
    assert (end(corrected, x0) == end(base, x0)).all()


@pytest.mark.parametrize("placement", ["increment", "direction"])
def test_where_the_correction_goes(placement):
    """increment: x0 from the corrected prediction as well; direction: from the model's."""
    x0, n, c, kappa = mk.random.normal(0, (100, 2)), 6, 0.4, 0.1
    t = grids.uniform_t(LINEAR, n)
    x, before = x0, None
    for i in range(n):
        (a0, a1), (s0, s1) = ([f(v) for v in t[i : i + 2]] for f in (LINEAR.a, LINEAR.s))
        e = MODEL(x, t[i])
        u = e
        if i:
            m = kappa * before + (1 - kappa) * e
            u = published(e, before, kappa, kappa * (m * m).sum(1) / c)
        x = a1 * (x - s0 * (u if placement == "increment" else e)) / a0 + s1 * u
        before = e  # as the model gave it
    got = end(LML(DDIM(MODEL, LINEAR, n), c, placement=placement, kappa=kappa), x0)
    np.testing.assert_allclose(got, x, atol=1e-11)


def test_the_correction_of_a_multistep_method_is_one_of_its_model():
    """Multistep2M sees the corrected predictions, in its history too."""
    x0, n = mk.random.normal(0, (100, 2)), 6
    memory = []

    def corrected(x, t):
        e = MODEL(x, t)
        u = e
        if memory:
            m = 0.1 * memory[-1] + 0.9 * e
            u = published(e, memory[-1], 0.1, 0.1 * (m * m).sum(1) / 0.5)
        memory.append(e)
        return u

    for form in ("x0", "eps"):
        memory.clear()
        want = end(Multistep2M(corrected, LINEAR, n, form=form), x0)
        got = end(LML(Multistep2M(MODEL, LINEAR, n, form=form)), x0)
        np.testing.assert_allclose(got, want, atol=1e-11)


def test_the_correction_improves_on_ddim_and_the_published_placement_does_not():
    """Energy distance to the data, mixture of 6 in 8-D, exact predictions: 0.178 -> 0.080 at 5 evaluations, 0.046 ->
    0.017 at 10; the floor between two samples is 0.005."""
    data = mk.targets.GaussianMixture(
        np.random.default_rng(0).standard_normal((6, 8)) * 2, scale=0.5
    )
    model = MixtureDenoiser(data, COSINE)
    x0, truth = mk.random.normal(1, (2000, 8)), data.sample(2000, seed=5)

    def distance(method):
        return float(mk.energy_distance(end(method, x0), truth))

    for n in (5, 10):
        plain = distance(DDIM(model, COSINE, n))
        assert distance(LML(DDIM(model, COSINE, n))) < 0.6 * plain
        assert distance(LML(DDIM(model, COSINE, n), 0.1, placement="direction")) > 1.05 * plain


def test_defaults_and_evaluations():
    for n, c in ((20, 0.5), (21, 0.2)):
        calls = []

        def model(x, t, calls=calls):
            calls.append(t)
            return MODEL(x, t)

        sampler = LML(DDIM(model, LINEAR, n))
        assert sampler.c == c
        result = mk.run(sampler, mk.random.normal(0, (5, 2)), n, progress=False)
        assert len(calls) == n == result.n_gradient_evaluations == result.state.n_evaluations
        assert calls == pytest.approx(grids.uniform_t(LINEAR, n)[:-1].tolist())
    assert LML(DDIM(MODEL, LINEAR, 50), 0.5).c == 0.5


def test_freeze_leaves_the_first_steps_alone():
    x0, base = mk.random.normal(0, (20, 2)), DDIM(MODEL, LINEAR, 10)
    runs = {f: mk.run(LML(base, freeze=f), x0, 10, progress=False).x for f in (0.0, 0.5, 1.0)}
    plain = mk.run(base, x0, 10, progress=False).x
    same = {f: [(x[i] == plain[i]).all() for i in range(10)] for f, x in runs.items()}
    assert same[0.0] == [True] + [False] * 9
    # step i + 1 starts at times[i] = 1 - .0999 i; corrected from t < .5
    assert same[0.5] == [True] * 6 + [False] * 4
    assert all(same[1.0])


# ---- frameworks, states, errors -----------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_frameworks_agree_and_checkpoints_continue(name, tmp_path, xp, dtype):
    x0 = mk.random.normal(3, (40, 2), dtype=dtype)
    for prediction in ("eps", "v"):
        method = METHODS[name](prediction, "uniform_t")
        want = mk.run(method, x0, 12, seed=2, progress=False).x
        once = mk.run(method, xp.asarray(x0), 12, seed=2, progress=False)
        assert xp.dtype(once.x) == dtype
        assert (xp.to_numpy(once.x) == want).all()
        path = tmp_path / f"{prediction}.npz"
        for n in (1, 5, 12):
            part = mk.run(method, xp.asarray(x0), n, seed=2, progress=False, checkpoint=path)
        assert (xp.to_numpy(part.x) == want).all()


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_pure_and_take_any_shape(name):
    """Images (n, c, h, w) in init and step; a step changes nothing it is given."""
    x0 = mk.random.normal(3, (3, 2, 4, 5))
    kinds = {"ddim": DDIM, "2m": Multistep2M}
    inner = kinds[name.split()[-1] if "lml" in name else name.split()[0]]

    def model(x, t):
        return 0.5 * x + t * np.sin(x)

    def build(f):
        return LML(inner(f, LINEAR, 4)) if "lml" in name else inner(f, LINEAR, 4)

    method = build(model)
    assert end(method, x0).shape == x0.shape
    flat = end(build(model), x0.reshape(3, -1))
    assert (end(method, x0).reshape(3, -1) == flat).all()
    state = method.step(method.step(method.init(x0)))
    before = state.x.copy()
    again = [method.step(state).x for _ in range(2)]
    assert (again[0] == again[1]).all() and (state.x == before).all()
    ours = METHODS[name]("eps", "uniform_t")
    twin_of_it = pickle.loads(pickle.dumps(ours))
    assert (end(twin_of_it, x0[:, 0, 0, :2]) == end(ours, x0[:, 0, 0, :2])).all()


def test_the_end_of_the_grid():
    method = DDIM(MODEL, LINEAR, 3)
    with pytest.raises(
        ValueError, match="state: expected one before the last step .* step 3 of n_steps = 3"
    ):
        mk.run(method, np.zeros((2, 2)), 4, progress=False)


def test_a_model_that_reuses_its_memory_is_refused():
    buffer = np.empty((3, 2))

    def model(x, t):
        np.multiply(x, 0.5, out=buffer)
        return buffer

    x0 = np.ones((3, 2))
    end(DDIM(model, LINEAR, 3), x0)  # keeps nothing
    for method in (Multistep2M(model, LINEAR, 3, form="eps"), LML(DDIM(model, LINEAR, 3))):
        with pytest.raises(ValueError, match="expected a new array from each call"):
            end(method, x0)


@pytest.mark.parametrize(
    ("model", "error", "match"),
    [
        (lambda x, t: x[:, :1], ValueError, r"model\(x, t\): expected shape \(4, 2\)"),
        (lambda x, t: x.astype("float32"), TypeError, r"model\(x, t\): expected float64"),
        (lambda x, t: None, TypeError, r"model\(x, t\): "),
    ],
)
def test_bad_predictions_are_named(model, error, match):
    with pytest.raises(error, match=match):
        end(DDIM(model, LINEAR, 2), np.ones((4, 2)))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: DDIM(3, LINEAR, 5), TypeError, "model: "),
        (lambda: DDIM(MODEL, 0.1, 5), TypeError, "schedule: "),
        (lambda: DDIM(MODEL, schedules.VPLinear, 5), TypeError, "schedule: .* got VPLinear"),
        (lambda: DDIM(MODEL, LINEAR, 0), ValueError, "n_steps: "),
        (lambda: DDIM(MODEL, LINEAR, 5, "noise"), ValueError, "prediction: expected one of 'eps'"),
        (lambda: DDIM(MODEL, LINEAR, 5, eta=2), ValueError, "eta: "),
        (lambda: DDIM(MODEL, LINEAR, 5, grid="karras"), ValueError, "grid: expected one of"),
        (
            lambda: DDIM(MODEL, LINEAR, 2, grid=[1.0, 0.5]),
            ValueError,
            r"grid: expected shape \(3,\)",
        ),
        (
            lambda: DDIM(MODEL, LINEAR, 2, grid=[0.1, 0.5, 1.0]),
            ValueError,
            "grid: expected strictly decreasing",
        ),
        (
            lambda: DDIM(MODEL, LINEAR, 2, grid=[2.0, 0.5, 0.1]),
            ValueError,
            "grid: expected times in",
        ),
        (lambda: Multistep2M(MODEL, LINEAR, 5, form="v"), ValueError, "form: "),
        (lambda: LML(MODEL), TypeError, "step: expected DDIM or Multistep2M"),
        (
            lambda: LML(DDIM(MODEL, LINEAR, 5), 0.5, damping=1.0),
            ValueError,
            "damping: expected at most one",
        ),
        (
            lambda: LML(DDIM(MODEL, LINEAR, 5), damping=0.0),
            ValueError,
            "damping: expected a positive",
        ),
        (lambda: LML(DDIM(MODEL, LINEAR, 5), damping_rel=-1), ValueError, "damping_rel: "),
        (lambda: LML(DDIM(MODEL, LINEAR, 5), kappa=2), ValueError, "kappa: "),
        (lambda: LML(DDIM(MODEL, LINEAR, 5), freeze=-1), ValueError, "freeze: "),
        (lambda: LML(DDIM(MODEL, LINEAR, 5), placement="both"), ValueError, "placement: "),
        (
            lambda: LML(Multistep2M(MODEL, LINEAR, 5), placement="direction"),
            ValueError,
            "placement: expected 'increment' for Multistep2M",
        ),
        (lambda: schedules.VPLinear(2.0, 1.0), ValueError, "b1: "),
        (lambda: schedules.VPLinear(t_min=0.0), ValueError, "t_min: "),
        (lambda: schedules.VPCosine(t_max=1.0), ValueError, "t_max: "),
        (lambda: schedules.VPCosine(c=1.0), ValueError, "c: "),
        (lambda: MixtureDenoiser(MODEL, LINEAR), TypeError, "data: "),
        (lambda: MixtureDenoiser(DATA, 1), TypeError, "schedule: "),
        (lambda: MODEL(np.ones((2, 3)), 0.5), ValueError, "x: expected shape"),
        (lambda: DDIM(MODEL, LINEAR, 5).init(np.ones(3)), ValueError, "x0: "),
        (lambda: DDIM(MODEL, LINEAR, 5).init(np.full((1, 2), np.nan)), ValueError, "x0: "),
    ],
)
def test_bad_settings_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
