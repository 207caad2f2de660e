"""The forest plot of in-painting."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gandid.estimation.effects import Effects

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

    targets, frame = effects.targets, effects.main
    shown = frame[(frame["outcome"] == "inpainted") & (frame["kind"] == "object") & (frame["control"] == control)]
    columns = min(PER_ROW, max(len(targets), 1))
    lines = -(-len(targets) // columns) or 1
    tallest = max((int(n) for n in shown.groupby("target")["object"].nunique()), default=1)
    figure = Figure(figsize=(3.6 * columns, lines * (1.0 + 0.38 * tallest) + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    handles = {}
    for axis, target in zip(axes.flat, targets, strict=False):
        _panel(axis, shown[shown["target"] == target], target, effects.level)
        marks, names = axis.get_legend_handles_labels()
        handles |= dict(zip(names, marks, strict=True))
    for axis in list(axes.flat)[len(targets) :]:
        axis.set_axis_off()
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False
        )
    return figure


def _panel(axis: "Axes", rows: pd.DataFrame, target: str, level: float) -> None:
    axis.set_title(f"{target} ablated", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    if not rows["estimable"].any():
        axis.text(0.5, 0.5, "not estimable", ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    arms = [rows[rows["arm"] == arm] for arm in dict.fromkeys(rows["arm"])]
    heights = np.arange(len(arms[0]))[::-1]
    series = [("live", arms[0], "live", True)]
    series += [(one["arm"].iloc[0], one, "held", bool(one["supported"].all())) for one in arms]
    shifts = np.linspace(0.25, -0.25, len(series))
    for (label, one, side, solid), shift, (colour, mark) in zip(series, shifts, STYLES * 9, strict=False):
        value, low, high = (
            100 * one[f"{name.format(side)}"].to_numpy() for name in ("tau_{}", "ci_{}_low", "ci_{}_high")
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
    axis.set_yticks(heights, arms[0]["object"])
    axis.set_ylim(-0.6, len(heights) - 0.4)
    axis.set_xlabel(f"% of {target}'s area in-painted ({level:.0%} intervals)", fontsize=8)
    axis.tick_params(labelsize=8)
