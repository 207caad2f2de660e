"""`--until`: a study measures until it is precise enough, stops where an unbroken one would, and says why."""

import multiprocessing
import time

import killable
import numpy as np
import pytest
import xarray as xr

from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.estimation import stopping
from gandid.panel.store import read_panel
from gandid.runs import read_config

# What is in-painted of `a` is all or nothing, each in half of the latents: 1.5 / sqrt(n) is as wide a sequence.
ASKED = {"latents": 40, "until": 0.15, "max_latents": 1000}


class Refuses:
    """Measures nothing."""

    def map(self, setting, tasks):
        assert not tasks
        return iter(())


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    store = tmp_path_factory.mktemp("unbroken") / "run"
    return killable.planted(store, **ASKED), store


def measured(store) -> int:
    """Latents that a run has published."""
    if not (store / "panel.zarr" / ".zmetadata").exists():
        return 0
    return read_panel(store / "panel.zarr").sizes["latent"]


def widest(panel: xr.Dataset) -> float:
    found = stopping.half_widths(panel)
    return found[found["target"] == "a"]["half_width"].max()  # `b` is in no image


def test_it_stops_at_the_first_look_that_is_precise_enough(unbroken):
    panel, store = unbroken
    looks = [40]
    while looks[-1] < panel.sizes["latent"]:
        looks.append(stopping.next_look(looks[-1], 1000))
    assert 80 <= looks[-1] == panel.sizes["latent"] <= 200
    wide = [widest(panel.isel(latent=slice(look))) for look in looks]
    assert wide[-1] <= 0.15 < min(wide[:-1])
    assert read_config(store)["latents"] == looks[-1]
    reason = read_config(store)["resolved"]["stopped"]
    assert f"{looks[-1]} latents" in reason and f"{100 * wide[-1]:.3g} points" in reason


def test_without_a_folder_it_is_the_same_panel(unbroken):
    xr.testing.assert_identical(killable.planted(None, **ASKED), unbroken[0])


def test_a_finished_run_measures_nothing_when_it_is_asked_again(unbroken):
    panel, store = unbroken
    before = (store / "effects.csv").read_bytes()
    xr.testing.assert_identical(killable.planted(store, **ASKED, executor=Refuses()), panel)
    # Its own configuration says how many were measured, and asks for as many.
    again = StudyConfig.read(store / "config.yaml")
    assert (again.latents, again.until) == (panel.sizes["latent"], 0.15)
    assert (store / "effects.csv").read_bytes() == before
    with pytest.raises(UsageError, match=rf"holds a study of {panel.sizes['latent']} latents: allow as many or more"):
        killable.planted(store, latents=40, until=0.15, max_latents=50)
    with pytest.raises(UsageError, match="ask for as many or more"):
        killable.planted(store, latents=40)


@pytest.mark.slow
def test_a_run_that_is_killed_stops_at_the_size_of_an_unbroken_one(unbroken, tmp_path):
    panel, whole = unbroken
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    store = tmp_path / "run"
    for enough in (16, 60):  # before the first look, and between two
        process = context.Process(target=killable.planted, args=(store,), kwargs={"slow": 0.1, **ASKED})
        process.start()
        while process.is_alive() and measured(store) < enough:
            time.sleep(0.01)
        process.kill()
        process.join()
        assert enough <= measured(store) < panel.sizes["latent"]
        assert measured(store) <= read_config(store)["latents"] <= panel.sizes["latent"]
    xr.testing.assert_identical(killable.planted(store, **ASKED), panel)
    for name in ("effects.csv", "checks.csv", "relation.csv"):
        assert (store / name).read_bytes() == (whole / name).read_bytes()
    assert read_config(store)["latents"] == panel.sizes["latent"]


@pytest.mark.slow
def test_it_can_be_asked_to_go_on_and_stops_at_the_latents_that_are_allowed(tmp_path):
    store = tmp_path / "run"
    first = killable.planted(store, latents=40)
    assert "stopped" not in read_config(store)["resolved"]
    allowed = killable.planted(store, latents=20, until=0.01, max_latents=90)
    assert allowed.sizes["latent"] == 90
    np.testing.assert_array_equal(allowed["inside"][:, :40], first["inside"])
    assert f"{100 * widest(allowed):.3g} points" in read_config(store)["resolved"]["stopped"]
    # It is content with less, and says so, without measuring anything.
    killable.planted(store, latents=20, until=0.5, max_latents=100, executor=Refuses())
    assert "50 points" in read_config(store)["resolved"]["stopped"]
    more = killable.planted(store, latents=20, until=0.16, max_latents=1000)
    assert 90 < more.sizes["latent"] < 150
    assert widest(more) <= 0.16
    # Extended by number, it is no run that stopped by itself.
    killable.planted(store, latents=150)
    assert "stopped" not in read_config(store)["resolved"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"until": 0.1, "chunk": "1/2"}, "leave out --until or --chunk"),
        ({"until": 0.1, "latents": 30, "max_latents": 20}, "30 latents are more than the 20 allowed"),
        ({"until": 0.0}, "until: give more than 0"),
    ],
)
def test_bad_requests_get_one_line(tmp_path, asked, told):
    with pytest.raises(UsageError, match=told) as error:
        killable.planted(tmp_path / "run", **{"latents": 40} | asked)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_on_a_cluster_it_stops_at_the_same_size(unbroken, tmp_path, monkeypatch):
    import os
    import sys

    import ray

    from gandid.measure.executors import Ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # workers import this test's modules
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        panel = killable.planted(tmp_path / "run", **ASKED, executor=Ray(workers=2))
    finally:
        ray.shutdown()
    xr.testing.assert_identical(panel, unbroken[0])
