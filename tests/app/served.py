"""The page as a process of its own, as `gandid app` starts it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "gandid"]


@dataclass
class Served:
    """The page of `gandid app`, as a process."""

    process: subprocess.Popen[str]
    address: str
    """Without the token."""
    token: str
    runs: Path

    def at(self, query: str = "") -> str:
        """What one opens: the address with its token, and with a query."""
        return f"{self.address}?token={self.token}" + (f"&{query.lstrip('?')}" if query else "")


def serve(runs: Path, *options: str) -> Served:
    """Start `gandid app` on a free port and wait until it answers."""
    # Wide enough that no line is wrapped; a quick shutdown is part of what is tested.
    command = [*COMMAND, "app", "--runs", str(runs), "--no-browser", "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            address, _, token = line.split()[4].partition("?token=")
            return Served(process, address, token, runs)
    raise AssertionError(f"gandid app ended with status {process.wait()}")
