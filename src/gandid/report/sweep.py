"""The report of a sweep: how effects move with depth, and claim 2, on one page with links to the layers' own.

Everything is read from the sweep's tables; nothing is estimated here.
"""

import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import yaml
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gandid.did import claim2
from gandid.did.words import SHOWN, VISIBLE
from gandid.errors import UsageError
from gandid.files import replacing
from gandid.report import figures
from gandid.report.environment import templates
from gandid.report.figures import HELD, INK, LIVE, MUTED, PAPER, RULE
from gandid.report.folder import label
from gandid.report.text import number, percent, signed, slugs, small, typeset

PER_LINE = 6  # targets side by side in the figure
NAMED = 3  # pairs that carry their names in the scatter, and effects that a sentence names, at most
OUTSTANDING = 2.5  # standard deviations from the mean of all pairs, from which a pair is named
# What is drawn of a target over depth, from top to bottom: outcome, what of it, what the axis says.
LINES = (
    ("removed", "levels", "removed, %"),
    ("removed", "did", "DID of removed"),
    ("inpainted", "levels", "in-painted, %"),
    ("inpainted", "did", "DID of in-painted"),
)
# What is said of a DID: outcome, its name, and what it is above and below 0.
OUTCOMES = (
    ("removed", "removal", "where more is removed", "of self-repair"),
    ("inpainted", "in-painting by all objects together", "where normalization causes it", "where it prevents it"),
)
DASHED = (0, (2, 1.5))
LAYERS = "viridis"  # layers in the scatter, shallow to deep
RELATIONS = {
    "overlap": "overlap (cosine of ACE)",
    "concentration": "concentration (share of ACE)",
    "energy": "energy on the object",
    "gain": "gain inside the target",
}


@dataclass(frozen=True)
class Sweep:
    """The tables of a sweep."""

    path: Path
    layers: list[str]
    command: str
    effects: pd.DataFrame
    depth: pd.DataFrame
    pairs: pd.DataFrame
    claim2: pd.DataFrame
    config: dict[str, Any]
    """Of the first layer's run."""

    @property
    def targets(self) -> list[str]:
        """The targets, in the panels' order."""
        return list(dict.fromkeys(self.depth["target"]))

    @property
    def arms(self) -> dict[str, str]:
        """Distinct held arms, with their labels in words."""
        rows = self.depth.drop_duplicates("arm")
        return {
            arm: label([arm, *filter(None, same.split(", "))])
            for arm, same in zip(rows["arm"], rows["same_as"], strict=True)
        }

    def of(self, target: str, outcome: str, arm: str) -> pd.DataFrame:
        """The rows of a target over depth, in the layers' order, NaN where there is none."""
        depth = self.depth
        rows = depth[(depth["target"] == target) & (depth["outcome"] == outcome) & (depth["arm"] == arm)]
        return rows.set_index("layer").reindex(self.layers)


def build(path: Path) -> Path:
    """Write the report of a sweep: ``report.html``, and ``figures/depth`` and ``figures/claim2`` as PNG, SVG and PDF.

    Parameters
    ----------
    path
        Folder of a sweep, with its tables.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    UsageError
        If the folder has no tables of a sweep.
    """
    found = read(path)
    where = found.path / "figures"
    where.mkdir(exist_ok=True)
    _save(depth(found), where / "depth")
    if _estimated(found):
        _save(regression(found), where / "claim2")
    page = found.path / "report.html"
    with replacing(page) as aside:
        aside.write_text(_html(found), encoding="utf-8")
    return page


def read(path: Path) -> Sweep:
    """Read the tables of a sweep; raises `UsageError` if they are not there."""
    about, names = path / "sweep.yaml", ("sweep", "depth", "pairs", "claim2")
    missing = [name for name in ("sweep.yaml", *(f"{name}.csv" for name in names)) if not (path / name).is_file()]
    if missing:
        raise UsageError(f"'{path}' is not a finished sweep: it has no {missing[0]}")
    said = yaml.safe_load(about.read_text(encoding="utf-8"))
    tables = [pd.read_csv(path / f"{name}.csv", keep_default_na=False, na_values=[""]) for name in names]
    for table in tables:
        texts = [name for name in ("same_as", "why") if name in table]
        table[texts] = table[texts].astype(object).fillna("")
    config = yaml.safe_load((path / said["layers"][0] / "config.yaml").read_text(encoding="utf-8"))
    effects, over_depth, pairs, regressed = tables
    return Sweep(path, list(said["layers"]), str(said["command"] or ""), effects, over_depth, pairs, regressed, config)


def words(path: Path) -> list[str]:
    """What a sweep found, in sentences."""
    found = read(path)
    return [_lead(found), *_depth_words(found), *_claim_words(found)]


def depth(found: Sweep) -> Figure:
    """Removal, in-painting by all other objects together, and the DID of both over depth: a column per target."""
    targets, lines = found.targets, []
    for start in range(0, len(targets), PER_LINE):
        lines.append(targets[start : start + PER_LINE])
    columns = len(lines[0])
    with matplotlib.rc_context(figures.STYLE):
        size = (0.5 + max(1.75 * columns, 6.4), 6.2 * len(lines) + 0.5)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05))
        grid = figure.subplots(len(LINES) * len(lines), columns, squeeze=False, sharex=True)
        for block, line in enumerate(lines):
            for row, what in enumerate(LINES):
                low, high = _range(found, line, what)
                for column in range(columns):
                    axes = grid[block * len(LINES) + row, column]
                    if column >= len(line):
                        axes.set_axis_off()
                        continue
                    _panel(axes, found, line[column], what, low, high)
                    if row == 0:
                        axes.set_title(f"{line[column]} ablated")
                    if column:
                        axes.tick_params(labelleft=False)
                    else:
                        axes.set_ylabel(what[2])
                    axes.tick_params(labelbottom=row == len(LINES) - 1)
        figure.legend(handles=_legend(found), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def depth_of(found: Sweep, target: str) -> Figure:
    """One column of `depth`, of a phone's width."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(3.3, 6.2), layout="constrained")
        axes = figure.subplots(len(LINES), 1, sharex=True)
        for one, what in zip(axes, LINES, strict=True):
            _panel(one, found, target, what, *_range(found, [target], what))
            one.set_ylabel(what[2])
    return figure


def regression(found: Sweep) -> Figure:
    """Claim 2: coefficients per arm, and the DID of each pair against each relation."""
    arm = _estimated(found)[0]
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(10.6, 5.0), layout="constrained")
        grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.5))
        left, right = (figure.add_subfigure(grid[0, side]) for side in (0, 1))
        _coefficients(left.subplots(), found)
        panels = right.subplots(2, 2, sharey=True).ravel()
        for axes, term in zip(panels, claim2.RELATIONS, strict=True):
            _scatter(axes, found, arm, term)
        for axes in panels[::2]:
            axes.set_ylabel("DID of in-painted, points")
        right.suptitle(f"Every pair, {found.arms[arm]}", x=0.02, ha="left", fontsize=10, fontweight="bold")
        right.legend(handles=_layer_handles(found), loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)
    return figure


def coefficients(found: Sweep) -> Figure:
    """The left part of `regression`, of a phone's width."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(3.5, 1.1 + 0.62 * len(claim2.RELATIONS)), layout="constrained")
        _coefficients(figure.subplots(), found, legend=False)
    return figure


def scatter(found: Sweep, term: str) -> Figure:
    """One panel of the right part of `regression`."""
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(3.3, 2.4), layout="constrained")
        axes = figure.subplots()
        _scatter(axes, found, _estimated(found)[0], term)
        axes.set_ylabel("DID, points")
    return figure


def _estimated(found: Sweep) -> list[str]:
    """The arms whose regression could be made."""
    return list(dict.fromkeys(found.claim2.loc[found.claim2["coefficient"].notna(), "arm"]))


def _style(found: Sweep, arm: str | None) -> tuple[str, str]:
    return LIVE if arm is None else HELD[list(found.arms).index(arm) % len(HELD)]


def _series(found: Sweep, target: str, what: tuple[str, str, str]) -> list[tuple[str | None, np.ndarray, np.ndarray]]:
    """What a panel draws, live first: arm, values with their interval (3, layers) in percent, whether in support."""
    outcome, kind, _ = what
    drawn: list[tuple[str | None, np.ndarray, np.ndarray]] = []
    if kind == "levels":
        rows = found.of(target, outcome, next(iter(found.arms)))
        values = rows[["tau_live", "ci_live_low", "ci_live_high"]].to_numpy(float).T
        drawn.append((None, 100 * values, np.ones(len(rows), bool)))
    for arm in found.arms:
        rows = found.of(target, outcome, arm)
        names = ["did", "ci_low", "ci_high"] if kind == "did" else ["tau_held", "ci_held_low", "ci_held_high"]
        drawn.append((arm, 100 * rows[names].to_numpy(float).T, (rows["supported"] == True).to_numpy()))  # noqa: E712
    return drawn


def _range(found: Sweep, targets: Sequence[str], what: tuple[str, str, str]) -> tuple[float, float]:
    """The scale that panels share: that of what is in support; what is not, and wide intervals, may lie beyond."""
    if what[:2] == ("removed", "levels"):
        return 0.0, 100.0
    inside = [values[0, sound] for target in targets for _, values, sound in _series(found, target, what)]
    numbers = np.concatenate(inside or [np.zeros(1)])
    numbers = np.append(numbers[np.isfinite(numbers)], 0)
    low, high = float(numbers.min()), float(numbers.max())
    room = 0.3 * max(high - low, 1.0)
    return (0.0 if what[1] == "levels" else low - room), high + room


def _panel(axes: Axes, found: Sweep, target: str, what: tuple[str, str, str], low: float, high: float) -> None:
    """One outcome of one target over depth: a line per arm, hollow and dashed where out of support."""
    room = 0.06 * (high - low)
    axes.set_ylim(low - room, high + room)
    if what[1] == "did":
        axes.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
    axes.grid(axis="y", color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    series = _series(found, target, what)
    shifts = np.linspace(-0.16, 0.16, len(series)) if len(series) > 1 else np.zeros(1)
    for (arm, values, sound), shift in zip(series, shifts, strict=True):
        colour, mark = _style(found, arm)
        places = np.arange(len(found.layers)) + shift
        beyond = np.where(values[0] > high, 1, np.where(values[0] < low, -1, 0))
        within = np.isfinite(values[0]) & (beyond == 0)
        for a in range(len(places) - 1):
            if within[a : a + 2].all():
                dashes = "-" if sound[a : a + 2].all() else DASHED
                axes.plot(
                    places[a : a + 2], values[0, a : a + 2], color=colour, linewidth=1.0, linestyle=dashes, zorder=2
                )
        for place, value, least, most, inside, off in zip(places, *values, sound, beyond, strict=True):
            face = colour if inside else PAPER
            if off:
                # Only what is out of support can lie beyond: an arrow at the edge says where to.
                edge, pointer = (high, "^") if off > 0 else (low, "v")
                axes.plot([place], [edge], marker=pointer, markersize=4, color=colour, markerfacecolor=PAPER, zorder=3)
            elif np.isfinite(value):
                ends = np.clip([least, most], low - room, high + room)
                axes.plot([place] * 2, ends, color=colour, linewidth=1.0, linestyle="-" if inside else DASHED, zorder=2)
                axes.plot([place], [value], marker=mark, markersize=4, color=colour, markerfacecolor=face, zorder=3)
    axes.set_xlim(-0.5, len(found.layers) - 0.5)
    stem, names = _ticks(found.layers)
    axes.set_xticks(range(len(found.layers)), names)
    if stem and axes.get_subplotspec().is_last_row():  # type: ignore[union-attr]
        axes.set_xlabel(stem)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _ticks(layers: Sequence[str]) -> tuple[str, list[str]]:
    """What all layers' names begin with, if the rest are numbers, and the rest: said once, it need not be said again."""
    stem = layers[0].rstrip("0123456789")
    numbers = [layer.removeprefix(stem) for layer in layers]
    return (stem, numbers) if stem and all(map(str.isdigit, numbers)) else ("", list(layers))


def _coefficients(axes: Axes, found: Sweep, *, legend: bool = True) -> None:
    """Standardized coefficients with their intervals, a row per relation, a mark per arm; hollow where not beyond noise."""
    arms = _estimated(found)
    heights = np.arange(len(claim2.RELATIONS))[::-1]
    spread = np.linspace(0.2, -0.2, len(arms)) if len(arms) > 1 else np.zeros(1)
    axes.axvline(0, color=MUTED, linewidth=0.7, zorder=0)
    for height in heights[:-1]:
        axes.axhline(height - 0.5, color=RULE, linewidth=0.6, zorder=0)
    for arm, shift in zip(arms, spread, strict=True):
        rows = found.claim2[found.claim2["arm"] == arm].set_index("term")
        beyond = claim2.shown(rows)
        colour, mark = _style(found, arm)
        for height, term in zip(heights, claim2.RELATIONS, strict=True):
            row = rows.loc[term]
            y = height + shift
            axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=colour, linewidth=1.6)
            face = colour if beyond[term] else PAPER
            axes.plot([row["coefficient"]], [y], marker=mark, markersize=6, color=colour, markerfacecolor=face)
    axes.set_yticks(heights, [RELATIONS[term] for term in claim2.RELATIONS])
    axes.set_ylim(-0.55, len(claim2.RELATIONS) - 0.45)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("sd of DID per sd")
    if legend:
        axes.set_title("Standardized coefficients")
        handles = [
            Line2D(
                [], [], color=colour, marker=mark, markersize=5, label=f"{found.arms[arm]}, {_size(found, arm)} pairs"
            )
            for arm in arms
            for colour, mark in [_style(found, arm)]
        ]
        handles.append(
            Line2D(
                [], [], color=MUTED, marker="o", markersize=5, markerfacecolor=PAPER, label="hollow: not beyond noise"
            )
        )
        axes.figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=8.5)


def _size(found: Sweep, arm: str) -> int:
    return int(found.claim2.loc[found.claim2["arm"] == arm, "n"].iloc[0])


def _usable(found: Sweep, arm: str) -> pd.DataFrame:
    rows = found.pairs[found.pairs["arm"] == arm]
    return rows[claim2.usable(rows)]


def _colours(found: Sweep) -> dict[str, Any]:
    shades = matplotlib.colormaps[LAYERS](np.linspace(0.08, 0.88, len(found.layers)))
    return {layer: matplotlib.colors.to_hex(shade) for layer, shade in zip(found.layers, shades, strict=True)}


def _scatter(axes: Axes, found: Sweep, arm: str, term: str) -> None:
    """The DID of every pair against one relation, a colour per layer; those that stand out are named."""
    rows, colours = _usable(found, arm), _colours(found)
    axes.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
    axes.grid(color=RULE, linewidth=0.5)
    axes.set_axisbelow(True)
    for layer, of in rows.groupby("layer", sort=False):
        # A thin edge in the page's own colour keeps dark marks in sight by night.
        axes.scatter(of[term], 100 * of["did"], s=16, color=colours[str(layer)], linewidths=0.4, edgecolors=MUTED)
    apart = (rows["did"] - rows["did"].mean()).abs() / rows["did"].std()
    largest = rows[apart > OUTSTANDING].assign(apart=apart).nlargest(NAMED, "apart")
    middle, tall, last = (rows[term].min() + rows[term].max()) / 2, np.ptp(rows["did"]), np.inf
    for row in largest.sort_values("did", ascending=False).to_dict("records"):
        height = min(row["did"], last - 0.09 * tall)  # names do not lie upon each other
        last, right = height, row[term] > middle
        axes.annotate(
            f"{row['target']} → {row['object']}",
            (row[term], 100 * height),
            (-5 if right else 5, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=7.5,
            color=INK,
        )
    axes.margins(y=0.1)
    axes.set_xlabel(RELATIONS[term])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _layer_handles(found: Sweep) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker="o", markersize=4.5, color=colour, label=layer)
        for layer, colour in _colours(found).items()
    ]


def _legend(found: Sweep) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=mark, markersize=5, linewidth=1.2, label=name)
        for arm, name in ((None, "live"), *found.arms.items())
        for colour, mark in [_style(found, arm)]
    ]
    hollow = Line2D(
        [],
        [],
        color=MUTED,
        marker="o",
        markersize=5,
        markerfacecolor=PAPER,
        linestyle=DASHED,
        label="hollow: out of support",
    )
    return [*handles, hollow]


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context(figures.STYLE):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, for all formats
    figures.save(figure, path)
    with matplotlib.rc_context(figures.STYLE | {"pdf.fonttype": 42}):
        figure.savefig(path.with_name(path.name + ".pdf"), metadata={"CreationDate": None})


def _html(found: Sweep) -> str:
    environment = templates()
    names, arms = slugs(found.targets), _estimated(found)
    return environment.get_template("sweep.html.j2").render(
        style=Markup(environment.get_template("report.css").render()),
        layers=[_layer(found, layer) for layer in found.layers],
        meta=_meta(found),
        lead=_lead(found),
        depth_words=[typeset(text) for text in _depth_words(found)],
        legend=_page_legend(found),
        panels=[
            {
                "target": target,
                "chart": figures.inline(depth_of(found, target), f"depth-{names[target]}", _alt(found, target)),
            }
            for target in found.targets
        ],
        headline=typeset(claim2.headline(found.claim2)),
        claim_words=[typeset(text) for text in claim2.sentences(found.claim2, len(found.layers))],
        claim=[_claim_table(found, arm) for arm in arms],
        claim_charts=_claim_charts(found) if arms else [],
        layer_marks=list(_colours(found).items()),
        correlations=_correlations(found, arms[0]) if arms else None,
        relations=RELATIONS,
        command=found.command,
        shown=SHOWN,
    )


def _meta(found: Sweep) -> list[tuple[str, str]]:
    asked = [(name, str(found.config[name])) for name in ("generator", "segmenter", "latents", "seed")]
    return [*asked, ("layers", ", ".join(found.layers))]


def _layer(found: Sweep, layer: str) -> dict[str, Any]:
    """A layer's line in the table, with the address of its own report."""
    rows = found.depth[(found.depth["layer"] == layer) & (found.depth["outcome"] == "removed")]
    first = rows[rows["arm"] == next(iter(found.arms))]
    config = yaml.safe_load((found.path / layer / "config.yaml").read_text(encoding="utf-8"))
    units = {len(chosen) for chosen in config["resolved"].get("chosen", {}).values()}
    return {
        "name": layer,
        "address": f"{urllib.parse.quote(layer)}/report.html",
        "units": ", ".join(map(str, sorted(units))),
        "removed": percent(first["tau_live"].mean()),
        "support": [f"{int(of['supported'].sum())} of {len(of)}" for _, of in rows.groupby("arm", sort=False)],
    }


def _lead(found: Sweep) -> str:
    """How much ablation removes, shallow to deep, in one sentence."""
    arm = next(iter(found.arms))
    rows = found.depth[(found.depth["outcome"] == "removed") & (found.depth["arm"] == arm)]
    mean = rows.groupby("layer", sort=False)["tau_live"].mean().reindex(found.layers)
    first, last = found.layers[0], found.layers[-1]
    return (
        f"With everything live, ablating an object's units removes {percent(mean[first])} of its pixels at {first} and "
        f"{percent(mean[last])} at {last}, on average over {rows['target'].nunique()} targets."
    )


def _depth_words(found: Sweep) -> list[str]:
    """What each held arm shows over depth: no more than what is beyond noise and in support."""
    said = []
    for arm, name in found.arms.items():
        rows = found.depth[found.depth["arm"] == arm]
        usable = rows[rows["supported"] & rows["did"].notna()]
        possible = rows[rows["outcome"] == "removed"]
        inside = int((usable["outcome"] == "removed").sum())
        if not inside:
            said.append(
                f"Live against {name}: out of support or not estimable for every target at every layer; no claim."
            )
            continue
        parts = []
        for outcome, what, above, below in OUTCOMES:
            of = usable[(usable["outcome"] == outcome) & (usable["q"] < SHOWN) & (usable["did"].abs() >= VISIBLE / 2)]
            largest = of.reindex(of["did"].abs().sort_values(ascending=False, kind="stable").index)[:NAMED]
            told = ", ".join(
                f"{row['target']} at {row['layer']} {signed(row['did'])} [{number(row['ci_low'])}, {number(row['ci_high'])}]"
                for row in largest.to_dict("records")
            )
            up = int((of["did"] > 0).sum())
            detail = f", {up} {above}, {len(of) - up} {below} (largest, in points: {told})" if len(of) else ""
            parts.append(f"a DID of {what} is shown for {len(of)}{detail}")
        said.append(f"Live against {name}, {inside} of {len(possible)} (layer, target) in support: {'; '.join(parts)}.")
    return said


def _claim_words(found: Sweep) -> list[str]:
    return [claim2.headline(found.claim2), *claim2.sentences(found.claim2, len(found.layers))]


def _page_legend(found: Sweep) -> list[dict[str, str]]:
    arms: list[tuple[str | None, str]] = [(None, "live"), *found.arms.items()]
    return [
        {
            "label": name,
            "mark": figures.MARKS[_style(found, arm)[1]],
            "place": f"--arm{place if place == 0 else 1 + (place - 1) % len(HELD)}",
        }
        for place, (arm, name) in enumerate(arms)
    ]


def _alt(found: Sweep, target: str) -> str:
    """A target's chart in words."""
    arm = next(iter(found.arms))
    said = []
    rows = {outcome: found.of(target, outcome, arm).to_dict("index") for outcome in ("removed", "inpainted")}
    for layer in found.layers:
        removed, painted = rows["removed"][layer], rows["inpainted"][layer]
        if pd.isna(removed["tau_live"]):
            said.append(f"{layer}: not estimable")
            continue
        said.append(
            f"{layer}: {percent(removed['tau_live'])} removed live, DID {signed(removed['did'])}; "
            f"{percent(painted['tau_live'])} in-painted by objects, DID {signed(painted['did'])}"
        )
    return f"Chart over depth. {target} ablated, {found.arms[arm]}. " + ". ".join(said) + "."


def _claim_charts(found: Sweep) -> list[dict[str, Any]]:
    arm = _estimated(found)[0]
    rows = found.claim2[(found.claim2["arm"] == arm) & (found.claim2["term"] != claim2.ALL)]
    alt = "Chart of standardized coefficients. " + "; ".join(
        f"{row['term']} {row['coefficient']:+.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        for row in rows.to_dict("records")
    )
    charts = [{"title": "Standardized coefficients", "chart": figures.inline(coefficients(found), "coefficients", alt)}]
    for term in claim2.RELATIONS:
        said = f"Scatter of the DID of in-painting of {_size(found, arm)} pairs against {RELATIONS[term]}."
        charts.append(
            {"title": f"DID against {term}", "chart": figures.inline(scatter(found, term), f"pairs-{term}", said)}
        )
    return charts


def _claim_table(found: Sweep, arm: str) -> dict[str, Any]:
    rows = found.claim2[found.claim2["arm"] == arm]
    lines = []
    for row in rows.assign(shown=claim2.shown(rows)).to_dict("records"):
        whole = row["term"] == claim2.ALL
        lines.append(
            {
                "term": row["term"],
                "coefficient": "" if whole else f"{row['coefficient']:+.2f}".replace("-", "−"),
                "interval": "" if whole else f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]".replace("-", "−"),
                "p": small(row["p"]),
                "wild": "" if whole else small(row["p_wild"]),
                "permuted": small(row["p_permuted"]),
                "target": "" if whole else small(row["p_target"]),
                "q": "" if whole else small(row["q"]),
                "r2": f"{row['partial_r2']:.2f}",
                "vif": "" if whole else f"{row['vif']:.1f}",
                "shown": bool(row["shown"]),
            }
        )
    first = rows.iloc[0]
    return {
        "label": found.arms[arm],
        "n": int(first["n"]),
        "clusters": int(first["clusters"]),
        "left_out": int(first["left_out"]),
        "sd": f"{100 * first['sd']:.2f}",
        "noise": f"{100 * first['noise']:.0f}",
        "lines": lines,
    }


def _correlations(found: Sweep, arm: str) -> list[tuple[str, list[str]]]:
    table = claim2.correlations(found.pairs[found.pairs["arm"] == arm])
    return [(str(term), [f"{value:.2f}".replace("-", "−") for value in table.loc[term]]) for term in table.index]
