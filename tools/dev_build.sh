#!/bin/sh
# Builds the native modules into python/mckean/ with the interpreter given (default: python), without installing anything.
# Then: PYTHONPATH=python python -m pytest tests
set -eu
cd "$(dirname "$0")/.."
python=${1:-python}
[ $# -gt 0 ] && shift
build=build/dev
cmake -S . -B "$build" -G Ninja -DMCKEAN_CUDA=OFF -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" \
  -DPython_EXECUTABLE="$(command -v "$python")" "$@" >/dev/null
rm -f "$build"/_c*.so   # one of an earlier build with CUDA must not be taken for this one's
cmake --build "$build"
rm -f python/mckean/_core*.so python/mckean/_cuda*.so
cp "$build"/_c*.so python/mckean/
