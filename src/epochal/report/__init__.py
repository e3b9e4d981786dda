"""Report: run records in, one self-contained HTML page out. No torch here.

`report.text` is also used by the command line, so the page (with matplotlib) is imported late.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from epochal.report.page import Report as Report
    from epochal.report.page import write_report as write_report

__all__ = ["Report", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from epochal.report import page

    return getattr(page, name)
