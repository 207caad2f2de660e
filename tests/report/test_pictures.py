"""Outlines and the comparison of label maps, on masks small enough to check by hand."""

import re

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from gandid.report import pictures


def test_outline_of_a_square_is_its_four_sides() -> None:
    mask = np.zeros((6, 6), bool)
    mask[1:4, 2:5] = True
    assert set(pictures.segments(mask)) == {(2, 1, 5, 1), (2, 4, 5, 4), (2, 1, 2, 4), (5, 1, 5, 4)}
    assert pictures.path(mask) == "M2 1h3v3h-3z"


def test_specks_have_no_outline() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[2, 2:5] = True
    assert pictures.segments(mask, speck=4) == []


@given(arrays(bool, (7, 9), elements=st.booleans()))
def test_outlines_are_as_long_as_the_border(mask: np.ndarray) -> None:
    length = sum(x1 - x0 + y1 - y0 for x0, y0, x1, y1 in pictures.segments(mask, speck=1))
    padded = np.pad(mask, 1).astype(int)
    assert length == abs(np.diff(padded, axis=0)).sum() + abs(np.diff(padded, axis=1)).sum()


@given(arrays(bool, (7, 9), elements=st.booleans()))
def test_paths_are_closed_and_enclose_the_mask(mask: np.ndarray) -> None:
    """Which pixels a path encloses is told by how often a ray from them to the left meets it."""
    crossed = np.zeros((8, 10), int)
    for line in re.findall(r"M([^M]*)z", pictures.path(mask)):
        x, y = first = [int(number) for number in re.match(r"(\d+) (\d+)", line).groups()]
        for way, step in [*re.findall(r"([hv])(-?\d+)", line), ("v", None)]:
            if way == "h":
                x += int(step)
                continue
            to = y + int(step) if step else first[1]
            crossed[min(y, to) : max(y, to), x] += 1
            y = to
        assert [x, y] == first
    inside = np.cumsum(crossed, axis=1) % 2 == 1
    areas, _ = ndimage.label(mask)
    assert (inside[:7, :9] == (mask & (np.bincount(areas.ravel())[areas] >= pictures.SPECK))).all()


def test_maps_are_enlarged_as_the_network_enlarges_them() -> None:
    values = np.random.default_rng(0).random((8, 5)).astype(np.float32)
    theirs = F.interpolate(torch.tensor(values)[None, None], size=(64, 50), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(pictures.upsampled(values, (64, 50)), theirs[0, 0].numpy(), atol=1e-6)


def test_change_counts_the_targets_original_pixels_only() -> None:
    before = np.array([[1, 1, 1, 1], [0, 0, 2, 0]])
    after = np.array([[0, 2, 1, 1], [2, 0, 2, 0]])
    found = pictures.change(before, after, ["wall", "lamp", "rug"], ["lamp", "rug"], "lamp")
    assert found.gone == 0.5
    assert found.painted == {"rug": 0.25}
    assert found.vanished.tolist() == [[True, True, False, False], [False] * 4]
    # The rug that was there has not appeared.
    assert found.appeared.tolist() == [[False, True, False, False], [True, False, False, False]]


def test_large_images_are_made_light() -> None:
    assert pictures.picture(np.zeros((64, 64, 3), np.uint8)).startswith("data:image/png")
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    assert pictures.picture(noise).startswith("data:image/jpeg")
    assert len(pictures.picture(noise)) < 60_000
