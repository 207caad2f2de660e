"""One invented run, reported once for all tests of the report."""

from pathlib import Path

import invented
import pytest

from gandid import report


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its report, in which everything is that a page can show."""
    folder = invented.write(tmp_path_factory.mktemp("runs") / "demo")
    invented.figure(folder)
    assert report.build(folder) == folder / "report.html"
    return folder
