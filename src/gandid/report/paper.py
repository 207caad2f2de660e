"""The figure of Liu et al. (2020), for any study: a row per object, from its images to what normalization causes.

Their columns come first (original, ablated, ACE over units, ratio and rank of the ACE of other objects, inserted), then ours: the
same ablation with normalization held, and the difference-in-differences. Everything but the images is drawn as vectors, at the
width of two columns of a journal.
"""

import pathlib
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from gandid.relation.concentration import effective_units, share
from gandid.report import figures, pictures
from gandid.report.figures import CAME, GONE, INK, MUTED, PAPER, RULE
from gandid.report.folder import Arm, Run
from gandid.report.text import number

# Inches. 7.2 is the width of two columns of most journals (183 mm).
WIDTH, EDGE, GAP, GROUP = 7.2, 0.03, 0.05, 0.1
PLOT, LINE = 0.54, 0.118
HEAD, TITLE, FOOT, LEGEND = 0.54, 0.22, 0.24, 0.3
# Other objects that a row shows at most, and letters of their names.
OTHERS, LONGEST = 6, 11
OCTAVES = 3.0  # ratios beyond 8 or 1/8 are off the scale
SHARP = 256  # pixels: smaller images are enlarged by whole factors, so that no viewer blurs them
REST = "#b9bec5"  # units that were not ablated
TYPES = {"disentangled": "disentangled", "type-1": "type-1 entangled", "type-2": "type-2 entangled"}
THEIRS, OURS = "as in Liu et al. (2020), figure 1", "ablated, with normalization held"
STYLE: Any = {
    "font.size": 6,
    "axes.labelsize": 6,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "xtick.major.size": 2,
    "xtick.major.pad": 1.2,
    "ytick.major.width": 0.5,
    "ytick.major.size": 2,
    "ytick.major.pad": 1.5,
    "lines.markersize": 3,
    "lines.linewidth": 0.8,
    "hatch.linewidth": 0.5,
    # Text stays text: searchable, and set in the journal's own type if need be.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "svg.hashsalt": "gandid",
}


@dataclass(frozen=True)
class Column:
    """A column: what it shows, what stands above it, and the inches of its plot and of what is written beside it."""

    kind: str
    head: str
    group: str
    plot: float = 0.0
    before: float = 0.0
    after: float = 0.0
    apart: bool = False
    """Whether more than a gap parts it from the column before it."""
    arm: Arm | None = None

    @property
    def is_picture(self) -> bool:
        """Whether it shows images; they share what the charts leave of the width."""
        return self.kind in ("original", "ablated", "before", "inserted")


def is_possible(run: Run) -> bool:
    """Whether a run has what the figure shows (`gandid run --figure`)."""
    return run.relation is not None and run.after is not None and run.insertion is not None and bool(targets(run))


def targets(run: Run) -> list[str]:
    """The objects that the figure shows: the targets that enough images show, and of which there are examples."""
    return [target for target in run.targets if run.estimable(target) and run.has_examples(target)]


def held_arms(run: Run) -> list[Arm]:
    """The held arms that the figure shows: those of the study's first control, two at most."""
    control = run.arms[0].name.split(":")[0]
    return [arm for arm in run.arms if any(name.startswith(f"{control}:") for name in arm.names)][:2]


def figure(run: Run) -> Figure:
    """Draw the figure.

    The images of an object are those of the first of its examples: of all latents, the one on which the live arm and the held
    arms of the study's first control disagree most about the object's pixels. Those of its insertion are of the latent and the
    place at which a median share of the region turned into it, among those at which some of it did.
    """
    shown, columns = targets(run), _columns(run)
    side, lefts = _places(columns)
    lines = 1 + max(len(others(run, target)) for target in shown)
    body = max(side + 0.13, LINE * lines)
    row = TITLE + body + FOOT
    height = HEAD + len(shown) * row + LEGEND
    with figures.styled(**STYLE):
        drawn = Figure(figsize=(WIDTH, height))

        def place(left: float, top: float, width: float, tall: float) -> Axes:
            return drawn.add_axes((left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height))

        _heads(drawn, columns, lefts, side)
        for n, target in enumerate(shown):
            top = HEAD + n * row
            _rule(drawn, EDGE, WIDTH - EDGE, top, RULE)
            _title(drawn, run, target, top + 0.14)
            for column, left in zip(columns, lefts, strict=True):
                if column.is_picture:
                    _picture(place(left, top + TITLE, side, side), run, target, column)
                    continue
                axes = place(left + column.before, top + TITLE, column.plot, body)
                if column.kind == "ace":
                    _ace(axes, run, target)
                elif column.kind == "after":
                    draw_after(axes, run, target, lines)
                else:
                    _did(axes, run, target, lines)
        handles = _legend(run)
        drawn.legend(
            handles=handles,
            loc="lower center",
            ncols=-(-len(handles) // 2),
            frameon=False,
            fontsize=6,
            handlelength=1.6,
            columnspacing=1.6,
            handletextpad=0.6,
            labelspacing=0.35,
            borderaxespad=0.1,
        )
    return drawn


def save(drawn: Figure, path: pathlib.Path) -> None:
    """Write PATH.png (450 dpi), PATH.svg and PATH.pdf; the same run gives the same files."""
    with figures.styled(**STYLE):
        drawn.savefig(path.with_name(path.name + ".png"), dpi=450)
        drawn.savefig(path.with_name(path.name + ".svg"), metadata={"Date": None})
        drawn.savefig(path.with_name(path.name + ".pdf"), metadata={"CreationDate": None})


def inline(run: Run, drawn: Figure) -> Markup:
    """The figure as an SVG element for the page, told in words and numbers."""
    said = []
    for target in targets(run):
        parts = [f"{number(run.rows(target, 'removed')['tau_live'].iloc[0])} % removed live"]
        for arm in held_arms(run):
            mark = "" if run.supported(target, arm) else " (out of support)"
            parts.append(f"{number(run.rows(target, 'removed', arm)['tau_held'].iloc[0])} % with {arm.label}{mark}")
        parts += [f"ACE of {name} times {ratios(run, target, 'live', name)[0]:.2f}" for name in others(run, target)]
        said.append(f"{target}: {', '.join(parts)}")
    told = f"Figure, a row of images and charts per object. {'. '.join(said)}."
    svg = figures.inline(drawn, "paper", told, **STYLE)
    # A page is to be mailed: its images need not be lossless.
    return Markup(re.sub(r"data:image/png;base64,([^\"]*)", lambda found: pictures.lighter(found[1]), svg))


def after_panel(run: Run, target: str) -> Figure:
    """The chart of `draw_after` by itself, of a phone's width."""
    names = others(run, target)
    width, height, left, right = 3.4, 0.45 + 0.26 * len(names), 0.95, 0.75
    with figures.styled():
        drawn = Figure(figsize=(width, height))
        box = left / width, 0.42 / height, (width - left - right) / width, 0.26 * len(names) / height
        axes = drawn.add_axes(box)
        draw_after(axes, run, target, len(names))
        axes.set_xlabel("ACE after ÷ before")
    return drawn


def others(run: Run, target: str) -> list[str]:
    """The other objects whose ACE was measured after the target's ablation, by their rank before it.

    If there are more than `OTHERS`, those that in-paint the target come first.
    """
    assert run.after is not None
    found = run.after.sel(target=target, arm="live")
    known = [str(name) for name in found["object"].values[np.isfinite(found["ratio"].values)]]
    painting = figures.painters(run, target)
    rank = {name: float(found["rank_before"].sel(object=name)) for name in known}
    chosen = sorted(known, key=lambda name: (name not in painting, rank[name]))[:OTHERS]
    return sorted(chosen, key=lambda name: rank[name])


def ratios(run: Run, target: str, arm: str, name: str) -> tuple[float, float, float]:
    """An object's ACE after the target's ablation over its ACE before, and the interval of that."""
    assert run.after is not None
    found = run.after.sel(target=target, arm=arm, object=name)
    return float(found["ratio"]), float(found["ratio_low"]), float(found["ratio_high"])


def ranks(run: Run, target: str, name: str) -> list[int]:
    """An object's place among the others by ACE: before the ablation, and after it in every arm of ``after.zarr``."""
    assert run.after is not None
    found = run.after.sel(target=target, object=name)
    return [int(found["rank_before"].values[0]), *(int(rank) for rank in found["rank"].values)]


def arm_named(run: Run, name: str) -> Arm | None:
    """The held arm of that name; None is the live one."""
    return next((arm for arm in run.arms if name in arm.names), None)


def draw_after(axes: Axes, run: Run, target: str, lines: int) -> None:
    """Ratio of the other objects' ACE, after the target's ablation over before it, in octaves; beside it their ranks.

    Of `lines` lines the first are left free, so that they stand as those of a panel beside it.
    """
    assert run.after is not None
    names, limit = others(run, target), _octaves(run)
    heights = np.arange(len(names))[::-1]
    arms = [str(arm) for arm in run.after["arm"].values]
    axes.plot([0, 0], [-0.5, len(names) - 0.5], color=MUTED, linewidth=0.6, zorder=0)
    for arm, offset in zip(arms, (0.17, -0.17), strict=True):
        held = arm_named(run, arm)
        for height, name in zip(heights, names, strict=True):
            found = ratios(run, target, arm, name)
            octaves = tuple(np.log2(ratio) if ratio > 0 else np.nan if np.isnan(ratio) else -np.inf for ratio in found)
            _estimate(axes, run, target, held, octaves, height + offset, (-limit, limit))
    em = matplotlib.rcParams["font.size"]
    colours = [figures.arm_style(run, arm_named(run, arm))[0] for arm in arms]
    for height, name in zip(heights, names, strict=True):
        before, *after = ranks(run, target, name)
        # Flush right, one below the other: before, then after in each arm.
        for text, colour, right in zip(
            (f"{before}→", *map(str, after)), (MUTED, *colours), (2.2, 3.2, 4.4), strict=True
        ):
            axes.annotate(
                text, (1, height), (right * em, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                ha="right", va="center_baseline", color=colour, annotation_clip=False,
            )  # fmt: skip
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-0.5, lines - 0.5)
    whole = [at for at in range(-int(limit), int(limit) + 1) if limit < 2 or at % 2 == 0]
    axes.xaxis.set_major_locator(FixedLocator(whole))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{2**at}" if at >= 0 else f"1/{2**-at}" for at in whole]))
    _name_lines(axes, names, heights)


def _columns(run: Run) -> list[Column]:
    counts = {len(run.units(target)) for target in targets(run)}
    units = f"{counts.pop()} units" if len(counts) == 1 else "its units"
    labels = ["removed", *(_short(name) for target in targets(run) for name in others(run, target))]
    names = 0.04 + max(map(_wide, labels))
    held = [
        Column("ablated", "\n".join(textwrap.wrap(arm.label, 12)[:3]), OURS, apart=not n, arm=arm)
        for n, arm in enumerate(held_arms(run))
    ]
    return [
        Column("original", "original", THEIRS),
        Column("ablated", f"{units}\nablated", THEIRS),
        Column("ace", "ACE over units,\n% of the image", THEIRS, PLOT, before=0.26, apart=True),
        Column("after", "ACE of other objects,\nafter ÷ before, rank", THEIRS, PLOT, names, 0.38, apart=True),
        Column("before", "before\ninsertion", THEIRS, apart=True),
        Column("inserted", f"{units}\ninserted", THEIRS),
        *held,
        Column("did", "live − held, points\nof its pixels", OURS, PLOT, names, 0.05, apart=True),
    ]


def _places(columns: Sequence[Column]) -> tuple[float, list[float]]:
    """The side of an image, and where each column begins."""
    charts = [column.before + column.plot + column.after for column in columns]
    gaps = [0.0, *(GROUP if column.apart else GAP for column in columns[1:])]
    side = (WIDTH - 2 * EDGE - sum(charts) - sum(gaps)) / sum(column.is_picture for column in columns)
    ends = EDGE + np.cumsum([gap + (chart or side) for gap, chart in zip(gaps, charts, strict=True)])
    return side, [float(end - (chart or side)) for end, chart in zip(ends, charts, strict=True)]


def _heads(drawn: Figure, columns: Sequence[Column], lefts: Sequence[float], side: float) -> None:
    width, height = drawn.get_size_inches()
    for group in (THEIRS, OURS):
        places = [n for n, column in enumerate(columns) if column.group == group]
        last = columns[places[-1]]
        start, end = (
            lefts[places[0]],
            lefts[places[-1]] + (side if last.is_picture else last.before + last.plot + last.after),
        )
        drawn.text(start / width, 1 - 0.15 / height, group, color=MUTED, fontsize=6.5, va="baseline")
        _rule(drawn, start, end, 0.2, MUTED)
    for column, left in zip(columns, lefts, strict=True):
        place = left / width, 1 - (HEAD - 0.07) / height
        drawn.text(*place, column.head, fontweight="bold", va="bottom", linespacing=1.15)


def _title(drawn: Figure, run: Run, target: str, top: float) -> None:
    """A row's title: the object, its type, and what ablation does to it with everything live."""
    width, height = drawn.get_size_inches()
    colour = figures.class_colours(run)[target]
    drawn.add_artist(
        Rectangle(
            (EDGE / width, 1 - top / height), 0.075 / width, 0.075 / height, color=colour, transform=drawn.transFigure
        )
    )
    name = drawn.text((EDGE + 0.12) / width, 1 - top / height, target, fontsize=7.5, fontweight="bold")
    said = []
    if run.types is not None and target in run.types.index:
        row = run.types.loc[[target]].to_dict("records")[0]
        probability = row["p_" + str(row["type"]).replace("-", "_")]
        sure = "above 0.99" if 0.995 <= probability < 1 else f"{probability:.2f}"
        said.append(f"{TYPES[row['type']]} with probability {sure}")
        said.append(f"{number(row['inpainted_objects'])} % in-painted by objects")
    removed = run.rows(target, "removed")["tau_live"].iloc[0]
    said.insert(1, f"{number(removed)} % removed live{'' if run.live_in_range(target) else ' †'}")
    drawn.text(
        (EDGE + 0.12 + 0.08 + _wide(target, 7.5, "bold")) / width,
        name.get_position()[1],
        ", ".join(said),
        color=MUTED,
        fontsize=6.5,
    )


def _picture(axes: Axes, run: Run, target: str, column: Column) -> None:
    """One image with its outlines, and a few words under it."""
    axes.set_axis_off()
    outlines: list[tuple[np.ndarray, str]] = []
    examples, insertion = run.examples, run.insertion
    assert examples is not None and insertion is not None
    if column.kind in ("original", "ablated"):
        arm = 0 if column.kind == "original" else examples.arms.index(column.arm.name if column.arm else "live")
        image, labels = examples.images[target][0, arm], examples.labels[target][0]
        text = f"latent {examples.latents[target][0]}"
        if arm:
            found = pictures.change(labels[examples.baseline(arm)], labels[arm], examples.classes, run.objects, target)
            outlines = [(found.vanished, GONE), (found.appeared, CAME)]
            text = f"{100 * found.gone:.0f} % gone"
    else:
        shown = insertion.sel(target=target)
        image = shown["image"].sel(arm2="original" if column.kind == "before" else "live").values
        before, after = (shown["label"].sel(arm2=arm).values for arm in ("original", "live"))
        region = shown["region"].values.astype(bool)
        text = f"latent {int(shown['shown_latent'])}"
        if not region.any():
            text = "never seen"
        elif column.kind == "inserted":
            classes = [str(name) for name in insertion["object"].values]
            outlines = [(pictures.change(before, after, classes, run.objects, target).appeared, CAME)]
            text = f"{100 * (after[region] == classes.index(target)).mean():.0f} % filled"
        if region.any():
            _frame(axes, region)
    height, width = image.shape[:2]
    factor = max(1, round(SHARP / max(height, width)))
    sharp = image.repeat(factor, axis=0).repeat(factor, axis=1)
    axes.imshow(sharp, extent=(0, width, height, 0), interpolation="none", aspect="auto")
    for mask, colour in outlines:
        outline(axes, mask, colour)
    if column.arm and not run.supported(target, column.arm):
        strip = Rectangle(
            (0, -0.1), 1, 0.07, transform=axes.transAxes, clip_on=False, facecolor="none", edgecolor=MUTED
        )
        strip.set(hatch="////////", linewidth=0)
        axes.add_patch(strip)
        text = f"({text})"
    axes.text(0, -0.14, text, transform=axes.transAxes, va="top", color=MUTED)


def outline(axes: Axes, mask: np.ndarray, colour: str) -> None:
    """Draw the outline of a mask, in pixels, with a dark casing that keeps it in sight on any ground."""
    lines = pictures.segments(mask)
    if not lines:
        return
    points = [point for x0, y0, x1, y1 in lines for point in ((x0, y0), (x1, y1))]
    way = Path(points, [Path.MOVETO, Path.LINETO] * len(lines))
    for ink, wide, alpha in (("black", 1.1, 0.6), (colour, 0.55, 1.0)):
        patch = PathPatch(way, fill=False, edgecolor=ink, linewidth=wide, alpha=alpha, capstyle="projecting")
        axes.add_patch(patch)


def _frame(axes: Axes, region: np.ndarray) -> None:
    """Where something was inserted: a dashed frame that is seen on bright and on dark."""
    y, x = np.nonzero(region)
    corner, wide, tall = (x.min(), y.min()), x.max() + 1 - x.min(), y.max() + 1 - y.min()
    # Not PAPER: that is dark in the page at night.
    for colour, dashes in (("black", "solid"), ("#fefefe", (0, (2.5, 2.5)))):
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=colour, linewidth=0.7, linestyle=dashes))


def _ace(axes: Axes, run: Run, target: str) -> None:
    """ACE over units, largest first; the ablated units are coloured."""
    assert run.relation is not None
    units = run.relation[run.relation["object"] == target].sort_values("ace", ascending=False, kind="stable")
    ace, ablated = units["ace"].to_numpy(), units["unit"].isin(run.units(target)).to_numpy()
    place = np.arange(len(ace))
    axes.bar(place[~ablated], 100 * ace[~ablated], 1.0, color=REST, linewidth=0)
    axes.bar(place[ablated], 100 * ace[ablated], 1.0, color=figures.class_colours(run)[target], linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.5)
    axes.set_xlim(-0.5, len(ace) - 0.5)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.tick_params(axis="y", labelcolor=MUTED)
    part = 100 * share(ace, np.flatnonzero(ablated))
    said = f"{part:.0f} % in {ablated.sum()} of {len(ace)},\n{effective_units(ace):.0f} effective"
    axes.text(-0.1, -0.02, said, transform=axes.transAxes, va="top", linespacing=1.2)


def _did(axes: Axes, run: Run, target: str, lines: int) -> None:
    """Live minus held, of what is removed (first line) and of what each other object in-paints."""
    names, arms = others(run, target), held_arms(run)
    heights = np.arange(len(names) + 1)[::-1]
    effects = {
        arm: [
            run.rows(target, "removed", arm).to_dict("records")[0],
            *(run.rows(target, "inpainted", arm).set_index("object").loc[names].to_dict("records")),
        ]
        for arm in arms
    }
    values = {
        arm: [[100 * float(row[key]) for key in ("did", "ci_low", "ci_high")] for row in of]
        for arm, of in effects.items()
    }
    # Arms out of support may be far off: the scale is that of what is claimed, if anything is.
    claimed = [arm for arm in arms if run.supported(target, arm)] or arms
    ends = np.array([0.0, *np.ravel([values[arm] for arm in claimed])])
    ends = ends[np.isfinite(ends)]
    low, high = min(ends.min(), -0.4), max(ends.max(), 0.4)
    limits = low - 0.08 * (high - low), high + 0.08 * (high - low)
    axes.axvline(0, color=MUTED, linewidth=0.5, zorder=0)
    for arm, offset in zip(arms, np.linspace(0.17, -0.17, len(arms)) if len(arms) > 1 else [0.0], strict=True):
        for height, found in zip(heights, values[arm], strict=True):
            _estimate(axes, run, target, arm, found, height + offset, limits)
    axes.plot([0, 1], [len(names) - 0.5] * 2, transform=axes.get_yaxis_transform(), color=RULE, linewidth=0.5)
    axes.set_xlim(*limits)
    axes.set_ylim(-0.5, lines - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(2))
    axes.xaxis.set_major_formatter("{x:g}")
    _name_lines(axes, ["removed", *names], heights)


def _estimate(
    axes: Axes,
    run: Run,
    target: str,
    arm: Arm | None,
    found: Iterable[float],
    y: float,
    limits: tuple[float, float],
) -> None:
    """An estimate and its interval; hollow and dashed if out of support, an arrow at the edge if off the scale."""
    value, low, high = found
    if np.isnan(value):
        return
    colour, mark = figures.arm_style(run, arm)
    sound = arm is None or run.supported(target, arm)
    left, right = limits
    look: dict[str, Any] = {"color": colour, "markeredgewidth": 0.7, "clip_on": False}
    if not left <= value <= right:
        inset = 0.04 * (right - left)
        edge, toward = (left + inset, "<") if value < left else (right - inset, ">")
        axes.plot([edge], [y], marker=toward, markerfacecolor=PAPER, **look)
        return
    if np.isfinite(high):
        axes.plot([max(low, left), min(high, right)], [y, y], color=colour, linestyle="-" if sound else (0, (2, 1.2)))
    axes.plot([value], [y], marker=mark, markerfacecolor=colour if sound else PAPER, **look)


def _octaves(run: Run) -> float:
    """Half the width of the scale of ratios, the same for all objects of a figure."""
    assert run.after is not None
    values = run.after["ratio"].values
    values = np.abs(np.log2(values[np.isfinite(values) & (values > 0)]))
    return float(min(OCTAVES, max(1.1, 1.1 * values.max(initial=0))))


def _name_lines(axes: Axes, names: Sequence[str], heights: np.ndarray) -> None:
    axes.spines["left"].set_visible(False)
    axes.set_yticks(heights, [_short(name) for name in names])
    axes.tick_params(axis="y", length=0)


def _legend(run: Run) -> list[Line2D | Patch]:
    arms: list[Arm | None] = [None, *held_arms(run)]
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=mark, label="live" if arm is None else arm.label)
        for arm in arms
        for colour, mark in [figures.arm_style(run, arm)]
    ]
    handles += [
        Line2D([], [], color=GONE, linewidth=1.5, label="vanished"),
        Line2D([], [], color=CAME, linewidth=1.5, label="appeared"),
        Line2D([], [], color=INK, linestyle=(0, (2, 2)), label="region of the insertion"),
        Patch(facecolor=REST, label="units not ablated"),
    ]
    if any(not run.supported(target, arm) for target in targets(run) for arm in held_arms(run)):
        handles.append(
            Patch(
                facecolor="none",
                edgecolor=MUTED,
                hatch="//////",
                linewidth=0.3,
                label="hatched, hollow: out of support",
            )
        )
    if not all(run.live_in_range(target) for target in targets(run)):
        handles.append(Line2D([], [], linestyle="none", label="† the ablation itself leaves the range"))
    return handles


def _rule(drawn: Figure, left: float, right: float, top: float, colour: str) -> None:
    width, height = drawn.get_size_inches()
    drawn.add_artist(Line2D([left / width, right / width], [1 - top / height] * 2, color=colour, linewidth=0.5))


def _wide(text: str, size: float = 6, weight: str = "normal") -> float:
    """Inches that a text takes."""
    return float(TextPath((0, 0), text, prop=FontProperties(size=size, weight=weight)).get_extents().width) / 72


def _short(name: str) -> str:
    """A class's name as a label: of synonyms ("rug, carpet, carpeting") the first, and no more than fits."""
    name = name.split(",")[0]
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
