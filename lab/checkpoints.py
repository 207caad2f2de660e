"""The state of a training on disk: whole or absent, never half-written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from gandid.errors import UsageError
from gandid.files import replacing


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path` and rename it into place, so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        torch.save(state, aside)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors and plain containers only, no code is executed.

    Raises
    ------
    UsageError
        If the file is something else.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UsageError(f"{path} is not a checkpoint of this program: move it away to start anew") from error
