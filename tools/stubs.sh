#!/bin/sh
# Writes the type stubs of the native modules into python/mckean/, or with --check compares them with fresh ones. The
# CUDA module is left out where it was not built.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
status=0
for module in _core _cuda; do
  stub=python/mckean/$module.pyi
  if ! "$python" -c "import mckean.$module" 2>"$fresh/why"; then
    [ $module = _cuda ] && continue
    cat "$fresh/why" >&2
    exit 1
  fi
  "$python" -m nanobind.stubgen -q -m mckean.$module -o "$fresh/$module.pyi"
  if [ "${1:-}" != --check ]; then
    cp "$fresh/$module.pyi" "$stub"
  elif ! diff -u "$stub" "$fresh/$module.pyi"; then
    echo "$stub is not what the module says"
    status=1
  fi
done
exit $status
