"""Fixtures: every test that takes `xp` runs on every framework that can be imported.

MCKEAN_TEST_FRAMEWORKS, a comma-separated list such as "numpy", leaves out the others.
"""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import pytest

from mckean import _core


class LeftOut:
    """An import hook that knows the frameworks not asked for, and finds none of them."""

    wanted = os.environ.get("MCKEAN_TEST_FRAMEWORKS", "numpy,torch,jax,cupy").split(",")
    names = frozenset({"torch", "jax", "cupy"} - set(wanted))

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in cls.names:
            raise ModuleNotFoundError(f"{name} is left out by MCKEAN_TEST_FRAMEWORKS", name=name)


if LeftOut.names:
    sys.meta_path.insert(0, LeftOut)


class Numpy:
    name = "numpy"

    def asarray(self, a):
        return np.array(a)

    def is_array(self, a):
        return type(a) is np.ndarray

    def to_numpy(self, a):
        assert self.is_array(a)
        return a

    def dtype(self, a):
        return str(a.dtype).rpartition(".")[2]


class Torch(Numpy):
    name = "torch"

    def __init__(self):
        self.module = importlib.import_module("torch")

    def asarray(self, a):
        return self.module.tensor(np.asarray(a))

    def is_array(self, a):
        return isinstance(a, self.module.Tensor)

    def to_numpy(self, a):
        assert self.is_array(a)
        return a.numpy()


class Jax(Numpy):
    name = "jax"

    def __init__(self):
        self.module = importlib.import_module("jax")
        self.module.config.update("jax_enable_x64", True)

    def asarray(self, a):
        return self.module.numpy.asarray(np.array(a))

    def is_array(self, a):
        return isinstance(a, self.module.Array)

    def to_numpy(self, a):
        assert self.is_array(a)
        return np.asarray(a)


class Cupy(Numpy):
    name = "cupy"

    def __init__(self):
        self.module = importlib.import_module("cupy")
        self.module.cuda.runtime.getDeviceCount()

    def asarray(self, a):
        return self.module.asarray(a)

    def is_array(self, a):
        return isinstance(a, self.module.ndarray)

    def to_numpy(self, a):
        assert self.is_array(a)
        return a.get()


@pytest.fixture(params=[Numpy, Torch, Jax, Cupy], ids=lambda c: c.__name__.lower())
def xp(request):
    """A framework; those that cannot be imported skip with their name."""
    try:
        return request.param()
    except Exception as error:
        pytest.skip(f"{request.param.__name__.lower()}: {error}")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=_core.simd_levels())
def simd_level(request):
    """Every instruction set of this machine."""
    before = _core.simd_level()
    _core.set_simd_level(request.param)
    yield request.param
    _core.set_simd_level(before)
