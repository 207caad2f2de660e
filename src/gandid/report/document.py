"""The page: a finished run as one HTML file that needs nothing beside it, no script and no network.

What the page says is gathered here, as plain values; how it looks is in ``templates/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from gandid.files import replacing
from gandid.panel.store import explained
from gandid.report import charts, evidence, findings, heatmap, paper, pictures
from gandid.report.findings import Finding
from gandid.report.run import Run, read
from gandid.text import count, number, percent, slugs, type_of

# What each check asks; a check that is not here is shown under its own name.
ASKS = {
    "target_seen": "Are there enough images for an interval?",
    "distance": "Are the held images no further from the live ones than a fifth less of the edit brings them?",
    "ranking": "Would another ranking have chosen the same units, or units that do the same?",
    "strain": "Are held statistics within the range in which they move between unedited images?",
    "undone": "How much of what holding one site displaces does the next live site take back? It decides nothing.",
    "baseline_gap": "Does holding leave the unedited image as it is?",
    "placebo_site": "Does holding a site before the edit change nothing?",
    "responds": "Can a held site’s statistic respond to an edit at all?",
    "gain": "Does the measured gain follow its closed form?",
    "stability": "Do two halves of the latents agree?",
    "baseline_area": "Do a control’s own unedited images show as much of each class as the network’s?",
    "parallel_trends": "Do live and control move alike where the mechanism hardly acts?",
    "dose": "Is the difference zero without an edit, and does it grow with the edit?",
    "shapley_efficiency": "Do the sites’ shares add up to the whole effect?",
    "placebo_units": "Does the effect lie beyond those of random units?",
    "placebo_object": "Does a class of pixels dealt out at random show no effect?",
    "truth": "Does each interval hold the effect that was planted?",
    "ground_truth": "Does the segmenter find the right class where it is known?",
    "second_segmenter": "Does another segmenter see the same effect?",
}

# What the parts of a held arm's name mean.
ARMS = findings.CONTROLS | {
    "k": "held so far only, from 0 (live) to 1 (fully): as far as the held images stay in range",
    "first": "only at the first site, which the edit reaches directly",
    "all": "at all sites after the edited layer",
}
ASSUMED = {
    **dict.fromkeys(
        ("mean", "twin"), "unedited images are not the network’s own; it is assumed that both would have moved alike"
    ),
    "distilled": "they are compared with networks that learned the same with normalization",
}


def build(folder: Path) -> Path:
    """Write the report of a finished run: ``report.html`` and ``figures/``.

    Everything is read from the folder and nothing is estimated again; no generator is needed.

    Parameters
    ----------
    folder
        A folder with ``config.yaml``, ``panel.zarr``, ``effects.csv`` and ``checks.csv``; the rest of what `gandid run` writes is
        shown if it is there. With ``after.zarr`` and ``insertion.zarr`` the paper's figure is drawn, too.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    GandidError
        If the folder is not that of a finished run, or if a file in it cannot be read.
    """
    run = read(Path(folder))
    found = findings.by_verdict(findings.findings(run))
    page, where = run.path / "report.html", run.path / "figures"
    with explained(where):
        where.mkdir(exist_ok=True)
        values = _values(run, found, slugs(run.targets), where)
    with explained(page), replacing(page) as aside:
        aside.write_text(templates().get_template("report.html.j2").render(values), encoding="utf-8")
    return page


def _values(run: Run, found: list[Finding], names: dict[str, str], where: Path) -> dict[str, Any]:
    """All that the page says; its charts and pictures are written into the folder `where`, too."""
    scene, done = findings.scene(run, found), run.pair.done
    if scene is not None:
        heads = ("original", f"{done}, live", f"{done}, {scene['regime']}", "difference")
        pictures.write_mosaic(where / "finding.png", [scene["sheet"]], heads)
    forests = {f"effects-{outcome}": evidence.overview(run, outcome, found) for outcome in run.pair}
    ways = {f"other-ways-{outcome}": evidence.other_ways(run, outcome, found) for outcome in run.pair}
    resolved = run.config.get("resolved") or {}
    return {
        "style": style(),
        "headline": findings.headline(run, found),
        "subline": findings.subline(run, found),
        "inserts": run.inserts,
        "done": done,
        "meta": " · ".join(
            [
                *(str(run.attrs[name]) for name in ("generator", "layer") if name in run.attrs),
                count(run.latents, "image"),
                *([f"within {run.region}"] if run.region else []),
            ]
        ),
        "unfinished": run.unfinished,
        "stopped": resolved.get("stopped") or "",
        "scene": scene,
        "rows": findings.object_rows(run, found, names),
        "targets": [_target(run, one, names[one.target], where) for one in found],
        "forests": _drawn(forests, where),
        "ways": _drawn(ways, where),
        "relevant": f"{number(100 * run.relevant).removesuffix('.0')} point{'' if run.relevant == 0.01 else 's'}",
        "controls": _controls(run),
        "networks": any(regime.networks for regime in run.regimes),
        "outside": any(not run.supported(target, regime) for target in run.targets for regime in run.regimes),
        "relation": heatmap.section(run),
        "figure": paper.draw(run, where / "paper") if paper.is_possible(run) else None,
        "types": _types(run),
        "checks": _checks(run),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100),
        "command": resolved.get("command") or "",
        "version": str(run.attrs.get("version", "")),
    }


def templates() -> jinja2.Environment:
    """The templates: all that comes from outside is escaped, and nothing may be missing."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("gandid.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def style() -> Markup:
    """The style sheet of a page, with the colours of its charts in light and dark."""
    palettes = (charts.LIGHT, charts.DARK)
    light, dark = (";".join(f"--{name}:{value}" for name, value in palette.items()) for palette in palettes)
    sheet = templates().get_template("report.css").render()
    return Markup(f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{charts.STYLE}\n{sheet}")


def _drawn(found: Mapping[str, charts.Chart | None], where: Path) -> list[Markup]:
    """Charts as the page shows them; each is also written as a file of its name."""
    there = {name: chart for name, chart in found.items() if chart is not None}
    for name, chart in there.items():
        chart.write(where / f"{name}.svg")
    return [chart.svg() for chart in there.values()]


def _target(run: Run, one: Finding, slug: str, where: Path) -> dict[str, Any]:
    """What unfolds of one target."""
    estimable = run.estimable(one.target)
    kinds: dict[str, Callable[[Run, str], charts.Chart | None]] = {"strength": evidence.strength, "dose": evidence.dose}
    kinds |= {"sites": evidence.sites, "random-units": evidence.placebos}
    units = count(len(run.units[one.target]), "unit")
    facts = f"{run.seen(one.target):,} of {count(run.latents, 'image')} show it; {units} ablated"
    if run.inserts:
        facts = f"{units} inserted in {count(run.latents, 'image')}"
    if estimable:
        facts += f"; the verdict is on {one.regime.label}"
    return {
        "name": one.target,
        "slug": slug,
        "facts": facts,
        "table": evidence.table(run, one.target) if estimable else None,
        "doubts": [*findings.doubts(run, one), *run.details("undone", one.target)] if estimable else [],
        "strip": _strip(run, one.target, where / f"examples-{slug}.png") if one.target in run.examples else None,
        "charts": _drawn({f"{kind}-{slug}": draw(run, one.target) for kind, draw in kinds.items() if estimable}, where),
    }


def _strip(run: Run, target: str, path: Path) -> dict[str, Any]:
    """The most affected images: a column per arm, those that are the same once, and the measured gain."""
    examples = run.examples[target]
    columns = [(0, "original", False), (examples.arms.index("live"), "live", False)]
    for regime in run.shown(target):
        arm, outside = findings.held(examples, regime), not run.supported(target, regime)
        own = [(examples.baseline(arm), f"{regime.label}, unedited", outside)] if examples.baseline(arm) else []
        columns += [*own, (arm, regime.label, outside)]
    arms, heads, _ = zip(*columns, strict=True)
    pictures.write_mosaic(path, examples.images[:, list(arms)], heads, side=128)
    strongest = max(float(abs(examples.gain - 1).max()), 0.01)
    rows = []
    for place, gain in enumerate(examples.gain):
        latent = f"latent {examples.latents[place]}"
        cells = [
            findings.plain(examples.images[place, arm], latent) | {"alt": f"{latent}, {head}"}
            if examples.baseline(arm) == arm
            else findings.edited(run, target, place, arm)
            for arm, head, _ in columns
        ]
        text = f"×{gain.min():.2f} to ×{gain.max():.2f}" if run.inserts else f"amplified up to ×{gain.max():.2f}"
        heat = {"src": pictures.signed_heat((gain - 1) / strongest), "text": text, "alt": f"Map: {text}"}
        rows.append([*cells, heat | {"gone": "", "came": ""}])
    height, width = examples.labels.shape[2:]
    return {
        "heads": [*((head, outside) for _, head, outside in columns), ("gain at the first site", False)],
        "rows": rows,
        "box": f"0 0 {width} {height}",
    }


def _controls(run: Run) -> list[tuple[str, str]]:
    """The parts of the held arms' names in words."""
    names = {name for target in run.targets for regime in run.shown(target) for name in regime.names}
    parts = {part for name in names for part in re.split(":|@|(?<=k)[0-9.]+", name)}
    found = [(part, text) for part, text in ARMS.items() if part in parts]
    return found + [(control, text) for control, text in ASSUMED.items() if control in parts]


def _types(run: Run) -> dict[str, Any] | None:
    """The type of each target, how probable it is, and the rule."""
    if run.types is None or not len(run.types):
        return None
    bounds = [percent(run.types.iloc[0][f"{name}_bound"]) for name in ("removed", "concentration", "inpainted")]
    rows = [
        {
            "name": row["target"],
            "type": type_of(row)[0],
            "probable": number(type_of(row)[1], 2),
            "shares": [percent(row[name]) for name in ("removed", "inpainted_objects", "unknown", "share_top")],
        }
        for row in run.types.to_dict("records")
    ]
    return {"bounds": bounds, "rows": rows}


def _checks(run: Run) -> dict[str, Any]:
    """By check, how often it is passed, and the lines that are not, those that failed first."""
    groups: list[dict[str, Any]] = []
    for name, rows in run.checks.groupby("check", sort=False):
        bad = rows[rows["verdict"] != "ok"].sort_values(
            "verdict", key=lambda verdict: verdict != "failed", kind="stable"
        )
        lines = [
            row | {key: f"{row[key]:.3g}".replace("-", "−") for key in ("value", "bound")}
            for row in bad.to_dict("records")
        ]
        title, asks = str(name).replace("_", " "), ASKS.get(str(name), "")
        groups.append({"name": title, "asks": asks, "all": len(rows), "ok": len(rows) - len(bad), "lines": lines})
    groups.sort(key=lambda group: -len(group["lines"]))
    return {
        "groups": groups,
        "ok": sum(group["ok"] for group in groups),
        "all": len(run.checks),
        "flagged": ", ".join(group["name"] for group in groups if group["lines"]),
    }
