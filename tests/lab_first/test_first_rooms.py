"""The rooms: reproducible, symmetric, exact, and with objects that compete."""

import pytest
import torch

from lab.first import rooms


@pytest.fixture(scope="module")
def scenes():
    return rooms.render(600, 32, seed=5)


def has(labels: torch.Tensor, name: str) -> torch.Tensor:
    return (labels == rooms.CLASSES.index(name)).float().mean(dim=(1, 2)) >= 0.003


def test_shapes_and_ranges(scenes):
    images, labels = scenes
    assert images.shape == (600, 3, 32, 32) and images.dtype == torch.float32
    assert labels.shape == (600, 32, 32) and labels.dtype == torch.int64
    assert -1 <= images.min() < -0.5 and 0.5 < images.max() <= 1
    assert set(labels.unique().tolist()) == set(range(8))


def test_a_scene_depends_on_its_seed_and_number_alone():
    many, few = rooms.render(70, 32, seed=3), rooms.render(10, 32, seed=3)
    for a, b in zip(many, few, strict=True):
        assert torch.equal(a[:10], b)
    assert not torch.equal(few[0], rooms.render(10, 32, seed=4)[0])


def test_every_object_is_often_there_and_often_not(scenes):
    for name in rooms.OBJECTS:
        assert 0.3 < has(scenes[1], name).float().mean() < 0.85, name


def test_mirror_images_are_equally_likely(scenes):
    _, labels = scenes
    left, right = labels[:, :, :16], labels[:, :, 16:]
    for name in rooms.OBJECTS:
        a, b = (((half == rooms.CLASSES.index(name)).float().mean(dim=(1, 2))) for half in (left, right))
        difference = a - b
        assert abs(difference.mean()) < 4 * difference.std() / 600**0.5, name


def test_a_place_on_the_wall_holds_one_thing(scenes):
    """Window and painting are never both in the same half, and each half holds something in most scenes."""
    _, labels = scenes
    for half in (labels[:, :, :16], labels[:, :, 16:]):
        window, painting = has(half, "window"), has(half, "painting")
        assert not (window & painting).any()
        assert 0.7 < (window | painting).float().mean() < 0.95


def test_the_lamp_hangs_in_the_middle_and_the_rest_stands_on_the_floor(scenes):
    _, labels = scenes
    lamp = labels == rooms.CLASSES.index("lamp")
    columns = lamp.any(dim=1).any(dim=0).nonzero()
    assert columns.min() >= 9 and columns.max() <= 22
    assert lamp[:, 20:].sum() == 0
    assert (labels[:, :16] == rooms.CLASSES.index("rug")).sum() == 0


def test_a_plant_hides_what_hangs_at_its_side():
    """Where a plant stands, less of the window behind it is seen than on the other side."""
    _, labels = rooms.render(1500, 32, seed=9)
    window, plant = (labels == rooms.CLASSES.index(name) for name in ("window", "plant"))
    stands_left = plant[:, :, :16].sum(dim=(1, 2)) > 20
    outer_left, outer_right = window[stands_left][:, :, :8].float(), window[stands_left][:, :, 24:].float()
    assert outer_left.mean() < 0.85 * outer_right.mean()


def test_the_mask_is_the_class_of_most_samples():
    classes = torch.zeros(1, 3, 6, dtype=torch.int64)
    classes[0, :, :3] = torch.tensor([[2, 2, 2], [2, 2, 0], [0, 0, 0]])
    classes[0, :, 3:] = torch.tensor([[5, 1, 1], [1, 1, 7], [7, 7, 7]])
    # 5 of 9 are class 2; 4 of 9 each are classes 1 and 7: the later one, the object, has the pixel.
    assert rooms.majority(classes, len(rooms.CLASSES)).tolist() == [[[2, 7]]]
