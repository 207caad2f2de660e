"""The evidence: every held arm against the live one, and other ways of measuring the same, as charts and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from gandid.report.charts import Chart, Curve, Line, curves, forest
from gandid.report.findings import MARKS, NAMES, OUTCOMES, VERBS, Finding
from gandid.report.run import Comparison, Row, Run
from gandid.report.text import count, ends, listed, number, percent, points, size
from gandid.verdicts import CAUSED, PREVENTED

AXIS = "live minus held, percentage points"
# Ways of measuring an effect, by their contrast in effects.csv.
WAYS = {
    "did": "as measured",
    "second": "second segmenter",
    "corrected": "confusions undone",
    "gap": "trends off by the gap",
    "trend": "trends off as at first",
    "networks": "networks as draws",
}
# Shares of an object's pixels below this are not worth a line.
VISIBLE = 0.005
Groups = list[tuple[str, list[Line]]]


def overview(run: Run, outcome: str) -> Chart:
    """Live minus held around 0, for all targets and regimes."""
    groups: Groups = []
    found: dict[str, list[str]] = {CAUSED: [], PREVENTED: []}
    for target in run.targets:
        rows = [(regime, run.row(target, outcome, regime)) for regime in run.regimes]
        lines = [_line(regime.label, row, _ink(run, regime)) for regime, row in rows if row and row["estimable"]]
        groups += [(target, lines)] if lines else []
        for verdict, names in found.items():
            names += [target] if any(row and row["verdict"] == verdict for _, row in rows) else []
    words = {CAUSED: "more because of normalization for", PREVENTED: "less because of normalization for"}
    said = [f"{words[verdict]} {listed(names)}" for verdict, names in found.items() if names]
    title = f"{_name(outcome)}: {' and '.join(said) or 'no difference that is both relevant and settled'}"
    return _forest(title, groups, AXIS, 100 * run.relevant)


def other_ways(run: Run, outcome: str, found: Sequence[Finding]) -> Chart | None:
    """The leading effect of every target as measured, and measured in other ways; None if there are none."""
    groups: Groups = []
    for one in found:
        lines = []
        for place, (contrast, name) in enumerate(WAYS.items()):
            rows = run.whole(contrast, one.target, outcome)
            rows = rows[rows["arm"].isin(one.regime.names) & rows["did"].notna()]
            lines += [_line(name, row, f"arm{place}" if place else "live") for row in rows[:1].to_dict("records")]
        if len(lines) > 1:
            groups.append((f"{one.target}, {one.regime.label}", lines))
    if not groups:
        return None
    agree = sum(all((one.value > 0) == (lines[0].value > 0) for one in lines) for _, lines in groups)
    title = f"{_name(outcome)}: the same sign in every way for {agree} of {count(len(groups), 'object')}"
    return _forest(title, groups, AXIS, 100 * run.relevant)


def dose(run: Run, target: str) -> Chart | None:
    """Live and held against the dose; None where it was not measured."""
    panels, told, largest = [], [], (0.0, "live and held do not differ beyond noise")
    for outcome in OUTCOMES:
        found: list[Curve] = []
        for regime, rows in _by_regime(run, run.whole("dose", target, outcome), "@", "dose"):
            rows = rows.sort_values("dose")
            sound = run.supported(target, regime)
            found += [] if found else [_curve("live", rows, "live", "live", False)]
            found.append(_curve(regime.label, rows, "held", _ink(run, regime), not sound))
            said = [f"{100 * row['dose']:.0f} % {number(100 * row['did'])}" for row in rows.to_dict("records")]
            told.append(f"{_name(outcome)}, live minus {regime.label} by dose: {', '.join(said)}")
            clear = rows[(rows["ci_low"] > 0) | (rows["ci_high"] < 0)]
            if sound and regime == run.leading(target) and len(clear):
                row = max(clear.to_dict("records"), key=lambda row: abs(row["did"]))
                verb = VERBS[outcome, CAUSED if row["did"] > 0 else PREVENTED].removeprefix("Normalization ")
                text = f"normalization {verb} {size(row)} of it at {100 * row['dose']:.0f} % of the ablation ({regime.label})"
                largest = max(largest, (abs(row["did"]), text))
        partly = run.whole("surface", target, outcome)
        for place, (arm, rows) in enumerate(partly.groupby("arm", sort=False)):
            label, ink = str(arm).removeprefix("capped:all@"), f"arm{(len(run.regimes) + place) % 6 + 1}"
            found.append(_curve(label, rows.sort_values("dose"), "held", ink, not rows["supported"].all()))
        if found:
            panels.append((f"{_name(outcome)}, % of the {target}’s pixels", found))
    if not panels:
        return None
    title = f"Dose: {largest[1]}"
    return curves(title, f"Chart. {title}. {'. '.join(told)}.", panels)


def strength(run: Run, target: str) -> Chart | None:
    """Live and held against how far the sites are held, with a band that holds at all strengths; None where it was not measured."""
    graded = run.graded(target)
    if not graded:
        return None
    whole, names = graded[-1], [name for regime in graded for name in regime.names]
    reach = [
        0.0,
        *(1.0 if one == whole else float(one.name.split("@k")[1]) for one in graded if run.supported(target, one)),
    ]
    panels, told = [], []
    for outcome in OUTCOMES:
        rows = run.whole("strength", target, outcome)
        rows = rows[rows["arm"].isin(names)].sort_values("strength")
        live, values = (
            100 * float(rows["tau_live"].iloc[0]),
            100 * rows[["did", "band_low", "band_high"]].to_numpy(float),
        )
        held, high, low = np.concatenate([np.full((1, 3), live), live - values]).T
        doses = np.array([0.0, *rows["strength"]])
        flat = np.full(len(doses), live)
        held_curve = Curve(whole.label, doses, held, low, high, _ink(run, whole), reach=max(reach))
        panels.append(
            (
                f"{_name(outcome)}, % of the {target}’s pixels",
                [Curve("live", doses, flat, flat, flat, "live"), held_curve],
            )
        )
        slopes = run.whole("slope", target, outcome)
        slope: list[Any] = slopes[slopes["arm"] == graded[0].name].to_dict("records")
        said = [f"{row['strength']:g} {points(row)}" for row in rows.to_dict("records")]
        told.append(f"{_name(outcome)}, live minus held by strength: {', '.join(said)}; slope at 0: {points(slope[0])}")
    title = f"Strength: in range up to {max(reach):g}" if max(reach) else "Strength: none in range"
    return curves(
        title, f"Chart. {title}. {'. '.join(told)}.", panels, "strength of the hold; dashed where out of range"
    )


def sites(run: Run, target: str) -> Chart | None:
    """Shares of the normalizations in the effect; None where they were not measured."""
    groups: Groups = []
    for outcome in OUTCOMES:
        rows = run.whole("share", target, outcome)
        lines = [_line(str(row["site"]), row, "arm2") for row in rows[rows["did"].notna()].to_dict("records")]
        groups += [(_name(outcome), lines)] if lines else []
    if not groups:
        return None
    name, lines = max(groups, key=lambda group: max(abs(line.value) for line in group[1]))
    top = max(lines, key=lambda line: abs(line.value))
    title = f"{top.label} has the largest share, {number(top.value)} points of {name.lower()}"
    return _forest(
        f"Sites: {'all held at once is out of range' if top.hollow else title}",
        groups,
        "share in live minus held, percentage points",
    )


def placebos(run: Run, target: str) -> Chart | None:
    """The effect of the target's own units among those of random ones; None where they were not measured."""
    groups: Groups = []
    beyond = []
    for outcome in OUTCOMES:
        lines = []
        for regime, rows in _by_regime(run, run.whole("placebo", target, outcome), "#", "draw"):
            own, others = (100 * rows.loc[chosen, "did"].dropna() for chosen in (rows["draw"] == 0, rows["draw"] > 0))
            if len(own) and len(others):
                value, smaller = float(own.iloc[0]), int((others.abs() < abs(own.iloc[0])).sum())
                sound = run.supported(target, regime)
                beyond += [smaller == len(others)] if sound else []
                text = f"beyond {smaller} of {len(others)}"
                lines.append(Line(regime.label, value, value, value, text, _ink(run, regime), not sound, tuple(others)))
        groups += [(_name(outcome), lines)] if lines else []
    if not groups:
        return None
    where = f"{sum(beyond)} of {count(len(beyond), 'effect')} in range {'lie' if sum(beyond) != 1 else 'lies'} beyond"
    return _forest(f"Random units: {where} all of theirs", groups, AXIS)


def table(run: Run, target: str) -> dict[str, Any]:
    """What became of the target's place, class by class, live and in every regime."""
    painted = [{row["object"]: row for row in run.rows(target, "inpainted", regime)} for regime in run.regimes]
    lines = [_cells("removed", [run.row(target, "removed", regime) for regime in run.regimes])]
    for name, first in painted[0].items():
        rows = [found[name] for found in painted]
        largest = max(abs(row[key]) for row in rows for key in ("tau_live", "tau_held"))
        if first["kind"] == "together" or largest >= VISIBLE:
            label = {"together": "became other objects", "unknown": "not recognized"}.get(
                first["kind"], f"became {name}"
            )
            lines.insert(1 if first["kind"] == "together" else len(lines), _cells(label, rows))
    heads = [{"label": regime.label, "outside": not run.supported(target, regime)} for regime in run.regimes]
    return {"heads": heads, "lines": lines}


def _cells(label: str, rows: Sequence[Row | None]) -> dict[str, Any]:
    found = [row for row in rows if row is not None]
    cells = [
        {"held": percent(row["tau_held"]), "did": points(row), "verdict": row["verdict"], "mark": MARKS[row["verdict"]]}
        for row in found
    ]
    return {"label": label, "live": percent(found[0]["tau_live"]), "cells": cells}


def _by_regime(run: Run, table: pd.DataFrame, mark: str, key: str) -> list[tuple[Comparison, pd.DataFrame]]:
    """The rows of each regime, of arms that are named after it and a `mark`; those of identical arms once."""
    table = table[table["did"].notna()]
    arms = table["arm"].str.split(mark).str[0]
    found = [(regime, table[arms.isin(regime.names)].drop_duplicates(key)) for regime in run.regimes]
    return [(regime, rows) for regime, rows in found if len(rows)]


def _forest(title: str, groups: Groups, axis: str, relevant: float = 0.0) -> Chart:
    said = [
        f"{name}: {'; '.join(f'{one.label} {number(one.value)}, {one.text}' for one in lines)}"
        for name, lines in groups
    ]
    return forest(title, f"Chart. {title}. {'. '.join(said)}.", groups, axis, relevant)


def _name(outcome: str) -> str:
    return NAMES[outcome].capitalize()


def _ink(run: Run, regime: Comparison) -> str:
    """The colour of a regime, and with it its mark."""
    return f"arm{run.regimes.index(regime) % 6 + 1}"


def _line(label: str, row: Row, ink: str) -> Line:
    low, high = ends(row)
    return Line(label, 100 * row["did"], 100 * low, 100 * high, points(row), ink, not row["supported"])


def _curve(label: str, rows: pd.DataFrame, which: str, ink: str, hollow: bool) -> Curve:
    names = (f"tau_{which}", f"ci_{which}_low", f"ci_{which}_high")
    value, low, high = (100 * rows[name].to_numpy(float) for name in names)
    return Curve(label, rows["dose"].to_numpy(float), value, low, high, ink, hollow)
