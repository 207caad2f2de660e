"""What a panel must have, and what its arms and classes are to a target."""

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

NEEDED = ("pixels", "inside")


@dataclass(frozen=True)
class Held:
    """An arm whose sites are held, and the arm that is its unedited image."""

    name: str
    control: str
    held: str
    baseline: str


def prepare(panel: xr.Dataset) -> xr.Dataset:
    """Check a panel; nothing along `latent` is read.

    Raises
    ------
    ValueError
        If a variable, an arm or an attribute that every estimate needs is absent, counts are no whole numbers, a target is
        no class, or the panel has no latent.
    """
    if not isinstance(panel, xr.Dataset):
        raise ValueError(f"a panel is an xarray.Dataset, not {type(panel).__name__}")
    for name in NEEDED:
        if name not in panel:
            raise ValueError(f"the panel has no variable '{name}'")
        if panel[name].dtype.kind not in "iu":
            raise ValueError(f"the panel's '{name}' are {panel[name].dtype}, not whole numbers of pixels")
    if "image_pixels" not in panel.attrs:
        raise ValueError("the panel has no attribute 'image_pixels'")
    if panel.sizes["latent"] == 0:
        raise ValueError("the panel has no latent")
    names = [str(name) for name in panel["arm"].values]
    for name in ("reference", "live"):
        if name not in names:
            raise ValueError(f"the panel has no arm '{name}'")
    classes = set(panel["object"].values.astype(str))
    for target in panel["target"].values.astype(str):
        if target not in classes:
            raise ValueError(f"the panel's target '{target}' is not among its classes")
    return panel


def ranks(panel: xr.Dataset) -> np.ndarray:
    """Each latent's place among all by number, so that no result depends on the order of storage; shape (N,)."""
    total = panel.sizes["latent"]
    place = np.arange(total)
    if "latent" in panel.coords:
        place[np.argsort(panel["latent"].values, kind="stable")] = np.arange(total)
    return place


def held_arms(panel: xr.Dataset) -> list[Held]:
    """The arms that hold sites under the edit, in the panel's order, each with its baseline.

    The baseline is ``CONTROL:HELD/unedited`` where the panel has it, else ``reference``, which for the
    capped and the frozen control is the same image.
    """
    names = [str(name) for name in panel["arm"].values]
    arms = []
    for name, edit, control, held in zip(
        names, panel["edit"].values, panel["control"].values, panel["held"].values, strict=True
    ):
        if edit and str(held) != "none":
            unedited = f"{name}/unedited"
            arms.append(Held(name, str(control), str(held), unedited if unedited in names else "reference"))
    return arms


def kinds(panel: xr.Dataset, target: str) -> np.ndarray:
    """What each class is to a target: ``target``, ``object``, ``background`` or ``unknown``; shape (C,)."""
    background = panel["background"].values
    return np.array(
        [
            "target" if name == target else "unknown" if name == "unknown" else "background" if hidden else "object"
            for name, hidden in zip(panel["object"].values.astype(str), background, strict=True)
        ]
    )


def units(panel: xr.Dataset, target: str) -> tuple[int, ...]:
    """The units that are edited of a target, best first; none where the panel does not name them."""
    if "units" not in panel:
        return ()
    return tuple(int(unit) for unit in panel["units"].sel(target=target).values if unit >= 0)


def present(panel: xr.Dataset) -> int:
    """Pixels from which a class counts as present: the panel's `presence`, a share of the image."""
    return math.ceil(float(panel.attrs.get("presence", 0.003)) * int(panel.attrs["image_pixels"]))


def rows(outcome: str, kind: np.ndarray) -> np.ndarray:
    """Indices of the classes that an outcome is about: `removed` the target, `inpainted` the others."""
    if outcome == "removed":
        return np.flatnonzero(kind == "target")
    if outcome == "inpainted":
        return np.flatnonzero(kind != "target")
    return np.arange(len(kind))
