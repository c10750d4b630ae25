#!/bin/sh
# Every static check, each reported with what mends it. Called by ./run lint, which puts the tools on PATH.
set -u
cd "$(dirname "$0")/.."
failed=

# check NAME HINT COMMAND...
check() {
  name=$1 hint=$2
  shift 2
  if out=$("$@" 2>&1); then
    echo "lint: $name: ok"
  else
    printf '%s\n' "$out"
    echo "lint: $name: FAILED; to mend: $hint"
    failed="$failed $name"
  fi
}

native_files() {
  find cpp cuda tools \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | sort
}

native_format() {
  # shellcheck disable=SC2046  # names without spaces
  out=$(clang-format --dry-run --Werror $(native_files) 2>&1) && return 0
  printf '%s\n' "$out" | sed -n 's/^\([^ :]*\):[0-9]*:[0-9]*: error.*/\1/p' | sort -u
  return 1
}

# An out-of-line copy of an inline function in an object built for AVX2 or AVX-512 may be the one the linker keeps for
# everybody: older machines would then die by SIGILL.
weak_symbols() {
  build=
  for folder in build/editable build/dev; do
    [ -d "$folder" ] && build=$folder && break
  done
  [ -n "$build" ] || { echo "no native build in build/editable or build/dev"; return 1; }
  objects=$(find "$build" \( -path '*/mckean_avx2.dir/*' -o -path '*/mckean_avx512.dir/*' \) -name '*.o')
  if [ -z "$objects" ]; then
    case $(uname -m) in
      x86_64) echo "no objects for AVX2 and AVX-512 in $build"; return 1 ;;
      *) return 0 ;;
    esac
  fi
  found=0
  for object in $objects; do
    if nm -C "$object" | grep -E ' [WVu] '; then
      echo "  in $object"
      found=1
    fi
  done
  return $found
}

check "ruff check" "ruff check --fix, then by hand" ruff check .
check "ruff format" "ruff format" ruff format --check .
check "mypy" "by hand" mypy
check "clang-format" "clang-format -i the files named above" native_format
check "end of file" "tools/end_of_file.sh FILE..." tools/end_of_file.sh --check
check "weak symbols" "mark the function MK_HD, or keep std:: out of *_isa.cpp" weak_symbols
check "stubs" "tools/stubs.sh" tools/stubs.sh --check

if [ -n "$failed" ]; then
  echo "lint: failed:$failed"
  exit 1
fi
echo "lint: all good"
