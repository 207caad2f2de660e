"""The page: a finished run as one HTML file that needs nothing beside it.

What the page says is gathered here, as plain values; how it looks is in ``templates/``.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gandid.did import Effects
from gandid.did.checks import EXACT_CONTROLS
from gandid.did.words import SHOWN
from gandid.files import replacing
from gandid.relation.types import rule
from gandid.report import credibility, evidence, figures, folder, paper, pictures
from gandid.report.checks import checks_section
from gandid.report.environment import templates
from gandid.report.folder import Arm, Run, claimed
from gandid.report.relation import NEGATIVE, POSITIVE, relation_section
from gandid.report.target import target_section
from gandid.report.text import number, slugs, typeset


def build(run: Path, effects: Effects | None = None) -> Path:
    """Write the report of a finished run: ``report.html`` and ``figures/*.png`` and ``*.svg``.

    Everything is computed from the folder; no generator is needed.

    Parameters
    ----------
    run
        A folder with ``config.yaml`` and ``panel.zarr``; the rest of what `gandid run` writes if it is there. With
        ``after.zarr`` and ``insertion.zarr`` the paper's figure is drawn, too, as ``figures/paper.png``, ``.svg`` and ``.pdf``.
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
    figure = _files(read)
    page = read.path / "report.html"
    with replacing(page) as aside:
        aside.write_text(_html(read, figure), encoding="utf-8")
    return page


def _files(run: Run) -> Markup | None:
    """Write the figures; the paper's is also returned as the page shows it."""
    where = run.path / "figures"
    where.mkdir(exist_ok=True)
    figures.save(figures.overview(run), where / "overview")
    if run.relation is not None:
        figures.save(figures.ranking(run), where / "ranking")
    for target, name in slugs(run.targets).items():
        if not run.estimable(target):
            continue
        if run.has_examples(target):
            figures.save(figures.strip(run, target), where / f"strip-{name}")
        if figures.heat_maps(run, target):
            figures.save(figures.maps(run, target), where / f"maps-{name}")
        for kind, drawn in credibility.draw(run, target).items():
            figures.save(drawn, where / f"{kind}-{name}")
    if any(credibility.has(run, target, "shapley") for target in run.targets):
        figures.save(evidence.shapley(run), where / "shapley")
    if not paper.is_possible(run):
        return None
    whole = paper.figure(run)
    paper.save(whole, where / "paper")
    return paper.inline(run, whole)


def _html(run: Run, figure: Markup | None) -> str:
    environment = templates()
    names, colours = slugs(run.targets), figures.class_colours(run)
    sentences = dict(zip(run.targets, run.effects.sentences(), strict=True))
    answers = credibility.answers(run)
    targets = [
        target_section(run, name, names[name], colours, sentences[name])
        | ({"believed": credibility.credibility_of(run, name, names[name], answers)} if run.estimable(name) else {})
        for name in run.targets
    ]
    return environment.get_template("report.html.j2").render(
        style=Markup(environment.get_template("report.css").render()),
        meta=_meta(run),
        lead=_lead(run),
        stopped=run.stopped,
        claims=[_claims(run, arm) for arm in run.arms],
        not_estimable=[target for target in run.targets if not run.estimable(target)],
        legend=_legend(run),
        targets=targets,
        credibility=credibility.credibility_section(run, names, colours, answers),
        relation=relation_section(run, colours),
        types=_types(run),
        paper=figure,
        positive=POSITIVE,
        negative=NEGATIVE,
        colours=colours,
        level=f"{run.effects.level:.0%}".replace("%", " %"),
        latents=f"{run.effects.latents:,}",
        checks=checks_section(run),
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
            for row in [row for row in rows.to_dict("records") if claimed(row)]:
                name = target if kind == "target" else f"{target} → {row['object']}"
                # The heading says which way, so no sign; and nothing here breaks over lines.
                said = f"{name} {number(abs(row['did']))}".replace(" ", "\u00a0")
                found[up if row["did"] > 0 else down].append((abs(row["did"]), said))
    told = {key: [text for _, text in sorted(items, reverse=True)] for key, items in found.items()}
    colour, mark = figures.arm_style(run, arm)
    return {
        "label": arm.label,
        "place": figures.variable(run, arm),
        "mark": figures.MARKS[mark],
        "colour": colour,
        "sound": len(sound),
        "outside": outside,
        "names": ", ".join(arm.names),
        "assumes": any(name.split(":")[0] not in EXACT_CONTROLS for name in arm.names),
        **told,
    }


def _types(run: Run) -> dict[str, Any] | None:
    """The type of each target, how probable each type is, and the thresholds."""
    if run.types is None or not len(run.types):
        return None
    rows = [
        {
            "name": str(target),
            "type": paper.TYPES[row["type"]],
            "probable": {name: row[f"p_{name.replace('-', '_')}"] for name in paper.TYPES},
            "removed": number(row["removed"]),
            "inpainted": number(row["inpainted_objects"]),
            "unknown": number(row["unknown"]),
            "share": f"{100 * row['share_top']:.0f}",
            "effective": f"{row['effective_units']:.0f}",
        }
        for target, row in run.types.iterrows()
    ]
    return {"rows": rows, "names": list(paper.TYPES), "rule": typeset(rule(run.types))}


def _legend(run: Run) -> list[dict[str, str]]:
    arms: list[Arm | None] = [None, *run.arms]
    return [
        {
            "label": "live" if arm is None else arm.label,
            "mark": figures.MARKS[figures.arm_style(run, arm)[1]],
            "place": figures.variable(run, arm),
        }
        for arm in arms
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
