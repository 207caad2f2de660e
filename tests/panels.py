"""Invented panels after docs/panel.md, with planted effects, for the tests of the estimator, the report and the page."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from gandid.panel.schema import FEATURES, Classes, empty_panel
from gandid.panel.table import (
    LATENTS,
    STRENGTH,
    Block,
    Coordinates,
    dose_blocks,
    extra_blocks,
    placebo_blocks,
    ranking_blocks,
    sites_block,
    strength_blocks,
    study_block,
)

CLASSES = ("wall", "floor", "window", "painting", "lamp", "chair", "plant", "rug", "unknown")
BACKGROUND = ("wall", "floor")
SITES = ("layer5.norm", "layer6.norm", "output.norm")

# Per arm: the share of the target's original pixels that each class carries after the edit; what is left stays the target's. The keys
# are names of arms, or held sets and networks standing for every control.
Shares = Mapping[str, float]
Plan = Mapping[str, Shares] | Callable[[Coordinates], Shares]
PLAN: Mapping[str, Shares] = {
    "live": {"wall": 0.40, "painting": 0.20},
    "first": {"wall": 0.50, "painting": 0.15},
    "all": {"wall": 0.85, "painting": 0.05},
}


def make_panel(
    latents: int = 80,
    targets: Sequence[str] = ("window", "lamp"),
    *,
    controls: Sequence[str] = ("capped", "frozen"),
    holds: Sequence[str] = ("first", "all"),
    networks: Sequence[str] = (),
    doses: Sequence[float] = (),
    strengths: Sequence[float] = (),
    coalitions: bool = False,
    draws: int = 0,
    halvings: int = 0,
    plan: Plan = PLAN,
    second: Plan | None = None,
    noise: float = 0.0,
    absent: Sequence[str] = (),
    strained: Sequence[str] = (),
    classes: Sequence[str] = CLASSES,
    sites: Sequence[str] = SITES,
    size: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """Make a panel whose effects are known.

    Parameters
    ----------
    latents, targets, controls, holds, networks, classes, sites, size, seed
        Its dimensions; images are `size` x `size` pixels, networks are twins.
    doses, strengths, coalitions, draws, halvings
        Which further arms there are: doses, strengths of every held arm (with doses their products), all coalitions of sites, random
        sets of units, halvings of the ranking; measured on the first latents only.
    plan
        Shares of the target's original pixels per arm (`Plan`). Without noise they are met exactly: a target covers a multiple of 20
        pixels. Of arms that a mapping does not name, shares grow with the dose, go from those of live to those of held with the strength,
        lie between those of live and of all sites held by how many sites are, and are a fifth for random units.
    second
        The plan of what a second segmenter sees on the first 128 latents; none by default.
    noise
        Standard deviation over latents of each share, independent between arms.
    absent
        Targets that no image shows.
    strained
        Arms that leave the network's range: strained, and further from live than another dose is. Only with them have images features.
    """
    rng = np.random.default_rng(seed)
    segmenters = 1 if second is None else 2
    study = study_block([(c, h) for c in controls for h in holds], networks)
    blocks = [
        study,
        *strength_blocks(study, strengths, doses),
        *dose_blocks(study, doses),
        *(sites_block(study, sites, seed) if coalitions else ()),
    ]
    blocks += [
        *placebo_blocks(study, draws),
        *ranking_blocks(study, halvings),
        *(extra_blocks([study]) if strained else ()),
    ]
    numbers = [*range(1 + draws), *(-half for half in range(1, 2 * halvings + 1))]
    panel = _blank(blocks, targets, classes, sites, networks, numbers, segmenters, size, seed)
    arms = [arm for block in blocks for arm in block.arms]
    scene = _scenes(rng, latents, classes, absent, size * size)
    shape = (segmenters, latents, len(targets), len(arms), len(classes))
    pixels, inside, measured = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32), np.zeros(shape[:4:3], int)
    for s, seen in enumerate([plan] if second is None else [plan, second]):
        for a, arm in enumerate(arms):
            if s and not (arm in study.arms or arm.latents == LATENTS[STRENGTH]):
                continue
            n = min(latents, (128 if s else arm.latents) or latents)
            measured[s, a] = n
            for t, target in enumerate(targets):
                shares = _shares(seen, arm, len(sites)) if arm.edit else {}
                counts = _counts(rng, scene[:n], list(classes), target, shares, noise)
                pixels[s, :n, t, a], inside[s, :n, t, a] = counts
    names = [arm.name() for arm in arms]
    bad = np.isin(names, list(strained))
    held = np.array([arm.edit and arm.control != "none" and a < len(study.arms) for a, arm in enumerate(arms)])
    first = np.array([arm.held == "first" for arm in arms])
    counts = {"pixels": pixels, "inside": inside}
    rows = panel.drop_dims("latent").assign(
        {name: (("segmenter", "latent", "target", "arm", "object"), values) for name, values in counts.items()}
        | _support(rng, (latents, len(targets), len(arms)), held, first, bad, len(sites))
        | _gains(rng, latents, targets, len(arms), absent)
    )
    measured_on = {"latent": np.arange(latents), "measured": (("segmenter", "arm"), measured)}
    if bad.any():
        away = np.array([1.0 * (arm.dose == 0.8 and arm.held == "none") for arm in arms]) + 3.0 * bad
        rows = rows.assign(features=featured(rng, latents, len(targets), away))
    return rows.assign_coords(measured_on).assign_attrs(panel.attrs)


def featured(
    rng: np.random.Generator, latents: int, targets: int, away: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Features of images, of which those of each arm lie so many standard deviations from the others' along one axis."""
    shown = rng.standard_normal((latents, targets, 1, FEATURES)) + 0.3 * rng.standard_normal(
        (latents, targets, len(away), FEATURES)
    )
    shown[..., 0] = rng.standard_normal(shown.shape[:3]) + away
    return ("latent", "target", "arm", "feature"), shown.astype(np.float16)


def panel_of(inside: np.ndarray, classes: Sequence[str], target: str = "a", size: int = 20) -> xr.Dataset:
    """A panel with the arms reference, live and capped:first from what the target's original pixels carry, (latent, arm, class).

    Nothing happens elsewhere: the first class, which is background, fills the image of `size` x `size` pixels.
    """
    blank = _blank([study_block([("capped", "first")])], [target], classes, SITES[:1], [], [0], 1, size, 0)
    inside = np.asarray(inside, np.int32)[None, :, None]
    pixels = inside.copy()
    pixels[..., 0] += size * size - pixels.sum(axis=-1)
    dims = ("segmenter", "latent", "target", "arm", "object")
    measured = ("segmenter", "arm"), np.full((1, 3), inside.shape[1])
    counts = blank.drop_dims("latent").assign(pixels=(dims, pixels), inside=(dims, inside))
    return counts.assign_coords(latent=np.arange(inside.shape[1]), measured=measured).assign_attrs(blank.attrs)


def _blank(
    blocks: Sequence[Block],
    targets: Sequence[str],
    classes: Sequence[str],
    sites: Sequence[str],
    networks: Sequence[str],
    draws: Sequence[int],
    segmenters: int,
    size: int,
    seed: int,
) -> xr.Dataset:
    units = np.arange(20 * len(targets), dtype=np.int32).reshape(len(targets), 20)
    seen = Classes(tuple(classes), tuple(name for name in classes if name in BACKGROUND))
    return empty_panel(
        blocks,
        targets=targets,
        segmenters=dict.fromkeys(("synthetic", "another")[:segmenters], seen),
        sites=dict.fromkeys(sites, True),
        networks=["own", *networks],
        units=np.tile(units, (1 + len(networks), len(draws), 1, 1)),
        values=None,
        energy=np.ones((len(draws), len(targets)), np.float32),
        draws=draws,
        attrs={
            "generator": "synthetic",
            "segmenter": "synthetic",
            "layer": "layer4",
            "ablation": "zero",
            "alpha": 1.0,
            "seed": seed,
            "image_pixels": size * size,
            "presence": 0.003,
            "orders": 0,
            "orders_seed": seed,
            "version": "test",
        },
    )


def _shares(plan: Plan, arm: Coordinates, sites: int) -> Shares:
    if callable(plan):
        return plan(arm)
    label = arm.network if arm.network != "own" else "live" if arm.held == "none" else arm.held
    own = arm._replace(dose=1.0, draw=0).name()
    whole = arm._replace(dose=1.0, draw=0, strength=1.0).name()
    shares = plan.get(arm.name(), plan.get(own, plan.get(whole, plan.get(label))))
    if 0 < arm.strength < 1 and own not in plan:
        live, held, part = plan["live"], shares or {}, arm.strength
        shares = {name: (1 - part) * live.get(name, 0) + part * held.get(name, 0) for name in {**live, **held}}
    if shares is None and arm.network == "own":
        live, held, part = plan["live"], plan.get("all", {}), len(arm.held.split("+")) / sites
        shares = {name: (1 - part) * live.get(name, 0) + part * held.get(name, 0) for name in {**live, **held}}
    scale = (arm.dose if arm.name() not in plan else 1.0) * (0.2 if arm.draw else 1.0)
    return {name: scale * share for name, share in (shares or {}).items()}


def _counts(
    rng: np.random.Generator, scene: np.ndarray, classes: list[str], target: str, shares: Shares, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and those inside the target's original pixels, each (n, class)."""
    original, place = scene[:, classes.index(target)], classes.index(target)
    filled = np.zeros(scene.shape)
    for name, share in shares.items():
        if name != target:
            wanted = share + noise * rng.standard_normal(len(scene))
            filled[:, classes.index(name)] = np.rint(np.clip(wanted, 0, 1) * original)
    # Noise may ask for more than there is; the last classes then get less.
    filled = np.diff(np.minimum(np.cumsum(filled, 1), original[:, None]), axis=1, prepend=0)
    inside = filled.astype(np.int32)
    inside[:, place] += (original - filled.sum(1)).astype(np.int32)
    outside = scene.copy()
    outside[:, place] = 0
    return outside + inside, inside


def _scenes(
    rng: np.random.Generator, latents: int, classes: Sequence[str], absent: Sequence[str], total: int
) -> np.ndarray:
    """Scenes: objects cover multiples of 20 pixels or are absent, floor a quarter, wall the rest."""
    scene = np.zeros((latents, len(classes)), np.int64)
    for i, name in enumerate(classes):
        if name in (*BACKGROUND, "unknown", *absent):
            continue
        scene[:, i] = 20 * rng.integers(1, total // 20 // 12, latents) * (rng.random(latents) < 0.7)
    if "unknown" in classes:
        scene[:, classes.index("unknown")] = rng.binomial(total // 100, 0.2, latents)
    if "floor" in classes:
        scene[:, classes.index("floor")] = total // 4
    scene[:, classes.index("wall")] += total - scene.sum(1)
    return scene


def _support(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    held: np.ndarray,
    first: np.ndarray,
    bad: np.ndarray,
    sites: int,
) -> dict[str, tuple]:
    latents = shape[0]
    scale = np.where(bad, 2.0, 0.2) * held
    strain = np.abs(rng.normal(1, 0.1, (*shape, sites, 1))) * scale[:, None, None] * np.array([-1.0, 0.0, 0.8])
    strain[:, :, first, 1:] = 0
    moves = rng.gamma(20, 0.03, (latents, sites))
    return {
        "strain": (("latent", "target", "arm", "site", "quantile"), strain.astype(np.float32)),
        "range": (("latent", "site"), moves.astype(np.float32)),
    }


def _gains(
    rng: np.random.Generator, latents: int, targets: Sequence[str], arms: int, absent: Sequence[str]
) -> dict[str, tuple]:
    shown = ~np.isin(targets, list(absent))
    gain = np.where(shown, 1.3 + 0.1 * rng.random((latents, len(targets))), np.nan)
    placebo = np.full((latents, len(targets)), np.nan)
    placebo[:8] = 0
    gap = np.full((latents, arms), np.nan)
    gap[:8] = 1e-6
    per_target = ("latent", "target")
    return {
        "gain": (per_target, gain.astype(np.float32)),
        "gain_outside": (per_target, np.full_like(gain, 1.02, dtype=np.float32)),
        "gain_error": (per_target, (1e-5 * rng.random(gain.shape)).astype(np.float32)),
        "placebo_gap": (per_target, placebo.astype(np.float32)),
        "baseline_gap": (("latent", "arm"), gap.astype(np.float32)),
    }
