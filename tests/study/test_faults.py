"""A run survives whatever happens to it: killed, locked, starved of disk, or its folder taken away."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import killable
import numpy as np
import pytest
import xarray as xr
import yaml

from gandid.errors import GandidError, UsageError
from gandid.panel.store import PanelStore, read_panel
from gandid.runs import is_finished, open_panel, write_estimates

KILLS = 20


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    store = tmp_path_factory.mktemp("unbroken") / "run"
    return killable.planted(store), store


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    return context


def same_files(one, other):
    for name in ("effects.csv", "checks.csv", "relation.csv", "types.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    with np.load(one / "examples.npz") as a, np.load(other / "examples.npz") as b:
        assert all(np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f") for name in a.files)


EXTRAS = {"dose": (0, 0.5, 1), "sites": "shapley", "placebos": 2}


def agrees(panel, truth):
    """Whether all that a panel says was measured is what an unbroken run measured; the rows that each arm has."""
    assert panel["arm"].values.tolist() == truth["arm"].values.tolist()[: panel.sizes["arm"]]
    for a, rows in enumerate(panel["measured"].values[0]):
        for name in ("pixels", "inside"):
            np.testing.assert_array_equal(panel[name].values[:, :rows, :, a], truth[name].values[:, :rows, :, a])
    study = {"latent": slice(panel.sizes["latent"]), "arm": slice(6)}
    own, expected = (one[["strain", "gain", "range"]].isel(study).drop_vars("latents") for one in (panel, truth))
    xr.testing.assert_equal(own.load(), expected)
    return tuple(panel["measured"].values[0])


@pytest.mark.slow
@pytest.mark.parametrize("extras", [{}, EXTRAS])
def test_a_run_that_is_killed_at_any_moment_ends_as_an_unbroken_one(processes, tmp_path, extras):
    unbroken, store = tmp_path / "unbroken", tmp_path / "run"
    start = time.monotonic()
    process = processes.Process(target=killable.planted, args=(unbroken,), kwargs={"slow": 0.03, **extras})
    process.start()
    process.join()
    moments, whole, seen, kills = random.Random(0), time.monotonic() - start, set(), 0
    panel = open_panel(unbroken)
    while kills < KILLS:
        start, afresh = time.monotonic(), not store.exists()
        process = processes.Process(target=killable.planted, args=(store,), kwargs={"slow": 0.03, **extras})
        process.start()
        process.join(moments.uniform(0.02, 1.0) * whole)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
            # The rest of a run takes less than a whole one, and kills in so short a time would all be early.
            whole = min(whole, time.monotonic() - start) if afresh else whole
        if (store / "panel.zarr").exists():
            seen.add(agrees(read_panel(store / "panel.zarr"), panel))
        if is_finished(store):
            same_files(store, unbroken)
            shutil.rmtree(store)
    assert len(seen) > 1  # it was killed at different points
    xr.testing.assert_identical(killable.planted(store, **extras), panel)
    same_files(store, unbroken)


@pytest.mark.slow
def test_a_killed_run_of_every_kind_of_arm_loses_one_chunk_at_most(processes, tmp_path):
    store, truth = tmp_path / "run", killable.planted(None, latents=24, **EXTRAS)
    kinds = {"live": 4, "live@0.5": 4, "capped:all#1": 16, "live#2": 1}  # killed once an arm has so many latents
    for arm, enough in kinds.items():
        process = processes.Process(
            target=killable.planted, args=(store,), kwargs={"latents": 24, "slow": 0.05, **EXTRAS}
        )
        process.start()
        while True:
            assert process.is_alive()
            if (store / "panel.zarr").exists():
                panel = read_panel(store / "panel.zarr")
                if arm in panel["arm"].values and int(panel["measured"].sel(arm=arm)[0]) >= enough:
                    break
            time.sleep(0.01)
        process.kill()
        process.join()
        before = read_panel(store / "panel.zarr").load()
        agrees(before, truth)
        assert int(before["measured"].sel(arm=arm)[0]) >= enough
    xr.testing.assert_identical(killable.planted(store, latents=24, **EXTRAS), truth)


@pytest.mark.slow
def test_a_panel_can_be_read_while_it_is_written(truth, processes, tmp_path):
    panel, _ = truth
    store = tmp_path / "run"
    process = processes.Process(target=killable.main, args=(str(store), "0.01"))
    process.start()
    seen = set()
    while process.is_alive():
        if (store / "panel.zarr").exists():
            read = read_panel(store / "panel.zarr")
            n = read.sizes["latent"]
            agrees(read, panel)
            seen.add(n)
        time.sleep(0.02)
    assert process.exitcode == 0
    assert len(seen) > 3


def test_latents_are_added_to_a_panel(truth, tmp_path):
    panel, unbroken = truth
    killable.planted(tmp_path / "run", latents=40)
    xr.testing.assert_identical(killable.planted(tmp_path / "run"), panel)
    same_files(tmp_path / "run", unbroken)
    with pytest.raises(UsageError, match="holds a study of 120 latents: ask for as many or more"):
        killable.planted(tmp_path / "run", latents=60)


def test_what_a_killed_writer_left_beside_a_file_is_in_nobodys_way(tmp_path):
    store = tmp_path / "run"
    store.mkdir()
    (store / ".4711-config.yaml").write_text("half a conf")  # killed before there was a configuration
    assert killable.planted(store, latents=8).sizes["latent"] == 8
    assert not (store / ".4711-config.yaml").exists()


class Refuses:
    """Measures nothing."""

    def map(self, setting, tasks):
        raise AssertionError("measured again")


def test_a_finished_run_computes_nothing(truth):
    panel, store = truth
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    xr.testing.assert_identical(killable.planted(store, executor=Refuses()), panel)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before | {
        store / ".lock": (store / ".lock").stat().st_mtime_ns
    }


def test_nothing_is_overwritten(truth, tmp_path):
    _, store = truth
    with pytest.raises(UsageError, match=r"holds another study \(alpha 1.0 there, 0.5 here\): choose another --out"):
        killable.planted(store, alpha=0.5)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists and is not a run"):
        killable.planted(other)
    assert [p.name for p in other.iterdir()] == ["letter.txt"]


def test_other_weights_or_versions_are_another_study(truth, tmp_path):
    shutil.copytree(truth[1], tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["resolved"]["versions"]["torch"] = "1.0.0"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError, match=r"holds another study \(versions .*1\.0\.0.* there"):
        killable.planted(tmp_path / "run")


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(processes, tmp_path):
    store = tmp_path / "run"
    process = processes.Process(target=killable.main, args=(str(store), "0.05"))
    process.start()
    while not (store / "panel.zarr").exists():
        assert process.is_alive()
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is writing in"):
        killable.planted(store)
    process.kill()
    process.join()
    assert (store / ".lock").exists()
    assert killable.planted(store).sizes["latent"] == killable.LATENTS  # the dead process's lock is nobody's


def test_a_damaged_chunk_is_found(truth, tmp_path):
    shutil.copytree(truth[1], tmp_path / "run")
    chunk = tmp_path / "run" / "panel.zarr" / "inside" / "0.0.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[-3] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(GandidError, match="is damaged"):
        open_panel(tmp_path / "run")


def test_a_folder_that_is_taken_away(truth, tmp_path, monkeypatch):
    write, store = PanelStore.write, tmp_path / "run"

    def then_remove(self, *measured):
        write(self, *measured)
        shutil.rmtree(store)

    monkeypatch.setattr(PanelStore, "write", then_remove)
    with pytest.raises(GandidError, match="was removed while the study ran") as error:
        killable.planted(store)
    assert "\n" not in str(error.value)
    assert not store.exists() or not (store / "panel.zarr").exists()


def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may write anywhere
        with pytest.raises(GandidError, match="permission denied"):
            killable.planted(tmp_path / "run")
    finally:
        if root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


FULL = """
import sys, pathlib, subprocess
sys.path[:0] = {path!r}
small = pathlib.Path({small!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={size}k", "tmpfs", str(small)], check=True)
import killable
from gandid.errors import GandidError
try:
    killable.planted(small / "run")
except GandidError as error:
    print("told:", error)
subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
panel = killable.planted(small / "run")
print("then:", panel.sizes["latent"], int(panel["inside"].sum()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 200])
def test_a_full_disk(truth, tmp_path, size):
    """A disk of some hundred KiB fills up; when it is made larger, the same call goes on."""
    script = FULL.format(path=sys.path, small=str(tmp_path), size=size)
    alone = ["unshare", "--mount", "--map-root-user"] if os.geteuid() else ["unshare", "--mount"]
    if subprocess.run([*alone, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("no private mounts are allowed here")
    done = subprocess.run([*alone, sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, then = done.stdout.splitlines()
    assert "no space left on device" in told
    assert then == f"then: {killable.LATENTS} {int(truth[0]['inside'].sum())}"


@pytest.mark.slow
def test_an_interrupted_ranking_goes_on(tmp_path, processes):
    process = processes.Process(target=killable.main, args=(str(tmp_path / "run"), "0.2"))
    process.start()
    ranking = tmp_path / "run" / ".ranking"
    while not (ranking.exists() and ranking.stat().st_size):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    done = ranking.stat().st_size
    ranking.write_bytes(ranking.read_bytes() + b"half a latent")
    unbroken = killable.planted(None)
    assert done
    xr.testing.assert_allclose(killable.planted(tmp_path / "run"), unbroken)
    assert not ranking.exists()


def test_a_run_that_was_copied_in_part_gets_one_line(truth, tmp_path):
    config = (truth[1] / "config.yaml").read_text()
    half = config[: config.index("\nresolved")]
    for number, content in enumerate(["", "- a\n", half, config + "\tx: [\n"]):
        store = tmp_path / str(number)
        shutil.copytree(truth[1], store)
        (store / "config.yaml").write_text(content)
        for work in (killable.planted, lambda folder: write_estimates(folder, open_panel(folder))):
            with pytest.raises(UsageError, match=r"config\.yaml' (cannot be read|is damaged or cut short)") as told:
                work(store)
            assert "\n" not in str(told.value)
    for path in (store / "panel.zarr").glob(".z*"):
        path.unlink()
    with pytest.raises(GandidError, match=r"panel\.zarr is damaged"):
        open_panel(store)


def test_a_run_of_the_first_version_gets_one_line(truth, tmp_path):
    shutil.copytree(truth[1], tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    config["precision"] = config.pop("dtype")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError, match=r"was made by gandid 0\.1: run the study again"):
        killable.planted(tmp_path / "run")
