"""The options of the command line: those of a study are the fields of `StudyConfig`, and help pages show them in groups."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click

from gandid.config import USUAL, StudyConfig

# Where an option is not called as its field.
FLAGS = {"targets": "--target", "inputs": "--input", "segmenter_scales": "--segmenter-scale"}
FILE = click.Path(path_type=Path)


class Option(click.Option):
    """An option that belongs to a group of the help page."""

    def __init__(self, declaration: str, group: str, text: str, *names: str, **rest: Any):
        super().__init__([*declaration.split(), *names], help=text, **rest)
        self.group = group


class Command(click.Command):
    """A command whose help page shows its options in groups."""

    def __init__(self, name: str | None, example: str, **rest: Any):
        super().__init__(name, epilog=f"\b\nExample: {example}", **rest)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)):
                groups.setdefault(getattr(option, "group", "Output"), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records, col_max=26)


def field_option(name: str, **changes: Any) -> Option:
    """The option of a field of `StudyConfig`; `changes` replace what follows from the field."""
    field = StudyConfig.model_fields[name]
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    kind, many = _kind(field.annotation)
    text, settings = field.description or "", {"type": kind, "multiple": many, "default": () if many else None}
    if kind is bool:
        settings = {"is_flag": True}
    elif name in USUAL:
        settings = {"is_flag": False, "flag_value": "usual", "type": str, "metavar": "[X,Y,...]"}
    elif name == "region":
        settings = {"type": str, "metavar": "X0,Y0,X1,Y1|FILE"}
    elif many:
        text += " Repeatable."
    if field.default and not isinstance(field.default, bool):
        text += f"  [default: {', '.join(field.default) if many else field.default}]"
    settings |= changes
    declaration = settings.pop("flag", FLAGS.get(name, "--" + name.replace("_", "-")))
    return Option(declaration, str(extra.get("group")), text, name, **settings)


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of an option's value, and whether the option may be repeated."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):
        return _kind(inner[0])
    if origin is tuple:
        return _kind(inner[0])[0], True
    return (click.Choice(inner) if origin is Literal else annotation), False


DEVICES, EXECUTORS = click.Choice(["auto", "cpu", "cuda", "mps"]), click.Choice(["local", "ray"])
DEVICE = Option("--device", "Machine", "Where the networks run.  [default: auto]", type=DEVICES, default="auto")
MEMORY = Option("--memory", "Machine", "Memory for the batches, such as 4GiB; half of what is free by default.")
RAY = [
    Option("--executor", "Machine", "In this process, or on a Ray cluster.", type=EXECUTORS, default="local"),
    Option("--address", "Machine", "Address of a running Ray cluster, or auto; one is started here by default."),
    Option("--workers", "Machine", "Number of Ray workers.  [default: 1]", type=click.IntRange(1), default=1),
    Option(
        "--gpus-per-worker", "Machine", "GPUs of each Ray worker, or a share.  [default: 0]", type=float, default=0.0
    ),
]
SHOWN = [
    Option("-v --verbose", "Output", "Print every arm, sentence and check.", is_flag=True),
    Option("-q --quiet", "Output", "Print nothing but errors.", is_flag=True),
    Option("--json", "Output", "Print the table of results as JSON.", "as_json", is_flag=True),
]
