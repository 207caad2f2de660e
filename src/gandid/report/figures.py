"""The report's figures, drawn with matplotlib's objects alone: no pyplot, no state left behind.

Colours mean the same everywhere: one per class, one per held arm, and an arm outside the network's range is
hollow or hatched and dashed. Ink, grid and paper have fixed colours here, by which `inline` finds them and
hands them over to the page's style, so that charts in the page follow light and dark.
"""

import io
import pathlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from gandid.did.words import VISIBLE
from gandid.report import pictures
from gandid.report.folder import Arm, Column, Run, columns

INK, MUTED, RULE, PAPER = "#1c1e22", "#5a616b", "#d8dbe0", "#ffffff"
# Paul Tol's "bright" and "muted" colours, told apart by the colour-blind: objects in the segmenter's order.
OBJECTS = (
    "#4477aa",
    "#ee6677",
    "#ccbb44",
    "#aa3377",
    "#228833",
    "#66ccee",
    "#882255",
    "#44aa99",
    "#999933",
    "#cc6677",
)
GROUNDS = ("#9aa0a8", "#6d737c", "#b9bec5", "#82888f")
UNKNOWN = "#c9ccd1"
# Okabe and Ito's colours for arms, with a mark of its own each, so that print and any eye tell them apart.
LIVE = ("#d55e00", "o")
HELD = (
    ("#009e73", "D"),
    ("#0072b2", "s"),
    ("#8b62b4", "^"),
    ("#b8860b", "v"),
    ("#5f6b7a", "P"),
    ("#a0527f", "X"),
)
# Twins share a colour: they are draws of one control, and differ in their marks.
TWIN, TWINS = "#7a4b2a", ("*", "<", ">", "p", "h", "d")
# The marks as the page writes them.
MARKS = {
    **{"o": "●", "D": "◆", "s": "■", "^": "▲", "v": "▼", "P": "✚", "X": "✖"},
    **{"*": "★", "<": "◀", ">": "▶", "p": "⬟", "h": "⬢", "d": "⬧"},
}
GONE, CAME = "#ff2a2a", "#ffe119"
# Inches: of a panel's plot and the margin right of it, of a bar, of an axis with its label, of a title.
PLOT, RIGHT, BAR, AXIS, TITLE = 2.5, 0.15, 0.2, 0.52, 0.32
# The plot in the page, where a panel is as wide as a phone and letters must not shrink.
NARROW = 1.85
# Objects that a panel shows at most (a segmenter may know 150), and letters of a label.
MOST, LONGEST = 8, 26
GAIN, SHARE, DIFFERENCE = "viridis", "magma", "RdBu_r"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9,
    "hatch.linewidth": 0.9,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}
# In the page, drawn colours give way to the style's: each has a light and a dark value.
PAGE = {INK: "currentColor", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--card)"} | {
    colour: f"var(--arm{i})" for i, colour in enumerate((LIVE[0], *(colour for colour, _ in HELD), TWIN))
}


def class_colours(run: Run) -> dict[str, str]:
    """One colour per class, the same in every figure and table: greys for backgrounds, hues for objects."""
    hues, greys = iter(_cycle(OBJECTS)), iter(_cycle(GROUNDS))
    return {
        name: UNKNOWN if name == "unknown" else next(greys) if back else next(hues)
        for name, back in run.background.items()
    }


def overview(run: Run) -> Figure:
    """Per target: how much of it is removed, and how much each other object in-paints, in every arm."""
    targets = [target for target in run.targets if run.estimable(target)]
    absent = [target for target in run.targets if target not in targets]
    per_row = max(1, min(3, len(targets)))
    lines = [targets[start : start + per_row] for start in range(0, len(targets), per_row)]
    heights = [max(_height(run, target) for target in line) + TITLE for line in lines]
    width = _left(run) + PLOT + RIGHT
    foot = 0.45 + (0.25 if absent else 0.0)
    with styled():
        figure = Figure(figsize=(per_row * width + 0.1, sum(heights) + foot))
        top = figure.get_figheight()
        for line, height in zip(lines, heights, strict=True):
            for place, target in enumerate(line):
                _answer(figure, run, target, place * width, top - TITLE)
                figure.text(
                    (place * width + 0.08) / figure.get_figwidth(),
                    (top - 0.2) / figure.get_figheight(),
                    f"{target} ablated",
                    fontsize=10.5,
                    fontweight="bold",
                )
            top -= height
        if absent:
            said = f"Not estimable, too few of {run.effects.latents:,} images show it: {', '.join(absent)}"
            figure.text(0.08 / figure.get_figwidth(), 0.45 / figure.get_figheight(), said, color=MUTED)
        columns = min(6, len(run.arms) + 2) if per_row > 1 else 2
        figure.legend(handles=_legend(run), loc="lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def answer(run: Run, target: str) -> Figure:
    """One panel of `overview`, of a phone's width, without its title."""
    with styled():
        figure = Figure(figsize=(_left(run) + NARROW + RIGHT, _height(run, target)))
        _answer(figure, run, target, 0, figure.get_figheight(), NARROW)
    return figure


def strip(run: Run, target: str) -> Figure:
    """The most affected images of a target: a row per image, a column per arm, and the measured gain."""
    examples = run.examples
    assert examples is not None
    shown = columns(run, target)
    images, gains = examples.images[target], examples.gain[target]
    count, _, height, width, _ = images.shape
    gap, foot = width // 16, width // 8
    step_x, step_y = width + gap, height + foot
    mosaic = np.full((count * step_y, (len(shown) + 1) * step_x - gap, 3), 255, np.uint8)
    pieces: dict[str, list] = {GONE: [], CAME: []}
    texts: list[tuple[float, float, str]] = []
    low, high = gain_range(run, target)
    rows = np.arange(height) * gains.shape[1] // height
    cols = np.arange(width) * gains.shape[2] // width
    for e in range(count):
        top = e * step_y
        for c, (_, arm, baseline, _) in enumerate(shown):
            left = c * step_x
            mosaic[top : top + height, left : left + width] = images[e, arm]
            text = "its own original" if arm else f"latent {examples.latents[target][e]}"
            if arm != baseline:
                labels = examples.labels[target][e]
                found = pictures.change(labels[baseline], labels[arm], examples.classes, run.objects, target)
                for colour, mask in ((GONE, found.vanished), (CAME, found.appeared)):
                    pieces[colour] += [
                        ((left + x0, top + y0), (left + x1, top + y1)) for x0, y0, x1, y1 in pictures.segments(mask)
                    ]
                text = caption(found, target)
            texts.append((left, top + height + foot * 0.2, text))
        left = len(shown) * step_x
        scaled = np.clip((gains[e] - low) / max(high - low, 1e-12), 0, 1)
        heat = (matplotlib.colormaps[GAIN](scaled)[..., :3] * 255).astype(np.uint8)
        mosaic[top : top + height, left : left + width] = heat[rows][:, cols]
        texts.append((left, top + height + foot * 0.2, f"up to ×{gains[e].max():.2f}"))
    headings = [_wrapped(heading(run, target, column)) for column in shown]
    with styled():
        inches = 1.75 / step_x
        size = mosaic.shape[1] * inches, mosaic.shape[0] * inches
        tall = max(2, *(text.count("\n") + 1 for text in headings))
        figure = Figure(figsize=(size[0] + 0.3, size[1] + 0.47 + 0.14 * tall))
        box = (0.15 / figure.get_figwidth(), 0.05 / figure.get_figheight())
        axes = figure.add_axes((*box, size[0] / figure.get_figwidth(), size[1] / figure.get_figheight()))
        axes.set_axis_off()
        axes.imshow(mosaic, extent=(0, mosaic.shape[1], mosaic.shape[0], 0), interpolation="none", aspect="auto")
        for colour, lines in pieces.items():
            if not lines:
                continue
            # One path for all pieces: a thousand artists would take a thousand times as long to draw.
            outline = Path([point for line in lines for point in line], [Path.MOVETO, Path.LINETO] * len(lines))
            # A dark casing keeps the outline in sight on bright and on dark pixels.
            for ink, wide, alpha in (("black", 2.0, 0.6), (colour, 1.0, 1.0)):
                patch = PathPatch(
                    outline, fill=False, edgecolor=ink, linewidth=wide, alpha=alpha, capstyle="projecting"
                )
                axes.add_artist(patch)
        for x, y, text in texts:
            axes.text(x, y, text, fontsize=7.5, color=MUTED, va="top")
        for c, name in enumerate([*headings, "measured gain, live"]):
            axes.text(c * step_x, -foot * 0.35, name, fontsize=8.5, fontweight="bold", va="bottom")
        figure.text(
            box[0],
            1 - 0.1 / figure.get_figheight(),
            f"{target} ablated: most affected images",
            va="top",
            fontsize=11,
            fontweight="bold",
        )
        figure.legend(
            handles=[
                Line2D([], [], color=GONE, linewidth=2.5, label=f"{target} vanished"),
                Line2D([], [], color=CAME, linewidth=2.5, label="object appeared"),
            ],
            loc="upper right",
            ncols=2,
            frameon=False,
            fontsize=8.5,
            borderaxespad=0.2,
        )
    return figure


def maps(run: Run, target: str) -> Figure:
    """Where the gain is, where other objects in-paint, and how much of that each held arm takes away."""
    shown = heat_maps(run, target)
    side, gap, head, foot = 2.0, 0.3, 0.8, 0.65
    with styled():
        figure = Figure(figsize=(max(len(shown), 1) * (side + gap) + gap, head + side + foot))
        width, height = figure.get_size_inches()
        for place, (title, values, low, high, colours, unit) in enumerate(shown):
            left = (gap + place * (side + gap)) / width
            axes = figure.add_axes((left, foot / height, side / width, side / height))
            image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="none", aspect="auto")
            axes.set_axis_off()
            axes.text(
                0,
                1.03,
                "\n".join(textwrap.wrap(title, 30)),
                transform=axes.transAxes,
                fontsize=8.5,
                va="bottom",
            )
            bar_axes = figure.add_axes((left, (foot - 0.16) / height, side / width, 0.1 / height))
            bar = figure.colorbar(image, cax=bar_axes, orientation="horizontal")
            bar.outline.set_visible(False)
            bar.set_label(unit, fontsize=8, labelpad=1)
            bar_axes.tick_params(labelsize=8, length=2)
            bar.locator = MaxNLocator(4)
            bar.update_ticks()
        figure.text(gap / width, 1 - 0.08 / height, f"{target} ablated", fontsize=10.5, fontweight="bold", va="top")
    return figure


def ranking(run: Run) -> Figure:
    """ACE over units, largest first, per target; the ablated units are filled."""
    per_row = min(3, len(run.targets))
    lines = -(-len(run.targets) // per_row)
    with styled():
        figure = Figure(figsize=(4.0 * per_row, 1.9 * lines), layout="constrained")
        grid = np.atleast_1d(figure.subplots(lines, per_row, squeeze=False)).ravel()
        for axes, target in zip(grid, run.targets, strict=False):
            _units(axes, run, target)
            axes.set_title(target)
        for axes in grid[len(run.targets) :]:
            axes.set_axis_off()
    return figure


def units(run: Run, target: str) -> Figure:
    """One panel of `ranking`, of a phone's width."""
    with styled():
        figure = Figure(figsize=(3.1, 1.6), layout="constrained")
        _units(figure.subplots(), run, target)
    return figure


def heat_maps(run: Run, target: str) -> list[tuple[str, np.ndarray, float, float, str, str]]:
    """The maps of a target: title, values, lowest and highest value of the scale, colours, unit."""
    found: list[tuple[str, np.ndarray, float, float, str, str]] = []
    if "gain_map" in run.panel:
        gain = run.panel["gain_map"].sel(target=target).values
        if np.isfinite(gain).any():
            found.append(("Gain at the first site", gain, *_ends(gain, 1.0), GAIN, "× (mean of all images)"))
    if "inpainted_map" in run.panel:
        stack = run.panel["inpainted_map"].sel(target=target)
        live = 100 * stack.sel(arm="live").values
        gaps = {arm: live - 100 * stack.sel(arm=arm.name).values for arm in run.arms}
        # Arms out of support may be off the scale: the scale is that of what is claimed.
        claimed = [abs(gap).max() for arm, gap in gaps.items() if run.supported(target, arm)]
        wide = max([*claimed, 0.1] if claimed else [abs(gap).max() for gap in gaps.values()] or [0.1])
        found.append(("In-painted by objects, live", live, 0.0, max(live.max(), 0.1), SHARE, "% of images"))
        for arm, gap in gaps.items():
            mark = "" if run.supported(target, arm) else " (out of support)"
            title = f"Live minus {arm.label}{mark}"
            found.append((title, gap, -wide, wide, DIFFERENCE, "points of images"))
    return found


def gain_range(run: Run, target: str) -> tuple[float, float]:
    """The scale that the gain maps of all examples of a target share."""
    assert run.examples is not None
    return _ends(run.examples.gain[target], 1.0)


def heading(run: Run, target: str, column: Column) -> str:
    """The heading of a column of a strip: its label, marked where the arm is out of support."""
    outside = any(column.name in arm.names and not run.supported(target, arm) for arm in run.arms)
    return f"{column.label}\n(out of support)" if outside else column.label


def _wrapped(text: str) -> str:
    """A heading broken into lines as wide as an image of the strip."""
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, 21))


def caption(found: pictures.Change, target: str, least: float = 0.01) -> str:
    """What an edit did to one image, in a few words: shares of the target's original pixels."""
    if not found.original:
        return f"no {target} in it"  # a twin's own image of the latent need not show it
    text = f"{100 * found.gone:.0f} % gone"
    painted = [(name, share) for name, share in found.painted.items() if share >= least]
    if painted:
        name, share = painted[0]
        text += f", {100 * share:.0f} % {name}"
    return text


def save(figure: Figure, path: pathlib.Path) -> None:
    """Write PATH.png (200 dpi) and PATH.svg (text as shapes: the same everywhere)."""
    with styled():
        figure.savefig(path.with_name(path.name + ".png"), dpi=200)
        # Without a date, the same run gives the same file.
        figure.savefig(path.with_name(path.name + ".svg"), dpi=200, metadata={"Date": None})


def inline(figure: Figure, name: str, alt: str, **style: Any) -> Markup:
    """A figure as an SVG element for the page: text stays text, colours follow the page's; `style` as in `styled`."""
    buffer = io.StringIO()
    with styled(**style | {"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)|xlink:href=\"#([^\"]+)\"", svg))
    kept = {one or other for one, other in used}
    # Ids of a page must be unique; those that nothing refers to go, the others carry the figure's name.
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in kept else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    for drawn, shown in PAGE.items():
        svg = re.sub(drawn, shown, svg, flags=re.IGNORECASE)
    svg = re.sub(
        r"font: ([\d.]+px)[^;\"]*",
        r"font-size: \1",
        re.sub(r"font: bold ([\d.]+px)[^;\"]*", r"font-weight: 600; font-size: \1", svg),
    )
    box = re.search(r'viewBox="[^"]+"', svg)
    head = f'<svg class="chart" role="img" aria-label="{_escape(alt)}" {box[0] if box else ""}>'
    # Safe in a page: what comes from outside in it is escaped, by matplotlib and here.
    return Markup(re.sub(r"\n\s*", "\n", head + svg[svg.index(">") + 1 :]))


def arm_style(run: Run, arm: Arm | None) -> tuple[str, str]:
    """Colour and mark of a held arm, or of the live one (None)."""
    if arm is None:
        return LIVE
    twins = [other for other in run.arms if _is_twin(other)]
    if arm in twins:
        return TWIN, TWINS[twins.index(arm) % len(TWINS)]
    return HELD[[other for other in run.arms if other not in twins].index(arm) % len(HELD)]


def variable(run: Run, arm: Arm | None) -> str:
    """The page's name for the colour of an arm: the style has a light and a dark one."""
    return PAGE[arm_style(run, arm)[0]].removeprefix("var(").removesuffix(")")


def mark_size(mark: str, points: float) -> float:
    """The size at which a mark looks as large as the others: a star has little of its box."""
    return 1.5 * points if mark == "*" else points


def _is_twin(arm: Arm) -> bool:
    return arm.name.startswith("twin:")


def _answer(figure: Figure, run: Run, target: str, left: float, top: float, plot: float = PLOT) -> None:
    """The panel of one target, by the inch: bars of what is removed, and under it who in-paints."""
    width, height = figure.get_size_inches()
    series: list[Arm | None] = [None, *run.arms]
    others = painters(run, target)
    if not run.estimable(target):
        said = f"Not estimable: too few of {run.effects.latents:,} images show it."
        figure.text((left + 0.08) / width, (top - 0.2) / height, said, color=MUTED)
        return

    def place(above: float, tall: float) -> Axes:
        box = (left + _left(run)) / width, (top - above - tall) / height, plot / width, tall / height
        return figure.add_axes(box)

    bars = BAR * len(series)
    _removed(place(0.05, bars), run, target, series)
    rows = _line(run) * max(len(others), 1)
    _inpainted(place(0.05 + bars + AXIS, rows), run, target, series, others)


def painters(run: Run, target: str) -> list[str]:
    """The objects worth a line in a target's panel: those that take a visible share of it in any arm."""
    arms: list[Arm | None] = [None, *run.arms]
    rows = pd.concat([run.rows(target, "inpainted", arm, kind="object") for arm in arms])
    most = rows.assign(most=rows[["tau_live", "tau_held"]].max(axis=1)).groupby("object")["most"].max()
    chosen = most[most >= VISIBLE / 2].nlargest(MOST).index
    return [name for name in run.objects if name in chosen]


def _removed(axes: Axes, run: Run, target: str, series: Sequence[Arm | None]) -> None:
    heights = np.arange(len(series))[::-1]
    for height, arm in zip(heights, series, strict=True):
        colour, _ = arm_style(run, arm)
        sound = arm is None or run.supported(target, arm)
        value, low, high = (100 * number for number in numbers(run.rows(target, "removed", arm).iloc[0], arm))
        look = {"color": colour} if sound else {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
        axes.barh(height, value, 0.66, linewidth=0.8, **look)  # type: ignore[arg-type]
        axes.plot([low, high], [height, height], color=INK, linewidth=1.0, linestyle="-" if sound else (0, (2, 1.5)))
        axes.text(
            max(high, value) + 2,
            height,
            f"{value:.1f}",
            va="center",
            fontsize=8.5,
            color=INK if sound else MUTED,
        )
    axes.set_xlim(0, 118)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.spines["bottom"].set_bounds(0, 100)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(heights, [_name(run, target, arm) for arm in series])
    axes.tick_params(axis="y", length=0)
    _label(axes, f"removed, % of {target}'s pixels")


def _inpainted(axes: Axes, run: Run, target: str, series: Sequence[Arm | None], others: Sequence[str]) -> None:
    axes.spines["left"].set_color(RULE)
    _label(axes, f"in-painted, % of {target}'s pixels")
    if not others:
        axes.set_yticks([])
        axes.set_xticks([])
        axes.text(
            0.02,
            0.5,
            "no other object: below 0.05 % in every arm",
            transform=axes.transAxes,
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
        return
    lookup = {arm: run.rows(target, "inpainted", arm, kind="object").set_index("object", drop=False) for arm in series}
    sound = {arm: arm is None or run.supported(target, arm) for arm in series}
    tops = [
        100 * rows["ci_live_high" if arm is None else "ci_held_high"].max()
        for arm, rows in lookup.items()
        if sound[arm]
    ]
    limit = max(1.0, 1.12 * max((top for top in tops if np.isfinite(top)), default=1.0))
    spread = np.linspace(0.36, -0.36, len(series)) if len(series) > 1 else np.zeros(1)
    heights = np.arange(len(others))[::-1]
    for height in heights[:-1]:
        axes.axhline(height - 0.5, color=RULE, linewidth=0.6, zorder=0)
    for arm, offset in zip(series, spread, strict=True):
        colour, mark = arm_style(run, arm)
        marks, intervals = [], []
        for height, name in zip(heights, others, strict=True):
            value, low, high = (100 * number for number in numbers(lookup[arm].xs(name), arm))
            y = height + offset
            if value > limit:
                # Only arms out of support can lie beyond: shown at the edge, with their number, not to scale.
                axes.plot([limit * 0.985], [y], marker=">", markersize=4.5, color=colour, markerfacecolor=PAPER)
                axes.text(limit * 0.955, y, f"{value:.0f}", ha="right", va="center", fontsize=8, color=MUTED)
                continue
            marks.append((value, y))
            intervals.append([(max(low, 0), y), (min(high, limit), y)])
        dashes = "solid" if sound[arm] else (0, (2, 1.5))
        axes.add_collection(LineCollection(intervals, colors=colour, linewidths=1.4, linestyles=[dashes]))
        axes.plot(
            *np.array(marks or np.empty((0, 2))).T,
            marker=mark,
            markersize=mark_size(mark, 4.6),
            color=colour,
            linestyle="none",
            markerfacecolor=colour if sound[arm] else PAPER,
        )
    axes.set_xlim(-limit * 0.02, limit)
    axes.set_ylim(-0.5, len(others) - 0.5)
    axes.set_yticks(heights, [_short(name) for name in others])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter("{x:g}")


def _label(axes: Axes, text: str) -> None:
    """Name the horizontal axis, flush right: a long name then runs into the margin that is there anyway."""
    below = -0.27 / (axes.get_position().height * axes.figure.get_size_inches()[1])  # type: ignore[union-attr]
    axes.text(1, below, text, transform=axes.transAxes, ha="right", va="top", fontsize=8.5, color=MUTED)


def numbers(row: Any, arm: Arm | None) -> tuple[float, float, float]:
    """Effect of the edit and its interval in an arm, or live (None)."""
    if arm is None:
        return float(row["tau_live"]), float(row["ci_live_low"]), float(row["ci_live_high"])
    return float(row["tau_held"]), float(row["ci_held_low"]), float(row["ci_held_high"])


def _units(axes: Axes, run: Run, target: str) -> None:
    assert run.relation is not None
    rows = run.relation[run.relation["object"] == target].sort_values("ace", ascending=False, kind="stable")
    ablated = rows["unit"].isin(run.units(target)).to_numpy()
    ace, place = 100 * rows["ace"].to_numpy(), np.arange(1, len(rows) + 1)
    colour = class_colours(run)[target]
    axes.bar(place[~ablated], ace[~ablated], 0.8, color=RULE)
    axes.bar(place[ablated], ace[ablated], 0.8, color=colour)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(0.3, len(rows) + 0.7)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("units, by rank")
    axes.set_ylabel("ACE, % of image")


def _name(run: Run, target: str, arm: Arm | None) -> str:
    """An arm's label on the axis; a dagger where the ablation by itself leaves the unedited images' range."""
    if arm is None:
        return "live" if run.live_in_range(target) else "live †"
    return _short(arm.label)


def _legend(run: Run) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D(
            [], [], color=colour, marker=mark, markersize=mark_size(mark, 5), label="live" if arm is None else arm.label
        )
        for arm in (None, *run.arms)
        for colour, mark in [arm_style(run, arm)]
    ]
    outside = any(not run.supported(target, arm) for target in run.targets for arm in run.arms)
    if outside:
        handles.append(Patch(facecolor="none", edgecolor=MUTED, hatch="////", label="hatched, hollow: out of support"))
    if not all(run.live_in_range(target) for target in run.targets):
        handles.append(
            Line2D([], [], linestyle="none", marker="$†$", color=MUTED, label="the edit itself leaves the range")
        )
    return handles


def _line(run: Run) -> float:
    """Inches per object in the in-painting panel."""
    return 0.14 + 0.085 * (1 + len(run.arms))


def _left(run: Run) -> float:
    """Inches that the longest label beside an axis takes."""
    labels = [arm.label for arm in run.arms] + run.objects
    return 0.2 + 0.066 * min(max(map(len, labels), default=0), LONGEST)


def _height(run: Run, target: str) -> float:
    """Inches of one target's panel, without title."""
    if not run.estimable(target):
        return 0.4
    return 0.05 + BAR * (1 + len(run.arms)) + 2 * AXIS + _line(run) * max(len(painters(run, target)), 1)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def _ends(values: np.ndarray, least: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return least, least + 0.1
    return min(least, float(finite.min())), max(float(finite.max()), least + 0.01)


def _cycle(colours: Sequence[str]) -> Iterator[str]:
    while True:
        yield from colours


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


@contextmanager
def styled(**other: Any) -> Iterator[None]:
    """The report's look while figures are drawn and written, with `other` settings of matplotlib on top."""
    with matplotlib.rc_context(STYLE | other):
        yield
