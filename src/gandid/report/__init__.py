"""The report: a finished run as one page and some figures, from the files of its folder alone."""

from gandid.report.page import build

__all__ = ["build"]
