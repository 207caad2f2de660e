"""Effects drawn and tabulated for a notebook, in the report's colours and marks."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from gandid import outcomes
from gandid.panel.table import LEARNED
from gandid.text import number, points
from gandid.verdicts import SOLID

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gandid.estimation.effects import Effects

# Okabe and Ito's colours as the report has them, told apart by the colour-blind, each with a mark of its own for print.
STYLES = [("#007a58", "D"), ("#0072b2", "s"), ("#7d4fae", "^"), ("#8a6a00", "v"), ("#566173", "P"), ("#9a3f76", "X")]


def forest(effects: "Effects", control: str, kind: str | None = None) -> "Figure":
    """Live minus held around 0, a line per target and held arm; see `gandid.estimation.Effects.plot`.

    Returns
    -------
    matplotlib.figure.Figure
        Not attached to pyplot: nothing to close.
    """
    from matplotlib.figure import Figure

    rows = [row for row in shown(effects) if row["arm"].split(":")[0] == control]
    lines = list(dict.fromkeys((row["target"], row["arm"]) for row in rows))
    arms = list(dict.fromkeys(arm for _, arm in lines))
    kinds = [kind] if kind else effects.pair
    figure = Figure(figsize=(2 + 3 * len(kinds), 0.9 + 0.2 * len(lines)), layout="constrained")
    for axis, outcome in zip(figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0], kinds, strict=True):
        axis.set_title(outcomes.NAMES[outcome].capitalize(), fontsize=9, loc="left")
        axis.set_xlabel(f"live minus held, points ({effects.level:.0%} intervals)", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvspan(-100 * effects.relevant, 100 * effects.relevant, color="0.93", zorder=0)
        axis.axvline(0, color="0.5", linewidth=0.8, zorder=0)
        for row in rows:
            if row["outcome"] == outcome and np.isfinite(row["did"]):
                value, low, high = (100 * row[name] for name in ("did", "ci_low", "ci_high"))
                ends = np.nan_to_num([[value - low], [high - value]], posinf=0)
                colour, mark = STYLES[arms.index(row["arm"]) % len(STYLES)]
                fill = colour if row["supported"] else "white"
                place = lines.index((row["target"], row["arm"]))
                axis.errorbar(value, place, xerr=ends, fmt=mark, color=colour, markerfacecolor=fill, markersize=5)
        axis.set_yticks(range(len(lines)), [" ".join(line) for line in lines])
        axis.set_ylim(max(len(lines), 1) - 0.5, -0.5)
    return figure


def table(effects: "Effects") -> str:
    """The whole effects as an HTML table: a line per target, outcome and held arm, with its interval drawn around 0."""
    rows = shown(effects)
    ends = [abs(row[end]) for row in rows if row["supported"] for end in ("ci_low", "ci_high", "did")]
    limit = max([end for end in ends if np.isfinite(end)], default=0.0) or 0.01
    heads = (
        effects.pair.done,
        "outcome",
        "held",
        "live %",
        "held %",
        "live minus held, points",
        "",
        "verdict",
        "n",
    )
    lines = ["<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"]
    for row in rows:
        cells = [escape(str(row[name])) for name in ("target", "outcome", "arm")]
        cells += [number(100 * row[name]) for name in ("tau_live", "tau_held")]
        verdict = f"<b>{row['verdict']}</b>" if row["verdict"] in SOLID else row["verdict"]
        cells += [points(row), _interval(row, limit), verdict, number(row["n"], 0)]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"


def shown(effects: "Effects") -> list[dict[str, Any]]:
    """The rows of `tidy` as they are printed: those of arms that are identical once, and of distilled networks those of all together."""
    rows: list[Any] = effects.tidy().to_dict("records")
    arms: dict[str, list[tuple]] = {}
    for row in rows:
        arms.setdefault(row["arm"], []).append(
            (row["target"], row["outcome"], *np.nan_to_num([row["tau_held"], row["did"]]))
        )
    together: dict[tuple, list[str]] = {}
    for arm, numbers in arms.items():
        if LEARNED[0] not in arms or arm == LEARNED[0] or arm.split(":")[0] not in LEARNED:
            together.setdefault(tuple(numbers), []).append(arm)
    names = {same[0]: ", ".join(same) for same in together.values()}
    return [row | {"arm": names[row["arm"]]} for row in rows if row["arm"] in names]


def _interval(row: dict, limit: float) -> str:
    """An effect and its interval around 0, 120 pixels wide for -`limit` to `limit`; hollow where it is out of range."""
    if not np.isfinite(row["did"]):
        return ""
    low, value, high = (60 + 56 * float(np.clip(row[name] / limit, -1, 1)) for name in ("ci_low", "did", "ci_high"))
    colour = STYLES[0][0]
    fill = colour if row["supported"] else "none"
    return (
        '<svg width="120" height="14" viewBox="0 0 120 14"><path d="M60 0V14" stroke="#999"/>'
        f'<path d="M{low:.1f} 7H{high:.1f}" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{value:.1f}" cy="7" r="3.5" fill="{fill}" stroke="{colour}"/></svg>'
    )
