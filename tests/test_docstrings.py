"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import mckean

MODULES = [
    m.name
    for m in pkgutil.walk_packages(mckean.__path__, "mckean.")
    if not m.name.endswith(("._core", "._cuda", ".__main__"))
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    if name in ("mckean.torch", "mckean.jax"):
        pytest.importorskip(name.rpartition(".")[2])
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert failed == 0


@pytest.mark.parametrize("name", mckean.__all__)
def test_public_names_are_documented(name):
    if name != "__version__":
        assert getattr(mckean, name).__doc__
