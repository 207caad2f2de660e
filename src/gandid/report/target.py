"""The section of one target: what its ablation does, image by image, place by place and class by class."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from markupsafe import Markup

from gandid.did.words import VISIBLE
from gandid.relation.types import sentences
from gandid.report import figures, folder, paper, pictures
from gandid.report.folder import Arm, Run, claimed
from gandid.report.relation import ranking
from gandid.report.text import number, percent, plain, signed, small, typeset

# What each outcome is, and what its numbers are shares of.
OUTCOMES = {
    "removed": ("Removed", "% of the target’s original pixels"),
    "inpainted": ("In-painted by", "% of the target’s original pixels"),
    "emerged": ("Emerged in", "% of images"),
    "collateral": ("Changed elsewhere", "% of the image, outside the target’s original pixels"),
    "area": ("Area of", "% of the image"),
}


def target_section(run: Run, target: str, slug: str, colours: dict[str, str], sentence: str) -> dict[str, Any]:
    """What the page says of one target; `slug` is its name in anchors, `sentence` what its effects are in words."""
    shown = run.shown(target)
    said: dict[str, Any] = {
        "name": target,
        "slug": slug,
        "colour": colours[target],
        "estimable": run.estimable(target),
        "sentences": [typeset(part) for part in re.split(r"(?<=\.) (?=[A-Z])", sentence)],
        "shown": f"{shown:,}",
        "units": run.units(target),
        "outside": [arm.label for arm in run.arms if run.estimable(target) and not run.supported(target, arm)],
        "live_outside": run.estimable(target) and not run.live_in_range(target),
        "gain": _mean(run, "gain", target),
        "gain_outside": _mean(run, "gain_outside", target),
        "ranking": ranking(run, target, slug),
        "type": _type(run, target),
    }
    if said["estimable"]:
        said |= {
            "answer": figures.inline(figures.answer(run, target), f"answer-{slug}", _answer_alt(run, target)),
            "strip": _strip(run, target) if run.has_examples(target) else None,
            "maps": [_map(run, target, *found) for found in figures.heat_maps(run, target)],
            "arms": [{"label": arm.label, "outside": not run.supported(target, arm)} for arm in run.arms],
            "main": _table(run, target, ("removed", "inpainted")),
            "more": _table(run, target, ("emerged", "collateral", "area")),
            "after": _after(run, target, slug),
            "insertion": _insertion(run, target),
        }
    return said


def _answer_alt(run: Run, target: str) -> str:
    said = []
    arms: list[Arm | None] = [None, *run.arms]
    for arm in arms:
        value, low, high = figures.numbers(run.rows(target, "removed", arm).iloc[0], arm)
        filled = run.rows(target, "inpainted", arm, kind="object").set_index("object")
        shares = filled["tau_live" if arm is None else "tau_held"]
        by = ", ".join(f"{name} {percent(shares[name])}" for name in figures.painters(run, target) if name in shares)
        mark = "" if arm is None or run.supported(target, arm) else " (out of support)"
        said.append(
            f"{'live' if arm is None else arm.label}{mark}: {percent(value)} removed "
            f"[{100 * low:.1f}, {100 * high:.1f}], in-painted by {by or 'no other object'}"
        )
    return f"Chart. {target} ablated. " + "; ".join(said) + "."


def _strip(run: Run, target: str) -> dict[str, Any]:
    """The most affected images: a heading per column, and a row of cells per image."""
    examples = run.examples
    assert examples is not None
    shown = folder.columns(run, target)
    images, labels, gains = examples.images[target], examples.labels[target], examples.gain[target]
    low, high = figures.gain_range(run, target)
    height, width = labels.shape[-2:]
    rows = []
    for e in range(len(images)):
        cells = []
        which = f"image {e + 1} of {len(images)}"
        for label, arm, _ in shown:
            cell = {"src": pictures.picture(images[e, arm]), "gone": "", "came": ""}
            if arm == 0:
                original = (labels[e, 0] == examples.classes.index(target)).sum()
                cell["text"] = f"latent {examples.latents[target][e]}"
                share = percent(original / labels[e, 0].size)
                cell["alt"] = f"{target}, {which}, original: {target} covers {share} of it"
            else:
                found = pictures.change(labels[e, 0], labels[e, arm], examples.classes, run.objects, target)
                cell |= {"gone": pictures.path(found.vanished), "came": pictures.path(found.appeared)}
                cell["text"] = figures.caption(found).replace(" %", "\u00a0%")
                visible = {name: share for name, share in found.painted.items() if share >= VISIBLE / 2}
                painted = ", ".join(f"{percent(share)} by {name}" for name, share in visible.items())
                cell["alt"] = f"{target}, {which}, {label}: {percent(found.gone)} of its pixels vanished, " + (
                    f"in-painted {painted}" if painted else "none in-painted by another object"
                )
            cells.append(cell)
        peak = float(gains[e].max())
        cells.append(
            {
                "src": pictures.heat(gains[e], low, high, figures.GAIN),
                "gone": "",
                "came": "",
                "text": f"up to ×{peak:.2f}",
                "alt": f"{target}, {which}: map of the measured gain, {gains[e].min():.2f} to {peak:.2f}",
            }
        )
        rows.append(cells)
    headings = [figures.heading(run, target, *column).split("\n") for column in shown]
    return {
        "headings": [*headings, ["gain at the first site"]],
        "rows": rows,
        "box": f"0 0 {width} {height}",
        "scale": _scale(low, high, figures.GAIN, "×"),
        "aspect": f"{width} / {height}",
    }


def _map(
    run: Run, target: str, title: str, values: np.ndarray, low: float, high: float, colours: str, unit: str
) -> dict[str, Any]:
    strength = np.abs(values - (1 if colours == figures.GAIN else 0))
    row, column = np.unravel_index(np.nanargmax(strength), values.shape)
    height, width = values.shape
    where = f"{_third(row, height, 'top', 'bottom')} {_third(column, width, 'left', 'right')}"
    return {
        "title": title,
        "src": pictures.heat(values, low, high, colours),
        "alt": f"Map for {target}: {title}, from {np.nanmin(values):.2f} to {np.nanmax(values):.2f} {unit}, "
        f"strongest at the {where}",
        "scale": _scale(low, high, colours, unit),
        "outside": title.endswith("(out of support)"),
    }


def _third(place: Any, size: int, first: str, last: str) -> str:
    return (first, "middle", last)[int(3 * place / size)]


def _scale(low: float, high: float, colours: str, unit: str) -> dict[str, Any]:
    digits = 2 if high - low < 5 else 1
    ends = [f"{value:.{digits}f}".replace("-", "−") for value in (low, (low + high) / 2, high)]
    return {"ticks": ends, "unit": unit, "gradient": Markup(pictures.gradient(colours))}


def _type(run: Run, target: str) -> str | None:
    """The target's type in a sentence."""
    if run.types is None or target not in run.types.index:
        return None
    [sentence] = sentences(run.types.loc[[target]].reset_index(), {target: len(run.units(target))})
    return typeset(sentence)


def _after(run: Run, target: str, slug: str) -> dict[str, Any] | None:
    """What the target's ablation does to the ACE of the other objects: a chart, and its numbers."""
    if run.after is None or not paper.others(run, target):
        return None
    found = run.after.sel(target=target)
    arms = [str(arm) for arm in found["arm"].values]
    lines: list[dict[str, Any]] = []
    for name in paper.others(run, target):
        before, *ranks = paper.ranks(run, target, name)
        cells = []
        for arm, rank in zip(arms, ranks, strict=True):
            ratio, low, high = paper.ratios(run, target, arm, name)
            same = float(found["rank_correlation"].sel(arm=arm, object=name))
            cells.append(
                {
                    "ratio": plain(ratio),
                    "interval": f"[{plain(low)}, {plain(high)}]",
                    "rank": f"{before} → {rank}",
                    "same": plain(same),
                }
            )
        lines.append({"object": name, "cells": cells})
    labels = [_regime(run, arm) for arm in arms]
    told = "; ".join(
        f"{line['object']} "
        + ", ".join(
            f"{label} {cell['ratio']} {cell['interval']}" for label, cell in zip(labels, line["cells"], strict=True)
        )
        for line in lines
    )
    alt = f"Chart. ACE of the other objects after the ablation of {target}, over their ACE before: {told}."
    return {
        "chart": figures.inline(paper.after_panel(run, target), f"after-{slug}", alt),
        "arms": labels,
        "lines": lines,
        "latents": run.after.attrs["latents"],
        "units": run.after.attrs["units"],
        "legend": [
            {
                "label": label,
                "place": "--arm0" if held is None else f"--arm{1 + run.arms.index(held) % len(figures.HELD)}",
            }
            for label, held in ((label, paper.arm_named(run, arm)) for label, arm in zip(labels, arms, strict=True))
        ],
    }


def _insertion(run: Run, target: str) -> dict[str, Any] | None:
    """Where the target appears when its units are set to what they are where it is seen: images, maps, and by ground."""
    if run.insertion is None or not (run.insertion["weight"].sel(target=target) > 0).any():
        return None
    found = run.insertion.sel(target=target)
    arms = [str(arm) for arm in found["arm"].values]
    labels = {arm: "live" if arm == "live" else folder.label([arm]) for arm in arms}
    classes = [str(name) for name in found["object"].values]
    maps = 100 * found["appeared_map"].values
    high = max(float(np.nanmax(maps, initial=0.0)), 0.1)
    grounds = sorted((name for name in classes if name != target and found["weight"].sel(object=name) > 0),
                     key=lambda name: -int(found["weight"].sel(object=name)))  # fmt: skip
    whole = float(found["weight"].sel(object=grounds).sum())

    def cells(value: Any) -> list[dict[str, str]]:
        return [
            {
                "value": number(float(value("").sel(arm=arm))),
                "interval": f"[{number(float(value('low').sel(arm=arm)))}, {number(float(value('high').sel(arm=arm)))}]",
            }
            for arm in arms
        ]

    lines = [
        {
            "ground": name,
            "share": number(float(found["weight"].sel(object=name)) / whole),
            "cells": cells(lambda end, name=name: found[end or "appeared"].sel(object=name)),
        }
        for name in grounds
    ]
    return {
        "latent": int(found["shown_latent"]),
        "pictures": _inserted(run, target, ["original", *arms], labels) if int(found["shown_latent"]) >= 0 else [],
        "maps": [
            {
                "title": labels[arm],
                "src": pictures.heat(values, 0, high, figures.SHARE),
                "alt": f"Map for {target} inserted, {labels[arm]}: appears on {np.nanmin(values):.1f} to {np.nanmax(values):.1f} % "
                "of the region, by its place",
            }
            for arm, values in zip(arms, maps, strict=True)
        ],
        "scale": _scale(0, high, figures.SHARE, "% of the region"),
        "arms": list(labels.values()),
        "lines": [
            {
                "ground": "all",
                "share": number(1),
                "cells": cells(lambda end: found[f"total_{end}" if end else "total"]),
            },
            *lines,
        ],
        "latents": run.insertion.attrs["latents"],
    }


def _inserted(run: Run, target: str, arms: list[str], labels: dict[str, str]) -> list[dict[str, str]]:
    """The images of one insertion: the region, and what appeared."""
    assert run.insertion is not None
    found = run.insertion.sel(target=target)
    classes = [str(name) for name in found["object"].values]
    region, before = found["region"].values.astype(bool), found["label"].sel(arm2="original").values
    shown = []
    for arm in arms:
        after = found["label"].sel(arm2=arm).values
        came = pictures.change(before, after, classes, run.objects, target).appeared
        filled = percent(float((after[region] == classes.index(target)).mean()))
        shown.append(
            {
                "title": labels.get(arm, "before"),
                "src": pictures.picture(found["image"].sel(arm2=arm).values),
                "region": pictures.path(region),
                "came": pictures.path(came),
                "text": f"{filled} {target}",
                "alt": f"{target} inserted, {labels.get(arm, 'before')}: it covers {filled} of the region",
                "box": f"0 0 {region.shape[1]} {region.shape[0]}",
            }
        )
    return shown


def _regime(run: Run, arm: str) -> str:
    held = paper.arm_named(run, arm)
    return "live" if held is None else held.label


def _table(run: Run, target: str, outcomes: Iterable[str]) -> dict[str, Any]:
    """Effects as rows of text, by outcome; classes that no arm moves visibly are counted, not listed."""
    groups, hidden = [], 0
    for outcome in outcomes:
        per_arm = [run.rows(target, outcome, arm).to_dict("records") for arm in run.arms]
        lines = []
        for of in zip(*per_arm, strict=True):
            name, kind = of[0]["object"], of[0]["kind"]
            size = max(abs(of[0]["tau_live"]), *(abs(row["tau_held"]) for row in of))
            # The few object classes of a small segmenter are all listed: that nothing happens is a finding.
            if size < VISIBLE / 2 and (kind != "object" or len(run.objects) > 12):
                hidden += 1
                continue
            lines.append(
                {
                    "object": name,
                    "kind": kind,
                    "live": number(of[0]["tau_live"]),
                    "arms": [
                        {
                            "held": number(row["tau_held"]),
                            "did": signed(row["did"]),
                            "interval": f"[{number(row['ci_low'])}, {number(row['ci_high'])}]",
                            "q": small(row["q"]),
                            "shown": claimed(row),
                            "outside": not row["supported"],
                        }
                        for row in of
                    ],
                }
            )
        if lines:
            title, unit = OUTCOMES[outcome]
            groups.append({"outcome": outcome, "title": title, "unit": unit, "lines": lines})
    return {"groups": groups, "hidden": hidden}


def _mean(run: Run, name: str, target: str) -> str:
    gains = run.effects.gains[target]
    return f"{gains[name]:.2f}" if name in gains else ""
