"""The figures of the evidence: dose-response, shares of the sites, random units, other ways of measuring.

Each is drawn twice: for a file, all panels side by side under a title, and for the page, of a phone's width. Styles are those
of `gandid.report.figures`; an arm out of support is dashed and hollow, and the scales are those of what is claimed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy.optimize import isotonic_regression

from gandid.did.placebos import permuted
from gandid.did.totals import TOGETHER
from gandid.did.words import VISIBLE
from gandid.report.figures import INK, MUTED, PAPER, RULE, arm_style, mark_size, styled
from gandid.report.folder import Arm, Run
from gandid.report.text import signed

# Inches: of a plot, of the numbers left of it, of its title, of the axis under it, and between two panels.
PLOT, TICKS, TITLE, AXIS, GAP = 1.5, 0.42, 0.3, 0.4, 0.15
NARROW = 3.3  # of a stacked figure, at least: letters must not grow in the page
CURVE, SHARES, LINE = 1.3, 1.1, 0.175  # heights of a curve's panel, of one of shares, and of a row of marks
LETTER, LONGEST = 0.064, 20  # inches per letter of a label, and letters of the longest
MOVERS = 2  # objects that have a dose-response of their own
DASHES = (0, (2.5, 1.5))
# Seen of a target: the target itself, and what all other objects together take.
OUTCOMES = ("removed", "inpainted")
# What a row of the forest is, as it is written beside it.
VARIATIONS = {
    "as measured": "as measured",
    "second segmenter": "second segmenter",
    "confusion corrected": "confusion corrected",
    "parallel trends off by the gap": "trends off by the gap",
    "parallel trends off as at the lowest dose": "trends off as at first",
}


@dataclass(frozen=True)
class Panel:
    """One panel of a figure: its title, the height of its plot, the inches beside it, and what draws it."""

    title: str
    height: float
    before: float
    after: float
    draw: Callable[[Axes], None]
    below: float = AXIS


def object_of(target: str, outcome: str) -> str:
    """The object that an outcome's whole effect is about: the target, or all others together."""
    return target if outcome == "removed" else TOGETHER


def arms_of(run: Run, table: pd.DataFrame) -> list[Arm]:
    """The held arms that a table has rows of; arms that are the same are one."""
    there = set(table["arm"])
    return [arm for arm in run.arms if there.intersection(arm.names)]


def of_arm(table: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """The rows of a held arm, under the first of its names that the table has."""
    name = next(name for name in arm.names if (table["arm"] == name).any())
    return table[table["arm"] == name]


def of(table: pd.DataFrame, target: str, outcome: str, name: str | None = None) -> pd.DataFrame:
    """The rows of a target's outcome: of its whole effect, or of one object's share in it."""
    named = object_of(target, outcome) if name is None else name
    return table[(table["target"] == target) & (table["outcome"] == outcome) & (table["object"] == named)]


def dose(run: Run, target: str) -> Figure:
    """Live and held against the share of the edit, with bands: removed, in-painted by other objects, by those that move most."""
    return _side_by_side(f"{target} ablated, dose by dose", _dose(run, target), per_row=2)


def dose_stacked(run: Run, target: str) -> Figure:
    """The same for the page."""
    return _stacked(_dose(run, target))


def shapley(run: Run) -> Figure:
    """Shares of the sites in the DID, shallow to deep, for all targets."""
    table = run.evidence["shapley"]
    targets = [target for target in run.targets if run.estimable(target) and (table["target"] == target).any()]
    panels = [replace(panel, title=f"{target} {panel.title}") for target in targets for panel in _shapley(run, target)]
    return _side_by_side("Which normalization makes the effect: shares in points", panels, per_row=4)


def shapley_stacked(run: Run, target: str) -> Figure:
    """The shares of one target for the page."""
    return _stacked(_shapley(run, target))


def placebos(run: Run, target: str) -> Figure:
    """The DID of the target's own units among those of random sets of units."""
    return _side_by_side(f"{target}’s own units among random ones", _placebos(run, target), per_row=2)


def placebos_stacked(run: Run, target: str) -> Figure:
    """The same for the page."""
    return _stacked(_placebos(run, target))


def forest(run: Run, target: str) -> Figure:
    """The DID as measured, and in other ways of measuring it."""
    return _side_by_side(f"{target} ablated: how wrong could we be", _forest(run, target), per_row=2)


def forest_stacked(run: Run, target: str) -> Figure:
    """The same for the page."""
    return _stacked(_forest(run, target))


def movers(run: Run, target: str) -> list[str]:
    """The objects whose in-painting normalization changes most at the full dose, among arms in support."""
    table = run.evidence["dose"]
    rows = table[(table["target"] == target) & (table["outcome"] == "inpainted") & (table["kind"] == "object")]
    sound = [name for arm in run.arms if run.supported(target, arm) for name in arm.names]
    rows = rows[(rows["alpha"] == rows["alpha"].max()) & rows["arm"].isin(sound)]
    size = rows["did"].abs().groupby(rows["object"]).max()
    return [str(name) for name in size[size >= VISIBLE / 2].nlargest(MOVERS).index]


def leading(run: Run, target: str) -> list[Arm]:
    """One arm per control: of those in support, if there are any, the one that holds most (`all`, else the last); each twin for itself."""
    chosen: set[str] = set()
    for control in dict.fromkeys(run.effects.frame["control"]):
        names = [(arm, name) for arm in run.arms for name in arm.names if name.startswith(f"{control}:")]
        names = [(arm, name) for arm, name in names if run.supported(target, arm)] or names
        whole = [name for _, name in names if name == f"{control}:all"]
        # Several twins are several networks.
        chosen.update([name for _, name in names] if control == "twin" else whole or [names[-1][1]])
    return [arm for arm in run.arms if chosen.intersection(arm.names)]


def _dose(run: Run, target: str) -> list[Panel]:
    rows = [(f"removed, % of {target}", "removed", target), ("in-painted by other objects, %", "inpainted", TOGETHER)]
    rows += [(f"in-painted by {name}, %", "inpainted", name) for name in movers(run, target)]
    table = run.evidence["dose"]
    return [
        Panel(
            title,
            CURVE,
            TICKS,
            _beside(["live", *(brief(arm.label) for arm in run.arms)]) + 0.12,
            partial(_curves, run=run, target=target, table=part),
        )
        for title, outcome, name in rows
        for part in [of(table, target, outcome, name)]
        if len(part) and part["tau_live"].notna().any()
    ]


def _curves(axes: Axes, run: Run, target: str, table: pd.DataFrame) -> None:
    held = arms_of(run, table)
    lines: list[tuple[Arm | None, pd.DataFrame]] = [(None, of_arm(table, held[0]))]
    lines += [(arm, of_arm(table, arm)) for arm in held]
    tops, ends, bands = [], [], []
    for arm, rows in lines:
        rows = rows.sort_values("alpha")
        colour, mark = arm_style(run, arm)
        sound = arm is None or run.supported(target, arm)
        which = "live" if arm is None else "held"
        alpha = rows["alpha"].to_numpy()
        value, low, high = (
            100 * rows[name].to_numpy() for name in (f"tau_{which}", f"ci_{which}_low", f"ci_{which}_high")
        )
        if sound:
            bands.append((alpha, low, high, colour))
            tops.append(np.nanmax([*value, *high[np.isfinite(high)]]))
        axes.plot(alpha, value, color=colour, linewidth=1.5 if arm is None else 1.1, linestyle="-" if sound else DASHES)
        ends.append((value[-1], "live" if arm is None else arm.label, colour, mark, sound))
    limit = 1.06 * max(max(tops), 0.1)
    for alpha, low, high, colour in bands:
        # Where one or two latents carry an effect its interval has no end.
        low, high = np.clip(low, 0, limit), np.clip(high, 0, limit)
        axes.fill_between(alpha, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.01 * limit, limit)
    axes.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("share of the ablation carried out", labelpad=1)
    height = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    shown = [min(max(value, 0), limit) for value, *_ in ends]
    places = apart(np.array(shown), 0.145 / height * limit, 0, limit)
    for (value, label, colour, mark, sound), at, place in zip(ends, shown, places, strict=True):
        joint: dict[str, Any] = dict(color=colour, linewidth=0.7, clip_on=False, zorder=1)
        axes.plot([1, 1.07], [at, place], linestyle="-" if sound else DASHES, **joint)
        face = colour if sound else PAPER
        axes.plot(
            [1.07],
            [place],
            marker=mark,
            markersize=mark_size(mark, 4),
            color=colour,
            markerfacecolor=face,
            clip_on=False,
        )
        text = brief(label) + (" ↑" if value > limit else "")
        axes.text(1.11, place, text, va="center", fontsize=8, color=INK if sound else MUTED)


def apart(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The places nearest to those wanted that keep `gap` from each other, in the same order, between `low` and `high`."""
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    free = isotonic_regression(wanted[order] - steps).x
    result = np.empty(len(wanted))
    result[order] = np.clip(free, low, max(low, high - steps[-1])) + steps
    return result


def _shapley(run: Run, target: str) -> list[Panel]:
    table = run.evidence["shapley"]
    return [
        Panel(
            f"{title}: {signed(part['did'].iloc[0])} in all",
            SHARES,
            TICKS + 0.1,
            0.1,
            partial(_shares, run=run, rows=part),
            0.15 + 0.05 * max(map(len, sites(part["site"]))),
        )
        for title, outcome in (("removed", "removed"), ("in-painted", "inpainted"))
        for part in [of(table, target, outcome)]
        if len(part) and part["share"].notna().any()
    ]


def _shares(axes: Axes, run: Run, rows: pd.DataFrame) -> None:
    whole = next((arm for arm in run.arms if f"{rows['control'].iloc[0]}:all" in arm.names), None)
    colour = arm_style(run, whole)[0] if whole else INK
    place = np.arange(len(rows))
    share, low, high = (100 * rows[name].to_numpy() for name in ("share", "ci_low", "ci_high"))
    sound = whole is None or run.supported(str(rows["target"].iloc[0]), whole)
    finite = [value for value in (*share, *low, *high) if np.isfinite(value)]
    # Shares below a tenth of a point are not worth a scale of their own.
    least, most = min(-0.1, *finite), max(0.1, *finite)
    pad = 0.06 * (most - least)
    axes.set_ylim(least - pad, most + pad)
    axes.axhline(0, color=MUTED, linewidth=0.7)
    axes.vlines(place, 0, share, color=RULE, linewidth=4)
    ends = np.clip(low, least - pad, most + pad), np.clip(high, least - pad, most + pad)
    axes.vlines(place, *ends, color=colour, linewidth=1.3, linestyle="-" if sound else DASHES)
    clear = (low > 0) | (high < 0)
    axes.plot(place, share, linestyle="none", marker="o", markersize=4.5, color=colour, markerfacecolor=PAPER)
    axes.plot(place[clear], share[clear], linestyle="none", marker="o", markersize=4.5, color=colour)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xticks(place, sites(rows["site"]), rotation=40, ha="right", rotation_mode="anchor")
    axes.tick_params(axis="x", length=0, pad=1)
    _points(axes.yaxis)


def sites(names: pd.Series) -> list[str]:
    """Names of sites for an axis: without the ``.norm`` that all of them end with."""
    short = names.str.removesuffix(".norm") if names.str.endswith(".norm").all() else names
    return [_short(name, 12) for name in short]


def _placebos(run: Run, target: str) -> list[Panel]:
    table = run.evidence["placebos"]
    titles = {"removed": "DID of removed", "inpainted": "DID of in-painted by other objects"}
    return [
        Panel(
            titles[outcome],
            2 * LINE * len(arms),
            _beside([brief(arm.label) for arm in arms]),
            0.72,
            partial(_random, run=run, target=target, table=part, arms=arms),
        )
        for outcome in OUTCOMES
        for part in [of(table, target, outcome)]
        for arms in [arms_of(run, part)]
        if arms and part["did"].notna().any()
    ]


def _random(axes: Axes, run: Run, target: str, table: pd.DataFrame, arms: Sequence[Arm]) -> None:
    heights = np.arange(len(arms))[::-1]
    seen = [0.0]
    axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)
    for height, arm in zip(heights, arms, strict=True):
        own, others, p = permuted(of_arm(table, arm))
        colour, mark = arm_style(run, arm)
        sound = run.supported(target, arm)
        # Golden ratios spread neighbouring draws over the height, the same in every run.
        jitter = (np.arange(len(others)) * 0.618034 % 1 - 0.5) * 0.56
        axes.plot(100 * others, height + jitter, linestyle="none", marker="o", markersize=2.6, color=MUTED, alpha=0.55)
        axes.vlines(
            100 * own, height - 0.4, height + 0.4, color=colour, linewidth=1.6, linestyle="-" if sound else DASHES
        )
        axes.plot(
            [100 * own],
            [height],
            marker=mark,
            markersize=mark_size(mark, 5.5),
            color=colour,
            markerfacecolor=colour if sound else PAPER,
        )
        said: dict[str, Any] = dict(va="center", fontsize=8, color=INK if sound else MUTED)
        axes.text(1.04, height, f"p = {p:.3f}", transform=axes.get_yaxis_transform(), **said)
        seen += [100 * own, *(100 * others)]
    low, high = min(seen), max(seen)
    pad = 0.06 * max(high - low, 0.1)
    axes.set_xlim(low - pad, high + pad)
    _rows(axes, heights, [brief(arm.label) for arm in arms])
    _points(axes.xaxis)
    axes.set_xlabel("live − held, points", labelpad=1)


def _forest(run: Run, target: str) -> list[Panel]:
    table = run.evidence["sensitivity"]
    titles = {"removed": "DID of removed", "inpainted": "DID of in-painted by other objects"}
    panels = []
    for outcome in OUTCOMES:
        part = of(table, target, outcome)
        part = part[part["did"].notna()]
        lines = list(_lines(run, target, part))
        if lines:
            draw = partial(_ways, run=run, target=target, lines=lines)
            tall = LINE * (_heights(lines)[0] + 1.2)
            panels.append(Panel(titles[outcome], tall, _beside([text for _, _, text in lines], 22), 0.55, draw))
    return panels


def _lines(run: Run, target: str, table: pd.DataFrame) -> Iterator[tuple[Arm, Mapping[Any, Any] | None, str]]:
    """Lines of a forest from top to bottom: a heading per arm, and a row per way of measuring."""
    chosen = leading(run, target)
    for arm in arms_of(run, table):
        if arm not in chosen:
            continue
        yield arm, None, brief(arm.label)
        rows = {row["variation"]: row for row in of_arm(table, arm).to_dict("records")}
        for name, text in VARIATIONS.items():
            if name in rows:
                yield arm, rows[name], text


def _heights(lines: Sequence[tuple[Arm, Mapping[Any, Any] | None, str]]) -> np.ndarray:
    """Where the lines of a forest stand, 0 the last: a heading keeps off the rows above it."""
    steps = [1.0 if row is not None else 1.6 for _, row, _ in lines]
    places = np.cumsum(steps)
    return places[-1] - places


def _ways(axes: Axes, run: Run, target: str, lines: Sequence[tuple[Arm, Mapping[Any, Any] | None, str]]) -> None:
    heights = _heights(lines)
    sound = {arm.name: run.supported(target, arm) for arm, _, _ in lines}
    measured = [row for arm, row, _ in lines if row is not None and not row["variation"].startswith("parallel trends")]
    claimed = [row for row in measured if any(sound[arm.name] and row["arm"] in arm.names for arm, _, _ in lines)]
    ends = [100 * row[name] for row in (claimed or measured) for name in ("did", "ci_low", "ci_high")]
    ends = [0.0, *(end for end in ends if np.isfinite(end))]
    pad = 0.25 * max(max(ends) - min(ends), 0.1)
    low, high = min(ends) - pad, max(ends) + pad
    axes.axvline(0, color=MUTED, linewidth=0.7, zorder=0)
    for height, (arm, row, _) in zip(heights, lines, strict=True):
        if row is None:
            continue
        colour, mark = arm_style(run, arm)
        value, left, right = (100 * row[name] for name in ("did", "ci_low", "ci_high"))
        if np.isnan(left):
            left = right = value
        first = row["variation"] == "as measured"
        look: dict[str, Any] = dict(
            color=colour, linestyle="-" if sound[arm.name] else DASHES, linewidth=1.8 if first else 1.1
        )
        axes.plot([max(left, low), min(right, high)], [height, height], **look)
        for end, edge, arrow in ((left, low, "<"), (right, high, ">")):
            if (end < low) if arrow == "<" else (end > high):
                axes.plot([edge], [height], marker=arrow, markersize=4, color=colour, clip_on=False)
        if low <= value <= high:
            face = colour if first and sound[arm.name] else PAPER
            axes.plot(
                [value], [height], marker=mark, markersize=mark_size(mark, 4.6), color=colour, markerfacecolor=face
            )
        said: dict[str, Any] = dict(va="center", fontsize=8, color=INK if sound[arm.name] else MUTED)
        axes.text(1.08, height, signed(row["did"]), transform=axes.get_yaxis_transform(), **said)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, heights[0] + 0.6)
    axes.set_yticks(heights, [text for _, _, text in lines])
    axes.tick_params(axis="y", length=0, labelsize=8, pad=7)
    axes.spines["left"].set_visible(False)
    for height, label, (arm, row, _) in zip(heights, axes.get_yticklabels(), lines, strict=True):
        if row is None:
            label.set_fontweight("bold")
            if not sound[arm.name]:
                beside: dict[str, Any] = dict(transform=axes.transAxes, va="center", ha="left", fontsize=8, color=MUTED)
                axes.text(
                    0.01,
                    (height + 0.6) / (heights[0] + 1.2),
                    "out of support",
                    **beside,
                    bbox={"facecolor": PAPER, "linewidth": 0, "pad": 0.5},
                )
    _points(axes.xaxis)
    axes.set_xlabel("live − held, points", labelpad=1)


def _rows(axes: Axes, heights: np.ndarray, labels: Sequence[str]) -> None:
    axes.set_ylim(-0.55, len(heights) - 0.45)
    axes.set_yticks(heights, labels)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _points(axis: Axis) -> None:
    """Few ticks, with their sign: an axis of differences."""
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0"))


def _stacked(panels: Sequence[Panel]) -> Figure:
    """Panels one under the other, their plots on one line."""
    before, after = max(panel.before for panel in panels), max(panel.after for panel in panels)
    plot = max(PLOT, NARROW - before - after)
    width = before + plot + after
    height = sum(TITLE + panel.height + panel.below for panel in panels)
    with styled():
        figure = Figure(figsize=(width, height))
        top = height
        for panel in panels:
            _place(figure, panel, 0.02, before, top, plot)
            top -= TITLE + panel.height + panel.below
    return figure


def _side_by_side(title: str, panels: Sequence[Panel], per_row: int) -> Figure:
    """Panels in rows, under a title."""
    before, after = max(panel.before for panel in panels), max(panel.after for panel in panels)
    lines = [panels[start : start + per_row] for start in range(0, len(panels), per_row)]
    tall = [max(TITLE + panel.height + panel.below for panel in line) for line in lines]
    column = before + PLOT + after + GAP
    width, height = min(per_row, len(panels)) * column, sum(tall) + 0.35
    with styled():
        figure = Figure(figsize=(width, height))
        figure.text(0.08 / width, 1 - 0.22 / height, title, fontsize=10.5, fontweight="bold")
        top = height - 0.35
        for line, drop in zip(lines, tall, strict=True):
            for number, panel in enumerate(line):
                _place(figure, panel, 0.08 + number * column, number * column + before, top)
            top -= drop
    return figure


def _place(figure: Figure, panel: Panel, edge: float, left: float, top: float, plot: float = PLOT) -> None:
    """A panel by the inch, its title flush with the figure's edge."""
    width, height = figure.get_size_inches()
    figure.text(edge / width, (top - 0.2) / height, panel.title, fontsize=8.5, fontweight="bold")
    box = (left / width, (top - TITLE - panel.height) / height, plot / width, panel.height / height)
    panel.draw(figure.add_axes(box))


def _beside(labels: Sequence[str], longest: int = LONGEST) -> float:
    return 0.16 + LETTER * min(max(map(len, labels)), longest)


def brief(label: str) -> str:
    """An arm's label as a chart has room for it."""
    label = label.replace("twin without normalization", "twin").replace("at its mean", "at mean")
    return _short(label.replace("at their means", "at mean"))


def _short(label: str, longest: int = LONGEST) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
