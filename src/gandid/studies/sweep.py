"""A sweep: one study at several layers of a generator, a run folder each, and what they say together.

The folder of a sweep holds `sweep.yaml` (the layers in their order), one run folder per layer, named after it, and what follows
from them: `sweep.csv` (every effect of every layer), `depth.csv` (removal, and in-painting by all objects together), `pairs.csv`
(the pairs of target and object with their DID and their units' relation) and `claim2.csv` (the regression of one on the other).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml
from rich.progress import Progress

from gandid import did
from gandid.did import claim2, estimands
from gandid.did.inference import bh
from gandid.did.totals import objects_inpainted
from gandid.errors import UsageError
from gandid.files import is_aside, replacing
from gandid.relation.concentration import overlap, share
from gandid.studies import folder
from gandid.studies.config import StudyConfig
from gandid.studies.executors import Executor
from gandid.studies.folder import Finish
from gandid.studies.plan import Plan
from gandid.studies.store import explained
from gandid.studies.study import Study

ABOUT = "sweep.yaml"
TABLES = ("sweep.csv", "depth.csv", "pairs.csv", "claim2.csv")
OWN = (ABOUT, *TABLES, "report.html", "figures")


@dataclass(frozen=True)
class Layer:
    """What a sweep keeps of the run at one layer."""

    name: str
    effects: did.Effects
    totals: pd.DataFrame
    """`gandid.did.totals.objects_inpainted` of its panel."""
    units: Mapping[str, tuple[int, ...]]
    relation: pd.DataFrame | None
    """`relation.csv`."""


def sweep(
    studies: Sequence[Study],
    config: StudyConfig,
    out: str | Path,
    *,
    executor: Executor | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    finish: Finish | None = None,
) -> pd.DataFrame:
    """Run one study at several layers and gather what it finds.

    The latents of the effects depend on the seed alone, so that the layers are paired: latent 7 is the same image at each.
    What a folder already holds is kept: finished layers are not computed again, and one that was cut short goes on.

    Parameters
    ----------
    studies : sequence of Study
        One per layer, of the same generator, segmenter and seed.
    config : StudyConfig
        What to study at each of them.
    out : str or Path
        Folder of the sweep; each layer's run is the folder of its name in it.
    executor, progress, command, finish
        Of each run, see `Study.run` and `Study.execute`.

    Returns
    -------
    pandas.DataFrame
        The effects of all layers, as `sweep.csv` holds them: a column `layer`, then those of `gandid.did.Effects.to_frame`.

    Raises
    ------
    UsageError
        Before anything is computed, if a layer cannot be studied so, or `out` holds something else.
    """
    path, layers = Path(out), [study.layer for study in studies]
    check(studies, config, path)
    with explained(path):
        path.mkdir(parents=True, exist_ok=True)
        with replacing(path / ABOUT) as aside:
            aside.write_text(yaml.safe_dump({"layers": layers, "command": command}, sort_keys=False), encoding="utf-8")
    found = []
    for place, study in enumerate(studies, 1):
        if progress:
            progress.console.print(f"{study.layer}, {place} of {len(studies)} layers", highlight=False)
        kept: list[did.Effects] = []

        def follow(run: Path, effects: did.Effects, kept: list[did.Effects] = kept) -> None:
            kept.append(effects)
            if finish:
                finish(run, effects)

        run = path / study.layer
        panel = study.execute(config, store=run, executor=executor, progress=progress, command=command, finish=follow)
        found.append(_read(study.layer, run, panel, kept[0]))
    return write_tables(path, found)


def check(studies: Sequence[Study], config: StudyConfig, path: Path) -> None:
    """Raise `UsageError` if a sweep cannot go through, as far as that can be told before it begins."""
    layers = [study.layer for study in studies]
    if len(set(layers)) < 2:
        raise UsageError("a sweep needs two layers or more: name them with --layer A --layer B")
    if config.chunk is not None:
        raise UsageError(
            "--chunk is of one layer's latents: run and merge each layer by itself, into folders OUT/LAYER, then sweep OUT"
        )
    if isinstance(config.targets, dict):
        raise UsageError("the units of one layer are not those of another: name classes alone in a sweep of layers")
    if folder.is_run(path) or (path / "config.yaml").is_file():
        raise UsageError(f"{path} holds a run of one layer: choose another --out for the sweep")
    if path.is_dir() and not is_sweep(path):
        foreign = [entry.name for entry in path.iterdir() if entry.name not in layers and not is_aside(entry.name)]
        if foreign:
            raise UsageError(f"{path} exists and is not a sweep: choose another --out, or remove it")
    for study in studies:
        study.check(config, path / study.layer)


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep, finished or not."""
    return (path / ABOUT).is_file()


def read_sweep(path: Path) -> list[Layer]:
    """The runs of a sweep as far as they go, their effects estimated anew.

    Raises
    ------
    UsageError
        If the folder is no sweep, or one of its layers has no panel yet.
    """
    layers = yaml.safe_load((path / ABOUT).read_text(encoding="utf-8"))["layers"]
    panels = {layer: folder.open_panel(path / layer) for layer in layers}
    return [_read(layer, path / layer, panel, did.estimate(panel)) for layer, panel in panels.items()]


def write_tables(path: Path, layers: Sequence[Layer]) -> pd.DataFrame:
    """Write what follows from the runs of a sweep, and return `sweep.csv`."""
    effects = pd.concat([layer.effects.to_frame().assign(layer=layer.name) for layer in layers], ignore_index=True)
    effects.insert(0, "layer", effects.pop("layer"))
    alike = same_arms([layer.effects.alike for layer in layers])
    tables = (effects, depth(layers, alike), pairs(layers, alike))
    with explained(path):
        for name, table in zip(TABLES, (*tables, claim2.regress(tables[2])), strict=True):
            with replacing(path / name) as aside:
                table.to_csv(aside, index=False)
    return effects


def same_arms(alike: Sequence[Sequence[Sequence[str]]]) -> dict[str, str]:
    """{held arm: the others that are the same at every layer, joined by commas}, the first of each lot alone.

    Parameters
    ----------
    alike
        Per layer, `gandid.did.Effects.alike`.
    """
    lots: dict[tuple[int, ...], list[str]] = {}
    for arm in [name for group in alike[0] for name in group]:
        place = tuple(next(i for i, group in enumerate(layer) if arm in group) for layer in alike)
        lots.setdefault(place, []).append(arm)
    return {first: ", ".join(others) for first, *others in lots.values()}


def depth(layers: Sequence[Layer], alike: Mapping[str, str]) -> pd.DataFrame:
    """What is removed of each target and what all objects together in-paint of it, by layer and held arm.

    Returns
    -------
    pandas.DataFrame
        `layer, target, outcome` (`removed` or `inpainted`), `arm`, `same_as`, the columns of an effect with the t test's `p`,
        `supported`, and `q`: Benjamini-Hochberg over layers and targets, for each outcome and arm.
    """
    parts = []
    for layer in layers:
        frame = layer.effects.to_frame()
        removed = frame[frame["outcome"] == "removed"].assign(p=frame["p_t"])
        supported = removed.set_index(["target", "arm"])["supported"]
        for outcome, rows in (("removed", removed), ("inpainted", layer.totals)):
            part = rows[[*layer.totals]].assign(layer=layer.name, outcome=outcome)
            part["supported"] = supported.reindex(pd.MultiIndex.from_frame(part[["target", "arm"]])).to_numpy()
            parts.append(part[part["arm"].isin(list(alike))])
    table = pd.concat(parts, ignore_index=True)
    table["same_as"] = table["arm"].map(dict(alike))
    table["q"] = table.groupby(["outcome", "arm"])["p"].transform(lambda p: bh(p.to_numpy()))
    first = ["layer", "target", "outcome", "arm", "same_as"]
    return table[[*first, *(name for name in table if name not in first)]]


def pairs(layers: Sequence[Layer], alike: Mapping[str, str]) -> pd.DataFrame:
    """The pairs (target, object), by layer and held arm: the DID of `inpainted` and the relation of their units.

    Returns
    -------
    pandas.DataFrame
        `layer, target, object, arm, same_as, tau_live, did, se, supported`, and the relations, at the same layer:

        - `overlap`: cosine of the positive ACE of target and object over the units;
        - `concentration`: share of the target's positive ACE that the edited units carry;
        - `energy`: mean over the edited units of the share of a unit's energy that lies on the object's pixels;
        - `gain`: mean gain that the first site gives inside the target's pixels.

        Layers whose units were all named by the user, and so never ranked, have no pairs.
    """
    parts = []
    for layer in layers:
        if layer.relation is None:
            continue
        frame = layer.effects.to_frame()
        rows = frame[(frame["outcome"] == "inpainted") & (frame["kind"] == "object") & frame["arm"].isin(list(alike))]
        related = _relations(layer, sorted(set(zip(rows["target"], rows["object"], strict=True))))
        part = rows[["target", "object", "arm", "tau_live", "did", "se", "supported"]].assign(layer=layer.name)
        parts.append(part.merge(related, on=["target", "object"], how="left", validate="many_to_one"))
    columns = ["layer", "target", "object", "arm", "same_as", "tau_live", "did", "se", "supported", *claim2.RELATIONS]
    if not parts:
        return pd.DataFrame(columns=columns)
    table = pd.concat(parts, ignore_index=True)
    table["same_as"] = table["arm"].map(dict(alike))
    return table[columns]


def total(plans: Sequence[Plan]) -> Plan:
    """What the runs of a sweep take together."""
    return replace(
        plans[0],
        rows=sum(plan.rows for plan in plans),
        images=sum(plan.images for plan in plans),
        seconds=sum(plan.seconds for plan in plans),
        disk=sum(plan.disk for plan in plans),
    )


def _read(name: str, run: Path, panel: xr.Dataset, effects: did.Effects) -> Layer:
    ranked = pd.read_csv(run / "relation.csv") if (run / "relation.csv").is_file() else None
    units = {str(target): estimands.units(panel, target) for target in panel["target"].values}
    return Layer(name, effects, objects_inpainted(panel), units, ranked)


def _relations(layer: Layer, named: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The relations of pairs (target, object) at a layer."""
    assert layer.relation is not None
    ace, energy = (
        layer.relation.pivot(index="object", columns="unit", values=name).sort_index(axis=1)
        for name in ("ace", "energy")
    )
    rows = []
    for target, other in named:
        units = list(layer.units[target])
        rows.append(
            {
                "target": target,
                "object": other,
                "overlap": float(overlap(ace.loc[target], ace.loc[other])),
                "concentration": float(share(ace.loc[target], units)),
                "energy": float(energy.loc[other].to_numpy()[units].mean()),
                "gain": layer.effects.gains.get(target, {}).get("gain", np.nan),
            }
        )
    return pd.DataFrame(rows)
