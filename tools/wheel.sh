#!/bin/sh
# Builds a wheel into wheelhouse/ and tests it as a user without a compiler would, then on emulated older processors (where
# qemu-x86_64 is installed; Debian: apt-get install qemu-user). Called by ./run wheel.
set -eu
cd "$(dirname "$0")/.."
venv=build/wheel-venv

rm -rf build/wheel-dist "$venv"
python -m pip wheel . --no-deps -q --disable-pip-version-check -w build/wheel-dist \
  -Ccmake.define.MCKEAN_CUDA="${MCKEAN_CUDA:-AUTO}"
wheel=$(ls build/wheel-dist/*.whl)
auditwheel show "$wheel"
mkdir -p wheelhouse
rm -f wheelhouse/mckean-*.whl
auditwheel repair -w wheelhouse "$wheel"
wheel=$(ls wheelhouse/mckean-*.whl)
ls -l "$wheel"

python -m venv "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check "$wheel"
python=$PWD/$venv/bin/python

# The bits of the random numbers and of a tree, whatever the processor.
digest='
import hashlib, sys
import numpy as np
import mckean as mk
sha = hashlib.sha256()
for dtype in ("float32", "float64"):
    sha.update(mk.random.normal(7, 4099, dtype=dtype).tobytes())
    for area in ("none", "space-time", "space-time-time"):
        tree = mk.BrownianTree(7, (37, 3), levy_area=area, dtype=dtype)
        for s, t in ((0.0, 1.0), (0.1, 0.7), (0.3001, 0.3002)):
            for part in tree.increment(s, t)[1:]:
                sha.update(b"" if part is None else part.tobytes())
        sha.update(tree.increments(np.linspace(0.0, 1.0, 41)).W.tobytes())
print(sha.hexdigest(), mk.info()["simd"])
'
# bare COMMAND...: outside the source tree, nothing but this environment on PATH
bare() { (cd "$venv" && env -i PATH="$(dirname "$python")" HOME="$HOME" "$@"); }

if bare sh -c 'command -v g++ cc cmake' >/dev/null 2>&1; then
  echo "wheel: a compiler is on PATH where none should be"
  exit 1
fi
bare "$python" -c 'import mckean as mk; print(mk.info())'
native=$(bare "$python" -c "$digest")
echo "wheel: native: $native"

if ! qemu=$(command -v qemu-x86_64) || [ "$(uname -m)" != x86_64 ]; then
  echo "wheel: no qemu-x86_64 (or not an x86-64 machine): older processors not tested"
  exit 0
fi
for pair in Nehalem:baseline Haswell:avx2; do
  cpu=${pair%:*} level=${pair#*:}
  # The emulator warns of features it lacks; only a failure makes that worth reading.
  emulated=$(bare "$qemu" -cpu "$cpu" "$python" -c "$digest" 2>"$venv/emulator.log") || { cat "$venv/emulator.log"; exit 1; }
  echo "wheel: $cpu: $emulated"
  if [ "$emulated" != "${native% *} $level" ]; then
    echo "wheel: FAILED on $cpu: expected ${native% *} $level"
    exit 1
  fi
done
echo "wheel: same bits on every processor"
