"""One invented run, reported once for all tests of the report."""

from pathlib import Path

import invented
import pytest

from gandid import report


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with its report: one target whose frozen arm is out of support, one in no image."""
    folder = invented.write(tmp_path_factory.mktemp("runs") / "demo", ("window", "mirror"), latents=80)
    assert report.build(folder) == folder / "report.html"
    return folder
