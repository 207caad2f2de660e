"""A finished run, read back from its folder: what the page and its charts are made of. Nothing is estimated here."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
import yaml

from gandid.errors import GandidError, UsageError, first_line
from gandid.estimation.effects import identical
from gandid.files import read_table
from gandid.outcomes import WHOLE, Pair, pair_of
from gandid.panel.store import read_dataset, read_panel, verified
from gandid.panel.table import EXACT_CONTROLS, LEARNED
from gandid.runs import read_config, relevant_of, unfinished
from gandid.verdicts import judged

Row = dict[Hashable, Any]
T = TypeVar("T")
UNEDITED = "/unedited"
POOLED = LEARNED[0]  # what networks are called together that were distilled without normalization
# What an object's place may have become, and the kinds of classes in effects.csv that stand for it.
PLACE = {"still": "target", "objects": "object", "background": "background", "unknown": "unknown"}

# What must be in a table.
COLUMNS = {
    "effects.csv": ("target", "object", "outcome", "contrast", "arm", "kind", "did", "estimable", "supported"),
    "checks.csv": ("check", "target", "value", "bound", "verdict"),
    "relation.csv": ("unit", "object", "ace", "iou", "energy"),
    "types.csv": ("target", "type", "removed", "share_top"),
}


AGAIN = ": 'gandid report' writes it again, from the panel"
REMEDIES = {
    "effects.csv": AGAIN,
    "checks.csv": AGAIN,
    "examples.npz": ": remove it, and the command that began the run makes it again",
}


@dataclass(frozen=True)
class Comparison:
    """A held arm as the page shows it: one regime under one name, or under several that are the same numbers."""

    names: tuple[str, ...]
    networks: tuple[str, ...] = ()
    """Of distilled networks, which are one control, the arm of each."""

    @property
    def name(self) -> str:
        """The first of the names, by which its rows are found."""
        return self.names[0]

    @property
    def label(self) -> str:
        """The names, with what they share said once: ``capped/frozen:first``."""
        if self.networks:
            return "distilled networks"
        pairs = [name.split(":", 1) for name in self.names]
        return ":".join("/".join(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))

    @property
    def words(self) -> tuple[str, str]:
        """What its two sides are called in pictures."""
        return ("with", "without") if self.networks else ("live", "held")

    @property
    def whole(self) -> str:
        """The name of the arm that holds fully what this one holds."""
        return self.name.split("@k")[0]

    @property
    def control(self) -> str:
        """The control of the first of its names."""
        return self.name.split(":")[0]

    @property
    def exact(self) -> bool:
        """Whether its unedited images are the network's own."""
        return any(name.split(":")[0] in EXACT_CONTROLS for name in self.names)


@dataclass(frozen=True)
class Examples:
    """Images (E, A, H, W, 3) of one target, on which live and held disagree most, as ``examples.npz`` holds them."""

    arms: list[str]
    classes: list[str]
    latents: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    gain: np.ndarray
    """Measured gain at the first site of the live arm, (E, h, w); 1 where there is none."""

    def baseline(self, arm: int) -> int:
        """The arm that is the unedited image of this one: its own where it has one, else the reference."""
        own = self.arms[arm].removesuffix(UNEDITED) + UNEDITED
        return self.arms.index(own) if own in self.arms else 0


@dataclass(frozen=True)
class Run:
    """A finished run; tables and datasets are None where the folder has no such file."""

    path: Path
    config: dict[str, Any]
    attrs: dict[str, Any]
    """Attributes of the panel: generator, segmenter, layer, ablation, seed."""
    latents: int
    unfinished: str
    """What is still to be measured, in words; empty if nothing is."""
    objects: list[str]
    """The classes of the study's segmenter that count as objects."""
    units: dict[str, list[int]]
    """By target, the units that were edited, best first."""
    effects: pd.DataFrame
    """``effects.csv``, its verdicts passed by `relevant`."""
    checks: pd.DataFrame
    relation: pd.DataFrame | None
    activity: xr.Dataset | None
    """``relation.zarr``: where units are active, and on which images."""
    types: pd.DataFrame | None
    examples: dict[str, Examples]
    """By target, of those that have any."""
    after: xr.Dataset | None
    insertion: xr.Dataset | None

    @property
    def region(self) -> str:
        """To which part of an image the edit is limited, in words; "" where to none."""
        found = self.attrs.get("region", "")
        if isinstance(found, str):
            return found and f"the mask {found}"
        return f"{','.join(f'{end:g}' for end in found)} (shares of width and height)"

    @property
    def inserts(self) -> bool:
        """Whether the targets are inserted, in a region."""
        return self.pair.inserts

    @property
    def pair(self) -> Pair:
        """The outcomes that say what became of a target's place."""
        return pair_of(self.attrs)

    @property
    def targets(self) -> list[str]:
        """The targets, in the panel's order."""
        return list(self.units)

    @property
    def relevant(self) -> float:
        """The smallest effect of interest, a share of an object's pixels."""
        return relevant_of(self.config)

    @cached_property
    def regimes(self) -> list[Comparison]:
        """The held arms of the study, those that agree in every number joined, and distilled networks as one."""
        rows = self.effects[self.effects["contrast"] == "did"]
        learned = rows["control"].isin(LEARNED)
        found = [Comparison(names) for names in identical(rows[~learned])]
        networks = rows.loc[rows["control"] == POOLED, "arm"].unique()
        return [*found, *([Comparison((POOLED,), tuple(networks))] if len(networks) else [])]

    @cached_property
    def _rows(self) -> dict[tuple[str, str, str], list[Row]]:
        found: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.effects.to_dict("records"):
            found.setdefault((row["contrast"], row["target"], row["outcome"]), []).append(row)
        return found

    def whole(self, contrast: str, target: str, outcome: str) -> list[Row]:
        """The rows of a target's whole effect: on itself, or on all other objects together."""
        rows = self._rows.get((contrast, target, outcome), [])
        return [row for row in rows if row["kind"] == WHOLE[outcome]]

    def rows(self, target: str, outcome: str, regime: Comparison | None = None) -> list[Row]:
        """Live minus held, one row per object; of no regime in particular the first, for live is the same in all."""
        name = (regime or self.regimes[0]).name
        # A strength of 1 is the study's own arm, once more on the latents of the other strengths. Networks come last: at the
        # study's own dose and segmenter first.
        for contrast in ("did", "strength", "networks"):
            rows = [row for row in self._rows.get((contrast, target, outcome), []) if row["arm"] == name]
            if contrast == "networks":
                own = self._rows["did", target, outcome][0]
                rows = [row for row in rows if all(row[key] == own[key] for key in ("dose", "segmenter"))]
            if rows:
                return rows
        return []

    def row(self, target: str, outcome: str, regime: Comparison) -> Row | None:
        """The whole effect in a regime."""
        return next((row for row in self.rows(target, outcome, regime) if row["kind"] == WHOLE[outcome]), None)

    def each(self, target: str, outcome: str, regime: Comparison) -> list[float]:
        """The effect in each of the networks of a regime, none where it is not of networks: with less without normalization."""
        row = self.row(target, outcome, regime) or {}
        rows = self.whole("did", target, outcome)
        return [row["tau_live"] - one["tau_held"] for one in rows if one["arm"] in regime.networks]

    def place(self, target: str, regime: Comparison, side: str = "held") -> dict[str, float]:
        """What became of the target's place on a `side` of a comparison, `live` or `held`: shares of its original pixels that sum to 1."""
        side, others = f"tau_{side}", self.pair.others
        changes = [(1, side, self.rows(target, others, regime))]
        if self.inserts:  # what is there live, and what others lose less of
            there = self._rows.get(("composition", target, "composition"), [])
            there = [row for row in there if all(row[key] == there[0][key] for key in ("arm", "segmenter"))]
            changes = [(1, "tau_live", there), (1, "tau_live", self.rows(target, others)), (-1, *changes[0][1:])]
        found = {
            part: sum(sign * float(row[name]) for sign, name, rows in changes for row in rows if row["kind"] == kind)
            for part, kind in PLACE.items()
        }
        parts = {part: max(share, 0.0) for part, share in found.items() if part != "still"}
        return {"still": max(1 - sum(parts.values()), 0.0)} | parts

    def estimable(self, target: str) -> bool:
        """Whether enough images show the target."""
        return any(row["estimable"] for row in self.rows(target, self.pair.own))

    def supported(self, target: str, regime: Comparison) -> bool:
        """Whether the regime's images stay in the network's range when this target is edited."""
        return all(row["supported"] for row in self.rows(target, self.pair.own, regime))

    def graded(self, target: str) -> list[Comparison]:
        """The strengths, rising, of the held arm that was graded first; empty where no strengths were measured."""
        rows = self.whole("strength", target, self.pair.own)
        own = [row for row in rows if (row["control"], row["held"]) == (rows[0]["control"], rows[-1]["held"])]
        whole = {name: regime for regime in self.regimes for name in regime.names}
        arms = [row["arm"] for row in sorted(own, key=lambda row: row["strength"])]
        return [whole.get(arm, Comparison((arm,))) for arm in arms]

    def leading(self, target: str) -> Comparison:
        """The regime that speaks for a target: the largest strength up to which all are in range, where strengths were measured.

        Else, of those in range, an exact one, of the first control, that holds most.
        """
        within = list(itertools.takewhile(lambda regime: self.supported(target, regime), self.graded(target)))
        if within:
            return within[-1]
        control = self.regimes[0].control

        def rank(regime: Comparison) -> tuple[bool, bool, bool, bool]:
            first = any(name.startswith(f"{control}:") for name in regime.names)
            return self.supported(target, regime), regime.exact, first, regime.name.endswith(":all")

        best = max(self.regimes, key=rank)
        return best if self.supported(target, best) else self.regimes[0]

    def shown(self, target: str) -> list[Comparison]:
        """The regimes with which a target is shown: the leading one, and those of the study."""
        return list(dict.fromkeys([self.leading(target), *self.regimes]))

    def seen(self, target: str) -> int:
        """How many unedited images show the target."""
        rows = self.checks[(self.checks["check"] == "target_seen") & (self.checks["target"] == target)]
        return int(rows["value"].iloc[0]) if len(rows) else 0

    def details(self, check: str, target: str) -> list[str]:
        """What a check says of the arms of a target, in a sentence each; arms that are the same numbers once."""
        rows = self.checks[(self.checks["check"] == check) & (self.checks["target"] == target)]
        arms = {name: regime.label for regime in self.regimes for name in regime.names[:1]}
        return [f"{arms[row['arm']]}: {row['detail']}." for row in rows.to_dict("records") if row["arm"] in arms]

    def ranked(self, target: str) -> tuple[np.ndarray, np.ndarray]:
        """Average causal effects of all units on a target, largest first, and which of them were edited."""
        if self.relation is None:
            return np.empty(0), np.empty(0, bool)
        rows = self.relation[self.relation["object"] == target].sort_values("ace", ascending=False, kind="stable")
        return rows["ace"].to_numpy(), rows["unit"].isin(self.units[target]).to_numpy()


def read(path: Path) -> Run:
    """Read a run's folder.

    Raises
    ------
    GandidError
        If the folder is not that of a finished run, or if a file in it cannot be read; the message names the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"there is no run folder '{path}'")
    for name in ("config.yaml", "panel.zarr", "effects.csv", "checks.csv"):
        if not (path / name).exists():
            raise UsageError(f"'{path}' is not a finished run: it has no {name}")
    config = _read(path / "config.yaml", lambda file: dict(read_config(file.parent)))
    panel = _read(path / "panel.zarr", _panel)
    latents = int(panel["measured"].values[0, 0])
    run = Run(
        path=path,
        config=config,
        attrs=dict(panel.attrs),
        latents=latents,
        unfinished=_read(path / "config.yaml", lambda _: unfinished(path, panel)),
        objects=_objects(panel),
        units=_units(panel),
        effects=judged(_read(path / "effects.csv", _table), latents, relevant_of(config)),
        checks=_read(path / "checks.csv", _table),
        relation=_optional(path / "relation.csv", _table),
        activity=_optional(path / "relation.zarr", _dataset),
        types=_optional(path / "types.csv", _table),
        examples=_optional(path / "examples.npz", _examples) or {},
        after=_optional(path / "after.zarr", _dataset),
        insertion=_optional(path / "insertion.zarr", _dataset),
    )
    if not run.regimes:
        raise UsageError(f"'{path / 'effects.csv'}' has no held arm: there is nothing to compare live with")
    return run


def _read(path: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(path)
    except GandidError:
        raise
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        yaml.YAMLError,
    ) as error:
        # Of a damaged .npz NumPy says what would be unsafe.
        reason = "it is damaged" if path.suffix == ".npz" else first_line(error).rstrip(":")
        raise UsageError(f"'{path}' cannot be read ({reason}){REMEDIES.get(path.name, '')}") from error


def _optional(path: Path, reader: Callable[[Path], T]) -> T | None:
    return _read(path, reader) if path.exists() else None


def _panel(path: Path) -> xr.Dataset:
    """What the panel has beside counts: its coordinates, units and attributes."""
    panel = read_panel(path)
    with verified(path):
        return panel.coords.to_dataset().assign(units=panel["units"]).assign_attrs(panel.attrs).load()


def _objects(panel: xr.Dataset) -> list[str]:
    """The classes of the first segmenter that count as objects."""
    ours = panel["known"].values[0] & ~panel["background"].values[0]
    return [str(name) for name in panel["object"].values[ours] if name != "unknown"]


def _units(panel: xr.Dataset) -> dict[str, list[int]]:
    units = panel["units"]  # of the generator itself and of the target's own draw, which come first
    own = units.isel({dim: 0 for dim in units.dims if dim not in ("target", "rank")}).transpose("target", "rank")
    return {
        str(target): [int(unit) for unit in row if unit >= 0]
        for target, row in zip(own["target"].values, own.values, strict=True)
    }


def _table(path: Path) -> pd.DataFrame:
    table = read_table(path)
    if missing := [name for name in COLUMNS[path.name] if name not in table]:
        raise UsageError(f"'{path}' has no column {missing[0]}: if gandid 0.1 made it, run the study again")
    return table


def _dataset(path: Path) -> xr.Dataset:
    """A dataset in memory, but for what it has per latent."""
    with verified(path):
        return read_dataset(path).drop_dims("latent", errors="ignore").load()


def _examples(path: Path) -> dict[str, Examples]:
    with np.load(path) as stored:
        data = {name: stored[name] for name in stored.files}
    arms, classes = [str(arm) for arm in data["arms"]], [str(name) for name in data["classes"]]
    found = {}
    for place, target in enumerate(data["targets"]):
        kept = np.flatnonzero(data["latents"][place] >= 0)
        if len(kept):
            latents, images, labels, gain = (
                data[name][place][kept] for name in ("latents", "images", "labels", "gain")
            )
            found[str(target)] = Examples(arms, classes, latents, images, labels, np.nan_to_num(gain, nan=1.0))
    return found
