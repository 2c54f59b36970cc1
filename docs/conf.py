"""How Sphinx builds these pages: `make docs`. Sphinx, MyST and furo, because each is kept by more than one project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

project = "shardproof"
author = "the authors of shardproof"
version = release = (ROOT / "src/shardproof/version.py").read_text().partition('__version__ = "')[2].partition('"')[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # links to headings, as GitHub makes them
suppress_warnings = ["myst.header"]  # a page may begin its parts at any level, as a reader of the file sees them

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"  # docstrings have single backquotes around code

html_theme = "furo"
html_title = "shardproof"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
html_extra_path = ["gallery"]  # pages of proofs, at the root of the site, as they are


def name_links_outside(_app, _name, text):
    """Let links to files outside these pages lead to the repository."""
    text[0] = re.sub(r"\]\(\.\./([^)]+)\)", rf"]({REPOSITORY}/blob/main/\1)", text[0])


def escape_stars(_app, _what, _name, _object, _options, lines):
    """Let stars in docstrings be stars: none there marks emphasis."""
    pieces = (re.split(r"(`[^`]*`)", line) for line in lines)
    lines[:] = ["".join(one if one[:1] == "`" else one.replace("*", r"\*") for one in line) for line in pieces]


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", name_links_outside)
    app.connect("autodoc-process-docstring", escape_stars, priority=100)  # before napoleon
