"""The folder of a run: whose it is, who writes in it, what lies in it, and joining several of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import xarray as xr
import yaml

from gandid.config import StudyConfig
from gandid.errors import UsageError, first_line
from gandid.estimation import Effects, did, read_effects
from gandid.estimation.halves import ranking
from gandid.estimation.types import types
from gandid.files import is_aside, remove, replacing
from gandid.generators import NAMED
from gandid.panel.schema import blocks_of
from gandid.panel.store import (
    LATENTS_PER_CHUNK,
    PanelStore,
    explained,
    read_counts,
    read_dataset,
    read_panel,
    verified,
    write_dataset,
)
from gandid.panel.table import DISTANCE, LATENTS
from gandid.segmenters import confusion
from gandid.verdicts import RELEVANT

LOCK = ".lock"
RANKING = ".ranking"  # what a ranking that is under way has done, see `gandid.ranking.relate`
FIGURE = ("after.zarr", "insertion.zarr")
FOLLOWS = ("effects.csv", "checks.csv", "examples.npz")  # from the panel
TYPES = "types.csv"  # follows from the panel and the relation, where there is one
IN_MEMORY = 2**23  # bytes up to which a panel is read at once; a larger one is read where it is used
EXTENDS = ("figure", "sites", "dose", "strength", "placebos", "halvings", "second_segmenter")  # of a finished run
# Between runs that are one study.
MAY_DIFFER = ("resolved", "latents", "until", "max_latents", "relevant", "types", *EXTENDS)
NOT_RESOLVED = ("command", "chosen", "images_per_second", "stopped")  # nor these of what was resolved

Finish = Callable[[Path], Any]  # what is done with a run's folder once its effects are there: its report


def fingerprint(network: Any) -> str:
    """SHA-256 of a network's weights, names and shapes included, and of its `settings` where it has any."""
    import torch  # those who only read runs do without

    digest = hashlib.sha256(type(network).__qualname__.encode())
    if hasattr(network, "state_dict"):
        for name, value in sorted(network.state_dict().items()):
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest.update(
                f"{name}{tuple(value.shape)}{str(value.dtype).removeprefix('torch.')}".encode() + raw.tobytes()
            )
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


def unfinished(folder: Path, panel: xr.Dataset) -> str:
    """In words, what a run still lacks of what it was asked for; empty if it is finished. `panel` is its own, of which no count is read."""
    config, measured = read_config(folder), panel["measured"].values[0]
    rows, asked = int(measured[0]), config.get("latents")
    if asked is not None:
        wanted = len(StudyConfig(latents=asked, chunk=config.get("chunk")).numbers())
        if rows < wanted:
            return f"{rows:,} of {wanted:,} images are measured"
    least = [min(LATENTS[str(block)] or rows, rows) for block in panel["block"].values]
    if short := int((measured < least).sum()):
        return f"{short:,} of {len(least):,} arms are not measured"
    if DISTANCE not in panel["block"].values:
        return "the distance of the held images from the live ones, and so their range, is not measured"
    if config.get("until") and "stopped" not in config.get("resolved", {}):
        return f"{rows:,} images may not be as many as the precision asked for takes"
    return ""


def has_figure(folder: Path) -> bool:
    """Whether a run has what its figure shows beside the effects."""
    return all((folder / name).is_dir() for name in FIGURE)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run, with what was resolved.

    Raises
    ------
    UsageError
        If it is damaged or cut short (what was resolved comes last), or the run was made by gandid 0.1.
    """
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"'{path}' cannot be read ({first_line(error)})") from error
    if isinstance(config, dict) and "precision" in config:
        raise UsageError(f"{folder} was made by gandid 0.1: run the study again, in another folder")
    if not (isinstance(config, dict) and isinstance(config.get("resolved"), dict)):
        raise UsageError(f"'{path}' is damaged or cut short: copy the whole run again")
    return config


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration of a run, whole or not at all."""
    with written(folder / "config.yaml") as aside:
        aside.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")


def open_panel(folder: str | Path) -> xr.Dataset:
    """The panel of a run as far as it goes, in memory if it is small; raises `UsageError` if the folder holds none."""
    folder = Path(folder)
    if not is_run(folder):
        raise UsageError(f"{folder} is not a run: it should hold config.yaml and panel.zarr")
    panel = read_panel(folder / "panel.zarr")
    if panel.nbytes > IN_MEMORY:
        return panel
    for segmenter in range(panel.sizes["segmenter"]):
        for name in ("pixels", "inside"):
            read_counts(panel, name, slice(0, panel.sizes["latent"]), segmenter=segmenter)
    with verified(folder / "panel.zarr"):
        return panel.load()


@contextmanager
def writing(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Take a run folder for a study, new or to be continued: nobody else may write in it meanwhile.

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


def check_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise `UsageError` unless the run in `folder` is of the study `config`, with as many latents or fewer."""
    ours = yaml.safe_load(yaml.safe_dump(dict(config)))  # as it would read once written
    theirs = read_config(folder)
    difference = differences(theirs, ours)
    if difference:
        raise UsageError(f"{folder} holds another study ({difference}): choose another --out, or remove it")
    more = theirs["latents"] - ours["max_latents" if ours.get("until") else "latents"]
    if more > 0 or (more and ours.get("chunk")):
        verb, least = "allow" if ours.get("until") else "ask for", "" if ours.get("chunk") else " or more"
        raise UsageError(f"{folder} holds a study of {theirs['latents']} latents: {verb} as many{least}")


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """In words, what keeps two configurations from being one study; empty if nothing does."""
    usual = StudyConfig().model_dump(mode="json")  # of a run that was made before a setting was there
    flat = [{**usual, **config, **config.get("resolved", {})} for config in (theirs, ours)]
    keys = sorted((set(flat[0]) | set(flat[1])) - {*MAY_DIFFER, *NOT_RESOLVED})
    different = [key for key in keys if flat[0].get(key) != flat[1].get(key)]
    return ", ".join(f"{key} {flat[0].get(key)} there, {flat[1].get(key)} here" for key in different[:3])


def extended(config: StudyConfig, there: Mapping[str, Any]) -> StudyConfig:
    """A configuration with what was asked of its run before; with `until`, the look that was under way."""
    update: dict[str, Any] = {
        "figure": config.figure or there["figure"],
        "sites": config.sites or there["sites"],
        "dose": tuple(sorted({*config.dose, *there["dose"]})),
        "strength": tuple(sorted({*(config.strength or ()), *(there.get("strength") or ())})) or config.strength,
        "placebos": max(config.placebos, there["placebos"]),
        "halvings": max(config.halvings, there.get("halvings", 0)),
        "second_segmenter": config.second_segmenter or there["second_segmenter"],
    }
    if config.until is not None:
        update["latents"] = max(config.latents, there["latents"])
    return config.model_copy(update=update)


def _contents(folder: Path) -> list[Path]:
    """What lies in a folder, without what a writer that was killed may have left."""
    return [entry for entry in folder.iterdir() if entry.name != LOCK and not is_aside(entry.name)]


def remove_estimates(folder: Path, examples: bool) -> None:
    """Remove what follows from a panel that is about to change; the `examples` if it gets more latents."""
    with explained(folder):
        for name in (*FOLLOWS[: None if examples else -1], TYPES):
            (folder / name).unlink(missing_ok=True)


def remove_rankings(folder: Path) -> None:
    """Remove what was kept of rankings to go on with."""
    for left in folder.glob(f"{RANKING}*"):
        left.unlink(missing_ok=True)


def read_relation(folder: Path) -> xr.Dataset | None:
    """The relation of a run, its variables read when they are used; None where all units were named by the user."""
    return read_dataset(folder / "relation.zarr") if (folder / "relation.zarr").is_dir() else None


def write_relation(folder: Path, relation: xr.Dataset) -> None:
    """Write `relation.zarr`, and its measures as `relation.csv`; see docs/relation.md."""
    write_dataset(folder / "relation.zarr", relation)
    write_measures(folder / "relation.csv", relation)


def write_measures(path: Path, relation: xr.Dataset) -> None:
    """Write a CSV with one row per unit and class."""
    measures = relation[["ace", "ace_se", "iou", "energy", "exact"]]
    with written(path) as aside:
        measures.to_dataframe(["unit", "object"]).reset_index().to_csv(aside, index=False)


def write_examples(folder: Path, examples: Mapping[str, np.ndarray]) -> None:
    """Write `examples.npz`."""
    with written(folder / "examples.npz") as aside, aside.open("wb") as file:
        np.savez_compressed(file, **examples)  # type: ignore[arg-type]


def write_estimates(folder: Path, panel: xr.Dataset) -> Effects:
    """Write what follows from the panel, `types.csv`, `effects.csv` and `checks.csv`, and return the effects.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    panel : xarray.Dataset
    """
    write_types(folder, panel)  # first: it need not be there, so that it cannot tell whether a run was finished
    effects = did(panel, confusion=known_confusion(folder), relevant=relevant_of(read_config(folder)))
    relation = read_relation(folder)
    if relation is not None and "drop" in relation:
        with verified(folder):
            rows = pd.DataFrame(ranking(panel, relation))
        effects = replace(effects, checks=pd.concat([effects.checks, rows], ignore_index=True))
    for name, table in (("effects.csv", effects.to_frame()), ("checks.csv", effects.checks)):
        with written(folder / name) as aside:
            table.to_csv(aside, index=False)
    return effects


def write_verdicts(folder: Path, panel: xr.Dataset) -> None:
    """Pass the verdicts of a finished run anew, by what its configuration says is relevant; nothing else of `effects.csv` changes."""
    effects = read_effects(folder, panel, relevant_of(read_config(folder)))
    with written(folder / "effects.csv") as aside:
        effects.to_frame().to_csv(aside, index=False)


def relevant_of(config: Mapping[str, Any]) -> float:
    """The smallest effect of interest of a run, by its configuration."""
    return float(config.get("relevant") or RELEVANT)


def known_confusion(folder: Path) -> pd.DataFrame | None:
    """What the segmenter of a run calls each class, where that is known: of a generator that draws rooms, seen by their segmenter."""
    config = read_config(folder)
    model = NAMED.get(config["generator"])
    return confusion(config["segmenter"]) if model is not None and model.segmenter == "rooms" else None


def write_types(folder: Path, panel: xr.Dataset) -> None:
    """Write `types.csv`, where the relation says how every unit acts on every object, and the study ablates."""
    relation, config = read_relation(folder), read_config(folder)
    if relation is None or "drop" not in relation or config.get("edit") == "insert":
        return
    bounds = StudyConfig.check(types=config.get("types", {})).types
    with written(folder / TYPES) as aside, verified(folder):
        types(panel, relation, bounds).to_csv(aside, index=False)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """As `replacing`, and what the file system may raise as one line."""
    with explained(path), replacing(path) as aside:
        yield aside


def merge(runs: Sequence[Path], out: Path, finish: Finish | None = None) -> xr.Dataset:
    """Write a run with the latents of several runs, which were measured apart, into a new folder.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs of one study (the same weights, arms, seed and versions) with disjoint latents.
    out : Path
        A new folder.
    finish : callable, optional
        Called with `out` once the effects of the whole are there; see `Study.execute`.

    Returns
    -------
    xarray.Dataset
        The joined panel, its latents in the order of `runs`. It has the study's own arms; others are measured by running it again.

    Raises
    ------
    UsageError
        If they are not of one study, share a latent, or `out` exists.
    """
    if len(runs) < 2:
        raise UsageError("name two runs or more to merge")
    if out.exists():
        raise UsageError(f"{out} exists: choose another --out, or remove it")
    panels, configs = [open_panel(run) for run in runs], [read_config(run) for run in runs]
    for run, config, panel in zip(runs[1:], configs[1:], panels[1:], strict=True):
        difference = differences({**configs[0], "chunk": None}, {**config, "chunk": None})
        if not difference and not np.array_equal(panels[0]["units"].values[:, 0], panel["units"].values[:, 0]):
            difference = "their units differ: name them with --target CLASS=UNIT,UNIT,..."
        if not difference and not panels[0]["segmenter"].equals(panel["segmenter"]):
            difference = "other segmenters labelled their images"
        if difference:
            raise UsageError(f"{runs[0]} and {run} are not of one study ({difference})")
    numbers = np.concatenate([panel["latent"].values for panel in panels])
    known, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise UsageError(f"latent {known[counts > 1][0]} is in more than one of the runs: merge disjoint ones")
    with explained(out):
        out.mkdir(parents=True)
    try:
        _join(panels, out / "panel.zarr")
        whole: dict[str, Any] = {
            "latents": len(numbers),
            "until": None,
            "chunk": None,
            "sites": None,
            "dose": [],
            "strength": None,
            "placebos": 0,
        }
        write_config(out, {**configs[0], **whole})
        for name in ("relation.csv", "relation.zarr", *FIGURE, "examples.npz"):
            having = next((run / name for run in runs if (run / name).exists()), None)
            if having:
                (shutil.copytree if having.is_dir() else shutil.copy)(having, out / name)
        merged = open_panel(out)
        write_estimates(out, merged)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if finish:
        finish(out)
    return merged


def _join(panels: Sequence[xr.Dataset], root: Path) -> None:
    """Write the study's own arms of several panels one after the other."""
    study = blocks_of(panels[0])[0]
    arms = panels[0]["arm"].values[: len(study.arms)].tolist()
    frame = panels[0].isel(latent=slice(0), arm=slice(len(arms)), draws=slice(1)).load()
    joined = PanelStore.create(root, frame.assign_coords(measured=0 * frame["measured"]))
    growing = [str(name) for name, variable in panels[0].variables.items() if "latent" in variable.dims]
    for panel in panels:
        for start in range(0, panel.sizes["latent"], LATENTS_PER_CHUNK):
            with verified(root):
                rows = panel[growing].isel(latent=slice(start, start + LATENTS_PER_CHUNK), arm=slice(len(arms))).load()
            seen = [s for s in range(panel.sizes["segmenter"]) if (joined.measured[s, 0] == len(joined.latents))]
            values = {name: rows[name].values for name in growing}
            for name in growing:
                if "segmenter" in rows[name].dims:
                    values[name] = values[name][: len(seen)]
            joined.write(arms, seen, len(joined.latents), values)
