"""A study whose edit is limited to a region of every image: what is edited, and what is counted."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gandid import Study
from gandid.config import StudyConfig
from gandid.errors import UsageError
from gandid.factory import call_factory
from gandid.interventions import REFERENCE, Arm, ablate, covered, read_mask

EXAMPLE = Path(__file__).parents[2] / "examples" / "your_gan.py"
OPTIONS = {"latents": 6, "hold": ["first"], "control": ["capped"]}


@pytest.fixture(scope="module")
def study():
    return Study(call_factory(f"{EXAMPLE}:make").eval(), call_factory(f"{EXAMPLE}:colours"), "net.0")


def test_a_cell_is_edited_as_far_as_it_lies_within():
    found = covered((0.25, 0.0, 0.625, 0.5), (2, 4))
    assert found.tolist() == [[0, 1, 0.5, 0], [0, 0, 0, 0]]
    x = torch.ones(1, 3, 2, 4)
    assert ablate((1,), region=(0.25, 0.0, 0.625, 0.5)).apply_(x)[0].tolist() == [
        [[1, 1, 1, 1], [1, 1, 1, 1]],
        [[1, 0, 0.5, 1], [1, 1, 1, 1]],
        [[1, 1, 1, 1], [1, 1, 1, 1]],
    ]


def test_the_whole_image_is_no_region(study):
    whole, none = (study.run({"bright": [1, 2]}, region=region, **OPTIONS) for region in ((0, 0, 1, 1), None))
    for name in ("pixels", "inside", "gain"):
        np.testing.assert_array_equal(whole[name].values, none[name].values)


def test_the_counts_are_those_of_the_region_alone(study, tmp_path):
    region, units = (0.0, 0.5, 1.0, 1.0), (1, 2, 3)
    study.run({"bright": units}, region=region, store=tmp_path, **OPTIONS)
    panel = study.run({"bright": units}, region=region, store=tmp_path, placebos=2, **OPTIONS)  # restored
    mask = torch.zeros(4, 4)
    mask[2:] = 1
    held = {study.runner.downstream[0]: "capped"}
    arms = [REFERENCE, Arm(ablate(units, region=mask)), Arm(ablate(units, region=mask), held)]
    drawn = tuple(int(unit) for unit in panel["units"].values[0, 1, 0])
    arms.append(Arm(ablate(drawn, region=mask)))
    images = study.runner.run(study.latents(range(6)), arms)
    labels = torch.stack([study.segmenter(one) for one in images]).numpy()
    hole = (labels[0] == 2) & (np.arange(32) >= 16)[:, None]
    for arm, seen in zip(["reference", "live", "capped:first", "live#1"], labels, strict=True):
        counts = panel.sel(arm=arm, target="bright").isel(segmenter=0)
        for name, where in (("inside", hole), ("pixels", np.ones_like(hole))):
            expected = [[(where[i] & (seen[i] == c)).sum() for c in range(3)] for i in range(6)]
            np.testing.assert_array_equal(counts[name].values, expected)
    assert (labels[1] != labels[0])[hole].any() and np.nanmax(panel["gain_error"].values) < 1e-4
    with pytest.raises(UsageError, match="region"):
        study.run({"bright": units}, store=tmp_path, **OPTIONS)


def test_a_region_is_asked_for_in_words_numbers_and_on_the_command_line():
    for asked in ("0,0.5,1,1", [0, 0.5, 1, 1], "0, .5, 1, 1"):
        assert StudyConfig.check(region=asked).region == (0, 0.5, 1, 1)
    for wrong, words in (("0,1", "write X0,Y0,X1,Y1"), ("0,0,2,1", "at most 1"), ("1,0,0,1", "X0 less than X1")):
        with pytest.raises(UsageError, match=words):
            StudyConfig.check(region=wrong)


def test_a_mask_that_is_a_rectangle_is_that_rectangle(study, tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[16:, 4:12] = 200
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask > 0)
    assert torch.equal(*(read_mask(str(tmp_path / name), (32, 32)) for name in ("mask.png", "mask.npy")))
    expected = study.run({"bright": [1, 2]}, region=(0.125, 0.5, 0.375, 1), placebos=1, **OPTIONS)
    asked = {"targets": {"bright": [1, 2]}, "region": str(tmp_path / "mask.npy"), "placebos": 1, **OPTIONS}
    study.run(**asked | {"latents": 3}, store=tmp_path / "run")
    found = study.run(**asked, store=tmp_path / "run")  # one that goes on
    for variable in ("pixels", "inside", "gain", "features"):
        np.testing.assert_array_equal(found[variable].values, expected[variable].values)
    np.save(tmp_path / "mask.npy", mask == 0)
    with pytest.raises(UsageError, match="another study"):
        study.run(**asked, store=tmp_path / "run")


def test_a_mask_that_does_not_fit_is_told_in_a_line(tmp_path):
    np.save(tmp_path / "small.npy", np.ones((8, 16)))
    np.save(tmp_path / "empty.npy", np.zeros((32, 32)))
    (tmp_path / "text.png").write_text("no picture")
    for name, words in (
        ("small.npy", r"small\.npy is 8 x 16, and the images are 32 x 32 \(height x width\)"),
        ("empty.npy", "is empty"),
        ("text.png", "cannot be read"),
        ("nowhere.png", "cannot be read"),
    ):
        with pytest.raises(UsageError, match=words) as told:
            read_mask(str(tmp_path / name), (32, 32))
        assert "\n" not in str(told.value)
