"""The figure of Liu et al. (2020), for any study: a row per object, from its images to what normalization causes.

Their columns come first (original, ablated, effects of units, ratio and rank of the effects on other objects, inserted), then ours: the
same ablation with normalization held, and what holding changes. All but the images are vectors, at the width of a journal's two columns.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gandid.estimation.plot import STYLES
from gandid.estimation.types import NOT_IDENTIFIED
from gandid.report import pictures
from gandid.report.charts import LIGHT
from gandid.report.run import Comparison, Run
from gandid.text import ends, percent, points, type_of

WIDTH = 7.2  # inches: two columns of most journals (183 mm)
OTHERS, LONGEST = 6, 11  # other objects that a row shows at most, and letters of their names
OCTAVES = 3.0  # ratios beyond 8 or 1/8 are off the scale
SHARP = 256  # pixels: smaller images are enlarged by whole factors, so that no viewer blurs them
DASHES = (0, (2, 1.2))
INK, MUTED, LIVE, REST = LIGHT["ink"], LIGHT["muted"], LIGHT["live"], "#b9bec5"
HEADS = (
    *("original", "units\nablated", "effects\nof units,\n% of image"),
    *("on others, after\n÷ before, rank", "before\ninsertion", "units\ninserted"),
)
STYLE: Any = {
    **dict.fromkeys(("font.size", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 6),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.5),
    **{"lines.markersize": 3, "lines.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False},
    # Text stays text: searchable, and set in the journal's own type if need be. The same run gives the same files.
    **{"ytick.labelcolor": INK, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "gandid"},
}


def is_possible(run: Run) -> bool:
    """Whether a run has what the figure shows (`gandid run --figure`)."""
    return run.relation is not None and run.after is not None and run.insertion is not None and bool(_targets(run))


def draw(run: Run, path: Path) -> dict[str, str]:
    """Draw the figure and write PATH.png (450 dpi), PATH.svg and PATH.pdf.

    The images of an object are those of the first of its examples; those of its insertion are of the latent and the place at which a
    median share of the region turned into it.

    Returns
    -------
    dict
        `src`, the drawing as a data URI for the page, and `alt`, what it shows in words and numbers.
    """
    import matplotlib  # a second to load, and only this figure needs it

    with matplotlib.rc_context(STYLE):
        figure, buffer = _figure(run), io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        figure.set_layout_engine("none")  # where all is placed is known now
        figure.savefig(path.with_suffix(".png"), dpi=450)
        figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
    path.with_suffix(".svg").write_bytes(buffer.getvalue())
    lines = []
    for target in _targets(run):
        parts = [f"{percent(run.rows(target, 'removed')[0]['tau_live'])} removed live"]
        rows = [(regime, run.row(target, "removed", regime)) for regime in _held(run)]
        parts += [f"live minus {regime.label} {points(row)} points, {row['verdict']}" for regime, row in rows if row]
        parts += [
            f"effect on {name} times {_ratios(run, target, 'live', name)[0]:.2f}" for name in _others(run, target)
        ]
        lines.append(f"{target}: {', '.join(parts)}")
    source = f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": source, "alt": f"A row of images and charts per object. {'. '.join(lines)}."}


def _targets(run: Run) -> list[str]:
    return [target for target in run.targets if run.estimable(target) and target in run.examples]


def _held(run: Run) -> list[Comparison]:
    """The regimes that the figure shows: those of the study's first control, two at most."""
    control = run.regimes[0].name.split(":")[0]
    return [regime for regime in run.regimes if any(name.startswith(f"{control}:") for name in regime.names)][:2]


def _others(run: Run, target: str) -> list[str]:
    """The other objects on which effects were measured after the ablation, by their rank before it; those that in-paint come first."""
    found = run.after.sel(target=target, arm="live")  # type: ignore[union-attr]
    known = [str(name) for name in found["object"].values[np.isfinite(found["ratio"].values)]]
    painted = {row["object"]: row["tau_live"] for row in run.rows(target, "inpainted")}
    rank = {name: float(found["rank_before"].sel(object=name)) for name in known}
    chosen = sorted(known, key=lambda name: (painted.get(name, 0) < 0.0005, rank[name]))[:OTHERS]
    return sorted(chosen, key=lambda name: rank[name])


def _ratios(run: Run, target: str, arm: str, name: str) -> list[float]:
    """The effect on an object after the ablation over that before it, and its interval."""
    found = run.after.sel(target=target, arm=arm, object=name)  # type: ignore[union-attr]
    return [float(found[key]) for key in ("ratio", "ratio_low", "ratio_high")]


def _figure(run: Run) -> Any:
    from matplotlib.figure import Figure

    targets, held = _targets(run), _held(run)
    labels = [regime.label.replace("/", "/\n") for regime in held]
    heads = [*HEADS, *labels, "live − held,\npoints"]
    widths = [1, 1, 0.8, 0.7, 1, 1, *[1] * len(held), 0.7]
    figure = Figure(figsize=(WIDTH, 0.6 + 1.05 * len(targets)), layout="constrained")
    grid = figure.subplots(len(targets), len(heads), squeeze=False, width_ratios=widths)
    figure.get_layout_engine().set(hspace=0.16)  # type: ignore[call-arg, union-attr]  # for the rows' titles
    lines = 1 + max(len(_others(run, target)) for target in targets)
    for axes, head in zip(grid[0], heads, strict=True):
        axes.set_title(head, fontweight="bold", pad=16, x=-0.45 if "after" in head or "held," in head else 0, ha="left")
    for row, target in zip(grid, targets, strict=True):
        original, ablated, units, after, before, inserted, *others, did = row
        _edited(original, run, target, None)
        for axes, names in zip([ablated, *others], [("live",), *(regime.names for regime in held)], strict=True):
            _edited(axes, run, target, names)
        _units(units, run, target)
        _after(after, run, target, lines)
        _insertion(before, inserted, run, target)
        _did(did, run, target, lines)
        original.text(0, 1.06, _title(run, target), transform=original.transAxes, in_layout=False, parse_math=False)
    figure.legend(handles=_legend(run), loc="outside lower center", ncols=5, frameon=False, handlelength=1.6)
    return figure


def _title(run: Run, target: str) -> str:
    """A row's title: the object, its type, and what ablation does to it with everything live."""
    parts = [target]
    types = [] if run.types is None else run.types[run.types["target"] == target].to_dict("records")
    for row in types:
        kind, chance = type_of(row)
        parts.append(f"{kind} with probability {chance:.2f}" if row["type"] != NOT_IDENTIFIED else f"type {kind}")
    return ", ".join([*parts, f"{percent(run.rows(target, 'removed')[0]['tau_live'])} removed live"])


def _edited(axes: Any, run: Run, target: str, names: Sequence[str] | None) -> None:
    """The first example in an arm of those `names`, or unedited, with outlines of what vanished and appeared."""
    examples = run.examples[target]
    if names is None:
        _image(axes, examples.images[0, 0], f"latent {examples.latents[0]}")
        return
    arm, labels = next(place for place, name in enumerate(examples.arms) if name in names), examples.labels[0]
    found = pictures.change(labels[examples.baseline(arm)], labels[arm], examples.classes, run.objects, target)
    outside = any(set(names) & set(regime.names) and not run.supported(target, regime) for regime in run.regimes)
    gone = f"{100 * found.gone:.0f} % gone"
    _image(axes, examples.images[0, arm], f"{gone}\nout of range" if outside else gone)
    _outline(axes, found.vanished, pictures.GONE)
    _outline(axes, found.appeared, pictures.CAME)


def _insertion(first: Any, second: Any, run: Run, target: str) -> None:
    """One image before and after the target's units are set to what they are where it is seen, in the dashed region."""
    shown = run.insertion.sel(target=target)  # type: ignore[union-attr]
    region, classes = shown["region"].values.astype(bool), [str(name) for name in shown["object"].values]
    before, after = (shown["label"].sel(arm2=arm).values for arm in ("original", "live"))
    texts = ("never seen", "")
    if region.any():
        filled = 100 * (after[region] == classes.index(target)).mean()
        texts = (f"latent {int(shown['shown_latent'])}", f"{filled:.0f} % filled")
    for axes, arm, text in ((first, "original", texts[0]), (second, "live", texts[1])):
        _image(axes, shown["image"].sel(arm2=arm).values, text)
        _outline(axes, region, "#ffffff", DASHES)
    _outline(second, pictures.change(before, after, classes, run.objects, target).appeared, pictures.CAME)


def _image(axes: Any, image: np.ndarray, text: str) -> None:
    height, width = image.shape[:2]
    axes.imshow(pictures.enlarged(image, SHARP), extent=(0, width, height, 0), interpolation="none")
    axes.set_anchor("N")
    axes.set_axis_off()
    axes.text(0, -0.05, text, transform=axes.transAxes, va="top", color=MUTED, in_layout=False)


def _outline(axes: Any, mask: np.ndarray, colour: str, dashes: Any = "solid") -> None:
    """The outline of a mask, in pixels, with a dark casing that keeps it in sight on any ground."""
    from matplotlib.collections import LineCollection

    lines = [((x0, y0), (x1, y1)) for x0, y0, x1, y1 in pictures.segments(mask)]
    for ink, width, style, alpha in (("black", 1.1, "solid", 0.6), (colour, 0.6, dashes, 1.0)):
        axes.add_collection(LineCollection(lines, colors=ink, linewidths=width, linestyles=[style], alpha=alpha))


def _units(axes: Any, run: Run, target: str) -> None:
    """Effects of the units, largest first; those that are ablated are coloured."""
    ace, ablated = run.ranked(target)
    for chosen, colour in ((~ablated, REST), (ablated, LIVE)):
        axes.bar(np.flatnonzero(chosen), 100 * ace[chosen], 1.0, color=colour, linewidth=0)
    axes.set_xticks([])
    axes.spines["bottom"].set_position(("data", 0))
    axes.locator_params(axis="y", nbins=3)


def _after(axes: Any, run: Run, target: str, lines: int) -> None:
    """Ratio of the effects on other objects, after the ablation over before it, in octaves; beside it their ranks."""
    found, names = run.after.sel(target=target), _others(run, target)  # type: ignore[union-attr]
    whole = range(-int(OCTAVES), int(OCTAVES) + 1)
    for arm, offset in zip(found["arm"].values, (0.17, -0.17), strict=True):
        regime = next((regime for regime in run.regimes if str(arm) in regime.names), None)
        for place, name in enumerate(names):
            values = [np.log2(ratio) if ratio > 0 else np.nan for ratio in _ratios(run, target, str(arm), name)]
            _estimate(axes, run, target, regime, values, len(names) - 1 - place + offset, (-OCTAVES, OCTAVES))
    for place, name in enumerate(names):
        one = found.sel(object=name)
        text = f"{one['rank_before'].values[0]:.0f}→" + ",".join(f"{rank:.0f}" for rank in one["rank"].values)
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(text, (1, len(names) - 1 - place), (2, 0), va="center", color=MUTED, **where)
    axes.set_xticks(whole[::3], [f"{2**at}" if at >= 0 else f"1/{2**-at}" for at in whole[::3]])
    _frame(axes, (-OCTAVES, OCTAVES), names, lines)


def _did(axes: Any, run: Run, target: str, lines: int) -> None:
    """Live minus held, of what is removed (first line) and of what each other object in-paints."""
    names, regimes, values = _others(run, target), _held(run), {}
    for regime in regimes:
        painted = {row["object"]: row for row in run.rows(target, "inpainted", regime)}
        rows = [run.row(target, "removed", regime), *(painted.get(name) for name in names)]
        values[regime] = 100 * np.array([(row["did"], *ends(row)) if row else (np.nan,) * 3 for row in rows])
    # Arms out of range may be far off: the scale is that of what is claimed, if anything is.
    scaled = [regime for regime in regimes if run.supported(target, regime)] or regimes
    seen = np.append(np.ravel([values[regime] for regime in scaled]), [0.4, -0.4])
    seen = seen[np.isfinite(seen)]
    limits = float(1.1 * seen.min()), float(1.1 * seen.max())
    for regime, offset in zip(regimes, (0.17, -0.17), strict=False):
        for place, estimate in enumerate(values[regime]):
            _estimate(axes, run, target, regime, estimate, len(names) - place + offset, limits)
    axes.locator_params(axis="x", nbins=2)
    _frame(axes, limits, ["removed", *names], lines)


def _estimate(
    axes: Any,
    run: Run,
    target: str,
    regime: Comparison | None,
    values: Sequence[float],
    y: float,
    limits: tuple[float, float],
) -> None:
    """An estimate and its interval; hollow and dashed if out of range, an arrow at the edge if off the scale."""
    value, low, high = values
    if np.isnan(value):
        return
    colour, marker = _look(run, regime)
    sound = regime is None or run.supported(target, regime)
    look: Any = {"color": colour, "markeredgewidth": 0.7, "clip_on": False}
    if not limits[0] <= value <= limits[1]:
        edge, toward = (limits[0], "<") if value < limits[0] else (limits[1], ">")
        axes.plot([edge], [y], marker=toward, markerfacecolor="white", **look)
        return
    axes.plot(np.clip([low, high], *limits), [y, y], color=colour, linestyle="-" if sound else DASHES)
    axes.plot([value], [y], marker=marker, markerfacecolor=colour if sound else "white", **look)


def _look(run: Run, regime: Comparison | None) -> tuple[str, str]:
    """Colour and marker of a regime, or of the live arm (None)."""
    if regime is None:
        return LIVE, "o"
    return STYLES[run.regimes.index(regime) % len(STYLES)]


def _frame(axes: Any, limits: tuple[float, float], names: Sequence[str], lines: int) -> None:
    axes.axvline(0, color=MUTED, linewidth=0.5, zorder=0)
    axes.set_xlim(*limits)
    axes.set_ylim(-0.5, lines - 0.5)
    axes.spines["left"].set_visible(False)
    # Of synonyms ("rug, carpet, carpeting") the first, and no more than fits.
    axes.set_yticks(range(len(names))[::-1], [name.split(",")[0][:LONGEST] for name in names], parse_math=False)
    axes.tick_params(axis="y", length=0)


def _legend(run: Run) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for regime in (None, *_held(run)):
        colour, marker = _look(run, regime)
        handles.append(Line2D([], [], color=colour, marker=marker, label=regime.label if regime else "live"))
    hollow: Any = {"marker": "o", "markerfacecolor": "white", "linestyle": DASHES}
    handles.append(Line2D([], [], color=MUTED, label="out of range", **hollow))
    handles += [
        Line2D([], [], color=pictures.GONE, label="vanished"),
        Line2D([], [], color=pictures.CAME, label="appeared"),
    ]
    handles.append(Line2D([], [], color=INK, linestyle=DASHES, label="region of the insertion"))
    return [*handles, Patch(facecolor=REST, label="units not ablated")]
