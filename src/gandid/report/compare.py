"""Runs beside each other: what each says of the same objects, as a table, a chart and a page."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from gandid.errors import UsageError
from gandid.files import replacing
from gandid.outcomes import NAMES
from gandid.panel.store import explained
from gandid.report.document import style, templates
from gandid.report.evidence import AXIS, around_zero, line
from gandid.report.findings import MARKS, Finding, findings
from gandid.report.run import Run, read
from gandid.text import count, listed, points
from gandid.verdicts import SOLID

# What runs that are compared should have in common, as their panels' attributes say it, and how it is called.
SHARED = {
    "generator": "generators",
    "segmenter": "segmenters",
    "edit": "edits",
    "ablation": "ablations",
    "alpha": "doses",
    "region": "regions",
}


def compare(folders: Sequence[Path]) -> tuple[pd.DataFrame, list[Run]]:
    """What runs say of every target.

    Parameters
    ----------
    folders
        Of finished runs, two or more.

    Returns
    -------
    table : pandas.DataFrame
        A row for each run, target and outcome (`removed`, `inpainted`; `inserted`, `displaced`): `run`, `layer`, `units`
        (their number), `target`, `outcome`,
        `arm` (the held arm that speaks for the target), `tau_live`, `tau_held`, `did`, `ci_low`, `ci_high`, `n`, `verdict`, and
        `main`, whether the run's verdict on the target is about this effect; shares of the target's pixels.
    runs : list of Run

    Raises
    ------
    UsageError
        If there are fewer than two runs, one is given twice or is none.
    """
    if len({Path(folder).resolve() for folder in folders}) < max(2, len(folders)):
        raise UsageError("name two runs or more to compare, each once")
    runs, rows = [read(Path(folder)) for folder in folders], list[dict[str, Any]]()
    for run in runs:
        about: dict[str, Any] = {"run": str(run.path), "layer": str(run.attrs.get("layer", ""))}
        for one in findings(run):
            for outcome, row in one.rows.items():
                about |= {"units": len(run.units[one.target]), "target": one.target, "outcome": outcome}
                numbers = ("tau_live", "tau_held", "did", "ci_low", "ci_high", "n", "verdict")
                main = one.main is not None and one.main[0] == outcome
                rows.append(about | {"arm": one.regime.label, "main": main} | {name: row[name] for name in numbers})
    return pd.DataFrame(rows), runs


def differences(runs: Sequence[Run]) -> list[str]:
    """In what the runs differ beside what they are compared for, in a sentence each."""
    notes = []
    for name, plural in SHARED.items():
        values = list(dict.fromkeys(str({"edit": "ablate", **run.attrs}.get(name, "none")) for run in runs))
        if len(values) > 1:
            notes.append(f"The {plural} differ: {listed(values)}.")
    counts = list(dict.fromkeys(len(units) for run in runs for units in run.units.values()))
    if len(counts) > 1:
        notes.append(
            f"The numbers of units differ: {listed(map(str, sorted(counts)))}. Effects of more units are not those of a layer."
        )
    seeds = list(dict.fromkeys(str(run.attrs.get("seed", "")) for run in runs))
    if len(seeds) == 1:
        notes.append("The seed is the same: the runs see the same latents, and their intervals err together.")
    return notes


def build_comparison(runs: Sequence[Run], out: Path) -> Path:
    """Write the page of several runs, a self-contained file, at `out`."""
    labels = names_of(runs)
    found = {label: {one.target: one for one in findings(run)} for label, run in zip(labels, runs, strict=True)}
    targets = list(dict.fromkeys(target for each in found.values() for target in each))
    charts = [
        _chart(outcome, targets, found, 100 * runs[0].relevant)
        for outcome in dict.fromkeys(name for run in runs for name in run.pair)
    ]
    cells = [[_cell(found[label].get(target)) for label in labels] for target in targets]
    values = {
        "style": style(),
        "headline": agreement(runs),
        "labels": [
            (label, str(run.attrs.get("layer", "")), f"{run.latents:,}")
            for label, run in zip(labels, runs, strict=True)
        ],
        "rows": list(zip(targets, cells, strict=True)),
        "charts": charts,
        "notes": differences(runs),
    }
    with explained(out), replacing(out) as aside:
        aside.write_text(templates().get_template("compare.html.j2").render(values), encoding="utf-8")
    return out


def names_of(runs: Sequence[Run]) -> list[str]:
    """A short name for each run: the last part of its folder, or all of it where two end alike."""
    last = [run.path.name for run in runs]
    return last if len(set(last)) == len(last) else [str(run.path) for run in runs]


def agreement(runs: Sequence[Run]) -> str:
    """On which objects the verdicts of the runs agree, in one sentence."""
    verdicts: dict[str, list[str]] = {}
    for one in itertools.chain.from_iterable(map(findings, runs)):
        verdicts.setdefault(one.target, []).append(one.verdict)
    shared = {target: set(found) for target, found in verdicts.items() if len(found) > 1}
    agreed = [f"{target} ({found.pop()})" for target, found in shared.items() if len(found) == 1]
    apart = len(shared) - len(agreed)
    if not shared:
        return f"{len(runs)} runs have no object in common."
    if not agreed:
        return f"The verdicts of {len(runs)} runs differ on {'each of ' * (apart > 1)}{count(apart, 'object')}."
    return f"{len(runs)} runs agree on {listed(agreed)}{f', and differ on {apart} of {len(shared)} objects' if apart else ''}."


def _chart(outcome: str, targets: Sequence[str], by_run: dict[str, dict[str, Finding]], relevant: float) -> Markup:
    groups, solid = [], []
    for target in targets:
        rows = {label: found[target].rows.get(outcome) for label, found in by_run.items() if target in found}
        lines = [
            line(label, row, f"arm{list(by_run).index(label) % 6 + 1}")
            for label, row in rows.items()
            if row is not None and row["estimable"]
        ]
        groups += [(target, lines)] if lines else []
        matter = sum(row is not None and row["verdict"] in SOLID for row in rows.values())
        solid += [f"{target} in {matter}"] if matter else []
    which = (
        f"normalization matters to {listed(solid)} of {len(by_run)} runs" if solid else "nothing relevant and settled"
    )
    return around_zero(f"{NAMES[outcome].capitalize()}: {which}", groups, AXIS, relevant).svg()


def _cell(one: Finding | None) -> dict[str, str] | None:
    """What a run says of a target; None where it has no such target."""
    if one is None:
        return None
    mark, sign = MARKS[one.verdict]
    text = f"{NAMES[one.main[0]]} {points(one.main[1])}" if one.main else ""
    return {"verdict": one.verdict, "mark": mark, "sign": sign, "text": text, "arm": one.regime.label}
