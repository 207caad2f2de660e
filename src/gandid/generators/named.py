"""The models that have a name: one that ships with the package, and public ones that are downloaded when first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gandid.errors import UsageError
from gandid.truth import NETWORKS

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class NamedModel:
    """A generator that ships with the package (`weights`) or is downloaded (`url`).

    Parameters
    ----------
    name : str
        What `gandid.load_generator` and `--generator` take.
    resolution : int
        Height and width of its images, in pixels.
    megabytes : float
        Size of its file in units of 10**6 bytes; of a file to be downloaded, as computed from the architecture.
    source, licence : str
        Where it comes from, and what is known of its terms.
    default_layer, why : str
        The layer that a study edits unless told otherwise, and why that one.
    weights, discriminator : Path, optional
        Files of a model that ships with the package.
    segmenter : str, optional
        The embedded segmenter that knows its objects.
    units : int, optional
        How many units a study edits for each target unless told otherwise, where that is not the usual number.
    twin : str, optional
        The model of the same data and schedule that was trained without pixel normalization.
    distilled : tuple
        Networks distilled after the default layer: files (`gandid.generators.distilled`), or names of the planted standard's.
    url, sha256 : str
        Where the file of a public model is, and the hexadecimal digits with which its SHA-256 begins.
    """

    name: str
    resolution: int
    megabytes: float
    source: str
    licence: str
    default_layer: str
    why: str
    weights: Path | None = None
    discriminator: Path | None = None
    segmenter: str | None = None
    units: int | None = None
    twin: str | None = None
    distilled: tuple[str | Path, ...] = ()
    url: str = ""
    sha256: str = ""


# Where public collections are, and what is known of their terms; their files' names end in the digits of their SHA-256.
COLLECTIONS = {
    "dissect": (
        "https://dissect.csail.mit.edu/models/",
        "converted from the networks of Karras et al. 2018 (CC BY-NC 4.0): see the source",
    ),
    "ganzoo": (
        "https://dl.fbaipublicfiles.com/gan_zoo/PGAN/",
        "of the weights nothing is said; the code of PyTorch GAN Zoo is BSD 3-Clause: see the source",
    ),
}


def _public(name: str, file: str, resolution: int = 256, megabytes: float = 92.1) -> NamedModel:
    """A PG-GAN of a collection: of GAN Dissection the generator alone, of PyTorch GAN Zoo its average and discriminator, too."""
    source, licence = COLLECTIONS[name.partition("/")[0]]
    digits = file.removesuffix(".pth").rpartition("-")[2]
    about = (source, licence, "layer4", "as in Liu et al.")
    return NamedModel(name, resolution, megabytes, *about, url=source + file, sha256=digits)


def _own(name: str, weights: Path, **about: Any) -> NamedModel:
    """A model of this package, whose weights are a file of it."""
    about = {"source": "this package"} | about
    return NamedModel(name, megabytes=weights.stat().st_size / 1e6, licence="MIT", weights=weights, **about)


_ROOMS: dict[str, Any] = {"resolution": 64, "segmenter": "rooms", "default_layer": "layer4"}
_TRAININGS = {  # of the same schedule as rooms: see their card
    file.stem: _own(file.stem, file, why="as of rooms, whose training it repeats or leads to", **_ROOMS)
    for file in sorted((WEIGHTS / "rooms-trainings").glob("*.safetensors"))
}
_PLANTED = _own(
    "planted",
    Path(__file__).with_name("planted.py"),
    source="this package: written down by formula, not trained",
    resolution=8,
    segmenter="planted",
    units=1,
    twin="planted-twin",
    distilled=tuple(name for name in NETWORKS if "/" in name),
    default_layer="layer1",
    why="its units are planted there, one for each object",
)

NAMED = {
    model.name: model
    for model in (
        _own(
            "rooms",
            WEIGHTS / "rooms.safetensors",
            discriminator=WEIGHTS / "rooms-discriminator.safetensors",
            twin="rooms-twin",
            distilled=tuple(sorted((WEIGHTS / "rooms-distilled").glob("*.safetensors"))),
            why="as in Liu et al.",
            **_ROOMS,
        ),
        _own(
            "rooms-twin",
            WEIGHTS / "rooms-twin.safetensors",
            why="as of rooms, whose twin without pixel normalization it is",
            **_ROOMS,
        ),
        *_TRAININGS.values(),
        _PLANTED,
        replace(
            _PLANTED,
            name="planted-twin",
            twin=None,
            distilled=(),
            why="as of planted, whose twin without pixel normalization it is",
        ),
        _public("dissect/bedroom", "proggan_bedroom-d8a89ff1.pth"),
        _public("dissect/church", "proggan_churchoutdoor-7e701dd5.pth"),
        _public("dissect/conferenceroom", "proggan_conferenceroom-21e85882.pth"),
        _public("dissect/diningroom", "proggan_diningroom-3aa0ab80.pth"),
        _public("dissect/kitchen", "proggan_kitchen-67f1e16c.pth"),
        _public("dissect/livingroom", "proggan_livingroom-5ef336dd.pth"),
        _public("dissect/restaurant", "proggan_restaurant-b8578299.pth"),
        _public("dissect/celebahq", "proggan_celebhq-620d161c.pth", resolution=1024, megabytes=92.3),
        _public("ganzoo/celebahq-256", "celebaHQ_s6_i80000-6196db68.pth", 256, 276.6),
        _public("ganzoo/celebahq-512", "celebaHQ16_december_s7_i96000-9c72988c.pth", 512, 277.0),
        _public("ganzoo/dtd", "testDTD_s5_i96000-04efa39f.pth", 128, 275.3),
        _public("ganzoo/celeba", "celebaCropped_s5_i83000-2b0acc76.pth", 128, 275.3),
    )
}


def own_segmenter(generator: str) -> str:
    """The name of the segmenter that a generator brings. Raises `UsageError` if it brings none."""
    model = NAMED.get(generator)
    if model is None or model.segmenter is None:
        raise UsageError(
            f"{generator} brings no segmenter of its own: name one that labels its images with --segmenter"
        )
    return model.segmenter


def short_names(names: Sequence[str]) -> list[str]:
    """Names of several twins, without the folders and the ends that all of them have: `x`, `y` for `a/x/net.pt`, `a/y/net.pt`."""
    parts = [list(Path(name).parts) for name in names]
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[1:] for part in parts]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part).removesuffix(".safetensors") for part in parts]
