import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gandid import outcomes

counts = arrays(np.int64, (6, 4), elements=st.integers(0, 50))


def test_outcomes_of_a_picture_drawn_by_hand():
    # 4 x 4 pixels; classes: 0 wall, 1 window, 2 painting. The window is the 2 x 2 block in the middle.
    before = np.zeros((1, 4, 4), int)
    before[0, 1:3, 1:3] = 1
    after = np.zeros((1, 4, 4), int)
    after[0, 1, 1] = 1  # a quarter of the window stays
    after[0, 1, 2] = 2  # a quarter becomes painting
    after[0, 0, :] = 2  # and painting appears outside too
    mask = before == 1
    p0, p1 = outcomes.pixels(before, 3), outcomes.pixels(after, 3)
    i0, i1 = outcomes.inside(before, mask, 3), outcomes.inside(after, mask, 3)
    np.testing.assert_allclose(outcomes.area(p1, 16) - outcomes.area(p0, 16), [[-2 / 16, -3 / 16, 5 / 16]])
    change = outcomes.collateral(p1, i1, 16) - outcomes.collateral(p0, i0, 16)
    np.testing.assert_allclose(change, [[-4 / 16, 0, 4 / 16]])
    np.testing.assert_array_equal(outcomes.emerged(p0, p1, 16, 0.3), [[0, 0, 1]])
    np.testing.assert_array_equal(outcomes.emerged(p0, p1, 16, 0.4), [[0, 0, 0]])
    gone, filled = outcomes.removed(i1, 1), outcomes.inpainted(i1, 1)
    assert gone.numerator / gone.denominator == 3 / 4
    np.testing.assert_allclose(filled.numerator / filled.denominator, [[2 / 4, 0, 1 / 4]])


@given(counts, st.integers(0, 3))
def test_inpainted_sums_to_removed(inside, target):
    gone, filled = outcomes.removed(inside, target), outcomes.inpainted(inside, target)
    np.testing.assert_array_equal(filled.numerator.sum(-1), gone.numerator)
    np.testing.assert_array_equal(filled.denominator, gone.denominator)


@given(counts, counts)
def test_nothing_emerges_that_was_there(before, after):
    emerged = outcomes.emerged(before, after, 100, 0.1)
    assert set(np.unique(emerged)) <= {0.0, 1.0}
    assert not emerged[before >= 10].any()
    assert not outcomes.emerged(before, before, 100, 0.1).any()


def test_arguments_are_left_as_they_were():
    inside = np.arange(12).reshape(3, 4)
    kept = inside.copy()
    outcomes.inpainted(inside, 1)
    np.testing.assert_array_equal(inside, kept)
