"""Sphinx: pages from docs/, notebooks/ and reports/, as they are committed; API from docstrings."""

from importlib.metadata import version as installed

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

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
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"  # docstrings mark names with single backquotes

html_theme = "furo"
html_title = "pyro_bayesprune"
html_extra_path = ["redirect"]  # index.html leads to docs/index.html
html_math_renderer = "mathml"


def _spaced(formula: str) -> str:
    """Put a thin space between a logarithm and its argument, as LaTeX does."""
    return formula.replace("\\log", "\\log\\,")


def _inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(convert(_spaced(node.astext())))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(convert(_spaced(node.astext()), display="block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers display without a script and without network."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
