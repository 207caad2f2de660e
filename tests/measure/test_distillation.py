"""Distilled networks: learned, kept, interrupted, refused, and as a control whose truth is planted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import PlantedGenerator, PlantedSegmenter
from torch import nn

from gandid.errors import GandidError, UsageError
from gandid.estimation import did
from gandid.generators import Generator
from gandid.generators.distilled import read_distilled
from gandid.interventions import Runner, find_sites
from gandid.latents import latents
from gandid.measure.distillation import Distillation, Schedule, distil
from gandid.study import Study

SHORT = Schedule(batches=30, batch=8, rate=0.01, noise=0.02)


class Painter(PlantedGenerator):
    """The planted generator with a layer after its normalization, which shows the channels as they are."""

    def __init__(self, faint: float = 0.6):
        super().__init__(faint)
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.mix.weight = nn.Parameter(torch.eye(3)[:, :, None, None])

    def forward(self, z):
        return self.mix(super().forward(z))


class Tiny(Generator):
    """A PG-GAN of 16 px with random weights."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__((8, 8, 8), 6)
        self.eval()


class Bright:
    classes, background = ("dark", "bright"), ("dark",)

    def __call__(self, images):
        return (images[:, 0] > 0).long()


def learned(generator, layer, segmenter, folder, placebo=False, seed=1, schedule=SHORT):
    return distil(Distillation(generator, layer, placebo, seed, schedule), segmenter, folder)[0]


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """Networks this small need not make the very same images."""
    monkeypatch.setattr("gandid.measure.distillation.AGREEMENT", 0.0)
    monkeypatch.setattr("gandid.measure.distillation.DIFFERENCE", 9.0)
    monkeypatch.setattr("gandid.generators.distilled.DIFFERENCE", 9.0)


def test_only_what_follows_the_layer_learns_and_constants_stand_for_its_normalizations(tmp_path):
    generator, z = Tiny(), torch.randn(4, 6)
    path = learned(generator, "layer3", Bright(), tmp_path)
    name, network = read_distilled(path, generator, "layer3")
    assert name == "distilled-1"
    torch.testing.assert_close(network.prefix(z, "layer3"), generator.prefix(z, "layer3"), rtol=0, atol=0)
    runner, own = Runner(network, "layer3"), Runner(generator, "layer3")
    assert runner.downstream == own.downstream and not any(runner.responds.values())
    assert runner.upstream == own.upstream and all(own.responds.values())
    assert all(find_sites(network)[site].responds for site in runner.upstream)
    placebo = read_distilled(learned(generator, "layer3", Bright(), tmp_path, placebo=True), generator, "layer3")[1]
    assert all(Runner(placebo, "layer3").responds.values())
    assert not torch.equal(placebo.layer4.conv.weight, generator.layer4.conv.weight)


def test_learning_brings_the_images_nearer():
    generator = Tiny()
    for placebo in (False, True):
        network = Distillation(generator, "layer3", placebo, 1, Schedule(40, 8, 0.04, 0.2))
        before = network.compare(Bright())[1]
        while network.done < 40:
            network.step()
        assert network.compare(Bright())[1] < 0.7 * before


def test_what_is_interrupted_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = learned(Tiny(), "layer3", Bright(), tmp_path / "whole")
    network, step = Distillation(Tiny(), "layer3", False, 1, SHORT), Distillation.step

    def interrupted(self):
        if self.done == 25:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Distillation, "step", interrupted)
    broken = tmp_path / "broken" / whole.name
    monkeypatch.setattr("gandid.measure.distillation.EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        distil(network, Bright(), broken)
    monkeypatch.setattr(Distillation, "step", step)
    other = Distillation(Tiny(), "layer3", False, 2, SHORT)
    with pytest.raises(UsageError, match="another distillation"):
        distil(other, Bright(), broken)
    counted = []
    distil(Distillation(Tiny(), "layer3", False, 1, SHORT), Bright(), broken, counted.append)
    assert counted == [25] + 5 * [1]
    assert broken.read_bytes() == whole.read_bytes() and [p.name for p in broken.parent.iterdir()] == [broken.name]


def test_a_network_that_makes_other_images_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("gandid.measure.distillation.AGREEMENT", 0.97)
    with pytest.raises(GandidError, match="give more --batches"):
        learned(Tiny(), "layer3", Bright(), tmp_path, schedule=Schedule(2, 8, 1e-6, 2.0))
    assert not list(tmp_path.glob("*.safetensors"))


def test_what_is_no_distilled_network_is_refused_in_a_line(tmp_path, monkeypatch):
    generator = Tiny()
    path = learned(generator, "layer3", Bright(), tmp_path)
    with pytest.raises(UsageError, match="distilled after layer3"):
        read_distilled(path, generator, "layer4")
    with pytest.raises(UsageError, match="another generator"):
        read_distilled(path, Generator((8, 8, 4), 6), "layer3")
    monkeypatch.setattr("gandid.generators.distilled.DIFFERENCE", 0.01)
    with pytest.raises(UsageError, match="another generator: its images differ by"):
        read_distilled(path, Tiny().requires_grad_(False).apply(halved), "layer3")
    with pytest.raises(UsageError, match="none to distil away"):
        Distillation(Generator((8, 8), 6, pixel_norm=False).eval(), "layer3", False, 0, SHORT)


def halved(module):
    if hasattr(module, "weight"):
        module.weight.data.mul_(0.5)


class Aside(nn.Module):
    """Normalizes by the last unit alone, which is 1 everywhere: no edit of the others reaches the statistic."""

    def statistic(self, x):
        return (x[:, 2:].square() + 1e-8).sqrt()

    def apply_statistic(self, x, sigma):
        return x / sigma

    def forward(self, x):
        return self.apply_statistic(x, self.statistic(x))


class Bare(Painter):
    """Shows what is painted; its normalization has no part in it."""

    def __init__(self):
        super().__init__(0.6)
        self.norm = Aside()


def effects(generator, folder, **asked):
    study = Study(generator, PlantedSegmenter(), layer="paint", seed=3, distilled=[folder])
    asked = {"control": "distilled", "latents": 40} | asked
    return did(study.run({"a": [0]}, **asked)).frame


def of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def test_what_normalization_makes_of_an_edit_is_found_and_what_learning_does_is_not(tmp_path):
    """Without normalization the images are linear in the units, so that the layer after it can learn them exactly; ablating A then
    leaves B as faint as it was. With it the gain lifts B over the threshold in the latents that have it."""
    for seed in (1, 2):
        for placebo in (False, True):
            learned(Painter(), "paint", PlantedSegmenter(), tmp_path, placebo, seed, Schedule(300, 8, 0.04, 0.1))
    frame = effects(Painter(), tmp_path, dose=[0.5, 1.0])
    share = (latents(3, range(40), 1)[:, 0] > 0).double().mean().item()
    each = of(frame, contrast="did", outcome="inpainted", object="b").set_index("arm")["tau_held"]
    assert each.to_dict() == pytest.approx({"distilled:1": 0, "distilled:2": 0, "placebo:1": share, "placebo:2": share})
    row = of(frame, contrast="networks", outcome="inpainted", object="b", dose=1.0).iloc[0]
    assert row[["tau_live", "tau_held", "did"]].tolist() == pytest.approx([share, 0, share])
    assert row["se"] == pytest.approx(np.sqrt(share * (1 - share) / 39)) and row["n"] == 4
    removed = of(frame, contrast="networks", outcome="removed", dose=1.0).iloc[0]
    assert removed[["tau_live", "did", "se"]].tolist() == [1, 0, 0]
    assert set(of(frame, contrast="networks")["dose"]) == {0.5, 1.0}


def test_without_a_normalization_that_an_edit_reaches_there_is_no_effect(tmp_path):
    for seed in (1, 2):
        learned(Bare(), "paint", PlantedSegmenter(), tmp_path, False, seed, Schedule(200, 8, 0.04, 0.1))
    frame = effects(Bare(), tmp_path)
    rows = of(frame, contrast="networks")
    assert (of(rows, outcome="removed")["tau_live"] == 1).all() and (rows[["did", "se"]] == 0).all(axis=None)
    with pytest.raises(UsageError, match="'gandid distil'"):
        Study(Bare(), PlantedSegmenter(), layer="paint").run({"a": [0]}, control="distilled")


def test_of_one_network_there_is_no_interval(tmp_path):
    learned(Painter(), "paint", PlantedSegmenter(), tmp_path, schedule=Schedule(1, 8, 1e-6, 0.0))
    row = of(effects(Painter(), tmp_path), contrast="networks", outcome="removed").iloc[0]
    assert np.isfinite(row["did"]) and np.isnan(row["se"]) and np.isnan(row["ci_low"])


@pytest.mark.slow
def test_a_killed_distillation_goes_on(tmp_path):
    """`gandid distil` in processes of its own; what is learned is kept every quarter of a second."""
    here = Path(__file__).parents[1]
    factory = "from test_distillation import Painter\nfrom planted import PlantedSegmenter as segmenter\n"
    (tmp_path / "own.py").write_text(f"{factory}def generator():\n    return Painter()\n")
    words = ["distil", f"--generator={tmp_path}/own.py:generator", f"--segmenter={tmp_path}/own.py:segmenter"]
    words += ["--layer=paint", "--batches=400", "--device=cpu"]
    script = "import gandid.measure.distillation as d; d.EVERY = 0.25; from gandid.cli import main; main({})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here / "measure"), *sys.path])}

    def start(out):
        return subprocess.Popen([sys.executable, "-c", script.format([*words, f"--out={out}"])], env=environment)

    assert start(tmp_path / "whole").wait(300) == 0
    process, kept = start(tmp_path / "killed"), tmp_path / "killed" / ".distilled-0.checkpoint"
    while not kept.exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and kept.exists()
    assert start(tmp_path / "killed").wait(300) == 0
    whole, again = (next((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    assert again.read_bytes() == whole.read_bytes() and not kept.exists()
