"""The HTML report: one file that opens offline and says what was claimed, and on what grounds."""

from strop.report.notebook import Picture, plot, summary
from strop.report.page import Section, write

__all__ = ["Picture", "Section", "plot", "summary", "write"]
