"""The report: facts of a store, pictures and cards made of them, sections, one page."""

from atlasnmf.plots.report.page import write_report

__all__ = ["write_report"]
