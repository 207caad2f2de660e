"""The report of a finished run: one self-contained HTML page, and its figures as files."""

from gandid.report.page import build

__all__ = ["build"]
