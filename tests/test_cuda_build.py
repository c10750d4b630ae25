"""The CUDA executor without a GPU: what the compiler makes of it, and import without a driver."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("cuda/*.cu"))
FLAGS = [
    *("-std=c++17", "--fmad=false", "--expt-relaxed-constexpr", "-DMK_EXECUTOR=cuda"),
    "-DMK_UNFUSED",  # without the fused operations that a source asks for by name
    *(f"-I{ROOT / 'cpp/include'}", f"-I{ROOT / 'cuda'}"),
    *("-arch=compute_90", "-ptx", "-Xcompiler=-w"),
]

nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


def ptx(source, tmp_path, *more):
    out = tmp_path / "out.ptx"
    subprocess.run(["nvcc", *FLAGS, *more, str(source), "-o", str(out)], check=True)
    return out.read_text()


@nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.name)
def test_no_fused_multiply_add(source, tmp_path):
    """One rounding where the CPU has two changes bits; so do approximate division, roots and subnormals."""
    text = ptx(source, tmp_path)
    assert ".entry" in text
    assert not re.search(r"\bfma\.rn", text)
    assert not re.search(r"\.(approx|ftz)\b", text)


@nvcc
def test_the_flag_is_what_prevents_it(tmp_path):
    """Power of the test above: nvcc's default fuses."""
    assert re.search(r"\bfma\.rn", ptx(ROOT / "cuda/random.cu", tmp_path, "--fmad=true"))


def test_cmake_gives_the_same_flag():
    assert "--fmad=false" in (ROOT / "CMakeLists.txt").read_text()
    assert "use_fast_math" not in (ROOT / "CMakeLists.txt").read_text()


def configure(tmp_path, mode):
    """CMake with no CUDA compiler in sight: a PATH of links to everything else, and nvcc's folder hidden."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in (
        "cmake",
        "ninja",
        "g++",
        "gcc",
        "c++",
        "cc",
        "as",
        "ld",
        "ar",
        "ranlib",
        "nm",
        "strip",
        "uname",
    ):
        if found := shutil.which(name):
            (path / name).symlink_to(found)
    env = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDA_PATH", "CUDA_HOME")}
    nanobind = subprocess.run(
        [sys.executable, "-m", "nanobind", "--cmake_dir"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return subprocess.run(
        [
            *("cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), "-G", "Ninja"),
            *(
                f"-DMCKEAN_CUDA={mode}",
                f"-Dnanobind_DIR={nanobind}",
                f"-DPython_EXECUTABLE={sys.executable}",
            ),
        ],
        env={**env, "PATH": str(path)},
        capture_output=True,
        text=True,
    )


needs_cmake = pytest.mark.skipif(
    not all(map(shutil.which, ("cmake", "ninja", "g++"))) or not (ROOT / "CMakeLists.txt").exists(),
    reason="cmake, ninja or g++ is not on PATH",
)


@needs_cmake
def test_auto_goes_on_without_nvcc(tmp_path):
    pytest.importorskip("nanobind")
    done = configure(tmp_path, "AUTO")
    assert done.returncode == 0, done.stderr
    assert "no CUDA compiler, building the CPU executor only" in done.stdout


@needs_cmake
def test_on_fails_without_nvcc(tmp_path):
    pytest.importorskip("nanobind")
    done = configure(tmp_path, "ON")
    assert done.returncode != 0
    assert "MCKEAN_CUDA=ON but no CUDA compiler was found" in done.stderr


def test_module_imports_without_a_driver():
    """A process that sees no device can still ask why."""
    cuda = pytest.importorskip("mckean._cuda")
    if any(d["name"].startswith("kernels run on the host") for d in cuda.devices()):
        pytest.skip("kernels run on the host here")
    code = (
        "import mckean as mk\n"
        "from mckean import _cuda\n"
        "assert _cuda.device_status() and _cuda.devices() == []\n"
        "assert mk.info()['cuda'] == _cuda.device_status()\n"
        "for f in (lambda: mk.random.normal(1, 3, device='cuda'),\n"
        "          lambda: mk.BrownianTree(1, (3, 1), device='cuda:1')):\n"
        "    try:\n"
        "        f()\n"
        "    except mk.DeviceError as error:\n"
        "        assert _cuda.device_status() in str(error)\n"
        "    else:\n"
        "        raise AssertionError\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, check=True
    )


def test_sizes_are_checked_before_anything_is_allocated():
    cuda = pytest.importorskip("mckean._cuda")
    for shape in ([2**40, 2**40], [2**63 - 1, 2], [2**61, 1], [2**62 + 1, 4]):
        with pytest.raises(ValueError, match="shape: too large"):
            cuda.empty(shape, "float64")
    with pytest.raises(TypeError, match="dtype: expected float32"):
        cuda.empty([1], "float16")
