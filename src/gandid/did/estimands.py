"""From a panel to per-latent contributions: what each arm says about each outcome of each pair.

Every outcome, mean or ratio, is here a ratio of sums ``sum(numerator) / sum(denominator)`` over latents; a
mean outcome's denominator is 1. This lets one piece of inference serve all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from gandid import outcomes

NEEDED = ("pixels", "inside")


@dataclass(frozen=True)
class Held:
    """An arm whose sites are held, and the arm that is its unedited image."""

    name: str
    control: str
    held: str
    baseline: str


@dataclass(frozen=True)
class Contribution:
    """Per-latent parts of ``tau = Y(edited) - Y(unedited)`` of an arm, an outcome and a target."""

    numerator: np.ndarray
    """Shape (N, C), one column per class."""
    denominator: np.ndarray
    """Shape (N,): ones for mean outcomes, the target's original pixels for ratios."""

    @property
    def tau(self) -> np.ndarray:
        """The arm's effect, shape (C,); NaN where the denominators sum to 0."""
        total = self.denominator.sum()
        return self.numerator.sum(0) / total if total > 0 else np.full(self.numerator.shape[1], np.nan)

    @property
    def values(self) -> np.ndarray:
        """Per-latent values whose mean is `tau`, shape (N, C)."""
        mean = self.denominator.mean() if len(self.denominator) else 0.0
        return self.numerator / mean if mean > 0 else np.full(self.numerator.shape, np.nan)

    def take(self, latents: np.ndarray | slice) -> "Contribution":
        """The same of some of the latents."""
        return Contribution(self.numerator[latents], self.denominator[latents])


def prepare(panel: xr.Dataset) -> xr.Dataset:
    """Check a panel, and sort it by latent, so that no result depends on the order of storage.

    Raises
    ------
    ValueError
        If a variable, an arm or an attribute that every estimate needs is absent, a target is no class, or
        the panel has no latent.
    """
    if not isinstance(panel, xr.Dataset):
        raise ValueError(f"a panel is an xarray.Dataset, not {type(panel).__name__}")
    for name in NEEDED:
        if name not in panel:
            raise ValueError(f"the panel has no variable '{name}'")
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
    return panel.sortby("latent") if "latent" in panel.coords else panel


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


def showing(panel: xr.Dataset, target: str) -> np.ndarray:
    """Whether each latent's unedited image shows the target: at least the panel's `presence` of it; (N,)."""
    counts = panel["pixels"].sel(target=target, arm="reference", object=target).values
    return (counts > 0) & (counts >= presence(panel) * int(panel.attrs["image_pixels"]))


def presence(panel: xr.Dataset) -> float:
    """Share of the image from which a class counts as present."""
    return float(panel.attrs.get("presence", 0.003))


def contributions(panel: xr.Dataset, target: str, arm: str, baseline: str) -> dict[str, Contribution]:
    """The five outcomes of one edited arm against its unedited one.

    Parameters
    ----------
    panel
        As `prepare` returns it.
    target, arm, baseline
        The target; the names of the edited and the unedited arm.

    Returns
    -------
    dict of str to Contribution
        By outcome. `removed` is given for every class but means the target alone; `inpainted` is 0 for the
        target.
    """
    size = int(panel.attrs["image_pixels"])
    classes = list(panel["object"].values.astype(str))
    index = classes.index(target)

    def counts(name: str, of: str) -> np.ndarray:
        return panel[name].sel(target=target, arm=of).transpose("latent", "object").values.astype(np.float64)

    pixels, inside = counts("pixels", arm), counts("inside", arm)
    pixels0, inside0 = counts("pixels", baseline), counts("inside", baseline)
    ones = np.ones(len(pixels))
    gone = outcomes.removed(inside, index)
    filled = outcomes.inpainted(inside, index)
    return {
        "area": Contribution(outcomes.area(pixels - pixels0, size), ones),
        "removed": Contribution(np.repeat(gone.numerator[:, None], len(classes), 1), gone.denominator),
        "inpainted": Contribution(filled.numerator, filled.denominator),
        "collateral": Contribution(
            outcomes.collateral(pixels, inside, size) - outcomes.collateral(pixels0, inside0, size), ones
        ),
        "emerged": Contribution(outcomes.emerged(pixels0, pixels, size, presence(panel)), ones),
    }


def pairs(panel: xr.Dataset) -> Iterator[tuple[str, Held, str, Contribution, Contribution]]:
    """Every (target, held arm, outcome) of a panel with the contributions of the live and of the held arm."""
    arms = held_arms(panel)
    for target in panel["target"].values.astype(str):
        live = contributions(panel, target, "live", "reference")
        for arm in arms:
            held = contributions(panel, target, arm.name, arm.baseline)
            for outcome in outcomes.OUTCOMES:
                yield target, arm, outcome, live[outcome], held[outcome]


def rows(outcome: str, kind: np.ndarray) -> np.ndarray:
    """Indices of the classes that an outcome is about: `removed` the target, `inpainted` the others."""
    if outcome == "removed":
        return np.flatnonzero(kind == "target")
    if outcome == "inpainted":
        return np.flatnonzero(kind != "target")
    return np.arange(len(kind))
