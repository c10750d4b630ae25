"""The sort of a slice against NumPy's stable one, on data that are easy, hard, equal or spread over many magnitudes."""

from __future__ import annotations

import numpy as np
import pytest

from mckean import _core

SIZES = [1, 2, 47, 48, 49, 63, 1000, 1025, 5000, 20_000, 70_000, 131_072, 600_000]


def _values(kind, n, rng):
    normal = rng.standard_normal(n)
    match kind:
        case "normal":
            return normal
        case "sorted":
            return np.arange(n)
        case "reversed":
            return -np.arange(n)
        case "equal":
            return np.full(n, 1.5)
        case "few values":
            return np.floor(2 * normal)
        case "exponential tail":
            return np.exp(5 * normal)
        case "Cauchy":
            return rng.standard_cauchy(n)
        case "both zeros":
            return np.where(np.arange(n) % 2, -0.0, 0.0)
        case "subnormal":
            return normal * 1e-44
        case "huge":
            return normal * 1e37
        case "one outlier":
            return np.where(np.arange(n) == n // 2, 1e30, normal)
        case "far from zero":
            return normal + 1e6
        case "golden ratio":
            return np.arange(n) * 0.6180339887 % 1.0
    raise AssertionError(kind)


KINDS = ["normal", "sorted", "reversed", "equal", "few values", "exponential tail", "Cauchy", "both zeros", "subnormal",
         "huge", "one outlier", "far from zero", "golden ratio"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_the_stable_one(kind, dtype):
    rng = np.random.default_rng(0)
    for n in SIZES:
        z = _values(kind, n, rng).astype(dtype)
        order = np.empty(n, np.int64)
        _core.slice_order(z, order)
        np.testing.assert_array_equal(order, np.argsort(z, kind="stable"), err_msg=f"n = {n}")


def test_order_on_every_instruction_set(dtype):
    z = np.random.default_rng(1).standard_normal(200_000).astype(dtype)
    want = np.argsort(z, kind="stable")
    level = _core.simd_level()
    try:
        for name in _core.simd_levels():
            _core.set_simd_level(name)
            order = np.empty(z.size, np.int64)
            _core.slice_order(z, order)
            np.testing.assert_array_equal(order, want, err_msg=name)
    finally:
        _core.set_simd_level(level)
