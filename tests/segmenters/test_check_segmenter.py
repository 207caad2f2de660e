"""A segmenter must label an image by the image alone: what does not is refused before anything is measured."""

import numpy as np
import pytest
import torch
from planted import PlantedGenerator

import gandid
from gandid.errors import GandidError, UsageError
from gandid.panel.store import read_panel
from gandid.segmenters import check_segmenter

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Own:
    classes, background = ("dark", "bright"), ("dark",)

    def __init__(self, label):
        self.label = label

    def __call__(self, images):
        return self.label(images)


def bright(images):
    return (images.mean(1) > 0).long()


def test_what_labels_each_image_alone_passes():
    check_segmenter(Own(bright), IMAGES)
    check_segmenter(Own(lambda images: bright(images).int().numpy()), IMAGES)
    check_segmenter(gandid.load_segmenter("rooms"), IMAGES)


@pytest.mark.parametrize(
    ("label", "line"),
    [
        (lambda images: (images.mean(1) > images.mean()).long() * (len(images) > 1), "when it is alone"),
        (lambda images: (images.mean(1) > images.mean()).long(), "when it is alone"),
        (lambda images: bright(images) * (torch.arange(len(images)) % 2)[:, None, None], "when it is alone"),
        (lambda images: torch.randint(0, 2, images[:, 0].shape), "the second time"),
        (lambda images: images.mean(1), "of type float32"),
        (lambda images: bright(images) - 1, "labels from -1 to 0"),
        (lambda images: bright(images) * 255, "labels from 0 to 255"),
        (lambda images: bright(images)[:, ::2], "of shape"),
        (lambda images: images[7], "fails on images of shape"),
    ],
)
def test_what_does_not_is_refused_in_a_line(label, line):
    with pytest.raises(UsageError, match=line) as refused:
        check_segmenter(Own(label), IMAGES)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("classes", "background", "line"),
    [
        (("a", "a"), (), "all different"),
        (("a", "b\nc"), (), "of one line"),
        ((), (), "must be a tuple of names"),
        ("ab", (), "must be a tuple of names"),
        ((0, 1), (), "must be a tuple of names"),
        ({0: "a", 1: "b"}, (), "must be a tuple of names"),
        (np.array(["a", "b"]), (), "must be a tuple of names"),
        (("a", "b"), None, "the background of Own must be a tuple"),
        (("a", "b"), ("c",), "unknown background class 'c'"),
        (("a", "b"), (0,), "unknown background class '0'"),
    ],
)
def test_classes_that_make_no_sense_are_told(classes, background, line):
    segmenter = Own(bright)
    segmenter.classes, segmenter.background = classes, background
    with pytest.raises(UsageError, match=line) as told:
        check_segmenter(segmenter, IMAGES)
    assert "\n" not in str(told.value)


def test_what_is_no_segmenter_is_told():
    with pytest.raises(UsageError, match="function is no segmenter: it is called with images, and has the attributes"):
        check_segmenter(bright, IMAGES)


def study(label, **classes):
    segmenter = Own(label)
    vars(segmenter).update(classes)
    return gandid.Study(PlantedGenerator(), segmenter, layer="paint")


def read_only(labels):
    labels = labels.numpy().astype(">i2")
    labels.setflags(write=False)
    return labels


@pytest.mark.filterwarnings("error:The given NumPy array")
def test_a_study_takes_labels_of_any_integers_and_images_that_are_written_into():
    of = {"targets": {"bright": [0]}, "latents": 8}
    expected = study(bright).run(**of)
    for label in (
        lambda images: bright(images).int(),
        lambda images: read_only(bright(images)),
        lambda images: (bright(images), images.zero_())[0],
        lambda images: bright(images.requires_grad_(True).detach()),
    ):
        found = study(label).run(**of)
        for name in ("pixels", "inside", "features"):
            assert found[name].equals(expected[name])


def test_networks_that_keep_a_state_are_told_before_what_they_made_is_kept(tmp_path):
    seen = []

    def drifting(images):
        seen.append(images)
        return bright(images) if len(seen) < 8 else 1 - bright(images)

    with pytest.raises(GandidError, match="drifting labels images otherwise than before: it keeps a state"):
        study(drifting, name="drifting").run({"bright": [0]}, latents=64, store=tmp_path / "run")

    class Tires(PlantedGenerator):
        def forward(self, z):
            seen.append(z)
            return super().forward(z) * (1 if sum(map(len, seen)) < 100 else 0.5)

    seen.clear()
    tired = gandid.Study(Tires(), Own(bright), layer="paint")
    with pytest.raises(GandidError, match="other images than before of the same latents: its forward keeps a state"):
        tired.run({"bright": [0]}, latents=64, store=tmp_path / "tired")
    for name in ("run", "tired"):
        assert read_panel(tmp_path / name / "panel.zarr").sizes["latent"] < 64


def test_a_study_asks_before_it_begins_and_at_every_image():
    for label, line in [(lambda x: x.mean(1), "float32"), (lambda x: x[:, :2], "of shape"), (None, "fails on images")]:
        with pytest.raises(UsageError, match=line):
            study(label)
    calls = []

    def late(images):
        calls.append(len(images))
        return bright(images) * (255 if len(calls) > 5 else 1)

    with pytest.raises(GandidError, match=r"late gave labels from .* to 255: its classes are numbered 0 to 1"):
        study(late, name="late").run({"bright": [0]}, latents=16)


def test_a_segmenter_of_background_alone_is_told():
    with pytest.raises(UsageError, match="every class of Own is background"):
        study(bright, background=("dark", "bright")).run(latents=8)


def test_the_measured_confusions_ship_with_the_weights():
    for name in ("rooms", "rooms-dilated"):
        matrix = gandid.segmenters.confusion(gandid.load_segmenter(name))
        assert tuple(matrix.index) == tuple(matrix.columns) == gandid.load_segmenter(name).classes
        assert matrix.sum(axis=1).sub(1).abs().max() < 1e-6 and matrix.to_numpy().diagonal().min() > 0.75
    assert gandid.segmenters.confusion(Own(bright)) is None
