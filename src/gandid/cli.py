"""The command line: parses, calls, prints."""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Callable
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
Generator = Annotated[
    str, typer.Option("--generator", help="A model's name (see `gandid models`), a checkpoint, or FILE.py:FACTORY.")
]
Segmenter = Annotated[
    str, typer.Option("--segmenter", help="An embedded segmenter, a checkpoint, or a Hugging Face folder or id.")
]
Layer = Annotated[str | None, typer.Option("--layer", help="Whose output is edited; the model's default if not given.")]
Layers = Annotated[
    list[str],
    typer.Option("--layer", help="Whose output is edited; the model's default if not given; several: a sweep."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the latents.")]
Memory = Annotated[
    str | None,
    typer.Option(help="Such as 4GiB: what the networks' batches may take; half of what is free if not given."),
]


Ranked = Annotated[
    str | None, typer.Option(metavar="exact|screened|optimized", help="How units are found; exact if not given.")
]
Screen = Annotated[
    bool,
    typer.Option("--screen", help="Short for --ranking screened: units are ablated only until the choice is settled."),
]
IouThreshold = Annotated[
    str, typer.Option(help="quantile (a unit's top 1 %), or maximizing: the one with the largest IoU, per class.")
]


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
    segmenter_size: Annotated[
        int | None, typer.Option(min=1, help="Input size of a Hugging Face segmenter; its own if not given.")
    ] = None,
    segmenter_scale: Annotated[
        list[float], typer.Option(help="Average its probabilities over these scales of that size (repeatable).")
    ] = [],
    background: Annotated[
        list[str], typer.Option(help="Class that fills any hole (repeatable), in place of the segmenter's own list.")
    ] = [],
    layer: Layers = [],
    target: Annotated[
        list[str], typer.Option(help="Class to ablate, or CLASS=UNIT,UNIT,...; every object if not given.")
    ] = [],
    units: Annotated[
        int | None, typer.Option(help="Units per target; 20, or a fifth of the layer's if that is fewer.")
    ] = None,
    control: Annotated[list[str], typer.Option(help="capped, frozen, mean or twin (repeatable).")] = [
        "capped",
        "frozen",
    ],
    twin: Annotated[
        list[str], typer.Option(help="Of --control twin: a generator trained without the normalization (repeatable).")
    ] = [],
    hold: Annotated[list[str], typer.Option(help="first, all, or site names joined by +.")] = ["first", "all"],
    ablation: Annotated[str, typer.Option(help="zero, mean or resample.")] = "zero",
    alpha: Annotated[float, typer.Option(help="Share of the way to the ablated value.")] = 1.0,
    latents: Annotated[int, typer.Option(help="Latents for the effects; with --until, those of the first look.")] = 512,
    until: Annotated[
        float | None,
        typer.Option(help="Go on until every half-width is at most this share of the target's pixels, such as 0.005."),
    ] = None,
    max_latents: Annotated[int, typer.Option(help="Where --until ends at the latest.")] = 20_000,
    ranking: Ranked = None,
    screen: Screen = False,
    ranking_latents: Annotated[int, typer.Option(help="Latents for the ranking of units.")] = 128,
    iou_threshold: IouThreshold = "quantile",
    seed: Seed = 0,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 where a GPU is faster with it.")] = "fp32",
    chunk: Annotated[
        str | None, typer.Option(metavar="K/N", help="Measure only the K-th of N parts of the latents, to merge later.")
    ] = None,
    out_folder: Annotated[
        Path,
        typer.Option("--out", help="Folder of the run; one that was cut short goes on, one of fewer latents grows."),
    ] = Path("runs/latest"),
    config: Annotated[Path | None, typer.Option(help="A YAML file with the settings above; flags win.")] = None,
    device: Device = "auto",
    memory: Memory = None,
    executor: Annotated[str, typer.Option(help="local, or ray for a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster (auto finds one); without, one is started here.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray workers; each holds the networks once.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="GPUs of each Ray worker; may be a fraction.")] = 0.0,
    figure: Annotated[
        bool, typer.Option("--figure", help="Make the paper's figure: the relation after each ablation, and insertion.")
    ] = False,
    sites: Annotated[
        str | None, typer.Option(metavar="shapley", help="Share each effect out among the normalizations.")
    ] = None,
    dose: Annotated[
        bool, typer.Option("--dose", help="Ablate partially, too: by 0, 0.1, ..., 1 of the way, live and held.")
    ] = False,
    placebos: Annotated[
        int, typer.Option(min=0, help="Ablate so many random sets of units, too, matched in size and energy.")
    ] = 0,
    second_segmenter: Annotated[
        str | None, typer.Option(help="Look at the same images with another one; the embedded rooms bring theirs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only estimate arms, images, time and disk.")] = False,
) -> None:
    """Run a difference-in-differences study and write its report; with several layers, a study at each and one of them all."""
    from gandid.report import build
    from gandid.studies import StudyConfig, read_config
    from gandid.studies.executors import Local, Ray

    # Only what was given on the command line may win over the file.
    overrides = {
        name: value
        for name, value in context.params.items()
        if name in {*StudyConfig.model_fields, "target", "segmenter_scale"}
        and (config is None or getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE")
    }
    overrides.pop("ranking", None)
    if screen or ranking is not None:
        overrides["ranking"] = _ranking(ranking, screen)
    if "target" in overrides:
        overrides["targets"] = _targets(overrides.pop("target"))
    if "segmenter_scale" in overrides:
        overrides["segmenter_scales"] = overrides.pop("segmenter_scale") or None
    if "background" in overrides:
        overrides["background"] = overrides["background"] or None
    layers = list(dict.fromkeys(overrides.pop("layer", [])))
    if len(layers) == 1:
        overrides["layer"] = layers[0]
    asked = StudyConfig.read(config, **overrides) if config else StudyConfig.check(**overrides)

    if executor not in ("local", "ray"):
        raise UsageError(f"unknown executor '{executor}': choose local or ray")
    # Workers without a GPU of their own share this machine's memory, or a GPU's.
    share = 1.0 if executor == "local" else min(1.0, gpus_per_worker or 1 / workers)
    where = Ray(address, workers, gpus_per_worker) if executor == "ray" else Local()
    make = _studies(asked, device, memory, share)
    if len(layers) > 1:
        _sweep([make(one) for one in layers], asked, out_folder, where, dry_run)
        return
    study = make(asked.layer)

    if dry_run:
        from gandid.studies.plan import plan

        print(plan(study, asked, build))
        if asked.until is not None:
            print(f"That is the first look; --until may go on to {asked.max_latents:,} latents.")
        return
    with _progress() as progress:
        command, report = shlex.join(["gandid", *sys.argv[1:]]), _Report(progress)
        study.execute(asked, store=out_folder, executor=where, progress=progress, command=command, finish=report)
    speed = read_config(out_folder)["resolved"]["images_per_second"]
    if speed:
        err.print(f"The arms were made at {speed:,.1f} images per second.")
    _print_results(report.effects, out_folder)


def _sweep(studies: list[Any], asked: Any, out_folder: Path, where: Any, dry_run: bool) -> None:
    """One study at several layers, or what that would take."""
    from gandid.report import build
    from gandid.studies.plan import plan
    from gandid.studies.sweep import check, sweep, total

    check(studies, asked, out_folder)
    if dry_run:
        print(total([plan(study, asked, build) for study in studies]))
        return
    with _progress() as progress:
        command, report = shlex.join(["gandid", *sys.argv[1:]]), _Report(progress, anew=False)
        sweep(studies, asked, out_folder, executor=where, progress=progress, command=command, finish=report)
    _print_sweep(out_folder)


@app.command(epilog="Example: gandid merge runs/part-1 runs/part-2 --out runs/whole")
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs of one study with different latents.")],
    out_folder: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Join runs of one study whose latents were measured apart (`gandid run --chunk K/N`), and report the whole."""
    from gandid.studies.merge import merge as join

    with _progress() as progress:
        report = _Report(progress)
        join(runs, out_folder, report)
    _print_results(report.effects, out_folder)


@app.command(epilog="Example: gandid relate --layer layer6 --latents 128 --out relation.csv")
def relate(
    generator: Generator = "rooms",
    segmenter: Segmenter = "rooms",
    layer: Layer = None,
    latents: Annotated[int, typer.Option(min=2, help="How many latents.")] = 128,
    ranking: Ranked = None,
    screen: Screen = False,
    iou_threshold: IouThreshold = "quantile",
    seed: Seed = 0,
    out_file: Annotated[
        Path, typer.Option("--out", help="CSV file to write; the whole dataset goes beside it, into a folder .zarr.")
    ] = Path("relation.csv"),
    device: Device = "auto",
    memory: Memory = None,
) -> None:
    """Measure IoU, ACE and energy of every unit of a layer for every class; the same command goes on where it was cut off."""
    from gandid.files import replacing
    from gandid.studies import StudyConfig
    from gandid.studies.folder import write_measures
    from gandid.studies.store import explained, write_dataset

    asked = StudyConfig.check(
        generator=generator,
        segmenter=segmenter,
        layer=layer,
        seed=seed,
        ranking=_ranking(ranking, screen),
        ranking_latents=latents,
        iou_threshold=iou_threshold,
    )
    dataset = out_file.with_suffix(".zarr")
    for path in (out_file, dataset):
        if path.exists():
            raise UsageError(f"{path} exists: choose another --out, or remove it")
    study = _study(asked, device, memory)
    kept = study.ranking_file(out_file, asked)
    with explained(out_file), _progress() as progress:
        out_file.parent.mkdir(parents=True, exist_ok=True)
        relation = study.relate(latents, progress, kept, ranking=asked.ranking, iou_threshold=asked.iou_threshold)
    write_dataset(dataset, relation)
    with explained(out_file), replacing(out_file) as aside:
        write_measures(aside, relation)
    kept.unlink(missing_ok=True)
    table = Table(
        title=f"{study.layer}: the five units of largest ACE (points of the image's area)", title_justify="left"
    )
    for column in ("object", "units", "ACE"):
        table.add_column(column)
    for name in study.objects:
        ace = relation["ace"].sel(object=name).to_series().nlargest(5)
        table.add_row(name, ", ".join(map(str, ace.index)), ", ".join(f"{100 * value:.2f}" for value in ace))
    out.print(table)
    out.print(f"Written: {out_file}, {dataset}")


@app.command(epilog="Example: gandid report runs/latest")
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run, or of a sweep of layers.")]) -> None:
    """Write effects, checks, figures and the report of a run anew, from its panel, finished or not."""
    from gandid.studies import open_panel, write_estimates
    from gandid.studies.sweep import is_sweep, read_sweep, write_tables

    if is_sweep(folder):
        with _progress() as progress:
            task = progress.add_task("writing the report", total=1)
            write_tables(folder, read_sweep(folder))
            progress.advance(task)
        _print_sweep(folder)
        return
    effects = write_estimates(folder, open_panel(folder))
    with _progress() as progress:
        _Report(progress)(folder, effects)
    _print_results(effects, folder)


@app.command("app", epilog="Example: gandid app --runs runs")
def app_command(
    generator: Generator = "rooms",
    segmenter: Segmenter = "rooms",
    layer: Layer = None,
    runs: Annotated[
        Path, typer.Option(help="Folder of runs: studies are written there, and no other is served.")
    ] = Path("runs"),
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The first free one from 7860 on if not given.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than 127.0.0.1 demands a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(help="What a visitor must know; made by chance where it is needed and not given.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page.")] = False,
    device: Device = "auto",
) -> None:
    """Open a page in the browser, on which an effect is found by hand and turned into a study."""
    from gandid.app import serve

    def told(address: str) -> None:
        print(f"The page is at {address} (Ctrl+C ends it)", flush=True)

    out.print("Loading the networks ...")
    serve(
        generator=generator,
        segmenter=segmenter,
        layer=layer,
        runs=runs,
        host=host,
        port=port,
        token=token,
        browser=not no_browser,
        device=_device(device),
        told=told,
    )


@app.command(epilog="Example: gandid models")
def models() -> None:
    """List the models that have a name: those that ship with the package, and those that are downloaded when first used."""
    from itertools import groupby

    from gandid.generators import NAMED, NamedModel
    from gandid.generators.download import cache_folder, cached_file

    def collection(model: NamedModel) -> tuple[str, ...]:
        return (
            model.source,
            f"licence: {model.licence}",
            f"edited unless told otherwise: {model.default_layer}, {model.why}",
        )

    for heading, some in groupby(NAMED.values(), key=collection):
        print("\n  ".join(heading))
        for model in some:
            size = f"{'' if model.weights else 'about '}{model.megabytes:.0f} MB"
            here = "here" if cached_file(model).is_file() else "to be downloaded"
            print(f"    {model.name:<22} {model.resolution:>4} px  {size:>12}  {here}")
        print()
    print(f"Downloads are kept in {cache_folder()}; the environment variable GANDID_CACHE names another folder.")


@app.command(epilog="Example: gandid convert proggan_bedroom.pth bedroom.safetensors")
def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint in any public format of PG-GANs, or a model's name.")],
    target: Annotated[Path, typer.Argument(help="A .safetensors file to write; never overwritten.")],
) -> None:
    """Write a PG-GAN's generator as safetensors, from whatever format it is in."""
    from gandid.generators import Generator, load_generator
    from gandid.generators.storage import save_generator

    if target.suffix != ".safetensors":
        raise UsageError(f"{target} is not called .safetensors, which is what convert writes")
    if target.exists():
        raise UsageError(f"{target} exists: choose another name, or remove it")
    network = load_generator(source)
    if not isinstance(network, Generator):
        raise UsageError(f"{source} is no PG-GAN: only those can be converted")
    try:
        save_generator(network, target)
    except OSError as error:
        raise GandidError(f"{target} cannot be written: {error.strerror}") from error
    print(f"Written: {target} ({network.resolution} px, latents of length {network.latent_dim})")


@train.command("generator", epilog="Example: gandid train generator --out runs/generator")
def train_generator_command(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted one goes on.")] = Path(
        "runs/generator"
    ),
    seed: Seed = 0,
    pixel_norm: Annotated[bool, typer.Option(help="Without: the same network without pixel normalization.")] = True,
    resolution: Annotated[
        int, typer.Option(help="64, as embedded, or 32: smaller networks, a quarter of an hour each.")
    ] = 64,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure the embedded weights instead.")] = False,
    device: Device = "auto",
) -> None:
    """Train a rooms generator by progressive growing."""
    from dataclasses import replace

    from gandid.training.generator import SCHEDULES, train_generator

    if evaluate:
        _evaluate_generator("rooms" if pixel_norm else "rooms-twin")
        return
    if resolution not in SCHEDULES:
        raise UsageError(f"there is no schedule for {resolution} px: choose {' or '.join(map(str, SCHEDULES))}")
    schedule = replace(SCHEDULES[resolution], seed=seed, pixel_norm=pixel_norm)
    weights = train_generator(out_folder, schedule, _device(device))
    out.print(f"Written: {weights}")


@train.command("segmenter", epilog="Example: gandid train segmenter --out runs/segmenter")
def train_segmenter_command(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run; an interrupted one goes on.")] = Path(
        "runs/segmenter"
    ),
    architecture: Annotated[str, typer.Option(help="unet, or dilated: that of the second segmenter.")] = "unet",
    seed: Seed = 0,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Measure the embedded weights instead.")] = False,
) -> None:
    """Train the rooms segmenter, or the second one."""
    from gandid.segmenters import load_segmenter
    from gandid.training.segmenter import NAMES, check_architecture, evaluate_segmenter, quality_bars, train_segmenter

    if not evaluate:
        out.print(f"Written: {train_segmenter(out_folder, architecture=architecture, seed=seed)}")
        return
    check_architecture(architecture)
    bars = quality_bars(evaluate_segmenter(load_segmenter(NAMES[architecture]), progress=True), architecture)
    table = Table("measure", "value", "bar", "met")
    for name, value, bar, met in bars:
        table.add_row(name, f"{value:.4f}", bar, "yes" if met else "no")
    out.print(table)
    if not all(met for *_, met in bars):
        raise GandidError("the segmenter misses a bar")


def _evaluate_generator(model: str) -> None:
    from gandid.generators import load_generator
    from gandid.segmenters import load_segmenter
    from gandid.training.quality import evaluate_generator

    quality = evaluate_generator(load_generator(model), load_segmenter("rooms"), progress=True)
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


def _ranking(ranking: str | None, screen: bool) -> str:
    """What `--ranking` and `--screen` say together."""
    if screen and ranking not in (None, "screened"):
        raise UsageError(f"--screen is --ranking screened, and --ranking {ranking} is given: choose one")
    return "screened" if screen else ranking or "exact"


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


def _study(config: Any, device: str, memory: str | None = None) -> Any:
    return _studies(config, device, memory)(config.layer)


def _studies(config: Any, device: str, memory: str | None = None, share: float = 1.0) -> Callable[[str | None], Any]:
    """What makes the study at a layer; all share the networks."""
    from gandid.generators import load_generator
    from gandid.segmenters import load_segmenter
    from gandid.studies import Study
    from gandid.studies.memory import default_budget

    place = _device(device)
    budget = _bytes(memory) if memory else default_budget(place)
    segmenter = load_segmenter(
        config.segmenter,
        place,
        size=config.segmenter_size,
        scales=config.segmenter_scales,
        background=config.background,
    )
    network = load_generator(config.generator, place)
    twins = {name: load_generator(name, place) for name in config.twin}
    return lambda layer: Study(
        network, segmenter, layer, config.seed, precision=config.precision, memory=int(share * budget), twins=twins
    )


def _bytes(text: str) -> int:
    """A size such as `4GiB` or `800 MB` in bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"--memory {text}: write a size such as 4GiB or 800MB")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


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


class _Report:
    """Builds the report of a run when its effects are there, and keeps them to be printed when the bars are gone.

    Not `anew`: a page that was written after the effects is left as it is.
    """

    def __init__(self, progress: Progress, *, anew: bool = True):
        self.progress, self.anew = progress, anew
        self.effects: Any = None

    def __call__(self, folder: Path, effects: Any) -> None:
        from gandid.report import build

        page, computed = folder / "report.html", folder / "effects.csv"
        if not self.anew and page.is_file() and page.stat().st_mtime_ns >= computed.stat().st_mtime_ns:
            return
        task = self.progress.add_task("writing the report", total=1)
        build(folder, effects)
        self.progress.advance(task)
        self.effects = effects


def _print_results(effects: Any, folder: Path) -> None:
    from gandid.studies.folder import stopping_in_words, types_in_words

    # Not through rich, which would wrap the table's rows.
    print(effects.summary())
    for line in [*stopping_in_words(folder), *types_in_words(folder)]:
        print(line)
    print(f"\nReport: {folder / 'report.html'}")


def _print_sweep(folder: Path) -> None:
    from gandid.report.sweep import build, words

    page = build(folder)
    print("\n".join(f"- {text}" for text in words(folder)))
    print(f"\nReport: {page}")


def main() -> None:
    """Entry point: exit status 0, 1 (failed) or 2 (bad usage); an error is one line unless `--debug` is given."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    warnings.showwarning = lambda message, *_, **__: err.print(f"gandid: {message}", markup=False, soft_wrap=True)
    try:
        app()
    except KeyboardInterrupt:
        err.print("gandid: interrupted; what a run has measured is kept, and the same command goes on")
        sys.exit(1)
    except GandidError as error:
        if debug:
            raise
        err.print(f"gandid: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
