"""Sphinx configuration; `./run docs` builds the site into docs/_build/html."""

import mckean

project = "mckean"
author = "The mckean developers"
copyright = "The mckean developers"
version = release = mckean.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "figures.md"]  # figures.md is included by benchmarks.md

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the docstrings name types and shapes
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "furo"
html_title = f"mckean {version}"
html_static_path = ["_static"]
html_show_sphinx = False
