"""Segmenters of the user's own: a function, or a Python file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gandid
from gandid.errors import GandidError, UsageError
from gandid.runs import fingerprint
from gandid.segmenters import FunctionSegmenter, Segmenter

CLASSES = ("dark", "bright", "red")


def by_brightness(images: torch.Tensor) -> torch.Tensor:
    return (images.mean(1) > 0).long()


def images_of(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_function_is_a_segmenter():
    segmenter = FunctionSegmenter(by_brightness, CLASSES, background=["dark"])
    assert isinstance(segmenter, Segmenter)
    assert segmenter.classes == CLASSES and segmenter.background == ("dark",) and segmenter.name == "by_brightness"
    images = images_of()
    assert torch.equal(segmenter(images), by_brightness(images))
    assert segmenter(images[:0]).shape == (0, 8, 12)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_any_integers_of_torch_or_numpy_become_int64(kind):
    for give in (lambda x: by_brightness(x).to(kind), lambda x: by_brightness(x).to(kind).numpy()):
        labels = FunctionSegmenter(give, CLASSES)(images_of())
        assert labels.dtype == torch.int64 and torch.equal(labels, by_brightness(images_of()))


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x.mean(1), "labels of type float32: they must be integers"),
        (lambda x: x.mean(1) > 0, "labels of type bool: they must be integers"),
        (lambda x: x[:, :, 0, 0].long(), r"labels of shape \(2, 3\) for images that need \(2, 8, 12\)"),
        (lambda x: by_brightness(x)[:, None], r"labels of shape \(2, 1, 8, 12\) for images that need \(2, 8, 12\)"),
        (lambda x: by_brightness(x) + 2, "labels from 2 to 3: its classes are numbered 0 to 2"),
        (lambda x: by_brightness(x) - 1, "labels from -1 to 0: its classes are numbered 0 to 2"),
        (lambda x: None, "gave NoneType: a segmenter gives a tensor or an array"),
        (lambda x: np.ma.masked_less(by_brightness(x).numpy(), 1), "gave MaskedArray"),
        (lambda x: np.full((2, 8, 12), 255, np.uint8), "labels from 255 to 255: its classes are numbered 0 to 2"),
    ],
)
def test_what_is_no_label_map_is_one_line(give, message):
    with pytest.raises(GandidError, match=message) as caught:
        FunctionSegmenter(give, CLASSES)(images_of())
    assert "\n" not in str(caught.value)


def test_classes_need_names_of_their_own():
    with pytest.raises(UsageError, match="all different"):
        FunctionSegmenter(by_brightness, ["sky", "sky"])
    with pytest.raises(UsageError, match="all different"):
        FunctionSegmenter(by_brightness, [])
    with pytest.raises(UsageError, match="unknown background class 'sea'"):
        FunctionSegmenter(by_brightness, ["sky", "ship"], ["sea"])


def test_different_functions_have_different_fingerprints():
    one = FunctionSegmenter(by_brightness, CLASSES)
    module = FunctionSegmenter(torch.nn.Conv2d(3, 1, 1), CLASSES)
    other_weights = FunctionSegmenter(torch.nn.Conv2d(3, 1, 1), CLASSES)
    others = [
        FunctionSegmenter(lambda x: by_brightness(x), CLASSES),
        FunctionSegmenter(by_brightness, CLASSES[:2]),
        FunctionSegmenter(by_brightness, CLASSES, ["dark"]),
        module,
        other_weights,
    ]
    assert len({fingerprint(segmenter) for segmenter in [one, *others]}) == 6
    assert fingerprint(one) == fingerprint(FunctionSegmenter(by_brightness, CLASSES))


def test_two_trained_segmenters_have_different_fingerprints():
    rooms, again = gandid.load_segmenter("rooms"), gandid.load_segmenter("rooms")
    assert fingerprint(rooms) == fingerprint(again)
    next(again.parameters()).data[0] += 1
    assert fingerprint(rooms) != fingerprint(again)
    assert fingerprint(rooms) != fingerprint(gandid.load_segmenter("rooms", background=["wall"]))


def test_a_study_takes_it():
    segmenter = FunctionSegmenter(by_brightness, ["dark", "bright"], background=["dark"])
    study = gandid.Study(gandid.load_generator("rooms"), segmenter)
    assert study.objects == ("bright",)
    panel = study.run(targets={"bright": (0, 1)}, control="capped", hold=["first"], latents=2)
    np.testing.assert_array_equal(panel["pixels"].sum("object"), 64 * 64)


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


OWN = """
from gandid.segmenters import FunctionSegmenter
def by_brightness(images):
    return (images.mean(1) > 0).long()
def factory():
    return FunctionSegmenter(by_brightness, ["dark", "bright"])
"""


def test_a_file_of_the_users_makes_a_segmenter(tmp_path):
    path = write(tmp_path, OWN)
    segmenter = gandid.load_segmenter(f"{path}:factory", background=["dark"])
    assert segmenter.name == f"{path}:factory" and segmenter.background == ("dark",)
    assert torch.equal(segmenter(images_of()), by_brightness(images_of()))
    before = fingerprint(segmenter)
    write(tmp_path, OWN + "# another file\n")
    assert fingerprint(gandid.load_segmenter(f"{path}:factory", background=["dark"])) != before


def test_an_object_with_classes_is_a_segmenter_too(tmp_path):
    path = write(
        tmp_path,
        "class Own:\n    classes, background = ('a', 'b'), ()\n"
        "    def __call__(self, images): return (images.mean(1) > 0).long()\n",
    )
    assert torch.equal(gandid.load_segmenter(f"{path}:Own")(images_of()), by_brightness(images_of()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def other(): pass", r"mine\.py has no function 'factory'"),
        ("def factory(): return 3", "returned a int: it must return a segmenter, such as"),
        ("def factory(): return lambda images: images", "returned a function: it must return a segmenter, such as"),
        ("def factory(): return 1 / 0", r"mine\.py, line 1: ZeroDivisionError"),
        ("import nonesuch", r"mine\.py, line 1: ModuleNotFoundError"),
    ],
)
def test_a_file_that_makes_none_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        gandid.load_segmenter(f"{write(tmp_path, text)}:factory")


def test_names_that_are_nothing_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.py is not a file"):
        gandid.load_segmenter("nowhere.py:factory")
    with pytest.raises(UsageError, match=r"unknown segmenter 'weights/nowhere\.safetensors'"):
        gandid.load_segmenter("weights/nowhere.safetensors")
    with pytest.raises(UsageError, match="rooms takes no size or scales"):
        gandid.load_segmenter("rooms", size=128)
    with pytest.raises(UsageError, match="unknown background class 'floors': did you mean 'floor'"):
        gandid.load_segmenter("rooms", background=["floors"])
