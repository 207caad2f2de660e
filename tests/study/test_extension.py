"""A finished run that is run again with more measures only what is missing, and is then the run that asked for all at once."""

import numpy as np
import pytest
import xarray as xr
from pandas import read_csv
from pandas.testing import assert_frame_equal
from planted import PlantedGenerator, PlantedSegmenter
from planted_scene import SceneGenerator, SceneSegmenter

from gandid.measure.executors import Local
from gandid.panel.store import read_dataset
from gandid.runs import merge, open_panel, read_config
from gandid.study import Study

SECOND = """
from planted import PlantedSegmenter

class Again(PlantedSegmenter):
    pass
"""


class Counting(Local):
    """Counts what is measured: latents by block and segmenters."""

    def __init__(self):
        super().__init__()
        self.measured = {}

    def map(self, setting, tasks):
        for task, rows in super().map(setting, tasks):
            block = setting.experiment.blocks[task.block]
            key = block.name, task.segmenters
            self.measured[key] = self.measured.get(key, 0) + len(task.numbers)
            yield task, rows


def run(store, latents=40, **options):
    study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=5)
    counting = Counting()
    panel = study.run(
        {"a": [0], "b": [1]}, latents=latents, ranking_latents=12, store=store, executor=counting, **options
    )
    return panel, counting.measured


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    path = tmp_path_factory.mktemp("second") / "second.py"
    path.write_text(SECOND)
    return f"{path}:Again"


def same(one, other):
    """The same panels, whatever the order of their arms."""
    assert sorted(one["arm"].values) == sorted(other["arm"].values)
    xr.testing.assert_identical(one.sel(arm=other["arm"].values), other)


@pytest.mark.slow
def test_what_is_asked_for_one_by_one_is_what_is_asked_for_at_once(tmp_path, second):
    store = tmp_path / "run"
    steps = [
        ({}, {("study", (0,)): 40, ("distance", (0,)): 40, ("strength", (0,)): 40}),
        ({"placebos": 1, "dose": (0, 0.5, 1)}, {("placebos", (0,)): 40, ("dose", (0,)): 40}),
        # Of the only site, the study has every coalition; of the other held arms, no strength.
        ({"sites": "shapley", "strength": (0.5, 1)}, {("strength", (0,)): 40, ("surface", (0,)): 40}),
        ({"second_segmenter": second}, {("study", (1,)): 40, ("strength", (1,)): 2 * 40}),
        ({"placebos": 2, "dose": (0.8,)}, {("placebos", (0,)): 40, ("dose", (0,)): 40, ("surface", (0,)): 40}),
        (
            {"latents": 80},
            {("study", (0, 1)): 40, ("distance", (0,)): 40, ("strength", (0, 1)): 2 * 40}
            | {("dose", (0,)): 80, ("surface", (0,)): 80, ("placebos", (0,)): 48},
        ),
        ({"latents": 80}, {}),
    ]
    for asked, measured in steps:
        panel, made = run(store, **{"latents": 40} | asked)
        assert made == measured
    everything = {"placebos": 2, "dose": (0, 0.5, 0.8, 1), "sites": "shapley", "second_segmenter": second}
    run(tmp_path / "whole", latents=80, second_segmenter=second)  # at the usual strengths
    whole, _ = run(tmp_path / "whole", latents=80, strength=(0.5, 1), **everything)
    same(panel, whole)
    config = read_config(store)
    assert (config["dose"], config["placebos"], config["sites"]) == ([0, 0.5, 0.8, 1], 2, "shapley")
    assert config["strength"] == [0.5, 1]
    assert config["second_segmenter"] == second
    before = read_csv(store / "effects.csv")
    before.assign(verdict="").to_csv(store / "effects.csv", index=False)
    assert run(store, 80, relevant=0.9)[1] == {}  # judged anew, and nothing measured
    judged, passed = read_csv(store / "effects.csv"), ["verdict", "settled_by"]
    assert judged["verdict"].notna().all()
    assert_frame_equal(judged.drop(columns=passed), before.drop(columns=passed), check_exact=True)
    run(store, 80)
    for name in ("effects.csv", "checks.csv"):
        rows = [sorted((folder / name).read_text().splitlines()) for folder in (store, tmp_path / "whole")]
        assert rows[0] == rows[1]


def test_a_second_segmenter_catches_up_with_a_growing_run(tmp_path, second):
    run(tmp_path / "run", latents=20)
    panel, made = run(tmp_path / "run", latents=40, second_segmenter=second)
    strength = {("strength", (0,)): 20, ("strength", (1,)): 40}
    assert made == {("study", (0,)): 20, ("study", (1,)): 40, ("distance", (0,)): 20} | strength
    xr.testing.assert_identical(panel, run(None, second_segmenter=second)[0])


@pytest.mark.slow
def test_a_merged_run_is_extended_as_a_whole_one(tmp_path, second):
    for k in (1, 2):
        run(tmp_path / f"part-{k}", chunk=f"{k}/2", second_segmenter=second)
    merged = merge([tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "merged")
    whole, _ = run(tmp_path / "whole", second_segmenter=second)
    own = whole.isel(arm=whole["block"].values == "study")
    own["arm"] = own["arm"].values.tolist()
    xr.testing.assert_equal(merged, own)
    (extended, made), (other, _) = (run(tmp_path / name, placebos=1) for name in ("merged", "whole"))
    assert made == {("placebos", (0,)): 40, ("distance", (0,)): 40, ("strength", (0, 1)): 40}
    xr.testing.assert_identical(extended, other)
    turned = merge([tmp_path / "part-2", tmp_path / "part-1"], tmp_path / "turned")
    assert turned["latent"].values.tolist() == [*range(20, 40), *range(20)]
    xr.testing.assert_equal(turned.sortby("latent"), own)
    extended, _ = run(tmp_path / "turned", placebos=1)
    np.testing.assert_array_equal(extended.sortby("latent")["pixels"], other["pixels"])


def test_estimates_are_made_again_and_images_are_not(tmp_path):
    store = tmp_path / "run"
    run(store)
    before = {name: (store / name).stat().st_mtime_ns for name in ("effects.csv", "examples.npz")}
    run(store, dose=(0, 0.5, 1))
    assert (store / "effects.csv").stat().st_mtime_ns > before["effects.csv"]
    assert (store / "examples.npz").stat().st_mtime_ns == before["examples.npz"]
    assert "live@0.5" in open_panel(str(store))["arm"].values


def test_a_finished_run_is_given_its_figure(tmp_path):
    study = Study(SceneGenerator(), SceneSegmenter(), layer="scene", seed=3)
    asked = {"targets": {"a": [0], "b": [1, 2]}, "units": 1, "latents": 12, "ranking_latents": 12}
    counting = Counting()
    panel = study.run(**asked, store=tmp_path / "run", executor=counting)
    assert not (tmp_path / "run" / "relation.zarr").exists()  # all units were named
    for figure in (True, False):
        again = Counting()
        xr.testing.assert_identical(study.run(**asked, store=tmp_path / "run", executor=again, figure=figure), panel)
        assert again.measured == {}
        assert read_config(tmp_path / "run")["figure"] is True  # it stays one, whether it is asked for again or not
    inserted = read_dataset(tmp_path / "run" / "insertion.zarr")
    assert set(map(str, inserted["target"].values)) == {"a", "b"}
    assert read_dataset(tmp_path / "run" / "after.zarr").sizes["target"] == 2
    assert (tmp_path / "run" / "types.csv").exists()
    assert not list((tmp_path / "run").glob(".ranking*")) and not (tmp_path / "run" / ".figure").exists()
