"""What all tests share: determinism, and the browser tests' condition."""

import os
import shutil

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")

# Derandomized: a test that fails, fails for everybody and every time.
settings.register_profile(
    "gandid", derandomize=True, deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gandid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests where there is no browser; in CI their absence is a failure, not a skip."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not missing or os.environ.get("CI") == "true":
        return
    skip = pytest.mark.skip(reason=f"needs Debian's {' and '.join(missing)}: apt-get install chromium chromium-driver")
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(skip)
