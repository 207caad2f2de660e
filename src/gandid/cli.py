"""The command line: its options are the fields of `StudyConfig`, and everything slow is imported when it is needed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gandid.config import NETWORKS, StudyConfig
from gandid.errors import GandidError, UsageError
from gandid.options import DEVICE, FILE, MEMORY, RAY, SHOWN, Command, Option, field_option

if TYPE_CHECKING:
    from gandid.study import Study

LEAST_MEMORY = 16 * 2**20  # bytes
COMPLETION = 'Shell completion: eval "$(_GANDID_COMPLETE=bash_source gandid)", or zsh_source, or fish_source'


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    no_args_is_help=True,
    epilog=f"\b\n{COMPLETION}",
)
@click.version_option(package_name="gandid", message="gandid %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error, with any command.")
def app(debug: bool) -> None:
    """Causal experiments inside image generators.

    What does normalization do to the other objects when one object is ablated?
    """


@app.command(
    cls=Command,
    example="gandid run --target rug --latents 200 --out runs/rug",
    params=[
        *(field_option(name) for name in StudyConfig.model_fields if name not in ("layer", "types")),
        field_option("layer", multiple=True, default=()),
        DEVICE,
        MEMORY,
        *RAY,
        Option("--out", "Output", "Folder of the run.  [default: runs/latest]", type=FILE, default="runs/latest"),
        Option("--config", "Output", "YAML file with these settings; options win over it.", "file", type=FILE),
        Option("--dry-run", "Output", "Only estimate the number of images, the time and the disk space.", is_flag=True),
        *SHOWN,
    ],
)
@click.pass_context
def run(ctx: click.Context, out: Path, file: Path | None, dry_run: bool, **given: Any) -> None:
    """Run a study and write its report.

    An interrupted run goes on, and one of fewer latents or arms grows. With several --layer the same study runs at each,
    in the folder OUT/LAYER.
    """
    fields = _fields(ctx)
    layers: list[str | None] = list(dict.fromkeys(fields.pop("layer", [])))
    if "targets" in fields:
        fields["targets"] = _targets(fields["targets"])
    config = StudyConfig.read(file, **fields) if file else StudyConfig.check(**fields)
    studies = _studies(config, layers or [config.layer], given)
    alone = len(studies) == 1
    if not alone and (out / "config.yaml").is_file():
        raise UsageError(f"{out} holds the run of one layer: choose another --out for several layers")
    tasks = [
        (study, config.model_copy(update={"layer": study.layer}), out if alone else out / study.layer)
        for study in studies
    ]
    for study, one, folder in tasks:
        study.check(one, folder)
    if dry_run:
        from gandid.measure.plan import plan
        from gandid.report import build

        for study, one, _ in tasks:
            click.echo(plan(study, one, build) if alone else f"{study.layer}\n{plan(study, one, build)}")
        if config.until is not None:
            click.echo(f"This is the first look; --until may go on to {config.max_latents:,} latents.")
        return
    from gandid.measure.executors import Local, Ray
    from gandid.terminal import display, reporting, show

    ray = given["executor"] == "ray"
    executor = Ray(given["address"], given["workers"], given["gpus_per_worker"]) if ray else Local()
    command = shlex.join(["gandid", *(ctx.obj or sys.argv[1:])])
    with display(given) as progress:
        for study, one, folder in tasks:
            finish = reporting(progress)
            study.execute(one, store=folder, executor=executor, progress=progress, command=command, finish=finish)
    show([folder for *_, folder in tasks], given)


@app.command(
    cls=Command,
    example="gandid relate --layer layer6 --latents 64 --out runs/units.csv",
    params=[
        *(field_option(name) for name in (*NETWORKS, "ranking", "iou_threshold", "seed", "dtype")),
        field_option("ranking_latents", flag="--latents"),
        DEVICE,
        MEMORY,
        Option("--out", "Output", "CSV file to write; the dataset goes beside it, as .zarr.", type=FILE, required=True),
    ],
)
@click.pass_context
def relate(ctx: click.Context, out: Path, **given: Any) -> None:
    """Measure IoU, ACE and energy of every unit for every class.

    A ranking that was interrupted goes on with the same command.
    """
    from gandid.panel.store import write_dataset
    from gandid.runs import write_measures
    from gandid.terminal import display

    config = StudyConfig.check(**_fields(ctx))
    dataset = out.with_suffix(".zarr")
    for path in (out, dataset):
        if path.exists():
            raise UsageError(f"{path} exists: choose another --out, or remove it")
    [study] = _studies(config, [config.layer], given)
    kept = study.ranking_file(out, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with display(given) as progress:
        relation = study.relate(
            config.ranking_latents, progress, kept, ranking=config.ranking, iou_threshold=config.iou_threshold
        )
    write_dataset(dataset, relation)
    write_measures(out, relation)
    kept.unlink(missing_ok=True)
    click.echo(f"{study.layer}: the five units of largest ACE, in points of the image's area")
    for name in study.objects:
        ace = relation["ace"].sel(object=name).to_series().nlargest(5)
        units = "  ".join(f"{unit:>4} {100 * value:5.2f}" for unit, value in ace.items())
        click.echo(f"{name[:15]:<16}{units}")
    click.echo(f"Written: {out}, {dataset}")


@app.command(cls=Command, example="gandid report runs/latest", params=[*SHOWN])
@click.argument("folder", type=FILE, help="Folder of the run, finished or not.")
def report(folder: Path, **given: Any) -> None:
    """Estimate a run again from its panel and write its report."""
    from gandid.runs import open_panel, write_estimates
    from gandid.terminal import display, reporting, show

    write_estimates(folder, open_panel(folder))
    with display(given) as progress:
        reporting(progress)(folder)
    show([folder], given)


@app.command(
    cls=Command,
    example="gandid merge runs/part-1 runs/part-2 --out runs/whole",
    params=[Option("--out", "Output", "New folder for the whole run.", type=FILE, required=True), *SHOWN],
)
@click.argument("runs", nargs=-1, required=True, type=FILE, help="Folders of runs of one study (--chunk K/N).")
def merge(runs: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Join runs of one study whose latents were measured apart."""
    from gandid.runs import merge as join
    from gandid.terminal import display, reporting, show

    with display(given) as progress:
        join(runs, out, reporting(progress))
    show([out], given)


@app.command(
    cls=Command,
    example="gandid compare runs/demo runs/other --out compare.html",
    params=[Option("--out", "Output", "Page to write.  [default: compare.html]", type=FILE, default="compare.html")],
)
@click.argument("runs", nargs=-1, required=True, type=FILE, help="Folders of two finished runs or more.")
def compare(runs: tuple[Path, ...], out: Path) -> None:
    """Put runs side by side in a table, a chart and a page.

    They may be of other layers, generators, seeds, units or controls.
    """
    from gandid.terminal import show_comparison

    show_comparison(runs, out)


@app.command(
    "app",
    cls=Command,
    example="gandid app --runs runs",
    params=[
        *(field_option(name) for name in ("generator", "segmenter", "layer")),
        DEVICE,
        Option("--runs", "Page", "Folder of runs, the only one shown.  [default: runs]", type=FILE, default="runs"),
        Option("--port", "Page", "Port; the first free one from 7860 by default.", type=click.IntRange(1, 65535)),
        Option("--host", "Page", "Address to listen on.  [default: 127.0.0.1]", default="127.0.0.1"),
        Option(
            "--token", "Page", "Token that visitors must give; by default a random one, kept in the folder of runs."
        ),
        Option("--no-browser", "Page", "Do not open the page in a browser.", is_flag=True),
    ],
)
@click.pass_context
def app_command(ctx: click.Context, device: str, no_browser: bool, **given: Any) -> None:
    """Open a page to find an effect by hand and turn it into a study."""
    from gandid.app import serve

    config = StudyConfig.check(**_fields(ctx))
    click.echo("Loading the networks ...")
    serve(
        generator=config.generator,
        segmenter=config.segmenter,
        layer=config.layer,
        **{name: given[name] for name in ("runs", "host", "port", "token")},
        browser=not no_browser,
        device=_device(device),
        announce=lambda address: click.echo(f"The page is at {address} (Ctrl+C ends it)"),
    )
    sys.stdout.flush()
    os._exit(0)  # whatever PyTorch is at in other threads is not waited for


@app.command(cls=Command, example="gandid models rooms", params=[field_option("segmenter")])
@click.argument("name", required=False, help="A model, or a checkpoint; all models that have a name by default.")
def models(name: str | None, segmenter: str | None) -> None:
    """List models, or the layers, sites and classes of one."""
    from gandid.generators import NAMED
    from gandid.generators.download import cache_folder, cached_file

    if name is not None:
        from gandid.terminal import describe

        describe(name, segmenter or (NAMED[name].segmenter if name in NAMED else None))
        return
    for model in NAMED.values():
        where = "here" if cached_file(model).is_file() else "to be downloaded"
        click.echo(f"{model.name:<22} {model.resolution:>4} px {model.megabytes:>6.0f} MB  {where}")
        if model.distilled:
            names = sorted(Path(one).stem for one in model.distilled)
            click.echo(f"{'':<22} distilled after {model.default_layer}: {', '.join(names)}")
    click.echo(f"\nDownloads are kept in {cache_folder()}; the environment variable GANDID_CACHE names another folder.")


@app.command(
    cls=Command,
    example="gandid distil --seed 1 --out nets/rooms",
    params=[
        *(field_option(name) for name in (*NETWORKS, "seed")),
        Option("--placebo", "What", "Keep the normalizations and only learn the same layers again.", is_flag=True),
        Option("--batches", "How many", "Number of batches.  [default: 600]", type=click.IntRange(1), default=600),
        DEVICE,
        Option("--out", "Output", "File (.safetensors) to write, or the folder of it.", type=FILE, required=True),
    ],
)
@click.pass_context
def distil(ctx: click.Context, placebo: bool, batches: int, device: str, out: Path, **given: Any) -> None:
    """Learn again, without normalization, what follows a layer.

    The control distilled compares with such networks. An interrupted training goes on with the same command. A study
    wants several seeds of it, and as many placebos.
    """
    from gandid.measure.distillation import Distillation, Schedule
    from gandid.measure.distillation import distil as learn
    from gandid.terminal import display

    config = StudyConfig.check(**_fields(ctx))
    [study] = _studies(config, [config.layer], {"memory": None, "device": device, "workers": 1, "gpus_per_worker": 0})
    learning = Distillation(study.generator, study.layer, placebo, config.seed, Schedule(batches=batches))
    with display(given) as progress:
        task = progress.add_task("distilling", total=batches)
        path, *bars = learn(learning, study.segmenter, out, lambda steps: progress.advance(task, steps))
    click.echo("Written: {} (labels agree on {:.1%} of the pixels, images differ by {:.3f})".format(path, *bars))


@app.command(cls=Command, example="gandid convert proggan_bedroom.pth bedroom.safetensors")
@click.argument("source", help="Checkpoint of any public format, or the name of a model.")
@click.argument("target", type=FILE, help="File (.safetensors) to write.")
def convert(source: str, target: Path) -> None:
    """Write the generator of a PG-GAN's checkpoint as safetensors."""
    from gandid.generators import Generator, load_generator
    from gandid.generators.storage import save_generator

    if target.suffix != ".safetensors":
        raise UsageError(f"{target} does not end in .safetensors, the format that convert writes")
    if target.exists():
        raise UsageError(f"{target} exists: choose another name, or remove it")
    network = load_generator(source)
    if not isinstance(network, Generator):
        raise UsageError(f"{source} is not a PG-GAN: only those can be converted")
    try:
        save_generator(network, target)
    except OSError as error:
        raise GandidError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(f"Written: {target} ({network.resolution} px, latents of length {network.latent_dim})")


def _fields(ctx: click.Context) -> dict[str, Any]:
    """The fields of the configuration that the command line gives; only these win over a file."""
    given = click.core.ParameterSource.COMMANDLINE
    return {
        name: value
        for name, value in ctx.params.items()
        if name in StudyConfig.model_fields and ctx.get_parameter_source(name) is given
    }


def _targets(words: Sequence[str]) -> tuple[str, ...] | dict[str, list[int]]:
    """`--target painting` names a class, `--target painting=3,17` its units too; `--target a=3=` is the class `a=3`."""
    named: dict[str, list[int]] = {}
    plain = []
    for word in words:
        target, equals, units = word.rpartition("=")
        if not (equals and re.fullmatch(r"[\d,\s-]*", units)):
            target, units = word, ""  # a class of this name, or none
        if target in named:
            raise UsageError(f"--target {target} is given twice: write all of its units after one =")
        if not units:
            plain.append(target)
            continue
        try:
            named[target] = [int(unit) for unit in units.split(",")]
        except ValueError:
            raise UsageError(f"--target {word}: write CLASS=UNIT,UNIT,...") from None
    if named and plain:
        raise UsageError(f"--target {plain[0]}: name its units too (CLASS=UNIT,UNIT,...), or those of no target")
    return named or tuple(plain)


def _studies(config: StudyConfig, layers: Sequence[str | None], given: dict[str, Any]) -> list[Study]:
    """The study at each layer; all share the networks."""
    budget, device = _bytes(given["memory"]), _device(given["device"])

    from gandid.generators import load_generator
    from gandid.generators.named import own_segmenter
    from gandid.measure.memory import default_budget
    from gandid.segmenters import load_segmenter
    from gandid.study import Study

    # Workers without a GPU of their own share the memory of this machine, or of a GPU.
    share = min(1.0, given["gpus_per_worker"] or 1 / given["workers"]) if given.get("executor") == "ray" else 1.0
    memory = int(share * (budget or default_budget(device)))
    generator = load_generator(config.generator, device, inputs=config.inputs)
    segmenter = load_segmenter(
        config.segmenter or own_segmenter(config.generator),
        device,
        size=config.segmenter_size,
        scales=config.segmenter_scales,
        background=config.background,
    )
    twins = {name: load_generator(name, device, inputs=config.inputs) for name in config.twin}
    how: dict[str, Any] = {"dtype": config.dtype, "memory": memory, "twins": twins, "distilled": config.distilled}
    return [Study(generator, segmenter, layer, config.seed, **how) for layer in layers]


def _bytes(text: str | None) -> int | None:
    """A size such as `4GiB` or `800MB` in bytes."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = TypeAdapter(ByteSize | None).validate_python(text)
    except ValidationError:
        raise UsageError(f"--memory {text}: write a size such as 4GiB or 800MB") from None
    if size is not None and size < LEAST_MEMORY:
        raise UsageError(f"--memory {text} is too little for any network: give 16MiB or more")
    return size


def _device(name: str) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        raise UsageError(f"no {name} device is available here: choose --device auto")
    return name


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit status 0, 1 (failed) or 2 (wrong usage); an error is one line unless `--debug` is given."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    status, message = 1, ""
    try:
        with warnings.catch_warnings():
            # Once, though every worker looks at the networks anew.
            warn = cache(lambda text: click.echo(f"gandid: {text}", err=True))
            warnings.showwarning = lambda text, *_, **__: warn(str(text))
            # Results say where there is no number, and what libraries will change is nothing that a user can mend.
            for kind in () if debug else (RuntimeWarning, FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", kind)
            rest = [word for word in words if word != "--debug"]
            status = app.main(rest, "gandid", standalone_mode=False, obj=words) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        status = 2
        click.echo(error.format_message(), err=True)
    except click.ClickException as error:
        status, message = 2, error.format_message()
    except (KeyboardInterrupt, click.Abort):
        message = "interrupted; what was measured is kept, and the same command goes on"
    except BrokenPipeError:  # whoever read the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        status = 2 if isinstance(error, UsageError) else 1
        message = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
        if isinstance(error, GandidError):
            message = str(error)
        elif isinstance(error, OSError) and error.strerror:  # a full disk, a folder that is not to be written to
            message = ": ".join(str(part) for part in (error.filename, error.strerror.lower()) if part)
        if debug:
            traceback.print_exc()
    if message:
        click.echo(f"gandid: {' '.join(message.split())}", err=True)
    sys.exit(status)
