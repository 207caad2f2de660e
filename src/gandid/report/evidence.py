"""The evidence: every held arm against the live one, and other ways of measuring the same, as charts and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gandid.outcomes import NAMES
from gandid.report.charts import Chart, Curve, Line, curves, forest
from gandid.report.findings import MARKS, VERBS, Finding, claimed, ways, wider
from gandid.report.run import Comparison, Row, Run
from gandid.text import count, ends, listed, number, percent, points
from gandid.verdicts import CAUSED, PREVENTED, SOLID
from gandid.verdicts import verdict as verdict_of

AXIS = "live minus held, percentage points"
# Other ways of measuring an effect, by their contrast in effects.csv.
WAYS = {
    "second": "second segmenter",
    "corrected": "confusions undone",
    "gap": "trends off by the gap",
    "trend": "trends off as at first",
    "networks": "networks as draws",
}
# Shares of an object's pixels below this are not worth a line.
VISIBLE = 0.005
Groups = list[tuple[str, list[Line]]]


def overview(run: Run, outcome: str, found: Sequence[Finding]) -> Chart:
    """Live minus held around 0, for all targets: the regime that the verdict is on, then the others."""
    groups: Groups = []
    for one in found:
        lines = []
        for regime in run.shown(one.target):
            row = run.row(one.target, outcome, regime)
            if row and row["estimable"]:
                each = [100 * value for value in run.each(one.target, outcome, regime)]
                lines.append(line(regime.label, row, _ink(run, regime), each))
        groups += [(one.target, lines)] if lines else []
    words = {CAUSED: "more because of normalization for", PREVENTED: "less because of normalization for"}
    names = {
        verdict: [one.target for one in found if outcome in one.rows and one.rows[outcome]["verdict"] == verdict]
        for verdict in words
    }
    changes = [f"{words[verdict]} {listed(those)}" for verdict, those in names.items() if those]
    title = f"{_name(outcome)}: {' and '.join(changes) or 'no difference that is both relevant and settled'}"
    return around_zero(title, groups, AXIS, 100 * run.relevant)


def other_ways(run: Run, outcome: str, found: Sequence[Finding]) -> Chart | None:
    """The leading effect of every target as measured, and measured in other ways; None if there are none."""
    groups: Groups = []
    for one in found:
        rows = [(name, row) for way, name in WAYS.items() for row in _known(ways(run, one, outcome, way))[:1]]
        if rows and outcome in one.rows:
            lines = [line("as measured", one.rows[outcome], "live")]
            lines += [line(name, row, f"arm{1 + list(WAYS.values()).index(name)}") for name, row in rows]
            groups.append((f"{one.target}, {one.regime.label}", lines))
    if not groups:
        return None
    agree = sum(all((one.value > 0) == (lines[0].value > 0) for one in lines) for _, lines in groups)
    title = f"{_name(outcome)}: the same sign in every way for {agree} of {count(len(groups), 'object')}"
    return around_zero(title, groups, AXIS, 100 * run.relevant)


def dose(run: Run, target: str) -> Chart | None:
    """Live minus held against the dose, held fully and in part; None where it was not measured."""
    panels = []
    for outcome in run.pair:
        found = []
        for regime in run.regimes:
            rows = run.whole("networks" if regime.networks else "dose", target, outcome)
            rows = [row for row in rows if row["arm"] == regime.name and row["segmenter"] == rows[0]["segmenter"]]
            found += [_curve(regime.label, "dose", rows, _ink(run, regime))] if _known(rows) else []
        partly = run.whole("surface", target, outcome)
        for arm in dict.fromkeys(row["arm"] for row in partly):
            rows = [row for row in partly if row["arm"] == arm]
            found += [_curve(arm, "dose", rows, _ink(run, Comparison((arm,))))] if _known(rows) else []
        panels.append((outcome, found))
    if not any(found for _, found in panels):
        return None
    return _against(run, target, panels, "share of the edit carried out")


def strength(run: Run, target: str) -> Chart | None:
    """Live minus held against how far the sites are held, with a band that holds at all strengths; None where it was not measured."""
    graded = run.graded(target)
    names = [regime.name for regime in graded]
    panels = []
    for outcome in run.pair if graded else ():
        rows = [row for row in run.whole("strength", target, outcome) if {row["arm"]} & {*names, graded[-1].whole}]
        rows = [row | {"ci_low": row["band_low"], "ci_high": row["band_high"]} for row in rows]
        panels.append((outcome, [_curve(graded[-1].label, "strength", rows, _ink(run, graded[-1]))]))
    return _against(run, target, panels, "strength of the hold") if panels else None


def sites(run: Run, target: str) -> Chart | None:
    """Shares of the normalizations in the effect; None where they were not measured."""
    groups: Groups = []
    for outcome in run.pair:
        lines = [line(str(row["site"]), row, "arm2") for row in _known(run.whole("share", target, outcome))]
        groups += [(_name(outcome), lines)] if lines else []
    if not groups:
        return None
    name, lines = max(groups, key=lambda group: max(abs(line.value) for line in group[1]))
    top = max(lines, key=lambda line: abs(line.value))
    title = f"{top.label} has the largest share, {number(top.value)} points of {name.lower()}"
    return around_zero(
        f"Sites: {'all held at once is out of range' if top.hollow else title}",
        groups,
        "share in live minus held, percentage points",
    )


def placebos(run: Run, target: str) -> Chart | None:
    """The effect of the target's own units among those of random ones; None where they were not measured."""
    groups: Groups = []
    beyond = []
    for outcome in run.pair:
        lines = []
        for regime in run.regimes:
            rows = [row for row in _known(run.whole("placebo", target, outcome)) if row["arm"] == regime.name]
            own = [100 * row["did"] for row in rows if row["draw"] == 0]
            others = [100 * row["did"] for row in rows if row["draw"] > 0]
            if own and others:
                smaller = sum(abs(other) < abs(own[0]) for other in others)
                sound = run.supported(target, regime)
                beyond += [smaller == len(others)] if sound else []
                text = f"beyond {smaller} of {len(others)}"
                lines.append(Line(regime.label, own[0], own[0], own[0], text, _ink(run, regime), not sound, others))
        groups += [(_name(outcome), lines)] if lines else []
    if not groups:
        return None
    where = f"{sum(beyond)} of {count(len(beyond), 'effect')} in range {'lie' if sum(beyond) != 1 else 'lies'} beyond"
    return around_zero(f"Random units: {where} all of theirs", groups, AXIS)


def table(run: Run, target: str) -> dict[str, Any]:
    """What became of the target's place, class by class, live and in every regime."""
    regimes = run.shown(target)
    painted = [{row["object"]: row for row in run.rows(target, run.pair.others, regime)} for regime in regimes]
    lines = [_cells(run.pair.own, [run.row(target, run.pair.own, regime) for regime in regimes])]
    for name, first in painted[0].items():
        rows = [found[name] for found in painted]
        largest = max(abs(row[key]) for row in rows for key in ("tau_live", "tau_held"))
        if first["kind"] == "together" or largest >= VISIBLE:
            verb = "lost by" if run.inserts else "became"
            named = {"together": f"{verb} other objects", "unknown": f"{'lost by ' * run.inserts}not recognized"}
            label = named.get(first["kind"], f"{verb} {name}")
            lines.insert(1 if first["kind"] == "together" else len(lines), _cells(label, rows))
    heads = [{"label": regime.label, "outside": not run.supported(target, regime)} for regime in regimes]
    return {"heads": heads, "lines": lines}


def _cells(label: str, rows: Sequence[Row | None]) -> dict[str, Any]:
    found = [row for row in rows if row is not None]
    cells = [
        {"held": percent(row["tau_held"]), "did": points(row), "verdict": row["verdict"], "mark": MARKS[row["verdict"]]}
        | {"wider": [" ".join(one) for one in wider(row).items()]}
        for row in found
    ]
    return {"label": label, "live": percent(found[0]["tau_live"]), "cells": cells}


def _known(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if not np.isnan(row["did"])]


def line(label: str, row: Row, ink: str, dots: Sequence[float] = ()) -> Line:
    """A row of effects as a line of a forest plot."""
    low, high = ends(row)
    return Line(label, 100 * row["did"], 100 * low, 100 * high, points(row), ink, not row["supported"], dots)


def around_zero(title: str, groups: Groups, axis: str, relevant: float = 0.0) -> Chart:
    """Groups of estimates as a forest plot that says its numbers to those who do not see it."""
    texts = [
        f"{name}: {'; '.join(f'{one.label} {number(one.value)}, {one.text}' for one in lines)}"
        for name, lines in groups
    ]
    return forest(title, f"Chart. {title}. {'. '.join(texts)}.", groups, axis, relevant)


def _against(run: Run, target: str, panels: Sequence[tuple[str, list[tuple[Curve, list[Row]]]]], axis: str) -> Chart:
    """Live minus held against the dose or the strength, under the largest effect in range that is seen."""
    lines, largest = [], (0.0, "no difference that is both relevant and settled")
    name = axis.split()[0]
    for outcome, found in panels:
        for curve, rows in found:
            values = [f"{at:g} {points(row)}" for at, row in zip(curve.at[-len(rows) :], rows, strict=True)]
            lines.append(f"{_name(outcome)}, live minus {curve.label} by {name}: {', '.join(values)}")
            for at, row in zip(curve.at[-len(rows) :], rows, strict=True):
                if abs(row["did"]) > largest[0] and verdict_of(row, run.relevant) in SOLID:
                    verb = VERBS[outcome, CAUSED if row["did"] > 0 else PREVENTED].removeprefix("Normalization ")
                    text = f"at {at:g} normalization {verb} {claimed(row, f'the {target}')} ({curve.label})"
                    largest = (abs(row["did"]), text)
    title = f"{'Dose' if name == 'share' else 'Strength'}: {largest[1]}"
    drawn = [(f"{_name(outcome)}: live minus held, points", [curve for curve, _ in found]) for outcome, found in panels]
    return curves(title, f"Chart. {title}. {'. '.join(lines)}.", drawn, axis, 100 * run.relevant)


def _curve(label: str, key: str, rows: Sequence[Row], ink: str) -> tuple[Curve, list[Row]]:
    """A curve from 0, where live and held are the same, with the rows that it is made of."""
    rows = sorted((row for row in _known(rows) if row[key] > 0), key=lambda row: row[key])
    names = ("did", "ci_low", "ci_high")
    value, low, high = 100 * np.array([[0.0] * 3, *([row[name] for name in names] for row in rows)]).T
    at = np.array([0.0, *(row[key] for row in rows)])
    return Curve(label, at, value, low, high, ink, [True, *(bool(row["supported"]) for row in rows)]), rows


def _name(outcome: str) -> str:
    return NAMES[outcome].capitalize()


def _ink(run: Run, regime: Comparison) -> str:
    """The colour of a regime, and with it its mark; what is held in part has that of what is held fully."""
    known = [regime.whole in one.names for one in run.regimes]
    return f"arm{known.index(True) % 6 + 1}" if any(known) else "arm1"
