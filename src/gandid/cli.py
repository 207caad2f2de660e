"""The command line: parses, calls, prints."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from gandid.errors import GandidError, UsageError

app = typer.Typer(
    help="Causal experiments inside image generators: what does normalization do to the other objects when one is ablated?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(help="Make the embedded weights anew.", no_args_is_help=True)
app.add_typer(train, name="train")

out, err = Console(), Console(stderr=True)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Generator = Annotated[str, typer.Option("--generator", help="An embedded model (see `gandid models`) or a checkpoint.")]
Segmenter = Annotated[str, typer.Option("--segmenter", help="An embedded segmenter or a checkpoint.")]
Layer = Annotated[str | None, typer.Option("--layer", help="Whose output is edited; the model's default if not given.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the latents.")]


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""


@app.command(epilog="Example: gandid run --target painting --layer layer4 --latents 1000 --out runs/painting")
def run(
    context: typer.Context,
    generator: Generator = "rooms",
    segmenter: Segmenter = "rooms",
    layer: Layer = None,
    target: Annotated[
        list[str], typer.Option(help="Class to ablate, or CLASS=UNIT,UNIT,...; every object if not given.")
    ] = [],
    units: Annotated[
        int | None, typer.Option(help="Units per target; 20, or a fifth of the layer's if that is fewer.")
    ] = None,
    control: Annotated[list[str], typer.Option(help="capped or frozen.")] = ["capped", "frozen"],
    hold: Annotated[list[str], typer.Option(help="first, all, or site names joined by +.")] = ["first", "all"],
    ablation: Annotated[str, typer.Option(help="zero, mean or resample.")] = "zero",
    alpha: Annotated[float, typer.Option(help="Share of the way to the ablated value.")] = 1.0,
    latents: Annotated[int, typer.Option(help="Latents for the effects.")] = 512,
    ranking_latents: Annotated[int, typer.Option(help="Latents for the ranking of units.")] = 128,
    seed: Seed = 0,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder to write; never overwritten.")] = Path(
        "runs/latest"
    ),
    config: Annotated[Path | None, typer.Option(help="A YAML file with these settings; flags win.")] = None,
    device: Device = "auto",
) -> None:
    """Run a difference-in-differences study and write its report."""
    from gandid.report import build
    from gandid.studies import StudyConfig

    # Only what was given on the command line may win over the file.
    overrides = {
        name: value
        for name, value in context.params.items()
        if name not in ("out_folder", "config", "device")
        and (config is None or getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE")
    }
    if "target" in overrides:
        overrides["targets"] = _targets(overrides.pop("target"))
    asked = StudyConfig.read(config, **overrides) if config else StudyConfig.check(**overrides)

    study = _study(asked.generator, asked.segmenter, asked.layer, asked.seed, device)
    with _progress() as progress:
        panel = study.run(
            asked.targets,
            asked.units,
            asked.control,
            asked.hold,
            asked.latents,
            ablation=asked.ablation,
            alpha=asked.alpha,
            ranking_latents=asked.ranking_latents,
            store=out_folder,
            progress=progress,
            command=shlex.join(["gandid", *sys.argv[1:]]),
        )
        task = progress.add_task("writing the report", total=1)
        build(out_folder)
        progress.advance(task)
    _print_results(panel, out_folder)


@app.command(epilog="Example: gandid relate --layer layer6 --latents 128 --out relation.csv")
def relate(
    generator: Generator = "rooms",
    segmenter: Segmenter = "rooms",
    layer: Layer = None,
    latents: Annotated[int, typer.Option(min=2, help="How many latents.")] = 128,
    seed: Seed = 0,
    out_file: Annotated[Path, typer.Option("--out", help="CSV file to write.")] = Path("relation.csv"),
    device: Device = "auto",
) -> None:
    """Measure IoU, ACE and energy of every unit of a layer for every class."""
    study = _study(generator, segmenter, layer, seed, device)
    if out_file.exists():
        raise UsageError(f"{out_file} exists: choose another --out, or remove it")
    with _progress() as progress:
        relation = study.relate(latents, progress)
    relation.to_dataframe().reset_index().to_csv(out_file, index=False)
    table = Table(
        title=f"{study.layer}: the five units of largest ACE (points of the image's area)", title_justify="left"
    )
    for column in ("object", "units", "ACE"):
        table.add_column(column)
    for name in study.objects:
        ace = relation["ace"].sel(object=name).to_series().nlargest(5)
        table.add_row(name, ", ".join(map(str, ace.index)), ", ".join(f"{100 * value:.2f}" for value in ace))
    out.print(table)
    out.print(f"Written: {out_file}")


@app.command(epilog="Example: gandid report runs/latest")
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Write effects, checks, figures and the report of a finished run anew, from its panel."""
    from gandid.report import build
    from gandid.studies import open_panel, write_estimates

    panel = open_panel(folder)
    write_estimates(folder, panel)
    build(folder)
    _print_results(panel, folder)


@app.command(epilog="Example: gandid models")
def models() -> None:
    """List the embedded models."""
    from gandid.generators import NAMED, load_generator

    for model in NAMED.values():
        network = load_generator(model.name)
        out.print(f"[bold]{model.name}[/bold]: {network.resolution} px, latents of length {network.latent_dim}")
        out.print(f"  layers {', '.join(network.layers)}; default {model.default_layer}: {model.why}")


@train.command("generator", epilog="Example: gandid train generator --out runs/generator")
def train_generator_command(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted one goes on.")] = Path(
        "runs/generator"
    ),
    seed: Seed = 0,
    pixel_norm: Annotated[bool, typer.Option(help="Without: the same network without pixel normalization.")] = True,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure the embedded weights instead.")] = False,
    device: Device = "auto",
) -> None:
    """Train a rooms generator by progressive growing."""
    from gandid.training.generator import Schedule, train_generator

    if evaluate:
        _evaluate_generator()
        return
    weights = train_generator(out_folder, Schedule(seed=seed, pixel_norm=pixel_norm), _device(device))
    out.print(f"Written: {weights}")


@train.command("segmenter", epilog="Example: gandid train segmenter --out runs/segmenter")
def train_segmenter_command(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted one goes on.")] = Path(
        "runs/segmenter"
    ),
    seed: Seed = 0,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure the embedded weights instead.")] = False,
) -> None:
    """Train the rooms segmenter."""
    from gandid.segmenters import load_segmenter
    from gandid.training.segmenter import evaluate_segmenter, quality_bars, train_segmenter

    if not evaluate:
        out.print(f"Written: {train_segmenter(out_folder, seed=seed)}")
        return
    bars = quality_bars(evaluate_segmenter(load_segmenter("rooms"), progress=True))
    table = Table("measure", "value", "bar", "met")
    for name, value, bar, met in bars:
        table.add_row(name, f"{value:.4f}", bar, "yes" if met else "no")
    out.print(table)
    if not all(met for *_, met in bars):
        raise GandidError("the segmenter misses a bar")


def _evaluate_generator() -> None:
    from gandid.generators import load_generator
    from gandid.segmenters import load_segmenter
    from gandid.training.quality import evaluate_generator

    quality = evaluate_generator(load_generator("rooms"), load_segmenter("rooms"), progress=True)
    table = Table("class", "area", "of renders", "present", "of renders", "met")
    for name, row in quality.iterrows():
        if name == "unknown":
            table.add_row("unknown", f"{row.area:.4f}", "", "", "", "")
            continue
        met = row.area_ok and row.presence_ok
        values = [row.area, row.area_renders, row.presence, row.presence_renders]
        table.add_row(str(name), *(f"{value:.4f}" for value in values), "yes" if met else "no")
    out.print(table)
    if not (quality.area_ok.dropna().all() and quality.presence_ok.dropna().all()):
        raise GandidError("the generator misses a bar")


def _targets(given: list[str]) -> tuple[str, ...] | dict[str, Any] | None:
    """`--target painting` names a class; `--target painting=3,17` its units too."""
    if not any("=" in one for one in given):
        return tuple(given) or None
    named: dict[str, list[int]] = {}
    for one in given:
        target, _, units = one.partition("=")
        try:
            named[target] = [int(unit) for unit in units.split(",")]
        except ValueError:
            raise UsageError(f"--target {one}: write CLASS=UNIT,UNIT,... for every target, or for none") from None
    return named


def _study(generator: str, segmenter: str, layer: str | None, seed: int, device: str) -> Any:
    from gandid.generators import load_generator
    from gandid.segmenters import load_segmenter
    from gandid.studies import Study

    place = _device(device)
    return Study(load_generator(generator, place), load_segmenter(segmenter, place), layer, seed)


def _device(name: str) -> str:
    import torch

    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if here["cuda"] else "mps" if here["mps"] else "cpu"
    if name not in here:
        raise UsageError(f"unknown device '{name}': choose auto, cpu, cuda or mps")
    if not here[name]:
        raise UsageError(f"no {name} device is available here: choose --device auto")
    return name


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )


def _print_results(panel: Any, folder: Path) -> None:
    from gandid import did

    # Not through rich, which would wrap the table's rows.
    print(did.estimate(panel).summary())
    print(f"\nReport: {folder / 'report.html'}")


def main() -> None:
    """Entry point: exit status 0, 1 (failed) or 2 (bad usage); an error is one line unless `--debug` is given."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except GandidError as error:
        if debug:
            raise
        err.print(f"gandid: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
