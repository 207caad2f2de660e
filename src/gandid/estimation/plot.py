"""Effects drawn and tabulated for a notebook, in the report's colours and marks."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gandid.estimation.effects import Effects

# Okabe and Ito's colours as the report has them, told apart by the colour-blind, each with a mark of its own for print.
STYLES = [("#c75300", "o"), ("#007a58", "D"), ("#0072b2", "s"), ("#7d4fae", "^"), ("#8a6a00", "v")]
OUTCOMES = {"removed": ("target", "removed"), "inpainted": ("object", "in-painted")}  # kinds of classes, and words
PER_ROW = 3


def forest(effects: "Effects", control: str, outcome: str = "inpainted") -> "Figure":
    """Per target, how much of its area is removed, or each other object in-paints, live and held, with intervals.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to pyplot: nothing to close. Hollow marks are arms outside the network's range.
    """
    from matplotlib.figure import Figure

    targets, frame, (kind, word) = effects.targets, effects.main, OUTCOMES[outcome]
    shown = frame[(frame["outcome"] == outcome) & (frame["kind"] == kind) & (frame["control"] == control)]
    tallest = max((int(n) for n in shown.groupby("target")["object"].nunique()), default=1)
    columns = min(PER_ROW, max(len(targets), 1))
    lines = -(-len(targets) // columns) or 1
    figure = Figure(figsize=(3.6 * columns, lines * (1.0 + 0.38 * tallest) + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, target in zip(axes, targets, strict=False):
        axis.set_title(f"{target} ablated", fontsize=10, loc="left")
        axis.set_xlabel(f"% of {target}'s area {word} ({effects.level:.0%} intervals)", fontsize=8)
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


def table(effects: "Effects") -> str:
    """The whole effects as an HTML table: a line per target, outcome and held arm, with its interval drawn around 0."""
    rows = effects.tidy().to_dict("records")
    ends = [abs(row[end]) for row in rows if row["supported"] for end in ("ci_low", "ci_high", "did")]
    limit = max([end for end in ends if np.isfinite(end)], default=0.0) or 0.01
    heads = ("ablated", "outcome", "held", "live %", "held %", "live − held, points", "", "verdict", "images")
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        levels = [f"{100 * row[name]:.1f}" for name in ("tau_live", "tau_held")]
        gap = f"{100 * row['did']:+.1f} [{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]"
        cells = [escape(str(row[name])) for name in ("target", "outcome", "arm")]
        cells += [*levels, gap] if np.isfinite(row["did"]) else ["–"] * 3
        cells += [_interval(row, limit), row["verdict"], f"{row['n']:.0f}" if np.isfinite(row["n"]) else "0"]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def _interval(row: dict, limit: float) -> str:
    """An effect and its interval around 0, 120 pixels wide for -`limit` to `limit`; hollow where it is out of range."""
    if not np.isfinite(row["did"]):
        return ""
    low, value, high = (60 + 56 * float(np.clip(row[name] / limit, -1, 1)) for name in ("ci_low", "did", "ci_high"))
    fill = STYLES[1][0] if row["supported"] else "none"
    return (
        '<svg width="120" height="14" viewBox="0 0 120 14"><path d="M60 0V14" stroke="#999"/>'
        f'<path d="M{low:.1f} 7H{high:.1f}" stroke="{STYLES[1][0]}" stroke-width="2"/>'
        f'<circle cx="{value:.1f}" cy="7" r="3.5" fill="{fill}" stroke="{STYLES[1][0]}"/></svg>'
    )
