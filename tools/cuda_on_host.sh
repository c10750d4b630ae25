#!/bin/sh
# The tests of the CUDA executor on a machine without a GPU: its sources are compiled for the host, kernels run as loops
# (tests/cuda_on_host). This checks indices, edges, bindings and bits of the formulas, not the device or its compiler.
#   tools/cuda_on_host.sh [pytest arguments; default: tests/test_cuda.py]
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
folder=build/cuda_on_host
cmake -S . -B $folder -G Ninja -DMCKEAN_CUDA=HOST -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" \
  -DPython_EXECUTABLE="$(command -v "$python")" >/dev/null
cmake --build $folder
rm -rf $folder/stage
mkdir -p $folder/stage
cp -R python/mckean $folder/stage/mckean
rm -f $folder/stage/mckean/_c*.so
cp $folder/_c*.so $folder/stage/mckean/
[ $# -gt 0 ] || set -- tests/test_cuda.py
# An editable install of mckean would shadow the staged package by its import hook: drop the hook.
MCKEAN_STAGE=$PWD/$folder/stage PYTHONPATH=$PWD/$folder/stage exec "$python" -c '
import os, sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
sys.path.insert(0, os.environ["MCKEAN_STAGE"])
import pytest
sys.exit(pytest.main(sys.argv[1:]))
' -p no:cacheprovider "$@"
