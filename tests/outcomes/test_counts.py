import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid import outcomes

C = 5
maps = arrays(np.int64, st.tuples(st.integers(1, 4), st.just(6), st.just(7)), elements=st.integers(0, C - 1))


def naive(labels, mask):
    return np.stack([((labels == c) & mask).sum((-2, -1)) for c in range(C)], -1)


@given(maps, st.integers(0, 2**32 - 1))
def test_counts_are_the_naive_ones(labels, seed):
    mask = np.random.default_rng(seed).random(labels.shape) < 0.4
    np.testing.assert_array_equal(outcomes.pixels(labels, C), naive(labels, np.ones_like(mask)))
    np.testing.assert_array_equal(outcomes.inside(labels, mask, C), naive(labels, mask))
    assert (outcomes.inside(labels, mask, C).sum(-1) == mask.sum((-2, -1))).all()


@given(maps, st.permutations(range(C)))
def test_permuted_labels_give_permuted_counts(labels, order):
    order = np.array(order)
    mask = labels == 0
    for count in (lambda x: outcomes.pixels(x, C), lambda x: outcomes.inside(x, mask, C)):
        np.testing.assert_array_equal(count(order[labels])[:, order], count(labels))


def test_one_mask_serves_all_arms_and_blocks_do_not_mix():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, C, (150, 4, 8, 8)).astype(np.uint8)
    mask = rng.random((150, 1, 8, 8)) < 0.5
    counts = outcomes.inside(labels, mask, C)
    assert counts.shape == (150, 4, C)
    np.testing.assert_array_equal(counts, naive(labels, np.broadcast_to(mask, labels.shape)))


def test_no_maps_give_no_counts():
    assert outcomes.pixels(np.empty((0, 4, 4), np.int64), C).shape == (0, C)


@pytest.mark.parametrize("label", [-1, C])
def test_a_label_outside_the_classes_is_refused(label):
    labels = np.zeros((1, 2, 2), np.int64)
    labels[0, 0, 0] = label
    with pytest.raises(ValueError, match=r"outside 0 \.\. 4"):
        outcomes.pixels(labels, C)


def test_what_is_no_label_map_is_refused():
    with pytest.raises(ValueError, match="are integers"):
        outcomes.pixels(np.zeros((1, 4, 2, 2)), C)
    with pytest.raises(ValueError, match="boolean mask"):
        outcomes.inside(np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), C)
    with pytest.raises(ValueError, match="are integers"):
        outcomes.pixels(np.zeros((1, 2, 2), bool), C)
