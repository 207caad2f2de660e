"""The folder of a run: whose it is, who writes in it, and what lies in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import xarray as xr
import yaml
from torch import nn

from gandid import did
from gandid.did import evidence, stopping
from gandid.errors import UsageError
from gandid.files import is_aside, remove, replacing
from gandid.relation import types
from gandid.studies.config import StudyConfig
from gandid.studies.store import explained, read_panel, verified, write_dataset

LOCK = ".lock"
RANKING = ".ranking"  # what a ranking that is under way has done, see `gandid.relation.relate`
Finish = Callable[[Path, did.Effects], Any]  # what is done with a run once its effects are there: its report, say
FOLLOWS = ("effects.csv", "checks.csv", "examples.npz")  # from the panel
EVIDENCE = (
    "dose",
    "shapley",
    "placebos",
    "second",
    "sensitivity",
    "twins",
)  # tables that follow, too, where there is any
TYPES = "types.csv"  # follows from the panel and the relation, where there is one
IN_MEMORY = 2**23  # bytes up to which a panel is read at once; a larger one is read where it is used
MAY_DIFFER = (
    "resolved",
    "command",
    "chosen",
    "latents",
    "until",
    "max_latents",
    "images_per_second",
    "figure",
    "sites",
    "dose",
    "placebos",
    "second_segmenter",
    "types",
)  # between runs that are one study


def fingerprint(network: object) -> str:
    """SHA-256 of a network's weights, names and shapes included, and of its `settings` where it has any."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    if isinstance(network, nn.Module):
        for name, value in sorted(network.state_dict().items()):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{name}{array.shape}{array.dtype}".encode() + array.tobytes())
    digest.update(repr(getattr(network, "settings", "")).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of what computes: gandid and PyTorch."""
    return {name: version(name) for name in ("gandid", "torch")}


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run with a panel, finished or not."""
    return (folder / "config.yaml").is_file() and (folder / "panel.zarr").is_dir()


def is_finished(folder: Path) -> bool:
    """Whether a run was finished: what follows from its panel is there too."""
    return is_run(folder) and all((folder / name).is_file() for name in FOLLOWS)


def remove_rankings(folder: Path) -> None:
    """Remove what was kept of rankings to go on with."""
    for left in folder.glob(f"{RANKING}*"):
        left.unlink(missing_ok=True)


def remove_estimates(folder: Path) -> None:
    """Remove what follows from a panel that is about to change."""
    with explained(folder):
        for name in (*FOLLOWS, *(f"{name}.csv" for name in EVIDENCE), TYPES):
            (folder / name).unlink(missing_ok=True)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, with what was resolved."""
    return yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a run, whole or not at all."""
    with _replacing(folder / "config.yaml") as aside:
        aside.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def open_panel(folder: Path) -> xr.Dataset:
    """The panel of a run as far as it goes, in memory if it is small; raises `UsageError` if the folder holds none."""
    if not is_run(folder):
        raise UsageError(f"{folder} is not a run: it should hold config.yaml and panel.zarr")
    panel = read_panel(folder / "panel.zarr")
    if panel.nbytes > IN_MEMORY:
        return panel
    with verified(folder / "panel.zarr"):
        return panel.load()


@contextmanager
def writing(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """Take a run folder for this study, new or to be continued: nobody else may write in it meanwhile.

    Raises
    ------
    UsageError
        If something else is there, or another process writes in it.
    GandidError
        If the folder cannot be made.
    """
    with explained(folder):
        if folder.exists() and (not folder.is_dir() or (_contents(folder) and not (folder / "config.yaml").is_file())):
            raise UsageError(f"{folder} exists and is not a run: choose another --out, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / LOCK, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise UsageError(f"another process is writing in {folder}: wait for it, or choose another --out") from None
    try:
        for left in [entry for entry in folder.iterdir() if is_aside(entry.name)]:
            remove(left)
        if (folder / "config.yaml").is_file():
            check_same(folder, config)
        yield
    finally:
        if folder.is_dir() and not _contents(folder):  # nothing came of it
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
        lock.release()


def check_same(folder: Path, config: dict[str, Any]) -> None:
    """Raise `UsageError` unless the run in `folder` is of the study `config`, with as many latents or fewer."""
    ours = yaml.safe_load(yaml.safe_dump(config))  # as it would read once written
    theirs = read_config(folder)
    told = differences(theirs, ours)
    if told:
        raise UsageError(f"{folder} holds another study ({told}): choose another --out, or remove it")
    more = theirs["latents"] - ours["max_latents" if ours.get("until") else "latents"]
    if more > 0 or (more and ours.get("chunk")):
        asked = "allow" if ours.get("until") else "ask for"
        raise UsageError(
            f"{folder} holds a study of {theirs['latents']} latents: {asked} as many{'' if ours.get('chunk') else ' or more'}"
        )


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In words, what keeps two configurations from being one study; empty if nothing does."""
    usual = StudyConfig().model_dump(mode="json")  # of a run that was made before a setting was there
    flat = [{**usual, **config, **config.get("resolved", {})} for config in (theirs, ours)]
    keys = sorted(set(flat[0]) | set(flat[1]))
    different = [key for key in keys if key not in MAY_DIFFER and flat[0].get(key) != flat[1].get(key)]
    return ", ".join(f"{key} {flat[0].get(key)} there, {flat[1].get(key)} here" for key in different[:3])


def _contents(folder: Path) -> list[Path]:
    """What lies in a folder, without what a writer that was killed may have left."""
    return [entry for entry in folder.iterdir() if entry.name != LOCK and not is_aside(entry.name)]


def write_relation(folder: Path, relation: xr.Dataset) -> None:
    """Write `relation.zarr`, and its measures as `relation.csv`; see docs/relation.md."""
    write_dataset(folder / "relation.zarr", relation)
    with _replacing(folder / "relation.csv") as aside:
        write_measures(aside, relation)


def write_measures(path: Path, relation: xr.Dataset) -> None:
    """Write a CSV with one row per unit and class."""
    measures = relation[["ace", "ace_se", "iou", "energy", "exact"]]
    measures.to_dataframe(["unit", "object"]).reset_index().to_csv(path, index=False)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table with its index as CSV."""
    with _replacing(path) as aside:
        table.to_csv(aside)


def write_examples(folder: Path, examples: dict[str, np.ndarray]) -> None:
    """Write `examples.npz`."""
    with _replacing(folder / "examples.npz") as aside, aside.open("wb") as file:
        np.savez_compressed(file, **examples)  # type: ignore[arg-type]


def read_relation(folder: Path) -> xr.Dataset | None:
    """The relation of a run, its variables read when they are used; None where all units were named by the user."""
    return read_panel(folder / "relation.zarr") if (folder / "relation.zarr").is_dir() else None


def write_estimates(folder: Path, panel: xr.Dataset) -> did.Effects:
    """Write what follows from the panel, `types.csv`, `effects.csv` and `checks.csv`, and return the effects."""
    _write_types(folder, panel)  # first: it need not be there, so that it cannot tell whether a run was finished
    effects = estimates(folder, panel)
    for name, table in effects.evidence.items():
        with _replacing(folder / f"{name}.csv") as aside:
            table.to_csv(aside, index=False)
    with _replacing(folder / "effects.csv") as aside:
        effects.to_frame().to_csv(aside, index=False)
    with _replacing(folder / "checks.csv") as aside:
        effects.checks.to_csv(aside, index=False)
    return effects


def estimates(folder: Path, panel: xr.Dataset) -> did.Effects:
    """The effects of a run's panel, with what its other stores say of them."""
    return did.weigh(did.estimate(panel), panel, evidence.stores(folder))


def revise(folder: Path, config: dict[str, Any], panel: xr.Dataset, *, anew: bool) -> did.Effects:
    """Bring a finished run up to what may be asked of it anew: its figure, its variants, and the bounds of the types.

    `anew` says whether there are stores that its estimates do not know yet.
    """
    there = read_config(folder)
    asked = {key: config[key] for key in ("figure", "sites", "dose", "placebos", "second_segmenter", "types")}
    if there.get("types") != asked["types"]:
        (folder / TYPES).unlink(missing_ok=True)
    # What was measured before stays, and stays said.
    kept = {key: asked[key] or there.get(key) for key in asked}
    if config["until"] is not None:
        kept |= {key: config[key] for key in ("until", "max_latents")}
    if {key: there.get(key) for key in kept} != kept:
        write_config(folder, there | kept)
    if anew:
        return write_estimates(folder, panel)
    if not (folder / TYPES).is_file():
        _write_types(folder, panel)
    return estimates(folder, panel)


def stopping_in_words(folder: Path) -> list[str]:
    """Why a run that was to go on until it is precise enough stopped where it did; nothing of another run."""
    told = stopping.explain(open_panel(folder), read_config(folder))
    return [told] if told else []


def types_in_words(folder: Path) -> list[str]:
    """The rule of a run's types, and a sentence per target; nothing where the run has none."""
    if not (folder / TYPES).is_file():
        return []
    frame = pd.read_csv(folder / TYPES)
    edited = (read_panel(folder / "panel.zarr")["units"] >= 0).sum("rank")
    units = dict(zip(map(str, edited["target"].values), map(int, edited.values), strict=True))
    return [types.rule(frame), *types.sentences(frame, units)] if len(frame) else []


def _write_types(folder: Path, panel: xr.Dataset) -> None:
    relation = read_relation(folder)
    if relation is None or "drop" not in relation:
        return
    bounds = StudyConfig.check(types=read_config(folder).get("types", {})).types
    with _replacing(folder / TYPES) as aside, verified(folder):
        types.types(panel, relation, bounds).to_csv(aside, index=False)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `replacing`, and what the file system may raise as one line."""
    with explained(path), replacing(path) as aside:
        yield aside
