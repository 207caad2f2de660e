"""What a terminal shows: progress while a study runs, and one screen of results after it."""

from __future__ import annotations

import json
import os
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich import progress as bars
from rich.console import Console

from gandid.errors import GandidError, UsageError
from gandid.estimation import read_effects
from gandid.report import build
from gandid.report.compare import agreement, build_comparison, compare, differences, names_of
from gandid.report.findings import Finding, doubts, findings, headline
from gandid.report.run import Run, read
from gandid.runs import is_finished, open_panel
from gandid.text import number, points
from gandid.verdicts import MISSING, SOLID, never_differed

WIDTH = 80
MINUTE = 60.0
PLAIN = str.maketrans({"−": "-", "–": "-", "’": "'", "\u00a0": " "})  # what other programs and old terminals can read
COLUMNS = (
    "target",
    "object",
    "outcome",
    "arm",
    "tau_live",
    "tau_held",
    "did",
    "ci_low",
    "ci_high",
    "q",
    "n",
    "verdict",
    "settled_by",
)


class Lines(bars.Progress):
    """Progress for a log file: a line when a phase begins, every minute, and when it ends, each written at once."""

    printed = 0.0

    def add_task(self, description: str, *args: Any, **rest: Any) -> bars.TaskID:
        """Begin a phase."""
        task = super().add_task(description, *args, **rest)
        self._line(task)
        return task

    def advance(self, task_id: bars.TaskID, advance: float = 1) -> None:
        """Go on with a phase."""
        super().advance(task_id, advance)
        if time.monotonic() - self.printed >= MINUTE:
            self._line(task_id)

    def _line(self, task_id: bars.TaskID) -> None:
        task, self.printed = self.tasks[task_id], time.monotonic()
        left = f", about {task.time_remaining / MINUTE:.0f} min left" if task.time_remaining else ""
        click.echo(
            f"{time.strftime('%H:%M:%S')} {task.description}: {task.completed:.0f} of {task.total or 0:.0f}{left}",
            err=True,
        )


def display(given: Mapping[str, Any]) -> bars.Progress:
    """A display of progress: bars on a terminal, else lines; nothing where the options `quiet` or `as_json` are given."""
    console, silent = Console(stderr=True), bool(given.get("quiet") or given.get("as_json"))
    if not (silent or console.is_terminal):
        return Lines(disable=True)
    return bars.Progress(
        bars.TextColumn("{task.description:<18}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=console,
        disable=silent,
    )


def reporting(progress: bars.Progress) -> Callable[[Path], None]:
    """What writes the report of a run, as a phase of its progress."""

    def finish(folder: Path) -> None:
        task = progress.add_task("writing the report", total=1)
        build(folder)
        progress.advance(task)

    return finish


def show(folders: Sequence[Path], given: Mapping[str, Any]) -> None:
    """Print what runs found: a screen of 80 columns each, all with `verbose`, nothing with `quiet`, or JSON with `as_json`.

    Raises
    ------
    GandidError
        After all is printed, if too few images show any target of a run, so that nothing could be estimated.
    """
    runs = [(run, findings(run)) for run in map(read, folders)]
    if given["as_json"]:
        click.echo(json.dumps([_table(run, found) for run, found in runs], indent=2))
    elif not given["quiet"]:
        for place, (run, found) in enumerate(runs):
            if place:
                click.echo()
            _screen(run, found, given["verbose"])
    for run, found in runs:
        if all(one.verdict == MISSING for one in found):
            raise GandidError(f"{run.path}: too few images show a target, so that nothing could be estimated")


def show_comparison(folders: Sequence[Path], out: Path) -> None:
    """Print what runs say of every target, and write the page that says it, too."""
    table, runs = compare(folders)
    click.echo(click.style(textwrap.fill(agreement(runs), WIDTH), bold=True) + "\n")
    labels = dict(zip((str(run.path) for run in runs), names_of(runs), strict=True))
    width = max(len("run"), *(min(len(name), 18) for name in labels.values())) + 2
    click.echo(f"{'object':<10}{'run':<{width}}{'outcome':<11}{'live - held, points':<22}verdict")
    table = table[table["verdict"] != MISSING]
    order = list(dict.fromkeys(table["target"]))
    for row in sorted(table[table["main"]].to_dict("records"), key=lambda row: order.index(row["target"])):
        line = f"{row['target'][:9]:<10}{labels[row['run']][-18:]:<{width}}{row['outcome']:<11}{points(row):<22}"
        click.echo(f"{line}{row['verdict']}".translate(PLAIN))
    for note in differences(runs):
        click.echo(textwrap.fill(note, WIDTH))
    click.echo(f"Page: {build_comparison(runs, out)}")


def _screen(run: Run, found: Sequence[Finding], verbose: bool) -> None:
    color = False if os.environ.get("NO_COLOR") else None

    def echo(text: str = "") -> None:
        click.echo(text.translate(PLAIN), color=color)

    if verbose:
        effects = read_effects(run.path, open_panel(run.path), run.relevant)
        echo(effects.summary() + "\n")
        for sentence in effects.sentences():
            echo(textwrap.fill(sentence, WIDTH) + "\n")
    echo(click.style(textwrap.fill(headline(run, found), WIDTH), bold=True))
    echo()
    done = run.pair.done
    first = max(len(done) + 1, min(max(len(one.target) for one in found), 12) + 1)
    echo(f"{done:<{first}}{'outcome':<11}{'live %':>6}{'held %':>7}  {'live - held, points':<21}verdict")
    for one in found:
        if one.main is None:
            continue
        outcome, row = one.main
        values = "".join(f"{number(100 * row[name]):>{width}}" for name, width in (("tau_live", 6), ("tau_held", 7)))
        difference = f"0 in {row['n']:,.0f} images" if never_differed(row) else points(row)
        style = {"bold": True, "fg": "green"} if one.verdict in SOLID else {"dim": True}
        verdict = click.style(one.verdict, **style)
        echo(f"{one.target[: first - 1]:<{first}}{outcome:<11}{values}  {difference:<20} {verdict}")
    arms: dict[str, list[str]] = {}
    for one in found:
        arms.setdefault(one.regime.label, []).append(one.target)
    named = "; ".join(f"{arm} ({', '.join(targets)})" for arm, targets in arms.items())
    held = named if len(arms) > 1 else next(iter(arms))
    echo("\n" + textwrap.fill(f"Held (control, sites, strength): {held}.", WIDTH))
    if run.region:
        echo(f"Edited and counted within {run.region}.")
    for one in found if verbose else ():
        for sentence in [*doubts(run, one), *run.details("undone", one.target)]:
            echo(textwrap.fill(f"{one.target}: {sentence}", WIDTH))
    bad = run.checks[run.checks["verdict"] != "ok"]
    which = ", ".join(f"{name} {count}" for name, count in bad["check"].value_counts(sort=False).items())
    echo(
        textwrap.fill(
            f"Checks: {len(run.checks) - len(bad)} of {len(run.checks)} ok; flagged: {which or 'none'}.", WIDTH
        )
    )
    _truths(run, echo)
    if stopped := run.config.get("resolved", {}).get("stopped"):
        echo(textwrap.fill(str(stopped), WIDTH))
    if run.unfinished:
        echo(textwrap.fill(f"Not finished: {run.unfinished}; the command that began the run goes on with it.", WIDTH))
    echo(f"Report: {run.path / 'report.html'}")


def _truths(run: Run, echo: Callable[[str], None]) -> None:
    """Of the planted standard, the estimates beside their truths."""
    rows = run.checks[run.checks["check"] == "truth"]
    if len(rows):
        echo(f"\n{'ablated':<10}{'planted effect, points':<56}{'found':>7}{'true':>7}")
    for (target, detail), some in rows.groupby(["target", "detail"], sort=False):
        for (value, bound, verdict), arms in some.groupby(["value", "bound", "verdict"], sort=False):
            words = f"{str(detail).partition(';')[0]}, {', '.join(arms['arm'])}"
            lines = textwrap.wrap(words, 54)
            mark = "" if verdict == "ok" else "  missed"
            echo(f"{target:<10}{lines[0]:<56}{number(100 * value):>7}{number(100 * bound):>7}{mark}")  # type: ignore[operator]
            for line in lines[1:]:
                echo(f"{'':<10}{line}")


def _table(run: Run, found: Sequence[Finding]) -> dict[str, Any]:
    """The screen for programs."""
    bad = run.checks[run.checks["verdict"] != "ok"]
    every = [row for one in found for row in one.rows.values()]
    rows = [
        {name: row[name] for name in COLUMNS} | {"n": int(row["n"]) if row["n"] == row["n"] else 0} for row in every
    ]
    return {
        "run": str(run.path),
        "finding": headline(run, found).translate(PLAIN),
        "finished": not run.unfinished and is_finished(run.path),
        "unfinished": run.unfinished,
        "latents": run.latents,
        "effects": [{name: None if value != value else value for name, value in row.items()} for row in rows],
        "verdicts": {one.target: one.verdict for one in found},
        "flagged": {str(name): int(count) for name, count in bad["check"].value_counts(sort=False).items()},
        "report": str(run.path / "report.html"),
    }


def describe(name: str, segmenter: str | None) -> None:
    """Print the layers, sites and classes of a model."""
    from gandid.generators import NAMED, load_generator
    from gandid.interventions import Runner, find_sites
    from gandid.segmenters import load_segmenter

    if name in NAMED:
        model = NAMED[name]
        click.echo(f"{model.source}\nlicence: {model.licence}\ndefault layer: {model.default_layer}, {model.why}\n")
    network, sites = load_generator(name), []
    click.echo(f"{'layer':<20}{'units':>6}{'map':>10}  next site")
    for layer in getattr(network, "layers", None) or [path for path, _ in network.named_modules() if path]:
        try:
            runner = Runner(network, layer)
        except UsageError:
            continue  # a module whose output is not a map
        size = " x ".join(map(str, runner.map_size))
        click.echo(f"{layer:<20}{runner.units:>6}{size:>10}  {(*runner.downstream, 'none')[0]}")
        sites = [*runner.upstream, *runner.downstream]
    found = find_sites(network)
    named = [
        f"{one} ({type(found[one].module).__name__}{'' if found[one].responds else ', stored statistics'})"
        for one in sites
    ]
    click.echo(f"\nsites: {', '.join(named) or 'none'}")
    if segmenter:
        known = load_segmenter(segmenter)
        names = [f"{one} (background)" if one in known.background else one for one in known.classes]
        click.echo(f"\nclasses: {', '.join(names)}")
