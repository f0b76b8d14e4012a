"""Sphinx: pages from docs/, notebooks/ and reports/, as they are committed; API from docstrings."""

from importlib.metadata import version as installed

project = "pyro_bayesprune"
author = "pyro_bayesprune's authors"
version = release = installed("pyro-bayesprune")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
]
# The source folder is the repository: so notebooks and reports are pages without being copied.
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "notebooks/*.ipynb",
    "reports/**.md",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/_build"]

nb_execution_mode = "off"  # the committed outputs are shown; a test runs the notebooks
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"  # docstrings mark names with single backquotes

html_theme = "furo"
html_title = "pyro_bayesprune"
