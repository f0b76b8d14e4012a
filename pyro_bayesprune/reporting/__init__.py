"""The HTML report of runs: analysis, flags, checklist, sections and template."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    analysis=["analyse"],
    methods=["command", "methods_text", "provenance"],
    page=["PAPER", "render", "report"],
)
