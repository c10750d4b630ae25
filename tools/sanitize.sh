#!/bin/sh
# The tests under AddressSanitizer with UBSan, then under ThreadSanitizer, on a CPU-only build each (build/asan,
# build/tsan). Called by ./run sanitize, which puts Python, CMake and ninja on PATH.
#   tools/sanitize.sh [asan|tsan] [pytest arguments; default: everything that is not slow]
# Fails on a failed test and on any report. Frameworks other than NumPy are left out: their libraries are not
# instrumented.
set -eu
cd "$(dirname "$0")/.."
which="asan tsan"
case ${1:-} in
  asan | tsan) which=$1; shift ;;
esac
[ $# -gt 0 ] || set -- -m "not slow"

cxx=${CXX:-g++}
runtime() { "$cxx" -print-file-name="$1"; }

# build NAME SANITIZERS: leaves the package, as Python imports it, in build/NAME/stage
build() {
  folder=build/$1
  cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DMCKEAN_SANITIZE="$2" -DMCKEAN_CUDA=OFF \
    -Dnanobind_DIR="$(python -m nanobind --cmake_dir)" -DPython_EXECUTABLE="$(command -v python)" >/dev/null
  cmake --build "$folder"
  rm -rf "$folder/stage"
  mkdir -p "$folder/stage"
  cp -R python/mckean "$folder/stage/mckean"
  rm -f "$folder"/stage/mckean/_core*.so "$folder"/stage/mckean/_cuda*.so
  cp "$folder"/_core*.so "$folder/stage/mckean/"
  # The import hook of an editable install would win over the staged package, here and in the tests' subprocesses.
  cat > "$folder/stage/sitecustomize.py" <<'PY'
import sys
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != "ScikitBuildRedirectingFinder"]
PY
}

for name in $which; do
  case $name in
    asan)
      sanitizers=address,undefined
      # libstdc++ beside libasan, or C++ exceptions abort
      preload=$(runtime libasan.so):$(runtime libstdc++.so)
      ;;
    tsan)
      sanitizers=thread
      preload=$(runtime libtsan.so)
      ;;
  esac
  echo "sanitize: $sanitizers"
  build $name $sanitizers
  log=$PWD/build/$name/report
  rm -f "$log".*
  status=0
  stage=$PWD/build/$name/stage
  under() {
    # OpenBLAS is not instrumented: its threads would be reported.
    env LD_PRELOAD="$preload" MCKEAN_TEST_FRAMEWORKS=numpy OPENBLAS_NUM_THREADS=1 PYTHONPATH="$stage" \
      ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$log" \
      UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=$log" \
      TSAN_OPTIONS="halt_on_error=1:report_signal_unsafe=0:die_after_fork=0:log_path=$log" \
      "$@"
  }
  found=$(under python -c 'import mckean._core; print(mckean._core.__file__)')
  case $found in
    "$stage"/*) ;;
    *) echo "sanitize: testing $found, not the build in $stage"; exit 1 ;;
  esac
  # test_cuda_build.py runs compilers, which the preloaded library would break.
  under python -m pytest -p no:cacheprovider --ignore=tests/test_cuda_build.py "$@" || status=$?
  # A report in a forked child or in a subprocess of a test need not fail that test, hence the log files.
  for report in "$log".*; do
    # A test that asks for more memory than there is gets its MemoryError, and a line here.
    grep -qv 'failed to allocate' "$report" 2>/dev/null || continue
    echo "sanitize: $name: report in $report"
    cat "$report"
    status=1
  done
  if [ "$status" -ne 0 ]; then
    echo "sanitize: $name: FAILED ($status)"
    exit 1
  fi
  echo "sanitize: $name: no report"
done
