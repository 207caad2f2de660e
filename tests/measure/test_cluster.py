"""A study on a real Ray cluster of this machine gives the panel of one process, whatever happens to the workers."""

import contextlib
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray
import torch
import xarray as xr
from killable import planted
from planted import PlantedGenerator, PlantedSegmenter
from torch import nn

from gandid.errors import GandidError, UsageError
from gandid.generators import load_generator
from gandid.interventions import pixel_norm, register_site
from gandid.latents import latents
from gandid.measure.executors import Ray
from gandid.panel.store import read_panel
from gandid.segmenters import load_segmenter
from gandid.study import Study

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # workers import this test's modules
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker of one core has: kernels for more threads add up in another order
    ray.init("local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # gone since, or killed and not yet buried
            if "_Actor" in "".join(process.cmdline()):
                found.append(process)
    return found


def test_a_worker_is_killed_and_the_panel_is_the_same(cluster, tmp_path):
    truth = planted(None)
    killed = []

    def kill() -> None:
        """Kill two workers, one after the other, each in the middle of its work."""
        for enough in (16, 64):
            while True:
                time.sleep(0.02)
                try:
                    if read_panel(tmp_path / "run" / "panel.zarr").sizes["latent"] >= enough:
                        break
                except GandidError:
                    continue
            while not (alive := [worker for worker in workers() if worker.pid not in killed]):
                time.sleep(0.02)
            victim = alive[0]
            victim.kill()
            killed.append(victim.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    panel = planted(tmp_path / "run", slow=0.05, executor=Ray(workers=2))
    killer.join(10)
    assert len(set(killed)) == 2
    xr.testing.assert_identical(panel, truth)


def test_every_kind_of_arm_is_the_same(cluster, tmp_path):
    asked = {"latents": 20, "dose": (0, 0.5, 1), "sites": "shapley", "placebos": 2}
    here, there = (planted(None, **asked, executor=executor) for executor in (None, Ray(workers=2)))
    xr.testing.assert_identical(here, there)


class Halved(nn.Module):
    """A normalization of the user's own."""

    def forward(self, x):
        return x / (2 * (x.square().mean(1, keepdim=True) + 1e-8).sqrt())


class OwnSite(PlantedGenerator):
    def __init__(self):
        super().__init__()
        self.norm = Halved()


def test_workers_know_the_sites_that_the_user_registered(cluster):
    def halves(module, x, statistic):
        return x / (2 * statistic.scale)

    register_site(Halved, replace(pixel_norm(), apply=halves))
    study = Study(OwnSite(), PlantedSegmenter(), layer="paint", seed=5)
    here, there = (study.run({"a": [0]}, latents=20, executor=executor) for executor in (None, Ray(workers=1)))
    xr.testing.assert_identical(here, there)
    assert (here["strain"] != 0).any()


class Forgetful(PlantedGenerator):
    """Has another size once it was sent elsewhere."""

    def __setstate__(self, state):
        super().__setstate__(state)
        self.norm = nn.Identity()


def test_a_worker_that_has_another_network_is_refused(cluster):
    study = Study(Forgetful(), PlantedSegmenter(), layer="paint", seed=5)
    with pytest.raises(GandidError, match="a worker's generator is not the study's") as raised:
        study.run({"a": [0]}, latents=20, executor=Ray(workers=1))
    until = time.monotonic() + 20
    while workers() and time.monotonic() < until:
        time.sleep(0.1)
    assert raised.tb and not workers()  # none outlives the study, although its error is still held


class Stubborn(PlantedGenerator):
    """Refuses one latent, as long as it does."""

    refuses = True

    def forward(self, z):
        if self.refuses and (z == latents(5, [40], 1)).any():
            raise RuntimeError("latent 40 is refused")
        return super().forward(z)


def test_a_chunk_that_fails_is_told_and_tried_again(cluster, tmp_path):
    generator = Stubborn()
    study = Study(generator, PlantedSegmenter(), layer="paint", seed=5)
    study.rows = 16
    with pytest.warns(UserWarning, match=r"latents 32 to 47 could not be measured: .*latent 40 is refused"):
        panel = study.run({"a": [0]}, control="capped", latents=96, store=tmp_path / "run", executor=Ray(workers=2))
    assert panel["latent"].values.tolist() == [*range(32), *range(48, 96)]
    # What is missing is measured by the same call once nothing stands in the way.
    generator.refuses = False
    panel = study.run({"a": [0]}, control="capped", latents=96, store=tmp_path / "run")
    assert panel["latent"].values.tolist() == [*range(32), *range(48, 96), *range(32, 48)]
    whole = study.run({"a": [0]}, control="capped", latents=96)
    xr.testing.assert_identical(panel.sortby("latent"), whole)


def test_a_users_own_file_goes_to_the_workers(cluster, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from planted import PlantedGenerator\n"
        "class Mine(PlantedGenerator):\n"
        "    pass\n"
        "def make():\n"
        "    return Mine()\n"
    )
    study = Study(load_generator(f"{tmp_path / 'mine.py'}:make"), PlantedSegmenter(), layer="paint")
    here, there = study.run({"a": [0]}, latents=20), study.run({"a": [0]}, latents=20, executor=Ray(workers=1))
    xr.testing.assert_identical(here, there)


@pytest.mark.parametrize(
    ("name", "layer", "inputs"),
    [
        ("your_gan", "net.0", []),
        ("dcgan", "main.3", []),
        ("biggan", "blocks.0.second", ["y=0..4"]),
        ("vae", "conv_in", []),
        ("stylegan1", "blocks.1.conv", []),
    ],
)
def test_the_examples_are_the_same_there_and_in_a_run_that_goes_on(cluster, tmp_path, name, layer, inputs):
    generator = load_generator(f"{EXAMPLES / name}.py:make", inputs=inputs)
    study = Study(generator, load_segmenter(f"{EXAMPLES}/your_gan.py:colours"), layer=layer)
    options = {"targets": {"bright": [0, 1, 2, 5]}, "control": ["capped", "frozen"], "dose": [0, 0.5]}
    here = study.run(latents=24, **options)
    study.run(latents=8, store=tmp_path / "run", **options)
    there = study.run(latents=24, store=tmp_path / "run", executor=Ray(workers=2), **options)
    # Counts are the same; where a pass has another size, convolutions may round otherwise.
    floats = [name for name, values in here.items() if values.dtype.kind == "f"]
    xr.testing.assert_equal(here.drop_vars(floats), there.drop_vars(floats))
    xr.testing.assert_allclose(here[floats].astype(float), there[floats].astype(float), rtol=1e-4, atol=2e-3)


def test_a_cluster_that_is_not_there():
    ray.shutdown()
    with pytest.raises(UsageError, match=r"no Ray cluster at .127\.0\.0\.1:1."):
        list(Ray("127.0.0.1:1").map(None, [(0,)]))


def test_a_cluster_that_does_not_start_is_told_in_a_line(monkeypatch):
    """Ray raises an exception of no kind of its own where a node does not start in time."""

    def too_slow(**_):
        raise Exception("The current node timed out during startup.\nThis could happen because of many things.")

    monkeypatch.setattr(ray, "init", too_slow)
    with pytest.raises(UsageError, match=r"no Ray cluster could be started here \(Exception: .* startup\.\):") as told:
        list(Ray().map(None, [(0,)]))
    assert "\n" not in str(told.value)
