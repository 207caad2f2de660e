"""A finished run, read back: what the report's figures and page are made of."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from gandid.did import Effects, estimands, estimate, stopping
from gandid.did.checks import SUPPORT
from gandid.did.evidence import stores, weigh
from gandid.did.totals import objects_inpainted
from gandid.did.words import SHOWN, VISIBLE
from gandid.errors import UsageError

# What an 8-bit image may differ by where two arms are the same computation in another order.
ROUNDING = 2
# What ends the name of the unedited image of a held arm whose baseline is its own (docs/panel.md).
UNEDITED = "/unedited"


@dataclass(frozen=True)
class Arm:
    """A held arm as the report shows it: one regime, under one or several names that are the same numbers."""

    name: str
    """The first of the names, by which its rows are found in the effects."""
    names: tuple[str, ...]
    label: str
    """In plain words, such as "all sites capped"."""


@dataclass(frozen=True)
class Examples:
    """The most affected images of each target: arrays as ``examples.npz`` holds them, by target."""

    arms: list[str]
    classes: list[str]
    latents: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    """By target, uint8 of shape (E, A, H, W, 3), only the examples that exist."""
    labels: dict[str, np.ndarray]
    """By target, uint8 of shape (E, A, H, W), indices into `classes`."""
    gain: dict[str, np.ndarray]
    """By target, shape (E, h, w): measured gain at the first site of the live arm; 1 where there is none."""

    def baseline(self, arm: int) -> int:
        """The arm that is the unedited image of this one: its own where it has one, else the reference."""
        own = self.arms[arm].removesuffix(UNEDITED) + UNEDITED
        return self.arms.index(own) if own in self.arms else 0


class Column(NamedTuple):
    """A column of a target's strip."""

    label: str
    arm: int
    """Index into the examples' arms."""
    baseline: int
    """Index of the arm's unedited image; the arm itself where it is unedited."""
    name: str
    """The arm's name in the panel."""


@dataclass(frozen=True)
class Run:
    """A finished run folder."""

    path: Path
    config: dict[str, Any]
    panel: xr.Dataset
    """What the panel has beside the latents: its maps and units, its coordinates and attributes."""
    effects: Effects
    arms: list[Arm]
    """Held arms, those that are the same in every count joined."""
    relation: pd.DataFrame | None
    examples: Examples | None
    background: dict[str, bool] = field(default_factory=dict)
    """By class, in the segmenter's order."""
    activity: xr.Dataset | None = None
    """Where units are active and on which images: ``relation.zarr`` without what is along its latents."""
    types: pd.DataFrame | None = None
    """The type of each target, by target (``types.csv``)."""
    after: xr.Dataset | None = None
    """The relation after each ablation (``after.zarr``)."""
    insertion: xr.Dataset | None = None
    """What insertion does (``insertion.zarr``)."""
    together: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What all other objects together in-paint, by target and arm (`gandid.did.totals.objects_inpainted`)."""
    stopped: str = ""
    """Why it has as many latents as it has, where it was to go on until precise enough."""

    @property
    def targets(self) -> list[str]:
        """The targets, in the panel's order."""
        return [str(name) for name in self.panel["target"].values]

    @property
    def evidence(self) -> Mapping[str, pd.DataFrame]:
        """What was measured beside the panel, by name: ``dose``, ``shapley``, ``placebos``, ``sensitivity``, those that there are."""
        return self.effects.evidence

    @property
    def objects(self) -> list[str]:
        """The classes that count as objects."""
        return [name for name, back in self.background.items() if not back and name != "unknown"]

    def estimable(self, target: str) -> bool:
        """Whether enough images show the target."""
        return any(bool(rows["estimable"].any()) for (of, _, _), rows in self._parts.items() if of == target)

    def supported(self, target: str, arm: Arm) -> bool:
        """Whether the arm stays in the network's range when this target is ablated."""
        parts = [rows for (of, _, name), rows in self._parts.items() if of == target and name in arm.names]
        return all(bool(rows.loc[rows["estimable"], "supported"].all()) for rows in parts)

    def live_in_range(self, target: str) -> bool:
        """Whether the ablated images themselves, with everything live, stay in the unedited images' range."""
        checks = self.effects.checks
        live = checks[(checks["target"] == target) & (checks["arm"] == "live") & checks["check"].isin(SUPPORT)]
        return bool((live["verdict"] == "ok").all())

    def rows(self, target: str, outcome: str, arm: Arm | None = None, kind: str | None = None) -> pd.DataFrame:
        """The effects of a target under an arm (the first, if none is named: live is the same in all)."""
        rows = self._parts[target, outcome, (arm or self.arms[0]).name]
        return rows if kind is None else rows[rows["kind"] == kind]

    @cached_property
    def _parts(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """The effects by target, outcome and arm: the page asks for them a thousand times."""
        return dict(iter(self.effects.frame.groupby(["target", "outcome", "arm"], sort=False)))  # type: ignore[arg-type]

    def shown(self, target: str) -> int:
        """How many unedited images show the target."""
        checks = self.effects.checks
        return int(checks.loc[(checks["check"] == "target_seen") & (checks["target"] == target), "value"].iloc[0])

    def has_examples(self, target: str) -> bool:
        """Whether there are images of the target's ablation."""
        return self.examples is not None and len(self.examples.images.get(target, ())) > 0

    def units(self, target: str) -> list[int]:
        """The units that were ablated, best first."""
        return list(estimands.units(self.panel, target))


def read(path: Path, effects: Effects | None = None) -> Run:
    """Read a run folder.

    Parameters
    ----------
    path
        The folder.
    effects
        What `gandid.did.estimate` says of its panel; estimated here if not given.

    Raises
    ------
    UsageError
        If the folder is not a finished run.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"there is no run folder '{path}'")
    for name in ("config.yaml", "panel.zarr"):
        if not (path / name).exists():
            raise UsageError(f"'{path}' is not a finished run: it has no {name}")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"'{path / 'config.yaml'}' is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"'{path / 'config.yaml'}' does not hold a configuration")
    try:
        # Opened lazily: what is along the latents may be larger than memory, and only the estimates need it.
        with xr.open_zarr(path / "panel.zarr", chunks=None) as stored:
            effects = effects or weigh(estimate(stored), stored, stores(path))
            together = objects_inpainted(stored, effects.level)
            stopped = stopping.explain(stored, config)
            panel = stored.drop_dims("latent").load()
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UsageError(f"'{path / 'panel.zarr'}' is not a panel: {error}") from error
    arms = [Arm(names[0], names, label(list(names))) for names in effects.alike]
    if not arms:
        raise UsageError(f"'{path / 'panel.zarr'}' has no held arm: there is nothing to compare live with")
    relation = path / "relation.csv"
    background = {
        str(name): bool(back) for name, back in zip(panel["object"].values, panel["background"].values, strict=True)
    }
    return Run(
        path,
        config,
        panel,
        effects,
        arms,
        pd.read_csv(relation) if relation.is_file() else None,
        _examples(path / "examples.npz"),
        background,
        _dataset(path / "relation.zarr"),
        _table(path / "types.csv", "target"),
        _dataset(path / "after.zarr"),
        _dataset(path / "insertion.zarr"),
        together,
        stopped,
    )


def claimed(row: Any) -> bool:
    """Whether an effect counts as shown: beyond noise, visible, and in support."""
    return bool(row["q"] < SHOWN and row["supported"] and abs(row["did"]) >= VISIBLE / 2)


def columns(run: Run, target: str) -> list[Column]:
    """The columns of a target's strip, an arm's own unedited image before it.

    Edited arms whose images and labels, and those of their baselines, are the same (up to rounding) in every example are shown
    once, and so are such unedited ones.
    """
    examples = run.examples
    assert examples is not None
    images, labels = examples.images[target].astype(np.int16), examples.labels[target]
    names = examples.arms

    def same(one: int, other: int) -> bool:
        near = np.abs(images[:, one] - images[:, other]).max(initial=0) <= ROUNDING
        return bool(near and (labels[:, one] == labels[:, other]).all())

    groups: list[list[int]] = []
    for arm in sorted(range(len(names)), key=lambda i: (names.index(names[i].removesuffix(UNEDITED)), -len(names[i]))):
        own = examples.baseline(arm)
        for group in groups:
            first = group[0]
            base = examples.baseline(first)
            # An original stays by itself: an ablation that changes nothing is a finding, not a repetition.
            alike = (own == arm) == (base == first) and first > 0
            if alike and same(arm, first) and same(own, base):
                group.append(arm)
                break
        else:
            groups.append([arm])
    return [
        Column(label([names[i] for i in group]), group[0], examples.baseline(group[0]), names[group[0]])
        for group in groups
    ]


def label(names: list[str]) -> str:
    """What a regime does, in words, from the names of its arms."""
    if names[0] == "reference":
        return "original"
    if names[0] == "live":
        same = names[1:]
        return "ablated, all live" + (f" (same: {', '.join(same)})" if same else "")
    if names[0].endswith(UNEDITED):
        return f"{label([name.removesuffix(UNEDITED) for name in names])}, unedited".replace(
            " without normalization", ""
        )
    pairs = [name.split(":", 1) for name in names]
    sites = list(dict.fromkeys(held for _, held in pairs))
    controls = list(dict.fromkeys(control for control, _ in pairs))
    if controls == ["twin"]:
        return " / ".join("twin without normalization" if name == "all" else f"twin {name}" for name in sites)
    where = {"first": "first site", "all": "all sites"}
    what = " / ".join(where.get(site, site.replace("+", " + ")) for site in sites)
    if controls == ["mean"]:
        several = len(sites) > 1 or sites[0] == "all" or "+" in sites[0]
        return f"{what} at {'their means' if several else 'its mean'}"
    # Controls that agree need not be told apart: the site is simply held.
    return f"{what} {controls[0]}" if len(controls) == 1 else f"{what} held"


def _dataset(path: Path) -> xr.Dataset | None:
    """A dataset of the folder, but for what it has per latent, in memory; None if it is not there."""
    if not path.is_dir():
        return None
    try:
        with xr.open_zarr(path, chunks=None) as stored:
            return stored.drop_dims("latent", errors="ignore").load()
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise UsageError(f"'{path}' cannot be read: {error}") from error


def _table(path: Path, index: str) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path).set_index(index)
    except (ValueError, KeyError) as error:
        raise UsageError(f"'{path}' cannot be read: {error}") from error


def _examples(path: Path) -> Examples | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            data = {name: stored[name] for name in stored.files}
        targets = [str(name) for name in data["targets"]]
        kept = [np.flatnonzero(row >= 0) for row in data["latents"]]
        by = {
            name: {target: data[name][t][kept[t]] for t, target in enumerate(targets)}
            for name in ("latents", "images", "labels", "gain")
        }
        by["gain"] = {target: np.nan_to_num(gain, nan=1.0) for target, gain in by["gain"].items()}
        return Examples([str(a) for a in data["arms"]], [str(c) for c in data["classes"]], **by)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"'{path}' does not hold examples: {error}") from error
