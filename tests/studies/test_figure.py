"""What `--figure` adds to a run: added to a finished one, gone on with after a kill, and the same however it came about."""

import multiprocessing
import random
import shutil
import time

import killable
import numpy as np
import pytest
import torch
import xarray as xr
from planted_scene import SceneGenerator, SceneSegmenter

import gandid
from gandid.errors import UsageError
from gandid.relation import after
from gandid.studies import StudyConfig, read_config
from gandid.studies.folder import is_finished
from gandid.studies.merge import merge
from gandid.studies.plan import plan

KILLS = 8
FILES = ("after.zarr", "insertion.zarr")


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    return context


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    store = tmp_path_factory.mktemp("unbroken") / "run"
    killable.planted(store, figure=True)
    return store


def read(path):
    with xr.open_zarr(path, chunks=None) as stored:
        return stored.load()


def same(one, other):
    for name in FILES:
        xr.testing.assert_identical(read(one / name), read(other / name))
    for name in ("types.csv", "effects.csv", "relation.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert not (one / ".figure").exists()


def test_a_finished_run_is_given_its_figure(unbroken, tmp_path, monkeypatch):
    store = tmp_path / "run"
    panel = killable.planted(store)
    assert not any((store / name).exists() for name in FILES)
    assert read_config(store)["figure"] is False
    monkeypatch.setattr(gandid.Study, "_fill", lambda *_: pytest.fail("the arms were measured again"))
    xr.testing.assert_identical(killable.planted(store, figure=True), panel)
    same(store, unbroken)
    assert read_config(store)["figure"] is True
    # It stays one, whether it is asked for again or not.
    monkeypatch.setattr(gandid.Study, "additions", lambda *_: pytest.fail("the figure was measured again"))
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != ".lock"}
    for asked in (True, False):
        killable.planted(store, figure=asked)
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.name != ".lock"} == before


def test_a_growing_run_keeps_its_figure(unbroken, tmp_path):
    store = tmp_path / "run"
    killable.planted(store, latents=40, figure=True)
    before = (store / "after.zarr" / ".zmetadata").stat().st_mtime_ns
    killable.planted(store, figure=True)
    assert (store / "after.zarr" / ".zmetadata").stat().st_mtime_ns == before
    same(store, unbroken)


def test_a_killed_run_goes_on_with_the_target_it_was_at(unbroken, processes, tmp_path, monkeypatch):
    store = tmp_path / "run"
    process = processes.Process(target=killable.planted, args=(store,), kwargs={"slow": 0.03, "figure": True})
    process.start()
    while not (store / ".figure" / "after-0.npz").exists():
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (store / "after.zarr").exists()
    assert not is_finished(store)
    done, losses, calls = len(list((store / ".figure").glob("after-*.npz"))), after.losses, []
    monkeypatch.setattr(after, "losses", lambda *args, **kwargs: calls.append(1) or losses(*args, **kwargs))
    killable.planted(store, figure=True)
    assert len(calls) == 2 * (2 - done)  # live and held, of the targets that were not done
    same(store, unbroken)


@pytest.mark.slow
def test_it_may_be_killed_at_any_moment(unbroken, processes, tmp_path):
    store, moments, whole, kills, seen = tmp_path / "run", random.Random(0), 20.0, 0, set()
    killable.planted(store)
    while kills < KILLS:
        start = time.monotonic()
        process = processes.Process(target=killable.planted, args=(store,), kwargs={"slow": 0.1, "figure": True})
        process.start()
        process.join(moments.uniform(0.02, 1.0) * whole)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            seen.add(tuple(sorted(path.name for path in store.glob(".figure/[!.]*"))))
            assert is_finished(store)  # it is still the run that it was
        else:
            assert process.exitcode == 0
            whole = min(whole, time.monotonic() - start)
            same(store, unbroken)
            for name in FILES:
                shutil.rmtree(store / name)
    assert len(seen) > 1  # it was killed at different points
    killable.planted(store, figure=True)
    same(store, unbroken)


def test_parts_of_a_study_are_merged_with_its_figure(unbroken, tmp_path):
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    killable.planted(parts[0], chunk="1/2")
    killable.planted(parts[1], chunk="2/2", figure=True)
    merge(parts, tmp_path / "whole")
    same(tmp_path / "whole", unbroken)


def test_units_that_are_named_are_related_for_the_figure(tmp_path):
    study = gandid.Study(SceneGenerator(), SceneSegmenter(), layer="scene", seed=3)
    asked = dict(targets={"a": [0], "b": [1, 2]}, units=1, latents=12, ranking_latents=12, store=tmp_path / "run")
    study.run(**asked)
    assert not (tmp_path / "run" / "relation.zarr").exists()
    study.run(**asked, figure=True)
    assert (tmp_path / "run" / "types.csv").exists()
    assert not (tmp_path / "run" / ".ranking").exists()
    inserted = read(tmp_path / "run" / "insertion.zarr")
    assert inserted["units"].values.tolist() == [[0, -1], [1, 2]]
    np.testing.assert_array_equal(inserted["levels"], [[3, np.nan], [3, 1]])
    ace = read(tmp_path / "run" / "after.zarr")["ace"].sel(state="after", arm="live", object="c")
    # Neither of a target's units is ablated again: of b's two, none is left among the objects' own.
    assert np.isfinite(ace.sel(target="a")).values.tolist() == [False, True, False, True]
    assert np.isfinite(ace.sel(target="b")).values.tolist() == [True, False, False, True]


class Small(SceneSegmenter):
    """Runs out of memory where it is given more images than it holds, as a GPU does."""

    holds = 10**9

    def __call__(self, images):
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(images)


def test_running_out_of_memory_halves_the_batch_and_goes_on(tmp_path):
    def run(holds):
        segmenter, store = Small(), tmp_path / str(holds)
        study = gandid.Study(SceneGenerator(), segmenter, layer="scene", seed=3)
        study.run(units=1, latents=4, ranking_latents=6, store=store)
        segmenter.holds = holds
        study.run(units=1, latents=4, ranking_latents=6, store=store, figure=True)
        return store, study.rows

    (whole, rows), (small, fewer) = run(10**9), run(9)
    assert fewer < rows
    same(small, whole)


def test_the_figure_needs_a_folder():
    study = gandid.Study(SceneGenerator(), SceneSegmenter(), layer="scene")
    with pytest.raises(
        UsageError, match="a figure, sites, doses and placebos are written into a run's folder: name a store"
    ):
        study.run(units=1, latents=2, figure=True)


def test_the_plan_counts_it():
    study = gandid.Study(SceneGenerator(), SceneSegmenter(), layer="scene", seed=3)

    def images(**asked):
        config = StudyConfig.check(units=1, latents=8, ranking_latents=30, **asked)
        return plan(study, config, lambda folder, effects: None).images

    # Insertion: 24 latents of 16 positions in live and 4 held arms, and their unedited image; the levels: 30.
    inserted = 3 * 24 * (1 + 5 * 16) + 30
    # After: of three units by four, 3 x (1 - (3/4)^3) x 4/3 are told apart when drawn at random; one is the target's own.
    single = round(3 * 2 * 24 * (1 + 4 * (1 - 0.75**3) - 1))
    assert images(figure=True) - images() == inserted + single
