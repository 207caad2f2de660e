"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gandid.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

# Columns of text in a run's tables; all others are of numbers.
TEXT = (
    *("target", "object", "outcome", "control", "held", "contrast", "arm", "kind", "site", "segmenter"),
    *("check", "verdict", "detail", "type"),
)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file or folder to write beside `path`, with its suffix, which takes its place only when it is whole."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield aside
        if aside.is_dir():
            remove(path)  # a folder takes no other's place; whoever is killed here has neither, and writes it again
        aside.replace(path)
    finally:
        with suppress(OSError):  # what went wrong before is to be told; who opens a run removes what is left here
            remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_aside(name: str) -> bool:
    """Whether a file's name is one that `replacing` gives: where it remains, its process was killed."""
    return re.fullmatch(r"\.\d+-.+", name) is not None


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a run as it was written.

    A class may be called `NA`, `None` or `7`, or have no name at all: columns of `TEXT` are read as text, letter by letter, and in the
    others only an empty field is missing.
    """
    import pandas as pd  # not all who write files need it

    text: dict[Any, Any] = dict.fromkeys(TEXT, str)
    table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    known = [name for name in TEXT if name in table]
    return table.assign(**table[known].astype(object).fillna(""))


def write_safetensors(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> Path:
    """Write tensors, and what is to be known of them in the metadata's entry `gandid`; returns `path`."""
    from safetensors.torch import save_file  # brings PyTorch, which not all who write files need

    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as aside:
        # One entry: the order of several differs from save to save, and with it the file's hash.
        save_file(weights, aside, metadata={"gandid": json.dumps(about)})
    return path


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training: tensors and plain containers."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as aside:
        torch.save(dict(state), aside)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; no code is executed. Raises `UsageError` if the file is something else."""
    import torch

    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UsageError(f"{path} is not a checkpoint of this program: move it away to start anew") from error


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give what `write_safetensors` was told of the tensors ({} in files of others), and the tensors.

    Raises
    ------
    UsageError
        If the file is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        about = json.loads(metadata.get("gandid", "{}"))
    except (ValueError, RecursionError):
        about = None
    return (about if isinstance(about, dict) else {}), weights
