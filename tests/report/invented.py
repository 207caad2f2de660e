"""An invented run's folder, written file by file: no generator, no estimator, and numbers that a test can choose.

Every image is a grey room with a block for each object. Ablated, a share of the target's block turns into another object, into wall or
into nothing that is known; held, a little less of it remains. One arm is the same as another, one is out of range, and one target is in
no image.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import yaml

CLASSES = ["wall", "chair", "rug", "lamp", "unknown"]
OBJECTS = ["chair", "rug", "lamp"]
HELD = ["capped:first", "capped:all", "frozen:first", "frozen:all"]
ARMS = ["reference", "live", *HELD]
SIZE, LATENTS, UNITS = 32, 200, 12
# Live minus held and half its interval, in shares: on removal, and on in-painting by other objects.
EFFECTS = {"chair": (-0.05, 0.01, 0.04, 0.01), "rug": (0.002, 0.001, 0.0, 0.0), "lamp": (0.02, 0.03, 0.0, 0.001)}


def write(folder: Path, names: dict[str, str] | None = None, extra: bool = True) -> Path:
    """Write a run whose targets are chair, rug, lamp and one that is never seen; `names` renames classes.

    Without `extra` it has only what a run must have.
    """
    folder.mkdir(parents=True)
    names = {name: name for name in [*CLASSES, "ghost"]} | (names or {})
    targets = [names[name] for name in [*OBJECTS, "ghost"]]
    effects(names).to_csv(folder / "effects.csv", index=False)
    checks(targets).to_csv(folder / "checks.csv", index=False)
    panel(targets, [names[name] for name in [*CLASSES, "ghost"]]).to_zarr(folder / "panel.zarr", zarr_format=2)
    config = {"generator": "rooms", "layer": "layer4", "control": ["capped", "frozen"], "relevant": 0.01}
    config["resolved"] = {"command": "gandid run <&> --out runs/demo", "stopped": "Stopped after 200 latents."}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if extra:
        examples(folder / "examples.npz", names)
        relation = relate(targets, [names[name] for name in [*CLASSES, "ghost"]])
        measures = relation[["ace", "ace_se", "iou", "energy", "exact"]]
        measures.to_dataframe().reset_index().to_csv(folder / "relation.csv", index=False)
        relation.to_zarr(folder / "relation.zarr", zarr_format=2)
        types(targets).to_csv(folder / "types.csv", index=False)
    return folder


def effects(names: dict[str, str]) -> pd.DataFrame:
    """Every contrast that the page shows, for every target and held arm."""
    rows = []
    for target in [*OBJECTS, "ghost"]:
        for arm in HELD:
            base = {
                "target": names[target],
                "arm": arm,
                "contrast": "did",
                "dose": 1.0,
                "draw": 0,
                "site": "",
                "segmenter": "rooms",
                "n": 150,
            }
            base |= dict(zip(("control", "held"), arm.split(":"), strict=True))
            base |= {"estimable": target != "ghost", "supported": arm != "frozen:all", "q": 0.01}
            removed, half, painted, width = EFFECTS.get(target, (np.nan,) * 4)
            if arm == "frozen:all":
                removed, painted = 2 * removed, 2 * painted
            scale = 0.5 if arm == "capped:all" else 1.0
            whole = [
                row(base, names[target], "removed", "target", 0.9, removed * scale, half),
                row(base, "other objects", "inpainted", "together", 0.2, painted * scale, width),
            ]
            others = [name for name in OBJECTS if name != target]
            rows += whole + [
                row(base, names[name], "inpainted", "object", 0.1, painted * scale / 2, width) for name in others
            ]
            rows.append(row(base, "wall", "inpainted", "background", 0.5, 0.0, 0.01))
            rows.append(row(base, "unknown", "inpainted", "unknown", 0.2, (removed - painted) * scale, 0.01))
            if target == "chair" and arm.startswith("capped"):
                rows += evidence(whole, arm)
    return pd.DataFrame(rows)


def row(base: dict, name: str, outcome: str, kind: str, live: float, did: float, half: float) -> dict:
    """A row of effects.csv."""
    found = base | {"object": name, "outcome": outcome, "kind": kind, "tau_live": live, "tau_held": live - did}
    found |= {"did": did, "se": half / 2, "ci_low": did - half, "ci_high": did + half}
    for which in ("live", "held"):
        value = found[f"tau_{which}"]
        found |= {f"ci_{which}_low": value - half, f"ci_{which}_high": value + half}
    return found


def evidence(whole: list[dict], arm: str) -> list[dict]:
    """The other contrasts of a target's whole effects."""
    rows = []
    for one in whole:
        rows += [one | {"contrast": "second"}, one | {"contrast": "corrected", "did": one["did"] * 0.9}]
        for dose in (0.0, 0.5, 1.0):
            scaled = {key: one[key] * dose for key in one if key.startswith(("tau", "did", "ci"))}
            rows.append(one | {"contrast": "dose", "dose": dose} | scaled)
        for draw in range(6):
            random = {"did": one["did"] * (1 if draw == 0 else 0.1 * (draw - 3))}
            rows.append(one | {"contrast": "placebo", "draw": draw} | random)
        if arm == "capped:all":
            for site, share in (("layer5.norm", 0.7), ("output.norm", 0.3)):
                rows.append(one | {"contrast": "share", "site": site, "did": one["did"] * share})
    return rows


def checks(targets: list[str]) -> pd.DataFrame:
    """Checks, some of which are flagged and one of which failed."""
    rows = [("target_seen", name, 0 if name == targets[-1] else 150, 30, "ok", "", "") for name in targets]
    rows[-1] = (*rows[-1][:4], "failed", "", "no image shows it")
    rows += [("strain", targets[0], 1.4, 0.8, "flagged", "frozen:all", "worst at <output.norm>")]
    rows += [("stability", targets[0], 0.4, 3.0, "ok", "capped:first", "")]
    return pd.DataFrame(rows, columns=["check", "target", "value", "bound", "verdict", "arm", "detail"])


def panel(targets: list[str], classes: list[str]) -> xr.Dataset:
    """What the page reads of a panel: coordinates, units and attributes."""
    background = [[name in ("wall", "unknown") for name in classes]]
    counts, published = np.zeros((1, len(ARMS)), np.int32), {"measured": [[LATENTS] * len(ARMS)]}
    units = np.arange(4 * len(targets), dtype=np.int32).reshape(1, 1, len(targets), 4) % UNITS
    return xr.Dataset(
        {"units": (("trained", "set", "target", "rank"), units), "pixels": (("segmenter", "arm"), counts, published)},
        coords={"segmenter": ["rooms"], "latent": np.arange(LATENTS), "target": targets, "object": classes}
        | {
            "arm": ARMS,
            "block": ("arm", ["study"] * (len(ARMS) - 1) + ["distance"]),
            "background": (("segmenter", "object"), background),
        }
        | {"known": (("segmenter", "object"), np.ones_like(background))},
        attrs={"generator": "rooms", "layer": "layer4", "schema": 2, "version": "0.2.0"},
    )


def examples(path: Path, names: dict[str, str]) -> None:
    """Two examples of each target but the last, which has none."""
    targets, shape = [*OBJECTS, "ghost"], (4, 2, len(ARMS), SIZE, SIZE)
    images, labels = np.full((*shape, 3), 190, np.uint8), np.zeros(shape, np.uint8)
    for place, name in enumerate(OBJECTS):
        labels[..., 20:28, 10 * place : 10 * place + 8] = CLASSES.index(name)
    for place, name in enumerate(OBJECTS):
        for arm, left in enumerate((8, 3, 2, 1, 2, 0)):  # columns of the target that are left
            gone = labels[place, :, arm, 20:28, 10 * place + left : 10 * place + 8]
            gone[:] = CLASSES.index("rug" if name != "rug" else "lamp")
    ink = np.array([(190, 190, 190), (200, 60, 40), (90, 40, 140), (60, 140, 90), (0, 0, 0)], np.uint8)
    images[:] = ink[labels]
    latents = np.array([[3, 14]] * 3 + [[-1, -1]])
    gain = np.full((4, 2, 4, 4), 1.3, np.float32)
    classes = np.array([names[name] for name in CLASSES])
    named = {"targets": np.array([names[name] for name in targets]), "arms": np.array(ARMS), "classes": classes}
    np.savez(path, latents=latents, images=images, labels=labels, gain=gain, **named)


def relate(targets: list[str], classes: list[str]) -> xr.Dataset:
    """A relation in which the units of a target are its best."""
    rng = np.random.default_rng(1)
    ace = rng.normal(0, 0.001, (UNITS, len(classes)))
    for place, target in enumerate(targets):
        ace[np.arange(4 * place, 4 * place + 4) % UNITS, classes.index(target)] += 0.01
    latents = rng.permuted(np.tile(np.arange(6), (UNITS, 1)), axis=1)[:, :3]
    return xr.Dataset(
        {
            **dict.fromkeys(("ace", "ace_se", "iou", "energy"), (("unit", "object"), ace)),
            "exact": ("unit", np.arange(UNITS) > 1),
            "threshold": ("unit", np.ones(UNITS)),
            "top_latent": (("unit", "place"), latents),
            "top_map": (("unit", "place", "v", "u"), rng.uniform(0, 2, (UNITS, 3, 4, 4)).astype(np.float16)),
            "image": (("shown", "y", "x", "channel"), rng.integers(0, 255, (6, SIZE, SIZE, 3)).astype(np.uint8)),
        },
        coords={"unit": np.arange(UNITS), "object": classes, "shown": np.arange(6)},
        attrs={"layer": "layer4"},
    )


def types(targets: list[str]) -> pd.DataFrame:
    """A type for every target that is seen."""
    bounds = {"removed_bound": 0.8, "inpainted_bound": 0.05, "concentration_bound": 0.5}
    shares = {
        "removed": 0.9,
        "inpainted_objects": 0.2,
        "unknown": 0.2,
        "share_top": 0.7,
        "effective_units": 5.0,
        "gini": 0.5,
    }
    chances = {"type": "type-2", "p_disentangled": 0.02, "p_type_1": 0.0, "p_type_2": 0.98, "p_not_identified": 0.0}
    return pd.DataFrame([{"target": name} | shares | chances | bounds for name in targets[:-1]])


def figure(folder: Path) -> None:
    """Add what the paper's figure needs: the relation after each ablation, and insertions."""
    targets, rng = OBJECTS, np.random.default_rng(2)
    shape = (len(targets), 2, len(CLASSES))
    ratio = np.where(
        [[[name in OBJECTS and name != target for name in CLASSES]] * 2 for target in targets], 1.2, np.nan
    )
    after = {"ratio": ratio, "ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1}
    after |= {name: np.broadcast_to(np.arange(1.0, 6), shape).copy() for name in ("rank", "rank_before")}
    coords = {"target": targets, "arm": ["live", "capped:first"], "object": CLASSES}
    dims = ("target", "arm", "object")
    xr.Dataset({name: (dims, value) for name, value in after.items()}, coords).to_zarr(
        folder / "after.zarr", zarr_format=2
    )
    region = np.zeros((3, SIZE, SIZE), bool)
    region[:, 4:12, 4:12] = True
    label = np.zeros((3, 3, SIZE, SIZE), np.int32)
    label[:, 1:, 4:10, 4:10] = np.arange(1, 4)[:, None, None, None]
    xr.Dataset(
        {
            "image": (
                ("target", "arm2", "y", "x", "channel"),
                rng.integers(0, 255, (3, 3, SIZE, SIZE, 3)).astype(np.uint8),
            ),
            "label": (("target", "arm2", "y", "x"), label),
            "region": (("target", "y", "x"), region),
            "shown_latent": ("target", np.arange(3)),
            "weight": (("target", "object"), np.ones((3, len(CLASSES)))),
        },
        coords={"target": targets, "arm2": ["original", "live", "capped:first"], "object": CLASSES},
    ).to_zarr(folder / "insertion.zarr", zarr_format=2)
