"""An invented run folder: rooms whose objects are cut out and filled from other rooms, arm by arm.

Nothing here went through a generator. It has what a real run has, and what a report must cope with: an arm
out of support (glowing rims), two arms that are the same, a target that no image shows, an `unknown` class.
"""

from pathlib import Path

import numpy as np
import xarray as xr
import yaml
from scipy import ndimage

from gandid import did
from gandid.relation import types
from gandid.relation.after import Own, compare
from gandid.scenes import rooms
from gandid.studies.config import TypeBounds

SIZE = 64
GRID = 8  # positions of the edited layer's map, per axis
UNITS = 32
TOP = 8
EXAMPLES = 6
RANKED = 30  # latents of the ranking
PLACES = 6  # most activating images per unit
COMMAND = "gandid run --generator rooms --layer layer4 --seed 0 --out runs/demo"
CLASSES = (*rooms.CLASSES, "unknown", "mirror")
SITES = ("layer5.norm", "layer6.norm", "output.norm")
ARMS = ("reference", "live", "capped:first", "capped:all", "frozen:first", "frozen:all")
# Share of the target that goes in each arm: what normalization repairs, or does not.
GONE = {
    "window": (0.61, 0.64, 0.998, 0.35),
    "painting": (0.36, 0.37, 0.36, 0.30),
    "lamp": (0.97, 0.985, 0.997, 0.80),
    "plant": (0.57, 0.60, 0.77, 0.50),
}


def write(
    folder: Path,
    targets: tuple[str, ...] = ("window", "painting", "lamp", "plant", "mirror"),
    latents: int = 160,
) -> Path:
    """Write the run; `mirror` is a class that no room contains."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    rendered, drawn = rooms.render(latents, SIZE, seed=11)
    images = ((rendered.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    labels = drawn.numpy().astype(np.uint8)
    worlds = {target: _arms(images, labels, target, rng) for target in targets}
    panel = _panel(worlds, labels, rng)
    panel.to_zarr(folder / "panel.zarr", mode="w", zarr_format=2)
    effects = did.estimate(panel)
    effects.to_frame().to_csv(folder / "effects.csv", index=False)
    effects.checks.to_csv(folder / "checks.csv", index=False)
    relation = _relation(targets, images, rng)
    measures = relation[["ace", "ace_se", "iou", "energy", "exact"]]
    measures.to_dataframe().reset_index().to_csv(folder / "relation.csv", index=False)
    relation.to_zarr(folder / "relation.zarr", mode="w", zarr_format=2)
    types.types(panel, relation, TypeBounds()).to_csv(folder / "types.csv", index=False)
    edits = {target: [int(unit) for unit in panel["units"].sel(target=target)] for target in targets}
    _after(relation, edits, rng).to_zarr(folder / "after.zarr", mode="w", zarr_format=2)
    _insertion(images, labels, edits).to_zarr(folder / "insertion.zarr", mode="w", zarr_format=2)
    _examples(folder / "examples.npz", worlds, labels, rng)
    config = {
        "generator": "rooms",
        "segmenter": "rooms",
        "layer": "layer4",
        "targets": list(targets),
        "units": TOP,
        "control": ["capped", "frozen"],
        "hold": ["first", "all"],
        "latents": latents,
        "ranking_latents": 128,
        "ablation": "zero",
        "alpha": 1.0,
        "seed": 0,
        "weights": {"generator": "0c1d" * 16, "segmenter": "9f2a" * 16},
        "version": "0.1.0",
        "command": COMMAND,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def _arms(
    images: np.ndarray, labels: np.ndarray, target: str, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of every arm of one target."""
    n = len(images)
    mask = labels == CLASSES.index(target)
    # The same field for all arms: where more goes, what went with less goes too.
    field = ndimage.zoom(rng.random((n, 9, 9)), (1, SIZE / 9, SIZE / 9), order=1)
    field += rng.normal(0, 0.12, (n, 1, 1))
    rank = np.argsort(np.argsort(field.ravel())).reshape(field.shape) / field.size
    kind = ndimage.zoom(rng.random((n, 5, 5)), (1, SIZE / 5, SIZE / 5), order=1)
    other = np.roll(np.arange(n), 1 + n // 3)
    shares = GONE.get(target, (0.9, 0.9, 0.9, 0.9))
    by_name = dict(zip(("live", "capped:first", "capped:all", "frozen:all"), shares, strict=True))
    by_name["frozen:first"] = by_name["capped:first"]
    worlds = {"reference": (images, labels)}
    for name in ARMS[1:]:
        hole = mask & (rank < by_name[name])
        # With normalization free, a little more of the other room shows than with all sites capped.
        foreign = kind < {"live": 0.62, "capped:all": 0.45}.get(name, 0.6)
        wall = np.median(images[:, :10].reshape(n, -1, 3), axis=1).astype(np.uint8)[:, None, None, :]
        fill = np.where(foreign[..., None], images[other], wall)
        fill_labels = np.where(foreign, labels[other], CLASSES.index("wall"))
        picture = np.where(hole[..., None], fill, images)
        found = np.where(hole, fill_labels, labels).astype(np.uint8)
        if name == "frozen:all":
            wide = ndimage.binary_dilation(mask, iterations=3, structure=np.ones((1, 3, 3), bool))
            rim = wide & ~ndimage.binary_erosion(mask, iterations=2, structure=np.ones((1, 3, 3), bool))
            picture = np.where(rim[..., None], np.uint8([255, 244, 190]), picture)
            # A closed set of classes calls the rims window; half of them it knows nothing about.
            painted = np.where(rng.random(rim.shape) < 0.5, CLASSES.index("window"), CLASSES.index("unknown"))
            found = np.where(rim, painted, found).astype(np.uint8)
        worlds[name] = (picture, found)
    return worlds


def _panel(
    worlds: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], labels: np.ndarray, rng: np.random.Generator
) -> xr.Dataset:
    targets, n, c = list(worlds), len(labels), len(CLASSES)
    shape = (n, len(targets), len(ARMS))
    pixels, inside = np.zeros((*shape, c), np.int32), np.zeros((*shape, c), np.int32)
    realism = rng.normal(0.4, 0.5, (n, 1, 1)) + rng.normal(0, 0.1, shape)
    strain = rng.normal(0, 0.02, (*shape, len(SITES), 3))
    gain, outside = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
    gain_map = np.ones((len(targets), GRID, GRID))
    inpainted = np.zeros((len(targets), len(ARMS), SIZE, SIZE))
    objects = [i for i, name in enumerate(CLASSES) if name not in (*rooms.BACKGROUND, "unknown")]
    for t, target in enumerate(targets):
        index = CLASSES.index(target)
        mask = labels == index
        gain_map[t] = 1.04 + _coarse(mask).mean(0)
        gain[:, t] = np.where(mask.any((1, 2)), 1.31 + rng.normal(0, 0.05, n), np.nan)
        outside[:, t] = 1.04 + rng.normal(0, 0.01, n)
        for a, name in enumerate(ARMS):
            found = worlds[target][name][1]
            for k in range(c):
                pixels[:, t, a, k] = (found == k).sum((1, 2))
                inside[:, t, a, k] = (mask & (found == k)).sum((1, 2))
            inpainted[t, a] = (mask & np.isin(found, [k for k in objects if k != index])).mean(0)
    for a, name in enumerate(ARMS):
        if name.startswith("frozen:all"):
            strain[:, :, a] += np.array([-1.1, 0.0, 0.9])
            realism[:, :, a] -= 1.4
        elif name.endswith(":all"):
            strain[:, :, a] += np.array([-0.02, 0.0, 0.28])
        elif ":" in name:
            strain[:, :, a, 1:] = 0.0
    # The two first-site arms are one and the same under ablation to zero.
    twin, same = ARMS.index("frozen:first"), ARMS.index("capped:first")
    strain[:, :, twin], realism[:, :, twin] = strain[:, :, same], realism[:, :, same]
    per_arm = [arm.split(":") if ":" in arm else ("none", "none") for arm in ARMS]
    units = np.stack([rng.permutation(UNITS)[:TOP] for _ in targets]).astype(np.int32)
    few = np.arange(n) < 8
    return xr.Dataset(
        {
            "pixels": (("latent", "target", "arm", "object"), pixels),
            "inside": (("latent", "target", "arm", "object"), inside),
            "realism": (("latent", "target", "arm"), realism.astype(np.float32)),
            "strain": (("latent", "target", "arm", "site", "quantile"), strain.astype(np.float32)),
            "natural": (("latent", "site"), rng.uniform(0.3, 0.6, (n, len(SITES))).astype(np.float32)),
            "gain": (("latent", "target"), gain.astype(np.float32)),
            "gain_outside": (("latent", "target"), outside.astype(np.float32)),
            "gain_error": (("latent", "target"), np.full(shape[:2], 2e-6, np.float32)),
            "gain_map": (("target", "v", "u"), gain_map.astype(np.float32)),
            "inpainted_map": (("target", "arm", "y", "x"), inpainted.astype(np.float32)),
            "placebo_gap": (
                ("latent", "target"),
                np.where(few, 0.0, np.nan).repeat(len(targets)).reshape(n, -1),
            ),
            "baseline_gap": (("latent", "arm"), np.where(few, 1e-6, np.nan).repeat(len(ARMS)).reshape(n, -1)),
            "units": (("target", "rank"), units),
        },
        coords={
            "latent": np.arange(n),
            "target": targets,
            "arm": list(ARMS),
            "object": list(CLASSES),
            "site": list(SITES),
            "quantile": [0.01, 0.5, 0.99],
            "edit": ("arm", [arm != "reference" for arm in ARMS]),
            "control": ("arm", [control for control, _ in per_arm]),
            "held": ("arm", [held for _, held in per_arm]),
            "background": ("object", [name in rooms.BACKGROUND for name in CLASSES]),
        },
        attrs={
            "generator": "rooms",
            "segmenter": "rooms",
            "layer": "layer4",
            "ablation": "zero",
            "alpha": 1.0,
            "seed": 0,
            "image_pixels": SIZE * SIZE,
            "presence": 0.003,
            "version": "0.1.0",
        },
    )


def _relation(targets: tuple[str, ...], images: np.ndarray, rng: np.random.Generator) -> xr.Dataset:
    """Every unit is active in one disc of its own, and its ACE is drawn; the region is known where the tests need it."""
    strength = np.empty((UNITS, len(CLASSES)))
    for place, name in enumerate(CLASSES):
        ace = rng.standard_gamma(0.25 + 0.2 * place, UNITS) * 0.004 * (1 if name in targets else 0.3)
        strength[:, place] = ace * np.where(rng.random(UNITS) < 0.25, -0.3, 1)
    drop = (strength + rng.normal(0, 0.002, (RANKED, *strength.shape))).astype(np.float32)
    latents = np.stack([rng.permutation(RANKED)[:PLACES] for _ in range(UNITS)])
    v, u = np.mgrid[:GRID, :GRID]
    centres = rng.integers(1, GRID - 1, (2, UNITS, PLACES, 1, 1))
    maps = np.maximum(0, 2 - np.hypot(v - centres[0], u - centres[1])).astype(np.float16)
    shown = np.unique(latents)
    return xr.Dataset(
        {
            "ace": (("unit", "object"), drop.mean(0, dtype=np.float64)),
            "ace_se": (("unit", "object"), drop.std(0, ddof=1, dtype=np.float64) / np.sqrt(RANKED)),
            "iou": (("unit", "object"), rng.uniform(0, 0.3, strength.shape)),
            "energy": (("unit", "object"), rng.dirichlet(np.ones(len(CLASSES)), UNITS)),
            "exact": ("unit", np.arange(UNITS) < UNITS - 4),
            "threshold": ("unit", np.ones(UNITS)),
            "drop": (("latent", "unit", "object"), drop),
            "area": (("latent", "object"), rng.dirichlet(np.ones(len(CLASSES)), RANKED).astype(np.float32)),
            "top_latent": (("unit", "place"), latents),
            "top_map": (("unit", "place", "v", "u"), maps),
            "image": (("shown", "y", "x", "channel"), images[shown]),
        },
        coords={
            "unit": np.arange(UNITS),
            "object": list(CLASSES),
            "latent": np.arange(RANKED),
            "shown": shown,
        },
        attrs={"layer": "layer4", "latents": RANKED, "ranking": "exact", "iou_threshold": "quantile"},
    )


def _after(relation: xr.Dataset, edits: dict[str, list[int]], rng: np.random.Generator) -> xr.Dataset:
    """Every other unit's effect grows by half with everything live, and by a tenth with the first site held."""
    objects = [name for name in CLASSES if name not in (*rooms.BACKGROUND, "unknown")]
    own = Own.of(relation, objects, TOP)
    before = relation["drop"].values[:, own.all]
    after = np.stack([[factor * before for factor in (1.5, 1.1)] for _ in edits]).astype(np.float32)
    after += rng.normal(0, 0.001, after.shape)
    for t, units in enumerate(edits.values()):
        after[t][:, :, np.isin(own.all, units)] = np.nan
    return compare(before, after, own, edits, CLASSES, "capped:first", UNITS)


def _insertion(images: np.ndarray, labels: np.ndarray, edits: dict[str, list[int]]) -> xr.Dataset:
    """The target appears in a patch, on the wall more than on the floor, and live more than held."""
    arms, step, classes = ("live", *ARMS[2:]), SIZE // 4, np.array(CLASSES)
    factor = np.array([1.0, 0.8, 0.7, 1.0, 0.3])
    side = slice(step, 2 * step)
    ground = np.where(np.isin(classes, ["floor", "rug"]), 0.1, np.where(classes == "mirror", np.nan, 0.7))
    share = np.tile(factor[:, None] * ground, (len(edits), 1, 1))
    place = np.linspace(0.5, 1, 16).reshape(4, 4)
    made = np.repeat(images[:1], 1 + len(arms), 0).copy()
    made[1:, side, side] = (90, 130, 200)
    seen = np.repeat(labels[None, :1], len(edits), 0).repeat(1 + len(arms), 1).astype(np.int32)
    for t, target in enumerate(edits):
        seen[t, 1:, side, side] = CLASSES.index(target)
    region = np.zeros((len(edits), SIZE, SIZE), bool)
    region[:, side, side] = True
    total = np.tile(factor * 0.5, (len(edits), 1))

    def around(name: str, values: np.ndarray, dims: tuple[str, ...]) -> dict[str, tuple]:
        gap = values[:, :1] - values
        return {
            name: (dims, values),
            **{f"{'' if name == 'appeared' else 'total_'}{key}": (dims, value) for key, value in {
                "low": values - 0.05, "high": values + 0.05, "did": gap, "did_low": gap - 0.05, "did_high": gap + 0.05,
            }.items()},
        }  # fmt: skip

    return xr.Dataset(
        {
            **around("appeared", share, ("target", "arm", "object")),
            **around("total", total, ("target", "arm")),
            "weight": (("target", "object"), np.tile(np.where(classes == "mirror", 0, 5000), (len(edits), 1))),
            "appeared_map": (
                ("target", "arm", "v", "u"),
                np.tile(factor[:, None, None] * place, (len(edits), 1, 1, 1)),
            ),
            "image": (("target", "arm2", "y", "x", "channel"), np.repeat(made[None], len(edits), 0)),
            "label": (("target", "arm2", "y", "x"), seen),
            "region": (("target", "y", "x"), region),
            "shown_latent": ("target", np.full(len(edits), 7)),
        },
        coords={
            "target": list(edits),
            "arm": list(arms),
            "arm2": ["original", *arms],
            "object": list(CLASSES),
            "v": [1.0, 3, 5, 7],
            "u": [1.0, 3, 5, 7],
        },
        attrs={"latents": 16},
    )


def _examples(
    path: Path,
    worlds: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]],
    labels: np.ndarray,
    rng: np.random.Generator,
) -> None:
    shape = (len(worlds), EXAMPLES, len(ARMS), SIZE, SIZE)
    latents = np.full(shape[:2], -1)
    images, found = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    gain = np.ones((*shape[:2], GRID, GRID), np.float32)
    for t, (target, arms) in enumerate(worlds.items()):
        mask = labels == CLASSES.index(target)
        lost = (mask & (arms["live"][1] != labels)).sum((1, 2))
        chosen = [i for i in np.argsort(-lost)[:EXAMPLES] if lost[i]]
        latents[t, : len(chosen)] = chosen
        for e, i in enumerate(chosen):
            gain[t, e] = 1.02 + 0.9 * _coarse(mask[i : i + 1])[0] + rng.normal(0, 0.01, (GRID, GRID))
            for a, name in enumerate(ARMS):
                images[t, e, a], found[t, e, a] = (each[i] for each in arms[name])
    np.savez_compressed(
        path,
        targets=np.array(list(worlds)),
        arms=np.array(ARMS),
        classes=np.array(CLASSES),
        latents=latents,
        images=images,
        labels=found,
        gain=gain,
    )


def _coarse(mask: np.ndarray) -> np.ndarray:
    step = SIZE // GRID
    return mask.reshape(len(mask), GRID, step, GRID, step).mean((2, 4))
