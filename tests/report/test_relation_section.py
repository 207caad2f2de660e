"""The section of the unit-object relation: what it shows is what the relation holds, and a page of it can be mailed."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
import yaml
from panels import make_panel
from PIL import Image
from scipy import ndimage

from gandid import report
from gandid.report import figures, folder, relation


@pytest.fixture(scope="module")
def read(run: Path) -> folder.Run:
    return folder.read(run)


@pytest.fixture(scope="module")
def section(read: folder.Run) -> dict:
    found = relation.relation_section(read, figures.class_colours(read))
    assert found is not None
    return found


def test_cells_are_coloured_by_the_relation(run: Path, section: dict) -> None:
    stored, heat = pd.read_csv(run / "relation.csv"), section["heat"]
    classes = [of["name"] for of in heat["classes"]]
    assert sorted(heat["units"]) == sorted(stored["unit"].unique())
    for layer in heat["layers"]:
        rgba = np.asarray(Image.open(io.BytesIO(base64.b64decode(layer["src"].split(",")[1]))).convert("RGBA")).astype(
            int
        )
        values = (
            stored.pivot(index="object", columns="unit", values=layer["name"]).loc[classes, heat["units"]].to_numpy()
        )
        strongest = np.abs(values).max(axis=1, keepdims=True) if layer["name"] == "ace" else values.max()
        np.testing.assert_allclose(rgba[..., 3], 255 * np.abs(values) / strongest, atol=0.51)
        lost = [int(relation.POSITIVE[i : i + 2], 16) for i in (1, 3, 5)]
        visible = rgba[..., 3] > 0
        assert ((rgba[..., :3] == lost).all(axis=-1) == (values >= 0))[visible].all()


def test_clusters_stand_together() -> None:
    """Two kinds of units, shuffled: in the order of the heat map each kind stands by itself."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1], 20))
    rows = np.eye(2)[kind] + rng.normal(0, 0.05, (40, 2))
    order = relation._tree(rows).order
    assert sorted(order) == list(range(40))
    assert np.abs(np.diff(kind[order])).sum() == 1


def test_table_lists_the_best_units_of_each_class(run: Path, section: dict) -> None:
    stored = pd.read_csv(run / "relation.csv")
    assert section["complete"]
    assert len(section["rows"]) == len(stored)
    row = section["rows"][0]
    of = stored[(stored["unit"] == row["unit"]) & (stored["object"] == row["object"])].iloc[0]
    assert row["ace"] == f"{100 * of['ace']:.2f}"
    assert of["ace"] == stored.loc[stored["object"].isin(["window", "mirror"]), "ace"].max()
    assert [row["rough"] for row in section["rows"] if row["unit"] == 31] == [True] * stored["object"].nunique()


def test_regions_are_where_the_unit_exceeds_its_threshold(run: Path, section: dict) -> None:
    stored = xr.open_zarr(run / "relation.zarr", chunks=None)
    for card in section["cards"][:8]:
        unit = stored.sel(unit=card["unit"])
        assert [place["latent"] for place in card["places"]] == unit["top_latent"].values.tolist()
        maps = torch.tensor(unit["top_map"].values.astype(np.float32))[None]
        large = F.interpolate(maps, size=(64, 64), mode="bilinear", align_corners=False)[0].numpy()
        shares = (large > float(unit["threshold"])).mean(axis=(1, 2))
        assert [place["share"] for place in card["places"]] == [f"{100 * share:.0f}" for share in shares]
        assert all(place["path"].startswith("M") for place in card["places"])


def test_each_image_is_embedded_once(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    stored = xr.open_zarr(run / "relation.zarr", chunks=None)
    assert text.count("{background-image:url(data:image/webp") == stored.sizes["shown"]
    named = set(map(int, re.findall(r"\.latent-(\d+)\{", text)))
    assert named == set(stored["shown"].values.tolist())
    assert set(map(int, re.findall(r"picture latent-(\d+)", text))) <= named


def test_a_threshold_per_class_is_that_of_the_best_class(read: folder.Run, section: dict) -> None:
    assert read.activity is not None and read.relation is not None
    best = read.relation.sort_values("iou").groupby("unit")["object"].last()
    names = list(read.background)
    threshold = np.full((read.activity.sizes["unit"], len(names)), 1e9)  # nothing is above
    for unit, name in best.items():
        threshold[unit, names.index(name)] = 1.0
    activity = read.activity.drop_vars("threshold").assign(threshold=(("unit", "object"), threshold))
    activity = activity.assign_coords(object=names)
    changed = relation.relation_section(dataclasses.replace(read, activity=activity), figures.class_colours(read))
    assert changed is not None
    assert changed["cards"] == section["cards"]


@pytest.mark.slow
def test_a_large_study_can_be_mailed(tmp_path: Path) -> None:
    """512 units, 150 classes, images of 256 pixels."""
    panel = make_panel(40, ("window",), controls=("capped",))
    panel.to_zarr(tmp_path / "panel.zarr", zarr_format=2)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"generator": "x"}))
    rng, units, latents = np.random.default_rng(0), 512, 128
    names = [*map(str, panel["object"].values), *(f"class number {i}" for i in range(141))]
    ace = rng.standard_gamma(0.2, (units, len(names))) * 0.002 * np.where(rng.random((units, len(names))) < 0.3, -1, 1)
    top = np.stack([rng.permutation(latents)[:6] for _ in range(units)])
    images = ndimage.gaussian_filter(rng.normal(0, 1, (latents, 256, 256, 3)), (0, 3, 3, 0)) * 6 + 0.5
    measures = {"ace": ace, "ace_se": abs(ace) / 5, "iou": rng.uniform(0, 0.3, ace.shape), "energy": abs(ace)}
    stored = xr.Dataset(
        {name: (("unit", "object"), values) for name, values in measures.items()}
        | {
            "top_latent": (("unit", "place"), top),
            "top_map": (
                ("unit", "place", "v", "u"),
                ndimage.gaussian_filter(rng.normal(0, 1, (units, 6, 16, 16)), (0, 0, 1, 1)),
            ),
            "threshold": ("unit", np.full(units, 0.35)),
            "image": (("shown", "y", "x", "channel"), (np.clip(images, 0, 1) * 255).astype(np.uint8)[np.unique(top)]),
        },
        coords={"unit": np.arange(units), "object": names, "shown": np.unique(top)},
    )
    stored.to_zarr(tmp_path / "relation.zarr", zarr_format=2)
    stored[list(measures)].to_dataframe().reset_index().to_csv(tmp_path / "relation.csv", index=False)
    text = report.build(tmp_path).read_text(encoding="utf-8")
    assert len(text) < 8e6
    # Ten units of each class, and the 20 that were ablated.
    assert 1500 <= text.count('<tr><th scope="row" class="num"') <= 1520
