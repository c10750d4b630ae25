"""The run loop: what is saved, checkpoints that survive anything, results."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import mckean as mk
from mckean import _run


def gradient(x):
    return -x


class Normal:
    """A standard normal target with a setting, for checkpoint identities."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def log_density(self, x):
        return -0.5 * self.scale * (x * x).sum(1)

    def grad_log_density(self, x):
        return -self.scale * x


@dataclasses.dataclass
class Counter:
    x: object
    step: int
    level: float
    flag: bool
    nothing: None = None


class Counting:
    """Adds one to every position; `fail_at` raises in place of that step."""

    def __init__(self, size=1.0, fail_at=None, error=KeyboardInterrupt):
        self.size, self._fail_at, self._error = size, fail_at, error

    def config(self):
        return {"size": self.size}

    def init(self, x0, seed=0):
        return Counter(x0, 0, -np.inf, False)

    def step(self, state):
        if state.step + 1 == self._fail_at:
            raise self._error
        return Counter(state.x + self.size, state.step + 1, state.step / 3, state.step % 2 == 0)

    def stats(self, state):
        return {"level": state.level, "sum": state.x.sum(1), "odd": state.flag}


METHODS = {
    "langevin": lambda: mk.samplers.Langevin(gradient, 0.1),
    "langevin-tree": lambda: mk.samplers.Langevin(gradient, 0.1, noise="tree"),
    "mala": lambda: mk.samplers.MALA(Normal(), 0.3),
    "quicsort": lambda: mk.samplers.UnderdampedLangevin(gradient, 0.2),
    "should": lambda: mk.samplers.UnderdampedLangevin(gradient, 0.2, scheme="should"),
    "baoab": lambda: mk.samplers.UnderdampedLangevin(
        gradient, 0.2, scheme="baoab", noise="counter"
    ),
}


def same(a, b):
    assert np.array_equal(a.x, b.x)
    assert set(a.stats) == set(b.stats)
    for key in a.stats:
        assert np.array_equal(a.stats[key], b.stats[key])
    assert (a.converged, a.n_iter) == (b.converged, b.n_iter)
    assert a.n_gradient_evaluations == b.n_gradient_evaluations
    for field in dataclasses.fields(a.state):
        mine, other = getattr(a.state, field.name), getattr(b.state, field.name)
        assert np.array_equal(mine, other)


@pytest.mark.parametrize(
    ("n_steps", "burn_in", "thin", "steps"),
    [
        (5, 0, 1, [1, 2, 3, 4, 5]),
        (10, 3, 2, [5, 7, 9]),
        (10, 0, 4, [4, 8]),
        (3, 3, 1, []),
        (0, 0, 1, []),
        (4, 0, 9, []),
    ],
)
def test_what_is_saved(n_steps, burn_in, thin, steps):
    x0 = np.zeros((3, 2))
    r = mk.run(Counting(), x0, n_steps, burn_in=burn_in, thin=thin, progress=False)
    assert r.x.shape == (len(steps), 3, 2) and r.x[:, 0, 0].tolist() == steps
    assert r.n_iter == n_steps and r.converged and r.n_gradient_evaluations is None
    assert (x0 == 0).all()
    if steps:
        assert r.stats["sum"].shape == (len(steps), 3)
        assert r.stats["sum"][:, 0].tolist() == [2 * s for s in steps]
        assert r.stats["level"].tolist() == [(s - 1) / 3 for s in steps]
    assert set(r.timings) == {"total", "per_step", "checkpoints"} and r.timings["total"] > 0


def test_result_is_in_the_users_framework(xp, dtype):
    x0 = np.linspace(-1, 1, 10).astype(dtype).reshape(5, 2)
    chain = mk.samplers.UnderdampedLangevin(gradient, 0.1)
    r = mk.run(chain, xp.asarray(x0), 6, thin=2, seed=4, progress=False)
    want = mk.run(chain, x0, 6, thin=2, seed=4, progress=False)
    assert xp.dtype(r.x) == dtype and r.x.shape == (3, 5, 2)
    assert (xp.to_numpy(r.x) == want.x).all()
    assert (xp.to_numpy(r.state.v) == want.state.v).all()


def test_callback_sees_every_step_and_can_stop():
    seen = []

    def callback(step, state):
        seen.append((step, state.step))
        return step == 4

    r = mk.run(Counting(), np.zeros((2, 1)), 10, thin=2, progress=False, callback=callback)
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert r.n_iter == 4 and r.x.shape == (2, 2, 1) and r.converged
    assert r.stats["sum"].shape == (2, 2)


def test_progress_bar_is_shown_or_not(capsys):
    mk.run(Counting(), np.zeros((1, 1)), 3, progress=True)
    assert "3/3" in capsys.readouterr().err
    mk.run(Counting(), np.zeros((1, 1)), 3, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"x0": np.zeros(3)}, ValueError, r"x0: expected shape \(n, d\), got \(3,\)"),
        ({"x0": np.zeros((0, 3))}, ValueError, "x0: expected at least one"),
        ({"x0": np.zeros((3, 0))}, ValueError, "x0: expected at least one"),
        ({"x0": np.full((2, 2), np.nan)}, ValueError, "x0: expected finite values, got 4"),
        ({"x0": "no"}, TypeError, "x0: "),
        ({"n_steps": -1}, ValueError, "n_steps: "),
        ({"n_steps": 1.5}, TypeError, "n_steps: "),
        ({"burn_in": 11}, ValueError, "burn_in: expected at most n_steps=10, got 11"),
        ({"thin": 0}, ValueError, "thin: "),
        ({"seed": -1}, ValueError, "seed: "),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every: "),
        ({"method": object()}, TypeError, "method: .* has no init"),
    ],
)
def test_bad_arguments_are_named(kwargs, error, match):
    call = {
        "method": Counting(),
        "x0": np.zeros((2, 2)),
        "n_steps": 10,
        "progress": False,
        **kwargs,
    }
    with pytest.raises(error, match=match):
        mk.run(call.pop("method"), call.pop("x0"), call.pop("n_steps"), **call)


def test_integer_start_becomes_float64():
    assert mk.run(Counting(), [[0, 1]], 1, progress=False).x.dtype == np.float64


def test_diverged_particles_are_counted_and_warned_about():
    def explode(x):
        return np.where(x > 2, np.inf, 1.0)

    x0 = np.array([[0.0], [-50.0], [1.5]])
    with pytest.warns(mk.ConvergenceWarning, match=r"2 of 3 particles .* first seen at step \d+"):
        r = mk.run(mk.samplers.Langevin(explode, 0.01, noise="counter"), x0, 600, progress=False)
    assert not r.converged and r.n_iter == 600
    with pytest.warns(mk.ConvergenceWarning):  # seen at the end although nothing was saved
        mk.run(mk.samplers.Langevin(explode, 0.01), x0, 600, burn_in=600, progress=False)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stop", [1, 7, 12, 20])
def test_resume_is_bit_identical(tmp_path, name, stop):
    path = tmp_path / "run.npz"
    x0 = mk.random.normal(1, (6, 3))
    settings = {"seed": 3, "burn_in": 4, "thin": 3, "progress": False}
    want = mk.run(METHODS[name](), x0, 20, **settings)
    first = mk.run(METHODS[name](), x0, stop if stop > 4 else 4, checkpoint=path, **settings)
    assert first.n_iter == max(stop, 4)
    same(mk.run(METHODS[name](), x0, 20, checkpoint=path, **settings), want)
    again = mk.run(METHODS[name](), x0, 20, checkpoint=path, **settings)  # nothing left to do
    same(again, want)


def test_resume_in_every_framework(tmp_path, xp, dtype):
    path = tmp_path / "run.npz"
    x0 = xp.asarray(mk.random.normal(1, (4, 2), dtype=dtype))
    chain = mk.samplers.MALA(Normal(), 0.3)
    want = mk.run(chain, x0, 9, progress=False)
    mk.run(chain, x0, 5, progress=False, checkpoint=path)
    got = mk.run(chain, x0, 9, progress=False, checkpoint=path)
    assert (xp.to_numpy(got.x) == xp.to_numpy(want.x)).all()
    assert type(got.state.grad) is type(want.state.grad)
    assert (xp.to_numpy(got.state.accepted) == xp.to_numpy(want.state.accepted)).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("fail_at", [1, 2, 7, 20])
def test_interrupted_runs_are_written_and_resumed(tmp_path, error, fail_at):
    path, x0 = tmp_path / "run.npz", np.zeros((3, 2))
    want = mk.run(Counting(), x0, 20, thin=2, progress=False)
    with pytest.raises(error):
        mk.run(Counting(1.0, fail_at, error), x0, 20, thin=2, progress=False, checkpoint=path)
    assert path.exists() == (fail_at > 1)
    same(mk.run(Counting(), x0, 20, thin=2, progress=False, checkpoint=path), want)
    assert os.listdir(tmp_path) == ["run.npz"]


def test_interrupt_in_the_callback_counts_the_step(tmp_path):
    path, x0 = tmp_path / "run.npz", np.zeros((3, 2))

    def callback(step, state):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mk.run(Counting(), x0, 9, progress=False, checkpoint=path, callback=callback)
    assert _run._read(path, "checkpoint")[0]["step"] == 5
    same(
        mk.run(Counting(), x0, 9, progress=False, checkpoint=path),
        mk.run(Counting(), x0, 9, progress=False),
    )


def test_ctrl_c_at_any_moment(tmp_path):
    """A real SIGINT, at a time nobody chose: the file is complete and continues bit for bit."""
    path = tmp_path / "run.npz"
    code = (
        "import signal, sys, numpy as np, mckean as mk\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "chain = mk.samplers.UnderdampedLangevin(np.negative, 0.1)\n"
        "def tell(step, state):\n"
        "    if step == 100: print('go', flush=True)\n"
        "mk.run(chain, np.ones((50, 3)), 10**6, thin=1000, progress=False,\n"
        "       checkpoint=sys.argv[1], checkpoint_every=0.01, callback=tell)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "go\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    done = _run._read(path, "checkpoint")[0]["step"]
    assert 100 <= done < 10**6
    chain, x0 = mk.samplers.UnderdampedLangevin(np.negative, 0.1), np.ones((50, 3))
    n = (done // 1000 + 1) * 1000
    same(
        mk.run(chain, x0, n, thin=1000, progress=False, checkpoint=path),
        mk.run(chain, x0, n, thin=1000, progress=False),
    )


def test_checkpoints_are_written_on_time(tmp_path, monkeypatch):
    written = []
    real = _run._write
    monkeypatch.setattr(_run, "_write", lambda p, h, a: (written.append(h["step"]), real(p, h, a)))
    path = tmp_path / "run.npz"
    mk.run(Counting(), np.zeros((1, 1)), 5, progress=False, checkpoint=path, checkpoint_every=1e-9)
    assert written == [1, 2, 3, 4, 5]
    written.clear()
    path.unlink()
    mk.run(Counting(), np.zeros((1, 1)), 5, progress=False, checkpoint=path)
    assert written == [5]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    mk.run(Counting(), np.zeros((2, 1)), 3, progress=False, checkpoint=path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        args[0].write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        result = mk.run(Counting(), np.zeros((2, 1)), 6, progress=False, checkpoint=path)
    assert result.n_iter == 6  # the run is not lost with the file
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run.npz"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": Counting(2.0)}, "a different setting of the method"),
        ({"method": mk.samplers.Langevin(gradient, 0.1)}, "a different method"),
        ({"x0": np.ones((2, 2))}, "a different x0"),
        ({"x0": np.zeros((2, 2), np.float32)}, "a different x0"),
        ({"seed": 1}, r"a different seed \(there 0, here 1\)"),
        ({"burn_in": 1}, "a different burn_in"),
        ({"thin": 2}, "a different thin"),
        ({"n_steps": 4}, "at step 5, beyond n_steps=4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, match):
    path = tmp_path / "run.npz"
    mk.run(Counting(), np.zeros((2, 2)), 5, progress=False, checkpoint=path)
    before = path.read_bytes()
    call = {"method": Counting(), "x0": np.zeros((2, 2)), "n_steps": 9, "seed": 0, **change}
    with pytest.raises(mk.CheckpointError, match=match) as info:
        mk.run(
            call.pop("method"),
            call.pop("x0"),
            call.pop("n_steps"),
            progress=False,
            checkpoint=path,
            **call,
        )
    assert str(path) in str(info.value)
    assert path.read_bytes() == before


def test_identity_sees_the_settings_that_matter():
    def digest(method):
        return _run._digest(method.config())

    def other(x):
        return -2 * x

    base = digest(mk.samplers.MALA(Normal(), 0.3))
    assert base == digest(mk.samplers.MALA(Normal(), 0.3))
    assert base != digest(mk.samplers.MALA(Normal(2.0), 0.3))
    assert base != digest(mk.samplers.MALA(Normal(), 0.30000001))
    chain = mk.samplers.Langevin
    assert digest(chain(gradient, 0.1)) != digest(chain(other, 0.1))
    data = np.arange(5.0)
    a, b = Normal(data), Normal(data + 1)
    assert digest(chain(a, 0.1)) != digest(chain(b, 0.1))
    used = chain(gradient, 0.1, noise="tree")
    fresh = digest(used)
    used.step(used.init(np.zeros((1, 1))))
    assert digest(used) == fresh  # a warm cache is not a setting


def test_truncated_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    mk.run(Counting(), np.zeros((3, 2)), 5, progress=False, checkpoint=path)
    whole = path.read_bytes()
    for keep in [0, 1, 10, len(whole) // 3, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        path.write_bytes(whole[:keep])
        with pytest.raises(mk.CheckpointError, match=r"run.npz: "):
            mk.run(Counting(), np.zeros((3, 2)), 9, progress=False, checkpoint=path)
        assert path.read_bytes() == whole[:keep]


def test_flipped_bytes_are_refused_or_harmless(tmp_path):
    path = tmp_path / "run.npz"
    x0 = np.zeros((3, 2))
    want = mk.run(Counting(), x0, 9, progress=False)
    mk.run(Counting(), x0, 5, progress=False, checkpoint=path)
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x20
        path.write_bytes(bytes(damaged))
        try:
            got = mk.run(Counting(), x0, 9, progress=False, checkpoint=path)
        except mk.CheckpointError:
            refused += 1
        else:
            same(got, want)  # a time stamp or padding
    assert refused > len(whole) // 7 * 0.6


@pytest.mark.parametrize("content", [b"not a zip", b"\x93NUMPY", b"PK\x05\x06" + b"\0" * 18])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(mk.CheckpointError):
        mk.run(Counting(), np.zeros((1, 1)), 2, progress=False, checkpoint=path)
    with pytest.raises(mk.CheckpointError):
        mk.load(path)


def test_pickles_are_never_loaded(tmp_path):
    path = tmp_path / "run.npz"
    header = {"format": "mckean", "version": 1, "kind": "result", "members": ["x"]}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, header=text, x=np.array([print], object))
    with pytest.raises(mk.CheckpointError, match="damaged"):
        mk.load(path)


def test_save_and_load(tmp_path, xp, dtype):
    path = tmp_path / "result.npz"
    x0 = xp.asarray(mk.random.normal(1, (4, 2), dtype=dtype))
    r = mk.run(mk.samplers.MALA(Normal(), 0.3), x0, 8, thin=2, seed=2**63 + 1, progress=False)
    r.save(path)
    got = mk.load(path, like=xp.name)
    assert type(got.state) is mk.samplers.MALAState and got.state.seed == 2**63 + 1
    assert xp.dtype(got.x) == dtype and (xp.to_numpy(got.x) == xp.to_numpy(r.x)).all()
    assert got.stats.keys() == r.stats.keys() and got.timings == r.timings
    assert (got.n_iter, got.converged) == (8, True)
    assert got.n_gradient_evaluations == r.n_gradient_evaluations == 9
    chain = mk.samplers.MALA(Normal(), 0.3)
    assert (xp.to_numpy(chain.step(got.state).x) == xp.to_numpy(chain.step(r.state).x)).all()
    assert type(mk.load(path).x) is np.ndarray
    with zipfile.ZipFile(path) as z:
        assert all(name.endswith(".npy") for name in z.namelist())


def test_load_does_not_import_what_a_file_names(tmp_path):
    path = tmp_path / "result.npz"
    r = mk.run(Counting(), np.zeros((2, 1)), 3, progress=False)
    r.save(path)
    state = mk.load(path).state
    assert type(state).__name__ == "SimpleNamespace"
    assert (state.step, state.level, state.flag, state.nothing) == (3, 2 / 3, True, None)
    mk.load(path).save(path)
    assert mk.load(path).state.step == 3


def test_load_refuses_checkpoints_and_missing_files(tmp_path):
    path = tmp_path / "run.npz"
    mk.run(Counting(), np.zeros((2, 1)), 3, progress=False, checkpoint=path)
    with pytest.raises(mk.CheckpointError, match="expected a result"):
        mk.load(path)
    with pytest.raises(FileNotFoundError):
        mk.load(tmp_path / "none.npz")


def test_states_with_other_fields_are_refused(tmp_path):
    r = mk.run(Counting(), np.zeros((2, 1)), 3, progress=False)
    r.state.nothing = [1, 2]
    with pytest.raises(TypeError, match=r"state.nothing: expected an array"):
        r.save(tmp_path / "r.npz")
    assert not os.listdir(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_arviz_gets_particles_as_chains():
    arviz = pytest.importorskip("arviz")
    chain = mk.samplers.MALA(Normal(), 0.5)
    r = mk.run(chain, np.zeros((4, 2)), 300, burn_in=100, seed=1, progress=False)
    data = r.to_arviz()
    assert data.posterior["x"].shape == (4, 200, 2)
    assert data.sample_stats["accepted"].shape == (4, 200)
    assert (data.posterior["x"].values[1, 5] == r.x[5, 1]).all()
    named = r.to_arviz(["a", "b"])
    assert (named.posterior["b"].values == r.x[:, :, 1].T).all()
    assert float(arviz.ess(named)["a"]) > 50
    with pytest.raises(ValueError, match="var_names: expected 2 names"):
        r.to_arviz(["a"])


def test_missing_arviz_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    r = mk.run(Counting(), np.zeros((2, 1)), 3, progress=False)
    with pytest.raises(ImportError, match=r"mckean\[arviz\]"):
        r.to_arviz()


def test_checkpoint_knows_trees_and_private_settings(tmp_path):
    path = tmp_path / "run.npz"
    tree = mk.BrownianTree(1, (4, 2), t1=8.0, tol=0.1, levy_area="space-time-time")

    def chain(noise):
        return mk.samplers.UnderdampedLangevin(np.negative, 0.1, noise=noise)

    x0 = np.ones((2, 2))
    mk.run(chain(tree[:2]), x0, 5, progress=False, checkpoint=path)
    mk.run(chain(tree[:2]), x0, 8, progress=False, checkpoint=path)
    with pytest.raises(mk.CheckpointError, match="setting of"):
        mk.run(chain(tree[2:]), x0, 9, progress=False, checkpoint=path)

    class Private:
        def __init__(self, a):
            self._a = a

        def grad_log_density(self, x):
            return -self._a * x

    other = tmp_path / "other.npz"
    mk.run(mk.samplers.Langevin(Private(1.0), 0.1), x0, 5, progress=False, checkpoint=other)
    with pytest.raises(mk.CheckpointError, match="setting of"):
        mk.run(mk.samplers.Langevin(Private(2.0), 0.1), x0, 6, progress=False, checkpoint=other)


def test_a_path_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    calls = []

    def gradient(x):
        calls.append(1)
        return -x

    chain = mk.samplers.Langevin(gradient, 0.1)
    for bad in (tmp_path / "missing" / "a.npz", tmp_path):
        with pytest.raises(ValueError, match="^checkpoint"):
            mk.run(chain, np.ones((2, 2)), 50, progress=False, checkpoint=bad)
    assert len(calls) == 0


def test_a_target_that_counts_its_calls_can_be_resumed(tmp_path):
    class Target:
        def __init__(self):
            self.calls, self.scale, self.log = 0, 1.5, []

        def grad_log_density(self, x):
            self.calls += 1
            self.log.append(self.calls)
            if self.calls == 4:
                raise KeyboardInterrupt
            return -self.scale * x

    target, x0, path = Target(), np.ones((2, 2)), tmp_path / "run.npz"
    chain = mk.samplers.Langevin(target, 0.1)
    with pytest.raises(KeyboardInterrupt):
        mk.run(chain, x0, 10, progress=False, checkpoint=path)
    got = mk.run(chain, x0, 10, progress=False, checkpoint=path)
    np.testing.assert_array_equal(got.x, mk.run(chain, x0, 10, progress=False).x)
