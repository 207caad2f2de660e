"""The section of one target: what its ablation does, image by image, place by place and class by class."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from gandid.did.words import VISIBLE
from gandid.relation.types import sentences
from gandid.report import figures, folder, pictures
from gandid.report.after import after
from gandid.report.folder import Arm, Run, claimed
from gandid.report.insertion import insertion
from gandid.report.relation import ranking
from gandid.report.text import number, percent, signed, small, typeset

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
            "after": after(run, target, slug),
            "insertion": insertion(run, target),
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
        for label, arm, baseline, _ in shown:
            cell = {"src": pictures.picture(images[e, arm]), "gone": "", "came": ""}
            if arm == baseline:
                original = (labels[e, arm] == examples.classes.index(target)).sum()
                cell["text"] = "its own original" if arm else f"latent {examples.latents[target][e]}"
                share = percent(original / labels[e, arm].size)
                cell["alt"] = f"{target}, {which}, {label}: {target} covers {share} of it"
            else:
                found = pictures.change(labels[e, baseline], labels[e, arm], examples.classes, run.objects, target)
                cell |= {"gone": pictures.path(found.vanished), "came": pictures.path(found.appeared)}
                cell["text"] = figures.caption(found, target).replace(" %", "\u00a0%")
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
    headings = [figures.heading(run, target, column).split("\n") for column in shown]
    return {
        "headings": [*headings, ["gain at the first site"]],
        "rows": rows,
        "box": f"0 0 {width} {height}",
        "scale": pictures.scale(low, high, figures.GAIN, "×"),
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
        "scale": pictures.scale(low, high, colours, unit),
        "outside": title.endswith("(out of support)"),
    }


def _third(place: Any, size: int, first: str, last: str) -> str:
    return (first, "middle", last)[int(3 * place / size)]


def _type(run: Run, target: str) -> str | None:
    """The target's type in a sentence."""
    if run.types is None or target not in run.types.index:
        return None
    [sentence] = sentences(run.types.loc[[target]].reset_index(), {target: len(run.units(target))})
    return typeset(sentence)


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
