"""The configuration of a study: what the user asks for, checked. One declaration serves the command line, YAML, Python and page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from gandid.errors import UsageError, did_you_mean
from gandid.verdicts import RELEVANT

Control = Literal["capped", "frozen", "mean", "distilled", "twin"]
Dtype = Literal["fp32", "tf32", "bf16"]
Ranking = Literal["exact", "screened", "optimized"]
Threshold = Literal["quantile", "maximizing"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]

# The fields that name the networks and the layer.
NETWORKS = ("generator", "inputs", "segmenter", "segmenter_size", "segmenter_scales", "background", "layer")
# What `--dose` and `--strength` mean without values.
USUAL = {"dose": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "strength": (0.1, 0.25, 0.5, 0.75, 1.0)}


def _field(default: Any, group: str, description: str, **rules: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **rules)


class TypeBounds(BaseModel):
    """What makes a target `type-1`, `type-2` or `disentangled` (docs/relation.md, "Concentration and types"); all are shares.

    A target is `type-1` if less than `removed` of it is removed, or the edited units carry less than `concentration` of the positive
    ACE on it. Otherwise it is `type-2` if other objects in-paint at least `inpainted` of its original pixels, and `disentangled` if not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    removed: Share = 0.8
    concentration: Share = 0.5
    inpainted: Share = 0.05


class StudyConfig(BaseModel):
    """What to study. Its defaults are those of `gandid run`; the description of each field says what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    generator: str = _field(
        "rooms", "What", "Generator to study: the name of a model, a checkpoint, or FILE.py:FACTORY."
    )
    inputs: tuple[str, ...] = _field(
        (), "What", "What a FILE.py:FACTORY takes beside latents: label=0..9 draws a class, label=3 fixes it."
    )
    segmenter: str = _field(
        "",
        "What",
        "Segmenter that labels the images: a name, a Hugging Face folder or model id, or FILE.py:FACTORY; "
        "an embedded generator's own by default.",
    )
    segmenter_size: Positive | None = _field(
        None, "What", "Input size of a Hugging Face segmenter in pixels; its own by default."
    )
    segmenter_scales: tuple[Annotated[float, Field(gt=0)], ...] | None = _field(
        None, "What", "Scales of that size over which a Hugging Face segmenter's probabilities are averaged."
    )
    background: tuple[str, ...] | None = _field(
        None, "What", "Classes that fill any hole, such as wall or sky; the segmenter's own list by default."
    )
    layer: str | None = _field(None, "What", "Layer whose units are edited; the model's default layer by default.")
    targets: tuple[str, ...] | dict[str, tuple[int, ...]] | None = _field(
        None, "What", "Object to edit, or OBJECT=UNIT,UNIT,... to name its units; every object by default."
    )
    units: Positive | None = _field(
        None, "What", "Number of units to edit per target; 20 by default, or a fifth of the layer if that is fewer."
    )
    edit: Literal["ablate", "insert"] = _field(
        "ablate",
        "What",
        "ablate takes the object away; insert sets its units, in the --region of every image, to their means where it is "
        "seen, held by frozen first.",
    )
    ablation: Literal["zero", "mean", "resample"] = _field(
        "zero", "What", "Value that ablated units are moved to: zero, their mean, or their value for another latent."
    )
    region: tuple[Share, Share, Share, Share] | str | None = _field(
        None,
        "What",
        "Limit the edit to X0,Y0,X1,Y1 of every image, shares of its width and height, or to where a mask of its size "
        "(a picture, or .npy) is not black; all of it by default.",
    )
    alpha: Share = _field(1.0, "What", "Share of the way to that value: 1 is the full edit.")
    ranking: Ranking | None = _field(
        None,
        "What",
        "How the units of a target are found: by the exact effect of each, by screening, or by optimization; "
        "screening by default where the segmenter can be differentiated, else exact.",
    )
    iou_threshold: Threshold = _field(
        "quantile",
        "What",
        "Activation from which a unit counts as active: its top 1 %, or the one with the largest IoU.",
    )
    latents: Positive = _field(
        512, "How many", "Number of latents for the effects; with --until, the number before the first look."
    )
    until: Annotated[float, Field(gt=0, lt=1)] | None = _field(
        None, "How many", "Go on until every half-width is at most this share of the target's pixels, such as 0.005."
    )
    max_latents: Positive = _field(20_000, "How many", "Largest number of latents that --until may reach.")
    ranking_latents: Positive = _field(
        128, "How many", "Number of latents for ranking the units; others than those for the effects."
    )
    seed: Annotated[int, Field(ge=0, lt=2**64)] = _field(0, "How many", "Random seed for the latents.")
    chunk: str | None = _field(
        None, "How many", "Measure only part K of N equal parts of the latents, written K/N, to be merged later."
    )
    control: Annotated[tuple[Control, ...], Field(min_length=1)] = _field(
        ("capped", "frozen"),
        "Controls",
        "How held normalizations get their statistic: capped, frozen or mean; or other networks: distilled, or twin.",
    )
    twin: tuple[str, ...] = _field(
        (), "Controls", "Generator trained without the normalization, for the control twin; the model's own by default."
    )
    distilled: tuple[str, ...] = _field(
        (), "Controls", "File or folder made by 'gandid distil', for the control distilled; the model's own by default."
    )
    hold: Annotated[tuple[str, ...], Field(min_length=1)] = _field(
        ("first", "all"), "Controls", "Normalizations to hold: first, all, or names of sites joined by +."
    )
    relevant: Annotated[float, Field(ge=0.0005, lt=1)] = _field(
        RELEVANT,
        "Credibility",
        "Smallest effect of interest, a share of the object's pixels, by which verdicts are passed.",
    )
    figure: bool = _field(
        False,
        "Credibility",
        "Also measure the unit-object relation after each ablation, and the insertion of each object.",
    )
    sites: Literal["shapley"] | None = _field(
        None, "Credibility", "Share each effect out among the normalizations by Shapley values."
    )
    dose: tuple[Share, ...] = _field(
        (), "Credibility", "Also edit partially, at doses from 0 to 1; 0, 0.1, ..., 1 without values."
    )
    strength: tuple[Share, ...] | None = _field(
        None,
        "Controls",
        "Also hold partly, from 0 (live) to 1 (fully held): by default one held set at 0.25 and 0.5; without values all at "
        "0.1, 0.25, 0.5 and 0.75.",
    )
    placebos: Annotated[int, Field(ge=0)] = _field(
        0, "Credibility", "Number of random sets of units to edit as well, matched in size and energy."
    )
    halvings: Annotated[int, Field(ge=0, le=20)] = _field(
        1,
        "Credibility",
        "Number of times that the ranking's latents are halved at random: what the units of either half do is measured, too.",
    )
    second_segmenter: str | None = _field(
        None, "Credibility", "Second segmenter that labels the same images; the embedded segmenters bring their own."
    )
    types: TypeBounds = _field(
        TypeBounds.model_construct(), "Credibility", "Bounds that make a target type-1, type-2 or disentangled."
    )
    soft: bool = _field(
        False, "Credibility", "Count the segmenter's probabilities instead of its labels, where it gives them."
    )
    dtype: Dtype = _field(
        "fp32", "Machine", "Arithmetic of the networks: fp32, or, where it is faster, tf32 (NVIDIA GPUs) or bf16."
    )

    @model_validator(mode="before")
    @classmethod
    def _frozen_first(cls, values: Any) -> Any:
        # What is inserted is more to divide by, which `capped` lets a site do.
        inserts = isinstance(values, dict) and values.get("edit") == "insert"
        return {"control": ("frozen", "capped"), **values} if inserts else values

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        # An unquoted yes or no in YAML.
        if isinstance(value, bool) and info.field_name not in ("figure", "soft", *USUAL):
            raise ValueError("give a number, or a name in quotes")
        return value

    @field_validator(
        "inputs", "targets", "control", "twin", "distilled", "hold", "background", "segmenter_scales", mode="before"
    )
    @classmethod
    def _one_is_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, int, float)) else value

    @field_validator("region", mode="before")
    @classmethod
    def _four_shares(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) and not Path(value).suffix[1:].isalpha() else value

    @field_validator("region")
    @classmethod
    def _spanned(cls, value: Any) -> Any:
        if isinstance(value, tuple) and not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError(
                "write X0,Y0,X1,Y1 with X0 less than X1 and Y0 less than Y1, such as 0,0.5,1,1 for the lower half"
            )
        return value

    @field_validator("control", "twin", "distilled", "hold", "targets")
    @classmethod
    def _once_each(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value

    @field_validator("dose", "strength", mode="before")
    @classmethod
    def _usual(cls, value: Any, info: ValidationInfo) -> Any:
        usual = USUAL[str(info.field_name)]
        if isinstance(value, str):
            return usual if value == "usual" else tuple(value.split(","))
        return (usual if value else ()) if isinstance(value, bool) else value

    @field_validator("dose", "strength")
    @classmethod
    def _rising(cls, value: tuple[float, ...] | None, info: ValidationInfo) -> tuple[float, ...] | None:
        if value and max(value) == 0:
            raise ValueError("choose values between 0 and 1, one of them above 0")
        return value if value is None else tuple(sorted(set(value)))

    @field_validator("chunk")
    @classmethod
    def _part_of_whole(cls, value: str | None) -> str | None:
        if value is not None:
            k, _, n = value.partition("/")
            if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
                raise ValueError("write K/N with K from 1 to N, such as 3/8")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> StudyConfig:
        if self.twin and "twin" not in self.control:
            raise ValueError("a twin is named, but not the control twin: add --control twin")
        if self.distilled and "distilled" not in self.control:
            raise ValueError("distilled networks are named, but not their control: add --control distilled")
        if self.edit == "insert" and self.region is None:
            raise ValueError("an insertion needs a place: name it with --region, such as 0,0.6,1,1")
        if self.edit == "insert" and (self.figure or self.ablation != "zero"):
            raise ValueError(
                "ablation and figure are of objects that are taken away: leave them out with --edit insert"
            )
        if not self.numbers():
            raise ValueError(f"{self.latents} latents are too few for so many parts")
        if self.chunk is not None and (self.sites or self.dose or self.strength or self.placebos):
            raise ValueError(
                "sites, doses, strengths and placebos are measured of a whole study: leave out --chunk, or add them to the merged run"
            )
        if self.until is not None and self.chunk is not None:
            raise ValueError(
                "part of a study cannot tell when the whole is precise enough: leave out --until or --chunk"
            )
        if self.until is not None and self.latents > self.max_latents:
            raise ValueError(
                f"{self.latents} latents are more than the {self.max_latents} allowed: raise --max-latents"
            )
        return self

    def numbers(self) -> range:
        """The latents to measure."""
        k, n = map(int, (self.chunk or "1/1").split("/"))
        return range((k - 1) * self.latents // n, k * self.latents // n)

    @classmethod
    def check(cls, source: str | Path = "", /, **values: Any) -> StudyConfig:
        """Build a configuration.

        Parameters
        ----------
        source : str or Path
            File that the values are from, for the error to name.
        **values
            The fields.

        Raises
        ------
        UsageError
            If a field is unknown or a value is not allowed, in one line.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            line = _in_a_line(error)
            raise UsageError(f"{source}: {line}" if source else line) from error

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> StudyConfig:
        """Read a YAML file; `overrides` win over what it says."""
        import yaml  # the command line is quicker without

        try:
            text = path.read_text(encoding="utf-8")
            values, twice = yaml.safe_load(text) or {}, _key_given_twice(yaml.compose(text, yaml.SafeLoader))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read the configuration {path}: {reason}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is no YAMLError
            raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if twice:
            raise UsageError(f"{path}: {twice}: only the last would count")
        if not isinstance(values, dict):
            raise UsageError(f"{path} holds no configuration: it should be lines like 'layer: layer4'")
        # The config.yaml of a run also says what was resolved; that part is not asked for again.
        asked = {str(key): value for key, value in values.items() if key != "resolved"}
        return cls.check(path, **{**asked, **overrides})


def _key_given_twice(node: Any, above: str = "") -> str:
    """Which key is twice in a mapping of a YAML document, in words; "" if none is."""
    seen = dict[str, int]()
    for pair in node.value if isinstance(getattr(node, "value", None), list) else []:
        key, value = pair if isinstance(pair, tuple) else (None, pair)
        name, line = getattr(key, "value", None), pair[0].start_mark.line + 1 if key else 0
        if isinstance(name, str):
            if name in seen:
                return f"'{above}{name}' is given twice, in lines {seen[name]} and {line}"
            seen[name] = line
        if found := _key_given_twice(value, f"{above}{name}." if key else above):
            return found
    return ""


# What is wrong with a value, by pydantic's name for it: the beginnings of their names, and a person's words.
WORDS = {
    "literal_error": "choose {expected}",
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "missing": "write X0,Y0,X1,Y1",
    "too_short": "name at least one",
    "too_long": "name fewer",
    "int_": "give a whole number",
    "float_": "give a number",
    "bool_": "say true or false",
    "string_": "give text, in quotes where it looks like something else",
    "tuple_": "give a list",
    "model_": "give settings by name",
}


def _in_a_line(error: ValidationError) -> str:
    """The first thing that is wrong with a configuration."""
    every = error.errors()
    # Where a value may be of several types, what is meant is the one that fits furthest.
    first = max((one for one in every if one["loc"][:1] == every[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    place = ".".join(str(part) for part in first["loc"][: 2 if first["loc"][:1] == ("types",) else 1])
    if first["type"] == "extra_forbidden":
        known = StudyConfig.model_fields if len(first["loc"]) == 1 else TypeBounds.model_fields
        return f"unknown setting '{place}'{did_you_mean(str(first['loc'][-1]), known).rstrip(':')}"
    words = next((text for kind, text in WORDS.items() if first["type"].startswith(kind)), None)
    given = first.get("ctx", {}).items()
    bounds = {name: f"{value:g}" if isinstance(value, float) else value for name, value in given}
    message = words.format(**bounds) if words else first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}, not {first['input']!r}" if place else message
