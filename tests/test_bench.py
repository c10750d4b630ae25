import importlib
from pathlib import Path

import pytest

import mckean as mk

BENCH = Path(__file__).parent.parent / "bench"

TABLES = {
    "brownian": [
        (
            "(a) increments per second",
            "levy_area tol n threads mckean diffrax ratio target of bound",
        ),
        (
            "(b) increments per second",
            "levy_area tol n threads mckean diffrax torchsde random torchsde sequential ratio",
        ),
        (
            "(c) increments per second",
            "levy_area tol n threads increments(ts) increment(s, t) torchsde diffrax",
        ),
        ("(d) microseconds", "levy_area interval mckean torchsde diffrax ratio target"),
        (
            "(e) float32",
            "step error W error H error K var W var H var K diffrax W diffrax H diffrax K",
        ),
    ],
    "stepping": [
        ("(a) nanoseconds per normal", "n threads mckean numpy torch jax ratio"),
        ("(a) nanoseconds per uniform", "n threads mckean numpy torch jax ratio"),
        (
            "(b) microseconds",
            "K J n noise coefficients threads mckean numpy torch jax ratio GB/s copy GB/s of copy",
        ),
        ("(c) nanoseconds", "n threads mckean numpy torch ratio"),
    ],
}


@pytest.mark.parametrize(("family", "peer"), [("brownian", "none"), ("stepping", "numpy")])
def test_prints_its_tables(family, peer, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module(f"bench_{family}")
    before = mk.get_num_threads()
    try:
        bench.main(["--size", "64", "--threads", "1", "--quick", "--peer", peer])
    finally:
        mk.set_num_threads(before)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for title, columns in TABLES[family]:
        at = next(i for i, line in enumerate(lines) if line.startswith(title))
        assert lines[at + 1].startswith(columns)
        assert any(character.isdigit() for character in lines[at + 2])


def test_cuda_bench_says_why_it_does_not_run(monkeypatch):
    if mk.info()["cuda"] == "available":
        pytest.skip("there is a CUDA device")
    monkeypatch.syspath_prepend(str(BENCH))
    with pytest.raises(SystemExit, match="bench cuda: nothing to measure: "):
        importlib.import_module("bench_cuda").main(["--quick"])
