"""The page: a finished run as one HTML file that needs nothing beside it.

What the page says is gathered here, as plain values; how it looks is in ``templates/``.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from gandid.did import Effects
from gandid.did.checks import SUPPORT
from gandid.did.words import SHOWN, SUPPORT_WORDS, VISIBLE
from gandid.files import replacing
from gandid.report import figures, folder, pictures
from gandid.report.folder import Arm, Run

MARKS = {"o": "●", "D": "◆", "s": "■", "^": "▲", "v": "▼", "P": "✚", "X": "✖"}
CHECKS = {
    "target_seen": ("Images that show the target", "Are there enough images for an interval?"),
    "strain": ("Strain", "Are held statistics within the range in which they move between unedited images?"),
    "realism": ("Realism", "Does the discriminator find the images as real as unedited ones?"),
    "unknown": ("Unknown pixels", "Does the segmenter know what it sees?"),
    "unknown_inside": ("Unknown pixels in the hole", "Does it know what the target turned into?"),
    "baseline_gap": ("Baseline gap", "Does holding leave the unedited image as it is?"),
    "placebo_site": ("Placebo site", "Does holding a site upstream of the edit change nothing?"),
    "responds": ("Sites that respond", "Can a held site's statistic respond to an edit at all?"),
    "gain": ("Gain", "Does the measured gain follow its closed form?"),
    "stability": ("Stability", "Do two halves of the latents agree?"),
}
# What each outcome is, and what its numbers are shares of.
OUTCOMES = {
    "removed": ("Removed", "% of the target’s original pixels"),
    "inpainted": ("In-painted by", "% of the target’s original pixels"),
    "emerged": ("Emerged in", "% of images"),
    "collateral": ("Changed elsewhere", "% of the image, outside the target’s original pixels"),
    "area": ("Area of", "% of the image"),
}


def build(run: Path, effects: Effects | None = None) -> Path:
    """Write the report of a finished run: ``report.html`` and ``figures/*.png`` and ``*.svg``.

    Everything is computed from the folder; no generator is needed.

    Parameters
    ----------
    run
        A folder with ``config.yaml`` and ``panel.zarr``, and ``relation.csv`` and ``examples.npz`` if any.
    effects
        What `gandid.did.estimate` says of the panel; estimated again if not given.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    UsageError
        If the folder is not a finished run.
    """
    read = folder.read(Path(run), effects)
    _files(read)
    page = read.path / "report.html"
    with replacing(page) as aside:
        aside.write_text(_html(read), encoding="utf-8")
    return page


def _files(run: Run) -> None:
    where = run.path / "figures"
    where.mkdir(exist_ok=True)
    figures.save(figures.overview(run), where / "overview")
    if run.relation is not None:
        figures.save(figures.ranking(run), where / "ranking")
    for target, name in _slugs(run.targets).items():
        if not run.estimable(target):
            continue
        if _has_examples(run, target):
            figures.save(figures.strip(run, target), where / f"strip-{name}")
        if figures.heat_maps(run, target):
            figures.save(figures.maps(run, target), where / f"maps-{name}")


def _html(run: Run) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gandid.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    slugs, colours = _slugs(run.targets), figures.class_colours(run)
    sentences = dict(zip(run.targets, run.effects.sentences(), strict=True))
    targets = [_target(run, target, slugs[target], colours, sentences[target]) for target in run.targets]
    return environment.get_template("report.html.j2").render(
        style=Markup(environment.get_template("report.css").render()),
        meta=_meta(run),
        lead=_lead(run),
        claims=[_claims(run, arm) for arm in run.arms],
        not_estimable=[target for target in run.targets if not run.estimable(target)],
        legend=_legend(run),
        targets=targets,
        colours=colours,
        level=f"{run.effects.level:.0%}".replace("%", " %"),
        latents=f"{run.effects.latents:,}",
        checks=_checks(run),
        config=list(_flat(run.config)),
        command=_command(run.config.get("command")),
        version=run.config.get("version", run.panel.attrs.get("version", "")),
        speck=pictures.SPECK,
        shown=SHOWN,
    )


def _meta(run: Run) -> list[tuple[str, str]]:
    attrs = run.panel.attrs
    facts = [(name, attrs[name]) for name in ("generator", "segmenter", "layer") if name in attrs]
    if "ablation" in attrs:
        facts.append(("ablation", f"to {attrs['ablation']}"))
    facts.append(("latents", f"{run.effects.latents:,}"))
    if "seed" in attrs:
        facts.append(("seed", attrs["seed"]))
    return [(name, str(value)) for name, value in facts]


def _lead(run: Run) -> str:
    """What ablation does with every normalization live, over all targets."""
    estimable = [target for target in run.targets if run.estimable(target)]
    gone = {target: 100 * run.rows(target, "removed")["tau_live"].iloc[0] for target in estimable}
    if not gone:
        return "No target is estimable: too few images show them."
    if len(gone) == 1:
        [(target, value)] = gone.items()
        return f"With everything live, ablating the units of {target} removes {value:.1f} % of its pixels."
    least, most = min(gone, key=lambda t: gone[t]), max(gone, key=lambda t: gone[t])
    return (
        "With everything live, ablating the units of one object removes between "
        f"{gone[least]:.1f} % ({least}) and {gone[most]:.1f} % ({most}) of its pixels."
    )


def _claims(run: Run, arm: Arm) -> dict[str, Any]:
    """What one held arm shows, over all targets: no more than what is significant and in support."""
    sound = [target for target in run.targets if run.estimable(target) and run.supported(target, arm)]
    outside = [target for target in run.targets if run.estimable(target) and not run.supported(target, arm)]
    found: dict[str, list[tuple[float, str]]] = {"repair": [], "more": [], "painted": [], "kept": []}
    for target in sound:
        for outcome, kind, up, down in (
            ("removed", "target", "more", "repair"),
            ("inpainted", "object", "painted", "kept"),
        ):
            rows = run.rows(target, outcome, arm, kind)
            for row in [row for row in rows.to_dict("records") if _claimed(row)]:
                name = target if kind == "target" else f"{target} → {row['object']}"
                # The heading says which way, so no sign; and nothing here breaks over lines.
                said = f"{name} {number(abs(row['did']))}".replace(" ", "\u00a0")
                found[up if row["did"] > 0 else down].append((abs(row["did"]), said))
    told = {key: [text for _, text in sorted(items, reverse=True)] for key, items in found.items()}
    colour, mark = figures.arm_style(run, arm)
    return {
        "label": arm.label,
        "place": f"--arm{1 + run.arms.index(arm) % len(figures.HELD)}",
        "mark": MARKS[mark],
        "colour": colour,
        "sound": len(sound),
        "outside": outside,
        "names": ", ".join(arm.names),
        **told,
    }


def _legend(run: Run) -> list[dict[str, str]]:
    arms: list[Arm | None] = [None, *run.arms]
    return [
        {
            "label": "live" if arm is None else arm.label,
            "mark": MARKS[figures.arm_style(run, arm)[1]],
            "place": f"--arm{place if place == 0 else 1 + (place - 1) % len(figures.HELD)}",
        }
        for place, arm in enumerate(arms)
    ]


def _target(run: Run, target: str, slug: str, colours: dict[str, str], sentence: str) -> dict[str, Any]:
    shown = run.shown(target)
    said: dict[str, Any] = {
        "name": target,
        "slug": slug,
        "colour": colours[target],
        "estimable": run.estimable(target),
        "sentences": [_set(part) for part in re.split(r"(?<=\.) (?=[A-Z])", sentence)],
        "shown": f"{shown:,}",
        "units": run.units(target),
        "outside": [arm.label for arm in run.arms if run.estimable(target) and not run.supported(target, arm)],
        "live_outside": run.estimable(target) and not run.live_in_range(target),
        "gain": _mean(run, "gain", target),
        "gain_outside": _mean(run, "gain_outside", target),
        "ranking": _ranking(run, target, slug),
    }
    if said["estimable"]:
        said |= {
            "answer": _chart(figures.answer(run, target), f"answer-{slug}", _answer_alt(run, target)),
            "strip": _strip(run, target) if _has_examples(run, target) else None,
            "maps": [_map(run, target, *found) for found in figures.heat_maps(run, target)],
            "arms": [{"label": arm.label, "outside": not run.supported(target, arm)} for arm in run.arms],
            "main": _table(run, target, ("removed", "inpainted")),
            "more": _table(run, target, ("emerged", "collateral", "area")),
        }
    return said


def _set(text: str) -> str:
    """Typeset a sentence: true minus signs, and no line break within a quantity."""
    text = re.sub(r"(?<![\w\]])-(?=\d)", "−", text)
    return re.sub(r" (?=%)|(?<=\bq) (?=[<=])|(?<=[<=]) (?=\d)", "\u00a0", text)


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
                            "shown": _claimed(row),
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


def _claimed(row: Any) -> bool:
    """Whether an effect counts as shown: beyond noise, visible, and in support."""
    return bool(row["q"] < SHOWN and row["supported"] and abs(row["did"]) >= VISIBLE / 2)


def _ranking(run: Run, target: str, slug: str) -> dict[str, Any] | None:
    """The chart of ACE over units, and how concentrated it is: ``(sum a)^2 / sum a^2`` effective units."""
    if run.relation is None:
        return None
    rows = run.relation[run.relation["object"] == target].sort_values("ace", ascending=False)
    ace = rows["ace"].clip(lower=0).to_numpy()
    if not len(rows) or not ace.sum() > 0:
        return None
    mine = rows["unit"].isin(run.units(target)).to_numpy()
    share, effective = ace[mine].sum() / ace.sum(), ace.sum() ** 2 / (ace**2).sum()
    best = rows.iloc[0]
    said = (
        f"The {mine.sum()} ablated units carry {100 * share:.0f} % of the positive ACE of all {len(rows)}; "
        f"it is as concentrated as if {effective:.0f} units shared it evenly."
    )
    peak = f"unit {best['unit']}, {100 * best['ace']:.2f} % of the image"
    alt = f"Chart of ACE over units for {target}. Largest: {peak}. "
    top = [
        {
            "unit": int(row["unit"]),
            "ace": f"{100 * row['ace']:.2f}".replace("-", "−"),
            "se": f"{100 * row['ace_se']:.2f}",
            "iou": f"{row['iou']:.2f}",
            "energy": f"{100 * row['energy']:.1f}",
        }
        for row in rows[:5].to_dict("records")
    ]
    chart = _chart(figures.units(run, target), f"units-{slug}", alt + said)
    return {"chart": chart, "words": said, "top": top}


def _checks(run: Run) -> dict[str, Any]:
    checks = run.effects.checks
    rank = {"failed": 0, "flagged": 1}
    lines = [
        {
            "check": CHECKS.get(row["check"], (row["check"], ""))[0],
            "kind": row["check"],
            "target": row["target"],
            "arm": row["arm"],
            "value": f"{row['value']:.3g}".replace("-", "−"),
            "bound": f"{row['bound']:.3g}".replace("-", "−"),
            "verdict": row["verdict"],
            "detail": row["detail"],
        }
        for row in checks.to_dict("records")
    ]
    groups = []
    for kind in dict.fromkeys(checks["check"]):
        of = [line for line in lines if line["kind"] == kind]
        counts = {name: sum(line["verdict"] == name for line in of) for name in ("ok", "flagged", "failed")}
        title, asks = CHECKS.get(kind, (kind, ""))
        groups.append({"title": title, "asks": asks, "counts": counts, "lines": of})
    groups.sort(key=lambda group: (-group["counts"]["failed"], -group["counts"]["flagged"]))
    bad = [line for line in lines if line["verdict"] != "ok"]
    bad.sort(key=lambda line: rank.get(line["verdict"], 2))
    return {
        "total": len(lines),
        "ok": len(lines) - len(bad),
        "bad": bad,
        "groups": groups,
        "support": _support(run),
        "arms": ["live", *(arm.label for arm in run.arms)],
    }


def _support(run: Run) -> list[dict[str, Any]]:
    """Per target and arm, the support checks that are flagged, in a word each."""
    checks = run.effects.checks
    flagged = checks[checks["check"].isin(SUPPORT) & (checks["verdict"] != "ok")]
    regimes = [("live",), *(arm.names for arm in run.arms)]
    return [
        {
            "target": target,
            "cells": [
                [SUPPORT_WORDS[check] for check in dict.fromkeys(rows["check"])]
                for names in regimes
                for rows in [flagged[(flagged["target"] == target) & flagged["arm"].isin(names)]]
            ],
        }
        for target in run.targets
        if run.estimable(target)
    ]


def _flat(config: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """A configuration as rows: nested names joined by dots."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", "none" if value is None else str(value)


def _command(command: Any) -> str:
    return " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command or "")


def _chart(figure: Any, name: str, alt: str) -> Markup:
    # The SVG is made here, and what comes from outside in it is escaped by `inline` and by matplotlib.
    return Markup(figures.inline(figure, name, alt))


def _has_examples(run: Run, target: str) -> bool:
    return run.examples is not None and len(run.examples.images.get(target, ())) > 0


def _mean(run: Run, name: str, target: str) -> str:
    gains = run.effects.gains[target]
    return f"{gains[name]:.2f}" if name in gains else ""


def _slugs(names: Iterable[str]) -> dict[str, str]:
    """A name for files and anchors per target, unique even where classes differ in signs alone."""
    found: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "target"
        slug, count = base, 2
        while slug in found.values():
            slug, count = f"{base}-{count}", count + 1
        found[name] = slug
    return found


def number(share: float) -> str:
    """A share in percent with one digit, with a true minus and no minus zero."""
    if pd.isna(share):
        return "–"
    text = f"{100 * share:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "−")


def signed(share: float) -> str:
    """A difference of shares in points, with its sign."""
    text = number(share)
    return text if text.startswith("−") or text in ("0.0", "–") else f"+{text}"


def percent(share: float) -> str:
    """A share in percent, with its unit."""
    return f"{number(share)} %"


def small(q: float) -> str:
    """A q-value."""
    return "–" if pd.isna(q) else "<0.001" if q < 0.001 else f"{q:.3f}"
