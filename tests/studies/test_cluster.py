"""A study on a real Ray cluster of this machine gives the panel of one process, whatever happens to the workers."""

import os
import sys
import threading
import time

import numpy as np
import pytest
import torch
import xarray as xr
from killable import planted
from planted import PlantedGenerator, PlantedSegmenter

import gandid
from gandid.errors import UsageError
from gandid.studies.executors import Ray
from gandid.studies.latents import latents

psutil = pytest.importorskip("psutil")
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers import this test's modules
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()


def workers() -> list[psutil.Process]:
    here = psutil.Process().children(recursive=True)
    return [process for process in here if "_Actor" in "".join(process.cmdline())]


def test_a_worker_is_killed_and_the_panel_is_the_same(cluster, tmp_path):
    truth = planted(None)
    killed = []

    def kill() -> None:
        """Kill two workers, one after the other, each in the middle of its work."""
        for enough in (16, 64):
            while True:
                time.sleep(0.02)
                try:
                    with xr.open_zarr(tmp_path / "run" / "panel.zarr", chunks=None) as panel:
                        if panel.sizes["latent"] >= enough:
                            break
                except FileNotFoundError:
                    continue
            victim = workers()[0]
            victim.kill()
            killed.append(victim.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    panel = planted(tmp_path / "run", slow=0.05, executor=Ray(workers=2))
    killer.join(10)
    assert len(set(killed)) == 2
    xr.testing.assert_identical(panel, truth)


class Stubborn(PlantedGenerator):
    """Refuses one latent."""

    def forward(self, z):
        if (z == latents(5, [40], 1)).any():
            raise RuntimeError("latent 40 is refused")
        return super().forward(z)


def test_a_chunk_that_fails_is_told_and_tried_again(cluster, tmp_path):
    study = gandid.Study(Stubborn(), PlantedSegmenter(), layer="paint", seed=5)
    study.rows = 16
    with pytest.warns(UserWarning, match=r"latents 32 to 47 could not be measured: .*latent 40 is refused"):
        panel = study.run({"a": [0]}, latents=96, store=tmp_path / "run", executor=Ray(workers=2))
    assert panel["latent"].values.tolist() == [*range(32), *range(48, 96)]
    # What is missing is measured by the same call once nothing stands in the way; the panel knows its latents by number.
    healed = gandid.Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=5)
    healed.rows, healed.name = 16, "Stubborn"
    healed.generator.__class__.__qualname__ = "Stubborn"
    try:
        panel = healed.run({"a": [0]}, latents=96, store=tmp_path / "run")
    finally:
        healed.generator.__class__.__qualname__ = "PlantedGenerator"
    assert sorted(panel["latent"].values) == list(range(96))
    whole = healed.run({"a": [0]}, latents=96)
    xr.testing.assert_identical(panel["inside"].sortby("latent"), whole["inside"])
    np.testing.assert_allclose(panel["gain_map"], whole["gain_map"], rtol=1e-6)


def test_a_cluster_that_is_not_there():
    ray.shutdown()
    with pytest.raises(UsageError, match=r"no Ray cluster at .127\.0\.0\.1:1."):
        list(Ray("127.0.0.1:1").map(torch.nn.Identity, [(0,)]))
