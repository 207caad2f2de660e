import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid.outcomes.counts import pixels

C = 5
maps = arrays(np.uint8, st.tuples(st.integers(0, 4), st.just(6), st.just(7)), elements=st.integers(0, C - 1))


def naive(labels, mask):
    return np.stack([((labels == c) & mask).sum((-2, -1)) for c in range(C)], -1)


@given(maps, st.integers(0, 2**32 - 1))
def test_counts_are_the_naive_ones(labels, seed):
    mask = np.random.default_rng(seed).random(labels.shape) < 0.4
    found = torch.from_numpy(labels)
    np.testing.assert_array_equal(pixels(found, C), naive(labels, np.ones_like(mask)))
    np.testing.assert_array_equal(pixels(found, C, torch.from_numpy(mask)), naive(labels, mask))


def test_one_mask_serves_all_arms():
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, C, (9, 4, 8, 8)))
    mask = labels[:, :1] == 2
    np.testing.assert_array_equal(pixels(labels, C, mask), naive(labels.numpy(), mask.numpy()))


@pytest.mark.parametrize("label", [-1, C + 1])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(RuntimeError, match="out of bounds"):
        pixels(torch.tensor([[[0, label]]]), C)
