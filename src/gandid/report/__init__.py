"""The report: a finished run as one page and some figures, from the files of its folder alone."""

from gandid.report.document import build

__all__ = ["build"]
