"""The configuration of a study: what the user asked for, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gandid.errors import UsageError
from gandid.relation.measures import Ranking, Threshold

Control = Literal["capped", "frozen", "mean", "twin"]
Precision = Literal["fp32", "bf16"]
Share = Annotated[float, Field(ge=0, le=1)]

DOSES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class TypeBounds(BaseModel):
    """What makes a target `type-1`, `type-2` or `disentangled` (THEORY, "Unit-object relation"); all are shares.

    `type-1` if less than `removed` of it is removed, or the edited units carry less than `concentration` of the positive ACE on
    it; otherwise `type-2` if other objects in-paint at least `inpainted` of its original pixels, and `disentangled` if not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    removed: Share = 0.8
    concentration: Share = 0.5
    inpainted: Share = 0.05


class StudyConfig(BaseModel):
    """What to study. Its defaults are those of `gandid run`.

    `targets` None means every object class of the segmenter; as a mapping it names the units of each target. `units` None
    means 20, or a fifth of the layer's units if that is fewer. `layer` None means the named model's default. The segmenter's
    input size, scales and `background` None mean its own, see `gandid.load_segmenter`. `twin` names the generators of the control
    `twin`; none means the named model's own. `ranking` says how the units are chosen
    and `iou_threshold` where a unit counts as active, see `gandid.relation.relate`. `figure` asks for the paper's figure, and so
    for what it shows beside the effects: the relation after each ablation, and insertion. `sites`, `dose` and `placebos` ask for the
    study under variants of its design (docs/credibility.md): all sets of sites, partial ablation by each share in `dose` (true
    stands for 0, 0.1, ..., 1), and so many random sets of units. `second_segmenter` None means the named one's own second, if it
    has one. With `until`, a half-width as a share of the target's original pixels, `latents` are measured first and then more, up
    to `max_latents`, until `gandid.did.stopping` is content. `chunk` is `K/N`: only the K-th of N
    equal parts of the latents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str = "rooms"
    segmenter: str = "rooms"
    segmenter_size: Annotated[int, Field(gt=0)] | None = None
    segmenter_scales: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    background: tuple[str, ...] | None = None
    layer: str | None = None
    targets: tuple[str, ...] | dict[str, tuple[int, ...]] | None = None
    units: Annotated[int, Field(gt=0)] | None = None
    control: Annotated[tuple[Control, ...], Field(min_length=1)] = ("capped", "frozen")
    twin: tuple[str, ...] = ()
    hold: Annotated[tuple[str, ...], Field(min_length=1)] = ("first", "all")
    ablation: Literal["zero", "mean", "resample"] = "zero"
    alpha: Share = 1.0
    latents: Annotated[int, Field(gt=0)] = 512
    until: Annotated[float, Field(gt=0)] | None = None
    max_latents: Annotated[int, Field(gt=0)] = 20_000
    ranking: Ranking = "exact"
    ranking_latents: Annotated[int, Field(gt=0)] = 128
    iou_threshold: Threshold = "quantile"
    types: TypeBounds = TypeBounds()
    figure: bool = False
    sites: Literal["shapley"] | None = None
    dose: tuple[Share, ...] = ()
    placebos: Annotated[int, Field(ge=0)] = 0
    second_segmenter: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Precision = "fp32"
    chunk: str | None = None

    @field_validator("targets", "control", "twin", "hold", "background", mode="before")
    @classmethod
    def _one_is_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("control", "twin", "hold", "targets")
    @classmethod
    def _once_each(cls, value: Any) -> Any:
        return tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value

    @field_validator("dose", mode="before")
    @classmethod
    def _usual_doses(cls, value: Any) -> Any:
        return (DOSES if value else ()) if isinstance(value, bool) else value

    @field_validator("chunk")
    @classmethod
    def _one_of_many(cls, value: str | None) -> str | None:
        if value is not None:
            k, _, n = value.partition("/")
            if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
                raise ValueError("write K/N with K from 1 to N, such as 3/8")
        return value

    @model_validator(mode="after")
    def _some_for_each(self) -> StudyConfig:
        if self.twin and "twin" not in self.control:
            raise ValueError("a twin is named, but not the control twin: add --control twin")
        if not self.numbers():
            raise ValueError(f"{self.latents} latents are too few for so many parts")
        if self.chunk is not None and (self.sites or self.dose or self.placebos):
            raise ValueError(
                "sites, doses and placebos are measured of a whole study: leave out --chunk, or add them to the merged run"
            )
        if self.until is not None and self.chunk is not None:
            raise ValueError(
                "no part of a study can tell when the whole is precise enough: leave out --until or --chunk"
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
    def check(cls, **values: Any) -> StudyConfig:
        """Build a configuration; a bad value raises `UsageError` with one line."""
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            told = first["msg"].removeprefix("Value error, ")
            where = ".".join(str(part) for part in first["loc"])
            if where:
                told = f"{where}: {told[0].lower()}{told[1:]} (got {first['input']!r})"
            raise UsageError(told) from error

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> StudyConfig:
        """Read a YAML file; `overrides` win over what it says."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the configuration {path}: {error}") from error
        except yaml.YAMLError as error:
            raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{path} holds no configuration: it should be lines like 'layer: layer4'")
        # The config.yaml of a finished run also says what was resolved; that part is not asked for again.
        asked = {key: value for key, value in values.items() if key != "resolved"}
        return cls.check(**{**asked, **overrides})
