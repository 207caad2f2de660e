"""The segmenter that ships: what it knows, how well, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import save_file

from gandid.errors import UsageError
from gandid.generators import load_generator
from gandid.segmenters import NAMED, SECOND, Segmenter, load_segmenter
from gandid.segmenters.network import ARCHITECTURES, NetworkSegmenter, save_segmenter
from gandid.segmenters.pixelwise import Dilated, UNet, unfold_blocks
from lab import rooms
from lab.segmenter import (
    CLEAN_BAR,
    IOU_BARS,
    RECALL_BARS,
    agreement,
    evaluate,
    fold_blocks,
    folded,
    reliability,
)


@pytest.fixture(scope="module", params=["rooms", "rooms-dilated"])
def segmenter(request):
    return load_segmenter(request.param)


def test_it_knows_the_rooms_and_unknown(segmenter):
    assert isinstance(segmenter, Segmenter)
    assert segmenter.classes == (*rooms.CLASSES, "unknown")
    assert segmenter.background == ("wall", "floor")


@pytest.fixture(scope="module")
def measured(segmenter):
    return evaluate(segmenter, scenes=120)


@pytest.mark.slow
def test_it_meets_every_bar_on_unseen_renders(segmenter, measured):
    by_class, recall = measured
    architecture = next(name for name, of in ARCHITECTURES.items() if isinstance(segmenter.network, of))
    assert all(by_class.loc[name, "clean"] >= bar for name, bar in IOU_BARS.items()), by_class.to_string()
    assert by_class.loc["unknown", "clean"] <= CLEAN_BAR
    assert recall.min() >= RECALL_BARS[architecture], recall.to_string()


@pytest.mark.slow
def test_imperfect_pictures_keep_their_labels(measured):
    worn = measured[0]["worn"]
    assert worn["unknown"] < 0.01 and worn.drop("unknown").min() > 0.75


@pytest.mark.slow
def test_a_probability_says_how_much_is_left(segmenter):
    """The more probable the object of an ablated pixel, the more of it is left."""
    table = reliability(segmenter, load_generator("rooms"), count=40)
    assert table["left"].is_monotonic_increasing
    apart = (table["probability"] - table["left"]).abs()
    assert (apart * table["pixels"]).sum() / table["pixels"].sum() < 0.08, table.to_string()


@pytest.mark.slow
def test_the_two_agree_on_holes():
    one, two = load_segmenter("rooms"), load_segmenter("rooms-dilated")
    whole = agreement(one, two, load_generator("rooms")).loc["all"]
    assert whole["hole"] > 0.9 and whole["clear"] > 0.95
    assert whole["unknown"] < 0.01 and whole["unknown_other"] < 0.01


def test_labels_are_int64_the_likeliest_class_and_the_same_each_time(segmenter):
    images, _ = rooms.render(70, 64, seed=3)  # more than one chunk
    labels, probabilities = segmenter(images), segmenter.probabilities(images)
    assert labels.dtype == torch.int64
    assert labels.shape == (70, 64, 64)
    assert torch.equal(labels, segmenter(images))
    assert probabilities.shape == (70, 13, 64, 64)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(70, 64, 64))
    assert torch.equal(probabilities.argmax(1), labels)


def test_no_images_give_no_labels(segmenter):
    assert segmenter(torch.empty(0, 3, 64, 64)).shape == (0, 64, 64)


def test_the_two_that_ship_err_apart():
    images, labels = rooms.render(60, 64, seed=6)
    wrong = [load_segmenter(name)(images) != labels for name in ("rooms", "rooms-dilated")]
    together, alone = (wrong[0] & wrong[1]).float().mean(), [one.float().mean() for one in wrong]
    assert together < 0.7 * min(alone)


def test_the_named_segmenters_check_each_other():
    assert {name: SECOND[SECOND[name]] for name in NAMED} == {name: name for name in NAMED}
    assert all(SECOND[name] != name for name in NAMED)


@pytest.mark.parametrize("build", [UNet, Dilated])
def test_folding_normalizations_into_convolutions_changes_nothing(build):
    torch.manual_seed(0)
    network = build(9).train()
    for _ in range(3):
        network(torch.randn(8, 3, 32, 32))  # gives the running statistics values of their own
    network.eval()
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(folded(network)(images), network(images), rtol=1e-4, atol=1e-5)


def test_scores_lie_where_their_pixels_are():
    pixels = torch.arange(2 * 8 * 6).view(2, 8, 6)
    assert torch.equal(unfold_blocks(fold_blocks(pixels)), pixels)
    # The network folds images as fold_blocks folds labels: channel-major, then row and column in the block.
    folded = torch.nn.functional.pixel_unshuffle(pixels[:, None].float(), 2)
    assert torch.equal(folded.permute(0, 2, 3, 1).view(2, 4, 3, 2, 2).long(), fold_blocks(pixels))


@pytest.mark.parametrize("build", [lambda: UNet(4, widths=(8, 8, 16)), lambda: Dilated(4, width=8, dilations=(1, 3))])
def test_a_saved_segmenter_loads_from_its_path(tmp_path, build):
    torch.manual_seed(0)
    saved = NetworkSegmenter(folded(build()), ("sky", "sea", "ship", "unknown"), ("sky", "sea"))
    save_segmenter(tmp_path / "s.safetensors", saved)
    loaded = load_segmenter(tmp_path / "s.safetensors")
    assert loaded.classes == saved.classes
    assert loaded.background == saved.background
    images = torch.randn(3, 3, 16, 24)
    assert torch.equal(loaded(images), saved(images))


def test_the_shipped_weights_also_load_by_path(segmenter):
    images, _ = rooms.render(4, 64, seed=8)
    assert torch.equal(load_segmenter(str(NAMED[segmenter.name]))(images), segmenter(images))


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match=r"unknown segmenter 'bathrooms': did you mean 'rooms'\? the names are rooms"):
        load_segmenter("bathrooms")


def test_files_that_hold_no_segmenter_are_refused(tmp_path):
    text = tmp_path / "notes.safetensors"
    text.write_text("not weights at all")
    with pytest.raises(UsageError, match=r"notes\.safetensors is not a readable safetensors file"):
        load_segmenter(text)

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(UsageError, match="holds no gandid segmenter"):
        load_segmenter(other)

    damaged = tmp_path / "damaged.safetensors"
    about = {"format": "gandid-segmenter-1", "classes": ["a"], "background": [], "widths": [8, 8, 8]}
    save_file({"weight": torch.zeros(3)}, damaged, {"gandid": json.dumps(about)})
    with pytest.raises(UsageError, match="damaged gandid segmenter"):
        load_segmenter(damaged)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 61, 64)])
def test_images_of_another_shape_are_refused(segmenter, shape):
    with pytest.raises(UsageError, match=f"divisible by {segmenter.network.multiple}"):
        segmenter(torch.zeros(shape))
