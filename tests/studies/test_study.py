"""Studies: determinism, the folder of a run, and what is refused."""

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from planted import PlantedGenerator, PlantedSegmenter

import gandid
from gandid.errors import GandidError, UsageError
from gandid.generators import Generator
from gandid.studies import StudyConfig, read_config
from gandid.studies import study as study_module
from gandid.studies.latents import latents


class Thirds:
    """Labels by colour alone: enough for a generator with random weights."""

    classes = ("wall", "red", "green", "unknown")
    background = ("wall",)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.where(images[:, 0] > 0.3, 1, torch.where(images[:, 1] > 0.3, 2, 0))


def tiny(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator((8, 8, 6), latent_dim=5).eval()


def planted_study() -> gandid.Study:
    return gandid.Study(PlantedGenerator(), PlantedSegmenter(), layer="paint")


def test_a_latent_does_not_depend_on_its_company():
    alone = latents(7, [12], 6)
    assert torch.equal(alone[0], latents(7, range(20), 6)[12])
    assert not torch.equal(alone, latents(8, [12], 6))
    assert not torch.equal(alone, latents(7, [12], 6, "ranking"))


def test_the_panel_does_not_depend_on_the_batch(monkeypatch):
    panels = []
    for rows in (400, 20):
        monkeypatch.setattr(study_module, "_ROWS", rows)
        study = gandid.Study(tiny(), Thirds(), layer="layer2")
        panels.append(study.run({"red": [0, 1], "green": [2]}, control=["capped", "frozen"], latents=12))
    for name in ("pixels", "inside", "gain", "strain"):
        # Convolutions of another batch size may round otherwise; a pixel at the threshold may then change sides.
        np.testing.assert_allclose(panels[0][name], panels[1][name], atol=1 if name in ("pixels", "inside") else 1e-4)


def test_arms_that_are_the_same_are_run_once_and_equal():
    panel = gandid.Study(tiny(), Thirds(), layer="layer2").run(
        {"red": [0, 1]}, control=["capped", "frozen"], hold=["first", "all"], latents=6
    )
    assert (
        panel["pixels"]
        .sel(arm="capped:first")
        .equals(panel["pixels"].sel(arm="frozen:first").assign_coords(panel["pixels"].sel(arm="capped:first").coords))
    )
    assert not (panel["pixels"].sel(arm="capped:all").values == panel["pixels"].sel(arm="frozen:all").values).all()
    assert (panel["baseline_gap"].dropna("latent") < 1e-5).all()
    assert (panel["placebo_gap"].dropna("latent") == 0).all()


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_other_ablations_run(ablation):
    panel = gandid.Study(tiny(), Thirds(), layer="layer2").run(
        {"red": [0, 1]}, control=["capped", "frozen"], latents=6, ablation=ablation, ranking_latents=70
    )
    assert panel.attrs["ablation"] == ablation
    assert np.isnan(panel["gain_error"]).all()  # the closed form is of ablation to zero
    assert (panel["baseline_gap"].dropna("latent") < 1e-5).all()


def test_alpha_zero_changes_nothing():
    panel = gandid.Study(tiny(), Thirds(), layer="layer2").run({"red": [0, 1]}, latents=6, alpha=0.0)
    live, reference = panel["pixels"].sel(arm="live"), panel["pixels"].sel(arm="reference")
    assert (live.values == reference.values).all()


def test_a_run_is_written_whole_and_read_back(tmp_path):
    store = tmp_path / "run"
    panel = planted_study().run(["a"], units=1, latents=10, ranking_latents=8, store=store, command="gandid run")
    assert {p.name for p in store.iterdir()} == {
        "config.yaml", "panel.zarr", "relation.csv", "effects.csv", "checks.csv", "examples.npz",
    }  # fmt: skip
    with xr.open_zarr(store / "panel.zarr") as stored:
        xr.testing.assert_equal(stored.load(), panel)
    config = read_config(store)
    assert config["resolved"]["chosen"] == {"a": [0]}
    assert len(config["resolved"]["weights"]["generator"]) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["run"]  # nothing half-written beside it
    # The configuration of a run can be run again.
    assert StudyConfig.read(store / "config.yaml").latents == 10


def test_the_same_study_is_not_computed_twice(tmp_path):
    first = planted_study().run(["a"], units=1, latents=6, ranking_latents=4, store=tmp_path / "run")
    before = (tmp_path / "run" / "panel.zarr").stat().st_mtime_ns
    again = planted_study().run(["a"], units=1, latents=6, ranking_latents=4, store=tmp_path / "run")
    xr.testing.assert_equal(first, again)
    assert (tmp_path / "run" / "panel.zarr").stat().st_mtime_ns == before


def test_nothing_is_overwritten(tmp_path):
    store = tmp_path / "run"
    planted_study().run(["a"], units=1, latents=6, ranking_latents=4, store=store)
    with pytest.raises(UsageError, match=r"holds another study .*latents 6 there, 7 here"):
        planted_study().run(["a"], units=1, latents=7, ranking_latents=4, store=store)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="exists and is not a run"):
        planted_study().run(["a"], units=1, latents=6, store=other)
    assert [p.name for p in other.iterdir()] == ["letter.txt"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        study_module.folder, "write_parts", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(GandidError, match="No space left"):
        planted_study().run(["a"], units=1, latents=6, ranking_latents=4, store=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_never_seen_is_not_estimable():
    panel = planted_study().run(["a", "never"], units=1, latents=10, ranking_latents=4)
    effects = gandid.did(panel)
    frame = effects.to_frame()
    assert not frame.loc[frame.target == "never", "estimable"].any()
    assert "No image of 10 shows 'never': not estimable." in effects.sentences()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"targets": ["sofa"]}, "unknown class 'sofa': this segmenter sees wall, a, b, never"),
        ({"targets": {"a": [0, 3]}}, "unit 3 is out of range; paint has units 0 to 2"),
        ({"targets": {"a": [-1]}}, "unit -1 is out of range"),
        ({"targets": {"a": []}}, "no units are named"),
        ({"units": 4}, "only 3"),
        ({"latents": 0}, "latents: input should be greater than 0"),
        ({"hold": ["layer9.norm"]}, "unknown site 'layer9.norm': after paint come norm"),
        ({"control": ["thawed"]}, "control"),
        ({"ablation": "knife"}, "ablation"),
    ],
)
def test_bad_requests_get_one_line(tmp_path, asked, told):
    with pytest.raises(UsageError, match=told) as error:
        planted_study().run(**asked, store=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_is_needed_and_must_have_something_after_it():
    with pytest.raises(UsageError, match="unknown layer 'layer7': this generator has paint"):
        gandid.Study(PlantedGenerator(), PlantedSegmenter(), layer="layer7")
    with pytest.raises(UsageError, match="nothing to hold"):
        gandid.Study(PlantedGenerator(), PlantedSegmenter(), layer="norm")
    with pytest.raises(UsageError, match="name the layer to edit: this generator has paint"):
        gandid.Study(PlantedGenerator(), PlantedSegmenter())


def test_configuration_files_are_checked(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"layer": "layer4", "targets": "lamp", "latents": 64}))
    config = StudyConfig.read(path, latents=32)
    assert (config.targets, config.latents) == (("lamp",), 32)
    for text, told in [("layer: [", "not YAML"), ("- a", "holds no configuration"), ("lyer: x", "lyer")]:
        path.write_text(text)
        with pytest.raises(UsageError, match=told):
            StudyConfig.read(path)
