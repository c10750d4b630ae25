import numpy as np
import pytest

from mckean.__main__ import main


def test_transport_exchanges_colours_and_morphs_digits(tmp_path, capsys):
    for module in ("sklearn", "matplotlib", "PIL"):
        pytest.importorskip(module)
    from PIL import Image

    assert main(["demo", "transport", "--pixels", "300", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("china to flower", "flower to china"):
        line = next(line for line in lines if line.startswith(name))
        before, after, _ = (float(word) for word in line.split()[-3:])
        assert after < 0.1 * before
    for name in ("0 to 1", "3 to 8"):
        line = next(line for line in lines if line.startswith(name))
        assert float(line.split()[-2]) <= 1e-6
    picture = np.asarray(Image.open(tmp_path / "transport.png"))
    assert picture.shape[0] > 500 and picture.std() > 10


def test_demo_rejects_too_few_pixels(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "transport", "--pixels", "10"])
    assert "at least 100 pixels" in capsys.readouterr().err


def test_a_morph_starts_and_ends_at_its_digits():
    pytest.importorskip("sklearn")
    from mckean._demos import transport

    frames, result = transport._morph(3, 8)
    assert result.converged
    for frame, label in ((frames[0], 3), (frames[-1], 8)):
        known = transport._drawn(*transport._digit(label))
        assert np.abs(frame - known).sum() < 1e-3 * known.sum()
    mass = [frame.sum() for frame in frames]
    assert np.ptp(mass) < 0.02 * mass[0]


def test_hessian_of_a_network_has_a_bulk_and_outliers(tmp_path, capsys):
    for module in ("sklearn", "matplotlib"):
        pytest.importorskip(module)
    assert main(["demo", "hessian", "--steps", "20", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1210 parameters" in out and "bulk ends" in out and "below a batch of" in out
    lines = [line.split() for line in out.splitlines()]
    first, last = (next(line for line in lines if line[:1] == [step]) for step in ("0", "20"))
    assert float(last[1]) < 0.7 * float(first[1])  # the loss
    assert (tmp_path / "hessian.png").stat().st_size > 10_000


def test_demo_rejects_too_short_a_training(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "hessian", "--steps", "2"])
    assert "at least 5 steps" in capsys.readouterr().err


def test_network_of_the_demo_has_the_hessian_it_says():
    """Against differences, and the leading eigenvalues against those of the dense matrix."""
    pytest.importorskip("sklearn")
    import mckean as mk
    from mckean._demos import hessian

    images, labels = hessian._data()
    net = hessian.Network(images[:100, :20], labels[:100], (20, 5, 10))
    theta, v = net.start(1), mk.random.normal(2, net.d)
    h = 1e-5
    slope = (net.loss(theta + h * v) - net.loss(theta - h * v)) / (2 * h)
    assert net.gradient(theta) @ v == pytest.approx(slope, rel=1e-7)
    H = net.hessian(theta)
    change = (net.gradient(theta + h * v) - net.gradient(theta - h * v)) / (2 * h)
    assert np.linalg.norm(H(v) - change) < 1e-7 * np.linalg.norm(change)
    known = np.linalg.eigvalsh(np.stack([H(e) for e in np.eye(net.d)]))[::-1]
    top = mk.lowrank.lanczos(H, net.d, 10)
    np.testing.assert_allclose(top.s, known[:10], rtol=1e-6)
    part = net.hessian(theta, np.arange(10))(v)
    assert np.linalg.norm(part - H(v)) > 0.1 * np.linalg.norm(part)


def test_posterior_by_constant_and_by_adaptive_steps(tmp_path, capsys):
    for module in ("sklearn", "matplotlib", "arviz"):
        pytest.importorskip(module)
    arguments = ["demo", "--chains", "60", "--steps", "900", "--output", str(tmp_path)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.startswith("step size"))
    wide, later = (float(word) for word in line.replace(",", "").split() if word[:2] == "0.")
    assert wide < later < 1.0
    line = next(line for line in lines if line.startswith("against constant steps"))
    assert float(line.split()[5].rstrip(",")) < 0.3
    assert (tmp_path / "posterior.png").stat().st_size > 10_000
