"""A sweep finds at each layer what is planted there, goes on where it was cut off, and asks before it begins."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from planted import Paint, PlantedSegmenter
from torch import Tensor, nn

import gandid
from gandid.generators.pggan import PixelNorm
from gandid.studies import StudyConfig
from gandid.studies.folder import read_config
from gandid.studies.latents import latents
from gandid.studies.plan import plan
from gandid.studies.sweep import (
    OWN,
    Layer,
    _relations,
    check,
    is_sweep,
    read_sweep,
    same_arms,
    sweep,
    total,
    write_tables,
)

LATENTS = 24
CONFIG = StudyConfig(targets=("a", "b"), units=1, latents=LATENTS, ranking_latents=8)


class Deep(nn.Module):
    """The planted generator, normalized twice, with a layer before each normalization.

    Where `a` was, B is seen live for latents with z > 0 once A is ablated, at either layer. Ablated at `paint` with the first
    site held, B leaves that site as faint as it was, and the second site lifts it in its place: the DID at the first site is
    0 there, and that over both sites is the share of such latents. At `again` the one site that is left does it all.
    """

    latent_dim, resolution = 1, 8

    def __init__(self):
        super().__init__()
        self.paint, self.norm = Paint(1.0), PixelNorm()
        self.again, self.last = nn.Identity(), PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.again(self.norm(self.paint(z))))


class Slow(PlantedSegmenter):
    """Takes its time, which changes nothing else."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __call__(self, images):
        time.sleep(self.seconds)
        return super().__call__(images)


def studies(layers=("paint", "again"), seconds: float = 0.0) -> list[gandid.Study]:
    torch.set_num_threads(1)
    generator = Deep()
    made = [gandid.Study(generator, Slow(seconds), layer=layer, seed=3) for layer in layers]
    for study in made:
        study.rows = 22  # few latents at a time
    return made


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("sweeps") / "deep"
    return folder, sweep(studies(), CONFIG, folder, command="gandid run ...")


def test_each_layer_shows_what_is_planted_there(swept):
    _, table = swept
    share = (latents(3, range(LATENTS), 1) > 0).float().mean().item()
    assert 0.2 < share < 0.8
    rows = table[(table.target == "a") & (table.object == "b") & (table.outcome == "inpainted")]
    did = rows.set_index(["layer", "control", "held"]).did
    for control in ("capped", "frozen"):
        assert did["paint", control, "first"] == 0
        assert did["paint", control, "all"] == pytest.approx(share)
        assert did["again", control, "first"] == did["again", control, "all"] == pytest.approx(share)
    assert list(dict.fromkeys(table.layer)) == ["paint", "again"]


def test_each_layer_is_a_run_of_its_own_of_the_same_latents(swept):
    folder, table = swept
    panels = [gandid.studies.open_panel(folder / layer) for layer in ("paint", "again")]
    first, second = (panel.sel(arm="reference") for panel in panels)
    np.testing.assert_array_equal(first["pixels"], second["pixels"])  # unedited, a latent is the same image at each
    for layer in ("paint", "again"):
        assert read_config(folder / layer)["layer"] == layer
        own = pd.read_csv(folder / layer / "effects.csv")
        there = table[table.layer == layer].drop(columns="layer").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, there, check_exact=False, rtol=1e-12)


def test_depth_has_all_objects_together_and_distinct_arms_once(swept):
    folder, _ = swept
    depth = pd.read_csv(folder / "depth.csv", keep_default_na=False)
    # At `again` all four are one; at `paint`, where no site attenuates, the controls agree and the held sets do not.
    arms = list(dict.fromkeys(zip(depth.arm, depth.same_as, strict=True)))
    assert arms == [("capped:first", "frozen:first"), ("capped:all", "frozen:all")]
    rows = depth[(depth.target == "a") & (depth.arm == "capped:all")].set_index(["layer", "outcome"])
    share = (latents(3, range(LATENTS), 1) > 0).float().mean().item()
    for layer in ("paint", "again"):
        assert float(rows.loc[(layer, "removed"), "tau_live"]) == 1
        assert float(rows.loc[(layer, "inpainted"), "did"]) == pytest.approx(share)


def test_pairs_have_the_relations_of_their_layer(swept):
    folder, _ = swept
    pairs = pd.read_csv(folder / "pairs.csv").set_index(["layer", "target", "object", "arm"])
    z = latents(3, range(LATENTS), 1)[:, 0].numpy()
    row = pairs.loc[("paint", "a", "b", "capped:first")]
    # A alone makes `a`. Unedited, `b` is not seen: no unit makes it, so there is no overlap to speak of.
    assert row.concentration == 1
    assert np.isnan(row.overlap)
    relation = pd.read_csv(folder / "paint" / "relation.csv").set_index(["unit", "object"])
    assert row.energy == relation.loc[(0, "b"), "energy"]
    assert row.gain == pytest.approx(np.where(z > 0, np.sqrt(11 / 2), np.sqrt(10)).mean(), rel=1e-6)
    why = pd.read_csv(folder / "claim2.csv")["why"]
    assert why.str.contains("too few|no pair").all()  # two targets are no test of claim 2, and it says so


def test_relations_are_those_of_the_edited_units():
    ace = {"a": [3.0, 4.0, 0.0, -9.0], "b": [4.0, 3.0, 0.0, 1.0], "c": [0.0, -1.0, 2.0, 0.0]}
    energy = {"a": [1.0, 1.0, 0.0, 0.0], "b": [0.1, 0.3, 0.7, 0.9], "c": [0.2, 0.2, 1.0, 0.0]}
    rows = [
        {"unit": unit, "object": name, "ace": ace[name][unit], "energy": energy[name][unit]}
        for unit in (2, 0, 3, 1)  # in any order
        for name in ace
    ]
    effects = SimpleNamespace(gains={"a": {"gain": 1.5}})
    layer = Layer("paint", effects, pd.DataFrame(), {"a": (1,)}, pd.DataFrame(rows))
    found = _relations(layer, [("a", "b"), ("a", "c")]).set_index("object")
    # Positive ACE alone: (3, 4, 0, 0) with (4, 3, 0, 1), and with (0, 0, 2, 0).
    assert found.overlap["b"] == pytest.approx(24 / (5 * np.sqrt(26)))
    assert found.overlap["c"] == 0
    assert (found.concentration == 4 / 7).all() and (found.gain == 1.5).all()
    assert found.energy["b"] == 0.3 and found.energy["c"] == 0.2


def test_a_finished_sweep_computes_nothing_and_writes_the_same(swept, monkeypatch):
    folder, table = swept
    before = {path: path.read_bytes() for path in folder.glob("*.csv")}
    made = studies()
    monkeypatch.setattr(made[0].runner, "run", None)
    monkeypatch.setattr(made[1].runner, "run", None)
    pd.testing.assert_frame_equal(sweep(made, CONFIG, folder), table)
    assert {path: path.read_bytes() for path in folder.glob("*.csv")} == before
    assert is_sweep(folder)
    pd.testing.assert_frame_equal(write_tables(folder, read_sweep(folder)), table)


def test_a_killed_sweep_goes_on_to_the_same_tables(swept, tmp_path):
    whole, _ = swept
    folder = tmp_path / "killed"
    command = [sys.executable, __file__, str(folder), "0.15"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    deadline = time.monotonic() + 120
    while not (folder / "again" / "panel.zarr").exists():  # the first layer is done, the second is under way
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "sweep.csv").exists()
    stamp = (folder / "paint" / "effects.csv").stat().st_mtime_ns
    sweep(studies(), CONFIG, folder)
    assert (folder / "paint" / "effects.csv").stat().st_mtime_ns == stamp
    for name in ("sweep.csv", "depth.csv", "pairs.csv", "claim2.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("layers", "change", "told"),
    [
        (("paint",), {}, "a sweep needs two layers"),
        (("paint", "again"), {"chunk": "1/2"}, "--chunk is of one layer's latents"),
        (("paint", "again"), {"targets": {"a": (0,)}}, "the units of one layer are not those of another"),
        (("paint", "again"), {"hold": ("norm",)}, "unknown site 'norm': after again come last"),
        (("paint", "again"), {"targets": ("c",)}, "unknown class 'c'"),
        (("paint", "again"), {"units": 9}, "9 units are asked for"),
    ],
)
def test_what_one_layer_cannot_do_is_told_before_any_begins(tmp_path, layers, change, told):
    config = StudyConfig.check(**CONFIG.model_dump() | change)
    with pytest.raises(gandid.UsageError, match=told.replace("'", ".")):
        sweep(studies(layers), config, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_layer_that_no_site_follows_is_no_study():
    with pytest.raises(gandid.UsageError, match="no normalization runs after layer 'last'"):
        studies(("paint", "last"))


def test_other_peoples_folders_are_left_alone(swept, tmp_path):
    whole, _ = swept
    with pytest.raises(gandid.UsageError, match="holds a run of one layer"):
        check(studies(), CONFIG, whole / "paint")
    (tmp_path / "letter.txt").write_text("dear reader")
    with pytest.raises(gandid.UsageError, match="exists and is not a sweep"):
        check(studies(), CONFIG, tmp_path)
    with pytest.raises(gandid.UsageError, match="holds another study"):
        check(studies(), CONFIG.model_copy(update={"alpha": 0.5}), whole)
    with pytest.raises(gandid.UsageError, match="ask for as many or more"):
        check(studies(), CONFIG.model_copy(update={"latents": 5}), whole)


def test_runs_that_were_made_one_by_one_become_a_sweep(swept, tmp_path):
    _, table = swept
    for study in studies():
        study.execute(CONFIG, store=tmp_path / study.layer)
    stamp = (tmp_path / "paint" / "effects.csv").stat().st_mtime_ns
    pd.testing.assert_frame_equal(sweep(studies(), CONFIG, tmp_path), table)
    assert (tmp_path / "paint" / "effects.csv").stat().st_mtime_ns == stamp
    assert yaml.safe_load((tmp_path / "sweep.yaml").read_text())["layers"] == ["paint", "again"]


def test_the_plan_of_a_sweep_is_the_sum_of_its_layers():
    plans = [plan(study, CONFIG, lambda folder, effects: None) for study in studies()]
    whole = total(plans)
    assert whole.rows == sum(one.rows for one in plans) == 2 * LATENTS * 2 * 6
    assert whole.images == sum(one.images for one in plans)
    assert whole.seconds == pytest.approx(sum(one.seconds for one in plans))
    assert whole.arms == plans[0].arms


def test_arms_are_one_only_if_they_are_at_every_layer():
    names = ["capped:first", "frozen:first", "capped:all", "frozen:all"]
    deep = [tuple(names)]
    shallow = [("capped:first", "frozen:first"), ("capped:all",), ("frozen:all",)]
    assert same_arms([deep]) == {"capped:first": "frozen:first, capped:all, frozen:all"}
    assert same_arms([shallow, deep]) == same_arms([deep, shallow])
    assert same_arms([shallow, deep]) == {"capped:first": "frozen:first", "capped:all": "", "frozen:all": ""}


def gandid_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """The command line on this file's generator and segmenter."""
    networks = ["--generator", f"{__file__}:Deep", "--segmenter", f"{__file__}:PlantedSegmenter"]
    return subprocess.run(
        [sys.executable, "-c", "from gandid.cli import main; main()", *arguments[:1], *networks, *arguments[1:]],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_the_command_line_sweeps_reports_and_does_not_do_it_twice(tmp_path):
    asked = ["run", "--layer", "paint", "--layer", "again", "--target", "a", "--units", "1", "--out", "sweep"]
    asked += ["--latents", str(LATENTS), "--ranking-latents", "8", "--control", "capped", "--seed", "3"]
    done = gandid_command(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Claim 2 could not be tested" in done.stdout
    assert done.stdout.rstrip().endswith("Report: sweep/report.html")
    names = {path.name for path in (tmp_path / "sweep").iterdir()}
    assert names == {*OWN, "paint", "again"}
    pages = [tmp_path / "sweep" / layer / "report.html" for layer in ("paint", "again")]
    stamps = [page.stat().st_mtime_ns for page in pages]
    again = gandid_command(*asked, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout == done.stdout
    assert [page.stat().st_mtime_ns for page in pages] == stamps


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--layer", "paint", "--layer", "layer77"], "unknown layer 'layer77'"),
        (["--layer", "paint", "--layer", "again", "--chunk", "1/2"], "--chunk is of one layer's latents"),
    ],
)
def test_the_command_line_tells_before_anything_is_made(tmp_path, arguments, told):
    done = gandid_command("run", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    sweep(studies(seconds=float(sys.argv[2])), CONFIG, Path(sys.argv[1]))
