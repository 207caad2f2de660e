"""What may go wrong with a picture: each corruption changes some of it, and none is both trained on and held out."""

import pytest
import torch

from lab import corruptions, rooms


def test_a_training_batch_depends_on_its_generator_only():
    images, labels = rooms.render(8, 64, seed=2)
    kept = images.clone(), labels.clone()
    batches = [
        corruptions.training_batch(images, labels, len(rooms.CLASSES), torch.Generator().manual_seed(7))
        for _ in range(2)
    ]
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first, second)
    assert batches[0][0].abs().max() <= 1


@pytest.mark.parametrize("n", [1, 2])
def test_small_batches_work_whatever_falls_to_them(n):
    images, labels = rooms.render(n, 32, seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        pictures, truth = corruptions.training_batch(images, labels, len(rooms.CLASSES), generator)
        assert pictures.isfinite().all()
        assert truth.max() <= len(rooms.CLASSES)


@pytest.mark.parametrize("name", [*corruptions.TRAINED, *corruptions.HELD_OUT])
def test_each_corruption_changes_a_part_of_the_pictures(name):
    images, labels = rooms.render(32, 64, seed=4)
    corrupt = {**corruptions.TRAINED, **corruptions.HELD_OUT}[name]
    spoilt = corrupt(images, labels, corruptions.Draw(torch.Generator().manual_seed(1), 32, 64))
    share = (corruptions.change(images, spoilt) > corruptions.VISIBLE).float().mean()
    assert 0.005 < share < 0.5


def test_no_corruption_is_both_trained_on_and_held_out():
    assert not set(corruptions.TRAINED) & set(corruptions.HELD_OUT)
    assert len(corruptions.HELD_OUT) >= 5
