"""The forest plot of in-painting."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gandid.did.effects import Effects

# Okabe and Ito's colours, told apart by the colour-blind, each with a mark of its own for print.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#E69F00", "v")]
PER_ROW = 3


def forest(effects: "Effects", control: str) -> "Figure":
    """Per target, how much of its area each other object in-paints, live and held, with intervals.

    Parameters
    ----------
    effects
        The estimates.
    control
        The control whose held arms are shown.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to pyplot: nothing to close.
    """
    from matplotlib.figure import Figure

    targets = effects.targets
    columns = min(PER_ROW, max(len(targets), 1))
    lines = -(-len(targets) // columns) or 1
    frame = effects.frame
    wanted = (frame["outcome"] == "inpainted") & (frame["kind"] == "object") & (frame["control"] == control)
    shown = frame[wanted]
    tallest = max((int(n) for n in shown.groupby("target")["object"].nunique()), default=1)
    figure = Figure(figsize=(3.6 * columns, lines * (1.0 + 0.38 * tallest) + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, target in zip(axes.flat, targets, strict=False):
        _panel(axis, effects, shown[shown["target"] == target], target)
    for axis in list(axes.flat)[len(targets) :]:
        axis.set_axis_off()
    handles = {
        label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
        )
    return figure


def _panel(axis: "Axes", effects: "Effects", rows: "object", target: str) -> None:
    import pandas as pd

    assert isinstance(rows, pd.DataFrame)
    axis.set_title(f"{target} ablated", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    if not rows["estimable"].any():
        axis.text(0.5, 0.5, "not estimable", ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    objects = list(dict.fromkeys(rows["object"]))
    heights = np.arange(len(objects))[::-1]
    arms = list(dict.fromkeys(rows["arm"]))
    series = [("live", rows[rows["arm"] == arms[0]], "live", True)]
    series += [
        (arm, rows[rows["arm"] == arm], "held", bool(rows.loc[rows["arm"] == arm, "supported"].all())) for arm in arms
    ]
    shifts = np.linspace(0.25, -0.25, len(series))
    for (label, of, side, solid), shift, (colour, mark) in zip(series, shifts, STYLES * 9, strict=False):
        low, high, value = (
            100 * of[f"{name}_{side}{end}"].to_numpy() for name, end in (("ci", "_low"), ("ci", "_high"), ("tau", ""))
        )
        axis.errorbar(
            value,
            heights + shift,
            xerr=np.clip([value - low, high - value], 0, None),
            fmt=mark,
            color=colour,
            markerfacecolor=colour if solid else "white",
            markersize=5,
            linewidth=1.2,
            label=label,
        )
    axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_yticks(heights, objects)
    axis.set_ylim(-0.6, len(objects) - 0.4)
    axis.set_xlabel(f"% of {target}'s area in-painted ({effects.level:.0%} intervals)", fontsize=8)
    axis.tick_params(labelsize=8)
