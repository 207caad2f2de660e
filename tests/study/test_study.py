"""Studies: determinism, the folder of a run, and what is refused."""

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from planted import PlantedGenerator, PlantedSegmenter

from gandid.config import StudyConfig
from gandid.errors import GandidError, UsageError
from gandid.estimation import did
from gandid.generators import Generator
from gandid.interventions import Runner
from gandid.latents import latents
from gandid.measure.memory import CPU_ROWS
from gandid.measure.worker import arithmetic
from gandid.runs import merge, open_panel, read_config, unfinished
from gandid.study import Study


class Thirds:
    """Labels by colour alone: enough for a generator with random weights."""

    classes = ("wall", "red", "green", "unknown")
    background = ("wall",)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return torch.where(images[:, 0] > 0.3, 1, torch.where(images[:, 1] > 0.3, 2, 0))


def tiny(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator((8, 8, 6), latent_dim=5).eval()


def planted_study() -> Study:
    return Study(PlantedGenerator(), PlantedSegmenter(), layer="paint")


def test_a_study_and_its_arms_show_themselves_in_a_notebook():
    study = planted_study()
    page = study._repr_html_()
    assert all(word in page for word in (*study.objects, *study.runner.downstream, "paint"))
    arms = study.run({"a": [0]}, control=["capped"], hold=["all"], latents=2, strength=[0.5])["arm"].to_dataframe()
    assert arms.loc["capped:all@k0.5", ["control", "held", "strength"]].tolist() == ["capped", "all", 0.5]


def test_a_latent_does_not_depend_on_its_company():
    alone = latents(7, [12], 6)
    assert torch.equal(alone[0], latents(7, range(20), 6)[12])
    assert not torch.equal(alone, latents(8, [12], 6))
    assert not torch.equal(alone, latents(7, [12], 6, "ranking"))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_has_64_bits(seed):
    assert not torch.equal(latents(2**64 - 1, [0], 2), latents(2**64 - 2, [0], 2))
    with pytest.raises(UsageError, match="seed"):
        StudyConfig.check(seed=seed)
    with pytest.raises(UsageError, match="seed"):
        Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=seed)


def test_the_panel_does_not_depend_on_the_batch():
    panels = []
    for rows in (400, 20, 4):  # 4 rows hold less than the arms of one latent
        study = Study(tiny(), Thirds(), layer="layer2")
        study.rows = rows
        panels.append(study.run({"red": [0, 1], "green": [2]}, control=["capped", "frozen"], latents=12))
    for panel in panels[1:]:
        assert set(panel) == set(panels[0])
        for name in panel:
            # Convolutions of another batch size may round otherwise; a pixel at the threshold may then change sides.
            atol = {"pixels": 1, "inside": 1, "shared": 1, "features": 2e-3}.get(str(name), 1e-4)
            np.testing.assert_allclose(panels[0][name], panel[name], atol=atol)


def test_arms_that_are_the_same_are_run_once_and_equal():
    panel = Study(tiny(), Thirds(), layer="layer2").run(
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
    panel = Study(tiny(), Thirds(), layer="layer2").run(
        {"red": [0, 1]}, control=["capped", "frozen"], latents=6, ablation=ablation, ranking_latents=70
    )
    assert panel.attrs["ablation"] == ablation
    assert np.isnan(panel["gain_error"]).all()  # the closed form is of ablation to zero
    assert (panel["baseline_gap"].dropna("latent") < 1e-5).all()


def test_alpha_zero_changes_nothing():
    panel = Study(tiny(), Thirds(), layer="layer2").run({"red": [0, 1]}, latents=6, alpha=0.0)
    live, reference = panel["pixels"].sel(arm="live"), panel["pixels"].sel(arm="reference")
    assert (live.values == reference.values).all()


def test_a_run_is_written_and_read_back(tmp_path):
    store = tmp_path / "run"
    panel = planted_study().run(["a"], units=1, latents=10, ranking_latents=8, store=store, command="gandid run")
    assert {p.name for p in store.iterdir() if not p.name.startswith(".")} == {
        "config.yaml", "panel.zarr", "relation.zarr", "relation.csv", "types.csv", "effects.csv", "checks.csv", "examples.npz",
    }  # fmt: skip
    xr.testing.assert_identical(open_panel(store), panel)
    config = read_config(store)
    assert config["resolved"]["chosen"] == {"a": [0]}
    assert len(config["resolved"]["weights"]["generator"]) == 64
    assert [p.name for p in tmp_path.iterdir()] == ["run"]  # nothing half-written beside it
    # The configuration of a run can be run again.
    assert StudyConfig.read(store / "config.yaml").latents == 10


def test_a_target_that_is_never_seen_is_not_estimable():
    panel = planted_study().run(["a", "never"], units=1, latents=10, ranking_latents=4)
    effects = did(panel)
    frame = effects.to_frame()
    assert not frame.loc[frame.target == "never", "estimable"].any()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"targets": ["sofa"]}, "unknown class 'sofa': this segmenter sees wall, a, b, never"),
        ({"targets": {"a": [0, 3]}}, "unit 3 is out of range; paint has units 0 to 2"),
        ({"targets": {"a": [-1]}}, "unit -1 is out of range"),
        ({"targets": {"a": []}}, "no units are named"),
        ({"units": 4}, "only 3"),
        ({"latents": 0}, "latents: give more than 0"),
        ({"hold": ["layer9.norm"]}, "unknown site 'layer9.norm': after paint come norm"),
        ({"control": ["thawed"]}, "control"),
        ({"ablation": "knife"}, "ablation"),
        ({"chunk": "4/3"}, "chunk: write K/N with K from 1 to N, such as 3/8, not .4/3"),
        ({"chunk": "half"}, "chunk: write K/N with K from 1 to N"),
        ({"chunk": "1/9", "latents": 8}, "8 latents are too few for so many parts"),
    ],
)
def test_bad_requests_get_one_line(tmp_path, asked, told):
    with pytest.raises(UsageError, match=told) as error:
        planted_study().run(**asked, store=tmp_path / "run")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_is_needed_and_must_have_something_after_it():
    with pytest.raises(UsageError, match="unknown layer 'layer7': this generator has paint"):
        Study(PlantedGenerator(), PlantedSegmenter(), layer="layer7")
    with pytest.raises(UsageError, match="nothing to hold"):
        Study(PlantedGenerator(), PlantedSegmenter(), layer="norm")
    with pytest.raises(UsageError, match="name the layer to edit: this generator has paint"):
        Study(PlantedGenerator(), PlantedSegmenter())


def test_configuration_files_are_checked(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"layer": "layer4", "targets": "lamp", "latents": 64}))
    config = StudyConfig.read(path, latents=32)
    assert (config.targets, config.latents) == (("lamp",), 32)
    for text, told in [
        ("layer: [", "not YAML"),
        ("- a", "holds no configuration"),
        ("lyer: x", "study.yaml: unknown setting 'lyer': did you mean 'layer'"),
    ]:
        path.write_text(text)
        with pytest.raises(UsageError, match=told):
            StudyConfig.read(path)


def test_half_precision_is_the_same_study_to_its_rounding():
    panels = [
        Study(tiny(), Thirds(), layer="layer2", dtype=dtype).run({"red": [0, 1]}, latents=12)
        for dtype in ("fp32", "bf16")
    ]
    assert [panel.attrs["dtype"] for panel in panels] == ["fp32", "bf16"]
    np.testing.assert_allclose(panels[0]["gain"], panels[1]["gain"], rtol=0.02)
    assert not np.array_equal(panels[0]["gain"], panels[1]["gain"], equal_nan=True)
    assert panels[1]["gain_error"].max() < 0.02
    np.testing.assert_allclose(panels[0]["pixels"].mean("latent"), panels[1]["pixels"].mean("latent"), atol=8)


def test_on_a_gpu_fp32_is_no_tf32_unless_it_is_asked_for():
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [each.allow_tf32 for each in flags]
    for dtype, allowed in (("fp32", False), ("tf32", True)):
        with arithmetic(torch.device("cuda"), dtype):
            assert [each.allow_tf32 for each in flags] == [allowed, allowed]
        assert [each.allow_tf32 for each in flags] == before
    with pytest.raises(UsageError, match="tf32 is arithmetic of NVIDIA GPUs, and the generator is on cpu"):
        Study(tiny(), Thirds(), layer="layer2", dtype="tf32")


def test_a_memory_budget_bounds_the_batch():
    rows = [Study(tiny(), Thirds(), layer="layer2", memory=2**mib).rows for mib in (20, 21, 30)]
    assert 2 <= rows[0] < rows[1] <= 2 * rows[0] + 1
    assert rows[2] == CPU_ROWS
    with pytest.raises(UsageError, match="0 MiB of memory hold no pair of images: this study needs"):
        Study(tiny(), Thirds(), layer="layer2", memory=1000)


def test_parts_are_merged_into_the_whole(tmp_path):
    def part(chunk, name, **asked):
        return planted_study().run({"a": [0]}, latents=30, chunk=chunk, store=tmp_path / name, **asked)

    whole = planted_study().run({"a": [0]}, latents=30, store=tmp_path / "whole")
    parts = [part(f"{k}/3", f"part-{k}") for k in (1, 2, 3)]
    assert [panel["latent"].values.tolist() for panel in parts] == [[*range(10)], [*range(10, 20)], [*range(20, 30)]]
    merged = merge([tmp_path / f"part-{k}" for k in (1, 2, 3)], tmp_path / "merged")
    own = whole["block"].values == "study"
    assert np.array_equal(merged["inside"], whole["inside"].isel(arm=own))
    assert unfinished(tmp_path / "merged", merged)  # a part measures the study's own arms alone
    xr.testing.assert_identical(planted_study().run({"a": [0]}, latents=30, store=tmp_path / "merged"), whole)
    assert (tmp_path / "merged" / "effects.csv").read_bytes() == (tmp_path / "whole" / "effects.csv").read_bytes()
    for runs, told in [
        (["part-1", "part-1"], "latent 0 is in more than one"),
        (["part-1"], "two runs or more"),
        (["part-1", "elsewhere"], "is not a run"),
    ]:
        with pytest.raises(UsageError, match=told):
            merge([tmp_path / run for run in runs], tmp_path / "bad")
    part("2/3", "other", alpha=0.5)
    with pytest.raises(UsageError, match=r"not of one study \(alpha 1.0 there, 0.5 here\)"):
        merge([tmp_path / "part-1", tmp_path / "other"], tmp_path / "bad")
    with pytest.raises(UsageError, match="exists: choose another"):
        merge([tmp_path / "part-1", tmp_path / "part-2"], tmp_path / "merged")
    assert not (tmp_path / "bad").exists()


class Small(Thirds):
    """Runs out of memory where it is given more images than it holds, as a GPU does."""

    holds = 10**9
    name = "Thirds"

    def __call__(self, images):
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(images)


def test_running_out_of_memory_halves_the_batch_and_goes_on():
    def run(holds):
        segmenter = Small()
        study = Study(tiny(), segmenter, layer="layer2")
        segmenter.holds = holds
        panel = study.run(["red", "green"], units=2, control=["capped", "frozen"], latents=20, ranking_latents=16)
        return panel, study.rows

    whole, rows = run(10**9)
    for holds in (12, 3):
        small, fewer = run(holds)
        assert fewer < rows
        np.testing.assert_array_equal(whole["units"], small["units"])
        np.testing.assert_allclose(whole["inside"], small["inside"], atol=1)
        np.testing.assert_allclose(whole["gain"], small["gain"], atol=1e-4)
    with pytest.raises(GandidError, match="one image and its reference do not fit the memory of cpu"):
        run(0)


def test_what_is_measured_beside_the_arms_halves_its_batch_as_well():
    """The constants of the control `mean` (128 images), typical statistics (8), and the exact checks (all held arms at once)."""

    def run(holds):
        generator = tiny()
        study = Study(generator, Thirds(), layer="layer2", memory=2**30)

        def full(module, args):
            if len(args[0]) > holds:
                raise torch.OutOfMemoryError("CUDA out of memory")

        generator.layer3.register_forward_pre_hook(full)
        return study.run({"red": [0, 1]}, control=["capped", "frozen", "mean"], latents=10)

    whole, small = run(10**9), run(7)
    assert whole.sizes["arm"] > 7
    for name in ("gain", "range", "baseline_gap", "placebo_gap"):
        np.testing.assert_allclose(whole[name], small[name], atol=1e-4)
    np.testing.assert_allclose(whole["inside"], small["inside"], atol=1)


def test_threads_share_the_images_that_fit(monkeypatch):
    monkeypatch.setattr("gandid.study.rows_that_fit", lambda *_: fit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for fit, workers, rows in ((192, 2, 96), (100, 2, 50), (33, 2, 16), (31, 1, 31), (2, 1, 2)):
        study = Study(tiny(), Thirds(), layer="layer2")
        assert (study.workers, study.rows) == (workers, rows)
        assert study.workers * study.rows <= fit


def test_constants_are_taken_once(monkeypatch, tmp_path):
    taken, calibrate = [], Runner.calibrate
    monkeypatch.setattr(Runner, "calibrate", lambda *given: taken.append(1) or calibrate(*given))
    study = Study(tiny(), Thirds(), layer="layer2")
    study.workers = 2
    study.run({"red": [0, 1]}, control=["capped", "mean"], dose=(0, 0.5), latents=40, store=tmp_path / "run")
    assert len(taken) == 1


def test_an_object_that_no_ranking_image_shows_is_told():
    class Never(Thirds):
        classes = (*Thirds.classes, "ghost")

    with pytest.warns(UserWarning, match="no image of the ranking shows ghost"):
        Study(tiny(), Never(), layer="layer2").run(["red", "ghost"], units=2, latents=4, ranking_latents=4)
