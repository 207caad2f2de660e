"""Streaming IoU against the exact one; the exact sweep against the runner's ablations; memory; the command."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from planted_relation import RelationGenerator, RelationSegmenter
from typer.testing import CliRunner

import gandid
from gandid import outcomes
from gandid.cli import app
from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, ablate
from gandid.relation import top_units
from gandid.relation.iou import COMPRESSION, TOP_QUANTILE, TOP_QUANTILES, Overlap, Quantiles

N = 24


@pytest.fixture(scope="module")
def rooms():
    return gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), layer="layer4", seed=0)


@pytest.fixture(scope="module")
def unedited(rooms):
    """Activations (n, units, h, w) and labels (n, H, W) of the rooms' ranking latents."""
    z = rooms._latents(range(N), "ranking")
    images, readings = rooms.runner.read(z, [REFERENCE])
    return readings.layer, rooms.segmenter(images[0])


@pytest.fixture(scope="module")
def streamed(unedited):
    maps, labels = unedited
    quantiles = Quantiles(maps.shape[1])
    for some in maps.split(5):
        quantiles.add(some)
    overlap = Overlap(quantiles.above((TOP_QUANTILE,)), 9)
    for some, seen in zip(maps.split(7), labels.split(7), strict=True):
        overlap.add(some, seen)
    return quantiles, overlap.best()


def test_the_sketched_quantile_is_that_of_all_activations_to_a_thousandth_in_rank(unedited, streamed):
    by_unit = unedited[0].transpose(0, 1).flatten(1).numpy()
    thresholds = streamed[0].above((TOP_QUANTILE,))[0]
    reached = (by_unit >= thresholds[:, None]).mean(axis=1)
    assert np.abs(reached - TOP_QUANTILE).max() < 0.001


def test_the_streamed_iou_is_that_of_all_images_at_once(unedited, streamed):
    maps, labels = unedited
    thresholds = torch.quantile(maps.transpose(0, 1).flatten(1), 1 - TOP_QUANTILE, dim=1)
    hot = F.interpolate(maps, size=labels.shape[1:], mode="bilinear", align_corners=False) >= thresholds[:, None, None]
    masks = F.one_hot(labels, 9).permute(3, 0, 1, 2).bool()
    for unit in range(0, maps.shape[1], 8):
        both = (hot[:, unit] & masks).sum(dim=(1, 2, 3))
        either = (hot[:, unit] | masks).sum(dim=(1, 2, 3))
        np.testing.assert_allclose(streamed[1][0][unit], both / either.clamp_min(1), atol=0.005)


def test_the_sketch_gives_the_same_whatever_the_batches(unedited, streamed):
    whole = Quantiles(unedited[0].shape[1])
    whole.add(unedited[0])
    np.testing.assert_array_equal(whole.above((0.01, 0.1)), streamed[0].above((0.01, 0.1)))


def test_more_latents_take_no_more_memory():
    """What the sketches and the counts hold, which is all that the IoU keeps from batch to batch."""
    maps, labels = torch.randn(64, 8, 16, 16), torch.randint(0, 3, (64, 16, 16))
    quantiles, sizes = Quantiles(8), []
    overlap = Overlap(np.ones((1, 8), np.float32), 3)
    for _ in range(40):
        quantiles.add(maps)
        overlap.add(maps, labels)
        sizes.append(sum(digest.get_serialized_size_bytes() for digest in quantiles._digests))
    assert max(sizes) < 8 * 32 * COMPRESSION
    assert sizes[-1] < 1.1 * sizes[9]
    held = [value.nbytes for value in vars(overlap).values() if isinstance(value, torch.Tensor)]
    assert sum(held) < 2000
    tracemalloc.start()
    for _ in range(3):
        overlap.add(maps, labels)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now < 10_000


def test_the_maximizing_threshold_is_at_least_as_good_for_every_pair(unedited, streamed):
    quantiles, (iou, _) = streamed
    overlap = Overlap(quantiles.above(TOP_QUANTILES), 9)
    overlap.add(*unedited)
    best, thresholds = overlap.best()
    assert (best >= iou).all() and (best > iou + 0.05).any()
    assert thresholds.shape == best.shape
    # The threshold that is told is the one that gives it.
    unit, number = np.unravel_index(best[:, 3:].argmax(), best[:, 3:].shape)
    alone = Overlap(np.broadcast_to(np.float32(thresholds[unit, 3 + number]), (1, len(best))).copy(), 9)
    alone.add(*unedited)
    assert alone.best()[0][unit, 3 + number] == best[unit, 3 + number]


def test_the_exact_sweep_is_the_ablation_of_each_unit_alone():
    study = gandid.Study(RelationGenerator(), RelationSegmenter(), layer="painter", seed=2)
    relation = study.relate(12)
    z = study._latents(range(12), "ranking")
    arms = [REFERENCE, *(Arm(ablate((unit,))) for unit in range(9))]
    labels = study.segmenter(study.runner.run(z, arms).flatten(0, 1)).unflatten(0, (10, 12))
    areas = outcomes.area(outcomes.pixels(labels.numpy(), 4), 64)
    np.testing.assert_allclose(relation["drop"].values, (areas[0] - areas[1:]).transpose(1, 0, 2), atol=1e-7)
    np.testing.assert_allclose(relation["ace"], relation["drop"].mean("latent"), atol=1e-7)


def test_scaling_units_is_differentiable_and_zero_ablates(rooms):
    z = rooms._latents(range(3), "ranking")
    scale = torch.ones(3, 128)
    scale[:, 5] = 0
    ablated = rooms.runner.run(z, [REFERENCE, Arm(ablate((5,)))])[1]
    torch.testing.assert_close(rooms.runner.scaled(z, scale).detach(), ablated, atol=1e-4, rtol=1e-4)
    twice = rooms.runner.scaled(z, scale[[0, 0]], torch.tensor([2, 0])).detach()
    torch.testing.assert_close(twice, ablated[[2, 0]], atol=1e-4, rtol=1e-4)
    scale = torch.ones(1, 128, requires_grad=True)
    area = rooms.segmenter.probabilities(rooms.runner.scaled(z[:1], scale)).mean(dim=(2, 3))[0, 1]
    (gradient,) = torch.autograd.grad(area, scale)
    unit = int(gradient.abs().argmax())
    step = torch.zeros(1, 128)
    step[0, unit] = 1e-2
    with torch.no_grad():
        up, down = (
            rooms.segmenter.probabilities(rooms.runner.scaled(z[:1], 1 + sign * step)).mean(dim=(2, 3))[0, 1]
            for sign in (1, -1)
        )
    assert gradient[0, unit].item() == pytest.approx((up - down).item() / 2e-2, rel=0.05)


def test_the_relation_is_written_whole_and_read_back(tmp_path):
    study = gandid.Study(RelationGenerator(), RelationSegmenter(), layer="painter", seed=2)
    store = tmp_path / "run"
    study.run(["a"], units=2, latents=6, ranking="screened", ranking_latents=12, store=store)
    with xr.open_zarr(store / "relation.zarr", chunks=None) as stored:
        relation = stored.load()
    expected = study.relate(12, ranking="screened", targets=["a"], units=2)
    xr.testing.assert_identical(relation.drop_attrs(), expected.drop_attrs())
    assert (relation.attrs["ranking"], relation.attrs["share"]) == ("screened", 0.98)
    table = pd.read_csv(store / "relation.csv")
    assert list(table.columns) == ["unit", "object", "ace", "ace_se", "iou", "energy", "exact"]
    assert len(table) == 9 * 4
    assert (
        table[table.object == "wall"]["ace"].isna().any()
    )  # screening tells objects only, but of units measured throughout
    assert top_units(relation, "a", 2) == (0, 4)


def test_the_command_writes_the_table_and_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["relate", "--layer", "layer2", "--latents", "2", "--screen", "--iou-threshold", "maximizing"]
    done = CliRunner().invoke(app, [*asked, "--out", "some.csv"], catch_exceptions=False)
    assert done.exit_code == 0 and "some.zarr" in done.output
    with xr.open_zarr(tmp_path / "some.zarr", chunks=None) as stored:
        assert stored.attrs["ranking"] == "screened" and stored["threshold"].dims == ("unit", "object")
    assert len(pd.read_csv("some.csv")) == stored.sizes["unit"] * stored.sizes["object"]
    for wrong, told in (
        ([*asked, "--out", "some.csv"], "some.csv exists"),
        ([*asked, "--ranking", "exact"], "--screen is --ranking screened, and --ranking exact is given: choose one"),
        (["relate", "--ranking", "guessed"], "ranking: input should be 'exact', 'screened' or 'optimized'"),
    ):
        with pytest.raises(UsageError, match=told):
            CliRunner().invoke(app, wrong, catch_exceptions=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.csv", "some.zarr"]


def test_an_image_in_which_no_unit_is_active_counts_for_what_it_shows():
    overlap = Overlap(np.full((1, 2), 0.5, np.float32), 2)
    labels = torch.tensor([[0, 1], [1, 1]]).repeat(2, 1, 1)
    overlap.add(torch.stack([torch.zeros(2, 2, 2), torch.ones(2, 2, 2)]), labels)
    iou, _ = overlap.best()
    # Active on all four pixels of the second image; the class is seen on one of each, or on three of each.
    np.testing.assert_allclose(iou, [[1 / 5, 3 / 7]] * 2)
