"""The paper's Table 1 and figures, made from a store of runs."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    drawing=["figures"],
    table=["as_html", "csv", "markdown", "notes", "one_variant", "paper_table1", "table1"],
)
