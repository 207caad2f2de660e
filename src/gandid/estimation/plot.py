"""The forest plot of in-painting."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gandid.estimation.effects import Effects

# Okabe and Ito's colours, told apart by the colour-blind, each with a mark of its own for print.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#E69F00", "v")]
PER_ROW = 3


def forest(effects: "Effects", control: str) -> "Figure":
    """Per target, how much of its area each other object in-paints, live and held, with intervals.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to pyplot: nothing to close. Hollow marks are arms outside the network's range.
    """
    from matplotlib.figure import Figure

    targets, frame = effects.targets, effects.main
    shown = frame[(frame["outcome"] == "inpainted") & (frame["kind"] == "object") & (frame["control"] == control)]
    tallest = max((int(n) for n in shown.groupby("target")["object"].nunique()), default=1)
    columns = min(PER_ROW, max(len(targets), 1))
    lines = -(-len(targets) // columns) or 1
    figure = Figure(figsize=(3.6 * columns, lines * (1.0 + 0.38 * tallest) + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, target in zip(axes, targets, strict=False):
        axis.set_title(f"{target} ablated", fontsize=10, loc="left")
        axis.set_xlabel(f"% of {target}'s area in-painted ({effects.level:.0%} intervals)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        rows = shown[(shown["target"] == target) & shown["estimable"]]
        if rows.empty:
            axis.text(0.5, 0.5, "not estimable", ha="center", va="center", transform=axis.transAxes)
            continue
        arms = [one for _, one in rows.groupby("arm", sort=False)]
        series = [("live", "live", arms[0]), *((str(one["arm"].iloc[0]), "held", one) for one in arms)]
        for (label, side, one), shift, style in zip(
            series, np.linspace(0.25, -0.25, len(series)), STYLES * 9, strict=False
        ):
            value, low, high = (
                100 * one[name].to_numpy() for name in (f"tau_{side}", f"ci_{side}_low", f"ci_{side}_high")
            )
            hollow = side == "held" and not one["supported"].all()
            marks = {"fmt": style[1], "color": style[0], "markerfacecolor": "white" if hollow else style[0]}
            heights, ends = np.arange(len(one))[::-1] + shift, np.clip([value - low, high - value], 0, None)
            axis.errorbar(value, heights, xerr=ends, markersize=5, linewidth=1.2, label=label, **marks)
        axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.set_yticks(np.arange(len(arms[0]))[::-1], arms[0]["object"])
    for axis in axes[len(targets) :]:
        axis.set_axis_off()
    handles = {name: mark for axis in axes for mark, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        names = list(handles)
        figure.legend(list(handles.values()), names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure
