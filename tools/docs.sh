#!/bin/sh
# Builds the site into docs/_build/html, warnings being errors, and runs every example: docstrings, guides, README. Called
# by ./run docs, which puts Sphinx and pytest on PATH.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
"$python" -m sphinx -W --keep-going -q -b html docs docs/_build/html
without=
"$python" -c 'import torch' 2>/dev/null || without=--ignore=python/mckean/torch.py  # its examples need PyTorch
"$python" -m pytest -q -p no:cacheprovider --doctest-modules --doctest-glob='*.md' $without python/mckean docs
# The README shows programs rather than sessions.
"$python" - <<'PY'
import pathlib
import re

programs = re.findall(r"^```python\n(.*?)^```", pathlib.Path("README.md").read_text(), re.M | re.S)
assert programs, "README.md: no example found"
for program in programs:
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
PY
echo "docs: docs/_build/html/index.html"
