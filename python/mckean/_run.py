"""The one loop behind every method: thinning, statistics, progress, checkpoints, results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import os
import secrets
import struct
import time
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from mckean import _array
from mckean._errors import CheckpointError, ConvergenceWarning, as_count, as_seed, positive

__all__ = ["Method", "Result", "load", "run"]

_VERSION = 1
# Everything numpy, zipfile and json raise on damaged bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    SyntaxError,
)

State = TypeVar("State")


class Method(Protocol[State]):
    """What `run` drives: `init` makes a state, `step` returns the next one and changes nothing.

    A state is a dataclass of arrays, ints, floats, bools and None, with the positions in `x`.
    Optional: ``stats(state)``, a dict of floats or arrays saved beside the positions; ``config()``,
    a dict of what makes two methods the same.
    """

    def init(self, x0: Any, seed: int = 0) -> State: ...

    def step(self, state: State) -> State: ...


@dataclasses.dataclass(slots=True)
class Result:
    """What `run` returns.

    Attributes
    ----------
    x : array, shape (n_saved, n, d)
        Saved positions, in the framework of ``x0``.
    stats : dict of str to numpy.ndarray, shape (n_saved, ...)
        What the method measured at the saved steps.
    state : dataclass
        The last state; ``method.step`` continues from it.
    converged : bool
        False if a particle was not finite at a saved step or at the end.
    n_iter : int
        Steps taken, including those before a resume.
    timings : dict of str to float
        Seconds: "total", "per_step" and "checkpoints", over all sessions of a resumed run.
    n_gradient_evaluations : int or None
        Batch gradient evaluations, for methods that count them.
    """

    x: Any
    stats: dict[str, np.ndarray[Any, Any]]
    state: Any
    converged: bool
    n_iter: int
    timings: dict[str, float]
    n_gradient_evaluations: int | None = None

    def __repr__(self) -> str:
        return (
            f"Result(x={tuple(self.x.shape)}, stats={sorted(self.stats)}, "
            f"converged={self.converged}, "
            f"n_iter={self.n_iter}, seconds={self.timings.get('total', 0.0):.3g})"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one .npz file, atomically.

        Parameters
        ----------
        path : path
            An existing file is replaced once the new one is complete on disk.

        See Also
        --------
        load
        """
        fields, arrays = _pack_state(self.state)
        header = {
            "kind": "result",
            "state": fields,
            "converged": self.converged,
            "n_iter": self.n_iter,
            "timings": self.timings,
            "n_gradient_evaluations": self.n_gradient_evaluations,
        }
        arrays["x"] = _array.to_numpy(self.x)
        arrays.update({f"stats.{k}": v for k, v in self.stats.items()})
        _write(path, header, arrays)

    def to_arviz(self, var_names: Sequence[str] | None = None) -> Any:
        """Convert to `arviz.InferenceData`: particles become chains, saved steps become draws.

        ESS and R-hat then come from ArviZ. Statistics with one value per particle go to
        ``sample_stats``.

        Parameters
        ----------
        var_names : sequence of d str, optional
            One variable per coordinate. By default one variable "x" with all coordinates.

        Returns
        -------
        arviz.InferenceData

        Raises
        ------
        ImportError
            If ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise ImportError("to_arviz needs ArviZ: pip install 'mckean[arviz]'") from error
        x = np.swapaxes(_array.to_numpy(self.x), 0, 1)
        n_chains, n_saved, d = x.shape
        if var_names is not None and len(var_names) != d:
            raise ValueError(
                f"var_names: expected {d} names to match x {tuple(self.x.shape)}, "
                f"got {len(var_names)}"
            )
        posterior = (
            {"x": x} if var_names is None else {v: x[..., i] for i, v in enumerate(var_names)}
        )
        per_particle = {
            k: np.swapaxes(v, 0, 1)
            for k, v in self.stats.items()
            if v.shape[:2] == (n_saved, n_chains)
        }
        with warnings.catch_warnings():
            # Many short chains are the point of particles, not a transposed array.
            warnings.filterwarnings("ignore", message="More chains")
            return arviz.from_dict(posterior=posterior, sample_stats=per_particle or None)


def run(
    method: Any,
    x0: Any,
    n_steps: int,
    *,
    seed: Any = 0,
    burn_in: int = 0,
    thin: int = 1,
    progress: bool = True,
    callback: Callable[[int, Any], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
) -> Result:
    """Take `n_steps` steps of a method and keep every `thin`-th position after `burn_in`.

    Saved are steps ``burn_in + thin, burn_in + 2 thin, ...``: ``(n_steps - burn_in) // thin`` of
    them. The whole saved trajectory is held in memory.

    Parameters
    ----------
    method : object with ``init(x0, seed)`` and ``step(state)``
        Such as those of `mckean.samplers`.
    x0 : array, shape (n, d), float32 or float64
        Starting positions, finite; not modified.
    n_steps : int
        Total number of steps, including `burn_in` and steps of an earlier session.
    seed : int or numpy.random.SeedSequence
        Source of all randomness of the method.
    burn_in : int
        Steps not saved, at the beginning.
    thin : int
        Steps from one saved position to the next.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        ``callback(step, state)`` after each step, the first step being 1. Returning True ends the
        run.
    checkpoint : path, optional
        A .npz file, written every `checkpoint_every` seconds, at the end, and when the run is
        interrupted or fails. If it exists the run continues from it, bit for bit as if never
        interrupted. `n_steps` may have grown since.
    checkpoint_every : float
        Seconds between checkpoints.

    Returns
    -------
    Result
        Positions in the framework of `x0`. Deterministic, not differentiable.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range, or `x0` is not finite.
    CheckpointError
        If the checkpoint is damaged or belongs to another method, seed, `x0`, `burn_in` or `thin`.
        It is left as it is.

    Warns
    -----
    ConvergenceWarning
        If particles are not finite at a saved step or at the end; ``result.converged`` is then
        False.

    Notes
    -----
    A checkpoint recognises functions by their name only: changing a function's body goes unnoticed. Objects are
    recognised by ``config()`` if they have it, else by those attributes that are arrays, floats, strings or objects.

    Examples
    --------
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.Langevin(lambda x: -x, step=0.1)
    >>> result = mk.run(chain, np.zeros((100, 2)), 300, burn_in=100, thin=2, progress=False)
    >>> result.x.shape, result.converged
    ((100, 100, 2), True)
    """
    start = time.perf_counter()
    seed = as_seed(seed)
    n_steps = as_count(n_steps, "n_steps")
    burn_in = as_count(burn_in, "burn_in")
    thin = as_count(thin, "thin", least=1)
    checkpoint_every = positive(checkpoint_every, "checkpoint_every")
    if burn_in > n_steps:
        raise ValueError(f"burn_in: expected at most n_steps={n_steps}, got {burn_in}")
    if isinstance(method, type):
        raise TypeError(f"method: expected an object, got the class {method.__name__}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback: expected a function, got {type(callback).__name__}")
    for name in ("init", "step"):
        if not callable(getattr(method, name, None)):
            raise TypeError(
                f"method: expected an object with init and step, "
                f"{type(method).__name__} has no {name}"
            )
    x_in = _array.as_input(x0, "x0", shape=("n", "d"))
    if 0 in x_in.shape:
        raise ValueError(
            f"x0: expected at least one particle and one dimension, got shape {x_in.shape}"
        )
    _array.check_finite(x_in, "x0")

    state = method.init(x_in.array, seed)
    if not dataclasses.is_dataclass(state) or not hasattr(state, "x"):
        raise TypeError(
            f"method: expected init to return a dataclass with field x, got {type(state).__name__}"
        )
    trace = _Trace(x_in, (n_steps - burn_in) // thin)
    now = _Progress(0, state, 0, 0, None)
    identity: dict[str, Any] = {}
    earlier = {"total": 0.0, "checkpoints": 0.0}
    if checkpoint is not None:
        _check_writable(checkpoint, state)
        identity = _identity(method, x_in, seed, burn_in, thin)
        if os.path.exists(checkpoint):
            now, earlier = _resume(checkpoint, identity, trace, state, n_steps)
    writing = earlier["checkpoints"]
    measure = getattr(method, "stats", None)

    def write() -> None:
        nonlocal writing
        if checkpoint is None:
            return
        began = time.perf_counter()
        fields, arrays = _pack_state(now.state)
        spent = {"total": earlier["total"] + began - start, "checkpoints": writing}
        header = {
            "kind": "checkpoint",
            "identity": identity,
            "state": fields,
            "step": now.step,
            "saved": now.saved,
            "bad": now.bad,
            "first_bad": now.first_bad,
            "timings": spent,
        }
        arrays.update(trace.pack(now.saved))
        _write(checkpoint, header, arrays)
        writing += time.perf_counter() - began

    from tqdm.auto import tqdm

    written_step, last_write = now.step, time.perf_counter()
    bar = tqdm(total=n_steps, initial=now.step, disable=not progress, unit="step")
    try:
        with bar:
            for step in range(now.step + 1, n_steps + 1):
                following = method.step(now.state)
                saved, bad, first_bad = now.saved, now.bad, now.first_bad
                last = step == n_steps
                due = step > burn_in and (step - burn_in) % thin == 0
                if due or last:
                    x = trace.check(following.x)
                    found = _array.nonfinite_rows(x)
                    if found and first_bad is None:
                        first_bad = step
                    bad = max(bad, found)
                if due:
                    trace.put(saved, x, {} if measure is None else measure(following))
                    saved += 1
                # One assignment, so that an interrupt sees the old progress or the new one, never a
                # mixture.
                now = _Progress(step, following, saved, bad, first_bad)
                bar.update()
                if callback is not None:
                    stop = callback(step, following)
                    if stop is not None and bool(stop):
                        break
                if (
                    checkpoint is not None
                    and time.perf_counter() - last_write > checkpoint_every
                    and not last
                ):
                    write()
                    written_step, last_write = step, time.perf_counter()
    except BaseException:
        if now.step > written_step:
            write()
        raise
    if checkpoint is not None and (now.step > written_step or not os.path.exists(checkpoint)):
        try:
            write()
        except OSError as error:  # a full disk at the very end must not take the result with it
            warnings.warn(
                f"checkpoint: could not be written: {error}", RuntimeWarning, stacklevel=2
            )
    if now.step < n_steps:  # ended by the callback
        found = _array.nonfinite_rows(trace.check(now.state.x))
        if found:
            first_bad = now.step if now.first_bad is None else now.first_bad
            now = dataclasses.replace(now, bad=max(now.bad, found), first_bad=first_bad)
    if now.bad:
        warnings.warn(
            f"{now.bad} of {x_in.shape[0]} particles are not finite, "
            f"first seen at step {now.first_bad}",
            ConvergenceWarning,
            stacklevel=2,
        )
    total = earlier["total"] + time.perf_counter() - start
    return Result(
        x=trace.result(now.saved),
        stats=trace.statistics(now.saved),
        state=now.state,
        converged=not now.bad,
        n_iter=now.step,
        timings={
            "total": total,
            "per_step": (total - writing) / max(now.step, 1),
            "checkpoints": writing,
        },
        n_gradient_evaluations=getattr(now.state, "n_gradients", None),
    )


def load(path: str | os.PathLike[str], *, like: Any = None) -> Result:
    """Read a result written by `Result.save`.

    Parameters
    ----------
    path : path
        The file.
    like : array or str, optional
        Framework and device of the arrays: an array, or one of "numpy", "torch", "jax", "cupy"; by
        default NumPy.

    Returns
    -------
    Result
        States of this package's own methods come back as they were; of others, as a namespace of
        the same fields.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged or not a result.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import mckean as mk
    >>> chain = mk.samplers.Langevin(lambda x: -x, 0.1)
    >>> result = mk.run(chain, np.zeros((5, 2)), 10, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result.save(os.path.join(folder, "result.npz"))
    ...     again = mk.load(os.path.join(folder, "result.npz"))
    >>> bool((again.x == result.x).all())
    True
    """
    framework, device = _array.like(like)
    header, arrays = _read(path, "result")
    with _damage_to(path):
        stats = {k[6:]: v for k, v in arrays.items() if k.startswith("stats.")}
        return Result(
            x=framework.asarray(arrays["x"], device),
            stats=stats,
            state=_unpack_state(header["state"], arrays, framework, device, None),
            converged=bool(header["converged"]),
            n_iter=int(header["n_iter"]),
            timings=header["timings"],
            n_gradient_evaluations=header["n_gradient_evaluations"],
        )


@dataclasses.dataclass(slots=True, frozen=True)
class _Progress:
    step: int
    state: Any
    saved: int
    bad: int  # largest number of particles seen not finite
    first_bad: int | None


class _Trace:
    """The saved positions and statistics."""

    def __init__(self, x0: _array.Input, n_saved: int) -> None:
        self._x0 = x0
        self._out = x0.framework.empty((n_saved, *x0.shape), x0.dtype, x0.device)
        self._stats: dict[str, np.ndarray[Any, Any]] = {}
        self._n_saved = n_saved

    def check(self, x: Any) -> _array.Input:
        return _array.as_match(x, "state.x", self._x0, "x0")

    def put(self, index: int, x: _array.Input, stats: dict[str, Any]) -> None:
        self._out.data[index] = x.data if self._x0.framework.name == "jax" else x.array
        for name, value in stats.items():
            a = _array.to_numpy(value)
            if a.dtype.kind not in "biuf":
                raise TypeError(f"stats[{name!r}]: expected numbers, got {a.dtype}")
            if name not in self._stats:
                self._stats[name] = np.zeros((self._n_saved, *a.shape), a.dtype)
            kind = np.result_type(self._stats[name].dtype, a.dtype)
            if kind != self._stats[name].dtype:  # an int first, a float later
                self._stats[name] = self._stats[name].astype(kind)
            self._stats[name][index] = a

    def result(self, saved: int) -> Any:
        x = self._out.result()
        return x if saved == self._n_saved else x[:saved]

    def statistics(self, saved: int) -> dict[str, np.ndarray[Any, Any]]:
        return {k: v[:saved] for k, v in self._stats.items()}

    def pack(self, saved: int) -> dict[str, np.ndarray[Any, Any]]:
        packed = {f"stats.{k}": v for k, v in self.statistics(saved).items()}
        packed["x"] = _array.to_numpy(self._out.data[:saved])
        return packed

    def unpack(self, arrays: dict[str, np.ndarray[Any, Any]], saved: int) -> None:
        x = arrays["x"]
        if x.shape != (saved, *self._x0.shape) or str(x.dtype) != self._x0.dtype:
            raise ValueError(f"member x has shape {x.shape} and type {x.dtype}")
        holder = _array.framework_of(self._out.data)
        if saved:
            self._out.data[:saved] = holder.asarray(x, self._x0.device)
        for key, a in arrays.items():
            if key.startswith("stats."):
                self._stats[key[6:]] = np.zeros((self._n_saved, *a.shape[1:]), a.dtype)
                self._stats[key[6:]][:saved] = a


# ---- states ------------------------------------------------------------------------------------


def _pack_state(state: Any) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """A state as a JSON object and named arrays."""
    if isinstance(state, types.SimpleNamespace):
        kind, values = "types.SimpleNamespace", vars(state)
    else:
        kind = f"{type(state).__module__}.{type(state).__qualname__}"
        values = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    scalars: dict[str, Any] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    host = []  # bookkeeping in NumPy, whatever holds the positions
    for name, value in values.items():
        if value is None or isinstance(value, (bool, int, str)):
            scalars[name] = value
        elif isinstance(value, float):
            scalars[name] = {"hex": value.hex()}  # JSON has no NaN or infinity
        elif hasattr(value, "dtype") and hasattr(value, "shape"):
            arrays[f"state.{name}"] = _array.to_numpy(value)
            if isinstance(value, np.ndarray):
                host.append(name)
        else:
            raise TypeError(
                f"state.{name}: expected an array, int, float, bool, str or None, "
                f"got {type(value).__name__}"
            )
    return {"class": kind, "scalars": scalars, "host": host}, arrays


def _unpack_state(
    fields: dict[str, Any],
    arrays: dict[str, np.ndarray[Any, Any]],
    framework: _array.Framework,
    device: str,
    kind: type | None,
) -> Any:
    values = {
        k: float.fromhex(v["hex"]) if isinstance(v, dict) else v
        for k, v in fields["scalars"].items()
    }
    on_host = fields.get("host", ()) if framework.name != "numpy" else ()
    values.update(
        (k[6:], v if k[6:] in on_host else framework.asarray(v, device))
        for k, v in arrays.items()
        if k.startswith("state.")
    )
    if kind is None:
        kind = _own_class(fields["class"]) or types.SimpleNamespace
    return kind(**values)


def _own_class(name: str) -> type | None:
    """A dataclass of this package by name; a file must not make us import anything else."""
    module, _, attribute = name.rpartition(".")
    if module != "mckean" and not module.startswith("mckean."):
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else None


# ---- checkpoints -------------------------------------------------------------------------------


def _identity(method: Any, x0: _array.Input, seed: int, burn_in: int, thin: int) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued."""
    config = method.config() if callable(getattr(method, "config", None)) else _describe(method)
    kind = type(method)
    return {
        "method": f"{kind.__module__}.{kind.__qualname__}",
        "setting of the method": _digest(config),
        "x0": _digest(x0.array),
        "framework": x0.framework.name,
        "device": x0.device.partition(":")[0],
        "seed": seed,
        "burn_in": burn_in,
        "thin": thin,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(_describe(value), sort_keys=True).encode()).hexdigest()


def _describe(value: Any, depth: int = 6) -> Any:
    """A JSON picture of a setting: scalars by value, arrays by hash, functions by name, objects by
    their attributes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, np.generic):
        return _describe(value.item())
    if _array.is_array(value):
        a = np.ascontiguousarray(_array.to_numpy(value))
        return [str(a.dtype), list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
    if depth <= 0:
        return f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, dict):
        return {str(k): _describe(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(v, depth - 1) for v in value]
    if isinstance(value, functools.partial):
        return [_describe(v, depth - 1) for v in (value.func, value.args, value.keywords)]
    if isinstance(value, types.MethodType):
        return [value.__func__.__qualname__, _describe(value.__self__, depth - 1)]
    kind = value if hasattr(value, "__qualname__") else type(value)
    name = f"{getattr(kind, '__module__', '')}.{kind.__qualname__}"
    if kind is value:
        return name
    own = type(value).__module__.partition(".")[0] == "mckean"
    for method in (
        "config",
        "state_dict",
        "__getstate__" if own else "",
    ):  # state_dict: torch modules
        get = getattr(value, method, None)
        if callable(get):
            return [name, _describe(get(), depth - 1)]
    attributes = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = getattr(base, "__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                attributes[slot] = getattr(value, slot)
    # Counters and logs change while a run goes on; parameters are numbers with a point, arrays, names, or objects.
    lasting = {k: v for k, v in attributes.items() if not isinstance(v, (bool, int, list, set))}
    return [name, _describe(lasting, depth - 1)]


def _check_writable(path: str | os.PathLike[str], state: Any) -> None:
    """Find out before the first step what would lose the run after the last."""
    folder = os.path.dirname(os.path.realpath(os.fspath(path)))
    if not os.path.isdir(folder):
        raise ValueError(
            f"checkpoint: expected a file in an existing folder, got {os.fspath(path)!r}"
        )
    if os.path.isdir(path):
        raise ValueError(f"checkpoint: expected a file, got the folder {os.fspath(path)!r}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"checkpoint: expected a writable folder, got {folder!r}")
    _pack_state(state)


def _resume(
    path: str | os.PathLike[str], identity: dict[str, Any], trace: _Trace, state: Any, n_steps: int
) -> tuple[_Progress, dict[str, float]]:
    header, arrays = _read(path, "checkpoint")
    with _damage_to(path):
        theirs, step, saved = header["identity"], int(header["step"]), int(header["saved"])
        for key, ours in identity.items():
            if theirs[key] != ours:
                detail = "" if len(str(ours)) == 64 else f" (there {theirs[key]!r}, here {ours!r})"
                raise CheckpointError(
                    f"{os.fspath(path)}: the checkpoint was made with a different {key}{detail}; "
                    "name another file, or delete this one to start afresh"
                )
        if step > n_steps:
            raise CheckpointError(
                f"{os.fspath(path)}: the checkpoint is at step {step}, beyond n_steps={n_steps}; "
                f"ask for at least {step} steps"
            )
        trace.unpack(arrays, saved)
        x0 = trace._x0
        restored = _unpack_state(header["state"], arrays, x0.framework, x0.device, type(state))
        now = _Progress(step, restored, saved, int(header["bad"]), header["first_bad"])
        return now, {k: float(v) for k, v in header["timings"].items()}


@contextlib.contextmanager
def _damage_to(path: str | os.PathLike[str]) -> Any:
    try:
        yield
    except CheckpointError:
        raise
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"{os.fspath(path)}: damaged or not a file of this package: {reason}"
        ) from error


def _read(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    with open(path, "rb") as file, _damage_to(path):
        if not zipfile.is_zipfile(file):
            raise CheckpointError(f"{os.fspath(path)}: truncated, or not an .npz file")
        file.seek(0)
        with np.load(file, allow_pickle=False) as members:
            arrays = {k: members[k] for k in members.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != "mckean" or header["version"] != _VERSION or header["kind"] != kind:
            raise CheckpointError(
                f"{os.fspath(path)}: expected a {kind} of version {_VERSION}, "
                f"got {header['kind']!r} of version {header['version']!r}"
            )
        if sorted(arrays) != header["members"]:
            raise CheckpointError(f"{os.fspath(path)}: arrays are missing")
        return header, arrays


def _write(
    path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    """Write an .npz so that at any moment `path` is the old file or the complete new one."""
    target = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(target)
    header = {"format": "mckean", "version": _VERSION, "members": sorted(arrays), **header}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            members: dict[str, Any] = {"header": text, **arrays}
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    # The rename itself must reach the disk too.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
