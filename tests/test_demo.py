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
