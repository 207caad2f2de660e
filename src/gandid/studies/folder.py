"""The folder of a run: written whole or not at all, never over something else."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from torch import nn

from gandid import did
from gandid.errors import GandidError, UsageError


def fingerprint(network: object) -> str:
    """SHA-256 of a network's weights, names and shapes included; of the type's name where it has no weights."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    if isinstance(network, nn.Module):
        for name, value in sorted(network.state_dict().items()):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def is_run(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    return (folder / "config.yaml").is_file() and (folder / "panel.zarr").is_dir()


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a finished run, with what was resolved."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def open_panel(folder: Path) -> xr.Dataset:
    """The panel of a finished run, in memory. Raises `UsageError` if the folder holds none."""
    if not is_run(folder):
        raise UsageError(f"{folder} is not a run: it should hold config.yaml and panel.zarr")
    with xr.open_zarr(folder / "panel.zarr") as panel:
        return panel.load()


def holds_same(folder: Path, config: dict[str, Any]) -> bool:
    """Whether `folder` already holds this very study.

    False if it is absent or empty. Raises `UsageError` if anything else is there: it is never overwritten.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir() or not is_run(folder):
        raise UsageError(f"{folder} exists and is not a run: choose another --out, or remove it")
    theirs = _comparable(read_config(folder))
    ours = _comparable(yaml.safe_load(yaml.safe_dump(config)))
    different = [key for key in sorted(theirs | ours) if theirs.get(key) != ours.get(key)]
    if different:
        told = ", ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in different[:3])
        raise UsageError(f"{folder} holds another study ({told}): choose another --out, or remove it")
    return True


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    flat = {**config, **config.get("resolved", {})}
    return {key: value for key, value in flat.items() if key not in ("resolved", "command", "chosen")}


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Give a folder to write a run into; it takes its place only when everything is written."""
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise GandidError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        yield aside
        aside.chmod(0o755)
        if folder.exists():
            folder.rmdir()  # only ever an empty one, see `holds_same`
        aside.rename(folder)
    except OSError as error:
        raise GandidError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_parts(
    folder: Path,
    config: dict[str, Any],
    panel: xr.Dataset,
    relation: xr.Dataset | None,
    examples: dict[str, np.ndarray],
) -> None:
    """Write what a study measured and what follows from it."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    # Format 2: the third has no settled encoding of strings yet.
    panel.to_zarr(folder / "panel.zarr", mode="w", zarr_format=2)
    if relation is not None:
        relation.to_dataframe().reset_index().to_csv(folder / "relation.csv", index=False)
    write_estimates(folder, panel)
    np.savez_compressed(folder / "examples.npz", **examples)  # type: ignore[arg-type]


def write_estimates(folder: Path, panel: xr.Dataset) -> None:
    """Write what follows from the panel alone: `effects.csv` and `checks.csv`."""
    effects = did.estimate(panel)
    effects.to_frame().to_csv(folder / "effects.csv", index=False)
    effects.checks.to_csv(folder / "checks.csv", index=False)


def package_version() -> str:
    """The version of gandid."""
    return version("gandid")
