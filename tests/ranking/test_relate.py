"""IoU from batches against the exact one; the exact sweep against the runner's ablations; gradients against differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted_relation import RelationGenerator, RelationSegmenter

from gandid.generators import load_generator
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.latents import latents
from gandid.outcomes.counts import pixels
from gandid.ranking import overlap, relate
from gandid.ranking.gradients import first_order, soft_area
from gandid.ranking.overlap import TOP_QUANTILE, TOP_QUANTILES, Activations, Overlap
from gandid.segmenters import load_segmenter

N, CLASSES = 24, 13


@pytest.fixture(scope="module")
def rooms():
    generator = load_generator("rooms")
    return Runner(generator, "layer4"), load_segmenter("rooms"), latents(0, range(N), generator.latent_dim, "ranking")


@pytest.fixture(scope="module")
def unedited(rooms):
    """Activations (n, units, h, w) and labels (n, H, W) of the rooms' ranking latents."""
    runner, segmenter, z = rooms
    images, readings = runner.read(z, [REFERENCE])
    return readings.layer, segmenter(images[0])


def activations(maps, batch=N):
    found = Activations(len(maps))
    for part in maps.split(batch):
        found.add(part)
    return found


def overlapping(thresholds, maps, labels, batch=N):
    found = Overlap(thresholds, CLASSES)
    for part, seen in zip(maps.split(batch), labels.split(batch), strict=True):
        found.add(part, seen)
    return found.best()


def test_thresholds_are_quantiles_of_all_activations(unedited):
    by_unit = unedited[0].transpose(0, 1).flatten(1)
    expected = torch.quantile(by_unit, 1 - torch.tensor(TOP_QUANTILES), dim=1).numpy()
    found = activations(unedited[0], 5).above(TOP_QUANTILES)
    active = expected > by_unit.amin(dim=1).numpy()
    np.testing.assert_allclose(found[active], expected[active], rtol=1e-4, atol=1e-4)
    # A unit that is mostly at its smallest value is not active there.
    assert (found > by_unit.amin(dim=1).numpy()).all()


def test_of_many_activations_a_sample_is_kept_which_no_batch_changes(unedited, monkeypatch):
    monkeypatch.setattr(overlap, "SAMPLE", 16 * N)  # a quarter of the positions
    by_unit = unedited[0].transpose(0, 1).flatten(1).numpy()
    sampled = activations(unedited[0], 5).above((0.1,))
    np.testing.assert_array_equal(sampled, activations(unedited[0]).above((0.1,)))
    reached = (by_unit >= sampled[0][:, None]).mean(axis=1)
    # Independent draws would give the rank a standard error of 0.015.
    assert 0 < np.abs(reached - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / (16 * N))


def test_the_streamed_iou_is_that_of_all_images_at_once(unedited):
    maps, labels = unedited
    thresholds = activations(maps).above((TOP_QUANTILE,))
    iou, _ = overlapping(thresholds, maps, labels, batch=7)
    enlarged = F.interpolate(maps, size=labels.shape[1:], mode="bilinear", align_corners=False)
    hot = enlarged >= torch.from_numpy(thresholds[0])[:, None, None]
    masks = F.one_hot(labels, CLASSES).permute(3, 0, 1, 2).bool()
    for unit in range(0, maps.shape[1], 8):
        both = (hot[:, unit] & masks).sum(dim=(1, 2, 3))
        either = (hot[:, unit] | masks).sum(dim=(1, 2, 3))
        np.testing.assert_allclose(iou[unit], both / either.clamp_min(1))


def test_the_maximizing_threshold_is_at_least_as_good_for_every_pair(unedited):
    iou, _ = overlapping(activations(unedited[0]).above((TOP_QUANTILE,)), *unedited)
    best, thresholds = overlapping(activations(unedited[0]).above(TOP_QUANTILES), *unedited)
    assert (best >= iou).all() and (best > iou + 0.05).any()
    assert thresholds.shape == best.shape
    # The threshold that is given is the one that leads to it.
    unit, number = np.unravel_index(best[:, 3:].argmax(), best[:, 3:].shape)
    alone = np.broadcast_to(np.float32(thresholds[unit, 3 + number]), (1, len(best))).copy()
    assert overlapping(alone, *unedited)[0][unit, 3 + number] == best[unit, 3 + number]


def test_the_exact_sweep_is_the_ablation_of_each_unit_alone():
    runner, segmenter, z = (
        Runner(RelationGenerator(), "painter"),
        RelationSegmenter(),
        latents(2, range(12), 3, "ranking"),
    )
    relation = relate(runner, segmenter, z, rows=7)
    arms = [REFERENCE, *(Arm(ablate((unit,))) for unit in range(9))]
    labels = segmenter(runner.run(z, arms).flatten(0, 1)).unflatten(0, (10, 12))
    areas = pixels(labels, 4).numpy() / 64
    np.testing.assert_allclose(relation["drop"].values, (areas[0] - areas[1:]).transpose(1, 0, 2), atol=1e-7)
    np.testing.assert_allclose(relation["ace"], relation["drop"].mean("latent"), atol=1e-7)


def test_first_order_effects_are_derivatives_of_the_soft_area(rooms):
    runner, segmenter, z = rooms[0], rooms[1], rooms[2][:3]
    labels = segmenter(runner.run(z, [REFERENCE])[0])
    numbers = np.arange(1, CLASSES)
    shown = np.array([[(label == number).any() for number in numbers] for label in labels])
    effect = first_order([(runner, segmenter)], z, shown, numbers, rows=8)
    assert (effect[~shown.repeat(runner.units, axis=0).reshape(3, runner.units, -1)] == 0).all()
    latent, unit, place = np.unravel_index(np.abs(effect).argmax(), effect.shape)
    up, down = (torch.ones(1, runner.units) for _ in range(2))
    up[0, unit], down[0, unit] = 1.01, 0.99
    with torch.no_grad():
        areas = [soft_area(segmenter, runner.scaled(z[latent : latent + 1], scale)) for scale in (up, down)]
    slope = (areas[0] - areas[1])[0, numbers[place]].item() / 0.02
    assert effect[latent, unit, place] == pytest.approx(slope, rel=0.05)


def test_scaling_a_unit_by_zero_ablates_it(rooms):
    runner, _, z = rooms
    scale = torch.ones(3, 128)
    scale[:, 5] = 0
    ablated = runner.run(z[:3], [REFERENCE, Arm(ablate((5,)))])[1]
    torch.testing.assert_close(runner.scaled(z[:3], scale).detach(), ablated, atol=1e-4, rtol=1e-4)
    twice = runner.scaled(z[:3], scale[[0, 0]], torch.tensor([2, 0])).detach()
    torch.testing.assert_close(twice, ablated[[2, 0]], atol=1e-4, rtol=1e-4)


def test_an_image_in_which_no_unit_is_active_counts_for_what_it_shows():
    overlap = Overlap(np.full((1, 2), 0.5, np.float32), 2)
    labels = torch.tensor([[0, 1], [1, 1]]).repeat(2, 1, 1)
    overlap.add(torch.stack([torch.zeros(2, 2, 2), torch.ones(2, 2, 2)]), labels)
    iou, _ = overlap.best()
    # Active on all four pixels of the second image; the class is seen on one of each, or on three of each.
    np.testing.assert_allclose(iou, [[1 / 5, 3 / 7]] * 2)
