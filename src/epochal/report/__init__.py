"""Report: run records in, one self-contained HTML page out. No torch here."""

from epochal.report.page import Report, write_report

__all__ = ["Report", "write_report"]
